//! Selects refused knocks to log at once, because they may come from an owner: those from a source whose knock was
//! accepted before, and the first few at each knock port. The limits keep attackers from filling the log.

use std::net::IpAddr;
use std::time::{Duration, Instant};

/// The maximum number of sources with accepted knocks that are remembered.
const SOURCES: usize = 16;
/// The minimum time between two logged knocks of such a source.
const PAUSE: Duration = Duration::from_secs(60);
/// The maximum number of refused knocks from other sources that are logged for each knock port in an hour, and the
/// maximum number of knock ports.
const FIRST: u8 = 3;
const PORTS: usize = 16;
const HOUR: Duration = Duration::from_secs(3600);

/// The source of a refused knock that is logged.
#[derive(Debug, PartialEq)]
pub(super) enum Source {
    /// A knock from there was accepted before, for this profile.
    Known(usize),
    Unknown,
}

/// The latest accepted knock of a source for a profile.
struct AcceptedKnock {
    source: IpAddr,
    profile: usize,
    knock_port: u16,
    logged: Option<Instant>,
}

/// The recently accepted sources and the recently logged knocks.
#[derive(Default)]
pub(super) struct RefusedKnocks {
    /// The latest sources, oldest first.
    known: Vec<AcceptedKnock>,
    /// Knock ports with the number of logged knocks since the hour began.
    ports: Vec<(u16, u8)>,
    hour: Option<Instant>,
}

impl RefusedKnocks {
    /// Records the source of an accepted knock.
    pub fn accepted(&mut self, source: IpAddr, profile: usize, knock_port: u16) {
        let place = self.known.iter().position(|known| (known.source, known.profile) == (source, profile));
        let logged = place.and_then(|place| self.known.remove(place).logged);
        if self.known.len() >= SOURCES {
            self.known.remove(0);
        }
        self.known.push(AcceptedKnock { source, profile, knock_port, logged });
    }

    /// Decides whether to log a refused knock. Returns its source if so.
    pub fn select(&mut self, source: IpAddr, knock_port: u16, now: Instant) -> Option<Source> {
        let mut known = self.known.iter_mut().rev();
        if let Some(known) = known.find(|known| (known.source, known.knock_port) == (source, knock_port)) {
            let due = known.logged.is_none_or(|logged| now.duration_since(logged) >= PAUSE);
            known.logged = if due { Some(now) } else { known.logged };
            return due.then_some(Source::Known(known.profile));
        }
        if self.hour.is_none_or(|hour| now.duration_since(hour) >= HOUR) {
            self.hour = Some(now);
            self.ports.clear();
        }
        let is_new = self.ports.iter().all(|&(port, _)| port != knock_port);
        if is_new && self.ports.len() < PORTS {
            self.ports.push((knock_port, 0));
        }
        let (_, logged) = self.ports.iter_mut().find(|(port, logged)| *port == knock_port && *logged < FIRST)?;
        *logged += 1;
        Some(Source::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[test]
    fn a_known_source_is_logged_once_a_minute_with_its_latest_profile() {
        let (mut refused, start) = (RefusedKnocks::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        for profile in [4, 5] {
            refused.accepted(source(1), profile, 666);
        }
        assert_eq!(refused.select(source(1), 666, at(0)), Some(Source::Known(5)));
        refused.accepted(source(1), 5, 666);
        assert_eq!(refused.select(source(1), 666, at(59)), None, "an accepted knock does not end the pause");
        assert_eq!(refused.select(source(1), 666, at(60)), Some(Source::Known(5)));
        assert_eq!(refused.select(source(1), 667, at(61)), Some(Source::Unknown), "at another port it is a stranger");
    }

    #[test]
    fn unknown_sources_cause_a_few_lines_an_hour() {
        let (mut refused, start) = (RefusedKnocks::default(), Instant::now());
        let mut lines = |hour: Instant| {
            let all = (0..10_000u16).map(|n| (source(n as u8), 1000 + n % 100));
            all.filter(|&(from, port)| refused.select(from, port, hour) == Some(Source::Unknown)).count()
        };
        let most = PORTS * usize::from(FIRST);
        assert_eq!([lines(start), lines(start + HOUR / 2), lines(start + HOUR)], [most, 0, most]);
    }

    #[test]
    fn only_the_latest_sources_are_known() {
        let (mut refused, now) = (RefusedKnocks::default(), Instant::now());
        for last in 0..=SOURCES as u8 {
            refused.accepted(source(last), 0, 666);
        }
        assert_eq!(refused.select(source(0), 666, now), Some(Source::Unknown));
        assert_eq!(refused.select(source(1), 666, now), Some(Source::Known(0)));
    }
}
