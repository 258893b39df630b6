/* SPDX-License-Identifier: MIT */
/* HTTP requests where all goes well: ranges, pins, PUT, many at once, cancel, the end of the engine. */
#include <fcntl.h>

#include "http_tools.h"

#include "net/config_int.h"

static void a_range(void **unused)
{
    struct get g;

    (void)unused;
    get_init(&g, place_of(srv, "/dir/object"), 1000, 5000);
    assert_int_equal(get_run(&g), 0);
    assert_int_equal(g.r.have, 5000);
    assert_true(srv_is(g.r.buf, 5000, 1000, 1));
    assert_int_equal(g.r.got.size, OBJECT);
    assert_string_equal(g.r.got.etag, "\"one\"");
    assert_int_equal(g.r.attempts, 1);
    assert_int_equal(g.r.status, 206);
    assert_string_equal(srv->seen[0].path, "/dir/object");
    assert_string_equal(srv_header(srv->seen[0].head, "Range"), "bytes=1000-5999");
    assert_string_equal(srv_header(srv->seen[0].head, "Accept-Encoding"), "identity");
    assert_null(srv_header(srv->seen[0].head, "If-Match"));
    assert_int_equal(counted(QC_CNT_HTTP_REQUESTS), 1);
    assert_int_equal(counted(QC_CNT_HTTP_BYTES), 5000);
    assert_int_equal(counted(QC_CNT_HTTP_CONNECTIONS), 1);
    assert_true(qc_http_first_byte_us(http, 50) > 0);
    assert_true(qc_http_total_us(http, 99) > 0);
    get_finish(&g);
}

static void the_end_of_the_object(void **unused)
{
    struct get g;

    (void)unused;
    get_init(&g, place_of(srv, "/object"), OBJECT - 10, 100);
    assert_int_equal(get_run(&g), 0);
    assert_int_equal(g.r.have, 10);
    assert_true(srv_is(g.r.buf, 10, OBJECT - 10, 1));
    get_finish(&g);
    get_init(&g, place_of(srv, "/object"), 0, OBJECT + 1);
    assert_int_equal(get_run(&g), 0);
    assert_int_equal(g.r.have, OBJECT);
    get_finish(&g);
    get_init(&g, place_of(srv, "/object"), OBJECT + 5, 100);
    assert_int_equal(get_run(&g), 0);
    assert_int_equal(g.r.have, 0);
    assert_int_equal(g.r.got.size, OBJECT);
    get_finish(&g);
}

static void an_empty_object(void **unused)
{
    struct get g;

    (void)unused;
    srv->size = 0;
    get_init(&g, place_of(srv, "/object"), 0, 100);
    assert_int_equal(get_run(&g), 0);
    assert_int_equal(g.r.have, 0);
    assert_int_equal(g.r.got.size, 0);
    get_finish(&g);
    srv_add(srv, (struct srv_step){.status = 416, .range = ""}); /* S3 does not tell the size */
    get_init(&g, place_of(srv, "/object"), 0, 100);
    assert_int_equal(get_run(&g), 0);
    assert_int_equal(g.r.got.size, 0);
    get_finish(&g);
}

static void a_small_object_without_ranges(void **unused)
{
    (void)unused;
    srv->size = 500;
    srv_add(srv, (struct srv_step){.ignore_range = true, .times = 2});
    get_is(true, 0, 500, 0);
    get_is(false, 0, 500, 0);
}

static void validators_are_repeated(void **unused)
{
    struct get g;

    (void)unused;
    strcpy(srv->modified, "Sun, 06 Nov 1994 08:49:37 GMT");
    get_is(true, 77, 1000, 0);
    assert_string_equal(srv_header(srv->seen[0].head, "If-Match"), "\"one\"");
    strcpy(srv->etag, "W/\"weak\"");
    get_is(true, 77, 1000, 0);
    assert_null(srv_header(srv->seen[1].head, "If-Match"));
    get_init(&g, place_of(srv, "/object"), 0, 1);
    assert_int_equal(get_run(&g), 0);
    assert_int_equal(g.r.got.mtime_s, 784111777);
    get_finish(&g);
}

static void connections_are_kept(void **unused)
{
    (void)unused;
    for (int i = 0; i < 20; i++)
        get_is(i & 1, (uint64_t)i, 1000, 0);
    assert_int_equal(srv->n_conns, 1);
    assert_int_equal(counted(QC_CNT_HTTP_CONNECTIONS), 1);
}

static void put_and_delete(void **unused)
{
    struct qc_http_request r = {.method = QC_HTTP_PUT, .length = 3000000};
    char *body = qc_malloc(r.length);

    (void)unused;
    for (size_t i = 0; i < r.length; i++)
        body[i] = (char)srv_byte(i, 9);
    r.place = place_of(srv, "/new");
    r.buf = body;
    srv_add(srv, (struct srv_step){.status = 500}); /* the body must be sent again from its start */
    assert_int_equal(qc_http_perform(http, &r), 0);
    assert_int_equal(r.attempts, 2);
    assert_string_equal(r.got.etag, "\"put\"");
    assert_int_equal(srv->n_stored, r.length);
    assert_true(srv_is(srv->stored, r.length, 0, 9));
    r.flags = QC_HTTP_IF_ABSENT;
    assert_int_equal(qc_http_perform(http, &r), QCHAIN_E_BUSY);
    assert_int_equal(r.err.http_status, 412);
    assert_string_equal(srv_header(srv->seen[2].head, "If-None-Match"), "*");
    r.flags = 0;
    r.length = 0;
    assert_int_equal(qc_http_perform(http, &r), 0);
    assert_int_equal(srv->n_stored, 0);
    r.method = QC_HTTP_DELETE;
    assert_int_equal(qc_http_perform(http, &r), 0);
    assert_string_equal(srv->seen[srv->n_seen - 1].method, "DELETE");
    qc_place_unref(r.place);
    get_is(true, 0, 100, 0); /* the handle is clean again */
    assert_null(srv_header(srv->seen[srv->n_seen - 1].head, "Content-Length"));
    qc_free(body);
}

/* ------------------------------------------------------------------------ many --- */

struct many {
    struct get g;
    struct many *all;
    pthread_mutex_t *lock;
    pthread_cond_t *cond;
    unsigned *left;
    size_t told;       /* by progress */
    bool   bad;
    unsigned rounds;   /* submit again so often */
};

static void many_progress(struct qc_http_request *r, size_t have)
{
    struct many *m = (struct many *)(void *)r;

    m->bad |= have <= m->told || have > r->length || !srv_is(r->buf, have, r->offset, 1);
    m->told = have;
}

static void many_done(struct qc_http_request *r, int ret)
{
    struct many *m = (struct many *)(void *)r;

    m->g.ret = ret;
    if (ret == 0)
        m->bad |= r->have != r->length || m->told != r->length ||
                  !srv_is(r->buf, r->length, r->offset, 1);
    if (ret == 0 && m->rounds > 0) {
        m->rounds--;
        m->told = 0;
        qc_http_submit(http, r);
        return;
    }
    pthread_mutex_lock(m->lock);
    if (--*m->left == 0)
        pthread_cond_signal(m->cond);
    pthread_mutex_unlock(m->lock);
}

struct crowd {
    struct many *m;
    unsigned n, left;
    pthread_mutex_t lock;
    pthread_cond_t cond;
};

static void crowd_start(struct crowd *c, unsigned n, size_t length, unsigned rounds)
{
    c->m = qc_calloc(n, sizeof(*c->m));
    c->n = c->left = n;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->cond, NULL);
    for (unsigned i = 0; i < n; i++) {
        struct many *m = &c->m[i];

        get_init(&m->g, place_of(srv, "/many"), i * 61 % (OBJECT - length), length);
        get_pin(&m->g);
        m->lock = &c->lock;
        m->cond = &c->cond;
        m->left = &c->left;
        m->rounds = rounds;
        m->g.r.flags = i % 3 == 0 ? QC_HTTP_META : 0;
        m->g.r.progress = many_progress;
        m->g.r.done = many_done;
        qc_http_submit(http, &m->g.r);
    }
}

static void crowd_wait(struct crowd *c)
{
    pthread_mutex_lock(&c->lock);
    while (c->left > 0)
        pthread_cond_wait(&c->cond, &c->lock);
    pthread_mutex_unlock(&c->lock);
}

static void crowd_finish(struct crowd *c)
{
    for (unsigned i = 0; i < c->n; i++) {
        assert_false(c->m[i].bad);
        get_finish(&c->m[i].g);
    }
    pthread_cond_destroy(&c->cond);
    pthread_mutex_destroy(&c->lock);
    qc_free(c->m);
}

static void many_at_once(void **unused)
{
    struct crowd c;

    (void)unused;
    crowd_start(&c, 300, 40000, 2);
    crowd_wait(&c);
    for (unsigned i = 0; i < c.n; i++)
        assert_int_equal(c.m[i].g.ret, 0);
    crowd_finish(&c);
    assert_true(srv->n_most <= 64);
    assert_int_equal(srv->n_seen, 900);
}

static void many_on_several_workers(void **unused)
{
    (void)unused;
    qc_http_destroy(http);
    conf->workers = 3;
    conf->connections = 12;
    http = qc_http_create(conf, NULL, slots);
    many_at_once(NULL);
    assert_true(srv->n_most <= 12);
}

static void ended_while_under_way(void **unused)
{
    struct crowd c;

    (void)unused;
    srv_add(srv, (struct srv_step){.times = 1000, .end = SRV_STALL, .at = 100});
    crowd_start(&c, 100, 40000, 2);
    while (counted(QC_CNT_HTTP_REQUESTS) < 64)
        usleep(1000);
    usleep(30000);
    qc_http_destroy(http);
    assert_int_equal(c.left, 0);
    for (unsigned i = 0; i < c.n; i++)
        assert_int_equal(c.m[i].g.ret, QCHAIN_E_CANCELLED);
    crowd_finish(&c);
    http = qc_http_create(conf, NULL, slots);
}

static void cancelled_one_by_one(void **unused)
{
    int64_t begun;
    struct crowd c;

    (void)unused;
    conf->stall_ms = conf->deadline_ms = 60000; /* neither is what ends them */
    qc_http_destroy(http);
    qc_credentials_destroy(creds);
    qc_slots_destroy(slots);
    open_http();
    srv_add(srv, (struct srv_step){.times = 1000, .end = SRV_STALL, .at = -1});
    crowd_start(&c, 80, 40000, 2);
    usleep(30000);
    begun = srv_now_ms();
    for (unsigned i = 0; i < c.n; i++)
        qc_http_cancel(http, &c.m[i].g.r);
    crowd_wait(&c);
    for (unsigned i = 0; i < c.n; i++)
        assert_int_equal(c.m[i].g.ret, QCHAIN_E_CANCELLED);
    crowd_finish(&c);
    assert_true(srv_now_ms() - begun < 20000);
}

/* Metadata before data that waited longer. */
static void metadata_first(void **unused)
{
    atomic_bool held = true;
    struct crowd c;
    unsigned late = 0;

    (void)unused;
    qc_http_destroy(http);
    conf->connections = 1;
    http = qc_http_create(conf, NULL, slots);
    srv_add(srv, (struct srv_step){.held = &held});
    crowd_start(&c, 60, 1000, 0);
    atomic_store(&held, false); /* all have been submitted */
    crowd_wait(&c);
    /* 0, 3, 6... are metadata; the first goes at once, then the other 19 of it. */
    for (unsigned i = 0; i < 20; i++) {
        unsigned long long first;

        assert_int_equal(sscanf(srv_header(srv->seen[i].head, "Range"), "bytes=%llu-", &first), 1);
        late += first / 61 % 3 != 0;
    }
    assert_true(late <= 1);
    crowd_finish(&c);
}

/* ----------------------------------------------------------------- credentials --- */

struct giver {
    atomic_int  asked, slow_ms;
    atomic_bool held;
};

static int give(void *data, const char *where, int renew, qchain_credentials *out)
{
    struct giver *g = data;
    static const char *const token[] = {"token-1", "token-2", "token-3"};
    int n = atomic_fetch_add(&g->asked, 1);

    (void)where;
    (void)renew;
    usleep((unsigned)atomic_load(&g->slow_ms) * 1000);
    while (atomic_load(&g->held))
        usleep(1000);
    out->session_token = token[n < 2 ? n : 2];
    return 0;
}

static struct giver giver;

static void reopen_with_giver(int slow_ms)
{
    giver.asked = 0;
    giver.slow_ms = slow_ms;
    qc_http_destroy(http);
    qc_credentials_destroy(creds);
    qc_slots_destroy(slots);
    assert_int_equal(qc_conf_set_credentials(conf, give, &giver, NULL), 0);
    open_http();
}

static void credentials_are_renewed_once(void **unused)
{
    (void)unused;
    reopen_with_giver(0);
    get_is(true, 0, 100, 0);
    assert_string_equal(srv_header(srv->seen[0].head, "Authorization"), "Bearer token-1");
    srv_add(srv, (struct srv_step){.status = 401});
    get_is(true, 0, 100, 0);
    assert_string_equal(srv_header(srv->seen[2].head, "Authorization"), "Bearer token-2");
    srv_add(srv, (struct srv_step){.status = 403, .times = 99});
    get_is(true, 0, 100, QCHAIN_E_AUTH);
    assert_true(srv->n_seen <= 5);
    assert_in_range(giver.asked, 2, 3);
}

/* Slow credentials hold up those who need them, and nobody longer than its deadline. */
static void slow_credentials(void **unused)
{
    struct get g;

    (void)unused;
    reopen_with_giver(0);
    atomic_store(&giver.held, true);
    get_init(&g, place_of(srv, "/object"), 0, 100);
    g.r.deadline_ms = 150;
    assert_int_equal(get_run(&g), QCHAIN_E_TIMEOUT);
    assert_int_equal(srv->n_seen, 0);
    get_finish(&g);
    atomic_store(&giver.held, false);
    get_is(true, 0, 100, 0); /* what was asked for then came all the same */
    assert_int_equal(giver.asked, 1);
}

static void ended_while_credentials_are_awaited(void **unused)
{
    struct crowd c;

    (void)unused;
    reopen_with_giver(200);
    crowd_start(&c, 10, 100, 0);
    usleep(20000);
    qc_http_destroy(http);
    assert_int_equal(c.left, 0);
    for (unsigned i = 0; i < c.n; i++)
        assert_int_equal(c.m[i].g.ret, QCHAIN_E_CANCELLED);
    crowd_finish(&c);
    http = qc_http_create(conf, NULL, slots);
}

/* What curl signs, and what it must not: a range may change, a proxy may change Accept-Encoding. */
static void s3_signature(void **unused)
{
    char endpoint[64];
    const char *auth;
    struct get g;

    (void)unused;
    snprintf(endpoint, sizeof(endpoint), "http://127.0.0.1:%u", srv->port);
    conf->s3_endpoint = qc_strdup(endpoint);
    conf->s3_region = qc_strdup("eu-west-1");
    conf->s3_access_key = qc_strdup("AKID");
    conf->s3_secret_key = qc_strdup("SECRET");
    qc_http_destroy(http);
    qc_credentials_destroy(creds);
    qc_slots_destroy(slots);
    open_http();
    get_init(&g, place_at("s3://bucket/dir/a b"), 1000, 100);
    get_pin(&g);
    srv_add(srv, (struct srv_step){.status = 500});
    assert_int_equal(get_run(&g), 0);
    assert_true(srv_is(g.r.buf, 100, 1000, 1));
    get_finish(&g);
    assert_string_equal(srv->seen[1].path, "/bucket/dir/a%20b");
    auth = srv_header(srv->seen[1].head, "Authorization");
    assert_non_null(strstr(auth, "AWS4-HMAC-SHA256 Credential=AKID/"));
    assert_non_null(strstr(auth, "/eu-west-1/s3/aws4_request"));
    assert_non_null(strstr(auth, "x-amz-content-sha256"));
    assert_null(strstr(auth, "accept-encoding"));
    assert_null(strstr(auth, "range"));
    assert_string_equal(srv_header(srv->seen[1].head, "Accept-Encoding"), "identity");
    assert_string_equal(srv_header(srv->seen[1].head, "Range"), "bytes=1000-1099");
    assert_string_equal(srv_header(srv->seen[1].head, "If-Match"), "\"one\"");
    get_is(true, 0, 100, 0); /* nothing of it is left in the handle */
    assert_null(srv_header(srv->seen[2].head, "Authorization"));
    assert_null(srv_header(srv->seen[2].head, "x-amz-content-sha256"));
}

static int give_keys(void *data, const char *where, int renew, qchain_credentials *out)
{
    static const char *const token[] = {"token-1", "token-2", "token-3"};
    int n = atomic_fetch_add(&giver.asked, 1);

    (void)data;
    (void)where;
    (void)renew;
    out->access_key = "AKID";
    out->secret_key = "SECRET";
    out->session_token = token[n < 2 ? n : 2];
    return 0;
}

/* S3 says it with 400 and in its document. */
static void expired_tokens_are_renewed_once(void **unused)
{
    static const char body[] = "<Error><Code>ExpiredToken</Code><Message>old</Message></Error>";
    char endpoint[64];
    struct get g;

    (void)unused;
    snprintf(endpoint, sizeof(endpoint), "http://127.0.0.1:%u", srv->port);
    conf->s3_endpoint = qc_strdup(endpoint);
    giver.asked = 0;
    qc_http_destroy(http);
    qc_credentials_destroy(creds);
    qc_slots_destroy(slots);
    assert_int_equal(qc_conf_set_credentials(conf, give_keys, &giver, NULL), 0);
    open_http();
    srv_add(srv, (struct srv_step){.status = 400, .body = body});
    get_init(&g, place_at("s3://bucket/key"), 0, 100);
    assert_int_equal(get_run(&g), 0);
    assert_int_equal(giver.asked, 2);
    assert_string_equal(srv_header(srv->seen[0].head, "x-amz-security-token"), "token-1");
    assert_string_equal(srv_header(srv->seen[1].head, "x-amz-security-token"), "token-2");
    srv_add(srv, (struct srv_step){.status = 400, .body = body, .times = 99});
    assert_int_equal(get_run(&g), QCHAIN_E_AUTH);
    assert_int_equal(srv->n_seen, 4);
    assert_int_equal(giver.asked, 3);
    assert_non_null(strstr(g.r.err.text, "ExpiredToken"));
    get_finish(&g);
}

static void nothing_before_the_first(void **unused)
{
    int fds = 0;

    (void)unused;
    for (int fd = 0; fd < 200; fd++)
        fds += fcntl(fd, F_GETFD) >= 0;
    for (int i = 0; i < 3; i++) {
        struct qc_http *other = qc_http_create(conf, NULL, NULL);

        assert_non_null(other);
        qc_http_destroy(other);
    }
    for (int fd = 0; fd < 200; fd++)
        fds -= fcntl(fd, F_GETFD) >= 0;
    assert_int_equal(fds, 0);
    qc_http_destroy(NULL);
    assert_int_equal(qc_http_available(NULL), 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(a_range), T(the_end_of_the_object), T(an_empty_object), T(a_small_object_without_ranges),
        T(validators_are_repeated), T(connections_are_kept), T(put_and_delete), T(many_at_once),
        T(many_on_several_workers), T(ended_while_under_way), T(cancelled_one_by_one),
        T(metadata_first), T(credentials_are_renewed_once), T(slow_credentials),
        T(ended_while_credentials_are_awaited), T(s3_signature), T(expired_tokens_are_renewed_once),
        T(nothing_before_the_first),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
