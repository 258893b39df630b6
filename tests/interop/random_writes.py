#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Random operations on the writable top of random chains, against a model; now and then QEMU writes, too.

Every run comes from a seed of its own (the first one is --seed), which is printed when something
differs; `--seed THAT --count 1` makes it again. After each batch the disk is read by both and compared
with the model; at the end `qemu-img check`, `qemu-img compare` and `qchain check` must be satisfied.
"""
import argparse
import concurrent.futures
import os
import random
import re
import shutil
import sys
import tempfile
import threading
import time

import interop_lib as lib
from chain_maker import ChainMaker
from interop_lib import Mismatch

SECTOR = 512
MOST_BYTES = 48 << 20


class Model:
    """The bytes of the disk; where something was discarded also zeros are right."""

    def __init__(self, data):
        self.data = bytearray(data)
        self.maybe = bytearray(-(-len(data) // SECTOR))
        self.snapshots = {}

    def write(self, at, n, byte):
        self.data[at:at + n] = bytes([byte]) * n
        # A sector that is written to in part keeps what it holds in the rest: not known if discarded.
        for s in range(-(-at // SECTOR), (at + n) // SECTOR):
            self.maybe[s] = 0

    def discard(self, at, n):
        for s in range(at // SECTOR, -(-(at + n) // SECTOR)):
            self.maybe[s] = 1

    def resize(self, size):
        del self.data[size:]
        self.data += bytes(size - len(self.data))
        sectors = -(-size // SECTOR)
        del self.maybe[sectors:]
        self.maybe += bytes(sectors - len(self.maybe))

    def same(self, what, got):
        """Compare with what was read; what was discarded is then known."""
        if len(got) != len(self.data):
            raise Mismatch(f"{what}: {len(got)} bytes instead of {len(self.data)}")
        for s in (m.start() for m in re.finditer(b"\x01", bytes(self.maybe))):
            a, b = s * SECTOR, min((s + 1) * SECTOR, len(self.data))
            old, now = self.data[a:b], got[a:b]
            if now != old and any(x not in (0, y) for x, y in zip(now, old)):
                raise Mismatch(f"{what}: after a discard sector {s} is neither what it was nor zeros: "
                               f"{now[:8].hex()}")
            self.data[a:b] = now
        self.maybe = bytearray(len(self.maybe))
        if got != self.data:
            i = lib.first_difference(got, self.data)
            raise Mismatch(f"{what}: byte {i} (sector {i // SECTOR}) is {got[i]:#x} instead of {self.data[i]:#x}")


class Run:
    """One chain, its tip, and what is done to it."""

    def __init__(self, rng, runner, maker, args):
        self.rng, self.runner, self.maker, self.args = rng, runner, maker, args
        self.top = maker.layers[-1]
        self.ops = 0
        self.counts = {}
        self.trust = ["--trust"] if maker.needs_trust else []
        # What QEMU refuses (compressing onto what is there) it leaks.
        runner.run(["qemu-img", "check", "-q", "-r", "leaks", "-f", "qcow2", self.top.arg], ok=None)
        self.model = Model(self.read("qemu"))

    def count(self, what):
        self.counts[what] = self.counts.get(what, 0) + 1

    def qchain(self, verb, *rest, ok=(0,), stdin=None):
        return self.runner.run([os.path.join(self.args.bin, "qchain"), verb, *self.trust, *rest], ok=ok,
                               stdin=stdin)

    def read(self, who):
        path = os.path.join(self.runner.cwd, "read.img")
        if os.path.exists(path):
            os.unlink(path)
        if who == "qemu":
            self.runner.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", self.top.arg, "./read.img"])
        else:
            self.qchain("convert", "-f", "qcow2", "-O", "raw", self.top.arg, "./read.img")
        with open(path, "rb") as f:
            return f.read()

    # ---- operations within one opening

    def place(self):
        at, n = self.maker.place(self.top, self.rng.choice((512, 4096, self.top.cluster,
                                                            max(512, self.top.cluster // 32))))
        return at, max(1, n) if self.top.size else 0

    def command(self):
        rng, m = self.rng, self.model
        at, n = self.place()
        byte, r = rng.randint(1, 255), rng.random()
        if n == 0:
            return "flush"
        if r < 0.40:
            m.write(at, n, byte)
            return f"{rng.choice(('write', 'aio_write'))} -q -P {byte} {at} {n}"
        if r < 0.48:
            k = rng.randint(1, n)
            m.write(at, n, byte)
            return f"writev -q -P {byte} {at} {k} {n - k}" if n > k else f"writev -q -P {byte} {at} {k}"
        if r < 0.58 and self.top.data_file is None and self.top.size >= self.top.cluster:
            at = at // self.top.cluster * self.top.cluster
            n = min(-(-n // self.top.cluster) * self.top.cluster, self.top.size - at)
            m.write(at, n, byte)
            return f"write -q -c -P {byte} {at} {n}"
        if r < 0.68:
            m.write(at, n, 0)
            return f"{rng.choice(('write', 'aio_write'))} -q -z {at} {n}"
        if r < 0.78:
            m.write(at, n, 0)
            return f"write -q -z -u {at} {n}"
        if r < 0.88:
            m.discard(at, n)
            return f"discard -q {at} {n}"
        if r < 0.92:
            return "flush"
        m.write(at, n, byte)
        return f"write -q -f -P {byte} {at} {n}"

    def batch(self):
        rng = self.rng
        n = rng.randint(20, 60)
        qemu = rng.random() < 0.25
        # Only with one request at a time is the order that of the model.
        lines = []
        for _ in range(n):
            line = self.command()
            # What QEMU refuses in its own way: compressing onto what is there.
            lines.append(line)
            if line.startswith("aio_"):
                lines.append("aio_flush")
        self.ops += n
        mode = rng.choice(("writeback", "writeback", "none", "writethrough", "unsafe", "directsync"))
        if qemu:
            lines = [x.replace("write -q -c", "write -q") for x in lines]
            argv = ["qemu-io", "-t", mode, "-d", rng.choice(("unmap", "ignore")), "-f", "qcow2", self.top.arg]
        else:
            argv = [os.path.join(self.args.bin, "qchain"), "io", *self.trust, "-t", mode, "-d",
                    rng.choice(("unmap", "ignore")), "-f", "qcow2", self.top.arg]
        self.count("batches by QEMU" if qemu else "batches")
        _, out, err = self.runner.run(argv, stdin="\n".join(lines) + "\nquit\n")
        if b"failed" in out or b"rror" in out or err.strip():
            raise Mismatch(f"a command failed: {out[-600:].decode(errors='replace')}{err[-600:]}")

    # ---- operations that open the image themselves

    def snapshot(self):
        rng, snaps = self.rng, self.model.snapshots
        # Where refcounts are too narrow QEMU leaks a cluster when it finds out.
        narrow = re.search(r"refcount_bits=[124]\b", self.top.what)
        tool = [os.path.join(self.args.bin, "qchain"), "snapshot", *self.trust]
        if rng.random() < 0.3 and not narrow:
            tool = ["qemu-img", "snapshot"]
        name = f"n{len(snaps)}{rng.randint(0, 99)}"
        r = rng.random()
        if r < 0.5 or not snaps:
            status, _, _ = self.runner.run(tool + ["-c", name, self.top.arg], ok=None)
            if status == 0:
                snaps[name] = bytes(self.model.data)
            elif not narrow and self.top.data_file is None:
                raise Mismatch("a snapshot cannot be made")
        elif r < 0.75:
            name = rng.choice(sorted(snaps))
            if len(snaps[name]) != len(self.model.data):
                return
            status, _, err = self.runner.run(tool + ["-a", name, self.top.arg], ok=None)
            if status != 0 and "active dirty bitmaps" in err:
                return  # QEMU's way with an image that has any
            if status != 0:
                raise Mismatch(f"snapshot -a: exit {status}: {err}")
            self.model.data[:] = snaps[name]
        else:
            name = rng.choice(sorted(snaps))
            self.runner.run(tool + ["-d", name, self.top.arg])
            del snaps[name]
        self.count("snapshot actions")

    def resize(self):
        rng = self.rng
        if self.model.snapshots or self.top.size == 0 or self.top.snapshots:
            return
        size = max(SECTOR, self.top.size + SECTOR * rng.randint(-2000, 4000))
        tool = ["qemu-img", "resize", "-q"] if rng.random() < 0.3 else [os.path.join(self.args.bin, "qchain"),
                                                                       "resize", *self.trust, "-q"]
        status, _, err = self.runner.run(tool + ["-f", "qcow2", "--shrink", self.top.arg, str(size)], ok=None)
        if status != 0 and "Failed to zero out new clusters" in err:
            return  # version 2 over a longer backing file: QEMU cannot, and nothing changed
        if status != 0:
            raise Mismatch(f"resize: exit {status}: {err}")
        self.model.resize(size)
        self.top.size = size
        self.count("resizes")

    def check(self):
        who = self.rng.choice(("qemu", "qchain"))
        self.model.same(f"read by {who}", self.read(who))
        for name, data in self.model.snapshots.items():
            if self.rng.random() < 0.3:
                path = os.path.join(self.runner.cwd, "snap.img")
                self.runner.run(["qemu-img", "convert", "-f", "qcow2", "-l", "snapshot.name=" + name, "-O", "raw",
                                 self.top.arg, "./snap.img"])
                with open(path, "rb") as f:
                    got = f.read()
                if got[:len(data)] != data:
                    raise Mismatch(f"snapshot {name}: byte {lib.first_difference(got, data)} differs")

    def end(self):
        self.model.same("read by qchain at the end", self.read("qchain"))
        self.model.same("read by qemu-img at the end", self.read("qemu"))
        for argv in (["qemu-img", "check", "-f", "qcow2", self.top.arg],
                     [os.path.join(self.args.bin, "qchain"), "check", "-f", "qcow2", self.top.arg]):
            status, out, err = self.runner.run(argv, ok=None)
            if status != 0:
                raise Mismatch(f"{' '.join(argv[:2])}: exit {status}: {out[-500:].decode(errors='replace')}{err[-300:]}")

    def run(self):
        while self.ops < self.args.ops:
            self.batch()
            r = self.rng.random()
            if r < 0.15 and self.top.data_file is None:
                self.check()
                self.snapshot()
            elif r < 0.22 and self.top.data_file is None:
                self.check()
                self.resize()
            elif r < 0.6:
                self.check()
        self.end()


def readable(runner, top):
    """Can QEMU read what it made? Now and then it cannot."""
    return runner.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", top.arg, "./read.img"], ok=None)[0] == 0


def one_run(seed, args, counts, lock):
    """Returns the text of a failure, or None."""
    rng = random.Random(seed)
    directory = tempfile.mkdtemp(prefix=f"qchain-w{seed}-", dir=args.dir)
    runner = lib.Runner(directory)
    maker = ChainMaker(rng, runner)
    failure = None
    try:
        maker.make()
        top = maker.layers[-1]
        if top.fmt == "qcow2" and top.size <= MOST_BYTES and readable(runner, top):
            run = Run(rng, runner, maker, args)
            run.run()
            with lock:
                counts["runs"] = counts.get("runs", 0) + 1
                counts["operations"] = counts.get("operations", 0) + run.ops
                for key, n in run.counts.items():
                    counts[key] = counts.get(key, 0) + n
    except Mismatch as e:
        layers = "\n".join(f"  {i}: {x.path!r} {x.size} {x.what}" for i, x in enumerate(reversed(maker.layers)))
        failure = f"seed {seed}: {e}\nlayers, the top first:\n{layers}\nlast command: {runner.script[-1][:300]}"
        with open(os.path.join(directory, "commands.sh"), "w", encoding="utf-8") as f:
            f.write("\n".join(runner.script) + "\n")
    if failure and args.keep_failed:
        kept = os.path.join(args.keep_failed, f"writes-{seed}")
        os.makedirs(args.keep_failed, exist_ok=True)
        shutil.rmtree(kept, ignore_errors=True)
        shutil.move(directory, kept)
        failure += f"\nkept in {kept}"
    else:
        shutil.rmtree(directory, ignore_errors=True)
    return failure


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    p.add_argument("--bin", default=lib.default_bin(), help="directory of the program qchain")
    p.add_argument("--hammer", help="not used")
    p.add_argument("--seed", type=int, default=None)
    p.add_argument("--count", type=int, default=20, help="chains; some have no top that is written to")
    p.add_argument("--ops", type=int, default=200, help="operations a run, at least")
    p.add_argument("--jobs", type=int, default=2)
    p.add_argument("--keep-failed", metavar="DIR")
    p.add_argument("--dir")
    p.add_argument("--go-on", action="store_true", help="do not end at the first difference")
    args = p.parse_args()
    args.bin = os.path.abspath(args.bin)
    lib.need("qemu-img", "qemu-io", os.path.join(args.bin, "qchain"))
    seed = args.seed if args.seed is not None else lib.any_seed()
    print(f"random writes: seed {seed}, {args.count} chains", flush=True)
    counts, failures, lock, stop = {}, [], threading.Lock(), threading.Event()
    started = time.monotonic()

    def task(s):
        if stop.is_set():
            return
        failure = one_run(s, args, counts, lock)
        if failure:
            with lock:
                failures.append(failure)
                print("FAIL " + failure, flush=True)
            if not args.go_on:
                stop.set()

    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for _ in pool.map(task, range(seed, seed + args.count)):
            pass
    said = ", ".join(f"{n} {k}" for k, n in counts.items())
    print(f"random writes: {said}; {len(failures)} failed, {time.monotonic() - started:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
