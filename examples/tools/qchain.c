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
#include <unistd.h>

#include "tool.h"

static const struct {
    const struct tool_verb *verb;
    const char *summary;
} verbs[] = {
    {&tool_verb_map, "what is stored, and where"},
    {&tool_verb_explain, "why bytes come from there"},
    {&tool_verb_info, "describe an image or chain"},
    {&tool_verb_inspect, "all that one image says"},
    {&tool_verb_read, "copy a disk to file or pipe"},
    {&tool_verb_compare, "compare two disks"},
    {&tool_verb_diff, "what layers change"},
    {&tool_verb_checksum, "a digest of a disk's bytes"},
    {&tool_verb_convert, "copy a disk to a new image"},
    {&tool_verb_create, "make an image"},
    {&tool_verb_commit, "write layers into one below"},
    {&tool_verb_resize, "change the size of a disk"},
    {&tool_verb_rebase, "set another backing file"},
    {&tool_verb_stream, "pull what is below into it"},
    {&tool_verb_merge, "pull small layers into it"},
    {&tool_verb_delete, "take a layer out of chains"},
    {&tool_verb_amend, "change options of an image"},
    {&tool_verb_measure, "how large a copy would be"},
    {&tool_verb_index, "the map in a file: open fast"},
    {&tool_verb_cache, "look after a disk cache"},
    {&tool_verb_prefetch, "fill the cache for a chain"},
    {&tool_verb_trace, "look at traces of reads"},
    {&tool_verb_write, "write bytes into an image"},
    {&tool_verb_dd, "copy a part of a disk"},
    {&tool_verb_snapshot, "internal snapshots"},
    {&tool_verb_bitmap, "dirty bitmaps"},
    {&tool_verb_io, "read, write by commands"},
    {&tool_verb_check, "is it valid; mend it"},
    {&tool_verb_bench, "how fast a disk is"},
    {&tool_verb_doctor, "what is wrong here"},
};

#define N_VERBS (sizeof(verbs) / sizeof(verbs[0]))

/* Those that are no verbs of tool.h. */
static const char *const others[] = {"version", "help"};

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
    size_t half = (N_VERBS + 1) / 2, i;

    printf("usage: qchain VERB [options] ...\n\n");
    for (i = 0; i < half; i++) {
        printf("  %-10s%-29s", verbs[i].verb->name, verbs[i].summary);
        if (i + half < N_VERBS)
            printf("%-10s%s", verbs[i + half].verb->name, verbs[i + half].summary);
        printf("\n");
    }
    printf("\nqchain VERB --help tells the options of a verb, man qchain-VERB all about it.\n"
           "qchain doctor [IMG] looks for what is wrong; qchain version tells the version.\n");
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

/* The first line is qemu-img's; a file's name in place of a verb is a mistake of its own. */
static int no_verb(const char *name)
{
    const char *nearest = NULL;
    unsigned least = 3, d;
    size_t i;

    for (i = 0; i < N_VERBS; i++) {
        d = tool_distance(name, verbs[i].verb->name);
        if (d < least && d < strlen(name)) {
            least = d;
            nearest = verbs[i].verb->name;
        }
    }
    fprintf(stderr, "qchain: Command not found: %s\n", name);
    if (nearest)
        fprintf(stderr, "Did you mean 'qchain %s'?\n", nearest);
    else if (access(name, F_OK) == 0 || program_is_url(name))
        fprintf(stderr, "A verb comes first, as in 'qchain info IMG'\n");
    fprintf(stderr, "Try 'qchain --help' for more information\n");
    return 1;
}

/* qchain --complete WORD...: verbs are its own, the rest is theirs. */
static int complete(int n, char **words)
{
    const struct tool_verb *verb = n > 1 ? find_verb(words[0]) : NULL;
    size_t i;

    if (verb)
        return tool_complete(verb, n - 1, words + 1);
    if (n == 2 && strcmp(words[0], "help") != 0)
        n = 0;
    for (i = 0; n > 0 && n < 3 && i < N_VERBS; i++)
        if (strncmp(verbs[i].verb->name, words[n - 1], strlen(words[n - 1])) == 0)
            printf("%s\t%s\n", verbs[i].verb->name, verbs[i].summary);
    for (i = 0; n == 1 && i < sizeof(others) / sizeof(others[0]); i++)
        if (strncmp(others[i], words[0], strlen(words[0])) == 0)
            printf("%s\t\n", others[i]);
    printf(":\n");
    return 0;
}

int main(int argc, char **argv)
{
    const char *slash = argc > 0 ? strrchr(argv[0], '/') : NULL;
    const char *self = slash ? slash + 1 : argc > 0 ? argv[0] : "";
    const char *dash = strncmp(self, "qchain-", 7) == 0 ? self + 7 : NULL;
    const struct tool_verb *verb = dash ? find_verb(dash) : NULL;
    const char *name;

    if (argc > 1 && strcmp(argv[1], "--complete") == 0)
        return verb ? tool_complete(verb, argc - 2, argv + 2) : complete(argc - 2, argv + 2);
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
            return argc > 2 ? no_verb(argv[2]) : print_help();
        tool_print_help(verb);
        return 0;
    }
    verb = find_verb(name);
    if (verb)
        return run_verb(verb, argc - 1, argv + 1);
    return name[0] == '-' ? usage_error("unrecognized option ", name) : no_verb(name);
}
