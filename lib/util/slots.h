/* SPDX-License-Identifier: MIT */
/*
 * Per-processor slots: epochs and counters without shared cache lines.
 *
 * Epochs protect objects that readers use without a lock: a reader calls
 * qc_epoch_enter, loads pointers, uses them, calls qc_epoch_exit. A writer
 * unlinks an object and gives it to qc_epoch_retire; it is freed after every
 * reader that was inside at that time has left. Enter and exit cost one atomic
 * add each on a line that (nearly always) only this processor touches.
 *
 * This is the two-counter scheme of sleepable RCU (McKenney, 2006).
 */
#ifndef QC_UTIL_SLOTS_H
#define QC_UTIL_SLOTS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define QC_N_SLOTS 64

/* Those of a warm read share the line with the epochs. */
enum qc_counter {
    QC_CNT_READS,
    QC_CNT_READ_BYTES,
    QC_CNT_STORE_READS,
    QC_CNT_STORE_BYTES,
    QC_CNT_QUEUE_REQUESTS,
    QC_CNT_QUEUE_URING,
    QC_CNT_META_READS,
    QC_CNT_META_BYTES,
    QC_CNT_DECODED,
    QC_CNT_DECODED_HITS,
    QC_CNT_FILLS,
    QC_CNT_EVICTIONS,
    QC_CNT_FILE_OPENS,
    QC_CNT_SIDECAR_READS,
    QC_CNT_SIDECAR_BYTES,
    QC_CNT_QUEUE_LEAF,
    QC_CNT_QUEUE_WALKS,
    /* A number and its bytes; then the flushes that were asked of a medium. */
    QC_CNT_STORE_WRITES,
    QC_CNT_STORE_WRITE_BYTES,
    QC_CNT_FLUSHES,
    /* Of layers behind URLs, see qchain_remote_stats; some are pairs: a number, its bytes. */
    QC_CNT_HTTP_REQUESTS,
    QC_CNT_HTTP_BYTES,
    QC_CNT_HTTP_SENT_BYTES,
    QC_CNT_HTTP_CONNECTIONS,
    QC_CNT_HTTP_RETRIES,
    QC_CNT_HTTP_HEDGES,
    QC_CNT_HTTP_REDIRECTS,
    QC_CNT_HTTP_WASTED_BYTES,
    QC_CNT_MEMORY_HITS,
    QC_CNT_MEMORY_BYTES,
    QC_CNT_JOINED,
    QC_CNT_DISK_HITS,
    QC_CNT_DISK_BYTES,
    QC_CNT_DISK_STORES,
    QC_CNT_DISK_DAMAGED,
    QC_CNT_REGION_HITS,
    QC_CNT_REGION_BYTES,
    QC_CNT_REGION_STORES,
    QC_CNT_REGION_FAULTS,
    QC_CNT_FAILOVERS,
    QC_CNT_MAX
};

struct qc_slot {
    _Alignas(128) atomic_uint_fast64_t inside[2]; /* readers by parity */
    atomic_uint_fast64_t count[QC_CNT_MAX];
};

/* Something to be freed once no reader can see it. Embed it. */
struct qc_retired {
    struct qc_retired *next;
    void (*free_fn)(struct qc_retired *r);
};

struct qc_slots {
    struct qc_slot   slot[QC_N_SLOTS];
    atomic_uint      parity;
    pthread_mutex_t  lock;       /* guards the limbo lists and flips */
    struct qc_retired *limbo[2]; /* [0]: since the last flip; [1]: waits for the old parity */
};

/* NULL when there is no memory. */
struct qc_slots *qc_slots_create(void);
/* Frees what is retired; no reader may be inside. NULL is fine. */
void qc_slots_destroy(struct qc_slots *s);

/* The slot to use now, 0..QC_N_SLOTS-1; may change from call to call. */
unsigned qc_slot_number(void);

/* Returns a token for qc_epoch_exit. Nesting is fine. */
static inline unsigned qc_epoch_enter(struct qc_slots *s)
{
    unsigned n = qc_slot_number();
    unsigned parity = atomic_load_explicit(&s->parity, memory_order_relaxed) & 1;

    /* seq_cst: the count must be visible before any pointer is loaded. */
    atomic_fetch_add(&s->slot[n].inside[parity], 1);
    return n << 1 | parity;
}

static inline void qc_epoch_exit(struct qc_slots *s, unsigned token)
{
    atomic_fetch_sub_explicit(&s->slot[token >> 1].inside[token & 1], 1, memory_order_release);
}

/* Free r once every reader inside now has left: at a later retire or reclaim. */
void qc_epoch_retire(struct qc_slots *s, struct qc_retired *r);
/* Free what can be freed now, without waiting. */
void qc_epoch_reclaim(struct qc_slots *s);
/* Wait until all that is retired is freed. The caller must not be inside. */
void qc_epoch_drain(struct qc_slots *s);
/* The same, but give up after some rounds (100 take next to no time, then 50 us
 * each): a reader may hang on a dead medium. True if all is freed. */
bool qc_epoch_drain_some(struct qc_slots *s, unsigned rounds);

static inline void qc_count(struct qc_slots *s, enum qc_counter c, uint64_t n)
{
    if (s)
        atomic_fetch_add_explicit(&s->slot[qc_slot_number()].count[c], n, memory_order_relaxed);
}

/* Add to a counter that mostly this processor changes. On every read's path, so without
 * a locked instruction where one instruction does it: a thread that loses its processor
 * is between instructions, so only one that was moved to another processor since it chose
 * its slot can undo what is counted there at that very moment. */
static inline void qc_count_here(atomic_uint_fast64_t *count, uint64_t n)
{
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
    __asm__ volatile("addq %1, %0" : "+m"(*count) : "er"(n) : "cc");
#else
    atomic_fetch_add_explicit(count, n, memory_order_relaxed);
#endif
}

/* Count one transfer of some bytes: c, and the counter after it. */
static inline void qc_count_bytes(struct qc_slots *s, enum qc_counter c, uint64_t bytes)
{
    atomic_uint_fast64_t *count;

    if (!s)
        return;
    count = &s->slot[qc_slot_number()].count[c];
    qc_count_here(&count[0], 1);
    qc_count_here(&count[1], bytes);
}

uint64_t qc_counter_sum(const struct qc_slots *s, enum qc_counter c);

#endif
