# SPDX-License-Identifier: MIT
"""The bad and unsupported images: (name, why, function). See make-files.py."""
import struct

from files_good import external, layer, some, squeezed
from qcow2_maker import (COMPRESSED, EXT_BITMAPS, EXT_CRYPTO, EXT_DATA_FILE, EXT_FEATURES,
                         EXT_FORMAT, Image, deflate, digest, map_json, pattern, zstd_block,
                         zstd_frame)

BAD = []


def add(name, why, code, message, make, fails='open', **more):
    """make returns an Image, bytes, or a dict of the row with 'bytes'."""
    def fn():
        made = make()
        if isinstance(made, Image):
            r = dict(bytes=made.build())
            if fails == 'inspect':
                r.update(sha256=digest(made.disk), map=map_json(made.state, 1, [made.visible]))
        else:
            r = dict(made) if isinstance(made, dict) else dict(bytes=made)
        r.update(code=code, message=message, fails=fails, **more)
        return r
    BAD.append((name + '.qcow2', why, fn))


def fields(kw=None, **f):
    """An image with header fields of other values."""
    def make():
        img = some(**(kw or {}))
        img.f.update(f)
        return img
    return make


def change(*fns, **kw):
    """An image to which each of fns did something."""
    def make():
        img = some(**kw)
        for fn in fns:
            fn(img)
        return img
    return make


def cut(n):
    return lambda: some().build()[:n]


# ----------------------------------------------------------------- header ---

add('bad-file-empty', 'An empty file (H-1).', 'UNSUPPORTED', 'no qcow2 image', lambda: b'')
add('bad-file-40', 'Cut inside the header (H-1).', 'CORRUPT', 'file size=40', cut(40))
add('bad-file-100', 'Cut inside a version 3 header (H-1).', 'CORRUPT', 'file size=100', cut(100))
add('bad-file-header-only', 'Nothing but the header (H-10).', 'CORRUPT', 'header l1_table_offset',
    cut(112))
add('unsupported-magic', 'No qcow2 image (H-2).', 'UNSUPPORTED', 'no qcow2 image',
    fields(magic=0x514649fa))
add('unsupported-version-1', 'qcow, the format before (H-2).', 'UNSUPPORTED', 'header version=1',
    fields(version=1))
add('unsupported-version-4', 'A version to come (H-2).', 'UNSUPPORTED', 'header version=4',
    fields(version=4))
add('bad-backing-in-header', 'The backing name lies in the header (H-3).', 'CORRUPT',
    'header backing_file_offset=96', fields(backing_offset=96, backing_size=4))
add('bad-backing-past-cluster', 'The backing name runs out of the first cluster (H-3).', 'CORRUPT',
    'header backing_file_offset=4090', fields(backing_offset=4090, backing_size=7))
add('bad-backing-offset-huge', 'The backing name\'s offset overflows (H-3).', 'CORRUPT',
    'header backing_file_offset=18446744073709551615',
    fields(backing_offset=2**64 - 1, backing_size=1000))
add('bad-backing-past-end', 'The backing name is past the end of the file (H-3).', 'CORRUPT',
    'header backing_file_offset=30000', change(
        lambda i: i.f.update(backing_offset=30000, backing_size=5),
        lambda i: setattr(i, 'length', 20000), cluster_bits=16, size=20 << 16))
add('bad-backing-empty', 'A backing name of no bytes (H-4).', 'CORRUPT',
    'header backing_file_size=0', fields(backing_offset=200, backing_size=0))
add('bad-backing-long', 'A backing name of 1024 bytes (H-4).', 'CORRUPT',
    'header backing_file_size=1024', fields(backing_offset=200, backing_size=1024))
add('bad-backing-nul', 'A NUL in the backing name (H-5).', 'CORRUPT', 'holds a NUL',
    change(lambda i: i.set_backing(b'a\0b')))
add('bad-cluster-bits-8', 'Clusters of 256 bytes (H-6).', 'CORRUPT', 'header cluster_bits=8',
    fields(cluster_bits=8))
add('bad-cluster-bits-22', 'Clusters of 4 MiB (H-6).', 'LIMIT', 'header cluster_bits=22',
    fields(cluster_bits=22))
add('bad-cluster-bits-huge', 'cluster_bits that would overflow a shift (H-6).', 'LIMIT',
    'header cluster_bits=4294967295', fields(cluster_bits=2**32 - 1))
add('bad-size-huge', 'A disk of 2^63 bytes (H-7).', 'LIMIT', 'header size=9223372036854775808',
    fields(size=1 << 63))
add('unsupported-aes', 'Encrypted with AES (H-8).', 'UNSUPPORTED', 'encrypted with AES',
    fields(crypt=1), fails='map')


def luks(**ext):
    def make():
        img = some()
        at = img.alloc()
        e = dict(offset=at, length=592, data=None)
        e.update(ext)
        img.f['crypt'] = 2
        img.add_ext(EXT_CRYPTO, e['data'] or struct.pack('>QQ', e['offset'], e['length']))
        return img
    return make


add('unsupported-luks', 'Encrypted with LUKS (H-8, K-1).', 'UNSUPPORTED', 'encrypted with LUKS',
    luks(), fails='map')
add('unsupported-crypt-3', 'Encrypted in a way not known (H-8).', 'UNSUPPORTED',
    'header crypt_method=3', fields(crypt=3))
add('bad-luks-no-ext', 'LUKS without the extension (H-8).', 'CORRUPT', 'header crypt_method=2',
    fields(crypt=2))
add('bad-luks-ext-only', 'The encryption extension without LUKS (H-8).', 'CORRUPT',
    'header crypt_method=0',
    change(lambda i: i.add_ext(EXT_CRYPTO, struct.pack('>QQ', i.alloc(), 592))))
add('bad-luks-length', 'An encryption header of 591 bytes (X-7).', 'CORRUPT',
    'encryption length=591', luks(length=591))
add('bad-luks-long', 'An encryption header of more than 4 MiB (X-7).', 'CORRUPT',
    'encryption length=4194305', luks(length=4194305))
add('bad-luks-unaligned', 'An encryption header between clusters (X-7).', 'CORRUPT',
    'encryption offset=4608', luks(offset=4608))
add('bad-luks-past-end', 'An encryption header past the end of the file (X-7).', 'CORRUPT',
    'encryption offset=1099511627776', luks(offset=1 << 40))
add('bad-luks-ext-size', 'An encryption extension of 8 bytes (X-7).', 'CORRUPT', '0x0537be77',
    luks(data=b'12345678'))
add('bad-l1-large', 'An L1 table of more than 32 MiB (H-9).', 'LIMIT', 'header l1_size=4194305',
    fields(l1_size=4194305))
add('bad-l1-small', 'An L1 table that does not cover the disk (H-9).', 'CORRUPT',
    'header l1_size=1', fields(size=64 << 20))
add('bad-l1-none', 'A disk without an L1 table (H-9).', 'CORRUPT', 'header l1_size=0',
    fields(l1_size=0))
add('bad-l1-unaligned', 'An L1 table between clusters (H-10).', 'CORRUPT',
    'header l1_table_offset=4608', fields(l1=4608))
add('bad-l1-zero', 'An L1 table at 0 (H-10).', 'CORRUPT', 'header l1_table_offset=0', fields(l1=0))
add('bad-l1-past-end', 'An L1 table past the end of the file; an empty disk for QEMU (H-10).',
    'CORRUPT', 'header l1_table_offset=1073741824', fields(l1=1 << 30))
add('bad-l1-huge', 'An L1 table whose end overflows (H-10).', 'CORRUPT',
    'header l1_table_offset=18446744073709547520', fields(l1=2**64 - 4096))
add('bad-reftable-large', 'A refcount table of more than 8 MiB (H-12).', 'LIMIT',
    'header refcount_table_clusters=2049', fields(reftable_clusters=2049))
add('bad-snapshots-many', 'More than 65536 snapshots (H-13).', 'LIMIT', 'header nb_snapshots=65537',
    fields(n_snapshots=65537, snapshots=4096))
add('bad-snapshots-unaligned', 'A snapshot table between clusters (H-13).', 'CORRUPT',
    'header snapshots_offset=5000', fields(n_snapshots=1, snapshots=5000))
add('bad-snapshots-past-end', 'A snapshot table past the end of the file (H-13).', 'CORRUPT',
    'header snapshots_offset=1073741824', fields(n_snapshots=1, snapshots=1 << 30))
add('unsupported-feature', 'An unknown incompatible feature (H-14).', 'UNSUPPORTED',
    'unknown features: 9', fields(incompatible=1 << 9))


def named_features(img):
    img.f['incompatible'] = 1 << 9 | 1 << 63
    img.add_ext(EXT_FEATURES, bytes([1, 9]) + b'wrong kind'.ljust(46, b'\0') +
                bytes([0, 9]) + b'time\ntravel'.ljust(46, b'\0'))


add('unsupported-feature-named', 'Unknown incompatible features, one with a name (H-14, X-6).',
    'UNSUPPORTED', "unknown features: 9 'time\\x0atravel', 63", change(named_features))
add('bad-autoclear-raw', 'Raw external data without external data (H-18).', 'CORRUPT',
    'header autoclear_features=0x2', fields(autoclear=2))
add('bad-refcount-order', 'Refcounts of 128 bits (H-19).', 'CORRUPT', 'header refcount_order=7',
    fields(order=7))
add('bad-header-short', 'A version 3 header of 96 bytes (H-20).', 'CORRUPT',
    'header header_length=96', fields(header_length=96))
add('bad-header-odd', 'A header length that is no multiple of 8 (H-20).', 'CORRUPT',
    'header header_length=108', fields(header_length=108))
add('bad-header-huge', 'A header longer than a cluster (H-20).', 'CORRUPT',
    'header header_length=8192', fields(header_length=8192))
add('bad-compression-bit', 'The compression bit without a type (H-21).', 'CORRUPT',
    'header compression_type=0', fields(incompatible=8))
add('bad-compression-no-bit', 'A compression type without the bit (H-21).', 'CORRUPT',
    'header compression_type=1', fields(dict(header_length=112), compression=1))
add('unsupported-compression', 'A compression type not known (H-21).', 'UNSUPPORTED',
    'header compression_type=2', fields(dict(compression=2)))

# ------------------------------------------------------------- extensions ---


def ext(kind, data):
    return change(lambda i: i.add_ext(kind, data))


add('bad-ext-long', 'An extension longer than its room (X-1).', 'CORRUPT',
    'header extension 0x12345678 length=4294967295',
    change(lambda i: i.patch(104, struct.pack('>II', 0x12345678, 2**32 - 1))))
add('bad-ext-cut', 'No room for an extension\'s type and length (X-1).', 'CORRUPT',
    'header extension at=4088', change(
        lambda i: i.add_ext(0x12345678, bytes(3976)),
        lambda i: i.f.update(backing_offset=4094, backing_size=1),
        lambda i: setattr(i, 'ext_end', False)))
add('bad-ext-twice', 'A known extension that comes twice (X-4).', 'CORRUPT', 'comes twice',
    change(lambda i: i.add_ext(EXT_DATA_FILE, b'a'), lambda i: i.add_ext(EXT_DATA_FILE, b'b')))
add('bad-format-long', 'A backing format of 16 bytes (X-5).', 'CORRUPT',
    'header extension 0xe2792aca length=16', ext(EXT_FORMAT, b'q' * 16))
add('bad-format-nul', 'A NUL in the backing format (X-5).', 'CORRUPT',
    'NUL in the backing file\'s format', ext(EXT_FORMAT, b'raw\0qcow2'))
add('bad-features-length', 'A feature table with half an entry (X-6).', 'CORRUPT',
    'header extension 0x6803f857 length=72', ext(EXT_FEATURES, bytes(72)))
add('bad-bitmaps-length', 'A bitmaps extension of 16 bytes (X-8).', 'CORRUPT',
    'header extension 0x23852875 length=16', ext(EXT_BITMAPS, bytes(16)))
add('bad-data-file-nul', 'A NUL in the name of the data file.', 'CORRUPT',
    'NUL in the data file\'s name', ext(EXT_DATA_FILE, b'a\0b'))

# ----------------------------------------------------------------- tables ---


def l1(value):
    return change(lambda i: i.patch(i.l1, struct.pack('>Q', value)))


def l2(value, bitmap=None, at=2, **kw):
    def fn(img):
        img.set_entry(at * img.cs, value, bitmap or 0)
    return change(fn, **kw)


EXT2 = dict(extended=True, cluster_bits=14, size=1 << 18)

add('bad-l2-unaligned', 'An L2 table between clusters (L-2).', 'CORRUPT', 'L1 entry 0=20992',
    l1(20992), fails='map')
add('bad-l2-past-end', 'An L2 table past the end of the file; zeros for QEMU (L-2).', 'CORRUPT',
    'L1 entry 0=1073741824', l1(1 << 30), fails='map')
add('bad-l2-half', 'An L2 table that the end of the file cuts (L-2).', 'CORRUPT',
    'ends past the end of the file',
    change(lambda i: i.patch(i.l1, struct.pack('>Q', i.next * i.cs)),
           lambda i: i.patch(i.next * i.cs, bytes(100))), fails='map')
add('bad-entry-v2-zero', 'A zero flag in version 2 (L-4).', 'CORRUPT', 'version 2',
    l2(1, version=2), fails='map')
add('bad-entry-unaligned', 'Data between clusters (L-7).', 'CORRUPT', 'not aligned',
    l2(4096 + 512), fails='map')
add('bad-zero-unaligned', 'The place of a zero cluster between clusters (L-6).', 'CORRUPT',
    'not aligned', l2(4096 + 512 + 1), fails='map')
add('bad-entry-past-end', 'Data past the end of the file; zeros for QEMU (L-7).', 'CORRUPT',
    'begins past the end of the file', l2(1 << 40), fails='map')


def run_past_end(img):
    at = img.next * img.cs - 2 * img.cs
    for i in range(4):
        img.set_entry((16 + i) * img.cs, at + i * img.cs)
    img.size = img.f['size'] = 32 * img.cs


add('bad-run-past-end', 'A run of clusters of which the last ones are past the end (L-7).',
    'CORRUPT', 'begins past the end of the file',
    change(run_past_end, size=32 * 4096), fails='map')


def bomb():
    img = Image(size=1 << 26, cluster_bits=12)
    table = img.alloc()
    for i in range(img.l1_size):
        img.patch(img.l1 + 8 * i, struct.pack('>Q', table))
    return img


add('bad-l1-bomb', 'Every L1 entry names the same L2 table (L-10).', 'CORRUPT',
    'L1 table has 32 entries in use, more than', bomb, fails='map')
add('bad-compressed-past-end', 'Compressed data past the end of the file (C-2).', 'CORRUPT',
    'compressed data past the end', l2(COMPRESSED | 1 << 40), fails='map')
add('bad-compressed-high', 'Compressed data above 2^56 (C-1).', 'CORRUPT', 'above 2^56',
    l2(COMPRESSED | 1 << 57), fails='map')
add('bad-subcluster-both', 'A subcluster that is both stored and zero (U-3).', 'CORRUPT',
    'both stored and zero', l2(1 << 14, 1 | 1 << 32, **EXT2), fails='map')
add('bad-subcluster-no-place', 'Subclusters stored nowhere (U-4).', 'CORRUPT',
    'no host offset', l2(0, 1, **EXT2), fails='map')
add('bad-subcluster-unaligned', 'The place of subclusters between clusters (U-6).', 'CORRUPT',
    'not aligned', l2(1 << 13, 0, **EXT2), fails='map')
add('bad-subcluster-past-end', 'Subclusters stored past the end of the file (L-7).', 'CORRUPT',
    'begins past the end of the file', l2(1 << 40, 1, **EXT2), fails='map')
add('bad-subcluster-bits', 'Subclusters of less than 512 bytes (H-6).', 'CORRUPT',
    'header cluster_bits=13', fields(dict(cluster_bits=13), incompatible=16))

# ------------------------------------------------------------- compressed ---


def stream(data, kind='zlib', sectors=None):
    def make():
        img = squeezed(1, kind)
        img.compressed(4 * 4096, pattern(1, 4096), data, sectors=sectors)
        return img
    return make


add('bad-zlib-damaged', 'A damaged deflate stream (C-4).', 'CORRUPT', 'deflate',
    stream(b'\x07' + bytes(100)), fails='read')
add('bad-zlib-short', 'A deflate stream of less than a cluster (C-4).', 'CORRUPT', 'deflate',
    stream(deflate(pattern(1, 4095))), fails='read')
add('bad-zlib-cut', 'A deflate stream longer than its sectors say (C-2).', 'CORRUPT', 'deflate',
    stream(struct.pack('<BHH', 1, 4096, 4096 ^ 0xffff) + pattern(1, 4096), sectors=2),
    fails='read')
add('bad-zstd-damaged', 'Not a zstd frame (C-5).', 'CORRUPT', 'zstd',
    stream(b'no zstd frame'.ljust(600), 'zstd'), fails='read')
add('bad-zstd-short', 'zstd frames of less than a cluster (C-5).', 'CORRUPT', 'zstd',
    stream(zstd_frame(pattern(1, 4095)), 'zstd'), fails='read')
add('bad-zstd-long', 'A zstd frame of more than a cluster (C-5).', 'CORRUPT', 'zstd',
    stream(zstd_frame(pattern(1, 4097)), 'zstd'), fails='read')
add('bad-zstd-window', 'A zstd window of 2 GiB (C-5).', 'CORRUPT', 'zstd',
    stream(zstd_frame(None, zstd_block(pattern(1, 4096)), window=21 << 3), 'zstd'), fails='read')
add('bad-zstd-reserved', 'A reserved zstd block (C-5).', 'CORRUPT', 'zstd',
    stream(zstd_frame(None, zstd_block(b'abc', kind=3), window=2 << 3), 'zstd'), fails='read')

# -------------------------------------------- snapshots, bitmaps, the rest ---


def snap(options=None, entries=(dict(ident=b'1', name=b'one'),), table=None, **f):
    def make():
        img = some()
        for e in entries:
            img.snapshot(**e)
        img.f.update(f)
        raw = img.build()
        if table:
            at = img.f['snapshots']
            off, data = table
            raw = raw[:at + off] + data + raw[at + off + len(data):]
        r = dict(bytes=raw, sha256=digest(img.disk), map=map_json(img.state, 1, [img.visible]))
        if options:
            r.update(options=options, sha256='-', map='-')
        return r
    return make


add('bad-snapshot-missing', 'A snapshot that is asked for is not there.', 'NOTFOUND',
    'the image has 1', snap('snapshot=nope'), fails='map')
add('bad-snapshot-l1-past-end', 'The L1 table of the snapshot asked for is past the end (S-4).',
    'CORRUPT', 'snapshot l1_table_offset=1099511627776',
    snap('snapshot=1', (dict(ident=b'1', name=b'one', l1=1 << 40),)), fails='map')
add('bad-snapshot-l1-unaligned', 'The L1 table of the snapshot lies between clusters (S-4).',
    'CORRUPT', 'snapshot l1_table_offset=4608',
    snap('snapshot=1', (dict(ident=b'1', name=b'one', l1=4608),)), fails='map')
add('bad-snapshot-l1-large', 'The L1 table of the snapshot has more than 32 MiB (S-4).', 'LIMIT',
    'snapshot l1_size=4194305',
    snap('snapshot=1', (dict(ident=b'1', name=b'one', l1_size=4194305),)), fails='map')
add('bad-snapshot-l1-small', 'The L1 table of the snapshot does not cover its disk (S-5).',
    'CORRUPT', 'snapshot l1_size=1',
    snap('snapshot=1', (dict(ident=b'1', name=b'one', disk_size=1 << 40),)), fails='map')
add('bad-snapshot-extra', 'A snapshot with too much extra data; the disk can be read (S-1).',
    'LIMIT', 'snapshot 0 extra_data_size=1025', snap(table=(36, struct.pack('>I', 1025))),
    fails='inspect')
add('bad-snapshot-name', 'A snapshot\'s name runs past the end of the file (S-1).', 'CORRUPT',
    'snapshot table', snap(table=(14, b'\xff\xff')), fails='inspect')
add('bad-snapshot-data-file', 'A snapshot with an external data file (D-4, S-8).', 'CORRUPT',
    'external data file',
    lambda: snapshot_of_external(), fails='map')


def snapshot_of_external():
    img = external(None)
    img.snapshot(b'1', b'one')
    return dict(bytes=img.build(), options='snapshot=1')


def bitmaps(entry=None, ext_=None, entries=1):
    def make():
        img = some()
        kw = dict(name=b'one')
        kw.update(entry or {})
        e = img.bitmap_entry(**kw) * entries
        x = dict(count=entries)
        x.update(ext_ or {})
        img.add_bitmaps(e, **x)
        return img
    return make


for _name, _why, _code, _message, _make in (
        ('none', 'No bitmap at all (B-1)', 'CORRUPT', 'nb_bitmaps=0', bitmaps(ext_=dict(count=0))),
        ('many', 'More than 65535 bitmaps (B-1)', 'LIMIT', 'nb_bitmaps=65536',
         bitmaps(ext_=dict(count=65536))),
        ('count', 'More bitmaps than the directory has (B-1)', 'CORRUPT', 'bitmap directory',
         bitmaps(ext_=dict(count=2))),
        ('dir-long', 'The directory goes on after its bitmaps (B-1)', 'CORRUPT',
         'directory_size=40', bitmaps(ext_=dict(size=40))),
        ('dir-large', 'A directory of more than 64 MiB (B-1)', 'LIMIT', 'directory_size=67108865',
         bitmaps(ext_=dict(size=(64 << 20) + 1))),
        ('dir-unaligned', 'The directory lies between clusters (B-1)', 'CORRUPT',
         'directory_offset=4608', bitmaps(ext_=dict(offset=4608))),
        ('dir-past-end', 'The directory is past the end of the file (B-1)', 'CORRUPT',
         'directory_offset=1099511627776', bitmaps(ext_=dict(offset=1 << 40))),
        ('table-zero', 'A bitmap table at 0 (B-2)', 'CORRUPT', 'table_offset=0',
         bitmaps(dict(offset=0))),
        ('table-past-end', 'A bitmap table past the end of the file (B-2)', 'CORRUPT',
         'table_offset=1099511627776', bitmaps(dict(offset=1 << 40))),
        ('table-empty', 'A bitmap table without entries (B-2)', 'CORRUPT', 'table_size=0',
         bitmaps(dict(table_size=0))),
        ('table-large', 'A bitmap of more than 512 MiB (B-2)', 'LIMIT', 'table_size=131073',
         bitmaps(dict(table_size=131073))),
        ('granularity', 'A granularity of 256 bytes (B-3)', 'LIMIT', 'granularity_bits=8',
         bitmaps(dict(granularity=8))),
        ('flags', 'Unknown flags (B-4)', 'CORRUPT', 'flags=8', bitmaps(dict(flags=8))),
        ('type', 'An unknown type (B-4)', 'UNSUPPORTED', 'type=2', bitmaps(dict(kind=2))),
        ('name-empty', 'A bitmap without a name (B-4)', 'CORRUPT', 'name_size=0',
         bitmaps(dict(name=b''))),
        ('name-long', 'A name of 1024 bytes (B-4)', 'CORRUPT', 'name_size=1024',
         bitmaps(dict(name=b'n' * 1024))),
        ('name-twice', 'Two bitmaps of one name (B-4)', 'CORRUPT', 'not unique',
         bitmaps(entries=2)),
        ('extra', 'Extra data past the end of the directory (B-5)', 'CORRUPT',
         'extra_data_size=4294967295', bitmaps(dict(extra_len=2**32 - 1))),
        ('small', 'A bitmap that does not cover the disk (B-7)', 'CORRUPT',
         'does not cover the disk', lambda: bitmap_small())):
    add('bad-bitmap-' + _name, _why + '; the disk can be read (B-8).', _code, _message, _make,
        fails='inspect')


def bitmap_small():
    img = Image(size=(4096 * 8 << 9) + 512, max_clusters=64)
    img.add_bitmaps(img.bitmap_entry(b'one', granularity=9), count=1)
    return img


def data_file(fn):
    def make():
        img = external('bad-data-file.raw')
        fn(img)
        return dict(bytes=img.build(), files={'bad-data-file.raw': bytes(65536)})
    return make


add('bad-data-file-offset', 'Data of an external file not at its disk offset (D-3).', 'CORRUPT',
    'differs from the disk offset', data_file(lambda i: i.set_entry(4096, 1 << 63 | 8192)),
    fails='map')
add('bad-data-file-compressed', 'A compressed cluster with an external data file (D-4, C-6).',
    'CORRUPT', 'compressed, in an image', data_file(lambda i: i.set_entry(4096, COMPRESSED | 4096)),
    fails='map')


def on(name, fmt='qcow2', **more):
    def make():
        img = layer([1])(None)
        img.set_backing(name, fmt)
        return dict(bytes=img.build(), **more)
    return make


def other(name, backing):
    img = layer([2])(None)
    img.set_backing(backing)
    return {name: img.build()}


add('bad-chain-loop-self', 'An image that is its own backing file (N-1).', 'CHAIN', 'loop',
    on('bad-chain-loop-self.qcow2'), fails='map')
add('bad-chain-loop-two', 'Two images that are each other\'s backing files (N-1).', 'CHAIN',
    'loop', on('bad-chain-loop-two.1.qcow2',
               files=other('bad-chain-loop-two.1.qcow2', './bad-chain-loop-two.qcow2')),
    fails='map')
add('bad-chain-missing', 'A backing file that is not there.', 'NOTFOUND', 'not-there.qcow2',
    on('not-there.qcow2'), fails='map')
add('unsupported-chain-format', 'A backing file of a format not known (X-5).', 'UNSUPPORTED',
    'vmdk', on('bad-chain-missing.qcow2', 'vmdk'), fails='map')
