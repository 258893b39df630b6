/* SPDX-License-Identifier: MIT */
/* tool_env.c - the policy, the environment, opening, and complaints. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tool.h"

void tool_complain(const struct tool *t, const char *format, ...)
{
    va_list ap;

    fflush(stdout);
    fprintf(stderr, "%s: ", t->prog);
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    fputc('\n', stderr);
}

void tool_complain_error(const struct tool *t)
{
    tool_complain(t, "%s", t->err ? qchain_error_message(t->err) : "out of memory");
}

static int load_policy(struct tool *t)
{
    const char *path = program_policy_file();

    if (!path || qchain_policy_load(t->policy, path, t->err) == 0)
        return 0;
    tool_complain_error(t);
    return t->verb->usage_exit;
}

int tool_start(struct tool *t, const struct tool_verb *verb)
{
    int status;

    memset(t, 0, sizeof(*t));
    t->verb = verb;
    snprintf(t->prog, sizeof(t->prog), "qchain-%s", verb->name);
    program_raise_file_limit();
    t->err = qchain_error_create();
    t->policy = qchain_policy_create();
    t->remote = qchain_remote_create();
    if (!t->err || !t->policy || !t->remote) {
        tool_complain(t, "out of memory");
        return verb->usage_exit;
    }
    if (verb->settings_later)
        return 0;
    status = load_policy(t);
    return status ? status : tool_load_remote(t);
}

/* The library's log, on request. */
static void log_line(void *data, int level, const char *tag, const char *message)
{
    static const char *const names[] = {"?", "error", "warning", "info", "debug"};

    fprintf(stderr, "%s: %s: %s: %s\n", (const char *)data,
            names[level >= 1 && level <= 4 ? level : 0], tag, message);
}

/* Without a request: what was asked for and cannot be had, though all works without. */
static void log_warning(void *data, int level, const char *tag, const char *message)
{
    if (level <= QCHAIN_LOG_WARN && strcmp(tag, "cache") == 0)
        log_line(data, level, tag, message);
}

int tool_make_env(struct tool *t)
{
    const char *debug = getenv("QCHAIN_DEBUG");
    qchain_env_opts o;

    qchain_env_opts_init(&o, sizeof(o));
    o.threads = t->threads;
    o.index_bytes = t->index_bytes;
    o.block_bytes = t->block_bytes;
    o.policy = t->policy;
    o.remote = t->remote;
    o.log = log_warning;
    o.log_data = t->prog;
    o.log_level = QCHAIN_LOG_WARN;
    if (debug && strcmp(debug, "1") == 0) {
        o.log = log_line;
        o.log_level = QCHAIN_LOG_DEBUG;
    }
    if (qchain_env_create(&t->env, &o, t->err) == 0)
        return 0;
    tool_complain_error(t);
    return -1;
}

int tool_prepare_open(struct tool *t, const char **name, uint32_t flags, qchain_open_opts *o,
                      char **owned)
{
    qchain_open_opts_init(o, sizeof(*o));
    o->flags = flags | (t->force_share ? (uint32_t)QCHAIN_OPEN_FORCE_SHARE : 0) |
               (t->no_index ? (uint32_t)QCHAIN_OPEN_NO_INDEX : 0);
    o->format = t->format;
    o->index = t->index;
    *owned = NULL;
    if (t->image_opts) {
        if (t->format) {
            tool_complain(t, "--image-opts and --format are mutually exclusive");
            return -1;
        }
        *owned = tool_image_opts(t, *name, &o->flags);
        if (!*owned)
            return -1;
        *name = *owned;
    }
    if (!(o->flags & QCHAIN_OPEN_WRITE))
        o->flags &= ~(uint32_t)(QCHAIN_OPEN_WRITETHROUGH | QCHAIN_OPEN_UNSAFE | QCHAIN_OPEN_DISCARD);
    return t->env ? 0 : tool_make_env(t);
}

void tool_warn_probed(const char *name)
{
    fprintf(stderr,
            "WARNING: Image format was not specified for '%s' and probing guessed raw.\n"
            "         Automatically detecting the format is dangerous for raw images, write operations "
            "on block 0 will be restricted.\n"
            "         Specify the 'raw' format explicitly to remove the restrictions.\n",
            name);
}

int tool_open(struct tool *t, const char *name, uint32_t flags, const char *snapshot,
              qchain **out)
{
    qchain_open_opts o;
    char *owned;
    int r = tool_prepare_open(t, &name, flags, &o, &owned);

    if (r == 0) {
        o.snapshot = snapshot;
        t->index = NULL;
        r = qchain_open(out, t->env, name, &o, t->err);
        if (r) {
            tool_complain_error(t);
            tool_open_hint(t, name);
        }
    }
    free(owned);
    return r ? -1 : 0;
}

bool tool_may_write(struct tool *t, const char *name)
{
    if (t->force_share)
        tool_complain(t, "Could not open '%s': force-share=on can only be used with read-only images",
                      tool_shown_name(t, name));
    return !t->force_share;
}

int tool_open_writable(struct tool *t, const char *name, uint32_t flags, qchain **out)
{
    qchain_image_info *i;

    if (!tool_may_write(t, name))
        return -1;
    if (tool_open(t, name, flags | QCHAIN_OPEN_WRITE, NULL, out) != 0)
        return -1;
    if (!t->format && !t->image_opts && qchain_layer_info(&i, *out, 0, t->err) == 0) {
        if (i->version == 0)
            tool_warn_probed(tool_shown_name(t, name));
        qchain_image_info_free(i);
    }
    return 0;
}

int tool_close_writable(struct tool *t, qchain *c)
{
    int r = qchain_finish(c, t->err);

    if (r)
        tool_complain_error(t);
    qchain_close(c);
    return r ? -1 : 0;
}

int tool_inspect(struct tool *t, const char *name, qchain_image_info **out)
{
    qchain_open_opts o;
    char *owned;
    int r = tool_prepare_open(t, &name, 0, &o, &owned);

    if (r == 0) {
        r = qchain_inspect(out, t->env, name, &o, t->err);
        if (r) {
            tool_complain_error(t);
            tool_open_hint(t, name);
        }
    }
    free(owned);
    return r ? -1 : 0;
}

int tool_check(struct tool *t, const char *name, qchain_check_opts *o, qchain_check_result *out)
{
    qchain_open_opts open;
    char *owned;
    int r = tool_prepare_open(t, &name, 0, &open, &owned) ? TOOL_CHECK_TOLD : 0;

    if (r == 0) {
        open.flags &= QCHAIN_OPEN_FORCE_SHARE | QCHAIN_OPEN_DIRECT;
        o->open = &open;
        r = qchain_check(t->env, name, o, out, t->err);
        o->open = NULL;
    }
    free(owned);
    return r;
}

int tool_index_info(struct tool *t, const char *name, qchain_index_info **out)
{
    qchain_open_opts o;
    char *owned;
    int r;

    if (tool_prepare_open(t, &name, 0, &o, &owned) != 0)
        return QCHAIN_E_INVAL;
    r = qchain_index_inspect(out, t->env, name, &o, t->err);
    if (r)
        tool_complain_error(t);
    free(owned);
    return r;
}

void tool_finish(struct tool *t)
{
    if (t->env && t->stats)
        tool_print_stats(t);
    qchain_env_destroy(t->env);
    qchain_policy_destroy(t->policy);
    qchain_remote_destroy(t->remote);
    free(t->shown);
    qchain_error_destroy(t->err);
}
