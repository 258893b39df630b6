/* SPDX-License-Identifier: MIT */
/* Environments and policies. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/api.h"
#include "chain/chain.h"
#include "util/alloc.h"
#include "util/escape.h"

#define TEXT_MAX (1 << 20)
#define KNOWN_POLICY (QCHAIN_POLICY_TRUST | QCHAIN_POLICY_DATA_FILE | QCHAIN_POLICY_BLOCK_DEVICE)

void qchain_env_opts_init(qchain_env_opts *o, size_t size)
{
    qc_opts_init(o, size);
}

static int check_env_opts(const qchain_env_opts *o, qchain_error *err)
{
    if (o->flags != 0)
        return qc_fail(err, QCHAIN_E_INVAL, "environment: unknown flags 0x%x", o->flags);
    if (o->threads > 1024)
        return qc_fail(err, QCHAIN_E_INVAL, "environment: threads=%u: at most 1024", o->threads);
    if (o->index_bytes && o->index_bytes < (1 << 20))
        return qc_fail(err, QCHAIN_E_INVAL, "environment: index_bytes: at least 1 MiB");
    if (o->walkers > 64 || o->reserved0)
        return qc_fail(err, QCHAIN_E_INVAL,
                       "environment: walkers=%u: at most 64; reserved fields must be 0", o->walkers);
    if (o->log_level > QCHAIN_LOG_DEBUG)
        return qc_fail(err, QCHAIN_E_INVAL, "environment: log_level=%u is unknown", o->log_level);
    return 0;
}

int qchain_env_create(qchain_env **out, const qchain_env_opts *opts, qchain_error *err)
{
    qchain_env_opts o;
    int ret;

    QC_ERR(err);
    if (!out)
        return qc_fail(err, QCHAIN_E_INVAL, "qchain_env_create: out is NULL");
    *out = NULL;
    ret = qc_opts_copy(&o, sizeof(o), opts, err);
    if (ret == 0)
        ret = check_env_opts(&o, err);
    if (ret == 0)
        ret = qc_env_create(out, &o, err);
    if (ret != 0 && o.log_free)
        o.log_free(o.log_data);
    return ret;
}

void qchain_env_destroy(qchain_env *env)
{
    qc_env_destroy(env);
}

int qchain_env_stats(qchain_env *env, qchain_stats *out)
{
    const struct qc_slots *s;
    qchain_stats stats = {0};

    if (!env || !out || qc_result_check(out, "statistics", NULL) != 0)
        return QCHAIN_E_INVAL;
    s = env->slots;
    stats.reads = qc_counter_sum(s, QC_CNT_READS);
    stats.read_bytes = qc_counter_sum(s, QC_CNT_READ_BYTES);
    stats.store_reads = qc_counter_sum(s, QC_CNT_STORE_READS);
    stats.store_bytes = qc_counter_sum(s, QC_CNT_STORE_BYTES);
    stats.meta_reads = qc_counter_sum(s, QC_CNT_META_READS);
    stats.meta_bytes = qc_counter_sum(s, QC_CNT_META_BYTES);
    stats.decoded_clusters = qc_counter_sum(s, QC_CNT_DECODED);
    stats.decoded_hits = qc_counter_sum(s, QC_CNT_DECODED_HITS);
    stats.index_fills = qc_counter_sum(s, QC_CNT_FILLS);
    stats.index_evictions = qc_counter_sum(s, QC_CNT_EVICTIONS);
    stats.index_bytes = qc_ring_bytes(&env->windows);
    stats.block_bytes = qc_block_cache_bytes(env->blocks);
    stats.open_files = qc_fdpool_open_count(env->fds);
    stats.file_opens = qc_counter_sum(s, QC_CNT_FILE_OPENS);
    stats.sidecar_reads = qc_counter_sum(s, QC_CNT_SIDECAR_READS);
    stats.sidecar_bytes = qc_counter_sum(s, QC_CNT_SIDECAR_BYTES);
    stats.queue_requests = qc_counter_sum(s, QC_CNT_QUEUE_REQUESTS);
    stats.queue_uring = qc_counter_sum(s, QC_CNT_QUEUE_URING);
    stats.queue_leaf = qc_counter_sum(s, QC_CNT_QUEUE_LEAF);
    stats.queue_walks = qc_counter_sum(s, QC_CNT_QUEUE_WALKS);
    stats.store_writes = qc_counter_sum(s, QC_CNT_STORE_WRITES);
    stats.store_write_bytes = qc_counter_sum(s, QC_CNT_STORE_WRITE_BYTES);
    stats.flushes = qc_counter_sum(s, QC_CNT_FLUSHES);
    qc_stats_out(out, &stats, sizeof(stats));
    return 0;
}

qchain_policy *qchain_policy_create(void)
{
    return qc_policy_new();
}

void qchain_policy_destroy(qchain_policy *p)
{
    qc_policy_free(p);
}

int qchain_policy_allow_path(qchain_policy *p, const char *path, qchain_error *err)
{
    if (!p || !path)
        return qc_fail(err, QCHAIN_E_INVAL, "qchain_policy_allow_path: an argument is NULL");
    return qc_policy_add_root(p, path, err);
}

int qchain_policy_backing_format(qchain_policy *p, const char *format, qchain_error *err)
{
    if (!p)
        return qc_fail(err, QCHAIN_E_INVAL, "qchain_policy_backing_format: p is NULL");
    return qc_policy_set_format(p, format, err);
}

int qchain_policy_allow(qchain_policy *p, uint32_t flags, qchain_error *err)
{
    if (!p)
        return qc_fail(err, QCHAIN_E_INVAL, "qchain_policy_allow: p is NULL");
    if (flags & ~(uint32_t)KNOWN_POLICY)
        return qc_fail(err, QCHAIN_E_INVAL, "qchain_policy_allow: unknown flags 0x%x", flags);
    p->flags |= flags;
    return 0;
}

int qchain_policy_parse(qchain_policy *p, const char *text, qchain_error *err)
{
    QC_ERR(err);
    if (!p || !text)
        return qc_fail(err, QCHAIN_E_INVAL, "qchain_policy_parse: an argument is NULL");
    return qc_policy_read(p, text, "policy", err);
}

int qc_read_text(int fd, char **text, qchain_error *err)
{
    size_t used = 0;
    ssize_t n;
    int ret = 0;
    char *buf = qc_malloc(TEXT_MAX + 1);

    if (!buf)
        return qc_fail_nomem(err);
    while (used < TEXT_MAX) {
        n = read(fd, buf + used, TEXT_MAX - used);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            ret = n < 0 ? qc_fail_errno(err, errno, "cannot be read") : 0;
            break;
        }
        used += (size_t)n;
    }
    buf[used] = '\0';
    if (ret == 0 && (used == TEXT_MAX || strlen(buf) != used))
        ret = qc_fail(err, QCHAIN_E_INVAL, "is no text of less than 1 MiB");
    if (ret != 0) {
        explicit_bzero(buf, used); /* it may hold secrets */
        qc_free(buf);
        return ret;
    }
    *text = buf;
    return 0;
}

int qchain_policy_load(qchain_policy *p, const char *path, qchain_error *err)
{
    struct qc_escaped shown;
    struct stat st;
    char *text = NULL;
    int fd, ret;

    QC_ERR(err);
    if (!p || !path)
        return qc_fail(err, QCHAIN_E_INVAL, "qchain_policy_load: an argument is NULL");
    qc_escape_str(&shown, path);
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return qc_fail_errno(err, errno, "policy '%s'", shown.text);
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        ret = qc_fail(err, QCHAIN_E_ACCESS, "is not a regular file");
    else
        ret = qc_read_text(fd, &text, err);
    close(fd);
    if (ret != 0)
        qc_error_prefix(err, -1, "policy '%s': ", shown.text);
    else
        ret = qc_policy_read(p, text, shown.text, err);
    qc_free(text);
    return ret;
}
