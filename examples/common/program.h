/* SPDX-License-Identifier: MIT */
/*
 * program.h - what the tools and the plugin for nbdkit have in common, and other programs over <qchain.h> may want, too:
 * where settings are, words for flags, names that are URLs, an errno for an error.
 */
#ifndef QCHAIN_PROGRAM_H
#define QCHAIN_PROGRAM_H

#include <stdbool.h>
#include <stdint.h>

#include <qchain.h>

#define PROGRAM_MAX_FILES 65536

/* The file with rules of what images may refer to that is in force; NULL: none. */
const char *program_policy_file(void);
/* The file with rules of how URLs are reached that is in force, to be freed; NULL: none. */
char *program_remote_file(void);
/* A directory as the rule that makes it the disk cache, to be freed; NULL without memory. */
char *program_cache_rule(const char *dir);
/* Does a name (no list of options) lie behind a URL? */
bool program_is_url(const char *name);
/* Is it the name of a cache mode? Then the QCHAIN_OPEN_* that it stands for are set in *flags, the other modes' cleared. */
bool program_set_cache(const char *mode, uint32_t *flags);
/* Ask for as many descriptors as deep chains want; without them the library closes and opens. */
void program_raise_file_limit(void);
/* The errno that says best what a QCHAIN_E_* does; 0 for QCHAIN_OK. */
int program_errno(int code);

#endif
