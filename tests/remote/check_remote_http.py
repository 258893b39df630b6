#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Chains behind http and https URLs of nginx: the same map, bytes, facts as those of local files;
names, credentials, redirects, certificates, and servers that answer in odd ways."""
import os
import subprocess
import threading

import remote_lib as r
from remote_lib import Mismatch, lib

CHAINS = 8
SECRETS = {"password": "pass-9d2f1c", "token": "TESTTOKEN-77aa", "signature": "SIG-51ce4b"}


class Made:
    """The server, an image on it, and what its disk must read as."""

    def __init__(self, place):
        self.nginx = place.server("nginx")
        self.www = self.nginx["WWW"]
        self.http = f"http://127.0.0.1:{self.nginx['HTTP']}"
        self.other = f"http://127.0.0.1:{self.nginx['HTTP_OTHER']}"
        self.https = f"https://localhost:{self.nginx['HTTPS']}"
        self.tools = place.tools()
        top = r.make_simple(self.www, 1, seed=place.seed, prefix="one")
        os.rename(os.path.join(self.www, top), os.path.join(self.www, "f"))
        self.raw = r.flatten(os.path.join(self.www, "f"), place.path("f.raw"))
        self.digest = lib.digest(self.raw)
        self.wrong = place.path("wrong")

    def stats(self):
        return r.json.loads(r.request("GET", self.http + "/_stats")[2])

    def reset(self):
        r.request("GET", self.http + "/_reset")

    def right(self, url, rules=(), options=()):
        """The disk behind a URL must be that of f; the tool's result."""
        got = self.tools.run("checksum", *options, url, rules=rules)
        if self.digest not in got.out.decode():
            raise Mismatch(f"{url}: digest {got.out!r}, should be {self.digest}")
        return got

    def fails(self, words, url, rules=()):
        return self.tools.fails(words, "checksum", url, rules=["deadline 5"] + list(rules))


# -------------------------------------------------------------- like local files ---

def scrub(info):
    """What must be the same wherever files lie."""
    if isinstance(info, list):
        return [scrub(x) for x in info]
    if isinstance(info, dict):
        gone = ("actual-size", "filename", "full-backing-filename", "children")
        return {k: scrub(v) for k, v in info.items() if k not in gone}
    return info


def same_chain(place, made, number):
    """A random chain, read by URL and as files."""
    home = os.path.join(made.www, f"chain {number}")
    layers, trust = r.make_chain(home, place.seed + number)
    top = layers[-1]
    local = os.path.join(home, top.path)
    url = f"{made.http}/{r.quote_path('chain %d/' % number + top.path)}"
    how = ["-f", top.fmt] + (["--trust"] if trust else [])
    oracle, out = place.path("oracle.img"), place.path("out.img")
    if subprocess.run(["qemu-img", "convert", "-f", top.fmt, "-O", "raw", local, oracle],
                      capture_output=True, check=False).returncode:
        return 0   # damaged by the qemu-io that wrote it
    what = f"chain {number} of seed {place.seed}"
    ours = lib.normalise(made.tools.run("map", "--output=json", *how, url).json())
    mine = lib.normalise(made.tools.run("map", "--output=json", *how, local).json())
    # Where a raw file ends within a sector the rest of that is a hole, which URLs do not tell.
    if all(x.fmt != "raw" or os.path.getsize(os.path.join(home, x.path)) % 512 == 0 for x in layers):
        lib.same_extents(what + ": map", ours, mine)
    infos = [scrub(made.tools.run("info", "--output=json", "--backing-chain", *how, x).json())
             for x in (url, local)]
    if infos[0] != infos[1]:
        raise Mismatch(f"{what}: info {infos[0]}, of the files {infos[1]}")
    made.tools.run("read", "-q", *how, url, out)
    lib.same_file(what + ": read", out, oracle)
    made.tools.run("convert", "-O", "raw", *how, url, out)
    lib.same_file(what + ": convert", out, oracle)
    got = made.tools.run("checksum", *how, url).out.decode()
    if lib.digest(oracle) not in got:
        raise Mismatch(f"{what}: checksum {got}")
    pair = ["-f", top.fmt, "-F", "raw"] + how[2:]
    made.tools.run("compare", *pair, url, oracle)
    with open(oracle, "r+b") as f:
        size = os.path.getsize(oracle)
        at = size // 2
        byte = os.pread(f.fileno(), 1, at)
        os.pwrite(f.fileno(), bytes((byte[0] ^ 1,)), at)
    made.tools.run("compare", *pair, url, oracle, ok=(1,))
    return len(layers)


def chains(place, made):
    n = sum(same_chain(place, made, i) for i in range(CHAINS))
    return f"{n} layers"


def requests(place, made):
    """Few requests, all GETs of ranges, over connections that are used again."""
    top = r.make_simple(os.path.join(made.www, "ten"), 10, seed=place.seed)
    made.reset()
    got = made.tools.run("map", "--output=json", f"{made.http}/ten/{top}").stats
    seen = made.stats()
    if seen["requests"] != got["http-requests"]:
        raise Mismatch(f"the server had {seen['requests']} requests, the tool says {got}")
    if seen.get("method_GET") != seen["requests"]:
        raise Mismatch(f"other requests than GET: {seen}")
    # An index beside the tip is asked for, and not there.
    if seen.get("ranged") != seen["requests"]:
        raise Mismatch(f"requests without a range: {seen}")
    if seen["requests"] > 4 * 10 + 2 or seen["connections"] > 10:
        raise Mismatch(f"a map of 10 layers: {seen}")
    return f"{seen['requests']} requests, {seen['connections']} connections"


def threads(place, made):
    """Several programs at once."""
    wrong = []

    def one():
        try:
            made.right(made.http + "/f")
        except Mismatch as e:
            wrong.append(str(e))

    workers = [threading.Thread(target=one) for _ in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    if wrong:
        raise Mismatch(wrong[0])


# ------------------------------------------------------------------------- names ---

def create(directory, name, below, fmt="qcow2"):
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", below, "-F", fmt, name,
                    "8M"], cwd=directory, check=True)


def names(place, made):
    """Odd bytes in URLs and in backing file names."""
    home = os.path.join(made.www, "n a+m")
    os.makedirs(home)
    odd = "a b+%;=,'()[]~é&$!*@"
    os.link(os.path.join(made.www, "f"), os.path.join(home, odd))
    base = f"{made.http}/{r.quote_path('n a+m/')}"
    made.right(base + r.quote_path(odd))
    # Blanks and the like are encoded where an image names them; "%41" stays what it is.
    os.link(os.path.join(made.www, "f"), os.path.join(home, "b é+.x"))
    create(home, "top1", "b é+.x")
    made.right(base + "top1")
    os.link(os.path.join(made.www, "f"), os.path.join(home, "perA"))
    create(home, "top2", "per%41")
    made.right(base + "top2")
    os.makedirs(os.path.join(home, "down"))
    create(os.path.join(home), "top3", "down/mid")
    create(os.path.join(home, "down"), "mid", "../perA")
    made.right(base + "top3")
    made.fails("", made.http + "/n a+m/top1\n")
    made.fails(("404", "not found", "no such"), made.http + "/nothing-there")
    made.fails("", made.http + "/f\x01")
    made.fails("", "http://127.0.0.1:99999/f")
    made.fails("", "http:///f")
    made.fails(("refused", "connect"), "http://127.0.0.1:1/f")


def queries(place, made):
    """A query is sent, and is nobody's business."""
    sig = "?sig=" + SECRETS["signature"]
    made.right(made.http + "/signed/f" + sig)
    made.right(made.http + "/f?x=1&y=%20#fragment")
    said = [made.fails(("403", "denied", "refused", "forbidden"), made.http + "/signed/f"),
            made.fails(("404", "not found", "no such"), made.http + "/signed/g" + sig),
            made.tools.run("info", made.http + "/signed/f" + sig),
            made.tools.run("info", "--output=json", made.http + "/signed/f" + sig),
            made.tools.run("map", made.http + "/signed/f" + sig),
            made.tools.run("read", made.http + "/signed/f" + sig, place.path("x"),
                           env={"QCHAIN_DEBUG": "1"})]
    for x in said:
        if SECRETS["signature"] in x.err or SECRETS["signature"].encode() in x.out:
            raise Mismatch(f"the query is shown: {x.out!r} {x.err}")


# ------------------------------------------------------------------------ security ---

def tls(place, made):
    """HTTP/2 over TLS; a certificate must be of a CA that is trusted."""
    made.reset()
    rule = "ca-file " + made.nginx["CA"]
    made.right(made.https + "/f", [rule])
    seen = made.stats()
    if not seen.get("http_2"):
        raise Mismatch(f"not HTTP/2: {seen}")
    words = ("certificate", "ssl", "tls")
    made.fails(words, made.https + "/f")
    made.fails(words, made.https + "/f", ["ca-file " + made.nginx["CA_OTHER"]])
    made.right(made.https + "/f", ["insecure on"])
    made.fails("", made.https + "/f", ["ca-file " + place.path("no-such-file")])
    # What is not TLS is not fallen back to.
    made.fails("", f"https://127.0.0.1:{made.nginx['HTTP']}/f", [rule])


def credentials(place, made):
    """Basic and bearer, by origin, and never to another one."""
    basic = f"basic {made.http} user {SECRETS['password']}"
    bearer = f"bearer {made.http} {SECRETS['token']}"
    auth = ("401", "credentials", "auth")
    made.right(made.http + "/private/f", [basic])
    made.right(made.http + "/bearer/f", [bearer])
    made.fails(auth, made.http + "/private/f")
    made.fails(auth, made.http + "/private/f", [f"basic {made.http} user wrong"])
    made.fails(auth, made.http + "/bearer/f", [f"bearer {made.http} wrong"])
    made.fails(auth, made.http + "/private/f", [f"basic {made.other} user {SECRETS['password']}"])
    # The origin has a port: the same host is not enough.
    made.right(made.other + "/f", [basic])
    made.right(f"http://user:{SECRETS['password']}@127.0.0.1:{made.nginx['HTTP']}/private/f")
    for rule in (basic, bearer):
        made.fails("", made.http + "/away/307/f", [rule])
    with open(made.nginx["LOG_OTHER"], encoding="utf-8") as f:
        lines = [r.json.loads(line) for line in f]
    if not lines or any(x["authorization"] for x in lines):
        raise Mismatch("the other origin was sent credentials (or nothing at all)")


def redirects(place, made):
    for code in (301, 302, 307, 308):
        made.right(f"{made.http}/redirect/{code}/f")
    made.reset()
    got = made.right(f"{made.http}/redirect/302/f").stats
    seen = made.stats()
    if seen.get("status_302", 0) > 2 or not got["http-redirects"]:
        raise Mismatch(f"where it led is not remembered: {seen}, {got}")
    made.right(f"{made.http}/redirect/307/redirect/307/redirect/307/f")
    made.fails("redirect", made.http + "/redirect/307" * 4 + "/f")
    made.right(f"{made.http}/away/307/f")
    made.fails("", f"{made.https}/plain/307/f", ["ca-file " + made.nginx["CA"]])


def gate(place, made):
    """What an image names must lie beneath its URL's directory, or be allowed."""
    home = os.path.join(made.www, "gate")
    os.makedirs(os.path.join(home, "in"))
    inside = os.path.join(home, "in")
    local = place.path("secret.raw")
    os.link(made.raw, local)
    for i, (name, fmt) in enumerate([("../../f", "qcow2"), (f"{made.other}/f", "qcow2"),
                                     (local, "raw"), ("file:" + local, "raw"),
                                     ("file://" + local, "raw"), ("/f", "qcow2"),
                                     (made.http.replace("http", "https") + "/f", "qcow2"),
                                     ("%2e%2e/%2e%2e/f", "qcow2"), ("..%2f..%2ff", "qcow2")]):
        create(inside, f"t{i}", name, fmt)
        made.fails("", f"{made.http}/gate/in/t{i}")
    made.right(f"{made.http}/gate/in/t0", options=["--allow-url", made.http + "/"])
    made.right(f"{made.http}/gate/in/t1", options=["--allow-url", made.other + "/"])
    # A local image may not name URLs either, unless told.
    tip = place.path("tip.qcow2")
    create(place.directory, tip, made.http + "/f")
    made.tools.fails("", "checksum", tip)
    made.right(tip, options=["--allow-url", made.http + "/"])


# ---------------------------------------------------------------------- odd servers ---

def odd_servers(place, made):
    """No ETag, a weak one, nothing at all: read all the same. Wrong answers: an error."""
    for kind in ("noetag", "weak", "nothing"):
        made.right(f"{made.http}/{kind}/f")
    big = os.path.join(made.www, "big.raw")
    with open(big, "wb") as f:
        f.write(os.urandom(1 << 20) * 12)
    made.tools.run("read", "-q", "-f", "raw", made.http + "/big.raw", made.wrong)
    lib.same_file("big.raw", made.wrong, big)
    for kind in ("bad/shift", "bad/total", "bad/type", "bad/gzip", "norange"):
        made.tools.fails("", "read", "-q", "-f", "raw", f"{made.http}/{kind}/big.raw", made.wrong,
                         rules=["deadline 5"])


def faults_of_tls(place, made):
    """Answers of 503 and broken streams over HTTP/2: done again."""
    rule = "ca-file " + made.nginx["CA"]
    r.request("GET", made.http + "/_ctl?fail=0.2&status=503&retry_after=0&reset=0.1")
    try:
        made.right(made.https + "/f", [rule])
        made.right(made.http + "/f")
    finally:
        r.request("GET", made.http + "/_ctl?clear=1")


r.main("check_remote_http", [chains, requests, threads, names, queries, tls, credentials, redirects,
                             gate, odd_servers, faults_of_tls], Made)
