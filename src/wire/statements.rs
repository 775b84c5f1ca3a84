//! Keeps the prepared statements of a session by their content, and a client's names for them.
//!
//! The server knows a statement by a name of the wire's own, which is used once. So a text that is
//! prepared again never collides with what the server still has, and a client that prepared its
//! statement before the schema changed keeps that one, as it would alone.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::{Buf, Bytes};

use super::message::strings;
use super::residue::Traits;
use super::work::Fingerprint;

/// How the server knows the named statements of a client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Naming {
    /// As the client named them.
    #[default]
    AsGiven,
    /// Not at all: they are sent unnamed.
    Unnamed,
    /// By a name of the wire's own: a text that the session has prepared is not prepared again.
    ByContent {
        /// A Sync alone is answered here, too, as long as the connection is not known to be
        /// closed.
        answers_sync: bool,
    },
}

/// The number of statements that a session keeps while no client uses them.
const CAPACITY: usize = 100;

/// The longest text of a statement that is shared.
const LONGEST: usize = 16 * 1024;

/// The name of a statement that the server never has: a Bind of it fails.
pub(super) const MISSING: &[u8] = b"antifreeze_0";

/// Returns a number that is used once in this process.
pub(crate) fn once() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A statement that was prepared on the server.
#[derive(Debug)]
pub(super) struct ServerStatement {
    session: u64,
    pub(super) name: Box<[u8]>,
    /// The server has said that it is prepared.
    pub(super) parsed: AtomicBool,
    /// The unit in which the wire prepares it in front of a client's message. Until the server
    /// has said so, it is not certain for later units that it will be.
    in_front: Option<u64>,
    /// The server may not have it any more.
    gone: AtomicBool,
    /// ParameterDescription, and RowDescription or NoData.
    pub(super) description: OnceLock<Bytes>,
}

impl PartialEq for ServerStatement {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for ServerStatement {}

/// A statement that a client has prepared, as far as a later Bind needs it.
#[derive(Debug, Default)]
pub(super) struct Statement {
    pub(super) traits: Traits,
    /// Text and parameter types, for a Parse in front of a Bind.
    pub(super) text: Option<Arc<[u8]>>,
    /// When it was named: statements named later have a greater number.
    pub(super) since: u64,
    /// The session may have it for other names, too.
    pub(super) shared: bool,
    /// Where it is prepared.
    pub(super) server: Option<Arc<ServerStatement>>,
    /// The one whose description the client has.
    pub(super) described: Option<Arc<ServerStatement>>,
    /// The client's Parse was answered by the wire, and no Bind has followed yet.
    pub(super) local: bool,
    /// What it is, if statements were watched when it was prepared.
    pub(super) fingerprint: Option<Arc<Fingerprint>>,
}

/// The prepared statements of a client, by its own names.
#[derive(Debug, Default)]
pub struct Names(pub(super) HashMap<Box<[u8]>, Statement>);

impl Names {
    /// Adds a statement that was not sent: `after_name` has its text and parameter types. Returns
    /// false if the name is taken.
    pub(crate) fn add(&mut self, name: &[u8], after_name: &[u8]) -> bool {
        if !name.is_empty() && self.0.contains_key(name) {
            return false;
        }
        let statement = Statement {
            // No literal of a text that is not sent depends on the server's settings.
            traits: Traits::of(strings(after_name).next().unwrap_or_default(), Some(true)),
            text: Some(after_name.into()),
            since: once(),
            ..Statement::default()
        };
        self.0.insert(name.into(), statement);
        true
    }

    /// Returns the text of a statement.
    pub(crate) fn text(&self, name: &[u8]) -> Option<&[u8]> {
        let text = self.0.get(name)?.text.as_deref()?;
        strings(text).next()
    }

    pub(crate) fn remove(&mut self, name: &[u8]) {
        self.0.remove(name);
    }
}

/// Statements of the session by their content.
#[derive(Debug)]
pub(super) struct Prepared {
    session: u64,
    by_text: HashMap<Arc<[u8]>, Cached>,
    /// Not found by content any more: closed when no client uses them.
    retired: Vec<Arc<ServerStatement>>,
    /// How many of them a client used when that was last looked at.
    retired_in_use: usize,
    /// The unnamed statement, if a client by content has it.
    pub(super) unnamed: Option<Arc<ServerStatement>>,
    /// The number of units before the open one.
    pub(super) units: u64,
    uses: u64,
}

#[derive(Debug)]
struct Cached {
    statement: Arc<ServerStatement>,
    /// A new Parse would give the same.
    fresh: bool,
    used: u64,
}

impl Default for Prepared {
    fn default() -> Self {
        Prepared {
            session: once(),
            by_text: HashMap::new(),
            retired: Vec::new(),
            retired_in_use: 0,
            unnamed: None,
            units: 0,
            uses: 0,
        }
    }
}

impl Prepared {
    /// Returns whether this session has the statement.
    pub(super) fn has(&self, statement: &Arc<ServerStatement>) -> bool {
        if statement.name.is_empty() {
            return self.unnamed.as_ref() == Some(statement);
        }
        let parsed = statement.parsed.load(Ordering::Relaxed);
        let certain = parsed || statement.in_front.is_none_or(|unit| unit == self.units);
        statement.session == self.session && !statement.gone.load(Ordering::Relaxed) && certain
    }

    /// Returns the text as it is kept here, if a new Parse of it would give what the server has.
    pub(super) fn known(&mut self, text: &[u8]) -> Option<(Arc<[u8]>, Arc<ServerStatement>)> {
        let (text, cached) = self.by_text.get_key_value(text)?;
        if !cached.fresh || !cached.statement.parsed.load(Ordering::Relaxed) {
            return None;
        }
        let found = (Arc::clone(text), Arc::clone(&cached.statement));
        self.touch(&found.0);
        Some(found)
    }

    /// Returns the statement of the text that this session has, or will have once it has answered.
    pub(super) fn cached(&mut self, text: &[u8]) -> Option<Arc<ServerStatement>> {
        self.touch(text);
        let cached = self.by_text.get(text)?;
        (cached.fresh && self.has(&cached.statement)).then(|| Arc::clone(&cached.statement))
    }

    pub(super) fn touch(&mut self, text: &[u8]) {
        self.uses += 1;
        if let Some(cached) = self.by_text.get_mut(text) {
            cached.used = self.uses;
        }
    }

    /// Returns a new unnamed statement, which is now to be prepared.
    pub(super) fn prepare_unnamed(&mut self) -> Arc<ServerStatement> {
        let statement = self.statement(Box::default(), false);
        self.unnamed = Some(Arc::clone(&statement));
        statement
    }

    fn statement(&self, name: Box<[u8]>, in_front: bool) -> Arc<ServerStatement> {
        Arc::new(ServerStatement {
            session: self.session,
            name,
            parsed: AtomicBool::new(false),
            in_front: in_front.then_some(self.units),
            gone: AtomicBool::new(false),
            description: OnceLock::new(),
        })
    }

    /// Returns a new statement for the text, which is now to be prepared: `in_front` of a
    /// message, or for the client itself.
    pub(super) fn prepare(
        &mut self,
        text: &Arc<[u8]>,
        shared: bool,
        in_front: bool,
    ) -> Arc<ServerStatement> {
        let name = format!("antifreeze_{}", once());
        let statement = self.statement(name.into_bytes().into(), in_front);
        if !shared {
            self.retired.push(Arc::clone(&statement));
            return statement;
        }
        self.uses += 1;
        let cached = Cached {
            statement: Arc::clone(&statement),
            fresh: true,
            used: self.uses,
        };
        if let Some(before) = self.by_text.insert(Arc::clone(text), cached) {
            self.retired.push(before.statement);
        }
        self.evict();
        statement
    }

    /// Evicts the least recently used of those that no client uses.
    fn evict(&mut self) {
        while self.by_text.len() > CAPACITY {
            let unused =
                |(_, cached): &(&Arc<[u8]>, &Cached)| Arc::strong_count(&cached.statement) == 1;
            let candidates = self.by_text.iter().filter(unused);
            let Some((oldest, _)) = candidates.min_by_key(|(_, cached)| cached.used) else {
                return;
            };
            let oldest = Arc::clone(oldest);
            let cached = self.by_text.remove(&oldest);
            self.retired.extend(cached.map(|cached| cached.statement));
        }
    }

    /// Returns those that are to be closed now. While clients use many, it looks at them only when
    /// as many others may have been added.
    pub(super) fn take_closable(&mut self) -> Vec<Arc<ServerStatement>> {
        if self.retired.len() < 2 * self.retired_in_use {
            return Vec::new();
        }
        let used = |statement: &Arc<ServerStatement>| {
            !statement.gone.load(Ordering::Relaxed) && Arc::strong_count(statement) > 1
        };
        let retired = std::mem::take(&mut self.retired).into_iter();
        let (used, closed): (Vec<_>, Vec<_>) = retired.partition(used);
        self.retired_in_use = used.len();
        self.retired = used;
        for statement in &closed {
            statement.gone.store(true, Ordering::Relaxed);
        }
        closed
    }

    /// Notes that a statement was not closed after all.
    pub(super) fn retire(&mut self, statement: Arc<ServerStatement>) {
        self.retired.push(statement);
    }

    /// Notes that a statement could not be prepared, or that the server has lost it.
    pub(super) fn lose(&mut self, statement: &Arc<ServerStatement>) {
        if statement.name.is_empty() {
            self.unnamed = None;
            return;
        }
        statement.gone.store(true, Ordering::Relaxed);
        self.by_text
            .retain(|_, cached| cached.statement != *statement);
        if !self.retired.contains(statement) {
            self.retired.push(Arc::clone(statement));
        }
    }

    /// Returns whether a new Parse of this statement's text would give the same.
    pub(super) fn is_fresh(&self, statement: &Arc<ServerStatement>) -> bool {
        let mut all = self.by_text.values();
        all.any(|cached| cached.fresh && cached.statement == *statement)
    }

    /// Notes that a new Parse of this statement's text would give another.
    pub(super) fn outdate(&mut self, statement: &ServerStatement) {
        for cached in self.by_text.values_mut() {
            cached.fresh &= *cached.statement != *statement;
        }
    }

    /// Notes that a new Parse of any text might give another statement.
    pub(super) fn outdate_all(&mut self) {
        for cached in self.by_text.values_mut() {
            cached.fresh = false;
        }
    }

    /// Notes that the server was asked to forget all statements.
    pub(super) fn lose_all(&mut self) {
        let cached = self.by_text.drain().map(|(_, cached)| cached.statement);
        self.retired.extend(cached);
        for statement in &self.retired {
            statement.gone.store(true, Ordering::Relaxed);
        }
    }
}

/// Returns whether each Parse of `text` gives the same, as long as neither schema nor parameters
/// change. Literals like `'now'` are replaced by the time of their Parse.
pub(super) fn is_constant(text: &[u8]) -> bool {
    if text.len() > LONGEST || text.contains(&b'\\') {
        return false;
    }
    // A literal may continue in the next line.
    let quote = |byte: &u8| *byte == b'\'';
    let ends = text
        .iter()
        .position(quote)
        .zip(text.iter().rposition(quote));
    let literals = ends.and_then(|(first, last)| text.get(first + 1..last));
    let mut parts = literals.unwrap_or_default().split(quote);
    let continues = |part: &[u8]| {
        let begin = part.trim_ascii_start();
        part.contains(&b'\n') && (begin.is_empty() || begin.starts_with(b"--"))
    };
    // A time may follow a day at once.
    let letter = |byte: &u8| byte.is_ascii_alphabetic() || *byte == b'_';
    let mut words = text.split(|byte| !letter(byte));
    let moments = ["now", "today", "tomorrow", "yesterday", "uescape"];
    let is_moment = |word: &[u8]| {
        let named = |name: &&str| word.eq_ignore_ascii_case(name.as_bytes());
        let behind = word.as_ptr() as usize - text.as_ptr() as usize + word.len();
        moments.iter().any(named) && text.get(behind) != Some(&b'(')
    };
    !parts.any(continues) && !words.any(is_moment)
}

/// Returns whether a statement that was described as `before` can be used as one that is described
/// as `now`: by what the server compares when a plan's columns might have changed.
pub(super) fn is_same(before: &[u8], now: &[u8]) -> bool {
    before == now || (columns(before).is_some() && columns(before) == columns(now))
}

/// The name, the type and the modifier of each column.
type Columns<'a> = Vec<[&'a [u8]; 3]>;

/// Returns the whole ParameterDescription, and the columns.
fn columns(description: &[u8]) -> Option<(&[u8], Columns<'_>)> {
    let length = u32::from_be_bytes(description.get(1..5)?.try_into().ok()?);
    let (parameters, mut rest) = description.split_at_checked(1 + length as usize)?;
    let mut columns = Vec::new();
    if rest.first() == Some(&b'T') {
        let count = u16::from_be_bytes(rest.get(5..7)?.try_into().ok()?);
        rest.advance(7);
        for _ in 0..count {
            let end = rest.iter().position(|&byte| byte == 0)?;
            // Behind the name: table, column number, type, size, modifier, format.
            let fields = rest.get(end + 1..end + 19)?;
            columns.push([&rest[..end], &fields[6..10], &fields[12..16]]);
            rest.advance(end + 19);
        }
    }
    Some((parameters, columns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_with_a_moment_is_not_constant() {
        for (text, constant) in [
            ("select now(), know, current_date", true),
            ("select 'now'::timestamptz", false),
            ("select ' Today '::date", false),
            ("select 'today04:05'::timestamp", false),
            ("select 'to'\n'day'::date", false),
            ("select 'to' -- '\n 'day'::date", false),
            ("select 'a'\n, 'b'\n", true),
            (r"select E'n\\157w'::timestamptz", false),
            (r"select U&'!006eow' uescape '!'", false),
        ] {
            assert_eq!(is_constant(text.as_bytes()), constant, "{text}");
        }
        assert!(!is_constant(&vec![b'a'; LONGEST + 1]));
    }

    #[test]
    fn statement_that_was_not_sent_has_traits() {
        let (lasts, ends) = (b"SET TIME ZONE 'UTC'\0\0\0", "SET LOCAL lock_timeout = 1");
        let mut names = Names::default();
        assert!(names.add(b"s", lasts));
        let of_name = names.0[&b"s"[..]].traits;
        let of_text = Traits::of(ends.as_bytes(), Some(true));
        assert!(of_text.sets_are_local());
        // Under one Sync, whichever comes first.
        for (first, then) in [(of_name, of_text), (of_text, of_name)] {
            let mut both = first;
            both.merge(then);
            assert!(!both.sets_are_local());
        }
    }

    /// ParameterDescription of one parameter, and a column of that name and type of a table.
    fn description(parameter: u8, name: &[u8], table: u8, kind: u8) -> Vec<u8> {
        let mut out = vec![b't', 0, 0, 0, 10, 0, 1, 0, 0, 0, parameter];
        let length = u8::try_from(4 + 2 + name.len() + 1 + 18).expect("short");
        out.extend([b'T', 0, 0, 0, length, 0, 1]);
        out.extend(name);
        out.extend([0, 0, 0, 0, table, 0, 1, 0, 0, 0, kind]);
        out.extend([0, 4, 255, 255, 255, 255, 0, 0]);
        out
    }

    #[test]
    fn columns_are_compared_without_their_tables() {
        let before = description(23, b"a", 1, 23);
        for (now, same) in [
            (description(23, b"a", 2, 23), true),
            (description(20, b"a", 1, 23), false),
            (description(23, b"b", 1, 23), false),
            (description(23, b"a", 1, 20), false),
        ] {
            assert_eq!(is_same(&before, &now), same);
        }
        assert!(!is_same(&before, &before[..20]));
    }

    #[test]
    fn many_in_use_are_looked_at_rarely() {
        let mut prepared = Prepared::default();
        let mut prepare = || prepared.prepare(&Arc::from(*b"a"), false, false);
        let _used: Vec<_> = (0..10).map(|_| prepare()).collect();
        assert!(prepared.take_closable().is_empty());
        let closed = |_| {
            drop(prepared.prepare(&Arc::from(*b"a"), false, false));
            prepared.take_closable().len()
        };
        let closed: Vec<_> = (0..10).map(closed).collect();
        assert_eq!(closed, [0, 0, 0, 0, 0, 0, 0, 0, 0, 10]);
    }

    #[test]
    fn statement_in_use_is_not_evicted() {
        let mut prepared = Prepared::default();
        let text = |number: usize| Arc::from(number.to_be_bytes());
        let used = prepared.prepare(&text(0), true, false);
        for number in 1..2 * CAPACITY {
            prepared.prepare(&text(number), true, false);
        }
        assert_eq!(prepared.by_text.len(), CAPACITY);
        assert_eq!(prepared.cached(&text(0)), Some(Arc::clone(&used)));
        assert_eq!(prepared.take_closable().len(), CAPACITY);
        prepared.lose_all();
        assert!(!prepared.has(&used));
        assert_eq!(prepared.take_closable().len(), CAPACITY);
    }
}
