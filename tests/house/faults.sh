#!/bin/sh
# SPDX-License-Identifier: MIT
# The table of remote faults in tests/remote/README.md names tests: `file.test`. Each of them exists and is
# run, and each row has some.
bad=0
table=tests/remote/README.md
section='## Faults and their tests'
rows=$(awk -v begin="$section" '$0 == begin { on = 1; next } /^## / { on = 0 } on && /^\| / && !/^\| fault / ' "$table")
if [ "$(printf '%s\n' "$rows" | wc -l)" -lt 20 ]; then
    echo "$table: there is no table of faults, or hardly one" >&2
    bad=1
fi
if printf '%s\n' "$rows" | grep -v '`[a-z0-9_]*\.[a-z0-9_]*` |$' >&2; then
    echo "$table: these rows name no test" >&2
    bad=1
fi

for name in $(printf '%s\n' "$rows" | grep -o '`[^`]*`' | tr -d '`' | sort -u); do
    file=$(find tests -name "${name%%.*}.c" -o -name "${name%%.*}.py")
    # A C test is a function that takes cmocka's state, a check of a script one that takes its place;
    # both are named once more, in the list of what is run.
    if [ -z "$file" ] || ! grep -qE "^(static void|def) ${name#*.}\((void \*\*|place)" "$file" ||
            [ "$(grep -cE "(^|[^a-z0-9_])${name#*.}[],) ]" "$file")" -lt 1 ]; then
        echo "$table: $name does not exist, or is not run" >&2
        bad=1
    fi
done
exit $bad
