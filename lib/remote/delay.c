/* SPDX-License-Identifier: MIT */
#include "remote/delay.h"

#include "util/bytes.h"

#define MS UINT64_C(1000000)
/* How long the least is remembered, at least: routes and servers change, and so do those who share the link. Once it is
 * always slow, that is what it takes. */
#define ERA_NS (60000 * MS)
/* The target: half as long again as it takes by itself, but what nobody feels is no queue; RFC 6817 allows 100 ms. */
#define TARGET_LEAST (5 * MS)
#define TARGET_MOST (100 * MS)
#define SHRINK 16u        /* at once, at most */
#define QUIET_NS (300 * MS) /* without readers, then the window doubles each */
#define DOUBLE_NS (50 * MS)

/* Under the lock. */
static uint64_t window_at(const struct qc_delay *d, uint64_t now_ns)
{
    uint64_t quiet = now_ns > d->last_ns ? now_ns - d->last_ns : 0, w = d->window;

    if (d->last_ns == 0)
        return QC_DELAY_MOST;
    for (; w < QC_DELAY_MOST && quiet >= QUIET_NS + DOUBLE_NS; quiet -= DOUBLE_NS)
        w *= 2;
    return qc_min64(w, QC_DELAY_MOST);
}

/* Under the lock. */
static uint64_t least(struct qc_delay *d, uint64_t now_ns, uint64_t took_ns)
{
    if (d->least_ns[0] == 0 || now_ns - d->era_ns >= ERA_NS) {
        d->least_ns[1] = d->least_ns[0];
        d->least_ns[0] = took_ns;
        d->era_ns = now_ns;
    }
    d->least_ns[0] = qc_min64(d->least_ns[0], took_ns);
    return d->least_ns[1] ? qc_min64(d->least_ns[0], d->least_ns[1]) : d->least_ns[0];
}

void qc_delay_note(struct qc_delay *d, uint64_t now_ns, uint64_t took_ns)
{
    uint64_t base, queued, target, w;

    pthread_mutex_lock(&d->lock);
    w = window_at(d, now_ns);
    base = least(d, now_ns, took_ns);
    queued = took_ns - base;
    target = qc_min64(qc_max64(base / 2, TARGET_LEAST), TARGET_MOST);
    if (queued > target)
        w = qc_max64((uint64_t)((double)w * (double)target / (double)queued), w / SHRINK);
    else
        w += (uint64_t)((double)w / 2 * (double)(target - queued) / (double)target);
    d->window = qc_min64(qc_max64(w, QC_DELAY_LEAST), QC_DELAY_MOST);
    d->last_ns = now_ns;
    pthread_mutex_unlock(&d->lock);
}

uint64_t qc_delay_window(struct qc_delay *d, uint64_t now_ns)
{
    uint64_t w;

    pthread_mutex_lock(&d->lock);
    w = window_at(d, now_ns);
    pthread_mutex_unlock(&d->lock);
    return w;
}
