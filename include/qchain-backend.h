/* SPDX-License-Identifier: MIT */
/*
 * qchain-backend.h - the store seam of libqchain, for those who extend it.
 *
 * A store moves bytes and knows nothing of image formats. To read chains from
 * a place the library does not know (a block service, an archive, memory),
 * fill a qchain_store_ops and either
 *   - hand one open store to qchain_open() (qchain_open_opts.store), or
 *   - answer a layer's name with one from a resolver (qchain_resolver).
 *
 * This header has a version of its own, QCHAIN_BACKEND_VERSION. It may change
 * in a minor release, and then the version does; <qchain.h> does not.
 *
 * Rules for every slot
 *   - Argument order: object, buffer, length, offset, flags, error.
 *   - Result: 0, or a negative QCHAIN_E_* (see <qchain.h>). On failure describe
 *     the fault with qchain_backend_fail(); err may be NULL, and that call
 *     accepts it.
 *   - Offsets and lengths are bytes. No alignment is asked of the caller unless
 *     limits() says so.
 *   - pread and the other data slots are called by many threads at once, for
 *     overlapping ranges too. close is called once, when nothing is in flight.
 *   - A transfer is whole or failed, never short. The library never asks for a
 *     byte at or past size().
 *   - No slot may call back into the chain that uses the store.
 */
#ifndef QCHAIN_BACKEND_H
#define QCHAIN_BACKEND_H

#include <qchain.h>

#ifdef __cplusplus
extern "C" {
#endif

#define QCHAIN_BACKEND_VERSION 1

/* One piece of a scattered buffer; laid out as POSIX struct iovec. */
typedef struct qchain_iov {
    void  *base;
    size_t len;
} qchain_iov;

/* What validates a store's content. Everything but size is optional: zero or
 * an empty string says that the store does not know. */
typedef struct qchain_store_identity {
    size_t   struct_size;
    uint32_t flags;      /* QCHAIN_IDENTITY_* */
    uint32_t reserved0;
    uint64_t size;       /* bytes */
    uint64_t mtime_ns;   /* time of last change, ns since the epoch */
    uint64_t device;     /* device and inode serve only to find loops */
    uint64_t inode;
    char     etag[128];  /* strong ETag or version id */
} qchain_store_identity;

enum qchain_identity_flags {
    QCHAIN_IDENTITY_HAS_MTIME = 0x1, /* mtime_ns is meaningful */
    QCHAIN_IDENTITY_HAS_INODE = 0x2  /* device and inode are */
};

/* What a store asks of its callers. */
typedef struct qchain_store_limits {
    size_t   struct_size;
    uint32_t align_memory; /* alignment of buffers for direct transfers; 1 = none */
    uint32_t align_offset; /* the same for offsets and lengths; 1 = none */
    uint64_t max_transfer; /* bytes a call; 0 = no limit */
    uint32_t parallel;     /* the store is far away: so many reads are best under way at
                              once; 0 or 1 = no more than there are processors */
    uint32_t reserved0;
} qchain_store_limits;

enum qchain_store_flags {
    /* Of pread, preadv and submit; 0 but for stores whose limits set `parallel`. */
    QCHAIN_STORE_META  = 0x1, /* metadata: waited for, and not worth widening */
    QCHAIN_STORE_FRESH = 0x2, /* what caches hold was found to be wrong: from its origin */
    QCHAIN_STORE_EXACT = 0x4, /* read once, by one who knows what he needs: not worth widening */
    /* Of zero. */
    QCHAIN_STORE_UNMAP = 0x8  /* the space is to be given back */
};

/* One asynchronous read. The library's memory; nothing of it changes until done is called. */
typedef struct qchain_store_read {
    size_t        struct_size;
    void         *buf;
    size_t        length;   /* at least 1 */
    uint64_t      offset;
    uint32_t      flags;    /* QCHAIN_STORE_* */
    uint32_t      reserved0;
    qchain_error *err;      /* describe a failure here before done; may be NULL */
    /* Call it once, from any thread, also within submit: 0 or a negative QCHAIN_E_*. It does not
     * block; when it has returned the struct may be gone. */
    void        (*done)(struct qchain_store_read *r, int result);
} qchain_store_read;

/* One stretch of a store: bytes present, or a hole that reads as zeros. */
typedef struct qchain_store_extent {
    uint64_t offset;
    uint64_t length;
    uint32_t hole;       /* 1: reads as zeros and takes no space */
    uint32_t reserved0;
} qchain_store_extent;

/* The slots. struct_size is sizeof(qchain_store_ops) as the extender saw it;
 * slots beyond it are taken as NULL. Required: close, size, pread. */
typedef struct qchain_store_ops {
    size_t      struct_size;
    uint32_t    version;  /* QCHAIN_BACKEND_VERSION */
    uint32_t    flags;    /* must be 0 */
    const char *name;     /* short, for logs: "file", "http", "mem" */

    /* Release obj. Never called with a transfer in flight. */
    void (*close)(void *obj);

    /* Size in bytes at the time of opening. Must not change while open: a
     * store that shrinks makes pread fail. At most INT64_MAX. */
    int (*size)(void *obj, uint64_t *size, qchain_error *err);

    /* Fill buf with length bytes from offset. May block. flags: QCHAIN_STORE_*. */
    int (*pread)(void *obj, void *buf, size_t length, uint64_t offset,
                 uint32_t flags, qchain_error *err);

    /* ---- optional from here ------------------------------------------- */

    /* The same into several pieces, length being their sum. When NULL the
     * library calls pread for each piece. At most 1024 pieces a call. */
    int (*preadv)(void *obj, const qchain_iov *iov, size_t n_iov, size_t length,
                  uint64_t offset, uint32_t flags, qchain_error *err);

    /* As pread, but answer QCHAIN_E_BUSY at once where the call would have to
     * wait for a device or a network. */
    int (*pread_nowait)(void *obj, void *buf, size_t length, uint64_t offset,
                        uint32_t flags, qchain_error *err);

    /* Writing. A store without pwrite is read-only; one with it also has flush and
     * resize. A write past the end makes the store longer; what lies between reads as
     * zeros. The library keeps account of the size. flags: 0 but where said. */
    int (*pwrite)(void *obj, const void *buf, size_t length, uint64_t offset,
                  uint32_t flags, qchain_error *err);
    /* All writes that had ended when it was called are durable when it returns. */
    int (*flush)(void *obj, uint32_t flags, qchain_error *err);
    int (*resize)(void *obj, uint64_t size, uint32_t flags, qchain_error *err);
    /* The bytes are not needed any more; they read as anything afterwards. A hint. */
    int (*discard)(void *obj, uint64_t length, uint64_t offset, uint32_t flags,
                   qchain_error *err);
    /* The bytes, within the size, read as zeros afterwards. flags: QCHAIN_STORE_UNMAP,
     * their space is to be given back. UNSUPPORTED makes the library write zeros. */
    int (*zero)(void *obj, uint64_t length, uint64_t offset, uint32_t flags,
                qchain_error *err);

    /* The stretch that holds offset (out->offset <= offset), at most up to
     * offset + length: data or hole. When NULL everything is data. */
    int (*extents)(void *obj, qchain_store_extent *out, uint64_t length,
                   uint64_t offset, uint32_t flags, qchain_error *err);

    /* Copy inside the host, without passing bytes through the process.
     * UNSUPPORTED makes the caller read and write instead. */
    int (*copy_range)(void *obj, void *target, uint64_t length, uint64_t offset,
                      uint64_t target_offset, uint32_t flags, qchain_error *err);

    int (*limits)(void *obj, qchain_store_limits *out, qchain_error *err);
    int (*identity)(void *obj, qchain_store_identity *out, qchain_error *err);

    /* Bytes of space the store takes on its medium (du, not ls). */
    int (*allocated)(void *obj, uint64_t *bytes, qchain_error *err);

    /* Begin a read and return without waiting. Without it, reads that must not block
     * are pread's, on a thread of the library. */
    void (*submit)(void *obj, qchain_store_read *r);

    /* As pwrite from several pieces, length being their sum. When NULL the library
     * calls pwrite for each piece. At most 1024 pieces a call. */
    int (*pwritev)(void *obj, const qchain_iov *iov, size_t n_iov, size_t length,
                   uint64_t offset, uint32_t flags, qchain_error *err);
} qchain_store_ops;

/* One open store: its slots and its object. The struct is copied; ops must
 * outlive every chain that uses it; obj is closed by ops->close. */
typedef struct qchain_store {
    size_t                  struct_size;
    const qchain_store_ops *ops;
    void                   *obj;
    const char             *name; /* how messages call it; copied */
} qchain_store;

/* Set err (which may be NULL) to code with a sentence, and return code.
 * sys_errno: the errno behind it, or 0. message: copied, at most 1000 bytes.
 * Since 0.1. */
QCHAIN_API int qchain_backend_fail(qchain_error *err, int code, int sys_errno,
                                   const char *message);

#ifdef __cplusplus
}
#endif
#endif
