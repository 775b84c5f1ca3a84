//! Servers that are not PostgreSQL, or that cannot serve: the error names them, and only what can
//! heal is retried.

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use antifreeze::{Config, Database, Error, ErrorKind, connection};
use common::PLENTY;
use lab::pgbouncer::PgBouncer;
use lab::postgres::Postgres;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// The server answers once, and is silent afterwards.
#[tokio::test]
async fn timeout_of_a_retry_hides_no_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a client");
        let _ = stream.read(&mut [0; 1024]).await;
        let fields = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0";
        let length = u32::try_from(fields.len() + 4).expect("short");
        let answer = [b"E", &length.to_be_bytes()[..], fields].concat();
        stream.write_all(&answer).await.expect("sent");
        drop(stream);
        let mut silent = Vec::new();
        while let Ok(client) = listener.accept().await {
            silent.push(client);
        }
    });
    let url = format!("postgres://app@{address}/shop?sslmode=disable");
    let error = refused(&url, |config| {
        config.connect_timeout(Duration::from_millis(1500))
    });
    assert_eq!(error.await.kind(), ErrorKind::ServerStarting);
}

async fn refused(url: &str, change: impl FnOnce(Config) -> Config) -> Error {
    let config = change(Config::from_url(url).expect("a URL"));
    let database = Database::new(config).expect("settings");
    let asks = async { connection().await.map(drop) };
    let asked = database.invocation(PLENTY, asks).await;
    asked.expect_err("it is refused")
}

/// Starts a server that sends `greeting` to each connection, `answer` to its first bytes, and
/// hangs up. Counts the connections.
async fn other_server(
    greeting: &'static [u8],
    answer: &'static [u8],
) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let connected = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connected);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            let _ = stream.write_all(greeting).await;
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(answer).await;
        }
    });
    (address, connected)
}

#[tokio::test]
async fn other_server_is_named_and_asked_once() {
    let http = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n";
    let ssh = b"SSH-2.0-OpenSSH_9.6\r\n";
    let mysql = b"\x4a\0\0\0\x0a8.0.36\0\x08\0\0\0abcdefgh\0";
    let redis = b"-ERR unknown command\r\n";
    let smtp = b"220 mail.example.com ESMTP\r\n";
    let mut wrong = Vec::new();
    for (what, greeting, answer) in [
        ("HTTP", &b""[..], &http[..]),
        ("SSH", ssh, b"Invalid SSH identification string.\r\n"),
        ("MySQL", mysql, b""),
        ("Redis", b"", redis),
        ("SMTP", smtp, b""),
        ("zeros", b"", &[0; 64]),
        ("garbage", b"", b"R\xff\xff\xff\xff\0"),
        ("an empty message", b"", b"R\0\0\0\x04"),
        ("an unknown authentication", b"", b"R\0\0\0\x08\0\0\0\x63"),
        ("a short error", b"", b"E\0\0\0\x05\0"),
    ] {
        for parameters in [
            "sslmode=disable",
            "sslmode=prefer",
            "sslmode=require",
            "sslmode=require&sslnegotiation=direct",
        ] {
            let (address, connected) = other_server(greeting, answer).await;
            let url = format!("postgres://app:hunter2@{address}/shop?{parameters}");
            let error = refused(&url, |config| config).await;
            let tried = connected.load(Ordering::SeqCst);
            let text = error.to_string();
            assert!(text.contains("check the port"), "{text}");
            if tried != 1 {
                wrong.push((what, parameters, tried, text));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[tokio::test]
async fn server_that_ignores_ssl_request_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let url = format!("postgres://app:hunter2@{address}/shop?sslmode=prefer");
    let error = refused(&url, |config| {
        config.connect_timeout(Duration::from_secs(2))
    });
    let error = error.await;
    assert_eq!(error.kind(), ErrorKind::ConnectTimeout, "{error}");
    let text = error.to_string();
    assert!(
        text.contains("during the TLS request (SSLRequest)"),
        "{text}"
    );
    assert!(text.contains("sslmode=disable"), "{text}");
}

#[tokio::test]
async fn nonsensical_options_are_named() {
    let server = Postgres::shared().await.expect("a server");
    for (options, word) in [
        ("search_path=shop", "rejects `options`"),
        ("-c%20search_path", "rejects `options`"),
        ("--search_path", "rejects `options`"),
        ("-z", "rejects `options`"),
        ("-c%20max_connections%3D5", "rejects max_connections"),
        ("-c%20work_mem%3Dmuch", "rejects work_mem"),
        ("-c%20no_such%3D1", "rejects no_such"),
    ] {
        let url = format!("{}?options={options}", server.url());
        let error = refused(&url, |config| config).await;
        assert_eq!(error.kind(), ErrorKind::ParameterRefused, "{error}");
        assert!(error.to_string().contains(word), "{options}: {error}");
    }
    let plus = format!("{}?options=-c+search_path%3Dshop", server.url());
    let error = Config::from_url(&plus).expect_err("a plus").to_string();
    assert!(error.contains("a space is written %20"), "{error}");
}

#[tokio::test]
async fn pooler_without_its_server_is_named() {
    let server = Postgres::start().await.expect("a server");
    let pooler = PgBouncer::builder(&server).start().await.expect("a pooler");
    let url = pooler.url(&server.url());
    server.halt().await.expect("down");
    // It has never had a session, and lets its clients wait.
    let error = refused(&url, |config| {
        config.connect_timeout(Duration::from_secs(2))
    });
    let error = error.await;
    assert_eq!(error.kind(), ErrorKind::ConnectTimeout, "{error}");
    let text = error.to_string();
    assert!(text.contains("check in the log of the pooler"), "{text}");
}

/// Starts a server that accepts every login, and answers the first query with this.
async fn answers_nonsense(nonsense: &'static [u8]) -> SocketAddr {
    // AuthenticationOk, ParameterStatus, BackendKeyData, ReadyForQuery.
    const LET_IN: &[u8] =
        b"R\0\0\0\x08\0\0\0\0S\0\0\0\x16server_version\x0015\0K\0\0\0\x0c\0\0\0\x01\0\0\0\x02Z\0\0\0\x05I";
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let length = stream.read_u32().await?;
                stream.read_exact(&mut vec![0; length as usize - 4]).await?;
                stream.write_all(LET_IN).await?;
                let mut asked = [0; 1024];
                if stream.read(&mut asked).await? > 0 {
                    stream.write_all(nonsense).await?;
                }
                // It never hangs up by itself.
                while stream.read(&mut asked).await? > 0 {}
                Ok::<_, std::io::Error>(())
            });
        }
    });
    address
}

/// The caller gets the error at once, not at the deadline.
#[tokio::test]
async fn nonsense_after_the_login_is_an_error() {
    for nonsense in [&b"T\0\0\0\x02"[..], b"W\0\0\0\x07\0\0\0", b"Z\0\0\0\x05?"] {
        let address = answers_nonsense(nonsense).await;
        let url = format!("postgres://app@{address}/shop?sslmode=disable");
        let database = Database::from_url(&url).expect("settings");
        let asks = async {
            let connection = connection().await?;
            connection.batch_execute("select 1").await?;
            Ok::<_, Error>(())
        };
        let error = database.invocation(Duration::from_secs(3600), asks);
        let error = tokio::time::timeout(PLENTY, error).await.expect("at once");
        let kind = error.expect_err("it makes no sense").kind();
        assert!(kind != ErrorKind::Deadline, "{kind}");
    }
}
