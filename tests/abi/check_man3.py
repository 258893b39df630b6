#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The manual pages of section 3 against what the library exports and the headers declare: every function, struct
with its fields, enum, callback and constant has its place on one page and no other, a name of it leads there, and
all pages speak only of what there is. Pages are read as a reader sees them, after groff."""
import os
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))
MAN = os.path.join(ROOT, "examples", "tools", "man")
INCLUDE = os.path.join(ROOT, "include")
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(ROOT, "bindings", "python"))

import make_abi  # noqa: E402


def contents(*path):
    with open(os.path.join(*path), encoding="utf-8") as f:
        return f.read()


def declared():
    """What must be on a page: {kind: names}, from the linker's map, the compiler and the text of the headers."""
    exported = set(re.findall(r"^\s+(qchain_\w+);", contents(ROOT, "lib", "qchain.map"), re.M))
    headers = make_abi.Headers(INCLUDE, os.environ.get("QC_CC") or "cc")
    text = "".join(contents(INCLUDE, n) for n in sorted(os.listdir(INCLUDE)))
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    return headers, {
        "function": exported,
        "struct": set(headers.structs),
        "enum": set(re.findall(r"\benum (\w+)\s*\{", text)),
        "callback": set(headers.callbacks),
        "handle": set(re.findall(r"typedef struct (\w+)\s+\1;", text)),
        "constant": set(headers.constants),
    }


def render(path):
    done = subprocess.run(["groff", "-man", "-Tascii", "-P-cbou", "-ww", "-rLL=300n", path], capture_output=True,
                          text=True, check=True)
    return done.stdout, done.stderr


def on_page(text):
    """What has its place on one rendered page: [(kind, name)], and what stands under each struct."""
    synopsis = re.search(r"^SYNOPSIS\n(.*?)^\w", text, re.S | re.M)[1]
    found = [("function", n) for n in re.findall(r"^ {7}(?!typedef).*?\b(qchain_\w+)\(", synopsis, re.M)]
    found += [("callback", n) for n in re.findall(r"^ {7}typedef .*?\(\*(qchain_\w+)\)", synopsis, re.M)]
    found += re.findall(r"^ {3}(struct|enum) (qchain_\w+)$", text, re.M)
    found += [("handle", n) for n in re.findall(r"^ {7}typedef struct (qchain\w*)\b", text, re.M)]
    found += [("constant", n) for n in re.findall(r"^ {7}(QCHAIN_\w+) = \S+(?: |$)", text, re.M)]
    parts = re.findall(r"^ {3}struct (qchain_\w+)\n(.*?)(?=^ {0,3}\w)", text, re.S | re.M)
    return found, dict(parts)


class Check:
    def __init__(self, out):
        self.out, self.bad = out, 0
        self.headers, self.want = declared()

    def fault(self, text):
        print(text)
        self.bad += 1

    def places(self, pages):
        home = {}
        for page, text in pages.items():
            found, parts = on_page(text)
            for kind, name in found:
                home.setdefault((kind, name), []).append(page)
            for struct, body in parts.items():
                for field, _ in self.headers.structs.get(struct, []):
                    if not re.search(rf"^ {{7}}\S.*\b{field}\b", body, re.M):
                        self.fault(f"{page}: struct {struct} lacks {field}")
        for kind, names in self.want.items():
            for name in sorted(names):
                if len(home.get((kind, name), [])) != 1:
                    self.fault(f"the {kind} {name} is on these pages: {home.get((kind, name), 'none')}")
        for kind, name in home:
            if name not in self.want[kind]:
                self.fault(f"{home[kind, name]}: there is no {kind} {name}")
        return home

    def ways(self, home):
        """A name leads to its page."""
        for (kind, name), (page, *_) in home.items():
            path = os.path.join(self.out, f"{name}.3")
            if kind != "constant" and f"{name}.3" != page:
                if not os.path.exists(path) or contents(path) != f".so man3/{page}\n":
                    self.fault(f"{name}.3 does not lead to {page}")

    def names(self, pages):
        """Pages, of all sections, name nothing that is not there."""
        known = set().union(*self.want.values()) | {"QCHAIN_E"}
        sources = "".join(contents(ROOT, "examples", room, n) for room in ("common", "tools")
                          for n in os.listdir(os.path.join(ROOT, "examples", room)) if n.endswith(".c"))
        sources += contents(ROOT, "bindings", "python", "qchain", "_load.py")
        known |= set(re.findall(r"(?:getenv\(|environ\.get\()\"(\w+)\"", sources))
        have = {os.path.basename(p) for p in pages}
        for page, text in pages.items():
            text = re.sub(r"(?<=\w)-\n\s+", "", text)
            for name, wild in re.findall(r"(?<![\w.])((?:qchain|QCHAIN)_\w+)(\*?)", text):
                if name not in known and not ((wild or name[-1] == "_") and any(k.startswith(name) for k in known)):
                    self.fault(f"{page}: there is no {name}{wild}")
            for name, section in re.findall(r"\b(qchain[\w-]*)\((\d)\)", text):
                if f"{name}.{section}" not in have:
                    self.fault(f"{page}: there is no page {name}({section})")

    def man(self):
        """man itself follows a name."""
        if shutil.which("man"):
            done = subprocess.run(["man", "-M", os.path.dirname(self.out), "-P", "cat", "3", "qchain_open"],
                                  capture_output=True, text=True)
            if "int qchain_open(qchain **out" not in re.sub(".\x08", "", done.stdout):
                self.fault(f"man 3 qchain_open: {done.stdout[:200]}{done.stderr}")


def main():
    if not shutil.which("groff"):
        print("SKIP: groff is not installed")
        return 77
    with tempfile.TemporaryDirectory(prefix="qchain-man-") as tmp:
        out = os.path.join(tmp, "man3")
        subprocess.run([sys.executable, os.path.join(MAN, "make_man.py"), INCLUDE, out], check=True)
        check = Check(out)
        paths = [os.path.join(out, n) for n in sorted(os.listdir(out)) if n == "qchain.3" or n.startswith("qchain-")]
        paths += [os.path.join(MAN, n) for n in sorted(os.listdir(MAN)) if re.search(r"\.\d$", n)]
        pages = {}
        for path in paths:
            pages[os.path.basename(path)], warned = render(path)
            if warned:
                check.fault(warned)
        check.ways(check.places({p: t for p, t in pages.items() if p.endswith(".3")}))
        check.names(pages)
        check.man()
    print(f"{len(pages)} pages, {sum(len(x) for x in check.want.values())} names, {check.bad} faults")
    return 1 if check.bad else 0


if __name__ == "__main__":
    sys.exit(main())
