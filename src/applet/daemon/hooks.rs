//! Where tests take hold of a running process, in builds with the feature `hooks`; else nothing.
//!
//! The environment says where: `KNOCKKNOCK_STOP="watcher: stored"` stops the watcher there until somebody
//! kills it, `KNOCKKNOCK_ATTEMPT="watcher: execve"` has it try that when it is confined, and say what came
//! of it; `"watcher: stored: execve"` when it has come to that place.

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
