//! Summarises what the wire knows of a connection at one moment.

use super::residue::Residue;
use super::status::TransactionStatus;

/// The state of a connection at one moment, on the server's side and on tokio-postgres's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// The status in the last ReadyForQuery. It is still true only if the connection
    /// [is settled](Snapshot::is_settled).
    pub status: Option<TransactionStatus>,
    pub(crate) server: ServerState,
    pub(crate) client: ClientState,
    pub(crate) residue: Residue,
}

/// The work that the server still has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServerState {
    /// Nothing: all that was asked has been answered.
    Answered,
    /// It owes only what cannot change the transaction status: the answer to a Close.
    Settled,
    /// It owes an answer that can, or something of a request is still here.
    Busy,
    /// It waits for COPY data.
    CopyingIn,
    /// Much that was written waits in here for the socket.
    Unsent,
    /// The framing was lost: nothing here can be trusted.
    Lost,
    /// The socket is closed or broken: nothing more will be heard.
    Gone,
}

/// The state of tokio-postgres, above the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClientState {
    /// It waits for the server, and the last thing that it wrote was a completed flush:
    /// right after its connection was polled to `Pending` this proves that its queue is
    /// empty.
    Waiting,
    /// The same, but not all of what it wrote has been flushed.
    Writing,
    /// It does not read: it waits until the holder takes its rows, or until another driver gives
    /// the session back.
    Stalled,
    /// The connection was [detached](super::Wire::detach) from it.
    Detached,
    /// The server ended the session with an error: the holder gets that as the answer to its
    /// next request, which tokio-postgres would not give.
    Dismissed,
}

impl Snapshot {
    /// The state that a client sees whose session was given another client.
    pub(super) const ENDED: Snapshot = Snapshot {
        status: None,
        server: ServerState::Gone,
        client: ClientState::Detached,
        residue: Residue::None,
    };

    /// Returns whether no answer is owed that could change the status, and nothing
    /// waits here to be sent.
    pub fn is_settled(&self) -> bool {
        matches!(self.server, ServerState::Answered | ServerState::Settled)
    }

    /// Returns whether all that was sent was answered, and no transaction is open.
    pub fn is_at_rest(&self) -> bool {
        self.server == ServerState::Answered && self.status == Some(TransactionStatus::Idle)
    }

    /// Returns whether nothing is under way in either direction.
    pub(crate) fn is_quiet(&self) -> bool {
        self.is_settled() && self.client == ClientState::Waiting
    }

    /// Returns whether waiting would not change what is known.
    pub(crate) fn is_decided(&self) -> bool {
        self.is_quiet() || self.server == ServerState::Lost || self.is_over()
    }

    /// Returns whether tokio-postgres gets no more from the server.
    pub fn is_over(&self) -> bool {
        self.server == ServerState::Gone
            || matches!(self.client, ClientState::Detached | ClientState::Dismissed)
    }

    /// Returns whether the server ended the session with an error.
    pub fn is_dismissed(&self) -> bool {
        self.client == ClientState::Dismissed
    }

    /// Returns whether the server may be executing a statement that a CancelRequest ends. A COPY
    /// is ended by CopyFail.
    pub(crate) fn is_running(&self) -> bool {
        use ServerState::{Busy, Lost, Unsent};
        matches!(self.server, Busy | Unsent | Lost)
    }
}
