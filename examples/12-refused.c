/* SPDX-License-Identifier: MIT */
/*
 * 12-refused.c - open images that are not trusted, and act on what went wrong.
 *
 *     12-refused IMG [DIR]...
 *
 * shows each file that the image and its layers refer to, and whether it may be opened: beneath the image's own directory,
 * or beneath a DIR. An error has a sentence for people and a code for programs.
 */
#include <inttypes.h>
#include <stdio.h>

#include <qchain.h>

/* What an image says may hold anything, also what a terminal obeys. (Errors and names that the library tells for people are
 * escaped already.) */
static void print_name(const char *name)
{
    for (const unsigned char *p = (const unsigned char *)name; *p; p++)
        printf(*p < 0x20 || *p >= 0x7f || *p == '\\' ? "\\x%02x" : "%c", *p);
}

/* Asked for every reference before anything of it is opened. Here it only looks on; it might allow or refuse by itself, or
 * answer with another name, a descriptor or a store. */
static int on_reference(void *data, const qchain_reference *ref, qchain_resolution *out)
{
    (void)data;
    (void)out;
    printf("layer %" PRIu32 " names %s '", ref->layer,
           ref->kind == QCHAIN_REF_BACKING ? "its backing file" : "a data file");
    print_name(ref->name);
    printf("'\n");
    return QCHAIN_RESOLVE_DEFAULT;
}

/* What a program may do about a failure. */
static const char *advice(int code)
{
    switch (code) {
    case QCHAIN_E_ACCESS:
        return "ask the administrator whether this image may refer to that";
    case QCHAIN_E_NOTFOUND:
    case QCHAIN_E_CHAIN:
        return "the chain is not complete: look for the missing layer";
    case QCHAIN_E_LOCKED:
    case QCHAIN_E_BUSY:
        return "try again when the other one is done";
    case QCHAIN_E_NET:
    case QCHAIN_E_TIMEOUT:
    case QCHAIN_E_THROTTLED:
        return "try again later";
    case QCHAIN_E_CORRUPT:
        return "take a backup, or look with qchain-check";
    default:
        return "tell a person";
    }
}

static void explain(const qchain_error *err)
{
    fprintf(stderr, "%s\n", qchain_error_message(err));
    fprintf(stderr, "code: %s", qchain_code_name(qchain_error_code(err)));
    if (qchain_error_layer(err) >= 0)
        fprintf(stderr, ", layer: %" PRId64, qchain_error_layer(err));
    if (qchain_error_offset(err) >= 0)
        fprintf(stderr, ", at byte: %" PRId64, qchain_error_offset(err));
    if (qchain_error_http_status(err) > 0)
        fprintf(stderr, ", HTTP: %d", qchain_error_http_status(err));
    fprintf(stderr, "\nadvice: %s\n", advice(qchain_error_code(err)));
}

int main(int argc, char **argv)
{
    qchain_error *err = qchain_error_create();
    qchain_policy *policy = qchain_policy_create();
    qchain_open_opts opts;
    qchain *c = NULL;
    int r = 0;

    if (argc < 2 || !policy) {
        fprintf(stderr, "usage: %s IMG [DIR]...\n", argv[0]);
        qchain_policy_destroy(policy);
        qchain_error_destroy(err);
        return 2;
    }
    for (int i = 2; r == 0 && i < argc; i++)
        r = qchain_policy_allow_path(policy, argv[i], err);
    if (r == 0) {
        qchain_open_opts_init(&opts, sizeof(opts));
        opts.policy = policy; /* copied */
        opts.resolver = on_reference;
        opts.max_layers = 100; /* nobody needs more here */
        r = qchain_open(&c, NULL, argv[1], &opts, err);
    }
    if (r == 0)
        printf("%" PRIu32 " layers, %" PRIu64 " bytes\n", qchain_layers(c), qchain_size(c));
    else
        explain(err);
    qchain_close(c);
    qchain_policy_destroy(policy);
    qchain_error_destroy(err);
    return r ? 1 : 0;
}
