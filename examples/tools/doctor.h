/* SPDX-License-Identifier: MIT */
/* doctor.h - what the files of `qchain doctor` share. Each thing that is looked at becomes one line. */
#ifndef QCHAIN_TOOL_DOCTOR_H
#define QCHAIN_TOOL_DOCTOR_H

#include "tool.h"

enum doctor_result { DOCTOR_OK, DOCTOR_NOTE, DOCTOR_PROBLEM };

#define DOCTOR_RULES 11 /* on credentials */

/* Where rules for URLs come from. */
struct doctor_source {
    const char *path; /* NULL: the command line */
    bool secrets;     /* it has some */
};

struct doctor {
    struct tool *t;
    struct tool_out out;
    struct tool_json j;
    bool terminal;
    bool colour;
    unsigned problems;
    char *remote_file;   /* the rules for URLs that are in force, or NULL */
    char *remote_wrong;  /* what is wrong with them, or NULL */
    char *policy_wrong;
    char *cache_dir;     /* that is named last, or NULL */
    qchain_remote *harmless; /* the rules that are in force, but for those on what is written to */
    struct doctor_source *sources;
    size_t n_sources;
    const char *from[DOCTOR_RULES]; /* where each comes from, or NULL */
};

/* One line: what was looked at, what was found, and what to do about it (NULL: nothing). */
void doctor_say(struct doctor *d, enum doctor_result r, const char *check, const char *advice, const char *format,
                ...) __attribute__((format(printf, 5, 6)));
/* The library's last message. */
const char *doctor_message(const struct doctor *d);

/* ---- doctor_host.c ---- */

void doctor_host(struct doctor *d);

/* ---- doctor_settings.c ---- */

/* Read the policy and the rules for URLs, before options add to them; 0, or -1 after a complaint. What it keeps is to
 * be freed. */
int doctor_load(struct doctor *d);
void doctor_unload(struct doctor *d);
void doctor_settings(struct doctor *d);

/* ---- doctor_image.c ---- */

void doctor_image(struct doctor *d, const char *name);

#endif
