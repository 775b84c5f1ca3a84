//! Tracks what is sent under one ReadyForQuery, and its answer.

use super::status::TransactionStatus;

/// What the server's answer to one sync point is owed for.
#[derive(Debug, Default)]
pub(super) struct Unit {
    /// A Query, whose COPY is ended by CopyDone alone.
    pub(super) simple: bool,
    /// Something in it could change the transaction status. A Close could not:
    /// waiting for its answer would cost the clean case a round trip.
    pub(super) changes: bool,
    /// The server waits for COPY data.
    pub(super) copy_in: bool,
    /// The end of its COPY is on its way, before the server has begun one.
    pub(super) ends_early: bool,
    /// Each SET in it ends with the transaction.
    pub(super) sets_are_local: bool,
    /// The answers to what the wire itself put in front, still to be swallowed.
    pub(super) swallow: &'static [u8],
    /// By how many bytes our text in front of a simple query shifts the error
    /// position that the user is told.
    pub(super) shift: usize,
    /// It opens the lazily begun transaction.
    pub(super) begins: bool,
    /// It copies, behind a pooler: nothing is sent until that is over.
    pub(super) copies: bool,
    /// The statement that it prepares: forgotten again if that fails.
    pub(super) prepares: Option<Vec<u8>>,
    /// The server answered with an error.
    pub(super) failed: bool,
    /// The Close of a statement that the server never had: it is answered here.
    pub(super) here: bool,
}

impl Unit {
    /// Two stretches that one ReadyForQuery will answer.
    pub(super) fn absorb(&mut self, earlier: Unit) {
        self.changes |= earlier.changes;
        self.sets_are_local |= earlier.sets_are_local;
        self.copies |= earlier.copies;
    }

    /// What follows has to wait for its answer.
    pub(super) fn holds(&self) -> bool {
        self.begins || self.copies
    }
}

/// The end of an answer, or of the part of it that tells whether the transaction has
/// begun, as the frontend side needs to know it.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) begins: bool,
    /// What follows waits for it.
    pub(super) holds: bool,
    pub(super) failed: bool,
    pub(super) prepares: Option<Vec<u8>>,
    pub(super) status: TransactionStatus,
}

/// What to do with a message from the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Pass,
    /// It answers what the wire put in front.
    Swallow,
    /// An error: its position may have to be set right, and it may be the server's last
    /// word.
    Hold,
}
