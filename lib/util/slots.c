/* SPDX-License-Identifier: MIT */
#include "util/slots.h"

#include <sched.h>
#include <string.h>
#include <time.h>

#include "util/alloc.h"

unsigned qc_slot_number(void)
{
    /* By processor: with restartable sequences in the C library this is one load. Two threads
     * that meet in a slot only share its line. */
    return (unsigned)sched_getcpu() % QC_N_SLOTS;
}

struct qc_slots *qc_slots_create(void)
{
    struct qc_slots *s = qc_aligned(_Alignof(struct qc_slots), sizeof(*s));

    if (!s)
        return NULL;
    memset(s, 0, sizeof(*s));
    if (pthread_mutex_init(&s->lock, NULL) != 0) {
        qc_free(s);
        return NULL;
    }
    return s;
}

static void free_list(struct qc_retired *r)
{
    struct qc_retired *next;

    for (; r; r = next) {
        next = r->next;
        r->free_fn(r);
    }
}

void qc_slots_destroy(struct qc_slots *s)
{
    if (!s)
        return;
    free_list(s->limbo[0]);
    free_list(s->limbo[1]);
    pthread_mutex_destroy(&s->lock);
    qc_free(s);
}

static bool drained(struct qc_slots *s, unsigned parity)
{
    for (unsigned i = 0; i < QC_N_SLOTS; i++)
        if (atomic_load(&s->slot[i].inside[parity]) != 0)
            return false;
    return true;
}

/*
 * One step, under the lock: if the readers of the old parity have left, what
 * waited for them may go, and the parity flips so that what was retired since
 * waits for the readers of now. Returns a list to free outside the lock.
 *
 * A reader may load the parity, be delayed, and count itself under the old one
 * after it was seen drained. It is then counted in the next round of that
 * parity, which is why an object waits for two flips: the reader's pointer
 * loads come after its count, hence after the object was unlinked.
 */
static struct qc_retired *advance(struct qc_slots *s)
{
    struct qc_retired *free_now;
    unsigned parity = atomic_load(&s->parity) & 1;

    if (!drained(s, parity ^ 1))
        return NULL;
    free_now = s->limbo[1];
    s->limbo[1] = s->limbo[0];
    s->limbo[0] = NULL;
    if (s->limbo[1])
        atomic_fetch_xor(&s->parity, 1);
    return free_now;
}

void qc_epoch_reclaim(struct qc_slots *s)
{
    struct qc_retired *free_now;

    pthread_mutex_lock(&s->lock);
    free_now = advance(s);
    pthread_mutex_unlock(&s->lock);
    free_list(free_now);
}

void qc_epoch_retire(struct qc_slots *s, struct qc_retired *r)
{
    struct qc_retired *free_now;

    pthread_mutex_lock(&s->lock);
    r->next = s->limbo[0];
    s->limbo[0] = r;
    free_now = advance(s);
    pthread_mutex_unlock(&s->lock);
    free_list(free_now);
}

bool qc_epoch_drain_some(struct qc_slots *s, unsigned rounds)
{
    struct timespec nap = {0, 50000};
    struct qc_retired *free_now;
    bool empty;

    for (unsigned round = 0; round < rounds; round++) {
        pthread_mutex_lock(&s->lock);
        free_now = advance(s);
        empty = !s->limbo[0] && !s->limbo[1];
        pthread_mutex_unlock(&s->lock);
        free_list(free_now);
        if (empty)
            return true;
        if (round < 100)
            sched_yield();
        else
            nanosleep(&nap, NULL);
    }
    return false;
}

void qc_epoch_drain(struct qc_slots *s)
{
    while (!qc_epoch_drain_some(s, 1000))
        continue;
}

uint64_t qc_counter_sum(const struct qc_slots *s, enum qc_counter c)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < QC_N_SLOTS; i++)
        sum += atomic_load_explicit(&s->slot[i].count[c], memory_order_relaxed);
    return sum;
}
