#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""qchain bench against qemu-img bench, and what only ours has: where it reads, and what it counts."""
import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

import interop_lib as lib
from interop_lib import Mismatch

MIB = 1 << 20
SIZE = 16 * MIB
OFTEN = ["-c", "3"]

# Called alike both say the same on standard output, and exit alike.
ALIKE = [
    ["-c", "10", "a.qcow2"], ["-c", "10", "-q", "a.qcow2"], ["-c", "0", "a.qcow2"],
    ["-c", "0x10", "a.qcow2"], ["-c", " 5", "a.qcow2"], ["a.qcow2"], ["-c", "10", "top.qcow2"],
    OFTEN + ["-d", "1", "a.qcow2"], OFTEN + ["-d", "100000", "a.qcow2"],
    OFTEN + ["-s", "511", "a.qcow2"], OFTEN + ["-s", "0", "a.qcow2"],
    ["-c", "2", "-d", "1", "-s", "16M", "a.qcow2"], OFTEN + ["-s", "5000", "-o", "4095", "a.qcow2"],
    OFTEN + ["-S", "0", "a.qcow2"], OFTEN + ["-S", "12345", "a.qcow2"],
    OFTEN + ["-o", "1M", "a.qcow2"], OFTEN + ["-o", "16773120", "a.qcow2"],
    OFTEN + ["-i", "threads", "a.qcow2"], OFTEN + ["-i", "io_uring", "a.qcow2"],
    OFTEN + ["-t", "writethrough", "a.qcow2"], OFTEN + ["-t", "unsafe", "a.qcow2"],
    OFTEN + ["-t", "none", "a.qcow2"], OFTEN + ["-t", "directsync", "-n", "a.qcow2"],
    OFTEN + ["-t", "off", "-i", "native", "a.qcow2"],
    OFTEN + ["--pattern", "5", "a.qcow2"], OFTEN + ["--no-drain", "a.qcow2"],
    OFTEN + ["-U", "a.qcow2"], OFTEN + ["-f", "raw", "odd.raw"],
    OFTEN + ["--image-opts", "driver=qcow2,file.filename=a.qcow2"],
    # requests beyond the end
    OFTEN + ["-S", "2147483647", "a.qcow2"], OFTEN + ["-o", "16M", "a.qcow2"],
    OFTEN + ["-o", "20M", "a.qcow2"], ["-c", "300", "-f", "raw", "odd.raw"],
    OFTEN + ["-f", "raw", "small.raw"],
    OFTEN + ["nothing-here.qcow2"], OFTEN + ["-f", "bogus", "a.qcow2"],
]

# These also complain in the same words.
SAME_WORDS = [
    ["-c", "-1", "a.qcow2"], ["-c", "x", "a.qcow2"], ["-c", "1k", "a.qcow2"], ["-c", "", "a.qcow2"],
    ["-c", "2147483648", "a.qcow2"], ["-d", "x", "a.qcow2"], ["-d", "1k", "a.qcow2"],
    ["-d", "", "a.qcow2"], ["-s", "x", "a.qcow2"], ["-s", "3G", "a.qcow2"],
    ["-s", "2147483648", "a.qcow2"], ["-S", "x", "a.qcow2"], ["-S", "3G", "a.qcow2"],
    ["-o", "x", "a.qcow2"], ["-o", "-1", "a.qcow2"], ["-i", "foo", "a.qcow2"],
    ["-t", "bogus", "a.qcow2"], ["--pattern", "256", "a.qcow2"], ["--pattern", "x", "a.qcow2"],
    ["--flush-interval", "5", "a.qcow2"], ["--flush-interval", "x", "a.qcow2"],
    ["--flush-interval", "-1", "-w", "a.qcow2"],
    ["--image-opts", "-f", "qcow2", "driver=qcow2,file.filename=a.qcow2"],
    [], ["a", "b"], ["--bogus", "a.qcow2"], ["-c"],
]

# Both write the same, each to an image of its own; and say the same.
WRITING = [
    ["-c", "10"], ["-c", "1000", "-d", "7"], ["-c", "9", "-s", "5000", "-o", "4095"],
    ["-c", "30", "-s", "64k", "-S", "100k", "--pattern", "7"], ["-c", "64", "-t", "none", "--pattern", "0xff"],
    ["-c", "40", "-t", "writethrough", "-d", "3"], ["-c", "40", "-t", "directsync"], ["-c", "40", "-t", "unsafe"],
    ["-c", "50", "-d", "4", "--flush-interval", "5"], ["-c", "51", "-d", "4", "--flush-interval", "4", "--no-drain"],
    ["-c", "51", "-d", "4", "--flush-interval", "100"], ["-c", "50", "--flush-interval", "0"],
    ["-c", "0", "-d", "1", "--flush-interval", "5"], ["-c", "5", "-d", "4", "--flush-interval", "3"],
    ["-c", "3", "-s", "8k", "-o", "16773120"], ["-c", "3", "-U"], ["-c", "20", "-i", "threads", "-d", "2"],
]

# qemu-img crashes, never ends or knows nothing of these.
REFUSED = [
    (["-c", "3", "none.qcow2"], "the disk has no bytes to read"),
    (["-d", "0", "a.qcow2"], "Invalid queue depth specified"),
    (["-d", "32769", "a.qcow2"], "between 1 and 32768"),
    (["-w", "-c", "3", "none.qcow2"], "the disk has no bytes to write"),
    (["-w", "--blocking", "--flush-interval", "3", "-U", "a.qcow2"], "force-share=on can only be used"),
    (["--time", "0", "a.qcow2"], "Invalid time"), (["--time", "x", "a.qcow2"], "Invalid time"),
    (["--time", "inf", "a.qcow2"], "Invalid time"), (["--time", "-1", "a.qcow2"], "Invalid time"),
    (["--time", "1", "-c", "1", "a.qcow2"], "mutually exclusive"),
    (["--batch", "0", "a.qcow2"], "Invalid batch"), (["--seed", "x", "a.qcow2"], "Invalid seed"),
    (["--threads", "0", "a.qcow2"], "Invalid number of threads"),
    (["--output=xml", "a.qcow2"], "--output must be used with"),
    (["--random", "-s", "0", "a.qcow2"], "a buffer size above 0"),
    (["--allocated", "-s", "2M", "a.qcow2"], "no stored bytes for requests"),
    (["--allocated", "-o", "6M", "a.qcow2"], "no stored bytes for requests"),
]


def make_images(runner):
    runner.run(["qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", str(SIZE)])
    runner.run(["qemu-io", "-c", "write -P 1 4M 1M", "-c", "write -z 5M 1M", "a.qcow2"])
    runner.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", "a.qcow2", "-F", "qcow2",
                "top.qcow2"])
    runner.run(["qemu-io", "-c", "write -P 2 5M 64k", "-c", "write -P 3 12M 68k", "top.qcow2"])
    runner.run(["qemu-img", "create", "-q", "-f", "qcow2", "none.qcow2", "0"])
    for name, size in (("odd.raw", 1000000), ("small.raw", 1000)):
        with open(os.path.join(runner.cwd, name), "wb") as f:
            f.truncate(size)
    # the one L2 table's offset is no multiple of a cluster: every read fails
    shutil.copy(os.path.join(runner.cwd, "a.qcow2"), os.path.join(runner.cwd, "broken.qcow2"))
    with open(os.path.join(runner.cwd, "broken.qcow2"), "r+b") as f:
        f.seek(40)
        table = int.from_bytes(f.read(8), "big")
        f.seek(table)
        f.write((1 << 63 | 0x40200).to_bytes(8, "big"))


class Bench:
    def __init__(self, qchain, runner):
        self.qchain = qchain
        self.runner = runner

    def ours(self, *args, **how):
        how.setdefault("ok", None)
        status, out, err = self.runner.run([self.qchain, "bench", *args], **how)
        return status, out.decode(), err

    def json(self, *args):
        """What it prints as JSON, and the statistics; it must succeed."""
        status, out, err = self.ours("--output=json", "--stats=json", *args)
        if status != 0:
            raise Mismatch(f"{args}: exit {status}: {err}")
        return json.loads(out), json.loads(err)


def expect(ok, what):
    if not ok:
        raise Mismatch(what)


def timeless(text):
    """The lines without what the clock says."""
    return re.sub(r"(?m)^Run completed in \d+\.\d{3} seconds\.$", "Run completed", text)


def check_alike(b):
    for args in ALIKE + SAME_WORDS:
        status, out, err = b.ours(*args)
        want, their_out, their_err = b.runner.run(["qemu-img", "bench", *args], ok=None)
        both = f"{args}\n  qchain   {status} {out!r} {err!r}\n  qemu-img {want} {their_out!r} " \
               f"{their_err!r}"
        expect(status == want, f"exit codes differ: {both}")
        expect(timeless(out) == timeless(their_out.decode()), f"outputs differ: {both}")
        expect(bool(err) == bool(their_err), f"one complains: {both}")
        if args in SAME_WORDS:
            expect(err == their_err.replace("qemu-img", "qchain-bench"), f"other words: {both}")
        elif their_err.startswith("qemu-img: Failed request: "):
            expect(err.startswith("qchain-bench: Failed request: "), f"other words: {both}")
    return len(ALIKE + SAME_WORDS)


def check_writes(b):
    for args in WRITING:
        said = {}
        for who in ("qchain", "qemu-img"):
            b.runner.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", "a.qcow2", "-F", "qcow2", f"w-{who}.qcow2"])
            tool = [b.qchain] if who == "qchain" else ["qemu-img"]
            status, out, err = b.runner.run([*tool, "bench", "-w", "-f", "qcow2", *args, f"w-{who}.qcow2"], ok=None)
            said[who] = status, timeless(out.decode()), bool(err)
            b.runner.run(["qemu-img", "check", "-q", f"w-{who}.qcow2"])
        expect(said["qchain"] == said["qemu-img"], f"{args}: {said}")
        b.runner.run(["qemu-img", "compare", "-q", "w-qchain.qcow2", "w-qemu-img.qcow2"])
    return len(WRITING) + check_flushes(b)


def check_flushes(b):
    """So many flushes as there are full intervals, and one for the rest."""
    b.runner.run(["qemu-img", "create", "-q", "-f", "qcow2", "w.qcow2", str(SIZE)])
    cases = [(["-c", "100", "-d", "8"], 10, 10), (["-c", "101", "-d", "8"], 10, 11), (["-c", "5", "-d", "8"], 10, 1),
             (["-c", "100", "--blocking"], 7, 15), (["-c", "60", "-d", "5", "--threads", "3"], 5, 12),
             (["-c", "100", "-d", "8", "--no-drain"], 10, 10)]
    for args, interval, want in cases:
        said, stats = b.json("-w", "--pattern", "9", "--flush-interval", str(interval), *args, "w.qcow2")
        expect((said["write"], said["pattern"], said["flush-interval"], said["flushes"]) == (True, 9, interval, want)
               and said["requests"] == said["count"] and said["failed"] == 0, f"{args}: {said} {stats}")
    return len(cases)


def check_help(b):
    status, out, _ = b.ours("--help")
    lines = out.splitlines()
    expect(status == 0 and 10 < len(lines) <= 24 and max(map(len, lines)) <= 80, f"help: {out}")
    link = b.runner.run([b.qchain + "-bench", "--help"])[1].decode()
    expect(link == out, f"qchain-bench is not qchain bench: {link}")
    return 1


def check_refused(b):
    for args, words in REFUSED:
        status, out, err = b.ours(*args)
        expect(status == 1 and not out and words in err, f"{args}: {status} {out!r} {err!r}")
    return len(REFUSED)


def counted(stats, what, want, several):
    """Statistics are exact while one thread works; of several they may lose a little."""
    return 0 < stats[what] <= want if several else stats[what] == want


def check_counts(b):
    """As many requests as were asked for, however they are sent."""
    ways = [[], ["-d", "1"], ["-d", "1000"], ["--batch", "1"], ["--batch", "8"],
            ["--threads", "3"], ["--threads", "5", "-d", "7"], ["--random"], ["-i", "threads"],
            ["--random", "--allocated", "--threads", "2"], ["--latency"], ["-t", "none"],
            ["--warm"], ["-s", "100k", "-S", "1000"], ["--no-index"]]
    for way in ways:
        for count in (1, 2, 997):
            said, stats = b.json(*way, "-c", str(count), "top.qcow2")
            expect(said["requests"] == said["count"] == count and said["failed"] == 0
                   and counted(stats, "queue-requests", count, "--threads" in way),
                   f"{way} {count}: {said} {stats}")
    said, stats = b.json("--blocking", "--threads", "3", "-c", "100", "top.qcow2")
    expect((said["engine"], said["requests"], stats["queue-requests"]) == ("blocking", 100, 0)
           and counted(stats, "reads", 100, True), f"--blocking: {said} {stats}")
    said, stats = b.json("-i", "threads", "-c", "100", "--allocated", "top.qcow2")
    expect(said["engine"] == "threads" and stats["queue-uring"] == 0
           and counted(stats, "queue-leaf", 100, True), f"-i threads: {said} {stats}")
    _, out, err = b.ours("--stats", "-c", "5", "top.qcow2")
    expect("queue-requests: 5\n" in err, f"--stats as text: {out} {err}")
    return len(ways) * 3 + 3


def check_allocated(b):
    """Stored bytes only: 4M to 5M + 64k and two clusters at 12M, where a request fits."""
    cases = [([], 256 + 16 + 32), (["-s", "64k"], 17 + 2), (["-s", "128k"], 8 + 1),
             (["-s", "4k", "-S", "1M"], 2 + 1), (["-o", "4097k"], 255 + 16 + 32),
             (["-o", "5M"], 16 + 32), (["-o", "12M"], 32), (["-s", "1088k", "-S", "512"], 1)]
    for args, places in cases:
        for way in ([], ["--random"]):
            said, stats = b.json("--allocated", *args, *way, "-c", "300", "top.qcow2")
            moved = 300 * said["buffer-size"]
            expect(said["places"] == places, f"{args}: {said['places']} places, not {places}")
            expect(stats["store-bytes"] == moved, f"{args} {way}: read {stats}, not {moved}")
    _, stats = b.json("-o", "7M", "-c", "300", "top.qcow2")
    expect(stats["store-bytes"] == 0, f"zeros are not read: {stats}")
    return len(cases) * 2 + 1


def traced(b, calls, *args):
    """The system calls of a run, a line each."""
    trace = os.path.join(b.runner.cwd, "trace")
    b.runner.run(["strace", "-f", "-e", "trace=" + calls, "-o", trace, b.qchain, "bench", *args],
                 env={"ASAN_OPTIONS": "detect_leaks=0"})
    with open(trace, encoding="utf-8", errors="replace") as f:
        return f.read().splitlines()


def places_read(b, *args):
    """Where the reads of a raw image went, as the kernel saw it."""
    lines = traced(b, "pread64", "--blocking", "-f", "raw", *args, "odd.raw")
    found = re.findall(r"(?:pread64\(\d+, |pread64 resumed>).*, 4096, (\d+)\)\s+= \d+",
                       "\n".join(lines))
    return [int(x) for x in found]


def check_places(b):
    """One after the other, around the end of the disk, in shares, and at random."""
    if shutil.which("strace") is None:
        print("bench: without strace it is not seen where requests go")
        return 0
    end = 1000448
    want = [(512 + i * 99328) % end for i in range(23) if (512 + i * 99328) % end <= end - 4096]
    expect(places_read(b, "-c", "10", "-o", "512", "-S", "99328") == want[:10], "sequential places")
    # around the end: the places of a step that divides the disk into whole requests
    got = places_read(b, "-c", "20", "-S", "250112")
    expect(got == [i % 4 * 250112 for i in range(20)], f"around the end: {got}")
    got = places_read(b, "-c", "50", "--threads", "3", "-S", "8k")
    expect(sorted(got) == [i * 8192 for i in range(50)], f"three threads: {got}")
    runs = [places_read(b, "-c", "200", "--random", "--seed", seed, "-S", "512", "-o", "100k")
            for seed in ("7", "7", "8")]
    expect(runs[0] == runs[1] and runs[0] != runs[2], "the seed decides")
    expect(len(runs[0]) == 200 and all(x % 512 == 0 and 102400 <= x <= end - 4096 for x in runs[0])
           and len(set(runs[0])) > 150 and max(runs[0]) > end // 2, f"random places: {runs[0]}")
    got = places_read(b, "-c", "50", "--random", "--threads", "2")
    expect(len(got) == 50 and all(x % 4096 == 0 for x in got) and len(set(got)) > 35,
           f"random places of two threads: {got}")
    return 6


def check_calls(b):
    """The cache mode reaches the files, and a batch is handed over at once."""
    if shutil.which("strace") is None:
        return 0
    for cache, direct in (("none", 1), ("off", 1), ("directsync", 1), ("writeback", 0),
                          ("unsafe", 0)):
        lines = traced(b, "openat,fcntl", "-t", cache, "-c", "3", "a.qcow2")
        expect(any("O_DIRECT" in x and "O_DIRECTORY" not in x for x in lines) == direct,
               f"-t {cache}: {lines}")
    if b.json("-c", "1", "a.qcow2")[0]["engine"] != "io_uring":
        print("bench: without io_uring batches are not seen")
        return 5
    calls = [len(traced(b, "io_uring_enter", "--allocated", "-c", "640", "--batch", n, "a.qcow2"))
             for n in ("1", "8")]
    expect(calls[0] >= 640 and calls[1] < calls[0] / 4, f"batches: {calls} system calls")
    return 6


def check_failures(b):
    """All requests are tried; those that fail are counted."""
    for way in ([], ["--blocking"], ["-i", "threads"], ["--threads", "3"], ["--latency"]):
        status, out, err = b.ours(*way, "-c", "20", "broken.qcow2")
        expect(status == 1 and "Failed request: " in err and "20 of 20 requests failed" in err
               and "completed" not in out, f"{way}: {status} {out!r} {err!r}")
        status, out, err = b.ours(*way, "-c", "9", "-s", "8k", "-S", "4k", "-o", "16773120",
                                  "--output=json", "a.qcow2")
        said = json.loads(out)
        expect(status == 1 and said["failed"] == 1 and said["requests"] == 9
               and "1 of 9 requests failed" in err, f"{way}: {status} {out!r} {err!r}")
    status, _, err = b.ours("--warm", "broken.qcow2")
    expect(status == 1 and err, f"--warm of a broken image: {status} {err!r}")
    status, out, err = b.ours("--time", "0.1", "-o", "20M", "--random", "a.qcow2")
    expect(status == 1 and "requests failed" in err, f"no place at all: {status} {out!r} {err!r}")
    return 12


def check_times(b):
    """A time instead of a count, latencies, and all of it as JSON."""
    for way in ([], ["--threads", "2", "--random"], ["--blocking"]):
        said, stats = b.json("--time", "0.3", "--latency", *way, "top.qcow2")
        lat = said["latency-ns"]
        order = [lat[k] for k in ("p50", "p90", "p99", "p99.9", "max")]
        expect(said["time"] == 0.3 and 0.3 <= said["seconds"] < 5 and said["requests"] > 10
               and "count" not in said, f"--time: {said}")
        expect(lat["count"] == said["requests"] and 0 < order[0] and order == sorted(order)
               and lat["max"] <= said["seconds"] * 1e9, f"latencies: {said}")
        # of any times the half is at most twice the mean, and so on
        expect(all(x <= 1.02 * lat["mean"] / (1 - part) for x, part in
                   zip(order, (0.5, 0.9, 0.99, 0.999))), f"percentiles and mean: {said}")
        in_turn = way == ["--blocking"]
        expect(not in_turn or 0.2 < lat["mean"] * lat["count"] / (said["seconds"] * 1e9) <= 1,
               f"latencies of one after the other: {said}")
        speed = said["requests"] / said["seconds"]
        expect(abs(said["requests-per-second"] / speed - 1) < 0.01
               and abs(said["bytes-per-second"] / (speed * 4096) - 1) < 0.01, f"speed: {said}")
        expect(counted(stats, "reads", said["requests"], "--threads" in way),
               f"requests: {said} {stats}")
    _, out, _ = b.ours("--time", "0.1", "--percentiles", "top.qcow2")
    lines = out.splitlines()
    expect(len(lines) == 4 and lines[0].startswith("Sending read requests for 0.1 seconds, ")
           and re.fullmatch(r"\d+ requests, \d+ a second\.", lines[2])
           and re.fullmatch(r"Latency in microseconds: p50 [\d.]+, p90 [\d.]+, p99 [\d.]+, "
                            r"p99\.9 [\d.]+, max [\d.]+", lines[3]), f"for people: {out}")
    said, _ = b.json("-d", "9", "-s", "8k", "-S", "64k", "-o", "4k", "-c", "7", "--batch", "3",
                     "--seed", "4", "top.qcow2")
    got = {k: said[k] for k in ("filename", "depth", "buffer-size", "step-size", "offset", "batch",
                                "seed", "virtual-size", "random", "allocated", "warm", "cache")}
    expect(got == {"filename": "top.qcow2", "depth": 9, "buffer-size": 8192, "step-size": 65536,
                   "offset": 4096, "batch": 3, "seed": 4, "virtual-size": SIZE, "random": False,
                   "allocated": False, "warm": False, "cache": "writeback"}, f"parameters: {said}")
    cold, warm = (b.json(*w, "-c", "9", "top.qcow2")[1]["store-bytes"] for w in ([], ["--warm"]))
    expect(warm - cold >= MIB, f"--warm reads what is stored: {cold}, {warm}")
    with open("/dev/full", "wb") as full:
        r = subprocess.run([b.qchain, "bench", "-c", "1", "--output=json", "a.qcow2"], stdout=full,
                           stderr=subprocess.PIPE, cwd=b.runner.cwd, check=False)
    expect(r.returncode == 1 and b"No space left" in r.stderr, f"nobody can read it: {r}")
    return 7


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--bin", default=lib.default_bin())
    p.add_argument("--hammer", help="not used")
    args = p.parse_args()
    qchain = os.path.join(os.path.abspath(args.bin), "qchain")
    lib.need("qemu-img", "qemu-io", qchain)
    directory = tempfile.mkdtemp(prefix="qchain-bench-test-")
    runner = lib.Runner(directory, env={"QCHAIN_POLICY": ""})
    done = failed = 0
    try:
        make_images(runner)
        b = Bench(qchain, runner)
        for check in (check_alike, check_help, check_refused, check_counts, check_allocated,
                      check_places, check_calls, check_failures, check_times, check_writes):
            try:
                done += check(b)
            except (Mismatch, ValueError, KeyError) as e:
                failed += 1
                print(f"FAIL {check.__name__}: {e}")
    finally:
        shutil.rmtree(directory)
    print(f"bench: {done} checks, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
