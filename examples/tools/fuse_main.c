/* SPDX-License-Identifier: MIT */
/*
 * qchain-fuse - a chain as files of a mount: its virtual disk, or the files it is made of.
 *
 * Without -f the program waits in the foreground until the mount is up, or until it knows why not; the child
 * that goes on opens the chain, since handles of the library do not survive a fork.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fuse_view.h"

enum {
    OPT_FORMAT = TOOL_OPT_BASE,
    OPT_ALLOW_OTHER,
    OPT_COPY_ON_READ,
    OPT_HYDRATE,
    OPT_NAME,
    OPT_DIRECT_IO,
    OPT_RECORD,
    OPT_REQUESTS
};

static const struct option fuse_options[] = {
    {"allow-other", no_argument, NULL, OPT_ALLOW_OTHER},
    {"cache", required_argument, NULL, 't'},
    {"copy-on-read", no_argument, NULL, OPT_COPY_ON_READ},
    {"direct-io", no_argument, NULL, OPT_DIRECT_IO},
    {"foreground", no_argument, NULL, 'f'},
    {"format", required_argument, NULL, OPT_FORMAT},
    {"hydrate", optional_argument, NULL, OPT_HYDRATE},
    {"name", required_argument, NULL, OPT_NAME},
    {"record", required_argument, NULL, OPT_RECORD},
    {"requests", required_argument, NULL, OPT_REQUESTS},
    {"snapshot", required_argument, NULL, 'l'},
    {"writable", no_argument, NULL, 'w'},
    {NULL, 0, NULL, 0},
};

struct args {
    bool        layers;
    bool        read_only; /* -o ro */
    const char *image;
    const char *name;
    const char *snapshot;
    uint32_t    flags;   /* QCHAIN_OPEN_* */
    char       *fsname;
    char       *options; /* that are passed on */
};

/* ---------------------------------------------------------------- command line --- */

static bool add_text(char **list, const char *text)
{
    char *joined = NULL;

    if (asprintf(&joined, "%s%s%s", *list ? *list : "", *list ? "," : "", text) < 0)
        return false;
    free(*list);
    *list = joined;
    return true;
}

/* One word of -o: taken if it can do no harm. */
static bool take_option(struct tool *t, struct args *a, const char *word)
{
    static const char *const passed[] = {"noexec", "noatime", "auto_unmount"};
    static const char *const always[] = {"nosuid", "nodev", "default_permissions"};
    size_t i;

    for (i = 0; i < sizeof(passed) / sizeof(passed[0]); i++)
        if (strcmp(word, passed[i]) == 0)
            return add_text(&a->options, word);
    for (i = 0; i < sizeof(always) / sizeof(always[0]); i++)
        if (strcmp(word, always[i]) == 0)
            return true;
    if (strcmp(word, "ro") == 0) {
        a->read_only = true;
        return true;
    }
    if (strncmp(word, "fsname=", 7) == 0) {
        free(a->fsname);
        a->fsname = strdup(word + 7);
        return a->fsname != NULL;
    }
    if (strcmp(word, "allow_other") == 0)
        tool_usage_error(t, "-o allow_other lets others see the files: if that is wanted, say --allow-other");
    else if (strcmp(word, "rw") == 0)
        tool_usage_error(t, "-o rw is not enough to write to an image: say --writable");
    else
        tool_usage_error(t, "unknown mount option '%s'", word);
    return false;
}

static bool take_options(struct tool *t, struct args *a, const char *list)
{
    char *copy = strdup(list), *rest = copy, *word;
    bool ok = copy != NULL;

    while (ok && (word = strsep(&rest, ",")) != NULL)
        ok = *word == '\0' || take_option(t, a, word);
    free(copy);
    return ok;
}

static bool take_name(struct tool *t, struct args *a, const char *name)
{
    if (*name && !strchr(name, '/') && strcmp(name, ".") != 0 && strcmp(name, "..") != 0 && strlen(name) <= NAME_MAX) {
        a->name = name;
        return true;
    }
    tool_usage_error(t, "'%s' is no name for a file", name);
    return false;
}

/* One option of ours; false after a complaint. */
static bool own_option(struct tool *t, struct fuse_view *v, struct args *a, int c)
{
    uint64_t n;

    switch (c) {
    case 'f':
        v->foreground = true;
        return true;
    case 'l':
        a->snapshot = optarg;
        return true;
    case 'o':
        return take_options(t, a, optarg);
    case 't':
        if (program_set_cache(optarg, &a->flags))
            return true;
        tool_usage_error(t, "Invalid cache mode '%s'", optarg);
        return false;
    case 'w':
        v->writable = true;
        return true;
    case OPT_FORMAT:
        t->format = optarg;
        return true;
    case OPT_COPY_ON_READ:
        v->copy_on_read = true;
        return true;
    case OPT_HYDRATE:
        v->hydrate = true;
        return !optarg || tool_parse_size(t, "rate", optarg, &v->hydrate_rate);
    case OPT_ALLOW_OTHER:
        v->allow_other = true;
        return true;
    case OPT_DIRECT_IO:
        v->direct_io = true;
        return true;
    case OPT_NAME:
        return take_name(t, a, optarg);
    case OPT_RECORD:
        t->record = optarg;
        return true;
    default: /* OPT_REQUESTS */
        if (!tool_parse_number(t, "number of requests", optarg, 1, 1024, &n))
            return false;
        v->requests = (uint32_t)n;
        return true;
    }
}

/* What does not go together. */
static bool check_args(struct tool *t, const struct fuse_view *v, const struct args *a)
{
    if (a->layers && (v->writable || a->name || a->snapshot || t->record)) {
        tool_usage_error(t, "--writable, --name, --snapshot and --record are of the disk, not of its layers");
        return false;
    }
    if ((v->copy_on_read || v->hydrate) && !v->writable) {
        tool_usage_error(t, "--copy-on-read and --hydrate store in the image: they need --writable");
        return false;
    }
    if (v->writable && a->read_only) {
        tool_usage_error(t, "--writable and -o ro exclude each other");
        return false;
    }
    if (v->writable && a->snapshot) {
        tool_usage_error(t, "an internal snapshot can only be read");
        return false;
    }
    return true;
}

/* 0, or TOOL_STOP with t->status. */
static int parse_args(struct tool *t, int argc, char **argv, struct fuse_view *v, struct args *a)
{
    int c, n;

    t->status = t->verb->usage_exit;
    while ((c = tool_getopt(t, argc, argv, "fl:o:t:w", fuse_options)) != TOOL_END)
        if (c == TOOL_STOP || !own_option(t, v, a, c))
            return TOOL_STOP;
    n = argc - optind;
    if (n == 3 && (strcmp(argv[optind], "disk") == 0 || strcmp(argv[optind], "layers") == 0)) {
        a->layers = argv[optind][0] == 'l';
        optind++;
    } else if (n != 2) {
        t->status = tool_usage_error(t, "Expecting an image and where to mount it");
        return TOOL_STOP;
    }
    a->image = argv[optind];
    v->mountpoint = argv[optind + 1];
    return check_args(t, v, a) ? 0 : TOOL_STOP;
}

/* ------------------------------------------------------------------- the mount --- */

/* Look at the mount point: 0, or -1 after a complaint. */
static int look_at_mountpoint(struct tool *t, struct fuse_view *v, const struct args *a)
{
    struct statvfs fs;
    struct stat st;

    /* Of a mount whose program is dead the kernel may still know what a directory was like, but no space. */
    if (stat(v->mountpoint, &st) != 0 || statvfs(v->mountpoint, &fs) != 0) {
        if (errno == ENOTCONN || errno == ECONNABORTED)
            tool_complain(t, "'%s' is a mount whose program has died: run 'fusermount3 -u %s', or as root 'umount %s'",
                          v->mountpoint, v->mountpoint, v->mountpoint);
        else
            tool_complain(t, "Could not mount on '%s': %s", v->mountpoint, strerror(errno));
        return -1;
    }
    v->is_file = S_ISREG(st.st_mode);
    if (S_ISDIR(st.st_mode) || (v->is_file && !a->layers))
        return 0;
    tool_complain(t, "Could not mount on '%s': it is no directory%s", v->mountpoint, a->layers ? "" : " and no regular file");
    return -1;
}

/* Open, show, end; the exit code. */
static int serve(struct tool *t, struct fuse_view *v, const struct args *a)
{
    uint32_t flags = a->flags | (a->layers ? (uint32_t)QCHAIN_OPEN_NO_INDEX : 0) |
                     (v->copy_on_read ? (uint32_t)QCHAIN_OPEN_COPY_ON_READ : 0);
    const char *fsname = a->fsname ? a->fsname : tool_shown_name(t, a->image);
    struct fuse_hydrate *h = NULL;
    int status = 1, made;

    if (v->writable ? tool_open_writable(t, a->image, flags | QCHAIN_OPEN_DISCARD, &v->c) != 0
                    : tool_open(t, a->image, flags, a->snapshot, &v->c) != 0)
        return 1;
    made = a->layers ? fuse_layers_make(v) : fuse_disk_make(v, a->image, a->name);
    if (made == 0)
        made = tool_record_start(t, v->c);
    if (made == 0 && v->hydrate && !(h = fuse_hydrate_begin(v))) {
        tool_complain(t, "out of memory");
        made = -1;
    }
    if (made == 0)
        status = fuse_session_serve(v, fsname, a->options);
    fuse_hydrate_end(h);
    if (tool_record_stop(t, v->c) != 0)
        status = 1;
    if (!v->writable)
        qchain_close(v->c);
    else if (tool_close_writable(t, v->c) != 0)
        status = 1;
    fuse_tree_free(v);
    return status;
}

/* In the child: 0 with v->up set. In the parent, once the mount is up or the child has ended: 1, and *status is
 * the exit code. */
static int go_on_in_background(struct tool *t, struct fuse_view *v, int *status)
{
    int fd[2], ended;
    pid_t pid;
    char byte;
    ssize_t n;

    *status = 1;
    fflush(stdout);
    if (pipe2(fd, O_CLOEXEC) != 0 || (pid = fork()) < 0) {
        tool_complain(t, "Could not go into the background: %s", strerror(errno));
        return 1;
    }
    if (pid == 0) {
        close(fd[0]);
        v->up = fd[1];
        setsid();
        return 0;
    }
    close(fd[1]);
    while ((n = read(fd[0], &byte, 1)) < 0 && errno == EINTR)
        ;
    if (n == 1)
        *status = 0;
    else if (waitpid(pid, &ended, 0) == pid && WIFEXITED(ended) && WEXITSTATUS(ended) != 0)
        *status = WEXITSTATUS(ended);
    return 1;
}

static int run_fuse(struct tool *t, int argc, char **argv)
{
    struct fuse_view v = {.t = t, .up = -1, .requests = 32};
    struct args a = {0};
    int status;

    if (parse_args(t, argc, argv, &v, &a) != 0) {
        status = t->status;
    } else if (look_at_mountpoint(t, &v, &a) != 0) {
        status = 1;
    } else if (fuse_work_init(&v) != 0) {
        tool_complain(t, "out of memory");
        status = 1;
    } else {
        if (v.foreground || go_on_in_background(t, &v, &status) == 0)
            status = serve(t, &v, &a);
        fuse_work_free(&v);
    }
    free(a.fsname);
    free(a.options);
    return status;
}

static const struct tool_verb verb_fuse = {
    .name = "fuse",
    .run = run_fuse,
    .alone = true,
    .synopsis = "[options] [disk|layers] IMG MOUNTPOINT",
    .help = "  disk (the default)      the disk as a raw file;  layers: the chain's files\n"
            "  -w, --writable          the disk may be written to\n"
            "  --copy-on-read          keep in IMG what is read of the layers below\n"
            "  --hydrate[=BYTES/S]     bring all of it, meanwhile; then IMG stands on nothing\n"
            "  -f, --foreground        stay in the foreground\n"
            "  --format FMT, --name NAME  the format of IMG; what its file is called\n"
            "  -l, --snapshot NAME     the disk of an internal snapshot\n"
            "  --allow-other           others may look into the mount, too\n"
            "  -o OPT,...              ro, fsname=NAME, noexec, noatime, auto_unmount\n"
            "  -t, --cache MODE        how to open files;  --direct-io  past the page cache\n"
            "  --requests N, --record FILE  at a time (32); record reads: qchain-trace(1)\n",
    .usage_exit = 2,
};

int main(int argc, char **argv)
{
    struct tool t;
    int status;

    if (argc > 1 && strcmp(argv[1], "--complete") == 0)
        return tool_complete(&verb_fuse, argc - 2, argv + 2);
    signal(SIGXFSZ, SIG_IGN); /* a file that gets too large is an error like others */
    signal(SIGPIPE, SIG_IGN);
    status = tool_start(&t, &verb_fuse);
    if (status == 0)
        status = run_fuse(&t, argc, argv);
    tool_finish(&t);
    return status;
}
