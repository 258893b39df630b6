/* SPDX-License-Identifier: MIT */
/* Sidecars whose checksums are right, but which break one rule each. */
#include "index_tools.h"

#define DISK MIB

static void num(struct qc_ixf_buf *b, uint64_t v)
{
    if (!b->p)
        b->p = malloc(4096);
    assert_non_null(b->p);
    for (; v >= 0x80; v >>= 7)
        b->p[b->n++] = (uint8_t)(v | 0x80);
    b->p[b->n++] = (uint8_t)v;
}

static void diff(struct qc_ixf_buf *b, int64_t d)
{
    num(b, d < 0 ? ((uint64_t)-(d + 1) << 1) + 1 : (uint64_t)d << 1);
}

static void byte(struct qc_ixf_buf *b, uint8_t v)
{
    num(b, 0);
    b->p[b->n - 1] = v;
}

/* A run of so many bytes: its first number. */
static void head(struct qc_ixf_buf *b, enum qc_kind kind, uint64_t bytes)
{
    num(b, bytes / 512 << 3 | (uint64_t)kind);
}

/*
 * The table of these tests; in pages sources count from the bottom:
 *     4 layer 0, clusters of 64 KiB    3 layer 1, the same, with data file 2
 *     1 layer 2, raw                   0 layer 3, clusters of 512
 */
static void make_table(struct qc_ixf_source source[5], uint64_t disk)
{
    source[0] = source_make(0, 65536, disk);
    source[1] = source_make(1, 65536, DISK);
    source[2] = data_file_make(1);
    source[3] = source_make(2, 0, DISK);
    source[4] = source_make(3, 512, DISK);
}

/* One page for the whole of a disk. */
static void wrap(struct qc_ixf_buf *file, const struct qc_ixf_buf *page, uint32_t n_runs,
                 bool nothing, uint64_t disk)
{
    struct qc_ixf_encoder e = {.n_runs = n_runs, .something = !nothing};
    struct qc_ixf_source source[5];
    uint64_t start = 0;
    struct plan plan = {.virtual_size = disk, .source = source, .n_sources = 5, .n_layers = 4,
                        .n_pages = 1, .start = &start, .page = (struct qc_ixf_buf *)page,
                        .encoder = &e};

    make_table(source, disk);
    assert_int_equal(plan_build(&plan, file), 0);
}

/* The page of a disk of 1 MiB must be refused with these words; NULL: it is fine. */
static void judge(struct qc_ixf_buf *page, uint32_t n_runs, bool nothing, const char *words)
{
    struct qc_ixf_buf file;
    qchain_error err;
    int ret;

    qc_error_init(&err);
    wrap(&file, page, n_runs, nothing, DISK);
    ret = swallow(file.p, file.n, &err);
    if (!words && ret != 0)
        fail_msg("%s", err.text);
    if (words) {
        assert_int_equal(ret, QCHAIN_E_CORRUPT);
        if (!strstr(err.text, words))
            fail_msg("not \"%s\": %s", words, err.text);
        assert_true(err.offset >= 0);
    }
    qc_ixf_buf_finish(&file);
    free(page->p);
    *page = (struct qc_ixf_buf){0};
}

static void lengths(void **unused)
{
    struct qc_ixf_buf b = {0};

    (void)unused;
    head(&b, QC_END, DISK);
    judge(&b, 1, true, NULL);
    head(&b, QC_END, DISK - 512);
    judge(&b, 1, true, "run 1: is missing: the page's part of the disk is not covered");
    head(&b, QC_END, DISK + 512);
    judge(&b, 1, true, "page 0 (disk offset 0): run 0: reaches past the page's end");
    num(&b, UINT64_MAX - 7); /* as long as can be said */
    judge(&b, 1, true, "run 0: reaches past the page's end");
    head(&b, QC_END, 512);
    head(&b, QC_END, 0);
    head(&b, QC_END, DISK - 512);
    judge(&b, 3, true, "run 1: has no length");
    head(&b, QC_END, DISK);
    head(&b, QC_END, 512);
    judge(&b, 2, true, "run 1: reaches past the page's end");
    head(&b, (enum qc_kind)7, DISK);
    judge(&b, 1, true, "run 0: is of no known kind");
}

static void counts(void **unused)
{
    struct qc_ixf_buf b = {0};

    (void)unused;
    head(&b, QC_END, DISK / 2);
    head(&b, QC_END, DISK / 2);
    judge(&b, 2, true, NULL);
    head(&b, QC_END, DISK / 2);
    head(&b, QC_END, DISK / 2);
    judge(&b, 1, true, "run 1: is there, but the page has no more runs");
    head(&b, QC_END, DISK / 2);
    head(&b, QC_END, DISK / 2);
    judge(&b, 3, true, "run 2: is missing: the page has no bytes left");
    head(&b, QC_END, DISK);
    byte(&b, 0);
    judge(&b, 1, true, "run 1: is there");
}

static void numbers(void **unused)
{
    struct qc_ixf_buf b = {0};

    (void)unused;
    byte(&b, 0x80 | 8 | QC_END); /* goes on behind the last byte */
    judge(&b, 1, true, "run 0: has a number that is too large or reaches past");
    head(&b, QC_SHORT, DISK);
    judge(&b, 1, true, "run 0: has a number that is too large or reaches past");
    head(&b, QC_DATA, DISK);
    diff(&b, 1);
    byte(&b, 0xff);
    byte(&b, 0xff);
    judge(&b, 1, false, "run 0: has a number that is too large or reaches past");
    head(&b, QC_COMPRESSED, 65536);
    diff(&b, 4);
    diff(&b, 0);
    judge(&b, 1, false, "run 0: has a number that is too large or reaches past");
    head(&b, QC_SHORT, DISK);
    for (int i = 0; i < 9; i++)
        byte(&b, 0x80);
    byte(&b, 0); /* ten bytes are allowed, whatever they say */
    judge(&b, 1, true, NULL);
    head(&b, QC_SHORT, DISK);
    for (int i = 0; i < 9; i++)
        byte(&b, 0x80);
    byte(&b, 2); /* bit 64 */
    judge(&b, 1, true, "run 0: has a number that is too large or reaches past");
    head(&b, QC_SHORT, DISK);
    for (int i = 0; i < 10; i++)
        byte(&b, 0x80);
    byte(&b, 0);
    judge(&b, 1, true, "run 0: has a number that is too large or reaches past");
}

static void sources(void **unused)
{
    static const struct {
        int64_t     diff;
        const char *words;
    } t[] = {{0, NULL}, {4, NULL}, {5, "run 0: is in a file that the table does not have"},
             {-1, "table does not have"}, {INT64_MAX, "table does not have"},
             {INT64_MIN, "table does not have"}};
    struct qc_ixf_buf b = {0};

    (void)unused;
    for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        head(&b, QC_ZERO, DISK);
        diff(&b, t[i].diff);
        judge(&b, 1, false, t[i].words);
    }
    /* END leaves the memory alone. */
    head(&b, QC_ZERO, 512);
    diff(&b, 4);
    head(&b, QC_END, 512);
    head(&b, QC_ZERO, DISK - 1024);
    diff(&b, 1);
    judge(&b, 3, false, "run 2: is in a file that the table does not have");
}

static void hosts(void **unused)
{
    const int64_t top = (INT64_C(1) << 56) / 512;
    struct qc_ixf_buf b = {0};

    (void)unused;
    for (enum qc_kind kind = QC_ZERO_ALLOC; kind <= QC_DATA; kind++) {
        const struct {
            int64_t     diff;
            const char *words;
        } t[] = {{0, NULL}, {top - (int64_t)DISK / 512, NULL},
                 {top - (int64_t)DISK / 512 + 1, "run 0: lies above 2^56 in its file"},
                 {top, "lies above"}, {-1, "lies above"}, {INT64_MAX, "lies above"},
                 {INT64_MIN, "lies above"}};

        for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
            head(&b, kind, DISK);
            diff(&b, 1);
            diff(&b, t[i].diff);
            judge(&b, 1, false, t[i].words);
        }
    }
    /* The next counts from where this one ends. */
    head(&b, QC_DATA, DISK / 2);
    diff(&b, 1);
    diff(&b, 5);
    head(&b, QC_DATA, DISK / 2);
    diff(&b, 0);
    diff(&b, -(5 + (int64_t)DISK / 1024) - 1);
    judge(&b, 2, false, "run 1: lies above 2^56 in its file");
}

/* A compressed run behind `before` bytes of nothing, then nothing. */
static void compressed_at(uint64_t before, uint64_t bytes, int64_t source, int64_t host,
                          uint64_t sectors, const char *words)
{
    struct qc_ixf_buf b = {0};
    uint32_t n = 1;

    if (before) {
        head(&b, QC_END, before);
        n++;
    }
    head(&b, QC_COMPRESSED, bytes);
    diff(&b, source);
    diff(&b, host);
    num(&b, sectors);
    if (before + bytes < DISK) {
        head(&b, QC_END, DISK - before - bytes);
        n++;
    }
    judge(&b, n, false, words);
}

static void compressed(void **unused)
{
    static const char no[] = "is compressed, in a file that has no compressed clusters";
    static const char over[] = "is compressed, but reaches over more than one cluster";
    static const char length[] = "has a compressed stream of an impossible length";
    const int64_t top = INT64_C(1) << 56;

    (void)unused;
    compressed_at(0, 65536, 4, 12345, 1, NULL);
    compressed_at(DISK - 65536, 65536, 4, 12345, 257, NULL);
    compressed_at(512, 65024, 4, 0, 257, NULL);
    compressed_at(1024, 512, 4, 0, 257, NULL);
    compressed_at(0, 512, 0, 0, 3, NULL);
    compressed_at(0, 65536, 3, 0, 1, no); /* its layer's data is elsewhere */
    compressed_at(0, 65536, 2, 0, 1, no);
    compressed_at(0, 512, 1, 0, 1, no);
    compressed_at(0, 66048, 4, 0, 1, over);
    compressed_at(512, 65536, 4, 0, 1, over);
    compressed_at(65024, 1024, 4, 0, 1, over);
    compressed_at(0, 1024, 0, 0, 1, over);
    compressed_at(0, 65536, 4, 0, 0, length);
    compressed_at(0, 65536, 4, 0, 258, length);
    compressed_at(0, 512, 0, 0, 4, length);
    compressed_at(0, 65536, 4, 0, UINT64_MAX, length);
    compressed_at(0, 65536, 4, 0, 65536 + 1, length);
    compressed_at(0, 65536, 4, top - 1, 1, NULL);
    compressed_at(0, 65536, 4, top, 1, "lies above 2^56 in its file");
    compressed_at(0, 65536, 4, -1, 1, "lies above 2^56 in its file");
    compressed_at(0, 65536, 5, 0, 1, "table does not have");
}

static void nothing(void **unused)
{
    struct qc_ixf_buf b = {0};

    (void)unused;
    for (enum qc_kind kind = QC_END; kind <= QC_DATA; kind++) {
        for (int said = 0; said < 2; said++) {
            head(&b, kind, DISK);
            if (kind != QC_END)
                diff(&b, 1);
            if (qc_kind_has_host(kind))
                diff(&b, 1);
            judge(&b, 1, said, said && kind > QC_SHORT ? "run 0: is something, in a page" : NULL);
        }
    }
}

/* ------------------------------------------------------ header, table, directory --- */

static void put(uint8_t *p, uint64_t v, unsigned bytes)
{
    memcpy(p, &v, bytes);
}

/* Make all checksums right; the parts lie where the good file had them. */
static void fix(uint8_t *p, uint32_t table_bytes, uint32_t dir_bytes)
{
    put(p + 68, qc_crc32c(0, p + 160, table_bytes), 4);
    put(p + 84, qc_crc32c(0, p + 160 + table_bytes, dir_bytes), 4);
    put(p + 20, 0, 4);
    put(p + 20, qc_crc32c(0, p, 160), 4);
}

enum part { HEADER, TABLE, DIRECTORY };

/* Two pages of nothing: of 256 MiB, and of 512 bytes. */
#define BIG (2 * QC_IXF_WINDOW + 512)

static const struct {
    enum part   part;
    uint32_t    at; /* in the part */
    unsigned    bytes;
    uint64_t    value;
    int         code;
    const char *words;
} rule[] = {
#define C QCHAIN_E_CORRUPT
#define U QCHAIN_E_UNSUPPORTED
    {HEADER, 0, 1, 'q', C, "not a sidecar index"},
    {HEADER, 8, 4, 2, U, "version 2, but this library knows version 1 only: build the sidecar"},
    {HEADER, 8, 4, 0, U, "build the sidecar again"},
    {HEADER, 12, 4, 161, C, "its length is not 160 bytes"},
    {HEADER, 16, 4, 1, U, "flags 0x1 are not known"},
    {HEADER, 112, 1, 1, C, "reserved bytes are not 0"},
    {HEADER, 159, 1, 1, C, "reserved bytes are not 0"},
    {HEADER, 24, 8, 5, C, "says that the file has 5 bytes"},
    {HEADER, 32, 8, BIG + 1, C, "the disk's size is not a multiple of 512 below 2^63"},
    {HEADER, 32, 8, UINT64_C(1) << 63, C, "the disk's size is not"},
    {HEADER, 32, 8, 0, C, "the number of pages does not fit the disk"},
    {HEADER, 32, 8, BIG + 512, C, "layer 0 has not the size of the disk"},
    {HEADER, 48, 4, 0, C, "the number of layers is not 1..65535"},
    {HEADER, 48, 4, 65536, C, "the number of layers is not 1..65535"},
    {HEADER, 48, 4, 3, C, "has not as many layers as the header says"},
    {HEADER, 48, 4, 5, C, "has not as many layers as the header says"},
    {HEADER, 48, 4, 6, C, "the number of files does not fit"},
    {HEADER, 48, 4, 2, C, "the number of files does not fit"},
    {HEADER, 52, 4, 4, C, "has bytes behind its last entry"},
    {HEADER, 52, 4, 6, C, "file 5: reaches past the table's end"},
    {HEADER, 52, 4, 0, C, "the number of files does not fit"},
    {HEADER, 52, 4, 65536, C, "the number of files does not fit"},
    {HEADER, 56, 8, 161, C, "the table does not begin behind the header"},
    {HEADER, 64, 4, 5 * 59 - 1, C, "the table's length does not fit"},
    {HEADER, 64, 4, (64 << 20) + 1, C, "the table's length does not fit"},
    {HEADER, 64, 4, 64 << 20, C, "the directory does not begin behind the table"},
    {HEADER, 72, 8, 0, C, "the directory does not begin behind the table"},
    {HEADER, 80, 4, 0, C, "the number of pages does not fit the disk"},
    {HEADER, 80, 4, 65537, C, "the number of pages does not fit the disk"},
    {HEADER, 80, 4, 65536, C, "the file ends within its directory"},
    {HEADER, 88, 8, 1, C, "has not as many runs as the header says"},
    {TABLE, 0, 4, 1, C, "file 0: its layer does not follow that before it"},
    {TABLE, 4, 4, 32, U, "file 0: has flags that are not known"},
    {TABLE, 4, 4, UINT32_C(1) << 31, U, "file 0: has flags that are not known"},
    {TABLE, 4, 4, 16 | 2, C, "file 0: an object that is racy"},
    {TABLE, 4, 4, 1, C, "file 0: a data file that is not behind its layer's file"},
    {TABLE, 8, 8, UINT64_C(1) << 63, C, "file 0: its size is over 2^63 bytes"},
    {TABLE, 32, 8, BIG - 512, C, "layer 0 has not the size of the disk"},
    {TABLE, 32, 8, BIG - 1, C, "file 0: its disk's size is not a multiple of 512 below 2^63"},
    {TABLE, 32, 8, UINT64_C(1) << 63, C, "file 0: its disk's size is not"},
    {TABLE, 40, 4, 0, C, "file 0: its cluster size is not a power of two"},
    {TABLE, 40, 4, 256, C, "file 0: its cluster size is not a power of two"},
    {TABLE, 40, 4, 65537, C, "file 0: its cluster size is not a power of two"},
    {TABLE, 40, 4, 4 << 20, C, "file 0: its cluster size is not a power of two"},
    {TABLE, 44, 4, 2, U, "file 0: has a compression that is not known"},
    {TABLE, 48, 2, 0, C, "file 0: the length of a name in it is out of range"},
    {TABLE, 48, 2, 4096, C, "file 0: the length of a name in it is out of range"},
    {TABLE, 50, 2, 0, C, "file 0: the length of a name in it is out of range"},
    {TABLE, 50, 2, 4096, C, "file 0: the length of a name in it is out of range"},
    {TABLE, 50, 2, 4095, C, "file 0: its names reach past the table's end"},
    {TABLE, 52, 2, 0, C, "file 0: the length of a name in it is out of range"},
    {TABLE, 52, 2, 16, C, "file 0: the length of a name in it is out of range"},
    {TABLE, 54, 2, 1, C, "file 0: a local file with a validator"}, /* of the next one's bytes */
    {TABLE, 54, 2, 256, C, "file 0: the length of a name in it is out of range"},
    {TABLE, 54, 2, UINT16_MAX, C, "file 0: the length of a name in it is out of range"},
    {TABLE, 57, 1, 0, C, "file 0: a name in it has a NUL"},
    {TABLE, 71, 1, 'x', U, "file 0: has a format that is not known"},
    /* An entry of a "qcow2" has 76 bytes, of a "raw" 74: files 1, 2, 3. */
    {TABLE, 76, 4, 0, C, "file 1: its layer does not follow"},
    {TABLE, 76, 4, 2, C, "file 1: its layer does not follow"},
    {TABLE, 80, 4, 1, C, "file 1: a data file that is not behind its layer's file"},
    {TABLE, 152, 4, 2, C, "file 2: a data file that is not behind its layer's file"},
    {TABLE, 184, 8, 512, C, "file 2: a data file with a disk or clusters of its own"},
    {TABLE, 192, 4, 512, C, "file 2: a data file with a disk or clusters of its own"},
    {TABLE, 226, 4, 1, C, "file 3: its layer does not follow"},
    {TABLE, 230, 4, 1, C, "file 3: a data file that is not behind its layer's file"},
    {TABLE, 266, 4, 512, C, "file 3: a raw layer with clusters"},
    {DIRECTORY, 0, 8, QC_IXF_WINDOW, C, "page 0 (disk offset 134217728): does not follow"},
    {DIRECTORY, 0, 8, 512, C, "page 0 (disk offset 512): begins at no multiple of 128 MiB"},
    {DIRECTORY, 8, 8, 0, C, "page 0 (disk offset 0): does not begin where the part before ends"},
    {DIRECTORY, 16, 4, UINT32_MAX, C, "page 0 (disk offset 0): reaches past the file's end"},
    {DIRECTORY, 16, 4, 6, C, "does not begin where the part before ends"},
    {DIRECTORY, 20, 4, 6, C, "page 0 (disk offset 0): its checksum is wrong"},
    {DIRECTORY, 24, 4, 0, C, "page 0 (disk offset 0): cannot have as many runs as it says"},
    {DIRECTORY, 24, 4, 5, C, "page 0 (disk offset 0): cannot have as many runs as it says"},
    {DIRECTORY, 24, 4, 2, C, "has not as many runs as the header says"},
    {DIRECTORY, 28, 4, 2, U, "page 0 (disk offset 0): has flags that are not known"},
    {DIRECTORY, 32, 8, 0, C, "page 1 (disk offset 0): does not follow the page before it"},
    {DIRECTORY, 32, 8, QC_IXF_WINDOW, C, "run 0: reaches past the page's end"},
    {DIRECTORY, 32, 8, 2 * QC_IXF_WINDOW + 512, C, "begins at no multiple of 128 MiB"},
    {DIRECTORY, 32, 8, 3 * QC_IXF_WINDOW, C, "page 1 (disk offset 402653184): begins behind the d"},
    {DIRECTORY, 48, 4, 0, C, "page 1 (disk offset 268435456): cannot have as many runs"},
    {DIRECTORY, 48, 4, 1, C, "the file has bytes behind its last page"},
    {DIRECTORY, 56, 4, 2, C, "page 1 (disk offset 268435456): cannot have as many runs"},
#undef C
#undef U
};

static void rules(void **unused)
{
    uint64_t start[2] = {0, 2 * QC_IXF_WINDOW};
    struct qc_ixf_encoder e[2] = {{.n_runs = 1}, {.n_runs = 1}};
    struct qc_ixf_buf page[2] = {{0}}, file;
    struct qc_ixf_source source[5];
    struct plan plan = {.virtual_size = BIG, .source = source, .n_sources = 5, .n_layers = 4,
                        .n_pages = 2, .start = start, .page = page, .encoder = e};
    uint32_t base[3] = {0, 160}, table_bytes;
    uint8_t before[8], *at;
    qchain_error err;

    (void)unused;
    make_table(source, BIG);
    head(&page[0], QC_END, 2 * QC_IXF_WINDOW);
    head(&page[1], QC_SHORT, 512);
    num(&page[1], 0);
    assert_int_equal(plan_build(&plan, &file), 0);
    memcpy(&table_bytes, file.p + 64, 4);
    base[2] = 160 + table_bytes;
    for (size_t i = 0; i < sizeof(rule) / sizeof(rule[0]); i++) {
        at = file.p + base[rule[i].part] + rule[i].at;
        memcpy(before, at, rule[i].bytes);
        assert_int_equal(swallow(file.p, file.n, NULL), 0);
        put(at, rule[i].value, rule[i].bytes);
        fix(file.p, table_bytes, 64);
        qc_error_init(&err);
        if (swallow(file.p, file.n, &err) != rule[i].code || !strstr(err.text, rule[i].words))
            fail_msg("rule %zu: not \"%s\" but %d: %s", i, rule[i].words, err.code, err.text);
        memcpy(at, before, rule[i].bytes);
        fix(file.p, table_bytes, 64);
    }
    assert_int_equal(swallow(file.p, file.n, NULL), 0);
    qc_ixf_buf_finish(&file);
    free(page[0].p);
    free(page[1].p);
}

/* A validator of "x" behind the names of an only layer, changed byte by byte. */
static void validators(void **unused)
{
    static const struct {
        uint32_t    flags;
        uint8_t     byte;
        const char *words;
    } t[] = {
        {QC_IXF_REMOTE, 'x', NULL},
        {QC_IXF_REMOTE, '"', NULL},
        {QC_IXF_REMOTE, ' ', NULL},
        {QC_IXF_REMOTE, 0xe4, NULL},
        {QC_IXF_REMOTE, 0, "file 0: a name in it has a NUL"},
        {QC_IXF_REMOTE, '\n', "file 0: its validator has control characters"},
        {QC_IXF_REMOTE, 0x1f, "file 0: its validator has control characters"},
        {QC_IXF_REMOTE, 0x7f, "file 0: its validator has control characters"},
        {QC_IXF_REMOTE | QC_IXF_RACY, 'x', "file 0: an object that is racy"},
        {0, 'x', "file 0: a local file with a validator"},
        {QC_IXF_RACY | QC_IXF_HOLES, 'x', "file 0: a local file with a validator"},
    };
    struct qc_ixf_source source = source_make(0, 65536, 0);
    struct plan plan = {.source = &source, .n_sources = 1, .n_layers = 1};
    struct qc_ixf_buf file;
    qchain_error err;

    (void)unused;
    source.validator = "x";
    for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        source.flags = t[i].flags;
        assert_int_equal(plan_build(&plan, &file), 0);
        file.p[file.n - 1] = t[i].byte;
        fix(file.p, (uint32_t)file.n - 160, 0);
        qc_error_init(&err);
        assert_int_equal(swallow(file.p, file.n, &err), t[i].words ? QCHAIN_E_CORRUPT : 0);
        if (t[i].words && !strstr(err.text, t[i].words))
            fail_msg("not \"%s\" but %s", t[i].words, err.text);
        qc_ixf_buf_finish(&file);
    }
    /* One byte more than there are. */
    assert_int_equal(plan_build(&plan, &file), 0);
    put(file.p + 160 + 54, 2, 2);
    fix(file.p, (uint32_t)file.n - 160, 0);
    qc_error_init(&err);
    assert_int_equal(swallow(file.p, file.n, &err), QCHAIN_E_CORRUPT);
    assert_non_null(strstr(err.text, "file 0: its names reach past the table's end"));
    qc_ixf_buf_finish(&file);
}

/* A layer may have one data file, not two. */
static void two_data_files(void **unused)
{
    struct qc_ixf_source source[3] = {source_make(0, 65536, DISK), data_file_make(0),
                                      data_file_make(0)};
    struct qc_ixf_encoder e = {.n_runs = 1};
    struct qc_ixf_buf page = {0}, file;
    uint64_t start = 0;
    struct plan plan = {.virtual_size = DISK, .source = source, .n_sources = 2, .n_layers = 1,
                        .n_pages = 1, .start = &start, .page = &page, .encoder = &e};
    qchain_error err;

    (void)unused;
    head(&page, QC_END, DISK);
    for (plan.n_sources = 2; plan.n_sources <= 3; plan.n_sources++) {
        plan.n_layers = plan.n_sources - 1; /* that many must be believed in first */
        assert_int_equal(plan_build(&plan, &file), 0);
        qc_error_init(&err);
        assert_int_equal(swallow(file.p, file.n, &err), plan.n_sources == 2 ? 0
                                                                            : QCHAIN_E_CORRUPT);
        if (plan.n_sources == 3)
            assert_non_null(strstr(err.text, "file 2: a data file that is not behind its"));
        qc_ixf_buf_finish(&file);
    }
    free(page.p);
}

/* Pages as large as they may be, and by one byte larger. */
static void page_sizes(void **unused)
{
    static const struct {
        uint64_t disk;
        size_t   bytes;
    } t[] = {{QC_IXF_WINDOW, QC_IXF_PAGE_MAX}, {2 * QC_IXF_WINDOW, QC_IXF_WIDE_PAGE_MAX}};

    (void)unused;
    for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        for (size_t more = 0; more < 2; more++) {
            struct qc_ixf_buf page = {calloc(1, t[i].bytes + 1), t[i].bytes + more, 0}, file;
            qchain_error err;
            struct qc_ixf x;

            assert_non_null(page.p);
            qc_error_init(&err);
            wrap(&file, &page, 1, true, t[i].disk);
            assert_int_equal(parse(&x, file.p, file.n, &err), more ? QCHAIN_E_CORRUPT : 0);
            if (more)
                assert_non_null(strstr(err.text, "has more bytes than a page may have"));
            qc_ixf_finish(&x);
            qc_ixf_buf_finish(&file);
            free(page.p);
        }
    }
}

/* A disk without bytes ends with its directory, which is empty. */
static void no_bytes(void **unused)
{
    struct qc_ixf_source source = source_make(0, 65536, 0);
    struct plan plan = {.source = &source, .n_sources = 1, .n_layers = 1};
    struct qc_ixf_buf file;
    qchain_error err;

    (void)unused;
    assert_int_equal(plan_build(&plan, &file), 0);
    assert_int_equal(swallow(file.p, file.n, NULL), 0);
    file.p = realloc(file.p, file.n + 1);
    assert_non_null(file.p);
    file.p[file.n++] = 0;
    put(file.p + 24, file.n, 8);
    fix(file.p, (uint32_t)file.n - 161, 0);
    qc_error_init(&err);
    assert_int_equal(swallow(file.p, file.n, &err), QCHAIN_E_CORRUPT);
    assert_non_null(strstr(err.text, "there is something behind the last part"));
    qc_ixf_buf_finish(&file);
}

/* Two windows as one run of layer `layer`, whose file has `size` bytes. */
static void long_run(uint32_t from_bottom, uint64_t size, const char *words)
{
    const uint64_t disk = 2 * QC_IXF_WINDOW;
    struct qc_ixf_encoder e = {.n_runs = 1, .something = true};
    struct qc_ixf_source source[5];
    struct qc_ixf_buf page = {0}, file;
    uint64_t start = 0;
    struct plan plan = {.virtual_size = disk, .source = source, .n_sources = 5, .n_layers = 4,
                        .n_pages = 1, .start = &start, .page = &page, .encoder = &e};
    qchain_error err;

    make_table(source, disk);
    source[from_bottom == 2 ? 1 : 4 - from_bottom].size = size;
    head(&page, QC_ZERO, disk);
    diff(&page, from_bottom);
    assert_int_equal(plan_build(&plan, &file), 0);
    qc_error_init(&err);
    assert_int_equal(swallow(file.p, file.n, &err), words ? QCHAIN_E_CORRUPT : 0);
    if (words)
        assert_non_null(strstr(err.text, words));
    qc_ixf_buf_finish(&file);
    qc_ixf_buf_finish(&page);
}

/* A layer's tables tell of eight bytes a cluster at least. */
static void too_long(void **unused)
{
    static const char words[] = "run 0: is longer than its layer can tell of";

    (void)unused;
    long_run(4, 8 * 4096, NULL);
    long_run(4, 8 * 4096 - 1, words);
    long_run(2, 8 * 4096 - 1, words); /* a data file: its layer's own file counts */
    long_run(2, 8 * 4096, NULL);
    long_run(1, 2 * QC_IXF_WINDOW - 511, NULL);
    long_run(1, 2 * QC_IXF_WINDOW - 512, words);
    long_run(0, 8 * 524288 - 8, words);
    long_run(0, 8 * 524288, NULL);
}

/* A compressed stream begins within its file. */
static void past_the_end(void **unused)
{
    struct qc_ixf_encoder e = {.n_runs = 2, .something = true};
    struct qc_ixf_source source[5];
    struct qc_ixf_buf page = {0}, file;
    uint64_t start = 0;
    struct plan plan = {.virtual_size = DISK, .source = source, .n_sources = 5, .n_layers = 4,
                        .n_pages = 1, .start = &start, .page = &page, .encoder = &e};
    qchain_error err;

    (void)unused;
    for (uint64_t size = 70000; size < 70002; size++) {
        make_table(source, DISK);
        source[0].size = size;
        page.n = 0;
        head(&page, QC_COMPRESSED, 65536);
        diff(&page, 4);
        diff(&page, 70000);
        num(&page, 1);
        head(&page, QC_END, DISK - 65536);
        assert_int_equal(plan_build(&plan, &file), 0);
        qc_error_init(&err);
        assert_int_equal(swallow(file.p, file.n, &err), size == 70000 ? QCHAIN_E_CORRUPT : 0);
        if (size == 70000)
            assert_non_null(strstr(err.text, "past the end of its file"));
        qc_ixf_buf_finish(&file);
    }
    qc_ixf_buf_finish(&page);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lengths),    cmocka_unit_test(counts),  cmocka_unit_test(numbers),
        cmocka_unit_test(sources),    cmocka_unit_test(hosts),   cmocka_unit_test(compressed),
        cmocka_unit_test(nothing),    cmocka_unit_test(rules),   cmocka_unit_test(page_sizes),
        cmocka_unit_test(no_bytes),   cmocka_unit_test(two_data_files),
        cmocka_unit_test(validators),
        cmocka_unit_test(too_long),   cmocka_unit_test(past_the_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
