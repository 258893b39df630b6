#!/bin/sh
# SPDX-License-Identifier: MIT
# How long files and functions may be, and what a library does not call.
bad=0
sources=$(find include lib examples tests bindings \( -name '*.c' -o -name '*.h' \) 2>/dev/null | sort)
[ -z "$sources" ] || awk -f tests/house/size.awk $sources || bad=1

# A library neither prints, nor ends the process, nor touches what is the
# program's: its signals and its environment.
calls='(printf|fprintf|vprintf|vfprintf|dprintf|perror|puts|fputs|putchar|exit|_exit|abort|atexit|assert|signal|sigaction|setenv|putenv|unsetenv|system|popen)'
lib=$(find lib \( -name '*.c' -o -name '*.h' \) 2>/dev/null | sort)
if [ -n "$lib" ] && awk -v calls="(^|[^A-Za-z0-9_>.])$calls[ ]*\\\\(" '
    # Comments and strings may name the calls.
    FNR == 1 { comment = 0 }
    {
        line = $0
        gsub(/\\./, "", line)
        gsub(/'\''"'\''/, "", line)
        gsub(/"[^"]*"/, "\"\"", line)
        gsub(/\/\*([^*]|\*+[^*\/])*\*+\//, " ", line)
        if (comment) {
            if (!sub(/^.*\*\//, "", line))
                next
            comment = 0
        }
        if (sub(/\/\*.*$/, "", line))
            comment = 1
        if (line ~ calls) {
            printf "%s:%d: %s\n", FILENAME, FNR, $0
            found = 1
        }
    }
    END { exit !found }' $lib; then
    echo "the library does not call these" >&2
    bad=1
fi
exit $bad
