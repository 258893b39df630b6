/* SPDX-License-Identifier: MIT */
#include "net/s3_answer.h"

#include <stdint.h>
#include <string.h>

struct reader {
    const char *p, *end;
};

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool looking_at(const struct reader *r, const char *s)
{
    size_t n = strlen(s);

    return (size_t)(r->end - r->p) >= n && memcmp(r->p, s, n) == 0;
}

/* Go behind s; false if it is not there any more. */
static bool skip_past(struct reader *r, const char *s)
{
    const char *at = memmem(r->p, (size_t)(r->end - r->p), s, strlen(s));

    if (!at)
        return false;
    r->p = at + strlen(s);
    return true;
}

/* A tag, with r behind its '>'. */
struct tag {
    const char *name;
    size_t      len;
    bool        ends;  /* </name> */
    bool        empty; /* <name/> */
};

/* Attributes are passed over; a '>' within their quotes ends nothing. */
static bool read_tag(struct reader *r, struct tag *t)
{
    char quote = 0;

    r->p++;
    t->ends = r->p < r->end && *r->p == '/';
    r->p += t->ends;
    t->name = r->p;
    while (r->p < r->end && !is_blank(*r->p) && *r->p != '>' && *r->p != '/')
        r->p++;
    t->len = (size_t)(r->p - t->name);
    for (; r->p < r->end; r->p++) {
        if (quote) {
            quote = *r->p == quote ? 0 : quote;
        } else if (*r->p == '"' || *r->p == '\'') {
            quote = *r->p;
        } else if (*r->p == '>') {
            t->empty = r->p[-1] == '/' && r->p > t->name;
            r->p++;
            return t->len > 0;
        }
    }
    return false;
}

/* The next tag; text before it is passed over, comments and <?...?> too. A document type and CDATA,
 * which no store sends in an error, end the reading. */
static bool next_tag(struct reader *r, struct tag *t)
{
    for (;;) {
        const char *at = memchr(r->p, '<', (size_t)(r->end - r->p));

        if (!at)
            return false;
        r->p = at;
        if (looking_at(r, "<!--")) {
            r->p += 4;
            if (!skip_past(r, "-->"))
                return false;
        } else if (looking_at(r, "<?")) {
            if (!skip_past(r, "?>"))
                return false;
        } else if (looking_at(r, "<!")) {
            return false;
        } else {
            return read_tag(r, t);
        }
    }
}

static bool is_named(const struct tag *t, const char *name)
{
    return t->len == strlen(name) && memcmp(t->name, name, t->len) == 0;
}

/* One of XML's own entities at p[0..n): its length, and what it stands for. 0: none. */
static size_t entity(const char *p, size_t n, char *c)
{
    static const struct {
        const char *name;
        char c;
    } table[] = {{"&lt;", '<'}, {"&gt;", '>'}, {"&amp;", '&'}, {"&quot;", '"'}, {"&apos;", '\''}};

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        size_t len = strlen(table[i].name);

        if (n >= len && memcmp(p, table[i].name, len) == 0) {
            *c = table[i].c;
            return len;
        }
    }
    return 0;
}

/* The text up to the next tag, into out. word: cut, or with characters no word has, it is nothing. */
static void read_text(struct reader *r, char *out, size_t size, bool word)
{
    const char *end = memchr(r->p, '<', (size_t)(r->end - r->p));
    bool odd = false;
    size_t n = 0;

    out[0] = '\0';
    if (!end)
        return; /* broken off */
    while (r->p < end && is_blank(*r->p))
        r->p++;
    while (end > r->p && is_blank(end[-1]))
        end--;
    while (r->p < end && n < size - 1) {
        char c = *r->p;
        size_t len = c == '&' ? entity(r->p, (size_t)(end - r->p), &c) : 1;

        r->p += len ? len : 1;
        odd = odd || c <= ' ' || c >= 0x7f;
        out[n++] = c ? c : ' ';
    }
    if (word && (odd || r->p < end))
        n = 0;
    out[n] = '\0';
}

bool qc_s3_answer_read(const char *p, size_t len, struct qc_s3_answer *out)
{
    struct reader r = {p, p + (len < QC_S3_ANSWER_MAX ? len : QC_S3_ANSWER_MAX)};
    unsigned depth = 0;
    struct tag t;

    memset(out, 0, sizeof(*out));
    if (!p || !next_tag(&r, &t) || t.ends || t.empty || !is_named(&t, "Error"))
        return false;
    while (next_tag(&r, &t)) {
        if (t.ends) {
            if (depth-- == 0)
                break;
            continue;
        }
        if (t.empty)
            continue;
        if (depth == 0) {
            if (is_named(&t, "Code") && !out->code[0])
                read_text(&r, out->code, sizeof(out->code), true);
            else if (is_named(&t, "Message") && !out->message[0])
                read_text(&r, out->message, sizeof(out->message), false);
            else if (is_named(&t, "Region") && !out->region[0])
                read_text(&r, out->region, sizeof(out->region), true);
            else if (is_named(&t, "Endpoint") && !out->endpoint[0])
                read_text(&r, out->endpoint, sizeof(out->endpoint), true);
        }
        depth++;
    }
    return out->code[0] != '\0';
}
