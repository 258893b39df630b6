/* SPDX-License-Identifier: MIT */
/* fuse_disk.c - the virtual disk as one raw file: where it has data, and writing. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fuse_view.h"

#define N_EXTENTS 256

/* -------------------------------------------------------------------- the file --- */

const char *fuse_base_name(const char *name, size_t *length)
{
    size_t n = program_is_url(name) ? strcspn(name, "?#") : strlen(name), i;

    for (i = n; i > 0 && name[i - 1] != '/'; i--)
        ;
    *length = n - i;
    return name + i;
}

/* "vm.raw" for an image "dir/vm.qcow2"; "disk.raw" if the name says nothing. */
static bool name_file(char *out, size_t room, const char *image)
{
    static const char suffix[] = ".raw";
    size_t n, i;
    const char *base = fuse_base_name(image, &n);

    for (i = n; i > 1 && base[i - 1] != '.'; i--)
        ;
    n = i > 1 ? i - 1 : n;
    if (n == 0 || n > NAME_MAX - strlen(suffix) || strncmp(image, "json:", 5) == 0) {
        base = "disk";
        n = strlen(base);
    }
    if (n + sizeof(suffix) > room)
        return false;
    memcpy(out, base, n);
    memcpy(out + n, suffix, sizeof(suffix));
    return true;
}

int fuse_disk_make(struct fuse_view *v, const char *image, const char *name)
{
    char own[NAME_MAX + 1];
    qchain_source_info info = {.struct_size = sizeof(info)};
    struct fuse_node *n;
    int64_t at;
    uint32_t i;

    if (qchain_source_stat(v->c, 0, &info, v->t->err) != 0) {
        tool_complain_error(v->t);
        return -1;
    }
    atomic_store(&v->mtime_ns, info.mtime_ns);
    if (!name && name_file(own, sizeof(own), v->t->image_opts ? "" : image))
        name = own;
    if (!v->is_file && fuse_tree_add(v, 0, "", NODE_DIR) < 0)
        at = -1;
    else
        at = fuse_tree_add(v, 0, name ? name : "disk.raw", NODE_DISK);
    if (at < 0) {
        tool_complain(v->t, "out of memory");
        return -1;
    }
    n = &v->node[at];
    n->size = qchain_size(v->c);
    v->node[0].mtime_ns = info.mtime_ns;
    for (i = 0; qchain_source_name(v->c, i); i++)
        v->far = v->far || program_is_url(qchain_source_name(v->c, i));
    return 0;
}

/* ------------------------------------------------------------------------ maps --- */

/* What reads as zeros without being stored is a hole, as for qemu-img map. */
static bool has_data(const qchain_extent *e)
{
    return (e->flags & QCHAIN_EXTENT_DATA) != 0;
}

/* Bytes that are stored; -1 if it cannot be said. */
static int64_t count_data(struct fuse_view *v)
{
    qchain_extent *e = calloc(N_EXTENTS, sizeof(*e));
    uint64_t at = 0, size = qchain_size(v->c), sum = 0;
    uint32_t n, i;
    int r = 0;

    while (e && r == 0 && at < size) {
        r = qchain_map(v->c, at, UINT64_MAX, e, N_EXTENTS, &n, &at, 0, NULL);
        for (i = 0; r == 0 && i < n; i++)
            sum += has_data(&e[i]) ? e[i].length : 0;
    }
    r = e ? r : QCHAIN_E_NOMEM;
    free(e);
    return r == 0 ? (int64_t)sum : -1;
}

/* Of layers that are far away, and not known from a sidecar index, a map costs a round trip each: for them
 * what their files take, at most the disk. */
static uint64_t guess_blocks(struct fuse_view *v)
{
    qchain_source_info info = {.struct_size = sizeof(info)};
    uint64_t size = qchain_size(v->c), sum = 0;
    uint32_t i;

    for (i = 0; sum < size && qchain_source_stat(v->c, i, &info, NULL) == 0; i++)
        sum += info.allocated_size;
    return (sum < size ? sum : size) / 512;
}

/* A disk that is written is counted anew when somebody asks, but not for more than a twentieth of the time. */
static bool must_count(const struct fuse_view *v)
{
    uint64_t now = fuse_now_ns(CLOCK_MONOTONIC);

    if (!v->counted)
        return true;
    return atomic_load(&v->writes) != atomic_load(&v->writes_counted) &&
           now - v->counted_ns >= 20 * v->count_took_ns;
}

uint64_t fuse_disk_blocks(struct fuse_view *v)
{
    bool guess = v->far && qchain_index_layers(v->c) == 0;
    uint64_t blocks, began;
    int64_t sum;

    pthread_mutex_lock(&v->space_lock);
    if (must_count(v)) {
        atomic_store(&v->writes_counted, atomic_load(&v->writes));
        began = fuse_now_ns(CLOCK_MONOTONIC);
        sum = guess ? -1 : count_data(v);
        v->blocks = sum >= 0 ? ((uint64_t)sum + 511) / 512 : guess_blocks(v);
        v->counted_ns = fuse_now_ns(CLOCK_MONOTONIC);
        v->count_took_ns = v->counted_ns - began;
        v->counted = true;
    }
    blocks = v->blocks;
    pthread_mutex_unlock(&v->space_lock);
    return blocks;
}

/* The first place from at on that has data, or has none; the disk's size if there is none. */
static int find_next(struct fuse_view *v, uint64_t at, bool data, uint64_t *found, qchain_error *err)
{
    qchain_extent *e = calloc(N_EXTENTS, sizeof(*e));
    uint64_t size = qchain_size(v->c);
    uint32_t n, i, max = 8; /* mostly the next one is it */
    int r = e ? 0 : QCHAIN_E_NOMEM;

    *found = size;
    while (r == 0 && at < size && *found == size) {
        r = qchain_map(v->c, at, UINT64_MAX, e, max, &n, &at, 0, err);
        max = N_EXTENTS;
        for (i = 0; r == 0 && i < n && *found == size; i++)
            if (has_data(&e[i]) == data)
                *found = e[i].offset;
    }
    free(e);
    return r;
}

void fuse_disk_lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence, struct fuse_file_info *fi)
{
    struct fuse_view *v = fuse_req_userdata(req);
    struct fuse_node *n = fuse_tree_node(v, ino);
    struct fuse_work *w = fuse_work_get(v, 0);
    uint64_t found;
    int r;

    (void)fi;
    if (!n || n->source != NODE_DISK || (whence != SEEK_DATA && whence != SEEK_HOLE)) {
        fuse_reply_err(req, EINVAL);
    } else if (offset < 0 || (uint64_t)offset >= n->size) {
        fuse_reply_err(req, ENXIO);
    } else if (!w) {
        fuse_reply_err(req, ENOMEM);
    } else {
        r = find_next(v, (uint64_t)offset, whence == SEEK_DATA, &found, w->err);
        if (r != 0) {
            fuse_log_failure(v, "lseek", w->err);
            fuse_reply_err(req, program_errno(r));
        } else if (whence == SEEK_DATA && found == n->size) {
            fuse_reply_err(req, ENXIO);
        } else {
            fuse_reply_lseek(req, (off_t)found);
        }
    }
}

/* --------------------------------------------------------------------- writing --- */

/* The disk, if it may be written to; else the request has been answered. */
static struct fuse_node *writable(fuse_req_t req, fuse_ino_t ino, struct fuse_work **w)
{
    struct fuse_view *v = fuse_req_userdata(req);
    struct fuse_node *n = fuse_tree_node(v, ino);

    *w = fuse_work_get(v, 0);
    if (!v->writable)
        fuse_reply_err(req, EROFS);
    else if (!n || n->source != NODE_DISK)
        fuse_reply_err(req, EINVAL);
    else if (!*w)
        fuse_reply_err(req, ENOMEM);
    else
        return n;
    return NULL;
}

/* A change has ended; also one that failed may have changed something. */
static void note_change(struct fuse_view *v, const char *what, int r, const qchain_error *err)
{
    atomic_fetch_add(&v->writes, 1);
    atomic_store(&v->mtime_ns, fuse_now_ns(CLOCK_REALTIME));
    if (r != 0)
        fuse_log_failure(v, what, err);
}

void fuse_disk_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t offset,
                     struct fuse_file_info *fi)
{
    struct fuse_view *v = fuse_req_userdata(req);
    struct fuse_work *w;
    struct fuse_node *n = writable(req, ino, &w);
    uint64_t at = (uint64_t)offset;
    int r;

    if (!n)
        return;
    if (offset < 0 || at >= n->size) {
        fuse_reply_err(req, offset < 0 ? EINVAL : size == 0 ? 0 : ENOSPC); /* as a block device answers */
        return;
    }
    size = size < n->size - at ? size : (size_t)(n->size - at);
    r = qchain_write(v->c, buf, size, at, fi && fi->flags & O_DSYNC ? QCHAIN_WRITE_FUA : 0, w->err);
    note_change(v, "write", r, w->err);
    if (r == 0)
        fuse_reply_write(req, size);
    else
        fuse_reply_err(req, program_errno(r));
}

/* The disk keeps its size, its mode and its owner; its time of change is only told. */
void fuse_disk_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int what, struct fuse_file_info *fi)
{
    struct fuse_view *v = fuse_req_userdata(req);
    struct fuse_work *w;
    struct fuse_node *n = writable(req, ino, &w);

    if (!n)
        return;
    if (what & (FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)) {
        fuse_reply_err(req, EPERM);
        return;
    }
    if (what & FUSE_SET_ATTR_SIZE && (uint64_t)attr->st_size != n->size) {
        fuse_reply_err(req, EINVAL);
        return;
    }
    if (what & FUSE_SET_ATTR_MTIME_NOW)
        atomic_store(&v->mtime_ns, fuse_now_ns(CLOCK_REALTIME));
    else if (what & FUSE_SET_ATTR_MTIME && attr->st_mtim.tv_sec >= 0)
        atomic_store(&v->mtime_ns, (uint64_t)attr->st_mtim.tv_sec * 1000000000 + (uint64_t)attr->st_mtim.tv_nsec);
    fuse_tree_getattr(req, ino, fi);
}

void fuse_disk_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length,
                         struct fuse_file_info *fi)
{
    const int punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    struct fuse_view *v = fuse_req_userdata(req);
    struct fuse_work *w;
    struct fuse_node *n = writable(req, ino, &w);
    uint64_t at = (uint64_t)offset, end = at + (uint64_t)length;
    int r;

    (void)fi;
    if (!n)
        return;
    if (mode != punch && (mode & ~FALLOC_FL_KEEP_SIZE) != FALLOC_FL_ZERO_RANGE) {
        fuse_reply_err(req, EOPNOTSUPP);
        return;
    }
    if (offset < 0 || length <= 0) {
        fuse_reply_err(req, EINVAL);
        return;
    }
    if (end > n->size && !(mode & FALLOC_FL_KEEP_SIZE)) {
        fuse_reply_err(req, ENOSPC);
        return;
    }
    end = end < n->size ? end : n->size;
    if (at >= end) {
        fuse_reply_err(req, 0);
        return;
    }
    r = qchain_write_zeroes(v->c, end - at, at, mode == punch ? QCHAIN_WRITE_UNMAP : 0, w->err);
    note_change(v, "fallocate", r, w->err);
    fuse_reply_err(req, program_errno(r));
}

/* After a flush that failed nobody knows what is durable: then it is no question of rights. */
static void flush(fuse_req_t req)
{
    struct fuse_view *v = fuse_req_userdata(req);
    struct fuse_work *w = fuse_work_get(v, 0);
    int r = 0;

    if (v->writable) {
        r = qchain_flush(v->c, w ? w->err : NULL);
        if (r != 0)
            fuse_log_failure(v, "flush", w ? w->err : NULL);
    }
    fuse_reply_err(req, r == QCHAIN_E_READONLY ? EIO : program_errno(r));
}

void fuse_disk_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
    (void)ino;
    (void)datasync;
    (void)fi;
    flush(req);
}

void fuse_disk_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    (void)fi;
    flush(req);
}
