#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Chains of 1200 layers with few descriptors; loops; a missing layer in the middle."""
import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile

import interop_lib as lib
from interop_lib import Mismatch
from qcow2_writer import write_qcow2

UNIT = 4096
SIZE = 8 << 20


class DeepChain:
    """N layers of a few clusters each, and what they read as, kept in memory."""

    def __init__(self, directory, n, rng):
        self.bytes = bytearray(SIZE)
        self.owner = {}  # guest cluster: (layer counted from the base, host offset)
        self.n = n
        names = [f"layer{i:04}.qcow2" for i in range(n)]
        for i, name in enumerate(names):
            places = {rng.randrange(SIZE // UNIT) for _ in range(rng.randint(0, 6))}
            clusters = {c: rng.randbytes(UNIT) for c in places}
            host = write_qcow2(os.path.join(directory, name), SIZE, clusters,
                               names[i - 1] if i else None, "qcow2" if i else None)
            for c, data in clusters.items():
                self.bytes[c * UNIT:(c + 1) * UNIT] = data
                self.owner[c] = (i, host[c])
        self.names = names
        self.top = names[-1]
        with open(os.path.join(directory, "oracle.img"), "wb") as f:
            f.write(self.bytes)

    def map(self):
        extents = []
        for c in range(SIZE // UNIT):
            e = {"start": c * UNIT, "length": UNIT, "depth": self.n - 1, "present": False,
                 "zero": True, "data": False}
            if c in self.owner:
                layer, host = self.owner[c]
                e.update(depth=self.n - 1 - layer, present=True, zero=False, data=True,
                         offset=host)
            extents.append(e)
        return lib.normalise(extents)


def limited(argv, cwd, files):
    """Run with at most so many descriptors."""
    def limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    done = subprocess.run(argv, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True,
                          preexec_fn=limit, timeout=120, check=False)
    if done.returncode != 0:
        raise Mismatch(f"exit {done.returncode} with {files} descriptors: {' '.join(argv)}\n"
                       f"{done.stderr.decode(errors='replace')}")
    return done.stdout


def check_deep(args, directory, rng):
    chain = DeepChain(directory, args.layers, rng)
    runner = lib.Runner(directory)
    qchain = os.path.join(args.bin, "qchain")
    for files in (64, 1024):
        out = limited([qchain, "map", "--output=json", chain.top], directory, files)
        lib.same_extents("deep map", lib.normalise(json.loads(out)), chain.map())
        limited([qchain, "read", chain.top, "out.img"], directory, files)
        lib.same_file("deep read", os.path.join(directory, "out.img"),
                      os.path.join(directory, "oracle.img"))
        for seed in (1, 2):
            limited([args.hammer, "--oracle", "oracle.img", "--seed", str(seed), "--iterations",
                     "300", "--index-bytes", str(1 << 20), "--check-map", chain.top],
                    directory, files)
    status, _, err = runner.run([args.hammer, "--max-layers", "100", "--map", chain.top], ok=None)
    if status == 0 or "LIMIT" not in err:
        raise Mismatch(f"max_layers 100 opened {args.layers} layers: {status} {err}")
    print(f"deep: {args.layers} layers with 64 and 1024 descriptors: map and bytes are right")


def check_writer(args, directory, rng):
    """The oracle of the deep chain, judged once by qemu-img on a shallower one."""
    chain = DeepChain(directory, 200, rng)
    runner = lib.Runner(directory)
    runner.run(["qemu-img", "check", "-q", chain.top])
    runner.run(["qemu-img", "convert", "-O", "raw", chain.top, "qemu.img"])
    oracle = os.path.join(directory, "oracle.img")
    lib.same_file("qemu-img convert", os.path.join(directory, "qemu.img"), oracle)
    theirs = lib.normalise(runner.json(["qemu-img", "map", "--output=json", chain.top]))
    lib.same_extents("the oracle's map", chain.map(), theirs)
    runner.run([os.path.join(args.bin, "qchain"), "convert", "-O", "raw", chain.top, "our.img"])
    lib.same_file("convert", os.path.join(directory, "our.img"), oracle)
    print("deep: 200 layers, as qemu-img reads them")


def must_fail(args, directory, name, names, code):
    """Opening must fail with a code and a message with all of the names."""
    runner = lib.Runner(directory)
    for argv in ([os.path.join(args.bin, "qchain"), "map", name], [args.hammer, "--map", name]):
        status, _, err = runner.run(argv, ok=None, timeout=20)
        missing = [n for n in names if n not in err]
        if status not in (1, 2) or missing:
            raise Mismatch(f"{' '.join(argv)}: exit {status}, {missing} not in: {err}")
    if f": {code}:" not in err:
        raise Mismatch(f"open of {name}: not {code}: {err}")


def check_loops(args, directory):
    def image(name, backing):
        write_qcow2(os.path.join(directory, name), SIZE, {}, backing, "qcow2")

    image("self.qcow2", "self.qcow2")
    must_fail(args, directory, "self.qcow2", ["layer #0", "layer #1"], "CHAIN")
    image("a.qcow2", "b.qcow2")
    image("b.qcow2", "a.qcow2")
    image("top.qcow2", "a.qcow2")
    must_fail(args, directory, "a.qcow2", ["layer #0 'a.qcow2", "layer #2 'a.qcow2"], "CHAIN")
    must_fail(args, directory, "top.qcow2", ["layer #1 'a.qcow2", "layer #3 'a.qcow2"], "CHAIN")
    # The same file under other names: a symbolic and a hard link.
    for kind, link in (("symlink", os.symlink), ("link", os.link)):
        image(f"{kind}-a.qcow2", f"{kind}-b.qcow2")
        target = f"{kind}-a.qcow2"
        link(target if kind == "symlink" else os.path.join(directory, target),
             os.path.join(directory, f"{kind}-b.qcow2"))
        must_fail(args, directory, f"{kind}-a.qcow2", [f"{kind}-b.qcow2"], "CHAIN")
    print("deep: loops are found and both layers named")


def check_missing(args, directory, rng):
    chain = DeepChain(directory, 9, rng)
    gone = chain.names[4]
    os.rename(os.path.join(directory, gone), os.path.join(directory, "gone"))
    must_fail(args, directory, chain.top, [gone], "NOTFOUND")
    with open(os.path.join(directory, gone), "wb") as f:
        f.write(b"not an image" * 1000)
    must_fail(args, directory, chain.top, [gone], "UNSUPPORTED")
    with open(os.path.join(directory, gone), "wb"):
        pass
    must_fail(args, directory, chain.top, [gone], "UNSUPPORTED")
    print("deep: a missing or foreign layer in the middle is named")


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--bin", default=lib.default_bin())
    p.add_argument("--hammer", default=lib.default_hammer())
    p.add_argument("--layers", type=int, default=1200)
    p.add_argument("--seed", type=int, default=1)
    args = p.parse_args()
    args.bin, args.hammer = os.path.abspath(args.bin), os.path.abspath(args.hammer)
    lib.need("qemu-img", os.path.join(args.bin, "qchain"), args.hammer)
    rng = random.Random(args.seed)
    root = tempfile.mkdtemp(prefix="qchain-deep-")
    failed = 0
    checks = ((check_writer, (rng,)), (check_deep, (rng,)), (check_loops, ()),
              (check_missing, (rng,)))
    for i, (check, more) in enumerate(checks):
        directory = os.path.join(root, str(i))
        os.mkdir(directory)
        try:
            check(args, directory, *more)
        except Mismatch as e:
            failed += 1
            print(f"FAIL {check.__name__}: {e}")
    shutil.rmtree(root)
    print(f"deep chain: {len(checks)} checks, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
