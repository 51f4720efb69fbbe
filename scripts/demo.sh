#!/usr/bin/env bash
# Shows how one knock opens a closed port for one connection: two network namespaces joined by a veth pair, the real
# firewall, the real kernel log. Needs root, and calls sudo without it; removes everything when it ends.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || exec sudo "$0" "$@"
PATH=$PATH:/usr/sbin:/sbin

knockknock=$PWD/target/release/knockknock
client=knockknock-client-$$ server=knockknock-server-$$
address=10.9.0.1 port=22 knock_port=$((20000 + $$ % 10000))
files=$(mktemp -d)
log_all_netns=$(sysctl -n net.netfilter.nf_log_all_netns)
started=()

# shellcheck disable=SC2317 # called by the trap
clean_up() {
    trap - EXIT
    [ ${#started[@]} = 0 ] || kill "${started[@]}" 2>/dev/null || true
    wait
    ip netns del "$client" 2>/dev/null || true
    ip netns del "$server" 2>/dev/null || true
    sysctl -qw "net.netfilter.nf_log_all_netns=$log_all_netns"
    rm -rf "$files"
}
trap clean_up EXIT
trap 'exit 1' INT TERM HUP

# wait_for TEXT FILE: waits until FILE contains TEXT, at most three seconds.
wait_for() {
    for _ in $(seq 100); do
        if grep -qsF "$1" "$2"; then return; fi
        sleep 0.03
    done
    echo "demo.sh: no \"$1\" within three seconds, only:" >&2
    cat "$2" >&2
    exit 1
}

# outcome EXPECTED GOT: prints both, as the last line of a step. If they differ, the demonstration ends.
outcome() {
    printf '   expected: %-22s got: %s\n' "$1" "$2"
    if [ "$1" != "$2" ]; then
        echo "   This is not as expected. The daemon's log:"
        cat "$files/daemon.log"
        exit 1
    fi
}

connect() {
    local greeting
    greeting=$(ip netns exec "$client" timeout 1 socat -u TCP:$address:$port - 2>/dev/null) || true
    if [ "$greeting" = welcome ]; then echo connected; else echo "not connected"; fi
}

### Two machines, a veth pair, a service, a profile on both sides, the daemon.

sysctl -qw net.netfilter.nf_log_all_netns=1 # without it the kernel does not log packets in a namespace
ip netns add "$client"
ip netns add "$server"
ip link add eth0 netns "$client" type veth peer name eth0 netns "$server"
ip -n "$client" address add 10.9.0.2/24 dev eth0
ip -n "$server" address add $address/24 dev eth0
ip -n "$client" link set eth0 up
ip -n "$server" link set eth0 up

ip netns exec "$server" socat TCP-LISTEN:$port,reuseaddr,fork SYSTEM:'echo welcome' 2>"$files/service.log" &
started+=($!)

mkdir "$files/server" "$files/client"
printf '[main]\nguard = %s\nfirewall = nft\nlog = kmsg\n' $port >"$files/server/config"
"$knockknock" genprofile demo $knock_port --dir "$files/server" 2>"$files/genprofile.log" || {
    cat "$files/genprofile.log"
    exit 1
}
cp -r "$files/server/profiles/demo" "$files/client/$address"
ip netns exec "$server" "$knockknock" daemon --dir "$files/server" 2>"$files/daemon.log" &
started+=($!)
wait_for ": ready" "$files/daemon.log"

cat <<END
Two machines, each a network namespace, on one virtual cable. The firewall and the kernel log are real.

   client 10.9.0.2 ------------ server $address: a service on port $port, guarded by knockknock-daemon

1. The client connects without a knock.
END
outcome "not connected" "$(connect)"

echo
echo "2. The client knocks: knockknock -p $port $address"
ip netns exec "$client" tcpdump --immediate-mode -Uni eth0 -Q out -w "$files/knock.pcap" ip 2>"$files/tcpdump.log" &
tcpdump=$!
started+=("$tcpdump")
wait_for "listening on" "$files/tcpdump.log"
ip netns exec "$client" "$knockknock" -p $port --dir "$files/client" $address
wait_for ": opened port" "$files/daemon.log"
sleep 0.3 # a second packet would show up by then
kill -INT $tcpdump
wait $tcpdump
grep -F ": opened port" "$files/daemon.log" | sed 's/^/   /'
outcome "1 packet sent" "$(tcpdump -nr "$files/knock.pcap" 2>/dev/null | wc -l) packet sent"

echo
echo "3. The client connects."
outcome "connected" "$(connect)"

echo
echo "4. The client connects once more. The knock was for one connection."
outcome "not connected" "$(connect)"

echo
echo "5. The same packet is sent again, with tcpreplay, and the client connects."
ip netns exec "$client" tcpreplay -q -i eth0 "$files/knock.pcap" >/dev/null
sleep 0.3 # a hundred times as long as the daemon takes for a knock
outcome "not connected" "$(connect)"

echo
echo "The knock as tcpdump shows it, a SYN to port $knock_port, on which nothing listens:"
tcpdump -tnvr "$files/knock.pcap" 2>/dev/null | sed 's/^ */   /'
echo
echo "Every step had the expected outcome."
