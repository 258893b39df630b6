# SPDX-License-Identifier: MIT
"""Mounts of qchain-fuse, for tests: made, waited for, ended, and looked at."""
import contextlib
import errno
import mmap
import os
import signal
import subprocess
import sys
import time

import interop_lib as lib
from interop_lib import Mismatch

SLOW = 8 if os.environ.get("QC_SAN") else 1
PUNCH, ZERO = 0x3, 0x11      # fallocate: PUNCH_HOLE|KEEP_SIZE, ZERO_RANGE|KEEP_SIZE


def program():
    return os.path.join(lib.default_bin(), "qchain-fuse")


def need_fuse(path):
    """Leave with the code for a skipped test where there is no qchain-fuse, or nobody may mount."""
    lib.need("qemu-img", "qemu-io")
    for missing in [x for x in (path, "/dev/fuse") if not os.path.exists(x)]:
        print(f"SKIP: there is no {missing}")
        sys.exit(lib.SKIP)
    if os.geteuid() != 0 and not os.access("/dev/fuse", os.W_OK):
        print("SKIP: /dev/fuse may not be used here")
        sys.exit(lib.SKIP)


def may_mount(directory, path):
    """Try a mount once, as containers may have /dev/fuse and no right to mount."""
    image, where = os.path.join(directory, "try.raw"), os.path.join(directory, "try")
    with open(image, "wb") as f:
        f.truncate(512)
    os.mkdir(where)
    done = subprocess.run([path, "--format", "raw", image, where], capture_output=True, timeout=60 * SLOW, check=False)
    if done.returncode:
        print(f"SKIP: no mount is possible here: {done.stderr.decode(errors='replace').strip().splitlines()[-1:]}")
        sys.exit(lib.SKIP)
    unmount(where)


def is_mounted(where):
    try:
        with open("/proc/self/mountinfo", encoding="utf-8") as f:
            points = [line.split(" ")[4] for line in f]
    except OSError as e:
        raise Mismatch(f"mountinfo: {e}") from None
    return os.path.realpath(os.path.dirname(where)) + "/" + os.path.basename(where) in \
        [p.encode().decode("unicode_escape") if "\\" in p else p for p in points]


def unmount(where):
    subprocess.run(["umount", where], check=True, capture_output=True, timeout=60)


class Mount:
    """One qchain-fuse -f; a context manager that ends it by SIGTERM, and wants a clean exit."""

    def __init__(self, where, *args, path=None, env=None, cwd=None, file=False):
        self.where = where
        if not os.path.lexists(where):
            if file:
                with open(where, "wb"):
                    pass
            else:
                os.mkdir(where)
        self.argv = [path or program(), "-f", *map(str, args), where]
        self.errors = where + ".err"
        with open(self.errors, "wb") as err:
            self.process = subprocess.Popen(self.argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stderr=err)
        until = time.monotonic() + 60 * SLOW
        while not is_mounted(where):
            if self.process.poll() is not None or time.monotonic() > until:
                self.kill()
                raise Mismatch(f"no mount: {self.argv}: {self.process.returncode} {self.said()}")
            time.sleep(0.01)

    def said(self):
        with open(self.errors, encoding="utf-8", errors="replace") as f:
            return f.read()

    def file(self):
        """The only file in it."""
        if os.path.isfile(self.where):
            return self.where
        names = os.listdir(self.where)
        if len(names) != 1:
            raise Mismatch(f"{self.where} has {names}")
        return os.path.join(self.where, names[0])

    def wait(self, ok=0):
        """Its end, which something has begun."""
        try:
            self.process.wait(90 * SLOW)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Mismatch(f"no end: {self.argv} {self.said()}") from None
        if self.process.returncode != ok:
            raise Mismatch(f"exit {self.process.returncode}: {self.argv} {self.said()}")
        if is_mounted(self.where):
            raise Mismatch(f"{self.where} is still mounted: {self.argv}")

    def end(self, by=signal.SIGTERM):
        self.process.send_signal(by)
        self.wait()

    def kill(self):
        """As a crash leaves it, but for the mount."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        subprocess.run(["umount", "-l", self.where], capture_output=True, check=False)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind is not None:
            print(f"{self.argv}: {self.said()}", flush=True)
            self.kill()
        elif self.process.poll() is None:
            self.end()


def data_of(fd, size):
    """Stretches with data, as SEEK_DATA and SEEK_HOLE tell them."""
    found, at = [], 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as e:
            if e.errno != errno.ENXIO:
                raise
            break
        at = os.lseek(fd, start, os.SEEK_HOLE)
        found.append((start, at))
    return found


def fallocate(fd, mode, offset, length):
    """The system call; raises OSError."""
    import ctypes  # pylint: disable=import-outside-toplevel
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    if libc.fallocate(fd, mode, offset, length) != 0:
        e = ctypes.get_errno()
        raise OSError(e, os.strerror(e))


@contextlib.contextmanager
def opened(path, flags):
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        with contextlib.suppress(OSError):
            os.close(fd)


def direct_read(fd, length, offset):
    """With memory aligned as O_DIRECT may want it."""
    with mmap.mmap(-1, max(length, 4096)) as m:
        with memoryview(m)[:length] as view:
            n = os.preadv(fd, [view], offset)
        return m[:n]


def fails(what, number, call):
    """The call must fail with this errno."""
    try:
        call()
    except OSError as e:
        if e.errno != number:
            raise Mismatch(f"{what}: {e}, should be {errno.errorcode[number]}") from None
        return
    raise Mismatch(f"{what}: it should fail with {errno.errorcode[number]}")
