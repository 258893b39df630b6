#!/bin/sh
# SPDX-License-Identifier: MIT
# A user without rights installs from the sources into a directory of his own, and runs what README.md shows: its
# C program, its commands on one chain (now.qcow2), its Python program. Only what was compiled is taken over: that takes minutes.
for need in qemu-img qemu-io pkg-config "$QC_PYTHON"; do
    command -v "$need" >/dev/null || { echo "$need is not installed"; exit 77; }
done
home=$(mktemp -d) || exit 1
trap 'rm -rf "$home"' EXIT
mkdir "$home/source" "$home/build" "$home/work"
cp -R Makefile README.md libqchain.pc.in include lib examples bindings tests "$home/source" || exit 1
for part in lib bin man nbdkit; do
    [ ! -d "$QC_BUILD/$part" ] || cp -RP "$QC_BUILD/$part" "$home/build" || exit 1
done
rights=
if [ "$(id -u)" -eq 0 ]; then
    command -v setpriv >/dev/null || { echo "setpriv is not installed"; exit 77; }
    chown -R 65534:65534 "$home"
    rights="setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs"
fi

# The user's own steps; $1: the compiler, $2: Python.
cat >"$home/steps.sh" <<'END'
set -eu
die() {
    echo "$*" >&2
    exit 1
}
[ "$(id -u)" -ne 0 ] || die "this is to be run without rights"
prefix=$HOME/qchain
cd "$HOME/source"
make -o all BUILD="$HOME/build" PREFIX="$prefix" install
export PATH="$prefix/bin:$PATH" PKG_CONFIG_PATH="$prefix/lib/pkgconfig" LD_LIBRARY_PATH="$prefix/lib" QCHAIN_POLICY=
cd "$HOME/work"

# The code block of README.md in language $1 that has $2 in it.
block() {
    awk -v begin="\`\`\`$1" -v with="$2" '$0 == begin { text = ""; inside = 1; next }
        inside && $0 == "```" { inside = 0; if (index(text, with)) { printf "%s", text; exit } }
        inside { text = text $0 "\n" }' "$HOME/source/README.md"
}

qemu-img create -q -f qcow2 base.qcow2 4M
below=base
for layer in mon tue now; do
    qemu-img create -q -f qcow2 -b $below.qcow2 -F qcow2 $layer.qcow2
    below=$layer
done
qemu-io -c 'write -P 1 0 128k' base.qcow2 >where
qemu-io -c 'write -P 2 1M 64k' mon.qcow2 >where
qemu-io -c 'write -P 3 2M 64k' now.qcow2 >where
expected='131072 bytes at 0, in layer 3
65536 bytes at 1048576, in layer 2
65536 bytes at 2097152, in layer 0'

# C, compiled as the README says.
block c 'int main(' >stored.c
compile=$(sed -n 's/^    cc \(stored\.c .*\)/\1/p' "$HOME/source/README.md")
[ -s stored.c ] && [ -n "$compile" ] || die "README.md has no C program"
eval "$1 $compile"
[ "$(./stored now.qcow2)" = "$expected" ] || die "the C program says: $(./stored now.qcow2)"
! ./stored missing.qcow2 2>why || die "the C program opens what is not there"
grep -q 'missing.qcow2: cannot open' why || die "the C program says: $(cat why)"

# Python, and the library where the variable says.
block python 'import qchain' >stored.py
[ -s stored.py ] || die "README.md has no Python program"
digest=$(qchain checksum now.qcow2 | sed 's/ .*//')
said=$(env -u LD_LIBRARY_PATH QCHAIN_LIBRARY="$prefix/lib/libqchain.so.0" PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH="$HOME/source/bindings/python" "$2" stored.py)
[ "$said" = "$expected
digest: $digest" ] || die "the Python program says: $said; the digest is $digest"

# The commands that README.md shows on this chain, in its order; none changes what the disk reads.
sed -n 's/^    \$ \(qchain[ -][^#]*\).*/\1/p' "$HOME/source/README.md" | grep -E 'now\.qcow2|tue\.qcow2' >commands
[ "$(wc -l <commands)" -ge 9 ] || die "README.md shows too few commands: $(cat commands)"
while read -r line; do
    $line >out 2>why || die "$line: $(cat why)"
    [ "$(qchain checksum --no-index now.qcow2 | sed 's/ .*//')" = "$digest" ] || die "$line changed the disk"
done <commands
[ "$(qchain checksum flat.qcow2 | sed 's/ .*//')" = "$digest" ] || die "flat.qcow2 is another disk"
[ ! -e mon.qcow2 ] && [ -e now.qcow2.qci ] || die "the commands did not do what README.md says: $(ls)"
qemu-img check -q now.qcow2 || die "now.qcow2 is damaged"

# The manual, and that all of it goes away.
if command -v man >/dev/null; then
    for page in qchain-map.1 qchain_open.3 qchain-format.5 qchain-policy.7; do
        man -M "$prefix/share/man" -w "${page##*.}" "${page%.*}" >where || die "there is no page $page"
    done
fi
cd "$HOME/source"
make -o all BUILD="$HOME/build" PREFIX="$prefix" uninstall
left=$(find "$prefix" ! -type d)
[ -z "$left" ] || die "uninstall left: $left"
END
cd "$home" || exit 1
$rights env -i HOME="$home" PATH="$PATH" LC_ALL=C.UTF-8 TMPDIR="$home" sh "$home/steps.sh" "$QC_CC" "$QC_PYTHON"
