# SPDX-License-Identifier: MIT
"""The bars of layers behind URLs: nginx on this machine, behind a proxy that adds a round trip of
20 ms and carries 100 MB/s; peers are QEMU's curl driver and plain libcurl (ref_curl.c) through the
same proxy. What is required is said in round trips, requests, and parts of what the peers do."""

import atexit
import bisect
import http.client
import json
import os
import random
import shutil
import statistics
import sys
import time

import make_chain
from bench_bars import Bar, load_map, mib, rate, secs
from bench_measure import Failed, median, peak, warm

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../remote"))
import remote_lib  # noqa: E402

RTT = 0.020
BANDWIDTH = 100                 # MB/s
BLOCK = 2 << 20
DEPTHS = (10, 50, 100)


class Net:
    """The server and the proxies; one of each for all bars of a run."""

    def __init__(self, m):
        self.place = remote_lib.Place("bench")
        atexit.register(self.place.close)
        try:
            nginx = self.place.server("nginx")
        except remote_lib.Missing as e:
            raise Failed(str(e)) from None
        self.www = os.path.join(nginx["WWW"], "dav")
        self.near = f"http://127.0.0.1:{nginx['HTTP']}/dav"
        self.proxy = self.place.proxy(nginx["HTTP"], delay_ms=RTT * 1000, bandwidth=BANDWIDTH)
        self.far = self.proxy.url + "/dav"
        self.quick = getattr(m, "quick", False)

    def share(self, top, name=None):
        """Serve a data set; the path of its top below the server's root."""
        home, file = os.path.split(os.path.abspath(top))
        name = name or os.path.basename(home)
        link = os.path.join(self.www, name)
        if not os.path.islink(link):
            os.symlink(home, link)
        return f"/{name}/{file}"

    def moved(self):
        """Counters of the proxy since the last call."""
        now = self.proxy.stats()
        last = getattr(self, "last", {k: 0 for k in now})
        self.last = now
        return {k: now[k] - last[k] for k in now}


def net(m):
    found = m.once("net", lambda: Net(m))
    os.environ.update(QCHAIN_REMOTE="", QCHAIN_POLICY="")
    return found


def write_list(m, name, reads):
    path = m.path(name)
    with open(path, "w", encoding="ascii") as f:
        f.writelines("%d %d\n" % r for r in reads)
    return path


def reader(m, reads, name, *options):
    """A job of bench_remote."""
    return lambda: m.answer([m.prog("bench_remote"), *options, reads, name])


def at_depth(top, depth):
    """The layer of a chain that has so many below it."""
    return make_chain.layer_name(os.path.dirname(top), depth)


def with_index(m, url, local):
    """Build the index of a chain by its URL; returns how to remove it."""
    m.run([m.tool("qchain-index"), "build", "-q", "--no-wait", url])
    if not os.path.exists(local + ".qci"):
        raise Failed("no index lies beside " + local)
    return lambda: os.unlink(local + ".qci")


def rtts(seconds):
    return "%.1f RTT, %s" % (seconds / RTT, secs(seconds))


def one_by_one(url, count):
    """Seconds of so many plain requests of 16 KiB on one connection, each begun when the last is answered: what a round
    trip takes on this machine, where every one wakes two servers and two clients."""
    host, path = url.split("/", 3)[2:]
    begun = time.monotonic()
    link = http.client.HTTPConnection(host)
    for _ in range(count):
        link.request("GET", "/" + path, headers={"Range": "bytes=0-16383"})
        link.getresponse().read()
    link.close()
    return time.monotonic() - begun


# -------------------------------------------------------------------------------- open and map ---

def open_rows(m, bar, n, top, depth):
    """Open a chain and read its first 4 KiB, with and without its index."""
    image = at_depth(top, depth)
    warm([image])
    path = n.share(image)
    url = n.far + path
    first = write_list(m, "first", [(0, 4096)])
    want = reader(m, first, image)()["sum"]
    bare = m.alternate({"bare": reader(m, first, url, "--no-index")})["bare"]
    drop = with_index(m, url, image)
    try:
        used = m.alternate({"used": reader(m, first, url)})["used"]
    finally:
        drop()
    if {r["sum"] for r in bare + used} != {want}:
        raise Failed("the first 4 KiB are other bytes than those of the files")
    bar.raw.update({"bare-%d" % depth: bare, "used-%d" % depth: used})
    peer = ""
    if not n.quick or depth == DEPTHS[0]:
        qemu = m.run(["qemu-io", "-r", "-f", "qcow2", "-c", "read -q 0 4k", url], many_files=True)
        bar.raw["qemu-%d" % depth] = qemu
        peer = "QEMU: " + rtts(qemu["seconds"])
    where = "remote: open depth %d and read 4 KiB, " % depth
    # Round trips of exactly 20 ms, the start of libcurl included.
    seconds, moved = median(used, "first_seconds"), median(used, "bytes")
    bar.row(where + "with an index: round trips", seconds / RTT, "<=",
            3 + 1 + moved / (BANDWIDTH * 1e6) / RTT, rtts(seconds), peer)
    bar.row(where + "with an index: requests", median(used, "requests"), "<=", 3,
            "%d KiB" % (moved / 1024))
    seconds, moved = median(bare, "first_seconds"), median(bare, "bytes")
    bar.row(where + "without: round trips", seconds / RTT, "<=", depth + 1 + 5, rtts(seconds), peer)
    # The connection takes one of them.
    plain = statistics.median(one_by_one(url, depth + 1 + 4) for _ in range(3))
    bar.row(where + "without / %d plain requests, one by one" % (depth + 1 + 5), seconds / plain, "<=", 1.0,
            secs(seconds), secs(plain))
    bar.row(where + "without: MiB moved", moved / 2**20, "<=", 16,
            "%d requests" % median(bare, "requests"))
    if peer:
        bar.chart.append({"what": "open remote depth %d" % depth,
                          "ours": median(used, "first_seconds"), "qemu": qemu["seconds"]})


def remote_open(m, data):
    bar, n = Bar(), net(m)
    top = data("C100")
    for depth in DEPTHS:
        open_rows(m, bar, n, top, depth)
    return bar


def l2_bytes(layers):
    """Bytes of the L2 tables that images refer to."""
    total = 0
    for name in layers:
        with open(name, "rb") as f:
            head = f.read(48)
            cluster = 1 << int.from_bytes(head[20:24], "big")
            f.seek(int.from_bytes(head[40:48], "big"))
            table = f.read(8 * int.from_bytes(head[36:40], "big"))
        total += cluster * sum(table[i:i + 8] != bytes(8) for i in range(0, len(table), 8))
    return total


def remote_map(m, data):
    """Map a chain of 10 layers; QEMU reads the tables one after the other."""
    bar, n = Bar(), net(m)
    image = at_depth(data("C100"), 10)
    url = n.far + n.share(image)
    tool = [m.tool("qchain-map"), "--output=json"]
    ours, bare, local, theirs = (m.path(x) for x in ("ours", "bare", "local", "theirs"))
    m.run(tool + ["--no-index", image], out=local)
    without = m.alternate({"bare": lambda: m.run(tool + ["--no-index", url], out=bare)})["bare"]
    n.moved()
    m.run(tool + ["--no-index", url], out=bare)
    moved = n.moved()
    tables = l2_bytes(at_depth(image, d) for d in range(11))
    drop = with_index(m, url, image)
    try:
        used = m.alternate({"used": lambda: m.run(tool + [url], out=ours)})["used"]
        n.moved()
        m.run(tool + [url], out=ours)
        few = n.moved()["requests"]
    finally:
        drop()
    bar.raw = {"bare": without, "used": used}
    same = load_map(ours) == load_map(bare) == load_map(local)
    bar.row("remote: the same map by URL with and without index (1 = yes)", int(same), ">=", 1)
    seconds, slow = median(used, "seconds"), median(without, "seconds")
    bar.row("remote: map depth 10 with an index: requests", few, "<=", 4, rtts(seconds))
    for depth in DEPTHS[1:]:
        deep = at_depth(data("C100"), depth)
        drop = with_index(m, n.far + n.share(deep), deep)
        try:
            n.moved()
            m.run(tool + [n.far + n.share(deep)], out=ours)
            bar.row("remote: map depth %d with an index: requests" % depth, n.moved()["requests"],
                    "<=", 4)
        finally:
            drop()
    bar.row("remote: map depth 10 without: bytes / L2 tables", moved["bytes_down"] / tables, "<=", 1.3,
            mib(moved["bytes_down"] / 2**20), mib(tables / 2**20))
    bar.row("remote: map depth 10 without: requests", moved["requests"], ours=rtts(slow))
    if n.quick:
        bar.skip("remote: map depth 10: times faster than qemu-img", "slow, and this is --quick")
        return bar
    qemu = m.run(["qemu-img", "map", "--output=json", "-f", "qcow2", url], out=theirs,
                 many_files=True)
    bar.raw["qemu"] = qemu
    bar.row("remote: map depth 10, index: times faster than qemu-img", qemu["seconds"] / seconds,
            ">=", 50, secs(seconds), secs(qemu["seconds"]))
    bar.row("remote: map depth 10, no index: times faster than qemu-img", qemu["seconds"] / slow,
            ">=", 15, secs(slow), secs(qemu["seconds"]))
    bar.chart.append({"what": "map remote depth 10", "ours": slow, "qemu": qemu["seconds"]})
    return bar


# ---------------------------------------------------------------------------- sequential reads ---

def busy(run, size):
    """Processor seconds a GB."""
    return (run["user"] + run["system"]) / (size / 1e9)


def sequential(m, bar, where, base, near, path, size):
    """qchain-read and curl by turns, over one network; near: without delay, where the processor is
    what counts."""
    url = base + path
    config = m.path("curl-ranges")
    with open(config, "w", encoding="ascii") as f:
        f.write("\nnext\n".join('url = "%s"\nrange = "%d-%d"\noutput = /dev/null\nsilent' %
                                (url, at, at + BLOCK - 1) for at in range(0, size, BLOCK)))
    runs = m.alternate({
        "ours": lambda: m.run([m.tool("qchain-read"), "-q", "--length", str(size), url, "-"]),
        "curl": lambda: m.run([m.prog("ref_curl"), "--bytes", str(size), "--parallel", "8", url]),
        "tool": lambda: m.run(["curl", "-Z", "--parallel-max", "16", "-K", config]),
        "one": lambda: m.run(["curl", "-s", "-r", "0-%d" % (size - 1), "-o", "/dev/null", url])})
    bar.raw[where] = runs
    ours, ref, tool, one = (size / median(runs[k], "seconds") for k in ("ours", "curl", "tool", "one"))
    bar.row("remote: sequential, %s: qchain-read / curl -Z, ranges of 2 MiB" % where, ours / tool,
            ">=" if base != near else None, 0.95, rate(ours), rate(tool))
    bar.row("remote: sequential, %s: qchain-read / libcurl, 8 ranges" % where, ours / ref,
            ">=" if base == near else None, 0.8, rate(ours), rate(ref))
    bar.row("remote: sequential, %s: qchain-read / curl, one request" % where, ours / one,
            ours=rate(ours), peer=rate(one))
    mine = sorted(busy(r, size) for r in runs["ours"])[len(runs["ours"]) // 2]
    theirs = sorted(busy(r, size) for r in runs["curl"])[len(runs["curl"]) // 2]
    bar.row("remote: sequential, %s: processor seconds a GB / libcurl's" % where, mine / theirs,
            "<=" if base == near else None, 1.3, "%.2f s" % mine, "%.2f s" % theirs)
    bar.row("remote: sequential, %s: peak memory, MiB" % where, peak(runs["ours"], "rss_mib"),
            ours=mib(peak(runs["ours"], "rss_mib")), peer=mib(peak(runs["curl"], "rss_mib")))
    return ours


def remote_seq(m, data):
    bar, n = Bar(), net(m)
    top = data("D1")
    warm([top])
    size = min(os.path.getsize(top) // BLOCK * BLOCK - 8 * BLOCK, 1 << 30)
    path = n.share(top)
    far = sequential(m, bar, "20 ms, 100 MB/s", n.far, n.near, path, size)
    sequential(m, bar, "loopback", n.near, n.near, path, size)
    some = 16 if n.quick else 64
    qemu = m.run(["qemu-io", "-r", "-f", "qcow2"] +
                 [x for i in range(some) for x in ("-c", "read -q %dM 1M" % i)] + [n.far + path])
    theirs = (some << 20) / qemu["seconds"]
    bar.row("remote: sequential, 20 ms: times faster than QEMU, 1 MiB a read", far / theirs, ">=", 2,
            rate(far), rate(theirs))
    return bar


# -------------------------------------------------------------------------------- random reads ---

def remote_random(m, data):
    """256 reads of 4 KiB in flight; libcurl fetches the blocks that hold them over 32 connections."""
    bar, n = Bar(), net(m)
    top = data("D1")
    warm([top])
    path = n.share(top)
    url = n.far + path
    rng = random.Random("random")
    size = make_chain.dense_size(1) if os.path.getsize(top) > 4 << 30 else \
        os.path.getsize(top) // BLOCK * BLOCK - BLOCK
    count = 256 if not n.quick else 64
    reads = [(rng.randrange(size // 4096) * 4096, 4096) for _ in range(count)]
    few, none = write_list(m, "random", reads), write_list(m, "none", [])
    m.run([m.tool("qchain-map"), "--output=json", top], out=m.path("map"))
    with open(m.path("map"), encoding="utf-8") as f:
        extents = json.load(f)
    drop = with_index(m, url, top)
    try:
        start = reader(m, none, url)()["requests"]
        for block, words in ((BLOCK, "2 MiB"), (65536, "64 KiB")):
            blocks, _ = least(extents, reads, [top], block)
            starts = m.path("blocks")
            with open(starts, "w", encoding="ascii") as f:
                f.writelines("%d\n" % (b * block) for _, b in blocks)
            runs = m.alternate({
                "ours": reader(m, few, url, "--depth", str(count), "--rule",
                               "block-size %dK" % (block >> 10)),
                "curl": lambda b=block: m.answer([m.prog("ref_curl"), "--list", starts, "--range",
                                                  str(b), "--parallel", "32", url])})
            bar.raw[words] = runs
            ours = count / median(runs["ours"], "read_seconds")
            theirs = count / median(runs["curl"], "seconds")
            bar.row("remote: %d random 4 KiB in flight, blocks of %s / 32 of libcurl's" %
                    (count, words), ours / theirs, ">=", 0.8, "%.0f/s" % ours, "%.0f/s" % theirs)
            asked = median(runs["ours"], "requests") - start
            bar.row("remote: ... requests / blocks", asked / len(blocks), "<=", 1.1, "%d" % asked,
                    "%d" % len(blocks))
        alone = m.alternate({"curl": lambda: m.answer([m.prog("ref_curl"), "--random", str(count),
                                                       "--parallel", "32", url])})["curl"]
    finally:
        drop()
    bar.row("remote: libcurl, 4 KiB ranges over 32 connections: reads a second",
            count / median(alone, "seconds"))
    return bar


def remote_cache(m, data):
    """What one process read, another reads from the disk cache: as fast as a file?"""
    bar, n = Bar(), net(m)
    top = data("D1")
    warm([top])
    path = n.share(top)
    url, cache = n.near + path, m.path("cache")
    os.makedirs(cache, 0o700, exist_ok=True)
    size = os.path.getsize(top) // BLOCK * BLOCK - 16 * BLOCK
    rules = ("--rule", "cache-dir " + cache, "--rule", "revalidate 3600")
    flags = ["--remote", rules[1], "--remote", rules[3], "-q", "--length", str(size)]
    read = [m.tool("qchain-read")]
    for _ in range(2):
        m.run(read + flags + [url, "-"])
        time.sleep(1)
    rng = random.Random("cache")
    reads = write_list(m, "cached", [(rng.randrange(size // 4096) * 4096, 4096)
                                     for _ in range(200000)])
    runs = m.alternate({
        "random": reader(m, reads, url, "--no-index", *rules), "random-file": reader(m, reads, top),
        "seq": lambda: m.run(read + flags + [url, "-"]),
        "seq-file": lambda: m.run(read + ["-q", "--length", str(size), top, "-"])})
    bar.raw = runs
    if runs["random"][0]["sum"] != runs["random-file"][0]["sum"]:
        raise Failed("the disk cache gives other bytes than the file")
    asked = max(r["requests"] for r in runs["random"])
    bar.row("remote: disk cache, another process: requests", asked, "<=", 0)
    ours, theirs = (200000 / median(runs[k], "read_seconds") for k in ("random", "random-file"))
    bar.row("remote: disk cache, random 4 KiB / local file", ours / theirs, ">=", 0.7,
            "%.0f k/s" % (ours / 1e3), "%.0f k/s" % (theirs / 1e3))
    ours, theirs = (size / median(runs[k], "seconds") for k in ("seq", "seq-file"))
    bar.row("remote: disk cache, sequential / local file", ours / theirs, ">=", 0.7, rate(ours),
            rate(theirs))
    shutil.rmtree(cache, ignore_errors=True)
    return bar


# ------------------------------------------------------------------------------ traces, memory ---

def boot_trace(extents, count):
    """Reads as of a system that starts: 4 to 64 KiB, seven of ten right behind the last one."""
    rng = random.Random("boot")
    stored = [e for e in extents if e["data"] and e["length"] >= 65536]
    places = rng.sample(stored, min(len(stored), 400))
    reads, where, last = [], places[0], places[0]["start"]
    for _ in range(count):
        length = 4096 * rng.choice((1, 1, 1, 2, 2, 4, 4, 8, 16))
        at = last + 4096 * rng.choice((0, 0, 0, 1, 4))
        if rng.random() >= 0.7 or at + length > where["start"] + where["length"]:
            where = rng.choice(places)
            at = where["start"] + rng.randrange(max(1, (where["length"] - length) // 4096 + 1)) * 4096
        length = min(length, where["start"] + where["length"] - at)
        reads.append((at, length))
        last = at + length
    return reads


def least(extents, reads, layers, block=BLOCK):
    """The blocks of the layers' files that hold what is read, and how many bytes they are."""
    blocks = set()
    begin = [e["start"] for e in extents]
    for at, length in reads:
        i = max(0, bisect.bisect_right(begin, at) - 1)
        while i < len(extents) and extents[i]["start"] < at + length:
            e = extents[i]
            i += 1
            if not e["data"] or "offset" not in e:
                continue
            low = max(at, e["start"]) - e["start"] + e["offset"]
            high = min(at + length, e["start"] + e["length"]) - e["start"] + e["offset"]
            blocks.update((e["depth"], b) for b in range(low // block, (high - 1) // block + 1))
    size = [os.path.getsize(x) for x in layers]
    return blocks, sum(min(block, size[d] - b * block) for d, b in blocks)


def remote_trace(m, data):
    bar, n = Bar(), net(m)
    image = data("C100")
    depth = len([x for x in os.listdir(os.path.dirname(image)) if x.endswith(".qcow2")])
    layers = [make_chain.layer_name(os.path.dirname(image), d) for d in range(depth - 1, -1, -1)]
    warm(layers)
    url = n.far + n.share(image)
    m.run([m.tool("qchain-map"), "--output=json", image], out=m.path("map"))
    with open(m.path("map"), encoding="utf-8") as f:
        extents = json.load(f)
    reads = boot_trace(extents, 300 if n.quick else 3000)
    trace = write_list(m, "trace", reads)
    none = write_list(m, "none", [])
    blocks, size = least(extents, reads, layers)
    want = reader(m, trace, image)()["sum"]
    drop = with_index(m, url, image)

    def boot():
        """With an empty disk cache, as a host has: memory is too small for all of it."""
        cache = m.path("boot-cache")
        shutil.rmtree(cache, ignore_errors=True)
        os.makedirs(cache, 0o700)
        return reader(m, trace, url, "--rule", "cache-dir " + cache)()

    try:
        start = reader(m, none, url)()
        runs = m.alternate({"ours": boot}, runs=min(m.runs, 3))["ours"]
    finally:
        drop()
    if {r["sum"] for r in runs} != {want}:
        raise Failed("the trace reads other bytes than from the files")
    bar.raw = {"ours": runs, "open": start}
    requests = median(runs, "requests") - start["requests"]
    moved = median(runs, "bytes") - start["bytes"]
    bar.row("remote: boot trace: requests / least for blocks of 2 MiB", requests / len(blocks),
            "<=", 1.15, "%d" % requests, "%d" % len(blocks))
    bar.row("remote: boot trace: bytes / least for blocks of 2 MiB", moved / size, "<=", 1.15,
            mib(moved / 2**20), mib(size / 2**20))
    bar.row("remote: boot trace: seconds", median(runs, "read_seconds"))
    return bar


def remote_replay(m, data):
    """A boot is recorded; before the next one, with an empty disk cache, what it read is fetched by its trace."""
    bar, n = Bar(), net(m)
    image = data("C100")
    home = os.path.dirname(image)
    warm([os.path.join(home, x) for x in os.listdir(home) if x.endswith(".qcow2")])
    url, cache, trace = n.far + n.share(image), m.path("replay-cache"), m.path("replay.qctrace")
    m.run([m.tool("qchain-map"), "--output=json", image], out=m.path("map"))
    with open(m.path("map"), encoding="utf-8") as f:
        reads = boot_trace(json.load(f), 300 if n.quick else 3000)
    listed, none = write_list(m, "replay", reads), write_list(m, "none", [])
    want = reader(m, listed, image)()["sum"]
    rules = ("--rule", "cache-dir " + cache, "--rule", "revalidate 3600", "--rule", "verify first-read")
    drop = with_index(m, url, image)

    def empty():
        shutil.rmtree(cache, ignore_errors=True)
        os.makedirs(cache, 0o700)

    def cold():
        empty()
        return reader(m, listed, url, *rules, "--record", trace)()

    def replay():
        empty()
        fetched = m.answer([m.tool("qchain-prefetch"), "--output=json", "--cache-dir", cache, "--trace", trace, url])
        return dict(reader(m, listed, url, *rules)(), fetched=fetched["fetched"], fetching=fetched["run"]["seconds"])

    try:
        cold()
        runs = m.alternate({"cold": cold, "replay": replay}, runs=min(m.runs, 3))
        start = reader(m, none, url, *rules)()["requests"]
    finally:
        drop()
    if {r["sum"] for r in runs["cold"] + runs["replay"]} != {want}:
        raise Failed("the reads give other bytes than those of the files")
    bar.raw = runs
    asked = median(runs["replay"], "requests") - start
    without, after = (median(runs[k], "read_seconds") for k in ("cold", "replay"))
    bar.row("remote: replayed trace: % of a boot's reads that need no request", 100 * (1 - asked / len(reads)), ">=",
            95, "%d requests, %d reads" % (asked, len(reads)))
    bar.row("remote: replayed trace: a boot's reads end so many times sooner", without / after, ">=", 5, secs(after),
            secs(without))
    bar.row("remote: replayed trace: seconds to fetch it", median(runs["replay"], "fetching"), ours=mib(
        median(runs["replay"], "fetched") / 2**20))
    shutil.rmtree(cache, ignore_errors=True)
    return bar


def remote_prefetch(m, data):
    """A chain of 100 layers into an empty disk cache; the peer fetches as many bytes by ranges of 2 MiB."""
    bar, n = Bar(), net(m)
    image, dense = data("C100"), data("D1")
    home = os.path.dirname(image)
    depth = len([x for x in os.listdir(home) if x.endswith(".qcow2")])
    layers = [make_chain.layer_name(home, d) for d in range(depth - 1, -1, -1)]
    warm(layers + [dense])
    url, cache, config = n.far + n.share(image), m.path("prefetch-cache"), m.path("prefetch-ranges")
    m.run([m.tool("qchain-map"), "--output=json", image], out=m.path("map"))
    with open(m.path("map"), encoding="utf-8") as f:
        extents = json.load(f)
    shown = [(e["start"], e["length"]) for e in extents if e["data"]]
    _, size = least(extents, shown, layers, 65536)
    stored = sum(os.stat(x).st_blocks * 512 for x in layers)

    def ours():
        shutil.rmtree(cache, ignore_errors=True)
        os.makedirs(cache, 0o700)
        return m.answer([m.tool("qchain-prefetch"), "--output=json", "--cache-dir", cache, url])

    drop = with_index(m, url, image)
    try:
        n.moved()
        first = ours()
        moved = n.moved()
        far = n.far + n.share(dense)
        ends = os.path.getsize(dense) // BLOCK
        with open(config, "w", encoding="ascii") as f:
            f.write("\nnext\n".join('url = "%s"\nrange = "%d-%d"\noutput = /dev/null\nsilent' % (
                far, i % ends * BLOCK, (i % ends + 1) * BLOCK - 1)
                for i in range(max(1, round(first["fetched"] / BLOCK)))))
        runs = m.alternate({
            "ours": ours,
            "curl": lambda: m.run(["curl", "-Z", "--parallel-max", "16", "-K", config])})
        none = write_list(m, "prefetched", [(at, 4096) for at, length in shown if length >= 4096][:2000])
        read = reader(m, none, url, "--rule", "cache-dir " + cache, "--rule", "revalidate 3600",
                      "--rule", "verify first-read")()
    finally:
        drop()
    bar.raw = {"ours": runs["ours"], "curl": runs["curl"], "read": read}
    if read["sum"] != reader(m, none, image)()["sum"]:
        raise Failed("the prefetched chain reads other bytes than its files")
    seconds = median(runs["ours"], "run", "seconds")
    rate_of = first["fetched"] / seconds
    theirs = max(1, round(first["fetched"] / BLOCK)) * BLOCK / median(runs["curl"], "seconds")
    bar.row("remote: prefetch depth %d / curl -Z of as many bytes, ranges of 2 MiB" % (depth - 1),
            rate_of / theirs, ">=", 0.95, rate(rate_of), rate(theirs))
    bar.row("remote: prefetch: bytes moved / what shows, in blocks of 64 KiB", moved["bytes_down"] / size,
            "<=", 1.1, mib(moved["bytes_down"] / 2**20), mib(size / 2**20))
    bar.row("remote: prefetch: part of the stored data that shows", size / stored)
    bar.row("remote: prefetch: requests", first["requests"])
    bar.row("remote: prefetch: peak memory, MiB", max(r["run"]["rss_mib"] for r in runs["ours"]), "<=", 64)
    bar.row("remote: prefetch: requests of who reads afterwards", read["requests"], "<=", 0)
    shutil.rmtree(cache, ignore_errors=True)
    return bar


def remote_memory(m, data):
    """40 disks of 100 layers each, in one process."""
    bar, n = Bar(), net(m)
    image = data("C100")
    disks = 8 if n.quick else 40
    urls = [n.near + n.share(image, "disk-%02d" % i) for i in range(disks)]
    got = m.answer([m.prog("bench_many"), "", "20"] + urls, many_files=True)
    bar.raw = {"ours": got}
    bar.row("remote: memory of %d disks of %d layers, open: MiB" % (disks, got["layers"] // disks),
            got["open_rss_kib"] / 1024, "<=", 256, "%.1f s" % got["open_seconds"])
    bar.row("remote: ... after 20 reads of each: MiB", got["rss_kib"] / 1024, "<=", 256,
            "%d requests" % got["requests"])
    return bar


BARS = {
    "remote-open": remote_open,
    "remote-map": remote_map,
    "remote-seq": remote_seq,
    "remote-random": remote_random,
    "remote-cache": remote_cache,
    "remote-trace": remote_trace,
    "remote-replay": remote_replay,
    "remote-prefetch": remote_prefetch,
    "remote-memory": remote_memory,
}
