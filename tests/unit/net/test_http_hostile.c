/* SPDX-License-Identifier: MIT */
/* What must not leave the engine, must not enter a request, and must not hold it up, whatever servers,
 * resolvers, caches and settings say. */
#include "http_tools.h"

#include <dlfcn.h>
#include <netdb.h>
#include <stdatomic.h>

/* ------------------------------------------------------------------- resolvers --- */

#define SLOW_MS 30000

static atomic_bool hurry;

/* Stands before the C library's, for libcurl to find: a resolver that takes its time. */
__attribute__((visibility("default")))
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **out)
{
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    static const struct timespec t = {0, 10 * 1000 * 1000};

    if (node && strcmp(node, "slow.test") == 0) {
        for (int64_t end = srv_now_ms() + SLOW_MS; srv_now_ms() < end && !hurry;)
            nanosleep(&t, NULL);
        return EAI_AGAIN;
    }
    *(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo");
    return real(node, service, hints, out);
}

/* A request whose name is being looked up ends by its deadline, and nobody waits for it. */
static void slow_resolver(void **unused)
{
    int64_t begun = srv_now_ms();
    struct get a;

    (void)unused;
    get_init(&a, place_at("http://slow.test/x"), 0, 100);
    a.r.deadline_ms = 300;
    if (get_run(&a) != QCHAIN_E_TIMEOUT)
        fail_msg("%s", a.r.err.text);
    assert_true(srv_now_ms() - begun < SLOW_MS - 1000);
    get_is(false, 0, 100, 0);
    assert_true(srv_now_ms() - begun < SLOW_MS - 1000);
    get_finish(&a);
    /* libcurl's thread is nobody's any more: it ends while the other tests run. */
    hurry = true;
}

/* --------------------------------------------------------------------- secrets --- */

/* A proxy that libcurl does not understand: it would say so with all of its URL. */
static void proxy_with_password(void **unused)
{
    static const char *const proxy[] = {"xyz://user:SECRET@127.0.0.1:1", "http://user:SECRET@[::1",
                                        "http://user:SECRET@127.0.0.1:99999",
                                        "http://user:SECRET@127.0.0.1:1"};
    struct get g;

    (void)unused;
    for (size_t i = 0; i < sizeof(proxy) / sizeof(*proxy); i++) {
        qc_http_destroy(http);
        qc_free(conf->proxy);
        conf->proxy = qc_strdup(proxy[i]);
        http = qc_http_create(conf, NULL, slots);
        get_init(&g, place_of(srv, "/x"), 0, 100);
        g.r.flags = QC_HTTP_ONCE;
        assert_true(get_run(&g) < 0);
        assert_null(strstr(g.r.err.text, "SECRET"));
        get_finish(&g);
    }
}

/* ------------------------------------------------------------ private addresses --- */

/* A redirect of a public host was remembered, and leads here by now. */
static void redirected_to_private(const char *proxy, const char *exceptions)
{
    struct qc_place *place = place_of(srv, "/x");
    char target[64];
    struct get g;

    qc_http_destroy(http);
    qc_free(conf->proxy);
    conf->proxy = qc_strdup(proxy);
    if (exceptions)
        setenv("no_proxy", exceptions, 1);
    http = qc_http_create(conf, NULL, slots);
    snprintf(target, sizeof(target), "http://127.0.0.1:%u/inner", srv->port);
    qc_place_set_target(place, target);
    get_init(&g, place, 0, 100);
    assert_int_equal(get_run(&g), 0); /* from where it was redirected */
    unsetenv("no_proxy");
    for (unsigned i = 0; i < srv->n_seen; i++)
        assert_string_equal(srv->seen[i].path, "/x");
    get_finish(&g);
}

static void private_address(void **unused)
{
    (void)unused;
    redirected_to_private("", NULL);
}

/* A proxy is for the public part only, the environment says. */
static void private_address_beside_proxy(void **unused)
{
    (void)unused;
    redirected_to_private("http://127.0.0.1:1", "*");
}

/* ------------------------------------------------------------- validators --- */

/* A pin may come from files that others have written to. */
static void pin_with_line_ends(void **unused)
{
    static const char *const etag[] = {"\"a\r\nX-Evil: 1\"", "\"a\nX-Evil: 1\"", "\"a\rX-Evil: 1\"",
                                       "\"\x7f\""};
    struct get g;

    (void)unused;
    for (size_t i = 0; i < sizeof(etag) / sizeof(*etag); i++) {
        get_init(&g, place_of(srv, "/x"), 0, 100);
        get_pin(&g);
        snprintf(g.pin.etag, sizeof(g.pin.etag), "%s", etag[i]);
        g.r.pin = &g.pin;
        assert_int_equal(get_run(&g), QCHAIN_E_CHANGED);
        get_finish(&g);
    }
    for (unsigned i = 0; i < srv->n_seen; i++) {
        assert_null(strstr(srv->seen[i].head, "Evil"));
        assert_null(strchr(srv->seen[i].head, 0x7f));
    }
}

/* --------------------------------------------------------------------- memory, time --- */

/* Headers that are announced again and again are no progress for ever. */
static void endless_informational(void **unused)
{
    int64_t begun = srv_now_ms();
    char *raw = srv->scratch;
    struct get g;

    (void)unused;
    for (size_t n = 0; n < 80000;)
        n += (size_t)sprintf(raw + n, "HTTP/1.1 100 Continue\r\nA: b\r\n\r\n");
    srv_add(srv, (struct srv_step){.times = 100, .raw = raw});
    get_init(&g, place_of(srv, "/x"), 0, 100);
    g.r.deadline_ms = 800;
    assert_true(get_run(&g) < 0);
    assert_true(srv_now_ms() - begun < 20000);
    assert_true(counted(QC_CNT_HTTP_REQUESTS) >= 1);
    get_finish(&g);
}

/* The first line of a header goes on with one of another answer, for some versions of libcurl; for a
 * sanitizer to see. */
static void header_begins_with_blank(void **unused)
{
    (void)unused;
    get_is(false, 0, 100, 0);
    srv_add(srv, (struct srv_step){.raw = "HTTP/1.1 206 x\r\n Content-Length: 1\r\n\r\n0"});
    get_is(false, 0, 100, 0);
    get_is(false, 0, 100, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(slow_resolver, setup, teardown),
        cmocka_unit_test_setup_teardown(proxy_with_password, setup, teardown),
        cmocka_unit_test_setup_teardown(private_address, setup, teardown),
        cmocka_unit_test_setup_teardown(private_address_beside_proxy, setup, teardown),
        cmocka_unit_test_setup_teardown(pin_with_line_ends, setup, teardown),
        cmocka_unit_test_setup_teardown(header_begins_with_blank, setup, teardown),
        cmocka_unit_test_setup_teardown(endless_informational, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
