/* SPDX-License-Identifier: MIT */
/* tool_trace.c - recording what is read (--record), and traces as what to prefetch. */
#include <stdlib.h>
#include <string.h>

#include "tool.h"

int tool_record_start(struct tool *t, qchain *c)
{
    if (!t->record)
        return 0;
    if (qchain_trace_start(c, t->record, NULL, t->err) != 0) {
        tool_complain_error(t);
        return -1;
    }
    t->record = NULL; /* of the first image */
    t->recorded = c;
    return 0;
}

int tool_record_stop(struct tool *t, qchain *c)
{
    if (!c || t->recorded != c)
        return 0;
    t->recorded = NULL;
    if (qchain_trace_stop(c, t->err) == 0)
        return 0;
    tool_complain_error(t);
    return -1;
}

int tool_load_traces(struct tool *t, const char *const *names, uint32_t n, const qchain_trace_load_opts *o,
                     qchain_trace **out)
{
    int r = t->env || tool_make_env(t) == 0 ? qchain_trace_load(out, t->env, names, n, o, t->err) : -1;

    if (r == 0 && (*out)->unread && !t->quiet)
        tool_complain(t, "%s%s: %llu bytes at the end make no sense, and are left out (the recording was cut off)",
                      tool_shown_name(t, names[0]), n > 1 ? " or others" : "", (unsigned long long)(*out)->unread);
    return r;
}
