/* SPDX-License-Identifier: MIT */
/* Chains that lie far away: the stores of mem_layers.h behind a delay, with submit; they count what is
 * asked for, and fail when told. */
#ifndef FAR_TOOLS_H
#define FAR_TOOLS_H

#include <dirent.h>
#include <sys/syscall.h>

#include "queue_tools.h"

struct far;

struct far_layer {
    struct far       *f;
    struct mem_layer *l;
};

struct far {
    struct mem_chain  *m;
    struct far_layer  *layer;
    pthread_mutex_t    lock;
    pthread_cond_t     more;
    struct far_wait {
        qchain_store_read *r;
        struct far_layer  *l;
    }                 *list;        /* that wait for their answer */
    unsigned           n, cap;
    pthread_t          thread[8];
    bool               stop;
    /* How it behaves. Rounds: answers come when all threads have waited for so long, all at once. */
    unsigned           delay_us, quiet_us;
    bool               at_once;     /* submit answers within the call */
    bool               hold;        /* nothing is answered */
    int                fail_at;     /* this request fails; < 0: none */
    int                fail_layer;  /* all of this layer's fail; < 0: none */
    /* What it saw. */
    unsigned           n_requests, n_submit, n_meta, n_data, rounds, asked, most;
    uint64_t           meta_bytes, data_bytes;
    int                failed_layer; /* of the last that failed; < 0: none */
};

static inline void far_reset(struct far *f)
{
    pthread_mutex_lock(&f->lock);
    f->n_requests = f->n_submit = f->n_meta = f->n_data = f->rounds = f->most = 0;
    f->meta_bytes = f->data_bytes = 0;
    f->failed_layer = -1;
    pthread_mutex_unlock(&f->lock);
}

/* Is this request one that fails? Under the lock. */
static inline bool far_fails(struct far *f, const struct far_layer *l, const qchain_store_read *r)
{
    bool fails = f->fail_at >= 0 && f->n_requests == (unsigned)f->fail_at;

    fails |= f->fail_layer >= 0 && l->l->number == (unsigned)f->fail_layer;
    f->n_requests++;
    if (r->flags & QCHAIN_STORE_META) {
        f->n_meta++;
        f->meta_bytes += r->length;
    } else {
        f->n_data++;
        f->data_bytes += r->length;
    }
    if (fails)
        f->failed_layer = (int)l->l->number;
    return fails;
}

static inline void far_answer(struct far_layer *l, qchain_store_read *r)
{
    struct mem_layer *m = l->l;
    bool fails;

    if (r->length == 0 || r->offset > m->file_size || r->length > m->file_size - r->offset)
        abort();
    pthread_mutex_lock(&l->f->lock);
    fails = far_fails(l->f, l, r);
    pthread_mutex_unlock(&l->f->lock);
    if (fails) {
        r->done(r, qchain_backend_fail(r->err, QCHAIN_E_IO, EIO, "too far away"));
        return;
    }
    memcpy(r->buf, m->file + r->offset, r->length);
    r->done(r, 0);
}

static inline void far_ask(struct far_layer *l, qchain_store_read *r)
{
    struct far *f = l->f;

    pthread_mutex_lock(&f->lock);
    if (f->n == f->cap) {
        f->cap = f->cap ? 2 * f->cap : 64;
        f->list = realloc(f->list, f->cap * sizeof(*f->list));
    }
    f->list[f->n++] = (struct far_wait){r, l};
    f->asked++;
    f->most = f->n > f->most ? f->n : f->most;
    pthread_cond_broadcast(&f->more);
    pthread_mutex_unlock(&f->lock);
}

/* The number behind a word of a file of /proc. */
static inline unsigned long far_field(const char *text, const char *word)
{
    const char *at = strstr(text, word);

    return at ? strtoul(at + strlen(word), NULL, 10) : 0;
}

/* How often the other threads of this process have stopped running until now; 0 if one of them runs, or
 * would if it had a processor. */
static inline unsigned long far_stops(void)
{
    unsigned long stops = 1;
    char path[64], text[4096], *state;
    DIR *tasks = opendir("/proc/self/task");
    struct dirent *e;
    ssize_t n;
    int fd;

    assert_non_null(tasks);
    while (stops > 0 && (e = readdir(tasks))) {
        if (e->d_name[0] == '.' || atol(e->d_name) == syscall(SYS_gettid))
            continue;
        snprintf(path, sizeof(path), "/proc/self/task/%.20s/status", e->d_name);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        n = fd >= 0 ? read(fd, text, sizeof(text) - 1) : 0;
        text[n > 0 ? n : 0] = '\0';
        state = strstr(text, "State:\t");
        if (state && !strchr("SXZ", state[7]))
            stops = 0;
        else
            stops += far_field(text, "\nvoluntary_ctxt_switches:") +
                     far_field(text, "\nnonvoluntary_ctxt_switches:");
        if (fd >= 0)
            close(fd);
    }
    closedir(tasks);
    return stops;
}

/* Wait until no other thread has run for a while: all that can be asked for has been. Not until nobody has
 * asked: on a slow machine those who are about to may not have had their turn. Under the lock. */
static inline void far_be_quiet(struct far *f)
{
    unsigned long stops;
    unsigned asked;

    do {
        asked = f->asked;
        pthread_mutex_unlock(&f->lock);
        stops = far_stops();
        usleep(f->quiet_us);
        if (stops != far_stops())
            stops = 0;
        pthread_mutex_lock(&f->lock);
    } while (stops == 0 || f->asked != asked);
}

static inline void *far_thread(void *arg)
{
    struct far *f = arg;
    struct far_wait w[4096];
    unsigned n;

    pthread_mutex_lock(&f->lock);
    for (;;) {
        while ((f->n == 0 || f->hold) && !f->stop)
            pthread_cond_wait(&f->more, &f->lock);
        if (f->n == 0)
            break;
        if (f->quiet_us)
            far_be_quiet(f);
        n = f->quiet_us ? f->n : f->n > 0;
        if (n > 4096)
            abort();
        f->n -= n;
        memcpy(w, f->list + f->n, n * sizeof(w[0]));
        f->rounds += n > 0;
        pthread_mutex_unlock(&f->lock);
        if (f->delay_us)
            usleep((unsigned)rand() % f->delay_us);
        for (unsigned i = 0; i < n; i++)
            far_answer(w[i].l, w[i].r);
        pthread_mutex_lock(&f->lock);
    }
    pthread_mutex_unlock(&f->lock);
    return NULL;
}

/* ------------------------------------------------------------------- store --- */

static inline void far_submit(void *obj, qchain_store_read *r)
{
    struct far_layer *l = obj;
    bool at_once;

    pthread_mutex_lock(&l->f->lock);
    l->f->n_submit++;
    at_once = l->f->at_once;
    pthread_mutex_unlock(&l->f->lock);
    if (at_once)
        far_answer(l, r);
    else
        far_ask(l, r);
}

struct far_waiter {
    qchain_store_read r; /* first */
    pthread_mutex_t   lock;
    pthread_cond_t    over;
    bool              done;
    int               ret;
};

static inline void far_waiter_done(qchain_store_read *r, int ret)
{
    struct far_waiter *w = (struct far_waiter *)(void *)r;

    pthread_mutex_lock(&w->lock);
    w->done = true;
    w->ret = ret;
    pthread_cond_signal(&w->over);
    pthread_mutex_unlock(&w->lock);
}

static inline int far_pread(void *obj, void *buf, size_t length, uint64_t offset, uint32_t flags,
                            qchain_error *e)
{
    struct far_waiter w = {.r = {sizeof(w.r), buf, length, offset, flags, 0, e, far_waiter_done},
                           .lock = PTHREAD_MUTEX_INITIALIZER, .over = PTHREAD_COND_INITIALIZER};

    far_ask(obj, &w.r);
    pthread_mutex_lock(&w.lock);
    while (!w.done)
        pthread_cond_wait(&w.over, &w.lock);
    pthread_mutex_unlock(&w.lock);
    pthread_mutex_destroy(&w.lock);
    pthread_cond_destroy(&w.over);
    return w.ret;
}

static inline void far_close(void *obj)
{
    atomic_fetch_sub(&((struct far_layer *)obj)->l->n_open, 1);
}

static inline int far_size(void *obj, uint64_t *size, qchain_error *e)
{
    (void)e;
    *size = ((struct far_layer *)obj)->l->file_size;
    return 0;
}

static inline int far_limits(void *obj, qchain_store_limits *out, qchain_error *e)
{
    (void)obj;
    (void)e;
    out->parallel = 64;
    return 0;
}

static const qchain_store_ops far_ops = {
    .struct_size = sizeof(far_ops), .version = QCHAIN_BACKEND_VERSION, .name = "far",
    .close = far_close, .size = far_size, .pread = far_pread, .limits = far_limits,
    .submit = far_submit,
};

static inline void far_store(struct far *f, uint32_t k, qchain_store *out)
{
    *out = (qchain_store){sizeof(*out), &far_ops, &f->layer[k], "layer"};
    atomic_fetch_add(&f->m->layer[k].n_open, 1);
}

static inline int far_resolve(void *data, const qchain_reference *ref, qchain_resolution *out)
{
    static _Thread_local qchain_store store;
    struct far *f = data;
    unsigned k;

    if (sscanf(ref->name, "layer%u", &k) != 1 || k >= f->m->n)
        return QCHAIN_RESOLVE_DENY;
    far_store(f, k, &store);
    out->store = &store;
    return QCHAIN_RESOLVE_STORE;
}

/* -------------------------------------------------------------------- chain --- */

/* threads: that answer; one if rounds are to be counted. */
static inline struct far *far_create(struct mem_chain *m, unsigned threads)
{
    struct far *f = calloc(1, sizeof(*f));

    f->m = m;
    f->layer = calloc(m->n, sizeof(*f->layer));
    for (uint32_t k = 0; k < m->n; k++)
        f->layer[k] = (struct far_layer){f, &m->layer[k]};
    f->fail_at = f->fail_layer = f->failed_layer = -1;
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->more, NULL);
    for (unsigned i = 0; i < threads; i++)
        assert_int_equal(pthread_create(&f->thread[i], NULL, far_thread, f), 0);
    return f;
}

static inline void far_destroy(struct far *f)
{
    pthread_mutex_lock(&f->lock);
    f->stop = true;
    pthread_cond_broadcast(&f->more);
    pthread_mutex_unlock(&f->lock);
    for (unsigned i = 0; i < 8 && f->thread[i]; i++)
        pthread_join(f->thread[i], NULL);
    for (uint32_t k = 0; k < f->m->n; k++)
        assert_int_equal(atomic_load(&f->m->layer[k].n_open), 0);
    pthread_mutex_destroy(&f->lock);
    pthread_cond_destroy(&f->more);
    free(f->list);
    free(f->layer);
    free(f);
}

static inline qchain *far_open(struct far *f, qchain_env *env)
{
    qchain_open_opts o;
    qchain_store top;
    qchain *c = NULL;

    qchain_open_opts_init(&o, sizeof(o));
    far_store(f, 0, &top);
    o.store = &top;
    o.format = f->m->layer[0].cluster_bits ? "qcow2" : "raw";
    o.resolver = far_resolve;
    o.resolver_data = f;
    if (qchain_open(&c, env, "layer0", &o, err) != 0)
        fail_msg("%s", qchain_error_message(err));
    assert_true(c->far);
    return c;
}

static inline void far_set(struct far *f, int fail_at, int fail_layer)
{
    pthread_mutex_lock(&f->lock);
    f->fail_at = fail_at < 0 ? -1 : (int)f->n_requests + fail_at;
    f->fail_layer = fail_layer;
    f->failed_layer = -1;
    pthread_mutex_unlock(&f->lock);
}

static inline void far_hold(struct far *f, bool hold)
{
    pthread_mutex_lock(&f->lock);
    f->hold = hold;
    pthread_cond_broadcast(&f->more);
    pthread_mutex_unlock(&f->lock);
}

#endif
