/* SPDX-License-Identifier: MIT */
/*
 * Is an image valid whatever a crash leaves of it? Lists of operations run on small images over a disk in memory
 * that records every write and flush; then each state that the medium may be in, between any two flushes, is
 * looked at: no corruptions, flushed data is there, the rest is old or new, snapshots are whole, and
 * qemu-img agrees (a sample). unit/crash_states.h tells of the medium, crash_model.h of what the guest may find.
 *
 *   test_crash                   some of all, in about a minute
 *   test_crash --lists N         N random lists            --seed S  their first seed
 *   test_crash --small K         all lists of up to K operations on an image of few clusters
 *   test_crash --break           breaks each rule of order in turn, and must notice
 *   test_crash --states M        about so many states between two flushes
 *   test_crash --keep FILE       put the first state that is wrong there
 */
#include "crash_run.h"

#include <stdatomic.h>
#include <time.h>

extern atomic_int qc2_test_break; /* of the library: which rule of order is broken */
#define N_BREAKS 8

static char dir[] = "/tmp/qchain-crash-XXXXXX";
static uint64_t rng;

static uint32_t random_below(uint32_t n)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return (uint32_t)((rng >> 11) % n);
}

/* ------------------------------------------------------------------- images --- */

static void shell(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void shell(const char *fmt, ...)
{
    char line[600];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    if (system(line) != 0) {
        printf("failed: %s\n", line);
        exit(1);
    }
}

static struct rec_store *load(const char *name)
{
    struct rec_store *m = rec_create(DISK_MAX);
    char path[300];
    ssize_t n;
    int fd;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || (n = read(fd, m->bytes, DISK_MAX)) < 0)
        exit(1);
    m->size = (uint64_t)n;
    close(fd);
    return m;
}

/* An image of so many sectors, made by qemu-img with these options; over a raw one whose sectors all differ. */
static void make_setup(struct setup *s, const char *options, uint32_t sectors, uint32_t base_sectors,
                       uint32_t cluster)
{
    *s = (struct setup){.sectors = sectors, .base_sectors = base_sectors, .cluster = cluster};
    snprintf(s->name, sizeof(s->name), "%s, %u sectors over %u", options, sectors, base_sectors);
    s->v2 = strstr(options, "compat=0.10") != NULL;
    s->narrow = strstr(options, "refcount_bits=1,") || strstr(options, "refcount_bits=1 ");
    /* Version 2 has no mark for the time in which a snapshot is made: what a crash leaves then, a check mends. */
    s->narrow |= s->v2;
    if (base_sectors) {
        s->base = rec_create(DISK_MAX);
        s->base->size = (uint64_t)base_sectors * SECTOR;
        for (uint32_t i = 0; i < base_sectors; i++)
            sector_fill(s->base->bytes + (size_t)i * SECTOR, 1000000 + i);
        shell("cd %s && truncate -s %u base.raw && qemu-img create -q -f qcow2 -F raw -b base.raw -o %s top.qcow2 %u",
              dir, base_sectors * SECTOR, options, sectors * SECTOR);
    } else {
        shell("cd %s && qemu-img create -q -f qcow2 -o %s top.qcow2 %u", dir, options, sectors * SECTOR);
    }
    s->top = load("top.qcow2");
}

static void finish_setup(struct setup *s)
{
    rec_destroy(s->top);
    rec_destroy(s->base);
}

static void random_setup(struct setup *s)
{
    static const uint32_t cluster[] = {512, 512, 1024, 4096};
    uint32_t c = cluster[random_below(4)], sectors = 64 + random_below(449);
    char options[200];
    bool v2 = random_below(5) == 0, extended = !v2 && random_below(6) == 0;

    if (extended) {
        c = 16384;
        sectors = 256 + random_below(700);
    }
    snprintf(options, sizeof(options), "cluster_size=%u,compat=%s,refcount_bits=%u%s%s ", c, v2 ? "0.10" : "1.1",
             v2 ? 16 : 1u << random_below(7), extended ? ",extended_l2=on" : "",
             !v2 && random_below(3) == 0 ? ",lazy_refcounts=on" : "");
    make_setup(s, options, sectors, random_below(2) ? 32 + random_below(sectors - 32) : 0, c);
}

/* -------------------------------------------------------------------- lists --- */

static struct guest_op random_op(const struct setup *s)
{
    static const enum guest_kind often[] = {G_WRITE, G_WRITE, G_WRITE, G_WRITE, G_ZERO, G_ZERO_UNMAP, G_DISCARD,
                                            G_COMPRESSED, G_FLUSH, G_FLUSH, G_SNAPSHOT, G_APPLY, G_DELETE,
                                            G_GROW, G_SHRINK};
    struct guest_op g = {.kind = often[random_below(sizeof(often) / sizeof(often[0]))]};
    uint32_t per = s->cluster / SECTOR;

    g.sector = random_below(s->sectors);
    g.n = 1 + random_below(random_below(3) ? 2 * per + 2 : 8 * per + 8);
    if (random_below(3) == 0) /* whole clusters */
        g.sector = g.sector / per * per, g.n = (g.n + per - 1) / per * per;
    return g;
}

static void print_list(const struct run *r)
{
    for (uint32_t i = 0; i < r->n_ops; i++)
        printf("  %s %u+%u\n", guest_name[r->op[i].kind], r->op[i].sector, r->op[i].n);
}

/* Leave out of a list that goes wrong what it goes wrong without. */
static void shorten(struct run *r, struct guest_op *op)
{
    char wrong[sizeof(r->wrong)];

    for (uint32_t size = r->n_ops / 2; size > 0; size = size > 1 ? (size + 1) / 2 : 0) {
        for (uint32_t i = 0; i + size <= r->n_ops;) {
            struct guest_op gone[400];
            uint32_t n = r->n_ops;

            memcpy(gone, op, n * sizeof(*op));
            memmove(op + i, op + i + size, (n - i - size) * sizeof(*op));
            r->n_ops = n - size;
            memcpy(wrong, r->wrong, sizeof(wrong));
            if (run_list(r) != 0 || run_check_end(r) != 0)
                continue;
            memcpy(op, gone, n * sizeof(*op));
            memcpy(r->wrong, wrong, sizeof(wrong));
            r->n_ops = n;
            i += size;
        }
    }
}

static int tell(struct run *r, uint64_t seed)
{
    printf("seed %llu, image %s:\n%s\n", (unsigned long long)seed, r->setup->name, r->wrong);
    if (r->n_ops <= 100)
        print_list(r);
    return 1;
}

/* One random list on a random image; what is wrong is in r->wrong. */
static int random_list(struct run *r, uint64_t seed, uint32_t most_ops)
{
    static struct guest_op op[400];
    struct setup s;
    int ret;

    rng = seed * UINT64_C(0x9e3779b97f4a7c15) | 1;
    random_setup(&s);
    r->n_ops = 1 + random_below(most_ops);
    for (uint32_t i = 0; i < r->n_ops; i++)
        op[i] = random_op(&s);
    r->setup = &s;
    r->op = op;
    r->seed = seed;
    ret = run_list(r);
    if (ret == 0)
        ret = run_check_end(r);
    if (ret != 0 && atomic_load(&qc2_test_break) == 0) {
        shorten(r, op);
        tell(r, seed);
    }
    finish_setup(&s);
    return ret;
}

static int random_lists(struct run *r, uint64_t seed, unsigned count, uint32_t most_ops)
{
    for (unsigned i = 0; i < count; i++)
        if (random_list(r, seed + i, most_ops) != 0)
            return 1;
    return 0;
}

/* All lists of up to `most` operations on an image of 4 clusters. */
static int small_lists(struct run *r, uint32_t most, unsigned part)
{
    static const struct guest_op all[] = {
        {G_WRITE, 0, 2}, {G_WRITE, 1, 2}, {G_WRITE, 0, 8}, {G_WRITE, 5, 1}, {G_ZERO, 0, 2}, {G_ZERO, 1, 4},
        {G_ZERO_UNMAP, 0, 4}, {G_DISCARD, 0, 4}, {G_DISCARD, 4, 4}, {G_COMPRESSED, 2, 2}, {G_FLUSH, 0, 1},
        {G_SNAPSHOT, 0, 1}, {G_APPLY, 0, 1}, {G_DELETE, 0, 1}, {G_GROW, 0, 4}, {G_SHRINK, 0, 2}};
    const unsigned n = sizeof(all) / sizeof(all[0]);
    struct setup s[3];
    struct guest_op op[4];
    unsigned long total = 1, lists = 0;
    int ret = 0;

    make_setup(&s[0], "cluster_size=1024,refcount_bits=16 ", 8, 0, 1024);
    make_setup(&s[1], "cluster_size=1024,refcount_bits=16 ", 8, 10, 1024);
    make_setup(&s[2], "cluster_size=1024,compat=0.10 ", 8, 8, 1024);
    for (uint32_t i = 0; i < most; i++)
        total *= n;
    r->op = op;
    for (unsigned long k = 0; ret == 0 && k < total * 3; k++) {
        if (part > 1 && (k * UINT64_C(2654435761) >> 8) % part != 0)
            continue;
        r->setup = &s[k % 3];
        r->n_ops = most;
        for (unsigned long i = 0, v = k / 3; i < most; i++, v /= n)
            op[i] = all[v % n];
        r->seed = k;
        lists++;
        ret = run_list(r);
        if (ret == 0)
            ret = run_check_end(r);
        if (ret != 0)
            tell(r, k);
    }
    printf("%lu lists of %u operations on an image of 4 clusters\n", lists, most);
    for (int i = 0; i < 3; i++)
        finish_setup(&s[i]);
    return ret;
}

/* Each rule broken must be noticed. Some are only broken by lists in which a table grows: begin with one that is
 * known to. */
static int broken_rules(struct run *r, uint64_t seed, unsigned tries)
{
    static const uint64_t known[N_BREAKS + 1] = {0, 0, 0, 134, 2, 2, 26, 0, 2};
    int missed = 0;

    for (int rule = 1; rule <= N_BREAKS; rule++) {
        uint64_t states = r->n_states;
        unsigned i;

        atomic_store(&qc2_test_break, rule);
        for (i = 0; i < tries && random_list(r, seed + known[rule] + i, 60) == 0;)
            i++;
        atomic_store(&qc2_test_break, 0);
        if (i == tries) {
            printf("rule %d broken: NOT noticed in %u lists\n", rule, tries);
            missed++;
        } else {
            printf("rule %d broken: noticed in list %u, after %llu states: %.150s\n", rule, i + 1,
                   (unsigned long long)(r->n_states - states), r->wrong);
        }
    }
    return missed;
}

/* --------------------------------------------------------------------- main --- */

static uint64_t number(int argc, char **argv, const char *option, uint64_t otherwise)
{
    for (int i = 1; i + 1 < argc; i++)
        if (strcmp(argv[i], option) == 0)
            return strtoull(argv[i + 1], NULL, 0);
    return otherwise;
}

static bool has(int argc, char **argv, const char *option)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], option) == 0)
            return true;
    return false;
}

int main(int argc, char **argv)
{
    bool some = !has(argc, argv, "--lists") && !has(argc, argv, "--small") && !has(argc, argv, "--break");
    uint64_t seed = number(argc, argv, "--seed", 1), lists = number(argc, argv, "--lists", some ? 20 : 0);
    uint64_t small = number(argc, argv, "--small", some ? 3 : 0);
    qchain_env_opts eo;
    struct run r = {.most = (unsigned)number(argc, argv, "--states", 64), .every_qemu = 400};
    char file[300];
    int ret = 0;

    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 1; i + 1 < argc; i++)
        if (strcmp(argv[i], "--keep") == 0)
            r.keep = argv[i + 1];
    if (system("qemu-img --version >/dev/null 2>&1") != 0) {
        printf("SKIP: qemu-img is not installed\n");
        return 77;
    }
    if (!mkdtemp(dir))
        return 1;
    snprintf(file, sizeof(file), "%s/state.qcow2", dir);
    r.qemu_file = file;
    r.disk = rec_create(DISK_MAX);
    qchain_env_opts_init(&eo, sizeof(eo));
    if (qchain_env_create(&r.env, &eo, NULL) != 0)
        return 1;
    for (uint32_t k = 1; ret == 0 && k <= small; k++)
        ret = small_lists(&r, k, some && k == 3 ? 48 : 1);
    if (ret == 0 && lists)
        ret = random_lists(&r, seed, (unsigned)lists, some ? 60 : 300);
    printf("seed %llu: %llu states after crashes, %llu with leaks, %llu mended first, %llu checked by qemu-img, too\n",
           (unsigned long long)seed, (unsigned long long)r.n_states, (unsigned long long)r.n_leaky,
           (unsigned long long)r.n_mended, (unsigned long long)r.n_qemu);
    if (ret == 0 && (some || has(argc, argv, "--break")))
        ret = broken_rules(&r, seed, 400);
    qchain_env_destroy(r.env);
    rec_destroy(r.disk);
    model_finish(&r.model);
    shell("rm -rf %s", dir);
    return ret;
}
