/* SPDX-License-Identifier: MIT */
/* What many chains share: threads, budgets, policy, log. */
#ifndef QC_CHAIN_ENV_H
#define QC_CHAIN_ENV_H

#include <pthread.h>
#include <stdatomic.h>

#include "cache/block_cache.h"
#include "chain/policy.h"
#include "chain/window.h"
#include "format/format.h"
#include "io/file.h"
#include "util/log.h"
#include "util/pool.h"
#include "util/slots.h"

struct qc_codec;
struct qc_remote;
struct qc_verifier;
struct qc_tasks;

struct qchain_env {
    struct qc_log          log;
    void                 (*log_free)(void *data);
    struct qc_slots       *slots;
    struct qc_pool        *pool;
    struct qc_pool        *far;     /* for what is far away: threads that mostly wait, */
    struct qc_tasks       *far_tasks; /* and their queued tasks, which may wait for walkers */
    struct qc_remote      *remote;  /* layers behind URLs */
    struct qc_verifier    *verifier; /* what sidecars say of these, compared in the background */
    struct qc_tasks       *leaves;  /* for queues: tasks that wait for nothing queued */
    struct qc_tasks       *walkers; /* and those that read metadata */
    struct qc_fdpool      *fds;
    struct qc_block_cache *blocks;
    struct qc_ring         windows; /* all chains' windows under one budget */
    qchain_policy         *policy;
    pthread_mutex_t        codec_lock;
    struct qc_codec       *codecs;  /* idle decoders; under codec_lock */
    atomic_uint_fast64_t   next_owner;
    /* Fork: a page that the kernel wipes in a child. in_use says that a chain was
     * opened in this environment, in this process or before a fork. */
    atomic_uint           *alive;
    atomic_bool            in_use;
};

/* opts are checked already. On failure log_free has not been called. */
int qc_env_create(qchain_env **out, const qchain_env_opts *opts, qchain_error *err);
void qc_env_destroy(qchain_env *env); /* NULL is fine; calls log_free */

/* Note that a chain lives here; INVAL in a forked child of a process that had
 * opened one. */
int qc_env_enter(qchain_env *env, qchain_error *err);

/* True in a forked child of the process that used the environment. */
static inline bool qc_env_forked(const qchain_env *env)
{
    return atomic_load_explicit(env->alive, memory_order_relaxed) == 0;
}

int qc_fail_forked(qchain_error *err);

#endif
