/* SPDX-License-Identifier: MIT */
/*
 * bench_places LIST READS TOP - choose where bench_read and ref_pread read.
 *
 * Chooses READS places of 4 KiB among the stored bytes of a chain, the same ones every time, and
 * writes where they lie: lines "F NAME" number the files from 0, lines "R FILE HOST GUEST" are
 * the reads.
 */
#include <qchain.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

enum { BLOCK = 4096, BATCH = 4096 };

static void die(const char *what, const char *why)
{
    fprintf(stderr, "bench_places: %s: %s\n", what, why);
    exit(1);
}

static void *grow(void *p, size_t used, size_t *room, size_t unit)
{
    if (used < *room)
        return p;
    *room = *room ? *room * 2 : 65536;
    p = realloc(p, *room * unit);
    if (!p)
        die("list", "no memory");
    return p;
}

/* All extents that hold plain stored bytes; blocks[i] counts the 4 KiB before the end of i. */
static qchain_extent *stored(qchain *chain, size_t *count, uint64_t **blocks, qchain_error *err)
{
    static qchain_extent batch[BATCH];
    const uint32_t want = QCHAIN_EXTENT_DATA | QCHAIN_EXTENT_HAS_OFFSET;
    qchain_extent *all = NULL;
    uint64_t at = 0, total = 0;
    size_t n = 0, room = 0, room_blocks = 0;

    while (at < qchain_size(chain)) {
        uint32_t got;

        if (qchain_map(chain, at, qchain_size(chain) - at, batch, BATCH, &got, &at, 0, err) != 0)
            die("map", qchain_error_message(err));
        for (uint32_t i = 0; i < got; i++) {
            if ((batch[i].flags & (want | QCHAIN_EXTENT_COMPRESSED)) != want)
                continue;
            all = grow(all, n, &room, sizeof(*all));
            *blocks = grow(*blocks, n, &room_blocks, sizeof(**blocks));
            all[n] = batch[i];
            total += batch[i].length / BLOCK;
            (*blocks)[n++] = total;
        }
    }
    if (total == 0)
        die("map", "nothing is stored");
    *count = n;
    return all;
}

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void choose(qchain *chain, const char *list, size_t reads, qchain_error *err)
{
    uint64_t state = UINT64_C(0x9e3779b97f4a7c15), *blocks = NULL;
    size_t n;
    qchain_extent *all = stored(chain, &n, &blocks, err);
    FILE *out = fopen(list, "we");
    const char *name;

    if (!out)
        die(list, "cannot write");
    for (uint32_t i = 0; (name = qchain_source_name(chain, i)) != NULL; i++)
        fprintf(out, "F %s\n", name);
    for (size_t i = 0; i < reads; i++) {
        uint64_t pick = next_random(&state) % blocks[n - 1], inside;
        size_t lo = 0, hi = n - 1;

        while (lo < hi) {
            size_t mid = lo + (hi - lo) / 2;

            if (blocks[mid] > pick)
                hi = mid;
            else
                lo = mid + 1;
        }
        inside = (pick - (lo ? blocks[lo - 1] : 0)) * BLOCK;
        fprintf(out, "R %" PRIu32 " %" PRIu64 " %" PRIu64 "\n", all[lo].source,
                all[lo].host_offset + inside, all[lo].offset + inside);
    }
    if (fclose(out) != 0)
        die(list, "cannot write");
    free(all);
    free(blocks);
}

int main(int argc, char **argv)
{
    qchain_error *err = qchain_error_create();
    qchain *chain = NULL;

    if (argc != 4) {
        fprintf(stderr, "usage: bench_places LIST READS TOP\n");
        return 2;
    }
    if (qchain_open(&chain, NULL, argv[3], NULL, err) != 0)
        die("open", qchain_error_message(err));
    choose(chain, argv[1], strtoul(argv[2], NULL, 10), err);
    qchain_close(chain);
    qchain_error_destroy(err);
    return 0;
}
