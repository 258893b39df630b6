/* SPDX-License-Identifier: MIT */
/* az names: shared keys, SAS, or nobody's. */
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "net/azure_sign.h"
#include "net/config_int.h"
#include "net/credentials_int.h"
#include "net/place_int.h"
#include "util/alloc.h"
#include "util/error.h"
#include "util/escape.h"

#define VERSION "2021-08-06"

/* ------------------------------------------------------------------- addresses --- */

static const char *endpoint_text(const struct qc_place *p)
{
    const char *s = qc_credentials_conf(p->creds)->azure_endpoint;

    return s ? s : qc_credentials_env("AZURE_STORAGE_ENDPOINT");
}

static bool is_account(const char *s)
{
    size_t n = strlen(s);

    for (const char *c = s; *c; c++)
        if (!((*c >= 'a' && *c <= 'z') || (*c >= '0' && *c <= '9') || *c == '-'))
            return false;
    return n >= 1 && n <= 63;
}

/* An endpoint with an address is one account a path; one with a name is one account a host. */
static char *account_of_endpoint(const struct qc_url *u)
{
    struct in_addr a4;
    bool by_path = u->path[0] == '/' && u->path[1];

    if (by_path && (strchr(u->host, ':') || inet_aton(u->host, &a4) || !strchr(u->host, '.')))
        return qc_strndup(u->path + 1, strcspn(u->path + 1, "/"));
    return strstr(u->host, ".blob.") ? qc_strndup(u->host, strcspn(u->host, ".")) : NULL;
}

/* The endpoint and the account, of login (may be NULL), settings, endpoint. *account NULL: none is
 * known; then u is zeroed, if there is no endpoint either. */
static int find_address(const struct qc_place *p, const struct qc_login *l, struct qc_url *u,
                        char **account, qchain_error *err)
{
    const char *name = l ? l->access_key : NULL, *text = endpoint_text(p);
    char *made = NULL;
    int ret = 0;

    memset(u, 0, sizeof(*u));
    *account = NULL;
    if (!name)
        name = qc_credentials_conf(p->creds)->azure_account;
    if (!name)
        name = qc_credentials_env("AZURE_STORAGE_ACCOUNT");
    if (name && !is_account(name))
        return qc_fail(err, QCHAIN_E_INVAL, "the storage account's name is not the name of one");
    if (name && !(*account = qc_strdup(name)))
        return qc_fail_nomem(err);
    if (!text && name) {
        made = qc_asprintf("https://%s.blob.core.windows.net", name);
        ret = made ? 0 : qc_fail_nomem(err);
        text = made;
    }
    if (ret == 0 && text)
        ret = qc_place_endpoint(u, text, "az", err);
    if (ret == 0 && text && !*account) {
        *account = account_of_endpoint(u);
        if (*account && !is_account(*account)) {
            qc_free(*account);
            *account = NULL;
        }
    }
    qc_free(made);
    if (ret) {
        qc_free(*account);
        *account = NULL;
    }
    return ret;
}

/* The URL's path: the endpoint's, the container, the blob. NULL: no memory. */
static char *whole_path(const struct qc_place *p, const struct qc_url *u)
{
    char *container = qc_url_encode(p->url.host, strlen(p->url.host), 0), *out = NULL;

    if (container)
        out = qc_asprintf("%s/%s%s", u->path, container, p->path);
    qc_free(container);
    return out;
}

int qc_place_az_init(struct qc_place *p, qchain_error *err)
{
    char *account = NULL, *origin = NULL, *where;
    struct qc_url u;
    int ret = find_address(p, NULL, &u, &account, err);

    if (ret)
        return ret;
    where = qc_asprintf("az://%s", p->url.host);
    if (where)
        p->site = qc_site_get(p->creds, QC_LOGIN_AZ, where);
    origin = u.host ? qc_url_origin(&u) : NULL;
    /* Without an account its name comes with the credentials, and is part of the scope. */
    p->key = qc_asprintf("%s%s/%s%s", origin ? origin : "az:/", u.host ? u.path : "", p->url.host,
                         p->path);
    p->key_known = true;
    ret = p->site && p->key && (origin || !u.host) ? 0 : qc_fail_nomem(err);
    qc_free(where);
    qc_free(origin);
    qc_free(account);
    qc_url_finish(&u);
    return ret;
}

/* -------------------------------------------------------------------- signing --- */

static int add_common(const struct qc_to_sign *r, struct qc_signed *out, qchain_error *err)
{
    int ret = qc_signed_add(out, qc_strdup("x-ms-version: " VERSION), err);

    if (ret == 0 && r->method == QC_HTTP_PUT)
        ret = qc_signed_add(out, qc_strdup("x-ms-blob-type: BlockBlob"), err);
    return ret;
}

/* The SAS is a query; '?' before it is how portals give it. */
static int add_sas(const char *sas, struct qc_signed *out, qchain_error *err)
{
    char *with;

    sas += *sas == '?';
    if (strchr(sas, '#'))
        return qc_fail(err, QCHAIN_E_AUTH, "the SAS is not the query of a URL");
    with = qc_asprintf("%s?%s", out->url, sas);
    if (!with)
        return qc_fail_nomem(err);
    qc_conf_wipe(out->url);
    out->url = with;
    out->has_credentials = true;
    return 0;
}

static int sign_key(struct qc_place *p, const struct qc_login *l, const struct qc_to_sign *r,
                    const char *account, const char *path, struct qc_signed *out, qchain_error *err)
{
    static const char *const method[] = {[QC_HTTP_GET] = "GET", [QC_HTTP_PUT] = "PUT",
                                         [QC_HTTP_DELETE] = "DELETE"};
    struct qc_azure_request a = {.method = method[r->method], .account = account, .path = path,
                                 .length = r->method == QC_HTTP_PUT ? r->length : 0};
    char date[40], *authorization;
    int ret;

    out->has_credentials = true;
    qc_azure_date((time_t)((int64_t)time(NULL) + qc_site_skew(p->site)), date);
    ret = qc_signed_add(out, qc_asprintf("x-ms-date: %s", date), err);
    if (ret == 0 && r->range)
        ret = qc_signed_add(out, qc_asprintf("x-ms-range: %s", r->range), err);
    if (ret)
        return ret;
    a.header = out->header;
    a.n_headers = out->n_headers;
    ret = qc_azure_authorization(&authorization, &a, l->secret_key, err);
    return ret ? ret : qc_signed_add(out, authorization, err);
}

int qc_place_az_sign(struct qc_place *p, const struct qc_login *l, const struct qc_to_sign *r,
                     struct qc_signed *out, bool *range_signed, qchain_error *err)
{
    bool key = !l->session_token && l->secret_key;
    char *account = NULL, *path = NULL, *origin = NULL;
    struct qc_escaped e;
    struct qc_url u;
    int ret = find_address(p, l, &u, &account, err);

    if (ret)
        return ret;
    if (!u.host || (key && !account)) {
        ret = qc_fail(err, QCHAIN_E_AUTH, "'%s': no storage account is configured; name it by "
                      "azure-account or AZURE_STORAGE_ACCOUNT", qc_escape_str(&e, p->shown));
        goto out;
    }
    path = whole_path(p, &u);
    origin = qc_url_origin(&u);
    out->url = path && origin ? qc_asprintf("%s%s", origin, path) : NULL;
    ret = out->url ? 0 : qc_fail_nomem(err);
    if (ret == 0)
        ret = add_common(r, out, err);
    if (ret == 0 && l->session_token)
        ret = add_sas(l->session_token, out, err);
    else if (ret == 0 && key)
        ret = sign_key(p, l, r, account, path, out, err);
    *range_signed = key && r->range;
out:
    qc_free(account);
    qc_free(path);
    qc_free(origin);
    qc_url_finish(&u);
    return ret;
}
