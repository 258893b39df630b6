/* SPDX-License-Identifier: MIT */
/* The objects of a disk cache: their identity, their files, and which of these are open. */
#include "remote/disk_int.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "util/alloc.h"
#include "util/crc32c.h"
#include "util/sha256.h"

#define CLOSED 0x80000000u /* the state of a descriptor that nobody may begin to use */
#define VERSION 1

_Static_assert(sizeof(struct qc_disk_header) == QC_DISK_HEADER, "a header is a page");

/* ---------------------------------------------------------------- identity --- */

void qc_disk_digest(uint8_t digest[QC_DISK_DIGEST], const char *kind, const char *key,
                    const char *scope, const struct qc_pin *pin)
{
    struct qc_sha256 h;

    qc_sha256_init(&h);
    qc_sha256_update(&h, kind, strlen(kind) + 1);
    qc_sha256_update(&h, key, strlen(key) + 1);
    qc_sha256_update(&h, scope, strlen(scope) + 1);
    if (pin) {
        qc_sha256_update(&h, &pin->size, sizeof(pin->size));
        qc_sha256_update(&h, &pin->mtime_s, sizeof(pin->mtime_s));
        qc_sha256_update(&h, pin->etag, strlen(pin->etag) + 1);
        qc_sha256_update(&h, pin->version, strlen(pin->version) + 1);
    }
    qc_sha256_finish(&h, digest);
}

void qc_disk_file_name(char name[QC_DISK_NAME], const uint8_t digest[QC_DISK_DIGEST],
                       const char *suffix)
{
    static const char digits[] = "0123456789abcdef";

    for (int i = 0; i < QC_DISK_DIGEST; i++) {
        name[2 * i] = digits[digest[i] >> 4];
        name[2 * i + 1] = digits[digest[i] & 15];
    }
    strcpy(name + 2 * QC_DISK_DIGEST, suffix);
}

bool qc_disk_parse_name(const char *name, const char *suffix, uint8_t digest[QC_DISK_DIGEST])
{
    uint8_t d[QC_DISK_DIGEST];

    for (int i = 0; i < 2 * QC_DISK_DIGEST; i++) {
        char c = name[i];
        uint8_t v;

        if (c >= '0' && c <= '9')
            v = (uint8_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            v = (uint8_t)(c - 'a' + 10);
        else
            return false;
        d[i / 2] = (uint8_t)(i % 2 ? d[i / 2] | v : v << 4);
    }
    if (digest)
        memcpy(digest, d, sizeof(d));
    return strcmp(name + 2 * QC_DISK_DIGEST, suffix) == 0;
}

uint64_t qc_disk_tag(const uint8_t digest[QC_DISK_DIGEST])
{
    uint64_t tag;

    memcpy(&tag, digest, sizeof(tag));
    return tag;
}

static uint32_t header_crc(const struct qc_disk_header *h)
{
    static const uint32_t none;
    const char *p = (const char *)h;
    size_t at = offsetof(struct qc_disk_header, crc);
    uint32_t crc = qc_crc32c(0, p, at);

    crc = qc_crc32c(crc, &none, sizeof(none));
    return qc_crc32c(crc, p + at + sizeof(none), sizeof(*h) - at - sizeof(none));
}

static void make_header(struct qc_disk_header *h, const struct qc_disk_object *o)
{
    size_t n = strlen(o->key);

    memset(h, 0, sizeof(*h));
    memcpy(h->magic, "qchain-d", sizeof(h->magic));
    h->version = VERSION;
    memcpy(h->digest, o->digest, sizeof(h->digest));
    h->size = o->pin.size;
    h->mtime_s = o->pin.mtime_s;
    memcpy(h->etag, o->pin.etag, sizeof(h->etag));
    memcpy(h->object_version, o->pin.version, sizeof(h->object_version));
    h->key_length = n > UINT32_MAX ? UINT32_MAX : (uint32_t)n;
    memcpy(h->key, o->key, n < sizeof(h->key) ? n : sizeof(h->key));
    h->crc = header_crc(h);
}

bool qc_disk_header_ok(const struct qc_disk_header *h, const uint8_t digest[QC_DISK_DIGEST])
{
    return memcmp(h->magic, "qchain-d", sizeof(h->magic)) == 0 && h->version == VERSION &&
           memcmp(h->digest, digest, QC_DISK_DIGEST) == 0 && h->crc == header_crc(h);
}

/* Keep of a pin what tells generations apart, the strongest of what there is: the rest may differ from
 * answer to answer. And nothing behind the ends of strings. */
static void identity_of(struct qc_pin *out, const struct qc_pin *pin)
{
    memset(out, 0, sizeof(*out));
    out->size = pin->size;
    if (pin->version[0])
        memcpy(out->version, pin->version, strnlen(pin->version, sizeof(out->version) - 1));
    else if (pin->etag[0])
        memcpy(out->etag, pin->etag, strnlen(pin->etag, sizeof(out->etag) - 1));
    if (!pin->version[0] && (!pin->etag[0] || qc_pin_is_weak(pin)))
        out->mtime_s = pin->mtime_s;
}

/* ----------------------------------------------------------------- objects --- */

static struct qc_disk_object *new_object(struct qc_disk *d, const uint8_t *digest, const char *key,
                                         const struct qc_pin *pin)
{
    struct qc_disk_object *o = qc_calloc(1, sizeof(*o));

    if (!o)
        return NULL;
    o->key = qc_strdup(key);
    if (!o->key) {
        qc_free(o);
        return NULL;
    }
    o->disk = d;
    memcpy(o->digest, digest, QC_DISK_DIGEST);
    o->tag = qc_disk_tag(digest);
    qc_disk_file_name(o->name, digest, ".data");
    o->pin = *pin;
    o->fd = -1;
    atomic_init(&o->pins, CLOSED);
    return o;
}

struct qc_disk_object *qc_disk_object_get(struct qc_disk *d, const char *key, const char *scope,
                                          const struct qc_pin *pin)
{
    uint8_t digest[QC_DISK_DIGEST];
    struct qc_disk_object **head, *o;
    struct qc_pin identity;

    identity_of(&identity, pin);
    qc_disk_digest(digest, "object 1", key, scope, &identity);
    head = &d->bucket[digest[QC_DISK_DIGEST - 1] % QC_DISK_BUCKETS];
    pthread_mutex_lock(&d->lock);
    for (o = *head; o && memcmp(o->digest, digest, sizeof(digest)) != 0;)
        o = o->next;
    if (!o && (o = new_object(d, digest, key, &identity))) {
        o->next = *head;
        *head = o;
    }
    if (o)
        o->refs++;
    pthread_mutex_unlock(&d->lock);
    return o;
}

/* -------------------------------------------------------------- open files --- */

static void ring_add(struct qc_disk *d, struct qc_disk_object *o)
{
    o->newer = o->older = o;
    if (d->hand) {
        o->newer = d->hand;
        o->older = d->hand->older;
        o->newer->older = o->older->newer = o;
    }
    d->hand = d->hand ? d->hand : o;
    d->n_open++;
}

static void ring_remove(struct qc_disk *d, struct qc_disk_object *o)
{
    if (d->hand == o)
        d->hand = o->newer == o ? NULL : o->newer;
    o->newer->older = o->older;
    o->older->newer = o->newer;
    d->n_open--;
}

/* Under the lock; in the state CLOSED, with no pin. */
static void close_file(struct qc_disk_object *o)
{
    if (o->fd < 0)
        return;
    ring_remove(o->disk, o);
    close(o->fd);
    o->fd = -1;
}

/* Under the lock: have room for one more; false if all files that are open are in use. */
static bool make_room(struct qc_disk *d)
{
    for (unsigned i = 2 * d->n_open; d->n_open >= QC_DISK_FILES && i > 0; i--) {
        struct qc_disk_object *o = d->hand;
        unsigned unused = 0;

        d->hand = o->newer;
        if (!atomic_exchange(&o->used, false) &&
            atomic_compare_exchange_strong(&o->pins, &unused, CLOSED))
            close_file(o);
    }
    return d->n_open < QC_DISK_FILES;
}

/* Open what the name leads to, if it is our object's. -1: nothing, with errno; EBADMSG: something else. */
static int open_right(struct qc_disk_object *o, const struct qc_disk_header *want, struct stat *st,
                      bool *writable)
{
    struct qc_disk_header is;
    int fd;

    *writable = o->disk->writable;
    fd = qc_disk_openat(o->disk->fd, o->name, *writable ? O_RDWR : O_RDONLY, st);
    if (fd < 0 && *writable && (errno == EACCES || errno == EROFS)) {
        *writable = false;
        fd = qc_disk_openat(o->disk->fd, o->name, O_RDONLY, st);
    }
    if (fd < 0) {
        if (errno != ENOENT)
            errno = EBADMSG;
        return -1;
    }
    if (pread(fd, &is, sizeof(is), 0) == (ssize_t)sizeof(is) && memcmp(&is, want, sizeof(is)) == 0)
        return fd;
    close(fd);
    errno = EBADMSG;
    return -1;
}

/* The same, and make it if there is none that is right. */
static int open_or_make(struct qc_disk_object *o, bool make, struct stat *st, bool *writable)
{
    struct qc_disk *d = o->disk;
    struct qc_disk_header want;
    int fd, errnum = 0;

    make_header(&want, o);
    fd = open_right(o, &want, st, writable);
    for (int tries = 0; fd < 0 && make && errnum == 0 && tries < 3; tries++) {
        /* Something that is not ours to read stands in its place. If it is a good file that another
         * process has just made, that one will notice. */
        if (errno == EBADMSG)
            unlinkat(d->fd, o->name, 0);
        errnum = qc_disk_put(d->fd, o->name, &want, sizeof(want), false);
        if (errnum == EEXIST)
            errnum = 0;
        if (errnum == 0)
            fd = open_right(o, &want, st, writable);
    }
    if (errnum != 0)
        qc_disk_write_failed(d, errnum, "cannot make a file");
    return fd;
}

static int pin_slowly(struct qc_disk_object *o, bool make)
{
    struct qc_disk *d = o->disk;
    struct stat st;
    unsigned pins;
    int fd = -1;

    if (d->fd < 0)
        return -1;
    pthread_mutex_lock(&d->lock);
    pins = atomic_load(&o->pins);
    if (pins & CLOSED && o->fd >= 0 && pins == CLOSED)
        close_file(o);
    if (!(pins & CLOSED)) { /* another thread was faster */
        atomic_fetch_add(&o->pins, 1);
        fd = o->fd;
    } else if (o->fd < 0 && make_room(d)) {
        /* With readers left in a file that was forgotten this is a miss, until they are gone. */
        fd = open_or_make(o, make, &st, &o->writable);
        if (fd >= 0) {
            o->fd = fd;
            ring_add(d, o);
            if (st.st_ino != o->ino)
                atomic_store(&o->owner, atomic_fetch_add(d->o.next_owner, 1));
            o->ino = st.st_ino;
            atomic_fetch_add(&o->pins, 1);
            atomic_fetch_and(&o->pins, ~CLOSED);
        }
    }
    pthread_mutex_unlock(&d->lock);
    return fd;
}

int qc_disk_object_pin(struct qc_disk_object *o, bool make)
{
    if (!(atomic_fetch_add_explicit(&o->pins, 1, memory_order_acquire) & CLOSED)) {
        if (!atomic_load_explicit(&o->used, memory_order_relaxed))
            atomic_store_explicit(&o->used, true, memory_order_relaxed);
        return o->fd;
    }
    qc_disk_object_unpin(o);
    return pin_slowly(o, make);
}

void qc_disk_object_unpin(struct qc_disk_object *o)
{
    struct qc_disk *d = o->disk;

    if (atomic_fetch_sub_explicit(&o->pins, 1, memory_order_acq_rel) != (CLOSED | 1))
        return;
    /* The last one in a file that was forgotten, or one who could not get in. */
    pthread_mutex_lock(&d->lock);
    if (atomic_load(&o->pins) == CLOSED)
        close_file(o);
    pthread_mutex_unlock(&d->lock);
}

void qc_disk_object_forget(struct qc_disk_object *o)
{
    atomic_fetch_or(&o->pins, CLOSED);
}

void qc_disk_object_put(struct qc_disk_object *o)
{
    struct qc_disk_object **at;
    struct qc_disk *d;
    bool last;

    if (!o)
        return;
    d = o->disk;
    at = &d->bucket[o->digest[QC_DISK_DIGEST - 1] % QC_DISK_BUCKETS];
    pthread_mutex_lock(&d->lock);
    last = --o->refs == 0;
    if (last) {
        while (*at != o)
            at = &(*at)->next;
        *at = o->next;
        close_file(o); /* nobody uses it any more */
    }
    pthread_mutex_unlock(&d->lock);
    if (!last)
        return;
    if (atomic_load(&o->owner))
        qc_block_drop_owner(d->o.blocks, atomic_load(&o->owner));
    qc_free(o->key);
    qc_free(o);
}
