#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""qchain-fuse over http and S3: both views, a second reader that asks the server for nothing, a slow server that keeps
nobody else waiting, and one that dies; what was read is prefetched for the next one."""
import concurrent.futures
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import remote_lib as r
import fuse_mount as fm
from fuse_mount import Mount, fails, opened
from remote_lib import Mismatch, lib
from remote_places import Bucket, Nginx, rules_file


class Made:
    """nginx behind a proxy that counts, and a chain of relative names."""

    def __init__(self, place):
        fm.need_fuse(fm.program())
        self.http = Nginx(place)
        self.nginx, self.www = self.http.facts, self.http.home
        self.top = r.make_simple(self.www, 5, size=32 << 20, seed=place.seed)
        self.raw = r.flatten(os.path.join(self.www, self.top), place.path("oracle.raw"))
        self.names = sorted(n for n in os.listdir(self.www) if n.startswith("layer-"))
        self.n, self.rgw = 0, None
        tools = place.tools()
        self.env = tools.env
        fm.may_mount(tempfile.mkdtemp(dir=place.directory), fm.program())

    def mount(self, place, proxy, *args, view="disk", rules=(), top=None):
        self.n += 1
        where = place.path(f"mnt{self.n}")
        rules = [x for rule in rules for x in ("--remote", rule)]
        return Mount(where, *rules, *args, view, f"{proxy.url}/{top or self.top}", env=self.env)


def cache_rules(place, name):
    path = place.path(name)
    os.makedirs(path, 0o700, exist_ok=True)
    return ["cache-dir " + path, "revalidate 3600"]


def disk(place, made):
    """The bytes, and the second process that needs no server."""
    proxy = place.proxy(made.nginx["HTTP"])
    rules = cache_rules(place, "cache-disk")
    with made.mount(place, proxy, rules=rules) as m:
        lib.same_file("disk", m.file(), made.raw)
        n = len(proxy.log())
        lib.same_file("disk, from memory and the kernel's cache", m.file(), made.raw)
        with opened(m.file(), os.O_RDONLY | os.O_DIRECT) as fd, open(made.raw, "rb") as f:
            for at in range(0, 32 << 20, 3 << 20):
                lib.same_bytes("O_DIRECT", fm.direct_read(fd, 1 << 20, at), os.pread(f.fileno(), 1 << 20, at), at)
        if len(proxy.log()) != n:
            raise Mismatch(f"the second read: {proxy.log()[n:]}")
    with made.mount(place, proxy, rules=rules) as m:
        n = len(proxy.log())
        lib.same_file("disk, from the disk cache", m.file(), made.raw)
        if len(proxy.log()) != n:
            raise Mismatch(f"another process: {proxy.log()[n:]}")
    return f"{n} requests"


def layers(place, made):
    """QEMU opens the top in the mount; the second time nobody asks the server."""
    proxy = place.proxy(made.nginx["HTTP"])
    rules = cache_rules(place, "cache-layers")
    with made.mount(place, proxy, view="layers", rules=rules) as m:
        if sorted(os.listdir(m.where)) != made.names:
            raise Mismatch(f"names: {os.listdir(m.where)}")
        top = os.path.join(m.where, made.top)
        out = place.path("converted.raw")
        subprocess.run(["qemu-img", "check", "-q", top], check=True)
        subprocess.run(["qemu-img", "convert", "-O", "raw", top, out], check=True)
        lib.same_file("converted over the mount", out, made.raw)
        chain = json.loads(subprocess.run(["qemu-img", "info", "--backing-chain", "--output=json", top], check=True,
                                          capture_output=True).stdout)
        if len(chain) != 5 or any(os.path.dirname(i["filename"]) != m.where for i in chain):
            raise Mismatch(f"the chain leaves the mount: {chain}")
        for name in made.names:
            lib.same_file(name, os.path.join(m.where, name), os.path.join(made.www, name))
    with made.mount(place, proxy, view="layers", rules=rules) as m:
        n = len(proxy.log())
        for name in made.names:
            lib.same_file(name, os.path.join(m.where, name), os.path.join(made.www, name))
        if len(proxy.log()) != n:
            raise Mismatch(f"another process: {proxy.log()[n:]}")
    return f"{n} requests"


def dead(place, made):
    """The server dies while many read: EIO, no hang; the mount can be taken away."""
    for view in ("disk", "layers"):
        proxy = place.proxy(made.nginx["HTTP"], delay_ms=5, bandwidth=4)  # so that it dies before all was read
        with made.mount(place, proxy, "--direct-io", view=view, rules=["deadline 3", "block-size 64K"]) as m:
            path = m.file() if view == "disk" else os.path.join(m.where, made.names[0])
            size, failed = os.stat(path).st_size, []

            def read(i):
                with opened(path, os.O_RDONLY) as fd:
                    for at in range(i << 16, size, 16 << 16):
                        try:
                            os.pread(fd, 65536, at)
                        except OSError as e:
                            failed.append(e.errno)
                            return
            with concurrent.futures.ThreadPoolExecutor(16) as pool:
                began = [pool.submit(read, i) for i in range(16)]
                while len(proxy.log()) < 20:
                    time.sleep(0.01)
                proxy.process.kill()
                for b in began:
                    b.result()
            if not failed or set(failed) != {errno.EIO}:
                raise Mismatch(f"{view}: readers failed with {failed}")
            fm.unmount(m.where)
            m.wait()


def interrupted(place, made):
    """A reader of a server that does not answer can be interrupted; others read what is there."""
    proxy = place.proxy(made.nginx["HTTP"])
    with open(os.path.join(made.www, "noise.raw"), "wb") as f:
        f.write(os.urandom(32 << 20))
    with made.mount(place, proxy, "--format", "raw", "--direct-io", rules=["deadline 20", "block-size 64K"],
                    top="noise.raw") as m:
        path = m.file()
        with opened(path, os.O_RDONLY) as fd:
            have = os.pread(fd, 4096, 0)
            proxy.process.send_signal(signal.SIGSTOP)
            try:
                code = f"import os; os.pread(os.open({path!r}, os.O_RDONLY), 65536, 16 << 20)"
                readers = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) for _ in range(4)]
                time.sleep(1)
                lib.same_bytes("what is there", os.pread(fd, 4096, 0), have, 0)
                for p in readers:
                    if p.poll() is not None:
                        raise Mismatch(f"a reader has ended: {p.returncode}")
                    p.kill()
                for p in readers:
                    p.wait(5 * fm.SLOW)
            finally:
                proxy.process.send_signal(signal.SIGCONT)


def second_signal(place, made):
    """The first one waits for a read of a server that hangs, the second one does not."""
    proxy = place.proxy(made.nginx["HTTP"])
    with open(os.path.join(made.www, "long.raw"), "wb") as f:
        f.write(os.urandom(32 << 20))
    m = made.mount(place, proxy, "--format", "raw", rules=["deadline 300", "stall-timeout 300"], top="long.raw")
    code = f"import os; os.pread(os.open({m.file()!r}, os.O_RDONLY), 65536, 16 << 20)"
    proxy.process.send_signal(signal.SIGSTOP)
    try:
        reader = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
        r.wait_until_quiet(reader, 0.5, "DSZX")   # for a page
        m.process.terminate()
        time.sleep(1)
        if m.process.poll() is not None or reader.poll() is not None:
            raise Mismatch(f"nothing hangs: {m.process.returncode}, {reader.returncode}")
        m.process.terminate()
        m.wait(128 + signal.SIGTERM)
        if reader.wait(60) == 0:
            raise Mismatch("the read succeeded")
    finally:
        proxy.process.send_signal(signal.SIGCONT)


def replaced(place, made):
    """An object that is replaced under the mount: EIO, never bytes of both."""
    proxy = place.proxy(made.nginx["HTTP"])
    path = os.path.join(made.www, "swap.raw")
    with open(path, "wb") as f:
        f.write(b"1" * (8 << 20))
    with made.mount(place, proxy, "--format", "raw", "--direct-io", rules=["block-size 64K"], top="swap.raw") as m:
        with opened(m.file(), os.O_RDONLY) as fd:
            if os.pread(fd, 10, 0) != b"1" * 10:
                raise Mismatch("other bytes than were there")
            with open(path + ".new", "wb") as f:
                f.write(b"2" * (9 << 20))
            os.rename(path + ".new", path)
            fails("a replaced object", errno.EIO, lambda: os.pread(fd, 4096, 6 << 20))
            if not r.says_changed(m.said()):
                raise Mismatch(f"it says: {m.said()}")


def parts_of(m, want):
    """A quarter of the disk, read through the mount."""
    with opened(m.file(), os.O_RDWR) as fd:
        for at in range(0, 32 << 20, 4 << 20):
            lib.same_bytes("read", os.pread(fd, 1 << 20, at), os.pread(want.fileno(), 1 << 20, at), at)


def moved_here(place, made, server=None):
    """What is read into a new image here is kept; the rest is brought while the disk is used, or by another tool after
    that; the server may go."""
    server = server or made.http
    proxy, name = server.proxy(place, delay_ms=5), type(server).__name__
    rules = ("--remote-config", rules_file(place.path(name + ".rules"), server.rules(proxy)), "--allow-url",
             server.url(proxy, ""))
    url, top, streamed = server.url(proxy, made.top), place.path(name + ".qcow2"), place.path(name + "-streamed.qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", url, "-F", "qcow2", top,
                    str(os.path.getsize(made.raw))], check=True)

    def here(what, *args):
        return Mount(place.path(f"mnt-{name}-{what}"), "-w", "--direct-io", *rules, *args, top, env=made.env)

    with open(made.raw, "rb") as want:
        with here("keeping", "--copy-on-read") as m:
            parts_of(m, want)
        with here("kept") as m:
            before = proxy.stats()["bytes_down"]
            parts_of(m, want)
            took = proxy.stats()["bytes_down"] - before
            if took > 65536:
                raise Mismatch(f"what had been kept was fetched again: {took} bytes")
        shutil.copyfile(top, streamed)
        before = proxy.stats()["bytes_down"]
        place.tools().run("stream", "-q", *rules, streamed)
        took = proxy.stats()["bytes_down"] - before
        with here("all", "--hydrate") as m:
            parts_of(m, want)
            until = time.monotonic() + 60 * fm.SLOW
            while "not needed any more" not in m.said() and time.monotonic() < until:
                time.sleep(0.05)
            proxy.process.kill()
            lib.same_file("with the server gone", m.file(), made.raw)
    for image in top, streamed:
        subprocess.run(["qemu-img", "check", "-q", image], check=True)
        subprocess.run(["qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", image, made.raw], check=True)
        if json.loads(subprocess.run(["qemu-img", "info", "--output=json", image], check=True,
                                     capture_output=True).stdout).get("backing-filename"):
            raise Mismatch(f"{image} still stands on the server")
    return f"{took} bytes were streamed"


def scattered(path, want):
    """A few parts of the disk, past the kernel's cache. Returns how many clusters of data they are, at least."""
    n = 0
    with opened(path, os.O_RDONLY | os.O_DIRECT) as fd:
        for at in range(1 << 20, 32 << 20, 3 << 20):
            right = os.pread(want.fileno(), 65536, at)
            lib.same_bytes("read", fm.direct_read(fd, 65536, at), right, at)
            n += any(right)
    return n


class Reached:
    """The chain in a bucket of Ceph's gateway, and how tools reach it through a proxy."""

    def __init__(self, place, made, name, **link):
        bucket = bucket_of(place, made, name)
        self.proxy, self.tools, self.env = bucket.proxy(place, **link), place.tools(), made.env
        self.url = bucket.url(self.proxy, made.top)
        self.config = rules_file(place.path(name + ".rules"), bucket.rules(self.proxy) +
                                 ["block-size 64K", "revalidate 3600"])

    def cached(self, place, name):
        """Arguments of any tool: with a new disk cache."""
        os.mkdir(place.path(name), 0o700)
        return "--remote-config", self.config, "--cache-dir", place.path(name)

    def mounted(self, place, name, *args):
        return Mount(place.path("mnt-" + name), *args, self.url, env=self.env)


def bucket_of(place, made, name):
    made.rgw = made.rgw or place.server("rgw")
    bucket = Bucket(made.rgw, name, made.www)
    bucket.publish(*made.names)
    return bucket


def s3_moved_here(place, made):
    """The same from a bucket."""
    return moved_here(place, made, bucket_of(place, made, "moved"))


def s3(place, made):
    """Both views of a chain in a bucket; what was read is recorded, prefetched by another process into an empty cache,
    and then read without a request."""
    b, trace = Reached(place, made, "images"), place.path("s3.qctrace")
    first, second = b.cached(place, "s3-first"), b.cached(place, "s3-second")
    with b.mounted(place, "s3-layers", *first, "layers") as m:
        subprocess.run(["qemu-img", "check", "-q", os.path.join(m.where, made.top)], check=True)
        for name in made.names:
            lib.same_file(name, os.path.join(m.where, name), os.path.join(made.www, name))
    with open(made.raw, "rb") as want:
        before = len(b.proxy.log())
        with b.mounted(place, "s3-disk", "--remote-config", b.config, "--record", trace) as m:
            scattered(m.file(), want)
        cold = len(b.proxy.log()) - before
        result = b.tools.run("prefetch", "--output=json", *second, "--trace", trace, b.url).json()
        if result["end"] != "all" or not 0 < result["fetched"] <= 11 * 65536: # each is one cluster
            raise Mismatch(f"prefetch: {result}")
        with b.mounted(place, "s3-again", *second) as m:
            before = len(b.proxy.log())
            scattered(m.file(), want)
            if len(b.proxy.log()) != before:
                raise Mismatch(f"after the prefetch: {b.proxy.log()[before:]}")
            lib.same_file("all of the disk", m.file(), made.raw)
    return f"{cold} requests cold, the prefetch: {result}"


def s3_killed(place, made):
    """The prefetcher and a mount beside it, over one cache that holds something, are killed again and again: what is
    read is right all the time, what was kept is not fetched again, and in the end nobody needs the bucket."""
    b, rng = Reached(place, made, "killed", delay_ms=2, bandwidth=8), random.Random(place.seed)
    cache = b.cached(place, "s3-killed")
    with b.mounted(place, "s3-before", *cache) as m, open(made.raw, "rb") as want:
        kept = scattered(m.file(), want)
    for i in range(3):
        fetcher = subprocess.Popen(b.tools.argv("prefetch", "-q", "--no-index", *cache, b.url), env=b.tools.env)
        m = b.mounted(place, f"s3-killed{i}", *cache)
        try:
            with open(made.raw, "rb") as want:
                scattered(m.file(), want)
            time.sleep(rng.random() * 0.4 * r.SLOW)
            m.process.kill() # the prefetcher goes on, and dies later, or was faster
            time.sleep(rng.random() * 0.2 * r.SLOW)
        finally:
            fetcher.kill()
            fetcher.wait()
            m.kill()
    result = b.tools.run("prefetch", "--no-index", "--output=json", *cache, b.url).json()
    if result["end"] != "all" or kept == 0 or result["cached"] < kept * 65536:
        raise Mismatch(f"the last prefetch: {result}")
    with b.mounted(place, "s3-killed", *cache) as m:
        before = len(b.proxy.log())
        lib.same_file("the disk from the cache", m.file(), made.raw)
        if len(b.proxy.log()) != before:
            raise Mismatch(f"requests after it: {b.proxy.log()[before:][:3]}")
    b.tools.run("cache", "verify", cache[-1])
    return f"the last prefetch: {result}"


r.main("check_fuse_remote", [disk, layers, dead, interrupted, second_signal, replaced, moved_here, s3_moved_here, s3,
                           s3_killed], Made)
