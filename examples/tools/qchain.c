/* SPDX-License-Identifier: MIT */
/*
 * qchain - map, read and examine chains of qcow2 and raw images.
 *
 * One program with a verb each: `qchain map ...`, or `qchain-map ...` by the name
 * it is called.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "tool.h"

static const struct {
    const struct tool_verb *verb;
    const char *summary;
} verbs[] = {
    {&tool_verb_map, "print which bytes of a disk are stored, and where"},
    {&tool_verb_explain, "tell why bytes of a disk come from where they come"},
    {&tool_verb_info, "describe an image, or all images of a chain"},
    {&tool_verb_inspect, "print all that one image says, opening nothing else"},
    {&tool_verb_read, "copy a disk or a part of it to a file or pipe"},
    {&tool_verb_compare, "compare two disks"},
    {&tool_verb_diff, "print what layers of a chain change"},
    {&tool_verb_checksum, "print a digest of a disk's bytes"},
    {&tool_verb_convert, "copy a disk to an image of its own"},
    {&tool_verb_create, "make an image"},
    {&tool_verb_commit, "write what layers hold into the layer below them"},
    {&tool_verb_resize, "make a disk larger or smaller"},
    {&tool_verb_rebase, "let an image stand on another backing file"},
    {&tool_verb_stream, "pull what is below an image into it"},
    {&tool_verb_merge, "pull small layers below an image into it"},
    {&tool_verb_delete, "take a layer out of the chains above it"},
    {&tool_verb_amend, "change options of an image"},
    {&tool_verb_measure, "tell how large the file of a new image would be"},
    {&tool_verb_index, "keep the map of a chain in a file, so that it opens at once"},
    {&tool_verb_cache, "look after a disk cache of remote layers"},
    {&tool_verb_prefetch, "bring what remote layers show into the disk cache"},
    {&tool_verb_trace, "look at and merge traces of what was read of a disk"},
    {&tool_verb_write, "write bytes of a file or pipe into an image"},
    {&tool_verb_dd, "copy a disk or a part of it to a new image"},
    {&tool_verb_snapshot, "list, make, apply and delete internal snapshots"},
    {&tool_verb_bitmap, "add, remove and change dirty bitmaps"},
    {&tool_verb_io, "read and write parts of a disk by commands, as qemu-io"},
    {&tool_verb_check, "look whether an image is valid, and mend it"},
    {&tool_verb_bench, "measure how fast a disk is read or written"},
    {&tool_verb_doctor, "look for what keeps images from being opened, here"},
};

#define N_VERBS (sizeof(verbs) / sizeof(verbs[0]))

static const struct tool_verb *find_verb(const char *name)
{
    size_t i;

    for (i = 0; i < N_VERBS; i++)
        if (strcmp(name, verbs[i].verb->name) == 0)
            return verbs[i].verb;
    return NULL;
}

static int run_verb(const struct tool_verb *verb, int argc, char **argv)
{
    struct tool t;
    int status;

    signal(SIGXFSZ, SIG_IGN); /* a file that gets too large is an error like others */
    status = tool_start(&t, verb);
    if (status == 0)
        status = verb->run(&t, argc, argv);
    if (fflush(stdout) != 0 && status == 0) {
        tool_complain(&t, "writing the output: %s", strerror(errno));
        status = 1;
    }
    tool_finish(&t);
    return status;
}

static int print_help(void)
{
    size_t i;

    printf("usage: qchain VERB [options] ...\n\n");
    for (i = 0; i < N_VERBS; i++)
        printf("  %-10s%s\n", verbs[i].verb->name, verbs[i].summary);
    printf("  %-10s%s\n  %-10s%s\n\n"
           "qchain VERB --help tells the options of a verb; qchain-VERB is the same program.\n",
           "version", "print the versions of the program and the library", "help",
           "print this, or the help of a verb");
    return 0;
}

static int print_version(void)
{
    static const char *const features[] = {"qcow2", "raw",   "zlib",     "zstd",
                                           "libdeflate", "direct", "locks", "write",
                                           "queue", "io_uring", "index",    "http"};
    size_t i;

    printf("qchain %d.%d.%d (library %s)\nfeatures:", QCHAIN_VERSION_MAJOR, QCHAIN_VERSION_MINOR,
           QCHAIN_VERSION_PATCH, qchain_version_string());
    for (i = 0; i < sizeof(features) / sizeof(features[0]); i++)
        if (qchain_has(features[i]))
            printf(" %s", features[i]);
    printf("\n");
    return 0;
}

static int usage_error(const char *text, const char *what)
{
    fprintf(stderr, "qchain: %s%s\nTry 'qchain --help' for more information\n", text, what);
    return 1;
}

int main(int argc, char **argv)
{
    const char *slash = argc > 0 ? strrchr(argv[0], '/') : NULL;
    const char *self = slash ? slash + 1 : argc > 0 ? argv[0] : "";
    const char *dash = strncmp(self, "qchain-", 7) == 0 ? self + 7 : NULL;
    const struct tool_verb *verb = dash ? find_verb(dash) : NULL;
    const char *name;

    if (verb)
        return run_verb(verb, argc, argv);
    if (dash && (strcmp(dash, "version") == 0 || strcmp(dash, "help") == 0))
        return strcmp(dash, "help") == 0 ? print_help() : print_version();
    if (argc < 2)
        return usage_error("Not enough arguments", "");
    name = argv[1];
    if (strcmp(name, "version") == 0 || strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0)
        return print_version();
    if (strcmp(name, "help") == 0 || strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        verb = argc > 2 ? find_verb(argv[2]) : NULL;
        if (!verb)
            return argc > 2 ? usage_error("Command not found: ", argv[2]) : print_help();
        tool_print_help(verb);
        return 0;
    }
    verb = find_verb(name);
    if (verb)
        return run_verb(verb, argc - 1, argv + 1);
    return usage_error(name[0] == '-' ? "unrecognized option " : "Command not found: ", name);
}
