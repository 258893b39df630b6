# SPDX-License-Identifier: MIT
"""A real guest starts from a chain behind the network of bars_remote.py: Linux under QEMU, with TCG, reads some
hundred files and tells when it has them (guest_files.py).

The ways to its disk: QEMU's own curl driver; QEMU with qcow2 over `qchain-fuse layers`; QEMU with one raw file, the
disk view with a sidecar index; the same after what an earlier start read (--record) was prefetched; and, for what the
guest takes without a network, the files themselves. Every start has empty caches and a temporary overlay, and
its seconds are those from the start of the first program, the mount's, on. What the guest read must add up to the same.
Of the requests after a prefetch most are of one byte: the layers are compared with the sidecar index, which nobody waits
for.
"""

import os
import shutil
import time

import guest_files
import guest  # of ../interop, which guest_files looks into
import make_chain
from bars_fuse import Mounted
from bars_remote import net, with_index
from bench_bars import Bar, mib, secs
from bench_measure import Failed, layer_files, median, warm

DEPTHS = (1, guest_files.DEPTH)
LIMIT = 600                     # seconds for one start
WAYS = {"qemu": "QEMU's curl driver", "layers": "layers view", "bare": "disk view, no sidecar index",
        "disk": "disk view", "replayed": "disk view, trace prefetched", "local": "local files"}


def boot(m, home, drive, write=False):
    """Start the guest; seconds until it was ready, what it says of its reads, and of what it wrote if it shall, into the
    drive itself then."""
    began = time.monotonic()
    with guest.Guest(os.path.join(guest_files.kernel(home), "vmlinuz"), os.path.join(home, "initramfs"),
                     drive if write else "snapshot=on," + drive, [guest_files.WRITE] * write, LIMIT,
                     dict(os.environ, TMPDIR=m.scratch)) as g:
        words = g.wait_for(guest_files.READY)
        result = {"start": time.monotonic() - began, "sum": words[1], "reading": float(words[6]) - float(words[4])}
        if write:
            result["wrote"] = g.wait_for(guest_files.WROTE)[1]
        g.wait_off()
    return result


class Starts:
    """The ways to start from one layer of the chain; each gives seconds, requests, bytes, and what the guest says."""

    def __init__(self, m, home, depth, want):
        self.m, self.n, self.home, self.want = m, net(m), home, want
        self.top = make_chain.layer_name(home, depth)
        self.url = self.n.far + self.n.share(self.top)
        self.cache, self.trace = m.path("guest-cache"), m.path("guest-%d.qctrace" % depth)

    def empty(self):
        shutil.rmtree(self.cache, ignore_errors=True)
        os.makedirs(self.cache, 0o700)

    def measured(self, job):
        """Run a job that starts the guest, count what goes over the network meanwhile."""
        self.n.moved()
        begun = time.monotonic()
        result = job()
        moved = self.n.moved()
        if result["sum"] != self.want["sum"]:
            raise Failed("the guest read other bytes than are in its files: %s" % result)
        return dict(result, seconds=result["began"] - begun + result["start"], requests=moved["requests"],
                    bytes=moved["bytes_down"])

    def boot(self, drive):
        began = time.monotonic()
        return dict(boot(self.m, self.home, drive), began=began)

    def qemu(self):
        return self.measured(lambda: self.boot("format=qcow2,file=" + self.url))

    def local(self):
        return self.measured(lambda: self.boot("format=qcow2,file=" + self.top))

    def mounted(self, view, *options):
        with Mounted(self.m) as mounts:
            argv = [self.m.tool("qchain-fuse"), "-f", "--cache-dir", self.cache, "--remote", "revalidate 3600", *options, view,
                    self.url, "{}"]
            where = mounts.add("guest-" + view, argv, directory=view == "layers")
            if view == "layers":
                return self.boot("format=qcow2,file=" + os.path.join(where, os.path.basename(self.top)))
            return self.boot("format=raw,file=" + where)

    def layers(self):
        self.empty()
        return self.measured(lambda: self.mounted("layers"))

    def bare(self):
        self.empty()
        return self.measured(lambda: self.mounted("disk", "--no-index"))

    def disk(self):
        self.empty()
        return self.measured(lambda: self.mounted("disk", "--record", self.trace))

    def replayed(self):
        """With what the last start of the disk view recorded."""
        self.empty()
        self.n.moved()
        fetched = self.m.answer([self.m.tool("qchain-prefetch"), "--output=json", "--cache-dir", self.cache, "--trace",
                                 self.trace, self.url])
        moved = self.n.moved()
        return dict(self.measured(lambda: self.mounted("disk")), fetching=fetched["run"]["seconds"],
                    fetch_requests=moved["requests"], fetch_bytes=moved["bytes_down"])


def rows(bar, depth, runs):
    where = "guest, depth %d, " % depth
    for way, results in runs.items():
        facts = "%d requests, %s, files read in %s" % (median(results, "requests"), mib(median(results, "bytes") / 2**20),
                                                       secs(median(results, "reading")))
        bar.row(where + WAYS[way] + ": seconds until it is ready", median(results, "seconds"),
                **{"peer" if way in ("qemu", "local") else "ours": facts})
    last = runs["replayed"]
    bar.row(where + "prefetch of the trace: seconds, before", median(last, "fetching"), ours="%d requests, %s" % (
        median(last, "fetch_requests"), mib(median(last, "fetch_bytes") / 2**20)))
    floor = median(runs["local"], "seconds")
    ours, theirs = (median(runs[k], "seconds") for k in ("disk", "qemu"))
    bar.row(where + "disk view / QEMU's curl driver: times sooner", theirs / ours, ">=", 1.0, secs(ours), secs(theirs))
    ours = median(last, "seconds")
    bar.row(where + "trace prefetched / local files: seconds", ours / floor, "<=", 1.25, secs(ours), secs(floor))
    ours, theirs = (median(runs[k], "bytes") for k in ("replayed", "disk"))
    bar.row(where + "trace prefetched: bytes fetched by the start / without", ours / theirs, "<=", 0.2, mib(ours / 2**20),
            mib(theirs / 2**20))


def guest_starts(m, _):
    bar = Bar()
    lacks = guest.missing()
    if not os.path.exists(m.tool("qchain-fuse")) or not os.access("/dev/fuse", os.W_OK):
        lacks.append("qchain-fuse (libfuse3-dev) and /dev/fuse")
    if lacks:
        bar.skip("guest: starts from a chain behind a network", "there is no " + ", ".join(lacks))
        return bar
    home, reads = guest_files.make(m.data, m.scale, DEPTHS)
    warm(layer_files(os.path.join(home, "top")))
    for depth in DEPTHS:
        starts = Starts(m, home, depth, reads[depth])
        drop = with_index(m, starts.url, starts.top)
        try:
            runs = m.alternate({way: getattr(starts, way) for way in WAYS}, runs=min(m.runs, 3))
        finally:
            drop()
        bar.raw.update({"depth %d, %s" % (depth, way): results for way, results in runs.items()})
        bar.row("guest, depth %d: files read at the start" % depth, reads[depth]["files"], ours=mib(
            reads[depth]["bytes"] / 2**20))
        rows(bar, depth, runs)
    return bar


BARS = {"guest": guest_starts}
