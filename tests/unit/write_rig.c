/* SPDX-License-Identifier: MIT */
#include "write_rig.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "image_tools.h"
#include "qcow2/l2.h"
#include "qcow2/qcow2.h"
#include "util/bytes.h"
#include "util/error.h"

#define OK(call)                                                                                \
    do {                                                                                        \
        qchain_error e_;                                                                        \
        int rc_;                                                                                \
        qc_error_init(&e_);                                                                     \
        err = &e_;                                                                              \
        rc_ = (call);                                                                           \
        if (rc_ < 0)                                                                            \
            fail_msg("%s: %d: %s", #call, rc_, e_.text);                                        \
    } while (0)

/* ---- a file in memory ---- */

static void file_close(void *obj)
{
    (void)obj;
}

static int file_size(void *obj, uint64_t *size, qchain_error *err)
{
    (void)err;
    *size = __atomic_load_n(&((struct rig_file *)obj)->size, __ATOMIC_RELAXED);
    return 0;
}

static int file_pread(void *obj, void *buf, size_t length, uint64_t offset, uint32_t flags, qchain_error *err)
{
    struct rig_file *f = obj;

    (void)flags;
    if (offset + length > __atomic_load_n(&f->size, __ATOMIC_RELAXED))
        return qc_fail(err, QCHAIN_E_INTERNAL, "read past the end");
    memcpy(buf, f->p + offset, length);
    return 0;
}

static void file_reach(struct rig_file *f, uint64_t end)
{
    uint64_t size = __atomic_load_n(&f->size, __ATOMIC_RELAXED);

    while (size < end &&
           !__atomic_compare_exchange_n(&f->size, &size, end, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        continue;
}

static int file_pwrite(void *obj, const void *buf, size_t length, uint64_t offset, uint32_t flags,
                       qchain_error *err)
{
    struct rig_file *f = obj;

    (void)flags;
    if ((f->fail_in > 0 && --f->fail_in == 0) || offset + length > f->room)
        return qc_fail(err, QCHAIN_E_NOSPACE, "no room for %zu bytes at %" PRIu64, length, offset);
    memcpy(f->p + offset, buf, length);
    file_reach(f, offset + length);
    return 0;
}

static int file_flush(void *obj, uint32_t flags, qchain_error *err)
{
    (void)obj;
    (void)flags;
    (void)err;
    return 0;
}

static int file_resize(void *obj, uint64_t size, uint32_t flags, qchain_error *err)
{
    struct rig_file *f = obj;

    (void)flags;
    if (size > f->room)
        return qc_fail(err, QCHAIN_E_NOSPACE, "no room for %" PRIu64 " bytes", size);
    if (size < f->size)
        memset(f->p + size, 0, f->size - size);
    f->size = size;
    return 0;
}

/* What is given up reads as anything. */
static int file_discard(void *obj, uint64_t length, uint64_t offset, uint32_t flags, qchain_error *err)
{
    struct rig_file *f = obj;

    (void)flags;
    (void)err;
    if (offset < f->size)
        memset(f->p + offset, 0xd5, offset + length > f->size ? f->size - offset : length);
    return 0;
}

static const qchain_store_ops file_ops = {
    .struct_size = sizeof(file_ops),
    .version = QCHAIN_BACKEND_VERSION,
    .name = "rig",
    .close = file_close,
    .size = file_size,
    .pread = file_pread,
    .pwrite = file_pwrite,
    .flush = file_flush,
    .resize = file_resize,
    .discard = file_discard,
};

static void file_open(struct rig_file *f)
{
    qchain_store from = {sizeof(from), &file_ops, f, "rig"};
    qchain_error *err;

    OK(qc_store_create(&f->store, &from, NULL, err));
}

static void file_init(struct rig_file *f, uint64_t size, uint64_t room)
{
    *f = (struct rig_file){.p = calloc(1, room), .size = size, .room = room};
    assert_non_null(f->p);
}

/* ---- an image ---- */

static void put(uint8_t *p, unsigned width, uint64_t v)
{
    while (width-- > 0) {
        p[width] = (uint8_t)v;
        v >>= 8;
    }
}

/* Count the first n clusters; the block is the one at p. */
static void put_counts(uint8_t *p, unsigned order, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (order < 3)
            p[i >> (3 - order)] |= (uint8_t)(1u << (i % (8u >> order) << order));
        else
            put(p + (i << (order - 3)), 1u << (order - 3), 1);
}

static uint8_t *put_extension(uint8_t *p, uint32_t type, const char *text)
{
    size_t n = strlen(text);

    put(p, 4, type);
    put(p + 4, 4, n);
    memcpy(p + 8, text, n);
    return p + 8 + (n + 7) / 8 * 8;
}

static void put_header(struct rig *r, uint32_t l1_size, uint64_t cluster)
{
    const struct rig_opts *o = &r->o;
    uint8_t *p = r->file.p, *end = p + (o->version < 3 ? 72 : 112);
    uint64_t features = (o->data_file ? QC2_INCOMPAT_DATA_FILE : 0u) |
                        (o->zstd ? QC2_INCOMPAT_COMPRESSION : 0u) |
                        (o->extended ? QC2_INCOMPAT_EXTENDED_L2 : 0u);

    put(p, 4, 0x514649fb);
    put(p + 4, 4, o->version);
    put(p + 20, 4, o->cluster_bits);
    put(p + 24, 8, o->disk);
    put(p + 36, 4, l1_size);
    put(p + 40, 8, 3 * cluster);
    put(p + 48, 8, cluster);
    put(p + 56, 4, 1);
    if (o->version >= 3) {
        put(p + 72, 8, features);
        put(p + 88, 8, o->data_raw ? QC2_AUTOCLEAR_DATA_FILE_RAW : 0);
        put(p + 96, 4, o->refcount_order);
        put(p + 100, 4, 112);
        p[104] = o->zstd;
    }
    if (o->backing)
        end = put_extension(end, 0xe2792aca, "raw");
    if (o->data_file)
        end = put_extension(end, 0x44415441, "rig.data");
    end += 8;
    if (o->backing) {
        put(p + 8, 8, (uint64_t)(end - p));
        put(p + 16, 4, 8);
        memcpy(end, "rig.base", 8);
    }
}

void rig_make(struct rig *r, const struct rig_opts *o)
{
    uint64_t cluster = UINT64_C(1) << o->cluster_bits;
    unsigned cover_bits = 2 * o->cluster_bits - (o->extended ? 4 : 3);
    uint32_t l1_size = (uint32_t)((o->disk + (UINT64_C(1) << cover_bits) - 1) >> cover_bits);
    unsigned used = 3 + (unsigned)((l1_size * UINT64_C(8) + cluster - 1) / cluster);

    *r = (struct rig){.o = *o};
    if (o->version < 3)
        r->o.refcount_order = 4;
    file_init(&r->file, used * cluster, o->room);
    if (o->data_file)
        file_init(&r->data, o->disk, o->room);
    put_header(r, l1_size, cluster);
    put(r->file.p + cluster, 8, 2 * cluster);
    put_counts(r->file.p + 2 * cluster, r->o.refcount_order, used);
    r->model_room = o->disk * 2 + (1u << 20);
    r->model = calloc(1, r->model_room);
    r->below = calloc(1, r->model_room);
    assert_non_null(r->model);
    assert_non_null(r->below);
    for (uint64_t i = 0; o->backing && i < o->disk; i++)
        r->model[i] = r->below[i] = (uint8_t)(i >> 9 ^ 0xa5);
    rig_begin(r);
}

void rig_begin(struct rig *r)
{
    struct qc_write_opts wo = {.cache_bytes = r->o.cache_bytes, .discard = r->o.discard};
    struct qc_image_opts io = {0};
    qchain_error *err;

    file_open(&r->file);
    if (r->o.data_file)
        file_open(&r->data);
    wo.requests = r->requests = qc_slots_create();
    assert_non_null(r->requests);
    OK(qc_qcow2_format.open(&r->img, r->file.store, &io, err));
    r->img->data_store = r->data.store;
    OK(qc2_writer_create(&((struct qc2_image *)r->img)->writer, (struct qc2_image *)r->img, &wo, err));
    r->decoder = qc_qcow2_format.decoder_create(r->img);
    r->encoder = qc2_encoder_create(r->img);
    assert_non_null(r->decoder);
    assert_non_null(r->encoder);
}

void rig_crash(struct rig *r)
{
    struct qc2_image *q = (struct qc2_image *)r->img;

    qc2_writer_destroy(q->writer);
    q->writer = NULL;
    qc_qcow2_format.decoder_destroy(r->decoder);
    qc2_encoder_destroy(r->encoder);
    qc_qcow2_format.close(r->img);
    qc_store_destroy(r->file.store);
    qc_store_destroy(r->data.store);
    qc_slots_destroy(r->requests);
    r->file.store = r->data.store = NULL;
    r->img = NULL;
}

void rig_end(struct rig *r)
{
    qchain_error *err;

    OK(qc2_writer_end(((struct qc2_image *)r->img)->writer, err));
    rig_crash(r);
}

void rig_destroy(struct rig *r)
{
    if (r->img)
        rig_crash(r);
    free(r->file.p);
    free(r->data.p);
    free(r->model);
    free(r->below);
}

/* ---- what a chain does ---- */

static struct qc_store *data_of(struct rig *r)
{
    return r->o.data_file ? r->data.store : r->file.store;
}

static void read_compressed(struct rig *r, struct qc_decoder *d, const struct qc_run *run, uint64_t offset,
                            uint64_t length, uint8_t *buf)
{
    uint64_t at = qc_run_host(run), n = (uint64_t)run->sectors * 512 - at % 512;
    uint8_t *in = malloc(n), *out = malloc(r->img->cluster_size);
    qchain_error *err;

    OK(qc_store_read(r->file.store, in, n, at, QC_READ_PAST_END, err));
    OK(qc2_decode(d, out, r->img->cluster_size, in, n, err));
    memcpy(buf, out + (offset - run->guest), length);
    free(in);
    free(out);
}

void rig_read(struct rig *r, uint64_t offset, uint64_t length, uint8_t *buf)
{
    struct qc_decoder *d = NULL;
    qchain_error *err;

    while (length > 0) {
        struct qc_run run;
        uint64_t n;

        OK(qc2_locate(r->img, offset, length, &run, err));
        assert_true(run.guest <= offset && qc_run_end(&run) > offset);
        if (qc_run_kind(&run) != QC_COMPRESSED)
            assert_true(run.guest == offset);
        n = qc_run_end(&run) - offset < length ? qc_run_end(&run) - offset : length;
        switch (qc_run_kind(&run)) {
        case QC_DATA:
            OK(qc_store_read(data_of(r), buf, n, qc_run_host(&run), QC_READ_PAST_END, err));
            break;
        case QC_COMPRESSED:
            if (!d)
                d = qc_qcow2_format.decoder_create(r->img);
            read_compressed(r, d, &run, offset, n, buf);
            break;
        case QC_ABSENT:
        case QC_PREALLOC:
            if (offset < r->img->virtual_size)
                memcpy(buf, r->below + offset, n);
            else
                memset(buf, 0, n);
            break;
        default:
            memset(buf, 0, n);
        }
        offset += n;
        buf += n;
        length -= n;
    }
    qc_qcow2_format.decoder_destroy(d);
}

/* Whole units: what is written, amid what was there. */
static void fill_units(struct rig *r, const struct qc_place *p, const uint8_t *from)
{
    uint8_t *unit = malloc(p->unit_length);
    uint64_t head = p->offset - p->unit;
    qchain_error *err;

    assert_true(p->unit <= p->offset && p->offset + p->length <= p->unit + p->unit_length);
    assert_int_equal(p->host, p->unit_host + head);
    rig_read(r, p->unit, p->unit_length, unit);
    memcpy(unit + head, from, p->length);
    for (uint64_t at = 0; at < p->unit_length; at += 512)
        if (!p->zeroed || !qc_is_zero(unit + at, 512))
            OK(qc_store_write(data_of(r), unit + at, 512, p->unit_host + at, err));
    free(unit);
}

static uint64_t write_some(struct rig *r, uint64_t offset, uint64_t length, const uint8_t *buf)
{
    struct qc_place p;
    qchain_error *err;

    OK(qc2_place(r->img, offset, length, &p, err));
    assert_true(p.offset == offset && p.length > 0 && p.length <= length);
    if (p.own) {
        OK(qc_store_write(data_of(r), buf, p.length, p.host, err));
        return p.length;
    }
    OK(qc2_place_alloc(r->img, &p, err));
    assert_true(p.offset == offset && p.length > 0 && p.length <= length);
    if (buf[0] % 16 == 7) { /* now and then it is given up first */
        qc2_place_abort(r->img, &p);
        OK(qc2_place(r->img, offset, length, &p, err));
        OK(qc2_place_alloc(r->img, &p, err));
    }
    fill_units(r, &p, buf);
    OK(qc2_place_finish(r->img, &p, err));
    return p.length;
}

static void note(struct rig *r, uint64_t offset, uint64_t length, const uint8_t *buf)
{
    assert_true(offset + length <= r->model_room);
    if (buf)
        memcpy(r->model + offset, buf, length);
    else
        memset(r->model + offset, 0, length);
}

void rig_write(struct rig *r, uint64_t offset, uint64_t length, const uint8_t *buf)
{
    if (offset < r->img->virtual_size)
        note(r, offset, length, buf);
    while (length > 0) {
        unsigned token = qc_epoch_enter(r->requests);
        uint64_t n = write_some(r, offset, length, buf);

        qc_epoch_exit(r->requests, token);
        offset += n;
        buf += n;
        length -= n;
    }
}

void rig_zero(struct rig *r, uint64_t offset, uint64_t length, uint32_t flags)
{
    static const uint8_t zeros[512];
    qchain_error *err;

    note(r, offset, length, NULL);
    while (length > 0) {
        uint64_t done;

        OK(qc2_zero(r->img, offset, length, flags, &done, err));
        assert_true(done <= length);
        if (done == 0) {
            done = length < 512 ? length : 512;
            rig_write(r, offset, done, zeros);
        }
        offset += done;
        length -= done;
    }
}

void rig_discard(struct rig *r, uint64_t offset, uint64_t length)
{
    uint64_t cluster = r->img->cluster_size, end = offset + length;
    uint64_t first = (offset + cluster - 1) / cluster * cluster;
    qchain_error *err;

    OK(qc2_discard(r->img, offset, length, r->o.backing, err));
    if (r->o.version < 3 && r->o.backing)
        return;
    if (end != r->img->virtual_size)
        end = end / cluster * cluster;
    if (first < end)
        note(r, first, end - first, NULL);
}

void rig_write_compressed(struct rig *r, uint64_t offset, const uint8_t *buf)
{
    uint64_t cluster = r->img->cluster_size;
    struct qc_encoder *own = r->encoder ? NULL : qc2_encoder_create(r->img);
    uint8_t *out = malloc(cluster);
    size_t n = cluster;
    qchain_error *err, failed;
    int rc;

    qc_error_init(&failed);
    rc = qc2_encode(own ? own : r->encoder, out, &n, buf, cluster, &failed);
    qc2_encoder_destroy(own);
    assert_true(rc >= 0);
    if (rc == 1) {
        rig_write(r, offset, cluster, buf);
    } else {
        assert_true(n < cluster);
        OK(qc2_write_compressed(r->img, offset, out, n, err));
        note(r, offset, cluster, buf);
    }
    free(out);
}

void rig_resize(struct rig *r, uint64_t size)
{
    uint64_t old = r->img->virtual_size, cluster = r->img->cluster_size;
    uint64_t edge = (old + cluster - 1) / cluster * cluster;
    qchain_error *err;

    assert_true(size <= r->model_room);
    /* What is behind the disk's end in its last cluster must not show. */
    if (size > old && edge != old) {
        uint64_t end = edge < size ? edge : size;
        uint8_t *zeros = calloc(1, end - old);

        OK(qc2_resize(r->img, size, 0, err));
        rig_write(r, old, end - old, zeros);
        free(zeros);
    } else {
        OK(qc2_resize(r->img, size, 0, err));
    }
    if (size < old) {
        memset(r->model + size, 0, old - size);
        memset(r->below + size, 0, old - size);
    }
}

/* ---- comparing ---- */

static void same(const uint8_t *a, const uint8_t *b, uint64_t n, const char *what)
{
    for (uint64_t i = 0; i < n; i++)
        if (a[i] != b[i])
            fail_msg("%s: at %" PRIu64 " (sector %" PRIu64 "): %02x, not %02x", what, i, i / 512, a[i], b[i]);
}

void rig_compare(struct rig *r)
{
    uint64_t size = r->img->virtual_size;
    uint8_t *is = malloc(size + 1);

    rig_read(r, 0, size, is);
    same(is, r->model, size, "read while it is written");
    free(is);
}

void rig_compare_closed(struct rig *r, const char *snapshot, const uint8_t *model, uint64_t size)
{
    struct qc_image_opts io = {.snapshot = snapshot};
    struct qc_runs runs = {0};
    struct qc_image *img;
    uint8_t *is = malloc(size + 1);
    qchain_error *err;

    file_open(&r->file);
    if (r->o.data_file)
        file_open(&r->data);
    OK(qc_qcow2_format.open(&img, r->file.store, &io, err));
    assert_int_equal(img->virtual_size, size);
    OK(read_layer(img, r->data.store, is, err));
    OK(img->format->map(img, 0, size, &runs, err));
    if (r->o.backing)
        for (uint64_t at = 0, i = 0; at < size;) { /* what the layer does not hold */
            while (i < runs.n && qc_run_end(&runs.run[i]) <= at)
                i++;
            if (i < runs.n && runs.run[i].guest <= at && qc_run_kind(&runs.run[i]) != QC_PREALLOC) {
                at = qc_run_end(&runs.run[i]);
                continue;
            }
            is[at] = r->below[at];
            at++;
        }
    qc_runs_finish(&runs);
    same(is, model, size, "read when it is closed");
    img->format->close(img);
    qc_store_destroy(r->file.store);
    qc_store_destroy(r->data.store);
    r->file.store = r->data.store = NULL;
    free(is);
}

/* ---- qemu-img ---- */

int rig_run(const char *fmt, ...)
{
    char command[1024];
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(command, sizeof(command), fmt, ap);
    va_end(ap);
    assert_true(n > 0 && (size_t)n < sizeof(command));
    return system(command);
}

static void save(const char *name, const char *suffix, const uint8_t *p, uint64_t n)
{
    char path[256];
    FILE *f;

    snprintf(path, sizeof(path), "%s%s", name, suffix);
    f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(p, 1, n, f), n);
    fclose(f);
}

static bool load(struct rig_file *f, const char *name, const char *suffix)
{
    char path[256];
    uint64_t n;
    uint8_t *p;

    snprintf(path, sizeof(path), "%s%s", name, suffix);
    p = load_file(path, &n);
    if (!p || n > f->room)
        return false;
    memset(f->p, 0, f->room);
    memcpy(f->p, p, n);
    f->size = n;
    free(p);
    return true;
}

static bool have_qemu(void)
{
    static int have = -1;

    if (have < 0)
        have = rig_run("command -v qemu-img >/dev/null 2>&1") == 0;
    return have;
}

bool rig_save(struct rig *r, const char *name)
{
    if (!have_qemu())
        return false;
    save(name, ".qcow2", r->file.p, r->file.size);
    if (r->o.data_file)
        save(name, ".data", r->data.p, r->data.size);
    save(name, ".base", r->below, r->o.disk);
    return true;
}

bool rig_load(struct rig *r, const char *name)
{
    return load(&r->file, name, ".qcow2") && (!r->o.data_file || load(&r->data, name, ".data"));
}

void rig_check(struct rig *r)
{
    char dir[] = "/tmp/qc-rig-XXXXXX", name[64];
    uint64_t size = 0;

    for (int i = 24; i < 32; i++)
        size = size << 8 | r->file.p[i];
    rig_compare_closed(r, NULL, r->model, size);
    assert_non_null(mkdtemp(dir));
    snprintf(name, sizeof(name), "%s/rig", dir);
    if (rig_save(r, name)) {
        save(name, ".model", r->model, size);
        if (rig_run("cd %s && qemu-img check -q rig.qcow2 >rig.log 2>&1", dir) != 0) {
            rig_run("head -20 %s/rig.log; cd %s; qemu-img check rig.qcow2 | tail -5", dir, dir);
            fail_msg("%s: qemu-img finds fault with it", name);
        }
        if (rig_run("cd %s && qemu-img compare -q -F raw rig.qcow2 rig.model", dir) != 0)
            fail_msg("%s: qemu-img reads something else", name);
    }
    rig_run("rm -rf %s", dir);
}
