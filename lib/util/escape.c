/* SPDX-License-Identifier: MIT */
#include "util/escape.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "util/alloc.h"

#define SHOWN_MAX 256

/* Length of the valid printable UTF-8 sequence at p, or 0. */
static size_t good_sequence(const unsigned char *p, size_t len)
{
    static const struct {
        unsigned char mask, lead;
        size_t        len;
        unsigned      least;
    } form[] = {{0xe0, 0xc0, 2, 0x80}, {0xf0, 0xe0, 3, 0x800}, {0xf8, 0xf0, 4, 0x10000}};
    unsigned v;

    if (p[0] < 0x80)
        return p[0] >= 0x20 && p[0] != 0x7f;
    for (size_t f = 0; f < 3; f++) {
        if ((p[0] & form[f].mask) != form[f].lead)
            continue;
        if (len < form[f].len)
            return 0;
        v = p[0] & (unsigned char)~form[f].mask;
        for (size_t i = 1; i < form[f].len; i++) {
            if ((p[i] & 0xc0) != 0x80)
                return 0;
            v = v << 6 | (p[i] & 0x3f);
        }
        /* Overlong, surrogates, beyond Unicode, C1 controls. */
        if (v < form[f].least || (v >= 0xd800 && v < 0xe000) || v > 0x10ffff || v < 0xa0)
            return 0;
        return form[f].len;
    }
    return 0;
}

/* Escape one piece of p into out (room for 4 bytes and more); bytes written, and
 * *taken bytes read. */
static size_t escape_one(char *out, const unsigned char *p, size_t len, size_t *taken)
{
    static const char hex[] = "0123456789abcdef";
    size_t n = good_sequence(p, len);

    if (n) {
        memcpy(out, p, n);
        *taken = n;
        return n;
    }
    out[0] = '\\';
    out[1] = 'x';
    out[2] = hex[p[0] >> 4];
    out[3] = hex[p[0] & 15];
    *taken = 1;
    return 4;
}

const char *qc_escape(struct qc_escaped *e, const char *p, size_t len)
{
    size_t used = 0, taken;

    while (len && used < SHOWN_MAX) {
        used += escape_one(e->text + used, (const unsigned char *)p, len, &taken);
        p += taken;
        len -= taken;
    }
    if (len) {
        memcpy(e->text + used, "...", 3);
        used += 3;
    }
    e->text[used] = '\0';
    return e->text;
}

const char *qc_escape_str(struct qc_escaped *e, const char *s)
{
    return qc_escape(e, s ? s : "", s ? strlen(s) : 0);
}

char *qc_escape_dup(const char *p, size_t len)
{
    char *out;
    size_t used = 0, taken;

    if (len > (SIZE_MAX - 1) / 4)
        return NULL;
    out = qc_malloc(4 * len + 1);
    if (!out)
        return NULL;
    while (len) {
        used += escape_one(out + used, (const unsigned char *)p, len, &taken);
        p += taken;
        len -= taken;
    }
    out[used] = '\0';
    return out;
}
