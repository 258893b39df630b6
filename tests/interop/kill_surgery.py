#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Operations that change chains, killed at any moment.

Each kind runs on a copy of one chain and is killed after a random part of the time that it takes, once or several times
in a row, until so many were killed before they had ended. After each kill the disk reads as before (qemu-img compare), and no file is corrupt (leaks are allowed); run
again the operation completes, and nothing lies about that was not there before.
"""
import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import interop_lib as lib
from interop_lib import Mismatch

FILES = ("base", "low", "mid", "top", "twin")
SIZE = 24  # MiB

# What is run, which disks must stay as they are, and files that may be new or gone afterwards.
KINDS = {
    "rebase": (["rebase", "-b", "low", "-F", "qcow2", "top"], ("top", "twin", "mid"), ()),
    "rebase-compare": (["rebase", "--compare", "-b", "base", "-F", "raw", "top"], ("top", "twin", "mid"), ()),
    "rebase-none": (["rebase", "-b", "", "top"], ("top", "twin", "mid"), ()),
    "rebase-compress": (["rebase", "-c", "-b", "low", "-F", "qcow2", "top"], ("top", "twin", "mid"), ()),
    "stream": (["stream", "-b", "low", "top"], ("top", "twin", "mid"), ()),
    "merge": (["merge", "--limit=20M", "top"], ("top", "twin", "mid"), ()),
    "commit": (["commit", "top"], ("top",), ()),
    "commit-base": (["commit", "-b", "low", "top"], ("top",), ()),
    "commit-keep": (["commit", "-d", "top"], ("top",), ()),
    "delete": (["delete", "mid", "top", "twin"], ("top", "twin"), ("mid",)),
    "convert": (["convert", "-O", "qcow2", "top", "out"], FILES, ("out",)),
}


def sh(cwd, *argv, ok=(0,)):
    r = subprocess.run(argv, cwd=cwd, capture_output=True, check=False, timeout=300)
    if r.returncode not in ok:
        raise Mismatch(f"{' '.join(argv)}: exit {r.returncode}: {r.stdout.decode()[:600]}{r.stderr.decode()}")
    return r.stdout


def fmt(name):
    return "raw" if name == "base" else "qcow2"


def make_chain(rng, cwd):
    """Four layers and a twin of the top, of different clusters, with streams, zeros, and a shorter one."""
    os.mkdir(cwd)
    sh(cwd, "qemu-img", "create", "-q", "-f", "raw", "base", f"{SIZE}M")
    for name, below, options, size in (("low", "base", "cluster_size=32k", SIZE - 8), ("mid", "low", "extended_l2=on", SIZE),
                                       ("top", "mid", "cluster_size=64k", SIZE), ("twin", "mid", "compat=0.10", SIZE)):
        sh(cwd, "qemu-img", "create", "-q", "-f", "qcow2", "-o", options, "-b", below, "-F", fmt(below), name, f"{size}M")
    for name, count in (("base", 30), ("low", 60), ("mid", 60), ("top", 30), ("twin", 20)):
        commands = []
        for _ in range(count):
            at, n = 512 * rng.randint(0, 2048 * (SIZE - 10)), 512 * rng.randint(1, 1500)
            byte = rng.randint(1, 255)
            commands.append(rng.choice((f"write -P {byte} {at} {n}", f"write -P {byte} {at} {n}", f"write -z {at} {n}")))
            if name in ("low", "mid") and rng.random() < 0.4:
                commands[-1] = f"write -c -P {byte} {at // 65536 * 65536} {-(-n // 65536) * 65536}"
        # Streams onto what is allocated are refused: no matter.
        subprocess.run(["qemu-io", "-f", fmt(name), name], cwd=cwd, input="\n".join(commands).encode() + b"\nquit\n",
                       stdout=subprocess.DEVNULL, check=False, timeout=120)
    os.mkdir(os.path.join(cwd, "flat"))
    for name in FILES:
        sh(cwd, "qemu-img", "convert", "-f", fmt(name), "-O", "raw", name, f"flat/{name}")


class Kills:
    def __init__(self, args, rng, root):
        self.args, self.rng = args, rng
        self.master, self.cwd = os.path.join(root, "master"), os.path.join(root, "victim")
        self.tool = os.path.join(args.bin, "qchain")
        make_chain(rng, self.master)

    def renew(self):
        shutil.rmtree(self.cwd, ignore_errors=True)
        os.mkdir(self.cwd)
        sh(self.master, "cp", "--sparse=always", *FILES, self.cwd)

    def run_once(self, words, delay=None):
        """True if it was killed before it had ended."""
        p = subprocess.Popen([self.tool, *words], cwd=self.cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            _, err = p.communicate(timeout=delay)
        except subprocess.TimeoutExpired:
            p.kill()
            _, err = p.communicate()
        if p.returncode not in (0, -signal.SIGKILL):
            raise Mismatch(f"exit {p.returncode}: {err.decode()}")
        return p.returncode != 0

    def look(self, disks, leaks):
        """Returns how many clusters leak."""
        n = 0
        for name in os.listdir(self.cwd):
            if name in FILES and fmt(name) == "qcow2":
                out = sh(self.cwd, "qemu-img", "check", "-f", "qcow2", name, ok=(0, 3) if leaks else (0,))
                n += out.count(b"Leaked cluster")
        for name in disks:
            if os.path.exists(os.path.join(self.cwd, name)):
                sh(self.cwd, "qemu-img", "compare", "-q", "-f", fmt(name), "-F", "raw", name,
                   os.path.join(self.master, "flat", name))
        return n

    def litter(self, extra):
        """Files that are new. An image that is made has no name until it is whole; then for a moment another than its
        own, so that one kill of all may leave it, or each where the file system knows only files with names."""
        new = [x for x in os.listdir(self.cwd) if x not in FILES and x not in extra]
        hidden = [x for x in new if x.startswith(tuple(f".{e}." for e in extra) or "\0")]
        try:
            os.close(os.open(self.cwd, os.O_RDWR | os.O_TMPFILE))
        except OSError:
            return [x for x in new if x not in hidden]
        return new if len(hidden) > 1 else [x for x in new if x not in hidden]

    def finish(self, kind):
        words, disks, extra = KINDS[kind]
        self.run_once(words)
        self.look(disks, True)
        if self.litter(extra):
            raise Mismatch(f"files are left: {self.litter(extra)}")
        if kind == "convert":
            sh(self.cwd, "qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", "out",
               os.path.join(self.master, "flat", "top"))
        elif kind == "delete" and os.path.exists(os.path.join(self.cwd, "mid")):
            raise Mismatch("mid is still there")

    def timed(self, words, delay=None):
        """Was it killed, and how long did it run?"""
        start = time.monotonic()
        killed = self.run_once(words, delay)
        return killed, time.monotonic() - start

    def usual_time(self, kind):
        """The time of three whole runs; the first of all finds nothing in memory."""
        words, disks, _ = KINDS[kind]
        times = []
        for _ in range(3):
            self.renew()
            times.append(self.timed(words)[1])
            self.look(disks, False)
        return sorted(times)[1]

    def kind(self, kind, count):
        """How many of how many runs were killed before they had ended, and in which quarters of their time."""
        words, disks, extra = KINDS[kind]
        took = self.usual_time(kind)
        quarters, tries = [0] * 4, 0
        while sum(quarters) < count and tries < 20 * count:
            self.renew()
            for again in range(self.rng.choice((1, 1, 1, 3))):
                if kind == "delete" and not os.path.exists(os.path.join(self.cwd, "mid")):
                    break
                part = self.rng.uniform(0.02, 1.0)
                killed, ran = self.timed(words, part * took)
                quarters[int(4 * part) % 4] += killed
                tries += 1
                # The machine is not always as fast. What goes on where another was killed has less to do.
                if not again and not killed:
                    took += (min(ran, took) - took) / 4
                elif not again and part > 0.9:
                    took *= 1.05
                self.look(disks, True)
                if len(self.litter(extra)) > 1:
                    raise Mismatch(f"files pile up: {self.litter(extra)}")
            if kind != "delete" or os.path.exists(os.path.join(self.cwd, "mid")):
                self.finish(kind)
        return quarters, tries


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    p.add_argument("--bin", default=lib.default_bin(), help="directory of the program qchain")
    p.add_argument("--hammer", help="not used")
    p.add_argument("--seed", type=int)
    p.add_argument("--kills", type=int, default=lib.share(8), help="of each kind, before they have ended")
    p.add_argument("--only", choices=KINDS)
    p.add_argument("--dir")
    args = p.parse_args()
    args.bin = os.path.abspath(args.bin)
    lib.need("qemu-img", "qemu-io", os.path.join(args.bin, "qchain"))
    seed = args.seed if args.seed is not None else lib.any_seed()
    print(f"kill surgery: seed {seed}", flush=True)
    root = tempfile.mkdtemp(prefix="qchain-kill-", dir=args.dir)
    total, kind = 0, "making"
    try:
        kills = Kills(args, random.Random(seed), root)
        for kind in KINDS:
            if args.only in (None, kind):
                quarters, tries = kills.kind(kind, args.kills)
                total += sum(quarters)
                print(f"  {kind}: {sum(quarters)} of {tries} were killed before they had ended, by quarters of its time "
                      f"{'+'.join(map(str, quarters))}", flush=True)
        if total == 0 and not args.only:
            raise Mismatch("none was killed before it had ended")
    except Mismatch as e:
        print(f"FAIL: {kind}: {e}\nin {root}")
        return 1
    shutil.rmtree(root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
