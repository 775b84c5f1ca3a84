//! Parses what the server sends, at whatever byte it is cut.

use bytes::BytesMut;

use super::rewrite;
use super::tracker::Tracker;
use super::unit::{Answer, Fate};

/// Tag and length (manual, "Message Formats": every message but the start-up
/// packet begins so).
const HEADER: usize = 5;

/// Enough of a message for all that is looked at: the longest command tag and
/// the 13 bytes of BackendKeyData.
const HEAD: usize = 80;

/// Every message that a server may send over protocol 3.0.
const TAGS: &[u8] = b"123ACDEGHIKNRSTVWZcdnstv";

/// Follows the framing of the backend's messages.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    /// The beginning of the current message.
    head: Vec<u8>,
    /// Bytes of the current message that were seen; 0 between two messages.
    seen: usize,
    /// Its whole length, 0 until the header is complete.
    length: usize,
    fate: Fate,
    /// An error, until it is whole.
    held: BytesMut,
}

impl Scanner {
    /// Processes `chunk` and returns how much of its beginning tokio-postgres gets as it is:
    /// all of it as a rule, nothing while it is `filtered`. What it gets of the rest is
    /// written to `out`.
    pub(super) fn feed(
        &mut self,
        chunk: &[u8],
        tracker: &mut Tracker,
        mut filtered: bool,
        out: &mut BytesMut,
        mut answered: impl FnMut(Answer, &mut Tracker),
    ) -> usize {
        let whole = chunk.len();
        let mut passed = if filtered { 0 } else { whole };
        let mut chunk = chunk;
        while !chunk.is_empty() && !tracker.is_lost() && tracker.final_error.is_none() {
            if self.seen == 0 {
                if let Some(length) = bulk(chunk) {
                    if filtered {
                        out.extend_from_slice(&chunk[..length]);
                    }
                    chunk = &chunk[length..];
                    continue;
                }
                self.fate = tracker.fate(chunk[0]);
                // What was read together with it and precedes it is passed on as it is.
                if self.fate == Fate::Hold && !filtered {
                    filtered = true;
                    passed = whole - chunk.len();
                }
            }
            let taken = self.take(chunk, tracker);
            let (bytes, rest) = chunk.split_at(taken);
            chunk = rest;
            match self.fate {
                Fate::Pass if filtered => out.extend_from_slice(bytes),
                Fate::Hold => self.held.extend_from_slice(bytes),
                _ => {}
            }
            if self.seen < HEADER || self.seen < self.length || tracker.is_lost() {
                continue;
            }
            if self.fate == Fate::Hold {
                let error = self.held.split();
                // Not in the middle of a request, whose end would be answered again.
                if !tracker.is_open() && ends_session(&error[HEADER..]) {
                    tracker.final_error = Some(error.freeze());
                } else {
                    let shift = tracker.owed.front().map_or(0, |unit| unit.shift);
                    rewrite::shift_position(&error, shift, out);
                }
            }
            let answer = tracker.received(self.head[0], &self.head[HEADER..]);
            self.head.clear();
            self.seen = 0;
            self.length = 0;
            if let Some(answer) = answer {
                answered(answer, tracker);
            }
            tracker.answer_here(out);
        }
        // Without framing the rest is passed on as it is; the connection will be closed.
        if filtered && tracker.is_lost() {
            out.unsplit(self.held.split());
            out.extend_from_slice(chunk);
        }
        passed
    }

    /// Continues the current message and returns how many bytes belong to it.
    fn take(&mut self, chunk: &[u8], tracker: &mut Tracker) -> usize {
        let goal = if self.seen < HEADER {
            HEADER
        } else {
            self.length
        };
        let taken = chunk.len().min(goal - self.seen);
        let kept = taken.min(HEAD - self.head.len());
        self.head.extend_from_slice(&chunk[..kept]);
        self.seen += taken;
        if self.seen == HEADER && self.length == 0 {
            match length(&self.head) {
                Some(length) if TAGS.contains(&self.head[0]) => self.length = length,
                _ => tracker.lose(),
            }
        }
        taken
    }

    /// Returns whether the rest of the current message is not passed on as it is.
    pub(super) fn withholds(&self) -> bool {
        self.seen > 0 && self.fate != Fate::Pass
    }

    /// Returns whether tokio-postgres has been given whole messages only.
    pub(super) fn is_between_messages(&self) -> bool {
        self.seen == 0
    }
}

/// Returns whether an ErrorResponse says that the session is over: by its severity, `V` as it is,
/// `S` translated, which poolers send alone (manual, "Error and Notice Message Fields").
fn ends_session(body: &[u8]) -> bool {
    let over: [&[u8]; 4] = [b"SFATAL", b"VFATAL", b"SPANIC", b"VPANIC"];
    let mut fields = body.split(|&byte| byte == 0);
    fields.any(|field| over.contains(&field))
}

/// Returns the length of a message, header included.
fn length(header: &[u8]) -> Option<usize> {
    let bytes = header.get(1..HEADER)?.try_into().ok()?;
    let length = usize::try_from(i32::from_be_bytes(bytes)).ok()?;
    (length >= 4).then_some(length + 1)
}

/// Returns the length of a DataRow or CopyData that is complete: most of what a server sends,
/// and without information for the wire.
fn bulk(chunk: &[u8]) -> Option<usize> {
    match chunk[0] {
        b'D' | b'd' => length(chunk).filter(|&length| length <= chunk.len()),
        _ => None,
    }
}
