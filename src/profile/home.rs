//! A client's profiles: their owner, their directory, and the profile for a host. All programs that knock use this
//! module.

use super::set::{Found, find, is_same_host, list};
use crate::error::{Error, Result, quoted};
use crate::search;
use crate::sys::privilege::{self, Account, User};
use crate::sys::process;
use std::fmt;
use std::path::{Path, PathBuf};

/// The directory of profiles in a home directory.
const NAME: &str = ".knockknock";

/// A client's directory of profiles.
pub struct ProfileHome {
    /// The user to switch to before reading a profile; `None` to stay the current user.
    pub user: Option<User>,
    /// The directory of the profiles.
    pub directory: PathBuf,
    /// The profiles in root's home if the program was started with sudo; version 0.8 read those.
    root_profiles: Vec<Found>,
}

impl ProfileHome {
    /// Finds the profiles of the user who typed the command: in `directory`, or in the user's home.
    pub fn for_caller(directory: Option<&Path>) -> Result<Box<Self>> {
        let user = caller()?;
        let directory = match (directory, user) {
            (Some(directory), _) => return Ok(Self::at(user, directory.into())),
            (None, Some(user)) => home_of(user.uid)?,
            (None, None) => own_home()?,
        };
        let mut found = Self::at(user, directory);
        // A set-uid program must not reveal which profiles root has.
        if found.user.is_some() && privilege::real_uid() == 0 {
            let of_root = Account::with_uid(0).map_or("/root".into(), |root| root.home).join(NAME);
            found.root_profiles = list(&of_root).unwrap_or_default().profiles;
        }
        Ok(found)
    }

    /// Finds the profiles of the user called `name`: in `directory`, or in the user's home.
    pub fn for_user(name: &str, directory: Option<&Path>) -> Result<Box<Self>> {
        let account = Account::named(name).ok_or_else(|| Error::usage(format!("there is no user {}", quoted(name))))?;
        let user = Some(account.user);
        let directory = match directory {
            Some(directory) => directory.into(),
            None => home(Some(account), format_args!("user {}", quoted(name)))?,
        };
        Ok(Self::at(user, directory))
    }

    fn at(user: Option<User>, directory: PathBuf) -> Box<Self> {
        Box::new(Self { user, directory, root_profiles: Vec::new() })
    }

    /// Returns the profile for `host`, or `None` if there is none. It is an error if the directory cannot be read, if
    /// `host` is not a host name, or if the profile is in root's home instead.
    pub fn find(&self, host: &str) -> Result<Option<Box<Found>>> {
        if let Some(found) = find(&self.directory, host)? {
            return Ok(Some(found));
        }
        check_spelling(host)?;
        match self.root_profiles.iter().find(|found| is_same_host(&found.name, host)) {
            Some(found) => {
                let (host, directory) = (quoted(host), quoted(&self.directory));
                Err(self.root_has_it(&found.path, &format!("no profile for {host} in {directory}")))
            }
            None => Ok(None),
        }
    }

    /// Returns the error for a host without a profile.
    pub fn missing(&self, host: &str) -> Error {
        let error = Error::refused(format!("no profile for {} in {}", quoted(host), quoted(&self.directory)));
        let disabled = list(&self.directory).unwrap_or_default().disabled;
        if let Some(found) = disabled.iter().find(|found| is_same_host(found.enabled_name(), host)) {
            let enabled = self.directory.join(found.enabled_name());
            let (path, enabled) = (quoted(&found.path), quoted(&enabled));
            return error.advise(format!("it is disabled by its name; to enable it: mv {path} {enabled}"));
        }
        error.advise(format!(
            "on the server, as root: knockknock invite NAME {host}; then paste the line that it prints into: knockknock accept"
        ))
    }

    /// Returns remarks for a program that starts with these profiles: that there are none, which are ignored because of
    /// their names, and which are in root's home.
    pub fn remarks(&self) -> Result<Vec<String>> {
        let listing = list(&self.directory)?;
        let mut remarks = Vec::new();
        if listing.profiles.is_empty() {
            remarks.push(format!("no profiles in {}: no connection will start with a knock", quoted(&self.directory)));
        }
        for found in &listing.disabled {
            remarks.push(format!("profile {} is disabled by its name", quoted(&found.name)));
        }
        for (found, error) in &listing.left_out {
            remarks.push(format!("profile {} is ignored: {error}", quoted(&found.name)));
        }
        for found in &self.root_profiles {
            if listing.profiles.iter().all(|own| own.name != found.name) {
                let error = self.root_has_it(&found.path, &format!("profile {} is ignored", quoted(&found.name)));
                remarks.push(format!("{error}; {}", error.advice().unwrap_or_default()));
            }
        }
        Ok(remarks)
    }

    fn root_has_it(&self, path: &Path, what: &str) -> Error {
        let owner = self.user.map_or_else(String::new, |user| format!("{}:{}", user.uid, user.gid));
        let (to, path) = (quoted(&self.directory), quoted(path));
        // A copy would have a counter of its own, and both would use the same values.
        Error::refused(format!("{what}: root has it in {path}"))
            .advise(format!("move it, as root: mkdir -p -m 700 {to} && mv {path} {to} && chown -R {owner} {to}"))
    }
}

/// Drops all privileges: switches to `user`, or stays the current user without capabilities.
pub fn drop_privileges(user: Option<User>) -> Result<()> {
    let dropped = match user {
        Some(user) => privilege::become_user(user, &[user.gid], &[]),
        None => privilege::keep_only(&[]),
    };
    dropped.map_err(|cause| Error::system("drop root's privileges", cause))
}

/// Returns the user who typed the command, if this process runs as another user.
fn caller() -> Result<Option<User>> {
    let (real, effective) = (privilege::real_uid(), privilege::effective_uid());
    if real != effective {
        return Ok(Some(User { uid: real, gid: privilege::real_gid() }));
    }
    if real != 0 {
        return Ok(None);
    }
    let user = if let Some(uid) = variable("SUDO_UID") {
        user("SUDO_UID", &uid, variable("SUDO_GID"))?
    } else if let Some(name) = variable("DOAS_USER") {
        Account::named(&name).ok_or_else(|| unknown("DOAS_USER", &name))?.user
    } else if let Some(uid) = variable("PKEXEC_UID") {
        user("PKEXEC_UID", &uid, None)?
    } else {
        return Ok(None);
    };
    Ok(Some(user).filter(|user| user.uid != 0))
}

/// Returns the user `uid` with the group `gid`, or with the group of its account.
fn user(source: &str, uid: &str, gid: Option<String>) -> Result<User> {
    let id = |text: &str| text.parse::<u32>().ok();
    let number = id(uid).ok_or_else(|| unknown(source, uid))?;
    match gid.and_then(|gid| id(&gid)) {
        Some(gid) => Ok(User { uid: number, gid }),
        None => Account::with_uid(number).map(|account| account.user).ok_or_else(|| unknown(source, uid)),
    }
}

fn unknown(source: &str, value: &str) -> Error {
    Error::refused(format!("{source} is {}, and there is no such user", quoted(value)))
        .advise(format!("to knock as root: env -u {source} knockknock ..."))
}

fn variable(name: &str) -> Option<String> {
    process::variable(name).filter(|value| !value.is_empty()).map(|value| value.to_string_lossy().into_owned())
}

/// Returns the profile directory of this process's user: in `$HOME`, or in the home of the account.
fn own_home() -> Result<PathBuf> {
    match process::variable("HOME").map(Path::new).filter(|home| home.is_absolute()) {
        Some(home) => Ok(home.join(NAME)),
        None => home_of(privilege::real_uid()),
    }
}

fn home_of(uid: u32) -> Result<PathBuf> {
    home(Account::with_uid(uid), format_args!("user {uid}"))
}

fn home(account: Option<Account>, who: fmt::Arguments<'_>) -> Result<PathBuf> {
    let home = account.map(|account| account.home).filter(|home| home.is_absolute());
    home.map(|home| home.join(NAME)).ok_or_else(|| {
        Error::refused(format!("{who} has no home directory")).advise("name the directory of the profiles with --dir")
    })
}

/// Refuses a string that is not a host name, and says which part to remove.
pub(super) fn check_spelling(host: &str) -> Result<()> {
    if host.is_empty() {
        return Err(Error::usage("the name of the host is empty"));
    }
    let (_, after_scheme) = search::split_once(host, "://").unwrap_or(("", host));
    let (_, after_user) = search::split_last(after_scheme, b'@').unwrap_or(("", after_scheme));
    let (name, path) = after_user.split_once('/').unwrap_or((after_user, ""));
    // An IPv6 address contains colons, and has a port only after brackets.
    let is_port = |name: &str, port: &str| {
        (!name.contains(':') || name.ends_with(']')) && port.bytes().all(|byte| byte.is_ascii_digit())
    };
    let (name, port) = search::split_last(name, b':').filter(|(name, port)| is_port(name, port)).unwrap_or((name, ""));
    let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let is_name = name.contains(|char| char != '.');
    if name == host && is_name {
        return Ok(());
    }
    let error = Error::refused(format!("{} is not the name of a host", quoted(host)));
    // The text before a path may be anything, so advice would be a guess.
    if !is_name || !path.is_empty() && after_scheme == host {
        return Err(error);
    }
    let port = if port.is_empty() { "" } else { ", and the port as an argument of its own" };
    Err(error.advise(format!("write {}{port}", quoted(name))))
}
