#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""An image whose writer died with refcounts in memory (lazy_refcounts) is mended by who writes to it next."""
import argparse
import os
import shutil
import sys
import tempfile

import interop_lib as lib
from interop_lib import Mismatch

KIB = 1024


def dirty(runner, path):
    _, out, _ = runner.run(["qemu-img", "info", "-U", path])
    return b"cleanly shut down: no" in out


def make(runner, name, *options):
    """QEMU dies in the middle of its work."""
    runner.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", ",".join(("lazy_refcounts=on",) + options), name,
                "8M"])
    runner.run(["qemu-io", "-f", "qcow2", "-c", "write -P 1 0 1M", "-c", "write -P 2 3M 200k", "-c", "flush", "-c",
                "abort", name], ok=None)
    if not dirty(runner, name):
        raise Mismatch(f"{name}: QEMU left no dirty image")


def mended(runner, qchain, name):
    """Written to by us, it is clean and right, to both."""
    runner.run([qchain, "io", "-f", "qcow2", "-c", "read -P 1 0 1M", "-c", "write -P 3 5M 64k", "-c", "flush", name])
    if dirty(runner, name):
        raise Mismatch(f"{name}: is still marked dirty")
    runner.run(["qemu-img", "check", name])
    runner.run([qchain, "check", name])
    _, out, _ = runner.run(["qemu-io", "-r", "-f", "qcow2", "-c", "read -P 1 0 1M", "-c", "read -P 2 3M 200k", "-c",
                            "read -P 3 5M 64k", "-c", "read -P 0 6M 1M", name])
    if b"Pattern verification failed" in out:
        raise Mismatch(f"{name}: {out.decode()}")


def left_alone(runner, qchain, name):
    """Who only reads changes nothing."""
    with open(os.path.join(runner.cwd, name), "rb") as f:
        before = f.read()
    runner.run([qchain, "io", "-r", "-f", "qcow2", "-c", "read -P 1 0 1M", name])
    with open(os.path.join(runner.cwd, name), "rb") as f:
        if f.read() != before:
            raise Mismatch(f"{name}: reading changed it")


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--bin", default=lib.default_bin())
    p.add_argument("--hammer", help="not used")
    args = p.parse_args()
    qchain = os.path.join(os.path.abspath(args.bin), "qchain")
    lib.need("qemu-img", "qemu-io", qchain)
    directory = tempfile.mkdtemp(prefix="qchain-dirty-")
    runner = lib.Runner(directory)
    failed = 0
    try:
        for i, options in enumerate(((), ("cluster_size=4k",), ("refcount_bits=64", "cluster_size=512"),
                                     ("extended_l2=on",))):
            try:
                make(runner, f"d{i}.qcow2", *options)
                left_alone(runner, qchain, f"d{i}.qcow2")
                mended(runner, qchain, f"d{i}.qcow2")
            except Mismatch as e:
                failed += 1
                print(f"FAIL {options}: {e}")
    finally:
        shutil.rmtree(directory)
    print(f"dirty images: {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
