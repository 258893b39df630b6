# SPDX-License-Identifier: MIT
"""Finding libqchain."""
from __future__ import annotations

import ctypes
import ctypes.util
import os
from typing import Any

SONAME = "libqchain.so.0"


def _load() -> ctypes.CDLL:
    given = os.environ.get("QCHAIN_LIBRARY")
    if given:
        try:
            return ctypes.CDLL(given)
        except OSError as e:
            raise ImportError(f"QCHAIN_LIBRARY names {given}, which cannot be loaded ({e}); let it name {SONAME}, "
                              "or unset it to use the library that is installed") from None
    try:
        return ctypes.CDLL(SONAME)
    except OSError as e:
        found = ctypes.util.find_library("qchain")
        if found and found != SONAME:
            raise ImportError(f"this package needs {SONAME}, and {found} is installed: install the package that "
                              "belongs to it") from None
        raise ImportError(f"{SONAME} cannot be loaded ({e}): install libqchain and run ldconfig, or let the "
                          f"environment variable QCHAIN_LIBRARY name the file (build/lib/{SONAME} of a source "
                          "tree)") from None


_library = _load()


def bind(name: str, result: Any, *params: Any) -> Any:
    """The function `name` of the library."""
    try:
        function = getattr(_library, name)
    except AttributeError:
        raise ImportError(f"{_library._name} has no {name}: it is older than this package; install a libqchain of "
                          "at least this package's version") from None
    function.restype = result
    function.argtypes = params
    return function


def bind_fast(name: str) -> Any:
    """The same without a declaration, which costs half a microsecond a call: every argument must be an instance of the
    ctypes type that is meant."""
    return _library[name]  # not the attribute, whose declaration is shared
