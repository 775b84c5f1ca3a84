//! The transaction status, and the parameters that the server reports.

use crate::config::Reported;

/// The state of the session between two statements: the byte of the last ReadyForQuery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum TransactionStatus {
    /// `I`: outside any transaction.
    Idle = b'I',
    /// `T`: inside a transaction.
    InTransaction = b'T',
    /// `E`: inside a transaction that failed; only a rollback is accepted.
    Failed = b'E',
}

impl TransactionStatus {
    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        let all = [Self::Idle, Self::InTransaction, Self::Failed];
        all.into_iter().find(|&status| status as u8 == byte)
    }
}

impl Reported {
    /// Keeps the value of a ParameterStatus, if it is one of these.
    pub(super) fn note(&mut self, body: &[u8]) {
        let mut fields = body.split(|&byte| byte == 0);
        let field = match fields.next() {
            Some(b"standard_conforming_strings") => &mut self.conforming,
            Some(b"in_hot_standby") => &mut self.in_hot_standby,
            Some(b"default_transaction_read_only") => &mut self.read_only,
            _ => return,
        };
        *field = match fields.next() {
            Some(b"on") => Some(true),
            Some(b"off") => Some(false),
            _ => None,
        };
    }
}
