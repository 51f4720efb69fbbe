//! What the exit statuses of the watcher and the opener mean.

use super::opener::{RULES_GONE, RULES_GONE_AGAIN, SET_LEAKS};
use super::watcher::LOG_MOVED;
use std::process::ExitStatus;

/// The meaning of an exit of the watcher or the opener.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ChildExit {
    /// The rules may be gone and must be checked. `repeated`: no request was answered since that last happened.
    RulesGone { repeated: bool },
    /// A set of openings counts used ones and must be replaced.
    SetLeaks,
    /// The log must be reopened.
    LogMoved,
    /// They could not start, and why.
    NotStarted(String),
    /// One of them has failed, and how.
    Failed(String),
}

impl ChildExit {
    /// Interprets the exit statuses of the two children; `None` if both are running. `ready` is whether both had been
    /// ready.
    pub(super) fn from_statuses(ready: bool, watcher: Option<ExitStatus>, opener: Option<ExitStatus>) -> Option<Self> {
        let how = |exit: Option<ExitStatus>| exit.map_or("still running".to_owned(), |status| status.to_string());
        let (watcher_exit, opener_exit) = (how(watcher), how(opener));
        if watcher.is_none() && opener.is_none() {
            return None;
        }
        if !ready {
            let why = format!("the watcher ({watcher_exit}) and the opener ({opener_exit}) failed to start");
            return Some(Self::NotStarted(why + "; see above"));
        }
        let code = |exit: Option<ExitStatus>| u8::try_from(exit?.code()?).ok();
        Some(match (code(watcher), code(opener)) {
            (_, Some(RULES_GONE)) => Self::RulesGone { repeated: false },
            (_, Some(RULES_GONE_AGAIN)) => Self::RulesGone { repeated: true },
            (_, Some(SET_LEAKS)) => Self::SetLeaks,
            (Some(LOG_MOVED), _) => Self::LogMoved,
            // The opener always exits after the watcher, so only the watcher's status matters.
            _ if watcher.is_some() => Self::Failed(format!("the watcher ended ({watcher_exit})")),
            _ => Self::Failed(format!("the opener ended ({opener_exit})")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn each_exit_status_has_its_meaning() {
        let code = |code: u8| Some(ExitStatus::from_raw(i32::from(code) << 8));
        let killed = Some(ExitStatus::from_raw(9));
        let exit = ChildExit::from_statuses;
        assert_eq!(exit(true, None, None), None);
        assert_eq!(exit(true, None, code(RULES_GONE)), Some(ChildExit::RulesGone { repeated: false }));
        assert_eq!(exit(true, code(1), code(RULES_GONE_AGAIN)), Some(ChildExit::RulesGone { repeated: true }));
        assert!(matches!(exit(false, None, code(RULES_GONE)), Some(ChildExit::NotStarted(_))));
        assert_eq!(exit(true, None, code(SET_LEAKS)), Some(ChildExit::SetLeaks));
        assert_eq!(exit(true, code(LOG_MOVED), code(1)), Some(ChildExit::LogMoved));
        assert!(matches!(exit(false, code(LOG_MOVED), None), Some(ChildExit::NotStarted(_))));
        let failed = |exit| match exit {
            Some(ChildExit::NotStarted(why) | ChildExit::Failed(why)) => why,
            other => panic!("{other:?}"),
        };
        assert!(failed(exit(false, None, code(1))).contains("(still running)"));
        assert!(failed(exit(true, killed, code(1))).contains("watcher ended (signal: 9"));
        assert!(failed(exit(true, None, killed)).contains("opener ended (signal: 9"));
    }
}
