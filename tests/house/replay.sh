#!/bin/sh
# SPDX-License-Identifier: MIT
# Give every fuzz target the seeds that fuzzing begins with, and to those for images the images
# of the tests.
ran=
for replay in "$QC_BUILD"/fuzz/replay_*; do
    [ -x "$replay" ] || continue
    name=${replay##*/replay_}
    corpus=$QC_BUILD/fuzz/replay-corpus-$name
    rm -rf "$corpus"
    "$QC_PYTHON" tests/fuzz/make-corpus.py "$QC_FILES" "$corpus" "$name" || exit 1
    set -- "$corpus"
    images=$QC_FILES shared=tests/fuzz/corpus
    case $name in
    http|names|cache|trace) images= shared= ;;
    esac
    for dir in "$images" "$shared" "tests/fuzz/corpus-$name"; do
        [ -d "$dir" ] && set -- "$@" "$dir"
    done
    [ $# -gt 0 ] || continue
    echo "$name: $*"
    "$replay" "$@" || exit 1
    ran=yes
done
[ -n "$ran" ] || { echo "there is no fuzz target or nothing to replay"; exit 77; }
