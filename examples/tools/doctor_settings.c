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

void doctor_load(struct doctor *d)
{
    const char *policy = tool_policy_file();

    /* who looks does not want to wait long, unless the file says so */
    qchain_remote_parse(d->t->remote, "connect-timeout 5\ndeadline 10", NULL);
    if (policy && qchain_policy_load(d->t->policy, policy, d->t->err) != 0)
        d->policy_wrong = strdup(doctor_message(d));
    d->remote_file = tool_remote_file();
    if (d->remote_file && qchain_remote_load(d->t->remote, d->remote_file, d->t->err) != 0)
        d->remote_wrong = strdup(doctor_message(d));
}

/* --------------------------------------------------------------------- files --- */

static void check_policy(struct doctor *d)
{
    const char *path = tool_policy_file();
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

/* What the rules name, by their first words; bits of `names` that are there. The last value of cache-dir is kept. */
static unsigned scan_rules(struct doctor *d, const char *const *names, size_t n)
{
    FILE *f = d->remote_file && !d->remote_wrong ? fopen(d->remote_file, "re") : NULL;
    char *line = NULL, *word, *rest;
    unsigned found = 0;
    size_t size = 0, i;

    while (f && getline(&line, &size, f) >= 0) {
        word = strtok_r(line, " \t\r\n", &rest);
        for (i = 0; word && i < n; i++)
            found |= strcmp(word, names[i]) == 0 ? 1u << i : 0;
        if (!word || strcmp(word, "cache-dir") != 0)
            continue;
        rest += strspn(rest, " \t\"");
        rest[strcspn(rest, "\"\r\n")] = '\0';
        free(d->cache_dir);
        d->cache_dir = strdup(rest);
    }
    if (line)
        explicit_bzero(line, size);
    free(line);
    if (f)
        fclose(f);
    return found;
}

static void check_remote(struct doctor *d, bool secrets)
{
    struct stat st;

    if (!d->remote_file)
        doctor_say(d, DOCTOR_OK, "remote", NULL, "no file with rules for URLs: the defaults hold");
    else if (d->remote_wrong)
        doctor_say(d, DOCTOR_PROBLEM, "remote", "until it is mended nothing is opened; see qchain-remote(5)", "%s",
                   d->remote_wrong);
    else if (secrets && stat(d->remote_file, &st) == 0 && st.st_mode & (S_IRGRP | S_IROTH))
        doctor_say(d, DOCTOR_PROBLEM, "remote", "chmod go-r", "%s holds secrets, and others may read it",
                   d->remote_file);
    else
        doctor_say(d, DOCTOR_OK, "remote", NULL, "%s", d->remote_file);
}

/* --------------------------------------------------------------- credentials --- */

/* In the order of `rules` below. */
enum { S3_KEY, S3_SECRET, S3_PROFILE, S3_ANONYMOUS, AZURE_KEY, AZURE_SAS, GS_KEY, GS_SECRET, GS_TOKEN, BASIC, BEARER };

static const char *const rules[] = {"s3-access-key", "s3-secret-key", "s3-profile", "s3-anonymous",
                                    "azure-key", "azure-sas", "gs-access-key", "gs-secret-key", "gs-token",
                                    "basic", "bearer"};

/* Those that are no secrets themselves. */
#define HARMLESS (1u << S3_KEY | 1u << S3_PROFILE | 1u << S3_ANONYMOUS | 1u << GS_KEY)

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

static bool check_s3(struct doctor *d, unsigned found)
{
    char path[4096];

    if (found & 1u << S3_ANONYMOUS)
        say_found(d, "s3", "a rule on unsigned requests", d->remote_file);
    if (check_halves(d, "s3", found & 1u << S3_KEY, found & 1u << S3_SECRET, d->remote_file))
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
    return (found & 1u << S3_ANONYMOUS) != 0;
}

static bool check_azure(struct doctor *d, unsigned found)
{
    bool rule = found & (1u << AZURE_KEY | 1u << AZURE_SAS);
    bool set = is_set("AZURE_STORAGE_KEY") || is_set("AZURE_STORAGE_SAS_TOKEN");

    if (rule || set)
        say_found(d, "az", (rule ? found & 1u << AZURE_KEY : is_set("AZURE_STORAGE_KEY")) ? "account key" : "SAS token",
                  rule ? d->remote_file : "the environment");
    return rule || set;
}

static bool check_google(struct doctor *d, unsigned found)
{
    if (found & 1u << GS_TOKEN)
        say_found(d, "gs", "bearer token", d->remote_file);
    else if (check_halves(d, "gs", found & 1u << GS_KEY, found & 1u << GS_SECRET, d->remote_file))
        return true;
    else if (is_set("GOOGLE_OAUTH_ACCESS_TOKEN"))
        say_found(d, "gs", "bearer token", "the environment");
    else
        return false;
    return true;
}

static void check_credentials(struct doctor *d, unsigned found)
{
    bool any = check_s3(d, found);

    any |= check_azure(d, found);
    any |= check_google(d, found);
    if (found & 1u << BASIC)
        say_found(d, "http", "user and password", d->remote_file);
    if (found & 1u << BEARER)
        say_found(d, "http", "bearer token", d->remote_file);
    if (!any && !(found & (1u << BASIC | 1u << BEARER)))
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
    unsigned found = scan_rules(d, rules, sizeof(rules) / sizeof(rules[0]));

    check_policy(d);
    check_remote(d, (found & ~HARMLESS) != 0);
    check_credentials(d, found);
    check_cache(d, d->t->cache_dir ? d->t->cache_dir : d->cache_dir);
}
