/* SPDX-License-Identifier: MIT */
/* Settings of remote layers: made, copied, freed. */
#include "net/config_int.h"

#include <stdatomic.h>
#include <string.h>

#include "util/alloc.h"

void qc_conf_wipe(char *s)
{
    if (s)
        explicit_bzero(s, strlen(s));
    qc_free(s);
}

void qc_login_finish(struct qc_conf_login *l)
{
    qc_free(l->origin);
    qc_conf_wipe(l->user);
    qc_conf_wipe(l->password);
}

int qc_login_init(struct qc_conf_login *l, const char *origin, const char *user,
                  const char *password)
{
    l->origin = qc_strdup(origin);
    l->user = user ? qc_strdup(user) : NULL;
    l->password = qc_strdup(password);
    if (l->origin && l->password && (l->user || !user))
        return 0;
    qc_login_finish(l);
    return QCHAIN_E_NOMEM;
}

void qc_pair_finish(struct qc_conf_pair *p)
{
    qc_free(p->prefix);
    qc_free(p->url);
}

int qc_pair_init(struct qc_conf_pair *p, const char *prefix, const char *url)
{
    p->prefix = qc_strdup(prefix);
    p->url = qc_strdup(url);
    if (p->prefix && p->url)
        return 0;
    qc_pair_finish(p);
    return QCHAIN_E_NOMEM;
}

qchain_remote *qc_conf_new(void)
{
    qchain_remote *c = qc_calloc(1, sizeof(*c));

    if (!c)
        return NULL;
    c->workers = 1;
    c->connections = 64;
    c->block_bytes = 2 << 20;
    c->connect_ms = 10000;
    c->stall_ms = 20000;
    c->deadline_ms = 60000;
    c->hedge = true;
    c->cache_bytes = (uint64_t)10 << 30;
    return c;
}

static void callback_unref(struct qc_conf_callback *cb)
{
    if (!cb || atomic_fetch_sub(&cb->refs, 1) != 1)
        return;
    if (cb->free_fn)
        cb->free_fn(cb->data);
    qc_free(cb);
}

int qc_conf_set_credentials(qchain_remote *c, qchain_credentials_fn fn, void *data,
                            void (*free_fn)(void *data))
{
    struct qc_conf_callback *cb = qc_malloc(sizeof(*cb));

    if (!cb)
        return QCHAIN_E_NOMEM;
    cb->data = data;
    cb->free_fn = free_fn;
    atomic_init(&cb->refs, 1);
    callback_unref(c->callback);
    c->callback = cb;
    c->credentials = fn;
    return 0;
}

void qc_conf_free(qchain_remote *c)
{
    char **s;

    if (!c)
        return;
    for (size_t i = 0; (s = qc_conf_string(c, i)); i++)
        qc_conf_wipe(*s);
    for (uint32_t i = 0; i < c->n_logins; i++)
        qc_login_finish(&c->login[i]);
    for (uint32_t i = 0; i < c->n_regions; i++)
        qc_pair_finish(&c->region[i]);
    for (uint32_t i = 0; i < c->n_replicas; i++)
        qc_pair_finish(&c->replica[i]);
    qc_free(c->login);
    qc_free(c->region);
    qc_free(c->replica);
    callback_unref(c->callback);
    qc_free(c);
}

static int copy_pairs(struct qc_conf_pair **to, uint32_t *n, const struct qc_conf_pair *from,
                      uint32_t count)
{
    *to = count ? qc_calloc(count, sizeof(**to)) : NULL;
    if (count && !*to)
        return QCHAIN_E_NOMEM;
    for (; *n < count; ++*n)
        if (qc_pair_init(&(*to)[*n], from[*n].prefix, from[*n].url) != 0)
            return QCHAIN_E_NOMEM;
    return 0;
}

/* What c owns, of which it has nothing yet. */
static int copy_owned(qchain_remote *c, const qchain_remote *from)
{
    char **to;

    for (size_t i = 0; (to = qc_conf_string(c, i)); i++) {
        const char *s = *qc_conf_string((qchain_remote *)from, i);

        if (s && !(*to = qc_strdup(s)))
            return QCHAIN_E_NOMEM;
    }
    c->login = from->n_logins ? qc_calloc(from->n_logins, sizeof(*c->login)) : NULL;
    if (from->n_logins && !c->login)
        return QCHAIN_E_NOMEM;
    for (; c->n_logins < from->n_logins; c->n_logins++) {
        const struct qc_conf_login *l = &from->login[c->n_logins];

        if (qc_login_init(&c->login[c->n_logins], l->origin, l->user, l->password) != 0)
            return QCHAIN_E_NOMEM;
    }
    if (copy_pairs(&c->region, &c->n_regions, from->region, from->n_regions) != 0)
        return QCHAIN_E_NOMEM;
    return copy_pairs(&c->replica, &c->n_replicas, from->replica, from->n_replicas);
}

qchain_remote *qc_conf_copy(const qchain_remote *from)
{
    qchain_remote *c = qc_malloc(sizeof(*c));
    char **s;

    if (!c)
        return NULL;
    *c = *from;
    for (size_t i = 0; (s = qc_conf_string(c, i)); i++)
        *s = NULL;
    c->login = NULL;
    c->region = c->replica = NULL;
    c->n_logins = c->n_regions = c->n_replicas = 0;
    if (c->callback)
        atomic_fetch_add(&c->callback->refs, 1);
    if (copy_owned(c, from) == 0)
        return c;
    qc_conf_free(c);
    return NULL;
}
