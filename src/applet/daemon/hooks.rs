//! Hooks for tests, in builds with the feature `hooks`. Otherwise every function is empty.
//!
//! Environment variables select a hook. `KNOCKKNOCK_STOP="watcher: stored"` makes the watcher wait there until it is
//! killed. `KNOCKKNOCK_ATTEMPT="watcher: execve"` makes it try a forbidden operation once it is confined and log the
//! outcome; `"watcher: stored: execve"` tries it at that hook.

/// Marks a place in a process, at which a test can stop the process.
#[cfg(not(feature = "hooks"))]
pub fn step(_place: &str) {}

/// Marks a place in a process, at which a test can try a forbidden operation.
#[cfg(not(feature = "hooks"))]
pub fn attempt(_process: &str) {}

/// Marks a place in a process, at which a test can stop the process.
#[cfg(feature = "hooks")]
pub fn step(place: &str) {
    if std::env::var("KNOCKKNOCK_STOP").is_ok_and(|wanted| wanted == place) {
        crate::say::note(format_args!("stops at {place:?}"));
        while crate::sys::poll::readable([], None).is_ok() {}
    }
    attempt(place);
}

/// Marks a place in a process, at which a test can try a forbidden operation.
#[cfg(feature = "hooks")]
pub fn attempt(process: &str) {
    let wanted = std::env::var("KNOCKKNOCK_ATTEMPT").unwrap_or_default();
    if let Some(what) = wanted.strip_prefix(process).and_then(|rest| rest.strip_prefix(": ")) {
        // The descriptor of the socket between the two.
        let channel = if process.contains("opener") { 0 } else { 1 };
        let outcome = match crate::sys::attempt::attempt(what, channel) {
            Ok(()) => "it worked".to_owned(),
            Err(cause) => crate::error::reason(&cause),
        };
        crate::say::note(format_args!("{process} tried {what}: {outcome}"));
    }
}
