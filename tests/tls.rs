//! Encrypted connections, and proving who we are, against real servers: what is taken,
//! what is refused, and what is said then.

mod common;

use std::error::Error as _;
use std::io::{self, Write};
use std::process::Command;
use std::sync::{Arc, Mutex};

use antifreeze::{Config, Database, Error, ErrorKind};
use common::PLENTY;
use lab::certificates::{Authority, Identity};
use lab::postgres::{Auth, Installation, Postgres};
use tracing_subscriber::util::SubscriberInitExt;

/// Over TLS as the server sees it, and by which role.
const HOW: &str = "select ssl::text || ' ' || current_user from pg_stat_ssl \
                   where pid = pg_backend_pid()";

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
        .map(|byte| match safe(byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
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
async fn a_private_authority_by_file_by_text_and_not_at_all() {
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
            "the certificate of localhost is of an authority that is not trusted",
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
async fn another_name_is_refused_by_verify_full_alone() {
    let authority = Authority::new().expect("an authority");
    let identity = authority.server(&["db.example.com"]).expect("one");
    let server = Postgres::builder().tls_with(&authority, identity);
    let server = server.start().await.expect("a server");
    let with = |mode| [("sslmode", mode), ("sslrootcert", authority.pem())];

    let full = url(&server, "postgres", "localhost", &with("verify-full"));
    let words = [
        "the certificate of localhost is for another name",
        "for db.example.com",
        "sslmode=verify-ca",
    ];
    assert_says(&refused(&full).await, &words);
    let chain = url(&server, "postgres", "localhost", &with("verify-ca"));
    assert_eq!(connect(&chain).await.expect("verify-ca"), "true postgres");
}

#[tokio::test]
async fn an_expired_certificate_is_refused_whatever_its_name() {
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
async fn a_client_certificate_lets_its_user_in_and_nobody_else() {
    let authority = Authority::new().expect("an authority");
    let identity = authority.server(&["localhost"]).expect("one");
    let server = Postgres::builder()
        .tls_with(&authority, identity)
        .rule("hostssl all alice all cert");
    let server = server.start().await.expect("a server");
    server.create_role("alice").await.expect("a role");
    let alice = authority.client("alice").expect("a certificate");
    let (certificate, key) = (file(alice.certificate()), file(alice.key()));
    let as_files = (
        certificate.path().to_str().expect("a path"),
        key.path().to_str().expect("a path"),
    );
    let roots = ("sslrootcert", authority.pem());

    for (certificate, key) in [as_files, (alice.certificate(), alice.key())] {
        let with = [roots, ("sslcert", certificate), ("sslkey", key)];
        let url = url(&server, "alice", "localhost", &with);
        assert_eq!(connect(&url).await.expect("let in"), "true alice");
        // A certificate is no password: `none` allows for it.
        let alone = format!("{url}&require_auth=none");
        assert_eq!(connect(&alone).await.expect("let in"), "true alice");
    }
    let without = url(&server, "alice", "localhost", &[roots]);
    let error = connect(&without).await.expect_err("no certificate");
    let state = error.sqlstate().map(|state| state.code().to_owned());
    assert_eq!(state.as_deref(), Some("28000"), "{error}");

    // One of an authority that the server does not know.
    let stranger = Authority::new().expect("another authority");
    let stranger = stranger.client("alice").expect("a certificate");
    let with = [
        roots,
        ("sslcert", stranger.certificate()),
        ("sslkey", stranger.key()),
    ];
    let said = refused(&url(&server, "alice", "localhost", &with)).await;
    assert_says(
        &said,
        &["localhost does not take our certificate", "sslcert"],
    );
}

#[tokio::test]
async fn direct_tls_where_the_server_can() {
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
async fn scram_with_and_without_channel_binding() {
    let authority = Authority::new().expect("an authority");
    let identity = authority.server(&["localhost"]).expect("a certificate");
    let server = Postgres::builder()
        .auth(Auth::Scram)
        .rule("host all trusted all trust")
        .rule("hostssl all plain all password")
        .tls_with(&authority, identity);
    let server = server.start().await.expect("a server");
    for role in ["trusted", "plain"] {
        server.create_role(role).await.expect("a role");
    }
    let roots = ("sslrootcert", authority.pem());
    let full = ("sslmode", "verify-full");

    for binding in ["disable", "prefer", "require"] {
        let url = |mode| {
            let parameters = [mode, roots, ("channel_binding", binding)];
            url(&server, "postgres", "localhost", &parameters)
        };
        assert_eq!(connect(&url(full)).await.expect(binding), "true postgres");
    }
    let plain = |binding| {
        let parameters = [("sslmode", "disable"), ("channel_binding", binding)];
        url(&server, "postgres", "localhost", &parameters)
    };
    for binding in ["disable", "prefer"] {
        let connected = connect(&plain(binding)).await;
        assert_eq!(connected.expect(binding), "false postgres");
    }
    let contradiction = connect(&plain("require")).await.expect_err("no TLS");
    assert_eq!(contradiction.kind(), ErrorKind::Configuration);

    // Whatever is not SCRAM cannot be bound.
    for role in ["trusted", "plain"] {
        let parameters = [full, roots, ("channel_binding", "require")];
        let said = refused(&url(&server, role, "localhost", &parameters)).await;
        assert_says(&said, &["channel_binding=require", "does not offer it"]);
    }
}

#[tokio::test]
async fn channel_binding_is_not_had_where_there_is_no_tls() {
    let server = Postgres::builder().auth(Auth::Scram);
    let server = server.start().await.expect("a server");
    let parameters = [("sslmode", "prefer"), ("channel_binding", "require")];
    let said = refused(&url(&server, "postgres", "localhost", &parameters)).await;
    assert_says(&said, &["channel_binding=require", "without TLS"]);
}

/// To Linux and macOS 0.0.0.0 is this machine; to us it is an address like any other.
const ELSEWHERE: &str = "0.0.0.0";

#[tokio::test]
async fn passwords_are_given_away_over_verified_tls_and_on_this_machine_alone() {
    let authority = Authority::new().expect("an authority");
    let identity = authority.server(&["localhost", ELSEWHERE]).expect("one");
    let server = Postgres::builder()
        .rule("host all plain all password")
        .rule("host all hashed all md5")
        .auth(Auth::Scram)
        .tls_with(&authority, identity);
    let server = server.start().await.expect("a server");
    for role in ["plain", "hashed"] {
        server.create_role(role).await.expect("a role");
    }
    server
        .execute(&format!(
            "set password_encryption = md5; alter role hashed password '{}'",
            Postgres::PASSWORD
        ))
        .await
        .expect("a password hashed with MD5");

    for (role, method) in [("plain", "password"), ("hashed", "md5")] {
        // On this machine.
        let here = url(&server, role, "localhost", &[("sslmode", "disable")]);
        let connected = connect(&here).await.expect(role);
        assert_eq!(connected, format!("false {role}"));
        // Over TLS that was verified, in full or for whatever name.
        for mode in ["verify-full", "verify-ca"] {
            let parameters = [("sslmode", mode), ("sslrootcert", authority.pem())];
            let verified = url(&server, role, ELSEWHERE, &parameters);
            let connected = connect(&verified).await.expect(role);
            assert_eq!(connected, format!("true {role}"));
        }
        // Over none, or with whoever answers: only if that was said.
        for mode in ["disable", "prefer", "require"] {
            let open = url(&server, role, ELSEWHERE, &[("sslmode", mode)]);
            // A wrong one, so that the server would say if it got it.
            let wrong = open.replace(Postgres::PASSWORD, "wrong");
            let said = refused(&wrong).await;
            let asked = format!("asks for the authentication \"{method}\"");
            let remedy = format!("require_auth={method}");
            assert_says(&said, &[&asked, &remedy, "sslmode=verify-full"]);
            let allowed = format!("{open}&require_auth=scram-sha-256,{method}");
            assert!(connect(&allowed).await.is_ok(), "{role} {mode}");
        }
        // Nor anywhere, if that was said.
        for list in ["scram-sha-256", &format!("!{method}")] {
            let forbidden = format!("{here}&require_auth={list}");
            let said = refused(&forbidden).await;
            assert_says(&said, &[method, "which require_auth does not permit"]);
        }
    }
    let heard = |log: &str| log.matches("password authentication failed").count();
    assert_eq!(heard(&server.log()), 0, "{}", server.log());
    let wrong = url(&server, "plain", "localhost", &[("sslmode", "disable")]);
    let wrong = wrong.replace(Postgres::PASSWORD, "wrong");
    assert!(connect(&wrong).await.is_err());
    assert_eq!(heard(&server.log()), 1, "it says if it gets one");
    // SCRAM tells nobody the password.
    for mode in ["disable", "require"] {
        let url = url(&server, "postgres", ELSEWHERE, &[("sslmode", mode)]);
        assert!(connect(&url).await.is_ok(), "scram with {mode}");
    }
}

#[tokio::test]
async fn a_server_that_asks_for_nothing() {
    let server = Postgres::shared().await.expect("a server");
    let trusted = url(server, "postgres", ELSEWHERE, &[("sslmode", "disable")]);
    let connected = connect(&trusted).await;
    assert_eq!(connected.expect("trusted"), "false postgres");
    let none = format!("{trusted}&require_auth=none");
    assert_eq!(connect(&none).await.expect("none"), "false postgres");
    for list in ["scram-sha-256", "!none"] {
        let said = refused(&format!("{trusted}&require_auth={list}")).await;
        assert_says(&said, &["\"none\"", "which require_auth does not permit"]);
    }
}

#[tokio::test]
async fn a_server_without_tls_is_told_from_one_that_cannot_be_verified() {
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
    // What is not local is encrypted and verified, though nobody asked for it.
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
async fn who_trusts_anybody_is_told_once() {
    const WARNING: &str = "trusts whoever answers";
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
        .path(antifreeze::Path::SessionPooler); // a connection for each invocation
    let database = Database::new(config).expect("settings");
    for _ in 0..3 {
        let work = common::lease_and_return();
        database.invocation(PLENTY, work).await.expect("let in");
    }
    assert_eq!(log.count(WARNING), 1);
}

/// A certificate as `openssl` makes it, signed by its own key.
fn openssl(key: &[&str], of_version_1: bool, extension: Option<&str>) -> Identity {
    let directory = tempfile::tempdir().expect("a directory");
    let run = |arguments: &[&str]| {
        let mut openssl = Command::new("openssl");
        let done = openssl.args(arguments).current_dir(&directory).output();
        let done = done.expect("openssl is installed");
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.success(), "{arguments:?}: {said}");
        String::from_utf8(done.stdout).expect("text")
    };
    run(&[&["genpkey", "-out", "key.pem"], key].concat());
    let named = ["req", "-new", "-key", "key.pem", "-subj", "/CN=localhost"];
    match of_version_1 {
        true => {
            run(&[&named[..], &["-out", "request.pem"]].concat());
            run(&[
                "x509",
                "-req",
                "-in",
                "request.pem",
                "-signkey",
                "key.pem",
                "-days",
                "30",
                "-out",
                "certificate.pem",
            ]);
            let text = run(&["x509", "-in", "certificate.pem", "-noout", "-text"]);
            assert!(text.contains("Version: 1 "), "{text}");
        }
        false => {
            let names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"];
            let extension = extension.map_or(vec![], |extension| vec!["-addext", extension]);
            let made = ["-x509", "-days", "30", "-out", "certificate.pem"];
            run(&[&named[..], &made, &names, &extension].concat());
        }
    }
    let read = |name| std::fs::read_to_string(directory.path().join(name)).expect("written");
    Identity::of(read("certificate.pem"), read("key.pem"))
}

const P256: [&str; 4] = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
const RSA: [&str; 4] = ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];

/// A server with this certificate, and what `sslmode=verify-full` says of it where the
/// certificate itself is trusted.
async fn with(
    identity: Identity,
    settings: &[(&str, &str)],
    installation: Option<Installation>,
) -> (Postgres, (ErrorKind, String)) {
    let authority = Authority::new().expect("an authority");
    let roots = file(identity.certificate());
    let mut server = Postgres::builder().tls_with(&authority, identity);
    for (name, value) in settings {
        server = server.setting(*name, value);
    }
    if let Some(installation) = installation {
        server = server.installation(installation);
    }
    let server = server.start().await.expect("a server");
    let roots = roots.path().to_str().expect("a path");
    let parameters = [("sslmode", "verify-full"), ("sslrootcert", roots)];
    let said = refused(&url(&server, "postgres", "localhost", &parameters)).await;
    (server, said)
}

/// What is not looked at is not parsed either; only who shows it must have its key.
#[tokio::test]
async fn an_odd_certificate_is_refused_by_those_who_look() {
    let critical = "1.3.6.1.4.1.55555.1=critical,ASN1:NULL";
    let unknown = openssl(&P256, false, Some(critical));
    for (identity, version, words) in [
        (openssl(&P256, true, None), "TLSv1.3", "X.509 version 1"),
        (openssl(&P256, true, None), "TLSv1.2", "X.509 version 1"),
        (openssl(&RSA, true, None), "TLSv1.2", "X.509 version 1"),
        (unknown, "TLSv1.3", "1.3.6.1.4.1.55555.1"),
    ] {
        let version = [("ssl_max_protocol_version", version)];
        let (server, said) = with(identity, &version, None).await;
        assert_says(&said, &[words, "sslmode=require"]);
        for mode in ["require", "prefer"] {
            let url = url(&server, "postgres", "localhost", &[("sslmode", mode)]);
            assert_eq!(connect(&url).await.expect(words), "true postgres");
        }
    }
}

#[tokio::test]
async fn a_key_that_cannot_be_used_is_named() {
    let short = ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"];
    let pss = ["-algorithm", "RSA-PSS", "-pkeyopt", "rsa_keygen_bits:2048"];
    let p521 = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"];
    for (key, words) in [
        (&short[..], &["1024 bits", "2048 bits or more"][..]),
        (&pss, &["not RSA-PSS"]),
        (&p521, &["not P-521"]),
    ] {
        // Debian's OpenSSL takes no short key at all.
        let lenient = Installation::embedded("17").expect("a server");
        let (server, said) = with(openssl(key, false, None), &[], Some(lenient)).await;
        assert_says(&said, words);
        let url = url(&server, "postgres", "localhost", &[("sslmode", "require")]);
        assert_says(&refused(&url).await, words);
    }
}

#[tokio::test]
async fn a_server_of_old_tls_alone_is_named() {
    let old = [
        ("ssl_min_protocol_version", "TLSv1"),
        ("ssl_max_protocol_version", "TLSv1.1"),
        ("ssl_ciphers", "DEFAULT@SECLEVEL=0"),
    ];
    let (_server, said) = with(openssl(&RSA, false, None), &old, None).await;
    assert_says(&said, &["TLS 1.2 or newer", "ssl_max_protocol_version"]);
}
