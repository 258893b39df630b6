/* SPDX-License-Identifier: MIT */
/* nbdkit_plugin.c - what nbdkit calls: beginning, end, connections and what is agreed on with them. */
#include <stdio.h>

#include "nbdkit_qchain.h"

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL
#define MAX_REQUEST (64u << 20) /* nbdkit's own limit */

/* ------------------------------------------------------------- beginning and end --- */

static void plugin_unload(void)
{
    qcn_config_free();
    qcn_errors_end();
}

static void plugin_dump(void)
{
    static const char *const features[] = {"qcow2", "raw", "zlib", "zstd", "libdeflate", "direct", "locks", "write", "index",
                                           "http"};
    size_t i;

    printf("qchain_library_version=%s\n", qchain_version_string());
    for (i = 0; i < sizeof(features) / sizeof(features[0]); i++)
        printf("qchain_has_%s=%d\n", features[i], qchain_has(features[i]));
}

/* --------------------------------------------------------------------- exports --- */

static int list_exports(int readonly, int is_tls, struct nbdkit_exports *exports)
{
    size_t i;

    (void)readonly;
    (void)is_tls;
    for (i = 0; i < qcn_config.n_exports; i++)
        if (nbdkit_add_export(exports, qcn_config.exports[i].name, NULL) != 0)
            return -1;
    return 0;
}

static const char *default_export(int readonly, int is_tls)
{
    (void)readonly;
    (void)is_tls;
    return qcn_config.exports[0].name;
}

/* Clients choose the name, and the log is for people. */
static void say_unknown(const char *name)
{
    char shown[64];
    size_t n = 0;

    for (; name[n] && n < sizeof(shown) - 1; n++)
        shown[n] = name[n] >= 0x20 && name[n] < 0x7f ? name[n] : '?';
    shown[n] = '\0';
    nbdkit_error("there is no export '%s'%s", shown, name[n] ? " (and so on)" : "");
}

static void *connection_open(int readonly)
{
    const char *name = nbdkit_export_name();
    struct qcn_export *e = name ? qcn_export_find(name) : NULL;

    if (name && !e)
        say_unknown(name);
    return e && qcn_export_use(e, readonly) == 0 ? e : NULL;
}

static void connection_close(void *handle)
{
    qcn_export_leave(handle);
}

/* -------------------------------------------------------------- what is agreed on --- */

static int64_t get_size(void *handle)
{
    struct qcn_export *e = handle;

    return (int64_t)qchain_size(e->c);
}

static int can_write(void *handle)
{
    struct qcn_export *e = handle;

    return e->writable;
}

static int can_fua(void *handle)
{
    return can_write(handle) ? NBDKIT_FUA_NATIVE : NBDKIT_FUA_NONE;
}

/* All connections share one handle, so what one has flushed all have. */
static int always(void *handle)
{
    (void)handle;
    return 1;
}

static int can_cache(void *handle)
{
    (void)handle;
    return NBDKIT_CACHE_NATIVE;
}

static int never(void *handle)
{
    (void)handle;
    return 0;
}

static int block_size(void *handle, uint32_t *minimum, uint32_t *preferred, uint32_t *maximum)
{
    struct qcn_export *e = handle;

    *minimum = 1;
    *preferred = (uint32_t)e->unit;
    *maximum = MAX_REQUEST;
    return 0;
}

static const char *export_description(void *handle)
{
    struct qcn_export *e = handle;
    uint32_t layers = qchain_layers(e->c);

    return nbdkit_printf_intern("a chain of %u layer%s", layers, layers == 1 ? "" : "s");
}

static struct nbdkit_plugin plugin = {
    .name = "qchain",
    .longname = "libqchain",
    .version = NBDKIT_QCHAIN_VERSION,
    .description = "Disks that are kept as chains of qcow2 and raw layers, in files or object stores",
    .load = qcn_errors_begin,
    .unload = plugin_unload,
    .dump_plugin = plugin_dump,
    .config = qcn_config_key,
    .config_complete = qcn_config_complete,
    .config_help = qcn_config_help,
    .magic_config_key = "file",
    .get_ready = qcn_look,
    .after_fork = qcn_start,
    .cleanup = qcn_end,
    .list_exports = list_exports,
    .default_export = default_export,
    .open = connection_open,
    .close = connection_close,
    .get_size = get_size,
    .export_description = export_description,
    .block_size = block_size,
    .can_write = can_write,
    .can_flush = always,
    .can_fua = can_fua,
    .can_trim = can_write,
    .can_zero = can_write,
    .can_fast_zero = can_write,
    .can_extents = always,
    .can_cache = can_cache,
    .can_multi_conn = always,
    .is_rotational = never,
    .pread = qcn_pread,
    .pwrite = qcn_pwrite,
    .flush = qcn_flush,
    .trim = qcn_trim,
    .zero = qcn_zero,
    .extents = qcn_extents,
    .cache = qcn_cache,
};

struct nbdkit_plugin *plugin_init(void);
NBDKIT_REGISTER_PLUGIN(plugin)
