/* SPDX-License-Identifier: MIT */
#include "chain/env.h"

#include <sys/mman.h>
#include <unistd.h>

#include "chain/codec.h"
#include "chain/verify.h"
#include "remote/remote.h"
#include "util/alloc.h"
#include "util/error.h"
#include "util/tasks.h"

#define DEFAULT_BYTES (UINT64_C(32) << 20)
#define MAX_DEFAULT_THREADS 16
#define DEFAULT_WALKERS 4
#define FAR_THREADS 128

static uint32_t default_threads(void)
{
    long n = sysconf(_SC_NPROCESSORS_ONLN);

    return n < 1 ? 1 : n > MAX_DEFAULT_THREADS ? MAX_DEFAULT_THREADS : (uint32_t)n;
}

static atomic_uint *map_alive_page(void)
{
    size_t size = (size_t)sysconf(_SC_PAGESIZE);
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED)
        return NULL;
    /* Where the kernel cannot wipe, a child is not noticed; nothing else depends on it. */
    (void)madvise(p, size, MADV_WIPEONFORK);
    return p;
}

static int make_remote(qchain_env *env, const qchain_remote *conf, qchain_error *err)
{
    struct qc_remote_deps deps = {.leaves = env->leaves, .blocks = env->blocks,
                                  .next_owner = &env->next_owner, .slots = env->slots,
                                  .log = &env->log};

    return qc_remote_create(&env->remote, conf, &deps, err);
}

int qc_env_create(qchain_env **out, const qchain_env_opts *opts, qchain_error *err)
{
    qchain_env *env = qc_calloc(1, sizeof(*env));
    uint32_t threads = opts->threads ? opts->threads : default_threads();

    if (!env)
        return qc_fail_nomem(err);
    env->log.fn = opts->log;
    env->log.data = opts->log_data;
    env->log.level = opts->log_level ? (int)opts->log_level : QCHAIN_LOG_WARN;
    pthread_mutex_init(&env->codec_lock, NULL);
    qc_ring_init(&env->windows, opts->index_bytes ? opts->index_bytes : DEFAULT_BYTES);
    env->slots = qc_slots_create();
    env->pool = qc_pool_create(threads);
    env->far = qc_pool_create(FAR_THREADS);
    env->far_tasks = qc_tasks_create(FAR_THREADS);
    env->leaves = qc_tasks_create(threads);
    env->walkers = qc_tasks_create(opts->walkers ? opts->walkers : DEFAULT_WALKERS);
    env->fds = env->slots ? qc_fdpool_create(opts->max_open_files, env->slots) : NULL;
    env->blocks = qc_block_cache_create(opts->block_bytes ? opts->block_bytes : DEFAULT_BYTES);
    env->verifier = qc_verifier_create(env);
    env->policy = opts->policy ? qc_policy_copy(opts->policy) : qc_policy_new();
    env->alive = map_alive_page();
    if (!env->slots || !env->pool || !env->far || !env->far_tasks || !env->leaves || !env->walkers ||
        !env->fds || !env->blocks || !env->verifier || !env->policy || !env->alive || make_remote(env, opts->remote, NULL) != 0) {
        qc_env_destroy(env);
        return qc_fail_nomem(err);
    }
    env->log_free = opts->log_free;
    *out = env;
    return 0;
}

void qc_env_destroy(qchain_env *env)
{
    if (!env)
        return;
    /* In a forked child the threads that the pool would join do not exist. */
    if (env->alive && atomic_load(&env->in_use) && qc_env_forked(env))
        return;
    qc_tasks_destroy(env->walkers);
    qc_verifier_stop(env->verifier);
    qc_tasks_destroy(env->far_tasks);
    qc_verifier_destroy(env->verifier);
    qc_remote_stop(env->remote);
    qc_tasks_destroy(env->leaves);
    qc_remote_destroy(env->remote);
    qc_pool_destroy(env->far);
    qc_pool_destroy(env->pool);
    qc_codecs_destroy(env->codecs);
    qc_block_cache_destroy(env->blocks);
    qc_slots_destroy(env->slots); /* frees the last windows */
    qc_ring_finish(&env->windows);
    qc_fdpool_destroy(env->fds);
    qc_policy_free(env->policy);
    pthread_mutex_destroy(&env->codec_lock);
    if (env->alive)
        munmap(env->alive, (size_t)sysconf(_SC_PAGESIZE));
    if (env->log_free)
        env->log_free(env->log.data);
    qc_free(env);
}

int qc_fail_forked(qchain_error *err)
{
    return qc_fail(err, QCHAIN_E_INVAL,
                   "the chain was opened before fork(); handles do not survive it: "
                   "open it again in the child, in an environment of its own");
}

int qc_env_enter(qchain_env *env, qchain_error *err)
{
    if (!atomic_load(&env->in_use)) {
        atomic_store(env->alive, 1);
        atomic_store(&env->in_use, true);
        return 0;
    }
    return qc_env_forked(env) ? qc_fail_forked(err) : 0;
}
