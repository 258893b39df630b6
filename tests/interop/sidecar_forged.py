# SPDX-License-Identifier: MIT
"""Damaged sidecars, and forged ones with the right checksums: refused or rebuilt; never wrong
bytes, never a crash."""
import os

import interop_lib as lib
import sidecar_codec as codec
from interop_lib import Mismatch
from sidecar_place import SIZE, Place, can_trace

MAX32, MAX64 = (1 << 32) - 1, (1 << 64) - 1


def small(args, directory, rng, n=3):
    place = Place(args, directory, rng)
    names = place.chain(n, "s")
    place.age()
    place.build(names[0])
    place.used("as built", names[0])
    return place, names, names[0] + ".qci"


def map_of(what, place, image, *options):
    """The map's text, or None after a failure; a signal is a crash."""
    status, out, err = place.qchain("map", "--output=json", *options, image, ok=None)
    if status not in (0, 1):
        raise Mismatch(f"{what}: exit {status}: {err}")
    return out if status == 0 else None


def content_or_failure(what, place, image, raw):
    """The content must be right, or not be there."""
    status, _, err = place.qchain("convert", "-O", "raw", image, "ours.raw", ok=None)
    if status not in (0, 1):
        raise Mismatch(f"{what}: exit {status}: {err}")
    if status == 0:
        lib.same_file(what, place.path("ours.raw"), place.path(raw))
    return status == 0


def check_damaged(args, directory, rng):
    """Cut off at many places, and with each byte changed in turn."""
    place, names, sidecar = small(args, directory, rng)
    good = place.bytes(sidecar)
    if len(good) > 2048:
        raise Mismatch(f"a sidecar of 3 small layers has {len(good)} bytes")
    truth = map_of("the truth", place, names[0], "--no-index")
    oracle = place.oracle(names[0])
    places = {0, 1, 159, 160, 161, len(good) - 1, len(good) // 2}
    places |= {rng.randrange(len(good)) for _ in range(15)}
    for n in sorted(places):
        place.put(sidecar, good[:n])
        place.right(f"cut off at {n}", names[0], oracle=oracle)
        place.verify(f"cut off at {n}", names[0], 3)
    for more in (b"\0", bytes(5000), good):
        place.put(sidecar, good + more)
        place.right(f"{len(more)} bytes more", names[0], oracle=oracle)
        place.verify(f"{len(more)} bytes more", names[0], 3)
    for n, i in enumerate(sorted(rng.sample(range(len(good)), lib.share(len(good))))): # all, but under a slow checker
        bad = good[i] ^ 1 << rng.randrange(8)
        place.put(sidecar, good[:i] + bytes([bad]) + good[i + 1:])
        what = f"byte {i} is {bad:#x}, not {good[i]:#x}"
        if map_of(what, place, names[0]) != truth:
            raise Mismatch(f"{what}: another map")
        if n % 16 == 0:
            status, _, err = place.qchain("index", "verify", names[0], ok=None)
            if status not in (1, 3):
                raise Mismatch(f"{what}: verify exits {status}: {err}")
    place.put(sidecar, good)
    place.used("mended", names[0])
    return place


def check_forged_names(args, directory, rng):
    """Names in the table that no image recorded: nothing outside is opened or looked at."""
    place, names, sidecar = small(args, os.path.join(directory, "in"), rng, 4)
    good = codec.Sidecar(place.bytes(sidecar))
    oracle = place.oracle(names[0])
    truth = map_of("the truth", place, names[0], "--no-index")
    # A file outside that is all that the table says, but for its content.
    evil = os.path.join(directory, "evil.qcow2")
    st = os.stat(place.path(names[2]))
    with open(evil, "wb") as f:
        f.write(place.rng.randbytes(st.st_size))
    os.utime(evil, ns=(st.st_atime_ns, st.st_mtime_ns))
    os.symlink(evil, place.path("link.qcow2"))
    outside = {"/etc/passwd": "/etc/passwd", "../evil.qcow2": "evil.qcow2", evil: "evil.qcow2",
               "sub/../../evil.qcow2": "evil.qcow2", "file:../evil.qcow2": "evil.qcow2",
               'json:{"driver":"qcow2","file.filename":"' + evil + '"}': "evil.qcow2"}
    odd = ["link.qcow2", "nothing.qcow2", names[0], names[1], names[3], ".", "", "a\0b", "x" * 4095,
           "x" * 4096, "/dev/zero", "nbd://localhost/x", "json:{", "http://localhost/x", sidecar]
    traced = can_trace()
    for k in (1, 2, 3):
        for name in list(outside) + odd:
            if name == names[k]:
                continue
            forged = good.copy()
            forged.sources[k]["name"] = name.encode()
            place.put(sidecar, forged.encode())
            what = f"layer #{k} called {name[:60]!r}"
            place.unused(what, names[0])
            if map_of(what, place, names[0]) != truth:
                raise Mismatch(f"{what}: another map")
            if k == 2 and name in outside:
                place.right(what, names[0], oracle=oracle)
            if traced and k == 2 and name in outside:
                _, looked = place.traced([place.program, "map", names[0]])
                if any(p.endswith(outside[name]) for p in looked):
                    raise Mismatch(f"{what}: was looked at")
    # Layer 0's name and all locations are for people.
    forged = good.copy()
    for s in forged.sources:
        s["location"] = b"/etc/passwd"
    place.put(sidecar, forged.encode())
    place.right("other locations", names[0], oracle=oracle)
    for name in (b"raw", b"vmdk", b"qcow2 ", b"x" * 15, b"x" * 16, b"", b"luks"):
        for k in (0, 2, 3):
            forged = good.copy()
            forged.sources[k]["format"] = name
            place.put(sidecar, forged.encode())
            place.unused(f"format {name}", names[0])
            if map_of(f"format {name}", place, names[0]) != truth:
                raise Mismatch(f"format {name}: another map")
    return place


def with_compressed(args, directory, rng):
    """Two layers of 600 MiB with something in each part, compressed clusters and a raw base,
    and their sidecar cut into pages of 128 MiB."""
    place = Place(args, directory, rng)
    with open(place.path("base.raw"), "wb") as f:
        f.truncate(600 << 20)
        f.seek(130 << 20)
        f.write(rng.randbytes(3 << 16))
    place.put("pattern", b"".join(rng.choices([rng.randbytes(64) for _ in range(9)], k=2000)))
    for name, below in (("mid.qcow2", ("base.raw", "raw")), ("top.qcow2", ("mid.qcow2", "qcow2"))):
        place.qemu_img("create", "-q", "-f", "qcow2", "-b", below[0], "-F", below[1], name)
    place.qemu_io("mid.qcow2", *(f"write -c -s pattern {at} 64k" for at in ("0", "64k", "400M")),
                  "write -s pattern 128k 192k", "write -z 520M 1M")
    place.qemu_io("top.qcow2", "write -c -s pattern 192k 64k", "write -s pattern 330M 64k",
                  "write -s pattern 256M 128k")
    place.age()
    place.build("top.qcow2")
    forged = codec.Sidecar(place.bytes("top.qcow2.qci"))
    pages = []
    for start in range(0, 600 << 20, codec.WINDOW):
        end = min(start + codec.WINDOW, 600 << 20)
        runs = []
        for guest, length, kind, source, host, sectors in forged.runs():
            a, b = max(guest, start), min(guest + length, end)
            if a < b:
                moved = host + a - guest if kind in codec.PLAIN_HOST else host
                runs.append([a, b - a, kind, source, moved, sectors])
        pages.append({"start": start, "nothing": int(all(r[2] <= codec.SHORT for r in runs)),
                      "n_runs": len(runs), "runs": runs})
    forged.pages = pages
    place.put("top.qcow2.qci", forged.encode())
    place.used("cut into pages", "top.qcow2")
    place.verify("cut into pages", "top.qcow2", 0)
    place.right("cut into pages", "top.qcow2")
    return place, forged


def numbers(*values):
    return b"".join(codec.put_number(v) for v in values)


def raw_page(page, sidecar, change):
    """A page whose bytes are changed."""
    page["raw"] = change(sidecar.put_runs(page["runs"]))


def run_of(page, kind):
    return next(r for r in page["runs"] if r[2] == kind)


def forge_runs(good):
    """(what, sidecar) of everything that can be wrong with runs and pages."""
    def forged(what, change):
        x = good.copy()
        change(x, x.pages)
        return what, x

    def run(what, change, page=0):
        def apply(x, pages):
            change(pages[page]["runs"])
        return forged(what, apply)

    def raw(what, change, page=0):
        return forged(what, lambda x, pages: raw_page(pages[page], x, change))

    def field(what, page, key, value):
        return forged(what, lambda x, pages: pages[page].update({key: value}))

    def set_of(kind, index, value):
        def change(runs):
            next(r for r in runs if r[2] == kind)[index] = value
        return change

    def lengths(a, b):
        def change(runs):
            runs[0][1] += a
            runs[-1][1] += b
        return change

    top = len(good.sources) - 1
    yield run("a run of no length", lambda r: r.insert(1, [0, 0, codec.END, None, None, 0]))
    yield run("a data run of no length", lambda r: r.insert(0, [0, 0, codec.DATA, 0, 4096, 0]))
    yield run("a run beyond the page", lengths(0, 512))
    yield run("a run far beyond the disk", lengths(0, 1 << 60))
    yield run("a run less", lambda r: r.pop())
    yield run("the last run beyond the disk", lengths(0, 512), 4)
    yield run("the last run one sector short", lengths(0, -512), 4)
    yield run("an unknown kind", set_of(codec.DATA, 2, 7))
    yield run("a source below the first", set_of(codec.DATA, 3, top + 1))
    yield run("a source above the last", set_of(codec.DATA, 3, -1))
    yield run("a source far away", set_of(codec.DATA, 3, -(1 << 40)))
    yield run("a host below zero", set_of(codec.DATA, 4, -4096))
    yield run("a host of 2^56", set_of(codec.DATA, 4, 1 << 56))
    yield run("a host of 2^63", set_of(codec.DATA, 4, 1 << 63))
    yield run("a compressed run of no sectors", set_of(codec.COMPRESSED, 5, 0))
    yield run("a compressed run of 65535 sectors", set_of(codec.COMPRESSED, 5, 65535))
    yield run("a compressed run of 2^40 sectors", set_of(codec.COMPRESSED, 5, 1 << 40))
    yield run("a compressed host of 2^60", set_of(codec.COMPRESSED, 4, 1 << 60))
    yield run("a compressed host below zero", set_of(codec.COMPRESSED, 4, -1))
    yield run("a compressed run in the raw layer", set_of(codec.COMPRESSED, 3, top))

    def longer(runs):
        i = next(i for i, r in enumerate(runs) if r[2] == codec.COMPRESSED)
        runs[i][1] += 512
        runs[i + 1][1] -= 512
        if runs[i + 1][2] == codec.COMPRESSED:
            runs[i + 1][0] += 512

    yield run("a compressed run over two clusters", longer)
    for past in (0, 512, 4000, 1 << 30):
        def beyond(runs, past=past):
            for r in [r for r in runs if r[2] == codec.COMPRESSED][1:]:
                r[4:6] = [good.sources[r[3]]["size"] + past, 1]

        yield run(f"compressed runs {past} bytes past their file's end", beyond)
    yield raw("a byte behind the runs", lambda p: p + b"\0")
    yield raw("a byte less", lambda p: p[:-1])
    yield raw("half of it", lambda p: p[:len(p) // 2])
    yield raw("no bytes", lambda p: b"")
    yield raw("an endless number", lambda p: b"\xff" * 40 + p)
    yield raw("a number of 65 bits", lambda p: b"\x80" * 9 + b"\x02" + p)
    yield raw("zeros", lambda p: bytes(len(p)))
    yield raw("a length of 2^61 units", lambda p: numbers(MAX64) + p)
    for n in (0, 1, 1 << 20, MAX32):
        def runs_said(x, pages, n=n):
            pages[0].update(keep_n_runs=True, n_runs=n)
        yield forged(f"{n} runs are said", runs_said)
    yield field("flags of a page", 0, "nothing", 2)
    yield field("the first page does not begin at 0", 0, "start", codec.WINDOW)
    yield field("a page begins within a window", 1, "start", codec.WINDOW + 512)
    yield field("two pages begin alike", 2, "start", codec.WINDOW)
    yield field("a page begins before the one before", 2, "start", 0)
    yield field("a page begins beyond the disk", 4, "start", 1 << 40)
    yield field("a page begins at 2^63", 4, "start", 1 << 63)
    for at in (0, 160, 1 << 40, MAX64, MAX64 - 5):
        yield field(f"a page lies at {at}", 1, "place", at)
    yield forged("pages in another order", lambda x, pages: pages.reverse())
    yield forged("a page less", lambda x, pages: pages.pop())
    yield forged("no pages", lambda x, pages: pages.clear())
    yield forged("a page more", lambda x, pages: pages.append(dict(pages[-1], start=640 << 20)))


def check_forged_runs(args, directory, rng):
    """Impossible runs and pages."""
    place, good = with_compressed(args, directory, rng)
    image, sidecar = "top.qcow2", "top.qcow2.qci"
    oracle = place.oracle(image)
    for what, forged in forge_runs(good):
        try:
            place.put(sidecar, forged.encode())
        except OverflowError:
            raise Mismatch(f"{what}: cannot be written") from None
        place.right(what, image, oracle=oracle)
        place.verify(what, image, 1 if what == "flags of a page" else 3)
    # Bytes of pages at random: what they say may be wrong, but must be said in one piece.
    for n in range(lib.share(100)):
        forged = good.copy()
        page = rng.choice(forged.pages)
        data = bytearray(forged.put_runs(page["runs"]))
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        page["raw"] = bytes(data)
        place.put(sidecar, forged.encode())
        map_of(f"random page bytes {n}", place, image)
        status, _, err = place.qchain("read", "--offset", str(page["start"]), "--length", "1M",
                                      image, os.devnull, ok=None)
        if status not in (0, 1):
            raise Mismatch(f"random page bytes {n}: exit {status}: {err}")
    return place


def check_forged_fields(args, directory, rng):
    """Every number in the header, the table and the directory at its extremes."""
    place, names, sidecar = small(args, directory, rng)
    good = codec.Sidecar(place.bytes(sidecar))
    truth = map_of("the truth", place, names[0], "--no-index")
    _, raw = place.oracle(names[0])
    files, refused = [], 0
    for name, kind, _ in good.HEADER_FIELDS:
        top = {"I": MAX32, "Q": MAX64}.get(kind)
        if top is None:
            continue
        was = good.header[name]
        for v in {0, 1, was - 1, was + 1, was * 2, SIZE - 512, 1 << 31, 1 << 40, top, top // 2}:
            if 0 <= v <= top and v != was:
                x = good.copy()
                x.override[name] = v
                files.append((f"header: {name} {v}", x.encode(), True))
    for k, s in enumerate(good.sources):
        for name in good.SOURCE_FIELDS[:8]:
            top = MAX64 if name in ("size", "mtime_ns", "allocated", "virtual_size") else MAX32
            for v in {0, 1, s[name] ^ 1, s[name] + 1, s[name] // 2, s[name] | 8, 512, top}:
                if v != s[name] and v <= top:
                    x = good.copy()
                    x.sources[k][name] = v
                    # Where holes are looked for is the sidecar's word alone.
                    files.append((f"source {k}: {name} {v}", x.encode(), name != "flags"))
        # Files of this host are none behind URLs, and have no validators.
        for flags, validator in ((s["flags"] | codec.REMOTE, b""),
                                 (s["flags"] | codec.REMOTE, b'"etag"'), (s["flags"], b'"etag"'),
                                 (s["flags"] | codec.REMOTE, b"a\r\nb"),
                                 (s["flags"] | codec.REMOTE, b"x" * 256)):
            x = good.copy()
            x.sources[k].update(flags=flags, validator=validator)
            files.append((f"source {k}: flags {flags}, validator {validator!r}", x.encode(), True))
    for what, change in (("a source more", lambda s: s.append(dict(s[-1]))),
                         ("a source less", lambda s: s.pop()), ("no sources", lambda s: s.clear()),
                         ("sources in another order", lambda s: s.reverse()),
                         ("the tip twice", lambda s: s.insert(1, dict(s[0])))):
        x = good.copy()
        pages = [dict(p, raw=x.put_runs(p["runs"])) for p in x.pages]
        change(x.sources)
        x.pages = pages
        files.append((what, x.encode(), True))
        x.override["n_layers"] = len(x.sources)
        files.append((what + ", layers too", x.encode(), True))
    for what, data, same_map in files:
        place.put(sidecar, data)
        got = map_of(what, place, names[0])
        if same_map and got is not None and got != truth:
            raise Mismatch(f"{what}: another map")
        if "source" in what:
            refused += not content_or_failure(what, place, names[0], raw)
        place.compared += 1
    if refused > len(files) // 4:
        raise Mismatch(f"{refused} of {len(files)} forged sidecars made the disk unreadable")
    return place
