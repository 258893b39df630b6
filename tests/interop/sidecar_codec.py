# SPDX-License-Identifier: MIT
"""Reads and writes sidecar indexes, from their specification in lib/chain/index_file.h alone.

Decodes strictly what is right, and encodes whatever it is given, also nonsense, with the
right checksums around it.
"""
import copy
import struct

MAGIC = b"QCHAINIX"
HEADER = 160
ENTRY = 56
WINDOW = 128 << 20
DATA_FILE, RACY, HOLES, UNRECORDED, REMOTE = 1, 2, 4, 8, 16
END, SHORT, ZERO, ZERO_ALLOC, PREALLOC, DATA, COMPRESSED = range(7)
PLAIN_HOST = (ZERO_ALLOC, PREALLOC, DATA)


def make_crc_table():
    table = []
    for i in range(256):
        for _ in range(8):
            i = i >> 1 ^ (0x82F63B78 if i & 1 else 0)
        table.append(i)
    return table


CRC_TABLE = make_crc_table()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


class Wrong(Exception):
    """A file that is not as its specification says."""


def must(condition, what):
    if not condition:
        raise Wrong(what)


def put_number(v):
    out = bytearray()
    while v >= 0x80:
        out.append(v & 0x7F | 0x80)
        v >>= 7
    out.append(v)
    return bytes(out)


def put_signed(v):
    return put_number(v << 1 if v >= 0 else (-v << 1) - 1)


class Numbers:
    """Takes LEB128 numbers from bytes."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def number(self):
        v = shift = 0
        while True:
            must(self.at < len(self.data), "a number reaches past its page")
            byte = self.data[self.at]
            self.at += 1
            v |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                must(v < 1 << 64, "a number of more than 64 bits")
                return v

    def signed(self):
        v = self.number()
        return v >> 1 ^ -(v & 1)


class Sidecar:
    """Plain data: header fields, `sources` (dicts), `pages` (dicts with `runs`).

    A run is a list [guest, length, kind, source from the top or None, host, sectors].
    A page may have `raw` instead of runs: its bytes as they are.
    """

    HEADER_FIELDS = (("version", "I", 8), ("header_bytes", "I", 12), ("flags", "I", 16),
                     ("file_size", "Q", 24), ("virtual_size", "Q", 32), ("built_ns", "Q", 40),
                     ("n_layers", "I", 48), ("n_sources", "I", 52), ("table_offset", "Q", 56),
                     ("table_bytes", "I", 64), ("table_crc", "I", 68), ("dir_offset", "Q", 72),
                     ("n_pages", "I", 80), ("dir_crc", "I", 84), ("n_runs", "Q", 88),
                     ("id", "16s", 96), ("reserved", "48s", 112))
    SOURCE_FIELDS = ("layer", "flags", "size", "mtime_ns", "allocated", "virtual_size",
                     "cluster_size", "decoder", "name_bytes", "location_bytes", "format_bytes",
                     "validator_bytes")
    SOURCE = struct.Struct("<IIQQQQIIHHHH")
    PAGE_FIELDS = ("start", "offset", "bytes", "crc", "n_runs", "nothing")
    PAGE = struct.Struct("<QQIIII")

    def __init__(self, data):
        self.override = {}  # header fields that encode() is not to work out
        must(data[:8] == MAGIC, "magic")
        self.header = {}
        for name, kind, at in self.HEADER_FIELDS:
            self.header[name] = struct.unpack_from("<" + kind, data, at)[0]
        h = self.header
        crc = struct.unpack_from("<I", data, 20)[0]
        must(crc == crc32c(data[:20] + bytes(4) + data[24:HEADER]), "header's checksum")
        must(h["version"] == 1 and h["header_bytes"] == HEADER and h["flags"] == 0, "version")
        must(h["file_size"] == len(data), "file size")
        must(h["table_offset"] == HEADER, "table's place")
        must(h["dir_offset"] == HEADER + h["table_bytes"], "directory's place")
        must(not any(h["reserved"]), "reserved bytes")
        table = data[HEADER:h["dir_offset"]]
        pages_at = h["dir_offset"] + self.PAGE.size * h["n_pages"]
        must(crc32c(table) == h["table_crc"], "table's checksum")
        must(crc32c(data[h["dir_offset"]:pages_at]) == h["dir_crc"], "directory's checksum")
        self.sources = self.read_table(table)
        self.pages = self.read_pages(data, pages_at)
        must(sum(p["n_runs"] for p in self.pages) == h["n_runs"], "number of runs")

    def read_table(self, table):
        sources, at = [], 0
        for _ in range(self.header["n_sources"]):
            s = dict(zip(self.SOURCE_FIELDS, self.SOURCE.unpack_from(table, at)))
            at += ENTRY
            for part in ("name", "location", "format", "validator"):
                n = s.pop(part + "_bytes")
                s[part] = table[at:at + n]
                must(len(s[part]) == n and b"\0" not in s[part], part)
                must(n > 0 or part == "validator", part)
                at += n
            must(s["flags"] < 32, "flags of a source")
            remote = s["flags"] & REMOTE
            must(not (remote and s["flags"] & RACY), "an object that is racy")
            must(remote or not s["validator"], "a file's validator")
            must(all(b >= 32 and b != 127 for b in s["validator"]) and len(s["validator"]) < 256,
                 "a validator")
            sources.append(s)
        must(at == len(table), "the table's length")
        must(sources[-1]["layer"] == self.header["n_layers"] - 1, "layers")
        return sources

    def read_pages(self, data, at):
        pages = []
        for i in range(self.header["n_pages"]):
            p = dict(zip(self.PAGE_FIELDS,
                         self.PAGE.unpack_from(data, self.header["dir_offset"] + 32 * i)))
            must(p["start"] % WINDOW == 0 and (i > 0 or p["start"] == 0), "a page's start")
            must(p["offset"] == at, "a page's place")
            at += p["bytes"]
            pages.append(p)
        must(at == len(data), "bytes behind the pages")
        ends = [p["start"] for p in pages[1:]] + [self.header["virtual_size"]]
        for p, end in zip(pages, ends):
            raw = data[p["offset"]:p["offset"] + p["bytes"]]
            must(crc32c(raw) == p["crc"], "a page's checksum")
            p["runs"] = self.read_runs(raw, p, end)
        return pages

    def read_runs(self, raw, page, end):
        take, runs, guest, source, host_end = Numbers(raw), [], page["start"], 0, 0
        for _ in range(page["n_runs"]):
            v = take.number()
            kind, length, host, sectors = v & 7, (v >> 3) * 512, None, 0
            must(length > 0 and kind <= COMPRESSED, "a run's length or kind")
            if kind != END:
                source += take.signed()
                must(0 <= source < len(self.sources), "a run's source")
            if kind in PLAIN_HOST:
                host = (host_end // 512 + take.signed()) * 512
                host_end = host + length
            elif kind == COMPRESSED:
                host = host_end + take.signed()
                sectors = take.number()
                host_end = host // 512 * 512 + sectors * 512
            must(host is None or host >= 0, "a run's host offset")
            top = None if kind == END else len(self.sources) - 1 - source
            runs.append([guest, length, kind, top, host, sectors])
            guest += length
        must(take.at == len(raw), "bytes behind a page's runs")
        must(end <= guest < end + 512, "a page's end")
        must(page["nothing"] == int(all(r[2] in (END, SHORT) for r in runs)), "nothing")
        return runs

    # ---- writing

    def put_runs(self, runs):
        out, source, host_end = b"", 0, 0
        for _, length, kind, top, host, sectors in runs:
            out += put_number(length // 512 << 3 | kind)
            if kind != END:
                number = len(self.sources) - 1 - top
                out += put_signed(number - source)
                source = number
            if kind in PLAIN_HOST:
                out += put_signed(host // 512 - host_end // 512)
                host_end = host + length
            elif kind == COMPRESSED:
                out += put_signed(host - host_end) + put_number(sectors)
                host_end = host // 512 * 512 + sectors * 512
        return out

    def encode(self):
        """The whole file, with checksums that fit."""
        table = b""
        for s in self.sources:
            table += self.SOURCE.pack(*(s[k] for k in self.SOURCE_FIELDS[:8]), len(s["name"]),
                                      len(s["location"]), len(s["format"]),
                                      len(s["validator"]))
            table += s["name"] + s["location"] + s["format"] + s["validator"]
        at = HEADER + len(table) + self.PAGE.size * len(self.pages)
        directory = body = b""
        for p in self.pages:
            raw = p["raw"] if "raw" in p else self.put_runs(p["runs"])
            runs = p["n_runs"] if "raw" in p or "keep_n_runs" in p else len(p["runs"])
            directory += self.PAGE.pack(p["start"], p.get("place", at), len(raw), crc32c(raw),
                                        runs, p["nothing"])
            at += len(raw)
            body += raw
        h = dict(self.header, file_size=at, n_sources=len(self.sources), table_bytes=len(table),
                 table_crc=crc32c(table), dir_offset=HEADER + len(table), n_pages=len(self.pages),
                 dir_crc=crc32c(directory))
        h["n_runs"] = sum(p["n_runs"] if "raw" in p else len(p["runs"]) for p in self.pages)
        h.update(self.override)
        head = bytearray(HEADER)
        head[:8] = MAGIC
        for name, kind, place in self.HEADER_FIELDS:
            struct.pack_into("<" + kind, head, place, h[name])
        struct.pack_into("<I", head, 20, crc32c(head))
        return bytes(head) + table + directory + body

    def copy(self):
        return copy.deepcopy(self)

    # ---- what it means

    def runs(self):
        """All runs, neighbours that are one stretch joined."""
        joined = []
        for r in (r for p in self.pages for r in p["runs"]):
            last = joined[-1] if joined else None
            if last and last[2:4] == r[2:4] and r[2] != COMPRESSED and \
                    (r[4] is None or last[4] + last[1] == r[4]):
                last[1] += r[1]
            else:
                joined.append(list(r))
        return joined

    def map(self):
        """As qemu-img map prints it, where no holes are looked for."""
        extents = []
        for guest, length, kind, source, host, _ in self.runs():
            depth = self.sources[-1 if source is None else source]["layer"]
            e = {"start": guest, "length": length, "depth": depth,
                 "present": kind not in (END, SHORT, PREALLOC),
                 "zero": kind not in (DATA, COMPRESSED), "data": kind in (DATA, COMPRESSED)}
            if kind in PLAIN_HOST:
                e["offset"] = host
            extents.append(e)
        return extents


def blank(data):
    """The file without what every build makes anew: time, random bytes, their checksum."""
    return data[:20] + bytes(4) + data[24:40] + bytes(8) + data[48:96] + bytes(16) + data[112:]
