/* SPDX-License-Identifier: MIT */
/*
 * The format seam for writing. An image that is open for writing tells by these slots what map tells of one
 * that is read only.
 *
 * Who changes what lies where (all but a write to a place that is the image's own) holds range locks on the
 * clusters concerned, so that of the calls that run at once at most one concerns a cluster. Else any number of
 * threads may call. All slots may block: tables are read, and now and then written.
 */
#ifndef QC_FORMAT_WRITE_H
#define QC_FORMAT_WRITE_H

#include "format/bitmap.h"
#include "format/format.h"

struct qc_encoder;
struct qc_slots;

struct qc_write_opts {
    /* Borrowed until close. Whoever uses a place in the file is inside an epoch of these from before he looks
     * it up until his I/O has ended; what is freed is used anew only when all who were inside have left. */
    struct qc_slots *requests;
    uint64_t         cache_bytes; /* memory for tables; 0: 32 MiB */
    bool             discard;     /* freed places are given back to the file system */
    bool             unsafe;      /* nothing is made durable, and there is no order (cache=unsafe) */
    bool             shared;      /* no locks are held: what looks like a crash may be another who writes */
};

/* Where bytes of the disk are to be written. */
struct qc_place {
    uint64_t offset, length; /* guest bytes that it speaks of: from the offset asked for on */
    uint64_t host;           /* of offset, in the data store */
    bool     own;            /* the place is this image's alone: write there, and no more is to be done */
    bool     zeroed;         /* !own: the place reads as zeros already, so only what is not zero must be written */
    /* !own: [unit, unit + unit_length) of the disk, whole units that hold the above, must be written at
     * unit_host, which alloc sets. */
    uint64_t unit, unit_length, unit_host;
    uint64_t priv[4];        /* the format's */
};

enum qc_zero_flags {
    QC_ZERO_UNMAP = 0x1, /* places need not be kept */
    QC_ZERO_HOLD  = 0x2  /* the image itself shall hold them, whatever reads as zeros below: that will be another */
};

/* A snapshot to be made. */
struct qc_snapshot_new {
    const char *name;
    uint64_t    vm_state_size; /* bytes of the VM state area that belong to it */
    uint64_t    vm_clock_nsec;
    uint64_t    date_ns;       /* since the epoch */
    uint64_t    icount;        /* UINT64_MAX: none */
};

struct qc_write_ops {
    /* Make an image that was opened, and not used yet, ready for writing; its stores are writable. What must be
     * written before anything else is, it writes here, durably. Errors: CORRUPT (it is marked so), READONLY,
     * UNSUPPORTED, and those of I/O. */
    int (*begin)(struct qc_image *img, const struct qc_write_opts *opts, qchain_error *err);
    /* Write everything out and mark the image clean. Nobody is inside. Close follows, also after a failure;
     * closing without it leaves the file as a crash would. */
    int (*end)(struct qc_image *img, qchain_error *err);

    /* The stretch of this layer that begins at offset, at most length bytes of it (multiples of 512): one run,
     * of kind QC_ABSENT where this layer holds nothing. A compressed run is whole and may begin before. */
    int (*locate)(struct qc_image *img, uint64_t offset, uint64_t length, struct qc_run *out,
                  qchain_error *err);

    /* Where [offset, offset + length), any bytes, is to be written, or the first part of it; changes nothing.
     * With !own no host is set yet. */
    int (*place)(struct qc_image *img, uint64_t offset, uint64_t length, struct qc_place *out,
                 qchain_error *err);
    /* Find room for what place answered with !own; may shorten it at its end. On success one of the next two
     * follows. NOSPACE and IO leave all as it was. */
    int (*alloc)(struct qc_image *img, struct qc_place *p, qchain_error *err);
    /* The units are written: from now on they are the disk's. On failure they are not, and the room is given
     * back. */
    int (*finish_alloc)(struct qc_image *img, struct qc_place *p, qchain_error *err);
    void (*abort_alloc)(struct qc_image *img, struct qc_place *p);

    /* Make whole units of [offset, offset + length) read as zeros without writing them. *done receives how many
     * bytes from offset on do so now: 0 if the first is not a whole unit, or the format has no such thing.
     * flags: QC_ZERO_*. */
    int (*zero)(struct qc_image *img, uint64_t offset, uint64_t length, uint32_t flags, uint64_t *done,
                qchain_error *err);
    /* Give up whole clusters of the range; what is not whole stays. They read as zeros afterwards or, where
     * there is no other way (version 2 over a backing file), are left alone. has_backing: layers lie below. */
    int (*discard)(struct qc_image *img, uint64_t offset, uint64_t length, bool has_backing,
                   qchain_error *err);

    /* Streams of single clusters; NULL slots: none. An encoder serves one thread at a time. encode: *out_len is
     * the room, then the bytes; 1 if it would not become smaller. */
    struct qc_encoder *(*encoder_create)(const struct qc_image *img);
    void (*encoder_destroy)(struct qc_encoder *e);
    int (*encode)(struct qc_encoder *e, void *out, size_t *out_len, const void *in, size_t in_len,
                  qchain_error *err);
    /* Store the stream of the cluster at offset, in place of what was there. */
    int (*write_compressed)(struct qc_image *img, uint64_t offset, const void *stream, size_t length,
                            qchain_error *err);

    /* What was finished before the call is on the medium after it. */
    int (*flush)(struct qc_image *img, qchain_error *err);
    /* Change the disk's size (a multiple of 512) and img->virtual_size. Nobody else is inside. Up to `hidden` the
     * caller has made zero what lies behind the old end, with this image's own means, and it stays so; what is
     * added beyond that is absent, and nothing is below. */
    int (*resize)(struct qc_image *img, uint64_t size, uint64_t hidden, qchain_error *err);

    /* Let the disk be what lies below, which holds the same bytes, durably: nothing is this image's own any more
     * but internal snapshots with their VM state, and bitmaps. The file becomes small if it can. At every instant each byte is
     * there. Nobody else is inside. NULL: no such image can have anything below. */
    int (*make_empty)(struct qc_image *img, qchain_error *err);

    /* Internal snapshots; nobody else is inside. key: an id, or else a name. */
    int (*snapshot_create)(struct qc_image *img, const struct qc_snapshot_new *s, qchain_error *err);
    int (*snapshot_apply)(struct qc_image *img, const char *key, qchain_error *err);
    int (*snapshot_delete)(struct qc_image *img, const char *key, qchain_error *err);
    /* The guest address at which the VM state begins; locate, place and alloc work there, too. */
    int (*vmstate_base)(struct qc_image *img, uint64_t *offset, qchain_error *err);

    /* Persistent dirty bitmaps; NULL slots: none. The first two also of an image that is open for reading. */
    /* Append those that the file has, and that are not known to be out of date, not loaded; set out->disk. */
    int (*bitmaps_list)(struct qc_image *img, struct qc_bitmap_list *out, qchain_error *err);
    /* Load the bits of one. CORRUPT if what is loaded of the list is more than the file can hold. */
    int (*bitmap_load)(struct qc_image *img, struct qc_bitmap_list *list, struct qc_bitmap *b,
                       qchain_error *err);
    /* Could a bitmap of this granularity, for a disk of this size, be stored besides those of the list? more: bytes
     * of its name; 0: it is one of them. UNSUPPORTED, LIMIT. */
    int (*bitmap_fits)(struct qc_image *img, const struct qc_bitmap_list *list, uint32_t granularity_bits,
                       uint64_t disk, size_t more, qchain_error *err);
    /* Let the file say, durably, that bitmaps are in use: those of the list that are marked, or all, and all that
     * are not in the list any more. */
    int (*bitmaps_mark)(struct qc_image *img, const struct qc_bitmap_list *list, bool all, qchain_error *err);
    /* Store the list in place of what the file has, durably; what has changed is loaded. At every instant the file
     * has the old ones or the new. Nobody writes. NOSPACE leaves the old. */
    int (*bitmaps_store)(struct qc_image *img, struct qc_bitmap_list *list, qchain_error *err);
};

#endif
