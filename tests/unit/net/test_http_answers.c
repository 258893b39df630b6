/* SPDX-License-Identifier: MIT */
/* Answers that are odd, slow, cut or huge, by their header; and servers that ask for patience. */
#include <signal.h>

#include "http_tools.h"

static void reopen(void)
{
    qc_http_destroy(http);
    http = qc_http_create(conf, NULL, slots);
    assert_non_null(http);
}

/* Texts that the server sends, which live as long as it. */
static char *text[128];
static unsigned n_texts;

static char *keep(char *p)
{
    assert_non_null(p);
    assert_true(n_texts < 128);
    return text[n_texts++] = p;
}

static int teardown_texts(void **state)
{
    int ret = teardown(state);

    while (n_texts > 0)
        free(text[--n_texts]);
    return ret;
}

/* A good answer to bytes 0-99, with more header lines, and this for its body. */
static char *good(const char *more, const char *body)
{
    char *p;

    assert_true(asprintf(&p, "HTTP/1.1 206 Part\r\nContent-Range: bytes 0-99/%u\r\nETag: \"one\"\r\n"
                         "%s\r\n%s", OBJECT, more, body) > 0);
    return keep(p);
}

/* The connection ends within the header, at each of its bytes. */
static void cut_in_the_header(void **unused)
{
    const char *head = good("Content-Length: 100\r\n", "");
    size_t len = strlen(head);

    (void)unused;
    for (size_t at = 0; at < len; at += 3) {
        srv_only(srv, (struct srv_step){.raw = keep(strndup(head, at))});
        get_is(true, 0, 100, 0);
        assert_in_range(srv->n_seen, 2, 3);
    }
}

static void stalls_behind_the_header(void **unused)
{
    int64_t begun = srv_now_ms();

    (void)unused;
    conf->stall_ms = 1500;
    reopen();
    srv_add(srv, (struct srv_step){.end = SRV_STALL, .at = 0});
    srv_add(srv, (struct srv_step){.end = SRV_STALL, .at = 99});
    get_is(true, 0, 100, 0);
    assert_int_equal(srv->n_seen, 3);
    assert_string_equal(srv_header(srv->seen[2].head, "Range"), "bytes=99-99");
    assert_in_range(srv_now_ms() - begun, 2995, 20000);
}

/* One byte now and then never ends by itself: not in the header either. */
static void a_header_drop_by_drop(void **unused)
{
    int64_t begun = srv_now_ms();

    (void)unused;
    conf->stall_ms = 1500;
    reopen();
    srv_add(srv, (struct srv_step){.raw = good("A: b\r\nC: d\r\nE: f\r\n", ""), .raw_ms = 60});
    get_is(true, 0, 100, 0);
    assert_int_equal(srv->n_seen, 2);
    assert_in_range(srv_now_ms() - begun, 1495, 20000);
}

/* What is only allowed is taken: 100 lines, nearly 64 KiB. One more is not. */
static void headers_at_the_limit(void **unused)
{
    char *more = keep(malloc(70000)), *few = keep(calloc(1, 2000)), body[101] = "", line[16];
    size_t n = 0;

    (void)unused;
    for (int i = 0; i < 96; i++) { /* the server has four of its own */
        snprintf(line, sizeof(line), "X-%d: y\r\n", i);
        strcat(few, line);
    }
    srv_add(srv, (struct srv_step){.header = few});
    get_is(true, 0, 100, 0);
    assert_int_equal(srv->n_seen, 1);
    for (int i = 0; i < 100; i++) /* up to a zero; what is behind it is asked for again */
        body[i] = (char)srv_byte((uint64_t)i, 1);
    for (size_t big = 60000; big <= 72000; big += 12000) {
        for (n = 0; n + 4000 < big; n += 4000)
            snprintf(more + n, 4001, "A: %03995d\r\n", 1);
        snprintf(more + n, 70000 - n, "Content-Length: 100\r\n");
        srv_only(srv, (struct srv_step){.raw = good(more, body), .times = 2});
        get_is(true, 0, 100, big < 65000 ? 0 : QCHAIN_E_CORRUPT);
    }
}

/* 100 Continue again and again leads nowhere. */
static void continue_for_ever(void **unused)
{
    int64_t begun = srv_now_ms();
    struct get g;

    (void)unused;
    conf->deadline_ms = 800;
    reopen();
    srv->scratch[0] = '\0';
    for (size_t n = 0; n + 30 < sizeof(srv->scratch); n += 18)
        memcpy(srv->scratch + n, "HTTP/1.1 100 C\r\n\r\n", 19);
    srv_add(srv, (struct srv_step){.raw = srv->scratch, .times = 1000});
    get_init(&g, place_of(srv, "/object"), 0, 100);
    get_run(&g);
    assert_true(g.ret == QCHAIN_E_NET || g.ret == QCHAIN_E_TIMEOUT || g.ret == QCHAIN_E_CORRUPT);
    assert_true(srv_now_ms() - begun < 20000);
    get_finish(&g);
}

/* Nothing but plain chunks is a transfer encoding. */
static void transfer_encoding_tricks(void **unused)
{
    static const char *const coding[] = {
        "Transfer-Encoding: gzip\r\n", "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n", "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: deflate\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: \r\n", "Transfer-Encoding: xchunked\r\n", "Transfer-Encoding: br\r\n",
        "Transfer-Encoding: identity\r\n", "Transfer-Encoding: chunked;q=1\r\n",
    };

    (void)unused;
    for (size_t i = 0; i < sizeof(coding) / sizeof(coding[0]); i++) {
        srv_only(srv, (struct srv_step){.times = 9, .no_length = true, .header = coding[i]});
        get_is(i & 1, 0, 100, QCHAIN_E_CORRUPT);
        assert_in_range(srv->n_seen, 1, 2);
    }
    srv_only(srv, (struct srv_step){.chunked = true});
    get_is(true, 0, 100, 0);
}

/* Chunks that are none, and more of them than were announced. */
static void broken_chunks(void **unused)
{
    static const char *const body[] = {
        "-1\r\nx\r\n0\r\n\r\n", "g\r\nx\r\n0\r\n\r\n", "fffffffffffffffff\r\nx\r\n", "\r\n\r\n",
        "ffffffffffffffff\r\nx", "0\r\n\r\n", "5\r\nabcdefgh\r\n0\r\n\r\n", "0x64\r\n",
        "64 \x01\x02\r\n", "0\r\nContent-Range: bytes 0-4/5\r\nETag: \"two\"\r\n\r\n",
    };
    char long_one[400];

    (void)unused;
    conf->deadline_ms = 300;
    reopen();
    for (size_t i = 0; i < sizeof(body) / sizeof(body[0]); i++) {
        const char *raw = good("Transfer-Encoding: chunked\r\n", body[i]);
        struct get g;

        srv_only(srv, (struct srv_step){.times = 1000, .raw = raw});
        get_init(&g, place_of(srv, "/object"), 0, 100);
        get_run(&g);
        if (g.ret != QCHAIN_E_CORRUPT && g.ret != QCHAIN_E_NET && g.ret != QCHAIN_E_TIMEOUT)
            fail_msg("%s: %d", body[i], g.ret);
        assert_true(g.r.have < 100);
        get_finish(&g);
    }
    conf->deadline_ms = 60000;
    reopen();
    memset(long_one + 4, 'x', 0x65);
    memcpy(long_one, "65\r\n", 4);
    strcpy(long_one + 4 + 0x65, "\r\n0\r\n\r\n");
    srv_only(srv, (struct srv_step){.times = 1000, .raw = good("Transfer-Encoding: chunked\r\n", long_one)});
    get_is(false, 0, 100, QCHAIN_E_CORRUPT); /* 101 bytes for 100 */
}

/* A page of a portal behind a redirect, with an ETag and a length of its own. */
static void a_portal_behind_a_redirect(void **unused)
{
    (void)unused;
    srv_add(srv, (struct srv_step){.path = "/object", .times = 9, .status = 302,
                                   .header = "Location: /login\r\n"});
    srv_add(srv, (struct srv_step){.path = "/login", .times = 9, .status = 200, .etag = "\"page\"",
                                   .body = "<html>Please pay</html>",
                                   .header = "Content-Type: application/octet-stream\r\n"});
    get_is(true, 0, 5000, QCHAIN_E_CHANGED);
    get_is(true, 5000, 5000, QCHAIN_E_UNSUPPORTED);
}

/* Takes a little of each request, and resets the connection. */
static void *break_off(void *arg)
{
    char some[100];
    int listener = *(int *)arg, fd;

    while ((fd = accept(listener, NULL, NULL)) >= 0) {
        recv(fd, some, sizeof(some), 0);
        srv_reset(fd);
        close(fd);
    }
    return NULL;
}

/* A body that nobody takes: the program does not hear of it by a signal. */
static void sigpipe_while_sending(void **unused)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct qc_http_request r = {.method = QC_HTTP_PUT, .length = 8000000, .deadline_ms = 2000};
    struct sigaction dfl = {.sa_handler = SIG_DFL}, old;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    socklen_t len = sizeof(a);
    char name[64];
    pthread_t id;

    (void)unused;
    assert_int_equal(sigaction(SIGPIPE, &dfl, &old), 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(listen(fd, 8), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
    assert_int_equal(pthread_create(&id, NULL, break_off, &fd), 0);
    snprintf(name, sizeof(name), "http://127.0.0.1:%u/x", ntohs(a.sin_port));
    r.place = place_at(name);
    r.buf = qc_calloc(1, r.length);
    assert_int_equal(qc_http_perform(http, &r), QCHAIN_E_NET);
    assert_true(r.attempts > 1);
    qc_free(r.buf);
    qc_place_unref(r.place);
    shutdown(fd, SHUT_RDWR);
    pthread_join(id, NULL);
    close(fd);
    sigaction(SIGPIPE, &old, &dfl);
    assert_ptr_equal(dfl.sa_handler, SIG_DFL);
}

static void ended(struct qc_http_request *r, int ret)
{
    struct get *g = (struct get *)(void *)r;

    __atomic_store_n(&g->ret, ret == 0 ? 1 : ret, __ATOMIC_RELEASE);
}

/* So many at once; the most that the server saw waiting. */
static unsigned wave(unsigned n, uint32_t flags, int want)
{
    struct get *g = qc_calloc(n, sizeof(*g));
    unsigned most;

    pthread_mutex_lock(&srv->lock);
    srv->most_busy = 0;
    pthread_mutex_unlock(&srv->lock);
    for (unsigned i = 0; i < n; i++) {
        get_init(&g[i], place_of(srv, "/object"), i * 100, 100);
        g[i].r.flags = flags;
        g[i].r.done = ended;
        qc_http_submit(http, &g[i].r);
    }
    for (unsigned i = 0; i < n; i++) {
        while (__atomic_load_n(&g[i].ret, __ATOMIC_ACQUIRE) == 0)
            usleep(1000);
        assert_int_equal(g[i].ret, want);
        assert_true(want != 1 || srv_is(g[i].r.buf, 100, i * 100, 1));
        get_finish(&g[i]);
    }
    qc_free(g);
    pthread_mutex_lock(&srv->lock);
    most = srv->most_busy;
    pthread_mutex_unlock(&srv->lock);
    return most;
}

/* Whoever is asked to slow down asks for less at once; and for one more at a time while all is well. */
static void slow_down_means_fewer_at_once(void **unused)
{
    unsigned before, after;

    (void)unused;
    conf->connections = 32;
    reopen();
    /* The first wait for as many as are to come at once, and then for those that are not to come. */
    srv_only(srv, (struct srv_step){.times = 64, .until_seen = 28, .delay_ms = 600});
    before = wave(64, 0, 1);
    assert_in_range(before, 28, 32);
    srv_only(srv, (struct srv_step){.times = 32, .delay_ms = 200, .status = 503});
    wave(32, QC_HTTP_ONCE, QCHAIN_E_THROTTLED);
    srv_only(srv, (struct srv_step){.times = 64, .until_seen = 12, .delay_ms = 600});
    after = wave(64, 0, 1);
    assert_in_range(after, 12, 24);
    srv_only(srv, (struct srv_step){.times = 600});
    for (int i = 0; i < 10; i++)
        wave(60, 0, 1);
    srv_only(srv, (struct srv_step){.times = 64, .until_seen = after + 1, .delay_ms = 600});
    assert_true(wave(64, 0, 1) > after);
}

static void *get_thread(void *g)
{
    ((struct get *)g)->ret = qc_http_perform(http, &((struct get *)g)->r);
    return NULL;
}

/* A connection that took its time, so that the first look at it came too early to see anything: that
 * nothing comes over it is noticed all the same, long before the deadline. */
static void stall_after_a_slow_connect(void **unused)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);
    int s = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), fill[8], got[8];
    struct timespec nap = {0, 600000000}, begun, ended;
    struct get g;
    pthread_t thread;
    char name[64];

    (void)unused;
    assert_int_equal(bind(s, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(listen(s, 0), 0);
    assert_int_equal(getsockname(s, (struct sockaddr *)&a, &len), 0);
    /* The queue is full: the next one's first packet is dropped, and sent again after a second. */
    for (int i = 0; i < 8; i++) {
        fill[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        (void)connect(fill[i], (struct sockaddr *)&a, sizeof(a));
    }
    conf->deadline_ms = 30000;
    conf->connect_ms = 10000;
    conf->stall_ms = 500;
    snprintf(name, sizeof(name), "http://127.0.0.1:%u/x", ntohs(a.sin_port));
    get_init(&g, place_at(name), 0, 100);
    g.r.flags = QC_HTTP_ONCE;
    clock_gettime(CLOCK_MONOTONIC, &begun);
    assert_int_equal(pthread_create(&thread, NULL, get_thread, &g), 0);
    nanosleep(&nap, NULL);
    for (int i = 0; i < 8; i++)
        got[i] = accept4(s, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    pthread_join(thread, NULL);
    clock_gettime(CLOCK_MONOTONIC, &ended);
    /* On a slow machine the next packets are dropped as well, and then there is no connection. */
    assert_true(g.ret == QCHAIN_E_TIMEOUT || g.ret == QCHAIN_E_NET);
    assert_true(strstr(g.r.err.text, "stalls") || strstr(g.r.err.text, "connect"));
    assert_true(ended.tv_sec - begun.tv_sec < 15);
    for (int i = 0; i < 8; i++) {
        close(fill[i]);
        if (got[i] >= 0)
            close(got[i]);
    }
    close(s);
    get_finish(&g);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown_texts)
    const struct CMUnitTest tests[] = {
        T(cut_in_the_header), T(stalls_behind_the_header), T(a_header_drop_by_drop),
        T(headers_at_the_limit), T(continue_for_ever), T(transfer_encoding_tricks), T(broken_chunks),
        T(a_portal_behind_a_redirect), T(sigpipe_while_sending),
        T(slow_down_means_fewer_at_once), T(stall_after_a_slow_connect),
    };

    return cmocka_run_group_tests_name("net/http answers", tests, NULL, NULL);
}
