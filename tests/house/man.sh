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
# The plugin's page has the parameters that its --help has, no more and no less.
plugin=${QC_BUILD:-build}/nbdkit/nbdkit-qchain-plugin.so
page=bindings/nbdkit/nbdkit-qchain-plugin.1
if [ -e "$plugin" ] && [ -z "$QC_SAN" ] && command -v nbdkit >/dev/null; then
    told=$(nbdkit --help "$plugin" | sed -n 's/^\(\[file=\]\|[a-z-]*=\).*/\1/p' | tr -d '[]' | sort -u)
    written=$(sed -n '/^\.SH PARAMETERS/,/^\.SH ENV/p' "$page" |
        sed -n '/^\.TP/{n; s/\\f[BR]//g; s/\\-/-/g; s/^\.BI* //; s/^\[\([a-z]*=\)\].*/\1/; s/^\([a-z-]*=\).*/\1/p;}' | sort -u)
    if [ -z "$told" ] || [ "$told" != "$written" ]; then
        echo "$page: parameters of the page and of --help differ:" $(printf '%s\n%s\n' "$told" "$written" | sort | uniq -u) >&2
        bad=1
    fi
fi
command -v groff >/dev/null || [ $bad -ne 0 ] || { echo "groff is not installed"; exit 77; }
for page in "$man"/*.[0-9] bindings/*/*.[0-9]; do
    [ -e "$page" ] || continue
    said=$(groff -man -Tutf8 -ww -rLL=100n -z "$page" 2>&1; ! command -v mandoc >/dev/null || mandoc -Tlint -W warning "$page")
    if [ -n "$said" ]; then
        echo "$page: $said" >&2
        bad=1
    fi
done
exit $bad
