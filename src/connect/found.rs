//! Detects a pooler that the configuration does not mention.
//!
//! A pooler gives itself away when a session begins: by what it refuses, and by what the
//! server says anyway. Looking at that costs nothing. It is followed where we would else
//! do what a pooler does not bear, and told once.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Target;
use crate::config::{Pooler, Settings};
use crate::error::Error;
use crate::observe;
use crate::provider::{self, Host};
use crate::wire::Wire;

/// What the sessions so far have shown.
#[derive(Debug, Default)]
pub(super) struct Found {
    pooler: OnceLock<Pooler>,
    /// It refused our settings: none are sent any more.
    plain: AtomicBool,
    told: AtomicBool,
}

impl Found {
    pub(super) fn takes_settings(&self) -> bool {
        !self.plain.load(Ordering::Acquire)
    }

    /// Whether to try again without our settings, since a pooler has refused them that
    /// was not configured. `sent`: they were [taken](Found::takes_settings) when
    /// this connection began, whatever others have found meanwhile. A schema cannot be
    /// done without.
    pub(super) fn a_pooler(&self, config: &Settings, error: &Error, sent: bool) -> bool {
        let unexpected = sent
            && config.pooler == Pooler::None
            && config.pooler_is_detected()
            && config.schema.is_none()
            && error.is_settings_refused();
        if unexpected {
            self.plain.store(true, Ordering::Release);
            self.tell(config.pooler, Pooler::Transaction);
        }
        unexpected
    }

    /// The path of a session that has begun; `wire` is told of it.
    pub(super) fn pooler<'a>(
        &self,
        config: &Settings,
        target: &Target,
        parameter: impl Fn(&str) -> Option<&'a str>,
        wire: &Wire,
    ) -> Pooler {
        let expected = config.pooler;
        if !config.pooler_is_detected() {
            return expected;
        }
        let known = target.host().is_some_and(|host| Host::of(host).certain);
        let key = wire
            .facts()
            .key
            .filter(|_| expected == Pooler::None && !known);
        let plain = !self.takes_settings();
        let found = provider::shown(parameter, key.map(|(process, _)| process))
            // What one session has shown holds for the others.
            .or(self.pooler.get().copied())
            .or(plain.then_some(Pooler::Transaction));
        let Some(found) = found.filter(|&found| found != expected) else {
            return expected;
        };
        let _ = self.pooler.set(found);
        self.tell(expected, found);
        // What is right behind a transaction pooler is right behind any.
        if expected != Pooler::None {
            return expected;
        }
        if found == Pooler::Transaction {
            wire.unname();
        }
        found
    }

    fn tell(&self, expected: Pooler, found: Pooler) {
        if !self.told.swap(true, Ordering::AcqRel) {
            observe::path_differs(expected.name(), found.name());
        }
    }
}
