/* SPDX-License-Identifier: MIT */
/* A cache that four processes use at once, with little room in it, while some are killed: never a wrong
 * byte. */
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "disk_tools.h"

#define MIB ((uint64_t)1 << 20)
#define PROCESSES 4
#define OBJECTS 6
#define SIZE (7 * MIB + 777)
#define SECONDS 4

struct shared {
    atomic_uint_fast64_t hits, fetches, wrong, rounds;
};

static bool good(int ret, const uint8_t *buf, uint64_t at, size_t n, unsigned seed)
{
    return ret == 0 && right_bytes(buf, at, n, seed);
}

/* One read, as the store above would do it. */
static void one_read(struct shared *s, struct qc_tier *t, unsigned seed, uint64_t at, size_t n)
{
    uint8_t *buf = malloc(n);
    struct asker a;
    int ret = t->ops->fetch_local(t, buf, at, n);

    if (ret == 0) {
        atomic_fetch_add(&s->hits, 1);
    } else {
        atomic_fetch_add(&s->fetches, 1);
        ask(&a, t, buf, at, n);
        ret = await(&a);
    }
    if (!good(ret, buf, at, n, seed))
        atomic_fetch_add(&s->wrong, 1);
    free(buf);
}

/* Until it is killed, or has done its share. */
static void child(const char *cache, uint64_t max_bytes, struct shared *s, uint64_t seed)
{
    struct fake_tier fake[OBJECTS];
    struct qc_tier *t[OBJECTS];
    struct rig r;

    rig_init_bare(&r, max_bytes);
    if (qc_disk_open(&r.d, cache, &r.o, &r.err) != 0)
        _exit(2);
    for (unsigned i = 0; i < OBJECTS; i++) {
        char key[8];

        snprintf(key, sizeof(key), "%u", i);
        fake_init(&fake[i], i);
        t[i] = tier_of(&r, &fake[i], key, "", SIZE, "\"1\"");
    }
    for (int i = 0; i < 3000; i++) {
        unsigned which = (unsigned)(random_next(&seed) % OBJECTS);
        /* Here and there, and what is often asked for. */
        uint64_t at = random_next(&seed) % (i % 2 ? SIZE : SIZE / 8) / QC_GRAIN * QC_GRAIN;
        uint64_t n = (random_next(&seed) % 8 ? 1 : 1 + random_next(&seed) % 200) * QC_GRAIN;

        one_read(s, t[which], which, at, n < SIZE - at ? n : SIZE - at);
    }
    for (unsigned i = 0; i < OBJECTS; i++)
        qc_tier_close(t[i]);
    qc_disk_close(r.d);
    qc_tasks_destroy(r.o.leaves);
    atomic_fetch_add(&s->rounds, 1);
    _exit(0);
}

static pid_t start(const char *cache, uint64_t max_bytes, struct shared *s, uint64_t seed)
{
    pid_t pid;

    fflush(NULL);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        child(cache, max_bytes, s, seed);
    return pid;
}

static void never_a_wrong_byte(void **unused)
{
    struct shared *s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    uint64_t seed = mem_seed(61), max_bytes = 12 * MIB, until;
    char dir[64] = "/var/tmp/qc-disk-XXXXXX", cmd[100], *cache;
    qchain_cache_info info = {0};
    pid_t pid[PROCESSES];
    unsigned killed = 0;
    qchain_error err;
    int status;

    (void)unused;
    assert_true(s != MAP_FAILED);
    assert_non_null(mkdtemp(dir));
    cache = qc_asprintf("%s/c", dir);
    for (int i = 0; i < PROCESSES; i++)
        pid[i] = start(cache, max_bytes, s, random_next(&seed));
    /* A slow machine needs longer for as much. */
    for (until = qc_disk_now() + SECONDS;
         qc_disk_now() < until || (qc_disk_now() < until + 120 && (s->hits <= 100 || s->fetches <= 100 || killed <= 10));) {
        struct timespec nap = {0, (long)(random_next(&seed) % 60000000)};
        int i = (int)(random_next(&seed) % PROCESSES);

        nanosleep(&nap, NULL);
        killed += kill(pid[i], SIGKILL) == 0;
        assert_int_equal(waitpid(pid[i], &status, 0), pid[i]);
        assert_true(WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : WEXITSTATUS(status) == 0);
        pid[i] = start(cache, max_bytes, s, random_next(&seed));
    }
    for (int i = 0; i < PROCESSES; i++) {
        assert_int_equal(waitpid(pid[i], &status, 0), pid[i]);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    qc_error_init(&err);
    assert_int_equal(qc_disk_verify(cache, &info, &err), 0);
    printf("%u killed, %llu hits, %llu fetches, %llu done; %llu MiB, %llu of %llu grains damaged\n",
           killed, (unsigned long long)s->hits, (unsigned long long)s->fetches,
           (unsigned long long)s->rounds, (unsigned long long)(info.bytes / MIB),
           (unsigned long long)info.damaged, (unsigned long long)info.checked);
    assert_int_equal(s->wrong, 0);
    assert_true(s->hits > 100 && s->fetches > 100 && killed > 10 && s->rounds >= PROCESSES);
    /* Each may be on its way to the next look, and have stores under way. */
    assert_true(info.bytes <= max_bytes + PROCESSES * 4 * MIB);
    snprintf(cmd, sizeof(cmd), "rm -rf '%s'", dir);
    assert_int_equal(system(cmd), 0);
    qc_free(cache);
    munmap(s, sizeof(*s));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(never_a_wrong_byte)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
