/* SPDX-License-Identifier: MIT */
/*
 * A cache directory that somebody has been at. A sound one is made once; each input is a list of changes
 * to its files, after which an object is read through the cache: whatever is there, the bytes are right.
 * Changes are: a byte that says what and where, two for the place, one for the length, and as many bytes.
 * Then the maintenance of the directory goes over it.
 *
 * A checksum is no seal: who writes both a grain and its entry in the table, or both a record and its
 * checksum, can have anything read. So an input that does that is not held to it.
 */
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "remote/disk_int.h"
#include "util/alloc.h"

#define KEY "https://h.example /dir/object"
#define SCOPE "scope"
#define SIZE (7u * QC_GRAIN - 100u)
#define GRAINS 7u
#define FILL 0xa5

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct qc_pin pin = {.size = SIZE, .mtime_s = 1700000000, .etag = "\"tag\""};

static void require_at(int ok, int line)
{
    if (ok)
        return;
    fprintf(stderr, __FILE__ ":%d: this does not hold\n", line);
    abort();
}
#define require(ok) require_at(ok, __LINE__)

static uint8_t byte_at(uint64_t offset)
{
    return (uint8_t)(offset * 31 + offset / 251 + 7);
}

/* ------------------------------------------------------------------ tier below --- */

static atomic_uint n_below;

static void below_fetch(struct qc_tier *t, struct qc_fetch *f)
{
    (void)t;
    atomic_fetch_add(&n_below, 1);
    require(f->offset % QC_GRAIN == 0 && f->length > 0 && f->offset + f->length <= SIZE);
    for (size_t i = 0; i < f->length; i++)
        ((uint8_t *)f->buf)[i] = byte_at(f->offset + i);
    f->done(f, 0);
}

static void below_close(struct qc_tier *t)
{
    (void)t;
}

static const struct qc_tier_ops below_ops = {.name = "below", .fetch = below_fetch,
                                             .close = below_close};
static struct qc_tier below = {&below_ops, NULL};

/* ---------------------------------------------------------------------- a cache --- */

struct cache {
    struct qc_disk        *disk;
    struct qc_tier        *tier;
    struct qc_disk_opts    o;
    atomic_uint_fast64_t   owner;
};

/* One set of threads and blocks for all; each input has owners of its own. */
static struct qc_tasks *leaves;
static struct qc_block_cache *blocks;

static void open_cache(struct cache *c, const char *dir)
{
    static const struct qc_log log;
    static uint64_t owner = 1;

    if (!leaves) {
        leaves = qc_tasks_create(1);
        blocks = qc_block_cache_create(1 << 20);
    }
    memset(c, 0, sizeof(*c));
    atomic_init(&c->owner, owner += 16);
    c->o = (struct qc_disk_opts){.max_bytes = 1 << 30, .leaves = leaves, .blocks = blocks,
                                 .next_owner = &c->owner, .log = &log};
    require(qc_disk_open(&c->disk, dir, &c->o, NULL) == 0);
    require(qc_disk_tier_create(&c->tier, c->disk, KEY, SCOPE, &pin, &below, NULL) == 0);
}

static void close_cache(struct cache *c)
{
    qc_tier_close(c->tier);
    qc_disk_close(c->disk);
}

struct asker {
    struct qc_fetch f;
    pthread_mutex_t lock;
    pthread_cond_t  over;
    int             n_done;
};

static void on_done(struct qc_fetch *f, int ret)
{
    struct asker *a = (struct asker *)f;

    require(ret == 0);
    pthread_mutex_lock(&a->lock);
    require(a->n_done++ == 0);
    pthread_cond_signal(&a->over);
    pthread_mutex_unlock(&a->lock);
}

static void fetch(struct cache *c, void *buf, uint64_t offset, size_t length)
{
    struct asker a = {.f = {.buf = buf, .offset = offset, .length = length, .done = on_done}};

    pthread_mutex_init(&a.lock, NULL);
    pthread_cond_init(&a.over, NULL);
    qc_tier_fetch(c->tier, &a.f);
    pthread_mutex_lock(&a.lock);
    while (!a.n_done)
        pthread_cond_wait(&a.over, &a.lock);
    pthread_mutex_unlock(&a.lock);
    pthread_mutex_destroy(&a.lock);
    pthread_cond_destroy(&a.over);
}

/* ----------------------------------------------------------------- the sound one --- */

static char base[PATH_MAX], v1[PATH_MAX + 8]; /* the directory; what is in it */
static char data_name[QC_DISK_NAME], pin_name[QC_DISK_NAME];

/* What the two files hold, less the hole between a data file's header and its frame. */
static uint8_t sound_data[QC_DISK_HEADER + (2 + GRAINS) * QC_GRAIN], sound_pin[4096];
static size_t sound_pin_size;

static void remove_all(void)
{
    DIR *d = opendir(v1);
    struct dirent *e;

    while (d && (e = readdir(d)))
        if (e->d_name[0] != '.' && unlinkat(dirfd(d), e->d_name, 0) != 0)
            unlinkat(dirfd(d), e->d_name, AT_REMOVEDIR);
    if (d)
        closedir(d);
}

static void at_exit(void)
{
    qc_tasks_destroy(leaves);
    qc_block_cache_destroy(blocks);
    remove_all();
    rmdir(v1);
    rmdir(base);
}

static size_t whole(const char *name, void *buf, size_t size, off_t offset)
{
    char path[2 * PATH_MAX];
    ssize_t n;
    int fd;

    snprintf(path, sizeof(path), "%s/%s", v1, name);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    require(fd >= 0);
    n = pread(fd, buf, size, offset);
    close(fd);
    require(n > 0);
    return (size_t)n;
}

static void find_names(void)
{
    DIR *d = opendir(v1);
    struct dirent *e;

    require(d != NULL);
    while ((e = readdir(d)))
        if (qc_disk_parse_name(e->d_name, ".data", NULL))
            strcpy(data_name, e->d_name);
        else if (qc_disk_parse_name(e->d_name, ".name", NULL))
            strcpy(pin_name, e->d_name);
    closedir(d);
    require(data_name[0] && pin_name[0]);
}

static void make_sound(void)
{
    const char *tmp = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    static uint8_t buf[SIZE];
    struct cache c;
    size_t n;

    snprintf(base, sizeof(base), "%s/qchain-fuzz-XXXXXX", tmp);
    require(mkdtemp(base) != NULL);
    snprintf(v1, sizeof(v1), "%s/v1", base);
    atexit(at_exit);
    open_cache(&c, base);
    fetch(&c, buf, 0, SIZE);
    qc_disk_note_pin(c.disk, KEY, SCOPE, &pin);
    close_cache(&c);
    find_names();
    n = whole(data_name, sound_data, QC_DISK_HEADER, 0);
    n += whole(data_name, sound_data + n, (2 + GRAINS) * QC_GRAIN, (off_t)qc_disk_frame_at(0));
    require(n == sizeof(sound_data));
    sound_pin_size = whole(pin_name, sound_pin, sizeof(sound_pin), 0);
}

/* --------------------------------------------------------------------- the changes --- */

enum what { IN_HEADER, IN_TABLE, IN_META, IN_GRAIN, IN_PIN, CUT_DATA, CUT_PIN, COPY, REPLACE, ADD, N_WHATS };

struct damage {
    uint8_t  data[sizeof(sound_data)], pin[sizeof(sound_pin)];
    uint64_t data_size, pin_size;
    unsigned table, grains;  /* bits: the entry, the grain was written */
    bool     pin_crc, pin_rest; /* the record's checksum, and what it is of, were written */
};

static void in_table(struct damage *d, size_t at, size_t n)
{
    for (size_t i = at / 8; i <= (at + n - 1) / 8 && i < GRAINS; i++)
        d->table |= 1u << i;
}

static void in_grain(struct damage *d, size_t at, size_t n)
{
    for (size_t i = at / QC_GRAIN; i <= (at + n - 1) / QC_GRAIN; i++)
        d->grains |= 1u << i;
}

/* A grain with its entry, to where another one belongs. */
static void copy(struct damage *d, size_t from, size_t to)
{
    uint8_t *entry = d->data + QC_DISK_HEADER, *grain = entry + 2 * QC_GRAIN;

    from %= GRAINS;
    to %= GRAINS;
    memcpy(entry + 8 * to, entry + 8 * from, 8);
    memcpy(grain + to * QC_GRAIN, grain + from * QC_GRAIN, QC_GRAIN);
    in_grain(d, to * QC_GRAIN, 1);
    if (d->table & 1u << from) /* not its own entry any more */
        in_table(d, 8 * to, 8);
}

static int make_at(const char *name)
{
    char path[2 * PATH_MAX];
    int fd;

    snprintf(path, sizeof(path), "%s/%s", v1, name);
    fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    require(fd >= 0);
    return fd;
}

/* Something else stands in a file's place. */
static void replace(unsigned how, const char *name)
{
    char path[2 * PATH_MAX];

    snprintf(path, sizeof(path), "%s/%s", v1, name);
    if (unlink(path) != 0)
        rmdir(path);
    switch (how % 6) {
    case 0: require(mkdir(path, 0700) == 0); break;
    case 1: require(symlink("/etc/hostname", path) == 0); break;
    case 2: require(symlink(path, path) == 0); break;
    case 3: require(mkfifo(path, 0600) == 0); break;
    case 4: require(link(base, path) != 0); break; /* nothing at all */
    default: close(make_at(name)); break;
    }
}

/* A file with a name like those of the cache, and any content. */
static void add_file(unsigned how, const uint8_t *p, size_t n)
{
    static const char *const suffix[] = {".data", ".name", ".tmp", ".tmp~", ""};
    char name[160];
    int fd;

    snprintf(name, sizeof(name), "%064x%s", how, suffix[how % 5]);
    fd = make_at(name);
    require(pwrite(fd, p, n, how & 0x80 ? (off_t)qc_disk_frame_at(how & 3) : 0) == (ssize_t)n);
    close(fd);
}

/* One change to what the files will hold; false: one for when they are there. */
static bool change(struct damage *d, unsigned what, size_t at, const uint8_t *p, size_t n)
{
    static const size_t start[] = {0, QC_DISK_HEADER, QC_DISK_HEADER + QC_GRAIN,
                                   QC_DISK_HEADER + 2 * QC_GRAIN};
    size_t room = what == IN_PIN ? sound_pin_size : what == IN_GRAIN ? GRAINS * QC_GRAIN : QC_GRAIN;

    if (what == COPY)
        copy(d, at >> 4 & 15, at & 15);
    at %= room;
    n = n < room - at ? n : room - at;
    if (what == CUT_DATA)
        d->data_size = at;
    else if (what == CUT_PIN)
        d->pin_size = at;
    if (what > IN_PIN)
        return what < REPLACE;
    if (n == 0)
        return true;
    memcpy(what == IN_PIN ? d->pin + at : d->data + start[what] + at, p, n);
    d->pin_crc |= what == IN_PIN && at < 16 && at + n > 12;
    d->pin_rest |= what == IN_PIN && at + n > 16;
    if (what == IN_TABLE)
        in_table(d, at, n);
    else if (what == IN_GRAIN)
        in_grain(d, at, n);
    return true;
}

static void write_files(const struct damage *d)
{
    int fd = make_at(data_name);

    require(pwrite(fd, d->data, QC_DISK_HEADER, 0) == QC_DISK_HEADER);
    require(pwrite(fd, d->data + QC_DISK_HEADER, sizeof(d->data) - QC_DISK_HEADER,
                   (off_t)qc_disk_frame_at(0)) == sizeof(d->data) - QC_DISK_HEADER);
    if (d->data_size != UINT64_MAX)
        require(ftruncate(fd, (off_t)(d->data_size & 1 ? d->data_size
                                                       : qc_disk_frame_at(0) + 16 * d->data_size)) == 0);
    close(fd);
    fd = make_at(pin_name);
    require(pwrite(fd, d->pin, sound_pin_size, 0) == (ssize_t)sound_pin_size);
    if (d->pin_size != UINT64_MAX)
        require(ftruncate(fd, (off_t)d->pin_size) == 0);
    close(fd);
}

static void apply(struct damage *d, const uint8_t *p, size_t size)
{
    memcpy(d->data, sound_data, sizeof(d->data));
    memcpy(d->pin, sound_pin, sizeof(d->pin));
    d->data_size = d->pin_size = UINT64_MAX;
    remove_all();
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0, n; size - i >= 4; i += 4 + n) {
            unsigned what = p[i] % N_WHATS;
            size_t at = (size_t)p[i + 1] << 8 | p[i + 2];

            n = p[i + 3] < size - i - 4 ? p[i + 3] : size - i - 4;
            if (pass == 0)
                change(d, what, at, p + i + 4, n);
            else if (what == REPLACE)
                replace((unsigned)at >> 2, at & 2 ? "lock" : at & 1 ? pin_name : data_name);
            else if (what == ADD)
                add_file((unsigned)at, p + i + 4, n);
        }
        if (pass == 0)
            write_files(d);
    }
}

/* ------------------------------------------------------------------------- use --- */

static void check_bytes(const struct damage *d, const uint8_t *buf, uint64_t offset, size_t length)
{
    for (size_t i = 0; i < length; i++)
        require(buf[i] == byte_at(offset + i) ||
                d->table & d->grains & 1u << (offset + i) / QC_GRAIN);
}

static void read_local(struct cache *c, const struct damage *d, uint64_t offset, size_t length)
{
    uint8_t *buf = malloc(length); /* so that a sanitizer sees a byte too much */

    if (c->tier->ops->fetch_local(c->tier, buf, offset, length) == 0)
        check_bytes(d, buf, offset, length);
    free(buf);
}

static void use_cache(const struct damage *d)
{
    static uint8_t buf[SIZE];
    struct qc_pin found;
    struct cache c;

    open_cache(&c, base);
    for (uint64_t g = 0; g < GRAINS; g++)
        read_local(&c, d, g * QC_GRAIN, g < GRAINS - 1 ? QC_GRAIN : SIZE - g * QC_GRAIN);
    read_local(&c, d, 1, 10);
    read_local(&c, d, 3000, 3 * QC_GRAIN);
    read_local(&c, d, 0, SIZE);
    fetch(&c, buf, 2 * QC_GRAIN, 3 * QC_GRAIN);
    check_bytes(d, buf, 2 * QC_GRAIN, 3 * QC_GRAIN);
    fetch(&c, buf, 0, SIZE);
    check_bytes(d, buf, 0, SIZE);
    read_local(&c, d, 0, SIZE);
    if (qc_disk_find_pin(c.disk, KEY, SCOPE, UINT32_MAX, &found) == 0) {
        require(memchr(found.etag, 0, sizeof(found.etag)) != NULL);
        require(memchr(found.version, 0, sizeof(found.version)) != NULL);
        require(found.size <= INT64_MAX && qc_pin_is_text(found.etag));
        require((d->pin_crc && d->pin_rest) || qc_pin_same(&found, &pin));
    }
    qc_disk_note_pin(c.disk, KEY, SCOPE, &pin);
    close_cache(&c);
}

/* Afterwards nothing is damaged any more, and then there is nothing. */
static void maintain(void)
{
    qchain_cache_info info = {.struct_size = sizeof(info)}, again = {.struct_size = sizeof(again)};

    require(qc_disk_stat(base, &info, NULL) == 0);
    require(qc_disk_verify(base, &info, NULL) == 0 && info.damaged <= info.checked + info.objects + 256);
    require(qc_disk_verify(base, &again, NULL) == 0);
    require(qc_disk_trim(base, 16384, &info, NULL) == 0);
    require(qc_disk_trim(base, 0, &info, NULL) == 0);
    qc_disk_clear(base, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct damage d;

    if (!base[0])
        make_sound();
    if (size < 1)
        return 0;
    memset(&d, 0, sizeof(d));
    apply(&d, data + 1, size - 1);
    if (data[0] & 1)
        maintain();
    use_cache(&d);
    maintain();
    return 0;
}
