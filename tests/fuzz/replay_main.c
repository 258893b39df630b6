/* SPDX-License-Identifier: MIT */
/* Gives files, and all files of directories, to a fuzz target: a regression test
 * that needs no fuzzer. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MAX_BYTES (1L << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned replayed, skipped;

static int replay_file(const char *path, long size)
{
    FILE *f = fopen(path, "rb");
    uint8_t *data = malloc((size_t)size + 1);
    int ok = f && data && fread(data, 1, (size_t)size, f) == (size_t)size;

    if (f)
        fclose(f);
    if (ok) {
        /* An exact copy, so that a sanitizer sees a byte too much. */
        uint8_t *exact = realloc(data, size > 0 ? (size_t)size : 1);

        data = exact ? exact : data;
        LLVMFuzzerTestOneInput(data, (size_t)size);
        replayed++;
    } else {
        fprintf(stderr, "%s: cannot be read\n", path);
    }
    free(data);
    return ok;
}

static int replay(const char *path)
{
    struct dirent *e;
    struct stat st;
    int ok = 1;
    DIR *d;

    if (stat(path, &st) < 0) {
        perror(path);
        return 0;
    }
    if (!S_ISDIR(st.st_mode)) {
        if (st.st_size <= MAX_BYTES)
            return replay_file(path, (long)st.st_size);
        skipped++;
        return 1;
    }
    d = opendir(path);
    while (d && (e = readdir(d))) {
        char name[4096];

        if (e->d_name[0] == '.')
            continue;
        snprintf(name, sizeof(name), "%s/%s", path, e->d_name);
        ok &= replay(name);
    }
    if (d)
        closedir(d);
    return ok;
}

int main(int argc, char **argv)
{
    int ok = 1;

    for (int i = 1; i < argc; i++)
        ok &= replay(argv[i]);
    printf("%u inputs replayed, %u too large\n", replayed, skipped);
    return ok && replayed > 0 ? 0 : 1;
}
