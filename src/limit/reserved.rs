//! Counts the slots that ordinary roles cannot use.

/// Counts, as an SQL expression, the slots reserved for superusers, from PostgreSQL 16 on for
/// `pg_use_reserved_connections`, and for a role of the provider. A macro, for `concat!`.
///
/// A custom setting that was set and reset is an empty string, not a number: hence `nullif`.
macro_rules! reserved {
    () => {
        concat!(
            "(select coalesce(sum(nullif(pg_catalog.current_setting(name, true), '')::int), 0)::int \
             from (values ('superuser_reserved_connections'), ('reserved_connections'), ('",
            $crate::provider::reserved_setting!(),
            "')) as kept (name))"
        )
    };
}

pub(crate) use reserved;
