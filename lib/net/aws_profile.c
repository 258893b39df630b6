/* SPDX-License-Identifier: MIT */
#include "net/aws_profile.h"

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "net/config_int.h"
#include "util/alloc.h"
#include "util/error.h"
#include "util/escape.h"

/* -------------------------------------------------------------------- files --- */

static int read_open(int fd, char **out, const char *path, qchain_error *err)
{
    struct qc_escaped e;
    struct stat st;
    size_t n = 0;
    ssize_t got;
    char *buf;

    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        return qc_fail(err, QCHAIN_E_AUTH, "'%s' is not a regular file", qc_escape_str(&e, path));
    if (st.st_size > (off_t)QC_AWS_FILE_MAX)
        return qc_fail(err, QCHAIN_E_AUTH, "'%s' is larger than 1 MiB", qc_escape_str(&e, path));
    buf = qc_malloc((size_t)st.st_size + 1);
    if (!buf)
        return qc_fail_nomem(err);
    while (n < (size_t)st.st_size) {
        got = read(fd, buf + n, (size_t)st.st_size - n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        n += (size_t)got;
    }
    buf[n] = '\0';
    *out = buf;
    return 0;
}

int qc_aws_file_read(char **out, const char *path, qchain_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY), ret;
    struct qc_escaped e;
    char reason[128];

    *out = NULL;
    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR))
        return 0;
    if (fd < 0)
        return qc_fail(err, QCHAIN_E_AUTH, "'%s' cannot be read: %s", qc_escape_str(&e, path),
                       strerror_r(errno, reason, sizeof(reason)));
    ret = read_open(fd, out, path, err);
    close(fd);
    return ret;
}

/* The file that a variable names, or else one beneath the home directory. *out NULL: nowhere. */
static int find_path(char **out, const char *variable, const char *beneath)
{
    const char *path = getenv(variable), *home = getenv("HOME");
    struct passwd pw, *found = NULL;
    char buf[4096];

    *out = NULL;
    if (path && *path) {
        *out = qc_strdup(path);
        return *out ? 0 : QCHAIN_E_NOMEM;
    }
    if ((!home || !*home) && getpwuid_r(getuid(), &pw, buf, sizeof(buf), &found) == 0 && found)
        home = pw.pw_dir;
    if (!home || !*home)
        return 0;
    *out = qc_asprintf("%s/%s", home, beneath);
    return *out ? 0 : QCHAIN_E_NOMEM;
}

/* ------------------------------------------------------------------ parsing --- */

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

/* s without blanks at its ends, in place. */
static char *trim(char *s)
{
    size_t n;

    while (is_blank(*s))
        s++;
    n = strlen(s);
    while (n && is_blank(s[n - 1]))
        n--;
    s[n] = '\0';
    return s;
}

/* "[name]"; in the config file "[profile name]", and "[default]". */
static bool is_section(char *line, const char *name, bool config)
{
    char *end = strchr(line, ']'), *s;

    if (!end)
        return false;
    *end = '\0';
    s = trim(line + 1);
    if (config && strncmp(s, "profile", 7) == 0 && is_blank(s[7])) {
        s = trim(s + 7);
        return strcmp(s, name) == 0;
    }
    return strcmp(s, name) == 0 && (!config || strcmp(name, "default") == 0);
}

/* The first file that says it goes. */
static int set(char **field, const char *value)
{
    if (*field || !*value)
        return 0;
    *field = qc_strdup(value);
    return *field ? 0 : QCHAIN_E_NOMEM;
}

static int set_key(struct qc_aws_profile *p, const char *key, const char *value)
{
    static const char *const not_done[] = {"credential_process", "sso_session", "sso_start_url",
                                           "role_arn", "source_profile", "web_identity_token_file"};

    for (size_t i = 0; i < sizeof(not_done) / sizeof(not_done[0]); i++)
        if (strcasecmp(key, not_done[i]) == 0 && !p->other)
            p->other = not_done[i];
    if (strcasecmp(key, "aws_access_key_id") == 0)
        return set(&p->access_key, value);
    if (strcasecmp(key, "aws_secret_access_key") == 0)
        return set(&p->secret_key, value);
    if (strcasecmp(key, "aws_session_token") == 0)
        return set(&p->session_token, value);
    if (strcasecmp(key, "region") == 0)
        return set(&p->region, value);
    if (strcasecmp(key, "endpoint_url") == 0)
        return set(&p->endpoint, value);
    return 0;
}

/* Text is changed. Indented lines belong to a setting of several lines, none of ours. */
static int parse(struct qc_aws_profile *p, char *text, bool config)
{
    bool ours = false;
    int ret = 0;

    for (char *line = text, *next; line && ret == 0; line = next) {
        char *value;

        next = strchr(line, '\n');
        if (next)
            *next++ = '\0';
        if (is_blank(*line) || *line == '\0' || *line == '#' || *line == ';')
            continue;
        if (*line == '[') {
            ours = is_section(line, p->name, config);
            p->found = p->found || ours;
            continue;
        }
        value = ours ? strchr(line, '=') : NULL;
        if (!value)
            continue;
        *value++ = '\0';
        for (char *c = value; *c; c++) /* " # comment"; in values of ours it is nothing else */
            if ((*c == '#' || *c == ';') && c > value && is_blank(c[-1]))
                *c-- = '\0';
        ret = set_key(p, trim(line), trim(value));
    }
    return ret;
}

/* A pair is from one file: its halves are not mixed. */
static void drop_half(struct qc_aws_profile *p)
{
    if (p->access_key && p->secret_key)
        return;
    qc_conf_wipe(p->access_key);
    qc_conf_wipe(p->secret_key);
    qc_conf_wipe(p->session_token);
    p->access_key = p->secret_key = p->session_token = NULL;
}

static int read_one(struct qc_aws_profile *p, const char *variable, const char *beneath, bool config,
                    qchain_error *err)
{
    struct qc_aws_profile in = {.name = p->name};
    char *path = NULL, *text = NULL;
    int ret = find_path(&path, variable, beneath);

    if (ret == 0 && path)
        ret = qc_aws_file_read(&text, path, err);
    if (ret == 0 && text) {
        ret = parse(&in, text, config);
        drop_half(&in);
        p->found = p->found || in.found;
        p->other = p->other ? p->other : in.other;
        if (!p->access_key && in.access_key) {
            p->access_key = in.access_key;
            p->secret_key = in.secret_key;
            p->session_token = in.session_token;
            in.access_key = in.secret_key = in.session_token = NULL;
        }
        if (!p->region) {
            p->region = in.region;
            in.region = NULL;
        }
        if (!p->endpoint) {
            p->endpoint = in.endpoint;
            in.endpoint = NULL;
        }
    }
    in.name = NULL;
    qc_aws_profile_finish(&in);
    qc_conf_wipe(text);
    qc_free(path);
    return ret == QCHAIN_E_NOMEM ? qc_fail_nomem(err) : ret;
}

int qc_aws_profile_read(struct qc_aws_profile *p, const char *name, qchain_error *err)
{
    const char *env = getenv("AWS_PROFILE");
    int ret;

    memset(p, 0, sizeof(*p));
    p->name = qc_strdup(name ? name : env && *env ? env : "default");
    if (!p->name)
        return qc_fail_nomem(err);
    ret = read_one(p, "AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials", false, err);
    if (ret == 0)
        ret = read_one(p, "AWS_CONFIG_FILE", ".aws/config", true, err);
    if (ret)
        qc_aws_profile_finish(p);
    return ret;
}

void qc_aws_profile_finish(struct qc_aws_profile *p)
{
    qc_free(p->name);
    qc_conf_wipe(p->access_key);
    qc_conf_wipe(p->secret_key);
    qc_conf_wipe(p->session_token);
    qc_free(p->region);
    qc_free(p->endpoint);
    memset(p, 0, sizeof(*p));
}
