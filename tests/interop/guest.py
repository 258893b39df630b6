# SPDX-License-Identifier: MIT
"""A Linux guest, for tests and bars: Debian's cloud kernel, an initramfs whose init is a script of busybox, a disk that
is an ext4 file system, and QEMU without KVM, whose serial console is read line by line.

The kernel and busybox are fetched and unpacked, not installed. Layers over the disk change parts of files in place, so
the file system stays as it was made.
"""
import glob
import hashlib
import os
import re
import shutil
import subprocess
import threading

from interop_lib import Mismatch

MODULES = ("virtio_pci", "virtio_blk")

# How init begins: until the disk is there. What it does then is for who makes the initramfs.
BEGIN = """#!/bin/busybox sh
export PATH=/bin
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
for module in $(/bin/busybox cat /modules.list); do
    /bin/busybox insmod /$module
done
until [ -b /dev/vda ]; do
    /bin/busybox usleep 10000
done
"""


def run(argv, cwd=None, text=None, ok=(0,), err=subprocess.PIPE):
    done = subprocess.run(argv, cwd=cwd, input=text, check=False, stdout=subprocess.PIPE, stderr=err, encoding="utf-8",
                          errors="replace")
    if done.returncode not in ok:
        raise Mismatch(f"{argv[0]}: exit {done.returncode}: {(done.stdout + (done.stderr or '')).strip()[-500:]}")
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
        raise Mismatch(f"apt-get download {package}: it brought {deb}")
    run(["dpkg-deb", "-x", deb[0], out])
    os.unlink(deb[0])
    return out


def kernel_package():
    """The package that linux-image-cloud-amd64 stands for."""
    found = re.search(r"Depends: (linux-image-\S+)", run(["apt-cache", "depends", "linux-image-cloud-amd64"]))
    if not found:
        raise Mismatch("apt knows no linux-image-cloud-amd64: run apt-get update")
    return found.group(1)


def load_order(modules, names):
    """Files of modules, each behind those that it says it depends on."""
    order = []

    def add(name):
        files = glob.glob(os.path.join(modules, "**", name + ".ko"), recursive=True)
        if not files:
            raise Mismatch("the kernel has no module " + name)
        with open(files[0], "rb") as f:
            depends = re.search(rb"\0depends=([^\0]*)\0", f.read()).group(1).decode()
        for other in filter(None, depends.split(",")):
            add(other)
        if files[0] not in order:
            order.append(files[0])

    for name in names:
        add(name)
    return order


def fetch(home):
    """vmlinuz, busybox, modules and modules.list into a new directory; what is there then is all of it."""
    new = home + ".new"
    shutil.rmtree(new, ignore_errors=True)
    packed = unpack(new, kernel_package())
    os.rename(glob.glob(os.path.join(packed, "boot/vmlinuz-*"))[0], os.path.join(new, "vmlinuz"))
    order = load_order(os.path.join(packed, "lib/modules"), MODULES)
    with open(os.path.join(new, "modules.list"), "w", encoding="ascii") as f:
        f.writelines(os.path.basename(x) + "\n" for x in order)
    for module in order:
        shutil.move(module, new)
    shutil.rmtree(packed)
    packed = unpack(new, "busybox-static")
    shutil.move(os.path.join(packed, "bin/busybox"), new)
    shutil.rmtree(packed)
    os.rename(new, home)


def archive(path, files):
    """A cpio archive (newc) of (name, mode, bytes)."""
    with open(path, "wb") as f:
        for i, (name, mode, data) in enumerate(files + [("TRAILER!!!", 0, b"")]):
            head = b"070701" + b"".join(b"%08X" % x for x in (i + 1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0,
                                                             len(name) + 1, 0)) + name.encode() + b"\0"
            f.write(head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4))


def make_initramfs(home, path, rest):
    """An initramfs with what fetch() brought; init ends with these lines."""
    with open(os.path.join(home, "modules.list"), encoding="ascii") as f:
        modules = f.read().split()
    files = [(name, 0o40755, b"") for name in ("bin", "dev", "proc", "disk")]
    files.append(("init", 0o100755, (BEGIN + rest).encode()))
    for name in ["modules.list", "busybox", *modules]:
        with open(os.path.join(home, name), "rb") as f:
            files.append(("bin/busybox" if name == "busybox" else name, 0o100755, f.read()))
    archive(path, files)


# ----------------------------------------------------------------------------------------- the disk ---

def make_disk(tree, raw, size):
    """A raw file with a file system that holds a tree; all of its tables are written now, not while a guest has it."""
    run(["mke2fs", "-q", "-t", "ext4", "-b", "4096", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", "-d", tree, raw,
         f"{size >> 10}k"])


def file_blocks(raw, names):
    """name -> the blocks of its data, as numbers of 4 KiB."""
    out = run(["debugfs", "-f", "-", raw], text="".join("blocks /%s\n" % n for n in names))
    found = re.findall(r"^debugfs: blocks /(\S+)\n([\d ]*)$", out, re.M)
    blocks = {name: [int(x) for x in numbers.split()] for name, numbers in found}
    if set(blocks) != set(names):
        raise Mismatch("debugfs tells nothing of some files")
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


def check_disk(raw, sums):
    """The file system is whole, and has files with these MD5 sums."""
    run(["e2fsck", "-fn", raw])
    for name, want in sums.items():
        said = run(["debugfs", "-R", f"dump /{name} {raw}.file", raw], err=subprocess.STDOUT)
        if not os.path.exists(raw + ".file"):
            raise Mismatch(f"'{name}' is not on the disk: {said.strip()[-300:]}")
        with open(raw + ".file", "rb") as f:
            got = hashlib.md5(f.read()).hexdigest()
        os.unlink(raw + ".file")
        if got != want:
            raise Mismatch(f"'{name}' on the disk is not what the guest wrote: {got}, {want}")


# ------------------------------------------------------------------------------------------ running ---

class Guest:
    """A guest that runs; a context manager that ends it. no_timer_check: a busy host may be too late with the ticks that
    the kernel wants to see at first."""

    def __init__(self, kernel, initramfs, drive, words=(), limit=600, env=None):
        argv = ["qemu-system-x86_64", "-accel", "tcg", "-m", "512", "-nodefaults", "-no-user-config", "-display", "none",
                "-serial", "stdio", "-no-reboot", "-kernel", kernel, "-initrd", initramfs, "-append",
                " ".join(("console=ttyS0 quiet panic=-1 no_timer_check", *words)), "-drive", "if=virtio," + drive]
        self.told = []
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env)
        self.timer = threading.Timer(limit, self.process.kill)
        self.timer.start()

    def wait_for(self, word):
        """The words of the next line on the console that begins so."""
        for line in self.process.stdout:
            words = line.decode("ascii", "replace").split()
            self.told.append(" ".join(words))
            if words[:1] == [word]:
                return words
        raise Mismatch(f"the guest never said {word}: {' / '.join(self.told)[-1500:]}")

    def enter(self, line):
        """What somebody types at the console."""
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def wait_off(self):
        """Until it has switched itself off."""
        self.told += self.process.stdout.read().decode("ascii", "replace").split("\n")
        if self.process.wait():
            raise Mismatch(f"QEMU: exit {self.process.returncode}: {' / '.join(self.told)[-1500:]}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.timer.cancel()
        self.process.kill()
        self.process.communicate()
