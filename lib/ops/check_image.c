/* SPDX-License-Identifier: MIT */
#include "ops/check_image.h"

#include "chain/chain.h"
#include "ops/job.h"
#include "qcow2/check.h"
#include "qcow2/qcow2.h"

struct asked {
    qchain_job *job;
    uint64_t    started_ns;
};

static int go_on(void *data, qchain_error *err)
{
    struct asked *a = data;

    return qc_job_check(a->job, a->started_ns, err);
}

static void give(qchain_check_result *out, const struct qc2_check_result *r)
{
    out->corruptions = r->corruptions;
    out->leaks = r->leaks;
    out->corruptions_fixed = r->corruptions_fixed;
    out->leaks_fixed = r->leaks_fixed;
    out->check_errors = r->check_errors;
    out->total_clusters = r->total_clusters;
    out->allocated_clusters = r->allocated_clusters;
    out->fragmented_clusters = r->fragmented_clusters;
    out->compressed_clusters = r->compressed_clusters;
    out->image_end_offset = r->image_end_offset;
}

static uint32_t flags_of(const qchain_check_opts *opts)
{
    return (opts->flags & QCHAIN_CHECK_REPAIR_LEAKS ? (uint32_t)QC2_CHECK_REPAIR_LEAKS : 0) |
           (opts->flags & QCHAIN_CHECK_REPAIR_ALL ? (uint32_t)QC2_CHECK_REPAIR_ALL : 0);
}

static int check_top(const qchain *c, const qchain_check_opts *opts, qchain_check_result *out,
                     qchain_error *err)
{
    struct asked asked = {opts->job, qc_now_ns()};
    struct qc2_check_opts o = {.flags = flags_of(opts), .found = opts->found,
                               .found_data = opts->found_data, .go_on = go_on,
                               .go_on_data = &asked};
    struct qc_store *store = qc_source_opened(c, c->layer[0].source);
    struct qc2_check_result r;
    int rc;

    if (c->layer[0].format != &qc_qcow2_format)
        return qc_fail(err, QCHAIN_E_UNSUPPORTED, "raw images have nothing to check");
    if (o.flags && c->open_flags & QCHAIN_OPEN_FORCE_SHARE) /* which a json: name may say, too */
        return qc_fail(err, QCHAIN_E_INVAL, "check: an image is not mended without its locks");
    if (o.flags && !qc_store_is_writable(store))
        return qc_fail(err, QCHAIN_E_READONLY, "%s: can only be read, so not mended", store->name);
    qc_job_begin(opts->job, 0);
    rc = qc2_check(store, &o, &r, err);
    if (rc == 0)
        give(out, &r);
    else
        qc_layer_prefix((qchain *)c, 0, err);
    return rc;
}

int qc_check(qchain_env *env, const char *name, const qchain_check_opts *opts,
             const qchain_open_opts *open, qchain_check_result *out, qchain_error *err)
{
    qchain *c;
    int rc = qc_chain_open_alone(&c, env, name, open, opts->flags != 0, err);

    if (rc < 0)
        return rc;
    rc = check_top(c, opts, out, err);
    qc_chain_close(c);
    return rc;
}
