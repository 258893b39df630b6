#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""qchain check against qemu-img check: the same numbers and exit codes of the same images, good, leaking and
broken; what it mends, qemu-img finds nothing wrong with, and the disk is the same."""
import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile

import interop_lib as lib

# Options of images, and whether they can have internal snapshots.
KINDS = [
    ('', True), ('compat=0.10', True), ('cluster_size=512', True), ('cluster_size=2M', True),
    ('extended_l2=on', True), ('refcount_bits=1', False), ('refcount_bits=2', True),
    ('refcount_bits=64,cluster_size=4k', True), ('preallocation=metadata', True),
    ('compression_type=zstd', True), ('lazy_refcounts=on', True), ('data_file=%s.raw', False),
    ('data_file=%s.raw,data_file_raw=on', False), ('cluster_size=4k,refcount_bits=8', True),
]
wrong = []


def run(*args):
    return subprocess.run(args, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)


def must(*args):
    r = run(*args)
    if r.returncode != 0:
        raise SystemExit('%s: %s' % (' '.join(args), r.stderr.decode(errors='replace')))
    return r


def fault(what, text):
    wrong.append(what)
    print('%s: %s' % (what, text))


def numbers(program, image, *options):
    r = run(*program, '-f', 'qcow2', '--output=json', *options, image)
    try:
        return r.returncode, json.loads(r.stdout)
    except ValueError:
        return r.returncode, None


def human(program, image):
    r = run(*program, '-f', 'qcow2', image)
    return r.returncode, r.stdout.decode()


def same(args, image, what):
    """Both programs say the same of an image; its exit code."""
    q, m = numbers(args.qemu, image), numbers(args.check, image)
    if q != m:
        fault(what, 'qemu-img says %s, qchain %s' % (q, m))
    elif human(args.qemu, image) != human(args.check, image):
        fault(what, 'the texts differ')
    return m[0]


def digest(image):
    r = run('sh', '-c', 'qemu-img convert -f qcow2 -O raw "$1" "$1.out" && sha256sum <"$1.out"', '-', image)
    return r.stdout if r.returncode == 0 else None


def make(rng, path, options, snapshots):
    """An image with a past."""
    size = rng.choice((1, 5, 24)) << 20
    grain = 512 if 'data_file' in options else 2 << 20
    must('qemu-img', 'create', '-q', '-f', 'qcow2', *(('-o', options.replace('%s', path)) if options else ()),
         path, str(size))
    for step in range(rng.randrange(1, 7)):
        commands = []
        for _ in range(rng.randrange(1, 9)):
            at = rng.randrange(0, size, 65536)
            n = min(size - at, rng.choice((512, 4096, 65536, 300 << 10)))
            commands += ['-c', rng.choice(('write -P %d %d %d' % (rng.randrange(1, 255), at, n),
                                           'write -z %d %d' % (at, n), 'discard %d %d' % (at, n)))]
        if grain > 512 and rng.random() < 0.4:
            commands += ['-c', 'write -c -P 7 %d %d' % (rng.randrange(0, max(1, size - grain + 1), grain), min(grain, size))]
        run('qemu-io', '-f', 'qcow2', *commands, path)
        if snapshots and rng.random() < 0.5:
            run('qemu-img', 'snapshot', '-c', 's%d' % step, path)
        if snapshots and rng.random() < 0.2:
            run('qemu-img', 'snapshot', '-d', 's%d' % (step - 1), path)
    if 'compat=0.10' not in options and rng.random() < 0.5:
        run('qemu-img', 'bitmap', '--add', '-f', 'qcow2', path, 'b')


class Bytes:
    """The metadata of an image, to be damaged."""

    def __init__(self, path):
        self.path = path
        with open(path, 'rb') as f:
            self.data = bytearray(f.read())
        self.cluster = 1 << self.number(20, 4)
        self.order = self.number(96, 4) if self.number(4, 4) == 3 else 4
        table = self.number(48)
        self.blocks = [b for b in (self.number(table + 8 * i) for i in range(self.cluster // 8)) if b]
        self.per = self.cluster * 8 >> self.order

    def number(self, at, n=8):
        return int.from_bytes(self.data[at:at + n], 'big')

    def put(self, at, value, n=8):
        self.data[at:at + n] = value.to_bytes(n, 'big')

    def l2s(self):
        out = []
        for i in range(self.number(36, 4)):
            at = self.number(self.number(40) + 8 * i) & 0xfffffffffffe00
            if at:
                out.append(at)
        return out

    def store(self):
        with open(self.path, 'wb') as f:
            f.write(self.data)

    def set_count(self, cluster, change):
        if self.order < 3 or cluster >= self.per:
            return
        width = (1 << self.order) // 8
        at = self.blocks[0] + cluster * width
        self.put(at, max(0, min((1 << (8 * width)) - 1, self.number(at, width) + change)), width)


def leak(rng, b):
    end = len(b.data) // b.cluster
    for _ in range(rng.randrange(1, 5)):
        b.set_count(rng.randrange(min(end, b.per)), 1)


def free(rng, b):
    for _ in range(rng.randrange(1, 4)):
        b.set_count(rng.randrange(len(b.data) // b.cluster), -1)


def flags(rng, b):
    l2s = b.l2s()
    for _ in range(rng.randrange(1, 5)):
        if l2s:
            at = rng.choice(l2s) + 16 * rng.randrange(b.cluster // 16)
            if b.number(at) & 0xfffffffffffe00 and not b.number(at) >> 62 & 1:
                b.data[at] ^= 0x80


def past_end(rng, b):
    l2s = b.l2s()
    if l2s and b.number(72) & 4 == 0:
        b.put(rng.choice(l2s) + 16 * rng.randrange(b.cluster // 16), 1 << 40)


def good_images(args, rng, work):
    good = 0
    for i in range(args.count):
        options, snapshots = KINDS[i % len(KINDS)]
        path = os.path.join(work, 'good%d' % i)
        make(rng, path, options, snapshots)
        if same(args, path, 'image %d (%s)' % (i, options)) == 0:
            good += 1
    if good < args.count // 2:  # a snapshot that QEMU cannot make leaves leaks
        fault('images', 'only %d are good' % good)


def check_repair(args, path, what, how):
    """Mend a copy; compare with what qemu-img makes of another one."""
    mine, theirs = path + '.mine', path + '.theirs'
    shutil.copy(path, mine)
    shutil.copy(path, theirs)
    before, verdict = digest(path), numbers(args.check, path)[0]
    m, q = numbers(args.check, mine, '-r', how), numbers(args.qemu, theirs, '-r', how)
    after = numbers(args.check, mine), numbers(args.qemu, mine)
    if before and digest(mine) != before:
        fault(what, '-r %s changes the disk' % how)
    with open(path, 'rb') as f:
        bitmaps = b'\x23\x85\x28\x75' in f.read(65536)
    if how == 'leaks' and (verdict != 3 or bitmaps):
        # Opened for writing, QEMU stores bitmaps anew, and counts what it frees by that.
        return  # what else is wrong QEMU mends in part, and this library not at all
    if q[0] == 0 and (m[0] != 0 or after[0][0] != 0 or after[1][0] != 0):
        fault(what, '-r %s: qemu-img mends it, qchain: %s, and then %s, %s' % (how, m, *after))
    if how == 'leaks' and m[1].get('leaks-fixed') != q[1].get('leaks-fixed'):
        fault(what, 'leaks mended: %s, by qemu-img %s' % (m[1], q[1]))


def broken_images(args, rng, work):
    for i in range(args.count * 2):
        options, snapshots = KINDS[i % len(KINDS)]
        path = os.path.join(work, 'broken%d' % i)
        make(rng, path, options, snapshots)
        b = Bytes(path)
        done = [f.__name__ for f in rng.sample([leak, free, flags, past_end], rng.randrange(1, 3))
                if f(rng, b) is None]
        b.store()
        what = 'broken image %d (%s; %s)' % (i, options, ', '.join(done))
        same(args, path, what)
        check_repair(args, path, what, 'all')
        check_repair(args, path, what, 'leaks')
        for name in os.listdir(work):
            os.unlink(os.path.join(work, name))


# Where the verdict is not QEMU's. Those whose header this library refuses, or QEMU does, are left out.
DIFFER = {
    'bad-bitmap-name-empty': 'a bitmap must have a name; QEMU takes it',
    'bad-data-file-offset': 'the offset in an external data file must be that of the disk; QEMU does not look',
    'bad-entry-unaligned': 'what an unaligned entry meant is not known; QEMU counts both clusters it touches',
    'bad-entry-v2-zero': 'version 2 has no zero flag; QEMU does not look',
    'bad-l2-half': 'a table that is cut by the end of the file is damage; QEMU takes the rest for zeros',
    'bad-l2-unaligned': 'an unaligned table is not followed; QEMU reads entries out of what lies there',
    'bad-run-past-end': 'refcounts past the end are not looked at for COPIED flags; QEMU does',
    'bad-snapshot-name': 'of a snapshot whose entry is cut nothing is used; QEMU reads zeros',
    'bad-snapshots-past-end': 'the same',
    'bad-subcluster-both': 'a cluster that is data and refcount block at once is told of, though its count is right',
    'bad-subcluster-unaligned': 'as bad-entry-unaligned',
    'bad-zero-unaligned': 'as bad-entry-unaligned',
    'good-reftable-missing': 'that the header names no refcount table counts by itself',
    'good-subclusters-compressed': 'a compressed cluster with a bitmap is still in use; QEMU takes it for leaked',
}


def files(args):
    """The hostile and the odd images."""
    n = 0
    if not args.files:
        return
    os.chdir(args.files)
    for image in sorted(os.listdir('.')):
        name = image[:-6]
        if not image.endswith('.qcow2') or 'loop' in name:
            continue
        q, m = numbers(args.qemu, image), numbers(args.check, image)
        if q[1] is None or m[1] is None:
            continue
        n += 1
        if (q != m) != (name in DIFFER):
            fault(name, 'qemu-img says %s, qchain %s' % (q, m))
    print('%d files compared' % n)


def command_line(args, work):
    image, raw = os.path.join(work, 'cmd.qcow2'), os.path.join(work, 'cmd.raw')
    must('qemu-img', 'create', '-q', '-f', 'qcow2', image, '1M')
    must('qemu-img', 'create', '-q', '-f', 'raw', raw, '1M')
    for rest in ([image], ['-q', image], ['-f', 'raw', image], [raw], ['--output=json', raw], ['-r', 'x', image],
                 ['-T', 'x', image], ['-T', 'none', image], [], ['--output=x', image], ['-U', image],
                 ['-U', '-r', 'all', image], [image + 'not'], ['-r', 'all', image], [image, image],
                 ['--image-opts', 'driver=qcow2,file.filename=' + image]):
        q, m = run(*args.qemu, *rest), run(*args.check, *rest)
        if (q.returncode, q.stdout) != (m.returncode, m.stdout):
            fault('check ' + ' '.join(rest), 'qemu-img ends with %d, qchain with %d' % (q.returncode, m.returncode))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--bin', default=os.environ.get('QC_BIN', 'build/bin'))
    parser.add_argument('--hammer')
    parser.add_argument('--files', default=os.environ.get('QC_FILES'))
    parser.add_argument('--seed', type=int, default=lib.any_seed())
    parser.add_argument('--count', type=int, default=14)
    args = parser.parse_args()
    if not shutil.which('qemu-img') or not shutil.which('qemu-io'):
        print('qemu-img and qemu-io are not installed')
        return 77
    args.check = [os.path.abspath(os.path.join(args.bin, 'qchain-check'))]
    args.qemu = ['qemu-img', 'check']
    print('seed %d' % args.seed)
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as work:
        command_line(args, work)
        good_images(args, rng, work)
        broken_images(args, rng, work)
    files(args)
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
