/* SPDX-License-Identifier: MIT */
/* The header of an answer. Every byte of it is hostile. */
#include "net/http_int.h"

#include <ctype.h>
#include <strings.h>

#include "util/alloc.h"

/* A value within its line, blanks around it cut off. */
struct value {
    const char *p;
    size_t      len;
};

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

/* Digits and nothing else; false on overflow too. */
static bool number(const char **p, const char *end, uint64_t *out)
{
    const char *begin = *p;
    uint64_t n = 0;

    for (; *p < end && **p >= '0' && **p <= '9'; (*p)++)
        if (__builtin_mul_overflow(n, 10, &n) ||
            __builtin_add_overflow(n, (uint64_t)(**p - '0'), &n))
            return false;
    *out = n;
    return *p > begin;
}

static bool is_word(struct value v, const char *word)
{
    return v.len == strlen(word) && strncasecmp(v.p, word, v.len) == 0;
}

static bool begins(struct value v, const char *word)
{
    size_t len = strlen(word);

    return v.len >= len && strncasecmp(v.p, word, len) == 0;
}

/* Kept only if it fits and holds nothing that could not stand in a header of ours. */
static void keep(struct value v, char *out, size_t room)
{
    if (out[0] || v.len >= room)
        return;
    for (size_t i = 0; i < v.len; i++)
        if ((unsigned char)v.p[i] < 0x20 || v.p[i] == 0x7f)
            return;
    memcpy(out, v.p, v.len);
    out[v.len] = '\0';
}

static void content_length(struct qc_answer *a, struct value v)
{
    const char *p = v.p;

    if (a->has_length || !number(&p, v.p + v.len, &a->length) || p != v.p + v.len ||
        a->length > INT64_MAX)
        a->bad_length = true;
    a->has_length = true;
}

/* "bytes 0-99/1000", or of a 416 "bytes * /1000" */
static bool parse_range(struct qc_answer *a, struct value v)
{
    const char *p = v.p + 5, *end = v.p + v.len;

    if (!begins(v, "bytes") || p == end || !is_blank(*p))
        return false;
    while (p < end && is_blank(*p))
        p++;
    if (p < end && *p == '*') {
        a->unsatisfied = true;
        p++;
    } else if (!number(&p, end, &a->first) || p == end || *p++ != '-' ||
               !number(&p, end, &a->last)) {
        return false;
    }
    if (p == end || *p++ != '/' || !number(&p, end, &a->total) || p != end)
        return false;
    return a->total <= INT64_MAX && (a->unsatisfied || a->last < INT64_MAX);
}

static void content_range(struct qc_answer *a, struct value v)
{
    if (a->has_range || !parse_range(a, v))
        a->bad_range = true;
    a->has_range = true;
}

/* "Sun, 06 Nov 1994 08:49:37 GMT", which all servers send; what curl takes dates of all kinds for costs
 * more than the rest of a header. */
static time_t date_of(const struct qc_curl *curl, const char *text)
{
    static const char month[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    uint64_t n[5]; /* day, year, hour, minute, second */
    static const uint8_t at[5] = {5, 12, 17, 20, 23}, len[5] = {2, 4, 2, 2, 2};
    const char *m = NULL, *p;
    int64_t y, days;
    unsigned mon;

    if (strlen(text) != 29 || memcmp(text + 25, " GMT", 4) != 0)
        return curl->getdate(text, NULL);
    for (unsigned i = 0; i < 5; i++) {
        p = text + at[i];
        if (!number(&p, p + len[i], &n[i]) || p != text + at[i] + len[i])
            return curl->getdate(text, NULL);
    }
    for (mon = 0; mon < 12 && !m; mon++)
        if (memcmp(month + (size_t)3 * mon, text + 8, 3) == 0)
            m = text;
    if (!m || n[0] < 1 || n[0] > 31 || n[1] < 1970 || n[2] > 23 || n[3] > 59 || n[4] > 60)
        return curl->getdate(text, NULL);
    /* Years that begin in March have the leap day at their end. */
    y = (int64_t)n[1] - (mon <= 2);
    days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * ((int64_t)mon + (mon > 2 ? -3 : 9)) + 2) / 5 +
           (int64_t)n[0] - 1 - 719468;
    return days * 86400 + (int64_t)(n[2] * 3600 + n[3] * 60 + n[4]);
}

static bool one_header(struct qc_answer *a, const struct qc_curl *curl, struct value name,
                       struct value v)
{
    char date[64] = "";
    time_t when;

    if (is_word(name, "content-length")) {
        content_length(a, v);
    } else if (is_word(name, "content-range")) {
        content_range(a, v);
    } else if (is_word(name, "content-type")) {
        a->multipart |= begins(v, "multipart/");
    } else if (is_word(name, "content-encoding")) {
        a->encoded |= v.len > 0 && !is_word(v, "identity");
    } else if (is_word(name, "transfer-encoding")) {
        /* curl undoes what else there is, though nobody asked for it. */
        a->bad_length |= a->chunked || !is_word(v, "chunked");
        a->chunked = true;
    } else if (is_word(name, "etag")) {
        keep(v, a->etag, sizeof(a->etag));
    } else if (is_word(name, "x-amz-version-id")) {
        if (!is_word(v, "null"))
            keep(v, a->version, sizeof(a->version));
    } else if (is_word(name, "last-modified")) {
        keep(v, date, sizeof(date));
        when = date[0] ? date_of(curl, date) : -1;
        if (when > 0)
            a->mtime_s = (uint64_t)when;
    } else if (is_word(name, "date")) {
        keep(v, a->date, sizeof(a->date));
    } else if (is_word(name, "retry-after")) {
        keep(v, a->retry_after, sizeof(a->retry_after));
    } else if (is_word(name, "location") && !a->location) {
        a->location = qc_strndup(v.p, v.len);
        return a->location != NULL;
    }
    return true;
}

/* "HTTP/1.1 206 Partial Content", "HTTP/2 206" */
static void status_line(struct qc_answer *a, const char *line, size_t len)
{
    const char *p = memchr(line, ' ', len), *end = line + len;
    uint64_t status = 0;

    qc_answer_reset(a);
    while (p && p < end && *p == ' ')
        p++;
    if (p && number(&p, end, &status) && status >= 100 && status <= 999)
        a->status = (int)status;
}

bool qc_answer_line(struct qc_answer *a, const struct qc_curl *curl, const char *line, size_t len)
{
    const char *colon;
    struct value name, v;

    /* Lines behind the header belong to the trailer of a chunked body, which tells nothing. Of all
     * the blocks of one transfer (100 Continue) the limits hold for each. */
    if (a->complete && a->status >= 200)
        return true;
    if (len >= 5 && memcmp(line, "HTTP/", 5) == 0)
        status_line(a, line, len);
    a->n_bytes += len;
    while (len > 0 && (line[len - 1] == '\n' || line[len - 1] == '\r' || is_blank(line[len - 1])))
        len--;
    if (len == 0) {
        a->complete = true;
        return true;
    }
    a->n_headers++;
    if (a->n_headers > QC_ANSWER_HEADERS + 1 || a->n_bytes > QC_ANSWER_BYTES) {
        a->too_much = true;
        return true;
    }
    colon = memchr(line, ':', len);
    if (!colon)
        return true;
    name = (struct value){line, (size_t)(colon - line)};
    v = (struct value){colon + 1, len - name.len - 1};
    while (v.len > 0 && is_blank(*v.p)) {
        v.p++;
        v.len--;
    }
    return one_header(a, curl, name, v);
}

void qc_answer_reset(struct qc_answer *a)
{
    qc_free(a->location);
    memset(a, 0, sizeof(*a));
}

int64_t qc_answer_retry_ms(const struct qc_answer *a, const struct qc_curl *curl)
{
    const int64_t most = 86400;
    const char *p = a->retry_after, *end = p + strlen(p);
    uint64_t seconds;
    time_t when, now;

    if (!*p)
        return -1;
    if (strspn(p, "0123456789") == strlen(p)) /* however many */
        return !number(&p, end, &seconds) || seconds > (uint64_t)most ? most * 1000 : (int64_t)seconds * 1000;
    when = date_of(curl, a->retry_after);
    if (when == -1)
        return -1;
    /* By the server's own clock, if it tells. */
    now = a->date[0] ? date_of(curl, a->date) : -1;
    if (now == -1)
        now = time(NULL);
    if (when <= now)
        return 0;
    return when - now > most ? most * 1000 : (int64_t)(when - now) * 1000;
}

void qc_answer_pin(const struct qc_answer *a, uint64_t size, struct qc_pin *out)
{
    memset(out, 0, sizeof(*out));
    out->size = size;
    out->mtime_s = a->mtime_s;
    memcpy(out->etag, a->etag, sizeof(out->etag));
    memcpy(out->version, a->version, sizeof(out->version));
}
