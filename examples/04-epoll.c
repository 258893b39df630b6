/* SPDX-License-Identifier: MIT */
/*
 * 04-epoll.c - a queue in an event loop, beside another descriptor.
 *
 *     04-epoll IMG
 *
 * counts the bytes of the disk that are not zero. The loop sleeps in epoll_wait alone,
 * and wakes for reads that have ended and for a timer. Sockets would be in it likewise.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <qchain.h>

enum { IN_FLIGHT = 16, CHUNK = 65536 };

struct request {
    size_t length;
    unsigned char buf[CHUNK];
};

static struct request requests[IN_FLIGHT];
static qchain *chain;
static qchain_queue *queue;
static qchain_error *err;
static uint64_t next, done, nonzero; /* bytes of the disk: asked for, read, not zero */

/* Ask for the next chunk of the disk, if there is one; r comes back as `user`. */
static int submit(struct request *r)
{
    r->length = qchain_size(chain) - next < CHUNK ? qchain_size(chain) - next : CHUNK;
    if (r->length == 0)
        return 0;
    if (qchain_queue_read(queue, r->buf, r->length, next, 0, r, err) != 0) {
        fprintf(stderr, "%s\n", qchain_error_message(err));
        return -1;
    }
    next += r->length;
    return 0;
}

/* Take what has ended. May be nothing: the queue also wakes us for work of its own. */
static int on_queue(void)
{
    qchain_completion ended[IN_FLIGHT];
    int n = qchain_queue_reap(queue, ended, 0, IN_FLIGHT, 0);

    for (int i = 0; i < n; i++) {
        struct request *r = ended[i].user;

        if (ended[i].result != 0) {
            fprintf(stderr, "%s\n", ended[i].error);
            return -1;
        }
        for (size_t k = 0; k < r->length; k++)
            nonzero += r->buf[k] != 0;
        done += r->length;
        if (submit(r) != 0)
            return -1;
    }
    return n < 0 ? -1 : 0;
}

static int on_timer(int timer)
{
    uint64_t ticks;

    fprintf(stderr, "%" PRIu64 " of %" PRIu64 " bytes\n", done, qchain_size(chain));
    return read(timer, &ticks, sizeof(ticks)) < 0 ? -1 : 0;
}

static int run(int ep, int timer)
{
    struct itimerspec each = {.it_interval.tv_nsec = 100000000, .it_value.tv_nsec = 1000000};
    struct epoll_event tick = {.events = EPOLLIN, .data.fd = timer};
    struct epoll_event ended = {.events = EPOLLIN, .data.fd = qchain_queue_fd(queue)};
    struct epoll_event event;
    int failed = timerfd_settime(timer, 0, &each, NULL) ||
                 epoll_ctl(ep, EPOLL_CTL_ADD, timer, &tick) ||
                 epoll_ctl(ep, EPOLL_CTL_ADD, ended.data.fd, &ended);

    for (int i = 0; !failed && i < IN_FLIGHT; i++)
        failed = submit(&requests[i]);
    while (!failed && qchain_queue_pending(queue) > 0) {
        int n = epoll_wait(ep, &event, 1, -1);

        failed = n < 0 ? errno != EINTR
                       : event.data.fd == timer ? on_timer(timer) : on_queue();
    }
    return failed;
}

int main(int argc, char **argv)
{
    int ep = epoll_create1(EPOLL_CLOEXEC), timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    int failed = argc != 2 || ep < 0 || timer < 0;

    if (failed) {
        fprintf(stderr, "usage: %s IMG\n", argv[0]);
        return 2;
    }
    err = qchain_error_create();
    failed = qchain_open(&chain, NULL, argv[1], NULL, err) != 0 ||
             qchain_queue_create(&queue, chain, NULL, err) != 0;
    if (failed)
        fprintf(stderr, "%s\n", qchain_error_message(err));
    else
        failed = run(ep, timer);
    if (!failed)
        printf("%" PRIu64 " of %" PRIu64 " bytes are not zero\n", nonzero, done);
    qchain_queue_destroy(queue); /* before the chain; also ends what is in flight */
    qchain_close(chain);
    qchain_error_destroy(err);
    return failed ? 1 : 0;
}
