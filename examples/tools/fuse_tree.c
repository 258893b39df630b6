/* SPDX-License-Identifier: MIT */
/* fuse_tree.c - the names of a view, and what is told of them. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fuse_view.h"

int64_t fuse_tree_add(struct fuse_view *v, uint32_t parent, const char *name, uint32_t source)
{
    struct fuse_node *n;

    if (v->n_nodes == v->cap_nodes) {
        uint32_t cap = v->cap_nodes ? 2 * v->cap_nodes : 16;

        n = realloc(v->node, cap * sizeof(*n));
        if (!n)
            return -1;
        v->node = n;
        v->cap_nodes = cap;
    }
    n = &v->node[v->n_nodes];
    memset(n, 0, sizeof(*n));
    n->name = strdup(name);
    if (!n->name)
        return -1;
    n->parent = parent;
    n->source = source;
    return v->n_nodes++;
}

int64_t fuse_tree_find(const struct fuse_view *v, uint32_t parent, const char *name, size_t length)
{
    uint32_t i;

    for (i = 1; i < v->n_nodes; i++)
        if (v->node[i].parent == parent && strncmp(v->node[i].name, name, length) == 0 &&
            v->node[i].name[length] == '\0')
            return i;
    return -1;
}

void fuse_tree_free(struct fuse_view *v)
{
    uint32_t i;

    for (i = 0; i < v->n_nodes; i++)
        free(v->node[i].name);
    free(v->node);
}

struct fuse_node *fuse_tree_node(const struct fuse_view *v, fuse_ino_t ino)
{
    return ino >= 1 && ino <= v->n_nodes ? &v->node[ino - 1] : NULL;
}

/* Of a disk that is written the space changes; all else stays as it is. */
double fuse_tree_timeout(const struct fuse_view *v)
{
    return v->writable ? 1 : 3600;
}

void fuse_tree_attr(struct fuse_view *v, fuse_ino_t ino, struct stat *st)
{
    const struct fuse_node *n = &v->node[ino - 1];
    uint64_t mtime = n->source == NODE_DISK ? atomic_load(&v->mtime_ns) : n->mtime_ns;

    memset(st, 0, sizeof(*st));
    st->st_ino = ino;
    st->st_uid = getuid();
    st->st_gid = getgid();
    st->st_blksize = 65536;
    if (n->source == NODE_DIR) {
        st->st_mode = S_IFDIR | (v->allow_other ? 0555 : 0500);
        st->st_nlink = 2;
    } else {
        st->st_mode = S_IFREG | (v->writable ? 0600 : 0400) | (v->allow_other ? 0044 : 0);
        st->st_nlink = 1;
        st->st_size = (off_t)n->size;
        st->st_blocks = (blkcnt_t)(n->source == NODE_DISK ? fuse_disk_blocks(v) : n->blocks);
    }
    st->st_mtim.tv_sec = (time_t)(mtime / 1000000000);
    st->st_mtim.tv_nsec = (long)(mtime % 1000000000);
    st->st_atim = st->st_ctim = st->st_mtim;
}

void fuse_tree_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct fuse_view *v = fuse_req_userdata(req);
    struct fuse_entry_param e;
    int64_t at = fuse_tree_node(v, parent) ? fuse_tree_find(v, (uint32_t)parent - 1, name, strlen(name)) : -1;

    memset(&e, 0, sizeof(e));
    e.entry_timeout = e.attr_timeout = fuse_tree_timeout(v);
    if (at >= 0) {
        e.ino = (fuse_ino_t)at + 1;
        fuse_tree_attr(v, e.ino, &e.attr);
    } else {
        e.entry_timeout = 3600; /* no name ever comes */
    }
    fuse_reply_entry(req, &e);
}

void fuse_tree_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct fuse_view *v = fuse_req_userdata(req);
    struct stat st;

    (void)fi;
    if (!fuse_tree_node(v, ino)) {
        fuse_reply_err(req, ENOENT);
        return;
    }
    fuse_tree_attr(v, ino, &st);
    fuse_reply_attr(req, &st, fuse_tree_timeout(v));
}

/* Entry number i of a directory: ".", "..", then its nodes by their places. The offset behind an entry is its
 * number plus 1; nodes of other directories have numbers, too, and are passed over. */
void fuse_tree_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
    struct fuse_view *v = fuse_req_userdata(req);
    struct fuse_node *dir = fuse_tree_node(v, ino);
    struct fuse_work *w = fuse_work_get(v, size);
    struct stat st = {0};
    size_t used = 0, n;
    uint64_t i;

    (void)fi;
    if (!dir || dir->source != NODE_DIR || !w) {
        fuse_reply_err(req, w ? ENOTDIR : ENOMEM);
        return;
    }
    for (i = (uint64_t)offset; i < 2 + (uint64_t)v->n_nodes; i++) {
        const struct fuse_node *node = i < 2 ? dir : &v->node[i - 2];

        if (i == 2 || (i > 2 && node->parent != ino - 1))
            continue; /* the root is in no directory */
        st.st_ino = i == 0 ? ino : i == 1 ? dir->parent + 1 : i - 1;
        st.st_mode = node->source == NODE_DIR ? S_IFDIR : S_IFREG;
        n = fuse_add_direntry(req, w->buf + used, size - used, i == 0 ? "." : i == 1 ? ".." : node->name, &st,
                              (off_t)i + 1);
        if (n > size - used)
            break;
        used += n;
    }
    fuse_reply_buf(req, w->buf, used);
}
