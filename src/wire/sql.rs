//! Splits statements into lexemes, and these into words without literals and comments.
//!
//! It follows PostgreSQL's lexical structure (manual, section 4.1) as far as is needed to tell
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

/// A part of the text of a statement.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Lexeme<'a> {
    /// White space or a comment.
    Space,
    /// A literal in quotes, or a parameter. Where it ends is not certain if that depends on
    /// `standard_conforming_strings`, and the server has not reported it.
    Value {
        certain: bool,
    },
    /// A number, and letters that follow it at once.
    Number(&'a [u8]),
    /// A keyword or an identifier.
    Word(&'a [u8]),
    /// An identifier in quotes, without them.
    Quoted(&'a [u8]),
    Sign(u8),
}

/// Iterates over the words and semicolons of `text`. `conforming` is what the server
/// last reported as `standard_conforming_strings`.
pub(super) fn tokens(text: &[u8], conforming: Option<bool>) -> impl Iterator<Item = Token<'_>> {
    let mut lexemes = lexemes(text, conforming);
    std::iter::from_fn(move || {
        loop {
            let before = lexemes.rest;
            match lexemes.next()? {
                // U&"..": the escape character is named behind it, if at all.
                Lexeme::Word(b"u" | b"U") if lexemes.rest.starts_with(b"&\"") => {
                    lexemes.rest = &lexemes.rest[1..];
                    return Some(Token::Unreadable);
                }
                Lexeme::Value { certain: false } => return Some(Token::Unreadable),
                Lexeme::Word(word) | Lexeme::Quoted(word) => return Some(Token::Word(word)),
                Lexeme::Sign(b';') => return Some(Token::Semicolon),
                // Before PostgreSQL 15 a word may follow a number at once.
                Lexeme::Number(number) => {
                    let word = number.iter().position(|&byte| starts_word(byte));
                    lexemes.rest = &before[word.unwrap_or(number.len())..];
                }
                Lexeme::Sign(_) | Lexeme::Space | Lexeme::Value { .. } => {}
            }
        }
    })
}

/// Iterates over all parts of `text`.
pub(super) fn lexemes(text: &[u8], conforming: Option<bool>) -> Lexemes<'_> {
    Lexemes {
        rest: text,
        conforming,
    }
}

pub(super) struct Lexemes<'a> {
    rest: &'a [u8],
    conforming: Option<bool>,
}

impl<'a> Lexemes<'a> {
    /// Takes what precedes the first byte that does not continue it.
    fn take_while(&mut self, continues: impl Fn(u8) -> bool) -> &'a [u8] {
        let end = self.rest.iter().position(|&byte| !continues(byte));
        let (taken, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// Skips a literal, whose opening quote has been read.
    fn literal(&mut self, text: &'a [u8], conforming: Option<bool>) -> Lexeme<'a> {
        self.rest = after_literal(text, conforming == Some(false));
        let certain = conforming.is_some() || self.rest.len() == after_literal(text, true).len();
        Lexeme::Value { certain }
    }
}

impl<'a> Iterator for Lexemes<'a> {
    type Item = Lexeme<'a>;

    fn next(&mut self) -> Option<Lexeme<'a>> {
        let (&first, rest) = self.rest.split_first()?;
        Some(match first {
            // The vertical tab too (scan.l, since PostgreSQL 16).
            _ if first.is_ascii_whitespace() || first == 0x0b => {
                self.rest = rest;
                Lexeme::Space
            }
            b'-' if rest.first() == Some(&b'-') => {
                self.take_while(|byte| !is_newline(byte));
                Lexeme::Space
            }
            b'/' if rest.first() == Some(&b'*') => {
                self.rest = after_comment(&rest[1..]);
                Lexeme::Space
            }
            b'\'' => self.literal(rest, self.conforming),
            b'"' => {
                let end = rest.iter().position(|&b| b == b'"').unwrap_or(rest.len());
                self.rest = rest.get(end + 1..).unwrap_or_default();
                Lexeme::Quoted(&rest[..end])
            }
            b'$' => {
                self.rest = after_dollar_quote(rest);
                if self.rest.len() == rest.len() {
                    self.take_while(|byte| byte.is_ascii_digit());
                }
                Lexeme::Value { certain: true }
            }
            b'0'..=b'9' => {
                let text = self.rest;
                self.take_while(|byte| byte.is_ascii_digit() || b"._".contains(&byte));
                // Its letters end it, so that a word is read twice at most.
                self.take_while(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
                Lexeme::Number(&text[..text.len() - self.rest.len()])
            }
            _ if starts_word(first) => {
                let word = self.take_while(continues_word);
                match (word, self.rest.split_first()) {
                    // In E'..' a backslash always escapes.
                    (b"e" | b"E", Some((b'\'', rest))) => self.literal(rest, Some(false)),
                    (b"b" | b"B" | b"x" | b"X" | b"n" | b"N", Some((b'\'', rest))) => {
                        self.literal(rest, self.conforming)
                    }
                    _ => Lexeme::Word(word),
                }
            }
            _ => {
                self.rest = rest;
                Lexeme::Sign(first)
            }
        })
    }
}

fn starts_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn continues_word(byte: u8) -> bool {
    starts_word(byte) || byte.is_ascii_digit() || byte == b'$'
}

fn is_newline(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}

/// Returns what follows a literal, whose opening quote has been read. A doubled quote is part
/// of it, and it may continue on the next line: both matter where a `backslash` escapes.
fn after_literal(mut text: &[u8], backslash: bool) -> &[u8] {
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
fn after_comment(mut text: &[u8]) -> &[u8] {
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
fn after_dollar_quote(text: &[u8]) -> &[u8] {
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
    fn letters_end_a_number() {
        let numbers = lexemes(b"1.a.1_0.5e3.x", Some(true));
        let numbers = numbers.filter_map(|lexeme| match lexeme {
            Lexeme::Number(number) => Some(number),
            _ => None,
        });
        let expected: [&[u8]; 2] = [b"1.a", b"1_0.5e3"];
        assert!(numbers.eq(expected));
        assert_eq!(words("select 1.a.1.b"), "select a b");
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
