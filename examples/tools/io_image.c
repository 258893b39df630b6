/* SPDX-License-Identifier: MIT */
/* io_image.c - commands about the open image as a whole. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "io.h"

#define EXTENTS 256

IO_COMMAND(length)
{
    char text[64];

    (void)cmd;
    (void)argc;
    (void)argv;
    io_size_text(text, sizeof(text), (double)qchain_size(sh->c));
    printf("%s\n", text);
    return 0;
}

IO_COMMAND(flush)
{
    int r = sh->writable ? qchain_flush(sh->c, sh->t->err) : 0;

    (void)cmd;
    (void)argc;
    (void)argv;
    return r ? io_failed(sh, "flush", r) : 0;
}

/* ------------------------------------------------------- what the top holds --- */

/* Stretches of a range that the top image holds, or does not, joined. */
struct alloc_walk {
    void (*put)(void *data, uint64_t offset, uint64_t length, bool held);
    void *data;
    uint64_t offset, length;
    bool held;
};

static void walk_add(struct alloc_walk *w, uint64_t offset, uint64_t length, bool held)
{
    if (!length)
        return;
    if (w->length && w->held == held) {
        w->length += length;
        return;
    }
    if (w->length)
        w->put(w->data, w->offset, w->length, w->held);
    w->offset = offset;
    w->length = length;
    w->held = held;
}

static int walk(struct io_shell *sh, struct alloc_walk *w, uint64_t offset, uint64_t end)
{
    qchain_extent extents[EXTENTS];
    uint64_t at = offset, next;
    uint32_t n, i;
    int r;

    while (offset < end) {
        r = qchain_diff(sh->c, 1, 0, offset, end - offset, extents, EXTENTS, &n, &next,
                        QCHAIN_MAP_NO_HOLES, sh->t->err);
        if (r)
            return r;
        for (i = 0; i < n; i++) {
            walk_add(w, at, extents[i].offset - at, false);
            walk_add(w, extents[i].offset, extents[i].length, true);
            at = extents[i].offset + extents[i].length;
        }
        offset = next;
    }
    walk_add(w, at, end - at, false);
    if (w->length)
        w->put(w->data, w->offset, w->length, w->held);
    return 0;
}

static void put_map(void *data, uint64_t offset, uint64_t length, bool held)
{
    char size[64], at[64];

    (void)data;
    io_size_text(size, sizeof(size), (double)length);
    io_size_text(at, sizeof(at), (double)offset);
    printf("%s (0x%" PRIx64 ") bytes %s allocated at offset %s (0x%" PRIx64 ")\n", size, length,
           held ? "   " : "not", at, offset);
}

IO_COMMAND(map)
{
    struct alloc_walk w = {.put = put_map};
    int r = walk(sh, &w, 0, qchain_size(sh->c));

    (void)cmd;
    (void)argc;
    (void)argv;
    return r ? io_failed(sh, "map", r) : 0;
}

static void put_sum(void *data, uint64_t offset, uint64_t length, bool held)
{
    uint64_t *sum = data;

    (void)offset;
    if (held)
        *sum += length;
}

IO_COMMAND(alloc)
{
    uint64_t offset, length = IO_SECTOR, sum = 0, size = qchain_size(sh->c);
    struct alloc_walk w = {.put = put_sum, .data = &sum};
    char at[64];
    int r;

    (void)cmd;
    if (!io_parse_size(argv[1], &offset) || (argc > 2 && !io_parse_size(argv[2], &length)))
        return -1;
    if (offset >= size)
        length = 0;
    else if (length > size - offset)
        length = size - offset;
    r = length ? walk(sh, &w, offset, offset + length) : 0;
    if (r)
        return io_failed(sh, "is_allocated", r);
    io_size_text(at, sizeof(at), (double)offset);
    printf("%" PRIu64 "/%" PRIu64 " bytes allocated at offset %s\n", sum, length, at);
    return 0;
}

/* --------------------------------------------------------------------- info --- */

/* Where the VM state begins: behind what the tables of the disk's own size could map. */
static uint64_t vm_state_offset(const qchain_image_info *i)
{
    uint64_t entry = i->flags & QCHAIN_IMAGE_EXTENDED_L2 ? 16 : 8;
    uint64_t table = i->cluster_size ? i->cluster_size * (i->cluster_size / entry) : 0;

    return table ? (i->virtual_size + table - 1) / table * table : 0;
}

IO_COMMAND(info)
{
    qchain_image_info *i;
    char cluster[64], vm[64];
    struct tool_json j;
    struct tool_out o;
    int r = qchain_layer_info(&i, sh->c, 0, sh->t->err);

    (void)cmd;
    (void)argc;
    (void)argv;
    if (r)
        return io_failed(sh, "info", r);
    io_size_text(cluster, sizeof(cluster), (double)i->cluster_size);
    io_size_text(vm, sizeof(vm), (double)vm_state_offset(i));
    printf("format name: %s\ncluster size: %s\nvm state offset: %s\n", i->format, cluster, vm);
    if (i->version) {
        printf("Format specific information:\n");
        fflush(stdout);
        if (tool_out_init(&o, STDOUT_FILENO)) {
            tool_json_init_human(&j, &o);
            tool_put_qcow2(&j, i);
            r = tool_out_finish(sh->t, &o);
        }
    }
    qchain_image_info_free(i);
    return r;
}

/* ----------------------------------------------------------------- truncate --- */

static bool known_preallocation(struct io_shell *sh, const char *mode)
{
    static const char *const others[] = {"metadata", "falloc", "full"};
    size_t i;

    if (strcmp(mode, "off") == 0)
        return true;
    for (i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        if (strcmp(mode, others[i]) == 0) {
            fprintf(stderr, "%s: Preallocation of what is added is not supported: '%s'\n",
                    sh->t->prog, mode);
            return false;
        }
    }
    fprintf(stderr, "%s: Invalid preallocation mode '%s'\n", sh->t->prog, mode);
    return false;
}

IO_COMMAND(truncate)
{
    uint64_t size;
    int c;

    io_getopt_start();
    while ((c = getopt(argc, argv, "m:")) != -1) {
        if (c == '?')
            return io_usage(cmd);
        if (!known_preallocation(sh, optarg))
            return -1;
    }
    if (optind >= argc)
        return io_usage(cmd);
    if (!io_parse_size(argv[optind], &size))
        return -1;
    if (size % IO_SECTOR) {
        fprintf(stderr, "%s: The new size must be a multiple of %d\n", sh->t->prog, IO_SECTOR);
        return -1;
    }
    if (qchain_resize(sh->c, size, QCHAIN_RESIZE_SHRINK, sh->t->err) == 0)
        return 0;
    fprintf(stderr, "%s: %s\n", sh->t->prog, qchain_error_message(sh->t->err));
    return -1;
}
