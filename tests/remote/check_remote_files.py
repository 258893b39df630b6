#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Images good and bad, those of tests/files, served over HTTP: what tests/files/check-files.py
expects of files it must find of URLs. Only holes in files are not seen from afar; so files without
holes are what is compared with."""
import os
import re
import shutil
import subprocess
import sys

import remote_lib as r
from remote_lib import Mismatch

CHECK = os.path.join(r.HERE, "../files/check-files.py")

# Gives the real program a URL for each argument that names a file.
WRAPPER = """#!{python}
import os, sys, urllib.parse
argv = [{base!r} + urllib.parse.quote(a, safe="-._~/") if os.path.isfile(a) else a
        for a in sys.argv[1:]]
env = dict(os.environ, QCHAIN_POLICY="", QCHAIN_REMOTE="")
os.execve({program!r}, [{program!r}, argv[0], "--remote", "deadline 10"] + argv[1:], env)
"""


def wrong_of(program, directory):
    """Names of images that are not as expected, and all that was said."""
    done = subprocess.run([sys.executable, CHECK, program, directory], capture_output=True,
                          encoding="utf-8", errors="replace", check=False)
    if not re.search(r"^\d+ images, \d+ wrong", done.stdout, re.M):
        raise Mismatch(f"check-files.py: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    said = {}
    for line in done.stdout.splitlines()[:-1]:
        said.setdefault(line.split(": ")[0], []).append(line)
    return said, done.stdout.splitlines()[-1]


def files(place, made):
    www, tools = made
    base = f"http://127.0.0.1:{place.port}/files/"
    wrapper = place.path("qchain-by-url")
    with open(wrapper, "w", encoding="utf-8") as f:
        f.write(WRAPPER.format(python=sys.executable, base=base, program=tools.program))
    os.chmod(wrapper, 0o755)
    directory = os.path.join(www, "files")
    known, _ = wrong_of(tools.program, directory)
    found, total = wrong_of(wrapper, directory)
    new = [line for name, lines in found.items() if name not in known for line in lines]
    if new:
        raise Mismatch(f"{len(new)} other answers than of files:\n" + "\n".join(new[:40]))
    return f"{total}; {len(known)} differ without holes already"


def prepare(place):
    source = os.environ.get("QC_FILES") or os.path.join(r.build_dir(), "tests/files")
    if not os.path.exists(os.path.join(source, "expect.tsv")):
        raise r.Missing("there are no images (make check-remote makes them)")
    nginx = place.server("nginx")
    place.port = nginx["HTTP"]
    directory = os.path.join(nginx["WWW"], "files")
    os.makedirs(directory)
    for name in os.listdir(source):
        path = os.path.join(source, name)
        if os.path.isdir(path):
            shutil.copytree(path, os.path.join(directory, name))
        elif os.stat(path).st_blocks < os.path.getsize(path) // 512 and \
                os.path.getsize(path) > 64 << 20:
            # Too large to be filled; nothing is lost if its holes are not data.
            subprocess.run(["cp", "--sparse=always", "--", path, directory], check=True)
        else:
            subprocess.run(["cp", "--sparse=never", "--", path, directory], check=True)
    return nginx["WWW"], place.tools()


r.main("check_remote_files", [files], prepare)
