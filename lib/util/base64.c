/* SPDX-License-Identifier: MIT */
#include "util/base64.h"

#include <string.h>

#include "util/alloc.h"

static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

char *qc_base64_encode(const void *p, size_t len)
{
    const uint8_t *b = p;
    char *out = len < SIZE_MAX / 4 ? qc_malloc((len + 2) / 3 * 4 + 1) : NULL, *o = out;

    for (size_t i = 0; out && i < len; i += 3) {
        uint32_t v = (uint32_t)b[i] << 16;

        v |= i + 1 < len ? (uint32_t)b[i + 1] << 8 : 0;
        v |= i + 2 < len ? b[i + 2] : 0;
        *o++ = digit[v >> 18];
        *o++ = digit[v >> 12 & 63];
        *o++ = i + 1 < len ? digit[v >> 6 & 63] : '=';
        *o++ = i + 2 < len ? digit[v & 63] : '=';
    }
    if (out)
        *o = '\0';
    return out;
}

int qc_base64_decode(const char *s, uint8_t *out, size_t *len)
{
    size_t n = strlen(s), pad = 0;
    uint32_t v = 0;

    *len = 0;
    if (n % 4)
        return -1;
    while (pad < 2 && pad < n && s[n - 1 - pad] == '=')
        pad++;
    for (size_t i = 0; i < n - pad; i++) {
        const char *d = strchr(digit, s[i]);

        if (!d)
            return -1;
        v = v << 6 | (uint32_t)(d - digit);
        if (i % 4 == 0)
            continue;
        out[(*len)++] = (uint8_t)(v >> (6 - 2 * (i % 4)));
    }
    /* what is left of the last digit must be nothing */
    return pad && v & ((1u << 2 * pad) - 1) ? -1 : 0;
}
