#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""convert against qemu-img: what it says and answers, called alike on copies of one directory; random chains with
random options, whose results qemu-img compares and checks; and what is left when it is killed, interrupted, or
meets a full disk or a damaged source."""
import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import interop_lib as lib
from chain_maker import ChainMaker
from interop_lib import Mismatch

MIB = 1 << 20
Q = "a.qcow2"

# Calls; "~" before one: what standard error says is the library's own. "x" is looked at afterwards.
CALLS = [
    "", Q, f"-O foo {Q} x", f"~-f foo {Q} x", "~nofile x", f"~-O qcow2 {Q} nodir/x", f"-O qcow2 {Q} x",
    f"~-O qcow2 -o cluster_size=4k,extended_l2=on {Q} x", f"-O qcow2 -o cluster_size=16k,extended_l2=on {Q} x",
    f"-O qcow2 -o foo=bar {Q} x", f"~-O qcow2 -o cluster_size=3k {Q} x", f"-O qcow2 -o size=512k {Q} x",
    f"-O qcow2 -o size=2M {Q} x", f"-O qcow2 -o preallocation=metadata {Q} x",
    f"-O qcow2 -o preallocation=full {Q} x", f"-O raw -o preallocation=falloc {Q} x",
    f"-O qcow2 -o compat=0.10 {Q} x", f"~-O qcow2 -o compat=0.10,compression_type=zstd {Q} x",
    f"-O qcow2 -o backing_file=b.qcow2 {Q} x", f"-O qcow2 -o backing_file=b.qcow2,backing_fmt=qcow2 {Q} x",
    f"-O qcow2 -B b.qcow2 {Q} x", f"-O qcow2 -B b.qcow2 -F qcow2 {Q} x", f"-O qcow2 -B e.raw -F raw {Q} x",
    f"~-O qcow2 -F qcow2 {Q} x", f"-O raw -B b.qcow2 -F qcow2 {Q} x", f"-O raw -F qcow2 {Q} x",
    f"-c -O raw {Q} x", f"-c {Q} x", f"-c -O qcow2 {Q} x", f"-c -O qcow2 -o compression_type=zstd {Q} x",
    f"-c -O qcow2 -o preallocation=full {Q} x", f"-c -C -O qcow2 {Q} x", f"-S 4k -C {Q} x",
    f"-C --salvage {Q} x", f"-C {Q} x", f"-S 0 {Q} x", f"-S 0 -O qcow2 {Q} x", f"-S 64k -O qcow2 {Q} x",
    f"-S 100 {Q} x", f"-S 17M {Q} x", f"-S x {Q} x", f"-m 0 {Q} x", f"-m 17 {Q} x", f"-m x {Q} x",
    f"-m 1 -W {Q} x", f"-r x {Q} x", f"-r 1G {Q} x", f"-T foo {Q} x", f"-t none -T none {Q} x",
    f"-t writethrough -O qcow2 {Q} x", f"-t directsync -O qcow2 {Q} x", f"~-l nope {Q} x", f"-l s1 {Q} x",
    f"-l snapshot.name=s1 -O qcow2 {Q} x", f"~-l snapshot.foo=s1 {Q} x", "~-l s1 r.raw x",
    f"~-n {Q} nofile", f"-n {Q} e.raw", f"-n -O qcow2 {Q} e.qcow2", f"-n -O qcow2 --target-is-zero {Q} e.qcow2",
    f"-n -O qcow2 {Q} eb.qcow2", f"-n -O qcow2 -c {Q} e.qcow2", f"-n -c {Q} e.raw", f"-n {Q} small.raw",
    f"~-n -O qcow2 {Q} e.raw", f"-n -o size=1M {Q} e.raw", f"~-n -O foo {Q} e.raw",
    f"-n -B b.qcow2 -F qcow2 -O qcow2 {Q} e.qcow2", f"--target-is-zero {Q} x",
    f"--target-image-opts {Q} driver=qcow2,file.filename=e.qcow2",
    f"--target-image-opts -n {Q} driver=qcow2,file.filename=e.qcow2",
    f"--target-image-opts -n -O raw {Q} driver=qcow2,file.filename=e.qcow2", f"~--target-image-opts -n {Q} foo",
    f"--image-opts driver=qcow2,file.filename={Q} x", f"--image-opts -f qcow2 driver=qcow2,file.filename={Q} x",
    f"--bitmaps -O qcow2 {Q} x", "--bitmaps -O qcow2 r.raw x", f"--bitmaps -O qcow2 -n {Q} e.qcow2",
    f"--bitmaps -O qcow2 -o size=2M {Q} x", "--bitmaps -O qcow2 broken.qcow2 x",
    "--skip-broken-bitmaps --bitmaps -O qcow2 broken.qcow2 x", "--skip-broken-bitmaps -O qcow2 broken.qcow2 x",
    f"~-O qcow2 {Q} {Q}", "~r.raw r.raw", f"~-O qcow2 {Q} b.qcow2", f"~{Q} r.raw r.raw", f"-p -q {Q} x",
    f"-U {Q} x", "~-o help -O foo", f"{Q} r.raw x", f"-O qcow2 {Q} r.raw {Q} x",
    f"-O qcow2 -B b.qcow2 -F qcow2 {Q} r.raw x", f"-l s1 {Q} {Q} x", f"--bitmaps -O qcow2 {Q} r.raw x",
    f"~{Q} nofile x", f"-n {Q} r.raw e.raw", f"-x {Q} x", "-O", f"-O qcow2 -o refcount_bits=1,lazy_refcounts=on {Q} x",
    f"~-O raw {Q} .", f"--salvage {Q} x", "-O qcow2 v2.qcow2 x"]


def sh(cwd, *args):
    subprocess.run(args, cwd=cwd, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)


def make(cwd):
    def img(*args):
        sh(cwd, "qemu-img", *args)

    def io(name, *commands):
        sh(cwd, "qemu-io", "-f", name.split(".")[1], *[w for c in commands for w in ("-c", c)], name)

    img("create", "-q", "-f", "qcow2", "b.qcow2", "1M")
    io("b.qcow2", "write -P 1 0 300k")
    img("create", "-q", "-f", "qcow2", "-b", "b.qcow2", "-F", "qcow2", Q)
    io(Q, "write -P 1 200k 300k", "write -P 2 600k 5k", "write -z 64k 64k")
    img("snapshot", "-c", "s1", Q)
    io(Q, "write -P 9 0 200k")
    img("bitmap", "--add", Q, "b0")
    img("bitmap", "--add", "--disable", "-g", "4k", Q, "b1")
    io(Q, "write -P 8 700k 70k")
    for fmt in ("qcow2", "raw"):
        img("create", "-q", "-f", fmt, "e." + fmt, "1M")
    img("create", "-q", "-f", "raw", "r.raw", "1M")
    io("r.raw", "write -P 7 100k 100k")
    img("create", "-q", "-f", "raw", "small.raw", "100k")
    img("create", "-q", "-f", "qcow2", "-b", "r.raw", "-F", "raw", "eb.qcow2", "1M")
    img("create", "-q", "-f", "qcow2", "-o", "compat=0.10", "v2.qcow2", "1M")
    img("create", "-q", "-f", "qcow2", "broken.qcow2", "1M")
    img("bitmap", "--add", "broken.qcow2", "bad")
    with open(os.path.join(cwd, "broken.qcow2"), "r+b") as f:  # the directory's only entry: in use
        head = f.read(4096)
        at = int.from_bytes(head[100:104], "big")
        while head[at:at + 4] != b"\x23\x85\x28\x75":
            at += 8 + (int.from_bytes(head[at + 4:at + 8], "big") + 7) // 8 * 8
        f.seek(int.from_bytes(head[at + 24:at + 32], "big") + 12)
        f.write(b"\0\0\0\1")


def call(argv, cwd):
    r = subprocess.run(argv, cwd=cwd, capture_output=True, check=False, timeout=120, stdin=subprocess.DEVNULL)
    return r.returncode, r.stdout.decode(errors="replace"), r.stderr.decode(errors="replace")


def check_call(args, root, template, text):
    dirs = [os.path.join(root, d) for d in ("ours", "theirs")]
    own_words = text.startswith("~")
    words = text.lstrip("~").split()
    said = []
    for d, tool in zip(dirs, (os.path.join(args.bin, "qchain"), "qemu-img")):
        shutil.rmtree(d, ignore_errors=True)
        shutil.copytree(template, d)
        said.append(call([tool, "convert", *words], d))
    ours, theirs = said
    mine = ours[2].replace("qchain-convert", "qemu-img").replace("qchain", "qemu-img")
    if ours[:2] != theirs[:2] or (bool(mine) != bool(theirs[2]) if own_words else mine != theirs[2]):
        raise Mismatch(f"convert {text}: exit {ours[0]}, qemu-img {theirs[0]}\n{ours[1]}{ours[2]}---\n"
                       f"{theirs[1]}{theirs[2]}")
    if ours[0] != 0 and sorted(os.listdir(dirs[0])) != sorted(os.listdir(template)):
        raise Mismatch(f"convert {text}: failed, and left {sorted(os.listdir(dirs[0]))}")
    same_results(text, template, *dirs)


def untouched(name, template, *dirs):
    """Copies keep the time of what they are copies of."""
    was = os.path.join(template, name)
    return os.path.exists(was) and all(
        os.stat(os.path.join(d, name)).st_mtime_ns == os.stat(was).st_mtime_ns for d in dirs)


def same_results(text, template, ours, theirs):
    for name in sorted(os.listdir(ours)):
        if untouched(name, template, ours, theirs):
            continue
        path = os.path.join(ours, name)
        if name == "x" and not os.path.exists(os.path.join(theirs, name)):
            raise Mismatch(f"convert {text}: qemu-img makes no {name}")
        infos = [json.loads(subprocess.check_output(["qemu-img", "info", "--output=json", name], cwd=d))
                 for d in (ours, theirs)]
        a, b = ({k: i.get(k) for k in ("virtual-size", "cluster-size", "format", "format-specific",
                                       "full-backing-filename", "backing-filename-format")} for i in infos)
        for i in (a, b):
            bitmaps = ((i.get("format-specific") or {}).get("data") or {}).get("bitmaps")
            if bitmaps:
                bitmaps.sort(key=lambda x: x["name"])
        if a != b:
            raise Mismatch(f"convert {text}: {name} is\n{a}\nby qemu-img\n{b}")
        sh(ours, "qemu-img", "compare", "-q", name, os.path.join(theirs, name))
        if a["format"] == "qcow2":
            sh(ours, "qemu-img", "check", "-q", path)


# --------------------------------------------------------------------- random ---

def qcow2_options(rng, compress, size):
    o = {"cluster_size": rng.choice((512, 4096, 65536, 65536, 65536, 1 << 20, 2 << 20))}
    if size > 256 * MIB:
        o["cluster_size"] = max(o["cluster_size"], 65536)
    if rng.random() < 0.15:
        o["compat"] = "0.10"
    else:
        if rng.random() < 0.3:
            o["compression_type"] = "zstd"
        if rng.random() < 0.2:
            o["refcount_bits"] = rng.choice((8, 16, 32, 64))
        if rng.random() < 0.25 and o["cluster_size"] >= 16384:
            o["extended_l2"] = "on"
        if rng.random() < 0.2:
            o["lazy_refcounts"] = "on"
    if not compress and rng.random() < 0.2 and size <= 64 * MIB:
        o["preallocation"] = rng.choice(("metadata", "falloc", "full"))
    return o


class Random:
    def __init__(self, args, seed, root):
        self.args, self.seed = args, seed
        self.rng = random.Random(f"convert-{seed}")
        self.dir = os.path.join(root, "chain")
        os.mkdir(self.dir)
        self.runner = lib.Runner(self.dir)
        self.maker = ChainMaker(self.rng, self.runner)

    def tool(self, *argv, **kw):
        more = ["--trust"] if self.maker.needs_trust else []
        return self.runner.run([os.path.join(self.args.bin, "qchain"), "convert", *more, *argv], **kw)

    def common(self):
        rng, argv = self.rng, []
        for one, p in ((["-W"], 0.3), (["-m", str(rng.randint(1, 16))], 0.3), (["-q"], 0.2), (["-U"], 0.1),
                       (["-t", rng.choice(("none", "writeback", "unsafe", "directsync", "writethrough"))], 0.4),
                       (["-T", rng.choice(("none", "writeback"))], 0.2), (["--salvage"], 0.1),
                       (["--threads", str(rng.randint(1, 5))], 0.4)):
            if rng.random() < p:
                argv += one
        return argv

    def run(self):
        self.maker.make()
        self.top = self.maker.layers[-1]
        info = self.runner.json(["qemu-img", "info", "--output=json", "-f", self.top.fmt, self.top.arg])
        self.size = info["virtual-size"]
        self.runner.run(["qemu-img", "convert", "-f", self.top.fmt, "-O", "raw", self.top.arg, "oracle.img"])
        before = sorted(os.listdir(self.dir))
        for one in (self.plain, self.backing, self.existing, self.plain, self.joined, self.snapshot):
            for name in one():
                os.unlink(os.path.join(self.dir, name))
            if sorted(os.listdir(self.dir)) != before:
                raise Mismatch(f"left behind: {set(os.listdir(self.dir)) ^ set(before)}")

    def verify(self, name, fmt, want="oracle.img", want_fmt="raw"):
        self.runner.run(["qemu-img", "compare", "-f", want_fmt, "-F", fmt, want, name])
        if fmt == "qcow2":
            self.runner.run(["qemu-img", "check", "-f", "qcow2", name])

    def plain(self):
        rng = self.rng
        fmt = rng.choice(("raw", "qcow2", "qcow2"))
        compress = fmt == "qcow2" and rng.random() < 0.35
        argv = ["-f", self.top.fmt, "-O", fmt, *self.common(), *(["-c"] if compress else [])]
        o = qcow2_options(rng, compress, self.size) if fmt == "qcow2" else {}
        data = fmt == "qcow2" and not compress and rng.random() < 0.1 and "compat" not in o
        if data:
            o.pop("preallocation", None)
            o["data_file"] = "out.data"
        if o:
            argv += ["-o", ",".join(f"{k}={v}" for k, v in o.items())]
        if rng.random() < 0.3 and (self.size <= 64 * MIB or compress):
            argv += ["-S", rng.choice(("0", "512", "4k", "64k", "1M"))]
        elif not compress and "--salvage" not in argv and rng.random() < 0.3:
            argv += ["-C"]
        if rng.random() < 0.3:  # a file that is replaced
            with open(os.path.join(self.dir, "out.img"), "wb") as f:
                f.write(rng.randbytes(rng.randint(0, 100000)))
        self.tool(*argv, self.top.arg, "out.img")
        self.verify("out.img", fmt)
        if fmt == "qcow2":
            info = self.runner.json(["qemu-img", "info", "--output=json", "-f", fmt, "out.img"])
            if info["cluster-size"] != o["cluster_size"] or info["virtual-size"] != self.size:
                raise Mismatch(f"{argv}: {info}")
        return ["out.img"] + (["out.data"] if data else [])

    def backing(self):
        layers, rng = self.maker.layers, self.rng
        if len(layers) < 2 or self.size == 0:
            return []
        below = rng.choice(layers[:-1])
        compress = rng.random() < 0.3
        o = qcow2_options(rng, True, self.size)
        argv = ["-f", self.top.fmt, "-O", "qcow2", *self.common(), *(["-c"] if compress else []),
                "-B", below.arg, "-F", below.fmt, "-o", ",".join(f"{k}={v}" for k, v in o.items())]
        self.tool("--trust", *argv, self.top.arg, "./out.img")
        self.verify("out.img", "qcow2")
        return ["out.img"]

    def existing(self):
        """What it held before shows nowhere."""
        rng = self.rng
        fmt = rng.choice(("raw", "qcow2"))
        over = fmt == "qcow2" and rng.random() < 0.5 and self.size > 0
        size = self.size + rng.choice((0, 0, 512, MIB))
        argv = ["qemu-img", "create", "-q", "-f", fmt]
        if over:
            argv += ["-b", "below.img", "-F", "raw"]
            with open(os.path.join(self.dir, "below.img"), "wb") as f:
                f.write(rng.randbytes(100000))
                f.truncate(size)
        if fmt == "qcow2":
            argv += ["-o", "compat=" + rng.choice(("0.10", "1.1"))]
        self.runner.run([*argv, "out.img", str(size)])
        commands = ""
        for _ in range(rng.randint(0, 6)):
            n = rng.randrange(1, 300000)
            if n < self.size:
                commands += f"write -P {rng.randint(1, 255)} {rng.randrange(0, self.size - n) // 512 * 512} " \
                            f"{n // 512 * 512 + 512}\n"
        if commands:
            self.runner.run(["qemu-io", "-f", fmt, "out.img"], stdin=commands, ok=None)
        tail = self.tail(fmt, size)
        argv = ["-n", "-f", self.top.fmt, "-O", fmt, *self.common()]
        if fmt == "qcow2" and rng.random() < 0.3:
            argv += ["-c"]
        self.tool(*argv, self.top.arg, "out.img")
        self.runner.run(["qemu-img", "convert", "-f", fmt, "-O", "raw", "out.img", "flat.img"])
        os.truncate(os.path.join(self.dir, "flat.img"), self.size)
        self.verify("flat.img", "raw")
        if fmt == "qcow2":
            self.runner.run(["qemu-img", "check", "-f", "qcow2", "out.img"])
        if self.tail(fmt, size) != tail:
            raise Mismatch("what lies beyond the source's end was changed")
        return ["out.img", "flat.img"] + (["below.img"] if over else [])

    def tail(self, fmt, size):
        if size == self.size:
            return b""
        return self.runner.run(["qemu-io", "-r", "-f", fmt, "-c", f"read -v {self.size} {min(size - self.size, 4096)}",
                                "out.img"])[1].split(b"\nread")[0]

    def joined(self):
        fmt = self.rng.choice(("raw", "qcow2"))
        if self.size > 64 * MIB:
            return []
        self.tool("-f", self.top.fmt, "-O", fmt, *self.common(), self.top.arg, self.top.arg, "out.img")
        self.runner.run(["qemu-img", "convert", "-f", self.top.fmt, "-O", "raw", self.top.arg, self.top.arg,
                         "want.img"])
        self.verify("out.img", fmt, "want.img")
        return ["out.img", "want.img"]

    def snapshot(self):
        if not self.top.snapshots:
            return []
        name = self.rng.choice(self.top.snapshots)
        argv = ["-f", self.top.fmt, "-l", f"snapshot.name={name}", "-O"]
        fmt = self.rng.choice(("raw", "qcow2"))
        self.tool(*argv, fmt, self.top.arg, "out.img")
        self.runner.run(["qemu-img", "convert", *argv, "raw", self.top.arg, "want.img"])
        self.verify("out.img", fmt, "want.img")
        return ["out.img", "want.img"]


# ------------------------------------------------------------------------ ends ---

def make_source(root):
    d = os.path.join(root, "ends")
    os.mkdir(d)
    with open(os.path.join(d, "base.raw"), "wb") as f:
        f.write(os.urandom(24 * MIB).translate(bytes(i & 15 for i in range(256))))  # can be compressed
    sh(d, "qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "top.qcow2")
    sh(d, "qemu-io", "-f", "qcow2", "-c", "write -P 5 1M 3M", "top.qcow2")
    sh(d, "qemu-img", "convert", "-O", "raw", "top.qcow2", "flat.raw")
    return d


def litter(d):
    return [n for n in os.listdir(d) if n.startswith(".out")]


def clean(d):
    for name in litter(d) + ["out"]:
        if os.path.exists(os.path.join(d, name)):
            os.unlink(os.path.join(d, name))


def check_kill(args, d, rng, number):
    """Killed at any time: the old target, or none, or the new one; interrupted: nothing else is left."""
    clean(d)
    fmt, old = rng.choice(("raw", "qcow2")), rng.random() < 0.5
    existing = old and rng.random() < 0.3
    out = os.path.join(d, "out")
    if old:
        sh(d, "qemu-img", "create", "-q", "-f", fmt, "out", "24M")
        shutil.copyfile(out, os.path.join(d, "old"))
    p = subprocess.Popen([os.path.join(args.bin, "qchain-convert"), *(["-n"] if existing else []), "-r", "60M", "-O",
                          fmt, *(["-c"] if fmt == "qcow2" and rng.random() < 0.3 else []), "top.qcow2", "out"], cwd=d)
    time.sleep(rng.random() * 0.6)
    p.send_signal(number)
    status = p.wait(timeout=60)
    left = litter(d)
    if number == signal.SIGINT and (left or status not in (0, 130, -2)):
        raise Mismatch(f"SIGINT: exit {status}, left {left}")
    if existing:
        if fmt == "qcow2" and subprocess.run(["qemu-img", "check", "-q", out], check=False).returncode not in (0, 3):
            raise Mismatch(f"{number}: the target is damaged")
    elif os.path.exists(out):
        was = ("flat.raw", "old") if old else ("flat.raw",)
        if all(call(["qemu-img", "compare", "-f", "raw" if w == "flat.raw" else fmt, "-F", fmt, w, "out"], d)[0]
               for w in was):
            raise Mismatch(f"{number}: {fmt}, exit {status}, neither the old target nor the new one")
    elif old:
        raise Mismatch(f"{number}: exit {status}, the old target is gone")


def check_full(args, d):
    """No space: it says so, and gives back what it took."""
    full = os.path.join(d, "full")
    os.mkdir(full)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8M", "tmpfs", full], capture_output=True,
                      check=False).returncode != 0:
        print("SKIP: a full disk: a tmpfs cannot be mounted")
        return
    try:
        for argv in (["-O", "raw"], ["-O", "qcow2"], ["-O", "qcow2", "-c"], ["-O", "qcow2", "-t", "writeback"]):
            status, _, err = call([os.path.join(args.bin, "qchain"), "convert", *argv, "top.qcow2", "full/out"], d)
            if status != 1 or "No space left" not in err or os.listdir(full):
                raise Mismatch(f"full disk, {argv}: exit {status}, left {os.listdir(full)}: {err}")
        sh(d, "qemu-img", "create", "-q", "-f", "qcow2", "full/out", "24M")
        status, _, err = call([os.path.join(args.bin, "qchain"), "convert", "-n", "-O", "qcow2", "top.qcow2", "full/out"], d)
        if status != 1 or "No space left" not in err:
            raise Mismatch(f"full disk, -n: exit {status}: {err}")
    finally:
        sh(d, "umount", full)


def check_damaged(args, d):
    """A source that cannot be read: no target; with --salvage what is sound is there."""
    sh(d, "qemu-img", "convert", "-c", "-O", "qcow2", "flat.raw", "bad.qcow2")
    sh(d, "qemu-io", "-f", "raw", "-c", "write -P 255 2M 64k", "bad.qcow2")
    tool = os.path.join(args.bin, "qchain")
    clean(d)
    for fmt in ("raw", "qcow2"):
        status, _, err = call([tool, "convert", "-O", fmt, "bad.qcow2", "out"], d)
        if status != 1 or not err or os.path.exists(os.path.join(d, "out")) or litter(d):
            raise Mismatch(f"damaged source: exit {status}: {err}")
        status, _, err = call([tool, "convert", "--salvage", "-O", fmt, "bad.qcow2", "out"], d)
        if status != 0 or "could not be read" not in err:
            raise Mismatch(f"--salvage: exit {status}: {err}")
        lost = int(re.search(r"(\d+) bytes", err).group(1))
        sh(d, "qemu-img", "convert", "-O", "raw", "out", "got.raw")
        with open(os.path.join(d, "got.raw"), "rb") as f, open(os.path.join(d, "flat.raw"), "rb") as g:
            got, want = f.read(), g.read()
        wrong = [i for i in range(0, len(want), 4096) if got[i:i + 4096] != want[i:i + 4096]]
        zeros = [i for i in wrong if not got[i:i + 4096].strip(b"\0")]  # the rest: streams that end well by chance
        if len(got) != len(want) or not zeros or 4096 * len(zeros) > lost or len(wrong) > len(zeros) + 32:
            raise Mismatch(f"--salvage: {len(wrong)} blocks differ, {lost} bytes are said to be lost")
        os.unlink(os.path.join(d, "out"))


# ------------------------------------------------------------------------ main ---

def attempts(args, root):
    """All there is to do: a name, and a call."""
    template = os.path.join(root, "template")
    os.mkdir(template)
    make(template)
    for text in CALLS if args.part in ("all", "calls") else ():
        yield "call", lambda text=text: check_call(args, root, template, text)
    for seed in range(args.seed, args.seed + args.chains) if args.part in ("all", "random") else ():
        yield f"seed {seed}", lambda seed=seed: Random(args, seed, root).run()
    if args.part not in ("all", "ends"):
        return
    d = make_source(root)
    rng = random.Random(args.seed)
    for number in (signal.SIGKILL, signal.SIGINT) * lib.share(8):
        yield f"{number!r}", lambda number=number: check_kill(args, d, rng, number)
    yield "full disk", lambda: check_full(args, d)
    yield "damaged source", lambda: check_damaged(args, d)


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--bin", default=lib.default_bin())
    p.add_argument("--hammer", help="given to every test of this directory; not used here")
    p.add_argument("--seed", type=int, default=lib.any_seed() % 1000000)
    p.add_argument("--chains", type=int, default=lib.share(12))
    p.add_argument("--part", choices=("all", "calls", "random", "ends"), default="all")
    args = p.parse_args()
    args.bin = os.path.abspath(args.bin)
    lib.need("qemu-img", "qemu-io", os.path.join(args.bin, "qchain"))
    os.environ.pop("QCHAIN_POLICY", None)
    root = os.path.realpath(tempfile.mkdtemp(prefix="qchain-convert-"))
    print(f"seed {args.seed}")
    done = failed = 0
    for name, attempt in attempts(args, root):
        try:
            attempt()
            done += 1
        except (Mismatch, subprocess.CalledProcessError, subprocess.TimeoutExpired) as e:
            failed += 1
            print(f"FAIL {name}: {e}", flush=True)
        shutil.rmtree(os.path.join(root, "chain"), ignore_errors=True)
    shutil.rmtree(root)
    print(f"convert: {done} checks, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
