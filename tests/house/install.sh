#!/bin/sh
# SPDX-License-Identifier: MIT
# Install into a directory, build a program against what is there with
# pkg-config alone, both shared and static, and take everything away again.
stage=$QC_BUILD/stage
unset MAKEFLAGS MFLAGS MAKELEVEL
make="make BUILD=$QC_BUILD CC=$QC_CC DESTDIR=$stage PREFIX=/usr"
rm -rf "$stage"
mkdir -p "$stage"
trap 'rm -rf "$stage" "$QC_BUILD/stage-program"*' EXIT

$make install || exit 1
export PKG_CONFIG_SYSROOT_DIR="$stage" PKG_CONFIG_PATH="$stage/usr/lib/pkgconfig"
cat >"$QC_BUILD/stage-program.c" <<'END'
#include <qchain-backend.h>
#include <string.h>

int main(void)
{
    return strcmp(qchain_version_string(), VERSION) ? 1 : 0;
}
END
version="-DVERSION=\"$(pkg-config --modversion libqchain)\""
program=$QC_BUILD/stage-program
$QC_CC -o "$program" "$version" "$program.c" $(pkg-config --cflags --libs libqchain) || exit 1
LD_LIBRARY_PATH=$stage/usr/lib "$program" || { echo "the shared program failed" >&2; exit 1; }
unset PKG_CONFIG_SYSROOT_DIR
$QC_CC -o "$program" "$version" -I"$stage/usr/include" "$program.c" \
    "$stage/usr/lib/libqchain.a" $(pkg-config --static --libs-only-l libqchain | sed 's/-lqchain //') \
    -pthread || exit 1
"$program" || { echo "the static program failed" >&2; exit 1; }
"$stage/usr/bin/qchain" --version || { echo "the installed tool failed" >&2; exit 1; }

$make uninstall || exit 1
left=$(find "$stage" ! -type d)
[ -z "$left" ] || { echo "uninstall left: $left" >&2; exit 1; }
