//! The text of our table, as `nft -f` takes it.

use crate::firewall::rules::Rules;

/// The name of our table, of family inet.
pub(super) const TABLE: &str = "knockknock";

/// A TCP header's flags are a SYN's alone.
const SYN: &str = "tcp flags & (fin | syn | rst | ack) == syn";

/// What makes a set a turnstile: the limit in each element lets one packet through.
pub(super) const OPENING: &str = "flags dynamic,timeout; size 4096; limit rate 1/day burst 1 packets;";

/// The transaction that makes a table where there may be another.
pub(super) fn anew(script: &str) -> String {
    format!("add table inet {TABLE}\ndelete table inet {TABLE}\n{script}")
}

/// The whole table as one transaction that leaves the openings alone.
pub(super) fn script(rules: &Rules, seed: u32) -> String {
    let mark = format!("{:#010x}", rules.mark);
    let elements = |set: &str, ports: &crate::ports::Ports| match ports.is_empty() {
        true => String::new(),
        false => format!("add element inet {TABLE} {set} {{ {ports} }}\n"),
    };
    // Where the guard applies; knocks are heard everywhere.
    let on = match rules.interfaces.is_empty() {
        true => String::new(),
        false => format!("iifname {{ \"{}\" }} ", rules.interfaces.join("\", \"")),
    };
    let loopback = "iifname \"lo\" return".to_owned();
    let admit = format!("meta mark set meta mark or {mark}");
    let log = match rules.group {
        // Headers are enough: 60 bytes of IPv4 or 40 of IPv6, and 60 of TCP.
        Some(group) => format!("log group {group} snaplen 128 queue-threshold 1"),
        None => "log prefix \"knockknock \" level debug flags tcp sequence,options".to_owned(),
    };
    let quiet = |hashed: &str| {
        format!(
            "update @loud {{ jhash {hashed} mod 4096 seed {seed:#010x} limit rate over 100/second burst 200 packets }} return"
        )
    };
    let prerouting = [
        "meta l4proto != tcp return".to_owned(),
        loopback.clone(),
        // Not "related": a SYN is never established to us.
        "ct state established tcp flags & (fin | syn | rst | ack) != syn return".to_owned(),
        // What only passes through is not ours.
        "fib daddr type != local return".to_owned(),
        "jump knock".to_owned(),
        // An admitted SYN, sent again.
        format!("{SYN} ct mark & {mark} == {mark} ct status & assured != assured {admit} accept"),
        // The packet that uses an opening takes it away; the limit in the set makes that atomic.
        format!(
            "{SYN} ip saddr . tcp dport @open4 delete @open4 {{ ip saddr . tcp dport }} {admit} ct mark set ct mark or {mark} accept"
        ),
        format!(
            "{SYN} ip6 saddr . tcp dport @open6 delete @open6 {{ ip6 saddr . tcp dport }} {admit} ct mark set ct mark or {mark} accept"
        ),
        format!("{on}tcp dport @guarded drop"),
    ];
    let knock = [
        "tcp dport != @knock_ports return".to_owned(),
        "tcp flags & (fin | syn | rst | ack) != syn return".to_owned(),
        quiet("ip saddr"),
        quiet("ip6 saddr & ffff:ffff:ffff:ffff::"),
        log,
    ];
    let unmarked = format!("{on}{SYN} ct mark & {mark} != {mark}");
    // A rule of others may send elsewhere what came for a guarded port at an address that is not ours.
    let sent_on = format!("{unmarked} ct status dnat ct original proto-dst @guarded drop");
    // What reaches a guarded port by another way: a redirect, a virtual address.
    let input = [loopback.clone(), format!("{unmarked} tcp dport @guarded drop"), sent_on.clone()];
    let forward = [loopback, sent_on];
    // A set with the flag timeout is a hash: thousands of ports take a tenth of a bitmap's time to add.
    let mut text = format!(
        "add table inet {TABLE}\n\
         add set inet {TABLE} open4 {{ type ipv4_addr . inet_service; {OPENING} }}\n\
         add set inet {TABLE} open6 {{ type ipv6_addr . inet_service; {OPENING} }}\n\
         add set inet {TABLE} knock_ports {{ type inet_service; flags timeout; }}\n\
         add set inet {TABLE} guarded {{ type inet_service; }}\n\
         add set inet {TABLE} loud {{ type mark; flags dynamic,timeout; timeout 1m; size 8192; }}\n\
         add chain inet {TABLE} prerouting {{ type filter hook prerouting priority mangle - 10; policy accept; }}\n\
         add chain inet {TABLE} input {{ type filter hook input priority mangle - 10; policy accept; }}\n\
         add chain inet {TABLE} forward {{ type filter hook forward priority mangle - 10; policy accept; }}\n\
         add chain inet {TABLE} knock\n\
         flush chain inet {TABLE} prerouting\n\
         flush chain inet {TABLE} input\n\
         flush chain inet {TABLE} forward\n\
         flush chain inet {TABLE} knock\n\
         flush set inet {TABLE} knock_ports\n\
         flush set inet {TABLE} guarded\n"
    );
    text.push_str(&elements("knock_ports", &rules.knock_ports));
    text.push_str(&elements("guarded", &rules.guard));
    for (chain, lines) in [("prerouting", &prerouting[..]), ("knock", &knock), ("input", &input), ("forward", &forward)]
    {
        for line in lines {
            text.push_str(&format!("add rule inet {TABLE} {chain} {line}\n"));
        }
    }
    text
}
