#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The gate: what an image may refer to by default, and the options that allow more."""
import argparse
import json
import os
import re
import shutil
import socket
import stat
import sys
import tempfile

import interop_lib as lib
from interop_lib import Mismatch
from qcow2_writer import write_qcow2

SIZE = 1 << 20
UNIT = 4096


class Gate:
    """A directory `in` for the top images, a directory `out` beside it."""

    def __init__(self, args, root):
        self.args = args
        self.root = root
        self.inside = os.path.join(root, "in")
        self.outside = os.path.join(root, "out")
        os.makedirs(os.path.join(self.inside, "sub"))
        os.mkdir(self.outside)
        self.runner = lib.Runner(self.inside)
        self.content = {3: b"\x5a" * UNIT}
        for path in ("in/base.qcow2", "in/sub/base.qcow2", "out/base.qcow2"):
            write_qcow2(os.path.join(root, path), SIZE, self.content)
        with open(os.path.join(self.outside, "base.raw"), "wb") as f:
            f.write(b"\x5a" * SIZE)
        self.n = 0
        self.checked = 0

    def top(self, backing, fmt="qcow2", **kw):
        """A new top image that refers to backing; returns its name."""
        self.n += 1
        name = f"top{self.n}.qcow2"
        write_qcow2(os.path.join(self.inside, name), SIZE, kw.pop("clusters", {}), backing, fmt,
                    **kw)
        return name

    def map(self, name, *options, env=None, cwd=None):
        argv = [os.path.join(self.args.bin, "qchain"), "map", "--output=json", *options, name]
        self.checked += 1
        runner = lib.Runner(cwd) if cwd else self.runner
        return runner.run(argv, ok=None, env=env, timeout=20)

    def refused(self, what, name, *words, options=(), env=None, cwd=None):
        """The message must hold every word; a tuple of words asks for one of them."""
        status, out, err = self.map(name, *options, env=env, cwd=cwd)
        if status != 1 or out.strip():
            raise Mismatch(f"{what}: exit {status}, wanted 1 and no map: {err} {out[:200]!r}")
        for word in words:
            if not any(w in err for w in (word if isinstance(word, tuple) else (word,))):
                raise Mismatch(f"{what}: no {word!r} in: {err}")

    def allowed(self, what, name, *options, env=None, cwd=None, byte=True):
        status, out, err = self.map(name, *options, env=env, cwd=cwd)
        if status != 0:
            raise Mismatch(f"{what} {options} {env or ''}: exit {status}: {err}")
        if byte and not any(e["data"] for e in json.loads(out)):
            raise Mismatch(f"{what} {options}: the layer below is not seen: {out!r}")

    def by_policy_file(self, text):
        path = os.path.join(self.root, "policy.conf")
        with open(path, "w", encoding="utf-8") as f:
            f.write("# rules\n\n" + text + "\n")
        return {"QCHAIN_POLICY": path}


def check_beneath(g):
    g.allowed("a neighbour", g.top("base.qcow2"))
    g.allowed("./", g.top("./base.qcow2"))
    g.allowed("a directory below", g.top("sub/base.qcow2"))
    g.allowed("an absolute path beneath", g.top(os.path.join(g.inside, "base.qcow2")))
    g.allowed("out and back in", g.top("../in/base.qcow2"))
    # A top under another name: both its directories count.
    os.mkdir(os.path.join(g.root, "links"))
    name = g.top(os.path.join(g.inside, "base.qcow2"))
    os.symlink(os.path.join(g.inside, name), os.path.join(g.root, "links", "top.qcow2"))
    g.allowed("a symbolic link as top", os.path.join(g.root, "links", "top.qcow2"))
    write_qcow2(os.path.join(g.root, "links", "below.qcow2"), SIZE, g.content)
    name = g.top("below.qcow2")
    os.symlink(os.path.join(g.inside, name), os.path.join(g.root, "links", "top2.qcow2"))
    g.allowed("a name beside the link", os.path.join(g.root, "links", "top2.qcow2"))
    # From another directory, the image's directory counts and not the caller's.
    g.allowed("called from elsewhere", "in/" + g.top("base.qcow2"), cwd=g.root)
    g.refused("the caller's directory", "in/" + g.top("../out/base.qcow2"), "--allow-path",
              cwd=g.root)


def check_outside(g):
    os.symlink(os.path.join(g.outside, "base.qcow2"), os.path.join(g.inside, "link.qcow2"))
    os.symlink(g.outside, os.path.join(g.inside, "linkdir"))
    sibling = g.inside + "side"
    os.mkdir(sibling)
    write_qcow2(os.path.join(sibling, "base.qcow2"), SIZE, g.content)
    for what, backing, where in (
            ("an absolute path", os.path.join(g.outside, "base.qcow2"), g.outside),
            ("../", "../out/base.qcow2", g.outside),
            ("a directory with the same beginning", "../inside/base.qcow2", sibling),
            ("a link that leads out", "link.qcow2", g.outside),
            ("a directory link that leads out", "linkdir/base.qcow2", g.outside),
            ("sub/../../", "sub/../../out/base.qcow2", g.outside)):
        name = g.top(backing)
        g.refused(what, name, "--allow-path", "layer #")
        g.allowed(what, name, "--allow-path", where)
        g.allowed(what, name, "--allow-path=" + where)
        g.allowed(what, name, "--trust")
        g.allowed(what, name, env=g.by_policy_file("allow-path " + where))
        g.refused(what + ", another path allowed", name, "--allow-path",
                  options=("--allow-path", os.path.join(g.inside, "sub")))
    # Two layers down.
    write_qcow2(os.path.join(g.inside, "mid.qcow2"), SIZE, {}, "../out/base.qcow2", "qcow2")
    name = g.top("mid.qcow2")
    g.refused("two layers down", name, "--allow-path", "mid.qcow2")
    g.allowed("two layers down", name, "--allow-path", g.outside)
    status, _, err = g.map(name, "--allow-path", os.path.join(g.root, "none"))
    if status == 0 or "none" not in err:
        raise Mismatch(f"--allow-path of a directory that is not: exit {status}: {err}")


def check_names(g):
    """json: and schemes: refused, and nobody is called."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        spec = {"driver": "qcow2", "file": {"driver": "file", "filename":
                                            os.path.join(g.inside, "base.qcow2")}}
        trusted = g.top("json:" + json.dumps(spec))
        for backing in (f"http://127.0.0.1:{port}/x", f"nbd://127.0.0.1:{port}/x",
                        f"nbd:127.0.0.1:{port}", "ssh://localhost/x", "rbd:pool/x",
                        f"json:{{\"driver\":\"nbd\",\"host\":\"127.0.0.1\",\"port\":\"{port}\"}}",
                        "fat:rw:/tmp", "blkdebug::base.qcow2", "host_device:/dev/zero"):
            g.refused(backing, g.top(backing, "raw"), "layer #")
        for backing in ("file:base.qcow2", "file:" + os.path.join(g.outside, "base.qcow2")):
            status, _, err = g.map(g.top(backing))
            if status != 0 and not err.strip():
                raise Mismatch(f"{backing}: exit {status} without a word")
        g.refused("file: outside", g.top("file:" + os.path.join(g.outside, "base.qcow2")),
                  ("--allow-path", "--trust"))
        g.refused("json: of a file", trusted, "--trust")
        g.allowed("json: of a file", trusted, "--trust")
        g.allowed("json: of a file", trusted, env=g.by_policy_file("trust"))
        server.settimeout(0.2)
        try:
            server.accept()
            raise Mismatch("an image made us connect")
        except (TimeoutError, socket.timeout):
            pass


def check_format(g):
    name = g.top("base.qcow2", None)
    g.refused("no backing format", name, "--backing-format")
    g.allowed("no backing format", name, "--backing-format", "qcow2")
    g.allowed("no backing format", name, "--trust")
    g.allowed("no backing format", name, env=g.by_policy_file("backing-format qcow2"))
    status, out, _ = g.map(name, "--backing-format=raw")
    base = os.path.getsize(os.path.join(g.inside, "base.qcow2"))
    if status != 0 or json.loads(out)[0]["offset"] != 0 or base == 0:
        raise Mismatch(f"--backing-format=raw: exit {status}, {out!r}")
    # A recorded format is what counts: never probed, never replaced.
    status, out, _ = g.map(g.top("base.qcow2", "raw"), "--backing-format=qcow2")
    if status != 0 or not json.loads(out)[0]["data"]:
        raise Mismatch(f"a qcow2 recorded as raw was looked into: {out!r}")
    g.refused("an unknown format", g.top("base.qcow2", "vmdk"), "vmdk")
    g.refused("a format unknown to the option", name, "vmdk",
              options=("--backing-format", "vmdk"))


def check_data_file(g):
    def data_file(where, referred=None):
        full = os.path.join(where, "disk.data")
        with open(full, "wb") as f:
            f.write(b"\x33" * (8 * UNIT))
        return g.top(None, None, clusters={2: b""}, data_file=referred or "disk.data")

    name = data_file(g.inside)
    g.refused("a data file", name, ("--trust", "data-file"), "disk.data")
    g.allowed("a data file", name, "--trust")
    g.allowed("a data file", name, env=g.by_policy_file("allow data-file"))
    name = data_file(g.outside, "../out/disk.data")
    g.refused("a data file outside", name, ("--trust", "data-file", "--allow-path"))
    g.refused("a data file outside", name, "--allow-path",
              env=g.by_policy_file("allow data-file"))
    g.allowed("a data file outside", name, "--trust")
    g.allowed("a data file outside", name, "--allow-path", g.outside,
              env=g.by_policy_file("allow data-file"))
    g.refused("json: as data file", g.top(None, None, data_file='json:{"driver":"null-co"}'),
              ("--trust", "data-file"))


def check_kinds(g):
    """Only regular files; a fifo must not even make us wait."""
    os.mkfifo(os.path.join(g.inside, "fifo"))
    server = socket.socket(socket.AF_UNIX)
    server.bind(os.path.join(g.inside, "socket"))
    kinds = ["fifo", "socket", "sub", "/dev/zero", "/proc/self/mem"]
    try:
        os.mknod(os.path.join(g.inside, "block"), stat.S_IFBLK | 0o600, os.makedev(7, 200))
        os.mknod(os.path.join(g.inside, "char"), stat.S_IFCHR | 0o600, os.makedev(1, 5))
        kinds += ["block", "char"]
    except PermissionError:
        print("policy: no devices can be made here; /dev/zero stands for them")
    for kind in kinds:
        g.refused(kind, g.top(kind, "raw"), "layer #")
        if kind in ("fifo", "socket", "sub", "char"):
            status, _, err = g.map(g.top(kind, "raw"), "--trust")
            if status == 0:
                raise Mismatch(f"{kind} with --trust: taken as an image: {err}")
    g.refused("/dev/zero within an allowed path", g.top("/dev/zero", "raw"), "layer #",
              options=("--allow-path", "/dev"))
    server.close()


def check_policy_file(g):
    name = g.top("base.qcow2")
    g.allowed("an empty policy", name, env=g.by_policy_file(""))
    for text, number in (("allow-path", "3"), ("allow everything", "3"), ("max-layers x", "3"),
                         ("backing-format raw\nnonsense", "4")):
        status, _, err = g.map(name, env=g.by_policy_file(text))
        if status == 0 or not re.search(rf"\b{number}\b", err):
            raise Mismatch(f"policy {text!r}: exit {status}, line {number} not in: {err}")
    status, _, err = g.map(name, env={"QCHAIN_POLICY": os.path.join(g.root, "no-policy")})
    if status == 0 or "no-policy" not in err:
        raise Mismatch(f"a policy file that is not: exit {status}: {err}")
    g.refused("max-layers", name, "layer", env=g.by_policy_file("max-layers 1"))


def check_info_opens_nothing(g):
    """info and inspect look at one file, whatever it refers to."""
    try:
        lib.need("strace")
    except SystemExit:
        print("policy: strace is not installed; not seen what info opens")
        return
    names = [g.top("base.qcow2"), g.top("../out/base.qcow2"), g.top("/dev/zero", "raw"),
             g.top("fifo", "raw"), g.top(None, None, data_file="disk.data"),
             g.top('json:{"driver":"file","filename":"/etc/passwd"}', "raw"),
             g.top("nbd://127.0.0.1:1/x", "raw")]
    for name in names:
        for argv in (["info", name], ["info", "--output=json", name], ["inspect", name]):
            trace = os.path.join(g.root, "trace")
            full = ["strace", "-f", "-o", trace, "-e", "trace=open,openat,openat2,connect,execve",
                    os.path.join(g.args.bin, "qchain"), *argv]
            status, _, err = g.runner.run(full, ok=None, timeout=30)
            if status != 0 and "ptrace" in err:
                print("policy: strace may not trace here; not seen what info opens")
                return
            if status != 0:
                raise Mismatch(f"{' '.join(argv)}: exit {status}: {err}")
            with open(trace, encoding="utf-8", errors="replace") as f:
                calls = f.read()
            opened = {path for path in re.findall(r'\bopen(?:at2?)?\([^"\n]*"([^"]*)"', calls)
                      if not re.match(r"/(usr|lib|lib64|etc/ld|etc/qchain|proc|sys)\b", path)
                      and not re.match(r"/tmp/tsan\.", path)}  # a sanitizer's own
            ours = {name, os.path.join(g.inside, name), ".", g.inside, "/"}
            if opened - ours or "connect(" in calls:
                raise Mismatch(f"{' '.join(argv)} opens {sorted(opened - ours)}")
            if not opened & {name, os.path.join(g.inside, name)}:
                raise Mismatch(f"{' '.join(argv)}: strace shows no open of the image: {opened}")


CHECKS = (check_beneath, check_outside, check_names, check_format, check_data_file, check_kinds,
          check_policy_file, check_info_opens_nothing)


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--bin", default=lib.default_bin())
    p.add_argument("--hammer", help="given to every test of this directory; not used here")
    args = p.parse_args()
    args.bin = os.path.abspath(args.bin)
    if not os.path.exists(os.path.join(args.bin, "qchain")):
        print("SKIP: the program qchain is not built")
        return lib.SKIP
    os.environ.pop("QCHAIN_POLICY", None)
    failed = checked = 0
    for check in CHECKS:
        root = os.path.realpath(tempfile.mkdtemp(prefix="qchain-policy-"))
        gate = Gate(args, root)
        try:
            check(gate)
        except Mismatch as e:
            failed += 1
            print(f"FAIL {check.__name__}: {e}")
        checked += gate.checked
        shutil.rmtree(root)
    print(f"policy: {len(CHECKS)} checks, {failed} failed, {checked} chains opened")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
