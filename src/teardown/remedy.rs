//! Decides what a session needs before it is kept.

use crate::config::{Pooler, Reset};
use crate::wire::{Residue, Snapshot, TransactionStatus};

/// What has to be done about the session state that was left.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    None,
    Reset,
    Close,
}

/// Decides how the session state that was left is removed.
pub(super) fn remedy(snapshot: &Snapshot, reset: Reset, pooler: Pooler) -> Remedy {
    if snapshot.residue == Residue::Client {
        return Remedy::Close;
    }
    let wanted = match reset {
        Reset::Always => true,
        Reset::Detected => snapshot.residue == Residue::State,
        Reset::Never => false,
    };
    match pooler {
        _ if !wanted => Remedy::None,
        // The statements might run on another server than the one that has the state.
        Pooler::Transaction => Remedy::None,
        // RDS Proxy pins the client to its server for as long as the client stays connected.
        Pooler::RdsProxy => Remedy::Close,
        Pooler::None | Pooler::Session => Remedy::Reset,
    }
}

pub(super) fn is_outside_transaction(snapshot: &Snapshot) -> bool {
    snapshot.is_quiet() && snapshot.status == Some(TransactionStatus::Idle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{ClientState, ServerState};

    #[test]
    fn remedy_depends_on_the_pooler() {
        let snapshot = |residue| Snapshot {
            status: Some(TransactionStatus::Idle),
            server: ServerState::Answered,
            client: ClientState::Waiting,
            residue,
        };
        let clean = snapshot(Residue::None);
        let dirty = snapshot(Residue::State);
        for (snapshot, reset, pooler, expected) in [
            (clean, Reset::Detected, Pooler::None, Remedy::None),
            (clean, Reset::Always, Pooler::None, Remedy::Reset),
            (dirty, Reset::Detected, Pooler::None, Remedy::Reset),
            (dirty, Reset::Never, Pooler::None, Remedy::None),
            (dirty, Reset::Detected, Pooler::Session, Remedy::Reset),
            (dirty, Reset::Detected, Pooler::RdsProxy, Remedy::Close),
            (dirty, Reset::Always, Pooler::Transaction, Remedy::None),
            (
                snapshot(Residue::Client),
                Reset::Never,
                Pooler::None,
                Remedy::Close,
            ),
        ] {
            assert_eq!(remedy(&snapshot, reset, pooler), expected);
        }
    }
}
