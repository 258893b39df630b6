/* SPDX-License-Identifier: MIT */
/*
 * Queues where io_uring is forbidden, as sandboxes of containers do it: the kernel's
 * calls answer EPERM or ENOSYS. Queues must say so and work by threads. A child a
 * case, for a filter stays for good.
 */
#include "../unit/mem_layers.c"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "mem_files.h"

#define ROUNDS 20
#define DEPTH 16
#define LENGTH 70000
#define MUST(x) must_hold((x), #x, __LINE__)

/* What the calls of io_uring answer in a child; 0: they are left alone. */
struct rule {
    const char *name;
    int         setup, others; /* errno */
};

static void must_hold(bool ok, const char *what, int line)
{
    if (ok)
        return;
    printf("line %d: not so: %s (errno %d)\n", line, what, errno);
    fflush(stdout);
    _exit(1);
}

static bool forbid(const struct rule *r)
{
    const uint32_t allow = SECCOMP_RET_ALLOW;
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, r->setup ? SECCOMP_RET_ERRNO | (uint32_t)r->setup : allow),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_enter, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_register, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, r->others ? SECCOMP_RET_ERRNO | (uint32_t)r->others : allow),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof(code) / sizeof(*code), code};

    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

/* Random reads through one queue, waiting by its descriptor. */
static void read_by_queue(const struct mem_chain *m, qchain *c, const char *engine, uint64_t *seed)
{
    static unsigned char buf[DEPTH][LENGTH], want[LENGTH];
    uint64_t offset[DEPTH], size = qchain_size(c);
    size_t length[DEPTH];
    qchain_completion done;
    qchain_queue *q;

    MUST(qchain_queue_create(&q, c, NULL, NULL) == 0);
    MUST(!engine || strcmp(qchain_queue_engine(q), engine) == 0);
    for (unsigned round = 0; round < ROUNDS; round++) {
        struct pollfd p = {.fd = qchain_queue_fd(q), .events = POLLIN};

        for (unsigned i = 0; i < DEPTH; i++) {
            offset[i] = mem_random(seed) % size;
            length[i] = mem_random(seed) % LENGTH + 1;
            length[i] = length[i] < size - offset[i] ? length[i] : size - offset[i];
            MUST(qchain_queue_read(q, buf[i], length[i], offset[i],
                                   i + 1 < DEPTH ? QCHAIN_REQUEST_MORE : 0, buf[i], NULL) == 0);
        }
        while (qchain_queue_pending(q) > 0) {
            MUST(poll(&p, 1, 30000) == 1);
            while (qchain_queue_reap(q, &done, 0, 1, 0) == 1) {
                size_t i = (size_t)((unsigned char (*)[LENGTH])done.user - buf);

                MUST(done.result == 0);
                mem_chain_read(m, want, length[i], offset[i]);
                MUST(memcmp(buf[i], want, length[i]) == 0);
            }
        }
    }
    MUST(qchain_queue_read(q, buf[0], 512, 0, 0, NULL, NULL) == 0);
    qchain_queue_destroy(q); /* with a request in flight */
}

static void use(const struct rule *r, struct mem_chain *files, const char *dir,
                struct mem_chain *mem, uint64_t seed)
{
    const char *engine = r->setup || r->others ? "threads" : NULL;
    qchain_stats stats = {.struct_size = sizeof(stats)};
    qchain_error *err = qchain_error_create();
    qchain_env *env;
    qchain *a, *b;

    MUST(qchain_env_create(&env, NULL, err) == 0);
    MUST(mem_files_open(files, dir, &a, env, err) == 0);
    MUST(mem_chain_open(mem, &b, env, NULL, err) == 0);
    read_by_queue(files, a, engine, &seed);
    read_by_queue(mem, b, engine, &seed);
    MUST(qchain_env_stats(env, &stats) == 0);
    MUST(stats.queue_requests == 2 * (ROUNDS * DEPTH + 1));
    MUST(stats.queue_leaf > 0);
    MUST(!engine || stats.queue_uring == 0);
    qchain_close(a);
    qchain_close(b);
    qchain_env_destroy(env);
    qchain_error_destroy(err);
}

/* Returns the child's exit code. */
static int in_child(const struct rule *r, struct mem_chain *files, const char *dir,
                    struct mem_chain *mem, uint64_t seed)
{
    int status = 0;
    pid_t pid;

    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        if ((r->setup || r->others) && !forbid(r))
            _exit(77);
        if (r->setup) { /* the filter is there */
            MUST(syscall(SYS_io_uring_setup, 0, NULL) == -1);
            MUST(errno == r->setup);
        }
        use(r, files, dir, mem, seed);
        mem_chain_destroy(files);
        mem_chain_destroy(mem);
        exit(0); /* where a sanitizer looks for leaks */
    }
    MUST(pid > 0);
    MUST(waitpid(pid, &status, 0) == pid);
    printf("%s: %s %d\n", r->name, WIFEXITED(status) ? "exit" : "signal",
           WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

int main(void)
{
    static const struct rule rules[] = {
        {"nothing forbidden", 0, 0},
        {"io_uring_setup answers EPERM", EPERM, 0},
        {"io_uring_setup answers ENOSYS", ENOSYS, 0},
        {"all calls answer EPERM", EPERM, EPERM},
        {"the calls after setup answer EPERM", 0, EPERM},
        {"the calls after setup answer ENOSYS", 0, ENOSYS},
    };
    uint64_t seed = mem_seed(4711);
    struct mem_chain *files = mem_chain_random(4, 3 << 20, &seed);
    struct mem_chain *mem = mem_chain_random(3, 3 << 20, &seed);
    const char *tmp = getenv("TMPDIR");
    char top[2048], dir[4096];
    int code = 0;

    snprintf(top, sizeof(top), "%s/qchain-seccomp-XXXXXX", tmp ? tmp : "/tmp");
    MUST(mkdtemp(top) != NULL);
    snprintf(dir, sizeof(dir), "%s/chain", top);
    mem_files_write(files, dir);
    for (size_t i = 0; i < sizeof(rules) / sizeof(*rules) && code == 0; i++)
        code = in_child(&rules[i], files, dir, mem, seed);
    mem_files_remove(files, dir);
    rmdir(top);
    mem_chain_destroy(files);
    mem_chain_destroy(mem);
    if (code == 77)
        printf("seccomp filters cannot be set here\n");
    return code;
}
