//! The names under which the firewall sees packets of an interface.

use crate::config;
use crate::error::{Error, quoted};
use crate::sys::links::{self, Link};

/// Returns a warning for each interface in a VRF. The rules for iptables do not find its addresses local.
pub fn vrf_warnings() -> Vec<Error> {
    let mut warnings = Vec::new();
    for link in links::list().unwrap_or_default().iter().filter(|link| link.in_vrf) {
        let why = format!("interface {} is in a VRF: with iptables, knocks are not detected there", quoted(&link.name));
        warnings.push(Error::refused(why));
    }
    warnings
}

/// Returns whether `name` is one of the interface's names.
pub fn is_called(link: &Link, name: &str) -> bool {
    link.name == name || link.alternatives.iter().any(|alternative| alternative == name)
}

/// Returns `names` and the further names under which the firewall sees packets of these interfaces, and each pair of
/// names with their relation. Packets that arrive on a port of a bridge, bond, team or VRF are seen on the master, and
/// no rule matches an alternative name.
pub fn with_further_names<'a>(
    names: &[String],
    links: &'a [Link],
) -> (Vec<String>, Vec<(String, &'static str, &'a str)>) {
    let (mut all, mut pairs) = (names.to_vec(), Vec::new());
    let mut at = 0;
    while let Some(name) = all.get(at).cloned() {
        let link = links.iter().find(|link| is_called(link, &name));
        let (relation, further) = match link {
            Some(link) if link.name != name => ("an alternative name", Some(link)),
            Some(link) => ("a port", links.iter().find(|other| other.index == link.master)),
            None => ("", None),
        };
        if let Some(further) = further.filter(|further| config::is_interface(&further.name)) {
            if !all.contains(&further.name) {
                all.push(further.name.clone());
            }
            pairs.push((name, relation, further.name.as_str()));
        }
        at += 1;
    }
    (all, pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guard_also_applies_to_an_interfaces_master_and_to_the_name_that_rules_match() {
        let link = |(index, name, master): (u32, &str, u32)| Link {
            index,
            name: name.into(),
            alternatives: vec![format!("{name}-alt")],
            master,
            receives: true,
            resolves: true,
            in_vrf: false,
        };
        let links =
            [(1, "lo", 0), (2, "eth0", 4), (3, "eth1", 4), (4, "bond0", 5), (5, "br0", 0), (6, "a b", 0), (7, "x", 6)];
        let links = links.map(link);
        let on = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            with_further_names(&names, &links).0
        };
        assert_eq!(on(&["eth0"]), ["eth0", "bond0", "br0"]);
        assert_eq!(on(&["eth0", "eth1", "br0"]), ["eth0", "eth1", "br0", "bond0"]);
        assert_eq!(on(&["wan"]), ["wan"], "it may come yet");
        assert_eq!(on(&["eth0-alt"]), ["eth0-alt", "eth0", "bond0", "br0"]);
        assert_eq!(on(&["br0-alt", "br0"]), ["br0-alt", "br0"]);
        assert_eq!(on(&["x"]), ["x"], "no rule can name that one");
    }
}
