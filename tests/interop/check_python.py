#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The Python package of bindings/python against qemu-img and a model: maps, bytes, writing, long calls and how they
end, asyncio, threads, forks, exceptions, and the example that makes backups."""
import argparse
import array
import asyncio
import concurrent.futures
import gc
import mmap
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings

import interop_lib as lib
from chain_maker import ChainMaker
from interop_lib import Mismatch
from range_server import serving

HERE = os.path.dirname(os.path.abspath(__file__))
PYTHON = os.path.normpath(os.path.join(HERE, "../../bindings/python"))
KIB, MIB = 1 << 10, 1 << 20
sys.dont_write_bytecode = True
qchain = None  # loaded when it is known where the library is


class Case:
    """What a case works with: a directory, programs, random numbers."""

    def __init__(self, directory, rng):
        self.dir, self.rng = directory, rng
        self.runner = lib.Runner(directory)

    def path(self, name):
        return os.path.join(self.dir, name)

    def qemu(self, *argv, **how):
        return self.runner.run(["qemu-img", *argv], **how)

    def image(self, name, size, backing=None, **kind):
        kind.update({"backing_file": backing, "backing_format": "qcow2"} if backing else {})
        qchain.create(self.path(name), size, **kind)
        return self.path(name)

    def filled(self, name, size, backing=None, seed=1):
        """An image full of random bytes."""
        data = random.Random(seed).randbytes(MIB)
        path = self.image(name, size, backing)
        with qchain.Chain(path, writable=True) as c:
            for at in range(0, size, MIB):
                c.write(data, at)
        return path

    def good(self, name, raw=None):
        """QEMU finds nothing wrong with it, and the bytes that were meant."""
        self.qemu("check", "-q", name)
        if raw is not None:
            self.qemu("compare", "-q", "-f", "raw", "-F", "qcow2", raw, name)

    def python(self, text, *argv, **how):
        """A program of its own; returns its Popen."""
        env = {**os.environ, "PYTHONPATH": PYTHON, "PYTHONDONTWRITEBYTECODE": "1", **how.pop("env", {})}
        return subprocess.Popen([sys.executable, "-c", text, *argv], cwd=self.dir, env=env, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, **how)


def want(condition, what):
    if not condition:
        raise Mismatch(what)


def raises(kind, call, *args, text="", **named):
    try:
        call(*args, **named)
    except kind as e:
        want(text in str(e), f"{kind.__name__} says {e}, not {text}")
        return e
    except Exception as e:
        raise Mismatch(f"{call}: {e!r}, not {kind.__name__}") from e
    raise Mismatch(f"{call}{args}: nothing was raised, not {kind.__name__}")


# ---------------------------------------------------------------------------------- maps and bytes ---

def as_qemu(extents):
    for e in extents:
        row = {"start": e.offset, "length": e.length, "depth": e.layer, "present": e.present, "zero": e.zero,
               "data": e.data}
        if e.file_offset is not None:
            row["offset"] = e.file_offset
        yield row


def same_chain(case, maker):
    top = maker.layers[-1]
    case.qemu("convert", "-f", top.fmt, "-O", "raw", top.arg, "oracle.img")
    theirs = lib.normalise(case.runner.json(["qemu-img", "map", "-f", top.fmt, "--output=json", top.arg]))
    policy = qchain.Policy(trust=True) if maker.needs_trust else None
    with qchain.Chain(case.path(top.path), format=top.fmt, policy=policy) as c:
        extents = list(c.map())
        lib.same_extents("map", lib.normalise(as_qemu(extents)), theirs)
        with open(case.path("out.img"), "wb") as f:
            f.truncate(c.size)
            for e in extents:
                for at in range(e.offset, e.end if not e.zero else e.offset, MIB):
                    os.pwrite(f.fileno(), c.read(min(MIB, e.end - at), at), at)
        lib.same_file("read", case.path("out.img"), case.path("oracle.img"))
        want(c.checksum().hex() == lib.digest(case.path("oracle.img")), "checksum differs")
        if c.layers > 1:
            upto = case.rng.randrange(c.layers - 1)
            below = case.rng.randint(upto + 1, c.layers)
            want(all(upto <= e.layer < below for e in c.diff(below, upto)), "diff: other layers' extents")
    with qchain.Chain(case.path(top.path), format=top.fmt, policy=policy) as c:
        start = case.rng.randrange(c.size + 1)
        length = case.rng.randint(0, c.size - start)
        buffer = memoryview(bytearray(min(length, MIB) + 7))[3:3 + min(length, MIB)]
        c.readinto(buffer, start)
        with open(case.path("oracle.img"), "rb") as f:
            lib.same_bytes("readinto", bytes(buffer), os.pread(f.fileno(), len(buffer), start), start)


def random_chains(case):
    for n in range(6):
        seed = case.rng.randrange(1 << 31)
        directory = case.path(f"chain{n}")
        os.mkdir(directory)
        one = Case(directory, random.Random(seed))
        maker = ChainMaker(one.rng, one.runner)
        try:
            maker.make()
            same_chain(one, maker)
        except Exception as e:
            raise Mismatch(f"--seed {seed} --chain: {e!r}") from e


def long_maps(case):
    """Maps of several batches are those of one, and are made as they are asked for."""
    path = case.image("m.qcow2", 512 * MIB, cluster_size=4096)
    with qchain.Chain(path, writable=True) as c:
        for i in range(9000):
            c.write(b"x", i * 12288)
    with qchain.Chain(path) as c:
        theirs = lib.normalise(case.runner.json(["qemu-img", "map", "--output=json", "m.qcow2"]))
        lib.same_extents("long map", lib.normalise(as_qemu(c.map())), theirs)
        some = c.map(4096, 100 * MIB)
        want(next(some).offset == 4096, "map: begins elsewhere")
        c.close()
        raises(ValueError, list, some, text="closed")


def buffers(case):
    with qchain.Chain(case.filled("b.qcow2", MIB)) as c:
        whole = c.read(MIB, 0)
        numbers = array.array("I", bytes(4096))
        want(c.readinto(numbers, 4096) == 4096 and numbers.tobytes() == whole[4096:8192], "array")
        with mmap.mmap(-1, 8192) as m:
            c.readinto(m, 5)
            want(m[:] == whole[5:8197], "mmap")
        want(c.readinto(bytearray(), MIB) == 0 and c.read(0, 0) == b"", "nothing")
        raises(TypeError, c.readinto, bytes(10), 0)
        raises(TypeError, c.readinto, memoryview(bytearray(20))[::2], 0)
    with qchain.Chain(case.path("b.qcow2"), writable=True) as c:
        c.write(memoryview(bytearray(range(256)))[::2], 100)
        c.write(array.array("H", [1, 2, 3]), 300)
        c.write(memoryview(b"readonly")[1:5], 310)
        want(c.write(b"", 0) == 0, "nothing written")
        want(c.read(128, 100) == bytes(range(0, 256, 2)) and c.read(6, 300) == array.array("H", [1, 2, 3]).tobytes()
             and c.read(4, 310) == b"eado", "written from odd buffers")


def opening(case):
    """What the keywords of Chain do."""
    base, size = case.filled("base.qcow2", 2 * MIB), 2 * MIB
    top = case.image("top.qcow2", None, "base.qcow2")
    with qchain.Chain(base) as c:
        whole = c.read(size, 0)
    with qchain.Chain(top, no_backing=True) as c:
        want(c.layers == 1 and c.read(size, 0) == bytes(size), "no_backing")
    with qchain.Chain(top, format="raw") as c:
        want(c.read(4, 0) == b"QFI\xfb", "format")
    with open(base, "rb") as f, qchain.Chain(None, fd=f.fileno()) as c:
        want(c.read(100, 7) == whole[7:107], "fd alone")
    with open(top, "rb") as f, qchain.Chain(top, fd=f.fileno()) as c:
        want(c.read(100, 7) == whole[7:107], "fd")
    with qchain.Chain(top, direct=True, read_ahead=False) as c:
        want(c.read(1000, 1) == whole[1:1001], "direct")
    with qchain.Chain(top) as c:
        c.index_build(case.path("elsewhere.qci"))
    for index, layers in ((case.path("elsewhere.qci"), 2), (None, 0), (False, 0)):
        with qchain.Chain(top, index=index) as c:
            want(c.index_layers == layers, f"index={index}: {c.index_layers}")
            if index is False:
                c.index_verify(case.path("elsewhere.qci"))
    with qchain.Chain(top, writable=True, copy_on_read=True) as c:
        c.read(64 * KIB, 0)
        want(next(c.map()).layer == 0 and c.diff(1).__next__().length == 64 * KIB, "copy_on_read")
        with qchain.Chain(top, force_share=True) as other:
            want(other.size == size, "force_share")
    with qchain.Chain(top) as c, c.traced(case.path("t.qctrace")):
        c.read(5, 5)
    want(os.path.getsize(case.path("t.qctrace")) > 0, "no trace")
    source = bytearray(4)
    with qchain.Chain(top) as c:
        want(c.source_readinto(1, source, 0) == 4 and source == b"QFI\xfb" and c.source_name(9) is None and
             c.source_stat(0).size == os.path.getsize(top), "sources")


# ---------------------------------------------------------------------------------------- writing ---

def writes(case):
    """Random writes by calls and queues against a model."""
    size = 4 * MIB
    base = case.filled("base.qcow2", size)
    case.image("w.qcow2", size, "base.qcow2", cluster_size=4096)
    with qchain.Chain(base) as c:
        model = bytearray(c.read(size, 0))

    def one(rng):
        at, n = rng.randrange(size), rng.choice((1, 512, 5000, 70000))
        n = min(n, size - at)
        kind = rng.choice(("write", "write", "zeroes"))
        data = rng.randbytes(n) if kind == "write" else bytes(n)
        model[at:at + n] = data
        return kind, data, at

    async def queued(path):
        async with qchain.Chain(path, writable=True) as c:
            for _ in range(60):
                kind, data, at = one(case.rng)
                if kind == "write":
                    await c.awrite(data, at, fua=case.rng.random() < 0.1)
                else:
                    await c.awrite_zeroes(len(data), at, unmap=True)
            await c.aflush()
            want(await c.aread(size, 0) == model, "queued writes read differently")

    with qchain.Chain(case.path("w.qcow2"), writable=True) as c:
        for _ in range(120):
            kind, data, at = one(case.rng)
            if kind == "write":
                c.write(data, at, fua=case.rng.random() < 0.1)
            else:
                c.write_zeroes(len(data), at)
        c.flush()
        with c.drained():
            want(c.read(size, 0) == model, "writes read differently")
    asyncio.run(queued(case.path("w.qcow2")))
    with qchain.Chain(case.path("w.qcow2"), writable=True) as c:
        c.discard(64 * KIB, 0)
        model[:64 * KIB] = c.read(64 * KIB, 0)
        c.resize(size + MIB)
    with open(case.path("model.raw"), "wb") as f:
        f.write(model + bytes(MIB))
    case.good("w.qcow2", "model.raw")


def snapshots_and_bitmaps(case):
    path = case.image("s.qcow2", 8 * MIB)
    with qchain.Chain(path, writable=True) as c:
        c.write(b"one" * 1000, 0)
        c.snapshot_create("first")
        c.bitmap_add("b", 65536)
        c.bitmap_add("off", enabled=False)
        c.write(b"two" * 1000, 0)
        c.write(b"x", 3 * MIB)
        c.bitmap_merge("off", c, "b")
        dirty = [e for e in c.bitmap_extents("b") if e.dirty]
        want(dirty == [(0, 65536, True), (3 * MIB, 65536, True)], f"bitmap: {dirty}")
        c.bitmap_disable("b")
        want([s.name for s in c.snapshots()] == ["first"], "snapshots")
    told = case.runner.json(["qemu-img", "info", "--output=json", "s.qcow2"])
    theirs = {b["name"]: (b["granularity"], b["flags"]) for b in told["format-specific"]["data"]["bitmaps"]}
    ours = {b.name: (b.granularity, ["auto"] if b.enabled else []) for b in qchain.inspect(path).bitmaps}
    want(ours == theirs and len(ours) == 2, f"bitmaps: {ours}, qemu-img {theirs}")
    with qchain.Chain(path, snapshot="first") as c:
        want(c.read(6, 0) == b"oneone", "the snapshot's bytes")
    with qchain.Chain(path, writable=True) as c:
        want(any(e.dirty for e in c.bitmap_extents("off")), "the merged bitmap is empty")
        c.bitmap_clear("off")
        want(not any(e.dirty for e in c.bitmap_extents("off")), "the cleared bitmap is not empty")
        c.bitmap_remove("b")
        c.snapshot_apply("first")
        want(c.read(6, 0) == b"oneone", "bytes after going back")
        c.snapshot_delete("first")
        raises(qchain.NotFound, c.snapshot_apply, "first")
        raises(qchain.NotFound, list, c.bitmap_extents("b"))
    case.good("s.qcow2")
    want([b.name for b in qchain.inspect(path).bitmaps] == ["off"], "a removed bitmap is there")


# ------------------------------------------------------------------------------------- long calls ---

def surgery(case):
    """Each long operation, against qemu-img: the same bytes as before."""
    case.filled("l0.qcow2", 4 * MIB)
    for i in (1, 2, 3):
        with qchain.Chain(case.image(f"l{i}.qcow2", None, f"l{i - 1}.qcow2"), writable=True) as c:
            c.write(bytes([i]) * 100000, i * 700000)
    case.qemu("convert", "-O", "raw", "l3.qcow2", "model.raw")
    told = []
    with qchain.Chain(case.path("l3.qcow2")) as c:
        size = c.measure(qchain.CreateOptions(None))
        want(size.required <= size.fully_allocated, "measure")
        c.convert(case.path("c.qcow2"), compress=True, progress=lambda *p: told.append(p),
                  create=qchain.CreateOptions(None, compression="zstd" if qchain.has("zstd") else "zlib"))
        want(told and told[-1][0] == told[-1][1] > 0 and all(d <= t for d, t in told), f"progress: {told}")
        with qchain.Chain(case.path("c.qcow2")) as d:
            want(c.compare(d).same, "compare: a copy differs")
            want(c.compare(d, strict=True).result != 0, "compare: allocation is the same")
        c.index_build(no_wait=True)
        want(os.path.exists(case.path("l3.qcow2.qci")), "no sidecar index")
    qchain.index_drop(case.path("l3.qcow2"))
    case.good("c.qcow2", "model.raw")
    with qchain.Chain(case.path("l3.qcow2"), writable=True) as c:
        moved = c.rebase("l1.qcow2")
        want(moved.copied >= 100000 and moved.layers == 3, f"rebase: {moved}")
    case.good("l3.qcow2", "model.raw")
    with qchain.Chain(case.path("l3.qcow2"), writable=True) as c:
        want(c.merge().layers == 2, "merge")
    case.good("l3.qcow2", "model.raw")
    with qchain.Chain(case.path("l3.qcow2"), writable=True) as c:
        want(c.prefetch().fetched == c.prefetch(top=True).fetched == 0, "prefetch of local layers")
        want(c.stream().layers == 1, "stream")
    case.good("l3.qcow2", "model.raw")
    qchain.delete_layer(case.path("l1.qcow2"), [case.path("l2.qcow2")], remove=True)
    want(not os.path.exists(case.path("l1.qcow2")) and qchain.inspect(case.path("l2.qcow2")).backing_name == "l0.qcow2",
         "delete_layer")
    case.qemu("convert", "-O", "raw", "l2.qcow2", "model.raw")
    want(qchain.commit(case.path("l2.qcow2")).copied >= 100000, "commit")
    case.good("l0.qcow2", "model.raw")


def mends(case):
    path = case.filled("k.qcow2", MIB)
    want(qchain.check(path).clean, "a good image is not clean")
    with open(path, "r+b") as f:
        table = struct.unpack(">Q", os.pread(f.fileno(), 8, 48))[0]
        block = struct.unpack(">Q", os.pread(f.fileno(), 8, table))[0]
        f.truncate(31 * 65536)
        os.pwrite(f.fileno(), b"\0\1", block + 2 * 30)  # a count for a cluster that nobody uses
    found = qchain.check(path)
    want(found.leaks == 1 and not found.clean and found.messages, f"check: {found}")
    want(qchain.check(path, repair="leaks").leaks_fixed == 1 and qchain.check(path).clean, "not mended")
    case.good("k.qcow2")


def cancels(case):
    base = case.filled("base.qcow2", 16 * MIB)
    path = case.image("top.qcow2", None, "base.qcow2")

    def slow():
        job = qchain.Job()
        job.rate(MIB)
        return job

    class Stop(Exception):
        pass

    def stop(done, total):
        raise Stop

    with qchain.Chain(path, writable=True) as c:
        job = slow()
        threading.Timer(0.2, job.cancel).start()
        raises(qchain.Cancelled, c.stream, job=job)
        raises(qchain.Cancelled, c.stream, job=job)  # it is spent
        raises(Stop, c.stream, job=slow(), progress=stop)
        raises(qchain.Busy, c.stream, job=slow(), progress=lambda *_: c.close(), text="progress")
        want(c.layers == 2 and c.read(1000, 5 * MIB) == qchain.Chain(base).read(1000, 5 * MIB), "after a cancel")
        job, seen = slow(), []
        t = threading.Thread(target=lambda: seen.append(raises(qchain.Cancelled, c.stream, job=job)))
        t.start()
        while job.progress()[0] == 0 and t.is_alive():
            time.sleep(0.01)
        job.pause()
        job.pause(False)
        job.cancel()
        t.join()
        want(len(seen) == 1, "a call of another thread was not cancelled")
    case.good("top.qcow2")
    with qchain.Chain(base) as c:
        raises(Stop, c.convert, case.path("never.raw"), create=qchain.CreateOptions(None, "raw"), job=slow(),
               progress=stop)
    want(not os.path.exists(case.path("never.raw")), "a cancelled convert left a target")


INTERRUPTED = """
import sys, qchain
job = qchain.Job()
job.rate(1 << 20)
begun = lambda *_: print("begun", flush=True)
with qchain.Chain("top.qcow2", writable=True) as c:
    if sys.argv[1] == "caught":
        try:
            c.stream(job=job, progress=begun)
        except KeyboardInterrupt:
            c.write(b"after", 0)
            assert c.read(5, 0) == b"after" and c.layers == 2
            print("caught", flush=True)
    else:
        c.write(b"AFTER", 0)
        c.stream(job=job, progress=begun)
"""


def interrupted(case):
    """Ctrl-C ends a long call at once; the image is whole, caught or not."""
    case.filled("base.qcow2", 32 * MIB)
    case.image("top.qcow2", None, "base.qcow2")
    for how, code, left in (("caught", 0, b"after"), ("died", -signal.SIGINT, b"AFTER")):
        child = case.python(INTERRUPTED, how)
        want(child.stdout.readline() == "begun\n", "the call did not begin")
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
        want(child.returncode == code and ("caught" in out) == (how == "caught"),
             f"{how}: exit {child.returncode}: {out}{err}")
        case.good("top.qcow2")
        with qchain.Chain(case.path("top.qcow2")) as c:
            want(c.read(5, 0) == left and c.layers == 2, f"{how}: other bytes")


# ---------------------------------------------------------------------------------------- asyncio ---

async def many_reads(c, whole, depth):
    c.queue(depth)

    async def one(rng):
        n = rng.choice((512, 4096, 100000))
        at = rng.randrange(len(whole) - n)
        lib.same_bytes("aread", await c.aread(n, at), whole[at:at + n], at)

    tasks = [asyncio.ensure_future(one(random.Random(i))) for i in range(600)]
    await asyncio.sleep(0)
    want(0 < c.queue().pending <= depth, f"{c.queue().pending} in flight")
    for t in tasks[::7]:
        t.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    bad = [e for i, e in enumerate(ended) if e and not (i % 7 == 0 and isinstance(e, asyncio.CancelledError))]
    want(not bad, f"asyncio: {bad[:3]}")
    await c.queue().drain()
    want(c.queue().pending == 0, "requests were forgotten")


def aio(case):
    path = case.filled("a.qcow2", 8 * MIB)
    with qchain.Chain(path) as c:
        whole = c.read(8 * MIB, 0)

    async def errors_and_ends():
        async with qchain.Chain(path) as c:
            for bad in (8 * MIB, 1 << 64, -1):
                try:
                    await c.aread(1, bad)
                    raise Mismatch(f"aread at {bad} was not refused")
                except qchain.OutOfRange:
                    pass
            try:
                await c.awrite(b"x", 0)
                raise Mismatch("awrite to what is read only")
            except qchain.ReadOnly:
                pass
            want(await c.aread(0, 0) == b"", "aread of nothing")
            thread = []
            await asyncio.get_running_loop().run_in_executor(
                None, lambda: thread.append(raises(qchain.Busy, c.close)))
            c.queue(4)
            left = [asyncio.ensure_future(c.aread(MIB, i * MIB)) for i in range(8)]
            await asyncio.sleep(0)
            c.close()
            ended = await asyncio.gather(*left, return_exceptions=True)
            want(all(isinstance(e, (bytes, qchain.Cancelled, ValueError)) for e in ended), f"closed: {ended!r:.300}")

    with qchain.Chain(path) as c:
        asyncio.run(many_reads(c, whole, 64))
        asyncio.run(many_reads(c, whole, 300))  # another loop, another queue
        with concurrent.futures.ThreadPoolExecutor(3) as pool:  # loops of several threads, one after the other, too
            list(pool.map(lambda depth: asyncio.run(many_reads(c, whole, depth)), (32, 40, 50, 16, 64, 8)))
    asyncio.run(errors_and_ends())

    async def one_at_a_time():
        """Requests that are refused, or given up while they wait, keep nobody from his turn."""
        async with qchain.Chain(path) as c:
            c.queue(1)
            at = [asyncio.ensure_future(c.aread(4096, 4096 if i % 3 else 8 * MIB)) for i in range(30)]
            await asyncio.sleep(0)
            for t in at[2::6]:
                t.cancel()
            ended = await asyncio.wait_for(asyncio.gather(*at, return_exceptions=True), 60)
            want(sum(isinstance(e, qchain.OutOfRange) for e in ended) == 10, f"refused: {ended!r:.300}")
            want(sum(e == whole[4096:8192] for e in ended) == 15, f"read: {ended!r:.300}")
    asyncio.run(one_at_a_time())


# --------------------------------------------------------------------------------- layers behind URLs ---

def remote(case):
    """A chain behind a URL, whose server is this process: calls hold nothing that Python needs."""
    if not qchain.has("http"):
        print("remote: left out, the library has no HTTP")
        return
    case.filled("base.qcow2", 8 * MIB)
    with qchain.Chain(case.image("top.qcow2", None, "base.qcow2"), writable=True) as c:
        c.write(b"top" * 1000, MIB)
    with qchain.Chain(case.path("top.qcow2")) as c:
        whole = c.read(8 * MIB, 0)
    logged = []
    with serving(case.dir) as (url, asked):
        os.mkdir(case.path("cache"), 0o700)
        with qchain.Env(remote=f"cache-dir {case.path('cache')}\nworkers 1", log_level=4,
                        log=lambda level, tag, message: logged.append((level, tag, message))) as env:
            raises(qchain.NotFound, qchain.Chain, url + "nothing.qcow2", env=env)
            with qchain.Chain(url + "top.qcow2", env=env) as c:
                told = []
                got = c.prefetch(ranges=[(0, 4 * MIB)], progress=lambda *p: told.append(p))
                want(got.fetched + got.cached >= 4 * MIB > got.cached and got.end == 0 and told, f"prefetch: {got}")
                before = len(asked)
                want(c.read(4 * MIB, 0) == whole[:4 * MIB], "bytes that were prefetched")
                want(len(asked) == before, "what was prefetched was asked for again")
                want(asyncio.run(all_of(c, 8 * MIB)) == whole, "bytes by a queue")
                raises(qchain.ReadOnly, c.prefetch, top=True)
            want(env.remote_stats()["requests"] >= len(asked) > before, "remote_stats")
    want(all(isinstance(x, str) for _, t, m in logged for x in (t, m)), f"log: {logged[:3]}")


async def all_of(c, size):
    return b"".join(await asyncio.gather(*(c.aread(64 * KIB, at) for at in range(0, size, 64 * KIB))))


# ------------------------------------------------------------------------------ threads and forks ---

def threads(case):
    """Threads read while the chain is closed under them: right bytes, then a clear end."""
    path = case.filled("t.qcow2", 4 * MIB)
    with qchain.Chain(path) as c:
        whole = c.read(4 * MIB, 0)
    c, failed = qchain.Chain(path), []
    started = threading.Barrier(7)

    def reads(seed):
        rng, buffer = random.Random(seed), bytearray(5000)
        started.wait()
        try:
            while True:
                at = rng.randrange(len(whole) - 5000)
                c.readinto(buffer, at)
                if buffer != whole[at:at + 5000]:
                    failed.append(f"bytes at {at}")
        except ValueError as e:
            if "closed" not in str(e):
                failed.append(repr(e))

    pool = [threading.Thread(target=reads, args=(i,)) for i in range(6)]
    for t in pool:
        t.start()
    started.wait()
    time.sleep(0.3)
    c.close()
    c.close()
    for t in pool:
        t.join()
    want(not failed, f"threads: {failed[:3]}")
    # What a read and another call hold while they are under way keeps a close waiting.
    for hold in ("arg", "users"):
        c = qchain.Chain(path)
        handle = c._handle
        held = handle.arg if hold == "arg" else handle.users.append(0)
        closing = threading.Thread(target=c.close)
        closing.start()
        closing.join(0.1)
        waiting = closing.is_alive()
        held = None if hold == "arg" else handle.users.clear()
        closing.join()
        want(waiting and held is None, f"closed while a call was under way: {hold}")


def pool_read(args):
    path, at = args
    sys.path.insert(0, PYTHON)
    import qchain as package
    with package.Chain(path) as c:
        return c.read(100, at)


def forks(case):
    path = case.filled("f.qcow2", MIB)
    with qchain.Chain(path) as c:
        whole = c.read(MIB, 0)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                raises(qchain.InvalidArgument, c.read, 10, 0, text="fork")
                raises(qchain.InvalidArgument, c.map().__next__, text="fork")
                c.close()
                with qchain.Chain(path) as again:
                    want(again.read(MIB, 0) == whole, "bytes in the child")
                code = 0
            except BaseException:
                traceback.print_exc()
            os._exit(code)
        want(os.waitpid(pid, 0)[1] == 0, "the child failed")
        want(c.read(MIB, 0) == whole, "the parent's chain after a fork")
        raises(TypeError, pickle.dumps, c, text="open it again")
        for method in ("fork", "spawn"):
            with multiprocessing.get_context(method).Pool(2) as pool:
                got = pool.map(pool_read, [(path, at) for at in range(0, 1000, 100)])
                want(b"".join(got) == whole[:1000], f"{method}: bytes")
                e = raises(qchain.NotFound, pool.map, pool_read, [(case.path("nothing.qcow2"), 0)])
                want(e.code == -9 and e.sys_errno == e.errno == 2, f"{method}: {e.code} {e.errno}")


# ------------------------------------------------------------------------- exceptions, ends, tools ---

def exceptions(case):
    path = case.filled("e.qcow2", MIB)
    e = raises(FileNotFoundError, qchain.Chain, case.path("nothing.qcow2"), text="nothing.qcow2")
    want(isinstance(e, qchain.NotFound) and e.errno == 2 and e.layer == 0 and e.name == "NOTFOUND", repr(e.__dict__))
    with open(case.path("bad.qcow2"), "wb") as f:
        f.write(b"QFI\xfb\0\0\0\3" + b"\xff" * 600)
    raises(qchain.QchainError, qchain.Chain, case.path("bad.qcow2"))
    raises(ValueError, qchain.Chain, "a\0b", text="null")
    raises(ValueError, qchain.Chain, path, cache="none", text="writeback")
    raises(TypeError, qchain.Chain, path, colour="blue")
    os.mkdir(case.path("sub"))
    case.qemu("create", "-q", "-f", "qcow2", "-b", path, "-F", "qcow2", "sub/out.qcow2")
    raises(PermissionError, qchain.Chain, case.path("sub/out.qcow2"))
    qchain.Chain(case.path("sub/out.qcow2"), policy=qchain.Policy(paths=[case.dir])).close()
    raises(qchain.InvalidArgument, qchain.Policy, "allow everything", text="line 1")
    raises(qchain.InvalidArgument, qchain.Env, remote="colour blue", text="line 1")
    raises(qchain.Exists, qchain.create, path, MIB, keep=True)
    with qchain.Chain(path) as c:
        for at in (MIB, -1, 1 << 64, (1 << 64) + 5):
            raises(qchain.OutOfRange, c.read, 1, at)
            raises(qchain.OutOfRange, c.readinto, bytearray(1), at)
            raises(qchain.OutOfRange, c.write_zeroes, 1, at) if at < 0 or at >= 1 << 64 else None
        raises(qchain.OutOfRange, c.info, 9)
        raises(qchain.ReadOnly, c.write, b"x", 0)
        raises(TypeError, c.readinto, bytearray(1), 1.5)
    raises(ValueError, c.read, 1, 0, text="closed")
    with qchain.Chain(path, writable=True):
        raises(qchain.Locked, qchain.Chain, path, writable=True)
    with qchain.Env(log=lambda *_: None, threads=2) as env:
        c = qchain.Chain(path, env=env)
        raises(qchain.Busy, env.close)
        want(c.read(10, 0) and env.stats()["reads"] == 1, "stats")
        c.close()
    raises(ValueError, qchain.Chain, path, env=env, text="closed")


def ends(case):
    """What nobody closes: a warning, and an image that is whole."""
    path = case.image("z.qcow2", MIB)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        qchain.Chain(path)
        gc.collect()
    want([w.category for w in told] == [ResourceWarning], f"warnings: {told}")
    del told  # it has the chain
    gc.collect()
    child = case.python("import qchain; c = qchain.Chain('z.qcow2', writable=True); c.bitmap_add('b'); "
                        "c.write(b'left open', 0); e = qchain.Env(); d = qchain.Chain('y', env=e)")
    _, err = child.communicate(timeout=60)
    want(child.returncode == 1 and "NotFound" in err, f"exit {child.returncode}: {err}")
    case.good("z.qcow2")
    with qchain.Chain(path) as c:
        want(c.read(9, 0) == b"left open" and [b.in_use for b in c.bitmaps()] == [False], "left open: not finished")


def unfinished(case):
    """Finishing that fails is told by close; where there is no space the chain stays open, to be closed again."""
    path = case.image("u.qcow2", 8 * MIB)
    limited = ("import os, resource, signal, qchain; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
               "with qchain.Chain('u.qcow2', writable=True) as c:\n"
               " c.write(b'x' * 65536, 0); c.bitmap_add('b', 512); c.write(b'y', 0); c.flush()\n"
               " resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize('u.qcow2'),) * 2)")
    _, err = case.python(limited).communicate(timeout=60)
    want("LimitExceeded" in err and "bitmaps were not stored" in err, f"a failing finish: {err}")
    case.good("u.qcow2")
    small = case.path("small")
    os.mkdir(small)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], capture_output=True,
                      check=False).returncode:
        print("unfinished: left out what needs a full file system, for which there is no right to mount")
        return
    try:
        path, filler = case.image("small/s.qcow2", 8 * MIB, cluster_size=4096), os.path.join(small, "filler")
        c = qchain.Chain(path, writable=True)
        c.bitmap_add("b", 4096)
        c.write(b"kept" * 1024, 0)
        c.flush()
        with open(filler, "wb", buffering=0) as f:
            try:
                while True:
                    f.write(bytes(4096))
            except OSError:
                pass
        raises(qchain.NoSpace, c.write, bytes([1]) * 512 * KIB, MIB)
        raises(qchain.NoSpace, c.close)
        want(not c.closed and c.read(4, 0) == b"kept", "closed, though there was no space")
        os.unlink(filler)
        c.close()
        want(c.closed and [b.in_use for b in qchain.inspect(path).bitmaps] == [False], "not finished")
        case.good("small/s.qcow2")
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def loading(case):
    for env, said in (({"QCHAIN_LIBRARY": "/nothing/libqchain.so.0"}, "QCHAIN_LIBRARY names"),
                      ({"QCHAIN_LIBRARY": "libc.so.6"}, "older than this package")):
        child = case.python("import qchain", env=env)
        _, err = child.communicate(timeout=60)
        want(child.returncode == 1 and "ImportError" in err and said in err, f"{env}: {err}")


def wheel(case):
    """The wheel has all of the package, and its versions agree."""
    build = ("import sys; sys.path.insert(0, sys.argv[1]); import build_wheel; print(build_wheel.build_wheel('.'), "
             "build_wheel.build_sdist('.'))")
    out, err = case.python(build, PYTHON).communicate(timeout=60)
    want(out.split() == ["qchain-0.1.0-py3-none-any.whl", "qchain-0.1.0.tar.gz"], out + err)
    use = ("import qchain; from qchain import AsyncQueue; qchain.create('w.qcow2', 1 << 20); "
           "print(qchain.__file__, qchain.Chain('w.qcow2').size)")
    out, err = case.python(use, env={"PYTHONPATH": out.split()[0]}).communicate(timeout=60)
    want(".whl/qchain" in out and out.endswith(f" {MIB}\n"), out + err)
    want(qchain.__version__ == qchain.version() == "0.1.0", f"{qchain.__version__} for {qchain.version()}")


def backup(case):
    """Full, two increments by layers and two by a bitmap; every point is restored and verified; damage is found."""
    tool = os.path.join(PYTHON, "examples", "backup.py")
    env = dict(os.environ, PYTHONPATH=PYTHON)

    def run(*argv, ok=(0,)):
        return case.runner.run([sys.executable, "-B", tool, *argv], ok=ok, env=env)

    def keep(name, n):
        case.qemu("convert", "-O", "raw", name, f"model{n}.raw")

    case.filled("d0.qcow2", 4 * MIB)
    run("full", "d0.qcow2", "store")
    keep("d0.qcow2", 0)
    copied = []
    for n in (1, 2):  # a snapshot each, then an increment
        with qchain.Chain(case.image(f"d{n}.qcow2", None, f"d{n - 1}.qcow2"), writable=True) as c:
            c.write(bytes([n]) * 70000, n * MIB)
            c.write_zeroes(65536, 3 * MIB)
        copied.append(run("inc", f"d{n}.qcow2", "store")[1])
        keep(f"d{n}.qcow2", n)
    want(all(b" 131072 bytes" in out for out in copied), f"by layers: {copied}")
    with qchain.Chain(case.path("d2.qcow2"), writable=True) as c:
        c.bitmap_add("backup", 65536)
    for n in (3, 4):
        with qchain.Chain(case.path("d2.qcow2"), writable=True) as c:
            c.write(bytes([n]) * 10, 2 * MIB + n * 65536)
        _, out, _ = run("inc", "d2.qcow2", "store", "--bitmap", "backup")
        want(b" 65536 bytes" in out, f"by bitmap: {out}")
        keep("d2.qcow2", n)
    with qchain.Chain(case.path("d2.qcow2"), writable=True) as c:
        c.write(b"unseen", 12345)
    _, out, _ = run("inc", "d2.qcow2", "store")  # neither: compared
    want(b" 1048576 bytes" in out, f"by comparing: {out}")
    keep("d2.qcow2", 5)
    for n in (0, 2, 3, 5):
        run("restore", "store", str(n), "restored.qcow2")
        case.good("restored.qcow2", f"model{n}.raw")
    want(run("verify", "store")[1].count(b"good") == 6, "verify")
    run("full", "d2.qcow2", "store", ok=(1,))
    run("restore", "store", "9", "restored.qcow2", ok=(1,))
    with open(case.path("store/point-0003.qcow2"), "r+b") as f:
        f.seek(-65536, os.SEEK_END)
        f.write(b"damage" * 1000)
    _, out, _ = run("verify", "store", ok=(1,))
    want(out.count(b"DAMAGED") >= 1 and b"point 2: good" in out, f"damage: {out}")


def types(case):
    """mypy has nothing to say, where there is one."""
    if shutil.which("mypy") is None:
        print("types: left out, mypy is not installed (Debian: mypy)")
        return
    argv = ["mypy", "--strict", "--python-version", "3.9", "--cache-dir", case.path("cache"), "qchain"]
    done = subprocess.run(argv, cwd=PYTHON, capture_output=True, text=True, check=False)
    want(done.returncode == 0, done.stdout + done.stderr)


CASES = (random_chains, long_maps, buffers, opening, writes, snapshots_and_bitmaps, surgery, mends, cancels,
         interrupted, aio, remote, threads, forks, exceptions, ends, unfinished, loading, wheel, backup, types)


def load(directory):
    """The library of the build that is tested."""
    if os.environ.get("QC_SAN"):
        print("SKIP: Python does not load a library that was built for a sanitizer")
        sys.exit(lib.SKIP)
    library = os.path.join(directory, "libqchain.so.0")
    lib.need("qemu-img", "qemu-io", library)
    os.environ["QCHAIN_LIBRARY"] = library
    sys.path.insert(0, PYTHON)
    global qchain
    import qchain as package
    qchain = package


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--bin", default=lib.default_bin(), help="beside it is lib/, with the library")
    p.add_argument("--hammer", help="not used")
    p.add_argument("--seed", type=int, default=None)
    p.add_argument("--chain", action="store_true", help="the random chain of --seed alone")
    p.add_argument("--only", action="append", help="of these cases alone: " + ", ".join(c.__name__ for c in CASES))
    args = p.parse_args()
    load(os.path.join(os.path.dirname(os.path.abspath(args.bin)), "lib"))
    seed = args.seed if args.seed is not None else lib.any_seed()
    print(f"python: seed {seed}", flush=True)
    failed = 0
    for case in CASES:
        if args.only and case.__name__ not in args.only or args.chain and case is not random_chains:
            continue
        directory = tempfile.mkdtemp(prefix=f"qchain-python-{case.__name__}-")
        one = Case(directory, random.Random(seed))
        begun = time.monotonic()
        try:
            if args.chain:
                maker = ChainMaker(one.rng, one.runner)
                maker.make()
                same_chain(one, maker)
            else:
                case(one)
            print(f"ok   {case.__name__} ({time.monotonic() - begun:.1f} s)", flush=True)
        except Exception as e:
            failed += 1
            if not isinstance(e, Mismatch):
                traceback.print_exc()
            print(f"FAIL {case.__name__}: {e}", flush=True)
        finally:
            shutil.rmtree(directory, ignore_errors=True)
    print(f"python: {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
