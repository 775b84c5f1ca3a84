//! Maps the words of settings to their values.

use std::str::FromStr;

use super::{
    ConnectionLifetime, Endpoint, GuessAuthentication, LoadShed, Pooler, Reset, TargetSessionAttrs,
};
use crate::error::{Error, Result};
use crate::provider::POOLERS;

/// A setting that is one of a list of words, in variables and in serde.
pub(super) trait Words: Copy + 'static {
    /// The name of the setting, for errors.
    const NAME: &'static str;
    const WORDS: &'static [(&'static str, Self)];

    fn of(word: &str) -> Option<Self> {
        let known = Self::WORDS.iter().find(|(known, _)| *known == word);
        known.map(|(_, value)| *value)
    }

    /// Lists the words, for errors.
    fn all() -> String {
        let words: Vec<_> = Self::WORDS.iter().map(|(word, _)| *word).collect();
        words.join(", ")
    }
}

impl Words for Pooler {
    const NAME: &'static str = "pooler";
    const WORDS: &'static [(&'static str, Self)] = &POOLERS;
}

macro_rules! words {
    ($($type:ident $name:literal { $($word:literal $value:ident),+ })+) => {$(
        impl Words for $type {
            const NAME: &'static str = $name;
            const WORDS: &'static [(&'static str, Self)] = &[$(($word, $type::$value)),+];
        }
    )+};
}

words! {
    Endpoint "endpoint" { "direct" Direct, "pooled" Pooled }
    ConnectionLifetime "lifetime" {
        "per-invocation" PerInvocation, "per-event-loop" PerEventLoop
    }
    GuessAuthentication "guess_authentication" { "auto" Auto, "on" On, "off" Off }
    Reset "reset" { "detected" Detected, "always" Always, "never" Never }
    LoadShed "load_shed" {
        "off" Off, "first-use" FirstUse, "before-handler" BeforeHandler
    }
    TargetSessionAttrs "target_session_attrs" {
        "any" Any, "read-write" ReadWrite, "read-only" ReadOnly, "primary" Primary,
        "standby" Standby
    }
}

impl FromStr for TargetSessionAttrs {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || match text {
            "prefer-standby" => Error::configuration(
                "target_session_attrs=prefer-standby is not supported: use standby or any",
            ),
            _ => Error::configuration(format!(
                "target_session_attrs is not valid: expected one of {}",
                Self::all()
            )),
        };
        Self::of(text).ok_or_else(wrong)
    }
}
