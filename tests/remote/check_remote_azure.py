#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Chains in Azure Blob storage, with Azurite: the shared key, a SAS, refusals."""
import os
import urllib.parse

import remote_lib as r
from remote_lib import Mismatch, lib

DEPTH = 4


class Made:
    """Azurite, with a chain in a container."""

    def __init__(self, place):
        self.azurite = place.server("azurite")
        self.account, self.key = self.azurite["ACCOUNT"], self.azurite["KEY"]
        self.endpoint = self.azurite["ENDPOINT"]
        self.azure = r.Azure(self.endpoint, self.account, self.key)
        home = place.path("chain")
        self.top = r.make_simple(home, DEPTH, seed=place.seed)
        self.raw = r.flatten(os.path.join(home, self.top), place.path("oracle.raw"))
        self.digest = lib.digest(self.raw)
        self.azure.create_container("images")
        for name in os.listdir(home):
            with open(os.path.join(home, name), "rb") as f:
                self.azure.put("images", "a b+é/" + name, f.read())
        self.url = "az://images/a b+é/" + self.top
        self.base = ["azure-endpoint " + self.endpoint, "azure-account " + self.account, "deadline 20"]
        self.rules = self.base + ["azure-key " + self.key]
        self.tools = place.tools()

    def right(self, rules, url=None, **how):
        got = self.tools.run("checksum", url or self.url, rules=rules, **how)
        if self.digest not in got.out.decode():
            raise Mismatch(f"digest {got.out!r}, should be {self.digest}")
        return got


def shared_key(place, made):
    made.right(made.rules)
    out = place.path("out.raw")
    made.tools.run("read", "-q", made.url, out, rules=made.rules)
    lib.same_file("read", out, made.raw)
    info = made.tools.run("info", "--output=json", "--backing-chain", made.url, rules=made.rules)
    if len(info.json()) != DEPTH:
        raise Mismatch(f"info: {len(info.json())} layers")


def at_the_end(place, made):
    """Sizes that are no multiple of anything, read to their last byte."""
    for size in (1, 511, 65536, 65537, (2 << 20) + 1):
        body = os.urandom(size)
        made.azure.put("images", "odd.raw", body)
        got = made.tools.run("read", "-q", "-f", "raw", "az://images/odd.raw", "-",
                             rules=made.rules).out
        if got[:size] != body or got[size:].strip(b"\0"):
            raise Mismatch(f"{size} bytes read as {len(got)}, or as others")


def sas(place, made):
    """A SAS of the container serves the chain; as a rule, and none of it is shown."""
    token = made.azure.sas("images")
    signature = urllib.parse.parse_qs(token)["sig"][0]
    forged = r.Azure(made.endpoint, made.account, "Zm9yZ2VkLWtleQ==").sas("images")
    said = [made.right(made.base + ["azure-sas " + token], env={"QCHAIN_DEBUG": "1"}),
            made.tools.fails(("403", "denied", "auth", "expired"), "checksum", made.url,
                             rules=made.base + ["azure-sas " + made.azure.sas("images", seconds=-60)]),
            made.tools.fails(("403", "denied", "auth"), "checksum", made.url,
                             rules=made.base + ["azure-sas " + forged])]
    for x in said:
        for word in (signature, urllib.parse.quote(signature, safe=""), "sig="):
            if word in x.err or word.encode() in x.out:
                raise Mismatch(f"{word} is shown: {x.err}")


def refusals(place, made):
    wrong = "d3Jvbmcta2V5LTA0NTEtd3Jvbmcta2V5LTA0NTE="
    got = made.tools.fails(("auth", "403", "credentials"), "checksum", made.url,
                           rules=made.base + ["azure-key " + wrong])
    if wrong in got.err:
        raise Mismatch(f"the key is shown: {got.err}")
    made.tools.fails(("not found", "no such", "BlobNotFound"), "checksum", "az://images/nothing",
                     rules=made.rules)
    made.tools.fails(("not found", "no such", "ContainerNotFound"), "checksum",
                     "az://nocontainer/nothing", rules=made.rules)
    made.tools.fails("", "checksum", made.url, rules=made.base + ["azure-key not!base64"])


def changed(place, made):
    """A blob that is replaced while it is read: an error, or the old bytes, nothing else."""
    old, new = os.urandom(6 << 20), os.urandom(6 << 20)
    made.azure.put("images", "swap.raw", old)
    slow = place.proxy(made.azurite["BLOB"], conn_bandwidth=2)
    endpoint = made.endpoint.replace(made.azurite["BLOB"], str(slow.port))
    rules = ["azure-endpoint " + endpoint] + made.rules[1:] + ["connections 1"]
    out = place.path("swap.out")
    argv = made.tools.argv("read", "-q", "-f", "raw", "az://images/swap.raw", out, rules=rules)
    with r.subprocess.Popen(argv, env=made.tools.env, stderr=r.subprocess.PIPE) as p:
        for _ in range(500):
            if slow.stats()["bytes_down"] > 2 << 20:
                break
            r.time.sleep(0.01)
        made.azure.put("images", "swap.raw", new)
        err = p.stderr.read().decode()
    if p.returncode == 0:
        with open(out, "rb") as f:
            if f.read() != old:
                raise Mismatch("bytes of two blobs are mixed")
    elif not r.says_changed(err):
        raise Mismatch(f"it does not say what happened: {err}")


r.main("check_remote_azure", [shared_key, at_the_end, sas, refusals, changed], Made)
