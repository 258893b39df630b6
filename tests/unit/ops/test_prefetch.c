/* SPDX-License-Identifier: MIT */
/* Prefetching chains from a server in this process: what shows, once, and under the rules. */
#include "chain/object_server.h"

#include "chain/first_tables.h"
#include "ops/prefetch_chain.h"
#include "remote/remote_int.h"
#include "util/clock.h"

static char dir[] = "/tmp/qc-prefetch-XXXXXX";
static qchain_error *err;
static struct object_server *server;
static qchain_prefetch_opts opts;
static qchain_prefetch_result result;

static int setup(void **unused)
{
    uint64_t seed = mem_seed(77);

    (void)unused;
    server = object_server_start();
    m = mem_chain_create(LAYERS);
    for (uint32_t k = 0; k < LAYERS; k++) {
        mem_layer_init(m, k, DISK, BITS);
        mem_layer_randomize(m, k, k + 1 < LAYERS ? 40 : 80, &seed);
    }
    for (uint32_t k = 0; k < LAYERS; k++) {
        char name[32];

        snprintf(name, sizeof(name), "/layer%u", k);
        object_put(server, name, m->layer[k].file, m->layer[k].file_size);
    }
    look_at_all();
    allow_gaps();
    assert_true(n_wanted > 800 && n_hidden() > 400);
    return 0;
}

static int teardown(void **unused)
{
    char command[160];

    (void)unused;
    object_server_stop(server);
    mem_chain_destroy(m);
    snprintf(command, sizeof(command), "rm -rf '%s'/*", dir);
    return system(command);
}

static void start_counting(void)
{
    pthread_mutex_lock(&server->lock);
    server->n_ranges = server->requests = 0;
    pthread_mutex_unlock(&server->lock);
    qchain_prefetch_opts_init(&opts, sizeof(opts));
    memset(&result, 0, sizeof(result));
    result.struct_size = sizeof(result);
}

static void nap(unsigned ms)
{
    usleep(ms * 1000);
}

/* Until another thread has done something. */
#define AWAIT(what)                                                                                \
    do {                                                                                           \
        for (int i_ = 0; i_ < 30000 && !(what); i_++)                                              \
            nap(1);                                                                                \
        assert_true(what);                                                                         \
    } while (0)

static unsigned requests(void)
{
    unsigned n;

    pthread_mutex_lock(&server->lock);
    n = server->requests;
    pthread_mutex_unlock(&server->lock);
    return n;
}

static unsigned gets_of(const char *name)
{
    unsigned n;

    pthread_mutex_lock(&server->lock);
    n = object_find(server, name)->gets;
    pthread_mutex_unlock(&server->lock);
    return n;
}

static bool gave_out(uint64_t first)
{
    bool gave = false;

    pthread_mutex_lock(&server->lock);
    for (unsigned i = 0; i < server->n_ranges; i++)
        gave |= server->range[i].first == first;
    pthread_mutex_unlock(&server->lock);
    return gave;
}

static struct object_range seen(unsigned i)
{
    struct object_range r;

    pthread_mutex_lock(&server->lock);
    r = server->range[i];
    pthread_mutex_unlock(&server->lock);
    return r;
}

static struct object *lock_object(const char *name)
{
    pthread_mutex_lock(&server->lock);
    return object_find(server, name);
}

static void unlock_objects(void)
{
    pthread_cond_broadcast(&server->changed);
    pthread_mutex_unlock(&server->lock);
}

/* How often wanted grains were given out, at most; hidden ones never are. *n: how many were. */
static unsigned given_out(uint64_t *n)
{
    static unsigned char times[LAYERS][GRAINS];
    unsigned most = 0, vain = 0;

    memset(times, 0, sizeof(times));
    *n = 0;
    pthread_mutex_lock(&server->lock);
    vain += server->n_ranges == OBJECT_RANGES;
    for (unsigned i = 0; i < server->n_ranges; i++) {
        const struct object_range *r = &server->range[i];

        if (r->object >= LAYERS)
            continue;
        for (uint64_t g = r->first / QC_GRAIN; g <= r->last / QC_GRAIN; g++) {
            vain += hidden[r->object][g];
            if (!wanted[r->object][g])
                continue;
            *n += times[r->object][g]++ == 0;
            most = times[r->object][g] > most ? times[r->object][g] : most;
        }
    }
    pthread_mutex_unlock(&server->lock);
    assert_int_equal(vain, 0);
    return most;
}

static qchain_env *new_env(const char *more, bool cache)
{
    qchain_remote *r = qchain_remote_create();
    qchain_env *env = NULL;
    char rules[300];
    qchain_env_opts o;

    snprintf(rules, sizeof(rules), "hedge off\ndeadline 60\n%s%s%s\n%s", cache ? "cache-dir " : "", cache ? dir : "",
             cache ? "/cache" : "", more);
    if (qchain_remote_parse(r, rules, err) != 0)
        fail_msg("%s", qchain_error_message(err));
    qchain_env_opts_init(&o, sizeof(o));
    o.remote = r;
    assert_int_equal(qchain_env_create(&env, &o, err), 0);
    qchain_remote_destroy(r);
    return env;
}

/* What is stored late is given up by an environment that ends; nothing is late here. */
static void end_env(qchain_env *env)
{
    assert_true(qc_flights_wait(&env->remote->flights, 60));
    qchain_env_destroy(env);
}

static qchain *open_top(qchain_env *env)
{
    qchain_open_opts o;
    qchain *c = NULL;
    char url[64];

    snprintf(url, sizeof(url), "http://127.0.0.1:%u/layer0", server->port);
    qchain_open_opts_init(&o, sizeof(o));
    o.flags = QCHAIN_OPEN_NO_INDEX;
    if (qchain_open(&c, env, url, &o, err) != 0)
        fail_msg("%s", qchain_error_message(err));
    wait_for_first_tables(c);
    return c;
}

static int prefetch(qchain *c)
{
    return qchain_prefetch(&c, 1, &opts, &result, err);
}

static void prefetch_well(qchain *c)
{
    if (prefetch(c) != 0)
        fail_msg("%s", qchain_error_message(err));
}

static void all_is_right(qchain *c)
{
    uint8_t *got = malloc(MIB), *want = malloc(MIB);

    for (uint64_t at = 0; at < DISK; at += MIB) {
        if (qchain_read(c, got, MIB, at, 0, err) != 0)
            fail_msg("%s", qchain_error_message(err));
        mem_chain_read(m, want, MIB, at);
        assert_memory_equal(got, want, MIB);
    }
    free(got);
    free(want);
}

/* Somebody else reads from the cache, and asks the server for nothing. */
static void others_ask_for_nothing(void)
{
    qchain_env *env = new_env("revalidate 3600", true);
    unsigned before = requests();
    qchain *c = open_top(env);

    all_is_right(c);
    assert_int_equal(requests(), before);
    qchain_close(c);
    end_env(env);
}

/* -------------------------------------------------------------------- what shows --- */

static void what_shows_is_fetched_once(void **unused)
{
    qchain_env *env = new_env("", true);
    qchain *c = open_top(env);
    uint64_t n;

    (void)unused;
    start_counting();
    prefetch_well(c);
    assert_int_equal(given_out(&n), 1);
    assert_true(n == n_wanted);
    assert_int_equal(result.end, QCHAIN_PREFETCH_ALL);
    assert_true(result.fetched + LAYERS * QC_GRAIN > n_wanted * QC_GRAIN && result.fetched <= n_wanted * QC_GRAIN * 11 / 10);
    assert_true(result.cached == 0 && result.local == 0 && result.unkept == 0);
    assert_true(result.visible > DISK / 4 && result.visible < DISK);
    assert_true(result.requests > 10 && result.requests < n_wanted);
    qchain_close(c);
    end_env(env);
    others_ask_for_nothing();
}

/* Of the same environment, and of another one. */
static void again_there_is_nothing_to_do(void **unused)
{
    uint64_t fetched;

    (void)unused;
    for (int round = 0; round < 2; round++) {
        qchain_env *env = new_env("", true);
        qchain *c = open_top(env);

        start_counting();
        prefetch_well(c);
        fetched = result.fetched + result.cached;
        assert_true(round == 0 ? result.cached == 0 : result.fetched == 0);
        start_counting();
        prefetch_well(c);
        assert_int_equal(requests(), 0);
        assert_true(result.cached == fetched && result.fetched == 0 && result.requests == 0);
        qchain_close(c);
        end_env(env);
    }
}

static void max_bytes_hold_and_it_goes_on(void **unused)
{
    qchain_env *env = new_env("", true);
    qchain *c = open_top(env);
    uint64_t before = 0, n;
    int runs = 0;

    (void)unused;
    start_counting();
    do {
        opts.max_bytes = 3 * MIB / 4 + 1000; /* no whole grains */
        prefetch_well(c);
        assert_true(result.fetched <= opts.max_bytes);
        assert_true(result.cached >= before);
        before += result.fetched;
        runs++;
    } while (result.end == QCHAIN_PREFETCH_BYTES);
    assert_int_equal(result.end, QCHAIN_PREFETCH_ALL);
    assert_true(runs > 4);
    assert_int_equal(given_out(&n), 1);
    assert_true(n == n_wanted);
    qchain_close(c);
    end_env(env);
    others_ask_for_nothing();
}

/* A part of a cluster brings all of it; what lies outside of the ranges is not fetched, and they come in
 * their order. */
static void ranges_in_their_order(void **unused)
{
    qchain_prefetch_range range[3] = {{.offset = 9 * MIB + 5, .length = MIB}, {.offset = 1 * MIB, .length = MIB},
                                      {.offset = 12 * MIB, .length = UINT64_MAX}};
    static unsigned char part_of[LAYERS][GRAINS]; /* 1 + the range */
    qchain_env *env = new_env("", true);
    qchain *c = open_top(env);
    unsigned part = 0;

    (void)unused;
    memset(part_of, 0, sizeof(part_of));
    for (int i = 2; i >= 0; i--)
        for (uint64_t at = range[i].offset / CLUSTER;
             at < CLUSTERS && at * CLUSTER < range[i].offset + qc_min64(range[i].length, DISK); at++) {
            uint32_t k = mem_chain_look(m, at * CLUSTER, &(enum mem_state){0});
            uint64_t start, end;

            for (uint64_t g = 0; k < LAYERS && place_of(k, at, &start, &end) && start / QC_GRAIN + g <= (end - 1) / QC_GRAIN; g++)
                part_of[k][start / QC_GRAIN + g] = (unsigned char)(1 + i);
        }
    start_counting();
    opts.ranges = range;
    opts.n_ranges = 3;
    opts.parallel = 1;
    opts.flags = QCHAIN_PREFETCH_METADATA; /* tables first: they would be in the way of counting */
    prefetch_well(c);
    start_counting();
    opts.ranges = range;
    opts.n_ranges = 3;
    opts.parallel = 1;
    prefetch_well(c);
    assert_true(result.requests == requests() && result.requests >= 3);
    for (unsigned i = 0; i < requests(); i++) {
        struct object_range r = seen(i);
        unsigned first = 4;

        for (uint64_t g = r.first / QC_GRAIN; g <= r.last / QC_GRAIN; g++)
            if (part_of[r.object][g] && part_of[r.object][g] < first)
                first = part_of[r.object][g];
        /* The first batch is the first range; the next ones may share one. */
        assert_true(first < 4 && (i == 0 ? first == 1 : part == 1 || first > 1));
        part = first;
    }
    assert_true(part > 1);
    qchain_close(c);
    end_env(env);
}

static void metadata_alone(void **unused)
{
    qchain_env *env = new_env("", true);
    qchain *c = open_top(env);
    uint64_t n;

    (void)unused;
    start_counting();
    opts.flags = QCHAIN_PREFETCH_METADATA;
    prefetch_well(c);
    given_out(&n);
    assert_true(n == 0);
    assert_true(result.fetched == 0 && result.requests == 0 && result.visible > 0);
    qchain_close(c);
    end_env(env);
    env = new_env("revalidate 3600", true);
    c = open_top(env);
    start_counting();
    opts.flags = QCHAIN_PREFETCH_METADATA;
    prefetch_well(c);
    assert_int_equal(requests(), 0);
    qchain_close(c);
    end_env(env);
}

/* Two disks on the same layers, one after the other by turns. */
static void several_disks(void **unused)
{
    qchain_env *env = new_env("", true);
    qchain *c[2] = {open_top(env), open_top(env)};
    uint64_t n;

    (void)unused;
    start_counting();
    opts.parallel = 1;
    if (qchain_prefetch(c, 2, &opts, &result, err) != 0)
        fail_msg("%s", qchain_error_message(err));
    assert_int_equal(given_out(&n), 1);
    assert_true(n == n_wanted);
    assert_true(result.fetched + LAYERS * QC_GRAIN > n_wanted * QC_GRAIN);
    assert_true(result.cached + 4 * QC_PREFETCH_GAP >= result.fetched); /* batches end in other places */
    qchain_close(c[0]);
    qchain_close(c[1]);
    end_env(env);
}

/* ------------------------------------------------------------------------- rules --- */

static void rates_hold(void **unused)
{
    qchain_env *env = new_env("", true);
    qchain *c = open_top(env);
    qchain_job *job = qchain_job_create();
    uint64_t began;
    double took;

    (void)unused;
    start_counting();
    opts.flags = QCHAIN_PREFETCH_METADATA; /* so that the time is for requests */
    prefetch_well(c);
    start_counting();
    began = qc_now_ns();
    opts.requests_per_second = 4;
    opts.deadline_ms = 1000;
    prefetch_well(c);
    assert_int_equal(result.end, QCHAIN_PREFETCH_DEADLINE);
    took = (double)(qc_now_ns() - began) / 1e9; /* more, where others have the processors */
    assert_true(took >= 1);
    assert_true(result.requests >= 1 && (double)result.requests <= 2 + 4 * took);
    for (int by_job = 0; by_job < 2; by_job++) {
        start_counting();
        opts.max_bytes = MIB;
        if (by_job)
            opts.job = job;
        else
            opts.bytes_per_second = 2 * MIB;
        qchain_job_rate(job, 2 * MIB);
        began = qc_now_ns();
        prefetch_well(c);
        assert_true(result.fetched > MIB / 2);
        /* The first may be 0.1 s early, and the last is not waited for. */
        assert_true((double)(qc_now_ns() - began) / 1e9 > (double)result.fetched / (2.0 * MIB) - 0.25);
    }
    qchain_job_destroy(job);
    qchain_close(c);
    end_env(env);
}

struct running {
    pthread_t thread;
    qchain   *c;
    int       ret;
    atomic_bool ended;
};

static void *run(void *arg)
{
    struct running *r = arg;

    r->ret = prefetch(r->c);
    atomic_store(&r->ended, true);
    return NULL;
}

static void start_run(struct running *r, qchain *c)
{
    *r = (struct running){.c = c};
    assert_int_equal(pthread_create(&r->thread, NULL, run, r), 0);
}

static void cancelled_at_once(void **unused)
{
    qchain_env *env = new_env("", true);
    qchain *c = open_top(env);
    qchain_job *job = qchain_job_create();
    struct running r;
    uint64_t began;
    unsigned before;

    (void)unused;
    start_counting();
    opts.flags = QCHAIN_PREFETCH_METADATA; /* so that it is data that is waited for */
    prefetch_well(c);
    before = gets_of("/layer3");
    start_counting();
    opts.job = job;
    lock_object("/layer3")->stalls = true;
    unlock_objects();
    start_run(&r, c);
    AWAIT(gets_of("/layer3") > before);
    nap(100);
    assert_false(atomic_load(&r.ended)); /* it waits for what does not come */
    began = qc_now_ns();
    qchain_job_cancel(job);
    pthread_join(r.thread, NULL);
    assert_true(qc_now_ns() - began < UINT64_C(30000000000)); /* requests have 60 s */
    assert_int_equal(r.ret, QCHAIN_E_CANCELLED);
    /* What is on its way does not need the call, nor the chain. */
    qchain_close(c);
    lock_object("/layer3")->stalls = false;
    unlock_objects();
    end_env(env);
    qchain_job_destroy(job);
    env = new_env("", true);
    c = open_top(env);
    start_counting();
    prefetch_well(c);
    assert_true(result.cached > 0 && result.end == QCHAIN_PREFETCH_ALL);
    qchain_close(c);
    end_env(env);
    others_ask_for_nothing();
}

/* Does it show bytes of that layer? */
static bool shows_at(uint32_t k, uint64_t offset)
{
    uint64_t start, end;

    assert_true(offset < DISK);
    return mem_chain_look(m, offset, &(enum mem_state){0}) == k && place_of(k, offset / CLUSTER, &start, &end);
}

/* What is on its way, and cannot be seen in the cache yet, is not asked for again as a part of something larger. */
static void what_is_on_its_way_is_not_asked_for_again(void **unused)
{
    qchain_prefetch_range range[2] = {{.length = CLUSTER}, {.offset = 0, .length = UINT64_MAX}};
    qchain_env *env = new_env("", true);
    qchain *c = open_top(env);
    struct running r;
    unsigned before;
    uint64_t n;

    (void)unused;
    start_counting();
    opts.flags = QCHAIN_PREFETCH_METADATA;
    prefetch_well(c);
    before = gets_of("/layer3");
    while (!shows_at(LAYERS - 1, range[0].offset) || !shows_at(LAYERS - 1, range[0].offset + CLUSTER))
        range[0].offset += CLUSTER;
    start_counting();
    opts.ranges = range;
    opts.n_ranges = 2;
    opts.parallel = 200;
    lock_object("/layer3")->stalls = true;
    unlock_objects();
    start_run(&r, c);
    AWAIT(gets_of("/layer3") > before);
    nap(200); /* for the second range to be planned */
    lock_object("/layer3")->stalls = false;
    unlock_objects();
    pthread_join(r.thread, NULL);
    assert_int_equal(r.ret, 0);
    assert_int_equal(given_out(&n), 1);
    assert_true(n == n_wanted);
    qchain_close(c);
    end_env(env);
}

/* The beginning is on its way before anybody knows what the rest is. */
static void fetches_while_it_maps(void **unused)
{
    const uint64_t far_cluster = 3500 * MIB / CLUSTER;
    struct mem_chain *large = mem_chain_create(1);
    qchain_env *env = new_env("", true);
    struct running r;
    uint64_t start, end;
    struct object *o;
    qchain *c;

    (void)unused;
    mem_layer_init(large, 0, 4096 * MIB, BITS);
    mem_layer_set(large, 0, 1, MEM_DATA);
    mem_layer_set(large, 0, far_cluster, MEM_DATA);
    assert_true(place_in(large->layer[0].file, 1, &start, &end) && table_of(large->layer[0].file, far_cluster) >= end);
    object_put(server, "/layer0", large->layer[0].file, large->layer[0].file_size);
    c = open_top(env);
    start_counting();
    o = lock_object("/layer0");
    o->stalls_at = table_of(large->layer[0].file, far_cluster);
    o->stalls = true;
    unlock_objects();
    start_run(&r, c);
    AWAIT(gave_out(start));
    lock_object("/layer0")->stalls = false;
    unlock_objects();
    pthread_join(r.thread, NULL);
    assert_int_equal(r.ret, 0);
    assert_true(result.fetched == 2 * CLUSTER && result.requests == 2);
    qchain_close(c);
    end_env(env);
    mem_chain_destroy(large);
}

static void paused_and_told_of(void **unused)
{
    qchain_env *env = new_env("", true);
    qchain *c = open_top(env);
    qchain_job *job = qchain_job_create();
    uint64_t done, total = 0, n;
    struct running r;

    (void)unused;
    start_counting();
    opts.job = job;
    qchain_job_pause(job, 1);
    start_run(&r, c);
    AWAIT((qchain_job_progress(job, &done, &total), total == DISK));
    nap(100);
    assert_false(atomic_load(&r.ended));
    given_out(&n);
    assert_true(n == 0);
    qchain_job_progress(job, &done, &total);
    assert_true(total == DISK && done < DISK / 2);
    qchain_job_pause(job, 0);
    pthread_join(r.thread, NULL);
    assert_int_equal(r.ret, 0);
    qchain_job_progress(job, &done, &total);
    assert_true(done == DISK && total == DISK);
    qchain_job_destroy(job);
    qchain_close(c);
    end_env(env);
}

/* -------------------------------------------------------------------------- idle --- */

#define MS UINT64_C(1000000)

static void how_many_beside_readers(void **unused)
{
    (void)unused;
    assert_int_equal(qc_prefetch_beside(UINT64_MAX, 0, 32), 32);
    assert_int_equal(qc_prefetch_beside(400 * MS, 0, 32), 32);
    assert_int_equal(qc_prefetch_beside(100 * MS, 0, 32), 1);
    assert_int_equal(qc_prefetch_beside(0, 10 * MS, 32), 0);
    assert_int_equal(qc_prefetch_beside(0, 1000 * MS, 32), 1);
}

struct waiting_reader {
    pthread_t thread;
    qchain   *c;
    uint64_t  at;
    int       ret;
};

static void *read_one(void *arg)
{
    struct waiting_reader *w = arg;
    char buf[4096];

    w->ret = qchain_read(w->c, buf, sizeof(buf), w->at, 0, NULL);
    return NULL;
}

/* The last cluster that layer 0 shows as data. */
static uint64_t last_of_top(void)
{
    enum mem_state state = MEM_ABSENT;
    uint64_t i = CLUSTERS;

    while (i-- > 0 && (mem_chain_look(m, i * CLUSTER, &state) != 0 || state != MEM_DATA))
        continue;
    assert_true(i > CLUSTERS / 2);
    return i;
}

/* While a reader waits for the server, a request is begun each half second; when he has been served, all
 * are. Nothing but its beginning is prefetched of what he reads. */
static void idle_steps_back(void **unused)
{
    qchain_env *env = new_env("block-size 64K", true);
    qchain *c = open_top(env);
    struct waiting_reader w = {.c = c, .at = last_of_top() * CLUSTER};
    qchain_prefetch_range range = {.offset = 0, .length = w.at};
    uint64_t start, last, began, took;
    unsigned before, n;
    struct running r;
    struct object *o;

    (void)unused;
    start_counting();
    opts.flags = QCHAIN_PREFETCH_METADATA;
    prefetch_well(c);
    assert_true(place_of(0, w.at / CLUSTER, &start, &last));
    before = gets_of("/layer0");
    o = lock_object("/layer0");
    o->stalls_at = start;
    o->stalls = true;
    unlock_objects();
    assert_int_equal(pthread_create(&w.thread, NULL, read_one, &w), 0);
    AWAIT(gets_of("/layer0") > before);
    start_counting();
    opts.flags = QCHAIN_PREFETCH_IDLE;
    opts.ranges = &range;
    opts.n_ranges = 1;
    began = qc_now_ns();
    start_run(&r, c);
    AWAIT(requests() >= 2);
    n = requests();
    took = qc_now_ns() - began;
    assert_true(n <= 1 + took / (500 * MS)); /* at once, and after 500 ms */
    assert_false(atomic_load(&r.ended));
    lock_object("/layer0")->stalls = false;
    unlock_objects();
    pthread_join(w.thread, NULL);
    assert_int_equal(w.ret, 0);
    n = requests();
    began = qc_now_ns();
    pthread_join(r.thread, NULL);
    assert_int_equal(r.ret, 0);
    assert_true(result.requests > 10);
    assert_true(qc_now_ns() - began < (result.requests - n) * 500 * MS); /* by ones it would take longer */
    qchain_close(c);
    end_env(env);
}

/* Readers felt a queue, and by the clock they go on to do so: requests are small, and still all is fetched. */
static void idle_takes_less_where_readers_wait_longer(void **unused)
{
    qchain_env *env = new_env("", true);
    qchain *c = open_top(env);
    uint64_t n;

    (void)unused;
    for (int i = 0; i < 10; i++)
        qc_delay_note(&env->remote->flights.delay, qc_now_ns() + 60000 * MS, i == 0 ? MS : 1000 * MS);
    start_counting();
    opts.flags = QCHAIN_PREFETCH_IDLE;
    prefetch_well(c);
    assert_true(given_out(&n) == 1 && n == n_wanted && result.requests > 100);
    for (unsigned i = 0; i < server->n_ranges; i++)
        assert_true(seen(i).last - seen(i).first < QC_DELAY_LEAST);
    qchain_close(c);
    end_env(env);
}

/* ------------------------------------------------------------------------ faults --- */

static void says_what_is_wrong(void **unused)
{
    qchain_prefetch_range bad = {.offset = DISK + 1, .length = 1}, none = {.chain = 1, .length = 1};
    qchain_env *env = new_env("", false);
    qchain *c = open_top(env), *near = NULL;

    (void)unused;
    start_counting();
    assert_int_equal(prefetch(c), QCHAIN_E_UNSUPPORTED);
    assert_non_null(strstr(qchain_error_message(err), "--cache-dir"));
    opts.ranges = &bad;
    opts.n_ranges = 1;
    assert_int_equal(prefetch(c), QCHAIN_E_RANGE);
    opts.ranges = &none;
    assert_int_equal(prefetch(c), QCHAIN_E_INVAL);
    opts.ranges = NULL;
    assert_int_equal(prefetch(c), QCHAIN_E_INVAL);
    opts.n_ranges = 0;
    opts.flags = 0x80;
    assert_int_equal(prefetch(c), QCHAIN_E_INVAL);
    opts.flags = 0;
    opts.parallel = 257;
    assert_int_equal(prefetch(c), QCHAIN_E_INVAL);
    assert_int_equal(qchain_prefetch(NULL, 1, NULL, NULL, NULL), QCHAIN_E_INVAL);
    assert_int_equal(qchain_prefetch(&near, 1, NULL, NULL, NULL), QCHAIN_E_INVAL);
    assert_int_equal(qchain_prefetch(&c, 0, NULL, NULL, NULL), QCHAIN_E_INVAL);
    /* What lies near needs no cache. */
    start_counting();
    assert_int_equal(mem_chain_open(m, &near, env, NULL, err), 0);
    prefetch_well(near);
    assert_true(result.local > DISK / 4 && result.visible == 0 && result.requests == 0);
    qchain_close(near);
    qchain_close(c);
    end_env(env);
}

static void a_lost_layer_is_named(void **unused)
{
    qchain_env *env = new_env("", true);
    qchain *c = open_top(env);

    (void)unused;
    start_counting();
    opts.flags = QCHAIN_PREFETCH_METADATA;
    prefetch_well(c);
    start_counting();
    lock_object("/layer2")->gone = true;
    unlock_objects();
    assert_int_equal(prefetch(c), QCHAIN_E_NOTFOUND);
    assert_non_null(strstr(qchain_error_message(err), "layer #2"));
    assert_true(qc_flights_wait(&env->remote->flights, 60)); /* what was on its way has failed, too */
    lock_object("/layer2")->gone = false;
    unlock_objects();
    start_counting();
    prefetch_well(c);
    lock_object("/layer1")->generation++; /* replaced by the same bytes */
    unlock_objects();
    qchain_close(c);
    end_env(env);
    env = new_env("", true);
    c = open_top(env);
    start_counting();
    prefetch_well(c);
    assert_true(result.fetched > 0 && result.cached > result.fetched); /* of that layer alone */
    qchain_close(c);
    end_env(env);
}

static void without_validators_nothing_is_kept(void **unused)
{
    qchain_env *env = new_env("", true);
    qchain *c;

    (void)unused;
    lock_object("/layer3")->generation = 0;
    unlock_objects();
    c = open_top(env);
    start_counting();
    prefetch_well(c);
    assert_true(result.unkept > 0 && result.visible > 0 && result.fetched > 0);
    qchain_close(c);
    end_env(env);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_shows_is_fetched_once, setup, teardown),
        cmocka_unit_test_setup_teardown(again_there_is_nothing_to_do, setup, teardown),
        cmocka_unit_test_setup_teardown(max_bytes_hold_and_it_goes_on, setup, teardown),
        cmocka_unit_test_setup_teardown(ranges_in_their_order, setup, teardown),
        cmocka_unit_test_setup_teardown(metadata_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(several_disks, setup, teardown),
        cmocka_unit_test_setup_teardown(rates_hold, setup, teardown),
        cmocka_unit_test_setup_teardown(cancelled_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_on_its_way_is_not_asked_for_again, setup, teardown),
        cmocka_unit_test_setup_teardown(fetches_while_it_maps, setup, teardown),
        cmocka_unit_test_setup_teardown(paused_and_told_of, setup, teardown),
        cmocka_unit_test(how_many_beside_readers),
        cmocka_unit_test_setup_teardown(idle_steps_back, setup, teardown),
        cmocka_unit_test_setup_teardown(idle_takes_less_where_readers_wait_longer, setup, teardown),
        cmocka_unit_test_setup_teardown(says_what_is_wrong, setup, teardown),
        cmocka_unit_test_setup_teardown(a_lost_layer_is_named, setup, teardown),
        cmocka_unit_test_setup_teardown(without_validators_nothing_is_kept, setup, teardown),
    };
    int ret;

    err = qchain_error_create();
    assert_non_null(mkdtemp(dir));
    ret = cmocka_run_group_tests_name("prefetch", tests, NULL, NULL);
    rmdir(dir);
    qchain_error_destroy(err);
    return ret;
}
