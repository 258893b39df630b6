/* SPDX-License-Identifier: MIT */
/*
 * The sidecar's file: what is written comes back, for random tables and runs; each
 * flipped bit and each missing byte is noticed; each allocation may fail.
 */
#include "index_tools.h"

/* The library's memory, of which any piece can be refused. */
static long countdown;

static int refused(void)
{
    return countdown > 0 && --countdown == 0;
}

#define malloc(n) (refused() ? NULL : malloc(n))
#define calloc(n, size) (refused() ? NULL : calloc(n, size))
#define realloc(p, n) (refused() ? NULL : realloc(p, n))
#include "util/alloc.c"
#undef malloc
#undef calloc
#undef realloc

/* ------------------------------------------------------------- random ones --- */

static char *random_name(uint64_t *seed, size_t max)
{
    size_t n = 1 + random_next(seed) % (random_next(seed) % 50 ? 20 : max);
    char *s = test_malloc(n + 1);

    if (n > max)
        n = max;
    for (size_t i = 0; i < n; i++)
        s[i] = (char)(1 + random_next(seed) % 255);
    s[n] = '\0';
    return s;
}

static void random_table(struct plan *plan, uint32_t n_layers, unsigned data_percent,
                         uint64_t *seed)
{
    static const uint32_t clusters[] = {0, 512, 4096, 65536, 65536, 2u << 20};
    uint32_t n = 0;

    plan->n_layers = n_layers;
    plan->source = test_calloc(2 * (size_t)n_layers, sizeof(*plan->source));
    for (uint32_t layer = 0; layer < n_layers; layer++) {
        uint64_t disk = layer ? (random_next(seed) % MIB) << 9 : plan->virtual_size;
        uint32_t cluster = clusters[random_next(seed) % 6];
        bool data = cluster && random_next(seed) % 100 < data_percent && n + 1 < 65535;

        plan->source[n] = source_make(layer, data ? 65536 : cluster, disk);
        plan->source[n].flags = random_next(seed) & QC_IXF_FLAGS & ~1u;
        plan->source[n].size = random_next(seed) >> 1 | UINT64_C(1) << 60;
        plan->source[n].decoder_kind = random_next(seed) % 2;
        plan->source[n].mtime_ns = random_next(seed);
        plan->source[n].allocated = random_next(seed);
        n++;
        if (data)
            plan->source[n++] = data_file_make(layer);
    }
    plan->n_sources = n;
    for (uint32_t i = 0; i < n; i++) {
        struct qc_ixf_source *s = &plan->source[i];

        s->name = random_name(seed, QC_IXF_NAME_MAX);
        s->location = random_name(seed, QC_IXF_NAME_MAX);
        s->validator = random_name(seed, QC_IXF_VALIDATOR_MAX);
        if (s->flags & QC_IXF_REMOTE)
            s->flags &= ~(uint32_t)QC_IXF_RACY;
        for (char *v = s->validator; *v; v++)
            *v = (unsigned char)*v < ' ' || *v == 0x7f ? '"' : *v;
        if (!(s->flags & QC_IXF_REMOTE) || random_next(seed) % 4 == 0)
            *s->validator = '\0';
    }
}

static bool may_be_compressed(const struct plan *plan, uint32_t source)
{
    return plan->source[source].cluster_size &&
           !(source + 1 < plan->n_sources && plan->source[source + 1].flags & QC_IXF_DATA_FILE);
}

static uint32_t lowest(const struct plan *plan)
{
    uint32_t last = plan->n_sources - 1;

    return plan->source[last].flags & QC_IXF_DATA_FILE ? last - 1 : last;
}

/* Runs of all kinds that cover [at, end) whole. */
static void random_runs(const struct plan *plan, struct qc_runs *out, uint64_t at, uint64_t end,
                        uint64_t longest, uint64_t *seed)
{
    uint64_t len, host, cluster;
    struct qc_run r;
    uint32_t source;
    enum qc_kind kind;

    while (at < end) {
        kind = (enum qc_kind)(random_next(seed) % 7);
        source = (uint32_t)(random_next(seed) % plan->n_sources);
        len = ((1 + random_next(seed) % (longest / 512)) >> random_next(seed) % 20) << 9;
        if (len == 0 || random_next(seed) % 4 == 0)
            len = 512;
        if (len > end - at)
            len = end - at;
        if (kind == QC_COMPRESSED && !may_be_compressed(plan, source))
            kind = QC_DATA;
        if (kind == QC_END)
            source = lowest(plan);
        host = random_next(seed) >> (8 + random_next(seed) % 40);
        if (kind == QC_COMPRESSED) {
            cluster = plan->source[source].cluster_size;
            if (len > cluster - at % cluster)
                len = cluster - at % cluster;
        } else {
            host = host > QC_HOST_MAX - len ? (QC_HOST_MAX - len + 1) & ~UINT64_C(511)
                                            : host & ~UINT64_C(511);
        }
        r = qc_run_make(at, len, kind, qc_kind_has_host(kind) ? host : 0);
        r.source = (uint16_t)source;
        if (kind == QC_COMPRESSED)
            r.sectors = (uint16_t)(1 + random_next(seed) % (cluster / 256 + 1));
        assert_int_equal(qc_runs_reserve(out, out->n + 1), 0);
        out->run[out->n++] = r;
        at += len;
    }
}

/* Both cover [from, to) and say the same, however it is cut. */
static void same_map(const struct qc_runs *want, const struct qc_runs *got, uint64_t from,
                     uint64_t to, uint32_t first)
{
    size_t w = 0, g = 0;

    while (w < want->n && qc_run_end(&want->run[w]) <= from)
        w++;
    for (uint64_t at = from; at < to;) {
        const struct qc_run *a, *b;
        enum qc_kind kind;
        uint64_t next;

        while (qc_run_end(&want->run[w]) <= at)
            w++;
        assert_true(g < got->n);
        a = &want->run[w];
        b = &got->run[g];
        kind = qc_run_kind(a);
        assert_int_equal(qc_run_kind(b), kind);
        assert_int_equal(b->source, a->source + first);
        assert_int_equal(b->sectors, a->sectors);
        if (kind == QC_COMPRESSED || !qc_kind_has_host(kind))
            assert_true(qc_run_host(a) == qc_run_host(b));
        else
            assert_true(qc_run_host(a) + (at - a->guest) == qc_run_host(b) + (at - b->guest));
        assert_true(b->guest <= at && (at == b->guest || g == 0 || b->guest >= from));
        next = qc_run_end(a) < qc_run_end(b) ? qc_run_end(a) : qc_run_end(b);
        if (next == qc_run_end(b)) {
            g++;
            if (g < got->n)
                assert_true(got->run[g].guest == next);
        }
        at = next;
    }
    assert_int_equal(g, got->n);
    assert_true(got->run[0].guest == from && qc_run_end(&got->run[g - 1]) == to);
    for (g = 0; g < got->n; g++)
        assert_true(qc_run_length(&got->run[g]) <= UINT64_C(1) << 40);
}

static void plan_free(struct plan *plan)
{
    for (uint32_t i = 0; i < plan->n_sources; i++) {
        test_free(plan->source[i].name);
        test_free(plan->source[i].location);
        test_free(plan->source[i].validator);
    }
    for (uint32_t i = 0; i < plan->n_pages; i++)
        qc_ixf_buf_finish(&plan->page[i]);
    test_free(plan->source);
    test_free(plan->start);
    test_free(plan->page);
    test_free(plan->encoder);
}

/* Pages of random widths with random runs; the runs are put in several calls. */
static void random_pages(struct plan *plan, struct qc_runs *all, uint32_t max_pages,
                         uint64_t *seed)
{
    uint64_t windows = (plan->virtual_size + QC_IXF_WINDOW - 1) / QC_IXF_WINDOW, end, width;
    uint32_t i;

    plan->start = test_calloc(max_pages, sizeof(*plan->start));
    plan->page = test_calloc(max_pages, sizeof(*plan->page));
    plan->encoder = test_calloc(max_pages, sizeof(*plan->encoder));
    plan->n_pages = windows < max_pages ? (uint32_t)windows : max_pages;
    width = windows / plan->n_pages;
    for (i = 1; i < plan->n_pages; i++)
        plan->start[i] = (i * width + random_next(seed) % width) * QC_IXF_WINDOW;
    for (i = 0; i < plan->n_pages; i++) {
        struct qc_runs runs = {0};
        size_t put = 0, n;

        end = i + 1 < plan->n_pages ? plan->start[i + 1] : plan->virtual_size;
        random_runs(plan, &runs, plan->start[i], end,
                    end - plan->start[i] > UINT64_C(1) << 40 ? UINT64_C(1) << 40
                                                             : 1 + (end - plan->start[i]), seed);
        for (; put < runs.n; put += n) {
            n = 1 + random_next(seed) % (runs.n - put);
            assert_int_equal(qc_ixf_put_runs(&plan->page[i], &plan->encoder[i], runs.run + put, n,
                                             plan->n_sources), 0);
        }
        assert_true(plan->encoder[i].n_runs <= runs.n);
        assert_int_equal(qc_runs_reserve(all, all->n + runs.n), 0);
        memcpy(all->run + all->n, runs.run, runs.n * sizeof(*runs.run));
        all->n += runs.n;
        qc_runs_finish(&runs);
    }
}

static void same_table(const struct plan *plan, const struct qc_ixf *x)
{
    assert_int_equal(x->header.n_sources, plan->n_sources);
    assert_int_equal(x->header.n_layers, plan->n_layers);
    assert_int_equal(x->header.n_pages, plan->n_pages);
    assert_true(x->header.virtual_size == plan->virtual_size);
    assert_int_equal(x->header.built_ns, 77);
    assert_memory_equal(x->header.id, "0123456789abcde", 16);
    for (uint32_t i = 0; i < plan->n_sources; i++) {
        const struct qc_ixf_source *a = &plan->source[i], *b = &x->source[i];

        assert_string_equal(a->name, b->name);
        assert_string_equal(a->location, b->location);
        assert_string_equal(a->format, b->format);
        assert_string_equal(a->validator, b->validator);
        assert_true(a->layer == b->layer && a->flags == b->flags && a->size == b->size &&
                    a->mtime_ns == b->mtime_ns && a->allocated == b->allocated &&
                    a->virtual_size == b->virtual_size && a->cluster_size == b->cluster_size &&
                    a->decoder_kind == b->decoder_kind);
    }
}

static void round_trip(uint64_t disk, uint32_t n_layers, unsigned data_percent,
                       uint32_t max_pages, uint64_t *seed)
{
    struct plan plan = {.virtual_size = disk};
    struct qc_runs all = {0}, got = {0};
    struct qc_ixf_buf file;
    qchain_error err;
    struct qc_ixf x;

    random_table(&plan, n_layers, data_percent, seed);
    random_pages(&plan, &all, max_pages, seed);
    assert_int_equal(plan_build(&plan, &file), 0);
    qc_error_init(&err);
    if (parse(&x, file.p, file.n, &err) != 0)
        fail_msg("%s", err.text);
    same_table(&plan, &x);
    if (decode(&x, file.p, 0, disk, 0, &got, &err) != 0)
        fail_msg("%s", err.text);
    same_map(&all, &got, 0, disk, 0);
    for (int k = 0; k < 20; k++) {
        uint64_t from = (random_next(seed) % (disk / 512)) << 9;
        uint64_t to = from + ((1 + random_next(seed) % ((disk - from) / 512)) << 9);
        uint32_t page = qc_ixf_find_page(&x, from);

        assert_true(x.page[page].start <= from && from < qc_ixf_page_end(&x, page));
        got.n = 0;
        assert_int_equal(decode(&x, file.p, from, to, 0, &got, &err), 0);
        same_map(&all, &got, from, to, 0);
        if (plan.n_sources < 60000) {
            got.n = 0;
            assert_int_equal(decode(&x, file.p, from, to, 5000, &got, &err), 0);
            same_map(&all, &got, from, to, 5000);
        }
    }
    for (uint32_t i = 0; i < plan.n_pages; i++) {
        assert_int_equal(x.page[i].nothing, !plan.encoder[i].something);
        assert_int_equal(qc_ixf_find_page(&x, plan.start[i]), i);
        assert_int_equal(qc_ixf_find_page(&x, qc_ixf_page_end(&x, i) - 1), i);
    }
    qc_ixf_finish(&x);
    assert_null(x.source);
    qc_ixf_buf_finish(&file);
    qc_runs_finish(&all);
    qc_runs_finish(&got);
    plan_free(&plan);
}

static void round_trips(void **unused)
{
    uint64_t seed = mem_seed(451);

    (void)unused;
    for (int i = 0; i < 200; i++)
        round_trip((1 + random_next(&seed) % (2 * MIB)) << 9,
                   1 + (uint32_t)(random_next(&seed) % 9), 30, 4, &seed);
    round_trip(512, 1, 0, 1, &seed);
    round_trip(512, 1, 100, 1, &seed);
    round_trip(3 * QC_IXF_WINDOW + 512, 1000, 10, 3, &seed);
    round_trip(UINT64_C(1) << 42, 50, 10, 300, &seed);
    round_trip((UINT64_C(1) << 52) - 512, 3, 10, 160, &seed);
    round_trip(QC_IXF_WINDOW + 512, 32768, 100, 2, &seed);
    round_trip(QC_IXF_WINDOW + 512, 65535, 0, 2, &seed);
}

/* ---------------------------------------------------- what compresses to nothing --- */

static void one_page(struct plan *plan, struct qc_ixf_source *s, uint64_t disk)
{
    static uint64_t start = 0;

    *s = source_make(0, 65536, disk);
    *plan = (struct plan){.virtual_size = disk, .source = s, .n_sources = 1, .n_layers = 1,
                          .n_pages = disk > 0, .start = &start};
}

/* As many runs of 2^40 bytes as the disk has, some a call. */
static void put_empty(struct plan *plan, enum qc_kind kind)
{
    static struct qc_run run[3];

    for (uint64_t at = 0, len; at < plan->virtual_size; at += len) {
        size_t n = 0;

        for (len = 0; n < 3 && at + len < plan->virtual_size; n++) {
            uint64_t left = plan->virtual_size - at - len, one = UINT64_C(1) << 40;

            run[n] = qc_run_make(at + len, left < one ? left : one, kind, 0);
            len += qc_run_length(&run[n]);
        }
        assert_int_equal(qc_ixf_put_runs(plan->page, plan->encoder, run, n, 1), 0);
    }
}

static void empty_disk(uint64_t disk, enum qc_kind kind)
{
    struct qc_ixf_encoder e = {0};
    struct qc_ixf_buf page = {0}, file;
    struct qc_runs got = {0};
    struct qc_ixf_source s;
    struct plan plan;
    struct qc_ixf x;

    one_page(&plan, &s, disk);
    plan.page = &page;
    plan.encoder = &e;
    put_empty(&plan, kind);
    assert_int_equal(e.n_runs, 1);
    assert_false(e.something);
    assert_true(page.n <= 10);
    assert_int_equal(plan_build(&plan, &file), 0);
    assert_int_equal(parse(&x, file.p, file.n, NULL), 0);
    assert_true(x.page[0].nothing);
    /* Ends, and pieces in the middle that are cut where documented. */
    for (uint64_t from = 0; from < disk; from += disk / 7 / 512 * 512 + 512) {
        uint64_t to = from + (UINT64_C(5) << 40);

        to = to < disk ? to : disk;
        got.n = 0;
        assert_int_equal(decode(&x, file.p, from, to, 3, &got, NULL), 0);
        assert_true(got.n >= 1 && got.n <= 6);
        for (size_t i = 0; i < got.n; i++) {
            assert_int_equal(qc_run_kind(&got.run[i]), kind);
            assert_int_equal(got.run[i].source, 3);
            assert_true(got.run[i].guest == (i ? qc_run_end(&got.run[i - 1]) : from));
            assert_true(i == 0 || got.run[i].guest % (UINT64_C(1) << 40) == 0);
        }
        assert_true(qc_run_end(&got.run[got.n - 1]) == to);
    }
    qc_runs_finish(&got);
    qc_ixf_finish(&x);
    qc_ixf_buf_finish(&file);
    qc_ixf_buf_finish(&page);
}

static void empty_disks(void **unused)
{
    struct qc_ixf_source s;
    struct qc_ixf_buf file;
    struct plan plan;
    struct qc_ixf x;

    (void)unused;
    empty_disk(512, QC_END);
    empty_disk(UINT64_C(1) << 60, QC_END);
    empty_disk(UINT64_C(1) << 60, QC_SHORT);
    empty_disk((UINT64_C(1) << 63) - 512, QC_END);
    one_page(&plan, &s, 0); /* a disk of no bytes has no page */
    assert_int_equal(plan_build(&plan, &file), 0);
    assert_int_equal(parse(&x, file.p, file.n, NULL), 0);
    assert_int_equal(x.header.n_pages, 0);
    qc_ixf_finish(&x);
    qc_ixf_buf_finish(&file);
}

/* Which neighbours become one record, and which do not. */
static void records(void **unused)
{
    static const struct {
        enum qc_kind kind[2];
        uint16_t     source[2];
        uint32_t     n;
    } t[] = {
        {{QC_END, QC_END}, {1, 1}, 1},     {{QC_SHORT, QC_SHORT}, {1, 1}, 1},
        {{QC_SHORT, QC_SHORT}, {1, 2}, 2}, {{QC_END, QC_SHORT}, {2, 2}, 2},
        {{QC_ZERO, QC_ZERO}, {1, 1}, 2},   {{QC_DATA, QC_DATA}, {1, 1}, 2},
        {{QC_SHORT, QC_END}, {2, 2}, 2},
    };

    (void)unused;
    for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        for (int calls = 1; calls <= 2; calls++) {
            struct qc_ixf_encoder e = {0};
            struct qc_ixf_buf b = {0};
            struct qc_run r[2];

            for (int k = 0; k < 2; k++) {
                r[k] = qc_run_make((uint64_t)k * 512, 512, t[i].kind[k],
                                   t[i].kind[k] == QC_DATA ? (uint64_t)k * 512 : 0);
                r[k].source = t[i].source[k];
            }
            assert_int_equal(qc_ixf_put_runs(&b, &e, r, 3 - calls, 3), 0);
            if (calls == 2)
                assert_int_equal(qc_ixf_put_runs(&b, &e, r + 1, 1, 3), 0);
            assert_int_equal(e.n_runs, t[i].n);
            assert_int_equal(e.something, t[i].kind[0] > QC_SHORT);
            qc_ixf_buf_finish(&b);
        }
    }
}

/* ------------------------------------------------------------------ damage --- */

/* Two layers, one with a data file, and two pages, one of which is nothing. */
static void small_sidecar(struct qc_ixf_buf *file)
{
    static uint64_t start[2] = {0, QC_IXF_WINDOW};
    struct qc_ixf_source source[3] = {source_make(0, 65536, QC_IXF_WINDOW + 512),
                                      source_make(1, 65536, 65536), data_file_make(1)};
    struct qc_ixf_encoder e[2] = {{0}};
    struct qc_ixf_buf page[2] = {{0}};
    struct plan plan = {.virtual_size = QC_IXF_WINDOW + 512, .source = source, .n_sources = 3,
                        .n_layers = 2, .n_pages = 2, .start = start, .page = page, .encoder = e};
    struct qc_run run[4] = {
        qc_run_make(0, 65536, QC_COMPRESSED, 1000), qc_run_make(65536, 65536, QC_DATA, 65536),
        qc_run_make(131072, QC_IXF_WINDOW - 131072, QC_SHORT, 0),
        qc_run_make(QC_IXF_WINDOW, 512, QC_END, 0)};

    run[0].sectors = 257;
    run[1].source = 2;
    run[2].source = 1;
    run[3].source = 1;
    assert_int_equal(qc_ixf_put_runs(&page[0], &e[0], run, 3, 3), 0);
    assert_int_equal(qc_ixf_put_runs(&page[1], &e[1], run + 3, 1, 3), 0);
    assert_int_equal(plan_build(&plan, file), 0);
    qc_ixf_buf_finish(&page[0]);
    qc_ixf_buf_finish(&page[1]);
}

static void noticed(const struct qc_ixf_buf *file, size_t at)
{
    qchain_error err;
    int ret;

    qc_error_init(&err);
    ret = swallow(file->p, file->n, &err);
    if (ret != QCHAIN_E_CORRUPT && ret != QCHAIN_E_UNSUPPORTED)
        fail_msg("byte %zu: result %d", at, ret);
    assert_int_equal(err.code, ret);
    assert_true(err.text[0] != '\0');
}

static void each_bit_counts(void **unused)
{
    struct qc_ixf_buf file;

    (void)unused;
    small_sidecar(&file);
    assert_int_equal(swallow(file.p, file.n, NULL), 0);
    for (size_t i = 0; i < file.n; i++) {
        for (unsigned bit = 0; bit < 8; bit++) {
            file.p[i] ^= (uint8_t)(1 << bit);
            noticed(&file, i);
            file.p[i] ^= (uint8_t)(1 << bit);
        }
        file.p[i] = (uint8_t)~file.p[i];
        noticed(&file, i);
        file.p[i] = (uint8_t)~file.p[i];
    }
    assert_int_equal(swallow(file.p, file.n, NULL), 0);
    qc_ixf_buf_finish(&file);
}

static void each_byte_is_needed(void **unused)
{
    struct qc_ixf_buf file;
    size_t whole;

    (void)unused;
    small_sidecar(&file);
    whole = file.n;
    for (file.n = 0; file.n < whole; file.n++)
        noticed(&file, file.n);
    file.p = realloc(file.p, whole + 1);
    file.p[whole] = 0;
    file.n = whole + 1; /* and none too many */
    noticed(&file, whole);
    qc_ixf_buf_finish(&file);
}

/* ------------------------------------------------------------------ memory --- */

static void parsing_without_memory(void **unused)
{
    int ret = QCHAIN_E_NOMEM;
    struct qc_ixf_buf file;
    qchain_error err;

    (void)unused;
    small_sidecar(&file);
    for (long k = 1; ret != 0; k++) {
        assert_true(k < 100);
        qc_error_init(&err);
        countdown = k;
        ret = swallow(file.p, file.n, &err);
        countdown = 0;
        if (ret != 0) {
            assert_int_equal(ret, QCHAIN_E_NOMEM);
            assert_int_equal(err.code, QCHAIN_E_NOMEM);
        } else {
            assert_true(k > 10); /* that many were refused, each once */
        }
    }
    qc_ixf_buf_finish(&file);
}

/* A list that has runs already keeps them, whatever fails behind them. */
static void decoding_adds_all_or_nothing(void **unused)
{
    struct qc_runs got = {0};
    struct qc_ixf_buf file;
    struct qc_ixf x;

    (void)unused;
    small_sidecar(&file);
    assert_int_equal(parse(&x, file.p, file.n, NULL), 0);
    assert_int_equal(decode(&x, file.p, 0, 65536, 0, &got, NULL), 0);
    assert_int_equal(got.n, 1);
    x.page[0].n_runs++; /* of which there is none more */
    assert_int_equal(decode(&x, file.p, 0, QC_IXF_WINDOW, 0, &got, NULL), QCHAIN_E_CORRUPT);
    assert_int_equal(got.n, 1);
    x.page[0].n_runs--;
    assert_int_equal(decode(&x, file.p, 65536, QC_IXF_WINDOW, 0, &got, NULL), 0);
    assert_int_equal(got.n, 3);
    qc_runs_finish(&got);
    qc_ixf_finish(&x);
    qc_ixf_buf_finish(&file);
}

static void writing_without_memory(void **unused)
{
    struct qc_run r = qc_run_make(0, 512, QC_ZERO, 0);
    struct qc_ixf_source s = source_make(0, 512, 512);
    struct qc_ixf_page page = {0};
    struct qc_ixf_encoder e = {0};
    struct qc_ixf_buf b = {0};

    (void)unused;
    countdown = 1;
    assert_int_equal(qc_ixf_put_runs(&b, &e, &r, 1, 1), QCHAIN_E_NOMEM);
    countdown = 1;
    assert_int_equal(qc_ixf_put_source(&b, &s), QCHAIN_E_NOMEM);
    countdown = 1;
    assert_int_equal(qc_ixf_put_page(&b, &page), QCHAIN_E_NOMEM);
    assert_int_equal(b.n, 0);
    qc_ixf_buf_finish(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trips),
        cmocka_unit_test(empty_disks),
        cmocka_unit_test(records),
        cmocka_unit_test(each_bit_counts),
        cmocka_unit_test(each_byte_is_needed),
        cmocka_unit_test(parsing_without_memory),
        cmocka_unit_test(decoding_adds_all_or_nothing),
        cmocka_unit_test(writing_without_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
