/* SPDX-License-Identifier: MIT */
/*
 * What a program that forks and that uses signals may rely on: handles of the
 * parent fail INVAL in the child and harm nobody, environments without a chain
 * serve both, and no signal sent to the process ends up in a library thread.
 */
#include <dirent.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <qchain.h>

#define CHECK(cond)                                                            \
    do {                                                                       \
        if (!(cond)) {                                                         \
            fprintf(stderr, "fork: %s:%d: not so: %s\n", __FILE__, __LINE__, #cond); \
            _exit(1);                                                          \
        }                                                                      \
    } while (0)

static volatile sig_atomic_t delivered;
static volatile sig_atomic_t astray;
static pid_t main_thread;
static atomic_int watched;
static atomic_int masks_seen;

static void on_signal(int number)
{
    (void)number;
    delivered++;
    if ((pid_t)syscall(SYS_gettid) != main_thread) {
        astray++;
    }
}

/* Signals that a mask can hold and that are not the C library's own. */
static uint64_t maskable(void)
{
    uint64_t mask = 0;

    for (int s = 1; s <= 31; s++) {
        if (s != SIGKILL && s != SIGSTOP) {
            mask |= (uint64_t)1 << (s - 1);
        }
    }
    return mask;
}

static uint64_t blocked_of(const char *task)
{
    char     path[128];
    char     line[256];
    uint64_t mask = ~(uint64_t)0; /* of one that has just ended */
    FILE    *f = NULL;

    snprintf(path, sizeof(path), "/proc/self/task/%s/status", task);
    f = fopen(path, "re");
    if (f == NULL) {
        return mask;
    }
    while (fgets(line, sizeof(line), f) != NULL) {
        /* The kernel forgets the masks of a thread that ends before its entry. */
        if (strcmp(line, "Threads:\t0\n") == 0 ||
            sscanf(line, "SigBlk: %" SCNx64, &mask) == 1) {
            break;
        }
    }
    fclose(f);
    return mask;
}

/* Every thread but the main one blocks every signal. */
static void check_masks(void)
{
    DIR           *d = opendir("/proc/self/task");
    struct dirent *e = NULL;

    CHECK(d != NULL);
    while ((e = readdir(d)) != NULL) {
        if (e->d_name[0] == '.' || atoi(e->d_name) == (int)main_thread) {
            continue;
        }
        if (atoi(e->d_name) != (int)syscall(SYS_gettid)) {
            masks_seen++;
        }
        CHECK((blocked_of(e->d_name) & maskable()) == maskable());
    }
    closedir(d);
}

/* Looks on while the main thread uses the library. */
static void *watch(void *arg)
{
    (void)arg;
    while (!watched) {
        check_masks();
    }
    return NULL;
}

static pthread_t start_watcher(void)
{
    pthread_t thread;
    sigset_t  all;
    sigset_t  old;

    sigfillset(&all);
    CHECK(pthread_sigmask(SIG_SETMASK, &all, &old) == 0);
    CHECK(pthread_create(&thread, NULL, watch, NULL) == 0);
    CHECK(pthread_sigmask(SIG_SETMASK, &old, NULL) == 0);
    return thread;
}

/* A child that sends signals while the parent's library threads work. */
static pid_t start_sender(int count)
{
    pid_t           parent = getpid();
    pid_t           pid = fork();
    struct timespec pause = { .tv_nsec = 1000000 };

    CHECK(pid >= 0);
    if (pid == 0) {
        for (int i = 0; i < count; i++) {
            kill(parent, SIGUSR1);
            nanosleep(&pause, NULL);
        }
        _exit(0);
    }
    return pid;
}

static void reap(pid_t pid)
{
    int   status = 0;
    pid_t got = 0;

    do {
        got = waitpid(pid, &status, 0);
    } while (got < 0);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void check_signals(qchain *c)
{
    struct sigaction act;
    uint8_t          digest[32];
    uint8_t          again[32];
    pthread_t        watcher;
    pid_t            sender;
    int              status = 0;

    memset(&act, 0, sizeof(act));
    act.sa_handler = on_signal;
    CHECK(sigaction(SIGUSR1, &act, NULL) == 0);
    CHECK(qchain_checksum(c, digest, 4, NULL, NULL) == 0);
    sender = start_sender(100);
    watcher = start_watcher();
    do {
        CHECK(qchain_checksum(c, again, 4, NULL, NULL) == 0);
        CHECK(memcmp(digest, again, sizeof(digest)) == 0);
    } while (waitpid(sender, &status, WNOHANG) != sender);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    watched = 1;
    CHECK(pthread_join(watcher, NULL) == 0);
    CHECK(delivered > 0);
    CHECK(masks_seen > 0);
    CHECK(astray == 0);
    printf("fork: %d signals, %d thread masks seen\n", (int)delivered, (int)masks_seen);
}

static void child_of_open_chain(qchain *c)
{
    qchain_error *err = qchain_error_create();
    qchain_extent extent;
    uint8_t       byte = 0;
    uint8_t       digest[32];
    uint32_t      n = 0;
    uint64_t      next = 0;

    alarm(120);
    CHECK(qchain_read(c, &byte, 1, 0, 0, err) == QCHAIN_E_INVAL);
    CHECK(strstr(qchain_error_message(err), "fork") != NULL);
    CHECK(qchain_map(c, 0, 512, &extent, 1, &n, &next, 0, err) == QCHAIN_E_INVAL);
    CHECK(qchain_diff(c, qchain_layers(c), 0, 0, 512, &extent, 1, &n, &next, 0, err) ==
          QCHAIN_E_INVAL);
    CHECK(qchain_checksum(c, digest, 2, NULL, err) == QCHAIN_E_INVAL);
    qchain_close(c);
    qchain_error_destroy(err);
    _exit(0);
}

static void check_fork_after_open(qchain *c)
{
    uint8_t before[32];
    uint8_t after[32];

    CHECK(qchain_checksum(c, before, 2, NULL, NULL) == 0);
    for (int i = 0; i < 5; i++) {
        pid_t pid = fork();

        CHECK(pid >= 0);
        if (pid == 0) {
            child_of_open_chain(c);
        }
        CHECK(qchain_checksum(c, after, 2, NULL, NULL) == 0);
        reap(pid);
        CHECK(memcmp(before, after, sizeof(before)) == 0);
        CHECK(qchain_checksum(c, after, 2, NULL, NULL) == 0);
        CHECK(memcmp(before, after, sizeof(before)) == 0);
    }
}

static void use_env(qchain_env *env, const char *name)
{
    qchain *c = NULL;
    uint8_t digest[32];

    CHECK(qchain_open(&c, env, name, NULL, NULL) == 0);
    CHECK(qchain_checksum(c, digest, 2, NULL, NULL) == 0);
    qchain_close(c);
}

static void check_fork_before_open(const char *name)
{
    qchain_env *env = NULL;
    pid_t       pid;

    CHECK(qchain_env_create(&env, NULL, NULL) == 0);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        alarm(120);
        use_env(env, name);
        qchain_env_destroy(env);
        _exit(0);
    }
    use_env(env, name);
    reap(pid);
    qchain_env_destroy(env);
}

int main(int argc, char **argv)
{
    qchain_error *err = qchain_error_create();
    qchain       *c = NULL;

    if (argc != 2) {
        fputs("usage: fork IMAGE\n", stderr);
        return 2;
    }
    main_thread = (pid_t)syscall(SYS_gettid);
    check_fork_before_open(argv[1]);
    if (qchain_open(&c, NULL, argv[1], NULL, err) != 0) {
        fprintf(stderr, "fork: %s\n", qchain_error_message(err));
        return 1;
    }
    check_signals(c);
    check_fork_after_open(c);
    qchain_close(c);
    qchain_error_destroy(err);
    puts("fork: children fail INVAL, the parent goes on, signals stay out");
    return 0;
}
