/* SPDX-License-Identifier: MIT */
/* program.c - settings, flags, names and errors, for programs over the library. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <unistd.h>

#include "program.h"

#define POLICY_FILE "/etc/qchain/policy"
#define REMOTE_FILE "/etc/qchain/remote"

/* QCHAIN_POLICY set but empty means: no file. */
const char *program_policy_file(void)
{
    const char *path = getenv("QCHAIN_POLICY");

    if (!path)
        return access(POLICY_FILE, F_OK) == 0 ? POLICY_FILE : NULL;
    return *path ? path : NULL;
}

/* QCHAIN_REMOTE likewise. */
char *program_remote_file(void)
{
    const char *path = getenv("QCHAIN_REMOTE"), *home = getenv("HOME");
    char *own = NULL;

    if (path)
        return *path ? strdup(path) : NULL;
    if (home && home[0] == '/' && asprintf(&own, "%s/.config/qchain/remote", home) < 0)
        own = NULL;
    if (own && access(own, F_OK) == 0)
        return own;
    free(own);
    return access(REMOTE_FILE, F_OK) == 0 ? strdup(REMOTE_FILE) : NULL;
}

char *program_cache_rule(const char *dir)
{
    static const char rule[] = "cache-dir \"";
    char *text = malloc(sizeof(rule) + 2 * strlen(dir) + 2), *to;

    if (!text)
        return NULL;
    to = stpcpy(text, rule);
    for (; *dir; dir++) {
        if (*dir == '"' || *dir == '\\')
            *to++ = '\\';
        *to++ = *dir;
    }
    strcpy(to, "\"");
    return text;
}

bool program_is_url(const char *name)
{
    static const char *const schemes[] = {"http://", "https://", "s3://", "az://", "gs://"};
    size_t i;

    for (i = 0; i < sizeof(schemes) / sizeof(schemes[0]); i++)
        if (strncasecmp(name, schemes[i], strlen(schemes[i])) == 0)
            return true;
    return false;
}

bool program_set_cache(const char *mode, uint32_t *flags)
{
    static const struct {
        const char *mode;
        uint32_t    flags;
    } modes[] = {
        {"none", QCHAIN_OPEN_DIRECT},
        {"off", QCHAIN_OPEN_DIRECT},
        {"directsync", QCHAIN_OPEN_DIRECT | QCHAIN_OPEN_WRITETHROUGH},
        {"writeback", 0},
        {"unsafe", QCHAIN_OPEN_UNSAFE},
        {"writethrough", QCHAIN_OPEN_WRITETHROUGH},
    };
    const uint32_t all = QCHAIN_OPEN_DIRECT | QCHAIN_OPEN_WRITETHROUGH | QCHAIN_OPEN_UNSAFE;
    size_t i;

    for (i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
        if (strcmp(mode, modes[i].mode) == 0) {
            *flags = (*flags & ~all) | modes[i].flags;
            return true;
        }
    }
    return false;
}

void program_raise_file_limit(void)
{
    struct rlimit rl;

    if (getrlimit(RLIMIT_NOFILE, &rl) != 0)
        return;
    if (rl.rlim_cur == RLIM_INFINITY || rl.rlim_cur >= PROGRAM_MAX_FILES)
        return;
    rl.rlim_cur = rl.rlim_max < PROGRAM_MAX_FILES ? rl.rlim_max : PROGRAM_MAX_FILES;
    setrlimit(RLIMIT_NOFILE, &rl);
}

int program_errno(int code)
{
    switch (code) {
    case QCHAIN_OK:
        return 0;
    case QCHAIN_E_NOMEM:
        return ENOMEM;
    case QCHAIN_E_INVAL:
    case QCHAIN_E_RANGE:
        return EINVAL;
    case QCHAIN_E_NOSPACE:
        return ENOSPC;
    case QCHAIN_E_READONLY:
        return EROFS;
    case QCHAIN_E_BUSY:
        return EBUSY;
    case QCHAIN_E_UNSUPPORTED:
        return ENOTSUP;
    default:
        return EIO;
    }
}
