#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Completion in real shells: each verb and each option that --help tells of is offered, nothing else is, and values
and files are where they fit. Shells that are not installed are left out."""
import argparse
import contextlib
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import interop_lib as lib
from interop_lib import Mismatch

HERE = os.path.dirname(os.path.abspath(__file__))
SCRIPTS = os.path.normpath(os.path.join(HERE, "../../examples/tools/completion"))

# A command line, and what must be offered for its last word; files of the directory are a.img, b.qcow2, sub/.
FILES = {"a.img", "b.qcow2", "sub/"}
VALUES = [
    ("qchain map --output=", {"--output=human", "--output=json", "--output=json-full"}),
    ("qchain info --output=", {"--output=human", "--output=json"}),
    ("qchain info --output=j", {"--output=json"}),
    ("qchain info --output ", {"human", "json"}),
    ("qchain-info -f ", {"qcow2", "raw"}),
    ("qchain check --repair=", {"--repair=leaks", "--repair=all"}),
    ("qchain convert -t w", {"writeback", "writethrough"}),
    ("qchain write --cache=n", {"--cache=none"}),
    ("qchain resize --preallocation=f", {"--preallocation=falloc", "--preallocation=full"}),
    ("qchain bench -i n", {"native"}),
    ("qchain read --stats=", {"--stats=text", "--stats=json"}),
    ("qchain index ", {"build", "show", "verify", "drop"} | FILES),
    ("qchain index build ", FILES),
    ("qchain cache stat ", {"sub/"}),
    ("qchain-fuse d", {"disk"}),
    ("qchain map a", {"a.img"}),
    ("qchain map --index=a", {"--index=a.img"}),
    ("qchain map --cache-dir=s", {"--cache-dir=sub/"}),
    ("qchain dd b", {"bs=", "b.qcow2"}),
    ("qchain dd if=a", {"if=a.img"}),
    ("qchain map --max-length=", set()),
    ("qchain bitmap --remove b.qcow2 ", {"bm-one", "bm-two"}),
    ("qchain measure b.qcow2 -l ", {"snap-one"}),
    ("qchain help ma", {"map"}),
    ("qchain nonsense ", set()),
    ("sub/qchain ma", set()),
]


class Shell:
    """One shell; ask() answers with what is offered for the last word of each line."""

    def __init__(self, name, args, directory):
        self.name, self.directory = name, directory
        self.env = {"PATH": args.bin + ":" + os.environ["PATH"], "HOME": directory, "LC_ALL": "C.UTF-8", "TERM": "dumb",
                    "QCHAIN_POLICY": "", "QCHAIN_REMOTE": "", "XDG_CONFIG_HOME": directory + "/.config"}

    def run(self, argv, stdin):
        done = subprocess.run(argv, cwd=self.directory, env=self.env, input=stdin, capture_output=True, timeout=120,
                              encoding="utf-8", check=False)
        if done.stderr.strip():
            raise Mismatch(f"{self.name}: {done.stderr}")
        return done.stdout

    @staticmethod
    def parts(text, n):
        answers = text.split("\x01\n")[:-1]
        if len(answers) != n:
            raise Mismatch(f"{n} answers were wanted: {text!r}")
        return [a.splitlines() for a in answers]


class Bash(Shell):
    """The function that the sourced file registers, with the variables that bash sets for it."""

    SETUP = r"""
PS1='> '; bind 'set enable-bracketed-paste off'; bind 'set bell-style none'
PROMPT_COMMAND='echo >>"$HOME/.prompts"'
source %s/qchain.bash
"""

    def type(self, lines):
        """Type lines, each with its TABs and Enter, in an interactive bash in a terminal: what it showed."""
        seen, prompts = b"", self.directory + "/.prompts"
        with open(self.directory + "/.bashrc", "w", encoding="utf-8") as f:
            f.write(self.SETUP % SCRIPTS)
        pid, fd = pty.fork()
        if pid == 0:
            os.chdir(self.directory)
            os.execvpe("bash", ["bash", "--noprofile", "-i"], self.env)
        try:
            for n in range(len(lines) + 1):
                for _ in range(6000):
                    if os.path.exists(prompts) and os.path.getsize(prompts) > n:
                        break
                    if select.select([fd], [], [], 0.01)[0]:
                        seen += os.read(fd, 65536)
                else:
                    raise Mismatch(f"bash waits: {seen[-2000:]!r}")
                if n < len(lines):
                    os.write(fd, (lines[n] + "\r").encode())
            return seen
        finally:
            os.close(fd)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def ask(self, lines):
        script = f"source {SCRIPTS}/qchain.bash\n" + r"""
while IFS= read -r line; do
    COMP_LINE=$line COMP_POINT=${#line} COMPREPLY=()
    program=${line%% *}
    spec=$(complete -p "${program##*/}") || exit 1
    function=${spec#*-F }
    last=${line##*[ =:]}
    ${function%% *} "$program" "$last" ""
    for r in "${COMPREPLY[@]}"; do [[ -d $r ]] && r+=/; printf '%s\n' "$r"; done
    printf '\001\n'
done
"""
        found = self.parts(self.run(["bash", "--norc", "-c", script], "".join(x + "\n" for x in lines)), len(lines))
        # What stands before '=' is a word of its own for bash, and stays.
        heads = [re.match(r".*=|", x.split(" ")[-1])[0] for x in lines]
        return [{head + x for x in a} for head, a in zip(heads, found)]


class Fish(Shell):
    def ask(self, lines):
        os.makedirs(self.directory + "/.fish", exist_ok=True)
        for program in ("qchain", "qchain-info", "qchain-fuse"):
            link = f"{self.directory}/.fish/{program}.fish"
            if not os.path.lexists(link):
                os.symlink(SCRIPTS + "/qchain.fish", link)
        script = ("set fish_complete_path $HOME/.fish\n"
                  "while read -l line; complete -C $line; printf '\\001\\n'; end\n")
        out = self.run(["fish", "--no-config", "-c", script], "".join(x + "\n" for x in lines))
        return [{x.split("\t")[0] for x in a} for a in self.parts(out, len(lines))]


class Zsh(Shell):
    """An interactive zsh in a terminal; a widget notes what the completion system is given."""

    SETUP = r"""
PROMPT= ; unsetopt zle_bracketed_paste beep; setopt no_list_beep
fpath=(%s $fpath); autoload -Uz compinit; compinit -u -d $HOME/.zcompdump
zstyle ':completion:*' matcher-list ''
compadd() {
    local -a matched
    local dirs=0 suffix=
    [[ "$*" == *-O* || "$*" == *-A* || "$*" == *-D* ]] && { builtin compadd "$@"; return }
    builtin compadd -A matched "$@"
    got+=("$IPREFIX"${^matched})
    builtin compadd "$@"
}
capture() {
    got=()
    _main_complete
    for m in $got; do [[ -d $m || -d ${m#*=} ]] && m+=/; print -r -- $m; done >$HOME/.answer.new
    mv $HOME/.answer.new $HOME/.answer
    compstate[insert]= compstate[list]=
}
zle -C capture complete-word capture
bindkey '^I' capture
print ready >$HOME/.answer
"""

    def answer(self, fd):
        path = self.directory + "/.answer"
        for _ in range(3000):
            if os.path.exists(path):
                with open(path, encoding="utf-8") as f:
                    got = f.read()
                os.unlink(path)
                return got.splitlines()
            if select.select([fd], [], [], 0.01)[0]:
                with contextlib.suppress(OSError):
                    self.seen += os.read(fd, 65536)
        raise Mismatch(f"zsh says nothing; its terminal shows {self.seen[-2000:]!r}")

    def ask(self, lines):
        self.seen = b""
        with open(self.directory + "/.zshrc", "w", encoding="utf-8") as f:
            f.write(self.SETUP % SCRIPTS)
        pid, fd = pty.fork()
        if pid == 0:
            os.chdir(self.directory)
            os.execvpe("zsh", ["zsh", "-d", "-i"], dict(self.env, ZDOTDIR=self.directory))
        try:
            if self.answer(fd) != ["ready"]:
                raise Mismatch("zsh does not begin")
            answers = []
            for line in lines:
                os.write(fd, b"\x15" + line.encode() + b"\t")
                answers.append(set(self.answer(fd)))
            return answers
        finally:
            os.write(fd, b"\x15exit\n")
            time.sleep(0.05)
            os.close(fd)
            os.waitpid(pid, 0)


def help_of(args, program):
    done = subprocess.run([*program, "--help"], capture_output=True, encoding="utf-8", check=True,
                          env=dict(os.environ, PATH=args.bin + ":" + os.environ["PATH"]))
    return done.stdout


def verbs_of(text):
    """From the two columns of qchain --help."""
    names = []
    for line in text.splitlines():
        if line.startswith("  "):
            names += [line[2:].split()[0]] + ([line[41:].split()[0]] if len(line) > 41 else [])
    return names


def options_of(text):
    return set(re.findall(r"(?<![\w=.-])--?[A-Za-z][\w-]*", text))


def check_shell(shell, args, verbs, programs):
    lines = ["qchain "] + [p + " -" for p in programs] + [line for line, _ in VALUES]
    want = [set(verbs) | {"version", "help"}]
    want += [options_of(help_of(args, p.split())) for p in programs] + [offered for _, offered in VALUES]
    for line, wanted, got in zip(lines, want, shell.ask(lines)):
        if line.endswith(" -"):
            got = {x.rstrip("=") for x in got}
        if got != wanted:
            raise Mismatch(f"{shell.name}: '{line}': missing {sorted(wanted - got)}, too much {sorted(got - wanted)}")
    return len(lines)


def check_hostile(bash, directory):
    """What an image calls things is one word, of which the shell runs nothing."""
    image = os.path.join(directory, "evil.img")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "1M"], check=True)
    subprocess.run(["qemu-img", "bitmap", "--add", image, "$(touch ran-bitmap);`touch ran-bitmap`"], check=True)
    subprocess.run(["qemu-img", "snapshot", "-c", "$(touch ran-snapshot);x y", image], check=True)
    seen = bash.type(["qchain snapshot evil.img -d \t", "qchain bitmap --remove evil.img \t"])
    ran = [x for x in os.listdir(directory) if x.startswith("ran-")]
    left = json.loads(subprocess.run(["qemu-img", "info", "--output=json", image], capture_output=True, check=True).stdout)
    if ran:
        raise Mismatch(f"completion ran what an image says: {ran}: {seen!r}")
    if "snapshots" in left or "bitmaps" in left["format-specific"]["data"]:
        raise Mismatch(f"the names that were completed are not those of the image: {left}: {seen!r}")
    os.unlink(image)


def check_names(args, directory):
    """Offered is what the program takes, and only files are opened for it."""
    image = os.path.join(directory, "odd.img")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "1M"], check=True)
    for name in ("plain", "od\x01d"):
        subprocess.run(["qemu-img", "snapshot", "-c", name, image], check=True)
    json_name = json.dumps({"driver": "qcow2", "file": {"driver": "file", "filename": image}})
    for name, wanted in ((image, ["plain\tsnapshot", ":"]), ("json:" + json_name, [":"]), ("file:" + image, [":"])):
        got = subprocess.run([os.path.join(args.bin, "qchain"), "--complete", "snapshot", name, "-d", ""],
                             stdout=subprocess.PIPE, encoding="utf-8", check=True).stdout.splitlines()
        if got != wanted:
            raise Mismatch(f"--complete with {name}: {got}, wanted {wanted}")
    os.unlink(image)


def make(args, directory):
    for name in ("a.img", "b.qcow2"):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", os.path.join(directory, name), "1M"], check=True)
    for bitmap in ("bm-one", "bm-two"):
        subprocess.run(["qemu-img", "bitmap", "--add", os.path.join(directory, "b.qcow2"), bitmap], check=True)
    subprocess.run(["qemu-img", "snapshot", "-c", "snap-one", os.path.join(directory, "b.qcow2")], check=True)
    os.mkdir(os.path.join(directory, "sub"))
    with open(os.path.join(directory, "sub/qchain"), "w", encoding="utf-8") as f:
        f.write("#!/bin/sh\n: >\"$HOME/.ran\"\n")
    os.chmod(os.path.join(directory, "sub/qchain"), 0o755)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", default=os.path.join(lib.build_dir(), "bin"))
    parser.add_argument("--hammer")
    args = parser.parse_args()
    args.bin = os.path.abspath(args.bin)
    lib.need("qemu-img", "bash", os.path.join(args.bin, "qchain"))
    verbs = verbs_of(help_of(args, ["qchain"]))
    if len(verbs) < 30 or "map" not in verbs:
        raise Mismatch(json.dumps(verbs))
    fuse = os.path.exists(os.path.join(args.bin, "qchain-fuse"))
    programs = ["qchain " + v for v in verbs] + (["qchain-fuse"] if fuse else []) + ["qchain-info"]
    if not fuse:
        VALUES[:] = [v for v in VALUES if not v[0].startswith("qchain-fuse")]
    failed = 0
    for cls in (Bash, Zsh, Fish):
        name = cls.__name__.lower()
        if not shutil.which(name):
            print(f"{name} is not installed: left out")
            continue
        with tempfile.TemporaryDirectory(prefix="qchain-completion-") as directory:
            make(args, directory)
            try:
                shell = cls(name, args, directory)
                print(f"ok: {name}, {check_shell(shell, args, verbs, programs)} command lines")
                if os.path.exists(os.path.join(directory, ".ran")):
                    raise Mismatch(f"{name}: a program was run that PATH does not find")
                if cls is Bash:
                    check_hostile(shell, directory)
                    check_names(args, directory)
            except Mismatch as e:
                failed = 1
                print("FAIL", e)
    return failed


if __name__ == "__main__":
    sys.exit(main())
