/* SPDX-License-Identifier: MIT */
/* io_open.c - opening, closing and opening anew; the temporary overlay. */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io.h"

void io_how_free(struct io_how *how)
{
    free(how->name);
    free(how->shown);
    free(how->format);
    memset(how, 0, sizeof(*how));
}

bool io_set_discard(struct io_how *how, const char *mode)
{
    how->ignore_discard = strcmp(mode, "ignore") == 0 || strcmp(mode, "off") == 0;
    return how->ignore_discard || strcmp(mode, "unmap") == 0 || strcmp(mode, "on") == 0;
}

bool io_known_aio(const char *mode)
{
    return strcmp(mode, "threads") == 0 || strcmp(mode, "native") == 0 ||
           strcmp(mode, "io_uring") == 0;
}

/* --------------------------------------------------------------- complaints --- */

/* Always -1. */
static int cannot_open(const struct io_shell *sh, const char *what)
{
    if (sh->how.shown)
        fprintf(stderr, "%s: can't open device %s: %s\n", sh->t->prog, sh->how.shown, what);
    else
        fprintf(stderr, "%s: can't open: %s\n", sh->t->prog, what);
    return -1;
}

/* What is common has qemu-io's words; the library's say more of the rest. */
static int open_failed(const struct io_shell *sh)
{
    const qchain_error *err = sh->t->err;
    int code = qchain_error_code(err), system = qchain_error_errno(err);
    bool top = qchain_error_layer(err) <= 0 && !sh->how.image_opts;
    char text[PATH_MAX + 256];

    if (top && (code == QCHAIN_E_NOTFOUND || code == QCHAIN_E_ACCESS) && system)
        snprintf(text, sizeof(text), "Could not open '%s': %s", sh->how.shown, strerror(system));
    else if (top && code == QCHAIN_E_LOCKED)
        snprintf(text, sizeof(text),
                 "Failed to get %s\"write\" lock\nIs another process using the image [%s]?",
                 sh->how.read_only ? "shared " : "", sh->how.shown);
    else
        snprintf(text, sizeof(text), "%s", qchain_error_message(err));
    return cannot_open(sh, text);
}

/* -------------------------------------------------------- temporary overlay --- */

/* The overlay lies elsewhere than what it covers, and refers to it by our own wish. */
static int allow_covered(void *data, const qchain_reference *ref, qchain_resolution *out)
{
    (void)data;
    (void)out;
    return ref->layer == 0 ? QCHAIN_RESOLVE_ALLOW : QCHAIN_RESOLVE_DEFAULT;
}

/* A new file for it; its name is to be freed. NULL after a complaint. */
static char *overlay_name(const struct io_shell *sh)
{
    const char *dir = getenv("TMPDIR");
    char *name;
    int fd;

    if (asprintf(&name, "%s/qchain-io-XXXXXX", dir && *dir ? dir : "/var/tmp") < 0)
        return NULL;
    fd = mkstemp(name);
    if (fd < 0) {
        cannot_open(sh, strerror(errno));
        free(name);
        return NULL;
    }
    close(fd);
    return name;
}

/* Make the overlay over an image whose real path and format are known, and open it. */
static int open_overlay(struct io_shell *sh, char *path, const char *format, qchain_open_opts *o)
{
    qchain_create_opts create;
    char *name = overlay_name(sh), *copy = strdup(path);
    int r;

    if (!name || !copy) {
        free(name);
        free(copy);
        return -1;
    }
    qchain_create_opts_init(&create, sizeof(create));
    create.size = UINT64_MAX;
    create.backing_file = path;
    create.backing_format = format;
    create.policy = sh->t->policy;
    r = qchain_policy_allow_path(sh->t->policy, dirname(copy), sh->t->err);
    if (r == 0)
        r = qchain_create(sh->t->env, name, &create, sh->t->err);
    if (r == 0) {
        o->format = "qcow2";
        o->flags = (o->flags | QCHAIN_OPEN_WRITE | QCHAIN_OPEN_UNSAFE | QCHAIN_OPEN_NO_INDEX) &
                   ~(uint32_t)(QCHAIN_OPEN_DIRECT | QCHAIN_OPEN_WRITETHROUGH);
        o->flags |= sh->how.copy_on_read ? QCHAIN_OPEN_COPY_ON_READ : 0;
        o->policy = sh->t->policy;
        o->resolver = allow_covered;
        r = qchain_open(&sh->c, sh->t->env, name, o, sh->t->err);
    }
    unlink(name);
    free(name);
    free(copy);
    return r ? open_failed(sh) : 0;
}

static int open_snapshot(struct io_shell *sh, qchain_open_opts *o)
{
    qchain_image_info *info;
    char *path;
    int r;

    if (sh->how.image_opts || program_is_url(sh->how.name))
        return cannot_open(sh, "a temporary overlay needs the name of a file");
    if (qchain_inspect(&info, sh->t->env, sh->how.name, o, sh->t->err) != 0)
        return open_failed(sh);
    path = realpath(sh->how.name, NULL);
    r = path ? open_overlay(sh, path, info->format, o) : cannot_open(sh, strerror(errno));
    free(path);
    qchain_image_info_free(info);
    return r;
}

/* ------------------------------------------------------------------ opening --- */

/* A disk that somebody may write to looks like whatever it wants. */
static int mind_format(struct io_shell *sh)
{
    qchain_image_info *i;

    if (qchain_layer_info(&i, sh->c, 0, sh->t->err) != 0)
        return open_failed(sh);
    sh->guard = sh->writable && !sh->how.format && !sh->how.image_opts && i->version == 0;
    if (sh->guard)
        tool_warn_probed(sh->how.shown);
    qchain_image_info_free(i);
    return 0;
}

static int check_how(const struct io_shell *sh)
{
    const struct io_how *how = &sh->how;
    char text[128];

    if (how->force_share && !how->read_only)
        return cannot_open(sh, "force-share=on can only be used with read-only images");
    if (how->copy_on_read && how->read_only)
        return cannot_open(sh, "Can't use copy-on-read on read-only device");
    if (how->format && strcmp(how->format, "qcow2") != 0 && strcmp(how->format, "raw") != 0) {
        snprintf(text, sizeof(text), "Unknown driver '%s'", how->format);
        return cannot_open(sh, text);
    }
    return 0;
}

int io_open_image(struct io_shell *sh)
{
    struct tool *t = sh->t;
    struct io_how *how = &sh->how;
    uint32_t flags = how->flags;
    qchain_open_opts o;
    const char *name = how->name;
    char *owned;
    int r = check_how(sh);

    if (r)
        return r;
    if (!how->read_only && !how->snapshot)
        flags |= QCHAIN_OPEN_WRITE | (how->ignore_discard ? 0 : QCHAIN_OPEN_DISCARD);
    t->format = how->format;
    t->image_opts = how->image_opts;
    t->force_share = how->force_share;
    if (tool_prepare_open(t, &name, flags, &o, &owned) != 0)
        return -1;
    if (how->copy_on_read && o.flags & QCHAIN_OPEN_WRITE)
        o.flags |= QCHAIN_OPEN_COPY_ON_READ;
    if (how->snapshot && !how->read_only)
        r = open_snapshot(sh, &o);
    else if (!how->read_only && !(o.flags & QCHAIN_OPEN_WRITE))
        r = cannot_open(sh, "Block node is read-only"); /* its own options say so */
    else
        r = qchain_open(&sh->c, t->env, name, &o, t->err) ? open_failed(sh) : 0;
    sh->writable = (o.flags & QCHAIN_OPEN_WRITE) != 0;
    free(owned);
    if (r == 0)
        r = mind_format(sh);
    if (r == 0)
        r = tool_record_start(t, sh->c);
    if (r)
        io_close_image(sh);
    return r;
}

int io_close_image(struct io_shell *sh)
{
    int r;

    if (!sh->c)
        return 0;
    io_aio_drain(sh);
    qchain_queue_destroy(sh->queue);
    r = tool_record_stop(sh->t, sh->c);
    if (sh->writable && qchain_finish(sh->c, sh->t->err) != 0) {
        fprintf(stderr, "%s: %s\n", sh->t->prog, qchain_error_message(sh->t->err));
        r = -1;
    }
    qchain_close(sh->c);
    sh->queue = NULL;
    sh->c = NULL;
    sh->writable = sh->guard = false;
    return r ? -1 : 0;
}

IO_COMMAND(close)
{
    (void)cmd;
    (void)argc;
    (void)argv;
    return io_close_image(sh);
}

/* ----------------------------------------------------------------- commands --- */

/* Complain of a mode; always -1. */
static int invalid(const struct io_shell *sh, const char *what, const char *mode)
{
    fprintf(stderr, "%s: Invalid %s option: %s\n", sh->t->prog, what, mode);
    return -1;
}

/* The options of an image and its path as one text; NULL without memory. */
static char *join_options(const char *options, const char *path)
{
    char *all = malloc(strlen(options) + (path ? 2 * strlen(path) : 0) + 32), *to;

    if (!all)
        return NULL;
    to = stpcpy(all, options);
    if (!path)
        return all;
    to = stpcpy(to, *options ? ",file.filename=" : "file.filename=");
    for (; *path; path++) {
        if (*path == ',')
            *to++ = ',';
        *to++ = *path;
    }
    *to = '\0';
    return all;
}

/* 0, or -1 after a complaint. */
static int parse_open(struct io_shell *sh, const struct io_command *cmd, int argc, char **argv,
                      struct io_how *how, const char **options)
{
    int c;

    io_getopt_start();
    while ((c = getopt(argc, argv, "snCro:ki:t:d:U")) != -1) {
        if (c == '?')
            return io_usage(cmd);
        if (c == 't' && !program_set_cache(optarg, &how->flags))
            return invalid(sh, "cache", optarg);
        if (c == 'd' && !io_set_discard(how, optarg))
            return invalid(sh, "discard", optarg);
        if (c == 'i' && !io_known_aio(optarg))
            return invalid(sh, "aio", optarg);
        if (c == 'n')
            program_set_cache("none", &how->flags);
        if (c == 'o')
            *options = optarg;
        how->snapshot |= c == 's';
        how->copy_on_read |= c == 'C';
        how->read_only |= c == 'r';
        how->force_share |= c == 'U';
    }
    return argc - optind > 1 || (argc == optind && !*options) ? io_usage(cmd) : 0;
}

IO_COMMAND(open)
{
    struct io_how how = {.flags = QCHAIN_OPEN_WRITETHROUGH};
    const char *options = NULL, *path;
    int r = parse_open(sh, cmd, argc, argv, &how, &options);

    if (r)
        return r;
    if (sh->c) {
        fprintf(stderr, "%s: file open already, try 'help close'\n", sh->t->prog);
        return -1;
    }
    path = optind < argc ? argv[optind] : NULL;
    how.image_opts = options != NULL;
    how.name = options ? join_options(options, path) : strdup(path);
    if (!how.name)
        return -1;
    io_how_free(&sh->how);
    sh->how = how;
    sh->how.shown = path ? strdup(tool_shown_name(sh->t, path)) : NULL;
    return io_open_image(sh);
}

/* -o of reopen: only what can be changed by opening anew. */
static int reopen_options(struct io_shell *sh, const char *text, struct io_how *how)
{
    char *copy = strdup(text), *rest = copy, *pair, *value;
    int r = copy ? 0 : -1;

    while (r == 0 && (pair = strsep(&rest, ",")) != NULL) {
        bool on;

        value = strchr(pair, '=');
        if (value)
            *value++ = '\0';
        on = !value || strcmp(value, "on") == 0;
        if (strcmp(pair, "cache.direct") == 0) {
            how->flags = on ? how->flags | QCHAIN_OPEN_DIRECT
                            : how->flags & ~(uint32_t)QCHAIN_OPEN_DIRECT;
        } else if (strcmp(pair, "cache.no-flush") == 0) {
            how->flags = on ? how->flags | QCHAIN_OPEN_UNSAFE
                            : how->flags & ~(uint32_t)QCHAIN_OPEN_UNSAFE;
        } else if (strcmp(pair, "read-only") == 0) {
            how->read_only = on;
        } else {
            fprintf(stderr, "%s: Cannot change the option '%s'\n", sh->t->prog, pair);
            r = -1;
        }
    }
    free(copy);
    return r;
}

static int parse_reopen(struct io_shell *sh, const struct io_command *cmd, int argc, char **argv,
                        struct io_how *how)
{
    bool access = false;
    int c;

    io_getopt_start();
    while ((c = getopt(argc, argv, "rwc:o:")) != -1) {
        if (c == '?')
            return io_usage(cmd);
        if (c == 'c' && !program_set_cache(optarg, &how->flags))
            return invalid(sh, "cache", optarg);
        if (c == 'o' && reopen_options(sh, optarg, how) != 0)
            return -1;
        if (c != 'r' && c != 'w')
            continue;
        if (access) {
            fprintf(stderr, "%s: Only one -r/-w option may be given\n", sh->t->prog);
            return -1;
        }
        access = true;
        how->read_only = c == 'r';
    }
    return optind == argc ? 0 : io_usage(cmd);
}

IO_COMMAND(reopen)
{
    struct io_how how = sh->how;
    int r = parse_reopen(sh, cmd, argc, argv, &how);

    if (r)
        return r;
    if (how.snapshot && !how.read_only) {
        fprintf(stderr, "%s: a temporary overlay cannot be opened anew\n", sh->t->prog);
        return -1;
    }
    r = io_close_image(sh);
    sh->how = how;
    return io_open_image(sh) || r ? -1 : 0;
}
