#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""bindings/python/qchain/_abi.py against the public headers: constants, sizes of structs, places and sizes of their
fields as the compiler has them; functions and callbacks with what they take and return. Nothing may be missing in
either, also not from what the library exports."""
import argparse
import ctypes
import os
import re
import sys

ROOT = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))
PYTHON = os.path.join(ROOT, "bindings", "python")
sys.dont_write_bytecode = True
sys.path.insert(0, PYTHON)

import make_abi  # noqa: E402


def load():
    build = os.environ.get("QC_BUILD") or os.path.join(ROOT, "build")
    library = os.path.join(build, "lib", "libqchain.so.0")
    if not os.path.exists(library):
        print(f"SKIP: {library} is not built")
        sys.exit(77)
    if os.environ.get("QC_SAN"):
        print("SKIP: Python does not load a library that was built for a sanitizer")
        sys.exit(77)
    os.environ["QCHAIN_LIBRARY"] = library
    from qchain import _abi
    return _abi


def kind(ctype):
    """A ctypes type in letters: how it is passed. Pointers to structs and numbers say what they point to."""
    if ctype is None:
        return "void"
    if issubclass(ctype, ctypes._Pointer):
        return kind(ctype._type_) + "*"
    if issubclass(ctype, ctypes._CFuncPtr):
        return call_kind(ctype._restype_, ctype._argtypes_)
    if issubclass(ctype, ctypes.Structure):
        return ctype.__name__
    if issubclass(ctype, ctypes.c_void_p):
        return "void*"
    if issubclass(ctype, ctypes.c_char_p):
        return "char*"
    if issubclass(ctype, ctypes.Array):
        return f"{kind(ctype._type_)}[{ctype._length_}]"
    if issubclass(ctype, ctypes.c_char):
        return "char"
    signed = ctype(-1).value < 0
    return f"{'i' if signed else 'u'}{8 * ctypes.sizeof(ctype)}"


def call_kind(result, params):
    return f"{kind(result)}({', '.join(kind(p) for p in params)})"


C_KINDS = {"void": "void", "char": "char", "int": "i32", "size_t": f"u{8 * ctypes.sizeof(ctypes.c_size_t)}",
           "uint8_t": "u8", "int32_t": "i32", "uint32_t": "u32", "int64_t": "i64", "uint64_t": "u64"}


def c_kind(headers, t, param=False):
    """The same of a type of the headers. Handles are void*."""
    if t.base in headers.callbacks and not t.stars:
        t = make_abi.Type("", call=headers.callbacks[t.base])
    if t.call:
        return f"{c_kind(headers, t.call[0])}({', '.join(c_kind(headers, p, True) for p in t.call[1])})"
    base, stars = t.base, t.stars
    if base not in C_KINDS and base not in headers.structs:
        base = "void"
    text = C_KINDS.get(base, base) + "*" * stars
    if t.count:
        text += "*" if param else f"[{t.count}]"
    return text


def compare(headers, abi, measured, exported):
    """All that differs, in sentences."""
    wrong = []
    ours = {n: v for n, v in vars(abi).items() if n.startswith("QCHAIN_")}
    for name in headers.constants:
        if ours.pop(name, None) != measured[name]:
            wrong.append(f"{name} is {measured[name]}")
    wrong += [f"{name} is in no header" for name in ours]

    structs = {n: v for n, v in vars(abi).items()
               if isinstance(v, type) and issubclass(v, ctypes.Structure) and v is not ctypes.Structure}
    for name, members in headers.structs.items():
        struct = structs.pop(name, None)
        if struct is None:
            wrong.append(f"struct {name} is missing")
            continue
        if ctypes.sizeof(struct) != measured[name]:
            wrong.append(f"struct {name} has {measured[name]} bytes, not {ctypes.sizeof(struct)}")
        told = dict(struct._fields_)
        for field, t in members:
            if field not in told:
                wrong.append(f"{name}.{field} is missing")
                continue
            place = getattr(struct, field)
            if (place.offset, place.size) != measured[f"{name}.{field}"]:
                wrong.append(f"{name}.{field}: offset and size are {measured[f'{name}.{field}']}")
            if kind(told[field]) != c_kind(headers, t):
                wrong.append(f"{name}.{field} is {c_kind(headers, t)}, not {kind(told[field])}")
        wrong += [f"{name}.{f} is in no header" for f in told if f not in dict(members)]
    wrong += [f"struct {name} is in no header" for name in structs]

    functions = {n: v for n, v in vars(abi).items() if isinstance(v, ctypes._CFuncPtr)}
    for name, (result, params) in headers.functions.items():
        function = functions.pop(name, None)
        if function is None:
            wrong.append(f"{name}() is missing")
            continue
        want = f"{c_kind(headers, result)}({', '.join(c_kind(headers, p, True) for p in params)})"
        if call_kind(function.restype, function.argtypes) != want:
            wrong.append(f"{name}() is {want}, not {call_kind(function.restype, function.argtypes)}")
    wrong += [f"{name}() is in no header" for name in functions]
    wrong += [f"{name}() is exported, but in no header" for name in exported if name not in headers.functions]
    wrong += [f"{name}() is not exported" for name in headers.functions if name not in exported]
    for name, call in headers.callbacks.items():
        made = getattr(abi, name, None)
        want = c_kind(headers, make_abi.Type("", call=call))
        if made is None or kind(made) != want:
            wrong.append(f"callback {name} is {want}")
    return wrong


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--include", default=os.path.join(ROOT, "include"), help="the headers")
    args = p.parse_args()
    abi = load()
    headers = make_abi.Headers(args.include, os.environ.get("QC_CC") or "cc")
    with open(os.path.join(ROOT, "lib", "qchain.map"), encoding="utf-8") as f:
        exported = set(re.findall(r"^\s+(qchain_\w+);", f.read(), re.M))
    with open(os.path.join(ROOT, "tests", "abi", "struct_sizes.c"), encoding="utf-8") as f:
        known = set(re.findall(r"^SIZE\((\w+),", f.read(), re.M))
    if known - set(headers.structs) or len(headers.constants) < 100:
        print("FAIL: make_abi.py did not understand the headers:", known - set(headers.structs))
        return 1
    wrong = compare(headers, abi, make_abi.measure(headers), exported)
    for w in wrong:
        print("FAIL _abi.py:", w)
    if wrong:
        print("again: cd bindings/python && python3 make_abi.py ../../include >_abi.new && mv _abi.new qchain/_abi.py")
    print(f"python abi: {len(headers.constants)} constants, {len(headers.structs)} structs, "
          f"{len(headers.functions)} functions, {len(wrong)} differ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
