#!/bin/sh
# run.sh SECONDS [TARGET...]: lets cargo-fuzz look for inputs that break a target's law, each for so long.
#
# It starts from seeds/TARGET and, for lines and records, from the kernel's own in tests/samples. What it
# learns stays in target/fuzz; an input that breaks a law is left there and named, and the exit status is 1.
set -eu
cd "$(dirname "$0")/../.."
seconds=$1
shift
[ $# -gt 0 ] || set -- line kmsg request profile config syn netlink socks
command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz
# The sanitizers are unstable flags, which any stable compiler takes when told so.
export RUSTC_BOOTSTRAP=1
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}/fuzz"
work=$CARGO_TARGET_DIR
mkdir -p "$work/samples/line" "$work/samples/kmsg"
cat tests/samples/*.kern.log | split -l 1 -a 4 - "$work/samples/line/"
cat tests/samples/*.kmsg | split -l 1 -a 4 - "$work/samples/kmsg/"

status=0
for target in "$@"; do
    mkdir -p "$work/corpus/$target"
    seeds=tests/fuzz/seeds/$target
    [ -d "$seeds" ] || seeds=$work/samples/$target
    echo "fuzz: $target for $seconds s"
    cargo fuzz run --fuzz-dir tests/fuzz "$target" "$work/corpus/$target" "$seeds" -- \
        -max_total_time="$seconds" -timeout=10 -print_final_stats=1 -verbosity=0 \
        -artifact_prefix="$work/broke-$target-" || status=1
done
exit $status
