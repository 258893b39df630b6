#!/bin/sh
# SPDX-License-Identifier: MIT
# Find what is missing to build and test, and install it.
#
#   deps.sh --check|--install GROUP...    groups: build check valgrind fuzz
#                                         fuse nbdkit remote
#
# --check only tells. --install uses apt-get, as root or by sudo without a
# password; where it may not, it prints the command and fails.

mode=$1
shift

# One line for each thing: group, Debian package, how to see that it is there.
table() {
    cat <<'END'
build    build-essential       have gcc && have g++ && have make && have ar
build    pkg-config            have pkg-config
build    zlib1g-dev            pkg-config --exists zlib
build    libzstd-dev           pkg-config --exists libzstd
build    libcurl4-openssl-dev  pkg-config --exists libcurl
check    libdeflate-dev        pkg-config --exists libdeflate
check    liburing-dev          pkg-config --exists liburing
check    libcmocka-dev         pkg-config --exists cmocka
check    qemu-utils            have qemu-img && have qemu-io
check    qemu-system-x86       have qemu-system-x86_64
check    e2fsprogs             [ -x /sbin/mke2fs ]
check    python3               have python3
check    man-db                have man
check    groff                 have groff
check    procps                have ps
check    strace                have strace
check    zsh                   have zsh
check    fish                  have fish
check    nbdkit                have nbdkit
check    libnbd-bin            have nbdcopy && have nbdinfo
check    python3-libnbd        /usr/bin/python3 -c 'import nbd'
valgrind valgrind              have valgrind
fuzz     clang                 have clang
fuzz     libclang-rt-14-dev    clang_has_sanitizers
fuse     libfuse3-dev          pkg-config --exists fuse3
fuse     fuse3                 have fusermount3
nbdkit   nbdkit-plugin-dev     pkg-config --exists nbdkit
nbdkit   libnbd-dev            pkg-config --exists libnbd
remote   nginx                 have nginx || [ -x /usr/sbin/nginx ]
remote   libnginx-mod-http-lua [ -e /usr/lib/nginx/modules/ngx_http_lua_module.so ]
remote   libnginx-mod-http-dav-ext [ -e /usr/lib/nginx/modules/ngx_http_dav_ext_module.so ]
remote   ceph-mon              have ceph-mon
remote   ceph-osd              have ceph-osd
remote   radosgw               have radosgw
remote   ceph-common           have ceph
remote   swift-proxy           have swift-proxy-server
remote   swift-account         have swift-account-server
remote   swift-container       have swift-container-server
remote   swift-object          have swift-object-server
remote   nodejs                have node
remote   npm                   have npm
check    openssl               have openssl
remote   curl                  have curl
remote   qemu-block-extra      ls /usr/lib/*/qemu/block-curl.so
END
}

have() {
    command -v "$1" >/dev/null 2>&1
}

clang_has_sanitizers() {
    echo 'int main(void) { return 0; }' |
        clang -fsanitize=address,undefined -x c -o /dev/null - 2>/dev/null
}

missing() {
    table | while read -r group package test; do
        case " $* " in
        *" $group "*) eval "$test" >/dev/null 2>&1 || printf ' %s' "$package" ;;
        esac
    done
    # The compiler that was asked for, when it is not gcc.
    case ${CC##*/} in
    clang*) have "$CC" || printf ' clang libclang-rt-14-dev' ;;
    esac
}

need=$(missing "$@")
[ -z "$need" ] && exit 0

command="apt-get install -y --no-install-recommends$need"
if [ "$mode" = --check ]; then
    echo "missing:$need" >&2
    echo "'make deps' installs it on Debian, or do: $command" >&2
    exit 1
fi

sudo=
if [ "$(id -u)" -ne 0 ]; then
    sudo="sudo -n"
    $sudo true 2>/dev/null || sudo=none
fi
if [ "$sudo" = none ] || ! have apt-get; then
    echo "missing:$need" >&2
    echo "as root: $command" >&2
    exit 1
fi

echo "installing:$need"
# A list of packages that cannot be refreshed may still be good enough.
log=$(mktemp) || exit 1
$sudo apt-get update -qq || true
if ! $sudo env DEBIAN_FRONTEND=noninteractive $command -qq >"$log" 2>&1 </dev/null; then
    cat "$log" >&2
    rm -f "$log"
    echo "this failed: $command" >&2
    exit 1
fi
rm -f "$log"
need=$(missing "$@")
if [ -n "$need" ]; then
    echo "still missing after the installation:$need" >&2
    exit 1
fi
