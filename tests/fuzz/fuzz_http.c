/* SPDX-License-Identifier: MIT */
/*
 * The HTTP engine against a server that says what the input says. Four bytes choose the request (what
 * name, what method, what range, with or without a pin), the rest is what the server answers, one piece
 * a request, and over again; some bytes stand for something:
 *
 *     fe  ends a piece, and closes the connection      fb  our own address, "127.0.0.1:PORT"
 *     fd  ends a piece, and leaves it open             fa  the address of another origin
 *     fc  a pause; what comes next comes by itself     f9  the byte before it, 256 times the next one
 *
 * Whatever the server does, a request ends once, in time, and says what is true.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/http.h"
#include "util/alloc.h"

#define DEADLINE_MS 60
#define CONNS 32
#define ROOM (512u << 10) /* of all answers */
#define FILL 0xa5
#define SECRET "hunter2secret"
#define AT "127.0.0.1:%u/o/x.img"
#define MAX_PIECES 64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require_at(int ok, int line)
{
    if (ok)
        return;
    fprintf(stderr, __FILE__ ":%d: this does not hold\n", line);
    abort();
}
#define require(ok) require_at(ok, __LINE__)

/* ----------------------------------------------------------------- the answers --- */

struct piece {
    size_t start, end;
    int    keep; /* the connection stays open */
};

static struct {
    pthread_mutex_t lock;
    pthread_t       thread;
    int             listener[2], wake;
    unsigned        port[2];
    int             stop;       /* under the lock, as are the answers */
    int             may_tell;   /* the input has the secret itself */
    size_t          n_pieces, next, last; /* the last that was sent */
    struct piece    piece[MAX_PIECES];
    size_t          used, n_pauses, pause[256]; /* where to pause */
    char            bytes[ROOM];
} srv = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void add(const void *p, size_t n)
{
    n = n < ROOM - srv.used ? n : ROOM - srv.used;
    memcpy(srv.bytes + srv.used, p, n);
    srv.used += n;
}

static void end_piece(size_t *start, int keep)
{
    if (srv.n_pieces < MAX_PIECES)
        srv.piece[srv.n_pieces++] = (struct piece){*start, srv.used, keep};
    *start = srv.used;
}

static void add_address(int which)
{
    char text[32];

    add(text, (size_t)snprintf(text, sizeof(text), "127.0.0.1:%u", srv.port[which]));
}

static void prepare_answers(const uint8_t *p, size_t n)
{
    size_t start = 0;

    srv.n_pieces = srv.next = srv.last = srv.used = srv.n_pauses = 0;
    for (size_t i = 0; i < n; i++) {
        if (p[i] == 0xfe || p[i] == 0xfd)
            end_piece(&start, p[i] == 0xfd);
        else if (p[i] == 0xfb || p[i] == 0xfa)
            add_address(p[i] == 0xfa);
        else if (p[i] == 0xfc && srv.n_pauses < 256)
            srv.pause[srv.n_pauses++] = srv.used;
        else if (p[i] == 0xf9 && i + 1 < n && srv.used > start)
            for (unsigned k = p[++i] * 256u, c = srv.used - 1; k > 0; k--)
                add(srv.bytes + c, 1);
        else
            add(p + i, 1);
    }
    if (srv.used > start)
        end_piece(&start, 0);
}

/* ------------------------------------------------------------------ the server --- */

struct conn {
    int    fd, other;    /* other: of the origin that has no credentials to expect */
    char   request[8192];
    size_t n;
};

/* What we send has nothing in it that a server, or a name, could have put there. */
static void check_request(const struct conn *c)
{
    static const char *const known[] = {
        "GET ", "PUT ", "DELETE ", "Host:", "User-Agent:", "Accept:", "Accept-Encoding:", "Range:",
        "If-Match:", "If-None-Match:", "Authorization:", "X-Amz-", "x-amz-", "x-ms-", "Content-Length:",
        "Content-Type:", "Expect:", "Transfer-Encoding:"};
    int first = 1;

    for (const char *line = c->request; *line != '\r'; line = strchr(line, '\n') + 1) {
        int is_known = 0;

        for (size_t i = first ? 0 : 3; i < (first ? 3 : sizeof(known) / sizeof(*known)); i++)
            is_known |= strncmp(line, known[i], strlen(known[i])) == 0;
        require(is_known);
        require(line[strcspn(line, "\r\n")] == '\r' && line[strcspn(line, "\r\n") + 1] == '\n');
        require(!c->other || strncmp(line, "Authorization:", 14) != 0);
        first = 0;
    }
    require(!c->other || srv.may_tell || !strstr(c->request, SECRET));
}

static void send_some(int fd, const char *p, size_t n)
{
    struct pollfd w = {.fd = fd, .events = POLLOUT};
    ssize_t sent;

    while (n > 0) {
        sent = send(fd, p, n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && (errno != EAGAIN || poll(&w, 1, 20) <= 0))
            return;
        p += sent > 0 ? sent : 0;
        n -= sent > 0 ? (size_t)sent : 0;
    }
}

/* Under the lock. True: it stays open. */
static int answer(const struct conn *c)
{
    const struct piece *p = &srv.piece[srv.next % MAX_PIECES];
    size_t at = p->start;

    if (srv.n_pieces == 0)
        return 0;
    srv.last = srv.next;
    srv.next = (srv.next + 1) % srv.n_pieces;
    for (size_t i = 0; i < srv.n_pauses; i++)
        if (srv.pause[i] > at && srv.pause[i] < p->end) {
            send_some(c->fd, srv.bytes + at, srv.pause[i] - at);
            at = srv.pause[i];
            usleep(300);
        }
    send_some(c->fd, srv.bytes + at, p->end - at);
    return p->keep;
}

/* Read what there is; false: the connection is at its end. */
static int serve(struct conn *c)
{
    ssize_t n = recv(c->fd, c->request + c->n, sizeof(c->request) - 1 - c->n, MSG_DONTWAIT);
    int open = n > 0;
    char *end;

    c->n += n > 0 ? (size_t)n : 0;
    c->request[c->n] = '\0';
    while (open && (end = memmem(c->request, c->n, "\r\n\r\n", 4))) {
        /* the body of a PUT comes before the next request */
        char *begin = strstr(c->request, " /");

        while (begin && begin > c->request && begin[-1] >= 'A' && begin[-1] <= 'Z')
            begin--;
        begin = begin && begin < end ? begin : c->request;
        c->n -= (size_t)(begin - c->request);
        end -= begin - c->request;
        memmove(c->request, begin, c->n + 1);
        check_request(c);
        open = answer(c);
        c->n -= (size_t)(end + 4 - c->request);
        memmove(c->request, end + 4, c->n + 1);
    }
    if (c->n == sizeof(c->request) - 1) /* of a body */
        c->n = 0;
    return open;
}

static void accept_all(struct conn *c, int which)
{
    int fd = accept4(srv.listener[which], NULL, NULL, SOCK_CLOEXEC);

    for (size_t i = 0; fd >= 0 && i < CONNS; i++)
        if (c[i].fd < 0) {
            c[i] = (struct conn){.fd = fd, .other = which};
            return;
        }
    if (fd >= 0)
        close(fd);
}

static void *server(void *arg)
{
    struct conn *c = calloc(CONNS, sizeof(*c));
    struct pollfd p[CONNS + 3];
    int stop = 0;

    for (size_t i = 0; i < CONNS; i++)
        c[i].fd = -1;
    while (!stop) {
        for (size_t i = 0; i < CONNS; i++)
            p[i] = (struct pollfd){.fd = c[i].fd, .events = POLLIN};
        for (size_t i = 0; i < 3; i++)
            p[CONNS + i] = (struct pollfd){.fd = i < 2 ? srv.listener[i] : srv.wake, .events = POLLIN};
        poll(p, CONNS + 3, -1);
        pthread_mutex_lock(&srv.lock);
        stop = srv.stop;
        for (size_t i = 0; i < CONNS && !stop; i++)
            if (p[i].fd >= 0 && p[i].revents && !serve(&c[i])) {
                shutdown(c[i].fd, SHUT_WR);
                close(c[i].fd);
                c[i].fd = -1;
            }
        for (int i = 0; i < 2 && !stop; i++)
            if (p[CONNS + i].revents)
                accept_all(c, i);
        pthread_mutex_unlock(&srv.lock);
    }
    for (size_t i = 0; i < CONNS; i++)
        if (c[i].fd >= 0)
            close(c[i].fd);
    free(c);
    return arg;
}

static void listen_at(int which)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    require(fd >= 0 && bind(fd, (struct sockaddr *)&a, len) == 0 && listen(fd, 64) == 0);
    require(getsockname(fd, (struct sockaddr *)&a, &len) == 0);
    srv.listener[which] = fd;
    srv.port[which] = ntohs(a.sin_port);
}

static void start_server(void)
{
    uint64_t one;

    if (srv.port[0] == 0) {
        listen_at(0);
        listen_at(1);
        srv.wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    }
    for (int i = 0; i < 2; i++) /* left over from the last input */
        for (int fd; (fd = accept4(srv.listener[i], NULL, NULL, SOCK_CLOEXEC)) >= 0;)
            close(fd);
    while (read(srv.wake, &one, sizeof(one)) > 0)
        continue;
    srv.stop = 0;
    require(pthread_create(&srv.thread, NULL, server, NULL) == 0);
}

static void stop_server(void)
{
    const uint64_t one = 1;

    pthread_mutex_lock(&srv.lock);
    srv.stop = 1;
    pthread_mutex_unlock(&srv.lock);
    require(write(srv.wake, &one, sizeof(one)) == sizeof(one));
    pthread_join(srv.thread, NULL);
}

/* ----------------------------------------------------------------- the request --- */

struct asked {
    struct qc_http_request r;
    pthread_mutex_t lock;
    pthread_cond_t  over;
    size_t          have;
    int             ret, n_done;
};

static void on_progress(struct qc_http_request *r, size_t have)
{
    struct asked *a = (struct asked *)r;

    pthread_mutex_lock(&a->lock);
    require(have >= a->have && have <= r->length && !a->n_done);
    a->have = have;
    pthread_mutex_unlock(&a->lock);
}

static void on_done(struct qc_http_request *r, int ret)
{
    struct asked *a = (struct asked *)r;

    pthread_mutex_lock(&a->lock);
    require(a->n_done++ == 0);
    a->ret = ret;
    pthread_cond_signal(&a->over);
    pthread_mutex_unlock(&a->lock);
}

static void check_text(const char *text)
{
    require(*text && (srv.may_tell || !strstr(text, SECRET)));
    for (; *text; text++)
        require((unsigned char)*text >= 0x20 && *text != 0x7f);
}

static void on_log(void *data, int level, const char *tag, const char *text)
{
    (void)data;
    (void)level;
    (void)tag;
    check_text(text);
}

/* What was taken is what was asked for, going by the answer's own words. */
static void check_range(const struct qc_http_request *r)
{
    const struct piece *p = &srv.piece[srv.last];
    char *text = strndup(srv.bytes + p->start, p->end - p->start), *line = text;
    unsigned long long first;

    while (line && strncasecmp(line, "content-range:", 14) != 0) {
        line = strchr(line, '\n');
        line += line != NULL;
    }
    if (line && sscanf(line + 14, " %*5[BYTESbytes] %llu-", &first) == 1)
        require(first == r->offset);
    free(text);
}

static void check_result(const struct asked *a)
{
    const struct qc_http_request *r = &a->r;
    const struct qc_pin *got = &r->got;
    uint64_t there;

    if (a->ret != 0) {
        require(a->ret < 0 && r->err.code == a->ret);
        check_text(r->err.text);
    }
    if (r->method != QC_HTTP_GET)
        return;
    require(r->have <= r->length && r->have >= a->have);
    for (size_t i = r->have; i < r->length; i++)
        require(((const uint8_t *)r->buf)[i] == FILL);
    require(memchr(got->etag, 0, sizeof(got->etag)) && memchr(got->version, 0, sizeof(got->version)));
    if (a->ret != 0)
        return;
    require(!r->pin || (r->have == r->length && qc_pin_same(r->pin, got)));
    there = got->size > r->offset ? got->size - r->offset : 0;
    require(r->have == (there < r->length ? there : r->length));
    if (r->attempts == 1 && r->status == 206 && r->have > 0)
        check_range(r);
}

static void ask(struct qc_http *http, struct asked *a, int cancel)
{
    struct timespec t;

    a->r.deadline_ms = DEADLINE_MS;
    a->r.progress = on_progress;
    a->r.done = on_done;
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->over, NULL);
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_sec += 10;
    qc_http_submit(http, &a->r);
    pthread_mutex_lock(&a->lock);
    if (cancel && !a->n_done)
        qc_http_cancel(http, &a->r);
    while (a->n_done == 0)
        require(pthread_cond_timedwait(&a->over, &a->lock, &t) == 0);
    pthread_mutex_unlock(&a->lock);
}

/* ----------------------------------------------------------------------- input --- */

static qchain_remote *make_conf(void)
{
    qchain_remote *conf = qc_conf_new();
    char url[64];

    require(conf != NULL);
    snprintf(url, sizeof(url), "http://127.0.0.1:%u", srv.port[0]);
    conf->proxy = qc_strdup("");
    conf->connect_ms = 100;
    conf->stall_ms = 20;
    conf->s3_endpoint = qc_strdup(url);
    conf->s3_region = qc_strdup("us-east-1");
    conf->s3_access_key = qc_strdup("AKIDEXAMPLE");
    conf->s3_secret_key = qc_strdup(SECRET);
    conf->gs_endpoint = qc_strdup(url);
    conf->gs_token = qc_strdup(SECRET);
    conf->azure_endpoint = qc_strdup(url);
    conf->azure_account = qc_strdup("account");
    conf->azure_key = qc_strdup("aHVudGVyMnNlY3JldA==");
    return conf;
}

static void make_name(char *out, size_t size, unsigned kind)
{
    static const char *const name[] = {
        ("http://" AT), ("http://user:" SECRET "@" AT), "s3://bucket/key",
        "az://container/blob", "gs://bucket/key", ("http://" AT "?sig=" SECRET)};

    snprintf(out, size, name[kind % 6], srv.port[0]);
}

/* Twice with one place and one engine: what was learnt from the first answers is used, too. */
static void use(const uint8_t *choice, struct qc_http *http, struct qc_place *place)
{
    static const size_t length[] = {1, 10, 1000, 5000};
    static const uint64_t offset[] = {0, 7, 4096, 5000000000};
    struct qc_pin pin = {.size = 10000, .etag = "\"a\""};
    struct asked *a;

    pin.size = offset[choice[1] >> 2 & 3] > pin.size ? 6000000000 : pin.size;
    if (choice[2] & 2)
        pin.mtime_s = 1700000000;
    for (int i = 0; i < 2; i++) {
        a = calloc(1, sizeof(*a));
        a->r.place = place;
        a->r.method = choice[0] & 0x10 ? QC_HTTP_PUT : choice[0] & 0x20 ? QC_HTTP_DELETE : QC_HTTP_GET;
        a->r.flags = choice[3] & (QC_HTTP_META | QC_HTTP_MISSING_OK | QC_HTTP_NO_HEDGE);
        if (!(choice[3] & 0x20)) /* mostly, as it takes time */
            a->r.flags |= QC_HTTP_ONCE;
        if (a->r.method == QC_HTTP_PUT)
            a->r.flags |= choice[3] & QC_HTTP_IF_ABSENT;
        else if (a->r.method == QC_HTTP_GET)
            a->r.offset = offset[choice[1] >> 2 & 3];
        a->r.length = length[choice[1] & 3];
        a->r.buf = malloc(a->r.length);
        memset(a->r.buf, FILL, a->r.length);
        if (choice[2] & 1 && a->r.method == QC_HTTP_GET)
            a->r.pin = &pin;
        ask(http, a, (choice[2] & 0xf0) == 0xf0);
        check_result(a);
        free(a->r.buf);
        pthread_cond_destroy(&a->over);
        pthread_mutex_destroy(&a->lock);
        free(a);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct qc_log log = {.fn = on_log, .level = 100};
    struct qc_credentials *creds;
    struct qc_place *place = NULL;
    qchain_remote *conf;
    struct qc_http *http;
    char name[128];

    if (size < 4)
        return 0;
    start_server();
    pthread_mutex_lock(&srv.lock);
    srv.may_tell = memmem(data, size, SECRET, 5) != NULL;
    prepare_answers(data + 4, size - 4);
    pthread_mutex_unlock(&srv.lock);
    conf = make_conf();
    conf->hedge = data[2] & 4;
    creds = qc_credentials_create(conf, &log);
    http = qc_http_create(conf, &log, NULL);
    make_name(name, sizeof(name), data[0] & 15);
    require(creds && http && qc_place_create(&place, creds, name, NULL) == 0);
    qc_place_prepare(place, false, NULL);
    use(data, http, place);
    qc_http_destroy(http);
    qc_place_unref(place);
    qc_credentials_destroy(creds);
    qc_conf_free(conf);
    stop_server();
    return 0;
}
