#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Each program's page, its help and its code name the same options, and qchain(1) says of all verbs what they say. Pages
are read as a reader sees them, after groff; code by its tables for getopt_long."""
import argparse
import os
import re
import subprocess
import sys

import interop_lib as lib

ROOT = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))
TOOLS = os.path.join(ROOT, "examples", "tools")
OPTION = re.compile(r"(?<![\w\-=/.])(--?[A-Za-z][A-Za-z0-9-]*)")
ENTRY = re.compile(r'\{"([a-z][a-z0-9-]*)", (?:no|required|optional)_argument')


def page_of(name):
    argv = ["groff", "-man", "-Tascii", "-P-cbou", "-rLL=500n", "-rHY=0", os.path.join(TOOLS, "man", name + ".1")]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def described(page):
    """Options that a page has a place for: what stands where its terms do in OPTIONS, but for those that are known for the
    sake of qemu-img's users alone."""
    section = re.search(r"^OPTIONS\n(.*?)^[A-Z]", page, re.S | re.M)
    terms = re.findall(r"^ {7}(-.*)\n(.*)$", section[1], re.M) if section else []
    meant = [re.sub(r"  .*", "", term) for term, text in terms if "without effect" not in (term + text).lower()]
    return {o for term in meant for o in OPTION.findall(term)}


def accepted(name):
    """Long options of a program's own tables."""
    files = ["fuse_main.c"] if name == "qchain-fuse" else [f"cmd_{name[7:].replace('-', '_')}.c"]
    found = set()
    for f in files:
        with open(os.path.join(TOOLS, f), encoding="utf-8") as source:
            found |= {"--" + o for o in ENTRY.findall(source.read())}
    return found


def named(page):
    """What the NAME line of a page says."""
    return re.search(r"^NAME\n +\S+ - (.*)$", page, re.M)[1]


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--bin", default=lib.default_bin())
    p.add_argument("--hammer", help="not used")
    args = p.parse_args()
    lib.need("groff", os.path.join(args.bin, "qchain"))
    top = page_of("qchain")
    common = described(top)
    names = sorted(n[:-2] for n in os.listdir(os.path.join(TOOLS, "man")) if n.endswith(".1") and n != "qchain.1")
    bad = []
    for name in names:
        page = page_of(name)
        if f"{name}(1)" not in top:
            bad.append(f"qchain(1) does not name {name}(1)")
        elif not re.search(rf"^ +{name}\(1\)\n? +{re.escape(named(page))}\.$", top, re.M | re.I):
            bad.append(f"qchain(1) does not say of {name}(1) what its NAME line does: {named(page)}")
        program = os.path.join(args.bin, name)
        if not os.path.exists(program):
            continue  # qchain-fuse, without libfuse
        done = subprocess.run([program, "--help"], capture_output=True, text=True, check=False)
        help_text = set(OPTION.findall(done.stdout + done.stderr))
        said = set(OPTION.findall(page))
        bad += [f"{name} --help has {o}, and {name}(1) has not" for o in sorted(help_text - said - common)]
        bad += [f"{name}(1) has {o}, and --help has not" for o in sorted(described(page) - help_text - common)]
        bad += [f"{name} takes {o}, and {name}(1) does not say so" for o in sorted(accepted(name) - said - common)]
    print("\n".join(bad + [f"help: {len(names)} pages, {len(bad)} faults"]))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
