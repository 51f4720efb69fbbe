//! A port knocker in one small binary: one SYN opens one port for one connection.
//!
//! # Floors
//!
//! A file imports only from its own module and from modules on lower floors. `tests/house.rs` reads this table and
//! checks that, and that no files depend on each other in a cycle.
//!
//! | floor | modules | contents |
//! |---|---|---|
//! | 8 | [`cli`] | the command line: argv → applet → exit code |
//! | 7 | [`applet`] | the programs, one file or folder each; none imports another |
//! | 6 | [`tunnel`] | a connection that begins with a knock, for `connect` and `proxy` |
//! | 5 | [`knocker`] | one knock: resolve, burn a counter, send |
//! | 4 | [`profile`], [`klog`], [`firewall`] | keys and counters on disk; the kernel log; the firewall |
//! | 3 | [`config`], [`status`], [`diagnosis`] | the daemon's config; its status record; findings of doctor |
//! | 2 | [`say`] | output: lines to standard error, the journal or syslog; text to standard output |
//! | 1 | [`wire`], [`ini`], [`sys`] | bytes ⇄ values, pure; the lines of an INI file; system calls, the only unsafe code |
//! | 0 | [`error`], [`ports`], [`prefix`], [`search`] | the error type; sets of ports; prefixes of links; byte search |
//!
//! # Data flow
//!
//! The daemon: log record → [`wire::Entry`] → [`wire::Code`], or [`wire::Ciphertext`] on the classic wire → a profile's
//! counter and port, found by comparison → the daemon's `OpenRequest` → 24 bytes → `OpenRequest` →
//! [`firewall::Opening`]. The client, in reverse: [`profile::Profile`] → a counter stored as used → [`wire::Code`] or
//! [`wire::Ciphertext`] → [`wire::seal::Fields`] → [`wire::Syn`] → a packet.
//!
//! The types guarantee the following. Only [`wire::Keys::unseal`] creates an `Unsealed`, so its port and counter are
//! authenticated. An `OpenRequest` has a port other than 0, a duration of at most 15 minutes, and a source address that
//! another machine can have. Its origin is not guaranteed: the opener accepts any 24 bytes within these ranges. The
//! source address is that of the packet, which nothing authenticates.
//!
//! # Code that runs as root
//!
//! Only the daemon's supervisor stays root. Its watcher and opener, and the clients, drop root before they read what
//! others wrote. Administrators run the applets that make, replace and check profiles as root. [`firewall`], the
//! supervisor and the opener never name keys; the watcher never names [`firewall`]. `tests/house.rs` checks these rules
//! in the sources, and counts the lines of code of the supervisor and the opener.

pub mod applet;
pub mod cli;
pub mod config;
pub mod diagnosis;
pub mod error;
pub mod firewall;
pub mod ini;
pub mod klog;
pub mod knocker;
pub mod ports;
pub mod prefix;
pub mod profile;
pub mod say;
pub mod search;
pub mod status;
pub mod sys;
pub mod tunnel;
pub mod wire;
