/* SPDX-License-Identifier: MIT */
/* tool_opts.c - the options that all verbs share, and complaints about the rest. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "tool.h"

enum shared_option {
    OPT_ALLOW_PATH = 1024,
    OPT_BACKING_FORMAT,
    OPT_TRUST,
    OPT_THREADS,
    OPT_STATS,
    OPT_PROGRESS,
    OPT_IMAGE_OPTS,
    OPT_OBJECT,
    OPT_NO_INDEX,
    OPT_INDEX,
    OPT_REMOTE,
    OPT_REMOTE_CONFIG,
    OPT_CACHE_DIR,
    OPT_ALLOW_URL
};

static const struct option shared_options[] = {
    {"help", no_argument, NULL, 'h'},
    {"allow-path", required_argument, NULL, OPT_ALLOW_PATH},
    {"backing-format", required_argument, NULL, OPT_BACKING_FORMAT},
    {"trust", no_argument, NULL, OPT_TRUST},
    {"threads", required_argument, NULL, OPT_THREADS},
    {"stats", optional_argument, NULL, OPT_STATS},
    {"progress", required_argument, NULL, OPT_PROGRESS},
    {"image-opts", no_argument, NULL, OPT_IMAGE_OPTS},
    {"object", required_argument, NULL, OPT_OBJECT},
    {"force-share", no_argument, NULL, 'U'},
    {"no-index", no_argument, NULL, OPT_NO_INDEX},
    {"index", required_argument, NULL, OPT_INDEX},
    {"remote", required_argument, NULL, OPT_REMOTE},
    {"remote-config", required_argument, NULL, OPT_REMOTE_CONFIG},
    {"cache-dir", required_argument, NULL, OPT_CACHE_DIR},
    {"allow-url", required_argument, NULL, OPT_ALLOW_URL},
};

#define N_SHARED (sizeof(shared_options) / sizeof(shared_options[0]))
#define MAX_OPTIONS 48

const char tool_shared_help[] =
    "  --image-opts            IMG is driver=...,file.filename=...\n"
    "  -U, --force-share       take no locks, and mind none\n"
    "  --allow-path DIR, --allow-url URL  allow layers beneath DIR, URL (repeatable)\n"
    "  --backing-format FMT    the format of backing files that record none\n"
    "  --trust                 follow every reference that an image makes\n"
    "  --index FILE, --no-index  the sidecar index of IMG (IMG.qci); use none\n"
    "  --remote RULE, --remote-config FILE  how to reach URLs, see qchain-remote(5)\n"
    "  --cache-dir DIR         keep what was read from URLs in DIR\n"
    "  --threads N             use N threads (default: one a processor)\n"
    "  --stats[=text|json], -h  tell what was done; print this. See qchain(1), too\n";

void tool_print_help(const struct tool_verb *v)
{
    printf("usage: qchain%c%s %s\n%s%s", v->alone ? '-' : ' ', v->name, v->synopsis, v->help, tool_shared_help);
}

int tool_usage_error(struct tool *t, const char *format, ...)
{
    char text[512];
    va_list ap;

    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    tool_complain(t, "%s", text);
    fprintf(stderr, "Try '%s --help' for more information\n", t->prog);
    return t->verb->usage_exit;
}

static int stop(struct tool *t, int status)
{
    t->status = status;
    return TOOL_STOP;
}

/* A call on the policy or the settings: goes on, or stops with the library's complaint. */
static int call_result(struct tool *t, int r)
{
    if (r == 0)
        return 0;
    tool_complain_error(t);
    return stop(t, t->verb->usage_exit);
}

static int rule_result(struct tool *t, int r)
{
    int status = call_result(t, r);

    if (status)
        fprintf(stderr, "The rules are described in qchain-remote(5)\n");
    return status;
}

/* A setting for URLs that holds now: r as it is, after who wants to know was told. */
static int setting_result(struct tool *t, int r, enum tool_setting kind, const char *value)
{
    if (r == 0 && t->saw_setting)
        t->saw_setting(t->saw_data, kind, value);
    return r;
}

static int parse_stats(struct tool *t, const char *value)
{
    if (!value || strcmp(value, "text") == 0)
        t->stats = TOOL_STATS_TEXT;
    else if (strcmp(value, "json") == 0)
        t->stats = TOOL_STATS_JSON;
    else
        return stop(t, tool_usage_error(t, "--stats must be used with text or json"));
    return 0;
}

static int parse_progress(struct tool *t, const char *value)
{
    if (strcmp(value, "text") == 0)
        t->progress = TOOL_PROGRESS_TEXT;
    else if (strcmp(value, "json") == 0)
        t->progress = TOOL_PROGRESS_JSON;
    else
        return stop(t, tool_usage_error(t, "--progress must be used with text or json"));
    return 0;
}

/* 0: done, go on; TOOL_STOP; or 1: not a shared option. */
static int shared_option(struct tool *t, int c, const char *value)
{
    uint64_t n;

    switch (c) {
    case 'h':
        tool_print_help(t->verb);
        return stop(t, 0);
    case 'U':
        t->force_share = true;
        return 0;
    case OPT_IMAGE_OPTS:
        t->image_opts = true;
        return 0;
    case OPT_ALLOW_PATH:
        return call_result(t, qchain_policy_allow_path(t->policy, value, t->err));
    case OPT_BACKING_FORMAT:
        return call_result(t, qchain_policy_backing_format(t->policy, value, t->err));
    case OPT_TRUST:
        return call_result(t, qchain_policy_allow(t->policy, QCHAIN_POLICY_TRUST, t->err));
    case OPT_ALLOW_URL:
        return call_result(t, qchain_policy_allow_url(t->policy, value, t->err));
    case OPT_REMOTE:
        return setting_result(t, rule_result(t, qchain_remote_parse(t->remote, value, t->err)), TOOL_RULES, value);
    case OPT_REMOTE_CONFIG:
        return setting_result(t, call_result(t, qchain_remote_load(t->remote, value, t->err)), TOOL_RULES_FILE,
                              value);
    case OPT_CACHE_DIR:
        t->cache_dir = value;
        if (tool_remote_dir(t, value) != 0)
            return stop(t, t->verb->usage_exit);
        return setting_result(t, 0, TOOL_CACHE_DIR, value);
    case OPT_THREADS:
        if (!tool_parse_number(t, "number of threads", value, 1, 256, &n))
            return stop(t, t->verb->usage_exit);
        t->threads = (uint32_t)n;
        return 0;
    case OPT_NO_INDEX:
        t->no_index = true;
        return 0;
    case OPT_INDEX:
        t->index = value;
        return 0;
    case OPT_STATS:
        return parse_stats(t, value);
    case OPT_PROGRESS:
        return parse_progress(t, value);
    case OPT_OBJECT:
        tool_complain(t, "option --object is not supported: encrypted images and other objects "
                         "are not known to this version");
        return stop(t, t->verb->usage_exit);
    default:
        return 1;
    }
}

/* The verb's long options and the shared ones. */
static void join_options(const struct option *own, struct option *all)
{
    size_t n = 0, i;

    while (own && own->name && n < MAX_OPTIONS - N_SHARED - 1)
        all[n++] = *own++;
    for (i = 0; i < N_SHARED; i++)
        all[n++] = shared_options[i];
    memset(&all[n], 0, sizeof(all[n]));
}

/* getopt refused an option: the word it stood in is done with, unless it is one letter of several. */
static int unrecognized(struct tool *t, char **argv, const char *shorts, const struct option *longs)
{
    char letter[] = {'-', (char)optopt, '\0'};
    bool short_one = optopt > 0 && optopt < 256 && (optopt == ':' || !strchr(shorts, optopt));

    return tool_unrecognized(t, short_one ? letter : argv[optind - 1], longs);
}

int tool_getopt(struct tool *t, int argc, char **argv, const char *shorts,
                const struct option *longs)
{
    struct option all[MAX_OPTIONS];
    char all_shorts[64];

    join_options(longs, all);
    snprintf(all_shorts, sizeof(all_shorts), ":hU%s", shorts);
    if (t->words) {
        tool_complete_options(t, all_shorts, all);
        return stop(t, 0);
    }
    for (;;) {
        int c = getopt_long(argc, argv, all_shorts, all, NULL);
        int r;

        if (c == -1)
            return TOOL_END;
        if (c == ':')
            return stop(t, tool_usage_error(t, "missing argument for option '%s'",
                                            argv[optind - 1]));
        if (c == '?')
            return stop(t, unrecognized(t, argv, all_shorts, all));
        r = shared_option(t, c, optarg);
        if (r)
            return r == TOOL_STOP ? TOOL_STOP : c;
    }
}

bool tool_parse_output(struct tool *t, const char *value, bool with_full)
{
    if (strcmp(value, "json") == 0)
        t->output = TOOL_JSON;
    else if (strcmp(value, "human") == 0)
        t->output = TOOL_HUMAN;
    else if (with_full && strcmp(value, "json-full") == 0)
        t->output = TOOL_JSON_FULL;
    else {
        tool_complain(t, "--output must be used with human%s json as argument.",
                      with_full ? ", json-full or" : " or");
        return false;
    }
    return true;
}

bool tool_known_cache(const char *mode)
{
    uint32_t flags = 0;

    return program_set_cache(mode, &flags);
}
