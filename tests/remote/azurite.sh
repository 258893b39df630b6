#!/bin/sh
# SPDX-License-Identifier: MIT
# Azurite, for Azure Blob storage: http://127.0.0.1:BLOB/ACCOUNT/CONTAINER/BLOB, with the shared key KEY.
# "azurite.sh install" brings it from npm into the build directory; start does not.
. "$(dirname "$0")/remote_common.sh"

version=3.35.0 # the last one that Debian's node runs
home=${QC_AZURITE:-${QC_BUILD:-$here/../../build}/remote/azurite-npm}
program=$home/node_modules/azurite/dist/src/blob/main.js
ACCOUNT=qctestaccount
KEY=cWNoYWluLXRlc3Qtc2VjcmV0LWtleS1vZi1hbi1henVyZS1hY2NvdW50LW5vdC1yZWFsLTEyMzQ1Ng==

install_it() {
    need node nodejs
    need npm npm
    if grep -q "\"version\": \"$version\"" "$home/node_modules/azurite/package.json" 2>/dev/null; then
        exit 0
    fi
    mkdir -p "$home"
    (cd "$home" && npm install --no-audit --no-fund --ignore-scripts --no-save \
        "azurite@$version" >"$home/install.log" 2>&1) ||
        { tail -n 5 "$home/install.log"; skip "npm could not install azurite@$version"; }
}

is_up() { running "$dir/azurite.pid" && answers "$BLOB"; }

do_start() {
    need node nodejs
    [ -e "$program" ] || skip "azurite is not installed (make deps-remote, or azurite.sh install)"
    ! is_up || return 0
    mkdir -p "$dir/data"
    AZURITE_ACCOUNTS="$ACCOUNT:$KEY" setsid node "$program" -l "$dir/data" --blobHost 127.0.0.1 \
        --blobPort "$BLOB" --silent --skipApiVersionCheck --disableTelemetry \
        --debug "$dir/debug.log" >"$dir/out.log" 2>&1 </dev/null &
    echo $! >"$dir/azurite.pid"
    wait_for 30 is_up || { tail -n 20 "$dir/out.log" >&2; exit 1; }
}

do_stop() { stop_pid "$dir/azurite.pid"; }

do_print() {
    cat "$dir/env"
    echo "PID=$(cat "$dir/azurite.pid")"
    echo "ACCOUNT=$ACCOUNT"
    echo "KEY=$KEY"
    echo "ENDPOINT=http://127.0.0.1:$BLOB/$ACCOUNT"
    echo "LOG=$dir/debug.log"
}

[ "${1:-}" != install ] || { install_it; exit 0; }
settings BLOB
main "$@"
