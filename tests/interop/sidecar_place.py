# SPDX-License-Identifier: MIT
"""A directory with chains and their sidecar indexes, and what is asked of them."""
import json
import os
import subprocess
import time

import interop_lib as lib
from interop_lib import Mismatch
from qcow2_writer import write_qcow2

UNIT = 4096
SIZE = 4 << 20
RACY_NS = 2_000_000_000


def can_trace():
    """May programs be traced here?"""
    try:
        done = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True,
                              check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


class Place:
    """One directory. Names are relative to it."""

    def __init__(self, args, directory, rng):
        os.makedirs(directory, exist_ok=True)
        self.args = args
        self.directory = directory
        self.rng = rng
        self.runner = lib.Runner(directory, env={"QCHAIN_POLICY": ""})
        self.compared = 0
        self.program = os.path.join(args.bin, "qchain")

    def path(self, name):
        return os.path.join(self.directory, name)

    def bytes(self, name):
        with open(self.path(name), "rb") as f:
            return f.read()

    def put(self, name, data):
        with open(self.path(name), "wb") as f:
            f.write(data)

    # ---- programs

    def qchain(self, verb, *argv, ok=(0,)):
        return self.runner.run([self.program, verb, *argv], ok=ok, timeout=60)

    def qemu_io(self, image, *commands, fmt="qcow2"):
        argv = ["qemu-io", "-d", "unmap", "-f", fmt]
        for command in commands:
            argv += ["-c", command]
        self.runner.run(argv + [image])

    def qemu_img(self, *argv, ok=(0,)):
        return self.runner.run(["qemu-img", *argv], ok=ok)

    def traced(self, argv):
        """The names of files that argv opened, and all that it looked at."""
        log = self.path("trace.log")
        # The leak sanitizer cannot work in a program that is traced.
        self.runner.run(["strace", "-f", "-qq", "-o", log, "-e", "trace=%file", *argv],
                        env={"ASAN_OPTIONS": "detect_leaks=0"})
        opened, looked = set(), set()
        with open(log, errors="replace") as f:
            for line in f:
                parts = line.split('"')
                # readlink: the gate finds out where a name leads to
                if len(parts) < 3 or "execve(" in parts[0] or "readlink" in parts[0]:
                    continue
                looked.add(parts[1])
                if "open" in parts[0] and "= -1 " not in parts[-1]:
                    opened.add(os.path.basename(parts[1]))
        os.unlink(log)
        return opened, looked

    # ---- images

    def clusters(self, places):
        return {p: self.rng.randbytes(UNIT) for p in places}

    def layer(self, name, i=0, backing=None, size=SIZE):
        """A layer with clusters of its own at 16 * i, and some that hide others'."""
        places = set(range(16 * i, 16 * i + 4))
        places |= {self.rng.randrange(size // UNIT) for _ in range(6)}
        places = {p for p in places if p < size // UNIT}
        write_qcow2(self.path(name), size, self.clusters(places), backing,
                    "qcow2" if backing else None)

    def chain(self, n, prefix="layer"):
        """n layers; returns their names, the top first."""
        names = [f"{prefix}{i:02}.qcow2" for i in range(n)]
        for i, name in enumerate(names):
            self.layer(name, i, names[i - 1] if i else None)
        return names[::-1]

    def age(self, *names, by=100):
        """Let files have been modified some time ago, each at a time of its own; all if none
        are named."""
        now = time.time_ns() - by * 1_000_000_000
        for name in names or sorted(os.listdir(self.directory)):
            path = self.path(name)
            if os.path.islink(path) or not os.path.isfile(path) or name.endswith(".qci"):
                continue
            now -= 1_000_003
            os.utime(path, ns=(now, now))

    # ---- sidecars

    def build(self, image, *options):
        _, out, _ = self.qchain("index", "build", *options, image)
        return out.decode()

    def show(self, image, *options):
        _, out, _ = self.qchain("index", "show", "--output=json", "--files", *options, image)
        return json.loads(out)

    def used(self, what, image, *options):
        info = self.show(image, *options)
        if not info["used"]:
            raise Mismatch(f"{what}: the sidecar is not used: {info['why-not']}")
        return info

    def unused(self, what, image, *words, options=()):
        """The sidecar must not be believed, and one of the words be in the reason."""
        status, out, err = self.qchain("index", "show", "--output=json", *options, image, ok=None)
        if status == 0 and json.loads(out)["used"]:
            raise Mismatch(f"{what}: the sidecar is used")
        text = json.loads(out)["why-not"] if status == 0 else err
        if status not in (0, 1, 2, 3) or (words and not any(w in text for w in words)):
            raise Mismatch(f"{what}: exit {status}, none of {words} in: {text}")

    def verify(self, what, image, status, *options):
        got, _, err = self.qchain("index", "verify", *options, image, ok=None)
        if got != status:
            raise Mismatch(f"{what}: verify exits {got}, wanted {status}: {err}")

    # ---- against qemu-img

    def oracle(self, image, fmt="qcow2"):
        """What qemu-img says: its map, and the name of a raw copy; None if it cannot read it."""
        raw = "oracle.raw"
        status, _, _ = self.qemu_img("convert", "-f", fmt, "-O", "raw", image, raw, ok=None)
        if status != 0:
            return None
        _, out, _ = self.qemu_img("map", "-f", fmt, "--output=json", image)
        return lib.normalise(json.loads(out)), raw

    def right(self, what, image, options=(), oracle=None, fmt="qcow2"):
        """Maps and bytes must be qemu-img's, with sidecars and without."""
        self.compared += 1
        oracle = oracle or self.oracle(image, fmt)
        for how in ((), ("--no-index",)):
            says = f"{what} {' '.join(how)}"
            argv = ["-f", fmt, *how, *options, image]
            status, _, err = self.qchain("convert", "-O", "raw", *argv, "ours.raw", ok=None)
            if oracle is None:
                if status != 1:
                    raise Mismatch(f"{says}: convert exits {status}, qemu-img fails")
                continue
            if status != 0:
                raise Mismatch(f"{says}: convert: exit {status}: {err}")
            lib.same_file(says, self.path("ours.raw"), self.path(oracle[1]))
            self.same_map(says, image, argv, fmt, oracle[0])

    def same_decoded(self, what, image, sidecar):
        """What the sidecar's bytes say must be qemu-img's map, but for holes within clusters,
        which are looked for when a map is asked for."""
        theirs = self.runner.json(["qemu-img", "map", "--output=json", image])
        for e in theirs:
            e["zero"] = e["zero"] and not e["data"]
        lib.same_extents(f"{what}: decoded", lib.normalise(sidecar.map()), lib.normalise(theirs))

    def same_map(self, says, image, argv, fmt, want):
        """Asks both again when they differ: the blocks of a file that was just written, and so
        the holes in it, change once while the system writes it back."""
        ours = self.runner.json([self.program, "map", "--output=json", *argv])
        if lib.normalise(ours) != want:
            want = self.runner.json(["qemu-img", "map", "-f", fmt, "--output=json", image])
            ours = self.runner.json([self.program, "map", "--output=json", *argv])
            lib.same_extents(says, lib.normalise(ours), lib.normalise(want))
