# shellcheck shell=bash
# Sourced: installs, where missing, what static musl builds need (packages only), and puts it in the environment.
# The pins are what the sizes and the equal bytes of two builds were checked with.
ZIG=ziglang==0.15.2 # newer ones put an allocator of their own into musl
ZIGBUILD=cargo-zigbuild==0.24.0
TARGETS='x86_64 aarch64 armv7 mips mipsel' # short names; target() has the long ones

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
tools=${KNOCKKNOCK_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/knockknock}

fail() { # SENTENCE WHAT-TO-DO
    printf '%s: %s\n%s\n' "${0##*/}" "$1" "$2" >&2
    exit 1
}

# Installs Debian packages unless all are there; never at the price of removing one.
packages() {
    dpkg-query -W -f '${Status}\n' "$@" 2>/dev/null | grep -c '^install ok installed' | grep -qx $# && return
    command -v apt-get >/dev/null || fail "missing Debian packages: $*" "run it on Debian 12 or newer"
    local as_root=
    [ "$(id -u)" = 0 ] || as_root=sudo
    echo "${0##*/}: apt-get install $*" >&2
    $as_root apt-get -q update >/dev/null
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends --no-remove "$@" >/dev/null ||
        fail "cannot install $*" "apt says why above; Debian's own rustc and cargo stand in the way of rustc-web and cargo-web"
}

# The name that rustc has for a short one.
target() {
    case $1 in
    x86_64 | aarch64 | mips | mipsel) echo "$1-unknown-linux-musl" ;;
    armv7) echo armv7-unknown-linux-musleabihf ;;
    *-*-*) echo "$1" ;;
    *) fail "no such target: \"$1\"" "one of: $TARGETS, or a name that rustc knows" ;;
    esac
}

# Debian's newest Rust, with the source of its standard library: MIPS has no built one anywhere.
packages rustc-web cargo-web rust-web-src llvm python3-venv

if [ "$(cat "$tools/venv/pins" 2>/dev/null)" != "$ZIG $ZIGBUILD" ]; then
    echo "${0##*/}: pip install $ZIG $ZIGBUILD into $tools/venv" >&2
    rm -rf "$tools/venv"
    /usr/bin/python3 -m venv "$tools/venv"
    "$tools/venv/bin/pip" -q install $ZIG $ZIGBUILD
    echo "$ZIG $ZIGBUILD" >"$tools/venv/pins"
fi

# Its own target directory: two compilers in one would build everything anew at each change of hands.
export CARGO_TARGET_DIR=${KNOCKKNOCK_TARGET_DIR:-$root/target/static}
export PATH=$tools/venv/bin:$PATH RUSTC=/usr/bin/rustc CARGO=/usr/bin/cargo
export RUSTC_BOOTSTRAP=1 # -Zbuild-std and its like, on a stable compiler
unset RUSTUP_TOOLCHAIN CARGO_BUILD_TARGET CARGO_ENCODED_RUSTFLAGS

# shellcheck disable=SC2034 # for whoever sources this
{
    # At a fixed address, not position-independent: a static-pie mips binary crashes in threads under qemu.
    STATIC='-C relocation-model=static -C target-feature=+crt-static -C link-self-contained=no'
    DYNAMIC='-C target-feature=-crt-static -C link-arg=-dynamic'
    SMALL='-C force-unwind-tables=no -Zunstable-options -Cpanic=immediate-abort'
}
