#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Random chains, and one operation after the other that changes what they are made of.

Rebase, stream, merge, commit, taking layers out and convert, by our tools, now and then by qemu-img, with some writing
and snapshots in between. After each: every disk that nobody meant to change reads as before (qemu-img compare with a
flat copy made earlier), every file satisfies qemu-img check, and the headers name what they should.

Every run comes from a seed of its own (the first one is --seed), which is printed when something differs;
`--seed THAT --count 1` makes it again.
"""
import argparse
import concurrent.futures
import json
import os
import random
import shutil
import sys
import tempfile
import threading
import time

import interop_lib as lib
import surgery_chains as chains
from interop_lib import Mismatch


class Disk:
    """An image whose bytes are known."""

    def __init__(self, top, flat):
        self.top, self.flat = top, flat


class Run:
    def __init__(self, args, cwd, seed):
        self.args, self.rng = args, random.Random(seed)
        self.runner = lib.Runner(cwd, env={"QCHAIN_POLICY": os.path.join(cwd, "policy")})
        with open(os.path.join(cwd, "policy"), "w", encoding="utf-8") as f:
            f.write(f"allow-path {cwd}\n")
        self.maker = chains.Maker(self.rng, self.runner)
        self.disks, self.n, self.counts = [], 0, {}

    # ---- programs

    def qchain(self, *argv):
        return self.runner.run([os.path.join(self.args.bin, "qchain"), *argv])

    def either(self, *argv):
        """By us, or, with the same words, by qemu-img; what it cannot do (let a version 2 base grow over data below) we do
        where it has left it. False: both refuse."""
        if self.rng.random() < 0.15:
            status, _, err = self.runner.run(["qemu-img", *argv], ok=(0, 1))
            if status == 0:
                self.count("by qemu-img")
                return True
            if "Operation not supported" not in err:
                raise Mismatch(f"qemu-img {argv}: {err}")
        status, _, err = self.runner.run([os.path.join(self.args.bin, "qchain"), *argv], ok=(0, 1))
        if status == 0:
            return True
        # A base that can't grow: qemu-img has to say so, too, and all is as it was.
        if "a version 2 image with snapshots cannot be resized" not in err:
            raise Mismatch(f"qchain {argv}: {err}")
        status, _, theirs = self.runner.run(["qemu-img", *argv], ok=(0, 1))
        if status == 0 or "Operation not supported" not in theirs:
            raise Mismatch(f"qchain {argv}: {err}qemu-img: exit {status} {theirs}")
        self.count("refused by both")
        return False

    def count(self, what):
        self.counts[what] = self.counts.get(what, 0) + 1

    # ---- what there is

    def layers(self):
        """All files, each once."""
        seen = {}
        for d in self.disks:
            for x in d.top.layers():
                seen[x.path] = x
        return list(seen.values())

    def keep_flat(self, top):
        self.n += 1
        flat = f"flat{self.n}"
        chains.flatten(self.runner, top, flat)
        return Disk(top, flat)

    def forget_above(self, base, but):
        """Disks that a commit into base changed."""
        self.disks = [d for d in self.disks if d is but or base not in d.top.layers()]

    def sync(self, top, layers):
        """What the header names must be a file that we know."""
        name, fmt = chains.backing_of(self.runner, top.path)
        if name is None:
            top.below = None
            return
        path = os.path.normpath(os.path.join(os.path.dirname(top.path), name))
        known = [x for x in layers if os.path.normpath(x.path) == path]
        if not known or known[0].fmt != fmt:
            raise Mismatch(f"{top.path} names {name!r} ({fmt})")
        top.below = known[0]

    def look(self):
        layers = self.layers()
        for x in layers:
            if x.fmt == "qcow2":
                chains.check(self.runner, x)
                self.sync(x, layers)
        for d in self.disks:
            chains.compare(self.runner, d.top, d.flat)
            info = self.runner.json(["qemu-img", "info", "--output=json", "-f", d.top.fmt, d.top.path])
            if info["virtual-size"] != os.path.getsize(os.path.join(self.runner.cwd, d.flat)):
                raise Mismatch(f"{d.top.path} has {info['virtual-size']} bytes")

    # ---- operations; each returns whether there was anything to do

    def rebase(self, d):
        rng, below = self.rng, d.top.layers()[1:]
        r = rng.random()
        if below and r < 0.6:
            to = rng.choice(below)
        elif r < 0.75:
            to = None
        else:
            others = [x for x in self.layers() if d.top not in x.layers() and x not in below]
            to = rng.choice(others) if others and rng.random() < 0.5 else self.maker.chain(rng.randint(1, 2))
        argv = ["rebase", "-b", to.name_from(d.top) if to else ""] + (["-F", to.fmt] if to else [])
        more = [w for w, p in (("--compare", 0.2), ("-c", 0.15), (f"--threads={rng.randint(1, 5)}", 0.3))
                if rng.random() < p]
        # qemu-img 7.2 loses bytes of clusters that are smaller than the new backing's, if there was none before.
        if more or len(d.top.layers()) == 1:
            self.qchain(*argv, *more, d.top.path)
        else:
            self.either(*argv, d.top.path)
        if to and to not in self.layers():
            d.top.below = to
        return True

    def stream(self, d):
        layers = d.top.layers()
        if len(layers) < 2:
            return False
        k = self.rng.randint(1, len(layers))
        base = ["-b", str(k)] if k < len(layers) else []
        self.qchain("stream", *base, d.top.path)
        want = layers[k] if k < len(layers) else None
        self.sync(d.top, layers)
        if d.top.below is not want:
            raise Mismatch(f"stream {base}: {d.top.path} stands on {d.top.below and d.top.below.path}")
        return True

    def merge(self, d):
        self.qchain("merge", *([f"--limit={self.rng.randint(1, d.top.size)}"] if self.rng.random() < 0.6 else []),
                    d.top.path)
        return len(d.top.layers()) > 2

    def commit(self, d):
        layers = d.top.layers()
        if len(layers) < 2:
            return False
        argv, base = ["commit"], layers[1]
        if self.rng.random() < 0.4:
            k = self.rng.randint(1, len(layers) - 1)
            base = layers[k]
            argv += ["-b", base.name_from(layers[k - 1])]
        if self.rng.random() < 0.3:
            argv.append("-d")
        self.forget_above(base, d)
        done = self.either(*argv, d.top.path)
        if done and self.rng.random() < 0.5 and base.size <= d.top.size:  # the base holds all of it now
            chains.compare(self.runner, base, d.flat)
        return True

    def delete(self, _):
        layers = [x for x in self.layers() if x not in [d.top for d in self.disks]]
        if not layers:
            return False
        victim = self.rng.choice(layers)
        children = [x for x in self.layers() if x.below is victim]
        keep = ["--keep"] if self.rng.random() < 0.2 else []
        self.qchain("delete", *keep, victim.path, *[x.path for x in children])
        if os.path.exists(os.path.join(self.runner.cwd, victim.path)) != bool(keep):
            raise Mismatch(f"delete {keep}: {victim.path} is there, or is not")
        for x in children:
            x.below = victim.below
        return True

    def convert(self, d):
        rng = self.rng
        self.n += 1
        new = chains.Layer(f"conv{self.n}", rng.choice(("qcow2", "qcow2", "raw")), d.top.size)
        argv = ["convert", "-f", d.top.fmt, "-O", new.fmt]
        below = [x for x in d.top.layers()[1:]]
        if new.fmt == "qcow2":
            new.cluster = rng.choice(chains.CLUSTERS)
            argv += ["-o", f"cluster_size={new.cluster}"]
            if rng.random() < 0.3:
                argv.append("-c")
            if below and rng.random() < 0.4:
                new.below = rng.choice(below)
                argv += ["-B", new.below.name_from(new), "-F", new.below.fmt]
        if rng.random() < 0.3:
            argv += ["-S", rng.choice(("0", "512", "4k", "64k"))] if not new.below else []
        if rng.random() < 0.3:
            argv += ["-m", str(rng.randint(1, 8)), "-W"]
        self.qchain(*argv, d.top.path, new.path)
        if rng.random() < 0.3:
            d.top = new
        else:
            self.disks.append(Disk(new, d.flat))
        return True

    # ---- in between

    def write(self, d):
        if any(x.below is d.top for x in self.layers()):
            return False
        self.maker.fill(d.top)
        if d.top.fmt == "qcow2" and self.rng.random() < 0.3:
            self.runner.run(["qemu-img", "snapshot", "-c", f"s{self.n}", d.top.path], ok=None)
        d.flat = self.keep_flat(d.top).flat
        return True

    def twin(self, d):
        """Another image over some layer; a layer over the top."""
        over = self.rng.choice(d.top.layers())
        new = self.maker.layer(over)
        if over is d.top:
            d.top = new
            d.flat = self.keep_flat(new).flat
        else:
            self.disks.append(self.keep_flat(new))
        return True

    def run(self):
        top = self.maker.chain(self.rng.randint(2, 5))
        self.disks.append(self.keep_flat(top))
        self.look()
        kinds = [self.rebase] * 3 + [self.stream] * 2 + [self.merge, self.commit, self.commit, self.delete, self.delete,
                                                         self.convert, self.write, self.write, self.twin, self.twin]
        for _ in range(self.rng.randint(2, 8)):
            d, kind = self.rng.choice(self.disks), self.rng.choice(kinds)
            if d.top.fmt == "raw" and kind not in (self.convert, self.twin, self.write):
                continue
            if kind(d):
                self.count(kind.__name__)
            self.look()


def one_run(seed, args, counts, lock):
    """Returns the text of a failure, or None."""
    cwd = tempfile.mkdtemp(prefix=f"qchain-s{seed}-", dir=args.dir)
    run = Run(args, cwd, seed)
    failure = None
    try:
        run.run()
    except Mismatch as e:
        failure = f"seed {seed}: {e}\nlast command: {run.runner.script[-1][:600]}"
        with open(os.path.join(cwd, "commands.sh"), "w", encoding="utf-8") as f:
            f.write("\n".join(run.runner.script) + "\n")
    with lock:
        for key, n in run.counts.items():
            counts[key] = counts.get(key, 0) + n
    if failure and args.keep_failed:
        kept = os.path.join(args.keep_failed, f"surgery-{seed}")
        os.makedirs(args.keep_failed, exist_ok=True)
        shutil.rmtree(kept, ignore_errors=True)
        shutil.move(cwd, kept)
        failure += f"\nkept in {kept}"
    else:
        shutil.rmtree(cwd, ignore_errors=True)
    return failure


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    p.add_argument("--bin", default=lib.default_bin(), help="directory of the program qchain")
    p.add_argument("--seed", type=int)
    p.add_argument("--count", type=int, default=lib.share(20), help="chains")
    p.add_argument("--jobs", type=int, default=2)
    p.add_argument("--keep-failed", metavar="DIR")
    p.add_argument("--dir")
    p.add_argument("--go-on", action="store_true", help="do not end at the first difference")
    args = p.parse_args()
    args.bin = os.path.abspath(args.bin)
    lib.need("qemu-img", "qemu-io", os.path.join(args.bin, "qchain"))
    seed = args.seed if args.seed is not None else lib.any_seed()
    print(f"random surgery: seed {seed}, {args.count} chains", flush=True)
    counts, failures, lock, stop = {}, [], threading.Lock(), threading.Event()
    started = time.monotonic()

    def task(s):
        if stop.is_set():
            return
        failure = one_run(s, args, counts, lock)
        if failure:
            with lock:
                failures.append(failure)
                print("FAIL " + failure, flush=True)
            if not args.go_on:
                stop.set()

    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for _ in pool.map(task, range(seed, seed + args.count)):
            pass
    print(f"random surgery: {json.dumps(counts)}; {len(failures)} failed, {time.monotonic() - started:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
