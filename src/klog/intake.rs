//! Sorts records: passes new SYNs on, and reports old, incomplete and missing lines.

use super::age::{Fresh, StartTime};
use super::notice::Notice;
use super::record::{LogEvent, Record};
use super::wanted::Wanted;
use crate::wire::{Incomplete, entry};
use std::time::{Duration, Instant};

/// This many incomplete lines are reported; fewer may be chance.
const SEVERAL: u32 = 3;
/// The minimum time between two reports of incomplete lines.
const QUIET: Duration = Duration::from_secs(3600);

/// The state that sorting needs.
pub(super) struct Intake {
    start: StartTime,
    /// The clocks of this read; set when the first timestamp is compared.
    fresh: Option<Fresh>,
    /// Whether any line of the source may be older than the start, as on standard input.
    has_old_lines: bool,
    old_reported: bool,
    untimed_reported: bool,
    incomplete: IncompleteLines,
}

/// Counts lines that should have been entries.
#[derive(Default)]
struct IncompleteLines {
    /// Truncated lines.
    cut: u32,
    /// Other lines since the last entry. Another log rule may log the same packets, and log them completely.
    others: u32,
    reported: Option<Instant>,
}

impl Intake {
    pub fn new(has_old_lines: bool) -> Self {
        Self {
            start: StartTime::now(),
            fresh: None,
            has_old_lines,
            old_reported: false,
            untimed_reported: false,
            incomplete: IncompleteLines::default(),
        }
    }

    /// Starts another read.
    pub fn begin(&mut self) {
        self.fresh = None;
    }

    /// Classifies one record.
    pub fn take(&mut self, record: Record<'_>, wanted: &Wanted, each: &mut dyn FnMut(LogEvent)) {
        let Some(entry) = record.entry() else {
            let incomplete = record.line().and_then(|line| {
                let ours = entry::knock_port(line).is_none_or(|port| wanted.has(port, line));
                Incomplete::find(line).filter(|_| ours)
            });
            if let Some(notice) = incomplete.and_then(|why| self.incomplete.count(why, Instant::now())) {
                each(LogEvent::Notice(notice));
            }
            return;
        };
        self.incomplete.others = 0;
        let may_be_old = self.has_old_lines || matches!(record, Record::OldLine(_));
        let Self { fresh, start, .. } = self;
        let is_fresh = |line| fresh.get_or_insert_with(|| start.fresh()).contains(line);
        match record.line().filter(|_| may_be_old).map(is_fresh) {
            Some(Some(false)) => {
                if !std::mem::replace(&mut self.old_reported, true) {
                    each(LogEvent::Notice(Notice::OldLines));
                }
                return;
            }
            Some(None) if !std::mem::replace(&mut self.untimed_reported, true) => {
                each(LogEvent::Notice(Notice::Untimed));
            }
            _ => {}
        }
        each(LogEvent::Syn(entry));
    }
}

impl IncompleteLines {
    fn count(&mut self, why: Incomplete, now: Instant) -> Option<Notice> {
        let counter = if why == Incomplete::Cut { &mut self.cut } else { &mut self.others };
        *counter = counter.saturating_add(1);
        let several = *counter >= SEVERAL;
        let quiet = self.reported.is_some_and(|reported| now - reported < QUIET);
        if !several || quiet {
            return None;
        }
        *counter = 0;
        self.reported = Some(now);
        Some(Notice::Incomplete(why))
    }
}
