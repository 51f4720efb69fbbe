//! Hooks for tests, in builds with the feature `hooks`. Otherwise every function is empty.
//!
//! Environment variables select a hook. `KNOCKKNOCK_STOP="watcher: stored"` makes the watcher wait there until it is
//! killed. `KNOCKKNOCK_ATTEMPT="watcher: execve"` makes it try a forbidden operation once it is confined and log the
//! outcome; `"watcher: stored: execve"` tries it at that hook.

/// A process has come to a place with a name.
#[cfg(not(feature = "hooks"))]
pub fn step(_place: &str) {}

/// A process, named with how far it has got, is ready to be tried.
#[cfg(not(feature = "hooks"))]
pub fn attempt(_process: &str) {}

/// A process has come to a place with a name.
#[cfg(feature = "hooks")]
pub fn step(place: &str) {
    if std::env::var("KNOCKKNOCK_STOP").is_ok_and(|wanted| wanted == place) {
        crate::say::note(format_args!("stops at {place:?}"));
        while crate::sys::poll::readable([], None).is_ok() {}
    }
    attempt(place);
}

/// A process, named with how far it has got, is ready to be tried.
#[cfg(feature = "hooks")]
pub fn attempt(process: &str) {
    let wanted = std::env::var("KNOCKKNOCK_ATTEMPT").unwrap_or_default();
    if let Some(what) = wanted.strip_prefix(process).and_then(|rest| rest.strip_prefix(": ")) {
        let outcome = match crate::sys::attempt::attempt(what) {
            Ok(()) => "it worked".to_owned(),
            Err(cause) => crate::error::reason(&cause),
        };
        crate::say::note(format_args!("{process} tried {what}: {outcome}"));
    }
}
