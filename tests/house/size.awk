# SPDX-License-Identifier: MIT
# Files of at most 900 lines, functions of at most 120: from a { in column 1 to
# the } in column 1.
function file_end()
{
    if (lines > 900) {
        printf "%s: %d lines; the limit is 900\n", file, lines
        bad = 1
    }
}
FNR == 1 {
    file_end()
    file = FILENAME
    open = 0
}
{ lines = FNR }
/^\{/ { open = FNR }
/^\}/ {
    if (open && FNR - open + 1 > 120) {
        printf "%s:%d: a function of %d lines; the limit is 120\n", FILENAME, open, FNR - open + 1
        bad = 1
    }
    open = 0
}
END {
    file_end()
    exit bad
}
