/* SPDX-License-Identifier: MIT */
/* Recording what is read, and reading it back: order, rotation, cuts, threads, memory that fails. */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "failing_memory.h"
#include "chain/trace_file.h"
#include "image_tools.h"
#include "mem_layers.h"
#include "ops/trace_load.h"
#include "share.h"
#include "util/bytes.h"
/* The recorder by itself, to make a lane small. */
#include "chain/recorder.c"

#define MIB (UINT64_C(1) << 20)
#define DISK (16 * MIB)

static char dir[] = "/tmp/qc-trace-XXXXXX", file[64], older[64];
static qchain_error *err;
static uint64_t seed;
static struct mem_chain *m;
static qchain *c;

static qchain_trace *load(const char *name, uint32_t flags)
{
    qchain_trace_load_opts o;
    qchain_trace *t = NULL;

    qchain_trace_load_opts_init(&o, sizeof(o));
    o.flags = flags;
    if (qchain_trace_load(&t, NULL, &name, 1, &o, err) != 0)
        print_error("%s\n", qchain_error_message(err));
    return t;
}

static void start(uint64_t max_bytes, uint32_t flags)
{
    qchain_trace_opts o;

    qchain_trace_opts_init(&o, sizeof(o));
    o.max_bytes = max_bytes;
    o.flags = flags;
    assert_int_equal(qchain_trace_start(c, file, &o, err), 0);
}

static void read_at(uint64_t offset, size_t length)
{
    static unsigned char buf[MIB];

    assert_int_equal(qchain_read(c, buf, length, offset, 0, err), 0);
}

static off_t size_of(const char *name)
{
    struct stat st;

    return stat(name, &st) == 0 ? st.st_size : -1;
}

static void pause_ms(long ms)
{
    nanosleep(&(struct timespec){0, ms * 1000000}, NULL);
}

/* The same of a file that is written: between a renaming and the next one's first bytes there is none. */
static off_t size_written(const char *name)
{
    for (unsigned i = 0; i < 2000 && size_of(name) < QC_TRACE_HEADER_BYTES; i++)
        pause_ms(5);
    return size_of(name);
}

/* ------------------------------------------------------------------ recording --- */

static int sink_write(void *data, const void *buf, size_t length, uint64_t offset, qchain_error *e)
{
    (void)data, (void)buf, (void)length, (void)offset, (void)e;
    return 0;
}

/* Every way to read leaves its ranges, in order; neighbours are one. */
static void all_ways_are_recorded(void **unused)
{
    qchain_sink sink = {.struct_size = sizeof(sink), .write = sink_write};
    static unsigned char buf[65536];
    qchain_iov iov[2] = {{buf, 1000}, {buf, 3096}};
    qchain_completion done;
    qchain_copy_opts copy;
    qchain_queue *q;
    qchain_trace *t;

    (void)unused;
    start(0, 0);
    read_at(5 * MIB, 4096);
    assert_int_equal(qchain_readv(c, iov, 2, 5 * MIB + 4096, 0, err), 0);
    assert_int_equal(qchain_queue_create(&q, c, NULL, err), 0);
    assert_int_equal(qchain_queue_read(q, buf, 512, 1 * MIB, 0, NULL, err), 0);
    assert_int_equal(qchain_queue_reap(q, &done, 1, 1, -1), 1);
    qchain_queue_destroy(q);
    read_at(3 * MIB, 0);
    assert_int_equal(qchain_read(c, buf, 512, DISK, 0, err), QCHAIN_E_RANGE);
    qchain_copy_opts_init(&copy, sizeof(copy));
    copy.offset = 8 * MIB;
    copy.length = 65536;
    assert_int_equal(qchain_copy_out(c, &sink, &copy, err), 0);
    assert_int_equal(qchain_trace_start(c, file, NULL, err), QCHAIN_E_BUSY);
    assert_int_equal(qchain_trace_stop(c, err), 0);
    read_at(7 * MIB, 4096);
    assert_int_equal(qchain_trace_stop(c, err), QCHAIN_E_NOTFOUND);
    t = load(file, 0);
    assert_non_null(t);
    assert_int_equal(t->n_records, 3);
    assert_true(t->records[0].offset == 5 * MIB && t->records[0].length == 8192 && t->records[0].reads == 2);
    assert_true(t->records[1].offset == MIB && t->records[1].length == 512 && t->records[1].reads == 1);
    assert_true(t->records[2].offset == 8 * MIB && t->records[2].length == 65536);
    assert_true(t->disk_size == DISK && t->unread == 0 && t->lost == 0 && t->n_ranges == 3);
    assert_true(t->ranges[1].offset == MIB && t->ranges[1].length == 512 && t->ranges[1].chain == 0);
    qchain_trace_free(t);
}

static void a_recording_ends_with_its_chain(void **unused)
{
    qchain *other = NULL;
    qchain_trace *t;

    (void)unused;
    assert_int_equal(mem_chain_open(m, &other, NULL, NULL, err), 0);
    assert_int_equal(qchain_trace_start(other, file, NULL, err), 0);
    assert_int_equal(qchain_trace_start(c, file, NULL, err), QCHAIN_E_LOCKED);
    assert_int_equal(qchain_trace_save(&(qchain_trace){.struct_size = sizeof(qchain_trace)}, file, err),
                     QCHAIN_E_LOCKED);
    assert_int_equal(qchain_read(other, &(char){0}, 1, 77, 0, err), 0);
    qchain_close(other);
    t = load(file, 0);
    assert_non_null(t);
    assert_true(t->n_records == 1 && t->records[0].offset == 77 && t->records[0].length == 1);
    qchain_trace_free(t);
    /* Started again, it is a new one; and one without a read is a trace, too. */
    start(0, 0);
    assert_int_equal(qchain_trace_stop(c, err), 0);
    t = load(file, 0);
    assert_non_null(t);
    assert_true(t->n_records == 0 && t->n_ranges == 0);
    qchain_trace_free(t);
}

/* What lies there and is no trace stays. */
static void nothing_else_is_written_over(void **unused)
{
    static const char *const content[] = {"x", "QCHAINT", "QFI\xfb and so on"};
    FILE *f;

    (void)unused;
    for (unsigned i = 0; i < 2 * sizeof(content) / sizeof(content[0]); i++) {
        const char *name = i % 2 ? older : file;
        qchain_trace empty = {.struct_size = sizeof(empty)};

        unlink(file);
        unlink(older);
        f = fopen(name, "w");
        fputs(content[i / 2], f);
        fclose(f);
        assert_int_equal(qchain_trace_start(c, file, NULL, err), QCHAIN_E_INVAL);
        assert_int_equal(size_of(name), strlen(content[i / 2]));
        if (name == file)
            assert_int_equal(qchain_trace_save(&empty, file, err), QCHAIN_E_INVAL);
        assert_int_equal(size_of(name), strlen(content[i / 2]));
    }
    unlink(file);
    unlink(older);
    assert_int_not_equal(qchain_trace_start(c, dir, NULL, err), 0);
    assert_int_equal(symlink("elsewhere", file), 0);
    assert_int_not_equal(qchain_trace_start(c, file, NULL, err), 0);
    unlink(file);
    assert_int_equal(qchain_trace_start(c, "/tmp/qc-no-such-directory/trace", NULL, err), QCHAIN_E_NOTFOUND);
    assert_int_equal(qchain_trace_start(c, "", NULL, err), QCHAIN_E_INVAL);
}

static void options_are_checked(void **unused)
{
    qchain_trace_load_opts lo;
    qchain_trace_opts o;
    const char *name = file;
    qchain_trace *t;

    (void)unused;
    qchain_trace_opts_init(&o, sizeof(o));
    o.flags = 2;
    assert_int_equal(qchain_trace_start(c, file, &o, err), QCHAIN_E_INVAL);
    o.flags = 0;
    o.max_bytes = 128 * 1024 - 1;
    assert_int_equal(qchain_trace_start(c, file, &o, err), QCHAIN_E_INVAL);
    o.max_bytes = 8 * MIB + 1;
    assert_int_equal(qchain_trace_start(c, file, &o, err), QCHAIN_E_INVAL);
    qchain_trace_load_opts_init(&lo, sizeof(lo));
    lo.flags = 4;
    assert_int_equal(qchain_trace_load(&t, NULL, &name, 1, &lo, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_trace_load(&t, NULL, &name, 0, NULL, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_trace_load(&t, NULL, &name, 1, NULL, err), QCHAIN_E_NOTFOUND);
    assert_int_equal(qchain_trace_stop(NULL, err), QCHAIN_E_INVAL);
    qchain_trace_free(NULL);
}

/* ------------------------------------------------------------------- rotation --- */

/* Far apart, so that each is a record; about nine bytes of file. */
static void read_many(unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        read_at(random_next(&seed) % (DISK / 512 - 1) * 512, 512);
        if (i % 512 == 511)
            pause_ms(1); /* lets the writer keep up where there is one processor */
    }
}

/* The latest reads are kept, at least half as much as may be; never more than may be. */
static void the_latest_are_kept(void **unused)
{
    uint64_t last, last_offset = 7 * MIB;
    qchain_trace *t;

    (void)unused;
    start(128 * 1024, 0);
    for (unsigned round = 0; round < 5; round++) {
        read_many(10000);
        pause_ms(300);
        assert_in_range(size_written(file), QC_TRACE_HEADER_BYTES, 64 * 1024);
        assert_true(size_of(older) <= 64 * 1024);
    }
    read_at(last_offset, 1);
    assert_int_equal(qchain_trace_stop(c, err), 0);
    assert_in_range(size_of(older), 30 * 1024, 64 * 1024);
    t = load(file, 0);
    assert_non_null(t);
    last = t->n_records - 1;
    assert_true(t->records[last].offset == last_offset && t->records[last].length == 1 && t->unread == 0);
    assert_in_range(t->n_records, 3000, 30000);
    assert_true(t->records[0].time_us > 0);
    for (uint64_t i = 1; i <= last; i++)
        assert_true(t->records[i].time_us >= t->records[i - 1].time_us);
    qchain_trace_free(t);
    /* Between a renaming and the next file there is the older one alone. */
    assert_int_equal(unlink(file), 0);
    t = load(file, 0);
    assert_non_null(t);
    assert_true(t->n_records > 0);
    qchain_trace_free(t);
    /* An older file of another recording is not this one's. */
    start(0, 0);
    assert_int_equal(size_of(older), -1);
    assert_int_equal(qchain_trace_stop(c, err), 0);
}

/* The part that was renamed counts if it is of the same recording, and the one right before. */
static void a_part_of_another_recording_does_not_count(void **unused)
{
    uint64_t alone, both;
    char kept[80];
    qchain_trace *t;

    (void)unused;
    snprintf(kept, sizeof(kept), "%s/kept", dir);
    for (unsigned i = 0; i < 2; i++) {
        start(128 * 1024, 0);
        read_many(9000);
        assert_int_equal(qchain_trace_stop(c, err), 0);
        assert_true(size_of(older) > 0);
        if (i == 0)
            assert_int_equal(rename(older, kept), 0);
    }
    t = load(file, 0);
    assert_non_null(t);
    both = t->n_records;
    qchain_trace_free(t);
    assert_int_equal(rename(kept, older), 0);
    t = load(file, 0);
    assert_non_null(t);
    alone = t->n_records;
    qchain_trace_free(t);
    assert_true(alone < both);
    unlink(older);
    t = load(file, 0);
    assert_non_null(t);
    assert_int_equal(t->n_records, alone);
    qchain_trace_free(t);
}

/* Who puts another file in its place keeps that. */
static void a_file_that_was_replaced_is_not_renamed(void **unused)
{
    FILE *f;

    (void)unused;
    start(128 * 1024, 0);
    read_at(0, 512);
    assert_int_equal(unlink(file), 0);
    f = fopen(file, "w");
    fputs("mine", f);
    fclose(f);
    read_many(20000);
    assert_int_equal(qchain_trace_stop(c, err), QCHAIN_E_IO);
    assert_int_equal(size_of(file), 4);
    assert_int_equal(size_of(older), -1);
}

static void the_first_are_kept(void **unused)
{
    qchain_trace *t;

    (void)unused;
    start(128 * 1024, QCHAIN_TRACE_KEEP_FIRST);
    read_at(9 * MIB, 3);
    pause_ms(300); /* so that it is a block of its own */
    read_many(40000);
    assert_int_equal(qchain_trace_stop(c, err), 0);
    assert_in_range(size_of(file), 90 * 1024, 128 * 1024);
    assert_int_equal(size_of(older), -1);
    t = load(file, 0);
    assert_non_null(t);
    assert_true(t->records[0].offset == 9 * MIB && t->records[0].length == 3 && t->unread == 0);
    assert_in_range(t->n_records, 5000, 30000);
    qchain_trace_free(t);
}

/* ---------------------------------------------------------------------- cuts --- */

static void write_file(const char *name, const uint8_t *p, size_t n)
{
    FILE *f = fopen(name, "w");

    assert_int_equal(fwrite(p, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* A trace of some blocks by the writer itself; its bytes. */
static uint8_t *some_blocks(uint64_t *size, uint64_t *n_records)
{
    qchain_trace *t;

    start(0, 0);
    for (unsigned i = 0; i < 4; i++) {
        for (unsigned k = 0; k < 5; k++)
            read_at((i * 5 + k) * 40961, 100 + k);
        pause_ms(300);
    }
    assert_int_equal(qchain_trace_stop(c, err), 0);
    t = load(file, 0);
    assert_non_null(t);
    *n_records = t->n_records;
    qchain_trace_free(t);
    return load_file(file, size);
}

/* What is left is the beginning of what was; what is not is told. header: whether that is right. */
static void check_beginning(const qchain_trace *whole, uint64_t size, bool header)
{
    const char *name = file;
    qchain_trace *t = NULL;

    if (qchain_trace_load(&t, NULL, &name, 1, NULL, err) != 0) {
        assert_false(header);
        return;
    }
    assert_true(header);
    assert_true(t->n_records <= whole->n_records && t->unread < size);
    if (t->n_records)
        assert_memory_equal(t->records, whole->records, t->n_records * sizeof(*t->records));
    qchain_trace_free(t);
}

static void cut_or_damaged_it_tells_its_beginning(void **unused)
{
    uint64_t size, n_records, full = 0;
    uint8_t *p = some_blocks(&size, &n_records);
    qchain_trace *whole = load(file, 0);

    (void)unused;
    assert_non_null(p);
    assert_int_equal(n_records, 20);
    for (uint64_t n = 0; n < size; n++) {
        qchain_trace *t;

        write_file(file, p, n);
        check_beginning(whole, size, n >= QC_TRACE_HEADER_BYTES);
        if (n < QC_TRACE_HEADER_BYTES)
            continue;
        t = load(file, 0);
        assert_non_null(t);
        assert_true(t->n_records >= full); /* a longer one never has less */
        full = t->n_records;
        qchain_trace_free(t);
    }
    assert_in_range(full, 1, 19);
    for (uint64_t i = 0; i < size; i++) {
        p[i] ^= (uint8_t)(1u << i % 8);
        write_file(file, p, size);
        check_beginning(whole, size, i >= QC_TRACE_HEADER_BYTES);
        p[i] ^= (uint8_t)(1u << i % 8);
    }
    qchain_trace_free(whole);
    free(p);
}

/* --------------------------------------------------------------------- order --- */

/* Each byte belongs to the first record that has it, by a plain map of a small disk. */
static void each_byte_once_where_it_was_first(void **unused)
{
    enum { SMALL = 400 };
    qchain_trace_record r[64], *out;
    size_t n_out;

    (void)unused;
    for (unsigned round = 0; round < share(4000); round++) {
        size_t n = random_next(&seed) % 64;
        uint8_t owner[SMALL], seen[SMALL] = {0};
        uint64_t before = 0;

        memset(owner, 0xff, sizeof(owner));
        for (size_t i = 0; i < n; i++) {
            r[i].time_us = i;
            r[i].offset = random_next(&seed) % SMALL;
            r[i].length = 1 + random_next(&seed) % qc_min64(60, SMALL - r[i].offset);
            r[i].reads = 3;
            for (uint64_t at = r[i].offset; at < r[i].offset + r[i].length; at++)
                owner[at] = owner[at] == 0xff ? (uint8_t)i : owner[at];
        }
        assert_int_equal(qc_trace_distinct(r, n, &out, &n_out, err), 0);
        assert_true(n_out <= 2 * n);
        for (size_t i = 0; i < n_out; i++) {
            assert_true(out[i].time_us >= before && out[i].reads == 1);
            before = out[i].time_us;
            for (uint64_t at = out[i].offset; at < out[i].offset + out[i].length; at++) {
                assert_int_equal(owner[at], out[i].time_us);
                assert_int_equal(seen[at]++, 0);
            }
        }
        for (unsigned at = 0; at < SMALL; at++)
            assert_int_equal(seen[at], owner[at] != 0xff);
        free(out);
    }
}

static void several_are_merged_by_time(void **unused)
{
    qchain_trace_record one[] = {{10, 0, 100, 2}, {30, 1000, 10, 1}}, two[] = {{5, 50, 100, 1}, {30, 900, 300, 9}};
    qchain_trace a = {.struct_size = sizeof(a), .disk_size = 500, .began_ns = 9, .n_records = 2, .records = one};
    qchain_trace b = {.struct_size = sizeof(b), .disk_size = 1000, .began_ns = 7, .n_records = 2, .records = two,
                      .lost = 3};
    char other[80];
    const char *names[2] = {file, other};
    qchain_trace_load_opts o;
    qchain_trace *t;

    (void)unused;
    snprintf(other, sizeof(other), "%s/other", dir);
    assert_int_equal(qchain_trace_save(&a, file, err), 0);
    assert_int_equal(qchain_trace_save(&b, other, err), 0);
    qchain_trace_load_opts_init(&o, sizeof(o));
    o.flags = QCHAIN_TRACE_LOAD_DISTINCT;
    o.disk_size = 1005;
    o.chain = 4;
    assert_int_equal(qchain_trace_load(&t, NULL, names, 2, &o, err), 0);
    assert_true(t->disk_size == 1000 && t->began_ns == 7 && t->lost == 3 && t->n_records == 3 && t->n_ranges == 3);
    assert_true(t->records[0].offset == 50 && t->records[0].length == 100 && t->records[0].time_us == 5);
    assert_true(t->records[1].offset == 0 && t->records[1].length == 50 && t->records[1].time_us == 10);
    assert_true(t->records[2].offset == 900 && t->records[2].length == 105 && t->records[2].time_us == 30);
    assert_true(t->ranges[2].offset == 900 && t->ranges[2].length == 105 && t->ranges[2].chain == 4);
    assert_int_equal(qchain_trace_save(t, other, err), 0);
    qchain_trace_free(t);
    t = load(other, 0);
    assert_non_null(t);
    assert_true(t->n_records == 3 && t->lost == 3 && t->records[2].length == 105 && t->began_ns == 7);
    qchain_trace_free(t);
    one[1].time_us = 9;
    assert_int_equal(qchain_trace_save(&a, file, err), QCHAIN_E_INVAL);
    one[1] = (qchain_trace_record){10, INT64_MAX, 1, 1};
    assert_int_equal(qchain_trace_save(&a, file, err), QCHAIN_E_INVAL);
    one[1] = (qchain_trace_record){10, 0, 0, 1};
    assert_int_equal(qchain_trace_save(&a, file, err), QCHAIN_E_INVAL);
    unlink(other);
}

/* -------------------------------------------------------------------- threads --- */

#define READERS 6

static atomic_bool over;
static atomic_uint_fast64_t n_read;

/* Each byte of its own part once, in an order that nothing joins. */
static void *reader(void *arg)
{
    uint64_t part = DISK / READERS / 1024, first = (uint64_t)(uintptr_t)arg * part;
    char b[2];

    for (uint64_t i = 0; i < share(1000); i++) {
        (void)qchain_read(c, b, 2, (first + i * 11 % part) * 1024, 0, NULL);
        atomic_fetch_add(&n_read, 1);
    }
    return NULL;
}

static void *stopper(void *arg)
{
    (void)arg;
    while (!atomic_load(&over)) {
        (void)qchain_trace_start(c, file, NULL, NULL);
        pause_ms(1);
        (void)qchain_trace_stop(c, NULL);
    }
    return NULL;
}

static void run_readers(void)
{
    pthread_t id[READERS];

    for (uintptr_t i = 0; i < READERS; i++)
        assert_int_equal(pthread_create(&id[i], NULL, reader, (void *)i), 0);
    for (unsigned i = 0; i < READERS; i++)
        pthread_join(id[i], NULL);
}

/* Nothing is missing of what several threads read but what is told to be, nor is anything there that nobody did. */
static void threads_read(void **unused)
{
    uint64_t reads = 0;
    qchain_trace *t;

    (void)unused;
    atomic_store(&n_read, 0);
    start(0, 0);
    run_readers();
    assert_int_equal(qchain_trace_stop(c, err), 0);
    t = load(file, 0);
    assert_non_null(t);
    for (uint64_t i = 0; i < t->n_records; i++) {
        assert_true(t->records[i].length == 2 && t->records[i].offset % 1024 == 0);
        reads += t->records[i].reads;
    }
    assert_int_equal(reads + t->lost, atomic_load(&n_read));
    assert_int_equal(t->n_ranges + t->lost, share(1000) * READERS);
    qchain_trace_free(t);
}

/* Starting and stopping again and again under readers. */
static void recordings_come_and_go(void **unused)
{
    pthread_t id;

    (void)unused;
    atomic_store(&over, false);
    assert_int_equal(pthread_create(&id, NULL, stopper, NULL), 0);
    for (unsigned i = 0; i < 5; i++)
        run_readers();
    atomic_store(&over, true);
    pthread_join(id, NULL);
    qchain_trace_free(load(file, 0));
}

/* What does not fit is counted, and nothing else happens to it. */
static void what_does_not_fit_is_counted(void **unused)
{
    uint64_t reads = 0;
    qchain_trace *t;

    (void)unused;
    start(0, 0);
    open_lanes(c->own_recorder, false);
    c->own_recorder->room = 1;
    open_lanes(c->own_recorder, true);
    for (uint64_t i = 0; i < 2000; i++)
        read_at((i * 11 % 2000) * 4096, 512);
    assert_int_equal(qchain_trace_stop(c, err), 0);
    c->own_recorder->room = ALL_RECORDS / c->own_recorder->n_lanes;
    t = load(file, 0);
    assert_non_null(t);
    for (uint64_t i = 0; i < t->n_records; i++)
        reads += t->records[i].reads;
    assert_true(reads > 0 && t->lost > 0);
    assert_int_equal(reads + t->lost, 2000);
    qchain_trace_free(t);
}

/* --------------------------------------------------------------------- memory --- */

/* Where it fails, the call says so and all is as before; what a recording takes is bounded. */
static void memory_fails(void **unused)
{
    const char *name = file;
    qchain_trace *t;
    int ret = 0;

    (void)unused;
    for (int i = 0;; i++) {
        atomic_store(&fail_in, i);
        ret = qchain_trace_start(c, file, NULL, err);
        if (ret == 0)
            break;
        assert_int_equal(ret, QCHAIN_E_NOMEM);
    }
    atomic_store(&fail_in, -1);
    atomic_store(&n_asked, 0);
    read_many(3000);
    assert_int_equal(atomic_load(&n_asked), 0);
    assert_int_equal(qchain_trace_stop(c, err), 0);
    for (int i = 0;; i++) {
        atomic_store(&fail_in, i);
        ret = qchain_trace_load(&t, NULL, &name, 1, NULL, err);
        if (ret == 0)
            break;
        assert_int_equal(ret, QCHAIN_E_NOMEM);
        assert_null(t);
    }
    for (int i = 0;; i++) {
        atomic_store(&fail_in, i);
        ret = qchain_trace_save(t, file, err);
        if (ret == 0)
            break;
        assert_int_equal(ret, QCHAIN_E_NOMEM);
    }
    atomic_store(&fail_in, -1);
    qchain_trace_free(t);
}

/* What could be written is there, the readers noticed nothing, and who stops it is told. */
static void a_full_disk_ends_it(void **unused)
{
    struct rlimit old, small;
    qchain_trace *t;
    int ret;

    (void)unused;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur = 50000;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    start(0, 0);
    read_many(20000);
    ret = qchain_trace_stop(c, err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_not_equal(ret, 0);
    assert_non_null(strstr(qchain_error_message(err), file));
    t = load(file, 0);
    assert_non_null(t);
    assert_true(t->n_records > 0 && t->unread == 0 && size_of(file) <= 50000);
    qchain_trace_free(t);
}

static int set_up(void **unused)
{
    (void)unused;
    (void)qchain_trace_stop(c, NULL); /* of one that failed */
    unlink(file);
    unlink(older);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(all_ways_are_recorded, set_up),
        cmocka_unit_test_setup(a_recording_ends_with_its_chain, set_up),
        cmocka_unit_test_setup(nothing_else_is_written_over, set_up),
        cmocka_unit_test_setup(options_are_checked, set_up),
        cmocka_unit_test_setup(the_latest_are_kept, set_up),
        cmocka_unit_test_setup(a_part_of_another_recording_does_not_count, set_up),
        cmocka_unit_test_setup(a_file_that_was_replaced_is_not_renamed, set_up),
        cmocka_unit_test_setup(the_first_are_kept, set_up),
        cmocka_unit_test_setup(cut_or_damaged_it_tells_its_beginning, set_up),
        cmocka_unit_test_setup(each_byte_once_where_it_was_first, set_up),
        cmocka_unit_test_setup(several_are_merged_by_time, set_up),
        cmocka_unit_test_setup(threads_read, set_up),
        cmocka_unit_test_setup(recordings_come_and_go, set_up),
        cmocka_unit_test_setup(what_does_not_fit_is_counted, set_up),
        cmocka_unit_test_setup(memory_fails, set_up),
        cmocka_unit_test_setup(a_full_disk_ends_it, set_up),
    };
    int result;

    seed = mem_seed(20261128);
    err = qchain_error_create();
    m = mem_chain_create(2);
    if (!err || !m || !mkdtemp(dir))
        return 1;
    snprintf(file, sizeof(file), "%s/trace", dir);
    snprintf(older, sizeof(older), "%s/trace.1", dir);
    mem_layer_init(m, 0, DISK, 16);
    mem_layer_init(m, 1, DISK, 16);
    for (uint64_t i = 0; i < DISK / 65536; i++)
        mem_layer_set(m, i % 2, i, MEM_DATA);
    if (mem_chain_open(m, &c, NULL, NULL, err) != 0)
        return 1;
    result = cmocka_run_group_tests(tests, NULL, NULL);
    qchain_close(c);
    mem_chain_destroy(m);
    qchain_error_destroy(err);
    unlink(file);
    unlink(older);
    rmdir(dir);
    return result;
}
