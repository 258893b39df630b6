/* SPDX-License-Identifier: MIT */
/*
 * Inside the HTTP engine. http.c is the door, http_worker.c the threads with their timers and sockets,
 * http_queue.c what requests wait in, http_attempt.c one transfer, http_answer.c the header of an
 * answer, http_outcome.c what follows from how a transfer ended, with http_network.c (curl's codes)
 * and http_redirect.c; http_latency.c percentiles.
 *
 * A request (struct qc_http_private) belongs to one worker and is touched by its thread alone, but for
 * `cancelled`. It waits in its origin's queue, or for a time (backoff), or for credentials, or
 * is under way with one attempt, or two when hedged: the first that delivers a byte owns the buffer,
 * and the other is dropped.
 */
#ifndef QC_NET_HTTP_INT_H
#define QC_NET_HTTP_INT_H

#include <pthread.h>

#include "net/curl_api.h"
#include "net/http.h"
#include "util/tasks.h"

/* ------------------------------------------------------------------ answer --- */

#define QC_ANSWER_BYTES   65536u /* of a header block, and of a body that is kept for its text */
#define QC_ANSWER_HEADERS 100u

/* The header of one answer, as it comes. */
struct qc_answer {
    int      status;
    bool     complete;     /* the empty line was seen */
    bool     too_much;     /* more than the limits above */
    bool     bad_length;   /* Content-Length twice, or not a number; or other encodings than chunks */
    bool     bad_range;    /* Content-Range twice, or not understood */
    bool     has_length, has_range, chunked, multipart, encoded;
    bool     unsatisfied;  /* the Content-Range names no range, only the size */
    unsigned n_headers;
    size_t   n_bytes;
    uint64_t length;
    uint64_t first, last, total;
    uint64_t mtime_s;
    char     etag[128], version[128], date[64], retry_after[64];
    char    *location;     /* or NULL */
};

/* One line as curl gives it, with its end. False: no memory. */
bool qc_answer_line(struct qc_answer *a, const struct qc_curl *curl, const char *line, size_t len);
void qc_answer_reset(struct qc_answer *a); /* zeroed is fine */
/* What Retry-After asks for, in ms (at most a day); -1: nothing. */
int64_t qc_answer_retry_ms(const struct qc_answer *a, const struct qc_curl *curl);
/* What the object is by this answer; size is the caller's. */
void qc_answer_pin(const struct qc_answer *a, uint64_t size, struct qc_pin *out);

/* ----------------------------------------------------------------- latency --- */

#define QC_LATENCY_BUCKETS 128 /* four an octave of microseconds */

/* Two generations, of which the older is dropped when the younger is full. */
struct qc_latency {
    atomic_uint which, n;
    atomic_uint bucket[2][QC_LATENCY_BUCKETS];
};

void     qc_latency_add(struct qc_latency *l, uint64_t us);
uint64_t qc_latency_at(struct qc_latency *l, unsigned percentile); /* 0: there is none */

/* ------------------------------------------------------------------ engine --- */

struct http_worker;
struct http_origin;
struct qc_http_private;

/* Why a transfer was broken off by us. */
enum http_cut {
    CUT_NONE,
    CUT_ENOUGH,      /* of the text of an error */
    CUT_PROTOCOL,    /* the answer breaks the rules */
    CUT_TOO_LONG,    /* more bytes than announced */
    CUT_NO_RANGES,   /* the whole object instead of a part */
    CUT_CHANGED,
    CUT_PRIVATE,     /* a redirect to a private address */
    CUT_STALL,
    CUT_LOST,        /* the other of two delivers */
    CUT_NOMEM
};

struct http_attempt {
    struct http_attempt    *next;      /* spare */
    struct http_attempt    *next_fresh; /* of those with bytes that were not told of */
    struct http_worker     *w;
    struct qc_http_private *op;
    CURL              *easy;
    struct curl_slist *list;
    struct qc_signed   sign;
    const char        *url;            /* sign.url, op->hop or target */
    char              *target;         /* a remembered redirect's, or NULL */
    bool               must_be_public; /* where it leads */
    bool               hedge, counted; /* counted: among its origin's running */
    bool               bulk;           /* counted among the worker's large ones */
    bool               fresh;          /* in the worker's list of these */
    bool               ready;          /* the connection stands, the request is being sent */
    bool               in_buffer;      /* the body goes to the request's buffer, else to text */
    bool               dirty;          /* the handle must be reset before it is used again */
    enum http_cut      cut;
    char               why[200];       /* with cut, without the name */
    struct qc_answer   answer;
    char              *text;           /* QC_ANSWER_BYTES, or NULL */
    size_t             n_text;
    uint64_t           expect, got, skip; /* body bytes; skip: those that are there already */
    size_t             sent;
    int64_t            begun_us, first_us, mark_us;
    uint64_t           mark;           /* bytes of both directions at mark_us */
    char               error[CURL_ERROR_SIZE];
};

/* Getting credentials, on a helper thread. */
struct http_prepare {
    struct qc_task          task;
    struct http_prepare    *next;
    struct http_worker     *w;
    struct qc_http_private *op;     /* the worker's; NULL: it waits no more */
    struct qc_place        *place;  /* counted */
    bool                    refresh;
    int                     ret;
    qchain_error            err;
};

enum http_state { OP_NEW, OP_QUEUED, OP_DELAYED, OP_PREPARING, OP_RUNNING };

struct qc_http_private {
    struct qc_http_request *r;
    struct http_worker     *w;
    struct http_origin     *origin;
    atomic_bool             cancelled;
    enum http_state         state;
    struct qc_http_private *next_in;         /* the inbox */
    struct qc_http_private *next, *prev;     /* all of the worker */
    struct qc_http_private *next_q;          /* the origin's queue */
    struct http_waiter     *waiter;          /* of qc_http_perform, or NULL */
    struct http_attempt    *attempt, *hedge;
    struct http_prepare    *prepare;
    int64_t  begun_us, deadline_us, due_us;
    uint32_t counted;         /* attempts that failed and count for the backoff */
    uint32_t redirects, prepared, resolved;
    char    *hop;             /* where a redirect leads now, or NULL */
    bool     pinned;          /* r->got is set */
    bool     may_retry;       /* protocol faults: the one retry is left */
    bool     refreshed, again_used, race_used;
    bool     fresh;           /* the next attempt on a new connection */
    bool     no_target;       /* the remembered redirect failed */
    bool     was_public;      /* some hop's peer had a public address */
    bool     failed;          /* r->err holds an attempt's failure */
};

struct http_queue {
    struct qc_http_private *first, **end;
};

/* What one worker knows of an origin. */
struct http_origin {
    struct http_origin *next;
    struct http_queue   queue[2]; /* META first */
    unsigned running, n_ops;     /* attempts; requests, whatever they wait for */
    double   window;              /* how many may run: halved when throttled, grows by one a round */
    int64_t  halved_us;
    size_t   len;
    char     name[];
};

struct http_worker {
    struct qc_http *h;
    const struct qc_curl *curl;
    pthread_t  thread;
    bool       alive;
    CURLM     *multi;
    int        poll_fd, wake_fd;
    _Atomic(struct qc_http_private *) inbox;
    _Atomic(struct http_prepare *)    prepared;
    atomic_bool cancels;   /* somebody set a `cancelled` */
    atomic_uint load;      /* requests it has or is to have */
    /* Its thread's. */
    struct qc_http_private *ops;
    struct http_origin     *origins;
    struct http_attempt    *spare;
    struct http_attempt    *fresh;     /* have got bytes that their requests were not told of */
    unsigned  n_spare, limit;  /* limit: connections to an origin */
    unsigned  n_running, n_bulk; /* attempts; those that bring much */
    uint64_t  moved;           /* bytes of bodies since it slept last */
    int64_t   timer_us;        /* when curl wants to be called; -1: not */
    int64_t   scan_us;         /* when the first request needs a look */
    uint64_t  random;
};

struct qc_http {
    const qchain_remote *conf;
    const struct qc_log *log;
    struct qc_slots     *slots;
    pthread_mutex_t      lock;  /* starting */
    atomic_bool          started, stop;
    atomic_bool          aborted; /* nothing is begun any more */
    const struct qc_curl *curl;
    struct http_worker  *worker;
    unsigned             n_workers;
    struct qc_tasks     *helpers;
    struct qc_latency    first_byte, total;
    /* Tokens: every request brings one; a retry takes QC_RETRY_PRICE, a hedge QC_HEDGE_PRICE. */
    atomic_int           retry_tokens, hedge_tokens;
    atomic_int_fast64_t  refilled_us;
};

/* Stands behind a remembered redirect's URL, and is cut off before use: the host that redirected had
 * a private address, so may this one. */
#define QC_PRIVATE_MARK "#private"

#define QC_RETRY_PRICE 10   /* so 10 % of requests ... */
#define QC_RETRY_MOST  320  /* ... and a reserve of 32 ... */
#define QC_RETRY_RATE  20   /* ... and so many a second, whatever else happens */
#define QC_HEDGE_PRICE 20   /* 5 % of requests */
#define QC_HEDGE_MOST  100

static inline int64_t qc_http_now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000) + t.tv_nsec / 1000;
}

/* http_worker.c */
int  qc_worker_start(struct http_worker *w, qchain_error *err);
void qc_worker_stop(struct http_worker *w);   /* stop is set; joins */
void qc_worker_free(struct http_worker *w);
void qc_worker_wake(struct http_worker *w);
void qc_worker_give(struct http_worker *w, struct qc_http_private *op); /* any thread */
uint64_t qc_worker_random(struct http_worker *w);
/* It is done: ends what is under way. */
void qc_op_finish(struct qc_http_private *op, int ret);
/* Call done. From any thread; the request is in no list. */
void qc_op_tell(struct qc_http_private *op, int ret);

/* http_queue.c */
/* Put it into its origin's queue, at the end or the beginning; take it out again. */
void qc_op_enqueue(struct qc_http_private *op, bool first);
void qc_op_take_out(struct qc_http_private *op);
struct qc_http_private *qc_queue_pop(struct http_queue *q); /* NULL: it is empty */
void qc_op_delay(struct qc_http_private *op, int64_t us);
/* Have requests looked at no later than then. */
void qc_worker_look_at(struct http_worker *w, int64_t when);
/* The origin of a place with that key; NULL: no memory. */
struct http_origin *qc_worker_origin(struct http_worker *w, const char *key);
/* Get credentials on a helper thread, then queue it. */
void qc_op_prepare(struct qc_http_private *op, bool refresh);
void qc_worker_take_prepared(struct http_worker *w);
void qc_prepare_free(struct http_prepare *p);

/* http_attempt.c */
/* Begin one. The op is in no queue. 0, or: 1 = credentials first, or a failure in r->err. */
int  qc_attempt_begin(struct http_worker *w, struct qc_http_private *op, bool hedge);
/* End one, whether curl is done with it or not. */
/* Call the progress of requests that have got bytes; after each call that curl is given a socket in. */
void qc_attempts_tell(struct http_worker *w);
void qc_attempt_end(struct http_attempt *a);
void qc_attempt_free(struct http_attempt *a); /* of the spare ones */
void qc_attempt_cut(struct http_attempt *a, enum http_cut cut, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* http_outcome.c */
/* The transfer is over: by itself (with curl's code) or by its cut. */
void qc_attempt_over(struct http_attempt *a, CURLcode code);
/* Set r->err: METHOD name bytes a-b: reason. Returns code. */
int  qc_op_fail(struct qc_http_private *op, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Time is up. */
void qc_op_expire(struct qc_http_private *op);
/* Another attempt at once, which is not counted as a retry. */
void qc_op_again(struct qc_http_private *op, bool fresh);
/* End the attempt, and the request with the failure in r->err. */
void qc_attempt_fatal(struct http_attempt *a);

/* http_network.c */
bool qc_is_tls_failure(CURLcode code, const struct http_attempt *a, long sys_errno);
/* The connection was an old one, and the server had closed it when the request came. */
bool qc_is_keepalive_race(const struct http_attempt *a, CURLcode code);
/* What to do about a failure of TLS that is told so; "" if we do not know. */
const char *qc_tls_advice(const char *text);
/* "connect to host:port: Connection refused" */
void qc_attempt_describe(const struct http_attempt *a, CURLcode code, long sys_errno, char *out,
                         size_t size);

/* http_redirect.c */
void qc_attempt_redirected(struct http_attempt *a);
/* If a redirect led to the object: go there at once from now on. */
void qc_remember_target(struct http_attempt *a);

#endif
