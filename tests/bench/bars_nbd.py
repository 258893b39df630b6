# SPDX-License-Identifier: MIT
"""The bars of the nbdkit plugin, over Unix sockets: reads of a chain's disk against nbdkit's own file plugin on the same
disk as a raw file, and against qemu-nbd on the same chain; a guest that starts from an export and writes.

All servers are up while they are read by turns, all files in the page cache. Reading goes by bench_nbd (libnbd, one
connection) and nbdcopy. What nbdkit itself takes is in both, so a row tells how the file plugin and qemu-nbd compare.
"""

import os
import shutil
import subprocess
import time

import bars_guest
import guest_files
import guest  # of ../interop, which guest_files looks into
import make_chain
from bench_bars import Bar, per_second, rate, secs
from bench_measure import Failed, layer_files, median, warm

LIKE_FILE = 0.8                 # of the speed of nbdkit's file plugin
TIMES_QEMU = {"D1": 2.5, "D100": 10.0}
DEPTH = {"D1": 1, "D100": 100}


def plugin(m):
    return os.path.join(os.path.dirname(os.path.abspath(m.tools)), "nbdkit", "nbdkit-qchain-plugin.so")


class Servers:
    """NBD servers on Unix sockets; all end with it."""

    def __init__(self, m):
        self.m, self.processes, self.pid = m, [], {}

    def __enter__(self):
        return self

    def add(self, argv):
        """argv has the socket as {} and a file that is made when the server is up as {pid}; the server's URI."""
        socket = self.m.path("nbd%d.sock" % len(self.processes))
        pid = socket + ".pid"
        process = subprocess.Popen([a.replace("{pid}", pid).replace("{}", socket) for a in argv],
                                   stdin=subprocess.DEVNULL)
        self.processes.append((process, socket, pid))
        uri = "nbd+unix:///?socket=" + socket
        for _ in range(1200):
            if os.path.exists(pid):
                self.pid[uri] = process.pid
                return uri
            if process.poll() is not None:
                break
            time.sleep(0.05)
        raise Failed("no server: %s" % " ".join(process.args))

    def nbdkit(self, *args):
        return self.add(["nbdkit", "-f", "--exit-with-parent", "-U", "{}", "-P", "{pid}", *args])

    def ours(self, *args):
        return self.nbdkit(plugin(self.m), *args)

    def qemu(self, top):
        return self.add(["qemu-nbd", "-r", "-t", "-e", "8", "-f", "qcow2", "-k", "{}", "--pid-file", "{pid}", top])

    def timed(self, uri, job):
        """Run a job that reads from a server; the processor time that the server took for it goes into its result."""
        before = self.cpu(uri)
        result = job()
        result["server_cpu"] = self.cpu(uri) - before
        return result

    def cpu(self, uri):
        """Seconds of a server's process so far; all of nbdkit's and qemu-nbd's threads are in it."""
        with open("/proc/%d/stat" % self.pid[uri], encoding="ascii") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def __exit__(self, *unused):
        for process, socket, pid in self.processes:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for name in (socket, pid):
                if os.path.exists(name):
                    os.unlink(name)


def missing(m, *programs):
    lacks = [p for p in programs if not shutil.which(p)]
    if not os.path.exists(plugin(m)):
        lacks.append("the plugin (nbdkit-plugin-dev)")
    return lacks


def flat_disk(m, top):
    """The disk of D1 as a raw file, beside the data sets."""
    raw = os.path.join(m.data, "D1.raw")
    if not os.path.exists(raw) or os.stat(raw).st_mtime < os.stat(top).st_mtime:
        subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", top, raw + ".new"], check=True)
        os.rename(raw + ".new", raw)
    return raw


def nbd_reads(m, data):
    bar = Bar()
    lacks = missing(m, "nbdkit", "nbdcopy", "qemu-nbd")
    if not os.path.exists(m.prog("bench_nbd")):
        lacks.append("bench_nbd (libnbd-dev)")
    if lacks:
        bar.skip("NBD: reads of an exported disk", "there is no " + ", ".join(lacks))
        return bar
    tops = {name: os.path.abspath(data(name)) for name in DEPTH}
    raw = os.path.abspath(flat_disk(m, tops["D1"]))
    size = os.path.getsize(raw)
    warm([raw] + [f for top in tops.values() for f in layer_files(top)])
    with Servers(m) as servers:
        uris = {"file": servers.nbdkit("file", raw)}
        for name, top in tops.items():
            uris["ours " + name], uris["qemu " + name] = servers.ours(top), servers.qemu(top)
        count = max(5000, int(100000 * m.scale))
        reader = [m.prog("bench_nbd"), "--depth", "32", "--reads", str(count)]
        random = m.alternate({k: lambda uri=uri: servers.timed(uri, lambda: m.answer(reader + [uri]))
                              for k, uri in uris.items()})
        if len({r["sum"] for runs in random.values() for r in runs}) != 1:
            raise Failed("the servers show different bytes")
        copies = m.alternate({k: lambda uri=uri: servers.timed(uri, lambda: m.run(["nbdcopy", uri, "null:"]))
                              for k, uri in uris.items()})
    bar.raw = {"random": random, "copies": copies}
    compare(bar, "4 KiB random, 32 in flight", random, {k: median(v, "reads_per_second") for k, v in random.items()},
            per_second)
    compare(bar, "nbdcopy of %.1f GiB" % (size / 2**30), copies,
            {k: size / median(v, "seconds") for k, v in copies.items()}, rate)
    return bar


def compare(bar, what, runs, speed, told):
    cpu = {k: median(v, "server_cpu") for k, v in runs.items()}
    for name, depth in DEPTH.items():
        ours, qemu = speed["ours " + name], speed["qemu " + name]
        where = "NBD, %s, depth %d: " % (what, depth)
        bar.row(where + "/ nbdkit file", ours / speed["file"], ">=", LIKE_FILE, told(ours), told(speed["file"]))
        bar.row(where + "/ qemu-nbd", ours / qemu, ">=", TIMES_QEMU[name], told(ours), told(qemu))
        for peer, name_of in (("file", "nbdkit file"), ("qemu " + name, "qemu-nbd")):
            bar.row(where + "processor time of the server / that of " + name_of, cpu["ours " + name] / max(cpu[peer], 0.01),
                    ours=secs(cpu["ours " + name]), peer=secs(cpu[peer]))
    bar.row("NBD, %s, nbdkit file on raw / qemu-nbd, depth 1" % what, speed["file"] / speed["qemu D1"],
            ours=told(speed["file"]), peer=told(speed["qemu D1"]))


# ---------------------------------------------------------------------------------- a guest ---

def guest_start(m, home, servers, top, *args):
    uri = servers.ours(top, *args)
    return bars_guest.boot(m, home, "format=raw,discard=unmap,file=" + uri, write=True)


def after_writing(home, top, wrote):
    """The image and its file system are whole, and what the guest wrote is there."""
    raw = os.path.join(home, "flat.raw")
    subprocess.run(["qemu-img", "check", "-q", top], check=True)
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", top, raw], check=True)
    try:
        guest.check_disk(raw, {guest_files.WRITTEN: wrote})
    finally:
        os.unlink(raw)


def nbd_guest(m, _):
    bar = Bar()
    lacks = missing(m, "nbdkit", "qemu-img") + guest.missing()
    if lacks:
        bar.skip("NBD: a guest that starts from an export", "there is no " + ", ".join(lacks))
        return bar
    home, reads = guest_files.make(m.data, m.scale, bars_guest.DEPTHS)
    depth = guest_files.DEPTH
    below, top = make_chain.layer_name(os.path.abspath(home), depth), os.path.join(os.path.abspath(home), "overlay.img")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", below, top], check=True)
    try:
        with Servers(m) as servers:
            result = guest_start(m, home, servers, top, "write=true")
        if result["sum"] != reads[depth]["sum"]:
            raise Failed("the guest read other bytes than are in its files: %s" % result)
        after_writing(home, top, result["wrote"])
    finally:
        os.unlink(top)
    bar.raw = {"guest": [result]}
    bar.row("NBD, a guest starts at depth %d and writes: seconds until it has read" % depth, result["start"],
            ours="%d files, %s; what it wrote is there" % (reads[depth]["files"], secs(result["reading"])))
    return bar


BARS = {"nbd": nbd_reads, "nbd-guest": nbd_guest}
