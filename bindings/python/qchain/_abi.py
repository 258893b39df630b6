# SPDX-License-Identifier: MIT
"""The public headers of libqchain, one to one: constants, structs, callbacks, functions.

Written by make_abi.py from include/*.h; what a thing means is said there. Handles are c_void_p.
"""
from __future__ import annotations

import ctypes
from ctypes import (CFUNCTYPE, POINTER, Structure, c_char, c_char_p, c_int, c_int32, c_int64, c_size_t, c_uint8,
                    c_uint32, c_uint64, c_void_p)
from typing import Any

from ._load import bind

QCHAIN_OK = 0
QCHAIN_E_NOMEM = -1
QCHAIN_E_INVAL = -2
QCHAIN_E_RANGE = -3
QCHAIN_E_LIMIT = -4
QCHAIN_E_IO = -5
QCHAIN_E_NET = -6
QCHAIN_E_TIMEOUT = -7
QCHAIN_E_THROTTLED = -8
QCHAIN_E_NOTFOUND = -9
QCHAIN_E_ACCESS = -10
QCHAIN_E_AUTH = -11
QCHAIN_E_NOSPACE = -12
QCHAIN_E_READONLY = -13
QCHAIN_E_BUSY = -14
QCHAIN_E_LOCKED = -15
QCHAIN_E_CORRUPT = -16
QCHAIN_E_UNSUPPORTED = -17
QCHAIN_E_CHAIN = -18
QCHAIN_E_CHANGED = -19
QCHAIN_E_CANCELLED = -20
QCHAIN_E_INTERNAL = -21
QCHAIN_E_EXISTS = -22
QCHAIN_POLICY_TRUST = 1
QCHAIN_POLICY_DATA_FILE = 2
QCHAIN_POLICY_BLOCK_DEVICE = 4
QCHAIN_REF_BACKING = 1
QCHAIN_REF_DATA_FILE = 2
QCHAIN_RESOLVE_DEFAULT = 0
QCHAIN_RESOLVE_ALLOW = 1
QCHAIN_RESOLVE_DENY = 2
QCHAIN_RESOLVE_FD = 3
QCHAIN_RESOLVE_STORE = 4
QCHAIN_LOG_ERROR = 1
QCHAIN_LOG_WARN = 2
QCHAIN_LOG_INFO = 3
QCHAIN_LOG_DEBUG = 4
QCHAIN_OPEN_FORCE_SHARE = 1
QCHAIN_OPEN_DIRECT = 2
QCHAIN_OPEN_NO_BACKING = 4
QCHAIN_OPEN_SALVAGE = 8
QCHAIN_OPEN_WRITE = 16
QCHAIN_OPEN_FD = 32
QCHAIN_OPEN_NO_INDEX = 64
QCHAIN_OPEN_WRITETHROUGH = 128
QCHAIN_OPEN_UNSAFE = 256
QCHAIN_OPEN_DISCARD = 512
QCHAIN_OPEN_NO_READ_AHEAD = 1024
QCHAIN_OPEN_COPY_ON_READ = 2048
QCHAIN_SNAPSHOT_HAS_ICOUNT = 1
QCHAIN_BITMAP_IN_USE = 1
QCHAIN_BITMAP_AUTO = 2
QCHAIN_IMAGE_DIRTY = 1
QCHAIN_IMAGE_CORRUPT = 2
QCHAIN_IMAGE_DATA_FILE = 4
QCHAIN_IMAGE_DATA_FILE_RAW = 8
QCHAIN_IMAGE_EXTENDED_L2 = 16
QCHAIN_IMAGE_LAZY_REFCOUNTS = 32
QCHAIN_IMAGE_HAS_BACKING = 64
QCHAIN_IMAGE_ENCRYPTED = 128
QCHAIN_IMAGE_BLOCK_DEVICE = 256
QCHAIN_COMPRESSION_ZLIB = 0
QCHAIN_COMPRESSION_ZSTD = 1
QCHAIN_EXTENT_PRESENT = 1
QCHAIN_EXTENT_DATA = 2
QCHAIN_EXTENT_ZERO = 4
QCHAIN_EXTENT_HAS_OFFSET = 8
QCHAIN_EXTENT_COMPRESSED = 16
QCHAIN_MAP_NO_HOLES = 1
QCHAIN_MAP_CLUSTERS = 2
QCHAIN_COPY_ORDERED = 1
QCHAIN_COPY_SALVAGE = 2
QCHAIN_COPY_NO_ZEROS = 4
QCHAIN_COPY_DETECT_ZEROS = 8
QCHAIN_SAME = 0
QCHAIN_DIFFER_CONTENT = 1
QCHAIN_DIFFER_ALLOC = 2
QCHAIN_DIFFER_SIZE = 3
QCHAIN_COMPARE_STRICT = 1
QCHAIN_QUEUE_NO_URING = 1
QCHAIN_REQUEST_MORE = 1
QCHAIN_REQUEST_FUA = 2
QCHAIN_REQUEST_UNMAP = 4
QCHAIN_INDEX_NO_WAIT = 1
QCHAIN_INDEX_FILE_DATA = 1
QCHAIN_INDEX_FILE_RACY = 2
QCHAIN_INDEX_FILE_HOLES = 4
QCHAIN_INDEX_FILE_REMOTE = 8
QCHAIN_SOURCE_DATA_FILE = 1
QCHAIN_SOURCE_REMOTE = 2
QCHAIN_WRITE_FUA = 1
QCHAIN_WRITE_UNMAP = 2
QCHAIN_RESIZE_SHRINK = 1
QCHAIN_CREATE_EXTENDED_L2 = 1
QCHAIN_CREATE_LAZY_REFCOUNTS = 2
QCHAIN_CREATE_DATA_FILE_RAW = 4
QCHAIN_CREATE_UNSAFE_BACKING = 8
QCHAIN_CREATE_KEEP = 16
QCHAIN_PREALLOC_OFF = 0
QCHAIN_PREALLOC_METADATA = 1
QCHAIN_PREALLOC_FALLOC = 2
QCHAIN_PREALLOC_FULL = 3
QCHAIN_AMEND_VERSION = 1
QCHAIN_AMEND_BACKING_FILE = 2
QCHAIN_AMEND_BACKING_FORMAT = 4
QCHAIN_AMEND_SIZE = 8
QCHAIN_AMEND_LAZY_REFCOUNTS = 16
QCHAIN_AMEND_REFCOUNT_BITS = 32
QCHAIN_AMEND_DATA_FILE = 64
QCHAIN_AMEND_DATA_FILE_RAW = 128
QCHAIN_CHECK_REPAIR_LEAKS = 1
QCHAIN_CHECK_REPAIR_ALL = 2
QCHAIN_CONVERT_COMPRESS = 1
QCHAIN_CONVERT_EXISTING = 2
QCHAIN_CONVERT_IS_ZERO = 4
QCHAIN_CONVERT_SALVAGE = 8
QCHAIN_CONVERT_OFFLOAD = 16
QCHAIN_CONVERT_UNSAFE = 32
QCHAIN_CONVERT_BITMAPS = 64
QCHAIN_CONVERT_SKIP_BROKEN = 128
QCHAIN_REBASE_UNSAFE = 1
QCHAIN_REBASE_FORCE = 2
QCHAIN_REBASE_COMPARE = 4
QCHAIN_REBASE_COMPRESS = 8
QCHAIN_DELETE_FILE = 1
QCHAIN_COMMIT_KEEP = 1
QCHAIN_PREFETCH_METADATA = 1
QCHAIN_PREFETCH_IDLE = 2
QCHAIN_PREFETCH_TOP = 4
QCHAIN_PREFETCH_ALL = 0
QCHAIN_PREFETCH_BYTES = 1
QCHAIN_PREFETCH_DEADLINE = 2
QCHAIN_TRACE_KEEP_FIRST = 1
QCHAIN_TRACE_LOAD_BESIDE = 1
QCHAIN_TRACE_LOAD_DISTINCT = 2
QCHAIN_IDENTITY_HAS_MTIME = 1
QCHAIN_IDENTITY_HAS_INODE = 2
QCHAIN_STORE_META = 1
QCHAIN_STORE_FRESH = 2
QCHAIN_STORE_EXACT = 4
QCHAIN_STORE_UNMAP = 8
QCHAIN_BACKEND_VERSION = 1
QCHAIN_VERSION_MAJOR = 0
QCHAIN_VERSION_MINOR = 1
QCHAIN_VERSION_PATCH = 0


class qchain_reference(Structure):
    struct_size: int
    layer: int
    kind: int
    name: bytes | None
    resolved: bytes | None
    format: bytes | None


class qchain_resolution(Structure):
    struct_size: int
    name: bytes | None
    format: bytes | None
    fd: int
    reserved0: int
    store: ctypes._Pointer[qchain_store]


class qchain_env_opts(Structure):
    struct_size: int
    flags: int
    threads: int
    index_bytes: int
    block_bytes: int
    max_open_files: int
    log_level: int
    log: Any
    log_data: int | None
    log_free: Any
    policy: int | None
    walkers: int
    reserved0: int
    remote: int | None


class qchain_open_opts(Structure):
    struct_size: int
    flags: int
    max_layers: int
    format: bytes | None
    snapshot: bytes | None
    data_file: bytes | None
    fd: int
    reserved0: int
    store: ctypes._Pointer[qchain_store]
    policy: int | None
    resolver: Any
    resolver_data: int | None
    index: bytes | None


class qchain_snapshot_info(Structure):
    id: bytes | None
    name: bytes | None
    vm_state_size: int
    disk_size: int
    date_sec: int
    date_nsec: int
    flags: int
    vm_clock_nsec: int
    icount: int
    reserved: ctypes.Array[c_uint64]


class qchain_bitmap_info(Structure):
    name: bytes | None
    granularity: int
    flags: int
    reserved0: int
    reserved: ctypes.Array[c_uint64]


class qchain_image_info(Structure):
    struct_size: int
    flags: int
    version: int
    name: bytes | None
    format: bytes | None
    virtual_size: int
    file_size: int
    allocated_size: int
    cluster_size: int
    subcluster_size: int
    refcount_bits: int
    compression: int
    crypt_method: int
    n_snapshots: int
    n_bitmaps: int
    n_unknown_extensions: int
    backing_name: bytes | None
    backing_resolved: bytes | None
    backing_format: bytes | None
    data_file: bytes | None
    backing_name_raw: bytes | None
    data_file_raw: bytes | None
    snapshots: ctypes._Pointer[qchain_snapshot_info]
    bitmaps: ctypes._Pointer[qchain_bitmap_info]
    incompatible_features: int
    compatible_features: int
    autoclear_features: int


class qchain_extent(Structure):
    offset: int
    length: int
    host_offset: int
    flags: int
    layer: int
    source: int
    host_length: int
    reserved: ctypes.Array[c_uint64]


class qchain_sink(Structure):
    struct_size: int
    write: Any
    zero: Any
    data: int | None


class qchain_copy_opts(Structure):
    struct_size: int
    flags: int
    threads: int
    offset: int
    length: int
    chunk_bytes: int
    job: int | None
    salvaged_bytes: int


class qchain_compare_opts(Structure):
    struct_size: int
    flags: int
    threads: int
    job: int | None
    result: int
    failed: int
    offset: int


class qchain_stats(Structure):
    struct_size: int
    reads: int
    read_bytes: int
    store_reads: int
    store_bytes: int
    meta_reads: int
    meta_bytes: int
    decoded_clusters: int
    decoded_hits: int
    index_fills: int
    index_evictions: int
    index_bytes: int
    block_bytes: int
    open_files: int
    file_opens: int
    sidecar_reads: int
    sidecar_bytes: int
    queue_requests: int
    queue_uring: int
    queue_leaf: int
    queue_walks: int
    store_writes: int
    store_write_bytes: int
    flushes: int


class qchain_queue_opts(Structure):
    struct_size: int
    flags: int
    depth: int


class qchain_completion(Structure):
    user: int | None
    result: int
    reserved0: int
    error: bytes | None
    reserved1: int


class qchain_index_opts(Structure):
    struct_size: int
    flags: int
    threads: int
    name: bytes | None
    job: int | None


class qchain_index_file(Structure):
    layer: int
    flags: int
    name: bytes | None
    location: bytes | None
    format: bytes | None
    virtual_size: int
    cluster_size: int
    size: int
    mtime_ns: int
    reserved: ctypes.Array[c_uint64]


class qchain_index_info(Structure):
    struct_size: int
    flags: int
    version: int
    name: bytes | None
    why_not: bytes | None
    file_size: int
    virtual_size: int
    built_ns: int
    n_runs: int
    n_pages: int
    n_layers: int
    n_files: int
    reserved0: int
    files: ctypes._Pointer[qchain_index_file]


class qchain_credentials(Structure):
    struct_size: int
    flags: int
    reserved0: int
    access_key: bytes | None
    secret_key: bytes | None
    session_token: bytes | None
    expires: int


class qchain_cache_info(Structure):
    struct_size: int
    objects: int
    bytes: int
    damaged: int
    checked: int
    freed: int
    reserved: ctypes.Array[c_uint64]


class qchain_remote_stats(Structure):
    struct_size: int
    requests: int
    bytes: int
    sent_bytes: int
    connections: int
    retries: int
    hedges: int
    redirects: int
    wasted_bytes: int
    memory_hits: int
    memory_bytes: int
    joined: int
    disk_hits: int
    disk_bytes: int
    disk_stores: int
    disk_damaged: int
    region_hits: int
    region_bytes: int
    region_stores: int
    region_faults: int
    failovers: int
    first_byte_p50_us: int
    first_byte_p90_us: int
    first_byte_p99_us: int
    total_p50_us: int
    total_p90_us: int
    total_p99_us: int


class qchain_source_info(Structure):
    struct_size: int
    flags: int
    layer: int
    size: int
    allocated_size: int
    mtime_ns: int
    reserved: ctypes.Array[c_uint64]


class qchain_create_opts(Structure):
    struct_size: int
    flags: int
    version: int
    format: bytes | None
    size: int
    cluster_size: int
    refcount_bits: int
    compression: int
    preallocation: int
    reserved0: int
    backing_file: bytes | None
    backing_format: bytes | None
    data_file: bytes | None
    policy: int | None


class qchain_measure_result(Structure):
    struct_size: int
    required: int
    fully_allocated: int
    bitmaps: int
    reserved: ctypes.Array[c_uint64]


class qchain_snapshot_opts(Structure):
    struct_size: int
    flags: int
    reserved0: int
    vm_state_size: int
    vm_clock_nsec: int
    date_ns: int
    icount: int


class qchain_dirty_extent(Structure):
    offset: int
    length: int
    dirty: int
    reserved0: int


class qchain_check_result(Structure):
    struct_size: int
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
    reserved: ctypes.Array[c_uint64]


class qchain_check_opts(Structure):
    struct_size: int
    flags: int
    reserved0: int
    job: int | None
    found: Any
    found_data: int | None
    open: ctypes._Pointer[qchain_open_opts]


class qchain_job_result(Structure):
    struct_size: int
    copied: int
    zeroed: int
    compressed: int
    compared: int
    salvaged: int
    layers: int
    reserved0: int
    reserved: ctypes.Array[c_uint64]


class qchain_convert_opts(Structure):
    struct_size: int
    flags: int
    threads: int
    sparse_bytes: int
    create: ctypes._Pointer[qchain_create_opts]
    open: ctypes._Pointer[qchain_open_opts]
    job: int | None
    reserved: ctypes.Array[c_uint64]


class qchain_rebase_opts(Structure):
    struct_size: int
    flags: int
    threads: int
    backing_file: bytes | None
    backing_format: bytes | None
    open: ctypes._Pointer[qchain_open_opts]
    job: int | None
    reserved: ctypes.Array[c_uint64]


class qchain_commit_opts(Structure):
    struct_size: int
    flags: int
    threads: int
    base: bytes | None
    open: ctypes._Pointer[qchain_open_opts]
    job: int | None
    reserved: ctypes.Array[c_uint64]


class qchain_prefetch_range(Structure):
    offset: int
    length: int
    chain: int
    reserved0: int


class qchain_prefetch_opts(Structure):
    struct_size: int
    flags: int
    parallel: int
    ranges: ctypes._Pointer[qchain_prefetch_range]
    n_ranges: int
    reserved0: int
    bytes_per_second: int
    requests_per_second: int
    max_bytes: int
    deadline_ms: int
    job: int | None
    reserved: ctypes.Array[c_uint64]


class qchain_prefetch_result(Structure):
    struct_size: int
    visible: int
    local: int
    unkept: int
    cached: int
    fetched: int
    requests: int
    end: int
    reserved0: int
    reserved: ctypes.Array[c_uint64]


class qchain_trace_opts(Structure):
    struct_size: int
    flags: int
    reserved0: int
    max_bytes: int
    reserved: ctypes.Array[c_uint64]


class qchain_trace_record(Structure):
    time_us: int
    offset: int
    length: int
    reads: int


class qchain_trace(Structure):
    struct_size: int
    flags: int
    n_ranges: int
    n_records: int
    disk_size: int
    began_ns: int
    lost: int
    unread: int
    records: ctypes._Pointer[qchain_trace_record]
    ranges: ctypes._Pointer[qchain_prefetch_range]
    reserved: ctypes.Array[c_uint64]


class qchain_trace_load_opts(Structure):
    struct_size: int
    flags: int
    chain: int
    disk_size: int
    reserved: ctypes.Array[c_uint64]


class qchain_iov(Structure):
    base: int | None
    len: int


class qchain_store_identity(Structure):
    struct_size: int
    flags: int
    reserved0: int
    size: int
    mtime_ns: int
    device: int
    inode: int
    etag: bytes


class qchain_store_limits(Structure):
    struct_size: int
    align_memory: int
    align_offset: int
    max_transfer: int
    parallel: int
    reserved0: int


class qchain_store_read(Structure):
    struct_size: int
    buf: int | None
    length: int
    offset: int
    flags: int
    reserved0: int
    err: int | None
    done: Any


class qchain_store_extent(Structure):
    offset: int
    length: int
    hole: int
    reserved0: int


class qchain_store_ops(Structure):
    struct_size: int
    version: int
    flags: int
    name: bytes | None
    close: Any
    size: Any
    pread: Any
    preadv: Any
    pread_nowait: Any
    pwrite: Any
    flush: Any
    resize: Any
    discard: Any
    zero: Any
    extents: Any
    copy_range: Any
    limits: Any
    identity: Any
    allocated: Any
    submit: Any
    pwritev: Any


class qchain_store(Structure):
    struct_size: int
    ops: ctypes._Pointer[qchain_store_ops]
    obj: int | None
    name: bytes | None


qchain_resolver = CFUNCTYPE(c_int, c_void_p, POINTER(qchain_reference), POINTER(qchain_resolution))
qchain_log_fn = CFUNCTYPE(None, c_void_p, c_int, c_char_p, c_char_p)
qchain_credentials_fn = CFUNCTYPE(c_int, c_void_p, c_char_p, c_int, POINTER(qchain_credentials))
qchain_reference._fields_ = [
    ("struct_size", c_size_t),
    ("layer", c_uint32),
    ("kind", c_uint32),
    ("from", c_char_p),
    ("name", c_char_p),
    ("resolved", c_char_p),
    ("format", c_char_p),
]
qchain_resolution._fields_ = [
    ("struct_size", c_size_t),
    ("name", c_char_p),
    ("format", c_char_p),
    ("fd", c_int),
    ("reserved0", c_uint32),
    ("store", POINTER(qchain_store)),
]
qchain_env_opts._fields_ = [
    ("struct_size", c_size_t),
    ("flags", c_uint32),
    ("threads", c_uint32),
    ("index_bytes", c_uint64),
    ("block_bytes", c_uint64),
    ("max_open_files", c_uint32),
    ("log_level", c_uint32),
    ("log", qchain_log_fn),
    ("log_data", c_void_p),
    ("log_free", CFUNCTYPE(None, c_void_p)),
    ("policy", c_void_p),
    ("walkers", c_uint32),
    ("reserved0", c_uint32),
    ("remote", c_void_p),
]
qchain_open_opts._fields_ = [
    ("struct_size", c_size_t),
    ("flags", c_uint32),
    ("max_layers", c_uint32),
    ("format", c_char_p),
    ("snapshot", c_char_p),
    ("data_file", c_char_p),
    ("fd", c_int),
    ("reserved0", c_uint32),
    ("store", POINTER(qchain_store)),
    ("policy", c_void_p),
    ("resolver", qchain_resolver),
    ("resolver_data", c_void_p),
    ("index", c_char_p),
]
qchain_snapshot_info._fields_ = [
    ("id", c_char_p),
    ("name", c_char_p),
    ("vm_state_size", c_uint64),
    ("disk_size", c_uint64),
    ("date_sec", c_uint64),
    ("date_nsec", c_uint32),
    ("flags", c_uint32),
    ("vm_clock_nsec", c_uint64),
    ("icount", c_uint64),
    ("reserved", c_uint64 * 4),
]
qchain_bitmap_info._fields_ = [
    ("name", c_char_p),
    ("granularity", c_uint64),
    ("flags", c_uint32),
    ("reserved0", c_uint32),
    ("reserved", c_uint64 * 4),
]
qchain_image_info._fields_ = [
    ("struct_size", c_size_t),
    ("flags", c_uint32),
    ("version", c_uint32),
    ("name", c_char_p),
    ("format", c_char_p),
    ("virtual_size", c_uint64),
    ("file_size", c_uint64),
    ("allocated_size", c_uint64),
    ("cluster_size", c_uint64),
    ("subcluster_size", c_uint64),
    ("refcount_bits", c_uint32),
    ("compression", c_uint32),
    ("crypt_method", c_uint32),
    ("n_snapshots", c_uint32),
    ("n_bitmaps", c_uint32),
    ("n_unknown_extensions", c_uint32),
    ("backing_name", c_char_p),
    ("backing_resolved", c_char_p),
    ("backing_format", c_char_p),
    ("data_file", c_char_p),
    ("backing_name_raw", c_char_p),
    ("data_file_raw", c_char_p),
    ("snapshots", POINTER(qchain_snapshot_info)),
    ("bitmaps", POINTER(qchain_bitmap_info)),
    ("incompatible_features", c_uint64),
    ("compatible_features", c_uint64),
    ("autoclear_features", c_uint64),
]
qchain_extent._fields_ = [
    ("offset", c_uint64),
    ("length", c_uint64),
    ("host_offset", c_uint64),
    ("flags", c_uint32),
    ("layer", c_uint32),
    ("source", c_uint32),
    ("host_length", c_uint32),
    ("reserved", c_uint64 * 3),
]
qchain_sink._fields_ = [
    ("struct_size", c_size_t),
    ("write", CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t, c_uint64, c_void_p)),
    ("zero", CFUNCTYPE(c_int, c_void_p, c_uint64, c_uint64, c_void_p)),
    ("data", c_void_p),
]
qchain_copy_opts._fields_ = [
    ("struct_size", c_size_t),
    ("flags", c_uint32),
    ("threads", c_uint32),
    ("offset", c_uint64),
    ("length", c_uint64),
    ("chunk_bytes", c_uint64),
    ("job", c_void_p),
    ("salvaged_bytes", c_uint64),
]
qchain_compare_opts._fields_ = [
    ("struct_size", c_size_t),
    ("flags", c_uint32),
    ("threads", c_uint32),
    ("job", c_void_p),
    ("result", c_uint32),
    ("failed", c_uint32),
    ("offset", c_uint64),
]
qchain_stats._fields_ = [
    ("struct_size", c_size_t),
    ("reads", c_uint64),
    ("read_bytes", c_uint64),
    ("store_reads", c_uint64),
    ("store_bytes", c_uint64),
    ("meta_reads", c_uint64),
    ("meta_bytes", c_uint64),
    ("decoded_clusters", c_uint64),
    ("decoded_hits", c_uint64),
    ("index_fills", c_uint64),
    ("index_evictions", c_uint64),
    ("index_bytes", c_uint64),
    ("block_bytes", c_uint64),
    ("open_files", c_uint64),
    ("file_opens", c_uint64),
    ("sidecar_reads", c_uint64),
    ("sidecar_bytes", c_uint64),
    ("queue_requests", c_uint64),
    ("queue_uring", c_uint64),
    ("queue_leaf", c_uint64),
    ("queue_walks", c_uint64),
    ("store_writes", c_uint64),
    ("store_write_bytes", c_uint64),
    ("flushes", c_uint64),
]
qchain_queue_opts._fields_ = [
    ("struct_size", c_size_t),
    ("flags", c_uint32),
    ("depth", c_uint32),
]
qchain_completion._fields_ = [
    ("user", c_void_p),
    ("result", c_int32),
    ("reserved0", c_uint32),
    ("error", c_char_p),
    ("reserved1", c_uint64),
]
qchain_index_opts._fields_ = [
    ("struct_size", c_size_t),
    ("flags", c_uint32),
    ("threads", c_uint32),
    ("name", c_char_p),
    ("job", c_void_p),
]
qchain_index_file._fields_ = [
    ("layer", c_uint32),
    ("flags", c_uint32),
    ("name", c_char_p),
    ("location", c_char_p),
    ("format", c_char_p),
    ("virtual_size", c_uint64),
    ("cluster_size", c_uint64),
    ("size", c_uint64),
    ("mtime_ns", c_uint64),
    ("reserved", c_uint64 * 4),
]
qchain_index_info._fields_ = [
    ("struct_size", c_size_t),
    ("flags", c_uint32),
    ("version", c_uint32),
    ("name", c_char_p),
    ("why_not", c_char_p),
    ("file_size", c_uint64),
    ("virtual_size", c_uint64),
    ("built_ns", c_uint64),
    ("n_runs", c_uint64),
    ("n_pages", c_uint32),
    ("n_layers", c_uint32),
    ("n_files", c_uint32),
    ("reserved0", c_uint32),
    ("files", POINTER(qchain_index_file)),
]
qchain_credentials._fields_ = [
    ("struct_size", c_size_t),
    ("flags", c_uint32),
    ("reserved0", c_uint32),
    ("access_key", c_char_p),
    ("secret_key", c_char_p),
    ("session_token", c_char_p),
    ("expires", c_uint64),
]
qchain_cache_info._fields_ = [
    ("struct_size", c_size_t),
    ("objects", c_uint64),
    ("bytes", c_uint64),
    ("damaged", c_uint64),
    ("checked", c_uint64),
    ("freed", c_uint64),
    ("reserved", c_uint64 * 4),
]
qchain_remote_stats._fields_ = [
    ("struct_size", c_size_t),
    ("requests", c_uint64),
    ("bytes", c_uint64),
    ("sent_bytes", c_uint64),
    ("connections", c_uint64),
    ("retries", c_uint64),
    ("hedges", c_uint64),
    ("redirects", c_uint64),
    ("wasted_bytes", c_uint64),
    ("memory_hits", c_uint64),
    ("memory_bytes", c_uint64),
    ("joined", c_uint64),
    ("disk_hits", c_uint64),
    ("disk_bytes", c_uint64),
    ("disk_stores", c_uint64),
    ("disk_damaged", c_uint64),
    ("region_hits", c_uint64),
    ("region_bytes", c_uint64),
    ("region_stores", c_uint64),
    ("region_faults", c_uint64),
    ("failovers", c_uint64),
    ("first_byte_p50_us", c_uint64),
    ("first_byte_p90_us", c_uint64),
    ("first_byte_p99_us", c_uint64),
    ("total_p50_us", c_uint64),
    ("total_p90_us", c_uint64),
    ("total_p99_us", c_uint64),
]
qchain_source_info._fields_ = [
    ("struct_size", c_size_t),
    ("flags", c_uint32),
    ("layer", c_uint32),
    ("size", c_uint64),
    ("allocated_size", c_uint64),
    ("mtime_ns", c_uint64),
    ("reserved", c_uint64 * 4),
]
qchain_create_opts._fields_ = [
    ("struct_size", c_size_t),
    ("flags", c_uint32),
    ("version", c_uint32),
    ("format", c_char_p),
    ("size", c_uint64),
    ("cluster_size", c_uint64),
    ("refcount_bits", c_uint32),
    ("compression", c_uint32),
    ("preallocation", c_uint32),
    ("reserved0", c_uint32),
    ("backing_file", c_char_p),
    ("backing_format", c_char_p),
    ("data_file", c_char_p),
    ("policy", c_void_p),
]
qchain_measure_result._fields_ = [
    ("struct_size", c_size_t),
    ("required", c_uint64),
    ("fully_allocated", c_uint64),
    ("bitmaps", c_uint64),
    ("reserved", c_uint64 * 4),
]
qchain_snapshot_opts._fields_ = [
    ("struct_size", c_size_t),
    ("flags", c_uint32),
    ("reserved0", c_uint32),
    ("vm_state_size", c_uint64),
    ("vm_clock_nsec", c_uint64),
    ("date_ns", c_uint64),
    ("icount", c_uint64),
]
qchain_dirty_extent._fields_ = [
    ("offset", c_uint64),
    ("length", c_uint64),
    ("dirty", c_uint32),
    ("reserved0", c_uint32),
]
qchain_check_result._fields_ = [
    ("struct_size", c_size_t),
    ("corruptions", c_uint64),
    ("leaks", c_uint64),
    ("corruptions_fixed", c_uint64),
    ("leaks_fixed", c_uint64),
    ("check_errors", c_uint64),
    ("total_clusters", c_uint64),
    ("allocated_clusters", c_uint64),
    ("fragmented_clusters", c_uint64),
    ("compressed_clusters", c_uint64),
    ("image_end_offset", c_uint64),
    ("reserved", c_uint64 * 4),
]
qchain_check_opts._fields_ = [
    ("struct_size", c_size_t),
    ("flags", c_uint32),
    ("reserved0", c_uint32),
    ("job", c_void_p),
    ("found", CFUNCTYPE(None, c_void_p, c_int, c_char_p)),
    ("found_data", c_void_p),
    ("open", POINTER(qchain_open_opts)),
]
qchain_job_result._fields_ = [
    ("struct_size", c_size_t),
    ("copied", c_uint64),
    ("zeroed", c_uint64),
    ("compressed", c_uint64),
    ("compared", c_uint64),
    ("salvaged", c_uint64),
    ("layers", c_uint32),
    ("reserved0", c_uint32),
    ("reserved", c_uint64 * 6),
]
qchain_convert_opts._fields_ = [
    ("struct_size", c_size_t),
    ("flags", c_uint32),
    ("threads", c_uint32),
    ("sparse_bytes", c_uint64),
    ("create", POINTER(qchain_create_opts)),
    ("open", POINTER(qchain_open_opts)),
    ("job", c_void_p),
    ("reserved", c_uint64 * 4),
]
qchain_rebase_opts._fields_ = [
    ("struct_size", c_size_t),
    ("flags", c_uint32),
    ("threads", c_uint32),
    ("backing_file", c_char_p),
    ("backing_format", c_char_p),
    ("open", POINTER(qchain_open_opts)),
    ("job", c_void_p),
    ("reserved", c_uint64 * 4),
]
qchain_commit_opts._fields_ = [
    ("struct_size", c_size_t),
    ("flags", c_uint32),
    ("threads", c_uint32),
    ("base", c_char_p),
    ("open", POINTER(qchain_open_opts)),
    ("job", c_void_p),
    ("reserved", c_uint64 * 4),
]
qchain_prefetch_range._fields_ = [
    ("offset", c_uint64),
    ("length", c_uint64),
    ("chain", c_uint32),
    ("reserved0", c_uint32),
]
qchain_prefetch_opts._fields_ = [
    ("struct_size", c_size_t),
    ("flags", c_uint32),
    ("parallel", c_uint32),
    ("ranges", POINTER(qchain_prefetch_range)),
    ("n_ranges", c_uint32),
    ("reserved0", c_uint32),
    ("bytes_per_second", c_uint64),
    ("requests_per_second", c_uint64),
    ("max_bytes", c_uint64),
    ("deadline_ms", c_uint64),
    ("job", c_void_p),
    ("reserved", c_uint64 * 4),
]
qchain_prefetch_result._fields_ = [
    ("struct_size", c_size_t),
    ("visible", c_uint64),
    ("local", c_uint64),
    ("unkept", c_uint64),
    ("cached", c_uint64),
    ("fetched", c_uint64),
    ("requests", c_uint64),
    ("end", c_uint32),
    ("reserved0", c_uint32),
    ("reserved", c_uint64 * 4),
]
qchain_trace_opts._fields_ = [
    ("struct_size", c_size_t),
    ("flags", c_uint32),
    ("reserved0", c_uint32),
    ("max_bytes", c_uint64),
    ("reserved", c_uint64 * 4),
]
qchain_trace_record._fields_ = [
    ("time_us", c_uint64),
    ("offset", c_uint64),
    ("length", c_uint64),
    ("reads", c_uint64),
]
qchain_trace._fields_ = [
    ("struct_size", c_size_t),
    ("flags", c_uint32),
    ("n_ranges", c_uint32),
    ("n_records", c_uint64),
    ("disk_size", c_uint64),
    ("began_ns", c_uint64),
    ("lost", c_uint64),
    ("unread", c_uint64),
    ("records", POINTER(qchain_trace_record)),
    ("ranges", POINTER(qchain_prefetch_range)),
    ("reserved", c_uint64 * 4),
]
qchain_trace_load_opts._fields_ = [
    ("struct_size", c_size_t),
    ("flags", c_uint32),
    ("chain", c_uint32),
    ("disk_size", c_uint64),
    ("reserved", c_uint64 * 4),
]
qchain_iov._fields_ = [
    ("base", c_void_p),
    ("len", c_size_t),
]
qchain_store_identity._fields_ = [
    ("struct_size", c_size_t),
    ("flags", c_uint32),
    ("reserved0", c_uint32),
    ("size", c_uint64),
    ("mtime_ns", c_uint64),
    ("device", c_uint64),
    ("inode", c_uint64),
    ("etag", c_char * 128),
]
qchain_store_limits._fields_ = [
    ("struct_size", c_size_t),
    ("align_memory", c_uint32),
    ("align_offset", c_uint32),
    ("max_transfer", c_uint64),
    ("parallel", c_uint32),
    ("reserved0", c_uint32),
]
qchain_store_read._fields_ = [
    ("struct_size", c_size_t),
    ("buf", c_void_p),
    ("length", c_size_t),
    ("offset", c_uint64),
    ("flags", c_uint32),
    ("reserved0", c_uint32),
    ("err", c_void_p),
    ("done", CFUNCTYPE(None, POINTER(qchain_store_read), c_int)),
]
qchain_store_extent._fields_ = [
    ("offset", c_uint64),
    ("length", c_uint64),
    ("hole", c_uint32),
    ("reserved0", c_uint32),
]
qchain_store_ops._fields_ = [
    ("struct_size", c_size_t),
    ("version", c_uint32),
    ("flags", c_uint32),
    ("name", c_char_p),
    ("close", CFUNCTYPE(None, c_void_p)),
    ("size", CFUNCTYPE(c_int, c_void_p, POINTER(c_uint64), c_void_p)),
    ("pread", CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t, c_uint64, c_uint32, c_void_p)),
    ("preadv", CFUNCTYPE(c_int, c_void_p, POINTER(qchain_iov), c_size_t, c_size_t, c_uint64, c_uint32, c_void_p)),
    ("pread_nowait", CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t, c_uint64, c_uint32, c_void_p)),
    ("pwrite", CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t, c_uint64, c_uint32, c_void_p)),
    ("flush", CFUNCTYPE(c_int, c_void_p, c_uint32, c_void_p)),
    ("resize", CFUNCTYPE(c_int, c_void_p, c_uint64, c_uint32, c_void_p)),
    ("discard", CFUNCTYPE(c_int, c_void_p, c_uint64, c_uint64, c_uint32, c_void_p)),
    ("zero", CFUNCTYPE(c_int, c_void_p, c_uint64, c_uint64, c_uint32, c_void_p)),
    ("extents", CFUNCTYPE(c_int, c_void_p, POINTER(qchain_store_extent), c_uint64, c_uint64, c_uint32, c_void_p)),
    ("copy_range", CFUNCTYPE(c_int, c_void_p, c_void_p, c_uint64, c_uint64, c_uint64, c_uint32, c_void_p)),
    ("limits", CFUNCTYPE(c_int, c_void_p, POINTER(qchain_store_limits), c_void_p)),
    ("identity", CFUNCTYPE(c_int, c_void_p, POINTER(qchain_store_identity), c_void_p)),
    ("allocated", CFUNCTYPE(c_int, c_void_p, POINTER(c_uint64), c_void_p)),
    ("submit", CFUNCTYPE(None, c_void_p, POINTER(qchain_store_read))),
    ("pwritev", CFUNCTYPE(c_int, c_void_p, POINTER(qchain_iov), c_size_t, c_size_t, c_uint64, c_uint32, c_void_p)),
]
qchain_store._fields_ = [
    ("struct_size", c_size_t),
    ("ops", POINTER(qchain_store_ops)),
    ("obj", c_void_p),
    ("name", c_char_p),
]

qchain_error_create = bind("qchain_error_create", c_void_p)
qchain_error_destroy = bind("qchain_error_destroy", None, c_void_p)
qchain_error_clear = bind("qchain_error_clear", None, c_void_p)
qchain_error_code = bind("qchain_error_code", c_int, c_void_p)
qchain_error_message = bind("qchain_error_message", c_char_p, c_void_p)
qchain_error_errno = bind("qchain_error_errno", c_int, c_void_p)
qchain_error_http_status = bind("qchain_error_http_status", c_int, c_void_p)
qchain_error_layer = bind("qchain_error_layer", c_int64, c_void_p)
qchain_error_offset = bind("qchain_error_offset", c_int64, c_void_p)
qchain_code_name = bind("qchain_code_name", c_char_p, c_int)
qchain_version = bind("qchain_version", c_uint32)
qchain_version_string = bind("qchain_version_string", c_char_p)
qchain_has = bind("qchain_has", c_int, c_char_p)
qchain_free = bind("qchain_free", None, c_void_p)
qchain_policy_create = bind("qchain_policy_create", c_void_p)
qchain_policy_destroy = bind("qchain_policy_destroy", None, c_void_p)
qchain_policy_allow_path = bind("qchain_policy_allow_path", c_int, c_void_p, c_char_p, c_void_p)
qchain_policy_backing_format = bind("qchain_policy_backing_format", c_int, c_void_p, c_char_p, c_void_p)
qchain_policy_allow = bind("qchain_policy_allow", c_int, c_void_p, c_uint32, c_void_p)
qchain_policy_parse = bind("qchain_policy_parse", c_int, c_void_p, c_char_p, c_void_p)
qchain_policy_load = bind("qchain_policy_load", c_int, c_void_p, c_char_p, c_void_p)
qchain_env_opts_init = bind("qchain_env_opts_init", None, POINTER(qchain_env_opts), c_size_t)
qchain_env_create = bind("qchain_env_create", c_int, POINTER(c_void_p), POINTER(qchain_env_opts), c_void_p)
qchain_env_destroy = bind("qchain_env_destroy", None, c_void_p)
qchain_open_opts_init = bind("qchain_open_opts_init", None, POINTER(qchain_open_opts), c_size_t)
qchain_open = bind("qchain_open", c_int, POINTER(c_void_p), c_void_p, c_char_p, POINTER(qchain_open_opts), c_void_p)
qchain_close = bind("qchain_close", None, c_void_p)
qchain_size = bind("qchain_size", c_uint64, c_void_p)
qchain_layers = bind("qchain_layers", c_uint32, c_void_p)
qchain_inspect = bind("qchain_inspect", c_int, POINTER(POINTER(qchain_image_info)), c_void_p, c_char_p, POINTER(qchain_open_opts), c_void_p)
qchain_layer_info = bind("qchain_layer_info", c_int, POINTER(POINTER(qchain_image_info)), c_void_p, c_uint32, c_void_p)
qchain_image_info_free = bind("qchain_image_info_free", None, POINTER(qchain_image_info))
qchain_map = bind("qchain_map", c_int, c_void_p, c_uint64, c_uint64, POINTER(qchain_extent), c_uint32, POINTER(c_uint32), POINTER(c_uint64), c_uint32, c_void_p)
qchain_diff = bind("qchain_diff", c_int, c_void_p, c_uint32, c_uint32, c_uint64, c_uint64, POINTER(qchain_extent), c_uint32, POINTER(c_uint32), POINTER(c_uint64), c_uint32, c_void_p)
qchain_source_name = bind("qchain_source_name", c_char_p, c_void_p, c_uint32)
qchain_read = bind("qchain_read", c_int, c_void_p, c_void_p, c_size_t, c_uint64, c_uint32, c_void_p)
qchain_readv = bind("qchain_readv", c_int, c_void_p, POINTER(qchain_iov), c_uint32, c_uint64, c_uint32, c_void_p)
qchain_job_create = bind("qchain_job_create", c_void_p)
qchain_job_destroy = bind("qchain_job_destroy", None, c_void_p)
qchain_job_cancel = bind("qchain_job_cancel", None, c_void_p)
qchain_job_pause = bind("qchain_job_pause", None, c_void_p, c_int)
qchain_job_rate = bind("qchain_job_rate", None, c_void_p, c_uint64)
qchain_job_progress = bind("qchain_job_progress", None, c_void_p, POINTER(c_uint64), POINTER(c_uint64))
qchain_copy_opts_init = bind("qchain_copy_opts_init", None, POINTER(qchain_copy_opts), c_size_t)
qchain_copy_out = bind("qchain_copy_out", c_int, c_void_p, POINTER(qchain_sink), POINTER(qchain_copy_opts), c_void_p)
qchain_compare_opts_init = bind("qchain_compare_opts_init", None, POINTER(qchain_compare_opts), c_size_t)
qchain_compare = bind("qchain_compare", c_int, c_void_p, c_void_p, POINTER(qchain_compare_opts), c_void_p)
qchain_checksum = bind("qchain_checksum", c_int, c_void_p, POINTER(c_uint8), c_uint32, c_void_p, c_void_p)
qchain_env_stats = bind("qchain_env_stats", c_int, c_void_p, POINTER(qchain_stats))
qchain_get_env = bind("qchain_get_env", c_void_p, c_void_p)
qchain_queue_opts_init = bind("qchain_queue_opts_init", None, POINTER(qchain_queue_opts), c_size_t)
qchain_queue_create = bind("qchain_queue_create", c_int, POINTER(c_void_p), c_void_p, POINTER(qchain_queue_opts), c_void_p)
qchain_queue_engine = bind("qchain_queue_engine", c_char_p, c_void_p)
qchain_queue_read = bind("qchain_queue_read", c_int, c_void_p, c_void_p, c_size_t, c_uint64, c_uint32, c_void_p, c_void_p)
qchain_queue_readv = bind("qchain_queue_readv", c_int, c_void_p, POINTER(qchain_iov), c_uint32, c_uint64, c_uint32, c_void_p, c_void_p)
qchain_queue_write = bind("qchain_queue_write", c_int, c_void_p, c_void_p, c_size_t, c_uint64, c_uint32, c_void_p, c_void_p)
qchain_queue_flush = bind("qchain_queue_flush", c_int, c_void_p, c_void_p, c_void_p)
qchain_queue_reap = bind("qchain_queue_reap", c_int, c_void_p, POINTER(qchain_completion), c_uint32, c_uint32, c_int)
qchain_queue_fd = bind("qchain_queue_fd", c_int, c_void_p)
qchain_queue_cancel = bind("qchain_queue_cancel", c_int, c_void_p, c_void_p)
qchain_queue_pending = bind("qchain_queue_pending", c_uint32, c_void_p)
qchain_queue_destroy = bind("qchain_queue_destroy", None, c_void_p)
qchain_index_opts_init = bind("qchain_index_opts_init", None, POINTER(qchain_index_opts), c_size_t)
qchain_index_build = bind("qchain_index_build", c_int, c_void_p, POINTER(qchain_index_opts), c_void_p)
qchain_index_verify = bind("qchain_index_verify", c_int, c_void_p, POINTER(qchain_index_opts), c_void_p)
qchain_index_drop = bind("qchain_index_drop", c_int, c_void_p, c_char_p, POINTER(qchain_index_opts), c_void_p)
qchain_index_layers = bind("qchain_index_layers", c_uint32, c_void_p)
qchain_index_inspect = bind("qchain_index_inspect", c_int, POINTER(POINTER(qchain_index_info)), c_void_p, c_char_p, POINTER(qchain_open_opts), c_void_p)
qchain_index_info_free = bind("qchain_index_info_free", None, POINTER(qchain_index_info))
qchain_remote_create = bind("qchain_remote_create", c_void_p)
qchain_remote_destroy = bind("qchain_remote_destroy", None, c_void_p)
qchain_remote_parse = bind("qchain_remote_parse", c_int, c_void_p, c_char_p, c_void_p)
qchain_remote_load = bind("qchain_remote_load", c_int, c_void_p, c_char_p, c_void_p)
qchain_remote_set_credentials = bind("qchain_remote_set_credentials", c_int, c_void_p, qchain_credentials_fn, c_void_p, CFUNCTYPE(None, c_void_p), c_void_p)
qchain_policy_allow_url = bind("qchain_policy_allow_url", c_int, c_void_p, c_char_p, c_void_p)
qchain_cache_stat = bind("qchain_cache_stat", c_int, c_char_p, POINTER(qchain_cache_info), c_void_p)
qchain_cache_verify = bind("qchain_cache_verify", c_int, c_char_p, POINTER(qchain_cache_info), c_void_p)
qchain_cache_trim = bind("qchain_cache_trim", c_int, c_char_p, c_uint64, POINTER(qchain_cache_info), c_void_p)
qchain_cache_clear = bind("qchain_cache_clear", c_int, c_char_p, c_void_p)
qchain_env_remote_stats = bind("qchain_env_remote_stats", c_int, c_void_p, POINTER(qchain_remote_stats))
qchain_source_stat = bind("qchain_source_stat", c_int, c_void_p, c_uint32, POINTER(qchain_source_info), c_void_p)
qchain_source_read = bind("qchain_source_read", c_int, c_void_p, c_uint32, c_void_p, c_size_t, c_uint64, c_uint32, c_void_p)
qchain_write = bind("qchain_write", c_int, c_void_p, c_void_p, c_size_t, c_uint64, c_uint32, c_void_p)
qchain_writev = bind("qchain_writev", c_int, c_void_p, POINTER(qchain_iov), c_uint32, c_uint64, c_uint32, c_void_p)
qchain_write_zeroes = bind("qchain_write_zeroes", c_int, c_void_p, c_uint64, c_uint64, c_uint32, c_void_p)
qchain_discard = bind("qchain_discard", c_int, c_void_p, c_uint64, c_uint64, c_uint32, c_void_p)
qchain_write_compressed = bind("qchain_write_compressed", c_int, c_void_p, c_void_p, c_size_t, c_uint64, c_uint32, c_void_p)
qchain_flush = bind("qchain_flush", c_int, c_void_p, c_void_p)
qchain_finish = bind("qchain_finish", c_int, c_void_p, c_void_p)
qchain_resize = bind("qchain_resize", c_int, c_void_p, c_uint64, c_uint32, c_void_p)
qchain_drain = bind("qchain_drain", c_int, c_void_p, c_void_p)
qchain_resume = bind("qchain_resume", None, c_void_p)
qchain_queue_writev = bind("qchain_queue_writev", c_int, c_void_p, POINTER(qchain_iov), c_uint32, c_uint64, c_uint32, c_void_p, c_void_p)
qchain_queue_write_zeroes = bind("qchain_queue_write_zeroes", c_int, c_void_p, c_uint64, c_uint64, c_uint32, c_void_p, c_void_p)
qchain_queue_discard = bind("qchain_queue_discard", c_int, c_void_p, c_uint64, c_uint64, c_uint32, c_void_p, c_void_p)
qchain_create_opts_init = bind("qchain_create_opts_init", None, POINTER(qchain_create_opts), c_size_t)
qchain_create = bind("qchain_create", c_int, c_void_p, c_char_p, POINTER(qchain_create_opts), c_void_p)
qchain_measure = bind("qchain_measure", c_int, c_void_p, POINTER(qchain_create_opts), POINTER(qchain_measure_result), c_void_p)
qchain_amend = bind("qchain_amend", c_int, c_void_p, POINTER(qchain_create_opts), c_uint32, c_void_p, c_void_p)
qchain_snapshot_opts_init = bind("qchain_snapshot_opts_init", None, POINTER(qchain_snapshot_opts), c_size_t)
qchain_snapshot_create = bind("qchain_snapshot_create", c_int, c_void_p, c_char_p, POINTER(qchain_snapshot_opts), c_void_p)
qchain_snapshot_apply = bind("qchain_snapshot_apply", c_int, c_void_p, c_char_p, c_void_p)
qchain_snapshot_delete = bind("qchain_snapshot_delete", c_int, c_void_p, c_char_p, c_void_p)
qchain_vmstate_read = bind("qchain_vmstate_read", c_int, c_void_p, c_void_p, c_size_t, c_uint64, c_void_p)
qchain_vmstate_write = bind("qchain_vmstate_write", c_int, c_void_p, c_void_p, c_size_t, c_uint64, c_void_p)
qchain_bitmap_add = bind("qchain_bitmap_add", c_int, c_void_p, c_char_p, c_uint64, c_int, c_void_p)
qchain_bitmap_remove = bind("qchain_bitmap_remove", c_int, c_void_p, c_char_p, c_void_p)
qchain_bitmap_clear = bind("qchain_bitmap_clear", c_int, c_void_p, c_char_p, c_void_p)
qchain_bitmap_enable = bind("qchain_bitmap_enable", c_int, c_void_p, c_char_p, c_int, c_void_p)
qchain_bitmap_merge = bind("qchain_bitmap_merge", c_int, c_void_p, c_char_p, c_void_p, c_char_p, c_void_p)
qchain_bitmap_query = bind("qchain_bitmap_query", c_int, c_void_p, c_char_p, c_uint64, c_uint64, POINTER(qchain_dirty_extent), c_uint32, POINTER(c_uint32), POINTER(c_uint64), c_void_p)
qchain_check_opts_init = bind("qchain_check_opts_init", None, POINTER(qchain_check_opts), c_size_t)
qchain_check = bind("qchain_check", c_int, c_void_p, c_char_p, POINTER(qchain_check_opts), POINTER(qchain_check_result), c_void_p)
qchain_convert_opts_init = bind("qchain_convert_opts_init", None, POINTER(qchain_convert_opts), c_size_t)
qchain_convert = bind("qchain_convert", c_int, c_void_p, c_char_p, POINTER(qchain_convert_opts), POINTER(qchain_job_result), c_void_p)
qchain_rebase_opts_init = bind("qchain_rebase_opts_init", None, POINTER(qchain_rebase_opts), c_size_t)
qchain_rebase = bind("qchain_rebase", c_int, c_void_p, POINTER(qchain_rebase_opts), POINTER(qchain_job_result), c_void_p)
qchain_stream = bind("qchain_stream", c_int, c_void_p, c_uint32, c_uint32, c_void_p, POINTER(qchain_job_result), c_void_p)
qchain_merge = bind("qchain_merge", c_int, c_void_p, c_uint64, c_uint32, c_void_p, POINTER(qchain_job_result), c_void_p)
qchain_delete_layer = bind("qchain_delete_layer", c_int, c_void_p, c_char_p, POINTER(c_char_p), c_uint32, c_uint32, POINTER(qchain_open_opts), c_void_p, POINTER(qchain_job_result), c_void_p)
qchain_commit_opts_init = bind("qchain_commit_opts_init", None, POINTER(qchain_commit_opts), c_size_t)
qchain_commit = bind("qchain_commit", c_int, c_void_p, c_char_p, POINTER(qchain_commit_opts), POINTER(qchain_job_result), c_void_p)
qchain_prefetch_opts_init = bind("qchain_prefetch_opts_init", None, POINTER(qchain_prefetch_opts), c_size_t)
qchain_prefetch = bind("qchain_prefetch", c_int, POINTER(c_void_p), c_uint32, POINTER(qchain_prefetch_opts), POINTER(qchain_prefetch_result), c_void_p)
qchain_trace_opts_init = bind("qchain_trace_opts_init", None, POINTER(qchain_trace_opts), c_size_t)
qchain_trace_start = bind("qchain_trace_start", c_int, c_void_p, c_char_p, POINTER(qchain_trace_opts), c_void_p)
qchain_trace_stop = bind("qchain_trace_stop", c_int, c_void_p, c_void_p)
qchain_trace_load_opts_init = bind("qchain_trace_load_opts_init", None, POINTER(qchain_trace_load_opts), c_size_t)
qchain_trace_load = bind("qchain_trace_load", c_int, POINTER(POINTER(qchain_trace)), c_void_p, POINTER(c_char_p), c_uint32, POINTER(qchain_trace_load_opts), c_void_p)
qchain_trace_free = bind("qchain_trace_free", None, POINTER(qchain_trace))
qchain_trace_save = bind("qchain_trace_save", c_int, POINTER(qchain_trace), c_char_p, c_void_p)
qchain_backend_fail = bind("qchain_backend_fail", c_int, c_void_p, c_int, c_int, c_char_p)
