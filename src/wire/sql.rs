//! Splits a statement into words, without literals and comments.
//!
//! Just enough of PostgreSQL's lexical structure (manual, section 4.1) to tell
//! `create temp table t` from `select temp from readings`. What is uncertain is
//! read as a word rather than skipped: a word too many costs a round trip, a
//! word too few would leave session state behind.

/// A token of SQL that the wire looks at.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A keyword or an identifier, quoted or not, as it was written.
    Word(&'a [u8]),
    /// The end of one statement.
    Semicolon,
    /// Text that may contain any word.
    Unreadable,
}

/// Iterates over the words and semicolons of `text`. `conforming` is what the server
/// last reported as `standard_conforming_strings`.
pub(super) fn tokens(text: &[u8], conforming: Option<bool>) -> Tokens<'_> {
    Tokens {
        rest: text,
        conforming,
    }
}

pub(super) struct Tokens<'a> {
    rest: &'a [u8],
    conforming: Option<bool>,
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        loop {
            let (&first, rest) = self.rest.split_first()?;
            match first {
                b';' => {
                    self.rest = rest;
                    return Some(Token::Semicolon);
                }
                b'\'' => {
                    self.rest = after_literal(rest, self.conforming == Some(false));
                    let literal = &rest[..rest.len() - self.rest.len()];
                    if self.conforming.is_none() && literal.contains(&b'\\') {
                        return Some(Token::Unreadable);
                    }
                }
                b'"' => {
                    let end = rest.iter().position(|&b| b == b'"').unwrap_or(rest.len());
                    self.rest = rest.get(end + 1..).unwrap_or_default();
                    return Some(Token::Word(&rest[..end]));
                }
                b'-' if rest.first() == Some(&b'-') => {
                    let end = rest.iter().position(|&b| is_newline(b));
                    self.rest = end.map_or(&[], |end| &rest[end..]);
                }
                b'/' if rest.first() == Some(&b'*') => self.rest = after_comment(&rest[1..]),
                b'$' => self.rest = after_dollar_quote(rest),
                _ if starts_word(first) => {
                    let end = self.rest.iter().position(|&b| !continues_word(b));
                    let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
                    // In E'..' a backslash always escapes.
                    if word.eq_ignore_ascii_case(b"e") && rest.first() == Some(&b'\'') {
                        self.rest = after_literal(&rest[1..], true);
                        continue;
                    }
                    // U&"..": the escape character is named behind it, if at all.
                    if word.eq_ignore_ascii_case(b"u") && rest.starts_with(b"&\"") {
                        self.rest = &rest[1..];
                        return Some(Token::Unreadable);
                    }
                    self.rest = rest;
                    return Some(Token::Word(word));
                }
                // `$1` inside a number or an operator needs no care of its own.
                _ => self.rest = rest,
            }
        }
    }
}

pub(super) fn starts_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn continues_word(byte: u8) -> bool {
    starts_word(byte) || byte.is_ascii_digit() || byte == b'$'
}

pub(super) fn is_newline(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}

/// Returns what follows a literal, whose opening quote has been read. A doubled quote is part
/// of it, and it may continue on the next line: both matter where a `backslash` escapes.
pub(super) fn after_literal(mut text: &[u8], backslash: bool) -> &[u8] {
    while let Some((&byte, rest)) = text.split_first() {
        text = match byte {
            b'\'' => match continued(rest) {
                Some(more) => more,
                None => return rest,
            },
            b'\\' if backslash => rest.get(1..).unwrap_or_default(),
            _ => rest,
        };
    }
    &[]
}

/// Returns what follows the quote that continues a literal, if one does.
fn continued(mut text: &[u8]) -> Option<&[u8]> {
    if let Some(doubled) = text.strip_prefix(b"'") {
        return Some(doubled);
    }
    let mut newline = false;
    while let Some((&byte, rest)) = text.split_first() {
        match byte {
            b'\'' if newline => return Some(rest),
            b'-' if rest.first() == Some(&b'-') => {
                let end = rest.iter().position(|&b| is_newline(b))?;
                text = &rest[end..];
            }
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => {
                newline |= is_newline(byte);
                text = rest;
            }
            _ => return None,
        }
    }
    None
}

/// Returns what follows a block comment; they nest.
pub(super) fn after_comment(mut text: &[u8]) -> &[u8] {
    let mut depth = 1;
    while let Some((&first, rest)) = text.split_first() {
        match (first, rest.first()) {
            (b'*', Some(b'/')) => {
                depth -= 1;
                text = &rest[1..];
                if depth == 0 {
                    return text;
                }
            }
            (b'/', Some(b'*')) => {
                depth += 1;
                text = &rest[1..];
            }
            _ => text = rest,
        }
    }
    &[]
}

/// Returns what follows `$tag$ .. $tag$`, or the `$` alone if it opens no literal (`$1`).
pub(super) fn after_dollar_quote(text: &[u8]) -> &[u8] {
    let Some(end) = text.iter().position(|&b| b == b'$') else {
        return text;
    };
    let tag = &text[..end];
    let is_tag =
        tag.first().is_none_or(|&b| starts_word(b)) && tag.iter().all(|&b| continues_word(b));
    if !is_tag {
        return text;
    }
    let (body, close) = (&text[end + 1..], [b"$", tag, b"$"].concat());
    let at = body.windows(close.len()).position(|window| window == close);
    at.map_or(&[], |at| &body[at + close.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> String {
        words_if(text, Some(true))
    }

    fn words_if(text: &str, conforming: Option<bool>) -> String {
        let words: Vec<_> = tokens(text.as_bytes(), conforming)
            .map(|token| match token {
                Token::Word(word) => String::from_utf8_lossy(word).into_owned(),
                Token::Semicolon => ";".into(),
                Token::Unreadable => "?".into(),
            })
            .collect();
        words.join(" ")
    }

    #[test]
    fn literals_and_comments_are_not_words() {
        for (text, expected) in [
            ("select 1", "select"),
            ("select $1, $2::text", "select text"),
            ("select 'a; b', c", "select c"),
            ("select 'it''s', c", "select c"),
            (r"select 'back\', c", "select c"),
            (r"select E'quote\' still', c", "select c"),
            ("select e'', c", "select c"),
            (r"select E'a''b\'', c --'", "select c"),
            ("select E'a'\n'b\\'', c --'", "select c"),
            ("select E'a' -- why\n 'b\\'', c --'", "select c"),
            ("select 'a' 'b\\', c", "select c"),
            ("select --\rx", "select x"),
            (r#"select U&"\0061", c"#, r"select ? \0061 c"),
            (r"select U&'\0061', c", "select U c"),
            ("select --\nx", "select x"),
            ("select -- x", "select"),
            ("select /* a /* b */ c */ d", "select d"),
            ("select /* open", "select"),
            ("do $$ begin; end $$; x", "do ; x"),
            ("do $body$ $$ $b$ $body$ x", "do x"),
            ("select \"Weird Name\".y", "select Weird Name y"),
            ("select a-b", "select a b"),
            ("a$b c", "a$b c"),
            ("größe;", "größe ;"),
            ("'open", ""),
            ("\"open", "open"),
            ("$open$ x", ""),
            ("$", ""),
            ("", ""),
        ] {
            assert_eq!(words(text), expected, "{text}");
        }
    }

    #[test]
    fn backslash_is_read_as_the_server_does() {
        let text = r"select '\', b, '\', c --'";
        assert_eq!(words_if(text, Some(true)), "select b c");
        assert_eq!(words_if(text, Some(false)), "select");
        let hides = r"select 'a\'', c --'";
        assert_eq!(words_if(hides, Some(false)), "select c");
        assert!(words_if(hides, None).contains('?'));
        assert_eq!(words_if("select 'a', c", None), "select c");
    }

    proptest::proptest! {
        #[test]
        fn scanner_ends_on_any_text(text in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            for conforming in [None, Some(false), Some(true)] {
                let counted = tokens(&text, conforming).count();
                proptest::prop_assert!(counted <= text.len());
            }
        }

        #[test]
        fn word_behind_a_complete_literal_is_seen(literal in "[^']{0,20}") {
            let text = format!("select '{literal}', found");
            proptest::prop_assert!(words(&text).ends_with("found"));
        }
    }
}
