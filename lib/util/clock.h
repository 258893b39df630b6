/* SPDX-License-Identifier: MIT */
#ifndef QC_UTIL_CLOCK_H
#define QC_UTIL_CLOCK_H

#include <stdint.h>

/* Nanoseconds of the monotonic clock. */
uint64_t qc_now_ns(void);

#endif
