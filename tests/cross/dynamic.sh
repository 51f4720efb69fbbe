#!/usr/bin/env bash
# dynamic.sh [TARGET...]: builds against a shared musl, as OpenWrt's feed does, and checks that libc.so is the only library needed.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=../../scripts/static-toolchain.sh
. "$here/../../scripts/static-toolchain.sh"
[ $# -gt 0 ] || set -- x86_64 mips

export CARGO_TARGET_DIR=$CARGO_TARGET_DIR-dynamic
for name in "$@"; do
    target=$(target "$name")
    (
        cd "$root"
        RUSTFLAGS="$DYNAMIC $SMALL" cargo-zigbuild zigbuild --quiet --release --locked \
            -Zbuild-std=std,panic_abort -Zbuild-std-features=optimize_for_size --target "$target"
    )
    file=$CARGO_TARGET_DIR/$target/release/knockknock
    needed=$(llvm-readelf -d "$file" | sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p' | tr '\n' ' ')
    printf '%9d %s needs %s\n' "$(stat -c %s "$file")" "$target" "$needed"
    [ "$needed" = 'libc.so ' ] || fail "$target needs more than libc.so" "link that statically"
    if [ "$name" = x86_64 ]; then
        packages musl
        "$file" --version
    fi
done
