/* SPDX-License-Identifier: MIT */
/*
 * Check and repair of one qcow2 image in memory. The last bits of the length of the input choose what is repaired.
 * Nothing is found worse after a repair, a check writes nothing, and what the repair says is what the next check
 * finds.
 */
#include "fuzz_disk.h"
#include "qcow2/check.h"
#include "util/alloc.h"
#include "util/error.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void found(void *data, int level, const char *message)
{
    (void)level;
    *(size_t *)data += strlen(message);
}

static int check(struct disk *d, uint32_t flags, struct qc2_check_result *r)
{
    qchain_store from = disk_store(d);
    size_t said = 0;
    struct qc2_check_opts o = {.flags = flags, .max_memory = 64u << 20, .found = found,
                               .found_data = &said};
    struct qc_store *s;
    int rc = qc_store_create(&s, &from, NULL, NULL);

    if (rc == 0) {
        rc = qc2_check(s, &o, r, NULL);
        qc_store_destroy(s);
    }
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint32_t flags = size & 1 ? QC2_CHECK_REPAIR_LEAKS : QC2_CHECK_REPAIR_ALL;
    struct disk d = disk_of(data, size);
    struct qc2_check_result before, mended, after;

    if (!d.p)
        return 0;
    if (check(&d, 0, &before) == 0) {
        if (d.n_writes > 0 || d.size != size || memcmp(d.p, data, size) != 0)
            abort();
        if (check(&d, flags, &mended) == 0) {
            /* A count that is raised may leave a COPIED flag that cannot be written. */
            if (mended.corruptions > 2 * before.corruptions || check(&d, 0, &after) != 0 ||
                after.corruptions != mended.corruptions || after.leaks != mended.leaks)
                abort();
        } else if (check(&d, 0, &after) != 0) {
            abort();
        }
    }
    free(d.p);
    return 0;
}
