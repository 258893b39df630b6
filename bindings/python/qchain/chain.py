# SPDX-License-Identifier: MIT
"""An open chain of layers."""
from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
import time
import warnings
import weakref
from _thread import get_ident
from typing import TYPE_CHECKING, Any, Callable, Iterator, NoReturn, Optional, Union

from . import _abi
from ._call import (MAX_U64, Job, Name, Progress, check, local, name_bytes, no_pickle, opt_name, opt_text, options,
                    run, shown, text_bytes, u32, u64)
from ._load import bind_fast
from .env import Env, EnvHandle, Policy, env_ptr
from .errors import Busy, NoSpace, OutOfRange, from_error
from .types import (DIRTY, EXTENT, Bitmap, Comparison, DirtyExtent, Extent, ImageInfo, JobResult, Measured,
                    PrefetchResult, Snapshot, SourceInfo, image_info, job_result)

if TYPE_CHECKING:
    from .aio import AsyncQueue
    from .image import CreateOptions

# Anything that has the buffer protocol; there is no better name for it before Python 3.12.
Buffer = Any

_read = bind_fast("qchain_read")
_offset = ctypes.c_uint64
_length = ctypes.c_size_t
_LENGTHS = {n: _length(n) for n in (512, 4096, 8192, 16384, 32768, 65536, 1 << 17, 1 << 18, 1 << 19, 1 << 20)}
_byref = ctypes.byref
_at = (ctypes.c_char * 0).from_buffer  # the place of any buffer, whatever its length
BATCH = 4096  # extents a call, once a map has turned out to be long


def open_options(*, writable: bool = False, format: Optional[str] = None, snapshot: Optional[str] = None,
                 no_backing: bool = False, index: Union[Name, bool, None] = None, copy_on_read: bool = False,
                 policy: Optional[Policy] = None, data_file: Optional[Name] = None, force_share: bool = False,
                 direct: bool = False, salvage: bool = False, cache: str = "writeback", discard: bool = False,
                 read_ahead: bool = True, max_layers: int = 0, fd: Optional[int] = None) -> Any:
    """How an image is opened, as qchain_open_opts; see Chain."""
    modes = {"writeback": 0, "writethrough": _abi.QCHAIN_OPEN_WRITETHROUGH, "unsafe": _abi.QCHAIN_OPEN_UNSAFE}
    if cache not in modes:
        raise ValueError(f"cache is one of {', '.join(modes)}, not {cache!r}")
    o = options(_abi.qchain_open_opts, _abi.qchain_open_opts_init)
    o.flags = (writable * _abi.QCHAIN_OPEN_WRITE | no_backing * _abi.QCHAIN_OPEN_NO_BACKING |
               (index is False) * _abi.QCHAIN_OPEN_NO_INDEX | copy_on_read * _abi.QCHAIN_OPEN_COPY_ON_READ |
               force_share * _abi.QCHAIN_OPEN_FORCE_SHARE | direct * _abi.QCHAIN_OPEN_DIRECT |
               salvage * _abi.QCHAIN_OPEN_SALVAGE | discard * _abi.QCHAIN_OPEN_DISCARD |
               (not read_ahead) * _abi.QCHAIN_OPEN_NO_READ_AHEAD | (fd is not None) * _abi.QCHAIN_OPEN_FD |
               modes[cache])
    o.format, o.snapshot, o.data_file = opt_text(format), opt_text(snapshot), opt_name(data_file)
    o.index = None if index is None or isinstance(index, bool) else name_bytes(index)
    o.policy = None if policy is None else policy._ptr
    o.max_layers, o.fd = u32(max_layers, "max_layers"), -1 if fd is None else fd
    return o


class Handle:
    """A qchain, closed once. `users` has the thread of every call that is under way, but for reads: these hold nothing
    but a reference to `arg`, which costs them nothing."""

    def __init__(self, env: Optional[EnvHandle], writable: bool) -> None:
        self.ptr: int | None = None
        self.arg: ctypes.c_void_p | None = None
        self.taken: ctypes.c_void_p | None = None
        self.env = env
        self.writable = writable
        self.pid = os.getpid()
        self.users: list[int] = []
        self.queues: list[AsyncQueue] = []
        self.lock = threading.Lock()  # of queues
        self.long: weakref.WeakSet[Using] = weakref.WeakSet()

    def open(self, ptr: int | None) -> None:
        self.ptr, self.arg, self.taken = ptr, None if ptr is None else ctypes.c_void_p(ptr), None

    def take(self) -> int | None:
        """From now on it is closed to everybody else."""
        ptr, self.ptr = self.ptr, None
        self.taken, self.arg = self.arg, None
        return ptr

    def others(self) -> bool:
        """Whether other threads are in calls, after take. An entry of this thread is one that a signal has left
        behind."""
        me = get_ident()
        # Two references are this object's own and the call's.
        return any(u != me for u in self.users) or sys.getrefcount(self.taken) > 2 and self.taken is not None

    def fail(self, code: int) -> NoReturn:
        """Raise what a read failed for."""
        if self.arg is None:
            raise ValueError("the chain is closed")
        raise from_error(code, local.err)

    def close_queues(self) -> None:
        with self.lock:
            for q in self.queues:
                q.close()
            self.queues.clear()

    def free(self, ptr: int | None, close: Any = _abi.qchain_close) -> None:
        """The library knows by itself that in a forked child there is nothing to free."""
        if self.pid == os.getpid():
            self.close_queues()
        close(ptr)
        self.env = None


def _finalize(handle: Handle) -> None:
    """The Chain is gone, or the program ends; in that case daemon threads may still be reading."""
    ptr = handle.take()
    if ptr is not None and (handle.pid != os.getpid() or not handle.others()):
        handle.free(ptr)


class Using:
    """A call under way: with Using(handle) as ptr."""

    def __init__(self, handle: Handle, long: bool = False) -> None:
        self.handle = handle
        self.me = get_ident()
        self.active = True
        if long:
            handle.long.add(self)

    def __enter__(self) -> int:
        self.handle.users.append(self.me)
        ptr = self.handle.ptr
        if ptr is None:
            self.__exit__()
            raise ValueError("the chain is closed")
        return ptr

    def __exit__(self, *_: object) -> None:
        self.active = False
        self.handle.users.remove(self.me)


class Chain:
    """An image and all layers below it as one disk; a context manager. Any number of threads may use it at once.

    with Chain("top.qcow2") as chain:
        chain.read(4096, 0)
    """

    def __init__(self, name: Optional[Name], *, env: Optional[Env] = None, writable: bool = False,
                 format: Optional[str] = None, snapshot: Optional[str] = None, no_backing: bool = False,
                 index: Union[Name, bool, None] = None, copy_on_read: bool = False, policy: Optional[Policy] = None,
                 data_file: Optional[Name] = None, force_share: bool = False, direct: bool = False,
                 salvage: bool = False, cache: str = "writeback", discard: bool = False, read_ahead: bool = True,
                 max_layers: int = 0, fd: Optional[int] = None) -> None:
        """Open for reading, or with writable for writing to the top. name: a path, URL or "json:{...}".

        env            threads, budgets and rules that chains share; None makes a private one
        format         of the top; name it for images that guests can write
        snapshot       id or name of an internal snapshot of the top, to be read
        no_backing     the top layer alone; elsewhere zeros
        index          None: a sidecar index beside the image is used; False: none; else its path or URL
        copy_on_read   with writable: what is read of layers below is stored in the top
        policy         what images may refer to, instead of the environment's
        force_share    take no locks and mind none
        direct         O_DIRECT for local data
        salvage        metadata past a file's end reads as zeros
        cache          "writeback", "writethrough" (writes are durable when they return), "unsafe"
        discard        space that is given up goes back to the file system
        fd             the top is this descriptor, which stays yours
        """
        o = open_options(writable=writable, format=format, snapshot=snapshot, no_backing=no_backing, index=index,
                         copy_on_read=copy_on_read, policy=policy, data_file=data_file, force_share=force_share,
                         direct=direct, salvage=salvage, cache=cache, discard=discard, read_ahead=read_ahead,
                         max_layers=max_layers, fd=fd)
        self._handle = handle = Handle(None if env is None else env.handle, writable)
        self._final = weakref.finalize(self, _finalize, handle)
        self.env = env
        made = ctypes.c_void_p()
        try:
            check(_abi.qchain_open(_byref(made), env_ptr(env), opt_name(name), _byref(o), local.err))
        finally:
            handle.open(made.value)
        if env is not None:
            env.chains.add(self)

    __reduce_ex__ = no_pickle

    # ---- opening and closing

    def __enter__(self) -> Chain:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.close()
        except NoSpace:
            self._final()  # nobody is left who could make room and call again
            raise

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None and self._handle.ptr is not None:
            warnings.warn(f"{self!r} was not closed", ResourceWarning, source=self)

    def __repr__(self) -> str:
        return f"<qchain.Chain {'closed' if self.closed else 'open'} at {id(self):#x}>"

    @property
    def closed(self) -> bool:
        return self._handle.ptr is None

    def close(self) -> None:
        """Finish writing and close, once calls of other threads have ended; closing twice is fine. Raises what
        finishing fails for: after NoSpace the chain is still open, so make room and call it again. With asyncio call
        it in the loop's thread, or await aclose()."""
        h = self._handle
        if h.pid != os.getpid():
            self._final()
            return
        for q in tuple(h.queues):
            q.check_close()
        if any(call.active and call.me == get_ident() for call in h.long):
            raise Busy("the chain cannot be closed by the progress callback of its own call")
        ptr = h.take()
        if ptr is None:
            return
        try:
            pause = 0.0005
            while h.others():
                time.sleep(pause)
                pause = min(2 * pause, 0.05)
        except BaseException:
            h.open(ptr)
            raise
        self._free(ptr)

    def _free(self, ptr: int) -> None:
        h = self._handle
        h.close_queues()
        code = _abi.qchain_finish(ptr, local.err) if h.writable else 0
        if code == _abi.QCHAIN_E_NOSPACE:
            h.open(ptr)
            check(code)
        try:
            check(code)
        finally:
            h.free(ptr)
            self._final.detach()

    # ---- what it is

    @property
    def size(self) -> int:
        """Bytes of the disk."""
        with Using(self._handle) as ptr:
            return int(_abi.qchain_size(ptr))

    def __len__(self) -> int:
        return self.size

    def __bool__(self) -> bool:
        return True

    @property
    def layers(self) -> int:
        """How many layers, at least 1."""
        with Using(self._handle) as ptr:
            return int(_abi.qchain_layers(ptr))

    @property
    def index_layers(self) -> int:
        """How many layers, from the bottom, are known from a sidecar index."""
        with Using(self._handle) as ptr:
            return int(_abi.qchain_index_layers(ptr))

    def info(self, layer: int = 0) -> ImageInfo:
        """What a layer says of itself; 0 is the top."""
        made = ctypes.POINTER(_abi.qchain_image_info)()
        with Using(self._handle) as ptr:
            check(_abi.qchain_layer_info(_byref(made), ptr, u32(layer, "layer"), local.err))
        return image_info(made)

    def source_name(self, source: int) -> str | None:
        """The name of a file that extents refer to; None for an unknown number."""
        with Using(self._handle) as ptr:
            return shown(_abi.qchain_source_name(ptr, u32(source, "source")))

    def source_stat(self, source: int) -> SourceInfo:
        """How large a file of the chain is, and whose."""
        out = _abi.qchain_source_info()
        out.struct_size = ctypes.sizeof(out)
        with Using(self._handle) as ptr:
            check(_abi.qchain_source_stat(ptr, u32(source, "source"), _byref(out), local.err))
        return SourceInfo(out.flags, out.layer, out.size, out.allocated_size, out.mtime_ns)

    # ---- maps

    def map(self, offset: int = 0, length: Optional[int] = None, *, holes: bool = True,
            clusters: bool = False) -> Iterator[Extent]:
        """What is stored, where, and what reads as zeros: extents that cover the range in order, a batch a call.
        holes: look for holes in the layers' files. clusters: one compressed cluster an extent, with its place.
        A stretch is one extent or, where a batch ends, two."""
        flags = (not holes) * _abi.QCHAIN_MAP_NO_HOLES | clusters * _abi.QCHAIN_MAP_CLUSTERS
        return self._extents(offset, length, lambda ptr, at, n, *out: _abi.qchain_map(
            ptr, at, n, *out, flags, local.err), _abi.qchain_extent, _extents_made)

    def diff(self, below: int, upto: int = 0, offset: int = 0, length: Optional[int] = None, *,
             holes: bool = True) -> Iterator[Extent]:
        """What may differ between two layers: all that is allocated above layer `below`, up to layer `upto`.
        below = chain.layers means nothing: all that is allocated."""
        u32(below, "layer"), u32(upto, "layer")
        flags = (not holes) * _abi.QCHAIN_MAP_NO_HOLES
        return self._extents(offset, length, lambda ptr, at, n, *out: _abi.qchain_diff(
            ptr, below, upto, at, n, *out, flags, local.err), _abi.qchain_extent, _extents_made)

    def bitmap_extents(self, name: str, offset: int = 0, length: Optional[int] = None) -> Iterator[DirtyExtent]:
        """What a dirty bitmap says, as extents that cover the range in order."""
        raw = text_bytes(name)
        return self._extents(offset, length, lambda ptr, at, n, *out: _abi.qchain_bitmap_query(
            ptr, raw, at, n, *out, local.err), _abi.qchain_dirty_extent, _dirty_made)

    def _extents(self, offset: int, length: Optional[int], call: Callable[..., Any], kind: Any,
                 made: Callable[[Any], Iterator[Any]]) -> Iterator[Any]:
        """Checked now, not when the first extent is asked for."""
        if length is None:
            length = max(0, self.size - u64(offset, "offset"))
        end = min(u64(offset, "offset") + u64(length, "length"), MAX_U64)
        return self._batches(offset, end, call, kind, made)

    def _batches(self, offset: int, end: int, call: Callable[..., Any], kind: Any,
                 made: Callable[[Any], Iterator[Any]]) -> Iterator[Any]:
        n, going, room = ctypes.c_uint32(), ctypes.c_uint64(), 64
        array = (kind * room)()
        size = ctypes.sizeof(kind)
        while True:
            with Using(self._handle) as ptr:
                check(call(ptr, offset, end - offset, array, room, _byref(n), _byref(going)))
            # A copy: the caller may keep the iterator over it while the array is filled again.
            yield from made(bytes(memoryview(array).cast("B")[:n.value * size]))
            if going.value >= end or going.value <= offset:
                return
            offset = going.value
            if n.value == room and room < BATCH:
                room *= 4
                array = (kind * room)()

    # ---- reading and writing

    def readinto(self, buffer: Buffer, offset: int) -> int:
        """Fill a writable buffer (bytearray, memoryview, mmap, array, numpy array) with the disk's bytes at offset,
        without a copy between. All or an exception; returns how many bytes that were."""
        n = len(buffer) if type(buffer) is bytearray else memoryview(buffer).nbytes
        if offset >> 64:
            u64(offset, "offset")
        handle = self._handle
        # handle.arg is never put into a variable, which a traceback could keep: see Handle.
        code = _read(handle.arg, _at(buffer), _LENGTHS.get(n) or _length(n), _offset(offset), 0, local.fast)
        if code:
            handle.fail(code)
        return n

    def reader(self, buffer: Buffer) -> Callable[[int], int]:
        """A function of an offset that does what readinto(buffer, offset) does, for loops over many small reads: it
        looks at the buffer only now. While it exists the buffer cannot be resized."""
        handle, place, n = self._handle, _at(buffer), memoryview(buffer).nbytes
        length = _length(n)

        def read(offset: int) -> int:
            if offset >> 64:
                u64(offset, "offset")
            code = _read(handle.arg, place, length, _offset(offset), 0, local.fast)
            if code:
                handle.fail(code)
            return n
        return read

    def read(self, length: int, offset: int) -> bytes:
        """The bytes of the disk at offset: all of them or an exception."""
        if length < 0 or offset < 0 or offset + length > self.size:
            raise OutOfRange(f"read: {length} bytes at {offset} reach beyond the disk's {self.size} bytes")
        buffer = bytearray(length)
        self.readinto(buffer, offset)
        return bytes(buffer)

    def write(self, data: Buffer, offset: int, *, fua: bool = False) -> int:
        """Write a buffer's bytes at offset: all or an exception. fua: durable when it returns."""
        self._put(_abi.qchain_write, data, offset, fua * _abi.QCHAIN_WRITE_FUA, local.err)
        return len(data) if isinstance(data, bytes) else memoryview(data).nbytes

    def write_compressed(self, data: Buffer, offset: int) -> None:
        """Write whole clusters compressed; offset and length are multiples of the cluster size."""
        self._put(_abi.qchain_write_compressed, data, offset, 0, local.err)

    def _put(self, function: Any, data: Buffer, offset: int, *rest: Any) -> None:
        length, place = readable(data)
        u64(offset, "offset")
        with Using(self._handle) as ptr:
            check(function(ptr, place, length, offset, *rest))

    def write_zeroes(self, length: int, offset: int, *, unmap: bool = False, fua: bool = False) -> None:
        """Make a range read as zeros, where possible without writing data. unmap: its space need not be kept."""
        flags = unmap * _abi.QCHAIN_WRITE_UNMAP | fua * _abi.QCHAIN_WRITE_FUA
        u64(length, "length"), u64(offset, "offset")
        with Using(self._handle) as ptr:
            check(_abi.qchain_write_zeroes(ptr, length, offset, flags, local.err))

    def discard(self, length: int, offset: int) -> None:
        """Say that a range is not needed any more; whole clusters of it read as zeros afterwards."""
        u64(length, "length"), u64(offset, "offset")
        with Using(self._handle) as ptr:
            check(_abi.qchain_discard(ptr, length, offset, 0, local.err))

    def _simple(self, function: Any, *args: Any) -> None:
        with Using(self._handle) as ptr:
            check(function(ptr, *args, local.err))

    def flush(self) -> None:
        """Make durable what was written before."""
        self._simple(_abi.qchain_flush)

    def resize(self, size: int, *, shrink: bool = False) -> None:
        """Change the disk's size, a multiple of 512. shrink: it may become smaller."""
        self._simple(_abi.qchain_resize, u64(size, "size"), shrink * _abi.QCHAIN_RESIZE_SHRINK)

    @contextlib.contextmanager
    def drained(self) -> Iterator[None]:
        """with chain.drained(): all writing was flushed, and what comes is held."""
        self._simple(_abi.qchain_drain)
        try:
            yield
        finally:
            with Using(self._handle) as ptr:
                _abi.qchain_resume(ptr)

    def source_readinto(self, source: int, buffer: Buffer, offset: int) -> int:
        """Fill a buffer with the bytes of one of the chain's files, as they are."""
        n = memoryview(buffer).nbytes
        self._simple(_abi.qchain_source_read, u32(source, "source"), _at(buffer), n,
                     u64(offset, "offset"), 0)
        return n

    # ---- internal snapshots and dirty bitmaps of the top

    def snapshots(self) -> tuple[Snapshot, ...]:
        """Internal snapshots of the top."""
        return self.info().snapshots

    def snapshot_create(self, name: str, *, vm_clock_nsec: int = 0, date_ns: int = 0) -> None:
        """Make an internal snapshot; date_ns 0 is now."""
        o = options(_abi.qchain_snapshot_opts, _abi.qchain_snapshot_opts_init)
        o.vm_clock_nsec, o.date_ns = u64(vm_clock_nsec, "vm_clock_nsec"), u64(date_ns, "date_ns")
        self._simple(_abi.qchain_snapshot_create, text_bytes(name), _byref(o))

    def snapshot_apply(self, key: str) -> None:
        """Go back to a snapshot; key: its id, or else its name."""
        self._simple(_abi.qchain_snapshot_apply, text_bytes(key))

    def snapshot_delete(self, key: str) -> None:
        self._simple(_abi.qchain_snapshot_delete, text_bytes(key))

    def bitmaps(self) -> tuple[Bitmap, ...]:
        """Persistent dirty bitmaps of the top, as its file has them: what was changed through this chain is there when
        it was closed."""
        return self.info().bitmaps

    def bitmap_add(self, name: str, granularity: int = 0, *, enabled: bool = True) -> None:
        """Add one; granularity: bytes of disk a bit, 0 is chosen."""
        self._simple(_abi.qchain_bitmap_add, text_bytes(name), u64(granularity, "granularity"), int(enabled))

    def bitmap_remove(self, name: str) -> None:
        self._simple(_abi.qchain_bitmap_remove, text_bytes(name))

    def bitmap_clear(self, name: str) -> None:
        """Forget what it has noted."""
        self._simple(_abi.qchain_bitmap_clear, text_bytes(name))

    def bitmap_enable(self, name: str, enabled: bool = True) -> None:
        """Let it track writes, or not."""
        self._simple(_abi.qchain_bitmap_enable, text_bytes(name), int(enabled))

    def bitmap_disable(self, name: str) -> None:
        self.bitmap_enable(name, False)

    def bitmap_merge(self, name: str, source: Chain, from_name: str) -> None:
        """Add what another bitmap has, of this chain or another."""
        with Using(source._handle) as other:
            self._simple(_abi.qchain_bitmap_merge, text_bytes(name), other, text_bytes(from_name))

    # ---- long operations: `progress` is called with bytes done and in all, ten times a second, by the calling thread;
    # what it raises, and Ctrl-C, cancels the operation. `job` lets other threads watch, pause and cancel.

    def _long(self, function: Callable[[int, Job, Optional[int]], Any], job: Optional[Job],
              progress: Optional[Progress]) -> None:
        used = job or Job()
        with Using(self._handle, True) as ptr:
            run(lambda err: function(ptr, used, err), used, progress)

    def rebase(self, backing: Optional[Name], backing_format: Optional[str] = None, *, unsafe: bool = False,
               force: bool = False, compare: bool = False, compress: bool = False, threads: int = 0,
               job: Optional[Job] = None, progress: Optional[Progress] = None) -> JobResult:
        """Let the top stand on another backing file (None: on none) with the same bytes to be read. unsafe: copy
        nothing. compare: copy only clusters that differ. compress: what must be copied."""
        o = options(_abi.qchain_rebase_opts, _abi.qchain_rebase_opts_init)
        o.flags = (unsafe * _abi.QCHAIN_REBASE_UNSAFE | force * _abi.QCHAIN_REBASE_FORCE |
                   compare * _abi.QCHAIN_REBASE_COMPARE | compress * _abi.QCHAIN_REBASE_COMPRESS)
        o.backing_file, o.backing_format = opt_name(backing), opt_text(backing_format)
        o.threads = u32(threads, "threads")
        return self._moved(_abi.qchain_rebase, o, job, progress)

    def _moved(self, function: Any, o: Any, job: Optional[Job], progress: Optional[Progress],
               *before: Any) -> JobResult:
        used, result = job or Job(), new_result()
        o.job = used._ptr
        self._long(lambda ptr, _, err: function(ptr, *before, _byref(o), _byref(result), err), used, progress)
        return job_result(result)

    def stream(self, base: Optional[int] = None, *, job: Optional[Job] = None,
               progress: Optional[Progress] = None) -> JobResult:
        """Pull what is below into the top, down to layer `base`, on which it then stands; None: everything."""
        result = new_result()
        layer = self.layers if base is None else u32(base, "layer")
        self._long(lambda ptr, j, err: _abi.qchain_stream(ptr, layer, 0, j._ptr, _byref(result), err), job, progress)
        return job_result(result)

    def merge(self, limit: int = 0, *, job: Optional[Job] = None, progress: Optional[Progress] = None) -> JobResult:
        """Move layers right below the top into it, if they are small: at most `limit` bytes; 0 is 300 MB."""
        result = new_result()
        u64(limit, "limit")
        self._long(lambda ptr, j, err: _abi.qchain_merge(ptr, limit, 0, j._ptr, _byref(result), err), job, progress)
        return job_result(result)

    def convert(self, target: Name, *, create: Optional[CreateOptions] = None, compress: bool = False,
                existing: bool = False, is_zero: bool = False, salvage: bool = False, offload: bool = False,
                unsafe: bool = False, bitmaps: bool = False, skip_broken: bool = False, sparse_bytes: int = 0,
                threads: int = 0, job: Optional[Job] = None, progress: Optional[Progress] = None) -> JobResult:
        """Copy the disk to an image, atomically unless it is `existing`. create: the target's options; with a backing
        file only what lies above it is copied. is_zero: an existing target reads as zeros."""
        o = options(_abi.qchain_convert_opts, _abi.qchain_convert_opts_init)
        o.flags = (compress * _abi.QCHAIN_CONVERT_COMPRESS | existing * _abi.QCHAIN_CONVERT_EXISTING |
                   is_zero * _abi.QCHAIN_CONVERT_IS_ZERO | salvage * _abi.QCHAIN_CONVERT_SALVAGE |
                   offload * _abi.QCHAIN_CONVERT_OFFLOAD | unsafe * _abi.QCHAIN_CONVERT_UNSAFE |
                   bitmaps * _abi.QCHAIN_CONVERT_BITMAPS | skip_broken * _abi.QCHAIN_CONVERT_SKIP_BROKEN)
        o.threads, o.sparse_bytes = u32(threads, "threads"), u64(sparse_bytes, "sparse_bytes")
        if create is not None:
            o.create = ctypes.pointer(create.struct())
        used, result, raw = job or Job(), new_result(), name_bytes(target)
        o.job = used._ptr
        self._long(lambda ptr, _, err: _abi.qchain_convert(ptr, raw, _byref(o), _byref(result), err), used, progress)
        return job_result(result)

    def measure(self, create: CreateOptions) -> Measured:
        """How large the file of a new image with this disk's data would be."""
        out, o = _abi.qchain_measure_result(), create.struct()
        out.struct_size = ctypes.sizeof(out)
        self._simple(_abi.qchain_measure, _byref(o), _byref(out))
        return Measured(out.required, out.fully_allocated, None if out.bitmaps == MAX_U64 else out.bitmaps)

    def checksum(self, *, threads: int = 0, job: Optional[Job] = None,
                 progress: Optional[Progress] = None) -> bytes:
        """A digest of the disk's bytes, 32 bytes: the same for the same bytes, however they are stored."""
        digest = (ctypes.c_uint8 * 32)()
        u32(threads, "threads")
        self._long(lambda ptr, j, err: _abi.qchain_checksum(ptr, digest, threads, j._ptr, err), job, progress)
        return bytes(digest)

    def compare(self, other: Chain, *, strict: bool = False, threads: int = 0, job: Optional[Job] = None,
                progress: Optional[Progress] = None) -> Comparison:
        """Compare the bytes of two disks. strict: sizes and allocation, too."""
        o = options(_abi.qchain_compare_opts, _abi.qchain_compare_opts_init)
        used = job or Job()
        o.flags, o.threads, o.job = strict * _abi.QCHAIN_COMPARE_STRICT, u32(threads, "threads"), used._ptr
        with Using(other._handle, True) as b:
            self._long(lambda a, _, err: _abi.qchain_compare(a, b, _byref(o), err), used, progress)
        return Comparison(o.result, o.offset)

    def prefetch(self, *, metadata: bool = False, idle: bool = False, top: bool = False, max_bytes: int = 0,
                 deadline: float = 0, bytes_per_second: int = 0, requests_per_second: int = 0, parallel: int = 0,
                 ranges: Optional[list[tuple[int, int]]] = None, job: Optional[Job] = None,
                 progress: Optional[Progress] = None) -> PrefetchResult:
        """Bring what layers behind URLs show into the environment's disk cache. ranges: (offset, length) in the order
        in which they are wanted. idle: reads go first. top: into the top of this chain, which is open for writing, and
        not the cache. deadline: in seconds; 0 is none, as of the other limits."""
        o = options(_abi.qchain_prefetch_opts, _abi.qchain_prefetch_opts_init)
        o.flags = metadata * _abi.QCHAIN_PREFETCH_METADATA | idle * _abi.QCHAIN_PREFETCH_IDLE | top * _abi.QCHAIN_PREFETCH_TOP
        o.max_bytes, o.deadline_ms = u64(max_bytes, "max_bytes"), u64(int(deadline * 1000), "deadline")
        o.bytes_per_second = u64(bytes_per_second, "bytes_per_second")
        o.requests_per_second = u64(requests_per_second, "requests_per_second")
        o.parallel = u32(parallel, "parallel")
        if ranges:
            array = (_abi.qchain_prefetch_range * len(ranges))()
            for r, (offset, length) in zip(array, ranges):
                r.offset, r.length = u64(offset, "offset"), u64(length, "length")
            o.ranges, o.n_ranges = array, len(ranges)
        used, r = job or Job(), _abi.qchain_prefetch_result()
        r.struct_size, o.job = ctypes.sizeof(r), used._ptr
        self._long(lambda ptr, _, err: _abi.qchain_prefetch(_byref(ctypes.c_void_p(ptr)), 1, _byref(o), _byref(r), err),
                   used, progress)
        return PrefetchResult(r.visible, r.local, r.unkept, r.cached, r.fetched, r.requests, r.end)

    def _index(self, function: Any, name: Optional[Name], no_wait: bool, job: Optional[Job],
               progress: Optional[Progress]) -> None:
        o = options(_abi.qchain_index_opts, _abi.qchain_index_opts_init)
        used = job or Job()
        o.flags, o.name, o.job = no_wait * _abi.QCHAIN_INDEX_NO_WAIT, opt_name(name), used._ptr
        self._long(lambda ptr, _, err: function(ptr, _byref(o), err), used, progress)

    def index_build(self, name: Optional[Name] = None, *, no_wait: bool = False, job: Optional[Job] = None,
                    progress: Optional[Progress] = None) -> None:
        """Write the chain's sidecar index, atomically; name: None is beside the image."""
        self._index(_abi.qchain_index_build, name, no_wait, job, progress)

    def index_verify(self, name: Optional[Name] = None, *, job: Optional[Job] = None,
                     progress: Optional[Progress] = None) -> None:
        """Compare a sidecar index with the layers; the chain must have been opened with index=False."""
        self._index(_abi.qchain_index_verify, name, False, job, progress)

    @contextlib.contextmanager
    def traced(self, path: Name, *, max_bytes: int = 0, keep_first: bool = False) -> Iterator[None]:
        """with chain.traced("boot.qctrace"): what is read is recorded."""
        o = options(_abi.qchain_trace_opts, _abi.qchain_trace_opts_init)
        o.max_bytes, o.flags = u64(max_bytes, "max_bytes"), keep_first * _abi.QCHAIN_TRACE_KEEP_FIRST
        self._simple(_abi.qchain_trace_start, name_bytes(path), _byref(o))
        try:
            yield
        finally:
            self._simple(_abi.qchain_trace_stop)

    # ---- asyncio: one queue an event loop

    def queue(self, depth: int = 0) -> AsyncQueue:
        """The running event loop's queue on this chain, made at its first use; depth counts then."""
        from .aio import queue_of
        return queue_of(self._handle, depth)

    async def aread(self, length: int, offset: int) -> bytes:
        """read, without blocking the event loop."""
        return await self.queue().read(length, offset)

    async def areadinto(self, buffer: Buffer, offset: int) -> int:
        """readinto, without blocking the event loop. Leave the buffer alone until it returns; if the task is
        cancelled meanwhile, until the chain is closed."""
        return await self.queue().readinto(buffer, offset)

    async def awrite(self, data: Buffer, offset: int, *, fua: bool = False) -> int:
        """write, without blocking the event loop."""
        return await self.queue().write(data, offset, fua=fua)

    async def awrite_zeroes(self, length: int, offset: int, *, unmap: bool = False, fua: bool = False) -> None:
        await self.queue().write_zeroes(length, offset, unmap=unmap, fua=fua)

    async def adiscard(self, length: int, offset: int) -> None:
        await self.queue().discard(length, offset)

    async def aflush(self) -> None:
        """flush: what completed before is durable."""
        await self.queue().flush()

    async def aclose(self) -> None:
        """Close, in a thread; this loop's requests end first."""
        from .aio import aclose
        await aclose(self._handle, self.close)

    async def __aenter__(self) -> Chain:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _extents_made(raw: bytes) -> Iterator[Extent]:
    return map(Extent._make, EXTENT.iter_unpack(raw))


def _dirty_made(raw: bytes) -> Iterator[DirtyExtent]:
    return (DirtyExtent(at, n, dirty != 0) for at, n, dirty in DIRTY.iter_unpack(raw))


def new_result() -> Any:
    result = _abi.qchain_job_result()
    result.struct_size = ctypes.sizeof(result)
    return result


def readable(data: Buffer) -> tuple[int, Any]:
    """Length and place of a buffer's bytes; those of one that cannot be written to are copied, but for bytes."""
    if not isinstance(data, bytes):
        view = memoryview(data)
        if view.nbytes and view.contiguous and not view.readonly:
            return view.nbytes, _at(data)
        data = view.tobytes()
    return len(data), data
