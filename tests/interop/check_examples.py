#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The examples do what they say, and say what went wrong."""
import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile

import interop_lib as lib
from interop_lib import Mismatch
from range_server import serving

MIB = 1 << 20
KEY = 0x5A


def make_images(runner):
    """A chain of a raw and two qcow2 layers, and what it reads as."""
    with open(os.path.join(runner.cwd, "base.raw"), "wb") as f:
        f.write(random.Random(1).randbytes(3 * MIB + 1024))
    runner.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw",
                "middle.qcow2", "40M"])
    runner.run(["qemu-io", "-c", "write -P 7 1M 100k", "-c", "write -z 2M 64k", "middle.qcow2"])
    runner.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", "middle.qcow2", "-F", "qcow2",
                "top.qcow2"])
    runner.run(["qemu-io", "-c", "write -P 9 30M 1000k", "top.qcow2"])
    runner.run(["qemu-img", "create", "-q", "-f", "qcow2", "none.qcow2", "0"])
    runner.run(["qemu-img", "convert", "-O", "raw", "top.qcow2", "top.raw"])
    runner.run(["qemu-img", "convert", "-O", "qcow2", "-c", "top.raw", "packed.qcow2"])
    with open(os.path.join(runner.cwd, "packed.qcow2"), "rb") as f, \
            open(os.path.join(runner.cwd, "secret.qcow2"), "wb") as out:
        out.write(bytes(x ^ KEY for x in f.read()))
    # an L2 table that lies where no cluster begins
    shutil.copy(os.path.join(runner.cwd, "packed.qcow2"), os.path.join(runner.cwd, "broken.qcow2"))
    with open(os.path.join(runner.cwd, "broken.qcow2"), "r+b") as f:
        f.seek(40)
        table = int.from_bytes(f.read(8), "big")
        f.seek(table)
        f.write((1 << 63 | 0x40200).to_bytes(8, "big"))
    with open(os.path.join(runner.cwd, "top.raw"), "rb") as f:
        return f.read()


def check_read(runner, home, want):
    argv = [os.path.join(home, "01-read"), "top.qcow2", str(MIB - 32)]
    lines = runner.run(argv)[1].decode().splitlines()
    got = "".join(line[10:57] + " " for line in lines[1:]).split()
    if lines[0] != f"{40 * MIB} bytes in 3 layers":
        raise Mismatch(f"01-read: {lines[0]}")
    if bytes(int(x, 16) for x in got) != want[MIB - 32:MIB + 32]:
        raise Mismatch(f"01-read: {lines}")


def check_map(runner, home, _):
    lines = runner.run([os.path.join(home, "02-map"), "top.qcow2"])[1].decode().splitlines()
    stored = sum(e["length"] for e in runner.json(["qemu-img", "map", "--output=json", "top.qcow2"])
                 if e["data"])
    if lines[-1] != f"{stored} of {40 * MIB} bytes are stored" or len(lines) < 8:
        raise Mismatch(f"02-map: {lines}, qemu-img finds {stored} bytes")


def check_store(runner, home, want):
    got = runner.run([os.path.join(home, "03-store"), "secret.qcow2", hex(KEY)])[1]
    lib.same_bytes("03-store", got, want, 0)


def check_write(runner, home, want):
    runner.run([os.path.join(home, "07-write"), "packed.qcow2", "made.qcow2"])
    runner.run(["qemu-img", "check", "made.qcow2"])
    for where, first in (([], bytes(4096)), (["-l", "before"], b"x" * 4096)):
        runner.run(["qemu-img", "convert", "-O", "raw", *where, "made.qcow2", "made.raw"])
        with open(os.path.join(runner.cwd, "made.raw"), "rb") as f:
            lib.same_bytes("07-write", f.read(), first + want[4096:], 0)


def raw_of(runner, image):
    runner.run(["qemu-img", "convert", "-O", "raw", image, "of.raw"])
    with open(os.path.join(runner.cwd, "of.raw"), "rb") as f:
        return f.read()


def check_backup(runner, home, _):
    """08 copies all, then what QEMU wrote, then nothing; all again where the last copy is not."""
    runner.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", "top.qcow2", "-F", "qcow2", "live.qcow2"])
    size = 40 * MIB
    for commands, want, name in (((), size, "copy.raw"), (("write -P 4 5M 64k", "write -P 5 39M 300"), 131072, "copy.raw"),
                                 ((), 0, "copy.raw"), (("write -P 6 7M 64k",), size, "other.raw"),
                                 (("write -P 7 8M 64k",), 65536, "other.raw")):
        if commands:
            runner.run(["qemu-io", *(x for c in commands for x in ("-c", c)), "live.qcow2"])
        said = runner.run([os.path.join(home, "08-backup"), "live.qcow2", name])[1].decode()
        if said != f"{want} of {size} bytes were copied\n":
            raise Mismatch(f"08-backup after {commands}: {said!r}, not {want} bytes")
        with open(os.path.join(runner.cwd, name), "rb") as f:
            lib.same_bytes("08-backup", f.read(), raw_of(runner, "live.qcow2"), 0)
    runner.run(["qemu-img", "check", "live.qcow2"])
    if "08-backup" not in runner.run(["qemu-img", "info", "live.qcow2"])[1].decode():
        raise Mismatch("08-backup: qemu-img sees no bitmap")


def check_queue_write(runner, home, want):
    runner.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", "top.qcow2", "-F", "qcow2", "queued.qcow2"])
    data = random.Random(9).randbytes(5 * MIB + 777)
    argv = [os.path.join(home, "09-queue-write"), "queued.qcow2"]
    done = subprocess.run([*argv, str(len(data))], cwd=runner.cwd, input=data, capture_output=True, check=False)
    if done.returncode != 0 or done.stdout != f"{len(data)} bytes are on the medium\n".encode():
        raise Mismatch(f"09-queue-write: {done}")
    runner.run(["qemu-img", "check", "queued.qcow2"])
    lib.same_bytes("09-queue-write", raw_of(runner, "queued.qcow2"), data + want[len(data):], 0)
    for length, said in (("100", b"ends after"), (str(64 * MIB), b"beyond")):
        given = data[:50] if length == "100" else bytes(64 * MIB)
        done = subprocess.run([*argv, length], cwd=runner.cwd, input=given, capture_output=True, check=False)
        if done.returncode != 1 or said not in done.stderr:
            raise Mismatch(f"09-queue-write {length}: {done.returncode}, {done.stderr!r}")


def check_commit(runner, home, want):
    """10 is interrupted in the middle, and loses nothing; then it comes to its end."""
    runner.run(["qemu-img", "create", "-q", "-f", "qcow2", "below.qcow2", "40M"])
    runner.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", "below.qcow2", "-F", "qcow2", "above.qcow2"])
    with open(os.path.join(runner.cwd, "top.raw"), "rb") as f:
        subprocess.run([os.path.join(home, "09-queue-write"), "above.qcow2", str(4 * MIB)], cwd=runner.cwd, stdin=f,
                       capture_output=True, check=True)
    want = want[:4 * MIB].ljust(40 * MIB, b"\0")
    argv = [os.path.join(home, "10-commit"), "above.qcow2"]
    with subprocess.Popen([*argv, "100000"], cwd=runner.cwd, stderr=subprocess.PIPE, text=True) as program:
        first = program.stderr.readline()
        program.send_signal(signal.SIGINT)
        rest = program.stderr.read()
    if program.returncode != 130 or "interrupted" not in rest or not re.match(r"\d+ of \d+ bytes$", first):
        raise Mismatch(f"10-commit: exit {program.returncode}, {first!r}, {rest!r}")
    lib.same_bytes("10-commit, interrupted", raw_of(runner, "above.qcow2"), want, 0)
    copied = int(runner.run(argv)[1].split()[0])
    stored = [e for e in runner.json(["qemu-img", "map", "--output=json", "below.qcow2"]) if e["data"]]
    if not 0 < copied <= sum(e["length"] for e in stored):
        raise Mismatch(f"10-commit: {copied} bytes copied, {stored}")
    lib.same_bytes("10-commit", raw_of(runner, "below.qcow2"), want, 0)
    runner.run(["qemu-img", "check", "below.qcow2"])
    status, _, err = runner.run([argv[0], "below.qcow2"], ok=None)
    if status != 1 or "backing" not in err:
        raise Mismatch(f"10-commit of a base: {status}, {err}")


def check_prefetch(runner, home, _):
    """11 records, fetches what it recorded, and then needs no server."""
    argv = [os.path.join(home, "11-prefetch")]
    with serving(runner.cwd) as (url, asked):
        def start(cache):
            out = runner.run([*argv, url + "packed.qcow2", cache, "boot.qctrace"], env={"NO_PROXY": "*"})[1].decode()
            return out, int(re.search(r"started: (\d+) requests", out)[1])

        out, cold = start("cache-a")
        if cold < 5 or "prefetched" in out:
            raise Mismatch(f"11-prefetch, recording: {out}")
        records = runner.json([os.path.join(os.path.dirname(home), "bin", "qchain"), "trace", "show", "--output=json",
                               "boot.qctrace"])
        if sum(r["reads"] for r in records) != 64:
            raise Mismatch(f"11-prefetch: {records}")
        out, warm = start("cache-b")
        fetched = int(re.search(r"prefetched: (\d+) bytes by [1-9]", out)[1])
        if warm != 0 or fetched == 0:
            raise Mismatch(f"11-prefetch, replaying: {out}")
        before = len(asked)
        out, warm = start("cache-b")
        if warm != 0 or " 0 bytes by 0 requests" not in out or len(asked) - before > 2:
            raise Mismatch(f"11-prefetch, again: {out}, {len(asked) - before} requests")


def check_refused(runner, home, _):
    program = os.path.join(home, "12-refused")
    there = os.path.join(runner.cwd, "elsewhere")
    os.mkdir(there)
    shutil.copy(os.path.join(runner.cwd, "packed.qcow2"), there)
    runner.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", os.path.join(there, "packed.qcow2"), "-F", "qcow2",
                "elsewhere/../out.qcow2"])
    os.mkdir(os.path.join(runner.cwd, "tops"))
    os.rename(os.path.join(runner.cwd, "out.qcow2"), os.path.join(runner.cwd, "tops", "out.qcow2"))
    named = f"layer 0 names its backing file '{there}/packed.qcow2'\n"
    for argv, status, out, words in (
            (["tops/out.qcow2"], 1, named, ("--allow-path", "code: ACCESS, layer: 0", "administrator")),
            (["tops/out.qcow2", there], 0, named + f"2 layers, {40 * MIB} bytes\n", ()),
            (["tops/out.qcow2", "no-such-dir"], 1, "", ("code: NOTFOUND",)),
            (["nothing.qcow2"], 1, "", ("code: NOTFOUND", "missing layer")),
            (["broken.qcow2"], 0, f"1 layers, {40 * MIB} bytes\n", ())):
        got, said, err = runner.run([program, *argv], ok=None)
        if got != status or said.decode() != out or not all(w in err for w in words):
            raise Mismatch(f"12-refused {argv}: exit {got}, {said!r}, {err!r}")


def check_count(runner, home, want):
    """04 and 05 count the bytes that are not zero, with as many threads as there may be."""
    nonzero = len(want) - want.count(0)
    said = f"{nonzero} of {len(want)} bytes are not zero\n".encode()
    ways = [["04-epoll"]] + [["05-threads", threads] for threads in ("1", "3", "64")]
    for program, *rest in ways:
        for image in ("top.qcow2", "packed.qcow2"):
            got = runner.run([os.path.join(home, program), image, *rest])[1]
            if got != said:
                raise Mismatch(f"{program} {image}: {got!r}, not {said!r}")
        got = runner.run([os.path.join(home, program), "none.qcow2", *rest])[1]
        if got != b"0 of 0 bytes are not zero\n":
            raise Mismatch(f"{program} of nothing: {got!r}")


def check_timer(runner, home, _):
    """The other descriptor of 04's loop is served too: a disk that takes a while."""
    runner.run(["qemu-img", "create", "-q", "-f", "qcow2", "large.qcow2", "512M"])
    _, out, err = runner.run([os.path.join(home, "04-epoll"), "large.qcow2"])
    if out != f"0 of {512 * MIB} bytes are not zero\n".encode():
        raise Mismatch(f"04-epoll: {out!r}")
    lines = err.splitlines()
    if not lines or not all(x.endswith(f" of {512 * MIB} bytes") for x in lines):
        raise Mismatch(f"04-epoll: no word from the timer: {err!r}")


def check_errors(runner, home, _):
    for program in ("01-read", "02-map", "04-epoll", "05-threads"):
        argv = [os.path.join(home, program)]
        for image, words in (("nothing-here.qcow2", "cannot open"), ("broken.qcow2", "layer #0")):
            status, out, err = runner.run(argv + [image], ok=None)
            if status != 1 or words not in err or b"not zero" in out:
                raise Mismatch(f"{program} {image}: exit {status}, {out!r}, {err!r}")
        if runner.run(argv, ok=None)[0] != 2:
            raise Mismatch(f"{program} without an image")
    for threads in ("0", "65", "x"):
        if runner.run([os.path.join(home, "05-threads"), "top.qcow2", threads], ok=None)[0] != 2:
            raise Mismatch(f"05-threads with {threads} threads")


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--bin", default=lib.default_bin(), help="the examples are beside it")
    p.add_argument("--hammer", help="not used")
    args = p.parse_args()
    home = os.path.join(os.path.dirname(os.path.abspath(args.bin)), "examples")
    lib.need("qemu-img", "qemu-io", os.path.join(home, "01-read"))
    directory = tempfile.mkdtemp(prefix="qchain-examples-")
    runner = lib.Runner(directory)
    checks = (check_read, check_map, check_store, check_write, check_backup, check_queue_write, check_commit, check_prefetch,
              check_refused, check_count, check_timer, check_errors)
    failed = 0
    try:
        want = make_images(runner)
        for check in checks:
            try:
                check(runner, home, want)
            except Mismatch as e:
                failed += 1
                print(f"FAIL {check.__name__}: {e}")
    finally:
        shutil.rmtree(directory)
    print(f"examples: {len(checks)} checks, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
