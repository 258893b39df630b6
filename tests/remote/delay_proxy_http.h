/* SPDX-License-Identifier: MIT */
/* HTTP/1 as the proxy needs it: where requests and answers begin and end in a stream of bytes. It only
 * looks on; what it does not understand makes the connection opaque: carried, never touched. */
#ifndef DELAY_PROXY_HTTP_H
#define DELAY_PROXY_HTTP_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { HEAD_MAX = 65536 };

enum http_state { HTTP_HEAD, HTTP_LENGTH, HTTP_CHUNK_SIZE, HTTP_CHUNK, HTTP_CHUNK_END, HTTP_TRAILER,
                  HTTP_TO_END, HTTP_OPAQUE };

/* One direction of a connection. */
struct http {
    enum http_state state;
    char     *head;       /* HEAD_MAX + 1 bytes, ends with NUL */
    size_t    head_len;
    uint64_t  left;       /* of a body or chunk */
    unsigned  line;       /* characters in a chunk's size line, or a trailer's line */
    uint64_t  body;       /* bytes of this message's body so far */
};

enum http_event { HTTP_MORE, HTTP_HEAD_DONE, HTTP_DONE };

/* The value of a header in a whole head; its length in *len, NULL if there is none. */
static inline const char *http_find(const char *head, const char *name, size_t *len)
{
    size_t n = strlen(name);

    for (const char *p = strstr(head, "\r\n"); p && p[2]; p = strstr(p + 2, "\r\n")) {
        if (strncasecmp(p + 2, name, n) == 0 && p[2 + n] == ':') {
            p += 3 + n;
            p += strspn(p, " \t");
            *len = strcspn(p, "\r");
            return p;
        }
    }
    return NULL;
}

static inline bool http_says(const char *head, const char *name, const char *word)
{
    size_t len, n = strlen(word);
    const char *v = http_find(head, name, &len);

    return v && len >= n && strncasecmp(v + len - n, word, n) == 0;
}

/* What follows a head. no_body: the answer to a HEAD, 1xx, 204, 304. */
static inline void http_expect_body(struct http *h, bool answer, bool no_body)
{
    size_t len;
    const char *v = http_find(h->head, "Content-Length", &len);

    h->body = 0;
    if (no_body) {
        h->left = 0;
        h->state = HTTP_LENGTH;
    } else if (http_says(h->head, "Transfer-Encoding", "chunked")) {
        h->left = 0;
        h->line = 0;
        h->state = HTTP_CHUNK_SIZE;
    } else if (v) {
        h->left = strtoull(v, NULL, 10);
        h->state = HTTP_LENGTH;
    } else {
        h->left = 0;
        h->state = answer ? HTTP_TO_END : HTTP_LENGTH;
    }
}

static inline int http_hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if ((c | 32) >= 'a' && (c | 32) <= 'f')
        return (c | 32) - 'a' + 10;
    return -1;
}

static inline enum http_event http_head(struct http *h, char c)
{
    if (h->head_len == HEAD_MAX || (h->head_len == 0 && (c < 'A' || c > 'Z'))) {
        h->state = HTTP_OPAQUE;
        return HTTP_MORE;
    }
    h->head[h->head_len++] = c;
    h->head[h->head_len] = 0;
    if (c != '\n' || h->head_len < 4 || memcmp(h->head + h->head_len - 4, "\r\n\r\n", 4) != 0)
        return HTTP_MORE;
    if (strncmp(h->head, "PRI * HTTP/2", 12) == 0) {
        h->state = HTTP_OPAQUE;
        return HTTP_MORE;
    }
    return HTTP_HEAD_DONE;
}

/* One byte of what frames chunks. */
static inline enum http_event http_frame(struct http *h, char c)
{
    switch (h->state) {
    case HTTP_CHUNK_SIZE:
        if (c == '\n') {
            h->state = h->left ? HTTP_CHUNK : HTTP_TRAILER;
            h->line = 0;
        } else if (http_hex(c) >= 0 && h->line < 16) {
            h->left = h->left * 16 + (unsigned)http_hex(c);
            h->line++;
        } else {
            h->line = 16;
        }
        return HTTP_MORE;
    case HTTP_CHUNK_END:
        if (c == '\n') {
            h->left = 0;
            h->line = 0;
            h->state = HTTP_CHUNK_SIZE;
        }
        return HTTP_MORE;
    default:
        if (c == '\n' && h->line == 0)
            return HTTP_DONE;
        h->line = c == '\n' ? 0 : h->line + (c != '\r');
        return HTTP_MORE;
    }
}

/* Look at up to len bytes; *used tells how many belong to what was seen before the event. After
 * HTTP_HEAD_DONE http_expect_body must be called, after HTTP_DONE a new head is awaited. */
static inline enum http_event http_look(struct http *h, const char *p, size_t len, size_t *used)
{
    enum http_event e = HTTP_MORE;
    size_t i = 0, n;

    if (h->state == HTTP_LENGTH && h->left == 0) {
        e = HTTP_DONE;
    }
    while (e == HTTP_MORE && i < len) {
        switch (h->state) {
        case HTTP_HEAD:
            e = http_head(h, p[i++]);
            break;
        case HTTP_LENGTH:
        case HTTP_CHUNK:
            n = h->left < len - i ? (size_t)h->left : len - i;
            h->left -= n;
            h->body += n;
            i += n;
            if (h->left == 0 && h->state == HTTP_LENGTH)
                e = HTTP_DONE;
            else if (h->left == 0)
                h->state = HTTP_CHUNK_END;
            break;
        case HTTP_TO_END:
            h->body += len - i;
            i = len;
            break;
        case HTTP_OPAQUE:
            i = len;
            break;
        default:
            e = http_frame(h, p[i++]);
            break;
        }
    }
    if (e == HTTP_DONE) {
        h->state = HTTP_HEAD;
        h->head_len = 0;
    }
    *used = i;
    return e;
}

#endif
