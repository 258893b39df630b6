#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Changing a chain whose layers lie behind URLs: a tip on this machine is moved onto a lower layer. The disk stays
as it was; no more is asked for than what moves and where it lies, and all of that at once."""
import json
import os
import shutil
import subprocess
import time

import remote_lib as r
from remote_lib import Mismatch

HEAD = 16 << 10     # of a layer below the top
DELAY = 0.02
FAR = 0.1


class Made:
    """nginx behind a proxy that counts, and is far away."""

    def __init__(self, place):
        self.nginx = place.server("nginx")
        self.proxy = place.proxy(self.nginx["HTTP"], delay_ms=DELAY * 1000)
        self.far = place.proxy(self.nginx["HTTP"], delay_ms=FAR * 1000)
        self.tools = place.tools()
        self.place = place
        self.seed = place.seed
        self.n = 0

    def chain(self, depth, **how):
        """(directory, the names of its layers from the base on, URL of the directory, what its top reads as)."""
        self.n += 1
        home = os.path.join(self.nginx["WWW"], "dav", f"s{self.n}")
        r.make_simple(home, depth, seed=self.seed + self.n, **how)
        names = sorted(os.listdir(home))
        oracle = r.flatten(os.path.join(home, names[-1]), self.place.path(f"oracle.{self.n}"))
        return home, names, f"{self.proxy.url}/dav/s{self.n}", oracle

    def tip(self, home, name, backing):
        """A copy of the top here, over the layers there."""
        path = self.place.path(f"tip.{self.n}.qcow2")
        shutil.copyfile(os.path.join(home, name), path)
        subprocess.run(["qemu-img", "rebase", "-u", "-f", "qcow2", "-b", backing, "-F", "qcow2", path], check=True)
        return path

    def requests_of(self, verb, *rest, proxy=None):
        proxy = proxy or self.proxy
        before = len(proxy.log())
        self.tools.run(verb, "--allow-url", proxy.url + "/", *rest)
        return proxy.log()[before:]

    def right(self, what, tip, oracle, base):
        """By what is there locally: the chain reads as before."""
        if base:
            subprocess.run(["qemu-img", "rebase", "-u", "-f", "qcow2", "-b", base, "-F", "qcow2", tip], check=True)
        for argv in (["check", "-q", "-f", "qcow2", tip],
                     ["compare", "-q", "-f", "qcow2", "-F", "raw", tip, oracle]):
            done = subprocess.run(["qemu-img", *argv], capture_output=True, check=False, encoding="utf-8")
            if done.returncode:
                raise Mismatch(f"{what}: qemu-img {argv[0]}: {done.stdout}{done.stderr}")


def visible(home, name):
    """Bytes that layers between a top and the base show."""
    done = subprocess.run(["qemu-img", "map", "--output=json", "-f", "qcow2", os.path.join(home, name)],
                          capture_output=True, check=True)
    extents = json.loads(done.stdout)
    last = max(e["depth"] for e in extents)
    return sum(e["length"] for e in extents if 0 < e["depth"] < last and e["data"])


def least(_, made):
    """Of the base no more than its head, of the rest what shows and the tables: not a byte twice."""
    home, names, url, oracle = made.chain(4)
    seen = visible(home, names[-1])
    tip = made.tip(home, names[-1], f"{url}/{names[2]}")
    log = made.requests_of("rebase", "--no-index", "-b", f"{url}/{names[0]}", "-F", "qcow2", tip)
    base = sum(q["bytes"] for q in log if q["path"].endswith(names[0]))
    rest = sum(q["bytes"] for q in log if q["path"].endswith((names[1], names[2])))
    if base > HEAD:
        raise Mismatch(f"{base} bytes of the base were read")
    # An L1 and an L2 table each, beside the head.
    if rest < seen or rest > seen + 2 * (HEAD + 2 * 65536):
        raise Mismatch(f"{rest} bytes of the layers between were read, of which {seen} show")
    made.right("rebase", tip, oracle, os.path.join(home, names[0]))
    return f"{rest} bytes for {seen}, {len(log)} requests"


def at_once(_, made):
    """Pieces that lie apart take a round trip together, not one each."""
    home, names, url, oracle = made.chain(3, size=256 << 20)
    url = url.replace(made.proxy.url, made.far.url)
    commands = [x for i in range(400) for x in ("-c", f"write -q -P {i % 250 + 1} {i * 655360} 64k")]
    top = os.path.join(home, names[2])
    subprocess.run(["qemu-io", "-t", "unsafe", "-f", "qcow2", *commands, os.path.join(home, names[1])], check=True,
                   stdout=subprocess.DEVNULL)
    r.flatten(top, oracle)
    tip = made.tip(home, names[2], f"{url}/{names[1]}")
    began = time.monotonic()
    log = made.requests_of("rebase", "--no-index", "-b", f"{url}/{names[0]}", "-F", "qcow2", tip,
                           proxy=made.far)
    seconds = time.monotonic() - began
    made.right("rebase", tip, oracle, os.path.join(home, names[0]))
    if len(log) < 300:
        raise Mismatch(f"{len(log)} requests: that is no test of many")
    # Eight threads that ask for one piece after the other would take five seconds.
    if seconds > r.SLOW * 4:
        raise Mismatch(f"{len(log)} requests took {seconds:.1f} s")
    return f"{len(log)} requests in {seconds:.2f} s"


def edges(_, made):
    """The tip's clusters are larger than what moves: the rest of each is read from below, exactly."""
    home, names, url, oracle = made.chain(3, options="cluster_size=4k")
    tip = os.path.join(home, "large.qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=64k", "-b", names[2], "-F", "qcow2",
                    tip], check=True)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -q -P 3 1M 100k", tip], check=True, stdout=subprocess.DEVNULL)
    r.flatten(tip, oracle)
    for verb, base in (("rebase", names[0]), ("stream", names[0]), ("rebase", "")):
        mine = made.tip(home, "large.qcow2", f"{url}/{names[2]}")
        target = f"{url}/{base}" if base else ""
        log = made.requests_of(verb, "-b", target, *(["-F", "qcow2"] if verb == "rebase" and base else []), mine)
        moved = sum(q["bytes"] for q in log)
        stored = sum(os.path.getsize(os.path.join(home, n)) for n in names)
        if moved > stored + len(log) * 4096:
            raise Mismatch(f"{verb} {base}: {moved} bytes were moved; the files have {stored}")
        made.right(f"{verb} {base}", mine, oracle, os.path.join(home, base) if base else None)


r.main("check_remote_surgery", [least, at_once, edges], Made)
