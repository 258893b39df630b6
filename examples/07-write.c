/* SPDX-License-Identifier: MIT */
/*
 * 07-write BASE TOP - start a machine from an image: make a new layer over it, write to that, take a snapshot.
 * The image below is never changed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qchain.h>

static void die(const char *what, const qchain_error *err)
{
    fprintf(stderr, "07-write: %s: %s\n", what, qchain_error_message(err));
    exit(EXIT_FAILURE);
}

int main(int argc, char **argv)
{
    qchain_error *err = qchain_error_create();
    qchain_create_opts create;
    qchain_open_opts open;
    char block[4096];
    qchain *c;

    if (argc != 3) {
        fprintf(stderr, "usage: 07-write BASE TOP\n");
        return 2;
    }
    qchain_create_opts_init(&create, sizeof(create));
    create.backing_file = argv[1]; /* as it is recorded: resolved beside TOP */
    create.backing_format = "qcow2";
    create.size = UINT64_MAX; /* that of the image below */
    if (qchain_create(NULL, argv[2], &create, err) != 0)
        die(argv[2], err);

    qchain_open_opts_init(&open, sizeof(open));
    open.flags = QCHAIN_OPEN_WRITE;
    if (qchain_open(&c, NULL, argv[2], &open, err) != 0)
        die(argv[2], err);
    memset(block, 'x', sizeof(block));
    if (qchain_write(c, block, sizeof(block), 0, 0, err) != 0)
        die("write", err);
    if (qchain_snapshot_create(c, "before", NULL, err) != 0)
        die("snapshot", err);
    if (qchain_write_zeroes(c, sizeof(block), 0, QCHAIN_WRITE_UNMAP, err) != 0)
        die("zero", err);
    if (qchain_flush(c, err) != 0) /* from here on it is on the medium */
        die("flush", err);
    if (qchain_finish(c, err) != 0)
        die("finish", err);
    qchain_close(c);
    qchain_error_destroy(err);
    return EXIT_SUCCESS;
}
