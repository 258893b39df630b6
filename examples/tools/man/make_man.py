#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Write the manual pages of section 3 from the public headers, whose comments are the manual.

    make_man.py INCLUDE OUT

OUT receives a page for each group of calls, and for each function, struct, enum and callback one line that leads
to its page, so that `man 3 qchain_open` works. Which sections of the headers become which page is said in PAGES;
a section that no page takes is an error.
"""
import os
import re
import sys
import textwrap

sys.dont_write_bytecode = True
import header_doc  # noqa: E402

DATE = "2026-11-28"
CORE, BACKEND, REMOTE, WRITE, JOBS, TRACE, SOURCE = (
    "qchain.h", "qchain-backend.h", "qchain-remote.h", "qchain-write.h", "qchain-jobs.h", "qchain-trace.h",
    "qchain-source.h")
# Page: what it is about, the sections of headers that it takes, and other pages to see.
PAGES = {
    "qchain": ("virtual disks kept as chains of qcow2 and raw layers", [(CORE, ""), (CORE, "handles")],
               "qchain(1) qchain-policy(7) qchain-remote(7) qchain-security(7) qchain-format(5)"),
    "qchain-error": ("codes and messages of libqchain", [(CORE, "errors")], ""),
    "qchain-version": ("version and features of libqchain", [(CORE, "version and features")], ""),
    "qchain-env": ("what chains share: threads, memory, policy, log", [(CORE, "environment")], ""),
    "qchain-policy": ("what images may refer to", [(CORE, "policy")], "qchain-policy(7) qchain-security(7)"),
    "qchain-resolver": ("decide each reference of an image", [(CORE, "resolver")], "qchain-policy(7)"),
    "qchain-open": ("open and close a chain of layers", [(CORE, "open")], "qchain-policy(7) qchain-security(7)"),
    "qchain-inspect": ("what an image says of itself", [(CORE, "what an image is")],
                       "qchain-info(1) qchain-inspect(1)"),
    "qchain-map": ("which bytes of a disk lie where", [(CORE, "map")], "qchain-map(1) qchain-diff(1)"),
    "qchain-read": ("read a disk", [(CORE, "read")], "qchain-read(1)"),
    "qchain-job": ("watch, hold and cancel long calls", [(CORE, "long operations"), (JOBS, "")], ""),
    "qchain-copy": ("copy out, compare and digest a disk", [(CORE, "copy, compare")],
                    "qchain-compare(1) qchain-checksum(1)"),
    "qchain-stats": ("what chains did so far", [(CORE, "statistics")], ""),
    "qchain-queue": ("asynchronous requests", [(CORE, "queues")], "qchain-bench(1)"),
    "qchain-index": ("sidecar indexes", [(CORE, "sidecar index")], "qchain-index(1) qchain-format(5)"),
    "qchain-source": ("the files a chain is made of", [(SOURCE, "")], "qchain-fuse(1)"),
    "qchain-write": ("write to the top layer of a chain", [(WRITE, ""), (WRITE, "writing")], "qchain-write(1)"),
    "qchain-create": ("make images and change their options", [(WRITE, "making images")],
                      "qchain-create(1) qchain-amend(1) qchain-measure(1)"),
    "qchain-snapshot": ("internal snapshots and VM state", [(WRITE, "internal snapshots")], "qchain-snapshot(1)"),
    "qchain-bitmap": ("persistent dirty bitmaps", [(WRITE, "dirty bitmaps")], "qchain-bitmap(1)"),
    "qchain-check": ("check and mend an image", [(WRITE, "check, repair")], "qchain-check(1)"),
    "qchain-convert": ("copy a disk to another image", [(JOBS, "convert")], "qchain-convert(1)"),
    "qchain-rebase": ("rebase, stream, merge, and take out a layer", [(JOBS, "rebase")],
                      "qchain-rebase(1) qchain-stream(1) qchain-merge(1) qchain-delete(1)"),
    "qchain-commit": ("commit layers into one below", [(JOBS, "commit")], "qchain-commit(1)"),
    "qchain-prefetch": ("bring remote disks into the disk cache", [(JOBS, "prefetch")],
                        "qchain-prefetch(1) qchain-remote(7)"),
    "qchain-trace": ("record and load what is read of a disk", [(TRACE, ""), (TRACE, "recording"),
                                                                (TRACE, "reading")],
                     "qchain-trace(1) qchain-format(5)"),
    "qchain-remote": ("how layers behind URLs are reached", [(REMOTE, "")], "qchain-remote(5) qchain-remote(7)"),
    "qchain-cache": ("look after a disk cache", [(REMOTE, "the disk cache")],
                     "qchain-cache(1) qchain-remote(7) qchain-format(5)"),
    "qchain-remote-stats": ("what remote layers did so far", [(REMOTE, "statistics")], ""),
    "qchain-backend": ("keep layers elsewhere: stores of one's own", [(BACKEND, "")], ""),
}
CODES = ("NOMEM INVAL RANGE LIMIT IO NET TIMEOUT THROTTLED NOTFOUND ACCESS AUTH NOSPACE READONLY BUSY EXISTS LOCKED CORRUPT"
         " UNSUPPORTED CHAIN CHANGED CANCELLED INTERNAL").split()
TROFF = {"\\": "\\e", "^": "\\(ha", "~": "\\(ti", "`": "\\(ga", "\"": "\\(dq"}
# What is bold in running text: names of ours, codes, headers. What is italic: fields, written `so`.
MARK = re.compile(r"`(?P<field>\w+)`|(?P<name>\bqchain_\w+|\bQCHAIN_[A-Z0-9_]+\*?|<qchain[\w-]*\.h>|\b(?:"
                  + "|".join(CODES) + r")\b)")


# ------------------------------------------------------------------- troff ---

def escape(text):
    return re.sub(r"(?<![\w])-(?=[\w-])", r"\\-", "".join(TROFF.get(c, c) for c in text))


def inline(text, params=()):
    """Running text in troff, on lines of its own: one a sentence, none too long."""
    lines = []
    for sentence in re.split(r"(?<=[.!?]) +(?=[A-Z<\"]|\w+: )", " ".join(text.split())):
        out, at = "", 0
        for mark in MARK.finditer(sentence):
            out += escape(sentence[at:mark.start()])
            out += f"\\fI{mark['field']}\\fR" if mark["field"] else f"\\fB{escape(mark['name'])}\\fR"
            at = mark.end()
        out += escape(sentence[at:])
        out = re.sub(r"^(\w+)(?=: )", lambda m: f"\\fI{m[1]}\\fR" if m[1] in params else m[1], out)
        lines += textwrap.wrap(out, 78, break_long_words=False, break_on_hyphens=False)
    return [f"\\&{x}" if x[0] in ".'" else x for x in lines]


def tagged(tag, text):
    return [".TP 7", tag] + (inline(text) or ["\\&"])


def definition(line):
    """"term   text" as (term, text), or None."""
    match = re.match(r" *(\S.*?) {2,}(\S.*)$", line)
    return match and (match[1], match[2])


def indent(line):
    return len(line) - len(line.lstrip())


class Text:
    """A comment's lines as troff: paragraphs, headings, bullets, terms with their text, parameters."""

    def __init__(self, lines, params=()):
        self.params = params
        self.out, self.sub = [], False
        for chunk in "\n".join(lines).split("\n\n"):
            self.chunk([x for x in chunk.split("\n") if x.strip()])

    def chunk(self, lines):
        if len(lines) > 1 and indent(lines[1]) == 2 and re.fullmatch(r"[A-Z][a-z, ]+", lines[0]):
            self.out += [f".SS {lines[0]}"]
            lines, self.sub = [x[2:] for x in lines[1:]], True
        at = 0
        while at < len(lines):
            at = self.block(lines, at)

    def block(self, lines, at):
        """One paragraph or item from lines[at] on; returns where the next begins."""
        first, deep, end = lines[at], indent(lines[at]), at + 1
        param = re.match(r"(\w+(?:, \w+)*): (.*)", first)
        if param and all(p in self.params for p in param[1].split(", ")):
            text = [param[2]]
            while end < len(lines) and (indent(lines[end]) > 0 or not text[-1].endswith(".")):
                text.append(lines[end])
                end += 1
            names = "|".join(self.params)
            for one in re.split(rf"(?<=[.;]) (?=(?:{names})(?:, (?:{names}))*: )", param[1] + ": " + " ".join(text)):
                tag, text = one.split(": ", 1)
                self.out += tagged(", ".join(f"\\fI{p}\\fR" for p in tag.split(", ")), text)
            return end
        bullet, term = first.lstrip().startswith("- "), definition(first)
        alone = not term and end < len(lines) and indent(lines[end]) - deep > 8
        if not bullet and not term and not alone and deep == 0:
            while end < len(lines) and indent(lines[end]) == 0 and not self.begins(lines, end):
                end += 1
            self.out += [".PP"] + inline(" ".join(lines[at:end]), self.params)
            return end
        while end < len(lines) and indent(lines[end]) > deep:
            end += 1
        rest = " ".join(lines[at + 1:end])
        if term or alone:
            name, text = term or (first.strip(), "")
            self.out += tagged(f"\\fB{escape(name)}\\fR", f"{text} {rest}")
        else:
            self.out += [".IP \\(bu 2"] + inline(re.sub(r"^ *- ", "", first).strip() + " " + rest)
        return end

    def begins(self, lines, at):
        """Something else than a paragraph's next line?"""
        line = lines[at]
        param = re.match(r"(\w+(?:, \w+)*): ", line)
        return (line.startswith("- ") or definition(line) or param and param[1].split(", ")[0] in self.params
                or at + 1 < len(lines) and indent(lines[at + 1]) > 8)


# ------------------------------------------------------------- declarations ---

def arguments(code):
    """A function's result with its name, and its parameters."""
    head, rest = re.fullmatch(r"(.*?\w\)?)\((.*)\);?", code).groups()
    found, depth, part = [], 0, ""
    for c in rest + ",":
        depth += (c == "(") - (c == ")")
        if c == "," and depth == 0:
            found.append(part.strip())
            part = ""
        else:
            part += c
    return head, found


def argument_name(text):
    match = re.search(r"\(\*(\w+)\)|(\w+)(?:\[\w*\])?$", text)
    return match[1] or match[2]


def prototype(code):
    """A function's declaration, filled into lines, types bold and names italic."""
    head, params = arguments(code)
    lines, line = [], head + "("
    for i, param in enumerate(params):
        word = param + (");" if i == len(params) - 1 else ",")
        if len(line) + len(word) + 1 > 76 and line.strip() and not line.endswith("("):
            lines.append(line)
            line = "    " + word
        else:
            line += ("" if line.endswith("(") else " ") + word
    names = [argument_name(p) for p in params if p != "void"]
    made = []
    for line in lines + [line]:
        line = escape(line)
        for name in names:
            line = re.sub(rf"(?<=[ *]){name}(?=[,)\[])", rf"\\fI{name}\\fB", line)
        made.append(f"\\fB{line}\\fR")
    return made


def field(code):
    """A field's declaration as a tag."""
    match = re.fullmatch(r"(.*?\(\*)(\w+)(\).*)|(.*?)((?:, )?\w+(?:, \w+)*)((?:\[\w+\])?)", code)
    before, name, after = (match[1], match[2], match[3]) if match[1] else (match[4], match[5], match[6])
    return f"\\fB{escape(before)}\\fI{name}\\fB{escape(after)}\\fR"


def split_errors(lines):
    """A comment without what it says of errors and versions, and what it says of errors."""
    text = "\n".join(lines)
    match = re.search(r"\bErrors:\s+(.*?)(?=\s+Since\s+\d|\Z)", text, re.S)
    errors = match[1] if match else ""
    if match:
        text = text[:match.start()].rstrip() + text[match.end():]
    return re.sub(r"\s*\bSince\s+\d+\.\d+\.(?=\s|$)", "", text).split("\n"), errors


class Page:
    def __init__(self, name, about, sections, version):
        self.name, self.sections = name, sections
        self.items = [i for s in sections for i in s.items]
        self.about, self.version = about, version

    def functions(self):
        """Groups of functions that share a comment."""
        groups = []
        for item in self.items:
            if item.kind == "function" and item.doc:
                groups.append([item])
            elif item.kind == "function":
                groups[-1].append(item)
        return groups

    def synopsis(self):
        header = BACKEND if self.sections[0].header == BACKEND else CORE
        out = [".SH SYNOPSIS", ".nf", f".B #include <{escape(header)}>"]
        for item in self.items:
            if item.kind == "function":
                out += [".PP"] + prototype(item.code)
            elif item.kind == "callback":
                out += [".PP"] + prototype(item.code)
        return out + [".fi", ".PP", "Link with \\fIpkg\\-config \\-\\-libs libqchain\\fR."]

    def prose(self):
        out = []
        for section in self.sections:
            for lines in section.prose:
                lines = list(lines)
                while lines and not lines[0]:
                    lines.pop(0)
                if lines and re.match(r"qchain[\w-]*\.h - ", lines[0]):
                    lines[0] = re.sub(r"^qchain[\w-]*\.h - ", "", lines[0])
                    lines[0] = lines[0][0].upper() + lines[0][1:]
                out += Text(lines).out
        return out

    def calls(self):
        out = []
        for group in self.functions():
            names = ", ".join(f"{i.name}()" for i in group)
            params = [argument_name(p) for i in group for p in arguments(i.code)[1] if p != "void"]
            text, _ = split_errors(group[0].doc)
            out += [f".SS {names}"] + unindented(Text(text, params).out)
        for item in self.items:
            if item.kind == "callback":
                params = [argument_name(p) for p in arguments(item.code)[1]]
                out += [f".SS {item.name}"] + unindented(Text(split_errors(item.doc)[0], params).out)
        return out

    def types(self):
        out = []
        handles = [i for i in self.items if i.kind == "handle"]
        for item in handles:
            out += tagged(f"\\fBtypedef struct\\fR \\fI{item.name}\\fR", item.doc[0] if item.doc else "Opaque.")
        if handles:
            out = [".SS Handles"] + out
        defines = False
        for item in self.items:
            if item.kind == "define":
                if item.doc or not defines:
                    out += [".SS Constants"] if not defines else []
                    out += [".PP"] + inline(" ".join(item.doc)) if item.doc else []
                defines = True
                out += tagged(f"\\fB{item.code.rstrip('u')}\\fR", item.members[0][1])
            elif item.kind in ("struct", "enum"):
                defines = False
                out += [f".SS {item.kind} {item.name}" if item.name else ".SS Constants"]
                out += unindented(Text(item.doc or []).out) if item.doc else []
                for code, text in item.members:
                    if code is None:
                        out += [".PP", f"{text[0].upper()}{text[1:]}:"]
                    else:
                        out += tagged(field(code) if item.kind == "struct" else f"\\fB{escape(code)}\\fR", text)
        return out

    def errors(self):
        out = []
        for group in self.functions():
            text = split_errors(group[0].doc)[1]
            if text:
                out += tagged(", ".join(f"\\fB{i.name}\\fR()" for i in group), text)
        if not out:
            return []
        return [".SH ERRORS", "Codes are named without \\fBQCHAIN_E_\\fR;", ".BR qchain\\-error (3)",
                "says what to do about each."] + out

    def versions(self):
        since = {}
        for item in self.items:
            for version in re.findall(r"\bSince\s+(\d+\.\d+)\.", "\n".join(item.doc or [])):
                since.setdefault(version, []).append(item.name)
        out = [".SH VERSIONS"] if since else []
        newest = sorted(since)
        if len(newest) == 1:
            return out + [f"All of this is there since libqchain {newest[0]}."]
        for version in newest:
            out += [".PP", f"Since libqchain {version}:"] + inline(", ".join(since[version]) + ".")
        return out

    def render(self, see, more=()):
        title = escape(self.name.upper()).replace("-", "\\-")
        out = [f".TH {title} 3 {DATE} \"libqchain {self.version}\" \"Library Functions\"", ".nh", ".SH NAME"]
        names = [self.name] + [i.name for i in self.items if i.kind == "function"]
        out += textwrap.wrap(", ".join(names).replace("-", "\\-") + " \\- " + escape(self.about), 78,
                             break_on_hyphens=False)
        out += self.synopsis() + [".SH DESCRIPTION"] + self.prose() + list(more)
        out += self.calls() + ([".SH TYPES AND CONSTANTS"] + self.types() if self.types() else [])
        out += self.errors() + self.versions() + [".SH SEE ALSO"]
        out += [f".BR {escape(n).replace('-', chr(92) + '-')} ({s})," for n, s in see[:-1]]
        out += [f".BR {escape(n).replace('-', chr(92) + '-')} ({s})" for n, s in see[-1:]]
        text = "\n".join(out).replace("\\\\-", "\\-") + "\n"
        return re.sub(r"(\n\.S[HS] [^\n]*)\n\.PP(?=\n)", r"\1", text)


def unindented(lines):
    return lines[1:] if lines and lines[0] == ".PP" else lines


def contents(pages):
    """The overview's list of the other pages."""
    out = [".SS Pages"]
    for page in pages.values():
        if page.name != "qchain":
            out += [".TP", f".BR {page.name.replace('-', chr(92) + '-')} (3)", f"{escape(page.about)}"]
    return out + [".PP"] + inline("The pages of section 3 are made from the headers: where one says \"this header\", it "
                                  "means the one that its synopsis includes.")


def make(include):
    """{file name: text} of all pages and of the lines that lead to them."""
    sections = {(s.header, s.title): s for name in sorted(os.listdir(include)) if name.endswith(".h")
                for s in header_doc.read(os.path.join(include, name), name) if s.items or s.prose}
    taken = [key for _, keys, _ in PAGES.values() for key in keys]
    if sorted(taken) != sorted(sections):
        raise SystemExit(f"make_man: sections and PAGES differ: {sorted(set(taken) ^ set(sections))}")
    with open(os.path.join(include, CORE), encoding="utf-8") as f:
        version = ".".join(re.findall(r"#define QCHAIN_VERSION_M?\w+ (\d+)", f.read()))
    pages = {name: Page(name, about, [sections[k] for k in keys], version) for name, (about, keys, _) in PAGES.items()}
    home = {}
    for page in pages.values():
        for item in page.items:
            home[item.name or item.members[0][0].split()[0]] = page.name
            home.update({m[0].split(" ")[0]: page.name for m in item.members if item.kind == "enum"})
    files = {}
    for page in pages.values():
        said = " ".join(" ".join(i.doc or []) + i.code + " ".join(m[1] for m in i.members) for i in page.items)
        said += " ".join(" ".join(p) for s in page.sections for p in s.prose)
        see = {(home[w], "3") for w in re.findall(r"\b(?:qchain|QCHAIN)_\w+", said) if w in home}
        see |= {("qchain", "3"), ("qchain-error", "3")} | set(re.findall(r"([\w-]+)\((\d)\)", PAGES[page.name][2]))
        see = sorted(see - {(page.name, "3")}, key=lambda x: (x[1], x[0]))
        files[f"{page.name}.3"] = page.render(see, contents(pages) if page.name == "qchain" else ())
        for item in page.items:
            if item.kind != "define" and item.name and item.name != page.name:
                files[f"{item.name}.3"] = f".so man3/{page.name}.3\n"
    return files


def main():
    if len(sys.argv) != 3:
        raise SystemExit("usage: make_man.py INCLUDE OUT")
    os.makedirs(sys.argv[2], exist_ok=True)
    for name, text in make(sys.argv[1]).items():
        with open(os.path.join(sys.argv[2], name), "w", encoding="utf-8") as f:
            f.write(text)


if __name__ == "__main__":
    main()
