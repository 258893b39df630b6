#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Write qchain/_abi.py from the public headers.

    make_abi.py INCLUDE >qchain/_abi.py

For whoever changes a header; users of the package need neither this nor a compiler. tests/abi/check_python_abi.py
compares what was written with what the compiler makes of the headers.
"""
import keyword
import os
import re
import shlex
import subprocess
import sys
import tempfile

HEADERS = ("qchain.h", "qchain-backend.h")  # the first includes the others
SCALARS = {"void": "None", "char": "c_char", "int": "c_int", "size_t": "c_size_t", "uint8_t": "c_uint8",
           "int32_t": "c_int32", "uint32_t": "c_uint32", "int64_t": "c_int64", "uint64_t": "c_uint64"}

HEAD = '''# SPDX-License-Identifier: MIT
"""The public headers of libqchain, one to one: constants, structs, callbacks, functions.

Written by make_abi.py from include/*.h; what a thing means is said there. Handles are c_void_p.
"""
from __future__ import annotations

import ctypes
from ctypes import (CFUNCTYPE, POINTER, Structure, c_char, c_char_p, c_int, c_int32, c_int64, c_size_t, c_uint8,
                    c_uint32, c_uint64, c_void_p)
from typing import Any

from ._load import bind
'''


class Type:
    """A C type as far as the headers use them: a name, how many pointers, how many elements."""

    def __init__(self, base, stars=0, count=None, call=None):
        self.base, self.stars, self.count, self.call = base, stars, count, call


class Headers:
    """What the headers declare, in their order."""

    def __init__(self, include, cc):
        self.include, self.cc = include, cc
        self.constants = []  # names
        self.structs = {}    # name: [(field, Type)]
        self.callbacks = {}  # name: (Type, [Type])
        self.functions = {}  # name: (Type, [Type])
        for text in split(self.preprocess()):
            self.declaration(text)
        for name in sorted(n for n in os.listdir(include) if n.endswith(".h")):
            with open(os.path.join(include, name), encoding="utf-8") as f:
                self.constants += re.findall(r"^#define (QCHAIN_\w+) +(?:0x)?\d", f.read(), re.M)

    def preprocess(self):
        """The declarations of our own headers alone."""
        source = "".join(f"#include <{h}>\n" for h in HEADERS)
        done = subprocess.run([*shlex.split(self.cc), "-E", "-I", self.include, "-x", "c", "-"], input=source,
                              capture_output=True, text=True, check=True)
        kept, ours = [], False
        for line in done.stdout.splitlines():
            marker = re.match(r'# \d+ "([^"]*)"', line)
            if marker:
                ours = os.path.dirname(marker[1]) == self.include.rstrip("/")
            elif ours and not line.startswith("#"):
                kept.append(line)
        return re.sub(r"__attribute__\(\(.*?\)\)\)?", "", " ".join(kept))

    def declaration(self, text):
        body = re.fullmatch(r"(typedef )?(struct|enum) ?(\w*) ?\{(.*)\} ?(\w*)", text)
        if body and body[2] == "enum":
            self.constants += [e.split("=")[0].strip() for e in body[4].split(",") if e.strip()]
        elif body:
            self.structs[body[5] or body[3]] = [f for t in split(body[4]) for f in fields(t)]
        elif re.fullmatch(r"(typedef )?struct \w+( \w+)?", text):
            pass  # a handle, or a name said ahead
        elif text.startswith("typedef "):
            name, call = fields(text[len("typedef "):])[0]
            self.callbacks[name] = call.call
        else:
            name, result, params = function(text)
            self.functions[name] = (result, params)


def split(text):
    """At each ';' that is in no braces."""
    parts, depth, part = [], 0, ""
    for c in text:
        depth += (c == "{") - (c == "}")
        if c == ";" and depth == 0:
            parts.append(" ".join(part.split()))
            part = ""
        else:
            part += c
    return [p for p in parts if p]


def plain(text):
    """A type with a name: "const char *const *names" or "uint8_t digest[32]"."""
    array = re.fullmatch(r"(.*?)\[(\d+)\]", text)
    words = re.sub(r"\b(const|struct|enum|unsigned)\b", " ", array[1] if array else text)
    match = re.fullmatch(r"\s*(\w+)([\s*]*)(\w*)\s*", words)
    if not match:
        raise SystemExit(f"make_abi: what is this? {text}")
    return match[3], Type(match[1], match[2].count("*"), int(array[2]) if array else None)


def parameters(text):
    found = []
    depth, part = 0, ""
    for c in text + ",":
        depth += (c == "(") - (c == ")")
        if c == "," and depth == 0:
            if part.strip() not in ("", "void"):
                found.append(fields(part)[0][1])
            part = ""
        else:
            part += c
    return found


def function(text):
    match = re.fullmatch(r"(.*?)(\w+) ?\((.*)\)", text)
    if not match:
        raise SystemExit(f"make_abi: what is this? {text}")
    return match[2], plain(match[1] + " x")[1], parameters(match[3])


def fields(text):
    """The names that one declaration of a struct's fields gives, with their types."""
    call = re.fullmatch(r"\s*(.*?)\(\*(\w+)\) ?\((.*)\)\s*", text)
    if call:
        return [(call[2], Type("", call=(plain(call[1] + " x")[1], parameters(call[3]))))]
    first, *more = text.split(",")
    name, kind = plain(first)
    return [(name, kind)] + [(m.strip(), Type(kind.base, kind.stars, kind.count)) for m in more]


class Writer:
    """The same in Python."""

    def __init__(self, headers):
        self.h = headers

    def ctype(self, t, param=False):
        if t.call:
            return f"CFUNCTYPE({', '.join(self.ctype(x, True) for x in (t.call[0], *t.call[1]))})"
        stars, base = t.stars, t.base
        if t.count and param:
            stars, count = stars + 1, None
        else:
            count = t.count
        if stars == 0:
            made = SCALARS.get(base, base)
        elif base == "char":
            made = "POINTER(" * (stars - 1) + "c_char_p" + ")" * (stars - 1)
        elif base in SCALARS and base != "void" or base in self.h.structs:
            made = "POINTER(" * stars + SCALARS.get(base, base) + ")" * stars
        else:
            made = "POINTER(" * (stars - 1) + "c_void_p" + ")" * (stars - 1)
        return f"{made} * {count}" if count else made

    def hint(self, t):
        made = self.ctype(t)
        if t.count:
            return "bytes" if t.base == "char" else f"ctypes.Array[{SCALARS[t.base]}]"
        if t.call or t.base in self.h.callbacks:
            return "Any"
        if made == "c_char_p":
            return "bytes | None"
        if made == "c_void_p":
            return "int | None"
        if made.startswith("POINTER"):
            return re.sub(r"POINTER\((.*)\)", r"ctypes._Pointer[\1]", made)
        return "int"

    def write(self, values, out):
        out.write(HEAD + "\n")
        for name in self.h.constants:
            out.write(f"{name} = {values[name]}\n")
        for name, members in self.h.structs.items():
            out.write(f"\n\nclass {name}(Structure):\n")
            for field, t in members:
                if not keyword.iskeyword(field):
                    out.write(f"    {field}: {self.hint(t)}\n")
        out.write("\n\n")
        for name, (result, params) in self.h.callbacks.items():
            out.write(f"{name} = {self.ctype(Type('', call=(result, params)))}\n")
        for name, members in self.h.structs.items():
            out.write(f"{name}._fields_ = [\n")
            for field, t in members:
                out.write(f'    ("{field}", {self.ctype(t)}),\n')
            out.write("]\n")
        out.write("\n")
        for name, (result, params) in self.h.functions.items():
            out.write(f'{name} = bind("{name}", {self.ctype(result, True)}')
            out.write("".join(", " + self.ctype(p, True) for p in params) + ")\n")


def measure(headers):
    """What the compiler says: {"NAME": value} of constants, {"STRUCT": size}, {"STRUCT.FIELD": (offset, size)}."""
    lines = [f"#include <{h}>" for h in HEADERS] + ["#include <stdio.h>", "#include <stddef.h>", "int main(void)", "{"]
    lines += [f'    printf("{n} %lld\\n", (long long)({n}));' for n in headers.constants]
    for name, members in headers.structs.items():
        lines.append(f'    printf("{name} %zu\\n", sizeof({name}));')
        lines += [f'    printf("{name}.{m} %zu %zu\\n", offsetof({name}, {m}), sizeof((({name} *)0)->{m}));'
                  for m, _ in members]
    lines += ["    return 0;", "}", ""]
    with tempfile.TemporaryDirectory(prefix="qchain-abi-") as tmp:
        source, program = os.path.join(tmp, "abi.c"), os.path.join(tmp, "abi")
        with open(source, "w", encoding="utf-8") as f:
            f.write("\n".join(lines))
        subprocess.run([*shlex.split(headers.cc), "-I", headers.include, "-o", program, source], check=True)
        told = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in told.splitlines()]
    return {r[0]: int(r[1]) if len(r) == 2 else (int(r[1]), int(r[2])) for r in rows}


def main():
    if len(sys.argv) != 2:
        raise SystemExit("usage: make_abi.py INCLUDE >qchain/_abi.py")
    headers = Headers(sys.argv[1], os.environ.get("QC_CC") or "cc")
    Writer(headers).write(measure(headers), sys.stdout)


if __name__ == "__main__":
    main()
