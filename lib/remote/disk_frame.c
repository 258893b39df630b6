/* SPDX-License-Identifier: MIT */
/* Reading and storing an object's grains. */
#include "remote/disk_int.h"

#include <errno.h>
#include <sys/uio.h>
#include <unistd.h>

#include "util/bytes.h"
#include "util/crc32c.h"

/* Read and checked in pieces that the processor's cache still has when they are checked. */
#define PIECE ((size_t)128 << 10)
/* What is no more than this many grains is read aside, and copied while it is checked. */
#define SMALL 4u
/* Where aside: AMD's processors keep what the kernel copies with "rep movsb" out of their near caches,
 * but not if the target lies a little behind the source, counted within pages; and to fetch 4 KiB back
 * takes them longer than all else that is done here. Others may be slow in just that case. */
#define ASKEW 16u

/* A table in memory. Other threads change it: entry by entry, and a wrong one is a miss. */
struct table {
    atomic_uint_fast64_t entry[QC_FRAME_GRAINS];
    atomic_uint_fast64_t touched; /* when this process last noted its use on the medium */
    uint64_t             noted;   /* what was noted there when the table was read, by anybody */
};

enum found { HIT, ABSENT, DAMAGED };

static struct table *table_in(struct qc_block *b)
{
    return (struct table *)(void *)b->data;
}

static uint64_t entry_of(uint32_t mark, uint32_t crc)
{
    return (uint64_t)mark << 32 | crc;
}

/* ------------------------------------------------------------------ tables --- */

/* A table as it lies on the medium, and the first number of the page behind it. */
struct loaded {
    uint64_t entry[QC_FRAME_GRAINS];
    uint64_t used; /* when the frame was last used, as was noted */
};

/* The frame's table from the medium, zeros where there is none. False: all zeros. */
static bool load_table(int fd, uint64_t frame, struct loaded *l)
{
    ssize_t n = pread(fd, l, sizeof(*l), (off_t)qc_disk_frame_at(frame));

    if (n < 0)
        n = 0;
    memset((char *)l + n, 0, sizeof(*l) - (size_t)n);
    return n > 0 && !qc_is_zero(l->entry, sizeof(l->entry));
}

/* The frame's table, pinned: as it is in memory, or (*fresh, which is set if it was) from the medium.
 * NULL: nothing is there, or no memory. */
static struct qc_block *get_table(struct qc_disk_object *o, int fd, uint64_t frame, bool *fresh)
{
    struct qc_block_cache *blocks = o->disk->o.blocks;
    uint64_t owner = atomic_load_explicit(&o->owner, memory_order_relaxed);
    struct qc_block *b = qc_block_find(blocks, owner, frame);
    struct loaded l;
    bool any, made;

    if (b && !*fresh)
        return b;
    *fresh = true;
    any = load_table(fd, frame, &l);
    made = !b && any;
    if (made)
        b = qc_block_new(sizeof(struct table));
    if (!b)
        return NULL;
    for (unsigned i = 0; i < QC_FRAME_GRAINS; i++)
        atomic_store_explicit(&table_in(b)->entry[i], l.entry[i], memory_order_relaxed);
    if (made) {
        atomic_init(&table_in(b)->touched, 0);
        table_in(b)->noted = l.used;
        qc_block_insert(blocks, b, owner, frame);
    }
    return b;
}

/* Note on the medium that a frame is used, for those who evict. And do not keep the space of a file that
 * they have removed for ever. */
static void touch(struct qc_disk_object *o, int fd, struct table *t, uint64_t frame)
{
    uint64_t now = qc_disk_now();
    uint64_t touched = atomic_load_explicit(&t->touched, memory_order_relaxed);
    struct stat st;

    if (now >= touched && now - touched < QC_DISK_TOUCH_S)
        return;
    if (!atomic_compare_exchange_strong(&t->touched, &touched, now))
        return;
    if (fstat(fd, &st) == 0 && st.st_nlink == 0)
        qc_disk_object_forget(o);
    else if (now - qc_min64(t->noted, now) >= QC_DISK_TOUCH_S && o->writable && qc_disk_fills(o->disk))
        qc_disk_write(fd, &now, sizeof(now), qc_disk_frame_at(frame) + QC_GRAIN);
}

/* ----------------------------------------------------------------- reading --- */

/* A range of more than a grain within a frame, by whole grains: those at its ends that it covers in
 * part are read aside. */
struct span {
    uint64_t     first;  /* grain, counted from the object's begin */
    unsigned     n;
    unsigned     n_iov;
    struct iovec iov[3];
};

static void lay_out(struct span *s, uint8_t *buf, uint64_t offset, size_t length,
                    uint8_t aside[2][QC_GRAIN])
{
    size_t head = offset % QC_GRAIN, tail = (offset + length) % QC_GRAIN, whole;

    s->first = offset / QC_GRAIN;
    s->n = (unsigned)((offset + length - 1) / QC_GRAIN - s->first + 1);
    s->n_iov = 0;
    if (head) {
        s->iov[s->n_iov++] = (struct iovec){aside[0], QC_GRAIN};
        buf += QC_GRAIN - head;
        length -= QC_GRAIN - head;
    }
    whole = length - tail;
    if (whole)
        s->iov[s->n_iov++] = (struct iovec){buf, whole};
    if (tail)
        s->iov[s->n_iov++] = (struct iovec){aside[1], QC_GRAIN};
}

static enum found check_grains(const struct span *s, const struct table *t)
{
    unsigned at = (unsigned)(s->first % QC_FRAME_GRAINS);

    for (unsigned i = 0; i < s->n_iov; i++) {
        const char *p = s->iov[i].iov_base;

        for (size_t left = s->iov[i].iov_len; left > 0; left -= QC_GRAIN, p += QC_GRAIN, at++) {
            uint64_t entry = atomic_load_explicit(&t->entry[at], memory_order_relaxed);

            if ((uint32_t)entry != qc_crc32c(0, p, QC_GRAIN))
                return qc_is_zero(p, QC_GRAIN) ? ABSENT : DAMAGED; /* a hole: it was evicted */
        }
    }
    return HIT;
}

/* Do the entries have the marks of their places? */
static enum found check_marks(const struct qc_disk_object *o, const struct table *t, uint64_t first,
                              unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        uint64_t entry = atomic_load_explicit(&t->entry[first % QC_FRAME_GRAINS + i],
                                              memory_order_relaxed);

        if (entry >> 32 != qc_disk_mark(o->tag, first + i))
            return entry ? DAMAGED : ABSENT;
    }
    return HIT;
}

static off_t place_of(uint64_t grain)
{
    return (off_t)(qc_disk_frame_at(grain / QC_FRAME_GRAINS) +
                   (2 + grain % QC_FRAME_GRAINS) * (uint64_t)QC_GRAIN);
}

static size_t askew(void)
{
#ifdef __x86_64__
    if (__builtin_cpu_is("amd"))
        return ASKEW;
#endif
    return 0;
}

/* Check what was read aside, and copy it out. */
static enum found take_grains(const struct table *t, uint8_t *buf, uint64_t offset, uint64_t end,
                              const uint8_t *p)
{
    for (uint64_t at = offset, to; at < end; at = to, p += QC_GRAIN) {
        uint64_t entry = atomic_load_explicit(&t->entry[at / QC_GRAIN % QC_FRAME_GRAINS],
                                              memory_order_relaxed);
        uint32_t crc;

        to = qc_min64(end, (at / QC_GRAIN + 1) * QC_GRAIN);
        if (to - at == QC_GRAIN) {
            crc = qc_crc32c_copy(0, buf + (at - offset), p, QC_GRAIN);
        } else {
            crc = qc_crc32c(0, p, QC_GRAIN);
            memcpy(buf + (at - offset), p + at % QC_GRAIN, to - at);
        }
        if (crc != (uint32_t)entry)
            return qc_is_zero(p, QC_GRAIN) ? ABSENT : DAMAGED; /* a hole: it was evicted */
    }
    return HIT;
}

/* As long as all goes well the data is read before the entries are looked at, which at random come
 * from far memory meanwhile. Else holes are not read: the page cache would fill with zeros. */
static enum found read_small(struct qc_disk_object *o, int fd, const struct table *t, uint8_t *buf,
                             uint64_t offset, size_t length)
{
    _Alignas(QC_GRAIN) uint8_t aside[ASKEW + SMALL * QC_GRAIN];
    uint8_t *p = aside + askew();
    uint64_t first = offset / QC_GRAIN, end = offset + length;
    unsigned n = (unsigned)((end - 1) / QC_GRAIN - first + 1);
    bool well = atomic_load_explicit(&o->well, memory_order_relaxed);
    enum found found = HIT;

    __builtin_prefetch(&t->entry[first % QC_FRAME_GRAINS]);
    if (!well)
        found = check_marks(o, t, first, n);
    if (found == HIT && pread(fd, p, n * QC_GRAIN, place_of(first)) != (ssize_t)(n * QC_GRAIN))
        found = ABSENT;
    if (found == HIT && well)
        found = check_marks(o, t, first, n);
    if (found == HIT)
        found = take_grains(t, buf, offset, end, p);
    if ((found == HIT) != well)
        atomic_store_explicit(&o->well, found == HIT, memory_order_relaxed);
    return found;
}

/* A range within a piece of a frame, by its table. */
static enum found read_span(const struct qc_disk_object *o, int fd, const struct table *t,
                            uint8_t *buf, uint64_t offset, size_t length)
{
    uint8_t aside[2][QC_GRAIN];
    size_t head = offset % QC_GRAIN;
    struct span s;
    enum found found;
    ssize_t n;

    lay_out(&s, buf, offset, length, aside);
    found = check_marks(o, t, s.first, s.n);
    if (found != HIT)
        return found;
    n = preadv(fd, s.iov, (int)s.n_iov, place_of(s.first));
    if (n != (ssize_t)s.n * QC_GRAIN)
        return ABSENT;
    found = check_grains(&s, t);
    if (found != HIT)
        return found;
    if (s.iov[0].iov_base == aside[0])
        memcpy(buf, aside[0] + head, QC_GRAIN - head);
    if (s.iov[s.n_iov - 1].iov_base == aside[1])
        memcpy(buf + length - (offset + length) % QC_GRAIN, aside[1], (offset + length) % QC_GRAIN);
    return HIT;
}

static enum found read_pieces(struct qc_disk_object *o, int fd, const struct table *t,
                              uint8_t *buf, uint64_t offset, size_t length)
{
    enum found found = HIT;

    while (length > 0 && found == HIT) {
        size_t n = PIECE - offset % PIECE;

        n = n < length ? n : length;
        if (n <= (SMALL - 1) * QC_GRAIN + 1) /* wherever it begins */
            found = read_small(o, fd, t, buf, offset, n);
        else
            found = read_span(o, fd, t, buf, offset, n);
        buf += n;
        offset += n;
        length -= n;
    }
    return found;
}

/* A range within a frame. What the table in memory does not know may have been stored by another
 * process since, and what it knows may have been evicted and stored again: only the one on the medium
 * says for sure. */
static bool read_frame(struct qc_disk_object *o, int fd, uint8_t *buf, uint64_t offset, size_t length)
{
    uint64_t frame = offset / QC_FRAME_DATA;
    enum found found = ABSENT;

    for (bool fresh = false, last = false; !last && found != HIT; fresh = true) {
        struct qc_block *b = get_table(o, fd, frame, &fresh);

        if (!b)
            return false;
        last = fresh;
        found = read_pieces(o, fd, table_in(b), buf, offset, length);
        if (found == HIT)
            touch(o, fd, table_in(b), frame);
        qc_block_unpin(o->disk->o.blocks, b);
    }
    if (found == DAMAGED)
        qc_count(o->disk->o.slots, QC_CNT_DISK_DAMAGED, 1);
    return found == HIT;
}

bool qc_disk_object_read(struct qc_disk_object *o, void *buf, uint64_t offset, size_t length)
{
    uint8_t *p = buf;
    bool all = true;
    int fd = qc_disk_object_pin(o, false);

    if (fd < 0)
        return false;
    for (size_t left = length, n; left > 0 && all; p += n, offset += n, left -= n) {
        n = (size_t)qc_min64(left, QC_FRAME_DATA - offset % QC_FRAME_DATA);
        all = read_frame(o, fd, p, offset, n);
    }
    qc_disk_object_unpin(o);
    if (all)
        qc_count_bytes(o->disk->o.slots, QC_CNT_DISK_HITS, length);
    return all;
}

/* ----------------------------------------------------------------- looking --- */

/* The first grain of [first, end), within a frame, that is there or not, as asked for; end: none. */
static uint64_t find_grain(const struct qc_disk_object *o, struct qc_block *table, uint64_t first,
                           uint64_t end, bool there)
{
    if (!table)
        return there ? end : first;
    while (first < end && (check_marks(o, table_in(table), first, 1) == HIT) != there)
        first++;
    return first;
}

/* A descriptor of a file that others find, too. Unpin it. -1: none. */
static int pin_to_look(struct qc_disk_object *o)
{
    int fd = qc_disk_object_pin(o, false);
    struct stat st;

    if (fd < 0 || (fstat(fd, &st) == 0 && st.st_nlink > 0))
        return fd;
    qc_disk_object_forget(o);
    qc_disk_object_unpin(o);
    return -1;
}

/* Tables are looked at as they are on the medium: other processes store, and evict. */
bool qc_disk_object_lacks(struct qc_disk_object *o, uint64_t offset, uint64_t end, uint64_t *from,
                          uint64_t *to)
{
    uint64_t at = offset / QC_GRAIN, last = qc_align_up(end, QC_GRAIN) / QC_GRAIN, first = at, stop;
    int fd = pin_to_look(o);
    bool lacks = fd < 0, ended = false;

    while (fd >= 0 && at < last && !ended) {
        bool fresh = true;
        struct qc_block *b = get_table(o, fd, at / QC_FRAME_GRAINS, &fresh);

        stop = qc_min64(last, (at / QC_FRAME_GRAINS + 1) * QC_FRAME_GRAINS);
        if (!lacks) {
            first = at = find_grain(o, b, at, stop, false);
            lacks = at < stop;
        }
        if (lacks)
            at = find_grain(o, b, at, stop, true);
        ended = at < stop;
        qc_block_unpin(o->disk->o.blocks, b);
    }
    if (fd >= 0)
        qc_disk_object_unpin(o);
    *from = qc_max64(first * QC_GRAIN, offset);
    *to = ended ? at * QC_GRAIN : end;
    return lacks;
}

/* ----------------------------------------------------------------- storing --- */

/* Have what is in memory say the same as the medium. */
static void update_table(struct qc_disk_object *o, uint64_t frame, unsigned at, const uint64_t *entry,
                         unsigned n, uint64_t now)
{
    struct qc_block *b = qc_block_find(o->disk->o.blocks, atomic_load(&o->owner), frame);

    if (!b)
        return;
    for (unsigned i = 0; i < n; i++)
        atomic_store_explicit(&table_in(b)->entry[at + i], entry[i], memory_order_relaxed);
    atomic_store_explicit(&table_in(b)->touched, now, memory_order_relaxed);
    qc_block_unpin(o->disk->o.blocks, b);
}

/* A range within a frame, from a grain's begin to a grain's end or the object's; an errno. The data is
 * written before the entries: who stops in between has stored nothing. The time comes first of all, for
 * a frame without one is the next to be evicted. */
static int store_frame(struct qc_disk_object *o, int fd, const uint8_t *buf, uint64_t offset,
                       size_t length)
{
    uint64_t frame = offset / QC_FRAME_DATA, first = offset / QC_GRAIN, now = qc_disk_now();
    uint64_t base = qc_disk_frame_at(frame), entry[QC_FRAME_GRAINS];
    unsigned at = (unsigned)(first % QC_FRAME_GRAINS), n = 0;
    size_t rest = length % QC_GRAIN, whole = length - rest;
    struct qc_disk_meta meta = {now, now};
    uint8_t last[QC_GRAIN];
    uint64_t to = base + (2 + at) * (uint64_t)QC_GRAIN;
    int errnum;

    for (size_t i = 0; i < whole; i += QC_GRAIN, n++)
        entry[n] = entry_of(qc_disk_mark(o->tag, first + n), qc_crc32c(0, buf + i, QC_GRAIN));
    if (rest) {
        memcpy(last, buf + whole, rest);
        memset(last + rest, 0, QC_GRAIN - rest);
        entry[n] = entry_of(qc_disk_mark(o->tag, first + n), qc_crc32c(0, last, QC_GRAIN));
        n++;
    }
    errnum = qc_disk_write(fd, &meta, sizeof(meta), base + QC_GRAIN);
    if (errnum == 0)
        errnum = qc_disk_write(fd, buf, whole, to);
    if (errnum == 0 && rest)
        errnum = qc_disk_write(fd, last, QC_GRAIN, to + whole);
    if (errnum == 0)
        errnum = qc_disk_write(fd, entry, n * sizeof(entry[0]), base + at * sizeof(entry[0]));
    if (errnum == 0)
        update_table(o, frame, at, entry, n, now);
    return errnum;
}

/* A descriptor of the file that the name leads to: who evicts removes files. Unpin it. -1: none. */
static int pin_to_store(struct qc_disk_object *o)
{
    struct stat st;
    int fd;

    for (int tries = 0; tries < 2; tries++) {
        fd = qc_disk_object_pin(o, true);
        if (fd < 0 || (fstat(fd, &st) == 0 && st.st_nlink > 0))
            return fd;
        qc_disk_object_forget(o);
        qc_disk_object_unpin(o);
    }
    return -1;
}

void qc_disk_object_store(struct qc_disk_object *o, const void *buf, uint64_t offset, size_t length)
{
    struct qc_disk *d = o->disk;
    const uint8_t *p = buf;
    int errnum = 0, fd;

    if (atomic_load(&o->no_fill) || !qc_disk_fills(d))
        return;
    fd = pin_to_store(o);
    if (fd < 0)
        return;
    for (size_t left = length, n; left > 0 && errnum == 0; p += n, offset += n, left -= n) {
        n = (size_t)qc_min64(left, QC_FRAME_DATA - offset % QC_FRAME_DATA);
        errnum = o->writable ? store_frame(o, fd, p, offset, n) : EROFS;
    }
    qc_disk_object_unpin(o);
    if (errnum == EFBIG) /* no file may be as large as this object: that is its own fault */
        atomic_store(&o->no_fill, true);
    else if (errnum != 0)
        qc_disk_write_failed(d, errnum, "cannot store");
    else
        qc_count(d->o.slots, QC_CNT_DISK_STORES, 1);
    qc_disk_wrote(d, length + 2 * QC_GRAIN); /* and a table, and a meta page */
}
