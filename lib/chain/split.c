/* SPDX-License-Identifier: MIT */
/* A chain that is opened in two parts: which layer is the base? */
#include <string.h>
#include <sys/stat.h>

#include "chain/open.h"
#include "util/alloc.h"
#include "util/escape.h"

void qc_split_finish(struct qc_split *split)
{
    qc_gate_finish(&split->gate);
    qc_target_finish(&split->target);
}

static bool is_same_file(const char *a, const char *b)
{
    struct stat x, y;

    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

bool qc_split_is_base(const struct qc_split *split, const struct qc_layer *from, const struct qc_target *t)
{
    struct qc_image *img = from->img;
    char *resolved;
    bool is;

    if (!split->base || strcmp(split->base, img->backing_name) == 0 || strcmp(split->base, t->path) == 0)
        return true;
    if (t->is_url || t->is_store || t->fd >= 0)
        return false;
    /* Another way to write it, seen from where the layer's own name is. */
    resolved = qc_name_resolve(from->name, split->base);
    is = resolved && is_same_file(resolved, t->path);
    qc_free(resolved);
    return is;
}

int qc_split_not_found(const struct qc_split *split, const qchain *upper, qchain_error *err)
{
    struct qc_escaped shown, shown_top;

    if (!split->base)
        return qc_fail(err, QCHAIN_E_NOTFOUND, "Image does not have a backing file");
    return qc_fail(err, QCHAIN_E_NOTFOUND, "Did not find '%s' in the backing chain of '%s'",
                   qc_name_shown(&shown, split->base), qc_name_shown(&shown_top, upper->layer[0].name));
}
