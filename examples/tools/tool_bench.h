/* SPDX-License-Identifier: MIT */
/* tool_bench.h - what the verb `bench` is made of: where to read or write, and how long it took. */
#ifndef QCHAIN_TOOL_BENCH_H
#define QCHAIN_TOOL_BENCH_H

#include "tool.h"

/* ---- where to read (tool_places.c) ---- */

/* Neighbouring places. */
struct tool_stretch {
    uint64_t first; /* offset of the first */
    uint64_t end;   /* places up to its end, counted from the first stretch */
};

/* All places that requests of a run may go to. */
struct tool_places {
    uint64_t size;   /* of the disk */
    uint64_t begin;  /* the first offset */
    uint64_t length; /* of a request */
    uint64_t step;   /* from one place to the next */
    bool random;
    uint64_t seed;
    bool allocated;  /* stored bytes only: then there are stretches */
    struct tool_stretch *stretches;
    size_t n_stretches;
    size_t room;
};

/* Find the stretches, if there are to be any. 0, or -1 after a complaint. */
int tool_places_find(struct tool *t, struct tool_places *p, qchain *c);
void tool_places_free(struct tool_places *p);

/* One thread's way through the places: every stride-th one, or random ones. */
struct tool_walk {
    const struct tool_places *places;
    uint64_t stride;
    uint64_t at;       /* next offset; among stretches the next place */
    size_t stretch;    /* where that is */
    uint64_t *list;    /* random offsets, chosen before */
    size_t n_list;
    size_t next;
};

/* Thread `number` of `threads` that sends `requests`; -1 without memory. */
int tool_walk_start(struct tool_walk *w, const struct tool_places *p, unsigned number,
                    unsigned threads, uint64_t requests);
uint64_t tool_walk_next(struct tool_walk *w);
void tool_walk_free(struct tool_walk *w);

/* ---- latencies (tool_latency.c) ---- */

enum {
    TOOL_LATENCY_BITS = 6,
    TOOL_LATENCY_BUCKETS = (65 - TOOL_LATENCY_BITS) << TOOL_LATENCY_BITS
};

/* How often which time was seen, to within one part of 64. */
struct tool_latency {
    uint64_t n;
    uint64_t max_ns;
    uint64_t sum_ns;
    uint64_t buckets[TOOL_LATENCY_BUCKETS];
};

void tool_latency_add(struct tool_latency *l, uint64_t ns);
void tool_latency_join(struct tool_latency *l, const struct tool_latency *more);
/* The time that a part (0 to 1) of all requests did not exceed. */
uint64_t tool_latency_at(const struct tool_latency *l, double part);

/* ---- the work (tool_load.c) ---- */

/* One run. */
struct tool_load {
    qchain *chain;
    const struct tool_places *places;
    uint64_t count;     /* requests; UINT64_MAX: until time_ns have passed */
    uint64_t time_ns;   /* 0: as long as count takes */
    uint32_t depth;     /* in flight a thread */
    uint32_t threads;
    uint32_t batch;     /* requests handed over together */
    bool blocking;      /* qchain_read or qchain_write instead of queues */
    bool write;
    uint8_t pattern;    /* every byte that is written */
    uint64_t flush_interval; /* of a thread: flush after so many writes, and after the last; 0: never */
    bool no_drain;      /* send a flush without waiting for what is in flight */
    bool no_uring;
    bool latency;

    /* what came of it */
    uint64_t done;      /* requests that ended, well or not */
    uint64_t failed;    /* flushes, too */
    uint64_t flushes;
    char first_error[512];
    const char *engine;
    double seconds;
    struct tool_latency *latencies; /* with latency */
};

/* Do it. 0, or -1 after a complaint; failed requests are not among its failures. */
int tool_load_run(struct tool *t, struct tool_load *l);
void tool_load_free(struct tool_load *l);

#endif
