//! genprofile: a new profile, with fresh keys.

use crate::config;
use crate::error::{Error, Result};
use crate::ports::{self, Ports};
use crate::profile::{self, Fresh, ProfileConfig};
use crate::say;
use crate::wire::Wire;
use std::path::Path;

/// Makes profile `name` with `knock_port` under `directory`; `allowed` are the only ports that its
/// key may open, by default the config's `guard`.
pub fn run(directory: &Path, name: &str, knock_port: &str, allowed: Option<&str>, wire: Wire) -> Result<()> {
    if ports::port(name).is_some() && ports::port(knock_port).is_none() {
        return Err(Error::Usage(format!(
            "the name comes first, then the knock port: knockknock-genprofile {knock_port} {name}"
        )));
    }
    let knock_port = config::typed_port(knock_port)?;
    let allowed = match allowed {
        Some(text) => Some(
            Ports::parse(text)
                .map_err(|word| Error::Usage(format!("{word:?} in --ports is no port from 1 to 65535")))?,
        ),
        None => config::guard(directory)?,
    };
    if allowed.as_ref().is_some_and(Ports::is_empty) {
        return Err(Error::Usage("--ports is empty: such a key could open nothing".into()));
    }
    let profile_config = ProfileConfig { knock_port, ports: allowed, wire };
    let path = profile::create(&directory.join("profiles"), &Fresh { name, config: &profile_config })?;
    say::note(format_args!("made {path:?}; copy it to the client as ~/.knockknock/SERVERHOST"));
    Ok(())
}
