/* SPDX-License-Identifier: MIT */
/*
 * 01-read.c - open a chain of images and read from it.
 *
 *     01-read IMG [OFFSET]
 *
 * prints 64 bytes of the virtual disk. The layers below IMG are found and opened by
 * the library; what a byte reads as does not depend on how many there are.
 */
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include <qchain.h>

#define SHOWN 64
#define LINE 16

static void print_line(uint64_t offset, const unsigned char *bytes)
{
    int i;

    printf("%08" PRIx64 " ", offset);
    for (i = 0; i < LINE; i++)
        printf(" %02x", bytes[i]);
    printf("  ");
    for (i = 0; i < LINE; i++)
        putchar(isprint(bytes[i]) ? bytes[i] : '.');
    putchar('\n');
}

int main(int argc, char **argv)
{
    uint64_t offset = argc > 2 ? strtoull(argv[2], NULL, 0) : 0;
    unsigned char buf[SHOWN];
    qchain_error *err;
    qchain *chain;
    int i, failed;

    if (argc < 2) {
        fprintf(stderr, "usage: %s IMG [OFFSET]\n", argv[0]);
        return 2;
    }

    /* Why a call failed is told here. NULL would do if nobody asks. */
    err = qchain_error_create();

    /* No environment, no options: a private one with the default rules, which let an
     * image refer to files in its own directory only. */
    failed = qchain_open(&chain, NULL, argv[1], NULL, err);
    if (failed) {
        fprintf(stderr, "%s\n", qchain_error_message(err));
        qchain_error_destroy(err);
        return 1;
    }
    printf("%" PRIu64 " bytes in %" PRIu32 " layers\n", qchain_size(chain), qchain_layers(chain));

    /* All the bytes, or an error: there are no short reads. */
    failed = qchain_read(chain, buf, sizeof(buf), offset, 0, err);
    if (failed)
        fprintf(stderr, "%s\n", qchain_error_message(err));
    for (i = 0; !failed && i < SHOWN; i += LINE)
        print_line(offset + (uint64_t)i, buf + i);

    qchain_close(chain);
    qchain_error_destroy(err);
    return failed ? 1 : 0;
}
