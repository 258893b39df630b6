/* SPDX-License-Identifier: MIT */
/* Building a sidecar: the layers are walked, or their own sidecar's pages taken over. */
#include "ops/index_build_int.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "chain/chain.h"
#include "chain/fill.h"
#include "chain/names.h"
#include "chain/sidecar.h"
#include "io/newfile.h"
#include "ops/job.h"
#include "remote/remote.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/crc32c.h"
#include "util/escape.h"
#include "util/vec.h"

#define PAGE_TARGET (16u << 10)      /* a page is ended at the next window's end */
#define PAGE_TARGET_MANY (60u << 10) /* once there are many: the directory is kept in memory */
#define MANY_PAGES 4096u
#define SPILL_BYTES (32u << 20)      /* pages kept in memory */
#define OBJECT_BYTES (256u << 20)    /* of an index that goes to a URL: it is all kept */

/* -------------------------------------------------------------------- pages --- */

/* A file without a name; not all file systems make one at once. */
static int open_unnamed(const char *dir)
{
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    char *path;

    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL))
        return fd;
    path = qc_asprintf("%s/.qci.XXXXXX", dir);
    if (!path)
        return -1;
    fd = mkostemp(path, O_CLOEXEC);
    if (fd >= 0)
        unlink(path);
    qc_free(path);
    return fd;
}

/* Ended pages wait in memory, and in a file without a name where they are too many: how
 * long the directory before them will be is known only at the end. */
static int spill(struct qc_builder *b, const char *path)
{
    char *dir;
    size_t at = 0;

    if (b->spill < 0) {
        dir = qc_name_directory(path);
        if (!dir)
            return qc_fail_nomem(b->err);
        b->spill = open_unnamed(dir);
        qc_free(dir);
        if (b->spill < 0)
            return qc_fail_errno(b->err, errno, "cannot make a temporary file beside the index");
    }
    while (at < b->done.n) {
        ssize_t n = pwrite(b->spill, b->done.p + at, b->done.n - at, (off_t)(b->spilled + at));

        if (n < 0 && errno != EINTR)
            return qc_fail_errno(b->err, errno, "cannot write a temporary file beside the index");
        at += n > 0 ? (size_t)n : 0;
    }
    b->spilled += b->done.n;
    b->done.n = 0;
    return 0;
}

static int too_large(struct qc_builder *b)
{
    return qc_fail(b->err, QCHAIN_E_LIMIT, "would have more than %u MiB, too much for one request: "
                   "write it to a file with --index (qchain_index_opts.name) and copy that",
                   OBJECT_BYTES >> 20);
}

/* Add a page's bytes, and its entry, whose offset follows. */
static int add_page(struct qc_builder *b, struct qc_ixf_page page, const uint8_t *p)
{
    uint32_t n = b->x.header.n_pages;

    if (n == QC_IXF_PAGES_MAX)
        return qc_fail(b->err, QCHAIN_E_LIMIT, "the disk is too fragmented for a sidecar index");
    if (qc_grow((void **)&b->x.page, &b->cap_pages, n + 1, sizeof(*b->x.page)) != 0 ||
        qc_grow((void **)&b->done.p, &b->done.cap, b->done.n + page.bytes, 1) != 0)
        return qc_fail_nomem(b->err);
    memcpy(b->done.p + b->done.n, p, page.bytes);
    b->done.n += page.bytes;
    page.offset = b->done_bytes;
    b->done_bytes += page.bytes;
    b->x.page[n] = page;
    b->x.header.n_pages++;
    b->x.header.n_runs += page.n_runs;
    if (qc_name_is_url(b->opts->name)) /* sent whole */
        return b->done.n <= OBJECT_BYTES ? 0 : too_large(b);
    return b->done.n < SPILL_BYTES ? 0 : spill(b, b->opts->name);
}

static int end_page(struct qc_builder *b)
{
    struct qc_ixf_page page = {.start = b->page_start, .bytes = (uint32_t)b->page.n};
    int ret = 0;

    if (b->page.n > QC_IXF_PAGE_MAX)
        return qc_fail(b->err, QCHAIN_E_LIMIT, "the disk is too fragmented around %llu for a "
                       "sidecar index", (unsigned long long)b->page_start);
    if (b->page.n > 0) {
        page.crc = qc_crc32c(0, b->page.p, b->page.n);
        page.n_runs = b->encoder.n_runs;
        page.nothing = !b->encoder.something;
        ret = add_page(b, page, b->page.p);
    }
    b->page.n = 0;
    b->encoder = (struct qc_ixf_encoder){0};
    return ret;
}

/* Add the runs of [start, ...), which begin at a multiple of 128 MiB and are one window's,
 * or few. */
static int add_runs(struct qc_builder *b, const struct qc_run *run, size_t n, uint64_t start)
{
    struct qc_ixf_encoder before = b->encoder;
    size_t bytes = b->page.n, last = before.grows ? bytes - before.at : 0;
    uint32_t n_sources = b->c->n_sources;
    uint8_t grown[32]; /* a record that may grow has two numbers at most */

    if (bytes == 0)
        b->page_start = start;
    if (last > 0)
        memcpy(grown, b->page.p + before.at, last);
    if (qc_ixf_put_runs(&b->page, &b->encoder, run, n, n_sources) != 0)
        return qc_fail_nomem(b->err);
    if (bytes > 0 && b->page.n > QC_IXF_WIDE_PAGE_MAX) {
        if (last > 0)
            memcpy(b->page.p + before.at, grown, last); /* its last record was written anew */
        b->page.n = bytes;
        b->encoder = before;
        if (end_page(b) != 0)
            return b->err->code;
        return add_runs(b, run, n, start);
    }
    bytes = b->x.header.n_pages < MANY_PAGES ? PAGE_TARGET : PAGE_TARGET_MANY;
    return b->page.n < bytes ? 0 : end_page(b);
}

/* Add a stretch, window by window; what continues over windows is cut. */
static int add_stretch(struct qc_builder *b, struct qc_runs *runs, uint64_t start, uint64_t end)
{
    size_t i = 0;
    int ret = 0;

    while (ret == 0 && start < end) {
        uint64_t stop = qc_align_down(start, QC_IXF_WINDOW) + QC_IXF_WINDOW;
        size_t first = i;
        struct qc_run rest;

        while (i < runs->n && qc_run_end(&runs->run[i]) < stop)
            i++;
        if (i == runs->n) /* the disk's end */
            return add_runs(b, &runs->run[first], i - first, start);
        rest = runs->run[i];
        /* A run over many windows stays one where it is all that they have. */
        if (first == i && rest.guest == start)
            stop = qc_min64(end, qc_align_down(qc_run_end(&rest), QC_IXF_WINDOW));
        if (qc_run_end(&rest) > stop)
            runs->run[i].length = (uint32_t)((stop - rest.guest) >> 9);
        ret = add_runs(b, &runs->run[first], i + 1 - first, start);
        if (qc_run_end(&rest) > stop) {
            if (qc_kind_has_host(qc_run_kind(&rest)))
                rest.host_kind += (stop - rest.guest) << 8;
            rest.length -= runs->run[i].length;
            rest.guest = stop;
            runs->run[i] = rest;
        } else {
            i++;
        }
        start = stop;
    }
    return ret;
}

static int walk(struct qc_builder *b, struct qc_walk *w, uint64_t start, uint64_t end)
{
    uint64_t from, to;
    int ret = 0;

    w->at = start;
    w->end = end;
    for (;;) {
        ret = qc_job_check(b->opts->job, b->began_ns, b->err);
        if (ret == 0)
            ret = qc_walk_next(w, b->err);
        if (ret != 0 || w->n == 0)
            return ret;
        for (unsigned i = 0; ret == 0 && i < w->n; i++) {
            qc_walk_range(w, i, &from, &to);
            ret = add_stretch(b, &w->runs[i], from, to);
            qc_job_add(b->opts->job, to - from);
        }
        if (ret != 0)
            return ret;
    }
}

/* Do the layers above the sidecar leave [start, end) as it is? */
static int is_untouched(const struct qc_builder *b, uint32_t first, uint64_t start, uint64_t end,
                        bool *yes)
{
    uint64_t used;
    int ret = 0;

    *yes = (end % QC_IXF_WINDOW == 0 || end == b->c->size) && end <= b->c->layer[first].limit;
    if (*yes && first > 0) {
        ret = qc_fill_next_used(b->c, 0, first, start, end, &used, b->err);
        *yes = used == end;
    }
    return ret;
}

/* Take over a page as it is: sources are numbered from the bottom. One that is damaged is
 * not taken: the layers tell. */
static int take_page(struct qc_builder *b, uint32_t i, bool *taken)
{
    const struct qc_ixf *old = qc_sidecar_content(b->c->sidecar);
    uint8_t *p = qc_malloc(old->page[i].bytes);
    struct qc_runs none = {0};
    int ret = p ? end_page(b) : qc_fail_nomem(b->err);

    *taken = ret == 0 &&
             qc_sidecar_read_page(old, qc_sidecar_store(b->c->sidecar), i, p, NULL) == 0 &&
             qc_ixf_decode_page(old, i, p, 0, 0, 0, &none, NULL) == 0;
    if (*taken) {
        ret = add_page(b, old->page[i], p);
        qc_job_add(b->opts->job, qc_ixf_page_end(old, i) - old->page[i].start);
    }
    qc_runs_finish(&none);
    qc_free(p);
    return ret;
}

/* The pages of the disk; where a sidecar knows the lower layers, page by page of it. */
static int make_pages(struct qc_builder *b)
{
    uint32_t first = qc_sidecar_first(b->c);
    uint64_t size = b->c->size, at = 0, end;
    const struct qc_ixf *old = NULL;
    struct qc_walk w;
    bool untouched;
    int ret = qc_walk_init(&w, b->c, b->opts->threads, b->err);

    if (ret != 0)
        return ret;
    if (first < b->c->n_layers)
        old = qc_sidecar_content(b->c->sidecar);
    for (uint32_t i = 0; ret == 0 && old && i < old->header.n_pages && at < size; i++) {
        end = qc_ixf_page_end(old, i);
        ret = is_untouched(b, first, at, end, &untouched);
        if (ret == 0 && untouched)
            ret = take_page(b, i, &untouched);
        if (ret == 0 && !untouched) {
            /* The old disk's end may lie within a window of a larger one. */
            end = end % QC_IXF_WINDOW == 0 ? end : size;
            ret = walk(b, &w, at, qc_min64(end, size));
        }
        at = end;
    }
    if (ret == 0 && at < size)
        ret = walk(b, &w, at, size);
    qc_walk_finish(&w);
    return ret == 0 ? end_page(b) : ret;
}

/* ------------------------------------------------------------------ writing --- */

/* The parts before the pages into one buffer. */
static int make_head(struct qc_builder *b, struct qc_ixf_buf *head)
{
    struct qc_ixf_header *h = &b->x.header;
    uint8_t first[QC_IXF_HEADER_BYTES] = {0};
    uint64_t base;
    size_t table;
    int ret = qc_grow((void **)&head->p, &head->cap, sizeof(first), 1);

    if (ret != 0)
        return qc_fail_nomem(b->err);
    head->n = sizeof(first);
    for (uint32_t i = 0; ret == 0 && i < h->n_sources; i++)
        ret = qc_ixf_put_source(head, &b->x.source[i]);
    table = head->n - sizeof(first);
    if (ret == 0 && table > QC_IXF_TABLE_MAX)
        return qc_fail(b->err, QCHAIN_E_LIMIT, "the layers' names are too long for an index");
    base = head->n + (uint64_t)h->n_pages * QC_IXF_DIR_BYTES;
    for (uint32_t i = 0; ret == 0 && i < h->n_pages; i++) {
        b->x.page[i].offset += base;
        ret = qc_ixf_put_page(head, &b->x.page[i]);
    }
    if (ret != 0)
        return qc_fail_nomem(b->err);
    h->table_offset = sizeof(first);
    h->table_bytes = (uint32_t)table;
    h->table_crc = qc_crc32c(0, head->p + sizeof(first), table);
    h->dir_offset = sizeof(first) + table;
    h->dir_crc = qc_crc32c(0, head->p + h->dir_offset, head->n - h->dir_offset);
    h->file_size = base + b->done_bytes;
    if (getrandom(h->id, sizeof(h->id), 0) != sizeof(h->id))
        return qc_fail_errno(b->err, errno, "no random bytes");
    qc_ixf_write_header(head->p, h);
    return 0;
}

static int write_file(struct qc_builder *b)
{
    struct qc_newfile *f = NULL;
    struct qc_ixf_buf head = {0};
    const char *image = b->c->layer[0].real_path;
    struct stat like = {.st_mode = 0600, .st_uid = geteuid(), .st_gid = getegid()};
    int ret;

    /* Who else may read an object behind a URL is not known. */
    if (image && stat(image, &like) != 0)
        return qc_fail_errno(b->err, errno, "cannot look at the image");
    /* Who may not read a layer shall not learn from the index what it holds. */
    like.st_mode &= ~(mode_t)0444 | b->readers;
    ret = make_head(b, &head);
    if (ret == 0)
        ret = qc_newfile_create(&f, b->opts->name, &like, b->err);
    if (ret == 0)
        ret = qc_newfile_write(f, head.p, head.n, 0, b->err);
    if (ret == 0 && b->spilled > 0)
        ret = qc_newfile_copy(f, b->spill, 0, b->spilled, head.n, b->err);
    if (ret == 0 && b->done.n > 0)
        ret = qc_newfile_write(f, b->done.p, b->done.n, head.n + b->spilled, b->err);
    if (ret == 0) {
        ret = qc_newfile_commit(f, b->err);
        f = NULL;
    }
    qc_newfile_abort(f);
    qc_ixf_buf_finish(&head);
    return ret;
}

static int put_object(struct qc_builder *b)
{
    struct qc_ixf_buf head = {0}, *all = &b->done;
    int ret = make_head(b, &head);

    if (ret == 0 && head.n + all->n > OBJECT_BYTES)
        ret = too_large(b);
    if (ret == 0 && qc_grow((void **)&all->p, &all->cap, head.n + all->n, 1) != 0)
        ret = qc_fail_nomem(b->err);
    if (ret == 0) {
        if (all->n > 0)
            memmove(all->p + head.n, all->p, all->n);
        memcpy(all->p, head.p, head.n);
        all->n += head.n;
        ret = qc_remote_put(b->c->env->remote, b->opts->name, all->p, all->n, false, b->err);
    }
    qc_ixf_buf_finish(&head);
    return ret;
}

/* ------------------------------------------------------------------- builds --- */

static int check_chain(struct qc_builder *b)
{
    const qchain *c = b->c;
    uint32_t flags = c->open_flags;

    if (c->tip)
        return qc_build_refuse(b, 0, "the chain is open for writing");
    if (c->has_snapshot)
        return qc_build_refuse(b, 0, "the chain was opened by an internal snapshot");
    if (c->by_caller)
        return qc_build_refuse(b, 0, "files of the chain were chosen by the program, not by names");
    if (flags & (QCHAIN_OPEN_NO_BACKING | QCHAIN_OPEN_SALVAGE))
        return qc_build_refuse(b, 0, "the chain was opened without its layers, or salvaging");
    if (flags & QCHAIN_OPEN_FORCE_SHARE)
        return qc_build_refuse(b, 0, "the chain was opened without locks (force-share), so it "
                               "may change while it is walked");
    if (c->layer[0].cluster_size == 0 ||
        (!c->layer[0].real_path && !qc_remote_is(qc_source_opened(c, c->layer[0].source))))
        return qc_build_refuse(b, 0, "it is no qcow2 image in a file or behind a URL");
    return qc_chain_check(c, b->err);
}

/* A name that the caller chose may be an image's by mistake: only a sidecar, or an empty
 * file, is replaced. */
static int check_name(struct qc_builder *b)
{
    char magic[8] = {0};
    struct stat st;
    ssize_t n;
    int fd, ret;

    if (qc_name_is_url(b->opts->name)) {
        ret = qc_index_check_object(b->c->env, b->opts->name, b->err);
        return ret == QCHAIN_E_NOTFOUND ? 0 : ret;
    }
    fd = open(b->opts->name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return errno == ENOENT ? 0 : qc_fail_errno(b->err, errno, "cannot look at what is there");
    n = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) ? pread(fd, magic, sizeof(magic), 0) : -1;
    close(fd);
    if (n == 0 || (n == (ssize_t)sizeof(magic) && memcmp(magic, "QCHAINIX", sizeof(magic)) == 0))
        return 0;
    return qc_fail(b->err, QCHAIN_E_INVAL, "what is there is no sidecar index; it is left alone");
}

static int build(struct qc_builder *b)
{
    int ret = qc_build_table(b);

    if (ret == 0)
        ret = qc_build_wait(b);
    b->x.header.built_ns = qc_build_now(); /* not later: a walk may take long */
    qc_job_begin(b->opts->job, b->c->size);
    if (ret == 0)
        ret = make_pages(b);
    if (ret == 0)
        ret = qc_build_look_again(b);
    if (ret != 0)
        return ret;
    return qc_name_is_url(b->opts->name) ? put_object(b) : write_file(b);
}

int qc_index_build(qchain *c, const qchain_index_opts *opts, qchain_error *err)
{
    qchain_index_opts o = *opts;
    struct qc_builder b = {.c = c, .opts = &o, .spill = -1, .readers = 0444,
                        .began_ns = qc_now_ns(), .err = err};
    char *path = NULL;
    int ret = check_chain(&b);

    if (ret == 0)
        ret = qc_index_place(&path, c, opts->name, err);
    o.name = path;
    if (ret == 0 && opts->name)
        ret = check_name(&b);
    if (ret == 0)
        ret = build(&b);
    if (b.spill >= 0)
        close(b.spill);
    qc_ixf_finish(&b.x);
    qc_ixf_buf_finish(&b.page);
    qc_ixf_buf_finish(&b.done);
    qc_free(path);
    if (ret != 0)
        qc_error_prefix(err, -1, "index: ");
    return ret;
}
