/* SPDX-License-Identifier: MIT */
/*
 * Queues where no thread can be started: what needs one is refused when it is submitted,
 * what was accepted before is done all the same. The program's own pthread_create stands
 * before the C library's; a sanitizer has its own, so there this test is skipped.
 */
#include "../unit/mem_layers.c"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define OWN_THREADS 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define OWN_THREADS 0
#endif
#endif
#ifndef OWN_THREADS
#define OWN_THREADS 1
#endif

static atomic_bool no_threads;

#if OWN_THREADS
int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*start)(void *),
                   void *arg)
{
    int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

    if (atomic_load(&no_threads))
        return EAGAIN;
    *(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
    return real(thread, attr, start, arg);
}
#endif

static qchain_error *err;
static char file[] = "/var/tmp/qc-nothreads-XXXXXX";

static void check(bool ok, const char *what)
{
    if (ok)
        return;
    printf("%s (%s)\n", what, qchain_error_message(err));
    unlink(file);
    exit(1);
}

static qchain_completion reap_one(qchain_queue *q)
{
    qchain_completion done = {0};

    check(qchain_queue_reap(q, &done, 1, 1, 10000) == 1, "nothing is reaped");
    return done;
}

static struct mem_chain *make_disk(void)
{
    struct mem_chain *m = mem_chain_create(1);

    mem_layer_init(m, 0, 1 << 20, 12);
    mem_layer_set(m, 0, 0, MEM_DATA);
    mem_layer_set(m, 0, 1, MEM_ZERO);
    mem_layer_set(m, 0, 2, MEM_COMPRESSED);
    mem_layer_set(m, 0, 4, MEM_DATA);
    return m;
}

/* flags: of the request. What cannot be done is told by the call or the completion. */
static void read_refused(qchain_queue *q, uint64_t offset, size_t length, uint32_t flags)
{
    static char buf[65536];
    int ret = qchain_queue_read(q, buf, length, offset, flags, NULL, err);

    if (ret == 0)
        ret = reap_one(q).result;
    check(ret == QCHAIN_E_NOMEM, "not refused");
    check(qchain_queue_pending(q) == 0, "a refused request is pending");
}

static void stores(struct mem_chain *m, uint32_t engine)
{
    qchain_queue_opts o;
    char buf[512];
    qchain_queue *q;
    qchain *c;

    qchain_queue_opts_init(&o, sizeof(o));
    o.flags = engine;
    check(mem_chain_open(m, &c, NULL, NULL, err) == 0, "open");
    check(qchain_queue_create(&q, c, &o, err) == 0, "queue");
    atomic_store(&no_threads, true);
    for (uint32_t more = 0; more <= QCHAIN_REQUEST_MORE; more++) {
        read_refused(q, 0, 512, more);      /* no window yet */
        read_refused(q, 8192, 8192, more);
    }
    check(qchain_read(c, buf, 512, 0, 0, err) == 0, "blocking reads need no thread");
    for (uint32_t more = 0; more <= QCHAIN_REQUEST_MORE; more++) {
        read_refused(q, 0, 512, more);      /* a store of another kind */
        read_refused(q, 8192, 512, more);   /* to be inflated */
        read_refused(q, 100, 5 * 4096, more);
        check(qchain_queue_read(q, buf, 512, 4096, more, buf, err) == 0, "zeros");
        check(reap_one(q).result == 0, "zeros fail");
    }
    atomic_store(&no_threads, false);
    check(qchain_queue_read(q, buf, 512, 0, 0, buf, err) == 0, "with threads again");
    check(reap_one(q).result == 0, "with threads again");
    qchain_queue_destroy(q);
    qchain_close(c);
}

/* What the ring carried, and must be read again, is done by the reap itself. */
static void files(struct mem_chain *m)
{
    int fd = mkstemp(file), more;
    qchain_completion done;
    char buf[4096], text[1024];
    qchain_queue *q;
    qchain *c;

    check(write(fd, m->layer[0].file, m->layer[0].file_size) == (ssize_t)m->layer[0].file_size,
          "writing");
    check(qchain_open(&c, NULL, file, NULL, err) == 0, "open");
    check(qchain_queue_create(&q, c, NULL, err) == 0, "queue");
    if (strcmp(qchain_queue_engine(q), "io_uring") == 0) {
        check(qchain_read(c, buf, 4096, 0, 0, err) == 0, "read");
        atomic_store(&no_threads, true);
        check(ftruncate(fd, (off_t)m->layer[0].file_size - 4096) == 0, "truncate");
        check(qchain_read(c, buf, 4096, 4 * 4096, 0, err) == QCHAIN_E_IO, "a short file");
        snprintf(text, sizeof(text), "%s", qchain_error_message(err));
        for (more = 0; more <= QCHAIN_REQUEST_MORE; more++) {
            check(qchain_queue_read(q, buf, 4096, 4 * 4096, (uint32_t)more, NULL, err) == 0,
                  "submit");
            done = reap_one(q);
            check(done.result == QCHAIN_E_IO && strcmp(done.error, text) == 0, "the wrong reason");
            check(qchain_queue_read(q, buf, 4096, 0, (uint32_t)more, NULL, err) == 0, "submit");
            check(reap_one(q).result == 0, "what is there");
        }
        atomic_store(&no_threads, false);
    }
    qchain_queue_destroy(q);
    qchain_close(c);
    close(fd);
    unlink(file);
}

int main(void)
{
    struct mem_chain *m;

    if (!OWN_THREADS)
        return 77;
    m = make_disk();
    err = qchain_error_create();
    stores(m, 0);
    stores(m, QCHAIN_QUEUE_NO_URING);
    files(m);
    mem_chain_destroy(m);
    qchain_error_destroy(err);
    return 0;
}
