/* SPDX-License-Identifier: MIT */
/* Faults that chains behind URLs meet: bits that flip on the way, objects that are replaced, servers
 * that break off, and callers that fork or have signals. */
#include <fcntl.h>
#include <signal.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "object_server.h"

#include "chain/chain.h"
#include "mem_layers.h"

#define MIB (UINT64_C(1) << 20)
#define DISK (8 * MIB)
#define CLUSTER (UINT64_C(64) << 10)
#define PACKED 100  /* the first compressed cluster */
#define N_PACKED 8
#define SECRET "Qw77secret"

static char dir[] = "/tmp/qc-url-faults-XXXXXX";
static qchain_error *err;
static struct object_server *server;
static struct mem_chain *m;
static size_t packed_at; /* where it lies in layer 1's file */

static const char *url_of(const char *before, const char *name, const char *behind)
{
    static char url[4][256];
    static int n;

    n = (n + 1) % 4;
    snprintf(url[n], sizeof(url[n]), "http://%s127.0.0.1:%u/%s%s", before, server->port, name, behind);
    return url[n];
}

/* Layer 0 has a few clusters; layer 1 has much data, and compressed clusters behind it. */
static int serve(void **unused)
{
    (void)unused;
    server = object_server_start();
    m = mem_chain_create(2);
    for (uint32_t k = 0; k < 2; k++)
        mem_layer_init(m, k, DISK, 16);
    mem_layer_set(m, 0, 3, MEM_DATA);
    for (uint32_t i = 0; i < 60; i++)
        mem_layer_set(m, 1, i, MEM_DATA);
    packed_at = m->layer[1].file_size;
    for (uint32_t i = 0; i < N_PACKED; i++)
        mem_layer_set(m, 1, PACKED + i, MEM_COMPRESSED);
    for (uint32_t k = 0; k < 2; k++) {
        char name[32];

        snprintf(name, sizeof(name), "/layer%u", k);
        object_put(server, name, m->layer[k].file, m->layer[k].file_size);
    }
    return 0;
}

static void empty_dir(void)
{
    char command[160];

    snprintf(command, sizeof(command), "rm -rf '%s'/*", dir);
    assert_int_equal(system(command), 0);
}

static int end_serving(void **unused)
{
    (void)unused;
    object_server_stop(server);
    mem_chain_destroy(m);
    empty_dir();
    return 0;
}

static qchain_env *new_env(const char *rules)
{
    qchain_remote *r = qchain_remote_create();
    qchain_env *env = NULL;
    qchain_env_opts o;

    assert_int_equal(qchain_remote_parse(r, "hedge off\ndeadline 60\n", err), 0);
    if (qchain_remote_parse(r, rules, err) != 0)
        fail_msg("%s", qchain_error_message(err));
    qchain_env_opts_init(&o, sizeof(o));
    o.remote = r;
    assert_int_equal(qchain_env_create(&env, &o, err), 0);
    qchain_remote_destroy(r);
    return env;
}

static const char *cache_rule(const char *more)
{
    static char rule[200];

    snprintf(rule, sizeof(rule), "cache-dir %s/cache\n%s", dir, more);
    return rule;
}

static qchain *open_url(qchain_env *env, const char *url)
{
    qchain_open_opts o;
    qchain *c = NULL;

    qchain_open_opts_init(&o, sizeof(o));
    o.flags = QCHAIN_OPEN_NO_INDEX;
    if (qchain_open(&c, env, url, &o, err) != 0)
        fail_msg("%s", qchain_error_message(err));
    return c;
}

static qchain *open_top(qchain_env *env)
{
    return open_url(env, url_of("", "layer0", ""));
}

/* 0 and the right bytes, or the failure. */
static int read_at(qchain *c, uint64_t offset, size_t length)
{
    uint8_t *got = malloc(length), *want = malloc(length);
    int ret = qchain_read(c, got, length, offset, 0, err);

    mem_chain_read(m, want, length, offset);
    if (ret == 0)
        assert_memory_equal(got, want, length);
    free(got);
    free(want);
    return ret;
}

static void all_is_right(qchain *c)
{
    for (uint64_t at = 0; at < DISK; at += MIB)
        if (read_at(c, at, MIB) != 0)
            fail_msg("%s", qchain_error_message(err));
}

/* So many answers have a wrong first byte of the first compressed cluster: no deflate stream. */
static void spoil_next(unsigned n)
{
    struct object *o;

    pthread_mutex_lock(&server->lock);
    o = object_find(server, "/layer1");
    o->spoil_at = packed_at;
    o->spoils = n;
    o->around = 0;
    pthread_mutex_unlock(&server->lock);
}

static unsigned asked_around(void)
{
    unsigned n;

    pthread_mutex_lock(&server->lock);
    n = object_find(server, "/layer1")->around;
    pthread_mutex_unlock(&server->lock);
    return n;
}

static void reset_next(unsigned n)
{
    pthread_mutex_lock(&server->lock);
    object_find(server, "/layer1")->resets = n;
    pthread_mutex_unlock(&server->lock);
}

/* --------------------------------------------------------------------- flipped bits --- */

/* A part of a cluster, one whole, and many at once. */
static const struct {
    uint64_t offset;
    size_t length;
} shape[] = {{PACKED * CLUSTER + 512, 4096}, {PACKED * CLUSTER, CLUSTER},
             {PACKED * CLUSTER, N_PACKED * CLUSTER}};

#define SHAPES (sizeof(shape) / sizeof(shape[0]))

static void a_flipped_bit_is_fetched_anew(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < SHAPES; i++) {
        qchain_env *env = new_env("");
        qchain *c = open_top(env);

        spoil_next(1);
        if (read_at(c, shape[i].offset, shape[i].length) != 0)
            fail_msg("%s", qchain_error_message(err));
        assert_int_equal(asked_around(), 2);
        /* What is kept is right, too. */
        all_is_right(c);
        qchain_close(c);
        qchain_env_destroy(env);
    }
}

static void a_flipped_bit_that_stays_is_corrupt(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < SHAPES; i++) {
        qchain_env *env = new_env("");
        qchain *c = open_top(env);

        spoil_next(1000);
        assert_int_equal(read_at(c, shape[i].offset, shape[i].length), QCHAIN_E_CORRUPT);
        assert_int_equal(asked_around(), 2); /* once anew, and no more */
        assert_non_null(strstr(qchain_error_message(err), "compressed cluster"));
        assert_non_null(strstr(qchain_error_message(err), "layer1"));
        assert_int_equal(read_at(c, 0, MIB), 0); /* others are not touched */
        spoil_next(0);
        assert_int_equal(read_at(c, shape[i].offset, shape[i].length), 0);
        qchain_close(c);
        qchain_env_destroy(env);
    }
}

/* The disk cache got the wrong bytes first: it is given the right ones. */
static void a_flipped_bit_leaves_the_cache(void **unused)
{
    qchain_env *env = new_env(cache_rule(""));
    qchain *c = open_top(env);

    (void)unused;
    spoil_next(1);
    assert_int_equal(read_at(c, shape[1].offset, shape[1].length), 0);
    assert_int_equal(asked_around(), 2);
    qchain_close(c);
    qchain_env_destroy(env);
    env = new_env(cache_rule(""));
    c = open_top(env);
    assert_int_equal(read_at(c, shape[1].offset, shape[1].length), 0);
    assert_int_equal(asked_around(), 2); /* from the cache */
    qchain_close(c);
    qchain_env_destroy(env);
}

/* Whoever meets wrong bytes of a cache that nobody could mend asks the origin. */
static void a_flipped_bit_in_the_cache(void **unused)
{
    qchain_env *env = new_env(cache_rule(""));
    qchain *c = open_top(env);

    (void)unused;
    spoil_next(1000);
    assert_int_equal(read_at(c, shape[1].offset, shape[1].length), QCHAIN_E_CORRUPT);
    qchain_close(c);
    qchain_env_destroy(env);
    spoil_next(0);
    for (int i = 0; i < 2; i++) {
        env = new_env(cache_rule(""));
        c = open_top(env);
        assert_int_equal(read_at(c, shape[0].offset, shape[0].length), 0);
        assert_int_equal(asked_around(), 1); /* the second finds it mended */
        qchain_close(c);
        qchain_env_destroy(env);
    }
}

/* -------------------------------------------------------------------------- replaced --- */

/* Another generation of the same size and the same time (none is told): its ETag alone differs. */
static void replaced_at_the_same_size(void **unused)
{
    static uint8_t got[64 << 10], old[1 << 20], new[1 << 20];
    const char *url = url_of("", "raw", "");
    qchain_env *env = new_env("block-size 64K");
    qchain_open_opts o;
    qchain *c, *other;

    (void)unused;
    memset(old, 'o', sizeof(old));
    memset(new, 'n', sizeof(new));
    object_put(server, "/raw", old, sizeof(old));
    qchain_open_opts_init(&o, sizeof(o));
    o.format = "raw";
    o.flags = QCHAIN_OPEN_NO_INDEX;
    assert_int_equal(qchain_open(&c, env, url, &o, err), 0);
    other = open_top(env);
    assert_int_equal(qchain_read(c, got, 1000, 256 << 10, 0, err), 0); /* and keeps its block */
    assert_memory_equal(got, old, 1000);
    object_put(server, "/raw", new, sizeof(new));
    assert_int_equal(qchain_read(c, got, sizeof(got), 768 << 10, 0, err), QCHAIN_E_CHANGED);
    assert_non_null(strstr(qchain_error_message(err), "/raw"));
    /* From now on also where the old bytes are known; nobody gets some of each. */
    assert_int_equal(qchain_read(c, got, 1000, 256 << 10, 0, err), QCHAIN_E_CHANGED);
    all_is_right(other);
    qchain_close(c);
    assert_int_equal(qchain_open(&c, env, url, &o, err), 0);
    for (uint64_t at = 0; at < sizeof(new); at += sizeof(got)) {
        assert_int_equal(qchain_read(c, got, sizeof(got), at, 0, err), 0);
        assert_memory_equal(got, new, sizeof(got));
    }
    qchain_close(c);
    qchain_close(other);
    qchain_env_destroy(env);
}

/* ------------------------------------------------------------------------- no traces --- */

/* What failed once is asked for again when it is read again, and is right then. */
static void a_failed_read_does_not_stick(void **unused)
{
    qchain_env *env = new_env(cache_rule("deadline 4"));
    qchain *c = open_top(env);
    int ret;

    (void)unused;
    reset_next(100000);
    ret = read_at(c, 40 * CLUSTER, CLUSTER);
    assert_true(ret == QCHAIN_E_NET || ret == QCHAIN_E_TIMEOUT);
    reset_next(0);
    all_is_right(c);
    qchain_close(c);
    qchain_env_destroy(env);
}

/* Neither a query nor a login lies in the cache. */
static void a_cache_holds_no_secrets(void **unused)
{
    qchain_env *env = new_env(cache_rule(""));
    qchain *c = open_url(env, url_of("", "layer1", "?X-Amz-Signature=" SECRET));
    char command[200];

    (void)unused;
    qchain_close(c);
    c = open_url(env, url_of("name:" SECRET "@", "layer1", ""));
    qchain_close(c);
    qchain_env_destroy(env);
    snprintf(command, sizeof(command), "find '%s/cache' -type f | grep -q . && ! grep -rqE '%s' '%s/cache' "
             "&& ! find '%s/cache' | grep -q '%s'", dir, SECRET, dir, dir, SECRET);
    assert_int_equal(system(command), 0);
}

/* ------------------------------------------------------------------ forks and signals --- */

/* In the child: 0, or the line that is not so. */
#define WANT(cond) do { if (!(cond)) return __LINE__ % 250 + 1; } while (0)

static int child(qchain_env *env, qchain *c)
{
    char byte;
    qchain *other = NULL;

    WANT(qchain_read(c, &byte, 1, 50 * CLUSTER, 0, err) == QCHAIN_E_INVAL);
    WANT(strstr(qchain_error_message(err), "fork"));
    WANT(qchain_open(&other, env, url_of("", "layer0", ""), NULL, err) == QCHAIN_E_INVAL);
    qchain_close(c);
    qchain_env_destroy(env);
#ifndef __SANITIZE_THREAD__ /* which lets a child start no threads */
    env = new_env("");
    c = open_top(env);
    WANT(read_at(c, 50 * CLUSTER, CLUSTER) == 0);
    WANT(read_at(c, PACKED * CLUSTER, CLUSTER) == 0);
    qchain_close(c);
    qchain_env_destroy(env);
#endif
    return 0;
}

/* A child cannot use what it got, does no harm with it, and can do all anew. The object server's threads
 * are the parent's, and go on. */
static void a_fork_while_urls_are_open(void **unused)
{
    qchain_env *env = new_env(cache_rule(""));
    qchain *c = open_top(env);
    int status, ret;
    pid_t pid;

    (void)unused;
    assert_int_equal(read_at(c, 3 * CLUSTER, CLUSTER), 0);
    for (int i = 0; i < 3; i++) {
        pid = fork();
        if (pid == 0) {
            alarm(120);
            ret = child(env, c);
            if (ret == 0) /* not by an exit: what the parent still has would be taken for lost */
                raise(SIGKILL);
            _exit(ret);
        }
        assert_int_equal(read_at(c, (40 + (uint64_t)i) * CLUSTER, CLUSTER), 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
            fail_msg("the child: status %x", (unsigned)status);
    }
    all_is_right(c);
    qchain_close(c);
    qchain_env_destroy(env);
}

/* Connections are not for the programs that the process starts. */
static void sockets_are_not_inherited(void **unused)
{
    qchain_env *env = new_env("");
    qchain *c = open_top(env);
    unsigned n = 0;

    (void)unused;
    all_is_right(c);
    for (int fd = 0; fd < 1024; fd++) {
        struct sockaddr_in a;
        socklen_t len = sizeof(a);

        if (getpeername(fd, (struct sockaddr *)&a, &len) != 0 || a.sin_family != AF_INET ||
            ntohs(a.sin_port) != server->port)
            continue;
        n++;
        assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    }
    assert_true(n > 0);
    qchain_close(c);
    qchain_env_destroy(env);
}

static atomic_int signals, astray;
static pthread_t the_main;

static void on_alarm(int number)
{
    (void)number;
    atomic_fetch_add(&signals, 1);
    if (!pthread_equal(pthread_self(), the_main))
        atomic_fetch_add(&astray, 1);
}

/* Every call that waits is interrupted again and again. The server's threads have these signals blocked,
 * and the library's by its own doing. */
static void signals_all_the_time(void **unused)
{
    struct sigaction mine = {.sa_handler = on_alarm}, old;
    struct itimerval often = {{0, 700}, {0, 700}}, never = {{0, 0}, {0, 0}};
    qchain_env *env = new_env(cache_rule(""));
    sigset_t alarms;
    qchain *c;

    (void)unused;
    the_main = pthread_self();
    sigemptyset(&alarms);
    sigaddset(&alarms, SIGALRM);
    assert_int_equal(sigaction(SIGALRM, &mine, &old), 0); /* no SA_RESTART */
    pthread_sigmask(SIG_UNBLOCK, &alarms, NULL);
    assert_int_equal(setitimer(ITIMER_REAL, &often, NULL), 0);
    c = open_top(env);
    all_is_right(c);
    reset_next(5);
    qchain_close(c);
    c = open_top(env);
    all_is_right(c);
    qchain_close(c);
    qchain_env_destroy(env);
    setitimer(ITIMER_REAL, &never, NULL);
    pthread_sigmask(SIG_BLOCK, &alarms, NULL);
    sigaction(SIGALRM, &old, NULL);
    assert_true(atomic_load(&signals) > 10);
    assert_int_equal(atomic_load(&astray), 0);
}

/* SIGPIPE is the program's, which has not heard of it: it must not die of a server that breaks off. */
static void sigpipe_while_servers_break_off(void **unused)
{
    struct sigaction dfl = {.sa_handler = SIG_DFL}, old;
    qchain_env *env = new_env("");
    qchain *c = open_top(env);

    (void)unused;
    assert_int_equal(sigaction(SIGPIPE, &dfl, &old), 0);
    for (int i = 0; i < 10; i++) {
        reset_next(2);
        assert_int_equal(read_at(c, (uint64_t)i * 5 * CLUSTER, 4 * CLUSTER), 0);
        pthread_mutex_lock(&server->lock);
        for (int k = 0; k < OBJECT_CONNS; k++) /* those that are kept, too */
            if (server->conn[k] >= 0)
                object_reset(server->conn[k]);
        pthread_mutex_unlock(&server->lock);
    }
    all_is_right(c);
    qchain_close(c);
    qchain_env_destroy(env);
    sigaction(SIGPIPE, &old, &dfl);
    assert_ptr_equal(dfl.sa_handler, SIG_DFL);
}

static int make_dir(void **unused)
{
    sigset_t alarms;

    (void)unused;
    unsetenv("http_proxy");
    err = qchain_error_create();
    sigemptyset(&alarms); /* threads of servers have this one blocked; a test unblocks it for itself */
    sigaddset(&alarms, SIGALRM);
    pthread_sigmask(SIG_BLOCK, &alarms, NULL);
    return mkdtemp(dir) && err ? 0 : -1;
}

static int remove_dir(void **unused)
{
    (void)unused;
    qchain_error_destroy(err);
    empty_dir();
    return rmdir(dir);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, serve, end_serving)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_flipped_bit_is_fetched_anew), TEST(a_flipped_bit_that_stays_is_corrupt),
        TEST(a_flipped_bit_leaves_the_cache), TEST(a_flipped_bit_in_the_cache),
        TEST(replaced_at_the_same_size), TEST(a_failed_read_does_not_stick),
        TEST(a_cache_holds_no_secrets), TEST(a_fork_while_urls_are_open),
        TEST(sockets_are_not_inherited), TEST(signals_all_the_time),
        TEST(sigpipe_while_servers_break_off),
    };

    return cmocka_run_group_tests_name("chain/url faults", tests, make_dir, remove_dir);
}
