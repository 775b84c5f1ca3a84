//! A file's statements, one by one, and whether they can run in a transaction.
//!
//! A text whose strings have no end as we read it is sent whole, in a transaction, and the
//! server decides.

use crate::error::{Error, Kind, Result};
use crate::lint::Rule;
use crate::split::{self, Comment, Token, split};

/// How comments to us begin.
const DIRECTIVE: &str = "antifreeze:";

/// A migration's text, ready to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Script {
    pub(super) statements: Vec<Statement>,
    /// All of it runs in one transaction.
    pub(super) in_transaction: bool,
    /// It could not be split: there is one statement, the whole text.
    pub(super) is_whole: bool,
}

/// One statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Statement {
    pub(super) text: String,
    /// Where it begins, counted from 1.
    pub(super) line: usize,
    /// Its words in capitals, those in quotes left out.
    words: Vec<String>,
    /// What the lint is not to say of it.
    pub(super) allowed: Vec<Rule>,
}

impl Script {
    /// Reads the text of `migration`.
    ///
    /// # Errors
    ///
    /// It holds what no migration can: COMMIT, COPY FROM STDIN, a command of psql's, a
    /// statement that runs alone beside others that do not.
    pub(super) fn read(migration: &str, text: &str) -> Result<Script> {
        let mut reader = Reader {
            migration,
            statements: Vec::new(),
            alone_anyway: false,
        };
        let split = match split(text) {
            Ok(split) => split,
            Err(error) if error.is_open => {
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
            Err(error) => return Err(reader.wrong(error.line, error.why)),
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

    /// PostgreSQL's word is "cannot run inside a transaction block" (its manual, at each of
    /// these commands).
    fn runs_alone(&self) -> bool {
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

    /// It waits for locks that keep nobody from reading and writing: behind it nobody queues.
    pub(super) fn waits_in_peace(&self) -> bool {
        match self.head()[..] {
            ["VACUUM", ..] => !self.has("FULL"),
            ["CREATE" | "DROP" | "REINDEX", ..] => self.has("CONCURRENTLY"),
            _ => false,
        }
    }

    pub(super) fn makes_index_concurrently(&self) -> bool {
        matches!(self.head()[..], ["CREATE", ..]) && self.runs_alone() && self.has("INDEX")
    }

    pub(super) fn sets(&self) -> bool {
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

    fn copies_over_the_wire(&self) -> bool {
        matches!(self.head()[..], ["COPY", ..]) && (self.has("STDIN") || self.has("STDOUT"))
    }

    fn has(&self, word: &str) -> bool {
        self.words.iter().any(|known| known == word)
    }

    fn head(&self) -> Vec<&str> {
        self.words.iter().take(4).map(String::as_str).collect()
    }

    /// Its first words, to name it.
    fn shown(&self) -> String {
        let words = self.words.iter().map(String::as_str);
        let end = words.clone().position(|word| word == "CONCURRENTLY");
        words
            .take(end.map_or(2, |end| end + 1))
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// Puts a script together.
struct Reader<'a> {
    migration: &'a str,
    statements: Vec<Statement>,
    alone_anyway: bool,
}

impl Reader<'_> {
    fn comment(&mut self, comment: &Comment<'_>) -> Result<()> {
        let Some(directive) = comment.text.trim().strip_prefix(DIRECTIVE).map(str::trim) else {
            return Ok(());
        };
        if directive == "no-transaction" {
            self.alone_anyway = true;
            return Ok(());
        }
        let Some(names) = directive.strip_prefix("allow ") else {
            return Err(self.wrong(
                comment.line,
                format!("`{DIRECTIVE} {directive}` is not known: it takes `allow NAME` or `no-transaction`"),
            ));
        };
        // One that stands beside the end of a statement speaks of what is before it.
        let of = comment.after - usize::from(comment.beside);
        for name in names.split(',').map(str::trim) {
            let Some(rule) = Rule::named(name) else {
                let known: Vec<_> = Rule::ALL.iter().map(|rule| rule.name()).collect();
                return Err(self.wrong(
                    comment.line,
                    format!(
                        "no rule of the lint is named {name:?}: there are {}",
                        known.join(", ")
                    ),
                ));
            };
            if let Some(statement) = self.statements.get_mut(of) {
                statement.allowed.push(rule);
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Script> {
        if let Some(copy) = self
            .statements
            .iter()
            .find(|one| one.copies_over_the_wire())
        {
            let why =
                "COPY cannot read from or write to the connection in a migration: write INSERT";
            return Err(self.wrong(copy.line, why));
        }
        let alone = self.statements.iter().find(|one| one.runs_alone());
        let in_transaction = alone.is_none() && !self.alone_anyway;
        if in_transaction {
            let ends = self.statements.iter().find(|one| one.ends_transaction());
            if let Some(ends) = ends {
                let why = format!(
                    "{} is not for a migration to say, which runs in a transaction together with \
                     its row in the history: take it out, or write `-- {DIRECTIVE} no-transaction`",
                    ends.shown()
                );
                return Err(self.wrong(ends.line, why));
            }
        }
        let mut others = self
            .statements
            .iter()
            .filter(|one| !one.runs_alone() && !one.sets());
        if let (Some(alone), Some(_), false) = (alone, others.next(), self.alone_anyway) {
            let why = format!(
                "{} cannot run in a transaction, and the other statements here should: give it a \
                 file of its own, or write `-- {DIRECTIVE} no-transaction` to run all of them \
                 without one",
                alone.shown()
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
            Kind::Files,
            format!("{} (line {line}): {why}", self.migration),
        )
    }
}

#[cfg(test)]
mod tests;
