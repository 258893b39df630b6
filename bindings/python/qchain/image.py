# SPDX-License-Identifier: MIT
"""Images by name: making, checking, describing, committing."""
from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, Iterable, Optional

from . import _abi
from ._call import (MAX_U64, Job, Name, Progress, check as _check, local, name_bytes, opt_name, opt_text, options, run,
                    shown, u32, u64)
from .chain import new_result, open_options
from .env import Env, Policy, env_ptr
from .types import CheckResult, ImageInfo, JobResult, image_info, job_result

_byref = ctypes.byref
_FOUND = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)
COMPRESSIONS = {"zlib": _abi.QCHAIN_COMPRESSION_ZLIB, "zstd": _abi.QCHAIN_COMPRESSION_ZSTD}
PREALLOCATIONS = {"off": _abi.QCHAIN_PREALLOC_OFF, "metadata": _abi.QCHAIN_PREALLOC_METADATA,
                  "falloc": _abi.QCHAIN_PREALLOC_FALLOC, "full": _abi.QCHAIN_PREALLOC_FULL}


@dataclass(frozen=True)
class CreateOptions:
    """What a new image is like; 0 is the default of qemu-img."""
    size: Optional[int] = None  #: bytes; None: that of the backing file, or of the disk that is converted
    format: str = "qcow2"
    version: int = 0
    cluster_size: int = 0
    refcount_bits: int = 0
    compression: str = "zlib"
    preallocation: str = "off"
    backing_file: Optional[Name] = None  #: as it is to be recorded
    backing_format: Optional[str] = None
    data_file: Optional[Name] = None
    policy: Optional[Policy] = None  #: for opening the backing file
    extended_l2: bool = False
    lazy_refcounts: bool = False
    data_file_raw: bool = False
    unsafe_backing: bool = False  #: do not open the backing file
    keep: bool = False  #: fail with Exists if the file exists

    def struct(self) -> Any:
        """As qchain_create_opts."""
        for table, what in ((COMPRESSIONS, self.compression), (PREALLOCATIONS, self.preallocation)):
            if what not in table:
                raise ValueError(f"{what!r}: not one of {', '.join(table)}")
        o = options(_abi.qchain_create_opts, _abi.qchain_create_opts_init)
        o.flags = (self.extended_l2 * _abi.QCHAIN_CREATE_EXTENDED_L2 |
                   self.lazy_refcounts * _abi.QCHAIN_CREATE_LAZY_REFCOUNTS |
                   self.data_file_raw * _abi.QCHAIN_CREATE_DATA_FILE_RAW |
                   self.unsafe_backing * _abi.QCHAIN_CREATE_UNSAFE_BACKING | self.keep * _abi.QCHAIN_CREATE_KEEP)
        o.version, o.refcount_bits = u32(self.version, "version"), u32(self.refcount_bits, "refcount_bits")
        o.size = MAX_U64 if self.size is None else u64(self.size, "size")
        o.cluster_size = u64(self.cluster_size, "cluster_size")
        o.compression, o.preallocation = COMPRESSIONS[self.compression], PREALLOCATIONS[self.preallocation]
        o.format, o.backing_format = opt_text(self.format), opt_text(self.backing_format)
        o.backing_file, o.data_file = opt_name(self.backing_file), opt_name(self.data_file)
        o.policy = None if self.policy is None else self.policy._ptr
        return o


def create(name: Name, size: Optional[int] = None, *, env: Optional[Env] = None, **kind: Any) -> None:
    """Make an image, atomically; a file that exists is replaced. Keywords: the fields of CreateOptions."""
    o = CreateOptions(size, **kind).struct()
    _check(_abi.qchain_create(env_ptr(env), name_bytes(name), _byref(o), local.err))


def inspect(name: Optional[Name], *, env: Optional[Env] = None, **how: Any) -> ImageInfo:
    """What one image says of itself and refers to; opens nothing else. Keywords: format, fd, force_share of Chain."""
    made = ctypes.POINTER(_abi.qchain_image_info)()
    o = open_options(**how)
    _check(_abi.qchain_inspect(_byref(made), env_ptr(env), opt_name(name), _byref(o), local.err))
    return image_info(made)


def check(name: Optional[Name], *, repair: Optional[str] = None, env: Optional[Env] = None,
          job: Optional[Job] = None, progress: Optional[Progress] = None, **how: Any) -> CheckResult:
    """Whether one qcow2 image is valid. repair: "leaks" or "all". Other keywords: format, fd, data_file, force_share of
    Chain. Ends whatever it found: see the result."""
    flags = {None: 0, "leaks": _abi.QCHAIN_CHECK_REPAIR_LEAKS, "all": _abi.QCHAIN_CHECK_REPAIR_ALL}
    if repair not in flags:
        raise ValueError(f"repair is None, 'leaks' or 'all', not {repair!r}")
    messages: list[str] = []
    found = _FOUND(lambda _data, _level, message: messages.append(shown(message) or ""))
    o = options(_abi.qchain_check_opts, _abi.qchain_check_opts_init)
    used, out = job or Job(), _abi.qchain_check_result()
    out.struct_size = ctypes.sizeof(out)
    o.flags, o.job, o.found = flags[repair], used._ptr, found
    o.open = ctypes.pointer(open_options(**how))
    raw, ptr = opt_name(name), env_ptr(env)
    run(lambda err: _abi.qchain_check(ptr, raw, _byref(o), _byref(out), err), used, progress)
    return CheckResult(out.corruptions, out.leaks, out.corruptions_fixed, out.leaks_fixed, out.check_errors,
                       out.total_clusters, out.allocated_clusters, out.fragmented_clusters, out.compressed_clusters,
                       out.image_end_offset, tuple(messages))


def commit(name: Name, base: Optional[Name] = None, *, keep: bool = False, threads: int = 0,
           env: Optional[Env] = None, job: Optional[Job] = None, progress: Optional[Progress] = None,
           **how: Any) -> JobResult:
    """Write what the layers from `name` down to the base (excluded) hold into the base. base: None is the top's backing
    file. keep: do not empty the top afterwards. Other keywords: how the chain is opened, as of Chain."""
    o = options(_abi.qchain_commit_opts, _abi.qchain_commit_opts_init)
    used, result = job or Job(), new_result()
    o.flags, o.threads = keep * _abi.QCHAIN_COMMIT_KEEP, u32(threads, "threads")
    o.base, o.job, o.open = opt_name(base), used._ptr, ctypes.pointer(open_options(**how))
    raw, ptr = name_bytes(name), env_ptr(env)
    run(lambda err: _abi.qchain_commit(ptr, raw, _byref(o), _byref(result), err), used, progress)
    return job_result(result)


def delete_layer(layer: Name, children: Iterable[Name], *, remove: bool = False, env: Optional[Env] = None,
                 job: Optional[Job] = None, progress: Optional[Progress] = None, **how: Any) -> JobResult:
    """Take a layer out of the chains above it. children: all images whose backing file it is. remove: the file, too."""
    names = [name_bytes(c) for c in children]
    array = (ctypes.c_char_p * len(names))(*names)
    used, result, o = job or Job(), new_result(), open_options(**how)
    raw, ptr, flags = name_bytes(layer), env_ptr(env), _abi.QCHAIN_DELETE_FILE if remove else 0
    run(lambda err: _abi.qchain_delete_layer(ptr, raw, array, len(names), flags, _byref(o), used._ptr,
                                             _byref(result), err), used, progress)
    return job_result(result)


def index_drop(name: Name, *, index: Optional[Name] = None, env: Optional[Env] = None) -> None:
    """Remove the sidecar index of an image, or the file `index`."""
    o = options(_abi.qchain_index_opts, _abi.qchain_index_opts_init)
    o.name = opt_name(index)
    _check(_abi.qchain_index_drop(env_ptr(env), name_bytes(name), _byref(o), local.err))
