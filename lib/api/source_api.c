/* SPDX-License-Identifier: MIT */
/* The door to the files of a chain, as they are. */
#include "api/api.h"
#include "chain/chain.h"
#include "chain/tip.h"
#include "io/store.h"

/* The store of a source, opened if need be; NULL and err. */
static struct qc_store *find_store(qchain *c, uint32_t source, qchain_error *err)
{
    if (qc_env_forked(c->env)) {
        qc_fail_forked(err);
        return NULL;
    }
    if (source >= c->n_sources) {
        qc_fail(err, QCHAIN_E_RANGE, "source %u: the chain has %u files", source, c->n_sources);
        return NULL;
    }
    return qc_chain_check(c, err) == 0 ? qc_source_store(c, source, err) : NULL;
}

int qchain_source_stat(qchain *c, uint32_t source, qchain_source_info *out, qchain_error *err)
{
    qchain_source_info info = {.struct_size = sizeof(info)};
    const struct qc_source *s;
    struct qc_store *store;

    QC_ERR(err);
    if (!c || !out)
        return qc_fail(err, QCHAIN_E_INVAL, "qchain_source_stat: an argument is NULL");
    if (qc_result_check(out, "qchain_source_stat", err) != 0)
        return err->code;
    store = find_store(c, source, err);
    if (!store)
        return err->code;
    s = &c->source[source];
    info.layer = s->layer;
    info.size = qc_store_size(store);
    info.allocated_size = qc_store_allocated(store);
    if (store->identity.flags & QCHAIN_IDENTITY_HAS_MTIME)
        info.mtime_ns = store->identity.mtime_ns;
    if (source != c->layer[s->layer].source)
        info.flags |= QCHAIN_SOURCE_DATA_FILE;
    if (qc_store_is_far(store))
        info.flags |= QCHAIN_SOURCE_REMOTE;
    qc_stats_out(out, &info, sizeof(info));
    return 0;
}

/* What is cut off or moved in the tip's file waits until those inside have left. */
static int read_source(qchain *c, uint32_t source, struct qc_store *store, void *buf, size_t length,
                       uint64_t offset, qchain_error *err)
{
    uint32_t layer = c->source[source].layer;
    bool changes = layer == 0 && c->tip;
    unsigned token = changes ? qc_tip_enter(c->tip) : 0;
    uint64_t size = qc_store_size(store);
    int ret;

    if (offset > size || length > size - offset)
        ret = qc_fail(err, QCHAIN_E_RANGE, "%llu bytes at %llu reach beyond the file's %llu bytes",
                      (unsigned long long)length, (unsigned long long)offset, (unsigned long long)size);
    else
        ret = length ? qc_store_read(store, buf, length, offset, 0, err) : 0;
    if (changes)
        qc_tip_exit(c->tip, token);
    if (ret != 0)
        qc_layer_prefix(c, layer, err);
    return ret;
}

int qchain_source_read(qchain *c, uint32_t source, void *buf, size_t length, uint64_t offset,
                       uint32_t flags, qchain_error *err)
{
    struct qc_store *store;

    QC_ERR(err);
    if (!c || (!buf && length > 0))
        return qc_fail(err, QCHAIN_E_INVAL, "qchain_source_read: an argument is NULL");
    if (flags != 0)
        return qc_fail(err, QCHAIN_E_INVAL, "qchain_source_read: unknown flags 0x%x", flags);
    store = find_store(c, source, err);
    return store ? read_source(c, source, store, buf, length, offset, err) : err->code;
}
