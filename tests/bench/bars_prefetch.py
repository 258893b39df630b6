# SPDX-License-Identifier: MIT
"""What reads feel of a prefetch that runs beside them in one environment (QCHAIN_PREFETCH_IDLE), through the
network of bars_remote.py."""

import os
import random
import shutil

from bars_remote import BANDWIDTH, BLOCK, net, with_index, write_list
from bench_bars import Bar, rate
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


BARS = {"remote-idle": remote_idle}
