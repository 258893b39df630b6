#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A sidecar index beside a tip behind a URL: it is found, and saves the requests for all layers; it
is asked for once where it is missing; one that lies is not believed."""
import os
import random
import time

import remote_lib as r
from remote_lib import Mismatch, lib

DEPTH = 20


class Made:
    """nginx that takes PUTs, behind a proxy that counts; a chain with an index built by URL."""

    def __init__(self, place):
        self.nginx = place.server("nginx")
        self.proxy = place.proxy(self.nginx["HTTP"])
        self.tools = place.tools(["revalidate 0"])
        self.seed = place.seed
        self.place = place
        self.n = 0

    def chain(self, depth=DEPTH, index=True):
        """(its directory, its top, its URL, the name of what it must read as)."""
        self.n += 1
        home = os.path.join(self.nginx["WWW"], "dav", f"c{self.n}")
        top = r.make_simple(home, depth, seed=self.seed + self.n)
        then = time.time() - 1000
        for i, name in enumerate(sorted(os.listdir(home))):
            os.utime(os.path.join(home, name), (then + i, then + i))
        url = f"{self.proxy.url}/dav/c{self.n}/{top}"
        oracle = r.flatten(os.path.join(home, top), self.place.path(f"oracle.{self.n}"))
        if index:
            self.tools.run("index", "build", "-q", "--no-wait", url)
            if not os.path.exists(os.path.join(home, top + ".qci")):
                raise Mismatch("index build of a URL put nothing beside it")
        return home, top, url, oracle

    def requests_of(self, verb, *rest, **how):
        """What the server was asked for while a tool ran: (result, list of requests)."""
        before = len(self.proxy.log())
        got = self.tools.run(verb, *rest, **how)
        return got, self.proxy.log()[before:]

    def used(self, url):
        return self.tools.run("index", "show", "--output=json", url, ok=None)

    def right(self, what, url, oracle, rules=None):
        got = self.tools.run("checksum", url, rules=rules)
        if lib.digest(oracle) not in got.out.decode():
            raise Mismatch(f"{what}: wrong bytes")

    def old_new_or_error(self, what, url, oracles, rules=None):
        """The bytes of the chain as it was or as it is now, or an error; never a mixture."""
        got = self.tools.run("checksum", url, rules=rules, ok=None)
        if got.status == 0 and not any(lib.digest(o) in got.out.decode() for o in oracles):
            raise Mismatch(f"{what}: bytes of no chain that ever was")
        return got


def saves(place, made):
    """Three requests for a map of many layers; the same map."""
    _, top, url, oracle = made.chain()
    got, log = made.requests_of("map", "--output=json", url,
                                rules=["verify first-read"])
    if len(log) > 3:
        raise Mismatch(f"{len(log)} requests: " + ", ".join(x["path"] + " " + x["range"] for x in log))
    names = {os.path.basename(x["path"]) for x in log}
    if names - {top, top + ".qci"}:
        raise Mismatch(f"a map by the index asked for {sorted(names)}")
    bare, without = made.requests_of("map", "--output=json", "--no-index", url)
    if len(without) < DEPTH or any(x["path"].endswith(".qci") for x in without):
        raise Mismatch(f"with --no-index: {len(without)} requests")
    lib.same_extents("map", lib.normalise(got.json()), lib.normalise(bare.json()))
    shown = made.used(url)
    if shown.status or not shown.json()["used"]:
        raise Mismatch(f"index show: {shown.out!r} {shown.err}")
    for how in ("background", "first-read", "strict"):
        made.right(how, url, oracle, ["verify " + how])
    return f"{len(log)} requests instead of {len(without)}"


def missing(place, made):
    """What is not there is asked for once, not once for each open."""
    _, _, url, _ = made.chain(3, index=False)
    _, log = made.requests_of("compare", url, url)
    asked = [x["path"] for x in log if x["path"].endswith(".qci")]
    if not asked or len(asked) != len(set(asked)):
        raise Mismatch(f"asked for missing indexes: {asked}")


def stale_tip(place, made):
    """A tip that was replaced: its old index is not used."""
    home, top, url, oracle = made.chain(4)
    other_home, other_top, _, other = made.chain(4, index=False)
    for name in os.listdir(other_home):
        if name == other_top:
            with open(os.path.join(other_home, name), "rb") as f, \
                    open(os.path.join(home, name + ".new"), "wb") as g:
                g.write(f.read())
            os.rename(os.path.join(home, name + ".new"), os.path.join(home, top))
    want = r.flatten(os.path.join(home, top), place.path("stale.raw"))
    del oracle, other
    for how in ("background", "first-read", "strict"):
        made.right(how, url, want, ["verify " + how])
    shown = made.used(url)
    if shown.status == 0 and shown.json()["used"]:
        raise Mismatch("an index of another tip is used")


def stale_layer(place, made):
    """A layer below that was replaced: never old places with new bytes."""
    for how in ("background", "first-read", "strict"):
        home, top, url, oracle = made.chain(6)
        victim = os.path.join(home, sorted(os.listdir(home))[2])
        # The same size, other bytes: its clusters moved.
        with open(victim, "rb") as f:
            body = f.read()
        noise = random.Random(made.seed).randbytes(len(body) - (6 << 16))
        with open(victim + ".new", "wb") as f:
            f.write(body[:6 << 16] + noise)
        os.rename(victim + ".new", victim)
        now = r.flatten(os.path.join(home, top), place.path("now.raw"))
        got = made.old_new_or_error(how, url, [now], ["verify " + how])
        if got.status and not r.says_changed(got.err):
            raise Mismatch(f"{how}: {got.err}")
        if how == "strict" and got.status:
            raise Mismatch(f"strict: the index should have been put aside: {got.err}")
        del oracle


def forged(place, made):
    """An index of another chain, and one with damage."""
    home, top, url, oracle = made.chain(4)
    _, other_top, _, _ = made.chain(7)
    path = os.path.join(home, top + ".qci")
    with open(path, "rb") as f:
        good = f.read()
    with open(os.path.join(home, f"../c{made.n}", other_top + ".qci"), "rb") as f:
        foreign = f.read()
    rng = random.Random(made.seed)

    def try_it(what, body):
        with open(path + ".new", "wb") as f:
            f.write(body)
        os.rename(path + ".new", path)
        made.right(what, url, oracle)

    try_it("another chain's", foreign)
    for i in range(12):
        at, bit = rng.randrange(len(good)), 1 << rng.randrange(8)
        try_it(f"byte {at} ^ {bit}", good[:at] + bytes((good[at] ^ bit,)) + good[at + 1:])
        try_it(f"cut {i}", good[:rng.randrange(len(good))])
    try_it("empty", b"")
    try_it("longer", good + bytes(4096))
    try_it("good", good)


def in_s3(place, made):
    """The same in a bucket: built there, and used."""
    rgw = place.server("rgw")
    s3 = r.S3(rgw["S3"], rgw["AK"], rgw["SK"])
    s3.create_bucket("images")
    home, top, _, oracle = made.chain(8, index=False)
    for name in os.listdir(home):
        with open(os.path.join(home, name), "rb") as f:
            s3.put("images", "d/" + name, f.read())
    proxy = place.proxy(rgw["S3"])
    rules = [f"s3-endpoint {proxy.url}", "s3-style path", "s3-region us-east-1",
             "s3-access-key " + rgw["AK"], "s3-secret-key " + rgw["SK"]]
    url = "s3://images/d/" + top
    made.tools.run("index", "build", "-q", "--no-wait", url, rules=rules)
    if "d/" + top + ".qci" not in s3.keys("images"):
        raise Mismatch("there is no index in the bucket")
    before = len(proxy.log())
    made.tools.run("map", url, rules=rules + ["verify first-read"])
    n = len(proxy.log()) - before
    if n > 3:
        raise Mismatch(f"{n} requests for a map by the index")
    made.right("in s3", url, oracle, rules)
    made.tools.run("index", "drop", url, rules=rules)
    if "d/" + top + ".qci" in s3.keys("images"):
        raise Mismatch("the index is still there")


r.main("check_remote_sidecar", [saves, missing, stale_tip, stale_layer, forged, in_s3], Made)
