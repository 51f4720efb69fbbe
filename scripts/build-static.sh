#!/usr/bin/env bash
# build-static.sh TARGET…: builds dist/TARGET/knockknock, one static musl file (Debian; installs what it misses).
# TARGET is x86_64, aarch64, armv7, mips, mipsel, all, or a name that rustc knows.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=static-toolchain.sh
. "$(dirname "$0")/static-toolchain.sh"
[ $# -gt 0 ] || fail "no target" "one or more of: $TARGETS, all"
[ "$1" != all ] || eval "set -- $TARGETS"

for name in "$@"; do
    target=$(target "$name")
    built=$CARGO_TARGET_DIR/$target/release/knockknock
    file=$root/dist/$target/knockknock
    # Fewer copies: less is inlined, and on x86_64, which can, what stands in many places becomes one function where
    # that saves so many bytes (smaller ones would slow the cryptography).
    fewer=-inline-threshold=5
    [[ $target != x86_64-* ]] || fewer+=' -enable-machine-outliner=always -outliner-benefit-threshold=20'
    (
        cd "$root"
        # With its symbols: scripts/size.sh reads them.
        RUSTFLAGS="$STATIC $SMALL" CARGO_PROFILE_RELEASE_STRIP=none \
            cargo-zigbuild rustc --quiet --release --locked --bin knockknock \
            -Zbuild-std=std,panic_abort -Zbuild-std-features=optimize_for_size --target "$target" -- -C llvm-args="$fewer"
    )
    mkdir -p "${file%/*}"
    # .pdr is 67 KB of what MIPS debuggers look at; strip alone leaves it.
    llvm-objcopy --strip-all -R .pdr -R .comment "$built" "$file"
    ! llvm-readelf -lS "$file" | grep -wE 'INTERP|DYNAMIC' ||
        fail "$file is not static" "look at the linker's arguments: cargo-zigbuild zigbuild -v"
    printf '%9d %s\n' "$(stat -c %s "$file")" "${file#"$root/"}"
done
