#!/bin/sh
# setup.sh [--check] TASK...: installs the missing packages that the tasks need with apt, and prints their names.
# With --check, or without apt, it installs nothing: if anything is missing, it prints the names and exits 1.
# Packages that start a service (openssh-server, fwknop-server, knockd, firewalls) or replace another package
# (busybox-static) are only unpacked in the cache directory.
set -eu
PATH=$PATH:/usr/sbin:/sbin
RUST=1.85 # the oldest version that builds knockknock
# shellcheck source-path=SCRIPTDIR source=aside.sh
. "$(dirname "$0")/aside.sh"

# The needs of a task. COMMAND:PACKAGE or FILE:PACKAGE is a command or file and its Debian package; with @ instead of :
# the package is only unpacked. Other words are handled by have() and package().
needs() {
    case $1 in
    build) echo rust cc:gcc /usr/include/stdio.h:libc6-dev /etc/ssl/certs/ca-certificates.crt:ca-certificates ;;
    demo) echo ip:iproute2 nft:nftables sysctl:procps socat:socat tcpdump:tcpdump tcpreplay:tcpreplay ;;
    test) echo ip:iproute2 nft:nftables iptables:iptables sysctl:procps hping3:hping3 openssl:openssl \
        p0f:p0f setcap:libcap2-bin strace:strace tcpdump:tcpdump curl:curl ssh:openssh-client sshd@openssh-server socat:socat nc:netcat-openbsd ping:iputils-ping \
        mkfs.ext4:e2fsprogs mandoc:mandoc /usr/bin/pytest-3:python3-pytest ;;
    browser) echo chromium:chromium ;;
    bench) echo ip:iproute2 nft:nftables iptables:iptables sysctl:procps openssl:openssl strace:strace \
        python3:python3 microsocks:microsocks fwknopd@fwknop-server fwknop:fwknop-client knockd@knockd ;;
    router) echo rust gcc:gcc /usr/include/stdio.h:libc6-dev /usr/include/json-c/json.h:libjson-c-dev dropbear:dropbear-bin ssh:openssh-client \
        ip:iproute2 nft:nftables /usr/sbin/xtables-legacy-multi:iptables readelf:binutils /usr/share/doc/busybox-static@busybox-static \
        /usr/bin/pytest-3:python3-pytest ;;
    systemd) echo systemd-analyze:systemd systemd-nspawn:systemd-container busybox:busybox lintian:lintian ps:procps ufw@ufw firewalld@firewalld \
        /usr/lib/python3/dist-packages/firewall:python3-firewall /usr/lib/python3/dist-packages/nftables:python3-nftables \
        netfilter-persistent@netfilter-persistent /usr/share/netfilter-persistent/plugins.d/15-ip4tables@iptables-persistent ;;
    cross) echo qemu-mips-static:qemu-user-static qemu-system-mipsel:qemu-system-mips qemu-system-x86_64:qemu-system-x86 cpio:cpio ;;
    machines) echo qemu-system-aarch64:qemu-system-arm qemu-system-riscv64:qemu-system-misc ;;
    sanitize) echo valgrind:valgrind ;;
    lint) echo rust-lint shellcheck:shellcheck mandoc:mandoc ;;
    deny) echo venv ;;
    fuzz) echo c++:g++ ;;
    *)
        echo "setup.sh: no such task: \"$1\"" >&2
        exit 2
        ;;
    esac
}

at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }

have_apt() { command -v apt-get >/dev/null; }

can_install() { have_apt && { [ "$(id -u)" = 0 ] || command -v sudo >/dev/null; }; }

have() {
    case $1 in
    rust) command -v cargo >/dev/null && at_least $RUST "$(rustc --version 2>/dev/null | cut -d' ' -f2)" ;;
    rust-lint) cargo clippy --version >/dev/null 2>&1 && cargo fmt --version >/dev/null 2>&1 ;;
    venv) /usr/bin/python3 -c 'import ensurepip' 2>/dev/null ;;
    *@*) [ -d "$tools/aside/${1#*@}" ] || have "${1%@*}:" ;;
    /*) [ -e "${1%%:*}" ] || ! have_apt ;; # file paths are checked on Debian only
    *) command -v "${1%%:*}" >/dev/null ;;
    esac
}

candidate() { apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: //p'; }

# Prints the packages for a need; fails if apt has no Rust that is new enough.
# In Debian 13 it is in rustc, in Debian 12 in rustc-web, the packages that build the web browsers.
package() {
    case $1 in
    rust | rust-lint) ;;
    venv) echo python3-venv && return ;;
    *) echo "${1#*[:@]}" && return ;;
    esac
    if at_least $RUST "$(candidate rustc)"; then
        suffix='' clippy=rust-clippy
    elif at_least $RUST "$(candidate rustc-web)"; then
        suffix=-web clippy=rust-web-clippy
    else
        return 1
    fi
    case $1 in
    rust) echo "rustc$suffix cargo$suffix" ;;
    rust-lint) echo "$clippy rustfmt$suffix" ;;
    esac
}

# Prints the missing packages and how to install them, and exits with 1.
refuse() {
    names='' packages='' hint=''
    for need in $missing; do
        case $need in
        rust) names="$names, Rust $RUST or newer" ;;
        rust-lint) names="$names, clippy and rustfmt" ;;
        venv) names="$names, python3's venv" ;;
        *) names="$names, ${need%%[:@]*}" ;;
        esac
        if found=$(package "$need"); then
            packages="$packages $found"
        else
            hint='Rust: rustc and cargo on Debian 13, rustc-web and cargo-web on Debian 12, https://rustup.rs elsewhere'
        fi
    done
    echo "setup.sh: missing: ${names#, }" >&2
    if ! have_apt; then
        echo "install them with your system's package manager" >&2
    elif [ -n "$packages" ]; then
        echo "install as root: apt-get install$packages" >&2
    fi
    [ -z "$hint" ] || echo "$hint" >&2
    exit 1
}

check=
if [ "${1-}" = --check ]; then
    check=1
    shift
fi
missing=
for task in "$@"; do
    list=$(needs "$task")
    for need in $list; do
        case "$missing " in *" $need "*) continue ;; esac
        have "$need" || missing="$missing $need"
    done
done
[ -n "$missing" ] || exit 0
if [ -n "$check" ] || ! can_install; then refuse; fi

echo "setup.sh: apt-get update"
as_root apt-get -q update >/dev/null
installed='' unpacked=''
for need in $missing; do
    name=$(package "$need") || refuse
    case $need in
    *@*) unpacked="$unpacked $name" ;;
    *) installed="$installed $name" ;;
    esac
done
if [ -n "$installed" ]; then
    echo "setup.sh: apt-get install$installed"
    # shellcheck disable=SC2086 # a list
    apt_install $installed
fi
for name in $unpacked; do
    echo "setup.sh: unpack $name in $tools/aside"
    unpack_aside "$tools/aside/$name" "$name"
done
