#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Secrets that can be recognised, used in every way there is: none of them may be found in what tools
print (with QCHAIN_DEBUG=1 too), in cache directories, in indexes, in other servers' requests."""
import base64
import os
import urllib.parse

import remote_lib as r
from remote_lib import Mismatch

VERBS = (("info", "--output=json"), ("info",), ("map",), ("inspect",), ("checksum",),
         ("index", "show"), ("info", "--backing-chain"), ("read", "-q"), ("doctor",), ("explain", "--read"))
BEHIND = {"read": ["out"], "explain": ["0", "64k"]}   # the name


class Made:
    """Servers, an image, and all secrets in all the ways they can be written."""

    def __init__(self, place):
        self.nginx = place.server("nginx")
        self.http = f"http://127.0.0.1:{self.nginx['HTTP']}"
        self.other = f"http://127.0.0.1:{self.nginx['HTTP_OTHER']}"
        self.www = self.nginx["WWW"]
        top = r.make_simple(self.www, 1, seed=place.seed)
        self.image = os.path.join(self.www, "f")
        os.rename(os.path.join(self.www, top), self.image)
        self.cache = place.path("cache")
        os.makedirs(self.cache, 0o700)
        self.tools = place.tools()
        self.secrets = set()

    def secret(self, *texts):
        for text in texts:
            self.secrets.update((text, urllib.parse.quote(text, safe=""),
                                 base64.b64encode(text.encode()).decode().rstrip("=")))

    def everything(self, place, url, rules, extra=()):
        """Run all that reads, with and without the log; how each ends does not matter here."""
        for verb in VERBS:
            rest = BEHIND.get(verb[0], [])
            for env in ({}, {"QCHAIN_DEBUG": "1"}):
                self.tools.run(*verb, *extra, url, *rest, ok=None, env=env, stats=False,
                               rules=["deadline 2", "cache-dir " + self.cache] + list(rules))


def good_and_bad(place, made):
    """Right ones, wrong ones, at places that are there and that are not."""
    for password in ("pass-9d2f1c", "WRONGpass-4471aa"):
        made.secret(password, "user:" + password)
        for path in ("/private/f", "/private/none", "/away/307/f", "/redirect/302/private/f",
                     "/bad/gzip/f", "/norange/f"):
            made.everything(place, made.http + path, [f"basic {made.http} user {password}"])
        netloc = made.http.replace("http://", f"http://user:{password}@")
        for path in ("/private/f", "/private/none", "/away/307/f"):
            made.everything(place, netloc + path, [])
    for token in ("TESTTOKEN-77aa", "WRONGTOKEN-91bc"):
        made.secret(token)
        for path in ("/bearer/f", "/bearer/none", "/away/302/f"):
            made.everything(place, made.http + path, [f"bearer {made.http} {token}"])
    for sig in ("SIG-51ce4b", "WRONGSIG-0c31"):
        made.secret(sig)
        for path in ("/signed/f", "/signed/none", "/private/f", "/norange/f"):
            made.everything(place, f"{made.http}{path}?x=1&sig={sig}#part", [])
            made.everything(place, f"{made.http}:1{path}?x=1&sig={sig}", [])
            made.everything(place, f"driver=qcow2,file.driver=http,file.url={made.http}{path}"
                            f"?sig={sig}", [], ["--image-opts"])


def rules(place, made):
    """Wrong rules, and files with rules: the line's number is told, not what it says."""
    made.secret("RULEsecret-5521", "RULEtoken-1180")
    for rule in ("s3-secret-key", "basic x user RULEsecret-5521 more", "bearer RULEtoken-1180",
                 "azure-key !RULEsecret-5521", "gs-token RULEtoken-1180 RULEsecret-5521",
                 "s3-secret-kex RULEsecret-5521", "basic http://h user \"RULEsecret-5521",
                 "region http://u:RULEsecret-5521@h/ nonsense?RULEtoken-1180",
                 "replica x RULEsecret-5521", "proxy http://u:RULEsecret-5521@[/"):
        made.everything(place, made.http + "/f", [rule])
    path = place.path("rules")
    with open(path, "w", encoding="ascii") as f:
        f.write("# mine\ns3-secret-key RULEsecret-5521\nbasic http://h\ns3-secret-kex RULEtoken-1180\n")
    os.chmod(path, 0o600)
    made.everything(place, made.http + "/f", [], ["--remote-config", path])
    os.chmod(path, 0o666)
    made.everything(place, made.http + "/f", [], ["--remote-config", path])


def images(place, made):
    """Names with secrets in images: shown where a layer is named, but not those."""
    made.secret("IMGpass-6610", "IMGsig-2293")
    port = made.nginx["HTTP"]
    for i, name in enumerate((f"http://u:IMGpass-6610@127.0.0.1:{port}/f",
                              f"http://127.0.0.1:{port}/f?sig=IMGsig-2293",
                              "http://127.0.0.1:1/f?sig=IMGsig-2293",
                              f"http://127.0.0.1:{port}/none?sig=IMGsig-2293")):
        path = os.path.join(made.www, f"t{i}")
        r.subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", name, "-F", "qcow2",
                          path, "8M"], check=True)
        for allow in ([], ["--allow-url", made.http + "/"]):
            for verb in (("map",), ("checksum",), ("read", "-q", "--length=4096"), ("info",),
                         ("info", "--output=json"), ("info", "--backing-chain"), ("inspect",)):
                rest = [os.devnull] if verb[0] == "read" else []
                for env in ({}, {"QCHAIN_DEBUG": "1"}):
                    made.tools.run(*verb, *allow, f"{made.http}/t{i}", *rest, ok=None, env=env,
                                   stats=False, rules=["deadline 2", "cache-dir " + made.cache])


def s3(place, made):
    rgw = place.server("rgw")
    store = r.S3(rgw["S3"], rgw["AK"], rgw["SK"])
    store.create_bucket("images")
    with open(made.image, "rb") as f:
        store.put("images", "f", f.read())
    key, secret, token = r.S3(rgw["STS"], rgw["AK"], rgw["SK"]).assume_role(rgw["ROLE"])
    made.secret(rgw["SK"], "WRONG" + rgw["SK"], secret, token)
    for port, k, s, t in ((rgw["S3"], rgw["AK"], rgw["SK"], None),
                          (rgw["S3"], rgw["AK"], "WRONG" + rgw["SK"], None),
                          (rgw["STS"], key, secret, token), (rgw["STS"], key, secret, token[:-4]),
                          (made.nginx["HTTP"], rgw["AK"], rgw["SK"], None), ("1", key, secret, token)):
        how = [f"s3-endpoint http://127.0.0.1:{port}", "s3-style path", "s3-region us-east-1",
               "s3-access-key " + k, "s3-secret-key " + s] + ([f"s3-session-token {t}"] if t else [])
        for url in ("s3://images/f", "s3://images/none", "s3://none/none"):
            if port != "1":
                made.everything(place, url, how)
        if port == "1":
            made.tools.run("map", "s3://images/f", rules=how + ["deadline 1"], ok=None,
                           env={"QCHAIN_DEBUG": "1"})
        # Keys of S3 are no business of other servers.
        made.everything(place, made.other + "/f", how)
    url = store.presigned("images", "f")
    made.secret(url.rsplit("X-Amz-Signature=", 1)[1][:64])
    made.everything(place, url, [])
    made.everything(place, url.replace("/f?", "/none?"), [])
    made.tools.run("index", "build", "--no-wait", url, ok=None)


def azure(place, made):
    azurite = place.server("azurite")
    store = r.Azure(azurite["ENDPOINT"], azurite["ACCOUNT"], azurite["KEY"])
    store.create_container("images")
    with open(made.image, "rb") as f:
        store.put("images", "f", f.read())
    sas = store.sas("images")
    wrong = base64.b64encode(b"WRONG-azure-key-7712").decode()
    made.secret(azurite["KEY"], wrong, sas, urllib.parse.parse_qs(sas)["sig"][0])
    base = ["azure-endpoint " + azurite["ENDPOINT"], "azure-account " + azurite["ACCOUNT"]]
    for how in ("azure-key " + azurite["KEY"], "azure-key " + wrong, "azure-sas " + sas,
                "azure-sas " + sas[:-6]):
        for url in ("az://images/f", "az://images/none"):
            made.everything(place, url, base + [how])
        made.everything(place, made.other + "/f", base + [how])


def found(place, made):
    """Look for all of them everywhere."""
    if len(made.secrets) < 20 or len(made.tools.said) < 100:
        raise Mismatch("the other checks did not run")
    bad = []
    for argv, out, err in made.tools.said:
        text = out.decode(errors="replace") + err
        bad += [f"{s!r} in what {argv[1]} of {argv[-1]} says: ..{text[max(0, text.find(s) - 100):][:200]}"
                for s in made.secrets if s in text]
    for home, _, names in os.walk(made.cache):
        for name in names:
            with open(os.path.join(home, name), "rb") as f:
                data = f.read()
            # Images' own bytes are kept there; names in them are among those.
            bad += [f"{s!r} in the cache's {name}" for s in made.secrets
                    if (s.encode() in data and not s.startswith("IMG")) or s in name]
    if not any(names for _, _, names in os.walk(made.cache)):
        raise Mismatch("nothing was put into the cache: this tested nothing")
    for home, _, names in os.walk(made.www):
        for name in names:
            if name.endswith(".qci"):
                with open(os.path.join(home, name), "rb") as f:
                    data = f.read()
                bad += [f"{s!r} in {name}" for s in made.secrets if s.encode() in data]
    with open(made.nginx["LOG_OTHER"], encoding="utf-8") as f:
        lines = f.readlines()
    if not lines:
        raise Mismatch("the other server was not asked anything: this tested nothing")
    bad += [f"{s!r} sent to another origin: {line}" for s in made.secrets for line in lines
            if s in line]
    bad += ["credentials sent to another origin: " + line for line in lines
            if r.json.loads(line)["authorization"] or r.json.loads(line)["referer"]]
    if bad:
        raise Mismatch(f"{len(bad)} times:\n" + "\n".join(sorted({b[:300] for b in bad})[:20]))
    return f"{len(made.secrets)} secrets, {len(made.tools.said)} runs"


r.main("check_secrets", [good_and_bad, rules, images, s3, azure, found], Made)
