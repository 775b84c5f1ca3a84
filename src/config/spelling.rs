//! Suggests the name that was most likely intended.

/// Formats `name=value`, or `name` alone if the value is more than a word: it may be a URL or
/// a key in the wrong place, and errors are logged.
pub(super) fn shown(name: &str, value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if value.len() <= 20 && value.chars().all(plain) {
        format!("{name}={value}")
    } else {
        name.to_owned()
    }
}

/// Returns the nearest of `words`, if it is near: two slips at most, and one in short words.
pub fn nearest<'a>(word: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A slip does not multiply the length of a word.
    if word.len() > 64 {
        return None;
    }
    let distances = words
        .into_iter()
        .map(|known| (distance(word, known), known));
    let (slips, known) = distances.min()?;
    let allowed = if known.len() < 8 { 1 } else { 2 };
    // The word itself is not a suggestion.
    (slips <= allowed && known != word).then_some(known)
}

/// Counts insertions, deletions and replacements (Levenshtein), ignoring case.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (at, a) in a.to_lowercase().chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (column, b) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_single_word_is_shown() {
        assert_eq!(shown("a", "1.5-x"), "a=1.5-x");
        for value in [
            "app:secret",
            "postgres://a",
            "two words",
            "\u{e4}",
            &"x".repeat(21),
        ] {
            assert_eq!(shown("a", value), "a");
        }
    }

    #[test]
    fn only_near_words_are_suggested() {
        let words = ["sslmode", "connect_timeout", "user"];
        for (word, expected) in [
            ("ssl_mode", Some("sslmode")),
            ("SSLMODE", Some("sslmode")),
            ("conect_timout", Some("connect_timeout")),
            ("usr", Some("user")),
            ("fuse", None),
            ("sslmode", None),
            ("schema", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, words), expected, "{word}");
        }
        assert_eq!(nearest(&"x".repeat(65), words), None);
        assert_eq!(nearest("x", []), None);
    }
}
