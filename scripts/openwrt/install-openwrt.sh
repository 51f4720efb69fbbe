#!/bin/sh
# install-openwrt.sh [-n] [USER@]ROUTER: copies the static build for that router and its service files over ssh.
# Keeps the router's configuration. -n: only lists what it would copy.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck disable=SC2034 # for targets.sh
targets=$here/../targets.tsv
# shellcheck source-path=SCRIPTDIR source=../targets.sh
. "$here/../targets.sh"

fail() { # SENTENCE WHAT-TO-DO
	printf 'install-openwrt.sh: %s\n%s\n' "$1" "$2" >&2
	exit 1
}

dry=
[ "${1-}" != -n ] || { dry=yes && shift; }
if [ $# != 1 ]; then
	echo "usage: install-openwrt.sh [-n] [USER@]ROUTER" >&2
	exit 2
fi
router=$1

# shellcheck disable=SC2016 # for the router's shell
there=$(ssh "$router" '[ -r /etc/openwrt_release ] || exit 0
	. /etc/openwrt_release
	echo "$DISTRIB_ARCH"
	ls /etc/config/knockknock 2>/dev/null || true')
arch=${there%%
*}
[ -n "$arch" ] || fail "\"$router\" does not run OpenWrt: it has no /etc/openwrt_release" "copy dist/TARGET/knockknock there by hand"
target=$(target_for 4 "$arch")
[ -n "$target" ] || fail "no static build runs on \"$arch\"" "build the package in scripts/openwrt/knockknock with OpenWrt's SDK"
binary=$here/../../dist/$target/knockknock
[ -x "$binary" ] || fail "\"dist/$target/knockknock\" is missing" "run: make static TARGET=$target"

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
cp -R "$here/knockknock/root/." "$stage"
case $there in *"
"*) rm "$stage/etc/config/knockknock" ;; esac # there is one
mkdir -p "$stage/usr/bin"
cp "$binary" "$stage/usr/bin/knockknock"
for applet in daemon genprofile proxy; do ln -s knockknock "$stage/usr/bin/knockknock-$applet"; done
# The files that sysupgrade keeps: all of these, and this list itself. Of a package it keeps only the conffiles.
keep=lib/upgrade/keep.d/knockknock
mkdir -p "$stage/${keep%/*}"
(cd "$stage" && { echo /etc/knockknock.d/ && echo /etc/rc.d/S18knockknock && echo "/$keep" && find etc usr ! -type d | sed 's,^,/,'; }) >"$stage/list"
mv "$stage/list" "$stage/$keep"
chmod -R u=rwX,go=rX "$stage"

if [ -n "$dry" ]; then
	echo "to $router ($arch), with $target:"
	(cd "$stage" && find . ! -type d | sed 's,^\.,  ,' | sort)
	exit
fi
# procd does not restart a daemon whose command is the same.
tar -C "$stage" --owner=0 --group=0 --numeric-owner -cf - etc lib usr |
	ssh "$router" 'tar -xf - -C / && /etc/init.d/knockknock enable || exit
		! grep -qs "^knock-watcher\$" /proc/[0-9]*/comm || { /etc/init.d/knockknock restart && echo "Restarted the daemon."; }'
cat <<EOF
Copied to $router, and enabled. Next, on the router, with the guard on the WAN alone, which has to be up:
  knockknock invite NAME HOST --ports 22
  . /lib/functions/network.sh && network_flush_cache
  network_get_device wan wan && uci add_list knockknock.main.interfaces="\$wan" &&
    uci add_list knockknock.main.guard=22 && uci commit knockknock
  /etc/init.d/knockknock check
(HOST: the name that the client types for the router). On the client, paste the line that it prints into:
  knockknock accept
And on the router:
  /etc/init.d/knockknock start; /etc/init.d/firewall reload
A sysupgrade keeps all of it, if it keeps the configuration. After one to another processor, run this installer again.
EOF
