/* SPDX-License-Identifier: MIT */
/* tool_out.c - buffered text output. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tool.h"

#define OUT_BYTES (256 * 1024)

bool tool_out_init(struct tool_out *o, int fd)
{
    memset(o, 0, sizeof(*o));
    o->fd = fd;
    o->cap = OUT_BYTES;
    o->buf = malloc(o->cap);
    return o->buf != NULL;
}

void tool_out_flush(struct tool_out *o)
{
    size_t at = 0;

    while (at < o->len && !o->error) {
        ssize_t n = write(o->fd, o->buf + at, o->len - at);

        if (n > 0)
            at += (size_t)n;
        else if (n < 0 && errno != EINTR)
            o->error = errno;
    }
    o->len = 0;
}

int tool_out_finish(struct tool *t, struct tool_out *o)
{
    if (o->buf)
        tool_out_flush(o);
    free(o->buf);
    o->buf = NULL;
    if (!o->error)
        return 0;
    tool_complain(t, "writing the output: %s", strerror(o->error));
    return -1;
}

void tool_out_mem(struct tool_out *o, const void *p, size_t n)
{
    const char *from = p;

    while (n) {
        size_t room = o->cap - o->len;
        size_t part = n < room ? n : room;

        memcpy(o->buf + o->len, from, part);
        o->len += part;
        from += part;
        n -= part;
        if (n)
            tool_out_flush(o);
    }
}

void tool_out_str(struct tool_out *o, const char *s)
{
    tool_out_mem(o, s, strlen(s));
}

void tool_out_char(struct tool_out *o, char c)
{
    if (o->len == o->cap)
        tool_out_flush(o);
    o->buf[o->len++] = c;
}

void tool_out_fill(struct tool_out *o, char c, unsigned n)
{
    while (n--)
        tool_out_char(o, c);
}

void tool_out_u64(struct tool_out *o, uint64_t v)
{
    char digits[20];
    size_t at = sizeof(digits);

    do {
        digits[--at] = (char)('0' + v % 10);
        v /= 10;
    } while (v);
    tool_out_mem(o, digits + at, sizeof(digits) - at);
}

/* C prints "0" for zero under "%#x", not "0x0". */
void tool_out_hex(struct tool_out *o, uint64_t v, unsigned width)
{
    char digits[18];
    size_t at = sizeof(digits);
    bool prefix = v != 0;
    unsigned len;

    do {
        digits[--at] = "0123456789abcdef"[v & 15];
        v >>= 4;
    } while (v);
    if (prefix) {
        digits[--at] = 'x';
        digits[--at] = '0';
    }
    len = (unsigned)(sizeof(digits) - at);
    tool_out_mem(o, digits + at, len);
    if (len < width)
        tool_out_fill(o, ' ', width - len);
}

/* ------------------------------------------------------- JSON strings --- */

/* One character of UTF-8, or -1 where there is none; *used receives how many bytes
 * were looked at, at least 1. */
static int32_t utf8_take(const unsigned char *s, size_t *used)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    unsigned n = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    uint32_t cp = s[0] & (0x7fu >> n);
    size_t i;

    *used = 1;
    if (s[0] < 0x80)
        return s[0];
    if (s[0] < 0xc0 || s[0] > 0xf7)
        return -1;
    for (i = 1; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80) {
            *used = i;
            return -1;
        }
        cp = cp << 6 | (s[i] & 0x3f);
    }
    *used = n;
    if (cp < least[n] || cp > 0x10ffff || (cp >= 0xd800 && cp <= 0xdfff))
        return -1;
    /* the non-characters, which qemu-img replaces too */
    if ((cp >= 0xfdd0 && cp <= 0xfdef) || (cp & 0xfffe) == 0xfffe)
        return -1;
    return (int32_t)cp;
}

static void json_u(struct tool_out *o, uint32_t unit)
{
    static const char hex[] = "0123456789ABCDEF";
    char text[6] = {'\\', 'u', hex[unit >> 12 & 15], hex[unit >> 8 & 15], hex[unit >> 4 & 15],
                    hex[unit & 15]};

    tool_out_mem(o, text, sizeof(text));
}

static void json_escape(struct tool_out *o, int32_t cp)
{
    static const char plain[] = "\"\\\b\f\n\r\t";
    static const char names[] = "\"\\bfnrt";
    const char *p = cp > 0 && cp < 0x80 ? strchr(plain, cp) : NULL;

    if (p) {
        tool_out_char(o, '\\');
        tool_out_char(o, names[p - plain]);
    } else if (cp < 0) {
        json_u(o, 0xfffd);
    } else if (cp > 0xffff) {
        json_u(o, 0xd800 + (((uint32_t)cp - 0x10000) >> 10));
        json_u(o, 0xdc00 + (((uint32_t)cp - 0x10000) & 0x3ff));
    } else {
        json_u(o, (uint32_t)cp);
    }
}

void tool_out_json_str(struct tool_out *o, const char *s)
{
    const unsigned char *p = (const unsigned char *)s;

    tool_out_char(o, '"');
    while (*p) {
        size_t used = 1;

        if (*p >= 0x20 && *p < 0x7f && *p != '"' && *p != '\\')
            tool_out_char(o, (char)*p);
        else
            json_escape(o, utf8_take(p, &used));
        p += used;
    }
    tool_out_char(o, '"');
}
