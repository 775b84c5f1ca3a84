//! What turned out to lie in between, where nobody has said it.
//!
//! A pooler gives itself away when a session begins: by what it refuses, and by what the
//! server says anyway. Looking at that costs nothing. It is followed where we would else
//! do what a pooler does not bear, and told once.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Target;
use crate::config::{Path, Settings};
use crate::error::Error;
use crate::observe;
use crate::wire::Wire;

/// Linux gives no process a higher number (`PID_MAX_LIMIT`; proc(5), `pid_max`). For
/// want of a process of its own PgBouncer puts a random number there, which lies
/// below once in a thousand times.
const HIGHEST_PROCESS: i32 = 1 << 22;

/// What the sessions so far have shown.
#[derive(Debug, Default)]
pub(super) struct Found {
    path: OnceLock<Path>,
    /// It refused our settings: none are sent any more.
    plain: AtomicBool,
    told: AtomicBool,
}

impl Found {
    pub(super) fn takes_settings(&self) -> bool {
        !self.plain.load(Ordering::Acquire)
    }

    /// Whether to try again without our settings, since a pooler has refused them that
    /// nobody had said was there. `sent`: they were [taken](Found::takes_settings) when
    /// this connection began, whatever others have found meanwhile. A schema cannot be
    /// done without.
    pub(super) fn a_pooler(&self, config: &Settings, error: &Error, sent: bool) -> bool {
        let unexpected = sent
            && config.path == Path::Direct
            && config.path_is_detected()
            && config.schema.is_none()
            && error.is_settings_refused();
        if unexpected {
            self.plain.store(true, Ordering::Release);
            self.tell(config.path, Path::TransactionPooler);
        }
        unexpected
    }

    /// The path of a session that has begun; `wire` is told of it.
    pub(super) fn path<'a>(
        &self,
        config: &Settings,
        target: &Target,
        parameter: impl Fn(&str) -> Option<&'a str>,
        wire: &Wire,
    ) -> Path {
        let expected = config.path;
        if !config.path_is_detected() {
            return expected;
        }
        let known = target.host().is_some_and(Path::is_known_by);
        let key = wire.key().filter(|_| expected == Path::Direct && !known);
        let plain = !self.takes_settings();
        let found = shown(parameter, key.map(|(process, _)| process))
            // What one session has shown holds for the others.
            .or(self.path.get().copied())
            .or(plain.then_some(Path::TransactionPooler));
        let Some(found) = found.filter(|&found| found != expected) else {
            return expected;
        };
        let _ = self.path.set(found);
        self.tell(expected, found);
        // What is right behind a transaction pooler is right behind any.
        if expected != Path::Direct {
            return expected;
        }
        if found == Path::TransactionPooler {
            wire.unname();
        }
        found
    }

    fn tell(&self, expected: Path, found: Path) {
        if !self.told.swap(true, Ordering::AcqRel) {
            observe::path_differs(expected.name(), found.name());
        }
    }
}

/// The path that a pooler tells. `None`: it may well be the server itself.
///
/// `process` is that of BackendKeyData, to be looked at where nothing else in between is
/// known to make up its own.
fn shown<'a>(parameter: impl Fn(&str) -> Option<&'a str>, process: Option<i32>) -> Option<Path> {
    // In whatever mode: what is right behind the one is right behind the other.
    let foreign = process.filter(|process| !(1..=HIGHEST_PROCESS).contains(process));
    pool_mode(parameter).or(foreign.map(|_| Path::TransactionPooler))
}

/// What a newer PgBouncer says of itself: 1.26 does, 1.18 not.
pub(crate) fn pool_mode<'a>(parameter: impl Fn(&str) -> Option<&'a str>) -> Option<Path> {
    Some(match parameter("pgbouncer.pool_mode")? {
        "session" => Path::SessionPooler,
        _ => Path::TransactionPooler,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pooler_gives_itself_away() {
        use Path::{SessionPooler, TransactionPooler};
        for (mode, process, expected) in [
            (None, Some(20867), None),
            (None, Some(HIGHEST_PROCESS), None),
            (None, None, None),
            (None, Some(1_300_301_942), Some(TransactionPooler)),
            (None, Some(-1_911_720_800), Some(TransactionPooler)),
            (Some("transaction"), Some(1), Some(TransactionPooler)),
            (Some("statement"), None, Some(TransactionPooler)),
            (Some("session"), Some(-1), Some(SessionPooler)),
        ] {
            let parameter = |name: &str| mode.filter(|_| name == "pgbouncer.pool_mode");
            assert_eq!(shown(parameter, process), expected, "{mode:?} {process:?}");
        }
    }
}
