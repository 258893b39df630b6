/* SPDX-License-Identifier: MIT */
#include "chain/bitmaps.h"

#include <stdlib.h>
#include <string.h>

#include "chain/tip.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/escape.h"

/* Bytes of bits at most that enabled bitmaps of an image may stand for, loaded or not. */
#define TRACKED_BYTES (UINT64_C(64) << 30)

static const struct qc_write_ops *ops_of(const qchain *c)
{
    const struct qc_write_ops *ops = c->layer[0].format->write;

    return ops && ops->bitmaps_list ? ops : NULL;
}

static bool usable(const struct qc_bitmap *b)
{
    return !b->in_use && !b->foreign;
}

/* --------------------------------------------------------------------- load --- */

static int by_name(const void *a, const void *b)
{
    const struct qc_bitmap *x = *(struct qc_bitmap *const *)a, *y = *(struct qc_bitmap *const *)b;
    int d = memcmp(x->name, y->name, qc_min64(x->name_len, y->name_len));

    return d != 0 ? d : x->name_len < y->name_len ? -1 : x->name_len > y->name_len;
}

static int check_unique(const struct qc_bitmap_list *l, qchain_error *err)
{
    struct qc_bitmap **b = qc_malloc((l->n + 1) * sizeof(*b));
    struct qc_escaped shown;
    int ret = 0;

    if (!b)
        return qc_fail_nomem(err);
    if (l->n > 0) {
        memcpy(b, l->b, l->n * sizeof(*b));
        qsort(b, l->n, sizeof(*b), by_name);
    }
    for (size_t i = 1; i < l->n && ret == 0; i++)
        if (by_name(&b[i - 1], &b[i]) == 0)
            ret = qc_fail(err, QCHAIN_E_CORRUPT, "bitmap name is not unique: '%s'",
                          qc_escape_str(&shown, b[i]->name));
    qc_free(b);
    return ret;
}

/* The list, if it is not there yet; lock held. */
static int list(qchain *c, struct qc_bitmaps *m, qchain_error *err)
{
    struct qc_image *img = m->listed ? NULL : qc_layer_image(c, 0, err);
    int ret;

    if (m->listed)
        return 0;
    if (!img)
        return err->code;
    ret = ops_of(c)->bitmaps_list(img, &m->list, err);
    if (ret == 0)
        ret = check_unique(&m->list, err);
    m->listed = ret == 0;
    if (ret == 0)
        return 0;
    qc_bitmap_list_finish(&m->list);
    qc_layer_prefix(c, 0, err);
    return ret;
}

/* The bits of one, if they are not there yet; lock held. */
static int load(qchain *c, struct qc_bitmaps *m, struct qc_bitmap *b, qchain_error *err)
{
    int ret = 0;

    if (!b->bits)
        ret = ops_of(c)->bitmap_load(c->layer[0].img, &m->list, b, err);
    if (ret != 0)
        qc_layer_prefix(c, 0, err);
    return ret;
}

static struct qc_bitmaps *create(void)
{
    struct qc_bitmaps *m = qc_calloc(1, sizeof(*m));

    if (m)
        pthread_mutex_init(&m->lock, NULL);
    return m;
}

static void destroy(struct qc_bitmaps *m)
{
    if (m) {
        qc_bitmap_list_finish(&m->list);
        pthread_mutex_destroy(&m->lock);
    }
    qc_free(m);
}

int qc_bitmaps_enter(qchain *c, struct qc_bitmaps **out, qchain_error *err)
{
    struct qc_bitmaps *m = atomic_load(&c->bitmaps), *none = NULL;
    int ret;

    if (!m) {
        m = create();
        if (!m)
            return qc_fail_nomem(err);
        if (!atomic_compare_exchange_strong(&c->bitmaps, &none, m)) {
            destroy(m);
            m = none;
        }
    }
    pthread_mutex_lock(&m->lock);
    ret = list(c, m, err);
    if (ret != 0)
        pthread_mutex_unlock(&m->lock);
    *out = m;
    return ret;
}

/* -------------------------------------------------------------------- track --- */

/* Whoever writes next is to mark first. */
static void must_mark(qchain *c)
{
    atomic_store(&c->tip->unmarked, true);
}

/* Note anew which ones follow the disk. Nobody writes. */
static int track(qchain *c, struct qc_bitmaps *m, qchain_error *err)
{
    struct qc_tracked *t = NULL;
    size_t n = 0;

    for (size_t i = 0; i < m->list.n; i++)
        n += usable(m->list.b[i]) && m->list.b[i]->enabled;
    if (n > 0) {
        t = qc_malloc(sizeof(*t) + n * sizeof(t->b[0]));
        if (!t)
            return qc_fail_nomem(err);
        t->n = 0;
        for (size_t i = 0; i < m->list.n; i++)
            if (usable(m->list.b[i]) && m->list.b[i]->enabled)
                t->b[t->n++] = m->list.b[i];
    }
    qc_free(c->tip->tracked);
    c->tip->tracked = t;
    return 0;
}

void qc_bitmaps_note(struct qc_tracked *t, uint64_t offset, uint64_t length)
{
    for (size_t i = 0; i < t->n && length > 0; i++) {
        struct qc_bitmap *b = t->b[i];

        if (qc_bits_set(b->bits, offset >> b->granularity_bits,
                        ((offset + length - 1) >> b->granularity_bits) + 1))
            atomic_store_explicit(&b->changed, true, memory_order_relaxed);
    }
}

static int load_enabled(qchain *c, struct qc_bitmaps *m, qchain_error *err)
{
    uint64_t bytes = 0;
    int ret = 0;

    for (size_t i = 0; i < m->list.n && ret == 0; i++) {
        struct qc_bitmap *b = m->list.b[i];

        if (b->enabled && !b->in_use && b->slot != QC_BITMAP_NEW)
            must_mark(c);
        if (!b->enabled || !usable(b))
            continue;
        bytes += qc_bitmap_bits(m->list.disk, b->granularity_bits) / 8;
        if (bytes > TRACKED_BYTES)
            return qc_fail(err, QCHAIN_E_LIMIT, "the enabled bitmaps have more than 64 GiB");
        ret = load(c, m, b, err);
    }
    return ret;
}

int qc_bitmaps_open(qchain *c, qchain_error *err)
{
    struct qc_bitmaps *m;
    int ret;

    if (!ops_of(c))
        return 0;
    ret = qc_bitmaps_enter(c, &m, err);
    if (ret != 0)
        return ret;
    ret = load_enabled(c, m, err);
    if (ret == 0)
        ret = track(c, m, err);
    pthread_mutex_unlock(&m->lock);
    return ret;
}

void qc_bitmaps_destroy(qchain *c)
{
    if (c->tip) {
        qc_free(c->tip->tracked);
        c->tip->tracked = NULL;
    }
    destroy(atomic_load(&c->bitmaps));
    atomic_store(&c->bitmaps, NULL);
}

/* ------------------------------------------------------------- mark, store --- */

/* Lock held. */
static int mark(qchain *c, struct qc_bitmaps *m, bool all, qchain_error *err)
{
    int ret;

    for (size_t i = 0; i < m->list.n; i++)
        m->list.b[i]->mark = m->list.b[i]->enabled || atomic_load(&m->list.b[i]->changed);
    ret = ops_of(c)->bitmaps_mark(c->tip->img, &m->list, all, err);
    if (ret != 0) {
        qc_layer_prefix(c, 0, err);
        return ret;
    }
    m->marked = true;
    atomic_store(&c->tip->unmarked, false);
    return 0;
}

int qc_bitmaps_mark(qchain *c, qchain_error *err)
{
    struct qc_bitmaps *m = atomic_load(&c->bitmaps);
    int ret = 0;

    pthread_mutex_lock(&m->lock);
    if (atomic_load(&c->tip->unmarked))
        ret = mark(c, m, false, err);
    pthread_mutex_unlock(&m->lock);
    return ret;
}

/* Lock held. */
static int store(qchain *c, struct qc_bitmaps *m, qchain_error *err)
{
    bool needed = m->changed || m->marked;
    int ret;

    for (size_t i = 0; i < m->list.n; i++)
        needed |= atomic_load(&m->list.b[i]->changed);
    if (!needed)
        return 0;
    ret = ops_of(c)->bitmaps_store(c->tip->img, &m->list, err);
    if (ret != 0) {
        qc_error_prefix(err, -1, "dirty bitmaps were not stored: ");
        qc_layer_prefix(c, 0, err);
        return ret;
    }
    m->changed = m->marked = false;
    for (size_t i = 0; i < m->list.n; i++)
        if (m->list.b[i]->enabled && !m->list.b[i]->in_use)
            must_mark(c);
    return 0;
}

int qc_bitmaps_store(qchain *c, qchain_error *err)
{
    struct qc_bitmaps *m = atomic_load(&c->bitmaps);
    int ret;

    if (!m)
        return 0;
    pthread_mutex_lock(&m->lock);
    ret = store(c, m, err);
    pthread_mutex_unlock(&m->lock);
    return ret;
}

/* ------------------------------------------------------------------- resize --- */

/* All are loaded, and would fit a disk of this size. Lock held. */
static int check_resize(qchain *c, struct qc_bitmaps *m, uint64_t size, qchain_error *err)
{
    struct qc_escaped shown;
    qchain_error why;
    int ret = 0;

    for (size_t i = 0; i < m->list.n && ret == 0; i++) {
        struct qc_bitmap *b = m->list.b[i];

        if (b->in_use)
            continue;
        if (b->foreign)
            return qc_fail(err, QCHAIN_E_BUSY, "dirty bitmap '%s' cannot follow: it has unknown extra data",
                           qc_escape_str(&shown, b->name));
        qc_error_init(&why);
        if (size != UINT64_MAX &&
            ops_of(c)->bitmap_fits(c->tip->img, &m->list, b->granularity_bits, size, 0, &why) != 0)
            return qc_fail(err, QCHAIN_E_BUSY, "dirty bitmap '%s' cannot follow: %s",
                           qc_escape_str(&shown, b->name), why.text);
        ret = load(c, m, b, err);
    }
    return ret;
}

/* Give them so many bits as a disk of size bytes needs. */
static int fit_bits(struct qc_bitmaps *m, uint64_t size, qchain_error *err)
{
    for (size_t i = 0; i < m->list.n; i++)
        if (usable(m->list.b[i]) &&
            !qc_bits_resize(m->list.b[i]->bits, qc_bitmap_bits(size, m->list.b[i]->granularity_bits)))
            return qc_fail_nomem(err);
    return 0;
}

int qc_bitmaps_before_resize(qchain *c, uint64_t size, qchain_error *err)
{
    struct qc_bitmaps *m = atomic_load(&c->bitmaps);
    int ret;

    if (!m)
        return 0;
    pthread_mutex_lock(&m->lock);
    ret = check_resize(c, m, size, err);
    if (ret == 0 && size != UINT64_MAX && size > m->list.disk) {
        ret = fit_bits(m, size, err); /* what needs memory, while it may fail */
        if (ret != 0)
            fit_bits(m, m->list.disk, NULL);
    }
    if (ret == 0 && m->list.n > 0)
        ret = mark(c, m, true, err);
    pthread_mutex_unlock(&m->lock);
    return ret;
}

/* One could not follow for want of memory: the file says so already. Lock held. */
static void give_up(qchain *c, struct qc_bitmaps *m)
{
    for (size_t i = 0; i < m->list.n; i++) {
        struct qc_bitmap *b = m->list.b[i];

        if (usable(b) && b->bits->n != qc_bitmap_bits(m->list.disk, b->granularity_bits))
            b->in_use = true;
    }
    qc_log(&c->env->log, QCHAIN_LOG_WARN, "chain", "no memory: dirty bitmaps are lost");
    if (track(c, m, NULL) != 0 && c->tip->tracked)
        c->tip->tracked->n = 0;
}

void qc_bitmaps_after_resize(qchain *c, uint64_t old, bool all)
{
    struct qc_bitmaps *m = atomic_load(&c->bitmaps);
    uint64_t size = c->size;
    qchain_error why;

    if (!m)
        return;
    qc_error_init(&why);
    pthread_mutex_lock(&m->lock);
    m->list.disk = size;
    if (fit_bits(m, size, &why) != 0)
        give_up(c, m);
    for (size_t i = 0; i < m->list.n; i++)
        atomic_store(&m->list.b[i]->changed, usable(m->list.b[i]));
    if (c->tip->tracked && size > 0 && (all || size > old))
        qc_bitmaps_note(c->tip->tracked, all ? 0 : old, all ? size : size - old);
    if (m->list.n > 0 && store(c, m, &why) != 0)
        qc_log(&c->env->log, QCHAIN_LOG_WARN, "chain", "%s", why.text);
    pthread_mutex_unlock(&m->lock);
}

/* -------------------------------------------------------------------- calls --- */

static struct qc_bitmap *find(const struct qc_bitmaps *m, const char *name, size_t *at)
{
    size_t len = strlen(name);

    for (size_t i = 0; i < m->list.n; i++)
        if (m->list.b[i]->name_len == len && memcmp(m->list.b[i]->name, name, len) == 0) {
            *at = i;
            return m->list.b[i];
        }
    return NULL;
}

static int fail_missing(const char *name, qchain_error *err)
{
    struct qc_escaped shown;

    return qc_fail(err, QCHAIN_E_NOTFOUND, "there is no dirty bitmap '%s'", qc_escape_str(&shown, name));
}

/* One whose bits may be looked at, and are loaded. Lock held. */
static int get(qchain *c, struct qc_bitmaps *m, const char *name, struct qc_bitmap **out, qchain_error *err)
{
    struct qc_escaped shown;
    size_t at;
    struct qc_bitmap *b = *out = find(m, name, &at);

    if (!b)
        return fail_missing(name, err);
    if (b->in_use)
        return qc_fail(err, QCHAIN_E_CORRUPT, "dirty bitmap '%s' was not stored when it was used last: it cannot be "
                       "trusted, only removed", qc_escape_str(&shown, name));
    if (b->foreign)
        return qc_fail(err, QCHAIN_E_UNSUPPORTED, "dirty bitmap '%s' has unknown extra data: it cannot be used",
                       qc_escape_str(&shown, name));
    return load(c, m, b, err);
}

/* What calls that change bitmaps begin with: nobody writes, and the lock is held on success. */
static int begin(qchain *c, struct qc_bitmaps **m, qchain_error *err)
{
    int ret = qc_tip_check(c, err);

    if (ret != 0)
        return ret;
    if (!ops_of(c)) {
        ret = qc_fail(err, QCHAIN_E_UNSUPPORTED, "%s images have no dirty bitmaps", c->layer[0].format->name);
        qc_layer_prefix(c, 0, err);
        return ret;
    }
    qc_admission_hold(&c->tip->admission);
    ret = qc_tip_check(c, err);
    if (ret == 0)
        ret = qc_bitmaps_enter(c, m, err);
    if (ret != 0)
        qc_admission_release(&c->tip->admission);
    return ret;
}

static void end(qchain *c, struct qc_bitmaps *m)
{
    pthread_mutex_unlock(&m->lock);
    qc_admission_release(&c->tip->admission);
}

static int add(qchain *c, struct qc_bitmaps *m, const char *name, uint32_t granularity_bits, bool enabled,
               qchain_error *err)
{
    struct qc_escaped shown;
    struct qc_bitmap *b;
    size_t at;
    int ret;

    if (find(m, name, &at))
        return qc_fail(err, QCHAIN_E_EXISTS, "there is a dirty bitmap '%s' already", qc_escape_str(&shown, name));
    ret = ops_of(c)->bitmap_fits(c->tip->img, &m->list, granularity_bits, c->size, strlen(name), err);
    if (ret != 0) {
        qc_layer_prefix(c, 0, err);
        return ret;
    }
    b = qc_bitmap_append(&m->list, name, strlen(name));
    if (!b)
        return qc_fail_nomem(err);
    b->granularity_bits = granularity_bits;
    b->enabled = enabled;
    atomic_store(&b->changed, true);
    b->bits = qc_bits_create(qc_bitmap_bits(c->size, granularity_bits));
    ret = b->bits ? track(c, m, err) : qc_fail_nomem(err);
    if (ret != 0)
        qc_bitmap_remove(&m->list, m->list.n - 1);
    return ret;
}

int qc_chain_bitmap_add(qchain *c, const char *name, uint32_t granularity_bits, bool enabled, qchain_error *err)
{
    struct qc_bitmaps *m;
    int ret = begin(c, &m, err);

    if (ret != 0)
        return ret;
    ret = add(c, m, name, granularity_bits, enabled, err);
    if (ret == 0)
        m->changed = true;
    end(c, m);
    return ret;
}

int qc_chain_bitmap_remove(qchain *c, const char *name, qchain_error *err)
{
    struct qc_bitmaps *m;
    struct qc_bitmap *b;
    bool enabled;
    size_t at;
    int ret = begin(c, &m, err);

    if (ret != 0)
        return ret;
    b = find(m, name, &at);
    if (!b) {
        end(c, m);
        return fail_missing(name, err);
    }
    enabled = b->enabled;
    b->enabled = false;
    ret = track(c, m, err);
    if (ret == 0) {
        qc_bitmap_remove(&m->list, at);
        m->changed = true;
        must_mark(c); /* the file has it still, and it does not follow any more */
    } else {
        b->enabled = enabled;
    }
    end(c, m);
    return ret;
}

int qc_chain_bitmap_clear(qchain *c, const char *name, qchain_error *err)
{
    struct qc_bitmaps *m;
    struct qc_bitmap *b;
    int ret = begin(c, &m, err);

    if (ret != 0)
        return ret;
    ret = get(c, m, name, &b, err);
    if (ret == 0) {
        qc_bits_clear(b->bits);
        atomic_store(&b->changed, true);
        must_mark(c);
    }
    end(c, m);
    return ret;
}

int qc_chain_bitmap_enable(qchain *c, const char *name, bool enabled, qchain_error *err)
{
    struct qc_bitmaps *m;
    struct qc_bitmap *b;
    int ret = begin(c, &m, err);

    if (ret != 0)
        return ret;
    ret = get(c, m, name, &b, err);
    if (ret == 0 && b->enabled != enabled) {
        b->enabled = enabled;
        ret = track(c, m, err);
        if (ret == 0) {
            atomic_store(&b->changed, true);
            must_mark(c);
        } else {
            b->enabled = !enabled;
        }
    }
    end(c, m);
    return ret;
}

/* -------------------------------------------------------------------- merge --- */

static void add_bits(struct qc_bitmap *to, const struct qc_bitmap *from)
{
    uint64_t first = qc_bits_next(from->bits, 0, true), stop;

    for (; first < from->bits->n; first = qc_bits_next(from->bits, stop, true)) {
        stop = qc_bits_next(from->bits, first, false);
        qc_bits_set(to->bits, first << from->granularity_bits >> to->granularity_bits,
                    (((stop << from->granularity_bits) - 1) >> to->granularity_bits) + 1);
    }
}

/* Both locks are held. */
static int merge(qchain *c, struct qc_bitmaps *m, const char *name, qchain *source, struct qc_bitmaps *other,
                 const char *from_name, qchain_error *err)
{
    struct qc_bitmap *to, *from;
    int ret = get(c, m, name, &to, err);

    if (ret == 0)
        ret = get(source, other, from_name, &from, err);
    if (ret != 0)
        return ret;
    if (m->list.disk != other->list.disk)
        return qc_fail(err, QCHAIN_E_INVAL, "merge: the bitmaps are of disks of different sizes, %llu and %llu bytes",
                       (unsigned long long)m->list.disk, (unsigned long long)other->list.disk);
    if (to == from)
        return 0;
    /* What the file has is too little, from now on. */
    atomic_store(&to->changed, true);
    ret = to->slot == QC_BITMAP_NEW ? 0 : mark(c, m, false, err);
    if (ret == 0)
        add_bits(to, from);
    return ret;
}

/* Two calls that merge to and fro must not wait for each other. */
static int enter_source(qchain *source, struct qc_bitmaps **out, qchain_error *err)
{
    int ret;

    if (!ops_of(source))
        return qc_fail(err, QCHAIN_E_NOTFOUND, "%s images have no dirty bitmaps", source->layer[0].format->name);
    ret = qc_bitmaps_enter(source, out, err);
    if (ret == 0)
        pthread_mutex_unlock(&(*out)->lock);
    return ret;
}

static void lock_two(struct qc_bitmaps *a, struct qc_bitmaps *b)
{
    struct qc_bitmaps *first = (uintptr_t)a < (uintptr_t)b ? a : b;

    pthread_mutex_lock(&first->lock);
    pthread_mutex_lock(first == a ? &b->lock : &a->lock);
}

int qc_chain_bitmap_merge(qchain *c, const char *name, qchain *source, const char *from, qchain_error *err)
{
    struct qc_bitmaps *m, *other = NULL;
    int ret = begin(c, &m, err);

    if (ret != 0)
        return ret;
    if (source == c) {
        ret = merge(c, m, name, c, m, from, err);
    } else {
        pthread_mutex_unlock(&m->lock);
        ret = enter_source(source, &other, err);
        if (ret == 0) {
            lock_two(m, other);
            ret = merge(c, m, name, source, other, from, err);
            pthread_mutex_unlock(&other->lock);
        } else {
            pthread_mutex_lock(&m->lock);
        }
    }
    end(c, m);
    return ret;
}

/* -------------------------------------------------------------------- query --- */

static void tell(const struct qc_bitmap *b, uint64_t offset, uint64_t end, qchain_dirty_extent *extents,
                 uint32_t max, uint32_t *n, uint64_t *next)
{
    unsigned bits = b->granularity_bits;

    for (*n = 0; *n < max && offset < end; (*n)++) {
        bool dirty = qc_bits_next(b->bits, offset >> bits, true) == offset >> bits;
        uint64_t stop = qc_bits_next(b->bits, offset >> bits, !dirty);

        stop = stop < b->bits->n ? qc_min64(end, stop << bits) : end;
        extents[*n] = (qchain_dirty_extent){.offset = offset, .length = stop - offset, .dirty = dirty};
        offset = stop;
    }
    *next = offset;
}

int qc_chain_bitmap_query(qchain *c, const char *name, uint64_t offset, uint64_t length,
                          qchain_dirty_extent *extents, uint32_t max, uint32_t *n, uint64_t *next,
                          qchain_error *err)
{
    struct qc_bitmaps *m;
    struct qc_bitmap *b;
    int ret = qc_chain_check(c, err);

    if (ret != 0)
        return ret;
    if (!ops_of(c) || c->has_snapshot) /* which are the disk's, not the snapshot's */
        return fail_missing(name, err);
    ret = qc_bitmaps_enter(c, &m, err);
    if (ret != 0)
        return ret;
    ret = get(c, m, name, &b, err);
    if (ret == 0 && offset > m->list.disk)
        ret = qc_fail(err, QCHAIN_E_RANGE, "bitmap: offset %llu is beyond the disk's %llu bytes",
                      (unsigned long long)offset, (unsigned long long)m->list.disk);
    if (ret == 0)
        tell(b, offset, offset + qc_min64(length, m->list.disk - offset), extents, max, n, next);
    pthread_mutex_unlock(&m->lock);
    return ret;
}
