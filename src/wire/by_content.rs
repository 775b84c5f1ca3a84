//! Statements by content: answers a Parse and a Describe of what the session has prepared.
//!
//! It must not be seen. The description that a client is given here is that of the very statement
//! which its Bind then uses; the server itself checks at each Bind that the columns are still
//! those (error 0A000). On another session the statement is described anew, and compared, before
//! anything is bound. Where a client has to get an error of the server's in its place, the server
//! is sent a Bind that fails, so that the transaction and what follows are as they would be.
//!
//! The unnamed statement is sent as it is: it is prepared with what it executes, in one round
//! trip, and planned for its values. It is found by its content only where the client was moved
//! to another session, or the session's was replaced.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::expected::{Entry, Handling, Reply};
use super::frontend::{Frontend, name};
use super::rewrite;
use super::sql::{Token, tokens};
use super::statements::{MISSING, Naming, ServerStatement, Statement, is_constant, is_same, once};
use super::tracker::Tracker;

/// Flush, whole.
const FLUSH: &[u8] = b"H\0\0\0\x04";

/// ParseComplete.
const PARSE_COMPLETE: Bytes = Bytes::from_static(b"1\0\0\0\x04");

impl Frontend {
    pub(super) fn parse_by_content(
        &mut self,
        client_name: &[u8],
        after_name: &[u8],
        tracker: &mut Tracker,
        out: &mut BytesMut,
    ) {
        let unnamed = client_name.is_empty();
        if !unnamed && self.is_taken(client_name, tracker) {
            return self.refuse_parse(client_name, after_name, tracker, out);
        }
        let sql = name(after_name).unwrap_or_default();
        let traits = tracker.traits(sql);
        let shared = is_constant(sql);
        let since = once();
        let known = if shared && !unnamed && tracker.may_answer() {
            tracker.prepared.known(after_name)
        } else {
            None
        };
        let local = known.is_some();
        let (text, server) = if let Some(known) = known {
            let given = Entry::new(Reply::Parse, Handling::Give(PARSE_COMPLETE));
            tracker.expect_entry(Entry {
                named: since,
                ..given
            });
            known
        } else if unnamed {
            self.lead(tracker, out);
            let freed = self.name_for_deallocate(sql, tracker, out);
            tracker.open().frees.extend(freed);
            let server = tracker.prepared.prepare_unnamed();
            self.send_parse(&server, after_name, Handling::Pass, since, tracker, out);
            (after_name.into(), server)
        } else {
            let text = after_name.into();
            let server = self.prepare(&text, shared, Handling::Pass, since, tracker, out);
            (text, server)
        };
        let statement = Statement {
            traits,
            text: Some(text),
            since,
            shared,
            server: Some(server),
            told: None,
            local,
            fingerprint: tracker.fingerprint(sql),
        };
        self.statements.0.insert(client_name.into(), statement);
    }

    /// Refuses a Parse of a name that exists, unless the server has another reason to.
    /// Returns whether the server has a statement of this name for the client. What is under way
    /// may free the name.
    fn is_taken(&self, client_name: &[u8], tracker: &Tracker) -> bool {
        let deallocates = || tracker.owed.iter().any(|unit| unit.deallocates.is_some());
        // Its own Parse may still fail.
        let prepared = |statement: &Statement| !tracker.expected.names(statement.since);
        self.statements.0.get(client_name).is_some_and(prepared) && !deallocates()
    }

    fn refuse_parse(
        &mut self,
        client_name: &[u8],
        after_name: &[u8],
        tracker: &mut Tracker,
        out: &mut BytesMut,
    ) {
        let text = after_name.into();
        self.prepare(&text, false, Handling::Swallow, 0, tracker, out);
        let shown = String::from_utf8_lossy(client_name);
        let message = format!("prepared statement \"{shown}\" already exists");
        self.fail(rewrite::error("42P05", &message), tracker, out);
    }

    /// Sends a Parse of `text` under a name of the wire's own.
    fn prepare(
        &mut self,
        text: &Arc<[u8]>,
        shared: bool,
        handling: Handling,
        named: u64,
        tracker: &mut Tracker,
        out: &mut BytesMut,
    ) -> Arc<ServerStatement> {
        self.lead(tracker, out);
        let in_front = handling == Handling::Swallow;
        let server = tracker.prepared.prepare(text, shared, in_front);
        self.send_parse(&server, text, handling, named, tracker, out);
        server
    }

    fn send_parse(
        &self,
        server: &Arc<ServerStatement>,
        text: &[u8],
        handling: Handling,
        named: u64,
        tracker: &mut Tracker,
        out: &mut BytesMut,
    ) {
        rewrite::parse(&server.name, text, out);
        tracker.open().changes = true;
        let entry = Entry::about(Reply::Parse, handling, server);
        tracker.expect_entry(Entry { named, ..entry });
    }

    /// Returns the server's statement of that name, which is prepared in front if the session
    /// lacks it. `None`: the client has not prepared it by the protocol.
    fn server_statement(
        &mut self,
        client_name: &[u8],
        tracker: &mut Tracker,
        out: &mut BytesMut,
    ) -> Option<Arc<ServerStatement>> {
        let statement = self.statements.0.get(client_name)?;
        let text = Arc::clone(statement.text.as_ref()?);
        let shared = statement.shared;
        let present = statement
            .server
            .clone()
            .filter(|server| tracker.prepared.has(server));
        let held = || tracker.prepared.held(&text).filter(|_| shared);
        if let Some(server) = present.or_else(held) {
            if shared {
                tracker.prepared.touch(&text);
            }
            self.named(client_name).server = Some(Arc::clone(&server));
            return Some(server);
        }
        // In a failed transaction it is refused, and so is each that follows.
        let lasts = tracker.accepts();
        let server = self.prepare(&text, shared && lasts, Handling::Swallow, 0, tracker, out);
        let statement = self.named(client_name);
        statement.server = lasts.then(|| Arc::clone(&server));
        statement.local = false;
        Some(server)
    }

    fn named(&mut self, client_name: &[u8]) -> &mut Statement {
        self.statements.0.entry(client_name.into()).or_default()
    }

    /// Describes a statement. Returns false if the message is to be passed on as it is.
    pub(super) fn describe(
        &mut self,
        body: &[u8],
        tracker: &mut Tracker,
        out: &mut BytesMut,
    ) -> bool {
        let client_name = body.strip_prefix(b"S").and_then(name);
        let Some(client_name) = client_name.filter(|_| !tracker.skips()) else {
            return false;
        };
        if client_name.is_empty() {
            // BEGIN replaces it.
            self.lead(tracker, out);
        }
        let Some(server) = self.server_statement(client_name, tracker, out) else {
            // The session's is another client's.
            let foreign = client_name.is_empty();
            if foreign {
                self.fail(no_unnamed(), tracker, out);
            }
            return foreign;
        };
        tracker.open().copy = None;
        let known = server.description.get();
        let known = known.filter(|_| tracker.may_answer() && tracker.prepared.is_fresh(&server));
        if let Some(description) = known {
            tracker.expect(Reply::Describe, Handling::Give(description.clone()));
        } else {
            self.lead(tracker, out);
            self.ask_description(&server, Handling::Pass, tracker, out);
        }
        self.named(client_name).told = Some(server);
        true
    }

    fn ask_description(
        &self,
        server: &Arc<ServerStatement>,
        handling: Handling,
        tracker: &mut Tracker,
        out: &mut BytesMut,
    ) {
        rewrite::about_statement(b'D', &server.name, out);
        tracker.open().changes = true;
        tracker.expect_entry(Entry::about(Reply::Describe, handling, server));
    }

    /// Returns the answer to expect for a Bind, with the statement that is to be bound, if it is
    /// one by content. `None`: its description has to come first.
    pub(super) fn bound(
        &mut self,
        client_name: &[u8],
        tracker: &mut Tracker,
        out: &mut BytesMut,
    ) -> Option<Entry> {
        // BEGIN replaces the unnamed statement.
        self.lead(tracker, out);
        let Some(server) = self.server_statement(client_name, tracker, out) else {
            // The session's is another client's.
            let handling = if client_name.is_empty() {
                Handling::Replace(no_unnamed())
            } else {
                Handling::Pass
            };
            return Some(Entry::new(Reply::Bind, handling));
        };
        let statement = self.named(client_name);
        let told = statement.told.as_ref().filter(|told| **told != server);
        // In a failed transaction the server refuses it in any case.
        let told = told.filter(|_| tracker.accepts());
        if let Some(told) = told.and_then(|told| told.description.get()) {
            let Some(now) = server.description.get() else {
                self.ask_description(&server, Handling::Swallow, tracker, out);
                out.put_slice(FLUSH);
                self.awaits = Some(server);
                return None;
            };
            if !is_same(told, now) {
                // The client's parameters keep the types that they had.
                let typed = typed(statement.text.as_deref().unwrap_or_default(), told);
                if statement.text.as_deref() != Some(&typed[..]) {
                    (statement.text, statement.server) = (Some(typed), None);
                    return self.bound(client_name, tracker, out);
                }
                let error = rewrite::error("0A000", "cached plan must not change result type");
                return Some(Entry::new(Reply::Bind, Handling::Replace(error)));
            }
            statement.told = Some(Arc::clone(&server));
        }
        Some(Entry::about(Reply::Bind, Handling::Pass, &server))
    }

    /// Returns where a unit that begins with a Bind of this statement is copied, if it may be
    /// sent again: when the client has only been told here that it is prepared.
    pub(super) fn copies(&mut self, client_name: &[u8], first: bool) -> Option<BytesMut> {
        let statement = self.statements.0.get_mut(client_name)?;
        let local = std::mem::take(&mut statement.local);
        (local && first).then(BytesMut::new)
    }

    /// Has the server refuse the message that comes now, and the client told `error`.
    fn fail(&mut self, error: Bytes, tracker: &mut Tracker, out: &mut BytesMut) {
        self.lead(tracker, out);
        rewrite::bind(b"", MISSING, 6, out);
        out.put_slice(&[0; 6]);
        tracker.open().changes = true;
        tracker.expect(Reply::Bind, Handling::Replace(error));
    }

    /// Returns whether a Close of this statement leaves the server's as they are.
    pub(super) fn closes_here(&self, name: &[u8]) -> bool {
        match self.naming {
            Naming::AsGiven => false,
            Naming::Unnamed => !name.is_empty(),
            Naming::ByContent { .. } => name.is_empty() || self.statements.0.contains_key(name),
        }
    }

    /// Closes what no client uses any more.
    pub(super) fn close_retired(&self, tracker: &mut Tracker, out: &mut BytesMut) {
        for statement in tracker.prepared.take_closable() {
            rewrite::about_statement(b'C', &statement.name, out);
            let entry = Entry::about(Reply::Close, Handling::Swallow, &statement);
            tracker.expect_entry(entry);
        }
    }

    /// Gives the server a statement by the client's name, if `sql` is to deallocate that. Returns
    /// the client's own.
    pub(super) fn name_for_deallocate(
        &mut self,
        sql: &[u8],
        tracker: &mut Tracker,
        out: &mut BytesMut,
    ) -> Option<(Box<[u8]>, Statement)> {
        let client_name = deallocated(sql).filter(|_| tracker.accepts())?;
        let freed = self.statements.0.remove_entry(&client_name[..])?;
        rewrite::about_statement(b'C', &client_name, out);
        rewrite::parse(&client_name, b"\0\0\0", out);
        for reply in [Reply::Close, Reply::Parse] {
            tracker.sent_in_front(reply);
        }
        Some(freed)
    }
}

/// Returns the text with the types of its parameters, as they are described.
fn typed(text: &[u8], description: &[u8]) -> Arc<[u8]> {
    let sql = name(text).unwrap_or_default();
    let length = description
        .get(1..5)
        .and_then(|field| field.try_into().ok());
    let end = 1 + u32::from_be_bytes(length.unwrap_or_default()) as usize;
    let types = description.get(5..end).unwrap_or(b"\0\0");
    [sql, b"\0", types].concat().into()
}

fn no_unnamed() -> Bytes {
    rewrite::error("26000", "unnamed prepared statement does not exist")
}

/// Returns the name in `DEALLOCATE name`, unless it is `ALL`.
fn deallocated(sql: &[u8]) -> Option<Vec<u8>> {
    let first = sql.trim_ascii_start().get(..b"deallocate".len())?;
    if !first.eq_ignore_ascii_case(b"deallocate") {
        return None;
    }
    let words: Option<Vec<_>> = tokens(sql, Some(true))
        .filter(|token| *token != Token::Semicolon)
        .map(|token| match token {
            Token::Word(word) => Some(word),
            _ => None,
        })
        .collect();
    let name = match &words?[..] {
        [_, name] => *name,
        [_, second, name] if second.eq_ignore_ascii_case(b"prepare") => *name,
        _ => return None,
    };
    let quoted = sql.contains(&b'"');
    match name {
        _ if quoted => Some(name.to_vec()),
        name if name.eq_ignore_ascii_case(b"all") => None,
        name => Some(name.to_ascii_lowercase()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deallocated_name_is_read() {
        for (sql, expected) in [
            ("deallocate S0", Some("s0")),
            (" DEALLOCATE prepare _pg3_0;", Some("_pg3_0")),
            (r#"deallocate "S0""#, Some("S0")),
            (r#"deallocate "all""#, Some("all")),
            ("deallocate all", None),
            ("deallocate prepare ALL", None),
            ("deallocate s0; select 1", None),
            ("select deallocate", None),
            ("", None),
        ] {
            let name = deallocated(sql.as_bytes());
            assert_eq!(name.as_deref(), expected.map(str::as_bytes), "{sql}");
        }
    }

    #[test]
    fn described_parameters_become_types() {
        let description = b"t\0\0\0\x0a\0\x01\0\0\0\x17n\0\0\0\x04";
        let typed = typed(b"select $1\0\0\0", description);
        assert_eq!(&typed[..], b"select $1\0\0\x01\0\0\0\x17");
    }
}
