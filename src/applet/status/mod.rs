//! status: prints the state of the daemon, and its profiles.

mod profiles;
mod server;
mod table;

use crate::error::{Error, Result};
use crate::profile::{self, ProfileHome};
use crate::say;
use crate::sys::{clock, privilege};
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;
use table::Output;

/// The refresh interval of `--watch`.
const INTERVAL: Duration = Duration::from_secs(1);

/// The output options.
pub struct StatusOptions {
    /// Whether to print JSON.
    pub json: bool,
    /// Whether to refresh every second.
    pub watch: bool,
}

/// Checks that `directory`, which was typed, exists.
pub fn check(directory: &Path) -> Result<()> {
    fs::metadata(directory).map(drop).map_err(|cause| {
        let advice = "--dir needs the directory of the daemon's config, or of a client's profiles";
        Error::path("read", directory, cause).advise(advice)
    })
}

/// Returns whether `directory` belongs to a daemon and the caller is root, who may read it.
pub fn is_server(directory: &Path) -> bool {
    privilege::effective_uid() == 0 && directory.join("profiles").is_dir()
}

/// Prints the state of the daemon on `directory`.
pub fn server(directory: &Path, options: &StatusOptions) -> Result<()> {
    print(&|output| server::add(directory, output), options)
}

/// Prints a client's profiles.
pub fn client(home: &ProfileHome, options: &StatusOptions) -> Result<()> {
    profile::drop_privileges(home.user)?;
    home.remarks()?.iter().for_each(say::warn);
    print(&|output| profiles::add(&home.directory, profiles::OF_CLIENT, &|_| None, output), options)
}

fn print(add: &dyn Fn(&mut Output) -> Result<()>, options: &StatusOptions) -> Result<()> {
    let terminal = say::terminal();
    loop {
        let now = clock::now();
        let mut output = Output::new(options.json, terminal, now);
        add(&mut output)?;
        if options.watch && !options.json && terminal.is_some() {
            // Moves the cursor home and clears the screen.
            say::print("\x1b[H\x1b[2J")?;
        }
        say::print(&output.end())?;
        if !options.watch {
            return Ok(());
        }
        thread::sleep(INTERVAL);
    }
}
