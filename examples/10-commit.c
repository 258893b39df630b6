/* SPDX-License-Identifier: MIT */
/*
 * 10-commit.c - a long operation with progress that can be interrupted.
 *
 *     10-commit IMG [BYTES-A-SECOND]
 *
 * commits an image into its backing file. One thread works, another shows how far it is, and Ctrl-C ends it: then the
 * chain reads as before, and running the program again finishes the work.
 */
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <qchain.h>

static qchain_job *job; /* any thread may look at it, and a signal handler may cancel it */

struct work {
    const char *name;
    qchain_job_result result;
    qchain_error *err;
    int r;
    atomic_int over;
};

static void on_signal(int number)
{
    (void)number;
    qchain_job_cancel(job);
}

static void *commit(void *data)
{
    struct work *w = data;
    qchain_commit_opts opts;

    qchain_commit_opts_init(&opts, sizeof(opts));
    opts.job = job;
    w->result.struct_size = sizeof(w->result);
    w->r = qchain_commit(NULL, w->name, &opts, &w->result, w->err);
    atomic_store(&w->over, 1);
    return NULL;
}

static void show_progress(struct work *w)
{
    struct timespec pause = {.tv_nsec = 50000000};
    uint64_t done, total, shown = UINT64_MAX;

    while (!atomic_load(&w->over)) {
        qchain_job_progress(job, &done, &total);
        if (total > 0 && done != shown)
            fprintf(stderr, "%" PRIu64 " of %" PRIu64 " bytes\n", done, total);
        shown = done;
        nanosleep(&pause, NULL);
    }
}

int main(int argc, char **argv)
{
    struct sigaction act = {.sa_handler = on_signal};
    struct work w = {.err = qchain_error_create()};
    pthread_t thread;

    job = qchain_job_create();
    if (argc < 2 || argc > 3 || !job) {
        fprintf(stderr, "usage: %s IMG [BYTES-A-SECOND]\n", argv[0]);
        return 2;
    }
    w.name = argv[1];
    if (argc > 2)
        qchain_job_rate(job, strtoull(argv[2], NULL, 0)); /* may be changed while it runs, too */
    sigaction(SIGINT, &act, NULL);
    if (pthread_create(&thread, NULL, commit, &w) != 0) {
        fprintf(stderr, "10-commit: no thread\n");
        return 1;
    }
    show_progress(&w);
    pthread_join(thread, NULL);
    if (w.r == QCHAIN_E_CANCELLED)
        fprintf(stderr, "10-commit: interrupted; %s reads as before, and running this again goes on\n", w.name);
    else if (w.r != 0)
        fprintf(stderr, "10-commit: %s\n", qchain_error_message(w.err));
    else
        printf("%" PRIu64 " bytes were copied, %" PRIu64 " made zero\n", w.result.copied, w.result.zeroed);
    signal(SIGINT, SIG_DFL); /* who comes later finds no job */
    qchain_job_destroy(job);
    qchain_error_destroy(w.err);
    return w.r == 0 ? 0 : w.r == QCHAIN_E_CANCELLED ? 130 : 1;
}
