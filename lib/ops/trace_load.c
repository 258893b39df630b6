/* SPDX-License-Identifier: MIT */
#include "ops/trace_load.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "chain/env.h"
#include "chain/names.h"
#include "chain/trace_file.h"
#include "chain/trace_part.h"
#include "io/newfile.h"
#include "remote/remote.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/escape.h"
#include "util/vec.h"

#define RECORDS_MAX (QC_TRACE_RECORDING_MAX / 4) /* that what one recording may leave can hold, at most */

struct loading {
    qchain_trace *t;
    qchain_env   *env;
    uint64_t      bytes; /* of all files so far */
    qchain_trace_record *record;
    size_t        n, cap;
};

/* A file, whole. */
struct content {
    uint8_t *p;
    size_t   n;
    struct qc_trace_header header;
};

/* -------------------------------------------------------------------- bytes --- */

/* head: what of its first bytes there is. Of something else nobody wants to hear that it is too large. */
static int make_room(struct loading *l, struct content *f, uint64_t size, const char head[QC_TRACE_HEAD],
                     qchain_error *err)
{
    if (!qc_trace_looks_so(head, (size_t)qc_min64(size, QC_TRACE_HEAD)))
        return qc_fail(err, QCHAIN_E_CORRUPT, "this is no trace");
    if (size > QC_TRACE_BYTES_MAX - l->bytes)
        return qc_fail(err, QCHAIN_E_LIMIT, "traces of more than %u MiB together are not read",
                       QC_TRACE_BYTES_MAX >> 20);
    f->p = qc_malloc((size_t)size + 1);
    return f->p ? 0 : qc_fail_nomem(err);
}

static int read_fd(struct loading *l, struct content *f, int fd, qchain_error *err)
{
    char head[QC_TRACE_HEAD] = {0};
    struct stat st;
    ssize_t n = 1;
    int ret;

    if (fstat(fd, &st) != 0)
        return qc_fail_errno(err, errno, "reading it");
    if (!S_ISREG(st.st_mode))
        return qc_fail(err, QCHAIN_E_INVAL, "this is no regular file");
    if (pread(fd, head, sizeof(head), 0) < 0)
        return qc_fail_errno(err, errno, "reading it");
    ret = make_room(l, f, (uint64_t)st.st_size, head, err);
    if (ret != 0)
        return ret;
    while (n > 0 && f->n < (size_t)st.st_size) {
        n = read(fd, f->p + f->n, (size_t)st.st_size - f->n);
        if (n < 0 && errno != EINTR)
            return qc_fail_errno(err, errno, "reading it");
        f->n += n > 0 ? (size_t)n : 0;
        n = n < 0 ? 1 : n;
    }
    return 0;
}

static int read_file(struct loading *l, struct content *f, const char *path, qchain_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    int ret;

    if (fd < 0)
        return qc_fail_errno(err, errno, "opening it");
    ret = read_fd(l, f, fd, err);
    close(fd);
    return ret;
}

static int read_object(struct loading *l, struct content *f, const char *url, qchain_error *err)
{
    char head[QC_TRACE_HEAD] = {0};
    struct qc_store *store = NULL;
    struct qc_opening *opening;
    int ret = qc_remote_begin(&opening, l->env->remote, url, QC_REMOTE_WHOLE, err);

    if (ret == 0)
        ret = qc_remote_finish(opening, &store, err);
    if (ret != 0)
        return ret;
    ret = qc_store_read(store, head, (size_t)qc_min64(sizeof(head), qc_store_size(store)), 0, 0, err);
    if (ret == 0)
        ret = make_room(l, f, qc_store_size(store), head, err);
    if (ret == 0) {
        f->n = (size_t)qc_store_size(store);
        ret = qc_store_read(store, f->p, f->n, 0, 0, err);
    }
    qc_store_destroy(store);
    return ret;
}

/* ------------------------------------------------------------------- blocks --- */

static int add_blocks(struct loading *l, const struct content *f, qchain_error *err)
{
    size_t at = QC_TRACE_HEADER_BYTES, size;
    uint64_t lost;
    uint32_t n;

    while (at < f->n) {
        if (qc_grow((void **)&l->record, &l->cap, l->n + QC_TRACE_BLOCK_RECORDS, sizeof(*l->record)) != 0)
            return qc_fail_nomem(err);
        size = qc_trace_get_block(l->record + l->n, &n, &lost, f->p + at, f->n - at);
        if (size == 0)
            break;
        at += size;
        l->n += n;
        if (l->n > RECORDS_MAX)
            return qc_fail(err, QCHAIN_E_LIMIT, "traces of more than %u records together are not read", RECORDS_MAX);
        l->t->lost = lost > UINT64_MAX - l->t->lost ? UINT64_MAX : l->t->lost + lost;
    }
    l->t->unread += f->n - at;
    return 0;
}

static int add_content(struct loading *l, const struct content *f, qchain_error *err)
{
    const struct qc_trace_header *h = &f->header;

    l->bytes += f->n;
    l->t->disk_size = qc_max64(l->t->disk_size, h->disk_size);
    l->t->began_ns = l->t->began_ns ? qc_min64(l->t->began_ns, h->began_ns) : h->began_ns;
    return add_blocks(l, f, err);
}

/* ----------------------------------------------------------- one name's files --- */

static int get_header(struct content *f, int ret, qchain_error *err)
{
    return ret == 0 ? qc_trace_get_header(&f->header, f->p, f->n, err) : ret;
}

/* The part that was renamed, if it is there and the one before f. That it cannot be read is no failure. */
static int add_older(struct loading *l, const char *path, const struct content *f, qchain_error *err)
{
    char *name = qc_asprintf("%s" QC_TRACE_OLDER, path);
    struct content older = {0};
    qchain_error why;
    int ret = 0;

    if (!name)
        return qc_fail_nomem(err);
    qc_error_init(&why);
    if (get_header(&older, read_file(l, &older, name, &why), &why) == 0 && older.header.part + 1 == f->header.part &&
        memcmp(older.header.id, f->header.id, sizeof(f->header.id)) == 0)
        ret = add_content(l, &older, err);
    else if (why.code == QCHAIN_E_NOMEM || why.code == QCHAIN_E_LIMIT)
        ret = qc_fail(err, why.code, "%s", why.text);
    qc_free(older.p);
    qc_free(name);
    return ret;
}

/* Between a renaming and the next file the older one is all there is. */
static int read_renamed(struct loading *l, struct content *f, const char *path, qchain_error *err)
{
    char *name = qc_asprintf("%s" QC_TRACE_OLDER, path);
    qchain_error why;
    int ret;

    if (!name)
        return qc_fail_nomem(err);
    qc_error_init(&why);
    ret = read_file(l, f, name, &why);
    qc_free(name);
    return ret == QCHAIN_E_NOTFOUND ? QCHAIN_E_NOTFOUND : ret == 0 ? 0 : qc_fail(err, ret, "%s", why.text);
}

static int add_name(struct loading *l, const char *name, qchain_error *err)
{
    bool url = qc_name_is_url(name), renamed = false;
    struct content f = {0};
    int ret = url ? read_object(l, &f, name, err) : read_file(l, &f, name, err);

    if (!url && ret == QCHAIN_E_NOTFOUND) {
        ret = read_renamed(l, &f, name, err);
        renamed = ret == 0;
    }
    ret = get_header(&f, ret, err);
    if (ret == 0 && !url && !renamed && f.header.part > 0)
        ret = add_older(l, name, &f, err);
    if (ret == 0)
        ret = add_content(l, &f, err);
    qc_free(f.p);
    return ret;
}

/* Where the trace of an image lies. */
static int beside(char **out, qchain_env *env, const char *image, qchain_error *err)
{
    struct qc_name name = {0};
    int ret = qc_name_parse(&name, image, err);

    if (ret != 0)
        return ret;
    *out = NULL;
    if (name.is_url)
        ret = qc_remote_sibling_of(out, env->remote, name.path, QC_TRACE_SUFFIX, err);
    else
        *out = qc_asprintf("%s" QC_TRACE_SUFFIX, name.path);
    if (ret == 0 && !*out)
        ret = name.is_url && strchr(name.path, '?')
                  ? qc_fail(err, QCHAIN_E_INVAL, "the image's URL is signed, for the image alone: say where the trace "
                            "is")
                  : qc_fail_nomem(err);
    qc_name_finish(&name);
    return ret;
}

static int load_one(struct loading *l, const char *name, bool is_image, qchain_error *err)
{
    struct qc_escaped shown;
    char *path = NULL;
    int ret = is_image ? beside(&path, l->env, name, err) : 0;

    if (ret == 0)
        ret = add_name(l, path ? path : name, err);
    if (ret != 0)
        qc_error_prefix(err, -1, "trace '%s': ", qc_name_shown(&shown, path ? path : name));
    qc_free(path);
    return ret;
}

/* ---------------------------------------------------------------- all of them --- */

static int by_time(const void *a, const void *b)
{
    const qchain_trace_record *x = a, *y = b;

    if (x->time_us != y->time_us)
        return x->time_us < y->time_us ? -1 : 1;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static void put_in_order(struct loading *l)
{
    for (size_t i = 1; i < l->n; i++)
        if (l->record[i].time_us < l->record[i - 1].time_us) {
            qsort(l->record, l->n, sizeof(*l->record), by_time);
            return;
        }
}

static void cut_at(struct loading *l, uint64_t size)
{
    size_t kept = 0;

    for (size_t i = 0; i < l->n; i++) {
        qchain_trace_record r = l->record[i];

        if (r.offset >= size)
            continue;
        r.length = qc_min64(r.length, size - r.offset);
        l->record[kept++] = r;
    }
    l->n = kept;
}

static int make_ranges(qchain_trace *t, const qchain_trace_record *r, size_t n, uint32_t chain, qchain_error *err)
{
    qchain_prefetch_range *range = qc_calloc(n, sizeof(*range)), *last = NULL;

    t->ranges = range;
    if (!range)
        return qc_fail_nomem(err);
    for (size_t i = 0; i < n; i++) {
        if (last && last->offset + last->length == r[i].offset) {
            last->length += r[i].length;
            continue;
        }
        last = &range[t->n_ranges++];
        *last = (qchain_prefetch_range){.offset = r[i].offset, .length = r[i].length, .chain = chain};
    }
    return 0;
}

int qc_trace_load(qchain_trace *t, qchain_env *env, const char *const *names, uint32_t n,
                  const qchain_trace_load_opts *o, qchain_error *err)
{
    struct loading l = {.t = t, .env = env};
    qchain_trace_record *distinct = NULL;
    size_t n_distinct;
    int ret = 0;

    for (uint32_t i = 0; ret == 0 && i < n; i++)
        ret = load_one(&l, names[i], o->flags & QCHAIN_TRACE_LOAD_BESIDE, err);
    if (ret == 0) {
        put_in_order(&l);
        if (o->disk_size)
            cut_at(&l, o->disk_size);
        ret = qc_trace_distinct(l.record, l.n, &distinct, &n_distinct, err);
    }
    if (ret == 0)
        ret = make_ranges(t, distinct, n_distinct, o->chain, err);
    if (ret == 0 && o->flags & QCHAIN_TRACE_LOAD_DISTINCT) {
        t->records = distinct;
        t->n_records = n_distinct;
        distinct = NULL;
    } else if (ret == 0) {
        t->records = l.record;
        t->n_records = l.n;
        l.record = NULL;
    }
    qc_free(distinct);
    qc_free(l.record);
    return ret;
}

void qc_trace_finish(qchain_trace *t)
{
    qc_free((void *)(uintptr_t)t->records);
    qc_free((void *)(uintptr_t)t->ranges);
}

/* ------------------------------------------------------------------- writing --- */

static int put_records(struct qc_newfile *f, const qchain_trace *t, uint8_t *block, qchain_error *err)
{
    uint64_t at = QC_TRACE_HEADER_BYTES, lost = t->lost;
    size_t size, done;
    int ret = 0;

    for (uint64_t i = 0; ret == 0 && i < t->n_records; i += done) {
        size = qc_trace_put_block(block, t->records + i, (size_t)(t->n_records - i), lost, &done);
        if (at + size > QC_TRACE_BYTES_MAX)
            return qc_fail(err, QCHAIN_E_LIMIT, "trace: it would have more than %u MiB", QC_TRACE_BYTES_MAX >> 20);
        ret = qc_newfile_write(f, block, size, at, err);
        at += size;
        lost = 0;
    }
    return ret;
}

static int check_records(const qchain_trace *t, qchain_error *err)
{
    for (uint64_t i = 0; i < t->n_records; i++)
        if (!qc_trace_record_ok(&t->records[i]) || (i > 0 && t->records[i].time_us < t->records[i - 1].time_us))
            return qc_fail(err, QCHAIN_E_INVAL, "trace: record %llu makes no sense, or is earlier than the one before",
                           (unsigned long long)i);
    return 0;
}

int qc_trace_save(const qchain_trace *t, const char *path, qchain_error *err)
{
    struct qc_trace_header h = {.disk_size = qc_min64(t->disk_size, INT64_MAX), .began_ns = t->began_ns};
    uint8_t header[QC_TRACE_HEADER_BYTES], *block = NULL;
    struct qc_newfile *f = NULL;
    int ret = check_records(t, err);

    if (ret == 0)
        ret = qc_trace_replaceable(AT_FDCWD, path, path, err);
    if (ret == 0)
        ret = qc_newfile_create(&f, path, NULL, err);
    if (ret != 0)
        return ret;
    block = qc_malloc(QC_TRACE_BLOCK_MAX);
    if (!block)
        ret = qc_fail_nomem(err);
    qc_trace_put_header(header, &h);
    if (ret == 0)
        ret = qc_newfile_write(f, header, sizeof(header), 0, err);
    if (ret == 0)
        ret = put_records(f, t, block, err);
    qc_free(block);
    if (ret == 0)
        return qc_newfile_commit(f, err);
    qc_newfile_abort(f);
    return ret;
}
