/* SPDX-License-Identifier: MIT */
#include "format/format.h"

#include <string.h>

#include "util/alloc.h"

static void free_text(const char *p)
{
    qc_free((void *)(uintptr_t)p);
}

void qc_info_finish(qchain_image_info *info)
{
    if (!info)
        return;
    for (uint32_t i = 0; info->snapshots && i < info->n_snapshots; i++) {
        free_text(info->snapshots[i].id);
        free_text(info->snapshots[i].name);
    }
    for (uint32_t i = 0; info->bitmaps && i < info->n_bitmaps; i++)
        free_text(info->bitmaps[i].name);
    qc_free((void *)(uintptr_t)info->snapshots);
    qc_free((void *)(uintptr_t)info->bitmaps);
    free_text(info->name);
    free_text(info->format);
    free_text(info->backing_name);
    free_text(info->backing_resolved);
    free_text(info->backing_format);
    free_text(info->data_file);
    free_text(info->backing_name_raw);
    free_text(info->data_file_raw);
    memset(info, 0, sizeof(*info));
}
