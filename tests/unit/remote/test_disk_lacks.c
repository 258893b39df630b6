/* SPDX-License-Identifier: MIT */
/* What the disk cache says it lacks is what it has not stored, also when others store and remove. */
#include "disk_tools.h"

#define MIB ((uint64_t)1 << 20)
#define GRAINS 1400
#define SIZE (GRAINS * (uint64_t)QC_GRAIN - 1000)

static bool there[GRAINS];

/* The model's answer. */
static bool model_lacks(uint64_t offset, uint64_t end, uint64_t *from, uint64_t *to)
{
    uint64_t last = (end - 1) / QC_GRAIN, g = offset / QC_GRAIN;

    while (g <= last && there[g])
        g++;
    *from = g * QC_GRAIN < offset ? offset : g * QC_GRAIN;
    if (g > last)
        return false;
    while (g <= last && !there[g])
        g++;
    *to = g > last ? end : g * QC_GRAIN;
    return true;
}

static void same_as_model(struct qc_tier *t, uint64_t *seed)
{
    uint64_t at = random_next(seed) % SIZE, n = random_next(seed) % (random_next(seed) % 2 ? 20000 : SIZE) + 1;
    uint64_t from = 0, to = 0, want_from = 0, want_to = 0;
    bool want;

    n = n < SIZE - at ? n : SIZE - at;
    want = model_lacks(at, at + n, &want_from, &want_to);
    assert_int_equal(t->ops->lacks(t, at, at + n, &from, &to), want);
    if (want)
        assert_true(from == want_from && to == want_to);
}

static void store(struct qc_tier *t, uint64_t first, uint64_t n)
{
    uint64_t end = (first + n) * QC_GRAIN < SIZE ? (first + n) * QC_GRAIN : SIZE;

    assert_int_equal(fetch(t, first * QC_GRAIN, end - first * QC_GRAIN, 7), 0);
    for (uint64_t g = first; g < first + n; g++)
        there[g] = true;
}

/* Two processes, as it were: what one stores the other does not lack, though it looked before. */
static void as_a_model(void **unused)
{
    uint64_t seed = mem_seed(32);
    struct fake_tier fake[2];
    struct rig r, other;
    struct qc_tier *t[2];
    char *path;

    (void)unused;
    memset(there, 0, sizeof(there));
    rig_init(&r, 100 * MIB);
    rig_open(&r);
    rig_init_bare(&other, 100 * MIB);
    other.cache = r.cache;
    rig_open(&other);
    for (int i = 0; i < 2; i++) {
        fake_init(&fake[i], 7);
        t[i] = tier_of(i ? &other : &r, &fake[i], "http://h/a", "", SIZE, "\"1\"");
        assert_true(t[i]->ops->keeps(t[i]));
    }
    for (int round = 0; round < 2000; round++) {
        uint64_t first = random_next(&seed) % GRAINS, n = random_next(&seed) % 12 + 1;

        if (round % 20 == 0)
            store(t[round / 20 % 2], first, n < GRAINS - first ? n : GRAINS - first);
        same_as_model(t[round % 2], &seed);
    }
    store(t[0], 0, GRAINS);
    assert_false(t[1]->ops->lacks(t[1], 0, SIZE, &seed, &seed));
    /* Who evicts removes files. */
    path = only_file(&r, ".data");
    assert_int_equal(unlink(path), 0);
    qc_free(path);
    memset(there, 0, sizeof(there));
    same_as_model(t[0], &seed);
    same_as_model(t[1], &seed);
    store(t[1], 3, 4);
    same_as_model(t[1], &seed);
    qc_tier_close(t[0]);
    qc_tier_close(t[1]);
    qc_disk_close(other.d);
    qc_tasks_destroy(other.o.leaves);
    qc_block_cache_destroy(other.o.blocks);
    qc_slots_destroy(other.o.slots);
    rig_finish(&r);
}

static void nothing_is_kept_where_nothing_can_be(void **unused)
{
    struct fake_tier fake;
    struct qc_tier *t;
    struct rig r;

    (void)unused;
    rig_init(&r, 0); /* no byte may be stored */
    rig_open(&r);
    fake_init(&fake, 7);
    t = tier_of(&r, &fake, "http://h/a", "", SIZE, "\"1\"");
    assert_false(t->ops->keeps(t));
    qc_tier_close(t);
    rig_finish(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_a_model),
        cmocka_unit_test(nothing_is_kept_where_nothing_can_be),
    };

    return cmocka_run_group_tests_name("what the disk cache lacks", tests, NULL, NULL);
}
