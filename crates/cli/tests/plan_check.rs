//! Tests `antifreeze plan`, `antifreeze check`, and options common to all commands.

mod cli;

use cli::{Directory, at, fresh_database, run};
use lab::postgres::Postgres;

#[tokio::test]
async fn plans_are_compared_with_the_limit() {
    let plan = |arguments: &'static [&'static str]| async move {
        run(&[], &[&["plan", "--json"], arguments].concat()).await
    };
    let ran = plan(&["--instances", "30", "--limit", "103"])
        .await
        .exits(0);
    assert_eq!(ran.json()["peak"], 60);
    let groups = [
        "--instances",
        "200",
        "--group",
        "worker=3x5",
        "--provider",
        "neon:0.25",
    ];
    let groups: &'static [&'static str] = Box::leak(Box::new(groups));
    let json = plan(groups).await.exits(1).json();
    assert_eq!(json["verdict"], "too_many");
    let counts = (&json["peak"], &json["available"]);
    assert_eq!(counts, (&430.into(), &97.into()));
    assert!(
        json["advice"]
            .as_array()
            .is_some_and(|advice| !advice.is_empty())
    );
    let pooled = plan(&["--instances", "5000", "--pool-size", "20", "--limit", "103"]).await;
    assert_eq!(pooled.exits(0).json()["needed"], 20);
    plan(&["--instances", "1", "--provider", "aiven:hobbyist"])
        .await
        .exits(2);
    plan(&[]).await.exits(2);
    // Without a limit the server is queried; no server is configured.
    plan(&["--instances", "1"]).await.exits(2);

    let server = Postgres::builder()
        .setting("max_connections", 23)
        .start()
        .await;
    let server = server.expect("a server");
    let ran = at(&server.url(), &["plan", "--instances", "8"])
        .await
        .exits(0);
    ran.assert_out("23 (from the server), 3 of them reserved; 0 in use");
    ran.assert_out("it fits");
    at(&server.url(), &["plan", "--instances", "9"])
        .await
        .exits(1);

    // RDS reserves two more, with its own setting.
    server
        .execute("alter database postgres set rds.rds_superuser_reserved_connections = 2")
        .await
        .expect("set");
    let json = at(&server.url(), &["plan", "--instances", "8", "--json"]).await;
    let json = json.exits(1).json();
    assert_eq!(
        (&json["limit"]["reserved"], &json["available"]),
        (&5.into(), &18.into())
    );
    let ran = at(&server.url(), &["doctor"]).await.exits(0);
    let of = "of 23 in use (5 are reserved";
    ran.assert_out(of);
}

#[tokio::test]
async fn statements_are_checked_against_the_database() {
    let database = fresh_database().await;
    database
        .execute(
            "create schema app; create type app.colour as enum ('red'); \
             create table app.partners (id bigserial primary key, name text, colour app.colour); \
             insert into app.partners (name) values ('acme')",
        )
        .await
        .expect("tables");
    let files = Directory::new();
    let path = files.path().to_owned();
    let check = |json: bool| {
        let (url, path) = (database.url.clone(), path.clone());
        async move {
            let more: &[&str] = if json { &["--json"] } else { &[] };
            at(&url, &[&["check", &path], more].concat()).await
        }
    };
    let none = check(false).await.exits(2);
    none.assert_err("no *.sql");

    files.write(
        "good.sql",
        "-- all of it fits; really\n\
         select id, name from app.partners where id = $1 and colour = $2;\n\
         insert into app.partners (name) values ($1) returning id;\n\
         delete from app.partners;\n\
         drop table app.partners;\n",
    );
    let json = check(true).await.exits(0).json();
    assert_eq!(
        (&json["fit"], &json["grammar_only"]),
        (&3.into(), &1.into())
    );
    // Nothing was executed.
    let rows = database
        .query("select count(*), max(id) from app.partners")
        .await;
    let rows = rows.expect("it is still there");
    assert_eq!(rows[0], [Some("1".to_owned()), Some("1".to_owned())]);
    let nextval = database
        .query("select nextval('app.partners_id_seq')")
        .await;
    assert_eq!(nextval.expect("a row")[0][0].as_deref(), Some("2"));

    files.write(
        "later/bad.sql",
        "select 1;\nselect p.nme\n  from app.partners p;\n\
         select * from app.partner;\n\
         select * from app.partners where id = 'x'::text;\n\
         select * from app.nothing_like_it;\n\
         selct 1;\n\
         create table app.orders (id int);\n\
         select * from app.orders;\n",
    );
    files.write("open.sql", "select 'never closed");
    let ran = check(false).await.exits(1);
    let lines: Vec<&str> = ran.out.lines().collect();
    let bad = format!("{path}/later/bad.sql");
    for (place, words) in [
        ("2:8", &["p.nme", "\"name\""][..]),
        (
            "4:15",
            &[
                "\"app.partner\" does not exist",
                "did you mean \"partners\"",
            ],
        ),
        ("5:37", &["operator does not exist"]),
        ("6:15", &["\"app.nothing_like_it\" does not exist"]),
        ("7:1", &["syntax error"]),
    ] {
        let start = format!("{bad}:{place}: ");
        let line = lines.iter().find(|line| line.starts_with(&start));
        let line = line.unwrap_or_else(|| panic!("{start} is not in {}", ran.out));
        assert!(words.iter().all(|word| line.contains(word)), "{line}");
    }
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with(&format!("{path}/open.sql:1:8: "))),
        "{}",
        ran.out
    );
    assert_eq!(
        lines.last().copied(),
        Some(
            "4 statements fit, 6 do not; 2 checked for grammar only (the server does not analyze \
             DDL in advance); 1 not checked: they need tables that these files create"
        )
    );
    let json = check(true).await.exits(1).json();
    assert_eq!(json["findings"][1]["suggestion"], "partners");
    assert_eq!(json["findings"][1]["sqlstate"], "42P01");
}

#[tokio::test]
async fn files_are_split_as_psql_does() {
    let database = fresh_database().await;
    let tables = "create table t (a text); create table u (a text)";
    database.execute(tables).await.expect("tables");
    let text = "\u{feff}create rule r as on insert to t do also (select 1; select 2);\n\
                copy t from stdin;\nit's; nothing\n\\.\n(select a from t);\n";
    let files = Directory::with("A.SQL", text);
    let path = files.path();
    let json = at(&database.url, &["check", path, "--json"]).await;
    let json = json.exits(0).json();
    assert_eq!(
        (&json["fit"], &json["grammar_only"]),
        (&1.into(), &2.into())
    );

    files.write("b.sql", "select 1;\n\\i c.sql\n");
    let ran = at(&database.url, &["check", path]).await.exits(1);
    let line = format!("{path}/b.sql:2:1: `\\i` is a psql command");
    ran.assert_out(&line);

    #[cfg(unix)]
    {
        let other = Directory::new();
        std::os::unix::fs::symlink(other.path(), files.file("more")).expect("a link");
        let ran = at(&database.url, &["check", path]).await.exits(2);
        ran.assert_err("more is a symbolic link to a directory");
    }
}

#[tokio::test]
async fn locked_tables_are_inconclusive() {
    let database = fresh_database().await;
    database
        .execute("create table partners (name text); create table orders (id int)")
        .await
        .expect("tables");
    let text = "select name from partners;\nselect id from orders;\nselect nme from orders;\n";
    let files = Directory::with("a.sql", text);
    let path = files.file("a.sql");
    let altering = cli::client(&database.url, "migration").await;
    let alter = "begin; alter table partners add id int";
    altering.batch_execute(alter).await.expect("altered");

    let ran = at(&database.url, &["check", &path]).await.exits(2);
    let lines: Vec<_> = ran.out.lines().collect();
    assert!(
        lines[0].starts_with(&format!("{path}:3:8: column \"nme\"")),
        "{}",
        ran.out
    );
    assert_eq!(
        lines[1..],
        [
            format!(
                "{path}:1:18: canceling statement due to lock timeout; the statement was not \
                 checked"
            ),
            "1 statements fit, 1 do not; 1 could not be checked: run the command again (antifreeze \
             doctor shows blocking sessions)"
                .to_owned(),
        ]
    );
    let json = at(&database.url, &["check", &path, "--json"]).await;
    let json = json.exits(2).json();
    assert_eq!(json["inconclusive"][0]["sqlstate"], "55P03");
    assert_eq!(json["findings"].as_array().map(Vec::len), Some(1));
    assert_eq!(json["fit"], 1);
    assert_eq!(json["error"], serde_json::Value::Null);

    altering.batch_execute("rollback").await.expect("undone");
    at(&database.url, &["check", &path]).await.exits(1);
}

#[tokio::test]
async fn interrupted_checks_print_their_findings() {
    let database = fresh_database().await;
    database
        .execute("create table partners (name text)")
        .await
        .expect("a table");
    let text = "selct 1;\nselect name from partners;\nselect 1;\n";
    let files = Directory::with("a.sql", text);
    let altering = cli::client(&database.url, "migration").await;
    let alter = "begin; alter table partners add id int";
    altering.batch_execute(alter).await.expect("altered");
    let ending = async {
        let look = cli::client(&database.url, "look").await;
        let waits = "from pg_stat_activity where application_name = 'antifreeze check' \
                     and datname = current_database() and wait_event_type = 'Lock'";
        cli::until(&look, &format!("select count(*) = 1 {waits}")).await;
        let end = format!("select pg_terminate_backend(pid) {waits}");
        look.batch_execute(&end).await.expect("ended");
    };
    let arguments = ["check", files.path(), "--json"];
    let (ran, ()) = futures_util::join!(at(&database.url, &arguments), ending);
    let json = ran.exits(2).json();
    assert_eq!(json["findings"][0]["sqlstate"], "42601");
    assert!(json["error"].is_string(), "{json}");
}

#[tokio::test]
async fn passwords_in_arguments_are_rejected() {
    for url in [
        "postgres://app:hunter2@localhost/shop",
        "postgres://app@localhost/shop?password=hunter2",
        "host=localhost password=hunter2",
    ] {
        let ran = run(&[], &["doctor", "--url", url]).await.exits(2);
        ran.assert_err("--url env:NAME");
    }
    let server = Postgres::shared().await.expect("a server");
    run(&[], &["sessions", "--url", &server.url()])
        .await
        .exits(0);
    run(&[("KEY", &server.url())], &["sessions", "--url", "env:KEY"])
        .await
        .exits(0);
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), server.url() + "\n").expect("written");
    let named = format!("file:{}", file.path().display());
    run(&[], &["sessions", "--url", &named]).await.exits(0);
    let unset = run(&[], &["sessions", "--url", "env:NOWHERE"])
        .await
        .exits(2);
    let message = "env:NOWHERE: the variable is not set";
    unset.assert_err(message);
}

#[tokio::test]
async fn completions_are_generated() {
    for shell in ["bash", "zsh", "fish"] {
        let ran = cli::command(&[], &["completions", shell]).output().await;
        let ran = ran.expect("it starts");
        assert!(ran.status.success());
        assert!(
            String::from_utf8_lossy(&ran.stdout).contains("doctor"),
            "{shell}"
        );
    }
}
