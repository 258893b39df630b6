# SPDX-License-Identifier: MIT
"""The bars of sidecar indexes: opening and mapping by one, and what it costs to make it."""

import os
import random
import struct
import time

import make_chain
from bench_bars import Bar, load_map, mib, secs
from bench_measure import Failed, layer_files, median, peak, warm

FASTER = {"C100": 200, "C1000": 500}    # times faster than qemu-img map
DELTA = 64 << 20                        # bytes written to a new tip
SETTLED = 3                             # seconds until a layer's time is believed
SCRATCH = ("tip.scratch.qcow2", "alone.scratch.qcow2")


def sidecar_of(image):
    return image + ".qci"


def clean(top):
    """Remove what these bars leave beside a chain; they and the others begin without."""
    home = os.path.dirname(top)
    scratch = [os.path.join(home, name) for name in SCRATCH]
    for path in scratch + [sidecar_of(x) for x in scratch + [top]]:
        if os.path.exists(path):
            os.unlink(path)
    return top


def must_be_used(m, image):
    """What was measured without the sidecar would be told as if with it."""
    told = m.answer([m.tool("qchain-index"), "show", "--output=json", image])
    if not told["used"]:
        raise Failed("the sidecar is not used: %s" % told.get("why-not", "it does not say why"))


def write_delta(path, size, below):
    """An image with DELTA bytes in clusters all over the disk; below: its backing file."""
    rng = random.Random("delta")
    cluster = make_chain.CLUSTER
    make_chain.create(path, size, below)
    make_chain.write(path, ["write -q -P 77 %d %d" % (rng.randrange(size // cluster) * cluster,
                                                      cluster) for _ in range(DELTA // cluster)])


def l2_bytes(path):
    """How large the L2 tables of one image are."""
    with open(path, "rb") as f:
        header = f.read(104)
        cluster = 1 << struct.unpack(">I", header[20:24])[0]
        entries, offset = struct.unpack(">IQ", header[36:48])
        f.seek(offset)
        table = struct.unpack(">%dQ" % entries, f.read(8 * entries))
    return cluster * sum(e & 0x00fffffffffffe00 != 0 for e in table)


def mapping(m, bar, name, top):
    """Open and map by the sidecar that lies there."""
    must_be_used(m, top)
    tool = [m.tool("qchain-map"), "--output=json"]
    runs = m.alternate({"first": lambda: m.run(tool + ["-l", "1G", top]),
                        "whole": lambda: m.run(tool + [top])})
    bar.raw.update(runs)
    first, whole = (median(runs[k], "seconds") for k in ("first", "whole"))
    if name == "C1000":
        bar.row("sidecar: open %s and map its first GiB: seconds" % name, first, "<=", 0.05,
                secs(first))
    for what, key in (("map its first GiB", "first"), ("map it", "whole")):
        rss = peak(runs[key], "rss_mib")
        bar.row("sidecar: open %s and %s: peak memory, MiB" % (name, what), rss, "<=", 24, mib(rss))
    ours, bare, theirs = m.path("ours.json"), m.path("bare.json"), m.path("qemu-%s.json" % name)
    qemu = m.once("qemu-img map " + name,
                  lambda: m.run(["qemu-img", "map", "--output=json", top], out=theirs,
                                many_files=True))
    m.run(tool + [top], out=ours)
    m.run(tool + ["--no-index", top], out=bare)
    same = load_map(ours) == load_map(bare) == load_map(theirs)
    bar.row("sidecar: the same map of %s without one, and of qemu-img (1 = yes)" % name, int(same),
            ">=", 1)
    bar.row("sidecar: map %s: times faster than qemu-img" % name, qemu["seconds"] / whole, ">=",
            FASTER[name], secs(whole), secs(qemu["seconds"]))
    bar.chart.append({"what": "map %s by a sidecar" % name, "ours": whole, "qemu": qemu["seconds"]})


def new_tip(m, bar, name, top, full):
    """What an index of a new image over an indexed chain costs."""
    home = os.path.dirname(top)
    tip, alone = (os.path.join(home, x) for x in SCRATCH)
    size = make_chain.chains(1)[name].disk
    write_delta(tip, size, os.path.basename(top))
    write_delta(alone, size, None)
    time.sleep(SETTLED)
    warm([tip, alone])

    def build(image):
        if os.path.exists(sidecar_of(image)):
            os.unlink(sidecar_of(image))
        return m.run([m.tool("qchain-index"), "build", image], out=m.path(os.path.basename(image)))

    runs = m.alternate({"tip": lambda: build(tip), "alone": lambda: build(alone)})
    bar.raw.update(runs)
    ours, own = (median(runs[k], "seconds") for k in ("tip", "alone"))
    with open(m.path(os.path.basename(tip)), encoding="utf-8") as f:
        said = f.read()
    if " 1 layer read" not in said:
        raise Failed("the index below was not used: " + said)
    chain = m.answer([m.prog("ref_l2_pread"), top])["bytes"]
    bar.row("sidecar: build for a new tip of 64 MiB over %s: seconds" % name, ours, ours=secs(ours),
            peer="%d KiB of L2 tables, below it %d MiB" % (l2_bytes(tip) >> 10, chain >> 20))
    bar.row("sidecar: ... / build of the whole chain", ours / full, ours=secs(ours),
            peer=secs(full))
    bar.row("sidecar: ... / build of the same tip without a chain", ours / own, ours=secs(ours),
            peer=secs(own))
    must_be_used(m, tip)
    tool = [m.tool("qchain-map"), "--output=json", tip]
    m.run(tool, out=m.path("tip.json"))
    m.run(tool + ["--no-index"], out=m.path("bare.json"))
    same = load_map(m.path("tip.json")) == load_map(m.path("bare.json"))
    bar.row("sidecar: the tip's map is the same without one (1 = yes)", int(same), ">=", 1)


def sidecar(m, data, name):
    bar = Bar()
    top = data(name)
    warm(layer_files(top))
    try:
        runs = m.alternate({
            "map": lambda: m.run([m.tool("qchain-map"), "--no-index", "--output=json", top]),
            "build": lambda: m.run([m.tool("qchain-index"), "build", "--full", "-q", top])})
        bar.raw = dict(runs)
        bare, full = (median(runs[k], "seconds") for k in ("map", "build"))
        bar.row("sidecar: build for %s: time / map without one" % name, full / bare, "<=", 1.3,
                "%s, %d KiB" % (secs(full), os.path.getsize(sidecar_of(top)) >> 10), secs(bare))
        mapping(m, bar, name, top)
        new_tip(m, bar, name, top, full)
    finally:
        clean(top)
    return bar


BARS = {
    "sidecar-c100": lambda m, data: sidecar(m, data, "C100"),
    "sidecar-c1000": lambda m, data: sidecar(m, data, "C1000"),
}
