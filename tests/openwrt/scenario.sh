#!/bin/sh
# A router's day, run on the router with nothing but busybox, nft or iptables, and what we ship: start, knock, restart, reload, crash.
# Ends with the line "N passed, N failed". KNOCK_PORT: a port of this run (all containers share the kernel's log).
# shellcheck shell=ash
passed=0 failed=0
init=/etc/init.d/knockknock
profiles=/etc/knockknock.d/profiles
log=/tmp/messages
procd_log=/tmp/procd/knockknock.stderr
port=${KNOCK_PORT:-4000}

check() { # WHAT COMMAND…: the command succeeds
	local what=$1
	shift
	if "$@" >/tmp/check.out 2>&1; then
		passed=$((passed + 1))
		echo "ok: $what"
	else
		failed=$((failed + 1))
		echo "FAILED: $what"
		sed 's/^/    /' /tmp/check.out
		tail -n 5 $log 2>/dev/null | sed 's/^/    daemon: /'
	fi
}
not() { ! "$@"; }
soon() { # COMMAND…: it succeeds within 10 seconds
	local left=100
	until "$@"; do
		left=$((left - 1))
		[ $left -gt 0 ] || return 1
		usleep 100000
	done
}
lines() { cat $log 2>/dev/null | grep -c "$1"; }
more() { [ "$(lines "$1")" -gt "$2" ]; } # TEXT COUNT: the log has more such lines than that

same_network() { [ "$(readlink "/proc/$1/ns/net")" = "$(readlink /proc/self/ns/net)" ]; } # PID: it has none of its own yet
client() { nsenter -n -t "$client" "$@"; }
connects() { client nc -w 1 "${1:-10.9.0.1}" 22 </dev/null 2>/dev/null | grep -q "^$greeting"; } # [ADDRESS]
logs_in() { client dbclient -y -i /root/client_key -J "knockknock connect --dir /root/.knockknock 10.9.0.1 22" root@10.9.0.1 true; }
knocks() { # [ADDRESS]: our client knocks, and the daemon logs an opening
	local before
	before=$(lines 'opened port 22')
	client knockknock -p 22 --dir /root/.knockknock "${1:-10.9.0.1}" && soon more 'opened port 22' "$before"
}
becomes_ready() { # COMMAND…: after it the daemon logs that it is ready
	local before
	before=$(lines ': ready')
	"$@" && soon more ': ready' "$before"
}
keys() { sha256sum $profiles/gate/cipher.key $profiles/gate/mac.key; }
names() { our_rules | grep -q "$1"; } # our rules do
counter() { head -n 1 $profiles/gate/counter; }

# The router's own firewall, as far as a knocked connection meets it, with a SYN limit that is used up.
if command -v nft >/dev/null; then
	own=fw4
	mkdir -p /etc/nftables.d
	own_firewall() { # in fw4's order of things
		nft -f - <<EOF
table inet fw4
flush table inet fw4
table inet fw4 {
	include "/etc/nftables.d/*.nft"
	chain input {
		type filter hook input priority filter; policy drop;
		iifname "lo" accept
		include "/usr/share/nftables.d/chain-pre/input/*.nft"
		ct state established,related accept
		meta l4proto 58 accept
		tcp flags & (fin | syn | rst | ack) == syn jump syn_flood
	}
	chain forward {
		type filter hook forward priority filter; policy drop;
		include "/usr/share/nftables.d/chain-pre/forward/*.nft"
	}
	chain syn_flood { drop; }
}
EOF
	}
	no_own_firewall() { nft delete table inet fw4; }
	our_rules() { nft list table inet knockknock; }
else
	own=fw3
	own_firewall() { # with the line that docs/firewalls.md has for /etc/firewall.user
		iptables -F INPUT
		iptables -P INPUT DROP
		iptables -A INPUT -i lo -j ACCEPT
		iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
		iptables -A INPUT -p tcp --syn -j DROP
		iptables -I INPUT -m connmark --mark 0x08000000/0x08000000 -j ACCEPT
	}
	no_own_firewall() { iptables -F INPUT && iptables -P INPUT ACCEPT; }
	our_rules() { iptables -t mangle -S; }
fi
# As at boot: the log, the daemon, the firewall, the network.
syslogd -n -O $log &
syslog=$!
soon [ -S /dev/log ]
check "a profile is made" knockknock-genprofile gate "$port" --ports 22
check "and one of the classic wire" knockknock-genprofile hall $((port + 2)) --ports 22 --wire classic
mkdir -p /root/.knockknock
cp -R $profiles/gate /root/.knockknock/10.9.0.1
cp -R $profiles/hall /root/.knockknock/10.9.0.3
ln -s 10.9.0.1 /root/.knockknock/fd09::1
ln -s 10.9.0.3 /root/.knockknock/fd09::3
sed -i "s/#list guard '22'/list guard '22'/; s/#list interfaces 'eth1'/list interfaces 'eth0'/; s/#option log/option log/" /etc/config/knockknock
$init enable
check "it starts before the network and the firewall" [ -e /etc/rc.d/S18knockknock ]
check "check says what it would do" $init check
grep '^turnstile' /tmp/check.out
check "and leaves fw4 as it is" [ ! -e /etc/nftables.d/knockknock.nft ]
check "the daemon starts by its init script" becomes_ready $init start
check "its notes are notes in syslog" more ' daemon\.notice knockknock-daemon\[.*: ready' 0
check "its warnings are warnings" more ' daemon\.warn knockknock-daemon\[.*: no profile has ever knocked' 0
check "procd logs nothing as an error" [ ! -s $procd_log ]
check "$own takes our rule" own_firewall

# The network comes up: a client at the other end of a cable.
unshare -n sleep 1000 &
client=$!
soon not same_network "$client"
ip link set lo up
ip link add eth0 type veth # its other end is called veth0
echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad
ip address add 10.9.0.1/24 dev eth0
ip address add 10.9.0.3/24 dev eth0
ip address add fd09::1/64 dev eth0
ip address add fd09::3/64 dev eth0
ip link set eth0 up
ip link set veth0 netns "$client"
client sh -c "echo 0 >/proc/sys/net/ipv6/conf/veth0/accept_dad"
client ip address add 10.9.0.2/24 dev veth0
client ip address add fd09::2/64 dev veth0
client ip link set veth0 up
client ip link set lo up
if command -v dropbear >/dev/null; then
	mkdir /root/.ssh && chmod 700 /root/.ssh
	dropbearkey -t ed25519 -f /root/server_key >/dev/null 2>&1
	dropbearkey -t ed25519 -f /root/client_key 2>/dev/null | grep ^ssh- >/root/.ssh/authorized_keys
	dropbear -F -r /root/server_key 2>/dev/null &
	greeting=SSH-2.0-dropbear
else # a machine for which there is no Dropbear
	nc -ll -p 22 -e echo welcome &
	greeting=welcome
fi
soon nc -w 1 127.0.0.1 22 </dev/null >/dev/null

check "the guarded port is closed" not connects
check "a knock opens it" knocks
check "for one connection" connects
check "and not for a second" not connects

if [ "$greeting" != welcome ]; then
	check "Dropbear's client logs in, with a knock" logs_in
	check "for one connection of Dropbear's" not connects
fi

for wire in "the classic wire 10.9.0.3" "IPv6 fd09::1" "IPv6 and the classic wire fd09::3"; do
	address=${wire##* }
	check "a knock by ${wire% *} opens it" knocks "$address"
	check "for one connection by ${wire% *}" connects "$address"
	check "and not for a second by ${wire% *}" not connects "$address"
done

check "$own reloads" own_firewall
check "a knock opens it still" knocks
check "for one connection still" connects

keys >/tmp/keys.before
before=$(counter)
check "it restarts" becomes_ready $init restart
check "with the same keys" sh -c "sha256sum -c /tmp/keys.before"
check "and the same counter" [ "$(counter)" = "$before" ]
check "a knock opens it after the restart" knocks
check "the counter went on" [ "$(counter)" -gt "$before" ]
check "for one connection after the restart" connects

knockknock-genprofile yard $((port + 1)) --ports 22
sed -i "s/option delay '15'/option delay '7'/" /etc/config/knockknock
check "it reloads" becomes_ready $init reload
check "with the new delay" sh -c "grep -q '^delay = 7' /var/run/knockknock/config"
check "with the new profile" names $((port + 1))
check "a knock opens it after the reload" knocks
check "for the new time" sh -c "tail -n 1 $log | grep -q 'for 7 s'"
check "for one connection after the reload" connects

sed -i "s/option log/#option log/" /etc/config/knockknock
source=/dev/kmsg
[ ! -e /proc/net/netfilter/nfnetlink_log ] || source='NFLOG group 662'
check "it chooses where it reads knocks" becomes_ready $init restart
check "an NFLOG group, if the kernel has its module" more ": ready: reads $source" 0
check "a knock opens it from there" knocks
check "for one connection from there" connects

check "it is killed, and procd starts it again" becomes_ready kill -9 "$(cat /tmp/procd/knockknock.pid)"
check "a knock opens it after the crash" knocks
check "for one connection after the crash" connects

supervisor=$(cat /tmp/procd/knockknock.pid)
children=$(cat "/proc/$supervisor/task/$supervisor/children")
for pid in $children; do
	process=$(tr '\0' ' ' <"/proc/$pid/cmdline" | cut -d ' ' -f 2)
	check "the $process gains no privilege" grep -q '^NoNewPrivs:[[:space:]]*1' "/proc/$pid/status"
	check "the $process runs under its filter" grep -q '^Seccomp:[[:space:]]*2' "/proc/$pid/status"
done

sed -i "s/list guard '22'/list guard '22;23'/" /etc/config/knockknock
before=$(cat /var/run/knockknock/config)
check "a value that cannot be right is refused" not $init reload
check "and the old configuration stays" [ "$(cat /var/run/knockknock/config)" = "$before" ]
check "nobody has changed our rules, and the daemon does not claim it" not grep -q 'restored them' $log
check "it does not restart with it" not $init restart
check "and runs on" knocks
check "for one connection all the same" connects

$init stop
$init unguard
rm -r /var/run/knockknock
check "after a reboot with that value the daemon starts" becomes_ready $init boot
check "it guards as it did before" not connects
check "a knock opens it even so" knocks
check "for one connection even so" connects
sed -i "s/22;23/22/" /etc/config/knockknock
check "it takes the corrected value" becomes_ready $init restart

if [ $own = fw4 ]; then
	$init stop
	check "our table and our program are gone, as after a sysupgrade without the package" nft delete table inet knockknock
	own_firewall
	nft insert rule inet fw4 input tcp dport 22 accept
	check "fw4 keeps the port closed, which it would accept" not connects
	check "the daemon is there again" becomes_ready $init start
	own_firewall
	check "a knock opens it, past fw4" knocks
	check "for one connection, past fw4" connects
fi

kill "$syslog"
wait "$syslog"
log=$procd_log
check "while no syslog listens, the daemon and a knock are logged by procd" knocks
check "for one connection without a syslog" connects

$init stop
no_own_firewall
check "the guard stays when the daemon is gone" not connects
check "unguard takes it away" $init unguard
check "fw4 keeps nothing closed any more" [ ! -e /etc/nftables.d/knockknock.nft ]
check "and the port is open to everybody" connects

kill "$client"
echo "$passed passed, $failed failed"
[ $failed = 0 ]
