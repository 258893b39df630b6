/* SPDX-License-Identifier: MIT */
/* What object a name was last seen to lead to: a small file for each place and scope. */
#include "remote/disk_int.h"

#include <fcntl.h>
#include <unistd.h>

#include "util/crc32c.h"

#define VERSION 1
#define REFRESH_S 60

struct record {
    char     magic[8];
    uint32_t version;
    uint32_t crc;     /* of what follows */
    uint8_t  digest[QC_DISK_DIGEST];
    uint64_t noted;   /* seconds since the epoch */
    uint64_t size, mtime_s;
    char     etag[128];
    char     object_version[128];
};

static uint32_t record_crc(const struct record *r)
{
    return qc_crc32c(0, r->digest, sizeof(*r) - offsetof(struct record, digest));
}

/* A checksum is no seal: an object could be so. */
static bool is_possible(const struct record *r)
{
    return r->size <= INT64_MAX && !r->etag[sizeof(r->etag) - 1] &&
           !r->object_version[sizeof(r->object_version) - 1] && qc_pin_is_text(r->etag) &&
           qc_pin_is_text(r->object_version);
}

static bool read_record(int dir, const char *name, const uint8_t digest[QC_DISK_DIGEST],
                        struct record *r)
{
    struct stat st;
    int fd = qc_disk_openat(dir, name, O_RDONLY, &st);
    ssize_t n;

    if (fd < 0)
        return false;
    n = pread(fd, r, sizeof(*r), 0);
    close(fd);
    return n == (ssize_t)sizeof(*r) && memcmp(r->magic, "qchain-n", sizeof(r->magic)) == 0 &&
           r->version == VERSION && r->crc == record_crc(r) &&
           memcmp(r->digest, digest, QC_DISK_DIGEST) == 0 && is_possible(r);
}

bool qc_disk_record_ok(int dir, const char *name)
{
    uint8_t digest[QC_DISK_DIGEST];
    struct record r;

    return qc_disk_parse_name(name, ".name", digest) && read_record(dir, name, digest, &r);
}

static void pin_of(struct qc_pin *pin, const struct record *r)
{
    pin->size = r->size;
    pin->mtime_s = r->mtime_s;
    memcpy(pin->etag, r->etag, sizeof(pin->etag));
    memcpy(pin->version, r->object_version, sizeof(pin->version));
}

int qc_disk_find_pin(struct qc_disk *d, const char *key, const char *scope, uint32_t max_age_s,
                     struct qc_pin *pin)
{
    uint8_t digest[QC_DISK_DIGEST];
    uint64_t now = qc_disk_now();
    char name[QC_DISK_NAME];
    struct record r;

    atomic_store(&d->max_age, max_age_s);
    if (d->fd < 0 || max_age_s == 0)
        return QCHAIN_E_NOTFOUND;
    qc_disk_digest(digest, "name 1", key, scope, NULL);
    qc_disk_file_name(name, digest, ".name");
    /* A record of times to come says nothing of how old it is. */
    if (!read_record(d->fd, name, digest, &r) || r.noted > now || now - r.noted > max_age_s)
        return QCHAIN_E_NOTFOUND;
    pin_of(pin, &r);
    return 0;
}

/* Would it say the same, and is it young enough to be believed for a while? */
static bool is_fresh(struct qc_disk *d, const struct record *is, const struct record *want)
{
    uint64_t half = atomic_load(&d->max_age) / 2;
    uint64_t most = half > 0 && half < REFRESH_S ? half : REFRESH_S;

    return is->noted <= want->noted && want->noted - is->noted <= most && is->size == want->size &&
           is->mtime_s == want->mtime_s && strcmp(is->etag, want->etag) == 0 &&
           strcmp(is->object_version, want->object_version) == 0;
}

void qc_disk_note_pin(struct qc_disk *d, const char *key, const char *scope,
                      const struct qc_pin *pin)
{
    struct record r = {.magic = {'q', 'c', 'h', 'a', 'i', 'n', '-', 'n'}, .version = VERSION}, is;
    char name[QC_DISK_NAME];
    int errnum;

    if (!qc_pin_is_set(pin) || !qc_disk_fills(d))
        return;
    qc_disk_digest(r.digest, "name 1", key, scope, NULL);
    qc_disk_file_name(name, r.digest, ".name");
    r.noted = qc_disk_now();
    r.size = pin->size;
    r.mtime_s = pin->mtime_s;
    memcpy(r.etag, pin->etag, strnlen(pin->etag, sizeof(r.etag) - 1));
    memcpy(r.object_version, pin->version, strnlen(pin->version, sizeof(r.object_version) - 1));
    r.crc = record_crc(&r);
    if (read_record(d->fd, name, r.digest, &is) && is_fresh(d, &is, &r))
        return;
    errnum = qc_disk_put(d->fd, name, &r, sizeof(r), true);
    if (errnum != 0)
        qc_disk_write_failed(d, errnum, "cannot note a name");
    else
        qc_disk_wrote(d, QC_GRAIN);
}

void qc_disk_forget_pin(struct qc_disk *d, const char *key, const char *scope)
{
    uint8_t digest[QC_DISK_DIGEST];
    char name[QC_DISK_NAME];

    if (d->fd < 0)
        return;
    qc_disk_digest(digest, "name 1", key, scope, NULL);
    qc_disk_file_name(name, digest, ".name");
    unlinkat(d->fd, name, 0);
}
