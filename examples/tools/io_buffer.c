/* SPDX-License-Identifier: MIT */
/* io_buffer.c - the bytes of requests. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io.h"

#define MAX_PIECES 1024 /* that one call takes */

unsigned char *io_buffer(uint64_t length, int fill)
{
    unsigned char *buf = fill ? malloc(length ? (size_t)length : 1) : calloc(length ? (size_t)length : 1, 1);

    if (!buf)
        printf("%s\n", strerror(ENOMEM));
    else if (fill)
        memset(buf, fill, (size_t)length);
    return buf;
}

unsigned char *io_buffer_from(const char *name, uint64_t length)
{
    FILE *f = fopen(name, "r");
    unsigned char *buf = NULL;
    uint64_t have = 0, at;

    if (f)
        buf = io_buffer(length, 0);
    if (buf)
        have = fread(buf, 1, (size_t)length, f);
    if (!f || (buf && ferror(f)))
        fprintf(stderr, "%s: %s\n", name, strerror(errno));
    else if (buf && !have)
        fprintf(stderr, "%s: file is empty\n", name);
    if (f)
        fclose(f);
    if (!have) {
        free(buf);
        return NULL;
    }
    for (at = have; at < length; at++)
        buf[at] = buf[at - have];
    return buf;
}

static bool piece_length(struct io_pieces *p, const char *text, uint64_t *length)
{
    if (!io_parse_size(text, length))
        return false;
    if (*length > IO_MAX_BYTES) {
        printf("Argument '%s' exceeds maximum size %" PRIu64 "\n", text, IO_MAX_BYTES);
        return false;
    }
    if (*length > IO_MAX_BYTES - p->bytes) {
        printf("The total number of bytes exceed the maximum size %" PRIu64 "\n", IO_MAX_BYTES);
        return false;
    }
    return true;
}

bool io_pieces_make(struct io_pieces *p, char **lengths, int n, int fill)
{
    unsigned char *at;
    uint64_t length;
    int i;

    memset(p, 0, sizeof(*p));
    p->iov = calloc((size_t)n + 1, sizeof(*p->iov));
    if (!p->iov)
        return false;
    for (i = 0; i < n; i++) {
        if (!piece_length(p, lengths[i], &length))
            goto fail;
        p->iov[i].len = (size_t)length;
        p->bytes += length;
    }
    p->buf = io_buffer(p->bytes, fill);
    if (!p->buf)
        goto fail;
    p->n = (uint32_t)n;
    if (p->n > MAX_PIECES) {
        p->n = 1;
        p->iov[0].len = (size_t)p->bytes;
    }
    for (i = 0, at = p->buf; i < (int)p->n; at += p->iov[i].len, i++)
        p->iov[i].base = at;
    return true;

fail:
    io_pieces_free(p);
    return false;
}

void io_pieces_free(struct io_pieces *p)
{
    free(p->buf);
    free(p->iov);
    memset(p, 0, sizeof(*p));
}
