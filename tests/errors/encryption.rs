//! TLS: certificates, modes, and servers without it.

use super::*;

/// To Linux and macOS 0.0.0.0 is this machine; to us it is an address like any other.
const ELSEWHERE: &str = "0.0.0.0";

/// What TLS and the way to authenticate may lack.
pub async fn tls(golden: &mut Golden) {
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

/// Starts a server that answers every connection with these bytes, and hangs up.
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
