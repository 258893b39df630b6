/* SPDX-License-Identifier: MIT */
#include "net/azure_sign.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "net/config_int.h"
#include "util/alloc.h"
#include "util/base64.h"
#include "util/error.h"
#include "util/sha256.h"

/* A header's value without the blanks around it; n: its length. NULL if it is another header. */
static const char *value_of(const char *header, const char *name, size_t *n)
{
    size_t len = strlen(name);
    const char *s = header + len;

    if (strncasecmp(header, name, len) != 0 || *s != ':')
        return NULL;
    for (s++; *s == ' ' || *s == '\t'; s++) {
    }
    *n = strlen(s);
    while (*n && (s[*n - 1] == ' ' || s[*n - 1] == '\t'))
        --*n;
    return s;
}

/* Text that grows; free it when there is no memory. */
struct text {
    char *s;
    bool  failed;
};

static void add(struct text *t, const char *s, size_t n, const char *end)
{
    char *more = t->failed ? NULL : qc_asprintf("%s%.*s%s", t->s ? t->s : "", (int)n, s, end);

    t->failed = !more;
    qc_free(t->s);
    t->s = more;
}

static size_t name_length(const char *header)
{
    return strcspn(header, ":");
}

static bool is_ms(const char *header)
{
    return strncasecmp(header, "x-ms-", 5) == 0;
}

static int compare_names(const char *a, const char *b)
{
    size_t na = name_length(a), nb = name_length(b);
    int c = strncasecmp(a, b, na < nb ? na : nb);

    return c ? c : na < nb ? -1 : na > nb;
}

/* "x-ms-...:value\n" in the order of their names, which are all different. */
static void add_ms_headers(struct text *t, const struct qc_azure_request *r)
{
    const char *last = NULL;

    for (;;) {
        const char *next = NULL, *value;
        char name[64];
        size_t n, len;

        for (size_t i = 0; i < r->n_headers; i++) {
            const char *h = r->header[i];

            if (is_ms(h) && (!last || compare_names(h, last) > 0) &&
                (!next || compare_names(h, next) < 0))
                next = h;
        }
        if (!next)
            return;
        last = next;
        n = name_length(next);
        if (n >= sizeof(name))
            continue; /* none of ours */
        for (size_t i = 0; i < n; i++)
            name[i] = (char)(next[i] >= 'A' && next[i] <= 'Z' ? next[i] | 32 : next[i]);
        name[n] = '\0';
        value = value_of(next, name, &len);
        if (!value)
            continue;
        add(t, name, n, ":");
        add(t, value, len, "\n");
    }
}

char *qc_azure_text(const struct qc_azure_request *r)
{
    static const char *const standard[] = {
        "Content-Encoding", "Content-Language", "Content-Length", "Content-MD5", "Content-Type",
        "Date", "If-Modified-Since", "If-Match", "If-None-Match", "If-Unmodified-Since", "Range"};
    struct text t = {0};
    char number[24];

    add(&t, r->method, strlen(r->method), "\n");
    for (size_t k = 0; k < sizeof(standard) / sizeof(standard[0]); k++) {
        const char *value = "";
        size_t n = 0;

        if (strcmp(standard[k], "Content-Length") == 0) {
            if (r->length) {
                n = (size_t)snprintf(number, sizeof(number), "%llu", (unsigned long long)r->length);
                value = number;
            }
        } else {
            for (size_t i = 0; i < r->n_headers && !n; i++) {
                const char *v = value_of(r->header[i], standard[k], &n);

                value = v ? v : value;
            }
        }
        add(&t, value, n, "\n");
    }
    add_ms_headers(&t, r);
    add(&t, "/", 1, "");
    add(&t, r->account, strlen(r->account), "");
    add(&t, r->path, strlen(r->path), "");
    return t.s;
}

int qc_azure_authorization(char **out, const struct qc_azure_request *r, const char *key,
                           qchain_error *err)
{
    size_t size = strlen(key), n;
    uint8_t *bytes = qc_malloc(size + 1), digest[32];
    char *text = NULL, *signature = NULL;
    int ret = QCHAIN_E_NOMEM;

    *out = NULL;
    if (!bytes)
        goto out;
    if (qc_base64_decode(key, bytes, &n) != 0) {
        ret = qc_fail(err, QCHAIN_E_AUTH, "the storage account's key is not base64");
        goto out;
    }
    text = qc_azure_text(r);
    if (!text)
        goto out;
    qc_hmac_sha256(bytes, n, text, strlen(text), digest);
    signature = qc_base64_encode(digest, sizeof(digest));
    if (signature)
        *out = qc_asprintf("Authorization: SharedKey %s:%s", r->account, signature);
    ret = *out ? 0 : QCHAIN_E_NOMEM;
out:
    if (bytes)
        explicit_bzero(bytes, size);
    qc_free(bytes);
    qc_free(text);
    qc_conf_wipe(signature);
    return ret == QCHAIN_E_NOMEM ? qc_fail_nomem(err) : ret;
}

void qc_azure_date(time_t t, char out[40])
{
    static const char day[] = "SunMonTueWedThuFriSat", month[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    struct tm tm = {0};

    gmtime_r(&t, &tm);
    snprintf(out, 40, "%.3s, %02d %.3s %04d %02d:%02d:%02d GMT", day + 3 * (tm.tm_wday % 7),
             tm.tm_mday % 100, month + 3 * (tm.tm_mon % 12), (tm.tm_year + 1900) % 10000,
             tm.tm_hour % 100, tm.tm_min % 100, tm.tm_sec % 100);
}
