# SPDX-License-Identifier: MIT
"""Prefetching, of a chain on whatever server (remote_places.py): what is visible and no more, once, under limits,
after kills; then another process asks the server for nothing."""
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time

import remote_lib as r
from remote_lib import Mismatch, lib
from remote_places import rules_file

CLUSTER = 65536
BLOCK = 65536


class Made:
    """A chain of which half the data is hidden, on a server behind a proxy that counts."""

    def __init__(self, place, server):
        self.server, self.home = server, server.home
        self.proxy = server.proxy(place)
        self.top = make_redundant(self.home, 6, place.seed)
        self.layers = [f"half-{i}.qcow2" for i in range(6)]
        server.publish(*self.layers)
        self.url = self.url_of(self.top)
        self.raw = r.flatten(os.path.join(self.home, self.top), place.path("oracle.raw"))
        self.tools = place.tools()
        self.wanted, self.hidden, self.stored = visible(os.path.join(self.home, self.top), self.layers)

    def url_of(self, name):
        return self.server.url(self.proxy, name)

    def cache(self, place, name):
        """Rules for a new disk cache, and the server."""
        path = place.path(name)
        os.makedirs(path, 0o700)
        return ["cache-dir " + path] + self.server.rules(self.proxy)

    def prefetch(self, rules, *more, **how):
        """The result, the requests, and what the proxy saw."""
        before = len(self.proxy.log())
        got = self.tools.run("prefetch", "--no-index", "--output=json", *more, self.url, rules=rules, **how)
        return got.json() if got.status == 0 else None, self.proxy.log()[before:], got

    def reads_nothing(self, place, rules):
        """Another process reads the right bytes, and asks for none of them."""
        before = len(self.proxy.log())
        out = place.path("out.raw")
        self.tools.run("read", "-q", "--no-index", self.url, out, rules=rules + ["revalidate 3600"])
        lib.same_file("the disk from the cache", out, self.raw)
        log = self.proxy.log()[before:]
        if log:
            raise Mismatch(f"{len(log)} requests after a prefetch: {log[:3]}")


def make_redundant(directory, depth, seed):
    """Layers that each write over half of what the one below wrote; the name of the top."""
    rng = random.Random(seed)
    noise, below = os.path.join(directory, "noise"), None
    for i in range(depth):
        name = f"half-{i}.qcow2"
        argv = ["qemu-img", "create", "-q", "-f", "qcow2"] + (["-u", "-b", below, "-F", "qcow2"] if below else [])
        subprocess.run(argv + [name, "64M"], cwd=directory, check=True)
        with open(noise, "wb") as f:
            f.write(rng.randbytes(1 << 20))
        commands = []
        for _ in range(60):
            n = CLUSTER * rng.randint(1, 6)
            at = rng.randrange((40 << 20) // CLUSTER) * CLUSTER
            commands += ["-c", f"write -q -s noise {at} {n}"]
        subprocess.run(["qemu-io", "-t", "unsafe", "-f", "qcow2", *commands, name], cwd=directory, check=True,
                       stdout=subprocess.DEVNULL)
        below = name
    os.unlink(noise)
    return below


def visible(top, layers):
    """By qemu-img: {layer: set of blocks that show}, the same of those that are hidden, bytes of all data."""
    home = os.path.dirname(top)
    shown = {name: set() for name in layers}
    hidden = {name: set() for name in layers}
    stored = 0
    whole = json.loads(subprocess.run(["qemu-img", "map", "--output=json", top], check=True,
                                      stdout=subprocess.PIPE).stdout)
    for e in whole:
        if e["data"] and "offset" in e:
            shown[layers[len(layers) - 1 - e["depth"]]].update(
                range(e["offset"] // BLOCK, (e["offset"] + e["length"] - 1) // BLOCK + 1))
    for name in layers:
        own = json.loads(subprocess.run(["qemu-img", "map", "--output=json", os.path.join(home, name)], check=True,
                                        stdout=subprocess.PIPE).stdout)
        for e in own:
            if e["depth"] == 0 and e["data"] and "offset" in e:
                blocks = set(range(e["offset"] // BLOCK, (e["offset"] + e["length"] - 1) // BLOCK + 1))
                stored += BLOCK * len(blocks)
                hidden[name] |= blocks - shown[name]
    return shown, hidden, stored


def ranges_of(log):
    for x in log:
        m = re.match(r"bytes=(\d+)-(\d+)", x["range"])
        name = x["path"].rsplit("/", 1)[-1]
        if m and name.startswith("half-") and name.endswith(".qcow2"):
            yield name, int(m[1]), int(m[1]) + x["bytes"]


def only_what_shows(place, made):
    """No hidden block, no block twice, and hardly more bytes than what shows."""
    rules = made.cache(place, "shows")
    result, log, _ = made.prefetch(rules)
    n_shown = sum(len(b) for b in made.wanted.values())
    n_hidden = sum(len(b) for b in made.hidden.values())
    if n_hidden < n_shown / 2:
        raise Mismatch(f"the chain has {n_hidden} hidden blocks and {n_shown} that show: it tests nothing")
    asked, twice = {}, 0
    for name, start, end in ranges_of(log):
        for block in range(start // BLOCK, -(-end // BLOCK)):
            if block in made.wanted[name]:
                twice += (name, block) in asked
                asked[name, block] = True
            elif block in made.hidden[name]:
                raise Mismatch(f"{name} {start}..{end}: block {block} is hidden, and was fetched")
    if twice or len(asked) != n_shown:
        raise Mismatch(f"{len(asked)} of {n_shown} blocks, {twice} of them twice")
    if result["end"] != "all" or result["cached"] or not n_shown * BLOCK <= result["fetched"] <= 1.1 * n_shown * BLOCK:
        raise Mismatch(f"{result}, {n_shown} blocks of {BLOCK}")
    size = sum(x["bytes"] for x in log)
    if size > 1.1 * n_shown * BLOCK + (2 << 20): # and tables
        raise Mismatch(f"{size} bytes moved for {n_shown * BLOCK}")
    made.reads_nothing(place, rules)
    again, log, _ = made.prefetch(rules)
    if again["fetched"] or again["requests"] or again["cached"] != result["fetched"]:
        raise Mismatch(f"again: {again}")
    return f"{result['fetched'] >> 10} KiB by {result['requests']} requests, {n_hidden} hidden blocks left"


def killed(place, made):
    """Killed again and again; what it had is not fetched again, and in the end all is there."""
    slow = made.server.proxy(place, delay_ms=5, bandwidth=20)
    rules = made.cache(place, "killed") + made.server.rules(slow)
    before = len(slow.log())
    url = made.server.url(slow, made.top)
    rng = random.Random(place.seed)
    for _ in range(5):
        had = sum(x["bytes"] for x in slow.log())
        p = subprocess.Popen(made.tools.argv("prefetch", "-q", "--no-index", url, rules=rules), env=made.tools.env)
        while p.poll() is None and sum(x["bytes"] for x in slow.log()) < had + (2 << 20):
            time.sleep(0.01)    # until some of it has come, however slow the machine is
        time.sleep(rng.random() * 0.3 * r.SLOW)
        p.send_signal(signal.SIGKILL)
        p.wait()
    result = made.tools.run("prefetch", "--no-index", "--output=json", url, rules=rules).json()
    log = slow.log()[before:]
    size, n_shown = sum(x["bytes"] for x in log), sum(len(b) for b in made.wanted.values())
    if not result["cached"] and r.SLOW == 1:
        raise Mismatch(f"nothing was kept: {result}")
    # What was on its way when it died is lost: 16 MiB at most, each time.
    if result["fetched"] + result["cached"] < n_shown * BLOCK or result["end"] != "all":
        raise Mismatch(f"{result}: less than {n_shown * BLOCK}")
    out = place.path("killed.raw")
    before = len(slow.log())
    made.tools.run("read", "-q", "--no-index", url, out, rules=rules + ["revalidate 3600"])
    lib.same_file("the disk from the cache", out, made.raw)
    if len(slow.log()) != before:
        raise Mismatch(f"requests after it: {slow.log()[before:][:3]}")
    return f"{result['cached'] >> 10} KiB were kept, {size >> 10} KiB moved in all"


def limits(place, made):
    """Bytes, time, rates, ranges, tables alone."""
    rules = made.cache(place, "limits")
    result, log, _ = made.prefetch(rules, "--metadata")
    if result["fetched"] or not result["visible"] or sum(x["bytes"] for x in log) > 3 << 20:
        raise Mismatch(f"--metadata: {result}, {len(log)} requests")
    again, log, _ = made.prefetch(rules + ["revalidate 3600"], "--metadata")
    if log:
        raise Mismatch(f"--metadata again: {log[:3]}")
    result, _, _ = made.prefetch(rules, "--max-bytes", "1M")
    if not 900 << 10 <= result["fetched"] <= 1 << 20 or result["end"] != "max-bytes":
        raise Mismatch(f"--max-bytes: {result}")
    began = time.monotonic()
    result, _, _ = made.prefetch(rules, "-r", "2M", "-s", "0", "-l", "6M")
    took = time.monotonic() - began
    if result["fetched"] > 2e6 * (took + 0.3) * 1.1 or result["end"] != "all":
        raise Mismatch(f"-r 2M: {result} in {took:.2f} s")
    began = time.monotonic()
    result, _, _ = made.prefetch(rules, "--requests", "10", "--deadline", "1")
    took = time.monotonic() - began
    if result["end"] != "deadline" or result["requests"] > 2 + 10 * took or took > 30:
        raise Mismatch(f"--requests 10 --deadline 1: {result} in {took:.2f} s")
    fresh = made.cache(place, "range")
    result, log, _ = made.prefetch(fresh, "--range", "20M+1M", "--range", "1M+64k")
    if result["visible"] > (1 << 20) + CLUSTER or result["fetched"] > (1 << 20) + CLUSTER:
        raise Mismatch(f"--range: {result}")


def several(place, made):
    """Two disks that share layers, under one budget: nothing is fetched twice."""
    rules = made.cache(place, "several")
    below = made.url_of(made.layers[-2])
    before = len(made.proxy.log())
    got = made.tools.run("prefetch", "--no-index", "--output=json", made.url, below, rules=rules).json()
    seen = {}
    for name, start, end in ranges_of(made.proxy.log()[before:]):
        for block in range(start // BLOCK, -(-end // BLOCK)):
            if block in made.wanted[name] and block >= 5: # the first ones may be tables of both
                seen[name, block] = seen.get((name, block), 0) + 1
    twice = [k for k, v in seen.items() if v > 1]
    if twice:
        raise Mismatch(f"{len(twice)} of {len(seen)} blocks twice: {twice[:5]}")
    made.reads_nothing(place, rules)
    return f"{got}"


def boot_reads(rng, size, count):
    """As of a system that starts: small reads, most of them right behind the last one."""
    reads, at = [], 0
    for _ in range(count):
        length = 4096 * rng.choice((1, 1, 1, 2, 4, 8, 16))
        if rng.random() < 0.35 or at + length > size:
            at = rng.randrange((size - length) // 4096) * 4096
        reads.append((at, length))
        at += length
    return reads


def boot(made, url, rules, reads, *more):
    """Read them, one after the other, through the shell; with small blocks, so that what is missing takes requests."""
    made.tools.run("io", "-r", "--no-index", *more,
                   *(x for at, n in reads for x in ("-c", f"read -q {at} {n}")), url,
                   rules=rules + ["revalidate 3600", "block-size 64K"])


def replayed(place, made, url, name, reads, *trace):
    """Prefetch what a trace says into an empty cache, and boot from it: requests of the boot, the result."""
    rules = made.cache(place, name)
    result = made.tools.run("prefetch", "-q", "--no-index", "--output=json", *trace, url, rules=rules).json()
    before = len(made.proxy.log())
    boot(made, url, rules, reads)
    n = len(made.proxy.log()) - before
    if n > 0.05 * len(reads):
        raise Mismatch(f"{name}: {n} requests for {len(reads)} reads after a prefetch by a trace: {result}")
    for at, length in reads[:: max(1, len(reads) // 8)]:
        out = made.tools.run("read", "-q", "--no-index", "--offset", str(at), "--length", str(length), url, "-",
                             rules=rules + ["revalidate 3600"]).out
        with open(made.raw, "rb") as f:
            f.seek(at)
            if f.read(length) != out:
                raise Mismatch(f"{name}: other bytes at {at}")
    return n, result


def traced(place, made):
    """What a boot read is fetched before the next one, which then asks for nothing; so, too, of the chain rebased."""
    reads = boot_reads(random.Random(place.seed), 48 << 20, 240)
    trace = place.path("boot.tr")
    before = len(made.proxy.log())
    boot(made, made.url, made.cache(place, "cold"), reads, "--record", trace)
    cold = len(made.proxy.log()) - before
    n, result = replayed(place, made, made.url, "traced", reads, "--trace", trace)
    if cold < 0.25 * len(reads) or result["end"] != "all" or not 0 < result["fetched"] < 3 * sum(n for _, n in reads) + (8 << 20):
        raise Mismatch(f"{cold} requests of the cold boot, {result}")
    # The trace beside the image, and both disks by one each.
    os.link(trace, os.path.join(made.home, made.top + ".qctrace"))
    made.server.publish(made.top + ".qctrace")
    _, beside = replayed(place, made, made.url, "beside", reads, "--trace", "auto")
    if beside["fetched"] + beside["cached"] != result["fetched"] + result["cached"]:
        raise Mismatch(f"the trace beside the image: {beside}, not {result}")
    # Another chain with the same disk.
    moved = "moved-" + made.top
    shutil.copyfile(os.path.join(made.home, made.top), os.path.join(made.home, moved))
    made.tools.run("rebase", "-q", "-b", made.layers[1], "-F", "qcow2", os.path.join(made.home, moved), rules=[])
    made.server.publish(moved)
    again, rebased = replayed(place, made, made.url_of(moved), "rebased", reads, "--trace", trace)
    if rebased["visible"] != result["visible"]:
        raise Mismatch(f"rebased: {rebased}, before {result}")
    # And a clone of it.
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", made.top, "-F", "qcow2", "clone.qcow2"],
                   cwd=made.home, check=True)
    made.server.publish("clone.qcow2")
    replayed(place, made, made.url_of("clone.qcow2"), "cloned", reads, "--trace", trace)
    return f"{cold} requests cold, {n} after the trace ({result['requests']} for it), {again} rebased, {len(reads)} reads"



def held(made, image, *args):
    """Guest bytes that the image itself holds, and those that show of layers below it."""
    own = below = 0
    for e in made.tools.run("map", "--no-index", "--output=json", *args, image, rules=[]).json():
        own += e["length"] if e["data"] and e["depth"] == 0 else 0
        below += e["length"] if e["data"] and e["depth"] > 0 else 0
    return own, below


def alone(place, made, image):
    """Without what it stands on, the image has all bytes of the disk."""
    copy = place.path("alone.qcow2")
    shutil.copyfile(image, copy)
    subprocess.run(["qemu-img", "rebase", "-u", "-b", "", copy], check=True)
    subprocess.run(["qemu-img", "check", "-q", copy], check=True)
    subprocess.run(["qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", copy, made.raw], check=True)


def into_a_file(place, made):
    """A new image over the chain gets what shows; killed again and again it is valid, and the next run fetches what it
    lacks and nothing else."""
    slow = made.server.proxy(place, delay_ms=2, bandwidth=20)
    rules = made.server.rules(slow)
    url, image = made.server.url(slow, made.top), place.path("to.qcow2")
    reached = ["--remote-config", rules_file(place.path("to.rules"), rules), "--allow-url", made.server.url(slow, "")]
    rng = random.Random(place.seed)

    def prefetch(*args):
        return made.tools.run("prefetch", "--no-index", "--output=json", *args, rules=rules).json()

    some = prefetch("--max-bytes", "2M", "--to", image, url)
    if some["end"] != "max-bytes" or not 1 << 20 <= some["fetched"] <= 2 << 20:
        raise Mismatch(f"--max-bytes: {some}")
    for _ in range(2):
        # By its rate it runs for more than a second until so much has come: it stores for good more often.
        enough = slow.stats()["bytes_down"] + (5 << 20) + rng.randrange(1 << 20)
        p = subprocess.Popen(made.tools.argv("prefetch", "-q", "--no-index", "-r", "4M", "--to", image, url,
                                             rules=rules), env=made.tools.env)
        while p.poll() is None and slow.stats()["bytes_down"] < enough:
            time.sleep(0.02)
        p.kill()
        p.wait()
        checked = made.tools.run("check", "-q", *reached, image, rules=[], ok=(0, 3)) # 3: leaks, at most
    own, below = held(made, image, *reached)
    out, before = place.path("to.raw"), len(slow.log())
    result = prefetch("--to", image, url)
    if own <= some["fetched"]:
        raise Mismatch(f"killed prefetches left nothing: {own} bytes")
    if result["end"] != "all" or result["local"] != own or not below <= result["fetched"] <= 1.1 * below:
        raise Mismatch(f"it held {own} bytes, and lacked {below}: {result}")
    for name, start, end in ranges_of(slow.log()[before:]):
        for block in range(start // BLOCK, -(-end // BLOCK)):
            if block in made.hidden[name]:
                raise Mismatch(f"{name} {start}..{end}: block {block} is hidden, and was fetched")
    again = prefetch("--to", image, url)
    if again["fetched"] or again["requests"] or again["visible"] or again["local"] != own + below:
        raise Mismatch(f"again: {again}")
    made.tools.run("check", "-q", *(["-r", "leaks"] if checked.status else []), *reached, image, rules=[])
    made.tools.run("read", "-q", "--no-index", *reached, image, out, rules=[])
    lib.same_file("the disk", out, made.raw)
    alone(place, made, image)
    # Two disks under one budget; ranges, and no others.
    two = [place.path(name) for name in ("a.qcow2", "b.qcow2")]
    both = prefetch("--range", "0+8M", "--max-bytes", "10M", "--to", two[0], "--to", two[1], url,
                    made.server.url(slow, made.layers[-2]))
    parts = [held(made, name, *reached)[0] for name in two]
    if both["end"] != "max-bytes" or both["fetched"] > 10 << 20 or min(parts) == 0 or max(parts) > 8 << 20:
        raise Mismatch(f"two disks hold {parts}: {both}")
    made.tools.fails("backing file is not", "prefetch", "--to", two[0], made.server.url(slow, made.layers[-3]),
                     rules=rules)
    return f"{own} bytes survived 2 kills, {result['fetched']} came by {result['requests']} requests"


CHECKS = [only_what_shows, killed, limits, several, traced, into_a_file]
