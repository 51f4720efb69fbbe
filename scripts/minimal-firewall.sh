#!/bin/sh
# minimal-firewall.sh [--apply [--yes] | --remove]: the rules of minimal-firewall.nft, with iptables and ip6tables.
# Without an option it is a dry run: it prints the rules and lets both programs check them. The rules are in a separate chain
# before all others, so that no other rule drops admitted connections.
set -eu
PATH=$PATH:/usr/sbin:/sbin
CHAIN=minimal-firewall

rules() { # iptables|ip6tables
    echo '*filter'
    echo ":$CHAIN - [0:0]"
    echo "-A $CHAIN -i lo -j ACCEPT"
    echo "-A $CHAIN -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"
    echo "-A $CHAIN -m conntrack --ctstate INVALID -j DROP"
    echo "-A $CHAIN -m connmark --mark 0x08000000/0x08000000 -j ACCEPT" # knocked
    if [ "$1" = ip6tables ]; then # IPv6 needs these: neighbours, routers, DHCPv6 leases
        for kind in neighbour-solicitation neighbour-advertisement router-advertisement; do
            echo "-A $CHAIN -p icmpv6 --icmpv6-type $kind -m hl --hl-eq 255 -j ACCEPT"
        done
        echo "-A $CHAIN -s fe80::/10 -p udp --sport 547 --dport 546 -j ACCEPT"
    fi
    echo "-A $CHAIN -p tcp -j REJECT --reject-with tcp-reset" # a dropped knock would be conspicuous
    echo "-A $CHAIN -j DROP"
    echo COMMIT
}

on_ssh() { # by SSH_CONNECTION or, because sudo removes it, by an ancestor that is sshd
    [ -z "${SSH_CONNECTION-}" ] || return 0
    process=$$
    while [ "${process:-0}" -gt 1 ]; do
        case $(cat "/proc/$process/comm") in sshd* | dropbear) return 0 ;; esac
        process=$(sed -n 's/^PPid:[[:space:]]*//p' "/proc/$process/status")
    done
    return 1
}

warn() {
    echo 'You are logged in over ssh. This session continues, but the next one needs a knock. Have a profile on both sides, the' >&2
    echo 'daemon running, and a second way in: a console, or: sleep 300 && minimal-firewall.sh --remove' >&2
}

case "$*" in
'')
    for program in iptables ip6tables; do
        echo "# $program-restore --noflush, then $program -I INPUT -j $CHAIN"
        rules $program
        rules $program | $program-restore --test --noflush
    done
    if on_ssh; then warn; fi
    echo "# This was a dry run. To apply the rules: $0 --apply" >&2
    ;;
--apply | '--apply --yes')
    if on_ssh; then
        warn
        if [ "$*" = --apply ]; then
            echo 'Nothing was changed. To apply the rules anyway: minimal-firewall.sh --apply --yes' >&2
            exit 1
        fi
    fi
    for program in iptables ip6tables; do
        rules $program | $program-restore --wait --noflush
        [ "$($program -w -S INPUT 1)" = "-A INPUT -j $CHAIN" ] || $program -w -I INPUT -j $CHAIN
    done
    echo 'These rules are gone after a reboot. To keep them: netfilter-persistent save, or run this script at every boot.' >&2
    ;;
--remove)
    for program in iptables ip6tables; do
        while $program -w -D INPUT -j $CHAIN 2>/dev/null; do :; done
        if $program -w -S $CHAIN >/dev/null 2>&1; then $program -w -F $CHAIN && $program -w -X $CHAIN; fi
    done
    ;;
*)
    echo "usage: minimal-firewall.sh [--apply [--yes] | --remove]" >&2
    exit 2
    ;;
esac
