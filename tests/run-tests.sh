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
# before scripts. With QC_JOBS=N so many of those tests that keep to themselves
# run at a time, before the others. The last line is: N passed, N failed, N skipped.

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
export TSAN_OPTIONS="${TSAN_OPTIONS:-halt_on_error=1:allocator_may_return_null=1}"

log=$(mktemp "${TMPDIR:-/tmp}/qchain-test.XXXXXX") || exit 1
trap 'rm -rf "$log" "$log.d"' EXIT
trap 'exit 130' INT TERM
passed=0 failed=0 skipped=0

# Tests mostly wait, for threads, timeouts and processes: several at once, each by a runner of its own.
if [ "${QC_JOBS:-1}" -gt 1 ] && [ $# -gt 1 ]; then
    mkdir "$log.d" || exit 1
    for t in "$@"; do
        case ${t%% *} in
        *tests/interop/*.py|*tests/remote/*.py) printf '%s\0' "$t" >>"$log.d/list" ;;
        */tests/unit/*|*tests/interop/*|*tests/crash/*|*tests/remote/*) printf '%s\0' "$t" >>"$log.d/short" ;;
        esac
    done
    # Scripts take longest: begun last, they would be waited for by nobody but themselves.
    [ ! -s "$log.d/short" ] || cat "$log.d/short" >>"$log.d/list"
    if [ -s "$log.d/list" ]; then
        # shellcheck disable=SC2016 # $1 and the like are the inner shell's
        QC_WRAP=$wrap xargs -0 -n 1 -P "$QC_JOBS" sh -c '
            out=$1/$$.out
            if [ -n "$QC_WRAP" ]; then set -- "$1" "$2" --wrap "$QC_WRAP"; else set -- "$1" "$2"; fi
            t=$2; shift 2
            QC_JOBS=1 sh "$0" "$@" "$t" >"$out" 2>&1
            sed "\$d" "$out"' "$0" "$log.d" <"$log.d/list"
        for f in "$log.d"/*.out; do
            case $(tail -n 1 "$f") in
            1\ passed*) passed=$((passed + 1)) ;;
            *1\ skipped) skipped=$((skipped + 1)) ;;
            *) failed=$((failed + 1)) ;;
            esac
        done
        n=$#
        while [ "$n" -gt 0 ]; do
            t=$1 n=$((n - 1))
            shift
            case ${t%% *} in
            */tests/unit/*|*tests/interop/*|*tests/crash/*|*tests/remote/*) ;;
            *) set -- "$@" "$t" ;;
            esac
        done
    fi
fi

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
