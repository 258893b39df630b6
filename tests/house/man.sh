#!/bin/sh
# SPDX-License-Identifier: MIT
# Every verb has its page, and the pages are clean.
bad=0
man=examples/tools/man
for f in examples/tools/cmd_*.c; do
    [ -e "$f" ] || continue
    verb=$(basename "$f" .c | sed 's/^cmd_//; s/_/-/g')
    if [ ! -e "$man/qchain-$verb.1" ]; then
        echo "$man/qchain-$verb.1 is missing" >&2
        bad=1
    fi
done
command -v groff >/dev/null || [ $bad -ne 0 ] || { echo "groff is not installed"; exit 77; }
for page in "$man"/*.[0-9]; do
    [ -e "$page" ] || continue
    said=$(groff -man -Tutf8 -ww -rLL=100n -z "$page" 2>&1; ! command -v mandoc >/dev/null || mandoc -Tlint -W warning "$page")
    if [ -n "$said" ]; then
        echo "$page: $said" >&2
        bad=1
    fi
done
exit $bad
