/* SPDX-License-Identifier: MIT */
/* doctor_host.c - the program, the library and the machine. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/timex.h>
#include <unistd.h>

#include "doctor.h"

#define FEW_FILES 1024
#define FEW_LOCKED (64 * 1024) /* what a ring of requests takes */

static void check_version(struct doctor *d)
{
    uint32_t built = QCHAIN_VERSION_MAJOR << 16 | QCHAIN_VERSION_MINOR << 8 | QCHAIN_VERSION_PATCH;
    bool same = qchain_version() == built;

    doctor_say(d, same ? DOCTOR_OK : DOCTOR_PROBLEM, "version",
               same ? NULL : "install the program and the library of one version",
               "program %d.%d.%d, library %s", QCHAIN_VERSION_MAJOR, QCHAIN_VERSION_MINOR, QCHAIN_VERSION_PATCH,
               qchain_version_string());
}

static void check_features(struct doctor *d)
{
    static const struct {
        const char *name;
        const char *without;
    } wanted[] = {
        {"zstd", "images with compression type zstd cannot be read; build it with libzstd"},
        {"libdeflate", "zlib unpacks clusters, more slowly; build it with libdeflate"},
        {"io_uring", "threads carry the requests of queues; build it with liburing"},
        {"locks", "images are not locked against other programs"},
    };
    char list[128] = "";
    size_t i;

    for (i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
        if (!qchain_has(wanted[i].name)) {
            doctor_say(d, DOCTOR_NOTE, "features", wanted[i].without, "the library was built without %s",
                       wanted[i].name);
            continue;
        }
        strcat(list, list[0] ? " " : "");
        strcat(list, wanted[i].name);
    }
    if (list[0])
        doctor_say(d, DOCTOR_OK, "features", NULL, "%s", list);
}

/* libcurl as the library has loaded it, and behind it what it does TLS by and so on. */
static const char *curl_text(void)
{
    static const char *const names[] = {"libcurl.so.4", "libcurl-gnutls.so.4"};
    const char *(*version)(void);
    void *library = NULL;
    size_t i;

    for (i = 0; !library && i < sizeof(names) / sizeof(names[0]); i++)
        library = dlopen(names[i], RTLD_LAZY | RTLD_NOLOAD);
    *(void **)&version = library ? dlsym(library, "curl_version") : NULL;
    return version ? version() : "loaded";
}

static void check_curl(struct doctor *d)
{
    qchain_image_info *info = NULL;

    if (qchain_has("http")) {
        const char *text = curl_text(), *second = strchrnul(text, ' ');

        doctor_say(d, DOCTOR_OK, "libcurl", NULL, "%.*s",
                   (int)(*second ? strchrnul(second + 1, ' ') - text : second - text), text);
        return;
    }
    /* nothing is sent without it, and the message says what is wrong */
    if (qchain_inspect(&info, d->t->env, "http://localhost/", NULL, d->t->err) == 0)
        qchain_image_info_free(info);
    doctor_say(d, DOCTOR_NOTE, "libcurl", "install libcurl (Debian: libcurl4); local images need none",
               "URLs cannot be opened: %s", doctor_message(d));
}

/* What a queue on a file is carried by. */
static void check_uring(struct doctor *d)
{
    int fd = memfd_create("qchain-doctor", MFD_CLOEXEC);
    qchain_open_opts o;
    qchain_queue *q = NULL;
    qchain *c = NULL;

    qchain_open_opts_init(&o, sizeof(o));
    o.flags = QCHAIN_OPEN_FD;
    o.format = "raw";
    o.fd = fd;
    if (fd < 0 || ftruncate(fd, 4096) != 0)
        doctor_say(d, DOCTOR_PROBLEM, "io_uring", NULL, "no file in memory can be made: %s", strerror(errno));
    else if (qchain_open(&c, d->t->env, NULL, &o, d->t->err) != 0 ||
             qchain_queue_create(&q, c, NULL, d->t->err) != 0)
        doctor_say(d, DOCTOR_PROBLEM, "io_uring", NULL, "%s", doctor_message(d));
    else if (strcmp(qchain_queue_engine(q), "io_uring") == 0)
        doctor_say(d, DOCTOR_OK, "io_uring", NULL, "carries the requests of queues");
    else
        doctor_say(d, DOCTOR_NOTE, "io_uring",
                   "all works, more slowly; allow it by sysctl kernel.io_uring_disabled or the container's seccomp "
                   "profile",
                   "not to be had here: threads carry the requests of queues");
    qchain_queue_destroy(q);
    qchain_close(c);
    if (fd >= 0)
        close(fd);
}

static void limit_text(char *buf, size_t size, rlim_t v)
{
    if (v == RLIM_INFINITY)
        snprintf(buf, size, "unlimited");
    else
        snprintf(buf, size, "%" PRIu64, (uint64_t)v);
}

static void check_limits(struct doctor *d)
{
    struct rlimit files = {0, 0}, locked = {0, 0};
    char hard[32], memory[32];

    getrlimit(RLIMIT_NOFILE, &files);
    getrlimit(RLIMIT_MEMLOCK, &locked);
    limit_text(hard, sizeof(hard), files.rlim_max);
    limit_text(memory, sizeof(memory), locked.rlim_cur);
    if (files.rlim_max < FEW_FILES)
        doctor_say(d, DOCTOR_NOTE, "open files", "raise the hard limit: ulimit -Hn, LimitNOFILE= of a service",
                   "at most %s: files of longer chains are closed and opened again", hard);
    else
        doctor_say(d, DOCTOR_OK, "open files", NULL, "at most %s", hard);
    if (locked.rlim_cur < FEW_LOCKED)
        doctor_say(d, DOCTOR_NOTE, "locked memory", "raise it: ulimit -l, LimitMEMLOCK= of a service",
                   "at most %s bytes: kernels before 5.12 need more for io_uring", memory);
    else
        doctor_say(d, DOCTOR_OK, "locked memory", NULL, "at most %s bytes", memory);
}

static void check_fuse(struct doctor *d)
{
    static const char device[] = "/dev/fuse";

    if (access(device, F_OK) != 0)
        doctor_say(d, DOCTOR_NOTE, "fuse", "for qchain-fuse: modprobe fuse, or give the container the device",
                   "there is no %s", device);
    else if (access(device, R_OK | W_OK) != 0)
        doctor_say(d, DOCTOR_NOTE, "fuse", "for qchain-fuse: be root, or have its mode be 0666",
                   "%s: %s", device, strerror(errno));
    else
        doctor_say(d, DOCTOR_OK, "fuse", NULL, "%s may be opened", device);
}

/* Requests that are signed tell the time; stores refuse those that are 15 minutes off. */
static void check_clock(struct doctor *d)
{
    struct timex x;

    memset(&x, 0, sizeof(x));
    if (adjtimex(&x) < 0)
        doctor_say(d, DOCTOR_NOTE, "clock", NULL, "nobody tells whether it is right: %s", strerror(errno));
    else if (x.status & STA_UNSYNC)
        doctor_say(d, DOCTOR_NOTE, "clock",
                   "stores refuse signed requests if it is wrong by minutes: run an NTP client",
                   "the kernel does not know that it is right");
    else
        doctor_say(d, DOCTOR_OK, "clock", NULL, "kept right");
}

void doctor_host(struct doctor *d)
{
    check_version(d);
    check_features(d);
    check_curl(d);
    check_uring(d);
    check_limits(d);
    check_fuse(d);
    check_clock(d);
}
