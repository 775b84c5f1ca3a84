//! Maps the words of settings to their values.

use super::{ConnectionLifetime, Endpoint, LoadShed, Pooler, Reset, TargetSessionAttrs};
use crate::provider::POOLERS;

/// A setting that is one of a list of words, in variables and in serde.
pub(super) trait Words: Copy + 'static {
    /// The setting.
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

impl Words for Endpoint {
    const NAME: &'static str = "endpoint";
    const WORDS: &'static [(&'static str, Self)] =
        &[("direct", Endpoint::Direct), ("pooled", Endpoint::Pooled)];
}

impl Words for ConnectionLifetime {
    const NAME: &'static str = "lifetime";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("per-invocation", ConnectionLifetime::PerInvocation),
        ("per-event-loop", ConnectionLifetime::PerEventLoop),
    ];
}

impl Words for Reset {
    const NAME: &'static str = "reset";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("detected", Reset::Detected),
        ("always", Reset::Always),
        ("never", Reset::Never),
    ];
}

impl Words for LoadShed {
    const NAME: &'static str = "load_shed";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("off", LoadShed::Off),
        ("first-use", LoadShed::FirstUse),
        ("before-handler", LoadShed::BeforeHandler),
    ];
}

impl Words for TargetSessionAttrs {
    const NAME: &'static str = "target_session_attrs";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("any", TargetSessionAttrs::Any),
        ("read-write", TargetSessionAttrs::ReadWrite),
        ("read-only", TargetSessionAttrs::ReadOnly),
        ("primary", TargetSessionAttrs::Primary),
        ("standby", TargetSessionAttrs::Standby),
    ];
}
