# SPDX-License-Identifier: MIT
"""Sidecars of all kinds of layers, and of random chains."""
import json
import os
import shutil

import interop_lib as lib
import sidecar_codec as codec
from chain_maker import ChainMaker
from interop_lib import Mismatch
from qcow2_writer import write_qcow2
from sidecar_place import SIZE, Place

TRUST = ("--trust",)


class Kinds:
    """Makes chains of named kinds, one at a time, each in a directory of its own."""

    def __init__(self, args, directory, rng):
        self.args, self.root, self.rng = args, directory, rng
        self.place = None
        self.compared = 0

    def begin(self, kind):
        self.place = Place(self.args, os.path.join(self.root, kind), self.rng)
        tokens = [self.rng.randbytes(61) for _ in range(9)]
        self.place.put("pattern", b"".join(self.rng.choices(tokens, k=4000)))
        return self.place

    def create(self, name, size=None, below=None, fmt="qcow2", options=None):
        argv = ["create", "-q", "-f", "qcow2"]
        if options:
            argv += ["-o", options]
        if below:
            argv += ["-u", "-b", below, "-F", fmt]
        self.place.qemu_img(*argv, name, str(size))

    def settle(self, name):
        """The blocks of a file are what they will be once it is written back."""
        fd = os.open(self.place.path(name), os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)

    def raw(self, name, size, *data):
        with open(self.place.path(name), "wb") as f:
            f.truncate(size)
            for at, n in data:
                f.seek(at)
                f.write(self.rng.randbytes(n))

    def check(self, kind, image, options=(), decoded=True):
        """Build, and compare; decoded: the file alone tells all but holes in clusters."""
        place = self.place
        place.age()
        place.build(image, *options)
        place.used(kind, image, *options)
        place.right(kind, image, options)
        place.verify(kind, image, 0, *options)
        sidecar = codec.Sidecar(place.bytes(image + ".qci"))
        if sidecar.encode() != place.bytes(image + ".qci"):
            raise Mismatch(f"{kind}: encoded otherwise than the specification says")
        if decoded:
            place.same_decoded(kind, image, sidecar)

    def changed(self, kind, image, changed, *commands, fmt="qcow2", options=()):
        """A layer is written to: the sidecar is not used, and all is right."""
        self.place.qemu_io(changed, *commands, fmt=fmt)
        self.place.unused(f"{kind}, {changed} changed", image, "was changed", options=options)
        self.place.right(f"{kind}, {changed} changed", image, options)
        self.compared += self.place.compared

    # ---- the kinds

    def data_file(self):
        self.begin("data-file")
        self.create("base.qcow2", "4M", options="data_file=base.data")
        self.create("mid.qcow2", "4M", "base.qcow2", options="data_file=mid.data,cluster_size=4k")
        self.create("top.qcow2", "4M", "mid.qcow2", options="data_file=top.data")
        for i, name in enumerate(("base", "mid", "top")):
            self.place.qemu_io(name + ".qcow2", f"write -s pattern {i * 96}k 150k",
                               f"write -z {i}M 64k")
        self.check("data files", "top.qcow2", TRUST)
        status, _, err = self.place.qchain("map", "top.qcow2", ok=None)
        if status != 1 or "data" not in err:
            raise Mismatch(f"data files without leave: exit {status}: {err}")
        with open(self.place.path("policy"), "w", encoding="utf-8") as f:
            f.write("allow data-file\n")
        self.place.runner.env["QCHAIN_POLICY"] = self.place.path("policy")
        self.place.used("data files by policy", "top.qcow2")
        self.place.right("data files by policy", "top.qcow2")
        self.create("over.qcow2", "4M", "top.qcow2")
        self.place.qemu_io("over.qcow2", "write -P 4 0 64k")
        self.place.right("over data files", "over.qcow2")
        # Written through the image, of which only the data file changes; and by itself.
        for k, name in enumerate(("base", "mid", "top")):
            self.place.age()
            self.place.build("top.qcow2")
            before = os.stat(self.place.path(name + ".qcow2")).st_mtime_ns
            with open(self.place.path(name + ".data"), "r+b") as f:
                f.write(b"changed")
            if os.stat(self.place.path(name + ".qcow2")).st_mtime_ns != before:
                raise Mismatch("the test changed the image")
            self.place.unused(f"{name}.data changed", "top.qcow2", "was changed")
            self.place.right(f"{name}.data changed", "top.qcow2")
            self.place.right(f"{name}.data changed, below another", "over.qcow2")

    def raw_base(self):
        self.begin("raw")
        self.raw("base.raw", 3_000_001, (0, 5000), (1 << 20, 100_000), (2_999_990, 11))
        self.create("top.qcow2", "4M", "base.raw", "raw")
        self.place.qemu_io("top.qcow2", "write -s pattern 64k 100k")
        self.check("raw base", "top.qcow2", decoded=False)
        self.changed("raw base", "top.qcow2", "base.raw", "write -P 3 2M 64k", fmt="raw")

    def holes_below(self):
        """Holes are looked for when the map is asked for, not when the sidecar was built; of
        qcow2 layers only where they occupy less than when it was built."""
        self.begin("holes")
        self.raw("base.raw", 4 << 20, (0, 4 << 20))
        self.create("over-raw.qcow2", "4M", "base.raw", "raw")
        self.create("base.qcow2", "4M", options="preallocation=full")
        self.create("over-qcow2.qcow2", "4M", "base.qcow2")
        for base, image in (("base.raw", "over-raw.qcow2"), ("base.qcow2", "over-qcow2.qcow2")):
            self.settle(base)
            self.check(base, image, decoded=False)
            st = os.stat(self.place.path(base))
            self.place.runner.run(["fallocate", "--dig-holes", base])
            self.place.runner.run(["fallocate", "--punch-hole", "-o", "3M", "-l", "1M", base])
            os.utime(self.place.path(base), ns=(st.st_atime_ns, st.st_mtime_ns))
            if os.stat(self.place.path(base)).st_blocks >= st.st_blocks:
                continue  # a file system without holes
            self.place.used(f"{base}, holes punched", image)
            self.place.right(f"{base}, holes punched", image)

    def compressed(self):
        self.begin("compressed")
        self.raw("source.raw", 4 << 20)
        with open(self.place.path("source.raw"), "r+b") as f:
            f.write(self.place.bytes("pattern") * 9)
        for i, kind in enumerate(("zlib", "zstd")):
            self.place.qemu_img("convert", "-c", "-O", "qcow2", "-o", "compression_type=" + kind,
                                "source.raw", f"base{i}.qcow2")
            self.create(f"top{i}.qcow2", "4M", f"base{i}.qcow2", options="compression_type=zstd")
            self.place.qemu_io(f"top{i}.qcow2", "write -c -s pattern 512k 64k",
                               "write -s pattern 70k 3k", "write -c -s pattern 640k 64k")
            self.check(f"compressed by {kind}", f"top{i}.qcow2")
            self.changed(f"compressed by {kind}", f"top{i}.qcow2", f"base{i}.qcow2",
                         "write -P 3 0 64k")

    def clusters(self):
        """All cluster sizes over each other, subclusters, and the old version."""
        self.begin("clusters")
        kinds = ("512", "2M", "4k", "64k,extended_l2=on", "1M", "16k,extended_l2=on", "64k",
                 "64k,compat=0.10", "1k,compat=0.10", "2M,extended_l2=on")
        below = None
        for i, kind in enumerate(kinds):
            name = f"l{i}.qcow2"
            self.create(name, "6M", below, options="cluster_size=" + kind)
            commands = []
            for _ in range(6):
                at = self.rng.randrange(11000) * 512
                commands.append(f"write -s pattern {at} {self.rng.randint(1, 40) * 512}")
            commands.append(f"write -z {self.rng.randrange(80) * 65536} 128k")
            self.place.qemu_io(name, *commands)
            below = name
        self.check("cluster sizes", below)
        self.changed("cluster sizes", below, "l5.qcow2", "write -P 9 5k 3k")

    def lengths(self):
        """Longer and shorter layers; a tip that is resized."""
        self.begin("lengths")
        below = None
        for i, size in enumerate(("3M", "1M", "5000192", "2M", "700M", "6M")):
            self.create(f"l{i}.qcow2", size, below, options="cluster_size=16k")
            self.place.qemu_io(f"l{i}.qcow2", f"write -s pattern {i * 100}k 200k")
            below = f"l{i}.qcow2"
            self.check(f"lengths, {i + 1} layers", below)
        for size in ("+2M", "+300M"):
            self.place.qemu_img("resize", "-q", below, size)
            self.place.unused(f"resized {size}", below, "was changed", "other files")
            self.place.right(f"resized {size}", below)
            self.check(f"resized {size}", below)
        self.place.qemu_img("resize", "-q", "--shrink", below, "1M")
        self.place.right("shrunk", below)
        self.check("shrunk", below)
        self.changed("lengths", below, "l4.qcow2", "write -P 9 0 10k")

    def preallocated(self):
        self.begin("preallocated")
        self.create("base.qcow2", "4M", options="preallocation=metadata")
        self.place.qemu_io("base.qcow2", "write -s pattern 1M 200k", "write -z 2M 64k")
        self.create("top.qcow2", "4M", "base.qcow2")
        self.place.qemu_io("top.qcow2", "write -s pattern 100k 9k")
        self.check("preallocated", "top.qcow2", decoded=False)
        self.changed("preallocated", "top.qcow2", "base.qcow2", "write -P 2 3M 70k")

    def alone(self):
        """One layer; no bytes; nothing in it; nothing in a huge one."""
        self.begin("alone")
        for name, size in (("none", "0"), ("small", "512"), ("empty", "1G"), ("huge", "60T")):
            self.create(name + ".qcow2", size)
            self.place.age(name + ".qcow2")
            self.place.build(name + ".qcow2")
            self.place.used(name, name + ".qcow2")
            self.place.verify(name, name + ".qcow2", 0)
            if name != "huge":
                self.place.right(name, name + ".qcow2")
        self.place.qemu_io("huge.qcow2", "write -P 1 30T 64k", "write -P 2 64k 64k")
        self.place.age("huge.qcow2")
        self.place.build("huge.qcow2")
        self.place.verify("huge", "huge.qcow2", 0)
        ours, theirs = (self.place.runner.json([*program, "map", "--output=json", "huge.qcow2"])
                        for program in ([os.path.join(self.args.bin, "qchain")], ["qemu-img"]))
        lib.same_extents("huge", lib.normalise(ours), lib.normalise(theirs))
        if len(self.place.bytes("huge.qcow2.qci")) > 2048:
            raise Mismatch("the sidecar of a huge empty disk is large")


    def vast(self):
        """No windows of an endless nothing are looked at, also below a new tip. qemu-img takes
        too long for it."""
        self.begin("vast")
        self.create("vast.qcow2", "1E", options="cluster_size=2M")
        self.place.qemu_io("vast.qcow2", "write -P 1 0 64k", "write -P 2 700P 64k",
                           "write -P 3 3T 1M")
        self.create("tip.qcow2", "1E", "vast.qcow2", options="cluster_size=2M")
        self.place.qemu_io("tip.qcow2", "write -P 1 5M 64k", "write -P 2 900P 64k")
        self.place.age()
        for image in ("vast.qcow2", "tip.qcow2"):
            self.place.build(image)
            self.place.verify("vast", image, 0)
            argv = [self.place.program, "map", "--output=json", image]
            truth = lib.normalise(self.place.runner.json(argv + ["--no-index"]))
            lib.same_extents("vast", lib.normalise(self.place.runner.json(argv)), truth)
            sidecar = codec.Sidecar(self.place.bytes(image + ".qci"))
            lib.same_extents("vast, decoded", lib.normalise(sidecar.map()), truth)

    def fragmented(self):
        """Every second cluster in another layer: many runs, several pages."""
        place = self.begin("fragmented")
        size, unit = 272 << 20, 4096
        for k, name in enumerate(("even", "odd")):
            with open(place.path(name + ".raw"), "wb") as f:
                f.truncate(size)
                for at in [*range(k * unit, 40 << 20, 2 * unit), (130 << 20) + k * unit,
                           *range((140 << 20) + k * unit, 144 << 20, 2 * unit)]:
                    f.seek(at)
                    f.write(self.rng.randbytes(16) * (unit // 16))
            place.qemu_img("convert", "-S", "4k", "-O", "qcow2", "-o", "cluster_size=4k",
                           name + ".raw", name + ".qcow2")
        place.qemu_img("rebase", "-u", "-b", "even.qcow2", "-F", "qcow2", "odd.qcow2")
        self.check("fragmented", "odd.qcow2")
        info = place.show("odd.qcow2")
        if info["runs"] < 10000 or info["pages"] < 2:
            raise Mismatch(f"fragmented: {info['runs']} runs in {info['pages']} pages")
        self.create("tip.qcow2", str(size), "odd.qcow2")
        place.qemu_io("tip.qcow2", "write -P 1 150M 64k")
        place.age("tip.qcow2")
        self.place.build("tip.qcow2")
        self.place.verify("over a fragmented one", "tip.qcow2", 0)
        self.place.right("over a fragmented one", "tip.qcow2")
        self.changed("fragmented", "odd.qcow2", "even.qcow2", "write -P 3 20k 8k")

    def leave(self):
        """What only an option allows is not seen by a sidecar without that option."""
        place = self.begin("leave")
        os.makedirs(os.path.join(self.root, "elsewhere"), exist_ok=True)
        far = os.path.join(self.root, "elsewhere", "far.qcow2")
        place.layer(far, 1)
        place.layer("mid.qcow2", 2, far)
        place.layer("far-top.qcow2", 3, "mid.qcow2")
        place.layer("base.qcow2", 1)
        write_qcow2(place.path("mid2.qcow2"), SIZE, place.clusters({3, 5, 9}), "base.qcow2", None)
        place.layer("plain-top.qcow2", 3, "mid2.qcow2")
        place.layer("json-top.qcow2", 4, "json:" + json.dumps(
            {"driver": "qcow2", "file.driver": "file", "file.filename": place.path("base.qcow2")}))
        place.age()
        place.age(far)
        qemu = ["qemu-img", "convert", "-O", "raw"]
        for image, options in (("far-top.qcow2", ("--allow-path", os.path.dirname(far))),
                               ("plain-top.qcow2", ("--backing-format", "qcow2")),
                               ("json-top.qcow2", TRUST)):
            place.build(image, *options)
            place.used(image, image, *options)
            place.right(image, image, options)
            for verb in ("map", "checksum"):
                status, _, err = place.qchain(verb, image, ok=None)
                if status != 1 or options[0] not in err:
                    raise Mismatch(f"{image} without {options[0]}: exit {status}: {err}")
            place.unused(image, image, options[0])
        # Another format than the one the index was built for.
        place.unused("backing format raw", "plain-top.qcow2", "other files",
                     options=("--backing-format", "raw"))
        raw = {"driver": "qcow2", "file.driver": "file", "file.filename": "plain-top.qcow2",
               "backing.driver": "qcow2", "backing.file.driver": "file",
               "backing.file.filename": "mid2.qcow2", "backing.backing.driver": "raw",
               "backing.backing.file.driver": "file", "backing.backing.file.filename": "base.qcow2"}
        place.runner.run([*qemu, "json:" + json.dumps(raw), "oracle.raw"])
        place.qchain("convert", "-O", "raw", "--backing-format", "raw", "plain-top.qcow2",
                     "ours.raw")
        lib.same_file("backing format raw", place.path("ours.raw"), place.path("oracle.raw"))


def check_kinds(args, directory, rng):
    """Data files, raw bases, compressed clusters, subclusters, sizes, old versions."""
    kinds = Kinds(args, directory, rng)
    for make in (kinds.data_file, kinds.raw_base, kinds.holes_below, kinds.compressed,
                 kinds.clusters, kinds.lengths, kinds.preallocated, kinds.alone, kinds.vast,
                 kinds.fragmented, kinds.leave):
        make()
    return kinds


def age_all(place, layers):
    for layer in layers:
        place.age(*(f for f in (layer.path, layer.data_file) if f))


def try_build(place, layer, *options):
    """A sidecar for a layer, where it can have one; raw ones cannot."""
    status, _, err = place.qchain("index", "build", "--trust", *options, layer.arg, ok=None)
    if status != (0 if layer.fmt == "qcow2" else 1):
        raise Mismatch(f"build of {layer.path}: exit {status}: {err}")


def right_layers(place, what, layers):
    for layer in {layer.path: layer for layer in layers}.values():
        place.right(f"{what}, {layer.path}", layer.arg, TRUST, fmt=layer.fmt)


def same_answers(place, what, layer):
    """Other verbs say the same with sidecars and without."""
    info = ["info", "--backing-chain", "--output=json", "-f", layer.fmt]
    for verb in (["checksum", "-f", layer.fmt], info, ["diff", "--output=json", "-f", layer.fmt],
                 ["map", "--output=json-full", "-f", layer.fmt]):
        said = [place.qchain(*verb, *how, "--trust", layer.arg)[1] for how in ((), ("--no-index",))]
        if said[0] != said[1]:
            raise Mismatch(f"{what}: {verb[0]} says {said[0][:400]!r} by the sidecar, else "
                           f"{said[1][:400]!r}")


def one_random(place, what):
    """A random chain with sidecars at random levels, before and after a change."""
    rng = place.rng
    maker = ChainMaker(rng, place.runner)
    top = maker.make()
    layers = maker.layers
    if any(place.oracle(layer.arg, layer.fmt) is None for layer in layers):
        return  # QEMU 7.2 sometimes damages what it writes
    age_all(place, layers)
    for layer in rng.sample(layers, rng.randint(1, len(layers))):
        try_build(place, layer, *(["--full"] if rng.random() < 0.3 else []))
    if top.fmt == "qcow2":
        try_build(place, top)
        place.used(what, top.arg, *TRUST)
        place.verify(what, top.arg, 0, *TRUST)
        if rng.random() < 0.5:
            place.qchain("index", "drop", top.arg)
    right_layers(place, what, [top, rng.choice(layers)])
    same_answers(place, what, top)
    changed = rng.choice(layers)
    maker.write_some(changed, 8)
    right_layers(place, f"{what}, {changed.path} changed", [top, changed, rng.choice(layers)])


def check_random(args, directory, rng):
    """Random chains with sidecars at random levels, which then change."""
    total = Place(args, directory, rng)
    for i in range(args.count):
        place = Place(args, os.path.join(directory, str(i)), rng)
        one_random(place, f"random chain {i}")
        total.compared += place.compared
        shutil.rmtree(place.directory)
    return total
