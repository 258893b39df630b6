#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Chains in S3, with Ceph's gateway: by path and by virtual host, temporary keys, presigned URLs,
refusals, a regional cache in a second bucket, replicas of which one is dead; and prefetching."""
import os
import time

import prefetch_checks
import remote_lib as r
from remote_lib import Mismatch, lib
from remote_places import Bucket

DEPTH = 5


class Made:
    """The gateway, with a chain in a bucket, under a prefix that wants encoding."""

    prefix = "disks/a b+é"

    def __init__(self, place):
        self.rgw = place.server("rgw")
        self.key, self.secret = self.rgw["AK"], self.rgw["SK"]
        self.s3 = r.S3(self.rgw["S3"], self.key, self.secret)
        self.home = place.path("chain")
        self.top = r.make_simple(self.home, DEPTH, seed=place.seed)
        self.raw = r.flatten(os.path.join(self.home, self.top), place.path("oracle.raw"))
        self.digest = lib.digest(self.raw)
        self.s3.create_bucket("images")
        self.put_all(self.s3, "images", self.prefix)
        self.url = f"s3://images/{self.prefix}/{self.top}"
        self.endpoint = f"http://127.0.0.1:{self.rgw['S3']}"
        self.rules = self.rules_for(self.endpoint)
        self.tools = place.tools()
        self.redundant = None

    def put_all(self, s3, bucket, prefix):
        for name in sorted(os.listdir(self.home)):
            with open(os.path.join(self.home, name), "rb") as f:
                s3.put(bucket, f"{prefix}/{name}", f.read())

    def make_public(self, bucket):
        self.s3.request("PUT", "/" + bucket, {"policy": ""}, r.json.dumps({
            "Version": "2012-10-17", "Statement": [{
                "Effect": "Allow", "Principal": "*", "Action": ["s3:GetObject"],
                "Resource": [f"arn:aws:s3:::{bucket}/*"]}]}).encode())

    def rules_for(self, endpoint, key=None, secret=None, token=None, style="path"):
        rules = ["s3-endpoint " + endpoint, "s3-region us-east-1", "s3-style " + style,
                 "s3-access-key " + (key or self.key), "s3-secret-key " + (secret or self.secret),
                 "deadline 20"]
        return rules + (["s3-session-token " + token] if token else [])

    def right(self, url=None, rules=None, **how):
        got = self.tools.run("checksum", url or self.url, rules=rules or self.rules, **how)
        if self.digest not in got.out.decode():
            raise Mismatch(f"{url}: digest {got.out!r}, should be {self.digest}")
        return got

    def fails(self, words, url=None, rules=None):
        return self.tools.fails(words, "checksum", url or self.url, rules=rules or self.rules)


def all_tools(place, made):
    local = os.path.join(made.home, made.top)
    ours = lib.normalise(made.tools.run("map", "--output=json", made.url, rules=made.rules).json())
    lib.same_extents("map", ours, lib.normalise(made.tools.run("map", "--output=json", local,
                                                               rules=()).json()))
    out = place.path("out.raw")
    made.tools.run("read", "-q", made.url, out, rules=made.rules)
    lib.same_file("read", out, made.raw)
    made.tools.run("compare", "-F", "raw", made.url, made.raw, rules=made.rules)
    info = made.tools.run("info", "--output=json", "--backing-chain", made.url,
                          rules=made.rules).json()
    if len(info) != DEPTH:
        raise Mismatch(f"info: {len(info)} layers")
    made.right()


def virtual_hosts(place, made):
    """BUCKET.s3.localhost, and https."""
    made.right(rules=made.rules_for(f"http://s3.localhost:{made.rgw['S3']}", style="virtual"))
    tls = [f"ca-file {made.rgw['CA']}"]
    made.right(rules=made.rules_for(f"https://s3.localhost:{made.rgw['S3_TLS']}") + tls)
    made.right(rules=made.rules_for(f"https://s3.localhost:{made.rgw['S3_TLS']}",
                                    style="virtual") + tls)
    made.fails(("certificate", "ssl", "tls"),
               rules=made.rules_for(f"https://s3.localhost:{made.rgw['S3_TLS']}"))


def from_environment(place, made):
    """The variables and files that the cloud's own tools use."""
    rules = ["s3-endpoint " + made.endpoint, "s3-style path"]
    made.right(rules=rules, env={"AWS_ACCESS_KEY_ID": made.key, "AWS_REGION": "us-east-1",
                                 "AWS_SECRET_ACCESS_KEY": made.secret})
    path = place.path("credentials")
    with open(path, "w", encoding="ascii") as f:
        f.write("[default]\naws_access_key_id = x\naws_secret_access_key = y\n\n[mine]\n"
                f"aws_access_key_id = {made.key}\naws_secret_access_key={made.secret}\n")
    os.chmod(path, 0o600)
    env = {"AWS_SHARED_CREDENTIALS_FILE": path, "AWS_REGION": "us-east-1"}
    made.right(rules=rules, env=dict(env, AWS_PROFILE="mine"))
    made.right(rules=rules + ["s3-profile mine"], env=env)


def temporary_keys(place, made):
    sts = r.S3(made.rgw["STS"], made.key, made.secret)
    key, secret, token = sts.assume_role(made.rgw["ROLE"])
    endpoint = f"http://127.0.0.1:{made.rgw['STS']}"
    made.right(rules=made.rules_for(endpoint, key, secret, token))
    words = ("denied", "403", "credentials", "token", "HTTP 400")
    said = [made.fails(words, rules=made.rules_for(endpoint, key, secret)),
            made.fails(words, rules=made.rules_for(endpoint, key, secret, "x" + token))]
    for x in said:
        if secret in x.err or token in x.err:
            raise Mismatch(f"a secret is shown: {x.err}")


def refusals(place, made):
    """Wrong keys, missing objects and buckets: sentences that tell, without secrets."""
    wrong = made.fails(("SignatureDoesNotMatch", "credentials", "secret"),
                       rules=made.rules_for(made.endpoint, secret="wrong-secret-0451"))
    if "wrong-secret-0451" in wrong.err:
        raise Mismatch(f"the secret is shown: {wrong.err}")
    made.fails(("InvalidAccessKeyId", "credentials", "key"),
               rules=made.rules_for(made.endpoint, key="AKIDNOBODY"))
    made.fails(("NoSuchKey", "not found", "no such"), f"s3://images/{made.prefix}/nothing.qcow2")
    made.fails(("NoSuchBucket", "not found", "no such"), "s3://no-such-bucket/x.qcow2")
    made.fails(("denied", "403", "credentials"), rules=["s3-endpoint " + made.endpoint,
                                                       "s3-style path", "s3-anonymous on"])


def presigned(place, made):
    """A signed URL reads its one object, and its query is never seen."""
    lone = place.path("alone.qcow2")
    made.tools.run("read", "-q", made.url, place.path("whole.raw"), rules=made.rules)
    r.subprocess.run(["qemu-img", "convert", "-O", "qcow2", place.path("whole.raw"), lone],
                     check=True)
    with open(lone, "rb") as f:
        made.s3.put("images", "alone.qcow2", f.read())
    url = made.s3.presigned("images", "alone.qcow2")
    signature = url.rsplit("X-Amz-Signature=", 1)[1][:64]
    said = [made.right(url, ["deadline 20"], env={"QCHAIN_DEBUG": "1"}),
            made.tools.run("info", "--output=json", url),
            made.tools.fails(("403", "denied", "refused", "forbidden"), "checksum",
                             url.replace(signature, "0" * 64)),
            made.tools.fails(("403", "denied", "refused", "forbidden"), "checksum",
                             made.s3.presigned("images", "missing.qcow2").replace("Signature=",
                                                                                 "Signature=0"))]
    late = made.s3.presigned("images", "alone.qcow2", 1)
    time.sleep(2.1)
    said.append(made.tools.fails(("expired", "403", "denied"), "checksum", late))
    for x in said:
        for word in ("X-Amz", made.key, signature):
            if word in x.err or word.encode() in x.out:
                raise Mismatch(f"{word} is shown: {x.out!r} {x.err}")


# ------------------------------------------------------------ the regional cache ---

def region(place, made):
    """What one process read lies in the second bucket afterwards, and is read from there."""
    made.s3.create_bucket("near")
    origin = place.proxy(made.rgw["S3"])
    near = place.proxy(made.rgw["S3"])
    # The origin is public here, so that the credentials of S3 are those of the cache.
    made.make_public("images")
    url = f"{origin.url}/images/{r.quote_path(made.prefix)}/{made.top}"
    rules = made.rules_for(near.url) + [f"region {origin.url}/images/ s3://near/cache"]
    first = made.right(url, rules).stats
    for _ in range(100):   # it is stored in the background
        kept = made.s3.keys("near")
        if kept:
            break
        time.sleep(0.1)
    if not kept or not first["region-stores"]:
        raise Mismatch(f"nothing is kept: {first}")
    # When the second bucket is slow to answer the origin is asked, too: so on a busy machine again.
    for _ in range(5):
        before = origin.stats()["bytes_down"]
        second = made.right(url, rules).stats
        moved = origin.stats()["bytes_down"] - before
        if second["region-hits"] and moved <= os.path.getsize(made.raw) // 2:
            break
    if not second["region-hits"] or moved > os.path.getsize(made.raw) // 2:
        raise Mismatch(f"read again: {moved} bytes of the origin, {second}")
    if second["region-stores"]:
        raise Mismatch(f"kept twice: {second}")
    # What is kept is not believed when it is damaged, and its loss fails nothing.
    for key in kept:
        body = bytearray(made.s3.get("near", key))
        if body:
            body[len(body) // 2] ^= 0x10
        made.s3.put("near", key, bytes(body))
    made.right(url, rules)
    near.stop()
    made.right(url, rules)
    secret = [x for x in origin.log() if made.key in r.json.dumps(x)]
    if secret:
        raise Mismatch(f"the origin saw the cache's key: {secret[0]}")


def replicas(place, made):
    """The first is dead, or lies: the second is read."""
    made.s3.create_bucket("copy")
    made.put_all(made.s3, "copy", made.prefix)
    proxy = place.proxy(made.rgw["S3"])
    url = f"{proxy.url}/images/{r.quote_path(made.prefix)}/{made.top}"
    made.make_public("images")
    made.make_public("copy")
    rules = [f"replica {proxy.url}/images/ {made.endpoint}/copy/", "connect-timeout 2", "deadline 20"]
    made.right(url, rules)
    proxy.stop()
    got = made.right(url, rules).stats
    if not got["failovers"]:
        raise Mismatch(f"no failover is counted: {got}")
    bad = place.proxy(made.rgw["S3"], fail_rate=1, fail_status=503, seed=place.seed)
    url = f"{bad.url}/images/{r.quote_path(made.prefix)}/{made.top}"
    made.right(url, [rules[0].replace(proxy.url, bad.url)] + rules[1:])


def another_maker(place, made):
    """Swift's S3: a key with a colon, a region that is learnt from the refusal, odd answers."""
    swift = place.server("swift")
    s3 = r.S3(swift["S3"], swift["AK"], swift["SK"])
    s3.create_bucket("images")
    made.put_all(s3, "images", made.prefix)
    endpoint = f"http://127.0.0.1:{swift['S3']}"
    made.right(rules=made.rules_for(endpoint, swift["AK"], swift["SK"]))
    elsewhere = made.rules_for(endpoint, swift["AK"], swift["SK"])
    elsewhere[1] = "s3-region eu-west-1"
    made.right(rules=elsewhere)
    wrong = made.fails(("SignatureDoesNotMatch", "credentials", "secret", "403"),
                       rules=made.rules_for(endpoint, swift["AK"], "wrong-secret-0451"))
    if "wrong-secret-0451" in wrong.err:
        raise Mismatch(f"the secret is shown: {wrong.err}")
    made.tools.fails(("NoSuchKey", "not found", "no such"), "checksum", "s3://images/nothing",
                     rules=made.rules_for(endpoint, swift["AK"], swift["SK"]))


def prefetching(check):
    """One of those that run over nginx, too."""
    def over_ceph(place, made):
        if not made.redundant:
            os.mkdir(place.path("redundant"))
            made.redundant = prefetch_checks.Made(place, Bucket(made.rgw, "redundant", place.path("redundant")))
        return check(place, made.redundant)
    over_ceph.__name__ = "prefetch_" + check.__name__
    return over_ceph


r.main("check_remote_s3", [all_tools, virtual_hosts, from_environment, temporary_keys, refusals,
                           presigned, region, replicas, another_maker]
       + [prefetching(check) for check in prefetch_checks.CHECKS], Made)
