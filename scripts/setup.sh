#!/bin/sh
# setup.sh TASK…: installs by apt what the tasks need and this machine lacks, and says so.
# Nothing missing: nothing done. No apt: the missing tools are named, exit 1.
set -eu
PATH=$PATH:/usr/sbin:/sbin
RUST=1.85

# What a task needs, as COMMAND:PACKAGE or /FILE:PACKAGE (packages by Debian's names).
needs() {
    case $1 in
    build) echo rust cc:gcc /usr/include/stdio.h:libc6-dev /etc/ssl/certs/ca-certificates.crt:ca-certificates ;;
    demo) echo ip:iproute2 nft:nftables sysctl:procps socat:socat tcpdump:tcpdump tcpreplay:tcpreplay ;;
    test) echo ip:iproute2 nft:nftables iptables:iptables sysctl:procps hping3:hping3 openssl:openssl \
        p0f:p0f setcap:libcap2-bin strace:strace tcpdump:tcpdump curl:curl ssh:openssh-client sshd:openssh-server socat:socat \
        mkfs.ext4:e2fsprogs mandoc:mandoc /usr/bin/pytest-3:python3-pytest ;;
    bench) echo ip:iproute2 nft:nftables iptables:iptables sysctl:procps openssl:openssl strace:strace \
        python3:python3 microsocks:microsocks fwknopd:fwknop-server fwknop:fwknop-client knockd:knockd ;;
    router) echo ip:iproute2 nft:nftables /usr/sbin/xtables-legacy-multi:iptables readelf:binutils /usr/share/doc/busybox-static:busybox-static \
        /usr/bin/pytest-3:python3-pytest ;;
    systemd) echo systemd-analyze:systemd systemd-nspawn:systemd-container busybox:busybox-static ;;
    cross) echo qemu-mips-static:qemu-user-static qemu-system-mipsel:qemu-system-mips cpio:cpio ;;
    sanitize) echo valgrind:valgrind ;;
    lint) echo rust-lint shellcheck:shellcheck mandoc:mandoc ;;
    *)
        echo "setup.sh: no such task: \"$1\"" >&2
        exit 2
        ;;
    esac
}

at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }

have() {
    case $1 in
    rust) command -v cargo >/dev/null && at_least $RUST "$(rustc --version 2>/dev/null | cut -d' ' -f2)" ;;
    rust-lint) cargo clippy --version >/dev/null 2>&1 && cargo fmt --version >/dev/null 2>&1 ;;
    /*) [ -e "${1%%:*}" ] ;;
    *) command -v "${1%%:*}" >/dev/null ;;
    esac
}

candidate() { apt-cache policy "$1" | sed -n 's/^ *Candidate: //p'; }

# Debian 13 has a new enough rustc; Debian 12 has one in the packages that build its web browsers.
package() {
    if [ "$1" != rust ] && [ "$1" != rust-lint ]; then
        echo "${1#*:}"
        return
    fi
    if at_least $RUST "$(candidate rustc)"; then
        suffix='' clippy=rust-clippy
    elif at_least $RUST "$(candidate rustc-web)"; then
        suffix=-web clippy=rust-web-clippy
    else
        echo "setup.sh: no package of rust $RUST or newer: install it by rustup, https://rustup.rs" >&2
        return 1
    fi
    case $1 in
    rust) echo "rustc$suffix cargo$suffix" ;;
    rust-lint) echo "$clippy rustfmt$suffix" ;;
    esac
}

missing=
for task in "$@"; do
    list=$(needs "$task")
    for need in $list; do
        case "$missing " in *" $need "*) continue ;; esac
        have "$need" || missing="$missing $need"
    done
done
[ -n "$missing" ] || exit 0

as_root=
[ "$(id -u)" = 0 ] || as_root=sudo
if ! command -v apt-get >/dev/null || ! command -v "${as_root:-true}" >/dev/null; then
    names=
    for need in $missing; do names="$names ${need%%:*}"; done
    echo "setup.sh: missing:$names (rust: $RUST or newer)" >&2
    echo "install them, or run as root where there is apt" >&2
    exit 1
fi

echo "setup.sh: apt-get update"
$as_root apt-get -q update >/dev/null
packages=
for need in $missing; do
    name=$(package "$need")
    packages="$packages $name"
done
echo "setup.sh: apt-get install$packages"
# shellcheck disable=SC2086 # a list
$as_root env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends $packages >/dev/null
