#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""qchain explain of a chain behind URLs: the request that it foretells, what the disk cache has, and what --read
took, against what the server was asked for."""
import json

import remote_lib as r
from remote_lib import Mismatch

BLOCK = 65536
HEAD = set(range(5))   # header and tables


class World:
    def __init__(self, place):
        self.nginx = place.server("nginx")
        self.proxy = place.proxy(self.nginx["HTTP"])
        self.top = r.make_simple(self.nginx["WWW"], 3, seed=place.seed, prefix="explained")
        self.url = f"{self.proxy.url}/{self.top}"
        self.tools = place.tools()

    def explain(self, *args):
        return self.tools.run("explain", "--output=json", *args, stats=False).json()

    def data(self, cache, size=8 << 20):
        """All stretches of stored bytes."""
        found = self.explain("--cache-dir", cache, self.url, 0, size)
        return [s for s in found["stretches"] if s["kind"] == "data"]


def check_request(place, w):
    """Looking asks for no data; reading asks for what was foretold."""
    cache = place.path("cache")
    data = w.data(cache)
    if len({s["depth"] for s in data}) < 2 or {s["request"]["disk-cache"] for s in data} != {"miss"}:
        raise Mismatch(json.dumps(data))
    if w.data(cache) != data:
        raise Mismatch("looking into the cache has changed it")
    s = max(data, key=lambda x: x["length"])
    before = len(w.proxy.log())
    got = w.explain("--remote", "block-size 64K", "--cache-dir", cache, "--read", w.url, s["start"], s["length"])
    asked = [q for q in w.proxy.log()[before:] if q.get("range")]
    want = s["request"]
    name = "/" + s["filename"].rsplit("/", 1)[1]
    blocks = set()
    for q in asked:
        if q["path"] == name:
            first, last = (int(n) for n in q["range"].split("=")[1].split("-"))
            blocks |= set(range(first // BLOCK, last // BLOCK + 1))
    foretold = set(range(want["first-byte"] // BLOCK, want["last-byte"] // BLOCK + 1))
    if not foretold <= blocks or not blocks <= foretold | HEAD:
        raise Mismatch(f"foretold {want}, asked for {asked}")
    took = got["stretches"][0]["read"]
    if took["requests"] < 1 or took["received-bytes"] < s["length"]:
        raise Mismatch(json.dumps(got))


def check_cached(place, w):
    """What was read is a hit from then on, and a hit asks for nothing."""
    cache = place.path("cache")
    s = max(w.data(cache), key=lambda x: x["length"])
    if s["request"]["disk-cache"] != "hit":
        raise Mismatch(json.dumps(s))
    got = w.explain("--remote", "block-size 64K", "--cache-dir", cache, "--read", w.url, s["start"], s["length"])
    took = got["stretches"][0]["read"]
    if took["requests"] != 0 or took["disk-cache-hits"] < 1:
        raise Mismatch(json.dumps(got))
    alone = w.explain(w.url, s["start"], s["length"])["stretches"][0]
    if alone["request"]["disk-cache"] != "none":
        raise Mismatch(json.dumps(alone))
    text = w.tools.run("explain", "--cache-dir", cache, w.url, s["start"], stats=False).out.decode()
    if "disk cache: hit" not in text or f"bytes={s['request']['first-byte']}-" not in text:
        raise Mismatch(text)


if __name__ == "__main__":
    r.main("explain-remote", [check_request, check_cached], World)
