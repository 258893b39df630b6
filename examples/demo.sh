#!/bin/sh
# SPDX-License-Identifier: MIT
# demo.sh BINDIR - a tour of the tools on a small chain of three layers.
# Exits 0 if all that it shows is right.
set -u

bin=${1:?usage: demo.sh BINDIR}
bin=$(cd "$bin" && pwd) || exit 2
q=$bin/qchain

for need in qemu-img qemu-io cmp; do
    if ! command -v $need >/dev/null; then
        echo "The demo makes its images with qemu-img and qemu-io; $need is not there."
        echo "On Debian: apt install qemu-utils"
        exit 0
    fi
done

dir=$(mktemp -d) || exit 2
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 2
bad=0
QCHAIN_POLICY=
export QCHAIN_POLICY

say() {
    printf '\n== %s\n' "$*"
}

# Show a command, run it, and note it if it fails.
show() {
    name=$1
    shift
    printf '$ %s\n' "$name $*"
    "$bin/$name" "$@" || { echo "FAILED: exit code $?"; bad=1; }
}

# right WHAT CONDITION...
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

say 'A chain of three layers: monday.qcow2 <- tuesday.qcow2 <- now.qcow2'
{
    qemu-img create -q -f qcow2 monday.qcow2 64M &&
    qemu-io -c 'write -P 0x11 0 4M' -c 'write -P 0x12 32M 2M' monday.qcow2 &&
    qemu-img create -q -f qcow2 -b monday.qcow2 -F qcow2 tuesday.qcow2 &&
    qemu-io -c 'write -P 0x22 1M 1M' -c 'write -z 33M 1M' tuesday.qcow2 &&
    qemu-img create -q -f qcow2 -b tuesday.qcow2 -F qcow2 now.qcow2 &&
    qemu-io -c 'write -P 0x33 1536k 64k' -c 'write -P 0x34 48M 128k' now.qcow2
} >made 2>&1 || { cat made; exit 2; }
qemu-img convert -O raw now.qcow2 expected.raw || exit 2

say 'What is it?'
show qchain info --backing-chain now.qcow2
qemu-img info --backing-chain --output=json now.qcow2 >expected
"$q" info --backing-chain --output=json now.qcow2 >got
right "the same as qemu-img's, as JSON" cmp -s got expected

say 'Which bytes are stored, and where?'
show qchain map now.qcow2
show qchain map --output=json now.qcow2
qemu-img map --output=json now.qcow2 >expected
"$q" map --output=json now.qcow2 >got
right "the same as qemu-img's" cmp -s got expected

say 'What did change since monday?'
show qchain diff --below monday.qcow2 now.qcow2
"$q" diff --below monday.qcow2 now.qcow2 | awk '$3 == "data" || $3 == "zero" { n++ } END { print n }' >got
right 'five stretches' test "$(cat got)" = 5

say 'Read all of it, into a file and through a pipe'
show qchain read now.qcow2 now.raw
right "the bytes that qemu-img reads" cmp -s now.raw expected.raw
"$q" read now.qcow2 | cmp -s - expected.raw
right 'in a pipe too' test $? -eq 0
right 'the copy has holes' test "$(du -k now.raw | cut -f1)" -lt 16384
show qchain read --offset 1536k --length 16 now.qcow2 first.bin
right 'a part: 16 bytes of the last write' test "$(tr -d '3' <first.bin | wc -c)" = 0

say 'The same bytes have the same digest, however they are stored'
show qchain checksum now.qcow2 now.raw
sum=$("$q" checksum now.qcow2 | cut -c1-64)
right 'both are equal' test "$sum" = "$("$q" checksum -f raw now.raw | cut -c1-64)"
right 'that of monday is another' test "$sum" != "$("$q" checksum monday.qcow2 | cut -c1-64)"
show qchain compare now.qcow2 now.raw
"$q" compare -q now.qcow2 monday.qcow2
right 'monday was another day (exit code 1)' test $? -eq 1

say 'An image may not refer to what it likes'
qemu-img create -q -f qcow2 -u -b /etc/passwd -F raw evil.qcow2 1M
echo '$ qchain read evil.qcow2 stolen'
"$q" read evil.qcow2 stolen 2>&1 && bad=1
right 'nothing was read' test ! -e stolen

echo
test $bad -eq 0 && echo 'All is right.' || echo 'Something is wrong.'
exit $bad
