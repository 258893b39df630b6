#!/bin/sh
# SPDX-License-Identifier: MIT
# demo-cloud.sh BUILDDIR - a chain in an object store that is 20 ms and 100 MB/s away: how soon it opens, what a
# map, a prefetch and a second reader cost, in requests, bytes and milliseconds. The store is Ceph's S3 gateway on
# this machine (tests/remote/rgw.sh), the distance a proxy (tests/remote/delay_proxy). Exits 0 if all that it shows
# is right, and if something that it needs is not installed, which it names.
set -u

build=${1:?usage: demo-cloud.sh BUILDDIR}
build=$(cd "$build" && pwd) || exit 2
servers=$(cd "$(dirname "$0")/../tests/remote" && pwd) || exit 2
q=$build/bin/qchain
depth=30 # layers above the base
bad=0

for need in qemu-img:qemu-utils qemu-io:qemu-utils curl:curl; do
    if ! command -v "${need%:*}" >/dev/null; then
        echo "The demo needs ${need%:*}, which is not there. On Debian: apt install ${need#*:}"
        exit 0
    fi
done

dir=$(mktemp -d) || exit 2
proxy=
QC_SERVER_DIR=$dir/store
export QC_SERVER_DIR
leave() {
    [ -z "$proxy" ] || kill "$proxy"
    sh "$servers/rgw.sh" wipe >/dev/null 2>&1
    rm -rf "$dir"
}
trap leave EXIT
trap 'exit 1' INT TERM
cd "$dir" || exit 2

say() {
    printf '\n== %s\n' "$*"
}

right() {
    what=$1
    shift
    if "$@"; then
        echo "right: $what"
    else
        echo "WRONG: $what"
        bad=1
    fi
}

now_ms() {
    echo $(($(date +%s%N) / 1000000))
}

# measured WHAT COMMAND... - run a command of qchain; tell how long it took and what went over the network.
measured() {
    what=$1
    shift
    printf '$ qchain %s\n' "$*"
    begun=$(now_ms)
    "$q" "$@" --stats=json >out 2>stats || { echo "FAILED: exit code $?"; cat stats; bad=1; }
    ms=$(($(now_ms) - begun))
    requests=$(sed -n 's/.*"http-requests": \([0-9]*\).*/\1/p' stats)
    bytes=$(sed -n 's/.*"http-bytes": \([0-9]*\).*/\1/p' stats)
    line=$(printf '%-48s %6d ms %6d requests %8d KiB' "$what" "$ms" "${requests:-0}" $((${bytes:-0} / 1024)))
    echo "$line"
    echo "$line" >>table
}

say "A store that speaks S3, and a chain of $((depth + 1)) layers"
if ! sh "$servers/rgw.sh" start >settings 2>why; then
    cat settings why
    echo 'There is no object store to show this with. On Debian: make deps-remote'
    exit 0
fi
. ./settings
"$build/tests/remote/delay_proxy" --upstream "127.0.0.1:$S3" --delay-ms 20 --bandwidth 100 >port &
proxy=$!
while ! grep -q PORT= port; do sleep 0.05; done
. ./port

{
    head -c 40M /dev/urandom >base.raw && qemu-img convert -O qcow2 base.raw 0.qcow2 &&
    qemu-img resize -q 0.qcow2 1G || exit 1
    i=0
    while [ $i -lt $depth ]; do
        next=$((i + 1))
        qemu-img create -q -f qcow2 -b $i.qcow2 -F qcow2 $next.qcow2 &&
        qemu-io -c "write -P $next $((i % 20 * 2))M 1M" -c "write -P $next $((64 + i * 8))M 512k" $next.qcow2 || exit 1
        i=$next
    done
} >made 2>&1 || { cat made; exit 2; }
tip=$depth.qcow2

to_store() { # CURL'S ARGUMENTS... PATH
    curl -sS -f -o reply -H 'x-amz-content-sha256: UNSIGNED-PAYLOAD' --user "$AK:$SK" --aws-sigv4 aws:amz:us-east-1:s3 "$@" || { cat reply; exit 2; }
}
to_store -X PUT "http://127.0.0.1:$S3/disks"
for f in *.qcow2; do
    to_store -T "$f" "http://127.0.0.1:$S3/disks/$f"
done
echo "$(ls ./*.qcow2 | wc -l) objects, $(du -ck ./*.qcow2 | awk 'END { print int($1 / 1024) }') MiB, lie in s3://disks/"

umask 077
cat >remote <<RULES
s3-endpoint http://127.0.0.1:$PORT
s3-region us-east-1
s3-style path
s3-access-key $AK
s3-secret-key $SK
RULES
QCHAIN_REMOTE=$dir/remote
QCHAIN_POLICY=
export QCHAIN_REMOTE QCHAIN_POLICY

say 'Open it and read the first 4 KiB'
measured 'open, first 4 KiB: layer by layer' read --length 4096 s3://disks/$tip first
right 'the same bytes as in the file' sh -c "'$q' read --length 4096 $tip want && cmp -s first want"

say 'With an index beside the tip: one object tells of all layers'
measured 'build the index, once' index build -q s3://disks/$tip
measured 'open, first 4 KiB: with the index' read --length 4096 s3://disks/$tip first
right 'the same bytes' cmp -s first want
right 'in three requests at most' test "$requests" -le 3

say 'Which bytes are stored, and where?'
measured 'map of all of it' map --output=json s3://disks/$tip
qemu-img map --output=json $tip | tr -d ' \n' | sed 's/"filename":"[^"]*",*//g' >want
"$q" map --output=json $tip | tr -d ' \n' | sed 's/"filename":"[^"]*",*//g' >got
right "as qemu-img maps the files" cmp -s got want

say 'Bring what shows into the cache of this machine; what upper layers hide stays where it is'
mkdir -m 700 cache
measured 'prefetch' prefetch -q --cache-dir cache s3://disks/$tip

say 'A second process reads all of it, from the cache'
measured 'read 1 GiB of disk, out of the cache' read -q --cache-dir cache --remote 'revalidate 3600' s3://disks/$tip all.raw
right 'without a request' test "$requests" -eq 0
qemu-img convert -O raw $tip want.raw
right 'the same bytes as of the files' cmp -s all.raw want.raw

say 'In short'
cat table
echo
test $bad -eq 0 && echo 'All is right.' || echo 'Something is wrong.'
exit $bad
