#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""commit against qemu-img commit: random chains, of which each makes a copy; what the tools say; who else may have the
files open; and kills at any moment, after which the disk is the same and the next run completes."""
import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import interop_lib as lib
from chain_maker import ChainMaker
from interop_lib import Mismatch

KIB, MIB = 1 << 10, 1 << 20

# Runs of calls; "~" before a call: what standard error says is the library's own.
CALLS = (
    ["commit"], ["commit", "top", "x"], ["~commit", "nofile"], ["commit", "-t", "foo", "top"], ["commit", "-b", "nope", "top"],
    ["commit", "-f", "raw", "top"], ["commit", "base"], ["commit", "raw"], ["commit", "-r", "x", "top"], ["commit", "-z", "top"],
    ["commit", "-b", "top", "top"], ["commit", "-p", "-q", "top"], ["commit", "-d", "top"], ["commit", "-q", "top"],
    ["commit", "-b", "base", "top"], ["commit", "-b", "./base", "top"], ["commit", "-b", "mid", "-d", "top"],
    ["commit", "-f", "qcow2", "-t", "none", "top"], ["commit", "-t", "unsafe", "top"], ["commit", "-r", "100M", "top"],
    ["commit", "-t", "writethrough", "top"], ["commit", "-t", "directsync", "mid"],
    ["commit", "--image-opts", "driver=qcow2,file.filename=top"], ["commit", "top"], ["commit", "mid"])


def sh(cwd, *args):
    r = subprocess.run(args, cwd=cwd, capture_output=True, check=False, timeout=120)
    if r.returncode != 0:
        raise Mismatch(f"{args}: exit {r.returncode}: {r.stdout.decode()}{r.stderr.decode()}")
    return r.stdout


def copy_tree(a, b):
    shutil.rmtree(b, ignore_errors=True)
    sh("/", "cp", "-a", "--sparse=always", a, b)


def check_image(cwd, name, leaks=False):
    r = subprocess.run(["qemu-img", "check", "-f", "qcow2", name], cwd=cwd, capture_output=True, check=False, timeout=120)
    if r.returncode not in ((0, 3) if leaks else (0,)):
        raise Mismatch(f"qemu-img check {name}: exit {r.returncode}: {r.stdout.decode()}{r.stderr.decode()}")


# ---------------------------------------------------------------- random chains ---

class MovableChain(ChainMaker):
    """One that can be copied elsewhere."""

    def reference(self, layer, backing):
        name = os.path.relpath(backing.path, os.path.dirname(layer.path) or ".")
        return "./" + name if ":" in name.split("/")[0] or self.rng.random() < 0.2 else name


def make_chain(rng, cwd):
    while True:
        shutil.rmtree(cwd, ignore_errors=True)
        os.mkdir(cwd)
        maker = MovableChain(rng, lib.Runner(cwd))
        maker.make()
        if len(maker.layers) > 1 and all(l.size < 1 << 30 and is_sound(cwd, l) for l in maker.layers):
            return maker


def is_sound(cwd, layer):
    """QEMU itself has been seen to leave COPIED where streams share a cluster."""
    return layer.fmt != "qcow2" or subprocess.run(["qemu-img", "check", layer.arg], cwd=cwd, capture_output=True,
                                                  check=False, timeout=60).returncode == 0


def flat(cwd, layer, out, snapshot=None):
    extra = ["-l", f"snapshot.name={snapshot}"] if snapshot else []
    sh(cwd, "qemu-img", "convert", "-f", layer.fmt, "-O", "raw", *extra, layer.arg, out)
    return os.path.join(cwd, out)


def one_chain(args, seed, root):
    rng = random.Random(seed)
    dirs = [os.path.join(root, d) for d in ("ours", "theirs")]
    maker = make_chain(rng, dirs[0])
    layers = maker.layers
    top = layers[-1]
    want = flat(dirs[0], top, "want.flat")
    copy_tree(*dirs)
    base = rng.choice((None, None, *layers[:-1]))
    words = (["-d"] if rng.random() < 0.3 else []) + ["-t", rng.choice(("writeback", "writeback", "unsafe", "none"))]
    if base:
        words += ["-b", maker.reference(layers[layers.index(base) + 1], base)]
    trust = ["--trust"] if maker.needs_trust else []
    theirs = subprocess.run(["qemu-img", "commit", *words, "-f", top.fmt, top.arg], cwd=dirs[1], capture_output=True,
                            check=False, timeout=120)
    tool = [os.path.join(args.bin, "qchain"), "commit", *trust, *words, "-f", top.fmt, top.arg]
    for again in range(2):
        ours = subprocess.run(tool, cwd=dirs[0], capture_output=True, check=False, timeout=120)
        what = f"{' '.join(tool)}: exit {ours.returncode}, qemu-img {theirs.returncode}: {ours.stderr.decode()}{theirs.stderr.decode()}"
        if ours.returncode != theirs.returncode:
            if theirs.returncode == 0 or ours.returncode != 0:
                raise Mismatch(what)
        if again == 0 and ours.returncode == 0 and theirs.returncode == 0:
            for layer in layers:
                a, b = (flat(d, layer, "now.flat") for d in dirs)
                if layer.fmt == "raw" and "none" in words and os.path.getsize(a) < os.path.getsize(b):
                    os.truncate(b, os.path.getsize(a))  # QEMU lets a raw file grow by whole blocks
                lib.same_file(f"{what}\n{layer.path}", a, b)
        same_or_committed(what, dirs[0], maker, want)
    sizes(what, dirs, top, ours.returncode == theirs.returncode == 0 and "-d" not in words and not base)
    return theirs.returncode == 0


def same_or_committed(what, cwd, maker, want):
    top = maker.layers[-1]
    lib.same_file(what + "\nthe disk", flat(cwd, top, "now.flat"), want)
    for layer in maker.layers:
        if layer.fmt == "qcow2":
            check_image(cwd, layer.arg)


def sizes(what, dirs, top, emptied):
    """What was emptied is as small as QEMU makes it."""
    if not emptied:
        return
    a, b = (os.path.getsize(os.path.join(d, top.path)) for d in dirs)
    if a > b:
        raise Mismatch(f"{what}: {top.path} has {a} bytes, qemu-img's {b}")


def with_snapshots(args, seed, root):
    """Snapshots and bitmaps within the top stay, and a base of another cluster size."""
    rng = random.Random(seed)
    cwd = os.path.join(root, "snap")
    shutil.rmtree(cwd, ignore_errors=True)
    os.mkdir(cwd)
    size = rng.randint(1, 2000) * 4096
    c = [rng.choice((512, 4096, 65536, 2 * MIB)) for _ in range(2)]
    ext = ["extended_l2=on" if x >= 16384 and rng.random() < 0.5 else "extended_l2=off" for x in c]
    sh(cwd, "qemu-img", "create", "-q", "-f", "qcow2", "-o", f"cluster_size={c[0]},{ext[0]}", "base", str(size))
    sh(cwd, "qemu-img", "create", "-q", "-f", "qcow2", "-o", f"cluster_size={c[1]},{ext[1]}", "-b", "base", "-F", "qcow2",
       "top", str(size + 512 * rng.randint(0, 5000)))

    def scribble(name):
        cmds = []
        for _ in range(rng.randint(1, 10)):
            n = min(size, 512 * rng.randint(1, 600))
            at = 512 * rng.randint(0, (size - n) // 512)
            cmds += ["-c", rng.choice((f"write -P {rng.randint(1, 255)} {at} {n}", f"write -z {at} {n}", f"write -zu {at} {n}"))]
        sh(cwd, "qemu-io", "-f", "qcow2", *cmds, name)

    scribble("base")
    scribble("top")
    bitmap = rng.random() < 0.5
    if bitmap:
        sh(cwd, "qemu-img", "bitmap", "--add", "-g", "4k", "top", "b0")
        sh(cwd, "qemu-img", "bitmap", "--add", "-g", "4k", "base", "b1")
    if not bitmap or rng.random() < 0.7:
        sh(cwd, "qemu-img", "snapshot", "-c", "s", "top")
        if rng.random() < 0.7:
            scribble("top")
    snaps = b"s" in sh(cwd, "qemu-img", "snapshot", "-l", "top")
    sh(cwd, "qemu-img", "convert", "-O", "raw", "top", "want")
    tool = os.path.join(args.bin, "qchain")
    sh(cwd, tool, "commit", "top")
    sh(cwd, "qemu-img", "convert", "-O", "raw", "top", "now")
    lib.same_file("with snapshots", *(os.path.join(cwd, n) for n in ("now", "want")))
    if b"top" in b"".join(line for line in sh(cwd, "qemu-img", "map", "top").splitlines() if line.endswith(b"top")):
        raise Mismatch("with snapshots: something is left in the top")
    for name in ("top", "base"):
        check_image(cwd, name)
    if snaps:  # the snapshot's own clusters
        if not bitmap:
            sh(cwd, "qemu-img", "snapshot", "-a", "s", "top")
            check_image(cwd, "top")
        sh(cwd, "qemu-img", "snapshot", "-d", "s", "top")
        check_image(cwd, "top")
    if bitmap:
        for name, b in (("top", b"b0"), ("base", b"b1")):
            if b not in sh(cwd, "qemu-img", "info", name):
                raise Mismatch(f"with snapshots: bitmap {b} of {name} is gone")


def check_streams(args, root):
    """Compressed clusters stay so where the base has clusters of the same size and kind."""
    cwd = os.path.join(root, "streams")
    os.mkdir(cwd)
    with open(os.path.join(cwd, "text"), "wb") as f:
        f.write(b"".join(b"%d lines of text\n" % i for i in range(9000)))
    for cluster, kind, kept in (("64k", "zlib", True), ("64k", "zstd", False), ("16k", "zlib", False)):
        sh(cwd, "qemu-img", "create", "-q", "-f", "qcow2", "-o", f"cluster_size={cluster},compression_type={kind}", "base", "4M")
        sh(cwd, "qemu-img", "create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "top")
        sh(cwd, "qemu-io", "-f", "qcow2", "-c", "write -c -s text 64k 64k", "-c", "write -c -s text 256k 64k", "-c",
           "write -P 5 512k 64k", "top")
        sh(cwd, "qemu-img", "convert", "-O", "raw", "top", "want")
        sh(cwd, os.path.join(args.bin, "qchain"), "commit", "top")
        sh(cwd, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", "want", "top")
        check_image(cwd, "base")
        if kept == (b" 0.00% compressed" in sh(cwd, "qemu-img", "check", "base")):
            raise Mismatch(f"streams of zlib, clusters of 64k, into {kind}, {cluster}: kept {not kept}")


# ---------------------------------------------------------------------- words ---

def check_words(args, root):
    dirs = [os.path.join(root, d) for d in ("words", "words2")]
    os.mkdir(dirs[0])
    for name, below in (("base", None), ("mid", "base"), ("top", "mid")):
        sh(dirs[0], "qemu-img", "create", "-q", "-f", "qcow2", *(["-b", below, "-F", "qcow2"] if below else []), name, "4M")
        sh(dirs[0], "qemu-io", "-f", "qcow2", "-c", f"write -P {len(name)} {len(name)}00k 150k", name)
    with open(os.path.join(dirs[0], "raw"), "wb") as f:
        f.write(b"raw" * 1000)
    copy_tree(*dirs)
    for words in CALLS:
        own_words = words[0][0] == "~"
        argv = [words[0].lstrip("~"), *words[1:]]
        r = [subprocess.run([p, *argv], cwd=d, capture_output=True, check=False, timeout=60)
             for p, d in ((os.path.join(args.bin, "qchain"), dirs[0]), ("qemu-img", dirs[1]))]
        said = r[0].stderr.replace(b"qchain-commit", b"qemu-img")
        if (r[0].returncode, r[0].stdout) != (r[1].returncode, r[1].stdout) or \
                (bool(said) != bool(r[1].stderr) if own_words else said != r[1].stderr):
            raise Mismatch(f"{argv}: exit {r[0].returncode}, qemu-img {r[1].returncode}\n{r[0].stdout}{said}\n---\n"
                           f"{r[1].stdout}{r[1].stderr}")
        for name in ("base", "mid", "top"):
            for d in dirs:
                sh(d, "qemu-img", "convert", "-O", "raw", name, "flat")
            lib.same_file(f"{argv}: {name}", *(os.path.join(d, "flat") for d in dirs))
            check_image(dirs[0], name)


# ---------------------------------------------------------------------- locks ---

class Held:
    """A qemu-io that has an image open."""

    def __init__(self, cwd, fmt, name, *flags):
        self.p = subprocess.Popen(["qemu-io", "-f", fmt, *flags, name], cwd=cwd, stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.p.stdin.write(b"read 0 512\n")
        self.p.stdin.flush()
        line = self.p.stdout.readline()
        if b"read 512/512" not in line:
            raise Mismatch(f"qemu-io does not open {name}: {line!r}")

    def __enter__(self):
        return self

    def __exit__(self, *a):
        self.p.communicate(b"quit\n", timeout=20)


def check_locks(args, root):
    cwd = os.path.join(root, "locks")
    os.mkdir(cwd)
    tool = os.path.join(args.bin, "qchain")
    for fmt in ("qcow2", "raw"):
        sh(cwd, "qemu-img", "create", "-q", "-f", fmt, "base", "8M")
        sh(cwd, "qemu-img", "create", "-q", "-f", "qcow2", "-b", "base", "-F", fmt, "top")
        sh(cwd, "qemu-img", "create", "-q", "-f", "qcow2", "-b", "base", "-F", fmt, "other")
        sh(cwd, "qemu-io", "-f", "qcow2", "-c", "write -P 7 0 4M", "top")
        sh(cwd, "qemu-img", "convert", "-O", "raw", "top", "want")
        for who in (("qcow2", "top"), ("qcow2", "top", "-r"), (fmt, "base"), (fmt, "base", "-r"), ("qcow2", "other", "-r")):
            with Held(cwd, who[0], who[1], *who[2:]):
                r = subprocess.run([tool, "commit", "top"], cwd=cwd, capture_output=True, check=False, timeout=60)
                if r.returncode != 1 or b"in use" not in r.stderr:
                    raise Mismatch(f"commit while {who} is open: exit {r.returncode}: {r.stderr.decode()}")
        # And while it runs, nobody else comes in.
        p = subprocess.Popen([tool, "commit", "-p", "-r", "64k", "top"], cwd=cwd, stdout=subprocess.PIPE)
        said = b""
        while not re.search(rb"[1-9]", said.replace(b"100%", b"")):     # something has moved, so all is open
            more = p.stdout.read1()
            if not more:
                raise Mismatch(f"commit ended before it had begun: {said!r}")
            said += more
        for who in (("qcow2", "top"), (fmt, "base"), ("qcow2", "other")):
            for flags in ([], ["-r"]):
                r = subprocess.run(["qemu-io", "-f", who[0], *flags, "-c", "read 0 512", who[1]], cwd=cwd,
                                   capture_output=True, check=False, timeout=60)
                if p.poll() is not None:
                    raise Mismatch("the commit that was to take seconds has ended")
                if r.returncode == 0:
                    raise Mismatch(f"{who} {flags} could be opened while {fmt} was committed to")
        p.terminate()
        if p.wait(timeout=60) != 128 + signal.SIGTERM:
            raise Mismatch(f"commit ended with {p.returncode} after SIGTERM")
        p.stdout.close()
        sh(cwd, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", "want", "top")
        check_image(cwd, "top")
        sh(cwd, tool, "commit", "top")
        sh(cwd, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", "want", "top")


# ---------------------------------------------------------------------- kills ---

def make_victim(rng, cwd):
    """A chain whose commit takes a while, of all that there is: growth, zeros, a layer between, streams."""
    os.mkdir(cwd)
    sh(cwd, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=32k", "deep", "40M")
    sh(cwd, "qemu-img", "create", "-q", "-f", "qcow2", "-b", "deep", "-F", "qcow2", "base", "24M")
    sh(cwd, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=16k", "-b", "base", "-F", "qcow2", "mid", "40M")
    sh(cwd, "qemu-img", "create", "-q", "-f", "qcow2", "-b", "mid", "-F", "qcow2", "top", "40M")
    for name, size, n in (("deep", 40, 60), ("base", 24, 60), ("mid", 40, 60), ("top", 40, 100)):
        cmds = []
        for _ in range(n):
            at, length = 512 * rng.randint(0, 2048 * size - 800), 512 * rng.randint(1, 800)
            cmds += ["-c", rng.choice((f"write -P {rng.randint(1, 255)} {at} {length}",) * 4 + (f"write -z {at} {length}",))]
        sh(cwd, "qemu-io", "-f", "qcow2", *cmds, name)
    sh(cwd, "qemu-img", "convert", "-O", "raw", "top", "want")


def kill_once(tool, words, cwd, delay):
    p = subprocess.Popen([tool, "commit", "-q", *words, "top"], cwd=cwd)
    try:
        p.wait(timeout=delay)
    except subprocess.TimeoutExpired:
        p.kill()
    return p.wait() == -signal.SIGKILL


def looks_the_same(cwd, what, leaks):
    r = subprocess.run(["qemu-img", "compare", "-f", "raw", "-F", "qcow2", "want", "top"], cwd=cwd, capture_output=True,
                       check=False, timeout=60)
    if r.returncode != 0:
        raise Mismatch(f"{what}: {r.stdout.decode()}{r.stderr.decode()}")
    for name in ("top", "mid", "base", "deep"):
        check_image(cwd, name, leaks)


def check_kills(args, rng, root, n):
    tool, master, cwd = os.path.join(args.bin, "qchain"), os.path.join(root, "master"), os.path.join(root, "victim")
    make_victim(rng, master)
    killed = 0
    for i in range(n):
        words = (["-b", "base"], ["-b", "deep"], [])[rng.randint(0, 2)]
        copy_tree(master, cwd)
        start = time.monotonic()
        sh(cwd, tool, "commit", "-q", *words, "top")
        took = time.monotonic() - start
        copy_tree(master, cwd)
        for _ in range(rng.choice((1, 1, 3))):  # killed again while it does it again
            if kill_once(tool, words, cwd, rng.uniform(0.1, 1.02) * took):
                killed += 1
            else:
                took *= 0.7     # it was slower when it was timed
            looks_the_same(cwd, f"kill {i} {words}", True)
        sh(cwd, tool, "commit", "-q", *words, "top")
        looks_the_same(cwd, f"kill {i} {words}, run again", True)
        sh(cwd, tool, "check", "-q", "-r", "leaks", "top")
    if killed * 3 < n:
        raise Mismatch(f"only {killed} of {n} were killed before they had ended")
    return killed


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--bin", default=os.environ.get("QC_BIN", "build/bin"))
    p.add_argument("--hammer", help="unused")
    p.add_argument("--seed", type=int, default=lib.any_seed())
    p.add_argument("--count", type=int, default=lib.share(20), help="random chains")
    p.add_argument("--kills", type=int, default=lib.share(16))
    p.add_argument("--only", choices=("words", "locks", "random", "kills"))
    args = p.parse_args()
    lib.need("qemu-img", "qemu-io")
    args.bin = os.path.abspath(args.bin)
    root = tempfile.mkdtemp(prefix="qchain-commit-")
    seed = args.seed
    print(f"seed {args.seed}")
    try:
        if args.only in (None, "words"):
            check_words(args, root)
            check_streams(args, root)
        if args.only in (None, "locks"):
            check_locks(args, root)
        done = killed = 0
        count = args.count if args.only in (None, "random") else 0
        for i in range(count):
            seed = args.seed + i
            done += one_chain(args, seed, root)
            with_snapshots(args, seed, root)
        seed = args.seed
        if args.only in (None, "kills"):
            killed = check_kills(args, random.Random(seed), root, args.kills)
    except Mismatch as e:
        print(f"FAIL (--seed {seed}): {e}\nin {root}")
        return 1
    shutil.rmtree(root)
    print(f"OK: {count} chains, {done} of them committed; {killed} kills; seed {args.seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
