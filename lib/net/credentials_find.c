/* SPDX-License-Identifier: MIT */
/* Where credentials and settings are looked for, in their order. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net/aws_endpoint.h"
#include "net/aws_profile.h"
#include "net/config_int.h"
#include "net/credentials_int.h"
#include "net/place_int.h"
#include "util/alloc.h"
#include "util/error.h"
#include "util/escape.h"

const char *qc_credentials_env(const char *name)
{
    const char *s = getenv(name);

    return s && *s ? s : NULL;
}

/* ----------------------------------------------------------------------- S3 --- */

/* A pair that is given by hand: both halves, or neither. 1: neither. */
static int find_pair(enum qc_login_kind kind, const char *where, const char *id, const char *key,
                     const char *token, struct qc_login **out, qchain_error *err)
{
    int ret;

    if (!id && !key)
        return 1;
    if (!id || !key)
        return qc_fail(err, QCHAIN_E_AUTH, "%s: there is %s, but no %s", where,
                       id ? "an access key id" : "a secret key", id ? "secret key" : "access key id");
    ret = qc_login_new(out, kind, where, id, key, token, err);
    return ret ? ret : qc_login_name(*out, "key", id, err);
}

static int find_in_profile(struct qc_credentials *c, struct qc_login **out, qchain_error *err)
{
    struct qc_aws_profile p;
    struct qc_escaped e;
    bool named = c->conf->s3_profile || qc_credentials_env("AWS_PROFILE");
    int ret = qc_aws_profile_read(&p, c->conf->s3_profile, err);

    if (ret)
        return ret;
    if (p.access_key)
        ret = find_pair(QC_LOGIN_S3, "the profile", p.access_key, p.secret_key, p.session_token, out,
                        err);
    else if (p.other)
        ret = qc_fail(err, QCHAIN_E_AUTH, "the AWS profile '%s' gets its credentials by %s, which is "
                      "not done here; give them by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
                      "by the program's callback", qc_escape_str(&e, p.name), p.other);
    else if (named && !p.found)
        ret = qc_fail(err, QCHAIN_E_AUTH, "there is no AWS profile '%s'", qc_escape_str(&e, p.name));
    else
        ret = 1;
    qc_aws_profile_finish(&p);
    return ret;
}

static int find_s3(struct qc_credentials *c, struct qc_login **out, qchain_error *err)
{
    const qchain_remote *conf = c->conf;
    int ret;

    if (conf->s3_anonymous)
        return 1;
    ret = find_pair(QC_LOGIN_S3, "s3-access-key and s3-secret-key", conf->s3_access_key,
                    conf->s3_secret_key, conf->s3_session_token, out, err);
    if (ret == 1)
        ret = find_pair(QC_LOGIN_S3, "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
                        qc_credentials_env("AWS_ACCESS_KEY_ID"),
                        qc_credentials_env("AWS_SECRET_ACCESS_KEY"),
                        qc_credentials_env("AWS_SESSION_TOKEN"), out, err);
    if (ret == 1)
        ret = find_in_profile(c, out, err);
    if (ret == 1 && qc_credentials_env("AWS_WEB_IDENTITY_TOKEN_FILE"))
        qc_log(c->log, QCHAIN_LOG_WARN, "net", "AWS_WEB_IDENTITY_TOKEN_FILE is not used here");
    if (ret == 1)
        ret = qc_aws_container_login(out, err);
    if (ret == 1)
        ret = qc_aws_instance_login(out, err);
    if (ret == 1)
        qc_log(c->log, QCHAIN_LOG_INFO, "net", "no credentials for S3 were found: requests are "
               "not signed");
    return ret;
}

/* ------------------------------------------------------------- GCS and Azure --- */

static int find_gs(struct qc_credentials *c, struct qc_login **out, qchain_error *err)
{
    const qchain_remote *conf = c->conf;
    const char *token = conf->gs_token;
    int ret = 1;

    if (!token)
        ret = find_pair(QC_LOGIN_GS, "gs-access-key and gs-secret-key", conf->gs_access_key,
                        conf->gs_secret_key, NULL, out, err);
    if (ret == 1 && !token)
        token = qc_credentials_env("GOOGLE_OAUTH_ACCESS_TOKEN");
    if (ret == 1 && token) {
        ret = qc_login_new(out, QC_LOGIN_GS, "the bearer token for gs", NULL, NULL, token, err);
        return ret ? ret : qc_login_name(*out, "token", token, err);
    }
    if (ret == 1)
        qc_log(c->log, QCHAIN_LOG_INFO, "net", "no credentials for gs were found: requests are "
               "not signed");
    return ret;
}

int qc_azure_login_name(struct qc_login *l, qchain_error *err)
{
    char name[QC_SCOPE_SIZE] = "";
    struct qc_sha256 h;
    uint8_t digest[32];
    bool presigned;
    int ret;
    char *both;

    if (!l->session_token && (l->secret_key || l->access_key))
        return qc_login_name(l, l->secret_key ? "key" : "account", l->access_key ? l->access_key : "",
                             err);
    if (!l->session_token)
        return 0;
    qc_sha256_init(&h);
    qc_place_query_scope(l->session_token, &h, &presigned);
    qc_sha256_finish(&h, digest);
    for (size_t i = 0; i < 32; i++)
        snprintf(name + 2 * i, 3, "%02x", digest[i]);
    both = qc_asprintf("%s %s", l->access_key ? l->access_key : "", name);
    ret = both ? qc_login_name(l, "sas", both, err) : qc_fail_nomem(err);
    qc_free(both);
    return ret;
}

/* A SAS goes before a key: it is the narrower of the two. */
static int find_az(struct qc_credentials *c, struct qc_login **out, qchain_error *err)
{
    const qchain_remote *conf = c->conf;
    const char *account = conf->azure_account, *key = conf->azure_key, *sas = conf->azure_sas;
    int ret;

    if (!account)
        account = qc_credentials_env("AZURE_STORAGE_ACCOUNT");
    if (!key && !sas) {
        sas = qc_credentials_env("AZURE_STORAGE_SAS_TOKEN");
        key = qc_credentials_env("AZURE_STORAGE_KEY");
    }
    if (!key && !sas) {
        qc_log(c->log, QCHAIN_LOG_INFO, "net", "no credentials for az were found: requests are "
               "not signed");
        return 1;
    }
    ret = qc_login_new(out, QC_LOGIN_AZ, "the credentials for az", account, sas ? NULL : key, sas,
                       err);
    return ret ? ret : qc_azure_login_name(*out, err);
}

int qc_credentials_find(struct qc_credentials *c, enum qc_login_kind kind, struct qc_login **out,
                        qchain_error *err)
{
    switch (kind) {
    case QC_LOGIN_S3:
        return find_s3(c, out, err);
    case QC_LOGIN_GS:
        return find_gs(c, out, err);
    case QC_LOGIN_AZ:
        return find_az(c, out, err);
    default:
        return 1;
    }
}

/* ----------------------------------------------------------------- settings --- */

/* Under the lock: what can be known without a file. */
static const char *region_at_hand(const struct qc_credentials *c)
{
    const char *s = c->conf->s3_region;

    if (!s)
        s = qc_credentials_env("AWS_REGION");
    return s ? s : qc_credentials_env("AWS_DEFAULT_REGION");
}

const char *qc_aws_endpoint_at_hand(const struct qc_credentials *c)
{
    const char *s = c->conf->s3_endpoint;

    if (!s)
        s = qc_credentials_env("AWS_ENDPOINT_URL_S3");
    return s ? s : qc_credentials_env("AWS_ENDPOINT_URL");
}

bool qc_region_is_name(const char *s)
{
    size_t n = strnlen(s, QC_REGION_MAX);

    for (size_t i = 0; i < n; i++)
        if (!((s[i] >= 'a' && s[i] <= 'z') || (s[i] >= '0' && s[i] <= '9') || s[i] == '-'))
            return false;
    return n > 0 && n < QC_REGION_MAX;
}

/* Under the lock. */
static int look_for_settings(struct qc_credentials *c, qchain_error *err)
{
    const char *region = region_at_hand(c), *endpoint = qc_aws_endpoint_at_hand(c);
    struct qc_aws_profile p = {0};
    int ret = 0;

    if (!region || !endpoint)
        ret = qc_aws_profile_read(&p, c->conf->s3_profile, err);
    if (ret)
        return ret;
    region = region ? region : p.region ? p.region : "us-east-1";
    endpoint = endpoint ? endpoint : p.endpoint;
    if (!qc_region_is_name(region))
        ret = qc_fail(err, QCHAIN_E_INVAL, "the configured S3 region is not the name of one");
    else if (endpoint && !(c->aws_endpoint = qc_strdup(endpoint)))
        ret = qc_fail_nomem(err);
    if (ret == 0) {
        snprintf(c->aws_region, sizeof(c->aws_region), "%s", region);
        c->aws_known = true;
    }
    qc_aws_profile_finish(&p);
    return ret;
}

bool qc_aws_settings_known(struct qc_credentials *c)
{
    bool known;

    pthread_mutex_lock(&c->aws_lock);
    known = c->aws_known;
    pthread_mutex_unlock(&c->aws_lock);
    return known;
}

int qc_aws_settings(struct qc_credentials *c, const char **endpoint, const char **region,
                    qchain_error *err)
{
    int ret = 0;

    pthread_mutex_lock(&c->aws_lock);
    if (!c->aws_known)
        ret = look_for_settings(c, err);
    pthread_mutex_unlock(&c->aws_lock);
    *endpoint = ret ? NULL : c->aws_endpoint; /* never change once they are known */
    *region = ret ? NULL : c->aws_region;
    return ret;
}
