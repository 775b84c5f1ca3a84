//! Rewrites requests: puts BEGIN in front of a statement, and sends statements unnamed.
//!
//! No API of tokio-postgres can do either (its `GenericClient` is sealed, and
//! `Deref` goes past any method of this crate):
//!
//! - **BEGIN in front.** A lazily begun transaction costs no round trip of its
//!   own when BEGIN travels under the same Sync as the first statement. If it
//!   fails, the server skips to the Sync: the statement falls with it and is
//!   never autocommitted.
//! - **Unnamed statements.** A transaction pooler that does not track prepared
//!   statements sends Parse and Bind to different servers. Put the remembered
//!   text before each Bind, unnamed, and both arrive under one Sync.

use bytes::{Buf, BufMut, BytesMut};
use postgres_protocol::message::frontend;

use super::message;

/// Writes BEGIN by the extended protocol, under the Sync that follows.
pub(super) fn begin(sql: &str, out: &mut BytesMut) {
    // Errors arise from NUL bytes in the text alone, and ours holds none.
    let _ = frontend::parse("", sql, std::iter::empty(), out);
    // Bind without parameters, and Execute without a limit.
    out.put_slice(b"B\0\0\0\x0c\0\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0");
}

/// Writes BEGIN and the user's text as one simple query. Returns by how many characters the
/// user's text is shifted.
pub(super) fn begin_query(sql: &str, text: &[u8], out: &mut BytesMut) -> usize {
    message::write(b'Q', &[sql.as_bytes(), b";", text, b"\0"], out);
    sql.len() + 1
}

/// Writes a Parse under another name. `after_name` is the user's message from the end of the
/// name on: text and parameter types.
#[inline]
pub(super) fn parse(name: &[u8], after_name: &[u8], out: &mut BytesMut) {
    message::write(b'P', &[name, b"\0", after_name], out);
}

/// Writes the head of a Bind of a statement. The rest of the user's message, `rest` bytes, has
/// to follow.
pub(super) fn bind(portal: &[u8], statement: &[u8], rest: usize, out: &mut BytesMut) {
    out.put_u8(b'B');
    out.put_u32((4 + portal.len() + 1 + statement.len() + 1 + rest) as u32);
    for name in [portal, statement] {
        out.put_slice(name);
        out.put_u8(0);
    }
}

/// Writes a Describe or a Close, by its tag, of a statement.
pub(super) fn about_statement(tag: u8, statement: &[u8], out: &mut BytesMut) {
    message::write(tag, &[b"S", statement, b"\0"], out);
}

/// Describe of the unnamed statement.
pub(super) const DESCRIBE_UNNAMED: &[u8] = b"D\0\0\0\x06S\0";

/// Writes an ErrorResponse, its position reduced by `shift`: it counts from the user's own text.
///
/// Field `P` is a decimal count of characters (manual, "Error and Notice Message
/// Fields"). A position inside our own text, or one that is not a number, is unchanged.
pub(super) fn shift_position(message: &[u8], shift: usize, out: &mut BytesMut) {
    if shift == 0 || message.len() < 5 {
        return out.put_slice(message);
    }
    let (start, mut fields) = (out.len(), &message[5..]);
    out.put_slice(b"E\0\0\0\0");
    while let Some(end) = fields.iter().position(|&byte| byte == 0) {
        let field = &fields[..end];
        let position = field
            .strip_prefix(b"P")
            .and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<usize>().ok())
            .and_then(|position| position.checked_sub(shift))
            .filter(|&position| position > 0);
        match position {
            Some(position) => out.put_slice(format!("P{position}").as_bytes()),
            None => out.put_slice(field),
        }
        out.put_u8(0);
        fields.advance(end + 1);
    }
    out.put_slice(fields);
    let length = (out.len() - start - 1) as u32;
    out[start + 1..start + 5].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(fields: &[u8]) -> BytesMut {
        let mut message = BytesMut::new();
        message.put_u8(b'E');
        message.put_u32(4 + fields.len() as u32);
        message.put_slice(fields);
        message
    }

    #[test]
    fn error_positions_count_from_the_users_text() {
        for (before, after) in [
            (&b"SERROR\0P16\0Mx\0\0"[..], &b"SERROR\0P10\0Mx\0\0"[..]),
            (b"P7\0\0", b"P1\0\0"),
            (b"P6\0\0", b"P6\0\0"),
            (b"P\0\0", b"P\0\0"),
            (b"Pnone\0\0", b"Pnone\0\0"),
            (b"\0", b"\0"),
            (b"unterminated", b"unterminated"),
        ] {
            let mut out = BytesMut::new();
            shift_position(&error(before), 6, &mut out);
            assert_eq!(out, error(after));
        }
    }

    #[test]
    fn begin_is_put_before_a_query() {
        let mut out = BytesMut::new();
        let shift = begin_query("BEGIN", b"select 1", &mut out);
        let mut expected = BytesMut::new();
        frontend::query("BEGIN;select 1", &mut expected).expect("no NUL");
        assert_eq!((shift, out), (6, expected));
    }

    #[test]
    fn named_messages_are_rewritten_as_unnamed() {
        let mut named = BytesMut::new();
        frontend::parse("s1", "select $1", [25], &mut named).expect("no NUL");
        let mut unnamed = BytesMut::new();
        frontend::parse("", "select $1", [25], &mut unnamed).expect("no NUL");
        let mut out = BytesMut::new();
        parse(b"", &named[5 + 3..], &mut out);
        assert_eq!(out, unnamed);

        out.clear();
        unnamed.clear();
        out.put_slice(DESCRIBE_UNNAMED);
        frontend::describe(b'S', "", &mut unnamed).expect("no NUL");
        assert_eq!(out, unnamed);
    }
}
