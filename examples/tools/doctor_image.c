/* SPDX-License-Identifier: MIT */
/* doctor_image.c - one image: may it be opened, with all that is below it, and what is not as it should be. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "doctor.h"

/* From so many layers on a sidecar index is worth having. */
#define MANY_LAYERS 16
/* Clocks that differ by so much do not differ by chance. */
#define SKEW_NS (UINT64_C(60) * 1000000000)

static bool local(struct doctor *d, const char *name)
{
    return !d->t->image_opts && !program_is_url(name) && strncmp(name, "json:", 5) != 0;
}

static const char *path_of(const char *name)
{
    return strncmp(name, "file:", 5) == 0 ? name + 5 : name;
}

static void check_permissions(struct doctor *d, const char *name)
{
    const char *path = path_of(name);

    if (access(path, R_OK) != 0)
        doctor_say(d, DOCTOR_PROBLEM, "permissions", NULL, "%s: %s", path, strerror(errno));
    else if (access(path, W_OK) != 0)
        doctor_say(d, DOCTOR_NOTE, "permissions", NULL, "may be read, not written to: %s", strerror(errno));
    else
        doctor_say(d, DOCTOR_OK, "permissions", NULL, "may be read and written to");
}

/* What the image says of its own state. */
static void check_state(struct doctor *d, const qchain_image_info *i)
{
    uint32_t n;

    if (i->version == 0 && !d->t->format && !d->t->image_opts)
        doctor_say(d, DOCTOR_NOTE, "format", "name the format, as anyone who writes to the disk can write a header: "
                   "-f raw", "taken as raw, as it looks like nothing else");
    else
        doctor_say(d, DOCTOR_OK, "format", NULL, "%s, %" PRIu64 " bytes", i->format, i->virtual_size);
    if (i->flags & QCHAIN_IMAGE_CORRUPT)
        doctor_say(d, DOCTOR_PROBLEM, "state", "qchain check -r all", "a writer found damage, and marked it corrupt");
    else if (i->flags & QCHAIN_IMAGE_DIRTY)
        doctor_say(d, DOCTOR_NOTE, "state", "qchain check -r leaks, or open it for writing once",
                   "not closed properly, or just being written");
    if (i->flags & QCHAIN_IMAGE_ENCRYPTED)
        doctor_say(d, DOCTOR_PROBLEM, "state", "qemu-img convert reads it, given its key", "it is encrypted");
    for (n = 0; n < i->n_bitmaps; n++)
        if (i->bitmaps[n].flags & QCHAIN_BITMAP_IN_USE)
            doctor_say(d, DOCTOR_NOTE, "bitmaps", "unless a program has the image open: qchain bitmap --remove",
                       "'%s' was not saved: nobody can rely on it", i->bitmaps[n].name);
}

static const char *advice_for(int r, bool layer_missing)
{
    switch (r) {
    case QCHAIN_E_LOCKED:
        return "end the program that writes to it, or read it as it is just now: -U";
    case QCHAIN_E_AUTH:
        return "set credentials: see qchain-remote(5)";
    case QCHAIN_E_NOTFOUND:
        return layer_missing ? "bring the file back; or, if the layer was moved, record its name: qchain rebase -u"
                             : "bring the file back";
    case QCHAIN_E_CORRUPT:
        return "qchain check tells what is damaged";
    case QCHAIN_E_NET:
    case QCHAIN_E_TIMEOUT:
        return "look at the name, the network and the rule proxy of qchain-remote(5)";
    default:
        return NULL;
    }
}

/* The library's message in its own words; what it names is the layer that is in the way. */
static void say_failure(struct doctor *d, const char *check, const char *name, int r)
{
    int64_t layer = d->t->err ? qchain_error_layer(d->t->err) : -1;
    bool missing = r == QCHAIN_E_NOTFOUND && layer > 0 && tool_layer_missing(d->t, name, layer);

    doctor_say(d, DOCTOR_PROBLEM, r == QCHAIN_E_LOCKED ? "locks" : check, advice_for(r, missing), "%s",
               doctor_message(d));
}

static void check_index(struct doctor *d, const char *name, uint32_t layers)
{
    qchain_index_info *info = NULL;
    qchain_open_opts o;
    char *owned;
    int r;

    if (tool_prepare_open(d->t, &name, 0, &o, &owned) != 0)
        return;
    r = qchain_index_inspect(&info, d->t->env, name, &o, d->t->err);
    free(owned);
    if (r == QCHAIN_E_NOTFOUND)
        doctor_say(d, layers >= MANY_LAYERS ? DOCTOR_NOTE : DOCTOR_OK, "index",
                   layers >= MANY_LAYERS ? "qchain index build makes it open at once" : NULL,
                   "no sidecar index of its own");
    else if (r)
        doctor_say(d, DOCTOR_PROBLEM, "index", "qchain index build, or drop; it is opened without it", "%s",
                   doctor_message(d));
    else if (info->why_not)
        doctor_say(d, DOCTOR_NOTE, "index", "qchain index build", "%s is not believed: %s", info->name, info->why_not);
    else
        doctor_say(d, DOCTOR_OK, "index", NULL, "%s is used", info->name);
    qchain_index_info_free(info);
}

/* An object of the future was stamped by a clock that is ahead of ours. */
static void check_skew(struct doctor *d, const qchain_source_info *s)
{
    struct timespec now;
    uint64_t ns;

    clock_gettime(CLOCK_REALTIME, &now);
    ns = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
    if (s->mtime_ns > ns && s->mtime_ns - ns > SKEW_NS)
        doctor_say(d, DOCTOR_PROBLEM, "server clock", "set this machine's clock right, or the server's",
                   "the object will be changed in %" PRIu64 " seconds, by the clock here",
                   (s->mtime_ns - ns) / 1000000000);
}

static void check_requests(struct doctor *d)
{
    qchain_remote_stats s = {.struct_size = sizeof(s)};

    if (qchain_env_remote_stats(d->t->env, &s) != 0 || s.requests == 0)
        return;
    doctor_say(d, s.retries ? DOCTOR_NOTE : DOCTOR_OK, "requests", NULL,
               "%" PRIu64 ", %" PRIu64 " of them again; first byte after %" PRIu64 " ms", s.requests, s.retries,
               s.first_byte_p50_us / 1000);
}

static void check_chain(struct doctor *d, const char *name)
{
    qchain_source_info s = {.struct_size = sizeof(s)};
    uint32_t layers = 0;
    const char *opened = name;
    qchain_open_opts o;
    char *owned;
    qchain *c;
    int r;

    if (tool_prepare_open(d->t, &opened, 0, &o, &owned) != 0)
        return;
    r = qchain_open(&c, d->t->env, opened, &o, d->t->err);
    if (r) {
        say_failure(d, "chain", opened, r);
    } else {
        layers = qchain_layers(c);
        doctor_say(d, DOCTOR_OK, "chain", NULL, "%" PRIu32 " layer%s, all may be opened; %" PRIu32
                   " known from a sidecar index", layers, layers == 1 ? "" : "s", qchain_index_layers(c));
        doctor_say(d, DOCTOR_OK, "locks", NULL, "%s", d->t->force_share ? "not looked at (-U)" : "no program writes to it");
        if (qchain_source_stat(c, 0, &s, d->t->err) == 0 && s.flags & QCHAIN_SOURCE_REMOTE)
            check_skew(d, &s);
        qchain_close(c);
    }
    free(owned);
    check_index(d, name, layers);
}

void doctor_image(struct doctor *d, const char *name)
{
    qchain_image_info *info;
    qchain_open_opts o;
    const char *opened = name;
    char *owned;
    int r;

    doctor_say(d, DOCTOR_OK, "image", NULL, "%s", tool_shown_name(d->t, name));
    if (local(d, name))
        check_permissions(d, name);
    if (d->policy_wrong || d->remote_wrong) {
        doctor_say(d, DOCTOR_PROBLEM, "chain", "mend the rules first", "not opened: what may be opened is not known");
        return;
    }
    if (tool_prepare_open(d->t, &opened, 0, &o, &owned) != 0) {
        d->problems++;
        return;
    }
    r = qchain_inspect(&info, d->t->env, opened, &o, d->t->err);
    if (r)
        say_failure(d, "image", opened, r);
    free(owned);
    if (r) {
        check_requests(d);
        return;
    }
    check_state(d, info);
    qchain_image_info_free(info);
    check_chain(d, name);
    check_requests(d);
}
