/* SPDX-License-Identifier: MIT */
/* Raw images: the file is the disk. Never probed. */
#ifndef QC_RAW_RAW_IMAGE_H
#define QC_RAW_RAW_IMAGE_H

#include "format/format.h"

extern const struct qc_format qc_raw_format;

#endif
