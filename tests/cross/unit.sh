#!/usr/bin/env bash
# unit.sh [TARGET...]: runs the unit tests on other processors (default: mips mipsel armv7 aarch64), under qemu-user.
# The tests of sys/ and tunnel/ are left out: they test the kernel, which qemu-user only imitates. test_machine.py has a real one.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=../../scripts/static-toolchain.sh
. "$here/../../scripts/static-toolchain.sh"
packages qemu-user-static
[ $# -gt 0 ] || set -- mips mipsel armv7 aarch64

for name in "$@"; do
    target=$(target "$name")
    emulator=$(awk -F '\t' -v name="$name" '$1 == name { print $5 }' "$targets")
    variable=${target//-/_}
    export "CARGO_TARGET_${variable^^}_RUNNER=$emulator"
    echo "unit.sh: $name"
    # With unwinding: tests that abort run in child processes, which qemu-user cannot start.
    (
        cd "$root"
        CARGO_PROFILE_RELEASE_PANIC=unwind CARGO_PROFILE_RELEASE_LTO=off RUSTFLAGS=$STATIC \
            cargo-zigbuild test --quiet --release --locked --lib -Zbuild-std=std,panic_unwind --target "$target" \
            -- --skip sys:: --skip tunnel::
    )
done
