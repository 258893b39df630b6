/* SPDX-License-Identifier: MIT */
/*
 * What rebase, stream and merge are made of: move, make durable, switch the header. A kill before the switch leaves
 * a top that holds more than it needs to, over the old backing; after it, the same bytes over the new one.
 */
#include <string.h>

#include "chain/tip.h"
#include "ops/move.h"
#include "ops/rebase.h"
#include "qcow2/header_amend.h"

/* From now on the tip lets go of nothing (qc_chain_discard): wait for those who are at it already. */
static int begin_moving(qchain *c, qchain_error *err)
{
    int ret = qc_chain_drain(c, err);

    if (ret == 0)
        qc_chain_resume(c);
    else
        qc_restack_end(c);
    return ret;
}

int qc_restack_begin(qchain *c, const char *what, qchain_error *err)
{
    bool idle = false;
    int ret = qc_tip_check(c, err);

    if (ret == 0)
        ret = qc_chain_check(c, err);
    if (ret != 0)
        return ret;
    if (strcmp(c->tip->img->format->name, "qcow2") != 0)
        return qc_fail(err, QCHAIN_E_UNSUPPORTED, "%s: %s images have no backing file", what,
                       c->tip->img->format->name);
    if (!atomic_compare_exchange_strong(&c->tip->moving, &idle, true))
        return qc_fail(err, QCHAIN_E_BUSY, "%s: another call is changing what the top stands on", what);
    if (!c->tip->restacked)
        return begin_moving(c, err);
    qc_restack_end(c);
    return qc_fail(err, QCHAIN_E_INVAL, "%s: the top stands on another backing file since it was opened: close the "
                   "chain, and open it again", what);
}

void qc_restack_end(qchain *c)
{
    atomic_store(&c->tip->moving, false);
}

int qc_restack_move(qchain *c, uint32_t below, uint32_t flags, uint32_t threads, qchain *against, qchain_job *job,
                    qchain_job_result *out, qchain_error *err)
{
    struct qc_move m = {.from = c, .to = c, .upto = 1, .below = below, .end = c->size, .flags = flags,
                        .threads = threads, .against = against, .job = job};
    int ret;

    if (!(c->open_flags & QCHAIN_OPEN_UNSAFE))
        m.flags |= QC_MOVE_WRITE_BEHIND;
    ret = qc_move_run(&m, err);

    out->copied += m.done.copied;
    out->zeroed += m.done.zeroed;
    out->compressed += m.done.compressed;
    out->compared += m.done.compared;
    return ret;
}

int qc_restack_switch(qchain *c, const char *name, const char *format, uint64_t size, qchain_error *err)
{
    qchain_create_opts o = {.struct_size = sizeof(o), .backing_file = name, .backing_format = format};
    int ret = qc_tip_alone(c, err); /* and what was written is on the medium */

    if (ret != 0)
        return ret;
    ret = qc2_amend(c->tip->img, &o, QCHAIN_AMEND_BACKING_FILE | QCHAIN_AMEND_BACKING_FORMAT, err);
    if (ret == 0) {
        c->tip->restacked = true;
        c->tip->below_size = size;
    } else {
        qc_layer_prefix(c, 0, err);
    }
    qc_tip_not_alone(c);
    return ret;
}
