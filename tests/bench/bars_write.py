# SPDX-License-Identifier: MIT
"""The bars of writing: a writable top layer against qemu-img bench, and against a raw file by the same queue.

Each run begins with an image of its own, made anew or brought into the same state, whose pages are not in the
page cache: how fast a page is overwritten depends on how it got there.
"""

import os
import re
import subprocess

from bench_bars import Bar, per_second, rate, secs
from bench_measure import Failed, drop, median, warm

BLOCK, DEPTH = 4096, 32
CLUSTER = 65536
WRITES = 60000
ALLOCATED = 2 << 30                     # bytes of the images that are overwritten
DISK = 64 << 30                         # of those that grow
SPREAD = 8192                           # writes of the disk of 1 TiB, one each 128 MiB
FILL = 4 << 30
COMPRESS = 1 << 30
MODES = (("none", 1), ("writeback", 0))


def step_of(size, unit):
    """A step that leads all over the disk, and comes to every place; qemu-img takes none of 2 GiB."""
    return int(min(size, 1 << 31) * 0.381966) // unit * unit | unit


def qemu_bench(m, path, fmt, writes, size, step, cache):
    """qemu-img bench by the engine that is its faster one here."""
    out = m.path("qemu-bench")
    engine = "native" if cache == "none" else "threads"
    m.run(["qemu-img", "bench", "-w", "-f", fmt, "-i", engine, "-t", cache, "-d", str(DEPTH), "-s", str(size),
           "-S", str(step), "-c", str(writes), path], out=out)
    with open(out, encoding="utf-8") as f:
        seconds = re.search(r"Run completed in ([\d.]+) seconds", f.read())
    return {"seconds": float(seconds.group(1))}


def ours(m, path, writes, size, step, direct, *more, fmt="qcow2"):
    return m.answer([m.prog("bench_write"), "--count", str(writes), "--depth", str(DEPTH), "--size", str(size),
                     "--step", str(step), "--direct", str(direct), "--format", fmt] + list(more) + [path])


def qemu_img(*argv):
    done = subprocess.run(["qemu-img"] + list(argv), capture_output=True, check=False, encoding="utf-8")
    if done.returncode:
        raise Failed("qemu-img %s: %s" % (argv[0], done.stderr.strip()))


def create(path, size, *options, backing=None, fmt="qcow2"):
    if os.path.exists(path):
        os.unlink(path)
    more = ["-b", backing, "-F", "qcow2"] if backing else []
    more += ["-o", ",".join(options)] if options else []
    qemu_img("create", "-q", "-f", fmt, *more, path, str(size))


def fill(path, size, fmt="qcow2"):
    """Data in every cluster, written in order."""
    qemu_img("bench", "-w", "-f", fmt, "-t", "none", "-i", "native", "-d", "8", "-s", str(1 << 20), "-c",
             str(size >> 20), path)


def sound(path):
    """Whatever was measured, the image is right."""
    qemu_img("check", "-q", path)


def speeds(bar, what, runs, writes):
    bar.raw.update({what + " " + k: v for k, v in runs.items()})
    return {k: writes / median(v, "seconds") for k, v in runs.items()}


def against(bar, what, speed, least, peer="qemu"):
    bar.row(what, speed["ours"] / speed[peer], ">=", least, per_second(speed["ours"]), per_second(speed[peer]))


def overwrite(m, _):
    """Random writes to clusters that are there."""
    bar = Bar()
    image, raw = m.path("full.qcow2"), m.path("full.raw")
    create(image, ALLOCATED)
    fill(image, ALLOCATED)
    create(raw, ALLOCATED, fmt="raw")
    fill(raw, ALLOCATED, fmt="raw")
    step = step_of(ALLOCATED, BLOCK)
    for cache, direct in MODES:
        def cold(job):
            def run():
                drop([image, raw])
                return job()
            return run
        runs = m.alternate({
            "ours": cold(lambda: ours(m, image, WRITES, BLOCK, step, direct)),
            "raw": cold(lambda: ours(m, raw, WRITES, BLOCK, step, direct, fmt="raw")),
            "qemu": cold(lambda: qemu_bench(m, image, "qcow2", WRITES, BLOCK, step, cache))})
        what = "4 KiB random writes, allocated, 32 in flight, %s" % cache
        speed = speeds(bar, what, runs, WRITES)
        against(bar, what + ": / raw file by the same queue", speed, 0.95, "raw")
        against(bar, what + ": / qemu-img bench", speed, 1.0)
    sound(image)
    os.unlink(image)
    os.unlink(raw)
    return bar


def first_writes(m, _):
    """Writes into clusters that are not there yet."""
    bar = Bar()
    image = m.path("grow.qcow2")
    step = step_of(DISK, CLUSTER)

    def new(job, *options):
        def run():
            create(image, DISK, *options)
            os.sync()   # what the run before left to be written would hold this one up
            result = job()
            sound(image)
            return result
        return run

    for options, least in (((), {"none": 3.0, "writeback": 2.0}),
                           (("extended_l2=on",), {"none": 1.0, "writeback": 1.0})):
        for cache, direct in MODES:
            runs = m.alternate({
                "ours": new(lambda: ours(m, image, WRITES, BLOCK, step, direct), *options),
                "qemu": new(lambda: qemu_bench(m, image, "qcow2", WRITES, BLOCK, step, cache), *options)})
            what = "4 KiB writes into empty clusters, 32 in flight, %s%s" % (
                cache, ", extended L2" if options else "")
            against(bar, what + ": / qemu-img bench", speeds(bar, what, runs, WRITES), least[cache])
    os.unlink(image)
    return bar


def make_below(m, depth):
    """The files of a chain of `depth` layers that together hold all of the disk, the base first."""
    below, files = None, []
    for k in range(depth):
        path = m.path("cow-%d-%d.qcow2" % (depth, k))
        create(path, ALLOCATED, backing=below)
        if k == 0:
            fill(path, ALLOCATED)
        else:
            subprocess.run(["qemu-io", "-f", "qcow2"] + [
                x for i in range(20) for x in ("-c", "write -q -P %d %d 64k" % (
                    k, (k * 7919 + i * 1543) % (ALLOCATED >> 16) << 16))] + [path],
                stdout=subprocess.DEVNULL, check=True)
        below = path
        files.append(path)
    return files


def copy_on_write(m, _):
    """Small writes over layers that hold the rest of the cluster."""
    bar = Bar()
    writes = min(WRITES // 2, ALLOCATED // CLUSTER)
    step = step_of(ALLOCATED, CLUSTER)
    speed = {}
    for depth, least in ((1, 1.5), (100, 4.0)):
        below = make_below(m, depth)
        warm(below)
        for options in ((), ("extended_l2=on",)):
            top = m.path("cow-top.qcow2")

            def new(job, options=options, below=below, top=top):
                def run():
                    create(top, ALLOCATED, *options, backing=below[-1])
                    os.sync() # nothing is left to be written of what ran before
                    result = job()
                    sound(top)
                    return result
                return run
            runs = m.alternate({
                "ours": new(lambda top=top: ours(m, top, writes, BLOCK, step, 0)),
                "qemu": new(lambda top=top: qemu_bench(m, top, "qcow2", writes, BLOCK, step, "writeback"))})
            what = "4 KiB writes over %d layer%s, writeback%s" % (
                depth, "s" if depth > 1 else "", ", extended L2" if options else "")
            found = speeds(bar, what, runs, writes)
            against(bar, what + ": / qemu-img bench", found, 1.0 if options else least)
            if not options:
                speed[depth] = found["ours"]
    bar.row("4 KiB writes over 100 layers: / over 1", speed[100] / speed[1], ">=", 0.8,
            per_second(speed[100]), per_second(speed[1]))
    return bar


def fsyncs_of(m, argv):
    """How many calls make data durable."""
    log = m.path("strace")
    m.run(["strace", "-f", "-c", "-o", log, "-e", "trace=fsync,fdatasync,io_uring_enter"] + argv)
    with open(log, encoding="utf-8") as f:
        return sum(int(line.split()[3]) for line in f if re.search(r"\bf(data)?sync$", line))


def syncs(m, _):
    """Calls of fsync, not seconds."""
    bar = Bar()
    image = m.path("spread.qcow2")
    create(image, 1 << 40)
    argv = [m.prog("bench_write"), "--count", str(SPREAD), "--step", str(128 << 20)]
    ours_n = fsyncs_of(m, argv + [image])
    sound(image)
    create(image, 1 << 40)
    qemu_n = fsyncs_of(m, ["qemu-img", "bench", "-w", "-f", "qcow2", "-t", "writeback", "-d", "32", "-s", "4096",
                           "-S", str(128 << 20), "-c", str(SPREAD), image])
    bar.row("fsyncs: 8192 writes, one each 128 MiB of 1 TiB, the closing flush (at most 4) with them", ours_n, "<=",
            8 + 4, str(ours_n), str(qemu_n))
    os.unlink(image)
    return bar


def sequential(m, _):
    """A new image filled from its beginning to its end."""
    bar = Bar()
    image = m.path("fill.qcow2")
    count = FILL >> 20

    def new(job):
        def run():
            create(image, FILL)
            result = job()
            sound(image)
            return result
        return run

    for cache, direct in MODES:
        runs = m.alternate({
            "ours": new(lambda: ours(m, image, count, 1 << 20, 1 << 20, direct)),
            "qemu": new(lambda: qemu_bench(m, image, "qcow2", count, 1 << 20, 1 << 20, cache))})
        what = "sequential fill of 4 GiB by 1 MiB, %s" % cache
        bar.raw.update({what + " " + k: v for k, v in runs.items()})
        s = {k: FILL / median(v, "seconds") for k, v in runs.items()}
        bar.row(what + ": / qemu-img bench", s["ours"] / s["qemu"], ">=", 1.0, rate(s["ours"]), rate(s["qemu"]))
    os.unlink(image)
    return bar


def make_compressible(path, size):
    """Bytes that compress as files do: words in a random order."""
    import random
    rng = random.Random("words")
    words = [bytes(rng.randrange(97, 123) for _ in range(rng.randrange(3, 10))) + b" " for _ in range(4000)]
    piece = b"".join(rng.choice(words) for _ in range(1 << 17))
    with open(path, "wb") as f:
        while f.tell() < size:
            at = rng.randrange(len(piece) - (1 << 17))
            f.write(piece[at:at + (1 << 17)])
        f.truncate(size)


def compressed(m, _):
    """Whole images of compressed clusters, on two threads."""
    bar = Bar()
    raw, image = m.path("words.raw"), m.path("words.qcow2")
    make_compressible(raw, COMPRESS)
    for kind, least in (("zlib", 1.0), ("zstd", 1.2)):
        def qemu(kind=kind):
            if os.path.exists(image):
                os.unlink(image)
            report = m.run(["qemu-img", "convert", "-c", "-W", "-m", "16", "-f", "raw", "-O", "qcow2", "-o",
                            "compression_type=" + kind, raw, image])
            return {"seconds": report["seconds"], "bytes": os.path.getsize(image)}

        def mine(kind=kind):
            create(image, COMPRESS, "compression_type=" + kind)
            result = ours(m, image, 1, 1 << 22, 1 << 22, 0, "--op", "compressed", "--from", raw)
            result["bytes"] = os.path.getsize(image)
            sound(image)
            return {"seconds": result["run"]["seconds"], "bytes": result["bytes"]}
        runs = m.alternate({"ours": mine, "qemu": qemu})
        bar.raw.update({kind + " " + k: v for k, v in runs.items()})
        s = {k: median(v, "seconds") for k, v in runs.items()}
        b = {k: median(v, "bytes") for k, v in runs.items()}
        bar.row("writing compressed, %s: times faster than qemu-img convert -c -W -m 16" % kind,
                s["qemu"] / s["ours"], ">=", least, secs(s["ours"]), secs(s["qemu"]))
        bar.row("writing compressed, %s: bytes / those of qemu-img" % kind, b["ours"] / b["qemu"], "<=", 1.02,
                "%d MiB" % (int(b["ours"]) >> 20), "%d MiB" % (int(b["qemu"]) >> 20))
    os.unlink(raw)
    os.unlink(image)
    return bar


def metadata(m, _):
    """Snapshots and checks of images with much metadata."""
    bar = Bar()
    image = m.path("meta.qcow2")
    for size, name, least in ((100 << 30, "100 GiB", 2.0), (1 << 40, "1 TiB", 20.0)):
        create(image, size, "preallocation=metadata")

        def step(tool, *argv):
            return lambda: m.run([tool] + list(argv) + [image])
        runs = {"ours": {}, "qemu": {}}
        for i in range(m.runs):
            for who in (("ours", "qemu") if i % 2 == 0 else ("qemu", "ours")):
                tool = [m.tool("qchain-snapshot")] if who == "ours" else ["qemu-img", "snapshot"]
                for what, args in (("create", ["-c", "s"]), ("apply", ["-a", "s"]), ("delete", ["-d", "s"])):
                    drop([image])
                    runs[who].setdefault(what, []).append(m.run(tool + args + [image]))
        for what in ("create", "apply", "delete"):
            bar.raw["%s %s" % (name, what)] = {who: runs[who][what] for who in runs}
            s = {who: median(runs[who][what], "seconds") for who in runs}
            bar.row("snapshot %s, %s of metadata: times faster than qemu-img" % (what, name), s["qemu"] / s["ours"],
                    ">=", least, secs(s["ours"]), secs(s["qemu"]))
        if size == 1 << 40:
            runs = m.alternate({"ours": step(m.tool("qchain-check")), "qemu": step("qemu-img", "check")})
            bar.raw["check"] = runs
            s = {k: median(v, "seconds") for k, v in runs.items()}
            rss = {k: median(v, "rss_mib") for k, v in runs.items()}
            bar.row("check of 1 TiB of metadata: times faster than qemu-img", s["qemu"] / s["ours"], ">=", 3.0,
                    "%s, %.0f MiB" % (secs(s["ours"]), rss["ours"]), "%s, %.0f MiB" % (secs(s["qemu"]), rss["qemu"]))
    os.unlink(image)
    return bar


BARS = {"write-allocated": overwrite, "write-first": first_writes, "write-cow": copy_on_write,
        "write-syncs": syncs, "write-fill": sequential, "write-compressed": compressed,
        "write-metadata": metadata}
