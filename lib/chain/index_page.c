/* SPDX-License-Identifier: MIT */
/* One page of a sidecar index, from bytes to runs. */
#include "chain/index_file.h"

#include <inttypes.h>

#include "util/bytes.h"

#define RUN_MAX (UINT64_C(1) << 40)       /* bytes of a run that is handed out */
#define SECTORS_MAX (UINT64_C(1) << 47)   /* of a file */

/* How far a page is read, and what its runs so far leave to the next. Small functions
 * change it, so that it lives in registers; that is why errors get a copy. */
struct place {
    const uint8_t *p, *end;
    uint64_t       guest, guest_end;
    uint64_t       source; /* from the bottom */
    uint64_t       host_end;
};

/* ----------------------------------------------------------------- numbers --- */

/* The number at p. Returns what follows it; NULL if it reaches past the end or has more
 * than 64 bits. */
static const uint8_t *read_any(const uint8_t *p, const uint8_t *end, uint64_t *v)
{
    uint64_t sum = 0;

    for (unsigned shift = 0; p < end; shift += 7, p++) {
        if (shift == 63 && *p > 1) /* the tenth byte has one bit, and is the last */
            return NULL;
        sum |= (uint64_t)(*p & 0x7f) << shift;
        if (*p < 0x80) {
            *v = sum;
            return p + 1;
        }
    }
    return NULL;
}

/* The same; nearly all have one to three bytes. */
static inline bool read_number(struct place *at, uint64_t *v)
{
    const uint8_t *p = at->p;
    uint64_t sum;

    if (at->end - p >= 3) {
        sum = p[0] & 0x7f;
        if (p[0] < 0x80) {
            *v = sum;
            at->p = p + 1;
            return true;
        }
        sum |= (uint64_t)(p[1] & 0x7f) << 7;
        if (p[1] < 0x80) {
            *v = sum;
            at->p = p + 2;
            return true;
        }
        sum |= (uint64_t)(p[2] & 0x7f) << 14;
        if (p[2] < 0x80) {
            *v = sum;
            at->p = p + 3;
            return true;
        }
    }
    p = read_any(p, at->end, &sum);
    if (!p)
        return false;
    *v = sum;
    at->p = p;
    return true;
}

static inline uint64_t unzigzag(uint64_t v)
{
    return v >> 1 ^ (0 - (v & 1));
}

/* -------------------------------------------------------------------- runs --- */
/* These return what is wrong, or NULL. */

static const char bad_number[] = "has a number that is too large or reaches past the page's bytes";

static const char *check_compressed(const struct qc_ixf *x, uint32_t source, uint64_t guest,
                                    uint64_t units, uint64_t sectors)
{
    const struct qc_ixf_source *s = &x->source[source];
    uint64_t cluster = s->cluster_size;

    if (cluster == 0 || (source + 1 < x->header.n_sources && (s[1].flags & QC_IXF_DATA_FILE)))
        return "is compressed, in a file that has no compressed clusters";
    if ((guest ^ (guest + (units << 9) - 1)) >= cluster)
        return "is compressed, but reaches over more than one cluster";
    if (sectors < 1 || sectors > cluster / 256 + 1)
        return "has a compressed stream of an impossible length";
    return NULL;
}

static inline const char *read_stream(const struct qc_ixf *x, struct place *at, struct qc_run *r,
                                      uint64_t units)
{
    uint64_t v, host, sectors;
    const char *wrong;

    if (!read_number(at, &v) || !read_number(at, &sectors))
        return bad_number;
    host = at->host_end + unzigzag(v);
    if (host > QC_HOST_MAX)
        return "lies above 2^56 in its file";
    wrong = check_compressed(x, x->header.n_sources - 1 - (uint32_t)at->source, at->guest, units,
                             sectors);
    if (wrong)
        return wrong;
    if (host >= x->source[x->header.n_sources - 1 - at->source].size)
        return "has a compressed stream past the end of its file";
    at->host_end = qc_align_down(host, 512) + (sectors << 9);
    r->host_kind |= host << 8;
    r->sectors = (uint16_t)sectors;
    return NULL;
}

/* How long a run can be: an entry of an L2 table has 8 bytes at least. */
static bool is_too_long(const struct qc_ixf *x, uint64_t source, uint64_t units)
{
    const struct qc_ixf_source *s = &x->source[x->header.n_sources - 1 - source];

    if (s->flags & QC_IXF_DATA_FILE)
        s--;
    if (s->cluster_size == 0)
        return units > qc_div_up(s->size, 512);
    return units / (s->cluster_size / 512) > s->size / 8;
}

static inline const char *read_host(struct place *at, struct qc_run *r, uint64_t units)
{
    uint64_t v, host;

    if (!read_number(at, &v))
        return bad_number;
    host = (at->host_end >> 9) + unzigzag(v);
    if (host >= SECTORS_MAX || units > SECTORS_MAX - host)
        return "lies above 2^56 in its file";
    at->host_end = (host + units) << 9;
    r->host_kind |= host << 17;
    return NULL;
}

/* The next run whole, but for its length; its sources count from the bottom. */
static inline const char *read_run(const struct qc_ixf *x, struct place *at, struct qc_run *r,
                                   uint64_t *length)
{
    uint64_t v, units;
    enum qc_kind kind;

    if (at->p == at->end)
        return "is missing: the page has no bytes left";
    if (!read_number(at, &v))
        return bad_number;
    kind = (enum qc_kind)(v & 7);
    units = v >> 3;
    if (kind > QC_COMPRESSED)
        return "is of no known kind";
    if (units == 0)
        return "has no length";
    if (units > (at->guest_end - at->guest) >> 9)
        return "reaches past the page's end";
    *length = units << 9;
    r->guest = at->guest;
    r->host_kind = (uint64_t)kind;
    r->sectors = 0;
    if (kind == QC_END)
        return NULL;
    if (!read_number(at, &v))
        return bad_number;
    at->source += unzigzag(v);
    if (at->source >= x->header.n_sources)
        return "is in a file that the table does not have";
    if (kind == QC_COMPRESSED)
        return read_stream(x, at, r, units);
    if (__builtin_expect(units > QC_IXF_WINDOW / 512, 0) && kind > QC_SHORT &&
        is_too_long(x, at->source, units))
        return "is longer than its layer can tell of";
    return kind > QC_ZERO ? read_host(at, r, units) : NULL;
}

/* Append what of a run lies in [from, to). */
static int append_cut(struct qc_runs *out, struct qc_run r, uint64_t end, uint64_t from,
                      uint64_t to)
{
    bool moves = qc_kind_has_host(qc_run_kind(&r)) && qc_run_kind(&r) != QC_COMPRESSED;
    uint64_t start = qc_max64(r.guest, from), n;

    end = qc_min64(end, to);
    while (start < end) {
        n = qc_min64(end - start, RUN_MAX - start % RUN_MAX);
        if (moves)
            r.host_kind += (start - r.guest) << 8;
        r.guest = start;
        r.length = (uint32_t)(n >> 9);
        if (qc_runs_reserve(out, out->n + 1) != 0)
            return QCHAIN_E_NOMEM;
        out->run[out->n++] = r;
        start += n;
    }
    return 0;
}

/* -------------------------------------------------------------------- page --- */

/* at: how far it came. */
static int bad_page(const struct qc_ixf *x, uint32_t i, size_t at, uint32_t run, const char *what,
                    qchain_error *err)
{
    const struct qc_ixf_page *page = &x->page[i];

    qc_fail(err, QCHAIN_E_CORRUPT, "page %" PRIu32 " (disk offset %" PRIu64 "): run %" PRIu32
            ": %s", i, page->start, run, what);
    qc_error_at(err, page->offset + at);
    return QCHAIN_E_CORRUPT;
}

/* The lowest layer's own file. */
static uint32_t lowest_file(const struct qc_ixf *x)
{
    uint32_t last = x->header.n_sources - 1;

    return x->source[last].flags & QC_IXF_DATA_FILE ? last - 1 : last;
}

static int decode(const struct qc_ixf *x, uint32_t i, const uint8_t *p, uint64_t from, uint64_t to,
                  uint32_t first_source, struct qc_runs *out, qchain_error *err)
{
    const struct qc_ixf_page *page = &x->page[i];
    struct place at = {.p = p, .end = p + page->bytes, .guest = page->start,
                       .guest_end = qc_ixf_page_end(x, i)};
    uint32_t end_source = first_source + lowest_file(x), n = 0;
    uint32_t last_source = first_source + x->header.n_sources - 1;
    const char *wrong = NULL;
    uint64_t length;
    struct qc_run r;
    enum qc_kind kind;

    for (; n < page->n_runs; n++) {
        wrong = read_run(x, &at, &r, &length);
        if (wrong)
            break;
        kind = qc_run_kind(&r);
        if (page->nothing && kind > QC_SHORT) {
            wrong = "is something, in a page that is said to hold nothing";
            break;
        }
        r.source = (uint16_t)(kind == QC_END ? end_source : last_source - (uint32_t)at.source);
        at.guest += length;
        /* Nearly all: whole, and there is room. */
        if (r.guest >= from && at.guest <= to && length <= RUN_MAX - r.guest % RUN_MAX &&
            out->n < out->cap) {
            r.length = (uint32_t)(length >> 9);
            out->run[out->n++] = r;
        } else if (append_cut(out, r, at.guest, from, to) != 0) {
            return qc_fail_nomem(err);
        }
    }
    if (!wrong && at.p != at.end)
        wrong = "is there, but the page has no more runs";
    if (!wrong && at.guest != at.guest_end)
        wrong = "is missing: the page's part of the disk is not covered";
    return wrong ? bad_page(x, i, (size_t)(at.p - p), n, wrong, err) : 0;
}

int qc_ixf_decode_page(const struct qc_ixf *x, uint32_t i, const uint8_t *p, uint64_t from,
                       uint64_t to, uint32_t first_source, struct qc_runs *out,
                       qchain_error *err)
{
    uint64_t most = from < to ? qc_min64(x->page[i].n_runs, (to - from) >> 9) : 0;
    size_t before = out->n;
    int ret;

    if (qc_runs_reserve(out, before + most) != 0)
        return qc_fail_nomem(err);
    ret = decode(x, i, p, from, to, first_source, out, err);
    if (ret != 0)
        out->n = before;
    return ret;
}

uint64_t qc_ixf_next_used(const struct qc_ixf *x, uint32_t i, const uint8_t *p, uint64_t guest)
{
    const struct qc_ixf_page *page = &x->page[i];
    struct place at = {.p = p, .end = p + page->bytes, .guest = page->start,
                       .guest_end = qc_ixf_page_end(x, i)};
    uint64_t length;
    struct qc_run r;

    for (uint32_t n = 0; n < page->n_runs; n++) {
        if (read_run(x, &at, &r, &length))
            return guest;
        at.guest += length;
        if (at.guest > guest && qc_run_kind(&r) > QC_SHORT)
            return qc_max64(guest, r.guest);
    }
    return UINT64_MAX;
}
