//! Tracks what is sent under one ReadyForQuery, and its answer.

use bytes::BytesMut;

use super::question::Question;
use super::residue::Traits;
use super::statements::Statement;

/// The messages that one ReadyForQuery answers.
#[derive(Debug, Default)]
pub(super) struct Unit {
    /// A Query, whose COPY is ended by CopyDone alone.
    pub(super) simple: bool,
    /// Something in it could change the transaction status. A Close could not:
    /// waiting for its answer would cost the clean case a round trip.
    pub(super) changes: bool,
    /// The server waits for COPY data.
    pub(super) copy_in: bool,
    /// Its Sync is [withheld](super::copy).
    pub(super) withheld: bool,
    /// CopyFail was sent behind its COPY, whether the server has begun that or not.
    pub(super) copy_ended: bool,
    /// The end of a COPY was sent behind it, which has begun none.
    pub(super) ends_early: bool,
    /// The properties of its statements.
    pub(super) traits: Traits,
    /// By how many characters the wire's text in front of a simple query shifts the position
    /// in an error.
    pub(super) shift: usize,
    /// It opens the lazily begun transaction.
    pub(super) begins: bool,
    /// It executes a statement.
    pub(super) executes: bool,
    /// What follows waits for its answer. It may end the lazily begun transaction: until that is
    /// known, the next statement might run outside it. Or it copies, behind a pooler.
    pub(super) waits: bool,
    /// It is a COMMIT or ROLLBACK alone, which no transaction survives.
    pub(super) ends: bool,
    /// Something of it was sent to the server.
    pub(super) sent: bool,
    /// Something of it is answered here.
    pub(super) given: bool,
    /// It may deallocate the statements that were named before this number.
    pub(super) deallocates: Option<u64>,
    /// The server has deallocated all of them.
    pub(super) deallocated: bool,
    /// The statements that it deallocates by name, until the server has done so.
    pub(super) frees: Vec<(Box<[u8]>, Statement)>,
    /// What the client sent of it, while it may be sent again: nothing of it is executed if the
    /// server does not have the statement that it binds first.
    pub(super) copy: Option<BytesMut>,
    /// The copy is sent again.
    pub(super) repeats: bool,
    /// The server answered with an error.
    pub(super) failed: bool,
    /// It is a query of the wire's own.
    pub(super) question: Option<Box<Question>>,
}

impl Unit {
    /// A request in one message, which may change the transaction status.
    pub(super) fn simple() -> Self {
        Unit {
            simple: true,
            changes: true,
            sent: true,
            ..Unit::default()
        }
    }

    /// Returns whether what follows has to wait for its answer.
    pub(super) fn holds(&self) -> bool {
        self.begins || self.waits
    }

    /// Returns whether it may leave a transaction open, or copies: nothing of the wire's own may be
    /// sent behind it.
    pub(super) fn opens(&self) -> bool {
        self.traits.begins || self.traits.copies
    }
}

/// An answer of the server, as far as requests wait for it.
#[derive(Debug)]
pub(super) enum Answer {
    /// A COPY asks for its data: the BEGIN in front of it succeeded.
    Begun,
    /// The unit has its ReadyForQuery.
    Complete(Unit),
    /// A statement is described, the open unit has failed, or a withheld Sync was sent.
    Described,
}

/// What to do with a message from the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Fate {
    /// It is for tokio-postgres.
    #[default]
    Pass,
    /// The same, and it is kept.
    Copy,
    /// It answers a message of the wire's own.
    Swallow,
    /// The same, and it is kept.
    Keep,
    /// An error: its position may have to be corrected, and it may end the session.
    Hold,
}
