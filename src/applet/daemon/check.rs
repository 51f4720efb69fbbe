//! `--check`: reads the configuration and prints what the daemon would do.

use super::setup::{self, left_out};
use super::{configuration, link_routes, privileges};
use crate::error::{Error, Result, quoted};
use crate::klog;
use crate::ports::Ports;
use crate::profile::{KeyIndex, Profile};
use crate::say;
use crate::sys::{listeners, sandbox};
use std::fmt::Write;
use std::path::Path;

/// Checks the configuration in `directory` and prints the result. Changes nothing.
pub fn run(directory: &Path) -> Result<()> {
    setup::check_directory(directory)?;
    let mut setup = configuration::read(directory)?;
    setup.index.must_not_be_empty(directory)?;
    setup.log_warnings();
    let mut text = String::new();
    let mut keys = KeyIndex::default();
    let mut unusable = setup.index.left_out.len();
    let ports = |ports: &Ports| if ports.is_empty() { "none".to_owned() } else { ports.to_string() };
    let _ = writeln!(text, "log            {}", klog::describe(&setup.config.log));
    let _ = writeln!(text, "firewall       {}", setup.backend.name());
    let _ = writeln!(text, "turnstile      {}", setup.backend.turnstile());
    let _ = writeln!(text, "guarded ports  {}", ports(&setup.rules.guard));
    let interfaces = setup.rules.join_interfaces(", ");
    let _ =
        writeln!(text, "guarded on     {}", if interfaces.is_empty() { "every interface but lo" } else { &interfaces });
    let _ = writeln!(text, "knock ports    {}", ports(&setup.rules.knock_ports));
    let _ = writeln!(text, "delay          {} s", setup.config.delay);
    let _ = writeln!(text, "error_window   {}", setup.config.window);
    let _ = writeln!(text, "resync_window  {}", setup.config.resync_window);
    let _ = writeln!(text, "mark           {:#010x}", setup.rules.mark);
    let _ = writeln!(text, "watcher's user  uid {}", privileges::watcher_user(&setup.config)?.uid);
    let _ = writeln!(text, "confined       {}", sandbox::describe());
    for (found, profile_config) in &setup.index.profiles {
        match Profile::load(found).and_then(|profile| keys.add(&profile).map(|()| profile)) {
            Ok(profile) => {
                let ports = setup.backend.opens(&setup.rules, profile_config.ports.as_ref());
                let opens = profile.opens(&ports);
                let _ = writeln!(
                    text,
                    "profile        {}: {}, opens {opens}",
                    quoted(&found.name),
                    profile_config.target()
                );
            }
            Err(error) => {
                unusable += 1;
                say::warning(&left_out(found, &error));
            }
        }
    }
    for found in &setup.index.disabled {
        let _ = writeln!(text, "disabled       {}, by its name", quoted(&found.name));
    }
    say::print(&text)?;
    setup.log_findings();
    for &prefix in &setup.rules.links {
        if let Some(finding) = link_routes::examine(prefix) {
            finding.log();
        }
    }
    for port in setup.rules.guard.iter().filter(|&port| listeners::receives_udp(port)) {
        say::warn(format_args!(
            "a UDP socket listens on guarded port {port}, which stays reachable: the guard covers TCP only"
        ));
    }
    if unusable > 0 {
        let (profiles, them) = if unusable == 1 { ("profile", "it") } else { ("profiles", "them") };
        return Err(Error::refused(format!("{unusable} {profiles} would be ignored"))
            .advise(format!("correct {them} as described above")));
    }
    Ok(())
}
