/* SPDX-License-Identifier: MIT */
/*
 * nbdkit_host.h - a stand-in for nbdkit: what plugins call, and the order in which it calls them. nbdkit itself is built
 * without sanitizers and brings libraries that end badly with them; here the plugin is the only thing that is not a test.
 */
#ifndef QC_TESTS_NBDKIT_HOST_H
#define QC_TESTS_NBDKIT_HOST_H

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HOST_EXTENTS 4096
#define HOST_INTERNED 256
#define HOST_EXPORTS 8

struct nbdkit_extents {
    uint64_t next, end;  /* where the next one must begin */
    uint32_t n;
    struct {
        uint64_t offset, length;
        uint32_t type;
    } at[HOST_EXTENTS];
};

struct nbdkit_exports {
    unsigned n;
    char     name[HOST_EXPORTS][64];
};

static struct {
    pthread_mutex_t lock;     /* for all of it */
    unsigned        n_errors;
    char            error[512]; /* the last one */
    char           *interned[HOST_INTERNED];
    unsigned        n_interned;
} host = {.lock = PTHREAD_MUTEX_INITIALIZER};

static _Thread_local int host_errno;
static _Thread_local const char *host_export; /* that the client asked for */

/* ------------------------------------------------------------- what plugins call --- */

void nbdkit_error(const char *format, ...)
{
    va_list ap;

    pthread_mutex_lock(&host.lock);
    va_start(ap, format);
    vsnprintf(host.error, sizeof(host.error), format, ap);
    va_end(ap);
    host.n_errors++;
    pthread_mutex_unlock(&host.lock);
}

void nbdkit_debug(const char *format, ...)
{
    (void)format;
}

void nbdkit_set_error(int number)
{
    host_errno = number;
}

const char *nbdkit_export_name(void)
{
    return host_export;
}

int nbdkit_parse_bool(const char *text)
{
    if (strcmp(text, "true") == 0)
        return 1;
    if (strcmp(text, "false") == 0)
        return 0;
    nbdkit_error("not a boolean: %s", text);
    return -1;
}

char *nbdkit_absolute_path(const char *path)
{
    char here[PATH_MAX], *text;

    if (*path == '/')
        return strdup(path);
    return getcwd(here, sizeof(here)) && asprintf(&text, "%s/%s", here, path) >= 0 ? text : NULL;
}

/* It lives as long as the plugin. */
static const char *host_intern(char *text)
{
    pthread_mutex_lock(&host.lock);
    if (text && host.n_interned < HOST_INTERNED) {
        host.interned[host.n_interned++] = text;
    } else {
        free(text);
        text = NULL;
    }
    pthread_mutex_unlock(&host.lock);
    return text;
}

const char *nbdkit_strndup_intern(const char *text, size_t n)
{
    return host_intern(strndup(text, n));
}

const char *nbdkit_strdup_intern(const char *text)
{
    return host_intern(strdup(text));
}

const char *nbdkit_printf_intern(const char *format, ...)
{
    va_list ap;
    char *text;
    int n;

    va_start(ap, format);
    n = vasprintf(&text, format, ap);
    va_end(ap);
    return n < 0 ? NULL : host_intern(text);
}

int nbdkit_add_extent(struct nbdkit_extents *x, uint64_t offset, uint64_t length, uint32_t type)
{
    if (offset != x->next || length == 0 || x->n == HOST_EXTENTS) {
        nbdkit_error("extent %u at %llu, which should be at %llu", x->n, (unsigned long long)offset,
                     (unsigned long long)x->next);
        return -1;
    }
    x->at[x->n].offset = offset;
    x->at[x->n].length = length;
    x->at[x->n++].type = type;
    x->next = offset + length;
    return 0;
}

int nbdkit_add_export(struct nbdkit_exports *x, const char *name, const char *description)
{
    (void)description;
    if (x->n == HOST_EXPORTS)
        return -1;
    snprintf(x->name[x->n++], sizeof(x->name[0]), "%s", name);
    return 0;
}

/* ------------------------------------------------------------------- what calls them --- */

static struct nbdkit_plugin *host_load(const char *path)
{
    void *file = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    struct nbdkit_plugin *(*init)(void);

    if (!file) {
        fprintf(stderr, "%s\n", dlerror());
        return NULL;
    }
    *(void **)&init = dlsym(file, "plugin_init");
    return init ? init() : NULL;
}

/* As the command line has them, up to the first that is refused; then all that comes before clients. */
static int host_begin(struct nbdkit_plugin *p, const char *const *args)
{
    int r = 0;

    host.n_errors = 0;
    *host.error = '\0';
    p->load();
    for (; r == 0 && *args; args++) {
        const char *equals = strchr(*args, '=');
        char key[64];

        snprintf(key, sizeof(key), "%.*s", equals ? (int)(equals - *args) : 0, *args);
        r = equals ? p->config(key, equals + 1) : p->config(p->magic_config_key, *args);
    }
    if (r == 0)
        r = p->config_complete();
    if (r == 0)
        r = p->get_ready();
    return r == 0 ? p->after_fork() : r;
}

static void host_end(struct nbdkit_plugin *p)
{
    p->cleanup();
    p->unload();
    while (host.n_interned)
        free(host.interned[--host.n_interned]);
}

/* A connection, or NULL. It learns what it may do, as the protocol has it. */
static void *host_connect(struct nbdkit_plugin *p, const char *name, bool read_only, int64_t *size)
{
    uint32_t least, best, most;
    void *handle;

    host_export = name;
    handle = p->open(read_only);
    if (!handle)
        return NULL;
    *size = p->get_size(handle);
    if (p->block_size(handle, &least, &best, &most) != 0 || least > best || best > most || *size < 0 ||
            !p->export_description(handle) || p->can_multi_conn(handle) != 1)
        abort();
    return handle;
}

#endif
