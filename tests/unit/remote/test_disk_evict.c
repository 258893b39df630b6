/* SPDX-License-Identifier: MIT */
/* The disk cache's size: who is evicted, and maintenance. */
#include <sys/stat.h>

#include "disk_tools.h"

#define MIB ((uint64_t)1 << 20)

static struct rig rig;
static struct fake_tier fake;

static int setup(void **unused)
{
    (void)unused;
    rig_init(&rig, 1000 * MIB);
    rig_open(&rig);
    fake_init(&fake, 1);
    return 0;
}

static int teardown(void **unused)
{
    (void)unused;
    rig_finish(&rig);
    return 0;
}

static uint64_t usage(void)
{
    qchain_cache_info info = {0};

    assert_int_equal(qc_disk_stat(rig.cache, &info, &rig.err), 0);
    return info.bytes;
}

/* When a frame was last used, as the medium says. */
static void set_used(const char *path, uint64_t frame, uint64_t used)
{
    int fd = open(path, O_RDWR);

    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, &used, sizeof(used), (off_t)qc_disk_frame_at(frame) + QC_GRAIN), 8);
    close(fd);
}

static uint64_t get_used(const char *path, uint64_t frame)
{
    int fd = open(path, O_RDONLY);
    uint64_t used;

    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &used, sizeof(used), (off_t)qc_disk_frame_at(frame) + QC_GRAIN), 8);
    close(fd);
    return used;
}

/* Those used least recently go first, over all files; a time to come is no time. */
static void oldest_first(void **unused)
{
    enum { N = 8 };
    static const uint64_t used[N] = {500, 100, 800, 300, UINT64_MAX, 700, 200, 600};
    struct qc_tier *t = tier_of(&rig, &fake, "k", "", N * 2 * MIB, "\"1\""), *u;
    qchain_cache_info info = {0};
    uint64_t freed, before;
    char *path;

    (void)unused;
    for (uint64_t i = 0; i < N; i++)
        assert_int_equal(fetch(t, i * 2 * MIB, i == 2 ? 4096 : 2 * MIB, 1), 0);
    path = only_file(&rig, ".data");
    assert_true(qc_disk_now() - get_used(path, 3) < 60);
    for (uint64_t i = 0; i < N; i++)
        set_used(path, i, used[i]);
    u = tier_of(&rig, &fake, "other", "", 2 * MIB, "\"1\"");
    assert_int_equal(fetch(u, 0, 2 * MIB, 1), 0);
    before = usage();
    assert_int_equal(qc_disk_shrink(rig.d->fd, 5 * QC_FRAME_BYTES + MIB, NULL, &freed), 0);
    assert_int_equal(before - freed, usage());
    for (uint64_t i = 0; i < N; i++) /* 4, 1, 6 are gone */
        assert_int_equal(local(t, i * 2 * MIB, 4096, 1), i != 4 && i != 1 && i != 6);
    assert_true(local(u, 0, 2 * MIB, 1));
    assert_int_equal(fetch(t, 1 * 2 * MIB, 2 * MIB, 1), 0);
    assert_true(local(t, 1 * 2 * MIB, 2 * MIB, 1));

    /* All of it: the files go too, and whoever has them open makes new ones. */
    qc_disk_note_pin(rig.d, "k", "", &(struct qc_pin){.size = 1, .etag = "x"});
    assert_int_equal(qc_disk_trim(rig.cache, 0, &info, &rig.err), 0);
    assert_int_equal(info.bytes, 0);
    assert_int_equal(info.objects, 0);
    assert_true(info.freed > 5 * QC_FRAME_DATA);
    assert_int_equal(files_of(&rig, ".data") + files_of(&rig, ".name"), 0);
    assert_false(local(t, 0, 4096, 1));
    assert_int_equal(fetch(t, 0, 2 * MIB, 1), 0);
    assert_true(local(t, 0, 2 * MIB, 1));
    assert_int_equal(files_of(&rig, ".data"), 1);
    assert_int_equal(counted(&rig, QC_CNT_DISK_DAMAGED), 0); /* what was evicted is not damaged */
    qc_tier_close(t);
    qc_tier_close(u);
    qc_free(path);
}

/* Reading notes the time, but not all the time. */
static void use_is_noted(void **unused)
{
    struct qc_tier *t = tier_of(&rig, &fake, "k", "", 2 * MIB, "\"1\"");
    char *path;

    (void)unused;
    assert_int_equal(fetch(t, 0, 2 * MIB, 1), 0);
    path = only_file(&rig, ".data");
    assert_true(local(t, 0, 4096, 1));
    set_used(path, 0, 1000);
    assert_true(local(t, 0, 4096, 1));
    assert_int_equal(get_used(path, 0), 1000); /* by this process, within the minute */
    qc_tier_close(t);
    rig_reopen(&rig);
    t = tier_of(&rig, &fake, "k", "", 2 * MIB, "\"1\"");
    assert_true(local(t, 8192, 4096, 1));
    assert_true(qc_disk_now() - get_used(path, 0) < 60);
    qc_tier_close(t);
    qc_free(path);
}

/* A cache that is written to keeps its size by itself. */
static void keeps_its_size(void **unused)
{
    uint64_t most = 16 * MIB, size = 200 * MIB;
    struct qc_tier *t;

    (void)unused;
    rig.o.max_bytes = most;
    rig_reopen(&rig);
    t = tier_of(&rig, &fake, "k", "", size, "\"1\"");
    for (uint64_t at = 0; at < size; at += 2 * MIB) {
        struct timespec nap = {0, 1000000};

        assert_int_equal(fetch(t, at, 2 * MIB, 1), 0);
        for (int i = 0; i < 30000 && usage() > most + 4 * MIB; i++) /* the look is another task */
            nanosleep(&nap, NULL);
        assert_true(usage() <= most + 4 * MIB);
    }
    qc_tier_close(t);
    qc_disk_close(rig.d); /* ends what looks */
    rig.d = NULL;
    assert_true(usage() <= most + 4 * MIB);
    rig_open(&rig);
}

/* Files of those who were killed, old records, and what is none of ours. */
static void leftovers(void **unused)
{
    struct timespec old[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
    uint8_t digest[QC_DISK_DIGEST] = {1};
    char name[QC_DISK_NAME], *path, *mine = qc_asprintf("%s/v1/precious.data", rig.cache);
    struct qc_tier *t = tier_of(&rig, &fake, "k", "", 4 * MIB, "\"1\"");
    uint64_t freed;

    (void)unused;
    assert_int_equal(fetch(t, 0, 4 * MIB, 1), 0);
    close(open(mine, O_WRONLY | O_CREAT, 0600));
    for (int i = 0; i < 4; i++) {
        qc_disk_file_name(name, digest, i % 2 ? ".tmp" : ".name");
        digest[1]++;
        path = qc_asprintf("%s/v1/%s", rig.cache, name);
        close(open(path, O_WRONLY | O_CREAT, 0600));
        if (i < 2)
            assert_int_equal(utimensat(AT_FDCWD, path, old, 0), 0);
        qc_free(path);
    }
    assert_int_equal(qc_disk_shrink(rig.d->fd, 3 * MIB, NULL, &freed), 0);
    assert_int_equal(files_of(&rig, ".tmp"), 1);
    assert_int_equal(files_of(&rig, ".name"), 1);
    assert_int_equal(qc_disk_clear(rig.cache, &rig.err), 0);
    assert_int_equal(files_of(&rig, ".tmp") + files_of(&rig, ".name"), 0);
    assert_int_equal(files_of(&rig, ".data"), 1); /* it has not the name of one of ours */
    assert_int_equal(access(mine, F_OK), 0);
    qc_tier_close(t);
    qc_free(mine);
}

static void verify(void **unused)
{
    struct qc_tier *t = tier_of(&rig, &fake, "k", "", 4 * MIB + 10, "\"1\"");
    qchain_cache_info info = {0};
    uint8_t digest[QC_DISK_DIGEST] = {1};
    char name[QC_DISK_NAME], *path;
    uint64_t junk = 0x1234567890;
    int fd;

    (void)unused;
    assert_int_equal(fetch(t, 0, 4 * MIB + 10, 1), 0);
    qc_disk_note_pin(rig.d, "k", "", &(struct qc_pin){.size = 1, .etag = "x"});
    assert_int_equal(qc_disk_verify(rig.cache, &info, &rig.err), 0);
    assert_int_equal(info.checked, 1025);
    assert_int_equal(info.damaged, 0);
    assert_int_equal(info.freed, 0);
    assert_int_equal(info.objects, 1);
    assert_true(info.bytes > 4 * MIB);

    path = only_file(&rig, ".data");
    fd = open(path, O_RDWR);
    assert_int_equal(pwrite(fd, "x", 1, (off_t)qc_disk_frame_at(0) + 5 * QC_GRAIN + 17), 1);
    assert_int_equal(pwrite(fd, &junk, 8, (off_t)qc_disk_frame_at(1) + 8 * 100), 8);
    assert_int_equal(pwrite(fd, &junk, 8, (off_t)qc_disk_frame_at(2) + 8 * 100), 8); /* past the end */
    memset(&info, 0, sizeof(info));
    assert_int_equal(qc_disk_verify(rig.cache, &info, &rig.err), 0);
    assert_int_equal(info.damaged, 3);
    assert_int_equal(info.checked, 1026);
    assert_true(info.freed >= 2 * QC_GRAIN);
    memset(&info, 0, sizeof(info));
    assert_int_equal(qc_disk_verify(rig.cache, &info, &rig.err), 0);
    assert_int_equal(info.damaged, 0);
    assert_int_equal(info.checked, 1023);
    assert_false(local(t, 3 * QC_GRAIN, 1, 1));
    assert_true(local(t, 4 * QC_GRAIN, 1, 1));

    assert_int_equal(pwrite(fd, "x", 1, 100), 1); /* files that are none */
    close(fd);
    qc_free(path);
    path = only_file(&rig, ".name");
    assert_int_equal(truncate(path, 50), 0);
    qc_free(path);
    qc_disk_file_name(name, digest, ".data");
    path = qc_asprintf("%s/v1/%s", rig.cache, name);
    assert_int_equal(symlink("/etc/passwd", path), 0);
    qc_free(path);
    memset(&info, 0, sizeof(info));
    assert_int_equal(qc_disk_verify(rig.cache, &info, &rig.err), 0);
    assert_int_equal(info.damaged, 3);
    assert_int_equal(info.objects, 0);
    assert_int_equal(files_of(&rig, ".data") + files_of(&rig, ".name"), 0);
    qc_tier_close(t);
}

/* ----------------------------------------------------------------- threads --- */

#define THREADS 4
#define OBJECTS 3

struct worker {
    pthread_t       id;
    struct qc_tier **t;
    uint64_t        seed, size;
    unsigned        hits;
};

static void *work(void *arg)
{
    struct worker *w = arg;

    for (int i = 0; i < 300; i++) {
        unsigned which = random_next(&w->seed) % OBJECTS;
        uint64_t at = random_next(&w->seed) % w->size / QC_GRAIN * QC_GRAIN;
        uint64_t n = (1 + random_next(&w->seed) % 30) * QC_GRAIN;

        n = n < w->size - at ? n : w->size - at;
        if (i % 50 == 49)
            qc_disk_object_forget(*(struct qc_disk_object **)(w->t[which] + 1));
        if (local(w->t[which], at, n, which))
            w->hits++;
        else
            assert_int_equal(fetch(w->t[which], at, n, which), 0);
    }
    return NULL;
}

/* Everything at once, with hardly any room; for the thread sanitizer too. */
static void threads(void **unused)
{
    uint64_t seed = mem_seed(51), size = 5 * MIB + 77;
    struct fake_tier fakes[OBJECTS];
    struct worker w[THREADS];
    struct qc_tier *t[OBJECTS];
    unsigned hits = 0;

    (void)unused;
    rig.o.max_bytes = 6 * MIB;
    rig_reopen(&rig);
    for (unsigned i = 0; i < OBJECTS; i++) {
        char key[8];

        snprintf(key, sizeof(key), "%u", i);
        fake_init(&fakes[i], i);
        t[i] = tier_of(&rig, &fakes[i], key, "", size, "\"1\"");
    }
    for (int i = 0; i < THREADS; i++) {
        w[i] = (struct worker){.t = t, .seed = random_next(&seed), .size = size};
        assert_int_equal(pthread_create(&w[i].id, NULL, work, &w[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(w[i].id, NULL);
        hits += w[i].hits;
    }
    for (int i = 0; i < OBJECTS; i++)
        qc_tier_close(t[i]);
    assert_true(hits > 20);
    assert_int_equal(rig.lines, 0);
    rig_reopen(&rig);
}

int main(void)
{
#define WITH_RIG(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        WITH_RIG(oldest_first), WITH_RIG(use_is_noted), WITH_RIG(keeps_its_size),
        WITH_RIG(leftovers),    WITH_RIG(verify),       WITH_RIG(threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
