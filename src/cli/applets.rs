//! The table of applets. Dispatch, usage, help and shell completions are generated from it.

use super::arguments::Arguments;
use super::{internal, start};
use crate::error::{Error, Result};
use crate::sys::privilege;

/// The privileges that an applet starts with. What it drops later is up to the applet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Privileges {
    /// No capabilities.
    None,
    /// The caller's privileges, even in a set-uid binary. The applet opens a raw socket and drops the rest.
    RawSocket,
    /// The caller's privileges, which must not come from a set-uid binary.
    Root,
}

impl Privileges {
    /// Drops the other privileges, before arguments are parsed. When installed set-uid, only `knock` and `connect` run.
    pub fn enforce(self) -> Result<()> {
        if self != Self::RawSocket && privilege::real_uid() != privilege::effective_uid() {
            return Err(Error::refused("a set-uid binary only knocks and connects").advise("run it as root instead"));
        }
        match self {
            Self::None => privilege::keep_only(&[]).map_err(|cause| Error::system("drop capabilities", cause)),
            Self::RawSocket | Self::Root => Ok(()),
        }
    }
}

/// One applet.
pub struct Applet {
    /// The word that selects it: `knockknock NAME`.
    pub name: &'static str,
    /// The link name that selects it; empty for applets that only the supervisor starts.
    pub alias: &'static str,
    /// A one-line summary for the general help.
    pub summary: &'static str,
    /// Required options and operands, for the usage line.
    pub usage: &'static str,
    /// The one-letter options in getopt(3) notation: `:` follows those that take a value.
    pub letters: &'static str,
    /// The privileges that it starts with.
    pub privileges: Privileges,
    /// Runs it with the arguments. Returns the exit code.
    pub run: fn(&Arguments<'_>) -> Result<u8>,
}

impl Applet {
    /// Returns whether users start it, rather than only the supervisor.
    pub fn is_public(&self) -> bool {
        !self.alias.is_empty()
    }
}

/// Defines an applet that only the supervisor starts.
const fn internal(name: &'static str, run: fn(&Arguments<'_>) -> Result<u8>) -> Applet {
    Applet { name, alias: "", summary: "", usage: "", letters: "", privileges: Privileges::Root, run }
}

/// All applets, in the order of the help.
pub const APPLETS: &[Applet] = &[
    Applet {
        name: "knock",
        alias: "knockknock",
        summary: "open a TCP port on a server for one connection",
        usage: "-p PORT HOST",
        letters: "p:46v",
        privileges: Privileges::RawSocket,
        run: start::knock,
    },
    Applet {
        name: "daemon",
        alias: "knockknock-daemon",
        summary: "open TCP ports to authenticated knocks",
        usage: "[OPTION ...]",
        letters: "",
        privileges: Privileges::Root,
        run: start::daemon,
    },
    Applet {
        name: "genprofile",
        alias: "knockknock-genprofile",
        summary: "create a profile with new keys",
        usage: "NAME [KNOCKPORT]",
        letters: "",
        privileges: Privileges::None,
        run: start::genprofile,
    },
    Applet {
        name: "invite",
        alias: "knockknock-invite",
        summary: "print an invitation for a client",
        usage: "NAME HOST",
        letters: "",
        privileges: Privileges::None,
        run: start::invite,
    },
    Applet {
        name: "accept",
        alias: "knockknock-accept",
        summary: "create a profile from an invitation",
        usage: "[--as HOST]",
        letters: "",
        privileges: Privileges::Root,
        run: start::accept,
    },
    Applet {
        name: "rotate",
        alias: "knockknock-rotate",
        summary: "give a profile new keys",
        usage: "NAME HOST",
        letters: "",
        privileges: Privileges::None,
        run: start::rotate,
    },
    Applet {
        name: "revoke",
        alias: "knockknock-revoke",
        summary: "revoke a profile at once",
        usage: "NAME",
        letters: "",
        privileges: Privileges::None,
        run: start::revoke,
    },
    Applet {
        name: "links",
        alias: "knockknock-links",
        summary: "print one-time links that knock from any device",
        usage: "-p PORT HOST",
        letters: "p:n:",
        privileges: Privileges::Root,
        run: start::links,
    },
    Applet {
        name: "connect",
        alias: "knockknock-connect",
        summary: "knock, connect, and relay standard input and output",
        usage: "HOST PORT",
        letters: "46",
        privileges: Privileges::RawSocket,
        run: start::connect,
    },
    Applet {
        name: "proxy",
        alias: "knockknock-proxy",
        summary: "SOCKS proxy that knocks before it connects",
        usage: "LISTENPORT",
        letters: "",
        privileges: Privileges::Root,
        run: start::proxy,
    },
    Applet {
        name: "status",
        alias: "knockknock-status",
        summary: "show the daemon's state, openings and profiles",
        usage: "[OPTION ...]",
        letters: "",
        privileges: Privileges::Root,
        run: start::status,
    },
    Applet {
        name: "doctor",
        alias: "knockknock-doctor",
        summary: "find out why a knock does not work",
        usage: "[HOST]",
        letters: "p:46",
        privileges: Privileges::Root,
        run: start::doctor,
    },
    internal("watcher", internal::watcher),
    internal("opener", internal::opener),
    internal("proof", internal::proof),
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
}
