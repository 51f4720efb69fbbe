//! Checks that a prefix of links has no hosts, and that no interface makes it on-link.

use crate::firewall::Finding;
use crate::prefix::Prefix;
use crate::sys::{file, links, local_addresses};
use std::net::Ipv6Addr;

// Flags of routes (linux/route.h and linux/ipv6_route.h).
const GATEWAY: u128 = 0x2;
const REJECT: u128 = 0x200;
const CACHE: u128 = 0x0100_0000;
const LOCAL: u128 = 0x8000_0000;

/// A route in `/proc/net/ipv6_route`.
struct Route<'a> {
    network: Prefix,
    flags: u128,
    interface: &'a str,
}

/// Returns why links in `prefix` may not arrive or are not knocks.
pub(super) fn examine(prefix: Prefix) -> Option<Finding> {
    let routes = file::kernel_text("/proc/net/ipv6_route");
    let Route { network, flags, interface } = conflict(prefix, &routes)?;
    if prefix.covers(network) || flags & LOCAL != 0 {
        return Some(Finding {
            what: format!("{prefix} is not free for links: there is a route to {network} on {interface}"),
            fix: "make profiles with another prefix: knockknock genprofile --links PREFIX --ports PORTS NAME"
                .to_owned(),
        });
    }
    // On other links, such as tunnels, nobody asks for neighbours.
    let resolves = links::list().ok()?.iter().any(|link| link.name == interface && link.resolves);
    let own = local_addresses::ipv6().into_iter().find(|address| network.contains(*address));
    let own = own.map_or("ADDRESS".to_owned(), |own| own.to_string());
    resolves.then(|| Finding {
        what: format!(
            "{prefix} is on-link on {interface}, by the route to {network}: links arrive only if the router sends them here"
        ),
        fix: format!("ip -6 route add {prefix} via {own} # on the router; then here: ip -6 route add unreachable {prefix}"),
    })
}

/// Returns the first of `routes` that leads into `prefix`, or the route to the whole prefix if it has no gateway. A
/// default route is none.
fn conflict(prefix: Prefix, routes: &str) -> Option<Route<'_>> {
    let mut best = None;
    let mut longest = 0;
    for route in routes.lines().filter_map(route) {
        let ignored = route.flags & (REJECT | CACHE) != 0;
        if !ignored && prefix.covers(route.network) {
            return Some(route);
        }
        if route.network.covers(prefix) && route.network.length() > longest {
            longest = route.network.length();
            best = Some(route);
        }
    }
    best.filter(|route| route.flags & (GATEWAY | REJECT) == 0)
}

/// Parses a line: destination, its length, source, its length, gateway, metric, two counters, flags and interface. The
/// numbers are hexadecimal.
fn route(line: &str) -> Option<Route<'_>> {
    let mut words = line.split_ascii_whitespace();
    let mut number = |skipped| u128::from_str_radix(words.nth(skipped)?, 16).ok();
    let (network, length, flags) = (number(0)?, number(0)?, number(6)?);
    let network = Prefix::new(Ipv6Addr::from_bits(network), length as u8);
    Some(Route { network, flags, interface: words.next()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the network and interface of the route that conflicts with 2001:db8:0:ff::/64.
    fn conflict_of(routes: &[(&str, u8, u32, &str)]) -> Option<String> {
        let mut text = String::new();
        for (network, length, flags, interface) in routes {
            let (network, zero) = (network.parse::<Ipv6Addr>().unwrap().to_bits(), 0);
            text += &format!(
                "{network:032x} {length:02x} {zero:032x} 00 {zero:032x} 00000400 00000001 00000000 {flags:08x} {interface:>8}\n"
            );
        }
        let prefix = Prefix::parse("2001:db8:0:ff::/64").unwrap();
        conflict(prefix, &text).map(|route| format!("{} {}", route.network, route.interface))
    }

    #[test]
    fn a_route_into_the_prefix_is_a_conflict() {
        for (network, length, flags) in [
            ("2001:db8:0:ff::", 64, 1),
            ("2001:db8:0:ff::", 64, 0x8000_0001),
            ("2001:db8:0:ff::1", 128, 0x8020_0001),
            ("2001:db8:0:ff:8000::", 65, 3),
        ] {
            let wanted = Some(format!("{network}/{length} eth0"));
            assert_eq!(conflict_of(&[("::", 0, 3, "eth0"), (network, length, flags, "eth0")]), wanted);
        }
    }

    #[test]
    fn the_longest_route_to_the_whole_prefix_counts() {
        let on_link = ("2001:db8::", 32, 1, "eth0");
        assert_eq!(conflict_of(&[("::", 0, 3, "eth1"), on_link]), Some("2001:db8::/32 eth0".to_owned()));
        for better in [("2001:db8::", 48, 3, "eth1"), ("2001:db8:0:ff::", 64, 0x200, "lo")] {
            assert_eq!(conflict_of(&[better, on_link]), None);
            assert_eq!(conflict_of(&[on_link, better]), None);
        }
    }

    #[test]
    fn other_routes_are_no_conflict() {
        for route in [
            ("::", 0, 1, "ppp0"),
            ("2001:db8::", 32, 3, "eth0"),
            ("2001:db8:0:fe::", 64, 1, "eth0"),
            ("2001:db8:0:ff::", 72, 0x200, "lo"),
            ("2001:db8:0:ff::7", 128, 0x0100_0003, "eth0"),
        ] {
            assert_eq!(conflict_of(&[route]), None, "{route:?}");
        }
        assert!(conflict(Prefix::parse("2001:db8:0:ff::/64").unwrap(), "2001\n\n").is_none());
    }
}
