/* SPDX-License-Identifier: MIT */
/* HMAC-SHA-256 and base64 against vectors of their RFCs, and each other's ends. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "image_tools.h"
#include "util/alloc.h"
#include "util/base64.h"
#include "util/sha256.h"

/* RFC 4231 */
static void hmac_vectors(void **unused)
{
    uint8_t key[131], data[152], digest[32];
    char hex[65];
    struct {
        size_t key_len;
        int key_byte;
        const char *key, *text;
        const char *want;
    } t[] = {
        {20, 0x0b, NULL, "Hi There",
         "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"},
        {4, 0, "Jefe", "what do ya want for nothing?",
         "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"},
        {131, 0xaa, NULL, "Test Using Larger Than Block-Size Key - Hash Key First",
         "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"},
        {131, 0xaa, NULL, "This is a test using a larger than block-size key and a larger than "
         "block-size data. The key needs to be hashed before being used by the HMAC algorithm.",
         "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2"},
        {0, 0, "", "", "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad"},
    };

    (void)unused;
    for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
        memset(key, t[i].key_byte, sizeof(key));
        if (t[i].key)
            memcpy(key, t[i].key, t[i].key_len);
        memcpy(data, t[i].text, strlen(t[i].text));
        qc_hmac_sha256(key, t[i].key_len, data, strlen(t[i].text), digest);
        for (int k = 0; k < 32; k++)
            snprintf(hex + (size_t)(2 * k), 3, "%02x", digest[k]);
        assert_string_equal(hex, t[i].want);
    }
}

static void base64_vectors(void **unused)
{
    static const char *const t[][2] = {{"", ""}, {"f", "Zg=="}, {"fo", "Zm8="}, {"foo", "Zm9v"},
                                       {"foob", "Zm9vYg=="}, {"fooba", "Zm9vYmE="},
                                       {"foobar", "Zm9vYmFy"}, {"\xff\xfe\xfd", "//79"}};
    static const char *const bad[] = {"Z", "Zg", "Zg=", "Zg===", "=", "====", "Z===", "Zh==", "Zm9=",
                                      "Zg==Zg==", "Zm 8", "Zm8-", "Zm8=\n", "Zm\xc3\xa9"};
    uint8_t out[32];
    size_t n;

    (void)unused;
    for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
        char *s = qc_base64_encode(t[i][0], strlen(t[i][0]));

        assert_string_equal(s, t[i][1]);
        qc_free(s);
        assert_int_equal(qc_base64_decode(t[i][1], out, &n), 0);
        assert_int_equal(n, strlen(t[i][0]));
        assert_memory_equal(out, t[i][0], n);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        if (qc_base64_decode(bad[i], out, &n) == 0)
            fail_msg("'%s' was taken", bad[i]);
}

static void base64_round(void **unused)
{
    uint64_t seed = 64;
    uint8_t in[70], out[80];

    (void)unused;
    for (size_t n = 0; n < sizeof(in); n++) {
        char *s;
        size_t got;

        for (size_t i = 0; i < n; i++)
            in[i] = (uint8_t)random_next(&seed);
        s = qc_base64_encode(in, n);
        assert_int_equal(qc_base64_decode(s, out, &got), 0);
        assert_int_equal(got, n);
        assert_memory_equal(in, out, n);
        qc_free(s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hmac_vectors),
        cmocka_unit_test(base64_vectors),
        cmocka_unit_test(base64_round),
    };

    return cmocka_run_group_tests_name("util/hmac", tests, NULL, NULL);
}
