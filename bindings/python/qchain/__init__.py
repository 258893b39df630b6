# SPDX-License-Identifier: MIT
"""libqchain: virtual disks kept as chains of qcow2 and raw layers.

    import qchain

    with qchain.Chain("top.qcow2") as chain:
        for extent in chain.map():
            if extent.data:
                chain.read(extent.length, extent.offset)

Offsets and lengths are bytes. Calls raise QchainError, or the subclass of its code. Any thread may use a chain; a
handle that was made before a fork raises InvalidArgument in the child. qchain._abi has the C interface, one to one.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import _abi
from ._call import Job
from .chain import Chain
from .env import Env, Policy
from .errors import (AccessDenied, AuthenticationFailed, BrokenChain, Busy, Cancelled, Changed, Corrupt, Exists,
                     InternalError, InvalidArgument, LimitExceeded, Locked, MediumError, NetworkError, NoMemory,
                     NoSpace, NotFound, OutOfRange, QchainError, ReadOnly, Throttled, Timeout, Unsupported)
from .image import CreateOptions, check, commit, create, delete_layer, index_drop, inspect
from .types import (Bitmap, CheckResult, Comparison, DirtyExtent, Extent, ImageInfo, JobResult, Measured,
                    PrefetchResult, Snapshot, SourceInfo)

if TYPE_CHECKING:
    from .aio import AsyncQueue

__version__ = "0.1.0"

__all__ = ["AccessDenied", "AsyncQueue", "AuthenticationFailed", "Bitmap", "BrokenChain", "Busy", "Cancelled", "Chain",
           "Changed", "CheckResult", "Comparison", "Corrupt", "CreateOptions", "DirtyExtent", "Env", "Exists",
           "Extent", "ImageInfo", "InternalError", "InvalidArgument", "Job", "JobResult", "LimitExceeded", "Locked",
           "Measured", "MediumError", "NetworkError", "NoMemory", "NoSpace", "NotFound", "OutOfRange", "Policy",
           "PrefetchResult", "QchainError", "ReadOnly", "Snapshot", "SourceInfo", "Throttled", "Timeout", "Unsupported",
           "check", "commit", "create", "delete_layer", "has", "index_drop", "inspect", "version"]


def version() -> str:
    """The version of the library in use."""
    return str(_abi.qchain_version_string(), "ascii")


def has(feature: str) -> bool:
    """Whether the library in use has a feature: "zstd", "write", "io_uring", "http", ..."""
    return bool(_abi.qchain_has(feature.encode()))


def __getattr__(name: str) -> Any:
    """asyncio is slow to import, and only for who uses it."""
    if name == "AsyncQueue":
        from .aio import AsyncQueue
        return AsyncQueue
    raise AttributeError(f"module 'qchain' has no attribute {name!r}")
