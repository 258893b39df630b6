/* SPDX-License-Identifier: MIT */
/* tool_json.c - a tree of facts as indented JSON or as indented text. */
#include <string.h>

#include "tool.h"

void tool_json_init(struct tool_json *j, struct tool_out *out)
{
    memset(j, 0, sizeof(*j));
    j->out = out;
}

/* The text begins one level in, below a heading. */
void tool_json_init_human(struct tool_json *j, struct tool_out *out)
{
    tool_json_init(j, out);
    j->human = true;
    j->depth = 1;
}

static bool in_list(const struct tool_json *j)
{
    return j->list_bits >> j->depth & 1;
}

static void newline(struct tool_json *j)
{
    tool_out_char(j->out, '\n');
    tool_out_fill(j->out, ' ', j->depth * 4);
}

/* Text: "    key: " or "    [0]: ", with dashes of the key as blanks. */
static void human_lead(struct tool_json *j, const char *key)
{
    tool_out_fill(j->out, ' ', j->depth * 4);
    if (in_list(j)) {
        tool_out_char(j->out, '[');
        tool_out_u64(j->out, j->next_item[j->depth]++);
        tool_out_char(j->out, ']');
    } else {
        for (; *key; key++)
            tool_out_char(j->out, *key == '-' ? ' ' : *key);
    }
    tool_out_char(j->out, ':');
}

static void lead(struct tool_json *j, const char *key)
{
    if (j->human) {
        human_lead(j, key);
        return;
    }
    if (j->comma)
        tool_out_char(j->out, ',');
    if (j->depth)
        newline(j);
    j->comma = true;
    if (key) {
        tool_out_json_str(j->out, key);
        tool_out_str(j->out, ": ");
    }
}

void tool_json_open(struct tool_json *j, const char *key, bool list)
{
    lead(j, key);
    tool_out_char(j->out, j->human ? '\n' : list ? '[' : '{');
    if (j->depth < TOOL_JSON_DEPTH - 1)
        j->depth++;
    j->list_bits &= ~(1u << j->depth);
    j->list_bits |= (uint32_t)list << j->depth;
    j->next_item[j->depth] = 0;
    j->comma = false;
}

void tool_json_close(struct tool_json *j)
{
    bool list = in_list(j);

    j->depth--;
    if (j->human)
        return;
    newline(j);
    tool_out_char(j->out, list ? ']' : '}');
    j->comma = true;
    if (!j->depth)
        tool_out_char(j->out, '\n');
}

static void value_begin(struct tool_json *j, const char *key)
{
    lead(j, key);
    if (j->human)
        tool_out_char(j->out, ' ');
}

/* In text a value ends its line. */
static void value_end(struct tool_json *j)
{
    if (j->human)
        tool_out_char(j->out, '\n');
}

void tool_json_str(struct tool_json *j, const char *key, const char *value)
{
    value_begin(j, key);
    if (j->human)
        tool_out_str(j->out, value);
    else
        tool_out_json_str(j->out, value);
    value_end(j);
}

void tool_json_u64(struct tool_json *j, const char *key, uint64_t value)
{
    value_begin(j, key);
    tool_out_u64(j->out, value);
    value_end(j);
}

void tool_json_bool(struct tool_json *j, const char *key, bool value)
{
    value_begin(j, key);
    tool_out_str(j->out, value ? "true" : "false");
    value_end(j);
}
