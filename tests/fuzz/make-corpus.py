#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Make a corpus for the fuzzers: make-corpus.py FILES OUTDIR

Takes the small images out of FILES (what tests/files/make-files.py wrote), without
the zeros at their ends, and adds images with clusters of 512 bytes, in which every
structure fits a few KiB."""
import hashlib
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'files'))
sys.dont_write_bytecode = True

from qcow2_maker import Image, deflate, pattern, zstd_frame  # noqa: E402

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


def main():
    if len(sys.argv) != 3:
        sys.exit('usage: make-corpus.py FILES OUTDIR')
    files, outdir = sys.argv[1:]
    os.makedirs(outdir, exist_ok=True)
    images = [tiny(), tiny(2), tiny(order=0), tiny(order=6), tiny(compression=1), tiny(extra=1)]
    for name in sorted(os.listdir(files)):
        path = os.path.join(files, name)
        if name.endswith('.qcow2') and os.path.getsize(path) <= 1 << 20:
            with open(path, 'rb') as f:
                images.append(f.read())
    for data in images:
        if len(data) <= MAX:
            with open(os.path.join(outdir, hashlib.sha1(data).hexdigest()[:16]), 'wb') as f:
                f.write(data)


main()
