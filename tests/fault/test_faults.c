/* SPDX-License-Identifier: MIT */
/*
 * What the machine refuses: every allocation in turn, every read of a store in
 * turn, every thread. Each run must fail with a code that says so, or succeed
 * with the right bytes, and leave nothing behind.
 *
 * The program's own malloc and pthread_create stand before the C library's, for
 * all that is linked into it. Under a sanitizer, which has its own, allocations
 * are left alone.
 */
#include "../unit/mem_layers.c"

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define COUNTED 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define COUNTED 0
#endif
#endif
#ifndef COUNTED
#define COUNTED 1
#endif

static atomic_long countdown;  /* the allocation that fails; 0: none does */
static atomic_long live;       /* blocks taken and not given back, while counting */
static atomic_bool counting;
static atomic_bool no_threads;
static atomic_long threads_refused;

static void check(bool ok, const char *what, long k, int ret)
{
    if (ok)
        return;
    atomic_store(&countdown, 0);
    printf("fault %ld: %s (result %d)\n", k, what, ret);
    exit(1);
}

#if COUNTED
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t size);
void *__libc_memalign(size_t align, size_t size);
void __libc_free(void *p);

static bool refused(void)
{
    long n = atomic_load(&countdown);

    while (n > 0) {
        if (!atomic_compare_exchange_weak(&countdown, &n, n - 1))
            continue;
        if (n == 1)
            errno = ENOMEM;
        return n == 1;
    }
    return false;
}

static void *counted(void *p)
{
    if (p && atomic_load(&counting))
        atomic_fetch_add(&live, 1);
    return p;
}

void *malloc(size_t size)
{
    return refused() ? NULL : counted(__libc_malloc(size));
}

void *calloc(size_t n, size_t size)
{
    return refused() ? NULL : counted(__libc_calloc(n, size));
}

void *realloc(void *p, size_t size)
{
    if (refused())
        return NULL;
    return p ? __libc_realloc(p, size) : counted(__libc_malloc(size));
}

int posix_memalign(void **out, size_t align, size_t size)
{
    void *p = refused() ? NULL : counted(__libc_memalign(align, size));

    if (!p)
        return ENOMEM;
    *out = p;
    return 0;
}

void free(void *p)
{
    if (p && atomic_load(&counting))
        atomic_fetch_sub(&live, 1);
    __libc_free(p);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*start)(void *),
                   void *arg)
{
    int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

    if (atomic_load(&no_threads)) {
        atomic_fetch_add(&threads_refused, 1);
        return EAGAIN;
    }
    *(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
    return real(thread, attr, start, arg);
}
#endif

static int write_nowhere(void *data, const void *buf, size_t length, uint64_t offset,
                         qchain_error *err)
{
    const unsigned char *want = data;

    (void)err;
    return memcmp(buf, want + offset, length) == 0 ? 0 : QCHAIN_E_INTERNAL;
}

/* Everything that a program does with a chain. want: the disk's bytes. */
static int use_chain(struct mem_chain *m, qchain_env *env, const unsigned char *want,
                     uint32_t threads)
{
    static unsigned char buf[1 << 20];
    qchain_sink sink = {sizeof(sink), write_nowhere, NULL, (void *)(uintptr_t)want};
    qchain_error *err = qchain_error_create();
    qchain_image_info *info = NULL;
    qchain_compare_opts cmp;
    qchain_copy_opts copy;
    qchain_extent e[16];
    uint8_t digest[32];
    uint64_t next = 0;
    uint32_t n;
    qchain *c = NULL;
    int ret = mem_chain_open(m, &c, env, NULL, err);

    while (ret == 0 && next < qchain_size(c))
        ret = qchain_map(c, next, UINT64_MAX, e, 16, &n, &next, 0, err);
    for (next = 0; ret == 0 && next < qchain_size(c); next += 70000) {
        size_t len = qchain_size(c) - next < 70000 ? qchain_size(c) - next : 70000;

        ret = qchain_read(c, buf, len, next, 0, err);
        if (ret == 0 && memcmp(buf, want + next, len) != 0)
            ret = 1;
    }
    if (ret == 0)
        ret = qchain_layer_info(&info, c, 0, err);
    qchain_image_info_free(info);
    qchain_copy_opts_init(&copy, sizeof(copy));
    copy.threads = threads;
    if (ret == 0)
        ret = qchain_copy_out(c, &sink, &copy, err);
    if (ret == 0)
        ret = qchain_checksum(c, digest, threads, NULL, err);
    qchain_compare_opts_init(&cmp, sizeof(cmp));
    cmp.threads = threads;
    if (ret == 0)
        ret = qchain_compare(c, c, &cmp, err);
    if (ret == 0 && cmp.result != QCHAIN_SAME)
        ret = 2;
    if (ret == 0)
        ret = qchain_diff(c, 1, 0, 0, UINT64_MAX, e, 16, &n, &next, 0, err);
    if (ret < 0 && err && qchain_error_code(err) != ret)
        ret = 3;
    if (ret < 0 && err && !*qchain_error_message(err))
        ret = 4;
    qchain_close(c);
    qchain_error_destroy(err);
    return ret;
}

static struct mem_chain *make_chain(unsigned char **want)
{
    uint64_t seed = 70;
    struct mem_chain *m = mem_chain_random(3, 600 << 10, &seed);

    *want = must(malloc(m->layer[0].size));
    mem_chain_read(m, *want, m->layer[0].size, 0);
    return m;
}

static void check_closed(const struct mem_chain *m, long k)
{
    for (uint32_t i = 0; i < m->n; i++)
        check(atomic_load(&m->layer[i].n_open) == 0, "a store was left open, or closed twice", k, 0);
}

/* ---------------------------------------------- files, a sidecar, a queue --- */

static char dir[] = "/tmp/qc-faults-XXXXXX";

static void path_of(char path[128], uint32_t k)
{
    snprintf(path, 128, "%s/layer%u", dir, k);
}

static void write_files(const struct mem_chain *m)
{
    static const struct timespec old[2] = {{1600000000, 0}, {1600000000, 0}};
    char path[128];
    FILE *f;

    for (uint32_t k = 0; k < m->n; k++) {
        path_of(path, k);
        f = must(fopen(path, "wb"));
        check(fwrite(m->layer[k].file, 1, m->layer[k].file_size, f) == m->layer[k].file_size,
              "writing layers", k, 0);
        fclose(f);
        utimensat(AT_FDCWD, path, old, 0);
    }
}

/* Reads all of the disk through a queue, several requests at a time. */
static int use_queue(qchain *c, const unsigned char *want, uint32_t flags, qchain_error *err)
{
    static unsigned char buf[8][70000];
    qchain_completion done[8];
    qchain_queue_opts o;
    qchain_queue *q = NULL;
    uint64_t size = qchain_size(c), next = 0;
    int ret, n = 0, failed = 0;

    qchain_queue_opts_init(&o, sizeof(o));
    o.flags = flags;
    ret = qchain_queue_create(&q, c, &o, err);
    while (ret == 0 && next < size) {
        uint64_t at[8];

        for (n = 0; n < 8 && next < size && ret == 0; n++, next += 70000) {
            at[n] = next;
            ret = qchain_queue_read(q, buf[n], size - next < 70000 ? size - next : 70000, next, 0,
                                    (void *)(uintptr_t)n, err);
        }
        n -= ret != 0;
        check(qchain_queue_reap(q, done, 8, 8, -1) == n, "requests were lost", n, 0);
        for (int i = 0; i < n; i++) {
            int k = (int)(uintptr_t)done[i].user;

            if (done[i].result != 0)
                failed = done[i].result;
            else if (memcmp(buf[k], want + at[k], size - at[k] < 70000 ? size - at[k] : 70000) != 0)
                failed = 1;
            if (done[i].result != 0 && (!done[i].error || !*done[i].error))
                failed = 4;
        }
        ret = ret != 0 ? ret : failed;
    }
    qchain_queue_destroy(q);
    return ret;
}

/* What a program does with a sidecar, and with queues. */
static int use_sidecar(struct mem_chain *m, qchain_env *env, const unsigned char *want,
                       uint32_t threads)
{
    qchain_error *err = qchain_error_create();
    qchain_index_info *info = NULL;
    qchain_open_opts o;
    qchain_extent e[16];
    uint64_t next = 0;
    qchain *c = NULL;
    char path[128];
    uint32_t n;
    int ret;

    (void)m;
    path_of(path, 0);
    qchain_open_opts_init(&o, sizeof(o));
    o.flags = QCHAIN_OPEN_NO_INDEX;
    ret = qchain_open(&c, env, path, &o, err);
    if (ret == 0)
        ret = qchain_index_build(c, NULL, err);
    if (ret == 0)
        ret = qchain_index_verify(c, NULL, err);
    qchain_close(c);
    c = NULL;
    if (ret == 0)
        ret = qchain_index_inspect(&info, env, path, NULL, err);
    if (ret == 0 && (info->why_not || info->n_layers != m->n))
        ret = 5;
    qchain_index_info_free(info);
    if (ret == 0)
        ret = qchain_open(&c, env, path, NULL, err);
    if (ret == 0 && qchain_index_layers(c) != m->n)
        ret = 6;
    while (ret == 0 && next < qchain_size(c))
        ret = qchain_map(c, next, UINT64_MAX, e, 16, &n, &next, 0, err);
    if (ret == 0)
        ret = use_queue(c, want, threads == 1 ? QCHAIN_QUEUE_NO_URING : 0, err);
    if (ret == 0)
        ret = use_queue(c, want, 0, err);
    qchain_close(c);
    qchain_error_destroy(err);
    return ret;
}

typedef int (*use_fn)(struct mem_chain *m, qchain_env *env, const unsigned char *want,
                      uint32_t threads);

/* The k-th allocation fails, for k = 1, 2, ... until nothing fails any more. */
static void every_allocation(use_fn use, uint32_t threads)
{
    unsigned char *want;
    struct mem_chain *m = make_chain(&want);
    long k, failed = 0;
    int ret;

    write_files(m);
    for (k = 1; COUNTED; k++) {
        atomic_store(&live, 0);
        /* threads' stacks are the C library's to keep */
        atomic_store(&counting, threads == 1 && use == use_chain);
        atomic_store(&countdown, k);
        ret = use(m, NULL, want, threads);
        atomic_store(&counting, false);
        check(ret == 0 || ret == QCHAIN_E_NOMEM, "neither success nor NOMEM", k, ret);
        check(atomic_load(&live) == 0, "memory was lost", k, ret);
        check_closed(m, k);
        failed += ret != 0;
        if (atomic_exchange(&countdown, 0) > 0)
            break;
    }
    check(!COUNTED || failed > 100, "hardly anything failed", k, (int)failed);
    printf("allocations: %ld, failures told: %ld\n", k - 1, failed);
    free(want);
    mem_chain_destroy(m);
}

/* The k-th read of a layer fails, once or from then on, for every k. What fails once
 * may be tried again; what fails for good must be told. */
static void every_read(bool for_good)
{
    unsigned char *want;
    struct mem_chain *m = make_chain(&want);
    long k, failed = 0;
    int ret;

    for (uint32_t layer = 0; layer < m->n; layer++) {
        struct mem_layer *l = &m->layer[layer];

        for (k = 0;; k++) {
            atomic_store(&l->n_pread, 0);
            l->fail_from = (int)k;
            l->fail_to = for_good ? INT32_MAX : (int)k + 1;
            ret = use_chain(m, NULL, want, 2);
            check(ret == 0 || ret == QCHAIN_E_IO, "neither success nor IO", k, ret);
            check_closed(m, k);
            failed += ret != 0;
            if (atomic_load(&l->n_pread) <= k)
                break;
            check(ret != 0 || !for_good, "a failed read was not told", k, ret);
        }
        check(k > 3, "the layer is hardly read", k, 0);
        l->fail_from = -1;
    }
    check(failed > 20, "hardly anything failed", 0, (int)failed);
    printf("reads that failed: %ld\n", failed);
    free(want);
    mem_chain_destroy(m);
}

static void slow_reads(void)
{
    unsigned char *want;
    struct mem_chain *m = make_chain(&want);
    int ret;

    for (uint32_t i = 0; i < m->n; i++)
        m->layer[i].delay_us = 300;
    ret = use_chain(m, NULL, want, 4);
    check(ret == 0, "slow reads", 0, ret);
    check_closed(m, 0);
    free(want);
    mem_chain_destroy(m);
}

static void no_thread_at_all(void)
{
    unsigned char *want;
    struct mem_chain *m = make_chain(&want);
    qchain_env_opts o;
    qchain_env *env;
    int ret;

    qchain_env_opts_init(&o, sizeof(o));
    o.threads = 8;
    atomic_store(&no_threads, true);
    check(qchain_env_create(&env, &o, NULL) == 0, "an environment needs no thread", 0, 0);
    ret = use_chain(m, env, want, 8);
    check(ret == 0, "without threads", 0, ret);
    check(!COUNTED || atomic_load(&threads_refused) > 3, "nobody asked for a thread", 0, 0);
    atomic_store(&no_threads, false);
    ret = use_chain(m, env, want, 8);
    check(ret == 0, "with threads again", 0, ret);
    qchain_env_destroy(env);
    free(want);
    mem_chain_destroy(m);
}

/* Nothing is left but the layers and the sidecar. */
static void check_directory(void)
{
    char path[128 + 8];
    int ret;

    for (uint32_t k = 0; k < 3; k++) {
        path_of(path, k);
        unlink(path);
    }
    path_of(path, 0);
    strcat(path, ".qci");
    unlink(path);
    ret = rmdir(dir);
    check(ret == 0, "temporary files are left", 0, errno);
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    every_read(false);
    every_read(true);
    slow_reads();
    no_thread_at_all();
    check(mkdtemp(dir) != NULL, "mkdtemp", 0, 0);
    every_allocation(use_chain, 1);
    every_allocation(use_chain, 3);
    every_allocation(use_sidecar, 1);
    every_allocation(use_sidecar, 3);
    check_directory();
    return 0;
}
