//! The words of a statement, without its literals and comments.
//!
//! Just enough of PostgreSQL's lexical structure (manual, section 4.1) to tell
//! `create temp table t` from `select temp from readings`. What is uncertain is
//! read as a word rather than skipped: a word too many costs a round trip, a
//! word too few would leave session state behind.

/// A piece of SQL that matters to us.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A keyword or an identifier, quoted or not, as it was written.
    Word(&'a [u8]),
    /// The end of one statement.
    Semicolon,
}

/// Iterates over the words and semicolons of `text`.
pub(super) fn tokens(text: &[u8]) -> Tokens<'_> {
    Tokens { rest: text }
}

pub(super) struct Tokens<'a> {
    rest: &'a [u8],
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
                b'\'' => self.rest = after_quote(rest, b'\'', false),
                b'"' => {
                    let end = rest.iter().position(|&b| b == b'"').unwrap_or(rest.len());
                    self.rest = rest.get(end + 1..).unwrap_or_default();
                    return Some(Token::Word(&rest[..end]));
                }
                b'-' if rest.first() == Some(&b'-') => {
                    let end = rest.iter().position(|&b| b == b'\n');
                    self.rest = end.map_or(&[], |end| &rest[end..]);
                }
                b'/' if rest.first() == Some(&b'*') => self.rest = after_comment(&rest[1..]),
                b'$' => self.rest = after_dollar_quote(rest),
                _ if starts_word(first) => {
                    let end = self.rest.iter().position(|&b| !continues_word(b));
                    let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
                    // E'..' is the one literal in which a backslash escapes.
                    if word.eq_ignore_ascii_case(b"e") && rest.first() == Some(&b'\'') {
                        self.rest = after_quote(&rest[1..], b'\'', true);
                        continue;
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

fn starts_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn continues_word(byte: u8) -> bool {
    starts_word(byte) || byte.is_ascii_digit() || byte == b'$'
}

/// What follows the closing quote. A doubled quote closes and opens again,
/// which comes to the same.
fn after_quote(text: &[u8], quote: u8, backslash: bool) -> &[u8] {
    let mut bytes = text.iter().enumerate();
    while let Some((at, &byte)) = bytes.next() {
        if byte == quote {
            return &text[at + 1..];
        }
        if backslash && byte == b'\\' {
            bytes.next();
        }
    }
    &[]
}

/// What follows a block comment; they nest.
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

/// What follows `$tag$ .. $tag$`, or the `$` alone if it opens no literal (`$1`).
fn after_dollar_quote(text: &[u8]) -> &[u8] {
    let Some(end) = text.iter().position(|&b| b == b'$') else {
        return text;
    };
    let tag = &text[..end];
    let is_tag = tag
        .iter()
        .enumerate()
        .all(|(at, &b)| b != b'$' && continues_word(b) && (at > 0 || starts_word(b)));
    if !is_tag {
        return text;
    }
    let body = &text[end + 1..];
    let mut from = 0;
    while let Some(at) = body[from..].iter().position(|&b| b == b'$') {
        let after = &body[from + at + 1..];
        if after.starts_with(tag) && after.get(tag.len()) == Some(&b'$') {
            return &after[tag.len() + 1..];
        }
        from += at + 1;
    }
    &[]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> String {
        let words: Vec<_> = tokens(text.as_bytes())
            .map(|token| match token {
                Token::Word(word) => String::from_utf8_lossy(word).into_owned(),
                Token::Semicolon => ";".into(),
            })
            .collect();
        words.join(" ")
    }

    #[test]
    fn literals_and_comments_are_no_words() {
        for (text, expected) in [
            ("select 1", "select"),
            ("select $1, $2::text", "select text"),
            ("select 'a; b', c", "select c"),
            ("select 'it''s', c", "select c"),
            (r"select 'back\', c", "select c"),
            (r"select E'quote\' still', c", "select c"),
            ("select e'', c", "select c"),
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

    proptest::proptest! {
        #[test]
        fn any_text_ends(text in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let counted = tokens(&text).count();
            proptest::prop_assert!(counted <= text.len());
        }

        #[test]
        fn a_word_behind_any_complete_literal_is_seen(literal in "[^']{0,20}") {
            let text = format!("select '{literal}', found");
            proptest::prop_assert!(words(&text).ends_with("found"));
        }
    }
}
