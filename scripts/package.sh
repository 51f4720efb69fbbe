#!/usr/bin/env bash
# package.sh deb|ipk|apk ARCHITECTURE...: builds packages for Debian or OpenWrt in dist/ from the static file, and prints
# their paths. The same commit gives the same bytes. RELEASE is 1 unless the environment has another.
set -euo pipefail
umask 022
root=$(cd "$(dirname "$0")/.." && pwd)
targets=$root/scripts/targets.tsv
# shellcheck source-path=SCRIPTDIR source=targets.sh
. "$root/scripts/targets.sh"

fail() { # SENTENCE WHAT-TO-DO
    printf 'package.sh: %s\n%s\n' "$1" "$2" >&2
    exit 1
}

version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/Cargo.toml")
release=${RELEASE:-1}
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$root" log -1 --format=%ct)}
maintainer=$(git -C "$root" log -1 --format='%an <%ae>')
commit=$(git -C "$root" log -1 --format=%H)

# same_time DIRECTORY: gives all files in it the time of the commit.
same_time() {
    find "$1" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
}

# runs_here FILE...: prints the first static build that runs on this machine.
runs_here() {
    for file in "$@"; do
        if "$file" --version >/dev/null 2>&1; then echo "$file" && return; fi
    done
    fail "no static build runs on this machine, and the completions are made by one" "run: scripts/build-static.sh $(uname -m)"
}

# kilobytes DIRECTORY: prints the size of its files, on any file system, as dpkg-gencontrol counts it.
kilobytes() {
    find "$1" -printf '%y %s\n' | awk '{ size += $1 == "f" ? int(($2 + 1023) / 1024) : 1 } END { print size }'
}

# deb ARCHITECTURE BINARY: builds the package from the tree in $stage.
deb() {
    local doc=$stage/usr/share/doc/knockknock
    make --silent -C "$root" install DESTDIR="$stage" PREFIX=/usr BINARY="$2" \
        NATIVE="$(runs_here "$2" "$root"/dist/*/knockknock)" >/dev/null
    mv "$stage/usr/share/zsh/site-functions" "$stage/usr/share/zsh/vendor-completions"
    find "$stage/usr/share/man" -type f -exec gzip -9n {} +
    install -D -m 644 "$root/scripts/debian/sysusers.conf" "$stage/usr/lib/sysusers.d/knockknock.conf"
    install -D -m 644 "$root/scripts/debian/lintian-overrides" "$stage/usr/share/lintian/overrides/knockknock"

    install -d "$doc/examples"
    install -m 644 "$root/README.md" "$root/SECURITY.md" "$root/docs/firewalls.md" "$doc"
    install -m 644 "$root/scripts/minimal-firewall.nft" "$doc/examples"
    install -m 755 "$root/scripts/minimal-firewall.sh" "$doc/examples"
    { cat "$root/scripts/debian/copyright" && sed '1,4d; s/^$/./; s/^/ /' "$root/LICENSE"; } >"$doc/copyright"
    gzip -9nc "$root/CHANGELOG.md" >"$doc/changelog.gz"
    gzip -9nc >"$doc/changelog.Debian.gz" <<END
knockknock ($version-$release) unstable; urgency=medium

  * Built from commit $commit.

 -- $maintainer  $(LC_ALL=C date --utc --rfc-email --date="@$SOURCE_DATE_EPOCH")
END

    install -d "$stage/DEBIAN"
    install -m 755 "$root"/scripts/debian/{postinst,prerm,postrm} "$stage/DEBIAN"
    sed "s/@VERSION@/$version-$release/; s/@ARCHITECTURE@/$1/; s/@MAINTAINER@/$maintainer/
        s/@SIZE@/$(kilobytes "$stage/usr")/" "$root/scripts/debian/control" >"$stage/DEBIAN/control"
    (cd "$stage" && find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum) >"$stage/DEBIAN/md5sums"
    same_time "$stage"
    dpkg-deb --build --root-owner-group -Zxz --threads-max=1 "$stage" "$root/dist/knockknock_$version-${release}_$1.deb" >/dev/null
    echo "dist/knockknock_$version-${release}_$1.deb"
}

# archive DIRECTORY [FILE...]: prints a compressed tar archive of these files in the directory, or of all.
archive() {
    local directory=$1
    shift
    [ $# -gt 0 ] || set -- .
    tar --create --format=gnu --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" \
        --directory="$directory" "$@" | gzip -9n
}

# recipe TARGET: runs a target of the OpenWrt package's Makefile, in $stage.
recipe() {
    make --silent -C "$root/scripts/openwrt/knockknock" TOPDIR="$root/scripts/openwrt/buildroot" OUTPUT="$stage" FORMAT="$format" "$1"
}

# list SEPARATOR: joins the words of its input.
list() {
    xargs | sed "s/ /$1/g"
}

# openwrt_files BINARY: puts the package's files in $stage/root, as OpenWrt's build system does.
openwrt_files() {
    mkdir -p "$stage/install/bin"
    cp "$1" "$stage/install/bin/knockknock"
    recipe install
    # Of the conffiles, the package manager keeps the installed files. sysupgrade keeps the others by this list.
    mkdir -p "$stage/root/lib/upgrade/keep.d"
    recipe show-conffiles | while read -r file; do
        [ -f "$stage/root/$file" ] || echo "$file"
    done >"$stage/root/lib/upgrade/keep.d/knockknock"
    chmod -R u=rwX,go=rX "$stage/root"
}

# openwrt_script FUNCTION: prints a script that calls OpenWrt's function for packages, which creates users and enables the
# init script.
openwrt_script() {
    # shellcheck disable=SC2016 # for the router's shell
    printf '%s\n' '#!/bin/sh' '[ "${IPKG_NO_SCRIPT}" != 1 ] || exit 0' '[ -s "${IPKG_INSTROOT}/lib/functions.sh" ] || exit 0' \
        '. "${IPKG_INSTROOT}/lib/functions.sh"' "$1"
}

# ipk ARCHITECTURE BINARY: builds the package for opkg.
ipk() {
    local control=$stage/control
    openwrt_files "$2"
    archive "$stage/root" >"$stage/data.tar.gz"
    mkdir "$control"
    recipe show-conffiles | while read -r file; do [ ! -f "$stage/root/$file" ] || echo "$file"; done >"$control/conffiles"
    # opkg runs the first two, and OpenWrt's functions the others.
    # shellcheck disable=SC2016
    openwrt_script 'default_postinst $0 $@' >"$control/postinst"
    # shellcheck disable=SC2016
    openwrt_script 'default_prerm $0 $@' >"$control/prerm"
    recipe show-postinst >"$control/postinst-pkg"
    recipe show-prerm >"$control/prerm-pkg"
    {
        echo "Package: knockknock"
        echo "Version: $version-r$release"
        echo "Depends: $(recipe show-depends | list ', ')"
        echo "License: $(recipe show-license)"
        echo "Section: $(recipe show-section)"
        echo "Require-User: $(recipe show-users)"
        echo "SourceDateEpoch: $SOURCE_DATE_EPOCH"
        echo "Maintainer: $maintainer"
        echo "Architecture: $1"
        echo "Installed-Size: $(gzip -dc "$stage/data.tar.gz" | wc -c)"
        echo "Description: $(recipe show-description | sed 's/^ *$/ ./')"
    } >"$control/control"
    chmod 644 "$control"/*
    chmod 755 "$control"/p*
    echo 2.0 >"$stage/debian-binary"
    archive "$control" >"$stage/control.tar.gz"
    package=dist/knockknock_$version-r${release}_$1.ipk
    archive "$stage" ./debian-binary ./data.tar.gz ./control.tar.gz >"$root/$package"
    echo "$package"
}

# apk ARCHITECTURE BINARY: builds the package for apk. What opkg's database has of a package is a file in it for apk.
apk() {
    local database=$stage/root/lib/apk/packages
    openwrt_files "$2"
    mkdir -p "$database"
    recipe show-users >"$database/knockknock.rusers"
    recipe show-conffiles >"$database/knockknock.conffiles"
    while read -r file; do
        [ ! -f "$stage/root/$file" ] || echo "$file $(sha256sum <"$stage/root/$file" | cut -d ' ' -f 1)"
    done <"$database/knockknock.conffiles" >"$database/knockknock.conffiles_static"
    (cd "$stage/root" && find . \( -type f -o -type l \) -printf '/%P\n' | LC_ALL=C sort) >"$stage/list"
    mv "$stage/list" "$database/knockknock.list"
    chmod -R u=rwX,go=rX "$stage/root"

    # shellcheck disable=SC2016 # for the router's shell
    local prepare='export root="${IPKG_INSTROOT}" pkgname=knockknock'
    { openwrt_script "$prepare" && echo 'add_group_and_user' && echo 'default_postinst' && recipe show-postinst | sed 1d; } >"$stage/post-install"
    { echo '#!/bin/sh' && echo 'export PKG_UPGRADE=1' && sed 1d "$stage/post-install"; } >"$stage/post-upgrade"
    { openwrt_script "$prepare" && echo 'default_prerm' && recipe show-prerm | sed 1d; } >"$stage/pre-deinstall"
    package=dist/knockknock-$version-r${release}_$1.apk
    /usr/bin/python3 -B "$root/scripts/openwrt/mkapk.py" "$stage/root" "$root/$package" name=knockknock "version=$version-r$release" \
        "description=$(recipe show-description | paste -s -d ' ' | tr -s ' ' | sed 's/^ //')" "arch=$1" "license=$(recipe show-license)" \
        "maintainer=$maintainer" "depends=$(recipe show-depends)" "post-install=@$stage/post-install" \
        "post-upgrade=@$stage/post-upgrade" "pre-deinstall=@$stage/pre-deinstall"
    echo "$package"
}

format=${1-}
case $format in
deb) column=3 ;;
ipk | apk) column=4 ;;
*) fail "no such format: \"$format\"" "usage: package.sh deb|ipk|apk ARCHITECTURE..." ;;
esac
shift
[ $# -gt 0 ] || fail "no architecture" "see scripts/targets.tsv for their names"

declare -A target_of=()
for architecture in "$@"; do
    target_of[$architecture]=$(target_for $column "$architecture")
    [ -n "${target_of[$architecture]}" ] || fail "no static build runs on \"$architecture\"" "see scripts/targets.tsv for their names"
done
mapfile -t all < <(printf '%s\n' "${target_of[@]}" | sort -u)
"$root/scripts/build-static.sh" "${all[@]}" >&2
for architecture in "$@"; do
    stage=$(mktemp -d)
    trap 'rm -rf "$stage"' EXIT
    chmod 755 "$stage"
    "$format" "$architecture" "$root/dist/${target_of[$architecture]}/knockknock"
    rm -rf "$stage"
done
