//! Tests the output and exit codes of `antifreeze migrate` on a real server. Its effects on
//! the database are tested in `crates/migrate`.

mod cli;

use cli::{Directory, at, client, command, exit_code, fresh_database, run, wait_for_line};
use lab::pgbouncer::PgBouncer;
use lab::postgres::Postgres;

/// The migration succeeds, but the invalid index needs action.
#[tokio::test]
async fn remaining_invalid_indexes_are_findings() {
    let database = fresh_database().await;
    let twins = "create table twins (a int); insert into twins values (1), (1)";
    database.execute(twins).await.expect("a table");
    let index = "create unique index concurrently foreign_index on twins (a)";
    database.execute(index).await.expect_err("duplicates");
    let files = Directory::with("V1__partners.sql", "create table partners (id int)");
    let ran = at(&database.url, &["migrate", "--directory", files.path()]).await;
    let ran = ran.exits(1);
    let output = format!("{}{}", ran.out, ran.err);
    assert!(output.contains("foreign_index"), "{output}");
}

#[tokio::test]
async fn pending_migrations_run_once() {
    let database = fresh_database().await;
    let files = Directory::with(
        "V1__partners.sql",
        "create table partners (id int primary key, name text);",
    );
    let migrate = async |more: &[&str]| {
        let arguments = [&["migrate", "--directory", files.path()], more].concat();
        at(&database.url, &arguments).await
    };
    let state = async |code: i32| {
        let status = migrate(&["--json", "status"]).await.exits(code);
        let json = status.json();
        let all = json["migrations"].as_array().expect("migrations").clone();
        all.iter()
            .map(|migration| migration["state"].to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(state(1).await, ["\"pending\""]);
    let dry = migrate(&["--dry-run", "--json"]).await.exits(0).json();
    assert_eq!(dry["report"]["pending"][0], "V1__partners");
    migrate(&[]).await.exits(0);
    assert_eq!(state(0).await, ["\"applied\""]);
    migrate(&[]).await.exits(0);

    // The lint reports a finding, and refuses the migration with --refuse-findings.
    files.write(
        "V2__unique.sql",
        "alter table partners add constraint u unique (name);",
    );
    let dry = migrate(&["--dry-run"]).await.exits(1);
    dry.assert_out("V2__unique");
    migrate(&["--refuse-findings"]).await.exits(1);
    assert_eq!(state(1).await, ["\"applied\"", "\"pending\""]);

    // Options that the subcommand would ignore are rejected.
    for more in [
        &["--dry-run", "baseline", "2"][..],
        &["--run", "true", "status"],
    ] {
        let ran = migrate(more).await.exits(2);
        ran.assert_err("apply to running migrations only");
    }
    assert_eq!(state(1).await, ["\"applied\"", "\"pending\""]);

    let nowhere = at(&database.url, &["migrate", "--directory", "/nowhere"]).await;
    nowhere.exits(2);
}

#[tokio::test]
async fn misnamed_files_are_named() {
    let database = fresh_database().await;
    let files = Directory::new();
    let arguments = ["migrate", "--directory", files.path()];
    let none = at(&database.url, &arguments).await.exits(2);
    none.assert_err("contains no migrations");
    for name in ["V1__one.sql", "V2_b.sql", "V5__e.SQL", "V2.5__x.sql"] {
        files.write(name, "select 1");
    }
    for more in [&[][..], &["--dry-run"], &["status"]] {
        let ran = at(&database.url, &[&arguments, more].concat())
            .await
            .exits(2);
        for name in ["V2_b.sql", "V5__e.SQL", "V2.5__x.sql"] {
            ran.assert_err(name);
        }
    }
    let history = "select to_regclass('refinery_schema_history')";
    let history = database.query(history).await.expect("a row");
    assert_eq!(history[0][0], None, "nothing was run");
}

#[tokio::test]
async fn blocking_session_is_named_while_waiting() {
    let database = fresh_database().await;
    database
        .execute("create table partners (name text)")
        .await
        .expect("a table");
    let stuck = client(&database.url, "shop:17").await;
    stuck
        .batch_execute("begin; select from partners")
        .await
        .expect("begun");
    let alter = "alter table partners add column city text;";
    let files = Directory::with("V1__city.sql", alter);
    let arguments = [
        "migrate",
        "--directory",
        files.path(),
        "--lock-timeout",
        "500ms",
    ];
    let mut child = command(&[("DATABASE_URL", &database.url)], &arguments)
        .spawn()
        .expect("it starts");
    let output = child.stdout.take().expect("a pipe");
    wait_for_line(output, "shop:17").await;
    stuck.batch_execute("rollback").await.expect("rolled back");
    assert_eq!(exit_code(&mut child).await, 0);
    let rows = database.query("select city from partners").await;
    assert_eq!(rows.map(|rows| rows.len()).ok(), Some(0), "it was applied");
}

#[tokio::test]
async fn ctrl_c_cancels_the_statement_on_the_server() {
    let database = fresh_database().await;
    let files = Directory::with("V1__slow.sql", "select pg_sleep(3600);");
    let directory = files.path();
    let variables = [("DATABASE_URL", database.url.as_str())];
    let mut child = command(&variables, &["migrate", "--directory", directory])
        .spawn()
        .expect("it starts");
    let running = "select pid from pg_stat_activity where query like '%pg_sleep(3600)%' and state = 'active' \
                   and datname = current_database() and pid <> pg_backend_pid()";
    let begin = std::time::Instant::now();
    while database.query(running).await.expect("rows").is_empty() {
        assert!(begin.elapsed() < cli::TIMEOUT, "it never ran");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    send("-INT", &child);
    assert_eq!(exit_code(&mut child).await, 1);
    assert!(
        database.query(running).await.expect("rows").is_empty(),
        "it runs on"
    );
}

fn send(signal: &str, child: &tokio::process::Child) {
    let pid = child.id().expect("a process").to_string();
    let sent = std::process::Command::new("kill")
        .args([signal, &pid])
        .status();
    assert!(sent.expect("kill").success());
}

/// A tool that records when it begins and when it receives SIGTERM.
const RECORDER: &str = "trap 'echo ended >> \"$RECORD\"; exit' TERM; echo began > \"$RECORD\"; \
                        sleep 3600 & wait";

#[tokio::test]
async fn signals_end_the_tool() {
    let database = fresh_database().await;
    let folder = tempfile::tempdir().expect("a directory");
    let path = std::env::var("PATH").unwrap_or_default();
    let locks = "select 1 from pg_locks where locktype = 'advisory' and database = \
                 (select oid from pg_database where datname = current_database())";
    // With nohup, the command ignores SIGHUP.
    for (signals, ignored) in [
        (&["-INT"][..], ""),
        (&["-TERM"], ""),
        (&["-HUP"], ""),
        (&["-HUP", "-TERM"], "HUP"),
    ] {
        let record = folder.path().join(format!("record{}", signals.concat()));
        let variables = [
            ("DATABASE_URL", database.url.as_str()),
            ("PATH", &path),
            ("RECORD", record.to_str().expect("a path")),
            ("RECORDER", RECORDER),
        ];
        let trap = match ignored {
            "" => String::new(),
            ignored => format!("trap '' {ignored}; "),
        };
        let exec = format!(
            "{trap}exec {} migrate --run \"$RECORDER\"",
            env!("CARGO_BIN_EXE_antifreeze")
        );
        // The tests themselves may run under nohup.
        let mut command = tokio::process::Command::new("env");
        command.args(["--default-signal=HUP", "sh", "-c", &exec]);
        command.env_clear().envs(variables).kill_on_drop(true);
        let mut child = command.spawn().expect("it starts");
        let recorded = || std::fs::read_to_string(&record).unwrap_or_default();
        let began = std::time::Instant::now();
        while recorded() != "began\n" {
            assert!(began.elapsed() < cli::TIMEOUT, "it never began");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        for (at, signal) in signals.iter().enumerate() {
            send(signal, &child);
            if at + 1 < signals.len() {
                let wait = std::time::Duration::from_millis(300);
                let ended = tokio::time::timeout(wait, child.wait()).await;
                assert!(ended.is_err(), "{signal} ended it");
                assert_eq!(recorded(), "began\n");
            }
        }
        assert_eq!(exit_code(&mut child).await, 1, "{signals:?}");
        assert_eq!(recorded(), "began\nended\n", "{signals:?}");
        let left = database.query(locks).await.expect("rows");
        assert!(left.is_empty(), "{signals:?}");
    }
}

#[tokio::test]
async fn other_tools_run_under_the_lock() {
    let database = fresh_database().await;
    let path = std::env::var("PATH").unwrap_or_default();
    let variables = [("DATABASE_URL", database.url.as_str()), ("PATH", &path)];
    let ran = run(
        &variables,
        &["migrate", "--run", "echo \"options: $PGOPTIONS\""],
    )
    .await;
    let ran = ran.exits(0);
    ran.assert_out("-c lock_timeout=2000");
    // With --json, only the report is on the standard output.
    let ran = run(&variables, &["--json", "migrate", "--run", "echo output"]);
    let ran = ran.await.exits(0);
    assert!(ran.json()["report"]["took_ms"].is_u64(), "{}", ran.out);
    ran.assert_err("output");
    let ran = run(&variables, &["migrate", "--run", "exit 3"])
        .await
        .exits(1);
    assert!(ran.err.starts_with("error: "), "{}", ran.err);
    // psql reports the error, continues, and exits with 0.
    let says = "echo 'ERROR:  canceling statement due to lock timeout'";
    let ran = run(&variables, &["migrate", "--run", says]).await.exits(1);
    ran.assert_err("ON_ERROR_STOP=1");
}

#[tokio::test]
async fn poolers_without_direct_endpoint_are_refused() {
    let server = Postgres::start().await.expect("a server");
    let pooler = PgBouncer::builder(&server).start().await.expect("a pooler");
    let url = pooler.url(&server.url());
    let files = Directory::with("V1__one.sql", "select 1;");
    let directory = files.path();
    let variables = [
        ("DATABASE_URL", url.as_str()),
        ("ANTIFREEZE_POOLER", "transaction"),
    ];
    let ran = run(&variables, &["migrate", "--directory", directory])
        .await
        .exits(2);
    ran.assert_err("MIGRATION_DATABASE_URL");
}
