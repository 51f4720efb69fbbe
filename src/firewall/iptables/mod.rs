//! iptables and ip6tables: static rules with the `recent` match, one list of addresses per guarded
//! port. An opening is a line written to the list's file in /proc: no child process, no capability.
//!
//! `recent` is timed and single-use by the kernel too. Only guarded ports can be opened, and a list
//! holds 100 addresses. Everything stands in table mangle, before DNAT.

use super::nft::Changes;
use super::{Admission, Opening, Rules, count};
use crate::error::{Error, Result};
use crate::ports::Ports;
use crate::sys::process;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Our chains in table mangle: what PREROUTING, INPUT and FORWARD jump to, and what those jump to.
const PREROUTING: &str = "KNOCKKNOCK";
const INPUT: &str = "KNOCKKNOCK-INPUT";
const FORWARD: &str = "KNOCKKNOCK-FORWARD";
const KNOCK: &str = "KNOCKKNOCK-KNOCK";
pub(super) const ADMIT: &str = "KNOCKKNOCK-ADMIT";
/// The kernel's chains, and ours that each jumps to.
const JUMPS: [(&str, &str); 3] = [("PREROUTING", PREROUTING), ("INPUT", INPUT), ("FORWARD", FORWARD)];
const CHAINS: [&str; 5] = [PREROUTING, INPUT, FORWARD, KNOCK, ADMIT];

/// How many sources are counted apart: when all places are taken, new ones are not heard.
const TABLE: &str = "--hashlimit-htable-size 4096 --hashlimit-htable-max 65536 --hashlimit-htable-expire 2000";

/// iptables or ip6tables.
#[derive(Clone, Copy, PartialEq, Eq)]
enum IpVersion {
    V4,
    V6,
}

impl IpVersion {
    fn program(self) -> &'static str {
        match self {
            Self::V4 => "iptables",
            Self::V6 => "ip6tables",
        }
    }

    fn restore(self) -> &'static str {
        match self {
            Self::V4 => "iptables-restore",
            Self::V6 => "ip6tables-restore",
        }
    }

    /// The name of a port's list; a list has addresses of one version.
    fn list(self, port: u16) -> String {
        match self {
            Self::V4 => format!("kk{port}"),
            Self::V6 => format!("kk{port}v6"),
        }
    }

    fn list_path(self, port: u16) -> PathBuf {
        Path::new("/proc/net/xt_recent").join(self.list(port))
    }
}

/// Both versions, or IPv4 alone where the kernel has no IPv6.
fn versions() -> &'static [IpVersion] {
    if Path::new("/proc/net/if_inet6").exists() { &[IpVersion::V4, IpVersion::V6] } else { &[IpVersion::V4] }
}

/// Whether iptables can be used.
pub(super) fn works() -> io::Result<()> {
    versions().iter().try_for_each(|version| {
        process::run(version.program(), &["-w", "-t", "mangle", "-S", "PREROUTING"], "").map(drop)
    })
}

/// Makes our chains, or makes them again, one transaction for each version.
pub(super) fn make(rules: &Rules) -> Result<()> {
    for &version in versions() {
        let failed = |cause| {
            Error::system(format!("make the rules with {:?}", version.restore()), cause).advise(
                "the kernel needs the matches recent, hashlimit, conntrack, connmark and addrtype, and the target LOG",
            )
        };
        process::run(version.restore(), &["-w", "--noflush"], &script(version, rules)).map_err(failed)?;
        for (from, to) in JUMPS {
            if mangle(version, &["-C", from, "-j", to]).is_err() {
                mangle(version, &["-I", from, "1", "-j", to]).map_err(failed)?;
            }
        }
    }
    Ok(())
}

/// Whether our chains stand whole: they are named as often as they were, and once more for each jump to them.
pub(super) fn stands(rules: &Rules) -> bool {
    versions().iter().all(|&version| {
        let listed = process::run(version.program(), &["-w", "-t", "mangle", "-S"], "").unwrap_or_default();
        count(&listed, PREROUTING) >= count(&script(version, rules), PREROUTING) + JUMPS.len()
    })
}

/// Takes our chains away, where there are any.
pub(super) fn remove() -> io::Result<()> {
    for &version in versions() {
        if mangle(version, &["-S", PREROUTING]).is_err() {
            continue;
        }
        for (from, to) in JUMPS {
            // As often as it is there; hardly ever more than once.
            let _ = (0..16).try_for_each(|_| mangle(version, &["-D", from, "-j", to]));
        }
        for flush_or_delete in ["-F", "-X"] {
            for chain in CHAINS {
                let _ = mangle(version, &[flush_or_delete, chain]);
            }
        }
        if mangle(version, &["-S", PREROUTING]).is_ok() {
            return Err(io::Error::other(format!("chain {PREROUTING} is still in use")));
        }
    }
    Ok(())
}

fn mangle(version: IpVersion, args: &[&str]) -> io::Result<()> {
    process::run(version.program(), &[&["-w", "-t", "mangle"], args].concat(), "").map(drop)
}

/// The rules of table mangle, as `iptables-restore --noflush` takes them: a chain that is named is
/// emptied first.
fn script(version: IpVersion, rules: &Rules) -> String {
    let mut text = String::from("*mangle\n");
    for chain in CHAINS {
        text.push_str(&format!(":{chain} - [0:0]\n"));
    }
    let mut rule = |chain: &str, rule: &str| text.push_str(&format!("-A {chain} {rule}\n"));
    let mark = format!("{0:#010x}/{0:#010x}", rules.mark);

    for chain in [PREROUTING, INPUT, FORWARD] {
        rule(chain, "! -p tcp -j RETURN");
        rule(chain, "-i lo -j RETURN");
    }
    rule(PREROUTING, "-p tcp ! --syn -m conntrack --ctstate ESTABLISHED -j RETURN");
    rule(PREROUTING, "-m addrtype ! --dst-type LOCAL -j RETURN");
    for port in rules.knock_ports.iter() {
        rule(PREROUTING, &format!("-p tcp --syn --dport {port} -j {KNOCK}"));
    }
    // An admitted SYN, sent again.
    rule(PREROUTING, &format!("-p tcp --syn -m connmark --mark {mark} -m conntrack ! --ctstatus ASSURED -j {ADMIT}"));
    for port in rules.guard.iter() {
        let list = version.list(port);
        let used =
            format!("-m recent --name {list} --rcheck --seconds {} -m recent --name {list} --remove", rules.delay);
        rule(PREROUTING, &format!("-p tcp --syn --dport {port} {used} -j {ADMIT}"));
    }
    // Where the guard applies.
    let everywhere = [String::new()];
    let interfaces: Vec<String> = rules.interfaces.iter().map(|name| format!("-i {name} ")).collect();
    for on in if interfaces.is_empty() { &everywhere[..] } else { &interfaces } {
        for port in rules.guard.iter() {
            rule(PREROUTING, &format!("{on}-p tcp --dport {port} -j DROP"));
            // What reaches a guarded port by another way: a redirect, a virtual address.
            rule(INPUT, &format!("{on}-p tcp --syn --dport {port} -m connmark ! --mark {mark} -j DROP"));
            // Others may send elsewhere what came for a guarded port at an address that is not ours.
            for chain in [INPUT, FORWARD] {
                let sent_on = format!("-m conntrack --ctstate DNAT --ctorigdstport {port}");
                rule(chain, &format!("{on}-p tcp --syn {sent_on} -m connmark ! --mark {mark} -j DROP"));
            }
        }
    }

    let by_network = if version == IpVersion::V6 { " --hashlimit-srcmask 64" } else { "" };
    rule(
        KNOCK,
        &format!(
            "-m hashlimit --hashlimit-name knockknock{} --hashlimit-mode srcip{by_network} \
             --hashlimit-above 100/second --hashlimit-burst 200 {TABLE} -j RETURN",
            if version == IpVersion::V6 { "6" } else { "" }
        ),
    );
    rule(
        KNOCK,
        &match rules.group {
            Some(group) => format!("-j NFLOG --nflog-group {group} --nflog-size 128 --nflog-threshold 1"),
            None => "-j LOG --log-prefix \"knockknock \" --log-level debug --log-tcp-sequence --log-tcp-options".into(),
        },
    );
    rule(ADMIT, &format!("-j MARK --set-xmark {mark}"));
    rule(ADMIT, &format!("-j CONNMARK --set-xmark {mark}"));
    rule(ADMIT, "-j ACCEPT");
    text.push_str("COMMIT\n");
    text
}

/// Writes openings into the lists.
pub(super) struct ListWriter {
    lists: Vec<(IpVersion, u16, File)>,
    pub(super) changes: Changes,
}

impl ListWriter {
    pub(super) fn new(guard: &Ports) -> Result<Self> {
        let files = versions().len() * guard.iter().count() + 64;
        process::allow_files(files as u32).map_err(|cause| Error::system("hold the lists open", cause))?;
        let mut lists = Vec::new();
        for &version in versions() {
            for port in guard.iter() {
                let path = version.list_path(port);
                let file =
                    File::options().write(true).open(&path).map_err(|cause| Error::path("open", &path, cause))?;
                lists.push((version, port, file));
            }
        }
        // iptables is a shell over nf_tables on most systems; the old kind tells nobody of changes.
        let changes = Changes::new(|table, _| table == "mangle")?;
        Ok(Self { lists, changes })
    }

    /// Writes the address to the port's list, which gives it a new time.
    pub(super) fn admit(&self, opening: &Opening) -> io::Result<Admission> {
        let version = if matches!(opening.source, IpAddr::V4(_)) { IpVersion::V4 } else { IpVersion::V6 };
        let list = self.lists.iter().find(|(f, port, _)| (*f, *port) == (version, opening.port));
        let Some(mut file) = list.map(|(_, _, file)| file) else { return Ok(Admission::Denied) };
        // The kernel takes a write at the file's start only, and no pwrite.
        file.seek(SeekFrom::Start(0))?;
        file.write_all(format!("+{}\n", opening.source).as_bytes())?;
        Ok(Admission::Admitted)
    }
}
