/* SPDX-License-Identifier: MIT */
/*
 * qchain.h - virtual disks kept as chains of qcow2 and raw layers.
 *
 * This header is the manual of the library. It is plain C99 (and C++), needs
 * nothing but the C library, and is the only header a user includes.
 *
 * Caveats, first
 *   - Images are untrusted. Opening one opens no other file unless the policy
 *     allows it. By default that is: regular files beneath the directory of the
 *     top image, of a recorded format. A directory is one trust domain: who may
 *     write to one image in it may make a chain read its neighbours.
 *   - A chain opened for reading is taken as frozen. With locks (the default) a
 *     QEMU that would write to a qcow2 layer is refused while the chain is open,
 *     and the open fails LOCKED while one writes; readers of raw images exclude
 *     no writer, as in QEMU. With QCHAIN_OPEN_FORCE_SHARE there is no such
 *     protection: a layer that changes gives old or new bytes, or an error,
 *     never memory faults. Of a chain with more layers than max_open_files those
 *     whose descriptors are closed for the time being hold no lock; one that was
 *     changed meanwhile is noticed when it is opened again, and fails CHANGED.
 *     A child made by fork keeps the locks of its copies of the descriptors.
 *   - Two programs that write to one layer destroy it, whatever they use.
 *
 * Threads
 *   qchain_env, qchain     any thread, any number at once, except the close and
 *                          destroy calls, which must be the last.
 *   qchain_error, qchain_policy, option structs
 *                          one thread at a time.
 *   qchain_job             any thread; qchain_job_cancel also from a signal
 *                          handler.
 *   qchain_queue           one thread at a time; any number on one chain.
 *   The library starts threads at the first need, never before a chain is open,
 *   with all signals blocked. Handles do not survive fork(): in the child every
 *   call on a chain opened before fails INVAL, and closing it frees nothing that
 *   the parent uses. Environments made before fork may be used by parent and
 *   child if no chain had been opened in them. Descriptors are close-on-exec.
 *
 * Results
 *   Calls return 0 or a negative QCHAIN_E_*. Reads are whole or failed, never
 *   short. The last parameter of calls that can fail for reasons worth telling
 *   is a qchain_error (NULL is welcome); it is written only on failure.
 *
 * Structs
 *   Option structs begin with their size, set by their _init call. Zero means the default in every field. Unknown
 *   flag bits and non-zero reserved fields are refused (INVAL). Structs that a call fills begin with their size, too,
 *   which the caller sets; without it the call fails INVAL. A program built against an older header works with a
 *   newer library; the other way round it works if the fields it adds are zero.
 *
 * Units
 *   Offsets and lengths are uint64_t bytes; a name that is not bytes says so. No call here asks for alignment.
 *   What moves or changes bytes takes length before offset, as pread does; what asks about a range offset first.
 */
#ifndef QCHAIN_H
#define QCHAIN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define QCHAIN_VERSION_MAJOR 0
#define QCHAIN_VERSION_MINOR 1
#define QCHAIN_VERSION_PATCH 0

#if defined(__GNUC__)
#define QCHAIN_API __attribute__((visibility("default")))
#else
#define QCHAIN_API
#endif

/* ------------------------------------------------------------ handles --- */

typedef struct qchain        qchain;        /* an open chain of layers          */
typedef struct qchain_env    qchain_env;    /* threads, budgets, policy, log     */
typedef struct qchain_error  qchain_error;  /* why a call failed                 */
typedef struct qchain_policy qchain_policy; /* what images may refer to          */
typedef struct qchain_job    qchain_job;    /* watch and cancel a long call      */
typedef struct qchain_remote qchain_remote; /* how URLs are reached: <qchain-remote.h> */
struct qchain_store;                        /* see <qchain-backend.h>            */
struct qchain_iov;                          /* see <qchain-backend.h>; as iovec  */

/* ------------------------------------------------------------- errors --- */

/* What a call may answer, and what to do about it. */
enum qchain_code {
    QCHAIN_OK            = 0,
    QCHAIN_E_NOMEM       = -1,  /* no memory; free some, call again             */
    QCHAIN_E_INVAL       = -2,  /* the call is wrong; mend the program          */
    QCHAIN_E_RANGE       = -3,  /* offset or length beyond the virtual disk     */
    QCHAIN_E_LIMIT       = -4,  /* legal, but over a limit of this library      */
    QCHAIN_E_IO          = -5,  /* the medium failed, or a file shrank          */
    QCHAIN_E_NET         = -6,  /* the network failed, after retries            */
    QCHAIN_E_TIMEOUT     = -7,  /* no answer within the deadline                */
    QCHAIN_E_THROTTLED   = -8,  /* the server asks to slow down, after retries  */
    QCHAIN_E_NOTFOUND    = -9,  /* no such file, object, snapshot or layer      */
    QCHAIN_E_ACCESS      = -10, /* policy or permission forbids it; the message
                                   names the option that would allow it        */
    QCHAIN_E_AUTH        = -11, /* credentials missing, wrong or expired        */
    QCHAIN_E_NOSPACE     = -12, /* no space; make some, call again              */
    QCHAIN_E_READONLY    = -13, /* opened for reading                           */
    QCHAIN_E_BUSY        = -14, /* another operation holds what this one needs  */
    QCHAIN_E_LOCKED      = -15, /* another process holds the image              */
    QCHAIN_E_CORRUPT     = -16, /* the image violates its format                */
    QCHAIN_E_UNSUPPORTED = -17, /* valid, but not known to this library         */
    QCHAIN_E_CHAIN       = -18, /* layers do not fit: a loop, a missing layer   */
    QCHAIN_E_CHANGED     = -19, /* a layer is not what it was; open again       */
    QCHAIN_E_CANCELLED   = -20, /* cancelled, by qchain_job_cancel or callback  */
    QCHAIN_E_INTERNAL    = -21, /* a bug in the library; please report          */
    QCHAIN_E_EXISTS      = -22  /* there is one of that name already            */
};

/* Make an error object; NULL when there is no memory, which every call accepts as "not interested". Reuse it from
 * call to call. Since 0.1. */
QCHAIN_API qchain_error *qchain_error_create(void);
/* Free an error object; NULL is fine. Since 0.1. */
QCHAIN_API void qchain_error_destroy(qchain_error *err);
/* Forget what is in it. Since 0.1. */
QCHAIN_API void qchain_error_clear(qchain_error *err);
/* The code of the last failure, or 0. Since 0.1. */
QCHAIN_API int qchain_error_code(const qchain_error *err);
/* One sentence, outside-in: what was tried, on which layer, the cause; "" if nothing failed. UTF-8 without control
 * characters (bytes of the image are escaped). Borrowed until err is used again. Never NULL. Since 0.1. */
QCHAIN_API const char *qchain_error_message(const qchain_error *err);
/* The errno behind it, or 0. Since 0.1. */
QCHAIN_API int qchain_error_errno(const qchain_error *err);
/* The HTTP status behind it, or 0. Since 0.1. */
QCHAIN_API int qchain_error_http_status(const qchain_error *err);
/* The layer it happened in (0 is the top), or -1. Since 0.1. */
QCHAIN_API int64_t qchain_error_layer(const qchain_error *err);
/* The byte offset it happened at, in the layer's file, or -1. Since 0.1. */
QCHAIN_API int64_t qchain_error_offset(const qchain_error *err);
/* A short name for a code: "CORRUPT". Static; "?" for an unknown one.
 * Since 0.1. */
QCHAIN_API const char *qchain_code_name(int code);

/* ------------------------------------------------- version and features --- */

/* Version of the library in use: major << 16 | minor << 8 | patch. Since 0.1. */
QCHAIN_API uint32_t qchain_version(void);
/* The same as text, "0.1.0". Static. Since 0.1. */
QCHAIN_API const char *qchain_version_string(void);
/* 1 if the library in use has a feature, else 0. Names: "qcow2", "raw", "zlib",
 * "zstd", "libdeflate", "direct", "locks", "write", "queue", "io_uring",
 * "index", "http". Since 0.1. */
QCHAIN_API int qchain_has(const char *feature);
/* Free memory that the library returned where no other call is named; NULL is
 * fine. Since 0.1. */
QCHAIN_API void qchain_free(void *p);

/* ------------------------------------------------------------- policy --- */

/* What images may refer to. Without any call: regular files beneath the
 * directory of the top image (the directory of its name as given, and of its
 * real path), of a recorded format (backing files) and nothing else. */
enum qchain_policy_flags {
    QCHAIN_POLICY_TRUST         = 0x1, /* follow every reference a user could
                                          name: absolute paths, json:, any
                                          directory, data files, missing formats
                                          (probed)                             */
    QCHAIN_POLICY_DATA_FILE     = 0x2, /* an external data file named by the
                                          image, within the allowed paths      */
    QCHAIN_POLICY_BLOCK_DEVICE  = 0x4  /* block devices as layers             */
};

/* Make a policy with the default rules; NULL when there is no memory.
 * Since 0.1. */
QCHAIN_API qchain_policy *qchain_policy_create(void);
/* Free a policy; NULL is fine. Environments and chains keep copies. Since 0.1. */
QCHAIN_API void qchain_policy_destroy(qchain_policy *p);
/* Allow layers beneath a directory (its real path). path: an existing directory;
 * copied. Errors: NOTFOUND, ACCESS, NOMEM. Since 0.1. */
QCHAIN_API int qchain_policy_allow_path(qchain_policy *p, const char *path,
                                        qchain_error *err);
/* The format of backing files that record none: "raw" or "qcow2"; NULL takes it
 * back. Errors: UNSUPPORTED (unknown format), NOMEM. Since 0.1. */
QCHAIN_API int qchain_policy_backing_format(qchain_policy *p, const char *format,
                                            qchain_error *err);
/* Add flags, QCHAIN_POLICY_*. Errors: INVAL (unknown bits). Since 0.1. */
QCHAIN_API int qchain_policy_allow(qchain_policy *p, uint32_t flags,
                                   qchain_error *err);
/* Read rules from text, a rule a line: "allow-path DIR", "allow-url URL", "backing-format FMT", "allow data-file",
 * "allow block-device", "trust", "max-layers N"; '#' starts a comment. Errors: INVAL with the line's number, and
 * those of the rule's own call (NOTFOUND: no such DIR); the lines before it hold. Since 0.1. */
QCHAIN_API int qchain_policy_parse(qchain_policy *p, const char *text,
                                   qchain_error *err);
/* The same from a regular file of less than 1 MiB. Errors: also ACCESS, IO. Since 0.1. */
QCHAIN_API int qchain_policy_load(qchain_policy *p, const char *path,
                                  qchain_error *err);

/* ------------------------------------------------------------ resolver --- */

/* What a resolver is asked: may layer `layer` refer to `name`? */
typedef struct qchain_reference {
    size_t      struct_size;
    uint32_t    layer;     /* the layer that refers, 0 is the top              */
    uint32_t    kind;      /* QCHAIN_REF_*                                     */
    const char *from;      /* the referring layer's name                       */
    const char *name;      /* the name as recorded in the image                */
    const char *resolved;  /* the same, resolved as QEMU would                 */
    const char *format;    /* recorded format, or NULL                         */
} qchain_reference;

enum qchain_reference_kind {
    QCHAIN_REF_BACKING   = 1, /* a backing file                                */
    QCHAIN_REF_DATA_FILE = 2  /* an external data file                         */
};

/* What it may answer, besides the verdict. All fields start as zero, fd as -1.
 * A backing file whose format is neither recorded nor answered here nor set by
 * the policy is refused, whatever the verdict: it is not probed. */
typedef struct qchain_resolution {
    size_t      struct_size;
    const char *name;     /* open this name instead (a path, "file:" or "json:");
                             borrowed until the library returns from the call
                             that asked                                        */
    const char *format;   /* take this format instead of the recorded one      */
    int         fd;       /* with QCHAIN_RESOLVE_FD: an open descriptor, treated as that of qchain_open_opts:
                             it stays the program's, which may close it when the open has returned */
    uint32_t    reserved0;
    const struct qchain_store *store; /* with QCHAIN_RESOLVE_STORE: an open
                             store; becomes the library's                      */
} qchain_resolution;

enum qchain_verdict {
    QCHAIN_RESOLVE_DEFAULT = 0, /* let the policy decide                       */
    QCHAIN_RESOLVE_ALLOW   = 1, /* open it (or out->name) whatever the policy  */
    QCHAIN_RESOLVE_DENY    = 2, /* refuse: the open fails ACCESS               */
    QCHAIN_RESOLVE_FD      = 3, /* use out->fd                                 */
    QCHAIN_RESOLVE_STORE   = 4  /* use out->store                              */
};

/* Decide one reference: returns a qchain_verdict. Called from the thread in
 * qchain_open, never under a lock; may block. */
typedef int (*qchain_resolver)(void *data, const qchain_reference *ref,
                               qchain_resolution *out);

/* -------------------------------------------------------- environment --- */

enum qchain_log_level {
    QCHAIN_LOG_ERROR = 1,
    QCHAIN_LOG_WARN  = 2,
    QCHAIN_LOG_INFO  = 3,
    QCHAIN_LOG_DEBUG = 4
};

/* One log line: level, the room it comes from ("chain"), text without newline.
 * Called from any thread, never under a lock; must not call the library. */
typedef void (*qchain_log_fn)(void *data, int level, const char *tag,
                              const char *message);

typedef struct qchain_env_opts {
    size_t   struct_size;    /* set by qchain_env_opts_init                     */
    uint32_t flags;          /* must be 0                                       */
    uint32_t threads;        /* leaf threads, at most 1024; 0 = one a processor, but no more than 16. Threads that
                                hang in a store are made up for, up to 64 more  */
    uint64_t index_bytes;    /* memory for maps; 0 = 32 MiB, at least 1 MiB     */
    uint64_t block_bytes;    /* memory for decoded clusters; 0 = 32 MiB         */
    uint32_t max_open_files; /* descriptors kept open; 0 = what the process may
                                have (RLIMIT_NOFILE) less 64; at least 16       */
    uint32_t log_level;      /* QCHAIN_LOG_*; 0 = QCHAIN_LOG_WARN               */
    qchain_log_fn log;       /* NULL = silent                                   */
    void    *log_data;
    void   (*log_free)(void *data); /* called once, when the environment ends,
                                or when its creation fails                      */
    const qchain_policy *policy; /* copied; NULL = the default rules            */
    uint32_t walkers;        /* threads that read metadata for queues; 0 = 4, at
                                most 64                                         */
    uint32_t reserved0;
    const qchain_remote *remote; /* copied; NULL = the defaults                 */
} qchain_env_opts;

/* Fill o with defaults; size is sizeof(qchain_env_opts). Since 0.1. */
QCHAIN_API void qchain_env_opts_init(qchain_env_opts *o, size_t size);
/* Make an environment: threads, memory budgets, policy and log that many chains
 * share. opts may be NULL. Does not start threads and opens nothing. Errors:
 * NOMEM, INVAL. Since 0.1. */
QCHAIN_API int qchain_env_create(qchain_env **out, const qchain_env_opts *opts,
                                 qchain_error *err);
/* End an environment; every chain in it must be closed. NULL is fine.
 * Since 0.1. */
QCHAIN_API void qchain_env_destroy(qchain_env *env);

/* --------------------------------------------------------------- open --- */

enum qchain_open_flags {
    QCHAIN_OPEN_FORCE_SHARE = 0x1,  /* take no locks and mind none (-U)         */
    QCHAIN_OPEN_DIRECT      = 0x2,  /* O_DIRECT for local data (cache=none)     */
    QCHAIN_OPEN_NO_BACKING  = 0x4,  /* the top layer alone, elsewhere zeros     */
    QCHAIN_OPEN_SALVAGE     = 0x8,  /* metadata past a file's end reads as zeros */
    QCHAIN_OPEN_WRITE       = 0x10, /* the top for writing: <qchain-write.h>    */
    QCHAIN_OPEN_FD          = 0x20, /* the top is qchain_open_opts.fd           */
    QCHAIN_OPEN_NO_INDEX    = 0x40, /* use no sidecar index                     */
    QCHAIN_OPEN_WRITETHROUGH = 0x80, /* writes are durable when they return     */
    QCHAIN_OPEN_UNSAFE      = 0x100, /* flushes sync nothing (cache=unsafe)     */
    QCHAIN_OPEN_DISCARD     = 0x200, /* discarded space goes to the file system */
    QCHAIN_OPEN_NO_READ_AHEAD = 0x400, /* the disk's beginning is not read first */
    QCHAIN_OPEN_COPY_ON_READ = 0x800 /* with WRITE: see <qchain-write.h>        */
};

typedef struct qchain_open_opts {
    size_t      struct_size; /* set by qchain_open_opts_init                    */
    uint32_t    flags;       /* QCHAIN_OPEN_*                                   */
    uint32_t    max_layers;  /* 0 = 4096 (or the policy's)                      */
    const char *format;      /* the top's format: "qcow2", "raw"; NULL = found by
                                its magic. A raw image whose guest wrote a qcow2
                                header into it is qcow2 by its magic, so name the
                                format of images that guests can write.          */
    const char *snapshot;    /* id or name of an internal snapshot of the top;
                                the disk then has the size it had (qemu-img
                                shows it in today's size)                        */
    const char *data_file;   /* the top's external data file, instead of the one
                                it names; the caller's own choice, so allowed    */
    int         fd;          /* with QCHAIN_OPEN_FD; its file is opened anew where
                                that is allowed, else it is duplicated; it stays
                                the caller's, and so do locks held on it (if a
                                writer's, use FORCE_SHARE)                       */
    uint32_t    reserved0;
    const struct qchain_store *store; /* the top is this store; becomes the
                                library's, closed even when the open fails;
                                name then serves messages and relative names     */
    const qchain_policy *policy; /* instead of the environment's; copied        */
    qchain_resolver resolver;    /* asked for every reference; may be NULL      */
    void       *resolver_data;
    const char *index;           /* the path or URL of the top's sidecar index, instead
                                    of the one beside it; NULL = look there      */
} qchain_open_opts;

/* Fill o with defaults; size is sizeof(qchain_open_opts). Since 0.1. */
QCHAIN_API void qchain_open_opts_init(qchain_open_opts *o, size_t size);

/* Open an image and all layers below it, for reading.
 * out: receives the chain; close it with qchain_close.
 * env: the environment it lives in; NULL makes a private one with defaults.
 * name: a path, "file:PATH", a URL (<qchain-remote.h>) or "json:{...}" (driver, file.driver,
 *   file.filename or url, as QEMU writes them); may be NULL with a store or descriptor.
 * opts: may be NULL.
 * Blocks: reads each layer's header; with a sidecar index only the top's, and looks
 * at the others. Memory: below 2 KiB a layer and a bitmap.
 * Errors: NOTFOUND (no such layer), ACCESS (policy or permission), LOCKED (a
 * writer holds a layer; opts.flags FORCE_SHARE), CORRUPT, UNSUPPORTED, LIMIT
 * (damaged, unknown or outsized images), CHAIN (a loop), IO, NOMEM, INVAL; of URLs
 * also NET, TIMEOUT, THROTTLED, AUTH, CHANGED.
 * Since 0.1. Source: qcow2 specification, docs/interop/qcow2.txt of QEMU. */
QCHAIN_API int qchain_open(qchain **out, qchain_env *env, const char *name,
                           const qchain_open_opts *opts, qchain_error *err);
/* Close a chain. It must be the last call on it: nothing may be in flight in
 * other threads. NULL is fine. Since 0.1. */
QCHAIN_API void qchain_close(qchain *c);
/* Size of the virtual disk in bytes, a multiple of 512. Since 0.1. */
QCHAIN_API uint64_t qchain_size(const qchain *c);
/* Number of layers, at least 1. Since 0.1. */
QCHAIN_API uint32_t qchain_layers(const qchain *c);

/* ---------------------------------------------------- what an image is --- */

typedef struct qchain_snapshot_info {
    const char *id;
    const char *name;
    uint64_t    vm_state_size; /* bytes of VM state                            */
    uint64_t    disk_size;     /* size of the disk when it was taken           */
    uint64_t    date_sec;      /* when, seconds since the epoch                */
    uint32_t    date_nsec;
    uint32_t    flags;         /* QCHAIN_SNAPSHOT_HAS_ICOUNT                   */
    uint64_t    vm_clock_nsec; /* how long the guest had run                   */
    uint64_t    icount;
    uint64_t    reserved[4];
} qchain_snapshot_info;

enum qchain_snapshot_flags { QCHAIN_SNAPSHOT_HAS_ICOUNT = 0x1 /* icount is meaningful */ };

typedef struct qchain_bitmap_info {
    const char *name;
    uint64_t    granularity;   /* bytes of disk a bit                          */
    uint32_t    flags;         /* QCHAIN_BITMAP_*                              */
    uint32_t    reserved0;
    uint64_t    reserved[4];
} qchain_bitmap_info;

enum qchain_bitmap_flags {
    QCHAIN_BITMAP_IN_USE = 0x1, /* was not saved properly: not to be trusted   */
    QCHAIN_BITMAP_AUTO   = 0x2  /* tracks writes (enabled)                     */
};

enum qchain_image_flags {
    QCHAIN_IMAGE_DIRTY          = 0x001, /* refcounts may be stale             */
    QCHAIN_IMAGE_CORRUPT        = 0x002, /* marked corrupt by a writer         */
    QCHAIN_IMAGE_DATA_FILE      = 0x004, /* has an external data file          */
    QCHAIN_IMAGE_DATA_FILE_RAW  = 0x008, /* which is a raw image by itself     */
    QCHAIN_IMAGE_EXTENDED_L2    = 0x010, /* has subclusters                    */
    QCHAIN_IMAGE_LAZY_REFCOUNTS = 0x020,
    QCHAIN_IMAGE_HAS_BACKING    = 0x040,
    QCHAIN_IMAGE_ENCRYPTED      = 0x080,
    QCHAIN_IMAGE_BLOCK_DEVICE   = 0x100
};

enum qchain_compression { QCHAIN_COMPRESSION_ZLIB = 0, QCHAIN_COMPRESSION_ZSTD = 1 };

/* Everything one image says of itself. Made and freed by the library, one block
 * of memory; later versions append fields. Strings are escaped for display
 * unless they end in _raw; absent ones are NULL. */
typedef struct qchain_image_info {
    size_t      struct_size;
    uint32_t    flags;             /* QCHAIN_IMAGE_*                           */
    uint32_t    version;           /* of the format: 2, 3; 0 for raw           */
    const char *name;              /* as opened                                */
    const char *format;            /* "qcow2", "raw"                           */
    uint64_t    virtual_size;      /* bytes                                    */
    uint64_t    file_size;         /* bytes                                    */
    uint64_t    allocated_size;    /* bytes on the medium                      */
    uint64_t    cluster_size;      /* bytes; 0 for raw                         */
    uint64_t    subcluster_size;   /* bytes; = cluster_size without extended L2 */
    uint32_t    refcount_bits;
    uint32_t    compression;       /* QCHAIN_COMPRESSION_*                     */
    uint32_t    crypt_method;      /* 0 none, 1 AES, 2 LUKS                    */
    uint32_t    n_snapshots;
    uint32_t    n_bitmaps;
    uint32_t    n_unknown_extensions;
    const char *backing_name;      /* as recorded                              */
    const char *backing_resolved;  /* as it would be opened                    */
    const char *backing_format;    /* as recorded                              */
    const char *data_file;         /* as recorded                              */
    const char *backing_name_raw;  /* the bytes of the image                   */
    const char *data_file_raw;
    const qchain_snapshot_info *snapshots;
    const qchain_bitmap_info   *bitmaps;
    uint64_t    incompatible_features;
    uint64_t    compatible_features;
    uint64_t    autoclear_features;
} qchain_image_info;

/* Tell all that one image says of itself and refers to, opening nothing but the
 * image, however hostile. Works for encrypted images too. An image that cannot
 * be described fails as qchain_open would. opts: format, fd, store and
 * FORCE_SHARE are used; may be NULL. Free with qchain_image_info_free.
 * May block. Since 0.1. */
QCHAIN_API int qchain_inspect(qchain_image_info **out, qchain_env *env,
                              const char *name, const qchain_open_opts *opts,
                              qchain_error *err);
/* The same of an open chain's layer; 0 is the top. Errors: RANGE, IO, NOMEM.
 * Since 0.1. */
QCHAIN_API int qchain_layer_info(qchain_image_info **out, qchain *c,
                                 uint32_t layer, qchain_error *err);
/* Free an info; NULL is fine. Since 0.1. */
QCHAIN_API void qchain_image_info_free(qchain_image_info *info);

/* ---------------------------------------------------------------- map --- */

enum qchain_extent_flags {
    QCHAIN_EXTENT_PRESENT    = 0x01, /* some layer holds it (allocated)        */
    QCHAIN_EXTENT_DATA       = 0x02, /* bytes are stored                       */
    QCHAIN_EXTENT_ZERO       = 0x04, /* reads as zeros                         */
    QCHAIN_EXTENT_HAS_OFFSET = 0x08, /* host_offset is meaningful              */
    QCHAIN_EXTENT_COMPRESSED = 0x10
};

/* One stretch of the virtual disk. */
typedef struct qchain_extent {
    uint64_t offset;      /* guest bytes                                       */
    uint64_t length;
    uint64_t host_offset; /* in the source's file, with HAS_OFFSET; of a
                             compressed extent (never HAS_OFFSET) where the
                             stream starts, with QCHAIN_MAP_CLUSTERS           */
    uint32_t flags;       /* QCHAIN_EXTENT_*                                   */
    uint32_t layer;       /* 0 is the top; for what no layer holds the layer
                             below which the search ended, as QEMU's depth     */
    uint32_t source;      /* number of the layer's file, see qchain_source_name */
    uint32_t host_length; /* bytes of a compressed extent's stream, at most,
                             with QCHAIN_MAP_CLUSTERS; else 0                  */
    uint64_t reserved[3];
} qchain_extent;

enum qchain_map_flags {
    QCHAIN_MAP_NO_HOLES = 0x1,  /* do not look for holes in the layers' files  */
    QCHAIN_MAP_CLUSTERS = 0x2   /* one compressed cluster an extent, with its
                                   place; else neighbours are one extent       */
};

/* Map a range: which bytes are stored, where, and which read as zeros. Where
 * damage is met after some extents the call ends before it with what it has; the
 * next call fails.
 * offset, length: the range; length is clipped by the disk's size.
 * extents, max: where to put them, and how many fit; max at least 1.
 * n: receives how many were put.
 * next: receives where to go on: offset + length when all is mapped. Pass it as
 *   the next call's offset. Neighbours are merged within a call; one that is cut
 *   by max goes on in the next call.
 * Holes in local files are found as qemu-img finds them: under raw layers, and
 * under qcow2 layers whose metadata was preallocated.
 * May block; reads the metadata that is not yet in the index, several windows in
 * parallel for long ranges. Errors: RANGE (offset beyond the disk), CORRUPT, IO,
 * NOMEM, LIMIT. Since 0.1. */
QCHAIN_API int qchain_map(qchain *c, uint64_t offset, uint64_t length,
                          qchain_extent *extents, uint32_t max, uint32_t *n,
                          uint64_t *next, uint32_t flags, qchain_error *err);

/* What may differ between two layers of one chain: everything that is allocated
 * above layer `below` (excluded) and up to layer `upto` (included, 0 is the
 * top). below = qchain_layers(c) means "nothing": all that is allocated.
 * Only such extents are put, as qchain_map would put them for a chain that
 * starts at `upto`, but with the layers' numbers in this one; what the layers in
 * between hide behind a shorter layer is put as zeros. The rest as qchain_map.
 * Errors: INVAL unless upto < below <= layers. Since 0.1. */
QCHAIN_API int qchain_diff(qchain *c, uint32_t below, uint32_t upto,
                           uint64_t offset, uint64_t length,
                           qchain_extent *extents, uint32_t max, uint32_t *n,
                           uint64_t *next, uint32_t flags, qchain_error *err);

/* The name of a file that extents refer to, without secrets of a URL. Borrowed until the chain is closed;
 * NULL for an unknown number. Since 0.1. */
QCHAIN_API const char *qchain_source_name(const qchain *c, uint32_t source);

/* --------------------------------------------------------------- read --- */

/* Read length bytes at offset into buf: all or an error. After an error buf
 * holds nothing of use. flags must be 0. Blocks; any number of threads at once.
 * A warm read of stored bytes is one lookup and one system call. Errors: RANGE,
 * CORRUPT, IO, CHANGED, NOMEM. Since 0.1. */
QCHAIN_API int qchain_read(qchain *c, void *buf, size_t length, uint64_t offset,
                           uint32_t flags, qchain_error *err);
/* The same into n_iov pieces, at most 1024, laid out as struct iovec. Since 0.1. */
QCHAIN_API int qchain_readv(qchain *c, const struct qchain_iov *iov,
                            uint32_t n_iov, uint64_t offset, uint32_t flags,
                            qchain_error *err);

/* ----------------------------------------------------- long operations --- */

/* Make a job; NULL when there is no memory. One job serves one call at a time,
 * and may serve another after it; once cancelled it is spent. Since 0.1. */
QCHAIN_API qchain_job *qchain_job_create(void);
/* Free a job that no call uses; NULL is fine. Since 0.1. */
QCHAIN_API void qchain_job_destroy(qchain_job *job);
/* Ask the call to end; it returns CANCELLED soon. Any thread, and signal handlers. Since 0.1. */
QCHAIN_API void qchain_job_cancel(qchain_job *job);
/* Hold the call (1) or let it go on (0). Any thread. Since 0.1. */
QCHAIN_API void qchain_job_pause(qchain_job *job, int paused);
/* Limit the rate in bytes a second; 0 = none. Any thread. Since 0.1. */
QCHAIN_API void qchain_job_rate(qchain_job *job, uint64_t bytes_per_second);
/* How far it is, in bytes of the range worked on; done and total may be NULL. Any thread. Since 0.1. */
QCHAIN_API void qchain_job_progress(const qchain_job *job, uint64_t *done,
                                    uint64_t *total);

/* ------------------------------------------------------ copy, compare --- */

/* Where copied bytes go. write and zero return 0 or a negative QCHAIN_E_*; a positive value ends the operation,
 * which returns it unchanged. zero may be NULL (write is then called with zeros). Called by threads of the call,
 * never under a lock of the chain; may block. */
typedef struct qchain_sink {
    size_t struct_size;
    int  (*write)(void *data, const void *buf, size_t length, uint64_t offset,
                  qchain_error *err);
    int  (*zero)(void *data, uint64_t length, uint64_t offset, qchain_error *err);
    void  *data;
} qchain_sink;

enum qchain_copy_flags {
    QCHAIN_COPY_ORDERED  = 0x1, /* call the sink in order of offset, one call at
                                   a time; else from several threads, any order */
    QCHAIN_COPY_SALVAGE  = 0x2, /* what cannot be read is copied as zeros and
                                   counted                                      */
    QCHAIN_COPY_NO_ZEROS = 0x4, /* leave out what reads as zeros                */
    QCHAIN_COPY_DETECT_ZEROS = 0x8 /* look for stored zeros, 4 KiB at a time    */
};

typedef struct qchain_copy_opts {
    size_t      struct_size;  /* set by qchain_copy_opts_init                   */
    uint32_t    flags;        /* QCHAIN_COPY_*                                  */
    uint32_t    threads;      /* 0 = chosen; more than 64 count as 64          */
    uint64_t    offset;       /* the range; both 0 = all                        */
    uint64_t    length;       /* 0 = to the end, never "nothing"                */
    uint64_t    chunk_bytes;  /* bytes a read; 0 = chosen                       */
    qchain_job *job;          /* may be NULL                                    */
    uint64_t    salvaged_bytes; /* out: bytes that could not be read            */
} qchain_copy_opts;

/* Fill o with defaults; size is sizeof(qchain_copy_opts). Since 0.1. */
QCHAIN_API void qchain_copy_opts_init(qchain_copy_opts *o, size_t size);
/* Copy the disk, or a range of it, into a sink. Maps and reads ahead with
 * several threads. The sink's offsets are the disk's. opts may be NULL; its
 * salvaged_bytes is written. Errors: those of qchain_map and qchain_read, RANGE (also a length beyond the end),
 * what the sink returns, CANCELLED. Since 0.1. */
QCHAIN_API int qchain_copy_out(qchain *c, const qchain_sink *sink,
                               qchain_copy_opts *opts, qchain_error *err);

enum qchain_compare_result {
    QCHAIN_SAME           = 0,
    QCHAIN_DIFFER_CONTENT = 1, /* bytes differ, first at `offset`               */
    QCHAIN_DIFFER_ALLOC   = 2, /* strict: allocation differs, first at `offset` */
    QCHAIN_DIFFER_SIZE    = 3  /* strict: sizes differ                          */
};

typedef struct qchain_compare_opts {
    size_t      struct_size; /* set by qchain_compare_opts_init                 */
    uint32_t    flags;       /* QCHAIN_COMPARE_STRICT                           */
    uint32_t    threads;     /* as of a copy                                    */
    qchain_job *job;         /* may be NULL                                     */
    uint32_t    result;      /* out: qchain_compare_result                      */
    uint32_t    failed;      /* out, on an error: 1 or 2, the disk that failed  */
    uint64_t    offset;      /* out: where they differ                          */
} qchain_compare_opts;

enum qchain_compare_flags { QCHAIN_COMPARE_STRICT = 0x1 /* sizes and allocation must be equal too */ };

/* Fill o with defaults; size is sizeof(qchain_compare_opts). Since 0.1. */
QCHAIN_API void qchain_compare_opts_init(qchain_compare_opts *o, size_t size);
/* Compare the visible bytes of two disks. A longer one is equal if its rest
 * reads as zeros. The answer is in opts->result; opts must not be NULL. What
 * reads as zeros in both is not read. Errors: as qchain_read. Since 0.1. */
QCHAIN_API int qchain_compare(qchain *a, qchain *b, qchain_compare_opts *opts,
                              qchain_error *err);

/* A digest of the visible bytes of a disk: the same for the same bytes, however
 * they are stored. It is the root of a tree, so that blocks are hashed in parallel
 * and zeros cost next to nothing:
 *   level 0: SHA-256 of every 64 KiB block, the last one padded with zeros;
 *   level n+1: SHA-256 of each 1024 digests of level n in order, the last group
 *     filled up with what level n has for zeros only; up to the level that has
 *     one digest (a disk of no bytes counts as one block of zeros);
 *   the result: SHA-256 of that digest and the disk's size, 8 bytes little-endian.
 * digest: 32 bytes. job: may be NULL. threads: as of a copy. Errors: as qchain_read, CANCELLED. Since 0.1. */
QCHAIN_API int qchain_checksum(qchain *c, uint8_t digest[32], uint32_t threads,
                               qchain_job *job, qchain_error *err);

/* --------------------------------------------------------- statistics --- */

typedef struct qchain_stats {
    size_t   struct_size;     /* set by the caller: sizeof(qchain_stats)        */
    uint64_t reads;           /* read requests of the caller                    */
    uint64_t read_bytes;
    uint64_t store_reads;     /* calls to stores for data                       */
    uint64_t store_bytes;
    uint64_t meta_reads;      /* calls to stores for metadata                   */
    uint64_t meta_bytes;
    uint64_t decoded_clusters;
    uint64_t decoded_hits;    /* compressed clusters found decoded              */
    uint64_t index_fills;     /* windows filled                                 */
    uint64_t index_evictions;
    uint64_t index_bytes;     /* memory held now                                */
    uint64_t block_bytes;     /* memory held now                                */
    uint64_t open_files;      /* descriptors open now                           */
    uint64_t file_opens;      /* descriptors opened so far                      */
    uint64_t sidecar_reads;   /* those of meta_reads that were of sidecar indexes */
    uint64_t sidecar_bytes;
    uint64_t queue_requests;  /* accepted by queues                             */
    uint64_t queue_uring;     /* reads of stores that io_uring carried          */
    uint64_t queue_leaf;      /* requests, or parts, that leaf threads did      */
    uint64_t queue_walks;     /* tasks of walker threads: metadata, or whole requests */
    uint64_t store_writes, store_write_bytes; /* calls to stores                */
    uint64_t flushes;         /* calls that make a store durable                */
} qchain_stats;

/* What an environment's chains did so far; of many threads one of millions may be lost. Errors: INVAL. Since 0.1. */
QCHAIN_API int qchain_env_stats(qchain_env *env, qchain_stats *out);
/* The environment a chain lives in; borrowed. Since 0.1. */
QCHAIN_API qchain_env *qchain_get_env(qchain *c);

/* -------------------------------------------------------------- queues --- */
/*
 * A queue is one thread's asynchronous door to a chain: requests are submitted
 * without waiting and reaped when they are done, in any order. What is warm is
 * looked up while it is submitted and handed to the kernel by io_uring, several
 * requests a system call; where io_uring is missing or forbidden, and for stores
 * and clusters that need the processor, the environment's leaf threads work.
 * Metadata that is not in the index yet is read by walker threads, once for all
 * requests that wait for it.
 *
 * Any number of queues may be made on a chain; each belongs to the thread that
 * uses it: calls on one queue must not overlap. A queue holds the files that it
 * reads open until it is closed. Close all queues before the chain.
 */
typedef struct qchain_queue qchain_queue;

enum qchain_queue_flags {
    QCHAIN_QUEUE_NO_URING = 0x1 /* leaf threads even where io_uring works         */
};

typedef struct qchain_queue_opts {
    size_t   struct_size; /* set by qchain_queue_opts_init                       */
    uint32_t flags;       /* QCHAIN_QUEUE_*                                      */
    uint32_t depth;       /* requests not yet reaped, at most; 0 = 128, at most
                             32768                                              */
} qchain_queue_opts;

/* Flags of one request. */
enum qchain_request_flags {
    QCHAIN_REQUEST_MORE = 0x1,  /* others follow at once: it may be held back, to
                                   go to the kernel together with them; it goes
                                   at the latest with the next request that has
                                   not this flag, with the eighth that has, and
                                   with any reap                                */
    QCHAIN_REQUEST_FUA = 0x2,   /* of a write: durable when it completes        */
    QCHAIN_REQUEST_UNMAP = 0x4  /* of write_zeroes: the space need not be kept  */
};

/* One finished request. */
typedef struct qchain_completion {
    void       *user;      /* as given with the request                         */
    int32_t     result;    /* 0 or a negative QCHAIN_E_*; never a short count   */
    uint32_t    reserved0;
    const char *error;     /* of a failure, one sentence; NULL otherwise. Valid
                              until the next reap on this queue                 */
    uint64_t    reserved1;
} qchain_completion;

/* Fill o with defaults; size is sizeof(qchain_queue_opts). Since 0.1. */
QCHAIN_API void qchain_queue_opts_init(qchain_queue_opts *o, size_t size);
/* Make a queue on a chain. opts may be NULL. The chain must outlive it. Errors:
 * NOMEM, INVAL. That io_uring cannot be had is no error. Since 0.1. */
QCHAIN_API int qchain_queue_create(qchain_queue **out, qchain *c,
                                   const qchain_queue_opts *opts, qchain_error *err);
/* What carries the requests: "io_uring" or "threads". Static. Since 0.1. */
QCHAIN_API const char *qchain_queue_engine(const qchain_queue *q);
/* Submit a read of length bytes at offset into buf, without waiting for it. A
 * request that is accepted completes exactly once, also when it is cancelled or
 * the queue is closed. buf is the library's until the completion is reaped, also
 * after a cancel; after a failure it holds nothing of use.
 * flags: QCHAIN_REQUEST_*. user: comes back with the completion; any value.
 * Does no I/O that could block; may copy zeros and start threads. Errors (nothing
 * was submitted): RANGE, INVAL, BUSY (depth requests are not reaped yet: reap
 * first), NOMEM. Failures of the read itself are in the completion. Since 0.1. */
QCHAIN_API int qchain_queue_read(qchain_queue *q, void *buf, size_t length,
                                 uint64_t offset, uint32_t flags, void *user,
                                 qchain_error *err);
/* The same into n_iov pieces, at most 1024; the array is copied. Since 0.1. */
QCHAIN_API int qchain_queue_readv(qchain_queue *q, const struct qchain_iov *iov,
                                  uint32_t n_iov, uint64_t offset, uint32_t flags,
                                  void *user, qchain_error *err);
/* The same for writing; flags: MORE, FUA. Errors: also READONLY. Since 0.1. */
QCHAIN_API int qchain_queue_write(qchain_queue *q, const void *buf, size_t length,
                                  uint64_t offset, uint32_t flags, void *user,
                                  qchain_error *err);
/* Submit a flush: durable becomes what had completed before. Errors: as qchain_queue_write. Since 0.1. */
QCHAIN_API int qchain_queue_flush(qchain_queue *q, void *user, qchain_error *err);
/* Take finished requests.
 * out, max: where to put them, and how many fit.
 * min: wait for so many, but for no more than are outstanding; 0 never waits.
 * timeout_ms: the longest wait; -1 = as long as it takes, 0 = none.
 * Returns how many were put (less than min after the timeout), or INVAL. Also
 * starts what was held back, and goes on with requests whose metadata has come:
 * so call it whenever the descriptor is readable. Interrupted system calls are
 * begun again. Since 0.1. */
QCHAIN_API int qchain_queue_reap(qchain_queue *q, qchain_completion *out,
                                 uint32_t min, uint32_t max, int timeout_ms);
/* A descriptor that polls readable while there is something for a reap to do;
 * now and then that is no completion yet. Only for poll, select and epoll
 * (level-triggered); the queue's. With io_uring epoll_wait may end with EINTR
 * although there was no signal: call it again. Requests with QCHAIN_REQUEST_MORE
 * may still be held back while the caller sleeps: submit the last one without.
 * Negative: INVAL, or IO (no more descriptors, where one more is needed). Since 0.1. */
QCHAIN_API int qchain_queue_fd(qchain_queue *q);
/* Ask that requests with this `user` end early. Advisory: each still completes
 * exactly once, with CANCELLED or as if nothing had been asked; its buffer is the
 * library's until then. Returns how many were asked, or INVAL. Since 0.1. */
QCHAIN_API int qchain_queue_cancel(qchain_queue *q, void *user);
/* Requests that were accepted and not yet reaped. Since 0.1. */
QCHAIN_API uint32_t qchain_queue_pending(const qchain_queue *q);
/* Cancel all, wait until all have ended, free. Buffers are the caller's again. NULL is fine. Since 0.1. */
QCHAIN_API void qchain_queue_destroy(qchain_queue *q);

/* -------------------------------------------------------- sidecar index --- */
/*
 * The index of a chain may be kept in a file beside its top image, called as the
 * image with ".qci" behind it. A chain that has one is opened by reading two
 * files, the top image's header and the sidecar, whatever its depth, and mapped
 * without looking at any L2 table; the other layers are opened when something is
 * first read from them. A chain whose upper layers have none uses the sidecar of
 * the first layer below that has one: a new delta over an indexed image needs
 * none of its own. The images are not changed.
 *
 * When a sidecar is believed. It is used only if all of this holds, else it is
 * ignored with a log line and the chain is opened as if there was none:
 *   - It is a regular file, owned by the image's owner, the caller or root, that
 *     nobody may write who may not write to the image.
 *   - Its image is what it was (size and modification time), and names the next
 *     layer as the sidecar does.
 *   - Each layer that it names passes the policy like a name read from an image,
 *     is a regular file and is what it was (size and modification time). No
 *     layer was modified less than two seconds before the build looked at it:
 *     such a change might leave the time as it is. (qchain_index_build waits.)
 *   - Its structure and its checksums are right.
 * Of layers behind URLs <qchain-remote.h> tells.
 *
 * What a program does to a layer without changing its size or modification time
 * is not noticed; nothing that writes to images does that, but tools that set
 * times back can. A layer that was changed after the open is noticed when it is
 * first opened: from then on reads and maps of the chain fail CHANGED. Until a
 * layer is opened, no lock keeps others from writing to it. A program that gives up
 * rights after the open (chroot, another user) may not be able to open layers then;
 * with QCHAIN_OPEN_NO_INDEX all are open from the beginning.
 *
 * No sidecar is used for internal snapshots, stores, descriptors, block devices,
 * salvaging, a given data_file, or when a resolver is set.
 */
enum qchain_index_flags {
    QCHAIN_INDEX_NO_WAIT = 0x1  /* build: do not wait until the youngest layer is
                                   two seconds old. If one is younger the sidecar
                                   is written, but never believed               */
};

typedef struct qchain_index_opts {
    size_t      struct_size; /* set by qchain_index_opts_init                    */
    uint32_t    flags;       /* QCHAIN_INDEX_*                                   */
    uint32_t    threads;     /* at most 64; 0 = as the environment's             */
    const char *name;        /* the sidecar's path or URL; NULL = beside the image */
    qchain_job *job;         /* may be NULL                                      */
} qchain_index_opts;

/* Fill o with defaults; size is sizeof(qchain_index_opts). Since 0.1. */
QCHAIN_API void qchain_index_opts_init(qchain_index_opts *o, size_t size);
/* Write the sidecar of an open chain, atomically (another file, fsync, rename), with the image's owner (where
 * the caller may) and permissions, less those to read that not all layers give. Where the chain was opened by a
 * sidecar, only the layers above it are read; to read all of them open the chain with QCHAIN_OPEN_NO_INDEX.
 * Beside an image behind a URL it is put by one request, and in a file of such an image only the caller may read
 * it. Blocks; up to two seconds longer if a layer was changed just now. opts may be NULL. Errors: UNSUPPORTED (a
 * chain that cannot have one, see above), CHANGED (a layer changed meanwhile), CORRUPT (damaged metadata), ACCESS,
 * NOSPACE, IO, CANCELLED, NOMEM, LIMIT (more than 256 MiB for a URL), INVAL (what opts->name names is no sidecar;
 * nothing may lie beside a signed URL). After an error an older sidecar is as it was, but where only the last
 * fsync failed. Since 0.1. */
QCHAIN_API int qchain_index_build(qchain *c, const qchain_index_opts *opts,
                                  qchain_error *err);
/* Compare a sidecar with the layers themselves, all of whose metadata is read. The
 * chain must have been opened with QCHAIN_OPEN_NO_INDEX. Errors: NOTFOUND (there
 * is none), CHANGED (it would not be believed; the message says why), CORRUPT (it
 * is damaged, or says something else than the layers), and those of qchain_map.
 * Since 0.1. */
QCHAIN_API int qchain_index_verify(qchain *c, const qchain_index_opts *opts,
                                   qchain_error *err);
/* Remove the sidecar of the image `name`, or the file opts->name. A file that is
 * no sidecar is left alone. env may be NULL (a URL is then reached by the defaults).
 * Errors: NOTFOUND, ACCESS, IO, INVAL, and those of requests. Since 0.1. */
QCHAIN_API int qchain_index_drop(qchain_env *env, const char *name,
                                 const qchain_index_opts *opts, qchain_error *err);
/* How many layers, counted from the bottom, an open chain knows from a sidecar: 0
 * if it uses none; qchain_layers(c) if it is the top's own. Since 0.1. */
QCHAIN_API uint32_t qchain_index_layers(const qchain *c);

enum qchain_index_file_flags {
    QCHAIN_INDEX_FILE_DATA  = 0x1, /* the external data file of its layer        */
    QCHAIN_INDEX_FILE_RACY  = 0x2, /* was modified too shortly before the build  */
    QCHAIN_INDEX_FILE_HOLES = 0x4, /* holes in it are looked for when mapping    */
    QCHAIN_INDEX_FILE_REMOTE = 0x8 /* an object behind a URL                     */
};

/* One file that a sidecar speaks of. */
typedef struct qchain_index_file {
    uint32_t    layer;        /* 0 is the sidecar's own image                    */
    uint32_t    flags;        /* QCHAIN_INDEX_FILE_*                             */
    const char *name;         /* as recorded in the image that refers to it      */
    const char *location;     /* where it lay when the sidecar was built         */
    const char *format;       /* "qcow2", "raw"                                  */
    uint64_t    virtual_size; /* bytes; 0 for a data file                        */
    uint64_t    cluster_size; /* bytes; 0 for raw                                */
    uint64_t    size;         /* of the file, bytes                              */
    uint64_t    mtime_ns;     /* its modification time, ns since the epoch; or 0 */
    uint64_t    reserved[4];
} qchain_index_file;

/* What a sidecar says. One block of memory; later versions append fields. Strings
 * are escaped for display. */
typedef struct qchain_index_info {
    size_t      struct_size;
    uint32_t    flags;        /* 0                                               */
    uint32_t    version;      /* of the file's format                            */
    const char *name;         /* of the sidecar                                  */
    const char *why_not;      /* why it is not believed now; NULL: it is         */
    uint64_t    file_size;    /* bytes                                           */
    uint64_t    virtual_size; /* of the disk, bytes                              */
    uint64_t    built_ns;     /* when, ns since the epoch                        */
    uint64_t    n_runs;       /* stretches of the disk                           */
    uint32_t    n_pages;      /* parts with a checksum each                      */
    uint32_t    n_layers;
    uint32_t    n_files;      /* layers and external data files                  */
    uint32_t    reserved0;
    const qchain_index_file *files; /* from the top down                         */
} qchain_index_info;

/* Tell what the sidecar of the image `name` says, and whether it would be believed
 * if the image was opened with these open_opts (may be NULL). A damaged sidecar is
 * an error: CORRUPT. Others: NOTFOUND, ACCESS, IO, NOMEM, INVAL. Free with
 * qchain_index_info_free. Since 0.1. */
QCHAIN_API int qchain_index_inspect(qchain_index_info **out, qchain_env *env,
                                    const char *name,
                                    const qchain_open_opts *open_opts,
                                    qchain_error *err);
/* Free an info; NULL is fine. Since 0.1. */
QCHAIN_API void qchain_index_info_free(qchain_index_info *info);

#ifdef __cplusplus
}
#endif
#include <qchain-remote.h>
#include <qchain-source.h>
#include <qchain-trace.h> /* with it <qchain-jobs.h> and <qchain-write.h> */
#endif
