/* SPDX-License-Identifier: MIT */
/* tool_join.c - several disks, one behind the other, as one: a store that reads them, and a raw image in it. */
#include <stdlib.h>
#include <string.h>

#include "tool.h"
#include <qchain-backend.h>

struct join {
    uint32_t n;
    uint64_t *end; /* where each part ends */
    qchain  **part;
};

static uint32_t part_at(const struct join *j, uint64_t offset)
{
    uint32_t i = 0;

    while (offset >= j->end[i])
        i++;
    return i;
}

/* Where a part begins. */
static uint64_t start_of(const struct join *j, uint32_t i)
{
    return i ? j->end[i - 1] : 0;
}

static void join_close(void *obj)
{
    struct join *j = obj;

    for (uint32_t i = 0; i < j->n; i++)
        qchain_close(j->part[i]);
    free(j->end);
    free(j->part);
    free(j);
}

static int join_size(void *obj, uint64_t *size, qchain_error *err)
{
    const struct join *j = obj;

    (void)err;
    *size = j->end[j->n - 1];
    return 0;
}

static int join_pread(void *obj, void *buf, size_t length, uint64_t offset, uint32_t flags, qchain_error *err)
{
    const struct join *j = obj;
    char *p = buf;
    int r = 0;

    (void)flags;
    while (length && r == 0) {
        uint32_t i = part_at(j, offset);
        size_t n = j->end[i] - offset < length ? (size_t)(j->end[i] - offset) : length;

        r = qchain_read(j->part[i], p, n, offset - start_of(j, i), 0, err);
        p += n;
        offset += n;
        length -= n;
    }
    return r;
}

static int join_extents(void *obj, qchain_store_extent *out, uint64_t length, uint64_t offset, uint32_t flags,
                        qchain_error *err)
{
    const struct join *j = obj;
    uint32_t i = part_at(j, offset), n;
    uint64_t most = j->end[i] - offset < length ? j->end[i] - offset : length, next;
    qchain_extent e;
    int r = qchain_map(j->part[i], offset - start_of(j, i), most, &e, 1, &n, &next, 0, err);

    (void)flags;
    if (r)
        return r;
    out->offset = offset;
    out->length = e.length;
    out->hole = e.flags & QCHAIN_EXTENT_ZERO ? 1 : 0;
    return 0;
}

static const qchain_store_ops join_ops = {
    .struct_size = sizeof(join_ops),
    .version = QCHAIN_BACKEND_VERSION,
    .name = "join",
    .close = join_close,
    .size = join_size,
    .pread = join_pread,
    .extents = join_extents,
};

static struct join *make(qchain **part, uint32_t n)
{
    struct join *j = calloc(1, sizeof(*j));
    uint64_t end = 0;

    if (!j)
        return NULL;
    j->end = calloc(n, sizeof(*j->end));
    j->part = calloc(n, sizeof(*j->part));
    if (!j->end || !j->part) {
        free(j->end);
        free(j->part);
        free(j);
        return NULL;
    }
    j->n = n;
    for (uint32_t i = 0; i < n; i++) {
        j->part[i] = part[i];
        j->end[i] = end += qchain_size(part[i]);
    }
    return j;
}

int tool_join(struct tool *t, qchain **part, uint32_t n, qchain **out)
{
    struct join *j = make(part, n);
    qchain_store store = {.struct_size = sizeof(store), .ops = &join_ops, .obj = j, .name = "(joined)"};
    qchain_open_opts o;

    if (!j) {
        tool_complain(t, "out of memory");
        for (uint32_t i = 0; i < n; i++)
            qchain_close(part[i]);
        return -1;
    }
    qchain_open_opts_init(&o, sizeof(o));
    o.format = "raw";
    o.store = &store;
    if (qchain_open(out, t->env, NULL, &o, t->err) == 0)
        return 0;
    tool_complain_error(t);
    return -1;
}
