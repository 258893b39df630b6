/* SPDX-License-Identifier: MIT */
/*
 * The format seam: what the chain room knows of an image format. A format
 * translates its own offsets; it opens no other file and knows no neighbours.
 */
#ifndef QC_FORMAT_FORMAT_H
#define QC_FORMAT_FORMAT_H

#include <stdbool.h>
#include <qchain.h>

#include "format/run.h"
#include "io/store.h"
#include "util/log.h"

struct qc_image;
struct qc_decoder;
struct qc_write_ops; /* format/write.h */

struct qc_image_opts {
    const char          *snapshot; /* internal snapshot to open, or NULL */
    bool                 salvage;  /* metadata past the end reads as zeros */
    bool                 describe; /* only describe() will be called: encrypted
                                      images are welcome */
    const struct qc_log *log;      /* borrowed for the image's life; may be NULL */
};

struct qc_format {
    const char *name; /* "qcow2" */

    /* True if head (the first bytes of a file) is this format's. NULL: never
     * probed (raw). */
    bool (*probe)(const uint8_t *head, size_t len);

    /* Parse the header. store is borrowed. Fills in the common part of *out. */
    int (*open)(struct qc_image **out, struct qc_store *store, const struct qc_image_opts *opts,
                qchain_error *err);
    void (*close)(struct qc_image *img); /* NULL is fine; not the stores */

    /* Append the runs of [offset, offset + length) to out: multiples of the
     * allocation unit or of 512, within the virtual size, sorted; what is absent
     * in this layer is left out. Runs are clipped to the range, except that a
     * compressed run is whole (callers ask for multiples of 2 MiB or of the
     * disk's end, so it never sticks out but past the virtual size, where it is
     * clipped in length only). Called by many threads. Blocks. */
    int (*map)(struct qc_image *img, uint64_t offset, uint64_t length, struct qc_runs *out,
               qchain_error *err);

    /* Bring what mapping the disk's beginning will mostly need into the store's cache, at once. NULL: the
     * format knows of nothing. Blocks. */
    void (*read_ahead)(struct qc_image *img);

    /* The first guest offset >= offset that this layer may hold anything at;
     * UINT64_MAX if none. Cheap; may err towards too low. */
    int (*next_used)(struct qc_image *img, uint64_t offset, uint64_t *used, qchain_error *err);

    /* True if holes under this layer's data shall be looked for when mapping. */
    int (*may_have_holes)(struct qc_image *img, bool *holes, qchain_error *err);

    /* A decoder for compressed runs, for one thread at a time; NULL slot: the
     * format has none. */
    struct qc_decoder *(*decoder_create)(const struct qc_image *img);
    void (*decoder_destroy)(struct qc_decoder *d);
    /* Decode one cluster: exactly out_len bytes (the image's cluster size) or
     * CORRUPT. in_len may hold bytes past the stream's end. */
    int (*decode)(struct qc_decoder *d, void *out, size_t out_len, const void *in, size_t in_len,
                  qchain_error *err);

    /* Fill in what the format knows (name, sizes of the file and backing_resolved
     * are the caller's). Strings and arrays are qc_malloc'ed one by one into info;
     * the caller frees them with qc_info_finish. Blocks. */
    int (*describe)(struct qc_image *img, qchain_image_info *info, qchain_error *err);

    const struct qc_write_ops *write; /* NULL: it is for reading only */
};

/* The common part of every open image; a format embeds it first. */
struct qc_image {
    const struct qc_format *format;
    struct qc_store        *store;        /* borrowed */
    struct qc_store        *data_store;   /* borrowed; the external data file, set by the
                                             chain after open; NULL: data is in store */
    uint64_t                virtual_size; /* multiple of 512 */
    uint64_t                map_unit;     /* bytes one piece of top-level metadata covers (an L2
                                             table); >= cluster_size */
    uint32_t                cluster_size; /* 0: raw */
    uint32_t                run_unit;     /* bytes: no run is shorter, but at the disk's end; 0: raw */
    uint32_t                decoder_kind; /* images with the same format, kind and cluster size
                                             share decoders */
    bool                    wants_data_file;
    char                   *backing_name;   /* raw bytes, or NULL */
    char                   *backing_format; /* or NULL */
    char                   *data_file_name; /* or NULL */
};

/* The formats known, by name ("qcow2", "raw") or by the first bytes of a file
 * (raw if none). Names come from lib/api; these look through a given table. */
const struct qc_format *qc_format_by_name(const struct qc_format *const *table, const char *name);
const struct qc_format *qc_format_probe(const struct qc_format *const *table,
                                        const uint8_t *head, size_t len);

/* Free every string and array in an info, and zero it. */
void qc_info_finish(qchain_image_info *info);

#endif
