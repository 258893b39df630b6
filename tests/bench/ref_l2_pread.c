/* SPDX-License-Identifier: MIT */
/*
 * ref_l2_pread TOP - the limit that mapping a chain is measured against.
 *
 * Finds the L2 tables of every layer of a chain from the headers and L1 tables, then lets one
 * thread pread all of them in pieces of at most 64 KiB, and does nothing with the bytes. Prints
 * the time of those reads alone, the time of finding them, and the bytes.
 *
 * A bench program: it knows just enough of the format, and trusts the images it is given.
 */
#include <endian.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { PIECE = 64 << 10, MAX_LAYERS = 8192 };

#define L1_OFFSET_MASK UINT64_C(0x00fffffffffffe00)

struct layer {
    int fd;
    uint64_t *l1;
    uint32_t l1_size;
    uint64_t l2_bytes; /* of one table: a cluster */
};

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static uint32_t get32(const unsigned char *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof(v));
    return be32toh(v);
}

static uint64_t get64(const unsigned char *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof(v));
    return be64toh(v);
}

static void pread_all(int fd, void *buf, size_t length, uint64_t offset)
{
    ssize_t n = pread(fd, buf, length, (off_t)offset);

    if (n < 0 || (size_t)n != length) {
        fprintf(stderr, "ref_l2_pread: cannot read %zu bytes at %llu\n", length,
                (unsigned long long)offset);
        exit(1);
    }
}

/* Open one layer; path becomes the name of the next one, or empty. */
static void open_layer(struct layer *l, char path[PATH_MAX])
{
    unsigned char head[104];
    char dir[PATH_MAX], name[1024];
    uint64_t backing;
    uint32_t name_size;

    l->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (l->fd < 0) {
        perror(path);
        exit(1);
    }
    pread_all(l->fd, head, sizeof(head), 0);
    if (memcmp(head, "QFI\xfb", 4) != 0) {
        fprintf(stderr, "ref_l2_pread: %s is not qcow2\n", path);
        exit(1);
    }
    backing = get64(head + 8);
    name_size = get32(head + 16);
    l->l2_bytes = UINT64_C(1) << get32(head + 20);
    l->l1_size = get32(head + 36);
    l->l1 = calloc(l->l1_size, sizeof(*l->l1));
    if (!l->l1 || name_size >= sizeof(name))
        exit(1);
    pread_all(l->fd, l->l1, l->l1_size * sizeof(*l->l1), get64(head + 40));
    if (backing == 0) {
        path[0] = 0;
        return;
    }
    pread_all(l->fd, name, name_size, backing);
    name[name_size] = 0;
    snprintf(dir, sizeof(dir), "%s", path);
    if (name[0] == '/')
        snprintf(path, PATH_MAX, "%s", name);
    else if (snprintf(path, PATH_MAX, "%s/%s", dirname(dir), name) >= PATH_MAX)
        exit(1);
}

static uint64_t read_tables(const struct layer *l, unsigned char *buf, uint64_t *preads)
{
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < l->l1_size; i++) {
        uint64_t table = be64toh(l->l1[i]) & L1_OFFSET_MASK;

        if (table == 0)
            continue;
        for (uint64_t done = 0; done < l->l2_bytes; done += PIECE) {
            size_t part = l->l2_bytes - done < PIECE ? (size_t)(l->l2_bytes - done) : PIECE;

            pread_all(l->fd, buf, part, table + done);
            bytes += part;
            (*preads)++;
        }
    }
    return bytes;
}

int main(int argc, char **argv)
{
    static struct layer layers[MAX_LAYERS];
    static unsigned char buf[PIECE];
    char path[PATH_MAX];
    struct rlimit files;
    double begin, found, end;
    uint64_t bytes = 0, preads = 0;
    int n = 0;

    if (argc != 2) {
        fprintf(stderr, "usage: ref_l2_pread TOP\n");
        return 2;
    }
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    snprintf(path, sizeof(path), "%s", argv[1]);
    begin = now();
    while (path[0] && n < MAX_LAYERS)
        open_layer(&layers[n++], path);
    found = now();
    for (int i = 0; i < n; i++)
        bytes += read_tables(&layers[i], buf, &preads);
    end = now();
    printf("{\"seconds\": %.6f, \"open_seconds\": %.6f, \"layers\": %d, \"bytes\": %llu, "
           "\"preads\": %llu}\n", end - found, found - begin, n, (unsigned long long)bytes,
           (unsigned long long)preads);
    return 0;
}
