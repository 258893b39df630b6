#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Traces of what is read of chains that qemu-img made: recorded, shown, summed up, merged, cut off by a kill."""
import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import interop_lib as lib
from interop_lib import Mismatch

KIB, MIB = 1 << 10, 1 << 20
SIZE = 64 * MIB
BLOCK = 2 * MIB


def expect(holds, text):
    if not holds:
        raise Mismatch(text)


class Traces:
    """A directory with a chain of three layers, and the tool."""

    def __init__(self, qchain, runner, seed):
        self.qchain, self.runner, self.rng = qchain, runner, random.Random(seed)

    def run(self, *argv, **how):
        return self.runner.run([self.qchain, *argv], **how)

    def json(self, *argv):
        return json.loads(self.run(*argv, "--output=json")[1])

    def fails(self, words, *argv):
        status, _, err = self.run(*argv, ok=None)
        expect(status in (1, 2) and words in err, f"{argv}: exit {status}, '{words}' is not in: {err}")

    def record(self, name, reads, how="read"):
        """Read through the shell, recorded."""
        commands = [x for at, n in reads for x in ("-c", f"{how} -q {at} {n}")]
        self.run("io", "-r", "--record", name, *commands, "top.qcow2")

    def apart(self, n):
        """Reads none of which begins in or right behind another."""
        places = self.rng.sample(range(0, SIZE, 32 * KIB), n)
        return [(at + 512 * self.rng.randrange(8), 512 * self.rng.randint(1, 40)) for at in places]

    def anywhere(self, n):
        return [(at, self.rng.randint(1, min(200 * KIB, SIZE - at)))
                for at in (self.rng.randrange(SIZE) for _ in range(n))]


def make_chain(runner):
    for name, below in (("base.qcow2", None), ("mid.qcow2", "base.qcow2"), ("top.qcow2", "mid.qcow2")):
        runner.run(["qemu-img", "create", "-q", "-f", "qcow2"] + (["-b", below, "-F", "qcow2"] if below else [])
                   + [name, str(SIZE)])
    for name, at in (("base.qcow2", "0 20M"), ("mid.qcow2", "10M 2M"), ("top.qcow2", "30M 100k")):
        runner.run(["qemu-io", "-f", "qcow2", "-t", "unsafe", "-c", f"write -q -P {len(at)} {at}", name])


def merged(ranges):
    """Sorted, neighbours joined."""
    out = []
    for at, n in sorted(ranges):
        if out and at <= out[-1][0] + out[-1][1]:
            out[-1][1] = max(out[-1][1], at + n - out[-1][0])
        else:
            out.append([at, n])
    return [tuple(x) for x in out]


def first_touches(records):
    """By a map of sectors and less: [(offset, length)] in order, each byte once."""
    out, seen = [], []
    for at, n in records:
        gaps, begin = [], at
        for a, m in merged(seen):
            if a >= at + n or a + m <= begin:
                continue
            if a > begin:
                gaps.append((begin, a - begin))
            begin = max(begin, a + m)
        if begin < at + n:
            gaps.append((begin, at + n - begin))
        seen.append((at, n))
        for g in gaps:
            if out and out[-1][0] + out[-1][1] == g[0]:
                out[-1] = (out[-1][0], out[-1][1] + g[1])
            else:
                out.append(g)
    return out


def pairs(listed):
    return [(x["offset"], x["length"]) for x in listed]


# ------------------------------------------------------------------------ checks ---

def reads_are_recorded(t):
    """In order, by plain reads and by queues."""
    for how in ("read", "aio_read"):
        reads = t.apart(60)
        t.record("a.tr", reads, how)
        shown = t.json("trace", "show", "a.tr")
        got = pairs(shown)
        expect(sorted(got) == sorted(reads), f"{how}: {sorted(got)[:5]} of {sorted(reads)[:5]}")
        expect(how != "read" or got == reads, 
               f"{how}: in another order: {[x for x in zip(got, reads, shown) if x[0] != x[1]][:4]}")
        times = [r["time-us"] for r in shown]
        expect(times == sorted(times) and all(r["reads"] == 1 for r in shown), f"{how}: {shown[:3]}")
    reads = t.anywhere(300)
    t.record("a.tr", reads)
    stat = t.json("trace", "stat", "a.tr")
    got = pairs(t.json("trace", "show", "a.tr"))
    expect(merged(got) == merged(reads), "what was read and what was recorded differ")
    expect(stat["reads"] == len(reads) and stat["lost-reads"] == 0 and stat["virtual-size"] == SIZE, f"{stat}")
    return 3


def what_was_read_first(t):
    """show --ranges is each byte once, in the order of the records; in human form too."""
    for _ in range(lib.share(5)):
        t.record("a.tr", t.anywhere(120))
        records = pairs(t.json("trace", "show", "a.tr"))
        want = first_touches(records)
        got = pairs(t.json("trace", "show", "--ranges", "a.tr"))
        expect(got == want, f"{got[:4]}, expected {want[:4]}")
        text = t.run("trace", "show", "--ranges", "a.tr")[1].decode().split()
        expect(text == [f"{at}+{n}" for at, n in want], f"{text[:4]}")
        lines = t.run("trace", "show", "a.tr")[1].decode().splitlines()
        expect([tuple(map(int, x.split()[1:3])) for x in lines[1:]] == records, f"{lines[:3]}")
    return 1


def sums_are_right(t):
    """stat against a model; by blocks of 2 MiB."""
    t.record("a.tr", t.anywhere(150))
    records = t.json("trace", "show", "a.tr")
    stat = t.json("trace", "stat", "--blocks", "a.tr")
    whole = merged(pairs(records))
    want = {"reads": sum(r["reads"] for r in records), "bytes": sum(r["length"] for r in records),
            "distinct-bytes": sum(n for _, n in whole), "records": len(records), "span-us": records[-1]["time-us"],
            "unread-bytes": 0}
    expect({k: stat[k] for k in want} == want, f"{stat}, expected {want}")
    blocks = {}
    for column, ranges in (("bytes", pairs(records)), ("distinct-bytes", whole)):
        for at, n in ranges:
            while n:
                part = min(n, BLOCK - at % BLOCK)
                b = blocks.setdefault(at // BLOCK * BLOCK, {"bytes": 0, "distinct-bytes": 0})
                b[column] += part
                at, n = at + part, n - part
    want = [dict(b, offset=at) for at, b in sorted(blocks.items())]
    expect(stat["blocks"] == want and stat["blocks-2m"] == len(want), f"{stat['blocks'][:3]}, expected {want[:3]}")
    human = t.run("trace", "stat", "--blocks", "a.tr")[1].decode()
    expect(f"blocks of 2 MiB: {len(want)}" in human and len(human.splitlines()) == 8 + len(want), human)
    return 2


def several_are_merged(t):
    """By time; each byte once."""
    for name in ("a.tr", "b.tr"):
        t.record(name, t.anywhere(100))
    t.run("trace", "merge", "m.tr", "a.tr", "b.tr")
    both = sorted((r for name in ("a.tr", "b.tr") for r in t.json("trace", "show", name)),
                  key=lambda r: (r["time-us"], r["offset"]))
    expect(t.json("trace", "show", "a.tr", "b.tr") == both, "shown together they are not in order")
    want = first_touches(pairs(both))
    expect(pairs(t.json("trace", "show", "--ranges", "m.tr")) == want, "the merged one has other ranges")
    expect(pairs(t.json("trace", "show", "--ranges", "a.tr", "b.tr")) == want, "together they have other ranges")
    stat = t.json("trace", "stat", "m.tr")
    expect(stat["bytes"] == stat["distinct-bytes"] == sum(n for _, n in want), f"{stat}")
    t.run("trace", "merge", "m.tr", "m.tr", "a.tr") # into one that is read
    expect(sorted(merged(pairs(t.json("trace", "show", "m.tr")))) == sorted(merged(want)), "merged again")
    return 4


def copies_are_recorded(t):
    """`read` reads the stored bytes alone, as qemu-img maps them."""
    t.run("read", "-q", "--record", "a.tr", "top.qcow2", "out.raw")
    stored = [(e["start"], e["length"]) for e in
              t.runner.json(["qemu-img", "map", "--output=json", "top.qcow2"]) if e["data"]]
    got = merged(pairs(t.json("trace", "show", "a.tr")))
    expect(got == merged(stored), f"{got}, expected {merged(stored)}")
    t.run("read", "-q", "--record", "a.tr", "--offset", "1M", "--length", "4096", "top.qcow2", "out.raw")
    expect(pairs(t.json("trace", "show", "a.tr")) == [(MIB, 4096)], "of a part")
    os.unlink(os.path.join(t.runner.cwd, "out.raw"))
    for how in (["--blocking"], ["-d", "16"], ["-d", "16", "--threads", "3"]):
        t.run("bench", "--warm", *how, "--random", "-c", "3000", "--record", "a.tr", "top.qcow2")
        stat = t.json("trace", "stat", "a.tr")
        expect(stat["reads"] + stat["lost-reads"] == 3000, f"bench {how}: {stat}")
    return 5


def killed(t):
    """What a killed recorder leaves can be read, and so can that with something broken behind it."""
    path = os.path.join(t.runner.cwd, "k.tr")
    for _ in range(lib.share(3)):
        p = subprocess.Popen([t.qchain, "bench", "--random", "--time", "60", "--record", "k.tr", "top.qcow2"],
                             cwd=t.runner.cwd, stdout=subprocess.DEVNULL)
        for _ in range(6000):
            # Killed within a write of the last block (33 KiB at most), it leaves those before.
            if os.path.exists(path) and os.path.getsize(path) > 70000:
                break
            time.sleep(0.01)
        p.send_signal(signal.SIGKILL)
        p.wait()
        whole = t.json("trace", "stat", "-q", "k.tr")
        expect(whole["reads"] > 1000 and whole["records"] > 1000, f"after a kill: {whole}")
        with open(path, "rb") as f:
            content = f.read()
        with open(path, "ab") as f:
            f.write(b"QTBK" + bytes(100))
        status, out, err = t.run("trace", "stat", "--output=json", "k.tr")
        more = json.loads(out)
        expect(status == 0 and "make no sense" in err and more["unread-bytes"] >= 104, f"{more} {err}")
        expect(more["records"] == whole["records"], f"with something broken behind it: {more}, {whole}")
        with open(path, "wb") as f:
            f.write(content[:-1])
        less = t.json("trace", "stat", "-q", "k.tr")
        expect(0 < less["unread-bytes"] and less["records"] <= whole["records"], f"without its last byte: {less}")
        for name in ("k.tr", "k.tr.1"):
            if os.path.exists(os.path.join(t.runner.cwd, name)):
                os.unlink(os.path.join(t.runner.cwd, name))
    return 3


def readers_make_no_calls(t):
    """Recording costs a reader no system call: a run of 30000 reads has hardly more with it than without."""
    if shutil.which("strace") is None or os.environ.get("QC_SAN"):
        return 0
    calls = []
    for more in ([], ["--record", "a.tr"]):
        t.runner.run(["strace", "-f", "-o", "calls", t.qchain, "bench", "-q", "--blocking", "--random", "-c", "30000",
                      *more, "top.qcow2"], timeout=300)
        with open(os.path.join(t.runner.cwd, "calls"), encoding="utf-8", errors="replace") as f:
            calls.append(sum(bool(re.match(r"\d+ +\w+\(", line)) for line in f))
    expect(t.json("trace", "stat", "a.tr")["reads"] > 20000, "hardly anything was recorded")
    expect(calls[1] < calls[0] + 2000, f"{calls[0]} system calls without, {calls[1]} with a recording")
    return 1


def refused(t):
    """Files that are no traces stay; wrong calls say so."""
    image = os.path.join(t.runner.cwd, "base.qcow2")
    with open(image, "rb") as f:
        before = f.read()
    for verb in (["io", "-r", "-c", "read 0 4k"], ["bench", "-c", "1"], ["read"]):
        t.fails("is no trace", *verb, "--record", "base.qcow2", "top.qcow2")
        t.fails("its directory", *verb, "--record", "nowhere/a.tr", "top.qcow2")
    t.fails("is no trace", "trace", "merge", "base.qcow2", "a.tr")
    with open(image, "rb") as f:
        expect(f.read() == before, "an image was written over")
    t.fails("no trace", "trace", "show", "base.qcow2")
    t.fails("No such file", "trace", "show", "nothing.tr")
    t.fails("Expecting", "trace")
    t.fails("Expecting", "trace", "merge", "x.tr")
    t.fails("Expecting", "trace", "show")
    t.fails("option", "trace", "show", "--blocks", "a.tr")
    t.fails("--trace for each", "prefetch", "--trace", "a.tr", "top.qcow2", "mid.qcow2")
    t.fails("exclusive", "prefetch", "--trace", "a.tr", "--range", "0+1", "top.qcow2")
    t.fails("no trace", "prefetch", "--trace", "base.qcow2", "top.qcow2")
    return 15


def local_chains_are_replayed(t):
    """Nothing to fetch, but looked at: what the trace says and no more; beside the image, and without one."""
    t.record("top.qcow2.qctrace", [(MIB, 4096), (11 * MIB, 4096)])
    one = t.json("prefetch", "--trace", "top.qcow2.qctrace", "top.qcow2")
    beside = t.json("prefetch", "--trace", "auto", "top.qcow2")
    expect(one == beside and 8192 <= one["local"] <= 256 * KIB, f"{one}, {beside}")
    t.run("io", "-r", "--record", "none.tr", "-c", "length", "top.qcow2")
    empty = t.json("prefetch", "--trace", "none.tr", "top.qcow2")
    expect(empty["local"] == 0 and empty["visible"] == 0, f"an empty trace: {empty}")
    _, out, err = t.run("prefetch", "--trace", "auto", "--output=json", "mid.qcow2")
    expect("no trace lies beside" in err and json.loads(out)["local"] >= 20 * MIB, f"{out} {err}")
    # Longer than the disk is now.
    t.runner.run(["qemu-img", "create", "-q", "-f", "qcow2", "small.qcow2", "5M"])
    t.json("prefetch", "--trace", "top.qcow2.qctrace", "small.qcow2")
    return 5


CHECKS = (reads_are_recorded, what_was_read_first, sums_are_right, several_are_merged, copies_are_recorded, killed,
          readers_make_no_calls, refused, local_chains_are_replayed)


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--bin", default=lib.default_bin())
    p.add_argument("--hammer", help="not used")
    p.add_argument("--seed", type=int, default=lib.any_seed())
    args = p.parse_args()
    qchain = os.path.join(os.path.abspath(args.bin), "qchain")
    lib.need("qemu-img", "qemu-io", qchain)
    print(f"trace: seed {args.seed}")
    directory = tempfile.mkdtemp(prefix="qchain-trace-test-")
    runner = lib.Runner(directory, env={"QCHAIN_POLICY": "", "QCHAIN_REMOTE": ""})
    done = failed = 0
    try:
        make_chain(runner)
        t = Traces(qchain, runner, args.seed)
        for check in CHECKS:
            try:
                done += check(t)
            except (Mismatch, ValueError, KeyError) as e:
                failed += 1
                print(f"FAIL {check.__name__}: {e}")
    finally:
        shutil.rmtree(directory)
    print(f"trace: {done} checks, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
