# SPDX-License-Identifier: MIT
"""The bars of changing chains: rebase, commit and convert against qemu-img, by turns, with the fsync of what was
written; a rebase whose layers lie behind a URL (see bars_remote.py) also by what must be moved at least.
"""

import atexit
import contextlib
import json
import os
import random
import shutil
import subprocess

import bars_remote
import make_chain
from bars_write import create, make_compressible, qemu_img, sound
from bench_bars import Bar, mib, secs
from bench_measure import Failed, layer_files, median, warm

MIB, GIB, CLUSTER = 1 << 20, 1 << 30, 64 << 10
DISK = 64 * GIB
HEAD = 64 << 10                 # what opening a layer reads at most


def scaled(m, size, least=MIB):
    return max(least, size // 16) if getattr(m, "quick", False) else size


# ------------------------------------------------------------------------------------- the disks ---

def writes(rng, spots, total):
    """Writes of one to two clusters, seven of ten of them in hot places."""
    done = 0
    while done < total:
        length = CLUSTER * rng.choice((1, 1, 1, 2))
        at = rng.choice(spots) + rng.randrange(64) * CLUSTER if rng.random() < 0.7 else \
            rng.randrange(DISK // CLUSTER) * CLUSTER
        yield min(at, DISK - length), length
        done += length


def make_layers(home, base, below, tip):
    """A base of so many bytes, a layer B and a tip, scattered over a disk of 64 GiB; each made by itself, as
    make_chain does it."""
    rng = random.Random("surgery")
    spots = [rng.randrange(DISK // CLUSTER) * CLUSTER for _ in range(540)]
    shutil.rmtree(home, ignore_errors=True)
    os.makedirs(home)
    pieces = max(1, base // (2 * MIB))
    plan = {"A.qcow2": [(i * (DISK // pieces), 2 * MIB) for i in range(pieces)],
            "B.qcow2": writes(rng, spots, below), "tip.qcow2": writes(rng, spots, tip)}
    last = None
    for name, some in plan.items():
        path = os.path.join(home, name)
        make_chain.create(path, DISK, last)
        make_chain.write(path, ["write -q -P %d %d %d" % (rng.randrange(1, 256), at, n) for at, n in some])
        last = name
    return [os.path.join(home, n) for n in plan]


def copy(source, target):
    """A new file each time, on the medium, its pages in the cache."""
    shutil.copyfile(source, target)
    fd = os.open(target, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def refer(image, backing):
    qemu_img("rebase", "-q", "-u", "-f", "qcow2", "-b", backing, "-F", "qcow2", image)


def same(a, b, fmt="qcow2"):
    qemu_img("compare", "-q", "-f", "qcow2", "-F", fmt, a, b)


def durable(m, argv, *files):
    """Run it, and make what it wrote durable if it has not; the time of both."""
    done = m.run(["sh", "-c", '"$@" && sync ' + " ".join("'%s'" % f for f in files), "sh"] + argv)
    return {"seconds": done["seconds"], "rss_mib": done["rss_mib"]}


def faster(bar, what, runs, least):
    bar.raw[what] = runs
    s = {k: median(v, "seconds") for k, v in runs.items()}
    bar.row(what + ": times faster than qemu-img", s["qemu"] / s["ours"], ">=", least, secs(s["ours"]), secs(s["qemu"]))
    bar.chart.append({"what": what, "ours": s["ours"], "qemu": s["qemu"]})


# ---------------------------------------------------------------------------------------- remote ---

def visible(tip):
    """Bytes that the layer below a tip shows, by qemu-img."""
    done = subprocess.run(["qemu-img", "map", "--output=json", "-f", "qcow2", tip], capture_output=True, check=True)
    return sum(e["length"] for e in json.loads(done.stdout) if e["depth"] == 1 and e["data"])


def metadata_of(path):
    """Ranges of a file that are its head, its L1 table, or L2 tables it refers to."""
    with open(path, "rb") as f:
        head = f.read(48)
        cluster = 1 << int.from_bytes(head[20:24], "big")
        entries, at = int.from_bytes(head[36:40], "big"), int.from_bytes(head[40:48], "big")
        f.seek(at)
        table = f.read(8 * entries)
    tables = [int.from_bytes(table[i:i + 8], "big") & 0xfffffffffffe00 for i in range(0, len(table), 8)]
    return [(0, HEAD), (at, at + -(-len(table) // 4096) * 4096)] + [(t, t + cluster) for t in tables if t]


class Moved:
    """What the proxy's log says that one run asked for."""

    def __init__(self, log, base, below, tables):
        self.requests = len(log)
        self.base = self.base_head = self.data = self.meta = self.other = 0
        for r in log:
            if not r["range"] or not r["path"].endswith((base, below)):
                self.other += r["bytes"]
                continue
            start = int(r["range"].partition("=")[2].partition("-")[0])
            inside = any(a <= start < b for a, b in tables)
            if r["path"].endswith(base):
                if start < HEAD:
                    self.base_head += r["bytes"]
                else:
                    self.base += r["bytes"]
            elif inside:
                self.meta += r["bytes"]
            else:
                self.data += r["bytes"]


def remote_run(m, n, layers, url, tool, check=None):
    """One rebase of a new copy of the tip onto A, over the network; what it took, and what was moved."""
    base, below, tip = layers
    image = m.path("remote-tip.qcow2")
    copy(tip, image)
    refer(image, url + "/B.qcow2")
    n.moved()
    before = len(n.proxy.log())
    allow = ["--allow-url", n.far + "/"] if tool[0] != "qemu-img" else []
    took = durable(m, tool + allow + ["-f", "qcow2", "-b", url + "/A.qcow2", "-F", "qcow2", image], image)
    took["bytes"] = n.moved()["bytes_down"]
    took["moved"] = vars(Moved(n.proxy.log()[before:], "/A.qcow2", "/B.qcow2", metadata_of(below)))
    if check:
        sound(image)
        refer(image, base)
        same(image, tip)
    return took


def remote_rows(bar, where, runs, seen, tables, total, seconds_bar=True):
    """What one kind of run moved, beside what shows."""
    bar.raw[where] = runs
    data, meta = (median(runs, "moved", k) for k in ("data", "meta"))
    bar.row(where + ": bytes of data / those that show", data / seen, "<=", 1.005, mib(data / MIB), mib(seen / MIB))
    bar.row(where + ": bytes of metadata / B's head, L1 and L2 tables", meta / tables, "<=", 1.0, mib(meta / MIB),
            mib(tables / MIB))
    bytes_ = median(runs, "bytes")
    bar.row(where + ": all bytes / those that show", bytes_ / seen, "<=", total, mib(bytes_ / MIB),
            "%d requests" % median(runs, "moved", "requests"))
    bar.row(where + ": bytes of the base behind its head", median(runs, "moved", "base"), "<=", 0,
            "its head: %d KiB" % (median(runs, "moved", "base_head") / 1024))
    seconds = median(runs, "seconds")
    link = bytes_ / (bars_remote.BANDWIDTH * 1e6)
    bar.row(where + ": seconds", seconds, "<=" if seconds_bar else None, 1.15 * link + 0.5, secs(seconds),
            "the link: " + secs(link))


def remote_rebase(m, _):
    """A tip on this machine, over B and A behind a URL, moved onto A."""
    bar, n = Bar(), bars_remote.net(m)
    home = m.path("remote-chain")
    layers = make_layers(home, 256 * MIB, scaled(m, 300 * MIB), scaled(m, 100 * MIB))
    n.share(layers[0], "surgery")
    url = n.far + "/surgery"
    warm(layers)
    seen, tables = visible(layers[2]), sum(b - a for a, b in metadata_of(layers[1]))
    ours = [m.tool("qchain-rebase"), "-q"]
    remote_run(m, n, layers, url, ours, check=True)
    runs = m.alternate({"bare": lambda: remote_run(m, n, layers, url, ours + ["--no-index"])})["bare"]
    remote_rows(bar, "remote rebase", runs, seen, tables, 1.04)
    drop = bars_remote.with_index(m, url + "/B.qcow2", layers[1])
    try:
        remote_run(m, n, layers, url, ours, check=True)
        runs = m.alternate({"used": lambda: remote_run(m, n, layers, url, ours)})["used"]
    finally:
        drop()
    remote_rows(bar, "remote rebase, a sidecar", runs, seen, tables, 1.02)
    small = make_layers(home, 8 * MIB, 12 * MIB, 4 * MIB)
    runs = m.alternate({"ours": lambda: remote_run(m, n, small, url, ours + ["--no-index"]),
                        "qemu": lambda: remote_run(m, n, small, url, ["qemu-img", "rebase", "-q"])}, runs=1)
    bar.raw["small"] = runs
    s, b = ({k: median(v, what) for k, v in runs.items()} for what in ("seconds", "bytes"))
    bar.row("remote rebase of 12 MiB: times faster than qemu-img", s["qemu"] / s["ours"],
            ours=secs(s["ours"]), peer=secs(s["qemu"]))
    bar.row("remote rebase of 12 MiB: bytes / qemu-img's", b["ours"] / b["qemu"], ours=mib(b["ours"] / MIB),
            peer=mib(b["qemu"] / MIB))
    bar.chart.append({"what": "remote rebase of 12 MiB", "ours": s["ours"], "qemu": s["qemu"]})
    shutil.rmtree(home, ignore_errors=True)
    return bar


# ----------------------------------------------------------------------------------------- local ---

def rebase_rows(m, bar, what, layers, least):
    base, _, tip = layers
    image = os.path.join(os.path.dirname(tip), "moved.qcow2")

    def run(tool):
        copy(tip, image)
        return durable(m, tool + ["-q", "-f", "qcow2", "-b", base, "-F", "qcow2", image], image)

    warm(layers)
    run([m.tool("qchain-rebase")])
    sound(image)
    same(image, tip)
    faster(bar, what, m.alternate({"ours": lambda: run([m.tool("qchain-rebase")]),
                                   "qemu": lambda: run(["qemu-img", "rebase"])}), least)
    os.unlink(image)


def rebase(m, _):
    bar = Bar()
    home = m.path("rebase")
    layers = make_layers(home, 256 * MIB, scaled(m, 300 * MIB), scaled(m, 100 * MIB))
    rebase_rows(m, bar, "rebase of 300 MiB", layers, 1.5)
    # The same, where B is a disk of text, compressed.
    size = scaled(m, 512 * MIB)
    raw, zero = os.path.join(home, "words.raw"), layers[0]
    make_compressible(raw, size)
    create(zero, size)
    os.unlink(layers[1])
    qemu_img("convert", "-c", "-W", "-f", "raw", "-O", "qcow2", "-B", zero, "-F", "qcow2", raw, layers[1])
    create(layers[2], size, backing=layers[1])
    make_chain.write(layers[2], ["write -q -P 9 %d 64k" % (i * 8 * MIB) for i in range(size // (8 * MIB))])
    rebase_rows(m, bar, "rebase of 512 MiB of compressed clusters", layers, 5.0)
    shutil.rmtree(home)
    return bar


def commit(m, _):
    bar = Bar()
    home = m.path("commit")
    layers = make_layers(home, 256 * MIB, scaled(m, 300 * MIB), scaled(m, 100 * MIB))
    below, tip = (os.path.join(home, n) for n in ("into.qcow2", "from.qcow2"))

    def run(tool):
        copy(layers[1], below)
        copy(layers[2], tip)
        refer(tip, below)
        return durable(m, tool + ["-q", "-f", "qcow2", tip], tip, below)

    warm(layers)
    run([m.tool("qchain-commit")])
    sound(below)
    sound(tip)
    same(tip, layers[2])
    same(below, layers[2])
    faster(bar, "commit of 100 MiB into 300 MiB", m.alternate({
        "ours": lambda: run([m.tool("qchain-commit")]), "qemu": lambda: run(["qemu-img", "commit"])}), 1.5)
    shutil.rmtree(home)
    return bar


# --------------------------------------------------------------------------------------- convert ---

def fresh(m, out, argv):
    """A new file each time."""
    if os.path.exists(out):
        os.unlink(out)
    return durable(m, argv + [out], out)


def convert(m, _):
    """A chain of three layers flattened, 2.4 GB."""
    bar = Bar()
    home, out = m.path("convert"), m.path("flat.qcow2")
    layers = make_layers(home, scaled(m, 2 * GIB), scaled(m, 300 * MIB), scaled(m, 100 * MIB))
    warm(layers)
    ends = ["-f", "qcow2", "-O", "qcow2", layers[2]]
    fresh(m, out, [m.tool("qchain-convert")] + ends)
    sound(out)
    same(out, layers[2])
    faster(bar, "convert of 2.4 GB", m.alternate({
        "ours": lambda: fresh(m, out, [m.tool("qchain-convert")] + ends),
        "qemu": lambda: fresh(m, out, ["qemu-img", "convert"] + ends)}), 1.2)
    shutil.rmtree(home)
    os.unlink(out)
    return bar


def convert_compressed(m, _):
    """A disk of text compressed by two threads, at the level that both take."""
    bar = Bar()
    raw, out = m.path("words.raw"), m.path("words.qcow2")
    make_compressible(raw, scaled(m, 384 * MIB))
    warm([raw])
    for kind in ("zlib", "zstd"):
        def run(tool, kind=kind):
            took = fresh(m, out, tool + ["-c", "-f", "raw", "-O", "qcow2", "-o", "compression_type=" + kind, raw])
            return dict(took, bytes=os.path.getsize(out))
        ours = [m.tool("qchain-convert"), "--threads", "2"]
        run(ours)
        sound(out)
        same(out, raw, fmt="raw")
        runs = m.alternate({"ours": lambda: run(ours), "qemu": lambda: run(["qemu-img", "convert", "-W", "-m", "8"])})
        faster(bar, "convert -c, %s, 2 threads" % kind, runs, 1.0)
        b = {k: median(v, "bytes") for k, v in runs.items()}
        bar.row("convert -c, %s: bytes / those of qemu-img" % kind, b["ours"] / b["qemu"], "<=", 1.01,
                mib(b["ours"] / MIB), mib(b["qemu"] / MIB))
    os.unlink(raw)
    os.unlink(out)
    return bar


def convert_deep(m, data):
    """1000 layers flattened, and the same bytes from one layer."""
    bar = Bar()
    top = data("C1000")
    one, out = m.path("one.qcow2"), m.path("deep.qcow2")
    tool = [m.tool("qchain-convert"), "--no-index", "-f", "qcow2", "-O", "qcow2"]
    fresh(m, one, tool + [top])
    warm(layer_files(top))
    warm([one])
    runs = m.alternate({"deep": lambda: fresh(m, out, tool + [top]), "one": lambda: fresh(m, out, tool + [one])})
    bar.raw["deep"] = runs
    s = {k: median(v, "seconds") for k, v in runs.items()}
    bar.row("convert of 1000 layers / of the same bytes from one", s["deep"] / s["one"], "<=", 1.3, secs(s["deep"]),
            secs(s["one"]))
    fresh(m, out, tool + [one])
    fresh(m, m.path("again.qcow2"), tool + [top])
    same(out, m.path("again.qcow2"))
    for path in (one, out, m.path("again.qcow2")):
        os.unlink(path)
    return bar


@contextlib.contextmanager
def xfs(m, size):
    """A file system that shares blocks; the mount, and the name of its device."""
    image, place = m.path("xfs.img"), m.path("xfs")
    os.makedirs(place)
    with open(image, "wb") as f:
        f.truncate(size)
    steps = (["mkfs.xfs", "-q", "-m", "reflink=1", image], ["mount", "-o", "loop", image, place])
    try:
        for argv in steps:
            done = subprocess.run(argv, capture_output=True, check=False, encoding="utf-8")
            if done.returncode:
                raise OSError(done.stderr.strip().splitlines()[-1])
        end = atexit.register(lambda: subprocess.run(["umount", place], capture_output=True, check=False))
        device = os.stat(place).st_dev
        yield place, "/sys/dev/block/%d:%d/stat" % (os.major(device), os.minor(device))
        subprocess.run(["umount", place], check=False)
        atexit.unregister(end)
    finally:
        os.unlink(image)


def written(stat):
    with open(stat, encoding="ascii") as f:
        return int(f.read().split()[6]) * 512


def reflink(m, _):
    """A raw image whose copy has the same blocks."""
    bar = Bar()
    size = scaled(m, 4 * GIB)
    what = "raw copy of 4 GiB on XFS with reflink: "
    try:
        with xfs(m, 2 * size + GIB) as (place, stat):
            source, out = os.path.join(place, "a.raw"), os.path.join(place, "b.raw")
            create(source, size, fmt="raw")
            qemu_img("bench", "-w", "-f", "raw", "-t", "none", "-d", "8", "-s", str(MIB), "-c", str(size // MIB),
                     "--pattern=7", source)

            def run(tool):
                subprocess.run(["sync", "-f", place], check=True)
                before = written(stat)
                took = fresh(m, out, tool + ["-f", "raw", "-O", "raw", source])
                subprocess.run(["sync", "-f", place], check=True)
                return dict(took, written=written(stat) - before)

            runs = m.alternate({"ours": lambda: run([m.tool("qchain-convert")])})["ours"]
            subprocess.run(["cmp", source, out], check=True)
            qemu = run(["qemu-img", "convert", "-C"])
            bar.raw["reflink"] = {"ours": runs, "qemu": qemu}
            bar.row(what + "seconds", median(runs, "seconds"), "<=", 0.1, secs(median(runs, "seconds")),
                    secs(qemu["seconds"]))
            bar.row(what + "MiB written", median(runs, "written") / MIB, "<=", 16,
                    mib(median(runs, "written") / MIB), mib(qemu["written"] / MIB))
    except OSError as e:
        bar.skip(what + "seconds", "no such file system here: %s" % e)
    return bar


BARS = {"surgery-remote": remote_rebase, "surgery-rebase": rebase, "surgery-commit": commit,
        "surgery-convert": convert, "surgery-compressed": convert_compressed, "surgery-deep": convert_deep,
        "surgery-reflink": reflink}
