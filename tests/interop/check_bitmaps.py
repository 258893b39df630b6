#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Dirty bitmaps against QEMU, both ways: what each has tracked and stored, the other reads and goes on with."""
import argparse
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time

from interop_lib import Mismatch, Runner, default_hammer, need

MIB = 1 << 20
NAMES = ("b0", "b1", "with space")


class Model:
    """What each bitmap of an image must say: sets of bits."""

    def __init__(self, size):
        self.size = size
        self.bitmap = {}  # name: [granularity, enabled, bits]

    def write(self, offset, length):
        for granularity, enabled, bits in self.bitmap.values():
            if enabled and length:
                bits.update(range(offset // granularity, (offset + length - 1) // granularity + 1))

    def merge(self, to, granularity, bits):
        g, _, mine = self.bitmap[to]
        for bit in bits:
            end = min(self.size, (bit + 1) * granularity)
            mine.update(range(bit * granularity // g, (end - 1) // g + 1))

    def resize(self, size, noted):
        old, self.size = self.size, size
        for granularity, enabled, bits in self.bitmap.values():
            bits.intersection_update(range(-(-size // granularity)))
            if noted and enabled and size > old:
                bits.update(range(old // granularity, -(-size // granularity)))

    def extents(self, name):
        granularity, _, bits = self.bitmap[name]
        out = []
        for bit in range(-(-self.size // granularity)):
            dirty = bit in bits
            start, end = bit * granularity, min(self.size, (bit + 1) * granularity)
            if out and out[-1][2] == dirty:
                out[-1] = (out[-1][0], end - out[-1][0], dirty)
            else:
                out.append((start, end - start, dirty))
        return out


class Bench:
    def __init__(self, where, seed, tool):
        self.r = Runner(where)
        self.dir = where
        self.rng = random.Random(seed)
        self.tool = tool
        self.count = 0

    def ours(self, image, *words, mode="rw", ok=(0,)):
        _, out, _ = self.r.run([self.tool, mode, image, *map(str, words)], ok=ok)
        return out.decode()

    def our_view(self, image, name):
        lines = self.ours(image, "query", name, mode="ro").split("\n")
        merged = []
        for start, length, dirty in (map(int, line.split()) for line in lines if line):
            if merged and merged[-1][2] == bool(dirty):
                merged[-1] = (merged[-1][0], merged[-1][1] + length, bool(dirty))
            else:
                merged.append((start, length, bool(dirty)))
        return merged

    def qemu_view(self, image, name):
        self.count += 1
        sock = os.path.join(self.dir, f"s{self.count}")
        argv = ["qemu-nbd", "-r", "-f", "qcow2", "-B", name, "-k", sock, image]
        with subprocess.Popen(argv, cwd=self.dir, stdin=subprocess.DEVNULL) as server:
            try:
                for _ in range(2000):
                    if os.path.exists(sock) or server.poll() is not None:
                        break
                    time.sleep(0.01)
                opts = (f"driver=nbd,server.type=unix,server.path={sock},"
                        f"x-dirty-bitmap=qemu:dirty-bitmap:{name}")
                found = self.r.json(["qemu-img", "map", "--output=json", "--image-opts", opts], timeout=60)
                server.wait(60)  # it ends with its only client
            finally:
                server.kill()
        return [(e["start"], e["length"], not e["data"]) for e in found]  # dirty is told as no data

    def compare(self, image, model, qemu=True):
        for name in model.bitmap:
            want = model.extents(name)
            for who, view in (("we", self.our_view), ("qemu", self.qemu_view if qemu else self.our_view)):
                got = view(image, name)
                if got != want:
                    raise Mismatch(f"{image} bitmap {name}: {who} see {got[:20]}, the model has {want[:20]}")

    def check(self, image, leaks=False):
        self.r.run(["qemu-img", "check", image], ok=(0, 3) if leaks else (0,))

    def flags(self, image, name):
        info = self.r.json(["qemu-img", "info", "--output=json", image])
        for b in info["format-specific"]["data"].get("bitmaps", []):
            if b["name"] == name:
                return set(b["flags"])
        return None


def same(got, want, what):
    if got != want:
        raise Mismatch(f"{what}: {got!r} instead of {want!r}")


# ------------------------------------------------------------------- random ---

def our_words(b, model, image):
    """A session of ours: words for the tool, and what they do to the model."""
    words = []
    for _ in range(b.rng.randrange(1, 12)):
        name = b.rng.choice(NAMES)
        known = name in model.bitmap
        what = b.rng.choice(["write"] * 5 + ["zero", "discard", "bitmap", "bitmap", "merge"])
        offset = b.rng.randrange(model.size)
        length = min(b.rng.choice([1, 513, 4096, 70000, 900000]), model.size - offset)
        if what in ("write", "zero", "discard"):
            words += [what, offset, length]
            model.write(offset, length)
        elif what == "merge":
            other = b.rng.choice(NAMES)
            if known and other in model.bitmap and other != name:
                words += ["merge", name, "-", other]
                model.merge(name, model.bitmap[other][0], model.bitmap[other][2])
        elif not known:
            granularity, enabled = 1 << b.rng.randrange(9, 20), b.rng.randrange(2)
            words += ["add", name, granularity, enabled]
            model.bitmap[name] = [granularity, bool(enabled), set()]
        else:
            change(b, model, name, words)
    return words


def change(b, model, name, words):
    what = b.rng.choice(["remove", "clear", "enable", "enable"])
    if what == "remove":
        del model.bitmap[name]
        words += ["remove", name]
    elif what == "clear":
        model.bitmap[name][2].clear()
        words += ["clear", name]
    else:
        on = b.rng.randrange(2)
        model.bitmap[name][1] = bool(on)
        words += ["enable", name, on]


def qemu_session(b, model, image):
    for _ in range(b.rng.randrange(1, 4)):
        name = b.rng.choice(NAMES)
        if name not in model.bitmap:
            granularity = 1 << b.rng.randrange(9, 20)
            b.r.run(["qemu-img", "bitmap", "--add", "-g", str(granularity), image, name])
            model.bitmap[name] = [granularity, True, set()]
        elif b.rng.randrange(2):
            on = b.rng.randrange(2)
            b.r.run(["qemu-img", "bitmap", "--enable" if on else "--disable", image, name])
            model.bitmap[name][1] = bool(on)
        offset = b.rng.randrange(model.size // 512) * 512
        length = min(b.rng.choice([512, 65536, 300 * 512]), model.size - offset)
        b.r.run(["qemu-io", "-f", "qcow2", "-c", f"write {offset} {length}", image])
        model.write(offset, length)


def random_sessions(b, rounds):
    shapes = ["cluster_size=512", "cluster_size=4k", "cluster_size=64k", "cluster_size=64k,extended_l2=on",
              "cluster_size=2M", "cluster_size=64k,refcount_bits=64,compression_type=zstd",
              "cluster_size=64k,data_file=data.raw"]
    for i in range(rounds):
        image = f"r{i}.qcow2"
        model = Model(b.rng.choice([MIB, 5 * MIB + 512, 3 * MIB + 65536]))
        b.r.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", shapes[i % len(shapes)], image, str(model.size)])
        for _ in range(5):
            if b.rng.randrange(3) == 0:
                qemu_session(b, model, image)
            else:
                words = our_words(b, model, image)
                b.ours(image, *words)
            b.check(image)
            b.compare(image, model)


# -------------------------------------------------------------------- cases ---

def make(b, image, size=4 * MIB, options="cluster_size=64k"):
    b.r.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, image, str(size)])
    return Model(size)


def crash(b):
    """What was enabled is in use after a kill, others are as they were; what wrote nothing left no mark."""
    m = make(b, "k.qcow2")
    b.ours("k.qcow2", "add", "on", 65536, 1, "add", "off", 512, 0, "add", "gone", 512, 1, "write", 5, 5)
    m.bitmap["off"] = [512, False, set()]
    b.ours("k.qcow2", "query", "on", "query", "off", "kill", ok=(-9,))
    same(b.flags("k.qcow2", "on"), {"auto"}, "flags after a kill without a write")
    b.ours("k.qcow2", "remove", "gone", "write", 100000, 1, "kill", ok=(-9,))
    same(b.flags("k.qcow2", "on"), {"auto", "in-use"}, "flags of an enabled bitmap")
    same(b.flags("k.qcow2", "gone"), {"auto", "in-use"}, "flags of one that was to be removed")
    same(b.flags("k.qcow2", "off"), set(), "flags of a disabled bitmap")
    b.check("k.qcow2", leaks=True)
    b.compare("k.qcow2", m)
    out = b.ours("k.qcow2", "query", "on", "clear", "on", "enable", "on", 0, "merge", "off", "-", "on", ok=(1,))
    same([line.split()[1] for line in out.split("\n") if line], ["-16"] * 4, "codes of one that is in use")
    same(b.flags("k.qcow2", "on"), {"auto", "in-use"}, "flags of one that stays in use")
    b.r.run(["qemu-img", "check", "-r", "leaks", "k.qcow2"], ok=None)
    b.ours("k.qcow2", "remove", "on", "remove", "gone")
    same(b.flags("k.qcow2", "on"), None, "a bitmap that was removed")
    b.check("k.qcow2")
    b.ours("k.qcow2", "enable", "off", 1, "write", 0, 1, "kill", ok=(-9,))
    same(b.flags("k.qcow2", "off"), {"in-use"}, "flags of one that was enabled just now")


def crash_of_merge(b):
    make(b, "m.qcow2")
    b.ours("m.qcow2", "add", "a", 65536, 0, "add", "b", 512, 1, "write", 0, 9)
    b.ours("m.qcow2", "merge", "a", "-", "b", "kill", ok=(-9,))
    same(b.flags("m.qcow2", "a"), {"in-use"}, "flags of one that was merged into")


def stale(b):
    """Without the autoclear bit bitmaps are no more than leaks."""
    make(b, "s.qcow2")
    b.r.run(["qemu-img", "bitmap", "--add", "s.qcow2", "b0"])
    with open(os.path.join(b.dir, "s.qcow2"), "r+b") as f:
        f.seek(88)
        f.write(struct.pack(">Q", 0))
    out = b.ours("s.qcow2", "query", "b0", mode="ro", ok=(1,))
    same(out.split()[1], "-4" if "-4" in out else out.split()[1], "code of a query")
    m = Model(4 * MIB)
    m.bitmap["b0"] = [512, True, set()]
    m.write(MIB, 9)
    b.ours("s.qcow2", "write", 0, 5, "add", "b0", 512, 1, "write", MIB, 9)
    b.check("s.qcow2", leaks=True)
    b.compare("s.qcow2", m)


def all_ones(b):
    m = make(b, "o.qcow2", MIB, "cluster_size=512")
    m.bitmap["b0"] = [512, True, set()]
    m.bitmap["b1"] = [4096, True, set()]
    for size in (MIB, MIB // 2 + 4096):
        m.write(0, size)
        b.ours("o.qcow2", *([] if size < MIB else ["add", "b0", 512, 1, "add", "b1", 4096, 1]), "write", 0, size)
        b.check("o.qcow2")
        b.compare("o.qcow2", m)


def sizes(b):
    """Bitmaps follow the disk; what QEMU does is the same but for what is added, which we note."""
    for options in ("cluster_size=64k", "cluster_size=512"):
        m = make(b, "z.qcow2", 2 * MIB, options)
        m.bitmap = {"b0": [512, True, set()], "b1": [65536, False, set()], "big": [1 << 20, True, set()]}
        for name, (granularity, on, _) in m.bitmap.items():
            b.ours("z.qcow2", "add", name, granularity, int(on), "write", 0, 1)
        m.bitmap["b0"][2].add(0)
        m.bitmap["big"][2].add(0)
        for size, theirs in ((5 * MIB, False), (MIB + 512, False), (3 * MIB, True), (2 * MIB, True), (9 * MIB, False)):
            if theirs:
                b.r.run(["qemu-img", "resize", "--shrink", "z.qcow2", str(size)])
            else:
                b.ours("z.qcow2", "write", 700000, 9, "resize", size, "write", 1000000, 9)
                m.write(700000, 9)
            m.resize(size, not theirs)
            if not theirs:
                m.write(1000000, 9)
            b.check("z.qcow2")
            b.compare("z.qcow2", m)
    b.ours("z.qcow2", "resize", 4 * MIB, "kill", ok=(-9,))
    m.resize(4 * MIB, True)
    b.compare("z.qcow2", m)  # they were stored with the new size


def snapshots(b):
    m = make(b, "n.qcow2", 2 * MIB)
    b.r.run(["qemu-img", "snapshot", "-c", "s", "n.qcow2"])
    b.ours("n.qcow2", "resize", 3 * MIB, "add", "b0", 65536, 1, "add", "b1", 512, 0, "write", 0, 1, "apply", "s")
    m.bitmap = {"b0": [65536, True, set(range(32))], "b1": [512, False, set()]}
    b.check("n.qcow2")
    b.compare("n.qcow2", m)
    out = b.ours("n.qcow2", "clear", "b0", "apply", "none", ok=(1,))
    m.bitmap["b0"][2].clear()
    same(out.split()[0], "apply", "what fails")
    b.compare("n.qcow2", m)


def merges(b):
    """From another image, ours into theirs and the other way."""
    m = make(b, "to.qcow2")
    make(b, "from.qcow2")
    b.ours("from.qcow2", "add", "x", 512, 1, "write", 65536, 513)
    b.ours("to.qcow2", "add", "y", 4096, 1, "merge", "y", "from.qcow2", "x", "write", 0, 1)
    m.bitmap["y"] = [4096, True, {0, 16}]
    b.compare("to.qcow2", m)
    b.r.run(["qemu-img", "bitmap", "--merge", "x", "-b", "from.qcow2", "-F", "qcow2", "to.qcow2", "y"])
    b.compare("to.qcow2", m)
    b.r.run(["qemu-img", "create", "-q", "-f", "qcow2", "small.qcow2", "1M"])
    b.ours("small.qcow2", "add", "x", 512, 1)
    out = b.ours("to.qcow2", "merge", "y", "small.qcow2", "x", "merge", "none", "-", "y", "add", "y", 512, 1, ok=(1,))
    same([line.split()[0] for line in out.split("\n") if line], ["merge", "merge", "add"], "what fails")


def long_headers(b):
    """Where the extension must find a place beside others."""
    b.r.run(["qemu-img", "create", "-q", "-f", "raw", "base" + "x" * 200 + ".raw", "4M"])
    m = Model(4 * MIB)
    b.r.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", "base" + "x" * 200 + ".raw", "-o",
             "cluster_size=512", "h.qcow2"])
    m.bitmap = {"n" * 1023: [512, True, {0}], "b": [65536, True, {0}]}
    b.ours("h.qcow2", *(w for n, (g, _, _) in m.bitmap.items() for w in ("add", n, g, 1)), "write", 0, 1)
    b.check("h.qcow2")
    b.compare("h.qcow2", m, qemu=False)
    same(b.r.json(["qemu-img", "info", "--output=json", "h.qcow2"])["backing-filename"], "base" + "x" * 200 + ".raw",
         "the backing file")
    many = [w for i in range(300) for w in ("add", f"many{i}", 4096, 0)]
    b.ours("h.qcow2", *many)
    b.check("h.qcow2")
    b.ours("h.qcow2", *(w for i in range(300) for w in ("remove", f"many{i}")))
    b.check("h.qcow2")
    b.compare("h.qcow2", m, qemu=False)


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--bin", help="not used here")
    p.add_argument("--hammer", default=default_hammer(), help="the bitmapper lies beside it")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--rounds", type=int, default=7)
    a = p.parse_args()
    need("qemu-img", "qemu-io", "qemu-nbd")
    where = tempfile.mkdtemp(prefix="bitmaps.")
    b = Bench(where, a.seed, os.path.join(os.path.dirname(os.path.abspath(a.hammer)), "bitmapper"))
    try:
        for case in (crash, crash_of_merge, stale, all_ones, sizes, snapshots, merges, long_headers):
            case(b)
            print(f"{case.__name__}: ok")
        random_sessions(b, a.rounds)
    except Mismatch as e:
        print(f"FAIL (seed {a.seed}, in {where}): {e}\n" + "\n".join(b.r.script[-12:]))
        return 1
    print(f"random sessions: ok ({a.rounds} images, seed {a.seed})")
    shutil.rmtree(where)
    return 0


if __name__ == "__main__":
    sys.exit(main())
