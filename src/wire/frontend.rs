//! Parses the messages of the client, and rewrites them where needed.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::expected::{Entry, Handling, Reply};
use super::message::{SYNC, string};
use super::question::Question;
use super::residue::{self, Residue, Traits};
use super::rewrite;
use super::statements::{MISSING, Names, Naming, ServerStatement, Statement, once};
use super::status::TransactionStatus;
use super::tracker::{Reported, Tracker};
use super::unit::{Answer, Unit};

/// CloseComplete.
const CLOSE_COMPLETE: Bytes = Bytes::from_static(b"3\0\0\0\x04");

/// The lazily begun transaction.
#[derive(Debug)]
pub(super) struct Begin {
    pub(super) sql: Box<str>,
    /// BEGIN is still to be sent.
    pub(super) armed: bool,
    /// A first statement failed before the transaction was open, as the text of a simple
    /// query does that cannot be parsed: later statements must not be committed as if
    /// nothing had happened.
    pub(super) failed: bool,
}

/// What is done with the startup packet of the client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum StartupHandling {
    /// It is sent.
    #[default]
    Sent,
    /// It is not: the server has authenticated the client already, and its answer is to be read.
    Authenticated,
    /// It is not: the session has begun, and the wire has answered.
    Begun,
    /// It has come, and messages follow.
    Passed,
}

/// Follows the framing of the frontend's messages and passes them on.
#[derive(Debug, Default)]
pub(super) struct Frontend {
    pub(super) startup: StartupHandling,
    /// The beginning of a message that is not complete yet, or what waits for an answer.
    pub(super) pending: BytesMut,
    /// Bytes of the current message that are passed on unread.
    pass: usize,
    /// What follows waits for an answer. For that to BEGIN: until it is known to have
    /// succeeded, a second statement might run outside the transaction. Behind a pooler for
    /// that to a COPY: when a COPY has ended, PgBouncer before 1.22.1 gives the server to
    /// another client, even if answers are owed, and that client would get them.
    pub(super) holds: bool,
    pub(super) begin: Option<Begin>,
    pub(super) naming: Naming,
    pub(super) statements: Names,
    /// What follows waits until this one is described.
    pub(super) awaits: Option<Arc<ServerStatement>>,
}

/// tokio-postgres, while another driver has the session.
pub(super) struct Parked {
    /// Tells the present diversion from earlier ones.
    pub(super) key: Arc<()>,
    pub(super) frontend: Frontend,
    /// What was [reported](Tracker::reported), behind a transaction pooler.
    pub(super) reported: Option<Reported>,
}

impl Frontend {
    /// Follows the requests of a new client of a session.
    pub(super) fn resumed(naming: Naming) -> Self {
        Frontend {
            startup: StartupHandling::Begun,
            naming,
            ..Frontend::default()
        }
    }

    /// Follows the requests of another driver, which continues what was armed.
    pub(super) fn divert(&mut self) -> Self {
        Frontend {
            startup: StartupHandling::Passed,
            begin: self.begin.take(),
            naming: match self.naming {
                Naming::Unnamed => Naming::Unnamed,
                _ => Naming::ByContent { answers_sync: true },
            },
            ..Frontend::default()
        }
    }

    /// Continues behind another driver.
    pub(super) fn resume(&mut self, diverted: Frontend) {
        self.begin = diverted.begin;
    }

    #[inline]
    pub(super) fn has_started(&self) -> bool {
        self.startup == StartupHandling::Passed
    }

    /// Returns whether all that was accepted has been sent on.
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.pass == 0
    }

    /// Returns whether the next bytes begin a message, and need not wait for an answer.
    pub(super) fn is_between_requests(&self) -> bool {
        self.is_empty() && !self.holds && self.awaits.is_none()
    }

    /// Returns whether what follows has to wait for an answer.
    fn waits(&self, tracker: &Tracker) -> bool {
        self.holds || self.awaits.is_some() || tracker.repeats()
    }

    pub(super) fn is_by_content(&self) -> bool {
        matches!(self.naming, Naming::ByContent { .. })
    }

    pub(super) fn is_unnamed(&self) -> bool {
        self.naming == Naming::Unnamed
    }

    /// Accepts `bytes`, and writes what is to be sent.
    pub(super) fn accept(&mut self, bytes: &[u8], tracker: &mut Tracker) {
        if self.pending.is_empty() && !self.waits(tracker) {
            let bytes = &bytes[self.pass_plain(bytes, tracker)..];
            let left = self.pass_on(bytes, tracker);
            self.pending.extend_from_slice(&bytes[bytes.len() - left..]);
        } else {
            self.pending.extend_from_slice(bytes);
            self.continue_pending(tracker);
        }
    }

    /// Processes an answer: sends on what had to wait for it.
    pub(super) fn answered(&mut self, answer: Answer, tracker: &mut Tracker) {
        if let Answer::Described = answer {
            let released = std::mem::take(&mut tracker.released);
            if released {
                self.holds = tracker.owed.back().is_some_and(Unit::holds);
            }
            if self.awaits.take().is_some() || released {
                self.continue_pending(tracker);
            }
            return;
        }
        if let Answer::Complete(mut unit) = answer {
            let mut unprepared = std::mem::take(&mut tracker.unprepared);
            if !unprepared.is_empty() {
                unprepared.sort_unstable();
                let is_known = |since: &u64| unprepared.binary_search(since).is_err();
                self.statements.0.retain(|_, named| is_known(&named.since));
            }
            // A DEALLOCATE that is only prepared so far takes its name with it.
            let kept = std::mem::take(&mut unit.frees);
            for (name, statement) in kept.into_iter().filter(|_| unit.failed) {
                self.statements.0.entry(name).or_insert(statement);
            }
            if let Some(number) = unit.deallocates.filter(|_| unit.deallocated) {
                self.statements.0.retain(|_, named| named.since > number);
            }
            if let Some(mut again) = unit.copy.take().filter(|_| unit.repeats) {
                again.put_slice(SYNC);
                again.unsplit(self.pending.split());
                self.pending = again;
                (self.holds, tracker.released) = (false, false);
                return self.continue_pending(tracker);
            }
            let idle = tracker.status == Some(TransactionStatus::Idle);
            if let (Some(begin), true) = (&mut self.begin, idle) {
                // BEGIN failed, or the user ended the transaction by hand: what
                // follows must not run outside one either.
                begin.armed |= !tracker.begins();
                begin.failed |= unit.begins && unit.failed;
            }
            if !unit.holds() {
                return;
            }
        }
        self.holds = false;
        self.continue_pending(tracker);
    }

    fn continue_pending(&mut self, tracker: &mut Tracker) {
        let bytes = self.pending.split();
        let left = self.pass_on(&bytes, tracker);
        self.pending = bytes;
        self.pending.advance(self.pending.len() - left);
    }

    /// Passes on whole messages and returns how many bytes are left.
    fn pass_on(&mut self, mut bytes: &[u8], tracker: &mut Tracker) -> usize {
        loop {
            if self.pass > 0 {
                let (now, rest) = bytes.split_at(self.pass.min(bytes.len()));
                tracker.out.put_slice(now);
                tracker.copy(now);
                self.pass -= now.len();
                bytes = rest;
            }
            if self.waits(tracker) || bytes.is_empty() {
                return bytes.len();
            }
            let length = self.length(bytes, tracker);
            if tracker.is_lost() {
                tracker.out.put_slice(bytes);
                return 0;
            }
            let Some(length) = length else {
                return bytes.len();
            };
            let taken = match bytes.get(..length) {
                Some(message) if !self.has_started() => {
                    if self.startup == StartupHandling::Sent {
                        tracker.out.put_slice(message);
                    }
                    if self.startup != StartupHandling::Begun {
                        tracker.sent_whole(Unit::simple(), Handling::Pass);
                    }
                    self.startup = StartupHandling::Passed;
                    length
                }
                // The body of these may be large, and is not read.
                whole if self.has_started() && bytes[0] == b'B' => {
                    match self.bind(bytes, length, tracker) {
                        Some(taken) => {
                            self.pass = length - taken;
                            taken
                        }
                        None if whole.is_some() && !self.waits(tracker) => {
                            tracker.lose();
                            continue;
                        }
                        None => return bytes.len(),
                    }
                }
                None if self.has_started() && bytes[0] == b'd' => {
                    self.pass = length;
                    0
                }
                Some([b'S', ..]) if tracker.withholds_sync() => {
                    self.holds = true;
                    bytes = &bytes[length..];
                    continue;
                }
                Some(message) => {
                    self.message(message, tracker);
                    length
                }
                None => return bytes.len(),
            };
            tracker.copy(&bytes[..taken]);
            bytes = &bytes[taken..];
        }
    }

    /// Returns the whole length of the message that begins, once it is known. Only the startup
    /// packet has no tag.
    fn length(&self, bytes: &[u8], tracker: &mut Tracker) -> Option<usize> {
        let tag = usize::from(self.has_started());
        let field = bytes.get(tag..tag + 4)?.try_into().ok()?;
        match usize::try_from(i32::from_be_bytes(field)) {
            Ok(length) if length >= 4 => Some(length + tag),
            _ => {
                tracker.lose();
                None
            }
        }
    }

    fn message(&mut self, message: &[u8], tracker: &mut Tracker) {
        let (tag, body) = (message[0], &message[5..]);
        match tag {
            b'Q' => return self.query(message, tracker),
            b'P' => return self.parse(message, tracker),
            b'D' if self.is_by_content() && self.describe(body, tracker) => return,
            b'D' if self.is_unnamed() && body.len() > 2 && body[0] == b'S' => {
                tracker.open().changes = true;
                tracker.expect(Reply::Describe, Handling::Pass);
                return tracker.out.put_slice(rewrite::DESCRIBE_UNNAMED);
            }
            b'D' | b'E' => {
                self.lead(tracker);
                tracker.open().changes = true;
                let executes = tag == b'E';
                let unit = tracker.open();
                let reply = match executes {
                    true if unit.traits.copies => Reply::Copy,
                    true => Reply::Execute,
                    false => Reply::Describe,
                };
                unit.executes |= executes;
                tracker.expect(reply, Handling::Pass);
            }
            b'C' => {
                // What the server skips closes nothing.
                let name = body.strip_prefix(b"S").and_then(string);
                let name = name.filter(|_| !tracker.skips());
                let is_ours = name.is_some_and(|name| self.closes_here(name));
                name.map(|name| self.statements.0.remove(name));
                if is_ours {
                    tracker.open().copy = None;
                    return tracker.expect(Reply::Close, Handling::Give(CLOSE_COMPLETE));
                }
                tracker.expect(Reply::Close, Handling::Pass);
            }
            b'H' => match &mut tracker.open {
                // It would hasten no answer.
                Some(unit) if unit.given && !unit.sent => return,
                Some(unit) => unit.sent = true,
                None => {}
            },
            b'S' if tracker.ignores_sync() => return,
            b'S' => {
                if self.syncs_here(tracker) {
                    let unit = tracker.open.take().unwrap_or_default();
                    return tracker.sent_whole(unit, Handling::Give(Bytes::new()));
                }
                self.holds = tracker.open().holds();
                tracker.sent_sync();
            }
            b'c' | b'f' => tracker.sent_copy_end(),
            b'F' => {
                // Which function it calls is not known.
                tracker.residue.add(Residue::State);
                let unit = Unit {
                    traits: Traits {
                        alters: true,
                        ..Traits::default()
                    },
                    ..Unit::simple()
                };
                tracker.sent_whole(unit, Handling::Pass);
            }
            // COPY data, passwords, Terminate.
            b'd' | b'p' | b'X' => {}
            _ => tracker.lose(),
        }
        tracker.out.put_slice(message);
    }

    fn query(&mut self, message: &[u8], tracker: &mut Tracker) {
        let text = string(&message[5..]).unwrap_or_default();
        let traits = tracker.traits(text);
        tracker.residue.add(traits.residue());
        let fingerprint = tracker.fingerprint(text);
        tracker.saw(fingerprint.as_ref());
        // It is sent outside any transaction, and neither opens one nor is part of one:
        // its answer need not be waited for.
        let ours = residue::is_setting(text);
        let mut unit = Unit {
            changes: !ours,
            traits,
            executes: true,
            ends: residue::is_end(text),
            waits: (self.is_unnamed() && traits.copies) || (self.begins() && traits.controls),
            ..Unit::simple()
        };
        if self.is_by_content() {
            self.statements.0.remove(&b""[..]);
            if traits.deallocates {
                unit.deallocates = Some(tracker.deallocates());
            }
            unit.frees.extend(self.name_for_deallocate(text, tracker));
            if !unit.frees.is_empty() && tracker.open.is_none() {
                // If one of the messages in front fails, the server skips to the Sync.
                tracker.out.put_slice(SYNC);
                let in_front = Unit {
                    question: Some(Box::new(Question::new().0)),
                    ..Unit::default()
                };
                tracker.sent_whole(in_front, Handling::Swallow);
            }
        }
        match &mut self.begin {
            Some(begin) if begin.armed && !ours && !residue::says_nothing(text) => {
                begin.armed = false;
                unit.shift = rewrite::begin_query(&begin.sql, text, &mut tracker.out);
                tracker.sent_in_front(Reply::Execute);
                unit.begins = true;
            }
            _ => tracker.out.put_slice(message),
        }
        self.holds = unit.holds();
        tracker.sent_whole(unit, Handling::Pass);
    }

    fn parse(&mut self, message: &[u8], tracker: &mut Tracker) {
        let body = &message[5..];
        let Some(name) = string(body) else {
            tracker.lose();
            return tracker.out.put_slice(message);
        };
        let after_name = &body[name.len() + 1..];
        let text = string(after_name).unwrap_or_default();
        tracker.open().copy = None;
        if tracker.skips() {
            // The server does, too: its names stay what they are.
            return tracker.out.put_slice(message);
        }
        if self.is_by_content() {
            return self.parse_by_content(name, after_name, tracker);
        }
        self.lead(tracker);
        tracker.prepared.unnamed = None;
        let traits = tracker.traits(text);
        let remembers = self.is_unnamed() && !name.is_empty();
        let fingerprint = tracker.fingerprint(text);
        let mut entry = Entry::new(Reply::Parse, Handling::Pass);
        if remembers || traits != Traits::default() || fingerprint.is_some() {
            entry.named = once();
            let statement = Statement {
                traits,
                text: remembers.then(|| after_name.into()),
                since: entry.named,
                fingerprint,
                ..Statement::default()
            };
            self.statements.0.insert(name.into(), statement);
        } else if !self.statements.0.is_empty() {
            self.statements.0.remove(name);
        }
        tracker.expect_entry(entry);
        tracker.open().changes = true;
        if remembers {
            rewrite::parse(b"", after_name, &mut tracker.out);
        } else {
            tracker.out.put_slice(message);
        }
    }

    /// Passes on as much of a Bind as there is, once both names are complete.
    fn bind(&mut self, bytes: &[u8], length: usize, tracker: &mut Tracker) -> Option<usize> {
        let names = bytes.get(5..)?;
        let portal = string(names)?;
        let statement = string(&names[portal.len() + 1..])?;
        let head = 5 + portal.len() + 1 + statement.len() + 1;
        let rest = length.checked_sub(head)?;

        let mut entry = Entry::new(Reply::Bind, Handling::Pass);
        let mut bound = statement;
        let server;
        let repeats = tracker.may_repeat() && !self.begins();
        if self.is_by_content() && !tracker.skips() {
            entry = self.bound(statement, tracker)?;
            tracker.open().copy = self.copies(statement, repeats);
            server = entry.statement.clone();
            bound = match (&entry.handling, &server) {
                (Handling::Replace(_), _) => MISSING,
                (_, Some(server)) => &server.name,
                _ => statement,
            };
        } else {
            self.lead(tracker);
        }
        let unit = tracker.open();
        unit.changes = true;
        let known = self.statements.0.get(statement);
        let traits = known.map_or(Traits::default(), |known| known.traits);
        unit.traits.merge(traits);
        unit.waits |= (self.is_unnamed() && traits.copies) || (self.begins() && traits.controls);
        if traits.deallocates && self.is_by_content() {
            tracker.open().deallocates = Some(tracker.deallocates());
        }
        tracker.saw_bound(known);
        let text = known.and_then(|known| known.text.as_deref());
        if let Some(text) = text.filter(|_| self.is_unnamed()) {
            tracker.expect(Reply::Parse, Handling::Swallow);
            tracker.prepared.unnamed = None;
            rewrite::parse(b"", text, &mut tracker.out);
            bound = b"";
        }
        let taken = bytes.len().min(length);
        if bound == statement {
            tracker.out.put_slice(&bytes[..taken]);
        } else {
            rewrite::bind(portal, bound, rest, &mut tracker.out);
            tracker.out.put_slice(&bytes[head..taken]);
        }
        tracker.expect_entry(entry);
        tracker.residue.add(traits.residue());
        Some(taken)
    }
}
