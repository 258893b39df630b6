#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""rebase against qemu-img: random chains keep their bytes and stay valid; what both say is the same.

Every chain comes from a seed of its own, printed when something differs; `--seed THAT --count 1` makes it again.
"""
import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time

import interop_lib as lib
import surgery_chains as chains
from interop_lib import Mismatch

# Calls of both programs on copies of one directory; "~" before one: what standard error says is the library's own.
CALLS = [
    "rebase", "rebase top.qcow2", "rebase -b", "rebase -x top.qcow2", "rebase -b base.qcow2 -F qcow2",
    "rebase -b base.qcow2 -F qcow2 top.qcow2 more", "~rebase -b base.qcow2 -F qcow2 nofile",
    "~rebase -b nofile -F qcow2 top.qcow2", "rebase -b base.qcow2 top.qcow2", "rebase -u -b base.qcow2 top.qcow2",
    "rebase -b base.qcow2 -F nope top.qcow2", "rebase -t nope -b base.qcow2 -F qcow2 top.qcow2",
    "rebase -T nope -b base.qcow2 -F qcow2 top.qcow2", "~rebase -f raw -b base.qcow2 -F qcow2 r.raw",
    "rebase -q -b base.qcow2 -F qcow2 top.qcow2", "info top.qcow2", "rebase -b mid.qcow2 -F qcow2 top.qcow2",
    "info top.qcow2", "rebase -p -b other.qcow2 -F qcow2 top.qcow2", "info top.qcow2",
    "rebase -b r.raw -F raw top.qcow2", "info top.qcow2", "rebase -U -b base.qcow2 -F qcow2 top.qcow2",
    "rebase -u -b mid.qcow2 -F qcow2 top.qcow2", "info top.qcow2", "rebase -u -b  top.qcow2", "info top.qcow2",
    "rebase -u top.qcow2", "rebase -b base.qcow2 -F qcow2 top.qcow2", "info top.qcow2",
    "rebase -t none -T none -b  top.qcow2", "info top.qcow2",
    "rebase --image-opts -b base.qcow2 -F qcow2 driver=qcow2,file.filename=top.qcow2", "info top.qcow2",
]


def make_named(cwd):
    def sh(*argv):
        subprocess.run(argv, cwd=cwd, check=True, stdout=subprocess.DEVNULL)

    sh("qemu-img", "create", "-q", "-f", "qcow2", "base.qcow2", "2M")
    sh("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 1M", "base.qcow2")
    sh("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "mid.qcow2")
    sh("qemu-io", "-f", "qcow2", "-c", "write -P 2 512k 200k", "mid.qcow2")
    sh("qemu-img", "create", "-q", "-f", "qcow2", "-b", "mid.qcow2", "-F", "qcow2", "top.qcow2", "3M")
    sh("qemu-io", "-f", "qcow2", "-c", "write -P 3 600k 10k", "top.qcow2")
    sh("qemu-img", "create", "-q", "-f", "qcow2", "other.qcow2", "4M")
    sh("qemu-io", "-f", "qcow2", "-c", "write -P 4 0 4M", "other.qcow2")
    sh("qemu-img", "create", "-q", "-f", "raw", "r.raw", "1M")


def call(argv, cwd):
    r = subprocess.run(argv, cwd=cwd, capture_output=True, check=False, timeout=60, stdin=subprocess.DEVNULL)
    return r.returncode, r.stdout.decode(errors="replace"), r.stderr.decode(errors="replace")


def check_words(args, root):
    dirs = [os.path.join(root, d) for d in ("ours", "theirs")]
    for d in dirs:
        os.mkdir(d)
        make_named(d)
        subprocess.run(["qemu-img", "convert", "-O", "raw", "top.qcow2", "flat"], cwd=d, check=True)
    for text in CALLS:
        own_words = text.startswith("~")
        words = text.lstrip("~").split(" ")
        theirs = call(["qemu-img", *words], dirs[1])
        if words[0] == "info":
            ours = call(["qemu-img", *words], dirs[0])
            keys = ("backing file", "virtual size", "backing file format")
            for a in (ours, theirs):
                if a[0]:
                    raise Mismatch(f"{text}: {a}")
            lines = [[x for x in a[1].split("\n") if x.startswith(keys)] for a in (ours, theirs)]
            if "\n".join(lines[0]).replace(dirs[0], dirs[1]) != "\n".join(lines[1]):
                raise Mismatch(f"{text}: {lines}")
            continue
        ours = call([os.path.join(args.bin, "qchain"), *words], dirs[0])
        said = ours[2].replace("qchain-rebase", "qemu-img")
        shown = [a.split("\r")[-1] if "-p" in words else a for a in (ours[1], theirs[1])]
        if ours[0] != theirs[0] or shown[0] != shown[1] or (bool(said) != bool(theirs[2]) if own_words
                                                            else said != theirs[2]):
            raise Mismatch(f"{text}: exit {ours[0]}, qemu-img {theirs[0]}\n{ours[1]}{ours[2]}---\n"
                           f"{theirs[1]}{theirs[2]}")
    for d in dirs[:1]:
        subprocess.run(["qemu-img", "check", "-q", "top.qcow2"], cwd=d, check=True)
    return len(CALLS)


class Case:
    """One random chain, and one or two changes of what its top stands on."""

    def __init__(self, args, cwd, seed):
        self.args, self.rng = args, random.Random(seed)
        self.runner = lib.Runner(cwd, env={"QCHAIN_POLICY": os.path.join(cwd, "policy")})
        with open(os.path.join(cwd, "policy"), "w", encoding="utf-8") as f:
            f.write(f"allow-path {cwd}\n")
        self.maker = chains.Maker(self.rng, self.runner)

    def qchain(self, *argv, ok=(0,)):
        return self.runner.run([os.path.join(self.args.bin, "qchain"), *argv], ok=ok)

    def new_backing(self, top):
        """A layer of the chain, of another, or none."""
        r = self.rng.random()
        below = top.layers()[1:]
        if below and r < 0.6:
            return self.rng.choice(below)
        if r < 0.7:
            return None
        shared = self.rng.choice(below) if below and self.rng.random() < 0.5 else None
        return self.maker.chain(self.rng.randint(1, 2), shared)

    def rebase(self, top, flat):
        to = self.new_backing(top)
        kept = top.layers()[1:]
        inside = to in kept
        argv = ["rebase", "-b", to.name_from(top) if to else ""]
        if to:
            argv += ["-F", to.fmt]
        if self.rng.random() < 0.2:
            argv.append("--compare")
        if self.rng.random() < 0.15:
            argv.append("-c")
        if self.rng.random() < 0.3:
            argv.append(f"--threads={self.rng.randint(1, 5)}")
        before = self.used(top)
        self.qchain(*argv, top.path)
        name, fmt = chains.backing_of(self.runner, top.path)
        if (name or "") != argv[2] or fmt != (to.fmt if to else None):
            raise Mismatch(f"the header names {name!r} ({fmt})")
        top.below = to
        chains.check(self.runner, top)
        chains.compare(self.runner, top, flat)
        if inside and "-c" not in argv:
            self.no_more_than_needed(top, kept, to, before)

    def used(self, layer):
        """What a layer itself holds: a list of stretches."""
        out = self.runner.json(["qemu-img", "map", "--output=json", "-f", "qcow2", layer.path])
        return [(e["start"], e["start"] + e["length"]) for e in out if e["depth"] == 0 and e["present"]]

    def no_more_than_needed(self, top, old, to, before):
        """What the top holds now, it held before or a layer between held: rounded to its units."""
        unit = top.cluster // 32 if top.extended else top.cluster
        shorter = min([top.size] + [x.size for x in old])
        allowed = list(before)
        for layer in old[:old.index(to)]:
            allowed += self.alone(layer)
        allowed.append((shorter, max(top.size, shorter)))
        allowed = lib.union([(a // unit * unit, -(-b // unit) * unit) for a, b in allowed if a < b])
        for a, b in self.used(top):
            if not any(x <= a and b <= max(y, b if y >= top.size else 0) for x, y in allowed):
                raise Mismatch(f"[{a}, {b}) was moved for nothing: {allowed}")

    def alone(self, layer):
        out = self.runner.json(["qemu-img", "map", "--output=json", "-f", layer.fmt, layer.path])
        return [(e["start"], e["start"] + e["length"]) for e in out if e["depth"] == 0 and e["present"]]

    def run(self):
        top = self.maker.chain(self.rng.randint(1, 5))
        if top.fmt == "raw":
            top = self.maker.layer(top)
        chains.flatten(self.runner, top, "flat")
        for _ in range(self.rng.choice((1, 1, 2))):
            self.rebase(top, "flat")


def check_random(args, root):
    first = args.seed if args.seed is not None else int(time.time() * 1000) % (1 << 40)
    count = args.count
    for seed in range(first, first + count):
        cwd = os.path.join(root, str(seed))
        os.mkdir(cwd)
        case = Case(args, cwd, seed)
        try:
            case.run()
        except Mismatch as e:
            print("\n".join(case.runner.script))
            raise Mismatch(f"seed {seed}: {e}") from None
        shutil.rmtree(cwd)
    return f"{count} chains from seed {first}"


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--bin", default=lib.default_bin())
    p.add_argument("--hammer", help="given to every test of this directory; not used here")
    p.add_argument("--seed", type=int)
    p.add_argument("--count", type=int, default=lib.share(40))
    p.add_argument("--only", choices=("words", "random"))
    args = p.parse_args()
    args.bin = os.path.abspath(args.bin)
    lib.need("qemu-img", "qemu-io", os.path.join(args.bin, "qchain"))
    root = tempfile.mkdtemp(prefix="check_rebase.")
    try:
        for name, check in (("words", check_words), ("random", check_random)):
            if args.only in (None, name):
                print(f"{name}: {check(args, root)}", flush=True)
    except Mismatch as e:
        print(f"FAIL: {e}\nin {root}")
        return 1
    shutil.rmtree(root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
