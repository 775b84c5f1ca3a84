//! What a function may use, each configured as its own pages advise.

/// What runs a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// `src/bin/visit`.
    Rust,
    /// `functions/visit.cjs`.
    Node,
}

pub struct Candidate {
    pub name: &'static str,
    /// Whether antifreeze is in it: the others are its peers.
    pub ours: bool,
    pub program: Program,
    /// The variables that make the program this candidate.
    pub variables: &'static [(&'static str, &'static str)],
    /// What is configured, for the report.
    pub configuration: &'static str,
    /// The page that advises it.
    pub page: &'static str,
}

/// The one that the others are compared with, and the first of all.
pub const BASE: &str = "antifreeze";

pub const ALL: [Candidate; 12] = [
    Candidate {
        name: BASE,
        ours: true,
        program: Program::Rust,
        variables: &[("LIBRARY", "antifreeze")],
        configuration: "Database::from_env() and DatabaseLayer, no setting: connections are kept while \
                        the server has room",
        page: "README.md",
    },
    Candidate {
        name: "antifreeze with warm-up",
        ours: true,
        program: Program::Rust,
        variables: &[("LIBRARY", "antifreeze"), ("WARM_UP", "1")],
        configuration: "the same with shutdown::on_lambda and warm_up() in the init phase",
        page: "starters/lambda/src/main.rs",
    },
    Candidate {
        name: "antifreeze per-invocation",
        ours: true,
        program: Program::Rust,
        variables: &[
            ("LIBRARY", "antifreeze"),
            ("ANTIFREEZE_LIFETIME", "per-invocation"),
        ],
        configuration: "as the first, with ANTIFREEZE_LIFETIME=per-invocation: every connection is \
                        closed before the response",
        page: "docs/guide.md",
    },
    Candidate {
        name: "sqlx behind antifreeze",
        ours: true,
        program: Program::Rust,
        variables: &[("LIBRARY", "sqlx behind antifreeze")],
        configuration: "sqlx_hooks!(PgPoolOptions::new().max_connections(1)), connect_lazy to \
                        Database::url(); the rest as the first",
        page: "docs/other-drivers.md",
    },
    Candidate {
        name: "OnceCell<Client>",
        ours: false,
        program: Program::Rust,
        variables: &[("LIBRARY", "OnceCell")],
        configuration: "one client of tokio-postgres in a static tokio::sync::OnceCell, connected by \
                        the first request; the connection on a task",
        page: "https://docs.rs/tokio-postgres",
    },
    Candidate {
        name: "connect per request",
        ours: false,
        program: Program::Rust,
        variables: &[("LIBRARY", "connect")],
        configuration: "tokio_postgres::connect in each request; the client is dropped and its \
                        connection awaited before the response",
        page: "https://docs.rs/tokio-postgres",
    },
    Candidate {
        name: "connect with retry",
        ours: false,
        program: Program::Rust,
        variables: &[("LIBRARY", "connect with retry")],
        configuration: "the same; a connect that fails is tried again after 50 ms, doubled up to 1 s, \
                        with full jitter, until half a second before the deadline",
        page: "https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/",
    },
    Candidate {
        name: "deadpool",
        ours: false,
        program: Program::Rust,
        variables: &[("LIBRARY", "deadpool")],
        configuration: "deadpool-postgres, RecyclingMethod::Fast, max_size 1 (a process serves one \
                        request at a time)",
        page: "https://docs.rs/deadpool-postgres",
    },
    Candidate {
        name: "bb8",
        ours: false,
        program: Program::Rust,
        variables: &[("LIBRARY", "bb8")],
        configuration: "bb8-postgres, max_size 1, else its defaults: tests on checkout, waits 30 s \
                        for a connection",
        page: "https://docs.rs/bb8-postgres",
    },
    Candidate {
        name: "sqlx",
        ours: false,
        program: Program::Rust,
        variables: &[("LIBRARY", "sqlx")],
        configuration: "PgPoolOptions::new().max_connections(1), connect_lazy, else its defaults: \
                        tests before acquire, waits 30 s for a connection",
        page: "https://docs.rs/sqlx",
    },
    Candidate {
        name: "serverless-postgres",
        ours: false,
        program: Program::Node,
        variables: &[
            ("LIBRARY", "serverless-postgres"),
            ("MAX_CONNECTIONS", "25"),
        ],
        configuration: "ServerlessClient with maxConnections 25 as its page asks for, connect() before \
                        and clean() after the work, else its defaults",
        page: "https://www.npmjs.com/package/serverless-postgres",
    },
    Candidate {
        name: "pg, waiting pool",
        ours: false,
        program: Program::Node,
        variables: &[
            ("LIBRARY", "pg with a waiting pool"),
            ("IDLE_MS", "100"),
            // Without these two attachDatabasePool does nothing.
            ("VERCEL_URL", "localhost"),
            ("VERCEL_REGION", "dev1"),
        ],
        configuration: "pg's Pool and attachDatabasePool of @vercel/functions; what it gives to \
                        waitUntil is awaited before the next event, as Vercel does before it suspends. \
                        idleTimeoutMillis 100: the 5 s that Vercel advises are for instances that \
                        serve other requests meanwhile, which Lambda's do not",
        page: "https://vercel.com/docs/functions/functions-api-reference/vercel-functions-package",
    },
];
