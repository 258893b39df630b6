/* SPDX-License-Identifier: MIT */
/*
 * A chain through the public door: the input is the top image, in memory; whatever
 * it refers to is a small raw file, also in memory. Inspect, open, map, read.
 */
#include <qchain-backend.h>
#include <qchain.h>
#include <stdlib.h>
#include <string.h>

#define MAX_EXTENTS 10000u
#define EXTENTS_A_CALL 500u
#define BACKING_BYTES 70000u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct memory {
    const uint8_t *p;
    size_t         size;
};

static void memory_close(void *obj)
{
    free(obj);
}

static int memory_size(void *obj, uint64_t *size, qchain_error *err)
{
    (void)err;
    *size = ((struct memory *)obj)->size;
    return QCHAIN_OK;
}

static int memory_pread(void *obj, void *buf, size_t length, uint64_t offset, uint32_t flags,
                        qchain_error *err)
{
    struct memory *m = obj;

    (void)flags;
    (void)err;
    if (offset > m->size || length > m->size - offset)
        abort(); /* the library never asks for it */
    if (length > 0)
        memcpy(buf, m->p + offset, length);
    return QCHAIN_OK;
}

static const qchain_store_ops memory_ops = {
    .struct_size = sizeof(memory_ops),
    .version = QCHAIN_BACKEND_VERSION,
    .name = "memory",
    .close = memory_close,
    .size = memory_size,
    .pread = memory_pread,
};

static int memory_store(qchain_store *s, const uint8_t *p, size_t size)
{
    struct memory *m = malloc(sizeof(*m));

    if (!m)
        return 0;
    *m = (struct memory){p, size};
    *s = (qchain_store){.struct_size = sizeof(*s), .ops = &memory_ops, .obj = m, .name = "memory"};
    return 1;
}

static const uint8_t *backing(void)
{
    static uint8_t bytes[BACKING_BYTES];

    if (bytes[0] == 0)
        for (size_t i = 0; i < sizeof(bytes); i++)
            bytes[i] = (uint8_t)(1 + i % 251);
    return bytes;
}

/* Every reference of the top is the raw file. */
static int resolve(void *data, const qchain_reference *ref, qchain_resolution *out)
{
    qchain_store *s = data;

    (void)ref;
    if (!memory_store(s, backing(), BACKING_BYTES))
        return QCHAIN_RESOLVE_DENY;
    out->store = s;
    out->format = "raw";
    return QCHAIN_RESOLVE_STORE;
}

static void map_all(qchain *c)
{
    qchain_extent *e = malloc(EXTENTS_A_CALL * sizeof(*e));
    uint64_t at = 0, size = qchain_size(c);
    uint32_t total = 0, n;

    while (e && at < size && total < MAX_EXTENTS) {
        uint64_t next = 0, want = size - at, end = at;

        if (want > (UINT64_C(1) << 32))
            want = UINT64_C(1) << 32;
        if (qchain_map(c, at, want, e, EXTENTS_A_CALL, &n, &next, total % 3, NULL) < 0)
            break;
        for (uint32_t i = 0; i < n; i++) {
            if (e[i].offset != end || e[i].length == 0)
                abort(); /* extents follow each other without a gap */
            end = e[i].offset + e[i].length;
        }
        if (next != end || next <= at || next > size)
            abort();
        at = next;
        total += n + EXTENTS_A_CALL / 4;
    }
    free(e);
}

static void read_some(qchain *c)
{
    static const size_t lengths[] = {1, 512, 4097, 65536};
    uint64_t size = qchain_size(c);
    uint8_t *buf = malloc(65536);

    for (size_t i = 0; buf && i < 8; i++) {
        size_t n = lengths[i % 4];
        uint64_t at = i < 4 ? i * 1000 : size > n ? (size - n) / (i - 3) : 0;

        if (n <= size && at <= size - n)
            qchain_read(c, buf, n, at, 0, NULL);
    }
    free(buf);
}

static qchain_env *make_env(void)
{
    qchain_env_opts o;
    qchain_env *env = NULL;

    qchain_env_opts_init(&o, sizeof(o));
    o.threads = 1;
    o.index_bytes = 1 << 20;
    o.block_bytes = 4 << 20;
    return qchain_env_create(&env, &o, NULL) < 0 ? NULL : env;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    qchain_env *env = make_env();
    qchain_image_info *info = NULL;
    qchain_store top, below;
    qchain_open_opts o;
    qchain *c = NULL;

    if (!env)
        return 0;
    qchain_open_opts_init(&o, sizeof(o));
    o.format = "qcow2";
    o.store = &top;
    if (memory_store(&top, data, size) && qchain_inspect(&info, env, "top", &o, NULL) == QCHAIN_OK)
        qchain_image_info_free(info);
    o.flags = size & 1 ? QCHAIN_OPEN_SALVAGE : 0;
    o.resolver = resolve;
    o.resolver_data = &below;
    if (memory_store(&top, data, size) && qchain_open(&c, env, "top", &o, NULL) == QCHAIN_OK) {
        map_all(c);
        read_some(c);
        qchain_close(c);
    }
    qchain_env_destroy(env);
    return 0;
}
