# SPDX-License-Identifier: MIT
"""What a guest of ../interop/guest.py starts from: kernel, initramfs, and a chain whose disk is an ext4 file system.

Init mounts the disk, reads the files of a list that lies on it, and tells on the serial console what they add up to; if
it is asked to it then writes a file.
"""

import hashlib
import json
import math
import os
import random
import shutil
import sys
import time

import make_chain

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../interop"))
import guest  # noqa: E402

RECIPE = 3                      # say another number when anything here makes other files
DEPTH = 50
MIB = 1 << 20
LIST = "etc/boot.list"          # on the disk
READY = "GUEST-READY"
WRITE, WRITTEN = "qc.write", "written"  # a word of the kernel's command line; a file on the disk
WROTE = "GUEST-WROTE"

INIT = """case " $(/bin/busybox cat /proc/cmdline) " in
*" {write} "*) how=rw ;;
*) how=ro ;;
esac
/bin/busybox mount -t ext4 -o $how /dev/vda /disk
cd /disk
read began rest </proc/uptime
sum=$(/bin/busybox xargs /bin/busybox cat <{list} | /bin/busybox md5sum)
read ended rest </proc/uptime
echo "{ready} $sum began $began ended $ended" >/dev/console
if [ $how = rw ]; then
    /bin/busybox dd if=/dev/urandom of={written} bs=65536 count=160 2>/dev/null
    sum=$(/bin/busybox md5sum <{written})
    cd /
    /bin/busybox umount /disk
    echo "{wrote} $sum" >/dev/console
fi
/bin/busybox poweroff -f
"""


def init_script():
    words = {"list": LIST, "ready": READY, "write": WRITE, "written": WRITTEN, "wrote": WROTE}
    text = INIT
    for word, value in words.items():
        text = text.replace("{%s}" % word, value)
    return text


def kernel(home):
    """Where guest.fetch() puts what it brings."""
    return os.path.join(home, "kernel")


# ----------------------------------------------------------------------------------------- the disk ---

def make_tree(tree, rng, scale):
    """Files of 1 KiB to 1 MiB in directories of 50; the names that a start reads, in order: nearly all of some
    directories, a few of all the others."""
    boot = []
    for d in range(max(2, round(40 * scale))):
        home = os.path.join(tree, "dir-%02d" % d)
        os.makedirs(home)
        some = 0.9 if d % 5 == 0 else 0.12
        for i in range(50):
            name = "dir-%02d/file-%02d" % (d, i)
            with open(os.path.join(tree, name), "wb") as f:
                f.write(rng.randbytes(int(1024 * math.exp(rng.random() * math.log(1024)))))
            if rng.random() < some:
                boot.append(name)
    rng.shuffle(boot)
    # Not all at random: neighbours are often read together.
    boot = [x for i in range(0, len(boot), 8) for x in sorted(boot[i:i + 8])]
    os.makedirs(os.path.join(tree, os.path.dirname(LIST)))
    with open(os.path.join(tree, LIST), "w", encoding="ascii") as f:
        f.writelines(x + "\n" for x in boot)
    return boot


def make_layers(home, rng, scale):
    """The chain; its files as JSON: what a start reads."""
    tree, raw = os.path.join(home, "tree"), os.path.join(home, "base.raw")
    os.makedirs(tree)
    boot = make_tree(tree, rng, scale)
    names = [os.path.join(d, f) for d in sorted(os.listdir(tree)) if d != "etc" for f in sorted(os.listdir(
        os.path.join(tree, d)))]
    size = max(64, round(512 * scale)) * MIB
    guest.make_disk(tree, raw, size)
    shutil.rmtree(tree)
    blocks = guest.file_blocks(raw, names)
    layer = [make_chain.layer_name(home, i) for i in range(DEPTH + 1)]
    guest.run(["qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", raw, layer[0]])
    os.unlink(raw)
    for i in range(1, DEPTH + 1):
        make_chain.create(layer[i], size, os.path.basename(layer[i - 1]))
        guest.run(["qemu-io", "-f", "qcow2"] + guest.changes(rng, blocks, min(len(names), round(40 * scale) + 4)) + [layer[i]])
    return boot


def check(home, depth, boot):
    """The disk's file system at a depth must be clean; the sum of what a start reads of it."""
    raw, tree = os.path.join(home, "flat.raw"), os.path.join(home, "tree")
    guest.run(["qemu-img", "convert", "-q", "-f", "qcow2", "-O", "raw", make_chain.layer_name(home, depth), raw])
    guest.run(["e2fsck", "-fn", raw])
    os.makedirs(tree)
    guest.run(["debugfs", "-R", "rdump / " + tree, raw])
    total = hashlib.md5()
    size = 0
    for name in boot:
        with open(os.path.join(tree, name), "rb") as f:
            data = f.read()
        total.update(data)
        size += len(data)
    shutil.rmtree(tree)
    os.unlink(raw)
    return {"sum": total.hexdigest(), "files": len(boot), "bytes": size}


def make(directory, scale, depths):
    """All of it, unless it is there; (its directory, what a start reads: depth -> sum, files, bytes)."""
    home = os.path.join(directory, "GUEST")
    stamp, key = os.path.join(home, "stamp.json"), [RECIPE, scale, list(depths)]
    try:
        with open(stamp, encoding="utf-8") as f:
            found = json.load(f)
        if found["key"] == key:
            return home, {int(d): facts for d, facts in found["reads"].items()}
    except (OSError, ValueError, KeyError):
        pass
    print("making GUEST", flush=True)
    begin = time.monotonic()
    shutil.rmtree(home, ignore_errors=True)
    os.makedirs(home)
    guest.fetch(kernel(home))
    guest.make_initramfs(kernel(home), os.path.join(home, "initramfs"), init_script())
    boot = make_layers(home, random.Random("guest"), scale)
    reads = {d: check(home, d, boot) for d in depths}
    with open(stamp, "w", encoding="utf-8") as f:
        json.dump({"key": key, "reads": reads}, f)
    print("  %.1f s" % (time.monotonic() - begin), flush=True)
    return home, reads
