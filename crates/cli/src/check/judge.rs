//! What the server says to a statement.

use std::collections::HashSet;
use std::fmt;

use antifreeze::Session;
use antifreeze_doctor::plain;
use antifreeze_migrate::split::{Statement, Token, Unreadable};
use serde::Serialize;
use tokio_postgres::error::{DbError, ErrorPosition, SqlState};

use crate::outcome::Failure;

/// A statement that is in nobody's way for longer than this: to look a table up takes a
/// lock that an ALTER TABLE keeps back.
const BEGIN: &str = "begin read only; set local lock_timeout = '2s'";

/// What became of a statement.
pub enum Judged {
    Fits,
    /// Nothing but its grammar was looked at.
    Grammar,
    /// It needs what another of the files makes.
    Later,
    Wrong(Box<Finding>),
    /// The server was hindered: it may fit or not.
    Hindered(Box<Finding>),
}

/// What the server said to a statement: it does not fit, or could not be looked at.
#[derive(Debug, Serialize)]
pub struct Finding {
    pub file: String,
    pub line: usize,
    pub column: usize,
    pub sqlstate: Option<String>,
    pub message: String,
    pub hint: Option<String>,
    /// The name that stands there.
    pub name: Option<String>,
    /// A name that was perhaps meant.
    pub meant: Option<String>,
    /// Tables are looked up by the words of the statement.
    #[serde(skip)]
    pub words: Vec<String>,
}

pub async fn judge(
    session: &Session,
    file: &str,
    statement: &Statement<'_>,
    made: &HashSet<String>,
) -> Result<Judged, Failure> {
    session.batch_execute(BEGIN).await?;
    let prepared = session.prepare(statement.text).await;
    let judged = match prepared {
        Ok(_) if is_looked_at(statement) => Judged::Fits,
        Ok(_) => Judged::Grammar,
        Err(error) => match error.as_db_error() {
            Some(said) => {
                let finding = Finding::of(file, statement, said);
                if is_of_the_moment(said.code().code()) {
                    // Whatever becomes of the transaction: it may have ended the session.
                    let _ = session.batch_execute("rollback").await;
                    return Ok(Judged::Hindered(Box::new(finding)));
                }
                match finding.name.as_ref().filter(|_| is_missing(said)) {
                    Some(name) if made.contains(name) => Judged::Later,
                    _ => Judged::Wrong(Box::new(finding)),
                }
            }
            None => return Err(error.into()),
        },
    };
    session.batch_execute("rollback").await?;
    Ok(judged)
}

/// Statements whose tables and types are looked up before they are executed.
fn is_looked_at(statement: &Statement<'_>) -> bool {
    const KINDS: [&str; 8] = [
        "select", "insert", "update", "delete", "merge", "values", "with", "table",
    ];
    // A query may begin with a parenthesis.
    let mut tokens = statement.tokens.iter();
    let first = tokens.find(|token| **token != Token::Other('('));
    first.is_some_and(|first| KINDS.iter().any(|kind| first.is(kind)))
}

/// Whether it says something of the server at this moment, and nothing of the statement
/// (manual, appendix A): a lock that others have; classes 08, connection exception; 40,
/// transaction rollback; 53, insufficient resources; 57, operator intervention, timeouts
/// among it; 58, system error.
fn is_of_the_moment(sqlstate: &str) -> bool {
    const LOCK_NOT_AVAILABLE: &str = "55P03";
    sqlstate == LOCK_NOT_AVAILABLE
        || ["08", "40", "53", "57", "58"].contains(&sqlstate.get(..2).unwrap_or_default())
}

fn is_missing(said: &DbError) -> bool {
    *said.code() == SqlState::UNDEFINED_TABLE
}

impl Finding {
    fn of(file: &str, statement: &Statement<'_>, said: &DbError) -> Self {
        let at = match said.position() {
            Some(ErrorPosition::Original(at)) => usize::try_from(*at).unwrap_or(1).max(1) - 1,
            _ => 0,
        };
        let before: String = statement.text.chars().take(at).collect();
        let rest: String = statement.text.chars().skip(at).collect();
        let lines = before.matches('\n').count();
        let column = match before.rsplit_once('\n') {
            Some((_, last)) => last.chars().count() + 1,
            None => statement.column + before.chars().count(),
        };
        Finding {
            file: file.to_owned(),
            line: statement.line + lines,
            column,
            sqlstate: Some(said.code().code().to_owned()),
            message: plain(said.message()),
            hint: said.hint().map(plain),
            name: said.position().and_then(|_| name(&rest)),
            meant: None,
            words: words(statement),
        }
    }

    pub fn unreadable(file: &str, error: &Unreadable) -> Self {
        Finding {
            file: file.to_owned(),
            line: error.line,
            column: error.column,
            sqlstate: None,
            message: plain(&error.why),
            hint: None,
            name: None,
            meant: None,
            words: Vec::new(),
        }
    }
}

/// In capitals.
fn words(statement: &Statement<'_>) -> Vec<String> {
    let words = statement.tokens.iter().filter_map(|token| match token {
        Token::Word(word) | Token::Quoted(word) => Some(word.to_uppercase()),
        _ => None,
    });
    words.collect()
}

/// The last part of the name that `text` begins with.
fn name(text: &str) -> Option<String> {
    let mut rest = text;
    let mut last = None;
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let (inside, after) = quoted.split_once('"')?;
            last = Some(inside.to_owned());
            rest = after;
        } else {
            let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$'));
            let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
            if word.is_empty() {
                return last;
            }
            last = Some(word.to_lowercase());
            rest = after;
        }
        match rest.strip_prefix('.') {
            Some(after) => rest = after,
            None => return last,
        }
    }
}

/// `sql/a.sql:12:8: relation "partner" does not exist; did you mean "partners"?`
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = plain(&self.file);
        write!(f, "{file}:{}:{}: {}", self.line, self.column, self.message)?;
        match (&self.meant, &self.hint) {
            (Some(meant), _) => write!(f, "; did you mean \"{}\"?", plain(meant)),
            (None, Some(hint)) => write!(f, "; {hint}"),
            (None, None) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_trouble_is_not_the_statements_fault() {
        for sqlstate in ["55P03", "57014", "57P01", "40P01", "53200", "58030"] {
            assert!(is_of_the_moment(sqlstate), "{sqlstate}");
        }
        for sqlstate in ["42P01", "42601", "42501", "22P02", "0A000", "55000"] {
            assert!(!is_of_the_moment(sqlstate), "{sqlstate}");
        }
    }

    #[test]
    fn qualified_name_gives_its_last_part() {
        for (text, expected) in [
            ("Partner where", Some("partner")),
            ("app.\"Part ner\" x", Some("Part ner")),
            ("p.nam, 1", Some("nam")),
            ("(select", None),
            ("", None),
        ] {
            assert_eq!(name(text).as_deref(), expected, "{text}");
        }
    }
}
