/* SPDX-License-Identifier: MIT */
/* tool_overlay.c - a local image that stands on one behind a URL. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tool.h"

bool tool_allow_beside(struct tool *t, const char *url)
{
    size_t length = strcspn(url, "?#");
    char *directory;
    int r;

    while (length > 0 && url[length - 1] != '/')
        length--;
    directory = strndup(url, length);
    if (!directory) {
        tool_complain(t, "out of memory");
        return false;
    }
    r = qchain_policy_allow_url(t->policy, directory, t->err);
    free(directory);
    if (r)
        tool_complain_error(t);
    return r == 0;
}

/* With clusters as the image behind the URL has them, so that what shows there comes over as it is. */
static int make(struct tool *t, const char *name, const char *url)
{
    qchain_image_info *i;
    qchain_create_opts o;
    int r;

    if (tool_inspect(t, url, &i) != 0)
        return -1;
    qchain_create_opts_init(&o, sizeof(o));
    o.flags = QCHAIN_CREATE_KEEP;
    o.size = UINT64_MAX;
    o.backing_file = url;
    o.backing_format = i->format;
    o.cluster_size = i->cluster_size;
    o.compression = i->compression;
    o.policy = t->policy;
    r = qchain_create(t->env, name, &o, t->err);
    qchain_image_info_free(i);
    if (r == 0 || r == QCHAIN_E_EXISTS) /* by now: another process made it */
        return 0;
    tool_complain_error(t);
    return -1;
}

/* Said before it is opened as qcow2, of what was never an overlay: it shall not be taken for one that is damaged. What
 * cannot be looked at opening tells. */
static bool may_be_overlay(struct tool *t, const char *name)
{
    qchain_image_info *i = NULL;
    qchain_open_opts o;
    bool may;

    qchain_open_opts_init(&o, sizeof(o));
    o.flags = QCHAIN_OPEN_FORCE_SHARE; /* the lock, too, is for opening */
    may = qchain_inspect(&i, t->env, name, &o, NULL) != 0 || strcmp(i->format, "qcow2") == 0;
    if (!may)
        tool_complain(t, "%s: it is there, and is no qcow2 image: name another file, or none that exists", name);
    qchain_image_info_free(i);
    return may;
}

static bool stands_on(struct tool *t, qchain *c, const char *name, const char *url)
{
    qchain_image_info *i;
    bool right;

    if (qchain_layer_info(&i, c, 0, t->err) != 0) {
        tool_complain_error(t);
        return false;
    }
    right = i->backing_name_raw && strcmp(i->backing_name_raw, url) == 0;
    if (!right)
        tool_complain(t, "%s: its backing file is not '%s': name another file, or none that exists", name,
                      tool_shown_name(t, url));
    qchain_image_info_free(i);
    return right;
}

int tool_open_overlay(struct tool *t, const char *name, const char *url, qchain **out)
{
    const char *format = t->format;
    struct stat there;
    int r;

    if (stat(name, &there) != 0 && errno != ENOENT) {
        tool_complain(t, "Could not look at '%s': %s", name, strerror(errno));
        return -1;
    }
    if (stat(name, &there) == 0 ? !may_be_overlay(t, name) : make(t, name, url) != 0)
        return -1;
    t->format = "qcow2";
    r = tool_open_writable(t, name, 0, out);
    t->format = format;
    if (r != 0)
        return -1;
    if (stands_on(t, *out, name, url))
        return 0;
    qchain_close(*out);
    *out = NULL;
    return -1;
}
