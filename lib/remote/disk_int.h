/* SPDX-License-Identifier: MIT */
/*
 * What the files of the disk cache share, and how it lies on the medium:
 *
 *     DIR/v1/<digest>.data   one object's bytes
 *     DIR/v1/<digest>.name   what object a place's name was last seen to lead to
 *     DIR/v1/<random>.tmp    one of these being made
 *     DIR/v1/lock            held by who evicts
 *
 * A data file is sparse: a page of header, and a frame for each 2 MiB of the object, at a known place
 * whatever else is there:
 *
 *     1 page     table: 512 entries of 8 bytes, one a grain: its CRC32C, and above that a mark that its
 *                place and the object's identity give (qc_disk_mark), never 0
 *     1 page     meta: when it was last used, when last filled; seconds since the epoch
 *     512 pages  the grains; the object's last one is filled up with zeros
 *
 * The grains of frame f begin at f * 4 MiB + 2 MiB, and the rest of that is a hole for ever: on 2 MiB
 * boundaries the page cache takes large folios, without which reading takes half as long again.
 *
 * Nothing is ever synced or locked for reading: a byte is given out when the mark of its grain is right
 * and its checksum is. A hole, a half of a write, a frame that another process evicts meanwhile, a block
 * that belongs elsewhere: misses, all of them. Integers are little-endian, as are all machines that this
 * is built for.
 */
#ifndef QC_REMOTE_DISK_INT_H
#define QC_REMOTE_DISK_INT_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <time.h>

#include "remote/disk.h"
#include "util/escape.h"

#define QC_FRAME_GRAINS 512u
#define QC_FRAME_DATA ((uint64_t)QC_FRAME_GRAINS * QC_GRAIN)
#define QC_FRAME_BYTES (QC_FRAME_DATA + 2 * QC_GRAIN)
#define QC_FRAME_STRIDE (2 * QC_FRAME_DATA)
#define QC_DISK_HEADER QC_GRAIN

#define QC_DISK_DIGEST 32
#define QC_DISK_NAME 72 /* a file's name: 64 digits, ".data" */

/* Bytes that wait to be stored, at most: they are buffers of whoever asked. */
#define QC_DISK_QUEUE ((uint64_t)64 << 20)
#define QC_DISK_FILES 128     /* open at once */
#define QC_DISK_TOUCH_S 60    /* uses of a frame are noted so often, at most */
#define QC_DISK_OFF_S 30      /* nothing is stored for so long after a write failed */
#define QC_DISK_BUCKETS 256

/* The first page of a data file. All of it follows from the object's identity, so it is compared whole. */
struct qc_disk_header {
    char     magic[8];
    uint32_t version;
    uint32_t crc;            /* CRC32C of the page, this being 0 */
    uint8_t  digest[QC_DISK_DIGEST];
    uint64_t size, mtime_s;  /* of the pin */
    char     etag[128];
    char     object_version[128];
    uint32_t key_length;
    char     key[QC_DISK_HEADER - 324]; /* its beginning, if it is longer than this; for people */
};

/* The beginning of a frame's second page. */
struct qc_disk_meta {
    uint64_t used, filled;
};

/* One identity that this process has tiers of. */
struct qc_disk_object {
    struct qc_disk_object *next;  /* in a bucket */
    struct qc_disk        *disk;
    uint32_t               refs;  /* under the disk's lock, as are next, newer, older */
    struct qc_disk_object *newer, *older; /* ring of those whose file is open */
    uint8_t                digest[QC_DISK_DIGEST];
    uint64_t               tag;   /* of the marks */
    char                   name[QC_DISK_NAME];
    char                  *key;
    struct qc_pin          pin;   /* less what does not make its identity */
    /* The descriptor: who uses it adds a pin, and has it if the state was not CLOSED. It is opened and
     * closed under the disk's lock, in the state CLOSED, and closed only when nobody has a pin. */
    atomic_uint            pins;
    atomic_bool            used;   /* since the hand of the clock came by */
    int                    fd;
    bool                   writable;
    atomic_bool            well;    /* the last small read was a hit */
    atomic_bool            no_fill; /* this object cannot be stored */
    ino_t                  ino;
    atomic_uint_fast64_t   owner;   /* of its tables in the block cache; another for another file */
};

struct qc_disk {
    struct qc_disk_opts    o;
    struct qc_escaped      shown;  /* the directory, for messages */
    int                    fd;     /* DIR/v1; -1: there is none, and it cannot be made */
    bool                   writable;
    pthread_mutex_t        lock;
    pthread_cond_t         idle;   /* looking is over */
    struct qc_disk_object *bucket[QC_DISK_BUCKETS];
    struct qc_disk_object *hand;   /* in the ring of open files; NULL: none is open */
    unsigned               n_open;
    atomic_int_fast64_t    off_until;  /* monotonic seconds: nothing is stored before */
    atomic_uint_fast64_t   queued;     /* bytes */
    atomic_uint_fast64_t   written;    /* bytes since the last look at the directory's size */
    atomic_uint            max_age;    /* that somebody asked find_pin for */
    struct qc_task         look;
    bool                   looking;    /* look is queued or runs; under the lock */
    atomic_bool            stop;
};

/* ---- disk.c ---- */

/* Open DIR/v1 (and, to store in it, make it). *writable: may be written to. NOTFOUND if there is no
 * DIR, *fd -1 if it has no v1. */
int  qc_disk_dir_open(int *fd, bool *writable, const char *dir, bool make, qchain_error *err);
uint64_t qc_disk_now(void); /* seconds since the epoch */
bool qc_disk_fills(struct qc_disk *d);
/* A write failed; doing: for the log. */
void qc_disk_write_failed(struct qc_disk *d, int errnum, const char *doing);
/* So much was written: it may be time to look whether the directory has grown too large. */
void qc_disk_wrote(struct qc_disk *d, uint64_t bytes);
/* Write it all; an errno. Never raises SIGXFSZ. */
int  qc_disk_write(int fd, const void *buf, size_t length, uint64_t offset);
/* Make a file with this content under a name, whole or not at all; an errno. replace: what is there,
 * else EEXIST. */
int  qc_disk_put(int dir, const char *name, const void *buf, size_t length, bool replace);
/* A regular file of ours, not by a link; -1 with errno. */
int  qc_disk_openat(int dir, const char *name, int flags, struct stat *st);

/* ---- disk_object.c ---- */

/* Digest of strings (each with its NUL, so that none can run into the next) and, if given, a pin. */
void qc_disk_digest(uint8_t digest[QC_DISK_DIGEST], const char *kind, const char *key,
                    const char *scope, const struct qc_pin *pin);
void qc_disk_file_name(char name[QC_DISK_NAME], const uint8_t digest[QC_DISK_DIGEST],
                       const char *suffix);
/* Is it a name of that kind? digest may be NULL. */
bool qc_disk_parse_name(const char *name, const char *suffix, uint8_t digest[QC_DISK_DIGEST]);
uint64_t qc_disk_tag(const uint8_t digest[QC_DISK_DIGEST]);
/* Is this page a header, of the object with this digest? */
bool qc_disk_header_ok(const struct qc_disk_header *h, const uint8_t digest[QC_DISK_DIGEST]);

/* What stands above the checksum in the entry of a grain (counted from the object's begin). */
static inline uint32_t qc_disk_mark(uint64_t tag, uint64_t grain)
{
    uint64_t h = (tag ^ grain) * UINT64_C(0x9e3779b97f4a7c15);

    h ^= h >> 32;
    return (uint32_t)(h * UINT64_C(0xd6e8feb86659fd93) >> 32) | 1;
}

static inline uint64_t qc_disk_frame_at(uint64_t frame)
{
    return frame * QC_FRAME_STRIDE + QC_FRAME_STRIDE - QC_FRAME_BYTES;
}

/* NULL: no memory. */
struct qc_disk_object *qc_disk_object_get(struct qc_disk *d, const char *key, const char *scope,
                                          const struct qc_pin *pin);
void qc_disk_object_put(struct qc_disk_object *o);
/* Its descriptor, to be unpinned; -1: there is no file, or none that is right. make: make one. */
int  qc_disk_object_pin(struct qc_disk_object *o, bool make);
void qc_disk_object_unpin(struct qc_disk_object *o);
/* Its file is nobody's any more (or is damaged): have the next one who pins open what the name leads to
 * then. */
void qc_disk_object_forget(struct qc_disk_object *o);

/* ---- disk_frame.c ---- */

/* True if all of it was there. Any range within the object. */
bool qc_disk_object_read(struct qc_disk_object *o, void *buf, uint64_t offset, size_t length);
/* See qc_tier_ops.lacks: by the marks alone. */
bool qc_disk_object_lacks(struct qc_disk_object *o, uint64_t offset, uint64_t end, uint64_t *from,
                          uint64_t *to);
/* Store a range as a qc_fetch has it. */
void qc_disk_object_store(struct qc_disk_object *o, const void *buf, uint64_t offset, size_t length);

/* ---- disk_shrink.c ---- */

/* The next of a file's frames, from *frame on, that has something on the medium. */
bool qc_disk_next_frame(int fd, uint64_t *frame);
/* Bytes that the directory's files take; an errno. objects: data files, may be NULL. */
int  qc_disk_usage(int dir, uint64_t *bytes, uint64_t *objects);
/* Evict until it takes at most `most` bytes; an errno. stop: give up, may be NULL. */
int  qc_disk_shrink(int dir, uint64_t most, const atomic_bool *stop, uint64_t *freed);
/* Be the one who evicts: a descriptor to close, -1 if another is or it cannot be told. */
int  qc_disk_lock(int dir);
/* Call fn for each entry's name; an errno. */
int  qc_disk_each(int dir, int (*fn)(void *ctx, int dir, const char *name), void *ctx);

/* ---- disk_pin.c ---- */

/* Is a file a name record that is in order? */
bool qc_disk_record_ok(int dir, const char *name);

#endif
