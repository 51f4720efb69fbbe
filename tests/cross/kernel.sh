#!/usr/bin/env bash
# kernel.sh: builds a big-endian MIPS kernel for the malta board from Debian 12's linux-source-6.1, with kernel.config,
# unless it was built with the same one before. Prints its path in the cache directory. Takes ten minutes.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=../../scripts/static-toolchain.sh
. "$here/../../scripts/static-toolchain.sh"
packages linux-source-6.1 gcc-mips-linux-gnu make flex bison bc xz-utils >&2

kernel=$tools/mips/root/boot/vmlinux-6.1
if ! cmp -s "$here/kernel.config" "$kernel.config"; then
    sources=$tools/mips/linux
    [ -e "$sources/Makefile" ] || { mkdir -p "$sources" && tar -C "$sources" --strip-components=1 -xf /usr/src/linux-source-6.1.tar.xz; }
    export ARCH=mips CROSS_COMPILE=mips-linux-gnu-
    cd "$sources"
    make -s allnoconfig >&2
    scripts/kconfig/merge_config.sh -m .config "$here/kernel.config" >&2
    make -s olddefconfig >&2
    make -s -j "$(nproc)" vmlinux >&2
    mkdir -p "${kernel%/*}"
    cp vmlinux "$kernel"
    cp "$here/kernel.config" "$kernel.config"
fi
echo "$kernel"
