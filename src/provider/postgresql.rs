//! SQLSTATEs of the server (manual, appendix A), and messages where one code stands for
//! several conditions.

use super::refusal::{Refusal, refusals};

/// In answer to a start-up packet, a setting of which is refused.
pub(super) const AT_START: &[Refusal] = refusals! {
    // "invalid command-line argument", "-c .. requires a value" (postgres.c).
    "42601" => ParameterRefused,
        "the server rejects `options`",
        "write them as -c name=value, separated by spaces; in a URL a space is %20, not `+`: \
         options=-c%20name%3Dvalue";
    "42704" | "22023" | "42501" | "22P02" | "55P02" | "42602" => ParameterRefused,
        "the server rejects {parameter} at startup",
        "correct it, or remove it from `options` in the URL";
};

/// What is not known better: of a statement, and at the start.
pub(super) const OTHERS: &[Refusal] = refusals! {
    => Database, "the server refused the statement";
    => Database, "the server refused it";
};

pub(super) const REFUSALS: &[Refusal] = refusals! {
    // The session does not begin.
    "28000" ["no pg_hba.conf entry", "no encryption"] | ["no pg_hba.conf entry", "SSL off"] => Tls,
        "pg_hba.conf has no entry for this connection without TLS",
        "set sslmode=verify-full; if that is set, add a line to pg_hba.conf for this \
         address, user and database";
    "28000" ["no pg_hba.conf entry"] => Authentication,
        "pg_hba.conf has no entry for this address, user and database",
        "add a line to its pg_hba.conf, or correct user and database";
    "28000" ["role", "does not exist"] => RoleMissing, "the role to connect as does not exist";
    "28000" ["not permitted to log in"] => Authentication,
        "the role may not log in",
        "ALTER ROLE .. LOGIN, or connect as another";
    "28000" ["valid client certificate"] => Authentication,
        "the server requires a client certificate",
        "set sslcert and sslkey to one that is valid for this user, and an sslmode with TLS";
    "28000" => Authentication, "the server does not accept this user";
    "28P01" => Authentication,
        "the server does not accept this user with this password",
        "check both, and that reserved characters of the password are percent-encoded; the server reports the same for a role that does not exist";
    "3D000" => DatabaseMissing, "the database to connect to does not exist";
    "57014" ["authentication"] => ConnectTimeout,
        "the server waited too long for the authentication";
    "53300" ["connections for role"] => TooManyConnections,
        "the role has reached its CONNECTION LIMIT",
        "lower `max_connections` or the function's concurrency, or ALTER ROLE .. CONNECTION \
         LIMIT";
    "53300" ["connections for database"] => TooManyConnections,
        "the database has reached its CONNECTION LIMIT",
        "lower `max_connections` or the function's concurrency, or ALTER DATABASE .. \
         CONNECTION LIMIT";
    "53300" ["reserved"] => TooManyConnections,
        "the server has no connection slots left except those reserved for superusers (max_connections)";
    "53300" => TooManyConnections, "the server has no connection slots left (max_connections)";
    "57P03" ["shutting down"] => ServerStopping, "the server is shutting down";
    "57P03" ["recovery"] => ServerStarting, "the server is recovering";
    "57P03" => ServerStarting, "the server is starting up";

    // It ends.
    "57P01" => ServerStopping,
        "the server ended the session: it is shutting down, or an administrator ended it";
    "57P02" => ServerStopping, "the server ended the session: another server process crashed";
    "57P04" => DatabaseMissing, "the database was dropped";
    "57P05" => Closed,
        "the server ended the session: it was idle for longer than idle_session_timeout",
        "get a new connection, and lower `max_idle_time`";
    "25P03" => TransactionFailed,
        "the server ended the session: its transaction was idle for longer than \
         idle_in_transaction_session_timeout",
        "do not wait for other services inside a transaction";
    "25P04" => TransactionFailed,
        "the server ended the session: its transaction took longer than transaction_timeout",
        "make the transaction smaller, or raise the timeout";
    "08" => Unreachable, "the connection to the server failed, as a pooler or proxy reports";

    // A statement fails.
    "25P02" => TransactionFailed,
        "an earlier statement of this transaction failed: the server ignores commands until it is rolled back";
    // Found before anything of it is executed, when the server looks at its plan (plancache.c,
    // known by the function since messages are translated) or at the types of its parameters
    // (lsyscache.c, whose messages are not).
    "0A000" ["RevalidateCachedQuery"] | ["cached plan must not change"] => StatementOutdated,
        OUTDATED;
    "XX000" ["cache lookup failed for type"] => StatementOutdated, OUTDATED;
    "26000" => StatementMissing, "the server does not know the prepared statement";
    "42P05" => StatementMissing, "a prepared statement of this name already exists";
    "25006" => ReadOnly, "cannot write: the transaction or the server is read-only";
    "23505" => UniqueViolation, "a value already exists";
    "23503" => ConstraintViolation,
        "a row references a missing row, or is still referenced",
        "store the referenced row first, or delete the referencing rows";
    "23502" => ConstraintViolation, "a value is missing", "give the column a value, or a DEFAULT";
    "23514" => ConstraintViolation, "a value fails its check";
    "23P01" => ConstraintViolation, "a value conflicts with an existing one (exclusion constraint)";
    "23" => ConstraintViolation, "a constraint was violated";
    "22P05" | "22021" => DataException, "a text contains a character that the database cannot store";
    "22001" => DataException, "a text is longer than its column";
    "22003" => DataException, "a number is out of range";
    "22007" | "22008" => DataException, "a value is not a valid date or time";
    "22012" => DataException, "a division by zero";
    "22P02" | "22P03" => DataException, "a value has the wrong form for its type";
    "22" => DataException, "a value is invalid";
    "40P01" => SerializationFailure,
        "deadlock: two transactions waited for each other, and this one was aborted";
    "40001" | "OC000" | "OC001" => SerializationFailure,
        "serialization failure: a concurrent transaction changed the same data";
    "42501" => PermissionDenied, "the role may not do this";
    "55P03" => LockTimeout, "a lock could not be acquired in time";
    "57014" ["statement timeout"] => StatementTimeout,
        "the statement took longer than the server's statement_timeout";
    "57014" => Cancelled, "the statement was cancelled on request";
    "42P01" | "42703" | "42883" | "42704" | "3F000" => Database,
        "a table, column, function or type of the statement does not exist",
        "check that the migrations ran, and search_path; the source says which";
    "42601" => Database, "the statement has a syntax error", "the source says where";
    "P0001" => Database,
        "a function of the database raised an error of its own",
        "the source says which";
    "53100" => Database,
        "the server's disk is full",
        "make room; until then nothing can be written";
    "53200" => Database,
        "the server is out of memory",
        "lower work_mem or the number of connections, or take a larger one";
};

const OUTDATED: &str = "the schema has changed since the statement was prepared";
