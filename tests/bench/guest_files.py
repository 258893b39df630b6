# SPDX-License-Identifier: MIT
"""What a guest starts from: Debian's cloud kernel, an initramfs, and a chain whose disk is an ext4 file system.

The kernel and busybox are fetched and unpacked, not installed. Init is a shell script of the initramfs: it mounts the
disk, reads the files of a list that lies on it, and tells on the serial console what they add up to; if it is asked to
it then writes a file. Layers of the chain change parts of files in place, so the file system stays as it was made.
"""

import glob
import hashlib
import json
import math
import os
import random
import re
import shutil
import subprocess
import time

import make_chain
from bench_measure import Failed

RECIPE = 2                      # say another number when anything here makes other files
DEPTH = 50
MIB = 1 << 20
MODULES = ("virtio_pci", "virtio_blk")
LIST = "etc/boot.list"          # on the disk
READY = "GUEST-READY"
WRITE, WRITTEN = "qc.write", "written"  # a word of the kernel's command line; a file on the disk
WROTE = "GUEST-WROTE"

INIT = """#!/bin/busybox sh
export PATH=/bin
/bin/busybox mkdir -p /proc /dev /disk
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
for module in $(/bin/busybox cat /modules.list); do
    /bin/busybox insmod /$module
done
until [ -b /dev/vda ]; do
    /bin/busybox usleep 10000
done
case " $(/bin/busybox cat /proc/cmdline) " in
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


def run(argv, cwd=None, text=None):
    done = subprocess.run(argv, cwd=cwd, input=text, check=False, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          encoding="utf-8", errors="replace")
    if done.returncode:
        raise Failed("%s: exit %d: %s" % (argv[0], done.returncode, done.stderr.strip()[-500:]))
    return done.stdout


def missing():
    """Programs that are not there, as Debian's packages have them."""
    wanted = {"qemu-system-x86_64": "qemu-system-x86", "mke2fs": "e2fsprogs", "debugfs": "e2fsprogs",
              "e2fsck": "e2fsprogs", "apt-get": "apt", "dpkg-deb": "dpkg"}
    return sorted({package for program, package in wanted.items() if not shutil.which(program)})


# ---------------------------------------------------------------------------------- kernel and init ---

def unpack(home, package):
    """Fetch a package and unpack it; the directory with its files."""
    out = os.path.join(home, package)
    os.makedirs(out)
    run(["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", package], cwd=out)
    deb = glob.glob(os.path.join(out, "*.deb"))
    if len(deb) != 1:
        raise Failed("apt-get download %s: it brought %s" % (package, deb))
    run(["dpkg-deb", "-x", deb[0], out])
    os.unlink(deb[0])
    return out


def kernel_package():
    """The package that linux-image-cloud-amd64 stands for."""
    found = re.search(r"Depends: (linux-image-\S+)", run(["apt-cache", "depends", "linux-image-cloud-amd64"]))
    if not found:
        raise Failed("apt knows no linux-image-cloud-amd64: run apt-get update")
    return found.group(1)


def load_order(modules, names):
    """Files of modules, each behind those that it says it depends on."""
    order = []

    def add(name):
        files = glob.glob(os.path.join(modules, "**", name + ".ko"), recursive=True)
        if not files:
            raise Failed("the kernel has no module " + name)
        with open(files[0], "rb") as f:
            depends = re.search(rb"\0depends=([^\0]*)\0", f.read()).group(1).decode()
        for other in filter(None, depends.split(",")):
            add(other)
        if files[0] not in order:
            order.append(files[0])

    for name in names:
        add(name)
    return order


def archive(path, files):
    """A cpio archive (newc) of (name, mode, bytes)."""
    with open(path, "wb") as f:
        for i, (name, mode, data) in enumerate(files + [("TRAILER!!!", 0, b"")]):
            head = b"070701" + b"".join(b"%08X" % x for x in (i + 1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0,
                                                             len(name) + 1, 0)) + name.encode() + b"\0"
            f.write(head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4))


def init_script():
    words = {"list": LIST, "ready": READY, "write": WRITE, "written": WRITTEN, "wrote": WROTE}
    text = INIT
    for word, value in words.items():
        text = text.replace("{%s}" % word, value)
    return text


def make_kernel(home):
    """vmlinuz and initramfs in home."""
    packed = unpack(home, kernel_package())
    busybox = os.path.join(unpack(home, "busybox-static"), "bin/busybox")
    os.rename(glob.glob(os.path.join(packed, "boot/vmlinuz-*"))[0], os.path.join(home, "vmlinuz"))
    files = [("bin", 0o40755, b""), ("dev", 0o40755, b"")]
    order = load_order(os.path.join(packed, "lib/modules"), MODULES)
    texts = {"init": init_script(),
             "modules.list": "".join(os.path.basename(x) + "\n" for x in order)}
    files += [(name, 0o100755, text.encode()) for name, text in texts.items()]
    for name, path in [("bin/busybox", busybox)] + [(os.path.basename(x), x) for x in order]:
        with open(path, "rb") as f:
            files.append((name, 0o100755, f.read()))
    archive(os.path.join(home, "initramfs"), files)
    for package in (packed, os.path.dirname(os.path.dirname(busybox))):
        shutil.rmtree(package)


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


def file_blocks(raw, names):
    """name -> the blocks of its data, as numbers of 4 KiB."""
    out = run(["debugfs", "-f", "-", raw], text="".join("blocks /%s\n" % n for n in names))
    found = re.findall(r"^debugfs: blocks /(\S+)\n([\d ]*)$", out, re.M)
    blocks = {name: [int(x) for x in numbers.split()] for name, numbers in found}
    if set(blocks) != set(names):
        raise Failed("debugfs tells nothing of some files")
    return blocks


def changes(rng, blocks, count):
    """qemu-io's words for one layer: up to 256 KiB of so many files get other bytes."""
    words = []
    for name in rng.sample(sorted(blocks), count):
        own = [b for b in blocks[name] if b]
        if not own:
            continue
        at = rng.randrange(len(own))
        n = 1
        while n < 64 and at + n < len(own) and own[at + n] == own[at] + n:
            n += 1
        words += ["-c", "write -q -P %d %d %d" % (rng.randrange(1, 256), own[at] * 4096, n * 4096)]
    return words


def make_layers(home, rng, scale):
    """The chain; its files as JSON: what a start reads."""
    tree, raw = os.path.join(home, "tree"), os.path.join(home, "base.raw")
    os.makedirs(tree)
    boot = make_tree(tree, rng, scale)
    names = [os.path.join(d, f) for d in sorted(os.listdir(tree)) if d != "etc" for f in sorted(os.listdir(
        os.path.join(tree, d)))]
    size = max(64, round(512 * scale)) * MIB
    run(["mke2fs", "-q", "-t", "ext4", "-b", "4096", "-m", "0", "-d", tree, raw, "%dk" % (size >> 10)])
    shutil.rmtree(tree)
    blocks = file_blocks(raw, names)
    layer = [make_chain.layer_name(home, i) for i in range(DEPTH + 1)]
    run(["qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", raw, layer[0]])
    os.unlink(raw)
    for i in range(1, DEPTH + 1):
        make_chain.create(layer[i], size, os.path.basename(layer[i - 1]))
        run(["qemu-io", "-f", "qcow2"] + changes(rng, blocks, min(len(names), round(40 * scale) + 4)) + [layer[i]])
    return boot


def check(home, depth, boot):
    """The disk's file system at a depth must be clean; the sum of what a start reads of it."""
    raw, tree = os.path.join(home, "flat.raw"), os.path.join(home, "tree")
    run(["qemu-img", "convert", "-q", "-f", "qcow2", "-O", "raw", make_chain.layer_name(home, depth), raw])
    run(["e2fsck", "-fn", raw])
    os.makedirs(tree)
    run(["debugfs", "-R", "rdump / " + tree, raw])
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
    make_kernel(home)
    boot = make_layers(home, random.Random("guest"), scale)
    reads = {d: check(home, d, boot) for d in depths}
    with open(stamp, "w", encoding="utf-8") as f:
        json.dump({"key": key, "reads": reads}, f)
    print("  %.1f s" % (time.monotonic() - begin), flush=True)
    return home, reads
