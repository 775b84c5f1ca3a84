//! Answers a Parse and a Describe of a text that the session has prepared.
//!
//! The client must not notice. The description that a client gets here is that of the very
//! statement which its Bind then uses; the server itself checks at each Bind that the columns are
//! still those (error 0A000). On another session the statement is described anew, and compared,
//! before anything is bound. Where the wire has to refuse a message as the server would, it also
//! sends the server a Bind that fails, so that the transaction fails there, too.
//!
//! The unnamed statement is sent as it is: it is prepared with what it executes, in one round
//! trip, and planned for its values. It is found by its content only where the client was moved
//! to another session, or the session's was replaced.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::expected::{Entry, Handling, Reply};
use super::frontend::Frontend;
use super::message::{self, FLUSH, string};
use super::rewrite;
use super::sql::{Lexeme, lexemes};
use super::statements::{MISSING, Naming, ServerStatement, Statement, is_constant, is_same, once};
use super::tracker::Tracker;

/// ParseComplete.
const PARSE_COMPLETE: Bytes = Bytes::from_static(b"1\0\0\0\x04");

impl Frontend {
    pub(super) fn parse_by_content(
        &mut self,
        client_name: &[u8],
        after_name: &[u8],
        tracker: &mut Tracker,
    ) {
        let unnamed = client_name.is_empty();
        if !unnamed && self.is_taken(client_name, tracker) {
            return self.refuse_parse(client_name, after_name, tracker);
        }
        let sql = string(after_name).unwrap_or_default();
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
            self.lead(tracker);
            let freed = self.name_for_deallocate(sql, tracker);
            tracker.open().frees.extend(freed);
            let server = tracker.prepared.prepare_unnamed();
            self.send_parse(&server, after_name, Handling::Pass, since, tracker);
            (after_name.into(), server)
        } else {
            let text = after_name.into();
            let server = self.prepare(&text, shared, Handling::Pass, since, tracker);
            (text, server)
        };
        let statement = Statement {
            traits,
            text: Some(text),
            since,
            shared,
            server: Some(server),
            described: None,
            local,
            fingerprint: tracker.fingerprint(sql),
        };
        self.statements.0.insert(client_name.into(), statement);
    }

    /// Returns whether the server has a statement of this name for the client. What is under way
    /// may free the name.
    fn is_taken(&self, client_name: &[u8], tracker: &Tracker) -> bool {
        let deallocates = || tracker.owed.iter().any(|unit| unit.deallocates.is_some());
        // Its own Parse may still fail.
        let prepared = |statement: &Statement| !tracker.expected.names(statement.since);
        self.statements.0.get(client_name).is_some_and(prepared) && !deallocates()
    }

    /// Refuses a Parse of a name that exists, unless the server has another reason to.
    fn refuse_parse(&mut self, client_name: &[u8], after_name: &[u8], tracker: &mut Tracker) {
        let text = after_name.into();
        self.prepare(&text, false, Handling::Swallow, 0, tracker);
        let shown = String::from_utf8_lossy(client_name);
        let message = format!("prepared statement \"{shown}\" already exists");
        self.fail(message::error("42P05", &message), tracker);
    }

    /// Sends a Parse of `text` under a name of the wire's own.
    fn prepare(
        &mut self,
        text: &Arc<[u8]>,
        shared: bool,
        handling: Handling,
        named: u64,
        tracker: &mut Tracker,
    ) -> Arc<ServerStatement> {
        self.lead(tracker);
        let in_front = handling == Handling::Swallow;
        let server = tracker.prepared.prepare(text, shared, in_front);
        self.send_parse(&server, text, handling, named, tracker);
        server
    }

    fn send_parse(
        &self,
        server: &Arc<ServerStatement>,
        text: &[u8],
        handling: Handling,
        named: u64,
        tracker: &mut Tracker,
    ) {
        rewrite::parse(&server.name, text, &mut tracker.out);
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
    ) -> Option<Arc<ServerStatement>> {
        let statement = self.statements.0.get(client_name)?;
        let text = Arc::clone(statement.text.as_ref()?);
        let shared = statement.shared;
        let present = statement
            .server
            .clone()
            .filter(|server| tracker.prepared.has(server));
        let cached = || tracker.prepared.cached(&text).filter(|_| shared);
        if let Some(server) = present.or_else(cached) {
            if shared {
                tracker.prepared.touch(&text);
            }
            self.named(client_name).server = Some(Arc::clone(&server));
            return Some(server);
        }
        // In a failed transaction it is refused, and so is each that follows.
        let lasts = tracker.accepts();
        let server = self.prepare(&text, shared && lasts, Handling::Swallow, 0, tracker);
        let statement = self.named(client_name);
        statement.server = lasts.then(|| Arc::clone(&server));
        statement.local = false;
        Some(server)
    }

    fn named(&mut self, client_name: &[u8]) -> &mut Statement {
        self.statements.0.entry(client_name.into()).or_default()
    }

    /// Describes a statement. Returns false if the message is to be passed on as it is.
    pub(super) fn describe(&mut self, body: &[u8], tracker: &mut Tracker) -> bool {
        let client_name = body.strip_prefix(b"S").and_then(string);
        let Some(client_name) = client_name.filter(|_| !tracker.skips()) else {
            return false;
        };
        if client_name.is_empty() {
            // BEGIN replaces it.
            self.lead(tracker);
        }
        let Some(server) = self.server_statement(client_name, tracker) else {
            // The session's is another client's.
            let foreign = client_name.is_empty();
            if foreign {
                self.fail(no_unnamed(), tracker);
            }
            return foreign;
        };
        tracker.open().copy = None;
        let known = server.description.get();
        let known = known.filter(|_| tracker.may_answer() && tracker.prepared.is_fresh(&server));
        if let Some(description) = known {
            tracker.expect(Reply::Describe, Handling::Give(description.clone()));
        } else {
            self.lead(tracker);
            self.ask_description(&server, Handling::Pass, tracker);
        }
        self.named(client_name).described = Some(server);
        true
    }

    fn ask_description(
        &self,
        server: &Arc<ServerStatement>,
        handling: Handling,
        tracker: &mut Tracker,
    ) {
        rewrite::about_statement(b'D', &server.name, &mut tracker.out);
        tracker.open().changes = true;
        tracker.expect_entry(Entry::about(Reply::Describe, handling, server));
    }

    /// Returns the answer to expect for a Bind, with the statement that is to be bound, if it is
    /// one by content. `None`: its description has to come first.
    pub(super) fn bound(&mut self, client_name: &[u8], tracker: &mut Tracker) -> Option<Entry> {
        // BEGIN replaces the unnamed statement.
        self.lead(tracker);
        let Some(server) = self.server_statement(client_name, tracker) else {
            // The session's is another client's.
            let handling = if client_name.is_empty() {
                Handling::Replace(no_unnamed())
            } else {
                Handling::Pass
            };
            return Some(Entry::new(Reply::Bind, handling));
        };
        let statement = self.named(client_name);
        let described = statement.described.as_ref();
        let described = described.filter(|described| **described != server);
        // In a failed transaction the server refuses it in any case.
        let described = described.filter(|_| tracker.accepts());
        if let Some(before) = described.and_then(|described| described.description.get()) {
            let Some(now) = server.description.get() else {
                self.ask_description(&server, Handling::Swallow, tracker);
                tracker.out.put_slice(FLUSH);
                self.awaits = Some(server);
                return None;
            };
            if !is_same(before, now) {
                // The client's parameters keep the types that they had.
                let typed = typed(statement.text.as_deref().unwrap_or_default(), before);
                if statement.text.as_deref() != Some(&typed[..]) {
                    (statement.text, statement.server) = (Some(typed), None);
                    return self.bound(client_name, tracker);
                }
                let error = message::error("0A000", "cached plan must not change result type");
                return Some(Entry::new(Reply::Bind, Handling::Replace(error)));
            }
            statement.described = Some(Arc::clone(&server));
        }
        Some(Entry::about(Reply::Bind, Handling::Pass, &server))
    }

    /// Returns whether the server need not be asked for the answer to a Sync: it was sent nothing
    /// of the unit.
    pub(super) fn syncs_here(&self, tracker: &Tracker) -> bool {
        let alone = matches!(self.naming, Naming::ByContent { answers_sync: true });
        match &tracker.open {
            Some(unit) => unit.given && !unit.sent,
            None => alone && tracker.is_quiet(),
        }
    }

    /// Returns where a unit that begins with a Bind of this statement is copied, if it may be
    /// sent again: when only the wire has answered the client's Parse.
    pub(super) fn copies(&mut self, client_name: &[u8], first: bool) -> Option<BytesMut> {
        let statement = self.statements.0.get_mut(client_name)?;
        let local = std::mem::take(&mut statement.local);
        (local && first).then(BytesMut::new)
    }

    /// Has the server refuse the message that comes now, in the place of which the client gets
    /// `error`.
    fn fail(&mut self, error: Bytes, tracker: &mut Tracker) {
        self.lead(tracker);
        rewrite::bind(b"", MISSING, 6, &mut tracker.out);
        tracker.out.put_slice(&[0; 6]);
        tracker.open().changes = true;
        tracker.expect(Reply::Bind, Handling::Replace(error));
    }

    /// Returns whether a Close of this statement closes none of the server's.
    pub(super) fn closes_here(&self, name: &[u8]) -> bool {
        match self.naming {
            Naming::AsGiven => false,
            Naming::Unnamed => !name.is_empty(),
            Naming::ByContent { .. } => name.is_empty() || self.statements.0.contains_key(name),
        }
    }

    /// Closes statements that no client uses any more.
    pub(super) fn close_retired(&self, tracker: &mut Tracker) {
        for statement in tracker.prepared.take_closable() {
            rewrite::about_statement(b'C', &statement.name, &mut tracker.out);
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
    ) -> Option<(Box<[u8]>, Statement)> {
        let client_name = deallocated(sql).filter(|_| tracker.accepts())?;
        let freed = self.statements.0.remove_entry(&client_name[..])?;
        rewrite::about_statement(b'C', &client_name, &mut tracker.out);
        rewrite::parse(&client_name, b"\0\0\0", &mut tracker.out);
        for reply in [Reply::Close, Reply::Parse] {
            tracker.sent_in_front(reply);
        }
        Some(freed)
    }
}

/// Returns the text with the types of its parameters, as they are described.
fn typed(text: &[u8], description: &[u8]) -> Arc<[u8]> {
    let sql = string(text).unwrap_or_default();
    let length = description
        .get(1..5)
        .and_then(|field| field.try_into().ok());
    let end = 1 + u32::from_be_bytes(length.unwrap_or_default()) as usize;
    let types = description.get(5..end).unwrap_or(b"\0\0");
    [sql, b"\0", types].concat().into()
}

fn no_unnamed() -> Bytes {
    message::error("26000", "unnamed prepared statement does not exist")
}

/// Returns the name in `DEALLOCATE name`, unless it is `ALL`.
fn deallocated(sql: &[u8]) -> Option<Vec<u8>> {
    let is = |lexeme: &Lexeme<'_>, expected: &[u8]| matches!(lexeme, Lexeme::Word(word) if word.eq_ignore_ascii_case(expected));
    let mut lexemes = lexemes(sql, Some(true))
        .filter(|lexeme| !matches!(lexeme, Lexeme::Space | Lexeme::Sign(b';')));
    lexemes.next().filter(|first| is(first, b"deallocate"))?;
    let name = lexemes.next()?;
    let name = match lexemes.next() {
        Some(behind) if is(&name, b"prepare") => behind,
        None => name,
        Some(_) => return None,
    };
    match name {
        _ if lexemes.next().is_some() || is(&name, b"all") => None,
        Lexeme::Quoted(name) => Some(name.to_vec()),
        Lexeme::Word(name) => Some(name.to_ascii_lowercase()),
        _ => None,
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
