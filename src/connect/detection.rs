//! Detects a pooler that the configuration does not mention, by what it rejects or reports
//! when a session begins. This costs no round trip.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Target;
use crate::config::{Pooler, Settings};
use crate::error::Error;
use crate::observe;
use crate::provider::{self, Host};
use crate::wire::{Naming, Wire};

/// The pooler that the sessions so far have shown.
#[derive(Debug, Default)]
pub(super) struct Detection {
    pooler: OnceLock<Pooler>,
    /// The pooler that reported its mode.
    announced: OnceLock<Pooler>,
    settings_refused: AtomicBool,
    warned: OnceLock<()>,
}

impl Detection {
    pub(super) fn announced(&self) -> Option<Pooler> {
        self.announced.get().copied()
    }

    /// Returns whether sessions are started with settings.
    pub(super) fn takes_settings(&self) -> bool {
        !self.settings_refused.load(Ordering::Acquire)
    }

    /// Returns whether to try again without settings, since an unconfigured pooler rejected them.
    /// `sent`: this connection was started [with settings](Detection::takes_settings). A schema
    /// cannot be left out.
    pub(super) fn refuses_settings(&self, config: &Settings, error: &Error, sent: bool) -> bool {
        let unexpected = sent
            && config.pooler == Pooler::None
            && config.pooler_is_detected()
            && config.schema.is_none()
            && error.is_settings_refused();
        if unexpected {
            self.settings_refused.store(true, Ordering::Release);
            self.warn(config.pooler, Pooler::Transaction);
        }
        unexpected
    }

    /// Returns the pooler of a session that has begun, and has `wire` send what it supports.
    pub(super) fn pooler<'a>(
        &self,
        config: &Settings,
        target: &Target,
        parameter: impl Fn(&str) -> Option<&'a str>,
        wire: &Wire,
    ) -> Pooler {
        let expected = config.pooler;
        if let Some(announced) = provider::pool_mode(&parameter) {
            let _ = self.announced.set(announced);
        }
        if !config.pooler_is_detected() {
            return expected;
        }
        let certain = target.host().is_some_and(|host| Host::of(host).certain);
        let key = wire
            .facts()
            .key
            .filter(|_| expected == Pooler::None && !certain);
        let refused = !self.takes_settings();
        let found = provider::detect_at_start(parameter, key.map(|(process, _)| process))
            // What one session has shown holds for the others.
            .or(self.pooler.get().copied())
            .or(refused.then_some(Pooler::Transaction));
        let Some(found) = found.filter(|&found| found != expected) else {
            return expected;
        };
        let _ = self.pooler.set(found);
        self.warn(expected, found);
        // What is right behind a transaction pooler is right behind any.
        if expected != Pooler::None {
            return expected;
        }
        wire.rename(match found {
            Pooler::Transaction => Naming::Unnamed,
            _ => Naming::AsGiven,
        });
        found
    }

    fn warn(&self, expected: Pooler, found: Pooler) {
        self.warned
            .get_or_init(|| observe::path_differs(expected.name(), found.name()));
    }
}
