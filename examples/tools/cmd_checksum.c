/* SPDX-License-Identifier: MIT */
/* cmd_checksum.c - print a digest of the visible bytes of disks. */
#include <stdio.h>
#include <unistd.h>

#include "tool.h"

static const struct option checksum_options[] = {
    {"format", required_argument, NULL, 'f'},
    {NULL, 0, NULL, 0},
};

static int checksum(struct tool *t, const char *name)
{
    struct tool_job job;
    uint8_t digest[32];
    qchain *c;
    size_t i;
    int r;

    if (tool_open(t, name, 0, NULL, &c) != 0)
        return 1;
    r = tool_job_start(t, &job, STDERR_FILENO, false);
    if (r == 0) {
        r = qchain_checksum(c, digest, t->threads, job.job, t->err);
        tool_job_finish(&job, r == 0);
        r = tool_job_status(t, r, 1);
    }
    qchain_close(c);
    if (r)
        return r < 0 ? 1 : r;
    for (i = 0; i < sizeof(digest); i++)
        printf("%02x", digest[i]);
    printf("  %s\n", tool_shown_name(t, name));
    return 0;
}

static int run_checksum(struct tool *t, int argc, char **argv)
{
    int c, status = 0;

    while ((c = tool_getopt(t, argc, argv, "f:pq", checksum_options)) != TOOL_END) {
        switch (c) {
        case 'f':
            t->format = optarg;
            break;
        case 'p':
            if (!t->progress)
                t->progress = TOOL_PROGRESS_TEXT;
            break;
        case 'q':
            t->quiet = true;
            break;
        default:
            return t->status;
        }
    }
    if (optind >= argc)
        return tool_usage_error(t, "Expecting image file names");
    for (; optind < argc && status < 128; optind++) {
        int r = checksum(t, argv[optind]);

        if (r)
            status = r;
    }
    return status;
}

const struct tool_verb tool_verb_checksum = {
    .name = "checksum",
    .run = run_checksum,
    .synopsis = "[options] IMG...",
    .help = "  -f, --format FMT        the format of the images: qcow2, raw\n"
            "  -p, --progress=text|json  show progress on standard error\n"
            "  -q                      do not\n"
            "The digest is that of the bytes a guest sees, however they are stored.\n",
    .usage_exit = 2,
};
