#!/bin/sh
# run.sh SECONDS [TARGET...]: cargo-fuzz searches for inputs that break a target's law, SECONDS for each target.
# With 0 SECONDS each target runs once over the committed inputs, built by cargo alone.
#
# The inputs are in seeds/TARGET; those of `line` and `kmsg` are the kernel's own, from tests/samples. What the search
# learns stays in target/fuzz. An input that breaks a law is saved there and named, and the exit status is 1.
set -eu
cd "$(dirname "$0")/../.."
seconds=$1
shift
[ $# -gt 0 ] || set -- line kmsg request profile config syn netlink socks invitation status
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}/fuzz"
work=$CARGO_TARGET_DIR
mkdir -p "$work/samples/line" "$work/samples/kmsg"
cat tests/samples/*.kern.log | split -l 1 -a 4 - "$work/samples/line/"
cat tests/samples/*.kmsg | split -l 1 -a 4 - "$work/samples/kmsg/"

if [ "$seconds" = 0 ]; then
    # Unoptimised: overflow checks and debug assertions are on.
    cargo build --quiet --locked --manifest-path tests/fuzz/Cargo.toml
else
    command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz
    export RUSTC_BOOTSTRAP=1 # the sanitizers are unstable flags, which a stable compiler accepts with this
fi

# run TARGET SEEDS OPTION...
run() {
    target=$1 seeds=$2
    shift 2
    if [ "$seconds" = 0 ]; then
        "$work/debug/$target" "$seeds" -runs=0 "$@" >"$work/$target.log" 2>&1 || {
            cat "$work/$target.log"
            return 1
        }
    else
        mkdir -p "$work/corpus/$target"
        cargo fuzz run --fuzz-dir tests/fuzz "$target" "$work/corpus/$target" "$seeds" -- -max_total_time="$seconds" "$@"
    fi
}

status=0
for target in "$@"; do
    seeds=tests/fuzz/seeds/$target
    [ -d "$seeds" ] || seeds=$work/samples/$target
    echo "fuzz: $target: $(find "$seeds" -type f | wc -l) committed inputs, $seconds s of search"
    run "$target" "$seeds" -timeout=10 -print_final_stats=1 -verbosity=0 -artifact_prefix="$work/broke-$target-" || status=1
done
exit $status
