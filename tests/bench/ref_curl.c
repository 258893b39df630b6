/* SPDX-License-Identifier: MIT */
/*
 * ref_curl [OPTION...] URL - what plain libcurl can do: ranges of one object, many in flight.
 *
 *   --bytes N      read the first N bytes in order, in ranges of --range (2 MiB)
 *   --random N     or N random reads of 4 KiB, or of what --range says
 *   --list FILE    or ranges of --range bytes at the offsets in a file, one a line
 *   --parallel N   transfers, and so connections, at a time (8)
 *   --http2        multiplexed over one connection, with TLS;  --ca FILE
 *   --seed N
 *
 * Prints JSON: seconds, bytes, requests, MB/s, reads a second, processor seconds a GB.
 */
#include <curl/curl.h>

#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

enum { MAX_PARALLEL = 1024, MAX_LIST = 1 << 20, ROOM = 1 << 20 };

static struct {
    uint64_t bytes, random, range, seed;
    unsigned parallel;
    bool http2;
    const char *url, *ca, *list;
} opt = { .parallel = 8, .seed = 1 };

static struct {
    uint64_t *start;     /* of each range */
    uint64_t length, n, next, size, received, failed;
} plan;

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double processor(void)
{
    struct rusage u;

    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

static void die(const char *why)
{
    fprintf(stderr, "ref_curl: %s\n", why);
    exit(1);
}

static size_t take(char *data, size_t one, size_t n, void *user)
{
    unsigned char *buf = user;
    size_t len = one * n;

    /* As any reader would, put it where it is wanted. */
    memcpy(buf, data, len < ROOM ? len : ROOM);
    plan.received += len;
    return len;
}

static void set_up(CURL *c, void *buf)
{
    curl_easy_setopt(c, CURLOPT_URL, opt.url);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, take);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, buf);
    curl_easy_setopt(c, CURLOPT_FAILONERROR, 1L);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_BUFFERSIZE, 512l << 10);
    curl_easy_setopt(c, CURLOPT_HTTP_VERSION, opt.http2 ? (long)CURL_HTTP_VERSION_2TLS
                                                        : (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(c, CURLOPT_PIPEWAIT, opt.http2 ? 1L : 0L);
    if (opt.ca)
        curl_easy_setopt(c, CURLOPT_CAINFO, opt.ca);
}

static bool start_next(CURLM *multi, CURL *c)
{
    char range[64];
    uint64_t at;

    if (plan.next == plan.n)
        return false;
    at = plan.start[plan.next++];
    snprintf(range, sizeof(range), "%lu-%lu", at, at + plan.length - 1);
    curl_easy_setopt(c, CURLOPT_RANGE, range);
    return curl_multi_add_handle(multi, c) == CURLM_OK;
}

/* The object's size, from the first range, which is not timed. */
static void find_size(void)
{
    CURL *c = curl_easy_init();
    curl_off_t total = 0;
    struct curl_header *h;
    unsigned char *buf = malloc(ROOM);

    set_up(c, buf);
    curl_easy_setopt(c, CURLOPT_RANGE, "0-0");
    if (curl_easy_perform(c) != CURLE_OK)
        die("cannot read the object");
    if (curl_easy_header(c, "Content-Range", 0, CURLH_HEADER, -1, &h) == CURLHE_OK &&
        strchr(h->value, '/'))
        total = strtoll(strchr(h->value, '/') + 1, NULL, 10);
    if (total <= 0)
        die("the server does not tell the object's size");
    plan.size = (uint64_t)total;
    plan.received = 0;
    curl_easy_cleanup(c);
    free(buf);
}

static uint64_t draw(void)
{
    uint64_t z = opt.seed += 0x9e3779b97f4a7c15u;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static void read_list(void)
{
    FILE *f = fopen(opt.list, "re");
    unsigned long at;

    if (!f)
        die("cannot read the list");
    plan.start = calloc(MAX_LIST, sizeof(*plan.start));
    while (plan.start && plan.n < MAX_LIST && fscanf(f, "%lu", &at) == 1)
        plan.start[plan.n++] = at;
    fclose(f);
}

static void make_plan(void)
{
    uint64_t bytes = opt.bytes && opt.bytes < plan.size ? opt.bytes : plan.size;

    plan.length = opt.range ? opt.range : opt.random ? 4096 : 2 << 20;
    if (plan.size < plan.length)
        die("the object is too small");
    if (opt.list) {
        read_list();
        return;
    }
    plan.n = opt.random ? opt.random : (bytes + plan.length - 1) / plan.length;
    plan.start = calloc(plan.n, sizeof(*plan.start));
    if (!plan.start)
        die("no memory");
    for (uint64_t i = 0; i < plan.n; i++)
        plan.start[i] = opt.random ? draw() % (plan.size - plan.length + 1) / 4096 * 4096
                                   : i * plan.length;
}

static void run(void)
{
    CURLM *multi = curl_multi_init();
    unsigned char *buf = malloc(ROOM);
    CURL *handles[MAX_PARALLEL];
    unsigned left = 0, made;
    int running, queued;

    curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, (long)opt.parallel);
    curl_multi_setopt(multi, CURLMOPT_MAX_HOST_CONNECTIONS, opt.http2 ? 1L : (long)opt.parallel);
    for (made = 0; made < opt.parallel; made++) {
        handles[made] = curl_easy_init();
        set_up(handles[made], buf);
        left += start_next(multi, handles[made]);
    }
    while (left) {
        CURLMsg *msg;

        curl_multi_perform(multi, &running);
        while ((msg = curl_multi_info_read(multi, &queued))) {
            CURL *c = msg->easy_handle;

            if (msg->msg != CURLMSG_DONE)
                continue;
            plan.failed += msg->data.result != CURLE_OK;
            curl_multi_remove_handle(multi, c);
            if (!start_next(multi, c))
                left--;
        }
        if (left)
            curl_multi_poll(multi, NULL, 0, 1000, NULL);
    }
    for (unsigned i = 0; i < made; i++)
        curl_easy_cleanup(handles[i]);
    curl_multi_cleanup(multi);
    free(buf);
}

static uint64_t number(const char *text)
{
    char *end;
    uint64_t n = strtoull(text, &end, 0);

    return *end == 'K' ? n << 10 : *end == 'M' ? n << 20 : *end == 'G' ? n << 30 : n;
}

static void parse(int argc, char **argv)
{
    static const struct option longs[] = {
        { "bytes", 1, NULL, 'b' }, { "random", 1, NULL, 'r' }, { "range", 1, NULL, 'l' },
        { "list", 1, NULL, 'w' }, { "parallel", 1, NULL, 'p' }, { "http2", 0, NULL, '2' },
        { "ca", 1, NULL, 'c' }, { "seed", 1, NULL, 's' }, { 0 }
    };
    int o;

    while ((o = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        switch (o) {
        case 'b': opt.bytes = number(optarg); break;
        case 'r': opt.random = number(optarg); break;
        case 'l': opt.range = number(optarg); break;
        case 'w': opt.list = optarg; break;
        case 'p': opt.parallel = (unsigned)number(optarg); break;
        case '2': opt.http2 = true; break;
        case 'c': opt.ca = optarg; break;
        case 's': opt.seed = number(optarg); break;
        default: exit(2);
        }
    }
    if (optind + 1 != argc || opt.parallel < 1 || opt.parallel > MAX_PARALLEL) {
        fprintf(stderr, "usage: ref_curl [--bytes N | --random N | --list FILE] [--range N] "
                "[--parallel N] [--http2] [--ca FILE] URL\n");
        exit(2);
    }
    opt.url = argv[optind];
}

int main(int argc, char **argv)
{
    double begin, seconds, busy;

    parse(argc, argv);
    curl_global_init(CURL_GLOBAL_DEFAULT);
    find_size();
    make_plan();
    busy = processor();
    begin = now();
    run();
    seconds = now() - begin;
    busy = processor() - busy;
    printf("{\"seconds\": %.6f, \"bytes\": %lu, \"requests\": %lu, \"mb_per_second\": %.1f, "
           "\"reads_per_second\": %.1f, \"cpu_seconds\": %.4f, \"cpu_per_gb\": %.4f, "
           "\"failed\": %lu}\n", seconds, plan.received, plan.n,
           (double)plan.received / seconds / 1e6, (double)(opt.random ? opt.random : plan.n) / seconds,
           busy, busy / ((double)plan.received / 1e9), plan.failed);
    free(plan.start);
    curl_global_cleanup();
    return plan.failed != 0;
}
