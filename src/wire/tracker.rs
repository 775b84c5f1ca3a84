//! Tracks a session by what passes in both directions.
//!
//! PostgreSQL ends every answer with ReadyForQuery and puts the transaction
//! status into it (manual, "Frontend/Backend Protocol", sections "Message Flow"
//! and "Message Formats"). tokio-postgres throws that byte away. [`Tracker`]
//! keeps it, and keeps count of what is still owed one: each Query, FunctionCall
//! and Sync, and the startup packet.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{BufMut, Bytes, BytesMut};

use super::expected::{Entry, Expected, Handling, Reply};
use super::message::{self, sqlstate, strings};
use super::question::Question;
use super::residue::{Residue, Traits};
use super::statements::{Prepared, ServerStatement, Statement, once};
use super::status::{ServerFacts, TransactionStatus};
use super::texts::Texts;
use super::unit::{Answer, Fate, Unit};
use super::work::{Fingerprint, Watched, Work};

/// The values of ParameterStatus, by the name of the parameter.
pub(super) type Reported = BTreeMap<Box<[u8]>, Box<[u8]>>;

/// Whether answers come that can be understood.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Reception {
    #[default]
    Live,
    /// No more answers will come.
    Ended,
    /// The framing was lost.
    Lost,
}

/// Tracks what is owed an answer, and what the answers say.
#[derive(Default)]
pub(super) struct Tracker {
    pub(super) status: Option<TransactionStatus>,
    /// Requests for the server, which the socket has not taken yet.
    pub(super) out: BytesMut,
    /// Sync points that were sent and not answered, oldest first.
    pub(super) owed: VecDeque<Unit>,
    /// Extended messages that no Sync has followed yet.
    pub(super) open: Option<Unit>,
    /// The answers to all of these, with one ReadyForQuery for each unit that is owed one.
    pub(super) expected: Expected,
    pub(super) prepared: Prepared,
    /// The open transaction has altered what a new Parse gives.
    pub(super) alters_until_end: bool,
    /// The statement that is being described, with the first part of its description.
    pub(super) describes: Option<(Arc<ServerStatement>, BytesMut)>,
    /// The message that was refused with the error that is being received.
    pub(super) refused: Option<Entry>,
    /// Statements, by their number, whose Parse was refused or skipped.
    pub(super) unprepared: Vec<u64>,
    pub(super) residue: Residue,
    pub(super) facts: ServerFacts,
    pub(super) reported: Reported,
    texts: Texts,
    pub(super) work: Work,
    pub(super) watched: Option<Box<Watched>>,
    reception: Reception,
    /// A [withheld](super::copy) Sync was sent.
    pub(super) released: bool,
    /// A statement of the user was answered since a query of the wire's own was deferred.
    pub(super) has_executed: bool,
    /// An error has said that a prepared statement does not exist or does not fit the schema.
    pub(super) outdated: bool,
    /// The ErrorResponse that ended the session.
    pub(super) final_error: Option<Bytes>,
}

impl Tracker {
    /// Returns the unit that the next Sync will end.
    pub(super) fn open(&mut self) -> &mut Unit {
        self.open.get_or_insert_default()
    }

    /// Returns what the text of a statement says.
    pub(super) fn traits(&mut self, text: &[u8]) -> Traits {
        self.texts.traits(text, self.facts.parameters.conforming)
    }

    /// Notes that a message of the open unit was sent, or is answered here.
    #[inline]
    pub(super) fn expect(&mut self, reply: Reply, handling: Handling) {
        self.expect_entry(Entry::new(reply, handling));
    }

    /// The same, with the statement that the message is about.
    #[inline]
    pub(super) fn expect_entry(&mut self, entry: Entry) {
        let given = matches!(entry.handling, Handling::Give(_));
        let open = self.open();
        open.given |= given;
        open.sent |= !given;
        // After an error the server skips to the Sync.
        if !open.failed {
            self.expected.push(entry);
        }
    }

    /// Notes that a Sync was sent, which ends the open unit.
    pub(super) fn sent_sync(&mut self) {
        let mut unit = self.open.take().unwrap_or_default();
        unit.sent = true;
        self.sent_whole(unit, Handling::Pass);
    }

    /// Notes a unit that is owed a ReadyForQuery.
    pub(super) fn sent_whole(&mut self, unit: Unit, handling: Handling) {
        // A simple query drops it.
        if unit.simple {
            self.prepared.unnamed = None;
        }
        self.prepared.units += 1;
        if let Some(watched) = &mut self.watched {
            watched.asked();
        }
        self.owed.push_back(unit);
        self.expected.push(Entry::new(Reply::Ready, handling));
    }

    /// Returns the fingerprint of a statement, if statements are watched.
    #[inline]
    pub(super) fn fingerprint(&self, text: &[u8]) -> Option<Arc<Fingerprint>> {
        let watched = self.watched.as_ref()?;
        watched.fingerprint(text, self.facts.parameters.conforming)
    }

    /// Notes that a statement is executed.
    #[inline]
    pub(super) fn saw(&mut self, statement: Option<&Arc<Fingerprint>>) {
        if let Some((watched, statement)) = self.watched.as_mut().zip(statement) {
            watched.saw(statement);
        }
    }

    /// Notes that a statement that was prepared is executed.
    #[inline]
    pub(super) fn saw_bound(&mut self, known: Option<&Statement>) {
        if self.watched.is_some() {
            let text = |known: &Statement| known.text.clone();
            let again = || {
                let text = known.and_then(text)?;
                self.fingerprint(strings(&text).next()?)
            };
            let fingerprint = known.and_then(|known| known.fingerprint.clone());
            let fingerprint = fingerprint.or_else(again);
            self.saw(fingerprint.as_ref());
        }
    }

    /// Notes that something of the wire's own was sent in front of what comes next.
    pub(super) fn sent_in_front(&mut self, reply: Reply) {
        self.expected.push(Entry::new(reply, Handling::Swallow));
    }

    /// Notes that all statements are deallocated. Returns the number before which they were
    /// named.
    pub(super) fn deallocates(&mut self) -> u64 {
        self.prepared.lose_all();
        once()
    }

    /// Returns whether the wire has to give the next answer.
    pub(super) fn has_to_give(&self) -> bool {
        self.expected.has_to_give()
    }

    /// Gives the answers that the wire has to give and that are next in turn.
    pub(super) fn give(&mut self, out: &mut BytesMut) {
        while let Some((reply, bytes)) = self.expected.take_given() {
            out.put_slice(&bytes);
            if reply == Reply::Ready {
                self.owed.pop_front();
                if let Some(watched) = self.watched.as_mut().filter(|_| self.owed.is_empty()) {
                    watched.answered();
                }
                let status = self.status.unwrap_or(TransactionStatus::Idle);
                message::write(b'Z', &[&[status as u8]], out);
            }
        }
    }

    /// Decides by its tag what to do with the message that now begins.
    #[inline]
    pub(super) fn fate(&mut self, tag: u8) -> Fate {
        if tag != b'E' && self.expected.passes(tag) {
            return Fate::Pass;
        }
        self.rare_fate(tag)
    }

    fn rare_fate(&mut self, tag: u8) -> Fate {
        if tag == b'E' {
            self.refuse();
            // Once there is a session it may be the last message.
            return match self.status {
                Some(_) => Fate::Hold,
                None => Fate::Pass,
            };
        }
        let (handling, statement) = self.expected.begin(tag);
        let mut kept = tag == b'D';
        match statement {
            Some(statement) if tag == b'1' => statement.parsed.store(true, Ordering::Relaxed),
            Some(statement) if b"tTn".contains(&tag) => {
                self.describes
                    .get_or_insert_with(|| (statement, BytesMut::new()));
                kept = true;
            }
            _ => {}
        }
        match handling {
            Handling::Swallow if kept => Fate::Keep,
            Handling::Swallow => Fate::Swallow,
            _ if kept && tag != b'D' => Fate::Copy,
            _ => Fate::Pass,
        }
    }

    /// Returns the query of the wire's own that is being answered.
    pub(super) fn question(&mut self) -> Option<&mut Question> {
        self.owed.front_mut()?.question.as_deref_mut()
    }

    /// Returns whether a query of the wire's own disturbs nothing: no request of the user is under
    /// way that could change the transaction status, or copy.
    pub(super) fn may_ask(&self) -> bool {
        let ours = |unit: &Unit| !unit.changes || unit.question.is_some();
        self.awaits_request() && self.owed.iter().all(ours)
    }

    /// Returns whether every answer that is owed answers a query of the wire's own.
    pub(super) fn is_owed_to_wire(&self) -> bool {
        let ours = |unit: &Unit| unit.question.is_some();
        self.awaits_request() && self.owed.iter().all(ours)
    }

    /// Returns whether the session has begun, and no unit of it is open.
    fn awaits_request(&self) -> bool {
        self.status.is_some() && !self.is_lost() && self.open.is_none()
    }

    /// Returns whether the user has executed a statement, and a query of the wire's own can be sent
    /// behind it: when it is executed, no transaction is open, and nothing is copied.
    pub(super) fn may_follow(&self) -> bool {
        let idle = self.status == Some(TransactionStatus::Idle);
        let mut changing = self.owed.iter().filter(|unit| unit.changes);
        match (changing.next(), changing.next()) {
            _ if !self.awaits_request() => false,
            (None, _) => idle && self.has_executed,
            (Some(unit), None) => {
                unit.ends || (idle && unit.executes && !unit.holds() && !unit.opens())
            }
            (Some(_), Some(_)) => false,
        }
    }

    /// Notes that no more answers will come.
    pub(super) fn end(&mut self) {
        if self.is_live() {
            self.reception = Reception::Ended;
        }
        self.fail_questions();
    }

    fn fail_questions(&mut self) {
        for unit in &mut self.owed {
            unit.question = None;
        }
    }

    /// Processes a whole message; `body` holds its first bytes, or all of a ParameterStatus.
    pub(super) fn received(&mut self, tag: u8, body: &[u8]) -> Option<Answer> {
        match tag {
            b'Z' => return self.ready(body),
            b'C' => {
                self.complete(body);
                return self.release();
            }
            b'G' => return self.copy_in(),
            b'H' => return self.copy_out(),
            b'I' | b's' => return self.release(),
            b'S' => {
                let mut strings = strings(body);
                let mut next = || strings.next().unwrap_or_default();
                let (name, value) = (next(), next());
                self.facts.parameters.note(name, value);
                let before = self.reported.insert(name.into(), value.into());
                if before.as_deref() != Some(value) && name != b"application_name" {
                    self.prepared.outdate_all();
                }
            }
            b'T' | b'n' => return Some(Answer::Described),

            b'E' => {
                let unit = self.owed.front_mut().or(self.open.as_mut());
                let ours = unit.is_some_and(|unit| {
                    unit.failed = true;
                    unit.question.is_some()
                });
                if ours && self.final_error.is_none() {
                    return None;
                }
                self.work.statements += 1;
                let code = sqlstate(body);
                self.outdated |= code.is_some_and(|code| OUTDATED.contains(&&code[..]));
                self.facts.refused_write |= code == Some(READ_ONLY);
                // What a failed transaction refuses does not tell why it failed.
                if code.is_none_or(|code| code != IN_FAILED_TRANSACTION) {
                    self.facts.error = code;
                }
                return (self.released || self.skips()).then_some(Answer::Described);
            }
            b'K' => self.facts.key = int(body, 0).zip(int(body, 4)),
            // CopyBothResponse: replication, which the wire does not follow.
            b'W' => self.lose(),
            _ => {}
        }
        None
    }

    fn ready(&mut self, body: &[u8]) -> Option<Answer> {
        let byte = body.first().copied();
        let status = byte.and_then(TransactionStatus::from_byte);
        let (Some(status), Some(mut unit)) = (status, self.owed.pop_front()) else {
            self.lose();
            return None;
        };
        // A COMMIT that fails ends the transaction too, without a tag.
        let idle = TransactionStatus::Idle;
        let ended = unit.failed && self.status != Some(idle) && status == idle;
        self.facts.ends += u64::from(ended);
        self.status = Some(status);
        self.expected.take_ready();
        // What tokio-postgres takes for the next request's answer is this one's.
        if unit.ends_early {
            self.residue.add(Residue::Client);
        }
        self.has_executed |= unit.executes;
        if unit.traits.alters || self.alters_until_end {
            self.prepared.outdate_all();
            self.alters_until_end = status != TransactionStatus::Idle;
        }
        if let Some(question) = unit.question.take() {
            question.finish();
        }
        if let Some(watched) = self.watched.as_mut().filter(|_| self.owed.is_empty()) {
            watched.answered();
        }
        Some(Answer::Complete(unit))
    }

    pub(super) fn complete(&mut self, body: &[u8]) {
        if self.question().is_some() {
            return;
        }
        let tag = strings(body).next().unwrap_or_default();
        self.work.completed(tag);
        let unit = self.owed.front();
        let local = unit.is_some_and(|unit| unit.traits.sets_are_local());
        self.residue.add(Residue::of_tag(tag, local));
        if let Some(unit) = self.owed.front_mut().or(self.open.as_mut()) {
            unit.deallocated |= matches!(tag, b"DEALLOCATE ALL" | b"DISCARD ALL");
            if tag == b"DEALLOCATE" && !unit.frees.is_empty() {
                unit.frees.remove(0);
            }
        }
        self.facts.committed = tag == b"COMMIT";
        let ends = matches!(tag, b"COMMIT" | b"ROLLBACK" | b"PREPARE TRANSACTION");
        self.facts.ends += u64::from(ends);
    }

    /// Notes that the framing was lost.
    pub(super) fn lose(&mut self) {
        self.reception = Reception::Lost;
        self.fail_questions();
    }

    pub(super) fn is_lost(&self) -> bool {
        self.reception == Reception::Lost
    }

    pub(super) fn is_live(&self) -> bool {
        self.reception == Reception::Live
    }

    pub(super) fn units(&self) -> impl Iterator<Item = &Unit> {
        self.owed.iter().chain(&self.open)
    }

    /// Returns whether the statement that opens the lazily begun transaction is under way.
    pub(super) fn begins(&self) -> bool {
        self.units().any(|unit| unit.begins)
    }

    /// Returns whether nothing under way can still change the status.
    pub(super) fn is_settled(&self) -> bool {
        self.open.is_none() && self.owed.iter().all(|unit| !unit.changes)
    }

    /// Returns whether the end of a transaction is under way, and nothing else that could change
    /// the status: no CancelRequest hastens it.
    pub(super) fn is_ending(&self) -> bool {
        let mut changing = self.owed.iter().filter(|unit| unit.changes).peekable();
        self.open.is_none() && changing.peek().is_some() && changing.all(|unit| unit.ends)
    }

    /// Returns whether extended messages were sent that no Sync has followed yet.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }
}

/// `read_only_sql_transaction`.
const READ_ONLY: [u8; 5] = *b"25006";

/// `invalid_sql_statement_name`; `feature_not_supported`, as which a cached plan is
/// refused whose columns have changed; `internal_error`, as which a type is missed. The
/// last two stand for other things, too: then statements are prepared anew in vain.
const OUTDATED: [&[u8]; 3] = [b"26000", b"0A000", b"XX000"];

/// `in_failed_sql_transaction`.
const IN_FAILED_TRANSACTION: [u8; 5] = *b"25P02";

fn int(body: &[u8], at: usize) -> Option<i32> {
    let bytes = body.get(at..at + 4)?;
    Some(i32::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests;
