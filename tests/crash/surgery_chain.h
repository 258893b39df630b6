/* SPDX-License-Identifier: MIT */
/* Chains of small images in memory, of one log, for test_surgery: made at random, opened by name, read, checked. */
#ifndef SURGERY_CHAIN_H
#define SURGERY_CHAIN_H

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/wait.h>
#include <unistd.h>

#include <qchain.h>

#include "../unit/crash_states.h"
#include "crash_model.h"

#define FILE_MAX (UINT64_C(4) << 20)

/* Files by number; 0 is the top. */
struct files {
    struct rec_store *file[REC_FILES];
    unsigned          n;
};

struct layer {
    char     name[16], options[160]; /* options: for messages */
    bool     raw, v2;
    uint32_t sectors, cluster; /* bytes */
    unsigned below;            /* the file it stands on; itself: none */
};

struct chain {
    struct files   f;
    struct layer   layer[REC_FILES];
    unsigned       n;     /* of the chain; files from n on stand beside it */
    unsigned char *disk, *twin; /* what the top reads as, and the image beside the chain */
    uint64_t       size, twin_size;
};

static uint64_t rng;

static inline uint32_t random_below(uint32_t n)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return (uint32_t)((rng >> 11) % n);
}

/* ------------------------------------------------------------------ opening --- */

struct names {
    const struct chain *chain;
    const struct files *files;
};

static inline int number_of(const struct chain *ch, const char *name)
{
    for (unsigned i = 0; i < ch->f.n; i++)
        if (strcmp(ch->layer[i].name, name) == 0)
            return (int)i;
    return -1;
}

/* A layer's name is answered with its file in memory. */
static inline int find_file(void *data, const qchain_reference *ref, qchain_resolution *out)
{
    static _Thread_local qchain_store store;
    const struct names *names = data;
    int k = number_of(names->chain, ref->name);

    if (k < 0)
        return QCHAIN_RESOLVE_DENY;
    rec_store_of(names->files->file[k], &store);
    out->store = &store;
    return QCHAIN_RESOLVE_STORE;
}

/* How file k is opened; names, store and o are borrowed. */
static inline void open_opts(const struct names *names, unsigned k, uint32_t flags, qchain_store *store,
                             qchain_open_opts *o)
{
    rec_store_of(names->files->file[k], store);
    qchain_open_opts_init(o, sizeof(*o));
    o->flags = flags;
    o->format = names->chain->layer[k].raw ? "raw" : "qcow2";
    o->store = store;
    o->resolver = find_file;
    o->resolver_data = (void *)(uintptr_t)names;
}

static inline int open_file(const struct names *names, unsigned k, qchain_env *env, uint32_t flags, qchain **c,
                            qchain_error *err)
{
    qchain_store store;
    qchain_open_opts o;

    open_opts(names, k, flags, &store, &o);
    return qchain_open(c, env, names->chain->layer[k].name, &o, err);
}

/* What file k reads as; to be freed. */
static inline unsigned char *read_file(const struct names *names, unsigned k, qchain_env *env, uint64_t *size,
                                       qchain_error *err)
{
    unsigned char *buf = NULL;
    qchain *c;

    if (open_file(names, k, env, 0, &c, err) != 0)
        return NULL;
    *size = qchain_size(c);
    buf = need_memory(malloc(*size + 1));
    if (qchain_read(c, buf, *size, 0, 0, err) != 0) {
        free(buf);
        buf = NULL;
    }
    qchain_close(c);
    return buf;
}

/* Corruptions of file k; -1 if it cannot be checked. */
static inline int64_t check_file(const struct names *names, unsigned k, qchain_env *env, uint64_t *leaks,
                                 qchain_error *err)
{
    qchain_check_result res = {.struct_size = sizeof(res)};
    qchain_check_opts o;
    qchain_open_opts oo;
    qchain_store store;

    *leaks = 0;
    if (names->chain->layer[k].raw)
        return 0;
    open_opts(names, k, 0, &store, &oo);
    qchain_check_opts_init(&o, sizeof(o));
    o.open = &oo;
    if (qchain_check(env, names->chain->layer[k].name, &o, &res, err) != 0)
        return -1;
    *leaks = res.leaks;
    return (int64_t)(res.corruptions + res.check_errors);
}

/* ------------------------------------------------------------------- making --- */

static inline void chain_fail(const char *what, const char *why)
{
    printf("%s: %s\n", what, why);
    exit(1);
}

static inline void load_file(struct rec_store *r, const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, r->bytes, r->cap);

    if (n < 0)
        chain_fail(path, strerror(errno));
    r->size = (uint64_t)n;
    close(fd);
}

/* Some writes into file k, of values that no other layer has. */
static inline void fill_file(const struct chain *ch, unsigned k, qchain_env *env, qchain_error *err)
{
    struct names names = {ch, &ch->f};
    const struct layer *l = &ch->layer[k];
    unsigned char *buf = need_memory(malloc((size_t)l->sectors * SECTOR));
    uint32_t n_ops = 1 + random_below(random_below(3) ? 8 : 30), per = l->cluster / SECTOR;
    uint64_t value = (uint64_t)(k + 1) << 32;
    qchain *c;
    int ret;

    if (open_file(&names, k, env, QCHAIN_OPEN_WRITE, &c, err) != 0)
        chain_fail(l->name, qchain_error_message(err));
    for (uint32_t i = 0; i < n_ops; i++) {
        uint32_t kind = random_below(10), at = random_below(l->sectors);
        uint32_t n = 1 + random_below(random_below(3) ? 2 * per + 2 : 12 * per);

        if (kind >= 6)
            at = at / per * per, n = (n + per - 1) / per * per;
        n = n > l->sectors - at ? l->sectors - at : n;
        for (uint32_t s = 0; s < n; s++)
            sector_fill(buf + (size_t)s * SECTOR, ++value);
        if (kind < 7 || l->raw)
            ret = qchain_write(c, buf, (size_t)n * SECTOR, (uint64_t)at * SECTOR, 0, err);
        else if (kind == 7)
            ret = qchain_write_zeroes(c, (uint64_t)n * SECTOR, (uint64_t)at * SECTOR,
                                      random_below(2) ? QCHAIN_WRITE_UNMAP : 0, err);
        else
            ret = qchain_write_compressed(c, buf, (size_t)n * SECTOR, (uint64_t)at * SECTOR, 0, err);
        if (ret != 0)
            chain_fail(l->name, qchain_error_message(err));
    }
    if (qchain_finish(c, err) != 0)
        chain_fail(l->name, qchain_error_message(err));
    qchain_close(c);
    free(buf);
}

static inline void make_file(struct chain *ch, unsigned k, const char *dir, qchain_env *env, qchain_error *err)
{
    struct layer *l = &ch->layer[k];
    bool extended = !l->raw && !l->v2 && l->cluster == 16384;
    qchain_create_opts o;
    char path[200], text[sizeof(l->options)];

    qchain_create_opts_init(&o, sizeof(o));
    o.format = l->raw ? "raw" : "qcow2";
    o.size = (uint64_t)l->sectors * SECTOR;
    o.flags = l->raw ? 0 : QCHAIN_CREATE_UNSAFE_BACKING;
    if (!l->raw) {
        o.version = l->v2 ? 2 : 3;
        o.cluster_size = l->cluster;
        o.refcount_bits = l->v2 ? 16 : 1u << random_below(7);
        o.compression = !l->v2 && random_below(3) == 0 ? QCHAIN_COMPRESSION_ZSTD : 0;
        o.flags |= extended ? QCHAIN_CREATE_EXTENDED_L2 : 0;
    }
    if (l->below != k) {
        o.backing_file = ch->layer[l->below].name;
        o.backing_format = ch->layer[l->below].raw ? "raw" : "qcow2";
    }
    snprintf(text, sizeof(text), "%s: %s, %u sectors, clusters of %u%s%s, %u bits%s", l->name,
             l->raw ? "raw" : l->v2 ? "version 2" : "version 3", l->sectors, l->cluster,
             extended ? " with subclusters" : "", o.compression ? ", zstd" : "", o.refcount_bits,
             l->below == k ? "" : ", with a backing file");
    memcpy(l->options, text, sizeof(text));
    snprintf(path, sizeof(path), "%s/%s", dir, l->name);
    if (qchain_create(env, path, &o, err) != 0)
        chain_fail(path, qchain_error_message(err));
    load_file(ch->f.file[k], path);
    unlink(path);
    fill_file(ch, k, env, err);
}

static inline void plan_layer(struct chain *ch, unsigned k, uint32_t sectors, unsigned beside)
{
    static const uint32_t cluster[] = {512, 512, 1024, 4096};
    struct layer *l = &ch->layer[k];

    *l = (struct layer){.cluster = cluster[random_below(4)], .below = k + 1 < ch->n ? k + 1 : k};
    l->raw = k == ch->n - 1 && random_below(5) < 2;
    l->v2 = random_below(5) == 0;
    if (!l->raw && !l->v2 && random_below(6) == 0)
        l->cluster = 16384;
    l->sectors = random_below(3) ? sectors : 16 + random_below(sectors);
    if (k >= ch->n) /* beside the chain */
        l->below = beside < ch->n ? beside : k;
    if (k == 0)
        snprintf(l->name, sizeof(l->name), "top.qcow2");
    else
        snprintf(l->name, sizeof(l->name), "l%u.%s", k, l->raw ? "raw" : "qcow2");
}

/* Three to five layers, and an image beside them, which stands on the layer below the top, as it does (twins), on the
 * lowest one, or by itself. */
static inline void chain_make(struct chain *ch, const char *dir, qchain_env *env, bool twins)
{
    qchain_error *err = qchain_error_create();
    struct names names = {ch, &ch->f};
    uint32_t sectors = 64 + random_below(450), beside;

    memset(ch, 0, sizeof(*ch));
    ch->n = 3 + random_below(3);
    beside = twins ? 1 : ch->n - random_below(2);
    ch->f.n = ch->n + 1;
    for (unsigned k = 0; k < ch->f.n; k++) {
        ch->f.file[k] = k ? rec_create_beside(ch->f.file[0], FILE_MAX) : rec_create(FILE_MAX);
        plan_layer(ch, k, sectors, beside);
    }
    for (unsigned k = ch->n; k-- > 0;)
        make_file(ch, k, dir, env, err);
    make_file(ch, ch->n, dir, env, err);
    ch->disk = read_file(&names, 0, env, &ch->size, err);
    ch->twin = read_file(&names, ch->n, env, &ch->twin_size, err);
    if (!ch->disk || !ch->twin)
        chain_fail("the chain that was made", qchain_error_message(err));
    qchain_error_destroy(err);
}

static inline void chain_print(const struct chain *ch)
{
    for (unsigned k = 0; k < ch->f.n; k++)
        printf("  %s\n", ch->layer[k].options);
}

static inline void chain_finish(struct chain *ch)
{
    for (unsigned k = 0; k < ch->f.n; k++)
        rec_destroy(ch->f.file[k]);
    free(ch->disk);
    free(ch->twin);
}

/* ------------------------------------------------------------- what QEMU says --- */

static inline void save_file(const char *dir, const char *name, const void *bytes, uint64_t size)
{
    char path[200];
    int fd;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, bytes, size) != (ssize_t)size)
        chain_fail(path, strerror(errno));
    close(fd);
}

static inline int shell(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static inline int shell(const char *fmt, ...)
{
    char line[600];
    va_list ap;
    int ret;

    va_start(ap, fmt);
    vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    ret = system(line);
    return WIFEXITED(ret) ? WEXITSTATUS(ret) : -1;
}

/* Put all files into dir; qemu-img check of each, and a comparison of the top with what it must read as. NULL, or
 * what is wrong. */
static inline const char *ask_qemu(const struct names *names, const char *dir)
{
    static char wrong[100];
    const struct chain *ch = names->chain;
    int code;

    for (unsigned k = 0; k < ch->f.n; k++)
        save_file(dir, ch->layer[k].name, names->files->file[k]->bytes, names->files->file[k]->size);
    save_file(dir, "flat", ch->disk, ch->size);
    for (unsigned k = 0; k < ch->f.n; k++) {
        code = ch->layer[k].raw ? 0 : shell("qemu-img check -q -f qcow2 %s/%s >/dev/null 2>&1", dir, ch->layer[k].name);
        snprintf(wrong, sizeof(wrong), "qemu-img check %s: exit %d", ch->layer[k].name, code);
        if (code != 0 && code != 3)
            return wrong;
    }
    code = shell("qemu-img compare -q -f qcow2 -F raw %s/top.qcow2 %s/flat >/dev/null 2>&1", dir, dir);
    snprintf(wrong, sizeof(wrong), "qemu-img compare: exit %d", code);
    return code ? wrong : NULL;
}

#endif
