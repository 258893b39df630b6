/* SPDX-License-Identifier: MIT */
/*
 * tool_complete.c - what could stand next in a command line, for the completion of shells: PROGRAM --complete
 * WORD... prints for the last word a line a candidate, with a description behind a tab; the last line is ":files"
 * or ":dirs" where names of them fit too, else ":". Verbs are those of the program, options those that their
 * --help tells of, in the words of the tables that getopt has.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tool.h"

/* Letters of getopt that are no options. */
#define NO_OPTION ":?+-"

/* The names that a kind of value can have, by what --help calls it, and for options that share such a word by
 * their name. */
static const struct {
    const char *option; /* NULL: any */
    const char *value;
    const char *names;
} values[] = {
    {NULL, "FMT", "qcow2 raw"},
    {NULL, "FORMAT", "human json"},
    {NULL, "CACHE", "none directsync writeback unsafe writethrough"},
    {"--cache", "MODE", "none directsync writeback unsafe writethrough"},
    {"-t", "MODE", "none directsync writeback unsafe writethrough"},
    {"--preallocation", "MODE", "off falloc full"},
    {"--discard", "MODE", "ignore unmap"},
    {"-d", "MODE", "ignore unmap"},
    {NULL, "AIO", "threads native io_uring"},
};

static const char *const file_values[] = {"FILE", "BACKING", "BASE", "FROM"};

struct completion {
    const struct tool_verb *verb;
    char **word; /* behind the verb; the last is the one to be completed */
    int n;
    char *help;
    const char *files; /* the last line */
};

static void offer(const struct completion *c, const char *lead, const char *word, size_t n, const char *text,
                  size_t text_n)
{
    const char *begun = c->word[c->n - 1];
    char full[256];

    if ((size_t)snprintf(full, sizeof(full), "%s%.*s", lead, (int)n, word) >= sizeof(full))
        return;
    if (strncmp(full, begun, strlen(begun)) == 0)
        printf("%s\t%.*s\n", full, (int)text_n, text);
}

/* Each of a list of names. */
static void offer_list(const struct completion *c, const char *lead, const char *list, const char *separators)
{
    size_t n;

    for (; *list; list += n) {
        list += strspn(list, separators);
        n = strcspn(list, separators);
        if (n)
            offer(c, lead, list, n, "", 0);
    }
}

/* ------------------------------------------------------------ what --help tells --- */

static bool in_name(char c)
{
    return isalnum((unsigned char)c) || c == '-' || c == '_';
}

/* Where an option stands in the help, as a word of its own; NULL: nowhere. */
static const char *find_option(const char *help, const char *option)
{
    size_t n = strlen(option);
    const char *at;

    for (at = help; (at = strstr(at, option)); at++)
        if ((at == help || !in_name(at[-1])) && !in_name(at[n]))
            return at;
    return NULL;
}

/* The description in the line of an option: what stands behind two blanks. */
static const char *description(const char *at, size_t *n)
{
    const char *text = at;

    while (*text && *text != '\n' && !(text[0] == ' ' && text[1] == ' '))
        text++;
    text += strspn(text, " ");
    *n = strcspn(text, "\n");
    return text;
}

/* What the help calls the value of an option: "FMT" of "-f, --format FMT", "text|json" of "--stats[=text|json]". */
static const char *value_name(const char *at, size_t *n)
{
    while (*at == '-') {
        while (in_name(*at))
            at++;
        if (*at == ',' && at[1] == ' ' && at[2] == '-')
            at += 2;
        else
            break;
    }
    at += strspn(at, "[= ");
    *n = strcspn(at, " ,]\n");
    return at;
}

/* ------------------------------------------------------------------------- values --- */

static bool is_value(const char *name, const char *at, size_t n)
{
    return strlen(name) == n && strncmp(name, at, n) == 0;
}

/* May it be opened to look what is in it? Not what has a scheme: nobody has asked for a request yet. */
static bool is_file(const char *word)
{
    return word[0] != '-' && word[strcspn(word, ":/")] != ':';
}

/* A name as the image has it: where escapes may stand for bytes the program would not know it again. */
static void offer_name(const struct completion *c, const char *lead, const char *name, const char *what)
{
    if (!strstr(name, "\\x"))
        offer(c, lead, name, strlen(name), what, strlen(what));
}

/* Names that an image has, of those that the command line names already. */
static void offer_from_image(const struct completion *c, const char *lead, bool bitmaps)
{
    qchain_image_info *info = NULL;
    qchain_open_opts o;
    uint32_t k;
    int i;

    qchain_open_opts_init(&o, sizeof(o));
    o.flags = QCHAIN_OPEN_FORCE_SHARE;
    for (i = c->n - 2; i >= 0 && !info; i--)
        if (is_file(c->word[i]) && qchain_inspect(&info, NULL, c->word[i], &o, NULL) != 0)
            info = NULL;
    for (k = 0; info && !bitmaps && k < info->n_snapshots; k++)
        offer_name(c, lead, info->snapshots[k].name, "snapshot");
    for (k = 0; info && bitmaps && k < info->n_bitmaps; k++)
        offer_name(c, lead, info->bitmaps[k].name, "bitmap");
    qchain_image_info_free(info);
}

/* The values of an option whose help stands at `at`; lead: what stands before them in the same word. */
static void offer_values(struct completion *c, const char *option, const char *at, const char *lead)
{
    const char *line_end = at + strcspn(at, "\n"), *full = strstr(at, "json-full");
    char list[128];
    size_t n, i;

    at = value_name(at, &n);
    snprintf(list, sizeof(list), "%.*s", (int)n, at);
    if (strchr(list, '|') || islower((unsigned char)list[0])) {
        offer_list(c, lead, list, "|");
        return;
    }
    for (i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        if (!is_value(values[i].value, at, n) || (values[i].option && strcmp(values[i].option, option) != 0))
            continue;
        offer_list(c, lead, values[i].names, " ");
        if (full && full < line_end)
            offer(c, lead, "json-full", 9, "", 0);
        return;
    }
    for (i = 0; i < sizeof(file_values) / sizeof(file_values[0]); i++)
        if (is_value(file_values[i], at, n))
            c->files = ":files";
    if (is_value("DIR", at, n))
        c->files = ":dirs";
    if (is_value("SNAPSHOT", at, n) || is_value("NAME", at, n))
        offer_from_image(c, lead, false);
}

/* ------------------------------------------------------------------------ options --- */

static const struct option *find_long(const struct option *longs, const char *name, size_t n)
{
    for (; longs->name; longs++)
        if (is_value(longs->name, name, n))
            return longs;
    return NULL;
}

static bool takes_value(const char *shorts, char letter)
{
    const char *at = letter != ':' ? strchr(shorts, letter) : NULL;

    return at && at[1] == ':';
}

static void offer_options(const struct completion *c, const char *shorts, const struct option *longs)
{
    char name[64];
    const char *at, *text;
    size_t n;

    for (; longs->name; longs++) {
        snprintf(name, sizeof(name), "--%s", longs->name);
        at = find_option(c->help, name);
        if (!at)
            continue;
        text = description(at, &n);
        offer(c, name, longs->has_arg == required_argument ? "=" : "", longs->has_arg == required_argument, text, n);
    }
    for (; *shorts; shorts++) {
        snprintf(name, sizeof(name), "-%c", *shorts);
        at = strchr(NO_OPTION, *shorts) ? NULL : find_option(c->help, name);
        if (!at)
            continue;
        text = description(at, &n);
        offer(c, name, "", 0, text, n);
    }
}

/* Is word k the value of the option before it? */
static bool is_argument(const struct completion *c, int k, const char *shorts, const struct option *longs)
{
    const char *before = k > 0 ? c->word[k - 1] : "";
    const struct option *o;

    if (before[0] != '-' || !before[1])
        return false;
    if (before[1] != '-')
        return !before[2] && takes_value(shorts, before[1]);
    o = find_long(longs, before + 2, strlen(before + 2));
    return o && o->has_arg == required_argument;
}

/* -------------------------------------------------------------------- other words --- */

/* How many words before the last one are no options. */
static int count_operands(const struct completion *c, const char *shorts, const struct option *longs)
{
    int n = 0, k;

    for (k = 0; k < c->n - 1; k++)
        n += !is_argument(c, k, shorts, longs) && c->word[k][0] != '-';
    return n;
}

/* The words of the synopsis that are to be written as they stand: "build|show", "[disk|layers]", "if=". */
static void offer_synopsis(const struct completion *c, bool first)
{
    const char *at = c->verb->synopsis;
    char word[128];
    size_t n;

    for (; *at; at += n) {
        at += strspn(at, " \n[]");
        n = strcspn(at, " \n[]");
        snprintf(word, sizeof(word), "%.*s", (int)n, at);
        if (!islower((unsigned char)word[0]))
            continue;
        if (strchr(word, '='))
            offer(c, "", word, strcspn(word, "=") + 1, "", 0);
        else if (first && strchr(word, '|'))
            offer_list(c, "", word, "|");
    }
}

static void offer_operands(struct completion *c, const char *shorts, const struct option *longs)
{
    int before = count_operands(c, shorts, longs);

    c->files = strstr(c->verb->synopsis, " DIR") && !strstr(c->verb->synopsis, "IMG") ? ":dirs" : ":files";
    offer_synopsis(c, before == 0);
    if (before == 1 && strstr(c->verb->synopsis, "IMG BITMAP")) {
        offer_from_image(c, "", true);
        c->files = ":";
    }
}

/* ----------------------------------------------------------------------- the door --- */

static char *help_of(const struct tool_verb *verb)
{
    char *text = NULL;

    return asprintf(&text, "%s\n%s%s", verb->synopsis, verb->help, tool_shared_help) < 0 ? NULL : text;
}

void tool_complete_options(const struct tool *t, const char *shorts, const struct option *longs)
{
    struct completion c = {.verb = t->verb, .word = t->words, .n = t->n_words, .files = ":"};
    const char *last = c.word[c.n - 1], *equals = strchr(last, '='), *at;
    char option[64];

    c.help = help_of(t->verb);
    if (!c.help)
        return;
    if (is_argument(&c, c.n - 1, shorts, longs)) {
        at = find_option(c.help, c.word[c.n - 2]);
        if (at)
            offer_values(&c, c.word[c.n - 2], at, "");
    } else if (last[0] == '-' && last[1] == '-' && equals) {
        char lead[80];

        snprintf(option, sizeof(option), "%.*s", (int)(equals - last), last);
        snprintf(lead, sizeof(lead), "%s=", option);
        at = find_option(c.help, option);
        if (at)
            offer_values(&c, option, at, lead);
    } else if (last[0] == '-') {
        offer_options(&c, shorts, longs);
    } else {
        offer_operands(&c, shorts, longs);
    }
    printf("%s\n", c.files);
    free(c.help);
}

/* The verb begins as if it was run, and ends where its options would be looked at. */
int tool_complete(const struct tool_verb *verb, int n, char **words)
{
    char name[] = "", *argv[] = {name, NULL};
    struct tool t = {.verb = verb, .words = words, .n_words = n};

    if (n == 0)
        return 1;
    verb->run(&t, 1, argv);
    return 0;
}
