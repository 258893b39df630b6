/* SPDX-License-Identifier: MIT */
/* cmd_io.c - a shell that reads and writes parts of a disk, as qemu-io. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io.h"

enum { OPT_RECORD = TOOL_OPT_BASE };

static const struct option io_options[] = {
    {"cmd", required_argument, NULL, 'c'},
    {"format", required_argument, NULL, 'f'},
    {"read-only", no_argument, NULL, 'r'},
    {"snapshot", no_argument, NULL, 's'},
    {"nocache", no_argument, NULL, 'n'},
    {"copy-on-read", no_argument, NULL, 'C'},
    {"misalign", no_argument, NULL, 'm'},
    {"native-aio", no_argument, NULL, 'k'},
    {"aio", required_argument, NULL, 'i'},
    {"cache", required_argument, NULL, 't'},
    {"discard", required_argument, NULL, 'd'},
    {"trace", required_argument, NULL, 'T'},
    {"version", no_argument, NULL, 'V'},
    {"record", required_argument, NULL, OPT_RECORD},
    {NULL, 0, NULL, 0},
};

struct io_args {
    char **lines; /* of -c */
    int n_lines;
    const char *format;
    bool native_aio;
};

/* One option; 0, or the exit code to leave with. */
static int parse_option(struct io_shell *sh, int c, struct io_args *a)
{
    struct tool *t = sh->t;
    const char *what = NULL;

    switch (c) {
    case 'c':
        a->lines[a->n_lines++] = optarg;
        break;
    case 'f':
        a->format = optarg;
        break;
    case 'r':
        sh->how.read_only = true;
        break;
    case 's':
        sh->how.snapshot = true;
        break;
    case 'n':
        program_set_cache("none", &sh->how.flags);
        break;
    case 'C':
        sh->how.copy_on_read = true;
        break;
    case 'k':
        a->native_aio = true;
        break;
    case 'i':
        what = io_known_aio(optarg) ? NULL : "aio";
        break;
    case 't':
        what = program_set_cache(optarg, &sh->how.flags) ? NULL : "cache";
        break;
    case 'd':
        what = io_set_discard(&sh->how, optarg) ? NULL : "discard";
        break;
    case OPT_RECORD:
        t->record = optarg;
        break;
    default:
        break; /* -m and -T have nothing to act upon */
    }
    if (what)
        tool_complain(t, "Invalid %s option: %s", what, optarg);
    return what ? 1 : 0;
}

/* 0, or TOOL_STOP with t->status. */
static int parse_args(struct io_shell *sh, int argc, char **argv, struct io_args *a)
{
    struct tool *t = sh->t;
    int c;

    while ((c = tool_getopt(t, argc, argv, "c:d:rsnCmki:t:T:f:V", io_options)) != TOOL_END) {
        if (c == TOOL_STOP)
            return TOOL_STOP;
        if (c == 'V') {
            printf("qchain-io version %s\n", qchain_version_string());
            t->status = 0;
            return TOOL_STOP;
        }
        t->status = parse_option(sh, c, a);
        if (t->status)
            return TOOL_STOP;
    }
    t->status = 1;
    if (argc - optind > 1) {
        tool_usage_error(t, "Expecting one image file name");
        return TOOL_STOP;
    }
    if (t->image_opts && a->format) {
        tool_complain(t, "--image-opts and -f are mutually exclusive");
        return TOOL_STOP;
    }
    return 0;
}

/* The image of the command line. */
static int open_first(struct io_shell *sh, const char *name, const struct io_args *a)
{
    struct io_how *how = &sh->how;

    how->image_opts = sh->t->image_opts;
    how->force_share = sh->t->force_share;
    how->name = strdup(name);
    how->shown = how->image_opts ? NULL : strdup(tool_shown_name(sh->t, name));
    how->format = a->format ? strdup(a->format) : NULL;
    if (!how->name || (!how->image_opts && !how->shown) || (a->format && !how->format)) {
        tool_complain(sh->t, "out of memory");
        return -1;
    }
    if (a->native_aio && !(how->flags & QCHAIN_OPEN_DIRECT)) {
        tool_complain(sh->t,
                      "can't open device %s: aio=native was specified, but it requires "
                      "cache.direct=on, which was not specified.",
                      name);
        return -1;
    }
    return io_open_image(sh);
}

static void run_stdin(struct io_shell *sh)
{
    char *line = NULL;
    size_t size = 0;
    ssize_t n;

    while (!sh->quit) {
        printf("%s> ", sh->t->prog);
        fflush(stdout);
        n = getline(&line, &size, stdin);
        if (n < 0)
            break;
        if (n && line[n - 1] == '\n')
            line[n - 1] = '\0';
        io_run_line(sh, line);
    }
    free(line);
}

static int run_shell(struct io_shell *sh, const char *name, const struct io_args *a)
{
    int i;

    if (name && open_first(sh, name, a) != 0)
        return 1;
    if (!a->n_lines)
        run_stdin(sh);
    for (i = 0; i < a->n_lines && !sh->quit; i++)
        io_run_line(sh, a->lines[i]);
    if (io_close_image(sh) != 0)
        sh->failed = true;
    return sh->failed ? 1 : 0;
}

static int run_io(struct tool *t, int argc, char **argv)
{
    struct io_shell sh = {.t = t, .how = {.flags = QCHAIN_OPEN_WRITETHROUGH}};
    struct io_args a = {0};
    int status;

    a.lines = calloc((size_t)argc + 1, sizeof(*a.lines));
    if (!a.lines) {
        tool_complain(t, "out of memory");
        return 1;
    }
    status = parse_args(&sh, argc, argv, &a) == 0
                 ? run_shell(&sh, optind < argc ? argv[optind] : NULL, &a)
                 : t->status;
    free(a.lines);
    io_how_free(&sh.how);
    return status;
}

const struct tool_verb tool_verb_io = {
    .name = "io",
    .run = run_io,
    .synopsis = "[options] [-c COMMAND]... [IMG]",
    .help = "  -c, --cmd COMMAND       run this, not what standard input says (repeatable)\n"
            "  -f, --format FMT        the format of IMG: qcow2, raw\n"
            "  -r, --read-only         open IMG for reading\n"
            "  -s, --snapshot          write to a temporary overlay that is lost at the end\n"
            "  -t, --cache MODE        none, directsync, unsafe, writeback or\n"
            "                          writethrough (default)\n"
            "  -n, --nocache           as -t none\n"
            "  -d, --discard MODE      ignore, or unmap (default)\n"
            "  --record FILE           record reads of the first image: qchain-trace(1)\n"
            "  -C, --copy-on-read      keep in IMG what is read of the layers below\n"
            "  -k, -i MODE, -m, -T X   known, without effect\n"
            "The command `help' tells of the commands.\n",
    .usage_exit = 1,
};
