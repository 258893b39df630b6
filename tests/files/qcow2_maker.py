# SPDX-License-Identifier: MIT
"""Makes small qcow2 images from nothing but struct, right or wrong at will.

An Image lays out its clusters in order: header, refcount table and blocks, L1
table, then whatever is asked for. Refcounts and the COPIED flags are computed at
the end, so an image to which nothing bad was done passes qemu-img check. Beside
the file it keeps what a reader must see: `disk` (the bytes) and `state` (for each
sector who holds it, and how).
"""
import hashlib
import json
import struct
import zlib

SECTOR = 512
COPIED = 1 << 63
COMPRESSED = 1 << 62
ZERO = 1
OFFSET = 0x00fffffffffffe00

EXT_FORMAT = 0xe2792aca
EXT_FEATURES = 0x6803f857
EXT_BITMAPS = 0x23852875
EXT_CRYPTO = 0x0537be77
EXT_DATA_FILE = 0x44415441


def pattern(seed, length):
    """Bytes that are never zero and differ from seed to seed."""
    block = bytes((seed * 37 + i * 7 + i // 251) % 255 + 1 for i in range(4096))
    return (block * (length // 4096 + 1))[:length]


def deflate(data, wbits=-12):
    c = zlib.compressobj(9, zlib.DEFLATED, wbits)
    return c.compress(data) + c.flush()


def zstd_block(data, last=True, kind=0, size=None):
    size = len(data) if size is None else size
    return struct.pack('<I', int(last) | kind << 1 | size << 3)[:3] + data


def zstd_frame(data, blocks=None, window=None):
    """A frame of raw blocks; with its size, or with a window descriptor."""
    if window is not None:
        head = bytes([0x00, window])
    elif len(data) < 256:
        head = bytes([0x20, len(data)])
    else:
        head = bytes([0xa0]) + struct.pack('<I', len(data))
    return bytes.fromhex('28b52ffd') + head + (zstd_block(data) if blocks is None else blocks)


class Below:
    """What an image stands on: bytes and states of the layers under it."""

    def __init__(self, disk=b'', state=()):
        self.disk = bytes(disk)
        self.state = list(state)


class Image:
    def __init__(self, size=65536, version=3, cluster_bits=12, order=4, extended=False,
                 compression=0, below=None, data_file=False, header_length=None, l1_size=None,
                 max_clusters=256):
        self.version, self.cluster_bits, self.order = version, cluster_bits, order
        self.cs = 1 << cluster_bits
        self.size, self.extended, self.external = size, extended, data_file
        self.entry_bytes = 16 if extended else 8
        self.cover_entries = self.cs // self.entry_bytes
        self.cover = self.cover_entries * self.cs
        if header_length is None:
            header_length = 72 if version == 2 else 112 if compression else 104
        self.ext, self.ext_end, self.backing, self.gap = [], True, None, 0
        self.snapshots, self.bitmaps = [], None
        self.patches, self.length = [], None
        self.l2, self.shared, self.forced = {}, set(), set()
        self.counted = []  # (offset, bytes) of clusters beside tables and data
        self.next = 1
        incompatible = (4 if data_file else 0) | (8 if compression else 0) | \
            (16 if extended else 0)
        self.reftable = self.alloc()
        per_block = self.cs * 8 >> order
        self.refblocks = [self.alloc() for _ in range((max_clusters - 1) // per_block + 1)]
        assert len(self.refblocks) * 8 <= self.cs
        need = (size + self.cover - 1) // self.cover
        self.l1_size = need if l1_size is None else l1_size
        self.l1 = self.alloc((self.l1_size * 8 + self.cs - 1) // self.cs) if self.l1_size else 0
        self.f = dict(magic=0x514649fb, version=version, backing_offset=None, backing_size=None,
                      cluster_bits=cluster_bits, size=size, crypt=0, l1_size=self.l1_size,
                      l1=self.l1, reftable=self.reftable, reftable_clusters=1, n_snapshots=None,
                      snapshots=None, incompatible=incompatible, compatible=0, autoclear=0,
                      order=order, header_length=header_length, compression=compression)
        self.data = {}
        self.below = below or Below()
        self.visible = size - size % SECTOR
        self.disk = bytearray(self.below.disk[:self.visible].ljust(self.visible, b'\0'))
        n = self.visible // SECTOR
        deeper = [s and (s[0] + 1,) + s[1:] for s in self.below.state[:n]]
        self.state = deeper + [None] * (n - len(deeper))

    # ------------------------------------------------------------- placing ---

    def alloc(self, n=1):
        at = self.next * self.cs
        self.next += n
        return at

    def table(self, guest):
        """The L2 table for a disk offset, unshared."""
        i = guest // self.cover
        if i not in self.l2 or i in self.shared:
            old = self.l2.get(i)
            entries = list(old[1]) if old else [(0, 0)] * self.cover_entries
            self.l2[i] = (self.alloc(), entries)
            self.shared.discard(i)
        return self.l2[i][1], guest % self.cover // self.cs

    def set_entry(self, guest, entry, bitmap=0, forced=True):
        """An L2 entry as it is; forced: the COPIED flag is left alone."""
        entries, i = self.table(guest)
        entries[i] = (entry, bitmap)
        key = (guest // self.cover, i)
        (self.forced.add if forced else self.forced.discard)(key)

    def mark(self, guest, length, content, kind, host=None):
        """Note what a reader sees: kind 'data', 'zero' or 'compressed'."""
        end = min(guest + length, self.visible)
        if content is None:
            content = bytes(length)
        if end > guest:
            self.disk[guest:end] = content[:end - guest]
        for s in range(guest // SECTOR, max(end, guest) // SECTOR):
            off = None if host is None else host + s * SECTOR - guest
            self.state[s] = (0, kind, off)

    def put(self, host, content):
        self.data[host] = content

    def write(self, guest, content, host=None):
        """Whole clusters of data, each in a cluster of its own."""
        for at in range(0, len(content), self.cs):
            piece = content[at:at + self.cs]
            where = guest + at if self.external else self.alloc() if host is None else host
            if not self.external:
                self.put(where, piece)
            self.set_entry(guest + at, where | (COPIED if self.external else 0),
                           0xffffffff if self.extended else 0, forced=self.external)
            self.mark(guest + at, self.cs, piece.ljust(self.cs, b'\0'), 'data', where)

    def zero(self, guest, n=1, allocated=False):
        for at in range(guest, guest + n * self.cs, self.cs):
            host = at if self.external and allocated else self.alloc() if allocated else 0
            if self.extended:
                self.set_entry(at, host, 0xffffffff << 32, forced=False)
            else:
                copied = COPIED if self.external and allocated else 0
                self.set_entry(at, host | ZERO | copied, forced=self.external)
            self.mark(at, self.cs, None, 'zero', host if allocated else None)

    def compressed(self, guest, content, stream, host=None, sectors=None, bitmap=0):
        """A compressed cluster; host may be any byte."""
        if host is None:
            host = self.alloc((len(stream) + self.cs - 1) // self.cs)
        if sectors is None:
            sectors = (host % SECTOR + len(stream) + SECTOR - 1) // SECTOR
        x = 62 - (self.cluster_bits - 8)
        self.put(host, stream)
        self.set_entry(guest, COMPRESSED | (sectors - 1) << x | host, bitmap)
        self.mark(guest, self.cs, content, 'compressed')

    def subclusters(self, guest, content, stored, zero):
        """A cluster with a bitmap; content is what its place holds, None: no place."""
        host = 0 if content is None else self.alloc()
        sub = self.cs // 32
        if content is not None:
            self.put(host, content)
        self.set_entry(guest, host, stored | zero << 32, forced=False)
        for i in range(32):
            at = guest + i * sub
            if zero >> i & 1:
                self.mark(at, sub, None, 'zero', host + i * sub if host else None)
            elif stored >> i & 1:
                self.mark(at, sub, content[i * sub:(i + 1) * sub], 'data', host + i * sub)

    # ------------------------------------------- snapshots, bitmaps, names ---

    def snapshot(self, ident, name, extra=None, l1=None, l1_size=None, disk_size=None):
        """Take an internal snapshot of what there is now."""
        place = self.alloc((self.l1_size * 8 + self.cs - 1) // self.cs)
        size = self.size if disk_size is None else disk_size
        self.snapshots.append(dict(
            id=ident, name=name, l1=place if l1 is None else l1, place=place,
            l1_size=self.l1_size if l1_size is None else l1_size,
            extra=struct.pack('>QQQ', 0, size, 2**64 - 1) if extra is None else extra,
            l2={i: (at, list(e)) for i, (at, e) in self.l2.items()}))
        self.shared |= set(self.l2)

    def add_ext(self, kind, data):
        self.ext.append((kind, data))

    def set_backing(self, name, fmt='qcow2', gap=0):
        self.backing, self.gap = name if isinstance(name, bytes) else name.encode(), gap
        if fmt is not None:
            self.add_ext(EXT_FORMAT, fmt.encode())

    def add_bitmaps(self, entries, count=None, size=None, offset=None, reserved=0, auto=True):
        """entries: bytes of the directory. The extension and the autoclear bit."""
        at = self.alloc()
        self.put(at, entries)
        self.counted.append((at, len(entries)))
        self.add_ext(EXT_BITMAPS, struct.pack('>IIQQ', count, reserved,
                                              len(entries) if size is None else size,
                                              at if offset is None else offset))
        if auto:
            self.f['autoclear'] |= 1

    def bitmap_entry(self, name, granularity=16, flags=2, kind=1, table_size=1, offset=None,
                     extra=b'', extra_len=None):
        if offset is None:
            offset = self.alloc()
            self.counted.append((offset, 8))
        e = struct.pack('>QIIBBHI', offset, table_size, flags, kind, granularity, len(name),
                        len(extra) if extra_len is None else extra_len) + extra + name
        return e.ljust((len(e) + 7) & ~7, b'\0')

    # ------------------------------------------------------------ building ---

    def patch(self, offset, content):
        self.patches.append((offset, content))

    def header(self):
        f, body = dict(self.f), b''
        for kind, data in self.ext:
            body += struct.pack('>II', kind, len(data)) + data.ljust((len(data) + 7) & ~7, b'\0')
        if self.ext_end:
            body += bytes(8)
        body += bytes(self.gap)
        here = f['header_length'] + len(body) if isinstance(f['header_length'], int) else 0
        if self.backing is not None:
            body += self.backing
        if f['backing_offset'] is None:
            f['backing_offset'] = here if self.backing is not None else 0
        if f['backing_size'] is None:
            f['backing_size'] = len(self.backing or b'')
        h = struct.pack('>IIQIIQIIQQIIQ', f['magic'], f['version'], f['backing_offset'],
                        f['backing_size'], f['cluster_bits'], f['size'], f['crypt'], f['l1_size'],
                        f['l1'], f['reftable'], f['reftable_clusters'], f['n_snapshots'],
                        f['snapshots'])
        if f['version'] >= 3:
            h += struct.pack('>QQQII', f['incompatible'], f['compatible'], f['autoclear'],
                             f['order'], f['header_length'])
            if f['header_length'] > 104:
                h += bytes([f['compression']])
            h = h.ljust(min(f['header_length'], 65536), b'\0')
        return h + body

    def snapshot_table(self):
        t = b''
        for s in self.snapshots:
            t += struct.pack('>QIHHIIQII', s['l1'], s['l1_size'], len(s['id']), len(s['name']),
                             1600000000, 5, 7, 0, len(s['extra']))
            t += s['extra'] + s['id'] + s['name']
            t = t.ljust((len(t) + 7) & ~7, b'\0')
        return t

    def count(self, refs):
        """Add the references of all tables to refs, a dict by cluster."""
        def add(offset, length=1):
            for c in range(offset // self.cs, (offset + max(length, 1) - 1) // self.cs + 1):
                refs[c] = refs.get(c, 0) + 1
        add(0)
        add(self.reftable)
        for at in self.refblocks:
            add(at)
        if self.l1_size:
            add(self.l1, self.l1_size * 8)
        for at, n in self.counted:
            add(at, n)
        for s in self.snapshots:
            add(s['place'], self.l1_size * 8)
        for tables in [self.l2] + [s['l2'] for s in self.snapshots]:
            for at, entries in tables.values():
                add(at)
                for entry, _ in entries:
                    if entry & COMPRESSED:
                        x = 62 - (self.cluster_bits - 8)
                        host = entry & ((1 << x) - 1)
                        n = ((entry & (COMPRESSED - 1)) >> x) + 1
                        add(host, n * SECTOR - host % SECTOR)
                    elif entry & OFFSET and not self.external:
                        add(entry & OFFSET)
        return refs

    def build(self):
        f = self.f
        table = self.snapshot_table()
        if f['n_snapshots'] is None:
            f['n_snapshots'] = len(self.snapshots)
        if f['snapshots'] is None:
            f['snapshots'] = 0
            if table:
                f['snapshots'] = self.alloc((len(table) + self.cs - 1) // self.cs)
                self.put(f['snapshots'], table)
                self.counted.append((f['snapshots'], len(table)))
        refs = self.count({})
        out = bytearray(self.next * self.cs)

        def store(offset, content):
            if len(out) < offset + len(content):
                out.extend(bytes(offset + len(content) - len(out)))
            out[offset:offset + len(content)] = content

        for at, content in self.data.items():
            store(at, content)
        self.store_tables(store, refs)
        per_block = self.cs * 8 >> self.order
        for i, at in enumerate(self.refblocks):
            store(self.reftable + 8 * i, struct.pack('>Q', at))
            store(at, self.refblock(refs, i * per_block, per_block))
        store(0, self.header())
        for at, content in self.patches:
            store(at, content)
        return bytes(out if self.length is None else out[:self.length])

    def refblock(self, refs, first, n):
        bits, block = 1 << self.order, bytearray(self.cs)
        for c in range(first, first + n):
            v = min(refs.get(c, 0), (1 << bits) - 1)
            if not v:
                continue
            if bits >= 8:
                at = (c - first) * bits // 8
                block[at:at + bits // 8] = v.to_bytes(bits // 8, 'big')
            else:
                block[(c - first) * bits // 8] |= v << (c - first) * bits % 8
        return block

    def store_tables(self, store, refs):
        for tables, l1, active in [(self.l2, self.l1, True)] + \
                [(s['l2'], s['place'], False) for s in self.snapshots]:
            for i, (at, entries) in tables.items():
                flag = COPIED if active and refs[at // self.cs] == 1 else 0
                store(l1 + 8 * i, struct.pack('>Q', at | flag))
                if not active and i in self.l2 and self.l2[i][0] == at:
                    continue
                raw = b''
                for k, (entry, bitmap) in enumerate(entries):
                    if active and (i, k) not in self.forced and not entry & COMPRESSED \
                            and entry & OFFSET and refs.get((entry & OFFSET) // self.cs) == 1:
                        entry |= COPIED
                    raw += struct.pack('>QQ', entry, bitmap) if self.extended else \
                        struct.pack('>Q', entry)
                store(at, raw)

    def as_below(self):
        return Below(self.disk, self.state)


def raw_below(content):
    """A raw file as the layer below."""
    disk = content.ljust((len(content) + 511) // 512 * 512, b'\0')
    return Below(disk, [(0, 'data', s * SECTOR) for s in range(len(disk) // SECTOR)])


def map_json(state, layers, sizes):
    """The map as qemu-img prints it, neighbours merged, offsets of data only. sizes: of
    the layers from the top, for the depth of what nobody holds."""
    out = []
    for s, st in enumerate(state):
        if st is None:
            depth = 0
            while depth + 1 < layers and s * SECTOR < sizes[depth + 1]:
                depth += 1
            e = dict(depth=depth, present=False, zero=True, data=False)
        else:
            e = dict(depth=st[0], present=True, zero=st[1] == 'zero', data=st[1] != 'zero')
            if e['data'] and st[2] is not None:
                e['offset'] = st[2]
        last = out[-1] if out else None
        if last and all(last.get(k) == e[k] for k in ('depth', 'present', 'zero', 'data')) and \
                ('offset' in last) == ('offset' in e) and \
                ('offset' not in e or last['offset'] + last['length'] == e['offset']):
            last['length'] += SECTOR
        else:
            out.append(dict(start=s * SECTOR, length=SECTOR, **e))
    return json.dumps(out, separators=(',', ':'))


def digest(disk):
    return hashlib.sha256(bytes(disk)).hexdigest()
