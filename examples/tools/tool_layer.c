/* SPDX-License-Identifier: MIT */
/* tool_layer.c - layers by the names users give them. */
#include <stdlib.h>
#include <string.h>

#include "tool.h"

static bool is_named(const char *layer, const char *wanted)
{
    const char *slash = strrchr(layer, '/');

    return strcmp(layer, wanted) == 0 || (slash && strcmp(slash + 1, wanted) == 0);
}

bool tool_find_layer(struct tool *t, qchain *c, const char *text, uint32_t max, uint32_t *out)
{
    uint32_t layers = qchain_layers(c), i;
    char *end;
    unsigned long n = strtoul(text, &end, 10);

    if (text[0] >= '0' && text[0] <= '9' && !*end) {
        if (n <= max) {
            *out = (uint32_t)n;
            return true;
        }
        tool_complain(t, "layer %s: the chain has %u layers, and 0 is the top", text,
                      (unsigned)layers);
        return false;
    }
    for (i = 0; i < layers; i++) {
        qchain_image_info *info;
        bool found;

        if (qchain_layer_info(&info, c, i, t->err) != 0) {
            tool_complain_error(t);
            return false;
        }
        found = is_named(info->name, program_is_url(text) ? tool_shown_name(t, text) : text);
        qchain_image_info_free(info);
        if (found) {
            *out = i;
            return true;
        }
    }
    tool_complain(t, "layer %s: the chain has none of that name", tool_shown_name(t, text));
    return false;
}
