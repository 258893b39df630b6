#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Prefetching over nginx; check_remote_s3 runs the same over Ceph. And how it is refused, interrupted, and what it takes
beside a reader."""
import glob
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import prefetch_checks as pf
import remote_lib as r
from remote_lib import Mismatch
from remote_places import Nginx


def refused(place, made):
    """Without a cache, or with one that cannot be used, it says what to do; a local chain needs none."""
    made.tools.fails("--cache-dir", "prefetch", made.url, rules=[])
    where = place.path("a-file")
    with open(where, "w", encoding="ascii") as f:
        f.write("x")
    made.tools.fails("cannot be used", "prefetch", made.url, rules=["cache-dir " + where])
    made.tools.fails("no qcow2 image: name another", "prefetch", "--to", where, made.url, rules=[])
    got = made.tools.run("prefetch", "--output=json", os.path.join(made.home, made.top), rules=[]).json()
    if got["visible"] or not got["local"]:
        raise Mismatch(f"of a local chain: {got}")


def interrupted(place, made):
    """SIGINT ends it soon, with the exit code for it."""
    rules = made.cache(place, "interrupted")
    p = subprocess.Popen(made.tools.argv("prefetch", "--no-index", "-r", "500k", "--progress=json", made.url,
                                         rules=rules), env=made.tools.env, stderr=subprocess.PIPE, text=True,
                         stdout=subprocess.DEVNULL)
    lines = [p.stderr.readline()]
    while lines[-1] and not json.loads(lines[-1])["done"]: # it has begun
        lines.append(p.stderr.readline())
    began = time.monotonic()
    p.send_signal(signal.SIGINT)
    rest = p.stderr.read()
    if p.wait() != 130 or time.monotonic() - began > 30:   # all would take two minutes
        raise Mismatch(f"exit {p.returncode} after {time.monotonic() - began:.2f} s: {rest}")
    for said in lines + rest.splitlines():
        told = json.loads(said)
        if told["done"] > told["total"] or told["total"] not in (0, 64 << 20): # 0: not open yet
            raise Mismatch(f"progress: {said}")
    if told["total"] == 0:
        raise Mismatch("no progress is told")


def at_once(place, made):
    """Two processes that make one image over a URL: one of them does, the other hears that it is in use, or comes late."""
    far = made.server.proxy(place, delay_ms=50)
    image, url = place.path("at-once.qcow2"), made.server.url(far, made.top)
    both = [subprocess.Popen(made.tools.argv("prefetch", "-q", "--no-index", "-l", "6M", "-r", "6M", "--to", image, url,
                                             rules=made.server.rules(far)), env=made.tools.env, stderr=subprocess.PIPE, text=True)
            for _ in range(2)]
    said = [p.communicate()[1] for p in both]
    ended = [p.returncode for p in both]
    if 0 not in ended or any(code and (code != 1 or "in use" not in text) for code, text in zip(ended, said)):
        raise Mismatch(f"exit {ended}: {said}")
    again = made.tools.run("prefetch", "--no-index", "--output=json", "-l", "6M", "--to", image, url,
                           rules=made.server.rules(far)).json()
    if again["fetched"] or not again["local"]:
        raise Mismatch(f"what one of them fetched is not there: {again}")


def replaced(place, made):
    """An object that is replaced while it comes into an image ends it, and it says what to do with what came."""
    name, image = "replaced.qcow2", place.path("mixed.qcow2")
    there, url = os.path.join(made.home, name), made.url_of(name)
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", made.raw, there], check=True)
    p = subprocess.Popen(made.tools.argv("prefetch", "-q", "--no-index", "-r", "4M", "--to", image, url, rules=[]),
                         env=made.tools.env, stderr=subprocess.PIPE, text=True)
    while p.poll() is None and (not os.path.exists(image) or os.stat(image).st_size < 2 << 20):
        time.sleep(0.02)
    shutil.copyfile(there, there + ".new")
    os.utime(there + ".new", (1e9, 1e9))
    os.replace(there + ".new", there)
    said = p.communicate()[1]
    if p.returncode != 1 or "not what it was" not in said or "remove FILE" not in said:
        raise Mismatch(f"exit {p.returncode}: {said}")
    subprocess.run(["qemu-img", "check", "-q", image], check=True)


def beside_a_reader(place, made):
    """One process reads ten times a second, and prefetches when idle, over a slow link whose queue is deep: its requests
    become so small that the reader does not wait for them."""
    libraries = glob.glob(os.path.join(r.build_dir(), "lib", "libqchain.so.?"))
    if not libraries or os.environ.get("QC_SAN"):
        raise r.Missing("no library that Python can load")
    os.environ["QCHAIN_LIBRARY"] = libraries[0]
    sys.path.insert(0, os.path.join(r.HERE, "../../bindings/python"))
    import qchain  # pylint: disable=import-outside-toplevel,import-error
    for name, size in (("read.raw", 64), ("wanted.raw", 512)):
        with open(os.path.join(made.home, name), "wb") as f:
            f.truncate(size << 20)
    slow = made.server.proxy(place, delay_ms=20, bandwidth=10, deep=True)
    rules = "\n".join(made.cache(place, "slow-link") + ["block-size 64K"])
    with qchain.Env(remote=rules) as env, \
            qchain.Chain(made.server.url(slow, "read.raw"), format="raw", env=env) as c, \
            qchain.Chain(made.server.url(slow, "wanted.raw"), format="raw", env=env) as wanted:
        def read(first, n):
            for i in range(first, first + n):
                c.read(4096, i << 20)
                time.sleep(0.08)

        def prefetch():
            try:
                wanted.prefetch(idle=True, job=job)
            except qchain.Cancelled:
                pass
        read(0, 5)
        job = qchain.Job()
        beside = threading.Thread(target=prefetch)
        beside.start()
        read(5, 30)
        before = len(slow.log())
        read(35, 20)
        log = [x["bytes"] for x in slow.log()[before:] if x["path"].endswith("wanted.raw")]
        job.cancel()
        beside.join()
    if not log:
        raise Mismatch("beside the reader nothing was prefetched")
    # 2 MiB take 0.2 s. Half of 20 ms is 100 KB; a busy machine makes it more.
    if sorted(log)[len(log) // 2] > 512 << 10:
        raise Mismatch(f"requests beside the reader: {log}")
    return f"{len(log)} requests beside 20 reads, of {min(log) >> 10} to {max(log) >> 10} KiB"


r.main("check_prefetch", pf.CHECKS + [refused, interrupted, at_once, replaced, beside_a_reader], lambda place: pf.Made(place, Nginx(place)))
