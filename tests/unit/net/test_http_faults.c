/* SPDX-License-Identifier: MIT */
/* Each way in which a server or the network can fail a request, and what comes of it. */
#include "http_tools.h"

/* Other settings: the engine is made anew. */
static void reopen(void)
{
    qc_http_destroy(http);
    http = qc_http_create(conf, NULL, slots);
    assert_non_null(http);
}

static int get_at(struct get *g, const char *name, size_t length)
{
    get_init(g, place_at(name), 0, length);
    return get_run(g);
}

/* It failed with that each time; on a slow machine one more attempt was under way when its time was over. */
static bool failed_with(const struct get *g, int code)
{
    return g->ret == code || (g->ret == QCHAIN_E_TIMEOUT && strstr(g->r.err.text, "; before: "));
}

/* A port where nobody listens, nor can anybody else while it is ours. */
static uint16_t closed_port(int *fd)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);

    *fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(*fd, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(getsockname(*fd, (struct sockaddr *)&a, &len), 0);
    return ntohs(a.sin_port);
}

/* -------------------------------------------------------------------- connections --- */

static void connect_refused(void **unused)
{
    char name[100], want[100];
    struct get g;
    int fd;

    (void)unused;
    conf->deadline_ms = 2000;
    reopen();
    snprintf(name, sizeof(name), "http://127.0.0.1:%u/x?sig=SECRET", closed_port(&fd));
    get_at(&g, name, 10);
    assert_true(failed_with(&g, QCHAIN_E_NET));
    assert_true(g.r.attempts >= 3);
    snprintf(want, sizeof(want), "connect to 127.0.0.1:%s", strrchr(name, ':') + 1);
    *strchr(want, '/') = '\0';
    assert_non_null(strstr(g.r.err.text, want));
    assert_non_null(strstr(g.r.err.text, "Connection refused"));
    assert_non_null(strstr(g.r.err.text, "bytes 0-9"));
    assert_non_null(strstr(g.r.err.text, " attempts in "));
    assert_null(strstr(g.r.err.text, "SECRET"));
    assert_int_equal(counted(QC_CNT_HTTP_RETRIES), g.r.attempts - 1);
    get_finish(&g);
    close(fd);
}

/* The connection breaks at each byte, of the head too; the bytes before it are not asked for again. */
static void reset_at_each_byte(void **unused)
{
    (void)unused;
    for (long at = -1; at <= 9; at += 2) {
        srv_only(srv, (struct srv_step){.end = SRV_RESET, .at = at});
        get_is(at & 2, 500, 10, 0);
        assert_in_range(srv->n_seen, 1, 3);
    }
}

static void truncated_at_each_byte(void **unused)
{
    const long at[] = {0, 1, 4999};
    char want[64];

    (void)unused;
    for (int i = 0; i < 3; i++) {
        srv_only(srv, (struct srv_step){.end = SRV_CLOSE, .at = at[i]});
        get_is(i == 1, 1000, 5000, 0);
        assert_int_equal(srv->n_seen, 2);
        snprintf(want, sizeof(want), "bytes=%ld-5999", 1000 + at[i]);
        assert_string_equal(srv_header(srv->seen[1].head, "Range"), want);
        assert_string_equal(srv_header(srv->seen[1].head, "If-Match"), "\"one\"");
    }
}

static void chunked_without_its_end(void **unused)
{
    (void)unused;
    srv_add(srv, (struct srv_step){.chunked = true, .end = SRV_CLOSE, .at = 3000});
    srv_add(srv, (struct srv_step){.chunked = true});
    get_is(true, 1000, 5000, 0);
    assert_int_equal(srv->n_seen, 2);
}

static void broken_off_for_ever(void **unused)
{
    struct get g;

    (void)unused;
    conf->deadline_ms = 2000;
    reopen();
    srv_add(srv, (struct srv_step){.times = 1000, .end = SRV_CLOSE, .at = 0});
    get_init(&g, place_of(srv, "/object"), 0, 100);
    get_run(&g);
    assert_true(failed_with(&g, QCHAIN_E_NET));
    assert_true(g.r.attempts > 2);
    get_finish(&g);
}

static void no_such_name(void **unused)
{
    struct get g;

    (void)unused;
    if (get_at(&g, "http://no-such-host.invalid/x", 10) != QCHAIN_E_NET)
        fail_msg("%s", g.r.err.text);
    assert_non_null(strstr(g.r.err.text, "resolve"));
    assert_true(g.r.attempts >= 2);
    get_finish(&g);
}

static void no_connection_in_time(void **unused)
{
    struct get g;

    (void)unused;
    /* A full backlog lets nobody in, and says nothing. */
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);
    int fd = socket(AF_INET, SOCK_STREAM, 0), full[4];
    char name[64];

    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
    assert_int_equal(listen(fd, 0), 0);
    for (int i = 0; i < 4; i++) {
        full[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        connect(full[i], (struct sockaddr *)&a, sizeof(a));
    }
    conf->connect_ms = 200;
    conf->deadline_ms = 2000;
    reopen();
    snprintf(name, sizeof(name), "http://127.0.0.1:%u/x", ntohs(a.sin_port));
    assert_int_equal(get_at(&g, name, 10), QCHAIN_E_TIMEOUT);
    assert_true(g.r.attempts >= 2);
    get_finish(&g);
    for (int i = 0; i < 4; i++)
        close(full[i]);
    close(fd);
}

/* The server closes a kept connection just when the next request comes. */
static void keepalive_race(void **unused)
{
    struct get g;

    (void)unused;
    for (int i = 0; i < 10; i++) {
        srv_add(srv, (struct srv_step){0});
        srv_add(srv, (struct srv_step){.end = i & 1 ? SRV_RESET : SRV_CLOSE, .at = -1});
    }
    for (int i = 0; i < 10; i++) {
        get_is(true, 0, 100, 0);
        get_init(&g, place_of(srv, "/object"), 100, 100);
        g.r.flags = QC_HTTP_ONCE; /* not even counted as a retry */
        assert_int_equal(get_run(&g), 0);
        get_finish(&g);
    }
    assert_int_equal(counted(QC_CNT_HTTP_RETRIES), 0);
}

static void once_is_once(void **unused)
{
    struct get g;

    (void)unused;
    srv_add(srv, (struct srv_step){.status = 503});
    get_init(&g, place_of(srv, "/object"), 0, 100);
    g.r.flags = QC_HTTP_ONCE;
    assert_int_equal(get_run(&g), QCHAIN_E_THROTTLED);
    assert_int_equal(g.r.attempts, 1);
    get_finish(&g);
}

/* ------------------------------------------------------------------------ statuses --- */

static void server_errors(void **unused)
{
    const int status[] = {500, 502, 503, 504};

    (void)unused;
    for (int i = 0; i < 4; i++)
        srv_add(srv, (struct srv_step){.status = status[i], .body = "sorry"});
    get_is(true, 1000, 5000, 0);
    assert_int_equal(srv->n_seen, 5);
    assert_int_equal(counted(QC_CNT_HTTP_RETRIES), 4);
    srv_add(srv, (struct srv_step){.status = 501});
    get_is(true, 1000, 5000, QCHAIN_E_UNSUPPORTED);
}

static void retry_after_seconds(void **unused)
{
    int64_t begun = srv_now_ms();

    (void)unused;
    srv_add(srv, (struct srv_step){.status = 429, .header = "Retry-After: 1\r\n"});
    get_is(true, 0, 5000, 0);
    assert_in_range(srv_now_ms() - begun, 995, 20000);
}

static void retry_after_date(void **unused)
{
    int64_t begun = srv_now_ms();

    (void)unused;
    /* By the server's clock, which is its own affair. */
    srv_add(srv, (struct srv_step){.status = 503, .header =
                "Retry-After: Sun, 06 Nov 1994 08:49:38 GMT\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n"});
    get_is(true, 0, 5000, 0);
    assert_in_range(srv_now_ms() - begun, 995, 20000);
}

static void retry_after_is_capped(void **unused)
{
    struct get g;

    (void)unused;
    conf->deadline_ms = 1500;
    reopen();
    srv_add(srv, (struct srv_step){.times = 1000, .status = 429,
                                   .header = "Retry-After: 99999999999999999999\r\n"});
    get_init(&g, place_of(srv, "/object"), 0, 100);
    get_run(&g);
    assert_true(failed_with(&g, QCHAIN_E_THROTTLED));
    assert_true(g.ret == QCHAIN_E_TIMEOUT || g.r.err.http_status == 429);
    assert_in_range(g.r.attempts, 2, 10);
    get_finish(&g);
}

static void not_found(void **unused)
{
    struct get g;

    (void)unused;
    srv_add(srv, (struct srv_step){.status = 404, .body = "<html>no</html>"});
    get_init(&g, place_of(srv, "/object"), 0, 100);
    assert_int_equal(get_run(&g), QCHAIN_E_NOTFOUND);
    assert_int_equal(g.r.attempts, 1);
    assert_int_equal(g.r.err.http_status, 404);
    get_finish(&g);
    srv_add(srv, (struct srv_step){.status = 404, .body_size = 10000000}); /* an endless page */
    get_is(false, 0, 100, QCHAIN_E_NOTFOUND);
}

static void no_credentials(void **unused)
{
    (void)unused;
    srv_add(srv, (struct srv_step){.times = 4, .status = 401});
    get_is(false, 0, 100, QCHAIN_E_AUTH);
    assert_in_range(srv->n_seen, 1, 2);
}

/* -------------------------------------------------------------------------- ranges --- */

static void wrong_ranges(void **unused)
{
    static const char *const range[] = {
        "bytes 1001-6000/300000",  "bytes 1000-6000/300000", "bytes 999-5999/300000",
        "bytes 0-4999/300000",     "bytes 5999-1000/300000", "bytes 1000-5999/*",
        "bytes 1000-5999",         "lines 1000-5999/300000", "bytes -1000-5999/300000",
        "bytes 1000-5999/1000",    "bytes */300000",         "",
        "bytes 1000-5999/99999999999999999999999", "bytes 1000-99999999999999999999/300000",
    };
    const size_t n = sizeof(range) / sizeof(range[0]);

    (void)unused;
    for (size_t i = 0; i < n; i++) {
        srv_only(srv, (struct srv_step){.range = range[i]});
        get_is(i & 1, 1000, 5000, 0); /* one retry, on a fresh connection */
        assert_int_equal(srv->n_seen, 2);
        assert_int_not_equal(srv->seen[0].conn, srv->seen[1].conn);
        srv_only(srv, (struct srv_step){.range = range[i], .times = 9});
        get_is(i & 1, 1000, 5000, QCHAIN_E_CORRUPT);
        assert_int_equal(srv->n_seen, 2);
    }
}

static void whole_object_instead_of_a_range(void **unused)
{
    struct get g;

    (void)unused;
    srv->size = UINT64_C(1) << 40; /* it must not be downloaded */
    srv_add(srv, (struct srv_step){.ignore_range = true, .times = 9});
    get_init(&g, place_of(srv, "/object"), 0, 100);
    assert_int_equal(get_run(&g), QCHAIN_E_UNSUPPORTED);
    assert_non_null(strstr(g.r.err.text, "no range requests"));
    get_finish(&g);
    assert_int_equal(srv->n_seen, 1);
    assert_true(counted(QC_CNT_HTTP_BYTES) < 1000000);
    get_is(true, 5000, 100, QCHAIN_E_UNSUPPORTED);
}

static void several_parts(void **unused)
{
    (void)unused;
    srv_add(srv, (struct srv_step){.times = 9, .header =
                "Content-Type: multipart/byteranges; boundary=x\r\n"});
    get_is(true, 1000, 5000, QCHAIN_E_CORRUPT);
    assert_int_equal(srv->n_seen, 2);
}

static void beyond_the_end(void **unused)
{
    struct get g;

    (void)unused;
    get_init(&g, place_of(srv, "/object"), OBJECT, 10);
    get_pin(&g);
    g.pin.size = OBJECT + 100;
    assert_int_equal(get_run(&g), QCHAIN_E_CHANGED);
    get_finish(&g);
    srv_add(srv, (struct srv_step){.status = 206, .body = "", .range = "bytes 300000-299999/300000"});
    get_init(&g, place_of(srv, "/object"), OBJECT, 10); /* how some say it */
    assert_int_equal(get_run(&g), 0);
    assert_int_equal(g.r.have, 0);
    assert_int_equal(g.r.got.size, OBJECT);
    get_finish(&g);
}

static void less_than_asked_for(void **unused)
{
    struct get g;

    (void)unused;
    /* Legal, and no failure. */
    srv_add(srv, (struct srv_step){.raw = "HTTP/1.1 206 X\r\nContent-Range: bytes 0-2/300000\r\n"
                                          "Content-Length: 3\r\nETag: \"one\"\r\n\r\n\x15\x7c\x4a"});
    get_init(&g, place_of(srv, "/object"), 0, 100);
    assert_int_equal(get_run(&g), 0);
    assert_int_equal(g.r.have, 100);
    assert_true(srv_is((char *)g.r.buf + 3, 97, 3, 1));
    get_finish(&g);
    assert_string_equal(srv_header(srv->seen[1].head, "Range"), "bytes=3-99");
    assert_int_equal(counted(QC_CNT_HTTP_RETRIES), 0);
}

/* ---------------------------------------------------------------------- identities --- */

static void replaced(void **unused)
{
    (void)unused;
    srv_add(srv, (struct srv_step){.etag = "\"two\"", .no_if_match = true});
    get_is(true, 0, 100, QCHAIN_E_CHANGED);
    srv_add(srv, (struct srv_step){.status = 412});
    get_is(true, 0, 100, QCHAIN_E_CHANGED);
    srv_add(srv, (struct srv_step){.range = "bytes 0-99/300001"}); /* the size alone */
    get_is(true, 0, 100, QCHAIN_E_CHANGED);
    assert_int_equal(srv->n_seen, 3);
}

static void replaced_by_its_date_or_version(void **unused)
{
    struct get g;

    (void)unused;
    strcpy(srv->etag, "");
    strcpy(srv->modified, "Sun, 06 Nov 1994 08:49:37 GMT");
    for (int i = 0; i < 3; i++) {
        if (i == 2)
            srv_add(srv, (struct srv_step){.header = "x-amz-version-id: v2\r\n"});
        get_init(&g, place_of(srv, "/object"), 0, 100);
        g.pin.size = OBJECT;
        g.pin.mtime_s = i == 1 ? 784111778 : 784111777;
        strcpy(g.pin.version, i == 2 ? "v1" : "");
        g.r.pin = &g.pin;
        assert_int_equal(get_run(&g), i == 0 ? 0 : QCHAIN_E_CHANGED);
        get_finish(&g);
    }
}

static void replaced_while_it_is_read(void **unused)
{
    struct get g;

    (void)unused;
    srv_add(srv, (struct srv_step){.end = SRV_CLOSE, .at = 1000});
    srv_add(srv, (struct srv_step){.etag = "\"two\"", .no_if_match = true});
    get_init(&g, place_of(srv, "/object"), 0, 5000);
    assert_int_equal(get_run(&g), QCHAIN_E_CHANGED);
    assert_int_equal(g.r.have, 1000);
    assert_true(srv_is(g.r.buf, 1000, 0, 1));
    get_finish(&g);
}

/* A page to log in, with status 200, whatever was asked for. */
static void captive_portal(void **unused)
{
    (void)unused;
    srv_add(srv, (struct srv_step){.status = 200, .body = "<html>Welcome!</html>", .etag = "",
                                   .header = "Content-Type: text/html\r\n"});
    get_is(true, 0, 5000, QCHAIN_E_CHANGED);
    srv_add(srv, (struct srv_step){.status = 200, .body = "<html>Welcome!</html>", .etag = "",
                                   .times = 2, .header = "Content-Type: text/html\r\n"});
    get_is(true, 5000, 5000, QCHAIN_E_UNSUPPORTED);
}

/* -------------------------------------------------------------------------- stalls --- */

/* Others do not wait behind it: it lasts until it is cancelled. */
static void a_stall_while_others_proceed(void **unused)
{
    struct get slow;
    pthread_t id;

    (void)unused;
    srv_add(srv, (struct srv_step){.path = "/slow", .times = 99, .end = SRV_STALL, .at = 100});
    conf->stall_ms = 60000;
    reopen();
    get_init(&slow, place_of(srv, "/slow"), 0, 5000);
    assert_int_equal(pthread_create(&id, NULL, (void *(*)(void *))(void (*)(void))get_run, &slow), 0);
    while (srv_count(srv) == 0)
        usleep(1000);
    for (int i = 0; i < 20; i++)
        get_is(true, 0, 5000, 0);
    assert_int_equal(srv_count(srv), 21);
    qc_http_cancel(http, &slow.r);
    pthread_join(id, NULL);
    assert_int_equal(slow.ret, QCHAIN_E_CANCELLED);
    get_finish(&slow);
}

static void stalls_until_the_deadline(void **unused)
{
    struct get slow;

    (void)unused;
    conf->stall_ms = 500;
    conf->deadline_ms = 3000;
    reopen();
    srv_add(srv, (struct srv_step){.path = "/slow", .times = 99, .end = SRV_STALL, .at = 100});
    get_init(&slow, place_of(srv, "/slow"), 0, 5000);
    assert_int_equal(get_run(&slow), QCHAIN_E_TIMEOUT);
    assert_true(slow.r.attempts >= 2);
    assert_true(slow.r.have >= 100); /* each attempt gives 100 bytes more */
    get_finish(&slow);
}

static void no_answer_at_all(void **unused)
{
    (void)unused;
    conf->stall_ms = 200;
    reopen();
    srv_add(srv, (struct srv_step){.end = SRV_STALL, .at = -1});
    get_is(true, 0, 5000, 0);
    assert_int_not_equal(srv->seen[0].conn, srv->seen[1].conn);
}

static void a_byte_now_and_then(void **unused)
{
    (void)unused;
    conf->stall_ms = 1500;
    reopen();
    srv_add(srv, (struct srv_step){.end = SRV_DRIP, .at = 2000});
    get_is(true, 0, 5000, 0);
    assert_int_equal(srv->n_seen, 2);
}

/* A late first byte: a second attempt beside it delivers. */
static void a_hedge(void **unused)
{
    uint64_t hedges;
    int64_t begun;

    (void)unused;
    conf->hedge = true;
    reopen();
    for (int i = 0; i < 5; i++)
        get_is(true, 0, 5000, 0);
    hedges = counted(QC_CNT_HTTP_HEDGES); /* on a slow machine those were late, too */
    begun = srv_now_ms();
    srv_add(srv, (struct srv_step){.end = SRV_STALL, .at = -1});
    get_is(true, 0, 5000, 0);
    assert_in_range(srv_now_ms() - begun, 195, 19000); /* before it is a stall */
    assert_int_equal(counted(QC_CNT_HTTP_HEDGES), hedges + 1);
    assert_int_equal(counted(QC_CNT_HTTP_RETRIES), 0);
    reopen(); /* what is late is judged by what was seen before */
    srv_add(srv, (struct srv_step){.until_seen = srv_count(srv) + 2}); /* the first one wins */
    srv_add(srv, (struct srv_step){.end = SRV_STALL, .at = -1});
    get_is(true, 0, 5000, 0);
    reopen();
    srv_add(srv, (struct srv_step){.until_seen = srv_count(srv) + 2, .status = 500}); /* the first one fails */
    srv_add(srv, (struct srv_step){.delay_ms = 200});
    get_is(true, 0, 5000, 0);
    assert_int_equal(counted(QC_CNT_HTTP_HEDGES), hedges + 3);
    assert_int_equal(counted(QC_CNT_HTTP_RETRIES), 0);
}

/* The first of two delivers, so that the other one has lost; then it breaks off before that is ended. */
static void the_faster_one_breaks_off(void **unused)
{
    int64_t begun;

    (void)unused;
    conf->hedge = true;
    for (int round = 0; round < 4; round++) {
        reopen();
        for (int i = 0; i < 5; i++)
            get_is(true, 0, 5000, 0);
        srv_add(srv, (struct srv_step){.until_seen = srv_count(srv) + 2, .end = round % 2 ? SRV_RESET : SRV_CLOSE, .at = 1000});
        srv_add(srv, (struct srv_step){.end = SRV_STALL, .at = -1});
        begun = srv_now_ms();
        get_is(true, 0, 5000, 0);
        assert_true(srv_now_ms() - begun < 19000); /* the deadline is 60 s, a stall 20 s */
        assert_true(counted(QC_CNT_HTTP_HEDGES) >= 1);
    }
}

static void hedges_have_a_budget(void **unused)
{
    (void)unused;
    conf->hedge = true;
    reopen();
    srv_add(srv, (struct srv_step){.until_seen = 2});
    srv_add(srv, (struct srv_step){.times = 1000, .delay_ms = 250});
    for (int i = 0; i < 12; i++)
        get_is(true, 0, 5000, 0);
    assert_in_range(counted(QC_CNT_HTTP_HEDGES), 1, 6);
}

static void one_ended(struct qc_http_request *r, int ret)
{
    struct get *g = (struct get *)(void *)r;

    assert_int_not_equal(ret, 0);
    __atomic_store_n(&g->ret, ret, __ATOMIC_RELEASE);
}

/* A server that is down for many requests does not get many times as many. */
static void retries_have_a_budget(void **unused)
{
    struct get *g = qc_calloc(200, sizeof(*g));
    int64_t begun = srv_now_ms(), seconds;

    (void)unused;
    srv_add(srv, (struct srv_step){.times = 100000, .status = 500});
    for (int i = 0; i < 200; i++) {
        get_init(&g[i], place_of(srv, "/object"), 0, 100);
        g[i].r.deadline_ms = 800;
        g[i].r.done = one_ended;
        qc_http_submit(http, &g[i].r);
    }
    for (int i = 0; i < 200; i++)
        while (__atomic_load_n(&g[i].ret, __ATOMIC_ACQUIRE) == 0)
            usleep(1000);
    seconds = 1 + (srv_now_ms() - begun) / 1000;
    for (int i = 0; i < 200; i++) {
        assert_true(g[i].ret == QCHAIN_E_NET || g[i].ret == QCHAIN_E_TIMEOUT);
        get_finish(&g[i]);
    }
    qc_free(g);
    /* Theirs, the reserve, a tenth of them, so many a second. */
    assert_in_range(srv->n_seen, 1, 200 + 32 + 20 + 20 * seconds + 5);
}

/* ----------------------------------------------------------------------- redirects --- */

static void redirects_are_remembered(void **unused)
{
    struct srv *other = srv_start(OBJECT);
    char where[128];
    struct get g;

    (void)unused;
    snprintf(where, sizeof(where), "Location: http://127.0.0.1:%u/there?token=SECRET\r\n",
             other->port);
    srv_add(srv, (struct srv_step){.path = "/object", .status = 302, .header = "Location: /b\r\n"});
    srv_add(srv, (struct srv_step){.path = "/b", .status = 307, .header = where});
    get_init(&g, place_of(srv, "/object"), 0, 100);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(get_run(&g), 0);
        assert_true(srv_is(g.r.buf, 100, 0, 1));
    }
    assert_int_equal(srv->n_seen, 2);
    assert_int_equal(other->n_seen, 3);
    assert_int_equal(counted(QC_CNT_HTTP_REDIRECTS), 2);
    srv_add(other, (struct srv_step){.status = 403}); /* it fails: ask where it came from */
    assert_int_equal(get_run(&g), 0);
    assert_int_equal(srv->n_seen, 3);
    assert_string_equal(srv->seen[2].path, "/object");
    assert_int_equal(get_run(&g), 0); /* and it is forgotten */
    assert_int_equal(srv->n_seen, 4);
    assert_int_equal(other->n_seen, 4);
    get_finish(&g);
    srv_stop(other);
}

static void too_many_redirects(void **unused)
{
    (void)unused;
    srv_add(srv, (struct srv_step){.times = 99, .status = 301, .header = "Location: again\r\n"});
    get_is(true, 0, 100, QCHAIN_E_NET);
    assert_int_equal(srv->n_seen, 4);
}

static void redirects_to_other_schemes(void **unused)
{
    static const char *const where[] = {
        "Location: file:///etc/passwd\r\n", "Location: ftp://127.0.0.1/x\r\n",
        "Location: gopher://127.0.0.1:25/x\r\n", "Location: http:///x\r\n", "Location: \r\n",
        "Location: http://a b/\r\n", "",
    };

    (void)unused;
    for (size_t i = 0; i < sizeof(where) / sizeof(where[0]); i++) {
        struct get g;

        srv_only(srv, (struct srv_step){.times = 9, .status = 302, .header = where[i]});
        get_init(&g, place_of(srv, "/object"), 0, 100);
        g.ret = get_run(&g);
        assert_true(g.ret == QCHAIN_E_ACCESS || g.ret == QCHAIN_E_NET);
        if (i < 3)
            assert_int_equal(g.ret, QCHAIN_E_ACCESS);
        get_finish(&g);
    }
}

static void credentials_stay_at_home(void **unused)
{
    struct srv *other = srv_start(OBJECT);
    char where[128], name[128];
    struct get g;

    (void)unused;
    snprintf(name, sizeof(name), "http://user:SECRET@127.0.0.1:%u/object", srv->port);
    snprintf(where, sizeof(where), "Location: http://127.0.0.1:%u/object\r\n", other->port);
    srv_add(srv, (struct srv_step){.status = 302, .header = where});
    assert_int_equal(get_at(&g, name, 100), QCHAIN_E_ACCESS);
    assert_non_null(strstr(srv_header(srv->seen[0].head, "Authorization"), "Basic "));
    assert_null(strstr(g.r.err.text, "SECRET"));
    assert_int_equal(other->n_seen, 0);
    assert_int_equal(other->n_conns, 0);
    get_finish(&g);
    srv_add(srv, (struct srv_step){.status = 302, .header = "Location: /elsewhere\r\n"});
    assert_int_equal(get_at(&g, name, 100), 0);
    assert_non_null(srv_header(srv->seen[2].head, "Authorization"));
    get_finish(&g);
    srv_stop(other);
}

/* Nobody's address is public here; so the mark of a remembered redirect is left out. */
static void public_to_private(void **unused)
{
    struct get g;
    char where[128];

    (void)unused;
    snprintf(where, sizeof(where), "http://127.0.0.1:%u/canary", srv->port);
    get_init(&g, place_at("http://localhost:1/object"), 0, 100);
    qc_place_set_target(g.r.place, where);
    g.r.deadline_ms = 300;
    assert_int_not_equal(get_run(&g), 0);
    assert_int_equal(srv->n_conns, 0); /* not even connected to */
    get_finish(&g);
    get_init(&g, place_at("http://localhost:1/object"), 0, 100);
    strcat(where, "#private");
    qc_place_set_target(g.r.place, where);
    assert_int_equal(get_run(&g), 0);
    assert_string_equal(srv->seen[0].path, "/canary");
    get_finish(&g);
}

/* --------------------------------------------------------------------- hostile answers --- */

static void a_huge_answer(void **unused)
{
    (void)unused;
    srv_add(srv, (struct srv_step){.body_size = 50000000});
    get_is(true, 0, 5000, QCHAIN_E_CORRUPT);
    assert_true(counted(QC_CNT_HTTP_BYTES) < 2000000);
}

static void a_huge_header(void **unused)
{
    char *many = srv->scratch, line[16];

    (void)unused;
    many[0] = '\0';
    for (int i = 0; i < 101; i++) {
        snprintf(line, sizeof(line), "X-%d: y\r\n", i);
        strcat(many, line);
    }
    srv_add(srv, (struct srv_step){.header = many});
    get_is(true, 0, 5000, 0);
    srv_add(srv, (struct srv_step){.header = many, .times = 2});
    get_is(true, 0, 5000, QCHAIN_E_CORRUPT);
}

static void an_endless_header(void **unused)
{
    char *raw = srv->scratch;

    (void)unused;
    strcpy(raw, "HTTP/1.1 206 X\r\n");
    for (int i = 0; i < 20; i++) {
        size_t at = strlen(raw);

        memset(raw + at, 'a', 4000);
        memcpy(raw + at, "A: ", 3);
        strcpy(raw + at + 4000, "\r\n");
    }
    srv_add(srv, (struct srv_step){.raw = raw, .times = 2});
    get_is(true, 0, 5000, QCHAIN_E_CORRUPT);
}

static void encoded(void **unused)
{
    (void)unused;
    srv_add(srv, (struct srv_step){.header = "Content-Encoding: gzip\r\n", .times = 2});
    get_is(true, 0, 5000, QCHAIN_E_CORRUPT);
    srv_add(srv, (struct srv_step){.header = "Content-Encoding: identity\r\n"});
    get_is(true, 0, 5000, 0);
}

static void content_length_tricks(void **unused)
{
    static const char *const length[] = {
        "Content-Length: 100\r\nContent-Length: 100\r\n", "Content-Length: 100\r\nContent-Length: 5\r\n",
        "Content-Length: -1\r\n", "Content-Length: 99999999999999999999\r\n",
        "Content-Length: 0x64\r\n", "Content-Length: 100, 100\r\n", "Content-Length: \r\n",
        "Content-Length: 50\r\n", "Content-Length: 200\r\n", "Content-Length: +100\r\n",
        "Content-Length: 100\r\nTransfer-Encoding: chunked\r\n",
    };

    (void)unused;
    for (size_t i = 0; i < sizeof(length) / sizeof(length[0]); i++) {
        srv_only(srv, (struct srv_step){.times = 9, .no_length = true, .header = length[i]});
        get_is(i & 1, 0, 100, QCHAIN_E_CORRUPT);
        assert_in_range(srv->n_seen, 1, 3);
    }
}

static void not_even_http(void **unused)
{
    static const char *const raw[] = {"", "\r\n\r\n", "SSH-2.0-x\r\n", "HTTP/1.1\r\n\r\n",
                                      "HTTP/1.1 206 X\r\n\r\n", "HTTP/1.1 abc\r\n\r\n",
                                      "HTTP/1.1 100 C\r\n\r\nHTTP/1.1 100 C\r\n\r\n",
                                      "HTTP/9.9 206 X\r\n\r\nx", "HTTP/1.1 304 X\r\n\r\n"};

    (void)unused;
    conf->deadline_ms = 300;
    reopen();
    for (size_t i = 0; i < sizeof(raw) / sizeof(raw[0]); i++) {
        struct get g;

        srv_only(srv, (struct srv_step){.times = 1000, .raw = raw[i]});
        get_init(&g, place_of(srv, "/object"), 0, 100);
        if (strncmp(raw[i], "SSH", 3) == 0)
            g.r.deadline_ms = 60000; /* it ends by itself */
        get_run(&g);
        assert_true(g.ret == QCHAIN_E_CORRUPT || g.ret == QCHAIN_E_NET || g.ret == QCHAIN_E_TIMEOUT ||
                    g.ret == QCHAIN_E_UNSUPPORTED);
        if (strncmp(raw[i], "SSH", 3) == 0)
            assert_true(g.ret == QCHAIN_E_CORRUPT && strstr(g.r.err.text, "is not HTTP"));
        get_finish(&g);
    }
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(connect_refused), T(reset_at_each_byte), T(truncated_at_each_byte),
        T(chunked_without_its_end), T(broken_off_for_ever), T(no_such_name),
        T(no_connection_in_time), T(keepalive_race), T(once_is_once),
        T(server_errors), T(retry_after_seconds), T(retry_after_date), T(retry_after_is_capped),
        T(not_found), T(no_credentials), T(wrong_ranges), T(whole_object_instead_of_a_range),
        T(several_parts), T(beyond_the_end), T(less_than_asked_for), T(replaced),
        T(replaced_by_its_date_or_version), T(replaced_while_it_is_read), T(captive_portal),
        T(a_stall_while_others_proceed), T(stalls_until_the_deadline), T(no_answer_at_all), T(a_byte_now_and_then), T(a_hedge), T(the_faster_one_breaks_off),
        T(hedges_have_a_budget), T(retries_have_a_budget), T(redirects_are_remembered),
        T(too_many_redirects), T(redirects_to_other_schemes), T(credentials_stay_at_home),
        T(public_to_private), T(a_huge_answer), T(a_huge_header), T(an_endless_header), T(encoded),
        T(content_length_tricks), T(not_even_http),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
