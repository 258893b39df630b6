# SPDX-License-Identifier: MIT
# Who may include whom in lib/: a file sees its own room and lower ones, never
# higher, never sideways; x_int.h stays in its room.
BEGIN {
    n = split("util cache io net remote format qcow2|raw chain ops api", level, " ")
    for (i = 1; i <= n; i++) {
        m = split(level[i], room, "|")
        for (j = 1; j <= m; j++)
            rank[room[j]] = i
    }
}
function refuse(why)
{
    printf "%s:%d: %s: %s\n", FILENAME, FNR, $0, why
    bad = 1
}
FNR == 1 {
    split(FILENAME, path, "/")
    here = path[2]
    if (!(here in rank))
        refuse("lib/" here " is not a room")
}
/^[ \t]*#[ \t]*include[ \t]*"/ {
    split($0, quoted, "\"")
    slashes = split(quoted[2], part, "/")
    there = part[1]
    if (slashes != 2 || !(there in rank))
        refuse("an include carries its room: \"room/file.h\"")
    else if (rank[there] > rank[here])
        refuse(here " may not see " there ", which is above it")
    else if (rank[there] == rank[here] && there != here)
        refuse(here " may not see " there ", which is beside it")
    else if (there != here && part[2] ~ /_int\.h$/)
        refuse(part[2] " is private to " there)
}
/^[ \t]*#[ \t]*include[ \t]*</ && /(qchain|\/qc)/ && !/<qchain(-backend|-remote)?\.h>/ {
    refuse("the public headers are <qchain.h> and <qchain-backend.h>")
}
END { exit bad }
