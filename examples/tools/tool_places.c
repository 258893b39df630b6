/* SPDX-License-Identifier: MIT */
/* tool_places.c - where the requests of a benchmark go. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "tool_bench.h"

#define BATCH 1024
#define MAX_LIST (1u << 20) /* random offsets a thread chooses before it begins */

/* ------------------------------------------------------ stored stretches --- */

/* The multiples of step in [start, end) at which a whole request fits. */
static int add_stretch(struct tool_places *p, uint64_t start, uint64_t end)
{
    uint64_t first, before;
    struct tool_stretch *s;

    if (start < p->begin)
        start = p->begin;
    if (start > UINT64_MAX - p->step)
        return 0;
    first = (start + p->step - 1) / p->step * p->step;
    if (first > end || end - first < p->length)
        return 0;
    if (p->n_stretches == p->room) {
        size_t room = p->room ? p->room * 2 : 1024;

        s = realloc(p->stretches, room * sizeof(*s));
        if (!s)
            return -1;
        p->stretches = s;
        p->room = room;
    }
    before = p->n_stretches ? p->stretches[p->n_stretches - 1].end : 0;
    s = &p->stretches[p->n_stretches++];
    s->first = first;
    s->end = before + (end - first - p->length) / p->step + 1;
    return 0;
}

static bool is_stored(const qchain_extent *e)
{
    return (e->flags & (QCHAIN_EXTENT_DATA | QCHAIN_EXTENT_ZERO)) == QCHAIN_EXTENT_DATA;
}

/* Extents that touch are one stretch, whichever layer holds them. */
static int find_stretches(struct tool *t, struct tool_places *p, qchain *c, qchain_extent *batch)
{
    uint64_t at = 0, start = 0, end = 0;
    uint32_t n, i;

    while (at < p->size) {
        if (qchain_map(c, at, p->size - at, batch, BATCH, &n, &at, 0, t->err) != 0) {
            tool_complain_error(t);
            return -1;
        }
        for (i = 0; i < n; i++) {
            if (!is_stored(&batch[i]))
                continue;
            if (batch[i].offset != end) {
                if (add_stretch(p, start, end) != 0)
                    goto nomem;
                start = batch[i].offset;
            }
            end = batch[i].offset + batch[i].length;
        }
    }
    if (add_stretch(p, start, end) == 0)
        return 0;
nomem:
    tool_complain(t, "out of memory");
    return -1;
}

int tool_places_find(struct tool *t, struct tool_places *p, qchain *c)
{
    qchain_extent *batch;
    int r;

    if (!p->allocated)
        return 0;
    batch = malloc(BATCH * sizeof(*batch));
    if (!batch) {
        tool_complain(t, "out of memory");
        return -1;
    }
    r = find_stretches(t, p, c, batch);
    free(batch);
    if (r == 0 && p->n_stretches == 0) {
        tool_complain(t, "no stored bytes for requests of %" PRIu64 " bytes at multiples of %"
                      PRIu64, p->length, p->step);
        r = -1;
    }
    return r;
}

void tool_places_free(struct tool_places *p)
{
    free(p->stretches);
}

/* --------------------------------------------------- a way through them --- */

static uint64_t next_random(uint64_t *state)
{
    uint64_t x = *state += UINT64_C(0x9e3779b97f4a7c15);

    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

static size_t find_stretch(const struct tool_places *p, uint64_t place)
{
    size_t lo = 0, hi = p->n_stretches - 1;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;

        if (p->stretches[mid].end > place)
            hi = mid;
        else
            lo = mid + 1;
    }
    return lo;
}

static uint64_t place_offset(const struct tool_places *p, size_t stretch, uint64_t place)
{
    uint64_t before = stretch ? p->stretches[stretch - 1].end : 0;

    return p->stretches[stretch].first + (place - before) * p->step;
}

/* Multiples of step from begin on at which a whole request fits. */
static uint64_t random_offset(const struct tool_places *p, uint64_t *state)
{
    uint64_t first = p->begin / p->step, end, place;

    if (p->allocated) {
        place = next_random(state) % p->stretches[p->n_stretches - 1].end;
        return place_offset(p, find_stretch(p, place), place);
    }
    first += p->begin % p->step != 0;
    end = p->size >= p->length ? (p->size - p->length) / p->step + 1 : 0;
    /* no room: the request fails, as it does one after the other */
    return first < end ? (first + next_random(state) % (end - first)) * p->step : first * p->step;
}

int tool_walk_start(struct tool_walk *w, const struct tool_places *p, unsigned number,
                    unsigned threads, uint64_t requests)
{
    uint64_t state = p->seed ^ (uint64_t)number << 32;

    memset(w, 0, sizeof(*w));
    w->places = p;
    if (p->random) {
        w->n_list = requests < MAX_LIST ? (size_t)requests : MAX_LIST;
        w->list = malloc((w->n_list + 1) * sizeof(*w->list));
        if (!w->list)
            return -1;
        for (w->next = 0; w->next < w->n_list; w->next++)
            w->list[w->next] = random_offset(p, &state);
        w->next = 0;
    } else if (p->allocated) {
        w->stride = threads;
        w->at = number % p->stretches[p->n_stretches - 1].end;
        w->stretch = find_stretch(p, w->at);
    } else {
        w->stride = threads * p->step % p->size;
        w->at = number ? (p->begin + number * p->step) % p->size : p->begin;
    }
    return 0;
}

static uint64_t next_stored(struct tool_walk *w)
{
    const struct tool_places *p = w->places;
    uint64_t offset = place_offset(p, w->stretch, w->at);
    uint64_t all = p->stretches[p->n_stretches - 1].end;

    w->at += w->stride;
    if (w->at >= all) {
        w->at %= all;
        w->stretch = 0;
    }
    while (p->stretches[w->stretch].end <= w->at)
        w->stretch++;
    return offset;
}

uint64_t tool_walk_next(struct tool_walk *w)
{
    uint64_t offset = w->at;

    if (w->list) {
        offset = w->list[w->next++];
        if (w->next == w->n_list)
            w->next = 0;
        return offset;
    }
    if (w->places->allocated)
        return next_stored(w);
    w->at = (w->at + w->stride) % w->places->size;
    return offset;
}

void tool_walk_free(struct tool_walk *w)
{
    free(w->list);
}
