#!/bin/sh
# SPDX-License-Identifier: MIT
# OpenStack Swift with its S3 door: a second S3 of other makers, which refuses requests that are signed
# for another region than us-east-1. S3: its port; key AK (with a colon in it), secret SK.
. "$(dirname "$0")/remote_common.sh"

AK=test:tester
SK=swift-test-secret-83ad1
kinds="account container object"

configure() {
    mkdir -p "$dir/dev/d1"
    me=$(id -un)
    for kind in $kinds; do
        eval "port=\$$(echo $kind | tr a-z A-Z)"
        cat >"$dir/$kind.conf" <<CONF
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = $port
workers = 0
user = $me
swift_dir = $dir
devices = $dir/dev
mount_check = false
disable_fallocate = true
[pipeline:main]
pipeline = $kind-server
[app:$kind-server]
use = egg:swift#$kind
CONF
        [ ! -s "$dir/$kind.ring.gz" ] || continue
        swift-ring-builder "$dir/$kind.builder" create 4 1 1
        swift-ring-builder "$dir/$kind.builder" add "r1z1-127.0.0.1:$port/d1" 1
        swift-ring-builder "$dir/$kind.builder" rebalance || true # it says 1 for a warning
    done >>"$dir/start.log" 2>&1
    cat >"$dir/proxy.conf" <<CONF
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = $S3
workers = 0
user = $me
swift_dir = $dir
[pipeline:main]
pipeline = catch_errors gatekeeper cache listing_formats s3api tempauth slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:1
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
storage_domain = s3.localhost
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = $SK .admin
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
CONF
}

is_up() {
    running "$dir/proxy.pid" && answers "$S3" && answers "$ACCOUNT" && answers "$CONTAINER" &&
        answers "$OBJECT"
}

do_start() {
    need swift-proxy-server swift-proxy
    for kind in $kinds; do
        need "swift-$kind-server" "swift-$kind"
    done
    [ -r /etc/swift/swift.conf ] || skip "/etc/swift/swift.conf may not be read"
    ! is_up || return 0
    configure
    for kind in $kinds proxy; do
        # Its own interpreter, whatever python3 is in the way.
        setsid /usr/bin/python3 "/usr/bin/swift-$kind-server" "$dir/$kind.conf" >"$dir/$kind.log" 2>&1 \
            </dev/null &
        echo $! >"$dir/$kind.pid"
    done
    wait_for 60 is_up || { tail -n 20 "$dir"/*.log >&2; exit 1; }
}

do_stop() {
    for kind in proxy $kinds; do
        stop_pid "$dir/$kind.pid"
    done
}

do_print() {
    cat "$dir/env"
    echo "PID=$(cat "$dir/proxy.pid")"
    echo "AK=$AK"
    echo "SK=$SK"
}

settings S3 ACCOUNT CONTAINER OBJECT
main "$@"
