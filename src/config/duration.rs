//! Parses durations.

use std::time::Duration;

/// The units of Go's `time.ParseDuration`, in seconds.
const UNITS: [(&str, f64); 8] = [
    ("ns", 1e-9),
    ("us", 1e-6),
    ("\u{b5}s", 1e-6),
    ("\u{3bc}s", 1e-6),
    ("ms", 1e-3),
    ("s", 1.0),
    ("m", 60.0),
    ("h", 3600.0),
];

/// Describes what [`parse`] accepts, for errors.
pub(super) const WANTED: &str = "a duration (300ms, 5s, 1h30m, or a number of seconds)";

/// Reads a duration as Go writes it (`300ms`, `1.5h`, `1h30m`), or a bare number of
/// seconds. Nothing negative: a timeout cannot be.
pub fn parse(text: &str) -> Option<Duration> {
    let text = text.trim();
    if let Some(seconds) = number(text) {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let (digits, after) = split_where(rest, |c| !c.is_ascii_digit() && c != '.');
        let (unit, after) = split_where(after, |c| c.is_ascii_digit() || c == '.');
        let (_, size) = UNITS.iter().find(|(name, _)| *name == unit)?;
        seconds += number(digits)? * size;
        rest = after;
    }
    let duration = Duration::try_from_secs_f64(seconds).ok();
    duration.filter(|_| !text.is_empty())
}

/// Digits and at most one point: no sign, no exponent, no `inf`.
fn number(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    plain.then(|| text.parse().ok()).flatten()
}

fn split_where(text: &str, end: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(end).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations_and_bare_seconds_are_parsed() {
        for (text, milliseconds) in [
            ("0", Some(0)),
            ("0s", Some(0)),
            ("5", Some(5_000)),
            ("1.5", Some(1_500)),
            ("300ms", Some(300)),
            ("1h30m", Some(5_400_000)),
            ("1.5h", Some(5_400_000)),
            ("2m3s4ms", Some(123_004)),
            (" 5m ", Some(300_000)),
            ("1000us", Some(1)),
            ("1000\u{b5}s", Some(1)),
            ("1000000ns", Some(1)),
            ("", None),
            ("s", None),
            (".", None),
            ("-5s", None),
            ("+5s", None),
            ("5 s", None),
            ("5d", None),
            ("1e3", None),
            ("inf", None),
            ("5s6", None),
            ("1.2.3s", None),
            ("99999999999999999999999h", None),
        ] {
            let expected = milliseconds.map(Duration::from_millis);
            assert_eq!(parse(text), expected, "{text}");
        }
    }
}
