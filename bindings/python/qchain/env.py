# SPDX-License-Identifier: MIT
"""Environments and policies."""
from __future__ import annotations

import ctypes
import weakref
from typing import Any, Callable, Iterable, Optional

from . import _abi
from ._call import Name, check, local, name_bytes, no_pickle, options, shown, text_bytes, u32, u64
from .errors import Busy, from_code

Log = Callable[[int, str, str], object]


class Policy:
    """What images may refer to. Without arguments: regular files beneath the top image's directory."""

    def __init__(self, rules: str = "", *, file: Optional[Name] = None, trust: bool = False, data_files: bool = False,
                 block_devices: bool = False, paths: Iterable[Name] = (), urls: Iterable[str] = (),
                 backing_format: Optional[str] = None) -> None:
        """rules: as text, one a line ("allow-path DIR", "allow-url URL", ...); file: the same from a file.
        trust: follow every reference a user could name. paths, urls: what layers may lie beneath."""
        self._ptr: int | None = _abi.qchain_policy_create()
        if self._ptr is None:
            raise MemoryError("no memory for a policy")
        if rules:
            check(_abi.qchain_policy_parse(self._ptr, text_bytes(rules), local.err))
        if file is not None:
            check(_abi.qchain_policy_load(self._ptr, name_bytes(file), local.err))
        flags = (trust * _abi.QCHAIN_POLICY_TRUST | data_files * _abi.QCHAIN_POLICY_DATA_FILE |
                 block_devices * _abi.QCHAIN_POLICY_BLOCK_DEVICE)
        check(_abi.qchain_policy_allow(self._ptr, flags, local.err))
        for path in paths:
            check(_abi.qchain_policy_allow_path(self._ptr, name_bytes(path), local.err))
        for url in urls:
            check(_abi.qchain_policy_allow_url(self._ptr, text_bytes(url), local.err))
        if backing_format is not None:
            check(_abi.qchain_policy_backing_format(self._ptr, text_bytes(backing_format), local.err))

    def __del__(self, destroy: Any = _abi.qchain_policy_destroy) -> None:
        destroy(getattr(self, "_ptr", None))

    __reduce_ex__ = no_pickle


class EnvHandle:
    """A qchain_env and what it calls, ended when nobody refers to it: chains do until they are closed."""

    def __init__(self, log: Any) -> None:
        self.ptr: int | None = None
        self.log = log

    def __del__(self, destroy: Any = _abi.qchain_env_destroy) -> None:
        destroy(self.ptr)


def _log_function(log: Log) -> Any:
    def call(_data: Any, level: int, tag: bytes | None, message: bytes | None) -> None:
        log(level, shown(tag) or "", shown(message) or "")
    return _abi.qchain_log_fn(call)


class Env:
    """Threads, memory budgets, policy and log that many chains share; a context manager."""

    def __init__(self, *, policy: Optional[Policy] = None, remote: str = "", remote_file: Optional[Name] = None,
                 threads: int = 0, walkers: int = 0, index_bytes: int = 0, block_bytes: int = 0,
                 max_open_files: int = 0, log: Optional[Log] = None, log_level: int = 0) -> None:
        """remote: settings for layers behind URLs, one a line ("cache-dir DIR", "s3-endpoint URL", ...), as
        <qchain-remote.h> lists them; remote_file: the same from a file. log(level, tag, message): called from any
        thread, must not call the package. Numbers: 0 is the library's choice."""
        self._handle: EnvHandle | None = None
        self.chains: weakref.WeakSet[Any] = weakref.WeakSet()
        handle = EnvHandle(None if log is None else _log_function(log))
        o = options(_abi.qchain_env_opts, _abi.qchain_env_opts_init)
        o.threads, o.walkers = u32(threads, "threads"), u32(walkers, "walkers")
        o.index_bytes, o.block_bytes = u64(index_bytes, "index_bytes"), u64(block_bytes, "block_bytes")
        o.max_open_files, o.log_level = u32(max_open_files, "max_open_files"), u32(log_level, "log_level")
        if handle.log is not None:
            o.log = handle.log
        o.policy = None if policy is None else policy._ptr
        settings = _abi.qchain_remote_create() if remote or remote_file is not None else None
        try:
            if remote:
                check(_abi.qchain_remote_parse(settings, text_bytes(remote), local.err))
            if remote_file is not None:
                check(_abi.qchain_remote_load(settings, name_bytes(remote_file), local.err))
            o.remote = settings
            made = ctypes.c_void_p()
            check(_abi.qchain_env_create(ctypes.byref(made), ctypes.byref(o), local.err))
            handle.ptr = made.value
        finally:
            _abi.qchain_remote_destroy(settings)
        self._handle = handle

    __reduce_ex__ = no_pickle

    @property
    def handle(self) -> EnvHandle:
        if self._handle is None:
            raise ValueError("the environment is closed")
        return self._handle

    def close(self) -> None:
        """End it; every chain in it must be closed. Closing twice is fine."""
        if any(not c.closed for c in self.chains):
            raise Busy("the environment has chains that are open: close them first")
        self._handle = None

    def __enter__(self) -> Env:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _counters(self, kind: Any, function: Any) -> dict[str, int]:
        out = kind()
        out.struct_size = ctypes.sizeof(out)
        code = function(self.handle.ptr, ctypes.byref(out))
        if code != 0:
            raise from_code(code, "statistics cannot be had")
        return {name: getattr(out, name) for name, _ in kind._fields_ if name != "struct_size"}

    def stats(self) -> dict[str, int]:
        """What its chains did so far; the names are those of qchain_stats."""
        return self._counters(_abi.qchain_stats, _abi.qchain_env_stats)

    def remote_stats(self) -> dict[str, int]:
        """The same of layers behind URLs: qchain_remote_stats."""
        return self._counters(_abi.qchain_remote_stats, _abi.qchain_env_remote_stats)


def env_ptr(env: Optional[Env]) -> int | None:
    return None if env is None else env.handle.ptr
