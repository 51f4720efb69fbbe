# shellcheck shell=bash
# Sourced. Installs the toolchain of the static musl builds if it is missing, from packages only, and sets the environment.
# The sizes in the documents and the reproducible builds depend on these versions.
ZIG=ziglang==0.15.2 # newer versions replace musl's allocator
ZIGBUILD=cargo-zigbuild==0.24.0

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source-path=SCRIPTDIR source=aside.sh
. "$root/scripts/aside.sh"
targets=$root/scripts/targets.tsv
# shellcheck source-path=SCRIPTDIR source=targets.sh
. "$root/scripts/targets.sh"
TARGETS=$(short_names | paste -sd ' ')

fail() { # SENTENCE WHAT-TO-DO
    printf '%s: %s\n%s\n' "${0##*/}" "$1" "$2" >&2
    exit 1
}

# packages NAME...: installs the Debian packages unless all are there.
packages() {
    dpkg-query -W -f '${Status}\n' "$@" 2>/dev/null | grep -c '^install ok installed' | grep -qx $# && return
    command -v apt-get >/dev/null || fail "missing Debian packages: $*" "run it on Debian 12 or newer"
    echo "${0##*/}: apt-get install $*" >&2
    as_root apt-get -q update >/dev/null
    apt_install "$@" || fail "cannot install $*" "apt-get gives the reason above"
}

# target NAME: prints the name that rustc knows a short name by.
target() {
    case $1 in
    *-*-*) echo "$1" ;;
    *) target_for 1 "$1" | grep . || fail "no such target: \"$1\"" "one of: $TARGETS, or a name that rustc knows" ;;
    esac
}

packages gcc libc6-dev llvm python3-venv

# Debian's newest Rust, with the source of the standard library, because no compiled one exists for MIPS.
# It is only unpacked, because it conflicts with Debian's rustc and cargo.
rust=$tools/rust-web
if [ ! -x "$rust/rustc" ]; then
    echo "${0##*/}: unpack rustc-web, cargo-web and rust-web-src in $rust" >&2
    as_root apt-get -q update >/dev/null
    mapfile -t libraries < <(apt-cache depends --important --recurse rustc-web | grep -x 'libstd-rust-web-[^:]*')
    unpack_aside "$rust" rustc-web cargo-web rust-web-src "${libraries[@]}"
    driver=$(echo "$rust"/usr/lib/*/librustc_driver-*.so)
    printf '#!/bin/sh\nLD_LIBRARY_PATH="%s" exec "%s" --sysroot "%s" "$@"\n' \
        "${driver%/*}" "$rust/usr/bin/rustc" "$rust/usr" >"$rust/rustc"
    chmod +x "$rust/rustc"
fi

if [ "$(cat "$tools/venv/pins" 2>/dev/null)" != "$ZIG $ZIGBUILD" ]; then
    echo "${0##*/}: pip install $ZIG $ZIGBUILD into $tools/venv" >&2
    rm -rf "$tools/venv"
    /usr/bin/python3 -m venv "$tools/venv"
    "$tools/venv/bin/pip" -q install $ZIG $ZIGBUILD
    echo "$ZIG $ZIGBUILD" >"$tools/venv/pins"
fi

# A separate target directory: with two compilers in one directory, each build would start over.
export CARGO_TARGET_DIR=${KNOCKKNOCK_TARGET_DIR:-$root/target/static}
export PATH=$tools/venv/bin:$PATH RUSTC=$rust/rustc CARGO=$rust/usr/bin/cargo
# zig compiles musl with -Os and -O3; -Oz makes it 9 KB smaller. These options have a cache of their own, because zig does
# not see the change.
export CCC_OVERRIDE_OPTIONS='# s/-Os/-Oz/ s/-O3/-Oz/' ZIG_GLOBAL_CACHE_DIR=$tools/zig
export RUSTC_BOOTSTRAP=1 # -Zbuild-std and its like, on a stable compiler
unset RUSTUP_TOOLCHAIN CARGO_BUILD_TARGET CARGO_ENCODED_RUSTFLAGS

# shellcheck disable=SC2034 # for the scripts that source this
{
    # Not position-independent: a static-pie binary for mips crashes under qemu when it starts a thread. Without RELRO: only
    # a dynamic linker would write-protect those pages, and they are one more page of each process.
    STATIC='-C relocation-model=static -C relro-level=off -C target-feature=+crt-static -C link-self-contained=no'
    DYNAMIC='-C target-feature=-crt-static -C link-arg=-dynamic'
    SMALL='-C force-unwind-tables=no -Zunstable-options -Cpanic=immediate-abort'
}
