/* SPDX-License-Identifier: MIT */
/* What tests of places share: a small HTTP server on this host, a clean environment, logs that are kept. */
#ifndef QC_TESTS_PLACE_TOOLS_H
#define QC_TESTS_PLACE_TOOLS_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "net/config.h"
#include "net/place.h"
#include "util/alloc.h"
#include "util/error.h"

#define STANDIN_REQUEST 16384

/* One request at a time, one a connection. */
struct standin {
    int        fd;
    unsigned   port;
    pthread_t  thread;
    atomic_int requests;
    unsigned   delay_ms;
    pthread_mutex_t lock;             /* for last */
    char       last[STANDIN_REQUEST]; /* request; see standin_last */
    /* Fill reply with status line, headers and body; "" closes without one. */
    void     (*answer)(struct standin *s, const char *request, char *reply, size_t size);
};

static void *standin_main(void *data)
{
    struct standin *s = data;
    char reply[STANDIN_REQUEST], request[STANDIN_REQUEST];
    int fd;

    while ((fd = accept(s->fd, NULL, NULL)) >= 0) {
        size_t n = 0;
        ssize_t got;

        while (n < sizeof(request) - 1 &&
               (got = read(fd, request + n, sizeof(request) - 1 - n)) > 0) {
            n += (size_t)got;
            request[n] = '\0';
            if (strstr(request, "\r\n\r\n"))
                break;
        }
        request[n] = '\0';
        if (n) {
            pthread_mutex_lock(&s->lock);
            memcpy(s->last, request, n + 1);
            pthread_mutex_unlock(&s->lock);
            atomic_fetch_add(&s->requests, 1);
            usleep(s->delay_ms * 1000);
            reply[0] = '\0';
            s->answer(s, request, reply, sizeof(reply));
            if (write(fd, reply, strlen(reply)) < 0)
                break;
        }
        shutdown(fd, SHUT_WR);
        close(fd);
    }
    return NULL;
}

static inline void standin_start(struct standin *s,
                                 void (*answer)(struct standin *, const char *, char *, size_t))
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);

    memset(s, 0, sizeof(*s));
    s->answer = answer;
    pthread_mutex_init(&s->lock, NULL);
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(s->fd >= 0);
    assert_int_equal(bind(s->fd, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(listen(s->fd, 64), 0);
    assert_int_equal(getsockname(s->fd, (struct sockaddr *)&a, &len), 0);
    s->port = ntohs(a.sin_port);
    assert_int_equal(pthread_create(&s->thread, NULL, standin_main, s), 0);
}

static inline void standin_stop(struct standin *s)
{
    shutdown(s->fd, SHUT_RDWR);
    pthread_join(s->thread, NULL);
    close(s->fd);
    pthread_mutex_destroy(&s->lock);
}

static inline void standin_last(struct standin *s, char out[STANDIN_REQUEST])
{
    pthread_mutex_lock(&s->lock);
    memcpy(out, s->last, STANDIN_REQUEST);
    pthread_mutex_unlock(&s->lock);
}

static inline void standin_reply(char *reply, size_t size, int status, const char *body)
{
    snprintf(reply, size, "HTTP/1.1 %d X\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s", status,
             strlen(body), body);
}

/* Nothing of this machine's own settings is seen. */
static inline void clean_environment(void)
{
    static const char *const name[] = {
        "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION",
        "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
        "AWS_EC2_METADATA_SERVICE_ENDPOINT", "AWS_WEB_IDENTITY_TOKEN_FILE", "AZURE_STORAGE_ACCOUNT",
        "AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_ENDPOINT",
        "GOOGLE_OAUTH_ACCESS_TOKEN", "http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy",
        "ALL_PROXY", "no_proxy", "NO_PROXY"};

    for (size_t i = 0; i < sizeof(name) / sizeof(*name); i++)
        unsetenv(name[i]);
    setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent/credentials", 1);
    setenv("AWS_CONFIG_FILE", "/nonexistent/config", 1);
    setenv("AWS_EC2_METADATA_DISABLED", "true", 1);
}

/* All that was logged. */
struct log_kept {
    pthread_mutex_t lock;
    char            text[16384];
};

static inline void log_keep(void *data, int level, const char *tag, const char *text)
{
    struct log_kept *k = data;
    size_t n;

    (void)level;
    (void)tag;
    pthread_mutex_lock(&k->lock);
    n = strlen(k->text);
    snprintf(k->text + n, sizeof(k->text) - n, "%s\n", text);
    pthread_mutex_unlock(&k->lock);
}

/* The value of a header among a signed request's; NULL: it has none. */
static inline const char *header_of(const struct qc_signed *s, const char *name)
{
    size_t n = strlen(name);

    for (size_t i = 0; i < s->n_headers; i++)
        if (strncasecmp(s->header[i], name, n) == 0 && s->header[i][n] == ':')
            return s->header[i] + n + 2;
    return NULL;
}

#endif
