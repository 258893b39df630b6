#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Locks, against QEMU's own: a writer shuts us out, we shut a writer out; forks."""
import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile

import interop_lib as lib
from interop_lib import Mismatch

LAYERS = ("top.qcow2", "middle.qcow2")
RAW = "base.raw"  # QEMU shares raw images with writers, guests may do so; so do we


class Writer:
    """An interactive qemu-io that holds an image open for writing."""

    def __init__(self, cwd, name):
        fmt = name.rsplit(".", 1)[1]
        self.process = subprocess.Popen(["qemu-io", "-f", fmt, name], cwd=cwd,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT)
        self.process.stdin.write(b"read 0 512\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if b"read 512/512" not in line:
            raise Mismatch(f"qemu-io does not open {name}: {line!r}")

    def end(self):
        self.process.communicate(b"quit\n", timeout=20)


class Holder:
    """hammer --hold: a chain kept open."""

    def __init__(self, args, cwd, *rest):
        self.process = subprocess.Popen([args.hammer, "--hold", *rest, LAYERS[0]], cwd=cwd,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        line = self.process.stdout.readline()
        if line != b"ready\n":
            raise Mismatch(f"hammer --hold: {line!r}")

    def end(self):
        self.process.communicate(timeout=20)
        if self.process.returncode != 0:
            raise Mismatch(f"hammer --hold ends with {self.process.returncode}")


def make_chain(directory):
    runner = lib.Runner(directory)
    with open(os.path.join(directory, "base.raw"), "wb") as f:
        f.write(random.Random(1).randbytes(8 << 20))
    below, fmt = "base.raw", "raw"
    for name in ("middle.qcow2", "top.qcow2"):
        runner.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", below, "-F", fmt, name])
        runner.run(["qemu-io", "-c", "write -P 7 1M 100k", name])
        below, fmt = name, "qcow2"
    return runner


def try_write(runner, name):
    """What qemu-io says to a write; sees only the layer's own lock."""
    fmt = name.rsplit(".", 1)[1]
    return runner.run(["qemu-io", "-f", fmt, "-c", "write -q -P 9 4M 512", name], ok=None)


def check_writer_holds(args, runner):
    qchain = os.path.join(args.bin, "qchain")
    for name in LAYERS:
        writer = Writer(runner.cwd, name)
        try:
            status, _, err = runner.run([qchain, "map", LAYERS[0]], ok=None)
            if status != 1 or name not in err or "lock" not in err.lower():
                raise Mismatch(f"{name} is being written to, map: exit {status}: {err}")
            status, _, err = runner.run([args.hammer, "--map", LAYERS[0]], ok=None)
            if status != 1 or ": LOCKED:" not in err:
                raise Mismatch(f"{name} is being written to, open: exit {status}: {err}")
            runner.run([qchain, "map", "-U", LAYERS[0]])
            runner.run([args.hammer, "--force-share", "--map", LAYERS[0]])
        finally:
            writer.end()
        runner.run([qchain, "map", LAYERS[0]])
    writer = Writer(runner.cwd, RAW)
    try:
        runner.run(["qemu-img", "map", LAYERS[0]])
        runner.run([qchain, "map", LAYERS[0]])
    finally:
        writer.end()
    print("locks: a writer on any qcow2 layer refuses us; -U and its end let us in")


def check_we_hold(args, runner):
    holder = Holder(args, runner.cwd)
    try:
        for name in LAYERS:
            status, out, err = try_write(runner, name)
            if status == 0 or "lock" not in err.lower() + out.decode().lower():
                raise Mismatch(f"qemu-io writes to {name} under us: exit {status}: {err}")
        if try_write(runner, RAW)[0] != 0:
            raise Mismatch("a raw layer is not shared with a writer, as QEMU shares it")
        # Readers go side by side, of both kinds.
        runner.run([os.path.join(args.bin, "qchain"), "map", LAYERS[0]])
        runner.run(["qemu-img", "map", LAYERS[0]])
        runner.run(["qemu-io", "-r", "-c", "read -q 0 512", LAYERS[0]])
    finally:
        holder.end()
    for name in LAYERS:
        status, _, err = try_write(runner, name)
        if status != 0:
            raise Mismatch(f"after the close qemu-io cannot write to {name}: {err}")
    holder = Holder(args, runner.cwd, "--force-share")
    try:
        for name in LAYERS:
            if try_write(runner, name)[0] != 0:
                raise Mismatch(f"-U holds a lock on {name}")
    finally:
        holder.end()
    print("locks: an open chain refuses a writer on any qcow2 layer, its close lets it in")


def check_blocked_tool(args, runner):
    """The tool holds its locks to the last byte."""
    reader = subprocess.Popen([os.path.join(args.bin, "qchain"), "read", LAYERS[0], "-"],
                              cwd=runner.cwd, stdout=subprocess.PIPE)
    try:
        got = len(reader.stdout.read(512))
        status, _, err = try_write(runner, "middle.qcow2")
        if status == 0:
            raise Mismatch("qemu-io writes to a layer while qchain read is not done")
        got += len(reader.stdout.read())
    finally:
        reader.stdout.close()
        reader.wait(timeout=20)
    if reader.returncode != 0 or got != 8 << 20:
        raise Mismatch(f"read to a pipe: exit {reader.returncode}, {got} bytes")
    status, _, err = try_write(runner, "middle.qcow2")
    if status != 0:
        raise Mismatch(f"after qchain read qemu-io cannot write: {err}")
    print("locks: qchain read holds its locks until it ends")


def check_fork(args, runner):
    _, out, _ = runner.run([args.fork, LAYERS[0]])
    print(out.decode().strip())


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--bin", default=lib.default_bin())
    p.add_argument("--hammer", default=lib.default_hammer())
    p.add_argument("--fork", help="the program fork; beside hammer if absent")
    args = p.parse_args()
    args.bin, args.hammer = os.path.abspath(args.bin), os.path.abspath(args.hammer)
    args.fork = os.path.abspath(args.fork or os.path.join(os.path.dirname(args.hammer), "fork"))
    lib.need("qemu-img", "qemu-io", os.path.join(args.bin, "qchain"), args.hammer, args.fork)
    directory = tempfile.mkdtemp(prefix="qchain-locks-")
    runner = make_chain(directory)
    checks = (check_writer_holds, check_we_hold, check_blocked_tool, check_fork)
    failed = 0
    for check in checks:
        try:
            check(args, runner)
        except Mismatch as e:
            failed += 1
            print(f"FAIL {check.__name__}: {e}")
    shutil.rmtree(directory)
    print(f"locks: {len(checks)} checks, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
