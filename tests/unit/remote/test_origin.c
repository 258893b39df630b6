/* SPDX-License-Identifier: MIT */
/* The lowest tier: one place is asked plainly, several stand in for each other. */
#include "fake_http.h"

#include "remote/origin.h"

#define SIZE (UINT64_C(1) << 20)
#define KIB64 65536u

static struct qc_http *http;
static struct qc_health *health;
static struct qc_slots *slots;
static struct fake_rule *a, *b, *c;
static struct qc_pin pin;
static struct qc_tier *tier;
static qchain_remote conf;

static int setup(void **unused)
{
    (void)unused;
    conf.deadline_ms = 60000;
    http = qc_http_create(NULL, NULL, NULL);
    slots = qc_slots_create();
    health = qc_health_create(&conf, slots);
    a = add_rule(http, "http://a/");
    b = add_rule(http, "http://b/");
    c = add_rule(http, "http://c/");
    a->size = b->size = c->size = SIZE;
    a->etag = "\"a\"";
    b->etag = "\"b\"";
    c->etag = NULL;
    memset(&pin, 0, sizeof(pin));
    pin.size = SIZE;
    strcpy(pin.etag, "\"a\"");
    return 0;
}

static int teardown(void **unused)
{
    (void)unused;
    qc_tier_close(tier);
    tier = NULL;
    qc_http_destroy(http);
    qc_health_destroy(health);
    qc_slots_destroy(slots);
    assert_int_equal(fake_places, 0);
    return 0;
}

static struct qc_tier *make_tier(unsigned n_replicas)
{
    struct qc_place *place[] = {new_place("http://a/disk"), new_place("http://b/disk"),
                                new_place("http://c/disk")};
    struct qc_tier *t;

    assert_int_equal(qc_origin_create(&t, http, health, place[0], &pin, place + 1, n_replicas, NULL,
                                      NULL), 0);
    for (int i = 0; i < 3; i++)
        qc_place_unref(place[i]);
    return t;
}

static uint64_t failovers(void)
{
    return qc_counter_sum(slots, QC_CNT_FAILOVERS);
}

/* --------------------------------------------------------------------------- */

static void one_place(void **unused)
{
    struct asker one;

    (void)unused;
    tier = make_tier(0);
    ask(&one, tier, 8192, KIB64, QC_FETCH_META);
    assert_int_equal(await(&one), 0);
    assert_true(one.times > 1);
    assert_int_equal(one.told, KIB64);
    assert_int_equal(a->flags, QC_HTTP_META);
    assert_int_equal(a->deadline_ms, 0);
    assert_int_equal(a->offset, 8192);
    assert_true(qc_pin_same(&a->pin, &pin));
    assert_string_equal(a->pin.etag, "\"a\"");

    assert_int_equal(read_range(tier, 0, 4096), 0);
    assert_int_equal(a->flags, 0);
    /* It is never left alone. */
    for (int i = 0; i < 3; i++) {
        WITH(http, (a->code = QCHAIN_E_NET, a->only_next = 1));
        ask(&one, tier, 0, 4096, 0);
        assert_int_equal(await(&one), QCHAIN_E_NET);
        assert_string_equal(one.f.err.text, "http://a/disk: failed by rule");
    }
    assert_int_equal(a->gets, 5);
    assert_int_equal(failovers(), 0);
    WITH(http, a->etag = "\"new\"");
    assert_int_equal(read_range(tier, 0, 4096), QCHAIN_E_CHANGED);
}

static void renew(uint32_t pause_ms)
{
    qc_tier_close(tier);
    qc_health_destroy(health);
    health = qc_health_create(&conf, slots);
    qc_health_set_pause(health, pause_ms);
    tier = make_tier(1);
    WITH(http, a->gets = b->gets = 0);
}

static void fails_over(int code)
{
    uint64_t before = failovers();

    WITH(http, a->code = code);
    renew(60000);
    assert_int_equal(read_range(tier, 4096, KIB64), 0);
    assert_int_equal(a->gets, 1);
    assert_true(a->flags & QC_HTTP_ONCE);
    assert_int_equal(a->deadline_ms, conf.deadline_ms / 2);
    for (int i = 0; i < 3; i++)
        assert_int_equal(read_range(tier, 0, KIB64), 0);
    assert_int_equal(a->gets, 1); /* it is left alone, */
    assert_int_equal(failovers(), before + 4);

    renew(20);
    for (unsigned i = 1; i < 3; i++, nap_ms(30)) {
        assert_int_equal(read_range(tier, 0, KIB64), 0);
        assert_int_equal(a->gets, i); /* and asked again when the pause is over; */
    }
    WITH(http, a->code = 0);
    for (unsigned i = 3; i < 6; i++) {
        assert_int_equal(read_range(tier, 0, KIB64), 0);
        assert_int_equal(a->gets, i); /* when it answers, it is well */
    }
    assert_int_equal(failovers(), before + 6);
}

static void by_class(void **unused)
{
    static const int codes[] = {QCHAIN_E_NET, QCHAIN_E_TIMEOUT, QCHAIN_E_THROTTLED,
                                QCHAIN_E_NOTFOUND, QCHAIN_E_AUTH, QCHAIN_E_ACCESS,
                                QCHAIN_E_IO, QCHAIN_E_CORRUPT, QCHAIN_E_UNSUPPORTED};

    (void)unused;
    for (size_t i = 0; i < sizeof(codes) / sizeof(*codes); i++)
        fails_over(codes[i]);
}

static void not_by_these(void **unused)
{
    static const int codes[] = {QCHAIN_E_CANCELLED, QCHAIN_E_NOMEM, QCHAIN_E_INTERNAL};

    (void)unused;
    tier = make_tier(2);
    for (size_t i = 0; i < sizeof(codes) / sizeof(*codes); i++) {
        WITH(http, a->code = codes[i]);
        assert_int_equal(read_range(tier, 0, 4096), codes[i]);
        assert_int_equal(a->gets, i + 1);
    }
    assert_int_equal(b->gets + c->gets, 0);
    /* Nor by these of a replica. */
    WITH(http, (a->code = QCHAIN_E_NET, b->code = QCHAIN_E_CANCELLED));
    assert_int_equal(read_range(tier, 0, 4096), QCHAIN_E_CANCELLED);
    assert_int_equal(c->gets, 0);
}

static void another_size(void **unused)
{
    struct asker one;

    (void)unused;
    tier = make_tier(1);
    a->code = QCHAIN_E_NOTFOUND;
    b->size = SIZE + 4096;
    ask(&one, tier, 0, 4096, 0);
    assert_int_equal(await(&one), QCHAIN_E_NOTFOUND);
    assert_string_equal(one.f.err.text,
                        "http://a/disk: failed by rule; 1 other place failed as well");
    assert_int_equal(one.told, 0);
    assert_int_equal(failovers(), 0);
}

/* The replica's first answer pins it; what it has later must be that. */
static void pinned_by_its_own(void **unused)
{
    struct asker one;

    (void)unused;
    tier = make_tier(1);
    a->code = QCHAIN_E_TIMEOUT;
    ask(&one, tier, 0, KIB64, 0);
    assert_int_equal(await(&one), 0);
    assert_int_equal(one.times, 0); /* its bytes are not told of before it is known what they are */
    assert_string_equal(b->pin.etag, "");
    assert_int_equal(b->pin.size, SIZE);
    ask(&one, tier, 0, KIB64, 0);
    assert_int_equal(await(&one), 0);
    assert_true(one.times > 0);
    assert_string_equal(b->pin.etag, "\"b\"");
    WITH(http, b->etag = "\"b2\"");
    ask(&one, tier, 0, KIB64, 0);
    assert_int_equal(await(&one), QCHAIN_E_TIMEOUT); /* as a says, which was asked when b failed */
    assert_int_equal(one.told, 0);
    assert_int_equal(a->gets, 2);
}

/* What replaced the object at one place may have replaced it everywhere: bytes of a replica that was not
 * seen before may be of that generation. One that was seen stands in, and is held to what it was. */
static void replaced(void **unused)
{
    struct asker one;

    (void)unused;
    qc_health_set_pause(health, 0);
    tier = make_tier(2);
    a->code = QCHAIN_E_NET;
    a->only_next = 1;
    assert_int_equal(read_range(tier, 0, 4096), 0); /* b was seen, c was not */
    WITH(http, (a->code = 0, a->only_next = 0, a->etag = "\"new\"", a->gets = b->gets = 0));
    nap_ms(2);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(read_range(tier, 0, 4096), 0);
        assert_int_equal(b->gets, i + 1);
    }
    WITH(http, b->etag = "\"b2\"");
    ask(&one, tier, 0, 4096, 0);
    assert_int_equal(await(&one), QCHAIN_E_CHANGED);
    assert_int_equal(one.told, 0);
    assert_int_equal(c->gets, 0);
    /* A replica's word counts as well. */
    WITH(http, a->code = QCHAIN_E_NET);
    assert_int_equal(read_range(tier, 0, 4096), QCHAIN_E_NET);
    assert_int_equal(c->gets, 0);
}

/* Two first answers of a replica, of two generations: only one can be right. */
static void two_first_answers(void **unused)
{
    struct asker one, two;

    (void)unused;
    tier = make_tier(1);
    a->code = QCHAIN_E_NET;
    a->at_once = true;
    b->delay_ms = HELD_MS;
    ask(&one, tier, 0, KIB64, 0);
    WITH(http, b->delay_ms = 2 * HELD_MS);
    ask(&two, tier, KIB64, KIB64, 0);
    assert_int_equal(SEEN(http, b, gets), 2);
    let_go(http, b);
    assert_int_equal(await(&one), 0);
    WITH(http, b->etag = "\"b2\"");
    let_go(http, b);
    assert_int_equal(await(&two), QCHAIN_E_NET); /* as a says */
    assert_int_equal(two.told, 0);
    WITH(http, b->etag = "\"b\"");
    assert_int_equal(read_range(tier, 0, KIB64), 0); /* both are left alone, so both are asked */
}

static void behind_what_was_told(void **unused)
{
    struct asker one;

    (void)unused;
    tier = make_tier(1);
    a->code = QCHAIN_E_NET;
    a->cut = 9000;
    ask(&one, tier, 4096, KIB64, 0);
    assert_int_equal(await(&one), 0);
    assert_true(one.told >= 9000);
    assert_int_equal(b->offset, 4096 + 9000);
    assert_int_equal(b->length, KIB64 - 9000);
    /* All was there before it failed. */
    qc_tier_close(tier);
    nap_ms(1);
    qc_health_set_pause(health, 0);
    tier = make_tier(1);
    WITH(http, a->cut = KIB64);
    nap_ms(2);
    assert_int_equal(read_range(tier, 0, KIB64), 0);
}

/* A dead server costs all layers one attempt. */
static void known_to_all(void **unused)
{
    struct qc_tier *other[20];

    (void)unused;
    a->code = QCHAIN_E_TIMEOUT;
    for (int i = 0; i < 20; i++) {
        other[i] = make_tier(1);
        assert_int_equal(read_range(other[i], 0, 4096), 0);
    }
    assert_int_equal(a->gets, 1);
    for (int i = 0; i < 20; i++)
        qc_tier_close(other[i]);
    /* What one object lacks says nothing of others. */
    qc_health_set_pause(health, 0);
    nap_ms(2);
    WITH(http, (a->code = 0, a->gets = 0));
    tier = make_tier(1);
    assert_int_equal(read_range(tier, 0, 4096), 0);
}

static void missing_is_the_objects(void **unused)
{
    struct qc_tier *other = make_tier(1);

    (void)unused;
    tier = make_tier(1);
    a->code = QCHAIN_E_NOTFOUND;
    assert_int_equal(read_range(tier, 0, 4096), 0);
    assert_int_equal(read_range(tier, 0, 4096), 0);
    assert_int_equal(a->gets, 1);
    assert_int_equal(read_range(other, 0, 4096), 0);
    assert_int_equal(a->gets, 2);
    qc_tier_close(other);
}

/* All fail at first: they are asked once more, in the time that is left. */
static void second_round(void **unused)
{
    struct asker one;

    (void)unused;
    tier = make_tier(2);
    a->code = b->code = c->code = QCHAIN_E_NET;
    a->only_next = 1;
    ask(&one, tier, 0, 4096, 0);
    assert_int_equal(await(&one), 0);
    assert_int_equal(a->gets, 2);
    assert_int_equal(b->gets + c->gets, 2);

    WITH(http, (a->code = b->code = QCHAIN_E_NET, a->only_next = b->only_next = 0));
    WITH(http, (c->code = QCHAIN_E_AUTH, c->only_next = 0));
    ask(&one, tier, 0, 4096, 0);
    assert_true(await(&one) != 0);
    assert_non_null(strstr(one.f.err.text, "; 2 other places failed as well"));
    assert_false(a->flags & QC_HTTP_ONCE); /* now with retries */
    assert_true(a->deadline_ms > 0 && a->deadline_ms <= conf.deadline_ms);
}

/* One alone asks again when the pause is over. */
static void one_probe(void **unused)
{
    struct asker many[8];

    (void)unused;
    qc_health_set_pause(health, 20);
    tier = make_tier(1);
    a->code = QCHAIN_E_NET;
    assert_int_equal(read_range(tier, 0, 4096), 0);
    nap_ms(30);
    qc_health_set_pause(health, 60000);
    WITH(http, a->delay_ms = 50);
    for (int i = 0; i < 8; i++)
        ask(&many[i], tier, 4096 * i, 4096, 0);
    for (int i = 0; i < 8; i++)
        assert_int_equal(await(&many[i]), 0);
    assert_int_equal(a->gets, 2);
}

/* ------------------------------------------------------------------ at random --- */

#define THREADS 6
#define READS 300

static uint64_t seed;

static void *reader(void *arg)
{
    uint64_t random = seed * (uint64_t)(2 * (uintptr_t)arg + 3);
    struct asker one;
    uintptr_t failed = 0;

    for (int i = 0; i < READS; i++) {
        uint64_t offset = next_random(&random) % (SIZE / 4096) * 4096;
        size_t length = 1 + next_random(&random) % 20000;

        length = length < SIZE - offset ? length : SIZE - offset;
        ask(&one, tier, offset, length, i & 1);
        failed += await(&one) != 0;
    }
    return (void *)failed;
}

static void at_random(void **unused)
{
    pthread_t thread[THREADS];
    uintptr_t failed = 0;
    void *n;

    (void)unused;
    seed = test_seed();
    http->random = seed;
    qc_health_set_pause(health, 3);
    tier = make_tier(2);
    a->fail_permille = 500;
    b->fail_permille = 200;
    c->fail_permille = 300;
    a->cut = 6000;
    a->jitter_ms = b->jitter_ms = 2;
    c->at_once = true;
    for (uintptr_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, reader, (void *)i), 0);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(thread[i], &n);
        failed += (uintptr_t)n;
    }
    print_message("%u of %u reads failed, %u went to a replica\n", (unsigned)failed, THREADS * READS,
                  (unsigned)failovers());
    assert_true(failed < THREADS * READS / 5);
    assert_true(failovers() > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(one_place, setup, teardown),
        cmocka_unit_test_setup_teardown(by_class, setup, teardown),
        cmocka_unit_test_setup_teardown(not_by_these, setup, teardown),
        cmocka_unit_test_setup_teardown(another_size, setup, teardown),
        cmocka_unit_test_setup_teardown(pinned_by_its_own, setup, teardown),
        cmocka_unit_test_setup_teardown(replaced, setup, teardown),
        cmocka_unit_test_setup_teardown(two_first_answers, setup, teardown),
        cmocka_unit_test_setup_teardown(behind_what_was_told, setup, teardown),
        cmocka_unit_test_setup_teardown(known_to_all, setup, teardown),
        cmocka_unit_test_setup_teardown(missing_is_the_objects, setup, teardown),
        cmocka_unit_test_setup_teardown(second_round, setup, teardown),
        cmocka_unit_test_setup_teardown(one_probe, setup, teardown),
        cmocka_unit_test_setup_teardown(at_random, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
