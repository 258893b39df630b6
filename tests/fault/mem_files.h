/* SPDX-License-Identifier: MIT */
/* Chains of mem_layers.c as files in a directory of their own. Include after it. */
#ifndef QC_TESTS_MEM_FILES_H
#define QC_TESTS_MEM_FILES_H

#include <fcntl.h>
#include <sys/stat.h>

static inline char *mem_file_name(const char *dir, uint32_t k)
{
    char *name = must(malloc(strlen(dir) + 32));

    sprintf(name, "%s/layer%u", dir, k);
    return name;
}

/* Make dir and write every layer into it; the headers name each other. */
static inline void mem_files_write(const struct mem_chain *m, const char *dir)
{
    if (mkdir(dir, 0700) != 0)
        abort();
    for (uint32_t k = 0; k < m->n; k++) {
        char *name = mem_file_name(dir, k);
        int fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        uint64_t at = 0;
        ssize_t n = 0;

        for (; at < m->layer[k].file_size; at += (uint64_t)n) {
            n = write(fd, m->layer[k].file + at, m->layer[k].file_size - at);
            if (n <= 0)
                abort();
        }
        if (fd < 0 || close(fd) != 0)
            abort();
        free(name);
    }
}

static inline void mem_files_remove(const struct mem_chain *m, const char *dir)
{
    for (uint32_t k = 0; k < m->n; k++) {
        char *name = mem_file_name(dir, k);

        unlink(name);
        free(name);
    }
    rmdir(dir);
}

static inline int mem_files_open(const struct mem_chain *m, const char *dir, qchain **out,
                                 qchain_env *env, qchain_error *err)
{
    char *name = mem_file_name(dir, 0);
    qchain_open_opts o;
    int ret;

    qchain_open_opts_init(&o, sizeof(o));
    o.format = m->layer[0].cluster_bits ? "qcow2" : "raw";
    ret = qchain_open(out, env, name, &o, err);
    free(name);
    return ret;
}

#endif
