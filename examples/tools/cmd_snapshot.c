/* SPDX-License-Identifier: MIT */
/* cmd_snapshot.c - list, make, apply and delete internal snapshots. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tool.h"

struct snapshot_args {
    const char *image;
    const char *name; /* of the snapshot */
    int action;       /* 'l', 'a', 'c', 'd', or 0: only open the image */
};

/* 0, or TOOL_STOP with t->status. */
static int parse_args(struct tool *t, int argc, char **argv, struct snapshot_args *a)
{
    int c;

    while ((c = tool_getopt(t, argc, argv, "la:c:d:q", NULL)) != TOOL_END) {
        if (c == TOOL_STOP)
            return TOOL_STOP;
        if (c == 'q')
            continue; /* nothing is ever said of success */
        if (a->action) {
            t->status = tool_usage_error(t, "Cannot mix '-l', '-a', '-c', '-d'");
            return TOOL_STOP;
        }
        a->action = c;
        a->name = optarg;
    }
    if (argc - optind != 1) {
        t->status = tool_usage_error(t, "Expecting one image file name");
        return TOOL_STOP;
    }
    a->image = argv[optind];
    return 0;
}

static int list(struct tool *t, const struct snapshot_args *a)
{
    qchain_image_info *i;
    struct tool_out o;
    int r;

    if (tool_inspect(t, a->image, &i) != 0)
        return 1;
    if (!tool_out_init(&o, STDOUT_FILENO)) {
        qchain_image_info_free(i);
        tool_complain(t, "out of memory");
        return 1;
    }
    tool_put_snapshots(&o, i);
    r = tool_out_finish(t, &o);
    qchain_image_info_free(i);
    return r ? 1 : 0;
}

/* ----------------------------------------------------------------- changes --- */

/* The numbers that qemu-img puts behind what it could not create. */
static int create_errno(const struct tool *t, int r)
{
    int system = qchain_error_errno(t->err);

    if (system)
        return system;
    return r == QCHAIN_E_UNSUPPORTED ? ENOTSUP
           : r == QCHAIN_E_NOSPACE   ? ENOSPC
           : r == QCHAIN_E_NOMEM     ? ENOMEM
           : r == QCHAIN_E_LIMIT     ? EFBIG
           : r == QCHAIN_E_INVAL     ? EINVAL
                                     : EIO;
}

static int create(struct tool *t, const struct snapshot_args *a, qchain *c)
{
    qchain_snapshot_opts o;
    int r, number;

    qchain_snapshot_opts_init(&o, sizeof(o));
    o.flags = QCHAIN_SNAPSHOT_HAS_ICOUNT; /* of 0, as qemu-img records it */
    r = qchain_snapshot_create(c, a->name, &o, t->err);
    if (r == 0)
        return 0;
    number = create_errno(t, r);
    tool_complain(t, "Could not create snapshot '%s': %d (%s)", a->name, -number, strerror(number));
    if (r != QCHAIN_E_UNSUPPORTED)
        tool_complain_error(t);
    return 1;
}

static int apply(struct tool *t, const struct snapshot_args *a, qchain *c)
{
    int r = qchain_snapshot_apply(c, a->name, t->err);

    if (r == 0)
        return 0;
    if (r == QCHAIN_E_NOTFOUND)
        tool_complain(t, "Could not apply snapshot '%s': Failed to load snapshot: %s", a->name,
                      strerror(ENOENT));
    else if (r == QCHAIN_E_UNSUPPORTED)
        tool_complain(t, "Could not apply snapshot '%s': Block driver does not support snapshots",
                      a->name);
    else
        tool_complain(t, "Could not apply snapshot '%s': %s", a->name, qchain_error_message(t->err));
    return 1;
}

/* By what to delete the first snapshot of a name; NULL: there is none. Only names are asked for, as
 * qemu-img does, while the library would take an id first. A name that is not shown as it is stands for
 * itself. */
static const char *find_by_name(const qchain_image_info *i, const char *name)
{
    const char *key = name;
    uint32_t n;

    for (n = 0; n < i->n_snapshots; n++) {
        if (strcmp(i->snapshots[n].name, name) == 0)
            return i->snapshots[n].id;
        if (strcmp(i->snapshots[n].id, name) == 0)
            key = NULL;
    }
    return key;
}

static int delete_it(struct tool *t, const struct snapshot_args *a, qchain *c)
{
    qchain_image_info *i;
    const char *key;
    int r = qchain_layer_info(&i, c, 0, t->err);

    if (r) {
        tool_complain(t, "Could not delete snapshot '%s': %s", a->name, qchain_error_message(t->err));
        return 1;
    }
    key = find_by_name(i, a->name);
    r = i->version == 0 || !key ? QCHAIN_E_NOTFOUND : qchain_snapshot_delete(c, key, t->err);
    qchain_image_info_free(i);
    if (r == 0)
        return 0;
    tool_complain(t, "Could not delete snapshot '%s': %s", a->name,
                  r == QCHAIN_E_NOTFOUND ? "snapshot not found" : qchain_error_message(t->err));
    return 1;
}

static int change(struct tool *t, const struct snapshot_args *a)
{
    int status = 0;
    qchain *c;

    if (tool_open_writable(t, a->image, QCHAIN_OPEN_DISCARD, &c) != 0)
        return 1;
    if (a->action == 'c')
        status = create(t, a, c);
    else if (a->action == 'a')
        status = apply(t, a, c);
    else if (a->action == 'd')
        status = delete_it(t, a, c);
    return tool_close_writable(t, c) != 0 ? 1 : status;
}

static int run_snapshot(struct tool *t, int argc, char **argv)
{
    struct snapshot_args a = {0};

    if (parse_args(t, argc, argv, &a) != 0)
        return t->status;
    return a.action == 'l' ? list(t, &a) : change(t, &a);
}

const struct tool_verb tool_verb_snapshot = {
    .name = "snapshot",
    .run = run_snapshot,
    .synopsis = "[-l | -c NAME | -a NAME | -d NAME] [options] IMG",
    .help = "  -l                      list the snapshots of IMG\n"
            "  -c NAME                 make one of what the disk holds now\n"
            "  -a NAME                 let the disk hold what it held then; NAME may be an id\n"
            "  -d NAME                 delete one\n"
            "  -q                      known, without effect\n",
    .usage_exit = 1,
};
