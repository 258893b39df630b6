/* SPDX-License-Identifier: MIT */
/* Entries of the table of internal snapshots: no I/O. */
#ifndef QC_QCOW2_SNAPSHOT_TABLE_H
#define QC_QCOW2_SNAPSHOT_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <qchain.h>

#define QC2_SNAPSHOT_FIXED 40u
#define QC2_SNAPSHOT_MAX_EXTRA 1024u
#define QC2_SNAPSHOT_MAX_ENTRY (40u + 1024u + 2u * 65535u)
#define QC2_SNAPSHOT_MAX_TABLE (UINT64_C(64) << 20)

struct qc2_snapshot {
    uint64_t    l1_offset;
    uint32_t    l1_size;
    uint32_t    date_sec;
    uint32_t    date_nsec;
    uint64_t    vm_clock_nsec;
    uint64_t    vm_state_size;
    bool        has_disk_size;
    uint64_t    disk_size;
    bool        has_icount;
    uint64_t    icount;
    const char *id;   /* in the parsed bytes, not terminated */
    const char *name; /* the same */
    size_t      id_len;
    size_t      name_len;
    uint64_t    bytes; /* of the entry, padded */
};

/* Parse the entry at p. Returns 0, a negative code, or how many bytes are needed
 * if that is more than len. number: of the entry, for messages. */
int64_t qc2_snapshot_parse(struct qc2_snapshot *s, const uint8_t *p, size_t len, uint32_t number,
                           qchain_error *err);

#endif
