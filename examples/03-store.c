/* SPDX-License-Identifier: MIT */
/*
 * A store of your own: the library reads an image from a place it does not know.
 * Here the place is a file of which every byte was XORed with a key.
 *
 *   03-store IMAGE KEY >disk     e.g. 03-store secret.qcow2 0x5a >disk
 *
 * A store moves bytes and knows nothing of formats: three slots are enough.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <qchain.h>
#include <qchain-backend.h>

typedef struct xor_file {
    int     fd;
    uint8_t key;
} xor_file;

/* Called once, when no read is under way. */
static void xor_close(void *obj)
{
    xor_file *x = obj;

    close(x->fd);
    free(x);
}

static int xor_size(void *obj, uint64_t *size, qchain_error *err)
{
    const xor_file *x = obj;
    struct stat     st;

    if (fstat(x->fd, &st) != 0) {
        return qchain_backend_fail(err, QCHAIN_E_IO, errno, "cannot ask for the size");
    }
    *size = (uint64_t)st.st_size;
    return 0;
}

/* Called by many threads at once: all it uses is constant, so it needs no lock.
 * A read is whole or failed; the library never asks for a byte past the size. */
static int xor_pread(void *obj, void *buf, size_t length, uint64_t offset, uint32_t flags,
                     qchain_error *err)
{
    const xor_file *x = obj;
    uint8_t        *out = buf;
    size_t          done = 0;

    (void)flags; /* hints for stores that are far away */
    while (done < length) {
        ssize_t n = pread(x->fd, out + done, length - done, (off_t)(offset + done));

        if (n <= 0) {
            return qchain_backend_fail(err, QCHAIN_E_IO, n < 0 ? errno : 0, "read failed");
        }
        done += (size_t)n;
    }
    for (size_t i = 0; i < length; i++) {
        out[i] ^= x->key;
    }
    return 0;
}

static const qchain_store_ops xor_ops = {
    .struct_size = sizeof(qchain_store_ops),
    .version = QCHAIN_BACKEND_VERSION,
    .name = "xor",
    .close = xor_close,
    .size = xor_size,
    .pread = xor_pread,
};

static int print_disk(qchain *c, qchain_error *err)
{
    static uint8_t buf[1 << 20];
    uint64_t       size = qchain_size(c);

    for (uint64_t at = 0; at < size; at += sizeof(buf)) {
        size_t n = size - at < sizeof(buf) ? (size_t)(size - at) : sizeof(buf);

        if (qchain_read(c, buf, n, at, 0, err) != 0 || fwrite(buf, 1, n, stdout) != n) {
            return 1;
        }
    }
    return fflush(stdout) != 0;
}

int main(int argc, char **argv)
{
    qchain_error    *err = qchain_error_create();
    qchain          *c = NULL;
    xor_file        *x = calloc(1, sizeof(*x));
    qchain_store     store = { .struct_size = sizeof(store), .ops = &xor_ops, .obj = x };
    qchain_open_opts opts;
    int              failed = 1;

    if (argc != 3 || x == NULL || (x->fd = open(argv[1], O_RDONLY | O_CLOEXEC)) < 0) {
        fprintf(stderr, "usage: 03-store IMAGE KEY\n");
        return 2;
    }
    x->key = (uint8_t)strtoul(argv[2], NULL, 0);
    qchain_open_opts_init(&opts, sizeof(opts));
    opts.store = &store; /* from here on the library closes it, whatever happens */
    store.name = argv[1];
    if (qchain_open(&c, NULL, argv[1], &opts, err) == 0) {
        failed = print_disk(c, err);
    }
    if (failed) {
        fprintf(stderr, "03-store: %s\n", qchain_error_message(err));
    }
    qchain_close(c);
    qchain_error_destroy(err);
    return failed;
}
