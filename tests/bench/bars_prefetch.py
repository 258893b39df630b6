# SPDX-License-Identifier: MIT
"""What reads feel of a prefetch that runs beside them in one environment (QCHAIN_PREFETCH_IDLE), how soon it has the
first bytes, and what users do today instead; through the network of bars_remote.py."""

import json
import os
import random
import shutil

from bars_remote import BANDWIDTH, BLOCK, RTT, net, rtts, with_index, write_list
from bench_bars import Bar, mib, rate, secs
from bench_measure import median, warm

READS = 100


def remote_idle(m, data):
    """Reads of a disk that nobody has cached, each of a block of its own, while another disk is prefetched."""
    bar, n = Bar(), net(m)
    if n.quick:                 # a small disk is fetched before anything was seen
        return bar
    one, image = data("D1"), data("C100")
    warm([one] + [os.path.join(os.path.dirname(image), x) for x in os.listdir(os.path.dirname(image))])
    url, other, cache = n.far + n.share(one), n.far + n.share(image), m.path("idle-cache")
    size = os.path.getsize(one) // BLOCK * BLOCK - 8 * BLOCK
    blocks = list(range(1, size // BLOCK))
    random.Random("idle").shuffle(blocks)
    places = write_list(m, "idle-places", [(b * BLOCK + 65536, 4096) for b in blocks])

    def ours():
        shutil.rmtree(cache, ignore_errors=True)
        os.makedirs(cache, 0o700)
        return m.answer([m.prog("bench_idle"), "--rule", "cache-dir " + cache, "--reads", str(READS), "--rate",
                         str(BANDWIDTH * 10**6), places, url, other])

    drop = with_index(m, other, image)
    try:
        runs = [ours() for _ in range(m.runs)]
    finally:
        drop()
        shutil.rmtree(cache, ignore_errors=True)
    bar.raw = {"ours": runs}

    def ms(series, what):
        return median(runs, series, what)

    def row(what, series, base, limit):
        bar.row("remote: reads beside a prefetch, " + what, ms(series, base) / ms(series.replace("beside", "alone"), base),
                "<=", limit, "%.1f ms" % ms(series, base), "%.1f ms" % ms(series.replace("beside", "alone"), base))

    row("one by one: p50 / without it", "beside", "p50", 1.1)
    row("one by one: p99 / without it", "beside", "p99", 2)
    block_ms = BLOCK / (BANDWIDTH * 1e3)
    bar.row("remote: reads beside a prefetch, ten a second: p50 / without it and one block's time",
            ms("beside_ten", "p50") / (ms("alone_ten", "p50") + block_ms), "<=", 1,
            "%.1f ms" % ms("beside_ten", "p50"), "%.1f ms" % (ms("alone_ten", "p50") + block_ms))
    bar.row("remote: prefetch: seconds until it has 90 % of the link after the last read",
            max(r["back_seconds"] if r["back_seconds"] >= 0 else 99 for r in runs), "<=", 1)
    bar.row("remote: prefetch: part of the link it has from one to three seconds after the last read",
            median(runs, "idle_rate") / (BANDWIDTH * 1e6), ">=", 0.9, rate(median(runs, "idle_rate")))
    return bar


def data_extents(m, image):
    m.run([m.tool("qchain-map"), "--output=json", image], out=m.path("map"))
    with open(m.path("map"), encoding="utf-8") as f:
        return [(e["start"], e["length"]) for e in json.load(f) if e["data"]]


def prefetching(m, url, cache, *options):
    """A job: into an empty cache."""
    def job():
        shutil.rmtree(cache, ignore_errors=True)
        os.makedirs(cache, 0o700)
        return m.answer([m.tool("qchain-prefetch"), "--output=json", "--cache-dir", cache, *options, url])
    return job


def remote_first(m, data):
    """The whole run of a program that prefetches 4 KiB of 100 layers, from its start to its end."""
    bar, n = Bar(), net(m)
    image = data("C100")
    url, cache = n.far + n.share(image), m.path("first-cache")
    at = data_extents(m, image)[0][0]
    drop = with_index(m, url, image)
    try:
        ours = prefetching(m, url, cache, "-s", str(at), "-l", "4096")
        runs = [ours() for _ in range(m.runs)]
        n.moved()
        ours()
        moved = n.moved()
    finally:
        drop()
        shutil.rmtree(cache, ignore_errors=True)
    bar.raw = {"ours": runs}
    seconds = median(runs, "run", "seconds")
    bar.row("remote: prefetch: round trips until the first 4 KiB are in the cache, of them one to connect",
            (seconds - moved["bytes_down"] / (BANDWIDTH * 1e6)) / RTT, "<=", 4, rtts(seconds),
            "%d requests" % moved["requests"])
    return bar


def remote_today(m, data):
    """100 layers: qemu-img tells where data is, qemu-io reads it, both through QEMU's curl driver; once, as it is slow."""
    bar, n = Bar(), net(m)
    image = data("C100")
    url, cache, script = n.far + n.share(image), m.path("today-cache"), m.path("today-reads")
    if n.quick:
        bar.skip("remote: prefetch depth 100: times sooner than qemu-img map and reads by qemu-io", "slow, and this is --quick")
        return bar
    extents = data_extents(m, image)
    reads = [(at + k, min(BLOCK, length - k)) for at, length in extents for k in range(0, length, BLOCK)]
    with open(script, "w", encoding="ascii") as f:
        f.writelines("aio_read -q %d %d\n" % r for r in reads)
        f.write("aio_flush\n")
    drop = with_index(m, url, image)
    try:
        ours = prefetching(m, url, cache)
        used = [ours()]
    finally:
        drop()
        shutil.rmtree(cache, ignore_errors=True)
    bare = [prefetching(m, url, cache)()]
    shutil.rmtree(cache, ignore_errors=True)
    qemu = m.run(["qemu-img", "map", "--output=json", "-f", "qcow2", url], many_files=True)
    read = m.run(["sh", "-c", "qemu-io -r -f qcow2 \"$0\" <\"$1\"", url, script], many_files=True)
    bar.raw = {"ours": used, "bare": bare, "map": qemu, "read": read}
    theirs = qemu["seconds"] + read["seconds"]
    for what, runs in (("with an index", used), ("without", bare)):
        bar.row("remote: prefetch depth 100 %s: times sooner than qemu-img map and reads by qemu-io" % what,
                theirs / median(runs, "run", "seconds"), ">=", 5, secs(median(runs, "run", "seconds")), secs(theirs))
    bar.row("remote: ... of it reading", read["seconds"], ours=mib(sum(length for _, length in extents) / 2**20))
    return bar


BARS = {"remote-idle": remote_idle, "remote-first": remote_first, "remote-today": remote_today}
