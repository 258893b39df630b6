/* SPDX-License-Identifier: MIT */
/* The disk cache: what is there and what is not, what stays, what happens when the disk is full. */
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "disk_tools.h"

#define MIB ((uint64_t)1 << 20)

/* Ranges are stored and read at random; a model says which grains must be there. */
static void as_a_model(void **unused)
{
    enum { GRAINS = 1400 };
    uint64_t size = GRAINS * (uint64_t)QC_GRAIN - 1000, seed = mem_seed(31), hits = 0, bytes = 0;
    static bool there[GRAINS];
    struct fake_tier fake;
    struct qc_tier *t;
    struct rig r;

    (void)unused;
    memset(there, 0, sizeof(there));
    rig_init(&r, 100 * MIB);
    rig_open(&r);
    fake_init(&fake, 7);
    t = tier_of(&r, &fake, "http://h/a", "", size, "\"1\"");
    for (int round = 0; round < 3000; round++) {
        uint64_t at = random_next(&seed) % size, end;
        uint64_t n = random_next(&seed) % (round % 3 == 0 ? 2000000 : round % 3 == 1 ? 20000 : 5000);
        bool want = true;

        if (round % 40 == 0) {
            uint64_t first = at / QC_GRAIN, last;

            n = n / 40 + 1;
            last = (at + n - 1) / QC_GRAIN;
            last = last < GRAINS ? last : GRAINS - 1;
            end = (last + 1) * QC_GRAIN < size ? (last + 1) * QC_GRAIN : size;
            assert_int_equal(fetch(t, first * QC_GRAIN, end - first * QC_GRAIN, 7), 0);
            for (; first <= last; first++)
                there[first] = true;
            continue;
        }
        n = n + 1 < size - at ? n + 1 : size - at;
        if (round % 4 == 0) { /* about what is there */
            while (at < size && !there[at / QC_GRAIN])
                at += QC_GRAIN;
            if (at >= size)
                continue;
            n = n < size - at ? n : size - at;
        }
        for (uint64_t g = at / QC_GRAIN; g <= (at + n - 1) / QC_GRAIN; g++)
            want &= there[g];
        assert_int_equal(local(t, at, n, 7), want);
        hits += want;
        bytes += want ? n : 0;
        if (round % 500 == 499) { /* all of it from the medium again */
            qc_tier_close(t);
            rig_reopen(&r);
            t = tier_of(&r, &fake, "http://h/a", "", size, "\"1\"");
        }
    }
    assert_true(hits > 300);
    assert_true(counted(&r, QC_CNT_DISK_HITS) >= hits);
    assert_true(counted(&r, QC_CNT_DISK_BYTES) >= bytes);
    assert_int_equal(counted(&r, QC_CNT_DISK_DAMAGED), 0);
    assert_int_equal(r.lines, 0);
    qc_tier_close(t);
    rig_finish(&r);
}

static void a_hit_asks_nobody(void **unused)
{
    uint64_t size = 5 * MIB + 123;
    struct fake_tier fake;
    struct qc_tier *t;
    struct rig r;

    (void)unused;
    rig_init(&r, 100 * MIB);
    rig_open(&r);
    fake_init(&fake, 1);
    t = tier_of(&r, &fake, "k", "s", size, "\"1\"");
    assert_false(local(t, 0, 1, 1));
    assert_int_equal(fetch(t, 0, size, 1), 0); /* over three frames */
    assert_int_equal(fake.fetches, 1);
    assert_int_equal(counted(&r, QC_CNT_DISK_STORES), 1);
    assert_int_equal(fetch(t, 0, size, 1), 0);
    assert_int_equal(fetch(t, 5 * MIB, 123, 1), 0);
    assert_true(local(t, 0, size, 1));
    assert_true(local(t, size - 1, 1, 1));
    assert_true(local(t, 4095, 2, 1));
    assert_int_equal(fake.fetches, 1);
    assert_int_equal(counted(&r, QC_CNT_DISK_STORES), 1);
    qc_tier_close(t);
    assert_int_equal(fake.closed, 1);

    rig_reopen(&r); /* it stays */
    t = tier_of(&r, &fake, "k", "s", size, "\"1\"");
    assert_true(local(t, 0, size, 1));
    qc_tier_close(t);
    rig_finish(&r);
}

/* Another name, another asker, another generation: another object. */
static void identities(void **unused)
{
    struct qc_pin pin = {.size = 8192, .etag = "\"1\""};
    struct fake_tier fake, other;
    struct qc_tier *t, *u;
    struct rig r;

    (void)unused;
    rig_init(&r, 100 * MIB);
    rig_open(&r);
    fake_init(&fake, 1);
    fake_init(&other, 2);
    t = tier_of(&r, &fake, "key", "scope", 8192, "\"1\"");
    assert_int_equal(fetch(t, 0, 8192, 1), 0);
    const char *const others[][3] = {{"key", "scope", "\"2\""}, {"key", "scop", "\"1\""},
                                     {"keys", "cope", "\"1\""}, {"key", "", "\"1\""},
                                     {"key2", "scope", "\"1\""}, {"key", "scope", "W/\"1\""}};
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        u = tier_of(&r, &other, others[i][0], others[i][1], 8192, others[i][2]);
        assert_false(local(u, 0, 8192, 2));
        assert_int_equal(fetch(u, 0, 8192, 2), 0);
        assert_true(local(u, 0, 8192, 2));
        qc_tier_close(u);
    }
    u = tier_of(&r, &other, "key", "scope", 8193, "\"1\"");
    assert_false(local(u, 0, 8192, 2));
    qc_tier_close(u);
    /* Times of change are of no account where there is a strong tag, nor is what else is in the pin. */
    pin.mtime_s = 12345;
    memset(pin.etag + 10, 'x', 50);
    assert_int_equal(qc_disk_tier_create(&u, r.d, "key", "scope", &pin, &other.base, &r.err), 0);
    assert_true(local(u, 0, 8192, 1));
    qc_tier_close(u);
    /* No validator at all: not kept. */
    memset(&pin, 0, sizeof(pin));
    pin.size = 8192;
    assert_int_equal(qc_disk_tier_create(&u, r.d, "key", "scope", &pin, &other.base, &r.err), 0);
    assert_ptr_equal(u, &other.base);
    assert_true(local(t, 0, 8192, 1));
    qc_tier_close(t);
    rig_finish(&r);
}

/* What the tier below says of failures, the asker hears; what it gave before, too. */
static void failures_below(void **unused)
{
    static uint8_t buf[MIB];
    struct fake_tier fake;
    struct qc_tier *t;
    struct asker a;
    struct rig r;

    (void)unused;
    rig_init(&r, 100 * MIB);
    rig_open(&r);
    fake_init(&fake, 1);
    t = tier_of(&r, &fake, "k", "s", MIB, "\"1\"");
    atomic_store(&fake.fails, QCHAIN_E_CHANGED);
    ask(&a, t, buf, 0, MIB);
    assert_int_equal(await(&a), QCHAIN_E_CHANGED);
    assert_string_equal(a.f.err.text, "the tier below says so");
    assert_int_equal(a.f.err.code, QCHAIN_E_CHANGED);
    assert_int_equal(a.have, MIB / 2);
    assert_false(a.backwards);
    assert_false(local(t, 0, 4096, 1)); /* nothing was stored */
    atomic_store(&fake.fails, 0);
    ask(&a, t, buf, 0, MIB);
    assert_int_equal(await(&a), 0);
    assert_int_equal(a.have, MIB);
    assert_true(local(t, 0, MIB, 1));
    qc_tier_close(t);
    rig_finish(&r);
}

/* Many at once, and an end right behind them; more than may wait to be stored is not stored. */
static void many_at_once(void **unused)
{
    enum { N = 40 };
    static struct asker a[N];
    struct fake_tier fake;
    struct qc_tier *t;
    uint8_t *buf = malloc(N * 2 * MIB);
    struct rig r;

    (void)unused;
    rig_init(&r, 1000 * MIB);
    rig_open(&r);
    fake_init(&fake, 1);
    t = tier_of(&r, &fake, "k", "s", N * 2 * MIB, "\"1\"");
    for (uint64_t i = 0; i < N; i++)
        ask(&a[i], t, buf + i * 2 * MIB, i * 2 * MIB, 2 * MIB);
    for (uint64_t i = 0; i < N; i++) {
        assert_int_equal(await(&a[i]), 0);
        assert_false(a[i].backwards);
    }
    assert_true(right_bytes(buf, 0, N * 2 * MIB, 1));
    assert_int_equal(atomic_load(&r.d->queued), 0);
    atomic_store(&r.d->queued, QC_DISK_QUEUE - 2 * MIB + 1);
    qc_tier_close(t);
    t = tier_of(&r, &fake, "k2", "s", N * 2 * MIB, "\"1\"");
    assert_int_equal(fetch(t, 0, 2 * MIB, 1), 0);
    assert_false(local(t, 0, 4096, 1));
    atomic_store(&r.d->queued, QC_DISK_QUEUE - 2 * MIB);
    assert_int_equal(fetch(t, 0, 2 * MIB, 1), 0);
    assert_true(local(t, 0, 2 * MIB, 1));
    atomic_store(&r.d->queued, 0);
    qc_tier_close(t);
    rig_finish(&r);
    free(buf);
}

/* More objects than files may be open. */
static void many_objects(void **unused)
{
    enum { N = 300 };
    static struct qc_tier *t[N];
    static struct fake_tier fake[N];
    struct rig r;
    int fds = 0;

    (void)unused;
    rig_init(&r, 1000 * MIB);
    rig_open(&r);
    for (int i = 0; i < N; i++) {
        char key[32];

        snprintf(key, sizeof(key), "key %d", i);
        fake_init(&fake[i], (unsigned)i);
        t[i] = tier_of(&r, &fake[i], key, "", 4096, "\"1\"");
        assert_int_equal(fetch(t[i], 0, 4096, (unsigned)i), 0);
    }
    assert_int_equal(r.d->n_open, QC_DISK_FILES);
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < N; i++)
            assert_true(local(t[i], 0, 4096, (unsigned)i));
    assert_int_equal(r.d->n_open, QC_DISK_FILES);
    for (int fd = 0; fd < 1024; fd++)
        fds += fcntl(fd, F_GETFD) >= 0;
    assert_true(fds < QC_DISK_FILES + 20);
    assert_int_equal(files_of(&r, ".data"), N);
    for (int i = 0; i < N; i++)
        qc_tier_close(t[i]);
    assert_int_equal(r.d->n_open, 0);
    rig_finish(&r);
}

/* As if a minute had gone by. */
static void drop_tables(struct rig *r, struct qc_tier *t)
{
    struct qc_disk_object *o = *(struct qc_disk_object **)(t + 1); /* the first thing of its own */

    qc_block_drop_owner(r->o.blocks, atomic_load(&o->owner));
}

/* Two who have the cache open (as two processes would) see what the other stores and removes. */
static void two_of_them(void **unused)
{
    struct fake_tier fake, fake2;
    struct qc_tier *t, *u;
    struct rig r, r2;

    (void)unused;
    rig_init(&r, 100 * MIB);
    rig_init(&r2, 100 * MIB);
    rig_open(&r);
    qc_free(r2.cache);
    r2.cache = qc_strdup(r.cache);
    rig_open(&r2);
    fake_init(&fake, 1);
    fake_init(&fake2, 1);
    t = tier_of(&r, &fake, "k", "", 4 * MIB, "\"1\"");
    u = tier_of(&r2, &fake2, "k", "", 4 * MIB, "\"1\"");
    assert_int_equal(fetch(t, 0, 8192, 1), 0);
    assert_true(local(u, 0, 8192, 1));
    assert_int_equal(fetch(u, 8192, 8192, 1), 0); /* into a frame whose table is in memory there */
    assert_true(local(t, 0, 16384, 1));
    assert_int_equal(qc_disk_clear(r.cache, &r.err), 0);
    assert_true(local(t, 0, 16384, 1)); /* the file is open still */
    assert_int_equal(files_of(&r, ".data"), 0);
    assert_int_equal(fetch(t, 2 * MIB, 4096, 1), 0); /* it is noticed, and a new one is made */
    assert_int_equal(files_of(&r, ".data"), 1);
    assert_false(local(t, 0, 16384, 1));
    assert_true(local(t, 2 * MIB, 4096, 1));
    assert_false(local(u, 2 * MIB, 4096, 1));
    assert_true(local(u, 0, 4096, 1)); /* of the old file */
    assert_int_equal(fetch(u, 3 * MIB, 4096, 1), 0);
    assert_true(local(u, 2 * MIB, 4096, 1));
    assert_true(local(t, 3 * MIB, 4096, 1));
    assert_false(local(u, 0, 4096, 1));

    assert_int_equal(qc_disk_clear(r.cache, &r.err), 0);
    assert_true(local(u, 2 * MIB, 4096, 1));
    drop_tables(&r2, u); /* who only reads notices after a while too */
    assert_true(local(u, 2 * MIB, 4096, 1));
    assert_false(local(u, 2 * MIB, 4096, 1));
    qc_tier_close(t);
    qc_tier_close(u);
    rig_finish(&r);
    rig_finish(&r2);
}

/* -------------------------------------------------------------- full disks --- */

/* Reads go on, nothing is wrong, and one line says it. */
static void use_a_full_disk(struct rig *r, const char *key)
{
    struct fake_tier fake;
    struct qc_tier *t;
    unsigned there = 0;

    fake_init(&fake, 1);
    t = tier_of(r, &fake, key, "", 64 * MIB, "\"1\"");
    for (uint64_t i = 0; i < 32; i++)
        assert_int_equal(fetch(t, i * 2 * MIB, 2 * MIB, 1), 0);
    assert_int_equal(fake.fetches, 32);
    for (uint64_t g = 0; g < 64 * MIB / QC_GRAIN; g++)
        there += local(t, g * QC_GRAIN, QC_GRAIN, 1);
    assert_true(there < 64 * MIB / QC_GRAIN / 2);
    assert_int_equal(counted(r, QC_CNT_DISK_DAMAGED), 0);
    qc_tier_close(t);
}

static void no_space(void **unused)
{
    struct rig r;

    (void)unused;
    rig_init(&r, 1000 * MIB);
    if (mkdir(r.cache, 0700) != 0 || geteuid() != 0 ||
        mount("none", r.cache, "tmpfs", 0, "size=8m,mode=700") != 0) {
        rig_finish(&r);
        skip();
    }
    rig_open(&r);
    use_a_full_disk(&r, "k");
    assert_int_equal(r.lines, 1);
    assert_non_null(strstr(r.last_line, "No space left"));
    assert_non_null(strstr(r.last_line, "30 s"));
    assert_false(qc_disk_fills(r.d));
    atomic_store(&r.d->off_until, 1); /* half a minute later */
    assert_true(qc_disk_fills(r.d));
    use_a_full_disk(&r, "k2");
    assert_int_equal(r.lines, 2);
    qc_disk_close(r.d);
    r.d = NULL;
    assert_int_equal(umount(r.cache), 0);
    rig_finish(&r);
}

/* A limit of the process must not end it by a signal. */
static void file_limit(void **unused)
{
    struct rlimit old, small = {5 * MIB, 0};
    struct qc_pin pin = {.size = 1, .etag = "x"};
    struct fake_tier fake;
    struct qc_tier *t;
    struct rig r;

    (void)unused;
    rig_init(&r, 1000 * MIB);
    rig_open(&r);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small.rlim_max = old.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    use_a_full_disk(&r, "k");
    fake_init(&fake, 1); /* other objects are stored still */
    t = tier_of(&r, &fake, "k2", "", 4096, "\"1\"");
    assert_int_equal(fetch(t, 0, 4096, 1), 0);
    assert_true(local(t, 0, 4096, 1));
    qc_tier_close(t);
    small.rlim_cur = 100;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    qc_disk_note_pin(r.d, "k", "", &pin); /* on a thread that has its signals */
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(qc_disk_find_pin(r.d, "k", "", 60, &pin), QCHAIN_E_NOTFOUND);
    assert_int_equal(files_of(&r, ".tmp"), 0);
    rig_finish(&r);
}

/* A directory that may not be written to serves reads. */
static int read_only(struct rig *r)
{
    struct fake_tier fake;
    struct qc_tier *t;
    bool ok;

    rig_open(r);
    fake_init(&fake, 1);
    t = tier_of(r, &fake, "k", "", 4 * MIB, "\"1\"");
    ok = local(t, 0, 4096, 1) && !local(t, 0, 8192, 1) && fetch(t, 0, 8192, 1) == 0 &&
         !local(t, 0, 8192, 1) && r->lines == 0;
    qc_tier_close(t);
    t = tier_of(r, &fake, "other", "", 4 * MIB, "\"1\"");
    ok = ok && fetch(t, 0, 8192, 1) == 0 && !local(t, 0, 8192, 1);
    qc_tier_close(t);
    qc_disk_close(r->d);
    qc_tasks_destroy(r->o.leaves);
    return ok ? 0 : 1;
}

static void closed_directory(void **unused)
{
    struct fake_tier fake;
    struct qc_tier *t;
    struct rig r;
    char cmd[200];
    int status;
    pid_t pid;

    (void)unused;
    rig_init(&r, 1000 * MIB);
    rig_open(&r);
    fake_init(&fake, 1);
    t = tier_of(&r, &fake, "k", "", 4 * MIB, "\"1\"");
    assert_int_equal(fetch(t, 0, 4096, 1), 0);
    qc_tier_close(t);
    qc_disk_close(r.d);
    r.d = NULL;
    qc_tasks_destroy(r.o.leaves); /* no thread may be there when we fork */
    r.o.leaves = NULL;
    snprintf(cmd, sizeof(cmd), "cd %s && %s && chmod 755 . && chmod 400 c/v1/* && chmod 500 c c/v1",
             r.dir, geteuid() == 0 ? "chown -R 65534:65534 ." : "true");
    assert_int_equal(system(cmd), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0))
            _exit(99);
        r.o.leaves = qc_tasks_create(1);
        _exit(read_only(&r));
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    snprintf(cmd, sizeof(cmd), "chmod 700 %s/c %s/c/v1", r.dir, r.dir);
    assert_int_equal(system(cmd), 0);
    r.o.leaves = qc_tasks_create(1);
    rig_finish(&r);
}

/* ------------------------------------------------------------------- names --- */

static void names(void **unused)
{
    struct qc_pin pin = {.size = 77, .mtime_s = 5, .etag = "\"abc\"", .version = "v"}, got;
    struct stat before, after;
    struct timespec old[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
    struct rig r;
    char *path;

    (void)unused;
    rig_init(&r, 1000 * MIB);
    rig_open(&r);
    assert_int_equal(qc_disk_find_pin(r.d, "k", "s", 60, &got), QCHAIN_E_NOTFOUND);
    qc_disk_note_pin(r.d, "k", "s", &pin);
    memset(&got, 1, sizeof(got));
    assert_int_equal(qc_disk_find_pin(r.d, "k", "s", 60, &got), 0);
    assert_true(got.size == 77 && got.mtime_s == 5);
    assert_string_equal(got.etag, "\"abc\"");
    assert_string_equal(got.version, "v");
    assert_int_equal(qc_disk_find_pin(r.d, "k", "s", 0, &got), QCHAIN_E_NOTFOUND);
    assert_int_equal(qc_disk_find_pin(r.d, "k", "", 60, &got), QCHAIN_E_NOTFOUND);
    assert_int_equal(qc_disk_find_pin(r.d, "ks", "", 60, &got), QCHAIN_E_NOTFOUND);

    path = only_file(&r, ".name");
    assert_int_equal(utimensat(AT_FDCWD, path, old, 0), 0);
    assert_int_equal(stat(path, &before), 0);
    qc_disk_note_pin(r.d, "k", "s", &pin); /* nothing new */
    assert_int_equal(stat(path, &after), 0);
    assert_int_equal(before.st_ino, after.st_ino);
    pin.etag[1] = 'x';
    qc_disk_note_pin(r.d, "k", "s", &pin);
    assert_int_equal(qc_disk_find_pin(r.d, "k", "s", 60, &got), 0);
    assert_string_equal(got.etag, "\"xbc\"");
    pin.etag[0] = pin.version[0] = '\0'; /* what cannot be told apart is not noted */
    pin.mtime_s = 0;
    qc_disk_note_pin(r.d, "new", "s", &pin);
    assert_int_equal(qc_disk_find_pin(r.d, "new", "s", 60, &got), QCHAIN_E_NOTFOUND);
    assert_int_equal(files_of(&r, ".name"), 1);
    assert_int_equal(files_of(&r, ".tmp"), 0);
    qc_free(path);
    rig_finish(&r);
}

/* Whole, with the right checksum, and what no server says. */
static void impossible_names(void **unused)
{
    struct qc_pin pin[] = {{.size = 77, .etag = "\"a\r\nX: y\""}, {.size = 77, .version = "v\n"},
                           {.size = UINT64_C(1) << 63, .etag = "\"a\""}}, got;
    struct rig r;

    (void)unused;
    rig_init(&r, 1000 * MIB);
    rig_open(&r);
    for (size_t i = 0; i < sizeof(pin) / sizeof(*pin); i++) {
        qc_disk_note_pin(r.d, "k", "s", &pin[i]);
        assert_int_equal(qc_disk_find_pin(r.d, "k", "s", 60, &got), QCHAIN_E_NOTFOUND);
    }
    rig_finish(&r);
}

/* Each byte of a record is guarded. */
static void damaged_names(void **unused)
{
    struct qc_pin pin = {.size = 77, .mtime_s = 5, .etag = "\"abc\""}, got;
    struct stat st;
    struct rig r;
    char *path;
    int fd;

    (void)unused;
    rig_init(&r, 1000 * MIB);
    rig_open(&r);
    qc_disk_note_pin(r.d, "k", "s", &pin);
    path = only_file(&r, ".name");
    fd = open(path, O_RDWR);
    assert_int_equal(fstat(fd, &st), 0);
    for (off_t i = 0; i < st.st_size; i++) {
        uint8_t byte, bad;

        assert_int_equal(pread(fd, &byte, 1, i), 1);
        bad = byte ^ (uint8_t)(1 << i % 8);
        assert_int_equal(pwrite(fd, &bad, 1, i), 1);
        assert_int_equal(qc_disk_find_pin(r.d, "k", "s", 1000000000, &got), QCHAIN_E_NOTFOUND);
        assert_int_equal(pwrite(fd, &byte, 1, i), 1);
    }
    assert_int_equal(qc_disk_find_pin(r.d, "k", "s", 60, &got), 0);
    assert_int_equal(ftruncate(fd, st.st_size - 1), 0);
    assert_int_equal(qc_disk_find_pin(r.d, "k", "s", 60, &got), QCHAIN_E_NOTFOUND);
    qc_disk_note_pin(r.d, "k", "s", &pin);
    assert_int_equal(qc_disk_find_pin(r.d, "k", "s", 60, &got), 0);
    close(fd);
    qc_free(path);
    rig_finish(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_a_model),      cmocka_unit_test(a_hit_asks_nobody),
        cmocka_unit_test(identities),      cmocka_unit_test(failures_below),
        cmocka_unit_test(many_at_once),    cmocka_unit_test(many_objects),
        cmocka_unit_test(two_of_them),     cmocka_unit_test(no_space),
        cmocka_unit_test(file_limit),      cmocka_unit_test(closed_directory),
        cmocka_unit_test(names),           cmocka_unit_test(damaged_names),
        cmocka_unit_test(impossible_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
