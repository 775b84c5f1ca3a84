//! Reads the transaction status, and the parameters that the server reports.

use crate::config::ReportedParameters;

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

/// What the server has reported about itself and the session.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ServerFacts {
    /// The parameters that it reported last.
    pub(crate) parameters: ReportedParameters,
    /// BackendKeyData: the process and the secret that a CancelRequest needs.
    pub(crate) key: Option<(i32, i32)>,
    /// The last command that it completed was a COMMIT, as its tag says.
    pub(crate) committed: bool,
    /// The SQLSTATE of the last ErrorResponse that was not the consequence of another.
    pub(crate) error: Option<[u8; 5]>,
    /// The last ErrorResponse refused a statement before anything was executed.
    pub(crate) before_execution: bool,
    /// An error has said that the transaction, or the server, is read-only.
    pub(crate) refused_write: bool,
    /// How many transactions it has ended at the user's request; a ROLLBACK to a savepoint counts.
    pub(crate) ends: u64,
}

impl ReportedParameters {
    /// Keeps the value of a parameter, if it is one of these.
    pub(super) fn note(&mut self, name: &[u8], value: &[u8]) {
        let field = match name {
            b"standard_conforming_strings" => &mut self.conforming,
            b"in_hot_standby" => &mut self.in_hot_standby,
            b"default_transaction_read_only" => &mut self.read_only,
            _ => return,
        };
        *field = match value {
            b"on" => Some(true),
            b"off" => Some(false),
            _ => None,
        };
    }
}
