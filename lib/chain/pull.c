/* SPDX-License-Identifier: MIT */
#include "chain/pull.h"

#include <string.h>

#include "util/alloc.h"
#include "util/bytes.h"

/* What one lock covers at most, of zeros: others want to write meanwhile. Of data it is what a caller has in memory. */
#define ZERO_STEP (UINT64_C(1) << 30)
#define READ_STEP (UINT64_C(2) << 20)
#define BATCH 32

/* ------------------------------------------------------------------ storing --- */

int qc_pull_holds(qchain *c, uint64_t from, uint64_t to, uint64_t *end, bool *held, qchain_error *err)
{
    struct qc_run r;
    enum qc_kind kind;
    int ret = qc_tip_locate(c, from, to, &r, err);

    if (ret != 0)
        return ret;
    kind = qc_run_kind(&r);
    *held = kind != QC_ABSENT && kind != QC_PREALLOC;
    *end = qc_min64(qc_run_end(&r), to);
    return 0;
}

int qc_pull_locked(qchain *c, const char *buf, uint64_t from, uint64_t to, qchain_error *err)
{
    bool held;
    int ret = 0;

    for (uint64_t at = from, end; ret == 0 && at < to; at = end) {
        ret = qc_pull_holds(c, at, to, &end, &held, err);
        if (ret != 0)
            break;
        if (!held && buf) {
            qchain_iov iov = {(char *)(uintptr_t)buf + (at - from), (size_t)(end - at)};
            struct qc_cursor cur = {&iov, 0};

            ret = qc_tip_write_range(c, &cur, at, end, QC_TIP_LOCKED, err);
        } else if (!held) {
            ret = qc_tip_zero_locked(c, at, end, QC_ZERO_UNMAP | QC_ZERO_HOLD, err);
        }
    }
    return ret;
}

/* The caller is inside, and admitted. */
static int pull_range(qchain *c, const char *buf, uint64_t offset, uint64_t end, qchain_error *err)
{
    struct qc_tip *t = c->tip;
    struct qc_range_lock lock;
    uint64_t stop;
    int ret = 0;

    for (; ret == 0 && offset < end; offset = stop) {
        stop = buf ? end : qc_min64(end, qc_align_down(offset, ZERO_STEP) + ZERO_STEP);
        qc_tip_lock_clusters(t, &lock, offset, stop);
        ret = qc_pull_locked(c, buf, offset, stop, err);
        qc_range_lock_give(&t->ranges, &lock);
    }
    return ret;
}

int qc_chain_pull(qchain *c, const char *buf, uint64_t length, uint64_t offset, qchain_error *err)
{
    unsigned token;
    int ret = qc_tip_begin_write(c, 0, &token, err);

    if (ret != 0)
        return ret;
    ret = pull_range(c, buf, offset, qc_min64(offset + length, qc_max64(c->size, offset)), err);
    return qc_tip_end_write(c, token, 0, ret, err);
}

/* ------------------------------------------------------------------ reading --- */

bool qc_pull_keeps(const qchain *c, const struct qc_run *run, size_t n)
{
    if (!c->tip->keeps)
        return false;
    for (size_t i = 0; i < n; i++)
        if (!qc_kind_is_zero(qc_run_kind(&run[i])) && run[i].source != c->tip->source)
            return true;
    return false;
}

/* Store what of [from, to) layers below show, whose bytes are in buf; or, without it, only tell whether there is any. */
static int keep(qchain *c, const char *buf, uint64_t from, uint64_t to, bool *any, qchain_error *err)
{
    struct qc_run run[BATCH];
    size_t n;
    int ret = 0;

    for (uint64_t at = from, end; ret == 0 && at < to;) {
        ret = qc_tip_copy(c, at, to, 0, run, BATCH, &n, NULL, err);
        for (size_t i = 0; ret == 0 && i < n; i++, at = end) {
            end = qc_min64(qc_run_end(&run[i]), to);
            if (!qc_pull_keeps(c, &run[i], 1))
                continue;
            *any = true;
            if (buf) {
                const char *p = buf + (at - from);

                ret = pull_range(c, qc_is_zero(p, (size_t)(end - at)) ? NULL : p, at, end, err);
            }
        }
    }
    return ret;
}

static void note_failure(qchain *c, const qchain_error *why)
{
    if (!atomic_exchange(&c->tip->keep_failed, true))
        qc_log(&c->env->log, QCHAIN_LOG_WARN, "chain", "'%s': what was read is not kept (told once): %s",
               c->layer[0].name ? c->layer[0].name : "the top", qchain_error_message(why));
}

/* One step of a read, by way of a buffer of whole units. */
static int read_step(qchain *c, struct qc_cursor *cur, uint64_t at, uint64_t stop, qchain_error *err)
{
    uint64_t unit = qc_max64(c->tip->img->run_unit, 512), from = qc_align_down(at, unit);
    uint64_t to = qc_min64(qc_align_up(stop, unit), c->size);
    char *buf = qc_aligned(4096, to - from);
    qchain_iov iov = {buf, (size_t)(to - from)}, piece;
    qchain_error why;
    bool any = false;
    size_t n;
    int ret;

    if (!buf)
        return qc_fail_nomem(err);
    ret = qc_chain_readv(c, &iov, 1, iov.len, from, QC_CHAIN_READ_INSIDE, err);
    qc_error_init(&why);
    if (ret == 0 && keep(c, buf, from, to, &any, &why) != 0)
        note_failure(c, &why);
    for (; ret == 0 && at < stop; at += n) {
        qc_cursor_take(cur, stop - at, &piece, 1, &n);
        memcpy(piece.base, buf + (at - from), n);
    }
    qc_free(buf);
    return ret;
}

/* Inside, and admitted: nobody makes the tip another meanwhile. 1: there is nothing to keep. */
static int read_inside(qchain *c, const qchain_iov *iov, uint64_t offset, uint64_t end, qchain_error *err)
{
    struct qc_cursor cur = {iov, 0};
    bool any = false;
    uint64_t stop;
    int ret;

    if (end > c->size)
        return 1;
    ret = keep(c, NULL, offset, end, &any, err);
    if (ret == 0 && !any)
        return 1;
    for (; ret == 0 && offset < end; offset = stop) {
        stop = qc_min64(end, qc_align_down(offset, READ_STEP) + READ_STEP);
        ret = read_step(c, &cur, offset, stop, err);
    }
    return ret;
}

int qc_pull_readv(qchain *c, const qchain_iov *iov, size_t n_iov, uint64_t length, uint64_t offset, qchain_error *err)
{
    struct qc_tip *t = c->tip;
    unsigned token;
    int ret = 1;

    /* Who holds writing does not hold reading. */
    if (qc_tip_check(c, NULL) == 0 && qc_admission_pass(&t->admission)) {
        token = qc_epoch_enter(t->requests);
        ret = read_inside(c, iov, offset, offset + length, err);
        qc_epoch_exit(t->requests, token);
        qc_admission_leave(&t->admission);
    }
    return ret <= 0 ? ret : qc_chain_readv(c, iov, n_iov, length, offset, 0, err);
}
