/* SPDX-License-Identifier: MIT */
/*
 * Changes an image and its dirty bitmaps as the command line says, in order, for check_bitmaps.py:
 *
 *   bitmapper ro|rw IMG COMMAND...
 *     add NAME GRANULARITY ENABLED | remove NAME | clear NAME | enable NAME 0|1
 *     merge NAME IMG|- FROM       (-: the same image)
 *     write|zero|discard OFFSET LENGTH | resize SIZE | apply SNAPSHOT | flush | finish
 *     query NAME                  prints "OFFSET LENGTH DIRTY" for each extent
 *     kill                        as a crash would
 *
 * What fails is printed with its code, and makes the exit status 1.
 */
#include <qchain.h>
#include <qchain-write.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct job {
    qchain       *c;
    qchain_error *err;
    char        **arg;
};

static uint64_t number(const char *text)
{
    return strtoull(text, NULL, 0);
}

static int query(struct job *j, const char *name)
{
    uint64_t at = 0, next;
    qchain_dirty_extent e[7];
    uint32_t n;
    int ret;

    do {
        ret = qchain_bitmap_query(j->c, name, at, UINT64_MAX, e, 7, &n, &next, j->err);
        for (uint32_t i = 0; ret == 0 && i < n; i++)
            printf("%llu %llu %u\n", (unsigned long long)e[i].offset, (unsigned long long)e[i].length,
                   e[i].dirty);
        at = next;
    } while (ret == 0 && at < qchain_size(j->c));
    return ret;
}

static int merge(struct job *j, const char *name, const char *file, const char *from)
{
    qchain *source = NULL;
    int ret;

    if (strcmp(file, "-") == 0)
        return qchain_bitmap_merge(j->c, name, j->c, from, j->err);
    ret = qchain_open(&source, NULL, file, NULL, j->err);
    if (ret == 0)
        ret = qchain_bitmap_merge(j->c, name, source, from, j->err);
    qchain_close(source);
    return ret;
}

static int write_some(struct job *j, uint64_t offset, uint64_t length)
{
    char *buf = malloc(length + 1);
    int ret;

    memset(buf, 0x5a, length);
    ret = qchain_write(j->c, buf, length, offset, 0, j->err);
    free(buf);
    return ret;
}

/* One command; *used: how many words it had. */
static int run(struct job *j, int *used)
{
    char **a = j->arg;
    const char *what = a[0];

    *used = 1;
    if (strcmp(what, "kill") == 0)
        raise(SIGKILL);
    if (strcmp(what, "flush") == 0)
        return qchain_flush(j->c, j->err);
    if (strcmp(what, "finish") == 0)
        return qchain_finish(j->c, j->err);
    *used = 2;
    if (strcmp(what, "remove") == 0)
        return qchain_bitmap_remove(j->c, a[1], j->err);
    if (strcmp(what, "clear") == 0)
        return qchain_bitmap_clear(j->c, a[1], j->err);
    if (strcmp(what, "query") == 0)
        return query(j, a[1]);
    if (strcmp(what, "resize") == 0)
        return qchain_resize(j->c, number(a[1]), QCHAIN_RESIZE_SHRINK, j->err);
    if (strcmp(what, "apply") == 0)
        return qchain_snapshot_apply(j->c, a[1], j->err);
    *used = 3;
    if (strcmp(what, "enable") == 0)
        return qchain_bitmap_enable(j->c, a[1], atoi(a[2]), j->err);
    if (strcmp(what, "write") == 0)
        return write_some(j, number(a[1]), number(a[2]));
    if (strcmp(what, "zero") == 0)
        return qchain_write_zeroes(j->c, number(a[2]), number(a[1]), 0, j->err);
    if (strcmp(what, "discard") == 0)
        return qchain_discard(j->c, number(a[2]), number(a[1]), 0, j->err);
    *used = 4;
    if (strcmp(what, "add") == 0)
        return qchain_bitmap_add(j->c, a[1], number(a[2]), atoi(a[3]), j->err);
    return merge(j, a[1], a[2], a[3]);
}

int main(int argc, char **argv)
{
    struct job j = {.err = qchain_error_create()};
    qchain_policy *policy = qchain_policy_create();
    qchain_open_opts o;
    int status = 0, used, ret;

    if (argc < 3)
        return 2;
    qchain_open_opts_init(&o, sizeof(o));
    o.flags = strcmp(argv[1], "rw") == 0 ? QCHAIN_OPEN_WRITE : 0;
    o.policy = policy;
    qchain_policy_allow(policy, QCHAIN_POLICY_DATA_FILE, NULL);
    ret = qchain_open(&j.c, NULL, argv[2], &o, j.err);
    if (ret != 0)
        printf("open %d %s\n", ret, qchain_error_message(j.err));
    for (j.arg = argv + 3; ret == 0 && j.arg < argv + argc; j.arg += used) {
        ret = run(&j, &used);
        if (ret != 0)
            printf("%s %d %s\n", j.arg[0], ret, qchain_error_message(j.err));
        status |= ret != 0;
        ret = 0;
        fflush(stdout);
    }
    qchain_close(j.c);
    qchain_policy_destroy(policy);
    qchain_error_destroy(j.err);
    return status | (ret != 0);
}
