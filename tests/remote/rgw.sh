#!/bin/sh
# SPDX-License-Identifier: MIT
# A small Ceph with its RADOS gateway, for S3: one monitor, one OSD in a sparse file, two gateways over
# the same objects. S3: http; S3_TLS: https (CA); STS: http, takes and hands out session tokens (and
# answers AccessDenied where the first says what is wrong). Buckets are reached by path, or as
# BUCKET.s3.localhost. Key and secret of a user: AK, SK; ROLE is one that the user may assume.
. "$(dirname "$0")/remote_common.sh"

AK=AKIDEXAMPLE7QX
SK=wJalrXUtnFEMI-test-secret-K7MDENGbPxRfiCY
PATH=$PATH:/usr/sbin:/sbin

configure() {
    cat >"$dir/ceph.conf" <<CONF
[global]
fsid = 6e2ba1a2-0ee7-4f8e-9a3c-5d0a5a3d7c11
mon_host = [v1:127.0.0.1:$MON]
ms_bind_msgr2 = false
ms_bind_ipv6 = false
public_addr = 127.0.0.1
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
run_dir = $dir/run
admin_socket =
pid_file = $dir/run/\$name.pid
log_file = $dir/log/\$name.log
crash_dir = $dir/log
keyring = $dir/keyring
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pgp_num = 8
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_max_pg_per_osd = 2000
[mon]
mon_data = $dir/mon
mon_allow_pool_size_one = true
mon_warn_on_pool_no_redundancy = false
mon_data_avail_crit = 1
mon_data_avail_warn = 2
paxos_propose_interval = 0.02
paxos_min_wait = 0.01
[osd]
osd_data = $dir/osd
osd_objectstore = bluestore
bluestore_block_size = 8589934592
bluestore_block_create = true
osd_memory_target = 939524096
osd_class_load_list = *
osd_class_default_list = *
[client.rgw]
rgw_frontends = beast endpoint=127.0.0.1:$S3 ssl_endpoint=127.0.0.1:$S3_TLS ssl_certificate=$dir/server.pem ssl_private_key=$dir/server.key
rgw_dns_name = s3.localhost
[client.sts]
rgw_frontends = beast endpoint=127.0.0.1:$STS
rgw_dns_name = s3.localhost
rgw_s3_auth_use_sts = true
rgw_sts_key = abcdefghijklmnop
CONF
}

ceph_do() {
    program=$1
    shift
    CEPH_ARGS=--no-mon-config timeout 60 "$program" -c "$dir/ceph.conf" "$@" >>"$dir/log/start.log" 2>&1
}

daemon() { # PROGRAM ARG...
    ceph_do "$@" || { tail -n 20 "$dir/log/start.log" >&2; exit 1; }
}

first_start() {
    [ ! -e "$dir/made" ] || return 0
    rm -rf "$dir/mon" "$dir/osd"
    mkdir -p "$dir/mon" "$dir/osd"
    touch "$dir/keyring"
    ceph_do monmaptool --create --clobber --fsid 6e2ba1a2-0ee7-4f8e-9a3c-5d0a5a3d7c11 \
        --addv a "[v1:127.0.0.1:$MON]" "$dir/monmap"
    daemon ceph-mon -i a --mkfs --monmap "$dir/monmap"
    daemon ceph-mon -i a
    ceph_do ceph osd new 2f1b6a40-51c4-4b8e-8d0f-6a2c9f0f7a55
    daemon ceph-osd -i 0 --mkfs --osd-uuid 2f1b6a40-51c4-4b8e-8d0f-6a2c9f0f7a55
}

user() {
    ceph_do radosgw-admin user create --uid=test --display-name=test --access-key="$AK" --secret="$SK"
    ceph_do radosgw-admin role create --role-name=reader --assume-role-policy-doc='{"Version":
        "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"AWS":
        ["arn:aws:iam:::user/test"]}, "Action": ["sts:AssumeRole"]}]}'
    ceph_do radosgw-admin role-policy put --role-name=reader --policy-name=all --policy-doc='{"Version":
        "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["s3:*"], "Resource":
        "arn:aws:s3:::*"}]}'
    touch "$dir/made"
}

is_up() {
    running "$dir/run/client.rgw.pid" && running "$dir/run/client.sts.pid" && answers "$S3" &&
        answers "$STS"
}

do_start() {
    need ceph-mon ceph-mon
    need ceph-osd ceph-osd
    need radosgw radosgw
    need ceph ceph-common
    ! is_up || return 0
    mkdir -p "$dir/run" "$dir/log"
    certificates
    configure
    do_stop
    first_start
    running "$dir/run/mon.a.pid" || daemon ceph-mon -i a
    daemon ceph-osd -i 0
    [ -e "$dir/made" ] || user
    daemon radosgw -n client.rgw
    daemon radosgw -n client.sts
    wait_for 60 is_up || { tail -n 20 "$dir/log/"*.log >&2; exit 1; }
}

do_stop() {
    for who in client.rgw client.sts osd.0 mon.a; do
        stop_pid "$dir/run/$who.pid" 20
    done
}

do_print() {
    cat "$dir/env"
    for who in client.rgw client.sts osd.0 mon.a; do
        echo "PID_$who=$(cat "$dir/run/$who.pid")" | tr . _
    done
    echo "AK=$AK"
    echo "SK=$SK"
    echo "ROLE=arn:aws:iam:::role/reader"
    echo "CA=$dir/ca.pem"
    echo "CA_OTHER=$dir/other.pem"
}

settings MON S3 S3_TLS STS
main "$@"
