//! Tests the commands, SQL and JSON of the runbook and the other pages against the command
//! and a server.

mod cli;

use std::collections::BTreeSet;
use std::path::Path;

use cli::{Directory, at, client, fresh_database, run};
use lab::postgres::Postgres;
use serde_json::Value;

const RUNBOOK: &str = include_str!("../../../docs/runbook.md");
const OUTAGE: &str = include_str!("../../../docs/outage.md");
const COMMAND: &str = include_str!("../../../docs/command.md");

/// Error messages that users search for, and that the runbook must have.
const MESSAGES: [&str; 12] = [
    "too many clients already",
    "remaining connection slots are reserved",
    "MaxClientsInSessionMode",
    "idle in transaction",
    "prepared statement \"s0\" already exists",
    "connection closed",
    "bound to a different event loop",
    "password authentication failed",
    "database \"x\" does not exist",
    "canceling statement due to lock timeout",
    "unexpected EOF on client connection with an open transaction",
    "Timed out fetching a new connection from the connection pool",
];

#[test]
fn runbook_entries_have_cause_command_and_remedy() {
    let entries: Vec<(&str, &str)> = RUNBOOK
        .split("\n### ")
        .skip(1)
        .map(|entry| entry.split_once('\n').expect("a text"))
        .collect();
    for message in MESSAGES {
        let found = entries.iter().any(|(title, _)| title.contains(message));
        assert!(found, "{message}");
    }
    for (title, text) in entries {
        let text = text.split("\n## ").next().unwrap_or_default();
        let cause = text.trim_start().lines().next().unwrap_or_default();
        assert!(
            cause.len() > 20 && !cause.starts_with(['-', '`']),
            "{title}: no cause"
        );
        let look = text.lines().find(|line| line.starts_with("- Look: "));
        assert!(
            look.is_some_and(|look| look.contains("antifreeze ")),
            "{title}: no command"
        );
        let cured = text.contains("\n- Cure: ") || text.contains("\n- For good: ");
        assert!(cured, "{title}: no cure");
        assert!(text.contains("\n```sql\n"), "{title}: no SQL");
    }
}

/// Returns the fenced code blocks of a language.
fn fenced(page: &'static str, language: &str) -> Vec<&'static str> {
    let parts = page.split("```").skip(1).step_by(2);
    parts
        .filter_map(|part| part.strip_prefix(language)?.strip_prefix('\n'))
        .collect()
}

#[tokio::test]
async fn sql_of_the_pages_can_be_prepared() {
    let server = Postgres::shared().await.expect("a server");
    let session = client(&server.url(), "pages").await;
    let texts = [fenced(RUNBOOK, "sql"), fenced(OUTAGE, "sql")].concat();
    assert!(texts.len() > 15, "{}", texts.len());
    for text in texts {
        for statement in text.split_inclusive(";\n") {
            let prepared = session.prepare(statement).await;
            assert!(prepared.is_ok(), "{statement}: {prepared:?}");
        }
    }
}

#[tokio::test]
async fn commands_of_the_pages_are_valid() {
    let shell = |page| fenced(page, "sh").into_iter().flat_map(str::lines);
    let inline = |page: &'static str| page.split('`').filter(|part| !part.contains('\n'));
    let pages = [
        RUNBOOK,
        OUTAGE,
        COMMAND,
        include_str!("../../../docs/migrations.md"),
    ];
    let guide = include_str!("../../../docs/guide.md");
    let all = pages
        .into_iter()
        .flat_map(inline)
        .chain(shell(OUTAGE))
        .chain(shell(guide));
    let all: BTreeSet<&str> = all.filter(|line| line.starts_with("antifreeze ")).collect();
    assert!(all.len() > 12, "{all:?}");
    let directory = Path::new(env!("CARGO_BIN_EXE_antifreeze"))
        .parent()
        .expect("a directory");
    for line in all {
        // Only the name of the command.
        let line = match line.split(' ').count() {
            2 => format!("{line} --help"),
            _ => line.to_owned(),
        };
        // No database is configured, so nothing is done.
        let ran = tokio::process::Command::new("/bin/sh")
            .env_clear()
            .env("PATH", directory)
            .args(["-c", &line])
            .output();
        let ran = ran.await.expect("a shell");
        let err = String::from_utf8_lossy(&ran.stderr);
        assert!(
            !err.contains("Usage:") && !err.contains("not found"),
            "{line}: {err}"
        );
    }
}

/// Collects all keys of a document, nested ones included.
fn keys(document: &Value, all: &mut BTreeSet<String>) {
    match document {
        Value::Object(fields) => {
            for (key, value) in fields {
                all.insert(key.clone());
                keys(value, all);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| keys(value, all)),
        _ => {}
    }
}

#[tokio::test]
async fn json_keys_are_documented() {
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
    let alter = "alter table partners add constraint u unique (name);";
    let files = Directory::with("V1__unique.sql", alter);
    let wrong = Directory::with("wrong.sql", "select name from partner;");
    let migrate = ["migrate", "--directory", files.path()];
    let blocked = ["--lock-timeout", "500ms", "--attempts", "1"];
    for (arguments, code) in [
        (&["doctor", "--idle-in-transaction", "0s"][..], 1),
        (&["sessions", "--application", "shop"], 1),
        (&["plan", "--instances", "1000"], 1),
        (&["check", wrong.path()], 1),
        (&[&migrate[..], &["status"]].concat(), 1),
        (&[&migrate[..], &blocked].concat(), 1),
        (
            &["sessions", "--application", "shop", "--terminate", "--yes"],
            0,
        ),
        (&migrate, 0),
    ] {
        let arguments = [&["--json"], arguments].concat();
        let document = at(&database.url, &arguments).await.exits(code).json();
        let mut found = BTreeSet::new();
        keys(&document, &mut found);
        assert!(found.len() > 1, "{document}");
        for key in found {
            let documented =
                COMMAND.contains(&format!("\"{key}\"")) || COMMAND.contains(&format!("`{key}`"));
            assert!(documented, "{arguments:?}: {key} is not in docs/command.md");
        }
    }
    let nowhere = run(&[], &["--json", "doctor"]).await.exits(2).json();
    assert!(
        nowhere["error"].is_string() || nowhere["checks"].is_array(),
        "{nowhere}"
    );
    let nowhere = run(&[], &["--json", "sessions"]).await.exits(2).json();
    assert!(
        nowhere["error"].is_string() && nowhere["causes"].is_array(),
        "{nowhere}"
    );
}
