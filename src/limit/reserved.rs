//! Slots that a server reserves from ordinary roles.

/// As SQL: how many slots a server keeps for superusers, from PostgreSQL 16 on for
/// `pg_use_reserved_connections`, and for a role of the provider's. A macro, for `concat!`.
///
/// A setting that was set and reset is empty, and no number.
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
