/* SPDX-License-Identifier: MIT */
/*
 * Reads one chain from many threads at once and compares every byte with a raw
 * file made by somebody else; also prints maps and differences for the scripts.
 * Uses nothing but the public header.
 */
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <qchain.h>
#include <qchain-backend.h>

#define MAX_BYTES (1u << 20)
#define MAX_IOV 64
#define MAX_EDGES 8192

typedef struct hammer {
    qchain     *chain;
    int         oracle;
    uint64_t    size;
    uint64_t    iterations;
    uint64_t    seed;
    uint64_t   *edges;
    uint32_t    n_edges;
} hammer;

typedef struct worker {
    hammer   *h;
    pthread_t thread;
    uint64_t  seed;
    int       failed;
} worker;

static const char usage[] =
    "usage: hammer [options] IMAGE\n"
    "  --oracle RAW        compare reads with this file\n"
    "  --threads N         (8)   --iterations N (100)   --seed N\n"
    "  --format FMT  --snapshot NAME  --trust  --force-share  --no-backing  --direct\n"
    "  --index-bytes N  --block-bytes N  --max-open-files N  --max-layers N\n"
    "  --map               print the map, --max N extents a call\n"
    "  --diff UPTO:BELOW   print the difference of two layers\n"
    "  --check-map         compare the bytes where the map says they are\n"
    "  --hold              open, print \"ready\", close at the end of stdin\n"
    "  --stats             print the statistics at the end\n";

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint64_t below(uint64_t *state, uint64_t n)
{
    return n == 0 ? 0 : next_random(state) % n;
}

static int read_oracle(int fd, uint8_t *buf, size_t length, uint64_t offset)
{
    size_t done = 0;

    while (done < length) {
        ssize_t n = pread(fd, buf + done, length - done, (off_t)(offset + done));

        if (n <= 0) {
            return -1;
        }
        done += (size_t)n;
    }
    return 0;
}

static int fail(const char *what, qchain_error *err)
{
    fprintf(stderr, "hammer: %s: %s: %s\n", what, qchain_code_name(qchain_error_code(err)),
            qchain_error_message(err));
    return 1;
}

/* One place to read: half of them around an edge of the map, where bugs live. */
static void choose(hammer *h, uint64_t *rng, uint64_t *offset, size_t *length)
{
    uint64_t at = below(rng, h->size);
    uint64_t n = 1 + below(rng, (uint64_t)1 << below(rng, 21));

    if (h->n_edges > 0 && below(rng, 2) == 0) {
        uint64_t back = below(rng, n + 1);

        at = h->edges[below(rng, h->n_edges)];
        at = at > back ? at - back : 0;
    }
    if (below(rng, 4) == 0) {
        at &= ~(uint64_t)511;
        n = (n + 511) & ~(uint64_t)511;
    }
    if (at >= h->size) {
        at = h->size - 1;
    }
    if (n > MAX_BYTES) {
        n = MAX_BYTES;
    }
    if (n > h->size - at) {
        n = h->size - at;
    }
    *offset = at;
    *length = (size_t)n;
}

/* Cut a buffer into odd pieces, empty ones among them. */
static uint32_t cut(uint64_t *rng, uint8_t *buf, size_t length, qchain_iov *iov)
{
    uint32_t n = 0;
    size_t   done = 0;

    while (done < length && n < MAX_IOV - 1) {
        size_t piece = below(rng, 8) == 0 ? 0 : 1 + (size_t)below(rng, length - done);

        iov[n].base = buf + done;
        iov[n].len = piece;
        done += piece;
        n++;
    }
    iov[n].base = buf + done;
    iov[n].len = length - done;
    return n + 1;
}

static int compare(const uint8_t *got, const uint8_t *want, size_t length, uint64_t offset)
{
    size_t i = 0;

    if (memcmp(got, want, length) == 0) {
        return 0;
    }
    while (got[i] == want[i]) {
        i++;
    }
    fprintf(stderr,
            "hammer: read of %zu bytes at %" PRIu64 ": byte %" PRIu64 " is %02x, not %02x\n",
            length, offset, offset + i, got[i], want[i]);
    return 1;
}

static int one_read(hammer *h, uint64_t *rng, uint8_t *got, uint8_t *want, qchain_error *err)
{
    qchain_iov iov[MAX_IOV];
    uint64_t   offset;
    size_t     length;
    int        r;

    choose(h, rng, &offset, &length);
    memset(got, 0xa5, length + 1);
    if (below(rng, 3) == 0) {
        uint32_t n = cut(rng, got, length, iov);

        r = qchain_readv(h->chain, iov, n, offset, 0, err);
    } else {
        r = qchain_read(h->chain, got, length, offset, 0, err);
    }
    if (r != 0) {
        fprintf(stderr, "hammer: read of %zu bytes at %" PRIu64 ": %d\n", length, offset, r);
        return fail("read", err);
    }
    if (got[length] != 0xa5) {
        fprintf(stderr, "hammer: read of %zu bytes at %" PRIu64 " wrote past the buffer\n",
                length, offset);
        return 1;
    }
    if (read_oracle(h->oracle, want, length, offset) != 0) {
        fprintf(stderr, "hammer: the oracle has no byte at %" PRIu64 "\n", offset);
        return 1;
    }
    return compare(got, want, length, offset);
}

static void *work(void *arg)
{
    worker       *w = arg;
    uint8_t      *got = malloc(MAX_BYTES + 1);
    uint8_t      *want = malloc(MAX_BYTES);
    qchain_error *err = qchain_error_create();
    uint64_t      rng = w->seed;

    w->failed = got == NULL || want == NULL || err == NULL;
    for (uint64_t i = 0; i < w->h->iterations && !w->failed; i++) {
        w->failed = one_read(w->h, &rng, got, want, err);
    }
    qchain_error_destroy(err);
    free(want);
    free(got);
    return NULL;
}

static int collect_edges(hammer *h, qchain_error *err)
{
    qchain_extent extents[16];
    uint64_t      at = 0;

    h->edges = malloc(MAX_EDGES * sizeof(*h->edges));
    if (h->edges == NULL) {
        return 1;
    }
    while (at < h->size && h->n_edges + 16 <= MAX_EDGES) {
        uint32_t n = 0;
        uint64_t next = at;

        if (qchain_map(h->chain, at, h->size - at, extents, 16, &n, &next, 0, err) != 0) {
            return fail("map", err);
        }
        for (uint32_t i = 0; i < n; i++) {
            h->edges[h->n_edges++] = extents[i].offset;
        }
        if (next <= at) {
            fprintf(stderr, "hammer: the map stands still at %" PRIu64 "\n", at);
            return 1;
        }
        at = next;
    }
    return 0;
}

static int run_threads(hammer *h, uint32_t n)
{
    worker *workers = calloc(n, sizeof(*workers));
    int     failed = workers == NULL;

    for (uint32_t i = 0; i < n && workers != NULL; i++) {
        workers[i].h = h;
        workers[i].seed = h->seed * 1000003u + i;
        if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0) {
            perror("hammer: thread");
            exit(1);
        }
    }
    for (uint32_t i = 0; i < n && workers != NULL; i++) {
        pthread_join(workers[i].thread, NULL);
        failed |= workers[i].failed;
    }
    free(workers);
    return failed;
}

static void print_extent(const qchain_extent *e, int first)
{
    printf("%s{\"start\": %" PRIu64 ", \"length\": %" PRIu64 ", \"depth\": %" PRIu32
           ", \"present\": %s, \"zero\": %s, \"data\": %s", first ? "[" : ",\n", e->offset,
           e->length, e->layer, e->flags & QCHAIN_EXTENT_PRESENT ? "true" : "false",
           e->flags & QCHAIN_EXTENT_ZERO ? "true" : "false",
           e->flags & QCHAIN_EXTENT_DATA ? "true" : "false");
    if (e->flags & QCHAIN_EXTENT_HAS_OFFSET && !(e->flags & QCHAIN_EXTENT_COMPRESSED)) {
        printf(", \"offset\": %" PRIu64, e->host_offset);
    }
    printf("}");
}

/* Print the map (below == 0) or a difference, a few extents a call. */
static int print_map(qchain *c, const char *diff, uint32_t max, qchain_error *err)
{
    qchain_extent *extents = calloc(max, sizeof(*extents));
    uint64_t       size = qchain_size(c);
    uint64_t       at = 0;
    uint32_t       upto = 0;
    uint32_t       deep = 0;
    int            first = 1;
    int            r = 0;

    if (extents == NULL || (diff && sscanf(diff, "%" SCNu32 ":%" SCNu32, &upto, &deep) != 2)) {
        fputs(usage, stderr);
        free(extents);
        return 2;
    }
    while (at < size) {
        uint32_t n = 0;
        uint64_t next = at;

        r = diff ? qchain_diff(c, deep, upto, at, size - at, extents, max, &n, &next, 0, err)
                 : qchain_map(c, at, size - at, extents, max, &n, &next, 0, err);
        if (r != 0 || next <= at) {
            r = fail("map", err);
            break;
        }
        for (uint32_t i = 0; i < n; i++) {
            print_extent(&extents[i], first);
            first = 0;
        }
        at = next;
    }
    printf("%s]\n", first ? "[" : "");
    free(extents);
    return r;
}

/* Compare at most a MiB of an extent's bytes, read from where the map says. */
static int check_extent(hammer *h, const qchain_extent *e, uint8_t *got, uint8_t *want)
{
    size_t      length = e->length < MAX_BYTES ? (size_t)e->length : MAX_BYTES;
    const char *name = qchain_source_name(h->chain, e->source);
    int         fd = -1;
    ssize_t     n = 0;

    if (read_oracle(h->oracle, want, length, e->offset) != 0) {
        fprintf(stderr, "hammer: the oracle has no byte at %" PRIu64 "\n", e->offset);
        return 1;
    }
    memset(got, 0, length);
    if (e->flags & QCHAIN_EXTENT_ZERO) {
        return compare(got, want, length, e->offset);
    }
    if (!(e->flags & QCHAIN_EXTENT_HAS_OFFSET) || (e->flags & QCHAIN_EXTENT_COMPRESSED)) {
        return 0;
    }
    fd = name == NULL ? -1 : open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        fprintf(stderr, "hammer: no source %" PRIu32 " (%s)\n", e->source, name ? name : "NULL");
        return 1;
    }
    n = pread(fd, got, length, (off_t)e->host_offset);
    close(fd);
    /* What a file lacks at its end reads as zeros, so a short read is fine. */
    return n < 0 ? 1 : compare(got, want, length, e->offset);
}

static int check_map(hammer *h, qchain_error *err)
{
    uint8_t      *got = malloc(MAX_BYTES);
    uint8_t      *want = malloc(MAX_BYTES);
    qchain_extent extents[7];
    uint64_t      at = 0;
    int           failed = got == NULL || want == NULL;

    while (at < h->size && !failed) {
        uint32_t n = 0;
        uint64_t next = at;

        if (qchain_map(h->chain, at, h->size - at, extents, 7, &n, &next, 0, err) != 0 ||
            next <= at) {
            failed = fail("map", err);
            break;
        }
        for (uint32_t i = 0; i < n && !failed; i++) {
            failed = check_extent(h, &extents[i], got, want);
        }
        at = next;
    }
    free(want);
    free(got);
    return failed;
}

static int hold(void)
{
    char c;

    puts("ready");
    fflush(stdout);
    while (read(STDIN_FILENO, &c, 1) > 0) {
        continue;
    }
    return 0;
}

static void print_stats(qchain *c)
{
    qchain_stats s = { .struct_size = sizeof(s) };

    if (qchain_env_stats(qchain_get_env(c), &s) == 0) {
        printf("{\"reads\": %" PRIu64 ", \"store_reads\": %" PRIu64 ", \"meta_reads\": %" PRIu64
               ", \"decoded\": %" PRIu64 ", \"fills\": %" PRIu64 ", \"evictions\": %" PRIu64
               ", \"index_bytes\": %" PRIu64 ", \"block_bytes\": %" PRIu64 ", \"open_files\": %"
               PRIu64 ", \"file_opens\": %" PRIu64 "}\n", s.reads, s.store_reads, s.meta_reads,
               s.decoded_clusters, s.index_fills, s.index_evictions, s.index_bytes,
               s.block_bytes, s.open_files, s.file_opens);
    }
}

typedef struct options {
    qchain_env_opts  env;
    qchain_open_opts open;
    qchain_policy   *policy;
    const char      *oracle;
    const char      *diff;
    uint64_t         seed;
    uint64_t         iterations;
    uint32_t         threads;
    uint32_t         max;
    int              map, hold, check, stats;
} options;

enum { O_ORACLE = 256, O_THREADS, O_ITER, O_SEED, O_FORMAT, O_SNAPSHOT, O_TRUST, O_SHARE,
       O_NOBACK, O_DIRECT_IO, O_INDEX, O_BLOCK, O_FILES, O_LAYERS, O_MAP, O_MAX, O_DIFF,
       O_CHECK, O_HOLD, O_STATS };

static const struct option long_options[] = {
    { "oracle", 1, NULL, O_ORACLE },          { "threads", 1, NULL, O_THREADS },
    { "iterations", 1, NULL, O_ITER },        { "seed", 1, NULL, O_SEED },
    { "format", 1, NULL, O_FORMAT },          { "snapshot", 1, NULL, O_SNAPSHOT },
    { "trust", 0, NULL, O_TRUST },            { "force-share", 0, NULL, O_SHARE },
    { "no-backing", 0, NULL, O_NOBACK },      { "direct", 0, NULL, O_DIRECT_IO },
    { "index-bytes", 1, NULL, O_INDEX },      { "block-bytes", 1, NULL, O_BLOCK },
    { "max-open-files", 1, NULL, O_FILES },   { "max-layers", 1, NULL, O_LAYERS },
    { "map", 0, NULL, O_MAP },                { "max", 1, NULL, O_MAX },
    { "diff", 1, NULL, O_DIFF },              { "check-map", 0, NULL, O_CHECK },
    { "hold", 0, NULL, O_HOLD },              { "stats", 0, NULL, O_STATS },
    { NULL, 0, NULL, 0 },
};

static int take_option(options *o, int c)
{
    uint64_t n = optarg ? strtoull(optarg, NULL, 0) : 0;

    switch (c) {
    case O_ORACLE: o->oracle = optarg; break;
    case O_THREADS: o->threads = (uint32_t)n; break;
    case O_ITER: o->iterations = n; break;
    case O_SEED: o->seed = n; break;
    case O_FORMAT: o->open.format = optarg; break;
    case O_SNAPSHOT: o->open.snapshot = optarg; break;
    case O_TRUST: return qchain_policy_allow(o->policy, QCHAIN_POLICY_TRUST, NULL);
    case O_SHARE: o->open.flags |= QCHAIN_OPEN_FORCE_SHARE; break;
    case O_NOBACK: o->open.flags |= QCHAIN_OPEN_NO_BACKING; break;
    case O_DIRECT_IO: o->open.flags |= QCHAIN_OPEN_DIRECT; break;
    case O_INDEX: o->env.index_bytes = n; break;
    case O_BLOCK: o->env.block_bytes = n; break;
    case O_FILES: o->env.max_open_files = (uint32_t)n; break;
    case O_LAYERS: o->open.max_layers = (uint32_t)n; break;
    case O_MAP: o->map = 1; break;
    case O_MAX: o->max = (uint32_t)n; break;
    case O_DIFF: o->diff = optarg; break;
    case O_CHECK: o->check = 1; break;
    case O_HOLD: o->hold = 1; break;
    case O_STATS: o->stats = 1; break;
    default: return 2;
    }
    return 0;
}

static int with_oracle(hammer *h, const options *o, qchain_error *err)
{
    struct stat st;
    int         failed = 0;

    h->oracle = open(o->oracle, O_RDONLY | O_CLOEXEC);
    if (h->oracle < 0 || fstat(h->oracle, &st) != 0) {
        perror(o->oracle);
        return 1;
    }
    if ((uint64_t)st.st_size != h->size) {
        fprintf(stderr, "hammer: the disk has %" PRIu64 " bytes, the oracle %" PRIu64 "\n",
                h->size, (uint64_t)st.st_size);
        failed = 1;
    }
    if (!failed && h->size > 0) {
        /* In half of the runs the threads meet a cold index. */
        failed = h->seed % 2 ? collect_edges(h, err) : 0;
        failed = failed || run_threads(h, o->threads);
        failed = failed || (o->check && check_map(h, err));
    }
    free(h->edges);
    close(h->oracle);
    return failed;
}

static int hammer_chain(const options *o, const char *name, qchain_error *err)
{
    qchain_env *env = NULL;
    hammer      h = { .oracle = -1, .iterations = o->iterations, .seed = o->seed };
    int         failed = 0;

    if (qchain_env_create(&env, &o->env, err) != 0) {
        return fail("env", err);
    }
    if (qchain_open(&h.chain, env, name, &o->open, err) != 0) {
        failed = fail("open", err);
        qchain_env_destroy(env);
        return failed;
    }
    h.size = qchain_size(h.chain);
    if (o->map || o->diff) {
        failed = print_map(h.chain, o->diff, o->max, err);
    }
    if (o->oracle && !failed) {
        failed = with_oracle(&h, o, err);
    }
    if (o->hold && !failed) {
        failed = hold();
    }
    if (o->stats) {
        print_stats(h.chain);
    }
    qchain_close(h.chain);
    qchain_env_destroy(env);
    return failed;
}

int main(int argc, char **argv)
{
    options       o = { .iterations = 100, .threads = 8, .max = 64 };
    qchain_error *err = qchain_error_create();
    int           c = 0;
    int           failed = 0;

    qchain_env_opts_init(&o.env, sizeof(o.env));
    qchain_open_opts_init(&o.open, sizeof(o.open));
    o.policy = qchain_policy_create();
    while (!failed && (c = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
        failed = take_option(&o, c);
    }
    if (failed || optind + 1 != argc || o.max == 0) {
        fputs(usage, stderr);
        failed = 2;
    } else {
        o.env.policy = o.policy;
        failed = hammer_chain(&o, argv[optind], err);
    }
    qchain_policy_destroy(o.policy);
    qchain_error_destroy(err);
    return failed;
}
