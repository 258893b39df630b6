#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Incremental backups of a disk: full, increments, restore of any point, verify.

    backup.py full DISK STORE                a new series: everything
    backup.py inc DISK STORE [--bitmap NAME] what changed since the last point
    backup.py restore STORE POINT TARGET     the disk as it was, a new qcow2 image
    backup.py verify STORE                   every point against its checksum
    backup.py list STORE

A point is a qcow2 image in the directory STORE, on top of the one before, and a line of points.json. What changed is
known from the chain (a snapshot was made: the disk got layers since the last point), or from a dirty bitmap of the
top, which must have been enabled since and is cleared afterwards. Without either, blocks are compared. The disk must
not be written meanwhile.
"""
import argparse
import json
import os
import sys
import time

import qchain

CHUNK = 1 << 20


class Store:
    """A directory with one series of points."""

    def __init__(self, path):
        self.path = path
        self.index = os.path.join(path, "points.json")
        self.points = []
        if os.path.exists(self.index):
            with open(self.index, encoding="utf-8") as f:
                self.points = json.load(f)

    def image(self, number):
        return os.path.join(self.path, f"point-{number:04}.qcow2")

    def add(self, layers, checksum, copied):
        """The point counts from here on: its image is durable already."""
        self.points.append({"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "layers": layers,
                            "checksum": checksum, "copied": copied})
        with open(self.index + ".new", "w", encoding="utf-8") as f:
            json.dump(self.points, f, indent=1)
            f.flush()
            os.fsync(f.fileno())
        os.replace(self.index + ".new", self.index)
        print(f"point {len(self.points) - 1}: {copied} bytes copied")

    def open(self, number, **how):
        return qchain.Chain(self.image(number), format="qcow2", **how)


def layer_names(chain):
    """The files of a chain's layers, from the bottom up, and how they are; nothing if that cannot be told."""
    names = []
    try:
        for layer in reversed(range(chain.layers)):
            name = chain.info(layer).name
            status = os.stat(name)
            names.append([os.path.abspath(name), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns])
    except OSError:
        return []
    return names


def show(what):
    def progress(done, total):
        if sys.stderr.isatty():
            print(f"\r{what}: {100 * done // max(1, total)} %", end="", file=sys.stderr)
    return progress


def full(store, disk):
    os.makedirs(store.path, exist_ok=True)
    if store.points:
        raise SystemExit(f"{store.path} has a series already: name another directory, or make an increment")
    with qchain.Chain(disk) as chain:
        copied = chain.convert(store.image(0), progress=show("full")).copied
        store.add(layer_names(chain), checksum(store, 0, chain), copied)


def checksum(store, number, chain):
    """A point is what the disk is, or it is none."""
    with store.open(number) as point:
        made = point.checksum(progress=show("checksum")).hex()
    if made != chain.checksum().hex():
        os.unlink(store.image(number))
        raise SystemExit("the point is not what the disk is: it was written meanwhile, or the bitmap was not enabled "
                         "all the time; make an increment without it")
    return made


def changed(chain, last):
    """Extents above the layers that the last point had; None if they are not there as they were."""
    now = layer_names(chain)
    if not last or now[:len(last)] != last:
        return None
    new = len(now) - len(last)
    return chain.diff(new) if new else iter(())


def copy(chain, target, extents, compare):
    """Copy what changed, or with compare what differs. Returns how many bytes of data that was."""
    copied = 0
    for e in extents:
        for at in range(e.offset, e.offset + e.length, CHUNK):
            length = min(CHUNK, e.offset + e.length - at)
            data = chain.read(length, at)
            if compare and target.read(length, at) == data:
                continue
            if data.count(0) == length:
                target.write_zeroes(length, at)
            else:
                target.write(data, at)
                copied += length
    return copied


def increment(store, disk, bitmap):
    if not store.points:
        raise SystemExit(f"{store.path} has no full backup: make one first")
    number = len(store.points)
    with qchain.Chain(disk, writable=bitmap is not None) as chain:
        qchain.create(store.image(number), chain.size, backing_format="qcow2",
                      backing_file=os.path.basename(store.image(number - 1)))
        if bitmap is not None:
            extents = (e for e in chain.bitmap_extents(bitmap) if e.dirty)
        else:
            extents = changed(chain, store.points[-1]["layers"])
        everything = [qchain.DirtyExtent(0, chain.size, True)]
        with store.open(number, writable=True) as target:
            copied = copy(chain, target, everything if extents is None else extents, extents is None)
        # Clearing the bitmap changes the top: the next increment cannot tell by the layers what that was.
        layers = layer_names(chain) if bitmap is None else []
        store.add(layers, checksum(store, number, chain), copied)
        if bitmap is not None:
            chain.bitmap_clear(bitmap)  # last: noted twice is better than not at all


def restore(store, number, target):
    if not 0 <= number < len(store.points):
        raise SystemExit(f"there is no point {number}: {store.path} has 0 to {len(store.points) - 1}")
    with store.open(number) as point:
        point.convert(target, progress=show("restore"))
    with qchain.Chain(target, format="qcow2") as made:
        if made.checksum().hex() != store.points[number]["checksum"]:
            raise SystemExit(f"{target} is not what point {number} was: verify the store")


def verify(store):
    bad = 0
    for number, point in enumerate(store.points):
        try:
            with store.open(number) as chain:
                right = chain.checksum().hex() == point["checksum"]
            why = "its bytes are others"
        except qchain.QchainError as e:
            right, why = False, str(e)
        print(f"point {number}: {'good' if right else 'DAMAGED: ' + why}")
        bad += not right
    return 1 if bad else 0


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = p.add_subparsers(dest="verb", required=True)
    for verb, words in (("full", "disk store"), ("inc", "disk store"), ("restore", "store point target"),
                        ("verify", "store"), ("list", "store")):
        v = verbs.add_parser(verb)
        for word in words.split():
            v.add_argument(word, type=int if word == "point" else str)
        if verb == "inc":
            v.add_argument("--bitmap", metavar="NAME")
    a = p.parse_args()
    store = Store(a.store)
    if a.verb == "full":
        full(store, a.disk)
    elif a.verb == "inc":
        increment(store, a.disk, a.bitmap)
    elif a.verb == "restore":
        restore(store, a.point, a.target)
    elif a.verb == "verify":
        return verify(store)
    else:
        for number, point in enumerate(store.points):
            print(f"{number:4} {point['time']} {point['copied']:14} bytes  {point['checksum'][:16]}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except qchain.QchainError as error:
        sys.exit(f"backup: {error}")
