//! Tests `--url`: the command uses that database only, whatever the environment says.

mod cli;

use cli::{Directory, client, run, until};
use lab::postgres::Postgres;

/// Two servers. The environment is that of `production`.
struct Servers {
    production: Postgres,
    staging: Postgres,
}

impl Servers {
    async fn start() -> Servers {
        let (production, staging) = tokio::join!(Postgres::start(), Postgres::start());
        Servers {
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
async fn migrations_run_on_the_named_database() {
    let servers = Servers::start().await;
    let partners = "create table partners (id int primary key);";
    let files = Directory::with("V1__partners.sql", partners);
    let migrate = ["migrate", "--directory", files.path()];
    let there = ["--url", "env:STAGING"];
    let tables = "select count(*)::text from pg_class \
                  where relname in ('partners', 'refinery_schema_history')";
    let count = async |server: &Postgres| server.query(tables).await.expect("rows")[0][0].clone();

    servers.run(&[&there[..], &migrate].concat()).await.exits(0);
    assert_eq!(count(&servers.staging).await.as_deref(), Some("2"));
    assert_eq!(count(&servers.production).await.as_deref(), Some("0"));

    // The lock is taken on that database.
    let locked = "select 'locked' from pg_locks where locktype = 'advisory'";
    let tool = format!(
        "psql -X -At -d \"$STAGING\" -c \"{locked}\" && echo here && \
         psql -X -At -d \"$DATABASE_URL\" -c \"{locked}\""
    );
    let ran = servers
        .run(&[&there[..], &["migrate", "--run", &tool]].concat())
        .await;
    let ran = ran.exits(0);
    let (staging, production) = ran.out.split_once("here").expect("both");
    assert!(staging.contains("locked\n"), "{}", ran.out);
    assert!(!production.contains("locked\n"), "{}", ran.out);

    // Without --url, the environment's database is used.
    servers.run(&migrate).await.exits(0);
    assert_eq!(count(&servers.production).await.as_deref(), Some("2"));
}

#[tokio::test]
async fn admin_url_of_the_environment_is_ignored() {
    let servers = Servers::start().await;
    let stuck = client(&servers.production.url(), "shop:17").await;
    stuck.batch_execute("begin; select 1").await.expect("begun");
    servers.staging.halt().await.expect("down");
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
    let ran = servers.run(&[&there[..], &end].concat()).await.exits(2);
    assert!(!ran.err.contains("the admin URL"), "{}", ran.err);
    until(&stuck, "select true").await;

    // An explicit --admin-url is used.
    let admin = ["--admin-url", "env:ADMIN_DATABASE_URL"];
    let ran = servers
        .run(&[&there[..], &admin, &end].concat())
        .await
        .exits(0);
    ran.assert_err("the admin URL");
    ran.assert_out("ended pid ");
    stuck
        .simple_query("select 1")
        .await
        .expect_err("it was ended");
}

#[tokio::test]
async fn misplaced_passwords_are_not_printed() {
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
            // The host name was not looked up.
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
