/* SPDX-License-Identifier: MIT */
#include "chain/bitmaps_copy.h"

#include "chain/bitmaps.h"
#include "chain/tip.h"
#include "util/alloc.h"
#include "util/escape.h"

/* What there is to copy, so that no lock is held meanwhile. */
struct copied {
    char    *name;
    uint32_t granularity_bits;
    bool     enabled, broken;
};

static void forget(struct copied *b, size_t n)
{
    for (size_t i = 0; b && i < n; i++)
        qc_free(b[i].name);
    qc_free(b);
}

static int note(const struct qc_bitmap_list *l, struct copied **out, qchain_error *err)
{
    struct copied *b = *out = qc_calloc(l->n + 1, sizeof(*b));

    if (!b)
        return qc_fail_nomem(err);
    for (size_t i = 0; i < l->n; i++) {
        b[i] = (struct copied){qc_strdup(l->b[i]->name), l->b[i]->granularity_bits, l->b[i]->enabled,
                               l->b[i]->in_use};
        if (!b[i].name) {
            forget(b, i);
            *out = NULL;
            return qc_fail_nomem(err);
        }
    }
    return 0;
}

static int list(qchain *from, struct copied **out, size_t *n, qchain_error *err)
{
    const struct qc_format *format = from->layer[0].format;
    struct qc_bitmaps *m;
    int ret;

    *out = NULL;
    *n = 0;
    if (!format->write || !format->write->bitmaps_list)
        return qc_fail(err, QCHAIN_E_UNSUPPORTED, "Source lacks bitmap support");
    if (from->has_snapshot) /* they tell of the disk as it is now */
        return qc_fail(err, QCHAIN_E_UNSUPPORTED, "dirty bitmaps are those of the disk, not of an internal snapshot");
    ret = qc_bitmaps_enter(from, &m, err);
    if (ret != 0)
        return ret;
    ret = note(&m->list, out, err);
    *n = ret == 0 ? m->list.n : 0;
    pthread_mutex_unlock(&m->lock);
    return ret;
}

int qc_bitmaps_check_copy(qchain *from, bool skip_broken, qchain_error *err)
{
    struct qc_escaped shown;
    struct copied *b;
    size_t n;
    int ret = list(from, &b, &n, err);

    for (size_t i = 0; ret == 0 && !skip_broken && i < n; i++)
        if (b[i].broken)
            ret = qc_fail(err, QCHAIN_E_CORRUPT, "Cannot copy inconsistent bitmap '%s'",
                          qc_escape_str(&shown, b[i].name));
    forget(b, n);
    return ret;
}

static int copy(qchain *to, qchain *from, const struct copied *b, qchain_error *err)
{
    int ret = qc_chain_bitmap_add(to, b->name, b->granularity_bits, false, err);

    if (ret == 0)
        ret = qc_chain_bitmap_merge(to, b->name, from, b->name, err);
    return ret == 0 && b->enabled ? qc_chain_bitmap_enable(to, b->name, true, err) : ret;
}

int qc_bitmaps_copy(qchain *to, qchain *from, bool skip_broken, qchain_error *err)
{
    struct qc_escaped shown;
    struct copied *b;
    size_t n;
    int ret = list(from, &b, &n, err);

    for (size_t i = 0; ret == 0 && i < n; i++) {
        if (b[i].broken && skip_broken)
            continue;
        ret = copy(to, from, &b[i], err);
        if (ret != 0)
            qc_error_prefix(err, -1, "dirty bitmap '%s': ", qc_escape_str(&shown, b[i].name));
    }
    forget(b, n);
    return ret;
}
