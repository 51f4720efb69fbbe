#!/usr/bin/env bash
# Runs cargo test and the end-to-end tests, and ends with one line that counts them all.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

output=$(mktemp -d)
trap 'rm -rf "$output"' EXIT

cargo test --locked 2>&1 | tee "$output/cargo"
cargo_status=$?
make --no-print-directory e2e 2>&1 | tee "$output/e2e"
e2e_status=$?

# The numbers before WORD in cargo's "test result:" lines and pytest's last line, added up.
count() {
    { grep '^test result:' "$output/cargo"; grep -E '^=+ .* in [0-9.]+s' "$output/e2e" | tail -n 1; } |
        grep -oE "[0-9]+ ($1)" | awk '{ n += $1 } END { print n + 0 }'
}

passed=$(count passed)
failed=$(count 'failed|errors?')
skipped=$(count 'skipped|ignored')
if [ "$failed" = 0 ]; then # a build that breaks or a runner that dies counts as one
    failed=$(((cargo_status != 0) + (e2e_status != 0)))
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
