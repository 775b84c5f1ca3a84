//! Prepares a statement on the server and interprets the answer.

use std::collections::HashSet;
use std::fmt;

use antifreeze::Session;
use antifreeze_doctor::printable;
use antifreeze_migrate::split::{SplitError, Statement, Token};
use serde::Serialize;
use tokio_postgres::error::{DbError, ErrorPosition, SqlState};

use crate::outcome::Failure;

/// Begins the transaction of a check. Preparing a statement takes a lock on its tables, which
/// waits for an ALTER TABLE and blocks others meanwhile: the lock timeout limits that.
const BEGIN: &str = "begin read only; set local lock_timeout = '2s'";

/// The result of checking a statement.
pub enum Checked {
    Fits,
    /// Only its grammar was checked.
    GrammarOnly,
    /// It needs a table that another of the files creates.
    NeedsOtherFile,
    Mismatch(Box<Finding>),
    /// The server could not check it: it may fit or not.
    Inconclusive(Box<Finding>),
}

/// The server's error about a statement.
#[derive(Debug, Serialize)]
pub struct Finding {
    pub file: String,
    pub line: usize,
    pub column: usize,
    pub sqlstate: Option<String>,
    pub message: String,
    pub hint: Option<String>,
    /// The name at the position of the error.
    pub name: Option<String>,
    /// An existing name that is similar.
    pub suggestion: Option<String>,
    /// The words of the statement, for finding the tables whose columns to suggest.
    #[serde(skip)]
    pub words: Vec<String>,
}

/// Prepares a statement. `created` are the tables that the statements before it create.
pub async fn check(
    session: &Session,
    file: &str,
    statement: &Statement<'_>,
    created: &HashSet<String>,
) -> Result<Checked, Failure> {
    session.batch_execute(BEGIN).await?;
    let prepared = session.prepare(statement.text).await;
    let checked = match prepared {
        Ok(_) if is_analyzed(statement) => Checked::Fits,
        Ok(_) => Checked::GrammarOnly,
        Err(error) => match error.as_db_error() {
            Some(error) => {
                let finding = Finding::new(file, statement, error);
                if is_transient(error.code().code()) {
                    // The error may have ended the session: ignore that of the rollback.
                    let _ = session.batch_execute("rollback").await;
                    return Ok(Checked::Inconclusive(Box::new(finding)));
                }
                match finding.name.as_ref().filter(|_| is_undefined_table(error)) {
                    Some(name) if created.contains(name) => Checked::NeedsOtherFile,
                    _ => Checked::Mismatch(Box::new(finding)),
                }
            }
            None => return Err(error.into()),
        },
    };
    session.batch_execute("rollback").await?;
    Ok(checked)
}

/// Returns whether the server looks up tables and types when it prepares the statement.
fn is_analyzed(statement: &Statement<'_>) -> bool {
    const KINDS: [&str; 8] = [
        "select", "insert", "update", "delete", "merge", "values", "with", "table",
    ];
    // A query may begin with a parenthesis.
    let mut tokens = statement.tokens.iter();
    let first = tokens.find(|token| **token != Token::Other('('));
    first.is_some_and(|first| KINDS.iter().any(|kind| first.is(kind)))
}

/// Returns whether an error is about the state of the server and not about the statement
/// (manual, appendix A): a lock that is not available; class 08, connection exception; 40,
/// transaction rollback; 53, insufficient resources; 57, operator intervention, including
/// timeouts; 58, system error.
fn is_transient(sqlstate: &str) -> bool {
    const LOCK_NOT_AVAILABLE: &str = "55P03";
    sqlstate == LOCK_NOT_AVAILABLE
        || ["08", "40", "53", "57", "58"].contains(&sqlstate.get(..2).unwrap_or_default())
}

fn is_undefined_table(error: &DbError) -> bool {
    *error.code() == SqlState::UNDEFINED_TABLE
}

impl Finding {
    fn new(file: &str, statement: &Statement<'_>, error: &DbError) -> Self {
        let at = match error.position() {
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
            sqlstate: Some(error.code().code().to_owned()),
            message: printable(error.message()),
            hint: error.hint().map(printable),
            name: error.position().and_then(|_| name(&rest)),
            suggestion: None,
            words: words(statement),
        }
    }

    pub fn unreadable(file: &str, error: &SplitError) -> Self {
        Finding {
            file: file.to_owned(),
            line: error.line,
            column: error.column,
            sqlstate: None,
            message: printable(&error.message),
            hint: None,
            name: None,
            suggestion: None,
            words: Vec::new(),
        }
    }
}

/// Returns the words of a statement in upper case.
fn words(statement: &Statement<'_>) -> Vec<String> {
    let words = statement.tokens.iter().filter_map(|token| match token {
        Token::Word(word) | Token::Quoted(word) => Some(word.to_uppercase()),
        _ => None,
    });
    words.collect()
}

/// Returns the last part of the qualified name that `text` begins with.
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

/// Writes `sql/a.sql:12:8: relation "partner" does not exist; did you mean "partners"?`.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = printable(&self.file);
        write!(f, "{file}:{}:{}: {}", self.line, self.column, self.message)?;
        match (&self.suggestion, &self.hint) {
            (Some(name), _) => write!(f, "; did you mean \"{}\"?", printable(name)),
            (None, Some(hint)) => write!(f, "; {hint}"),
            (None, None) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transient_errors_are_not_mismatches() {
        for sqlstate in ["55P03", "57014", "57P01", "40P01", "53200", "58030"] {
            assert!(is_transient(sqlstate), "{sqlstate}");
        }
        for sqlstate in ["42P01", "42601", "42501", "22P02", "0A000", "55000"] {
            assert!(!is_transient(sqlstate), "{sqlstate}");
        }
    }

    #[test]
    fn qualified_names_end_in_the_last_part() {
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
