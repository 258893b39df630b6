/* SPDX-License-Identifier: MIT */
/*
 * run_timed REPORT OUTPUT PROGRAM [ARG...] - time one program and weigh it.
 *
 * Runs the program with its standard output in OUTPUT and writes one line of JSON to REPORT:
 * seconds from fork to exit, processor time, peak resident memory, exit status. It is its own
 * small program because the peak that the kernel reports for a child includes what the process
 * was before exec: started from Python, every program seems to need what Python needs.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double seconds(struct timeval t)
{
    return (double)t.tv_sec + (double)t.tv_usec * 1e-6;
}

int main(int argc, char **argv)
{
    struct rusage usage;
    FILE *report;
    double begin, end;
    int status, out;
    pid_t pid;

    if (argc < 4) {
        fprintf(stderr, "usage: run_timed REPORT OUTPUT PROGRAM [ARG...]\n");
        return 2;
    }
    report = fopen(argv[1], "we");
    out = open(argv[2], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (!report || out < 0) {
        perror("run_timed");
        return 1;
    }
    begin = now();
    pid = fork();
    if (pid == 0) {
        dup2(out, STDOUT_FILENO);
        execvp(argv[3], argv + 3);
        perror(argv[3]);
        _exit(127);
    }
    if (pid < 0 || wait4(pid, &status, 0, &usage) != pid) {
        perror("run_timed");
        return 1;
    }
    end = now();
    fprintf(report, "{\"seconds\": %.6f, \"user\": %.6f, \"system\": %.6f, \"rss_kib\": %ld, "
            "\"status\": %d}\n", end - begin, seconds(usage.ru_utime), seconds(usage.ru_stime),
            usage.ru_maxrss, WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
    return fclose(report) == 0 ? 0 : 1;
}
