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

# The shells find what was installed by the names of the programs.
share=$stage/usr/share
got=$(PATH="$stage/usr/bin:$PATH" bash --norc -c '
    source "$0/bash-completion/completions/qchain-map"
    COMP_LINE="qchain-map --output=json-" COMP_POINT=25
    $(complete -p qchain-map | sed "s/.*-F //; s/ .*//") qchain-map && echo "${COMPREPLY[*]}"' "$share")
[ "$got" = json-full ] || { echo "bash completes nothing: $got" >&2; exit 1; }
if command -v fish >/dev/null; then
    got=$(PATH="$stage/usr/bin:$PATH" HOME=$stage/usr fish --no-config -c "
        set fish_complete_path $share/fish/vendor_completions.d
        complete -C 'qchain-map --output=json-'")
    rm -rf "$stage/usr/.config" "$stage/usr/.local" "$stage/usr/.cache"
    [ "$got" = --output=json-full ] || { echo "fish completes nothing: $got" >&2; exit 1; }
fi
head -n 1 "$share/zsh/site-functions/_qchain" | grep -q '^#compdef qchain ' || exit 1

$make uninstall || exit 1
left=$(find "$stage" ! -type d)
[ -z "$left" ] || { echo "uninstall left: $left" >&2; exit 1; }
