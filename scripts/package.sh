#!/usr/bin/env bash
# package.sh deb ARCHITECTURE...: builds dist/knockknock_VERSION-RELEASE_ARCHITECTURE.deb from the static file. The same
# commit gives the same bytes. RELEASE is 1 unless the environment has another.
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
        s/@SIZE@/$(du -sk --apparent-size --exclude=DEBIAN "$stage" | cut -f 1)/" "$root/scripts/debian/control" >"$stage/DEBIAN/control"
    (cd "$stage" && find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum) >"$stage/DEBIAN/md5sums"
    same_time "$stage"
    dpkg-deb --build --root-owner-group -Zxz --threads-max=1 "$stage" "$root/dist/knockknock_$version-${release}_$1.deb" >/dev/null
    echo "dist/knockknock_$version-${release}_$1.deb"
}

format=${1-}
case $format in
deb) column=3 ;;
*) fail "no such format: \"$format\"" "usage: package.sh deb ARCHITECTURE..." ;;
esac
shift
[ $# -gt 0 ] || fail "no architecture" "see scripts/targets.tsv for their names"

for architecture in "$@"; do
    target=$(target_for $column "$architecture")
    [ -n "$target" ] || fail "no static build runs on \"$architecture\"" "see scripts/targets.tsv for their names"
    "$root/scripts/build-static.sh" "$target" >&2
    stage=$(mktemp -d)
    trap 'rm -rf "$stage"' EXIT
    chmod 755 "$stage"
    "$format" "$architecture" "$root/dist/$target/knockknock"
    rm -rf "$stage"
done
