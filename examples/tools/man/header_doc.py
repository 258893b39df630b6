# SPDX-License-Identifier: MIT
"""What the public headers say, in order: sections, prose, and declarations with the comments that belong to them.

The headers keep to a few rules, and a header that breaks one is told so:
  - A comment of one line with a title between dashes begins a section; what stands before the first is the section "".
  - A comment whose first line is empty is prose of its section; any other belongs to the declaration below it.
  - Functions and #defines that follow each other without an empty line share the comment above the first.
  - Fields, enumerators and #defines have their comments behind them, or above where they have room there.
"""
import re

TOKEN = re.compile(r"(?P<comment>/\*.*?\*/)|(?P<directive>^#[^\n]*)|(?P<space>\s+)|(?P<code>[^\s#/]|#|/)", re.S | re.M)


class Item:
    """One declaration: kind is function, struct, enum, handle, callback or define."""

    def __init__(self, kind, name, code, doc):
        self.kind, self.name, self.code, self.doc = kind, name, code, doc
        self.members = []  # of structs, enums: (code, text); (None, title) divides them


class Section:
    def __init__(self, header, title):
        self.header, self.title = header, title
        self.prose, self.items = [], []


def comment_lines(comment):
    """The text of a comment, line by line, without its frame and with what indents it within."""
    lines = [re.sub(r"^\s*\* ?", "", x) if i else x for i, x in enumerate(comment[2:-2].split("\n"))]
    lines[0] = lines[0].strip()
    return [x.rstrip() for x in lines]


def flat(comment):
    """The text of a comment that stands beside something: one paragraph."""
    return " ".join(re.sub(r"^\s*\*?\s*", "", x).strip() for x in comment[2:-2].split("\n")).strip()


def code_end(text, at):
    """Behind the ';' that ends the declaration which begins at `at`; comments may be within."""
    depth = 0
    while True:
        if text.startswith("/*", at):
            at = text.index("*/", at) + 2
            continue
        depth += (text[at] == "{") - (text[at] == "}")
        at += 1
        if text[at - 1] == ";" and depth == 0:
            return at


def behind(text, at):
    """A comment that begins on the line which `at` is in, and where it ends."""
    match = re.compile(r"[ \t]*(/\*.*?\*/)[ \t]*(?=\n)", re.S).match(text, at)
    return (flat(match[1]), match.end()) if match else ("", at)


def members(body):
    """Fields or enumerators, each with its text."""
    found, above, at = [], "", 0
    split_at = ";" if ";" in re.sub(r"/\*.*?\*/", "", body, flags=re.S) else ","
    while True:
        match = re.compile(r"\s*(/\*.*?\*/)", re.S).match(body, at)
        if match:
            divider = re.fullmatch(r"/\* -{4,} (.*?) -+ \*/", match[1])
            if divider:
                found.append((None, divider[1]))
            # Behind a field that has ended on this line, else above the next one.
            elif found and found[-1][0] and "\n" not in body[at:match.start(1)]:
                found[-1] = (found[-1][0], flat(match[1]))
            else:
                above = flat(match[1])
            at = match.end()
            continue
        match = re.compile(rf"\s*((?:[^/{split_at}(]|\([^()]*(?:\([^()]*\)[^()]*)*\)|/(?!\*))+)({split_at}|\Z|(?=/\*))",
                           re.S).match(body, at)
        if not match or not match[1].strip():
            return found
        found.append((" ".join(match[1].split()), above))
        above, at = "", match.end()


def declaration(code, doc):
    """An item from the text of one declaration, or None for a name that is only said ahead."""
    plain = " ".join(re.sub(r"/\*.*?\*/", " ", code, flags=re.S).split())
    match = re.match(r"(typedef )?(struct|enum) ?(\w*) ?\{", plain)
    if match:
        body = code[code.index("{") + 1:code.rindex("}")]
        text, at = behind(body, 0)
        item = Item(match[2], match[3], plain, doc or ([text] if text else []))
        item.members = members(body[at:] if text else body)
        return item
    if re.fullmatch(r"struct \w+;", plain):
        return None
    match = re.fullmatch(r"typedef struct (\w+) +\1;", plain)
    if match:
        return Item("handle", match[1], plain, doc)
    match = re.fullmatch(r"typedef .*?\(\*(\w+)\)\(.*\);", plain)
    if match:
        return Item("callback", match[1], plain, doc)
    match = re.fullmatch(r"QCHAIN_API (.*?(\w+)\(.*\);)", plain)
    if match:
        return Item("function", match[2], match[1], doc)
    raise SystemExit(f"header_doc: what is this? {plain}")


def read(path, name):
    """The sections of one header."""
    with open(path, encoding="utf-8") as f:
        text = f.read()
    sections, doc, at, last_end = [Section(name, "")], None, 0, None
    while at < len(text):
        match = TOKEN.match(text, at)
        here = sections[-1]
        if match["space"]:
            at = match.end()
        elif match["comment"]:
            title = re.fullmatch(r"/\* -{4,} (.*?) -+ \*/", match[0])
            if title:
                sections.append(Section(name, title[1]))
            elif match[0].startswith("/*\n"):
                here.prose.append(comment_lines(match[0]))
            elif "SPDX" not in match[0]:
                doc = comment_lines(match[0])
            at = match.end()
        elif match["directive"] or text.startswith('extern "C" {', at) or text.startswith("}", at):
            define = re.match(r"#define (QCHAIN_\w+) +(\w+)", match[0])
            if text.startswith('extern "C" {', at):
                at += len('extern "C" {')
            elif not define or define[1] == "QCHAIN_API":
                at = match.end()
            else:
                code = re.sub(r"/\*.*", "", match[0])
                beside, end = behind(text, at + len(code.rstrip()))
                item = Item("define", define[1], f"{define[1]} = {define[2]}", doc)
                item.members = [(item.code, beside)]
                here.items.append(item)
                at, doc = max(end, at + len(code)), None
                last_end = at
        else:
            end = code_end(text, at)
            item = declaration(text[at:end], doc)
            beside, end = behind(text, end)
            if item and beside and not item.doc:
                item.doc = [beside]
            if item and item.kind == "function" and not item.doc:
                shares = here.items and here.items[-1].kind == "function" and text[last_end:at].count("\n") == 1
                if not shares:
                    raise SystemExit(f"{name}: {item.name} has no comment")
            if item:
                here.items.append(item)
            at, doc, last_end = end, None, end
    return sections
