//! `--check`: reads everything and says what the daemon would do.

use super::privileges;
use super::setup::{self, Setup, say_left_out};
use crate::error::{Error, Result};
use crate::klog;
use crate::profile::Profile;
use crate::say;
use crate::sys::sandbox;
use std::fmt::Write;
use std::path::Path;

/// Checks the configuration in `directory` and prints what it comes to. Nothing is changed.
pub fn run(directory: &Path) -> Result<()> {
    setup::open(directory)?;
    let setup = Setup::read(directory)?;
    let mut text = String::new();
    let mut left_out = setup.index.left_out.len();
    let ports = |ports: &crate::ports::Ports| if ports.is_empty() { "none".to_owned() } else { ports.to_string() };
    let _ = writeln!(text, "log            {}", klog::describe(&setup.config.log));
    let _ = writeln!(text, "firewall       {}", setup.backend.name());
    let _ = writeln!(text, "guarded ports  {}", ports(&setup.rules.guard));
    let interfaces = setup.rules.interfaces.join(", ");
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
        match Profile::load(found) {
            Ok(_) => {
                let opens =
                    profile_config.ports.as_ref().map_or("any port".to_owned(), |ports| format!("ports {ports}"));
                let _ = writeln!(
                    text,
                    "profile        {:?}: knock port {}, opens {opens}",
                    found.name, profile_config.knock_port
                );
            }
            Err(error) => {
                left_out += 1;
                say_left_out(found, &error);
            }
        }
    }
    say::answer(&text);
    for warning in setup.backend.foreign_rule_warnings(&setup.rules) {
        say::warn(warning);
    }
    if left_out > 0 {
        let (profiles, them) = if left_out == 1 { ("profile", "it") } else { ("profiles", "them") };
        return Err(Error::refused(format!("{left_out} {profiles} would be left out"))
            .advise(format!("correct {them} as said above")));
    }
    Ok(())
}
