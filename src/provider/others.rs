//! Recognises poolers of which one message is known: Odyssey, PgCat, pgpool-II.

use super::known_error::{CHECK_SERVER, NO_SERVER, known_errors};
use super::{Provider, UNKNOWN};

pub(super) const PROVIDER: Provider = Provider {
    known_errors: known_errors! {
        ["failed to connect to remote server"] | ["AllServersDown"] | ["all backend nodes are down"]
            => Unreachable, NO_SERVER, CHECK_SERVER;
    },
    ..UNKNOWN
};
