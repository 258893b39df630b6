#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""qchain-fuse: the disk and the layers of random chains against qemu-img; writing against a model; how it ends.

Arguments name the checks to run; --seed N makes the same chains again, --keep keeps the directory."""
import argparse
import concurrent.futures
import contextlib
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

import fuse_mount as fm
import interop_lib as lib
from chain_maker import ChainMaker
from fuse_mount import Mount, fails, opened
from interop_lib import Mismatch

SECTOR = 512


class Place:
    """A directory, a generator, and numbered mount points."""

    def __init__(self, directory, seed, args):
        self.directory, self.seed, self.args = directory, seed, args
        self.rng = random.Random(seed)
        self.n = 0

    def path(self, *names):
        return os.path.join(self.directory, *names)

    def new(self, name):
        self.n += 1
        return self.path(f"{name}{self.n}")

    def mount(self, *args, **how):
        return Mount(self.new("mnt"), *args, path=self.args.fuse, **how)

    def run(self, *argv, ok=(0,), cwd=None, timeout=300):
        done = subprocess.run(argv, cwd=cwd or self.directory, capture_output=True, timeout=timeout, check=False,
                              stdin=subprocess.DEVNULL)
        if ok is not None and done.returncode not in ok:
            raise Mismatch(f"exit {done.returncode}: {argv}\n{(done.stdout + done.stderr)[-2000:].decode('utf-8', 'replace')}")
        return done

    def simple(self, size=16 << 20, writes=12, names=("base.raw", "mid.qcow2", "top.qcow2"), options="cluster_size=64k"):
        """A chain with relative names in a directory of its own; (its directory, its top)."""
        home, below = self.new("chain"), None
        os.mkdir(home)
        for name in names:
            fmt = name.rsplit(".", 1)[1]
            if fmt == "raw":
                self.run("qemu-img", "create", "-q", "-f", fmt, name, str(size), cwd=home)
            else:
                argv = ["-u", "-b", below, "-F", below.rsplit(".", 1)[1]] if below else []
                self.run("qemu-img", "create", "-q", "-f", fmt, "-o", options, *argv, name, str(size), cwd=home)
            commands = []
            for _ in range(writes):
                at = self.rng.randrange(size // 4096) * 4096
                n = min(size - at, self.rng.choice((4096, 65536, 200704)))
                commands += ["-c", f"write -q -P {self.rng.randint(1, 255)} {at} {n}"]
            self.run("qemu-io", "-f", fmt, *commands, name, cwd=home)
            below = name
        return home, os.path.join(home, below)

    def flat(self, top, fmt="qcow2", cwd=None):
        out = self.new("flat") + ".raw"
        self.run("qemu-img", "convert", "-U", "-f", fmt, "-O", "raw", top, out, cwd=cwd)
        return out


def read_all(path):
    with open(path, "rb") as f:
        return f.read()


# -------------------------------------------------------------------- the disk ---

def expected_data(place, top, fmt, cwd):
    """What qemu-img map says has data, joined."""
    out = place.run("qemu-img", "map", "-U", "--output=json", "-f", fmt, top, cwd=cwd)
    return [tuple(x) for x in lib.union([(e["start"], e["start"] + e["length"])
                                         for e in json.loads(out.stdout) if e["data"]])]


def one_random(place, seed):
    """A random chain: bytes, size, space, holes, O_DIRECT, both as a directory and as a file."""
    rng = random.Random(seed)
    home = place.new("random")
    os.mkdir(home)
    maker = ChainMaker(rng, lib.Runner(home))
    maker.make()
    top, fmt = os.path.join(home, maker.layers[-1].path), maker.layers[-1].fmt
    oracle = place.flat(top, fmt, cwd=home)
    size = os.stat(oracle).st_size
    with place.mount(*["--trust"] * maker.needs_trust, "--format", fmt, top, file=rng.random() < 0.3, cwd=home) as m:
        path = m.file()
        st = os.stat(path)
        if (st.st_size, st.st_mode & 0o7777, st.st_uid) != (size, 0o400, os.geteuid()):
            raise Mismatch(f"seed {seed}: {st}")
        with opened(path, os.O_RDONLY) as fd:
            data = fm.data_of(fd, size)
        want = expected_data(place, top, fmt, home)
        if data != want:
            raise Mismatch(f"seed {seed}: data at {data[:20]}, qemu-img says {want[:20]}")
        if st.st_blocks != -(-sum(b - a for a, b in want) // SECTOR):
            raise Mismatch(f"seed {seed}: {st.st_blocks} blocks for {want[:20]}")
        # Only now: space that was preallocated below a raw layer is a hole until somebody has read it.
        lib.same_file(f"disk of seed {seed}", path, oracle)
        with opened(path, os.O_RDONLY | os.O_DIRECT) as fd, open(oracle, "rb") as f:
            for _ in range(40 if size else 0):
                at = rng.randrange(size) // SECTOR * SECTOR
                n = rng.choice((512, 4096, 65536, 1 << 20, 3 << 20))
                lib.same_bytes(f"O_DIRECT of seed {seed}", fm.direct_read(fd, n, at),
                               os.pread(f.fileno(), n, at), at)
    shutil.rmtree(home)
    os.unlink(oracle)


def random_disks(place):
    count = lib.share(place.args.count)
    for i in range(count):
        one_random(place, place.seed + i)
    return f"{count} chains"


def parallel_readers(place):
    """Many threads at once, through the page cache and past it."""
    _, top = place.simple(size=64 << 20, writes=60)
    want = read_all(place.flat(top))

    def reader(i):
        rng = random.Random(place.seed + i)
        with opened(path, os.O_RDONLY | (os.O_DIRECT if i % 2 else 0)) as fd:
            for _ in range(lib.share(200)):
                at = rng.randrange(len(want) // SECTOR) * SECTOR
                n = rng.choice((512, 4096, 131072, 1 << 20))
                lib.same_bytes(f"reader {i}", fm.direct_read(fd, n, at), want[at:at + n], at)

    for more in ([], ["--requests", "1"], ["--direct-io", "--cache", "none"]):
        with place.mount(*more, top) as m:
            path = m.file()
            with concurrent.futures.ThreadPoolExecutor(24) as pool:
                list(pool.map(reader, range(24)))


def snapshot_view(place):
    _, top = place.simple()
    old = read_all(place.flat(top))
    place.run("qemu-img", "snapshot", "-c", "before", top)
    place.run("qemu-io", "-c", "write -q -P 77 0 1M", top)
    with place.mount("-l", "before", "--name", "old.img", top) as m:
        if os.listdir(m.where) != ["old.img"]:
            raise Mismatch(f"names: {os.listdir(m.where)}")
        lib.same_bytes("snapshot", read_all(m.file()), old, 0)


def recorded(place):
    """A trace has what was read of the disk and nothing else, in order, also of a mount in the background."""
    _, top = place.simple()
    trace, where = place.path("boot.qctrace"), place.new("mnt")
    starts = [mib << 20 for mib in range(16)]
    place.rng.shuffle(starts)
    reads = [(at + place.rng.randrange(64) * 4096, place.rng.choice((4096, 20480, 65536))) for at in starts]
    os.mkdir(where)
    place.run(place.args.fuse, "--record", "boot.qctrace", top, where)
    try:
        with opened(os.path.join(where, "top.raw"), os.O_RDONLY | os.O_DIRECT) as fd:
            for at, n in reads[:12] + reads[:3] + reads[12:]:
                fm.direct_read(fd, n, at)
    finally:
        fm.unmount(where)
    until = time.monotonic() + 60 * fm.SLOW
    tool = os.path.join(place.args.bin, "qchain-trace")
    while True:             # the program ends after its mount
        out = place.run(os.path.abspath(tool), "show", "--ranges", "--output=json", trace)
        got = [(e["offset"], e["length"]) for e in json.loads(out.stdout)]
        if got == reads:
            break
        if time.monotonic() > until:
            raise Mismatch(f"seed {place.seed}: recorded {got}, read {reads}")
        time.sleep(0.05)
    other = place.path("other")
    with open(other, "wb") as f:
        f.write(b"something else" * 100)
    said = place.run(place.args.fuse, "--record", other, top, where, ok=(1,)).stderr.decode()
    if "other" not in said or fm.is_mounted(where) or read_all(other) != b"something else" * 100:
        raise Mismatch(f"over a file that is no trace: {said}")
    place.run(place.args.fuse, "--record", trace, "layers", top, where, ok=(2,))


# --------------------------------------------------------------------- writing ---

def random_op(rng, fd, model):
    """One change, done to both; fsync now and then."""
    size = len(model)
    at = rng.randrange(size)
    n = min(size - at, rng.choice((1, 511, 512, 4096, 65536, 200000)))
    r = rng.random()
    if r < 0.55:
        data = rng.randbytes(n)
        if os.pwrite(fd, data, at) != n:
            raise Mismatch(f"a short write of {n} at {at}")
        model[at:at + n] = data
    elif r < 0.75:
        fm.fallocate(fd, fm.PUNCH, at, n)
        model[at:at + n] = bytes(n)
    elif r < 0.88:
        fm.fallocate(fd, fm.ZERO, at, n)
        model[at:at + n] = bytes(n)
    elif r < 0.94:
        os.fsync(fd)
    else:
        lib.same_bytes(f"read of {n} at {at}", os.pread(fd, n, at), bytes(model[at:at + n]), at)


def after_writing(place, top, model, what):
    place.run("qemu-img", "check", top)
    lib.same_bytes(what, read_all(place.flat(top)), bytes(model), 0)
    oracle = place.new("model") + ".raw"
    with open(oracle, "wb") as f:
        f.write(model)
    place.run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", top, oracle)


def random_writes(place):
    """Against a model, twice on the same image; then QEMU looks at it."""
    for options in ("cluster_size=64k", "cluster_size=4k", "cluster_size=64k,extended_l2=on", "compat=0.10"):
        _, top = place.simple(options=options)
        model = bytearray(read_all(place.flat(top)))
        for more in ([], ["--direct-io"]):
            with place.mount("-w", *more, top) as m:
                with opened(m.file(), os.O_RDWR) as fd:
                    for _ in range(lib.share(300)):
                        random_op(place.rng, fd, model)
                    os.fsync(fd)
                lib.same_bytes(f"{options}: read back", read_all(m.file()), bytes(model), 0)
            after_writing(place, top, model, options)


def parallel_writers(place):
    """Threads that write, punch and read in stretches of their own; stretches share clusters."""
    _, top = place.simple(size=32 << 20)
    model = bytearray(read_all(place.flat(top)))
    part = (1 << 20) + 5 * SECTOR

    def writer(i):
        rng, own = random.Random(place.seed + i), bytearray(model[i * part:(i + 1) * part])
        with opened(path, os.O_RDWR) as fd:
            for _ in range(lib.share(120)):
                at = rng.randrange(part // SECTOR) * SECTOR
                n = min(part - at, rng.choice((512, 4096, 65536, 131072)))
                if rng.random() < 0.7:
                    own[at:at + n] = data = rng.randbytes(n)
                    os.pwrite(fd, data, i * part + at)
                else:
                    own[at:at + n] = bytes(n)
                    fm.fallocate(fd, rng.choice((fm.PUNCH, fm.ZERO)), i * part + at, n)
                lib.same_bytes(f"writer {i}", os.pread(fd, part, i * part), bytes(own), i * part)
            os.fdatasync(fd)
        return own

    with place.mount("-w", top) as m:
        path = m.file()
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            for i, own in enumerate(pool.map(writer, range(16))):
                model[i * part:(i + 1) * part] = own
    after_writing(place, top, model, "parallel writers")


def space(place):
    """What is written takes space, what is punched gives it back, in the mount and in the image's file."""
    home = place.new("space")
    os.mkdir(home)
    top = os.path.join(home, "top.qcow2")
    place.run("qemu-img", "create", "-q", "-f", "qcow2", top, "64M")
    with place.mount("-w", top) as m:
        with opened(m.file(), os.O_RDWR) as fd:
            if os.fstat(fd).st_blocks:
                raise Mismatch(f"an empty disk takes {os.fstat(fd).st_blocks} blocks")
            os.pwrite(fd, b"x" * (8 << 20), 16 << 20)
            os.fsync(fd)
            full = wait_for_blocks(m.file(), 8 << 20)
            if fm.data_of(fd, 64 << 20) != [(16 << 20, 24 << 20)]:
                raise Mismatch(f"data at {fm.data_of(fd, 64 << 20)}")
            before = os.stat(top).st_blocks
            fm.fallocate(fd, fm.PUNCH, 18 << 20, 2 << 20)
            os.fsync(fd)
            wait_for_blocks(m.file(), 6 << 20)
    if os.stat(top).st_blocks > before - (3 << 19) // 512:   # of 2 MiB; tables may have come
        raise Mismatch(f"punching gave nothing back: {before}, {os.stat(top).st_blocks} of {full}")
    place.run("qemu-img", "check", top)


def wait_for_blocks(path, want):
    """The kernel may show what it heard up to a second ago."""
    for _ in range(600 * fm.SLOW):
        if os.stat(path).st_blocks * 512 == want:
            return want
        time.sleep(0.01)
    raise Mismatch(f"{os.stat(path).st_blocks * 512} bytes of space, should be {want}")


def refusals(place):
    """What a disk cannot do, and with which errors."""
    _, top = place.simple()
    size = 16 << 20
    with place.mount(top) as m:
        fails("open to write", errno.EROFS, lambda: os.open(m.file(), os.O_RDWR))
        fails("create", errno.EROFS, lambda: os.open(m.where + "/new", os.O_CREAT | os.O_RDWR))
        fails("unlink", errno.EROFS, lambda: os.unlink(m.file()))
        fails("truncate", errno.EROFS, lambda: os.truncate(m.file(), 0))
        fails("no such name", errno.ENOENT, lambda: os.stat(m.where + "/new"))
        with opened(m.file(), os.O_RDONLY) as fd:
            if os.pread(fd, 10, size) or len(os.pread(fd, 10, size - 4)) != 4:
                raise Mismatch("reading beyond the end")
            fails("SEEK_DATA beyond", errno.ENXIO, lambda: os.lseek(fd, size, os.SEEK_DATA))
    with place.mount("-w", top) as m:
        fails("mkdir", errno.ENOSYS, lambda: os.mkdir(m.where + "/new"))
        fails("chmod", errno.EPERM, lambda: os.chmod(m.file(), 0o777))
        with opened(m.file(), os.O_RDWR) as fd:
            fails("write at the end", errno.ENOSPC, lambda: os.pwrite(fd, b"x", size))
            if os.pwrite(fd, b"y" * 10, size - 4) != 4:
                raise Mismatch("a write across the end is not cut")
            fails("truncate", errno.EINVAL, lambda: os.ftruncate(fd, size + 512))
            fails("make smaller", errno.EINVAL, lambda: os.ftruncate(fd, 0))
            os.ftruncate(fd, size)
            fails("preallocate", errno.EOPNOTSUPP, lambda: fm.fallocate(fd, 0, 0, 4096))
            fails("zero beyond", errno.ENOSPC, lambda: fm.fallocate(fd, 0x10, size - 512, 1024))
            fm.fallocate(fd, fm.PUNCH, size - 512, 1024)
            if os.fstat(fd).st_size != size or os.pread(fd, 512, size - 512) != bytes(512):
                raise Mismatch("after all that")
    place.run("qemu-img", "check", top)


def full_disk(place):
    """No space below the image: ENOSPC, and after room was made all goes on."""
    small = place.new("small")
    os.mkdir(small)
    if place.run("mount", "-t", "tmpfs", "-o", "size=4m", "none", small, ok=None).returncode:
        return "left out: no small file system can be mounted here"
    try:
        top, filler = os.path.join(small, "top.qcow2"), os.path.join(small, "filler")
        place.run("qemu-img", "create", "-q", "-f", "qcow2", top, "64M")
        with open(filler, "wb") as f:
            f.write(bytes(1 << 20))
        with place.mount("-w", "--direct-io", top) as m:
            with opened(m.file(), os.O_RDWR) as fd:
                done = 0

                def fill():
                    nonlocal done
                    for i in range(64):
                        os.pwrite(fd, b"f" * 65536, i * 65536)
                        done = i + 1
                fails("write without space", errno.ENOSPC, fill)
                os.unlink(filler)
                os.pwrite(fd, b"f" * 65536, done * 65536)
                os.fsync(fd)
                lib.same_bytes("after ENOSPC", os.pread(fd, (done + 1) * 65536, 0), b"f" * ((done + 1) * 65536), 0)
        place.run("qemu-img", "check", top, ok=(0, 3))
    finally:
        subprocess.run(["umount", "-l", small], check=False)
    return None


# ---------------------------------------------------------------- how it ends ---

def signals(place):
    """Each signal unmounts, what was written is there; a second one does no harm."""
    _, top = place.simple()
    model = bytearray(read_all(place.flat(top)))
    for i, by in enumerate((signal.SIGINT, signal.SIGTERM, signal.SIGHUP)):
        m = place.mount("-w", top)
        with opened(m.file(), os.O_RDWR) as fd:
            os.pwrite(fd, bytes([i + 1]) * 70000, i * 100000)
            model[i * 100000:i * 100000 + 70000] = bytes([i + 1]) * 70000
            m.process.send_signal(by)
            m.end(by)      # while the file is open
            fails("read after the end", errno.ENOTCONN, lambda: os.pread(fd, 10, 0))
        after_writing(place, top, model, f"after {by.name}")


def background(place):
    """The mount is up when the program returns; errors are said before; nohup is minded."""
    home, top = place.simple()
    want, where = read_all(place.flat(top)), place.new("mnt")
    os.mkdir(where)
    for options in ("ro", "noexec", "noatime", "fsname=some where", "nosuid,nodev"):
        place.run(place.args.fuse, "-o", options, os.path.basename(top), where, cwd=home)
        lib.same_bytes("in the background", read_all(os.path.join(where, "top.raw")), want, 0)
        fm.unmount(where)
    for words, *argv in (("cannot open", "nothing.qcow2", where), ("No such file", top, where + "/nothing"),
                         ("no regular file", top, "/dev/null"), ("no directory", "layers", top, top),
                         ("--allow-other", "-o", "allow_other", top, where), ("unknown mount option", "-o", "suid", top, where),
                         ("--writable", "-o", "rw", top, where), ("exclude", "-w", "-o", "ro", top, where), ("no name", "--name", "a/b", top, where),
                         ("only be read", "-w", "-l", "x", top, where), ("of the disk", "-w", "layers", top, where),
                         ("Expecting", top)):
        done = place.run(place.args.fuse, *argv, ok=(1, 2))
        if words not in done.stderr.decode():
            raise Mismatch(f"{argv}: {done.stderr.decode()}")
        if fm.is_mounted(where):
            raise Mismatch(f"{argv}: mounted all the same")


def killed(place):
    """kill -9: what was flushed is there, the image is valid, the mount says what to do; then it goes on."""
    _, top = place.simple(options="cluster_size=64k,lazy_refcounts=on")
    model = bytearray(read_all(place.flat(top)))
    for i in range(3):
        m = place.mount("-w", top)
        where = m.where
        with opened(m.file(), os.O_RDWR) as fd:
            data = place.rng.randbytes(300000)
            os.pwrite(fd, data, i << 20)
            os.fsync(fd)
            model[i << 20:(i << 20) + 300000] = data
            os.pwrite(fd, b"z" * 65536, 8 << 20)     # never flushed: there or not
            m.process.kill()
            m.process.wait()
        said = place.run(place.args.fuse, top, where, ok=(1,)).stderr.decode()
        if "fusermount3 -u" not in said:
            raise Mismatch(f"of a stale mount it says: {said}")
        fm.unmount(where)
        place.run("qemu-img", "check", top, ok=(0, 3))   # leaks, at most
        with place.mount("-w", top) as again:            # mends it if it is dirty
            with opened(again.file(), os.O_RDWR) as fd:
                now = os.pread(fd, 65536, 8 << 20)
                for k in range(0, 65536, SECTOR):
                    if now[k:k + SECTOR] not in (b"z" * SECTOR, bytes(model[(8 << 20) + k:(8 << 20) + k + SECTOR])):
                        raise Mismatch(f"a sector that never was, at {k}")
                os.pwrite(fd, b"z" * 65536, 8 << 20)
                model[8 << 20:(8 << 20) + 65536] = b"z" * 65536
        place.run("qemu-img", "check", "-r", "leaks", top)
        after_writing(place, top, model, f"kill {i}")


# As root, in a mount namespace of its own, with a /dev/fuse that all may open: mounted, read and unmounted by another.
ORDINARY = r"""set -e
trap 'umount -l mnt 2>/dev/null || :' EXIT
mknod fuse.dev c 10 229; chmod 666 fuse.dev; mount --bind fuse.dev /dev/fuse
as_nobody() { setpriv --reuid=65534 --regid=65534 --clear-groups "$@"; }
as_nobody ./qchain-fuse -w top.qcow2 mnt
as_nobody cat mnt/top.raw >read.raw
! cat mnt/top.raw >/dev/null 2>&1 || { echo "root reads what is another user's"; exit 1; }
as_nobody sh -c 'printf written | dd of=mnt/top.raw bs=1 seek=4096 conv=notrunc,fsync status=none'
as_nobody fusermount3 -u mnt
for _ in $(seq 600); do as_nobody ./qchain check -q top.qcow2 2>/dev/null && break; sleep 0.1; done
as_nobody ./qchain read --offset 4096 --length 7 top.qcow2 -
"""


def ordinary_user(place):
    """Who is not root mounts his own image, by fusermount3; root itself is kept out, as nobody said allow_other."""
    if os.geteuid() != 0:
        return "all else here was done by one"
    if not all(map(shutil.which, ("unshare", "setpriv", "fusermount3"))):
        return "not tried: unshare, setpriv or fusermount3 is missing"
    if place.run("unshare", "-m", "mount", "--bind", place.directory, place.directory, ok=None).returncode:
        return "not tried: no mount namespace can be made here"
    with tempfile.TemporaryDirectory(prefix="qchain-user-", dir="/tmp") as home:
        below, top = place.simple()
        want = read_all(place.flat(top))
        for name in os.listdir(below):
            shutil.copy(os.path.join(below, name), home)
        shutil.copy(place.args.fuse, home)
        shutil.copy(os.path.join(os.path.dirname(place.args.fuse), "qchain"), home)
        os.mkdir(os.path.join(home, "mnt"))
        for name in (".", *os.listdir(home)):
            shutil.chown(os.path.join(home, name), 65534, 65534)
        done = place.run("unshare", "-m", "sh", "-c", ORDINARY, cwd=home)
        if done.stdout != b"written":
            raise Mismatch(f"it reads: {done.stdout} {done.stderr}")
        lib.same_bytes("read by another user", read_all(os.path.join(home, "read.raw")), want, 0)
    return None


def stands_on(place, top):
    return json.loads(place.run("qemu-img", "info", "-U", "--output=json", top).stdout).get("backing-filename")


def hydrated(place):
    """A disk that is used becomes whole meanwhile, also one that is killed midway; then the layers below may go."""
    for options in ("cluster_size=64k", "cluster_size=64k,extended_l2=on", "compat=0.10,cluster_size=4k"):
        home, top = place.simple(options=options)
        model = bytearray(read_all(place.flat(top)))
        m = place.mount("-w", "--hydrate=256k", top)
        with opened(m.file(), os.O_RDWR) as fd:
            for _ in range(20):
                random_op(place.rng, fd, model)
            os.fsync(fd)
            m.process.kill()
            m.process.wait()
        fm.unmount(m.where)
        if not stands_on(place, top):
            raise Mismatch("what was killed had ended")
        place.run("qemu-img", "check", "-r", "leaks", top, ok=(0,))
        with place.mount("-w", "--copy-on-read", "--hydrate", top) as m:
            with opened(m.file(), os.O_RDWR) as fd:
                until = time.monotonic() + 60 * fm.SLOW
                while stands_on(place, top) and time.monotonic() < until:
                    random_op(place.rng, fd, model)
                for _ in range(50):
                    random_op(place.rng, fd, model)
            for name in os.listdir(home):
                if name != os.path.basename(top):
                    os.unlink(os.path.join(home, name))
            lib.same_bytes(f"{options}: read back", read_all(m.file()), bytes(model), 0)
        if stands_on(place, top):
            raise Mismatch(f"after {options}: it still stands on {stands_on(place, top)}: {m.said()}")
        if "not needed any more" not in m.said():
            raise Mismatch(f"it says: {m.said()}")
        after_writing(place, top, model, options)
    said = place.run(place.args.fuse, "--hydrate", top, place.directory, ok=(2,)).stderr.decode()
    if "need --writable" not in said:
        raise Mismatch(f"without --writable it says: {said}")


# ------------------------------------------------------------------ the layers ---

def files_below(where):
    return sorted(os.path.relpath(os.path.join(h, n), where) for h, _, names in os.walk(where) for n in names)


def layers(place):
    """QEMU opens the top in the mount and finds the others by their own names."""
    home, top = place.simple(names=("base.raw", "a.qcow2", "b.qcow2", "top.qcow2"))
    want = place.flat(top)
    with place.mount("layers", top) as m:
        if files_below(m.where) != ["a.qcow2", "b.qcow2", "base.raw", "top.qcow2"]:
            raise Mismatch(f"names: {files_below(m.where)}")
        for name in files_below(m.where):
            lib.same_file(name, os.path.join(m.where, name), os.path.join(home, name))
        mine = os.path.join(m.where, "top.qcow2")
        chain = json.loads(place.run("qemu-img", "info", "--backing-chain", "--output=json", mine).stdout)
        if [os.path.dirname(i["filename"]) for i in chain] != [m.where] * 4:
            raise Mismatch(f"the chain leaves the mount: {chain}")
        place.run("qemu-img", "check", mine)
        place.run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", mine, want)
        out = place.new("converted")
        place.run("qemu-img", "convert", "-O", "raw", mine, out)
        lib.same_file("converted over the mount", out, want)
        fails("open to write", errno.EROFS, lambda: os.open(mine, os.O_RDWR))


def layer_names(place):
    """Names in directories below lead there; those that lead elsewhere are at the root, numbered if need be."""
    home = place.new("names")
    os.makedirs(os.path.join(home, "vm", "sub"))
    os.makedirs(os.path.join(home, "other"))
    qcow2 = ["qemu-img", "create", "-q", "-f", "qcow2", "-u"]
    place.run("qemu-img", "create", "-q", "-f", "raw", "other/top.qcow2", "1M", cwd=home)
    for name, below, fmt in (("other/far.qcow2", home + "/other/top.qcow2", "raw"),
                             ("vm/sub/two.qcow2", "../../other/far.qcow2", "qcow2"),
                             ("vm/sub/one.qcow2", "./two.qcow2", "qcow2"), ("vm/top.qcow2", "sub/one.qcow2", "qcow2")):
        place.run(*qcow2, "-b", below, "-F", fmt, name, "1M", cwd=home)
    with place.mount("--trust", "layers", os.path.join(home, "vm/top.qcow2")) as m:
        want = ["4-top.qcow2", "far.qcow2", "sub/one.qcow2", "sub/two.qcow2", "top.qcow2"]
        if files_below(m.where) != want:
            raise Mismatch(f"names: {files_below(m.where)}")
        lib.same_file("a base of the same name", os.path.join(m.where, want[0]), os.path.join(home, "other/top.qcow2"))
        if m.said().count("leads elsewhere") != 2:
            raise Mismatch(m.said())
    place.run(*qcow2, "-o", "data_file=disk.data", "d.qcow2", "1M", cwd=home)
    place.run("qemu-io", "-c", "write -q -P 5 0 64k", "d.qcow2", cwd=home)
    with place.mount("--trust", "layers", os.path.join(home, "d.qcow2")) as m:
        if files_below(m.where) != ["d.qcow2", "disk.data"]:
            raise Mismatch(f"names: {files_below(m.where)}")
        place.run("qemu-io", "-r", "-c", "read -P 5 0 64k", "d.qcow2", cwd=m.where)


def many_layers(place):
    """A directory of more names than one answer holds."""
    names = ["base.raw"] + [f"{'x' * 200}{i}.qcow2" for i in range(lib.share(150))]
    _, top = place.simple(size=1 << 20, writes=1, names=names)
    with place.mount("layers", top) as m:
        if sorted(os.listdir(m.where)) != sorted(names):
            raise Mismatch(f"{len(os.listdir(m.where))} names")
        place.run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", os.path.join(m.where, names[-1]), place.flat(top))


def file_that_shrinks(place):
    """A layer that somebody cuts off gives EIO there, and the rest goes on."""
    home, top = place.simple()
    for view, name in (("layers", "base.raw"), ("disk", "top.raw")):
        base = os.path.join(home, "base.raw")
        size = os.stat(base).st_size
        with opened(base, os.O_RDWR) as fd:
            os.pwrite(fd, b"b" * 65536, size - 65536)
        with place.mount("--direct-io", view, top) as m:
            with opened(os.path.join(m.where, name), os.O_RDONLY) as fd:
                good = os.pread(fd, 4096, 0)
                os.truncate(base, size - 65536)
                if view == "layers":
                    fails("read of what is gone", errno.EIO, lambda: os.pread(fd, 4096, size - 4096))
                    if "read" not in m.said():
                        raise Mismatch(f"nothing was said: {m.said()}")
                lib.same_bytes("what is left", os.pread(fd, 4096, 0), good, 0)
        os.truncate(base, size)


CHECKS = [random_disks, parallel_readers, snapshot_view, recorded, random_writes, parallel_writers, space, refusals,
          full_disk, signals, background, killed, ordinary_user, hydrated, layers, layer_names, many_layers, file_that_shrinks]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*")
    parser.add_argument("--bin", default=lib.default_bin())
    parser.add_argument("--hammer")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=lib.any_seed())
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    args.fuse = os.path.join(os.path.abspath(args.bin), "qchain-fuse")
    fm.need_fuse(args.fuse)
    os.environ.update(QCHAIN_POLICY="", QCHAIN_REMOTE="")
    directory = tempfile.mkdtemp(prefix="qchain-fuse-")
    print(f"check_fuse: seed {args.seed}", flush=True)
    failed = 0
    try:
        fm.may_mount(directory, args.fuse)
        for check in CHECKS:
            if args.only and check.__name__ not in args.only:
                continue
            try:
                print(f"ok   {check.__name__} {check(Place(directory, args.seed, args)) or ''}", flush=True)
            except Exception as e:  # pylint: disable=broad-except
                failed += 1
                print(f"FAIL {check.__name__}: {e if isinstance(e, Mismatch) else traceback.format_exc()}", flush=True)
            for name in os.listdir(directory):
                if not args.keep:
                    remove(os.path.join(directory, name))
    finally:
        if args.keep:
            print("kept in", directory)
        else:
            shutil.rmtree(directory, ignore_errors=True)
    sys.exit(1 if failed else 0)


def remove(path):
    """What a check left; what is still a mount of one that failed stays."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            os.unlink(path)


if __name__ == "__main__":
    main()
