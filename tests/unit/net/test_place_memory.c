/* SPDX-License-Identifier: MIT */
/*
 * Places and credentials while every allocation in turn fails: NOMEM or the right answer, and nothing is
 * left behind. The program's own malloc stands before the C library's; under a sanitizer, which has its
 * own, nothing fails.
 */
#include <errno.h>
#include <sys/stat.h>

#include "place_tools.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define COUNTED 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define COUNTED 0
#endif
#endif
#ifndef COUNTED
#define COUNTED 1
#endif

static long countdown; /* the allocation that fails; 0: none */
static long live;
static bool counting, failed;

#if COUNTED
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t size);
void __libc_free(void *p);

static bool refuse(void)
{
    if (countdown == 0 || --countdown)
        return false;
    errno = ENOMEM;
    failed = true;
    return true;
}

static void *counted(void *p)
{
    live += p && counting;
    return p;
}

void *malloc(size_t size)
{
    return refuse() ? NULL : counted(__libc_malloc(size));
}

void *calloc(size_t n, size_t size)
{
    return refuse() ? NULL : counted(__libc_calloc(n, size));
}

void *realloc(void *p, size_t size)
{
    if (refuse())
        return NULL;
    return p ? __libc_realloc(p, size) : counted(__libc_malloc(size));
}

void free(void *p)
{
    live -= p && counting;
    __libc_free(p);
}
#endif

struct story {
    const char *rules, *name, *url, *key;
};

static void expect(bool ok, const char *what)
{
    countdown = 0;
    counting = false;
    if (!ok)
        fail_msg("%s", what);
    counting = true;
}

/* 0 or NOMEM; what comes out is right. */
static int tell(const struct story *t, qchain_remote *conf, long fault)
{
    static const char *const extra[] = {"If-Match: \"e\""};
    static const char body[] = "<Error><Code>PermanentRedirect</Code><Region>eu-9</Region></Error>";
    struct qc_credentials *c;
    struct qc_place *p = NULL;
    struct qc_signed s;
    qchain_error err;
    bool range;
    int ret = QCHAIN_E_NOMEM;
    const char *key;
    char *sibling;

    qc_error_init(&err);
    live = 0;
    failed = false;
    counting = true;
    countdown = fault;
    c = qc_credentials_create(conf, NULL);
    if (!c)
        goto out;
    ret = qc_place_create(&p, c, t->name, &err);
    if (ret == 0)
        ret = qc_place_prepare(p, false, &err);
    if (ret == 0)
        ret = qc_place_sign(p, QC_HTTP_GET, 0, "bytes=0-1", extra, 1, &s, &range, &err);
    if (ret == 0) {
        if (strcmp(s.url, t->url) != 0)
            expect(false, s.url);
        qc_signed_finish(&s);
        sibling = qc_place_sibling(p, ".qci");
        qc_free(sibling);
        key = qc_place_key(p);
        if (!failed && strcmp(key, t->key) != 0)
            expect(false, key);
        qc_place_scope(p);
        qc_place_set_target(p, "http://x/");
        qc_free(qc_place_target(p));
        qc_place_refused(p, 301, body, strlen(body), NULL, true, &err);
    }
    if (ret && err.code != ret)
        expect(false, "another code than the error's");
    qc_place_unref(p);
out:
    qc_credentials_destroy(c);
    countdown = 0;
    counting = false;
    return ret;
}

static void every_allocation(void **unused)
{
    static const struct story t[] = {
        {"basic https://h u p", "https://h/a b?q", "https://h/a%20b?q", "https://h/a%20b"},
        {"", "https://u:p@h/x", "https://h/x", "https://h/x"},
        {"", "s3://b/k", "http://file:1/b/k", "http://file:1/b/k"},
        {"s3-endpoint http://e", "s3://b/k", "http://e/b/k", "http://e/b/k"},
        {"gs-token T", "gs://b/k", "https://storage.googleapis.com/b/k", "https://storage.googleapis.com/b/k"},
        {"azure-account acct\nazure-key QUJD", "az://c/k", "https://acct.blob.core.windows.net/c/k",
         "https://acct.blob.core.windows.net/c/k"},
        {"azure-account acct\nazure-sas sig=1", "az://c/k", "https://acct.blob.core.windows.net/c/k?sig=1",
         "https://acct.blob.core.windows.net/c/k"},
    };
    char path[] = "/tmp/qc-memory-XXXXXX";
    static const char profile[] = "[default]\naws_access_key_id=A\naws_secret_access_key=B\nregion=r-1\n"
                                  "endpoint_url=http://file:1\n";
    int fd = mkstemp(path);

    (void)unused;
    clean_environment();
    assert_int_equal(write(fd, profile, strlen(profile)), strlen(profile));
    close(fd);
    setenv("AWS_SHARED_CREDENTIALS_FILE", path, 1);
    for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
        qchain_remote *conf = qc_conf_new();
        long k;

        assert_int_equal(qc_conf_read(conf, t[i].rules, "test", NULL), 0);
        for (k = 0; k < 2000; k++) {
            int ret = tell(&t[i], conf, k);

            if (ret != 0 && ret != QCHAIN_E_NOMEM)
                fail_msg("%s, fault %ld: %d", t[i].name, k, ret);
            if (ret == QCHAIN_E_NOMEM && !failed)
                fail_msg("%s, fault %ld: nothing failed, but there was no memory", t[i].name, k);
            if (live != 0)
                fail_msg("%s, fault %ld: %ld blocks are left", t[i].name, k, live);
            if (k && !failed)
                break;
        }
        assert_true(!COUNTED || (k > 10 && k < 2000));
        qc_conf_free(conf);
    }
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_allocation),
    };

    return cmocka_run_group_tests_name("net/place_memory", tests, NULL, NULL);
}
