//! Writes what the bridge answers itself (manual, "Message Formats").

use bytes::{BufMut, BytesMut};

use crate::error::{Error, ErrorKind};
use crate::wire::TransactionStatus;
pub(super) use crate::wire::message::READY;
use crate::wire::message::{self, messages, strings};

/// AuthenticationCleartextPassword.
pub(super) const PASSWORD: &[u8] = b"R\0\0\0\x08\0\0\0\x03";

/// Writes ReadyForQuery.
pub(super) fn ready(status: TransactionStatus, out: &mut BytesMut) {
    message::write(b'Z', &[&[status as u8]], out);
}

/// The CommandComplete of a SET that is not sent on, and the same with ReadyForQuery.
pub(super) const SET: &[u8] = b"C\0\0\0\x08SET\0";
pub(super) const SET_AND_READY: &[u8] = b"C\0\0\0\x08SET\0Z\0\0\0\x05I";

/// What an error means for the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Severity {
    Error,
    /// It ends the connection.
    Fatal,
}

/// Writes the ParameterStatus of this parameter, if it is among those that were reported.
pub(super) fn reported(name: &str, reported: &[u8], out: &mut BytesMut) {
    for message in messages(reported) {
        let of = strings(&message[5..]).next();
        if of.is_some_and(|of| of.eq_ignore_ascii_case(name.as_bytes())) {
            out.put_slice(message);
        }
    }
}

/// Writes those ParameterStatus messages that were not reported before.
pub(super) fn changed(before: &[u8], reported: &[u8], out: &mut BytesMut) {
    for message in messages(reported) {
        if !messages(before).any(|known| known == message) {
            out.put_slice(message);
        }
    }
}

/// Writes NegotiateProtocolVersion: protocol 3.0 is spoken, without these extensions.
pub(super) fn negotiate(extensions: &[String], out: &mut BytesMut) {
    let names: String = extensions.iter().map(|name| format!("{name}\0")).collect();
    let count = (extensions.len() as u32).to_be_bytes();
    let version = (3_u32 << 16).to_be_bytes();
    message::write(b'v', &[&version, &count, names.as_bytes()], out);
}

/// Writes an error of this crate as PostgreSQL would: the remedy is its hint.
pub(super) fn error(severity: Severity, error: &Error, out: &mut BytesMut) {
    let severity = match severity {
        Severity::Error => "ERROR",
        Severity::Fatal => "FATAL",
    };
    let code = error
        .sqlstate()
        .map_or_else(|| sqlstate(error.kind()), |code| code.code());
    let fields = [
        ('S', severity),
        ('V', severity),
        ('C', code),
        ('M', error.message()),
        ('H', error.remedy()),
    ];
    let field = |(field, text): (char, &str)| format!("{field}{}\0", text.replace('\0', ""));
    let fields: String = fields.into_iter().map(field).collect();
    message::write(b'E', &[fields.as_bytes(), b"\0"], out);
}

/// Returns the SQLSTATE that PostgreSQL uses for an error of this kind (manual, appendix A).
fn sqlstate(kind: ErrorKind) -> &'static str {
    match kind {
        // too_many_connections
        ErrorKind::TooManyConnections
        | ErrorKind::LoadShed
        | ErrorKind::AcquireTimeout
        | ErrorKind::PoolSelfDeadlock => "53300",
        // connection_does_not_exist
        ErrorKind::NotInInvocation | ErrorKind::InvocationEnded => "08003",
        // connection_failure
        ErrorKind::Closed => "08006",
        // cannot_connect_now
        ErrorKind::ServerStarting | ErrorKind::ServerStopping => "57P03",
        // invalid_password, invalid_authorization_specification
        ErrorKind::Authentication => "28P01",
        ErrorKind::RoleMissing => "28000",
        // invalid_catalog_name
        ErrorKind::DatabaseMissing => "3D000",
        // query_canceled
        ErrorKind::Deadline => "57014",
        // feature_not_supported
        ErrorKind::Configuration | ErrorKind::ParameterRefused => "0A000",
        // active_sql_transaction
        ErrorKind::TransactionInUse => "25001",
        // sqlclient_unable_to_establish_sqlconnection
        _ => "08001",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_their_remedy_as_a_hint() {
        let mut out = BytesMut::new();
        let ended = Error::invocation_ended();
        error(Severity::Fatal, &ended, &mut out);
        let length = u32::from_be_bytes([out[1], out[2], out[3], out[4]]) as usize;
        assert_eq!(out.len(), length + 1);
        let text = String::from_utf8_lossy(&out[5..]).replace('\0', "|");
        let remedy = ended.remedy();
        let expected = format!("SFATAL|VFATAL|C08003|M{}|H{remedy}||", ended.message());
        assert_eq!(text, expected);
    }

    #[test]
    fn extensions_are_declined_by_name() {
        let mut out = BytesMut::new();
        negotiate(&["_pq_.a".to_owned()], &mut out);
        assert_eq!(out, &b"v\0\0\0\x13\0\x03\0\0\0\0\0\x01_pq_.a\0"[..]);
    }
}
