//! Parses what tokio-postgres sends, and rewrites it where asked to.

use std::collections::HashMap;

use bytes::{Buf, BufMut, BytesMut};

use super::expected::{Handling, Reply};
use super::residue::{self, Traits};
use super::rewrite;
use super::status::TransactionStatus;
use super::tracker::Tracker;
use super::unit::{Answer, Unit};

/// Sync, whole.
pub(super) const SYNC: &[u8] = b"S\0\0\0\x04";

/// A prepared statement, as far as a later Bind needs it.
#[derive(Debug)]
struct Statement {
    traits: Traits,
    /// Text and parameter types, for an unnamed Parse in front of a Bind.
    text: Option<Box<[u8]>>,
}

/// The lazily begun transaction.
#[derive(Debug)]
struct Begin {
    sql: Box<str>,
    /// BEGIN is still to be sent.
    armed: bool,
    /// A first statement failed before the transaction was open, as the text of a simple
    /// query does that cannot be parsed: what comes later must not be committed as if
    /// nothing had happened.
    failed: bool,
}

/// Follows the framing of the frontend's messages and passes them on.
#[derive(Debug, Default)]
pub(super) struct Frontend {
    started: bool,
    /// The startup packet is not sent: the session has begun.
    resumes: bool,
    /// The beginning of a message that is not complete yet, or what waits for an answer.
    pub(super) pending: BytesMut,
    /// Bytes of the current message that are passed on unread.
    pass: usize,
    /// What follows waits for an answer. For that to BEGIN: until it is known to have
    /// succeeded, a second statement might run outside the transaction. Behind a pooler for
    /// that to a COPY: when a COPY has ended, PgBouncer before 1.22.1 gives the server to
    /// another client, even if answers are owed, and that client would get them.
    holds: bool,
    begin: Option<Begin>,
    /// Named statements are sent unnamed.
    pub(super) unnamed: bool,
    statements: HashMap<Box<[u8]>, Statement>,
}

impl Frontend {
    /// Follows the requests of a new client of a session.
    pub(super) fn resumed(unnamed: bool) -> Self {
        Frontend {
            resumes: true,
            unnamed,
            ..Frontend::default()
        }
    }

    /// Follows the requests of another driver, which continues what was armed.
    pub(super) fn divert(&mut self) -> Self {
        Frontend {
            started: true,
            begin: self.begin.take(),
            unnamed: self.unnamed,
            ..Frontend::default()
        }
    }

    /// Continues behind another driver.
    pub(super) fn resume(&mut self, diverted: Frontend) {
        self.begin = diverted.begin;
    }

    /// Puts BEGIN in front of the next statement that is sent outside a transaction.
    pub(super) fn arm(&mut self, sql: &str) {
        self.begin = Some(Begin {
            sql: sql.into(),
            armed: true,
            failed: false,
        });
    }

    /// Ends the lazily begun transaction. Returns whether a statement of it failed without
    /// leaving a failed transaction behind.
    pub(super) fn disarm(&mut self) -> bool {
        self.begin.take().is_some_and(|begin| begin.failed)
    }

    /// Returns whether all that was accepted has been sent on.
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.pass == 0
    }

    /// Returns whether the next bytes begin a message, and need not wait for an answer.
    pub(super) fn is_between_requests(&self) -> bool {
        self.is_empty() && !self.holds
    }

    /// Accepts `bytes`; what is to be sent goes to `out`.
    pub(super) fn accept(&mut self, bytes: &[u8], tracker: &mut Tracker, out: &mut BytesMut) {
        if self.pending.is_empty() && !self.holds {
            let left = self.pass_on(bytes, tracker, out);
            self.pending.extend_from_slice(&bytes[bytes.len() - left..]);
        } else {
            self.pending.extend_from_slice(bytes);
            self.continue_pending(tracker, out);
        }
    }

    /// Processes an answer: sends on what had to wait for it.
    pub(super) fn answered(&mut self, answer: Answer, tracker: &mut Tracker, out: &mut BytesMut) {
        if let Answer::Complete(unit) = answer {
            if let (true, Some(name)) = (unit.failed, &unit.prepares) {
                self.statements.remove(name.as_slice());
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
        self.continue_pending(tracker, out);
    }

    fn continue_pending(&mut self, tracker: &mut Tracker, out: &mut BytesMut) {
        let bytes = self.pending.split();
        let left = self.pass_on(&bytes, tracker, out);
        self.pending = bytes;
        self.pending.advance(self.pending.len() - left);
    }

    /// Passes on whole messages and returns how many bytes are left.
    fn pass_on(&mut self, mut bytes: &[u8], tracker: &mut Tracker, out: &mut BytesMut) -> usize {
        loop {
            if self.pass > 0 {
                let (now, rest) = bytes.split_at(self.pass.min(bytes.len()));
                out.put_slice(now);
                self.pass -= now.len();
                bytes = rest;
            }
            if self.holds || bytes.is_empty() {
                return bytes.len();
            }
            let length = self.length(bytes, tracker);
            if tracker.is_lost() {
                out.put_slice(bytes);
                return 0;
            }
            let Some(length) = length else {
                return bytes.len();
            };
            let taken = match bytes.get(..length) {
                Some(message) if !self.started => {
                    self.started = true;
                    if !self.resumes {
                        tracker.sent_whole(Unit::simple(), Handling::Pass);
                        out.put_slice(message);
                    }
                    length
                }
                Some(message) => {
                    let local = !tracker.is_open() && self.closes_nothing(message);
                    match bytes.get(length..length + SYNC.len()) {
                        Some(SYNC) if local => {
                            tracker.kept_close();
                            self.forget(message);
                            length + SYNC.len()
                        }
                        None if local => return bytes.len(),
                        _ => {
                            self.message(message, tracker, out);
                            length
                        }
                    }
                }
                // The body of these may be large, and is not read.
                None if self.started && bytes[0] == b'd' => {
                    self.pass = length;
                    0
                }
                None if self.started && bytes[0] == b'B' => {
                    match self.bind(bytes, length, tracker, out) {
                        Some(taken) => {
                            self.pass = length - taken;
                            taken
                        }
                        None => return bytes.len(),
                    }
                }
                None => return bytes.len(),
            };
            bytes = &bytes[taken..];
        }
    }

    /// Returns whether `message` closes a statement that was sent unnamed, if at all: the server
    /// has none of that name.
    fn closes_nothing(&self, message: &[u8]) -> bool {
        self.unnamed && closed(message).is_some_and(|name| !name.is_empty())
    }

    fn forget(&mut self, message: &[u8]) {
        if let Some(name) = closed(message) {
            self.statements.remove(name);
        }
    }

    /// Returns the whole length of the message that begins, once it is known. Only the start-up
    /// packet has no tag.
    fn length(&self, bytes: &[u8], tracker: &mut Tracker) -> Option<usize> {
        let tag = usize::from(self.started);
        let field = bytes.get(tag..tag + 4)?.try_into().ok()?;
        match usize::try_from(i32::from_be_bytes(field)) {
            Ok(length) if length >= 4 => Some(length + tag),
            _ => {
                tracker.lose();
                None
            }
        }
    }

    fn message(&mut self, message: &[u8], tracker: &mut Tracker, out: &mut BytesMut) {
        let (tag, body) = (message[0], &message[5..]);
        match tag {
            b'Q' => return self.query(message, tracker, out),
            b'P' => return self.parse(message, tracker, out),
            b'B' => {
                if self.bind(message, message.len(), tracker, out) == Some(message.len()) {
                    return;
                }
                tracker.lose();
            }
            b'D' if self.unnamed && body.len() > 2 && body[0] == b'S' => {
                tracker.open().changes = true;
                tracker.expect(Reply::Describe, Handling::Pass);
                return out.put_slice(rewrite::DESCRIBE_UNNAMED);
            }
            b'D' | b'E' => {
                self.begin_under_sync(tracker, out);
                tracker.open().changes = true;
                let reply = match tag {
                    b'D' => Reply::Describe,
                    _ => Reply::Execute,
                };
                tracker.open().executes |= tag == b'E';
                tracker.expect(reply, Handling::Pass);
            }
            b'C' => {
                self.forget(message);
                tracker.expect(Reply::Close, Handling::Pass);
            }
            b'H' => {
                tracker.open();
            }
            b'S' => {
                self.holds = tracker.open().holds();
                tracker.sent_sync();
            }
            b'c' | b'f' => tracker.sent_copy_end(),
            b'F' => tracker.sent_whole(Unit::simple(), Handling::Pass),
            // COPY data, passwords, Terminate.
            b'd' | b'p' | b'X' => {}
            _ => tracker.lose(),
        }
        out.put_slice(message);
    }

    fn query(&mut self, message: &[u8], tracker: &mut Tracker, out: &mut BytesMut) {
        let text = name(&message[5..]).unwrap_or_default();
        let traits = Traits::of(text, tracker.facts.parameters.conforming);
        tracker.residue.state |= traits.leaves_state;
        // It is sent outside any transaction, and neither opens one nor is part of one:
        // its answer need not be waited for.
        let ours = residue::is_setting(text);
        let mut unit = Unit {
            changes: !ours,
            sets_are_local: traits.sets_are_local,
            copies: self.unnamed && traits.copies,
            executes: true,
            opens: traits.begins || traits.copies,
            ends: residue::is_commit(text),
            ..Unit::simple()
        };
        match &mut self.begin {
            Some(begin) if begin.armed && !ours && !text.trim_ascii().is_empty() => {
                begin.armed = false;
                unit.shift = rewrite::begin_query(&begin.sql, text, out);
                tracker.sent_in_front();
                unit.begins = true;
            }
            _ => out.put_slice(message),
        }
        self.holds = unit.holds();
        tracker.sent_whole(unit, Handling::Pass);
    }

    fn parse(&mut self, message: &[u8], tracker: &mut Tracker, out: &mut BytesMut) {
        self.begin_under_sync(tracker, out);
        let conforming = tracker.facts.parameters.conforming;
        tracker.expect(Reply::Parse, Handling::Pass);
        let unit = tracker.open();
        unit.changes = true;
        let body = &message[5..];
        let Some(name) = name(body) else {
            tracker.lose();
            return out.put_slice(message);
        };
        let after_name = &body[name.len() + 1..];
        let traits = Traits::of(self::name(after_name).unwrap_or_default(), conforming);
        let remembers = self.unnamed && !name.is_empty();
        if remembers || traits != Traits::default() {
            unit.prepares = Some(name.into());
            let text = remembers.then(|| after_name.into());
            self.statements
                .insert(name.into(), Statement { traits, text });
        } else {
            self.statements.remove(name);
        }
        if remembers {
            rewrite::parse_unnamed(after_name, out)
        } else {
            out.put_slice(message)
        }
    }

    /// Passes on as much of a Bind as there is, once both names are complete.
    fn bind(
        &mut self,
        bytes: &[u8],
        length: usize,
        tracker: &mut Tracker,
        out: &mut BytesMut,
    ) -> Option<usize> {
        let names = bytes.get(5..)?;
        let portal = name(names)?;
        let statement = name(&names[portal.len() + 1..])?;
        let head = 5 + portal.len() + 1 + statement.len() + 1;
        let rest = length.checked_sub(head)?;

        self.begin_under_sync(tracker, out);
        let unit = tracker.open();
        unit.changes = true;
        let known = self.statements.get(statement);
        let traits = known.map_or(Traits::default(), |known| known.traits);
        unit.sets_are_local = traits.sets_are_local;
        unit.copies |= self.unnamed && traits.copies;
        unit.opens |= traits.begins || traits.copies;
        match known.and_then(|known| known.text.as_deref()) {
            Some(text) => {
                tracker.expect(Reply::Parse, Handling::Swallow);
                rewrite::parse_unnamed(text, out);
                rewrite::bind_unnamed(portal, rest, out);
            }
            None => out.put_slice(&bytes[..head]),
        }
        tracker.expect(Reply::Bind, Handling::Pass);
        tracker.residue.state |= traits.leaves_state;
        let body = &bytes[head..bytes.len().min(length)];
        out.put_slice(body);
        Some(head + body.len())
    }

    /// Puts BEGIN in front of the unit whose first effective message comes now.
    fn begin_under_sync(&mut self, tracker: &mut Tracker, out: &mut BytesMut) {
        if let Some(begin) = self.begin.as_mut().filter(|begin| begin.armed) {
            begin.armed = false;
            rewrite::begin(&begin.sql, out);
            tracker.open().begins = true;
            for reply in [Reply::Parse, Reply::Bind, Reply::Execute] {
                tracker.expect(reply, Handling::Swallow);
            }
        }
    }
}

/// Returns the statement that a Close names.
fn closed(message: &[u8]) -> Option<&[u8]> {
    let body = message.strip_prefix(b"C")?.get(4..)?;
    name(body.strip_prefix(b"S")?)
}

/// Returns the NUL-terminated string at the start of `bytes`, without its NUL.
fn name(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.iter().position(|&byte| byte == 0)?;
    Some(&bytes[..end])
}
