#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Sidecar indexes of chains behind URLs, with the tools: made, used, checked, removed; a layer that was
replaced is noticed as the setting `verify` says; a local image over a remote chain."""
import os
import shutil
import subprocess
import time

import remote_lib as lib
from remote_lib import Mismatch

DEPTH = 8
MIB = 1 << 20
SECRETS = ("SIG-51ce4b", "pass-9d2f1c")


class World:
    """nginx with a chain: layer k (0 is the top) alone holds what is at k MiB."""

    def __init__(self, place):
        self.place = place
        self.nginx = place.server("nginx")
        self.tools = place.tools()
        self.n = 0

    def chain(self, depth=DEPTH):
        """Another one: (its directory, where that is behind URLs)."""
        self.n += 1
        directory = os.path.join(self.nginx["WWW"], "dav", f"chain{self.n}")
        os.makedirs(directory)
        for k in range(depth - 1, -1, -1):
            self.layer(directory, k, k + 1 if k + 1 < depth else None)
        return directory, f"http://127.0.0.1:{self.nginx['HTTP']}/dav/chain{self.n}"

    def layer(self, directory, k, below, pattern=None, name=None):
        backing = ["-u", "-b", f"layer{below}", "-F", "qcow2"] if below is not None else []
        name = name or f"layer{k}"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *backing, name, str(DEPTH * MIB)],
                       cwd=directory, check=True)
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", f"write -P {pattern or k + 1} {k * MIB} 64k", name],
                       cwd=directory, check=True, stdout=subprocess.DEVNULL)

    def prepare(self, directory, k):
        """Another layer, by its size and all else but one cluster the same as the k-th."""
        time.sleep(1.1)     # nginx tells files apart by whole seconds
        self.layer(directory, k, k + 1 if k + 1 < DEPTH else None, 77, "new")

    @staticmethod
    def exchange(directory, k):
        os.rename(os.path.join(directory, "new"), os.path.join(directory, f"layer{k}"))

    def replace(self, directory, k):
        self.prepare(directory, k)
        self.exchange(directory, k)

    def build(self, name, *argv, **how):
        return self.tools.run("index", "build", *argv, name, **how)

    def show(self, name, *argv):
        return self.tools.run("index", "show", "--output=json", "--files", *argv, name).json()

    def used(self, what, name, *argv):
        info = self.show(name, *argv)
        if not info["used"]:
            raise Mismatch(f"{what}: not used: {info['why-not']}")
        return info

    def map(self, name, *argv, **how):
        return self.tools.run("map", "--output=json", *argv, name, **how).json()

    def right(self, what, directory, name, *argv, rules=(), top="layer0"):
        """Map and bytes are those of the files, whatever index there is."""
        if self.map(name, *argv, rules=list(rules)) != self.map(name, "--no-index", rules=list(rules)):
            raise Mismatch(f"{what}: the map is another than that of the layers")
        raw = lib.flatten(os.path.join(directory, top), self.place.path("raw"))
        out = self.place.path("out")
        self.tools.run("read", *argv, name, out, rules=list(rules))
        if lib.sha256_of(raw) != lib.sha256_of(out):
            raise Mismatch(f"{what}: the bytes are others than qemu-img's")


def check_used(_, w):
    """Two requests open it, one more reads; and it is right."""
    directory, url = w.chain()
    name = url + "/layer0"
    said = w.build(name).out.decode()
    if f"{name}.qci: {DEPTH} layers" not in said or f"{DEPTH} layers read" not in said:
        raise Mismatch(f"build says {said!r}")
    info = w.used("built", name)
    if [f["location"] for f in info["files"]] != [f"{url}/layer{k}" for k in range(DEPTH)]:
        raise Mismatch(f"files: {info['files']}")
    r = w.tools.run("read", "--length=4096", name, os.devnull)
    if r.stats["http-requests"] > 3 or r.stats["sidecar-reads"] == 0:
        raise Mismatch(f"open and 4 KiB: {r.stats}")
    r = w.tools.run("read", "--no-index", "--length=4096", name, os.devnull)
    if r.stats["http-requests"] < DEPTH:
        raise Mismatch(f"without the index: {r.stats}")
    w.right("built", directory, name)
    w.tools.run("index", "verify", name)
    again = w.build(name).out.decode()
    if f"0 layers read, {DEPTH} from an index" not in again:
        raise Mismatch(f"another build says {again!r}")
    w.tools.run("index", "drop", name)
    if os.path.exists(os.path.join(directory, "layer0.qci")):
        raise Mismatch("drop leaves it")
    for verb in ("show", "verify", "drop"):
        if w.tools.run("index", verb, name, ok=None).status != 2:
            raise Mismatch(f"{verb} without an index")
    w.right("dropped", directory, name)
    w.build(url + "/layer3")
    if w.build(name).out.decode().count(f"3 layers read, {DEPTH - 3} from an index") != 1:
        raise Mismatch("the index of a lower layer is not used")
    w.used("over that of a lower layer", name)
    w.right("over that of a lower layer", directory, name)
    return f"{r.stats['http-requests']} requests without"


def check_strict(_, w):
    """Any layer that was replaced makes the index unused."""
    for k in (0, 1, 4, DEPTH - 1):
        directory, url = w.chain()
        w.build(url + "/layer0")
        w.replace(directory, k)
        r = w.tools.run("map", url + "/layer0", rules=["verify strict"],
                        env={"QCHAIN_DEBUG": "1"})
        if r.stats["http-requests"] < DEPTH or "not used" not in r.err:
            raise Mismatch(f"layer #{k} replaced: {r.err} {r.stats}")
        w.right(f"layer #{k} replaced", directory, url + "/layer0", rules=["verify strict"])
        if w.tools.run("index", "verify", url + "/layer0", ok=None).status != 2:
            raise Mismatch(f"layer #{k} replaced: verify")
        w.build(url + "/layer0", "--full")
        w.right(f"layer #{k} replaced, built again", directory, url + "/layer0")


def begin_read(w, name, rule):
    """A reader that has opened the chain, and waits for somebody to take its bytes."""
    fifo = w.place.path("fifo")
    if not os.path.exists(fifo):
        os.mkfifo(fifo)
    p = subprocess.Popen(w.tools.argv("read", "--offset=0", "--length=65536", name, fifo, rules=[rule]),
                         env=w.tools.env, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    lib.wait_until_quiet(p, 0.3)
    return p


def end_read(w, p):
    """(exit code, what it said, the bytes)"""
    with open(w.place.path("fifo"), "rb") as f:
        data = f.read()
    _, err = p.communicate(timeout=60)
    return p.returncode, err.decode(errors="replace"), data


def check_late(_, w):
    """Replaced while the chain is open: seen in the background, or when it is read."""
    for rule, sees in (("verify background", True), ("verify first-read", False)):
        directory, url = w.chain()
        w.build(url + "/layer0")
        w.prepare(directory, 7)
        p = begin_read(w, url + "/layer0", rule)
        w.exchange(directory, 7)    # its turn comes last
        time.sleep((5 if sees else 1) * lib.SLOW)   # it begins after a second, and has eight files to look at
        status, err, data = end_read(w, p)
        if sees != (status == 1 and "index was built" in err):
            raise Mismatch(f"{rule}: exit {status}: {err}")
        if not sees and data != b"\1" * 65536:
            raise Mismatch(f"{rule}: {len(data)} bytes, {data[:10]!r}")
        r = w.tools.fails("not what it was", "read", f"--offset={7 * MIB}", "--length=512", url + "/layer0",
                          os.devnull, rules=["verify first-read"])
        if "layer7" not in r.err:
            raise Mismatch(f"{rule}: {r.err}")


def check_stale(_, w):
    """A new top, and damage of every part."""
    directory, url = w.chain()
    name = url + "/layer0"
    w.build(name)
    w.replace(directory, 0)
    info = w.show(name)
    if info["used"] or "was changed" not in info["why-not"]:
        raise Mismatch(f"the top replaced: {info}")
    w.right("the top replaced", directory, name)
    w.build(name)
    path = os.path.join(directory, "layer0.qci")
    with open(path, "rb") as f:
        good = f.read()
    for at in (0, 20, 45, 90, 170, len(good) // 2, len(good) - 1):
        with open(path, "wb") as f:
            f.write(good[:at] + bytes([good[at] ^ 0x10]) + good[at + 1:])
        w.right(f"damaged at {at}", directory, name)
        if w.tools.run("index", "verify", name, ok=None).status not in (1, 2, 3):
            raise Mismatch(f"damaged at {at}: verify")
    with open(path, "wb") as f:
        f.write(good[:100])
    w.right("cut", directory, name)


def check_others(_, w):
    """What is no index is neither replaced nor removed."""
    directory, url = w.chain(2)
    with open(os.path.join(directory, "layer1"), "rb") as f:
        before = f.read()
    w.tools.fails("no sidecar index", "index", "build", "--index", url + "/layer1", url + "/layer0")
    w.tools.fails("no sidecar index", "index", "drop", "--index", url + "/layer1", url + "/layer0")
    with open(os.path.join(directory, "layer1"), "rb") as f:
        if f.read() != before:
            raise Mismatch("an image was changed")
    w.build(url + "/layer0", "--index", url + "/elsewhere.qci")
    w.used("elsewhere", url + "/layer0", "--index", url + "/elsewhere.qci")
    w.right("elsewhere", directory, url + "/layer0", "--index", url + "/elsewhere.qci")
    w.tools.run("index", "drop", "--index", url + "/elsewhere.qci", url + "/layer0")
    # A server that takes no writes says so.
    plain = f"http://127.0.0.1:{w.nginx['HTTP']}/noetag/dav/chain{w.n}/layer0"
    w.tools.fails(("405", "403"), "index", "build", plain)


def check_file(_, w):
    """The index of an image behind a URL in a file here: the caller's own, or root's."""
    directory, url = w.chain()
    name, index = url + "/layer0", w.place.path("mine.qci")
    w.build(name, "--index", index)
    if os.stat(index).st_mode & 0o777 != 0o600:
        raise Mismatch(f"its mode: {os.stat(index).st_mode:o}")
    w.used("a file", name, "--index", index)
    w.right("a file", directory, name, "--index", index)
    w.tools.run("index", "verify", "--index", index, name)
    for mode in (0o622, 0o662):
        os.chmod(index, mode)
        info = w.show(name, "--index", index)
        if info["used"] or "may write" not in info["why-not"]:
            raise Mismatch(f"mode {mode:o}: {info}")
        w.right(f"mode {mode:o}", directory, name, "--index", index)
    os.chmod(index, 0o644)
    w.used("read by all", name, "--index", index)
    w.tools.run("index", "drop", "--index", index, name)
    if os.path.exists(index):
        raise Mismatch("drop leaves the file")


def check_local_top(place, w):
    """A new top in a file over a chain behind URLs, with its index beside it."""
    directory, url = w.chain()
    local = place.path("local")
    os.makedirs(local, exist_ok=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", url + "/layer0", "-F", "qcow2",
                    "vm.qcow2", str(DEPTH * MIB)], cwd=local, check=True)
    name, allow = os.path.join(local, "vm.qcow2"), ["--allow-url", url + "/"]
    w.build(name, *allow)
    if not os.path.exists(name + ".qci"):
        raise Mismatch("the index is not beside the image")
    info = w.used("a local top", name, *allow)
    if info["layers"] != DEPTH + 1 or info["files"][1]["location"] != url + "/layer0":
        raise Mismatch(f"a local top: {info}")

    def right(what, *argv):
        if w.map(name, *allow, *argv) != w.map(name, *allow, "--no-index"):
            raise Mismatch(f"{what}: the map")
        w.tools.run("read", *allow, *argv, name, place.path("out"))
        raw = lib.flatten(os.path.join(directory, "layer0"), place.path("raw"))
        if lib.sha256_of(raw) != lib.sha256_of(place.path("out")):
            raise Mismatch(f"{what}: the bytes")
    right("a local top")
    w.tools.run("index", "verify", *allow, name)
    r = w.tools.run("read", *allow, "--length=4096", name, os.devnull)
    if r.stats["http-requests"] > 1:
        raise Mismatch(f"a local top: {r.stats}")
    w.replace(directory, 4)
    r = w.tools.run("map", *allow, name, rules=["verify strict"], env={"QCHAIN_DEBUG": "1"})
    if "not used" not in r.err:
        raise Mismatch(f"a local top, a layer replaced: {r.err}")
    w.build(name, *allow, "--full")
    right("a local top, built again")
    w.build(name, *allow, "--index", url + "/vm.qci")
    w.tools.run("index", "drop", *allow, name)
    w.used("its index behind a URL", name, *allow, "--index", url + "/vm.qci")
    right("its index behind a URL", "--index", url + "/vm.qci")


def check_secrets(place, w):
    """Signed URLs and logins: usable, and never told."""
    directory, _ = w.chain(2)
    shutil.copy(os.path.join(directory, "layer1"), os.path.join(w.nginx["WWW"], "alone"))
    root, index = f"127.0.0.1:{w.nginx['HTTP']}", place.path("signed.qci")
    signed = f"http://{root}/signed/alone?sig=SIG-51ce4b"
    login = f"http://user:pass-9d2f1c@{root}/private/dav/chain{w.n}/layer0"
    for verb in ("build", "drop", "verify", "show"):
        w.tools.fails("--index", "index", verb, signed)
    for name in (signed, login):
        w.build(name, "--index", index)
        w.used("with secrets", name, "--index", index)
        w.tools.run("index", "verify", "--index", index, name)
        w.tools.run("info", "--backing-chain", name)
        w.tools.run("index", "show", "--files", "--index", index, name)
        with open(index, "rb") as f:
            data = f.read()
        if any(s.encode() in data for s in SECRETS):
            raise Mismatch("a secret is in the index")
        os.unlink(index)
    w.tools.run("index", "build", "--index", signed.replace("alone", "nowhere"), login, ok=None)
    w.tools.run("index", "build", login, ok=None)
    with_login = f"http://user:pass-9d2f1c@{root}/dav/chain{w.n}/layer0"
    w.build(with_login)
    w.used("with a login, beside it", with_login)
    w.tools.run("index", "drop", with_login)
    w.tools.run("index", "drop", with_login, ok=(2,))
    told = [argv for argv, out, err in w.tools.said
            if any(s in out.decode(errors="replace") + err for s in SECRETS)]
    if told:
        raise Mismatch(f"secrets are told by {told}")


if __name__ == "__main__":
    lib.main("remote-index", [check_used, check_strict, check_late, check_stale, check_others, check_file,
                              check_local_top, check_secrets], World)
