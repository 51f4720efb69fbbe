#!/usr/bin/env bash
# Runs `cargo test` and the end-to-end tests. The last line adds up the results of both.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

output=$(mktemp -d)
trap 'rm -rf "$output"' EXIT

echo "test.sh: unit, integration and end-to-end tests; they take about 20 minutes on two cores"
cargo test --locked 2>&1 | tee "$output/cargo"
cargo_status=$?
make --no-print-directory e2e 2>&1 | tee "$output/e2e"
e2e_status=$?

# count WORD: the sum of the numbers before WORD in cargo's "test result:" lines and in pytest's last line.
count() {
    { grep '^test result:' "$output/cargo"; grep -E '^=+ .* in [0-9.]+s' "$output/e2e" | tail -n 1; } |
        grep -oE "[0-9]+ ($1)" | awk '{ n += $1 } END { print n + 0 }'
}

passed=$(count passed)
failed=$(count 'failed|errors?')
skipped=$(count 'skipped|ignored')
if [ "$failed" = 0 ]; then # a failed build or a crashed test runner counts as one failure
    failed=$(((cargo_status != 0) + (e2e_status != 0)))
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
