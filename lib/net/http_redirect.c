/* SPDX-License-Identifier: MIT */
/* Redirects: where they may lead, and that they are remembered. */
#include "net/http_int.h"

#include "net/config_int.h"
#include "util/alloc.h"
#include "util/escape.h"

#define MAX_REDIRECTS 3

/* May it go from one to the other? 0, or a failure in r->err. */
static int may_follow(struct http_attempt *a, const struct qc_url *from, const struct qc_url *to)
{
    struct qc_http_private *op = a->op;
    struct qc_escaped e;
    char *origin = qc_url_origin(to);
    int ret = 0;

    qc_escape_str(&e, origin);
    qc_free(origin);
    if (strcmp(to->scheme, "http") != 0 && strcmp(to->scheme, "https") != 0)
        ret = qc_op_fail(op, QCHAIN_E_ACCESS, "a redirect to %s: is not followed", to->scheme);
    else if (strcmp(from->scheme, "https") == 0 && strcmp(to->scheme, "https") != 0)
        ret = qc_op_fail(op, QCHAIN_E_ACCESS, "a redirect from https to %s is not followed", e.text);
    else if (a->sign.has_credentials && !qc_url_same_origin(from, to))
        ret = qc_op_fail(op, QCHAIN_E_ACCESS, "a redirect to %s is not followed, as credentials are "
                         "for their own origin only", e.text);
    return ret;
}

void qc_attempt_redirected(struct http_attempt *a)
{
    struct qc_http_private *op = a->op;
    struct qc_url from = {0}, to = {0};
    char *hop = NULL;
    qchain_error why;
    int ret;

    qc_error_init(&why);
    if (!a->answer.location)
        ret = qc_op_fail(op, QCHAIN_E_NET, "status %d without a Location", a->answer.status);
    else if (op->redirects++ >= MAX_REDIRECTS)
        ret = qc_op_fail(op, QCHAIN_E_NET, "more than %d redirects", MAX_REDIRECTS);
    else if ((ret = qc_url_parse(&from, a->url, &why)) != 0 ||
             (ret = qc_url_resolve(&to, &from, a->answer.location, &why)) != 0)
        ret = qc_op_fail(op, ret == QCHAIN_E_NOMEM ? ret : QCHAIN_E_ACCESS,
                         "a redirect is not followed: %s", why.text);
    else if ((ret = may_follow(a, &from, &to)) == 0 && !(hop = qc_url_text(&to)))
        ret = qc_fail_nomem(&op->r->err);
    qc_url_finish(&from);
    qc_url_finish(&to);
    if (ret != 0) {
        qc_attempt_fatal(a);
        return;
    }
    qc_count(op->w->h->slots, QC_CNT_HTTP_REDIRECTS, 1);
    qc_attempt_end(a);
    qc_conf_wipe(op->hop);
    op->hop = hop;
    qc_op_again(op, false);
}

void qc_remember_target(struct http_attempt *a)
{
    struct qc_http_private *op = a->op;
    char *url;

    if (!op->hop || op->r->method != QC_HTTP_GET)
        return;
    url = qc_asprintf("%s%s", op->hop, op->was_public ? "" : QC_PRIVATE_MARK);
    if (url)
        qc_place_set_target(op->r->place, url);
    qc_free(url);
}
