#!/bin/sh
# SPDX-License-Identifier: MIT
# The headers, lib/qchain.map and the shared library tell of the same calls.
so=${QC_BUILD:-build}/lib/libqchain.so
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT

{
    printf '#include <qchain.h>\n#include <qchain-backend.h>\n' |
        ${QC_CC:-gcc} -E -P -Iinclude - || exit 1
} | tr '\n' ' ' | tr ';' '\n' |
    sed -n 's/.*__attribute__((visibility("default")))\([^(]*\)(.*/\1/p' |
    sed 's/ *$//; s/.*[ *]//' | sort >"$dir/headers"
sed -n '/global:/,/local:/s/^[ \t]*\([a-z0-9_]*\);.*/\1/p' lib/qchain.map | sort >"$dir/map"
nm -D --defined-only "$so" >"$dir/nm" || exit 1
awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' "$dir/nm" | sort >"$dir/library"

[ -s "$dir/headers" ] || { echo "no QCHAIN_API call was found in the headers" >&2; exit 1; }
bad=0
differ() {
    diff "$dir/$1" "$dir/$2" >"$dir/diff" && return
    bad=1
    sed -n "s/^< /only in the $1: /p; s/^> /only in the $2: /p" "$dir/diff"
}
differ headers map
differ map library
exit $bad
