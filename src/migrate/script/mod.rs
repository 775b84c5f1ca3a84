//! A file's statements, one by one, and whether they can run in a transaction.
//!
//! They are told apart by the tokens of `sqlparser`. What it cannot read is sent whole, in
//! a transaction, and the server decides.

use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer, Whitespace};

use crate::migrate::error::{Error, Kind, Result};
use crate::migrate::lint::Rule;

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
    /// It holds what no migration can: COMMIT, COPY FROM STDIN, a statement that runs alone
    /// beside others that do not.
    pub(super) fn read(migration: &str, text: &str) -> Result<Script> {
        let tokens = Tokenizer::new(&PostgreSqlDialect {}, text).tokenize_with_location();
        let Ok(tokens) = tokens else {
            return Ok(Script {
                statements: vec![Statement {
                    text: text.to_owned(),
                    line: 1,
                    words: Vec::new(),
                    allowed: Vec::new(),
                }],
                in_transaction: true,
                is_whole: true,
            });
        };
        let mut reader = Reader::new(migration, text);
        for token in &tokens {
            reader.take(token)?;
        }
        reader.finish()
    }
}

impl Statement {
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

/// Puts tokens together.
struct Reader<'a> {
    migration: &'a str,
    text: &'a str,
    /// The rest of `text`, and where it begins.
    rest: std::str::Chars<'a>,
    line: u64,
    column: u64,
    statements: Vec<Statement>,
    /// Where the statement at hand begins, and what is known of it.
    begin: Option<(usize, u64)>,
    words: Vec<String>,
    allowed: Vec<Rule>,
    /// Open parentheses, and bodies of SQL functions (BEGIN ATOMIC .. END).
    parentheses: usize,
    atomic: usize,
    /// The line of the last semicolon: a comment there speaks of what is before it.
    ended: u64,
    alone_anyway: bool,
}

impl<'a> Reader<'a> {
    fn new(migration: &'a str, text: &'a str) -> Self {
        Reader {
            migration,
            text,
            rest: text.chars(),
            line: 1,
            column: 1,
            statements: Vec::new(),
            begin: None,
            words: Vec::new(),
            allowed: Vec::new(),
            parentheses: 0,
            atomic: 0,
            ended: 0,
            alone_anyway: false,
        }
    }

    fn take(&mut self, token: &TokenWithSpan) -> Result<()> {
        let at = self.offset(token);
        let line = token.span.start.line;
        match &token.token {
            Token::Whitespace(Whitespace::SingleLineComment { comment, .. })
            | Token::Whitespace(Whitespace::MultiLineComment(comment)) => {
                return self.comment(comment.trim(), line);
            }
            Token::Whitespace(_) | Token::EOF => return Ok(()),
            Token::SemiColon if self.parentheses == 0 && self.atomic == 0 => {
                self.end(at);
                self.ended = line;
                return Ok(());
            }
            Token::LParen => self.parentheses += 1,
            Token::RParen => self.parentheses = self.parentheses.saturating_sub(1),
            Token::Word(word) if word.quote_style.is_none() => {
                let text = word.value.to_ascii_uppercase();
                match text.as_str() {
                    "ATOMIC" if self.words.last().is_some_and(|last| last == "BEGIN") => {
                        self.atomic = 1;
                    }
                    "CASE" if self.atomic > 0 => self.atomic += 1,
                    "END" => self.atomic = self.atomic.saturating_sub(1),
                    _ => {}
                }
                self.words.push(text);
            }
            _ => {}
        }
        self.begin.get_or_insert((at, line));
        Ok(())
    }

    /// Where a token begins in the text. The tokenizer counts characters and lines.
    fn offset(&mut self, token: &TokenWithSpan) -> usize {
        let start = token.span.start;
        while (self.line, self.column) < (start.line, start.column) {
            match self.rest.next() {
                Some('\n') => {
                    self.line += 1;
                    self.column = 1;
                }
                Some(_) => self.column += 1,
                None => break,
            }
        }
        self.text.len() - self.rest.as_str().len()
    }

    fn comment(&mut self, comment: &str, line: u64) -> Result<()> {
        let Some(directive) = comment.strip_prefix(DIRECTIVE).map(str::trim) else {
            return Ok(());
        };
        if directive == "no-transaction" {
            self.alone_anyway = true;
            return Ok(());
        }
        let Some(names) = directive.strip_prefix("allow ") else {
            return Err(self.wrong(
                line,
                format!("`{DIRECTIVE} {directive}` is not known: it takes `allow NAME` or `no-transaction`"),
            ));
        };
        for name in names.split(',').map(str::trim) {
            let Some(rule) = Rule::named(name) else {
                let known: Vec<_> = Rule::ALL.iter().map(|rule| rule.name()).collect();
                return Err(self.wrong(
                    line,
                    format!(
                        "no rule of the lint is named {name:?}: there are {}",
                        known.join(", ")
                    ),
                ));
            };
            match self.statements.last_mut().filter(|_| self.ended == line) {
                Some(before) => before.allowed.push(rule),
                None => self.allowed.push(rule),
            }
        }
        Ok(())
    }

    fn end(&mut self, at: usize) {
        let words = std::mem::take(&mut self.words);
        let Some((begin, line)) = self.begin.take() else {
            return;
        };
        self.statements.push(Statement {
            text: self.text[begin..at].trim_end().to_owned(),
            line: usize::try_from(line).unwrap_or_default(),
            words,
            allowed: std::mem::take(&mut self.allowed),
        });
    }

    fn finish(mut self) -> Result<Script> {
        self.end(self.text.len());
        if let Some(copy) = self
            .statements
            .iter()
            .find(|one| one.copies_over_the_wire())
        {
            let why =
                "COPY cannot read from or write to the connection in a migration: write INSERT";
            return Err(self.wrong(copy.line as u64, why));
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
                return Err(self.wrong(ends.line as u64, why));
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
            return Err(self.wrong(alone.line as u64, why));
        }
        Ok(Script {
            statements: self.statements,
            in_transaction,
            is_whole: false,
        })
    }

    fn wrong(&self, line: u64, why: impl std::fmt::Display) -> Error {
        Error::new(
            Kind::Files,
            format!("{} (line {line}): {why}", self.migration),
        )
    }
}

#[cfg(test)]
mod tests;
