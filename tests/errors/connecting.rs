//! Reaching the server, its start-up, and the passwords of providers.

use super::*;

const EITHER: &str = "check that the server is running and accepts connections on this host and \
                      port (in a container also: inside the container, 127.0.0.1 is the container \
                      itself: if the server is elsewhere, set its host)";

/// Until the server can be spoken to.
pub async fn reaching(golden: &mut Golden) {
    // It has the port, and does not listen.
    let silent = TcpSocket::new_v4().expect("a socket");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    silent.bind(any).expect("a port");
    let free = silent.local_addr().expect("an address");
    golden.volatile(free, "127.0.0.1:PORT");
    let quick = |config: Config| config.connect_timeout(Duration::from_millis(300));
    let url = |address: &str| format!("postgres://app:hunter2@{address}/shop");

    let error = refused(&database_with(&url(&free.to_string()), quick)).await;
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    // Where this test runs decides whether the container is mentioned.
    assert!(
        error
            .remedy()
            .starts_with("check that the server is running"),
        "{error}"
    );
    golden.volatile(error.remedy(), EITHER);
    golden.add("nothing listens there", &error);

    let directory = database_with("postgres://app@%2Fnowhere/shop", quick);
    golden.add("the socket is not there", &refused(&directory).await);

    // The machine's resolver takes its time.
    let unresolved = async |host: &str| {
        let database = database_with(&url(host), |config| config.connect_timeout(PLENTY));
        failing(&database, async { connection().await.map(drop) }).await
    };
    let error = unresolved("no-such-host.invalid").await;
    golden.add("the name is misspelt", &error);
    let error = unresolved("db.no-such-project.supabase.co").await;
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
    // On a busy machine some of it is over before the dial.
    let limit = |error: &Error, before: &str, behind: &str| {
        let text = error.to_string();
        let limit = text
            .split_once(before)
            .and_then(|(_, rest)| rest.split_once(behind));
        limit.expect("a limit").0.to_owned()
    };
    golden.volatile(limit(&error, "within ", ";"), "1.3s");
    golden.add("a firewall drops everything", &error);
    let error = refused(&database_with(&url(&silent.to_string()), quick)).await;
    golden.volatile(limit(&error, "after ", " while"), "300.0ms");
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
pub async fn start_up(golden: &mut Golden) {
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
        ("has been full for ", ",", "has been full for TIME"),
        ("next attempt in ", ";", "next attempt in DELAY"),
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
        // A smart shutdown waits for the sessions and accepts no more.
        let pid = std::fs::read_to_string(postgres.directory().join("data/postmaster.pid"));
        let pid = pid.expect("a pid file");
        let pid = pid.lines().next().expect("a pid");
        let kill = format!("kill -TERM {pid}");
        let killed = std::process::Command::new("sh")
            .args(["-c", &kill])
            .status();
        assert!(killed.expect("a shell").success());
        let connection = connection().await?;
        // Each try is a database's first. One that was refused before, while the server had not
        // handled the signal yet, answers from its circuit breaker: "the server has been full".
        let error = timeout(PLENTY, async {
            loop {
                let error = refused(&database(&url)).await;
                if error.kind() == ErrorKind::ServerStopping {
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
pub async fn providers(golden: &mut Golden) {
    let postgres = Postgres::builder().auth(Auth::Scram);
    let postgres = postgres.start().await.expect("a server");
    golden.volatile(postgres.address(), "127.0.0.1:PORT");
    let url = postgres.url_for("postgres", "postgres");
    let asking = |provider: Provider| {
        database_with(&url, |config| {
            match provider {
                Provider::Hangs => config.connect_timeout(Duration::from_millis(500)),
                Provider::Wrong | Provider::Fails => config,
            }
            .credentials(provider)
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
