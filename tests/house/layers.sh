#!/bin/sh
# SPDX-License-Identifier: MIT
# The arrows between the rooms, and what lies outside lib/ sees include/ only.
bad=0
headers_and_sources() {
    find "$@" \( -name '*.c' -o -name '*.h' \) 2>/dev/null | sort
}

lib=$(headers_and_sources lib)
[ -z "$lib" ] || awk -f tests/house/layers.awk $lib || bad=1

# A quoted include of these may name a neighbour in the same directory.
outside=$(headers_and_sources examples bindings tests/abi tests/bench tests/interop)
if [ -n "$outside" ] && grep -nE '^[ \t]*#[ \t]*include[ \t]*"[^"]*/' $outside /dev/null; then
    echo "only the headers in include/ may be used here" >&2
    bad=1
fi

twice=$(headers_and_sources include lib examples tests | sed 's|.*/||' | sort | uniq -d)
if [ -n "$twice" ]; then
    echo "file names are unique in the whole tree, but there are two of:" $twice >&2
    bad=1
fi
exit $bad
