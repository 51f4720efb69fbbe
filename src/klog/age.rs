//! Reads the timestamp of a log line, to tell old lines from new ones.
//!
//! Only lines that may be older than the daemon are judged by their timestamps. A line appended to a file later is new,
//! whatever the clocks say.

use super::kmsg;
use crate::search;
use crate::sys::clock;
use crate::wire::entry;
use std::ops::RangeInclusive;
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

/// The range of timestamps of lines logged since the start, by the clocks as they are set now.
pub(super) struct Fresh {
    kernel: RangeInclusive<Duration>,
    wall: Duration,
}

impl StartTime {
    pub fn now() -> Self {
        // Records already in the kernel's log are old. The clock is the fallback if the log cannot be read.
        let (least, _) = clock::since_boot();
        let newest = kmsg::newest().map_or(Duration::ZERO, |newest| newest + Duration::from_micros(1));
        Self { at: Instant::now(), since_boot: newest.max(least.saturating_sub(BEHIND)) }
    }

    /// Reads the clocks, once for all lines of one read.
    pub fn fresh(&self) -> Fresh {
        // The wall clock may have been set since the start, so subtract the elapsed monotonic time.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Fresh { kernel: self.since_boot..=clock::since_boot().1 + AHEAD, wall: now.saturating_sub(self.at.elapsed()) }
    }
}

impl Fresh {
    /// Returns whether `line` was logged since the start; `None` if it has no readable timestamp.
    pub fn contains(&self, line: &[u8]) -> Option<bool> {
        let kernel = kernel_time(line).map(|time| self.kernel.contains(&time));
        let wall = wall_time(line).map(|time| time >= self.wall);
        match (kernel, wall) {
            (Some(kernel), Some(wall)) => Some(kernel && wall),
            (kernel, wall) => kernel.or(wall),
        }
    }
}

/// The unparsed rest of a text.
struct Text<'a>(&'a [u8]);

impl Text<'_> {
    /// Takes the next byte, if it is one of `wanted`.
    fn take(&mut self, wanted: &[u8]) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        for &wanted in wanted {
            if wanted == byte {
                self.0 = rest;
                return Some(byte);
            }
        }
        None
    }

    /// Takes the next digits.
    fn digits(&mut self) -> &[u8] {
        let end = self.0.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(self.0.len());
        let (digits, rest) = self.0.split_at(end);
        self.0 = rest;
        digits
    }

    /// Parses a number of exactly `digits` digits.
    fn number(&mut self, digits: usize) -> Option<u64> {
        let (digits, rest) = self.0.split_at_checked(digits)?;
        self.0 = rest;
        let (number, count) = entry::digits(search::eight(digits));
        (count == digits.len()).then_some(number)
    }
}

/// Parses a number of two digits.
fn pair(tens: u8, ones: u8) -> Option<u32> {
    let (tens, ones) = (tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0'));
    (tens < 10 && ones < 10).then_some(u32::from(tens) * 10 + u32::from(ones))
}

/// Parses the time since boot in `[ 1287.881436]`, as the kernel writes it before the first field. A sender can influence
/// the fields.
fn kernel_time(line: &[u8]) -> Option<Duration> {
    let mut rest = line;
    loop {
        let at = search::first(rest, |eight| search::mark_byte(eight, b'[') | search::mark_byte(eight, b'='));
        let (before, from) = rest.split_at_checked(at)?;
        let time = match (before, from) {
            ([.., b'I', b'N'], [b'=', ..]) => return None,
            (_, [b'[', stamp @ ..]) => kernel_stamp(Text(stamp)),
            _ => None,
        };
        if time.is_some() {
            return time;
        }
        rest = from.get(1..)?;
    }
}

/// Parses ` 1287.881436]`.
fn kernel_stamp(mut text: Text<'_>) -> Option<Duration> {
    while text.take(b" ").is_some() {}
    let mut seconds = 0;
    text.0 = entry::number(text.0, &mut seconds)?;
    text.take(b".")?;
    let micros = text.number(6)?;
    text.take(b"]")?;
    Some(Duration::from_secs(seconds) + Duration::from_micros(micros))
}

/// Parses the time since 1970 in `2026-11-22T10:01:42.123456+01:00` at the start of the line (RFC 3339, or journalctl's
/// short-iso). Without a fraction it returns the last nanosecond of that second.
///
/// Syslog's `<7>` and version `1` may precede the time. A time without a zone is rejected, because it is ambiguous.
fn wall_time(line: &[u8]) -> Option<Duration> {
    let mut text = Text(line);
    if text.take(b"<").is_some() {
        text.0 = text.0.get(search::first_byte(text.0, b'>')? + 1..)?;
        text.0 = text.0.strip_prefix(b"1 ").unwrap_or(text.0);
    }
    let (&[c0, c1, y0, y1, b'-', m0, m1, b'-', d0, d1, b'T' | b' ', h0, h1, b':', n0, n1, b':', s0, s1], rest) =
        text.0.split_first_chunk()?
    else {
        return None;
    };
    text.0 = rest;
    let days = days(pair(c0, c1)?, pair(y0, y1)?, pair(m0, m1)?, pair(d0, d1)?)?;
    let seconds = days * 86_400 + u64::from(pair(h0, h1)? * 3600 + pair(n0, n1)? * 60 + pair(s0, s1)?);
    let mut nanos = 999_999_999_u32;
    if text.take(b".,").is_some() {
        // Further digits do not matter.
        let (fraction, count) = entry::digits(search::eight(text.0));
        text.digits();
        nanos = (count..9).fold(fraction as u32, |nanos, _| nanos * 10);
    }
    let local = Duration::new(seconds, nanos);
    let sign = text.take(b"Z+-")?;
    let mut offset = Duration::ZERO;
    if sign != b'Z' {
        let hours = text.number(2)?;
        text.take(b":");
        offset = Duration::from_secs(hours * 3600 + text.number(2)? * 60);
    }
    if !matches!(text.0, [] | [b' ', ..]) {
        return None;
    }
    if sign == b'-' { Some(local + offset) } else { local.checked_sub(offset) }
}

/// Returns the number of days from 1970 to a date (Howard Hinnant's `days_from_civil`), without a division.
fn days(mut century: u32, mut year: u32, month: u32, day: u32) -> Option<u64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Years start in March here, so that a leap day is the last day of its year.
    let mut months = month + 9;
    if month > 2 {
        months = month - 3;
    } else if year > 0 {
        year -= 1;
    } else {
        (century, year) = (century.checked_sub(1)?, 99);
    }
    // The months before this one have 30.6 days on average.
    let of_year = ((months * 979 + 16) >> 5) + day - 1;
    let days = century * 36_524 + century / 4 + year * 365 + year / 4 + of_year;
    days.checked_sub(719_468).map(u64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(line: &str) -> Option<f64> {
        wall_time(line.as_bytes()).map(|time| time.as_secs_f64())
    }

    #[test]
    fn timestamps_of_each_program_are_parsed() {
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
    fn every_day_has_its_number() {
        let (mut number, mut dates) = (0, 0);
        for year in 1970..10_000_u32 {
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let february = if leap { 29 } else { 28 };
            for (month, length) in (1..).zip([31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]) {
                for day in 1..=length {
                    assert_eq!(days(year / 100, year % 100, month, day), Some(number), "{year}-{month}-{day}");
                    (number, dates) = (number + 1, dates + 1);
                }
            }
        }
        assert_eq!(dates, 2_932_897);
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
        let fresh = |line: &str| start.fresh().contains(line.as_bytes());
        let second = Duration::from_secs(1);
        assert_eq!(fresh(&kernel(start.since_boot + Duration::from_micros(1))), Some(true));
        assert_eq!(fresh(&kernel(start.since_boot + second)), Some(true));
        assert_eq!(fresh(&kernel(start.since_boot.saturating_sub(second))), Some(false));
        assert_eq!(fresh(&kernel(start.since_boot + 3600 * second)), Some(false), "before the machine started");
        assert_eq!(fresh("2026-01-01T00:00:00Z host kernel: x IN=e"), Some(false));
        assert_eq!(fresh("2999-01-01T00:00:00Z host kernel: x IN=e"), Some(true));
        assert_eq!(fresh("2999-01-01T00:00:00Z host kernel: [    0.000001] x IN=e"), Some(false));
        assert_eq!(fresh("Nov 22 07:58:30 host kernel: x IN=e SRC=[    0.000001]"), None, "a stranger's words");
    }
}
