#!/usr/bin/env bash
# build-static.sh TARGET...: builds dist/TARGET/knockknock, one static musl file. Runs on Debian, and installs what is missing.
# TARGET is a short name of targets.tsv, all, or a name that rustc knows.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=static-toolchain.sh
. "$(dirname "$0")/static-toolchain.sh"
[ $# -gt 0 ] || fail "no target" "one or more of: $TARGETS, all"
[ "$1" != all ] || eval "set -- $TARGETS"

for name in "$@"; do
    target=$(target "$name")
    built=$CARGO_TARGET_DIR/$target/release/knockknock
    file=$root/dist/$target/knockknock
    # For size. Functions are inlined only if they are tiny, or have one caller and at most 512 bytes on the stack, because
    # distant stack slots need longer instructions. Constants are loaded where they are used, not before a loop. No
    # expression is computed early on one of several paths (PRE). A match of less than 8 cases is no jump table.
    llvm='-inline-threshold=10 -inline-max-stacksize=512 -disable-machine-licm'
    llvm+=' -enable-pre=false -enable-load-pre=false -min-jump-table-entries=8'
    features=
    case $target in
    # Identical code moves into one function if that saves at least 6 bytes (with a lower limit the cryptography becomes
    # slower).
    x86_64-*) llvm+=' -enable-machine-outliner=always -outliner-benefit-threshold=6' ;;
    # Thumb-2 instructions, which all these processors have, are as fast and shorter.
    armv7-*) features='-C target-feature=+thumb-mode' ;;
    # A branch's delay slot takes an instruction from after the branch too, not only from before it. A call at the end of
    # a function becomes a jump. No trap after a division: Rust checks the divisor before it. The blocks of a function stay
    # in their order, because moving them takes more branches. Blocks that end alike share their end; by default LLVM does
    # not do this for MIPS, because of branches over more than 128 KB (here, no function has more than 12 KB).
    mips*)
        llvm+=' -disable-mips-df-forward-search=false -disable-mips-df-succbb-search=false -mips-tail-calls'
        llvm+=' -mno-check-zero-division -disable-block-placement -enable-tail-merge -tail-merge-size=2'
        ;;
    esac
    (
        cd "$root"
        # musl is compiled with the same options.
        CCC_OVERRIDE_OPTIONS+=" +-mllvm +${llvm// / +-mllvm +}"
        ZIG_GLOBAL_CACHE_DIR+=-$(cksum <<<"$llvm" | cut -d ' ' -f 1)
        # Not stripped yet: scripts/size.sh reads the symbols.
        RUSTFLAGS="$STATIC $SMALL $features" CARGO_PROFILE_RELEASE_STRIP=none \
            cargo-zigbuild rustc --quiet --release --locked --bin knockknock \
            -Zbuild-std=std,panic_abort -Zbuild-std-features=optimize_for_size --target "$target" -- \
            -C llvm-args="$llvm" -C link-arg="-Wl,-T,$root/scripts/layout.ld"
    )
    mkdir -p "${file%/*}"
    # .pdr is 67 KB for MIPS debuggers; plain strip keeps it.
    llvm-objcopy --strip-all -R .pdr -R .comment "$built" "$file"
    ! llvm-readelf -lS "$file" | grep -wE 'INTERP|DYNAMIC' ||
        fail "$file is not static" "see the linker's arguments with: cargo-zigbuild zigbuild -v"
    printf '%9d %s\n' "$(stat -c %s "$file")" "${file#"$root/"}"
done
