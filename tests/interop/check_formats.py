#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Files that the tools make, read as qchain-format(5) says: where a field lies is taken from the page's own tables, and
the rest is written from its text. So what the page says is what is there."""
import argparse
import hashlib
import os
import random
import re
import shutil
import sys
import tempfile
import time

import interop_lib as lib
from interop_lib import Mismatch
from range_server import etag, serving
from sidecar_codec import Sidecar, crc32c

PAGE = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                     "../../examples/tools/man/qchain-format.5"))
MIB = 1 << 20
GRAIN = 4096
MASK = (1 << 64) - 1


def must(condition, what):
    if not condition:
        raise Mismatch(what)


class Page:
    """The tables of the page: {heading: [[(offset, bytes or None, is it an integer, text)]]}."""

    def __init__(self):
        self.tables, heading = {}, ""
        with open(PAGE, encoding="utf-8") as f:
            text = f.read().replace("\\-", "-")
        for part in re.split(r"^\.S[HS] ", text, flags=re.M)[1:]:
            heading, body = part.split("\n", 1)
            for table in body.split(".fi\n"):
                rows = [(int(at), int(u) // 8 if u else int(n) if n else None, bool(u), " ".join(said.split()))
                        for at, u, n, said in re.findall(
                            r"^ *(\d+)(?:   u(\d+)|   (\d+) bytes| {10,})\s+(\S.*(?:\n {10,}\S.*)*)", table, re.M)]
                if rows:
                    self.tables.setdefault(heading.split(",")[0], []).append(rows)

    def take(self, data, heading, at=0, order="little", which=0):
        """The fields of one table in their order, as numbers, or bytes where they are no integers."""
        found, end = [], 0
        for offset, size, integer, said in self.tables[heading][which]:
            must(offset == end, f"{heading}: a gap before {said}")
            if size is None:
                break
            raw = data[at + offset:at + offset + size]
            found.append(int.from_bytes(raw, order) if integer else raw)
            end = offset + size
        return found, end


class Numbers:
    def __init__(self, data, at=0):
        self.data, self.at = data, at

    def number(self):
        value, shift = 0, 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def signed(self):
        v = self.number()
        return -(v + 1) // 2 if v & 1 else v // 2


def contents(runner, name):
    with open(os.path.join(runner.cwd, name), "rb") as f:
        return f.read()


# ------------------------------------------------------------------ sidecar ---

def page_runs(take, count, disk_at, sources):
    """The runs of a page, by the text: [start, length, kind, source from the top or None, place, sectors]."""
    runs, source, ended = [], 0, 0
    for _ in range(count):
        v = take.number()
        kind, length, place, sectors = v % 8, v // 8 * 512, None, 0
        if kind != 0:
            source += take.signed()
        if kind in (3, 4, 5):
            place = (take.signed() + ended // 512) * 512
            ended = place + length
        elif kind == 6:
            place = take.signed() + ended
            sectors = take.number()
            ended = place // 512 * 512 + sectors * 512
        runs.append([disk_at, length, kind, sources - 1 - source if kind else None, place, sectors])
        disk_at += length
    return runs


def check_sidecar(runner, page, tool):
    runner.run([tool, "index", "build", "top.qcow2"])
    shown = runner.json([tool, "index", "show", "--output=json", "top.qcow2"])
    data = contents(runner, "top.qcow2.qci")
    head, end = page.take(data, "Header")
    (magic, version, head_bytes, flags, crc, size, disk, built, layers, sources, table_at, table_bytes, table_crc,
     dir_at, pages, dir_crc, n_runs, _, reserved) = head
    must((magic, version, head_bytes, flags, reserved) == (b"QCHAINIX", 1, end, 0, bytes(48)), f"header: {head}")
    must(crc == crc32c(data[:20] + bytes(4) + data[24:end]), "header's checksum")
    must((size, disk, layers, sources, n_runs, pages, built // 10**9) ==
         (len(data), shown["virtual-size"], shown["layers"], shown["file-count"], shown["runs"], shown["pages"],
          shown["built-sec"]), f"header: {head}, shown: {shown}")
    must(table_crc == crc32c(data[table_at:table_at + table_bytes]) and table_at == end, "the table")
    must(dir_crc == crc32c(data[dir_at:dir_at + 32 * pages]) and dir_at == end + table_bytes, "the directory")
    at, names = table_at, []
    for _ in range(sources):
        fields, end = page.take(data, "Table", at)
        texts, at = [], at + end
        for n in fields[8:12]:
            texts.append(data[at:at + n].decode())
            at += n
        st = os.stat(texts[1])
        must(fields[2:4] == [st.st_size, st.st_mtime_ns], f"a source: {fields}, {texts}")
        must(fields[4] == st.st_blocks * 512, f"a source: {fields}, {texts}")
        names.append(texts)
    must(at == dir_at, "the table's end")
    must([t[0] for t in names] == ["top.qcow2", "middle.qcow2", "base.raw"] and
         [t[2:] for t in names] == [["qcow2", ""], ["qcow2", ""], ["raw", ""]], f"sources: {names}")
    runs = []
    for i in range(pages):
        (start, at, size, crc, count, nothing), _ = page.take(data, "Directory", dir_at + 32 * i)
        must(crc == crc32c(data[at:at + size]), "a page's checksum")
        take = Numbers(data[at:at + size])
        here = page_runs(take, count, start, sources)
        must(take.at == size and nothing == all(r[2] < 2 for r in here), f"page {i}")
        runs += here
    codec = Sidecar(data)
    must(runs == [r for p in codec.pages for r in p["runs"]], "runs, as sidecar_codec.py reads them")
    must({r[2] for r in runs} == {1, 2, 5, 6}, f"kinds: {sorted({r[2] for r in runs})}")
    lib.same_extents("sidecar", lib.normalise(codec.map()),
                     lib.normalise(runner.json(["qemu-img", "map", "--output=json", "top.qcow2"])))


# -------------------------------------------------------------------- trace ---

def check_trace(runner, page, tool):
    rng = random.Random(5)
    reads = [(rng.randrange(30 * MIB) // 512 * 512, 512 * rng.randrange(1, 20)) for _ in range(60)]
    script = [x for offset, length in reads for x in ("-c", f"read {offset} {length}")]
    runner.run([tool, "io", "--record", "t.qctrace", *script, "top.qcow2"])
    shown = runner.json([tool, "trace", "show", "--output=json", "t.qctrace"])
    summed = runner.json([tool, "trace", "stat", "--output=json", "t.qctrace"])
    data = contents(runner, "t.qctrace")
    # Two headings of the page are called so; the trace's is the second.
    (magic, version, head_bytes, crc, part, disk, began, _, reserved), at = page.take(data, "Header", 0, "big", 1)
    must((magic, version, head_bytes, part, reserved) == (b"QCHAINTR", 1, at, 0, bytes(8)), "trace: header")
    must(crc == crc32c(data[:16] + bytes(4) + data[20:at]), "trace: the header's checksum")
    must((disk, began) == (summed["virtual-size"], summed["began-ns"]), "trace: disk or time")
    records = []
    while at < len(data):
        (tag, crc, size, count, base, lost), end = page.take(data, "Blocks", at, "big")
        block = data[at:at + end + size]
        must(tag == 0x5154424b, f"trace: block {tag}")
        must(crc == crc32c(block[:4] + bytes(4) + block[8:]) and lost == 0, "trace: a block's checksum")
        take, at_us, offset = Numbers(block, end), base, 0
        for _ in range(count):
            at_us += take.number()
            offset += take.signed()
            length = take.number()
            records.append({"time-us": at_us, "offset": offset, "length": length, "reads": take.number() + 1})
            offset += length
        at += len(block)
    must(records == shown and len(records) > 30, f"trace: {len(records)} records, {len(shown)} shown")


# --------------------------------------------------------------- disk cache ---

def frame_grains(page, data, digest, size):
    """{grain: bytes} of what is there and right."""
    tag, found = int.from_bytes(digest[:8], "little"), {}
    for n in range(-(-size // GRAIN)):
        frame = n // 512
        grains = frame * 4 * MIB + 2 * MIB
        (crc, mark), _ = page.take(data, "Data files", grains - 2 * GRAIN + n % 512 * 8, which=1)
        h = ((tag ^ n) * 0x9e3779b97f4a7c15) & MASK
        h ^= h >> 32
        if mark == ((h * 0xd6e8feb86659fd93) & MASK) >> 32 | 1:
            grain = data[grains + n % 512 * GRAIN:][:GRAIN].ljust(GRAIN, b"\0")
            must(crc == crc32c(grain), f"the checksum of grain {n}")
            found[n] = grain
            (used, filled), _ = page.take(data, "Data files", grains - GRAIN, which=2)
            must(abs(used - time.time()) < 600 and abs(filled - time.time()) < 600, "a frame's notes")
    return found


def check_cache(runner, page, tool):
    with serving(runner.cwd) as (url, _):
        url += "alone.qcow2"
        runner.run([tool, "read", "--no-index", "--cache-dir", "cache", url, "read.raw"],
                   env={"QCHAIN_REMOTE": "", "NO_PROXY": "*"})
    must(contents(runner, "read.raw") == contents(runner, "alone.raw"), "what was read")
    told = runner.json([tool, "cache", "verify", "--output=json", "cache"])
    served = contents(runner, "alone.qcow2")
    its_etag = etag(served).encode()
    names = sorted(os.listdir(os.path.join(runner.cwd, "cache", "v1")))
    kinds = {n.rsplit(".", 1)[-1]: n for n in names}
    must({"data", "name"} <= set(kinds) and all(re.fullmatch(r"[0-9a-f]{64}\.(data|name)|lock", n) for n in names),
         f"names: {names}")

    data = contents(runner, f"cache/v1/{kinds['data']}")
    (magic, version, crc, digest, size, mtime, tag, generation, n_url), end = page.take(data, "Data files")
    must(magic == b"qchain-d" and version == 1 and digest.hex() + ".data" == kinds["data"], "the header")
    must(crc == crc32c(data[:12] + bytes(4) + data[16:GRAIN]), "the header's checksum")
    must((size, mtime, tag, generation) == (len(served), 0, its_etag.ljust(128, b"\0"), bytes(128)), "the header's object")
    must(data[end:end + n_url] == url.encode() and n_url == len(url), f"the header's URL: {data[end:end + n_url]}")
    want = hashlib.sha256(b"object 1\0" + url.encode() + b"\0\0" + size.to_bytes(8, "little") +
                          mtime.to_bytes(8, "little") + its_etag + b"\0\0").digest()
    must(want == digest, "the digest of an object")
    grains = frame_grains(page, data, digest, size)
    for n, grain in grains.items():
        must(grain == served[n * GRAIN:(n + 1) * GRAIN].ljust(GRAIN, b"\0"), f"grain {n}")
    must(len(grains) == told["checked"] and len(grains) > 600, f"{len(grains)} grains, told: {told}")

    data = contents(runner, f"cache/v1/{kinds['name']}")
    (magic, version, crc, digest, noted, size, mtime, tag, generation), end = page.take(data, "Name files")
    must(magic == b"qchain-n" and version == 1 and digest.hex() + ".name" == kinds["name"], "a name's header")
    must(end == len(data) and crc == crc32c(data[16:]), "a name's length or checksum")
    must((size, mtime, tag, generation) == (len(served), 0, its_etag.ljust(128, b"\0"), bytes(128)), "a name's object")
    must(hashlib.sha256(b"name 1\0" + url.encode() + b"\0\0").digest() == digest, "the digest of a name")


def make_images(runner):
    rng = random.Random(3)
    with open(os.path.join(runner.cwd, "base.raw"), "wb") as f:
        f.write(rng.randbytes(20 * MIB))  # without holes, which no index has
    runner.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "middle.qcow2", "300M"])
    runner.run(["qemu-io", "-c", "write -P 7 1M 300k", "-c", "write -c -P 5 8M 128k", "-c", "write -z 2M 64k",
                "middle.qcow2"])
    runner.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", "middle.qcow2", "-F", "qcow2", "top.qcow2", "400M"])
    runner.run(["qemu-io", "-c", "write -P 9 270M 128k", "-c", "write -c -P 1 30M 64k", "top.qcow2"])
    with open(os.path.join(runner.cwd, "alone.raw"), "wb") as f:
        f.write(rng.randbytes(2 * MIB + 700 * 1024))
    runner.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "alone.raw", "alone.qcow2"])


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--bin", default=lib.default_bin())
    p.add_argument("--hammer", help="not used")
    args = p.parse_args()
    tool = os.path.join(os.path.abspath(args.bin), "qchain")
    lib.need("qemu-img", "qemu-io", tool)
    directory = tempfile.mkdtemp(prefix="qchain-formats-")
    runner = lib.Runner(directory)
    page, failed = Page(), 0
    checks = (check_sidecar, check_trace, check_cache)
    try:
        make_images(runner)
        for check in checks:
            try:
                check(runner, page, tool)
            except Mismatch as e:
                failed += 1
                print(f"FAIL {check.__name__}: {e}")
    finally:
        shutil.rmtree(directory)
    print(f"formats: {len(checks)} checks, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
