//! Names the sources of settings.

/// Where a setting was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Origin {
    /// In code, or by serde.
    Code,
    /// In a URL or keyword string that the code has.
    #[default]
    Url,
    /// In this variable.
    Variable(&'static str),
}

/// The value of a setting, and where it was set.
#[derive(Debug, Clone)]
pub(super) struct Sourced<T> {
    pub(super) value: T,
    pub(super) origin: Origin,
}

/// Makes the value of one source, if it has one.
pub(super) fn sourced<T>(value: Option<T>, origin: Origin) -> Option<Sourced<T>> {
    value.map(|value| Sourced { value, origin })
}
