#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Make the disks that the benchmarks read, the same bytes of metadata every time.

    C100    64 GiB disk, 1 GiB base, 100 layers of 400 small writes
    C1000   64 GiB disk, 512 MiB base, 1000 layers of 40 writes of whole clusters
    D1      one layer that holds all of a 4 GiB disk
    D100    the same disk, its pieces of 1 MiB dealt out to 100 layers
    Z, ZS   2 GiB of text, compressed with zlib and with zstd

Every layer is written with its backing file detached (its header names it all the same): opening
a deep chain once for every layer would take hours. The difference: where a write covers a part
of a cluster, the rest of the cluster holds zeros and not a copy of what lies below. That is the
same number of clusters at the same places, so it changes no timing; but such a disk has no sense
as a disk. Everything comes from seeded generators; only qemu-img and qemu-io are needed.

A data set that is there, complete and made by the same recipe is not made again.
"""

import argparse
import itertools
import json
import math
import os
import random
import shutil
import subprocess
import sys
import time

RECIPE = 1                      # raise it when a generator below changes
CLUSTER = 64 << 10
MIB = 1 << 20
GIB = 1 << 30
NAMES = ("C100", "C1000", "D1", "D100", "Z", "ZS")


def run(argv, text=None):
    """Run a program quietly; text goes to its stdin. Leave with what it said on failure."""
    done = subprocess.run(argv, input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          encoding="utf-8", errors="replace", check=False)
    if done.returncode or "failed" in done.stdout or "error" in done.stdout:
        sys.exit("make_chain: %s:\n%s" % (" ".join(argv), done.stdout[-2000:]))


def create(path, size, backing=None, options="cluster_size=64k"):
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", options]
    if backing:
        argv += ["-u", "-F", "qcow2", "-b", backing]
    run(argv + [path, str(size)])


def write(path, commands):
    """Give one layer qemu-io commands, its backing file detached."""
    node = {"driver": "qcow2", "backing": None, "file": {"driver": "file", "filename": path}}
    run(["qemu-io", "-t", "unsafe", "json:" + json.dumps(node)],
        "".join(c + "\n" for c in commands))


def layer_name(directory, number):
    return os.path.join(directory, "layer-%04d.qcow2" % number)


def top(directory, name, layers):
    """The name under which the benchmarks open a data set."""
    return os.path.join(directory, name, "layer-%04d.qcow2" % layers)


# ------------------------------------------------------------------ the chains of small writes ---

class Chain:
    """What one chain of small writes looks like; sizes in bytes."""

    def __init__(self, name, layers, writes, base, pieces, spots, whole):
        self.name = name
        self.layers = layers
        self.disk = 64 * GIB
        self.writes = writes    # a layer
        self.base = base        # bytes of data in the base, in so many pieces
        self.pieces = pieces
        self.spots = spots      # hot places of 4 MiB each
        self.whole = whole      # writes cover whole clusters

    def length(self, rng):
        if self.whole:
            return CLUSTER * rng.choice((1, 1, 1, 2))
        if rng.random() < 0.95:
            return int(4096 * math.exp(rng.random() * math.log(32))) // 4096 * 4096
        return 4096 * rng.randrange(32, 129)

    def plan(self):
        """Yield a list of (offset, length) for each layer above the base."""
        rng = random.Random(self.name)
        unit = CLUSTER if self.whole else 4096
        hot = 4 * MIB
        spots = [rng.randrange(self.disk // CLUSTER) * CLUSTER for _ in range(self.spots)]
        for _ in range(self.layers):
            writes = []
            for _ in range(self.writes):
                length = self.length(rng)
                if rng.random() < 0.7:
                    offset = rng.choice(spots) + rng.randrange(hot // unit) * unit
                else:
                    offset = rng.randrange(self.disk // unit) * unit
                writes.append((min(offset, self.disk - length), length))
            yield writes

    def base_pieces(self):
        size = self.base // self.pieces // CLUSTER * CLUSTER
        return [(i * (self.disk // self.pieces), size) for i in range(self.pieces)]


def chains(scale):
    return {
        "C100": Chain("C100", 100, max(8, int(400 * scale)), int(GIB * scale), 256, 540, False),
        "C1000": Chain("C1000", 1000, max(4, int(40 * scale)), int(GIB // 2 * scale), 128, 438,
                       True),
    }


def make_chain(chain, directory):
    create(layer_name(directory, 0), chain.disk)
    write(layer_name(directory, 0),
          ["write -q -P 0xb5 %d %d" % piece for piece in chain.base_pieces()])
    for number, writes in enumerate(chain.plan(), 1):
        path = layer_name(directory, number)
        create(path, chain.disk, os.path.basename(layer_name(directory, number - 1)))
        write(path, ["write -q -P %d %d %d" % (1 + (number * 7 + offset // CLUSTER) % 255, offset,
                                              length) for offset, length in writes])
        if number % 100 == 0:
            print("  %s: %d layers" % (chain.name, number), flush=True)
    return chain.layers


# ------------------------------------------------------------------------ sequential and text ---

def dense_size(scale):
    return max(100 * MIB, int(4 * GIB * scale) // MIB * MIB)


def blocks(directory, count=64):
    """Files of 1 MiB of noise, from which the dense disks are put together."""
    paths = []
    for i in range(count):
        path = os.path.join(directory, "block-%02d" % i)
        with open(path, "wb") as out:
            out.write(random.Random("block %d" % i).randbytes(MIB))
        paths.append(path)
    return paths


def make_dense(directory, scale, layers):
    """A disk full of noise, dealt out to `layers` layers in pieces of 1 MiB."""
    size = dense_size(scale)
    noise = blocks(directory)
    for number in range(layers):
        path = layer_name(directory, number + 1)
        below = os.path.basename(layer_name(directory, number)) if number else None
        create(path, size, below)
        write(path, ["write -q -s %s %d %d" % (noise[piece * 7 % len(noise)], piece * MIB, MIB)
                     for piece in range(number, size // MIB, layers)])
    for path in noise:
        os.unlink(path)
    return layers


def text_pool(size):
    """Words of a made-up language, most of them common ones, with numbers between them."""
    rng = random.Random("text")
    parts = [c + v for c in "bcdfghjklmnprstvwz" for v in ("a", "e", "i", "o", "u", "ar", "en")]
    words = ["".join(rng.choices(parts, k=rng.choice((1, 2, 2, 3, 3, 4)))) for _ in range(8000)]
    weights = list(itertools.accumulate(1 / (rank + 2) for rank in range(len(words))))
    lines = []
    total = 0
    while total < size:
        line = rng.choices(words, cum_weights=weights, k=10)
        line.append("%x" % rng.getrandbits(24))
        lines.append(" ".join(line))
        total += len(lines[-1]) + 1
    return ("\n".join(lines) + "\n").encode()[:size]


def make_text(path, size):
    """Slices of the pool in any order: no two alike lie within one cluster, or hardly ever."""
    slice_size = 8 << 10
    pool = text_pool(32 * MIB)
    rng = random.Random("slices")
    with open(path, "wb") as out:
        for _ in range(size // MIB):
            starts = [rng.randrange(len(pool) - slice_size) for _ in range(MIB // slice_size)]
            out.write(b"".join(pool[s:s + slice_size] for s in starts))


def make_compressed(directory, scale, method):
    raw = os.path.join(directory, "text.raw")
    make_text(raw, max(64 * MIB, int(2 * GIB * scale) // MIB * MIB))
    run(["qemu-img", "convert", "-q", "-c", "-W", "-m", "8", "-f", "raw", "-O", "qcow2", "-o",
         "cluster_size=64k,compression_type=" + method, raw, layer_name(directory, 1)])
    os.unlink(raw)
    return 1


# ------------------------------------------------------------------------------------- stamps ---

def recipe(name, scale):
    return {"recipe": RECIPE, "name": name, "scale": scale}


def make(directory, name, scale):
    """Make one data set unless it is there; return the name of its top layer."""
    home = os.path.join(directory, name)
    stamp = os.path.join(home, "stamp.json")
    try:
        with open(stamp, encoding="utf-8") as f:
            found = json.load(f)
        layers = found.pop("layers")
        if found == recipe(name, scale) and os.path.exists(top(directory, name, layers)):
            return top(directory, name, layers)
    except (OSError, ValueError, KeyError):
        pass
    print("making %s" % name, flush=True)
    begin = time.monotonic()
    shutil.rmtree(home, ignore_errors=True)
    os.makedirs(home)
    if name in ("C100", "C1000"):
        layers = make_chain(chains(scale)[name], home)
    elif name in ("D1", "D100"):
        layers = make_dense(home, scale, 1 if name == "D1" else 100)
    else:
        layers = make_compressed(home, scale, "zlib" if name == "Z" else "zstd")
    with open(stamp, "w", encoding="utf-8") as f:
        json.dump(dict(recipe(name, scale), layers=layers), f)
    print("  %.1f s" % (time.monotonic() - begin), flush=True)
    return top(directory, name, layers)


def count_extents(chain):
    """About how many extents qemu-img map will find, without making the chain (for tuning)."""
    owner = [0] * (chain.disk // CLUSTER)
    tables = 0
    for offset, length in chain.base_pieces():
        owner[offset // CLUSTER:(offset + length) // CLUSTER] = [1] * (length // CLUSTER)
    serial = 1
    for writes in chain.plan():
        used = set()
        for offset, length in writes:
            serial += 1
            for i in range(offset // CLUSTER, (offset + length - 1) // CLUSTER + 1):
                owner[i] = serial
                used.add(i // 8192)
        tables += len(used)
    return 1 + sum(a != b for a, b in zip(owner, owner[1:])), tables


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", nargs="?", default="build/bench/data")
    parser.add_argument("--scale", type=float, default=1.0, help="of the amounts (default 1)")
    parser.add_argument("--quick", action="store_true", help="the same as --scale 0.0625")
    parser.add_argument("--only", action="append", choices=NAMES, help="make only this one")
    parser.add_argument("--count", action="store_true", help="count extents, make nothing")
    args = parser.parse_args()
    scale = 0.0625 if args.quick else args.scale
    if args.count:
        for name, chain in chains(scale).items():
            print("%s: %d extents, %d L2 tables" % ((name,) + count_extents(chain)))
        return
    for name in args.only or NAMES:
        print(make(args.directory, name, scale))


if __name__ == "__main__":
    main()
