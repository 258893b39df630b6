/* SPDX-License-Identifier: MIT */
/* Random chains of files, and what they must read as; for tests of what moves data between layers. */
#ifndef CHAIN_FILES_H
#define CHAIN_FILES_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include <qchain.h>

#include "image_tools.h"

#define MAX_DISK (3u << 20)

static char dir[256];
static qchain_env *env;
static qchain_error *err;
static uint64_t seed;

static inline int setup(void **state)
{
    const char *tmp = getenv("TMPDIR");

    (void)state;
    snprintf(dir, sizeof(dir), "%s/qchain-rebase-XXXXXX", tmp ? tmp : "/tmp");
    err = qchain_error_create();
    return qchain_env_create(&env, NULL, err) == 0 && mkdtemp(dir) && chdir(dir) == 0 ? 0 : -1;
}

static inline int teardown(void **state)
{
    char command[300];

    (void)state;
    qchain_error_destroy(err);
    qchain_env_destroy(env);
    snprintf(command, sizeof(command), "rm -r %s", dir);
    return chdir("/") == 0 && system(command) == 0 ? 0 : -1;
}

#define OK(call)                                                                                   \
    do {                                                                                           \
        int ok_ret = (call);                                                                       \
        if (ok_ret != 0)                                                                           \
            fail_msg("seed %llu: %s: %d, %s", (unsigned long long)seed, #call, ok_ret, qchain_error_message(err)); \
    } while (0)

static inline uint64_t some(uint64_t *s, uint64_t n)
{
    return random_next(s) % n;
}

static inline qchain *open_chain(const char *name, uint32_t flags)
{
    qchain_open_opts o;
    qchain *c = NULL;

    qchain_open_opts_init(&o, sizeof(o));
    o.flags = flags;
    OK(qchain_open(&c, env, name, &o, err));
    return c;
}

/* Some bytes that compress, and are other ones each time. */
static inline void fill_bytes(unsigned char *p, size_t n, uint64_t *s)
{
    unsigned kind = (unsigned)some(s, 4);

    memset(p, kind == 0 ? 0 : (int)some(s, 255) + 1, n);
    for (size_t i = 0; kind > 1 && i < n; i += 1 + some(s, 64))
        p[i] = (unsigned char)random_next(s);
}

static inline void change(qchain *c, uint64_t cluster, bool qcow2, uint64_t *s)
{
    static unsigned char buf[MAX_DISK * 2];
    uint64_t size = qchain_size(c), unit = some(s, 2) ? 512 : cluster;
    uint64_t at = some(s, qchain_size(c)) / unit * unit;
    uint64_t n = (1 + some(s, some(s, 3) ? 16 : 400)) * 512;

    if (unit == cluster)
        n = (n + cluster - 1) / cluster * cluster;
    n = n > size - at ? size - at : n;
    fill_bytes(buf, n, s);
    switch (some(s, 8)) {
    case 0:
        OK(qchain_write_zeroes(c, n, at, some(s, 2) ? QCHAIN_WRITE_UNMAP : 0, err));
        break;
    case 1:
        OK(qchain_discard(c, n, at, 0, err));
        break;
    case 2:
    case 3:
    case 4:
        if (qcow2 && unit == cluster) {
            OK(qchain_write_compressed(c, buf, n, at, 0, err));
            break;
        } /* fall through */
    default:
        OK(qchain_write(c, buf, n, at, 0, err));
    }
}

/* Make a layer and fill it. */
static inline void make_layer(const char *name, const char *below, const char *below_format, uint64_t size, bool raw,
                       uint64_t *s)
{
    static const uint64_t clusters[] = {512, 4096, 4096, 16384, 65536, 65536, 65536, 262144};
    qchain_create_opts o;
    uint64_t cluster = 4096;
    qchain *c;

    qchain_create_opts_init(&o, sizeof(o));
    o.format = raw ? "raw" : "qcow2";
    o.size = size;
    o.backing_file = below;
    o.backing_format = below_format;
    if (!raw) {
        o.cluster_size = cluster = clusters[some(s, 8)];
        o.version = some(s, 5) == 0 ? 2 : 3;
        if (o.version == 3 && cluster >= 16384 && some(s, 3) == 0)
            o.flags |= QCHAIN_CREATE_EXTENDED_L2;
        if (o.version == 3 && some(s, 4) == 0)
            o.compression = QCHAIN_COMPRESSION_ZSTD;
    }
    OK(qchain_create(env, name, &o, err));
    c = open_chain(name, QCHAIN_OPEN_WRITE | QCHAIN_OPEN_UNSAFE);
    for (uint64_t i = some(s, 16); i > 0; i--)
        change(c, cluster, !raw, s);
    OK(qchain_finish(c, err));
    qchain_close(c);
}

struct chain {
    char     name[8][8]; /* the bottom first */
    char     format[8][8];
    unsigned n;
    uint64_t size;
    unsigned char *want;
};

static inline uint64_t some_size(uint64_t size, uint64_t *s)
{
    static const unsigned tenths[] = {10, 10, 10, 10, 3, 9, 13, 18};

    size = size * tenths[some(s, 8)] / 10 / 512 * 512;
    return size ? size : 512;
}

static inline void make_chain(struct chain *k, unsigned n, uint64_t *s)
{
    uint64_t base = 512 * (1 + some(s, some(s, 2) ? 300 : MAX_DISK / 1024));

    memset(k, 0, sizeof(*k));
    k->n = n;
    for (unsigned i = 0; i < n; i++) {
        bool raw = i == 0 && n > 1 && some(s, 4) == 0;

        snprintf(k->name[i], sizeof(k->name[i]), "l%u", i);
        snprintf(k->format[i], sizeof(k->format[i]), "%s", raw ? "raw" : "qcow2");
        k->size = some_size(base, s);
        make_layer(k->name[i], i ? k->name[i - 1] : NULL, i ? k->format[i - 1] : NULL, k->size, raw, s);
    }
}

static inline unsigned char *read_all(qchain *c)
{
    unsigned char *p = malloc(qchain_size(c) + 1);

    OK(qchain_read(c, p, qchain_size(c), 0, 0, err));
    return p;
}

static inline unsigned char *contents(const char *name)
{
    qchain *c = open_chain(name, QCHAIN_OPEN_NO_INDEX);
    unsigned char *p = read_all(c);

    qchain_close(c);
    return p;
}

static inline void same(const char *what, const unsigned char *a, const unsigned char *b, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        if (a[i] != b[i])
            fail_msg("seed %llu: %s: byte %llu differs", (unsigned long long)seed, what, (unsigned long long)i);
}

/* Is the image valid, and does it read as it should? */
static inline void look(const char *name, const unsigned char *want, uint64_t size)
{
    qchain_check_result r = {.struct_size = sizeof(r)};
    unsigned char *p;

    OK(qchain_check(env, name, NULL, &r, err));
    if (r.corruptions || r.leaks || r.check_errors)
        fail_msg("seed %llu: %s: %llu corruptions, %llu leaks", (unsigned long long)seed, name,
                 (unsigned long long)r.corruptions, (unsigned long long)r.leaks);
    p = contents(name);
    same(name, p, want, size);
    free(p);
}

#endif
