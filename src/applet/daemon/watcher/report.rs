//! The watcher's log lines. Accepted knocks are logged at once. Events that anybody can cause are counted and
//! summarised.

use super::engine::{Event, Knock};
use super::message::ANY_PORT;
use super::publication::Publication;
use super::refused_knocks::{RefusedKnocks, Source};
use crate::applet::daemon::ipc::OpenReply;
use crate::error::{quoted, reason};
use crate::say;
use crate::status::Count;
use crate::sys::clock;
use crate::wire::Entry;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

/// The interval of summaries.
const SUMMARY: Duration = Duration::from_secs(60);

/// The profile names, and the counts since the last summary.
pub(super) struct Report {
    names: Vec<String>,
    publication: Publication,
    knock_ports: Vec<u16>,
    refused_knocks: RefusedKnocks,
    /// How long an opening lasts, in seconds.
    delay: u16,
    counts: Counts,
    /// Wrong codes since a single knock last sufficed, for the message that says why it does not.
    wrong_codes: u64,
    /// Whether it has been logged that a knock needs a second one.
    throttled: bool,
}

#[derive(Default)]
struct Counts {
    since: Option<Instant>,
    replays: u32,
    wrong_codes: u32,
    /// Wrong codes beyond the throttle's limit.
    too_many: u32,
    overruns: u32,
}

/// A refused knock that is logged at once.
pub(super) struct Refused {
    source: IpAddr,
    knock_port: u16,
    /// Whether knocks from this source were accepted before.
    known: bool,
    pub profile: Option<usize>,
}

impl Report {
    /// Creates an empty report. `names` and `knock_ports` are those of the profiles by number.
    pub fn new(names: Vec<String>, knock_ports: Vec<u16>, delay: u16, publication: Publication) -> Box<Self> {
        let (counts, refused_knocks) = (Counts::default(), RefusedKnocks::default());
        let (wrong_codes, throttled) = (0, false);
        Box::new(Self { names, publication, knock_ports, refused_knocks, delay, counts, wrong_codes, throttled })
    }

    /// Counts or logs an event.
    pub fn event(&mut self, event: &Event, now: Instant) {
        if let Some(count) = count_of(event) {
            self.publication.count(count);
        }
        match event {
            Event::Replay => self.count(|counts| &mut counts.replays, now),
            Event::WrongCode { throttled } => self.wrong_code(*throttled, now),
            Event::CaughtUp { profile, ahead } => say::note(format_args!(
                "resynchronised with profile {}: its client was {} ahead",
                quoted(self.name(*profile)),
                with_noun(*ahead, "counter", "counters")
            )),
            Event::Answered(knock, OpenReply::Opened) => {
                let Knock { profile, source, port } = *knock;
                let (delay, name) = (self.delay, self.name(profile));
                say::note(format_args!("opened port {port} to {source} for {delay} s (profile {})", quoted(name)));
                if let Some(&knock_port) = self.knock_ports.get(profile) {
                    self.refused_knocks.accepted(source, profile, knock_port);
                }
                self.knocked(knock);
            }
            Event::Answered(knock, reply) => self.closed(knock, why_denied(*reply)),
            Event::NeedsSecond(knock) => {
                self.closed(knock, "a second knock is required while many wrong codes arrive");
            }
            Event::Ambiguous(knock) => self.closed(knock, "another profile has the same code"),
            Event::NoClientAddress(knock) => self.closed(knock, "no client can have this address"),
            Event::PortNotAllowed(knock) => {
                self.closed(knock, "the profile may not open it");
                say::warn("if it should, add the port to \"ports\" in the profile's config, on both sides");
            }
        }
    }

    /// Logs that a profile's counter could not be stored. `knock` is the reason to store it, unless its new keys have
    /// knocked.
    pub fn not_stored(&mut self, profile: usize, knock: Option<Knock>, path: &Path, cause: &io::Error) {
        let name = self.name(profile);
        let cause = reason(cause);
        let to = knock.map_or_else(String::new, |Knock { source, .. }| format!("; the port stays closed to {source}"));
        self.problem(format!("cannot store the counter of profile {} in {}: {cause}{to}", quoted(name), quoted(path)));
    }

    /// Logs that a counter file had lost its value.
    pub fn restored(&mut self, profile: usize) {
        self.problem(format!(
            "the counter file of profile {} was too low or damaged; stored the correct value",
            quoted(self.name(profile))
        ));
    }

    /// Logs that a profile's new keys have knocked, and that its old keys are revoked.
    pub fn revoked(&self, old: usize) {
        say::note(format_args!("profile {} is revoked: its new keys have knocked", quoted(self.name(old))));
    }

    /// Counts a SYN to a knock port.
    pub fn received(&mut self) {
        self.publication.count(Count::Received);
    }

    /// Counts an overrun of the log.
    pub fn overrun(&mut self, now: Instant) {
        self.count(|counts| &mut counts.overruns, now);
        self.publication.count(Count::LogOverruns);
    }

    /// Records that the log has moved.
    pub fn log_moved(&mut self) {
        self.publication.log_moved();
    }

    /// Returns the time until a summary or a write of the status is due.
    pub fn due(&self, now: Instant) -> Option<Duration> {
        clock::sooner(self.summary_due(now), self.publication.due(now))
    }

    fn summary_due(&self, now: Instant) -> Option<Duration> {
        self.counts.since.map(|since| SUMMARY.saturating_sub(now.duration_since(since)))
    }

    /// Writes the status and logs the summary, if they are due.
    pub fn write_due(&mut self, now: Instant) {
        self.publication.write(now);
        if self.summary_due(now) != Some(Duration::ZERO) {
            return;
        }
        let counts = std::mem::take(&mut self.counts);
        for line in counts.summary() {
            say::note(line);
        }
        if counts.too_many > 0 {
            // Check again after another interval, even if nothing else is counted.
            self.counts.since = Some(now);
        } else if self.throttled {
            (self.throttled, self.wrong_codes) = (false, 0);
            say::note("few wrong codes arrive now: a single knock opens again");
        }
    }

    /// Selects the refused knocks to log at once. The profile is known if the source knocked for it before, or if it is
    /// the only one of its knock port.
    pub fn select(&mut self, entry: &Entry, now: Instant) -> Option<Refused> {
        let Entry { source, knock_port, .. } = *entry;
        let (known, profile) = match self.refused_knocks.select(source, knock_port, now)? {
            Source::Known(profile) => (true, Some(profile)),
            Source::Unknown => (false, self.only_profile(knock_port)),
        };
        Some(Refused { source, knock_port, known, profile })
    }

    /// Returns the profile with that knock port, if there is only one.
    fn only_profile(&self, knock_port: u16) -> Option<usize> {
        let mut at_port = self.knock_ports.iter().enumerate().filter(|&(_, &port)| port == knock_port);
        at_port.next().filter(|_| at_port.next().is_none()).map(|(profile, _)| profile)
    }

    /// Logs a refused knock. `behind` is how far its counter is behind the next one, if it is an old counter.
    pub fn refused(&self, refused: &Refused, behind: Option<u64>) {
        let Refused { source, knock_port, known, profile } = *refused;
        if knock_port == ANY_PORT {
            let what = if behind.is_some() { "a link that was used, or a later one was" } else { "no link" };
            say::warn(format_args!("connection from {source} to an address of links: it is {what}"));
            say::warn(
                "links are used in their order, each once: use the next one, or print more with knockknock links",
            );
            return;
        }
        let whose = match profile {
            Some(profile) => format!("for profile {}", quoted(self.name(profile))),
            None => format!("at knock port {knock_port}"),
        };
        let before = if known { ", after valid ones" } else { "" };
        let profile = match behind {
            Some(behind) => {
                say::warn(format_args!("knock from {source} {whose} with an old counter, {behind} behind"));
                "is an old copy"
            }
            None => {
                say::warn(format_args!("knock from {source} {whose} with a wrong code{before}"));
                "differs from the server's"
            }
        };
        say::warn(format_args!(
            "if it is from your client, its profile {profile}: knockknock rotate gives it new keys"
        ));
    }

    fn wrong_code(&mut self, too_many: bool, now: Instant) {
        self.count(|counts| &mut counts.wrong_codes, now);
        self.wrong_codes += 1;
        if !too_many {
            return;
        }
        self.counts.too_many = self.counts.too_many.saturating_add(1);
        if !self.throttled {
            self.throttled = true;
            self.problem(format!(
                "received {}: until they stop, a stealth knock opens only with a second one",
                with_noun(self.wrong_codes, "wrong code", "wrong codes")
            ));
            say::warn("connect and proxy send both by themselves; with knock, knock twice within a minute");
        }
    }

    fn count(&mut self, of: fn(&mut Counts) -> &mut u32, now: Instant) {
        self.counts.since.get_or_insert(now);
        let count = of(&mut self.counts);
        *count = count.saturating_add(1);
    }

    fn closed(&mut self, knock: &Knock, why: &str) {
        let Knock { profile, source, port } = *knock;
        self.problem(format!("port {port} stays closed to {source}: {why} (profile {})", quoted(self.name(profile))));
        self.knocked(knock);
    }

    fn knocked(&mut self, knock: &Knock) {
        let Knock { profile, source, port } = *knock;
        let name = say::escaped(self.name(profile));
        self.publication.knock(name, source, port);
    }

    fn problem(&mut self, text: String) {
        say::warn(&text);
        self.publication.problem(&text);
    }

    #[allow(clippy::indexing_slicing, reason = "the engine's profiles and the names are of one list")]
    fn name(&self, profile: usize) -> &str {
        &self.names[profile]
    }
}

/// Returns the count that an event increments.
fn count_of(event: &Event) -> Option<Count> {
    Some(match event {
        Event::Answered(_, OpenReply::Opened) => Count::Opened,
        Event::CaughtUp { .. } => Count::CaughtUp,
        Event::Replay => Count::Replayed,
        Event::WrongCode { .. } => Count::WrongCodes,
        Event::PortNotAllowed(_) => Count::NotAllowed,
        _ => return None,
    })
}

/// Describes why the opener did not open.
fn why_denied(reply: OpenReply) -> &'static str {
    match reply {
        OpenReply::Opened => "it is open",
        OpenReply::SetFull => "the set of openings is full",
        OpenReply::OwnAddress => "the source is an address of this machine",
        OpenReply::SeveralLinks => "a link-local source may be a different host on each link",
        OpenReply::PortNotPermitted => "no profile may open this port",
        OpenReply::PortNotGuarded => "iptables opens only the ports in \"guard\"",
    }
}

impl Counts {
    fn summary(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut ignored = String::new();
        for (number, one, many) in
            [(self.replays, "replayed knock", "replayed knocks"), (self.wrong_codes, "wrong code", "wrong codes")]
        {
            if number > 0 {
                ignored += if ignored.is_empty() { "ignored in the last minute: " } else { ", " };
                ignored += &with_noun(number.into(), one, many);
            }
        }
        if !ignored.is_empty() {
            lines.push(ignored);
        }
        if self.overruns > 0 {
            let overruns = with_noun(self.overruns.into(), "overflow", "overflows");
            lines.push(format!("the kernel log had {overruns} in the last minute: knocks may be lost"));
        }
        lines
    }
}

/// Formats a number with its noun.
fn with_noun(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_lists_the_counts_with_correct_plurals() {
        let counts = Counts { replays: 1, wrong_codes: 2, ..Counts::default() };
        assert_eq!(counts.summary(), ["ignored in the last minute: 1 replayed knock, 2 wrong codes"]);
        let counts = Counts { wrong_codes: 1, overruns: 1, ..Counts::default() };
        assert_eq!(
            counts.summary(),
            [
                "ignored in the last minute: 1 wrong code",
                "the kernel log had 1 overflow in the last minute: knocks may be lost"
            ]
        );
    }

    #[test]
    fn a_summary_is_due_a_minute_after_the_first_count() {
        let (mut report, now) = (Report::new(Vec::new(), Vec::new(), 15, Publication::default()), Instant::now());
        assert_eq!(report.summary_due(now), None);
        report.event(&Event::Replay, now);
        report.event(&Event::WrongCode { throttled: false }, now + Duration::from_secs(50));
        assert_eq!(report.summary_due(now + Duration::from_secs(59)), Some(Duration::from_secs(1)));
        report.write_due(now + Duration::from_secs(59));
        assert_eq!(report.counts.wrong_codes, 1, "not yet");
        report.write_due(now + Duration::from_secs(60));
        assert_eq!(report.summary_due(now + Duration::from_secs(60)), None);
    }

    #[test]
    fn throttling_is_logged_once_and_its_end_a_minute_after_the_last_wrong_code() {
        let (mut report, start) = (Report::new(Vec::new(), Vec::new(), 15, Publication::default()), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        for seconds in 0..100 {
            report.event(&Event::WrongCode { throttled: seconds >= 10 }, at(seconds));
            report.write_due(at(seconds));
            assert_eq!(report.throttled, seconds >= 10);
        }
        assert_eq!((report.wrong_codes, report.summary_due(at(120))), (100, Some(Duration::ZERO)));
        report.write_due(at(120));
        assert!(report.throttled && report.summary_due(at(120)) == Some(SUMMARY), "some came in the last minute");
        report.write_due(at(180));
        assert!(!report.throttled && report.summary_due(at(180)).is_none());
    }
}
