# SPDX-License-Identifier: MIT
"""asyncio: requests through a queue whose descriptor the event loop watches."""
from __future__ import annotations

import asyncio
import ctypes
import threading
from collections import deque
from typing import Any, Callable, Optional

from . import _abi
from ._call import check, local, u32, u64
from .chain import Buffer, Handle, Using, readable
from .errors import Busy, Cancelled, OutOfRange, from_code

DEPTH = 256
REAP = 64


class AsyncQueue:
    """A queue of one event loop on one chain; Chain.queue() makes it. Its calls belong to the loop's thread. More
    requests than it is deep wait for their turn."""

    def __init__(self, handle: Handle, loop: asyncio.AbstractEventLoop, depth: int) -> None:
        self._handle = handle
        self._loop = loop
        self._thread = threading.get_ident()
        self._depth = depth or DEPTH
        self._pending: dict[int, tuple[asyncio.Future[None], Any]] = {}
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._last = 0
        self._reaping = False
        self._out = (_abi.qchain_completion * REAP)()
        self._ptr: int | None = None
        o = _abi.qchain_queue_opts()
        _abi.qchain_queue_opts_init(ctypes.byref(o), ctypes.sizeof(o))
        o.depth = u32(self._depth, "depth")
        made = ctypes.c_void_p()
        with Using(handle) as chain:
            check(_abi.qchain_queue_create(ctypes.byref(made), chain, ctypes.byref(o), local.err))
        self._fd: int = _abi.qchain_queue_fd(made)
        if self._fd < 0:
            _abi.qchain_queue_destroy(made)
            raise from_code(self._fd, "the queue has no descriptor")
        loop.add_reader(self._fd, self._reap)
        self._ptr = made.value

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    @property
    def engine(self) -> str:
        """What carries the requests: "io_uring" or "threads"."""
        return str(_abi.qchain_queue_engine(self._ptr), "ascii")

    @property
    def pending(self) -> int:
        """Requests under way."""
        return len(self._pending)

    async def read(self, length: int, offset: int) -> bytes:
        if length < 0 or length > _abi.qchain_size(self._chain()):
            raise OutOfRange(f"read: {length} bytes are more than the disk has")
        buffer = bytearray(length)
        await self.readinto(buffer, offset)
        return bytes(buffer)

    async def readinto(self, buffer: Buffer, offset: int) -> int:
        n = memoryview(buffer).nbytes
        place = (ctypes.c_char * 0).from_buffer(buffer)
        await self._request(_abi.qchain_queue_read, place, n, u64(offset, "offset"), flags=0)
        return n

    async def write(self, data: Buffer, offset: int, *, fua: bool = False) -> int:
        n, place = readable(data)
        await self._request(_abi.qchain_queue_write, place, n, u64(offset, "offset"),
                            flags=fua * _abi.QCHAIN_REQUEST_FUA)
        return n

    async def write_zeroes(self, length: int, offset: int, *, unmap: bool = False, fua: bool = False) -> None:
        await self._request(_abi.qchain_queue_write_zeroes, u64(length, "length"), u64(offset, "offset"),
                            flags=unmap * _abi.QCHAIN_REQUEST_UNMAP | fua * _abi.QCHAIN_REQUEST_FUA)

    async def discard(self, length: int, offset: int) -> None:
        await self._request(_abi.qchain_queue_discard, u64(length, "length"), u64(offset, "offset"), flags=0)

    async def flush(self) -> None:
        await self._request(_abi.qchain_queue_flush)

    def _chain(self) -> int:
        """The handle; no other thread closes a chain while its loop runs."""
        if self._ptr is None or self._handle.ptr is None:
            raise ValueError("the chain is closed")
        return self._handle.ptr

    async def _request(self, function: Any, *args: Any, flags: Optional[int] = None) -> None:
        if threading.get_ident() != self._thread:
            raise RuntimeError("a queue is used by its event loop's thread alone")
        # Held back by MORE until the loop has run what is ready: then all go to the kernel together.
        more = () if flags is None else (flags | _abi.QCHAIN_REQUEST_MORE,)
        try:
            await self._turn()
            self._chain()
            self._last += 1
            user, future = self._last, self._loop.create_future()
            check(function(self._ptr, *args, *more, user, local.err))
        except BaseException:
            self._let_in()  # the turn is somebody else's
            raise
        self._pending[user] = (future, args)  # the buffer is the library's until the request is reaped
        if not self._reaping:
            self._reaping = True
            self._loop.call_soon(self._reap)
        try:
            await future
        except asyncio.CancelledError:
            if self._ptr is not None and user in self._pending:
                _abi.qchain_queue_cancel(self._ptr, user)
            raise

    async def _turn(self) -> None:
        """Wait until there is room for one more request."""
        while len(self._pending) >= self._depth:
            turn = self._loop.create_future()
            self._waiting.append(turn)
            await turn

    def _reap(self) -> None:
        """Take what is finished, and start what was held back."""
        self._reaping = False
        if self._ptr is None:
            return
        n = _abi.qchain_queue_reap(self._ptr, self._out, 0, REAP, 0)
        for i in range(max(0, n)):
            c = self._out[i]
            future, _ = self._pending.pop(c.user or 0)
            if future.done():
                continue
            if c.result == 0:
                future.set_result(None)
            else:
                future.set_exception(from_code(c.result, (c.error or b"").decode("utf-8", "backslashreplace")))
        self._let_in()
        if n == REAP and not self._reaping:  # there may be more; others have their turn first
            self._reaping = True
            self._loop.call_soon(self._reap)

    def _let_in(self) -> None:
        free = self._depth - len(self._pending)
        while self._waiting and free > 0:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                free -= 1

    def check_close(self) -> None:
        """Raise unless this thread may close it."""
        if self._ptr is not None and not self._loop.is_closed() and self._loop.is_running() and \
                threading.get_ident() != self._thread:
            raise Busy("the chain is used by an event loop of another thread: close it there, or await its aclose()")

    def close(self) -> None:
        """End all requests and give the queue back."""
        ptr, self._ptr = self._ptr, None
        if ptr is None:
            return
        if not self._loop.is_closed():
            self._loop.remove_reader(self._fd)
        _abi.qchain_queue_destroy(ptr)
        pending, self._pending = self._pending, {}
        if self._loop.is_closed():
            return
        for future in [f for f, _ in pending.values()] + list(self._waiting):
            if not future.done():
                future.set_exception(Cancelled("the chain was closed"))
        self._waiting.clear()

    async def drain(self) -> None:
        """Wait until nothing is under way."""
        while self._pending:
            await asyncio.wait([f for f, _ in self._pending.values()])
            await asyncio.sleep(0)


def queue_of(handle: Handle, depth: int) -> AsyncQueue:
    """The running loop's queue; those of loops that were closed are closed."""
    loop = asyncio.get_running_loop()
    for q in tuple(handle.queues):
        if q.loop is loop:
            return q
    with handle.lock:  # other threads have loops, too
        for q in [q for q in handle.queues if q.loop.is_closed()]:
            q.close()
            handle.queues.remove(q)
        q = AsyncQueue(handle, loop, depth)
        handle.queues.append(q)
    return q


async def aclose(handle: Handle, close: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for q in [q for q in handle.queues if q.loop is loop]:
        await q.drain()
        with handle.lock:
            q.close()
            handle.queues.remove(q)
    await loop.run_in_executor(None, close)
