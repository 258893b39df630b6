/* SPDX-License-Identifier: MIT */
/*
 * 02-map.c - walk over the map of a chain with a cursor.
 *
 *     02-map IMG
 *
 * prints each stretch of the virtual disk and what it is, then how much of the disk
 * is stored. Memory is bounded however large the disk is: a call fills an array of
 * the caller's, and says where the next call is to go on.
 */
#include <inttypes.h>
#include <stdio.h>

#include <qchain.h>

#define BATCH 256

static void print_extent(const qchain *chain, const qchain_extent *e)
{
    const char *kind = "data";

    if (e->flags & QCHAIN_EXTENT_ZERO)
        kind = "zeros";
    else if (e->flags & QCHAIN_EXTENT_COMPRESSED)
        kind = "compressed";

    printf("%12" PRIu64 " +%-12" PRIu64 " %-10s", e->offset, e->length, kind);

    /* PRESENT: some layer holds it. Zeros can be held too, and hide what is below. */
    if (e->flags & QCHAIN_EXTENT_PRESENT)
        printf(" layer %" PRIu32, e->layer);

    /* HAS_OFFSET: where the bytes lie in a file, so that one could read them there. */
    if ((e->flags & QCHAIN_EXTENT_HAS_OFFSET) && !(e->flags & QCHAIN_EXTENT_COMPRESSED))
        printf(" at %" PRIu64 " of %s", e->host_offset, qchain_source_name(chain, e->source));
    putchar('\n');
}

/* Prints the whole map; returns what the library answered. */
static int print_map(qchain *chain, qchain_error *err)
{
    uint64_t size = qchain_size(chain), at = 0, stored = 0;
    qchain_extent extents[BATCH];
    uint32_t n, i;
    int r;

    while (at < size) {
        /* `at` is the cursor: it goes in as the offset and comes back as the next. */
        r = qchain_map(chain, at, size - at, extents, BATCH, &n, &at, 0, err);
        if (r)
            return r;
        for (i = 0; i < n; i++) {
            print_extent(chain, &extents[i]);
            if (extents[i].flags & QCHAIN_EXTENT_DATA)
                stored += extents[i].length;
        }
    }
    printf("%" PRIu64 " of %" PRIu64 " bytes are stored\n", stored, size);
    return 0;
}

int main(int argc, char **argv)
{
    qchain_error *err;
    qchain *chain = NULL;
    int r;

    if (argc != 2) {
        fprintf(stderr, "usage: %s IMG\n", argv[0]);
        return 2;
    }
    err = qchain_error_create();
    r = qchain_open(&chain, NULL, argv[1], NULL, err);
    if (r == 0)
        r = print_map(chain, err);
    if (r)
        fprintf(stderr, "%s\n", qchain_error_message(err));
    qchain_close(chain); /* NULL is fine */
    qchain_error_destroy(err);
    return r ? 1 : 0;
}
