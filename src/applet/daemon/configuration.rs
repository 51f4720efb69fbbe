//! Reads the configuration, and keeps the last one that worked. A daemon whose configuration is unusable starts with
//! the last one that worked, because without a daemon nothing would guard the ports after a reboot.

use super::privileges;
use super::setup::{ProfileIndex, Setup};
use crate::config::{self, Config};
use crate::error::{Error, Result, quoted};
use crate::firewall::{Backend, InstalledRules, Rules};
use crate::ports::Ports;
use crate::sys::file;
use crate::{profile, say};
use std::fs;
use std::path::{Path, PathBuf};

/// Returns the path of the last configuration that worked. Only root may write to its directory.
fn kept_path(directory: &Path) -> Result<PathBuf> {
    let path = config::last_good(directory);
    profile::check_path(path.parent().unwrap_or(&path))?;
    Ok(path)
}

/// Stores the configuration of a daemon that is ready, unless its guard is on trial or has failed it.
pub(super) fn keep(directory: &Path, setup: &Setup) {
    if setup.fallback.is_some() || setup.rules.end_of_guard.is_some() {
        return;
    }
    if let Err(error) = write(directory, &setup.text) {
        say::error(&error);
    }
}

fn write(directory: &Path, text: &str) -> Result<()> {
    let (path, text) = (kept_path(directory)?, text.as_bytes());
    if file::read_small(&path).is_ok_and(|kept| kept == text) {
        return Ok(());
    }
    let new = path.with_file_name("config.new");
    // Never write to what is there: it may be a link or a FIFO.
    let _ = fs::remove_file(&new);
    file::create_private(&new, text)
        .and_then(|()| fs::rename(&new, &path))
        .map_err(|cause| Error::path("keep the configuration in", &path, cause))
}

/// Reads the configuration in `directory` and the config of each profile.
pub(super) fn read(directory: &Path) -> Result<Box<Setup>> {
    Setup::from_text(directory, text(directory)?)
}

/// Reads the configuration. A daemon may run without one, but not if one has worked: a power failure may have emptied
/// it.
fn text(directory: &Path) -> Result<String> {
    let text = Config::read_text(directory)?;
    let config = directory.join("config");
    if config.exists() {
        profile::check_path(&config)?;
    }
    if text.trim_ascii().is_empty() {
        let kept = kept_path(directory)?;
        if file::read_small(&kept).is_ok_and(|kept| !kept.trim_ascii().is_empty()) {
            return Err(Error::content(&config, 0, "is missing or empty, and one has worked")
                .advise(format!("write it again, or to start without one: rm {}", quoted(&kept))));
        }
    }
    Ok(text)
}

/// Returns the setup for a start: from the configuration or, if that is unusable, from the last one that worked or, if
/// there is none, with a guard on every port that a profile lists.
///
/// If the last one that worked is unusable too, its guard is made before the error is returned, unless the guard is to
/// be `on_trial`.
pub(super) fn for_start(directory: &Path, on_trial: bool) -> Result<Box<Setup>> {
    let kept = kept_path(directory).ok().and_then(|path| file::read_small(&path).ok());
    let kept = kept.map(|text| String::from_utf8_lossy(&text).into_owned());
    let kept = kept.filter(|text| Config::from_text(directory, text).is_ok());
    let tried = |text| {
        let setup = Setup::from_text(directory, text)?;
        // Removing the last profile of a working daemon must not open the ports.
        if kept.is_none() {
            setup.index.must_not_be_empty(directory)?;
        }
        // A reload leaves this to the watcher, because account lookups may be slow.
        privileges::watcher_user(&setup.config)?;
        Ok(setup)
    };
    let error = match text(directory).and_then(tried) {
        Err(error) => error,
        setup => return setup,
    };
    let (text, fallback) = match &kept {
        Some(kept) => (kept.clone(), "using the last one that worked"),
        None => {
            let Ok(index) = ProfileIndex::read(directory) else { return Err(error) };
            let listed = index.listed_ports();
            if listed.is_empty() {
                return Err(error);
            }
            (format!("[main]\nguard = {listed}\n"), "guarding every port that a profile lists")
        }
    };
    if let Ok(mut setup) = tried(text) {
        say::error(&error);
        setup.fallback = Some(fallback);
        return Ok(setup);
    }
    if let Some(text) = kept.filter(|_| !on_trial) {
        let (config, _) = Config::from_text(directory, &text)?;
        let rules = Rules::new(&config, Ports::default(), Vec::new());
        let (backend, mut installed) = (Backend::choose(config.firewall, &rules)?, InstalledRules::default());
        installed.make(backend, &rules, &mut || {})?;
        installed.disown();
        installed.restore(backend, &rules, &mut || {})?;
        say::warn("the guard of the last configuration that worked is active, and knocks open nothing");
    }
    Err(error)
}
