# SPDX-License-Identifier: MIT
# What the scripts of the servers share; to be sourced. Each of them is called with
#   start    start it unless it runs, wait until it answers, print KEY=VALUE lines
#   stop     end it by its pid; what it keeps stays
#   status   print the same lines; exit 1 if it does not run
#   wipe     stop, and remove its directory
# and leaves with 77 and a sentence where a package is missing. QC_SERVER_DIR says where it lives; it
# listens on 127.0.0.1 only, on ports that were free when it was first started.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
name=$(basename "$0" .sh)
dir=${QC_SERVER_DIR:-${QC_BUILD:-$here/../../build}/remote/$name}
python=${QC_PYTHON:-/usr/bin/python3}
[ -x "$python" ] || python=python3

skip() {
    echo "$name: $*"
    exit 77
}

# need PROGRAM PACKAGE
need() {
    command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] ||
        skip "$1 is not installed (Debian package $2; make deps-remote)"
}

# settings NAME... - ports of these names, chosen once; they, and what else the file has, are set.
settings() {
    mkdir -p "$dir"
    dir=$(cd "$dir" && pwd)
    [ -s "$dir/env" ] || "$python" - "$dir/env" "$@" <<'PY'
import socket, sys
held = [socket.create_server(("127.0.0.1", 0)) for _ in sys.argv[2:]]
with open(sys.argv[1], "w") as f:
    for name, s in zip(sys.argv[2:], held):
        print("%s=%d" % (name, s.getsockname()[1]), file=f)
PY
    . "$dir/env"
}

# alive PID - and not just waiting to be reaped by whoever its parent is now
alive() {
    kill -0 "$1" 2>/dev/null && ! grep -q '^State:[[:space:]]*Z' "/proc/$1/status" 2>/dev/null
}

running() { # PIDFILE
    [ -s "$1" ] && alive "$(cat "$1")"
}

hard= # set when nothing that a server has is of use any more

# stop_pid PIDFILE [SECONDS] - TERM, and KILL when that does not help.
stop_pid() {
    running "$1" || { rm -f "$1"; return 0; }
    pid=$(cat "$1")
    kill ${hard:+-9} "$pid" 2>/dev/null || true
    i=0
    while alive "$pid" && [ $i -lt $((${2:-10} * 20)) ]; do
        sleep 0.05
        i=$((i + 1))
    done
    kill -9 "$pid" 2>/dev/null || true
    rm -f "$1"
}

# wait_for SECONDS COMMAND... - until it succeeds
wait_for() {
    i=$(($1 * 20))
    shift
    until "$@" >/dev/null 2>&1; do
        i=$((i - 1))
        [ $i -gt 0 ] || return 1
        sleep 0.05
    done
}

# answers PORT - does anything listen there?
answers() {
    "$python" -c 'import socket, sys; socket.create_connection(("127.0.0.1", int(sys.argv[1])), 1)' \
        "$1" 2>/dev/null
}

# ca.pem, a certificate of it for localhost in server.pem, and another CA, other.pem.
certificates() {
    [ ! -s "$dir/server.pem" ] || return 0
    need openssl openssl
    for who in ca other; do
        openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj "/CN=test $who" \
            -keyout "$dir/$who.key" -out "$dir/$who.pem" 2>/dev/null
    done
    openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout "$dir/server.key" \
        -out "$dir/server.csr" 2>/dev/null
    printf 'subjectAltName=DNS:localhost,DNS:*.localhost,DNS:*.s3.localhost,IP:127.0.0.1\n' >"$dir/server.ext"
    openssl x509 -req -in "$dir/server.csr" -CA "$dir/ca.pem" -CAkey "$dir/ca.key" -CAcreateserial \
        -days 3650 -extfile "$dir/server.ext" -out "$dir/server.pem" 2>/dev/null
}

main() { # VERB
    case ${1:-} in
    start)
        do_start
        do_print ;;
    stop) [ ! -d "$dir" ] || do_stop ;;
    status)
        [ -d "$dir" ] && is_up || { echo "$name: does not run"; exit 1; }
        do_print ;;
    wipe)
        hard=yes
        [ ! -d "$dir" ] || { do_stop; rm -rf "$dir"; } ;;
    *)
        echo "usage: $name.sh start|stop|status|wipe" >&2
        exit 2 ;;
    esac
}
