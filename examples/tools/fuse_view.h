/* SPDX-License-Identifier: MIT */
/*
 * fuse_view.h - what the parts of qchain-fuse share. A view is a small tree of read-only names: one file that
 * is the virtual disk, or a file for each file of the chain. It does not change while it is mounted.
 */
#ifndef QCHAIN_FUSE_VIEW_H
#define QCHAIN_FUSE_VIEW_H

#define FUSE_USE_VERSION 312

#include <fuse_lowlevel.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "tool.h"

/* What a node shows, if not a file of the chain by its number. */
#define NODE_DIR  UINT32_MAX
#define NODE_DISK (UINT32_MAX - 1)

/* A file or directory; its inode number is its place in the list plus 1. */
struct fuse_node {
    char    *name;
    uint32_t parent;  /* place of its directory; the root's own */
    uint32_t source;  /* or NODE_* */
    uint64_t size;
    uint64_t blocks;  /* of 512 bytes; of the disk see fuse_disk.c */
    uint64_t mtime_ns;
};

/* What a thread that answers requests keeps from one to the next. When it ends the next one takes it over;
 * nothing is freed before the session is over, since a late interrupt may look at it. */
struct fuse_work {
    struct fuse_view *view;
    struct fuse_work *next, *next_idle;
    char             *buf;
    size_t            room;
    qchain_error     *err;
    pthread_mutex_t   lock;
    fuse_req_t        req;  /* to be answered, also by an interrupt; under the lock */
};

struct fuse_view {
    struct tool         *t;
    qchain              *c;
    struct fuse_session *se;
    const char          *mountpoint;
    bool                 is_file;     /* the mount point is a file: so is the root */
    bool                 writable;
    bool                 copy_on_read;
    bool                 hydrate;
    uint64_t             hydrate_rate; /* bytes a second; 0: no limit */
    bool                 far;         /* reads wait for a network: they can be interrupted */
    bool                 direct_io;
    bool                 allow_other;
    bool                 foreground;
    int                  up;          /* where to tell that the mount is up, or -1 */
    uint32_t             requests;    /* answered at a time */
    struct fuse_node    *node;
    uint32_t             n_nodes, cap_nodes;
    pthread_key_t        work_key;
    pthread_mutex_t      work_lock;
    struct fuse_work    *work, *idle_work;
    atomic_uint_fast64_t told_ns;     /* when the log was last written to */
    /* The disk's space and time of change; see fuse_disk.c. */
    pthread_mutex_t      space_lock;
    uint64_t             blocks, counted_ns, count_took_ns;
    bool                 counted;
    atomic_uint_fast64_t writes, writes_counted, mtime_ns;
};

/* ---- the tree (fuse_tree.c) ---- */

/* Add a node; its place, or -1 without memory. name: copied. */
int64_t fuse_tree_add(struct fuse_view *v, uint32_t parent, const char *name, uint32_t source);
/* The place of a name in a directory, or -1. */
int64_t fuse_tree_find(const struct fuse_view *v, uint32_t parent, const char *name, size_t length);
void fuse_tree_free(struct fuse_view *v);
/* The node behind an inode number, or NULL. */
struct fuse_node *fuse_tree_node(const struct fuse_view *v, fuse_ino_t ino);
void fuse_tree_attr(struct fuse_view *v, fuse_ino_t ino, struct stat *st);
/* How long the kernel may believe what it was told, in seconds. */
double fuse_tree_timeout(const struct fuse_view *v);
void fuse_tree_lookup(fuse_req_t req, fuse_ino_t parent, const char *name);
void fuse_tree_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void fuse_tree_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi);

/* ---- what all answers need (fuse_reply.c) ---- */

/* The calling thread's, with room for so many bytes; NULL without memory. */
struct fuse_work *fuse_work_get(struct fuse_view *v, size_t room);
int  fuse_work_init(struct fuse_view *v);
void fuse_work_free(struct fuse_view *v);
/* Tell the log of a failure, at most once a second; what: "read". */
void fuse_log_failure(struct fuse_view *v, const char *what, const qchain_error *err);
void fuse_tell(struct fuse_view *v, const char *text);
uint64_t fuse_now_ns(clockid_t clock);
void fuse_view_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi);

/* ---- the views ---- */

/* Fill the tree; 0, or -1 after a complaint. image: as the user named it. name: of the file, or NULL. */
int fuse_disk_make(struct fuse_view *v, const char *image, const char *name);
int fuse_layers_make(struct fuse_view *v);

/* The part of a name behind its last '/', without what follows a URL's path; *length receives how long. */
const char *fuse_base_name(const char *name, size_t *length);

/* Of the disk (fuse_disk.c). */
uint64_t fuse_disk_blocks(struct fuse_view *v);
void fuse_disk_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t offset,
                     struct fuse_file_info *fi);
void fuse_disk_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int what, struct fuse_file_info *fi);
void fuse_disk_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length,
                         struct fuse_file_info *fi);
void fuse_disk_lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence, struct fuse_file_info *fi);
void fuse_disk_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi);
void fuse_disk_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);

/* Begin to bring what the layers below hold into the image; NULL without memory. End it, done or not (fuse_hydrate.c). */
struct fuse_hydrate *fuse_hydrate_begin(struct fuse_view *v);
void fuse_hydrate_end(struct fuse_hydrate *h);

/* ---- the mount (fuse_session.c) ---- */

/* Mount, answer until it is unmounted or a signal comes, unmount. options: what the user gave with -o that is
 * passed on, or NULL. The exit code. */
int fuse_session_serve(struct fuse_view *v, const char *fsname, const char *options);

#endif
