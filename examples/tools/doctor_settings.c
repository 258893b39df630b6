/* SPDX-License-Identifier: MIT */
/* doctor_settings.c - the files that say what images may refer to and how URLs are reached, credentials, caches. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "doctor.h"

#define LITTLE_SPACE (UINT64_C(1) << 30)

#define BLANKS " \t"

/* In the order of `rules` below. */
enum { S3_KEY, S3_SECRET, S3_PROFILE, S3_ANONYMOUS, AZURE_KEY, AZURE_SAS, GS_KEY, GS_SECRET, GS_TOKEN, BASIC, BEARER };

static const char *const rules[DOCTOR_RULES] = {"s3-access-key", "s3-secret-key", "s3-profile", "s3-anonymous",
                                    "azure-key", "azure-sas", "gs-access-key", "gs-secret-key", "gs-token",
                                    "basic", "bearer"};

/* Those that are no secrets themselves. */
#define HARMLESS (1u << S3_KEY | 1u << S3_PROFILE | 1u << S3_ANONYMOUS | 1u << GS_KEY)

/* --------------------------------------------------------------------- rules --- */

/* The words of a rule, in place, as qchain-remote(5) parts them; how many, at most max. */
static int split(char *line, char **word, int max)
{
    char *p = line, *to;
    int n = 0;

    for (p += strspn(p, BLANKS); n < max && *p && *p != '#'; p += strspn(p, BLANKS)) {
        if (*p != '"') {
            word[n++] = p;
            p += strcspn(p, BLANKS);
        } else {
            word[n++] = to = ++p;
            while (*p && *p != '"') {
                p += *p == '\\' && (p[1] == '"' || p[1] == '\\');
                *to++ = *p++;
            }
            p += *p == '"';
            *to = '\0';
        }
        if (*p)
            *p++ = '\0';
    }
    return n;
}

static void keep_dir(struct doctor *d, const char *dir)
{
    free(d->cache_dir);
    d->cache_dir = strdup(dir);
}

/* A line that is right. */
static void scan_line(struct doctor *d, char *line, struct doctor_source *source)
{
    char *copy = strdup(line), *word[4];
    size_t len = strlen(line), i;
    int n = split(line, word, 4);

    for (i = 0; n > 1 && i < DOCTOR_RULES; i++) {
        if (strcmp(word[0], rules[i]) != 0)
            continue;
        d->from[i] = source->path ? source->path : "the command line";
        if (i == S3_ANONYMOUS && strcmp(word[1], "on") != 0)
            d->from[i] = NULL;
        source->secrets |= !(HARMLESS & 1u << i);
    }
    if (n > 1 && strcmp(word[0], "cache-dir") == 0)
        keep_dir(d, word[1]);
    else if (copy && n > 0 && strcmp(word[0], "region") != 0)
        qchain_remote_parse(d->harmless, copy, NULL);
    explicit_bzero(line, len);
    if (copy)
        explicit_bzero(copy, len);
    free(copy);
}

/* All lines of a file or of an option's value. */
static void scan(struct doctor *d, FILE *f, const char *path)
{
    struct doctor_source *more = reallocarray(d->sources, d->n_sources + 1, sizeof(*more));
    char *line = NULL;
    size_t size = 0;

    if (more) {
        d->sources = more;
        more[d->n_sources] = (struct doctor_source){path, false};
        while (f && getline(&line, &size, f) >= 0) {
            line[strcspn(line, "\r\n")] = '\0';
            scan_line(d, line, &more[d->n_sources]);
        }
        d->n_sources++;
    }
    free(line);
    if (f)
        fclose(f);
}

static void saw_setting(void *data, enum tool_setting kind, const char *value)
{
    struct doctor *d = data;

    if (kind == TOOL_CACHE_DIR)
        keep_dir(d, value);
    else if (kind == TOOL_RULES_FILE)
        scan(d, fopen(value, "re"), value);
    else if (*value)
        scan(d, fmemopen((void *)(uintptr_t)value, strlen(value), "r"), NULL);
}

int doctor_load(struct doctor *d)
{
    static const char patience[] = "connect-timeout 5\ndeadline 10";
    const char *policy = program_policy_file();

    d->harmless = qchain_remote_create();
    if (!d->harmless) {
        tool_complain(d->t, "out of memory");
        return -1;
    }
    d->t->saw_setting = saw_setting;
    d->t->saw_data = d;
    /* who looks does not want to wait long, unless the file says so */
    qchain_remote_parse(d->harmless, patience, NULL);
    if (policy && qchain_policy_load(d->t->policy, policy, d->t->err) != 0)
        d->policy_wrong = strdup(doctor_message(d));
    d->remote_file = program_remote_file();
    if (d->remote_file && qchain_remote_load(d->t->remote, d->remote_file, d->t->err) != 0)
        d->remote_wrong = strdup(doctor_message(d));
    else if (d->remote_file)
        scan(d, fopen(d->remote_file, "re"), d->remote_file);
    return 0;
}

void doctor_unload(struct doctor *d)
{
    free(d->remote_file);
    free(d->remote_wrong);
    free(d->policy_wrong);
    free(d->cache_dir);
    free(d->sources);
    qchain_remote_destroy(d->harmless);
}

/* --------------------------------------------------------------------- files --- */

static void check_policy(struct doctor *d)
{
    const char *path = program_policy_file();
    struct stat st;

    if (!path)
        doctor_say(d, DOCTOR_OK, "policy", NULL,
                   "no file: layers lie beneath the directory of their top image, in a recorded format");
    else if (d->policy_wrong)
        doctor_say(d, DOCTOR_PROBLEM, "policy", "until it is mended nothing is opened", "%s", d->policy_wrong);
    else if (stat(path, &st) == 0 && st.st_uid != 0 && st.st_uid != geteuid())
        doctor_say(d, DOCTOR_PROBLEM, "policy", "chown it to root", "%s belongs to another user (%lu)", path,
                   (unsigned long)st.st_uid);
    else if (stat(path, &st) == 0 && st.st_mode & (S_IWGRP | S_IWOTH))
        doctor_say(d, DOCTOR_PROBLEM, "policy", "chmod go-w", "%s may be written to by others: they decide what "
                   "images may read", path);
    else
        doctor_say(d, DOCTOR_OK, "policy", NULL, "%s", path);
}

static void check_source(struct doctor *d, const struct doctor_source *s)
{
    struct stat st;

    if (!s->path && s->secrets)
        doctor_say(d, DOCTOR_PROBLEM, "remote", "write them into a file", "the command line holds secrets, and other "
                   "users may see it");
    else if (!s->path)
        doctor_say(d, DOCTOR_OK, "remote", NULL, "a rule in the command line");
    else if (s->secrets && stat(s->path, &st) == 0 && st.st_mode & (S_IRGRP | S_IROTH))
        doctor_say(d, DOCTOR_PROBLEM, "remote", "chmod go-r", "%s holds secrets, and others may read it", s->path);
    else
        doctor_say(d, DOCTOR_OK, "remote", NULL, "%s", s->path);
}

static void check_remote(struct doctor *d)
{
    size_t i;

    if (d->remote_wrong)
        doctor_say(d, DOCTOR_PROBLEM, "remote", "until it is mended nothing is opened; see qchain-remote(5)", "%s",
                   d->remote_wrong);
    else if (!d->remote_file)
        doctor_say(d, DOCTOR_OK, "remote", NULL, "no file with rules for URLs: the defaults hold");
    for (i = 0; i < d->n_sources; i++)
        check_source(d, &d->sources[i]);
}

/* --------------------------------------------------------------- credentials --- */

static bool is_set(const char *name)
{
    const char *value = getenv(name);

    return value && *value;
}

/* The file of the cloud's own tool, if it can be read. */
static bool aws_file(char *path, size_t size)
{
    const char *given = getenv("AWS_SHARED_CREDENTIALS_FILE"), *home = getenv("HOME");

    snprintf(path, size, "%s%s", given ? given : home ? home : "", given ? "" : "/.aws/credentials");
    return access(path, R_OK) == 0;
}

static void say_found(struct doctor *d, const char *kind, const char *what, const char *where)
{
    doctor_say(d, DOCTOR_OK, "credentials", NULL, "%s: %s, from %s", kind, what, where);
}

/* Both halves or none. */
static bool check_halves(struct doctor *d, const char *kind, bool id, bool secret, const char *where)
{
    if (id && secret)
        say_found(d, kind, "access key", where);
    else if (id || secret)
        doctor_say(d, DOCTOR_PROBLEM, "credentials", id ? "set the secret key, too" : "set the access key, too",
                   "%s: half a key is in %s", kind, where);
    return id || secret;
}

/* The same, of rules. */
static bool check_rules(struct doctor *d, const char *kind, int id, int secret)
{
    return check_halves(d, kind, d->from[id], d->from[secret], d->from[secret] ? d->from[secret] : d->from[id]);
}

static bool check_s3(struct doctor *d)
{
    char path[4096];

    if (d->from[S3_ANONYMOUS])
        say_found(d, "s3", "a rule on unsigned requests", d->from[S3_ANONYMOUS]);
    if (check_rules(d, "s3", S3_KEY, S3_SECRET))
        return true;
    if (check_halves(d, "s3", is_set("AWS_ACCESS_KEY_ID"), is_set("AWS_SECRET_ACCESS_KEY"), "the environment"))
        return true;
    if (aws_file(path, sizeof(path))) {
        say_found(d, "s3", is_set("AWS_PROFILE") ? "the profile of AWS_PROFILE" : "a profile", path);
        return true;
    }
    if (is_set("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") || is_set("AWS_CONTAINER_CREDENTIALS_FULL_URI")) {
        say_found(d, "s3", "the container's endpoint", "the environment");
        return true;
    }
    return d->from[S3_ANONYMOUS] != NULL;
}

static bool check_azure(struct doctor *d)
{
    const char *rule = d->from[AZURE_KEY] ? d->from[AZURE_KEY] : d->from[AZURE_SAS];
    bool set = is_set("AZURE_STORAGE_KEY") || is_set("AZURE_STORAGE_SAS_TOKEN");

    if (rule || set)
        say_found(d, "az", (rule ? d->from[AZURE_KEY] != NULL : is_set("AZURE_STORAGE_KEY")) ? "account key"
                                                                                             : "SAS token",
                  rule ? rule : "the environment");
    return rule || set;
}

static bool check_google(struct doctor *d)
{
    if (d->from[GS_TOKEN])
        say_found(d, "gs", "bearer token", d->from[GS_TOKEN]);
    else if (check_rules(d, "gs", GS_KEY, GS_SECRET))
        return true;
    else if (is_set("GOOGLE_OAUTH_ACCESS_TOKEN"))
        say_found(d, "gs", "bearer token", "the environment");
    else
        return false;
    return true;
}

static void check_credentials(struct doctor *d)
{
    bool any = check_s3(d);

    any |= check_azure(d);
    any |= check_google(d);
    if (d->from[BASIC])
        say_found(d, "http", "user and password", d->from[BASIC]);
    if (d->from[BEARER])
        say_found(d, "http", "bearer token", d->from[BEARER]);
    if (!any && !d->from[BASIC] && !d->from[BEARER])
        doctor_say(d, DOCTOR_OK, "credentials", NULL,
                   "none are set: requests are not signed, unless the instance has some");
}

/* ----------------------------------------------------------------- disk cache --- */

static void check_space(struct doctor *d, const char *dir)
{
    qchain_cache_info info = {.struct_size = sizeof(info)};
    char used[32], left[32];
    uint64_t free_bytes;
    struct statvfs fs;

    if (qchain_cache_stat(dir, &info, d->t->err) != 0) {
        doctor_say(d, DOCTOR_PROBLEM, "disk cache", "mend it, or name another directory; reads go on without it", "%s",
                   doctor_message(d));
        return;
    }
    free_bytes = statvfs(dir, &fs) == 0 ? (uint64_t)fs.f_bavail * fs.f_frsize : UINT64_MAX;
    tool_size_text(used, sizeof(used), info.bytes);
    tool_size_text(left, sizeof(left), free_bytes);
    doctor_say(d, free_bytes < LITTLE_SPACE ? DOCTOR_NOTE : DOCTOR_OK, "disk cache",
               free_bytes < LITTLE_SPACE ? "make space: qchain cache trim, or a smaller cache-size" : NULL,
               "%s: %" PRIu64 " objects, %s; %s are free", dir, info.objects, used, left);
}

/* Who makes it is who first uses it. */
static void check_cache(struct doctor *d, const char *dir)
{
    struct stat st;

    if (!dir)
        doctor_say(d, DOCTOR_OK, "disk cache", NULL, "none is set (rule cache-dir, option --cache-dir)");
    else if (stat(dir, &st) != 0 && errno == ENOENT)
        doctor_say(d, DOCTOR_NOTE, "disk cache", NULL, "%s is not there yet; the first use makes it", dir);
    else if (stat(dir, &st) != 0 || !S_ISDIR(st.st_mode))
        doctor_say(d, DOCTOR_PROBLEM, "disk cache", "name a directory", "%s: %s", dir,
                   errno && stat(dir, &st) != 0 ? strerror(errno) : "not a directory");
    else if (st.st_uid != geteuid())
        doctor_say(d, DOCTOR_PROBLEM, "disk cache", "each user needs a directory of their own",
                   "%s belongs to another user (%lu)", dir, (unsigned long)st.st_uid);
    else if (st.st_mode & (S_IWGRP | S_IWOTH))
        doctor_say(d, DOCTOR_PROBLEM, "disk cache", "chmod go-w", "%s may be written to by others: it is not used",
                   dir);
    else
        check_space(d, dir);
}

void doctor_settings(struct doctor *d)
{
    check_policy(d);
    check_remote(d);
    check_credentials(d);
    check_cache(d, d->cache_dir);
}
