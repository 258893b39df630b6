/* SPDX-License-Identifier: MIT */
/*
 * A qcow2 image in memory that is open for writing, with what the chain room does with it done in the simplest
 * way, and a model that says what its disk reads as. For tests that include <cmocka.h>.
 */
#ifndef QC_TESTS_WRITE_RIG_H
#define QC_TESTS_WRITE_RIG_H

#include "format/format.h"
#include "qcow2/writer.h"

struct rig_opts {
    unsigned cluster_bits, refcount_order;
    uint32_t version; /* 2 or 3 */
    bool     extended, data_file, data_raw, zstd, backing, discard;
    uint64_t disk, room; /* bytes: of the disk, and that the file can have at most */
    uint64_t cache_bytes;
};

/* A file in memory. */
struct rig_file {
    uint8_t         *p;
    uint64_t         size, room;
    int              fail_in; /* so many writes go well, one fails; 0: none fails */
    struct qc_store *store;
};

struct rig {
    struct rig_opts   o;
    struct rig_file   file, data;
    struct qc_slots  *requests;
    struct qc_image  *img;
    uint8_t          *model;   /* what the disk reads as */
    uint64_t          model_room;
    uint8_t          *below;   /* what the layer below reads as; as long as the model */
    struct qc_decoder *decoder;
    struct qc_encoder *encoder;
};

/* An empty image. */
void rig_make(struct rig *r, const struct rig_opts *o);
/* Open it (again) for writing. */
void rig_begin(struct rig *r);
/* Write out and close, so that rig_check and rig_begin can follow. */
void rig_end(struct rig *r);
/* The same without writing out: what a crash leaves. */
void rig_crash(struct rig *r);
void rig_destroy(struct rig *r);

/* These change the image and the model. One thread at a time for a cluster. */
void rig_write(struct rig *r, uint64_t offset, uint64_t length, const uint8_t *buf);
void rig_zero(struct rig *r, uint64_t offset, uint64_t length, uint32_t flags);
void rig_discard(struct rig *r, uint64_t offset, uint64_t length);
/* One whole cluster, compressed if that makes it smaller. */
void rig_write_compressed(struct rig *r, uint64_t offset, const uint8_t *buf);
void rig_resize(struct rig *r, uint64_t size);
/* Read through locate; of the disk, or what lies beyond it. */
void rig_read(struct rig *r, uint64_t offset, uint64_t length, uint8_t *buf);

/* The disk reads as the model says, through locate. */
void rig_compare(struct rig *r);
/* The same by what reads closed images; snapshot: NULL, or one to be read, which must read as `model`. */
void rig_compare_closed(struct rig *r, const char *snapshot, const uint8_t *model, uint64_t size);
/* Have qemu-img, if it is installed, check the closed image (no errors, no leaks), and read it. */
void rig_check(struct rig *r);
/* Store the closed image, its data file and what lies below as files name.*; false without qemu-img. */
bool rig_save(struct rig *r, const char *name);
bool rig_load(struct rig *r, const char *name);
int  rig_run(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
