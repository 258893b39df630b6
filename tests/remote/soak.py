#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Several processes with many threads read chains through a network where a request in twenty fails:
no wrong byte, hardly an error, and all that was taken is given back in the end.

  soak.py [--minutes N | --seconds N] [--seed N] [--processes N] [--rate R]"""
import argparse
import json
import os
import random
import subprocess
import sys

import remote_lib as r


def parse():
    p = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    p.add_argument("--minutes", type=float, default=10)
    p.add_argument("--seconds", type=float)
    p.add_argument("--seed", type=int, default=random.randrange(1 << 31))
    p.add_argument("--processes", type=int, default=3)
    p.add_argument("--rate", type=float, default=0.05, help="of requests that fail")
    return p.parse_args()


def soak(place, args):
    program = os.path.join(r.build_dir(), "tests/remote/remote_soak")
    r.lib.need("qemu-img", "qemu-io", program)
    nginx = place.server("nginx")
    home = os.path.join(nginx["WWW"], "c")
    top = r.make_simple(home, 12, size=64 << 20, seed=args.seed)
    oracle = r.flatten(os.path.join(home, top), place.path("oracle.raw"))
    share = args.rate / 4
    proxies = [place.proxy(nginx["HTTP"], delay_ms=5, jitter_ms=3, fail_rate=share,
                           truncate_rate=share, reset_rate=share, stall_rate=share, retry_after=0,
                           seed=args.seed + i) for i in range(2)]
    os.makedirs(place.path("cache"), 0o700)
    common = "stall-timeout 2\nconnect-timeout 3\nblock-size 256K\n"
    rules = []
    for i, extra in enumerate(("", f"cache-dir {place.path('cache')}\ncache-size 24M\n",
                               f"replica {proxies[0].url}/ {proxies[1].url}/\nworkers 2\n")):
        path = place.path(f"rules{i}")
        with open(path, "w", encoding="ascii") as f:
            f.write(common + extra)
        os.chmod(path, 0o600)
        rules.append(path)
    seconds = args.seconds or args.minutes * 60
    env = dict(os.environ, QCHAIN_POLICY="", HOME=place.path("home"))
    running = []
    for i in range(args.processes):
        argv = [program, str(seconds), str(args.seed + i), rules[i % len(rules)], oracle]
        argv += [f"{p.url}/c/{top}" for p in proxies]
        running.append(subprocess.Popen(argv, env=env, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, encoding="utf-8"))
    failed = 0
    for i, p in enumerate(running):
        out, err = p.communicate(timeout=seconds + 240)
        said = json.loads(out) if out.startswith("{") else {}
        print(f"{i}: exit {p.returncode} {out.strip()}\n{err}", end="")
        if p.returncode or not said.get("reads"):
            failed = 1
        elif (said["errors"] + said["open-errors"]) * 1000 > said["reads"] + 1000:
            print(f"{i}: more than one read in a thousand fails")
            failed = 1
    faults = {k: sum(p.stats()[k] for p in proxies)
              for k in ("requests", "fail", "truncate", "reset", "stall")}
    print(faults)
    return failed or not faults["fail"]


def main():
    args = parse()
    print(f"soak: seed {args.seed}")
    place = r.Place("soak")
    try:
        sys.exit(soak(place, args))
    except r.Missing as e:
        print(f"SKIP: {e}")
        sys.exit(r.SKIP)
    finally:
        place.close()


main()
