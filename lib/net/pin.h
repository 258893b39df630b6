/* SPDX-License-Identifier: MIT */
/* What an object is: the validators that its first answer gave, and later ones must give. */
#ifndef QC_NET_PIN_H
#define QC_NET_PIN_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

struct qc_pin {
    uint64_t size;          /* bytes */
    uint64_t mtime_s;       /* Last-Modified, s since the epoch; 0: none */
    char     etag[128];     /* with its quotes and W/; "": none (or longer than this) */
    char     version[128];  /* x-amz-version-id; "": none */
};

static inline bool qc_pin_is_weak(const struct qc_pin *p)
{
    return strncmp(p->etag, "W/", 2) == 0;
}

/* A pin of nothing: there was no such object. */
static inline struct qc_pin qc_pin_missing(void)
{
    return (struct qc_pin){.size = INT64_MAX, .etag = "\"missing\""};
}

static inline bool qc_pin_is_missing(const struct qc_pin *p)
{
    return p->size == INT64_MAX;
}

/* Can a later answer be told from one of another generation? */
static inline bool qc_pin_is_set(const struct qc_pin *p)
{
    return p->etag[0] || p->version[0] || p->mtime_s;
}

/* Nothing that could not stand in a header. */
static inline bool qc_pin_is_text(const char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            return false;
    return true;
}

/* The same object, as far as both can tell. */
static inline bool qc_pin_same(const struct qc_pin *a, const struct qc_pin *b)
{
    if (a->size != b->size)
        return false;
    if (a->version[0] && b->version[0])
        return strcmp(a->version, b->version) == 0;
    if (a->etag[0] && b->etag[0])
        return strcmp(a->etag, b->etag) == 0;
    return !a->mtime_s || !b->mtime_s || a->mtime_s == b->mtime_s;
}

/* The strongest validator that a pin has, for a sidecar index: a kind ('e' ETag, 'v' version) and its
 * text; "" if there is none but time and size. And back: size and mtime_s are the caller's. */
static inline void qc_pin_put(char text[256], const struct qc_pin *p)
{
    bool by_version = p->version[0] && (!p->etag[0] || qc_pin_is_weak(p));
    const char *s = by_version ? p->version : p->etag;
    size_t n = strlen(s);

    text[0] = by_version ? 'v' : 'e';
    memcpy(text + 1, s, n + 1);
    if (n == 0)
        text[0] = '\0';
}

static inline bool qc_pin_get(struct qc_pin *p, const char *text)
{
    char *to = text[0] == 'v' ? p->version : p->etag;
    size_t n = strlen(text);

    p->etag[0] = p->version[0] = '\0';
    if (n == 0)
        return true;
    if ((text[0] != 'v' && text[0] != 'e') || n > sizeof(p->etag))
        return false;
    memcpy(to, text + 1, n);
    return true;
}

#endif
