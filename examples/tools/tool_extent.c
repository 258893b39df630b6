/* SPDX-License-Identifier: MIT */
/* tool_extent.c - extents merged as qemu-img merges them, and as JSON. */
#include <stdlib.h>

#include "tool.h"

#define BATCH 8192

const char *tool_bool(bool value)
{
    return value ? "true" : "false";
}

/* Where a compressed cluster lies is no place that a reader could use. */
static bool has_place(const qchain_extent *e)
{
    return (e->flags & QCHAIN_EXTENT_HAS_OFFSET) && !(e->flags & QCHAIN_EXTENT_COMPRESSED);
}

static bool mergeable(const struct tool_merge *m, const qchain_extent *next)
{
    const uint32_t kinds = QCHAIN_EXTENT_PRESENT | QCHAIN_EXTENT_DATA | QCHAIN_EXTENT_ZERO;
    const qchain_extent *e = &m->current;

    if (e->offset + e->length != next->offset)
        return false;
    if (((e->flags ^ next->flags) & kinds) || e->layer != next->layer)
        return false;
    if (m->keep && ((e->flags | next->flags) & QCHAIN_EXTENT_COMPRESSED))
        return false;
    if (has_place(e) != has_place(next))
        return false;
    if (!has_place(e))
        return true;
    return e->source == next->source && e->host_offset + e->length == next->host_offset;
}

int tool_merge_add(struct tool_merge *m, qchain_extent e)
{
    int r = 0;

    if (m->any && mergeable(m, &e)) {
        m->current.length += e.length;
        return 0;
    }
    if (m->any) {
        r = m->put(m->data, &m->current, false);
        if (m->as_text && (!(e.flags & QCHAIN_EXTENT_DATA) || (e.flags & QCHAIN_EXTENT_ZERO))) {
            e.flags &= ~(uint32_t)QCHAIN_EXTENT_DATA;
            e.flags |= QCHAIN_EXTENT_ZERO;
        }
    }
    m->current = e;
    m->any = true;
    return r;
}

int tool_merge_end(struct tool_merge *m)
{
    return m->any ? m->put(m->data, &m->current, true) : 0;
}

int tool_merge_range(struct tool *t, struct tool_merge *m, qchain *c, uint64_t offset,
                     uint64_t end, uint32_t below, uint32_t upto)
{
    uint32_t flags = m->keep ? QCHAIN_MAP_CLUSTERS : 0;
    qchain_extent *extents = malloc(BATCH * sizeof(*extents));
    uint32_t n, i;
    int r = 0;

    if (!extents) {
        tool_complain(t, "out of memory");
        return -1;
    }
    while (offset < end && r == 0) {
        if (below)
            r = qchain_diff(c, below, upto, offset, end - offset, extents, BATCH, &n, &offset,
                            flags, t->err);
        else
            r = qchain_map(c, offset, end - offset, extents, BATCH, &n, &offset, flags, t->err);
        if (r) {
            tool_complain_error(t);
            break;
        }
        for (i = 0; i < n && r == 0; i++)
            r = tool_merge_add(m, extents[i]);
    }
    free(extents);
    return r;
}

/* What both forms begin with; the brace stays open. */
static void put_common(struct tool_out *o, const qchain_extent *e)
{
    tool_out_str(o, "{ \"start\": ");
    tool_out_u64(o, e->offset);
    tool_out_str(o, ", \"length\": ");
    tool_out_u64(o, e->length);
    tool_out_str(o, ", \"depth\": ");
    tool_out_u64(o, e->layer);
    tool_out_str(o, ", \"present\": ");
    tool_out_str(o, tool_bool(e->flags & QCHAIN_EXTENT_PRESENT));
    tool_out_str(o, ", \"zero\": ");
    tool_out_str(o, tool_bool(e->flags & QCHAIN_EXTENT_ZERO));
    tool_out_str(o, ", \"data\": ");
    tool_out_str(o, tool_bool(e->flags & QCHAIN_EXTENT_DATA));
}

void tool_extent_json(struct tool_out *o, const qchain_extent *e)
{
    put_common(o, e);
    if (has_place(e)) {
        tool_out_str(o, ", \"offset\": ");
        tool_out_u64(o, e->host_offset);
    }
    tool_out_char(o, '}');
}

void tool_extent_json_full(struct tool_out *o, const qchain *c, const qchain_extent *e)
{
    bool compressed = e->flags & QCHAIN_EXTENT_COMPRESSED;
    bool placed = compressed ? e->host_length > 0 : e->flags & QCHAIN_EXTENT_HAS_OFFSET;
    const char *name = placed ? qchain_source_name(c, e->source) : NULL;

    put_common(o, e);
    tool_out_str(o, ", \"compressed\": ");
    tool_out_str(o, tool_bool(compressed));
    if (placed) {
        tool_out_str(o, ", \"offset\": ");
        tool_out_u64(o, e->host_offset);
        tool_out_str(o, ", \"host-length\": ");
        tool_out_u64(o, compressed ? e->host_length : e->length);
        tool_out_str(o, ", \"source\": ");
        tool_out_u64(o, e->source);
    }
    if (name) {
        tool_out_str(o, ", \"filename\": ");
        tool_out_json_str(o, name);
    }
    tool_out_char(o, '}');
}
