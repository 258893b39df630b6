/* SPDX-License-Identifier: MIT */
/* Errors, escaping and log lines: what people read. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "image_tools.h"
#include "mem_layers.h"
#include "util/alloc.h"
#include "util/error.h"
#include "util/escape.h"
#include "util/log.h"

static void fail_sets_everything(void **unused)
{
    qchain_error err;

    (void)unused;
    qc_error_init(&err);
    assert_int_equal(err.code, 0);
    assert_int_equal(err.layer, -1);
    assert_int_equal(err.offset, -1);
    assert_string_equal(err.text, "");
    err.http_status = 404;
    assert_int_equal(qc_fail(&err, QCHAIN_E_RANGE, "%s=%d", "x", 5), QCHAIN_E_RANGE);
    assert_int_equal(err.code, QCHAIN_E_RANGE);
    assert_int_equal(err.http_status, 0);
    assert_string_equal(err.text, "x=5");
    assert_int_equal(qc_fail(NULL, QCHAIN_E_BUSY, "nobody listens"), QCHAIN_E_BUSY);
    assert_int_equal(qc_fail_nomem(NULL), QCHAIN_E_NOMEM);
    assert_int_equal(qc_fail_nomem(&err), QCHAIN_E_NOMEM);
    assert_int_equal(err.sys_errno, ENOMEM);
    qc_error_at(&err, 77);
    assert_int_equal(err.offset, 77);
    qc_error_at(&err, UINT64_MAX);
    assert_true(err.offset == INT64_MAX);
    qc_error_at(NULL, 1);
}

static void errno_gives_code_and_text(void **unused)
{
    static const struct {
        int errnum, code;
    } want[] = {
        {ENOENT, QCHAIN_E_NOTFOUND}, {ENOTDIR, QCHAIN_E_NOTFOUND}, {EACCES, QCHAIN_E_ACCESS},
        {EPERM, QCHAIN_E_ACCESS},    {ELOOP, QCHAIN_E_ACCESS},     {ENOMEM, QCHAIN_E_NOMEM},
        {ENOSPC, QCHAIN_E_NOSPACE},  {EDQUOT, QCHAIN_E_NOSPACE},   {EROFS, QCHAIN_E_READONLY},
        {EINVAL, QCHAIN_E_INVAL},    {EBADF, QCHAIN_E_INVAL},      {EMFILE, QCHAIN_E_LIMIT},
        {ENFILE, QCHAIN_E_LIMIT},    {EBUSY, QCHAIN_E_BUSY},       {EEXIST, QCHAIN_E_EXISTS},
        {ENOSYS, QCHAIN_E_UNSUPPORTED}, {EIO, QCHAIN_E_IO},          {ETIMEDOUT, QCHAIN_E_TIMEOUT}, {9999, QCHAIN_E_IO},
    };
    qchain_error err;
    char text[200];

    (void)unused;
    for (size_t i = 0; i < sizeof(want) / sizeof(*want); i++) {
        qc_error_init(&err);
        assert_int_equal(qc_fail_errno(&err, want[i].errnum, "open '%s'", "f"), want[i].code);
        assert_int_equal(err.sys_errno, want[i].errnum);
        snprintf(text, sizeof(text), "open 'f': %s", strerror(want[i].errnum));
        assert_string_equal(err.text, text);
    }
    assert_int_equal(qc_fail_errno(NULL, ENOENT, "x"), QCHAIN_E_NOTFOUND);
}

static void prefixes_go_outward(void **unused)
{
    qchain_error err, other;

    (void)unused;
    qc_error_init(&err);
    qc_error_prefix(&err, 3, "nothing failed: ");
    assert_string_equal(err.text, "");
    assert_int_equal(err.layer, -1);
    qc_error_prefix(NULL, 3, "x");
    qc_fail(&err, QCHAIN_E_IO, "why");
    qc_error_prefix(&err, 3, "layer %d: ", 3);
    qc_error_prefix(&err, -1, "open: ");
    assert_string_equal(err.text, "open: layer 3: why");
    assert_int_equal(err.layer, 3);
    qc_error_init(&other);
    qc_error_copy(&other, &err);
    assert_memory_equal(&other.code, &err.code, sizeof(err.code));
    assert_string_equal(other.text, err.text);
    qc_error_copy(&err, &err);
    qc_error_copy(NULL, &err);
    qc_error_copy(&err, NULL);
    assert_string_equal(err.text, other.text);
}

static void long_messages_lose_their_end(void **unused)
{
    char big[3000];
    qchain_error err;

    (void)unused;
    memset(big, 'x', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    qc_error_init(&err);
    qc_fail(&err, QCHAIN_E_IO, "%s", big);
    assert_int_equal(strlen(err.text), QC_ERROR_TEXT - 1);
    qc_error_prefix(&err, 1, "first: ");
    assert_int_equal(strncmp(err.text, "first: xxx", 10), 0);
    assert_int_equal(strlen(err.text), QC_ERROR_TEXT - 1);
    for (int i = 0; i < 300; i++)
        qc_error_prefix(&err, 1, "%d: ", i);
    assert_int_equal(strncmp(err.text, "299: 298: ", 10), 0);
    qc_fail_errno(&err, EIO, "%s", big);
    assert_int_equal(strlen(err.text), QC_ERROR_TEXT - 1);
    qc_error_prefix(&err, 1, "%s", big);
    assert_int_equal(strlen(err.text), QC_ERROR_TEXT - 1);
}

static void check_escape(const char *in, size_t len, const char *want)
{
    struct qc_escaped e;
    char *dup = qc_escape_dup(in, len);

    assert_string_equal(qc_escape(&e, in, len), want);
    assert_non_null(dup);
    assert_string_equal(dup, want);
    qc_free(dup);
}

static void assert_clean(const char *text)
{
    char *escaped = qc_escape_dup(text, strlen(text));

    assert_string_equal(escaped, text);
    qc_free(escaped);
}

/* Wherever a long message is cut, no piece of a sequence is left. */
static void long_messages_stay_utf8(void **unused)
{
    static const char *const sequence[] = {"\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80"};
    char text[1100];
    qchain_error err;

    (void)unused;
    for (size_t i = 0; i < 3; i++) {
        size_t len = strlen(sequence[i]);

        for (size_t pad = 0; pad < 4; pad++) {
            memset(text, 'x', pad);
            for (size_t at = pad; at + len < sizeof(text); at += len)
                memcpy(text + at, sequence[i], len + 1);
            qc_fail(&err, QCHAIN_E_IO, "%s", text);
            assert_clean(err.text);
            qc_fail_errno(&err, EIO, "%s", text);
            assert_clean(err.text);
            qchain_backend_fail(&err, QCHAIN_E_IO, 0, text);
            assert_clean(err.text);
            assert_true(strlen(err.text) > 990);
            for (size_t k = 0; k < 50; k++) {
                qc_error_prefix(&err, -1, "p");
                assert_clean(err.text);
            }
            assert_true(strlen(err.text) > QC_ERROR_TEXT - 1 - 4);
            text[pad + 3 * len] = '\0';
            qc_fail(&err, QCHAIN_E_IO, "%s", text);
            assert_string_equal(err.text, text); /* a whole one at the end stays */
        }
    }
}

static void escapes(void **unused)
{
    struct qc_escaped e;

    (void)unused;
    check_escape("plain", 5, "plain");
    check_escape("", 0, "");
    check_escape("a\0b", 3, "a\\x00b");
    check_escape("\n\r\t\x1b[0m\x7f", 8, "\\x0a\\x0d\\x09\\x1b[0m\\x7f");
    check_escape("\xc3\xa4\xe2\x82\xac\xf0\x9f\x92\xbe", 9, "\xc3\xa4\xe2\x82\xac\xf0\x9f\x92\xbe");
    check_escape("\xc3", 1, "\\xc3");                         /* cut */
    check_escape("\xe2\x82", 2, "\\xe2\\x82");                /* cut */
    check_escape("\xe2\x82x", 3, "\\xe2\\x82x");              /* broken */
    check_escape("\xc0\xaf", 2, "\\xc0\\xaf");                /* overlong */
    check_escape("\xe0\x80\xaf", 3, "\\xe0\\x80\\xaf");       /* overlong */
    check_escape("\xf0\x80\x80\xaf", 4, "\\xf0\\x80\\x80\\xaf");
    check_escape("\xed\xa0\x80", 3, "\\xed\\xa0\\x80");       /* a surrogate */
    check_escape("\xf4\x90\x80\x80", 4, "\\xf4\\x90\\x80\\x80"); /* beyond Unicode */
    check_escape("\xc2\x80\xc2\x9f\xc2\xa0", 6, "\\xc2\\x80\\xc2\\x9f\xc2\xa0"); /* C1 */
    check_escape("\xff\x80\xf8", 3, "\\xff\\x80\\xf8");
    assert_string_equal(qc_escape_str(&e, NULL), "");
    assert_string_equal(qc_escape_str(&e, "a\x01"), "a\\x01");
}

static void escaping_cuts_at_256(void **unused)
{
    struct qc_escaped e;
    char big[1000], *dup;

    (void)unused;
    memset(big, 'x', sizeof(big));
    qc_escape(&e, big, 256);
    assert_int_equal(strlen(e.text), 256);
    qc_escape(&e, big, 257);
    assert_int_equal(strlen(e.text), 259);
    assert_string_equal(e.text + 256, "...");
    memset(big, '\x01', sizeof(big));
    qc_escape(&e, big, sizeof(big));
    assert_true(strlen(e.text) <= 263);
    assert_string_equal(e.text + strlen(e.text) - 7, "\\x01...");
    for (int shift = 0; shift < 4; shift++) { /* no sequence is torn */
        for (int i = 0; i < 500; i += 4)
            memcpy(big + shift + i, "\xf0\x9f\x92\xbe", 4);
        memset(big, 'x', (size_t)shift);
        qc_escape(&e, big, 400);
        assert_string_equal(e.text + strlen(e.text) - 7, "\xf0\x9f\x92\xbe...");
        assert_true(strlen(e.text) < QC_ESCAPE_MAX);
    }
    memset(big, '\x01', sizeof(big));
    dup = qc_escape_dup(big, sizeof(big));
    assert_int_equal(strlen(dup), 4000);
    qc_free(dup);
    assert_null(qc_escape_dup(big, SIZE_MAX / 3));
    assert_null(qc_escape_dup(big, SIZE_MAX));
}

/* Whatever goes in, what comes out is printable and fits. */
static void random_bytes_come_out_clean(void **unused)
{
    uint64_t seed = mem_seed(1);
    struct qc_escaped e, again;
    char in[300];

    (void)unused;
    for (int round = 0; round < 20000; round++) {
        size_t len = random_next(&seed) % sizeof(in);

        for (size_t i = 0; i < len; i++)
            in[i] = (char)(random_next(&seed) % 3 ? random_next(&seed) : 0xc0 | (random_next(&seed) & 0x3f));
        qc_escape(&e, in, len);
        assert_true(strlen(e.text) < QC_ESCAPE_MAX);
        for (const unsigned char *p = (unsigned char *)e.text; *p; p++)
            assert_true(*p >= 0x20 && *p != 0x7f);
        if (strlen(e.text) <= 256) /* clean text is left as it is */
            assert_string_equal(qc_escape(&again, e.text, strlen(e.text)), e.text);
    }
}

struct logged {
    int  level, n;
    char tag[32], text[2000];
};

static void take_log(void *data, int level, const char *tag, const char *message)
{
    struct logged *l = data;

    l->level = level;
    l->n++;
    snprintf(l->tag, sizeof(l->tag), "%s", tag);
    snprintf(l->text, sizeof(l->text), "%s", message);
    errno = EPIPE;
}

static void logging(void **unused)
{
    struct logged got = {0};
    struct qc_log log = {take_log, &got, QCHAIN_LOG_WARN};
    char big[3000];

    (void)unused;
    qc_log(NULL, QCHAIN_LOG_ERROR, "t", "nobody");
    qc_log(&log, QCHAIN_LOG_INFO, "t", "too quiet");
    assert_int_equal(got.n, 0);
    errno = 42;
    qc_log(&log, QCHAIN_LOG_WARN, "room", "%d%%", 7);
    assert_int_equal(errno, 42);
    assert_string_equal(got.tag, "room");
    assert_string_equal(got.text, "7%");
    assert_int_equal(got.level, QCHAIN_LOG_WARN);
    memset(big, 'x', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    qc_log(&log, QCHAIN_LOG_ERROR, "room", "%s", big);
    assert_int_equal(strlen(got.text), 1023);
    log.fn = NULL;
    qc_log(&log, QCHAIN_LOG_ERROR, "room", "nobody");
    assert_int_equal(got.n, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fail_sets_everything),
        cmocka_unit_test(errno_gives_code_and_text),
        cmocka_unit_test(prefixes_go_outward),
        cmocka_unit_test(long_messages_lose_their_end),
        cmocka_unit_test(long_messages_stay_utf8),
        cmocka_unit_test(escapes),
        cmocka_unit_test(escaping_cuts_at_256),
        cmocka_unit_test(random_bytes_come_out_clean),
        cmocka_unit_test(logging),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
