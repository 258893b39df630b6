/* SPDX-License-Identifier: MIT */
/* What follows from how a transfer ended: success, another attempt, or the end of the request. */
#include "net/http_int.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <strings.h>

#include "net/config_int.h"
#include "util/alloc.h"
#include "util/escape.h"

#define BACKOFF_BASE_US INT64_C(50000)
#define BACKOFF_MOST_US INT64_C(5000000)

/* ---------------------------------------------------------------------- messages --- */

static const char *method_name(enum qc_http_method m)
{
    return m == QC_HTTP_PUT ? "PUT" : m == QC_HTTP_DELETE ? "DELETE" : "GET";
}

static void name_it(const struct qc_http_private *op, char *out, size_t size)
{
    const struct qc_http_request *r = op->r;
    struct qc_escaped e;
    int n = snprintf(out, size, "%s %s", method_name(r->method),
                     qc_escape_str(&e, qc_place_shown(r->place)));

    if (r->method == QC_HTTP_GET && n > 0 && (size_t)n < size)
        snprintf(out + n, size - (size_t)n, " bytes %" PRIu64 "-%" PRIu64, r->offset,
                 r->offset + r->length - 1);
}

int qc_op_fail(struct qc_http_private *op, int code, const char *fmt, ...)
{
    struct qc_http_request *r = op->r;
    char name[512], text[512];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    name_it(op, name, sizeof(name));
    qc_fail(&r->err, code, "%s: %s", name, text);
    r->err.http_status = r->status;
    qc_error_at(&r->err, r->offset);
    op->failed = true;
    return code;
}

/* At the end: how much it was tried. */
static void add_attempts(struct qc_http_private *op)
{
    struct qc_http_request *r = op->r;
    size_t used = strlen(r->err.text);

    if (r->attempts > 1 && used < sizeof(r->err.text))
        snprintf(r->err.text + used, sizeof(r->err.text) - used, " (%u attempts in %.1f s)",
                 r->attempts, (double)(qc_http_now_us() - op->begun_us) / 1e6);
}

static void give_up(struct qc_http_private *op)
{
    const struct qc_http_request *r = op->r;

    add_attempts(op);
    if (!(r->err.code == QCHAIN_E_NOTFOUND && r->flags & QC_HTTP_MISSING_OK))
        qc_log(op->w->h->log, QCHAIN_LOG_INFO, "net", "%s", r->err.text);
    qc_op_finish(op, op->r->err.code);
}

void qc_op_expire(struct qc_http_private *op)
{
    double s = (double)(op->deadline_us - op->begun_us) / 1e6;
    char before[512];

    /* Between attempts, what the last one met is the better answer. */
    if (op->failed && op->state != OP_RUNNING) {
        give_up(op);
        return;
    }
    if (op->failed) {
        const char *reason = strstr(op->r->err.text, ": ");

        snprintf(before, sizeof(before), "%.300s", reason ? reason + 2 : op->r->err.text);
        qc_op_fail(op, QCHAIN_E_TIMEOUT, "no answer within %.1f s; before: %s", s, before);
    } else if (op->state == OP_RUNNING) {
        qc_op_fail(op, QCHAIN_E_TIMEOUT, "no answer within %.1f s", s);
    } else {
        qc_op_fail(op, QCHAIN_E_TIMEOUT, "not begun within %.1f s, as %s", s,
                   op->state == OP_PREPARING ? "credentials take so long"
                                             : "others are before it");
    }
    give_up(op);
}

/* ----------------------------------------------------------------------- another --- */

void qc_op_again(struct qc_http_private *op, bool fresh)
{
    op->fresh = fresh;
    qc_op_enqueue(op, true);
}

/* After a failure that stands in r->err: wait and retry, or give up. least_ms: the server asks for it;
 * -1: it does not. */
static void retry(struct qc_http_private *op, bool fresh, int64_t least_ms)
{
    int64_t left = op->deadline_us - qc_http_now_us(), most, wait;

    if (op->r->flags & QC_HTTP_ONCE || op->cancelled) {
        give_up(op);
        return;
    }
    most = op->counted < 7 ? BACKOFF_BASE_US << op->counted : BACKOFF_MOST_US;
    if (most > BACKOFF_MOST_US)
        most = BACKOFF_MOST_US;
    wait = (int64_t)(qc_worker_random(op->w) % (uint64_t)most);
    if (least_ms >= 0) {
        /* One more try before the deadline, whatever the server asks for. */
        if (least_ms * 1000 > left * 3 / 4)
            least_ms = left * 3 / 4000;
        wait = least_ms * 1000 + wait / 10;
    }
    if (wait >= left) {
        give_up(op);
        return;
    }
    qc_log(op->w->h->log, QCHAIN_LOG_DEBUG, "net", "%s; again in %.2f s", op->r->err.text,
           (double)wait / 1e6);
    op->counted++;
    op->fresh = fresh;
    qc_op_delay(op, wait);
}

/* The remembered redirect failed: forget it, ask where it came from. */
static bool without_target(struct http_attempt *a)
{
    struct qc_http_private *op = a->op;

    if (!a->target || op->r->have > 0)
        return false;
    qc_place_set_target(op->r->place, NULL);
    op->no_target = true;
    qc_attempt_end(a);
    qc_op_again(op, false);
    return true;
}

void qc_attempt_fatal(struct http_attempt *a)
{
    struct qc_http_private *op = a->op;

    if (without_target(a))
        return;
    qc_attempt_end(a);
    give_up(op);
}

static void try_again(struct http_attempt *a, bool fresh, int64_t least_ms)
{
    struct qc_http_private *op = a->op;

    if (without_target(a))
        return;
    qc_attempt_end(a);
    retry(op, fresh, least_ms);
}

/* An answer that breaks the rules: once more on a fresh connection. */
static void broken_rules(struct http_attempt *a, int code, const char *why)
{
    struct qc_http_private *op = a->op;
    bool may = op->may_retry;

    qc_op_fail(op, code, "%s", why);
    op->may_retry = false;
    if (may)
        try_again(a, true, -1);
    else
        qc_attempt_fatal(a);
}

/* ------------------------------------------------------------------------ network --- */

static void name_not_found(struct http_attempt *a, const char *text)
{
    struct qc_http_private *op = a->op;
    /* "No such name" comes quickly, a dead resolver takes its time. */
    bool quick = qc_http_now_us() - a->begun_us < 2000000;

    qc_op_fail(op, QCHAIN_E_NET, "%s", text);
    if (quick && op->resolved++ > 0)
        qc_attempt_fatal(a);
    else
        try_again(a, false, -1);
}

static void network_failed(struct http_attempt *a, CURLcode code)
{
    struct qc_http_private *op = a->op;
    char text[400];
    long sys = 0;

    a->w->curl->easy_getinfo(a->easy, CURLINFO_OS_ERRNO, &sys);
    qc_attempt_describe(a, code, sys, text, sizeof(text));
    if (code == CURLE_OUT_OF_MEMORY) {
        qc_fail_nomem(&op->r->err);
        qc_attempt_fatal(a);
    } else if (qc_is_keepalive_race(a, code) && !op->race_used) {
        op->race_used = true;
        qc_attempt_end(a);
        qc_op_again(op, true);
    } else if (qc_is_tls_failure(code, a, sys)) {
        qc_op_fail(op, QCHAIN_E_NET, "TLS: %s%s", text, qc_tls_advice(text));
        qc_attempt_fatal(a);
    } else if (code == CURLE_COULDNT_RESOLVE_HOST || code == CURLE_COULDNT_RESOLVE_PROXY) {
        name_not_found(a, text);
    } else if (code == CURLE_UNSUPPORTED_PROTOCOL && strstr(a->error, "HTTP/0.9")) {
        broken_rules(a, QCHAIN_E_CORRUPT, "the answer is not HTTP: another service may listen there");
    } else if (code == CURLE_URL_MALFORMAT || code == CURLE_UNSUPPORTED_PROTOCOL) {
        qc_op_fail(op, QCHAIN_E_UNSUPPORTED, "%s", text);
        qc_attempt_fatal(a);
    } else if (code == CURLE_WEIRD_SERVER_REPLY || code == CURLE_BAD_CONTENT_ENCODING) {
        broken_rules(a, QCHAIN_E_CORRUPT, text);
    } else {
        qc_op_fail(op, code == CURLE_OPERATION_TIMEDOUT ? QCHAIN_E_TIMEOUT : QCHAIN_E_NET, "%s",
                   text);
        try_again(a, true, -1);
    }
}

/* ------------------------------------------------------------------------- status --- */

/* Some answers make the whole origin go slower. */
static void slow_down(struct http_attempt *a)
{
    struct http_origin *o = a->op->origin;

    if (a->begun_us < o->halved_us) /* this one was sent before */
        return;
    o->halved_us = qc_http_now_us();
    o->window = o->window > 2 ? o->window / 2 : 1;
}

static void refused(struct http_attempt *a)
{
    struct qc_http_private *op = a->op;
    const struct qc_http_request *r = op->r;
    enum qc_refusal what;

    what = qc_place_refused(op->r->place, a->answer.status, a->text ? a->text : "", a->n_text,
                            a->answer.date[0] ? a->answer.date : NULL,
                            strncasecmp(a->url, "https:", 6) == 0, &op->r->err);
    /* The name is there. */
    if (r->method == QC_HTTP_GET)
        qc_error_prefix(&op->r->err, -1, "GET bytes %" PRIu64 "-%" PRIu64 ": ", r->offset,
                        r->offset + r->length - 1);
    else
        qc_error_prefix(&op->r->err, -1, "%s: ", method_name(r->method));
    op->r->err.http_status = op->r->status;
    op->failed = true;
    /* What was learnt is for the place itself, not for where a redirect led without credentials. */
    if (what != QC_REFUSED) {
        qc_conf_wipe(op->hop);
        op->hop = NULL;
        op->no_target = true;
    }
    if (what == QC_REFUSED_REFRESH && !op->refreshed) {
        op->refreshed = true;
        qc_attempt_end(a);
        qc_op_prepare(op, true);
    } else if (what == QC_REFUSED_AGAIN && !op->again_used) {
        op->again_used = true;
        qc_attempt_end(a);
        qc_op_again(op, false);
    } else {
        qc_attempt_fatal(a);
    }
}

static void succeeded(struct http_attempt *a)
{
    struct qc_http_private *op = a->op;
    struct http_origin *o = op->origin;

    if (o->window < op->w->limit)
        o->window += 1 / o->window;
    if (a->first_us == 0)
        qc_latency_add(&op->w->h->first_byte, (uint64_t)(qc_http_now_us() - a->begun_us));
    qc_latency_add(&op->w->h->total, (uint64_t)(qc_http_now_us() - a->begun_us));
    qc_remember_target(a);
    qc_attempt_end(a);
    qc_op_finish(op, 0);
}

static void range_beyond_end(struct http_attempt *a)
{
    struct qc_http_private *op = a->op;
    struct qc_http_request *r = op->r;
    const struct qc_answer *n = &a->answer;
    bool told = n->has_range && !n->bad_range && n->unsatisfied;

    if (r->pin || op->pinned) {
        qc_op_fail(op, QCHAIN_E_CHANGED, "the object is smaller than it was");
        qc_attempt_fatal(a);
    } else if (told && n->total > r->offset) {
        broken_rules(a, QCHAIN_E_CORRUPT, "the server refuses a range that the object has");
    } else if (r->offset == 0 || told) {
        qc_answer_pin(n, told ? n->total : 0, &r->got);
        succeeded(a);
    } else {
        qc_op_fail(op, QCHAIN_E_CHANGED, "the object ends before this offset");
        qc_attempt_fatal(a);
    }
}

/* The body of a 200 or 206 is in the buffer, all that was announced of it. */
static void got_part(struct http_attempt *a)
{
    struct qc_http_private *op = a->op;
    struct qc_http_request *r = op->r;
    uint64_t end = r->offset + r->length;

    if (end > r->got.size)
        end = r->got.size > r->offset ? r->got.size : r->offset;
    if (r->offset + r->have >= end && (!r->pin || r->have == r->length)) {
        succeeded(a);
    } else if (a->got > a->skip) { /* a server may give less than was asked for */
        qc_attempt_end(a);
        qc_op_again(op, false);
    } else {
        broken_rules(a, QCHAIN_E_CORRUPT, "the answer has no bytes");
    }
}

static void put_done(struct http_attempt *a)
{
    struct qc_http_request *r = a->op->r;

    if (r->method == QC_HTTP_PUT)
        qc_answer_pin(&a->answer, r->length, &r->got);
    succeeded(a);
}

static void not_absent(struct http_attempt *a)
{
    struct qc_http_private *op = a->op;

    qc_op_fail(op, QCHAIN_E_BUSY, "there is such an object already%s",
               op->r->attempts > 1 ? ", perhaps by an earlier attempt of this request" : "");
    qc_attempt_fatal(a);
}

static void server_failed(struct http_attempt *a)
{
    struct qc_http_private *op = a->op;
    int status = a->answer.status;
    bool slow = status == 429 || status == 503;
    int64_t ms = qc_answer_retry_ms(&a->answer, a->w->curl);

    if (slow)
        slow_down(a);
    qc_op_fail(op, slow ? QCHAIN_E_THROTTLED : QCHAIN_E_NET, "status %d%s", status,
               slow ? ": the server asks to slow down" : "");
    try_again(a, false, ms);
}

static void answered(struct http_attempt *a)
{
    struct qc_http_private *op = a->op;
    const struct qc_http_request *r = op->r;
    int status = a->answer.status;
    bool moved = status == 301 || status == 302 || status == 307 || status == 308;

    if (a->in_buffer) {
        got_part(a);
    } else if (status >= 200 && status < 300 && r->method != QC_HTTP_GET) {
        put_done(a);
    } else if (moved && a->sign.sigv4 && (status == 301 || status == 307)) {
        refused(a);
    } else if (moved) {
        qc_attempt_redirected(a);
    } else if (status == 416 && r->method == QC_HTTP_GET) {
        range_beyond_end(a);
    } else if ((status == 412 || status == 409) && r->flags & QC_HTTP_IF_ABSENT) {
        not_absent(a);
    } else if (status == 408 || status == 429 || (status >= 500 && status != 501 && status != 505)) {
        server_failed(a);
    } else if (status >= 400 && status < 500) {
        refused(a);
    } else if (status == 501 || status == 505) {
        qc_op_fail(op, QCHAIN_E_UNSUPPORTED, "status %d: the server cannot do this", status);
        qc_attempt_fatal(a);
    } else {
        char text[64];

        snprintf(text, sizeof(text), "status %d makes no sense here", status);
        broken_rules(a, QCHAIN_E_CORRUPT, text);
    }
}

/* --------------------------------------------------------------------------- over --- */

static void cut_off(struct http_attempt *a)
{
    struct qc_http_private *op = a->op;

    switch (a->cut) {
    case CUT_PROTOCOL:
        broken_rules(a, QCHAIN_E_CORRUPT, a->why);
        return;
    case CUT_NO_RANGES:
        /* Something between us and a server that had ranges before may have answered. */
        op->may_retry &= op->r->pin || op->pinned;
        broken_rules(a, QCHAIN_E_UNSUPPORTED, a->why);
        return;
    case CUT_STALL:
    case CUT_LOST: /* and then there is nobody to have lost against */
        qc_op_fail(op, QCHAIN_E_TIMEOUT, "%s", a->why);
        try_again(a, true, -1);
        return;
    case CUT_CHANGED:
        qc_op_fail(op, QCHAIN_E_CHANGED, "%s", a->why);
        break;
    case CUT_PRIVATE:
        qc_op_fail(op, QCHAIN_E_ACCESS, "%s", a->why);
        break;
    case CUT_TOO_LONG:
        qc_op_fail(op, QCHAIN_E_CORRUPT, "%s", a->why);
        break;
    default:
        qc_fail_nomem(&op->r->err);
        break;
    }
    qc_attempt_fatal(a);
}

static void account(struct http_attempt *a)
{
    struct qc_slots *slots = a->w->h->slots;
    long connects = 0;

    if (!slots)
        return;
    a->w->curl->easy_getinfo(a->easy, CURLINFO_NUM_CONNECTS, &connects);
    qc_count(slots, QC_CNT_HTTP_CONNECTIONS, (uint64_t)connects);
    qc_count(slots, QC_CNT_HTTP_BYTES, a->got);
    qc_count(slots, QC_CNT_HTTP_SENT_BYTES, a->sent);
    if (!a->in_buffer || a->skip > 0)
        qc_count(slots, QC_CNT_HTTP_WASTED_BYTES, a->in_buffer ? a->skip : a->got);
}

/* One of two that is not needed: the other goes on. */
static bool is_spare(const struct http_attempt *a, CURLcode code)
{
    const struct qc_http_private *op = a->op;
    const struct http_attempt *other = op->attempt == a ? op->hedge : op->attempt;

    /* One that has lost brings nothing any more, and waits only for its end. */
    if (!other || other->cut == CUT_LOST)
        return false;
    if (a->cut == CUT_LOST)
        return true;
    /* Neither has delivered. An end without bytes may still be a success. */
    return code != CURLE_OK || a->cut != CUT_NONE ||
           !(a->in_buffer || (a->answer.status == 416 && !op->r->pin));
}

void qc_attempt_over(struct http_attempt *a, CURLcode code)
{
    struct qc_http_private *op = a->op;

    account(a);
    if (is_spare(a, code)) {
        qc_attempt_end(a);
        if (!op->attempt) {
            op->attempt = op->hedge;
            op->hedge = NULL;
        }
        return;
    }
    if (op->attempt && op->hedge)
        qc_attempt_end(op->attempt == a ? op->hedge : op->attempt);
    if (a->answer.complete)
        op->r->status = a->answer.status;
    if (a->cut != CUT_NONE && a->cut != CUT_ENOUGH)
        cut_off(a);
    else if (a->in_buffer && (code == CURLE_OK ? a->got < a->expect : a->got != a->expect))
        network_failed(a, code == CURLE_OK ? CURLE_PARTIAL_FILE : code);
    else if (a->answer.complete && a->answer.status >= 200 &&
             (code == CURLE_OK || a->in_buffer || a->cut == CUT_ENOUGH || a->answer.status >= 400))
        answered(a);
    else
        network_failed(a, code == CURLE_OK ? CURLE_GOT_NOTHING : code);
}
