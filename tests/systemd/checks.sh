#!/bin/sh
# What the scenarios in a container are made of: checks, which are counted, and the lines of the daemon's log.
passed=0 failed=0

check() { # WHAT COMMAND…: the command succeeds
    what=$1
    shift
    if "$@" >/tmp/check.out 2>&1; then
        passed=$((passed + 1))
        echo "ok: $what"
    else
        failed=$((failed + 1))
        echo "FAILED: $what"
        sed 's/^/    /' /tmp/check.out
        systemctl status --no-pager --full knockknock-daemon.service | tail -n 12
    fi
}
not() { ! "$@"; }
soon() { # COMMAND…: it succeeds within 10 seconds
    left=100
    until "$@"; do
        left=$((left - 1))
        [ $left -gt 0 ] || return 1
        sleep 0.1
    done
}
same_network() { [ "$(readlink "/proc/$1/ns/net")" = "$(readlink /proc/self/ns/net)" ]; } # PID: it has none of its own yet
lines() { journalctl --no-pager --quiet --output cat --unit knockknock-daemon.service --grep "$1" | wc -l; }
more() { [ "$(lines "$1")" -gt "$2" ]; }
