//! Breaks text into lines, at blanks only, or cuts it.

use unicode_width::UnicodeWidthStr;

/// Breaks `text` into lines that fit `width`. A word that is longer stays whole, so that it can
/// be copied. There is at least one line.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("a line");
        if line.is_empty() {
            line.push_str(word);
        } else if line.width() + 1 + word.width() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

/// Cuts `text` to a width, with two dots at the end if something is missing.
pub fn cut(text: &str, width: Option<usize>) -> String {
    let Some(width) = width.filter(|width| text.width() > *width) else {
        return text.to_owned();
    };
    let dots = if width > 8 { ".." } else { "" };
    let mut cut = String::new();
    for c in text.chars() {
        cut.push(c);
        // Not the sum of the characters' widths: some change that of the one before.
        if cut.width() + dots.len() > width {
            cut.pop();
            break;
        }
    }
    cut + dots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stay_whole() {
        for (text, width, expected) in [
            ("", 5, &[""][..]),
            ("one two", 7, &["one two"]),
            ("one two", 6, &["one", "two"]),
            (
                "ALTER statement_timeout x",
                8,
                &["ALTER", "statement_timeout", "x"],
            ),
            (
                "\u{4e2d}\u{4e2d} \u{4e2d}",
                6,
                &["\u{4e2d}\u{4e2d}", "\u{4e2d}"],
            ),
        ] {
            assert_eq!(wrap(text, width), expected, "{text} {width}");
        }
    }

    #[test]
    fn texts_are_cut_by_their_width() {
        // U+FE0F makes the character before it wider.
        let hearts = "\u{2764}\u{fe0f}".repeat(10);
        let wide = "\u{4e2d}".repeat(10);
        for text in [&hearts, &wide, "ten and two"] {
            for width in 0..25 {
                let cut = cut(text, Some(width));
                assert!(cut.width() <= width, "{cut} {width}");
                assert!(cut.width() + 2 > width.min(text.width()), "{cut} {width}");
            }
        }
    }
}
