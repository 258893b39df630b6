/* SPDX-License-Identifier: MIT */
/*
 * The snapshot table is a row of entries, each padded to a multiple of 8:
 *
 *   OFFSET SIZE FIELD
 *        0    8 offset of the snapshot's L1 table
 *        8    4 entries of that table
 *       12    2 length of the id
 *       14    2 length of the name
 *       16    4 date, seconds
 *       20    4 date, nanoseconds
 *       24    8 how long the guest had run, nanoseconds
 *       32    4 size of the VM state, if the extra data has none
 *       36    4 length of the extra data
 *       40      extra data: 8 size of the VM state, 8 size of the disk,
 *               8 icount (all ones: none); more may follow
 *               id, name; without NUL
 */
#include "qcow2/snapshot_table.h"

#include <inttypes.h>
#include <string.h>

#include "util/bytes.h"
#include "util/error.h"

static void read_extra(struct qc2_snapshot *s, const uint8_t *extra, uint32_t len)
{
    if (len >= 8)
        s->vm_state_size = qc_be64(extra);
    if (len >= 16) {
        s->has_disk_size = true;
        s->disk_size = qc_be64(extra + 8);
    }
    if (len >= 24) {
        s->icount = qc_be64(extra + 16);
        s->has_icount = s->icount != UINT64_MAX;
    }
}

int64_t qc2_snapshot_parse(struct qc2_snapshot *s, const uint8_t *p, size_t len, uint32_t number,
                           qchain_error *err)
{
    uint32_t extra;
    size_t need;

    if (len < QC2_SNAPSHOT_FIXED)
        return QC2_SNAPSHOT_FIXED;
    memset(s, 0, sizeof(*s));
    s->l1_offset = qc_be64(p);
    s->l1_size = qc_be32(p + 8);
    s->id_len = qc_be16(p + 12);
    s->name_len = qc_be16(p + 14);
    s->date_sec = qc_be32(p + 16);
    s->date_nsec = qc_be32(p + 20);
    s->vm_clock_nsec = qc_be64(p + 24);
    s->vm_state_size = qc_be32(p + 32);
    extra = qc_be32(p + 36);
    if (extra > QC2_SNAPSHOT_MAX_EXTRA)
        return qc_fail(err, QCHAIN_E_LIMIT,
                       "snapshot %" PRIu32 " extra_data_size=%" PRIu32 ": at most 1024", number,
                       extra);
    need = QC2_SNAPSHOT_FIXED + extra + s->id_len + s->name_len;
    if (len < need)
        return (int64_t)need;
    read_extra(s, p + QC2_SNAPSHOT_FIXED, extra);
    s->id = (const char *)p + QC2_SNAPSHOT_FIXED + extra;
    s->name = s->id + s->id_len;
    s->bytes = qc_align_up(need, 8);
    return 0;
}
