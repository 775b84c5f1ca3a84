//! Counts the work of a session: statements, rows, bytes, and repeated statements.
//!
//! A statement is known by a fingerprint of its text without literals and parameters. Its values
//! are not kept, and its text only if asked for.

use std::collections::HashMap;
use std::collections::hash_map::{DefaultHasher, Entry};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::residue::{controls_transaction, is_setting};
use super::sql::{Lexeme, lexemes};

/// How much of a text is looked at.
const LONGEST: usize = 16 * 1024;

/// How many characters of a text are kept.
const SHOWN: usize = 500;

/// How many different statements are counted.
const MOST: usize = 1_000;

/// The work of a session since it was checked out.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Work {
    /// Statements that the server has executed, or refused.
    pub(crate) statements: u64,
    /// Rows that they have returned or changed.
    pub(crate) rows: u64,
    /// Bytes to the server, and from it.
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) round_trips: u64,
    /// The time in which an answer was awaited, if it is measured.
    pub(crate) busy: Duration,
}

impl Work {
    pub(crate) fn add(&mut self, other: &Work) {
        self.statements += other.statements;
        self.rows += other.rows;
        self.sent += other.sent;
        self.received += other.received;
        self.round_trips += other.round_trips;
        self.busy += other.busy;
    }

    /// Notes the tag of a CommandComplete: a statement, and the rows at its end, if it counts any.
    pub(super) fn completed(&mut self, tag: &[u8]) {
        self.statements += 1;
        let mut rows = 0;
        let mut unit = 1;
        for &byte in tag.iter().rev() {
            match byte {
                b'0'..=b'9' => {
                    let digit = u64::from(byte - b'0');
                    rows = u64::wrapping_add(rows, digit.wrapping_mul(unit));
                    unit = unit.wrapping_mul(10);
                }
                b' ' => return self.rows = self.rows.wrapping_add(rows),
                _ => return,
            }
        }
    }
}

/// A statement without its values.
#[derive(Debug)]
pub(crate) struct Fingerprint {
    pub(crate) hash: u64,
    /// Its text, if that is wanted.
    text: Option<Box<str>>,
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.text {
            Some(text) => f.write_str(text),
            None => write!(f, "{:016x}", self.hash),
        }
    }
}

/// What is watched in addition to the counters.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Watching {
    /// Statements, to find those that are repeated.
    pub(crate) statements: bool,
    /// Their text, too.
    pub(crate) texts: bool,
    /// The time that answers take.
    pub(crate) times: bool,
}

/// What was watched.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    watching: Watching,
    /// The first statement that does not only control a transaction.
    pub(crate) first: Option<Arc<Fingerprint>>,
    /// How often each was executed.
    pub(crate) seen: HashMap<u64, (u32, Arc<Fingerprint>)>,
    last: Option<Arc<Fingerprint>>,
    /// The longest wait for an answer, with the last statement before it.
    pub(crate) slowest: Option<(Duration, Option<Arc<Fingerprint>>)>,
    busy: Duration,
    /// When the server began to owe an answer.
    since: Option<Instant>,
}

impl Watched {
    pub(super) fn new(watching: Watching) -> Self {
        Watched {
            watching,
            ..Watched::default()
        }
    }

    /// Takes what was watched, and goes on.
    pub(super) fn take(&mut self, work: &mut Work) -> Watched {
        let fresh = Watched {
            since: self.since,
            ..Watched::new(self.watching)
        };
        let taken = std::mem::replace(self, fresh);
        work.busy = taken.busy;
        taken
    }

    /// Returns the fingerprint of a text. `None`: it is not a statement of the application that
    /// could be one too many.
    pub(super) fn fingerprint(
        &self,
        text: &[u8],
        conforming: Option<bool>,
    ) -> Option<Arc<Fingerprint>> {
        if !self.watching.statements || is_setting(text) || controls_transaction(text, conforming) {
            return None;
        }
        let text = &text[..text.len().min(LONGEST)];
        let normal = normalised(text, conforming);
        // A driver's own questions about types, and savepoints.
        let skips = ["savepoint ", "release ", "rollback "];
        let is_own = skips.iter().any(|skip| normal.starts_with(skip))
            || normal.contains("pg_catalog.")
            || normal.contains("pg_type");
        if normal.is_empty() || is_own {
            return None;
        }
        let mut hasher = DefaultHasher::new();
        normal.hash(&mut hasher);
        let text = self.watching.texts.then(|| cut(normal).into_boxed_str());
        Some(Arc::new(Fingerprint {
            hash: hasher.finish(),
            text,
        }))
    }

    /// Notes that a statement is executed.
    pub(super) fn saw(&mut self, statement: &Arc<Fingerprint>) {
        self.first.get_or_insert_with(|| Arc::clone(statement));
        self.last = Some(Arc::clone(statement));
        let is_full = self.seen.len() >= MOST;
        match self.seen.entry(statement.hash) {
            Entry::Occupied(mut seen) => seen.get_mut().0 += 1,
            Entry::Vacant(_) if is_full => {}
            Entry::Vacant(seen) => drop(seen.insert((1, Arc::clone(statement)))),
        }
    }

    /// Notes that the server owes an answer.
    pub(super) fn asked(&mut self) {
        if self.watching.times && self.since.is_none() {
            self.since = Some(Instant::now());
        }
    }

    /// Notes that the server owes no answer any more.
    pub(super) fn answered(&mut self) {
        if let Some(since) = self.since.take() {
            let took = since.elapsed();
            self.busy += took;
            if self.slowest.as_ref().is_none_or(|(most, _)| *most < took) {
                self.slowest = Some((took, self.last.clone()));
            }
        }
    }
}

fn cut(mut text: String) -> String {
    if let Some((at, _)) = text.char_indices().nth(SHOWN) {
        text.truncate(at);
        text.push_str("..");
    }
    text
}

/// Returns the text without comments, with a question mark for each literal and parameter, and
/// for each list of them. It ends with a literal whose end is not certain.
fn normalised(text: &[u8], conforming: Option<bool>) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut space = false;
    for lexeme in lexemes(text, conforming) {
        if lexeme == Lexeme::Space {
            space = true;
            continue;
        }
        if std::mem::take(&mut space) && !out.is_empty() {
            out.push(b' ');
        }
        match lexeme {
            Lexeme::Value { .. } | Lexeme::Number(_) => value(&mut out),
            Lexeme::Word(word) => out.extend(word.iter().map(u8::to_ascii_lowercase)),
            Lexeme::Quoted(name) => out.extend([b"\"", name, b"\""].concat()),
            Lexeme::Sign(sign) => out.push(sign),
            Lexeme::Space => {}
        }
        if lexeme == (Lexeme::Value { certain: false }) {
            break;
        }
        if out.ends_with(b")") {
            rows(&mut out);
        }
    }
    let text = String::from_utf8_lossy(&out);
    text.trim_end_matches([';', ' ']).to_owned()
}

/// Adds a value, which a list of values has absorbed if it is not the first.
fn value(out: &mut Vec<u8>) {
    for list in [&b"?, "[..], b"?,", b"? ,", b"? , "] {
        if out.ends_with(list) {
            out.truncate(out.len() - list.len());
        }
    }
    out.push(b'?');
}

/// Absorbs a row of values behind another: `(?), (?)`.
fn rows(out: &mut Vec<u8>) {
    for two in [&b"(?), (?)"[..], b"(?),(?)", b"(?) ,(?)", b"(?) , (?)"] {
        if out.ends_with(two) {
            out.truncate(out.len() - two.len());
            out.extend_from_slice(b"(?)");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_comments_are_not_part_of_a_statement() {
        for (text, expected) in [
            (
                "SELECT * FROM t WHERE id = 17",
                "select * from t where id = ?",
            ),
            ("select $1::text, $2", "select ?::text, ?"),
            (
                "select a from t where b in (1, 2,3)",
                "select a from t where b in (?)",
            ),
            (
                "select a from t where b in ($1,$2)",
                "select a from t where b in (?)",
            ),
            (
                "insert into t values (1, 'a'), (2, 'b'), (3, 'c')",
                "insert into t values (?)",
            ),
            ("select 'it''s', E'a\\'b', $$x$$, $b$y$b$", "select ?"),
            ("select 1 -- hunter2\n+ 2 /* hunter2 */", "select ? + ?"),
            ("select  \"Aa\"\n , b1 ;", "select \"Aa\" , b1"),
            ("select 1.5e3, x'ff'", "select ?"),
            ("select 'open", "select ?"),
            ("", ""),
        ] {
            assert_eq!(normalised(text.as_bytes(), Some(true)), expected, "{text}");
        }
    }

    #[test]
    fn no_literal_is_taken_for_text() {
        for (text, conforming, expected) in [
            (r"select 'a\', 'hunter2'", Some(true), "select ?"),
            (r"select N'a\', 'hunter2' b", Some(true), "select ? b"),
            (r"select 'a\', hunter2 --' b", Some(false), "select ? b"),
            (r"select E'a\', hunter2 --' b", Some(true), "select ? b"),
            (r"select 'a\', 'hunter2' b", None, "select ?"),
            (r"select 'a\b', 'hunter2' b", None, "select ? b"),
            ("select 1 -- it's\r, 'hunter2'", Some(true), "select ?"),
        ] {
            assert_eq!(normalised(text.as_bytes(), conforming), expected, "{text}");
        }
    }

    #[test]
    fn different_statements_differ() {
        let watched = Watched::new(Watching {
            statements: true,
            ..Watching::default()
        });
        let hash = |text: &str| {
            watched
                .fingerprint(text.as_bytes(), Some(true))
                .map(|of| of.hash)
        };
        assert_eq!(
            hash("select a from t where b = 1"),
            hash("SELECT a from t where b = 'x'")
        );
        assert_ne!(
            hash("select a from t where b = 1"),
            hash("select a from t where b > 1")
        );
        assert_ne!(hash("select a from t"), hash("select a from u"));
        for own in [
            "begin",
            "commit",
            "savepoint a",
            "rollback to a",
            "release a",
            " ;",
            "select typname from pg_catalog.pg_type where oid = $1",
        ] {
            assert_eq!(hash(own), None, "{own}");
        }
    }

    #[test]
    fn rows_are_those_of_the_tag() {
        let mut work = Work::default();
        for tag in [
            "SELECT 3",
            "INSERT 0 14",
            "BEGIN",
            "UPDATE 0",
            "CREATE TABLE",
            "x 12a",
            "7",
            "x 00000000000000000000000",
        ] {
            work.completed(tag.as_bytes());
        }
        assert_eq!((work.statements, work.rows), (8, 17));
        work.completed(&[b'9'; 40]);
    }

    proptest::proptest! {
        #[test]
        fn secret_in_a_literal_is_in_no_fingerprint(
            before in "[a-z =,(]{0,20}",
            prefix in "[eEnNbBxX]?",
            first in r"([a-z]|\\[a-z]|\\\\|''){0,6}",
            after in "[ -~]{0,40}",
            conforming in proptest::option::of(proptest::bool::ANY),
        ) {
            let text = format!("select {before} {prefix}'{first}', 'hunter2' {after}");
            let normal = normalised(text.as_bytes(), conforming);
            proptest::prop_assert!(!normal.contains("hunter2"), "{}", normal);
        }
    }
}
