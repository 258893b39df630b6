# SPDX-License-Identifier: MIT
"""Writes small qcow2 version 3 images, exactly as asked, without any other program.

For chains too deep to be made by qemu-img in a test's time, and for references
that qemu-img would not write.
"""
import struct

EXT_BACKING_FORMAT = 0xE2792ACA
EXT_DATA_FILE = 0x44415441
INCOMPAT_DATA_FILE = 4
COPIED = 1 << 63


def extension(kind, data):
    return struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)


def write_qcow2(path, size, clusters=None, backing=None, backing_format=None, data_file=None,
                cluster_bits=12):
    """clusters: {guest cluster number: bytes}. Returns {guest cluster number: host offset}."""
    clusters = clusters or {}
    unit = 1 << cluster_bits
    per_l2 = unit // 8
    l1_size = -(-size // (unit * per_l2))
    l1_clusters = max(1, -(-l1_size * 8 // unit))
    l1_at = 3 * unit
    l2_index = sorted({n // per_l2 for n in clusters})
    l2_at = {i: l1_at + (l1_clusters + k) * unit for k, i in enumerate(l2_index)}
    data_at = l1_at + (l1_clusters + len(l2_index)) * unit
    # In an external data file every cluster of the guest has its own place.
    host = {n: n * unit if data_file else data_at + k * unit
            for k, n in enumerate(sorted(clusters))}
    used = data_at // unit + (0 if data_file else len(clusters))
    assert used <= unit // 2, "one refcount block must do"

    extensions = b""
    if backing_format is not None:
        extensions += extension(EXT_BACKING_FORMAT, backing_format.encode())
    if data_file is not None:
        extensions += extension(EXT_DATA_FILE, data_file.encode())
    extensions += extension(0, b"")
    name = (backing or "").encode()
    header = struct.pack(">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3,
                         104 + len(extensions) if name else 0, len(name), cluster_bits, size, 0,
                         l1_size, l1_at, unit, 1, 0, 0,
                         INCOMPAT_DATA_FILE if data_file else 0, 0, 0, 4, 104)
    image = bytearray(data_at)
    head = header + extensions + name
    assert len(head) <= unit
    image[:len(head)] = head
    struct.pack_into(">Q", image, unit, 2 * unit)
    image[2 * unit:2 * unit + 2 * used] = struct.pack(">H", 1) * used
    for i, at in l2_at.items():
        struct.pack_into(">Q", image, l1_at + 8 * i, at | COPIED)
    for n, at in host.items():
        struct.pack_into(">Q", image, l2_at[n // per_l2] + n % per_l2 * 8, at | COPIED)
    with open(path, "wb") as f:
        f.write(image)
        if not data_file:
            for n in sorted(clusters):
                f.write(clusters[n].ljust(unit, b"\0"))
    return host
