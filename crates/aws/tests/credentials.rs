//! Tests tokens and secrets against mock services that verify the signatures.
//!
//! The mocks compute each signature with independent code, and compare.

mod common;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use antifreeze::config::ConnectionLifetime;
use antifreeze::{Config, Database, ErrorKind, connection};
use antifreeze_aws::{AwsKeys, DsqlToken, RdsToken, SecretsManager};
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use common::{BoxError, Lab, PLENTY, kind, lease_and_return};
use futures_util::future::join_all;
use lab::postgres::{Auth, Postgres};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

const ID: &str = "AKIDEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const SESSION: &str = "a session/with+odd=letters";
const REGION: &str = "eu-central-1";

fn keys() -> AwsKeys {
    AwsKeys::new(ID, SECRET).session_token(SESSION)
}

/// Computes the signature of a canonical request, step by step as in AWS's documentation.
fn signature(scope: &str, time: &str, canonical: &str) -> String {
    let hash = hex(ring::digest::digest(&ring::digest::SHA256, canonical.as_bytes()).as_ref());
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{hash}");
    let first = format!("AWS4{SECRET}").into_bytes();
    let steps = scope.split('/').chain([text.as_str()]);
    let last = steps.fold(first, |key, step| {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key);
        ring::hmac::sign(&key, step.as_bytes()).as_ref().to_vec()
    });
    hex(&last)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A mock of Secrets Manager.
#[derive(Default)]
struct Service {
    secret: Mutex<String>,
    asked: AtomicUsize,
    /// The response instead of the secret.
    refuses: Mutex<Option<(u16, &'static str)>>,
}

impl Service {
    /// Starts the mock, and returns its URL.
    async fn start(secret: &str) -> (Arc<Self>, String) {
        let service = Arc::new(Service::default());
        service.changes(secret);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let router = axum::Router::new()
            .route("/", post(answer))
            .with_state(Arc::clone(&service));
        tokio::spawn(async move { axum::serve(listener, router).await });
        (service, format!("http://{address}"))
    }

    fn changes(&self, secret: &str) {
        *self.secret.lock().expect("no panic") = secret.to_owned();
    }

    /// Returns the number of requests since the last call.
    fn take_requests(&self) -> usize {
        self.asked.swap(0, Ordering::Relaxed)
    }
}

async fn answer(
    State(service): State<Arc<Service>>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, String) {
    service.asked.fetch_add(1, Ordering::Relaxed);
    // Long enough for concurrent requests to arrive.
    tokio::time::sleep(Duration::from_millis(100)).await;
    if let Err(why) = check(&headers, &body) {
        let answer = serde_json::json!({ "__type": "SignatureDoesNotMatch", "message": why });
        return (StatusCode::FORBIDDEN, answer.to_string());
    }
    if let Some((status, name)) = *service.refuses.lock().expect("no panic") {
        let answer = serde_json::json!({ "__type": name });
        let status = StatusCode::from_u16(status).expect("a status");
        return (status, answer.to_string());
    }
    let secret = service.secret.lock().expect("no panic").clone();
    let answer = serde_json::json!({ "Name": "prod/shop", "SecretString": secret });
    (StatusCode::OK, answer.to_string())
}

fn check(headers: &HeaderMap, body: &[u8]) -> Result<(), String> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let expect = |name: &str, expected: &str| match header(name) {
        Some(value) if value == expected => Ok(()),
        other => Err(format!("{name} is {other:?}")),
    };
    expect("content-type", "application/x-amz-json-1.1")?;
    expect("x-amz-target", "secretsmanager.GetSecretValue")?;
    expect("x-amz-security-token", SESSION)?;
    if body != br#"{"SecretId":"prod/shop"}"# {
        return Err("another body".to_owned());
    }
    let time = header("x-amz-date").ok_or("no date")?;
    let scope = format!("{}/{REGION}/secretsmanager/aws4_request", &time[..8]);
    let names = "content-type;host;x-amz-date;x-amz-security-token;x-amz-target";
    let mut canonical = String::from("POST\n/\n\n");
    for name in names.split(';') {
        let value = header(name).ok_or("a header is missing")?;
        canonical += &format!("{name}:{value}\n");
    }
    let hash = ring::digest::digest(&ring::digest::SHA256, body);
    canonical += &format!("\n{names}\n{}", hex(hash.as_ref()));
    let signature = signature(&scope, time, &canonical);
    expect(
        "authorization",
        &format!(
            "AWS4-HMAC-SHA256 Credential={ID}/{scope}, SignedHeaders={names}, \
             Signature={signature}"
        ),
    )
}

/// Creates a role with the password of the secret.
async fn with_secret(endpoint: &str) -> (Postgres, Lab) {
    let postgres = Postgres::builder().auth(Auth::Scram).start().await;
    let postgres = postgres.expect("a server");
    postgres.create_role("app").await.expect("a role");
    let server = postgres.fresh_database().await.expect("a database");
    let url = postgres.url_for("somebody", &server.name);
    let lab = Lab::over(server, &url, |config| {
        let secret = SecretsManager::new("prod/shop")
            .endpoint(endpoint)
            .region(REGION)
            .keys(keys());
        config
            .max_connections(8)
            .lifetime(ConnectionLifetime::PerInvocation)
            .credentials(secret)
    });
    (postgres, lab)
}

/// Opens all connections concurrently.
async fn all_at_once(lab: &Lab) {
    let users = (0..8).map(|_| {
        lab.run(async {
            let connection = connection().await?;
            let row = connection
                .query_one("select current_user::text", &[])
                .await?;
            Ok(row.get::<_, String>(0))
        })
    });
    for user in join_all(users).await {
        assert_eq!(user.expect("in"), "app");
    }
}

#[tokio::test]
async fn rotated_secrets_are_fetched_once_more() {
    let secret =
        |password: &str| serde_json::json!({ "username": "app", "password": password }).to_string();
    let (service, endpoint) = Service::start(&secret(Postgres::PASSWORD)).await;
    let (postgres, lab) = with_secret(&endpoint).await;
    all_at_once(&lab).await;
    assert_eq!(service.take_requests(), 1, "the others waited for it");
    all_at_once(&lab).await;
    assert_eq!(service.take_requests(), 0, "it was kept");

    let rotate = "alter role app password 'rotated'";
    postgres.execute(rotate).await.expect("rotated");
    service.changes(&secret("rotated"));
    all_at_once(&lab).await;
    assert_eq!(service.take_requests(), 1, "one refusal was enough");
    all_at_once(&lab).await;
    assert_eq!(service.take_requests(), 0);
}

/// Processes that are restored from one snapshot must not share a secret.
#[tokio::test]
async fn secrets_are_discarded_before_a_snapshot() {
    let secret = serde_json::json!({ "username": "app", "password": Postgres::PASSWORD });
    let (service, endpoint) = Service::start(&secret.to_string()).await;
    let (_postgres, lab) = with_secret(&endpoint).await;
    all_at_once(&lab).await;
    assert_eq!(service.take_requests(), 1);
    let resource = antifreeze::shutdown::snapstart(&lab.database);
    resource.before_snapshot().await.expect("closed");
    resource.after_restore().await.expect("restored");
    all_at_once(&lab).await;
    assert_eq!(service.take_requests(), 1, "it was not kept");
}

#[tokio::test]
async fn unavailable_secrets_are_explained() {
    let (service, endpoint) = Service::start("hunter2").await;
    let (_postgres, lab) = with_secret(&endpoint).await;
    for (status, name, kind_of, said) in [
        (
            400,
            "ResourceNotFoundException",
            ErrorKind::Configuration,
            "check its name",
        ),
        (
            500,
            "InternalServiceError",
            ErrorKind::Unreachable,
            "try again",
        ),
    ] {
        *service.refuses.lock().expect("no panic") = Some((status, name));
        let error = lab.run(lease_and_return()).await.expect_err("refused");
        assert_eq!(kind(&error), Some(kind_of), "{error}");
        assert!(error.to_string().contains(said), "{error}");
        assert_eq!(service.take_requests(), 1);
    }
    // The fetched secret was rejected, and fetching it again returns the same.
    *service.refuses.lock().expect("no panic") = None;
    let error = lab.run(lease_and_return()).await.expect_err("refused");
    let shown = format!("{error} {error:?} {:?}", lab.database);
    assert!(
        shown.contains("28P01") && !shown.contains("hunter2"),
        "{shown}"
    );
    assert_eq!(service.take_requests(), 2);
}

#[tokio::test]
async fn signatures_of_other_keys_are_rejected() {
    let (service, endpoint) = Service::start("hunter2").await;
    let (postgres, lab) = with_secret(&endpoint).await;
    let wrong = AwsKeys::new(ID, "another").session_token(SESSION);
    let secret = SecretsManager::new("prod/shop")
        .endpoint(endpoint)
        .region(REGION)
        .keys(wrong);
    let url = postgres.url_for("somebody", &lab.server.name);
    let config = Config::from_url(&url).expect("a URL").credentials(secret);
    let database = Database::new(config).expect("settings");
    let result = database.invocation(PLENTY, lease_and_return()).await;
    let error = result.expect_err("refused");
    assert!(
        error.to_string().contains("SignatureDoesNotMatch"),
        "{error}"
    );
    assert_eq!(service.take_requests(), 1);
}

#[tokio::test]
async fn unreachable_services_are_errors() {
    // It has the port, and does not listen.
    let socket = TcpSocket::new_v4().expect("a socket");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(any).expect("a port");
    let address = socket.local_addr().expect("an address");
    let (_postgres, lab) = with_secret(&format!("http://{address}")).await;
    let error = lab
        .run(lease_and_return())
        .await
        .expect_err("no service listens");
    assert_eq!(kind(&error), Some(ErrorKind::Unreachable));
    assert!(error.to_string().contains("VPC"), "{error}");
}

/// A mock server that implements only start-up: it requests the password in clear text, as RDS
/// and DSQL do, and records it.
struct Server {
    port: u16,
    passwords: Arc<Mutex<Vec<String>>>,
    refuses: Arc<Mutex<bool>>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let server = Server {
            port: listener.local_addr().expect("an address").port(),
            passwords: Arc::default(),
            refuses: Arc::default(),
        };
        let (passwords, refuses) = (Arc::clone(&server.passwords), Arc::clone(&server.refuses));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (passwords, refuses) = (Arc::clone(&passwords), Arc::clone(&refuses));
                tokio::spawn(async move {
                    let _ = Server::serve(stream, &passwords, &refuses).await;
                });
            }
        });
        server
    }

    async fn serve(
        mut stream: TcpStream,
        passwords: &Mutex<Vec<String>>,
        refuses: &Mutex<bool>,
    ) -> std::io::Result<()> {
        let length = stream.read_i32().await?;
        stream.read_exact(&mut vec![0; length as usize - 4]).await?;
        // AuthenticationCleartextPassword.
        stream.write_all(b"R\0\0\0\x08\0\0\0\x03").await?;
        assert_eq!(stream.read_u8().await?, b'p');
        let length = stream.read_i32().await?;
        let mut password = vec![0; length as usize - 4];
        stream.read_exact(&mut password).await?;
        assert_eq!(password.pop(), Some(0));
        let password = String::from_utf8(password).expect("text");
        passwords.lock().expect("no panic").push(password);
        if *refuses.lock().expect("no panic") {
            // The error of RDS.
            let fields = b"SFATAL\0VFATAL\0C28000\0MPAM authentication failed\0\0";
            stream.write_u8(b'E').await?;
            stream.write_i32(4 + fields.len() as i32).await?;
            return stream.write_all(fields).await;
        }
        // AuthenticationOk, BackendKeyData, ReadyForQuery.
        stream
            .write_all(b"R\0\0\0\x08\0\0\0\0K\0\0\0\x0c\0\0\0\x01\0\0\0\x02Z\0\0\0\x05I")
            .await?;
        // Terminate, or end of file.
        let _ = stream.read_u8().await;
        Ok(())
    }

    fn passwords(&self) -> Vec<String> {
        std::mem::take(&mut *self.passwords.lock().expect("no panic"))
    }

    fn database(&self, user: &str, change: impl FnOnce(Config) -> Config) -> Database {
        let url = format!(
            "postgres://{user}@127.0.0.1:{}/x?sslmode=disable",
            self.port
        );
        let config = change(
            Config::from_url(&url)
                .expect("a URL")
                .lifetime(ConnectionLifetime::PerInvocation)
                .max_connections(8),
        );
        Database::new(config).expect("settings")
    }
}

/// Verifies the signature of a token, as IAM does.
fn check_token(token: &str, host: &str, service: &str, parameters: &[(&str, &str)]) {
    let (address, query) = token.split_once("/?").expect("a request");
    assert_eq!(address, host);
    let mut pairs: Vec<&str> = query.split('&').collect();
    let at = pairs
        .iter()
        .position(|pair| pair.starts_with("X-Amz-Signature="))
        .expect("a signature");
    let signed = pairs.remove(at);
    pairs.sort_unstable();
    let value = |name: &str| {
        let values = pairs.iter().filter_map(|pair| pair.split_once('='));
        let mut values = values.filter(|(known, _)| *known == name);
        values.next().expect("a parameter").1
    };
    for (name, expected) in parameters {
        assert_eq!(value(name), *expected);
    }
    assert_eq!(value("X-Amz-Expires"), "900");
    assert_eq!(
        value("X-Amz-Security-Token"),
        "a%20session%2Fwith%2Bodd%3Dletters"
    );
    let time = value("X-Amz-Date");
    let scope = format!("{}/{REGION}/{service}/aws4_request", &time[..8]);
    let credential = format!("{ID}/{scope}").replace('/', "%2F");
    assert_eq!(value("X-Amz-Credential"), credential);
    let empty = hex(ring::digest::digest(&ring::digest::SHA256, b"").as_ref());
    let query = pairs.join("&");
    let canonical = format!("GET\n/\n{query}\nhost:{host}\n\nhost\n{empty}");
    let expected = format!("X-Amz-Signature={}", signature(&scope, time, &canonical));
    assert_eq!(signed, expected);
}

#[tokio::test]
async fn rds_tokens_are_valid() {
    let server = Server::start().await;
    let host = format!("shop.abc.{REGION}.rds.amazonaws.com");
    let database = server.database("app", |config| {
        config.credentials(RdsToken::new().endpoint(&host, 5432).keys(keys()))
    });
    let together = (0..8).map(|_| database.invocation(PLENTY, lease_and_return()));
    for result in join_all(together).await {
        result.expect("in");
    }
    let mut passwords = server.passwords();
    check_token(
        &passwords[0],
        &format!("{host}:5432"),
        "rds-db",
        &[("Action", "connect"), ("DBUser", "app")],
    );
    // Several connections share a token.
    assert!(passwords.len() >= 2, "{}", passwords.len());
    passwords.dedup();
    assert_eq!(passwords.len(), 1);
}

#[tokio::test]
async fn dsql_tokens_are_valid() {
    let server = Server::start().await;
    let host = format!("abc.dsql.{REGION}.on.aws");
    for (user, action) in [("app", "DbConnect"), ("admin", "DbConnectAdmin")] {
        let database = server.database(user, |config| {
            config.credentials(DsqlToken::new().endpoint(&host).keys(keys()))
        });
        let result: Result<(), BoxError> = database.invocation(PLENTY, lease_and_return()).await;
        result.expect("in");
        check_token(&server.passwords()[0], &host, "dsql", &[("Action", action)]);
    }
}

/// Without an endpoint, the token is for host and port of the connection.
#[tokio::test]
async fn rejected_tokens_are_signed_again() {
    let server = Server::start().await;
    *server.refuses.lock().expect("no panic") = true;
    let database = server.database("app", |config| {
        config.credentials(RdsToken::new().region(REGION).keys(keys()))
    });
    let result = database.invocation(PLENTY, lease_and_return()).await;
    let error = result.expect_err("refused");
    let shown = format!("{error} {error:?} {database:?}");
    assert!(shown.contains("28000"), "{shown}");
    assert!(
        !shown.contains("Signature") && !shown.contains(SECRET),
        "{shown}"
    );
    let passwords = server.passwords();
    let host = format!("127.0.0.1:{}", server.port);
    // A second token differs only if it is signed in another second.
    assert!((1..=2).contains(&passwords.len()), "{}", passwords.len());
    for password in passwords {
        check_token(&password, &host, "rds-db", &[("Action", "connect")]);
    }
}
