#!/bin/sh
# SPDX-License-Identifier: MIT
# Run tests one after the other and sum up.
#
#   run-tests.sh [--wrap COMMAND] TEST...
#
# A test is a program, a .sh or a .py, and may be followed by arguments in the
# same word. It passes with exit code 0, is skipped
# with 77 (its last line says why) and fails with anything else, or when it
# takes longer than QC_TIMEOUT seconds. The output of a test is shown when it
# fails; QC_VERBOSE=1 shows it always. --wrap is put before programs, not
# before scripts. The last line is: N passed, N failed, N skipped.

# ThreadSanitizer wants the address space as older kernels laid it out.
case "$QC_SAN:$QC_NOASLR" in
*thread*:)
    if setarch -R true 2>/dev/null; then
        export QC_NOASLR=1
        exec setarch -R sh "$0" "$@"
    fi ;;
esac

wrap=
if [ "$1" = --wrap ]; then
    wrap=$2
    shift 2
fi
if [ $# -eq 0 ]; then
    echo "run-tests: there is nothing to run" >&2
    exit 1
fi

export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_leaks=1:allocator_may_return_null=1}"
export UBSAN_OPTIONS="${UBSAN_OPTIONS:-print_stacktrace=1}"
export TSAN_OPTIONS="${TSAN_OPTIONS:-halt_on_error=1}"

log=$(mktemp "${TMPDIR:-/tmp}/qchain-test.XXXXXX") || exit 1
trap 'rm -f "$log"' EXIT
trap 'exit 130' INT TERM
passed=0 failed=0 skipped=0

for t in "$@"; do
    case ${t%% *} in
    *.sh) run="sh" ;;
    *.py) run="${QC_PYTHON:-python3}" ;;
    *) run="$wrap" ;;
    esac
    begin=$(date +%s)
    # shellcheck disable=SC2086 # both are a command and its options
    timeout -k 10 "${QC_TIMEOUT:-900}" $run $t >"$log" 2>&1 </dev/null
    code=$?
    took=$(($(date +%s) - begin))s
    name=${t%% *}
    case $code in
    0)  passed=$((passed + 1))
        echo "ok    $name ($took)" ;;
    77) skipped=$((skipped + 1))
        echo "skip  $name: $(tail -n 1 "$log")" ;;
    *)  failed=$((failed + 1))
        why="exit $code"
        [ $code -eq 124 ] && why="no end after ${QC_TIMEOUT:-900} s"
        echo "FAIL  $name ($why, $took)" ;;
    esac
    if [ $code -ne 0 ] && [ $code -ne 77 ]; then
        tail -n "${QC_LINES:-200}" "$log" | sed 's/^/      /'
    elif [ -n "$QC_VERBOSE" ]; then
        sed 's/^/      /' "$log"
    fi
done

echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
