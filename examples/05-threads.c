/* SPDX-License-Identifier: MIT */
/*
 * 05-threads.c - several threads, each with a queue of its own.
 *
 *     05-threads IMG [THREADS]
 *
 * counts the bytes of the disk that are not zero. A chain may be used by any number of
 * threads, a queue belongs to one: so the threads share the chain only, without a lock.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include <qchain.h>

enum { MAX_THREADS = 64, IN_FLIGHT = 8, CHUNK = 65536 };

struct worker {
    pthread_t thread;
    qchain *chain;
    qchain_queue *queue;
    qchain_error *err;
    uint64_t next, stride; /* the next chunk: every stride-th is this thread's */
    uint64_t nonzero;
    int failed;
};

/* One read; comes back as `user` of its completion. */
struct request {
    size_t length;
    unsigned char buf[CHUNK];
};

static void submit(struct worker *w, struct request *r)
{
    uint64_t size = qchain_size(w->chain), offset = w->next * CHUNK;

    if (offset >= size)
        return;
    w->next += w->stride;
    r->length = size - offset < CHUNK ? (size_t)(size - offset) : CHUNK;
    w->failed = qchain_queue_read(w->queue, r->buf, r->length, offset, 0, r, w->err);
    if (w->failed)
        fprintf(stderr, "%s\n", qchain_error_message(w->err));
}

static void take(struct worker *w, const qchain_completion *ended)
{
    struct request *r = ended->user;

    if (ended->result != 0) {
        fprintf(stderr, "%s\n", ended->error);
        w->failed = 1;
        return;
    }
    for (size_t i = 0; i < r->length; i++)
        w->nonzero += r->buf[i] != 0;
    submit(w, r);
}

static void *work(void *data)
{
    struct request *requests = calloc(IN_FLIGHT, sizeof(*requests));
    qchain_completion ended[IN_FLIGHT];
    struct worker *w = data;

    w->err = qchain_error_create();
    w->failed = !requests || qchain_queue_create(&w->queue, w->chain, NULL, w->err) != 0;
    if (w->failed)
        fprintf(stderr, "no queue: %s\n", qchain_error_message(w->err));
    for (int i = 0; i < IN_FLIGHT && !w->failed; i++)
        submit(w, &requests[i]);
    /* Sleep until at least one read has ended; take all that have, and go on. */
    while (!w->failed && qchain_queue_pending(w->queue) > 0) {
        int n = qchain_queue_reap(w->queue, ended, 1, IN_FLIGHT, -1);

        for (int i = 0; i < n && !w->failed; i++)
            take(w, &ended[i]);
    }
    /* The buffers are the library's until this returns, also after a failure. */
    qchain_queue_destroy(w->queue);
    qchain_error_destroy(w->err);
    free(requests);
    return NULL;
}

int main(int argc, char **argv)
{
    unsigned threads = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 4, started;
    static struct worker workers[MAX_THREADS];
    qchain_error *err;
    uint64_t nonzero = 0;
    qchain *chain = NULL;
    int failed;

    if (argc < 2 || threads < 1 || threads > MAX_THREADS) {
        fprintf(stderr, "usage: %s IMG [THREADS, up to %d]\n", argv[0], MAX_THREADS);
        return 2;
    }
    err = qchain_error_create();
    failed = qchain_open(&chain, NULL, argv[1], NULL, err);
    if (failed)
        fprintf(stderr, "%s\n", qchain_error_message(err));
    for (started = 0; !failed && started < threads; started++) {
        workers[started] = (struct worker){.chain = chain, .next = started, .stride = threads};
        if (pthread_create(&workers[started].thread, NULL, work, &workers[started]) != 0)
            break;
    }
    for (unsigned i = 0; i < started; i++) {
        pthread_join(workers[i].thread, NULL);
        nonzero += workers[i].nonzero;
        failed |= workers[i].failed;
    }
    if (!failed && started == threads)
        printf("%" PRIu64 " of %" PRIu64 " bytes are not zero\n", nonzero, qchain_size(chain));
    qchain_close(chain); /* after all its queues */
    qchain_error_destroy(err);
    return failed || started < threads ? 1 : 0;
}
