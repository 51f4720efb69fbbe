//! A port knocker in one small binary: one SYN opens one port for one connection.
//!
//! # The map
//!
//! A file imports only from floors below its own.
//!
//! | floor | module | what |
//! |---|---|---|
//! | top | [`cli`] | the table of applets: argv → applet → exit code |
//! | 3 | [`applet`] | the programs, one file or folder each; none imports another |
//! | 2 | [`knocker`], [`tunnel`] | what several programs share: one knock; a connection behind one |
//! | 1 | [`profile`], [`config`], [`klog`], [`firewall`], [`say`] | keys on disk, the daemon's config, the kernel's log, the firewall, the one mouth |
//! | 0 | [`wire`], [`ini`], [`sys`] | pure values; the lines of an INI file; the kernel's calls, the only unsafe code |
//!
//! [`error`] and [`ports`] lie below all floors.
//!
//! # The way through it
//!
//! The daemon: log record → [`wire::Entry`] → [`wire::Ciphertext`] → [`wire::Unsealed`] → the daemon's `OpenRequest` →
//! fixed bytes → `OpenRequest` → [`firewall::Opening`]. The client, the mirror: [`profile::Profile`] → a burnt
//! counter → [`wire::Ciphertext`] → [`wire::seal::Fields`] → [`wire::Syn`] → a packet. Each value is made from the one before it only,
//! so an address that nobody authenticated cannot reach the firewall by any path that compiles.
//!
//! # What root can do
//!
//! Two locked doors: [`firewall`] and the daemon's supervisor and opener never name keys, so they cannot
//! leak what they do not hold; the daemon's watcher, which reads what strangers wrote, never names
//! [`firewall`]. A test reads the `use` lines and fails on any other way.

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
