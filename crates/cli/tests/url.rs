//! `--url` names another database than the environment's, and nothing of the environment
//! leads back to that one.

mod cli;

use cli::{client, run, until};
use lab::postgres::Postgres;

/// Two servers with a database of one name each, and the variables of a shell in front of
/// the first.
struct Two {
    production: Postgres,
    staging: Postgres,
}

impl Two {
    async fn start() -> Two {
        let (production, staging) = tokio::join!(Postgres::start(), Postgres::start());
        Two {
            production: production.expect("a server"),
            staging: staging.expect("a server"),
        }
    }

    async fn run(&self, arguments: &[&str]) -> cli::Ran {
        let (production, staging) = (self.production.url(), self.staging.url());
        let path = std::env::var("PATH").unwrap_or_default();
        let variables = [
            ("DATABASE_URL", production.as_str()),
            ("MIGRATION_DATABASE_URL", &production),
            ("ADMIN_DATABASE_URL", &production),
            ("STAGING", &staging),
            ("PATH", &path),
        ];
        run(&variables, arguments).await
    }
}

#[tokio::test]
async fn url_names_the_migrated_database() {
    let two = Two::start().await;
    let files = tempfile::tempdir().expect("a directory");
    let partners = "create table partners (id int primary key);";
    std::fs::write(files.path().join("V1__partners.sql"), partners).expect("written");
    let directory = files.path().display().to_string();
    let migrate = ["migrate", "--directory", &directory];
    let there = ["--url", "env:STAGING"];
    let tables = "select count(*)::text from pg_class \
                  where relname in ('partners', 'refinery_schema_history')";
    let count = async |server: &Postgres| server.query(tables).await.expect("rows")[0][0].clone();

    two.run(&[&there[..], &migrate].concat()).await.exits(0);
    assert_eq!(count(&two.staging).await.as_deref(), Some("2"));
    assert_eq!(count(&two.production).await.as_deref(), Some("0"));

    // The lock, too, is that database's.
    let locked = "select 'locked' from pg_locks where locktype = 'advisory'";
    let tool = format!(
        "psql -X -At -d \"$STAGING\" -c \"{locked}\" && echo here && \
         psql -X -At -d \"$DATABASE_URL\" -c \"{locked}\""
    );
    let ran = two
        .run(&[&there[..], &["migrate", "--run", &tool]].concat())
        .await;
    let ran = ran.exits(0);
    let (staging, production) = ran.out.split_once("here").expect("both");
    assert!(staging.contains("locked\n"), "{}", ran.out);
    assert!(!production.contains("locked\n"), "{}", ran.out);

    // Without it, the environment says where.
    two.run(&migrate).await.exits(0);
    assert_eq!(count(&two.production).await.as_deref(), Some("2"));
}

#[tokio::test]
async fn admin_variable_is_ignored_with_url() {
    let two = Two::start().await;
    let stuck = client(&two.production.url(), "shop:17").await;
    stuck.batch_execute("begin; select 1").await.expect("begun");
    two.staging.halt().await.expect("down");
    let end = [
        "sessions",
        "--application",
        "shop:17",
        "--terminate",
        "--yes",
        "--wait",
        "0s",
    ];
    let there = ["--url", "env:STAGING"];
    let ran = two.run(&[&there[..], &end].concat()).await.exits(2);
    assert!(!ran.err.contains("the admin's URL"), "{}", ran.err);
    until(&stuck, "select true").await;

    // Who names it means it.
    let admin = ["--admin-url", "env:ADMIN_DATABASE_URL"];
    let ran = two.run(&[&there[..], &admin, &end].concat()).await.exits(0);
    assert!(ran.err.contains("the admin's URL"), "{}", ran.err);
    assert!(ran.out.contains("ended pid "), "{}", ran.out);
    stuck
        .simple_query("select 1")
        .await
        .expect_err("it was ended");
}

#[tokio::test]
async fn misplaced_password_is_not_shown() {
    let path = std::env::var("PATH").unwrap_or_default();
    for url in [
        "postgres://app%3Ahunter2@db.invalid/shop",
        "postgres://app@db.invalid/shop;password=hunter2",
        "postgres://app@db.invalid/shop&Password=hunter2",
        "host=db.invalid;user=app;password=hunter2",
        "host=db.invalid,user=app,password=hunter2",
        "host=db.invalid user=app:hunter2",
        "env:postgres://app:hunter2@db.invalid",
        "env:WRONG",
        "env:BLANK",
    ] {
        for arguments in [&["doctor"][..], &["doctor", "--json"], &["sessions"]] {
            let variables = [
                ("WRONG", "user=app:hunter2 host=db.invalid"),
                ("BLANK", " \n"),
                ("PATH", &path),
            ];
            let ran = run(&variables, &[&["--url", url][..], arguments].concat()).await;
            let ran = ran.exits(2);
            let shown = format!("{}{}", ran.out, ran.err);
            assert!(!shown.contains("hunter2"), "{url}: {shown}");
            // Nobody was asked for the host's address.
            assert!(!shown.contains("resolved"), "{url}: {shown}");
        }
    }
    // Without `--url`.
    for arguments in [
        &["doctor", "postgres://app:hunter2@db.invalid/shop"][..],
        &["postgres://app:hunter2@db.invalid/shop"],
        &[
            "doctor",
            "--transaction",
            "postgres://app:hunter2@db.invalid",
        ],
        &["sessions", "host=db.invalid password=hunter2"],
    ] {
        let ran = run(&[("PATH", &path)], arguments).await.exits(2);
        assert!(!ran.err.contains("hunter2"), "{}", ran.err);
    }
}
