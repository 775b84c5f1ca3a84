//! Passwords that are fetched at every connect, against a server that checks them.

mod common;

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use antifreeze::config::ConnectionLifetime;
use antifreeze::credentials::{self, Attempt, Credentials, Login};
use antifreeze::{Config, ErrorKind, connection};
use common::{BoxError, Lab, kind, lease_and_return};
use lab::postgres::{Auth, Postgres};
use lab::relay::Relay;
use tokio::sync::OnceCell;

/// Short, so that it is looked for in what is shown.
const WRONG: &str = "hunter2";

/// One cluster for all, which asks for passwords; each test has a role of its own.
async fn postgres() -> &'static Postgres {
    static SHARED: OnceCell<Postgres> = OnceCell::const_new();
    let start = || async { Postgres::builder().auth(Auth::Scram).start().await };
    SHARED.get_or_try_init(start).await.expect("a server")
}

/// A database, and the role `name` whose connections ask `credentials`.
async fn lab(name: &str, credentials: impl Credentials + 'static) -> Lab {
    let server = database(name).await;
    let url = postgres().await.url_for(name, &server.name);
    Lab::over(server, &url, |config| {
        config
            .credentials(credentials)
            .lifetime(ConnectionLifetime::PerInvocation)
    })
}

async fn database(role: &str) -> lab::postgres::Database {
    let postgres = postgres().await;
    postgres.create_role(role).await.expect("a role");
    postgres.fresh_database().await.expect("a database")
}

async fn change_password(role: &str, password: &str) {
    let sql = format!("alter role {role} password '{password}'");
    postgres().await.execute(&sql).await.expect("changed");
}

async fn user(lab: &Lab) -> Result<String, BoxError> {
    lab.run(async {
        let row = connection()
            .await?
            .query_one("select current_user::text", &[])
            .await?;
        Ok(row.get(0))
    })
    .await
}

/// Answers one after the other, the last for good, and notes what it was asked.
#[derive(Clone)]
struct Answers {
    answers: Arc<[&'static str]>,
    asked: Arc<Mutex<Vec<Attempt>>>,
}

impl Answers {
    fn new(answers: &[&'static str]) -> Self {
        Answers {
            answers: answers.into(),
            asked: Arc::default(),
        }
    }

    fn asked(&self) -> Vec<Attempt> {
        std::mem::take(&mut *self.asked.lock().expect("no panic"))
    }
}

impl Credentials for Answers {
    fn login<'a>(&'a self, attempt: &'a Attempt) -> credentials::LoginFuture<'a> {
        Box::pin(async move {
            let mut asked = self.asked.lock().expect("no panic");
            let answer = self.answers[asked.len().min(self.answers.len() - 1)];
            asked.push(attempt.clone());
            Ok(Login::password(answer))
        })
    }
}

#[tokio::test]
async fn fixed_password_logs_in() {
    let fixed = credentials::from_fn(|_| async { Ok(Login::password(Postgres::PASSWORD)) });
    let lab = lab("fixed", fixed).await;
    assert_eq!(user(&lab).await.expect("in"), "fixed");
}

#[tokio::test]
async fn rotated_file_is_read_again() {
    let pooler = std::env::temp_dir().join(format!("antifreeze-{}-password", std::process::id()));
    let write = |text: &str| {
        let mut file = std::fs::File::create(&pooler).expect("a file");
        file.write_all(text.as_bytes()).expect("written");
    };
    let lab = lab("file", credentials::File::new(&pooler)).await;
    write(&format!("{}\n", Postgres::PASSWORD));
    assert_eq!(user(&lab).await.expect("in"), "file");

    change_password("file", "another").await;
    let error = user(&lab).await.expect_err("the file is old");
    let error = error.downcast_ref::<antifreeze::Error>().expect("ours");
    let sqlstate = error.sqlstate().map(|code| code.code());
    assert_eq!(sqlstate, Some("28P01"), "{error}");
    write("another\r\n");
    assert_eq!(user(&lab).await.expect("in"), "file");

    std::fs::remove_file(&pooler).expect("removed");
    let error = user(&lab).await.expect_err("no file");
    assert_eq!(kind(&error), Some(ErrorKind::Configuration));
    assert!(error.to_string().contains("password"), "{error}");
}

#[tokio::test]
async fn closure_may_name_the_user() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let lab = lab(
        "somebody",
        credentials::from_fn(move |attempt: Attempt| {
            let count = Arc::clone(&counted);
            async move {
                count.fetch_add(1, Ordering::Relaxed);
                assert_eq!(attempt.user.as_deref(), Some("somebody"));
                assert_eq!(attempt.host, "127.0.0.1");
                Ok(Login::password(Postgres::PASSWORD).of_user("postgres"))
            }
        }),
    )
    .await;
    for asked in 1..3 {
        assert_eq!(user(&lab).await.expect("in"), "postgres");
        assert_eq!(
            count.load(Ordering::Relaxed),
            asked,
            "once for each connect"
        );
    }
}

#[tokio::test]
async fn refused_password_is_fetched_once_more() {
    let answers = Answers::new(&[WRONG, Postgres::PASSWORD]);
    let lab = lab("renewed", answers.clone()).await;
    assert_eq!(user(&lab).await.expect("in"), "renewed");
    let asked = answers.asked();
    let refused: Vec<_> = asked.iter().map(|attempt| &attempt.refused).collect();
    assert_eq!(refused, [&None, &Some(Login::password(WRONG))]);
    assert_eq!(asked[0].port, postgres().await.port());
    assert_eq!(lab.torn_down().len(), 1, "one connection was had");
}

/// How often the provider is asked and the server dialled before a refusal is told.
#[tokio::test]
async fn repeated_refusal_is_an_error() {
    let server = database("refused").await;
    let relay = Relay::start(postgres().await.address())
        .await
        .expect("a relay");
    let url = relay.url(&postgres().await.url_for("refused", &server.name));
    for (answers, dialled) in [
        // The same again cannot help.
        (&[WRONG][..], 1),
        (&[WRONG, "also wrong", Postgres::PASSWORD], 2),
    ] {
        let answers = Answers::new(answers);
        let lab = Lab::over(server.clone(), &url, |config| {
            config.credentials(answers.clone())
        });
        let before = relay.counts();
        let error = lab.run(lease_and_return()).await.expect_err("refused");
        let error = error.downcast_ref::<antifreeze::Error>().expect("ours");
        let sqlstate = error.sqlstate().map(|code| code.code());
        assert_eq!(sqlstate, Some("28P01"), "{error}");
        assert_eq!(answers.asked().len(), 2);
        assert_eq!(relay.counts().since(before).connections, dialled);
        let shown = format!("{error} {error:?} {:?}", lab.database);
        assert!(
            !shown.contains(WRONG) && !shown.contains("wrong"),
            "{shown}"
        );
    }
}

/// SQLSTATE 28000: the role may not log in at all.
#[tokio::test]
async fn role_without_login_is_an_error() {
    let answers = Answers::new(&[Postgres::PASSWORD]);
    let lab = lab("nobody_in", answers.clone()).await;
    let sql = "alter role nobody_in nologin";
    postgres().await.execute(sql).await.expect("changed");
    let error = lab.run(lease_and_return()).await.expect_err("refused");
    let error = error.downcast_ref::<antifreeze::Error>().expect("ours");
    assert_eq!(error.sqlstate().map(|code| code.code()), Some("28000"));
    assert_eq!(answers.asked().len(), 2);
}

/// Other errors are no reason to ask again.
#[tokio::test]
async fn missing_database_fetches_no_password_again() {
    let answers = Answers::new(&[Postgres::PASSWORD]);
    let server = database("lost").await;
    let url = postgres().await.url_for("lost", "no_such_database");
    let lab = Lab::over(server, &url, |config| config.credentials(answers.clone()));
    let error = lab.run(lease_and_return()).await.expect_err("refused");
    let error = error.downcast_ref::<antifreeze::Error>().expect("ours");
    assert_eq!(error.sqlstate().map(|code| code.code()), Some("3D000"));
    assert_eq!(answers.asked().len(), 1);
}

#[tokio::test]
async fn failing_provider_is_an_error() {
    let lab = lab(
        "failing",
        credentials::from_fn(|_| async { Err("the vault is shut".into()) }),
    )
    .await;
    let error = lab.run(lease_and_return()).await.expect_err("no password");
    assert_eq!(kind(&error), Some(ErrorKind::Unreachable));
    let cause = error.source().map(ToString::to_string);
    assert_eq!(cause.as_deref(), Some("the vault is shut"));
    assert!(!error.to_string().contains("vault is shut"), "said once");
}

/// It is asked within the time that connecting may take.
#[tokio::test]
async fn hanging_provider_times_out() {
    let server = database("hanging").await;
    let url = postgres().await.url_for("hanging", &server.name);
    let lab = Lab::over(server, &url, |config: Config| {
        config
            .credentials(credentials::from_fn(|_| std::future::pending()))
            .connect_timeout(std::time::Duration::from_millis(300))
    });
    let error = lab.run(lease_and_return()).await.expect_err("no password");
    assert_eq!(kind(&error), Some(ErrorKind::ConnectTimeout));
}

/// PgBouncer 1.18 has one SQLSTATE for all that it refuses.
#[tokio::test]
async fn refusal_of_pgbouncer_is_an_error() {
    let postgres = postgres().await;
    let server = database("pooled").await;
    let pooler = lab::pgbouncer::PgBouncer::builder(postgres)
        .auth(Auth::Scram)
        .user("pooled", Postgres::PASSWORD)
        .start()
        .await
        .expect("a pooler");
    let url = pooler.url(&postgres.url_for("pooled", &server.name));
    let answers = Answers::new(&[WRONG, Postgres::PASSWORD]);
    let lab = Lab::over(server, &url, |config| {
        config
            .pooler(antifreeze::config::Pooler::Transaction)
            .credentials(answers.clone())
    });
    assert_eq!(user(&lab).await.expect("in"), "pooled");
    assert_eq!(answers.asked().len(), 2);
}

/// What we log, at every level, in this test and those beside it, holds neither what was refused nor what was taken.
#[tokio::test]
async fn logs_hold_no_password() {
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("no panic").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let lab = lab("logged", Answers::new(&[WRONG, "a-long-password"])).await;
    change_password("logged", "a-long-password").await;
    tracing::subscriber::set_global_default(subscriber).expect("the only one");
    user(&lab).await.expect("in");
    let log = String::from_utf8(log.0.lock().expect("no panic").clone()).expect("text");
    assert!(log.contains("connected"), "{log}");
    assert!(
        !log.contains(WRONG) && !log.contains("a-long-password"),
        "{log}"
    );
}
