//! The throwaway cluster's TLS, seen by psql where there is one.

mod common;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use common::connect;
use lab::{certificates::Authority, postgres::Postgres};

#[tokio::test]
async fn server_offers_tls() {
    let postgres = Postgres::builder()
        .tls(true)
        .rule("hostnossl all all all reject")
        .start()
        .await
        .unwrap();
    assert!(connect(&postgres.url()).await.is_err(), "without TLS");
    let authority = postgres.certificate_authority().unwrap();
    assert!(
        std::fs::read_to_string(authority)
            .unwrap()
            .contains("BEGIN CERTIFICATE")
    );
    // psql is what speaks TLS without more crates; where it is missing, the rest stands.
    if let Some(output) = psql(&postgres, authority, &[]) {
        assert_eq!(output, Ok("t".to_owned()));
    }
}

#[tokio::test]
async fn server_offers_tls_with_a_given_certificate() {
    let authority = Authority::new().unwrap();
    let postgres = Postgres::builder()
        .tls_with(
            &authority,
            authority.expired(&["localhost", "127.0.0.1"]).unwrap(),
        )
        .rule("hostssl all all all cert")
        .start()
        .await
        .unwrap();
    let trusted = postgres.certificate_authority().unwrap();
    let Some(output) = psql(&postgres, trusted, &[]) else {
        return;
    };
    let refusal = output.unwrap_err();
    assert!(refusal.contains("certificate verify failed"), "{refusal}");

    let good = Postgres::builder()
        .tls_with(&authority, authority.server(&["127.0.0.1"]).unwrap())
        .rule("hostssl all all all cert")
        .start()
        .await
        .unwrap();
    let trusted = good.certificate_authority().unwrap();
    let refusal = psql(&good, trusted, &[]).unwrap().unwrap_err();
    assert!(refusal.contains("client certificate"), "{refusal}");
    let client = authority.client("postgres").unwrap();
    let files = tempfile::tempdir().unwrap();
    let (certificate, key) = (files.path().join("crt"), files.path().join("key"));
    std::fs::write(&certificate, client.certificate()).unwrap();
    write_private(&key, client.key());
    let options = [("sslcert", certificate), ("sslkey", key)];
    assert_eq!(psql(&good, trusted, &options).unwrap(), Ok("t".to_owned()));
}

/// `select ssl from pg_stat_ssl` through psql with `verify-full`, or `None` without psql.
fn psql(
    postgres: &Postgres,
    authority: &Path,
    options: &[(&str, PathBuf)],
) -> Option<Result<String, String>> {
    let mut dsn = format!(
        "host=127.0.0.1 port={} user=postgres dbname=postgres sslmode=verify-full sslrootcert={}",
        postgres.port(),
        authority.display()
    );
    for (name, value) in options {
        dsn.push_str(&format!(" {name}={}", value.display()));
    }
    let output = Command::new("psql")
        .args([
            "-XAtc",
            "select ssl from pg_stat_ssl where pid = pg_backend_pid()",
        ])
        .arg(dsn)
        .output()
        .ok()?;
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim().to_owned();
    Some(if output.status.success() {
        Ok(text(output.stdout))
    } else {
        Err(text(output.stderr))
    })
}

fn write_private(path: &Path, text: &str) {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
}
