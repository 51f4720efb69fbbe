//! Reports the profiles in a directory. It reads no key.

use super::table::{Output, Value};
use crate::error::Result;
use crate::profile::{self, Counter, Found, ProfileConfig, UNUSED};
use crate::say;
use crate::sys::file;
use std::path::Path;

/// Adds a client's profiles.
pub(super) fn add_of_client(directory: &Path, output: &mut Output) -> Result<()> {
    let keys = ["host", "knock_port", "wire", "ports", "counter", "last_knock"];
    output.list("profiles", &keys, &rows(directory, &|_| None)?);
    Ok(())
}

/// Adds a server's profiles, each with the source of its last knock.
pub(super) fn add_of_server(
    directory: &Path,
    from: &dyn Fn(&str) -> Option<String>,
    output: &mut Output,
) -> Result<()> {
    let keys = ["name", "knock_port", "wire", "ports", "counter", "last_knock", "from"];
    output.list("profiles", &keys, &rows(directory, from)?);
    Ok(())
}

fn rows(directory: &Path, from: &dyn Fn(&str) -> Option<String>) -> Result<Vec<Vec<Value>>> {
    let mut rows = Vec::new();
    for found in profile::list(directory)?.profiles {
        match row(&found, from(&found.name)) {
            Ok(row) => rows.push(row),
            Err(error) => say::error(&error),
        }
    }
    Ok(rows)
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
        Value::Number(config.knock_port.into()),
        Value::Text(config.wire.name().into()),
        Value::Ports(config.ports),
        counter.map_or(Value::Nothing, Value::Number),
        knocked,
        from.map_or(Value::Nothing, Value::Text),
    ])
}
