/* SPDX-License-Identifier: MIT */
/*
 * tool.h - what the verbs of the program `qchain` share. The tools use nothing of
 * the library but <qchain.h>. What other programs want, too, is in ../common.
 */
#ifndef QCHAIN_TOOL_H
#define QCHAIN_TOOL_H

#include <getopt.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <qchain.h>

#include "program.h"

struct stat;
struct tool;

/* One verb. */
struct tool_verb {
    const char *name;
    int (*run)(struct tool *t, int argc, char **argv);
    const char *synopsis; /* behind "usage: qchain-VERB " */
    const char *help;     /* its own options, a line each */
    int usage_exit;       /* exit code of a wrong command line */
    bool alone;           /* a program of its own, not a part of `qchain` */
    bool settings_later;  /* reads the policy and the rules for URLs itself */
};

enum tool_stats { TOOL_STATS_NONE, TOOL_STATS_TEXT, TOOL_STATS_JSON };
enum tool_progress { TOOL_PROGRESS_NONE, TOOL_PROGRESS_TEXT, TOOL_PROGRESS_JSON };
enum tool_format { TOOL_HUMAN, TOOL_JSON, TOOL_JSON_FULL };

enum tool_setting { TOOL_RULES, TOOL_RULES_FILE, TOOL_CACHE_DIR };

/* One run of a verb: the options all verbs have, and what they lead to. */
struct tool {
    const struct tool_verb *verb;
    char prog[32];         /* "qchain-map" */
    int status;            /* exit code, once tool_getopt answered TOOL_STOP */
    const char *format;    /* -f */
    bool force_share;      /* -U */
    bool image_opts;       /* --image-opts */
    bool quiet;            /* -q */
    bool no_index;         /* --no-index */
    const char *index;     /* --index, of the first image that is opened */
    const char *cache_dir; /* --cache-dir, or NULL */
    const char *record;    /* --record, of the first image that is opened; NULL from then on */
    qchain *recorded;      /* the chain whose reads are recorded, or NULL */
    enum tool_format output;
    enum tool_stats stats;
    enum tool_progress progress;
    uint32_t threads;
    uint64_t index_bytes, block_bytes; /* budgets; 0 = the library's */
    qchain_policy *policy;
    qchain_remote *remote;
    char *shown;           /* what tool_shown_name answered last */
    /* who wants to know of --remote, --remote-config and --cache-dir, or NULL */
    void (*saw_setting)(void *data, enum tool_setting kind, const char *value);
    void *saw_data;
    char **words;          /* of --complete: n_words that are to be completed, nothing is to be done */
    int n_words;
    qchain_env *env;
    qchain_error *err;
};

extern const struct tool_verb tool_verb_map, tool_verb_info, tool_verb_inspect, tool_verb_read,
    tool_verb_compare, tool_verb_diff, tool_verb_checksum, tool_verb_convert, tool_verb_index,
    tool_verb_cache, tool_verb_bench, tool_verb_check, tool_verb_create, tool_verb_measure,
    tool_verb_amend, tool_verb_resize, tool_verb_io, tool_verb_write, tool_verb_snapshot, tool_verb_bitmap,
    tool_verb_dd, tool_verb_rebase, tool_verb_commit, tool_verb_stream, tool_verb_merge, tool_verb_delete,
    tool_verb_prefetch, tool_verb_trace, tool_verb_explain, tool_verb_doctor;

/* ---- command line (tool_opts.c) ---- */

enum {
    TOOL_END = -1,  /* no more options */
    TOOL_STOP = -2, /* leave with t->status */

    /* what a verb's own long options may be called, beyond characters */
    TOOL_OPT_BASE = 256
};

/* getopt_long with the shared options handled: returns the verb's next option, or
 * TOOL_END, or TOOL_STOP. shorts and longs are the verb's own. */
int tool_getopt(struct tool *t, int argc, char **argv, const char *shorts,
                const struct option *longs);
/* Complain about the command line; returns the exit code. */
int tool_usage_error(struct tool *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Parse the value of --output; false after a complaint. */
bool tool_parse_output(struct tool *t, const char *value, bool with_full);
/* Is it the name of a cache mode? */
bool tool_known_cache(const char *mode);
/* Print the help of one verb; what all have in it. */
void tool_print_help(const struct tool_verb *v);
extern const char tool_shared_help[];

/* ---- completion for shells (tool_complete.c) ---- */

/* Print what the last of the n words behind a verb could be; the exit code. */
int tool_complete(const struct tool_verb *verb, int n, char **words);
/* The part of it that knows the options. */
void tool_complete_options(const struct tool *t, const char *shorts, const struct option *longs);

/* ---- sizes (tool_size.c) ---- */

enum tool_size_result { TOOL_SIZE_OK, TOOL_SIZE_BAD, TOOL_SIZE_RANGE };

/* A number with an optional suffix (b k M G T P E, fractions, 0x), without complaints. */
enum tool_size_result tool_size_value(const char *text, uint64_t *out);
/* The same, at most INT64_MAX.
 * Complains and returns false. what: for the complaint. */
bool tool_parse_size(struct tool *t, const char *what, const char *text, uint64_t *out);
/* A plain number from min to max, the same way. */
bool tool_parse_number(struct tool *t, const char *what, const char *text, uint64_t min,
                       uint64_t max, uint64_t *out);
/* "1.5 GiB", as qemu-img rounds it. */
void tool_size_text(char *buf, size_t size, uint64_t bytes);

/* ---- environment, opening, complaints (tool_env.c) ---- */

/* Set up and free what t points to; tool_start answers 0 or an exit code. */
int tool_start(struct tool *t, const struct tool_verb *verb);
void tool_finish(struct tool *t);
/* Print "qchain-verb: text". */
void tool_complain(const struct tool *t, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Print the library's last message the same way. */
void tool_complain_error(const struct tool *t);
/* Make the environment, once the options are known. */
int tool_make_env(struct tool *t);
/* Open a chain or inspect an image by the name the user gave, with -f, -U and
 * --image-opts minded; 0, or -1 after a complaint. flags: QCHAIN_OPEN_*. */
int tool_open(struct tool *t, const char *name, uint32_t flags, const char *snapshot,
              qchain **out);
/* The name and options to open by, for those who call the library themselves; *owned receives what to
 * free. 0, or -1 after a complaint. */
int tool_prepare_open(struct tool *t, const char **name, uint32_t flags, qchain_open_opts *o,
                      char **owned);
/* Say that an image to be written was taken as raw because it looks like nothing else. */
void tool_warn_probed(const char *name);
/* False after a complaint: with -U nothing is written. */
bool tool_may_write(struct tool *t, const char *name);
/* Open the top for writing; and end writing, and close. The same answers. */
int tool_open_writable(struct tool *t, const char *name, uint32_t flags, qchain **out);
int tool_close_writable(struct tool *t, qchain *c);
int tool_inspect(struct tool *t, const char *name, qchain_image_info **out);
/* Check or mend an image by the name the user gave; o has its flags, and gets what opening wants. 0, or a
 * QCHAIN_E_* of which nothing was said yet, or TOOL_CHECK_TOLD. */
#define TOOL_CHECK_TOLD 1
int tool_check(struct tool *t, const char *name, qchain_check_opts *o, qchain_check_result *out);
/* What the image's sidecar index says; 0, or a QCHAIN_E_* after a complaint. */
int tool_index_info(struct tool *t, const char *name, qchain_index_info **out);

/* ---- tool_overlay.c ---- */

/* Allow layers beside the image behind a URL. False after a complaint. */
bool tool_allow_beside(struct tool *t, const char *url);
/* Open the image called name, whose backing file is that URL, for writing; make it if it is not there. 0, or -1 after a
 * complaint. */
int tool_open_overlay(struct tool *t, const char *name, const char *url, qchain **out);
/* "driver=raw,file.filename=x" as a json: name; flags receives QCHAIN_OPEN_* that the
 * options ask for. NULL after a complaint. */
char *tool_image_opts(struct tool *t, const char *text, uint32_t *flags);

/* ---- hints (tool_hint.c) ---- */

/* How many letters must be put in, left out, changed, or swapped with the next one to make b of a. */
unsigned tool_distance(const char *a, const char *b);
/* Complain about an option that is none, with the nearest one; returns the exit code. */
int tool_unrecognized(struct tool *t, const char *option, const struct option *longs);
/* What can be done about an image that did not open, behind the complaint. */
void tool_open_hint(struct tool *t, const char *name);
/* Is the file of this layer missing, and not another that it needs? false also if nobody can tell. */
bool tool_layer_missing(struct tool *t, const char *name, int64_t layer);

/* ---- URLs (tool_remote.c) ---- */

/* Read the file with settings that is for all runs; 0 or an exit code. */
int tool_load_remote(struct tool *t);
/* Take a directory as the disk cache; 0, or -1 after a complaint. */
int tool_remote_dir(struct tool *t, const char *dir);
/* A name the user gave, for people to see: without passwords and queries of URLs. Valid until the next
 * call. */
const char *tool_shown_name(struct tool *t, const char *name);
/* A name as an image records it: its bytes, unless they are a URL's, which may hold a secret: then as the
 * library shows it. */
const char *tool_as_recorded(const char *raw, const char *shown);

/* ---- statistics (tool_stats.c) ---- */

void tool_print_stats(const struct tool *t);

/* ---- output (tool_out.c) ---- */

/* Buffered output to a descriptor; text that is not worth a printf a field. */
struct tool_out {
    int fd;
    int error; /* errno of the first failed write */
    size_t len;
    size_t cap;
    char *buf;
};

bool tool_out_init(struct tool_out *o, int fd);
void tool_out_flush(struct tool_out *o);
/* Flush, free; -1 if anything could not be written. */
int tool_out_finish(struct tool *t, struct tool_out *o);
void tool_out_mem(struct tool_out *o, const void *p, size_t n);
void tool_out_str(struct tool_out *o, const char *s);
void tool_out_char(struct tool_out *o, char c);
void tool_out_u64(struct tool_out *o, uint64_t v);
/* "0x1000", padded with blanks on the right to width. */
void tool_out_hex(struct tool_out *o, uint64_t v, unsigned width);
void tool_out_fill(struct tool_out *o, char c, unsigned n);
/* A quoted JSON string, ASCII only; bytes that are not UTF-8 become \uFFFD. */
void tool_out_json_str(struct tool_out *o, const char *s);

/* ---- structured output (tool_json.c) ---- */

#define TOOL_JSON_DEPTH 16

/* Writes one tree of facts as indented JSON, or as qemu-img's indented text. */
struct tool_json {
    struct tool_out *out;
    bool human;
    bool comma;
    unsigned depth;
    uint32_t list_bits;                 /* which levels are lists */
    unsigned next_item[TOOL_JSON_DEPTH]; /* of a list, for human text */
};

void tool_json_init(struct tool_json *j, struct tool_out *out);
void tool_json_init_human(struct tool_json *j, struct tool_out *out);
/* key is NULL within lists and at the top. */
void tool_json_open(struct tool_json *j, const char *key, bool list);
void tool_json_close(struct tool_json *j);
void tool_json_str(struct tool_json *j, const char *key, const char *value);
void tool_json_u64(struct tool_json *j, const char *key, uint64_t value);
void tool_json_bool(struct tool_json *j, const char *key, bool value);

/* What only qcow2 images say of themselves (cmd_info.c). */
void tool_put_qcow2(struct tool_json *j, const qchain_image_info *i);

/* The table of internal snapshots; nothing if there is none that could be used. */
void tool_put_snapshots(struct tool_out *o, const qchain_image_info *i);

/* ---- extents (tool_extent.c) ---- */

/* Takes merged neighbours, one at a time; last says that none follows. A result that
 * is not 0 ends it. */
typedef int (*tool_extent_fn)(void *data, const qchain_extent *e, bool last);

/* Joins extents that qemu-img would print as one. */
struct tool_merge {
    qchain_extent current;
    bool any;     /* current holds something */
    bool as_text; /* zeros of all kinds are alike */
    bool keep;    /* leave each compressed cluster alone */
    tool_extent_fn put;
    void *data;
};

int tool_merge_add(struct tool_merge *m, qchain_extent e);
int tool_merge_end(struct tool_merge *m);
/* The merged extents of a range of a chain, or what differs between two of its
 * layers if below is not 0. Complains; -1 if it could not be read, else what put
 * answered. */
int tool_merge_range(struct tool *t, struct tool_merge *m, qchain *c, uint64_t offset,
                     uint64_t end, uint32_t below, uint32_t upto);
/* "true" or "false" */
const char *tool_bool(bool value);
/* Print one extent as a line of JSON, without what separates it from the next. */
void tool_extent_json(struct tool_out *o, const qchain_extent *e);
void tool_extent_json_full(struct tool_out *o, const qchain *c, const qchain_extent *e);

/* ---- long operations (tool_job.c) ---- */

/* A long call that SIGINT, SIGTERM and SIGHUP cancel, with its progress. */
struct tool_job {
    qchain_job *job;
    enum tool_progress progress;
    int fd; /* where progress goes */
    bool eta; /* tell how long it will take */
    double began; /* seconds */
    bool running;
    bool stop;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
};

/* exit_at_once: leave within the handler; for output that can block for ever.
 * 0, or -1 after a complaint. */
int tool_job_start(struct tool *t, struct tool_job *j, int fd, bool exit_at_once);
/* done: show that all is done. */
void tool_job_finish(struct tool_job *j, bool done);
/* The exit code for the library's answer r: 0; 128 + the signal, after saying so; or `other`
 * after its message. */
int tool_job_status(const struct tool *t, int r, int other);

/* ---- traces (tool_trace.c) ---- */

/* Record what is read of c, if it is the first and --record was given; and end that, if it is the one. 0, or -1 after
 * a complaint. */
int tool_record_start(struct tool *t, qchain *c);
int tool_record_stop(struct tool *t, qchain *c);
/* Read traces as one; says which was cut off. 0, or not, of which nothing was said yet; o may be NULL. */
int tool_load_traces(struct tool *t, const char *const *names, uint32_t n, const qchain_trace_load_opts *o,
                     qchain_trace **out);

/* ---- layers (tool_layer.c) ---- */

/* A layer by number or name, up to max; false after a complaint. */
bool tool_find_layer(struct tool *t, qchain *c, const char *text, uint32_t max, uint32_t *out);

/* ---- options of new images (tool_create.c) ---- */

enum tool_create_key {
    TOOL_KEY_BACKING_FILE,
    TOOL_KEY_BACKING_FORMAT,
    TOOL_KEY_CLUSTER_SIZE,
    TOOL_KEY_COMPAT,
    TOOL_KEY_COMPRESSION,
    TOOL_KEY_DATA_FILE,
    TOOL_KEY_DATA_FILE_RAW,
    TOOL_KEY_EXTENDED_L2,
    TOOL_KEY_LAZY_REFCOUNTS,
    TOOL_KEY_PREALLOCATION,
    TOOL_KEY_REFCOUNT_BITS,
    TOOL_KEY_SIZE,
    TOOL_N_KEYS
};

/* What -o and its like ask for. */
struct tool_create {
    const char *name;     /* of the image, for complaints; "" for none */
    qchain_create_opts o; /* format must be set before options are parsed; size UINT64_MAX: not given */
    uint32_t given;       /* bits of enum tool_create_key */
    bool help;            /* "help" was among them */
    char *text[TOOL_N_KEYS];
};

void tool_create_init(struct tool_create *c, const char *name);
void tool_create_finish(struct tool_create *c);
/* Add what a list "KEY=VALUE,..." says; a comma within a value is written twice. 0, or -1 after a complaint. amend:
 * those that an image can change. */
int tool_create_parse(struct tool *t, struct tool_create *c, const char *list, bool amend);
/* Print what a list may say. */
void tool_create_help(const char *format, bool amend);
/* Print "Formatting 'x', fmt=..." as qemu-img does. */
void tool_create_print(const struct tool_create *c);

/* ---- several disks as one (tool_join.c) ---- */

/* n > 0 disks, one behind the other; they become part of it, also when it fails. 0, or -1 after a complaint. */
int tool_join(struct tool *t, qchain **part, uint32_t n, qchain **out);

/* ---- where copied bytes go (tool_sink.c) ---- */

struct tool_sink {
    int fd;
    const char *name;   /* for complaints */
    bool created;       /* we made the file: ours to remove */
    bool emptied;       /* it was there, and we made it empty */
    bool seekable;      /* written in any order; else a stream */
    bool regular;
    bool is_zero;       /* reads as zeros before anything is written */
    uint64_t base;      /* where in the file the copy begins */
    uint64_t first;     /* the disk's offset that goes there */
    uint64_t old_size;  /* of the file, when it was opened */
    uint64_t min_zeros; /* look for stored zeros, this many bytes at least; 0 = no */
    bool fill;          /* write zeros instead of leaving them out */
    int error;          /* errno of the first failure, and where it was */
    uint64_t error_at;
    pthread_mutex_t lock;
};

enum tool_sink_flags {
    TOOL_SINK_EXISTING = 0x1, /* write into what is there */
    TOOL_SINK_DSYNC = 0x2     /* every write reaches the medium */
};

/* Is a file one that c is made of? */
bool tool_is_layer(qchain *c, const struct stat *target);
/* Open the target, "-" being standard output. Refuses files that c is made of. 0, or
 * -1 after a complaint. */
int tool_sink_open(struct tool *t, struct tool_sink *s, const char *name, qchain *c,
                   unsigned flags);
/* Copy the range that o names; answers what qchain_copy_out did. */
int tool_sink_copy(struct tool *t, struct tool_sink *s, qchain *c, qchain_copy_opts *o);
/* Complain about the copy that answered r; the exit code. */
int tool_sink_status(struct tool *t, const struct tool_sink *s, int r);
/* Close it. status 0: give it its size, and with sync make it durable; else remove
 * what is ours. Answers the exit code. */
int tool_sink_close(struct tool *t, struct tool_sink *s, uint64_t length, bool sync, int status);

#endif
