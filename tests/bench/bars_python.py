#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The bars of the Python package: small reads of a warm chain against the same loop over os.preadv on the same bytes,
and a map of a million extents.

As a program it is what is measured: bars_python.py LIBRARY DIRECTORY N reads N times 4 KiB, and maps N extents.
"""

import json
import os
import random
import sys
import time

PYTHON = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../bindings/python"))
BLOCK = 4096
DISK = 64 << 20
EXTENTS = 1 << 20
READINTO = 0.5                          # of os.preadv's speed
MAP_SECONDS = 2.0


def make_disk(qchain, directory):
    """A chain of two layers with stored bytes, and the same as a raw file."""
    base, top, raw = (os.path.join(directory, n) for n in ("py-base.qcow2", "py-top.qcow2", "py.raw"))
    qchain.create(base, DISK)
    with qchain.Chain(base, writable=True) as c:
        for at in range(0, DISK, 1 << 20):
            c.write(os.urandom(1 << 20), at)
        c.convert(raw, create=qchain.CreateOptions(None, "raw"))
    qchain.create(top, backing_file=base, backing_format="qcow2")
    return top, raw


def time_reads(qchain, directory, count):
    """Seconds of each loop, the best of some that alternate."""
    top, raw = make_disk(qchain, directory)
    rng = random.Random(1)
    offsets = [rng.randrange(DISK // BLOCK) * BLOCK for _ in range(max(1, count // 50))]
    fd, buffer = os.open(raw, os.O_RDONLY), bytearray(BLOCK)
    pieces, preadv = [buffer], os.preadv

    def plain():
        for at in offsets:
            preadv(fd, pieces, at)

    with qchain.Chain(top) as c:
        readinto, read = c.readinto, c.reader(buffer)

        def ours():
            for at in offsets:
                readinto(buffer, at)

        def pinned():
            for at in offsets:
                read(at)

        best = {}
        for _ in range(50):
            for job in (plain, ours, pinned):
                begun = time.perf_counter()
                job()
                took = (time.perf_counter() - begun) / len(offsets)
                best[job.__name__] = min(took, best.get(job.__name__, took))
    os.close(fd)
    return best


def time_map(qchain, directory, count):
    """Seconds to go through a warm map of so many extents, zero clusters between nothing; the first map is cold."""
    raw, top = os.path.join(directory, "py-map.raw"), os.path.join(directory, "py-map.qcow2")
    with open(raw, "wb") as f:
        f.truncate(count * BLOCK)
    qchain.create(top, cluster_size=BLOCK, backing_file=raw, backing_format="raw")
    with qchain.Chain(top, writable=True, cache="unsafe") as c:
        for i in range(count // 2):
            c.write_zeroes(BLOCK, 2 * i * BLOCK)
    with qchain.Chain(top) as c:
        took = []
        for _ in range(3):
            begun = time.perf_counter()
            extents = sum(1 for _ in c.map())
            took.append(time.perf_counter() - begun)
    return {"extents": extents, "seconds": min(took), "cold": took[0]}


def python_package(m, _data):
    from bench_bars import Bar, secs
    bar = Bar()
    library = os.path.join(os.path.dirname(os.path.abspath(m.tools)), "lib", "libqchain.so.0")
    argv = [sys.executable, os.path.abspath(__file__), library, m.scratch, str(EXTENTS // (20 if m.quick else 1))]
    told = m.answer(argv)
    plain, ours, pinned = (told["reads"][k] for k in ("plain", "ours", "pinned"))
    bar.raw["python"] = [told]
    micro = "%.2f us"
    bar.row("Python, 4 KiB readinto, warm: / os.preadv", plain / ours, ">=", READINTO, micro % (ours * 1e6),
            micro % (plain * 1e6))
    bar.row("Python, 4 KiB by reader(), warm: / os.preadv", plain / pinned, ours=micro % (pinned * 1e6),
            peer=micro % (plain * 1e6))
    bar.row("Python, seconds to map %d extents" % told["map"]["extents"], told["map"]["seconds"], "<=", MAP_SECONDS,
            secs(told["map"]["seconds"]), "cold " + secs(told["map"]["cold"]))
    return bar


BARS = {"python": python_package}


def main():
    library, directory, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    os.environ["QCHAIN_LIBRARY"] = library
    sys.dont_write_bytecode = True
    sys.path.insert(0, PYTHON)
    import qchain
    print(json.dumps({"reads": time_reads(qchain, directory, count), "map": time_map(qchain, directory, count)}))


if __name__ == "__main__":
    main()
