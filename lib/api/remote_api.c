/* SPDX-License-Identifier: MIT */
/* Layers behind URLs: how they are reached, and what was done. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/api.h"
#include "chain/env.h"
#include "net/config.h"
#include "remote/remote.h"
#include "util/alloc.h"
#include "util/escape.h"

qchain_remote *qchain_remote_create(void)
{
    return qc_conf_new();
}

void qchain_remote_destroy(qchain_remote *r)
{
    qc_conf_free(r);
}

int qchain_remote_parse(qchain_remote *r, const char *text, qchain_error *err)
{
    QC_ERR(err);
    if (!r || !text)
        return qc_fail(err, QCHAIN_E_INVAL, "qchain_remote_parse: an argument is NULL");
    return qc_conf_read(r, text, "remote", err);
}

/* It says where credentials go, so only those may have written it whom the caller has to trust. */
static int check_file(int fd, qchain_error *err)
{
    struct stat st;

    if (fstat(fd, &st) != 0)
        return qc_fail_errno(err, errno, "cannot be examined");
    if (!S_ISREG(st.st_mode))
        return qc_fail(err, QCHAIN_E_ACCESS, "is not a regular file");
    if (st.st_uid != geteuid() && st.st_uid != 0)
        return qc_fail(err, QCHAIN_E_ACCESS, "belongs to another user (%lu)", (unsigned long)st.st_uid);
    if (st.st_mode & (S_IWGRP | S_IWOTH))
        return qc_fail(err, QCHAIN_E_ACCESS, "may be written to by others than its owner: "
                                             "take that away with chmod go-w");
    return 0;
}

int qchain_remote_load(qchain_remote *r, const char *path, qchain_error *err)
{
    struct qc_escaped shown;
    char *text = NULL;
    int fd, ret;

    QC_ERR(err);
    if (!r || !path)
        return qc_fail(err, QCHAIN_E_INVAL, "qchain_remote_load: an argument is NULL");
    qc_escape_str(&shown, path);
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return qc_fail_errno(err, errno, "remote configuration '%s'", shown.text);
    ret = check_file(fd, err);
    if (ret == 0)
        ret = qc_read_text(fd, &text, err);
    close(fd);
    if (ret != 0)
        qc_error_prefix(err, -1, "remote configuration '%s': ", shown.text);
    else
        ret = qc_conf_read(r, text, shown.text, err);
    if (text)
        explicit_bzero(text, strlen(text));
    qc_free(text);
    return ret;
}

int qchain_remote_set_credentials(qchain_remote *r, qchain_credentials_fn fn, void *data,
                                  void (*free_data)(void *data), qchain_error *err)
{
    int ret;

    if (!r)
        ret = qc_fail(err, QCHAIN_E_INVAL, "qchain_remote_set_credentials: r is NULL");
    else if (qc_conf_set_credentials(r, fn, data, free_data) != 0)
        ret = qc_fail_nomem(err);
    else
        return 0;
    if (free_data)
        free_data(data);
    return ret;
}

int qchain_policy_allow_url(qchain_policy *p, const char *url, qchain_error *err)
{
    QC_ERR(err);
    if (!p || !url)
        return qc_fail(err, QCHAIN_E_INVAL, "qchain_policy_allow_url: an argument is NULL");
    return qc_policy_add_url(p, url, err);
}

static void count_tiers(const struct qc_slots *s, qchain_remote_stats *stats)
{
    stats->memory_hits = qc_counter_sum(s, QC_CNT_MEMORY_HITS);
    stats->memory_bytes = qc_counter_sum(s, QC_CNT_MEMORY_BYTES);
    stats->joined = qc_counter_sum(s, QC_CNT_JOINED);
    stats->disk_hits = qc_counter_sum(s, QC_CNT_DISK_HITS);
    stats->disk_bytes = qc_counter_sum(s, QC_CNT_DISK_BYTES);
    stats->disk_stores = qc_counter_sum(s, QC_CNT_DISK_STORES);
    stats->disk_damaged = qc_counter_sum(s, QC_CNT_DISK_DAMAGED);
    stats->region_hits = qc_counter_sum(s, QC_CNT_REGION_HITS);
    stats->region_bytes = qc_counter_sum(s, QC_CNT_REGION_BYTES);
    stats->region_stores = qc_counter_sum(s, QC_CNT_REGION_STORES);
    stats->region_faults = qc_counter_sum(s, QC_CNT_REGION_FAULTS);
    stats->failovers = qc_counter_sum(s, QC_CNT_FAILOVERS);
}

int qchain_env_remote_stats(qchain_env *env, qchain_remote_stats *out)
{
    const struct qc_slots *s;
    qchain_remote_stats stats = {0};

    if (!env || !out || qc_result_check(out, "statistics", NULL) != 0)
        return QCHAIN_E_INVAL;
    s = env->slots;
    stats.requests = qc_counter_sum(s, QC_CNT_HTTP_REQUESTS);
    stats.bytes = qc_counter_sum(s, QC_CNT_HTTP_BYTES);
    stats.sent_bytes = qc_counter_sum(s, QC_CNT_HTTP_SENT_BYTES);
    stats.connections = qc_counter_sum(s, QC_CNT_HTTP_CONNECTIONS);
    stats.retries = qc_counter_sum(s, QC_CNT_HTTP_RETRIES);
    stats.hedges = qc_counter_sum(s, QC_CNT_HTTP_HEDGES);
    stats.redirects = qc_counter_sum(s, QC_CNT_HTTP_REDIRECTS);
    stats.wasted_bytes = qc_counter_sum(s, QC_CNT_HTTP_WASTED_BYTES);
    count_tiers(s, &stats);
    if (env->remote) {
        stats.first_byte_p50_us = qc_remote_latency_us(env->remote, true, 50);
        stats.first_byte_p90_us = qc_remote_latency_us(env->remote, true, 90);
        stats.first_byte_p99_us = qc_remote_latency_us(env->remote, true, 99);
        stats.total_p50_us = qc_remote_latency_us(env->remote, false, 50);
        stats.total_p90_us = qc_remote_latency_us(env->remote, false, 90);
        stats.total_p99_us = qc_remote_latency_us(env->remote, false, 99);
    }
    qc_stats_out(out, &stats, sizeof(stats));
    return 0;
}
