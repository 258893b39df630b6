#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Sidecar indexes: used where they may be, and never wrong, whatever happened to the layers
or to the sidecar. qemu-img is the oracle."""
import argparse
import concurrent.futures
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback

import interop_lib as lib
import sidecar_codec as codec
import sidecar_forged
import sidecar_kinds
from interop_lib import Mismatch
from sidecar_place import RACY_NS, SIZE, Place, can_trace

DEPTH = 6


def indexed(args, directory, rng, n=DEPTH):
    """A place with a chain whose top has a sidecar that is used."""
    place = Place(args, directory, rng)
    names = place.chain(n)
    place.age()
    place.build(names[0])
    return place, names


# ------------------------------------------------------------------- using ---

def stats_of(place, *argv):
    _, _, err = place.qchain(*argv[:1], "--stats=text", *argv[1:])
    return {k: int(v) for k, v in (line.split(": ") for line in err.strip().splitlines())}


def check_used(args, directory, rng):
    """A map of 30 layers opens the tip and the sidecar, nothing else."""
    place, names = indexed(args, directory, rng, 30)
    info = place.used("30 layers", names[0])
    if info["layers"] != 30 or [os.path.basename(f["location"]) for f in info["files"]] != names:
        raise Mismatch(f"show: {info['layers']} layers, {info['files']}")
    place.right("30 layers", names[0])
    with_index = stats_of(place, "map", names[0])
    without = stats_of(place, "map", "--no-index", names[0])
    if with_index["file-opens"] > 2 or with_index["meta-reads"] > 8:
        raise Mismatch(f"a map by the sidecar: {with_index}")
    if with_index["sidecar-reads"] == 0 or with_index["sidecar-bytes"] == 0:
        raise Mismatch(f"reads of the sidecar are not counted: {with_index}")
    if without["file-opens"] < 30 or without["sidecar-reads"] != 0:
        raise Mismatch(f"a map with --no-index: {without}")
    place.verify("30 layers", names[0], 0)
    if can_trace():
        opened, _ = place.traced([place.program, "map", names[0]])
        wrong = opened & set(names[1:])
        if wrong or not {names[0], names[0] + ".qci"} <= opened:
            raise Mismatch(f"a map by the sidecar opened {sorted(opened)}")
        opened, _ = place.traced([place.program, "map", "--no-index", names[0]])
        if not set(names) <= opened or names[0] + ".qci" in opened:
            raise Mismatch(f"a map with --no-index opened {sorted(opened)}")
        # Reading opens the layers that hold what is read.
        _, out, _ = place.qemu_img("map", "-f", "qcow2", "--output=json", names[0])
        below = next(e["start"] for e in json.loads(out) if e["data"] and e["depth"] > 0)
        opened, _ = place.traced([place.program, "read", f"--offset={below}", "--length=512", names[0],
                                  os.devnull])
        if len(opened & set(names[1:])) != 1:
            raise Mismatch(f"a read of one cluster opened {sorted(opened)}")
    return place


def expect_line(line, *words):
    missing = [w for w in words if w not in line]
    if missing:
        raise Mismatch(f"build says {line!r}, not {missing}")


def check_incremental(args, directory, rng):
    """A new tip uses its parent's sidecar; its own, made from it, is that of a full build."""
    place, names = indexed(args, directory, rng)
    tips = {"same": [], "larger": [str(SIZE * 3 // 2)], "smaller": [str(SIZE // 2)],
            "empty": [], "large": [str(1 << 40)]}
    for tip, size in tips.items():
        name = tip + ".qcow2"
        place.qemu_img("create", "-q", "-f", "qcow2", "-b", names[0], "-F", "qcow2", name, *size)
        if tip != "empty":
            place.qemu_io(name, "write -P 77 8k 20k", "write -z 300k 70k", "discard 500k 64k")
        if tip == "large":
            place.qemu_io(name, "write -P 78 3G 64k", "write -P 79 700G 64k")
        place.age(name)
        status, _, _ = place.qchain("index", "show", name, ok=None)
        if status != 2:
            raise Mismatch(f"{tip}: show without a sidecar exits {status}")
        place.verify(f"{tip}, no sidecar", name, 2)
        if tip != "large":
            place.right(f"{tip} tip over an indexed chain", name)
        used = stats_of(place, "map", name)
        if used["file-opens"] > 3:
            raise Mismatch(f"{tip}: the parent's sidecar is not used: {used}")
        expect_line(place.build(name), f" {DEPTH + 1} layers,", "1 layer read",
                    f"{DEPTH} from an index")
        made = place.bytes(name + ".qci")
        place.verify(f"{tip}, made from the parent's", name, 0)
        expect_line(place.build(name, "--full"), f"{DEPTH + 1} layers read", "0 from an index")
        full = place.bytes(name + ".qci")
        place.verify(f"{tip}, full", name, 0)
        same = codec.blank(made) == codec.blank(full)
        if tip == "large": # pages may be cut elsewhere
            same = codec.Sidecar(made).runs() == codec.Sidecar(full).runs()
        if not same:
            raise Mismatch(f"{tip}: not what a full build makes: {len(made)} and {len(full)} bytes")
        if tip != "large":
            place.right(f"{tip} tip with its own sidecar", name)
        place.same_decoded(tip, name, codec.Sidecar(full))
    place.build("same.qcow2", "--index", "elsewhere.qci", "--no-index")
    os.unlink(place.path("same.qcow2.qci"))
    place.used("--index", "same.qcow2", "--index", "elsewhere.qci")
    place.right("--index", "same.qcow2", ("--index", "elsewhere.qci"))
    place.verify("--index", "same.qcow2", 0, "--index", "elsewhere.qci")
    return place


# ----------------------------------------------------------------- changes ---

def by_write(place, names, k):
    place.qemu_io(names[k], f"write -P 201 {(16 * (DEPTH - 1 - k) + 1) * 4}k 5k")


def by_commit(place, names, k):
    above = names[k - 1] if k else "above.qcow2"
    if k == 0:
        place.qemu_img("create", "-q", "-f", "qcow2", "-b", names[0], "-F", "qcow2", above)
    place.qemu_io(above, f"write -P 202 {16 * (DEPTH - 1 - k) * 4}k 9k")
    place.qemu_img("commit", "-q", above)


def by_snapshot(place, names, k):
    place.qemu_img("snapshot", "-a", "before", names[k])


def by_replacement(place, names, k):
    backing = names[k + 1] if k + 1 < len(names) else None
    place.layer("other.qcow2", DEPTH - 1 - k, backing)
    place.age("other.qcow2", by=500 + k)
    os.rename(place.path("other.qcow2"), place.path(names[k]))


def by_rebase(place, names, k):
    if k + 1 == len(names):
        place.layer("under.qcow2", 20)
        place.qemu_img("rebase", "-u", "-b", "under.qcow2", "-F", "qcow2", names[k])
    else:
        skip = ["-F", "qcow2", "-b", names[k + 2]] if k + 2 < len(names) else ["-b", ""]
        place.qemu_img("rebase", "-u", *skip, names[k])


def by_removal(place, names, k):
    os.unlink(place.path(names[k]))


def by_same_bytes(place, names, k):
    """Written anew as it was: another time, so no longer believed, but nothing else."""
    data = place.bytes(names[k])
    place.put(names[k], data)


def by_nanosecond(place, names, k):
    """The least that can change."""
    st = os.stat(place.path(names[k]))
    os.utime(place.path(names[k]), ns=(st.st_atime_ns, st.st_mtime_ns + 1))


CHANGES = (by_write, by_commit, by_snapshot, by_replacement, by_rebase, by_removal, by_same_bytes,
           by_nanosecond)


def check_changed(args, directory, rng):
    """Every layer in turn, changed by every means: nothing wrong is ever read."""
    place = Place(args, os.path.join(directory, "as-built"), rng)
    names = place.chain(DEPTH)
    for i, name in enumerate(names):
        place.qemu_img("snapshot", "-c", "before", name)
        place.qemu_io(name, f"write -P {100 + i} {(16 * (DEPTH - 1 - i) + 2) * 4}k 6k")
    place.age()
    place.build(names[0])
    place.used("as built", names[0])
    for change in CHANGES:
        for k in range(DEPTH):
            now = Place(args, os.path.join(directory, "now"), rng)
            shutil.rmtree(now.directory)
            shutil.copytree(place.directory, now.directory)
            change(now, names, k)
            what = f"layer #{k} changed {change.__name__}"
            if not (change is by_removal and k == 0):
                now.unused(what, names[0], "was changed", "other files than the image", "No such")
            now.right(what, names[0])
            place.compared += now.compared
    return place


def write_unseen(place, name):
    """Change a layer's content but neither its size nor its modification time."""
    before = os.stat(place.path(name))
    place.qemu_io(name, "write -P 203 0 128k")
    if os.stat(place.path(name)).st_size != before.st_size:
        raise Mismatch("the test changed a size")
    os.utime(place.path(name), ns=(before.st_atime_ns, before.st_mtime_ns))


def check_racy(args, directory, rng):
    """A change too soon after another one, which leaves size and time as they were."""
    place = Place(args, directory, rng)
    for k in (0, 2, 3):
        names = place.chain(4, f"racy{k}-")
        for name in names:
            place.qemu_io(name, "write -P 204 0 128k")
        place.age(*(n for n in names if n != names[k]))
        place.build(names[0], "--no-wait")
        place.unused(f"layer #{k} young", names[0], "two seconds")
        place.verify(f"layer #{k} young", names[0], 2)
        files = place.show(names[0])["files"]
        if [f["racy"] for f in files] != [i == k for i in range(4)]:
            raise Mismatch(f"layer #{k} young: racy: {files}")
        write_unseen(place, names[k])
        place.unused(f"layer #{k} young and changed", names[0], "two seconds")
        place.right(f"layer #{k} young and changed", names[0])
    # Built with the wait, the youngest layer is old enough.
    names = place.chain(2, "waited-")
    place.build(names[0])
    place.used("waited", names[0])
    built = codec.Sidecar(place.bytes(names[0] + ".qci"))
    if any(s["mtime_ns"] + RACY_NS > built.header["built_ns"] for s in built.sources):
        raise Mismatch(f"build did not wait: {built.header}")
    # A time in the future never gets old enough.
    place.age(names[1], by=-3600)
    status, _, err = place.qchain("index", "build", "--full", names[0], ok=None)
    if status != 1 or "future" not in err:
        raise Mismatch(f"a time in the future: exit {status}: {err}")
    place.build(names[0], "--full", "--no-wait")
    place.unused("a time in the future", names[0], "two seconds")
    return place


def begin_read(place, image):
    """A qchain-read that has opened the chain and waits for somebody to take its bytes."""
    fifo = place.path("fifo")
    if not os.path.exists(fifo):
        os.mkfifo(fifo)
    p = subprocess.Popen([place.program, "read", image, "fifo"],
                         cwd=place.directory, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            held = [os.readlink(f"/proc/{p.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{p.pid}/fd")]
        except OSError:
            held = []
        if any(h.endswith(".qci") for h in held):
            lib.wait_until_quiet(p)
            return p
        time.sleep(0.002)
    p.kill()
    p.wait()
    raise Mismatch("qchain-read does not open the sidecar")


def check_changed_after_open(args, directory, rng):
    """What changed between the open and a layer's first read is noticed then."""
    place, names = indexed(args, directory, rng)
    for k in (1, DEPTH - 1):
        for change in (by_write, by_replacement, by_removal):
            place.age()
            place.build(names[0])
            saved = place.bytes(names[k])
            reader = begin_read(place, names[0])
            change(place, names, k)
            with open(place.path("fifo"), "rb") as f:
                while f.read(1 << 20):
                    pass
            _, err = reader.communicate(timeout=60)
            err = err.decode(errors="replace")
            # "not what it was": another thread of the reader met it first.
            if reader.returncode != 1 or not any(x in err for x in ("changed", "removed", "not what it was")):
                raise Mismatch(f"layer #{k} changed {change.__name__} after the open: exit "
                               f"{reader.returncode}: {err}")
            place.put(names[k], saved)
    return place


# ------------------------------------------------------------------ places ---

def check_copies(args, directory, rng):
    """Copies that keep times use the sidecar; others do not, and are right."""
    place, names = indexed(args, os.path.join(directory, "origin"), rng)
    place.right("origin", names[0])
    commands = {
        "cp -a": ["cp", "-a", "origin", "to"],
        "tar": ["sh", "-c", "mkdir to && tar --format=posix -C origin -cf - . | tar -C to -xf -"],
        "mv": ["mv", "cp", "to"],
        "cp": ["cp", "-r", "origin", "to"],
        "tar, whole seconds": ["sh", "-c", "mkdir to && tar --format=gnu -C origin -cf - . | "
                               "tar -C to -xf -"],
    }
    if shutil.which("rsync"):
        commands["rsync -a"] = ["rsync", "-a", "origin/", "to/"]
    shutil.copytree(place.directory, os.path.join(directory, "cp"))
    runner = lib.Runner(directory)
    for what, argv in commands.items():
        shutil.rmtree(os.path.join(directory, "to"), ignore_errors=True)
        runner.run(argv)
        copy = Place(args, os.path.join(directory, "to"), rng)
        if what in ("cp", "tar, whole seconds"):
            copy.unused(what, names[0], "was changed")
            copy.verify(what, names[0], 2)
        else:
            copy.used(what, names[0])
            copy.verify(what, names[0], 0)
        copy.right(what, names[0])
        # Changed there, it is not used there, and the origin's is none the worse.
        by_write(copy, names, DEPTH - 2)
        copy.right(f"{what}, then changed", names[0])
        place.compared += copy.compared
    place.used("the origin", names[0])
    place.right("the origin", names[0])
    return place


def check_links(args, directory, rng):
    """Symbolic links to the top, and relative names of backing files."""
    place = Place(args, directory, rng)
    for name in ("images/sub", "links"):
        os.makedirs(place.path(name))
    place.layer("images/base.qcow2", 0)
    place.layer("images/sub/mid.qcow2", 1, "../base.qcow2")
    place.layer("images/top.qcow2", 2, "sub/mid.qcow2")
    os.symlink("../images/top.qcow2", place.path("links/vm.qcow2"))
    os.symlink("images/top.qcow2", place.path("vm.qcow2"))
    files = ["images/base.qcow2", "images/sub/mid.qcow2", "images/top.qcow2"]
    place.age(*files)
    # QEMU, and so this library, takes a relative name from the directory of the link.
    place.build("images/top.qcow2")
    if not os.path.exists(place.path("images/top.qcow2.qci")):
        raise Mismatch("the sidecar is not beside the image")
    place.used("the image", "images/top.qcow2")
    place.right("the image", "images/top.qcow2")
    for link in ("vm.qcow2", "links/vm.qcow2"):
        place.right(f"through {link}", link)
    # Where the names fit from the link's directory the sidecar of the real file is used.
    for name in ("base.qcow2", "sub"):
        os.symlink("../images/" + name, place.path("links/" + name))
    place.used("through a link beside linked layers", "links/vm.qcow2")
    place.right("through a link beside linked layers", "links/vm.qcow2")
    # Other files under these names, reached only through the link.
    os.unlink(place.path("links/base.qcow2"))
    os.unlink(place.path("links/sub"))
    os.mkdir(place.path("links/sub"))
    place.layer("links/base.qcow2", 3)
    place.layer("links/sub/mid.qcow2", 4, "../base.qcow2")
    place.age("links/base.qcow2", "links/sub/mid.qcow2", by=700)
    place.unused("other layers beside the link", "links/vm.qcow2", "was changed")
    place.right("other layers beside the link", "links/vm.qcow2")
    place.used("the image again", "images/top.qcow2")
    place.right("by its absolute name", place.path("images/top.qcow2"))
    # Built through the link, for the layers that are seen there.
    place.build("links/vm.qcow2", "--full")
    place.used("built through the link", "links/vm.qcow2")
    place.right("built through the link", "links/vm.qcow2")
    place.right("and the image by its own name", "images/top.qcow2")
    return place


def check_owner(args, directory, rng):
    """A sidecar that others may write to is not used."""
    place, names = indexed(args, directory, rng)
    sidecar, image = place.path(names[0] + ".qci"), place.path(names[0])
    for mode, words in ((0o646, "everybody"), (0o664, "a group"), (0o777, "everybody")):
        os.chmod(sidecar, mode)
        place.unused(f"mode {mode:o}", names[0], words)
        place.verify(f"mode {mode:o}", names[0], 2)
        place.right(f"mode {mode:o}", names[0])
    os.chmod(image, 0o666)
    os.chmod(sidecar, 0o666)
    place.used("as writable as its image", names[0])
    place.build(names[0])
    if os.stat(sidecar).st_mode & 0o777 != 0o666:
        raise Mismatch(f"not the image's permissions: {os.stat(sidecar).st_mode:o}")
    os.chmod(image, 0o640)
    place.build(names[0])
    if os.stat(sidecar).st_mode & 0o777 != 0o640:
        raise Mismatch(f"not the image's permissions: {os.stat(sidecar).st_mode:o}")
    place.used("not readable for all", names[0])
    if os.geteuid() == 0:
        os.chown(sidecar, 12345, -1)
        place.unused("another owner", names[0], "12345")
        place.verify("another owner", names[0], 2)
        place.right("another owner", names[0])
        os.chown(image, 12345, 12345)
        place.used("the image's owner", names[0])
        place.build(names[0])
        st = os.stat(sidecar)
        if (st.st_uid, st.st_gid) != (12345, 12345):
            raise Mismatch(f"built for an image of user 12345, belongs to {st.st_uid}")
        place.used("given to the image's owner", names[0])
        os.chown(sidecar, 0, 0)
        place.used("root's", names[0])
    place.right("at last", names[0])
    return place


def check_odd_files(args, directory, rng):
    """Other things at the sidecar's place: no hanging, nothing wrong."""
    place, names = indexed(args, directory, rng)
    sidecar = place.path(names[0] + ".qci")
    good = place.bytes(names[0] + ".qci")
    os.rename(sidecar, place.path("good"))
    place.put("text", b"not a sidecar at all\n" * 20)

    def link(target):
        return lambda: os.symlink(target, sidecar)

    def write(data):
        return lambda: place.put(names[0] + ".qci", data)

    # what it is, how it is made, verify's exit code, drop's, whether build may replace it
    kinds = (("a directory", lambda: os.mkdir(sidecar), 2, 1, False),
             ("a fifo", lambda: os.mkfifo(sidecar), 2, 1, True),
             ("a link to itself", link(os.path.basename(sidecar)), None, 1, True),
             ("a dangling link", link("nothing"), 2, 1, True),
             ("a link to a text", link("text"), 3, 1, True),
             ("a link to a device", link("/dev/zero"), 2, 1, True),
             ("an empty file", write(b""), 3, 0, True),
             ("a text", write(b"QCHAIN? no\n" * 50), 3, 1, True),
             ("zeros", write(bytes(4096)), 3, 1, True),
             ("a header alone", write(good[:160]), 3, 0, True))
    for what, make, verified, dropped, replaced in kinds:
        make()
        place.unused(what, names[0])
        place.right(what, names[0])
        if verified is not None:
            place.verify(what, names[0], verified)
        status, _, err = place.qchain("index", "drop", names[0], ok=None)
        if status != dropped or os.path.lexists(sidecar) != (dropped != 0):
            raise Mismatch(f"{what}: drop exits {status}: {err}")
        status, _, err = place.qchain("index", "build", names[0], ok=None)
        if status != (0 if replaced else 1):
            raise Mismatch(f"{what}: build exits {status}: {err}")
        if os.path.isdir(sidecar):
            os.rmdir(sidecar)
        else:
            place.used(f"{what}, built over", names[0])
            os.unlink(sidecar)
    left = [n for n in os.listdir(directory) if n.startswith(".")]
    if left:
        raise Mismatch(f"left behind: {left}")
    # A link to a good one is as good.
    os.symlink("good", sidecar)
    place.right("a link to a sidecar", names[0])
    return place


def check_foreign(args, directory, rng):
    """Sidecars of other images and under other names."""
    place, names = indexed(args, directory, rng)
    others = place.chain(DEPTH, "other")
    place.age(*others, by=300)
    place.build(others[0])
    shutil.copy2(place.path(others[0] + ".qci"), place.path(names[0] + ".qci"))
    place.unused("of another chain", names[0], "was changed", "other files")
    place.verify("of another chain", names[0], 2)
    place.right("of another chain", names[0])
    # The middle layer renamed, with its sidecar and without; then another file in its place.
    place.build(names[0], "--full")
    place.build(names[2], "--full")
    os.rename(place.path(names[2]), place.path("renamed.qcow2"))
    place.unused("a layer renamed", names[0], "No such file")
    place.right("a layer renamed", names[0])
    place.right("the renamed layer", "renamed.qcow2")
    os.rename(place.path(names[2] + ".qci"), place.path("renamed.qcow2.qci"))
    place.used("renamed with its sidecar", "renamed.qcow2")
    place.right("renamed with its sidecar", "renamed.qcow2")
    shutil.copy2(place.path(others[2]), place.path(names[2]))
    place.unused("another file in the renamed one's place", names[0], "was changed")
    place.right("another file in the renamed one's place", names[0])
    # An internal snapshot is never told of by a sidecar.
    place.qemu_img("snapshot", "-c", "snap", others[0])
    place.qemu_io(others[0], "write -P 9 0 300k")
    place.age(others[0], by=350)
    place.build(others[0], "--full")
    place.used("with an internal snapshot", others[0])
    place.qemu_img("convert", "-l", "snap", "-O", "raw", others[0], "snap.raw")
    place.qchain("convert", "-l", "snap", "-O", "raw", others[0], "ours.raw")
    lib.same_file("an internal snapshot", place.path("ours.raw"), place.path("snap.raw"))
    place.right("with an internal snapshot", others[0])
    return place


def check_verify_drop(args, directory, rng):
    """The exit codes."""
    place, names = indexed(args, directory, rng)
    sidecar = names[0] + ".qci"
    good = place.bytes(sidecar)
    place.verify("right", names[0], 0)
    place.verify("no image", "nothing.qcow2", 1)
    place.put(sidecar, good[:-1] + bytes([good[-1] ^ 1]))
    place.verify("damaged", names[0], 3)
    wrong = codec.Sidecar(good)
    run = next(r for r in wrong.pages[0]["runs"] if r[2] == codec.DATA)
    run[4] += 4096
    place.put(sidecar, wrong.encode())
    place.verify("wrong", names[0], 3)
    place.put(sidecar, good)
    os.utime(place.path(names[3]))
    place.verify("a layer touched", names[0], 2)
    place.build(names[0])
    place.verify("built again", names[0], 0)
    for argv, want in ((["drop", names[0]], 0), (["drop", names[0]], 2), (["show", names[0]], 2),
                       (["verify", names[0]], 2), (["drop", "nothing.qcow2"], 2), ([], 1),
                       (["build"], 1), (["mend", names[0]], 1), (["drop", "--full", names[0]], 1),
                       (["build", names[0], names[1]], 1), (["build", "-U", names[0]], 1),
                       (["build", "nothing.qcow2"], 1), (["drop", "--index", names[1], "x"], 1)):
        status, _, err = place.qchain("index", *argv, ok=None)
        if status != want or (want and not err):
            raise Mismatch(f"index {' '.join(argv)}: exit {status}, wanted {want}: {err}")
    if os.path.exists(place.path(sidecar)) or not os.path.exists(place.path(names[1])):
        raise Mismatch("drop removed the wrong file")
    return place


def limited(place, most, *argv):
    """Run with files of at most so many bytes; returns the exit code."""
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    return subprocess.run([place.program, *argv], cwd=place.directory, stdin=subprocess.DEVNULL,
                          capture_output=True, preexec_fn=limit, timeout=60,
                          check=False).returncode


def check_build_is_atomic(args, directory, rng):
    """Builds that fail, are killed or run at once: the sidecar is an old or a new one."""
    place, names = indexed(args, directory, rng, 12)
    sidecar = names[0] + ".qci"
    before = place.bytes(sidecar)
    for most in (0, 1, 160, len(before) - 1):
        if limited(place, most, "map", names[0]) != 0:
            continue  # a sanitizer that wants to write files
        status = limited(place, most, "index", "build", "-q", "--full", names[0])
        if status != 1 or place.bytes(sidecar) != before:
            raise Mismatch(f"a build that may write {most} bytes: exit {status}")
    if sidecar_leftovers(place):
        raise Mismatch(f"failed builds left {sidecar_leftovers(place)}")
    for _ in range(20):
        p = subprocess.Popen([place.program, "index", "build", "-q", "--full", names[0]],
                             cwd=directory, stdin=subprocess.DEVNULL)
        time.sleep(rng.random() * 0.008)
        p.kill()
        p.wait()
        place.verify("a build was killed", names[0], 0)
    for name in sidecar_leftovers(place):
        os.unlink(place.path(name))
    truth = place.qchain("map", "--output=json", "--no-index", names[0])[1]
    builders = [subprocess.Popen(["sh", "-c", 'for i in 1 2 3 4 5 6 7 8; do "$0" index build -q '
                                  '--full "$1" || exit 1; done', place.program, names[0]],
                                 cwd=directory, stdin=subprocess.DEVNULL) for _ in range(2)]
    while any(p.poll() is None for p in builders):
        if place.qchain("map", "--output=json", names[0])[1] != truth:
            raise Mismatch("while it is built: another map")
    if any(p.returncode for p in builders):
        raise Mismatch("two builds at once: one failed")
    if sidecar_leftovers(place):
        raise Mismatch(f"builds left {sidecar_leftovers(place)}")
    place.used("built by two at once", names[0])
    place.right("built by two at once", names[0])
    return place


def sidecar_leftovers(place):
    known = {"oracle.raw", "ours.raw"}
    return [n for n in os.listdir(place.directory) if not n.startswith("layer") and n not in known]


CHECKS = (check_used, check_incremental, check_changed, check_racy, check_changed_after_open,
          check_copies, check_links, check_owner, check_odd_files, check_foreign,
          check_verify_drop, check_build_is_atomic, sidecar_forged.check_damaged,
          sidecar_forged.check_forged_names, sidecar_forged.check_forged_runs,
          sidecar_forged.check_forged_fields, sidecar_kinds.check_kinds,
          sidecar_kinds.check_random)


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--bin", default=lib.default_bin())
    p.add_argument("--hammer", help="not used")
    p.add_argument("--seed", type=int, default=None, help="random if absent")
    p.add_argument("--count", type=int, default=lib.share(14), help="random chains")
    p.add_argument("--only", default="", help="checks to do, by parts of their names")
    p.add_argument("--jobs", type=int, default=2)
    p.add_argument("--keep", action="store_true", help="do not remove the images")
    args = p.parse_args()
    args.bin = os.path.abspath(args.bin)
    lib.need("qemu-img", "qemu-io", os.path.join(args.bin, "qchain"))
    seed = args.seed if args.seed is not None else lib.any_seed()
    print(f"sidecar: seed {seed}", flush=True)
    root = tempfile.mkdtemp(prefix="qchain-sidecar-")
    failures, lock = [], threading.Lock()
    checks = [c for c in CHECKS if any(o in c.__name__ for o in args.only.split(","))]

    def one(check):
        directory, began = os.path.join(root, check.__name__), time.monotonic()
        os.mkdir(directory)
        text = "ok"
        try:
            place = check(args, directory, random.Random(f"{seed} {check.__name__}"))
            text += f", {place.compared} maps and contents as qemu-img's"
        except Mismatch as e:
            text = f"FAIL {e}"
            failures.append(check)
        except (OSError, ValueError, codec.Wrong):
            text = f"FAIL {traceback.format_exc()}"
            failures.append(check)
        with lock:
            print(f"{check.__name__}: {text} ({time.monotonic() - began:.1f} s)", flush=True)

    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(one, checks))
    if args.keep:
        print(f"kept: {root}")
    else:
        shutil.rmtree(root)
    print(f"sidecar: {len(checks)} checks, {len(failures)} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
