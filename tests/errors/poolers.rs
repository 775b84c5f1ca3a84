//! Errors of poolers and providers, as they were recorded.

use super::*;

/// What poolers and servers said elsewhere, word for word as far as it is on record: the
/// code, then the message.
const RECORDED: [(&str, &str, &str); 24] = [
    (
        "the server is starting",
        "57P03",
        "the database system is starting up",
    ),
    (
        "the server is recovering",
        "57P03",
        "the database system is in recovery mode",
    ),
    (
        "pg_hba.conf wants TLS",
        "28000",
        "no pg_hba.conf entry for host \"10.0.0.7\", user \"app\", database \"shop\", no encryption",
    ),
    (
        "Supavisor, session mode",
        "XX000",
        "MaxClientsInSessionMode: max clients reached - in Session mode max clients are limited \
         to pool_size",
    ),
    (
        "Supavisor, session mode, newer",
        "XX000",
        "(EMAXCONNSESSION) max clients reached in session mode - max clients are limited to \
         pool_size: 15",
    ),
    (
        "Supavisor is full",
        "XX000",
        "Max client connections reached",
    ),
    (
        "Supavisor, wrong region or user",
        "XX000",
        "Tenant or user not found",
    ),
    (
        "PgBouncer is full",
        "08P01",
        "no more connections allowed (max_client_conn)",
    ),
    (
        "PgBouncer is full for the user",
        "08P01",
        "client connections exceeded (max_user_client_connections)",
    ),
    ("PgBouncer's pool is in use", "08P01", "query_wait_timeout"),
    ("PgBouncer, user", "08P01", "no such user: app"),
    ("PgBouncer, database", "08P01", "no such database: shop"),
    (
        "PgBouncer, parameter",
        "08P01",
        "unsupported startup parameter: search_path",
    ),
    (
        "PgBouncer, parameter in options",
        "08P01",
        "unsupported startup parameter in options: statement_timeout",
    ),
    (
        "PgBouncer cannot log in",
        "08P01",
        "server login has been failing, try again later (server_login_retry)",
    ),
    (
        "PgBouncer 1.18, a wrong password",
        "08P01",
        "password authentication failed for user \"app\"",
    ),
    (
        "PgBouncer 1.18, a wrong password and SCRAM",
        "08P01",
        "SASL authentication failed",
    ),
    (
        "RDS Proxy, options",
        "0A000",
        "Feature not supported: RDS Proxy currently doesn't support command-line options.",
    ),
    (
        "RDS Proxy, TLS",
        "28000",
        "This RDS Proxy requires TLS connections",
    ),
    (
        "RDS Proxy, no secret",
        "28000",
        "This RDS proxy has no credentials for the role app. Check the credentials for this role \
         and try again.",
    ),
    (
        "RDS Proxy, in use",
        "53300",
        "Timed-out waiting to acquire database connection",
    ),
    (
        "Neon, no host name",
        "08P01",
        "Endpoint ID is not specified. Either please upgrade the postgres client library (libpq) \
         for SNI support or pass the endpoint ID (first part of the domain name) as a parameter.",
    ),
    (
        "Neon, no such endpoint",
        "XX000",
        "The requested endpoint could not be found, or you don't have access to it. Please check \
         the provided ID and try again.",
    ),
    (
        "something else",
        "58000",
        "something that is on no record: hunter2",
    ),
];

pub async fn recorded(golden: &mut Golden) {
    for (what, code, message) in RECORDED {
        let address = refusing_server(code, message).await;
        golden.volatile(address, "127.0.0.1:PORT");
        let url = format!("postgres://app@{address}/shop");
        golden.add(what, &refused(&database(&url)).await);
    }
    let address = refusing_server("28000", "role \"root\" does not exist").await;
    golden.volatile(address, "127.0.0.1:PORT");
    let unnamed = database(&format!("postgres://{address}/shop"));
    golden.add("no user named", &refused(&unnamed).await);
}
