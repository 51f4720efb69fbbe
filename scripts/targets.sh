# shellcheck shell=sh
# Sourced. Looks up the static builds in targets.tsv, whose path is in $targets.
: "${targets:?}"

# short_names: prints the short names of all static builds.
short_names() {
    awk -F '\t' '!/^#/ { print $1 }' "$targets"
}

# target_for COLUMN NAME: prints the rustc target in whose COLUMN, such as 3 for Debian, a pattern matches NAME. Prints
# nothing if there is none.
target_for() (
    set -f # patterns are not for the files here
    awk -F '\t' -v column="$1" '!/^#/ { print $2, $column }' "$targets" | while read -r target patterns; do
        for pattern in $patterns; do
            # shellcheck disable=SC2254 # a pattern
            case $2 in $pattern) echo "$target" && break ;; esac
        done
    done
)

# names_of TARGET COLUMN: prints the names, without the patterns, that a column has for one of rustc's targets.
names_of() {
    awk -F '\t' -v target="$1" -v column="$2" '$2 == target && $column != "-" { print $column }' "$targets" | tr ' ' '\n' | grep -v '\*' || true
}
