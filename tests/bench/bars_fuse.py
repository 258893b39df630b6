# SPDX-License-Identifier: MIT
"""The bars of qchain-fuse: O_DIRECT reads of the mounted disk, against QEMU's own FUSE export of the same image.

Both mounts are up while they are read by turns, the layers in the page cache: what is measured is what lies between
the kernel's FUSE and the layers' files. A deep chain is measured against the same data in one layer.
"""

import os
import shutil
import subprocess
import time

from bench_bars import Bar, per_second, rate
from bench_measure import Failed, layer_files, median, warm

MIB = 1 << 20
# What is read: bytes a request, in flight, requests, at random.
WORK = (("4 KiB random, 1 in flight", 4096, 1, 40000, True), ("4 KiB random, 32 in flight", 4096, 32, 120000, True),
        ("1 MiB in order, 1 in flight", MIB, 1, 2000, False))
DEEP = 0.9                              # of the speed of one layer


def wait_for(path, process):
    for _ in range(600):
        if os.path.ismount(path) or (os.path.isfile(path) and os.path.getsize(path)):
            return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise Failed("no mount: %s" % " ".join(process.args))


class Mounted:
    """Mounts on files, each by a program of its own; all end with it."""

    def __init__(self, m):
        self.m, self.mounts = m, []

    def __enter__(self):
        return self

    def add(self, name, argv, directory=False):
        """argv has the mount point as {}."""
        where = self.m.path(name)
        if directory:
            os.makedirs(where, exist_ok=True)
        else:
            with open(where, "wb"):
                pass
        process = subprocess.Popen([a.replace("{}", where) for a in argv], stdin=subprocess.DEVNULL)
        self.mounts.append((where, process))
        wait_for(where, process)
        return where

    def ours(self, name, top):
        return self.add(name, [self.m.tool("qchain-fuse"), "-f", top, "{}"])

    def qemu(self, name, top):
        return self.add(name, ["qemu-storage-daemon", "--blockdev",
                               "driver=file,node-name=file,read-only=on,filename=" + top.replace(",", ",,"),
                               "--blockdev", "driver=qcow2,node-name=disk,file=file,read-only=on", "--export",
                               "type=fuse,id=fuse,node-name=disk,mountpoint={},writable=off"])

    def __exit__(self, *unused):
        for where, process in self.mounts:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            subprocess.run(["umount", "-l", where], stderr=subprocess.DEVNULL, check=False)


def plain(m, top, size, count, random):
    """The same without FUSE, through the page cache: what of the distance is the files' own."""
    argv = [m.tool("qchain-bench"), "--output=json", "--blocking", "--warm", "-s", str(size), "-d", "1", "-c",
            str(count // 20 if m.quick else count)]
    return lambda: m.answer(argv + ["--random"] * random + [top])


def reader(m, path, size, depth, count, random):
    argv = [m.tool("qchain-bench"), "--output=json", "-f", "raw", "-t", "none", "-s", str(size), "-d", str(depth), "-c",
            str(count // 20 if m.quick else count)]
    return lambda: m.answer(argv + ["--random"] * random + [path])


def fuse_reads(m, data):
    bar = Bar()
    if not os.path.exists(m.tool("qchain-fuse")) or not os.access("/dev/fuse", os.W_OK):
        bar.skip("FUSE: reads of the mounted disk", "qchain-fuse is not built (libfuse3-dev), or there is no /dev/fuse")
        return bar
    has_qemu = shutil.which("qemu-storage-daemon") is not None
    if not has_qemu:
        bar.skip("FUSE: / qemu-storage-daemon", "it is not installed (Debian: qemu-system-common)")
    one, deep = data("D1"), data("D100")
    warm(layer_files(one) + layer_files(deep))
    with Mounted(m) as mounts:
        paths = {"ours": mounts.ours("ours", one), "deep": mounts.ours("deep", deep)}
        if has_qemu:
            paths["qemu"] = mounts.qemu("qemu", one)
        for what, size, depth, count, random in WORK:
            jobs = {k: reader(m, p, size, depth, count, random) for k, p in paths.items()}
            if depth == 1:
                jobs.update({"plain": plain(m, one, size, count, random), "plain deep": plain(m, deep, size, count, random)})
            runs = m.alternate(jobs)
            bar.raw.update({what + ", " + k: v for k, v in runs.items()})
            speed = {k: median(v, "requests-per-second") for k, v in runs.items()}
            told = {k: per_second(v) if size < MIB else rate(v * size) for k, v in speed.items()}
            if has_qemu:
                bar.row("FUSE, %s, depth 1: / qemu-storage-daemon" % what, speed["ours"] / speed["qemu"], ">=", 1.0,
                        told["ours"], told["qemu"])
            bar.row("FUSE, %s, depth 100: / depth 1" % what, speed["deep"] / speed["ours"], ">=", DEEP, told["deep"],
                    told["ours"])
            if depth == 1:
                bar.row("without FUSE, %s, depth 100: / depth 1" % what, speed["plain deep"] / speed["plain"],
                        ours=told["plain deep"], peer=told["plain"])
    return bar


BARS = {"fuse-reads": fuse_reads}
