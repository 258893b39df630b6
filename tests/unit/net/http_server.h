/* SPDX-License-Identifier: MIT */
/*
 * A HTTP/1.1 server in the test's process, on 127.0.0.1 and a port of its choice. It serves one object
 * under every path, well behaved, but for the requests that a step of its script takes: the first
 * unused step whose path is the request's, or that names none. A thread a connection.
 */
#ifndef HTTP_SERVER_H
#define HTTP_SERVER_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

enum srv_end { SRV_WHOLE, SRV_CLOSE, SRV_RESET, SRV_STALL, SRV_DRIP };

struct srv_step {
    int          times;     /* how many requests it takes; 0: one */
    const char  *path;      /* NULL: any */
    unsigned     until_seen; /* before the answer: until the server has seen so many requests, */
    atomic_bool *held;      /* while this is true, */
    int          delay_ms;  /* and then so long */
    /* The answer. */
    const char  *raw;       /* these bytes and nothing else, then close */
    int          raw_ms;    /* so long for each of them */
    int          status;    /* 0: what a good server says */
    const char  *header;    /* more lines, each with \r\n */
    const char  *body;      /* NULL: the object's bytes */
    size_t       body_size; /* of so many bytes of junk, when body is NULL; no Content-Length */
    const char  *range;     /* Content-Range instead of the right one; "": none */
    const char  *etag;      /* instead of the server's; "": none */
    bool         chunked;
    bool         no_length;
    bool         ignore_range; /* 200 and the whole object */
    bool         no_if_match;  /* believe that it matches */
    /* And its end: at `at` bytes of the body; -1: of the header, at all. */
    enum srv_end end;
    long         at;
    int          after;     /* close the connection when idle, so many ms after the answer; 0: not */
};

struct srv_seen {
    char method[8], path[256], head[2048];
    unsigned conn;
    size_t body;
    int64_t ms;
};

#define SRV_SEEN 4096

struct srv {
    int             fd;
    uint16_t        port;
    pthread_t       thread;
    pthread_mutex_t lock;
    pthread_cond_t  gone;
    bool            stop, exists, mute;   /* mute: accepts, says nothing */
    struct srv_step step[32];
    int             used[32];
    unsigned        n_steps;
    uint64_t        size;
    unsigned        seed;                 /* of the object's pattern */
    char            etag[64], modified[64];
    struct srv_seen *seen;
    unsigned        n_seen, n_conns, n_now, n_most;   /* connections: ever, now, at once */
    unsigned        n_busy, most_busy;    /* requests waiting for their answer: now, at once */
    int             conn_fd[512];
    char            scratch[90000];       /* for a test's texts, which must outlive the connections */
    char           *stored;               /* the last PUT's body */
    size_t          n_stored;
};

static inline uint8_t srv_byte(uint64_t at, unsigned seed)
{
    return (uint8_t)(((at / 8 + 1) * 0x9e3779b97f4a7c15u + seed * 0xbf58476d1ce4e5b9u) >>
                     (8 * (at % 8)));
}

static inline bool srv_is(const void *buf, size_t n, uint64_t at, unsigned seed)
{
    const uint8_t *p = buf;

    for (size_t i = 0; i < n; i++)
        if (p[i] != srv_byte(at + i, seed))
            return false;
    return true;
}

static inline int64_t srv_now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000) + t.tv_nsec / 1000000;
}

static inline bool srv_stopped(struct srv *s)
{
    bool stop;

    pthread_mutex_lock(&s->lock);
    stop = s->stop;
    pthread_mutex_unlock(&s->lock);
    return stop;
}

static inline void srv_sleep(struct srv *s, int ms)
{
    struct timespec t = {0, 5000000};

    for (int64_t until = srv_now_ms() + ms; srv_now_ms() < until && !srv_stopped(s);)
        nanosleep(&t, NULL);
}

static inline void srv_wait(struct srv *s, const struct srv_step *t)
{
    bool waits = true;

    while (waits) {
        pthread_mutex_lock(&s->lock);
        waits = !s->stop && (s->n_seen < t->until_seen || (t->held && atomic_load(t->held)));
        pthread_mutex_unlock(&s->lock);
        if (waits)
            srv_sleep(s, 1);
    }
    srv_sleep(s, t->delay_ms);
}

static inline bool srv_send(int fd, const void *p, size_t n)
{
    const char *at = p;

    while (n > 0) {
        ssize_t w = send(fd, at, n, MSG_NOSIGNAL);

        if (w <= 0)
            return false;
        at += w;
        n -= (size_t)w;
    }
    return true;
}

/* One header's value, or NULL; valid until the next call of the thread. */
static inline const char *srv_header(const char *head, const char *name)
{
    static _Thread_local char value[1024];
    size_t len = strlen(name), n;
    const char *p = head;

    while ((p = strstr(p, "\r\n"))) {
        p += 2;
        if (strncasecmp(p, name, len) == 0 && p[len] == ':') {
            p += len + 1;
            p += strspn(p, " ");
            n = strcspn(p, "\r");
            snprintf(value, sizeof(value), "%.*s", (int)n, p);
            return value;
        }
    }
    return NULL;
}

struct srv_conn {
    struct srv *s;
    int         fd;
    unsigned    number, slot;
    char        in[65536];
    size_t      n_in;
};

static inline void srv_reset(int fd)
{
    struct linger now = {1, 0};

    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
}

/* Read until the blank line; false at the end of the connection. */
static inline bool srv_read_head(struct srv_conn *c, char *head, size_t room)
{
    for (;;) {
        char *end;
        ssize_t n;

        c->in[c->n_in] = '\0';
        end = strstr(c->in, "\r\n\r\n");
        if (end) {
            size_t len = (size_t)(end - c->in) + 4;

            snprintf(head, room, "%.*s", (int)(len < room ? len : room - 1), c->in);
            memmove(c->in, c->in + len, c->n_in - len);
            c->n_in -= len;
            return true;
        }
        if (c->n_in >= sizeof(c->in) - 1)
            return false;
        n = recv(c->fd, c->in + c->n_in, sizeof(c->in) - 1 - c->n_in, 0);
        if (n <= 0)
            return false;
        c->n_in += (size_t)n;
    }
}

static inline bool srv_read_body(struct srv_conn *c, const char *head, char **body, size_t *size)
{
    const char *length = srv_header(head, "Content-Length");
    size_t have;

    *body = NULL;
    *size = length ? strtoull(length, NULL, 10) : 0;
    if (*size == 0)
        return true;
    if (srv_header(head, "Expect"))
        srv_send(c->fd, "HTTP/1.1 100 Continue\r\n\r\n", 25);
    *body = malloc(*size);
    have = c->n_in < *size ? c->n_in : *size;
    memcpy(*body, c->in, have);
    memmove(c->in, c->in + have, c->n_in - have);
    c->n_in -= have;
    while (have < *size) {
        ssize_t n = recv(c->fd, *body + have, *size - have, 0);

        if (n <= 0) {
            free(*body);
            *body = NULL;
            return false;
        }
        have += (size_t)n;
    }
    return true;
}

static inline struct srv_step srv_take(struct srv *s, const char *path)
{
    struct srv_step step = {0};

    for (unsigned i = 0; i < s->n_steps; i++) {
        int times = s->step[i].times ? s->step[i].times : 1;

        if (s->used[i] < times && (!s->step[i].path || strcmp(s->step[i].path, path) == 0)) {
            s->used[i]++;
            return s->step[i];
        }
    }
    return step;
}

/* The body, up to where it ends early. False: the connection ends. */
static inline bool srv_send_body(struct srv_conn *c, const struct srv_step *t, const char *body,
                                 uint64_t first, uint64_t n)
{
    bool early = t->end != SRV_WHOLE && t->at >= 0;
    uint64_t stop = early && (uint64_t)t->at < n ? (uint64_t)t->at : n;
    uint8_t piece[16384];
    char size[32];

    for (uint64_t at = 0; at < stop;) {
        size_t some = stop - at < sizeof(piece) ? (size_t)(stop - at) : sizeof(piece);

        for (size_t i = 0; i < some; i++)
            piece[i] = body ? (uint8_t)body[at + i] : srv_byte(first + at + i, c->s->seed);
        snprintf(size, sizeof(size), "%zx\r\n", some);
        if ((t->chunked && !srv_send(c->fd, size, strlen(size))) ||
            !srv_send(c->fd, piece, some) || (t->chunked && !srv_send(c->fd, "\r\n", 2)))
            return false;
        at += some;
    }
    if (early && t->end == SRV_DRIP)
        for (uint64_t at = stop; at < n && !srv_stopped(c->s); at++) {
            uint8_t b = srv_byte(first + at, c->s->seed);

            if (!srv_send(c->fd, &b, 1))
                return false;
            srv_sleep(c->s, 50);
        }
    if (early && t->end == SRV_STALL)
        srv_sleep(c->s, 60000);
    if (early && t->end == SRV_RESET) {
        srv_sleep(c->s, 10); /* or what was sent is lost with it */
        srv_reset(c->fd);
    }
    if (!early && t->chunked && !srv_send(c->fd, "0\r\n\r\n", 5))
        return false;
    return !early;
}

static inline bool srv_junk(struct srv_conn *c, size_t n)
{
    char junk[4096];

    memset(junk, 'j', sizeof(junk));
    while (n > 0) {
        size_t some = n < sizeof(junk) ? n : sizeof(junk);

        if (!srv_send(c->fd, junk, some))
            return false;
        n -= some;
    }
    return false;
}

/* What a good server would say, and where the step differs. */
static inline bool srv_answer_get(struct srv_conn *c, const struct srv_step *t, const char *head)
{
    struct srv *s = c->s;
    const char *range = srv_header(head, "Range"), *match;
    unsigned long long first = 0, last = s->size ? s->size - 1 : 0;
    int status = 200;
    uint64_t n = s->size;
    char out[4096];
    size_t len;

    if (range && !t->ignore_range && sscanf(range, "bytes=%llu-%llu", &first, &last) == 2) {
        status = 206;
        if (last >= s->size)
            last = s->size - 1;
        n = last - first + 1;
        if (first >= s->size) {
            status = 416;
            n = 0;
        }
    }
    match = srv_header(head, "If-Match");
    if (match && strcmp(match, s->etag) != 0 && !t->no_if_match) {
        status = 412;
        n = 0;
    }
    if (t->status) {
        n = t->body || t->status >= 300 ? 0 : n;
        status = t->status;
    }
    if (t->body)
        n = strlen(t->body);
    len = (size_t)snprintf(out, sizeof(out), "HTTP/1.1 %d Some words\r\n", status);
    if (!t->chunked && !t->no_length && !t->body_size)
        len += (size_t)snprintf(out + len, sizeof(out) - len, "Content-Length: %llu\r\n",
                                (unsigned long long)n);
    if (t->chunked)
        len += (size_t)snprintf(out + len, sizeof(out) - len, "Transfer-Encoding: chunked\r\n");
    if (t->range ? t->range[0] : status == 206)
        len += t->range ? (size_t)snprintf(out + len, sizeof(out) - len, "Content-Range: %s\r\n",
                                           t->range)
                        : (size_t)snprintf(out + len, sizeof(out) - len,
                                           "Content-Range: bytes %llu-%llu/%llu\r\n", first, last,
                                           (unsigned long long)s->size);
    if (status == 416 && !t->range)
        len += (size_t)snprintf(out + len, sizeof(out) - len, "Content-Range: bytes */%llu\r\n",
                                (unsigned long long)s->size);
    if (t->etag ? t->etag[0] : s->etag[0])
        len += (size_t)snprintf(out + len, sizeof(out) - len, "ETag: %s\r\n",
                                t->etag ? t->etag : s->etag);
    if (s->modified[0])
        len += (size_t)snprintf(out + len, sizeof(out) - len, "Last-Modified: %s\r\n", s->modified);
    len += (size_t)snprintf(out + len, sizeof(out) - len, "%s\r\n", t->header ? t->header : "");
    assert_true(len < sizeof(out));
    if (!srv_send(c->fd, out, len))
        return false;
    if (t->body_size)
        return srv_junk(c, t->body_size);
    return srv_send_body(c, t, t->body, first, n) && !t->no_length;
}

static inline bool srv_answer_other(struct srv_conn *c, const struct srv_step *t, const char *head,
                                    char *body, size_t size)
{
    struct srv *s = c->s;
    bool put = strncmp(head, "PUT", 3) == 0;
    int status = put ? 201 : 204;
    char out[1024];

    pthread_mutex_lock(&s->lock);
    if (put && s->exists && srv_header(head, "If-None-Match"))
        status = 412;
    if (t->status)
        status = t->status;
    if (put && status < 300) {
        free(s->stored);
        s->stored = body;
        s->n_stored = size;
        s->exists = true;
        body = NULL;
    }
    pthread_mutex_unlock(&s->lock);
    free(body);
    snprintf(out, sizeof(out), "HTTP/1.1 %d Some words\r\n%sETag: \"put\"\r\n%s\r\n", status,
             status == 204 ? "" : "Content-Length: 0\r\n", t->header ? t->header : "");
    return srv_send(c->fd, out, strlen(out));
}

static inline bool srv_one(struct srv_conn *c)
{
    struct srv *s = c->s;
    struct srv_seen *seen;
    struct srv_step t;
    char head[8192], *body;
    size_t size;

    if (!srv_read_head(c, head, sizeof(head)) || !srv_read_body(c, head, &body, &size))
        return false;
    pthread_mutex_lock(&s->lock);
    assert_true(s->n_seen < SRV_SEEN);
    seen = &s->seen[s->n_seen++];
    sscanf(head, "%7s %255s", seen->method, seen->path);
    snprintf(seen->head, sizeof(seen->head), "%.*s", (int)sizeof(seen->head) - 1, head);
    seen->conn = c->number;
    seen->body = size;
    seen->ms = srv_now_ms();
    t = srv_take(s, seen->path);
    s->n_busy++;
    if (s->n_busy > s->most_busy)
        s->most_busy = s->n_busy;
    pthread_mutex_unlock(&s->lock);
    srv_wait(s, &t);
    pthread_mutex_lock(&s->lock);
    s->n_busy--;
    pthread_mutex_unlock(&s->lock);
    if (t.end != SRV_WHOLE && t.at < 0) {
        if (t.end == SRV_STALL)
            srv_sleep(s, 60000);
        if (t.end == SRV_RESET)
            srv_reset(c->fd);
        free(body);
        return false;
    }
    if (t.raw) {
        for (const char *p = t.raw; t.raw_ms && *p && !srv_stopped(s) && srv_send(c->fd, p, 1); p++)
            srv_sleep(s, t.raw_ms);
        if (!t.raw_ms)
            srv_send(c->fd, t.raw, strlen(t.raw));
        free(body);
        return false;
    }
    if (strncmp(head, "GET", 3) == 0) {
        free(body);
        if (!srv_answer_get(c, &t, head))
            return false;
    } else if (!srv_answer_other(c, &t, head, body, size)) {
        return false;
    }
    if (t.after) {
        srv_sleep(s, t.after);
        return false;
    }
    return true;
}

static inline void *srv_conn_thread(void *arg)
{
    struct srv_conn *c = arg;
    struct srv *s = c->s;

    if (s->mute)
        srv_sleep(s, 60000);
    else
        while (!srv_stopped(s) && srv_one(c))
            continue;
    pthread_mutex_lock(&s->lock);
    s->conn_fd[c->slot] = -1;
    close(c->fd);
    s->n_now--;
    pthread_cond_signal(&s->gone);
    pthread_mutex_unlock(&s->lock);
    free(c);
    return NULL;
}

static inline void *srv_thread(void *arg)
{
    struct srv *s = arg;
    int fd, on = 1;

    while ((fd = accept(s->fd, NULL, NULL)) >= 0) {
        struct srv_conn *c = calloc(1, sizeof(*c));
        pthread_t id;

        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        c->s = s;
        c->fd = fd;
        pthread_mutex_lock(&s->lock);
        c->number = s->n_conns++;
        while (c->slot < 511 && s->conn_fd[c->slot] >= 0)
            c->slot++;
        s->conn_fd[c->slot] = fd;
        if (++s->n_now > s->n_most)
            s->n_most = s->n_now;
        pthread_mutex_unlock(&s->lock);
        assert_int_equal(pthread_create(&id, NULL, srv_conn_thread, c), 0);
        pthread_detach(id);
    }
    return NULL;
}

/* An object of so many bytes. */
static inline struct srv *srv_start(uint64_t size)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct srv *s = calloc(1, sizeof(*s));
    socklen_t len = sizeof(a);

    assert_non_null(s);
    s->seen = calloc(SRV_SEEN, sizeof(*s->seen));
    s->size = size;
    s->seed = 1;
    strcpy(s->etag, "\"one\"");
    for (int i = 0; i < 512; i++)
        s->conn_fd[i] = -1;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->gone, NULL);
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(s->fd, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(listen(s->fd, 256), 0);
    assert_int_equal(getsockname(s->fd, (struct sockaddr *)&a, &len), 0);
    s->port = ntohs(a.sin_port);
    assert_int_equal(pthread_create(&s->thread, NULL, srv_thread, s), 0);
    return s;
}

/* Requests seen. */
static inline unsigned srv_count(struct srv *s)
{
    unsigned n;

    pthread_mutex_lock(&s->lock);
    n = s->n_seen;
    pthread_mutex_unlock(&s->lock);
    return n;
}

static inline void srv_add(struct srv *s, struct srv_step step)
{
    pthread_mutex_lock(&s->lock);
    assert_true(s->n_steps < 32);
    s->step[s->n_steps++] = step;
    pthread_mutex_unlock(&s->lock);
}

/* A script of this one step, and nothing seen. */
static inline void srv_only(struct srv *s, struct srv_step step)
{
    pthread_mutex_lock(&s->lock);
    s->n_seen = 0;
    memset(s->used, 0, sizeof(s->used));
    s->step[0] = step;
    s->n_steps = 1;
    pthread_mutex_unlock(&s->lock);
}

static inline void srv_stop(struct srv *s)
{
    pthread_mutex_lock(&s->lock);
    s->stop = true;
    for (int i = 0; i < 512; i++)
        if (s->conn_fd[i] >= 0)
            shutdown(s->conn_fd[i], SHUT_RDWR);
    pthread_mutex_unlock(&s->lock);
    shutdown(s->fd, SHUT_RDWR);
    pthread_join(s->thread, NULL);
    pthread_mutex_lock(&s->lock);
    while (s->n_now > 0) {
        for (int i = 0; i < 512; i++)
            if (s->conn_fd[i] >= 0)
                shutdown(s->conn_fd[i], SHUT_RDWR);
        pthread_cond_wait(&s->gone, &s->lock);
    }
    pthread_mutex_unlock(&s->lock);
    close(s->fd);
    pthread_cond_destroy(&s->gone);
    pthread_mutex_destroy(&s->lock);
    free(s->stored);
    free(s->seen);
    free(s);
}

#endif
