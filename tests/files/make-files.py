#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Make the images of tests/files, good, bad and unsupported ones:

    make-files.py DIR        write them, and DIR/expect.tsv
    make-files.py --readme   print the table of README.md

expect.tsv has a line a file:
    name  options  fails  code  message  qemu  sha256  map
options: "-" or what to open with ("snapshot=ID", "salvage"), comma-separated.
fails:   "-" (nothing), "open" (everything), "map" (map and read; inspecting works),
         "read" (map works, too) or "inspect" (only that).
code, message: of the failure; message is a part of the text. "-" otherwise.
qemu:    1 if qemu-img reads the same bytes, else 0.
sha256:  of the visible bytes; "-" if they cannot be read.
map:     as qemu-img map --output=json, neighbours merged, "offset" of data only,
         or "-" where it depends on the file system.
Names are of single images, or of the top of a chain (good-chain-*, bad-chain-*).
"""
import os
import sys

sys.dont_write_bytecode = True

from files_bad import BAD  # noqa: E402
from files_good import GOOD  # noqa: E402


def rows(outdir):
    for made in (GOOD, BAD):
        for name, why, make in made:
            result = make()
            for other, content in result.pop('files', {}).items():
                write(outdir, other, content)
            write(outdir, name, result.pop('bytes'))
            yield name, result


def write(outdir, name, content):
    with open(os.path.join(outdir, name), 'wb') as f:
        if isinstance(content, bytes):
            f.write(content)
        else:  # sparse: {offset: bytes}, and None: the size
            f.truncate(content[None])
            for at, piece in content.items():
                if at is not None:
                    f.seek(at)
                    f.write(piece)


def readme():
    for title, table in (('Good', GOOD), ('Bad and unsupported', BAD)):
        print('### %s\n\n| File | What it is |\n|---|---|' % title)
        for name, why, _ in table:
            print('| `%s` | %s |' % (name, why))
        print()


def main():
    if sys.argv[1:] == ['--readme']:
        return readme()
    if len(sys.argv) != 2:
        sys.exit('usage: make-files.py DIR | --readme')
    os.makedirs(sys.argv[1], exist_ok=True)
    with open(os.path.join(sys.argv[1], 'expect.tsv'), 'w') as f:
        for name, r in rows(sys.argv[1]):
            f.write('\t'.join([name, r.get('options', '-'), r.get('fails', '-'),
                               r.get('code', '-'), r.get('message', '-'),
                               str(r.get('qemu', 0)), r.get('sha256', '-'),
                               r.get('map', '-')]) + '\n')


main()
