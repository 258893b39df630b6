/* SPDX-License-Identifier: MIT */
/* Writing, checking, describing and removing sidecar indexes; see <qchain.h>. */
#ifndef QC_OPS_INDEX_BUILD_H
#define QC_OPS_INDEX_BUILD_H

#include <qchain.h>

struct qc_runs;

/* Arguments are checked already; err is not NULL. */
int qc_index_build(qchain *c, const qchain_index_opts *opts, qchain_error *err);
int qc_index_verify(qchain *c, const qchain_index_opts *opts, qchain_error *err);
/* Where the sidecar of an open chain is, or is to be: name, a path or a URL, if it is not NULL, else
 * beside the top. To be freed. UNSUPPORTED, INVAL (beside a presigned URL is no place), NOMEM. */
int qc_index_place(char **path, const qchain *c, const char *name, qchain_error *err);
/* Beside an image behind a URL, which is not looked at. */
int qc_index_place_of(char **path, qchain_env *env, const char *url, qchain_error *err);
/* Is the object a sidecar, or empty? INVAL if it is anything else; NOTFOUND. */
int qc_index_check_object(qchain_env *env, const char *url, qchain_error *err);
/* path: the sidecar, a file or a URL. */
int qc_index_drop(qchain_env *env, const char *path, qchain_error *err);
/* info: zeroed; freed by the caller also after an error. image: its name. */
int qc_index_inspect(qchain_index_info *info, qchain_env *env, const char *image,
                     const qchain_open_opts *opts, qchain_error *err);
void qc_index_info_finish(qchain_index_info *info);

/* The runs of stretches of the disk, several at a time on several threads. */
struct qc_walk {
    qchain         *c;
    unsigned        width;     /* threads */
    uint64_t        at, end;   /* what is left to walk */
    uint64_t        piece;     /* bytes of disk a stretch: a multiple of 128 MiB */
    uint64_t        start;     /* of the first stretch of the batch */
    unsigned        n;         /* stretches in it */
    struct qc_runs *runs;      /* one list a stretch, joined */
    qchain_error   *errs;
};

int  qc_walk_init(struct qc_walk *w, qchain *c, unsigned threads, qchain_error *err);
void qc_walk_finish(struct qc_walk *w);
/* Walk on over [w->at, w->end), both multiples of 128 MiB or the disk's end: w->n stretches,
 * none if all is walked. Where no layer holds anything a stretch may be longer than w->piece,
 * and is then the only one. */
int  qc_walk_next(struct qc_walk *w, qchain_error *err);
/* Where stretch i of the batch lies. */
void qc_walk_range(const struct qc_walk *w, unsigned i, uint64_t *start, uint64_t *end);

#endif
