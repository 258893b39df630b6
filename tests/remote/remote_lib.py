# SPDX-License-Identifier: MIT
"""What the tests of layers behind URLs share: servers, the proxy, signing, the tools, chains."""
import base64
import contextlib
import datetime
import hashlib
import hmac
import http.client
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.parse
import xml.etree.ElementTree

HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(HERE, "../interop"))

import chain_maker                        # noqa: E402
import interop_lib as lib                 # noqa: E402
from interop_lib import Mismatch, SKIP, wait_until_quiet    # noqa: E402,F401

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
SLOW = 8 if os.environ.get("QC_SAN") else 1    # how much slower the tools may be


def says_changed(text):
    """Does an error tell that an object was replaced?"""
    return any(w in text.lower() for w in ("changed", "not what it was", "replaced"))


class Missing(Exception):
    """A server that cannot be had here; the message says why."""


def build_dir():
    return os.path.abspath(lib.build_dir())


# ------------------------------------------------------------------- servers ---

class Server:
    """One of the scripts beside this file: nginx, rgw, azurite, swift."""

    def __init__(self, name, directory):
        self.name = name
        self.directory = directory
        self.env = dict(os.environ, QC_SERVER_DIR=directory)
        self.facts = {}
        done = self.script("start")
        if done.returncode not in (0, SKIP):
            print(f"{name}.sh start: exit {done.returncode}, once more\n{done.stderr}", flush=True)
            self.script("wipe")
            done = self.script("start")
        if done.returncode == SKIP:
            raise Missing(done.stdout.strip().splitlines()[-1])
        if done.returncode:
            raise Mismatch(f"{name}.sh start: exit {done.returncode}\n{done.stdout}{done.stderr}")
        for line in done.stdout.splitlines():
            key, _, value = line.partition("=")
            self.facts[key] = value

    def script(self, verb):
        # A pipe would be held open by a daemon that keeps it.
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            done = subprocess.run(["sh", os.path.join(HERE, self.name + ".sh"), verb],
                                  env=self.env, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                                  timeout=180, check=False)
            out.seek(0)
            err.seek(0)
            done.stdout, done.stderr = out.read(), err.read()
        return done

    def __getitem__(self, key):
        return self.facts[key]

    def stop(self):
        self.script("wipe")


class Proxy:
    """delay_proxy in front of a port; options as keywords: delay_ms=20."""

    def __init__(self, directory, upstream, **options):
        self.directory = tempfile.mkdtemp(prefix="proxy-", dir=directory)
        self.stats_file = os.path.join(self.directory, "stats.json")
        self.log_file = os.path.join(self.directory, "log")
        argv = [os.path.join(build_dir(), "tests", "remote", "delay_proxy"), "--upstream",
                f"127.0.0.1:{upstream}", "--stats", self.stats_file, "--log", self.log_file]
        for key, value in options.items():
            argv += ["--" + key.replace("_", "-")] + ([] if value is True else [str(value)])
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        encoding="ascii")
        line = self.process.stdout.readline()
        if not line.startswith("PORT="):
            raise Mismatch(f"delay_proxy did not start: {argv}")
        self.port = int(line[5:])
        self.url = f"http://127.0.0.1:{self.port}"

    def stats(self):
        """Counters so far."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.stats_file)
        self.process.send_signal(signal.SIGUSR1)
        for _ in range(3000):
            with contextlib.suppress(FileNotFoundError):
                with open(self.stats_file, encoding="ascii") as f:
                    return json.load(f)
            time.sleep(0.01)
        raise Mismatch("delay_proxy does not answer")

    def log(self):
        """The requests so far, as dictionaries: all of clients that have ended, since it has looked at its sockets."""
        for _ in range(2):
            if self.process.poll() is None:
                self.stats()
        with open(self.log_file, encoding="ascii") as f:
            return [json.loads(line) for line in f]

    def stop(self):
        """End it; the last counters."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)
        self.process.stdout.close()
        with open(self.stats_file, encoding="ascii") as f:
            return json.load(f)


# ------------------------------------------------------------------- requests ---

def request(method, url, body=b"", headers=None, ok=(200, 201, 202, 204, 206)):
    """One request to a server on this machine: (status, headers, body)."""
    u = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection("127.0.0.1", u.port, timeout=60)
    headers = dict(headers or {})
    if not any(k.lower() == "host" for k in headers):
        headers["Host"] = u.netloc
    try:
        target = (u.path or "/") + ("?" + u.query if u.query else "")
        connection.request(method, target, body=body or None,
                           headers=dict(headers, **{"Content-Length": str(len(body))}
                                        if body or method in ("PUT", "POST") else headers))
        r = connection.getresponse()
        data = r.read()
    finally:
        connection.close()
    if ok is not None and r.status not in ok:
        raise Mismatch(f"{method} {u.path}: {r.status} {data[:500]!r}")
    return r.status, {k.lower(): v for k, v in r.getheaders()}, data


def quote(text):
    return urllib.parse.quote(text, safe="-._~")


def quote_path(text):
    return urllib.parse.quote(text, safe="-._~/")


class S3:
    """Requests signed with version 4, by an implementation of its own."""

    def __init__(self, port, key, secret, token=None, region="us-east-1"):
        self.host = f"127.0.0.1:{port}"
        self.key, self.secret, self.token, self.region = key, secret, token, region

    def signing_key(self, day, service):
        k = ("AWS4" + self.secret).encode()
        for part in (day, self.region, service, "aws4_request"):
            k = hmac.new(k, part.encode(), hashlib.sha256).digest()
        return k

    def signature(self, method, path, query, headers, payload, stamp, service):
        names = ";".join(sorted(headers))
        canonical = "\n".join([method, path, query] + [f"{k}:{headers[k]}" for k in sorted(headers)]
                              + ["", names, payload])
        scope = f"{stamp[:8]}/{self.region}/{service}/aws4_request"
        text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope,
                          hashlib.sha256(canonical.encode()).hexdigest()])
        key = self.signing_key(stamp[:8], service)
        return hmac.new(key, text.encode(), hashlib.sha256).hexdigest(), scope, names

    @staticmethod
    def query_of(pairs):
        return "&".join(f"{quote(k)}={quote(v)}" for k, v in sorted(pairs.items()))

    def request(self, method, path, query=None, body=b"", headers=None, ok=(200, 204, 206),
                service="s3"):
        stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        payload = hashlib.sha256(body).hexdigest()
        headers = {k.lower(): v for k, v in (headers or {}).items()}
        headers.update({"host": self.host, "x-amz-date": stamp, "x-amz-content-sha256": payload})
        if self.token:
            headers["x-amz-security-token"] = self.token
        path, text = quote_path(path), self.query_of(query or {})
        signature, scope, names = self.signature(method, path, text, headers, payload, stamp,
                                                 service)
        sent = dict(headers, authorization=f"AWS4-HMAC-SHA256 Credential={self.key}/{scope}, "
                    f"SignedHeaders={names}, Signature={signature}")
        return request(method, f"http://{self.host}{path}" + ("?" + text if text else ""), body,
                       sent, ok)

    def create_bucket(self, bucket):
        self.request("PUT", "/" + bucket, ok=(200, 409))

    def put(self, bucket, key, body, **how):
        return self.request("PUT", f"/{bucket}/{key}", body=body, **how)

    def get(self, bucket, key, **how):
        return self.request("GET", f"/{bucket}/{key}", **how)[2]

    def delete(self, bucket, key):
        self.request("DELETE", f"/{bucket}/{key}")

    def keys(self, bucket, prefix=""):
        _, _, body = self.request("GET", "/" + bucket, {"list-type": "2", "prefix": prefix})
        tree = xml.etree.ElementTree.fromstring(body)
        return [e.text for e in tree.iter() if e.tag.endswith("}Key") or e.tag == "Key"]

    def presigned(self, bucket, key, seconds=600):
        """A URL that may be read without credentials."""
        stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        path = quote_path(f"/{bucket}/{key}")
        query = {"X-Amz-Algorithm": "AWS4-HMAC-SHA256", "X-Amz-Date": stamp,
                 "X-Amz-Credential": f"{self.key}/{stamp[:8]}/{self.region}/s3/aws4_request",
                 "X-Amz-Expires": str(seconds), "X-Amz-SignedHeaders": "host"}
        if self.token:
            query["X-Amz-Security-Token"] = self.token
        signature, _, _ = self.signature("GET", path, self.query_of(query), {"host": self.host},
                                         "UNSIGNED-PAYLOAD", stamp, "s3")
        query["X-Amz-Signature"] = signature
        return f"http://{self.host}{path}?{self.query_of(query)}"

    def assume_role(self, role, seconds=900):
        """Temporary keys: (access key, secret, session token)."""
        body = urllib.parse.urlencode({
            "Action": "AssumeRole", "RoleArn": role, "RoleSessionName": "test", "Version":
            "2011-06-15", "DurationSeconds": str(seconds)}).encode()
        _, _, answer = self.request("POST", "/", body=body, service="sts", headers={
            "content-type": "application/x-www-form-urlencoded"})
        tree = xml.etree.ElementTree.fromstring(answer)
        found = {e.tag.rsplit("}", 1)[-1]: e.text for e in tree.iter()}
        return found["AccessKeyId"], found["SecretAccessKey"], found["SessionToken"]


class Azure:
    """Blob storage with a shared key; endpoint as azurite.sh prints it."""

    VERSION = "2021-08-06"

    def __init__(self, endpoint, account, key):
        self.endpoint, self.account, self.key = endpoint, account, base64.b64decode(key)

    def sign(self, text):
        return base64.b64encode(hmac.new(self.key, text.encode(), hashlib.sha256).digest()).decode()

    def request(self, method, path, query=None, body=b"", headers=None, ok=(200, 201, 202, 206)):
        query = query or {}
        sent = {"x-ms-date": time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime()),
                "x-ms-version": self.VERSION}
        sent.update({k.lower(): v for k, v in (headers or {}).items()})
        path = urllib.parse.urlsplit(self.endpoint).path + quote_path(path)
        lines = [method, "", "", str(len(body)) if body else ""] + [""] * 8
        lines += [f"{k}:{sent[k]}" for k in sorted(sent) if k.startswith("x-ms-")]
        resource = "\n".join([f"/{self.account}{path}"] + [f"{k}:{query[k]}" for k in sorted(query)])
        sent["Authorization"] = (f"SharedKey {self.account}:" +
                                 self.sign("\n".join(lines + [resource])))
        root = "http://" + urllib.parse.urlsplit(self.endpoint).netloc
        text = "?" + urllib.parse.urlencode(query) if query else ""
        return request(method, root + path + text, body, sent, ok)

    def create_container(self, name):
        self.request("PUT", "/" + name, {"restype": "container"}, ok=(201, 409))

    def put(self, container, blob, body):
        self.request("PUT", f"/{container}/{blob}", body=body,
                     headers={"x-ms-blob-type": "BlockBlob"})

    def sas(self, container, permissions="r", seconds=600):
        """A service SAS of a container, as a query."""
        ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))
        text = "\n".join([permissions, "", ends, f"/blob/{self.account}/{container}", "", "", "",
                          self.VERSION, "c", "", "", "", "", "", "", ""])
        return urllib.parse.urlencode({"sv": self.VERSION, "sr": "c", "sp": permissions, "se": ends,
                                       "sig": self.sign(text)})


# ------------------------------------------------------------------- the tools ---

class Result:
    """How a tool ended, and its statistics as --stats=json tells them."""

    def __init__(self, status, out, err):
        self.status, self.out = status, out
        at = max((m.start() for m in re.finditer(r'^\{"reads"', err, re.M)), default=None)
        self.stats = json.loads(err[at:].strip().splitlines()[0]) if at is not None else {}
        self.err = err if at is None else err[:at]

    def json(self):
        return json.loads(self.out)


class Tools:
    """The program qchain with rules for URLs; all that it prints is remembered."""

    def __init__(self, directory, rules=()):
        self.directory = directory
        self.program = os.path.join(os.environ.get("QC_BIN") or os.path.join(build_dir(), "bin"),
                                    "qchain")
        lib.need(self.program)
        self.rules = list(rules)
        self.said = []
        keep = ("PATH", "LANG", "TMPDIR", "ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS",
                "LD_LIBRARY_PATH", "QC_SAN", "QC_NOASLR")
        self.env = {k: v for k, v in os.environ.items() if k in keep}
        self.env.update(LC_ALL="C.UTF-8", HOME=os.path.join(directory, "home"), QCHAIN_POLICY="",
                        QCHAIN_REMOTE="", AWS_EC2_METADATA_DISABLED="true")

    def argv(self, verb, *rest, rules=None):
        argv = [self.program, verb]
        for rule in self.rules if rules is None else rules:
            argv += ["--remote", rule]
        return argv + [str(a) for a in rest]

    def run(self, verb, *rest, ok=(0,), rules=None, stats=True, timeout=120, env=None):
        argv = self.argv(verb, *(["--stats=json"] if stats else []), *rest, rules=rules)
        try:
            done = subprocess.run(argv, cwd=self.directory, env=dict(self.env, **(env or {})),
                                  stdin=subprocess.DEVNULL, capture_output=True,
                                  timeout=timeout * SLOW, check=False)
        except subprocess.TimeoutExpired:
            raise Mismatch(f"no end after {timeout * SLOW} s: {argv}") from None
        err = done.stderr.decode(errors="replace")
        self.said.append((argv, done.stdout if len(done.stdout) < 1 << 20 else b"", err))
        if ok is not None and done.returncode not in ok:
            raise Mismatch(f"exit {done.returncode}: {argv}\n{done.stdout[:500]!r} {err[-2000:]}")
        return Result(done.returncode, done.stdout, err)

    def fails(self, words, verb, *rest, **how):
        """It must fail, and one of the words be in what it says."""
        r = self.run(verb, *rest, ok=None, **how)
        words = (words,) if isinstance(words, str) else words
        if r.status in (0, 124) or r.status < 0:
            raise Mismatch(f"{verb} {rest}: exit {r.status}, it should fail\n{r.err}")
        if words and not any(w.lower() in r.err.lower() for w in words):
            raise Mismatch(f"{verb} {rest}: none of {words} in: {r.err}")
        return r


# ---------------------------------------------------------------------- chains ---

class Maker(chain_maker.ChainMaker):
    """Random chains whose files can be served: relative names that URLs can hold."""

    def reference(self, layer, backing):
        return os.path.relpath(backing.path, os.path.dirname(layer.path) or ".")

    def random_size(self):
        return min(super().random_size() or 512, 512 * self.rng.randint(1, 131072))

    def new_path(self, i, fmt, top=False, root=False):
        dirs = ("", "", "sub", "sub/deeper", "a b", "ünï-ß日本", "quo'te", "plus+and&")
        directory = "" if top or root else self.rng.choice(dirs)
        os.makedirs(os.path.join(self.runner.cwd, directory), exist_ok=True)
        suffix = self.rng.choice(("", "", " x", "é", "'", "~", "@", "=+"))
        return os.path.join(directory, f"l{i}{suffix}.{fmt}")


def fill_holes(directory):
    """Make files of a tree have no holes: a server cannot tell where they are."""
    for home, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(home, name)
            subprocess.run(["cp", "--sparse=never", "--", path, path + ".full"], check=True)
            os.replace(path + ".full", path)


def make_chain(directory, seed):
    """A random chain; (its layers, the base first, does it need --trust)."""
    os.makedirs(directory, exist_ok=True)
    maker = Maker(random.Random(seed), lib.Runner(directory))
    maker.make()
    for name in os.listdir(directory):
        if name.startswith(("pattern", "source")):
            os.unlink(os.path.join(directory, name))
    fill_holes(directory)
    return maker.layers, maker.needs_trust


def make_simple(directory, depth, size=8 << 20, seed=1, prefix="layer", options="cluster_size=64k"):
    """A chain of qcow2 layers of noise; the name of its top."""
    rng = random.Random(seed)
    os.makedirs(directory, exist_ok=True)
    noise = os.path.join(directory, "noise")
    below = None
    for i in range(depth):
        name = f"{prefix}-{i:03}.qcow2"
        argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", options]
        argv += ["-u", "-b", below, "-F", "qcow2"] if below else []
        subprocess.run(argv + [name, str(size)], cwd=directory, check=True)
        with open(noise, "wb") as f:
            f.write(rng.randbytes(1 << 20))
        commands = []
        for _ in range(24 if below is None else 8):
            n = 65536 * rng.randint(1, 8)
            at = rng.randrange((size - n) // 4096) * 4096
            commands += ["-c", f"write -q -s noise {at} {n}"]
        subprocess.run(["qemu-io", "-t", "unsafe", "-f", "qcow2", *commands, name], cwd=directory,
                       check=True, stdout=subprocess.DEVNULL)
        below = name
    os.unlink(noise)
    return below


def flatten(image, out, fmt="qcow2"):
    """The disk's bytes, by qemu-img."""
    subprocess.run(["qemu-img", "convert", "-U", "-f", fmt, "-O", "raw", image, out], check=True)
    return out


def sha256_of(path):
    h = hashlib.sha256()
    with open(path, "rb") as f:
        for block in iter(lambda: f.read(1 << 20), b""):
            h.update(block)
    return h.hexdigest()


# ------------------------------------------------------------------ running it ---

class Place:
    """A directory of one test script with its servers and proxies; all end with it."""

    def __init__(self, name):
        base = os.path.join(build_dir(), "remote")
        os.makedirs(base, exist_ok=True)
        self.directory = tempfile.mkdtemp(prefix=name + "-", dir=base)
        os.makedirs(self.path("home"))
        self.ends = []

    def path(self, *names):
        return os.path.join(self.directory, *names)

    def server(self, name):
        s = Server(name, self.path(name))
        self.ends.append(s.stop)
        return s

    def proxy(self, upstream, **options):
        p = Proxy(self.directory, upstream, **options)
        self.ends.append(p.stop)
        return p

    def tools(self, rules=()):
        return Tools(self.directory, rules)

    def close(self):
        for end in reversed(self.ends):
            with contextlib.suppress(Exception):
                end()
        shutil.rmtree(self.directory, ignore_errors=True)


def main(name, checks, prepare=None):
    """Run checks (functions of the place, and of what prepare made); exit as a test does.

    Arguments name the checks to run; --seed N; --keep keeps the directory."""
    args = sys.argv[1:]
    keep = "--keep" in args
    seed = int(args[args.index("--seed") + 1]) if "--seed" in args else random.randrange(1 << 31)
    only = [a for a in args if a in [c.__name__ for c in checks]]
    print(f"{name}: seed {seed}", flush=True)
    lib.need("qemu-img", "qemu-io", os.path.join(build_dir(), "tests/remote/delay_proxy"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    place = Place(name)
    place.seed = seed
    failed = 0
    try:
        made = prepare(place) if prepare else None
        for check in checks:
            if only and check.__name__ not in only:
                continue
            began = time.monotonic()
            try:
                said = check(place, made) if prepare else check(place)
                print(f"ok   {check.__name__} ({time.monotonic() - began:.1f} s) {said or ''}",
                      flush=True)
            except Missing as e:
                print(f"skip {check.__name__}: {e}", flush=True)
            except Exception as e:  # pylint: disable=broad-except
                failed += 1
                text = str(e) if isinstance(e, Mismatch) else traceback.format_exc()
                print(f"FAIL {check.__name__}: {text}", flush=True)
    except Missing as e:
        print(f"SKIP: {e}")
        sys.exit(SKIP)
    finally:
        if keep:
            print("kept in", place.directory)
            for end in reversed(place.ends):
                with contextlib.suppress(Exception):
                    if getattr(end, "__self__", None).__class__ is not Server:
                        end()
        else:
            place.close()
    sys.exit(1 if failed else 0)
