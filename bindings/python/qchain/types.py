# SPDX-License-Identifier: MIT
"""What calls return."""
from __future__ import annotations

import datetime
import struct
from dataclasses import dataclass
from typing import Any, NamedTuple

from . import _abi
from ._call import shown

EXTENT = struct.Struct("=QQQIIII24x")
DIRTY = struct.Struct("=QQI4x")


class Extent(NamedTuple):
    """One stretch of a disk. Numbers are bytes."""
    offset: int
    length: int
    host_offset: int  #: see file_offset
    flags: int        #: QCHAIN_EXTENT_*
    layer: int        #: 0 is the top
    source: int       #: number of the file, for Chain.source_name
    host_length: int  #: of a compressed cluster's stream, with clusters=True

    @property
    def end(self) -> int:
        """Where the next one begins."""
        return self.offset + self.length

    @property
    def present(self) -> bool:
        """Some layer holds it."""
        return bool(self.flags & _abi.QCHAIN_EXTENT_PRESENT)

    @property
    def data(self) -> bool:
        """Bytes are stored."""
        return bool(self.flags & _abi.QCHAIN_EXTENT_DATA)

    @property
    def zero(self) -> bool:
        """It reads as zeros."""
        return bool(self.flags & _abi.QCHAIN_EXTENT_ZERO)

    @property
    def compressed(self) -> bool:
        return bool(self.flags & _abi.QCHAIN_EXTENT_COMPRESSED)

    @property
    def file_offset(self) -> int | None:
        """Where its bytes lie in the source's file, if they lie there as they are."""
        return self.host_offset if self.flags & _abi.QCHAIN_EXTENT_HAS_OFFSET else None


class DirtyExtent(NamedTuple):
    """What a dirty bitmap says of a stretch of the disk."""
    offset: int
    length: int
    dirty: bool


class JobResult(NamedTuple):
    """What an operation did, in bytes but for `layers`."""
    copied: int      #: data written where it was missing
    zeroed: int      #: ranges made zero without data
    compressed: int  #: of copied: disk bytes whose streams were moved as they are
    compared: int    #: read to be compared
    salvaged: int    #: could not be read, and are zeros
    layers: int      #: of the chain afterwards


class PrefetchResult(NamedTuple):
    """What a prefetch did, in bytes but for `requests` and `end`."""
    visible: int
    local: int
    unkept: int
    cached: int
    fetched: int
    requests: int
    end: int  #: QCHAIN_PREFETCH_ALL, _BYTES or _DEADLINE: why it ended


class Measured(NamedTuple):
    """How large a new image's file would be, in bytes."""
    required: int
    fully_allocated: int
    bitmaps: int | None  #: what the source's bitmaps take; None: they cannot be copied


class SourceInfo(NamedTuple):
    """One of the files a chain is made of."""
    flags: int  #: QCHAIN_SOURCE_*
    layer: int
    size: int
    allocated_size: int
    mtime_ns: int


class CheckResult(NamedTuple):
    """What is wrong with an image, and what was mended; `messages` tells of each thing found."""
    corruptions: int
    leaks: int
    corruptions_fixed: int
    leaks_fixed: int
    check_errors: int
    total_clusters: int
    allocated_clusters: int
    fragmented_clusters: int
    compressed_clusters: int
    image_end_offset: int
    messages: tuple[str, ...]

    @property
    def clean(self) -> bool:
        """Nothing is wrong (any more)."""
        return not (self.corruptions or self.leaks or self.check_errors)


class Comparison(NamedTuple):
    """Whether two disks are the same."""
    result: int  #: QCHAIN_SAME, QCHAIN_DIFFER_*
    offset: int  #: where they differ first

    @property
    def same(self) -> bool:
        return self.result == _abi.QCHAIN_SAME


@dataclass(frozen=True)
class Snapshot:
    """An internal snapshot of an image."""
    id: str
    name: str
    vm_state_size: int
    disk_size: int
    date_ns: int        #: since the epoch
    vm_clock_nsec: int
    icount: int | None

    @property
    def date(self) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self.date_ns / 1e9, datetime.timezone.utc)


@dataclass(frozen=True)
class Bitmap:
    """A persistent dirty bitmap."""
    name: str
    granularity: int  #: bytes of disk a bit
    enabled: bool     #: it tracks writes
    in_use: bool      #: was not saved properly: not to be trusted


@dataclass(frozen=True)
class ImageInfo:
    """What one image says of itself; sizes in bytes."""
    name: str
    format: str
    flags: int               #: QCHAIN_IMAGE_*
    version: int             #: of qcow2: 2, 3; 0 for raw
    virtual_size: int
    file_size: int
    allocated_size: int
    cluster_size: int
    subcluster_size: int
    refcount_bits: int
    compression: int         #: QCHAIN_COMPRESSION_*
    crypt_method: int
    backing_name: str | None      #: as recorded
    backing_resolved: str | None  #: as it would be opened
    backing_format: str | None
    data_file: str | None
    backing_name_raw: bytes | None
    data_file_raw: bytes | None
    snapshots: tuple[Snapshot, ...]
    bitmaps: tuple[Bitmap, ...]
    incompatible_features: int
    compatible_features: int
    autoclear_features: int


def _text(raw: bytes | None) -> str:
    return shown(raw) or ""


def _snapshot(s: Any) -> Snapshot:
    return Snapshot(_text(s.id), _text(s.name), s.vm_state_size, s.disk_size, s.date_sec * 10**9 + s.date_nsec,
                    s.vm_clock_nsec, s.icount if s.flags & _abi.QCHAIN_SNAPSHOT_HAS_ICOUNT else None)


def _bitmap(b: Any) -> Bitmap:
    return Bitmap(_text(b.name), b.granularity, bool(b.flags & _abi.QCHAIN_BITMAP_AUTO),
                  bool(b.flags & _abi.QCHAIN_BITMAP_IN_USE))


def image_info(made: Any) -> ImageInfo:
    """Take over a qchain_image_info and free it."""
    try:
        i = made.contents
        return ImageInfo(
            name=_text(i.name), format=_text(i.format), flags=i.flags, version=i.version,
            virtual_size=i.virtual_size, file_size=i.file_size, allocated_size=i.allocated_size,
            cluster_size=i.cluster_size, subcluster_size=i.subcluster_size, refcount_bits=i.refcount_bits,
            compression=i.compression, crypt_method=i.crypt_method, backing_name=shown(i.backing_name),
            backing_resolved=shown(i.backing_resolved), backing_format=shown(i.backing_format),
            data_file=shown(i.data_file), backing_name_raw=i.backing_name_raw, data_file_raw=i.data_file_raw,
            snapshots=tuple(_snapshot(i.snapshots[n]) for n in range(i.n_snapshots)),
            bitmaps=tuple(_bitmap(i.bitmaps[n]) for n in range(i.n_bitmaps)),
            incompatible_features=i.incompatible_features, compatible_features=i.compatible_features,
            autoclear_features=i.autoclear_features)
    finally:
        _abi.qchain_image_info_free(made)


def job_result(r: Any) -> JobResult:
    return JobResult(r.copied, r.zeroed, r.compressed, r.compared, r.salvaged, r.layers)
