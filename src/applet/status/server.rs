//! Reports the state of a server: the daemon's record, the openings in the kernel, and the profiles.

use super::profiles;
use super::table::{Output, Value};
use crate::config::{self, Config};
use crate::error::Result;
use crate::firewall;
use crate::klog;
use crate::profile;
use crate::say;
use crate::status::{self, COUNTS, checksum};
use crate::sys::{clock, file, sandbox};
use std::path::Path;

/// Adds everything that is known.
pub(super) fn add(directory: &Path, output: &mut Output) -> Result<()> {
    let text = Config::read_text(directory);
    let config_sum = text.as_ref().map_or(0, |text| checksum(text.as_bytes()));
    let mut unusable = Vec::new();
    let (config, _) = text.and_then(|text| Config::from_text(directory, &text)).unwrap_or_else(|error| {
        unusable.push(Value::Text(error.to_string()));
        // A running daemon goes on with the last one that worked.
        let kept = file::read_small(&config::last_good(directory)).unwrap_or_default();
        Config::from_text(directory, &String::from_utf8_lossy(&kept)).unwrap_or_default()
    });
    let (status, profiles) = (status::read(directory).unwrap_or_default(), directory.join("profiles"));
    // Try the lock only if the process exists, because a daemon that is starting would find the lock taken.
    let running = Path::new("/proc").join(status.daemon.to_string()).exists() && config::daemon_runs(directory);
    let (now, uptime) = (output.now, clock::uptime());
    // Converts from time since boot to time since 1970.
    let time = |since_boot: u64| (now + since_boot).saturating_sub(uptime);
    let changed =
        !unusable.is_empty() || config_sum != status.config || profile::checksum(&profiles) != status.profiles;
    let (firewall, live) = match firewall::live_openings(&config.guard) {
        Some((name, openings)) => (Value::Text(name.into()), openings),
        None => (Value::Nothing, Vec::new()),
    };
    let log = klog::resolve(&config.log).unwrap_or(config.log);
    let daemon = [
        Value::Flag { value: running, good: true },
        if running { Value::Number(status.daemon.into()) } else { Value::Nothing },
        if running { Value::Time(time(status.since)) } else { Value::Nothing },
        Value::Flag { value: running && status.is_replaced(), good: false },
        Value::Flag { value: running && changed, good: false },
        Value::Text(klog::describe(&log)),
        firewall,
        Value::Ports(Some(config.guard)),
        Value::Text(sandbox::describe()),
    ];
    output.object("daemon", DAEMON, &daemon);
    output.object("configuration", &["error"], &unusable);
    let mut trial = Vec::new();
    if let Some((state, end)) = status::read_trial(directory, status.daemon).filter(|_| running) {
        let left = end.saturating_sub(uptime);
        trial = vec![Value::Text(state.name().into()), if left > 0 { Value::Seconds(left) } else { Value::Nothing }];
    }
    output.object("trial", &["state", "left"], &trial);
    output.object("counts", &COUNTS, &status.counts.map(Value::Number));
    let mut problem = Vec::new();
    if let Some((at, text)) = status.problem {
        problem = vec![Value::Time(time(at)), Value::Text(text)];
    }
    output.object("problem", &["time", "text"], &problem);
    let from = |name: &str| {
        let name = say::escaped(name);
        status.knocks.iter().find(|knock| knock.profile == name).map(|knock| knock.source.to_string())
    };
    profiles::add(&profiles, profiles::OF_SERVER, &from, output)?;
    let mut openings = Vec::new();
    for opening in live {
        // iptables' lists have no timestamps, so use those of the last knocks in the daemon's record.
        let knock = status.knocks.iter().find(|knock| (knock.source, knock.port) == (opening.source, opening.port));
        let expires = knock.map_or(0, |knock| knock.time + u64::from(config.delay));
        if let Some(left) = opening.left.or(expires.checked_sub(uptime)) {
            let address = Value::Text(opening.source.to_string());
            openings.push(vec![Value::Number(opening.port.into()), address, Value::Seconds(left)]);
        }
    }
    output.list("openings", &["port", "address", "left"], &openings);
    Ok(())
}

const DAEMON: &[&str] =
    &["running", "pid", "since", "replaced", "needs_reload", "log", "firewall", "guard", "confined"];
