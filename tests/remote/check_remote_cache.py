#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The disk cache: a second process asks the server for nothing; a limit that is kept; damage, kills,
full disks and foreign directories, which never give wrong bytes and never fail a read."""
import os
import random
import signal
import subprocess
import time

import remote_lib as r
from remote_lib import Mismatch, lib


class Made:
    """nginx behind a proxy that counts, and a chain."""

    def __init__(self, place):
        self.nginx = place.server("nginx")
        self.www = self.nginx["WWW"]
        self.proxy = place.proxy(self.nginx["HTTP"])
        self.top = r.make_simple(self.www, 6, size=32 << 20, seed=place.seed)
        self.url = f"{self.proxy.url}/{self.top}"
        self.raw = r.flatten(os.path.join(self.www, self.top), place.path("oracle.raw"))
        self.digest = lib.digest(self.raw)
        self.tools = place.tools()
        self.big = os.path.join(self.www, "big.raw")
        with open(self.big, "wb") as f:
            f.write(random.Random(place.seed).randbytes(40 << 20))
        os.utime(self.big, (1_000_000_000, 1_000_000_000))
        self.moved()

    def moved(self):
        """Requests and bytes since the last call."""
        now = self.proxy.stats()
        last, self.last = getattr(self, "last", now), now
        return now["requests"] - last["requests"], now["bytes_down"] - last["bytes_down"]

    def right(self, rules, url=None):
        got = self.tools.run("checksum", url or self.url, rules=rules)
        if self.digest not in got.out.decode():
            raise Mismatch(f"digest {got.out!r}, should be {self.digest}")
        return got

    def asked(self, rules):
        """Read the chain; (statistics, requests but those for indexes that are not there)."""
        before = len(self.proxy.log())
        stats = self.right(rules).stats
        return stats, [x for x in self.proxy.log()[before:] if not x["path"].endswith(".qci")]

    def right_big(self, place, rules):
        out = place.path("big.out")
        got = self.tools.run("read", "-q", "-f", "raw", self.proxy.url + "/big.raw", out, rules=rules)
        lib.same_file("big.raw", out, self.big)
        return got


def new_dir(place, name):
    path = place.path(name)
    os.makedirs(path, 0o700)
    return path


def size_of(directory):
    return sum(os.stat(os.path.join(h, n)).st_blocks * 512 for h, _, names in os.walk(directory)
               for n in names)


def files_of(directory):
    return [os.path.join(h, n) for h, _, names in os.walk(directory) for n in names]


def second_process(place, made):
    """Nothing is asked for within the time of trust, hardly anything without it."""
    cache = new_dir(place, "second")
    rules = ["cache-dir " + cache]
    made.moved()
    first = made.right(rules).stats
    n, size = made.moved()
    if not first["disk-stores"]:
        raise Mismatch(f"nothing was stored: {first}")
    again, log = made.asked(rules)
    # Each layer's first bytes tell whether it is what it was; nothing else is asked for.
    more = [x for x in log if not x["range"].startswith("bytes=0-") or x["bytes"] > 64 << 10]
    if more or len(log) > 6 or not again["disk-hits"]:
        raise Mismatch(f"again: {len(log)} requests, {more} (first {n}, {size}); {again}")
    made.right(rules + ["revalidate 3600"])
    _, trusted = made.asked(rules + ["revalidate 3600"])
    if trusted:
        raise Mismatch(f"with revalidate 3600: {trusted}")
    return f"{n} requests, {size} bytes; then {len(log)}; then none"


def without_server(place, made):
    """What is in the cache and trusted is read without any server."""
    cache = new_dir(place, "offline")
    rules = ["cache-dir " + cache, "revalidate 3600"]
    proxy = place.proxy(made.nginx["HTTP"])
    url = f"{proxy.url}/{made.top}"
    made.right(rules, url)
    made.right(rules, url)
    proxy.stop()
    made.right(rules + ["deadline 3"], url)


def eviction(place, made):
    """A cache of 8 MiB stays about that small, however much passes through it."""
    cache = new_dir(place, "small")
    rules = ["cache-dir " + cache, "cache-size 8M"]
    for _ in range(2):
        made.right_big(place, rules)
        made.right(rules)
    for _ in range(50):
        if size_of(cache) <= 12 << 20:
            break
        time.sleep(0.1)
    else:
        raise Mismatch(f"{size_of(cache) >> 20} MiB for cache-size 8M")
    return f"{size_of(cache) >> 10} KiB"


def damage(place, made):
    """Flipped bits, cut and swapped files: read from the server again."""
    cache = new_dir(place, "damaged")
    rules = ["cache-dir " + cache, "revalidate 3600"]
    rng = random.Random(place.seed)
    for kind in ("flip", "cut", "zero", "swap", "grow", "noise"):
        made.right(rules)
        paths = [p for p in files_of(cache) if os.path.getsize(p)]
        if not paths:
            raise Mismatch("there is nothing in the cache")
        for path in paths:
            size = os.path.getsize(path)
            with open(path, "r+b") as f:
                for _ in range(20 if kind == "flip" else 0):
                    at = rng.choice((rng.randrange(size), rng.randrange(min(size, 4096))))
                    byte = os.pread(f.fileno(), 1, at)
                    os.pwrite(f.fileno(), bytes((byte[0] ^ 1 << rng.randrange(8),)), at)
                if kind == "cut":
                    f.truncate(rng.randrange(size))
                elif kind == "zero":
                    os.pwrite(f.fileno(), bytes(min(size, 65536)), rng.randrange(size))
                elif kind == "grow":
                    f.truncate(size + 123457)
                elif kind == "noise":
                    os.pwrite(f.fileno(), rng.randbytes(min(size, 1 << 20)), 0)
        if kind == "swap":
            rng.shuffle(paths)
            for a, b in zip(paths[::2], paths[1::2]):
                os.rename(a, a + ".x")
                os.rename(b, a)
                os.rename(a + ".x", b)
        made.right(rules)
        made.right(rules)


def replaced(place, made):
    """The old object's bytes are not those of the new one."""
    cache = new_dir(place, "replaced")
    rules = ["cache-dir " + cache]
    made.right_big(place, rules)
    body = random.Random(place.seed + 1).randbytes(40 << 20)
    with open(made.big + ".new", "wb") as f:
        f.write(body)
    os.utime(made.big + ".new", (1_000_000_010, 1_000_000_010))
    os.rename(made.big + ".new", made.big)
    made.right_big(place, rules)
    made.right_big(place, rules)


def killed(place, made):
    """Readers that are killed at any time, four at once, over one small cache."""
    cache = new_dir(place, "killed")
    rules = ["cache-dir " + cache, "cache-size 16M"]
    rng = random.Random(place.seed)
    for _ in range(12):
        argv = made.tools.argv("read", "-q", "-f", "raw", made.proxy.url + "/big.raw", os.devnull,
                               rules=rules)
        group = [subprocess.Popen(argv, env=made.tools.env, stderr=subprocess.DEVNULL)
                 for _ in range(4)]
        time.sleep(rng.random() * 0.4 * r.SLOW)
        for p in group:
            p.send_signal(signal.SIGKILL)
            p.wait()
        made.right(rules)
    made.right_big(place, rules)
    made.right_big(place, rules)


def together(place, made):
    """Processes that fill one cache at the same time."""
    cache = new_dir(place, "together")
    rules = ["cache-dir " + cache, "cache-size 20M"]
    outs = [place.path(f"together.{i}") for i in range(4)]
    group = [subprocess.Popen(made.tools.argv("read", "-q", "-f", "raw",
                                              made.proxy.url + "/big.raw", out, rules=rules),
                              env=made.tools.env, stderr=subprocess.PIPE) for out in outs]
    for p, out in zip(group, outs):
        err = p.communicate()[1].decode()
        if p.returncode:
            raise Mismatch(err)
        lib.same_file("read by one of four", out, made.big)


def foreign(place, made):
    """A directory that others may write to is not used; one that is a file neither."""
    open_dir = new_dir(place, "open")
    os.chmod(open_dir, 0o777)
    made.tools.run("checksum", made.url, rules=["cache-dir " + open_dir], ok=(0, 1))
    if files_of(open_dir):
        raise Mismatch(f"a directory of mode 777 is used: {files_of(open_dir)}")
    path = place.path("not-a-directory")
    with open(path, "w", encoding="ascii") as f:
        f.write("x")
    made.tools.run("checksum", made.url, rules=["cache-dir " + path], ok=(0, 1))
    target = new_dir(place, "target")
    link = place.path("link")
    os.symlink(target, link)
    made.tools.run("checksum", made.url, rules=["cache-dir " + link], ok=(0, 1))
    mode = os.stat(new_and_used(place, made)).st_mode & 0o777
    if mode & 0o077:
        raise Mismatch(f"the library made a cache of mode {mode:o}")


def new_and_used(place, made):
    cache = place.path("made-by-the-library")
    made.right(["cache-dir " + cache])
    return cache


def full(place, made):
    """A full disk: reads go on."""
    cache = new_dir(place, "full")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m,mode=700", "none", cache],
                      capture_output=True, check=False).returncode:
        raise r.Missing("a small file system cannot be mounted here")
    try:
        made.right(["cache-dir " + cache])
        made.right_big(place, ["cache-dir " + cache])
        made.right(["cache-dir " + cache])
    finally:
        subprocess.run(["umount", "-l", cache], check=False)


r.main("check_remote_cache", [second_process, without_server, eviction, damage, replaced, killed,
                              together, foreign, full], Made)
