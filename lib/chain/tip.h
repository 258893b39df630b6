/* SPDX-License-Identifier: MIT */
/*
 * The writable top layer. The index covers the layers below it alone; what the tip holds is asked of its format
 * each time, so that a write has nothing to invalidate.
 *
 *   reading    inside an epoch of `requests` from before the look until the I/O has ended
 *   writing    the same, and admitted (admission.h); with range locks on the clusters concerned (range_lock.h)
 *              but where the place is the tip's own already
 *   drained    nobody writes
 *   alone      drained, and nobody reads: the tables may be turned around
 */
#ifndef QC_CHAIN_TIP_H
#define QC_CHAIN_TIP_H

#include "chain/admission.h"
#include "chain/bitmaps.h"
#include "chain/chain.h"
#include "chain/pieces.h"
#include "chain/range_lock.h"
#include "format/write.h"
#include "util/slots.h"

struct qc_tip_encoder;

struct qc_tip {
    struct qc_image           *img;
    const struct qc_write_ops *ops;
    struct qc_store           *data;     /* where guest data lies, */
    uint16_t                   source;   /* and its number */
    bool                       durable;  /* writes are when they return */
    uint64_t                   unit;     /* range locks cover multiples of it: the cluster */
    struct qc_slots           *requests;
    struct qc_admission        admission;
    struct qc_range_locks      ranges;
    pthread_mutex_t            structure; /* held by who is alone, or drains */
    uint32_t                   drained;   /* calls of qchain_drain, under it */
    atomic_bool                closed;    /* to readers: somebody is alone, or waits to be */
    pthread_mutex_t            closed_lock;
    pthread_cond_t             opened;
    atomic_bool                ended;     /* qchain_finish was called */
    pthread_mutex_t            encoder_lock;
    struct qc_tip_encoder     *encoders;  /* idle ones, under it */
    struct qc_tracked         *tracked;   /* bitmaps that note what is written; NULL: none */
    atomic_bool                unmarked;  /* who writes next marks bitmaps in the file first */
    bool                       restacked; /* the file names another backing by now, with the same bytes; what is open
                                             stays; set by who is alone, as */
    uint64_t                   below_size; /* how long that is */
    atomic_bool                moving;    /* somebody changes what it stands on */
    bool                       keeps;     /* what is read of layers below is stored (QCHAIN_OPEN_COPY_ON_READ) */
    atomic_bool                keep_failed; /* and it was told that this failed */
};

/* ---- tip.c ---- */

/* Make the top of a chain whose layers are open ready for writing; its sidecar is removed first. */
int  qc_tip_create(qchain *c, qchain_error *err);
/* End writing: what is in memory is written out. Nobody is inside. If bitmaps cannot be stored, or there is no space,
 * nothing has ended, unless anyway: then it is lost. */
int  qc_tip_end(qchain *c, bool anyway, qchain_error *err);
void qc_tip_destroy(qchain *c); /* without qc_tip_end: as a crash would leave it */

/* READONLY if the chain is not open for writing, or not any more. */
int qc_tip_check(const qchain *c, qchain_error *err);

unsigned qc_tip_enter_slowly(struct qc_tip *t, unsigned token);
/* Come inside as a reader; waits while somebody is alone. */
static inline unsigned qc_tip_enter(struct qc_tip *t)
{
    unsigned token = qc_epoch_enter(t->requests);

    /* Counted first, then looked: as with the admission. */
    if (__builtin_expect(!atomic_load(&t->closed), 1))
        return token;
    return qc_tip_enter_slowly(t, token);
}
/* The same without waiting: false if somebody is alone. */
static inline bool qc_tip_try_enter(struct qc_tip *t, unsigned *token)
{
    *token = qc_epoch_enter(t->requests);
    if (__builtin_expect(!atomic_load(&t->closed), 1))
        return true;
    qc_epoch_exit(t->requests, *token);
    return false;
}
static inline void qc_tip_exit(struct qc_tip *t, unsigned token)
{
    qc_epoch_exit(t->requests, token);
}

/* Where bytes are looked up. */
enum qc_tip_look {
    QC_TIP_VM = 0x1,      /* the VM state area: nothing is below, and no size ends it */
    QC_TIP_NO_WAIT = 0x2  /* what the index does not know is left out */
};

/* The runs of [offset, end), of the tip and below, in order: at most max; *n receives how many. With NO_WAIT it
 * may be 0: *unknown is where the index knows nothing yet. The caller is inside. */
int qc_tip_copy(qchain *c, uint64_t offset, uint64_t end, uint32_t flags, struct qc_run *run,
                size_t max, size_t *n, uint64_t *unknown, qchain_error *err);
/* What the tip alone holds at offset: one run, clipped to [offset, end) but for its beginning if it is compressed. */
int qc_tip_locate(qchain *c, uint64_t offset, uint64_t end, struct qc_run *out, qchain_error *err);
/* Append what the tip alone holds of [offset, offset + length), which are multiples of 512. */
int qc_tip_map(qchain *c, uint64_t offset, uint64_t length, struct qc_runs *out, qchain_error *err);
/* The first offset >= guest, at most end, at which the tip holds something. */
int qc_tip_next_used(qchain *c, uint64_t guest, uint64_t end, uint64_t *used, qchain_error *err);
/* Nothing from offset, at most to end: a run of it. */
struct qc_run qc_tip_nothing(const qchain *c, uint64_t offset, uint64_t end);

/* The part [from, to) of a run. */
struct qc_run qc_run_part(struct qc_run r, uint64_t from, uint64_t to);

static inline bool qc_kind_is_zero(enum qc_kind kind)
{
    return kind != QC_DATA && kind != QC_COMPRESSED;
}

/* May who writes change the disk now? Else bitmaps are to be marked first (qc_bitmaps_mark). */
static inline bool qc_tip_is_marked(const struct qc_tip *t)
{
    return !atomic_load_explicit(&t->unmarked, memory_order_acquire);
}

/* The guest changed these bytes, or some of them; called before he is told that it is done, while admitted or alone. */
static inline void qc_tip_note_write(qchain *c, uint64_t offset, uint64_t length)
{
    if (__builtin_expect(c->tip->tracked != NULL, 0))
        qc_bitmaps_note(c->tip->tracked, offset, length);
}

/* ---- write.c ---- */

/* What every call that writes begins with: admitted, and inside. end: of its range. */
int qc_tip_begin_write(qchain *c, uint64_t end, unsigned *token, qchain_error *err);
/* And ends with; ret: what came of it. flags: QCHAIN_WRITE_FUA. */
int qc_tip_end_write(qchain *c, unsigned token, uint32_t flags, int ret, qchain_error *err);

/* The caller is inside, and alone or admitted; with LOCKED he holds range locks on all clusters of the range. */
enum qc_tip_write {
    QC_TIP_LOCKED = 0x4, /* besides QC_TIP_VM */
    QC_TIP_HOLD = 0x8    /* of zeros: also where the range reads as zeros by what lies below */
};

int qc_tip_write_range(qchain *c, struct qc_cursor *cur, uint64_t offset, uint64_t end, uint32_t flags,
                       qchain_error *err);
/* Write `length` bytes of cur to where the tip's data is stored. */
int qc_tip_write_at(qchain *c, struct qc_cursor *cur, uint64_t host, uint64_t length, qchain_error *err);
/* Write zeros where the range does not read as zeros. */
int qc_tip_write_zeros(qchain *c, uint64_t offset, uint64_t end, uint32_t flags, qchain_error *err);
void qc_tip_lock_clusters(struct qc_tip *t, struct qc_range_lock *l, uint64_t offset, uint64_t end);

/* ---- write_fill.c ---- */

/* Write to a place that was allocated: bytes of cur, and what its units need besides. */
int qc_tip_fill(qchain *c, struct qc_cursor *cur, const struct qc_place *p, uint32_t flags,
                qchain_error *err);
/* Does [offset, end) read as zeros, by what is known without reading? */
int qc_tip_is_zero(qchain *c, uint64_t offset, uint64_t end, uint32_t flags, bool *zero,
                   qchain_error *err);
extern unsigned char qc_tip_zeros[]; /* never written */
#define QC_TIP_ZEROS (64u << 10)

/* ---- write_zero.c ---- */

/* Inside, and alone or admitted: make a range, any bytes, read as zeros. flags: QC_ZERO_*. */
int qc_tip_zero(qchain *c, uint64_t offset, uint64_t end, uint32_t flags, qchain_error *err);
/* The same for who holds range locks on all clusters of the range. */
int qc_tip_zero_locked(qchain *c, uint64_t offset, uint64_t end, uint32_t flags, qchain_error *err);

/* ---- write_compressed.c ---- */

void qc_tip_free_encoders(struct qc_tip *t);

/* ---- the calls; arguments are checked, err is not NULL. flags: QCHAIN_WRITE_* ---- */

int qc_chain_writev(qchain *c, const qchain_iov *iov, size_t n_iov, size_t length, uint64_t offset,
                    uint32_t flags, qchain_error *err);
int qc_chain_write_zeroes(qchain *c, uint64_t length, uint64_t offset, uint32_t flags, qchain_error *err);
int qc_chain_discard(qchain *c, uint64_t length, uint64_t offset, qchain_error *err);
int qc_chain_write_compressed(qchain *c, const void *buf, size_t length, uint64_t offset, uint32_t flags,
                              qchain_error *err);
/* Store streams of whole clusters, as the tip's own encoder could have made them. */
struct qc_stream {
    uint64_t    offset; /* of the cluster, guest */
    const void *buf;
    size_t      length;
};
int qc_chain_write_streams(qchain *c, const struct qc_stream *s, size_t n, qchain_error *err);

/* ---- tip_ops.c ---- */

int  qc_chain_flush(qchain *c, qchain_error *err);
int  qc_chain_finish(qchain *c, qchain_error *err);
/* For tests of the order: not 0, and these two do nothing, nor does qc_tip_alone flush. Closing still writes what there
 * is. Nothing in the library sets it. */
extern atomic_int qc_tip_test_break;
int  qc_chain_drain(qchain *c, qchain_error *err);
void qc_chain_resume(qchain *c);
int  qc_chain_resize(qchain *c, uint64_t size, bool shrink, qchain_error *err);
/* Let nothing be the tip's own any more: what lies below holds the same bytes, durably. */
int  qc_chain_make_empty(qchain *c, qchain_error *err);
int  qc_chain_snapshot_create(qchain *c, const struct qc_snapshot_new *s, qchain_error *err);
int  qc_chain_snapshot_apply(qchain *c, const char *key, qchain_error *err);
int  qc_chain_snapshot_delete(qchain *c, const char *key, qchain_error *err);
int  qc_chain_vmstate_read(qchain *c, void *buf, size_t length, uint64_t offset, qchain_error *err);
int  qc_chain_vmstate_write(qchain *c, const void *buf, size_t length, uint64_t offset, qchain_error *err);

/* Be alone in the tip: nobody writes or reads, and what was written is flushed. Not if it fails. */
int  qc_tip_alone(qchain *c, qchain_error *err);
void qc_tip_not_alone(qchain *c);

#endif
