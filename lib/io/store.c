/* SPDX-License-Identifier: MIT */
#include "io/store_int.h"

#include <inttypes.h>
#include <string.h>

#include "util/alloc.h"
#include "util/bytes.h"
#include "util/error.h"
#include "util/escape.h"

#define MAX_ALIGN (1u << 20)
#define MAX_PARALLEL 4096

/* ------------------------------------------------------------------ create --- */

/* Slots at the end that we do not know must be unused. */
static int check_unknown_slots(const qchain_store_ops *ops, qchain_error *err)
{
    const unsigned char *p = (const unsigned char *)ops;

    if (ops->struct_size > sizeof(*ops) &&
        !qc_is_zero(p + sizeof(*ops), ops->struct_size - sizeof(*ops)))
        return qc_fail(err, QCHAIN_E_UNSUPPORTED,
                       "store: its qchain_store_ops has slots that this library does not know");
    return 0;
}

/* Close an object that no store was made of. Its slot is among the first, which
 * every version has in the same place; a size of 0 was forgotten, not meant. */
static void close_unused(const qchain_store *from)
{
    const qchain_store_ops *ops = from ? from->ops : NULL;

    if (ops && (ops->struct_size == 0 || ops->struct_size >= offsetof(qchain_store_ops, size)) &&
        ops->close)
        ops->close(from->obj);
}

static int copy_ops(struct qc_store *s, const qchain_store_ops *from, qchain_error *err)
{
    if (from->version < 1 || from->version > QCHAIN_BACKEND_VERSION)
        return qc_fail(err, QCHAIN_E_UNSUPPORTED,
                       "store: made for version %" PRIu32 " of the store seam: this library "
                       "has version %d", from->version, QCHAIN_BACKEND_VERSION);
    if (from->struct_size < offsetof(qchain_store_ops, preadv) || from->struct_size > 65536)
        return qc_fail(err, QCHAIN_E_INVAL,
                       "store: struct_size of its qchain_store_ops: %zu: must be its sizeof",
                       from->struct_size);
    memcpy(&s->ops, from, qc_min64(from->struct_size, sizeof(s->ops)));
    if (!s->ops.close || !s->ops.size || !s->ops.pread)
        return qc_fail(err, QCHAIN_E_INVAL, "store: the slots close, size and pread are required");
    if (s->ops.pwrite && (!s->ops.flush || !s->ops.resize))
        return qc_fail(err, QCHAIN_E_INVAL, "store: one with pwrite has flush and resize, too");
    if (s->ops.flags != 0)
        return qc_fail(err, QCHAIN_E_INVAL, "store: flags of its qchain_store_ops: 0x%" PRIx32
                       ": must be 0", s->ops.flags);
    return check_unknown_slots(from, err);
}

int qc_store_slot_failed(const struct qc_store *s, int rc, const char *slot, qchain_error *err)
{
    if (rc > 0 || rc < QCHAIN_E_EXISTS)
        return qc_fail(err, QCHAIN_E_INTERNAL, "%s: the store's %s returned %d: not a known code",
                       s->name, slot, rc);
    if (err && err->code != rc)
        return qc_fail(err, rc, "%s: the store's %s failed without saying why", s->name, slot);
    return rc;
}

int qc_store_optional_failed(const struct qc_store *s, int rc, const char *slot,
                             qchain_error *said, qchain_error *err)
{
    rc = qc_store_slot_failed(s, rc, slot, said);
    qc_error_copy(err, said);
    return rc;
}

static int ask_size(struct qc_store *s, qchain_error *err)
{
    uint64_t size = 0;
    int rc = s->ops.size(s->obj, &size, err);

    if (rc != 0)
        return qc_store_slot_failed(s, rc, "size", err);
    if (size > INT64_MAX)
        return qc_fail(err, QCHAIN_E_LIMIT, "%s: size %" PRIu64 ": more than 2^63 - 1 bytes",
                       s->name, size);
    atomic_init(&s->size, size);
    return 0;
}

static int ask_identity(struct qc_store *s, qchain_error *err)
{
    qchain_store_identity *id = &s->identity;
    qchain_error said;
    int rc = 0;

    qc_error_init(&said);
    id->struct_size = sizeof(*id);
    if (s->ops.identity)
        rc = s->ops.identity(s->obj, id, &said);
    if (rc == QCHAIN_E_UNSUPPORTED) {
        memset(id, 0, sizeof(*id));
        rc = 0;
    }
    if (rc != 0)
        return qc_store_optional_failed(s, rc, "identity", &said, err);
    id->struct_size = sizeof(*id);
    id->flags &= QCHAIN_IDENTITY_HAS_MTIME | QCHAIN_IDENTITY_HAS_INODE;
    id->size = qc_store_size(s);
    id->etag[sizeof(id->etag) - 1] = '\0';
    return 0;
}

static bool is_alignment(uint32_t v)
{
    return v > 0 && v <= MAX_ALIGN && (v & (v - 1)) == 0;
}

/* Limits that ask nothing are kept as zeros, which is what the fast paths test. */
static int ask_limits(struct qc_store *s, qchain_error *err)
{
    qchain_store_limits l = {.struct_size = sizeof(l), .align_memory = 1, .align_offset = 1};
    qchain_error said;
    int rc;

    qc_error_init(&said);
    rc = s->ops.limits ? s->ops.limits(s->obj, &l, &said) : 0;
    if (rc == QCHAIN_E_UNSUPPORTED)
        return 0;
    if (rc != 0)
        return qc_store_optional_failed(s, rc, "limits", &said, err);
    if (l.parallel > MAX_PARALLEL || l.reserved0)
        return qc_fail(err, QCHAIN_E_INVAL, "%s: the store wants %" PRIu32 " reads at once: at most "
                       "%d; reserved fields must be 0", s->name, l.parallel, MAX_PARALLEL);
    if (!is_alignment(l.align_memory) || !is_alignment(l.align_offset))
        return qc_fail(err, QCHAIN_E_INVAL, "%s: the store asks for alignments %" PRIu32
                       " and %" PRIu32 ": must be powers of two up to 1 MiB", s->name,
                       l.align_memory, l.align_offset);
    if (l.max_transfer != 0 && l.max_transfer < l.align_offset)
        return qc_fail(err, QCHAIN_E_INVAL, "%s: the store's largest transfer, %" PRIu64
                       " bytes: less than its alignment, %" PRIu32, s->name, l.max_transfer,
                       l.align_offset);
    l.max_transfer = qc_align_down(l.max_transfer, l.align_offset);
    if (l.align_memory == 1 && l.align_offset == 1)
        l.align_memory = l.align_offset = 0;
    s->limits = l;
    return 0;
}

int qc_store_create(struct qc_store **out, const qchain_store *from, struct qc_slots *slots,
                    qchain_error *err)
{
    struct qc_store *s = NULL;
    const char *name;
    int rc;

    *out = NULL;
    if (!from || from->struct_size < sizeof(*from) || !from->ops) {
        close_unused(from);
        return qc_fail(err, QCHAIN_E_INVAL,
                       "store: struct_size of its qchain_store must be its sizeof, and ops set");
    }
    s = qc_calloc(1, sizeof(*s));
    rc = s ? copy_ops(s, from->ops, err) : qc_fail_nomem(err);
    if (rc != 0) {
        close_unused(from);
        qc_free(s);
        return rc;
    }
    s->obj = from->obj;
    s->slots = slots;
    name = from->name ? from->name : s->ops.name ? s->ops.name : "store";
    s->name = qc_escape_dup(name, strlen(name));
    if (!s->name) {
        rc = qc_fail_nomem(err);
        goto fail;
    }
    rc = ask_size(s, err);
    if (rc == 0)
        rc = ask_identity(s, err);
    if (rc == 0)
        rc = ask_limits(s, err);
    if (rc == 0 && s->ops.pwrite)
        rc = qc_store_make_writable(s, err);
    if (rc != 0)
        goto fail;
    *out = s;
    return 0;

fail:
    qc_store_destroy(s);
    return rc;
}

void qc_store_destroy(struct qc_store *s)
{
    if (!s)
        return;
    s->ops.close(s->obj);
    qc_store_end_writing(s);
    qc_free(s->name);
    qc_free(s);
}

/* -------------------------------------------------------------------- read --- */

static inline void count_read(struct qc_store *s, size_t length, uint32_t flags)
{
    bool meta = flags & QC_READ_META;

    qc_count_bytes(s->slots, meta ? QC_CNT_META_READS : QC_CNT_STORE_READS, length);
}

/* Only far stores are told what a read is for. */
static inline uint32_t slot_flags(const struct qc_store *s, uint32_t flags)
{
    if (__builtin_expect(!qc_store_is_far(s), 1))
        return 0;
    return (flags & QC_READ_META ? QCHAIN_STORE_META : 0) |
           (flags & QC_READ_FRESH ? QCHAIN_STORE_FRESH : 0) |
           (flags & QC_READ_EXACT ? QCHAIN_STORE_EXACT : 0);
}

static inline int call_pread(struct qc_store *s, void *buf, size_t length, uint64_t offset,
                             uint32_t flags, qchain_error *err)
{
    int rc;

    count_read(s, length, flags);
    rc = s->ops.pread(s->obj, buf, length, offset, slot_flags(s, flags), err);
    return __builtin_expect(rc == 0, 1) ? 0 : qc_store_slot_failed(s, rc, "pread", err);
}

int qc_store_call_pread(struct qc_store *s, void *buf, size_t length, uint64_t offset,
                        uint32_t flags, qchain_error *err)
{
    return call_pread(s, buf, length, offset, flags, err);
}

static int call_preadv(struct qc_store *s, const qchain_iov *iov, size_t n_iov, size_t length,
                       uint64_t offset, uint32_t flags, qchain_error *err)
{
    int rc = 0;

    if (s->ops.preadv) {
        count_read(s, length, flags);
        rc = s->ops.preadv(s->obj, iov, n_iov, length, offset, slot_flags(s, flags), err);
        return __builtin_expect(rc == 0, 1) ? 0 : qc_store_slot_failed(s, rc, "preadv", err);
    }
    for (size_t i = 0; rc == 0 && i < n_iov; i++) {
        if (iov[i].len > 0)
            rc = call_pread(s, iov[i].base, iov[i].len, offset, flags, err);
        offset += iov[i].len;
    }
    return rc;
}

static void copy_in(struct qc_cursor *c, const char *from, size_t length)
{
    qchain_iov piece;

    while (qc_next_piece(c, &piece, length)) {
        memcpy(piece.base, from, piece.len);
        from += piece.len;
        length -= piece.len;
    }
}

static void zero_rest(struct qc_cursor *c)
{
    qchain_iov piece;

    while (qc_next_piece(c, &piece, SIZE_MAX))
        memset(piece.base, 0, piece.len);
}

/* True if the store takes this request as it is. The last piece may have any
 * length where it ends with the store. */
static bool is_aligned(const struct qc_store *s, const qchain_iov *iov, size_t n_iov,
                       size_t length, uint64_t offset)
{
    uint64_t memory = s->limits.align_memory, block = s->limits.align_offset;
    bool at_end = offset + length == qc_store_size(s);

    if (block == 0)
        return true;
    if (offset % block != 0)
        return false;
    for (size_t i = 0; i < n_iov; i++)
        if ((uintptr_t)iov[i].base % memory != 0 ||
            (iov[i].len % block != 0 && !(at_end && i + 1 == n_iov)))
            return false;
    return true;
}

/* Read whole blocks into an aligned buffer and copy what was asked for. */
static int read_bounced(struct qc_store *s, struct qc_cursor c, size_t length, uint64_t offset,
                        uint32_t flags, qchain_error *err)
{
    uint64_t block = s->limits.align_offset;
    uint64_t end = offset + length;
    uint64_t pos = qc_align_down(offset, block);
    uint64_t stop = qc_min64(qc_align_up(end, block), qc_store_size(s));
    uint64_t most = s->limits.max_transfer ? qc_min64(s->limits.max_transfer, QC_BOUNCE_BYTES)
                                           : QC_BOUNCE_BYTES;
    size_t room = qc_min64(stop - pos, most);
    char *buf = qc_aligned(s->limits.align_memory, qc_align_up(room, block));
    int rc = 0;

    if (!buf)
        return qc_fail_nomem(err);
    while (rc == 0 && pos < stop) {
        size_t n = qc_min64(stop - pos, room);
        uint64_t first = qc_max64(pos, offset), last = qc_min64(pos + n, end);

        rc = call_pread(s, buf, n, pos, flags, err);
        if (rc == 0)
            copy_in(&c, buf + (first - pos), last - first);
        pos += n;
    }
    qc_free(buf);
    return rc;
}

/* Read length bytes in as many calls as pieces, limits and alignment ask for. */
static int read_in_parts(struct qc_store *s, struct qc_cursor *c, size_t length, uint64_t offset,
                         uint32_t flags, qchain_error *err)
{
    size_t most = qc_store_most(s);
    qchain_iov part[QC_PIECES_A_CALL];
    int rc = 0;

    while (rc == 0 && length > 0) {
        struct qc_cursor start = *c;
        size_t n = 0, take = 0, room = qc_min64(length, most);

        while (n < QC_PIECES_A_CALL && qc_next_piece(c, &part[n], room - take))
            take += part[n++].len;
        if (take == 0)
            return qc_fail(err, QCHAIN_E_INTERNAL, "%s: a vector shorter than its length", s->name);
        if (!is_aligned(s, part, n, take, offset))
            rc = read_bounced(s, start, take, offset, flags, err);
        else if (n == 1)
            rc = call_pread(s, part[0].base, take, offset, flags, err);
        else
            rc = call_preadv(s, part, n, take, offset, flags, err);
        offset += take;
        length -= take;
    }
    return rc;
}

static int past_end(const struct qc_store *s, size_t length, uint64_t offset, qchain_error *err)
{
    qc_fail(err, QCHAIN_E_CORRUPT,
            "read of %zu bytes at offset %" PRIu64 ": past the end, the file has %" PRIu64
            " bytes", length, offset, qc_store_size(s));
    qc_error_at(err, offset);
    return QCHAIN_E_CORRUPT;
}

/* Whatever the fast paths leave: cut, bounced, or partly past the end. */
static __attribute__((noinline)) int read_slowly(struct qc_store *s, const qchain_iov *iov,
                                                 size_t n_iov, size_t length, uint64_t offset,
                                                 uint32_t flags, qchain_error *err)
{
    struct qc_cursor c = {.iov = iov, .n_iov = n_iov};
    uint64_t size = qc_store_size(s);
    size_t inside = offset < size ? qc_min64(length, size - offset) : 0;
    int rc;

    if (inside < length && !(flags & QC_READ_PAST_END))
        return past_end(s, length, offset, err);
    rc = read_in_parts(s, &c, inside, offset, flags, err);
    if (rc == 0 && inside < length)
        zero_rest(&c);
    return rc;
}

static inline bool is_inside(const struct qc_store *s, size_t length, uint64_t offset)
{
    uint64_t size = qc_store_size(s);

    return length <= size && offset <= size - length;
}

void qc_store_hot_init(struct qc_store_hot *h, struct qc_store *s)
{
    /* The size of a writable one is another at any time, and not copied. */
    h->pread = qc_store_asks_nothing(s) && !s->writing ? s->ops.pread : NULL;
    h->obj = s->obj;
    h->size = qc_store_size(s);
    atomic_store_explicit(&h->store, s, memory_order_release);
}

int qc_store_read_hot(const struct qc_store_hot *h, struct qc_slots *slots, void *buf,
                      size_t length, uint64_t offset, qchain_error *err)
{
    int rc;

    if (!h->pread || length > h->size || offset > h->size - length)
        return qc_store_read(h->store, buf, length, offset, QC_READ_PAST_END, err);
    qc_count_bytes(slots, QC_CNT_STORE_READS, length);
    rc = h->pread(h->obj, buf, length, offset, 0, err);
    return __builtin_expect(rc == 0, 1) ? 0 : qc_store_slot_failed(h->store, rc, "pread", err);
}

int qc_store_read(struct qc_store *s, void *buf, size_t length, uint64_t offset, uint32_t flags,
                  qchain_error *err)
{
    qchain_iov iov = {.base = buf, .len = length};

    if (length == 0)
        return 0;
    if (__builtin_expect(is_inside(s, length, offset) && qc_store_asks_nothing(s), 1))
        return call_pread(s, buf, length, offset, flags, err);
    return read_slowly(s, &iov, 1, length, offset, flags, err);
}

int qc_store_readv(struct qc_store *s, const qchain_iov *iov, size_t n_iov, size_t length,
                   uint64_t offset, uint32_t flags, qchain_error *err)
{
    if (length == 0)
        return 0;
    if (n_iov <= QC_MAX_PIECES && is_inside(s, length, offset) && qc_store_asks_nothing(s))
        return call_preadv(s, iov, n_iov, length, offset, flags, err);
    return read_slowly(s, iov, n_iov, length, offset, flags, err);
}

/* ----------------------------------------------------------------- extents --- */

int qc_store_extent(struct qc_store *s, qchain_store_extent *out, uint64_t length,
                    uint64_t offset, qchain_error *err)
{
    qchain_store_extent e = {.offset = offset, .length = length};
    qchain_error said;
    uint64_t end, size = qc_store_size(s);
    int rc;

    *out = (qchain_store_extent){.offset = offset, .length = length, .hole = 1};
    if (offset >= size || length == 0)
        return 0; /* past the end everything reads as zeros */
    length = qc_min64(length, size - offset);
    *out = (qchain_store_extent){.offset = offset, .length = length};
    if (!s->ops.extents)
        return 0;

    qc_error_init(&said);
    rc = s->ops.extents(s->obj, &e, length, offset, 0, &said);
    if (rc == QCHAIN_E_UNSUPPORTED)
        return 0;
    if (rc != 0)
        return qc_store_optional_failed(s, rc, "extents", &said, err);
    if (!qc_add_ok(e.offset, e.length, &end) || e.offset > offset || end <= offset || e.hole > 1)
        return qc_fail(err, QCHAIN_E_IO, "%s: the store's extents at offset %" PRIu64
                       ": answered %" PRIu64 " bytes at %" PRIu64 " (kind %" PRIu32
                       "): does not hold the offset", s->name, offset, e.length, e.offset, e.hole);
    out->length = qc_min64(end - offset, length);
    out->hole = e.hole;
    return 0;
}

uint64_t qc_store_allocated(struct qc_store *s)
{
    uint64_t bytes = 0;

    if (s->ops.allocated && s->ops.allocated(s->obj, &bytes, NULL) == 0)
        return bytes;
    return qc_store_size(s);
}
