//! Parses the messages of a driver, as far as the bridge needs.

use postgres_protocol::message::backend::Header;

use super::CLAIM;
use crate::error::{Error, Result};
use crate::wire::message::strings;
use crate::wire::residue;

/// The longest message that is answered here, with its header.
const SHORT: usize = 256;

/// The beginning of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) tag: u8,
    /// Of the whole message.
    pub(super) length: usize,
}

impl Head {
    /// Reads the head of the message that begins. `None`: it is not complete.
    pub(super) fn read(bytes: &[u8]) -> Result<Option<Head>> {
        let header = Header::parse(bytes).map_err(|_| {
            Error::configuration("a message of the driver has no length")
                .with_remedy("report this: the driver violates PostgreSQL's protocol")
        })?;
        Ok(header.map(|header| Head {
            tag: header.tag(),
            length: header.len() as usize + 1,
        }))
    }

    /// Returns whether the message is short enough to be one that is answered here, and has to be
    /// whole before it is passed on.
    pub(super) fn is_short(&self) -> bool {
        self.length <= SHORT
    }
}

/// Returns the token of a [claim](super::claim), if this message is one.
pub(super) fn claim(message: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(text(message)?).ok()?;
    let text = text.trim().trim_end_matches(';').trim_end();
    let (set, rest) = text.split_at_checked(3)?;
    let rest = rest.trim_start().strip_prefix(CLAIM)?;
    let value = rest.trim_start().strip_prefix('=')?.trim_start();
    let token = value.strip_prefix('\'')?.strip_suffix('\'')?;
    let is_token = token.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (set.eq_ignore_ascii_case("set") && is_token).then_some(token)
}

/// Returns whether a message begins or ends a transaction.
pub(super) fn controls_transaction(message: &[u8], conforming: Option<bool>) -> bool {
    text(message).is_some_and(|text| residue::controls_transaction(text, conforming))
}

/// Returns the SQL of a Query or a Parse.
fn text(message: &[u8]) -> Option<&[u8]> {
    let mut strings = strings(message.get(5..)?);
    match message[0] {
        b'Q' => strings.next(),
        b'P' => strings.nth(1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(sql: &str) -> Vec<u8> {
        let length = (5 + sql.len()) as u32;
        [b"Q", &length.to_be_bytes()[..], sql.as_bytes(), b"\0"].concat()
    }

    #[test]
    fn claims_are_recognised_however_they_are_written() {
        for (sql, token) in [
            ("SET antifreeze.invocation = 'ab12'", Some("ab12")),
            ("set antifreeze.invocation='ab12';", Some("ab12")),
            ("SET antifreeze.invocation = ''", Some("")),
            ("SET antifreeze.invocation = 'a'; select 1", None),
            ("SET antifreeze.other = 'a'", None),
            ("select 1", None),
            ("größe", None),
            ("", None),
        ] {
            assert_eq!(claim(&query(sql)), token, "{sql}");
        }
    }

    #[test]
    fn transactions_of_the_driver_are_seen() {
        for (sql, controls) in [
            ("BEGIN", true),
            ("start transaction read only", true),
            ("select 1; commit", true),
            ("/* x */ rollback", true),
            ("END", true),
            ("abort", true),
            ("prepare transaction 'x'", true),
            ("rollback to savepoint a", false),
            ("ROLLBACK WORK TO a", false),
            ("savepoint a", false),
            ("release savepoint a", false),
            ("select 'begin'", false),
            ("prepare p as select 1", false),
            ("do $$ begin end $$", false),
            ("insert into t values ($1)", false),
        ] {
            let message = query(sql);
            assert_eq!(
                controls_transaction(&message, Some(true)),
                controls,
                "{sql}"
            );
        }
    }

    #[test]
    fn literals_are_read_as_the_session_does() {
        let hidden = query("select '\\''; commit; --'");
        assert!(!controls_transaction(&hidden, Some(true)));
        assert!(controls_transaction(&hidden, Some(false)));
        assert!(controls_transaction(&hidden, None));
        assert!(!controls_transaction(&query("select 'a'"), None));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_looked_at(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
            let _ = Head::read(&bytes);
            if !bytes.is_empty() {
                let _ = (claim(&bytes), controls_transaction(&bytes, None));
            }
        }
    }
}
