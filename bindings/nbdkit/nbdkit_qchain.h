/* SPDX-License-Identifier: MIT */
/*
 * nbdkit_qchain.h - what the parts of the nbdkit plugin know of each other.
 *
 *   nbdkit_config.c   the command line: names, policy, how URLs are reached
 *   nbdkit_export.c   one chain an export, shared by its connections; the environment of all
 *   nbdkit_data.c     reading, writing, extents
 *   nbdkit_plugin.c   what nbdkit calls
 *
 * What it shares with the tools is in examples/common.
 *
 * nbdkit goes to the background by fork, which open chains do not survive. So what is looked at before it lives in an
 * environment of its own, which ends before it.
 */
#ifndef NBDKIT_QCHAIN_H
#define NBDKIT_QCHAIN_H

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include <qchain.h>

#include "program.h"

/* One chain that clients may ask for. All but the names is guarded by its lock; what a connection uses stays as it
 * is until the last one is closed. */
struct qcn_export {
    const char     *name;    /* "" for the one of file= */
    const char     *image;   /* nbdkit's or interned: lives as long as the process */
    pthread_mutex_t lock;
    unsigned        users;   /* connections */
    qchain         *c;       /* NULL: not open */
    bool            writable;
    bool            far;     /* a layer lies behind a URL */
    bool            stale;   /* a layer was changed: to be opened anew when nobody uses it */
    uint64_t        unit;    /* bytes that are written without reading what is around them */
    uint64_t        fast_unit; /* zeros of whole units so large are no data; 0: of none */
};

/* All that the command line says. */
struct qcn_config {
    qchain_policy     *policy;
    qchain_remote     *remote;
    struct qcn_export *exports;
    size_t             n_exports;
    bool               has_default; /* exports[0] is that of file= */
    bool               write;
    uint32_t           flags;       /* QCHAIN_OPEN_* */
    const char        *format;
    const char        *snapshot;
    const char        *index;
};

extern struct qcn_config qcn_config;
extern NBDKIT_DLL_PUBLIC int qchain_debug_log; /* -D qchain.log=LEVEL: QCHAIN_LOG_* */

/* nbdkit_config.c. 0, or -1 with a complaint. */
extern const char qcn_config_help[];
int qcn_config_load(void);
int qcn_config_key(const char *key, const char *value);
int qcn_config_complete(void);
void qcn_config_free(void);

/* nbdkit_export.c */
int qcn_look(void);                     /* before the fork: can all be opened? */
int qcn_start(void);                    /* after it */
void qcn_end(void);
struct qcn_export *qcn_export_find(const char *name); /* NULL: there is none */
int qcn_export_use(struct qcn_export *e, bool read_only);
void qcn_export_leave(struct qcn_export *e);

/* nbdkit_data.c */
void qcn_errors_begin(void);
void qcn_errors_end(void);
qchain_error *qcn_error(void);          /* this thread's; may be NULL */
int qcn_fail(struct qcn_export *e, int code); /* tell what is in qcn_error(); -1 */
int qcn_pread(void *handle, void *buf, uint32_t count, uint64_t offset, uint32_t flags);
int qcn_pwrite(void *handle, const void *buf, uint32_t count, uint64_t offset, uint32_t flags);
int qcn_flush(void *handle, uint32_t flags);
int qcn_trim(void *handle, uint32_t count, uint64_t offset, uint32_t flags);
int qcn_zero(void *handle, uint32_t count, uint64_t offset, uint32_t flags);
int qcn_extents(void *handle, uint32_t count, uint64_t offset, uint32_t flags, struct nbdkit_extents *extents);
int qcn_cache(void *handle, uint32_t count, uint64_t offset, uint32_t flags);

#endif
