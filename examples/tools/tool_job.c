/* SPDX-License-Identifier: MIT */
/* tool_job.c - progress and cancelling of long operations. */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tool.h"

#define PERIOD_NS 200000000

/* What the signal handler may see. */
static qchain_job *volatile signal_job;
static volatile sig_atomic_t signal_exits;
static volatile sig_atomic_t signal_seen;

/* The first signal asks the operation to end; a second one kills (SA_RESETHAND). */
static void on_signal(int number)
{
    signal_seen = number;
    if (signal_exits)
        _exit(128 + number);
    if (signal_job)
        qchain_job_cancel(signal_job);
}

static void catch_signals(bool on)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction sa;
    size_t i;

    memset(&sa, 0, sizeof(sa));
    sa.sa_handler = on ? on_signal : SIG_DFL;
    sa.sa_flags = (int)SA_RESETHAND;
    sigemptyset(&sa.sa_mask);
    for (i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        struct sigaction old;

        /* what nohup and background shells ignore stays ignored */
        if (sigaction(numbers[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
            sigaction(numbers[i], &sa, NULL);
    }
}

static double seconds_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Seconds that are left, if it goes on as it did; 0: nobody can say. */
static double time_left(const struct tool_job *j, double percent)
{
    double spent = seconds_now() - j->began;

    return j->eta && percent >= 1 && percent < 100 && spent >= 1 ? spent * (100 - percent) / percent : 0;
}

static void show(struct tool_job *j, bool all)
{
    uint64_t done = 0, total = 0;
    char line[128];
    double percent;
    double left;
    int n;

    qchain_job_progress(j->job, &done, &total);
    if (all)
        done = total;
    percent = all || total == 0 ? (all ? 100.0 : 0.0) : 100.0 * (double)done / (double)total;
    left = time_left(j, percent);
    if (j->progress == TOOL_PROGRESS_JSON && left > 0)
        n = snprintf(line, sizeof(line), "{\"done\": %" PRIu64 ", \"total\": %" PRIu64 ", \"eta\": %.1f}\n", done,
                     total, left);
    else if (j->progress == TOOL_PROGRESS_JSON)
        n = snprintf(line, sizeof(line), "{\"done\": %" PRIu64 ", \"total\": %" PRIu64 "}\n", done,
                     total);
    else if (left > 0)
        n = snprintf(line, sizeof(line), "    (%3.2f/100%%) %.0f s left   \r", percent, left);
    else if (j->eta)
        n = snprintf(line, sizeof(line), "    (%3.2f/100%%)               \r", percent);
    else
        n = snprintf(line, sizeof(line), "    (%3.2f/100%%)\r", percent);
    if (write(j->fd, line, (size_t)n) < 0)
        j->progress = TOOL_PROGRESS_NONE; /* nobody looks */
}

static void *progress_thread(void *data)
{
    struct tool_job *j = data;
    struct timespec until;

    pthread_mutex_lock(&j->lock);
    while (!j->stop) {
        if (j->progress)
            show(j, false);
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += PERIOD_NS;
        if (until.tv_nsec >= 1000000000) {
            until.tv_nsec -= 1000000000;
            until.tv_sec++;
        }
        pthread_cond_timedwait(&j->wake, &j->lock, &until);
    }
    pthread_mutex_unlock(&j->lock);
    return NULL;
}

/* The thread must not take the signals that are to interrupt the main one. */
static void start_thread(struct tool_job *j)
{
    sigset_t all, old;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    j->running = pthread_create(&j->thread, NULL, progress_thread, j) == 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

int tool_job_start(struct tool *t, struct tool_job *j, int fd, bool exit_at_once)
{
    memset(j, 0, sizeof(*j));
    j->fd = fd;
    j->began = seconds_now();
    j->progress = t->quiet ? TOOL_PROGRESS_NONE : t->progress;
    if (j->progress == TOOL_PROGRESS_JSON)
        j->fd = STDERR_FILENO;
    j->job = qchain_job_create();
    if (!j->job) {
        tool_complain(t, "out of memory");
        return -1;
    }
    pthread_mutex_init(&j->lock, NULL);
    pthread_cond_init(&j->wake, NULL);
    signal_job = j->job;
    signal_exits = exit_at_once;
    catch_signals(true);
    if (j->progress) {
        fflush(stdout);
        start_thread(j);
    }
    return 0;
}

void tool_job_finish(struct tool_job *j, bool done)
{
    if (!j->job)
        return;
    if (j->running) {
        pthread_mutex_lock(&j->lock);
        j->stop = true;
        pthread_cond_signal(&j->wake);
        pthread_mutex_unlock(&j->lock);
        pthread_join(j->thread, NULL);
        if (done && j->progress)
            show(j, true);
        if (j->progress == TOOL_PROGRESS_TEXT && write(j->fd, "\n", 1) < 0)
            j->progress = TOOL_PROGRESS_NONE;
    }
    catch_signals(false);
    signal_job = NULL;
    qchain_job_destroy(j->job);
    pthread_cond_destroy(&j->wake);
    pthread_mutex_destroy(&j->lock);
}

int tool_job_status(const struct tool *t, int r, int other)
{
    if (r == 0)
        return 0;
    if (r == QCHAIN_E_CANCELLED && signal_seen) {
        if (!t->quiet && isatty(STDERR_FILENO)) /* programs know by the code, and may read JSON here */
            tool_complain(t, "interrupted");
        return 128 + signal_seen;
    }
    tool_complain_error(t);
    return other;
}
