/* SPDX-License-Identifier: MIT */
#include "written_store.h"

#include <stdlib.h>
#include <string.h>

#include "util/error.h"

static void close_it(void *obj)
{
    (void)obj;
}

static int size_of(void *obj, uint64_t *size, qchain_error *err)
{
    (void)err;
    *size = ((struct written *)obj)->size;
    return 0;
}

static int read_it(void *obj, void *buf, size_t length, uint64_t offset, uint32_t flags,
                   qchain_error *err)
{
    struct written *w = obj;

    (void)flags;
    if (offset > w->size || length > w->size - offset)
        return qc_fail(err, QCHAIN_E_INTERNAL, "read past the end of the store");
    if (length > 0)
        memcpy(buf, w->p + offset, length);
    return 0;
}

static int grow(struct written *w, uint64_t size)
{
    if (size > w->room) {
        uint64_t room = size * 2;
        uint8_t *p = realloc(w->p, room);

        if (!p)
            return -1;
        memset(p + w->room, 0, room - w->room);
        w->p = p;
        w->room = room;
    }
    if (size > w->size)
        w->size = size;
    return 0;
}

static int note(struct written *w, enum written_kind kind, const void *buf, uint64_t length, uint64_t offset,
                qchain_error *err)
{
    struct written_step *step = realloc(w->step, (w->n_steps + 1) * sizeof(*step));

    if (!step)
        return qc_fail_nomem(err);
    w->step = step;
    step = &w->step[w->n_steps++];
    *step = (struct written_step){kind, offset, length, NULL};
    if (buf && length > 0) {
        step->bytes = malloc(length);
        if (!step->bytes)
            return qc_fail_nomem(err);
        memcpy(step->bytes, buf, length);
    }
    return w->n_steps == w->fail_at ? qc_fail(err, QCHAIN_E_IO, "the test makes this fail") : 0;
}

static int write_it(void *obj, const void *buf, size_t length, uint64_t offset, uint32_t flags,
                    qchain_error *err)
{
    struct written *w = obj;
    int ret = note(w, WRITTEN_BYTES, buf, length, offset, err);

    (void)flags;
    if (ret != 0)
        return ret;
    if (grow(w, offset + length) != 0)
        return qc_fail_nomem(err);
    memcpy(w->p + offset, buf, length);
    return 0;
}

static int flush_it(void *obj, uint32_t flags, qchain_error *err)
{
    (void)flags;
    return note(obj, WRITTEN_FLUSH, NULL, 0, 0, err);
}

static int resize_it(void *obj, uint64_t size, uint32_t flags, qchain_error *err)
{
    struct written *w = obj;
    int ret = note(w, WRITTEN_SIZE, NULL, size, 0, err);

    (void)flags;
    if (ret != 0)
        return ret;
    if (size < w->size)
        memset(w->p + size, 0, w->size - size);
    if (grow(w, size) != 0)
        return qc_fail_nomem(err);
    w->size = size;
    return 0;
}

static const qchain_store_ops ops = {
    .struct_size = sizeof(ops),
    .version = QCHAIN_BACKEND_VERSION,
    .name = "written",
    .close = close_it,
    .size = size_of,
    .pread = read_it,
    .pwrite = write_it,
    .flush = flush_it,
    .resize = resize_it,
};

struct qc_store *written_store(struct written *w)
{
    qchain_store from = {sizeof(from), &ops, w, "written"};
    struct qc_store *s = NULL;

    return qc_store_create(&s, &from, NULL, NULL) < 0 ? NULL : s;
}

void written_set(struct written *w, const void *p, uint64_t size)
{
    if (grow(w, size) != 0)
        abort();
    w->size = size;
    if (size > 0)
        memcpy(w->p, p, size);
}

void written_forget(struct written *w)
{
    for (size_t i = 0; i < w->n_steps; i++)
        free(w->step[i].bytes);
    free(w->step);
    w->step = NULL;
    w->n_steps = 0;
}

void written_free(struct written *w)
{
    written_forget(w);
    free(w->p);
    memset(w, 0, sizeof(*w));
}
