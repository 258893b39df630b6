/* SPDX-License-Identifier: MIT */
/*
 * io.h - what the files of the I/O shell share. Commands and what they print are those of qemu-io, so
 * that scripts written for it run unchanged; what is not in a script's way has words of its own.
 */
#ifndef QCHAIN_TOOL_IO_H
#define QCHAIN_TOOL_IO_H

#include <qchain-backend.h>

#include "tool.h"

#define IO_MAX_BYTES UINT64_C(2147483136) /* of one request */
#define IO_SECTOR 512

/* How the image that is open was asked for, for reopening it. */
struct io_how {
    char *name;        /* a path, or the text of --image-opts */
    char *shown;       /* what complaints call it; NULL: nothing */
    char *format;      /* NULL: probed */
    uint32_t flags;    /* QCHAIN_OPEN_* but WRITE and FORCE_SHARE */
    bool image_opts;
    bool read_only;
    bool force_share;
    bool snapshot;       /* write to a temporary overlay */
    bool ignore_discard; /* discards succeed and do nothing */
    bool copy_on_read;
};

struct io_request;

struct io_shell {
    struct tool *t;
    qchain *c;           /* NULL: no file is open */
    qchain_queue *queue; /* made at the first asynchronous request */
    struct io_request *refused; /* could not be begun, and not told yet */
    struct io_how how;
    bool writable;
    bool guard;          /* the format was probed as raw: sector 0 must stay so */
    bool failed;         /* some command did */
    bool quit;
};

enum io_command_flags {
    IO_NO_FILE = 0x1, /* works without an open file */
    IO_WRITES = 0x2   /* needs one that is open for writing */
};

struct io_command {
    const char *name;
    const char *alias; /* or NULL */
    int (*run)(struct io_shell *sh, const struct io_command *cmd, int argc, char **argv);
    int min, max;      /* arguments; max -1: any number */
    unsigned flags;
    const char *args;
    const char *summary;
    const char *more;  /* of the long help; or NULL */
};

/* ---- the shell (io_command.c) ---- */

/* Run one line; the command's complaint and sh->failed tell how it went. */
void io_run_line(struct io_shell *sh, const char *line);
/* Print how a command is called; always -1. */
int io_usage(const struct io_command *cmd);
/* getopt on the arguments of a command, from its first one on. */
void io_getopt_start(void);

/* ---- numbers in, reports out (io_text.c) ---- */

/* A size with a suffix; false after a complaint. */
bool io_parse_size(const char *text, uint64_t *out);
bool io_parse_pattern(const char *text, int *out);
/* "64 KiB" */
void io_size_text(char *buf, size_t size, double bytes);
/* Monotonic seconds. */
double io_now(void);
/* How a request is to be reported. */
struct io_report {
    bool machine; /* -C */
    bool quiet;   /* -q */
    bool dump;    /* -v */
};
void io_print_report(const struct io_report *how, const char *verb, double seconds, uint64_t offset,
                     uint64_t bytes);
void io_dump(const unsigned char *buf, uint64_t offset, uint64_t length);
/* Are the bytes all the pattern? */
bool io_is_pattern(const unsigned char *buf, uint64_t length, int pattern);
/* The errno that stands for the library's answer r. */
int io_errno(const struct io_shell *sh, int r);
/* "read failed: ..."; always -1. */
int io_failed(struct io_shell *sh, const char *verb, int r);

/* ---- buffers (io_buffer.c) ---- */

/* Lengths from arguments as pieces of one buffer. */
struct io_pieces {
    unsigned char *buf;
    qchain_iov *iov;
    uint32_t n;
    uint64_t bytes;
};

/* false after a complaint. fill: what the bytes are set to. */
bool io_pieces_make(struct io_pieces *p, char **lengths, int n, int fill);
void io_pieces_free(struct io_pieces *p);
/* A buffer of at least one byte, filled; NULL after a complaint. */
unsigned char *io_buffer(uint64_t length, int fill);
/* The same, filled with the bytes of a file over and over. */
unsigned char *io_buffer_from(const char *name, uint64_t length);

/* ---- opening (io_open.c) ---- */

/* Open what sh->how says; -1 after a complaint. */
int io_open_image(struct io_shell *sh);
/* Finish what is under way and close; -1 after a complaint. */
int io_close_image(struct io_shell *sh);
void io_how_free(struct io_how *how);
/* false for an unknown mode. */
bool io_set_discard(struct io_how *how, const char *mode);
bool io_known_aio(const char *mode);

/* ---- asynchronous requests (io_aio.c) ---- */

/* Wait for all of them and report. */
void io_aio_drain(struct io_shell *sh);

/* ---- the commands ---- */

#define IO_COMMAND(name)                                                                             \
    int io_cmd_##name(struct io_shell *sh, const struct io_command *cmd, int argc, char **argv)

IO_COMMAND(aio_flush);
IO_COMMAND(aio_read);
IO_COMMAND(aio_write);
IO_COMMAND(alloc);
IO_COMMAND(close);
IO_COMMAND(discard);
IO_COMMAND(flush);
IO_COMMAND(info);
IO_COMMAND(length);
IO_COMMAND(map);
IO_COMMAND(open);
IO_COMMAND(read);
IO_COMMAND(readv);
IO_COMMAND(reopen);
IO_COMMAND(truncate);
IO_COMMAND(write);
IO_COMMAND(writev);

#endif
