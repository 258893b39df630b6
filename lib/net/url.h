/* SPDX-License-Identifier: MIT */
/* URLs: taken apart, put together, compared, shown without their secrets. No I/O. */
#ifndef QC_NET_URL_H
#define QC_NET_URL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <qchain.h>

struct sockaddr;

/* Parts of an absolute URL of any scheme ("http", "https", "s3", "az", "gs"). Strings are
 * qc_malloc'ed. */
struct qc_url {
    char    *scheme;   /* lower case */
    char    *userinfo; /* as given, or NULL */
    char    *host;     /* lower case, an IPv6 address without brackets; of s3, az and gs the
                          bucket or container, as given */
    uint16_t port;     /* http and https: given or the scheme's own; others: 0 */
    char    *path;     /* as given, encoded or not; "/" at least */
    char    *query;    /* behind the first '?' of http and https, without it; or NULL */
};

/* INVAL with a sentence that shows no secret: no or an empty host, a port out of range, control
 * characters, blanks in an http URL, more than 8192 bytes. A fragment of http(s) is dropped. */
int  qc_url_parse(struct qc_url *u, const char *text, qchain_error *err);
void qc_url_finish(struct qc_url *u); /* zeroed is fine */

/* The whole URL, with its secrets; the port only where it is not the scheme's own. NULL: no memory. */
char *qc_url_text(const struct qc_url *u);
/* A URL, or any other name, for messages, logs and info: userinfo, query and fragment left out.
 * Not escaped for display. NULL: no memory. */
char *qc_url_shown(const char *text);

/* Scheme, host and port are the same. */
bool qc_url_same_origin(const struct qc_url *a, const struct qc_url *b);
/* "https://host:8443": the origin alone. NULL: no memory. */
char *qc_url_origin(const struct qc_url *u);

/* What a Location header means, seen from base (http and https; RFC 3986, 5.2). */
int qc_url_resolve(struct qc_url *out, const struct qc_url *base, const char *location,
                   qchain_error *err);

/* Take "/./" and "/../" (also written %2e) out of an absolute path, in place, as RFC 3986, 5.2.4. */
void qc_url_remove_dots(char *path);

enum qc_url_encode_flags {
    QC_URL_KEEP_SLASH = 0x1,  /* '/' stays */
    QC_URL_KEEP_ESCAPES = 0x2 /* "%41" stays what it is; a '%' that begins no such is encoded */
};
/* Every byte but A-Z a-z 0-9 - . _ ~ becomes %XX, in upper case. NULL: no memory. */
char *qc_url_encode(const char *s, size_t len, unsigned flags);
/* The reverse; NULL: no memory, or a decoded NUL. */
char *qc_url_decode(const char *s, size_t len);

/* True if nobody but this host or its network answers at the address: loopback, link-local,
 * private, shared (100.64/10), unique local, unspecified, multicast; IPv4 in IPv6 forms (mapped,
 * 64:ff9b::/96, 6to4) count by the IPv4 address in them. */
bool qc_address_is_private(const struct sockaddr *a);
/* The same of an address as text ("127.0.0.1", "::1"); false for what is none. */
bool qc_address_text_is_private(const char *text);

#endif
