//! Guesses which authentication a server asks for, by what it asked for last.

use super::super::Target;
use super::{Guard, Mechanism};
use crate::config::{GuessAuthentication, Method, Pooler, Settings};
use crate::lock::Mutex;
use crate::provider;

/// What the servers of a database asked for last: a SASL mechanism, or something else.
#[derive(Debug, Default)]
pub(in crate::connect) struct Guesses(Mutex<Vec<(String, Option<Mechanism>)>>);

impl Guesses {
    /// Remembers what a server asked for.
    pub(in crate::connect) fn learn(&self, target: &Target, asked: Option<Mechanism>) {
        let endpoint = endpoint(target);
        let mut known = self.0.lock();
        match known.iter_mut().find(|(known, _)| *known == endpoint) {
            Some((_, known)) => *known = asked,
            None => known.push((endpoint, asked)),
        }
    }

    /// Returns the mechanism that the server is expected to ask for; `None`: do not guess.
    pub(in crate::connect) fn guess(
        &self,
        config: &Settings,
        target: &Target,
        guard: &Guard<'_>,
        binding: Option<&[u8]>,
    ) -> Option<Mechanism> {
        let guesses = match config.guess_authentication {
            GuessAuthentication::On => true,
            GuessAuthentication::Off => false,
            GuessAuthentication::Auto => provider::is_unknown(target.host(), config.pooler),
        };
        if !guesses || guard.check(Method::Scram).is_err() {
            return None;
        }
        let endpoint = endpoint(target);
        let known = self.0.lock();
        let asked = known.iter().find(|(known, _)| *known == endpoint);
        match asked.map(|(_, asked)| *asked) {
            // It may have had another certificate then.
            Some(Some(Mechanism::ScramPlus)) if binding.is_none() => Some(Mechanism::Scram),
            Some(asked) => asked,
            // Poolers do not support channel binding.
            None if binding.is_some() && (guard.bound || config.pooler == Pooler::None) => {
                Some(Mechanism::ScramPlus)
            }
            None => Some(Mechanism::Scram),
        }
    }
}

/// Names a server. The addresses of a host may change, and have one server behind them.
fn endpoint(target: &Target) -> String {
    match target {
        Target::Tcp { address, host, .. } => format!("{host}:{}", address.port()),
        #[cfg(unix)]
        Target::Unix(path) => path.display().to_string(),
    }
}
