/* SPDX-License-Identifier: MIT */
/* io_text.c - numbers that commands are given, and what they report. */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "io.h"

#define LINE 16

bool io_parse_size(const char *text, uint64_t *out)
{
    enum tool_size_result r = tool_size_value(text, out);

    if (r == TOOL_SIZE_OK && *out <= INT64_MAX)
        return true;
    if (r == TOOL_SIZE_BAD)
        printf("Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- %s\n", text);
    else
        printf("Parsing error: argument too large -- %s\n", text);
    return false;
}

bool io_parse_pattern(const char *text, int *out)
{
    char *end;
    long v = strtol(text, &end, 0);

    if (end == text || *end || v < 0 || v > 255) {
        printf("%s is not a valid pattern byte\n", text);
        return false;
    }
    *out = (int)v;
    return true;
}

void io_size_text(char *buf, size_t size, double bytes)
{
    static const char *const units[] = {"", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"};
    unsigned unit = 0;
    char *zeros;

    while (bytes >= 1024 && unit < sizeof(units) / sizeof(units[0]) - 1) {
        bytes /= 1024;
        unit++;
    }
    snprintf(buf, size, unit ? "%.3f" : "%f", bytes);
    zeros = strchr(buf, '.');
    if (zeros && strspn(zeros + 1, "0") == strlen(zeros + 1))
        *zeros = '\0';
    snprintf(buf + strlen(buf), size - strlen(buf), unit ? " %sB" : " bytes", units[unit]);
}

double io_now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void time_text(char *buf, size_t size, double seconds, bool full)
{
    uint64_t hundredths = (uint64_t)(seconds * 100);
    unsigned part = (unsigned)(hundredths % 100);
    uint64_t s = hundredths / 100;

    if (!full && s < 60)
        snprintf(buf, size, "%02u.%02u sec", (unsigned)s, part);
    else
        snprintf(buf, size, "%" PRIu64 ":%02u:%02u.%02u", s / 3600, (unsigned)(s / 60 % 60),
                 (unsigned)(s % 60), part);
}

void io_print_report(const struct io_report *how, const char *verb, double seconds, uint64_t offset,
                     uint64_t bytes)
{
    char took[64], size[64], rate[64];

    if (seconds < 1e-9)
        seconds = 1e-9;
    time_text(took, sizeof(took), seconds, how->machine);
    if (how->machine) {
        printf("%" PRIu64 ",1,%s,%.3f,%.3f\n", bytes, took, (double)bytes / seconds, 1 / seconds);
        return;
    }
    io_size_text(size, sizeof(size), (double)bytes);
    io_size_text(rate, sizeof(rate), (double)bytes / seconds);
    printf("%s %" PRIu64 "/%" PRIu64 " bytes at offset %" PRIu64 "\n"
           "%s, 1 ops; %s (%s/sec and %.4f ops/sec)\n",
           verb, bytes, bytes, offset, size, took, rate, 1 / seconds);
}

void io_dump(const unsigned char *buf, uint64_t offset, uint64_t length)
{
    uint64_t at, n, i;

    for (at = 0; at < length; at += n) {
        n = length - at < LINE ? length - at : LINE;
        printf("%08" PRIx64 ":  ", offset + at);
        for (i = 0; i < n; i++)
            printf("%02x ", buf[at + i]);
        putchar(' ');
        for (i = 0; i < n; i++)
            putchar(buf[at + i] < 0x80 && isalnum(buf[at + i]) ? buf[at + i] : '.');
        putchar('\n');
    }
}

bool io_is_pattern(const unsigned char *buf, uint64_t length, int pattern)
{
    return length == 0 || (buf[0] == pattern && memcmp(buf, buf + 1, (size_t)length - 1) == 0);
}

int io_errno(const struct io_shell *sh, int r)
{
    int system = qchain_error_errno(sh->t->err);

    if (qchain_error_code(sh->t->err) == r && system)
        return system;
    switch (r) {
    case QCHAIN_E_NOMEM:
        return ENOMEM;
    case QCHAIN_E_INVAL:
        return EINVAL;
    case QCHAIN_E_NOTFOUND:
        return ENOENT;
    case QCHAIN_E_ACCESS:
        return EACCES;
    case QCHAIN_E_NOSPACE:
        return ENOSPC;
    case QCHAIN_E_READONLY:
        return EPERM;
    case QCHAIN_E_UNSUPPORTED:
        return ENOTSUP;
    default:
        return EIO;
    }
}

int io_failed(struct io_shell *sh, const char *verb, int r)
{
    printf("%s failed: %s\n", verb, strerror(io_errno(sh, r)));
    /* a number does not tell what is damaged */
    if (r == QCHAIN_E_CORRUPT || r == QCHAIN_E_CHANGED || r == QCHAIN_E_INTERNAL)
        fprintf(stderr, "%s: %s\n", sh->t->prog, qchain_error_message(sh->t->err));
    return -1;
}
