#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A network and servers that fail: the same bytes, or an error that tells in time; an object that is
replaced while it is read never gives bytes of two generations."""
import os
import random
import subprocess
import threading
import time

import remote_lib as r
from remote_lib import Mismatch, lib

QUICK = ["stall-timeout 1", "connect-timeout 3"]
SMALL = ["block-size 64K"]     # many requests


class Made:
    """nginx with a chain and a raw image."""

    def __init__(self, place):
        self.nginx = place.server("nginx")
        self.www = self.nginx["WWW"]
        self.port = self.nginx["HTTP"]
        self.http = f"http://127.0.0.1:{self.port}"
        self.top = r.make_simple(self.www, 8, seed=place.seed)
        self.raw = r.flatten(os.path.join(self.www, self.top), place.path("oracle.raw"))
        self.digest = lib.digest(self.raw)
        self.tools = place.tools(QUICK)
        self.big = os.path.join(self.www, "big.raw")
        with open(self.big, "wb") as f:
            f.write(random.Random(place.seed).randbytes(8 << 20))
        self.big_sha = r.sha256_of(self.big)

    def right(self, base, rules=()):
        got = self.tools.run("checksum", f"{base}/{self.top}", rules=QUICK + list(rules))
        if self.digest not in got.out.decode():
            raise Mismatch(f"digest {got.out!r}, should be {self.digest}")
        return got

    def right_big(self, place, base, rules=()):
        out = place.path("big.out")
        got = self.tools.run("read", "-q", "-f", "raw", base + "/big.raw", out,
                             rules=QUICK + list(rules))
        if r.sha256_of(out) != self.big_sha:
            raise Mismatch("big.raw: other bytes")
        return got


def five_percent(place, made):
    """All kinds of faults at once."""
    total, retries = 0, 0
    for i in range(3):
        proxy = place.proxy(made.port, fail_rate=0.0125, truncate_rate=0.0125, reset_rate=0.0125,
                            stall_rate=0.0125, retry_after=0, seed=place.seed + i)
        retries += made.right(proxy.url, SMALL).stats["http-retries"]
        retries += made.right_big(place, proxy.url, SMALL).stats["http-retries"]
        stats = proxy.stop()
        total += sum(stats[k] for k in ("fail", "truncate", "reset", "stall"))
    if not total or not retries:
        raise Mismatch(f"{total} faults, {retries} retries: this tested nothing")
    return f"{total} faults, {retries} retries"


def many(place, made):
    """One kind at a time, at every third request."""
    for kind in ("fail", "truncate", "reset"):
        for status in (503, 429, 500) if kind == "fail" else (0,):
            options = {kind + "_rate": 0.3, "seed": place.seed}
            if status:
                options["fail_status"] = status
            proxy = place.proxy(made.port, **options)
            made.right(proxy.url, SMALL)
            if not proxy.stop()[kind]:
                raise Mismatch(f"no {kind} was injected")


def cuts(place, made):
    """Bodies that end at certain bytes. What came before the cut need not be asked for again."""
    for at in (0, 1, 4095, 65535):
        for kind in ("truncate", "reset"):
            proxy = place.proxy(made.port, **{kind + "_rate": 0.4, "fault_at": at,
                                              "seed": place.seed + at})
            made.right(proxy.url)
            made.right_big(place, proxy.url)
            proxy.stop()


def stalls(place, made):
    """Silence ends an attempt, and others go on meanwhile."""
    proxy = place.proxy(made.port, stall_rate=0.2, fault_at=5000, seed=place.seed)
    began = time.monotonic()
    made.right(proxy.url, SMALL)
    took = time.monotonic() - began
    stats = proxy.stop()
    if not stats["stall"]:
        raise Mismatch("nothing stalled")
    if took > 60 * r.SLOW:
        raise Mismatch(f"{stats['stall']} stalls took {took:.0f} s")
    return f"{stats['stall']} stalls, {took:.1f} s"


def retry_after(place, made):
    """A server that asks to wait for a second is not asked sooner."""
    proxy = place.proxy(made.port, fail_rate=1, fail_status=429, retry_after=1)
    made.tools.fails(("slow", "429", "throttl", "busy"), "checksum", f"{proxy.url}/{made.top}",
                     rules=QUICK + ["deadline 6", "hedge off"])
    log = proxy.log()
    by_range = {}
    for x in log:
        by_range.setdefault((x["path"], x["range"]), []).append(x["time"])
    for times in by_range.values():
        # Those at the end may come sooner: then the deadline does.
        close = [b - a for a, b in zip(times, times[1:]) if b - a < 0.95 and times[0] + 6 - a > 1.05]
        if close:
            raise Mismatch(f"asked again after {min(close):.2f} s: {times}")
    if max(len(t) for t in by_range.values()) < 2:
        raise Mismatch(f"not asked again at all: {log}")


def deadlines(place, made):
    """When nothing helps, the error comes in time and says what is wrong."""
    cases = [({"fail_rate": 1, "fail_status": 503}, ("503", "unavailable")),
             ({"truncate_rate": 1, "fault_at": 0}, ()), ({"reset_rate": 1, "fault_at": 0}, ()),
             ({"stall_rate": 1, "fault_at": 0}, ("time", "no answer", "stall", "slow"))]
    for options, words in cases:
        proxy = place.proxy(made.port, **options)
        began = time.monotonic()
        got = made.tools.fails(words, "checksum", f"{proxy.url}/{made.top}",
                               rules=QUICK + ["deadline 5"])
        took = time.monotonic() - began
        n = proxy.stop()["requests"]
        if took > 30 * r.SLOW:
            raise Mismatch(f"{options}: {took:.1f} s for a deadline of 5: {got.err}")
        if n > 200:
            raise Mismatch(f"{options}: {n} requests in {took:.1f} s")
    # Not everything is worth another try.
    for path, most in (("/nothing", 2), ("/private/big.raw", 2)):
        proxy = place.proxy(made.port)
        made.tools.fails("", "checksum", proxy.url + path, rules=QUICK)
        n = sum(not x["path"].endswith(".qci") for x in proxy.log())
        if n > most:
            raise Mismatch(f"{path}: {n} requests for what will not change")


def recovers(place, made):
    """What failed once is not bad for ever: a server that comes back is read again."""
    proxy = place.proxy(made.port, fail_rate=0)
    out = place.path("big.out")
    url = f"{proxy.url}/big.raw"
    proxy.stop()
    made.tools.fails(("connect", "refused"), "read", "-q", "-f", "raw", url, out,
                     rules=QUICK + ["deadline 3"])
    made.right_big(place, made.http)


# ------------------------------------------------------------------- generations ---

def replace(path, body, mtime):
    with open(path + ".new", "wb") as f:
        f.write(body)
    os.utime(path + ".new", (mtime, mtime))
    os.rename(path + ".new", path)


def swapped(place, made):
    """Replaced under a reader: CHANGED, or all of the old one."""
    path, out = os.path.join(made.www, "swap.raw"), place.path("swap.out")
    changed = 0
    for i, base in enumerate(("", "/noetag", "/weak", "")):
        old, new = os.urandom(6 << 20), os.urandom(6 << 20)
        replace(path, old, 1_000_000_000 + 2 * i)
        slow = place.proxy(made.port, bandwidth=4)
        # In the end with a replica, on which it is replaced as well.
        more = [f"replica {slow.url}/ http://127.0.0.1:{made.nginx['HTTP_OTHER']}/"] if i == 3 else []
        argv = made.tools.argv("read", "-q", "-f", "raw", f"{slow.url}{base}/swap.raw", out,
                               rules=QUICK + ["connections 2", "hedge off"] + SMALL + more)
        with subprocess.Popen(argv, env=made.tools.env, stderr=subprocess.PIPE) as p:
            while slow.stats()["bytes_down"] < 1 << 20 and p.poll() is None:
                time.sleep(0.01)
            replace(path, new, 1_000_000_001 + 2 * i)
            err = p.stderr.read().decode()
        if p.returncode == 0:
            with open(out, "rb") as f:
                if f.read() != old:
                    raise Mismatch(f"{base}: bytes of two objects are mixed")
        elif not r.says_changed(err):
            raise Mismatch(f"{base}: it does not say what happened: {err}")
        else:
            changed += 1
        slow.stop()
    if not changed:
        raise Mismatch("no change was noticed: this tested nothing")


def truncated_object(place, made):
    """It becomes shorter, or is removed, while it is read."""
    path = os.path.join(made.www, "short.raw")
    for gone in (False, True):
        replace(path, os.urandom(6 << 20), 1_100_000_000)
        slow = place.proxy(made.port, bandwidth=4)
        argv = made.tools.argv("read", "-q", "-f", "raw", f"{slow.url}/short.raw", os.devnull,
                               rules=QUICK + ["connections 1", "deadline 8", "hedge off"] + SMALL)
        with subprocess.Popen(argv, env=made.tools.env, stderr=subprocess.PIPE) as p:
            while slow.stats()["bytes_down"] < 1 << 20 and p.poll() is None:
                time.sleep(0.01)
            if gone:
                os.unlink(path)
            else:
                replace(path, b"x" * 1000, 1_100_000_001)
            err = p.stderr.read().decode()
        slow.stop()
        if p.returncode == 0:
            raise Mismatch("what is gone was read")
        if not r.says_changed(err) and not any(w in err for w in ("not found", "no such", "404")):
            raise Mismatch(f"it does not say what happened: {err}")


def generations(place, made):
    """Readers while an object is replaced again and again: each reads one generation or fails."""
    path = os.path.join(made.www, "gen.raw")
    size = 1 << 20
    bodies = [bytes((i,)) * size for i in range(1, 100)]
    replace(path, bodies[0], 1_200_000_000)
    stop, wrong, counts = threading.Event(), [], {"whole": 0, "changed": 0}
    proxy = place.proxy(made.port, bandwidth=30, truncate_rate=0.02, reset_rate=0.02,
                        seed=place.seed)

    def reader():
        while not stop.is_set():
            got = made.tools.run("read", "-q", "-f", "raw", proxy.url + "/gen.raw", "-", ok=None,
                                 rules=QUICK + SMALL + ["hedge off"])
            if got.status == 0:
                counts["whole"] += 1
                if len(set(got.out)) != 1 or len(got.out) != size:
                    wrong.append(f"bytes of generations {sorted(set(got.out))}")
            elif r.says_changed(got.err):
                counts["changed"] += 1
            else:
                wrong.append(got.err)

    readers = [threading.Thread(target=reader) for _ in range(3)]
    for t in readers:
        t.start()
    rng = random.Random(place.seed)
    for i in range(1, 60):
        time.sleep(rng.random() * 0.2)
        replace(path, bodies[i], 1_200_000_000 + i)
    stop.set()
    for t in readers:
        t.join()
    if wrong:
        raise Mismatch(wrong[0])
    if not counts["whole"] or not counts["changed"]:
        raise Mismatch(f"{counts}: this tested nothing")
    return str(counts)


r.main("check_remote_faults", [five_percent, many, cuts, stalls, retry_after, deadlines, recovers,
                               swapped, truncated_object, generations], Made)
