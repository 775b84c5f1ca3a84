//! Poolers that are recognised by a single message: Odyssey, PgCat, pgpool-II.

use super::refusal::{LET_IT_IN, NO_SERVER, refusals};
use super::{Provider, UNKNOWN};

pub(super) const PROVIDER: Provider = Provider {
    refusals: refusals! {
        // Odyssey, PgCat, pgpool-II.
        ["failed to connect to remote server"] | ["AllServersDown"] | ["all backend nodes are down"]
            => Unreachable, NO_SERVER, LET_IT_IN;
    },
    ..UNKNOWN
};
