#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Make the corpus of a fuzz target: make-corpus.py FILES OUTDIR [TARGET]

Those of layers behind URLs have seeds of their own, in remote_seeds.py; so have traces. For all others it takes the small images out of FILES (what tests/files/make-files.py wrote), without
the zeros at their ends, and adds images with clusters of 512 bytes, in which every
structure fits a few KiB, and sidecar indexes (for which see tests/fuzz/fuzz_index.c:
the checksums are left to it)."""
import hashlib
import os
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'files'))
sys.dont_write_bytecode = True

from qcow2_maker import Image, deflate, pattern, zstd_frame  # noqa: E402
from remote_seeds import SEEDS  # noqa: E402

MAX = 48 << 10


def tiny(version=3, order=4, compression=0, extra=0):
    img = Image(size=32768, version=version, cluster_bits=9, order=order, compression=compression,
                max_clusters=64)
    img.write(0, pattern(1, 1024))
    content = pattern(2, 512)
    img.compressed(1024, content, zstd_frame(content) if compression else deflate(content))
    if version > 2:
        img.zero(2048, 3)
    if extra:
        img.snapshot(b'1', b'a')
        img.write(512, pattern(3, 512))
        img.add_bitmaps(img.bitmap_entry(b'b', granularity=9), count=1)
        img.set_backing('raw', 'raw')
    return img.build()


END, SHORT, ZERO, ZERO_ALLOC, PREALLOC, DATA, COMPRESSED = range(7)
WINDOW = 128 << 20


def number(v):
    out = b''
    while v >= 0x80:
        out += bytes([v & 0x7f | 0x80])
        v >>= 7
    return out + bytes([v])


def run(length, kind, source=None, host=None, sectors=None):
    """One run of a sidecar's page; source and host are differences."""
    out = number(length // 512 << 3 | kind)
    for signed in (source, host):
        if signed is not None:
            out += number(signed << 1 if signed >= 0 else (-signed << 1) - 1)
    return out + (b'' if sectors is None else number(sectors))


def source(layer, cluster, size, flags=0, validator=b''):
    names = b'name', b'/dir/name', b'qcow2' if cluster else b'raw', validator
    return struct.pack('<2I4Q2I4H', layer, flags, 1 << 33, 1700000000 << 30, 1 << 19, size,
                       cluster, 0, *map(len, names)) + b''.join(names)


def sidecar(size, sources, pages, first=0):
    """pages: (disk offset, runs, flags). first: the byte that fuzz_index.c takes off."""
    table = b''.join(sources)
    at = 160 + len(table) + 32 * len(pages)
    layers = max(struct.unpack_from('<I', s)[0] for s in sources) + 1
    directory = body = b''
    for start, runs, flags in pages:
        directory += struct.pack('<2Q4I', start, at + len(body), len(b''.join(runs)), 0,
                                 len(runs), flags)
        body += b''.join(runs)
    header = struct.pack('<8s4I3Q2IQ2IQ2IQ16s48s', b'QCHAINIX', 1, 160, 0, 0, at + len(body), size,
                         0, layers, len(sources), 160, len(table), 0, 160 + len(table), len(pages),
                         0, sum(len(p[1]) for p in pages), b'id', b'')
    return bytes([first]) + header + table + directory + body


def sidecars():
    two = [source(0, 65536, 1 << 20), source(1, 512, 1 << 19)]
    kinds = [run(65536, COMPRESSED, 1, 70000, 257), run(65536, DATA, 0, 8), run(4096, ZERO, -1),
             run(4096, ZERO_ALLOC, 1, 128), run(512, COMPRESSED, -1, -66000, 3),
             run((1 << 20) - 176640, PREALLOC, 0, 1), run(512, SHORT, 0), run(512, SHORT, 1), run(35840, END)]
    files = [source(0, 65536, WINDOW + 512), source(1, 65536, 512), source(1, 0, 0, 1),
             source(2, 0, 4096, 4)]
    pages = [(0, [run(WINDOW - 512, DATA, 1, 5), run(512, ZERO, 2)], 0), (WINDOW, [run(512, END)], 1)]
    big = (1 << 50) + WINDOW + (1 << 41)
    huge = [(0, [run(1 << 50, END), run(WINDOW, DATA, 0, 3), run(1 << 41, DATA, 0, 3)], 0)]
    objects = [source(0, 65536, 1 << 20, 16, b'"etag"'), source(1, 65536, 1 << 20, 16),
               source(1, 0, 0, 17, b'version.1'), source(2, 0, 4096, 20, b'x' * 255)]
    for first in range(8):
        yield sidecar(1 << 20, two, [(0, kinds, 0)], first)
    yield sidecar(WINDOW + 512, files, pages, 6)
    yield sidecar(big, [source(0, 65536, big)], huge, 6)
    yield sidecar(1 << 20, objects, [(0, [run(1 << 20, DATA, 1, 5)], 0)], 6)
    yield sidecar(0, [source(0, 512, 0)], [])


def trace(blocks, disk=1 << 30, first=0):
    """A trace; blocks: lists of (us, offset less the end of the one before, length, reads). The checksums are left to
    fuzz_trace.c, whose first byte this is."""
    out = bytes([first]) + struct.pack('>8s4I2Q16s8s', b'QCHAINTR', 1, 64, 0, 0, disk, 1 << 60, b'id', b'')
    for records in blocks:
        body = b''.join(number(time) + number(step << 1 if step >= 0 else (-step << 1) - 1) + number(length)
                        + number(reads - 1) for time, step, length, reads in records)
        out += struct.pack('>4s3I2Q', b'QTBK', 0, len(body), len(records), 1000, 2) + body
    return out


def traces():
    some = [(0, 4096, 4096, 1), (5, 0, 512, 3), (1, -4096, 1 << 20, 1), (1 << 40, 1 << 40, (1 << 62) - 1, 1 << 63)]
    yield trace([])
    for first in range(4):
        yield trace([some, some[:1], some[1:2]], first=first)
    yield trace([[(1, 3, 5, 1)] * 300])
    yield trace([some])[:-3]


def write(inputs, outdir):
    for data in inputs:
        if len(data) <= MAX:
            with open(os.path.join(outdir, hashlib.sha1(data).hexdigest()[:16]), 'wb') as f:
                f.write(data)


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit('usage: make-corpus.py FILES OUTDIR [TARGET]')
    files, outdir = sys.argv[1:3]
    target = sys.argv[3] if len(sys.argv) > 3 else ''
    os.makedirs(outdir, exist_ok=True)
    seeds = dict(SEEDS, trace=traces)
    if target in seeds:
        write(seeds[target](), outdir)
        return
    images = [tiny(), tiny(2), tiny(order=0), tiny(order=6), tiny(compression=1), tiny(extra=1),
              *sidecars()]
    for name in sorted(os.listdir(files)):
        path = os.path.join(files, name)
        if name.endswith('.qcow2') and os.path.getsize(path) <= 1 << 20:
            with open(path, 'rb') as f:
                images.append(f.read())
    write(images, outdir)


main()
