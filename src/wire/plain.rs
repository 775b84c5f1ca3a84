//! Passes on plain messages: whole ones of the extended protocol, under the client's own names,
//! which are most of the traffic.
//!
//! This is a shortcut. All other messages go [the long way](super::frontend), by which these would
//! have the same result.

use bytes::BufMut;

use super::expected::{Handling, Reply};
use super::frontend::Frontend;
use super::message::{first, string};
use super::residue::Traits;
use super::statements::Naming;
use super::tracker::Tracker;
use super::unit::Unit;

impl Frontend {
    /// Passes on the plain messages at the start of `bytes`, and returns their length.
    pub(super) fn pass_plain(&mut self, bytes: &[u8], tracker: &mut Tracker) -> usize {
        // Nothing has to be known of a statement that is bound, or noted.
        let plain = self.naming == Naming::AsGiven && self.statements.0.is_empty();
        let copies = |unit: &Unit| unit.traits.copies;
        let plain =
            plain && tracker.watched.is_none() && !tracker.open.as_ref().is_some_and(copies);
        let begun = self.has_started() && !tracker.is_lost();
        if !plain || !begun || self.begins() || !self.is_between_requests() {
            return 0;
        }
        let mut end = 0;
        while let Some(message) = first(&bytes[end..]) {
            let body = &message[5..];
            match message[0] {
                b'P' if is_plain(body, tracker) => {
                    tracker.prepared.unnamed = None;
                    tracker.expect(Reply::Parse, Handling::Pass);
                }
                b'B' if has_names(body) => tracker.expect(Reply::Bind, Handling::Pass),
                b'D' => tracker.expect(Reply::Describe, Handling::Pass),
                b'E' => {
                    tracker.open().executes = true;
                    tracker.expect(Reply::Execute, Handling::Pass);
                }
                b'S' => {
                    end += message.len();
                    self.holds = tracker.open().holds();
                    tracker.sent_sync();
                    if self.holds {
                        break;
                    }
                    continue;
                }
                _ => break,
            }
            tracker.open().changes = true;
            end += message.len();
        }
        tracker.out.put_slice(&bytes[..end]);
        end
    }
}

/// Returns whether a Parse is of a text of which nothing has to be kept.
fn is_plain(body: &[u8], tracker: &mut Tracker) -> bool {
    let name_length = string(body).map(<[u8]>::len);
    let text = name_length.and_then(|length| string(&body[length + 1..]));
    text.is_some_and(|text| tracker.traits(text) == Traits::default())
}

/// Returns whether the names of a Bind are complete.
fn has_names(body: &[u8]) -> bool {
    let portal = string(body);
    portal.is_some_and(|portal| string(&body[portal.len() + 1..]).is_some())
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use bytes::BytesMut;

    use super::super::frontend::StartupHandling;
    use super::*;

    /// Whole messages, plain and other, and one that no client sends.
    const MESSAGES: [&[u8]; 16] = [
        b"P\0\0\0\x10\0select 1\0\0\0",
        b"P\0\0\0\x11a\0select 1\0\0\0",
        b"P\0\0\0\x13b\0listen \"x\"\0\0\0",
        b"P\0\0\0\x16c\0create temp t\0\0\0",
        b"P\0\0\0\x0fd\0copy t\0\0\0",
        b"B\0\0\0\x0d\0d\0\0\0\0\0\0\0",
        b"B\0\0\0\x0c\0\0\0\0\0\0\0\0",
        b"B\0\0\0\x0d\0c\0\0\0\0\0\0\0",
        b"D\0\0\0\x06S\0",
        b"E\0\0\0\x09\0\0\0\0\0",
        b"S\0\0\0\x04",
        b"C\0\0\0\x07Sb\0",
        b"H\0\0\0\x04",
        b"Q\0\0\0\x0dselect 1\0",
        b"Q\0\0\0\x0cset a=1\0",
        b"B\0\0\0\x05x",
    ];

    /// Returns what is sent for `bytes`, which come in chunks of this size, and what is noted.
    fn passed(bytes: &[u8], size: usize) -> (BytesMut, String) {
        let mut frontend = Frontend::default();
        frontend.startup = StartupHandling::Passed;
        let mut tracker = Tracker::default();
        for chunk in bytes.chunks(size) {
            frontend.accept(chunk, &mut tracker);
        }
        let mut names: Vec<_> = frontend.statements.0.keys().collect();
        names.sort();
        let noted = format!(
            "{names:?} {:?} {:?} {:?} {:?} {:?}",
            tracker.owed,
            tracker.open,
            tracker.expected,
            tracker.residue,
            tracker.is_lost(),
        );
        (tracker.out, without_numbers(&noted))
    }

    /// Leaves out which numbers were used once.
    fn without_numbers(noted: &str) -> String {
        let mut parts = noted.split("named: ");
        let first = parts.next().unwrap_or_default();
        let rest = parts.map(|part| match part.strip_prefix("0 ") {
            Some(part) => format!("unnamed {part}"),
            None => format!(
                "named {}",
                part.trim_start_matches(|c: char| c.is_ascii_digit())
            ),
        });
        std::iter::once(first.to_owned()).chain(rest).collect()
    }

    proptest! {
        /// A message that comes byte by byte takes the long way.
        #[test]
        fn short_cut_leads_where_the_long_way_does(which in vec(0..MESSAGES.len(), 0..12)) {
            let all: Vec<&[u8]> = which.into_iter().map(|which| MESSAGES[which]).collect();
            let bytes = all.concat();
            let short = passed(&bytes, bytes.len().max(1));
            prop_assert_eq!(&short, &passed(&bytes, 1));
            prop_assert_eq!(&short, &passed(&bytes, 7));
        }
    }
}
