//! Encryption and authentication with real servers: what is accepted, what is refused, and the
//! errors.

mod authentication;
#[path = "../common/mod.rs"]
mod common;
mod odd;

use antifreeze::{Config, Database, Error, ErrorKind};
use common::PLENTY;
use lab::certificates::{Authority, Identity};
use lab::postgres::{Auth, Installation, Postgres};
use std::error::Error as _;
use std::io::{self, Write};
use std::process::Command;
use std::sync::{Arc, Mutex};
use tracing_subscriber::util::SubscriberInitExt;

/// Over TLS as the server sees it, and by which role.
const HOW: &str = "select ssl::text || ' ' || current_user from pg_stat_ssl \
                   where pid = pg_backend_pid()";

/// To Linux and macOS 0.0.0.0 is this machine; to us it is an address like any other.
const ELSEWHERE: &str = "0.0.0.0";

/// A URL for the server at `host` with these parameters, percent-encoded.
fn url(server: &Postgres, user: &str, host: &str, parameters: &[(&str, &str)]) -> String {
    let query: Vec<String> = parameters
        .iter()
        .map(|(name, value)| format!("{name}={}", encoded(value)))
        .collect();
    format!(
        "postgres://{user}:{}@{host}:{}/postgres?{}",
        Postgres::PASSWORD,
        server.port(),
        query.join("&")
    )
}

fn encoded(text: &str) -> String {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"-._/".contains(&byte);
    text.bytes()
        .map(|byte| {
            if safe(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

/// Connects, and says how.
async fn connect(url: &str) -> Result<String, Error> {
    let database = Database::new(Config::from_url(url)?)?;
    let work = async {
        let connection = antifreeze::connection().await?;
        let row = connection.query_one(HOW, &[]).await?;
        Ok::<String, Error>(row.get(0))
    };
    database.invocation(PLENTY, work).await
}

/// Fails to connect, and says why: the line, and those behind it.
async fn refused(url: &str) -> (ErrorKind, String) {
    let error = connect(url).await.expect_err("must be refused");
    let mut said = error.to_string();
    let shown = format!("{error:?}");
    assert!(
        !shown.contains("BEGIN "),
        "no keys or certificates: {shown}"
    );
    let mut source = error.source();
    while let Some(cause) = source {
        said = format!("{said}; {cause}");
        source = cause.source();
    }
    (error.kind(), said)
}

fn assert_says(said: &(ErrorKind, String), words: &[&str]) {
    assert_eq!(said.0, ErrorKind::Tls, "{}", said.1);
    for word in words {
        assert!(said.1.contains(word), "no {word:?} in: {}", said.1);
    }
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(text.as_bytes()).expect("written");
    file
}

#[tokio::test]
async fn private_authority_is_read_from_file_and_text() {
    let authority = Authority::new().expect("an authority");
    let names = ["localhost", "127.0.0.1"];
    let identity = authority.server(&names).expect("a certificate");
    let server = Postgres::builder().tls_with(&authority, identity);
    let server = server.start().await.expect("a server");
    let file = file(authority.pem());
    let path = file.path().to_str().expect("a path");
    let one_line = authority.pem().replace('\n', "\\n");

    for roots in [path, authority.pem(), &one_line] {
        for mode in ["require", "verify-ca", "verify-full"] {
            for host in names {
                let parameters = [("sslmode", mode), ("sslrootcert", roots)];
                let url = url(&server, "postgres", host, &parameters);
                assert_eq!(connect(&url).await.expect(mode), "true postgres");
            }
        }
    }
    let nameless = [
        ("sslmode", "verify-full"),
        ("sslrootcert", path),
        ("sslsni", "0"),
    ];
    let nameless = url(&server, "postgres", "localhost", &nameless);
    assert_eq!(connect(&nameless).await.expect("no SNI"), "true postgres");

    // Without verification it is encrypted all the same.
    for mode in ["prefer", "require"] {
        let url = url(&server, "postgres", "localhost", &[("sslmode", mode)]);
        assert_eq!(connect(&url).await.expect(mode), "true postgres");
    }
    // Mozilla's do not know it, and verify-ca with them is no weaker.
    for parameters in [
        &[("sslmode", "verify-full")][..],
        &[("sslmode", "verify-ca")],
        &[("sslrootcert", "system")],
    ] {
        let said = refused(&url(&server, "postgres", "localhost", parameters)).await;
        let words = [
            "the certificate of localhost was signed by an authority that is not trusted",
            "issuer CN=antifreeze lab authority",
            "for localhost, 127.0.0.1",
            "until 2120-01-01",
            "set sslrootcert",
        ];
        assert_says(&said, &words);
    }
    // Nor does another authority.
    let other = Authority::new().expect("another");
    let parameters = [("sslmode", "verify-full"), ("sslrootcert", other.pem())];
    let said = refused(&url(&server, "postgres", "localhost", &parameters)).await;
    assert_eq!(said.0, ErrorKind::Tls, "{}", said.1);
}

#[tokio::test]
async fn other_name_is_refused_by_verify_full_alone() {
    let authority = Authority::new().expect("an authority");
    let identity = authority.server(&["db.example.com"]).expect("one");
    let server = Postgres::builder().tls_with(&authority, identity);
    let server = server.start().await.expect("a server");
    let with = |mode| [("sslmode", mode), ("sslrootcert", authority.pem())];

    let full = url(&server, "postgres", "localhost", &with("verify-full"));
    let words = [
        "the certificate of localhost is for another host name",
        "for db.example.com",
        "sslmode=verify-ca",
    ];
    assert_says(&refused(&full).await, &words);
    let chain = url(&server, "postgres", "localhost", &with("verify-ca"));
    assert_eq!(connect(&chain).await.expect("verify-ca"), "true postgres");
}

#[tokio::test]
async fn expired_certificate_is_refused() {
    let authority = Authority::new().expect("an authority");
    let identity = authority.expired(&["localhost"]).expect("one");
    let server = Postgres::builder().tls_with(&authority, identity);
    let server = server.start().await.expect("a server");
    for mode in ["verify-full", "verify-ca", "require"] {
        let parameters = [("sslmode", mode), ("sslrootcert", authority.pem())];
        let said = refused(&url(&server, "postgres", "localhost", &parameters)).await;
        assert_says(&said, &["has expired", "until 2021-01-01", "renew it"]);
    }
}

#[tokio::test]
async fn direct_tls_is_used_where_supported() {
    let authority = Authority::new().expect("an authority");
    let identity = || authority.server(&["localhost"]).expect("a certificate");
    let parameters = [
        ("sslmode", "verify-full"),
        ("sslrootcert", authority.pem()),
        ("sslnegotiation", "direct"),
    ];
    let seventeen = Installation::embedded("17").expect("PostgreSQL 17");
    let server = Postgres::builder()
        .installation(seventeen)
        .auth(Auth::Scram)
        .tls_with(&authority, identity());
    let server = server.start().await.expect("a server");
    let mut bound = parameters.to_vec();
    bound.push(("channel_binding", "require"));
    let url_17 = url(&server, "postgres", "localhost", &bound);
    assert_eq!(connect(&url_17).await.expect("direct"), "true postgres");

    // Sixteen does not know it.
    let sixteen = Installation::embedded("16").expect("PostgreSQL 16");
    let server = Postgres::builder()
        .installation(sixteen)
        .tls_with(&authority, identity());
    let server = server.start().await.expect("a server");
    let said = refused(&url(&server, "postgres", "localhost", &parameters)).await;
    assert_says(&said, &["sslnegotiation=direct needs PostgreSQL 17"]);
}

#[tokio::test]
async fn server_without_tls_is_told_from_unverified() {
    let server = Postgres::shared().await.expect("a server");
    for mode in ["require", "verify-ca", "verify-full"] {
        let said = refused(&url(server, "postgres", "127.0.0.1", &[("sslmode", mode)])).await;
        let needs = format!("sslmode={mode} needs it");
        assert_says(
            &said,
            &["127.0.0.1 offers no TLS", &needs, "sslmode=disable"],
        );
    }
    let said = refused(&url(
        server,
        "postgres",
        "localhost",
        &[("sslmode", "require")],
    ))
    .await;
    assert_says(&said, &["compose file", "?sslmode=disable"]);
    // By default, a connection that is not local is encrypted and verified.
    let said = refused(&url(server, "postgres", ELSEWHERE, &[])).await;
    assert_says(&said, &["offers no TLS", "sslmode=verify-full needs it"]);
    // What is local falls back.
    let local = url(server, "postgres", "localhost", &[]);
    assert_eq!(connect(&local).await.expect("plain"), "false postgres");
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn count(&self, words: &str) -> usize {
        let log = self.0.lock().expect("no panic");
        String::from_utf8_lossy(&log).matches(words).count()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn unverified_tls_is_warned_of_once() {
    const WARNING: &str = "without verifying the server";
    let log = Log::default();
    let writer = log.clone();
    let _guard = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .finish()
        .set_default();
    let authority = Authority::new().expect("an authority");
    let identity = authority.server(&[ELSEWHERE]).expect("a certificate");
    let server = Postgres::builder().tls_with(&authority, identity);
    let server = server.start().await.expect("a server");

    let parameters = [("sslmode", "require"), ("sslrootcert", authority.pem())];
    let verified = url(&server, "postgres", ELSEWHERE, &parameters);
    let here = url(&server, "postgres", "localhost", &[("sslmode", "require")]);
    for url in [&verified, &here] {
        connect(url).await.expect("let in");
        assert_eq!(log.count(WARNING), 0, "{url}");
    }
    let anybody = url(&server, "postgres", ELSEWHERE, &[("sslmode", "require")]);
    let config = Config::from_url(&anybody)
        .expect("a URL")
        .pooler(antifreeze::config::Pooler::Session); // a connection for each invocation
    let database = Database::new(config).expect("settings");
    for _ in 0..3 {
        let work = common::lease_and_return();
        database.invocation(PLENTY, work).await.expect("let in");
    }
    assert_eq!(log.count(WARNING), 1);
}
