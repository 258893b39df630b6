#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Random chains, read by qchain and by qemu-img: maps, bytes, infos must agree.

Every chain comes from a seed of its own (the first one is --seed), which is
printed when something differs; `--seed THAT --count 1` makes it again.
"""
import argparse
import concurrent.futures
import os
import random
import re
import shutil
import sys
import tempfile
import threading
import time

import interop_lib as lib
from chain_maker import ChainMaker
from interop_lib import Mismatch

CHECKS = ("map", "map_ranges", "map_pieces", "read", "convert", "ranges", "hammer", "snapshots",
          "info", "compare", "checksum", "diff")


class Checker:
    """All checks of one chain against qemu-img."""

    def __init__(self, rng, runner, maker, args):
        self.rng = rng
        self.runner = runner
        self.maker = maker
        self.args = args
        self.top = maker.layers[-1]
        self.oracle = os.path.join(runner.cwd, "oracle.img")
        self.counts = dict.fromkeys(CHECKS, 0)
        self.env = {}
        self.trust = []
        if maker.needs_trust:
            if rng.random() < 0.5:
                self.trust = ["--trust"]
            else:
                with open(os.path.join(runner.cwd, "policy"), "w", encoding="utf-8") as f:
                    f.write("# for data files\nallow data-file\n")
                self.env = {"QCHAIN_POLICY": os.path.join(runner.cwd, "policy")}

    # ---- running

    def qchain(self, verb, *rest, ok=(0,), json=False):
        argv = [os.path.join(self.args.bin, "qchain"), verb, *self.trust, *rest]
        if json:
            return self.runner.json(argv, env=self.env)
        return self.runner.run(argv, ok=ok, env=self.env)

    def format(self):
        if self.top.fmt == "raw" or self.rng.random() < 0.5:
            return ["-f", self.top.fmt]
        return []

    def hammer(self, *rest, layer=None):
        argv = [self.args.hammer, *rest, (layer or self.top).arg]
        if self.maker.needs_trust:
            argv.insert(1, "--trust")
        if (layer or self.top).fmt == "raw":
            argv[1:1] = ["--format", "raw"]
        return argv

    # ---- the checks

    def qemu_map(self, layer, *rest):
        return self.runner.json(["qemu-img", "map", "-f", layer.fmt, "--output=json", *rest,
                                 layer.arg])

    def map(self):
        self.whole = lib.normalise(self.qemu_map(self.top))
        ours = self.qchain("map", "--output=json", *self.format(), self.top.arg, json=True)
        lib.same_extents("map", lib.normalise(ours), self.whole)
        if self.rng.random() < 0.25:
            self.human_map()

    def human_map(self):
        argv = ["map", "-f", self.top.fmt, self.top.arg]
        want, text, _ = self.runner.run(["qemu-img", *argv], ok=(0, 1))
        got, mine, err = self.qchain(*argv, ok=(0, 1))
        if want != got:
            raise Mismatch(f"map (human): exit {got}, qemu-img {want}: {err}")
        if want == 0 and text.split(b"\n")[0] != mine.split(b"\n")[0]:
            raise Mismatch(f"map (human): heading {mine[:80]!r}, qemu-img {text[:80]!r}")
        here = self.runner.cwd
        if want == 0 and human_rows(text, here) != human_rows(mine, here):
            raise Mismatch(f"map (human): {mine[:600]!r}, qemu-img {text[:600]!r}")

    def map_ranges(self):
        size = self.virtual_size
        for _ in range(2):
            if size == 0:
                return
            start = self.rng.randrange(size)
            length = self.rng.randint(1, max(1, size // self.rng.choice((1, 4, 64))))
            if self.rng.random() < 0.5:
                start, length = start // 512 * 512, -(-length // 512) * 512
            rest = [f"--start-offset={start}", f"--max-length={length}"]
            want = lib.normalise(self.qemu_map(self.top, *rest))
            got = self.qchain("map", "--output=json", *rest, *self.format(), self.top.arg,
                              json=True)
            lib.same_extents(f"map {' '.join(rest)}", lib.normalise(got), want)

    def map_pieces(self):
        """A few extents a call, so the cursor and its merging are seen."""
        got = self.runner.json(self.hammer("--map", "--max", str(self.rng.randint(1, 5)),
                                           "--index-bytes", str(1 << 20)))
        lib.same_extents("map in pieces", lib.normalise(got), self.whole)

    def read(self):
        self.qchain("read", *self.format(), self.top.arg, "out.img")
        lib.same_file("read", os.path.join(self.runner.cwd, "out.img"), self.oracle)
        os.unlink(os.path.join(self.runner.cwd, "out.img"))
        if self.virtual_size <= 8 << 20:
            _, out, _ = self.qchain("read", *self.format(), self.top.arg, "-")
            with open(self.oracle, "rb") as f:
                lib.same_bytes("read to stdout", out, f.read(), 0)

    def convert(self):
        self.qchain("convert", *self.format(), "-O", "raw", self.top.arg, "out.img")
        lib.same_file("convert", os.path.join(self.runner.cwd, "out.img"), self.oracle)
        os.unlink(os.path.join(self.runner.cwd, "out.img"))

    def ranges(self):
        size = self.virtual_size
        for _ in range(3):
            if size == 0:
                return
            at = self.rng.randrange(size)
            n = min(size - at, self.rng.randint(1, 1 << self.rng.randint(0, 20)))
            _, out, _ = self.qchain("read", *self.format(), f"--offset={at}", f"--length={n}",
                                    self.top.arg, "-")
            with open(self.oracle, "rb") as f:
                f.seek(at)
                lib.same_bytes(f"read --offset {at} --length {n}", out, f.read(n), at)

    def budget(self):
        rest = []
        if self.rng.random() < 0.5:
            rest += ["--index-bytes", str(1 << 20)]
        if self.rng.random() < 0.5:
            rest += ["--max-open-files", "16"]
        if self.rng.random() < 0.3:
            rest += ["--block-bytes", str(self.rng.choice((1, 65536, 1 << 20)))]
        return rest + ["--seed", str(self.rng.randrange(1 << 32))]

    def hammer_all(self):
        rest = self.budget() + ["--oracle", "oracle.img", "--check-map", "--iterations", "40"]
        if self.rng.random() < 0.15:
            rest.append("--direct")
        self.runner.run(self.hammer(*rest))

    def snapshots(self):
        for name in self.top.snapshots:
            self.runner.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", "-l",
                             "snapshot.name=" + name, self.top.arg, "snap.img"])
            rest = self.budget() + ["--oracle", "snap.img", "--iterations", "30", "--snapshot",
                                    name]
            self.runner.run(self.hammer(*rest))
            self.counts["snapshots"] += 1

    def info(self):
        for layer in {self.top, self.rng.choice(self.maker.layers)}:
            argv = ["info", "--output=json", "-f", layer.fmt, layer.arg]
            same_info("info", self.qchain(*argv, json=True), self.runner.json(["qemu-img", *argv]))
        argv = ["info", "--output=json", "--backing-chain", "-f", self.top.fmt, self.top.arg]
        same_info("info --backing-chain", self.qchain(*argv, json=True),
                  self.runner.json(["qemu-img", *argv]))

    def compare(self):
        argv = ["compare", "-f", self.top.fmt, "-F", "raw", self.top.arg, "oracle.img"]
        _, out, _ = self.qchain(*argv)
        if b"Images are identical." not in out:
            raise Mismatch(f"compare: says {out!r} of equal disks")
        if self.virtual_size == 0:
            return
        at = self.rng.randrange(self.virtual_size)
        with open(self.oracle, "r+b") as f:
            byte = os.pread(f.fileno(), 1, at)
            os.pwrite(f.fileno(), bytes((byte[0] ^ 0x40,)), at)
            try:
                _, out, _ = self.qchain(*argv, ok=(1,))
            finally:
                os.pwrite(f.fileno(), byte, at)
        said = re.search(rb"Content mismatch at offset (\d+)!", out)
        if said is None or int(said.group(1)) not in (at, at // 512 * 512):
            raise Mismatch(f"compare: byte {at} was changed, it says {out!r}")

        self.compare_with_layer()

    def compare_with_layer(self):
        """Any two disks: the same verdict, in words and exit code, as qemu-img's."""
        other = self.rng.choice(self.maker.layers)
        argv = ["-f", self.top.fmt, "-F", other.fmt, self.top.arg, other.arg]
        if self.rng.random() < 0.5:
            argv.insert(0, "-s")
        want, text, _ = self.runner.run(["qemu-img", "compare", *argv], ok=(0, 1))
        # The other one may lie in a directory below, and what it refers to above that.
        got, mine, err = self.qchain("compare", "--allow-path", self.runner.cwd, *argv,
                                     ok=(0, 1))
        strict = argv[0] == "-s"
        if got == want and verdict(mine, strict) == verdict(text, strict):
            return
        # qemu-img -s also compares whether the piece of an extent that its L2 slices and layers
        # happen to cut reaches the end of the disk. That says nothing of the disks.
        if got == 0 and b"block status mismatch" in text and self.same_status(self.top, other):
            return
        raise Mismatch(f"compare {' '.join(argv)}: exit {got}: {mine!r} {err}, qemu-img "
                       f"{want}: {text!r}")

    def same_status(self, *layers):
        """Do qemu-img's maps say the same of every byte: stored, zero, with a place?"""
        kinds = []
        for layer in layers:
            extents = self.qemu_map(layer)
            bottom = max((e["depth"] for e in extents), default=0)
            spans = []
            for e in extents:
                short = not e["present"] and e["depth"] < bottom
                kind = (e["present"] or short, e["zero"], e["data"], "offset" in e)
                if spans and spans[-1][1] == kind:
                    spans[-1][0] += e["length"]
                else:
                    spans.append([e["length"], kind])
            kinds.append(spans)
        return kinds[0] == kinds[1]

    def checksum(self):
        _, out, _ = self.qchain("checksum", *self.format(), self.top.arg)
        said = re.search(rb"\b[0-9a-f]{64}\b", out)
        want = lib.digest(self.oracle)
        if said is None or said.group(0).decode() != want:
            raise Mismatch(f"checksum: {out!r}, should be {want}")

    def diff(self):
        layers = self.maker.layers[::-1]  # the top first
        pairs = {(0, len(layers))}
        upto = self.rng.randrange(len(layers))
        pairs.add((upto, self.rng.randint(upto + 1, len(layers))))
        for upto, below in sorted(pairs):
            seen = lib.normalise(self.qemu_map(layers[upto]))
            # What a shorter layer hides counts, what nobody holds does not.
            # Layers keep their numbers in the whole chain.
            want = [dict(e, depth=e["depth"] + upto) for e in seen
                    if e["depth"] + (0 if e["present"] else 1) < below - upto]
            got = self.runner.json(self.hammer("--diff", f"{upto}:{below}", "--max",
                                               str(self.rng.choice((1, 3, 64)))))
            tool = self.qchain("diff", "--upto", str(upto), "--below", str(below),
                               "--output=json", *self.format(), self.top.arg, json=True)
            size = end(self.whole)
            want = merge_runs(cut_at(want, size))
            for what, said in ((f"diff {upto}:{below}", got), (f"diff tool {upto}:{below}", tool)):
                said = [e for e in said if e["start"] < size]
                lib.same_extents(what, merge_runs(said), want)
            if below - upto <= 3:
                self.diff_alone(f"diff {upto}:{below}", layers[upto:below], got)

    def diff_alone(self, what, layers, got):
        """Whatever one of the layers holds by itself must be in the difference."""
        size = min([end(self.whole)] + [layer.size for layer in layers])
        held = []
        for layer in layers:
            alone = self.runner.json(["qemu-img", "map", "--output=json", layer.json_alone()])
            held += [(e["start"], min(e["start"] + e["length"], size)) for e in alone
                     if e["present"] and e["start"] < size]
        ours = lib.union((e["start"], e["start"] + e["length"]) for e in got if e["present"])
        ours = [[a, min(b, size)] for a, b in ours if a < size]
        if ours != lib.union(held):
            raise Mismatch(f"{what}: covers {ours[:8]}, the layers hold {lib.union(held)[:8]}")

    def run(self):
        status, _, _ = self.runner.run(["qemu-img", "convert", "-f", self.top.fmt, "-O", "raw",
                                        self.top.arg, "oracle.img"], ok=(0, 1))
        if status != 0:
            # QEMU 7.2 sometimes damages what it writes; then nobody must read it.
            self.qchain("read", "-f", self.top.fmt, self.top.arg, "out.img", ok=(1,))
            self.counts["damaged"] = 1
            return
        self.virtual_size = os.path.getsize(self.oracle)
        for check in CHECKS:
            if check in self.args.skip:
                continue
            (self.hammer_all if check == "hammer" else getattr(self, check))()
            if check != "snapshots":
                self.counts[check] += 1


def end(extents):
    return extents[-1]["start"] + extents[-1]["length"] if extents else 0


def cut_at(extents, size):
    return [dict(e, length=min(e["length"], size - e["start"])) for e in extents
            if e["start"] < size]


def merge_runs(extents):
    """As normalise, for lists with gaps."""
    out, run = [], []
    for e in extents:
        if run and end(run) != e["start"]:
            out += lib.normalise(run)
            run = []
        run.append(e)
    return out + lib.normalise(run)


def verdict(text, strict):
    """What compare says, places in whole sectors, as qemu-img counts them. With -s it
    takes the end of a disk for a status of its own, so only the verdict counts."""
    if strict:
        return b"identical" in text
    return re.sub(rb"\d+", lambda n: b"%d" % (int(n.group(0)) // 512), text)


def human_rows(text, cwd):
    """The rows, with names made absolute: a data file's lies beside its image for us, and in the
    current directory for QEMU; here both are the same place."""
    rows = []
    for line in text.decode().splitlines()[1:]:
        start, length, host, name = line.split(None, 3)
        start, length, host = int(start, 0), int(length, 0), int(host, 0)
        name = os.path.normpath(os.path.join(cwd, name))
        if rows and rows[-1][0] + rows[-1][1] == start and rows[-1][2] + rows[-1][1] == host \
                and rows[-1][3] == name:
            rows[-1][1] += length
        else:
            rows.append([start, length, host, name])
    return rows


def same_info(where, ours, theirs):
    """Whatever qemu-img says, we say; we may say more."""
    if isinstance(theirs, dict):
        for key, value in theirs.items():
            if not isinstance(ours, dict) or key not in ours:
                raise Mismatch(f"{where}: no {key!r}; qemu-img says {value!r}")
            same_info(f"{where}.{key}", ours[key], value)
    elif isinstance(theirs, list):
        if not isinstance(ours, list) or len(ours) != len(theirs):
            raise Mismatch(f"{where}: {ours!r}, qemu-img says {theirs!r}")
        for i, value in enumerate(theirs):
            same_info(f"{where}[{i}]", ours[i], value)
    elif ours != theirs:
        raise Mismatch(f"{where}: {ours!r}, qemu-img says {theirs!r}")


def build_sidecars(rng, runner, maker, args):
    """Sidecar indexes for some layers, that are believed."""
    for i, layer in enumerate(maker.layers):
        for name in filter(None, (layer.path, layer.data_file)):
            long_ago = time.time_ns() - (100 + i) * 1_000_000_007
            os.utime(os.path.join(runner.cwd, name), ns=(long_ago, long_ago))
    for layer in rng.sample(maker.layers, rng.randint(1, len(maker.layers))):
        runner.run([os.path.join(args.bin, "qchain"), "index", "build", "--trust", "-q",
                    layer.arg], ok=None)


def one_chain(seed, args, counts, lock):
    """Make and check the chain of a seed; returns the text of a failure, or None."""
    rng = random.Random(seed)
    directory = tempfile.mkdtemp(prefix=f"qchain-{seed}-", dir=args.dir)
    runner = lib.Runner(directory)
    maker = ChainMaker(rng, runner)
    failure = None
    try:
        maker.make()
        if args.sidecars:
            build_sidecars(random.Random(seed), runner, maker, args)
        checker = Checker(rng, runner, maker, args)
        checker.run()
        with lock:
            counts["layers"] = counts.get("layers", 0) + len(maker.layers)
            for key, n in checker.counts.items():
                counts[key] = counts.get(key, 0) + n
    except Mismatch as e:
        layers = "\n".join(f"  {i}: {layer.path!r} {layer.size} {layer.what}"
                           for i, layer in enumerate(reversed(maker.layers)))
        failure = (f"seed {seed}: {e}\nlayers, the top first:\n{layers}\n"
                   f"last command: {runner.script[-1]}")
        with open(os.path.join(directory, "commands.sh"), "w", encoding="utf-8") as f:
            f.write("\n".join(runner.script) + "\n")
    if failure and args.keep_failed:
        os.makedirs(args.keep_failed, exist_ok=True)
        kept = os.path.join(args.keep_failed, f"chain-{seed}")
        shutil.rmtree(kept, ignore_errors=True)
        shutil.move(directory, kept)
        failure += f"\nkept in {kept}"
    else:
        shutil.rmtree(directory, ignore_errors=True)
    return failure


def parse(argv):
    p = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    p.add_argument("--bin", default=lib.default_bin(), help="directory of the program qchain")
    p.add_argument("--hammer", default=lib.default_hammer(), help="the program hammer")
    p.add_argument("--seed", type=int, default=None, help="of the first chain; random if absent")
    p.add_argument("--count", type=int, default=60)
    p.add_argument("--jobs", type=int, default=2)
    p.add_argument("--time-limit", type=float, default=0, metavar="SEC",
                   help="start no chain after so many seconds")
    p.add_argument("--keep-failed", metavar="DIR", help="keep chains that differ here")
    p.add_argument("--dir", help="make the chains here")
    p.add_argument("--skip", default="", help="checks to leave out: " + ",".join(CHECKS))
    p.add_argument("--sidecars", action="store_true", help="with sidecar indexes of some layers")
    p.add_argument("--go-on", action="store_true", help="do not end at the first difference")
    args = p.parse_args(argv)
    args.skip = set(filter(None, args.skip.split(",")))
    args.bin, args.hammer = os.path.abspath(args.bin), os.path.abspath(args.hammer)
    return args


def main(argv=None):
    args = parse(argv)
    lib.need("qemu-img", "qemu-io", os.path.join(args.bin, "qchain"), args.hammer)
    seed = args.seed if args.seed is not None else lib.any_seed()
    print(f"random chains: seed {seed}, {args.count} chains", flush=True)
    started = time.monotonic()
    counts, failures, lock, stop = {}, [], threading.Lock(), threading.Event()

    def task(s):
        late = args.time_limit and time.monotonic() - started > args.time_limit
        if late or stop.is_set():
            return
        failure = one_chain(s, args, counts, lock)
        with lock:
            counts["chains"] = counts.get("chains", 0) + 1
            if failure:
                failures.append(failure)
                print("FAIL " + failure, flush=True)
                print(f"again: python3 {sys.argv[0]} --bin {args.bin} --hammer {args.hammer} "
                      f"--seed {s} --count 1 --keep-failed DIR", flush=True)
                if not args.go_on:
                    stop.set()

    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for _ in pool.map(task, range(seed, seed + args.count)):
            pass
    said = ", ".join(f"{k} {counts[k]}" for k in ("layers",) + CHECKS + ("damaged",) if counts.get(k))
    print(f"random chains: {counts.get('chains', 0)} chains, {len(failures)} failed, "
          f"{time.monotonic() - started:.0f} s ({said})")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
