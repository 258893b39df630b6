/* SPDX-License-Identifier: MIT */
/*
 * An image in memory is opened for writing and written to. What is done follows from the input's last bytes. An
 * image that a check finds nothing wrong with stays so, and holds what was written; of others no more is asked than
 * that nothing bad happens.
 */
#include "fuzz_disk.h"

#define MAX_OPS 24u
#define MOST (96u << 10) /* bytes of a write */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static qchain_env *env;

static uint64_t next(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed >> 3;
}

static int look(struct disk *d, qchain_check_result *r)
{
    qchain_store store = disk_store(d);
    qchain_open_opts oo;
    qchain_check_opts o;

    qchain_open_opts_init(&oo, sizeof(oo));
    oo.store = &store;
    oo.format = "qcow2";
    qchain_check_opts_init(&o, sizeof(o));
    o.open = &oo;
    memset(r, 0, sizeof(*r));
    r->struct_size = sizeof(*r);
    return qchain_check(env, "input", &o, r, NULL);
}

static int open_it(qchain **c, struct disk *d, uint32_t flags)
{
    qchain_store store = disk_store(d);
    qchain_open_opts o;

    qchain_open_opts_init(&o, sizeof(o));
    o.store = &store;
    o.format = "qcow2";
    o.flags = flags | QCHAIN_OPEN_NO_BACKING;
    return qchain_open(c, env, "input", &o, NULL);
}

/* Write, and read it back. */
static int write_some(qchain *c, uint64_t *seed, unsigned char *buf, int sound)
{
    uint64_t disk = qchain_size(c), offset = next(seed), length = 1 + next(seed) % MOST;
    unsigned char *back = buf + MOST;

    if (disk == 0)
        return 0;
    offset = next(seed) % 3 ? offset % disk : disk - 1 - offset % (disk < 65536 ? disk : 65536);
    if (length > disk - offset)
        length = disk - offset;
    memset(buf, 1 + (int)(next(seed) % 255), length);
    if (qchain_write(c, buf, length, offset, 0, NULL) != 0)
        return -1;
    if (qchain_read(c, back, length, offset, 0, NULL) != 0 || memcmp(buf, back, length) != 0) {
        if (sound)
            abort();
        return -1;
    }
    return 0;
}

static int operate(qchain *c, uint64_t *seed, unsigned char *buf, int sound)
{
    uint64_t disk = qchain_size(c), offset = disk ? next(seed) % disk : 0;
    uint64_t length = next(seed) % (4u << 20), what = next(seed) % 16;

    if (length > disk - offset)
        length = disk - offset;
    switch (what) {
    case 0:
        return qchain_flush(c, NULL);
    case 1:
        return qchain_write_zeroes(c, length, offset, next(seed) % 2 ? QCHAIN_WRITE_UNMAP : 0, NULL);
    case 2:
        return qchain_discard(c, length, offset, 0, NULL);
    case 3:
        return qchain_snapshot_create(c, "new", NULL, NULL);
    case 4:
        return qchain_snapshot_apply(c, next(seed) % 2 ? "new" : "1", NULL);
    case 5:
        return qchain_snapshot_delete(c, next(seed) % 2 ? "new" : "1", NULL);
    case 6:
        return qchain_resize(c, next(seed) % 2 ? disk / 2 / 512 * 512 : disk + (next(seed) % 64 << 20),
                             QCHAIN_RESIZE_SHRINK, NULL);
    case 7:
        return qchain_bitmap_add(c, "new", 0, 1, NULL);
    case 8:
        memset(buf, 7, MOST);
        return qchain_write_compressed(c, buf, 65536, offset / 65536 * 65536, 0, NULL);
    default:
        return write_some(c, seed, buf, sound);
    }
}

static void work(struct disk *d, uint64_t seed, int sound)
{
    unsigned char *buf = malloc(2 * MOST);
    qchain_check_result after;
    qchain *c = NULL;

    if (buf && open_it(&c, d, QCHAIN_OPEN_WRITE | (seed % 2 ? QCHAIN_OPEN_DISCARD : 0)) == 0) {
        for (unsigned i = 0; i < MAX_OPS; i++)
            operate(c, &seed, buf, sound);
        qchain_finish(c, NULL);
        qchain_close(c);
        /* Leaks may come to light: counts of clusters past the end, which the file has reached now. */
        if (sound && (look(d, &after) != 0 || after.corruptions > 0))
            abort();
    }
    free(buf);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    qchain_check_result before;
    uint64_t seed = 88172645463325252u;
    struct disk d;
    int sound;

    for (size_t i = size > 16 ? size - 16 : 0; i < size; i++)
        seed = (seed ^ data[i]) * UINT64_C(0x100000001b3);
    d = disk_of(data, size);
    if (!d.p)
        return 0;
    if (qchain_env_create(&env, NULL, NULL) != 0)
        abort();
    sound = look(&d, &before) == 0 && before.corruptions == 0 && before.check_errors == 0;
    work(&d, seed | 1, sound);
    qchain_env_destroy(env); /* with its threads */
    free(d.p);
    return 0;
}
