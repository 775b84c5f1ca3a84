//! Text for people.

use std::time::Duration;

use antifreeze::internal::parse_duration;

/// `text` as a terminal may see it: what controls it, or turns the direction of writing,
/// is replaced. Names and statements come from whoever may connect.
///
/// ```
/// use antifreeze_doctor::plain;
///
/// assert_eq!(plain("shop\u{1b}[2J"), "shop\u{fffd}[2J");
/// assert_eq!(plain("two\nlines"), "two lines");
/// ```
pub fn plain(text: &str) -> String {
    let harmless = |c: char| match c {
        '\n' | '\t' | '\r' => ' ',
        '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' => '\u{fffd}',
        '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    text.chars().map(harmless).collect()
}

/// The first `most` characters.
pub(super) fn shortened(text: &str, most: usize) -> String {
    let mut short: String = text.chars().take(most).collect();
    if text.chars().nth(most).is_some() {
        short.push_str("..");
    }
    short
}

/// A number of seconds, for people: `0.4 s`, `12 s`, `5 min`, `3.2 h`.
///
/// ```
/// use antifreeze_doctor::seconds;
///
/// assert_eq!(seconds(0.42), "0.4 s");
/// assert_eq!(seconds(300.0), "5 min");
/// ```
pub fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 9.95 => format!("{:.1} s", s.max(0.0)),
        s if s < 119.5 => format!("{s:.0} s"),
        s if s < 7170.0 => format!("{:.0} min", s / 60.0),
        s if s < 48.0 * 3600.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.0} days", s / 86400.0),
    }
}

/// Reads a duration as `ANTIFREEZE_*` variables hold it: `300ms`, `60s`, `1h30m`, or a
/// number of seconds.
pub fn duration(text: &str) -> Option<Duration> {
    parse_duration(text)
}

pub(super) fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

/// A name as SQL writes it.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_replaced() {
        for c in [
            '\u{0}', '\u{1b}', '\u{7f}', '\u{9b}', '\u{202e}', '\u{2066}', '\u{feff}',
        ] {
            assert_eq!(plain(&format!("a{c}b")), "a\u{fffd}b", "{c:?}");
        }
        assert_eq!(plain("\u{e4}\u{4e2d} x"), "\u{e4}\u{4e2d} x");
    }

    #[test]
    fn durations_are_printed_short() {
        for (time, expected) in [
            (0.0, "0.0 s"),
            (-1.0, "0.0 s"),
            (9.96, "10 s"),
            (119.0, "119 s"),
            (120.0, "2 min"),
            (7200.0, "2.0 h"),
            (200_000.0, "2 days"),
        ] {
            assert_eq!(seconds(time), expected);
        }
    }
}
