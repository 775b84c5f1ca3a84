//! Recognises poolers of which one message is known: Odyssey, PgCat, pgpool-II.

use super::refusal::{CHECK_SERVER, NO_SERVER, refusals};
use super::{Provider, UNKNOWN};

pub(super) const PROVIDER: Provider = Provider {
    refusals: refusals! {
        ["failed to connect to remote server"] | ["AllServersDown"] | ["all backend nodes are down"]
            => Unreachable, NO_SERVER, CHECK_SERVER;
    },
    ..UNKNOWN
};
