//! Reports the state of a server: the daemon's record, the openings in the kernel, and the profiles.

use super::profiles::add_of_server;
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
    let read = Config::read(directory)
        .and_then(|text| Ok((Config::from_text(directory, &text)?.0, Some(checksum(text.as_bytes())))));
    let mut unusable = None;
    let (config, config_sum) = read.unwrap_or_else(|error| {
        unusable = Some([Value::Text(error.to_string())]);
        // A running daemon goes on with the last one that worked.
        let kept = file::read_small(&config::last_good(directory)).unwrap_or_default();
        let kept = Config::from_text(directory, &String::from_utf8_lossy(&kept));
        (kept.unwrap_or_default().0, None)
    });
    let (status, profiles) = (status::read(directory).unwrap_or_default(), directory.join("profiles"));
    // Try the lock only if the process exists, because a daemon that is starting would find the lock taken.
    let running = Path::new("/proc").join(status.daemon.to_string()).exists() && config::daemon_runs(directory);
    let (now, uptime) = (output.now, clock::uptime());
    // Converts from time since boot to time since 1970.
    let time = |since_boot: u64| (now + since_boot).saturating_sub(uptime);
    let changed = config_sum != Some(status.config) || profile::set_checksum(&profiles) != status.profiles;
    let live = firewall::live_openings(&config.guard);
    let log = klog::resolve(&config.log).unwrap_or(config.log);
    let daemon = [
        Value::Flag(running, true),
        if running { Value::Number(status.daemon.into()) } else { Value::Nothing },
        if running { Value::Time(time(status.since)) } else { Value::Nothing },
        Value::Flag(running && status.is_replaced(), false),
        Value::Flag(running && changed, false),
        Value::Text(klog::describe(&log)),
        live.as_ref().map_or(Value::Nothing, |(name, _)| Value::Text((*name).into())),
        Value::Ports(Some(config.guard)),
        Value::Text(sandbox::describe()),
    ];
    output.object("daemon", DAEMON, &daemon);
    let trial = status::read_trial(directory, status.daemon).filter(|_| running).map(|(state, end)| {
        let left = end.saturating_sub(uptime);
        [Value::Text(state), if left > 0 { Value::Seconds(left) } else { Value::Nothing }]
    });
    output.object("configuration", &["error"], unusable.as_ref().map_or(&[], |values| values));
    output.object("trial", &["state", "left"], trial.as_ref().map_or(&[], |values| values));
    output.object("counts", &COUNTS, &status.counts.map(Value::Number));
    let problem = status.problem.map(|(at, text)| [Value::Time(time(at)), Value::Text(text)]);
    output.object("problem", &["time", "text"], problem.as_ref().map_or(&[], |values| values));
    let from = |name: &str| {
        let name = say::escaped(name);
        status.knocks.iter().find(|knock| knock.profile == name).map(|knock| knock.source.to_string())
    };
    add_of_server(&profiles, &from, output)?;
    let mut openings = Vec::new();
    for opening in live.map_or(Vec::new(), |(_, openings)| openings) {
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
