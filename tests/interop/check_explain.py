#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""qchain explain: where it says bytes lie they do, by the map of qemu-img and by the L2 tables themselves."""
import argparse
import json
import os
import random
import struct
import subprocess
import sys
import tempfile

import interop_lib as lib
from interop_lib import Mismatch

UNIT = 65536


class Explained:
    """A directory with images; runs of the tool in it."""

    def __init__(self, args, directory):
        self.qchain = os.path.join(args.bin, "qchain")
        self.runner = lib.Runner(directory, {"QCHAIN_POLICY": "", "QCHAIN_REMOTE": ""})
        self.rng = random.Random(args.seed)

    def create(self, name, size, *options, backing=None):
        below = ["-b", backing, "-F", "raw" if backing.endswith("raw") else "qcow2"] if backing else []
        self.runner.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, *below, name, str(size)])

    def io(self, name, *commands, fmt="qcow2"):
        self.runner.run(["qemu-io", "-f", fmt, *[x for c in commands for x in ("-c", c)], name])

    def json(self, name, *args):
        return self.runner.json([self.qchain, "explain", "--output=json", name, *map(str, args)])

    def kind(self, name, offset, kind, depth, *how):
        s = self.json(name, offset, *how)["stretches"][0]
        if (s["kind"], s["depth"], s["start"]) != (kind, depth, offset):
            raise Mismatch(f"{name} at {offset}: {s}, wanted {kind} of layer {depth}")
        return s

    def text(self, *args, status=0):
        return self.runner.run([self.qchain, "explain", *map(str, args)], ok=(status,))[1:]


def make(x):
    x.create("base.qcow2", "64M", "-o", "cluster_size=4k")
    x.io("base.qcow2", "write -P 1 0 1M", "write -P 2 3M 64k", "write -z 8M 1M", "write -zu 9M 64k",
         "write -c -P 9 20M 128k")
    x.create("mid.qcow2", "64M", "-o", "extended_l2=on", backing="base.qcow2")
    x.io("mid.qcow2", "write -P 4 512k 20k", "write -zu 0 4k")
    x.create("top.qcow2", "80M", backing="mid.qcow2")
    x.io("top.qcow2", "write -P 5 70M 5k")
    x.create("reserved.qcow2", "4M", "-o", "preallocation=metadata")
    x.create("data-file.qcow2", "4M", "-o", "data_file=data.raw")
    x.io("data-file.qcow2", "write -P 3 1M 64k")
    with open(os.path.join(x.runner.cwd, "low.raw"), "wb") as f:
        f.truncate(4 << 20)
        f.seek(2 << 20)
        f.write(b"x" * UNIT)
    x.create("on-raw.qcow2", "8M", backing="low.raw")


def check_kinds(x):
    x.kind("top.qcow2", 0, "zero", 1)
    x.kind("top.qcow2", 512 << 10, "data", 1)
    x.kind("top.qcow2", 3 << 20, "data", 2)
    x.kind("top.qcow2", 8 << 20, "zero-allocated" if allocated(x, 8 << 20) else "zero", 2)
    x.kind("top.qcow2", 9 << 20, "zero", 2)
    x.kind("top.qcow2", 30 << 20, "unallocated", 2)
    x.kind("top.qcow2", 66 << 20, "beyond-layer", 0)
    x.kind("top.qcow2", 70 << 20, "data", 0)
    x.kind("on-raw.qcow2", 0, "hole", 1)
    x.kind("on-raw.qcow2", 2 << 20, "data", 1)
    x.kind("on-raw.qcow2", 6 << 20, "beyond-layer", 0)
    x.kind("reserved.qcow2", 1 << 20, "hole", 0)
    s = x.kind("data-file.qcow2", 1 << 20, "data", 0, UNIT, "--trust")
    if s["filename"] != "data.raw" or not s["data-file"] or s["offset"] != 1 << 20:
        raise Mismatch(f"a data file: {s}")
    end = x.json("top.qcow2", "80M")["stretches"]
    if end != [{"start": 80 << 20, "kind": "beyond-end"}]:
        raise Mismatch(f"beyond the end: {end}")
    two = x.json("top.qcow2", "20M", "128k")["stretches"]
    if {s["kind"] for s in two} != {"compressed"} or len(two) != 32 or not all(0 < s["host-length"] < UNIT for s in two):
        raise Mismatch(f"compressed clusters: {two}")


def allocated(x, offset):
    found = x.runner.json(["qemu-img", "map", "--output=json", "-s", str(offset), "-l", "1", "base.qcow2"])
    return "offset" in found[0]


def l2_entry(directory, layer):
    """What the image's own tables say at the place that was told."""
    with open(os.path.join(directory, layer["filename"]), "rb") as f:
        f.seek(40)
        l1 = struct.unpack(">Q", f.read(8))[0]
        f.seek(l1 + 8 * layer["l1-index"])
        l2 = struct.unpack(">Q", f.read(8))[0] & 0x00fffffffffffe00
        if l2 == 0:
            return 0, 0
        size = 16 if "subcluster" in layer else 8
        f.seek(l2 + size * layer["l2-index"])
        return struct.unpack(">QQ", f.read(16)) if size == 16 else (struct.unpack(">Q", f.read(8))[0], 0)


def check_tables(x):
    """The way through the tables, entry by entry, against the files."""
    seen = set()
    for offset in [x.rng.randrange(80 << 20) for _ in range(12)] + [0, 530000, 3 << 20, 21037056, 70 << 20]:
        s = x.json("top.qcow2", offset)["stretches"][0]
        seen.add(s["kind"])
        for layer in s["lookup"]:
            if layer["virtual-size"] <= offset:
                if layer is not s["lookup"][-1] or s["kind"] != "beyond-layer":
                    raise Mismatch(f"{offset}: {layer} is too short to be asked")
                continue
            entry, bits = l2_entry(x.runner.cwd, layer)
            sub = bits >> layer.get("subcluster", 0)
            holds = entry != 0 if "subcluster" not in layer else sub & 0x1_0000_0001 != 0
            last = layer["layer"] == s["depth"] and s["kind"] not in ("unallocated", "beyond-layer")
            if holds != last:
                raise Mismatch(f"{offset}: {layer}: the entry is {entry:#x} {bits:#x}, but {s}")
            if not last:
                continue
            place = entry & 0x00fffffffffffe00
            if s["kind"] == "data" and s["offset"] != place + offset % layer["cluster-size"]:
                raise Mismatch(f"{offset}: {s}: the entry is {entry:#x}")
            if s["kind"] == "compressed" and (not entry >> 62 & 1 or s["offset"] != entry & (1 << 54) - 1):
                raise Mismatch(f"{offset}: {s}: the entry is {entry:#x}")
    if not {"data", "compressed", "zero", "unallocated"} <= seen:
        raise Mismatch(f"not enough was seen: {seen}")


def check_range(x):
    """All stretches together are what qemu-img maps."""
    ours = x.json("top.qcow2", 0, "80M")["stretches"]
    for a, b in zip(ours, ours[1:]):
        if a["start"] + a["length"] != b["start"]:
            raise Mismatch(f"a gap: {a}, {b}")
    theirs = x.runner.json(["qemu-img", "map", "--output=json", "top.qcow2"])
    for s in ours:
        e = next(e for e in theirs if e["start"] <= s["start"] < e["start"] + e["length"])
        data = s["kind"] in ("data", "compressed")
        if e["depth"] != s["depth"] or e["data"] != data:
            raise Mismatch(f"{s}, qemu-img has {e}")
        if s["kind"] == "data" and s["offset"] != e["offset"] + s["start"] - e["start"]:
            raise Mismatch(f"{s}, qemu-img has {e}")
    if ours[-1]["start"] + ours[-1]["length"] != 80 << 20:
        raise Mismatch(f"it ends with {ours[-1]}")


def check_sidecar(x):
    """Depth does not make the answer long, nor is a layer read that the index knows."""
    below = "base.qcow2"
    for i in range(12):
        x.create(f"deep{i}.qcow2", "64M", backing=below)
        below = f"deep{i}.qcow2"
    out, _ = x.text(below, "3M")
    if b"#3 to #10: nothing" not in out or b"known from: the layers" not in out or len(out.splitlines()) > 20:
        raise Mismatch(out.decode())
    x.runner.run([x.qchain, "index", "build", "-q", below])
    out, _ = x.text(below, "3M")
    if b"known from: the sidecar index" not in out or b"of sidecar indexes" not in out:
        raise Mismatch(out.decode())
    got = x.json(below, "3M", "--read")
    lookup = got["stretches"][0]["lookup"]
    if got["sidecar-layers"] != 13 or [f["layer"] for f in lookup] != [0, 1, 2, 11, 12]:
        raise Mismatch(json.dumps(got))
    if not lookup[0]["sidecar-index"] or got["stretches"][0]["read"]["data-reads"] != 1:
        raise Mismatch(json.dumps(got))


def check_escapes(x):
    """A name that would act on a terminal is told so that it does not, but as it is in JSON."""
    odd, data = "o\x1b[2Jdd.qcow2", "d\x1b[2Jata.raw"
    x.create(odd, "4M")
    x.io(odd, "write -P 1 0 64k")
    x.create("on-odd.qcow2", "4M", backing=odd)
    x.create("odd-data.qcow2", "4M", "-o", "data_file=" + data)
    x.io("odd-data.qcow2", "write -P 1 0 64k")
    for image, name in (("on-odd.qcow2", odd), ("odd-data.qcow2", data)):
        out = x.text("--trust", image, 0)[0] + x.runner.run([x.qchain, "map", "--trust", image])[1]
        if b"\x1b" in out or out.count(name.replace("\x1b", "\\x1b").encode()) < 2:
            raise Mismatch(f"{image}: {out!r}")
        s = x.kind(image, 0, "data", image == "on-odd.qcow2", "--trust")
        if s["filename"] != name:
            raise Mismatch(f"{image}: {s}")


def check_memory(x):
    """--read reads a long stretch in pieces: it takes less memory than there are bytes."""
    with open(os.path.join(x.runner.cwd, "long.raw"), "wb") as f:
        f.truncate(768 << 20)
    with subprocess.Popen([x.qchain, "explain", "--read", "-f", "raw", "long.raw", "0", "768M"], cwd=x.runner.cwd,
                          env=x.runner.env, stdout=subprocess.PIPE) as child:
        out = child.stdout.read()
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0 or b"0 to 805306367 " not in out or b"  read: " not in out:
        raise Mismatch(f"exit {child.returncode}: {out.decode()}")
    if used.ru_maxrss > 512 << 10:
        raise Mismatch(f"--read takes {used.ru_maxrss} KiB of memory")


def check_mistakes(x):
    for args, word in ((("top.qcow2",), "Expecting"), (("top.qcow2", "x"), "Invalid offset"),
                       (("top.qcow2", "0", "0"), "Invalid length"), (("top.qcow2", "0", "1", "2"), "Expecting")):
        _, err = x.text(*args, status=2)
        if word not in err:
            raise Mismatch(f"{args}: {err}")
    _, err = x.text("none.qcow2", "0", status=1)
    if "none.qcow2" not in err:
        raise Mismatch(err)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", default=os.path.join(lib.build_dir(), "bin"))
    parser.add_argument("--hammer")
    parser.add_argument("--seed", type=int, default=lib.any_seed())
    args = parser.parse_args()
    args.bin = os.path.abspath(args.bin)
    lib.need("qemu-img", "qemu-io", os.path.join(args.bin, "qchain"))
    with tempfile.TemporaryDirectory(prefix="qchain-explain-") as directory:
        x = Explained(args, directory)
        try:
            make(x)
            for check in (check_kinds, check_tables, check_range, check_sidecar, check_escapes, check_memory,
                          check_mistakes):
                check(x)
        except Mismatch as e:
            print(f"FAIL (seed {args.seed}): {e}")
            return 1
    print("ok: what explain tells is so")
    return 0


if __name__ == "__main__":
    sys.exit(main())
