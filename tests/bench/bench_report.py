# SPDX-License-Identifier: MIT
"""Write what was measured: JSON for programs, a table and a chart for people."""

import json
import math
from xml.sax.saxutils import escape


def number(value):
    if isinstance(value, int):
        return str(value)
    return "%.3g" % value if value < 1000 else "%.0f" % value


def verdict(row):
    return {True: "pass", False: "**FAIL**", None: ""}[row["pass"]]


def all_rows(results):
    for name, bar in results["bars"].items():
        if bar.get("error"):
            yield {"what": name + ": could not be measured: " + bar["error"], "measured": None,
                   "op": None, "limit": None, "ours": "", "peer": "", "pass": False}
        yield from bar["rows"]


def table(results):
    """The rows as a Markdown table."""
    lines = ["| bar | required | measured | libqchain | peer | |", "|---|---|---|---|---|---|"]
    for row in all_rows(results):
        need = "%s %.4g" % (row["op"], row["limit"]) if row["op"] else ""
        got = "" if row["measured"] is None else number(row["measured"])
        lines.append("| %s |" % " | ".join((row["what"].replace("|", "/").replace("\n", " "), need,
                                            got, row["ours"], row["peer"], verdict(row))))
    return "\n".join(lines) + "\n"


def heading(results):
    where = results["machine"]
    text = ("# Benchmarks\n\n%(cpu)s, %(cores)d cores, %(memory_gib)d GiB, Linux %(kernel)s; "
            "%(qemu)s.\n" % where)
    text += ("Medians of %d runs, by turns with the peer; page cache warm; peak memory is the "
             "largest of the runs.\nLoad of the machine when it began: %.2f.\n" %
             (results["runs"], where["load_at_start"]))
    if results["scale"] != 1:
        text += ("\n**The data is scaled by %g: these numbers say that the benchmark works, and "
                 "nothing of the bars.**\n" % results["scale"])
    return text + "\n"


# ------------------------------------------------------------------------------------- the chart ---

LEFT, WIDTH, STEP, TOP = 210, 560, 44, 54


def bar_of(x, y, length, colour, label):
    return ('<rect x="%d" y="%d" width="%.1f" height="15" fill="%s"/>'
            '<text x="%.1f" y="%d" class="n">%s</text>' %
            (x, y, length, colour, x + length + 5, y + 12, escape(label)))


def chart(results):
    """Seconds of libqchain and qemu-img, on a logarithmic scale, as SVG."""
    pairs = [p for bar in results["bars"].values() for p in bar["chart"]]
    if not pairs:
        return ""
    times = [p[k] for p in pairs for k in ("ours", "qemu")]
    low = math.floor(math.log10(min(times)))
    high = max(math.ceil(math.log10(max(times))), low + 1)
    unit = (WIDTH - LEFT) / (high - low)
    height = TOP + STEP * len(pairs) + 24
    out = ['<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" '
           'font-family="sans-serif" font-size="13">' % (WIDTH + 170, height),
           '<style>.n{font-size:11px;fill:#333}.g{stroke:#ddd}</style>',
           '<rect width="100%" height="100%" fill="white"/>',
           '<text x="10" y="20" font-weight="bold">Seconds, less is better '
           '(logarithmic scale)</text>',
           bar_of(10, 28, 15, "#2b7bba", "libqchain"), bar_of(110, 28, 15, "#c9c9c9", "qemu-img")]
    for power in range(low, high + 1):
        x = LEFT + (power - low) * unit
        out.append('<line class="g" x1="%.1f" x2="%.1f" y1="%d" y2="%d"/>'
                   '<text class="n" x="%.1f" y="%d" text-anchor="middle">%g</text>' %
                   (x, x, TOP, height - 20, x, height - 6, 10.0 ** power))
    for i, p in enumerate(pairs):
        y = TOP + STEP * i
        ours, qemu = ((math.log10(p[k]) - low) * unit for k in ("ours", "qemu"))
        out.append('<text x="%d" y="%d" text-anchor="end">%s</text>' %
                   (LEFT - 8, y + 21, escape(p["what"])))
        out.append(bar_of(LEFT, y + 2, ours, "#2b7bba", "%.3g (%.3g times faster)" %
                          (p["ours"], p["qemu"] / p["ours"])))
        out.append(bar_of(LEFT, y + 19, qemu, "#c9c9c9", "%.3g" % p["qemu"]))
    out.append("</svg>\n")
    return "\n".join(out)


def save(results, directory):
    """results.json, results.md and chart.svg in one directory."""
    files = {"results.json": json.dumps(results, indent=1) + "\n",
             "results.md": heading(results) + table(results), "chart.svg": chart(results)}
    for name, text in files.items():
        with open("%s/%s" % (directory, name), "w", encoding="utf-8") as f:
            f.write(text)
