#!/usr/bin/env bash
# unit.sh [TARGET…]: the unit tests on other processors, under qemu-user: mips (big-endian, no FPU), mipsel, armv7, aarch64.
# Those of sys/ and tunnel/ try the kernel, which qemu-user only imitates; on a MIPS kernel they have test_machine.py.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=../../scripts/static-toolchain.sh
. "$here/../../scripts/static-toolchain.sh"
packages qemu-user-static
[ $# -gt 0 ] || set -- mips mipsel armv7 aarch64

for name in "$@"; do
    target=$(target "$name")
    case $name in
    mips | mipsel) emulator="qemu-$name-static -cpu 24Kc" ;;
    armv7) emulator=qemu-arm-static ;;
    *) emulator=qemu-$name-static ;;
    esac
    variable=${target//-/_}
    export "CARGO_TARGET_${variable^^}_RUNNER=$emulator"
    echo "unit.sh: $name"
    # Unwinding: a test that ends by abort needs a process of its own, which qemu-user cannot start.
    (
        cd "$root"
        CARGO_PROFILE_RELEASE_PANIC=unwind CARGO_PROFILE_RELEASE_LTO=off RUSTFLAGS=$STATIC \
            cargo-zigbuild test --quiet --release --locked --lib -Zbuild-std=std,panic_unwind --target "$target" \
            -- --skip sys:: --skip tunnel::
    )
done
