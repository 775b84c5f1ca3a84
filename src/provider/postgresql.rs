//! Lists the SQLSTATEs of the server (manual, appendix A), and messages where one code stands
//! for several conditions.

use super::known_error::{KnownError, known_errors};

/// Counts, as an SQL expression, the slots that ordinary roles cannot use: those reserved for
/// superusers, from PostgreSQL 16 on for `pg_use_reserved_connections`, and for a role of the
/// provider.
///
/// A custom setting that was set and reset is an empty string, not a number: hence `nullif`.
pub const RESERVED: &str = "(select \
    coalesce(sum(nullif(pg_catalog.current_setting(name, true), '')::int), 0)::int \
    from (values ('superuser_reserved_connections'), ('reserved_connections'), \
    ('rds.rds_superuser_reserved_connections')) as kept (name))";

/// Settings that the server rejects in answer to the startup packet.
pub(super) const AT_START: &[KnownError] = known_errors! {
    // "invalid command-line argument", "-c .. requires a value" (postgres.c).
    "42601" => ParameterRefused,
        "the server rejects `options`",
        "write them as -c name=value, separated by spaces; in a URL a space is %20, not `+`: \
         options=-c%20name%3Dvalue";
    "42704" | "22023" | "42501" | "22P02" | "55P02" | "42602" => ParameterRefused,
        "the server rejects {parameter} at startup",
        "correct it, or remove it from `options` in the URL";
};

/// Fallbacks, for a statement and for the start of a session.
pub(super) const FALLBACKS: &[KnownError] = known_errors! {
    => Database, "the server rejected the statement";
    => Database, "the server rejected the connection";
};

pub(super) const ERRORS: &[KnownError] = known_errors! {
    // The session does not begin.
    "28000" ["no pg_hba.conf entry", "no encryption"] | ["no pg_hba.conf entry", "SSL off"] => Tls,
        "no pg_hba.conf entry for this connection without TLS",
        "set sslmode=verify-full; if it is set, add a line to pg_hba.conf for this address, user \
         and database";
    "28000" ["no pg_hba.conf entry"] => Authentication,
        "no pg_hba.conf entry for this address, user and database",
        "add a line to pg_hba.conf, or correct user and database";
    "28000" ["role", "does not exist"] => RoleMissing, "the role does not exist";
    "28000" ["not permitted to log in"] => Authentication,
        "the role is not permitted to log in",
        "run ALTER ROLE .. LOGIN, or connect as another role";
    "28000" ["valid client certificate"] => Authentication,
        "the server requires a client certificate",
        "set sslcert and sslkey to a certificate that is valid for this user, and an sslmode with \
         TLS";
    "28000" => Authentication, "the server rejected this user";
    "28P01" => Authentication,
        "password authentication failed",
        "check user and password, and that reserved characters of the password are \
         percent-encoded; the server reports the same for a role that does not exist";
    "3D000" => DatabaseMissing, "the database does not exist";
    "57014" ["authentication"] => ConnectTimeout,
        "authentication took longer than the server's authentication_timeout";
    "53300" ["connections for role"] => TooManyConnections,
        "too many connections for the role (CONNECTION LIMIT)",
        "lower antifreeze's `max_connections` or the function's concurrency, or raise the limit \
         with ALTER ROLE .. CONNECTION LIMIT";
    "53300" ["connections for database"] => TooManyConnections,
        "too many connections for the database (CONNECTION LIMIT)",
        "lower antifreeze's `max_connections` or the function's concurrency, or raise the limit \
         with ALTER DATABASE .. CONNECTION LIMIT";
    "53300" ["reserved"] => TooManyConnections,
        "the server's remaining connection slots are reserved (max_connections)";
    "53300" => TooManyConnections, "the server has no connection slots left (max_connections)";
    "57P03" ["shutting down"] => ServerStopping, "the server is shutting down";
    "57P03" ["recovery"] => ServerStarting, "the server is in recovery mode";
    "57P03" => ServerStarting, "the server is starting up";

    // The session ends.
    "57P01" => ServerStopping,
        "the server terminated the connection: it is shutting down, or an administrator ended the \
         session";
    "57P02" => ServerStopping,
        "the server terminated the connection: another server process crashed";
    "57P04" => DatabaseMissing, "the database was dropped";
    "57P05" => Closed,
        "the server terminated the connection: it was idle for longer than idle_session_timeout",
        "get a new connection, and lower `max_idle_time`";
    "25P03" => TransactionFailed,
        "the server terminated the connection: its transaction was idle for longer than \
         idle_in_transaction_session_timeout",
        "do not wait for other services inside a transaction";
    "25P04" => TransactionFailed,
        "the server terminated the connection: its transaction took longer than \
         transaction_timeout",
        "make the transaction smaller, or raise the timeout";
    "08" => Unreachable, "the connection to the server failed, as a pooler or proxy reports";

    // A statement fails.
    "25P02" => TransactionFailed,
        "the transaction is aborted: an earlier statement failed, and the server ignores commands \
         until the rollback";
    // Reported before the statement is executed, when the server looks at its plan (plancache.c,
    // recognised by the function since messages are translated) or at the types of its
    // parameters (lsyscache.c, whose messages are not translated).
    "0A000" ["RevalidateCachedQuery"] | ["cached plan must not change"] => StatementOutdated,
        OUTDATED;
    "XX000" ["cache lookup failed for type"] => StatementOutdated, OUTDATED;
    "26000" => StatementMissing, "the prepared statement does not exist on the server";
    "42P05" => StatementMissing, "a prepared statement of this name already exists";
    "25006" => ReadOnly, "cannot write: the transaction or the server is read-only";
    "23505" => UniqueViolation, "duplicate key value violates a unique constraint";
    "23503" => ConstraintViolation,
        "a foreign key constraint is violated",
        "insert the referenced row first, or delete the referencing rows first";
    "23502" => ConstraintViolation,
        "null value in a NOT NULL column",
        "give the column a value, or a DEFAULT";
    "23514" => ConstraintViolation, "a value violates a check constraint";
    "23P01" => ConstraintViolation, "a value violates an exclusion constraint";
    "23" => ConstraintViolation, "a constraint is violated";
    "22P05" | "22021" => DataException,
        "a character cannot be stored in the encoding of the database";
    "22001" => DataException, "a text is too long for its column";
    "22003" => DataException, "a number is out of range";
    "22007" | "22008" => DataException, "a value is not a valid date or time";
    "22012" => DataException, "division by zero";
    "22P02" | "22P03" => DataException, "a value has invalid syntax for its type";
    "22" => DataException, "a value is invalid";
    "40P01" => SerializationFailure,
        "deadlock detected: transactions waited for each other, and this one was aborted";
    "40001" | "OC000" | "OC001" => SerializationFailure,
        "serialization failure: a concurrent transaction changed the same data";
    "42501" => PermissionDenied, "permission denied for the role";
    "55P03" => LockTimeout, "a lock could not be obtained in time";
    "57014" ["statement timeout"] => StatementTimeout,
        "the statement was cancelled: it took longer than the server's statement_timeout";
    "57014" => Cancelled, "the statement was cancelled on request";
    "42P01" | "42703" | "42883" | "42704" | "3F000" => Database,
        "a table, column, function or type in the statement does not exist",
        "check that the migrations have run, and check search_path; `source()` has the name";
    "42601" => Database, "syntax error in the statement", "correct it; `source()` has the position";
    "P0001" => Database,
        "a database function raised an exception",
        "see `source()` for its message";
    "53100" => Database,
        "the server's disk is full",
        "free or add disk space; nothing can be written until then";
    "53200" => Database,
        "the server is out of memory",
        "lower work_mem or the number of connections, or use a larger server";
};

const OUTDATED: &str = "the schema has changed since the statement was prepared";
