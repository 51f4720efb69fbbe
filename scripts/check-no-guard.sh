#!/bin/sh
# check-no-guard.sh: exits 1 with instructions while knockknock's firewall rules are in place. Uninstalling now would
# leave the guarded ports closed and remove the program that opens them.
PATH=$PATH:/usr/sbin:/sbin

found=
if nft list table inet knockknock >/dev/null 2>&1; then found='nftables table "inet knockknock"'; fi
# The -save programs of both variants, nft and legacy, because they list only tables that exist.
for program in iptables-nft-save ip6tables-nft-save iptables-legacy-save ip6tables-legacy-save iptables-save ip6tables-save; do
    if [ -z "$found" ] && $program 2>/dev/null | grep -q '^:KNOCKKNOCK'; then
        found="${program%%-*} chain KNOCKKNOCK in table mangle"
    fi
done
[ -n "$found" ] || exit 0

cat >&2 <<END
not uninstalled: the firewall rules of knockknock-daemon are still in place ($found)
Without the daemon nothing opens the guarded ports. Stop it and remove the rules first:
    systemctl disable --now knockknock-daemon    # or stop it as you started it
    knockknock-daemon --unguard
    make uninstall
END
exit 1
