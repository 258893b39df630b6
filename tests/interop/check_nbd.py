#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The nbdkit plugin: random chains against qemu-nbd and qemu-img, writing against a model, what is agreed on with
clients, names of exports, failures, kill -9 of server and client, a full disk, and a chain behind a URL.

Arguments name the checks to run; --seed N makes the same chains again, --keep keeps the directory."""
import argparse
import concurrent.futures
import contextlib
import errno
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback

import interop_lib as lib
import nbd_server as ns
from chain_maker import ChainMaker
from interop_lib import Mismatch
from range_server import serving

ns.need_nbdkit()
import nbd  # noqa: E402 pylint: disable=wrong-import-position

KIB, MIB = 1 << 10, 1 << 20
SECTOR = 512


class Place:
    """A directory, a generator, servers and images in it."""

    def __init__(self, directory, seed, args):
        self.directory, self.seed, self.args = directory, seed, args
        self.rng = random.Random(seed)
        self.n = 0

    def path(self, *names):
        return os.path.join(self.directory, *names)

    def new(self, name):
        self.n += 1
        return self.path(f"{name}{self.n}")

    def serve(self, *args, **how):
        return ns.ours(self.new("nbdkit"), *args, **how)

    def run(self, *argv, ok=(0,), cwd=None):
        done = subprocess.run(argv, cwd=cwd or self.directory, capture_output=True, timeout=300, check=False,
                              stdin=subprocess.DEVNULL)
        if ok is not None and done.returncode not in ok:
            raise Mismatch(f"exit {done.returncode}: {argv}\n{(done.stdout + done.stderr)[-2000:].decode('utf-8', 'replace')}")
        return done

    def refused(self, *args):
        """What nbdkit says when it does not begin."""
        done = subprocess.run(ns.command(*args, options=["-U", "-"]) + ["--run", "true"], cwd=self.directory, check=False,
                              capture_output=True, timeout=60, stdin=subprocess.DEVNULL)
        if done.returncode != 1:
            raise Mismatch(f"{args}: exit {done.returncode}: {done.stderr[-1000:]}")
        return done.stderr.decode("utf-8", "replace")

    def image(self, name, size=None, below=None, options="cluster_size=64k", fill=0):
        """A qcow2 layer in the directory, over another, with so many random writes."""
        more = ["-b", below, "-F", below.rsplit(".", 1)[1]] if below else []
        self.run("qemu-img", "create", "-q", "-f", name.rsplit(".", 1)[1], *(["-o", options] if name.endswith("2") else []),
                 *more, name, *([str(size)] if size else []))
        info = json.loads(self.run("qemu-img", "info", "--output=json", name).stdout)
        commands = []
        for _ in range(fill):
            at = self.rng.randrange(info["virtual-size"] // 4096) * 4096
            n = min(info["virtual-size"] - at, self.rng.choice((4096, 65536, 200704)))
            kind = f"write -q -P {self.rng.randint(1, 255)}" if self.rng.random() < 0.8 else "write -q -z"
            commands += ["-c", f"{kind} {at} {n}"]
        if commands:
            self.run("qemu-io", "-f", info["format"], *commands, name)
        return self.path(name)

    def chain(self, size=16 * MIB, options="cluster_size=64k"):
        self.image("base.raw", size, fill=12)
        self.image("mid.qcow2", below="base.raw", options=options, fill=12)
        return self.image("top.qcow2", below="mid.qcow2", options=options, fill=12)

    def flat(self, top, fmt="qcow2", cwd=None):
        out = self.new("flat") + ".raw"
        self.run("qemu-img", "convert", "-U", "-f", fmt, "-O", "raw", top, out, cwd=cwd)
        return out


def read_all(path):
    with open(path, "rb") as f:
        return f.read()


class Client:
    """A connection of libnbd; a context manager. Calls of the handle by their names."""

    def __init__(self, uri, shutdown=True):
        self.h, self.ends = nbd.NBD(), shutdown
        self.h.add_meta_context("base:allocation")
        self.h.connect_uri(uri)
        self.h.set_strict_mode(0)

    def __getattr__(self, name):
        return getattr(self.h, name)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None and self.ends:
            self.h.shutdown()
        self.h = None


def fails(what, number, call):
    """The call must fail with this errno."""
    try:
        call()
    except nbd.Error as e:
        if e.errnum != number:
            raise Mismatch(f"{what}: {e}, should be {errno.errorcode[number]}") from None
        return
    raise Mismatch(f"{what}: it should fail with {errno.errorcode[number]}")


def nbd_map(place, uri):
    """Extents as (offset, length, type), neighbours of one type made one."""
    out = json.loads(place.run("nbdinfo", "--map", "--json", uri).stdout)
    joined = []
    for e in out:
        if joined and joined[-1][2] == e["type"] and sum(joined[-1][:2]) == e["offset"]:
            joined[-1][1] += e["length"]
        else:
            joined.append([e["offset"], e["length"], e["type"]])
    return joined


# --------------------------------------------------------------------- reading ---

def one_random(place, seed):
    rng = random.Random(seed)
    home = place.new("random")
    os.mkdir(home)
    maker = ChainMaker(rng, lib.Runner(home))
    maker.make()
    top, fmt = os.path.join(home, maker.layers[-1].path), maker.layers[-1].fmt
    size = json.loads(place.run("qemu-img", "info", "--output=json", "-f", fmt, top).stdout)["virtual-size"]
    if size == 0:
        return

    def qemus_map():
        with ns.qemus(place.new("qemu"), top, fmt, cwd=home) as theirs:
            return nbd_map(place, theirs.uri())

    want = qemus_map()
    with place.serve(*["trust=true"] * maker.needs_trust, "format=" + fmt, top, cwd=home) as s:
        got = nbd_map(place, s.uri())
        if got != want: # on ext4 space kept for zeros is a hole until somebody's reading ahead has it in the page cache
            want = qemus_map()
        if got != want:
            raise Mismatch(f"seed {seed}: map\n{got[:30]}, qemu-nbd's\n{want[:30]}")
        one_by_one(s.uri(), size, want)
        out = place.new("copied")
        place.run("nbdcopy", s.uri(), out)
        oracle = place.flat(top, fmt, cwd=home)
        place.run("qemu-img", "compare", "-f", "raw", "-F", "raw", out, oracle)
        place.run("qemu-img", "compare", "-U", "-f", "raw", "-F", fmt, s.uri(), top, cwd=home)
    shutil.rmtree(home)
    for name in (oracle, out):
        os.unlink(name)


def one_by_one(uri, size, want):
    """Who asks for one extent gets one, as long as it is."""
    def note(_, offset, entries, error):
        if error.value == 0:
            found.append([offset, min(entries[0], size - offset), entries[1]])
        return 0

    with Client(uri) as c:
        found = []
        while not found or sum(found[-1][:2]) < size:
            at = sum(found[-1][:2]) if found else 0
            c.block_status(min(size - at, 2 << 30), at, note, nbd.CMD_FLAG_REQ_ONE)
        if found != want:
            raise Mismatch(f"one by one: {found[:30]}, should be {want[:30]}")


def random_disks(place):
    count = lib.share(place.args.count)
    for i in range(count):
        one_random(place, place.seed + i)
    return f"{count} chains"


def many_readers(place):
    """Connections and requests side by side; both ways past the page cache and through it."""
    top = place.chain()
    want = read_all(place.flat(top))

    def reader(i):
        rng = random.Random(place.seed + i)
        with Client(s.uri()) as c:
            for _ in range(lib.share(60)):
                flying = []
                for _ in range(8):
                    at, n = rng.randrange(len(want) - 1), rng.choice((1, 512, 4096, 100000, MIB))
                    n = min(n, len(want) - at)
                    flying.append((nbd.Buffer(n), at, n))
                cookies = [c.aio_pread(b, at) for b, at, _ in flying]
                while cookies:
                    c.poll(-1)
                    cookies = [x for x in cookies if not c.aio_command_completed(x)]
                for b, at, n in flying:
                    lib.same_bytes(f"reader {i}", bytes(b.to_bytearray()), want[at:at + n], at)

    for more in ([], ["cache=none"]):
        with place.serve(*more, top) as s, concurrent.futures.ThreadPoolExecutor(6) as pool:
            list(pool.map(reader, range(6)))


# ---------------------------------------------------------------- what is agreed on ---

def flags_of(place, uri):
    return json.loads(place.run("nbdinfo", "--json", uri).stdout)["exports"][0]


def agreed(place):
    place.image("mid.qcow2", 8 * MIB)
    place.image("top.qcow2", below="mid.qcow2", fill=6, options="cluster_size=128k,extended_l2=on")
    place.image("plain.raw", 4 * MIB)
    can = ("can_cache", "can_df", "can_flush", "can_multi_conn", "can_fast_zero", "can_fua", "can_trim", "can_zero")
    for args, options, writable, unit in ((["top.qcow2"], [], 0, 4096), (["top.qcow2", "write=true"], [], 1, 4096),
                                          (["top.qcow2", "write=true"], ["-r"], 0, 4096), (["mid.qcow2"], [], 0, 65536),
                                          (["plain.raw", "format=raw", "write=true"], [], 1, 4096)):
        with place.serve(*args, options=options, cwd=place.directory) as s:
            got = flags_of(place, s.uri())
            size = json.loads(place.run("qemu-img", "info", "-U", "--output=json", args[0]).stdout)["virtual-size"]
            want = {"export-size": size, "is_rotational": False, "is_read_only": not writable, "block_size_minimum": 1,
                    "block_size_preferred": unit, "block_size_maximum": 64 * MIB}
            want.update({name: i < 4 or bool(writable) for i, name in enumerate(can)})
            wrong = {k: got.get(k) for k, v in want.items() if got.get(k) != v}
            if wrong:
                raise Mismatch(f"{args} {options}: {wrong}")
            with Client(s.uri()) as c:
                if not writable:
                    place.run("qemu-img", "info", args[0])  # others may read it, too
                    fails("a write", errno.EPERM, lambda: c.pwrite(b"x" * 512, 0))
            if args[0] == "top.qcow2" and got.get("description") != "a chain of 2 layers":
                raise Mismatch(f"described as {got.get('description')}")


def exports(place):
    """Names, the default, one that is not there; each shows its own disk."""
    size = {"one.raw": MIB, "two.raw": 2 * MIB, "three.raw": 3 * MIB}
    for name, n in size.items():
        with open(place.image(name, n), "r+b") as f:
            f.write(name.encode())
    pairs = ["export=a=one.raw", "export=b c/d=two.raw"]
    for more, names, default in (([], ["a", "b c/d"], "one.raw"), (["three.raw"], ["", "a", "b c/d"], "three.raw")):
        with place.serve("format=raw", *pairs, *more, cwd=place.directory) as s:
            listed = json.loads(place.run("nbdinfo", "--list", "--json", s.uri()).stdout)["exports"]
            if [e["export-name"] for e in listed] != names:
                raise Mismatch(f"listed: {listed}")
            for asked, want in (("", default), ("a", "one.raw"), ("b%20c/d", "two.raw")):
                with Client(s.uri(asked)) as c:
                    if c.get_size() != size[want] or bytes(c.pread(len(want), 0)) != want.encode():
                        raise Mismatch(f"export '{asked}' is not {want}")
            try:
                Client(s.uri("nothing"))
            except nbd.Error:
                if "there is no export 'nothing'" not in s.said():
                    raise Mismatch(f"of an unknown export: {s.said()}") from None
            else:
                raise Mismatch("an export that is not there")
    with place.serve("format=raw", "one.raw", cwd=place.directory) as s, Client(s.uri("whatever")) as c:
        if bytes(c.pread(7, 0)) != b"one.raw":
            raise Mismatch("one image has any name")


def background(place):
    """Without -f nbdkit forks and goes to another directory; relative names still hold. It ends at SIGTERM, all of it."""
    top, home = place.chain(), place.new("background")
    os.mkdir(home)
    pid, socket = os.path.join(home, "pid"), os.path.join(home, "socket")
    argv = [a for a in ns.command("top.qcow2", "write=true", options=["-U", socket, "-P", pid]) if a not in
            ("-f", "--exit-with-parent")]
    subprocess.run(argv, cwd=place.directory, check=True, timeout=60, stdin=subprocess.DEVNULL)
    until = time.monotonic() + 60 # what went into the background writes it, in its own time
    while not (os.path.exists(pid) and read_all(pid).endswith(b"\n")) and time.monotonic() < until:
        time.sleep(0.01)
    number = int(read_all(pid))
    try:
        with Client(f"nbd+unix:///?socket={socket}") as c:
            c.pwrite(b"behind" * 100, 1000)
            if bytes(c.pread(600, 1000)) != b"behind" * 100:
                raise Mismatch("read back")
    finally:
        os.kill(number, 15)
    until = time.monotonic() + 60
    while os.path.exists(f"/proc/{number}") and time.monotonic() < until:
        time.sleep(0.01)
    if os.path.exists(f"/proc/{number}"):
        os.kill(number, 9)
        raise Mismatch("it does not end")
    place.run("qemu-img", "check", top)
    lib.same_bytes("after the end", read_all(place.flat(top))[1000:1600], b"behind" * 100, 1000)


# --------------------------------------------------------------------- writing ---

def random_op(rng, c, model):
    """One change, done to both."""
    at = rng.randrange(len(model))
    n = min(len(model) - at, rng.choice((1, 511, 512, 4096, 65536, 200000)))
    fua = nbd.CMD_FLAG_FUA if rng.random() < 0.2 else 0
    r = rng.random()
    if r < 0.5:
        data = rng.randbytes(n)
        c.pwrite(data, at, fua)
        model[at:at + n] = data
    elif r < 0.75:
        c.zero(n, at, fua | rng.choice((0, nbd.CMD_FLAG_NO_HOLE)))
        model[at:at + n] = bytes(n)
    elif r < 0.85:
        c.trim(n, at, fua)
        left = bytes(c.pread(n, at))
        if any(x not in (y, 0) for x, y in zip(left, model[at:at + n])):
            raise Mismatch(f"trim of {n} at {at} made something else than zeros")
        model[at:at + n] = left
    elif r < 0.9:
        c.cache(n, at)
    elif r < 0.95:
        c.flush()
    else:
        lib.same_bytes(f"read of {n} at {at}", bytes(c.pread(n, at)), bytes(model[at:at + n]), at)


def random_writes(place):
    """Three connections by turns, against a model; then QEMU looks at the image."""
    for options in ("cluster_size=64k", "cluster_size=4k", "cluster_size=64k,extended_l2=on", "compat=0.10"):
        top = place.chain(size=8 * MIB, options=options)
        model = bytearray(read_all(place.flat(top)))
        with place.serve("write=true", top) as s:
            with Client(s.uri()) as a, Client(s.uri()) as b, Client(s.uri()) as c:
                for _ in range(lib.share(150)):
                    random_op(place.rng, place.rng.choice((a, b, c)), model)
                a.flush()
                lib.same_bytes(f"{options}: read back", bytes(b.pread(len(model), 0)), bytes(model), 0)
        place.run("qemu-img", "check", top)
        lib.same_bytes(options, read_all(place.flat(top)), bytes(model), 0)


def space(place):
    """Zeros take no space if they may be holes; fast ones are refused where they are not; trim gives space back."""
    for options, fast in (("cluster_size=64k", True), ("compat=0.10", False)):
        place.image("below.qcow2", 8 * MIB)
        top = place.image("top.qcow2", below="below.qcow2", options=options)
        with place.serve("write=true", top) as s, Client(s.uri()) as c:
            c.pwrite(b"x" * (4 * MIB), 0)
            c.flush()
            full = os.stat(top).st_blocks
            if fast:
                c.zero(MIB + 512, 512, nbd.CMD_FLAG_FAST_ZERO)
                fails("a part of a cluster, fast", errno.ENOTSUP, lambda: c.zero(512, 2 * MIB, nbd.CMD_FLAG_FAST_ZERO))
            else:
                fails("version 2, fast", errno.ENOTSUP, lambda: c.zero(MIB, 0, nbd.CMD_FLAG_FAST_ZERO))
            lib.same_bytes("what was refused", bytes(c.pread(512, 2 * MIB)), b"x" * 512, 2 * MIB)
            c.zero(MIB, 3 * MIB, nbd.CMD_FLAG_NO_HOLE)
            if bytes(c.pread(MIB, 3 * MIB)) != bytes(MIB):
                raise Mismatch("zeros are none")
            c.trim(MIB, 2 * MIB)
        if fast and os.stat(top).st_blocks > full - (MIB + MIB // 2) // SECTOR:
            raise Mismatch(f"of 2 MiB nothing was given back: {full}, {os.stat(top).st_blocks}")
        place.run("qemu-img", "check", top)


def copied_in(place):
    """nbdcopy and qemu-img write a disk through the server; what was sparse stays so."""
    source = place.image("source.raw", 32 * MIB)
    with open(source, "r+b") as f:
        for at in (0, 5 * MIB + 4096, 31 * MIB):
            f.seek(at)
            f.write(place.rng.randbytes(MIB))
    for copy in (["nbdcopy", "--connections=4", source], ["qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", source]):
        top = place.image("target.qcow2", 32 * MIB)
        with place.serve("write=true", top) as s:
            place.run(*copy, s.uri())
        place.run("qemu-img", "check", top)
        place.run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", source, top)
        if os.stat(top).st_size > 5 * MIB:
            raise Mismatch(f"{copy[0]}: 3 MiB of data became {os.stat(top).st_size} bytes")


def set_free(place):
    """While nobody is connected others may write; who comes back sees it. While somebody is, they may not."""
    top = place.chain()
    write = ["qemu-io", "-c", "write -q -P 77 0 64k", top]
    with place.serve("write=true", top) as s:
        with Client(s.uri()) as c:
            c.pwrite(b"x" * 65536, 0)
            if b"lock" not in place.run(*write, ok=(1,)).stderr:
                raise Mismatch("another writer, and it was not for the lock")
        until = time.monotonic() + 60
        while place.run(*write, ok=None).returncode and time.monotonic() < until:
            time.sleep(0.02)        # the client is gone a little before the server knows
        with Client(s.uri()) as c:
            lib.same_bytes("what another wrote", bytes(c.pread(65536, 0)), bytes([77]) * 65536, 0)


def killed(place):
    """kill -9 while writing: what was flushed, or written with FUA, is there; the image is valid but for leaks."""
    check = os.path.join(os.path.abspath(place.args.bin), "qchain-check")
    for fua in (False, True):
        top = place.chain()
        model, safe = bytearray(read_all(place.flat(top))), []
        with place.serve("write=true", top) as s:
            c = Client(s.uri(), shutdown=False)
            for i in range(40):
                at, data = place.rng.randrange(250) * 65536 + 512 * i, place.rng.randbytes(512)
                c.pwrite(data, at, nbd.CMD_FLAG_FUA if fua else 0)
                model[at:at + 512] = data
                safe.append(at)
            if not fua:
                c.flush()
            flying = [c.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b"z" * 65536)), place.rng.randrange(250) * 65536 + 32768)
                      for _ in range(30)]
            while not any(c.aio_command_completed(x) for x in flying):
                c.poll(-1)
            s.kill()
        place.run(check, top, ok=(0, 3))
        place.run("qemu-img", "check", "-r", "leaks", top)
        got = read_all(place.flat(top))
        for at in safe:
            if got[at:at + 512] != model[at:at + 512] and got[at:at + 512] != b"z" * 512:
                raise Mismatch(f"{'FUA' if fua else 'flush'}: what was written at {at} is gone")


# A client that says when it is busy, and then writes until it is killed.
BUSY = """
import nbd, sys
h = nbd.NBD()
h.connect_uri(sys.argv[1])
for i in range(1 << 30):
    flying = [h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b"k" * 65536)), (i * 8 + k) % 200 * 65536 + 4096) for k in range(8)]
    if i == 5:
        print("busy", flush=True)
    while not h.aio_command_completed(flying[-1]):
        h.poll(-1)
"""


def client_killed(place):
    """kill -9 of a client while it writes: others go on, its image is set free with the last of them, and is whole."""
    top = place.chain()
    model = read_all(place.flat(top))
    with place.serve("write=true", top) as s:
        with Client(s.uri()) as c:
            with subprocess.Popen([sys.executable, "-c", BUSY, s.uri()], stdout=subprocess.PIPE) as busy:
                if busy.stdout.readline() != b"busy\n":
                    raise Mismatch("the client that is to be killed never began")
                busy.kill()
            c.pwrite(b"after" * 100, 15 * MIB)
            lib.same_bytes("another client's", bytes(c.pread(500, 15 * MIB)), b"after" * 100, 15 * MIB)
        until = time.monotonic() + 60
        while place.run("qemu-img", "check", top, ok=None).returncode and time.monotonic() < until:
            time.sleep(0.02)        # the client is gone a little before the server knows
        place.run("qemu-img", "check", top)
    got = read_all(place.flat(top))
    lib.same_bytes("after the end", got[15 * MIB:15 * MIB + 500], b"after" * 100, 15 * MIB)
    for at in range(0, 15 * MIB, 4096):
        if got[at:at + 4096] not in (model[at:at + 4096], b"k" * 4096):
            raise Mismatch(f"what lies at {at} was there never")


def ended(place):
    """SIGTERM while writes are in flight: clients hear of the shutdown, and when they have left it ends; the image is whole,
    and has all that was answered. Who closes it is not seen from here, as the server's end would do what the last client's
    leaving did not: that is for set_free and client_killed, whose server goes on."""
    top = place.chain()
    answered, flying = set(), {}
    with place.serve("write=true", top) as s:
        c = Client(s.uri(), shutdown=False)
        begun = 0
        try:
            while True:
                while len(flying) < 16:
                    flying[c.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b"%07d\n" % begun * 4096)), begun % 500 * 32768)] = begun
                    begun += 1
                c.poll(-1)
                for cookie in [x for x in flying if c.aio_command_completed(x)]:
                    answered.add(flying.pop(cookie))
                if len(answered) == 100:
                    s.process.terminate()
        except nbd.Error as e:
            if len(answered) < 100:
                raise Mismatch(f"after {len(answered)} writes: {e}; {s.said()}") from None
        # Who leaves before the last answer meets an assertion of nbdkit's own (raw_send_socket).
        for cookie, number in flying.items():
            with contextlib.suppress(nbd.Error):
                while not c.aio_command_completed(cookie):
                    c.poll(-1)
                answered.add(number)
        c.h = None
        s.process.wait(60)
    place.run("qemu-img", "check", top)
    got = read_all(place.flat(top))
    for number in answered:
        at = number % 500 * 32768
        later = {number + 500 * k for k in range(0, (begun - number) // 500 + 1)}
        if got[at:at + 32768] not in [b"%07d\n" % n * 4096 for n in later]:
            raise Mismatch(f"write {number} of {begun} was answered, and is not there: {got[at:at + 16]}")
    return f"{len(answered)} writes were answered"


# -------------------------------------------------------------------- failures ---

def no_space(place):
    """A full disk below the image: clients hear ENOSPC, nothing is lost, and with room again all goes on. Also if it is
    full when the last client leaves."""
    small = place.new("small")
    os.mkdir(small)
    if place.run("mount", "-t", "tmpfs", "-o", "size=4m", "none", small, ok=None).returncode:
        return "left out: no small file system can be mounted here"
    top, filler, cut = os.path.join(small, "top.qcow2"), os.path.join(small, "filler"), place.path("cut.qcow2")

    def fill(c, at):
        for done in range(at, 128):
            try:
                c.pwrite(b"%03d\n" % done * 16384, done * 65536)
            except nbd.Error as e:
                if e.errnum != errno.ENOSPC:
                    raise Mismatch(f"a full disk: {e}") from None
                return done
        raise Mismatch("the disk is never full")

    def whole(image, n):
        place.run("qemu-img", "check", image, ok=(0, 3))
        want = b"".join(b"%03d\n" % i * 16384 for i in range(n))
        lib.same_bytes(f"{n} writes", read_all(place.flat(image))[:len(want)], want, 0)

    try:
        place.image(os.path.relpath(top, place.directory), 64 * MIB)
        with open(filler, "wb") as f:
            f.write(bytes(MIB))
        with place.serve("write=true", top) as s:
            with Client(s.uri()) as c:
                c.pwrite(b"000\n" * 16384, 0)
                c.flush()
                done = fill(c, 1)
                shutil.copy(top, cut)
                whole(cut, 1)
                os.unlink(filler)
                c.pwrite(b"%03d\n" % done * 16384, done * 65536)
                c.flush()
                done = fill(c, done + 1)
            with Client(s.uri()) as c:
                lib.same_bytes("to the next client", bytes(c.pread(4, (done - 1) * 65536)), b"%03d\n" % (done - 1), 0)
        whole(top, done)
    finally:
        subprocess.run(["umount", "-l", small], check=False)
    return f"{done} writes"


def refusals(place):
    """What keeps nbdkit from beginning, and what it says of it."""
    top = place.chain()
    os.mkdir(place.path("far"))
    os.rename(place.path("mid.qcow2"), place.path("far", "mid.qcow2"))
    os.rename(place.path("base.raw"), place.path("far", "base.raw"))
    away = place.path("away", "over.qcow2")
    os.mkdir(os.path.dirname(away))
    place.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", place.path("far", "mid.qcow2"), "-F", "qcow2", away)
    place.image("plain.raw", MIB)
    for args, word in ((["nothing.qcow2"], "No such file"), ([top], "mid.qcow2"), ([away], "allow-path"),
                       (["plain.raw", "write=true"], "format=raw"), ([], "file="), (["nonsense=1", top], "nonsense"),
                       (["cache=fast", top], "writeback"), (["plain.raw", "plain.raw"], "twice"),
                       (["export=plain.raw"], "NAME=IMAGE"), ([away, "snapshot=x", "write=true"], "snapshot"),
                       (["http://127.0.0.1:9/x.qcow2", "remote=deadline 1"], "127.0.0.1:9"),
                       ([top, "copy-on-read=true"], "write=true"), (["remote=no such rule", top], "rule")):
        said = place.refused(*args)
        if word not in said or "nbdkit: " not in said:
            raise Mismatch(f"{args}: {said}")
    with place.serve("allow-path=" + place.path("far"), away) as s, Client(s.uri()) as c:
        c.pread(4096, 0)
    with subprocess.Popen(["qemu-io", away], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.read1(10)      # its prompt: it has the lock
        said = place.refused("allow-path=" + place.path("far"), away)
        with place.serve("allow-path=" + place.path("far"), "force-share=true", away) as s, Client(s.uri()) as c:
            c.pread(4096, 0)
        other.stdin.close()
    if "lock" not in said:
        raise Mismatch(f"of a locked image: {said}")


def damaged(place):
    """A file that shrinks under the server: EIO for what is gone, and a line that says so; the rest is read."""
    top = place.image("top.qcow2", 8 * MIB)
    place.run("qemu-io", "-c", "write -q -P 5 0 8M", top)
    with place.serve(top) as s, Client(s.uri()) as c:
        good = bytes(c.pread(4096, 0))
        os.truncate(top, os.stat(top).st_size - MIB)
        fails("a read of what is gone", errno.EIO, lambda: c.pread(4096, 8 * MIB - 4096))
        if "top.qcow2" not in s.said():
            raise Mismatch(f"nothing was said: {s.said()}")
        lib.same_bytes("what is left", bytes(c.pread(4096, 0)), good, 0)


# ----------------------------------------------------------------------- a URL ---

def remote(place):
    """A chain behind a URL: read, asked into the disk cache, replaced, gone."""
    home, cache = place.path("www"), place.path("cache")
    os.mkdir(cache, 0o700)
    top = place.chain()
    place.run("qemu-io", "-c", "write -q -P 9 8M 4M", top)
    oracle = read_all(place.flat(top))
    os.mkdir(home)
    for name in ("base.raw", "mid.qcow2", "top.qcow2"):
        os.rename(place.path(name), os.path.join(home, name))
    with serving(home) as (url, asked):
        if "404" not in place.refused(url + "nothing.qcow2"):
            raise Mismatch("of an object that is not there")
        with place.serve("cache-dir=" + cache, "remote=block-size 64K", url + "top.qcow2") as s:
            with Client(s.uri()) as c:
                c.cache(2 * MIB, 8 * MIB)
                n = len(asked)
                lib.same_bytes("what was asked into the cache", bytes(c.pread(2 * MIB, 8 * MIB)), oracle[8 * MIB:10 * MIB], 0)
                if n == 0 or len(asked) != n:
                    raise Mismatch(f"reading it asked for {asked[n:]}")
                shutil.copy(os.path.join(home, "top.qcow2"), os.path.join(home, "new"))
                place.run("qemu-io", "-c", "write -q -P 10 10M 2M", os.path.join(home, "new"))
                os.rename(os.path.join(home, "new"), os.path.join(home, "top.qcow2"))
                fails("an object that was replaced", errno.EIO, lambda: c.pread(4096, 11 * MIB))
            changed_seen(s)
            os.rename(home, home + ".gone")
            with Client(s.uri()) as c:
                fails("an object that is gone", errno.EIO, lambda: c.pread(4096, 11 * MIB + 512 * KIB))


def blanks(place):
    """Names with blanks and per cent signs: of files they are what they are, of URLs as these are written; behind a URL
    a relative name with a blank is found."""
    base = place.image("a b.qcow2", MIB)
    place.run("qemu-io", "-c", "write -q -P 7 0 64k", base)
    place.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "a b.qcow2", "t op.qcow2")
    shutil.copy(base, place.path("p%20q.qcow2"))

    def seven(s, name=""):
        with Client(s.uri(name)) as c:
            lib.same_bytes(f"export '{name}'", bytes(c.pread(65536, 0)), bytes([7]) * 65536, 0)

    with place.serve("t op.qcow2", "export=x%20 y=t op.qcow2", "export= =file:p%20q.qcow2", cwd=place.directory) as s:
        for name in ("", "x%2520%20y", "%20"):
            seven(s, name)
    with serving(place.directory) as (url, _):
        if "%20" not in place.refused(url + "t op.qcow2"):
            raise Mismatch("of a URL with a blank")
        if "404" not in place.refused(url + "p%20q.qcow2"):
            raise Mismatch("of the URL of another object")
        with place.serve(url + "t%20op.qcow2", f"export=far={url}p%2520q.qcow2") as s:
            seven(s)
            seven(s, "far")


def changed_seen(s):
    """Who comes after the last one has left gets the object as it is now."""
    until = time.monotonic() + 60
    while True:
        with Client(s.uri()) as c:
            try:
                lib.same_bytes("the new object", bytes(c.pread(4096, 10 * MIB)), bytes([10]) * 4096, 10 * MIB)
                return
            except nbd.Error:
                if time.monotonic() > until:
                    raise
        time.sleep(0.02)            # the client is gone a little before the server knows


CHECKS = [random_disks, many_readers, agreed, exports, background, random_writes, space, copied_in, set_free, killed, client_killed,
          ended, no_space, refusals, damaged, remote, blanks]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*")
    parser.add_argument("--bin", default=lib.default_bin())
    parser.add_argument("--hammer")
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--seed", type=int, default=lib.any_seed())
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    os.environ.update(QCHAIN_POLICY="", QCHAIN_REMOTE="")
    print(f"check_nbd: seed {args.seed}", flush=True)
    failed = 0
    for check in CHECKS:
        if args.only and check.__name__ not in args.only:
            continue
        directory, begin = tempfile.mkdtemp(prefix="qchain-nbd-"), time.monotonic()
        try:
            said = check(Place(directory, args.seed, args)) or ""
            print(f"ok   {check.__name__} {said} ({time.monotonic() - begin:.1f} s)", flush=True)
        except Exception as e:  # pylint: disable=broad-except
            failed += 1
            print(f"FAIL {check.__name__}: {e if isinstance(e, Mismatch) else traceback.format_exc()}", flush=True)
        finally:
            if args.keep:
                print("kept in", directory)
            else:
                shutil.rmtree(directory, ignore_errors=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
