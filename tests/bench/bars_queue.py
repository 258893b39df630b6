# SPDX-License-Identifier: MIT
"""The bars of queues: random reads of 4 KiB, 32 in flight, against fio and qemu-img bench.

One layer is measured against its own file: fio and qemu-img bench read the same pages, or the same
places of the medium, without a format between. A deep chain is measured against the same disk in
one layer, at the same places; what plain preads of either's files differ by is the kernel's share.
"""

import json
import os
import re
import shutil

from bench_bars import Bar, per_second
from bench_measure import Failed, drop, layer_files, median, warm

BLOCK = 4096
DEPTH = 32
BATCH = 8
PLACES, PASSES = 250000, 4              # warm: so many places, each so often
DIRECT_READS = 60000                    # from the medium
FIO_WARM, FIO_DIRECT = 0.85, 0.95       # of fio's reads a second
COLD_READS = 65536


def fio(m, path, reads, direct):
    """Reads a second of fio at random places of one file."""
    out = m.path("fio.json")
    size = os.path.getsize(path) // BLOCK * BLOCK
    m.run(["fio", "--name=read", "--filename=" + path, "--readonly", "--rw=randread", "--bs=4k",
           "--ioengine=io_uring", "--iodepth=%d" % DEPTH, "--iodepth_batch_submit=%d" % BATCH,
           "--iodepth_batch_complete_min=1", "--direct=%d" % direct, "--invalidate=0",
           "--gtod_reduce=1", "--norandommap", "--randrepeat=1", "--size=%d" % size,
           "--io_size=%d" % (reads * BLOCK), "--output-format=json", "--output=" + out])
    with open(out, encoding="utf-8") as f:
        text = f.read()
    read = json.loads(text[text.index("{"):])["jobs"][0]["read"]
    if read["total_ios"] < reads:
        raise Failed("fio did %d reads, not %d" % (read["total_ios"], reads))
    return {"reads_per_second": read["iops"]}


def qemu_bench(m, path, reads):
    """Of qemu-img bench: not at random, but with a step that leads all over the file."""
    out = m.path("qemu-bench")
    step = int(os.path.getsize(path) * 0.381966) // BLOCK * BLOCK | BLOCK
    m.run(["qemu-img", "bench", "-f", "raw", "-U", "-i", "io_uring", "-t", "writeback", "-d",
           str(DEPTH), "-s", str(BLOCK), "-S", str(step), "-c", str(reads), path], out=out)
    with open(out, encoding="utf-8") as f:
        seconds = re.search(r"Run completed in ([\d.]+) seconds", f.read())
    return {"reads_per_second": reads / float(seconds.group(1))}


def queue(m, places, top, passes, *more):
    # A device that takes its time is kept busiest by requests that are not held back.
    batch = 1 if "--direct" in more else BATCH
    return lambda: m.answer([m.prog("bench_queue"), "--depth", str(DEPTH), "--batch", str(batch),
                             "--passes", str(passes)] + list(more) + [places, top])


def preads(m, places):
    """The same reads without the library, one after the other."""
    return lambda: m.answer([m.prog("ref_pread"), "--passes", str(PASSES), places])


def choose(m, name, reads, top):
    path = m.path(name)
    m.run([m.prog("bench_places"), path, str(reads), top])
    return path


def speeds(bar, runs):
    """Medians; what was measured by turns is kept."""
    bar.raw.update(runs)
    return {k: median(v, "reads_per_second") for k, v in runs.items()}


def same_bytes(runs):
    sums = {r["sum"] for results in runs for r in results}
    if len(sums) != 1:
        raise Failed("the same places do not hold the same bytes: %s" % ", ".join(sorted(sums)))


def warm_one(m, bar, top, has_fio):
    """One layer in the page cache."""
    places = choose(m, "places", PLACES, top)
    warm(layer_files(top))
    reads = PLACES * PASSES
    jobs = {"qemu": lambda: qemu_bench(m, top, reads), "ours": queue(m, places, top, PASSES),
            "threads": queue(m, places, top, 1, "--engine", "threads"),
            "blocking": lambda: m.answer([m.prog("bench_read"), "--passes", str(PASSES), places,
                                          top])}
    if has_fio:
        jobs["fio"] = lambda: fio(m, top, reads, 0)
    runs = m.alternate(jobs)
    same_bytes([runs["ours"], runs["blocking"]])
    speed = speeds(bar, runs)
    what = "queue, depth 1, warm, 32 in flight"
    if has_fio:
        bar.row(what + ": / fio on its file", speed["ours"] / speed["fio"], ">=", FIO_WARM,
                per_second(speed["ours"]), per_second(speed["fio"]))
    bar.row(what + ": / qemu-img bench on its file", speed["ours"] / speed["qemu"], ">=", 1.0,
            per_second(speed["ours"]), per_second(speed["qemu"]))
    bar.row(what + ": / qchain_read, one after the other", speed["ours"] / speed["blocking"],
            ours=per_second(speed["ours"]), peer=per_second(speed["blocking"]))
    bar.row(what + ": threads engine / io_uring", speed["threads"] / speed["ours"],
            ours=per_second(speed["threads"]), peer=per_second(speed["ours"]))
    return speed


def flatten(m, top):
    """The same disk in one layer, in the scratch directory."""
    raw, flat = m.path("flat.raw"), m.path("flat.qcow2")
    m.run([m.tool("qchain-read"), top, raw])
    m.run(["qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=64k", raw,
           flat])
    os.unlink(raw)
    return flat


def warm_deep(m, bar, top, one):
    """A thousand layers in the page cache; one: speeds of one layer with other bytes."""
    flat = flatten(m, top)
    places = choose(m, "deep", PLACES, top)
    warm(layer_files(top))
    warm([flat])
    runs = m.alternate({
        "flat": queue(m, places, flat, PASSES), "deep": queue(m, places, top, PASSES),
        "flat preads": preads(m, choose(m, "flat", PLACES, flat)), "deep preads": preads(m, places)})
    os.unlink(flat)
    same_bytes(runs.values())
    speed = speeds(bar, runs)
    what = "queue, depth 1000, warm, 32 in flight"
    bar.row(what + ": / the same disk in one layer", speed["deep"] / speed["flat"], ">=", 0.9,
            per_second(speed["deep"]), per_second(speed["flat"]))
    bar.row(what + ": plain preads of its files / of one file", speed["deep preads"] /
            speed["flat preads"], ours=per_second(speed["deep preads"]),
            peer=per_second(speed["flat preads"]))
    bar.row(what + ": / plain preads of its files", speed["deep"] / speed["deep preads"],
            ours=per_second(speed["deep"]), peer=per_second(speed["deep preads"]))
    bar.row(what + ": / depth 1 with 4 GiB of data", speed["deep"] / one["ours"],
            ours=per_second(speed["deep"]), peer=per_second(one["ours"]))
    bar.row(what + ": / qemu-img bench on a raw file", speed["deep"] / one["qemu"], ">=", 1.0,
            per_second(speed["deep"]), per_second(one["qemu"]))


def direct_one(m, bar, top, has_fio):
    """One layer, past the page cache."""
    places = choose(m, "direct", DIRECT_READS, top)
    drop(layer_files(top))
    jobs = {"ours": queue(m, places, top, 1, "--direct", "1")}
    if has_fio:
        jobs["fio"] = lambda: fio(m, top, DIRECT_READS, 1)
    runs = m.alternate(jobs)
    speed = speeds(bar, {"direct " + k: v for k, v in runs.items()})
    what = "queue, depth 1, O_DIRECT, 32 in flight"
    if has_fio:
        bar.row(what + ": / fio on its file", speed["direct ours"] / speed["direct fio"], ">=",
                FIO_DIRECT, per_second(speed["direct ours"]), per_second(speed["direct fio"]))
    else:
        bar.row(what + ": reads a second", speed["direct ours"])


def cold(m, bar, name, top):
    """Files in the page cache, the index empty: what filling it costs at random."""
    warm(layer_files(top))

    def bench(*more):
        argv = [m.tool("qchain-bench"), "--output=json", "--no-index", "--random", "-d", str(DEPTH),
                "-c", str(COLD_READS)]
        return lambda: m.answer(argv + list(more) + [top])

    runs = m.alternate({"cold": bench(), "warm": bench("--warm")})
    bar.raw.update({name + " " + k: v for k, v in runs.items()})
    first, then = (median(runs[k], "seconds") for k in ("cold", "warm"))
    bar.row("queue, %s, index cold: ms longer for %d random reads of the disk" % (name, COLD_READS),
            (first - then) * 1000, ours="%.1f ms" % (first * 1000),
            peer="warm: %.1f ms" % (then * 1000))


def queue_random(m, data):
    bar = Bar()
    has_fio = shutil.which("fio") is not None
    if not has_fio:
        bar.skip("queue, depth 1: / fio on its file", "fio is not installed (Debian: fio)")
    one, deep = data("D1"), data("C1000")
    speed = warm_one(m, bar, one, has_fio)
    cold(m, bar, "depth 1", one)
    warm_deep(m, bar, deep, speed)
    cold(m, bar, "depth 1000", deep)
    direct_one(m, bar, one, has_fio)
    return bar


BARS = {"queue-random": queue_random}
