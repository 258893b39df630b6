#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""qchain doctor: what is wrong is found, what is right is not complained about, and no secret is shown."""
import argparse
import http.server
import json
import os
import re
import subprocess
import sys
import tempfile
import threading

import interop_lib as lib
from interop_lib import Mismatch

SECRET = "SECRET-4711-0815"


class Patient:
    """A directory, and runs of the tool in it with an environment of its own."""

    def __init__(self, args, directory):
        self.qchain = os.path.join(args.bin, "qchain")
        self.directory = directory
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "AZURE_", "GOOGLE_"))}
        os.environ.clear()
        os.environ.update(keep, HOME=directory, QCHAIN_POLICY="", QCHAIN_REMOTE="")
        self.runner = lib.Runner(directory)

    def write(self, name, text, mode=0o600):
        path = os.path.join(self.directory, name)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        os.chmod(path, mode)
        return path

    def image(self, name, *options, backing=None, size="8M"):
        below = ["-u", "-b", backing, "-F", "qcow2"] if backing else []
        self.runner.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, *below, name, size])

    def doctor(self, *args, env=None, prefix=()):
        """All that it found: {check: [(result, text)]}. Its exit code must be that of what it found."""
        status, out, err = self.runner.run([*prefix, self.qchain, "doctor", "--output=json", *args], ok=None, env=env)
        if SECRET in out.decode() + err:
            raise Mismatch(f"a secret is shown: {out.decode()}{err}")
        found = {}
        try:
            told = json.loads(out)
        except ValueError:
            raise Mismatch(f"doctor {args}: exit {status}: {out!r} {err}") from None
        for c in told["checks"]:
            found.setdefault(c["check"], []).append((c["result"], c["text"] + " " + c.get("advice", "")))
        problems = sum(r == "problem" for c in found.values() for r, _ in c)
        if told["problems"] != problems or status != (1 if problems else 0):
            raise Mismatch(f"doctor {args}: exit {status}, {problems} problems: {out.decode()}")
        return found

    def finds(self, check, result, *words, args=(), env=None, prefix=()):
        """One line of a check has this result and these words."""
        found = self.doctor(*args, env=env, prefix=prefix)
        for r, text in found.get(check, []):
            if r == result and all(w in text for w in words):
                return
        raise Mismatch(f"{check}: wanted {result} {words}, found {found.get(check)} in {list(found)}")


def check_healthy(p):
    p.image("base.qcow2")
    p.image("top.qcow2", backing="base.qcow2")
    found = p.doctor("top.qcow2")
    want = {"version", "libcurl", "io_uring", "open files", "locked memory", "fuse", "clock", "policy", "remote",
            "credentials", "disk cache", "image", "permissions", "format", "chain", "index"}
    if not want <= set(found) or any(r == "problem" for c in found.values() for r, _ in c):
        raise Mismatch(f"a healthy image: {found}")
    out = p.runner.run([p.qchain, "doctor", "top.qcow2"])[1].decode()
    if "\033" in out or not all(line.startswith(("ok  ", "note  ", "   ")) for line in out.splitlines()):
        raise Mismatch(out)
    for args in (("a", "b"), ("--nonsense",)):
        p.runner.run([p.qchain, "doctor", *args], ok=(2,))


def check_machine(p):
    p.finds("open files", "note", "100", prefix=("prlimit", "--nofile=100"))
    p.finds("locked memory", "note", "4096", prefix=("prlimit", "--memlock=4096"))


def check_policy_file(p):
    wrong = {"QCHAIN_POLICY": p.write("wrong-policy", "trust\nnonsense\n")}
    p.finds("policy", "problem", "wrong-policy", "2", env=wrong)
    if "credentials" not in p.doctor(env=wrong):
        raise Mismatch("a wrong policy ends it")
    p.image("unknown.qcow2")
    for env in (wrong, {"QCHAIN_REMOTE": p.write("wrong-rules", "hedge on\nnonsense 1\n")}):
        p.finds("chain", "problem", "not opened", args=("unknown.qcow2",), env=env)
    p.finds("policy", "problem", "chmod go-w", env={"QCHAIN_POLICY": p.write("open-policy", "trust\n", 0o666)})
    p.finds("policy", "ok", "good-policy", env={"QCHAIN_POLICY": p.write("good-policy", "trust\n", 0o644)})
    p.finds("policy", "problem", "no-policy", env={"QCHAIN_POLICY": os.path.join(p.directory, "no-policy")})


def check_rules(p):
    def rules(text, mode=0o600):
        return {"QCHAIN_REMOTE": p.write("rules", text, mode)}
    p.finds("remote", "problem", "rules", "2", env=rules("hedge on\nnonsense 1\n"))
    p.finds("remote", "problem", "rules", env=rules("hedge on\n", 0o666))
    p.finds("remote", "problem", "chmod go-r", env=rules(f"s3-access-key a\ns3-secret-key {SECRET}\n", 0o644))
    p.finds("remote", "ok", "rules", env=rules("hedge on\n", 0o644))
    p.finds("credentials", "ok", "s3", "access key", "rules",
            env=rules(f"s3-access-key a\n  s3-secret-key\t{SECRET}\n"))
    p.finds("credentials", "problem", "half", env=rules("s3-access-key a\n"))
    p.finds("credentials", "ok", "http", "user", env=rules(f"basic https://host u {SECRET}\n"))
    p.finds("credentials", "ok", "az", "SAS", env=rules(f"azure-sas sig={SECRET}\n"))
    p.finds("credentials", "ok", "none", env=rules(f"# s3-secret-key {SECRET}\n"))
    p.finds("credentials", "ok", "s3", "environment",
            env={"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": SECRET})
    p.finds("credentials", "problem", "half", env={"AWS_SECRET_ACCESS_KEY": SECRET})
    p.finds("credentials", "ok", "gs", "token", env={"GOOGLE_OAUTH_ACCESS_TOKEN": SECRET})
    os.mkdir(os.path.join(p.directory, ".aws"))
    p.write(".aws/credentials", f"[default]\naws_secret_access_key={SECRET}\n")
    p.finds("credentials", "ok", "s3", "profile", ".aws/credentials")


def check_options(p):
    """Rules of the command line count like those of the file, and all are parted as qchain-remote(5) says."""
    rules = p.write("given-rules", f"s3-access-key a # the reader's\ns3-secret-key {SECRET}\n", 0o644)
    p.finds("credentials", "ok", "s3", "given-rules", args=("--remote-config", rules))
    p.finds("remote", "problem", "chmod go-r", "given-rules", args=("--remote-config", rules))
    p.finds("credentials", "ok", "az", "the command line", args=("--remote", f"azure-sas sig={SECRET}"))
    p.finds("remote", "problem", "the command line", args=("--remote", f"azure-sas sig={SECRET}"))
    p.finds("credentials", "ok", "none are set", args=("--remote", "s3-anonymous off"))
    for rule, directory in (('cache-dir "/none/a \\"b\\\\ c"', '/none/a "b\\ c is'), ("cache-dir /none/d # /none/e", "/none/d is"),
                            ("  cache-dir\t/none/f \t", "/none/f is"), ("cache-dir /none/g#h", "/none/g#h is")):
        p.finds("disk cache", "note", directory, args=("--cache-dir", "/none/z", "--remote", rule))
        p.finds("disk cache", "note", directory, env={"QCHAIN_REMOTE": p.write("quoted", rule + "\n")})


def check_unchanged(p):
    """An image behind a URL leaves nothing in the cache."""
    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            if self.path != "/far.qcow2":
                self.send_error(404)
                return
            first, last = re.match(r"bytes=(\d+)-(\d+)", self.headers["Range"]).groups()
            with open(os.path.join(p.directory, self.path[1:]), "rb") as f:
                data = f.read()
            part = data[int(first):int(last) + 1]
            self.send_response(206)
            self.send_header("ETag", '"1"')
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            self.wfile.write(part)

        def log_message(self, *_):
            pass
    p.image("far.qcow2")
    cache = os.path.join(p.directory, "new cache")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            url = f"http://127.0.0.1:{server.server_address[1]}/far.qcow2"
            p.finds("chain", "ok", "1 layer", args=("--no-index", "--cache-dir", cache, url))
        finally:
            server.shutdown()
    if os.path.exists(cache):
        raise Mismatch("it fills a disk cache")


def check_cache_dir(p):
    cache = os.path.join(p.directory, "a cache")
    rules = {"QCHAIN_REMOTE": p.write("cache-rules", f'cache-dir "{cache}"\n')}
    p.finds("disk cache", "note", cache, env=rules)
    if os.path.exists(cache):
        raise Mismatch("it has made the disk cache")
    os.mkdir(cache, 0o700)
    os.chmod(cache, 0o777)
    p.finds("disk cache", "problem", "chmod go-w", env=rules)
    p.finds("disk cache", "problem", "not a directory", args=("--cache-dir", os.path.join(p.directory, "cache-rules")))


def check_images(p):
    p.finds("chain", "problem", "gone.qcow2", args=(broken(p, "gone.qcow2"),))
    p.finds("chain", "problem", "--allow-path", args=(broken(p, "/etc/hosts"),))
    p.finds("chain", "problem", "qchain rebase -u", args=(broken(p, "gone.qcow2"),))
    p.image("with-data.qcow2", "-o", "data_file=lost.raw")
    os.unlink(os.path.join(p.directory, "lost.raw"))
    found = p.doctor("--trust", broken(p, "with-data.qcow2"))["chain"][0][1]
    if "lost.raw" not in found or "rebase" in found:
        raise Mismatch(f"a data file is no backing file: {found}")
    p.finds("image", "problem", "none.qcow2", args=("none.qcow2",))
    p.finds("permissions", "problem", "none.qcow2", args=("none.qcow2",))
    p.write("disk.raw", "x" * 4096)
    p.finds("format", "note", "-f raw", args=("disk.raw",))
    p.finds("format", "ok", "raw", args=("-f", "raw", "disk.raw"))
    p.image("marked.qcow2")
    with open(os.path.join(p.directory, "marked.qcow2"), "r+b") as f:
        f.seek(79)
        f.write(b"\2")
    p.finds("state", "problem", "qchain check", args=("marked.qcow2",))


def broken(p, backing):
    p.image("broken.qcow2", backing=backing)
    return "broken.qcow2"


def check_locked(p):
    """An image that a QEMU has open for writing."""
    p.image("locked.qcow2")
    with subprocess.Popen(["qemu-io", "-f", "qcow2", os.path.join(p.directory, "locked.qcow2")],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8") as writer:
        writer.stdin.write("write 0 64k\n")
        writer.stdin.flush()
        while "ops" not in (writer.stdout.readline() or "ops"):
            pass
        p.finds("locks", "problem", "locked.qcow2", "-U", args=("locked.qcow2",))
        p.finds("locks", "ok", "-U", args=("-U", "locked.qcow2"))
        writer.stdin.close()
    p.finds("locks", "ok", "no program", args=("locked.qcow2",))


def check_index_file(p):
    p.image("indexed.qcow2")
    p.runner.run([p.qchain, "index", "build", "-q", "indexed.qcow2"])
    p.finds("index", "ok", "is used", args=("indexed.qcow2",))
    sidecar = os.path.join(p.directory, "indexed.qcow2.qci")
    os.chmod(sidecar, 0o666)
    p.finds("index", "note", "not believed", args=("indexed.qcow2",))
    os.chmod(sidecar, 0o600)
    with open(sidecar, "r+b") as f:
        f.seek(40)
        f.write(b"\xff" * 8)
    p.finds("index", "problem", "qchain index build", args=("indexed.qcow2",))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", default=os.path.join(lib.build_dir(), "bin"))
    parser.add_argument("--hammer")
    args = parser.parse_args()
    args.bin = os.path.abspath(args.bin)
    lib.need("qemu-img", "qemu-io", "prlimit", os.path.join(args.bin, "qchain"))
    failed = 0
    with tempfile.TemporaryDirectory(prefix="qchain-doctor-") as directory:
        p = Patient(args, directory)
        for check in (check_healthy, check_machine, check_policy_file, check_options, check_rules, check_unchanged,
                      check_cache_dir, check_images, check_locked, check_index_file):
            try:
                check(p)
            except Mismatch as e:
                failed = 1
                print(f"FAIL {check.__name__}: {e}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
