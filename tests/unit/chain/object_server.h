/* SPDX-License-Identifier: MIT */
/*
 * Objects behind URLs, in the test's process: a small HTTP/1.1 server on 127.0.0.1. Ranges, If-Match,
 * PUT, DELETE; what follows a '?' is not looked at. A thread a connection.
 */
#ifndef OBJECT_SERVER_H
#define OBJECT_SERVER_H

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

#define OBJECTS 64
#define OBJECT_CONNS 256
#define OBJECT_RANGES 8192

struct object {
    char     name[64]; /* "/layer0" */
    uint8_t *bytes;
    size_t   size;
    unsigned generation; /* its ETag; 0: no validators are sent */
    bool     gone, stalls; /* never answers, */
    size_t   stalls_at;    /* who asks for bytes from here on */
    unsigned gets, checks; /* checks: GETs of one byte */
    size_t   spoil_at;     /* so many answers have 0xff here: */
    unsigned spoils, around; /* around: GETs of ranges that have this byte, while spoil_at is set */
    unsigned resets;       /* so many answers break off behind their header */
};

/* A range that was given out. */
struct object_range {
    unsigned object; /* its number */
    uint64_t first, last;
};

struct object_server {
    int             fd;
    uint16_t        port;
    pthread_t       thread;
    pthread_mutex_t lock;
    pthread_cond_t  changed;
    struct object   object[OBJECTS];
    unsigned        n_objects, generation, n_conns;
    int             conn[OBJECT_CONNS];
    unsigned        requests;
    bool            stop;
    struct object_range range[OBJECT_RANGES]; /* the first ones */
    unsigned        n_ranges;
};

struct object_conn {
    struct object_server *s;
    int fd;
    unsigned slot;
};

static inline struct object *object_find(struct object_server *s, const char *name)
{
    for (unsigned i = 0; i < s->n_objects; i++)
        if (strcmp(s->object[i].name, name) == 0)
            return &s->object[i];
    return NULL;
}

/* Under the lock. Bytes are taken over. */
static inline struct object *object_store(struct object_server *s, const char *name, uint8_t *bytes,
                                          size_t size)
{
    struct object *o = object_find(s, name);

    if (!o) {
        assert_true(s->n_objects < OBJECTS);
        o = &s->object[s->n_objects++];
        memset(o, 0, sizeof(*o));
        assert_true(strlen(name) < sizeof(o->name));
        memcpy(o->name, name, strlen(name));
    }
    free(o->bytes);
    o->bytes = bytes;
    o->size = size;
    o->generation = ++s->generation;
    o->gone = false;
    return o;
}

/* Bytes are copied. */
static inline void object_put(struct object_server *s, const char *name, const void *bytes, size_t size)
{
    uint8_t *copy = malloc(size + 1);

    assert_non_null(copy);
    memcpy(copy, bytes, size);
    pthread_mutex_lock(&s->lock);
    object_store(s, name, copy, size);
    pthread_mutex_unlock(&s->lock);
}

static inline bool object_send(int fd, const void *p, size_t n)
{
    for (const char *at = p; n > 0;) {
        ssize_t w = send(fd, at, n, MSG_NOSIGNAL);

        if (w <= 0)
            return false;
        at += w;
        n -= (size_t)w;
    }
    return true;
}

/* Under the lock. */
static inline void spoil(struct object *o, uint8_t *body, uint64_t first, uint64_t last)
{
    if (o->spoil_at == 0 || o->spoil_at < first || o->spoil_at > last)
        return;
    o->around++;
    if (o->spoils > 0) {
        o->spoils--;
        body[o->spoil_at - first] = 0xff;
    }
}

static inline bool object_reset(int fd)
{
    struct linger now = {.l_onoff = 1};

    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    shutdown(fd, SHUT_WR);
    return false;
}

static inline bool object_get(struct object_server *s, int fd, const char *name, const char *head)
{
    const char *range = strcasestr(head, "\r\nRange: bytes="), *match = strcasestr(head, "\r\nIf-Match: ");
    unsigned long long first = 0, last = 0;
    char etag[64] = "", out[512], where[128] = "";
    uint8_t *body = NULL;
    struct object *o;
    int status = 206;
    bool ok, reset = false;
    size_t n = 0;

    if (range)
        sscanf(range + 15, "%llu-%llu", &first, &last);
    pthread_mutex_lock(&s->lock);
    o = object_find(s, name);
    if (o) {
        o->gets++;
        o->checks += last == 0;
    }
    pthread_cond_broadcast(&s->changed);
    while (o && o->stalls && first >= o->stalls_at && !s->stop)
        pthread_cond_wait(&s->changed, &s->lock);
    if (o && o->generation)
        snprintf(etag, sizeof(etag), "\"g%u\"", o->generation);
    if (!o || o->gone)
        status = 404;
    else if (match && strncmp(match + 12, etag, strlen(etag)) != 0)
        status = 412;
    else if (first >= o->size)
        status = 416;
    if (status == 206) {
        if (last >= o->size)
            last = o->size - 1;
        n = (size_t)(last - first + 1);
        body = malloc(n);
        memcpy(body, o->bytes + first, n);
        if (s->n_ranges < OBJECT_RANGES)
            s->range[s->n_ranges++] = (struct object_range){(unsigned)(o - s->object), first, last};
        spoil(o, body, first, last);
        if (o->resets > 0) {
            o->resets--;
            reset = true;
        }
        snprintf(where, sizeof(where), "Content-Range: bytes %llu-%llu/%zu\r\n", first, last, o->size);
    }
    pthread_mutex_unlock(&s->lock);
    snprintf(out, sizeof(out), "HTTP/1.1 %d Words\r\nContent-Length: %zu\r\n%s%s%s%s\r\n", status, n, where,
             *etag ? "ETag: " : "", etag, *etag ? "\r\n" : "");
    ok = object_send(fd, out, strlen(out)) && object_send(fd, body, reset ? 0 : n);
    free(body);
    return ok && reset ? object_reset(fd) : ok;
}

static inline bool object_change(struct object_server *s, int fd, const char *name, bool put,
                                 uint8_t *body, size_t size)
{
    struct object *o;
    char out[128];
    bool there;

    pthread_mutex_lock(&s->lock);
    o = object_find(s, name);
    there = o && !o->gone;
    if (put)
        object_store(s, name, body, size);
    else if (there)
        o->gone = true;
    pthread_mutex_unlock(&s->lock);
    snprintf(out, sizeof(out), "HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n",
             put || there ? "200 Words" : "404 Words");
    return object_send(fd, out, strlen(out));
}

static inline bool object_serve_one(struct object_conn *c)
{
    char head[4096], method[8], name[512];
    uint8_t *body = NULL;
    const char *length;
    size_t n = 0, size = 0;

    while (n < 4 || memcmp(head + n - 4, "\r\n\r\n", 4) != 0) {
        if (n == sizeof(head) - 1 || recv(c->fd, head + n, 1, 0) != 1)
            return false;
        n++;
    }
    head[n] = '\0';
    if (sscanf(head, "%7s %511s", method, name) != 2)
        return false;
    name[strcspn(name, "?")] = '\0';
    pthread_mutex_lock(&c->s->lock);
    c->s->requests++;
    pthread_mutex_unlock(&c->s->lock);
    if (strcmp(method, "GET") == 0)
        return object_get(c->s, c->fd, name, head);
    length = strcasestr(head, "\r\nContent-Length: ");
    size = length ? strtoull(length + 18, NULL, 10) : 0;
    if (strcasestr(head, "100-continue") && !object_send(c->fd, "HTTP/1.1 100 Go\r\n\r\n", 19))
        return false;
    body = malloc(size + 1);
    for (n = 0; n < size;) {
        ssize_t got = recv(c->fd, body + n, size - n, 0);

        if (got <= 0) {
            free(body);
            return false;
        }
        n += (size_t)got;
    }
    if (strcmp(method, "PUT") != 0) {
        free(body);
        body = NULL;
    }
    return object_change(c->s, c->fd, name, body != NULL, body, size);
}

static inline void *object_conn_run(void *arg)
{
    struct object_conn *c = arg;
    struct object_server *s = c->s;

    while (object_serve_one(c))
        continue;
    pthread_mutex_lock(&s->lock);
    s->conn[c->slot] = -1;
    close(c->fd);
    s->n_conns--;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    free(c);
    return NULL;
}

static inline void *object_accept(void *arg)
{
    struct object_server *s = arg;
    int fd, on = 1;

    while ((fd = accept(s->fd, NULL, NULL)) >= 0) {
        struct object_conn *c = calloc(1, sizeof(*c));
        pthread_t id;

        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        c->s = s;
        c->fd = fd;
        pthread_mutex_lock(&s->lock);
        while (c->slot < OBJECT_CONNS - 1 && s->conn[c->slot] >= 0)
            c->slot++;
        s->conn[c->slot] = fd;
        s->n_conns++;
        pthread_mutex_unlock(&s->lock);
        assert_int_equal(pthread_create(&id, NULL, object_conn_run, c), 0);
        pthread_detach(id);
    }
    return NULL;
}

static inline struct object_server *object_server_start(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct object_server *s = calloc(1, sizeof(*s));
    socklen_t len = sizeof(a);

    assert_non_null(s);
    for (int i = 0; i < OBJECT_CONNS; i++)
        s->conn[i] = -1;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(s->fd, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(listen(s->fd, 256), 0);
    assert_int_equal(getsockname(s->fd, (struct sockaddr *)&a, &len), 0);
    s->port = ntohs(a.sin_port);
    assert_int_equal(pthread_create(&s->thread, NULL, object_accept, s), 0);
    return s;
}

static inline void object_server_stop(struct object_server *s)
{
    shutdown(s->fd, SHUT_RDWR);
    pthread_join(s->thread, NULL);
    pthread_mutex_lock(&s->lock);
    s->stop = true;
    pthread_cond_broadcast(&s->changed);
    for (int i = 0; i < OBJECT_CONNS; i++)
        if (s->conn[i] >= 0)
            shutdown(s->conn[i], SHUT_RDWR);
    while (s->n_conns > 0)
        pthread_cond_wait(&s->changed, &s->lock);
    pthread_mutex_unlock(&s->lock);
    close(s->fd);
    for (unsigned i = 0; i < s->n_objects; i++)
        free(s->object[i].bytes);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

#endif
