#!/usr/bin/env bash
# reproducible.sh [TARGET...]: builds HEAD twice, in directories with names of different lengths, and compares the bytes.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ $# -gt 0 ] || set -- x86_64

commit=$(git -C "$here" rev-parse HEAD)
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
for copy in a another/one/further/down; do
    git clone --quiet --no-checkout "$here/../.." "$place/$copy"
    git -C "$place/$copy" checkout --quiet "$commit"
    KNOCKKNOCK_TARGET_DIR='' "$place/$copy/scripts/build-static.sh" "$@" >/dev/null
done
cd "$place/a/dist"
for file in */knockknock; do
    sha256sum "$file"
    cmp "$file" "$place/another/one/further/down/dist/$file"
done
