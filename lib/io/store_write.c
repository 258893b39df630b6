/* SPDX-License-Identifier: MIT */
/*
 * Writing to a store, whatever it is: the size that grows, blocks that are written in part, and
 * what is durable. Writes are numbered as they end; a flush covers those that had ended when the
 * store's own flush was called.
 */
#include "io/store_int.h"

#include <inttypes.h>
#include <pthread.h>
#include <string.h>

#include "util/alloc.h"
#include "util/error.h"

#define ZERO_BYTES (64u << 10)
#define ZERO_PIECES 16

struct qc_store_writing {
    struct qc_blocks     *blocks;  /* NULL: the store takes any bytes */
    pthread_rwlock_t      end;     /* of those stores: held by who writes past the end; alone, by
                                      who cuts what was padded back to the size */
    atomic_uint_fast64_t  ended;   /* writes, and whatever else changes something */
    atomic_uint_fast64_t  durable; /* of those; changed under the lock */
    _Atomic uint64_t      littered; /* up to here writes that failed may have left something, past
                                      the size too */
    atomic_bool           broken;  /* a flush failed; why is set before */
    pthread_mutex_t       lock;    /* guards what follows */
    pthread_cond_t        flushed;
    bool                  flushing;
    qchain_error          why;
};

static char zeros[ZERO_BYTES] __attribute__((aligned(4096))); /* never written to */

int qc_store_make_writable(struct qc_store *s, qchain_error *err)
{
    struct qc_store_writing *w = qc_calloc(1, sizeof(*w));

    if (!w)
        return qc_fail_nomem(err);
    if (s->limits.align_offset && !(w->blocks = qc_blocks_create())) {
        qc_free(w);
        return qc_fail_nomem(err);
    }
    pthread_rwlock_init(&w->end, NULL);
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->flushed, NULL);
    s->writing = w;
    return 0;
}

void qc_store_end_writing(struct qc_store *s)
{
    struct qc_store_writing *w = s->writing;

    if (!w)
        return;
    pthread_cond_destroy(&w->flushed);
    pthread_mutex_destroy(&w->lock);
    pthread_rwlock_destroy(&w->end);
    qc_blocks_destroy(w->blocks);
    qc_free(w);
}

static int is_broken(const struct qc_store *s, qchain_error *err)
{
    return qc_fail(err, QCHAIN_E_READONLY, "%s: is read-only since a flush failed (%.500s): what "
                   "is on the medium is not known any more", s->name, s->writing->why.text);
}

static int may_write(const struct qc_store *s, uint64_t length, uint64_t offset, qchain_error *err)
{
    uint64_t end;

    if (!s->writing)
        return qc_fail(err, QCHAIN_E_READONLY, "%s: is not open for writing", s->name);
    if (atomic_load_explicit(&s->writing->broken, memory_order_acquire))
        return is_broken(s, err);
    if (!qc_add_ok(offset, length, &end) || end > INT64_MAX)
        return qc_fail(err, QCHAIN_E_LIMIT, "%s: write of %" PRIu64 " bytes at offset %" PRIu64
                       ": ends past 2^63 - 1", s->name, length, offset);
    return 0;
}

/* Something has changed, or may have: a failed write may be there in part. */
static void note_change(struct qc_store *s)
{
    atomic_fetch_add_explicit(&s->writing->ended, 1, memory_order_release);
}

static void raise_to(_Atomic uint64_t *v, uint64_t end)
{
    uint64_t now = atomic_load_explicit(v, memory_order_relaxed);

    while (now < end && !atomic_compare_exchange_weak(v, &now, end))
        continue;
}

static void grow(struct qc_store *s, uint64_t end)
{
    raise_to(&s->size, end);
}

/* ------------------------------------------------------------------- write --- */

static int call_pwrite(struct qc_store *s, const void *buf, size_t length, uint64_t offset,
                       qchain_error *err)
{
    int rc;

    qc_count_bytes(s->slots, QC_CNT_STORE_WRITES, length);
    rc = s->ops.pwrite(s->obj, buf, length, offset, 0, err);
    return rc == 0 ? 0 : qc_store_slot_failed(s, rc, "pwrite", err);
}

static int call_pwritev(struct qc_store *s, const qchain_iov *iov, size_t n_iov, size_t length,
                        uint64_t offset, qchain_error *err)
{
    int rc = 0;

    if (n_iov > 1 && s->ops.pwritev) {
        qc_count_bytes(s->slots, QC_CNT_STORE_WRITES, length);
        rc = s->ops.pwritev(s->obj, iov, n_iov, length, offset, 0, err);
        return rc == 0 ? 0 : qc_store_slot_failed(s, rc, "pwritev", err);
    }
    for (size_t i = 0; rc == 0 && i < n_iov; i++) {
        if (iov[i].len > 0)
            rc = call_pwrite(s, iov[i].base, iov[i].len, offset, err);
        offset += iov[i].len;
    }
    return rc;
}

/* The last block of a size that is no multiple of blocks, whose rest is no part of the store: it
 * goes there, and is cut off. Nobody else is writing past the end then. */
static int write_last_block(struct qc_store *s, const qchain_iov *iov, size_t n_iov, size_t length,
                            uint64_t offset, qchain_error *err)
{
    struct qc_store_writing *w = s->writing;
    uint64_t size;
    int rc;

    pthread_rwlock_wrlock(&w->end);
    size = qc_store_size(s);
    rc = call_pwritev(s, iov, n_iov, length, offset, err);
    if (rc == 0 && offset + length > size) {
        rc = s->ops.resize(s->obj, size, 0, err);
        if (rc != 0) {
            rc = qc_store_slot_failed(s, rc, "resize", err);
            grow(s, offset + length); /* that is how long it is now */
        }
    }
    pthread_rwlock_unlock(&w->end);
    return rc;
}

/* Write what the store takes as it is. upto: where the caller's own bytes end. */
static int write_plain(struct qc_store *s, const qchain_iov *iov, size_t n_iov, size_t length,
                       uint64_t offset, uint64_t upto, qchain_error *err)
{
    struct qc_store_writing *w = s->writing;
    uint64_t end = offset + length;
    int rc;

    if (!w->blocks || end <= qc_store_size(s)) {
        rc = call_pwritev(s, iov, n_iov, length, offset, err);
        if (rc == 0)
            grow(s, end);
        return rc;
    }
    if (upto <= qc_store_size(s))
        return write_last_block(s, iov, n_iov, length, offset, err);
    pthread_rwlock_rdlock(&w->end);
    rc = call_pwritev(s, iov, n_iov, length, offset, err);
    if (rc == 0)
        grow(s, end);
    pthread_rwlock_unlock(&w->end);
    return rc;
}

/* True if the store takes this write as it is. */
static bool is_aligned(const struct qc_store *s, const qchain_iov *iov, size_t n_iov,
                       uint64_t offset)
{
    uint64_t memory = s->limits.align_memory, block = s->limits.align_offset;

    if (offset % block != 0)
        return false;
    for (size_t i = 0; i < n_iov; i++)
        if ((uintptr_t)iov[i].base % memory != 0 || iov[i].len % block != 0)
            return false;
    return true;
}

/* The block at pos as it is, with zeros past the end. */
static int read_block(struct qc_store *s, char *buf, uint64_t pos, qchain_error *err)
{
    uint64_t block = s->limits.align_offset, size = qc_store_size(s);
    size_t inside = pos < size ? qc_min64(block, size - pos) : 0;
    int rc = inside ? qc_store_call_pread(s, buf, inside, pos, 0, err) : 0;

    memset(buf + inside, 0, block - inside);
    if (rc != 0)
        qc_error_prefix(err, -1, "write of a part of the block at offset %" PRIu64 ": ", pos);
    return rc;
}

/* Write bytes [first, last) of the blocks [pos, pos + length), taking them from the cursor. spare:
 * room for a block, aligned as buf is. */
static int rewrite(struct qc_store *s, char *buf, char *spare, size_t length, uint64_t pos,
                   struct qc_cursor *c, uint64_t first, uint64_t last, qchain_error *err)
{
    uint64_t block = s->limits.align_offset, tail = pos + length - block;
    bool at_head = first > pos, at_tail = last < pos + length;
    qchain_iov piece, all = {.base = buf, .len = length};
    size_t left = last - first;
    char *to = buf + (first - pos);
    int rc = 0;

    qc_blocks_lock(s->writing->blocks, pos, length, at_head || at_tail);
    if (at_head)
        rc = read_block(s, buf, pos, err);
    if (rc == 0 && at_tail && !(at_head && tail == pos)) {
        rc = read_block(s, spare, tail, err);
        if (rc == 0)
            memcpy(buf + (tail - pos), spare, block);
    }
    while (rc == 0 && qc_next_piece(c, &piece, left)) {
        memcpy(to, piece.base, piece.len);
        to += piece.len;
        left -= piece.len;
    }
    if (rc == 0)
        rc = write_plain(s, &all, 1, length, pos, last, err);
    qc_blocks_unlock(s->writing->blocks, pos, length, at_head || at_tail);
    return rc;
}

/* Write by way of an aligned buffer that holds whole blocks. */
static int write_bounced(struct qc_store *s, struct qc_cursor c, size_t length, uint64_t offset,
                         qchain_error *err)
{
    uint64_t block = s->limits.align_offset, end = offset + length;
    uint64_t pos = qc_align_down(offset, block), stop = qc_align_up(end, block);
    size_t room = qc_min64(stop - pos, qc_min64(qc_store_most(s), QC_BOUNCE_BYTES));
    size_t held = qc_align_up(room, s->limits.align_memory);
    char *buf = qc_aligned(s->limits.align_memory, held + block);
    int rc = 0;

    if (!buf)
        return qc_fail_nomem(err);
    while (rc == 0 && pos < stop) {
        size_t n = qc_min64(stop - pos, room);

        rc = rewrite(s, buf, buf + held, n, pos, &c, qc_max64(pos, offset),
                     qc_min64(pos + n, end), err);
        pos += n;
    }
    qc_free(buf);
    return rc;
}

static int write_part(struct qc_store *s, struct qc_cursor start, const qchain_iov *part,
                      size_t n, size_t length, uint64_t offset, qchain_error *err)
{
    struct qc_blocks *blocks = s->writing->blocks;
    int rc;

    if (blocks && !is_aligned(s, part, n, offset))
        return write_bounced(s, start, length, offset, err);
    if (blocks)
        qc_blocks_lock(blocks, offset, length, false);
    rc = write_plain(s, part, n, length, offset, offset + length, err);
    if (blocks)
        qc_blocks_unlock(blocks, offset, length, false);
    return rc;
}

/* In as many calls as pieces, limits and alignment ask for. */
static int write_in_parts(struct qc_store *s, const qchain_iov *iov, size_t n_iov, size_t length,
                          uint64_t offset, qchain_error *err)
{
    struct qc_cursor c = {.iov = iov, .n_iov = n_iov};
    qchain_iov part[QC_PIECES_A_CALL];
    size_t most = qc_store_most(s);
    int rc = 0;

    while (rc == 0 && length > 0) {
        struct qc_cursor start = c;
        size_t n = 0, take = 0, room = qc_min64(length, most);

        while (n < QC_PIECES_A_CALL && qc_next_piece(&c, &part[n], room - take))
            take += part[n++].len;
        if (take == 0)
            return qc_fail(err, QCHAIN_E_INTERNAL, "%s: a vector shorter than its length", s->name);
        rc = write_part(s, start, part, n, take, offset, err);
        offset += take;
        length -= take;
    }
    return rc;
}

int qc_store_writev(struct qc_store *s, const qchain_iov *iov, size_t n_iov, size_t length,
                    uint64_t offset, qchain_error *err)
{
    int rc = may_write(s, length, offset, err);

    if (rc != 0 || length == 0)
        return rc;
    if (n_iov <= QC_MAX_PIECES && qc_store_asks_nothing(s))
        rc = write_plain(s, iov, n_iov, length, offset, offset + length, err);
    else
        rc = write_in_parts(s, iov, n_iov, length, offset, err);
    if (rc != 0)
        raise_to(&s->writing->littered, offset + length);
    note_change(s);
    return rc;
}

int qc_store_write(struct qc_store *s, const void *buf, size_t length, uint64_t offset,
                   qchain_error *err)
{
    qchain_iov iov = {.base = (void *)(uintptr_t)buf, .len = length};

    return qc_store_writev(s, &iov, 1, length, offset, err);
}

bool qc_store_takes_write(const struct qc_store *s, size_t length, uint64_t offset)
{
    uint64_t size = qc_store_size(s);

    if (may_write(s, length, offset, NULL) != 0)
        return false;
    return !s->writing->blocks || size % s->limits.align_offset == 0 || offset + length <= size;
}

void qc_store_wrote(struct qc_store *s, uint64_t offset, uint64_t length)
{
    grow(s, offset + length);
    note_change(s);
}

void qc_store_failed(struct qc_store *s, uint64_t offset, uint64_t length)
{
    raise_to(&s->writing->littered, offset + length);
    note_change(s);
}

/* ------------------------------------------------------------------- flush --- */

/* Under the lock, which is not held meanwhile. */
static int flush_now(struct qc_store *s, qchain_error *err)
{
    struct qc_store_writing *w = s->writing;
    uint64_t covered = atomic_load_explicit(&w->ended, memory_order_acquire);
    qchain_error why;
    int rc;

    qc_error_init(&why);
    w->flushing = true;
    pthread_mutex_unlock(&w->lock);
    qc_count(s->slots, QC_CNT_FLUSHES, 1);
    rc = s->ops.flush(s->obj, 0, &why);
    if (rc != 0)
        rc = qc_store_slot_failed(s, rc, "flush", &why);
    pthread_mutex_lock(&w->lock);
    w->flushing = false;
    if (rc == 0) {
        atomic_store_explicit(&w->durable, covered, memory_order_release);
    } else {
        qc_error_copy(&w->why, &why);
        atomic_store_explicit(&w->broken, true, memory_order_release);
        qc_error_copy(err, &why);
    }
    pthread_cond_broadcast(&w->flushed);
    return rc;
}

int qc_store_flush(struct qc_store *s, qchain_error *err)
{
    struct qc_store_writing *w = s->writing;
    uint64_t wanted;
    int rc = 0;

    if (!w)
        return 0;
    wanted = atomic_load_explicit(&w->ended, memory_order_acquire);
    pthread_mutex_lock(&w->lock);
    /* One that began before our call may not cover what ended in between: then ours follows it. */
    while (w->flushing && atomic_load(&w->durable) < wanted)
        pthread_cond_wait(&w->flushed, &w->lock);
    if (atomic_load(&w->broken))
        rc = is_broken(s, err);
    else if (atomic_load(&w->durable) < wanted)
        rc = flush_now(s, err);
    pthread_mutex_unlock(&w->lock);
    return rc;
}

bool qc_store_is_dirty(const struct qc_store *s)
{
    return s->writing && atomic_load_explicit(&s->writing->durable, memory_order_acquire) <
                             atomic_load_explicit(&s->writing->ended, memory_order_acquire);
}

/* ------------------------------------------------------- size, zeros, space --- */

int qc_store_resize(struct qc_store *s, uint64_t size, qchain_error *err)
{
    int rc = may_write(s, size, 0, err);
    uint64_t old;

    if (rc != 0)
        return rc;
    pthread_rwlock_wrlock(&s->writing->end);
    old = qc_store_size(s);
    if (size < old) /* first, that nobody reads what is not there any more */
        atomic_store_explicit(&s->size, size, memory_order_relaxed);
    rc = s->ops.resize(s->obj, size, 0, err);
    if (rc != 0)
        rc = qc_store_slot_failed(s, rc, "resize", err);
    atomic_store_explicit(&s->size, rc == 0 ? size : old, memory_order_relaxed);
    note_change(s);
    pthread_rwlock_unlock(&s->writing->end);
    return rc;
}

/* Write zeros, in pieces that end at multiples of what one write takes. */
static int write_zeros(struct qc_store *s, uint64_t length, uint64_t offset, qchain_error *err)
{
    const uint64_t most = ZERO_BYTES * ZERO_PIECES;
    qchain_iov iov[ZERO_PIECES];
    int rc = 0;

    while (rc == 0 && length > 0) {
        size_t n = 0, take = qc_min64(length, most - offset % most);

        for (size_t left = take; left > 0; left -= iov[n++].len)
            iov[n] = (qchain_iov){.base = zeros, .len = qc_min64(left, ZERO_BYTES)};
        rc = qc_store_writev(s, iov, n, take, offset, err);
        offset += take;
        length -= take;
    }
    return rc;
}

/* Within the size. */
static int zero_inside(struct qc_store *s, uint64_t length, uint64_t offset, bool unmap,
                       qchain_error *err)
{
    struct qc_blocks *blocks = s->writing->blocks;
    int rc = QCHAIN_E_UNSUPPORTED;
    qchain_error said;

    qc_error_init(&said);
    if (s->ops.zero) {
        if (blocks)
            qc_blocks_lock(blocks, offset, length, true);
        rc = s->ops.zero(s->obj, length, offset, unmap ? QCHAIN_STORE_UNMAP : 0, &said);
        note_change(s);
        if (blocks)
            qc_blocks_unlock(blocks, offset, length, true);
    }
    if (rc == QCHAIN_E_UNSUPPORTED)
        return write_zeros(s, length, offset, err);
    return rc == 0 ? 0 : qc_store_optional_failed(s, rc, "zero", &said, err);
}

int qc_store_zero(struct qc_store *s, uint64_t length, uint64_t offset, bool unmap,
                  qchain_error *err)
{
    uint64_t size = qc_store_size(s), from, to;
    int rc = may_write(s, length, offset, err);

    if (rc == 0 && length > 0 && offset < size)
        rc = zero_inside(s, qc_min64(length, size - offset), offset, unmap, err);
    if (rc == 0) {
        from = qc_max64(offset, size);
        to = qc_min64(offset + length, atomic_load(&s->writing->littered));
        if (from < to)
            rc = write_zeros(s, to - from, from, err);
    }
    /* The last byte makes it as long as that. Not resize, which would cut off what others write
     * behind it meanwhile. */
    if (rc == 0 && length > 0 && offset + length > size)
        rc = write_zeros(s, 1, offset + length - 1, err);
    return rc;
}

int qc_store_discard(struct qc_store *s, uint64_t length, uint64_t offset, qchain_error *err)
{
    int rc = may_write(s, length, offset, err);
    uint64_t size = qc_store_size(s);
    struct qc_blocks *blocks;
    qchain_error said;

    if (rc != 0 || length == 0 || offset >= size || !s->ops.discard)
        return rc;
    qc_error_init(&said);
    length = qc_min64(length, size - offset);
    blocks = s->writing->blocks;
    if (blocks)
        qc_blocks_lock(blocks, offset, length, true);
    rc = s->ops.discard(s->obj, length, offset, 0, &said);
    note_change(s);
    if (blocks)
        qc_blocks_unlock(blocks, offset, length, true);
    if (rc == 0 || rc == QCHAIN_E_UNSUPPORTED)
        return 0;
    return qc_store_optional_failed(s, rc, "discard", &said, err);
}
