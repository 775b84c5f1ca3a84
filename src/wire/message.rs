//! Reads and writes messages (manual, "Message Formats").

use bytes::{BufMut, Bytes, BytesMut};

/// The length of tag and length: every message but the startup packet begins so.
pub(super) const HEADER: usize = 5;

/// Flush, whole.
pub(super) const FLUSH: &[u8] = b"H\0\0\0\x04";

/// Sync, whole.
pub(super) const SYNC: &[u8] = b"S\0\0\0\x04";

/// AuthenticationOk.
pub(crate) const AUTHENTICATED: &[u8] = b"R\0\0\0\x08\0\0\0\0";

/// ReadyForQuery outside any transaction.
pub(crate) const READY: &[u8] = b"Z\0\0\0\x05I";

/// Returns the length of a message, header included.
#[inline]
pub(super) fn length(header: &[u8]) -> Option<usize> {
    let bytes = header.get(1..HEADER)?.try_into().ok()?;
    let length = usize::try_from(i32::from_be_bytes(bytes)).ok()?;
    (length >= 4).then_some(length + 1)
}

/// Returns the message at the start of `bytes`, if all of it is there.
#[inline]
pub(super) fn first(bytes: &[u8]) -> Option<&[u8]> {
    bytes.get(..length(bytes)?)
}

/// Iterates over the whole messages at the start of `bytes`.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let message = first(bytes)?;
        bytes = &bytes[message.len()..];
        Some(message)
    })
}

/// Returns the NUL-terminated string at the start of `bytes`, without its NUL.
#[inline]
pub(super) fn string(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.iter().position(|&byte| byte == 0)?;
    Some(&bytes[..end])
}

/// Iterates over NUL-terminated strings, such as the fields of an ErrorResponse.
pub(crate) fn strings(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    body.split(|&byte| byte == 0)
}

/// Returns a field of an ErrorResponse (manual, "Error and Notice Message Fields").
pub(crate) fn field(body: &[u8], field: u8) -> Option<&[u8]> {
    strings(body).find_map(|text| text.strip_prefix(&[field]))
}

/// Returns the SQLSTATE of an ErrorResponse: it comes behind the severity, so the first bytes have
/// it.
pub(super) fn sqlstate(body: &[u8]) -> Option<[u8; 5]> {
    field(body, b'C')?.try_into().ok()
}

/// Writes a message, whose body consists of these parts.
#[inline]
pub(crate) fn write(tag: u8, body: &[&[u8]], out: &mut BytesMut) {
    let length: usize = body.iter().map(|part| part.len()).sum();
    out.put_u8(tag);
    out.put_u32((4 + length) as u32);
    for part in body {
        out.put_slice(part);
    }
}

/// Writes what a server answers to a startup packet (manual, "Start-up"), after the
/// ParameterStatus messages that are given.
pub(crate) fn write_start(reported: &[u8], key: Option<(i32, i32)>, out: &mut BytesMut) {
    out.put_slice(AUTHENTICATED);
    out.put_slice(reported);
    if let Some((process, secret)) = key {
        write(b'K', &[&process.to_be_bytes(), &secret.to_be_bytes()], out);
    }
    out.put_slice(READY);
}

/// Builds an ErrorResponse as the server would send it.
pub(super) fn error(code: &str, message: &str) -> Bytes {
    let fields = format!("SERROR\0VERROR\0C{code}\0M{message}\0\0");
    let mut out = BytesMut::new();
    write(b'E', &[fields.as_bytes()], &mut out);
    out.freeze()
}
