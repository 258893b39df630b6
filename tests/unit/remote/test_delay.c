/* SPDX-License-Identifier: MIT */
/* What may be under way in the background, by what readers feel: with a clock, a link and readers made up here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "remote/delay.h"
#include "util/bytes.h"

#define MS UINT64_C(1000000)
#define ALONE (20 * MS) /* what a reader waits by himself */

static struct qc_delay d;
static uint64_t now;

static int setup(void **unused)
{
    (void)unused;
    memset(&d, 0, sizeof(d));
    pthread_mutex_init(&d.lock, NULL);
    now = 1000 * MS;
    return 0;
}

static int teardown(void **unused)
{
    (void)unused;
    pthread_mutex_destroy(&d.lock);
    return 0;
}

/* A reader that comes every so often, n times, and waits so long. */
static void readers(unsigned n, uint64_t every_ns, uint64_t took_ns)
{
    while (n-- > 0) {
        now += every_ns;
        qc_delay_note(&d, now, took_ns);
    }
}

static uint64_t window(void)
{
    return qc_delay_window(&d, now);
}

/* All that may be under way stands before the reader, on a link of so many bytes a second. */
static uint64_t behind_the_window(uint64_t rate)
{
    return ALONE + window() * 1000 / (rate / MS);
}

static void without_readers_it_is_open(void **unused)
{
    (void)unused;
    assert_true(window() == QC_DELAY_MOST);
    readers(1, 100 * MS, ALONE);
    assert_true(window() == QC_DELAY_MOST);
    readers(50, 100 * MS, ALONE + 4 * MS); /* jitter is no queue */
    assert_true(window() == QC_DELAY_MOST);
}

/* On slow links and fast ones, a reader soon waits half as long again, and no longer; and no less is under way than that
 * allows. */
static void it_settles_at_the_target(void **unused)
{
    static const uint64_t rates[] = {10, 30, 100, 1000};

    (void)unused;
    for (unsigned i = 0; i < sizeof(rates) / sizeof(rates[0]); i++) {
        uint64_t rate = rates[i] * 1000 * 1000, least = UINT64_MAX, most = 0;

        setup(NULL);
        readers(1, 100 * MS, ALONE);
        for (unsigned k = 0; k < 40; k++) {
            readers(1, 100 * MS, behind_the_window(rate));
            least = k < 4 ? least : qc_min64(least, window());
            most = k < 4 ? most : qc_max64(most, window());
        }
        assert_true(most * 1000 / (rate / MS) < ALONE);
        assert_true(least * 1000 / (rate / MS) > ALONE / 8 || least == QC_DELAY_MOST);
    }
}

/* Others fill the link whatever we do: a little goes on, and once it is always like that, all. */
static void it_never_starves(void **unused)
{
    (void)unused;
    readers(1, 100 * MS, ALONE);
    readers(100, 100 * MS, 500 * MS);
    assert_true(window() == QC_DELAY_LEAST);
    readers(1200, 100 * MS, 500 * MS); /* two minutes of it */
    assert_true(window() == QC_DELAY_MOST);
    readers(1, 100 * MS, ALONE); /* it has become better */
    assert_true(window() == QC_DELAY_MOST);
    readers(2, 100 * MS, 500 * MS);
    assert_true(window() < QC_DELAY_MOST / 100);
}

static void it_opens_when_nobody_reads(void **unused)
{
    (void)unused;
    readers(1, 100 * MS, ALONE);
    readers(10, 100 * MS, 500 * MS);
    now += 300 * MS;
    assert_true(window() == QC_DELAY_LEAST);
    now += 100 * MS;
    assert_true(window() == 4 * QC_DELAY_LEAST);
    now += 300 * MS;
    assert_true(window() == QC_DELAY_MOST);
    now += UINT64_C(1) << 62;
    assert_true(window() == QC_DELAY_MOST);
    /* Clocks of two processors are not one. */
    qc_delay_note(&d, now, ALONE);
    assert_true(qc_delay_window(&d, now - MS) >= QC_DELAY_LEAST);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(without_readers_it_is_open, setup, teardown),
        cmocka_unit_test_setup_teardown(it_settles_at_the_target, setup, teardown),
        cmocka_unit_test_setup_teardown(it_never_starves, setup, teardown),
        cmocka_unit_test_setup_teardown(it_opens_when_nobody_reads, setup, teardown),
    };

    return cmocka_run_group_tests_name("delay", tests, NULL, NULL);
}
