#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The tools against qemu-img: the same output and exit code on real images.

    test-tools.py [BIN | --bin BIN] [--keep] [--only TEXT]

BIN is the directory with `qchain`. Exits 77 if qemu-img or qemu-io is missing.
"""

import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback

QEMU_IMG = shutil.which("qemu-img")
QEMU_IO = shutil.which("qemu-io")


class Test:
    def __init__(self, qchain, only):
        self.qchain = qchain
        self.only = only
        self.done = 0
        self.bad = 0

    def wanted(self, what):
        return not self.only or self.only in what

    def check(self, ok, what, detail=""):
        self.done += 1
        if not ok:
            self.bad += 1
            print("FAIL: %s%s" % (what, detail and "\n" + detail))
        return ok

    def tool(self, *args, **kw):
        return run([self.qchain, *args], **kw)

    def same(self, *args, stderr=False, extra=()):
        """qchain and qemu-img, called alike, say the same."""
        what = " ".join(os.fsdecode(a) for a in args)
        if not self.wanted(what):
            return
        ours = self.tool(args[0], *extra, *args[1:])
        theirs = run([QEMU_IMG, *args])
        self.check(same_result(ours, theirs, stderr, args[0]), what, show(ours, theirs))


def run(args, **kw):
    kw.setdefault("timeout", 120)
    return subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kw)


def same_result(ours, theirs, stderr, verb):
    if ours.returncode != theirs.returncode or ours.stdout != theirs.stdout:
        return False
    if not stderr:
        return bool(ours.stderr) == bool(theirs.stderr)
    expected = theirs.stderr.replace(b"qemu-img", b"qchain-" + verb.encode())
    return ours.stderr == expected


def show(ours, theirs):
    out = ""
    for who, r in (("qchain", ours), ("qemu-img", theirs)):
        out += "  %s: exit %d\n" % (who, r.returncode)
        for name, text in (("stdout", r.stdout), ("stderr", r.stderr)):
            if text:
                out += "    %s: %s\n" % (name, text[:1500].decode(errors="replace"))
    return out


# ------------------------------------------------------------------- images ---


def img(*args):
    subprocess.run([QEMU_IMG, *args], check=True, stdout=subprocess.DEVNULL)


def io(name, *commands, fmt="qcow2"):
    args = [QEMU_IO, "-f", fmt]
    for c in commands:
        args += ["-c", c]
    r = run(args + [name])
    if r.returncode or b"rror" in r.stdout + r.stderr:
        sys.exit("qemu-io %s: %s" % (commands, (r.stdout + r.stderr).decode()))


def create(name, size, *options, backing=None, fmt="qcow2"):
    args = ["create", "-q", "-f", "qcow2"]
    if options:
        args += ["-o", ",".join(options)]
    if backing:
        args += ["-b", backing, "-F", fmt]
    img(*args, name, size)


def set_feature(name, bits):
    """Set incompatible feature bits of a version 3 header."""
    with open(name, "r+b") as f:
        f.seek(72)
        old = struct.unpack(">Q", f.read(8))[0]
        f.seek(72)
        f.write(struct.pack(">Q", old | bits))


def write_file(name, size, *parts):
    with open(name, "wb") as f:
        for offset, data in parts:
            f.seek(offset)
            f.write(data)
        f.truncate(size)


def sparse_copy(source, target):
    subprocess.run(["cp", "--sparse=always", source, target], check=True)


def make_images():
    """Everything in the current directory; answers what can be mapped as it is."""
    create("empty.qcow2", "64M")
    create("none.qcow2", "0")
    create("data.qcow2", "64M")
    io("data.qcow2", "write -P 1 0 1M", "write -P 2 3M 64k", "write -P 3 63M 1M", "write -z 8M 1M")
    create("v2.qcow2", "16M", "compat=0.10")
    io("v2.qcow2", "write -P 7 1M 300k")
    create("mid.qcow2", "64M", "cluster_size=4k", backing="data.qcow2")
    io("mid.qcow2", "write -P 4 512k 20k", "write -z 1M 128k", "write -z 0 64k")
    create("top.qcow2", "80M", "cluster_size=2M", "lazy_refcounts=on", backing="mid.qcow2")
    io("top.qcow2", "write -P 5 70M 5k")
    create("short.qcow2", "1M", backing="data.qcow2")
    create("over-short.qcow2", "8M", backing="short.qcow2")
    io("over-short.qcow2", "write -P 9 4M 4k")
    write_file("base.raw", 5 << 20, (1 << 20, b"x" * 70000), (4 << 20, b"y" * 4096))
    create("on-raw.qcow2", "6M", backing="base.raw", fmt="raw")
    io("on-raw.qcow2", "write -P 3 2M 10k")
    create("zero-below.qcow2", "8M")
    io("zero-below.qcow2", "write -z 1M 1M")
    create("zero-above.qcow2", "8M", backing="zero-below.qcow2")
    io("zero-above.qcow2", "write -z 2M 1M")
    create("marks.qcow2", "32M")
    io("marks.qcow2", "write -P 6 0 3M")
    img("snapshot", "-c", "one", "marks.qcow2")
    io("marks.qcow2", "write -P 8 1M 1M")
    img("snapshot", "-c", "a name with blanks, and more than fits", "marks.qcow2")
    img("bitmap", "--add", "-g", "32k", "marks.qcow2", "bits")
    img("bitmap", "--add", "--disable", "marks.qcow2", "off")
    create("pattern.qcow2", "8M")
    io("pattern.qcow2", *["write -P %d %dk 37k" % (i + 1, i * 200) for i in range(30)])
    img("convert", "-c", "-O", "qcow2", "pattern.qcow2", "zlib.qcow2")
    img("convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd", "pattern.qcow2",
        "zstd.qcow2")
    create("ext.qcow2", "16M", "extended_l2=on")
    io("ext.qcow2", "write -P 1 0 2k", "write -P 2 10k 3k", "write -z 1M 6k", "write -P 4 5M 200k")
    create("meta.qcow2", "16M", "preallocation=metadata")
    io("meta.qcow2", "write -P 1 1M 64k", "write -P 2 5M 4k")
    create("bits1.qcow2", "4M", "refcount_bits=1")
    write_file("tail.raw", (1 << 20) + 300, (0, b"a" * 5000), ((1 << 20) + 290, b"z" * 10))
    write_file("small.raw", 1000, (0, b"a" * 10))
    shutil.copy("data.qcow2", "corrupt.qcow2")
    set_feature("corrupt.qcow2", 2)
    os.mkdir("sub")
    shutil.copy("data.qcow2", "sub/base.qcow2")
    create("sub/rel.qcow2", "64M", backing="base.qcow2")
    shutil.copy("data.qcow2", 'n\u00e4me "q" \\ ,x.qcow2')
    return ["empty.qcow2", "none.qcow2", "data.qcow2", "v2.qcow2", "top.qcow2", "over-short.qcow2",
            "zero-above.qcow2", "on-raw.qcow2", "marks.qcow2", "zlib.qcow2", "zstd.qcow2",
            "ext.qcow2", "meta.qcow2", "bits1.qcow2", "tail.raw", "small.raw", "corrupt.qcow2",
            "sub/rel.qcow2", 'n\u00e4me "q" \\ ,x.qcow2']


# ------------------------------------------------------------------- checks ---


def check_map(t, names):
    for name in names:
        t.same("map", "--output=json", name)
        t.same("map", name, stderr=True)
        t.same("map", "--output=json", "-s", "300k", "-l", "1.5M", name)
        t.same("map", "--output=json", "-s", "1001", "-l", "70003", name)
    t.same("map", "--output", "human", "-s", "0x10000", "-l", "70M", "-U", "data.qcow2")
    t.same("map", "--output=json", "--start-offset", "100M", "data.qcow2")
    t.same("map", "--output=json", "-l", "0", "data.qcow2")
    t.same("map", "-l", "0", "data.qcow2")
    t.same("map", "-f", "raw", "--output=json", "zlib.qcow2")
    t.same("map", "-f", "raw", "small.raw")
    t.same("map", "--image-opts", "--output=json", "driver=qcow2,file.filename=data.qcow2")
    t.same("map", "--image-opts", "--output=json",
           'driver=qcow2,file.driver=file,file.filename=n\u00e4me "q" \\ ,,x.qcow2')
    t.same("map", "--output=json", 'json:{"driver": "raw", "file.filename": "data.qcow2"}')
    t.same("map", "--output=json",
           'json:{"driver":"qcow2","file":{"driver":"file","filename":"top.qcow2"}}')


def check_info(t, names):
    for name in names:
        t.same("info", name)
        t.same("info", "--output=json", name)
    for name in ("top.qcow2", "over-short.qcow2", "on-raw.qcow2", "marks.qcow2", "sub/rel.qcow2"):
        t.same("info", "--backing-chain", name)
        t.same("info", "--backing-chain", "--output=json", name)
        t.same("info", "--backing-chain", os.path.abspath(name))
    t.same("info", "-f", "raw", "-U", "data.qcow2")
    t.same("info", "--image-opts", "driver=qcow2,file.filename=marks.qcow2")
    # names of every form, and of bytes that are no text
    shutil.copy("v2.qcow2", b"no\xff\xc3text\t.qcow2")
    for name in (b"no\xff\xc3text\t.qcow2", "file:top.qcow2", "./sub/../top.qcow2",
                 'json:{"driver":"qcow2","file":{"driver":"file","filename":"top.qcow2"}}',
                 'json:{"file.filename":"top.qcow2"}', 'json:{"driver":"raw"}', "json:{", ".", ""):
        t.same("info", "--output=json", name)
    for opts in ("driver=raw,file.filename=top.qcow2", "file.filename=top.qcow2",
                 "driver=qcow2,file.driver=file,file.filename=top.qcow2,read-only=on",
                 "driver=qcow2,file=top.qcow2", "top.qcow2"):
        t.same("info", "--backing-chain", "--image-opts", opts)
    img("create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", "nbd://host/x", "odd.qcow2", "1M")
    img("create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", b"o\x01d\xffd", "odd2.qcow2", "1M")
    create("odd3.qcow2", "1M")
    img("rebase", "-u", "-F", "qcow2", "-b", "odd3.qcow2", "odd3.qcow2")
    for name in ("odd.qcow2", "odd2.qcow2", "odd3.qcow2"):
        t.same("info", "--output=json", name)
        t.same("info", "--backing-chain", name)
    # the backing file is not opened, so it may be missing
    create("orphan.qcow2", "1M", backing="empty.qcow2")
    img("rebase", "-u", "-F", "qcow2", "-b", "gone.qcow2", "orphan.qcow2")
    t.same("info", "orphan.qcow2")
    t.same("info", "--backing-chain", "orphan.qcow2")
    t.same("map", "--output=json", "orphan.qcow2")
    # the size of the data file is not known without opening it
    create("outside.qcow2", "1M", "data_file=outside.data")
    r = [json.loads(x.stdout) for x in (t.tool("info", "--output=json", "outside.qcow2"),
                                        run([QEMU_IMG, "info", "--output=json", "outside.qcow2"]))]
    for x in r:
        x.pop("actual-size", None)
    t.check(r[0] == r[1], "info of an image with a data file", "%s\n%s" % tuple(r))
    t.same("map", "--output=json", "outside.qcow2", extra=["--trust"])


def check_wrong_use(t):
    for verb in ("map", "info"):
        t.same(verb, stderr=True)
        t.same(verb, "a", "b", stderr=True)
        t.same(verb, "--bogus", "data.qcow2", stderr=True)
        t.same(verb, "-f", stderr=True)
        t.same(verb, "--output=xml", "data.qcow2")
        t.same(verb, "nothing-here.qcow2")
        t.same(verb, "-f", "qcow2", "small.raw")
        t.same(verb, "-f", "qcow2", "--image-opts", "driver=raw", stderr=True)
    for size in ("-1", "1Q", "x", "", "8E", "1.5", "99999999999999999999"):
        t.same("map", "-s", size, "data.qcow2", stderr=True)
        t.same("map", "-l", size, "data.qcow2", stderr=True)
    t.same("compare", "data.qcow2", stderr=True)
    t.same("compare", "-x", "data.qcow2", "data.qcow2", stderr=True)
    t.same("compare", "-T", "bogus", "data.qcow2", "data.qcow2", stderr=True)
    t.same("compare", "data.qcow2", "nothing-here.qcow2")
    t.same("convert", "-O", "raw", "data.qcow2", stderr=True)
    t.same("convert", "-m", "17", "data.qcow2", "x.raw", stderr=True)
    t.same("convert", "-S", "100", "data.qcow2", "x.raw", stderr=True)
    t.same("convert", "-t", "bogus", "-n", "data.qcow2", "x.raw")
    t.same("convert", "-C", "--salvage", "data.qcow2", "x.raw", stderr=True)
    t.same("convert", "--target-is-zero", "data.qcow2", "x.raw", stderr=True)
    t.same("convert", "-O", "raw", "nothing-here.qcow2", "x.raw")
    t.check(not os.path.exists("x.raw"), "refused conversions make no file")
    for args in (["-c"], ["-B", "b"], ["-O", "foo"], ["-o", "foo=1"]):
        t.same("convert", *args, "data.qcow2", "x.raw", stderr=True)
        t.check(not os.path.exists("x.raw"), "convert %s makes no file" % args)
    r = t.tool("convert", "-O", "qcow2", "data.qcow2", "-")
    t.check(r.returncode == 1 and b"raw images only" in r.stderr, "qcow2 to standard output is refused", str(r))
    for verb in ("read", "diff", "checksum", "inspect"):
        r = t.tool(verb, "--bogus")
        t.check(r.returncode == 2 and b"unrecognized option '--bogus'" in r.stderr,
                verb + " --bogus", str(r))
        t.check(t.tool(verb).returncode == 2, verb + " alone")
    here = os.path.dirname(t.qchain)
    for name in [n for n in sorted(os.listdir(here)) if n.startswith("qchain")]:
        r = run([os.path.join(here, name), "--help"])
        lines = r.stdout.splitlines()
        t.check(r.returncode == 0 and 5 < len(lines) <= 24 and max(map(len, lines)) <= 80,
                name + " --help fits a screen", r.stdout.decode())
        if name not in ("qchain", "qchain-fuse"):
            r2 = t.tool(name[7:], "--help")
            t.check(r2.stdout == r.stdout, name + " is qchain " + name[7:])
    t.check(t.tool("nonsense").returncode == 1 and t.tool().returncode == 1, "no such verb")
    t.check(t.tool("version").stdout.startswith(b"qchain "), "version")


def check_read(t, names):
    for name in names:
        img("convert", "-O", "raw", name, "want.raw")
        want = open("want.raw", "rb").read()
        r = t.tool("read", name, "got.raw")
        got = open("got.raw", "rb").read() if os.path.exists("got.raw") else None
        t.check(r.returncode == 0 and got == want, "read %s to a file" % name, str(r)[:800])
        t.check(t.tool("read", name).stdout == want, "read %s to a pipe" % name)
        part = t.tool("read", "--offset", "511", "--length", "300001", name)
        if len(want) >= 300512:
            t.check(part.stdout == want[511:300512], "read a part of " + name)
        else:
            t.check(part.returncode == 1 and not part.stdout, "read beyond the end of " + name)
        t.same("convert", "-O", "raw", name, "conv.raw")
        r = t.tool("convert", "-f", "raw" if name.endswith(".raw") else "qcow2", "-O", "raw", name,
                   "conv.raw")
        t.check(r.returncode == 0 and open("conv.raw", "rb").read() == want, "convert " + name,
                str(r))
        for tmp in ("got.raw", "conv.raw"):
            os.path.exists(tmp) and os.unlink(tmp)


def check_sparse(t):
    t.tool("read", "top.qcow2", "sparse.raw")
    st = os.stat("sparse.raw")
    t.check(st.st_size == 80 << 20 and st.st_blocks * 512 < 6 << 20, "read leaves holes", str(st))
    t.tool("convert", "-S", "0", "-O", "raw", "v2.qcow2", "full.raw")
    t.check(os.stat("full.raw").st_blocks * 512 >= 16 << 20, "convert -S 0 fills the file")
    # stored zeros become holes from the size on that -S names
    create("zeros.qcow2", "8M")
    io("zeros.qcow2", "write -P 0 0 4M", "write -P 1 4M 64k", "write -P 0 4100k 8k")
    want = run([QEMU_IMG, "convert", "-O", "raw", "zeros.qcow2", "want.raw"])
    t.check(want.returncode == 0, "qemu-img convert")
    for size in ("4k", "64k", "512"):
        t.tool("convert", "-S", size, "-O", "raw", "zeros.qcow2", "got.raw")
        same = open("want.raw", "rb").read() == open("got.raw", "rb").read()
        t.check(same and os.stat("got.raw").st_blocks * 512 <= 1 << 20, "convert -S " + size)
    # a target that is there, is longer, and holds other bytes
    for args, rest in ((["-n"], b"\xff"), (["-n", "-t", "writeback"], b"\xff")):
        with open("there.raw", "wb") as f:
            f.write(b"\xff" * (9 << 20))
        r = t.tool("convert", *args, "-O", "raw", "zeros.qcow2", "there.raw")
        got = open("there.raw", "rb").read()
        t.check(r.returncode == 0 and got == open("want.raw", "rb").read() + rest * (1 << 20),
                "convert %s" % args, str(r))
    write_file("there.raw", 1 << 20)
    t.same("convert", "-n", "-O", "raw", "zeros.qcow2", "there.raw", stderr=True)
    # standard output that is a file is written where it stands
    with open("out.raw", "wb") as f:
        f.write(b"head")
        f.flush()
        subprocess.run([t.qchain, "read", "--length", "64k", "data.qcow2"], stdout=f, check=True)
        subprocess.run(["printf", "tail"], stdout=f, check=True)
    t.check(open("out.raw", "rb").read() == b"head" + b"\x01" * 65536 + b"tail",
            "read into a redirected file")
    # never onto a layer
    before = open("mid.qcow2", "rb").read()
    r = t.tool("read", "top.qcow2", "mid.qcow2")
    t.check(r.returncode == 1 and open("mid.qcow2", "rb").read() == before,
            "read refuses to write to a layer", str(r))
    img("convert", "-l", "one", "-O", "raw", "marks.qcow2", "want.raw")
    for snap in ("one", "1", "snapshot.id=1", "snapshot.name=one"):
        r = t.tool("convert", "-l", snap, "-O", "raw", "marks.qcow2", "got.raw")
        t.check(r.returncode == 0 and open("want.raw", "rb").read() == open("got.raw", "rb").read(),
                "convert -l " + snap, str(r))


def check_full(t):
    """What cannot be written is told, and removed."""
    for args in (["map", "data.qcow2"], ["map", "--output=json", "data.qcow2"],
                 ["info", "data.qcow2"], ["inspect", "data.qcow2"], ["checksum", "data.qcow2"],
                 ["read", "data.qcow2"], ["convert", "-O", "raw", "data.qcow2", "-"],
                 ["diff", "top.qcow2"]):
        with open("/dev/full", "wb") as full:
            r = subprocess.run([t.qchain, *args], stdout=full, stderr=subprocess.PIPE)
        t.check(r.returncode == 1 and b"No space left" in r.stderr, "full: %s" % args, str(r))
    for verb in ("read", "convert"):
        r = run(["sh", "-c", "ulimit -f 100; exec \"$0\" %s data.qcow2 large.raw" % verb, t.qchain])
        t.check(r.returncode == 1 and b"too large" in r.stderr
                and not os.path.exists("large.raw"), "%s beyond a limit" % verb, str(r))


def wait_for_handler(p):
    """Until the process catches SIGINT: on a busy machine it takes its time to start."""
    until = time.monotonic() + 60
    while p.poll() is None and time.monotonic() < until:
        with open("/proc/%d/status" % p.pid, encoding="ascii") as f:
            caught = int(re.search(r"^SigCgt:\s*(\w+)", f.read(), re.M)[1], 16)
        if caught & 1 << (signal.SIGINT - 1):
            return
        time.sleep(0.01)


def check_interrupt(t):
    """SIGINT leaves nothing that is not whole: what was there before is."""
    for name, args in (("new.raw", ["convert", "-r", "1M", "-O", "raw"]),
                       ("old.raw", ["convert", "-r", "1M", "-O", "raw"])):
        if name == "old.raw":
            write_file(name, 12345, (0, b"old"))
        p = subprocess.Popen([t.qchain, *args, "marks.qcow2", name], stderr=subprocess.PIPE)
        wait_for_handler(p)
        time.sleep(0.5)
        p.send_signal(signal.SIGINT)
        err = p.communicate(timeout=20)[1]
        size = os.stat(name).st_size if os.path.exists(name) else None
        t.check(p.returncode == 130 and size == (12345 if name == "old.raw" else None),
                "SIGINT while converting to " + name, "%s %s %s" % (p.returncode, size, err))
    # a reader that does not read
    p = subprocess.Popen([t.qchain, "read", "marks.qcow2"], stdout=subprocess.PIPE)
    wait_for_handler(p)
    time.sleep(0.3)
    p.send_signal(signal.SIGINT)
    t.check(p.wait(timeout=20) == 130, "SIGINT while a pipe is full", str(p.returncode))
    p.stdout.close()


def check_compare(t):
    img("convert", "-O", "raw", "data.qcow2", "data.raw")
    img("convert", "-O", "qcow2", "data.qcow2", "copy.qcow2")
    sparse_copy("data.raw", "other.raw")
    with open("other.raw", "r+b") as f:
        f.seek((3 << 20) + 512 * 3 + 7)
        f.write(b"!")
    sparse_copy("data.raw", "longer.raw")
    os.truncate("longer.raw", 65 << 20)
    sparse_copy("longer.raw", "longer-data.raw")
    with open("longer-data.raw", "r+b") as f:
        f.seek((64 << 20) + 4099)
        f.write(b"!")
    sparse_copy("data.raw", "in-hole.raw")
    with open("in-hole.raw", "r+b") as f:
        f.seek((5 << 20) + 5)
        f.write(b"!")
    create("broken.qcow2", "4M")
    io("broken.qcow2", "write -P 1 0 1M")
    with open("broken.qcow2", "r+b") as f:
        f.seek(40)
        l1 = struct.unpack(">Q", f.read(8))[0]
        f.seek(l1)
        f.write(struct.pack(">Q", 1 << 63 | 0x40200))
    pairs = [("data.qcow2", "data.raw"), ("data.qcow2", "copy.qcow2"), ("data.raw", "other.raw"),
             ("data.qcow2", "other.raw"), ("data.qcow2", "in-hole.raw"),
             ("data.raw", "in-hole.raw"), ("data.qcow2", "longer.raw"),
             ("longer.raw", "data.qcow2"), ("data.qcow2", "longer-data.raw"),
             ("top.qcow2", "data.qcow2"), ("pattern.qcow2", "zlib.qcow2"),
             ("zlib.qcow2", "zstd.qcow2"), ("empty.qcow2", "data.qcow2"),
             ("none.qcow2", "empty.qcow2"), ("ext.qcow2", "meta.qcow2"),
             ("broken.qcow2", "data.qcow2"), ("data.qcow2", "broken.qcow2")]
    for pair in pairs:
        t.same("compare", *pair)
        t.same("compare", "-s", *pair)
        t.same("compare", "-q", *pair)
    t.same("compare", "-f", "raw", "-F", "raw", "data.qcow2", "copy.qcow2")
    t.same("compare", "-T", "none", "-U", "data.raw", "data.raw")
    t.same("compare", "--image-opts", "driver=qcow2,file.filename=data.qcow2",
           "driver=raw,file.filename=data.raw")


def check_own(t):
    """What qemu-img does not have."""
    r = t.tool("diff", "--output=json", "top.qcow2")
    if t.check(r.returncode == 0, "diff", str(r)):
        t.check([(e["start"], e["length"], e["depth"]) for e in json.loads(r.stdout)] ==
                [(70 << 20, 2 << 20, 0)], "diff of the top layer", r.stdout.decode())
    by_name = t.tool("diff", "--output=json", "--below", "data.qcow2", "top.qcow2")
    t.check(by_name.stdout == t.tool("diff", "--output=json", "--below", "2", "top.qcow2").stdout
            and len(by_name.stdout) > len(r.stdout), "diff by name", str(by_name))
    t.check(t.tool("diff", "--output=json", "empty.qcow2").stdout == b"[]\n", "diff of nothing")
    t.check(t.tool("diff", "--below", "0", "top.qcow2").returncode == 2, "diff upside down")
    t.check(t.tool("diff", "--below", "x", "top.qcow2").returncode == 2, "diff of no layer")

    sums = t.tool("checksum", "data.qcow2", "data.raw", "copy.qcow2", "other.raw")
    lines = sums.stdout.decode().splitlines()
    digests = [x[:64] for x in lines]
    t.check(len(lines) == 4 and len(set(digests[:3])) == 1 and digests[3] != digests[0]
            and re.fullmatch("[0-9a-f]{64}  data.qcow2", lines[0]), "checksum", str(sums))

    r = t.tool("inspect", "marks.qcow2")
    d = json.loads(r.stdout)
    t.check([s["name"] for s in d["snapshots"]][:1] == ["one"]
            and [b["name"] for b in d["bitmaps"]] == ["bits", "off"], "inspect", str(r))
    d = json.loads(t.tool("inspect", "orphan.qcow2").stdout)
    t.check(d["backing-filename"] == "gone.qcow2" and d["backing-filename-format"] == "qcow2",
            "inspect of a missing backing file", str(d))

    r = t.tool("map", "--output=json-full", "zlib.qcow2")
    full = json.loads(r.stdout)
    packed = [e for e in full if e["compressed"]]
    t.check(packed and all(e["host-length"] > 0 and e["offset"] > 0
                           and e["filename"].endswith("zlib.qcow2") for e in packed)
            and sum(e["length"] for e in full) == 8 << 20, "map json-full", str(r)[:2000])
    r = t.tool("map", "--output=json", "--stats=json", "top.qcow2")
    t.check(json.loads(r.stderr)["meta-reads"] > 0, "--stats=json", str(r))
    r = t.tool("checksum", "--progress=json", "data.qcow2")
    last = json.loads(r.stderr.splitlines()[-1])
    t.check(last["done"] == last["total"] > 0, "--progress=json", str(r))
    r = t.tool("convert", "-p", "-O", "raw", "data.qcow2", "p.raw")
    t.check(r.stdout.endswith(b"    (100.00/100%)\r\n"), "convert -p", str(r))


def check_policy(t):
    top = os.path.abspath("top.qcow2")
    os.mkdir("elsewhere")
    create("elsewhere/t.qcow2", "80M", backing=top)
    t.check(t.tool("map", "elsewhere/t.qcow2").returncode == 1, "a layer elsewhere is refused")
    here = os.path.dirname(top)
    r = t.tool("map", "--allow-path", here, "elsewhere/t.qcow2")
    t.check(r.returncode == 0, "--allow-path", str(r))
    t.check(t.tool("map", "--trust", "elsewhere/t.qcow2").returncode == 0, "--trust")
    with open("policy", "w") as f:
        f.write("# rules\nallow-path %s\n" % here)
    env = dict(os.environ, QCHAIN_POLICY=os.path.abspath("policy"))
    r = t.tool("map", "elsewhere/t.qcow2", env=env)
    t.check(r.returncode == 0, "QCHAIN_POLICY", str(r))
    t.same("map", "--output=json", "elsewhere/t.qcow2", extra=["--trust"])
    env["QCHAIN_POLICY"] = "/nothing/here"
    t.check(t.tool("map", "top.qcow2", env=env).returncode == 1, "a policy that is missing")
    r = t.tool("map", "top.qcow2", env=dict(os.environ, QCHAIN_DEBUG="1"))
    t.check(r.returncode == 0, "QCHAIN_DEBUG=1", str(r))


def check_can_fail(t):
    """This test would notice a difference."""
    a = t.tool("map", "--output=json", "data.qcow2")
    b = run([QEMU_IMG, "map", "--output=json", "v2.qcow2"])
    t.check(not same_result(a, b, False, "map"), "other output is noticed")
    c = run([QEMU_IMG, "map", "--output=json", "nothing-here.qcow2"])
    t.check(not same_result(a, c, False, "map"), "another exit code is noticed")


def main():
    args = sys.argv[1:]
    keep = "--keep" in args
    only = args[args.index("--only") + 1] if "--only" in args else None
    bindir = os.environ.get("QC_BIN")
    if "--bin" in args:
        bindir = args[args.index("--bin") + 1]
    elif args and not args[0].startswith("--"):
        bindir = args[0]
    if not bindir:
        sys.exit(__doc__)
    qchain = os.path.join(os.path.abspath(bindir), "qchain")
    if not QEMU_IMG or not QEMU_IO:
        print("qemu-img or qemu-io is not installed")
        sys.exit(77)
    os.environ["QCHAIN_POLICY"] = ""
    os.environ["TZ"] = "UTC"
    tmp = tempfile.mkdtemp(prefix="qchain-tools-")
    t = Test(qchain, only)
    try:
        os.chdir(tmp)
        names = make_images()
        parts = [lambda: check_map(t, names), lambda: check_info(t, names),
                 lambda: check_wrong_use(t), lambda: check_compare(t), lambda: check_own(t),
                 lambda: check_read(t, names), lambda: check_sparse(t), lambda: check_full(t),
                 lambda: check_interrupt(t), lambda: check_policy(t), lambda: check_can_fail(t)]
        for part in parts:
            try:
                part()
            except Exception:  # what a tool printed was nothing to parse
                t.check(False, "this part could not go on", traceback.format_exc())
    finally:
        os.chdir("/")
        if keep:
            print("kept: " + tmp)
        else:
            shutil.rmtree(tmp, ignore_errors=True)
    print("%d checks, %d failed" % (t.done, t.bad))
    sys.exit(1 if t.bad else 0)


if __name__ == "__main__":
    main()
