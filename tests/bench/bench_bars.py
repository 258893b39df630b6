# SPDX-License-Identifier: MIT
"""The bars: what is measured, against what, and what is required.

Each bar is a function of (Measure, data) that returns a Bar with its rows. data(name) is the name
of the top layer of a data set of make_chain.py, made at its first use.
"""

import json
import os
import re
import subprocess

from bench_measure import Failed, layer_files, median, peak, warm


class Bar:
    """Rows of one bar, times that go into the chart against qemu-img, and every single run."""

    def __init__(self):
        self.rows = []
        self.chart = []
        self.raw = {}

    def row(self, what, measured, op=None, limit=None, ours="", peer=""):
        """One line of the table; without op it is only told, not required."""
        passed = None
        if op == "<=":
            passed = measured <= limit
        elif op == ">=":
            passed = measured >= limit
        self.rows.append({"what": what, "measured": measured, "op": op, "limit": limit,
                          "ours": ours, "peer": peer, "pass": passed})

    def skip(self, what, why):
        """A line for what cannot be measured here."""
        self.rows.append({"what": what, "measured": None, "op": None, "limit": None, "ours": "",
                          "peer": "skipped: " + why, "pass": None})

    def against_qemu(self, what, ours, qemu):
        """Seconds of either, for the chart and a line of the table."""
        self.chart.append({"what": what, "ours": ours, "qemu": qemu})
        self.row(what + ": times faster than qemu-img", qemu / ours, ours=secs(ours),
                 peer=secs(qemu))


def secs(value):
    return "%.3f s" % value if value < 10 else "%.1f s" % value


def mib(value):
    return "%.1f MiB" % value


def rate(bytes_per_second):
    return "%.2f GB/s" % (bytes_per_second / 1e9)


def per_second(value):
    return "%.0f k/s" % (value / 1000)


# -------------------------------------------------------------------------------- map and open ---

def load_map(path):
    """A map as qemu-img prints it in JSON, neighbours that belong together made one."""
    with open(path, encoding="utf-8") as f:
        extents = json.load(f)
    merged = []
    for e in extents:
        kind = tuple(e.get(k) for k in ("depth", "present", "zero", "data"))
        host = e.get("offset")
        if merged:
            last = merged[-1]
            follows = host == (last[3] + last[1] if last[3] is not None else None)
            if last[0] + last[1] == e["start"] and last[2] == kind and follows:
                last[1] += e["length"]
                continue
        merged.append([e["start"], e["length"], kind, host])
    return merged


def map_chain(m, data, name, rss_limit, qemu_runs):
    bar = Bar()
    top = data(name)
    warm(layer_files(top))
    ours_map, qemu_map = m.path("ours.json"), m.path("qemu-%s.json" % name)
    mapped = [m.tool("qchain-map"), "--output=json", top]
    runs = m.alternate({"ours": lambda: m.run(mapped),
                        "preads": lambda: m.answer([m.prog("ref_l2_pread"), top])})
    bar.raw = dict(runs)
    ours = median(runs["ours"], "seconds")
    limit = median(runs["preads"], "seconds")
    moved = runs["preads"][0]["bytes"]
    bar.row("map %s: time / one thread's preads of %.0f MB of L2 tables" % (name, moved / 1e6),
            ours / limit, "<=", 1.0, secs(ours), secs(limit))
    rss = peak(runs["ours"], "rss_mib")
    m.run(mapped, out=ours_map)
    theirs = [m.run(["qemu-img", "map", "--output=json", top], out=qemu_map, many_files=True)
              for _ in range(qemu_runs)]
    m.keep("qemu-img map " + name, theirs[-1])
    bar.raw["qemu"] = theirs
    bar.row("map %s: peak memory, MiB" % name, rss, "<=", rss_limit, mib(rss),
            mib(peak(theirs, "rss_mib")))
    same = load_map(ours_map) == load_map(qemu_map)
    with open(ours_map, encoding="utf-8") as f:
        count = len(json.load(f))
    bar.row("map %s: the same map as qemu-img (1 = yes)" % name, int(same), ">=", 1,
            "%d extents" % count, "%d extents" % len(load_map(qemu_map)))
    bar.against_qemu("map " + name, ours, median(theirs, "seconds"))
    return bar


def map_c100(m, data):
    return map_chain(m, data, "C100", 64, min(m.runs, 3))


def map_c1000(m, data):
    return map_chain(m, data, "C1000", 128, 1)


def open_c1000(m, data):
    bar = Bar()
    top = data("C1000")
    warm(layer_files(top))
    ours = [m.answer([m.prog("bench_open"), top]) for _ in range(m.runs)]
    theirs = [m.run(["qemu-io", "-r", "-c", "quit", top], many_files=True)
              for _ in range(min(m.runs, 3))]
    bar.raw = {"ours": ours, "qemu": theirs}
    whole = median(ours, "run", "seconds")
    rss, their_rss = peak(ours, "run", "rss_mib"), peak(theirs, "rss_mib")
    bar.row("open and close C1000: seconds, the whole process", whole, "<=", 0.5, secs(whole),
            secs(median(theirs, "seconds")))
    bar.row("open C1000: peak memory, MiB", rss, "<=", 24, mib(rss), mib(their_rss))
    bar.against_qemu("open C1000", whole, median(theirs, "seconds"))
    return bar


# -------------------------------------------------------------------------------- random reads ---

def system_calls(m, argv):
    """How many system calls a program and its threads make."""
    out = m.path("strace")
    done = subprocess.run(["strace", "-f", "-c", "-o", out] + argv, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, encoding="utf-8", check=False)
    if done.returncode:
        raise Failed("strace: " + done.stderr.strip()[-300:])
    with open(out, encoding="utf-8") as f:
        total = [line for line in f if line.rstrip().endswith("total")]
    return int(re.split(r"\s+", total[-1].strip())[3])


def random_reads(m, data, name, depth):
    bar = Bar()
    top = data(name)
    warm(layer_files(top))
    places, few = m.path("places"), m.path("few")
    for path, reads in ((places, 250000), (few, 2000)):
        m.run([m.prog("bench_places"), path, str(reads), top])

    def reader(prog, threads):
        extra = [top] if prog == "bench_read" else []
        return lambda: m.answer([m.prog(prog), "--threads", threads, places] + extra)

    runs = m.alternate({"ref1": reader("ref_pread", "1"), "ours1": reader("bench_read", "1"),
                        "ref2": reader("ref_pread", "2"), "ours2": reader("bench_read", "2")})
    if len({r["sum"] for results in runs.values() for r in results}) != 1:
        raise Failed("bench_read and ref_pread read different bytes")
    bar.raw = runs
    speed = {k: median(v, "reads_per_second") for k, v in runs.items()}
    where = "random 4 KiB, depth %s: " % depth
    bar.row(where + "one thread / plain pread", speed["ours1"] / speed["ref1"], ">=", 0.85,
            per_second(speed["ours1"]), per_second(speed["ref1"]))
    bar.row(where + "two threads / one", speed["ours2"] / speed["ours1"], ">=", 1.7,
            per_second(speed["ours2"]), "pread: %s (%.2f)" % (per_second(speed["ref2"]),
                                                             speed["ref2"] / speed["ref1"]))
    once, more = (system_calls(m, [m.prog("bench_read"), "--passes", str(passes), few, top])
                  for passes in (1, 26))
    bar.row(where + "system calls a read", (more - once) / (25 * 2000), "<=", 1.01, "strace -f -c")
    return bar


def random_1(m, data):
    return random_reads(m, data, "D1", 1)


def random_1000(m, data):
    return random_reads(m, data, "C1000", 1000)


# ---------------------------------------------------------------------------- sequential reads ---

def to_null(top):
    """qemu-img reading a whole disk into nothing."""
    info = subprocess.run(["qemu-img", "info", "--output=json", top], stdout=subprocess.PIPE,
                          check=True, encoding="utf-8")
    size = json.loads(info.stdout)["virtual-size"]
    return ["qemu-img", "convert", "-n", "-W", "-m", "16", "--target-image-opts", top,
            "driver=null-co,size=%d" % size], size


def sequential(m, data, name, depth):
    bar = Bar()
    top = data(name)
    files = layer_files(top)
    warm(files)
    stored = sum(os.path.getsize(f) for f in files)
    convert, size = to_null(top)
    runs = m.alternate({
        "ours": lambda: m.run([m.tool("qchain-read"), top, "-"]),
        "cat": lambda: m.run(["cat"] + files),
        "library": lambda: m.answer([m.prog("bench_seq"), "--threads", "2", top])})
    speed = size / median(runs["ours"], "seconds")
    cat = stored / median(runs["cat"], "seconds")
    inside = size / median(runs["library"], "run", "seconds")
    where = "sequential read of %.1f GiB, depth %s: " % (size / 2**30, depth)
    bar.row(where + "qchain-read / cat of the layers", speed / cat, ">=", 0.9, rate(speed),
            rate(cat))
    bar.row(where + "qchain_copy_out, 2 threads / cat", inside / cat, ours=rate(inside),
            peer=rate(cat))
    theirs = [m.run(convert) for _ in range(min(m.runs, 3))]
    bar.raw = dict(runs, qemu=theirs)
    bar.against_qemu("read %s to nowhere" % name, size / inside, median(theirs, "seconds"))
    return bar


def seq_1(m, data):
    return sequential(m, data, "D1", 1)


def seq_100(m, data):
    return sequential(m, data, "D100", 100)


def compressed(m, data, name, builds):
    """builds: (directory of bench_seq, None or whether it must inflate with libdeflate)."""
    bar = Bar()
    top = data(name)
    warm(layer_files(top))
    convert, size = to_null(top)
    jobs = {"qemu": lambda: m.run(convert)}
    for home in builds:
        argv = [os.path.join(home, "bench_seq"), "--threads", "2", top]
        jobs[home] = lambda argv=argv: m.answer(argv)
    runs = m.alternate(jobs)
    bar.raw = runs
    theirs = median(runs["qemu"], "seconds")
    for home in builds:
        ours = median(runs[home], "run", "seconds")
        deflate = bool(runs[home][0]["libdeflate"])
        if name == "ZS":
            what, limit = "zstd", 1.15
        else:
            what, limit = ("zlib by libdeflate", 1.5) if deflate else ("zlib by zlib", 1.0)
        bar.row("compressed read, 2 threads, %s: speed / qemu-img convert" % what, theirs / ours,
                ">=", limit, rate(size / ours), rate(size / theirs))
        bar.chart.append({"what": "read " + what, "ours": ours, "qemu": theirs})
    return bar


BARS = {
    "map-c100": map_c100,
    "map-c1000": map_c1000,
    "open-c1000": open_c1000,
    "random-1": random_1,
    "random-1000": random_1000,
    "seq-1": seq_1,
    "seq-100": seq_100,
    "zlib": lambda m, data: compressed(m, data, "Z", [m.progs] + m.other_progs),
    "zstd": lambda m, data: compressed(m, data, "ZS", [m.progs]),
}
