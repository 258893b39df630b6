/* SPDX-License-Identifier: MIT */
/* Under a checker that makes programs ten times slower, a test does a part of what it does at random: QC_SHORT
 * says which. */
#ifndef QC_TESTS_SHARE_H
#define QC_TESTS_SHARE_H

#include <stdlib.h>

static inline unsigned short_by(void)
{
    const char *text = getenv("QC_SHORT");
    unsigned n = text ? (unsigned)strtoul(text, NULL, 10) : 1;

    return n ? n : 1;
}

/* The part of n, at least 1. */
static inline unsigned share(unsigned n)
{
    return n / short_by() ? n / short_by() : 1;
}

#endif
