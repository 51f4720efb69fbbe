//! A port knocker in one small binary: one SYN opens one port for one connection.
//!
//! # Floors
//!
//! A file imports only from its own module and from modules on lower floors. `tests/house.rs` checks it, by
//! this very table, and that no two files depend on each other in a circle.
//!
//! | floor | modules | what |
//! |---|---|---|
//! | 8 | [`cli`] | the command line: argv → applet → exit code |
//! | 7 | [`applet`] | the programs, one file or folder each; none imports another |
//! | 6 | [`tunnel`] | a connection behind a knock, for `connect` and `proxy` |
//! | 5 | [`knocker`] | one knock: resolve, burn a counter, send |
//! | 4 | [`profile`], [`klog`], [`firewall`] | keys on disk; the kernel's log; the firewall |
//! | 3 | [`config`] | the daemon's config |
//! | 2 | [`say`] | output: lines to standard error or syslog, text to standard output |
//! | 1 | [`wire`], [`ini`], [`sys`] | bytes ⇄ values, pure; the lines of an INI file; system calls, the only unsafe code |
//! | 0 | [`error`], [`ports`] | the error type; sets of ports |
//!
//! # The way through it
//!
//! The daemon: log record → [`wire::Entry`] → [`wire::Ciphertext`] → [`wire::Unsealed`] → the daemon's
//! `OpenRequest` → 24 bytes → `OpenRequest` → [`firewall::Opening`]. The client, the mirror:
//! [`profile::Profile`] → a counter used up on disk → [`wire::Ciphertext`] → [`wire::seal::Fields`] →
//! [`wire::Syn`] → a packet.
//!
//! Types ensure this much: only [`wire::Keys::unseal`] makes an `Unsealed`, so its port and counter were
//! authenticated. An `OpenRequest` has a port other than 0, at most 15 minutes, and a source that another
//! machine can have. It does not show where it comes from: the opener makes one of any 24 bytes in these
//! ranges. The source address is that of the packet, and nothing authenticates it.
//!
//! # What root can do
//!
//! The code that runs as root is the daemon's supervisor, and its watcher and opener until they have dropped
//! root. [`firewall`], the supervisor and the opener never name keys; the watcher never names [`firewall`].
//! A test reads the sources and fails on any other way. Another counts the supervisor's and the opener's
//! lines of code.

pub mod applet;
pub mod cli;
pub mod config;
pub mod error;
pub mod firewall;
pub mod ini;
pub mod klog;
pub mod knocker;
pub mod ports;
pub mod profile;
pub mod say;
pub mod sys;
pub mod tunnel;
pub mod wire;
