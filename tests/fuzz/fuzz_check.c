/* SPDX-License-Identifier: MIT */
/*
 * Check and repair of one qcow2 image in memory. The last bits of the length of the input choose what is repaired.
 * Nothing is found worse after a repair, a check writes nothing, and what the repair says is what the next check
 * finds.
 */
#include <stdlib.h>
#include <string.h>

#include "qcow2/check.h"
#include "util/alloc.h"
#include "util/error.h"

#define MAX_FILE (24u << 20) /* that a repair makes of the input */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct disk {
    uint8_t *p;
    size_t   size, cap;
    size_t   n_writes;
};

static void disk_close(void *obj)
{
    (void)obj;
}

static int disk_size(void *obj, uint64_t *size, qchain_error *err)
{
    (void)err;
    *size = ((struct disk *)obj)->size;
    return 0;
}

static int disk_pread(void *obj, void *buf, size_t length, uint64_t offset, uint32_t flags,
                      qchain_error *err)
{
    struct disk *d = obj;

    (void)flags;
    (void)err;
    if (offset > d->size || length > d->size - offset)
        abort(); /* the library never asks for it */
    if (length > 0)
        memcpy(buf, d->p + offset, length);
    return 0;
}

static int disk_resize(void *obj, uint64_t size, uint32_t flags, qchain_error *err)
{
    struct disk *d = obj;
    uint8_t *p;

    (void)flags;
    if (size > MAX_FILE)
        return qc_fail(err, QCHAIN_E_NOSPACE, "the disk is full");
    if (size > d->cap) {
        p = realloc(d->p, size);
        if (!p)
            return qc_fail_nomem(err);
        d->p = p;
        d->cap = size;
    }
    if (size > d->size)
        memset(d->p + d->size, 0, size - d->size);
    d->size = size;
    return 0;
}

static int disk_pwrite(void *obj, const void *buf, size_t length, uint64_t offset, uint32_t flags,
                       qchain_error *err)
{
    struct disk *d = obj;
    int rc = 0;

    if (length > MAX_FILE || offset > MAX_FILE)
        return qc_fail(err, QCHAIN_E_NOSPACE, "the disk is full");
    if (offset + length > d->size)
        rc = disk_resize(d, offset + length, flags, err);
    if (rc == 0)
        memcpy(d->p + offset, buf, length);
    d->n_writes++;
    return rc;
}

static int disk_flush(void *obj, uint32_t flags, qchain_error *err)
{
    (void)obj;
    (void)flags;
    (void)err;
    return 0;
}

static const qchain_store_ops disk_ops = {
    .struct_size = sizeof(disk_ops),
    .version = QCHAIN_BACKEND_VERSION,
    .name = "disk",
    .close = disk_close,
    .size = disk_size,
    .pread = disk_pread,
    .pwrite = disk_pwrite,
    .flush = disk_flush,
    .resize = disk_resize,
};

static void found(void *data, int level, const char *message)
{
    (void)level;
    *(size_t *)data += strlen(message);
}

static int check(struct disk *d, uint32_t flags, struct qc2_check_result *r)
{
    qchain_store from = {.struct_size = sizeof(from), .ops = &disk_ops, .obj = d, .name = "disk"};
    size_t said = 0;
    struct qc2_check_opts o = {.flags = flags, .max_memory = 64u << 20, .found = found,
                               .found_data = &said};
    struct qc_store *s;
    int rc = qc_store_create(&s, &from, NULL, NULL);

    if (rc == 0) {
        rc = qc2_check(s, &o, r, NULL);
        qc_store_destroy(s);
    }
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint32_t flags = size & 1 ? QC2_CHECK_REPAIR_LEAKS : QC2_CHECK_REPAIR_ALL;
    struct disk d = {.p = malloc(size + 1), .size = size, .cap = size + 1};
    struct qc2_check_result before, mended, after;

    if (!d.p)
        return 0;
    memcpy(d.p, data, size);
    if (check(&d, 0, &before) == 0) {
        if (d.n_writes > 0 || d.size != size || memcmp(d.p, data, size) != 0)
            abort();
        if (check(&d, flags, &mended) == 0) {
            if (mended.corruptions > before.corruptions || check(&d, 0, &after) != 0 ||
                after.corruptions != mended.corruptions || after.leaks != mended.leaks)
                abort();
        } else if (check(&d, 0, &after) != 0) {
            abort();
        }
    }
    free(d.p);
    return 0;
}
