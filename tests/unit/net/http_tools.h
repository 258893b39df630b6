/* SPDX-License-Identifier: MIT */
/* What the tests of HTTP share: an engine, one server, requests with their buffers. */
#ifndef HTTP_TOOLS_H
#define HTTP_TOOLS_H

#include "http_server.h"

#include "net/http.h"
#include "util/alloc.h"

static qchain_remote *conf;
static struct qc_credentials *creds;
static struct qc_slots *slots;
static struct qc_http *http;
static struct srv *srv;

#define OBJECT 300000u

static inline void open_http(void)
{
    slots = qc_slots_create();
    creds = qc_credentials_create(conf, NULL);
    http = qc_http_create(conf, NULL, slots);
    assert_non_null(slots);
    assert_non_null(creds);
    assert_non_null(http);
}

static inline int setup(void **unused)
{
    (void)unused;
    srv = srv_start(OBJECT);
    conf = qc_conf_new();
    assert_non_null(conf);
    conf->proxy = qc_strdup(""); /* whatever the environment says */
    conf->deadline_ms = 60000; /* a slow machine is no slow server */
    conf->connect_ms = 20000;
    conf->stall_ms = 20000;
    conf->hedge = false;
    open_http();
    return 0;
}

static inline int teardown(void **unused)
{
    (void)unused;
    qc_http_destroy(http);
    qc_credentials_destroy(creds);
    qc_slots_destroy(slots);
    qc_conf_free(conf);
    srv_stop(srv);
    return 0;
}

static inline struct qc_place *place_at(const char *name)
{
    struct qc_place *p;
    qchain_error err;

    qc_error_init(&err);
    if (qc_place_create(&p, creds, name, &err) != 0)
        fail_msg("%s", err.text);
    return p;
}

static inline struct qc_place *place_of(const struct srv *s, const char *path)
{
    char name[512];

    snprintf(name, sizeof(name), "http://127.0.0.1:%u%s", s->port, path);
    return place_at(name);
}

/* A GET and its buffer. */
struct get {
    struct qc_http_request r;
    struct qc_pin pin;
    int ret;
};

static inline void get_init(struct get *g, struct qc_place *place, uint64_t offset, size_t length)
{
    memset(g, 0, sizeof(*g));
    g->r.place = place;
    g->r.offset = offset;
    g->r.length = length;
    g->r.buf = qc_malloc(length);
}

/* Pin it to what the server has. */
static inline void get_pin(struct get *g)
{
    g->pin.size = srv->size;
    snprintf(g->pin.etag, sizeof(g->pin.etag), "%s", srv->etag);
    g->r.pin = &g->pin;
}

static inline int get_run(struct get *g)
{
    g->ret = qc_http_perform(http, &g->r);
    assert_int_equal(g->ret, g->r.err.code);
    if (g->ret != 0)
        assert_int_not_equal(g->r.err.text[0], '\0');
    return g->ret;
}

static inline void get_finish(struct get *g)
{
    qc_place_unref(g->r.place);
    qc_free(g->r.buf);
}

/* The whole of it in one call: bytes, pinned or not; expect a code. */
static inline void get_is(bool pinned, uint64_t offset, size_t length, int code)
{
    struct get g;

    get_init(&g, place_of(srv, "/object"), offset, length);
    if (pinned)
        get_pin(&g);
    if (get_run(&g) != code)
        fail_msg("%d instead of %d: %s", g.ret, code, g.r.err.text);
    if (code == 0) {
        assert_int_equal(g.r.have, length);
        assert_true(srv_is(g.r.buf, length, offset, srv->seed));
    }
    get_finish(&g);
}

static inline uint64_t counted(enum qc_counter c)
{
    return qc_counter_sum(slots, c);
}

#endif
