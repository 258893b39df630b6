#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The I/O shell against qemu-io: the same commands on copies of one image print the same, end with the
same code and leave the same disk.

Scripts are fixed ones, and random ones whose seeds are printed when something differs; `--seed THAT
--count 1` makes one again.
"""
import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile

import interop_lib as lib
from interop_lib import Mismatch

RATES = re.compile(r"(\d+ ops; )[0-9:.]+( sec)? \(.*?/sec and [0-9.]+ ops/sec\)")
NUMBERS = re.compile(r"^((?:qemu-io> )*\d+,\d+),[0-9:.]+,[0-9.]+,[0-9.]+$", re.M)
SUMMARY = re.compile(r"^((?:qemu-io> )*[a-z_?]+ .*?-- ).*$", re.M)
MISSING = re.compile(r"^(break|remove_break|resume|wait_break) .*\n", re.M)  # commands of a test driver


def normal(text):
    """What may not differ: all but times, names of the program and how help puts it."""
    text = text.decode(errors="replace").replace("qchain-io", "qemu-io")
    text = RATES.sub(r"\1TIME", text)
    text = NUMBERS.sub(r"\1,TIME", text)
    return SUMMARY.sub(r"\1...", MISSING.sub("", text))


# ------------------------------------------------------------------- images ---

def qemu_img(cwd, *args):
    subprocess.run(["qemu-img", *args], cwd=cwd, check=True, stdout=subprocess.DEVNULL)


def make(cwd, name, size, options="", fmt="qcow2", backing=None):
    args = ["create", "-q", "-f", fmt]
    if options:
        args += ["-o", options]
    if backing:
        args += ["-b", backing[0], "-F", backing[1]]
    qemu_img(cwd, *args, name, size)


def fill(cwd, name, *commands, fmt="qcow2"):
    args = ["qemu-io", "-f", fmt]
    for c in commands:
        args += ["-c", c]
    r = subprocess.run([*args, name], cwd=cwd, capture_output=True, check=False)
    if r.returncode:
        sys.exit(f"{args}: {r.stdout} {r.stderr}")


def make_images(cwd):
    """What the scripts work on, by name and format."""
    make(cwd, "a.qcow2", "1M")
    fill(cwd, "a.qcow2", "write -P 0xab 0 1k", "write -P 8 1k 1k", "write -P 0xcd 2k 62k")
    make(cwd, "v2.qcow2", "3M", "compat=0.10,cluster_size=4k")
    fill(cwd, "v2.qcow2", "write -P 1 100k 300k")
    make(cwd, "ext.qcow2", "2M", "extended_l2=on,cluster_size=32k,lazy_refcounts=on,compression_type=zstd")
    fill(cwd, "ext.qcow2", "write -P 2 3k 100k", "write -c -P 3 1M 256k")
    make(cwd, "data.qcow2", "3M", "data_file=d.raw")
    fill(cwd, "data.qcow2", "write -P 4 64k 64k")
    make(cwd, "base.qcow2", "2M", "refcount_bits=1")
    fill(cwd, "base.qcow2", "write -P 5 0 1M", "write -z 512k 128k")
    make(cwd, "top.qcow2", "3M", "cluster_size=16k", backing=("base.qcow2", "qcow2"))
    fill(cwd, "top.qcow2", "write -P 6 100k 50k")
    make(cwd, "empty.qcow2", "0")
    make(cwd, "r.raw", "1000000", fmt="raw")
    fill(cwd, "r.raw", "write -P 7 4k 100k", fmt="raw")
    make(cwd, "on-raw.qcow2", "960k", backing=("r.raw", "raw"))
    with open(os.path.join(cwd, "pattern"), "wb") as f:
        f.write(b"abc!9 z")
    with open(os.path.join(cwd, "magic"), "wb") as f:
        f.write(b"QFI\xfb\0\0\0\3")
    with open(os.path.join(cwd, "all"), "wb") as f:
        f.write(bytes(range(256)))
    with open(os.path.join(cwd, "nothing"), "wb"):
        pass
    return {"a.qcow2": "qcow2", "v2.qcow2": "qcow2", "ext.qcow2": "qcow2", "data.qcow2": "qcow2",
            "top.qcow2": "qcow2", "r.raw": "raw", "on-raw.qcow2": "qcow2"}


# -------------------------------------------------------------------- scripts ---

A = ("-f", "qcow2", "a.qcow2")

# (arguments, commands); commands as one string go to standard input. Where zeros are known to lie below, QEMU
# copies them, too.
COPY_ON_READ = [
    (("-C", "-f", "qcow2", "top.qcow2"), ["read 0 4k", "map", "read -P 5 300k 1", "map", "aio_read 200k 64k", "aio_flush",
                                          "map", "write -P 9 210k 1k", "read 90k 70k", "read -P 6 100k 50k", "map"]),
    (("-C", "-s", "-f", "qcow2", "top.qcow2"), ["read -P 5 0 4k", "alloc 0 64k"]),
    (("-C", "-f", "qcow2", "on-raw.qcow2"), ["read -P 7 4k 100k", "map", "discard 64k 64k", "read -P 0 64k 1k", "map"]),
    (("-C", "-r", "-f", "qcow2", "top.qcow2"), ["read 0 4k"]),
    ((), ["open -C -r top.qcow2", "open -C top.qcow2", "read 0 4k", "map", "close"]),
]

READS = [
    (A, ["read -P 8 1k 1k", "read -P 9 1k 1k", "read -P 8 1k 2k", "read -P -1 1k 1k", "read -P 256 0 1",
         "read -P ff 0 1", "read -P 0xab 0 1", "read -P 010 1k 1", "read -P1 0 1", "read -P '' 0 1"]),
    (A, ["read -P 8 1k 1k"]), (A, ["read -P 9 1k 1k"]), (A, ["read -P 300 0 1"]),
    (A, ["read -v 1000 100", "read -vq 1k 20", "readv -v 500 13 17", "read -v 1M 0", "read -v 0 17"]),
    (A, ["read 1M 512", "read 2M 1k", "read -1 1k", "read 0 -1", "read 0 3G", "read x 1", "read 1 x"]),
    (A, ["read", "read 1", "read 1 2 3", "readv 0 0", "read 1.5k 10", "read 0x10 010", "read 1K 1b"]),
    (A, ["read 0 1000", "read 0 1023", "read 0 1024", "read 0 1025", "read 0 1000k", "read 0 1023k"]),
    (A, ["read -P 0 -s 4 -l 4 0 16", "read -P 0xab -s 4 -l 4 0 16", "read -P 205 -s 4 -l 14 0 16",
         "read -P 0xab -s 17 0 16", "read -s 4 0 16", "read -l 4 0 16", "read -P 0xab -s 4 0 16",
         "read -P 1 -s 4 -l 2 0 16", "read -P 1 -s x 0 16", "read -P 1 -l x 0 16"]),
    (A, ["read -a 0 16", "read -b 0 16", "read -b 0 512", "read -b 1 512", "read -b 1 1", "read -b 1M 512",
         "read -C 0 512", "read -Cq 0 512", "read -C -v 0 16", "read -i 0 16", "read -p 0 16",
         "read -bq 0 16", "read -v -P 1 0 16", "read -bC 0 512"]),
    (A, ["readv 0 1k 2k", "readv -P 0xab 0 512 512", "readv -P 1 0 512 512", "readv -C 0 1k 1k", "readv 0",
         "readv 0 x", "readv 0 512 512 x", "readv 1M 512", "readv 0 1M 1M", "readv -i 0 1k", "readv -q 0 1k",
         "readv -b 0 1k", "readv 0 2147483136 2147483136", "readv 0 3G", "readv x 1"]),
    (A, ["read 1152921504606846975 1", "read 9223372036854775807 1", "read 9223372036854775808 1",
         "read 99999999999999999999 1", "read 1E 1", "read 8E 1", "read 0 1.5", "read 0 0.5k",
         "read 0 1kk", "read 0 1KB", "read '' 1", "read 0 +1", "alloc 0 9E", "read 0 2147483137",
         "read -- -1 1", "read -P -- 0 1"]),
    (A, ["foo", "", " ", "read   0    512", "quit x", "quit", "read 0 512"]),
    (A, ["quit", "foo"]), (A, ["foo"]), (A, [""]), (A, ["alloc x"]), (A, ["sleep x"]), (A, ["length x"]),
    (A, ["length", "length x", "map", "map x", "alloc 0", "alloc 0 1M", "alloc 64k", "alloc 0 x", "alloc x",
         "alloc 0 64k 1", "alloc", "alloc 3M", "alloc 1M 0", "alloc 0 3M", "alloc 512k 1M", "alloc 0 0",
         "alloc 1", "alloc 63k 10k", "alloc 0 1", "alloc 1000 1000"]),
    (A, ["flush", "flush x", "aio_flush", "aio_flush x", "sleep 10", "sleep", "sleep x", "sleep -1",
         "sleep 1 2", "sleep 0x1", "sleep 1k", "close", "read 0 512", "length", "close", "flush", "map",
         "open a.qcow2", "open a.qcow2"]),
    (A, ["r 0 512", "rv 0 512", "l", "aiof", "a 0", "a", "i", "f", "o", "c", "l"]),
    (A, ["help foo"]), (A, ["help", "?", "help read write", "help ?", "help length"]),
    (A, ["length length", "read -- 0 512", "read 0 512 -q", "read -q -q 0 512", "read --foo 0 1"]),
    (A, ["aio_read -P 4 0 3k", "aio_flush"]), (A, ["aio_read 2M 1k", "aio_flush"]),
    (A, ["aio_read -v 0 20", "aio_flush", "aio_read -C 0 20", "aio_flush", "aio_read -i 0 1k",
         "aio_read -i x", "aio_read -z 0 1", "aio_read", "aio_read x 1", "aio_read 0 x", "aio_read 0 3G",
         "aio_read -q 0 1k 1k", "aio_flush", "aio_read -P 300 0 1"]),
    (A, ["aio_read 0 1k", "close", "length"]), (A, ["aio_read 0 1k"]), (A, ["aio_read 0 1k", "quit"]),
    (A, ["reopen -x", "reopen x", "reopen -r -w", "reopen -c foo", "reopen -o foo=1", "length", "reopen -r",
         "write 0 1", "length", "read 0 1"]),
    (("-r", *A), ["write", "write 0 1", "write -x", "write x x", "discard", "discard 0 64k", "truncate",
                  "truncate 1M", "truncate x", "aio_write 0 1k", "aio_flush", "flush", "writev 0 1", "foo",
                  "write -z 0 1", "read 0 512"]),
    (("-U", "-r", *A), ["length"]), (("-U", *A), ["length"]), (("-r", "-n", *A), ["read 0 512"]),
    (A, "length\nread 0 512\n"), (A, "length\nfoo\n"), (A, "length"), (A, "\n\nlength\n# x\n"),
    (A, "length\nquit\nlength\n"), (A, "q\nlength\n"), (A, "read -P 1 0 512\n"), (A, ""),
    (A, " length\n\tlength\n"), (A, "length;length\n"), (A, "sleep 10\nlength\n"),
    (A, "aio_read 0 512\nquit\n"), (A, "aio_read 0 512\n"), (A, "x\ny\nhelp\n"),
    (("-f", "qcow2", "v2.qcow2"), ["info", "map", "length", "alloc 0 3M", "alloc 99k 2k"]),
    (("-f", "qcow2", "ext.qcow2"), ["info", "map", "length", "alloc 0 2M", "alloc 2k 2k", "alloc 100k 9k"]),
    (("-f", "qcow2", "data.qcow2"), ["info", "map", "length", "alloc 0 2M", "read -P 4 64k 64k"]),
    (("-f", "qcow2", "top.qcow2"), ["info", "map", "length", "alloc 0 3M", "alloc 96k 90k", "read -P 5 0 96k"]),
    (("-f", "qcow2", "empty.qcow2"), ["info", "map", "length", "alloc 0", "read 0 0", "read 0 1"]),
    (("-f", "raw", "r.raw"), ["info", "map", "length", "alloc 0 2M", "read -v 999990 10", "read -b 0 1"]),
    (("r.raw",), ["length"]), (("-r", "r.raw"), ["length"]), (("a.qcow2",), ["length"]),
    ((), ["length", "read 0 1k", "open", "open nofile", "open -x", "open -n a.qcow2", "length"]),
    ((), ["write", "write 0 1"]), ((), ["reopen -r"]), ((), ["help"]), ((), ["quit"]), ((), ["sleep 1"]),
    ((), ["open -t foo a.qcow2", "open -d foo a.qcow2", "open -i foo a.qcow2", "open a.qcow2 b", "length"]),
    ((), ["open -r a.qcow2", "length", "write 0 1", "close", "open -U -r a.qcow2", "length", "close",
          "open -U a.qcow2", "length"]),
    ((), ["open -r -o driver=raw a.qcow2", "length", "close", "open -r -o driver=qcow2 a.qcow2", "length"]),
    ((), ["open -r -o file.filename=a.qcow2,driver=qcow2", "length"]),
    (("nofile",), ["length"]), (("-f", "qcow2", "nofile"), ["length"]), (("-f", "foo", "a.qcow2"), ["length"]),
    (("-t", "foo", "a.qcow2"), []), (("-d", "foo", "a.qcow2"), []), (("-i", "foo", "a.qcow2"), []),
    (("-k", *A), ["length"]), (("-k", "-n", *A), ["length"]), (("-i", "threads", *A), ["length"]),
    (("-m", *A), ["length"]),
    (("--image-opts", "driver=qcow2,file.filename=a.qcow2"), ["length"]),
    (("--image-opts", "-f", "qcow2", "driver=qcow2,file.filename=a.qcow2"), ["length"]),
    (("--read-only", "--force-share", "--format", "qcow2", "--cmd", "length", "a.qcow2"), []),
]

WRITES = [
    (A, ["write 0 64k", "write -P 300 0 1k", "write -P x 0 1k", "write -P 0xab 0 1k", "write -P 010 1k 1k",
         "read -P 8 1k 1k", "write -P 1 0 1", "read -v 0 3", "write -P 0 0 512", "read -P 0 0 512"]),
    (A, ["write -z 0 64k", "write -zu 0 64k", "write -u 0 64k", "write -n 0 64k", "write -zn 0 64k",
         "write -zf 0 64k", "write -z -P 1 0 1k", "write -bz 0 64k", "write -bc 0 64k", "write -c 0 64k",
         "write -c 0 63k", "write -c 1k 64k", "write -f 0 1k", "write -bf 0 1k", "write -b 0 1k",
         "read -b -P 205 0 1k", "write -cf 64k 64k", "write -x 0 1", "write -zun 64k 64k"]),
    (A, ["write -s pattern 0 10", "read -v 0 10", "write -s nothing 0 10", "write -s nofile 0 10",
         "write -s pattern -P 1 0 10", "write -s pattern -z 0 10", "write -s pattern 0 0",
         "write -q -s all 1k 256", "read -v 1k 256", "write -q 0 1k", "write -C 0 1k", "write -p 0 1k",
         "write -Cq 0 1"]),
    (A, ["write 1M 1k", "write 1000k 100k", "write -z 1000k 100k", "write 0 0", "write -z 0 0", "write 0 3G",
         "write -z 0 3G", "write -z -n 0 3G", "write 100 100", "write -z 100 100", "write -c 1M 64k", "write",
         "write 0", "write -P", "write 0 1 2", "write 0 2147483136"]),
    (A, ["write -b 1M 1k", "read -b -v 1M 16", "read -b -P 205 1M 1k", "read -b -P 0 0 1M", "write -b 1 1",
         "read -P 0 64k 64k", "write -b -P 3 64k 128k", "read -b -P 3 64k 128k", "length"]),
    (A, ["writev 0 512 1k", "writev -P 7 100 100 200", "writev -f 0 1k", "writev -C 0 1k", "writev 0",
         "writev 0 x", "writev -z 0 1", "writev -x 0 1", "writev 1M 1k", "writev -P 300 0 1", "writev 0 3G",
         "writev -q 5 1 2 3 4 0 6", "read -P 205 5 16"]),
    (A, ["aio_write 0 512", "aio_flush", "aio_write -P 3 0 1k 2k", "aio_flush", "aio_read -P 3 0 3k",
         "aio_flush", "aio_write -z 0 64k", "aio_flush", "aio_write -zu 0 64k", "aio_flush",
         "aio_write -u 0 1k", "aio_write -i 0 1k", "aio_write -z 0 1k 2k", "aio_write -q 0 1k", "aio_flush",
         "aio_write -f 0 1k", "aio_flush", "aio_write", "aio_write x 1", "aio_write 0 x", "aio_write -C 0 1k",
         "aio_flush", "aio_write 0 3G", "read -P 205 0 1k"]),
    (A, ["aio_write 1M 1k", "aio_flush", "aio_write -z 1M 1k", "aio_flush"]),
    (A, ["aio_write -P 9 0 64k", "close", "open a.qcow2", "read -P 9 0 64k"]),
    (A, ["aio_write -P 9 0 64k", "reopen -r", "length", "read -P 9 0 64k"]),
    (A, "aio_write 0 512\n"), (A, "aio_write 0 512\nquit\n"), (A, "write -P 1 '0' 512\n"),
    (A, "w 0 512\nd 0 512\nt 2M\nl\nc\nl\n"),
    (A, ["discard 0 64k", "read -P 0 0 64k", "discard 0", "discard x 1", "discard 0 x", "discard -q 0 64k",
         "discard -C 0 64k", "discard 1M 64k", "discard 1000 100", "discard 0 3G", "discard 0 -1",
         "discard -1 1", "discard 0 0", "discard -x 0 1", "discard 0 64k 1"]),
    (("-d", "ignore", *A), ["write -P 1 0 64k", "discard 0 64k", "read -P 1 0 64k", "discard 2M 1", "map"]),
    (("-d", "unmap", *A), ["discard 0 64k", "read -P 0 0 64k"]),
    (A, ["truncate 2M", "length", "read -P 0 1M 1M", "truncate 1M", "length", "truncate x", "truncate",
         "truncate -1", "truncate 1000", "length", "truncate -m foo 3M", "truncate 1M 2",
         "truncate 1M 2 3 4", "truncate -x 1M", "truncate -m off 512k", "length", "map"]),
    (A, ["reopen", "reopen -r", "length", "write 0 1k", "reopen -w", "write 0 1k", "reopen -c none",
         "write 0 4k", "reopen -c unsafe", "write 4k 4k", "reopen -o cache.direct=on", "read -P 205 0 8k",
         "reopen -c writeback", "flush"]),
    (("-t", "none", *A), ["write 0 64k", "write 100 100", "read -P 205 0 64k", "flush"]),
    (("-n", *A), ["write 512 1k", "length"]),
    (("-t", "writeback", *A), ["write 0 64k", "flush"]), (("-t", "directsync", *A), ["write 0 64k"]),
    (("-t", "unsafe", *A), ["write 0 64k", "flush"]), (("-t", "writethrough", *A), ["write 0 64k"]),
    (("-s", *A), ["write -P 1 0 1k", "length", "read -P 1 0 1k", "read -P 8 1k 1k", "flush"]),
    ((), ["open -s a.qcow2", "length", "write -P 1 0 1k", "read -P 1 0 1k", "close", "open -r a.qcow2",
          "read -P 0xab 0 1k"]),
    (("r.raw",), ["write -s magic 0 8", "write -s magic 0 512", "write -s magic 0 4",
                   "write -P 1 0 1", "write -P 3 7 1", "write -s magic 0 4", "write -z 0 512", "write -P 2 0 512", "write 512 512"]),
    (("-f", "raw", "r.raw"), ["write 0 64k", "write 999k 1k", "write -c 0 64k", "write -b 0 1",
                              "write -b 0 512", "write -z 0 4k", "discard 4k 4k", "read -P 0 0 4k", "map"]),
    (("--image-opts", "driver=qcow2,file.filename=a.qcow2"), ["write 0 1k"]),
    ((), ["open -o driver=qcow2 a.qcow2", "write 0 1k", "close"]),
    (("--image-opts", "driver=qcow2,read-only=on,file.filename=a.qcow2"), ["write 0 1k", "read 0 512"]),
    (A, ["write -P 1 0 64k", "sigraise 9", "length"]), (A, ["write -P 1 0 64k", "sigraise 15"]),
    (A, ["sigraise x", "sigraise"]),
]
if "thread" not in os.environ.get("QC_SAN", ""):   # ThreadSanitizer prints what is in stdio's memory before it ends
    WRITES.append((A, ["write -P 1 64k 64k", "abort"]))


def random_range(rng, size):
    unit = rng.choice((1, 512, 4096, 65536))
    offset = rng.randrange(size) // unit * unit
    length = min(rng.choice((1, 3, 17, 65)) * unit * rng.randint(1, 3), 1 << 20)
    if rng.random() < 0.03:
        return offset, length  # perhaps beyond the end
    return offset, max(0, min(length, size - offset))


def random_command(rng, size, fresh, zeroes):
    """fresh: 64 KiB clusters that nothing has been written to; qemu-io compresses into no others."""
    offset, length = random_range(rng, size)
    if fresh and rng.random() < 0.1:
        cluster = fresh.pop(rng.randrange(len(fresh)))
        return [f"write -c -P {rng.choice((0, 1, 2))} {cluster * 65536} 65536"]
    command = random_plain(rng, offset, length, zeroes)
    if not command[0].startswith(("read", "aio_read", "alloc")):
        fresh[:] = [c for c in fresh if (c + 1) * 65536 <= offset or c * 65536 >= offset + length]
    return command


def random_plain(rng, offset, length, zeroes):
    """zeroes: give up space rather than look at what is allocated, for there the two need not agree."""
    pattern = rng.choice((0, 1, 2, 205))
    quiet = rng.choice(("", "", "", " -q", " -C"))
    kind = rng.randrange(13)
    if kind < 2:
        return [f"read{quiet} -P {pattern} {offset} {length}"]
    if kind < 5:
        return [f"write{quiet} -P {pattern}{rng.choice(('', '', ' -f'))} {offset} {length}"]
    if kind == 5 and zeroes:
        return [f"write{quiet} -z{rng.choice(('', 'u', 'f'))} {offset} {length}"]
    if kind == 6 and zeroes:
        return [f"discard{quiet} {offset} {length}"]
    if kind == 7:
        part = rng.randint(0, length)
        return [f"writev{quiet} -P {pattern} {offset} {part} {length - part}"]
    if kind == 8:
        return [f"readv{quiet} -P {pattern} {offset} {length}"]
    if kind == 9:
        return [f"aio_write{quiet} -P {pattern} {offset} {length}", "aio_flush"]
    if kind == 10:
        return [f"aio_read{quiet} -P {pattern} {offset} {length}", "aio_flush"]
    if kind == 11:
        return [rng.choice(("flush", "length", *(() if zeroes else (f"alloc {offset} {length}", "map"))))]
    return [f"read -v {offset} {min(length, 64)}"]


def random_script(rng, images):
    name = rng.choice(sorted(images))
    size = {"a.qcow2": 1 << 20, "r.raw": 1000448, "v2.qcow2": 3 << 20, "ext.qcow2": 2 << 20,
            "data.qcow2": 3 << 20, "top.qcow2": 3 << 20, "on-raw.qcow2": 960 << 10}[name]
    commands = []
    zeroes = rng.random() < 0.7
    fresh = list(range(size // 65536)) if name == "on-raw.qcow2" else []
    for _ in range(rng.randint(5, 40)):
        commands += random_command(rng, size, fresh, zeroes)
    cache = rng.choice(((), ("-t", "none"), ("-t", "writeback"), ("-t", "unsafe")))
    if rng.random() < 0.3:
        commands = "\n".join(commands) + "\n"
    return ("-f", images[name], *cache, name), commands


# ------------------------------------------------------------------- comparing ---

class Shells:
    """One directory that both shells get copies of."""

    def __init__(self, args, root):
        self.args = args
        self.origin = os.path.join(root, "origin")
        self.work = os.path.join(root, "work")
        os.mkdir(self.origin)
        self.images = make_images(self.origin)
        self.done = 0

    def run(self, program, arguments, commands, keep):
        """Run in a fresh copy, always called the same: names appear in what is printed."""
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.origin, self.work)
        argv = [program]
        if not isinstance(commands, str):
            for c in commands:
                argv += ["-c", c]
        r = subprocess.run([*argv, *arguments], cwd=self.work, capture_output=True, check=False,
                           input=commands.encode() if isinstance(commands, str) else b"", timeout=60)
        if keep:
            shutil.rmtree(keep, ignore_errors=True)
            os.rename(self.work, keep)
        return r.returncode, normal(r.stdout), normal(r.stderr)

    def compare(self, arguments, commands):
        self.done += 1
        theirs_dir, ours_dir = self.origin + ".theirs", self.origin + ".ours"
        theirs = self.run("qemu-io", arguments, commands, theirs_dir)
        ours = self.run(self.args.shell, arguments, commands, ours_dir)
        what = f"{' '.join(arguments)}: {commands}"
        used = str((arguments, commands))
        if self.spoilt(theirs_dir, used):
            return
        try:
            if ours != theirs:
                raise Mismatch(f"{what}\n{first_difference(ours, theirs)}")
            self.same_disks(what, used, theirs_dir, ours_dir, ours[0])
        except Mismatch as e:
            if "write -c" not in used or not self.same_without_streams(what, arguments, commands, ours_dir):
                raise
            print(f"  qemu-io has other bytes with compression than without it, ours are the latter: {str(e).splitlines()[-1]}")

    def same_disks(self, what, used, theirs_dir, ours_dir, code):
        killed = code in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGABRT)
        for name, fmt in self.images.items():
            if name in used:
                self.same_disk(what, name, fmt, theirs_dir, ours_dir, killed)

    def same_without_streams(self, what, arguments, commands, ours_dir):
        """What spoilt tells of may have been written over since, so that the image is sound again but for its bytes. They
        are right if qemu-io leaves the same when it compresses nothing."""
        plain_dir = self.origin + ".plain"
        plain = commands.replace("write -c ", "write ") if isinstance(commands, str) else \
            [c.replace("write -c ", "write ") for c in commands]
        done = self.run("qemu-io", arguments, plain, plain_dir)
        try:
            self.same_disks(what, str((arguments, commands)), plain_dir, ours_dir, done[0])
        except Mismatch:
            return False
        return True

    def spoilt(self, cwd, used):
        """QEMU 7.2 may store a stream into a cluster that was given back, since the streams in it were discarded or written
        over, and give that to others, too. An image that is corrupt by its own check is no oracle; what we made of the same
        commands must still be sound."""
        for name, fmt in self.images.items():
            if fmt != "qcow2" or name not in used or "write -c" not in used:
                continue
            r = subprocess.run(["qemu-img", "check", "-q", "-f", fmt, name], cwd=cwd, capture_output=True, check=False)
            if r.returncode == 2:
                print(f"  qemu-io has spoilt its own {name}: not compared")
                subprocess.run(["qemu-img", "check", "-q", "-f", fmt, name], cwd=self.origin + ".ours", check=True)
                return True
        return False

    @staticmethod
    def same_disk(what, name, fmt, theirs, ours, killed):
        for who, cwd in (("qemu-io", theirs), ("qchain-io", ours)):
            r = subprocess.run(["qemu-img", "convert", "-f", fmt, "-O", "raw", name, "flat"], cwd=cwd,
                               capture_output=True, check=False)
            if r.returncode:
                raise Mismatch(f"{what}\n{name} of {who}: {r.stderr.decode()}")
        lib.same_file(f"{what}\n{name}", os.path.join(ours, "flat"), os.path.join(theirs, "flat"))
        if fmt != "qcow2":
            return
        r = subprocess.run(["qemu-img", "check", "-q", "-f", fmt, name], cwd=ours, capture_output=True,
                           check=False)
        if r.returncode and not (killed and r.returncode == 3):
            raise Mismatch(f"{what}\n{name}: check: {(r.stdout + r.stderr).decode()}")


def first_difference(ours, theirs):
    if ours[0] != theirs[0]:
        return f"exit {ours[0]}, qemu-io {theirs[0]}\n{ours[1]}{ours[2]}"
    for name, a, b in (("stdout", ours[1], theirs[1]), ("stderr", ours[2], theirs[2])):
        a, b = a.splitlines(), b.splitlines()
        for i in range(max(len(a), len(b))):
            x, y = (a[i:i + 1] or ["(nothing)"])[0], (b[i:i + 1] or ["(nothing)"])[0]
            if x != y:
                return f"{name}, line {i + 1}:\n  qchain-io: {x}\n  qemu-io:   {y}"
    return "?"


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--bin", default=lib.default_bin())
    p.add_argument("--hammer", help="given to every test of this directory; not used here")
    p.add_argument("--seed", type=int, default=None, help="random if absent")
    p.add_argument("--count", type=int, default=lib.share(60), help="of random scripts")
    p.add_argument("--only", default="", help="fixed scripts that hold this text; no random ones")
    p.add_argument("--reads", action="store_true", help="only scripts that change nothing")
    args = p.parse_args()
    lib.need("qemu-io", "qemu-img")
    args.shell = os.path.join(os.path.abspath(args.bin), "qchain-io")
    lib.need(args.shell)
    first = args.seed if args.seed is not None else lib.any_seed()
    root = os.path.realpath(tempfile.mkdtemp(prefix="qchain-io-"))
    shells = Shells(args, root)
    os.environ["QCHAIN_POLICY"] = os.path.join(root, "policy")
    with open(os.environ["QCHAIN_POLICY"], "w", encoding="utf-8") as f:
        f.write("allow data-file\n")
    scripts = [(s, "") for s in READS + ([] if args.reads else COPY_ON_READ + WRITES) if args.only in str(s)]
    if not args.only and not args.reads:
        for seed in range(first, first + args.count):
            scripts.append((random_script(random.Random(seed), shells.images), f"seed {seed}: "))
    failed = 0
    for (arguments, commands), name in scripts:
        try:
            shells.compare(arguments, commands)
        except (Mismatch, subprocess.TimeoutExpired) as e:
            failed += 1
            print(f"FAIL {name}{e}")
    shutil.rmtree(root)
    print(f"io: {shells.done} scripts, {failed} failed; random ones from seed {first}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
