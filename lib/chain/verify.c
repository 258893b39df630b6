/* SPDX-License-Identifier: MIT */
#include "chain/verify.h"

#include <errno.h>
#include <pthread.h>
#include <time.h>

#include "chain/names.h"
#include "chain/sidecar.h"
#include "remote/remote.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/clock.h"
#include "util/pool.h"
#include "util/tasks.h"

#define DELAY_NS UINT64_C(1000000000) /* after the open: what it was opened for comes first */
#define PACE_NS UINT64_C(50000000)    /* 20 requests a second, of all chains together */

/* A chain's place in the ring of those that are not through. */
struct qc_verifying {
    struct qc_verifying *next, *prev;
    qchain           *c;
    uint64_t          begin_ns; /* not before */
    uint32_t          source;   /* the next to look at */
    bool              told;     /* that a store did not answer */
};

/*
 * One task for all chains: however many there are, they hold one thread, and send few requests. While a
 * request is under way no chain is waited for or touched: one that is closed just leaves the ring.
 */
struct qc_verifier {
    struct qc_task      task;
    qchain_env         *env;
    pthread_mutex_t     lock; /* guards what follows, and all places in the ring */
    pthread_cond_t      news; /* a chain came, or all ends */
    struct qc_verifying   *first;   /* of the ring: whose turn it is */
    struct qc_verifying   *current; /* whose request is under way; NULL: it left */
    struct qc_checking *request; /* that one */
    bool                running; /* the task */
    bool                stop;
};

/* ----------------------------------------------------------------- all at once --- */

struct all {
    qchain                  *c;
    const struct qc_sidecar *sc;
    uint32_t                 first; /* source */
    pthread_mutex_t          lock;
    qchain_error            *err;   /* of the first that failed; under the lock */
};

static int check_one(void *ctx, uint64_t i)
{
    struct all *all = ctx;
    uint32_t number = all->first + (uint32_t)i;
    const char *name = all->c->source[number].name;
    struct qc_escaped shown;
    qchain_error err;
    struct qc_pin pin;
    int ret;

    if (!qc_sidecar_pins(all->sc, all->c, number, &pin))
        return 0;
    qc_error_init(&err);
    ret = qc_remote_check(all->c->env->remote, name, &pin, &err);
    if (ret == 0)
        return 0;
    qc_error_prefix(&err, all->c->source[number].layer, "layer #%u '%s': ",
                    all->c->source[number].layer, qc_name_shown(&shown, name));
    pthread_mutex_lock(&all->lock);
    if (all->err->code == 0)
        qc_error_copy(all->err, &err);
    pthread_mutex_unlock(&all->lock);
    return ret;
}

int qc_verify_all(qchain *c, const struct qc_sidecar *sc, qchain_error *err)
{
    struct all all = {.c = c, .sc = sc, .err = err};
    int ret;

    if (!c->far || qc_remote_verify(c->env->remote) != QC_VERIFY_STRICT)
        return 0;
    pthread_mutex_init(&all.lock, NULL);
    ret = qc_pool_run(c->env->far, qc_pool_threads(c->env->far), c->n_sources, check_one, &all);
    pthread_mutex_destroy(&all.lock);
    /* That a layer is gone is no sign that there is no sidecar. */
    if (ret != 0 && err->code == QCHAIN_E_NOTFOUND)
        err->code = QCHAIN_E_CHANGED;
    return ret == 0 ? 0 : err->code;
}

/* ------------------------------------------------------------------- the ring --- */

static void enter(struct qc_verifier *v, struct qc_verifying *m)
{
    m->next = m->prev = m;
    if (!v->first) {
        v->first = m;
        return;
    }
    m->next = v->first; /* the last to have its turn */
    m->prev = v->first->prev;
    m->next->prev = m->prev->next = m;
}

static void leave(struct qc_verifier *v, struct qc_verifying *m)
{
    if (v->current == m)
        v->current = NULL;
    if (v->first == m)
        v->first = m->next != m ? m->next : NULL;
    m->next->prev = m->prev;
    m->prev->next = m->next;
    m->c->verify = NULL;
    qc_free(m);
}

/* Whoever may begin, those that had no turn for the longest time first; else when somebody may. */
static struct qc_verifying *choose(struct qc_verifier *v, uint64_t now, uint64_t *when)
{
    struct qc_verifying *m = v->first;

    *when = UINT64_MAX;
    do {
        if (m->begin_ns <= now)
            return m;
        *when = qc_min64(*when, m->begin_ns);
        m = m->next;
    } while (m != v->first);
    return NULL;
}

static void wait_until(struct qc_verifier *v, uint64_t when)
{
    struct timespec t = {.tv_sec = (time_t)(when / 1000000000u), .tv_nsec = (long)(when % 1000000000u)};

    pthread_cond_timedwait(&v->news, &v->lock, &t);
}

/* ------------------------------------------------------------------ one by one --- */

/* Begin to ask for the chain's next layer; false: there is none, or it cannot be asked for. */
static bool ask(struct qc_verifier *v, struct qc_verifying *m)
{
    qchain *c = m->c;
    struct qc_pin pin;

    while (m->source < c->n_sources && !qc_sidecar_pins(c->sidecar, c, m->source, &pin))
        m->source++;
    if (m->source == c->n_sources || qc_chain_check(c, NULL) != 0)
        return false;
    m->source++;
    return qc_remote_check_begin(&v->request, v->env->remote, c->source[m->source - 1].name, &pin,
                                 NULL) == 0;
}

/* What is to be told of an answer, "" for nothing: to be told when the lock is given up. */
static void judge(struct qc_verifier *v, struct qc_verifying *m, int ret, const qchain_error *err,
                  qchain_error *news)
{
    const struct qc_source *s = &m->c->source[m->source - 1];
    bool changed = ret == QCHAIN_E_CHANGED || ret == QCHAIN_E_NOTFOUND;
    struct qc_escaped shown;

    if (ret == 0 || ret == QCHAIN_E_CANCELLED)
        return;
    if (changed)
        atomic_store(&m->c->changed, true);
    if (changed || !m->told)
        qc_fail(news, ret, "layer #%u '%s' %s: %s", s->layer, qc_name_shown(&shown, s->name),
                changed ? "is not what its sidecar index says" : "cannot be compared with its index",
                qchain_error_message(err));
    m->told = true;
    if (changed)
        leave(v, m);
}

static void tell(struct qc_verifier *v, const qchain_error *news)
{
    pthread_mutex_unlock(&v->lock);
    qc_log(&v->env->log, QCHAIN_LOG_WARN, "chain", "%s", news->text);
    pthread_mutex_lock(&v->lock);
}

/* One turn; the lock is given up while the request is under way. */
static void take_turn(struct qc_verifier *v, struct qc_verifying *m)
{
    qchain_error err, news;
    int ret;

    v->first = m->next;
    if (!ask(v, m)) {
        leave(v, m);
        return;
    }
    v->current = m;
    qc_error_init(&err);
    qc_error_init(&news);
    pthread_mutex_unlock(&v->lock);
    ret = qc_remote_check_wait(v->request, &err);
    pthread_mutex_lock(&v->lock);
    qc_remote_check_free(v->request);
    v->request = NULL;
    if (v->current)
        judge(v, v->current, ret, &err, &news);
    v->current = NULL;
    if (news.code != 0)
        tell(v, &news);
}

static void verify_chains(struct qc_task *t)
{
    struct qc_verifier *v = (struct qc_verifier *)(void *)t;
    uint64_t pace_ns = 0, now, when = 0;
    struct qc_verifying *m;

    pthread_mutex_lock(&v->lock);
    while (!v->stop && v->first) {
        now = qc_now_ns();
        m = now < pace_ns ? NULL : choose(v, now, &when);
        if (m) {
            pace_ns = now + PACE_NS;
            take_turn(v, m);
        } else {
            wait_until(v, now < pace_ns ? pace_ns : when);
        }
    }
    v->running = false;
    pthread_mutex_unlock(&v->lock);
}

int qc_verify_begin(qchain *c, qchain_error *err)
{
    struct qc_verifier *v = c->env->verifier;
    struct qc_verifying *m;
    struct qc_pin pin;
    uint32_t i = 0;

    if (!c->sidecar || !c->far || qc_remote_verify(c->env->remote) != QC_VERIFY_BACKGROUND)
        return 0;
    while (i < c->n_sources && !qc_sidecar_pins(c->sidecar, c, i, &pin))
        i++;
    if (i == c->n_sources)
        return 0;
    m = qc_calloc(1, sizeof(*m));
    if (!m)
        return qc_fail_nomem(err);
    m->c = c;
    m->source = i;
    m->begin_ns = qc_now_ns() + DELAY_NS;
    c->verify = m;
    pthread_mutex_lock(&v->lock);
    enter(v, m);
    /* Without a thread it begins with the next chain that gets one. */
    if (!v->running)
        v->running = qc_tasks_submit(c->env->far_tasks, &v->task);
    pthread_cond_signal(&v->news);
    pthread_mutex_unlock(&v->lock);
    return 0;
}

void qc_verify_end(qchain *c)
{
    struct qc_verifier *v = c->env->verifier;

    pthread_mutex_lock(&v->lock);
    if (c->verify)
        leave(v, c->verify);
    pthread_mutex_unlock(&v->lock);
}

/* ------------------------------------------------------------ of environments --- */

struct qc_verifier *qc_verifier_create(qchain_env *env)
{
    struct qc_verifier *v = qc_calloc(1, sizeof(*v));
    pthread_condattr_t attr;

    if (!v)
        return NULL;
    v->env = env;
    v->task.key = v;
    v->task.run = verify_chains;
    pthread_mutex_init(&v->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&v->news, &attr);
    pthread_condattr_destroy(&attr);
    return v;
}

void qc_verifier_stop(struct qc_verifier *v)
{
    if (!v)
        return;
    pthread_mutex_lock(&v->lock);
    v->stop = true;
    if (v->request)
        qc_remote_check_cancel(v->request);
    pthread_cond_signal(&v->news);
    pthread_mutex_unlock(&v->lock);
}

void qc_verifier_destroy(struct qc_verifier *v)
{
    if (!v)
        return;
    pthread_mutex_destroy(&v->lock);
    pthread_cond_destroy(&v->news);
    qc_free(v);
}
