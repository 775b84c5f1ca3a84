//! Poolers of which no more than a word is known.

use super::{Provider, Refusal, UNKNOWN};

pub(super) const PROVIDER: Provider = Provider {
    refusals: &[
        // Odyssey.
        Refusal::no_server(&["failed to connect to remote server"]),
        // PgCat.
        Refusal::no_server(&["AllServersDown"]),
        // pgpool-II.
        Refusal::no_server(&["all backend nodes are down"]),
    ],
    ..UNKNOWN
};
