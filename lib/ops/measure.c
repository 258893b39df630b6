/* SPDX-License-Identifier: MIT */
/* How large the file of a new image would be; the same numbers as QEMU's, which count tables of whole clusters. */
#include <inttypes.h>
#include <string.h>

#include "chain/chain.h"
#include "ops/create.h"
#include "util/alloc.h"
#include "util/bytes.h"

#define BATCH 256
#define L1_MOST (QC2_MAX_L1_ENTRIES * UINT64_C(8))

/* Bytes of refcount blocks and their table for so many other clusters. */
static uint64_t refcount_bytes(const struct qc2_create_opts *o, uint64_t clusters)
{
    uint64_t per_block = o->cluster_size * 8 / o->refcount_bits, per_table = o->cluster_size / 8;
    uint64_t blocks = 0, table = 0, all = 0, last;

    do {
        last = all;
        blocks = qc_div_up(clusters + table + blocks, per_block);
        table = qc_div_up(blocks, per_table);
        all = clusters + blocks + table;
    } while (all != last);
    return (blocks + table) * o->cluster_size;
}

/* A file that holds all of the disk, of `size` bytes in whole clusters. */
static int full_size(const struct qc2_create_opts *o, uint64_t size, uint64_t *full, qchain_error *err)
{
    uint64_t cs = o->cluster_size, entry = o->extended_l2 ? 16 : 8;
    uint64_t l2 = qc_div_up(size / cs, cs / entry); /* tables */
    uint64_t l1 = qc_div_up(l2, cs / 8), meta;

    if (l2 * 8 > L1_MOST)
        return qc_fail(err, QCHAIN_E_LIMIT,
                       "measure: a disk of %" PRIu64 " bytes is too large for clusters of %" PRIu64 " bytes",
                       size, cs);
    meta = (1 + l2 + l1) * cs;
    *full = size + meta + refcount_bytes(o, (size + meta) / cs);
    return QCHAIN_OK;
}

/* Bytes of clusters that hold data of the source. */
static int count_data(qchain *c, uint64_t cs, uint64_t *bytes, qchain_error *err)
{
    qchain_extent *e = qc_calloc(BATCH, sizeof(*e));
    uint64_t pos = 0, next = 0, first, last;
    uint32_t n;
    int ret = 0;

    if (!e)
        return qc_fail_nomem(err);
    while (ret == 0 && next < c->size) {
        n = 0;
        ret = qc_chain_map(c, next, c->size, e, BATCH, &n, &next, 0, err);
        for (uint32_t i = 0; ret == 0 && i < n; i++) {
            if (!(e[i].flags & QCHAIN_EXTENT_DATA) || e[i].flags & QCHAIN_EXTENT_ZERO)
                continue;
            first = qc_max64(pos, qc_align_down(e[i].offset, cs));
            last = qc_align_up(e[i].offset + e[i].length, cs);
            if (last > first)
                *bytes += last - first;
            pos = qc_max64(pos, last);
        }
    }
    qc_free(e);
    return ret;
}

/* What the bitmaps of the source's top take, with tables and directory; UINT64_MAX if it cannot have any. */
static int count_bitmaps(qchain *c, uint64_t cs, uint64_t *bytes, qchain_error *err)
{
    qchain_image_info info = {.struct_size = sizeof(info)};
    uint64_t directory = 0, sum = 0;
    int ret = qc_layer_describe(&info, c, 0, err);

    *bytes = UINT64_MAX;
    if (ret != 0 || info.version < 3) {
        qc_info_finish(&info);
        return ret;
    }
    for (uint32_t i = 0; i < info.n_bitmaps; i++) {
        const qchain_bitmap_info *b = &info.bitmaps[i];
        uint64_t bits = qc_div_up(c->size, b->granularity);
        uint64_t clusters = qc_div_up(qc_div_up(bits, 8), cs);

        if (b->flags & QCHAIN_BITMAP_IN_USE) /* not to be trusted, so not copied */
            continue;
        sum += clusters * cs + qc_align_up(clusters * 8, cs);
        directory += qc_align_up(24 + strlen(b->name), 8);
    }
    *bytes = sum + qc_align_up(directory, cs);
    qc_info_finish(&info);
    return ret;
}

static int measure_qcow2(qchain *source, const struct qc2_create_opts *o, uint64_t size,
                         qchain_measure_result *out, qchain_error *err)
{
    uint64_t cs = o->cluster_size, whole = qc_align_up(size, cs), used = 0;
    int ret = full_size(o, whole, &out->fully_allocated, err);

    if (ret == 0 && source)
        ret = count_data(source, cs, &used, err);
    if (ret == 0 && source && o->version >= 3)
        ret = count_bitmaps(source, cs, &out->bitmaps, err);
    /* What of the source the backing file holds is not known. */
    if ((source && o->backing_file) || o->preallocation >= QCHAIN_PREALLOC_FALLOC)
        used = whole;
    out->required = out->fully_allocated - whole + used;
    return ret;
}

int qc_measure(qchain *source, const qchain_create_opts *opts, qchain_measure_result *out,
               qchain_error *err)
{
    struct qc2_create_opts o;
    uint64_t size = source ? source->size : opts->size;
    bool raw;
    int ret = qc_create_parse(&o, &raw, opts, err);

    out->bitmaps = UINT64_MAX;
    if (ret == 0)
        ret = qc_create_round(&size, err);
    if (ret == 0 && !raw)
        return measure_qcow2(source, &o, size, out, err);
    out->required = out->fully_allocated = size;
    return ret;
}
