//! Tests `.env` files: they are named where they are used, and never shown.

mod cli;

use cli::{Directory, Ran, command, fresh_database};

const NOWHERE: &str = "postgres://app:hunter2@db.invalid/other";

/// Runs the command in a directory.
async fn run_in(directory: &Directory, variables: &[(&str, &str)], arguments: &[&str]) -> Ran {
    let mut command = command(variables, arguments);
    command.current_dir(directory.path());
    let output = command.output().await.expect("it starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    let ran = Ran {
        code: output.status.code().expect("an exit code"),
        out: text(output.stdout),
        err: text(output.stderr),
    };
    assert!(
        !format!("{}{}", ran.out, ran.err).contains("hunter2"),
        "{ran:?}"
    );
    ran
}

#[tokio::test]
async fn files_of_the_directory_are_read_and_named() {
    let database = fresh_database().await;
    // As `vercel env pull` writes it.
    let local = format!(
        "# Created by Vercel CLI\nAPI_KEY=\"hunter2\"\nDATABASE_URL=\"{}\"\nVERCEL=\"1\"\n\
         ANTIFREEZE_COLOUR=\"blue\"\n",
        database.url
    );
    let directory = Directory::with(".env.local", &local);
    directory.write(
        ".env",
        &format!("DATABASE_URL={NOWHERE}\nANTIFREEZE_MAX_CONNECTIONS=1\n"),
    );
    let ran = run_in(&directory, &[], &["doctor"]).await.exits(1);
    ran.assert_out("! configuration: unknown variable ANTIFREEZE_COLOUR");
    ran.assert_out(".env.local has DATABASE_URL; in force: ANTIFREEZE_MAX_CONNECTIONS=1");
    ran.assert_err("variables of .env: ANTIFREEZE_MAX_CONNECTIONS\n");
    ran.assert_err("variables of .env.local: ANTIFREEZE_COLOUR, DATABASE_URL\n");
    let ran = run_in(&directory, &[], &["sessions", "--json"]).await;
    assert!(ran.exits(0).json()["sessions"].is_array());
}

/// The other variables of the environment count too: a mixture could send the password of one
/// server to another.
#[tokio::test]
async fn environment_and_url_precede_files() {
    let database = fresh_database().await;
    let url = database.url.as_str();
    let directory = Directory::with(".env.local", &format!("DATABASE_URL={NOWHERE}\n"));
    for name in ["DATABASE_URL", "POSTGRES_URL"] {
        let ran = run_in(&directory, &[(name, url)], &["sessions"])
            .await
            .exits(0);
        assert_eq!(ran.err, "");
        // Also if the file is named; that is said.
        let named = ["sessions", "--env-file", ".env.local"];
        let ran = run_in(&directory, &[(name, url)], &named).await.exits(0);
        let precedes =
            format!(".env.local is not used: the environment has {name}, which precedes it\n");
        assert_eq!(ran.err, precedes);
    }
    let by_url = ["sessions", "--url", "env:STAGING"];
    let ran = run_in(&directory, &[("STAGING", url)], &by_url)
        .await
        .exits(0);
    assert_eq!(ran.err, "");
    // Without any of them the file is used.
    let ran = run_in(&directory, &[], &["sessions", "--wait", "0s"])
        .await
        .exits(2);
    ran.assert_err("db.invalid");
}

#[tokio::test]
async fn named_files_are_used_alone() {
    let database = fresh_database().await;
    let directory = Directory::with(".env", &format!("DATABASE_URL={NOWHERE}\n"));
    directory.write(
        "staging.env",
        &format!("export DATABASE_URL='{}'\n", database.url),
    );
    let arguments = ["--env-file", "staging.env", "doctor"];
    let ran = run_in(&directory, &[], &arguments).await.exits(0);
    ran.assert_out("staging.env has DATABASE_URL\n");
    // A name in the file can be the URL.
    directory.write("staging.env", &format!("STAGING={}\n", database.url));
    let arguments = [
        "--env-file",
        "staging.env",
        "--url",
        "env:STAGING",
        "sessions",
    ];
    run_in(&directory, &[], &arguments).await.exits(0);
    let arguments = ["--env-file", "missing.env", "sessions"];
    let ran = run_in(&directory, &[], &arguments).await.exits(2);
    ran.assert_err("error: cannot read the variables of missing.env\n");
}

/// A project may have a directory of this name, or a file that is another user's.
#[tokio::test]
async fn unreadable_files_stop_no_command() {
    let database = fresh_database().await;
    let url = format!("DATABASE_URL={}\n", database.url);
    let directory = Directory::with(".env", &url);
    let local = std::path::Path::new(directory.path()).join(".env.local");
    std::fs::write(&local, b"A=\xe4\n").expect("written");
    let ran = run_in(&directory, &[], &["sessions"]).await.exits(0);
    ran.assert_err(".env.local is not used: it cannot be read: ");
    std::fs::remove_file(&local).expect("removed");
    std::fs::create_dir(&local).expect("a directory");
    let ran = run_in(&directory, &[], &["sessions"]).await.exits(0);
    ran.assert_err(".env.local is not used: it cannot be read: ");
    let environment = [("DATABASE_URL", database.url.as_str())];
    for (variables, arguments) in [
        (&environment[..], &["sessions"][..]),
        (&[], &["completions", "bash"]),
    ] {
        let ran = run_in(&directory, variables, arguments).await.exits(0);
        assert_eq!(ran.err, "");
    }
}

/// Neither a second file nor the environment completes what the first file names.
#[tokio::test]
async fn databases_of_two_sources_are_not_mixed() {
    let database = fresh_database().await;
    let parts: tokio_postgres::Config = database.url.parse().expect("a URL");
    let password = String::from_utf8_lossy(parts.get_password().unwrap_or_default());
    let local = format!(
        "PGHOST=127.0.0.1\nPGPORT={}\nPGUSER={}\nPGPASSWORD={password}\nPGDATABASE={}\n\
         PGSSLMODE=disable\n",
        parts.get_ports()[0],
        parts.get_user().expect("a user"),
        parts.get_dbname().expect("a name"),
    );
    let directory = Directory::with(".env.local", &local);
    directory.write(".env", &format!("MIGRATION_DATABASE_URL={NOWHERE}\n"));
    let environment = [
        ("PGDATABASE", "other"),
        ("PGUSER", ""),
        ("PGPASSWORD", "hunter2"),
    ];
    let ran = run_in(&directory, &environment, &["sessions"])
        .await
        .exits(0);
    ran.assert_err(
        "not used of .env, since .env.local names the database: MIGRATION_DATABASE_URL; put them \
         into .env.local, or name one file with --env-file\n\
         not used of the environment, since .env.local names the database: PGDATABASE, \
         PGPASSWORD; put them into .env.local, or name one file with --env-file\n",
    );
}

#[tokio::test]
async fn variables_in_values_are_not_replaced() {
    let directory = Directory::with(
        ".env",
        "DATABASE_URL=postgres://app:${SECRET}@db.invalid/shop\n",
    );
    let ran = run_in(&directory, &[("SECRET", "hunter2")], &["doctor"])
        .await
        .exits(2);
    ran.assert_err("DATABASE_URL of .env is not used: it contains ${..}");
    ran.assert_err("error: no database is configured");
}

#[tokio::test]
async fn migrations_use_the_same_file() {
    let database = fresh_database().await;
    let (_, name) = database.url.rsplit_once('/').expect("a name");
    let local = format!(
        "MIGRATION_DATABASE_URL={}\nDATABASE_URL=postgres://app:hunter2@db.invalid/{name}\n",
        database.url
    );
    let directory = Directory::with(".env.local", &local);
    directory.write(
        "migrations/V1__partners.sql",
        "create table partners (id int primary key);",
    );
    let arguments = ["migrate", "--directory", "migrations"];
    run_in(&directory, &[], &arguments).await.exits(0);
    let there = "select count(*)::text from pg_class where relname = 'partners'";
    let count = database.query(there).await.expect("rows");
    assert_eq!(count[0][0].as_deref(), Some("1"));
}
