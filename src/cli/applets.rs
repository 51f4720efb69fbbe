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
        summary: "open a TCP port on a server for one connection",
        description: "\
Sends one SYN to HOST that opens its TCP port PORT for one connection. There
must be a profile for HOST.
",
        syntax: Syntax {
            usage: "-p PORT HOST",
            options: "
  -p, --port PORT  the TCP port to open
  -4, --ipv4       use only IPv4 addresses of the host
  -6, --ipv6       use only IPv6 addresses of the host
      --dir DIR    directory of the profiles (default: ~/.knockknock)
      --wire WIRE  classic or stealth (default: as in the profile's config)
      --wait       return when the port has answered a test connection, after
                   a second knock
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
        summary: "open TCP ports to authenticated knocks",
        description: "\
Reads knocks in the kernel log, and has the firewall admit one connection for
each.
",
        syntax: Syntax {
            usage: "",
            options: "
      --dir DIR     directory of the config and the profiles
                    (default: /etc/knockknock.d)
      --background  run in the background and log to syslog
      --check       check the configuration, print what the daemon would do,
                    and exit
      --unguard     remove the guard and all other rules of the daemon, and
                    exit; stop the daemon first
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
Makes the profile NAME with new keys. Its knocks go to KNOCKPORT, which no two
profiles can share. Copy its directory to the client.
",
        syntax: Syntax {
            usage: "NAME KNOCKPORT",
            options: "
      --dir DIR      directory of the config and the profiles
                     (default: /etc/knockknock.d)
      --ports PORTS  the only ports that the profile may open, such as 22,443
                     (default: those in guard, or any port)
      --wire WIRE    stealth, or classic for a client of knockknock 0.8
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
        summary: "knock, connect, and relay standard input and output",
        description: "\
Knocks at HOST, connects to its PORT, and relays standard input and output.
Connects without a knock if there is no profile for HOST. In ~/.ssh/config:
    ProxyCommand knockknock connect %h %p
",
        syntax: Syntax {
            usage: "HOST PORT",
            options: "
  -4, --ipv4     use only IPv4 addresses of the host
  -6, --ipv6     use only IPv6 addresses of the host
      --dir DIR  directory of the profiles (default: ~/.knockknock)
  -h, --help     show this help
",
        },
        privileges: Privileges::RawSocket,
        run: start::connect,
    },
    Applet {
        name: "proxy",
        alias: "knockknock-proxy",
        summary: "SOCKS proxy that knocks before it connects",
        description: "\
SOCKS proxy (4, 4a and 5) on LISTENPORT that knocks before it connects to a host
with a profile, and connects to other hosts without a knock.
",
        syntax: Syntax {
            usage: "LISTENPORT",
            options: "
      --listen ADDRESS  the address to listen on (default: 127.0.0.1)
      --dir DIR         directory of the profiles (default: ~/.knockknock)
      --user USER       the user to become (default: the user who called sudo)
      --allow-remote    serve other machines too, and connect to hosts with a
                        profile only
      --background      run in the background and log to syslog
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
