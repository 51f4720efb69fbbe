#!/bin/sh
# Run by a real systemd in a container: what the unit promises. Ends with the line "N passed, N failed".
# shellcheck source=tests/systemd/checks.sh
. /checks.sh
unit() { systemctl "$1" knockknock-daemon.service; }
main() { systemctl show --property MainPID --value knockknock-daemon.service; }
client() { nsenter --target "$client" --net "$@"; }
connects() { [ "$(client busybox nc -w 1 10.9.0.1 22 </dev/null 2>/dev/null)" = welcome ]; }
knocks() {
    before=$(lines 'opened port 22')
    client knockknock -p 22 --dir /root/.knockknock 10.9.0.1 && soon more 'opened port 22' "$before"
}
becomes_ready() { # COMMAND…: after it the daemon logs that it is ready
    before=$(lines ': ready')
    "$@" && soon more ': ready' "$before"
}
filtered() { # every process runs under a filter, and none can gain a privilege
    group=$(systemctl show --property ControlGroup --value knockknock-daemon.service)
    processes=$(cat "/sys/fs/cgroup$group/cgroup.procs" "/sys/fs/cgroup/systemd$group/cgroup.procs" 2>/dev/null)
    [ -n "$processes" ] && for pid in $processes; do
        grep -q '^Seccomp:[[:space:]]*2' "/proc/$pid/status" && grep -q '^NoNewPrivs:[[:space:]]*1' "/proc/$pid/status" || return
    done
}

has() { # SEVERITY TEXT: a line of that severity contains the text
    journalctl --no-pager --quiet --output cat --unit knockknock-daemon.service --priority "$1..$1" | grep -q "$2"
}

unshare --net sleep 1000 &
client=$!
soon not same_network "$client"
ip link add eth0 type veth peer name veth0
ip address add 10.9.0.1/24 dev eth0
ip link set eth0 up
ip link set veth0 netns "$client"
client ip address add 10.9.0.2/24 dev veth0
client ip link set veth0 up
ip link set lo up
busybox nc -ll -p 22 -e echo welcome &

check "the unit is active" unit is-active
check "the daemon is ready" soon more ': ready' 0
check "its notes are notes in the journal" has notice ': ready'
check "its warnings are warnings" has warning ': no profile has ever knocked'
check "its processes are held" filtered
check "the unit leaves it every means to confine itself" not more 'cannot' 0
check "the guarded port is closed" not connects
check "a knock opens it" knocks
check "for one connection" connects
check "and not for a second" not connects
check "it reloads" becomes_ready unit reload
check "the same process runs on" [ "$(systemctl show --property NRestarts --value knockknock-daemon.service)" = 0 ]
check "a knock opens it after the reload" knocks
check "for one connection after the reload" connects
check "it is killed, and systemd starts it again" becomes_ready kill -KILL "$(main)"
check "a knock opens it after the crash" knocks
check "for one connection after the crash" connects
unit stop
knockknock-daemon --unguard
echo "gaurd = 22" >>/etc/knockknock.d/config
check "after a boot with a wrong configuration it starts" becomes_ready unit start
check "it guards as it did before" not connects
check "a knock opens it even so" knocks
check "for one connection even so" connects
check "it stops" unit stop
check "the guard stays when the daemon is gone" not connects
echo "$passed passed, $failed failed"
