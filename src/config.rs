//! The daemon's configuration: `[main]` in `DIR/config`.

use crate::error::{Error, Result, not_a_port, quoted};
use crate::ini;
use crate::ports::Ports;
use crate::say;
use crate::sys::file;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// The default of `--dir`: the directory of the config and the profiles.
pub const DIRECTORY: &str = "/etc/knockknock.d";

/// The longest `delay`, in seconds: fifteen minutes.
pub const MAX_DELAY: u16 = 900;

/// The log source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Log {
    /// /dev/kmsg, or /var/log/kern.log if /dev/kmsg cannot be read.
    Auto,
    /// /dev/kmsg.
    Kmsg,
    /// A file that syslog writes.
    File(String),
    /// Standard input.
    Input,
    /// An NFLOG group.
    Nflog(u16),
}

/// The firewall backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firewall {
    /// nftables if it works, otherwise iptables.
    Auto,
    /// nftables.
    Nft,
    /// iptables and ip6tables.
    Iptables,
}

/// The daemon's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `delay`: how long an opening lasts, in seconds.
    pub delay: u16,
    /// `error_window`: how many counters are accepted, from the expected one on.
    pub window: u32,
    /// `resync_window`: how many counters beyond the window can resynchronise a client; 0 disables this.
    pub resync_window: u32,
    /// `log`.
    pub log: Log,
    /// `firewall`.
    pub firewall: Firewall,
    /// `guard`: the ports that only a knock opens.
    pub guard: Ports,
    /// `interfaces`: where the guard applies; empty means all but lo.
    pub interfaces: Vec<String>,
    /// `mark`: the bit of the connection mark that admitted connections carry.
    pub mark: u32,
    /// `user`: the watcher's account, if it is not `knockknock`.
    pub user: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            delay: 15,
            window: 20,
            resync_window: 10_000,
            log: Log::Auto,
            firewall: Firewall::Auto,
            guard: Ports::default(),
            interfaces: Vec::new(),
            mark: 0x0800_0000,
            user: None,
        }
    }
}

impl Config {
    /// Reads the text of `DIR/config`, which is empty if the file does not exist. Comments may be in any encoding, as in
    /// version 0.8.
    pub fn read_text(directory: &Path) -> Result<String> {
        let path = directory.join("config");
        match file::read_small(&path) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            Err(cause) => Err(Error::path("read", &path, cause)),
        }
    }

    /// Parses the text of `DIR/config`. Keys that are missing have their defaults. Also returns warnings.
    pub fn from_text(directory: &Path, text: &str) -> Result<(Box<Self>, Vec<String>)> {
        Self::parse(text).map_err(|(line, why)| {
            let path = directory.join("config");
            Error::content(&path, line, why).advise("see knockknock.conf(5) for the keys and their values")
        })
    }

    /// Parses the text of a config. The error is a line number, or 0, and a reason.
    pub fn parse(text: &str) -> std::result::Result<(Box<Self>, Vec<String>), (usize, String)> {
        let (settings, warnings) = ini::settings(text, &["guard", "interfaces"])?;
        let mut config = Box::<Self>::default();
        for ini::Setting { key, value, line } in &settings {
            match config.set(key, value) {
                Ok(true) => {}
                Ok(false) => return Err((*line, format!("unknown key {}", quoted(key)))),
                Err(wanted) => return Err((*line, format!("{key} = {}: {wanted}", quoted(value)))),
            }
        }
        Ok((config, warnings))
    }

    /// Sets one key; `false` if there is no such key. The error says what the value should be.
    fn set(&mut self, key: &str, value: &str) -> std::result::Result<bool, String> {
        let number = |from: u32, to: u32| {
            let number = value.parse().ok().filter(|number| (from..=to).contains(number));
            let others = if from == 1 { "; knockknock 0.8 accepted others" } else { "" };
            number.ok_or_else(|| format!("expected a number from {from} to {to}{others}"))
        };
        match key {
            "delay" => self.delay = number(1, MAX_DELAY.into())? as u16,
            "error_window" => self.window = number(1, 10_000)?,
            "resync_window" => self.resync_window = number(0, 1_000_000)?,
            "log" => self.log = log(value).ok_or("expected auto, kmsg, a path, - or nflog:GROUP")?,
            "firewall" => {
                self.firewall = match value {
                    "auto" => Firewall::Auto,
                    "nft" | "nftables" => Firewall::Nft,
                    "iptables" => Firewall::Iptables,
                    _ => return Err("expected auto, nft or iptables".into()),
                }
            }
            "guard" => self.guard = Ports::parse(value).map_err(not_a_port)?,
            "interfaces" => {
                for name in value.split([',', ' ']).filter(|name| !name.is_empty()) {
                    if !is_interface(name) {
                        return Err(format!("{} is not a valid interface name", quoted(name)));
                    }
                    self.interfaces.push(name.to_owned());
                }
                if self.interfaces.is_empty() {
                    return Err("an empty list would guard every interface".into());
                }
            }
            "mark" => self.mark = mark(value).ok_or("expected one bit, such as 0x08000000")?,
            "user" if value.is_empty() => return Err("expected a user name".into()),
            "user" => self.user = Some(value.to_owned()),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn log(value: &str) -> Option<Log> {
    Some(match value {
        "auto" => Log::Auto,
        "kmsg" | "/dev/kmsg" => Log::Kmsg,
        "-" => Log::Input,
        path if path.starts_with('/') && !path.ends_with('/') => Log::File(path.into()),
        group => Log::Nflog(group.strip_prefix("nflog:")?.parse().ok()?),
    })
}

/// Returns whether `name` is a valid interface name (`dev_valid_name` in net/core/dev.c) that needs no quoting.
pub fn is_interface(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
    (1..=15).contains(&name.len()) && !name.starts_with(['.', '-']) && name.bytes().all(plain)
}

fn mark(value: &str) -> Option<u32> {
    let mark = match value.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok()?,
        None => value.parse().ok()?,
    };
    mark.is_power_of_two().then_some(mark)
}

/// Returns the path of the last configuration that worked. It is next to the directory of the profiles, to which
/// `directory` may contain only a link.
pub fn last_good(directory: &Path) -> PathBuf {
    let profiles = directory.join("profiles");
    profiles.canonicalize().unwrap_or(profiles).with_file_name("config.good")
}

/// Returns the config's `guard`, if it is not empty: the default ports of a new profile.
pub fn guard(directory: &Path) -> Result<Option<Ports>> {
    let (config, _) = Config::from_text(directory, &Config::read_text(directory)?)?;
    Ok(Some(config.guard).filter(|guard| !guard.is_empty()))
}

/// Prints a note if a daemon runs on `directory`, because it does not know new keys yet.
pub fn mention_reload(directory: &Path) {
    if daemon_runs(directory) {
        say::note(
            "the running daemon does not know these keys yet: systemctl reload knockknock-daemon, or send SIGHUP",
        );
    }
}

/// How often to try to take the lock: for a second. A program that looks whether a daemon runs holds it for a moment.
const LOCK_ATTEMPTS: u32 = 100;

/// Opens what the daemon on `directory` locks: a file or, where none can be made, the directory. A file system that has
/// become read-only keeps the file.
fn open_lock(directory: &Path) -> io::Result<File> {
    file::open_small(&directory.join(file::LOCK), false).or_else(|_| file::open(directory, libc::O_RDONLY))
}

/// Takes the lock of the daemon on `directory`.
pub fn lock(directory: &Path) -> io::Result<File> {
    let file = file::open_private(&directory.join(file::LOCK)).or_else(|_| open_lock(directory))?;
    for _ in 0..LOCK_ATTEMPTS {
        if file::try_lock(&file).is_ok() {
            return Ok(file);
        }
        thread::sleep(Duration::from_millis(10));
    }
    Err(io::ErrorKind::WouldBlock.into())
}

/// Returns whether a daemon holds the lock of `directory`.
pub fn daemon_runs(directory: &Path) -> bool {
    let locked = open_lock(directory).and_then(|file| file::try_lock(&file));
    locked.is_err_and(|cause| cause.kind() == io::ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_read() {
        let text = "[main]\ndelay=30 ; s\nERROR_WINDOW = 5\nresync_window: 0\nlog = nflog:7\nfirewall = iptables\nguard = 22, 443\n\
            interfaces = eth0 wan\nmark = 0x10\nuser = nobody\n";
        let (config, warnings) = Config::parse(text).unwrap();
        assert!(warnings.is_empty());
        assert_eq!(
            *config,
            Config {
                delay: 30,
                window: 5,
                resync_window: 0,
                log: Log::Nflog(7),
                firewall: Firewall::Iptables,
                guard: Ports::parse("22,443").unwrap(),
                interfaces: vec!["eth0".into(), "wan".into()],
                mark: 16,
                user: Some("nobody".into()),
            }
        );
    }

    #[test]
    fn an_empty_config_has_the_defaults() {
        assert_eq!(*Config::parse("").unwrap().0, Config::default());
    }

    #[test]
    fn settings_outside_main_give_a_warning() {
        assert_eq!(Config::parse("guard = 22\n").unwrap_err().0, 1);
        assert_eq!(Config::parse("\n[Main]\nguard = 22\n").unwrap_err().0, 2);
        let (config, warnings) = Config::parse("\n[other]\nguard = 22\n").unwrap();
        assert_eq!(*config, Config::default());
        assert_eq!(warnings, ["line 2: section \"other\" is ignored; only [main] is read"]);
    }

    #[test]
    fn duplicate_keys_are_joined_lists_or_errors() {
        let (config, _) = Config::parse("[main]\nguard = 22\nguard = 443\ninterfaces = a\ninterfaces = b c\n").unwrap();
        assert_eq!(config.guard, Ports::parse("22,443").unwrap());
        assert_eq!(config.interfaces, ["a", "b", "c"]);
        assert_eq!(Config::parse("[main]\nmark = 1\nmark = 1\n").unwrap_err().0, 3);
    }

    #[test]
    fn bad_values_are_named_with_their_line() {
        for bad in [
            "delay=0",
            "delay=901",
            "delay=x",
            "error_window=0",
            "log=kern.log",
            "log=/var/log/",
            "log=nflog:x",
            "firewall=pf",
            "guard=ssh",
            "interfaces=eth0;rm",
            "interfaces=abcdefghijklmnop",
            "interfaces= , ",
            "mark=3",
            "mark=0",
            "user=",
            "gaurd=22",
            "word",
        ] {
            assert_eq!(Config::parse(&format!("[main]\n\n{bad}\n")).unwrap_err().0, 3, "{bad}");
        }
    }
}
