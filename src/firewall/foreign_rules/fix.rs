//! The commands that admit what rules of other programs drop.

use super::chains::Chain;
use crate::ports::Ports;

/// Returns the command that inserts a rule which accepts `packets` at the start of a chain.
pub(super) fn insert(chain: &Chain<'_>, packets: &str) -> String {
    let Chain { program, table: (family, table), name, .. } = chain;
    match *program {
        "nft" => format!("nft insert rule {family} {table} {name} {packets} accept"),
        program => format!("{program} -t {table} -I {name} {packets} -j ACCEPT"),
    }
}

/// Returns the commands for groups of ports, because a rule of iptables or ufw takes at most 15.
pub(super) fn in_groups(ports: &Ports, command: &dyn Fn(&Ports) -> String) -> String {
    let mut commands = String::new();
    for ports in ports.as_slice().chunks(15) {
        commands += if commands.is_empty() { "" } else { " && " };
        commands += &command(&ports.iter().copied().collect());
    }
    commands
}

/// Returns the condition for knocked connections.
pub(super) fn mark(chain: &Chain<'_>, bit: u32) -> String {
    match chain.program {
        "nft" => format!("ct mark and {bit:#010x} != 0"),
        _ => format!("-m connmark --mark {bit:#010x}/{bit:#010x}"),
    }
}

/// Returns the condition for packets to `ports`, or for replies from there.
pub(super) fn port(chain: &Chain<'_>, answer: bool, ports: &Ports) -> String {
    let end = if answer { "sport" } else { "dport" };
    match (chain.program, ports.as_slice()) {
        ("nft", [port]) => format!("tcp {end} {port}"),
        ("nft", _) => format!("tcp {end} {{ {ports} }}"),
        (_, [port]) => format!("-p tcp --{end} {port}"),
        _ => format!("-p tcp -m multiport --{end}s {ports}"),
    }
}

/// Returns firewalld's command, whose rules cannot match the connection mark.
pub(super) fn firewalld(guarded: bool, ports: &Ports) -> String {
    let first = if guarded { "" } else { "guard these ports, then: " };
    let mut command = format!("{first}firewall-cmd --permanent ");
    for port in ports.iter() {
        command.push_str(&format!("--add-port={port}/tcp "));
    }
    command + "&& firewall-cmd --reload"
}
