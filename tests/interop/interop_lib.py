# SPDX-License-Identifier: MIT
"""What the interop tests share: running programs, maps, sparse files, digests."""
import hashlib
import json
import os
import random
import shlex
import shutil
import subprocess
import sys
import time

SKIP = 77
BLOCK = 65536
FANOUT = 1024
ZERO_BLOCK_DIGEST = hashlib.sha256(bytes(BLOCK)).digest()


def any_seed():
    """Where random tries begin that nobody gave a seed: anywhere, or as QC_FIRST_SEED says (CI, so that a run can be
    repeated)."""
    given = os.environ.get("QC_FIRST_SEED")
    return int(given) if given else random.SystemRandom().randrange(1 << 31)


def share(n):
    """The part of n random tries that are made under a slow checker (QC_SHORT says how slow)."""
    return max(1, n // max(1, int(os.environ.get("QC_SHORT") or 1)))


def switches(process, waiting):
    """How often the threads of a process have stopped running until now; None if one of them runs, or would if it had a
    processor. waiting: the states of threads that do not."""
    count = 0
    for task in os.listdir(f"/proc/{process.pid}/task"):
        with open(f"/proc/{process.pid}/task/{task}/status", encoding="ascii", errors="replace") as f:
            said = dict(line.split(":", 1) for line in f if ":" in line)
        if said["State"].split()[0] not in waiting:
            return None
        count += int(said.get("voluntary_ctxt_switches", 0)) + int(said.get("nonvoluntary_ctxt_switches", 0))
    return count


def wait_until_quiet(process, seconds=0.05, waiting="SZX"):
    """Until it waits for somebody else, and has for so long: on a slow machine it may not have had its turn before."""
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        try:
            before = switches(process, waiting)
            time.sleep(seconds)
            if before is not None and before == switches(process, waiting):
                return
        except OSError:     # a thread has ended meanwhile
            time.sleep(0.001)
    raise Mismatch(f"{process.args} does not come to wait: {process.poll()}")


class Mismatch(Exception):
    """A check that did not hold; the message says what and where."""


def need(*programs):
    """Leave with the code for a skipped test when a program is missing."""
    for program in programs:
        if not os.path.exists(program) and shutil.which(program) is None:
            print(f"SKIP: {program} is not installed")
            sys.exit(SKIP)


class Runner:
    """Runs programs in one directory and remembers them as a shell script."""

    def __init__(self, cwd, env=None):
        self.cwd = cwd
        self.script = [f"cd {shlex.quote(cwd)}"]
        self.env = dict(os.environ, LC_ALL="C.UTF-8", **(env or {}))

    def run(self, argv, stdin=None, ok=(0,), timeout=120, env=None):
        """Run argv; returns (status, stdout, stderr). ok=None accepts any status."""
        prefix = "".join(f"{k}={shlex.quote(v)} " for k, v in (env or {}).items())
        line = prefix + " ".join(shlex.quote(a) for a in argv)
        if stdin is not None:
            line += " <<'END'\n" + stdin + "END"
        self.script.append(line)
        try:
            done = subprocess.run(argv, cwd=self.cwd, env=dict(self.env, **(env or {})),
                                  input=None if stdin is None else stdin.encode(),
                                  stdin=subprocess.DEVNULL if stdin is None else None,
                                  capture_output=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired:
            raise Mismatch(f"no end after {timeout} s: {line}") from None
        out = done.stdout
        err = done.stderr.decode(errors="replace")
        if ok is not None and done.returncode not in ok:
            text = out[:2000].decode(errors="replace") + err
            raise Mismatch(f"exit {done.returncode}: {line}\n{text.strip()}")
        return done.returncode, out, err

    def json(self, argv, **kw):
        """Run argv and parse what it prints as JSON."""
        _, out, _ = self.run(argv, **kw)
        try:
            return json.loads(out)
        except ValueError as e:
            raise Mismatch(f"not JSON ({e}): {' '.join(argv)}\n{out[:500]!r}") from None


# ---------------------------------------------------------------- maps ---

MAP_KEYS = ("depth", "present", "zero", "data")


def normalise(extents):
    """Merge neighbours that say the same; keeps only what qemu-img 7.2 prints."""
    merged = []
    for e in extents:
        if e["length"] == 0:
            continue
        if merged:
            last = merged[-1]
            same = all(last[k] == e[k] for k in MAP_KEYS)
            if last["start"] + last["length"] != e["start"]:
                raise Mismatch(f"map: a gap or an overlap at {e['start']}: {last} then {e}")
            if "offset" in last and "offset" in e:
                same = same and last["offset"] + last["length"] == e["offset"]
            else:
                same = same and ("offset" in last) == ("offset" in e)
            if same:
                last["length"] += e["length"]
                continue
        merged.append({k: e[k] for k in ("start", "length", "offset") + MAP_KEYS if k in e})
    return merged


def same_extents(what, ours, theirs):
    """Both already normalised; raises with the first difference."""
    for i, (a, b) in enumerate(zip(ours, theirs)):
        if a != b:
            raise Mismatch(f"{what}: extent {i} differs\n  qchain   {a}\n  qemu-img {b}")
    if len(ours) != len(theirs):
        i = min(len(ours), len(theirs))
        more = ours[i] if len(ours) > i else theirs[i]
        raise Mismatch(f"{what}: {len(ours)} extents, qemu-img has {len(theirs)}; "
                       f"first unmatched {more}")


# -------------------------------------------------------- sparse files ---

def data_ranges(fd, size):
    """Stretches of a file that may hold bytes, in whole 64 KiB blocks."""
    ranges = []
    pos = 0
    while pos < size:
        try:
            start = os.lseek(fd, pos, os.SEEK_DATA)
        except OSError:
            break
        pos = os.lseek(fd, start, os.SEEK_HOLE)
        ranges.append((start // BLOCK * BLOCK, min(size, -(-pos // BLOCK) * BLOCK)))
    return ranges


def union(ranges):
    """Sort and join stretches that touch."""
    joined = []
    for start, end in sorted(ranges):
        if joined and start <= joined[-1][1]:
            joined[-1][1] = max(joined[-1][1], end)
        else:
            joined.append([start, end])
    return joined


def first_difference(a, b):
    for i, (x, y) in enumerate(zip(a, b)):
        if x != y:
            return i
    return min(len(a), len(b))


def same_file(what, ours, oracle):
    """Compare two files; reads only where one of them holds bytes."""
    with open(ours, "rb") as f, open(oracle, "rb") as g:
        size, want = os.fstat(f.fileno()).st_size, os.fstat(g.fileno()).st_size
        if size != want:
            raise Mismatch(f"{what}: {size} bytes, the oracle has {want}")
        ranges = data_ranges(f.fileno(), size) + data_ranges(g.fileno(), size)
        for start, end in union(ranges):
            for pos in range(start, end, 1 << 20):
                n = min(1 << 20, end - pos)
                a, b = os.pread(f.fileno(), n, pos), os.pread(g.fileno(), n, pos)
                if a != b:
                    i = first_difference(a, b)
                    raise Mismatch(f"{what}: byte {pos + i} differs: {a[i:i + 8].hex()}, "
                                   f"the oracle has {b[i:i + 8].hex()}")


def same_bytes(what, got, want, offset):
    if got != want:
        i = first_difference(got, want)
        raise Mismatch(f"{what}: {len(got)} bytes for {len(want)}, first difference at "
                       f"{offset + i}: {got[i:i + 8].hex()}, the oracle has "
                       f"{want[i:i + 8].hex()}")


def digest(path):
    """The digest that qchain_checksum documents: the root of a tree."""
    with open(path, "rb") as f:
        size = os.fstat(f.fileno()).st_size
        level = [ZERO_BLOCK_DIGEST] * max(1, -(-size // BLOCK))
        for start, end in union(data_ranges(f.fileno(), size)):
            for pos in range(start, end, BLOCK):
                block = os.pread(f.fileno(), BLOCK, pos)
                level[pos // BLOCK] = hashlib.sha256(block.ljust(BLOCK, b"\0")).digest()
    zero = ZERO_BLOCK_DIGEST
    while len(level) > 1:
        level += [zero] * (-len(level) % FANOUT)
        level = [hashlib.sha256(b"".join(level[i:i + FANOUT])).digest()
                 for i in range(0, len(level), FANOUT)]
        zero = hashlib.sha256(zero * FANOUT).digest()
    return hashlib.sha256(level[0] + size.to_bytes(8, "little")).hexdigest()


def build_dir():
    here = os.path.dirname(os.path.abspath(__file__))
    return os.environ.get("QC_BUILD") or os.path.normpath(os.path.join(here, "../../build"))


def default_bin():
    return os.environ.get("QC_BIN") or os.path.join(build_dir(), "bin")


def default_hammer():
    return os.path.join(build_dir(), "tests", "interop", "hammer")
