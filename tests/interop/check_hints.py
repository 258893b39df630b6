#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A person at a terminal: mistakes are met with what to do about them, Ctrl-C leaves nothing half done and says so,
a pipe that ends is no error, and colours are for terminals."""
import argparse
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import interop_lib as lib
from interop_lib import Mismatch


class Person:
    def __init__(self, args, directory):
        self.bin, self.directory = args.bin, directory
        self.runner = lib.Runner(directory, {"QCHAIN_POLICY": "", "QCHAIN_REMOTE": "", "TERM": "xterm",
                                             "PATH": args.bin + ":" + os.environ["PATH"]})
        self.runner.env.pop("NO_COLOR", None)

    def path(self, name):
        return os.path.join(self.directory, name)

    def hint(self, status, words, *argv):
        """It fails with this exit code and tells this."""
        got, _, err = self.runner.run(["qchain", *argv], ok=None)
        if got != status or words not in err:
            raise Mismatch(f"{argv}: exit {got}, wanted {status} and {words!r}: {err}")
        return err

    def terminal(self, argv, until=None, send=b"", env=None):
        """Run argv in a terminal; type `send` once `until` is seen. (exit code, all that was shown)."""
        pid, fd = pty.fork()
        if pid == 0:
            os.chdir(self.directory)
            os.execvpe(argv[0], argv, dict(self.runner.env, **(env or {})))
        seen, end = b"", time.monotonic() + 60
        while time.monotonic() < end:
            if not select.select([fd], [], [], 1)[0]:
                continue
            try:
                got = os.read(fd, 65536)
            except OSError:
                break
            if not got:
                break
            seen += got
            if until and until in seen:
                os.write(fd, send)
                until = None
        os.close(fd)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), seen


def make(p):
    for argv in (["base.qcow2", "8M"], ["-b", "base.qcow2", "-F", "qcow2", "top.qcow2"],
                 ["-u", "-b", "gone.qcow2", "-F", "qcow2", "orphan.qcow2", "8M"]):
        p.runner.run(["qemu-img", "create", "-q", "-f", "qcow2", *argv])
    with open(p.path("disk.raw"), "wb") as f:
        f.write(b"x" * 65536)


def check_words(p):
    p.hint(1, "Did you mean 'qchain map'?", "mpa", "top.qcow2")
    p.hint(1, "Did you mean 'qchain map'?", "help", "mpa")
    if "Did you mean" in p.hint(1, "Command not found: nonsense", "nonsense"):
        raise Mismatch("nothing is near nonsense")
    p.hint(1, "A verb comes first", "top.qcow2")
    p.hint(1, "Did you mean '--output'?", "map", "--ouput=json", "top.qcow2")
    p.hint(1, "Did you mean '--backing-chain'?", "info", "--backing-chian", "top.qcow2")
    if "Did you mean" in p.hint(1, "unrecognized option '--xy'", "map", "--xy", "top.qcow2"):
        raise Mismatch("nothing is near --xy")
    for argv in (("top.qcow2", "-Zx"), ("", "-Zx"), ("-UZx", "top.qcow2")):
        p.hint(1, "unrecognized option '-Z'", "map", *argv)
    p.hint(1, "unrecognized option '--force-share=1'", "map", "--force-share=1", "top.qcow2")
    p.hint(2, "not negative", "explain", "top.qcow2", "-50")
    p.hint(2, "not negative", "explain", "top.qcow2", "-5")
    p.hint(1, "qchain-remote(5)", "map", "--remote", "nonsense 1", "top.qcow2")


def check_images(p):
    p.hint(1, "It looks like raw: try -f raw", "map", "-f", "qcow2", "disk.raw")
    p.hint(1, "It is the backing file of 'orphan.qcow2'", "map", "orphan.qcow2")
    p.hint(1, "'://'", "info", "https//host/x.qcow2")
    p.hint(2, "qchain index build", "index", "show", "top.qcow2")
    if "index build" in p.hint(2, "none.qcow2", "index", "show", "none.qcow2"):
        raise Mismatch("there is no image to build an index of")
    if len(p.hint(1, "none.qcow2", "map", "none.qcow2").splitlines()) != 1:
        raise Mismatch("a file that is missing needs no hint")
    check_which(p)
    if os.geteuid() == 0:
        os.chmod(p.directory, 0o755)
        os.chmod(p.path("base.qcow2"), 0o600)
        try:
            done = subprocess.run([os.path.join(p.bin, "qchain"), "map", "top.qcow2"], cwd=p.directory,
                                  env=p.runner.env, capture_output=True, user=65534, group=65534, extra_groups=[],
                                  check=False)
        except PermissionError:
            return   # where the program lies nobody else may look
        if done.returncode != 1 or b"belongs to root, mode 0600" not in done.stderr:
            raise Mismatch(f"no permission: {done}")


def check_which(p):
    """The hint is about the file that is missing, and what it says to type is one word for each name."""
    os.mkdir(p.path("sub"))
    for argv in (["-o", "data_file=lost.raw", "with-data.qcow2", "1M"],
                 ["-b", "with-data.qcow2", "-F", "qcow2", "on-data.qcow2"],
                 ["-u", "-b", "gone.qcow2", "-F", "qcow2", "it's $(x).qcow2", "1M"],
                 ["-u", "-b", "it's $(x).qcow2", "-F", "qcow2", "on-odd.qcow2", "1M"],
                 ["-u", "-b", "gone.qcow2", "-F", "qcow2", "esc\\x1b.qcow2", "1M"],
                 ["-u", "-b", "esc\x1b.qcow2", "-F", "qcow2", "on-esc.qcow2", "1M"],
                 ["-u", "-b", "gone.qcow2", "-F", "qcow2", "esc\x1b.qcow2", "1M"]):
        p.runner.run(["qemu-img", "create", "-q", "-f", "qcow2", *argv])
    os.unlink(p.path("lost.raw"))
    if "backing file" in p.hint(1, "lost.raw", "map", "--trust", "on-data.qcow2"):
        raise Mismatch("a data file is no backing file")
    p.hint(1, "-F FORMAT 'it'\\''s $(x).qcow2'\n", "map", "on-odd.qcow2")
    err = p.hint(1, "gone.qcow2", "map", "on-esc.qcow2")
    if "rebase" in err or "\x1b" in err:
        raise Mismatch(f"a name that is only like that of the file: {err!r}")
    if "'://'" in p.hint(1, "No such file", "map", "sub//none.qcow2"):
        raise Mismatch("a directory is no scheme")


def check_locked(p):
    odd = p.path("io\x1b[2J")   # what it is called when it runs
    os.symlink(shutil.which("qemu-io"), odd)
    with subprocess.Popen([odd, "-f", "qcow2", p.path("base.qcow2")], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, encoding="utf-8") as writer:
        writer.stdin.write("write 0 64k\n")
        writer.stdin.flush()
        while "ops" not in (writer.stdout.readline() or "ops"):
            pass
        p.hint(1, f"Process {writer.pid} (io?[2J) has it open", "map", "top.qcow2")
        writer.stdin.close()


def check_interrupt(p):
    """Ctrl-C in a terminal; the rate makes it last."""
    with open(p.path("noise.raw"), "wb") as f:
        f.write(os.urandom(16 << 20))
    before = set(os.listdir(p.directory))
    status, seen = p.terminal(["qchain", "convert", "-p", "-r", "1M", "-f", "raw", "-O", "qcow2", "noise.raw",
                               "out.qcow2"], b"/100%)", b"\x03")
    if status != 130 or b"interrupted" not in seen:
        raise Mismatch(f"Ctrl-C: exit {status}: {seen!r}")
    if set(os.listdir(p.directory)) != before:
        raise Mismatch(f"Ctrl-C leaves {set(os.listdir(p.directory)) - before}")


def check_pipes(p):
    """Who only wants the beginning ends it silently; a full disk is told."""
    with open(p.path("many.raw"), "wb") as f:
        for i in range(20000):
            f.seek(i << 16)
            f.write(b"x")
    with subprocess.Popen(["qchain", "map", "--output=json", "-f", "raw", "many.raw"], cwd=p.directory,
                          env=p.runner.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        child.stdout.readline()
        child.stdout.close()
        err = child.stderr.read()
        if child.wait() != -signal.SIGPIPE or err:
            raise Mismatch(f"a pipe that ends: exit {child.returncode}: {err!r}")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(["qchain", "map", "top.qcow2"], cwd=p.directory, env=p.runner.env, stdout=full,
                              stderr=subprocess.PIPE, check=False)
    if done.returncode != 1 or b"No space left" not in done.stderr:
        raise Mismatch(f"a full disk: {done}")


def check_colours(p):
    for env, coloured in (({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)):
        status, seen = p.terminal(["qchain", "doctor", "orphan.qcow2"], env=env)
        if status != 1 or (b"\033[31mproblem" in seen) != coloured or (b"\033" in seen) != coloured:
            raise Mismatch(f"colours with {env}: exit {status}: {seen!r}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", default=os.path.join(lib.build_dir(), "bin"))
    parser.add_argument("--hammer")
    args = parser.parse_args()
    args.bin = os.path.abspath(args.bin)
    lib.need("qemu-img", "qemu-io", os.path.join(args.bin, "qchain"))
    os.environ["PATH"] = args.bin + ":" + os.environ["PATH"]
    failed = 0
    with tempfile.TemporaryDirectory(prefix="qchain-hints-") as directory:
        p = Person(args, directory)
        make(p)
        for check in (check_words, check_images, check_locked, check_interrupt, check_pipes, check_colours):
            try:
                check(p)
            except Mismatch as e:
                failed = 1
                print(f"FAIL {check.__name__}: {e}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
