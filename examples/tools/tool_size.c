/* SPDX-License-Identifier: MIT */
/* tool_size.c - sizes in and out. */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tool.h"

/* The power of two a suffix stands for, or -1. */
static int suffix_shift(char c)
{
    static const char suffixes[] = "bkmgtpe";
    const char *p = c ? strchr(suffixes, tolower((unsigned char)c)) : NULL;

    return p ? (int)(p - suffixes) * 10 : -1;
}

/* What stands behind the point: tenths and so on, as a part of `unit`, rounded to
 * the nearest. */
static const char *parse_fraction(const char *p, uint64_t unit, uint64_t *part)
{
    double fraction = 0, place = 0.1;

    for (; isdigit((unsigned char)*p); p++, place /= 10)
        fraction += (*p - '0') * place;
    *part = (uint64_t)(fraction * (double)unit + 0.5);
    return p;
}

enum tool_size_result tool_size_value(const char *text, uint64_t *out)
{
    const char *p = text, *point = NULL;
    uint64_t whole, part = 0;
    char *end;
    int shift;

    while (isspace((unsigned char)*p))
        p++;
    if (*p == '+')
        p++;
    if (!isdigit((unsigned char)*p))
        return TOOL_SIZE_BAD;
    errno = 0;
    whole = strtoull(p, &end, p[0] == '0' && tolower((unsigned char)p[1]) == 'x' ? 16 : 10);
    if (errno == ERANGE)
        return TOOL_SIZE_RANGE;
    p = end;
    if (*p == '.') {
        point = p + 1;
        p = parse_fraction(point, 1, &part);
    }
    shift = suffix_shift(*p);
    if (shift >= 0)
        p++;
    if (*p)
        return TOOL_SIZE_BAD;
    if (shift < 0)
        shift = 0;
    part = 0;
    if (point)
        parse_fraction(point, shift ? UINT64_C(1) << shift : 1000000000, &part);
    if (part && !shift)
        return TOOL_SIZE_BAD; /* no parts of bytes */
    if (whole > UINT64_MAX >> shift || (whole << shift) > UINT64_MAX - part)
        return TOOL_SIZE_RANGE;
    *out = (whole << shift) + part;
    return TOOL_SIZE_OK;
}

static bool parse_within(struct tool *t, const char *what, const char *text, uint64_t min,
                         uint64_t max, uint64_t *out)
{
    enum tool_size_result r = tool_size_value(text, out);

    if (r == TOOL_SIZE_BAD) {
        tool_complain(t, "Invalid %s specified. You may use k, M, G, T, P or E suffixes for", what);
        tool_complain(t, "kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.");
        return false;
    }
    if (r == TOOL_SIZE_RANGE || *out < min || *out > max) {
        tool_complain(t, "Invalid %s specified. Must be between %" PRIu64 " and %" PRIu64 ".", what,
                      min, max);
        return false;
    }
    return true;
}

bool tool_parse_size(struct tool *t, const char *what, const char *text, uint64_t *out)
{
    return parse_within(t, what, text, 0, INT64_MAX, out);
}

bool tool_parse_number(struct tool *t, const char *what, const char *text, uint64_t min,
                       uint64_t max, uint64_t *out)
{
    return parse_within(t, what, text, min, max, out);
}

/* Three digits; from 1000 of a unit on the next one is used, not from 1024. */
void tool_size_text(char *buf, size_t size, uint64_t bytes)
{
    static const char *const units[] = {"", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"};
    double v = (double)bytes;
    unsigned unit = 0;

    while (v >= 1000 && unit < sizeof(units) / sizeof(units[0]) - 1) {
        v /= 1024;
        unit++;
    }
    snprintf(buf, size, "%0.3g %sB", v, units[unit]);
}
