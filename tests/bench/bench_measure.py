# SPDX-License-Identifier: MIT
"""Run programs, time them, and bring the page cache into a known state."""

import json
import os
import resource
import statistics
import subprocess
import tempfile


class Failed(Exception):
    """A measured program did not do its work."""


class Measure:
    """Where the programs are, and how to run one of them.

    tools: directory of qchain-map and its like; progs: of the programs beside this file;
    other_progs: the same programs, linked with libraries that were built in another way.
    """

    def __init__(self, tools, progs, other_progs, runs):
        self.tools = tools
        self.progs = progs
        self.other_progs = other_progs
        self.runs = runs
        self.kept = {}
        self.scratch = tempfile.mkdtemp(prefix="qchain-bench-")
        self.files = resource.getrlimit(resource.RLIMIT_NOFILE)
        # What most systems give a process. Programs that need more may ask for it.
        self.usual_files = (min(1024, self.files[1]), self.files[1])

    def tool(self, name):
        return os.path.join(self.tools, name)

    def prog(self, name):
        return os.path.join(self.progs, name)

    def path(self, name):
        return os.path.join(self.scratch, name)

    def run(self, argv, out="/dev/null", many_files=False):
        """Run a program to its end; the report of run_timed as a dictionary."""
        limit = (self.files[1], self.files[1]) if many_files else self.usual_files
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
        report = self.path("report")
        done = subprocess.run([self.prog("run_timed"), report, out] + argv, check=False,
                              stderr=subprocess.PIPE, encoding="utf-8", errors="replace")
        if done.returncode:
            raise Failed("run_timed: " + done.stderr.strip())
        with open(report, encoding="utf-8") as f:
            result = json.load(f)
        if result["status"]:
            raise Failed("%s: exit %d: %s" % (os.path.basename(argv[0]), result["status"],
                                              done.stderr.strip()[-500:]))
        result["rss_mib"] = result["rss_kib"] / 1024
        return result

    def answer(self, argv, **how):
        """Run a program that prints JSON; its answer, with run_timed's report in "run"."""
        out = self.path("answer")
        report = self.run(argv, out=out, **how)
        with open(out, encoding="utf-8") as f:
            result = json.load(f)
        result["run"] = report
        return result

    def keep(self, what, result):
        """Remember a long measurement for other bars of the same run."""
        self.kept[what] = result

    def once(self, what, job):
        """The result that was kept under this name; only without one the job is run."""
        if what not in self.kept:
            self.keep(what, job())
        return self.kept[what]

    def alternate(self, jobs, runs=None):
        """Run named jobs by turns, the order reversed every time; name -> list of results."""
        results = {name: [] for name in jobs}
        for i in range(runs or self.runs):
            for name in (list(jobs) if i % 2 == 0 else reversed(list(jobs))):
                results[name].append(jobs[name]())
        return results


def median(results, *keys):
    """The median of one field of all results; further keys reach into nested dictionaries."""
    def field(result):
        for key in keys:
            result = result[key]
        return result
    return statistics.median(field(r) for r in results)


def peak(results, *keys):
    """The largest value instead of the one in the middle."""
    def field(result):
        for key in keys:
            result = result[key]
        return result
    return max(field(r) for r in results)


def layer_files(top):
    """All layers of a data set, from the name of its top."""
    home = os.path.dirname(top)
    return [os.path.join(home, n) for n in sorted(os.listdir(home)) if n.endswith(".qcow2")]


def drop(files):
    """Take files out of the page cache."""
    for name in files:
        fd = os.open(name, os.O_RDONLY)
        os.fdatasync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def warm(files):
    """Put files into the page cache as sequential reads do, whatever wrote them.

    The size of the folios that the kernel keeps a file in depends on how it got there, and the
    speed of small reads depends on that; so what is there is dropped first. Twice: pages that are
    touched a second time move to another list, which makes the first measured run slower.
    """
    drop(files)
    for _ in range(2):
        subprocess.run(["cat"] + files, stdout=subprocess.DEVNULL, check=True)


def machine():
    """What the numbers were measured on."""
    model = "unknown"
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        for line in f:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    version = subprocess.run(["qemu-img", "--version"], stdout=subprocess.PIPE, check=True,
                             encoding="utf-8").stdout.split("\n")[0]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cpu": model, "cores": len(os.sched_getaffinity(0)), "kernel": os.uname().release,
            "memory_gib": round(memory / 2**30), "qemu": version,
            "load_at_start": round(os.getloadavg()[0], 2)}
