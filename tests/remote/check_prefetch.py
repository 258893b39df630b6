#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Prefetching over nginx; check_remote_s3 runs the same over Ceph. And how it is refused and interrupted."""
import json
import os
import signal
import subprocess
import time

import prefetch_checks as pf
import remote_lib as r
from remote_lib import Mismatch
from remote_places import Nginx


def refused(place, made):
    """Without a cache, or with one that cannot be used, it says what to do; a local chain needs none."""
    made.tools.fails("--cache-dir", "prefetch", made.url, rules=[])
    where = place.path("a-file")
    with open(where, "w", encoding="ascii") as f:
        f.write("x")
    made.tools.fails("cannot be used", "prefetch", made.url, rules=["cache-dir " + where])
    got = made.tools.run("prefetch", "--output=json", os.path.join(made.home, made.top), rules=[]).json()
    if got["visible"] or not got["local"]:
        raise Mismatch(f"of a local chain: {got}")


def interrupted(place, made):
    """SIGINT ends it soon, with the exit code for it."""
    rules = made.cache(place, "interrupted")
    p = subprocess.Popen(made.tools.argv("prefetch", "--no-index", "-r", "500k", "--progress=json", made.url,
                                         rules=rules), env=made.tools.env, stderr=subprocess.PIPE, text=True,
                         stdout=subprocess.DEVNULL)
    line = p.stderr.readline()
    time.sleep(1.3 * r.SLOW)
    began = time.monotonic()
    p.send_signal(signal.SIGINT)
    rest = p.stderr.read()
    if p.wait() != 130 or time.monotonic() - began > 3 * r.SLOW:
        raise Mismatch(f"exit {p.returncode} after {time.monotonic() - began:.2f} s: {rest}")
    for said in [line] + rest.splitlines():
        told = json.loads(said)
        if told["done"] > told["total"] or told["total"] not in (0, 64 << 20): # 0: not open yet
            raise Mismatch(f"progress: {said}")
    if told["total"] == 0:
        raise Mismatch("no progress is told")


r.main("check_prefetch", pf.CHECKS + [refused, interrupted], lambda place: pf.Made(place, Nginx(place)))
