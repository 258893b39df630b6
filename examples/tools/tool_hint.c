/* SPDX-License-Identifier: MIT */
/* tool_hint.c - what people can do about a mistake or about an image that did not open. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "tool.h"

#define LONGEST 24 /* name that is compared */
#define MOST_HOLDERS 3

/* ------------------------------------------------------------------ near names --- */

unsigned tool_distance(const char *a, const char *b)
{
    size_t n = strlen(a), m = strlen(b), i, k;
    unsigned d[LONGEST + 1][LONGEST + 1], least;

    if (n > LONGEST || m > LONGEST)
        return LONGEST;
    for (i = 0; i <= n; i++) {
        for (k = 0; k <= m; k++) {
            if (i == 0 || k == 0) {
                d[i][k] = (unsigned)(i + k);
                continue;
            }
            least = d[i - 1][k - 1] + (a[i - 1] != b[k - 1]);
            least = d[i - 1][k] + 1 < least ? d[i - 1][k] + 1 : least;
            least = d[i][k - 1] + 1 < least ? d[i][k - 1] + 1 : least;
            if (i > 1 && k > 1 && a[i - 1] == b[k - 2] && a[i - 2] == b[k - 1] && d[i - 2][k - 2] + 1 < least)
                least = d[i - 2][k - 2] + 1;
            d[i][k] = least;
        }
    }
    return d[n][m];
}

int tool_unrecognized(struct tool *t, const char *option, const struct option *longs)
{
    const char *nearest = NULL;
    unsigned least = 3, d;
    char name[64];

    tool_complain(t, "unrecognized option '%s'", option);
    snprintf(name, sizeof(name), "%.*s", (int)strcspn(option, "="), option);
    for (; name[0] == '-' && name[1] == '-' && longs->name; longs++) {
        d = tool_distance(name + 2, longs->name);
        if (d < least && d + 2 < strlen(name)) {
            least = d;
            nearest = longs->name;
        }
    }
    if (nearest)
        fprintf(stderr, "Did you mean '--%s'?\n", nearest);
    else if (name[0] == '-' && isdigit((unsigned char)name[1]))
        fprintf(stderr, "Offsets and sizes are not negative\n");
    fprintf(stderr, "Try '%s --help' for more information\n", t->prog);
    return t->verb->usage_exit;
}

/* -------------------------------------------------------- an image did not open --- */

/* Is it shown as it is? Where escapes stand for bytes it may be the name of another file. */
static bool is_plain(const char *shown)
{
    const char *p;

    for (p = shown; *p; p++)
        if (iscntrl((unsigned char)*p))
            return false;
    return !strstr(shown, "\\x");
}

/* Where the layer below lies; NULL if there is none, or only something like its name is known. */
static char *find_below(const qchain_image_info *info)
{
    bool known = info->backing_name && info->backing_resolved && info->backing_name_raw;

    if (!known || strcmp(info->backing_name, info->backing_name_raw) != 0 || !is_plain(info->backing_resolved))
        return NULL;
    return strdup(info->backing_resolved);
}

/* Where layer k of a chain lies, by what the images say themselves; to be freed, NULL if nobody can tell. */
static char *find_layer(struct tool *t, const char *name, int64_t k)
{
    char *at = strdup(name);
    qchain_image_info *info;
    qchain_open_opts o;

    qchain_open_opts_init(&o, sizeof(o));
    o.flags = QCHAIN_OPEN_FORCE_SHARE;
    o.format = t->format;
    for (; at && k > 0; k--) {
        info = NULL;
        if (qchain_inspect(&info, t->env, at, &o, NULL) != 0)
            info = NULL;
        free(at);
        at = info ? find_below(info) : NULL;
        qchain_image_info_free(info);
        o.format = NULL;
    }
    return at;
}

/* Does the process have this file open? No server is asked about others that it has open: it may never answer. */
static bool holds(const char *pid, const struct stat *file)
{
    char path[512];
    struct dirent *e;
    bool found = false;
    struct statx st;
    DIR *d;

    snprintf(path, sizeof(path), "/proc/%.20s/fd", pid);
    d = opendir(path);
    while (d && !found && (e = readdir(d))) {
        snprintf(path, sizeof(path), "/proc/%.20s/fd/%.255s", pid, e->d_name);
        found = statx(AT_FDCWD, path, AT_STATX_DONT_SYNC, STATX_INO, &st) == 0 && st.stx_ino == file->st_ino &&
                makedev(st.stx_dev_major, st.stx_dev_minor) == file->st_dev;
    }
    if (d)
        closedir(d);
    return found;
}

static void tell_holder(const char *pid)
{
    char path[64], name[64] = "?";
    char *p;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%.20s/comm", pid);
    f = fopen(path, "re");
    if (f && fgets(name, sizeof(name), f))
        name[strcspn(name, "\n")] = '\0';
    if (f)
        fclose(f);
    for (p = name; *p; p++) /* any process may call itself anything */
        *p = iscntrl((unsigned char)*p) ? '?' : *p;
    fprintf(stderr, "Process %s (%s) has it open\n", pid, name);
}

/* Those of the user's own; root sees all. */
static void tell_holders(const char *path)
{
    struct dirent *e;
    struct stat file;
    int n = 0;
    DIR *d;

    if (stat(path, &file) != 0 || !(d = opendir("/proc")))
        return;
    while (n < MOST_HOLDERS && (e = readdir(d))) {
        if (!isdigit((unsigned char)e->d_name[0]) || !holds(e->d_name, &file))
            continue;
        tell_holder(e->d_name);
        n++;
    }
    closedir(d);
}

/* Is it, and not its data file, what may not be opened? */
static bool is_refused(struct tool *t, const char *path, int64_t layer)
{
    qchain_image_info *info;
    qchain_open_opts o;
    bool alone;

    if (access(path, R_OK) != 0)
        return true;
    if (layer > 0 || access(path, W_OK) == 0)
        return false;
    qchain_open_opts_init(&o, sizeof(o));
    o.flags = QCHAIN_OPEN_FORCE_SHARE;
    o.format = t->format;
    if (qchain_inspect(&info, t->env, path, &o, NULL) != 0)
        return false;
    alone = !info->data_file;
    qchain_image_info_free(info);
    return alone;
}

static void tell_owner(const char *path)
{
    struct passwd *owner;
    struct stat st;

    if (!is_plain(path) || stat(path, &st) != 0)
        return;
    owner = getpwuid(st.st_uid);
    fprintf(stderr, "'%s' belongs to %s, mode %04o\n", path, owner ? owner->pw_name : "an unknown user",
            (unsigned)st.st_mode & 07777);
}

/* An explicit format that is not the image's. */
static void tell_format(struct tool *t, const char *name)
{
    qchain_image_info *info = NULL;
    qchain_open_opts o;

    qchain_open_opts_init(&o, sizeof(o));
    o.flags = QCHAIN_OPEN_FORCE_SHARE;
    if (t->format && qchain_inspect(&info, t->env, name, &o, NULL) == 0 && strcmp(info->format, t->format) != 0)
        fprintf(stderr, "It looks like %s: try -f %s\n", info->format, info->format);
    qchain_image_info_free(info);
}

bool tool_layer_missing(struct tool *t, const char *name, int64_t layer)
{
    char *path = find_layer(t, name, layer);
    qchain_image_info *info = NULL;
    qchain_open_opts o;
    bool missing;

    qchain_open_opts_init(&o, sizeof(o));
    o.flags = QCHAIN_OPEN_FORCE_SHARE;
    missing = path && qchain_inspect(&info, t->env, path, &o, NULL) == QCHAIN_E_NOTFOUND;
    qchain_image_info_free(info);
    free(path);
    return missing;
}

/* One word for a shell, whatever is in it. */
static void put_quoted(const char *word)
{
    fputs(word[0] == '-' ? "'./" : "'", stderr);
    for (; *word; word++)
        fputs(*word == '\'' ? "'\\''" : (const char[]){*word, '\0'}, stderr);
    fputc('\'', stderr);
}

static bool is_scheme(const char *name, size_t n)
{
    static const char *const schemes[] = {"http", "https", "s3", "az", "gs"};
    size_t i;

    for (i = 0; i < sizeof(schemes) / sizeof(schemes[0]); i++)
        if (strlen(schemes[i]) == n && strncasecmp(name, schemes[i], n) == 0)
            return true;
    return false;
}

static void tell_missing(struct tool *t, const char *name, int64_t layer)
{
    char *above = layer > 0 && tool_layer_missing(t, name, layer) ? find_layer(t, name, layer - 1) : NULL;
    size_t scheme = strcspn(name, ":/");

    if (above && is_plain(above)) {
        fprintf(stderr, "It is the backing file of '%s': bring it back, or tell where it is now by\n"
                        "qchain rebase -u -b NAME -F FORMAT ", above);
        put_quoted(above);
        fputc('\n', stderr);
    } else if (layer <= 0 && is_scheme(name, scheme) && strncmp(name + scheme, "//", 2) == 0) {
        fprintf(stderr, "If it is a URL: '://' stands behind its scheme\n");
    }
    free(above);
}

void tool_open_hint(struct tool *t, const char *name)
{
    int64_t layer = t->err ? qchain_error_layer(t->err) : -1;
    int code = t->err ? qchain_error_code(t->err) : 0;
    char *path;

    if (t->image_opts || strncmp(name, "json:", 5) == 0)
        return;
    if (code == QCHAIN_E_NOTFOUND) {
        if (!program_is_url(name))
            tell_missing(t, name, layer);
        return;
    }
    if (code == QCHAIN_E_AUTH || code == QCHAIN_E_NET || code == QCHAIN_E_TIMEOUT)
        fprintf(stderr, "'qchain doctor' tells what is set up for URLs\n");
    if (program_is_url(name))
        return;
    if (code == QCHAIN_E_UNSUPPORTED && layer == 0)
        tell_format(t, name);
    if (code != QCHAIN_E_LOCKED && !(code == QCHAIN_E_ACCESS && qchain_error_errno(t->err) == EACCES))
        return;
    path = find_layer(t, name, layer);
    if (path && code == QCHAIN_E_LOCKED)
        tell_holders(path);
    else if (path && is_refused(t, path, layer))
        tell_owner(path);
    free(path);
}
