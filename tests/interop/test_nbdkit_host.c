/* SPDX-License-Identifier: MIT */
/*
 * The nbdkit plugin as it was built, in this process (nbdkit_host.h), so that checkers see all that it does: connections
 * and requests side by side against a model, connections that come and go, names, what it refuses. What real clients
 * see of it is in check_nbd.py.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>

#include <cmocka.h>
#include <qchain.h>

#include "nbdkit_host.h"

#define MIB (1u << 20)
#define SIZE (8 * MIB)
#define N_CONNECTIONS 2
#define N_THREADS 3       /* a connection */
#define N_STRIPES (N_CONNECTIONS * N_THREADS)
#define STRIPE (SIZE / N_STRIPES)   /* no multiple of anything: neighbours share clusters */

static struct nbdkit_plugin *plugin;
static char home[] = "/tmp/qchain-host-XXXXXX";

/* ---------------------------------------------------------------------- images --- */

static unsigned share(unsigned n)
{
    const char *text = getenv("QC_SHORT");
    unsigned by = text ? (unsigned)strtoul(text, NULL, 10) : 1;

    return by <= 1 ? n : n / by ? n / by : 1;
}

static unsigned char below_byte(uint64_t at)
{
    return (unsigned char)(at / 40000 % 5 ? at / 40000 : 0);
}

static void make_image(const char *name, const char *below)
{
    qchain_create_opts o;

    qchain_create_opts_init(&o, sizeof(o));
    o.size = SIZE;
    o.backing_file = below;
    o.backing_format = below ? "qcow2" : NULL;
    assert_int_equal(qchain_create(NULL, name, &o, NULL), 0);
}

static qchain *open_image(const char *name, uint32_t flags)
{
    qchain_open_opts o;
    qchain *c;

    qchain_open_opts_init(&o, sizeof(o));
    o.flags = flags;
    assert_int_equal(qchain_open(&c, NULL, name, &o, NULL), 0);
    return c;
}

/* A layer that has something nearly everywhere, and an empty one over it. */
static void make_chain(void)
{
    unsigned char *disk = malloc(SIZE);
    qchain *c;
    uint32_t i;

    make_image("below.qcow2", NULL);
    make_image("top.qcow2", "below.qcow2");
    for (i = 0; i < SIZE; i++)
        disk[i] = below_byte(i);
    c = open_image("below.qcow2", QCHAIN_OPEN_WRITE);
    assert_int_equal(qchain_write(c, disk, SIZE, 0, 0, NULL), 0);
    assert_int_equal(qchain_finish(c, NULL), 0);
    qchain_close(c);
    free(disk);
}

static int in_home(void **state)
{
    const char *build = getenv("QC_BUILD");
    char path[PATH_MAX];

    (void)state;
    snprintf(path, sizeof(path), "%s/nbdkit/nbdkit-qchain-plugin.so", build ? build : "build");
    setenv("QCHAIN_POLICY", "", 1);
    setenv("QCHAIN_REMOTE", "", 1);
    plugin = host_load(path);
    return plugin && mkdtemp(home) && chdir(home) == 0 ? 0 : -1;
}

static int away(void **state)
{
    static const char *const names[] = {"top.qcow2", "below.qcow2", "other.qcow2"};
    size_t i;

    (void)state;
    for (i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        unlink(names[i]);
    return rmdir(home);
}

static void begin(const char *const *args)
{
    if (host_begin(plugin, args) != 0)
        fail_msg("it does not begin: %s", host.error);
}

static void end(void)
{
    host_end(plugin);
    if (host.n_errors)
        fail_msg("it complained: %s", host.error);
}

/* ------------------------------------------------------------------- side by side --- */

/* One thread's part of the disk, as it should be. */
struct stripe {
    pthread_t      thread;
    void          *handle;
    unsigned       seed, n;
    uint64_t       offset;
    unsigned char  want[STRIPE], got[STRIPE];
    const char    *wrong; /* NULL: all is well */
};

/* A trimmed byte is zero or as it was. */
static bool trim_one(struct stripe *s, uint32_t at, uint32_t n, uint32_t fua)
{
    uint32_t i;

    if (plugin->trim(s->handle, n, s->offset + at, fua) != 0 || plugin->pread(s->handle, s->got, n, s->offset + at, 0) != 0)
        return false;
    for (i = 0; i < n; i++) {
        if (s->got[i] != 0 && s->got[i] != s->want[at + i])
            return false;
        s->want[at + i] = s->got[i];
    }
    return true;
}

static bool zero_one(struct stripe *s, uint32_t at, uint32_t n, uint32_t flags)
{
    if (plugin->zero(s->handle, n, s->offset + at, flags) != 0)
        return flags & NBDKIT_FLAG_FAST_ZERO && host_errno == ENOTSUP;
    memset(s->want + at, 0, n);
    return true;
}

static bool extents_one(struct stripe *s, uint32_t at, uint32_t n, uint32_t flags)
{
    struct nbdkit_extents *x = calloc(1, sizeof(*x));
    bool good;

    x->next = s->offset + at;
    good = plugin->extents(s->handle, n, s->offset + at, flags, x) == 0 && x->n > 0;
    free(x);
    return good;
}

static bool one_request(struct stripe *s)
{
    static const uint32_t most[] = {600, 5000, 70000, 300000};
    uint32_t n = 1 + (uint32_t)rand_r(&s->seed) % most[rand_r(&s->seed) % 4], i;
    uint32_t at = (uint32_t)rand_r(&s->seed) % (STRIPE - n), fua = rand_r(&s->seed) % 4 ? 0 : NBDKIT_FLAG_FUA;

    switch (rand_r(&s->seed) % 8) {
    case 0:
        return zero_one(s, at, n, fua | (rand_r(&s->seed) % 2 ? NBDKIT_FLAG_MAY_TRIM : NBDKIT_FLAG_FAST_ZERO));
    case 1:
        return trim_one(s, at, n, fua);
    case 2:
        return extents_one(s, at, n, rand_r(&s->seed) % 2 ? NBDKIT_FLAG_REQ_ONE : 0);
    case 3:
        return plugin->flush(s->handle, 0) == 0;
    case 4:
        return plugin->cache(s->handle, n, s->offset + at, 0) == 0;
    case 5:
        return plugin->pread(s->handle, s->got, n, s->offset + at, 0) == 0 && memcmp(s->got, s->want + at, n) == 0;
    default:
        for (i = 0; i < n; i++)
            s->want[at + i] = (unsigned char)(s->seed >> i % 23);
        return plugin->pwrite(s->handle, s->want + at, n, s->offset + at, fua) == 0;
    }
}

static void *run_stripe(void *data)
{
    struct stripe *s = data;
    unsigned i;

    for (i = 0; i < s->n && !s->wrong; i++)
        if (!one_request(s))
            s->wrong = "a request failed, or read other bytes";
    return NULL;
}

static struct stripe *begin_stripes(void *const *handles, unsigned n)
{
    struct stripe *s = calloc(N_STRIPES, sizeof(*s));
    uint32_t k, i;

    assert_non_null(s);
    for (k = 0; k < N_STRIPES; k++) {
        s[k].handle = handles[k % N_CONNECTIONS];
        s[k].seed = 77 + k;
        s[k].n = n;
        s[k].offset = (uint64_t)k * STRIPE;
        for (i = 0; i < STRIPE; i++)
            s[k].want[i] = below_byte(s[k].offset + i);
        assert_int_equal(pthread_create(&s[k].thread, NULL, run_stripe, &s[k]), 0);
    }
    return s;
}

static void look_at_image(const struct stripe *s)
{
    unsigned char *disk = malloc(SIZE);
    qchain_check_result result = {.struct_size = sizeof(result)};
    qchain *c = open_image("top.qcow2", 0);
    uint32_t k;

    assert_int_equal(qchain_read(c, disk, SIZE, 0, 0, NULL), 0);
    qchain_close(c);
    for (k = 0; k < N_STRIPES; k++)
        assert_memory_equal(disk + s[k].offset, s[k].want, STRIPE);
    free(disk);
    assert_int_equal(qchain_check(NULL, "top.qcow2", NULL, &result, NULL), 0);
    assert_int_equal(result.corruptions + result.leaks, 0);
}

static void requests_side_by_side(void **state)
{
    static const char *const args[] = {"top.qcow2", "write=true", NULL};
    void *handles[N_CONNECTIONS];
    struct stripe *s;
    int64_t size;
    unsigned i;

    (void)state;
    make_chain();
    begin(args);
    for (i = 0; i < N_CONNECTIONS; i++) {
        handles[i] = host_connect(plugin, "", false, &size);
        assert_non_null(handles[i]);
        assert_int_equal(size, SIZE);
        assert_int_equal(plugin->can_write(handles[i]), 1);
        assert_int_equal(plugin->can_fua(handles[i]), NBDKIT_FUA_NATIVE);
    }
    s = begin_stripes(handles, share(400));
    for (i = 0; i < N_STRIPES; i++)
        pthread_join(s[i].thread, NULL);
    for (i = 0; i < N_CONNECTIONS; i++)
        plugin->close(handles[i]);
    end();
    for (i = 0; i < N_STRIPES; i++)
        if (s[i].wrong)
            fail_msg("stripe %u: %s", i, s[i].wrong);
    look_at_image(s);
    free(s);
}

/* ------------------------------------------------------------------- come and go --- */

static atomic_uint n_wrong;

/* Connections of one thread, one after the other; each writes, and reads what an earlier one wrote. */
static void *run_visitor(void *data)
{
    unsigned number = *(const unsigned *)data, i;
    uint64_t at = 100000 * (number + 1);
    unsigned char wrote[4000] = {0}, got[4000];
    int64_t size;

    for (i = 0; i < share(60); i++) {
        void *handle = host_connect(plugin, "tip", false, &size);

        if (!handle || (i > 0 && (plugin->pread(handle, got, sizeof(got), at, 0) != 0 || memcmp(got, wrote, sizeof(got)) != 0)))
            atomic_fetch_add(&n_wrong, 1);
        memset(wrote, (int)(number + i), sizeof(wrote));
        if (!handle || plugin->pwrite(handle, wrote, sizeof(wrote), at, 0) != 0)
            atomic_fetch_add(&n_wrong, 1);
        if (handle)
            plugin->close(handle);
    }
    return NULL;
}

static void connections_come_and_go(void **state)
{
    static const char *const args[] = {"export=tip=top.qcow2", "export=other=other.qcow2", "write=true", NULL};
    unsigned number[N_THREADS], i;
    pthread_t thread[N_THREADS];
    void *other;
    int64_t size;

    (void)state;
    make_chain();
    make_image("other.qcow2", NULL);
    begin(args);
    other = host_connect(plugin, "other", true, &size); /* that stays */
    assert_non_null(other);
    assert_int_equal(plugin->can_write(other), 0);
    for (i = 0; i < N_THREADS; i++) {
        number[i] = i;
        assert_int_equal(pthread_create(&thread[i], NULL, run_visitor, &number[i]), 0);
    }
    for (i = 0; i < N_THREADS; i++)
        pthread_join(thread[i], NULL);
    plugin->close(other);
    end();
    assert_int_equal(atomic_load(&n_wrong), 0);
}

static void names(void **state)
{
    static const char *const args[] = {"export=b=top.qcow2", "below.qcow2", "export=c d=below.qcow2", NULL};
    struct nbdkit_exports x = {0};
    int64_t size;
    void *handle;

    (void)state;
    make_chain();
    begin(args);
    assert_int_equal(plugin->list_exports(0, 0, &x), 0);
    assert_int_equal(x.n, 3);
    assert_string_equal(x.name[0], "");
    assert_string_equal(x.name[1], "b");
    assert_string_equal(x.name[2], "c d");
    assert_string_equal(plugin->default_export(0, 0), "");
    handle = host_connect(plugin, "b", true, &size);
    assert_non_null(handle);
    assert_string_equal(plugin->export_description(handle), "a chain of 2 layers");
    assert_int_equal(plugin->can_write(handle) | plugin->can_trim(handle) | plugin->can_fast_zero(handle), 0);
    plugin->close(handle);
    assert_int_equal(host.n_errors, 0);
    assert_null(host_connect(plugin, "nothing", true, &size));
    assert_string_equal(host.error, "there is no export 'nothing'");
    host_end(plugin);
}

/* -------------------------------------------------------------------- refusals --- */

/* What was made until then is given back, and it can begin again. */
static void refusals(void **state)
{
    static const char *const cases[][5] = {
        {"nothing.qcow2", "nothing.qcow2"},
        {"which image", "write=true"},
        {"NAME=IMAGE", "export=top.qcow2"},
        {"two exports", "export=a=top.qcow2", "export=a=below.qcow2"},
        {"twice", "top.qcow2", "below.qcow2"},
        {"unknown parameter", "top.qcow2", "nonsense=1"},
        {"boolean", "top.qcow2", "write=perhaps"},
        {"writeback", "top.qcow2", "cache=fast"},
        {"snapshot", "top.qcow2", "write=true", "snapshot=one"},
        {"must be locked", "top.qcow2", "write=true", "force-share=true"},
        {"needs write=true", "top.qcow2", "copy-on-read=true"},
        {"rule", "top.qcow2", "remote=no such rule"},
        {"unknown parameter", "cache-dir=a \"b\"\\\\", "nonsense=1"},
        {"there is none", "export=a=top.qcow2", "index=some.qci"},
        {"missing", "file:"},
    };
    size_t i;

    (void)state;
    make_chain();
    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        if (host_begin(plugin, cases[i] + 1) == 0)
            fail_msg("it begins with %s %s", cases[i][1], cases[i][2] ? cases[i][2] : "");
        if (!strstr(host.error, cases[i][0]))
            fail_msg("of %s %s: %s", cases[i][1], cases[i][2] ? cases[i][2] : "", host.error);
        host_end(plugin);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_side_by_side),
        cmocka_unit_test(connections_come_and_go),
        cmocka_unit_test(names),
        cmocka_unit_test(refusals),
    };

    return cmocka_run_group_tests(tests, in_home, away);
}
