# SPDX-License-Identifier: MIT
"""The good images: (name, why, function). See make-files.py."""
import struct

from qcow2_maker import (COMPRESSED, EXT_DATA_FILE, EXT_FEATURES, EXT_FORMAT, Below, Image, deflate,
                         digest, map_json, pattern, raw_below, zstd_frame)

GOOD = []


def good(why):
    def add(fn):
        GOOD.append((fn.__name__.replace('_', '-') + '.qcow2', why, fn))
        return fn
    return add


def result(img, qemu=1, layers=1, sizes=None, mapped=True, **more):
    """What is expected of an image that is read as its maker says."""
    r = dict(qemu=qemu, sha256=digest(img.disk),
             map=map_json(img.state, layers, sizes or [img.visible]) if mapped else '-')
    r.update(bytes=img.build(), **more)
    return r


def some(**kw):
    """An image with a bit of everything that versions and sizes have in common."""
    img = Image(**kw)
    img.write(0, pattern(1, 2 * img.cs))
    img.write(3 * img.cs, pattern(2, img.cs))
    if img.version >= 3:
        img.zero(5 * img.cs, 2)
        img.zero(8 * img.cs, 1, allocated=True)
    return img


@good('Version 2: header of 72 bytes, no zero clusters (H-22).')
def good_v2():
    return result(some(version=2))


@good('Version 3, clusters of 4 KiB: data, zero and zero-with-a-place clusters (L-6).')
def good_v3():
    return result(some())


@good('Clusters of 512 bytes, the smallest; two L2 tables next to each other (H-6).')
def good_cluster_512():
    img = Image(cluster_bits=9, size=65536)
    img.table(0)
    img.table(img.cover)
    img.write(img.cover - 512, pattern(3, 1024))
    return result(img)


@good('Clusters of 2 MiB, the largest (H-6); the file is sparse.')
def good_cluster_2m():
    img = Image(cluster_bits=21, size=(4 << 20) + 512, max_clusters=64)
    at = img.alloc()
    img.set_entry(2 << 20, at, forced=False)
    img.put(at, pattern(4, 1024))
    img.mark(2 << 20, 2 << 20, pattern(4, 1024).ljust(2 << 20, b'\0'), 'data', at)
    r = result(img, mapped=False)
    raw = r['bytes']
    r['bytes'] = {i: raw[i:i + 4096] for i in range(0, len(raw), 4096) if any(raw[i:i + 4096])}
    r['bytes'][None] = len(raw)
    return r


@good('A disk of 0 bytes without L1 table (H-9).')
def good_empty():
    return result(Image(size=0), mapped=False)


@good('The disk ends within a sector: rounded down to 512, as QEMU does (H-7).')
def good_size_rounded():
    img = Image(size=10000)
    img.write(0, pattern(5, 3 * 4096))
    img.disk = img.disk[:img.visible]
    return result(img)


@good('An L1 table larger than the disk needs, with an entry past it, and L2 entries '
      'past the end of the disk, as VM states and shrinking leave them (L-9).')
def good_beyond_size():
    img = Image(size=8 * 4096, l1_size=3)
    img.write(0, pattern(6, 4096))
    img.set_entry(9 * 4096, img.alloc(), forced=False)
    img.l2[2] = (img.alloc(), [(img.alloc(), 0)] * img.cover_entries)
    return result(img)


@good('Reserved bits of L1 and L2 entries are set; they are not looked at (L-1, L-5).')
def good_reserved_bits():
    img = some()
    r = result(img)
    raw = bytearray(r['bytes'])
    l2 = img.l2[0][0]
    raw[img.l1] |= 0x7f
    raw[img.l1 + 7] |= 0xff
    raw[l2] |= 0x3f
    raw[l2 + 7] |= 0xfe
    r['bytes'] = bytes(raw)
    return r


@good('COPIED flags that refcounts do not bear out; reading does not care (L-8).')
def good_copied_flags():
    img = some()
    entries, i = img.table(0)
    img.set_entry(0, entries[i][0])
    return result(img)


@good('The data of the last cluster is cut by the end of the file: zeros follow (L-7).')
def good_tail_cut():
    img = some()
    img.write(10 * 4096, pattern(7, 4096))
    img.length = img.next * 4096 - 1000
    img.mark(10 * 4096, 4096, pattern(7, 3096).ljust(4096, b'\0'), 'data', (img.next - 1) * 4096)
    return result(img, mapped=False)


@good('A zero cluster whose place is past the end of the file: nothing is read there (L-6).')
def good_zero_past_end():
    img = some()
    img.set_entry(10 * 4096, (1 << 40) | 1)
    img.mark(10 * 4096, 4096, None, 'zero')
    return result(img)


@good('Marked dirty: refcounts may be stale, reading does not need them (H-15).')
def good_dirty():
    img = some()
    img.f['incompatible'] |= 1
    return result(img)


@good('Marked corrupt: may still be read (H-16).')
def good_corrupt():
    img = some()
    img.f['incompatible'] |= 2
    return result(img)


@good('Unknown compatible features are ignored (H-17).')
def good_compatible_unknown():
    img = some()
    img.f['compatible'] |= 1 << 40
    return result(img)


@good('Unknown autoclear features do not hinder reading (H-18).')
def good_autoclear_unknown():
    img = some()
    img.f['autoclear'] |= 1 << 40
    return result(img)


@good('The bitmaps bit without the extension counts as not set (H-18).')
def good_autoclear_bitmaps():
    img = some()
    img.f['autoclear'] |= 1
    return result(img)


def refcounts(order):
    def make():
        return result(some(order=order))
    make.__name__ = 'good_refcount_%d' % (1 << order)
    return make


for _order in range(7):
    good('Refcounts of %d bits (H-19).' % (1 << _order))(refcounts(_order))


@good('No refcount table: reading does without (H-11, H-12, R-5).')
def good_reftable_missing():
    img = some()
    img.f.update(reftable=0, reftable_clusters=0)
    return result(img, qemu=0)


@good('A refcount table past the end of the file (H-11, R-5).')
def good_reftable_past_end():
    img = some()
    img.f['reftable'] = 1 << 30
    return result(img)


@good('A longer header with fields that are not known (H-20).')
def good_header_long():
    return result(some(header_length=512))


@good('A header of 112 bytes that says zlib (H-21).')
def good_header_112():
    return result(some(header_length=112))


@good('Extensions of unknown types are skipped, whatever their length (X-2).')
def good_ext_unknown():
    img = some()
    for n in (0, 1, 8, 100):
        img.add_ext(0x12340000 + n, pattern(n, n))
    return result(img)


@good('The room for extensions is full: no end marker (X-3).')
def good_ext_full():
    img = some()
    img.add_ext(0x12345678, pattern(1, 4096 - 104 - 8))
    img.ext_end = False
    return result(img)


@good('So many extensions that they do not fit the first read (X-9).')
def good_ext_many():
    img = some(cluster_bits=16, size=20 << 16)
    for i in range(2000):
        img.add_ext(0x20000000 + i, b'')
    return result(img)


@good('A table of feature names, with names as long as they get (X-6).')
def good_features():
    img = some()
    img.add_ext(EXT_FEATURES, b''.join(bytes([k % 3, k]) + b'n' * 46 for k in range(12)))
    return result(img)


@good('A feature name for a bit and kind that cannot be: not looked at (X-6).')
def good_features_odd():
    img = some()
    img.add_ext(EXT_FEATURES, bytes([7, 200]) + b'x'.ljust(46, b'\0'))
    return result(img)


@good('An empty backing format, without a backing file (X-5).')
def good_format_empty():
    img = some()
    img.add_ext(EXT_FORMAT, b'')
    return result(img)


# ------------------------------------------------------------- compressed ---

def squeezed(n=3, kind='zlib', **kw):
    img = Image(compression=int(kind == 'zstd'), **kw)
    for i in range(n):
        content = pattern(20 + i, img.cs)
        img.compressed(i * img.cs, content,
                       deflate(content) if kind == 'zlib' else zstd_frame(content))
    img.write((n + 1) * img.cs, pattern(30, img.cs))
    return img


@good('Clusters compressed with zlib (C-4).')
def good_zlib():
    return result(squeezed())


@good('Compressed clusters of 512 bytes in version 2: the offset has 61 bits (C-1).')
def good_zlib_512():
    return result(squeezed(version=2, cluster_bits=9, size=8192))


@good('Compressed clusters of 64 KiB.')
def good_zlib_64k():
    return result(squeezed(cluster_bits=16, size=1 << 20))


@good('Compressed clusters packed at odd bytes; one runs into the next host cluster (C-2).')
def good_zlib_packed():
    img = Image()
    at = img.alloc(3) + 4096 - 301
    for i in range(4):
        content = bytes(pattern(40 + i, 700) + bytes(4096 - 700))
        stream = deflate(content)
        img.compressed(i * 4096, content, stream, host=at)
        at += len(stream)
    return result(img)


@good('Distances of 32 KiB in a deflate stream (C-4).')
def good_zlib_window():
    img = Image(cluster_bits=16, size=1 << 20)
    import random
    rnd = random.Random(1)
    block = bytes(rnd.randrange(256) for _ in range(32000))
    content = (block + block + block)[:65536]
    img.compressed(0, content, deflate(content, -15))
    return result(img)


@good('Other bytes follow the end of a deflate stream (C-4).')
def good_zlib_trailing():
    img = Image()
    content = pattern(50, 4096)
    img.compressed(0, content, deflate(content) + b'\xff' * 700)
    return result(img)


@good('A deflate stream without a final block: the cluster is whole, which is enough; '
      'QEMU reads on and fails (C-4).')
def good_zlib_unfinished():
    img = Image()
    content = pattern(51, 4096)
    stream = struct.pack('<BHH', 0, 4096, 4096 ^ 0xffff) + content
    img.compressed(0, content, stream + bytes(600))
    return result(img, qemu=0)


@good('The last sector of a compressed cluster is cut by the end of the file (C-2).')
def good_zlib_cut():
    img = Image()
    content = pattern(52, 300) + bytes(4096 - 300)
    stream = deflate(content)
    img.table(0)
    img.compressed(0, content, stream, sectors=3)
    img.length = (img.next - 1) * 4096 + len(stream)
    return result(img)


@good('Stored deflate blocks: the stream is longer than the cluster (C-3).')
def good_zlib_stored():
    img = Image()
    content = pattern(53, 4096)
    stream = struct.pack('<BHH', 0, 2000, 2000 ^ 0xffff) + content[:2000]
    stream += struct.pack('<BHH', 1, 2096, 2096 ^ 0xffff) + content[2000:]
    img.compressed(0, content, stream)
    return result(img)


@good('Clusters compressed with zstd (H-21, C-5).')
def good_zstd():
    return result(squeezed(kind='zstd'))


@good('A cluster of several zstd frames, bytes after the last (C-5).')
def good_zstd_frames():
    img = Image(compression=1)
    content = pattern(54, 4096)
    stream = zstd_frame(content[:100]) + zstd_frame(content[100:]) + b'tail'
    img.compressed(0, content, stream, sectors=10)
    return result(img)


@good('A skippable zstd frame before the data (C-5).')
def good_zstd_skippable():
    img = Image(compression=1)
    content = pattern(55, 4096)
    img.compressed(0, content, struct.pack('<II', 0x184d2a50, 5) + b'12345' + zstd_frame(content))
    return result(img)


@good('The COPIED flag on a compressed cluster is ignored (L-8).')
def good_zlib_copied():
    img = Image()
    content = pattern(56, 4096)
    img.compressed(0, content, deflate(content))
    entries, i = img.table(0)
    img.set_entry(0, entries[i][0] | 1 << 63)
    return result(img)


# ------------------------------------------------------------ subclusters ---

@good('Subclusters: stored, zero, neither, with a place and without (U-1 to U-6).')
def good_subclusters():
    img = Image(extended=True, cluster_bits=14, size=1 << 18)
    img.write(0, pattern(60, 1 << 14))
    img.subclusters(1 << 14, pattern(61, 1 << 14), 0x0000ff01, 0x80ff0000)
    img.subclusters(2 << 14, None, 0, 0xf0000001)
    img.subclusters(3 << 14, pattern(62, 1 << 14), 0, 0)
    img.zero(4 << 14, 2)
    img.zero(6 << 14, 1, allocated=True)
    img.subclusters(7 << 14, pattern(63, 1 << 14), 0x80000000, 0x7fffffff)
    content = pattern(64, 1 << 14)
    img.compressed(8 << 14, content, deflate(content))
    return result(img)


@good('A compressed cluster with a subcluster bitmap: ignored (U-5).')
def good_subclusters_compressed():
    img = Image(extended=True, cluster_bits=14, size=1 << 18)
    content = pattern(65, 1 << 14)
    img.compressed(0, content, deflate(content), bitmap=0xffff0000ffff)
    return result(img)


@good('Bit 0 of an entry with subclusters is reserved, no zero flag (U-2).')
def good_subclusters_bit_0():
    img = Image(extended=True, cluster_bits=14, size=1 << 18)
    img.write(0, pattern(66, 1 << 14))
    r = result(img)
    raw = bytearray(r['bytes'])
    raw[img.l2[0][0] + 7] |= 1
    r['bytes'] = bytes(raw)
    return r


# -------------------------------------------------------------- snapshots ---

def with_snapshots(**kw):
    img = some(**kw)
    img.snapshot(b'1', b'first')
    old = (bytes(img.disk), list(img.state))
    img.write(4096, pattern(70, 4096))
    img.snapshot(b'2', b'1st \xff\n')
    img.write(0, pattern(71, 4096))
    return img, old


@good('Internal snapshots; the active layer is read (S-1, S-3).')
def good_snapshots():
    return result(with_snapshots()[0])


@good('The first of two internal snapshots, by its id.')
def good_snapshot_by_id():
    img, old = with_snapshots()
    img.disk, img.state = old
    return result(img, options='snapshot=1')


@good('The first of two internal snapshots, by its name.')
def good_snapshot_by_name():
    img, old = with_snapshots()
    img.disk, img.state = old
    return result(img, options='snapshot=first')


@good('Two internal snapshots of one name: the first is meant (S-3).')
def good_snapshot_same_name():
    img = some()
    img.snapshot(b'1', b'same')
    old = (bytes(img.disk), list(img.state))
    img.write(4096, pattern(70, 4096))
    img.snapshot(b'2', b'same')
    img.write(0, pattern(71, 4096))
    img.disk, img.state = old
    return result(img, options='snapshot=same')


@good('A snapshot of a smaller disk: its own size counts (S-5).')
def good_snapshot_smaller():
    img = some()
    img.snapshot(b'7', b'small', disk_size=3 * 4096)
    img.disk, img.state, img.visible = img.disk[:3 * 4096], img.state[:24], 3 * 4096
    return result(img, qemu=0, options='snapshot=7')


@good('A snapshot without extra data: the size is the header\'s (S-2).')
def good_snapshot_no_extra():
    img = some()
    img.snapshot(b'1', b'old', extra=b'')
    return result(img, options='snapshot=1')


@good('A snapshot with more extra data than is known (S-1).')
def good_snapshot_more_extra():
    img = some()
    img.snapshot(b'1', b'new', extra=struct.pack('>QQQ', 0, img.size, 9) + b'x' * 1000)
    return result(img, options='snapshot=1')


@good('The L1 table of a snapshot is past the end of the file; the active layer is read (S-4).')
def good_snapshot_bad_l1():
    img = some()
    img.snapshot(b'1', b'broken', l1=1 << 40)
    return result(img)


# ---------------------------------------------------------------- bitmaps ---

@good('Persistent bitmaps, one of them in use (B-1 to B-4).')
def good_bitmaps():
    img = some()
    e = img.bitmap_entry(b'one') + img.bitmap_entry(b'two', granularity=9, flags=1)
    img.add_bitmaps(e, count=2)
    return result(img)


@good('A bitmap with extra data that does no harm (B-5).')
def good_bitmap_extra():
    img = some()
    img.add_bitmaps(img.bitmap_entry(b'one', flags=4, extra=b'12345'), count=1)
    return result(img, qemu=0)


@good('Bitmaps that an ignorant writer made stale: not listed (H-18).')
def good_bitmaps_stale():
    img = some()
    img.add_bitmaps(b'\xff' * 64, count=3, auto=False)
    return result(img)


# --------------------------------------------------- external data, chains ---

def external(name, raw_flag=False, **kw):
    img = Image(data_file=True, **kw)
    img.write(0, pattern(80, 4096))
    img.write(5 * 4096, pattern(81, 2 * 4096))
    img.zero(8 * 4096, 1)
    img.zero(9 * 4096, 1, allocated=True)
    img.write(12 * 4096, pattern(82, 4096))
    if name:
        img.add_ext(EXT_DATA_FILE, name.encode())
    if raw_flag:
        img.f['autoclear'] |= 2
    return img


@good('An external data file, named in the image (D-1, D-3); data lies where it is on the '
      'disk, offset 0 included.')
def good_data_file():
    img = external('good-data-file.raw')
    data = bytes(img.disk[:10 * 4096]) + bytes(2 * 4096) + pattern(82, 4096)
    return result(img, files={'good-data-file.raw': data})


@good('An external data file that is raw by itself.')
def good_data_file_raw():
    img = external('good-data-file-raw.raw', raw_flag=True)
    return result(img, files={'good-data-file-raw.raw': bytes(img.disk)})


@good('An external data file that is too short: zeros (L-7).')
def good_data_file_short():
    img = external('good-data-file-short.raw')
    img.mark(12 * 4096, 4096, None, 'data', 12 * 4096)
    return result(img, mapped=False, files={'good-data-file-short.raw': bytes(img.disk[:7 * 4096])})


@good('The name of a data file without the feature bit is ignored (D-2).')
def good_data_file_unused():
    img = some()
    img.add_ext(EXT_DATA_FILE, b'not-there.raw')
    return result(img)


def chain(name, layers):
    """layers: functions from the layer below to an Image, or bytes, from the bottom up."""
    below, files, sizes, under = Below(), {}, [], None
    for i, layer in enumerate(layers):
        last = i == len(layers) - 1
        if isinstance(layer, bytes):
            under, fmt = '%s.%d.raw' % (name, i), 'raw'
            files[under] = layer
            below = raw_below(layer)
            sizes.append(len(below.disk))
            continue
        img = layer(below)
        if under:
            img.set_backing(under, fmt)
        sizes.append(img.visible)
        below = img.as_below()
        under, fmt = '%s.%d.qcow2' % (name, i), 'qcow2'
        if not last:
            files[under] = img.build()
    return img, files, sizes[::-1]


def chain_result(name, layers, **more):
    img, files, sizes = chain(name, layers)
    return result(img, layers=len(sizes), sizes=sizes, files=files, **more)


def layer(writes, zeros=(), seed=100, **kw):
    def make(below):
        img = Image(below=below, **kw)
        for k, c in enumerate(writes):
            img.write(c * img.cs, pattern(seed + k, img.cs))
        for c in zeros:
            img.zero(c * img.cs)
        return img
    return make


@good('A chain of three layers.')
def good_chain():
    return chain_result('good-chain', [layer([0, 1, 2, 7]), layer([1], [2], 110),
                                       layer([3], [7], 120)])


@good('A chain of versions and cluster sizes (N-6).')
def good_chain_mixed():
    return chain_result('good-chain-mixed', [
        layer([0, 3], version=2, cluster_bits=13), layer([1, 9], [4], 110, cluster_bits=9),
        layer([0], [], 120, cluster_bits=14, extended=True), layer([5], [], 130, cluster_bits=12)])


@good('A shorter backing file, its end inside a cluster: zeros follow (N-3).')
def good_chain_short():
    return chain_result('good-chain-short', [
        layer([0, 1, 2, 3, 4], size=5 * 512, cluster_bits=9), layer([3], size=32768)])


@good('A longer backing file: what is past the disk is not seen (N-3).')
def good_chain_long():
    return chain_result('good-chain-long', [layer([0, 1, 2, 3, 8, 15]), layer([1], size=9000)])


@good('A short layer in the middle hides what is deeper past its end (N-3).')
def good_chain_hidden():
    return chain_result('good-chain-hidden', [
        layer(range(16)), layer([0], size=4 * 4096, seed=110), layer([1], seed=120)])


@good('A raw layer whose length is no multiple of 512: zeros follow (N-4).')
def good_chain_raw():
    return chain_result('good-chain-raw', [pattern(90, 5000), layer([3])], mapped=False)


@good('Subclusters that show the backing file, with a place and without (U-6).')
def good_chain_subclusters():
    def top(below):
        img = Image(below=below, extended=True, cluster_bits=14)
        img.subclusters(0, pattern(91, 1 << 14), 0xff, 0xff00)
        img.subclusters(1 << 14, None, 0, 0x1)
        img.subclusters(2 << 14, pattern(92, 1 << 14), 0, 0)
        return img
    return chain_result('good-chain-subclusters', [layer(range(16)), top])


@good('A backing file name that does not lie in the first read of the file (H-3).')
def good_chain_far_name():
    def top(below):
        img = Image(below=below, cluster_bits=16, size=65536)
        img.gap = 50000
        return img
    img, files, sizes = chain('good-chain-far-name', [layer([0, 2]), top])
    img.gap = 50000
    return result(img, layers=2, sizes=sizes, files=files)


@good('Damage that salvaging gets over: data and a table past the end of the file read as '
      'zeros.')
def good_salvage():
    img = some(l1_size=1)
    img.set_entry(0, 1 << 40)
    img.mark(0, 4096, None, 'zero')
    img.set_entry(10 * 4096, COMPRESSED | 1 << 40)
    img.mark(10 * 4096, 4096, None, 'zero')
    return result(img, qemu=0, options='salvage')
