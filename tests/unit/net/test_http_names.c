/* SPDX-License-Identifier: MIT */
/* Names and addresses: a resolver and a network of the test's own, as libcurl finds these functions in the
 * program before those of the C library. Names end in .test; 203.0.113.x is a public network whose hosts
 * are the servers of this process. */
#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>

#include "http_tools.h"

#define SEEN __attribute__((visibility("default")))
SEEN int getaddrinfo(const char *host, const char *port, const struct addrinfo *hints,
                     struct addrinfo **out);
SEEN int connect(int fd, const struct sockaddr *to, socklen_t len);
SEEN int getpeername(int fd, struct sockaddr *to, socklen_t *len);

/* What a name means the first times that it is asked for, and then; with "|" between them. Each is
 * addresses with blanks between them, "none", or "late": no answer for a second. */
struct name {
    const char *host;
    const char *means;
    unsigned    asked;
};

static struct {
    pthread_mutex_t lock;
    struct name     name[8];
    unsigned        n;
    unsigned        reached[256];  /* connects to 203.0.113.x */
    uint8_t         as[1024];      /* descriptors that seem to be connected to it */
    atomic_int      busy;          /* late lookups, */
    atomic_bool     hurry;         /* which end by this */
} net = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void name_means(const char *host, const char *means)
{
    pthread_mutex_lock(&net.lock);
    assert_true(net.n < 8);
    net.name[net.n++] = (struct name){host, means, 0};
    pthread_mutex_unlock(&net.lock);
}

static unsigned asked(const char *host)
{
    unsigned n = 0;

    pthread_mutex_lock(&net.lock);
    for (unsigned i = 0; i < net.n; i++)
        if (strcmp(net.name[i].host, host) == 0)
            n = net.name[i].asked;
    pthread_mutex_unlock(&net.lock);
    return n;
}

/* The meaning of this time's question; false: the name is none of ours. */
static bool look_up(const char *host, char *means, size_t room)
{
    bool found = false;

    pthread_mutex_lock(&net.lock);
    for (unsigned i = 0; host && i < net.n; i++)
        if (strcmp(net.name[i].host, host) == 0) {
            const char *p = net.name[i].means, *end;

            for (unsigned k = net.name[i].asked++; k > 0 && strchr(p, '|'); k--)
                p = strchr(p, '|') + 1;
            end = p + strcspn(p, "|");
            snprintf(means, room, "%.*s", (int)(end - p), p);
            found = true;
        }
    pthread_mutex_unlock(&net.lock);
    return found;
}

typedef int resolve_fn(const char *, const char *, const struct addrinfo *, struct addrinfo **);

int getaddrinfo(const char *host, const char *port, const struct addrinfo *hints, struct addrinfo **out)
{
    resolve_fn *real = (resolve_fn *)dlsym(RTLD_NEXT, "getaddrinfo");
    struct addrinfo **end = out;
    char means[200], *word, *state;
    int ret = EAI_NONAME;

    if (!look_up(host, means, sizeof(means)))
        return real(host, port, hints, out);
    *out = NULL;
    if (strcmp(means, "none") == 0)
        return EAI_NONAME;
    if (strcmp(means, "late") == 0) {
        atomic_fetch_add(&net.busy, 1);
        for (int i = 0; i < 6000 && !atomic_load(&net.hurry); i++)
            usleep(10000);
        atomic_fetch_sub(&net.busy, 1);
        return EAI_AGAIN;
    }
    /* The C library frees lists piece by piece, and so they may be joined. */
    for (word = strtok_r(means, " ", &state); word; word = strtok_r(NULL, " ", &state)) {
        ret = real(word, port, hints, end);
        if (ret != 0)
            return ret;
        while (*end)
            end = &(*end)->ai_next;
    }
    return ret;
}

typedef int connect_fn(int, const struct sockaddr *, socklen_t);

int connect(int fd, const struct sockaddr *to, socklen_t len)
{
    connect_fn *real = (connect_fn *)dlsym(RTLD_NEXT, "connect");
    struct sockaddr_in a;
    uint32_t ip;

    if (to->sa_family != AF_INET || len < sizeof(a))
        return real(fd, to, len);
    memcpy(&a, to, sizeof(a));
    ip = ntohl(a.sin_addr.s_addr);
    pthread_mutex_lock(&net.lock);
    if (fd < 1024)
        net.as[fd] = ip >> 8 == 0xcb0071 ? (uint8_t)ip : 0;
    if (ip >> 8 == 0xcb0071)
        net.reached[ip & 255]++;
    pthread_mutex_unlock(&net.lock);
    if (ip >> 8 == 0xcb0071)
        a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return real(fd, (struct sockaddr *)&a, sizeof(a));
}

typedef int peer_fn(int, struct sockaddr *, socklen_t *);

int getpeername(int fd, struct sockaddr *to, socklen_t *len)
{
    peer_fn *real = (peer_fn *)dlsym(RTLD_NEXT, "getpeername");
    int ret = real(fd, to, len);

    pthread_mutex_lock(&net.lock);
    if (ret == 0 && to->sa_family == AF_INET && fd < 1024 && net.as[fd])
        ((struct sockaddr_in *)(void *)to)->sin_addr.s_addr = htonl(0xcb007100 | net.as[fd]);
    pthread_mutex_unlock(&net.lock);
    return ret;
}

static int setup_net(void **state)
{
    pthread_mutex_lock(&net.lock);
    net.n = 0;
    memset(net.reached, 0, sizeof(net.reached));
    memset(net.as, 0, sizeof(net.as));
    atomic_store(&net.hurry, false);
    pthread_mutex_unlock(&net.lock);
    return setup(state);
}

/* A thread that asks for a name may be left behind; it is waited for here. */
static int teardown_net(void **state)
{
    int ret = teardown(state);

    atomic_store(&net.hurry, true);
    while (atomic_load(&net.busy) > 0)
        usleep(10000);
    usleep(20000);
    return ret;
}

static void reopen(void)
{
    qc_http_destroy(http);
    http = qc_http_create(conf, NULL, slots);
    assert_non_null(http);
}

static int get_from(struct get *g, const char *host, const char *path)
{
    char name[200];

    snprintf(name, sizeof(name), "http://%s:%u%s", host, srv->port, path);
    get_init(g, place_at(name), 0, 100);
    return get_run(g);
}

/* -------------------------------------------------------------------------- names --- */

static void no_such_name_fails_soon(void **unused)
{
    struct get g;

    (void)unused;
    name_means("gone.test", "none");
    assert_int_equal(get_from(&g, "gone.test", "/x"), QCHAIN_E_NET);
    assert_int_equal(g.r.attempts, 2); /* one retry */
    assert_int_equal(asked("gone.test"), 2);
    assert_non_null(strstr(g.r.err.text, "gone.test"));
    assert_int_equal(srv->n_conns, 0);
    get_finish(&g);
}

/* And what was not there once may be there the next time. */
static void a_name_that_comes_back(void **unused)
{
    struct get g;

    (void)unused;
    name_means("back.test", "none|127.0.0.1");
    if (get_from(&g, "back.test", "/x") != 0)
        fail_msg("%s", g.r.err.text);
    assert_true(srv_is(g.r.buf, 100, 0, 1));
    get_finish(&g);
}

static void a_silent_resolver_is_asked_again(void **unused)
{
    struct get g;

    (void)unused;
    conf->connect_ms = 800;
    reopen();
    name_means("late.test", "late|late|127.0.0.1");
    if (get_from(&g, "late.test", "/x") != 0)
        fail_msg("%s", g.r.err.text);
    assert_int_equal(g.r.attempts, 3);
    assert_int_equal(atomic_load(&net.busy), 2); /* the others are not waited for */
    get_finish(&g);
    name_means("never.test", "late");
    conf->deadline_ms = 3000;
    reopen();
    assert_int_equal(get_from(&g, "never.test", "/x"), QCHAIN_E_TIMEOUT);
    assert_true(g.r.attempts >= 2);
    get_finish(&g);
}

/* The first address refuses, the second serves. */
static void all_addresses_are_tried(void **unused)
{
    struct get g;

    (void)unused;
    conf->connect_ms = 4000; /* some versions of libcurl go on only when half of it is over */
    reopen();
    name_means("many.test", "127.0.0.2 127.0.0.3 127.0.0.1");
    if (get_from(&g, "many.test", "/x") != 0)
        fail_msg("%s", g.r.err.text);
    assert_int_equal(g.r.attempts, 1);
    get_finish(&g);
}

/* A server moves: whoever cannot connect asks for its address anew. */
static void an_address_that_changes(void **unused)
{
    struct get g;

    (void)unused;
    name_means("moves.test", "127.0.0.2|127.0.0.1");
    if (get_from(&g, "moves.test", "/x") != 0)
        fail_msg("%s", g.r.err.text);
    assert_int_equal(asked("moves.test"), 2);
    get_finish(&g);
    assert_int_equal(get_from(&g, "moves.test", "/y"), 0); /* and while all is well nobody asks */
    assert_int_equal(asked("moves.test"), 2);
    get_finish(&g);
}

/* ---------------------------------------------------------------------- redirects --- */

static void redirect_is(const char *to_host, uint16_t to_port, int want)
{
    char where[200];
    struct get g;

    snprintf(where, sizeof(where), "Location: http://%s:%u/canary\r\n", to_host, to_port);
    srv_only(srv, (struct srv_step){.path = "/object", .times = 9, .status = 302, .header = where});
    get_from(&g, "public.test", "/object");
    if (g.ret != want)
        fail_msg("%s: %d instead of %d: %s", to_host, g.ret, want, g.r.err.text);
    if (want != 0)
        assert_int_equal(g.r.attempts, 2);
    get_finish(&g);
}

/* From a public host to one that is not, by number, by name, by an address among public ones. */
static void public_to_private_is_refused(void **unused)
{
    struct srv *canary = srv_start(OBJECT);

    (void)unused;
    name_means("public.test", "203.0.113.7");
    name_means("inner.test", "127.0.0.1");
    name_means("other.test", "203.0.113.8");
    redirect_is("other.test", srv->port, 0);
    assert_int_equal(net.reached[8], 1);
    redirect_is("127.0.0.1", canary->port, QCHAIN_E_ACCESS);
    redirect_is("inner.test", canary->port, QCHAIN_E_ACCESS);
    redirect_is("169.254.169.254", 80, QCHAIN_E_ACCESS);
    redirect_is("10.1.2.3", canary->port, QCHAIN_E_ACCESS);
    redirect_is("[::1]", canary->port, QCHAIN_E_ACCESS);
    redirect_is("[::ffff:127.0.0.1]", canary->port, QCHAIN_E_ACCESS);
    redirect_is("2130706433", canary->port, QCHAIN_E_ACCESS); /* 127.0.0.1, as some write it */
    assert_int_equal(canary->n_conns, 0); /* not even connected to */
    srv_stop(canary);
}

/* The name was public when the redirect was followed, and is private when it is remembered. */
static void a_name_that_turns_private(void **unused)
{
    struct srv *canary = srv_start(OBJECT);
    char where[200];
    struct get g;

    (void)unused;
    name_means("public.test", "203.0.113.7");
    name_means("turns.test", "203.0.113.8|127.0.0.1");
    snprintf(where, sizeof(where), "Location: http://turns.test:%u/canary\r\n", canary->port);
    srv_add(srv, (struct srv_step){.path = "/object", .times = 9, .status = 302, .header = where});
    srv_add(canary, (struct srv_step){.end = SRV_RESET, .at = 50}); /* so that it is asked for anew */
    get_from(&g, "public.test", "/object");
    assert_int_equal(g.ret, QCHAIN_E_ACCESS);
    assert_int_equal(net.reached[8], 1);
    assert_int_equal(canary->n_conns, 1); /* that one */
    get_finish(&g);
    srv_stop(canary);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup_net, teardown_net)
    const struct CMUnitTest tests[] = {
        T(no_such_name_fails_soon), T(a_name_that_comes_back), T(a_silent_resolver_is_asked_again),
        T(all_addresses_are_tried), T(an_address_that_changes), T(public_to_private_is_refused),
        T(a_name_that_turns_private),
    };

    return cmocka_run_group_tests_name("net/http names", tests, NULL, NULL);
}
