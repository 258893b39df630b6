/* SPDX-License-Identifier: MIT */
/* tool_create.c - options of new images: -o KEY=VALUE,... and what is shown of them. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tool.h"

enum kind { TEXT, SWITCH, SIZE, NUMBER, CRYPTO };

/* In the order in which they are shown, by bits: what knows them. */
enum { QCOW2 = 1, RAW = 2, AMEND = 4 };

static const struct option_key {
    const char          *name;
    enum kind            kind;
    enum tool_create_key key;
    int                  where;
    const char          *help;
} keys[] = {
    {"encryption", CRYPTO, 0, 0, ""},
    {"encrypt.", CRYPTO, 0, 0, ""},
    {"backing_file", TEXT, TOOL_KEY_BACKING_FILE, QCOW2 | AMEND, "the image below, as it is recorded"},
    {"backing_fmt", TEXT, TOOL_KEY_BACKING_FORMAT, QCOW2 | AMEND, "the format of the image below"},
    {"cluster_size", SIZE, TOOL_KEY_CLUSTER_SIZE, QCOW2, "bytes a cluster, 512 to 2M"},
    {"compat", TEXT, TOOL_KEY_COMPAT, QCOW2 | AMEND, "version of the format: v2 (0.10) or v3 (1.1)"},
    {"compression_type", TEXT, TOOL_KEY_COMPRESSION, QCOW2, "zlib or zstd"},
    {"data_file", TEXT, TOOL_KEY_DATA_FILE, QCOW2 | AMEND, "an external file for the disk's data"},
    {"data_file_raw", SWITCH, TOOL_KEY_DATA_FILE_RAW, QCOW2 | AMEND, "the data file is a raw image by itself"},
    {"extended_l2", SWITCH, TOOL_KEY_EXTENDED_L2, QCOW2, "subclusters"},
    {"lazy_refcounts", SWITCH, TOOL_KEY_LAZY_REFCOUNTS, QCOW2 | AMEND, "write reference counts late"},
    {"preallocation", TEXT, TOOL_KEY_PREALLOCATION, QCOW2 | RAW, "off, metadata (qcow2), falloc, full"},
    {"refcount_bits", NUMBER, TOOL_KEY_REFCOUNT_BITS, QCOW2 | AMEND, "width of a reference count, 1 to 64"},
    {"size", SIZE, TOOL_KEY_SIZE, QCOW2 | RAW | AMEND, "bytes of the disk"},
};

#define N_KEYS (sizeof(keys) / sizeof(keys[0]))

void tool_create_help(const char *format, bool amend)
{
    static const char *const types[] = {"str", "bool (on/off)", "size", "num", ""};
    int where = amend ? AMEND : strcmp(format, "raw") == 0 ? RAW : QCOW2;
    char left[64];

    if (amend)
        printf("Amend options for '%s':\n", format);
    else
        printf("Supported %s options:\n", format);
    for (size_t i = 0; i < N_KEYS; i++) {
        if (!(keys[i].where & where))
            continue;
        snprintf(left, sizeof(left), "%s=<%s>", keys[i].name, types[keys[i].kind]);
        printf("  %-22s - %s\n", left, keys[i].help);
    }
}

/* ----------------------------------------------------------------- values --- */

static bool bad_value(struct tool *t, const struct tool_create *c, const char *key, const char *value)
{
    tool_complain(t, "%s%sParameter '%s' does not accept value '%s'", c->name, c->name[0] ? ": " : "", key, value);
    return false;
}

static bool parse_word(struct tool *t, const struct tool_create *c, const char *key, const char *value,
                       const char *const *words, uint32_t *out)
{
    for (uint32_t i = 0; words[i]; i++) {
        if (strcmp(words[i], value) == 0) {
            *out = i;
            return true;
        }
    }
    return bad_value(t, c, key, value);
}

static bool parse_switch(struct tool *t, struct tool_create *c, const char *key, const char *value, uint32_t flag)
{
    bool on = strcmp(value, "on") == 0 || strcmp(value, "yes") == 0 || strcmp(value, "true") == 0 ||
              strcmp(value, "y") == 0;
    bool off = strcmp(value, "off") == 0 || strcmp(value, "no") == 0 || strcmp(value, "false") == 0 ||
               strcmp(value, "n") == 0;

    if (!on && !off) {
        tool_complain(t, "%s%sParameter '%s' expects 'on' or 'off'", c->name, c->name[0] ? ": " : "", key);
        return false;
    }
    c->o.flags = on ? c->o.flags | flag : c->o.flags & ~flag;
    return true;
}

/* The text of a key, kept for as long as the options are. */
static bool keep(struct tool *t, struct tool_create *c, enum tool_create_key key, const char *value,
                 const char **out)
{
    free(c->text[key]);
    c->text[key] = strdup(value);
    if (!c->text[key]) {
        tool_complain(t, "out of memory");
        return false;
    }
    if (out)
        *out = c->text[key];
    return true;
}

static bool parse_text(struct tool *t, struct tool_create *c, const struct option_key *k, const char *value)
{
    static const char *const compat[] = {"", "", "v2", "v3", "0.10", "1.1", NULL};
    static const char *const compression[] = {"zlib", "zstd", NULL};
    static const char *const prealloc[] = {"off", "metadata", "falloc", "full", NULL};

    switch (k->key) {
    case TOOL_KEY_COMPAT:
        if (!*value || !parse_word(t, c, "version", value, compat, &c->o.version))
            return *value ? false : bad_value(t, c, "version", value);
        c->o.version -= c->o.version >= 4 ? 2 : 0;
        return keep(t, c, k->key, value, NULL);
    case TOOL_KEY_COMPRESSION:
        return parse_word(t, c, "compression-type", value, compression, &c->o.compression);
    case TOOL_KEY_PREALLOCATION:
        return parse_word(t, c, "preallocation", value, prealloc, &c->o.preallocation) &&
               keep(t, c, k->key, value, NULL);
    case TOOL_KEY_BACKING_FILE:
        return keep(t, c, k->key, value, &c->o.backing_file);
    case TOOL_KEY_BACKING_FORMAT:
        return keep(t, c, k->key, value, &c->o.backing_format);
    default:
        return keep(t, c, k->key, value, &c->o.data_file);
    }
}

static bool parse_value(struct tool *t, struct tool_create *c, const struct option_key *k, const char *value)
{
    uint64_t n;

    c->given |= 1u << k->key;
    switch (k->key) {
    case TOOL_KEY_EXTENDED_L2:
        return parse_switch(t, c, k->name, value, QCHAIN_CREATE_EXTENDED_L2);
    case TOOL_KEY_LAZY_REFCOUNTS:
        return parse_switch(t, c, k->name, value, QCHAIN_CREATE_LAZY_REFCOUNTS);
    case TOOL_KEY_DATA_FILE_RAW:
        return parse_switch(t, c, k->name, value, QCHAIN_CREATE_DATA_FILE_RAW);
    case TOOL_KEY_SIZE:
        return tool_parse_size(t, "image size", value, &c->o.size);
    case TOOL_KEY_CLUSTER_SIZE:
        if (!tool_parse_size(t, "cluster size", value, &n))
            return false;
        c->o.cluster_size = n ? n : 1; /* 0 is the library's default, and no size */
        return true;
    case TOOL_KEY_REFCOUNT_BITS:
        if (!tool_parse_number(t, "refcount_bits", value, 0, UINT32_MAX, &n))
            return false;
        c->o.refcount_bits = n ? (uint32_t)n : 3; /* as above */
        return true;
    default:
        return parse_text(t, c, k, value);
    }
}

static const struct option_key *find_key(const char *name, int where)
{
    for (size_t i = 0; i < N_KEYS; i++) {
        bool prefix = keys[i].kind == CRYPTO && keys[i].name[strlen(keys[i].name) - 1] == '.';

        if (prefix ? strncmp(name, keys[i].name, strlen(keys[i].name)) == 0 : strcmp(name, keys[i].name) == 0)
            return keys[i].kind == CRYPTO || keys[i].where & where ? &keys[i] : NULL;
    }
    return NULL;
}

/* ---------------------------------------------------------------- the list --- */

/* One "KEY=VALUE" or "KEY", which is taken apart. */
static int parse_one(struct tool *t, struct tool_create *c, char *one, bool amend)
{
    int where = amend ? AMEND : c->o.format && strcmp(c->o.format, "raw") == 0 ? RAW : QCOW2;
    char *value = strchr(one, '=');
    const struct option_key *k;

    if (value)
        *value++ = '\0';
    else if (strcmp(one, "help") == 0 || strcmp(one, "?") == 0) {
        c->help = true;
        return 0;
    }
    k = find_key(one, where);
    if (!k) {
        tool_complain(t, "%s%sInvalid parameter '%s'", c->name, c->name[0] ? ": " : "", one);
        if (amend && find_key(one, QCOW2))
            fprintf(stderr, "It is for images that are made only.\n");
        return -1;
    }
    if (k->kind == CRYPTO) {
        if (strcmp(one, "encryption") == 0 && value && strcmp(value, "off") == 0)
            return 0;
        tool_complain(t, "option %s is not supported: this version makes no encrypted images", one);
        return -1;
    }
    return parse_value(t, c, k, value ? value : "on") ? 0 : -1;
}

int tool_create_parse(struct tool *t, struct tool_create *c, const char *list, bool amend)
{
    char *copy = strdup(list), *from = copy, *to = copy, *start = copy;
    int r = 0;

    if (!copy) {
        tool_complain(t, "out of memory");
        return -1;
    }
    while (r == 0 && *start) {
        if (*from == ',' && from[1] == ',') { /* a comma of the value */
            *to++ = ',';
            from += 2;
        } else if (*from == ',' || !*from) {
            bool last = !*from;

            *to = '\0';
            r = parse_one(t, c, start, amend);
            if (last)
                break;
            start = to = ++from;
        } else {
            *to++ = *from++;
        }
    }
    free(copy);
    return r;
}

void tool_create_init(struct tool_create *c, const char *name)
{
    memset(c, 0, sizeof(*c));
    qchain_create_opts_init(&c->o, sizeof(c->o));
    c->name = name;
    c->o.size = UINT64_MAX;
}

void tool_create_finish(struct tool_create *c)
{
    for (size_t i = 0; i < TOOL_N_KEYS; i++)
        free(c->text[i]);
}

static void print_qcow2(const struct tool_create *c)
{
    const qchain_create_opts *o = &c->o;

    printf(" cluster_size=%" PRIu64 " extended_l2=%s", o->cluster_size ? o->cluster_size : 65536,
           o->flags & QCHAIN_CREATE_EXTENDED_L2 ? "on" : "off");
    if (c->given & 1u << TOOL_KEY_PREALLOCATION)
        printf(" preallocation=%s", c->text[TOOL_KEY_PREALLOCATION]);
    printf(" compression_type=%s size=%" PRIu64, o->compression ? "zstd" : "zlib", o->size);
    if (c->given & 1u << TOOL_KEY_COMPAT)
        printf(" compat=%s", c->text[TOOL_KEY_COMPAT]);
    if (o->backing_file)
        printf(" backing_file=%s", o->backing_file);
    if (o->backing_format)
        printf(" backing_fmt=%s", o->backing_format);
    if (o->data_file)
        printf(" data_file=%s", o->data_file);
    if (c->given & 1u << TOOL_KEY_DATA_FILE_RAW)
        printf(" data_file_raw=%s", o->flags & QCHAIN_CREATE_DATA_FILE_RAW ? "on" : "off");
    printf(" lazy_refcounts=%s refcount_bits=%" PRIu32 "\n",
           o->flags & QCHAIN_CREATE_LAZY_REFCOUNTS ? "on" : "off", o->refcount_bits ? o->refcount_bits : 16);
}

void tool_create_print(const struct tool_create *c)
{
    bool raw = c->o.format && strcmp(c->o.format, "raw") == 0;

    printf("Formatting '%s', fmt=%s", c->name, raw ? "raw" : "qcow2");
    if (!raw) {
        print_qcow2(c);
        return;
    }
    printf(" size=%" PRIu64, c->o.size);
    if (c->given & 1u << TOOL_KEY_PREALLOCATION)
        printf(" preallocation=%s", c->text[TOOL_KEY_PREALLOCATION]);
    printf("\n");
}
