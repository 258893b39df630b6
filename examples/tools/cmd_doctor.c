/* SPDX-License-Identifier: MIT */
/* cmd_doctor.c - look at what programs that use the library depend on here, and at one image. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "doctor.h"

#define COLUMNS 80

enum { OPT_OUTPUT = TOOL_OPT_BASE };

static const struct option doctor_options[] = {
    {"format", required_argument, NULL, 'f'},
    {"output", required_argument, NULL, OPT_OUTPUT},
    {NULL, 0, NULL, 0},
};

static const char *const results[] = {"ok", "note", "problem"};

const char *doctor_message(const struct doctor *d)
{
    return d->t->err ? qchain_error_message(d->t->err) : "out of memory";
}

/* From column `from` on; on a terminal lines are broken between words. */
static void put_text(struct doctor *d, size_t from, const char *text)
{
    size_t at = from, n;

    for (; *text; text += n) {
        n = strcspn(text + 1, " ") + 1; /* a word, with the blank before it */
        if (d->terminal && at > from && at + n >= COLUMNS) {
            tool_out_char(&d->out, '\n');
            tool_out_fill(&d->out, ' ', (unsigned)from - 1);
            at = from - 1;
        }
        tool_out_mem(&d->out, text, n);
        at += n;
    }
    tool_out_char(&d->out, '\n');
}

static void put_human(struct doctor *d, enum doctor_result r, const char *check, const char *advice,
                      const char *text)
{
    static const char *const colours[] = {"\033[32m", "\033[33m", "\033[31m"};
    char lead[64];

    tool_out_str(&d->out, d->colour ? colours[r] : "");
    snprintf(lead, sizeof(lead), "%-9s", results[r]);
    tool_out_str(&d->out, lead);
    tool_out_str(&d->out, d->colour ? "\033[0m" : "");
    snprintf(lead, sizeof(lead), "%-15s", check);
    tool_out_str(&d->out, lead);
    put_text(d, 24, text);
    if (advice) {
        tool_out_str(&d->out, "         -> ");
        put_text(d, 12, advice);
    }
    tool_out_flush(&d->out); /* the next one may take its time */
}

static void put_json(struct doctor *d, enum doctor_result r, const char *check, const char *advice,
                     const char *text)
{
    tool_json_open(&d->j, NULL, false);
    tool_json_str(&d->j, "check", check);
    tool_json_str(&d->j, "result", results[r]);
    tool_json_str(&d->j, "text", text);
    if (advice)
        tool_json_str(&d->j, "advice", advice);
    tool_json_close(&d->j);
}

void doctor_say(struct doctor *d, enum doctor_result r, const char *check, const char *advice, const char *format,
                ...)
{
    char *text;
    va_list ap;
    int n;

    va_start(ap, format);
    n = vasprintf(&text, format, ap);
    va_end(ap);
    d->problems += r == DOCTOR_PROBLEM;
    (d->t->output == TOOL_JSON ? put_json : put_human)(d, r, check, advice, n < 0 ? "out of memory" : text);
    if (n >= 0)
        free(text);
}

static int examine(struct doctor *d, const char *name)
{
    bool json = d->t->output == TOOL_JSON;
    const char *term = getenv("TERM"), *plain = getenv("NO_COLOR");

    if (!tool_out_init(&d->out, STDOUT_FILENO)) {
        tool_complain(d->t, "out of memory");
        return 1;
    }
    d->terminal = isatty(STDOUT_FILENO);
    d->colour = d->terminal && term && strcmp(term, "dumb") != 0 && !(plain && *plain);
    tool_json_init(&d->j, &d->out);
    if (json) {
        tool_json_open(&d->j, NULL, false);
        tool_json_open(&d->j, "checks", true);
    }
    doctor_host(d);
    doctor_settings(d);
    if (name)
        doctor_image(d, name);
    if (json) {
        tool_json_close(&d->j);
        tool_json_u64(&d->j, "problems", d->problems);
        tool_json_close(&d->j);
    }
    return tool_out_finish(d->t, &d->out) != 0 || d->problems ? 1 : 0;
}

static int examine_args(struct doctor *d, int argc, char **argv)
{
    struct tool *t = d->t;
    int c;

    while ((c = tool_getopt(t, argc, argv, "f:", doctor_options)) != TOOL_END) {
        switch (c) {
        case 'f':
            t->format = optarg;
            break;
        case OPT_OUTPUT:
            if (!tool_parse_output(t, optarg, false))
                return 2;
            break;
        default:
            return t->status;
        }
    }
    if (argc - optind > 1)
        return tool_usage_error(t, "Expecting one image file name at most");
    /* nothing is kept of what it reads */
    qchain_remote_destroy(t->remote);
    t->remote = d->harmless;
    d->harmless = NULL;
    if (tool_make_env(t) != 0)
        return 2;
    return examine(d, argv[optind]);
}

static int run_doctor(struct tool *t, int argc, char **argv)
{
    struct doctor d = {.t = t};
    int status = doctor_load(&d) == 0 ? examine_args(&d, argc, argv) : 2;

    doctor_unload(&d);
    return status;
}

const struct tool_verb tool_verb_doctor = {
    .name = "doctor",
    .run = run_doctor,
    .synopsis = "[options] [IMG]",
    .help = "  -f, --format FMT        the format of IMG: qcow2, raw\n"
            "  --output=FORMAT         human (default) or json\n"
            "Exits with 1 if there is a problem. Shows no secrets, and changes nothing.\n",
    .usage_exit = 2,
    .settings_later = true,
};
