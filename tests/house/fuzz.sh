#!/bin/sh
# SPDX-License-Identifier: MIT
# Run each fuzz target for QC_SECONDS. Finds are kept in fuzz/finds-TARGET of the
# build directory, the corpus it grows in fuzz/corpus-TARGET.
ran=
for fuzz in "$QC_BUILD"/fuzz/fuzz_*; do
    [ -x "$fuzz" ] || continue
    name=${fuzz##*/fuzz_}
    corpus=$QC_BUILD/fuzz/corpus-$name
    finds=$QC_BUILD/fuzz/finds-$name
    mkdir -p "$corpus" "$finds"
    "$QC_PYTHON" tests/fuzz/make-corpus.py "$QC_FILES" "$corpus" "$name" || exit 1
    set -- "$corpus"
    dict=qcow2 shared=tests/fuzz/corpus
    case $name in
    http|names|cache) dict=remote shared= ;;
    trace) shared= ;;
    esac
    for dir in "$shared" "tests/fuzz/corpus-$name"; do
        [ -d "$dir" ] && set -- "$@" "$dir"
    done
    "$fuzz" -dict=tests/fuzz/$dict.dict -max_len=65536 -max_total_time="${QC_SECONDS:-60}" -timeout=20 -rss_limit_mb=1024 \
        -print_final_stats=1 -artifact_prefix="$finds/" "$@" || exit 1
    ran=yes
done
[ -n "$ran" ] || { echo "there is no fuzz target"; exit 77; }
