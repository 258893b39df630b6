/* SPDX-License-Identifier: MIT */
/*
 * How much may be under way in the background, by what readers feel of it.
 *
 * A scavenger after RFC 6817 (LEDBAT): the least time a reader waited for his first byte of late is what the link and
 * the server take by themselves; what he waits beyond that he spends in a queue, whoever fills it, and the window is
 * steered so that this stays near a target. That RFC changes a window by little at each of many acknowledgements;
 * readers come seldom, so each of them sets the window right at once: what is under way is what stands before him, so
 * the delay is in proportion to it. Without readers there is nothing to be measured, nor anybody to be spared: the
 * window opens by itself.
 */
#ifndef QC_REMOTE_DELAY_H
#define QC_REMOTE_DELAY_H

#include <pthread.h>
#include <stdint.h>

#define QC_DELAY_LEAST (UINT64_C(64) << 10) /* bytes: never less, or it would starve */
#define QC_DELAY_MOST (UINT64_C(16) << 20)

/* Zeroed but for the lock. */
struct qc_delay {
    pthread_mutex_t lock;      /* guards what follows */
    uint64_t        least_ns[2]; /* of the era that goes on, and the one before; 0: none */
    uint64_t        era_ns;    /* when it began */
    uint64_t        last_ns;   /* a reader; 0: there was none */
    uint64_t        window;    /* then */
};

/* A reader had his first byte after took_ns. */
void     qc_delay_note(struct qc_delay *d, uint64_t now_ns, uint64_t took_ns);
/* Bytes that may be under way: LEAST to MOST. */
uint64_t qc_delay_window(struct qc_delay *d, uint64_t now_ns);

#endif
