/* SPDX-License-Identifier: MIT */
/*
 * Does a chain read the same, whatever a crash leaves of it while its layers are rebased, committed, pulled into
 * the top, merged, or taken out from below two images? Operations
 * run on random chains of small images in memory, which record in one log what is written to any of them; then each
 * state that the files may be in, between any two flushes, is looked at: no corruptions in any file; the chain,
 * opened from the top as its header says by then, reads as before; the operation done again completes, also if it is
 * cut short once more; and qemu-img agrees (a sample).
 *
 *   test_surgery                 some of all, in a few seconds
 *   test_surgery --lists N       N random chains of each kind of operation      --seed S  the first seed
 *   test_surgery --only KIND     of one kind
 *   test_surgery --states M      about so many states between two flushes
 *   test_surgery --break         leaves out the flushes before something relies on them, and must notice
 *   test_surgery --keep DIR      put the files of the first state that is wrong there
 */
#include "surgery_chain.h"

#include <stdatomic.h>
#include <sys/stat.h>

extern atomic_int qc_tip_test_break; /* of the library: flushes that are left out */

enum kind {
    REBASE, REBASE_COMPARE, REBASE_OTHER, REBASE_NONE, STREAM, MERGE, DELETE, COMMIT, COMMIT_BASE, COMMIT_KEEP, KINDS
};

static const char *const kind_name[KINDS] = {"rebase", "rebase-compare", "rebase-other", "rebase-none", "stream", "merge",
                                             "delete", "commit", "commit-base", "commit-keep"};

struct run {
    qchain_env  *env;
    struct chain chain;
    enum kind    kind;
    unsigned     to;        /* the file that is rebased onto, or committed into */
    bool         compress;
    uint64_t     limit;     /* of a merge */
    unsigned     most;      /* states an interval */
    unsigned     every_again, every_qemu; /* of so many states one is gone on with, shown to qemu-img; 0: none */
    const char  *dir, *keep;
    bool         touched[REC_FILES]; /* files that the operation wrote to */
    uint64_t     n_states, n_same, n_leaky, n_again, n_cut, n_qemu;
    uint64_t     unsettled; /* writes that the operation had not made durable when it returned */
    char         wrong[1200];
};

static int wrong(struct run *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int wrong(struct run *r, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    if (!r->wrong[0])
        vsnprintf(r->wrong, sizeof(r->wrong), fmt, ap);
    va_end(ap);
    return 1;
}

/* ------------------------------------------------------------- the operations --- */

/* Writes to file k below `end` that no flush has made durable. */
static uint64_t unsettled(const struct rec_log *log, unsigned k, uint64_t end)
{
    uint64_t n = 0, flushed = 0;

    for (size_t i = log->n; i-- > 0;) {
        const struct rec_op *o = &log->op[i];

        if (o->file != k)
            continue;
        if (o->kind == REC_FLUSH && o->ended && o->began > flushed)
            flushed = o->began;
        n += o->kind != REC_FLUSH && o->offset < end && !(o->ended && o->ended < flushed);
    }
    return n;
}

static int do_rebase(struct run *r, const struct names *names, qchain_error *err)
{
    const struct layer *to = &names->chain->layer[r->to];
    qchain_rebase_opts o;
    qchain_open_opts open;
    qchain *c;
    int ret = open_file(names, 0, r->env, QCHAIN_OPEN_WRITE, &c, err);

    if (ret != 0)
        return ret;
    qchain_open_opts_init(&open, sizeof(open));
    open.resolver = find_file;
    open.resolver_data = (void *)(uintptr_t)names;
    qchain_rebase_opts_init(&o, sizeof(o));
    o.open = &open;
    o.flags = r->kind == REBASE_COMPARE ? QCHAIN_REBASE_COMPARE : 0;
    o.flags |= r->compress ? QCHAIN_REBASE_COMPRESS : 0;
    o.threads = 1; /* writes come in one order, by which a seed can be repeated */
    if (r->kind != REBASE_NONE) {
        o.backing_file = to->name;
        o.backing_format = to->raw ? "raw" : "qcow2";
    }
    ret = qchain_rebase(c, &o, NULL, err);
    r->unsettled = unsettled(names->files->file[0]->log, 0, names->chain->layer[0].cluster);
    if (ret == 0)
        ret = qchain_finish(c, err);
    qchain_close(c);
    return ret;
}

/* Which layer of c is file k? The number of layers if it is none. */
static int find_in(qchain *c, const struct chain *ch, unsigned k, uint32_t *layer, qchain_error *err)
{
    uint32_t n = qchain_layers(c);
    qchain_image_info *info;
    int ret = 0;

    for (*layer = 0; ret == 0 && *layer < n; ++*layer) {
        bool same;

        ret = qchain_layer_info(&info, c, *layer, err);
        if (ret != 0)
            break;
        same = strcmp(info->name, ch->layer[k].name) == 0;
        qchain_image_info_free(info);
        if (same)
            break;
    }
    return ret;
}

/* Pull into file k what lies between it and the file that it goes to; or merge. */
static int do_stream(struct run *r, const struct names *names, unsigned k, qchain_error *err)
{
    uint32_t base = 0, parent = 0;
    qchain *c;
    int ret = open_file(names, k, r->env, QCHAIN_OPEN_WRITE, &c, err);

    if (ret != 0)
        return ret;
    ret = find_in(c, names->chain, r->to, &base, err);
    if (ret == 0)
        ret = find_in(c, names->chain, 1, &parent, err);
    if (ret == 0 && r->kind == MERGE)
        ret = qchain_merge(c, r->limit, 0, NULL, NULL, err);
    else if (ret == 0 && (r->kind == STREAM || parent == 1)) /* else that child was done before */
        ret = qchain_stream(c, r->kind == DELETE ? 2 : base, 0, NULL, NULL, err);
    r->unsettled += unsettled(names->files->file[0]->log, k, names->chain->layer[k].cluster);
    if (ret == 0)
        ret = qchain_finish(c, err);
    qchain_close(c);
    return ret;
}

static int do_commit(struct run *r, const struct names *names, qchain_error *err)
{
    struct rec_log *log = names->files->file[0]->log;
    qchain_commit_opts o;
    qchain_open_opts open;
    qchain_store store;
    int ret;

    open_opts(names, 0, 0, &store, &open);
    qchain_commit_opts_init(&o, sizeof(o));
    o.open = &open;
    o.threads = 1;
    o.flags = r->kind == COMMIT_KEEP ? QCHAIN_COMMIT_KEEP : 0;
    if (r->kind == COMMIT_BASE)
        o.base = names->chain->layer[r->to].name;
    ret = qchain_commit(r->env, names->chain->layer[0].name, &o, NULL, err);
    for (unsigned k = 0; k < log->n_files; k++)
        r->unsettled += unsettled(log, k, UINT64_MAX);
    return ret;
}

static int operate(struct run *r, const struct names *names, qchain_error *err)
{
    int ret;

    r->unsettled = 0;
    if (r->kind <= REBASE_NONE)
        return do_rebase(r, names, err);
    if (r->kind >= COMMIT)
        return do_commit(r, names, err);
    ret = do_stream(r, names, 0, err);
    return ret == 0 && r->kind == DELETE ? do_stream(r, names, r->chain.n, err) : ret;
}

/* Which file an operation of that kind goes to. */
static void choose(struct run *r)
{
    unsigned n = r->chain.n;

    r->compress = r->kind <= REBASE_NONE && random_below(4) == 0;
    switch (r->kind) {
    case REBASE_OTHER:
        r->to = n;
        break;
    case REBASE:
    case REBASE_COMPARE:
        r->to = 2 + random_below(n - 2);
        break;
    case COMMIT_BASE:
        r->to = 1 + random_below(n - 1);
        break;
    case STREAM: /* n: everything, no layer is called so */
        r->to = 2 + random_below(n - 1);
        break;
    case MERGE:
        r->limit = random_below(2) ? 0 : 1 + random_below((uint32_t)r->chain.size);
        break;
    default:
        r->to = 1;
    }
}

/* -------------------------------------------------------------------- looking --- */

static int look_at_files(struct run *r, const struct names *names, qchain_error *err)
{
    uint64_t leaks, sum = 0;

    for (unsigned k = 0; k < r->chain.f.n; k++) {
        int64_t n = r->touched[k] ? check_file(names, k, r->env, &leaks, err) : 0;

        if (n < 0)
            return wrong(r, "%s: check fails: %s", r->chain.layer[k].name, qchain_error_message(err));
        if (n > 0)
            return wrong(r, "%s: check finds %lld corruptions", r->chain.layer[k].name, (long long)n);
        sum += r->touched[k] ? leaks : 0;
    }
    r->n_leaky += sum != 0;
    return 0;
}

static int look_at_disk(struct run *r, const struct names *names, unsigned k, qchain_error *err)
{
    const unsigned char *disk = k ? r->chain.twin : r->chain.disk;
    uint64_t size = 0, was = k ? r->chain.twin_size : r->chain.size;
    unsigned char *now = read_file(names, k, r->env, &size, err);
    int ret = 0;

    if (!now)
        return wrong(r, "%s cannot be read: %s", r->chain.layer[k].name, qchain_error_message(err));
    if (size != was)
        ret = wrong(r, "%s has %llu bytes instead of %llu", r->chain.layer[k].name, (unsigned long long)size,
                    (unsigned long long)was);
    for (uint64_t at = 0; ret == 0 && at < size; at += SECTOR)
        if (memcmp(now + at, disk + at, SECTOR) != 0)
            ret = wrong(r, "%s: sector %llu holds %#llx instead of %#llx", r->chain.layer[k].name,
                        (unsigned long long)(at / SECTOR), (unsigned long long)sector_value(now + at),
                        (unsigned long long)sector_value(disk + at));
    free(now);
    return ret;
}

static int look(struct run *r, const struct names *names, qchain_error *err)
{
    int ret = look_at_files(r, names, err);

    if (ret == 0)
        ret = look_at_disk(r, names, 0, err);
    return ret == 0 && r->kind == DELETE ? look_at_disk(r, names, r->chain.n, err) : ret;
}

/* From what the crash left the operation is done again: every second time it is cut short first. */
static int go_on(struct run *r, const struct names *names, qchain_error *err)
{
    struct rec_store *top = names->files->file[0];

    rec_reset(top);
    if (++r->n_again % 2 == 0) {
        top->log->fail_from = 1 + r->n_again / 2 % 97;
        top->log->fail_to = UINT64_MAX;
        top->log->fail_code = r->n_again % 4 ? QCHAIN_E_IO : QCHAIN_E_NOSPACE;
        r->n_cut += operate(r, names, err) != 0;
        rec_reset(top);
        if (look(r, names, err) != 0)
            return 1;
    }
    if (operate(r, names, err) != 0)
        return wrong(r, "cannot be done again: %s", qchain_error_message(err));
    return look(r, names, err);
}

static void append(struct run *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void append(struct run *r, const char *fmt, ...)
{
    size_t n = strlen(r->wrong);
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(r->wrong + n, sizeof(r->wrong) - n, fmt, ap);
    va_end(ap);
}

static void keep(const struct run *r, const struct names *names)
{
    mkdir(r->keep, 0700);
    for (unsigned k = 0; k < r->chain.f.n; k++)
        save_file(r->keep, r->chain.layer[k].name, names->files->file[k]->bytes, names->files->file[k]->size);
    save_file(r->keep, "flat", r->chain.disk, r->chain.size);
}

static int look_at_state(void *data, struct rec_store *const *state, uint64_t at, const char *which)
{
    struct run *r = data;
    struct files f = {.n = r->chain.f.n};
    struct names names = {&r->chain, &f};
    qchain_error *err = qchain_error_create();
    const char *qemu = NULL;
    int ret;

    memcpy(f.file, state, f.n * sizeof(f.file[0]));
    r->n_states++;
    ret = look(r, &names, err);
    if (ret == 0 && r->every_qemu && r->n_states % r->every_qemu == 0) {
        r->n_qemu++;
        qemu = ask_qemu(&names, r->dir);
        ret = qemu ? wrong(r, "%s", qemu) : 0;
    }
    if (ret != 0 && r->keep)
        keep(r, &names);
    if (ret == 0 && r->every_again && r->n_states % r->every_again == 0) {
        ret = go_on(r, &names, err);
        if (ret != 0)
            append(r, " [after it was done again]");
    }
    if (ret != 0)
        append(r, " [%s, crash at %llu of %llu]", which, (unsigned long long)at,
               (unsigned long long)r->chain.f.file[0]->log->clock);
    qchain_error_destroy(err);
    return ret;
}

/* After an operation that ran to its end nothing leaks, and all is durable. */
static int look_at_end(struct run *r, const struct names *names, qchain_error *err)
{
    uint64_t leaky = r->n_leaky;
    const char *qemu;
    int ret = look(r, names, err);

    if (ret == 0 && r->n_leaky != leaky)
        ret = wrong(r, "clusters leak");
    if (ret == 0 && r->unsettled)
        ret = wrong(r, "%llu writes were not durable when the call returned", (unsigned long long)r->unsettled);
    if (ret == 0 && r->every_qemu) {
        qemu = ask_qemu(names, r->dir);
        ret = qemu ? wrong(r, "%s", qemu) : 0;
    }
    r->n_leaky = leaky;
    return ret;
}

/* ---------------------------------------------------------------------- lists --- */

/* One chain, one operation, all states. */
static int one(struct run *r, enum kind kind, uint64_t seed)
{
    struct names names = {&r->chain, &r->chain.f};
    struct crash_walk w = {.most = r->most, .random = r->most / 4, .seed = seed | 1, .any_time = true,
                           .tell = look_at_state, .data = r};
    qchain_error *err = qchain_error_create();
    struct rec_log *log;
    int ret = 0;

    rng = (seed * KINDS + kind + 1) * UINT64_C(0x9e3779b97f4a7c15) | 1;
    r->kind = kind;
    r->wrong[0] = '\0';
    chain_make(&r->chain, r->dir, r->env, kind == DELETE);
    choose(r);
    log = w.log = r->chain.f.file[0]->log;
    rec_record(log);
    if (operate(r, &names, err) != 0)
        ret = wrong(r, "fails: %s", qchain_error_message(err));
    memset(r->touched, 0, sizeof(r->touched));
    for (size_t i = 0; i < log->n; i++)
        r->touched[log->op[i].file] |= log->op[i].kind != REC_FLUSH;
    for (unsigned k = 1; ret == 0 && k < r->chain.f.n; k++)
        if (r->touched[k] && (kind < COMMIT || k != r->to) && (kind != DELETE || k != r->chain.n))
            ret = wrong(r, "%s was written to", r->chain.layer[k].name);
    if (ret == 0)
        ret = look_at_end(r, &names, err);
    if (ret == 0 || atomic_load(&qc_tip_test_break))
        ret |= crash_walk(&w);
    r->n_same += w.same;
    if (ret != 0 && !atomic_load(&qc_tip_test_break)) {
        printf("seed %llu, %s to %s%s:\n%s\n", (unsigned long long)seed, kind_name[kind],
               kind == REBASE_NONE || r->to == r->chain.n ? "none" : r->chain.layer[r->to].name, r->compress ? ", compressed" : "", r->wrong);
        chain_print(&r->chain);
    }
    chain_finish(&r->chain);
    qchain_error_destroy(err);
    return ret;
}

/* Of each kind the flushes are left out: some state must show it. Of a commit that leaves the top as it is nothing
 * shows: what it writes stays hidden. */
static int broken(struct run *r, uint64_t seed, unsigned tries)
{
    int missed = 0;

    for (int kind = 0; kind < COMMIT_KEEP; kind++) {
        uint64_t states = r->n_states;
        unsigned i = 0;

        atomic_store(&qc_tip_test_break, 1);
        while (i < tries && one(r, (enum kind)kind, seed + i) == 0)
            i++;
        atomic_store(&qc_tip_test_break, 0);
        missed += i == tries;
        printf("%s without flushes: %s%u chains, %llu states: %.150s\n", kind_name[kind],
               i == tries ? "NOT noticed in " : "noticed in ", i == tries ? i : i + 1,
               (unsigned long long)(r->n_states - states), r->wrong);
    }
    return missed;
}

/* ----------------------------------------------------------------------- main --- */

static const char *text(int argc, char **argv, const char *option)
{
    for (int i = 1; i + 1 < argc; i++)
        if (strcmp(argv[i], option) == 0)
            return argv[i + 1];
    return NULL;
}

static uint64_t number(int argc, char **argv, const char *option, uint64_t otherwise)
{
    const char *s = text(argc, argv, option);

    return s ? strtoull(s, NULL, 0) : otherwise;
}

int main(int argc, char **argv)
{
    bool breaking = argc > 1 && strcmp(argv[argc - 1], "--break") == 0, some = argc == 1;
    uint64_t seed = number(argc, argv, "--seed", 1), lists = number(argc, argv, "--lists", breaking ? 0 : 6);
    struct run r = {.most = (unsigned)number(argc, argv, "--states", 48), .every_qemu = 500, .every_again = 5,
                    .keep = text(argc, argv, "--keep")};
    const char *only = text(argc, argv, "--only");
    char dir[] = "/tmp/qchain-surgery-XXXXXX";
    int ret = 0;

    setvbuf(stdout, NULL, _IOLBF, 0);
    if (system("qemu-img --version >/dev/null 2>&1") != 0) {
        printf("SKIP: qemu-img is not installed\n");
        return 77;
    }
    if (!mkdtemp(dir) || qchain_env_create(&r.env, NULL, NULL) != 0)
        return 1;
    r.dir = dir;
    for (uint64_t i = 0; ret == 0 && i < lists; i++)
        for (int kind = 0; ret == 0 && kind < KINDS; kind++)
            if (!only || strcmp(only, kind_name[kind]) == 0)
                ret = one(&r, (enum kind)kind, seed + i);
    printf("seed %llu: %llu states after crashes, %llu with leaks, %llu gone on with, %llu of them cut short, "
           "%llu seen by qemu-img\n", (unsigned long long)seed, (unsigned long long)r.n_states,
           (unsigned long long)r.n_leaky, (unsigned long long)r.n_again, (unsigned long long)r.n_cut,
           (unsigned long long)r.n_qemu);
    if (ret == 0 && (some || breaking))
        ret = broken(&r, seed, 60);
    qchain_env_destroy(r.env);
    shell("rm -rf %s", dir);
    return ret;
}
