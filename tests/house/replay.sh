#!/bin/sh
# SPDX-License-Identifier: MIT
# Give every fuzz target the images of the tests and the seeds that fuzzing begins with.
corpus=$QC_BUILD/fuzz/replay-corpus
rm -rf "$corpus"
"$QC_PYTHON" tests/fuzz/make-corpus.py "$QC_FILES" "$corpus" || exit 1
ran=
for replay in "$QC_BUILD"/fuzz/replay_*; do
    [ -x "$replay" ] || continue
    name=${replay##*/replay_}
    set -- "$corpus"
    for dir in "$QC_FILES" "tests/fuzz/corpus" "tests/fuzz/corpus-$name"; do
        [ -d "$dir" ] && set -- "$@" "$dir"
    done
    [ $# -gt 0 ] || continue
    echo "$name: $*"
    "$replay" "$@" || exit 1
    ran=yes
done
[ -n "$ran" ] || { echo "there is no fuzz target or nothing to replay"; exit 77; }
