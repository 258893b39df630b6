/* SPDX-License-Identifier: MIT */
/* One transfer: what it sends, and what is done with what comes. */
#include "net/http_int.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/config_int.h"
#include "util/alloc.h"
#include "util/bytes.h"

/* Requests of at most so much are small: they may share an HTTP/2 connection, and take a small buffer. */
#define SMALL 65536u
#define BULK_BUFFER 131072L

void qc_attempt_cut(struct http_attempt *a, enum http_cut cut, const char *fmt, ...)
{
    va_list ap;

    if (a->cut != CUT_NONE)
        return;
    a->cut = cut;
    va_start(ap, fmt);
    vsnprintf(a->why, sizeof(a->why), fmt, ap);
    va_end(ap);
}

/* ------------------------------------------------------------ the answer's head --- */

/* Is it the object that is asked for? The first answer says what that is. */
static bool same_object(struct http_attempt *a, uint64_t size)
{
    struct qc_http_private *op = a->op;
    struct qc_http_request *r = op->r;
    struct qc_pin pin;

    qc_answer_pin(&a->answer, size, &pin);
    if (r->pin && !qc_pin_same(r->pin, &pin)) {
        qc_attempt_cut(a, CUT_CHANGED, "the object is not what it was: %s",
                       r->pin->size != size ? "its size is another" : "its validators are others");
        return false;
    }
    if (op->pinned && !qc_pin_same(&r->got, &pin)) {
        qc_attempt_cut(a, CUT_CHANGED, "the object was replaced while it was read");
        return false;
    }
    if (!op->pinned)
        r->got = pin;
    op->pinned = true;
    return true;
}

/* 206: the range that was asked for, or the beginning of it. */
static bool judge_part(struct http_attempt *a)
{
    const struct qc_answer *n = &a->answer;
    struct qc_http_request *r = a->op->r;
    uint64_t first = r->offset + r->have, last = r->offset + r->length - 1;

    if (n->multipart)
        qc_attempt_cut(a, CUT_PROTOCOL, "the answer has several parts, for one range");
    else if (!n->has_range)
        qc_attempt_cut(a, CUT_PROTOCOL, "the answer to a range has no Content-Range");
    else if (n->bad_range || n->unsatisfied)
        qc_attempt_cut(a, CUT_PROTOCOL, "the answer's Content-Range makes no sense");
    else if (n->first == n->total && n->last + 1 == n->first && n->first == first)
        a->expect = 0; /* some say "nothing" like this */
    else if (n->first != first || n->last < first || n->last > last || n->last >= n->total)
        qc_attempt_cut(a, CUT_PROTOCOL, "the answer is bytes %" PRIu64 "-%" PRIu64 " of %" PRIu64
                       ", which was not asked for", n->first, n->last, n->total);
    else
        a->expect = n->last - n->first + 1;
    if (a->cut == CUT_NONE && n->has_length && n->length != a->expect)
        qc_attempt_cut(a, CUT_PROTOCOL, "the answer's Content-Length and Content-Range disagree");
    return a->cut == CUT_NONE && same_object(a, n->total);
}

/* 200: the whole object, welcome only where it is small. */
static bool judge_whole(struct http_attempt *a)
{
    const struct qc_answer *n = &a->answer;
    struct qc_http_request *r = a->op->r;

    if (r->offset != 0 || !n->has_length || n->length > r->length) {
        qc_attempt_cut(a, CUT_NO_RANGES, "the server has no range requests: it answers with the "
                       "whole object");
        return false;
    }
    a->expect = n->length;
    a->skip = qc_min64(r->have, n->length);
    return same_object(a, n->length);
}

/* The header is there. False: break it off. */
static bool judge(struct http_attempt *a)
{
    const struct qc_answer *n = &a->answer;
    bool good = n->status == 200 || n->status == 206;

    if (n->bad_length || (n->has_length && n->chunked))
        qc_attempt_cut(a, CUT_PROTOCOL, "the answer's Content-Length or Transfer-Encoding makes "
                       "no sense");
    if (a->cut != CUT_NONE)
        return false;
    if (a->op->r->method != QC_HTTP_GET || !good)
        return true;
    if (n->encoded) {
        qc_attempt_cut(a, CUT_PROTOCOL, "the answer has a Content-Encoding, though none was allowed");
        return false;
    }
    a->in_buffer = true;
    return n->status == 206 ? judge_part(a) : judge_whole(a);
}

static size_t on_header(char *line, size_t size, size_t n, void *arg)
{
    struct http_attempt *a = arg;
    bool was = a->answer.complete && a->answer.status >= 200;

    n *= size;
    if (a->cut != CUT_NONE)
        return 0;
    if (!qc_answer_line(&a->answer, a->w->curl, line, n)) {
        qc_attempt_cut(a, CUT_NOMEM, "out of memory");
        return 0;
    }
    if (a->answer.too_much) {
        qc_attempt_cut(a, CUT_PROTOCOL, "the answer's header is larger than %u bytes or %u lines",
                       QC_ANSWER_BYTES, QC_ANSWER_HEADERS);
        return 0;
    }
    if (!was && a->answer.complete && a->answer.status >= 200 && !judge(a))
        return 0;
    return n;
}

/* ------------------------------------------------------------ the answer's body --- */

static void first_byte(struct http_attempt *a)
{
    a->first_us = qc_http_now_us();
    qc_latency_add(&a->w->h->first_byte, (uint64_t)(a->first_us - a->begun_us));
}

/* The first of two that delivers owns the buffer. */
static bool own_buffer(struct http_attempt *a)
{
    struct qc_http_private *op = a->op;
    struct http_attempt *other = op->attempt == a ? op->hedge : op->attempt;

    if (other && other->cut == CUT_NONE) {
        qc_attempt_cut(other, CUT_LOST, "another attempt was faster");
        a->w->scan_us = 0; /* curl must not be called from here to end it */
    }
    return a->cut == CUT_NONE;
}

static size_t keep_text(struct http_attempt *a, const char *p, size_t n)
{
    size_t room = QC_ANSWER_BYTES - a->n_text, some = n < room ? n : room;

    if (!a->text && !(a->text = qc_malloc(QC_ANSWER_BYTES))) {
        qc_attempt_cut(a, CUT_NOMEM, "out of memory");
        return 0;
    }
    memcpy(a->text + a->n_text, p, some);
    a->n_text += some;
    if (some < n)
        qc_attempt_cut(a, CUT_ENOUGH, "enough");
    return some;
}

static size_t on_body(char *p, size_t size, size_t n, void *arg)
{
    struct http_attempt *a = arg;
    struct qc_http_request *r = a->op->r;
    size_t some, skip;

    n *= size;
    if (a->first_us == 0)
        first_byte(a);
    if (!a->in_buffer) {
        a->got += n;
        return a->cut == CUT_NONE ? keep_text(a, p, n) : 0;
    }
    if (a->cut != CUT_NONE || !own_buffer(a))
        return 0;
    some = (size_t)qc_min64(n, a->expect - a->got);
    skip = (size_t)qc_min64(some, a->skip - qc_min64(a->skip, a->got));
    memcpy((char *)r->buf + r->have, p + skip, some - skip);
    a->got += some;
    a->w->moved += some;
    r->have += some - skip;
    if (some < n) {
        qc_attempt_cut(a, CUT_TOO_LONG, "the server sends more bytes than it announced");
        return 0;
    }
    /* curl brings 16 KiB a call; who asked is told once for all that a socket had. */
    if (r->progress && !a->op->waiter && some > skip && !a->fresh) {
        a->fresh = true;
        a->next_fresh = a->w->fresh;
        a->w->fresh = a;
    }
    return n;
}

void qc_attempts_tell(struct http_worker *w)
{
    struct http_attempt *a;

    while ((a = w->fresh)) {
        w->fresh = a->next_fresh;
        a->fresh = false;
        a->op->r->progress(a->op->r, a->op->r->have);
    }
}

/* ---------------------------------------------------------------- the connection --- */

static size_t on_upload(char *p, size_t size, size_t n, void *arg)
{
    struct http_attempt *a = arg;
    const struct qc_http_request *r = a->op->r;
    size_t some = (size_t)qc_min64(size * n, r->length - a->sent);

    if (some > 0)
        memcpy(p, (const char *)r->buf + a->sent, some);
    a->sent += some;
    return some;
}

static int on_seek(void *arg, curl_off_t offset, int origin)
{
    struct http_attempt *a = arg;

    if (origin != SEEK_SET || offset < 0 || (uint64_t)offset > a->op->r->length)
        return CURL_SEEKFUNC_FAIL;
    a->sent = (size_t)offset;
    return CURL_SEEKFUNC_OK;
}

/* Surely? Where the environment has exceptions from it, libcurl heeds them; then who is spoken to is
 * looked at as if there were no proxy. */
static bool by_proxy(const struct http_attempt *a)
{
    const char *proxy = a->w->h->conf->proxy;

    return proxy && proxy[0] && !getenv("no_proxy") && !getenv("NO_PROXY");
}

/* Before a connection is opened: descriptors are not for programs that the process starts. */
static curl_socket_t on_open(void *arg, curlsocktype purpose, struct curl_sockaddr *to)
{
    struct http_attempt *a = arg;

    (void)purpose;
    if (a->must_be_public && !by_proxy(a) && qc_address_is_private(&to->addr)) {
        qc_attempt_cut(a, CUT_PRIVATE, "a redirect leads from a public host to a private address");
        return CURL_SOCKET_BAD;
    }
    return socket(to->family, to->socktype | SOCK_CLOEXEC, to->protocol);
}

/* Before a request is sent, on a connection that may be an old one. */
static int on_ready(void *arg, char *peer, char *self, int peer_port, int self_port)
{
    struct http_attempt *a = arg;
    bool private = qc_address_text_is_private(peer);

    (void)self;
    (void)peer_port;
    (void)self_port;
    a->ready = true;
    a->mark_us = qc_http_now_us();
    if (by_proxy(a))
        return CURL_PREREQFUNC_OK;
    if (a->must_be_public && private) {
        qc_attempt_cut(a, CUT_PRIVATE, "a redirect leads from a public host to the private address "
                       "%s", peer);
        return CURL_PREREQFUNC_ABORT;
    }
    a->op->was_public |= !private;
    return CURL_PREREQFUNC_OK;
}

/* ---------------------------------------------------------------------- handles --- */

/* What all requests have in common; false: no memory, or a setting curl refuses. */
static bool set_common(struct http_attempt *a)
{
    const struct qc_curl *c = a->w->curl;
    const qchain_remote *conf = a->w->h->conf;
    CURL *e = a->easy;
    int bad = 0;

#define SET(option, value) bad |= (int)c->easy_setopt(e, option, value)
    SET(CURLOPT_PRIVATE, (void *)a);
    SET(CURLOPT_NOSIGNAL, 1L);
    /* Or ending a transfer whose host is being looked up waits for the resolver, and all others of the
     * worker with it. */
    c->easy_setopt(e, (CURLoption)(CURLOPTTYPE_LONG + 322) /* QUICK_EXIT, since 7.87 */, 1L);
    SET(CURLOPT_ERRORBUFFER, a->error);
    SET(CURLOPT_HEADERFUNCTION, on_header);
    SET(CURLOPT_HEADERDATA, (void *)a);
    SET(CURLOPT_WRITEFUNCTION, on_body);
    SET(CURLOPT_WRITEDATA, (void *)a);
    SET(CURLOPT_OPENSOCKETFUNCTION, on_open);
    SET(CURLOPT_OPENSOCKETDATA, (void *)a);
    SET(CURLOPT_PREREQFUNCTION, on_ready);
    SET(CURLOPT_PREREQDATA, (void *)a);
    SET(CURLOPT_PATH_AS_IS, 1L);
    SET(CURLOPT_FOLLOWLOCATION, 0L);
    SET(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    /* This header is not signed, unlike those in our list. Nothing is decoded. */
    SET(CURLOPT_ACCEPT_ENCODING, "identity");
    SET(CURLOPT_HTTP_CONTENT_DECODING, 0L);
    SET(CURLOPT_USERAGENT, "libqchain");
    SET(CURLOPT_CONNECTTIMEOUT_MS, (long)conf->connect_ms);
    SET(CURLOPT_EXPECT_100_TIMEOUT_MS, 300L);
    SET(CURLOPT_TCP_NODELAY, 1L);
    SET(CURLOPT_TCP_KEEPALIVE, 1L);
    SET(CURLOPT_MAXAGE_CONN, 50L);
    /* A thread that asks for a name is left to itself when nobody waits for it (since 7.87). */
    c->easy_setopt(e, CURLOPT_QUICK_EXIT, 1L);
    if (c->easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https") != CURLE_OK)
        SET((CURLoption)(CURLOPTTYPE_LONG + 181) /* PROTOCOLS, before 7.85 */,
            (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
    if (conf->insecure) {
        SET(CURLOPT_SSL_VERIFYPEER, 0L);
        SET(CURLOPT_SSL_VERIFYHOST, 0L);
    }
    if (conf->ca_file)
        SET(CURLOPT_CAINFO, conf->ca_file);
    if (conf->client_cert)
        SET(CURLOPT_SSLCERT, conf->client_cert);
    if (conf->client_key)
        SET(CURLOPT_SSLKEY, conf->client_key);
    if (conf->proxy)
        SET(CURLOPT_PROXY, conf->proxy);
#undef SET
    return bad == 0;
}

void qc_attempt_free(struct http_attempt *a)
{
    if (a->easy)
        a->w->curl->easy_cleanup(a->easy);
    qc_free(a->text);
    qc_free(a);
}

static struct http_attempt *take_attempt(struct http_worker *w)
{
    struct http_attempt *a = w->spare;

    if (a) {
        w->spare = a->next;
        w->n_spare--;
    } else {
        a = qc_calloc(1, sizeof(*a));
        if (!a)
            return NULL;
        a->w = w;
        a->easy = w->curl->easy_init();
        if (!a->easy || !set_common(a)) {
            qc_attempt_free(a);
            return NULL;
        }
    }
    a->next = NULL;
    return a;
}

static void clear(struct http_attempt *a)
{
    a->w->curl->slist_free_all(a->list);
    a->list = NULL;
    qc_signed_finish(&a->sign);
    memset(&a->sign, 0, sizeof(a->sign));
    qc_conf_wipe(a->target);
    a->target = NULL;
    qc_answer_reset(&a->answer);
    qc_free(a->text);
    a->text = NULL;
    a->url = NULL;
    a->op = NULL;
    a->must_be_public = a->hedge = a->counted = a->bulk = a->ready = a->in_buffer = false;
    a->cut = CUT_NONE;
    a->why[0] = a->error[0] = '\0';
    a->n_text = a->sent = 0;
    a->expect = a->got = a->skip = a->mark = 0;
    a->first_us = a->mark_us = 0;
}

void qc_attempt_end(struct http_attempt *a)
{
    struct http_worker *w = a->w;
    struct qc_http_private *op = a->op;

    w->curl->multi_remove_handle(w->multi, a->easy);
    if (op->attempt == a)
        op->attempt = NULL;
    if (op->hedge == a)
        op->hedge = NULL;
    if (a->counted) {
        op->origin->running--;
        w->n_running--;
        w->n_bulk -= a->bulk;
    }
    clear(a);
    if (!w->curl->easy_again || w->n_spare >= 2 * w->limit + 16) {
        qc_attempt_free(a);
        return;
    }
    a->next = w->spare;
    w->spare = a;
    w->n_spare++;
}

/* ------------------------------------------------------------------------ begin --- */

/* Headers that are signed along where the scheme signs headers. */
static size_t extra_headers(const struct qc_http_private *op, char *room, size_t size,
                            const char **extra)
{
    const struct qc_http_request *r = op->r;
    const struct qc_pin *pin = r->pin ? r->pin : op->pinned ? &r->got : NULL;
    size_t len = pin ? strlen(pin->etag) : 0;

    if (r->method == QC_HTTP_PUT && r->flags & QC_HTTP_IF_ABSENT) {
        extra[0] = "If-None-Match: *";
        return 1;
    }
    /* Weak ones never match by the rules of If-Match. A pin may come from a file that others can write
     * to, so what would end the line is not sent. */
    if (r->method != QC_HTTP_GET || len < 2 || !qc_pin_is_text(pin->etag) || pin->etag[0] != '"' || pin->etag[len - 1] != '"')
        return 0;
    snprintf(room, size, "If-Match: %s", pin->etag);
    extra[0] = room;
    return 1;
}

static int sign(struct http_attempt *a, bool *range_signed, char *range, size_t size)
{
    struct qc_http_private *op = a->op;
    struct qc_http_request *r = op->r;
    const char *extra[1];
    char room[160];
    size_t n = extra_headers(op, room, sizeof(room), extra);
    bool get = r->method == QC_HTTP_GET;

    snprintf(range, size, "bytes=%" PRIu64 "-%" PRIu64, r->offset + r->have,
             r->offset + r->length - 1);
    return qc_place_sign(op->r->place, r->method, get ? 0 : r->length, get ? range : NULL, extra, n,
                         &a->sign, range_signed, &r->err);
}

static void choose_url(struct http_attempt *a)
{
    struct qc_http_private *op = a->op;
    char *mark;

    a->url = a->sign.url;
    if (op->hop) {
        a->url = op->hop;
        a->must_be_public = op->was_public;
        return;
    }
    if (op->no_target || op->r->method != QC_HTTP_GET)
        return;
    a->target = qc_place_target(op->r->place);
    if (a->target) {
        a->url = a->target;
        mark = strstr(a->target, QC_PRIVATE_MARK);
        a->must_be_public = !mark;
        if (mark)
            *mark = '\0';
    }
}

static bool set_method(struct http_attempt *a)
{
    const struct qc_curl *c = a->w->curl;
    struct qc_http_request *r = a->op->r;
    CURL *e = a->easy;
    int bad = 0;

    if (r->method == QC_HTTP_GET)
        return c->easy_setopt(e, CURLOPT_HTTPGET, 1L) == CURLE_OK;
    a->dirty = true;
    if (r->method == QC_HTTP_DELETE)
        return c->easy_setopt(e, CURLOPT_CUSTOMREQUEST, "DELETE") == CURLE_OK;
    bad |= (int)c->easy_setopt(e, CURLOPT_UPLOAD, 1L);
    bad |= (int)c->easy_setopt(e, CURLOPT_INFILESIZE_LARGE, (curl_off_t)r->length);
    bad |= (int)c->easy_setopt(e, CURLOPT_READFUNCTION, on_upload);
    bad |= (int)c->easy_setopt(e, CURLOPT_READDATA, (void *)a);
    bad |= (int)c->easy_setopt(e, CURLOPT_SEEKFUNCTION, on_seek);
    bad |= (int)c->easy_setopt(e, CURLOPT_SEEKDATA, (void *)a);
    return bad == 0;
}

/* All that differs from request to request is set each time, so that nothing is left over. */
static bool set_request(struct http_attempt *a, const char *range)
{
    const struct qc_curl *c = a->w->curl;
    const struct qc_http_request *r = a->op->r;
    bool small = r->length <= SMALL || r->method != QC_HTTP_GET;
    CURL *e = a->easy;
    int bad = 0;

    if (a->dirty) {
        c->easy_reset(e);
        a->dirty = false;
        bad |= !set_common(a);
    }
    for (size_t i = 0; i < a->sign.n_headers; i++) {
        struct curl_slist *more = c->slist_append(a->list, a->sign.header[i]);

        if (!more)
            return false;
        a->list = more;
    }
    bad |= !set_method(a);
    bad |= (int)c->easy_setopt(e, CURLOPT_URL, a->url);
    bad |= (int)c->easy_setopt(e, CURLOPT_HTTPHEADER, a->list);
    bad |= (int)c->easy_setopt(e, CURLOPT_RANGE, range);
    bad |= (int)c->easy_setopt(e, CURLOPT_USERNAME, a->sign.user);
    bad |= (int)c->easy_setopt(e, CURLOPT_PASSWORD, a->sign.password);
    /* In this order: a string for the signature sets the other. */
    bad |= (int)c->easy_setopt(e, CURLOPT_AWS_SIGV4, a->sign.sigv4);
    if (!a->sign.sigv4)
        bad |= (int)c->easy_setopt(e, CURLOPT_HTTPAUTH, (long)CURLAUTH_BASIC);
    bad |= (int)c->easy_setopt(e, CURLOPT_FRESH_CONNECT, (long)(a->op->fresh || a->hedge));
    /* After a failure of the connection the server may be elsewhere by now. */
    bad |= (int)c->easy_setopt(e, CURLOPT_DNS_CACHE_TIMEOUT, a->op->fresh ? 0L : 60L);
    /* Refused while the buffer of a transfer that never began is still there; no harm. */
    c->easy_setopt(e, CURLOPT_BUFFERSIZE, small ? 65536L : BULK_BUFFER);
    /* Bulk over HTTP/2 would share one connection's window and order of delivery. HTTP/2 without
     * TLS is broken in too many versions. */
    bad |= (int)c->easy_setopt(e, CURLOPT_HTTP_VERSION,
                               (long)(small ? CURL_HTTP_VERSION_2TLS : CURL_HTTP_VERSION_1_1));
    return bad == 0;
}

static int begin(struct http_attempt *a)
{
    struct qc_http_private *op = a->op;
    bool range_signed = false;
    char range[64];
    int ret;

    ret = sign(a, &range_signed, range, sizeof(range));
    if (ret == QCHAIN_E_AUTH && op->prepared < 3 && !qc_place_is_ready(op->r->place))
        return 1;
    if (ret != 0)
        return ret;
    choose_url(a);
    if (!set_request(a, op->r->method != QC_HTTP_GET || range_signed ? NULL : strchr(range, '=') + 1))
        return qc_fail_nomem(&op->r->err);
    a->begun_us = a->mark_us = qc_http_now_us();
    if (a->w->curl->multi_add_handle(a->w->multi, a->easy) != CURLM_OK)
        return qc_fail_nomem(&op->r->err);
    return 0;
}

int qc_attempt_begin(struct http_worker *w, struct qc_http_private *op, bool hedge)
{
    struct http_attempt *a;
    int ret;

    if (!qc_place_is_ready(op->r->place))
        return 1;
    a = take_attempt(w);
    if (!a)
        return qc_fail_nomem(&op->r->err);
    a->op = op;
    a->hedge = hedge;
    a->counted = true;
    a->bulk = op->r->method == QC_HTTP_GET && op->r->length > SMALL;
    op->origin->running++;
    w->n_running++;
    w->n_bulk += a->bulk;
    ret = begin(a);
    if (ret != 0) {
        qc_attempt_end(a);
        return ret;
    }
    if (hedge) {
        op->hedge = a;
    } else {
        op->attempt = a;
        op->fresh = false;
    }
    op->r->attempts++;
    qc_count(w->h->slots, QC_CNT_HTTP_REQUESTS, 1);
    return 0;
}
