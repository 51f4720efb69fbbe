#!/usr/bin/env bash
# reproducible.sh [TARGET...]: makes a release of HEAD twice, in directories with names of different lengths, and compares the
# bytes of all files.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ $# -gt 0 ] || set -- x86_64

commit=$(git -C "$here" rev-parse HEAD)
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
for copy in a another/one/further/down; do
    git clone --quiet --no-checkout "$here/../.." "$place/$copy"
    git -C "$place/$copy" checkout --quiet "$commit"
    KNOCKKNOCK_TARGET_DIR='' "$place/$copy/scripts/release.sh" "$@" >/dev/null
done
diff -r "$place/a/dist" "$place/another/one/further/down/dist"
cat "$place/a/dist/SHA256SUMS"
