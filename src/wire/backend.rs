//! Parses the messages of the server, in chunks of any size.

use bytes::BytesMut;

use super::message::{HEADER, first, length, strings};
use super::rewrite;
use super::tracker::Tracker;
use super::unit::{Answer, Fate};

/// Enough of a message for all that is looked at: the longest command tag and
/// the 13 bytes of BackendKeyData.
const HEAD: usize = 80;

/// Follows the framing of the backend's messages.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    /// Bytes of the current message that are passed on unread.
    pass: usize,
    /// The beginning of the current message, if it came in pieces.
    head: Vec<u8>,
    /// Bytes of the current message that were seen; 0 between two messages.
    seen: usize,
    /// Its whole length, 0 until the header is complete.
    length: usize,
    fate: Fate,
    /// A message that is kept until it is whole.
    kept: BytesMut,
}

impl Scanner {
    /// Processes `chunk` and returns how much of its beginning tokio-postgres gets as it is:
    /// as a rule all of it, else what precedes the first message that it does not get. What
    /// it gets of the rest is written to `out`.
    pub(super) fn feed(
        &mut self,
        chunk: &[u8],
        tracker: &mut Tracker,
        out: &mut BytesMut,
        mut answered: impl FnMut(Answer, &mut Tracker),
    ) -> usize {
        let whole = chunk.len();
        let mut passed = self.withholds().then_some(0);
        let mut chunk = chunk;
        while !chunk.is_empty() && !tracker.is_lost() && tracker.final_error.is_none() {
            if self.seen == 0 {
                let (unread, decided) = self.unread(chunk, tracker);
                if passed.is_some() {
                    out.extend_from_slice(&chunk[..unread]);
                }
                chunk = &chunk[unread..];
                let Some(&tag) = chunk.first() else {
                    break;
                };
                if !decided {
                    self.fate = tracker.fate(tag);
                }
                if self.withholds_next() {
                    passed.get_or_insert(whole - chunk.len());
                }
            }
            let message = first(chunk).filter(|whole| self.seen == 0 && is_known(whole[0]));
            let taken = message.map_or_else(|| self.take(chunk, tracker), <[u8]>::len);
            let (bytes, rest) = chunk.split_at(taken);
            chunk = rest;
            if passed.is_some() && !self.withholds_next() {
                out.extend_from_slice(bytes);
            }
            if !matches!(self.fate, Fate::Pass | Fate::Swallow) {
                self.kept.extend_from_slice(bytes);
            }
            let is_whole = self.seen >= HEADER && self.seen == self.length;
            let answer = match message {
                Some(message) => self.end(message, tracker, out),
                None if is_whole && !tracker.is_lost() => {
                    let head = std::mem::take(&mut self.head);
                    (self.seen, self.length) = (0, 0);
                    self.end(&head, tracker, out)
                }
                None => continue,
            };
            if let Some(answer) = answer {
                answered(answer, tracker);
            }
            if tracker.has_to_give() {
                passed.get_or_insert(whole - chunk.len());
                tracker.give(out);
            }
        }
        // Without framing the rest is passed on as it is; the connection will be closed.
        if passed.is_some() && tracker.is_lost() {
            if self.withholds_next() {
                out.unsplit(self.kept.split());
            }
            out.extend_from_slice(chunk);
        }
        passed.unwrap_or(whole)
    }

    /// Returns how much of `chunk` is passed on without being read: the rest of a message, and
    /// messages of which the wire needs the tag at most. These are most of what a server sends,
    /// as rows are. Returns also whether the fate of the message behind them is decided.
    fn unread(&mut self, chunk: &[u8], tracker: &mut Tracker) -> (usize, bool) {
        let mut end = self.pass;
        let mut decided = false;
        let asked = tracker.question().is_some() || tracker.is_withholding();
        while let Some(rest @ [tag, ..]) = chunk.get(end..) {
            let Some(length) = length(rest) else {
                break;
            };
            if !matches!(tag, b'D' | b'd') || asked {
                let body = rest.get(HEADER..length).filter(|_| *tag == b'C');
                if asked || !says_nothing(*tag) && body.is_none() {
                    break;
                }
                self.fate = tracker.fate(*tag);
                if self.fate != Fate::Pass || tracker.has_to_give() {
                    decided = true;
                    break;
                }
                if let Some(body) = body {
                    tracker.complete(body);
                }
            }
            end += length;
        }
        let now = end.min(chunk.len());
        self.pass = end - now;
        (now, decided)
    }

    /// Ends a message. `head` is its beginning, or all of it.
    fn end(&mut self, head: &[u8], tracker: &mut Tracker, out: &mut BytesMut) -> Option<Answer> {
        if !matches!(self.fate, Fate::Pass | Fate::Swallow) {
            let message = self.kept.split();
            // Not in the middle of a request, whose end would be answered again.
            let in_request = tracker.is_open() && !tracker.is_withholding();
            let may_end = self.fate == Fate::Hold && !in_request;
            if may_end && ends_session(&message[HEADER..]) {
                tracker.final_error = Some(message.freeze());
            } else if let Some(question) = tracker.question() {
                question.keep(message);
            } else if self.fate != Fate::Hold {
                tracker.described(&message);
            } else {
                let message = tracker.error(message)?;
                let shift = tracker.owed.front().map_or(0, |unit| unit.shift);
                rewrite::shift_position(&message, shift, out);
                return tracker.received(message[0], &message[HEADER..]);
            }
        }
        tracker.received(head[0], &head[HEADER..])
    }

    /// Continues a message that comes in pieces, or loses the framing. Returns how many bytes
    /// belong to it.
    fn take(&mut self, chunk: &[u8], tracker: &mut Tracker) -> usize {
        let goal = if self.seen < HEADER {
            HEADER
        } else {
            self.length
        };
        let taken = chunk.len().min(goal - self.seen);
        let most = match self.head.first() {
            Some(b'S') => usize::MAX,
            _ => HEAD,
        };
        let kept = taken.min(most - self.head.len());
        self.head.extend_from_slice(&chunk[..kept]);
        self.seen += taken;
        if self.seen == HEADER && self.length == 0 {
            match length(&self.head) {
                Some(length) if is_known(self.head[0]) => self.length = length,
                _ => tracker.lose(),
            }
        }
        taken
    }

    /// Returns whether the rest of the current message is not passed on as it is.
    pub(super) fn withholds(&self) -> bool {
        self.seen > 0 && self.withholds_next()
    }

    #[inline]
    fn withholds_next(&self) -> bool {
        !matches!(self.fate, Fate::Pass | Fate::Copy)
    }

    /// Returns whether tokio-postgres has been given whole messages only.
    pub(super) fn is_between_messages(&self) -> bool {
        self.seen == 0 && self.pass == 0
    }
}

/// Returns whether the tag of this message is all that the wire needs, if it is passed on.
fn says_nothing(tag: u8) -> bool {
    matches!(tag, b'1'..=b'3' | b'I' | b'T' | b'n' | b's' | b't')
}

/// Returns whether a server may send this over protocol 3.0.
fn is_known(tag: u8) -> bool {
    matches!(
        tag,
        b'1'..=b'3' | b'A' | b'C'..=b'E' | b'G'..=b'I' | b'K' | b'N' | b'R'..=b'T'
            | b'V' | b'W' | b'Z' | b'c' | b'd' | b'n' | b's'..=b't' | b'v'
    )
}

/// Returns whether an ErrorResponse says that the session is over: by its severity, `V` as it is,
/// `S` translated, which poolers send alone (manual, "Error and Notice Message Fields").
fn ends_session(body: &[u8]) -> bool {
    let over: [&[u8]; 4] = [b"SFATAL", b"VFATAL", b"SPANIC", b"VPANIC"];
    strings(body).any(|field| over.contains(&field))
}
