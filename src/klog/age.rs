//! Reads the timestamp of a log line, to tell old lines from new ones.
//!
//! Only lines that may be older than the daemon are judged by their timestamps. A line appended to a file later is new,
//! whatever the clocks say.

use super::kmsg;
use crate::sys::clock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The kernel's log clock may lag CLOCK_BOOTTIME by this much.
const BEHIND: Duration = Duration::from_millis(10);
/// A line this far in the future is from an earlier boot.
const AHEAD: Duration = Duration::from_secs(60);

/// When the daemon started, by each clock that log lines use.
pub(super) struct StartTime {
    at: Instant,
    since_boot: Duration,
}

impl StartTime {
    pub fn now() -> Self {
        // Records already in the kernel's log are old. The clock is the fallback if the log cannot be read.
        let (least, _) = clock::since_boot();
        let newest = kmsg::newest().map_or(Duration::ZERO, |newest| newest + Duration::from_micros(1));
        Self { at: Instant::now(), since_boot: newest.max(least.saturating_sub(BEHIND)) }
    }

    /// Returns whether `line` was logged before the start; `None` if it has no readable timestamp.
    pub fn is_after(&self, line: &[u8]) -> Option<bool> {
        // Only the text before the fields is written by the kernel or syslog; a sender can influence the rest.
        let end = line.windows(3).position(|three| three == b"IN=").unwrap_or(line.len());
        let head = line.get(..end).unwrap_or_default();
        let kernel = kernel_time(head).map(|time| time < self.since_boot || time > clock::since_boot().1 + AHEAD);
        // The wall clock may have been set since the start, so subtract the elapsed monotonic time.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall = wall_time(head).map(|time| time < now.saturating_sub(self.at.elapsed()));
        match (kernel, wall) {
            (Some(kernel), Some(wall)) => Some(kernel || wall),
            (kernel, wall) => kernel.or(wall),
        }
    }
}

/// Parses the time since boot in `[ 1287.881436]`, as the kernel writes it.
fn kernel_time(head: &[u8]) -> Option<Duration> {
    head.split(|&byte| byte == b'[').skip(1).find_map(|rest| {
        let end = rest.iter().position(|&byte| byte == b']')?;
        let (seconds, fraction) = std::str::from_utf8(rest.get(..end)?).ok()?.split_once('.')?;
        let micros = digits(fraction).filter(|_| fraction.len() == 6)?;
        Some(Duration::from_secs(digits(seconds.trim_start_matches(' '))?) + Duration::from_micros(micros))
    })
}

/// Parses the time since 1970 in `2026-11-22T10:01:42.123456+01:00` at the start of the line (RFC 3339, or journalctl's
/// short-iso). Without a fraction it returns the last nanosecond of that second.
///
/// Syslog's `<7>` and version `1` may precede the time. A time without a zone is rejected, because it is ambiguous.
fn wall_time(head: &[u8]) -> Option<Duration> {
    let ascii = head.iter().position(|byte| !byte.is_ascii()).unwrap_or(head.len());
    let mut text = std::str::from_utf8(head.get(..ascii)?).ok()?;
    if let Some((_, rest)) = text.strip_prefix('<').and_then(|rest| rest.split_once('>')) {
        text = rest.strip_prefix("1 ").unwrap_or(rest);
    }
    let (date, rest) = text.split_at_checked(19)?;
    let number = |from: usize, to: usize| digits(date.get(from..to)?);
    let shape: String = date.chars().map(|char| if char.is_ascii_digit() { '0' } else { char }).collect();
    if !["0000-00-00T00:00:00", "0000-00-00 00:00:00"].contains(&shape.as_str()) {
        return None;
    }
    let days = days(number(0, 4)?, number(5, 7)?, number(8, 10)?)?;
    let seconds = days * 86_400 + number(11, 13)? * 3600 + number(14, 16)? * 60 + number(17, 19)?;
    let (fraction, zone) = match rest.strip_prefix(['.', ',']) {
        Some(rest) => rest.split_at(rest.find(|char: char| !char.is_ascii_digit())?),
        None => ("", rest),
    };
    let nanos = match digits(fraction.get(..fraction.len().min(9))?) {
        Some(number) => number * 10u64.pow(9 - fraction.len().min(9) as u32),
        None => 999_999_999,
    };
    let local = Duration::new(seconds, nanos as u32);
    let zone = zone.split(' ').next()?;
    if zone == "Z" {
        return Some(local);
    }
    let (sign, offset) = zone.split_at_checked(1)?;
    let offset = offset.replace(':', "");
    let offset = digits(&offset).filter(|_| offset.len() == 4)?;
    let offset = Duration::from_secs(offset / 100 * 3600 + offset % 100 * 60);
    match sign {
        "+" => local.checked_sub(offset),
        "-" => Some(local + offset),
        _ => None,
    }
}

/// Returns the number of days from 1970 to a date (Howard Hinnant's `days_from_civil`).
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Years start in March here, so that a leap day is the last day of its year.
    let year = if month <= 2 { year.checked_sub(1)? } else { year };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    (era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year).checked_sub(719_468)
}

fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(line: &str) -> Option<f64> {
        wall_time(line.as_bytes()).map(|time| time.as_secs_f64())
    }

    #[test]
    fn times_as_programs_write_them() {
        let iso = [
            ("2026-11-22T10:01:42.250000+00:00 host kernel: [  836.678514] knockknock ", 1_795_341_702.25),
            ("2026-11-22T11:01:42.250000+01:00 host kernel: ", 1_795_341_702.25),
            ("2026-11-22T02:31:42.250-0730 host kernel: ", 1_795_341_702.25),
            ("2026-11-22T10:01:42.25Z host", 1_795_341_702.25),
            ("2026-11-22T10:01:42,250000+00:00 knockknock", 1_795_341_702.25),
            ("2026-11-22 10:01:42.250000000000+00:00 host", 1_795_341_702.25),
            ("<7>1 2026-11-22T10:01:42.25Z host kernel - - -", 1_795_341_702.25),
            ("<7>2026-11-22T10:01:42.25Z host kernel:", 1_795_341_702.25),
            ("2000-02-29T00:00:00.5Z x", 951_782_400.5),
            ("1970-01-01T00:00:00.0Z x", 0.0),
            ("2026-11-22T10:01:42+0000 host kernel: ", 1_795_341_703.0),
        ];
        for (line, wanted) in iso {
            assert!((seconds(line).unwrap() - wanted).abs() < 1e-3, "{line:?}: {:?}", seconds(line));
        }
        for line in ["[ 1287.881436] host kernel: ", "Nov 22 07:58:30 host kernel: [ 1287.881436][    T1] REJECT "] {
            assert_eq!(kernel_time(line.as_bytes()), Some(Duration::from_micros(1_287_881_436)), "{line:?}");
        }
        assert_eq!(kernel_time(b"[99999.000001] "), Some(Duration::from_micros(99_999_000_001)));
    }

    #[test]
    fn text_that_is_not_a_time_gives_none() {
        for line in [
            "",
            "Nov 22 10:01:42 host kernel: ",
            "2026-11-22T10:01:42 host",
            "2026-11-22T10:01:42.25 host",
            "2026-11-22T10:01:42.25",
            "2026-11-22T10:01:42+1 host",
            "2026-11-22T10:01:42*0100 host",
            "2026-13-22T10:01:42Z host",
            "2026-00-22T10:01:42Z host",
            "2026/11/22T10:01:42Z host",
            "1969-12-31T23:59:59Z host",
            "1970-01-01T00:00:00+0100 host",
            "0000-01-01T00:00:00Z host",
            "+026-11-22T10:01:42Z host",
            "<7 2026-11-22T10:01:42Z host",
            "2026-11-22T10:01:4\u{e9}Z host",
            "host 2026-11-22T10:01:42Z",
        ] {
            assert_eq!(seconds(line), None, "{line:?}");
        }
        for line in
            ["[UFW BLOCK] ", "[1.5] ", "[ 1287.8814367] ", "[ 1287.881436", "[-1.000000] ", "[ .000000] ", "[1287]"]
        {
            assert_eq!(kernel_time(line.as_bytes()), None, "{line:?}");
        }
    }

    #[test]
    fn an_old_line_is_detected_by_either_clock() {
        let start = StartTime::now();
        let kernel = |time: Duration| format!("[{:5}.{:06}] x IN=e", time.as_secs(), time.subsec_micros());
        let old = |line: &str| start.is_after(line.as_bytes());
        let second = Duration::from_secs(1);
        assert_eq!(old(&kernel(start.since_boot + Duration::from_micros(1))), Some(false));
        assert_eq!(old(&kernel(start.since_boot + second)), Some(false));
        assert_eq!(old(&kernel(start.since_boot.saturating_sub(second))), Some(true));
        assert_eq!(old(&kernel(start.since_boot + 3600 * second)), Some(true), "before the machine started");
        assert_eq!(old("2026-01-01T00:00:00Z host kernel: x IN=e"), Some(true));
        assert_eq!(old("2999-01-01T00:00:00Z host kernel: x IN=e"), Some(false));
        assert_eq!(old("2999-01-01T00:00:00Z host kernel: [    0.000001] x IN=e"), Some(true));
        assert_eq!(old("Nov 22 07:58:30 host kernel: x IN=e SRC=[    0.000001]"), None, "a stranger's words");
    }
}
