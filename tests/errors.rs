//! What a user is told, for every kind of error: `tests/golden/errors.txt` holds the
//! texts, and was read by a person. `UPDATE_GOLDEN=1` writes it anew.

mod common;

use std::collections::HashSet;
use std::fmt::Write as _;
use std::future::pending;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use antifreeze::credentials::{Attempt, Credentials, Login, LoginFuture};
use antifreeze::{
    Config, Connection, Database, Error, ErrorKind, connection, retry_transaction, transaction,
};
use bytes::Bytes;
use common::{PLENTY, black_hole, says};
use lab::certificates::Authority;
use lab::postgres::{Auth, Postgres};
use lab::relay::{Cut, Relay};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

/// The texts, in order, and what differs from run to run.
#[derive(Default)]
struct Golden {
    text: String,
    kinds: HashSet<ErrorKind>,
    volatile: Vec<(String, &'static str)>,
}

impl Golden {
    /// `part` of a text stands there as `name`.
    fn volatile(&mut self, part: impl ToString, name: &'static str) {
        self.volatile.push((part.to_string(), name));
    }

    fn add(&mut self, what: &str, error: &Error) {
        let shown = error.to_string();
        assert!(!shown.contains('\n'), "one line: {shown}");
        let debug = format!("{error:?}");
        assert!(!debug.contains("hunter2"), "{what}: {debug}");
        self.kinds.insert(error.kind());
        let response = http::Response::<Bytes>::from(error);
        let document = String::from_utf8_lossy(response.body());
        let mut entry = format!("{what}\n    {shown}\n    {}", response.status().as_u16());
        for (holds, word) in [
            (error.is_unavailable(), ", unavailable"),
            (error.is_retryable(), ", may be retried"),
        ] {
            entry += if holds { word } else { "" };
        }
        let document: serde_json::Value = serde_json::from_str(&document).expect("a document");
        for key in ["kind", "sqlstate", "constraint", "detail"] {
            if let Some(value) = document[key].as_str() {
                write!(entry, ", {key}: {value}").expect("written");
            }
        }
        for (part, name) in &self.volatile {
            entry = entry.replace(part, name);
        }
        self.text += &entry;
        self.text += "\n\n";
    }

    fn compare(&self) {
        let missing = ErrorKind::ALL
            .iter()
            .filter(|kind| !self.kinds.contains(kind));
        let missing: Vec<_> = missing.map(ErrorKind::to_string).collect();
        assert!(missing.is_empty(), "no text for {missing:?}");
        // Part of a word, too.
        assert!(!self.text.contains("hunter2"), "{}", self.text);
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/errors.txt");
        if std::env::var("UPDATE_GOLDEN").is_ok_and(|update| update == "1") {
            std::fs::write(&path, &self.text).expect("written");
            return;
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_default();
        for (is, was) in self.text.split("\n\n").zip(golden.split("\n\n")) {
            assert_eq!(is, was, "UPDATE_GOLDEN=1 writes it anew: read it then");
        }
        assert_eq!(self.text, golden);
    }
}

fn database(url: &str) -> Database {
    database_with(url, |config| config)
}

fn database_with(url: &str, change: impl FnOnce(Config) -> Config) -> Database {
    let config = change(Config::from_url(url).expect("a URL"));
    Database::new(config).expect("settings")
}

/// The error of `work` in an invocation of its own.
async fn failing<T>(database: &Database, work: impl Future<Output = Result<T, Error>>) -> Error {
    match database.invocation(PLENTY, work).await {
        Ok(_) => panic!("it did not fail"),
        Err(error) => error,
    }
}

/// Of who asks for a connection and does not wait for long.
async fn refused(database: &Database) -> Error {
    let asks = async { connection().await.map(drop) };
    let asked = database.invocation(Duration::from_secs(2), asks).await;
    asked.expect_err("it is refused")
}

/// What the server says to `sql`, simple or with a parameter.
async fn said(database: &Database, sql: &str) -> Error {
    failing(database, async {
        Ok(connection().await?.batch_execute(sql).await?)
    })
    .await
}

#[tokio::test]
async fn what_the_user_is_told() {
    let mut golden = Golden::default();
    golden.text += "What a user is told, by `tests/errors.rs`: what happened, the line that is \
                    shown, and what a caller over HTTP learns.\n\n";
    our_own(&mut golden).await;
    the_way_there(&mut golden).await;
    start_up(&mut golden).await;
    providers(&mut golden).await;
    mistakes(&mut golden);
    encryption(&mut golden).await;
    poolers(&mut golden).await;
    statements(&mut golden).await;
    transactions(&mut golden).await;
    golden.compare();
}

/// What has nothing to do with the server.
async fn our_own(golden: &mut Golden) {
    let postgres = Postgres::shared().await.expect("a server");
    let url = postgres.url();
    let config = Config::from_url(&url).expect("a URL").max_connections(0);
    let error = Database::new(config).expect_err("no connections");
    golden.add("a setting makes no sense", &error);

    let error = connection().await.expect_err("outside");
    golden.add("a connection is asked for outside any invocation", &error);

    let database = database_with(&url, |config| {
        config
            .max_connections(1)
            .acquire_timeout(Duration::from_millis(50))
    });
    let ended = async { antifreeze::invocation() };
    let ended = database.invocation(PLENTY, ended).await.expect("fine");
    let error = ended.connection().await.expect_err("too late");
    golden.add("an invocation that has ended is asked", &error);

    let line = line!() + 3;
    let error = failing(&database, async {
        let _held = connection().await?;
        connection().await.map(drop)
    });
    golden.volatile(format!("tests/errors.rs:{line}"), "tests/errors.rs:LINE");
    let error = error.await;
    golden.add("a second connection is asked for, of one", &error);

    let (held, holding) = tokio::sync::oneshot::channel::<()>();
    let holder = database.invocation(PLENTY, async {
        let _held = connection().await?;
        let _ = held.send(());
        sleep(Duration::from_millis(200)).await;
        Ok::<_, Error>(())
    });
    let waiter = async {
        holding.await.expect("held");
        refused(&database).await
    };
    let (held, error) = tokio::join!(holder, waiter);
    held.expect("fine");
    golden.add("other invocations do not give a connection back", &error);

    let never = async {
        pending::<()>().await;
        Ok::<_, Error>(())
    };
    let error = database.invocation(Duration::from_millis(100), never).await;
    golden.add("the deadline is reached", &error.expect_err("in time"));
}

const EITHER: &str = "is the server running, and are host and port right? (or: inside the \
                      container 127.0.0.1 is the container itself: name the database's own host)";

/// Until the server can be spoken to.
async fn the_way_there(golden: &mut Golden) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let free = listener.local_addr().expect("an address");
    drop(listener);
    golden.volatile(free, "127.0.0.1:PORT");
    let quick = |config: Config| config.connect_timeout(Duration::from_millis(300));
    let url = |address: &str| format!("postgres://app:hunter2@{address}/shop");

    let error = refused(&database_with(&url(&free.to_string()), quick)).await;
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    // Where this test runs decides which of the two is told.
    golden.volatile(error.remedy(), EITHER);
    golden.add("nothing listens there", &error);

    let directory = database_with("postgres://app@%2Fnowhere/shop", quick);
    golden.add("the socket is not there", &refused(&directory).await);

    let unknown = url("no-such-host.invalid");
    let error = refused(&database_with(&unknown, |config| {
        config.connect_timeout(Duration::from_secs(5))
    }))
    .await;
    golden.add("the name is misspelt", &error);

    let project = url("db.no-such-project.supabase.co");
    let error = refused(&database_with(&project, |config| {
        config.connect_timeout(Duration::from_secs(5))
    }))
    .await;
    golden.add(
        "a project of Supabase's, from where there is no IPv6",
        &error,
    );

    let (silent, _held) = black_hole().await;
    golden.volatile(silent, "127.0.0.1:PORT");
    let error = refused(&database_with(&url(&silent.to_string()), |config| {
        config.connect_timeout(Duration::from_millis(1500))
    }))
    .await;
    golden.add("a firewall drops everything", &error);
    let error = refused(&database_with(&url(&silent.to_string()), quick)).await;
    golden.add("the deadline leaves too little to tell", &error);

    let postgres = Postgres::shared().await.expect("a server");
    let relay = Relay::start(postgres.address()).await.expect("a relay");
    golden.volatile(relay.address(), "127.0.0.1:PORT");
    relay.stall();
    for (sslmode, what) in [
        ("prefer", "the server is silent when it is asked for TLS"),
        ("disable", "the server is silent at start-up"),
    ] {
        let url = format!("{}?sslmode={sslmode}", relay.url(&postgres.url()));
        golden.add(what, &refused(&database_with(&url, quick)).await);
    }

    golden.volatile(postgres.address(), "127.0.0.1:PORT");
    let url = format!("{}?sslmode=verify-full", postgres.url());
    golden.add("the server has no TLS", &refused(&database(&url)).await);
}

/// What a server says before the session has begun.
async fn start_up(golden: &mut Golden) {
    let postgres = Postgres::builder()
        .auth(Auth::Scram)
        .setting("max_connections", 8)
        .start()
        .await
        .expect("a server");
    golden.volatile(postgres.address(), "127.0.0.1:PORT");
    postgres.create_role("app").await.expect("a role");
    postgres.create_database("shop").await.expect("a database");
    let secret = "alter role app password 'hunter2'";
    postgres.execute(secret).await.expect("set");
    let url = postgres.url_for("app", "shop");
    let url = url.replace(&format!(":{}@", Postgres::PASSWORD), ":hunter2@");
    let wrong = |from: &str, to: &str| {
        assert!(url.contains(from), "{url}");
        database(&url.replace(from, to))
    };
    for (what, database) in [
        ("a wrong password", wrong(":hunter2@", ":hunter22@")),
        ("no password", wrong(":hunter2@", "@")),
        (
            "no such database, but for the capital",
            wrong("/shop", "/Shop"),
        ),
        ("no such database", wrong("/shop", "/stock")),
        ("no database named", wrong("/shop", "")),
        (
            "options that are none",
            wrong("/shop", "/shop?options=search_path%3Dx"),
        ),
        (
            "an unknown parameter",
            wrong("/shop", "/shop?options=-c%20no_such_parameter%3D1"),
        ),
    ] {
        golden.add(what, &refused(&database).await);
    }

    postgres
        .execute("alter role app connection limit 0")
        .await
        .expect("set");
    let full = database(&url);
    golden.add("the role is full", &refused(&full).await);
    let asks = async { connection().await.map(drop) };
    let error = full.invocation(Duration::ZERO, asks).await;
    let error = error.expect_err("there is no time");
    let text = error.to_string();
    for (before, behind, name) in [
        ("has been for ", ":", "has been for TIME"),
        ("due in ", ",", "due in DELAY"),
    ] {
        let (_, part) = text.split_once(before).expect("how long");
        let (part, _) = part.split_once(behind).expect("how long");
        golden.volatile(format!("{before}{part}"), name);
    }
    golden.add("it is full still, and there is no time to wait", &error);
    let more = "alter role app connection limit -1; alter database shop connection limit 0";
    postgres.execute(more).await.expect("set");
    golden.add("the database is full", &refused(&database(&url)).await);
    postgres
        .execute("alter database shop connection limit -1")
        .await
        .expect("set");

    let all = database_with(&url, |config| config.max_connections(5));
    let error = failing(&all, async {
        let mut held = Vec::new();
        for _ in 0..5 {
            held.push(connection().await?);
        }
        let other = database(&url);
        let error = refused(&other).await;
        golden.add("the server is full", &error);
        drop(held);
        // Smart shutdown waits for those who are there, and lets nobody in.
        let pid = std::fs::read_to_string(postgres.directory().join("data/postmaster.pid"));
        let pid = pid.expect("a pid file");
        let pid = pid.lines().next().expect("a pid");
        let kill = format!("kill -TERM {pid}");
        let killed = std::process::Command::new("sh")
            .args(["-c", &kill])
            .status();
        assert!(killed.expect("a shell").success());
        let connection = connection().await?;
        let quick = database_with(&url, |config| {
            config.connect_timeout(Duration::from_millis(400))
        });
        let error = timeout(PLENTY, async {
            loop {
                let error = refused(&quick).await;
                if error.kind() != ErrorKind::TooManyConnections {
                    return error;
                }
            }
        });
        golden.add("the server is shutting down", &error.await.expect("soon"));
        postgres.halt().await.expect("down");
        connection.batch_execute("select 1").await?;
        Ok(())
    })
    .await;
    golden.add("the server has ended the session", &error);

    let trusting = Postgres::shared().await.expect("a server");
    let url = trusting.url_for("App", "postgres");
    golden.add("no such role", &refused(&database(&url)).await);
}

/// Where the password is asked for.
async fn providers(golden: &mut Golden) {
    let postgres = Postgres::builder().auth(Auth::Scram);
    let postgres = postgres.start().await.expect("a server");
    golden.volatile(postgres.address(), "127.0.0.1:PORT");
    let url = postgres.url_for("postgres", "postgres");
    let asking = |provider: Provider| {
        database_with(&url, |config| {
            config
                .credentials(provider)
                .connect_timeout(Duration::from_millis(500))
        })
    };
    for (what, provider) in [
        ("a provider's password is wrong", Provider::Wrong),
        ("the provider fails", Provider::Fails),
        ("the provider does not answer", Provider::Hangs),
    ] {
        golden.add(what, &refused(&asking(provider)).await);
    }
}

#[derive(Debug, Clone, Copy)]
enum Provider {
    Wrong,
    Fails,
    Hangs,
}

impl Credentials for Provider {
    fn login<'a>(&'a self, _: &'a Attempt) -> LoginFuture<'a> {
        Box::pin(async {
            match self {
                Provider::Wrong => Ok(Login::password("hunter2")),
                Provider::Fails => Err("hunter2 is shut".into()),
                Provider::Hangs => pending().await,
            }
        })
    }
}

/// URLs that are not right.
fn mistakes(golden: &mut Golden) {
    for (what, url) in [
        (
            "an @ in the password",
            "postgres://app:hunter2@hunter2@db/shop",
        ),
        (
            "a / in the password",
            "postgres://app:hunter2/hunter2@db/shop",
        ),
        (
            "a # in the password",
            "postgres://app:hunter2#hunter2@db/shop",
        ),
        (
            "a placeholder for the password",
            "postgres://app:[YOUR-PASSWORD]@db/shop",
        ),
        (
            "the password in the user's place",
            "postgres://app%3Ahunter2@db/shop",
        ),
        (
            "parameters that are separated wrongly",
            "host=db;user=app;password=hunter2",
        ),
        (
            "a host with a port among keywords",
            "host=db:5432 password=hunter2",
        ),
        (
            "a template that nobody filled in",
            "postgres://app:hunter2@${DB_HOST}/shop",
        ),
        ("nothing but a placeholder", "[REDACTED]"),
        (
            "a URL of Java's",
            "jdbc:postgresql://db/shop?password=hunter2",
        ),
        (
            "a parameter of Java's",
            "postgres://app:hunter2@db/shop?currentSchema=x",
        ),
        (
            "a parameter of Prisma's",
            "postgres://app:hunter2@db/shop?sslaccept=strict",
        ),
        (
            "an sslmode of node-postgres",
            "postgres://app:hunter2@db/shop?sslmode=no-verify",
        ),
        (
            "ssl that is not true",
            "postgres://app:hunter2@db/shop?ssl=require",
        ),
        (
            "ssl against sslmode",
            "postgres://app:hunter2@db/shop?sslmode=disable&ssl=true",
        ),
        (
            "a plus for a space",
            "postgres://app:hunter2@db/shop?options=-c+search_path%3Dx",
        ),
        ("an empty URL", " "),
        (
            "an unknown parameter of the URL",
            "postgres://app:hunter2@db/shop?sslmod=require",
        ),
        (
            "no such sslmode",
            "postgres://app:hunter2@db/shop?sslmode=verify_full",
        ),
        ("no URL", "hunter2"),
    ] {
        match Config::from_url(url).and_then(Database::new) {
            Ok(_) => panic!("{what} was taken"),
            Err(error) => golden.add(what, &error),
        }
    }
}

/// To Linux and macOS 0.0.0.0 is this machine; to us it is an address like any other.
const ELSEWHERE: &str = "0.0.0.0";

/// What TLS and the way to authenticate may lack.
async fn encryption(golden: &mut Golden) {
    let authority = Authority::new().expect("an authority");
    let roots = authority.pem().replace('\n', "%0A").replace('+', "%2B");
    let roots = roots.replace(' ', "%20");
    let identities = [
        authority.server(&["localhost", ELSEWHERE]),
        authority.server(&["db.example.com"]),
        authority.expired(&["localhost"]),
    ];
    let mut servers = Vec::new();
    for identity in identities {
        let server = Postgres::builder()
            .rule("hostssl all alice all cert")
            .rule("host all plain all password")
            .rule("host all hashed all md5")
            .tls_with(&authority, identity.expect("a certificate"));
        let server = server.start().await.expect("a server");
        golden.volatile(format!(":{}", server.port()), ":PORT");
        for role in ["alice", "plain", "hashed"] {
            server.create_role(role).await.expect("a role");
        }
        servers.push(server);
    }
    let hash = format!(
        "set password_encryption = md5; alter role hashed password '{}'",
        Postgres::PASSWORD
    );
    servers[0].execute(&hash).await.expect("a hash");
    let full = format!("sslmode=verify-full&sslrootcert={roots}");
    let bound = format!("{full}&channel_binding=require");
    for (what, server, user, host, parameters) in [
        (
            "a private authority",
            0,
            "alice",
            "localhost",
            "sslmode=verify-full",
        ),
        ("another name", 1, "alice", "localhost", &*full),
        ("an expired certificate", 2, "alice", "localhost", &full),
        (
            "a client certificate is wanted",
            0,
            "alice",
            "localhost",
            &full,
        ),
        (
            "channel_binding, which only SCRAM has",
            0,
            "plain",
            "localhost",
            &bound,
        ),
        (
            "channel_binding without TLS",
            0,
            "plain",
            "localhost",
            "sslmode=disable&channel_binding=require",
        ),
        (
            "a password in the clear",
            0,
            "plain",
            ELSEWHERE,
            "sslmode=require",
        ),
        (
            "a password hashed with MD5",
            0,
            "hashed",
            ELSEWHERE,
            "sslmode=require",
        ),
        (
            "a way to authenticate that require_auth excludes",
            0,
            "plain",
            "localhost",
            "sslmode=disable&require_auth=scram-sha-256",
        ),
    ] {
        let port = servers[server].port();
        let url = format!("postgres://{user}:hunter2@{host}:{port}/postgres?{parameters}");
        let error = match Config::from_url(&url).and_then(Database::new) {
            Ok(database) => refused(&database).await,
            Err(error) => error,
        };
        golden.add(what, &error);
    }

    for (what, answer) in [
        ("something else listens there", &b"HTTP/1.1 400\r\n"[..]),
        ("an error before TLS", b"Eno process\0"),
        ("it hangs up before TLS", b""),
    ] {
        let address = answers(answer).await;
        golden.volatile(address, "127.0.0.1:PORT");
        let url = format!("postgres://app@{address}/shop?sslmode=prefer");
        let quick = |config: Config| config.connect_timeout(Duration::from_millis(500));
        golden.add(what, &refused(&database_with(&url, quick)).await);
    }
}

/// Answers whoever connects so, and hangs up.
async fn answers(with: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // What is unread would make it a reset.
            let _ = stream.read(&mut [0; 8]).await;
            let _ = stream.write_all(with).await;
        }
    });
    address
}

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

async fn poolers(golden: &mut Golden) {
    for (what, code, message) in RECORDED {
        let address = says(code, message).await;
        golden.volatile(address, "127.0.0.1:PORT");
        let url = format!("postgres://app@{address}/shop");
        let quick = |config: Config| config.connect_timeout(Duration::from_millis(500));
        golden.add(what, &refused(&database_with(&url, quick)).await);
    }
    let address = says("28000", "role \"root\" does not exist").await;
    golden.volatile(address, "127.0.0.1:PORT");
    let unnamed = database(&format!("postgres://{address}/shop"));
    golden.add("no user named", &refused(&unnamed).await);
}

const SCHEMA: &str = "
    create table orders (
        id int primary key,
        parent int references orders,
        amount int not null check (amount > 0),
        note varchar(3)
    );
    insert into orders values (1, null, 1);
    create role golden_guest;
";

/// What a server says to statements.
async fn statements(golden: &mut Golden) {
    let postgres = Postgres::shared().await.expect("a server");
    let server = postgres.fresh_database().await.expect("a database");
    server.execute(SCHEMA).await.expect("a schema");
    let database = &database(&server.url);
    for (what, sql) in [
        (
            "a key that is there",
            "insert into orders values (1, null, 1)",
        ),
        (
            "a parent that is not there",
            "insert into orders values (2, 9, 1)",
        ),
        (
            "a value that is missing",
            "insert into orders values (2, null, null)",
        ),
        (
            "a value that does not pass",
            "insert into orders values (2, null, -1)",
        ),
        ("a text that is no number", "select 'hunter2'::int"),
        (
            "a text that is too long",
            "insert into orders values (2, null, 1, 'hunter2')",
        ),
        ("a number that is too large", "select 1e10::int"),
        ("no such day", "select '2026-02-30'::date"),
        ("a division by zero", "select 1/0"),
        (
            "a text with a zero byte",
            "select convert_from('\\x00', 'UTF8')",
        ),
        ("no such table", "select * from hunter2"),
        ("a misspelt word", "selekt 1"),
        (
            "no right to it",
            "set role golden_guest; select * from orders",
        ),
        (
            "read-only",
            "begin read only; insert into orders values (2, null, 1)",
        ),
        (
            "it takes too long",
            "set statement_timeout = '10ms'; select pg_sleep(60)",
        ),
        (
            "a function raises an error of its own",
            "do $$ begin raise 'hunter2'; end $$",
        ),
    ] {
        golden.add(what, &said(database, sql).await);
    }

    let error = failing(database, async {
        let connection = connection().await?;
        Ok(connection.query_one("select 1 where false", &[]).await?)
    })
    .await;
    golden.add("no row where one was expected", &error);
    let error = failing(database, async {
        let connection = connection().await?;
        Ok(connection.execute("select $1::int", &[&"hunter2"]).await?)
    })
    .await;
    golden.add("a parameter of the wrong Rust type", &error);
    let error = failing(database, async {
        let row = connection().await?.query_one("select 'x'", &[]).await?;
        Ok(row.try_get::<_, i32>(0)?)
    })
    .await;
    golden.add("a column read as the wrong Rust type", &error);
    let error = failing(database, async {
        let connection = connection().await?;
        let error = connection.execute("select $1::int", &[]).await;
        Ok(error?)
    })
    .await;
    golden.add("a parameter is missing", &error);

    let error = failing(database, async {
        let connection = connection().await?;
        let token = connection.cancel_token();
        let sleeping = connection.batch_execute("select pg_sleep(60)");
        let cancel = async {
            sleep(Duration::from_millis(50)).await;
            token.cancel().await
        };
        let (slept, cancelled) = tokio::join!(sleeping, cancel);
        cancelled?;
        Ok(slept?)
    })
    .await;
    golden.add("cancelled", &error);
    let error = failing(database, async {
        let connection = connection().await?;
        let statement = connection.prepare("select 1").await?;
        connection.batch_execute("deallocate all").await?;
        Ok(connection.query(&statement, &[]).await?)
    })
    .await;
    golden.add("a prepared statement that is not there", &error);
    let error = failing(database, async {
        let connection = connection().await?;
        let prepare = "prepare twice as select 1";
        connection.batch_execute(prepare).await?;
        Ok(connection.batch_execute(prepare).await?)
    })
    .await;
    golden.add("a prepared statement that is there already", &error);
    let error = failing(database, async {
        let connection = connection().await?;
        let statement = connection.prepare("select * from orders").await?;
        server
            .execute("alter table orders add column b int")
            .await
            .expect("altered");
        Ok(connection.query(&statement, &[]).await?)
    })
    .await;
    golden.add("the schema has changed", &error);

    let relay = Relay::start(postgres.address()).await.expect("a relay");
    let over_relay = crate::database(&relay.url(&server.url));
    for cut in [Cut::Fin, Cut::Reset] {
        let error = failing(&over_relay, async {
            let connection = connection().await?;
            relay.cut(cut).await;
            Ok(connection.batch_execute("select 1").await?)
        })
        .await;
        golden.add(&format!("the connection is lost ({cut:?})"), &error);
    }

    let (keep, kept) = tokio::sync::oneshot::channel::<Connection>();
    let leak = async {
        let _ = keep.send(connection().await?);
        Ok::<_, Error>(())
    };
    database.invocation(PLENTY, leak).await.expect("fine");
    let kept = kept.await.expect("a connection");
    let late = kept.batch_execute("select 1").await.expect_err("too late");
    golden.add("a task outlives its invocation", &late.into());
}

/// Transactions that meet, and that end badly.
async fn transactions(golden: &mut Golden) {
    let postgres = Postgres::shared().await.expect("a server");
    let server = postgres.fresh_database().await.expect("a database");
    let schema = "create table t (a int unique deferrable initially deferred); \
                  insert into t values (1)";
    server.execute(schema).await.expect("a schema");
    let database = &database_with(&server.url, |config| {
        config.acquire_timeout(Duration::from_millis(50))
    });
    const ADD: &str = "update t set a = a + 1";

    let error = failing(database, async {
        let (one, other) = (connection().await?, connection().await?);
        one.batch_execute("begin isolation level repeatable read; select * from t")
            .await?;
        other.batch_execute(ADD).await?;
        Ok(one.batch_execute(ADD).await?)
    })
    .await;
    golden.add("a serialization failure", &error);
    let error = said(database, "do $$ begin raise sqlstate '40P01'; end $$").await;
    golden.add("a deadlock", &error);
    let error = failing(database, async {
        let (one, other) = (connection().await?, connection().await?);
        one.batch_execute("begin; lock table t").await?;
        other.batch_execute("set lock_timeout = '10ms'").await?;
        Ok(other.batch_execute(ADD).await?)
    })
    .await;
    golden.add("a lock that others have", &error);
    let error = failing(database, async {
        let connection = connection().await?;
        let _ = connection.batch_execute("begin; select 1/0").await;
        Ok(connection.batch_execute("select 1").await?)
    })
    .await;
    golden.add("a statement behind one that failed", &error);
    let error = failing(database, async {
        let transaction = transaction()?.await?;
        let _ = transaction.batch_execute("select 1/0").await;
        Ok(())
    })
    .await;
    golden.add("an error was swallowed before the commit", &error);
    let error = failing(database, async {
        let transaction = transaction()?.await?;
        transaction
            .batch_execute("insert into t select a from t")
            .await?;
        Ok(())
    })
    .await;
    golden.add("a deferred constraint at the commit", &error);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let error = failing(database, async {
        let transaction = transaction()?.await?;
        transaction.batch_execute(ADD).await?;
        tokio::spawn(async move {
            let _ = stopped.await;
            drop(transaction);
        });
        Ok(())
    })
    .await;
    golden.add("a task still has the transaction", &error);
    drop(stop);
    let error = failing(database, async {
        let transaction = transaction()?.await?;
        transaction.batch_execute(ADD).await?;
        let task = antifreeze::invocation()?.spawn(async move {
            let _transaction = transaction;
            panic!("as it was asked to")
        });
        assert!(task.await.is_err());
        Ok(())
    })
    .await;
    golden.add("a task panicked with the transaction", &error);
    let error = failing(database, async {
        let transaction = transaction()?.await?;
        let _open = transaction.savepoint().await?;
        let second = transaction.savepoint().await;
        second.map(drop)
    })
    .await;
    golden.add("a second savepoint is asked for beside an open one", &error);

    for (what, begin) in [
        (
            "a transaction that waited for others",
            "set idle_in_transaction_session_timeout = '20ms'; begin",
        ),
        ("a session that waited", "set idle_session_timeout = '20ms'"),
    ] {
        let error = failing(database, async {
            let connection = connection().await?;
            connection.batch_execute(begin).await?;
            let sessions = format!(
                "select from pg_stat_activity where pid = {}",
                connection.process_id()
            );
            while !server.query(&sessions).await.expect("rows").is_empty() {
                sleep(Duration::from_millis(5)).await;
            }
            Ok(connection.batch_execute("select 1").await?)
        })
        .await;
        golden.add(what, &error);
    }

    let relay = Relay::start(postgres.address()).await.expect("a relay");
    let over_relay = crate::database(&relay.url(&server.url));
    let lost = failing(&over_relay, async {
        retry_transaction(async |transaction| {
            transaction
                .execute("insert into t values (-1)", &[])
                .await?;
            relay.quiet(Duration::from_millis(20)).await;
            relay.stall_down();
            Ok::<_, Error>(())
        })
        .await
    });
    let cut = async {
        let count = "select count(*) from t where a = -1";
        let committed = async || {
            let rows = server.query(count).await.expect("rows");
            rows[0][0].as_deref() == Some("1")
        };
        while !committed().await {
            sleep(Duration::from_millis(5)).await;
        }
        relay.cut(Cut::Reset).await;
        relay.resume();
    };
    let (error, ()) = tokio::join!(lost, cut);
    golden.add("the connection is lost during COMMIT", &error);
}
