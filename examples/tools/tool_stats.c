/* SPDX-License-Identifier: MIT */
/* tool_stats.c - what was done, for --stats. */
#include <inttypes.h>
#include <stdio.h>

#include "tool.h"

struct fact {
    const char *name;
    uint64_t value;
};

#define N_FACTS(list) (sizeof(list) / sizeof((list)[0]))

static void print_facts(const struct tool *t, const struct fact *facts, size_t n, bool first)
{
    bool json = t->stats == TOOL_STATS_JSON;
    size_t i;

    for (i = 0; i < n; i++)
        fprintf(stderr, json ? "%s\"%s\": %" PRIu64 : "%s%s: %" PRIu64 "\n",
                !json ? "" : first && i == 0 ? "{" : ", ", facts[i].name, facts[i].value);
}

static void print_local(const struct tool *t, const qchain_stats *s)
{
    const struct fact facts[] = {
        {"reads", s->reads},
        {"read-bytes", s->read_bytes},
        {"store-reads", s->store_reads},
        {"store-bytes", s->store_bytes},
        {"meta-reads", s->meta_reads},
        {"meta-bytes", s->meta_bytes},
        {"decoded-clusters", s->decoded_clusters},
        {"decoded-hits", s->decoded_hits},
        {"index-fills", s->index_fills},
        {"index-evictions", s->index_evictions},
        {"index-bytes", s->index_bytes},
        {"block-bytes", s->block_bytes},
        {"open-files", s->open_files},
        {"file-opens", s->file_opens},
        {"sidecar-reads", s->sidecar_reads},
        {"sidecar-bytes", s->sidecar_bytes},
        {"queue-requests", s->queue_requests},
        {"queue-uring", s->queue_uring},
        {"queue-leaf", s->queue_leaf},
        {"queue-walks", s->queue_walks},
        {"store-writes", s->store_writes},
        {"store-write-bytes", s->store_write_bytes},
        {"flushes", s->flushes},
    };

    print_facts(t, facts, N_FACTS(facts), true);
}

/* As text only if a URL was read from. */
static void print_remote(const struct tool *t, const qchain_remote_stats *s)
{
    const struct fact facts[] = {
        {"http-requests", s->requests},
        {"http-bytes", s->bytes},
        {"http-sent-bytes", s->sent_bytes},
        {"http-connections", s->connections},
        {"http-retries", s->retries},
        {"http-hedges", s->hedges},
        {"http-redirects", s->redirects},
        {"http-wasted-bytes", s->wasted_bytes},
        {"memory-hits", s->memory_hits},
        {"memory-bytes", s->memory_bytes},
        {"joined", s->joined},
        {"disk-hits", s->disk_hits},
        {"disk-bytes", s->disk_bytes},
        {"disk-stores", s->disk_stores},
        {"disk-damaged", s->disk_damaged},
        {"region-hits", s->region_hits},
        {"region-bytes", s->region_bytes},
        {"region-stores", s->region_stores},
        {"region-faults", s->region_faults},
        {"failovers", s->failovers},
        {"first-byte-p50-us", s->first_byte_p50_us},
        {"first-byte-p90-us", s->first_byte_p90_us},
        {"first-byte-p99-us", s->first_byte_p99_us},
        {"total-p50-us", s->total_p50_us},
        {"total-p90-us", s->total_p90_us},
        {"total-p99-us", s->total_p99_us},
    };

    if (t->stats == TOOL_STATS_JSON || s->requests || s->memory_hits || s->disk_hits ||
        s->region_hits)
        print_facts(t, facts, N_FACTS(facts), false);
}

void tool_print_stats(const struct tool *t)
{
    qchain_stats s = {.struct_size = sizeof(s)};
    qchain_remote_stats remote = {.struct_size = sizeof(remote)};

    if (qchain_env_stats(t->env, &s) != 0 || qchain_env_remote_stats(t->env, &remote) != 0)
        return;
    print_local(t, &s);
    print_remote(t, &remote);
    if (t->stats == TOOL_STATS_JSON)
        fputs("}\n", stderr);
}
