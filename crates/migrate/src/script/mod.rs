//! Splits a migration into statements, and decides whether it runs in a transaction.
//!
//! A text with an unterminated string is sent whole, in a transaction, and the server decides.

use crate::error::{Error, ErrorKind, Result};
use crate::lint::Rule;
use crate::split::{self, Comment, Token, split};

/// The prefix of comments that are directives.
const DIRECTIVE: &str = "antifreeze:";

/// The statements of a migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Script {
    pub(super) statements: Vec<Statement>,
    /// Whether all statements run in one transaction.
    pub(super) in_transaction: bool,
    /// Whether the text could not be split, so that it is a single statement.
    pub(super) is_whole: bool,
}

/// A statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Statement {
    pub(super) text: String,
    /// The line at which it begins, from 1.
    pub(super) line: usize,
    /// Its unquoted words, in upper case.
    words: Vec<String>,
    /// The lint's rules that a comment allows.
    pub(super) allowed: Vec<Rule>,
}

impl Script {
    /// Reads the text of `migration`.
    ///
    /// # Errors
    ///
    /// Fails if the text contains COMMIT, COPY FROM STDIN or a psql command, or mixes
    /// statements that cannot run in a transaction with others.
    pub(super) fn read(migration: &str, text: &str) -> Result<Script> {
        let mut reader = Reader {
            migration,
            statements: Vec::new(),
            no_transaction: false,
        };
        let split = match split(text) {
            Ok(split) => split,
            Err(error) if error.is_unterminated => {
                return Ok(Script {
                    statements: vec![Statement {
                        text: text.trim_start_matches('\u{feff}').to_owned(),
                        line: 1,
                        words: Vec::new(),
                        allowed: Vec::new(),
                    }],
                    in_transaction: true,
                    is_whole: true,
                });
            }
            Err(error) => return Err(reader.wrong(error.line, error.message)),
        };
        reader.statements = split.statements.iter().map(Statement::of).collect();
        for comment in &split.comments {
            reader.comment(comment)?;
        }
        reader.finish()
    }
}

impl Statement {
    fn of(statement: &split::Statement<'_>) -> Statement {
        let words = statement.tokens.iter().filter_map(|token| match token {
            Token::Word(word) => Some(word.to_ascii_uppercase()),
            _ => None,
        });
        Statement {
            text: statement.text.to_owned(),
            line: statement.line,
            words: words.collect(),
            allowed: Vec::new(),
        }
    }

    /// Returns whether the statement "cannot be executed inside a transaction block" (manual,
    /// at each of these commands).
    fn forbids_transaction(&self) -> bool {
        let concurrently = || self.has("CONCURRENTLY");
        match self.head()[..] {
            ["CREATE", "INDEX", ..] | ["CREATE", "UNIQUE", "INDEX", ..] | ["DROP", "INDEX", ..] => {
                concurrently()
            }
            ["REINDEX", ..] => concurrently() || self.has("DATABASE") || self.has("SYSTEM"),
            ["ALTER", "TABLE", ..] => self.has("DETACH") && concurrently(),
            [
                "CREATE" | "DROP",
                "DATABASE" | "TABLESPACE" | "SUBSCRIPTION",
                ..,
            ]
            | ["ALTER", "SYSTEM", ..]
            | ["VACUUM", ..]
            | ["CLUSTER"] => true,
            ["ALTER", "DATABASE", ..] => self.has("TABLESPACE"),
            _ => false,
        }
    }

    /// Returns whether the statement waits for and holds only locks that do not block reads and
    /// writes.
    pub(super) fn is_online(&self) -> bool {
        match self.head()[..] {
            ["VACUUM", ..] => !self.has("FULL"),
            ["CREATE" | "DROP" | "REINDEX", ..] => self.has("CONCURRENTLY"),
            _ => false,
        }
    }

    /// Returns whether the statement may commit before it ends, outside a transaction.
    pub(super) fn commits_by_itself(&self) -> bool {
        match self.head()[..] {
            ["CALL" | "DO", ..] => true,
            ["ALTER", "TABLE", ..] => self.has("DETACH") && self.has("CONCURRENTLY"),
            _ => false,
        }
    }

    /// Returns whether the statement is COMMIT AND CHAIN.
    pub(super) fn chains(&self) -> bool {
        matches!(self.head()[..], ["COMMIT" | "END", ..]) && self.has("CHAIN")
    }

    /// Returns whether the statement is CREATE INDEX CONCURRENTLY.
    pub(super) fn creates_index_concurrently(&self) -> bool {
        matches!(self.head()[..], ["CREATE", ..]) && self.forbids_transaction() && self.has("INDEX")
    }

    /// Returns whether the statement is SET or RESET.
    pub(super) fn is_setting(&self) -> bool {
        matches!(self.head()[..], ["SET" | "RESET", ..])
    }

    fn ends_transaction(&self) -> bool {
        match self.head()[..] {
            ["BEGIN" | "COMMIT" | "END" | "ABORT", ..]
            | ["START" | "PREPARE", "TRANSACTION", ..] => true,
            ["ROLLBACK", ..] => !self.has("TO"),
            _ => false,
        }
    }

    fn uses_copy_protocol(&self) -> bool {
        matches!(self.head()[..], ["COPY", ..]) && (self.has("STDIN") || self.has("STDOUT"))
    }

    fn has(&self, word: &str) -> bool {
        self.words.iter().any(|known| known == word)
    }

    fn head(&self) -> Vec<&str> {
        self.words.iter().take(4).map(String::as_str).collect()
    }

    /// Returns its first words, for messages.
    fn summary(&self) -> String {
        let words = self.words.iter().map(String::as_str);
        let end = words.clone().position(|word| word == "CONCURRENTLY");
        words
            .take(end.map_or(2, |end| end + 1))
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// Builds a script.
struct Reader<'a> {
    migration: &'a str,
    statements: Vec<Statement>,
    no_transaction: bool,
}

impl Reader<'_> {
    fn comment(&mut self, comment: &Comment<'_>) -> Result<()> {
        let Some(directive) = comment.text.trim().strip_prefix(DIRECTIVE).map(str::trim) else {
            return Ok(());
        };
        if directive == "no-transaction" {
            self.no_transaction = true;
            return Ok(());
        }
        let Some(names) = directive.strip_prefix("allow ") else {
            return Err(self.wrong(
                comment.line,
                format!(
                    "unknown directive `{DIRECTIVE} {directive}`: expected `allow NAME` or \
                     `no-transaction`"
                ),
            ));
        };
        // A comment on the line where a statement ends belongs to that statement.
        let index = comment.after - usize::from(comment.same_line);
        for name in names.split(',').map(str::trim) {
            let Some(rule) = Rule::named(name) else {
                let known: Vec<_> = Rule::ALL.iter().map(|rule| rule.name()).collect();
                return Err(self.wrong(
                    comment.line,
                    format!(
                        "unknown lint rule {name:?}: expected one of {}",
                        known.join(", ")
                    ),
                ));
            };
            if let Some(statement) = self.statements.get_mut(index) {
                statement.allowed.push(rule);
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Script> {
        if let Some(copy) = self
            .statements
            .iter()
            .find(|statement| statement.uses_copy_protocol())
        {
            let why =
                "COPY FROM STDIN and COPY TO STDOUT are not supported in a migration: use INSERT";
            return Err(self.wrong(copy.line, why));
        }
        let alone = self
            .statements
            .iter()
            .find(|statement| statement.forbids_transaction());
        let in_transaction = alone.is_none() && !self.no_transaction;
        if in_transaction {
            let ends = self
                .statements
                .iter()
                .find(|statement| statement.ends_transaction());
            if let Some(ends) = ends {
                let why = format!(
                    "{} is not allowed in a migration, which runs in a transaction together with \
                     its entry in the history: remove it, or write `-- {DIRECTIVE} \
                     no-transaction`",
                    ends.summary()
                );
                return Err(self.wrong(ends.line, why));
            }
        }
        let mut others = self
            .statements
            .iter()
            .filter(|statement| !statement.forbids_transaction() && !statement.is_setting());
        if let (Some(alone), Some(_), false) = (alone, others.next(), self.no_transaction) {
            let why = format!(
                "{} cannot run in a transaction, but the other statements of the file do: move it \
                 to a separate file, or write `-- {DIRECTIVE} no-transaction` to run all of them \
                 without a transaction",
                alone.summary()
            );
            return Err(self.wrong(alone.line, why));
        }
        Ok(Script {
            statements: self.statements,
            in_transaction,
            is_whole: false,
        })
    }

    fn wrong(&self, line: usize, why: impl std::fmt::Display) -> Error {
        Error::new(
            ErrorKind::Files,
            format!("{} (line {line}): {why}", self.migration),
        )
    }
}

#[cfg(test)]
mod tests;
