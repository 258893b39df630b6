/* SPDX-License-Identifier: MIT */
/* What the tests of this room share: scratch files and their patterns. */
#ifndef IO_TOOLS_H
#define IO_TOOLS_H

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "io/file.h"
#include "util/alloc.h"
#include "util/error.h"

/* The byte that a patterned file numbered `seed` has at an offset. */
static inline uint8_t pattern_at(uint64_t offset, unsigned seed)
{
    uint64_t x = (offset / 8 + 1) * 0x9e3779b97f4a7c15u + seed * 0xbf58476d1ce4e5b9u;

    return (uint8_t)(x >> (8 * (offset % 8)));
}

static inline int is_pattern(const void *buf, size_t length, uint64_t offset, unsigned seed)
{
    const uint8_t *p = buf;

    for (size_t i = 0; i < length; i++)
        if (p[i] != pattern_at(offset + i, seed))
            return 0;
    return 1;
}

/* A directory of its own for each test program. Not /tmp where that is a tmpfs
 * without O_DIRECT: the build directory's file system is what users have. */
static inline char *make_scratch(void)
{
    char dir[64] = "/var/tmp/qc-io-XXXXXX";

    assert_non_null(mkdtemp(dir));
    return strdup(dir);
}

static inline void drop_scratch(char *dir)
{
    char cmd[128];

    snprintf(cmd, sizeof(cmd), "rm -rf '%s'", dir);
    assert_int_equal(system(cmd), 0);
    free(dir);
}

static inline char *scratch_path(const char *dir, const char *name)
{
    char *path = qc_asprintf("%s/%s", dir, name);

    assert_non_null(path);
    return path;
}

static inline void write_pattern(const char *path, uint64_t size, unsigned seed)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    uint8_t buf[65536];

    assert_true(fd >= 0);
    for (uint64_t at = 0; at < size;) {
        size_t n = size - at < sizeof(buf) ? size - at : sizeof(buf);

        for (size_t i = 0; i < n; i++)
            buf[i] = pattern_at(at + i, seed);
        assert_int_equal(pwrite(fd, buf, n, (off_t)at), (ssize_t)n);
        at += n;
    }
    close(fd);
}

static inline struct qc_file_opts file_opts(struct qc_fdpool *fds, struct qc_slots *slots,
                                            uint32_t flags)
{
    return (struct qc_file_opts){.fds = fds, .slots = slots, .flags = flags, .fd = -1};
}

/* How many descriptors this process has. */
static inline int count_fds(void)
{
    int n = 0;

    for (int fd = 0; fd < 4096; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

#endif
