//! Writes what the bridge answers itself (manual, "Message Formats").

use bytes::{BufMut, BytesMut};

use crate::error::{Error, ErrorKind};
use crate::wire::TransactionStatus;

/// AuthenticationOk, and the question for a password in clear text.
const AUTHENTICATED: &[u8] = b"R\0\0\0\x08\0\0\0\0";
pub(super) const PASSWORD: &[u8] = b"R\0\0\0\x08\0\0\0\x03";

/// ReadyForQuery outside any transaction.
pub(super) const READY: &[u8] = b"Z\0\0\0\x05I";

/// Writes ReadyForQuery.
pub(super) fn ready(status: TransactionStatus, out: &mut BytesMut) {
    out.put_slice(&READY[..5]);
    out.put_u8(status as u8);
}

/// The answer to a SET that is not sent on, without its end.
pub(super) const SET: &[u8] = b"C\0\0\0\x08SET\0";

/// What an error means for the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Severity {
    Error,
    /// It ends the connection.
    Fatal,
}

/// Writes the answer to a start-up packet.
pub(super) fn startup(reported: &[u8], (process, secret): (i32, i32), out: &mut BytesMut) {
    out.put_slice(AUTHENTICATED);
    out.put_slice(reported);
    out.put_slice(b"K\0\0\0\x0c");
    out.put_i32(process);
    out.put_i32(secret);
    out.put_slice(READY);
}

/// Writes the ParameterStatus of this parameter, if it is among those that were reported.
pub(super) fn reported(name: &str, reported: &[u8], out: &mut BytesMut) {
    for message in messages(reported) {
        let of = message[5..].split(|&byte| byte == 0).next();
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

/// Iterates over whole messages.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = bytes.get(1..5)?.first_chunk()?;
        let length = 1 + u32::from_be_bytes(*length) as usize;
        let (message, rest) = bytes.split_at_checked(length)?;
        bytes = rest;
        Some(message)
    })
}

/// Writes that protocol 3.0 is spoken, without these extensions.
pub(super) fn negotiate(extensions: &[String], out: &mut BytesMut) {
    let names: usize = extensions.iter().map(|name| name.len() + 1).sum();
    out.put_u8(b'v');
    out.put_u32((12 + names) as u32);
    out.put_u32(0);
    out.put_u32(extensions.len() as u32);
    for name in extensions {
        out.put_slice(name.as_bytes());
        out.put_u8(0);
    }
}

/// Writes an error of ours as PostgreSQL would: the remedy is its hint.
pub(super) fn error(severity: Severity, error: &Error, out: &mut BytesMut) {
    let severity = match severity {
        Severity::Error => "ERROR",
        Severity::Fatal => "FATAL",
    };
    let code = error
        .sqlstate()
        .map_or_else(|| sqlstate(error.kind()), |code| code.code());
    let (message, hint) = (error.message(), error.remedy());
    let fields = [
        ('S', severity),
        ('V', severity),
        ('C', code),
        ('M', message),
        ('H', hint),
    ];
    let start = out.len();
    out.put_slice(b"E\0\0\0\0");
    for (field, text) in fields {
        out.put_u8(field as u8);
        out.put_slice(text.replace('\0', "").as_bytes());
        out.put_u8(0);
    }
    out.put_u8(0);
    let length = (out.len() - start - 1) as u32;
    out[start + 1..start + 5].copy_from_slice(&length.to_be_bytes());
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
        assert_eq!(out, &b"v\0\0\0\x13\0\0\0\0\0\0\0\x01_pq_.a\0"[..]);
    }
}
