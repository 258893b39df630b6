/* SPDX-License-Identifier: MIT */
/*
 * The kernel refuses what a ring hands over, after the ring was made: each request ends all
 * the same with the right bytes, and the queue's descriptor tells of it, whenever it was
 * asked for.
 */
#include "../unit/mem_layers.c"
#include "mem_files.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define LENGTH 4096

enum order { DESCRIPTOR_THEN_READ, DESCRIPTOR_BEFORE, READ_THEN_DESCRIPTOR, N_ORDERS };

static void insist(bool ok, int line)
{
    if (ok)
        return;
    printf("test_queue_refused: line %d\n", line);
    fflush(stdout);
    _exit(1);
}
#define MUST(ok) insist(ok, __LINE__)

static bool refuse(int errnum)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_enter, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)errnum),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog prog = {sizeof(code) / sizeof(*code), code};

    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) == 0;
}

static void submit(qchain_queue *q, unsigned char *buf)
{
    MUST(qchain_queue_read(q, buf, LENGTH, 0, 0, buf, NULL) == 0);
}

/* One read, of a window that is known (warm) or not. */
static void read_once(struct mem_chain *m, const char *dir, int errnum, enum order order, bool warm)
{
    unsigned char buf[LENGTH], want[LENGTH];
    qchain_completion done;
    struct pollfd p = {.fd = -1, .events = POLLIN};
    qchain_env *env;
    qchain_queue *q;
    qchain *c;
    int n = 0;

    MUST(qchain_env_create(&env, NULL, NULL) == 0);
    MUST(mem_files_open(m, dir, &c, env, NULL) == 0);
    if (warm)
        MUST(qchain_read(c, buf, LENGTH, 0, 0, NULL) == 0);
    memset(buf, 0xee, LENGTH);
    MUST(qchain_queue_create(&q, c, NULL, NULL) == 0);
    if (order == DESCRIPTOR_BEFORE)
        p.fd = qchain_queue_fd(q);
    if (!refuse(errnum))
        _exit(77);
    if (order == READ_THEN_DESCRIPTOR)
        submit(q, buf);
    if (order != DESCRIPTOR_BEFORE)
        p.fd = qchain_queue_fd(q);
    if (order != READ_THEN_DESCRIPTOR)
        submit(q, buf);
    MUST(p.fd >= 0);
    while (n == 0) {
        int ready = poll(&p, 1, 20000);

        MUST(ready == 1 || (ready < 0 && errno == EINTR)); /* 0: a lost wakeup */
        n = qchain_queue_reap(q, &done, 0, 1, 0);
    }
    MUST(n == 1 && done.user == buf && done.result == 0 && qchain_queue_pending(q) == 0);
    mem_chain_read(m, want, LENGTH, 0);
    MUST(memcmp(buf, want, LENGTH) == 0);
    qchain_queue_destroy(q);
    qchain_close(c);
    qchain_env_destroy(env);
}

/* Returns the child's exit code. */
static int in_child(struct mem_chain *m, const char *dir, int errnum, enum order order, bool warm)
{
    int status = 0;
    pid_t pid;

    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        read_once(m, dir, errnum, order, warm);
        _exit(0);
    }
    MUST(pid > 0);
    MUST(waitpid(pid, &status, 0) == pid);
    if (!WIFEXITED(status) || WEXITSTATUS(status) == 1)
        printf("errno %d, order %d, %s: failed\n", errnum, (int)order, warm ? "warm" : "cold");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

int main(void)
{
    static const int errnums[] = {EAGAIN, EPERM, ENOMEM};
    const char *tmp = getenv("TMPDIR");
    struct mem_chain *m = mem_chain_create(2);
    char top[2048], dir[4096];
    int code = 0;

    for (uint32_t k = 0; k < 2; k++)
        mem_layer_init(m, k, 1 << 20, 16);
    mem_layer_set(m, 1, 0, MEM_DATA);
    mem_layer_set(m, 0, 3, MEM_DATA);
    snprintf(top, sizeof(top), "%s/qchain-refused-XXXXXX", tmp ? tmp : "/tmp");
    MUST(mkdtemp(top) != NULL);
    snprintf(dir, sizeof(dir), "%s/chain", top);
    mem_files_write(m, dir);
    for (int i = 0; i < 3 * N_ORDERS * 2 && code == 0; i++)
        code = in_child(m, dir, errnums[i % 3], (enum order)(i / 3 % N_ORDERS), i / 9 == 1);
    mem_files_remove(m, dir);
    rmdir(top);
    mem_chain_destroy(m);
    if (code == 77)
        printf("seccomp filters cannot be set here\n");
    return code;
}
