//! The setup of the supervisor: the configuration and the profile index.

use super::ipc::{CONFIG, OpenerLimits};
use crate::config::{self, Config};
use crate::error::{Error, Result, quoted};
use crate::firewall::{self, Backend, Finding, RuleWatch, Rules};
use crate::ports::Ports;
use crate::prefix::Prefix;
use crate::profile::{self, Found, Listing, ProfileConfig};
use crate::sys::links::{self, LinkWatch};
use crate::sys::{file, privilege, sandbox};
use crate::{klog, say};
use std::fs::File;
use std::io;
use std::path::Path;

/// Refuses to run as another user than root, because only root can make rules and switch users.
pub(super) fn must_be_root() -> Result<()> {
    if privilege::effective_uid() == 0 {
        return Ok(());
    }
    Err(Error::refused("the daemon must be started as root")
        .advise("it drops root before it reads anything from the network"))
}

/// The advice for a directory without profiles.
const CREATE_PROFILE: &str = "create a profile with: knockknock invite NAME HOST";

/// Checks that the directory of the config and the profiles can be opened.
pub(super) fn check_directory(directory: &Path) -> Result<()> {
    file::open(directory, libc::O_RDONLY).map(drop).map_err(|cause| {
        let advice = match cause.kind() {
            io::ErrorKind::PermissionDenied => "run as root",
            _ => CREATE_PROFILE,
        };
        Error::path("open", directory, cause).advise(advice)
    })
}

/// Takes the lock of the directory, because two daemons must not use the same counters.
pub(super) fn lock(directory: &Path) -> Result<File> {
    check_directory(directory)?;
    config::lock(directory).map_err(|_| {
        Error::refused(format!("another daemon is running on {}", quoted(directory)))
            .advise("stop it first, or send it SIGHUP to reload its configuration")
    })
}

/// The configuration and everything derived from it.
pub(super) struct Setup {
    /// The text of the configuration, which is sent to the watcher.
    pub(super) text: String,
    pub(super) config: Box<Config>,
    pub(super) backend: Backend,
    pub(super) rules: Box<Rules>,
    pub(super) limits: OpenerLimits,
    pub(super) index: Box<ProfileIndex>,
    /// Notifications of changes to our rules.
    pub(super) watch: RuleWatch,
    /// Notifications of interface changes, if the guard applies to named interfaces.
    pub(super) links: Option<LinkWatch>,
    /// The named interfaces that do not exist.
    missing: Vec<String>,
    /// Problems that do not stop the daemon and have not been logged yet.
    pub(super) warnings: Vec<Error>,
    /// A description of the configuration that replaces an unusable one.
    pub(super) fallback: Option<&'static str>,
}

impl Setup {
    /// Parses the configuration `text` of `directory`, and reads the config of each profile.
    pub(super) fn from_text(directory: &Path, text: String) -> Result<Box<Self>> {
        // The conversion to UTF-8 replaces each invalid byte by three.
        let path = directory.join("config");
        if text.len() > CONFIG {
            return Err(Error::content(&path, 0, format!("is longer than {CONFIG} bytes")));
        }
        let (mut config, config_warnings) = Config::from_text(directory, &text)?;
        let mut warnings = Vec::new();
        for warning in &config_warnings {
            warnings.push(Error::refused(format!("{}, {warning}", quoted(&path))));
        }
        let index = ProfileIndex::read(directory)?;
        for (found, error) in &index.left_out {
            warnings.push(left_out(found, error));
        }
        warnings.append(&mut index.warnings(&config.guard));
        config.log = klog::resolve(&config.log)?;
        if let Some(warning) = klog::check(&config.log)? {
            let advice =
                "check that \"log\" in the config names the file to which syslogd writes the kernel's messages";
            warnings.push(Error::refused(warning).advise(advice));
        }
        let rules = Box::new(Rules::new(&config, index.knock_ports(), index.links()));
        let backend = Backend::choose(config.firewall, &rules)?;
        if config.guard.is_empty() && !backend.can_open_any() {
            let why = "iptables opens guarded ports only, and \"guard\" is empty: knocks open nothing";
            warnings.push(Error::refused(why).advise("set \"guard\" in the config, or use nftables"));
        }
        for (found, port) in index.unopenable(|port| backend.can_open(&rules, port)) {
            let name = &found.name;
            let why = format!("iptables cannot open port {port} (profile {}): it is not in \"guard\"", quoted(name));
            warnings.push(Error::refused(why));
        }
        let limits = OpenerLimits { allowed: index.allowed(), guard: config.guard.clone() };
        // Subscribe before listing, so that no change is missed.
        let watched = (!config.interfaces.is_empty()).then(LinkWatch::new).transpose();
        let links = watched.map_err(|cause| Error::system("watch the network interfaces", cause))?;
        let (watch, missing) = (RuleWatch::new()?, Vec::new());
        let setup =
            Self { text, config, backend, rules, limits, index, watch, links, missing, warnings, fallback: None };
        let mut setup = Box::new(setup);
        setup.follow_links()?;
        if !backend.can_open_any() {
            setup.warnings.append(&mut firewall::vrf_warnings());
        }
        Ok(setup)
    }

    /// Lists the interfaces that the guard applies to and warns about changes. Returns whether the rules must be made
    /// again for other interfaces.
    pub(super) fn follow_links(&mut self) -> Result<bool> {
        let Some(watch) = &self.links else { return Ok(false) };
        watch.drain();
        let links = links::list().map_err(|cause| Error::system("list the network interfaces", cause))?;
        let mut missing = Vec::new();
        let exists = |name| links.iter().any(|link| firewall::is_called(link, name));
        for name in self.config.interfaces.iter().filter(|name| !exists(name)) {
            if !self.missing.contains(name) {
                let name = quoted(name);
                let why = format!("interface {name} does not exist: the guard will apply to it when it appears");
                let advice = "\"ip link\" shows the names for \"interfaces\" in the config";
                self.warnings.push(Error::refused(why).advise(advice));
            }
            missing.push(name.clone());
        }
        self.missing = missing;
        let (interfaces, pairs) = firewall::with_further_names(&self.config.interfaces, &links);
        for (name, relation, further) in &pairs {
            if !self.rules.interfaces.iter().any(|on| on == further) {
                let advice = format!("write {further} in \"interfaces\" in the config");
                let (name, further) = (quoted(name), quoted(further));
                let why = format!("interface {name} is {relation} of {further}: the guard also applies to {further}");
                self.warnings.push(Error::refused(why).advise(advice));
            }
        }
        let changed = interfaces != self.rules.interfaces;
        self.rules.interfaces = interfaces;
        Ok(changed)
    }

    /// Returns the rules of other programs that conflict with ours, each with advice.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let mut ports = self.index.listed_ports();
        ports.extend(self.rules.guard.iter());
        self.backend.foreign_findings(&self.rules, &ports)
    }

    /// Logs the conflicting rules of other programs.
    pub(super) fn log_findings(&self) {
        for finding in &self.findings() {
            finding.log();
        }
    }

    /// Logs the problems that do not stop the daemon.
    pub(super) fn log_warnings(&mut self) {
        for warning in self.warnings.drain(..) {
            say::warning(&warning);
        }
    }

    /// Logs that the daemon is ready, a summary of its setup, and the conflicting rules of other programs.
    pub(super) fn log_ready(&self) {
        self.log_findings();
        let profiles = match self.index.profiles.len() {
            1 => "1 profile".to_owned(),
            count => format!("{count} profiles"),
        };
        for found in &self.index.disabled {
            say::note(format_args!("profile {} is disabled by its name", quoted(&found.name)));
        }
        say::note(format_args!("confined: {}", sandbox::describe()));
        say::note(format_args!("turnstile: {}", self.backend.turnstile()));
        say::note(format_args!(
            "ready: reads {}, guards {} with {}, {profiles}",
            klog::describe(&self.config.log),
            self.rules.guard.describe(),
            self.backend.name(),
        ));
        if let Some(fallback) = self.fallback {
            say::warn(format_args!("the configuration is unusable, see above: {fallback}"));
        }
    }
}

/// The profiles in a directory as the supervisor knows them: names and configs, no keys.
pub(super) struct ProfileIndex {
    /// Names and configs, ordered by knock port.
    pub(super) profiles: Vec<(Found, Box<ProfileConfig>)>,
    /// Profiles that cannot be used, and why.
    pub(super) left_out: Vec<(Found, Error)>,
    /// Disabled profiles.
    pub(super) disabled: Vec<Found>,
}

impl ProfileIndex {
    /// Reads the config of every profile in `directory`. Reads no secrets.
    pub(super) fn read(directory: &Path) -> Result<Box<Self>> {
        profile::check_path(directory)?;
        let directory = directory.join("profiles");
        if directory.exists() {
            profile::check_path(&directory)?;
        }
        let Listing { profiles, disabled, mut left_out } = *profile::list(&directory)?;
        let mut index = Box::new(Self { profiles: Vec::new(), left_out: Vec::new(), disabled });
        for found in profiles {
            let config = profile::check_path(&found.path).and_then(|()| ProfileConfig::load(&found.path));
            index.add(found, config);
        }
        index.left_out.append(&mut left_out);
        Ok(index)
    }

    /// Adds a profile in the order of the knock ports, after others with the same knock port.
    fn add(&mut self, found: Found, config: Result<Box<ProfileConfig>>) {
        match config {
            Ok(config) => {
                let place = self.profiles.partition_point(|(_, other)| other.knock_port <= config.knock_port);
                self.profiles.insert(place, (found, config));
            }
            Err(error) => self.left_out.push((found, error)),
        }
    }

    fn knock_ports(&self) -> Ports {
        self.profiles.iter().map(|(_, config)| config.knock_port).filter(|&port| port != 0).collect()
    }

    /// Returns the prefixes of links.
    fn links(&self) -> Vec<Prefix> {
        self.profiles.iter().filter_map(|(_, config)| config.wire.prefix()).collect()
    }

    /// Returns the ports that at least one profile may open; `None` means any.
    fn allowed(&self) -> Option<Ports> {
        self.profiles.iter().all(|(_, config)| config.ports.is_some()).then(|| self.listed_ports())
    }

    /// Returns the ports that profiles list.
    pub(super) fn listed_ports(&self) -> Ports {
        let mut ports = Ports::default();
        for (_, config) in &self.profiles {
            ports.extend(config.listed().iter().copied());
        }
        ports
    }

    /// Refuses a directory without profiles, valid or damaged, because the guard would lock everybody out.
    pub(super) fn must_not_be_empty(&self, directory: &Path) -> Result<()> {
        if !self.profiles.is_empty() || !self.left_out.is_empty() {
            return Ok(());
        }
        let why = format!("there is no profile in {}: nobody could knock", quoted(&directory.join("profiles")));
        Err(Error::refused(why).advise(CREATE_PROFILE))
    }

    /// Returns warnings about combinations of guard and profiles that are probably unintended.
    fn warnings(&self, guard: &Ports) -> Vec<Error> {
        let (allowed, mut closed) = (self.allowed(), guard.clone());
        closed.retain(&|port| allowed.as_ref().is_some_and(|allowed| !allowed.contains(port)));
        let mut warnings = Vec::new();
        let advice = "correct \"guard\" in the config, or \"ports\" in a profile's";
        if guard.is_empty() {
            let why = "\"guard\" is empty: no port is closed, unless by another firewall";
            warnings.push(Error::refused(why).advise(advice));
        }
        if !closed.is_empty() {
            let stay = if closed.as_slice().len() == 1 { "it stays" } else { "they stay" };
            let why = format!("no profile may open guarded {}: {stay} closed", closed.describe());
            warnings.push(Error::refused(why).advise(advice));
        }
        warnings
    }

    /// Returns the listed ports that cannot be opened, with their profiles.
    fn unopenable(&self, can_open: impl Fn(u16) -> bool) -> Vec<(&Found, u16)> {
        let mut ports = Vec::new();
        for (found, config) in &self.profiles {
            for &port in config.listed().iter().filter(|&&port| !can_open(port)) {
                ports.push((found, port));
            }
        }
        ports
    }
}

/// Logs why a configuration is not used.
pub(super) fn report_unchanged(error: &Error) {
    say::error(error);
    say::warn("keeping the previous configuration");
}

/// Describes why a profile is ignored.
pub(super) fn left_out(found: &Found, error: &Error) -> Error {
    let name = quoted(&found.name);
    Error::refused(format!("profile {name} is ignored: {error}")).advise(error.advice().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(profiles: &[(&str, &str)]) -> ProfileIndex {
        let mut index = ProfileIndex { profiles: Vec::new(), left_out: Vec::new(), disabled: Vec::new() };
        for (name, config) in profiles {
            let config = ProfileConfig::parse(&format!("[main]\n{config}"));
            let found = Found { name: (*name).into(), path: name.into() };
            index.add(found, config.map_err(|(_, why)| Error::refused(why)));
        }
        index
    }

    fn names<T>(list: &[(Found, T)]) -> Vec<&str> {
        list.iter().map(|(found, _)| found.name.as_str()).collect()
    }

    #[test]
    fn profiles_may_share_a_knock_port() {
        let index = index(&[("ann", "knock_port = 9"), ("bob", "knock_port = 7"), ("cid", "knock_port = 9")]);
        let names: Vec<_> = index.profiles.iter().map(|(found, _)| found.name.as_str()).collect();
        assert_eq!(names, ["bob", "ann", "cid"]);
        assert!(index.left_out.is_empty());
        assert_eq!(index.knock_ports().to_string(), "7,9");
    }

    #[test]
    fn links_have_prefixes_and_no_knock_port() {
        let links = "links = 2001:db8:0:ff::/64\nports = 22";
        let index = index(&[("ann", links), ("bob", "knock_port = 7"), ("cid", links)]);
        assert_eq!((index.knock_ports().to_string(), index.links().len()), ("7".to_owned(), 2));
    }

    #[test]
    fn a_profile_without_a_usable_config_is_left_out() {
        let index = index(&[("ann", "knock_port = 0"), ("bob", "knock_port = 7")]);
        assert_eq!((names(&index.profiles), names(&index.left_out)), (vec!["bob"], vec!["ann"]));
    }

    #[test]
    fn the_opener_is_limited_to_the_ports_that_profiles_list() {
        let two = [("ann", "knock_port = 7\nports = 22"), ("bob", "knock_port = 8\nports = 443")];
        assert_eq!(index(&two).allowed(), Some(Ports::from_iter([22, 443])));
        assert_eq!(index(&[two[0], ("old", "knock_port = 9")]).allowed(), None, "a profile without a list");
        assert_eq!(index(&[]).allowed(), Some(Ports::default()));
    }

    #[test]
    fn a_guarded_port_without_a_profile_gives_a_warning() {
        let web = index(&[("web", "knock_port = 7\nports = 443")]);
        let warned = |guard: &str| web.warnings(&Ports::parse(guard).unwrap());
        assert!(warned("443").is_empty());
        assert!(warned("22,443")[0].to_string().contains("port 22:"));
        assert!(warned("")[0].to_string().contains("is empty"));
        assert!(index(&[("old", "knock_port = 9")]).warnings(&Ports::parse("22").unwrap()).is_empty());
        assert!(!index(&[("bad", "")]).warnings(&Ports::parse("22").unwrap()).is_empty());
    }

    #[test]
    fn a_damaged_profile_counts_as_a_profile() {
        assert!(index(&[]).must_not_be_empty(Path::new("/nowhere")).is_err());
        assert!(index(&[("bad", "")]).must_not_be_empty(Path::new("/nowhere")).is_ok());
    }

    #[test]
    fn listed_ports_that_cannot_be_opened_are_found() {
        let index = index(&[("ann", "knock_port = 7\nports = 22,443"), ("old", "knock_port = 9")]);
        let unopenable: Vec<_> =
            index.unopenable(|port| port == 22).into_iter().map(|(found, port)| (found.name.as_str(), port)).collect();
        assert_eq!(unopenable, [("ann", 443)]);
    }
}
