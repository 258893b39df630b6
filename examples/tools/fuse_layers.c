/* SPDX-License-Identifier: MIT */
/*
 * fuse_layers.c - the files of a chain, under the names by which they refer to each other.
 *
 * A file that is referred to by a relative name lies where that name leads to in the mount, so that whoever
 * opens the top there finds all others. One whose name leads elsewhere (an absolute path, a URL, "..") lies at
 * the root under its base name; one whose place is taken has its layer's number in front of its name.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuse_view.h"

#define MAX_DEPTH 16 /* of directories: images may name any number */

/* Is it a name that is looked for beside the file that has it? As QEMU sees it "x:y" is none. */
static bool is_relative(const char *name)
{
    size_t n = strcspn(name, ":/");

    return name[0] != '\0' && name[0] != '/' && name[n] != ':';
}

/* Walk a name that stays inside from a directory on, making what is missing; the place of the last component's
 * directory, and *last, *length: it. -1 if it is none of a file, -2 without memory. */
static int64_t walk(struct fuse_view *v, uint32_t dir, const char *name, const char **last, size_t *length)
{
    int64_t at = dir;
    char part[NAME_MAX + 1];

    for (;; name += *length + 1) {
        *length = strcspn(name, "/");
        *last = name;
        if (name[*length] == '\0')
            break;
        if (*length == 0 || (*length == 1 && name[0] == '.'))
            continue;
        if (*length == 2 && name[0] == '.' && name[1] == '.') {
            at = v->node[at].parent;
            continue;
        }
        memcpy(part, name, *length);
        part[*length] = '\0';
        dir = (uint32_t)at;
        at = fuse_tree_find(v, dir, name, *length);
        if (at < 0)
            at = fuse_tree_add(v, dir, part, NODE_DIR);
        if (at < 0)
            return -2;
        if (v->node[at].source != NODE_DIR)
            return -1;
    }
    if (*length == 0 || strcmp(*last, ".") == 0 || strcmp(*last, "..") == 0)
        return -1;
    return at;
}

/* Does a name lead to a place in the mount, and not too deep? Directories are not made for others. */
static bool stays_inside(const struct fuse_view *v, uint32_t dir, const char *name)
{
    uint32_t depth = 0;
    size_t n;

    for (; dir != 0; dir = v->node[dir].parent)
        depth++;
    for (;; name += n + 1) {
        n = strcspn(name, "/");
        if (n > NAME_MAX)
            return false;
        if (name[n] == '\0')
            return true;
        if (n == 2 && name[0] == '.' && name[1] == '.') {
            if (depth-- == 0)
                return false;
        } else if (n > 0 && !(n == 1 && name[0] == '.') && ++depth > MAX_DEPTH) {
            return false;
        }
    }
}

/* At the root under its base name, with numbers in front as long as there is such a file. */
static int64_t place_flat(struct fuse_view *v, const char *name, uint32_t layer, uint32_t source)
{
    char base[NAME_MAX + 1], tried[NAME_MAX + 16];
    size_t n;
    const char *from = fuse_base_name(name, &n);

    if (n == 0 || n > NAME_MAX - 12 || strncmp(name, "json:", 5) == 0 || memcmp(from, "..", n < 2 ? n : 2) == 0)
        snprintf(base, sizeof(base), "layer");
    else
        snprintf(base, sizeof(base), "%.*s", (int)n, from);
    snprintf(tried, sizeof(tried), "%s", base);
    for (; fuse_tree_find(v, 0, tried, strlen(tried)) >= 0; layer++)
        snprintf(tried, sizeof(tried), "%u-%s", layer, base);
    return fuse_tree_add(v, 0, tried, source);
}

/* Find a place for a file to which the file at `from` refers as `recorded` (NULL: it is the top). -1 without
 * memory. */
static int64_t place(struct fuse_view *v, int64_t from, const char *recorded, uint32_t layer, uint32_t source)
{
    const char *name = qchain_source_name(v->c, source), *last;
    char part[NAME_MAX + 1];
    size_t n;
    int64_t dir = -1;
    uint32_t beside = recorded ? v->node[from].parent : 0;

    if (recorded && is_relative(recorded) && stays_inside(v, beside, recorded))
        dir = walk(v, beside, recorded, &last, &n);
    if (dir == -2)
        return -1;
    if (dir >= 0 && fuse_tree_find(v, (uint32_t)dir, last, n) < 0) {
        snprintf(part, sizeof(part), "%.*s", (int)n, last);
        return fuse_tree_add(v, (uint32_t)dir, part, source);
    }
    dir = place_flat(v, name, layer, source);
    if (dir >= 0 && recorded)
        fprintf(stderr, "%s: layer #%u is '%s' in the mount: '%s' leads elsewhere\n", v->t->prog, layer,
                v->node[dir].name, name);
    return dir;
}

static void describe(struct fuse_view *v, int64_t at, const qchain_source_info *s)
{
    struct fuse_node *n = &v->node[at];

    n->size = s->size;
    n->blocks = (s->allocated_size + 511) / 512;
    n->mtime_ns = s->mtime_ns;
    v->far = v->far || s->flags & QCHAIN_SOURCE_REMOTE;
}

/* Add all files of a layer, to which the file at *from refers as *recorded; both become those of the layer
 * below. *source: the number of its first file. 0, or -1 after a complaint. */
static int add_layer(struct fuse_view *v, uint32_t layer, uint32_t *source, int64_t *from, char **recorded)
{
    qchain_source_info s = {.struct_size = sizeof(s)};
    qchain_image_info *info = NULL;
    int64_t at = -1;
    const char *as = *recorded;
    int ret = -1;

    if (qchain_layer_info(&info, v->c, layer, v->t->err) != 0)
        goto out;
    for (; qchain_source_name(v->c, *source); (*source)++) {
        int64_t new_node;

        if (qchain_source_stat(v->c, *source, &s, v->t->err) != 0)
            goto out;
        if (s.layer != layer)
            break;
        if (s.flags & QCHAIN_SOURCE_DATA_FILE)
            new_node = place(v, at, at < 0 ? NULL : info->data_file_raw ? info->data_file_raw : "", layer, *source);
        else
            at = new_node = place(v, *from, as, layer, *source);
        if (new_node < 0) {
            tool_complain(v->t, "out of memory");
            qchain_image_info_free(info);
            return -1;
        }
        describe(v, new_node, &s);
    }
    free(*recorded);
    *recorded = strdup(info->backing_name_raw ? info->backing_name_raw : "");
    *from = at;
    ret = *recorded && at >= 0 ? 0 : -1;
    if (ret != 0)
        tool_complain(v->t, "out of memory");
    qchain_image_info_free(info);
    return ret;

out:
    tool_complain_error(v->t);
    qchain_image_info_free(info);
    return -1;
}

int fuse_layers_make(struct fuse_view *v)
{
    uint32_t layer, source = 0, layers = qchain_layers(v->c);
    char *recorded = NULL;
    int64_t from = 0;
    int ret = 0;

    if (fuse_tree_add(v, 0, "", NODE_DIR) < 0) {
        tool_complain(v->t, "out of memory");
        return -1;
    }
    for (layer = 0; layer < layers && ret == 0; layer++)
        ret = add_layer(v, layer, &source, &from, &recorded);
    free(recorded);
    if (ret == 0)
        v->node[0].mtime_ns = v->node[1].mtime_ns;
    return ret;
}
