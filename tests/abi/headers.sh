#!/bin/sh
# SPDX-License-Identifier: MIT
# Each public header alone, in every language it promises, without a warning;
# the C++ program is linked and run too.
set -e
cd "$(dirname "$0")/../.."
build=${QC_BUILD:-build}
tmp=$(mktemp -d "${TMPDIR:-/tmp}/qchain-headers.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
strict="-pedantic -Wall -Wextra -Wshadow -Wconversion -Werror -Iinclude"
here=tests/abi

for cc in ${QC_CC:-cc} gcc clang; do
    command -v "$cc" >/dev/null || continue
    for name in header_c99 header_backend_c99 header_remote_c99 header_trace_c99 header_c11; do
        std=c11
        case $name in *c99) std=c99 ;; esac
        # shellcheck disable=SC2086 # flags are words
        "$cc" -std=$std $strict -Wstrict-prototypes -c -o "$tmp/$name.o" $here/$name.c
    done
done
for cxx in ${QC_CXX:-c++} g++ clang++; do
    command -v "$cxx" >/dev/null || continue
    for std in c++11 c++17; do
        # shellcheck disable=SC2086
        "$cxx" -std=$std $strict -c -o "$tmp/header_cxx.o" $here/header_cxx.cpp
    done
    if [ -z "$QC_SAN" ]; then
        "$cxx" -o "$tmp/header_cxx" "$tmp/header_cxx.o" -L"$build/lib" -lqchain
        LD_LIBRARY_PATH="$build/lib" "$tmp/header_cxx"
    fi
done
echo "headers: C99, C11, C++11 and C++17 take them without a warning"
