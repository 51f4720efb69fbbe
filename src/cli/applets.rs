//! The table of applets: one row each, which dispatch, usage, help and the shells' completions are made from.

use super::arguments::{Arguments, Syntax};
use super::start;
use crate::error::{Error, Result};
use crate::sys::privilege;

/// The privileges that an applet starts with. What it drops later is up to the applet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Privileges {
    /// No capability.
    None,
    /// Those of the caller, also from a set-uid binary: the applet opens a raw socket and drops the rest.
    RawSocket,
    /// Those of the caller, which must not come from a set-uid binary.
    Root,
}

impl Privileges {
    /// Applied before argument parsing. When installed set-uid, only `knock` and `connect` run.
    pub fn enforce(self) -> Result<()> {
        if self != Self::RawSocket && privilege::real_uid() != privilege::effective_uid() {
            return Err(Error::refused("a set-uid binary only knocks and connects").advise("start it as root itself"));
        }
        match self {
            Self::None => privilege::keep_only(&[]).map_err(|cause| Error::system("drop capabilities", cause)),
            Self::RawSocket | Self::Root => Ok(()),
        }
    }
}

/// A program in the binary.
pub struct Applet {
    /// The word that selects it: `knockknock NAME`.
    pub name: &'static str,
    /// The name of a link to the binary that selects it; empty for an applet that only the daemon starts.
    pub alias: &'static str,
    /// What it does, in one line of the general help.
    pub summary: &'static str,
    /// What it does, in its own help.
    pub description: &'static str,
    /// The arguments that it takes.
    pub syntax: Syntax,
    /// The privileges that it starts with.
    pub privileges: Privileges,
    /// Runs it and returns the exit code.
    pub run: fn(&Arguments) -> Result<u8>,
}

impl Applet {
    /// Whether people start it, and not only the daemon.
    pub fn is_public(&self) -> bool {
        !self.alias.is_empty()
    }
}

/// An applet that only the daemon's supervisor starts.
const fn internal(name: &'static str, run: fn(&Arguments) -> Result<u8>) -> Applet {
    let syntax = Syntax { usage: "", options: "" };
    Applet { name, alias: "", summary: "", description: "", syntax, privileges: Privileges::Root, run }
}

/// All applets, in the order of the help.
pub const APPLETS: &[Applet] = &[
    Applet {
        name: "knock",
        alias: "knockknock",
        summary: "send one knock, which opens a port for one connection",
        description: "\
Sends one knock to HOST. The daemon there opens PORT to your address for one
connection, which must begin within some seconds.
",
        syntax: Syntax {
            usage: "-p PORT HOST",
            options: "
  -p, --port PORT  the port to open
  -4, --ipv4       use the host's IPv4 address
  -6, --ipv6       use the host's IPv6 address
      --dir DIR    the directory of the profiles (default: ~/.knockknock)
      --wire WIRE  classic or stealth (default: what the profile says)
  -v, --verbose    say what was sent
  -h, --help       show this help
",
        },
        privileges: Privileges::RawSocket,
        run: start::knock,
    },
    Applet {
        name: "daemon",
        alias: "knockknock-daemon",
        summary: "read the kernel log and open ports for knocks",
        description: "\
Reads the kernel log and, for each valid knock in it, has the firewall admit one
connection.
",
        syntax: Syntax {
            usage: "",
            options: "
      --dir DIR     the directory of the config and the profiles
                    (default: /etc/knockknock.d)
      --background  go into the background and log to syslog
      --check       check the configuration, print what it means, and exit
      --unguard     remove the guard and all other rules of ours, and exit; the
                    daemon must not be running
  -h, --help        show this help
",
        },
        privileges: Privileges::Root,
        run: start::daemon,
    },
    Applet {
        name: "genprofile",
        alias: "knockknock-genprofile",
        summary: "make a profile with new keys",
        description: "\
Makes the profile NAME: two keys, a counter, and a config with KNOCKPORT, the
port that its knocks go to. Copy its directory to one client.
",
        syntax: Syntax {
            usage: "NAME KNOCKPORT",
            options: "
      --dir DIR      the directory of the config and the profiles
                     (default: /etc/knockknock.d)
      --ports PORTS  the only ports that its key may open, such as 22,443
                     (default: the guarded ports, or all without any)
      --wire WIRE    stealth, or classic for clients of knockknock 0.8
                     (default: stealth)
  -h, --help         show this help
",
        },
        privileges: Privileges::None,
        run: start::genprofile,
    },
    Applet {
        name: "connect",
        alias: "knockknock-connect",
        summary: "knock, connect, and copy between the connection and standard input and output",
        description: "\
Knocks at HOST, connects to its PORT, and copies standard input to the
connection and the connection to standard output. It connects to a host without
a profile without a knock. In ~/.ssh/config:
    ProxyCommand knockknock connect %h %p
",
        syntax: Syntax {
            usage: "HOST PORT",
            options: "
  -4, --ipv4     use only IPv4 addresses of the host
  -6, --ipv6     use only IPv6 addresses of the host
      --dir DIR  the directory of the profiles (default: ~/.knockknock)
  -h, --help     show this help
",
        },
        privileges: Privileges::RawSocket,
        run: start::connect,
    },
    Applet {
        name: "proxy",
        alias: "knockknock-proxy",
        summary: "run a SOCKS proxy that knocks for the programs that use it",
        description: "\
Runs a SOCKS proxy (versions 4, 4a and 5) on LISTENPORT. It knocks before it
connects to a host with a profile. It connects to other hosts without a knock.
",
        syntax: Syntax {
            usage: "LISTENPORT",
            options: "
      --listen ADDRESS  the address to listen on (default: 127.0.0.1)
      --dir DIR         the directory of the profiles (default: ~/.knockknock)
      --user USER       the user to become (default: the user who started it)
      --allow-remote    serve other machines too, and connect only to hosts with
                        profiles
      --background      go into the background and log to syslog
  -h, --help            show this help
",
        },
        privileges: Privileges::Root,
        run: start::proxy,
    },
    internal("watcher", start::watcher),
    internal("opener", start::opener),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_aliases_are_unique() {
        for (i, one) in APPLETS.iter().enumerate() {
            for other in APPLETS.iter().skip(i + 1) {
                assert_ne!(one.name, other.name);
                assert!(one.alias != other.alias || one.alias.is_empty());
            }
        }
    }

    #[test]
    fn help_fits_a_terminal() {
        for applet in APPLETS {
            for line in applet.description.lines().chain(applet.syntax.options.lines()) {
                assert!(line.len() <= 80, "{line}");
            }
        }
    }

    #[test]
    fn every_option_that_is_read_is_in_the_table() {
        let source = include_str!("start.rs");
        let read: Vec<&str> = source.split('"').filter(|word| word.starts_with("--")).collect();
        assert!(read.len() > 10);
        for name in read.iter().filter(|name| !name.contains(' ')) {
            assert!(APPLETS.iter().any(|applet| applet.syntax.options.contains(name)), "{name}");
        }
    }
}
