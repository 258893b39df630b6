#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""snapshot, bitmap and dd against qemu-img, called alike on copies of one directory: exit codes, what they
say, and the disks they leave. And write, whose result is looked at by itself."""
import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile

import interop_lib as lib
from interop_lib import Mismatch

DATE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
LONG = "n" * 1023
Q = "a.qcow2"

# Runs of calls; "~" before a call: what standard error says is the library's own.
RUNS = [
    ["snapshot a.qcow2", "snapshot -l a.qcow2", "snapshot -c one a.qcow2", "snapshot -c one a.qcow2",
     "snapshot -c two a.qcow2", "snapshot -l a.qcow2", "snapshot -U -l a.qcow2", "snapshot -q -l a.qcow2",
     "snapshot -a nope a.qcow2", "snapshot -d nope a.qcow2", "snapshot -a one a.qcow2", "snapshot -a 3 a.qcow2",
     "snapshot -d one a.qcow2", "snapshot -d 2 a.qcow2", "snapshot -d two a.qcow2", "snapshot -l a.qcow2"],
    ["snapshot -c x -d y a.qcow2", "snapshot -l -c x a.qcow2", "snapshot -l", "snapshot -l a.qcow2 b",
     "~snapshot -l nofile", "~snapshot -c x nofile", "snapshot -x a.qcow2", "snapshot -l r.raw",
     "snapshot -c x r.raw", "snapshot -d x r.raw", "~snapshot -a x r.raw", "snapshot -U -c x a.qcow2",
     "snapshot -c", "snapshot --image-opts -c i driver=qcow2,file.filename=a.qcow2", "snapshot -l a.qcow2"],
    ["bitmap a.qcow2", "bitmap --add a.qcow2", "bitmap --add a.qcow2 b0", "bitmap --add a.qcow2 b0",
     "bitmap --add -g 4k a.qcow2 b1", "bitmap --add --disable a.qcow2 b2", "bitmap --add --enable a.qcow2 b3",
     "bitmap --add -g 3k a.qcow2 b4", "bitmap --add -g 256 a.qcow2 b4", "bitmap --add -g x a.qcow2 b4",
     "bitmap --add -g 4G a.qcow2 b4", "bitmap --add -g 2G a.qcow2 b4", "bitmap --remove a.qcow2 nope",
     "bitmap --clear a.qcow2 nope", "bitmap --enable a.qcow2 nope", "bitmap --disable a.qcow2 nope",
     "bitmap --merge nope a.qcow2 b0", "bitmap --merge b1 a.qcow2 nope", "bitmap --merge b1 a.qcow2 b0",
     "bitmap --clear --merge b1 --disable a.qcow2 b0", "bitmap --enable --disable a.qcow2 b0",
     "bitmap --add --remove a.qcow2 b9", "bitmap --remove --disable a.qcow2 b2", "info a.qcow2"],
    ["bitmap", "bitmap -x", "bitmap -g 4k --clear a.qcow2", "bitmap -b x --clear a.qcow2",
     "bitmap -F raw --merge a a.qcow2", "bitmap --remove a.qcow2 b0 x", "~bitmap --add nofile b",
     "~bitmap --add -f raw r.raw b", "~bitmap --add v2.qcow2 b", f"bitmap --add a.qcow2 {LONG}",
     f"~bitmap --add a.qcow2 {LONG}n", "bitmap --merge b1 -b v2.qcow2 a.qcow2 b3",
     "~bitmap --add --merge b1 -b a.qcow2 a.qcow2 b5",
     "bitmap --image-opts --add driver=qcow2,file.filename=a.qcow2 bb"],
    ["dd", "dd if=a.qcow2", "dd of=x", "~dd if=nofile of=x", "dd foo if=a.qcow2 of=x", "dd foo=bar if=a.qcow2 of=x",
     "dd if=a.qcow2 of=x seek=1", "dd -n if=a.qcow2 of=x", "dd -O foo if=a.qcow2 of=x",
     "~dd -f foo if=a.qcow2 of=x", "dd if=a.qcow2 of=x bs=0", "dd if=a.qcow2 of=x bs=x",
     "dd if=a.qcow2 of=x bs=3G", "dd if=a.qcow2 of=x count=x", "dd if=a.qcow2 of=x skip=x",
     "dd if=a.qcow2 of=x count=-1", "~dd if=a.qcow2 of=nodir/x", "~dd if=a.qcow2 of=a.qcow2"],
] + [[f"dd {call}"] for call in (
    "if=a.qcow2 of=x", "-f qcow2 -O qcow2 if=a.qcow2 of=x", "if=a.qcow2 of=x count=0", "if=a.qcow2 of=x count=1",
    "if=a.qcow2 of=x bs=1000 count=3", "if=a.qcow2 of=x bs=64k count=1 skip=3",
    "if=a.qcow2 of=x bs=64k count=5 skip=2", "if=a.qcow2 of=x bs=1M skip=1", "if=a.qcow2 of=x bs=1M skip=2",
    "if=a.qcow2 of=x bs=700 skip=3 count=1001", "if=a.qcow2 of=x bs=1k bs=2k count=1", "-U if=a.qcow2 of=x count=4G",
    "-f raw if=r.raw of=x -O qcow2 bs=4k", "--image-opts if=driver=qcow2,file.filename=a.qcow2 of=x bs=4k skip=1")]


def sh(cwd, *args):
    subprocess.run(args, cwd=cwd, check=True, stdout=subprocess.DEVNULL)


def make(cwd):
    sh(cwd, "qemu-img", "create", "-q", "-f", "qcow2", Q, "1M")
    sh(cwd, "qemu-io", "-f", "qcow2", "-c", "write -P 1 0 300k", "-c", "write -P 2 600k 5k", Q)
    sh(cwd, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=0.10", "v2.qcow2", "1M")
    sh(cwd, "qemu-img", "create", "-q", "-f", "raw", "r.raw", "100000")


def call(argv, cwd):
    r = subprocess.run(argv, cwd=cwd, capture_output=True, check=False, timeout=60, stdin=subprocess.DEVNULL)
    out = DATE.sub("DATE", r.stdout.decode(errors="replace"))
    return r.returncode, out, r.stderr.decode(errors="replace")


def compare_run(args, root, calls):
    dirs = [os.path.join(root, d) for d in ("ours", "theirs")]
    for d in dirs:
        shutil.rmtree(d, ignore_errors=True)
        os.mkdir(d)
        make(d)
    for text in calls:
        own_words = text.startswith("~")
        words = text.lstrip("~").split(" ")
        theirs = call(["qemu-img", *words], dirs[1])
        ours = call([os.path.join(args.bin, "qchain"), *words], dirs[0])
        said = ours[2].replace("qchain-" + words[0], "qemu-img")
        if words[0] != "info" and (ours[:2] != theirs[:2] or
                                   (bool(said) != bool(theirs[2]) if own_words else said != theirs[2])):
            raise Mismatch(f"{text}: exit {ours[0]}, qemu-img {theirs[0]}\n{ours[1]}{ours[2]}---\n"
                           f"{theirs[1]}{theirs[2]}")
        if words[0] == "info":
            a, b = (re.sub("disk size.*", "", call(["qemu-img", *words], d)[1]) for d in dirs)
            if a != b:
                raise Mismatch(f"{text}\n{a}---\n{b}")
    same_images(calls, *dirs)
    return len(calls)


def same_images(calls, ours, theirs):
    fmt = {Q: "qcow2", "x": "qcow2" if "-O qcow2" in calls[-1] else "raw"}
    for name in sorted(set(os.listdir(ours)) | set(os.listdir(theirs))):
        f = fmt.get(name)
        if not f or (name == "x" and calls[0] == "dd"):
            continue
        for d in (ours, theirs):
            sh(d, "qemu-img", "convert", "-f", f, "-O", "raw", name, name + ".flat")
        lib.same_file(f"{calls}: {name}", *(os.path.join(d, name + ".flat") for d in (ours, theirs)))
        if f == "qcow2":
            sh(ours, "qemu-img", "check", "-q", name)


def check_write(args, root):
    """Bytes at their places, from a file with holes, a pipe, and as zeros; what does not fit is refused."""
    d = os.path.join(root, "write")
    os.mkdir(d)
    make(d)
    tool = os.path.join(args.bin, "qchain-write")
    model = bytearray(b"\1" * 300 * 1024).ljust(1 << 20, b"\0")
    model[600 * 1024:605 * 1024] = b"\2" * 5120
    with open(os.path.join(d, "in"), "wb") as f:
        f.truncate(400000)
        f.seek(200000)
        f.write(b"x" * 1000)
    data = open(os.path.join(d, "in"), "rb").read()
    for argv, stdin, status, at, put in (
            (["--offset", "1000", Q, "in"], b"", 0, 1000, data),
            (["--offset", "500k", "--length", "700", "-f", "qcow2", Q], b"z" * 5000, 0, 512000, b"z" * 700),
            (["--offset", "3", "--length", "100k", "--zeroes", "-t", "none", Q], b"", 0, 3, bytes(102400)),
            (["--offset", "900k", Q, "in"], b"", 1, 0, b""), (["--offset", "1M", Q], b"z", 1, 0, b""),
            (["--offset", "1M", Q], b"", 0, 0, b""), ([Q, "nofile"], b"", 1, 0, b""),
            (["nofile", "in"], b"", 1, 0, b""), (["--offset", "x", Q], b"", 2, 0, b""),
            (["--zeroes", Q], b"", 2, 0, b""), ([], b"", 2, 0, b""), (["-U", Q, "in"], b"", 1, 0, b""),
            (["-t", "foo", Q], b"", 2, 0, b"")):
        r = subprocess.run([tool, *argv], cwd=d, input=stdin, capture_output=True, check=False, timeout=60)
        if r.returncode != status or bool(r.stderr) != bool(status):
            raise Mismatch(f"write {argv}: exit {r.returncode}, wanted {status}: {r.stderr.decode()}")
        model[at:at + len(put)] = put
    sh(d, "qemu-img", "check", "-q", Q)
    sh(d, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", Q, "flat")
    lib.same_bytes("write", open(os.path.join(d, "flat"), "rb").read(), bytes(model), 0)
    return 13


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--bin", default=lib.default_bin())
    p.add_argument("--hammer", help="given to every test of this directory; not used here")
    args = p.parse_args()
    args.bin = os.path.abspath(args.bin)
    lib.need("qemu-img", "qemu-io", os.path.join(args.bin, "qchain"))
    os.environ.pop("QCHAIN_POLICY", None)
    root = os.path.realpath(tempfile.mkdtemp(prefix="qchain-write-"))
    done = failed = 0
    for run in RUNS + [None]:
        try:
            done += compare_run(args, root, run) if run else check_write(args, root)
        except (Mismatch, subprocess.CalledProcessError, subprocess.TimeoutExpired) as e:
            failed += 1
            print(f"FAIL {e}")
    shutil.rmtree(root)
    print(f"write tools: {done} calls, {failed} runs failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
