/* SPDX-License-Identifier: MIT */
/* fuse_session.c - mounting, answering, and how it ends. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "fuse_view.h"

/* ------------------------------------------------------------------ operations --- */

/* Who waits is told once the kernel and we have agreed: from now on programs are answered. */
static void tell_up(struct fuse_view *v)
{
    int null;

    if (v->up < 0)
        return;
    fflush(stderr);
    null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null >= 0) {
        dup2(null, STDIN_FILENO);
        dup2(null, STDOUT_FILENO);
        dup2(null, STDERR_FILENO);
        if (null > STDERR_FILENO)
            close(null);
    }
    while (write(v->up, "", 1) < 0 && errno == EINTR)
        ; /* if nobody waits any more, that is no reason to end */
    close(v->up);
    v->up = -1;
}

static void on_init(void *data, struct fuse_conn_info *conn)
{
    struct fuse_view *v = data;

    /* Reads ahead and direct ones that are under way in the kernel: as many as there are threads for. */
    if (conn->max_background < v->requests)
        conn->max_background = v->requests;
    conn->congestion_threshold = conn->max_background;
    tell_up(v);
}

static void on_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct fuse_view *v = fuse_req_userdata(req);
    struct fuse_node *n = fuse_tree_node(v, ino);

    if (!n || n->source == NODE_DIR) {
        fuse_reply_err(req, n ? EISDIR : ENOENT);
    } else if (!v->writable && (fi->flags & O_ACCMODE) != O_RDONLY) {
        fuse_reply_err(req, EROFS);
    } else {
        /* What is read changes by writes through this mount alone, so what the kernel has stays right. */
        fi->keep_cache = 1;
        fi->direct_io = v->direct_io;
        fuse_reply_open(req, fi);
    }
}

static void on_statfs(fuse_req_t req, fuse_ino_t ino)
{
    struct fuse_view *v = fuse_req_userdata(req);
    struct statvfs st;
    uint32_t i;

    (void)ino;
    memset(&st, 0, sizeof(st));
    st.f_bsize = st.f_frsize = 4096;
    st.f_namemax = 255;
    st.f_files = v->n_nodes;
    for (i = 0; i < v->n_nodes; i++)
        st.f_blocks += (fsblkcnt_t)((v->node[i].size + 4095) / 4096);
    fuse_reply_statfs(req, &st);
}

static const struct fuse_lowlevel_ops read_ops = {
    .init = on_init,
    .lookup = fuse_tree_lookup,
    .getattr = fuse_tree_getattr,
    .readdir = fuse_tree_readdir,
    .open = on_open,
    .read = fuse_view_read,
    .statfs = on_statfs,
};

/* A disk tells of holes, and may be written to; a layer's file is all data. */
static struct fuse_lowlevel_ops disk_ops(const struct fuse_view *v)
{
    struct fuse_lowlevel_ops ops = read_ops;

    ops.lseek = fuse_disk_lseek;
    if (v->writable) {
        ops.write = fuse_disk_write;
        ops.setattr = fuse_disk_setattr;
        ops.fallocate = fuse_disk_fallocate;
        ops.fsync = fuse_disk_fsync;
        ops.flush = fuse_disk_flush;
    }
    return ops;
}

/* --------------------------------------------------------------------- signals --- */

/* SIGINT, SIGTERM and SIGHUP unmount. A thread waits for them, so that nothing happens in a handler; it wakes
 * the main thread, which waits in libfuse, until that has seen it. */
struct signals {
    struct fuse_view *v;
    sigset_t          set, old;
    pthread_t         thread, main_thread;
    bool              running;
    atomic_int        seen;  /* the signal, or 0 */
    atomic_bool       over;
};

static void nothing(int number)
{
    (void)number;
}

static void *wait_for_signals(void *data)
{
    struct signals *s = data;
    struct timespec wait = {.tv_sec = 3600};

    for (;;) {
        int number = sigtimedwait(&s->set, NULL, &wait);

        if (atomic_load(&s->over))
            return NULL;
        if (number > 0 && atomic_load(&s->seen) && !s->v->writable) {
            /* The second one: reads that hang are not waited for, and nothing can be lost. */
            fuse_session_unmount(s->v->se);
            _exit(128 + number);
        }
        if (number > 0 && !atomic_load(&s->seen)) {
            atomic_store(&s->seen, number);
            fuse_session_exit(s->v->se);
            wait = (struct timespec){.tv_nsec = 20000000};
        }
        if (atomic_load(&s->seen))
            pthread_kill(s->main_thread, SIGUSR1);
    }
}

static int begin_signals(struct signals *s, struct fuse_view *v)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction sa, old;
    sigset_t all;
    size_t i;

    s->v = v;
    s->main_thread = pthread_self();
    memset(&sa, 0, sizeof(sa));
    sa.sa_handler = nothing;
    sigaction(SIGUSR1, &sa, NULL);
    sigemptyset(&s->set);
    sigaddset(&s->set, SIGUSR2); /* ours: it is over */
    for (i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        if (sigaction(numbers[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN) /* as nohup wants it */
            sigaddset(&s->set, numbers[i]);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &s->old);
    s->running = pthread_create(&s->thread, NULL, wait_for_signals, s) == 0;
    pthread_sigmask(SIG_SETMASK, &s->old, NULL);
    pthread_sigmask(SIG_BLOCK, &s->set, NULL);
    return s->running ? 0 : -1;
}

static void end_signals(struct signals *s)
{
    atomic_store(&s->over, true);
    if (s->running) {
        pthread_kill(s->thread, SIGUSR2);
        pthread_join(s->thread, NULL);
    }
}

/* ------------------------------------------------------------------- the mount --- */

/* What is always asked for: the kernel checks rights, and no file here is a program with another's rights. */
static int make_args(struct fuse_args *args, const struct fuse_view *v, const char *fsname, const char *options)
{
    char *list = NULL;
    int r = -1;

    if (fuse_opt_add_opt(&list, "default_permissions,nosuid,nodev,subtype=qchain") == 0 &&
        fuse_opt_add_opt(&list, v->writable ? "rw" : "ro") == 0 &&
        (!v->allow_other || fuse_opt_add_opt(&list, "allow_other") == 0) &&
        (!options || fuse_opt_add_opt(&list, options) == 0)) {
        char named[4096];

        snprintf(named, sizeof(named), "fsname=%s", fsname);
        if (fuse_opt_add_opt_escaped(&list, named) == 0 && fuse_opt_add_arg(args, v->t->prog) == 0 &&
            fuse_opt_add_arg(args, "-o") == 0 && fuse_opt_add_arg(args, list) == 0)
            r = 0;
    }
    free(list);
    return r;
}

/* Answer requests until the end; 0 or an errno. Threads are made as they are needed, and stay. */
static int loop(struct fuse_view *v)
{
    struct fuse_loop_config *config = fuse_loop_cfg_create();
    int r;

    if (!config)
        return ENOMEM;
    fuse_loop_cfg_set_max_threads(config, v->requests);
    fuse_loop_cfg_set_idle_threads(config, v->requests);
    fuse_loop_cfg_set_clone_fd(config, 1);
    r = fuse_session_loop_mt(v->se, config);
    fuse_loop_cfg_destroy(config);
    return r < 0 ? -r : 0;
}

int fuse_session_serve(struct fuse_view *v, const char *fsname, const char *options)
{
    struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
    struct fuse_lowlevel_ops ops = v->node[v->n_nodes - 1].source == NODE_DISK ? disk_ops(v) : read_ops;
    struct signals s = {0};
    int r = -1;

    if (make_args(&args, v, fsname, options) != 0) {
        tool_complain(v->t, "out of memory");
        goto out;
    }
    v->se = fuse_session_new(&args, &ops, sizeof(ops), v);
    if (!v->se) {
        tool_complain(v->t, "libfuse refuses the options");
        goto out;
    }
    if (begin_signals(&s, v) != 0 || fuse_session_mount(v->se, v->mountpoint) != 0) {
        tool_complain(v->t, "Could not mount on '%s'%s", v->mountpoint,
                      access("/dev/fuse", F_OK) == 0 ? "" : ": there is no /dev/fuse; load the module 'fuse'");
        goto out;
    }
    r = loop(v);
    if (r != 0)
        tool_complain(v->t, "%s: %s", v->mountpoint, strerror(r));
    fuse_session_unmount(v->se);

out:
    end_signals(&s);
    if (v->se)
        fuse_session_destroy(v->se);
    fuse_opt_free_args(&args);
    return r == 0 ? 0 : 1;
}
