/* SPDX-License-Identifier: MIT */
/*
 * delay_proxy --upstream HOST:PORT [OPTION...] - a network and a bad server between a client and a
 * server on this machine.
 *
 *   --listen PORT          on 127.0.0.1; 0 (the default) chooses one. "PORT=n" is printed
 *   --delay-ms D           round trip: a client's bytes reach the server D/2 later, the answer's bytes
 *                          the client D/2 later; a new connection costs one D more
 *   --jitter-ms J          up to J more each way, the order stays
 *   --bandwidth M          MB/s that all connections share, either direction for itself
 *   --deep                 its queue is: what comes while it is busy stands in it, by the order of coming
 *   --conn-bandwidth M     the same of each connection
 *   --fail-rate R --fail-status 503 --retry-after S     of HTTP/1 requests: answered so, not passed on
 *   --truncate-rate R --reset-rate R --stall-rate R     of answers: closed, reset, silent in the body
 *   --fault-at BYTE        of the body; else anywhere in it
 *   --skip N               requests that are left alone in the beginning
 *   --seed N
 *   --stats FILE           JSON, written at SIGUSR1 and at the end
 *   --log FILE             a line of JSON for each request; --log-heads: with its head
 *
 * One thread, edge-triggered epoll. The link is a clock: bytes that are read get the time at which the
 * link is done with them, and nothing is read while it is busy, unless --deep, so there are no bursts. The delay is D,
 * not D and what this process wakes up late: it looks at the clock for the last 0.1 ms before something is
 * due, and what reached the server late all the same is answered so much sooner.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "delay_proxy_http.h"

enum { PIECE = 128 << 10, SHAPED_PIECE = 32 << 10, BURST = 64 << 10, QUEUE_MAX = 16 << 20, SPARE_MAX = 512,
       AWAKE_NS = 100000 };

enum fault { FAULT_NONE, FAULT_FAIL, FAULT_TRUNCATE, FAULT_RESET, FAULT_STALL, FAULTS };
static const char *const fault_name[FAULTS] = { "", "fail", "truncate", "reset", "stall" };

struct piece {
    struct piece *next;
    uint64_t due;          /* ns */
    size_t   begin, end;
    char     data[PIECE];
};

struct conn;
struct way {               /* one direction */
    int      src, dst;
    bool     down, readable, writable, at_end, ended;
    enum fault last;       /* what happens behind the last piece */
    uint64_t end_due, last_due, free_at;
    struct piece *first, *tail;
    size_t   queued;
    struct http http;
};

struct request {
    bool     open, counted;
    double   time;
    char     method[16], path[2048], range[64];
    int      status;
    uint64_t down, up;
    enum fault fault;
    int64_t  fault_at;     /* -1: to be chosen */
    char    *head;
};

struct conn {
    struct conn *next;
    struct way up, down;
    uint64_t accepted;
    uint64_t late;         /* ns, that what the client sent last reached the server too late */
    bool     dead, reset;
    struct request r;
};

static struct options {
    int      port;
    uint64_t half, jitter, connect; /* ns */
    double   bandwidth, conn_bandwidth; /* bytes a ns */
    double   rate[FAULTS];
    int      status;
    int64_t  retry_after, fault_at, skip;
    const char *stats;
    FILE    *log;
    bool     log_heads, deep;
    struct sockaddr_storage upstream;
    socklen_t upstream_len;
} opt = { .status = 503, .retry_after = -1, .fault_at = -1 };

static struct {
    uint64_t requests, down, up, connections, open, peak, faults[FAULTS], refused;
} count;

static struct conn *conns;
static struct piece *spare;
static unsigned n_spare;
static uint64_t link_free[2], seed = 1, now;
static int poller;
static volatile sig_atomic_t want_stats, want_end;

static uint64_t clock_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t draw(void)
{
    uint64_t z = seed += 0x9e3779b97f4a7c15u;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static double draw_unit(void)
{
    return (double)(draw() >> 11) / 9007199254740992.0;
}

/* ------------------------------------------------------------------- telling --- */

static void write_stats(void)
{
    char tmp[4096];
    FILE *f;

    if (!opt.stats)
        return;
    snprintf(tmp, sizeof(tmp), "%s.tmp", opt.stats);
    f = fopen(tmp, "we");
    if (!f)
        return;
    fprintf(f, "{\"requests\": %lu, \"bytes_down\": %lu, \"bytes_up\": %lu, \"connections\": %lu, "
            "\"open\": %lu, \"peak\": %lu, \"refused\": %lu", count.requests, count.down, count.up,
            count.connections, count.open, count.peak, count.refused);
    for (int i = 1; i < FAULTS; i++)
        fprintf(f, ", \"%s\": %lu", fault_name[i], count.faults[i]);
    fprintf(f, "}\n");
    fclose(f);
    rename(tmp, opt.stats);
}

static void put_text(const char *s, size_t len)
{
    for (size_t i = 0; i < len && s[i]; i++) {
        unsigned char c = (unsigned char)s[i];

        if (c == '"' || c == '\\')
            fprintf(opt.log, "\\%c", c);
        else if (c < 32 || c > 126)
            fprintf(opt.log, "\\u%04x", c);
        else
            fputc(c, opt.log);
    }
}

static void end_request(struct conn *c)
{
    struct request *r = &c->r;

    if (!r->open)
        return;
    r->open = false;
    if (opt.log) {
        fprintf(opt.log, "{\"time\": %.6f, \"method\": \"%s\", \"path\": \"", r->time, r->method);
        put_text(r->path, sizeof(r->path));
        fprintf(opt.log, "\", \"range\": \"");
        put_text(r->range, sizeof(r->range));
        fprintf(opt.log, "\", \"status\": %d, \"bytes\": %lu, \"sent\": %lu, \"seconds\": %.6f, "
                "\"fault\": \"%s\"", r->status, r->down, r->up, (double)now / 1e9 - r->time,
                r->counted ? fault_name[r->fault] : "");
        if (r->head) {
            fprintf(opt.log, ", \"head\": \"");
            put_text(r->head, HEAD_MAX);
            fputc('"', opt.log);
        }
        fprintf(opt.log, "}\n");
        fflush(opt.log);
    }
    free(r->head);
    r->head = NULL;
}

static void inject(struct conn *c)
{
    if (!c->r.counted)
        count.faults[c->r.fault]++;
    c->r.counted = true;
}

/* ---------------------------------------------------------------- the queues --- */

static struct piece *new_piece(void)
{
    struct piece *p = spare;

    if (p) {
        spare = p->next;
        n_spare--;
    } else if (!(p = malloc(sizeof(*p)))) {
        perror("delay_proxy");
        exit(1);
    }
    p->next = NULL;
    p->begin = p->end = 0;
    return p;
}

static void free_piece(struct piece *p)
{
    if (n_spare < SPARE_MAX) {
        p->next = spare;
        spare = p;
        n_spare++;
    } else {
        free(p);
    }
}

/* Occupy a link with len bytes: a bucket that holds BURST at most, which makes up for late wakeups. */
static uint64_t occupy(uint64_t *free_at, double speed, size_t len)
{
    uint64_t burst = (uint64_t)(BURST / speed), early = now > burst ? now - burst : 0;

    if (*free_at < early)
        *free_at = early;
    return *free_at += (uint64_t)((double)len / speed);
}

/* When what is read now arrives. */
static uint64_t due_of(struct conn *c, struct way *w, size_t len)
{
    uint64_t t = w->down ? now - c->late : now, at;

    if (!w->down && t < c->accepted + opt.connect)
        t = c->accepted + opt.connect;
    if (opt.bandwidth > 0) {
        at = occupy(&link_free[w->down], opt.bandwidth, len);
        t = t > at ? t : at;
    }
    if (opt.conn_bandwidth > 0) {
        at = occupy(&w->free_at, opt.conn_bandwidth, len);
        t = t > at ? t : at;
    }
    t += opt.half + (opt.jitter ? draw() % opt.jitter : 0);
    if (t < w->last_due)
        t = w->last_due;
    return w->last_due = t;
}

static void append(struct way *w, struct piece *p)
{
    if (w->first)
        w->tail->next = p;
    else
        w->first = p;
    w->tail = p;
    w->queued += p->end - p->begin;
}

static void append_text(struct way *w, const char *text, uint64_t due)
{
    struct piece *p = new_piece();

    p->due = due;
    p->end = (size_t)snprintf(p->data, PIECE, "%s", text);
    append(w, p);
}

/* ------------------------------------------------------------------ requests --- */

static enum fault choose_fault(void)
{
    double u = draw_unit();

    if (count.requests <= (uint64_t)opt.skip)
        return FAULT_NONE;
    for (int f = 1; f < FAULTS; f++) {
        if (u < opt.rate[f])
            return (enum fault)f;
        u -= opt.rate[f];
    }
    return FAULT_NONE;
}

static void answer_failed(struct conn *c)
{
    char text[512], after[64] = "";

    if (opt.retry_after >= 0)
        snprintf(after, sizeof(after), "Retry-After: %ld\r\n", (long)opt.retry_after);
    snprintf(text, sizeof(text), "HTTP/1.1 %d Not Now\r\n%sContent-Length: 8\r\n\r\nnot now\n",
             opt.status, after);
    c->r.status = opt.status;
    c->r.down = 8;
    append_text(&c->down, text, c->up.last_due + opt.half);
    inject(c);
}

static void begin_request(struct conn *c)
{
    struct request *r = &c->r;
    const char *head = c->up.http.head, *v;
    size_t len;

    end_request(c);
    memset(r, 0, sizeof(*r));
    r->open = true;
    r->time = (double)now / 1e9;
    if (sscanf(head, "%15[A-Z] %2047s", r->method, r->path) != 2)
        r->path[0] = 0;
    v = http_find(head, "Range", &len);
    if (!v)
        v = http_find(head, "x-ms-range", &len);
    if (v)
        snprintf(r->range, sizeof(r->range), "%.*s", (int)len, v);
    if (opt.log && opt.log_heads)
        r->head = strdup(head);
    count.requests++;
    r->fault = choose_fault();
    r->fault_at = opt.fault_at;
}

/* Look at what a client sent; a request that is to fail is taken out of the piece. */
static void look_up(struct conn *c, struct piece *p)
{
    struct http *h = &c->up.http;
    size_t at = p->begin, used, from = at;
    bool whole = h->state == HTTP_HEAD && h->head_len == 0;
    enum http_event e;

    while (at < p->end && h->state != HTTP_OPAQUE) {
        bool body = h->state != HTTP_HEAD;

        e = http_look(h, p->data + at, p->end - at, &used);
        if (body)
            c->r.up += used;
        at += used;
        if (e == HTTP_HEAD_DONE) {
            begin_request(c);
            http_expect_body(h, false, false);
            if (c->r.fault == FAULT_FAIL && whole)
                answer_failed(c);
        }
        if (c->r.open && c->r.fault == FAULT_FAIL && c->r.counted && h->state != HTTP_OPAQUE) {
            memmove(p->data + from, p->data + at, p->end - at);
            p->end -= at - from;
            at = from;
        }
        if (h->state == HTTP_LENGTH && h->left == 0)
            http_look(h, NULL, 0, &used);
        if (h->state == HTTP_HEAD && c->r.counted && c->r.fault == FAULT_FAIL)
            end_request(c);
        from = at;
        whole = h->state == HTTP_HEAD && h->head_len == 0;
    }
    if (h->state == HTTP_OPAQUE)
        c->down.http.state = HTTP_OPAQUE;
}

static void begin_answer(struct conn *c)
{
    struct http *h = &c->down.http;
    int status = 0;

    if (sscanf(h->head, "HTTP/%*c.%*c %d", &status) != 1 || status < 100 || !c->r.open) {
        h->state = HTTP_OPAQUE;
        return;
    }
    http_expect_body(h, true, status < 200 || status == 204 || status == 304 ||
                     strcmp(c->r.method, "HEAD") == 0);
    if (status >= 200)
        c->r.status = status;
    if (c->r.fault_at < 0)
        c->r.fault_at = (int64_t)(draw() % (h->state == HTTP_LENGTH && h->left ? h->left : 1));
}

/* Look at what a server answered; true if the answer ends before its end, behind p. */
static bool look_down(struct conn *c, struct piece *p)
{
    struct http *h = &c->down.http;
    struct request *r = &c->r;
    size_t at = p->begin, used;

    while (at < p->end && h->state != HTTP_OPAQUE) {
        bool body = h->state != HTTP_HEAD;
        uint64_t before = h->body;
        size_t left = p->end - at;
        enum http_event e;

        /* Never beyond the place where the answer is to break. */
        if (body && r->fault > FAULT_FAIL && r->fault_at >= 0) {
            if ((uint64_t)r->fault_at <= before) {
                p->end = at;
                return true;
            }
            if (left > (uint64_t)r->fault_at - before)
                left = (size_t)((uint64_t)r->fault_at - before);
        }
        e = http_look(h, p->data + at, left, &used);
        at += used;
        if (body)
            r->down += h->body - before;
        if (e == HTTP_HEAD_DONE)
            begin_answer(c);
        if (h->state == HTTP_LENGTH && h->left == 0) {
            http_look(h, NULL, 0, &used);
            e = HTTP_DONE;
        }
        if (e == HTTP_DONE && r->status >= 200)
            end_request(c);
    }
    return false;
}

/* ------------------------------------------------------------------ carrying --- */

static void close_conn(struct conn *c)
{
    struct way *ways[2] = { &c->up, &c->down };
    struct linger hard = { 1, 0 };

    end_request(c);
    if (c->reset)
        setsockopt(c->up.src, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
    close(c->up.src);
    close(c->up.dst);
    for (int i = 0; i < 2; i++) {
        while (ways[i]->first) {
            struct piece *p = ways[i]->first;

            ways[i]->first = p->next;
            free_piece(p);
        }
        free(ways[i]->http.head);
    }
    free(c);
    count.open--;
}

/* What lies behind the last byte: the end of the stream, or a fault. */
static void finish_way(struct conn *c, struct way *w)
{
    w->ended = true;
    if (w->last == FAULT_RESET)
        c->dead = c->reset = true;
    else if (w->last == FAULT_TRUNCATE)
        c->dead = true;
    else if (w->last == FAULT_NONE)
        shutdown(w->dst, SHUT_WR);
    if (c->up.ended && c->down.ended && w->last != FAULT_STALL)
        c->dead = true;
}

static bool send_due(struct conn *c, struct way *w)
{
    bool moved = false;

    while (w->first && w->writable && w->first->due <= now) {
        struct piece *p = w->first;
        ssize_t n = p->end == p->begin ? 0 :
                    send(w->dst, p->data + p->begin, p->end - p->begin, MSG_NOSIGNAL);

        if (n < 0 && (errno == EAGAIN || errno == ENOTCONN)) {
            w->writable = false;
            break;
        }
        if (n < 0) {
            c->dead = true;
            c->reset = w->dst == c->up.dst;
            return true;
        }
        moved = true;
        if (!w->down)
            c->late = now - p->due < opt.half ? now - p->due : opt.half;
        p->begin += (size_t)n;
        w->queued -= (size_t)n;
        if (w->down)
            count.down += (size_t)n;
        else
            count.up += (size_t)n;
        if (p->begin == p->end) {
            w->first = p->next;
            free_piece(p);
        }
    }
    if (!w->first && w->at_end && !w->ended && now >= w->end_due) {
        finish_way(c, w);
        moved = true;
    }
    return moved;
}

static bool link_is_free(const struct way *w)
{
    return (opt.bandwidth <= 0 || opt.deep || link_free[w->down] <= now) &&
           (opt.conn_bandwidth <= 0 || w->free_at <= now);
}

static void end_of_source(struct way *w, enum fault how)
{
    w->at_end = true;
    w->last = how;
    w->end_due = w->last_due > now + opt.half ? w->last_due : now + opt.half;
}

static bool receive(struct conn *c, struct way *w)
{
    bool shaped = opt.bandwidth > 0 || opt.conn_bandwidth > 0;
    struct piece *p;
    ssize_t n;

    if (!w->readable || w->at_end || w->queued >= QUEUE_MAX || !link_is_free(w))
        return false;
    p = new_piece();
    n = recv(w->src, p->data, shaped ? SHAPED_PIECE : PIECE, 0);
    if (n <= 0) {
        free_piece(p);
        w->readable = false;
        if (n < 0 && (errno == EAGAIN || errno == EINTR || errno == ENOTCONN))
            return false;
        if (n < 0) {
            c->dead = true;
            c->reset = w->down;
            return true;
        }
        end_of_source(w, FAULT_NONE);
        return true;
    }
    p->end = (size_t)n;
    p->due = due_of(c, w, (size_t)n);
    if (!w->down) {
        look_up(c, p);
    } else if (look_down(c, p)) {
        inject(c);
        end_of_source(w, c->r.fault);
    }
    append(w, p);
    return true;
}

/* All that can be done now; true if something was. A client that hangs up while the server's answer
 * stalls is done with. */
static bool pump(struct conn *c)
{
    bool moved = false;

    moved |= receive(c, &c->up);
    moved |= send_due(c, &c->up);
    if (!c->dead)
        moved |= receive(c, &c->down);
    if (!c->dead)
        moved |= send_due(c, &c->down);
    if (c->up.at_end && c->down.last == FAULT_STALL)
        c->dead = true;
    return moved && !c->dead;
}

static uint64_t sooner(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* When a way has something to do without the kernel telling. */
static uint64_t next_of(const struct way *w)
{
    uint64_t t = UINT64_MAX;

    if (w->first && w->writable)
        t = w->first->due;
    else if (!w->first && w->at_end && !w->ended)
        t = w->end_due;
    if (w->readable && !w->at_end && w->queued < QUEUE_MAX && !link_is_free(w)) {
        uint64_t f = opt.bandwidth > 0 ? link_free[w->down] : 0;

        t = sooner(t, opt.conn_bandwidth > 0 && w->free_at > f ? w->free_at : f);
    }
    return t;
}

/* ---------------------------------------------------------------- connections --- */

static int watch(int fd, void *what)
{
    struct epoll_event e = { .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                             .data.ptr = what };

    return epoll_ctl(poller, EPOLL_CTL_ADD, fd, &e);
}

static void init_way(struct way *w, int src, int dst, bool down)
{
    w->src = src;
    w->dst = dst;
    w->down = down;
    w->readable = w->writable = true;
    w->http.head = malloc(HEAD_MAX + 1);
    if (!w->http.head)
        exit(1);
}

static void accept_one(int client)
{
    struct conn *c = calloc(1, sizeof(*c));
    int one = 1, server = socket(opt.upstream.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (!c || server < 0) {
        perror("delay_proxy");
        exit(1);
    }
    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    c->accepted = now;
    init_way(&c->up, client, server, false);
    init_way(&c->down, server, client, true);
    count.connections++;
    count.open++;
    if (count.peak < count.open)
        count.peak = count.open;
    c->next = conns;
    conns = c;
    if (connect(server, (struct sockaddr *)&opt.upstream, opt.upstream_len) != 0 &&
        errno != EINPROGRESS) {
        count.refused++;
        c->dead = c->reset = true;
    }
    if (watch(client, &c->up) != 0 || watch(server, &c->down) != 0)
        c->dead = true;
}

static void accept_all(int listener)
{
    int fd;

    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0)
        accept_one(fd);
}

/* w->src had an event: it may be read, and what goes the other way may be written to it. */
static void woken(struct way *w, uint32_t events)
{
    struct conn *c = w->down ? (struct conn *)((char *)w - offsetof(struct conn, down))
                             : (struct conn *)((char *)w - offsetof(struct conn, up));

    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        w->readable = true;
    if (events & (EPOLLOUT | EPOLLERR))
        (w->down ? &c->up : &c->down)->writable = true;
}

/* Until nothing moves; the rounds give every connection the same share of the link. */
static void pump_all(void)
{
    bool moved = true;

    for (int round = 0; moved && round < 64; round++) {
        moved = false;
        now = clock_ns();
        for (struct conn **at = &conns; *at;) {
            struct conn *c = *at;

            moved |= pump(c);
            if (c->dead) {
                *at = c->next;
                close_conn(c);
            } else {
                at = &c->next;
            }
        }
        /* The one that was first is last the next time. */
        if (conns && conns->next) {
            struct conn *head = conns, *last = conns;

            while (last->next)
                last = last->next;
            conns = head->next;
            head->next = NULL;
            last->next = head;
        }
    }
}

static void serve(int listener, const sigset_t *usual)
{
    struct epoll_event events[256];

    while (!want_end) {
        uint64_t t = UINT64_MAX, wait;
        struct timespec ts;
        int n;

        for (struct conn *c = conns; c; c = c->next)
            t = sooner(t, sooner(next_of(&c->up), next_of(&c->down)));
        now = clock_ns();
        wait = t == UINT64_MAX ? 1000000000u : t > now + AWAKE_NS ? t - now - AWAKE_NS : 0;
        ts.tv_sec = (time_t)(wait / 1000000000u);
        ts.tv_nsec = (long)(wait % 1000000000u);
        n = epoll_pwait2(poller, events, 256, &ts, usual);
        now = clock_ns();
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr)
                woken(events[i].data.ptr, events[i].events);
            else
                accept_all(listener);
        }
        pump_all();
        if (want_stats) {
            want_stats = 0;
            write_stats();
        }
    }
}

/* --------------------------------------------------------------------- start --- */

static int listen_on(int port)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof(a);
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct epoll_event e = { .events = EPOLLIN };

    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(fd, (struct sockaddr *)&a, len) != 0 || listen(fd, 1024) != 0 ||
        getsockname(fd, (struct sockaddr *)&a, &len) != 0 ||
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &e) != 0) {
        perror("delay_proxy: listen");
        exit(1);
    }
    printf("PORT=%d\n", ntohs(a.sin_port));
    fflush(stdout);
    return fd;
}

static void set_upstream(char *text)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found;
    char *colon = strrchr(text, ':');

    if (!colon || (*colon = 0, getaddrinfo(text, colon + 1, &hints, &found)) != 0) {
        fprintf(stderr, "delay_proxy: --upstream HOST:PORT\n");
        exit(2);
    }
    memcpy(&opt.upstream, found->ai_addr, found->ai_addrlen);
    opt.upstream_len = found->ai_addrlen;
    freeaddrinfo(found);
}

static const struct option long_options[] = {
    { "listen", 1, NULL, 'l' }, { "upstream", 1, NULL, 'u' }, { "delay-ms", 1, NULL, 'd' },
    { "jitter-ms", 1, NULL, 'j' }, { "bandwidth", 1, NULL, 'b' }, { "conn-bandwidth", 1, NULL, 'c' },
    { "fail-rate", 1, NULL, '1' }, { "truncate-rate", 1, NULL, '2' }, { "reset-rate", 1, NULL, '3' },
    { "stall-rate", 1, NULL, '4' }, { "fail-status", 1, NULL, 's' }, { "retry-after", 1, NULL, 'r' },
    { "fault-at", 1, NULL, 'a' }, { "skip", 1, NULL, 'k' }, { "seed", 1, NULL, 'S' },
    { "stats", 1, NULL, 'o' }, { "log", 1, NULL, 'L' }, { "log-heads", 0, NULL, 'H' },
    { "deep", 0, NULL, 'D' }, { 0 }
};

static void take_option(int o)
{
    double v = optarg ? atof(optarg) : 0;

    switch (o) {
    case 'l': opt.port = atoi(optarg); break;
    case 'u': set_upstream(optarg); break;
    case 'd': opt.connect = (uint64_t)(v * 1e6); opt.half = opt.connect / 2; break;
    case 'j': opt.jitter = (uint64_t)(v * 1e6); break;
    case 'b': opt.bandwidth = v / 1000; break;
    case 'c': opt.conn_bandwidth = v / 1000; break;
    case '1': case '2': case '3': case '4': opt.rate[o - '0'] = v; break;
    case 's': opt.status = atoi(optarg); break;
    case 'r': opt.retry_after = atoll(optarg); break;
    case 'a': opt.fault_at = atoll(optarg); break;
    case 'k': opt.skip = atoll(optarg); break;
    case 'S': seed = strtoull(optarg, NULL, 10); break;
    case 'o': opt.stats = optarg; break;
    case 'L': opt.log = fopen(optarg, "ae"); break;
    case 'H': opt.log_heads = true; break;
    case 'D': opt.deep = true; break;
    default: exit(2);
    }
}

static void on_signal(int n)
{
    if (n == SIGUSR1)
        want_stats = 1;
    else
        want_end = 1;
}

int main(int argc, char **argv)
{
    static const int signals[] = { SIGUSR1, SIGTERM, SIGINT };
    struct sigaction act = { .sa_handler = on_signal };
    sigset_t blocked, usual;
    int o, listener;

    while ((o = getopt_long(argc, argv, "", long_options, NULL)) != -1)
        take_option(o);
    if (!opt.upstream_len || optind != argc) {
        fprintf(stderr, "delay_proxy: --upstream HOST:PORT [OPTION...]\n");
        return 2;
    }
    /* Signals come only while nothing else is done. */
    sigemptyset(&blocked);
    for (int i = 0; i < 3; i++) {
        sigaddset(&blocked, signals[i]);
        sigaction(signals[i], &act, NULL);
    }
    sigprocmask(SIG_BLOCK, &blocked, &usual);
    prctl(PR_SET_TIMERSLACK, 1000ul);
    poller = epoll_create1(EPOLL_CLOEXEC);
    listener = listen_on(opt.port);
    serve(listener, &usual);
    while (conns) {
        struct conn *c = conns;

        conns = c->next;
        close_conn(c);
    }
    while (spare) {
        struct piece *p = spare;

        spare = p->next;
        free(p);
    }
    close(listener);
    close(poller);
    write_stats();
    return opt.log ? fclose(opt.log) != 0 : 0;
}
