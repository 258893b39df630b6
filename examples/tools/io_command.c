/* SPDX-License-Identifier: MIT */
/* io_command.c - the commands of the I/O shell, their help, and how a line is taken apart. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "io.h"

static IO_COMMAND(abort);
static IO_COMMAND(help);
static IO_COMMAND(quit);
static IO_COMMAND(sigraise);
static IO_COMMAND(sleep);

#define REPORT_HELP                                                                                  \
    "  -C  report as numbers with commas between them\n"                                             \
    "  -q  do not report\n"
#define READ_HELP                                                                                    \
    "  -P  complain unless all bytes are this one\n"                                                 \
    "  -v  print the bytes\n" REPORT_HELP
#define WRITE_HELP                                                                                   \
    "  -P  the byte to write (0xcd)\n"                                                               \
    "  -f  durable when it is done\n" REPORT_HELP
#define ZERO_HELP                                                                                    \
    "  -z  write zeros without data\n"                                                               \
    "  -u  with -z: the space may be given up\n"

static const struct io_command commands[] = {
    {"abort", NULL, io_cmd_abort, 0, 0, IO_NO_FILE, NULL, "crashes the program", NULL},
    {"aio_flush", NULL, io_cmd_aio_flush, 0, 0, 0, NULL, "waits for all asynchronous requests", NULL},
    {"aio_read", NULL, io_cmd_aio_read, 2, -1, 0, "[-Ciqv] [-P pattern] off len [len..]",
     "begins to read, into a buffer a length",
     READ_HELP "  -i  nothing but a line of output\n"
               "Reports when it is done: at the latest with aio_flush.\n"},
    {"aio_write", NULL, io_cmd_aio_write, 2, -1, IO_WRITES,
     "[-Cfiquz] [-P pattern] off len [len..]", "begins to write, from a buffer a length",
     WRITE_HELP ZERO_HELP "  -i  nothing but a line of output\n"
                          "Reports when it is done: at the latest with aio_flush.\n"},
    {"alloc", "a", io_cmd_alloc, 1, 2, 0, "offset [count]",
     "tells how many bytes of a range the image holds", NULL},
    {"close", "c", io_cmd_close, 0, 0, 0, NULL, "closes the open file", NULL},
    {"discard", "d", io_cmd_discard, 2, -1, IO_WRITES, "[-Cq] off len", "gives up a range of bytes",
     REPORT_HELP},
    {"flush", "f", io_cmd_flush, 0, 0, 0, NULL, "makes all that was written durable", NULL},
    {"help", "?", io_cmd_help, 0, 1, IO_NO_FILE, "[command]", "prints the commands, or tells of one",
     NULL},
    {"info", "i", io_cmd_info, 0, 0, 0, NULL, "describes the open file", NULL},
    {"length", "l", io_cmd_length, 0, 0, 0, NULL, "prints the size of the disk", NULL},
    {"map", NULL, io_cmd_map, 0, 0, 0, "", "prints which ranges the image holds", NULL},
    {"open", "o", io_cmd_open, 1, -1, IO_NO_FILE,
     "[-rsCnkU] [-t cache] [-d discard] [-o options] [path]", "opens a file",
     "  -r  for reading\n"
     "  -s  write to a temporary overlay\n"
     "  -n  past the page cache, as -t none\n"
     "  -U  take no locks, and mind none\n"
     "  -t  the cache mode\n"
     "  -d  ignore or unmap\n"
     "  -o  options of the image, as behind --image-opts\n"
     "  -k, -i  known, without effect\n"},
    {"quit", "q", io_cmd_quit, 0, -1, IO_NO_FILE, NULL, "ends the program", NULL},
    {"read", "r", io_cmd_read, 2, -1, 0, "[-abCqv] [-P pattern [-s off] [-l len]] off len",
     "reads a range of bytes",
     "  -b  of the VM state instead of the disk\n"
     "  -s, -l  with -P: where in the range to begin, and how many bytes to look at\n"
     "  -p  known, without effect\n" READ_HELP},
    {"readv", NULL, io_cmd_readv, 2, -1, 0, "[-Cqv] [-P pattern] off len [len..]",
     "reads a range of bytes, into a buffer a length", READ_HELP},
    {"reopen", NULL, io_cmd_reopen, 0, -1, 0, "[(-r|-w)] [-c cache] [-o options]",
     "opens the open file anew",
     "  -r, -w  for reading, for writing\n"
     "  -c  with this cache mode\n"
     "  -o  with these options\n"},
    {"sigraise", NULL, io_cmd_sigraise, 1, 1, IO_NO_FILE, "signal", "raises a signal", NULL},
    {"sleep", NULL, io_cmd_sleep, 1, 1, IO_NO_FILE, NULL, "waits for so many milliseconds", NULL},
    {"truncate", "t", io_cmd_truncate, 1, 3, IO_WRITES, "[-m prealloc_mode] off",
     "changes the size of the disk", NULL},
    {"write", "w", io_cmd_write, 2, -1, IO_WRITES,
     "[-bcCfnquz] [-P pattern | -s source_file] off len", "writes a range of bytes",
     "  -b  of the VM state instead of the disk\n"
     "  -c  compressed\n"
     "  -s  a file whose bytes are written, over and over\n"
     "  -n  with -z: any length\n"
     "  -p  known, without effect\n" WRITE_HELP ZERO_HELP},
    {"writev", NULL, io_cmd_writev, 2, -1, IO_WRITES, "[-Cfq] [-P pattern] off len [len..]",
     "writes a range of bytes, from a buffer a length", WRITE_HELP},
};

#define N_COMMANDS (sizeof(commands) / sizeof(commands[0]))

static const struct io_command *find_command(const char *name)
{
    size_t i;

    for (i = 0; i < N_COMMANDS; i++)
        if (strcmp(name, commands[i].name) == 0 ||
            (commands[i].alias && strcmp(name, commands[i].alias) == 0))
            return &commands[i];
    return NULL;
}

/* ------------------------------------------------------------------- help --- */

static void print_usage(const struct io_command *cmd, const char *name)
{
    printf("%s ", name);
    if (cmd->args)
        printf("%s ", cmd->args);
    printf("-- %s\n", cmd->summary);
}

int io_usage(const struct io_command *cmd)
{
    print_usage(cmd, cmd->name);
    return -1;
}

static IO_COMMAND(help)
{
    const struct io_command *about;
    size_t i;

    (void)sh;
    (void)cmd;
    if (argc == 1) {
        for (i = 0; i < N_COMMANDS; i++)
            print_usage(&commands[i], commands[i].name);
        printf("\nUse 'help commandname' for extended help.\n");
        return 0;
    }
    about = find_command(argv[1]);
    if (!about) {
        printf("command %s not found\n", argv[1]);
        return -1;
    }
    print_usage(about, argv[1]);
    if (about->more)
        printf("\n%s\n", about->more);
    return 0;
}

/* --------------------------------------------- commands without a file --- */

static IO_COMMAND(quit)
{
    (void)cmd;
    (void)argc;
    (void)argv;
    sh->quit = true;
    return 0;
}

static IO_COMMAND(abort)
{
    (void)sh;
    (void)cmd;
    (void)argc;
    (void)argv;
    abort();
}

static IO_COMMAND(sigraise)
{
    uint64_t sig;

    (void)sh;
    (void)cmd;
    (void)argc;
    if (!io_parse_size(argv[1], &sig))
        return -1;
    if (sig > 64) {
        printf("signal argument '%s' is too large to be a valid signal\n", argv[1]);
        return -1;
    }
    fflush(stdout); /* what was printed is not lost with the process */
    raise((int)sig);
    return 0;
}

static IO_COMMAND(sleep)
{
    struct timespec ts;
    char *end;
    long ms;

    (void)sh;
    (void)cmd;
    (void)argc;
    errno = 0;
    ms = strtol(argv[1], &end, 0);
    if (errno || end == argv[1] || *end || ms < 0) {
        printf("%s is not a valid number\n", argv[1]);
        return -1;
    }
    ts.tv_sec = ms / 1000;
    ts.tv_nsec = ms % 1000 * 1000000;
    while (nanosleep(&ts, &ts) != 0 && errno == EINTR)
        continue;
    return 0;
}

/* -------------------------------------------------------------------- lines --- */

void io_getopt_start(void)
{
    optind = 0; /* begin anew, with another array */
    opterr = 1;
}

static bool count_fits(const struct io_command *cmd, const char *name, int n)
{
    if (n >= cmd->min && (cmd->max < 0 || n <= cmd->max))
        return true;
    fprintf(stderr, "bad argument count %d to %s, expected ", n, name);
    if (cmd->max < 0)
        fprintf(stderr, "at least %d arguments\n", cmd->min);
    else if (cmd->min == cmd->max)
        fprintf(stderr, "%d arguments\n", cmd->min);
    else
        fprintf(stderr, "between %d and %d arguments\n", cmd->min, cmd->max);
    return false;
}

static int run_command(struct io_shell *sh, int argc, char **argv)
{
    const struct io_command *cmd = find_command(argv[0]);

    if (!cmd) {
        fprintf(stderr, "command \"%s\" not found\n", argv[0]);
        return -1;
    }
    if (!(cmd->flags & IO_NO_FILE) && !sh->c) {
        fprintf(stderr, "no file open, try 'help open'\n");
        return -1;
    }
    if (!count_fits(cmd, argv[0], argc - 1))
        return -1;
    if ((cmd->flags & IO_WRITES) && !sh->writable) {
        fprintf(stderr, "%s: Block node is read-only\n", sh->t->prog);
        return -1;
    }
    return cmd->run(sh, cmd, argc, argv);
}

/* Words are what stands between blanks; nothing quotes them. */
void io_run_line(struct io_shell *sh, const char *line)
{
    char *copy = strdup(line), *rest = copy, *word;
    char **argv = calloc(strlen(line) + 2, sizeof(*argv));
    int argc = 0;

    if (!copy || !argv) {
        fprintf(stderr, "%s: out of memory\n", sh->t->prog);
        sh->failed = true;
    } else {
        while ((word = strsep(&rest, " ")) != NULL)
            if (*word)
                argv[argc++] = word;
        if (argc && run_command(sh, argc, argv) != 0)
            sh->failed = true;
    }
    free(argv);
    free(copy);
}
