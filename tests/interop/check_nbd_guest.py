#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A Linux guest under QEMU (TCG) whose root file system is an export of the nbdkit plugin: a chain, and a top layer that
it writes into.

What it has synced is in the image as the server stands at that moment, in case it is killed; after it has ended all it
wrote is there, what it trimmed takes no space, and the layers below are what they were."""
import argparse
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback

import guest
import interop_lib as lib
import nbd_server as ns
from interop_lib import Mismatch

MIB = 1 << 20
FILES = [f"data/file-{i:02}" for i in range(40)]
JUNK = 12 * MIB

# The initramfs goes on to the init of the disk.
SWITCH = """mount -t ext4 -o rw /dev/vda /disk
exec switch_root /disk /sbin/init
"""

INIT = f"""#!/bin/busybox sh
export PATH=/bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
echo "GUEST-READ $(cat {' '.join('/' + x for x in FILES)} | md5sum)"
dd if=/dev/urandom of=/first bs=65536 count=40 2>/dev/null
dd if=/dev/urandom of=/{FILES[0]} bs=4096 count=3 seek=2 conv=notrunc 2>/dev/null
dd if=/dev/urandom of=/junk bs=65536 count={JUNK // 65536} 2>/dev/null
rm /{FILES[1]}
sync
echo "GUEST-SYNCED $(md5sum </first) $(md5sum </{FILES[0]})"
read go
dd if=/dev/urandom of=/second bs=4096 count=333 2>/dev/null
rm /junk
sync
fstrim /
mount -o remount,ro /
echo "GUEST-WROTE $(md5sum </second)"
poweroff -f
"""


def make_chain(home, kernel, rng):
    """A disk with busybox, init and files, and two layers that change some of these; the layers, top first, and the MD5 sum
    of all files."""
    tree, raw = os.path.join(home, "tree"), os.path.join(home, "base.raw")
    for name in ("bin", "sbin", "data", "proc", "dev"):
        os.makedirs(os.path.join(tree, name))
    shutil.copy(os.path.join(kernel, "busybox"), os.path.join(tree, "bin"))
    for name in ("sh", "mount", "cat", "md5sum", "dd", "rm", "sync", "fstrim", "poweroff"):
        os.symlink("busybox", os.path.join(tree, "bin", name))
    with open(os.path.join(tree, "sbin/init"), "w", encoding="ascii") as f:
        f.write(INIT)
    os.chmod(os.path.join(tree, "sbin/init"), 0o755)
    for name in FILES:
        with open(os.path.join(tree, name), "wb") as f:
            f.write(rng.randbytes(rng.randrange(20000, 200000)))
    guest.make_disk(tree, raw, 64 * MIB)
    blocks = guest.file_blocks(raw, FILES)
    layers = [os.path.join(home, name) for name in ("base.qcow2", "mid.qcow2", "near.qcow2")]
    guest.run(["qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", raw, layers[0]])
    for below, layer in zip(layers, layers[1:]):
        guest.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", os.path.basename(below), layer])
        guest.run(["qemu-io", "-f", "qcow2", *guest.changes(rng, blocks, 15), layer])
    shutil.rmtree(tree)
    guest.run(["qemu-img", "convert", "-q", "-f", "qcow2", "-O", "raw", layers[-1], raw])
    guest.run(["debugfs", "-R", "rdump /data " + home, raw])
    total = hashlib.md5()
    for name in FILES:
        with open(os.path.join(home, name), "rb") as f:
            total.update(f.read())
    return layers, total.hexdigest()


def hashes(paths):
    found = {}
    for path in paths:
        with open(path, "rb") as f:
            found[path] = hashlib.sha256(f.read()).hexdigest()
    return found


def check_image(top, raw, convert, sums, cut=False):
    """An image is valid, and the file system in it has files with these sums. Of one that was cut off from its writer
    clusters may have been lost, and the file system has its journal to do."""
    guest.run(["qemu-img", "check", *(["-r", "leaks"] if cut else []), top])
    guest.run([*convert, top, raw])
    if cut:
        guest.run(["e2fsck", "-fy", raw], ok=(0, 1))
    guest.check_disk(raw, sums)


def one_guest(home, kernel, args):
    layers, total = make_chain(home, kernel, random.Random(args.seed))
    below = hashes(layers)
    top, cut, raw = (os.path.join(home, name) for name in ("top.qcow2", "cut.qcow2", "flat.raw"))
    guest.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", os.path.basename(layers[-1]), top])
    initramfs = os.path.join(home, "initramfs")
    guest.make_initramfs(kernel, initramfs, SWITCH)
    with ns.ours(os.path.join(home, "nbdkit"), "write=true", top) as server:
        with guest.Guest(os.path.join(kernel, "vmlinuz"), initramfs, "format=raw,discard=unmap,file=" + server.uri()) as g:
            if g.wait_for("GUEST-READ")[1] != total:
                raise Mismatch("the guest read other bytes than are in its files")
            told = g.wait_for("GUEST-SYNCED")
            sums = {"first": told[1], FILES[0]: told[3]}
            server.process.send_signal(signal.SIGSTOP)
            shutil.copy(top, cut)
            server.process.send_signal(signal.SIGCONT)
            g.enter("go")
            sums["second"] = g.wait_for("GUEST-WROTE")[1]
            g.wait_off()
    qemu = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw"]
    check_image(cut, raw, qemu, {name: sums[name] for name in ("first", FILES[0])}, cut=True)
    check_image(top, raw, [os.path.join(args.bin, "qchain-convert"), "-O", "raw"], sums)
    if hashes(layers) != below:
        raise Mismatch("a layer below the top was changed")
    if os.stat(top).st_blocks * 512 > os.stat(cut).st_blocks * 512 - JUNK // 2:
        raise Mismatch(f"what was trimmed takes space: {os.stat(cut).st_blocks} blocks, then {os.stat(top).st_blocks}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", default=lib.default_bin())
    parser.add_argument("--hammer")
    parser.add_argument("--seed", type=int, default=lib.any_seed())
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    os.environ.update(QCHAIN_POLICY="", QCHAIN_REMOTE="")
    os.environ["PATH"] += ":/usr/sbin:/sbin"    # e2fsprogs are there
    ns.need_plugin()
    lib.need("qemu-img", "qemu-io")
    if guest.missing():
        print("SKIP: not installed: " + ", ".join(guest.missing()))
        sys.exit(lib.SKIP)
    kernel = os.path.join(lib.build_dir(), "tests", "guest-kernel")
    try:
        if not os.path.exists(kernel):
            guest.fetch(kernel)
    except Mismatch as e:
        print(f"SKIP: no kernel can be had: {e}")
        sys.exit(lib.SKIP)
    print(f"check_nbd_guest: seed {args.seed}", flush=True)
    home, begin, failed = tempfile.mkdtemp(prefix="qchain-guest-"), time.monotonic(), False
    try:
        one_guest(home, kernel, args)
        print(f"ok   ({time.monotonic() - begin:.1f} s)")
    except Exception as e:  # pylint: disable=broad-except
        failed = True
        print(f"FAIL {e if isinstance(e, Mismatch) else traceback.format_exc()}")
    finally:
        if args.keep:
            print("kept in", home)
        else:
            shutil.rmtree(home, ignore_errors=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
