#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""New images against QEMU's: the same options, the same image; measured the same; whole or not at all when killed."""
import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import interop_lib as lib
from interop_lib import Mismatch

SIZES = ("0", "512", "1000", "65536", "1M", "1000000", "5M", "64M", "100M", "3G", "1T")
SMALL = 64 << 20  # disks up to here are written to
BASES = ("base.qcow2", "base.raw")


def parse_size(text):
    units = {"k": 10, "M": 20, "G": 30, "T": 40, "E": 60}
    shift = units.get(text[-1], 0)
    return int(text[:-1] if shift else text) << shift


def on_off(rng):
    return rng.choice(("on", "off"))


def random_options(rng):
    """Options and a size; most go together, some do not."""
    size, opts, backing = rng.choice(SIZES), {}, None
    small = parse_size(size) <= SMALL
    if rng.random() < 0.2:
        opts["compat"] = rng.choice(("v2", "0.10", "v3", "1.1"))
    if rng.random() < 0.6:
        opts["cluster_size"] = rng.choice(("512", "1k", "4k", "16k", "64k", "512k", "2M"))
    if rng.random() < 0.3:
        opts["refcount_bits"] = str(1 << rng.randrange(7))
    if rng.random() < 0.3:
        opts["extended_l2"] = on_off(rng)
    if rng.random() < 0.3:
        opts["lazy_refcounts"] = on_off(rng)
    if rng.random() < 0.3:
        opts["compression_type"] = rng.choice(("zlib", "zstd"))
    if rng.random() < 0.2:
        opts["data_file"] = "data.raw"
        if small and rng.random() < 0.5: # all of its tables are written, by QEMU slowly
            opts["data_file_raw"] = on_off(rng)
    if rng.random() < 0.4:
        opts["preallocation"] = rng.choice(("off", "metadata", "falloc", "full") if small else ("off",))
    if rng.random() < 0.3:
        backing = rng.choice(BASES)
    return size, opts, backing


def beside(runner, where):
    """A runner in one of the directories: QEMU looks for data files where it runs."""
    return lib.Runner(os.path.join(runner.cwd, where), env={"QCHAIN_POLICY": "", "QCHAIN_REMOTE": ""})


def same_disk(runner):
    """What the two images hold is the same, as QEMU reads it."""
    for where in ("ours", "theirs"):
        beside(runner, where).run(["qemu-img", "convert", "-O", "raw", "x.qcow2", "disk"])
    lib.same_file("disk", *(os.path.join(runner.cwd, where, "disk") for where in ("ours", "theirs")))


def create(runner, tool, where, image, size, opts, backing):
    """Make an image by a tool in a directory of its own; returns status and messages."""
    argv = [*tool, "-f", "qcow2"]
    if backing:
        argv += ["-b", "../" + backing, "-F", backing.rsplit(".", 1)[1]]
    if opts:
        argv += ["-o", ",".join(f"{k}={v}" for k, v in opts.items())]
    status, out, err = beside(runner, where).run(argv + [image, size], ok=None)
    if status not in (0, 1):
        raise Mismatch(f"exit {status}: {argv}: {err}")
    return status, out, err


def describe(runner, name):
    info = runner.json(["qemu-img", "info", "--output=json", "-U", name])
    for key in ("filename", "actual-size", "full-backing-filename", "dirty-flag"):
        info.pop(key, None)
    return info


def check_image(runner, name, what):
    status, out, err = runner.run(["qemu-img", "check", "-q", name], ok=None)
    if status != 0:
        raise Mismatch(f"{what}: qemu-img check says {status}: {out.decode()}{err}")


def same_bytes(ours, theirs):
    """Where QEMU lays out tables as we do, all bytes are the same."""
    with open(ours, "rb") as f, open(theirs, "rb") as g:
        a, b = f.read(), g.read()
    if a[40:60] == b[40:60] and a != b:
        at = lib.first_difference(a, b)
        raise Mismatch(f"bytes differ at {at}: {a[at:at + 16]!r}, QEMU's {b[at:at + 16]!r}, {len(a)} and {len(b)} bytes")
    return a[40:60] == b[40:60]


def write_into(runner, rng, size):
    """The same writes into both; both hold the same then."""
    commands = []
    for _ in range(rng.randrange(1, 12)):
        at = rng.randrange(size // 512) * 512
        n = min(size - at, rng.choice((512, 4096, 65536, 200000 // 512 * 512)))
        what = rng.choice((f"write -P {rng.randrange(1, 255)}", "write -z", "write -z -u", "discard"))
        commands += ["-c", f"{what} {at} {n}"]
    for where in ("ours", "theirs"):
        beside(runner, where).run(["qemu-io", "-f", "qcow2", *commands, "x.qcow2"])
    check_image(beside(runner, "ours"), "x.qcow2", "after QEMU wrote into it")


def one_image(args, runner, rng):
    size, opts, backing = random_options(rng)
    for where in ("ours", "theirs"):
        shutil.rmtree(os.path.join(runner.cwd, where), ignore_errors=True)
        os.mkdir(os.path.join(runner.cwd, where))
    ours = create(runner, [args.qchain, "create"], "ours", "x.qcow2", size, opts, backing)
    theirs = create(runner, ["qemu-img", "create"], "theirs", "x.qcow2", size, opts, backing)
    if ours[0] != theirs[0]:
        raise Mismatch(f"create {size} {opts} {backing}: exit {ours[0]} ({ours[2]}), qemu-img {theirs[0]} ({theirs[2]})")
    if ours[1] != theirs[1]:
        raise Mismatch(f"create {size} {opts} {backing} prints\n{ours[1]}, qemu-img\n{theirs[1]}")
    if ours[0] != 0:
        if os.listdir(os.path.join(runner.cwd, "ours")):
            raise Mismatch(f"create {size} {opts}: leaves {os.listdir(os.path.join(runner.cwd, 'ours'))}")
        return "refused"
    check_image(beside(runner, "ours"), "x.qcow2", f"create {size} {opts} {backing}")
    a, b = (describe(beside(runner, where), "x.qcow2") for where in ("ours", "theirs"))
    if a != b:
        raise Mismatch(f"create {size} {opts} {backing}: info\n{a}\nqemu-img's\n{b}")
    same = False
    if opts.get("preallocation", "off") == "off" and opts.get("data_file_raw", "off") == "off":
        same = same_bytes(*(os.path.join(runner.cwd, where, "x.qcow2") for where in ("ours", "theirs")))
    if 512 <= parse_size(size) <= SMALL and rng.random() < 0.5:
        write_into(runner, rng, parse_size(size) // 512 * 512)
        same_disk(runner)
    if rng.random() < 0.3 and parse_size(size) <= SMALL:
        runner.run([args.qchain, "compare", "--trust", "-q", "ours/x.qcow2", "theirs/x.qcow2"])
    return "same bytes" if same else "made"


def check_random(args, runner):
    counts = {}
    rng = random.Random(args.seed)
    runner.run(["qemu-img", "create", "-q", "-f", "qcow2", "base.qcow2", "3M"])
    runner.run(["qemu-io", "-c", "write -q -P 7 1M 100k", "base.qcow2"])
    runner.run(["qemu-img", "convert", "-O", "raw", "base.qcow2", "base.raw"])
    for i in range(args.count):
        seed = rng.randrange(1 << 32)
        try:
            kind = one_image(args, runner, random.Random(seed))
        except Mismatch as e:
            raise Mismatch(f"image {i}, seed {seed}: {e}") from None
        counts[kind] = counts.get(kind, 0) + 1
    print(", ".join(f"{n} {kind}" for kind, n in sorted(counts.items())))


# ------------------------------------------------------------- measuring ---

def random_image(runner, rng):
    """An image or raw file with something in it; returns its name and format."""
    size = rng.choice((512, 65536, 1000000 // 512 * 512, 20 << 20))
    fmt = rng.choice(("qcow2", "raw"))
    cluster = rng.choice(("512", "4k", "64k", "2M"))
    options = ["-o", f"cluster_size={cluster}"] if fmt == "qcow2" else []
    runner.run(["qemu-img", "create", "-q", "-f", fmt, *options, "m.img", str(size)])
    for _ in range(rng.randrange(8)):
        at = rng.randrange(size // 512) * 512
        n = min(size - at, rng.randrange(1, 400) * 512)
        runner.run(["qemu-io", "-f", fmt, "-c", f"write {rng.choice(('-P 5', '-z', '-P 0'))} {at} {n}", "m.img"])
    for i in range(rng.randrange(3) if fmt == "qcow2" else 0):
        runner.run(["qemu-img", "bitmap", "--add", "-g", str(512 << rng.randrange(8)), "m.img", f"bitmap{'x' * i}"])
    return "m.img", fmt


def check_measure(args, runner):
    rng = random.Random(args.seed + 1)
    for i in range(args.count // 2):
        if rng.random() < 0.5:
            source = ["--size", rng.choice(SIZES + ("7E", "64T"))]
        else:
            name, fmt = random_image(runner, rng)
            source = ["-f", fmt, name]
        out = rng.choice(("qcow2", "qcow2", "raw"))
        opts = []
        if out == "qcow2":
            opts = [f"cluster_size={rng.choice(('512', '64k', '1M', '2M'))}"] if rng.random() < 0.7 else []
            opts += [f"preallocation={rng.choice(('off', 'metadata', 'falloc', 'full'))}"] if rng.random() < 0.3 else []
            opts += [f"refcount_bits={1 << rng.randrange(7)}"] if rng.random() < 0.3 else []
            opts += ["extended_l2=on"] if rng.random() < 0.3 and not any("=512" in o for o in opts) else []
            opts += ["compat=0.10"] if rng.random() < 0.1 and not opts else []
        lists = [word for o in opts for word in ("-o", o)] if i % 2 else ["-o", ",".join(opts)] if opts else []
        argv = ["measure", "--output=json", "-O", out, *lists, *source]
        mine, theirs = (runner.run([tool, *argv], ok=None) for tool in (args.qchain, "qemu-img"))
        if mine[0] != theirs[0] or (mine[0] == 0 and json.loads(mine[1]) != json.loads(theirs[1])):
            raise Mismatch(f"{i}: {argv}: {mine}, qemu-img {theirs}")
    print(f"{args.count // 2} measured")


# ------------------------------------------------------ large ones, kills ---

def check_large(args, runner):
    for size, opts in (("64T", ""), ("2E", "cluster_size=2M"), ("1T", "preallocation=metadata"),
                       ("1T", "preallocation=metadata,cluster_size=2M,extended_l2=on,refcount_bits=1")):
        start = time.monotonic()
        runner.run([args.qchain, "create", "-q", "-f", "qcow2", "-o", f"size={size}" + ("," + opts if opts else ""),
                    "large.qcow2"])
        took = time.monotonic() - start
        used = os.stat(os.path.join(runner.cwd, "large.qcow2")).st_blocks * 512
        if used > 400 << 20:
            raise Mismatch(f"{size} {opts}: takes {used} bytes")
        if size == "1T": # QEMU reads an L1 table of 32 MiB, but its check is slow
            check_image(runner, "large.qcow2", f"{size} {opts}")
        runner.run(["qemu-io", "-c", "write -P 3 1000G 64k", "-c", "read -P 3 1000G 64k", "-c", "read -P 0 7G 1M",
                    "large.qcow2"])
        print(f"{size} {opts}: {took:.1f} s, {used >> 20} MiB")
        os.unlink(os.path.join(runner.cwd, "large.qcow2"))


def check_kills(args, runner):
    """Killed at any time, the old image is there or the new one, and of a new name all or nothing."""
    rng = random.Random(args.seed + 2)
    old = 0
    for i in range(args.kills):
        name = os.path.join(runner.cwd, "killed.qcow2")
        if i % 2 == 0:
            runner.run(["qemu-img", "create", "-q", "-f", "qcow2", name, "1M"])
        elif os.path.exists(name):
            os.unlink(name)
        process = subprocess.Popen([args.qchain, "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata,cluster_size=4k",
                                    name, "4G"], cwd=runner.cwd)
        time.sleep(rng.random() * 0.12)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if not os.path.exists(name):
            if i % 2 == 0:
                raise Mismatch(f"kill {i}: the old image is gone")
            continue
        check_image(runner, name, f"kill {i}")
        size = runner.json(["qemu-img", "info", "--output=json", name])["virtual-size"]
        if size not in ((1 << 20, 4 << 30) if i % 2 == 0 else (4 << 30,)):
            raise Mismatch(f"kill {i}: a disk of {size} bytes")
        old += size == 1 << 20
        for left in os.listdir(runner.cwd):
            if left.startswith(".killed"):
                os.unlink(os.path.join(runner.cwd, left))
    print(f"{args.kills} kills, the old image was left {old} times")


def check_locked(args, runner):
    """What a QEMU writes to is not replaced; what exists not with data in it."""
    runner.run(["qemu-img", "create", "-q", "-f", "qcow2", "locked.qcow2", "1M"])
    runner.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", "locked.qcow2", "-F", "qcow2", "over.qcow2"])
    with subprocess.Popen(["qemu-io", "locked.qcow2"], cwd=runner.cwd, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as writer:
        writer.stdin.write(b"read 0 512\n")
        writer.stdin.flush()
        writer.stdout.readline()
        status, _, err = runner.run([args.qchain, "create", "-f", "qcow2", "locked.qcow2", "2M"], ok=None)
        for argv in (["amend", "-o", "lazy_refcounts=on", "locked.qcow2"], ["resize", "locked.qcow2", "2M"],
                     ["commit", "over.qcow2"], ["delete", "--keep", "locked.qcow2", "over.qcow2"]):
            done = runner.run([args.qchain, argv[0], "-U", *argv[1:]], ok=None)
            if done[0] != 1 or "read-only" not in done[2]:
                raise Mismatch(f"{argv} writes without locks: {done}")
        writer.communicate(b"quit\n", timeout=20)
    if status != 1 or "lock" not in err.lower():
        raise Mismatch(f"an image in use is replaced: exit {status}: {err}")
    with open(os.path.join(runner.cwd, "kept.raw"), "wb") as f:
        f.write(b"kept" * 1000)
    runner.run([args.qchain, "create", "-q", "-f", "qcow2", "-o", "data_file=kept.raw,data_file_raw=on", "k.qcow2", "1M"])
    runner.run(["qemu-io", "-c", "read -P 107 0 1", "k.qcow2"])
    check_image(runner, "k.qcow2", "data file kept")


def check_names(args, runner):
    """A list of options is no name of a new image."""
    status, _, err = runner.run([args.qchain, "create", "--image-opts", "-f", "qcow2", "file.filename=n.qcow2", "1M"], ok=None)
    made = [name for name in os.listdir(runner.cwd) if name.endswith("n.qcow2")]
    if status != 1 or "--image-opts" not in err or made:
        raise Mismatch(f"create --image-opts: exit {status}, made {made}: {err}")


# ------------------------------------------------------- amend and resize ---

def change_both(args, runner, rng, version):
    """One change of both images, of which both say the same; False if only one of us makes it."""
    kind = rng.choice(("compat", "lazy", "grow", "shrink", "write"))
    size = describe(runner, "ours.qcow2")["virtual-size"]
    if kind == "write":
        at = rng.randrange(max(1, size // 65536)) * 65536
        command = f"write -P {rng.randrange(1, 255)} {at} {min(3000 * 512, size - at)}"
        for name in ("ours.qcow2", "theirs.qcow2"):
            runner.run(["qemu-io", "-c", command, name])
        return True
    if kind in ("grow", "shrink"):
        new = size + 512 * rng.randrange(1, 9000) if kind == "grow" else max(512, size - 512 * rng.randrange(1, 9000))
        argv = ["resize", "-q", *(["--shrink"] if new < size else []), "IMG", str(new)]
    else:
        option = {"compat": f"compat={'v3' if version == 2 else 'v2'}", "lazy": f"lazy_refcounts={on_off(rng)}"}[kind]
        argv = ["amend", "-o", option, "IMG"]
    mine, theirs = (runner.run([tool, *(name if a == "IMG" else a for a in argv)], ok=None)
                    for tool, name in ((args.qchain, "ours.qcow2"), ("qemu-img", "theirs.qcow2")))
    if mine[0] == 0 and "zero out new clusters" in theirs[2]:
        return False  # version 2 over a longer backing file: zeros are written, which QEMU does not do
    if mine[0] == 1 and "clusters that read as zeros" in mine[2]:
        return False  # QEMU writes zeros in their place, we leave the image as it is
    if mine[0] != theirs[0]:
        raise Mismatch(f"{argv}: {mine}, qemu-img {theirs}")
    return kind != "grow" or grew_alike(runner, size, new)


def grew_alike(runner, size, new):
    """What is new reads as zeros; but with QEMU 7.2 the rest of the last cluster shows what a shrink had cut off."""
    command = f"read -P 0 {size} {new - size}"
    runner.run(["qemu-io", "-c", command, "ours.qcow2"])
    return runner.run(["qemu-io", "-c", command, "theirs.qcow2"], ok=None)[0] == 0


def check_amend(args, runner):
    rng = random.Random(args.seed + 3)
    for i in range(args.count // 8):
        seed = rng.randrange(1 << 32)
        mine = random.Random(seed)
        options = f"cluster_size={mine.choice(('512', '4k', '64k'))},compat={mine.choice(('v2', 'v3'))}"
        over = ["-b", "base.qcow2", "-F", "qcow2"] if mine.random() < 0.4 else []
        for name in ("ours.qcow2", "theirs.qcow2"):
            runner.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, *over, name, "2M"])
        try:
            for _ in range(6):
                version = 2 if describe(runner, "ours.qcow2")["format-specific"]["data"]["compat"] == "0.10" else 3
                both = change_both(args, runner, mine, version)
                check_image(runner, "ours.qcow2", "after a change")
                if not both:
                    break
                a, b = (describe(runner, name) for name in ("ours.qcow2", "theirs.qcow2"))
                if a != b:
                    raise Mismatch(f"info\n{a}\nqemu-img's\n{b}")
                runner.run(["qemu-img", "compare", "-q", "ours.qcow2", "theirs.qcow2"])
        except Mismatch as e:
            raise Mismatch(f"changes {i}, seed {seed}, {options} {over}: {e}") from None
    print(f"{args.count // 8} images changed")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", default="build/bin")
    parser.add_argument("--hammer")
    parser.add_argument("--seed", type=int, default=lib.any_seed())
    parser.add_argument("--count", type=int, default=lib.share(80))
    parser.add_argument("--kills", type=int, default=lib.share(30))
    args = parser.parse_args()
    args.qchain = os.path.abspath(os.path.join(args.bin, "qchain"))
    lib.need("qemu-img", "qemu-io", args.qchain)
    print(f"seed {args.seed}")
    directory = tempfile.mkdtemp(prefix="qchain-create-")
    runner = lib.Runner(directory, env={"QCHAIN_POLICY": "", "QCHAIN_REMOTE": ""})
    try:
        for check in (check_random, check_measure, check_amend, check_large, check_kills, check_locked, check_names):
            check(args, runner)
    except Mismatch as e:
        print(f"seed {args.seed}: {e}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
