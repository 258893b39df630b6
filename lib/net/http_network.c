/* SPDX-License-Identifier: MIT */
/* What curl's codes mean. */
#include "net/http_int.h"

#include <stdio.h>

#include "util/escape.h"

bool qc_is_tls_failure(CURLcode code, const struct http_attempt *a, long sys)
{
    switch (code) {
    case CURLE_SSL_CONNECT_ERROR:
        /* A connection that breaks during the handshake is none. */
        return sys == 0 && !strstr(a->error, "SYSCALL") && !strcasestr(a->error, "reset") &&
               !strcasestr(a->error, "timed out") && !strcasestr(a->error, "eof");
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_CRL_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_INVALIDCERTSTATUS:
    case CURLE_SSL_PINNEDPUBKEYNOTMATCH:
    case CURLE_SSL_CLIENTCERT:
    case CURLE_SSL_ENGINE_NOTFOUND:
    case CURLE_SSL_ENGINE_SETFAILED:
    case CURLE_USE_SSL_FAILED:
        return true;
    default:
        return false;
    }
}

bool qc_is_keepalive_race(const struct http_attempt *a, CURLcode code)
{
    long connects = 1;

    if (a->answer.n_bytes > 0 || a->answer.status != 0)
        return false;
    if (code != CURLE_GOT_NOTHING && code != CURLE_RECV_ERROR && code != CURLE_SEND_ERROR &&
        code != CURLE_HTTP2 && code != CURLE_HTTP2_STREAM)
        return false;
    a->w->curl->easy_getinfo(a->easy, CURLINFO_NUM_CONNECTS, &connects);
    return connects == 0;
}

/* curl's sentence on a proxy that makes no sense quotes it, password and all. */
static bool may_show_proxy(CURLcode code)
{
    return code == CURLE_UNSUPPORTED_PROTOCOL || code == CURLE_URL_MALFORMAT ||
           code == CURLE_COULDNT_RESOLVE_PROXY || code == CURLE_PROXY;
}

/* Was it a proxy, of ours or of the environment, that did not take the connection? curl says whom it
 * called. */
static bool was_proxy(const struct http_attempt *a, const struct qc_url *u)
{
    char port[16];

    snprintf(port, sizeof(port), " port %u ", u->port);
    return strncmp(a->error, "Failed to connect", 17) == 0 &&
           (!strstr(a->error, u->host) || !strstr(a->error, port));
}

const char *qc_tls_advice(const char *text)
{
    if (strcasestr(text, "wrong version") || strcasestr(text, "record layer") ||
        strcasestr(text, "packet length") || strcasestr(text, "unexpected TLS packet"))
        return "; perhaps the server speaks http:// on this port";
    if (strcasestr(text, "issuer") || strcasestr(text, "self-signed") ||
        strcasestr(text, "self signed") || strcasestr(text, "unknown CA"))
        return "; if that is right, name who signed it by ca-file";
    return "";
}

void qc_attempt_describe(const struct http_attempt *a, CURLcode code, long sys, char *out, size_t size)
{
    bool safe = a->error[0] && !may_show_proxy(code) && !strchr(a->error, '@') &&
                !strstr(a->error, "://");
    const char *text = safe ? a->error
                            : a->w->curl->easy_strerror(code);
    char reason[128];
    struct qc_escaped e;
    struct qc_url u = {0};
    bool refused = code == CURLE_COULDNT_CONNECT && sys != 0 && qc_url_parse(&u, a->url, NULL) == 0;

    qc_escape_str(&e, text);
    if (refused && was_proxy(a, &u))
        snprintf(out, size, "connect to the proxy: %s", strerror_r((int)sys, reason, sizeof(reason)));
    else if (refused)
        snprintf(out, size, "connect to %s:%u: %s", qc_escape_str(&e, u.host), u.port,
                 strerror_r((int)sys, reason, sizeof(reason)));
    else if (code == CURLE_OPERATION_TIMEDOUT && !a->ready)
        snprintf(out, size, "no connection within %.1f s",
                 (double)a->w->h->conf->connect_ms / 1000);
    else if (sys != 0 && (code == CURLE_RECV_ERROR || code == CURLE_SEND_ERROR))
        snprintf(out, size, "%s", strerror_r((int)sys, reason, sizeof(reason)));
    else
        snprintf(out, size, "%s", e.text);
    qc_url_finish(&u);
}
