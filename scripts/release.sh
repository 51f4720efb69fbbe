#!/usr/bin/env bash
# release.sh [TARGET...]: replaces dist/ by the static files for the targets (default: all), their packages for Debian and
# OpenWrt, MANIFEST and SHA256SUMS. The same commit gives the same bytes.
set -euo pipefail
umask 022
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
# shellcheck source-path=SCRIPTDIR source=static-toolchain.sh
. scripts/static-toolchain.sh
# shellcheck disable=SC2086 # a list
[ $# -gt 0 ] || set -- $TARGETS
[ -z "$(git status --porcelain)" ] || fail "the tree has changes that are not committed" "commit them: a release is built from a commit"

rm -rf dist
scripts/build-static.sh "$@"
for format in deb:3 ipk:4 apk:4; do
    architectures=()
    for name in "$@"; do
        mapfile -t -O ${#architectures[@]} architectures < <(names_of "$(target "$name")" ${format#*:})
    done
    [ ${#architectures[@]} = 0 ] || scripts/package.sh ${format%:*} "${architectures[@]}" 2>/dev/null
done

cd dist
mapfile -t files < <(find . -type f -printf '%P\n' | LC_ALL=C sort)
{
    echo "version         $(sed -n 's/^version = "\(.*\)"/\1/p' ../Cargo.toml)"
    echo "commit          $(git log -1 --format=%H)"
    echo "date            $(TZ=UTC git log -1 --date=iso-local --format=%cd)"
    echo "rustc           $("$RUSTC" --version)"
    echo "linker          $ZIG $ZIGBUILD"
    echo "packages        $(dpkg-deb --version | sed -n '1s/.* version \([^ ]*\).*/dpkg-deb \1/p'), $(tar --version | head -n 1), $(gzip --version | head -n 1)"
    echo
    echo "    bytes file"
    stat --printf '%9s %n\n' "${files[@]}"
} >MANIFEST
sha256sum MANIFEST "${files[@]}" >SHA256SUMS
