/* SPDX-License-Identifier: MIT */
/*
 * test_kill [--rounds N] [--seed S]: a process writes to an image in a real file and is killed at some instant,
 * again and again. After each kill qemu-img finds no corruption, what a flush had reported is there, and every
 * sector holds what it held before or what was written to it since.
 *
 * The kernel goes on: this is about what a process keeps in memory. test_crash is about the medium.
 */
#include "crash_model.h"

#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <qchain.h>

#define SECTORS MODEL_SECTORS
#define OPS 4000u /* of one round, at most */

/* What both processes see. Numbers of operations are the model's clock, from 2 on. */
struct shared {
    atomic_uint begun, ended, flushed; /* flushed: operations that had ended when the last good flush began */
    atomic_uint failed;
};

static char dir[] = "/tmp/qchain-kill-XXXXXX";
static uint64_t rng;

static uint32_t random_below(uint32_t n)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return (uint32_t)((rng >> 11) % n);
}

struct op {
    uint32_t kind, sector, n; /* kind: 0-5 write, 6 zero, 7 zero and unmap, 8 compressed, 9 flush */
    uint64_t value;
};

static struct op next_op(uint64_t round, uint32_t i)
{
    struct op o = {.kind = random_below(10), .value = (round << 24 | i) + 1};

    o.sector = random_below(SECTORS);
    o.n = 1 + random_below(random_below(4) ? 12 : 200);
    if (o.kind == 8) { /* whole clusters of 4 KiB */
        o.sector = o.sector / 8 * 8;
        o.n = (o.n + 7) / 8 * 8;
    }
    if (o.n > SECTORS - o.sector)
        o.n = SECTORS - o.sector;
    return o;
}

static void shell(const char *fmt, const char *a)
{
    char line[400];

    snprintf(line, sizeof(line), fmt, a, a);
    if (system(line) != 0) {
        printf("failed: %s\n", line);
        exit(1);
    }
}

static int open_image(qchain **c, uint32_t flags, qchain_error *err)
{
    char name[100];
    qchain_open_opts o;

    snprintf(name, sizeof(name), "%s/top.qcow2", dir);
    qchain_open_opts_init(&o, sizeof(o));
    o.flags = flags;
    o.format = "qcow2";
    return qchain_open(c, NULL, name, &o, err);
}

/* The process that is killed. */
static void be_writer(struct shared *s, uint64_t round)
{
    static unsigned char buf[SECTORS * SECTOR];
    qchain *c;
    int ret = open_image(&c, QCHAIN_OPEN_WRITE | (round % 3 == 0 ? QCHAIN_OPEN_DISCARD : 0), NULL);

    for (uint32_t i = 0; ret == 0 && i < OPS; i++) {
        struct op o = next_op(round, i);
        size_t bytes = (size_t)o.n * SECTOR;
        uint64_t at = (uint64_t)o.sector * SECTOR;
        unsigned before = i;

        atomic_store(&s->begun, i + 1);
        for (uint32_t k = 0; k < o.n; k++)
            sector_fill(buf + (size_t)k * SECTOR, o.value);
        if (o.kind < 6)
            ret = qchain_write(c, buf, bytes, at, 0, NULL);
        else if (o.kind < 8)
            ret = qchain_write_zeroes(c, bytes, at, o.kind == 7 ? QCHAIN_WRITE_UNMAP : 0, NULL);
        else if (o.kind == 8)
            ret = qchain_write_compressed(c, buf, bytes, at, 0, NULL);
        else if ((ret = qchain_flush(c, NULL)) == 0)
            atomic_store(&s->flushed, before);
        atomic_store(&s->ended, i + 1);
    }
    atomic_store(&s->failed, ret != 0);
    for (;;) /* until the end comes */
        pause();
}

/* Follow in the model what the writer had done. */
static void follow(struct model *m, uint64_t round, uint64_t rng_then, const struct shared *s)
{
    unsigned begun = atomic_load(&s->begun), ended = atomic_load(&s->ended);

    rng = rng_then;
    for (uint32_t i = 0; i < begun; i++) {
        struct op o = next_op(round, i);

        for (uint32_t k = 0; o.kind != 9 && k < o.n; k++)
            model_put(m, o.sector + k, o.kind == 6 || o.kind == 7 ? 0 : o.value, i + 2, i < ended ? i + 2 : 0);
    }
    model_flushed(m, atomic_load(&s->flushed) + 1, 0);
}

static int look(struct model *m, uint64_t certain)
{
    static unsigned char buf[SECTORS * SECTOR];
    qchain_error *err = qchain_error_create();
    qchain *c = NULL;
    int bad = 0;

    if (open_image(&c, 0, err) != 0 || qchain_read(c, buf, sizeof(buf), 0, 0, err) != 0) {
        printf("cannot be read: %s\n", qchain_error_message(err));
        bad = 1;
    }
    for (uint32_t i = 0; !bad && i < SECTORS; i++) {
        uint64_t v = sector_value(buf + (size_t)i * SECTOR);

        if (!model_allows(m, i, v, UINT64_MAX - 1, certain)) {
            printf("sector %u holds %#llx\n", i, (unsigned long long)v);
            bad = 1;
        }
    }
    qchain_close(c);
    qchain_error_destroy(err);
    /* What is there now is where the next round begins. */
    model_reset(m);
    for (uint32_t i = 0; i < SECTORS; i++)
        model_put(m, i, sector_value(buf + (size_t)i * SECTOR), 1, 1);
    return bad;
}

static int one_round(struct model *m, struct shared *s, uint64_t round)
{
    struct timespec nap = {0, (long)random_below(40000) * 1000};
    uint64_t rng_then = rng;
    char name[100];
    int status, ret;
    pid_t pid;

    memset(s, 0, sizeof(*s));
    fflush(stdout);
    pid = fork();
    if (pid == 0)
        be_writer(s, round);
    if (pid < 0)
        return 1;
    nanosleep(&nap, NULL);
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    follow(m, round, rng_then, s);
    snprintf(name, sizeof(name), "qemu-img check -q %s/top.qcow2 >/dev/null 2>&1", dir);
    ret = system(name);
    if (atomic_load(&s->failed)) {
        printf("a write failed\n");
        return 1;
    }
    if (!WIFEXITED(ret) || (WEXITSTATUS(ret) != 0 && WEXITSTATUS(ret) != 3)) {
        printf("qemu-img check: exit %d\n", WEXITSTATUS(ret));
        return 1;
    }
    return look(m, atomic_load(&s->flushed) + 1);
}

int main(int argc, char **argv)
{
    static struct model m;
    struct shared *s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    uint64_t rounds = 60, seed = 1, total = 0;
    int bad = 0;

    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--rounds") == 0)
            rounds = strtoull(argv[i + 1], NULL, 0);
        else if (strcmp(argv[i], "--seed") == 0)
            seed = strtoull(argv[i + 1], NULL, 0);
    }
    if (system("qemu-img --version >/dev/null 2>&1") != 0) {
        printf("SKIP: qemu-img is not installed\n");
        return 77;
    }
    if (s == MAP_FAILED || !mkdtemp(dir))
        return 1;
    rng = seed * UINT64_C(0x9e3779b97f4a7c15) | 1;
    for (uint64_t i = 0; !bad && i < rounds; i++) {
        if (i % 25 == 0) {
            shell("qemu-img create -q -f qcow2 -o cluster_size=4096,refcount_bits=16 %s/top.qcow2 524288", dir);
            model_reset(&m);
        }
        bad = one_round(&m, s, seed * 100000 + i);
        total += atomic_load(&s->ended);
    }
    printf("seed %llu: %llu kills, %llu operations before them%s\n", (unsigned long long)seed,
           (unsigned long long)rounds, (unsigned long long)total, bad ? ": FAILED" : "");
    if (!bad)
        shell("rm -rf %s", dir);
    model_finish(&m);
    return bad;
}
