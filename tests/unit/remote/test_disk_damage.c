/* SPDX-License-Identifier: MIT */
/* The disk cache's files and directory may hold anything: that is a miss, or refused, never a wrong byte. */
#include <sys/stat.h>
#include <sys/wait.h>

#include "disk_tools.h"

#define MIB ((uint64_t)1 << 20)

static struct rig rig;
static struct fake_tier fake;

static int setup(void **unused)
{
    (void)unused;
    rig_init(&rig, 100 * MIB);
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

static struct qc_tier *the_tier(uint64_t size)
{
    return tier_of(&rig, &fake, "k", "s", size, "\"1\"");
}

/* An object with its first bytes stored; the path of its file. */
static char *stored(uint64_t size, size_t length)
{
    struct qc_tier *t = the_tier(size);

    assert_int_equal(fetch(t, 0, length, 1), 0);
    qc_tier_close(t);
    return only_file(&rig, ".data");
}

/* Is it there, as one finds it who comes new? */
static bool there(uint64_t size, uint64_t offset, size_t length)
{
    struct qc_tier *t = the_tier(size);
    bool found = local(t, offset, length, 1);

    qc_tier_close(t);
    return found;
}

static void flip(int fd, off_t at, int bit)
{
    uint8_t byte;

    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= (uint8_t)(1 << bit);
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
}

/* Every byte of a small cache in turn. */
static void flipped_bytes(void **unused)
{
    size_t size = 2 * QC_GRAIN + 100;
    char *path = stored(size, size);
    off_t table = (off_t)qc_disk_frame_at(0), data = table + 2 * QC_GRAIN;
    int fd = open(path, O_RDWR);

    (void)unused;
    assert_true(there(size, 0, size));
    for (off_t i = 0; i < QC_DISK_HEADER; i++) {
        flip(fd, i, i % 8);
        assert_false(there(size, 0, size));
        flip(fd, i, i % 8);
    }
    for (off_t i = 0; i < QC_GRAIN; i++) {
        flip(fd, table + i, i % 8);
        assert_int_equal(there(size, 0, size), i >= 24);
        if (i < 24) { /* the others are there still */
            assert_false(there(size, (uint64_t)i / 8 * QC_GRAIN, 1));
            assert_true(there(size, (uint64_t)(i / 8 + 1) % 3 * QC_GRAIN, 1));
        }
        flip(fd, table + i, i % 8);
    }
    for (off_t i = 0; i < (off_t)sizeof(struct qc_disk_meta); i++) {
        flip(fd, table + QC_GRAIN + i, i % 8);
        assert_true(there(size, 0, size));
    }
    for (off_t i = 0; i < 3 * QC_GRAIN; i++) {
        flip(fd, data + i, i % 8);
        assert_false(there(size, (uint64_t)i / QC_GRAIN * QC_GRAIN, 100));
        assert_false(there(size, 0, size));
        assert_true(there(size, ((uint64_t)i / QC_GRAIN + 1) % 3 * QC_GRAIN, 100));
        flip(fd, data + i, i % 8);
    }
    assert_true(there(size, 0, size));
    assert_true(counted(&rig, QC_CNT_DISK_DAMAGED) >= 3 * QC_GRAIN);
    close(fd);
    qc_free(path);
}

/* Data that is gone, its entries being there: as if somebody who evicts were half done. Nothing is damaged. */
static void holes(void **unused)
{
    size_t size = 8 * QC_GRAIN;
    char *path = stored(size, size);
    int fd = open(path, O_RDWR);

    (void)unused;
    assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                               (off_t)qc_disk_frame_at(0) + 3 * QC_GRAIN, 6 * QC_GRAIN), 0);
    assert_true(there(size, 0, QC_GRAIN));
    assert_false(there(size, QC_GRAIN, QC_GRAIN));
    assert_false(there(size, 0, size));
    assert_int_equal(counted(&rig, QC_CNT_DISK_DAMAGED), 0);
    close(fd);
    qc_free(path);
}

static void truncated(void **unused)
{
    uint64_t size = 3 * MIB, seed = mem_seed(41);
    char *path = stored(size, size);
    struct stat st;

    (void)unused;
    assert_int_equal(stat(path, &st), 0);
    for (int i = 0; i < 200; i++) {
        off_t to = i < 10 ? i * 500 : (off_t)(random_next(&seed) % (uint64_t)st.st_size);
        struct qc_tier *t = the_tier(size);
        uint64_t first;

        if (i % 2) /* who has it open already */
            assert_true(local(t, 0, size, 1));
        assert_int_equal(truncate(path, to), 0);
        first = to < (off_t)(2 * MIB) ? 0 : (uint64_t)to - 2 * MIB;
        first = first < 2 * MIB ? first / QC_GRAIN * QC_GRAIN : 2 * MIB;
        if (i % 2)
            assert_false(local(t, 0, size, 1));
        if (first >= QC_GRAIN)
            assert_true(local(t, 0, first, 1));
        if (first < 2 * MIB) /* of later ones it depends on where the next frame begins */
            assert_false(local(t, first, QC_GRAIN, 1));
        assert_int_equal(fetch(t, 0, size, 1), 0); /* it mends itself */
        assert_true(local(t, 0, size, 1));
        qc_tier_close(t);
        if (to < QC_GRAIN) { /* by another file */
            qc_free(path);
            path = only_file(&rig, ".data");
        }
        assert_true(there(size, 0, size));
    }
    qc_free(path);
}

static void copy_part(const char *from, off_t at, const char *to, off_t there_, size_t length)
{
    int in = open(from, O_RDONLY), out = open(to, O_RDWR);
    char *buf = malloc(length);

    assert_true(in >= 0 && out >= 0);
    assert_int_equal(pread(in, buf, length, at), length);
    assert_int_equal(pwrite(out, buf, length, there_), length);
    free(buf);
    close(in);
    close(out);
}

/* What is right in one place is wrong in all others. */
static void swapped(void **unused)
{
    uint64_t size = 4 * MIB;
    char *path = stored(size, 4 * MIB), *other;
    off_t f0 = (off_t)qc_disk_frame_at(0), f1 = (off_t)qc_disk_frame_at(1);
    struct qc_tier *t;

    (void)unused;
    copy_part(path, f0, path, f1, QC_FRAME_BYTES); /* a frame */
    assert_true(there(size, 0, 2 * MIB));
    for (uint64_t at = 2 * MIB; at < 4 * MIB; at += QC_GRAIN)
        assert_false(there(size, at, QC_GRAIN));
    /* A grain with its entry. */
    copy_part(path, f0 + 8, path, f0, 8);
    copy_part(path, f0 + 3 * QC_GRAIN, path, f0 + 2 * QC_GRAIN, QC_GRAIN);
    assert_false(there(size, 0, QC_GRAIN));
    assert_true(there(size, QC_GRAIN, QC_GRAIN));
    t = the_tier(size);
    assert_true(local(t, QC_GRAIN, QC_GRAIN, 1)); /* also right after all was well */
    assert_false(local(t, 0, QC_GRAIN, 1));
    assert_int_equal(fetch(t, 0, size, 1), 0); /* it mends itself */
    assert_true(local(t, 0, size, 1));
    qc_tier_close(t);

    /* A frame, and the whole file, of another object. */
    other = qc_asprintf("%s/saved", rig.dir);
    assert_int_equal(rename(path, other), 0);
    fake.seed = 2;
    t = tier_of(&rig, &fake, "k", "s", size, "\"2\"");
    assert_int_equal(fetch(t, 0, size, 2), 0);
    qc_free(path);
    path = only_file(&rig, ".data");
    copy_part(other, f0, path, f0, QC_FRAME_BYTES);
    assert_true(local(t, 2 * MIB, 2 * MIB, 2));
    for (uint64_t at = 0; at < 2 * MIB; at += QC_GRAIN)
        assert_false(local(t, at, QC_GRAIN, 2));
    qc_tier_close(t);
    assert_int_equal(rename(other, path), 0);
    t = tier_of(&rig, &fake, "k", "s", size, "\"2\"");
    assert_false(local(t, 2 * MIB, QC_GRAIN, 2));
    assert_int_equal(fetch(t, 0, size, 2), 0);
    assert_true(local(t, 0, size, 2));
    qc_tier_close(t);
    qc_free(path);
    qc_free(other);
}

/* Random bytes, holes and lengths, anywhere. */
static void noise(void **unused)
{
    uint64_t size = 4 * MIB + 5, seed = mem_seed(42);
    char *path = stored(size, size);
    unsigned hits = 0;

    (void)unused;
    for (int i = 0; i < 300; i++) {
        struct qc_tier *t = the_tier(size);
        char junk[5000];
        int fd = open(path, O_RDWR);
        off_t at = (off_t)(random_next(&seed) % (3 * QC_FRAME_STRIDE));
        size_t n = random_next(&seed) % sizeof(junk);

        if (i % 3 == 0)
            at = (off_t)(qc_disk_frame_at(0) + random_next(&seed) % 8192);
        for (size_t j = 0; j < n; j++)
            junk[j] = i % 4 ? (char)random_next(&seed) : 0;
        assert_int_equal(pwrite(fd, junk, n, at), n);
        close(fd);
        for (int j = 0; j < 50; j++) {
            uint64_t from = random_next(&seed) % size, most = size - from;

            hits += local(t, from, 1 + random_next(&seed) % (most < 20000 ? most : 20000), 1);
        }
        if (i % 20 == 0)
            assert_int_equal(fetch(t, 0, size, 1), 0);
        qc_tier_close(t);
        qc_free(path);
        path = only_file(&rig, ".data");
    }
    assert_true(hits > 1000);
    qc_free(path);
}

/* Things that are no files stand where one should. */
static void strange_files(void **unused)
{
    uint64_t size = 8192;
    char *path = stored(size, size), *aside = qc_asprintf("%s/aside", rig.dir);
    struct qc_tier *t;
    struct stat st;

    (void)unused;
    assert_int_equal(rename(path, aside), 0);
    for (int kind = 0; kind < 4; kind++) {
        t = the_tier(size);
        if (kind == 0)
            assert_int_equal(symlink(aside, path), 0);
        else if (kind == 1)
            assert_int_equal(mkfifo(path, 0600), 0);
        else if (kind == 2)
            close(open(path, O_WRONLY | O_CREAT, 0600)); /* empty */
        else
            assert_int_equal(mkdir(path, 0700), 0);
        assert_false(local(t, 0, size, 1));
        assert_int_equal(fetch(t, 0, size, 1), 0);
        assert_int_equal(local(t, 0, size, 1), kind != 3);
        qc_tier_close(t);
        assert_int_equal(lstat(path, &st), 0);
        assert_int_equal(S_ISREG(st.st_mode), kind != 3);
        assert_int_equal(st.st_mode & 077, 0);
        assert_int_equal(remove(path), 0);
    }
    qc_free(path);
    qc_free(aside);
}

/* --------------------------------------------------------------- directory --- */

static int open_code(const char *dir, const char *says)
{
    struct qc_disk *d;
    int ret = qc_disk_open(&d, dir, &rig.o, &rig.err);

    if (ret == 0)
        qc_disk_close(d);
    else
        assert_non_null(strstr(rig.err.text, says));
    return ret;
}

static void directories(void **unused)
{
    char *link = qc_asprintf("%s/link", rig.dir), *slash = qc_asprintf("%s/link///", rig.dir);
    char *none = qc_asprintf("%s/no/such", rig.dir), *file = qc_asprintf("%s/file", rig.dir);
    char *twice = qc_asprintf("%s//", rig.cache), *v1 = qc_asprintf("%s/v1", rig.cache);
    qchain_cache_info info;
    struct stat st;

    (void)unused;
    assert_int_equal(stat(rig.cache, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    assert_int_equal(stat(v1, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    assert_int_equal(open_code(twice, ""), 0);
    assert_int_equal(symlink(rig.cache, link), 0);
    assert_int_equal(open_code(link, "symbolic link"), QCHAIN_E_ACCESS);
    assert_int_equal(open_code(slash, "symbolic link"), QCHAIN_E_ACCESS);
    assert_int_equal(qc_disk_stat(slash, &info, &rig.err), QCHAIN_E_ACCESS);
    assert_int_equal(open_code(none, "No such file"), QCHAIN_E_NOTFOUND);
    close(open(file, O_WRONLY | O_CREAT, 0600));
    assert_int_equal(open_code(file, "not a directory"), QCHAIN_E_INVAL);
    for (int i = 0; i < 2; i++) {
        const char *which = i ? v1 : rig.cache;

        assert_int_equal(chmod(which, 0702), 0);
        assert_int_equal(open_code(rig.cache, "chmod go-w"), QCHAIN_E_ACCESS);
        assert_int_equal(chmod(which, 0720), 0);
        assert_int_equal(open_code(rig.cache, "chmod go-w"), QCHAIN_E_ACCESS);
        assert_int_equal(qc_disk_clear(rig.cache, &rig.err), QCHAIN_E_ACCESS);
        assert_int_equal(chmod(which, 0755), 0);
        assert_int_equal(open_code(rig.cache, ""), 0);
        if (geteuid() == 0) {
            assert_int_equal(chown(which, 1234, 0), 0);
            assert_int_equal(open_code(rig.cache, "belongs to user 1234"), QCHAIN_E_ACCESS);
            assert_int_equal(chown(which, 0, 0), 0);
        }
    }
    assert_int_equal(rename(v1, none), -1);
    assert_int_equal(rmdir(v1), 0);
    assert_int_equal(symlink(rig.dir, v1), 0);
    assert_int_equal(open_code(rig.cache, "symbolic link"), QCHAIN_E_ACCESS);
    assert_int_equal(unlink(v1), 0);
    qc_free(link);
    qc_free(slash);
    qc_free(none);
    qc_free(file);
    qc_free(twice);
    qc_free(v1);
}

/* A file that another user owns is not believed. */
static void foreign_file(void **unused)
{
    char *path;

    (void)unused;
    if (geteuid() != 0)
        skip();
    path = stored(8192, 8192);
    assert_true(there(8192, 0, 8192));
    assert_int_equal(chown(path, 1234, 0), 0);
    assert_false(there(8192, 0, 8192));
    qc_free(path);
    path = stored(8192, 8192); /* replaced */
    assert_true(there(8192, 0, 8192));
    qc_free(path);
}

int main(void)
{
#define WITH_RIG(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        WITH_RIG(flipped_bytes), WITH_RIG(holes),         WITH_RIG(truncated),   WITH_RIG(swapped),
        WITH_RIG(noise),         WITH_RIG(strange_files), WITH_RIG(directories), WITH_RIG(foreign_file),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
