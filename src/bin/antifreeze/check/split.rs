//! Statements of a file, cut at semicolons that are none of a string's, a comment's or a
//! function's body.

use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};

/// One statement of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    pub text: String,
    /// Where it begins, counted from 1.
    pub line: u64,
    pub column: u64,
    /// Its words in capitals, as far as they are words.
    pub words: Vec<String>,
    /// Tables and views that it creates, without their schema.
    pub makes: Vec<String>,
}

/// What the tokens of a file are not.
#[derive(Debug)]
pub struct Unreadable {
    pub line: u64,
    pub column: u64,
    pub why: String,
}

pub fn split(text: &str) -> Result<Vec<Statement>, Unreadable> {
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, text)
        .tokenize_with_location()
        .map_err(|error| Unreadable {
            line: error.location.line,
            column: error.location.column,
            why: error.message,
        })?;
    let lines: Vec<usize> = line_starts(text);
    let mut statements = Vec::new();
    let mut current: Vec<&TokenWithSpan> = Vec::new();
    let mut body = Body::default();
    for token in &tokens {
        match &token.token {
            Token::Whitespace(_) if current.is_empty() => {}
            Token::EOF => {}
            Token::SemiColon if !body.is_open() => {
                statements.extend(statement(text, &lines, &current));
                current.clear();
                body = Body::default();
            }
            token_ => {
                body.see(token_);
                current.push(token);
            }
        }
    }
    statements.extend(statement(text, &lines, &current));
    Ok(statements)
}

/// `BEGIN ATOMIC .. END` of a function's body in SQL (manual, "CREATE FUNCTION").
#[derive(Default)]
struct Body {
    begun: bool,
    depth: usize,
}

impl Body {
    fn see(&mut self, token: &Token) {
        let Token::Word(word) = token else { return };
        if word.quote_style.is_some() {
            return;
        }
        let word = word.value.to_ascii_uppercase();
        match word.as_str() {
            "ATOMIC" if self.begun => self.depth = 1,
            "CASE" if self.depth > 0 => self.depth += 1,
            "END" if self.depth > 0 => self.depth -= 1,
            _ => {}
        }
        self.begun = word == "BEGIN";
    }

    fn is_open(&self) -> bool {
        self.depth > 0
    }
}

fn statement(text: &str, lines: &[usize], tokens: &[&TokenWithSpan]) -> Option<Statement> {
    let says = |token: &&&TokenWithSpan| !matches!(token.token, Token::Whitespace(_));
    let (first, last) = (tokens.iter().find(says)?, tokens.iter().rfind(says)?);
    let start = offset(text, lines, first.span.start);
    let end = offset(text, lines, last.span.end);
    let words: Vec<&Token> = tokens
        .iter()
        .map(|token| &token.token)
        .filter(|token| !matches!(token, Token::Whitespace(_)))
        .collect();
    let upper = words.iter().filter_map(|token| match token {
        Token::Word(word) => Some(word.value.to_uppercase()),
        _ => None,
    });
    Some(Statement {
        text: text.get(start..end)?.to_owned(),
        line: first.span.start.line,
        column: first.span.start.column,
        words: upper.collect(),
        makes: makes(&words),
    })
}

/// `CREATE .. TABLE name`, `CREATE .. VIEW name`.
fn makes(tokens: &[&Token]) -> Vec<String> {
    let is = |token: &Token, wanted: &str| match token {
        Token::Word(word) => word.quote_style.is_none() && word.value.eq_ignore_ascii_case(wanted),
        _ => false,
    };
    if !tokens.first().is_some_and(|token| is(token, "create")) {
        return Vec::new();
    }
    let kind = tokens
        .iter()
        .take(5)
        .position(|token| is(token, "table") || is(token, "view"));
    let Some(kind) = kind else {
        return Vec::new();
    };
    let mut rest = &tokens[kind + 1..];
    if rest.first().is_some_and(|token| is(token, "if")) {
        rest = rest.get(3..).unwrap_or_default();
    }
    let word = |token: Option<&&Token>| match token {
        Some(Token::Word(word)) if word.quote_style.is_some() => Some(word.value.clone()),
        Some(Token::Word(word)) => Some(word.value.to_lowercase()),
        _ => None,
    };
    let name = match rest.get(1) {
        Some(Token::Period) => word(rest.get(2)),
        _ => word(rest.first()),
    };
    name.into_iter().collect()
}

fn line_starts(text: &str) -> Vec<usize> {
    let breaks = text.match_indices('\n').map(|(at, _)| at + 1);
    std::iter::once(0).chain(breaks).collect()
}

/// Lines and columns are counted from 1, columns in characters.
fn offset(text: &str, lines: &[usize], at: Location) -> usize {
    let line = usize::try_from(at.line).unwrap_or(1).max(1) - 1;
    let column = usize::try_from(at.column).unwrap_or(1).max(1) - 1;
    let start = lines.get(line).copied().unwrap_or(text.len());
    let rest = &text[start..];
    let within = rest
        .char_indices()
        .nth(column)
        .map_or(rest.len(), |(at, _)| at);
    start + within
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(sql: &str) -> Vec<String> {
        let statements = split(sql).expect("tokens");
        statements
            .into_iter()
            .map(|statement| statement.text)
            .collect()
    }

    #[test]
    fn semicolons_within_something_do_not_cut() {
        for (sql, expected) in [
            ("select 1; select 2", &["select 1", "select 2"][..]),
            (
                "select ';'; -- a; b\nselect $$;$$",
                &["select ';'", "select $$;$$"],
            ),
            ("/* ; /* ; */ ; */ select \";\" ;;", &["select \";\""]),
            ("select E'\\';' ; select 1", &["select E'\\';'", "select 1"]),
            ("select $tag$ $$;$$ $tag$", &["select $tag$ $$;$$ $tag$"]),
            (
                "create function f() returns int begin atomic select case when true then 1 end; \
                 select 2; end; select 3",
                &[
                    "create function f() returns int begin atomic select case when true then 1 \
                     end; select 2; end",
                    "select 3",
                ],
            ),
            ("begin; select 1; end;", &["begin", "select 1", "end"]),
            ("  \n-- nothing\n", &[]),
        ] {
            assert_eq!(texts(sql), expected, "{sql}");
        }
    }

    #[test]
    fn a_statement_knows_where_it_stands() {
        let statements = split("-- \u{e4}\n  select '\u{e4}\u{e4}' ;\n select 2").expect("tokens");
        let places = statements
            .iter()
            .map(|s| (s.line, s.column, s.text.as_str()));
        let expected = [(2, 3, "select '\u{e4}\u{e4}'"), (3, 2, "select 2")];
        assert_eq!(places.collect::<Vec<_>>(), expected);
        let error = split("select 1;\nselect 'open").expect_err("no end");
        assert_eq!(error.line, 2);
    }

    #[test]
    fn what_is_made_is_known() {
        for (sql, expected) in [
            ("create table Partners (a int)", Some("partners")),
            (
                "create table if not exists app.\"Partners\" (a int)",
                Some("Partners"),
            ),
            ("create or replace temp view v as select 1", Some("v")),
            ("create unlogged table public.t ()", Some("t")),
            ("create index on t (a)", None),
            ("select 1", None),
        ] {
            let statements = split(sql).expect("tokens");
            assert_eq!(
                statements[0].makes.first().map(String::as_str),
                expected,
                "{sql}"
            );
        }
    }
}
