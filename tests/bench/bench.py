#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Measure libqchain against qemu-img and against the limits of the machine.

Makes its own disks at the first run (make_chain.py, about 22 GB; --quick needs 2 GB), measures
every bar of bench_bars.py and of the bars_*.py in turn with its peer, and writes results.json,
results.md and chart.svg into --out. Needs qemu-img, qemu-io and strace; some rows also fio, those
of layers behind URLs nginx, curl and QEMU's curl driver (make deps-remote), those of a guest
qemu-system-x86, and Debian's packages within reach, those of NBD nbdkit, libnbd-bin and libnbd-dev.
Nothing else should run on the machine meanwhile.
Sidecar indexes beside the tops of the disks are removed.
"""

import argparse
import json
import os
import shutil
import sys
import time

sys.dont_write_bytecode = True

import bars_fuse  # noqa: E402
import bars_guest  # noqa: E402
import bars_nbd  # noqa: E402
import bars_prefetch  # noqa: E402
import bars_python  # noqa: E402
import bars_queue  # noqa: E402
import bars_remote  # noqa: E402
import bars_sidecar  # noqa: E402
import bars_surgery  # noqa: E402
import bars_write  # noqa: E402
import bench_bars  # noqa: E402
from bench_measure import Failed, Measure, machine  # noqa: E402
import bench_report  # noqa: E402
import make_chain  # noqa: E402
from interop_lib import Mismatch  # noqa: E402 of ../interop, which bars_remote looks into

BARS = {**bench_bars.BARS, **bars_sidecar.BARS, **bars_queue.BARS,
        **bars_remote.BARS, **bars_prefetch.BARS, **bars_write.BARS, **bars_surgery.BARS, **bars_fuse.BARS,
        **bars_guest.BARS, **bars_python.BARS, **bars_nbd.BARS}

QUICK_SCALE = 0.0625


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", default="build/bin", help="where qchain-map and qchain-read are")
    parser.add_argument("--out", default="build/bench", help="where results go (build/bench)")
    parser.add_argument("--progs", help="where the programs of tests/bench are (OUT/bin)")
    parser.add_argument("--bin-nodeflate", action="append", default=[], metavar="DIR",
                        help="a directory with a bench_seq whose library has no libdeflate, to "
                        "measure both; its programs as `make NO_LIBDEFLATE=1 BUILD=...` builds them")
    parser.add_argument("--data", help="where the disks are kept (OUT/data)")
    parser.add_argument("--runs", type=int, default=5, help="of which the median counts (5)")
    parser.add_argument("--scale", type=float, default=1.0, help="of the disks' data (1)")
    parser.add_argument("--quick", action="store_true",
                        help="small disks and one run: to see that all works")
    parser.add_argument("--only", action="append", choices=list(BARS), metavar="NAME",
                        help="measure this bar, keep the results of the others: " +
                        ", ".join(BARS))
    parser.add_argument("--check", action="store_true", help="exit 1 if a bar is not reached")
    args = parser.parse_args()
    if args.quick:
        args.scale, args.runs = QUICK_SCALE, 1
    args.progs = args.progs or os.path.join(args.out, "bin")
    args.data = args.data or os.path.join(args.out, "data" if args.scale == 1 else "data-scaled")
    return args


def earlier(args):
    """The bars of the last run that a run of only some bars keeps."""
    if not args.only:
        return {}
    try:
        with open(os.path.join(args.out, "results.json"), encoding="utf-8") as f:
            found = json.load(f)
        return found["bars"] if found["scale"] == args.scale else {}
    except (OSError, ValueError, KeyError):
        return {}


def measure(args, m):
    bars = earlier(args)
    results = {"machine": machine(), "runs": args.runs, "scale": args.scale}
    for name, function in BARS.items():
        if args.only and name not in args.only:
            continue
        print("%s ..." % name, flush=True)
        begin = time.monotonic()
        try:
            bar = function(m, lambda d: bars_sidecar.clean(make_chain.make(args.data, d,
                                                                           args.scale)))
            found = {"rows": bar.rows, "chart": bar.chart, "raw": bar.raw}
        except (Failed, Mismatch) as e:
            found = {"rows": [], "chart": [], "error": str(e)}
        bars[name] = found
        results["bars"] = {n: bars[n] for n in BARS if n in bars}
        print(bench_report.table({"bars": {name: found}}).split("\n", 2)[2], end="")
        print("  (%.0f s)" % (time.monotonic() - begin), flush=True)
        bench_report.save(results, args.out)
    return results


def main():
    args = parse()
    missing = [p for p in ("qemu-img", "qemu-io", "strace") if not shutil.which(p)]
    missing += [p for p in (os.path.join(args.bin, "qchain-map"),
                            os.path.join(args.progs, "run_timed")) if not os.path.exists(p)]
    if missing:
        sys.exit("bench: not found: " + ", ".join(missing))
    os.makedirs(args.out, exist_ok=True)
    m = Measure(args.bin, args.progs, args.bin_nodeflate, args.runs)
    m.quick, m.data, m.scale = args.quick, args.data, args.scale
    try:
        results = measure(args, m)
    finally:
        shutil.rmtree(m.scratch, ignore_errors=True)
    failed = sum(row["pass"] is False for row in bench_report.all_rows(results))
    print("%s: %d rows below the bar" % (os.path.join(args.out, "results.md"), failed))
    if args.check and failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
