/* SPDX-License-Identifier: MIT */
/*
 * What a machine that stopped at some instant may have left of files that record (rec_store.h).
 *
 * The model of the medium is the worst that is known: a write reaches it at any time after it was begun; only a
 * flush that has ended tells that all writes to that file that had ended when it began are there, and says nothing
 * of other files; sectors of 512 bytes are whole; of longer writes any sectors may be there. What lies past the end
 * that was written is not there.
 */
#ifndef QC_TESTS_CRASH_STATES_H
#define QC_TESTS_CRASH_STATES_H

#include "rec_store.h"

struct crash_walk {
    struct rec_log *log;
    unsigned        most;     /* states between two flushes, about                                  */
    unsigned        random;   /* subsets at random, at least; where all are told, with parts of what is missing */
    bool            any_time; /* whether a state is right does not depend on when: it is told once  */
    uint64_t        seed;
    /* Look at a state: state[i] is what became of file i; it may be written to. at: the log's clock at the crash.
     * Any value but 0 ends the walk. */
    int           (*tell)(void *data, struct rec_store *const *state, uint64_t at, const char *which);
    void           *data;
    uint64_t        told, same; /* out: states, and how many more were the same as one that was told */
};

/* All states between any two flushes: all subsets of the operations if those are few; else all prefixes, each
 * operation missing, each one alone, some subsets; and writes of which some sectors are there. What tell returned. */
int crash_walk(struct crash_walk *w);

/* The machine loses power, and is switched on again: of what was not flushed each sector arrived or not. The
 * recording begins anew. */
void crash_restart(struct rec_log *log, uint64_t *seed);

#endif
