#!/usr/bin/env bash
# size.sh [NUMBER]: compares the static builds in dist/ with size-budget.tsv, and lists the NUMBER (15) largest symbols of each.
# Exits 1 if a build is over its budget or has none, or if there is no build.
set -euo pipefail
cd "$(dirname "$0")/.."
largest=${1:-15}
symbols=${KNOCKKNOCK_TARGET_DIR:-target/static}

status=0
for file in dist/*/knockknock; do
    if [ ! -e "$file" ]; then
        printf 'size.sh: nothing built in dist/\nrun: make static-all\n' >&2
        exit 1
    fi
    target=$(basename "$(dirname "$file")")
    size=$(stat -c %s "$file")
    budget=$(awk -v target="$target" '$1 == target { print $2 }' scripts/size-budget.tsv)
    verdict=within
    if [ "$size" -gt "${budget:-0}" ]; then
        verdict=OVER
        status=1
    fi
    printf '%s: %d bytes, %s the budget of %s\n' "$target" "$size" "$verdict" "${budget:-none}"
    llvm-nm --print-size --size-sort --reverse-sort --radix=d --demangle "$symbols/$target/release/knockknock" 2>/dev/null |
        awk -v largest="$largest" 'NR > largest { exit } { size = $2; $1 = $2 = $3 = ""; printf "%9d %s\n", size, $0 }' || true
done
exit $status
