# SPDX-License-Identifier: MIT
"""NBD servers for tests: nbdkit with the plugin of bindings/nbdkit, and qemu-nbd; begun, waited for, ended."""
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time

import interop_lib as lib
from interop_lib import Mismatch


def plugin():
    return os.path.join(lib.build_dir(), "nbdkit", "nbdkit-qchain-plugin.so")


def need_plugin():
    lib.need("nbdkit")
    if not os.path.exists(plugin()):
        print(f"SKIP: there is no {plugin()}")
        sys.exit(lib.SKIP)


def need_nbdkit():
    """Leave with the code for a skipped test where something is missing."""
    lib.need("nbdinfo", "nbdcopy", "qemu-img", "qemu-io", "qemu-nbd")
    try:
        import nbd  # pylint: disable=import-outside-toplevel,unused-import
    except ImportError:
        print(f"SKIP: {sys.executable} has no module nbd (Debian: python3-libnbd)")
        sys.exit(lib.SKIP)
    need_plugin()


def command(*args, options=()):
    """nbdkit with the plugin and its parameters."""
    return ["nbdkit", "--exit-with-parent", "-f", *options, plugin(), *map(str, args)]


class Server:
    """A server on a Unix socket; a context manager that ends it by SIGTERM, and wants a clean exit."""

    def __init__(self, home, argv, env=None, cwd=None, ready=None):
        self.socket, self.errors = os.path.join(home, "socket"), os.path.join(home, "errors")
        self.argv, ready = argv, ready or self.socket
        with open(self.errors, "wb") as err:
            self.process = subprocess.Popen(argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=err, stderr=err)
        until = time.monotonic() + 60
        while not os.path.exists(ready):
            if self.process.poll() is not None or time.monotonic() > until:
                self.kill()
                raise Mismatch(f"no server: {argv}: {self.process.returncode} {self.said()}")
            time.sleep(0.01)

    def uri(self, name=""):
        return f"nbd+unix:///{name}?socket={self.socket}"

    def said(self):
        with open(self.errors, encoding="utf-8", errors="replace") as f:
            return f.read()

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()
            code = "none: it had to be killed"
        if kind is None and code not in (0, -signal.SIGKILL):
            raise Mismatch(f"exit {code}: {self.argv}: {self.said()[-3000:]}")


def ours(home, *args, options=(), **how):
    os.mkdir(home)
    pid = os.path.join(home, "pid")
    argv = command(*args, options=["-U", os.path.join(home, "socket"), "-P", pid, *options])
    return Server(home, argv, ready=pid, **how)


def qemus(home, top, fmt="qcow2", cwd=None):
    """qemu-nbd, for reading."""
    os.mkdir(home)
    pid = os.path.join(home, "pid")
    argv = [shutil.which("qemu-nbd"), "-r", "-t", "-e", "4", "-f", fmt, "-k", os.path.join(home, "socket"), "--pid-file", pid,
            top]
    return Server(home, argv, cwd=cwd, ready=pid)
