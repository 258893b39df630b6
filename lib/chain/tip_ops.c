/* SPDX-License-Identifier: MIT */
/* Flush, drain, resize, snapshots, the VM state area: what concerns the tip as a whole. */
#include <sched.h>
#include <time.h>

#include "chain/tip.h"
#include "util/bytes.h"

/* -------------------------------------------------------------------- flush --- */

atomic_int qc_tip_test_break;

static bool breaks(void)
{
    return atomic_load_explicit(&qc_tip_test_break, memory_order_relaxed) != 0;
}

static int flush(qchain *c, qchain_error *err)
{
    int ret = breaks() ? 0 : c->tip->ops->flush(c->tip->img, err);

    if (ret != 0)
        qc_layer_prefix(c, 0, err);
    return ret;
}

int qc_chain_flush(qchain *c, qchain_error *err)
{
    int ret = qc_tip_check(c, err);

    return ret == 0 ? flush(c, err) : ret;
}

int qc_chain_finish(qchain *c, qchain_error *err)
{
    int ret = qc_tip_check(c, err);

    if (ret != 0 || breaks())
        return ret;
    qc_admission_hold(&c->tip->admission);
    ret = qc_tip_end(c, false, err);
    qc_admission_release(&c->tip->admission);
    return ret;
}

/* -------------------------------------------------------------------- drain --- */

int qc_chain_drain(qchain *c, qchain_error *err)
{
    struct qc_tip *t = c->tip;
    int ret = qc_tip_check(c, err);

    if (ret != 0)
        return ret;
    qc_admission_hold(&t->admission);
    ret = flush(c, err);
    if (ret != 0) {
        qc_admission_release(&t->admission);
        return ret;
    }
    pthread_mutex_lock(&t->structure);
    t->drained++;
    pthread_mutex_unlock(&t->structure);
    return 0;
}

void qc_chain_resume(qchain *c)
{
    struct qc_tip *t = c->tip;
    bool was;

    if (!t)
        return;
    pthread_mutex_lock(&t->structure);
    was = t->drained > 0;
    t->drained -= was;
    pthread_mutex_unlock(&t->structure);
    if (was)
        qc_admission_release(&t->admission);
}

/* -------------------------------------------------------------------- alone --- */

/* Freed when all who were inside have left. */
struct departure {
    struct qc_retired retired; /* first */
    atomic_bool       over;
};

static void note_departure(struct qc_retired *r)
{
    atomic_store(&((struct departure *)(void *)r)->over, true);
}

static void wait_for_readers(struct qc_tip *t)
{
    struct departure d = {.retired = {.free_fn = note_departure}};
    struct timespec nap = {0, 50000};

    qc_epoch_retire(t->requests, &d.retired);
    for (unsigned round = 0; !atomic_load(&d.over); round++) {
        qc_epoch_reclaim(t->requests);
        if (round < 100)
            sched_yield();
        else
            nanosleep(&nap, NULL);
    }
}

static void open_again(struct qc_tip *t)
{
    pthread_mutex_lock(&t->closed_lock);
    atomic_store(&t->closed, false);
    pthread_cond_broadcast(&t->opened);
    pthread_mutex_unlock(&t->closed_lock);
}

int qc_tip_alone(qchain *c, qchain_error *err)
{
    struct qc_tip *t = c->tip;
    int ret = qc_tip_check(c, err);

    if (ret == 0)
        ret = qc_chain_check(c, err);
    if (ret != 0)
        return ret;
    qc_admission_hold(&t->admission);
    pthread_mutex_lock(&t->structure);
    ret = flush(c, err);
    if (ret != 0) {
        pthread_mutex_unlock(&t->structure);
        qc_admission_release(&t->admission);
        return ret;
    }
    atomic_store(&t->closed, true);
    wait_for_readers(t);
    return 0;
}

void qc_tip_not_alone(qchain *c)
{
    struct qc_tip *t = c->tip;

    open_again(t);
    pthread_mutex_unlock(&t->structure);
    qc_admission_release(&t->admission);
}

/* The same for what a job that pulls data into the tip could not bear. */
static int alone_and_still(qchain *c, const char *what, qchain_error *err)
{
    int ret = qc_tip_alone(c, err);

    if (ret != 0 || !atomic_load(&c->tip->moving))
        return ret;
    qc_tip_not_alone(c);
    return qc_fail(err, QCHAIN_E_BUSY, "%s: a rebase, stream or merge of the top is going on: wait for its end, or cancel it",
                   what);
}

/* ------------------------------------------------------------------- resize --- */

static void set_size(qchain *c, uint64_t size)
{
    c->layer[0].virtual_size = c->layer[0].limit = size;
    c->size = size;
}

/* What shows behind the old end must read as zeros before the new size is on the medium: what a longer backing
 * file has there, and the rest of the last cluster, in which others may have left anything. *hidden: up to where. */
static int hide_behind(qchain *c, uint64_t old, uint64_t size, uint64_t *hidden, qchain_error *err)
{
    uint64_t rest = qc_min64(qc_align_up(old, c->tip->unit), size);
    uint64_t below = qc_min64(qc_max64(c->index.size, c->tip->below_size), size);
    unsigned token;
    int ret = 0;

    *hidden = qc_max64(rest, below);
    if (c->tip->img->cluster_size == 0)
        return 0; /* a raw file grows by zeros */
    token = qc_epoch_enter(c->tip->requests);
    set_size(c, size); /* so that what is behind the end is looked at; nobody else is here */
    if (rest > old)
        ret = qc_tip_write_zeros(c, old, rest, 0, err);
    if (ret == 0 && below > rest)
        ret = qc_tip_zero(c, rest, below, 0, err);
    qc_epoch_exit(c->tip->requests, token);
    if (ret == 0)
        ret = flush(c, err);
    set_size(c, old);
    return ret;
}

static int resize_alone(qchain *c, uint64_t size, bool shrink, qchain_error *err)
{
    struct qc_tip *t = c->tip;
    uint64_t old = c->size, hidden = 0;
    int ret = 0;

    if (size == old)
        return 0;
    if (size < old && !shrink)
        return qc_fail(err, QCHAIN_E_INVAL, "resize: %llu bytes are less than the disk's %llu: what lies "
                       "beyond would be lost (QCHAIN_RESIZE_SHRINK)", (unsigned long long)size,
                       (unsigned long long)old);
    ret = qc_bitmaps_before_resize(c, size, err);
    if (ret != 0)
        return ret;
    if (size > old)
        ret = hide_behind(c, old, size, &hidden, err);
    if (ret == 0)
        ret = t->ops->resize(t->img, size, hidden, err);
    if (ret != 0)
        qc_layer_prefix(c, 0, err);
    else
        set_size(c, size);
    qc_bitmaps_after_resize(c, old, false);
    return ret;
}

int qc_chain_resize(qchain *c, uint64_t size, bool shrink, qchain_error *err)
{
    int ret = alone_and_still(c, "resize", err);

    if (ret != 0)
        return ret;
    ret = resize_alone(c, size, shrink, err);
    qc_tip_not_alone(c);
    return ret;
}

/* ----------------------------------------------------------------- emptying --- */

int qc_chain_make_empty(qchain *c, qchain_error *err)
{
    int ret = qc_tip_check(c, err);

    if (ret == 0 && !c->tip->ops->make_empty)
        ret = qc_fail(err, QCHAIN_E_UNSUPPORTED, "%s images cannot be emptied", c->tip->img->format->name);
    if (ret == 0)
        ret = qc_tip_alone(c, err);
    if (ret != 0)
        return ret;
    ret = c->tip->ops->make_empty(c->tip->img, err);
    if (ret != 0)
        qc_layer_prefix(c, 0, err);
    qc_tip_not_alone(c);
    return ret;
}

/* ---------------------------------------------------------------- snapshots --- */

/* True if the format has what a call needs. */
static int check_slot(const qchain *c, bool has, qchain_error *err)
{
    int ret = qc_tip_check(c, err);

    if (ret != 0 || (has && !c->tip->img->data_store))
        return ret;
    return qc_fail(err, QCHAIN_E_UNSUPPORTED, "%s images %shave no internal snapshots", c->tip->img->format->name,
                   has ? "with an external data file " : "");
}

int qc_chain_snapshot_create(qchain *c, const struct qc_snapshot_new *s, qchain_error *err)
{
    int ret = check_slot(c, c->tip && c->tip->ops->snapshot_create, err);

    if (ret == 0)
        ret = alone_and_still(c, "snapshot", err);
    if (ret != 0)
        return ret;
    ret = c->tip->ops->snapshot_create(c->tip->img, s, err);
    if (ret != 0)
        qc_layer_prefix(c, 0, err);
    qc_tip_not_alone(c);
    return ret;
}

int qc_chain_snapshot_apply(qchain *c, const char *key, qchain_error *err)
{
    uint64_t size;
    int ret = check_slot(c, c->tip && c->tip->ops->snapshot_apply, err);

    if (ret == 0)
        ret = alone_and_still(c, "snapshot", err);
    if (ret != 0)
        return ret;
    size = c->size;
    ret = qc_bitmaps_before_resize(c, UINT64_MAX, err);
    if (ret == 0) {
        ret = c->tip->ops->snapshot_apply(c->tip->img, key, err);
        if (ret != 0)
            qc_layer_prefix(c, 0, err);
        set_size(c, c->tip->img->virtual_size); /* the disk has the size it had */
        qc_bitmaps_after_resize(c, size, ret != QCHAIN_E_NOTFOUND && ret != QCHAIN_E_UNSUPPORTED);
    }
    qc_tip_not_alone(c);
    return ret;
}

int qc_chain_snapshot_delete(qchain *c, const char *key, qchain_error *err)
{
    int ret = check_slot(c, c->tip && c->tip->ops->snapshot_delete, err);

    if (ret == 0)
        ret = qc_tip_alone(c, err);
    if (ret != 0)
        return ret;
    ret = c->tip->ops->snapshot_delete(c->tip->img, key, err);
    if (ret != 0)
        qc_layer_prefix(c, 0, err);
    qc_tip_not_alone(c);
    return ret;
}

/* ----------------------------------------------------------------- VM state --- */

/* Where [offset, offset + length) of the area lies on the disk. The caller is inside. */
static int vmstate_place(qchain *c, uint64_t length, uint64_t offset, uint64_t *at, qchain_error *err)
{
    uint64_t end;
    int ret = c->tip->ops->vmstate_base(c->tip->img, at, err);

    if (ret == 0 && (!qc_add_ok(*at, offset, at) || !qc_add_ok(*at, length, &end) || end > INT64_MAX))
        ret = qc_fail(err, QCHAIN_E_RANGE, "VM state: %llu bytes at %llu: too far",
                      (unsigned long long)length, (unsigned long long)offset);
    return ret;
}

int qc_chain_vmstate_read(qchain *c, void *buf, size_t length, uint64_t offset, qchain_error *err)
{
    qchain_iov iov = {buf, length};
    unsigned token;
    uint64_t at;
    int ret = check_slot(c, c->tip && c->tip->ops->vmstate_base, err);

    if (ret != 0)
        return ret;
    token = qc_tip_enter(c->tip);
    ret = vmstate_place(c, length, offset, &at, err);
    if (ret == 0)
        ret = qc_chain_readv(c, &iov, 1, length, at, QC_CHAIN_READ_VM, err);
    qc_tip_exit(c->tip, token);
    return ret;
}

int qc_chain_vmstate_write(qchain *c, const void *buf, size_t length, uint64_t offset, qchain_error *err)
{
    qchain_iov iov = {(void *)(uintptr_t)buf, length};
    struct qc_cursor cur = {&iov, 0};
    unsigned token;
    uint64_t at;
    int ret = check_slot(c, c->tip && c->tip->ops->vmstate_base, err);

    if (ret == 0)
        ret = qc_tip_begin_write(c, 0, &token, err);
    if (ret != 0)
        return ret;
    ret = vmstate_place(c, length, offset, &at, err);
    if (ret == 0 && length > 0)
        ret = qc_tip_write_range(c, &cur, at, at + length, QC_TIP_VM, err);
    return qc_tip_end_write(c, token, 0, ret, err);
}
