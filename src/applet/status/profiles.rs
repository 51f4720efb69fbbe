//! Reports the profiles in a directory. It reads no key.

use super::table::{Output, Value};
use crate::error::Result;
use crate::profile::{self, Counter, Found, ProfileConfig, UNUSED};
use crate::say;
use crate::sys::file;
use std::path::Path;

/// The keys of a client's profiles.
pub(super) const OF_CLIENT: &[&str] = &["host", "knock_port", "wire", "ports", "counter", "last_knock"];
/// The keys of a server's profiles.
pub(super) const OF_SERVER: &[&str] = &["name", "knock_port", "wire", "ports", "counter", "last_knock", "from"];

/// Adds profiles with those keys. `from` returns the source of a profile's last knock.
pub(super) fn add(
    directory: &Path,
    keys: &[&str],
    from: &dyn Fn(&str) -> Option<String>,
    output: &mut Output,
) -> Result<()> {
    let mut rows = Vec::new();
    for found in &profile::list(directory)?.profiles {
        match row(found, from(&found.name)) {
            Ok(row) => rows.push(row),
            Err(error) => say::error(&error),
        }
    }
    output.list("profiles", keys, &rows);
    Ok(())
}

fn row(found: &Found, from: Option<String>) -> Result<Vec<Value>> {
    let config = ProfileConfig::load(&found.path)?;
    let path = found.path.join("counter");
    let bytes = file::read_small(&path).unwrap_or_default();
    let counter = Counter::parse(&bytes);
    // The counter file is written for each knock.
    let (knocked, from) = match counter {
        // The daemon may remember a knock with the profile's old keys.
        Some(next) if next == 0 || bytes == UNUSED => (Value::Never, None),
        Some(_) => (file::modified(&path).map_or(Value::Nothing, Value::Time), from),
        None => (Value::Nothing, from),
    };
    Ok(vec![
        Value::Text(found.name.clone()),
        Some(config.knock_port).filter(|&port| port != 0).map_or(Value::Nothing, |port| Value::Number(port.into())),
        Value::Text(config.wire.name().into()),
        Value::Ports(config.ports),
        counter.map_or(Value::Nothing, Value::Number),
        knocked,
        from.map_or(Value::Nothing, Value::Text),
    ])
}
