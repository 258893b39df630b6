# SPDX-License-Identifier: MIT
"""Calling the library: errors, arguments, long calls that can be watched and interrupted."""
from __future__ import annotations

import ctypes
import operator
import os
import threading
from typing import Any, Callable, Optional, Union

from . import _abi
from .errors import OutOfRange, from_error

Name = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]
Progress = Callable[[int, int], object]

MAX_U64 = (1 << 64) - 1
TICK = 0.1  # seconds between two looks at a long call's progress


class _Error:
    """A qchain_error of one thread, freed with the thread."""

    def __init__(self) -> None:
        self.ptr: int | None = _abi.qchain_error_create()

    def __del__(self, destroy: Any = _abi.qchain_error_destroy) -> None:
        destroy(self.ptr)


class _Local(threading.local):
    def __init__(self) -> None:
        self.error = _Error()
        self.err = self.error.ptr
        self.fast = ctypes.c_void_p(self.err)


local = _Local()


def check(code: int) -> None:
    """Raise what the last call of this thread failed for; it was given local.err."""
    if code != 0:
        raise from_error(code, local.err)


def options(kind: Any, init: Any) -> Any:
    """An option struct with its defaults."""
    o = kind()
    init(ctypes.byref(o), ctypes.sizeof(o))
    return o


def name_bytes(name: Name) -> bytes:
    """A path or URL as the library takes it."""
    raw = os.fsencode(name)
    if b"\0" in raw:
        raise ValueError("a name cannot hold a null character")
    return raw


def text_bytes(text: str) -> bytes:
    raw = text.encode("utf-8")
    if b"\0" in raw:
        raise ValueError("a text cannot hold a null character")
    return raw


def opt_name(name: Optional[Name]) -> bytes | None:
    return None if name is None else name_bytes(name)


def opt_text(text: Optional[str]) -> bytes | None:
    return None if text is None else text_bytes(text)


def u64(value: int, what: str) -> int:
    """ctypes would take the value modulo 2**64."""
    if not 0 <= operator.index(value) <= MAX_U64:
        raise OutOfRange(f"{what} {value}: not from 0 to 2**64 - 1")
    return value


def u32(value: int, what: str) -> int:
    if not 0 <= operator.index(value) <= 0xffffffff:
        raise OutOfRange(f"{what} {value}: not from 0 to 2**32 - 1")
    return value


def shown(raw: bytes | None) -> str | None:
    """A string of the library, for people."""
    return None if raw is None else raw.decode("utf-8", "backslashreplace")


def no_pickle(self: Any, protocol: Any = None) -> Any:
    """A handle means nothing in another process."""
    raise TypeError(f"a {type(self).__name__} cannot be pickled or copied: open it again in the other process")


class Job:
    """Watches and steers one long call from other threads or from signal handlers; once cancelled it is spent."""

    def __init__(self) -> None:
        self._ptr: int | None = _abi.qchain_job_create()
        if self._ptr is None:
            raise MemoryError("no memory for a job")

    def __del__(self, destroy: Any = _abi.qchain_job_destroy) -> None:
        destroy(getattr(self, "_ptr", None))

    __reduce_ex__ = no_pickle

    def cancel(self) -> None:
        """Ask the call to end; it raises Cancelled soon."""
        _abi.qchain_job_cancel(self._ptr)

    def pause(self, paused: bool = True) -> None:
        """Hold the call, or let it go on."""
        _abi.qchain_job_pause(self._ptr, int(paused))

    def rate(self, bytes_per_second: int) -> None:
        """Limit the rate; 0 is no limit."""
        _abi.qchain_job_rate(self._ptr, u64(bytes_per_second, "rate"))

    def progress(self) -> tuple[int, int]:
        """Bytes done, and bytes in all."""
        done, total = ctypes.c_uint64(), ctypes.c_uint64()
        _abi.qchain_job_progress(self._ptr, ctypes.byref(done), ctypes.byref(total))
        return done.value, total.value


class _Worker:
    """One call in a thread of its own, so that the caller's thread can take signals."""

    def __init__(self, function: Callable[[Optional[int]], Any]) -> None:
        self.function = function
        self.claim = [True]  # who pops it decides whether the call is made
        self.done = threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            if self.take():
                code = self.function(local.err)
                if code != 0:
                    self.error = from_error(code, local.err)
        except BaseException as e:  # ctypes refused an argument: the caller is told
            self.error = e
        finally:
            self.done.set()

    def take(self) -> bool:
        try:
            return self.claim.pop()
        except IndexError:
            return False

    def end(self, job: Job) -> None:
        """Return when the call has ended: its memory is the caller's."""
        if self.take():
            return  # it never began
        while not self.done.is_set():
            job.cancel()
            try:
                self.done.wait()
            except BaseException:  # another signal: the call ends first, all the same
                continue


def run(function: Callable[[Optional[int]], Any], job: Job, progress: Optional[Progress] = None) -> None:
    """Make a long call; function gets a qchain_error. Ctrl-C, and whatever else a signal handler or `progress` raises,
    cancels it and is raised when it has ended."""
    if progress is None and threading.current_thread() is not threading.main_thread():
        check(function(local.err))
        return
    worker = _Worker(function)
    try:
        threading.Thread(target=worker.run, name="qchain-call", daemon=True).start()
        while not worker.done.wait(TICK):
            if progress is not None:
                progress(*job.progress())
    except BaseException:
        worker.end(job)
        raise
    if worker.error is not None:
        raise worker.error
    if progress is not None:
        progress(*job.progress())
