//! Formats text for a terminal.

use std::time::Duration;

use antifreeze::internal;

/// Replaces control characters and bidirectional formatting characters, so that `text` is
/// safe to print to a terminal. Names and statements come from any client of the server.
///
/// ```
/// use antifreeze_doctor::printable;
///
/// assert_eq!(printable("shop\u{1b}[2J"), "shop\u{fffd}[2J");
/// assert_eq!(printable("two\nlines"), "two lines");
/// ```
pub fn printable(text: &str) -> String {
    let harmless = |c: char| match c {
        '\n' | '\t' | '\r' => ' ',
        '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' => '\u{fffd}',
        '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    text.chars().map(harmless).collect()
}

/// Truncates `text` to `max` characters.
pub(super) fn truncate(text: &str, max: usize) -> String {
    let mut short: String = text.chars().take(max).collect();
    if text.chars().nth(max).is_some() {
        short.push_str("..");
    }
    short
}

/// Formats a number of seconds: `0.4 s`, `12 s`, `5 min`, `3.2 h`.
///
/// ```
/// use antifreeze_doctor::format_seconds;
///
/// assert_eq!(format_seconds(0.42), "0.4 s");
/// assert_eq!(format_seconds(300.0), "5 min");
/// ```
pub fn format_seconds(seconds: f64) -> String {
    match seconds {
        s if s < 9.95 => format!("{:.1} s", s.max(0.0)),
        s if s < 119.5 => format!("{s:.0} s"),
        s if s < 7170.0 => format!("{:.0} min", s / 60.0),
        s if s < 48.0 * 3600.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.0} days", s / 86400.0),
    }
}

/// Parses a duration as `ANTIFREEZE_*` variables are written: `300ms`, `60s`, `1h30m`, or a
/// number of seconds.
pub fn parse_duration(text: &str) -> Option<Duration> {
    internal::parse_duration(text)
}

pub(super) fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

/// Formats a number of transactions: `812`, `1.2 million`, `1340 million`.
pub(super) fn millions(count: u64) -> String {
    match count {
        few if few < 100_000 => few.to_string(),
        some if some < 9_950_000 => format!("{:.1} million", some as f64 / 1e6),
        many => format!("{:.0} million", many as f64 / 1e6),
    }
}

/// Formats a number of bytes: `16 MB`, `2.5 GB`.
pub(super) fn bytes(count: u64) -> String {
    match count as f64 / f64::from(1 << 20) {
        megabytes if megabytes < 999.5 => format!("{megabytes:.0} MB"),
        megabytes => format!("{:.1} GB", megabytes / 1024.0),
    }
}

/// Quotes an SQL literal.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Quotes an SQL identifier.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_control_characters_are_replaced() {
        for c in [
            '\u{0}', '\u{1b}', '\u{7f}', '\u{9b}', '\u{202e}', '\u{2066}', '\u{feff}',
        ] {
            assert_eq!(printable(&format!("a{c}b")), "a\u{fffd}b", "{c:?}");
        }
        assert_eq!(printable("\u{e4}\u{4e2d} x"), "\u{e4}\u{4e2d} x");
    }

    #[test]
    fn counts_are_formatted_with_a_unit() {
        for (count, expected) in [
            (812, "812"),
            (1_240_000, "1.2 million"),
            (2_144_483_648, "2144 million"),
        ] {
            assert_eq!(millions(count), expected);
        }
        assert_eq!(bytes(16 << 20), "16 MB");
        assert_eq!(bytes(2_684_354_560), "2.5 GB");
    }

    #[test]
    fn seconds_are_formatted_with_a_unit() {
        for (time, expected) in [
            (0.0, "0.0 s"),
            (-1.0, "0.0 s"),
            (9.96, "10 s"),
            (119.0, "119 s"),
            (120.0, "2 min"),
            (7200.0, "2.0 h"),
            (200_000.0, "2 days"),
        ] {
            assert_eq!(format_seconds(time), expected);
        }
    }
}
