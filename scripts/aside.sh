# shellcheck shell=sh
# Sourced. Unpacks Debian packages in the cache directory instead of installing them. So no service is started or
# enabled, and the packages may conflict with installed ones.

# shellcheck disable=SC2034 # for the scripts that source this
tools=${KNOCKKNOCK_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/knockknock}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

apt_install() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends --no-remove "$@" >/dev/null
}

# unpack_aside DIRECTORY PACKAGE...: unpacks the packages below DIRECTORY and installs the libraries that they need.
# Other dependencies, and libpam-systemd, are not installed, since they may start services. Expects up-to-date package lists.
unpack_aside() (
    set -e
    directory=$1
    shift
    plan=$(apt-get -q -s install --no-install-recommends "$@")
    libraries=$(echo "$plan" | sed -n 's/^Inst \(lib[^ ]*\) .*/\1/p' | grep -vxF "$(printf '%s\n' libpam-systemd "$@")" || true)
    # shellcheck disable=SC2086 # a list
    [ -z "$libraries" ] || apt_install $libraries
    rm -rf "$directory" "$directory.part"
    mkdir -p "$directory.part/archives"
    cd "$directory.part/archives"
    apt-get -q -o APT::Sandbox::User=root download "$@" >/dev/null
    for archive in *.deb; do dpkg -x "$archive" ..; done
    rm -rf "$directory.part/archives"
    mv "$directory.part" "$directory"
)
