//! Tests the history, and its compatibility with refinery.

use antifreeze_migrate::{Error, ErrorKind, State};

use crate::common::{Lab, Log, lab, migrations, over};

const ONE: (&str, &str) = ("V1__one", "create table one (a int)");
const TWO: (&str, &str) = (
    "V2__two",
    "create table two (a int); insert into two values (1)",
);
const THREE: (&str, &str) = ("V3__three", "create table three (a int)");

#[tokio::test]
async fn pending_migrations_run_once_and_in_order() {
    let lab = lab().await;
    let report = lab.runner(&[TWO, ONE]).run().await.expect("fine");
    let applied: Vec<_> = report
        .applied
        .iter()
        .map(|one| one.migration.as_str())
        .collect();
    assert_eq!(applied, ["V1__one", "V2__two"]);
    assert!(report.pending.is_empty() && !report.lock_lost);
    let again = lab.runner(&[ONE, TWO]).run().await.expect("nothing to do");
    assert!(again.applied.is_empty());
    let later = lab.runner(&[ONE, TWO, THREE]).run().await.expect("fine");
    assert_eq!(later.applied.len(), 1);
    assert_eq!(lab.applied().await, "1 one, 2 two, 3 three");
    assert_eq!(lab.value("select count(*) from two").await, "1");
    lab.assert_gone().await;
}

#[tokio::test]
async fn history_is_compatible_with_refinery() {
    let lab = lab().await;
    let _ = lab.runner(&[ONE]).run().await.expect("fine");
    let theirs = refinery_core::Migration::unapplied(ONE.0, ONE.1).expect("a name");
    let row = "select version || ' ' || name || ' ' || checksum from refinery_schema_history";
    assert_eq!(lab.value(row).await, format!("1 one {}", theirs.checksum()));
    let on = lab
        .value("select applied_on from refinery_schema_history")
        .await;
    let parsed = lab
        .value(&format!("select now() - '{on}'::timestamptz < '5 min'"))
        .await;
    assert_eq!(parsed, "t", "{on}");
    let columns = "select string_agg(column_name || ' ' || udt_name, ', ' order by ordinal_position) \
                   from information_schema.columns where table_name = 'refinery_schema_history'";
    let expected = "version int4, name varchar, applied_on varchar, checksum varchar";
    assert_eq!(lab.value(columns).await, expected);
}

#[tokio::test]
async fn failures_roll_back_and_name_the_line() {
    let lab = lab().await;
    let wrong = (
        "V2__two",
        "create table two (a int);\n\ninsert into two values ('secret')",
    );
    let error = lab
        .runner(&[ONE, wrong, THREE])
        .run()
        .await
        .expect_err("no number");
    assert_eq!(error.kind(), ErrorKind::Statement);
    let line = error.to_string();
    assert!(
        line.starts_with("V2__two (line 3) failed (SQLSTATE 22P02)"),
        "{line}"
    );
    assert!(!line.contains("secret") && !line.contains('\n'), "{line}");
    assert!(!format!("{error:?}").contains("secret"), "{error:?}");
    let source = std::error::Error::source(&error).expect("the server's words");
    assert!(format!("{source:?}").contains("secret"));
    assert_eq!(error.report().applied.len(), 1);
    assert_eq!(error.report().pending, ["V2__two", "V3__three"]);
    assert_eq!(lab.value("select to_regclass('two') is null").await, "t");
    assert_eq!(lab.applied().await, "1 one");
    lab.assert_gone().await;
    let _ = lab
        .runner(&[ONE, TWO, THREE])
        .run()
        .await
        .expect("corrected");
}

/// A text that the server can parse (a backslash escapes there) and the splitter cannot.
const UNREAD: &str = r"select 'it\'s'";

async fn lab_with_escapes() -> Lab {
    let lab = lab().await;
    let name = lab.value("select quote_ident(current_database())").await;
    let escapes = format!("alter database {name} set standard_conforming_strings = off");
    lab.server.execute(&escapes).await.expect("a setting");
    lab
}

#[tokio::test]
async fn unterminated_texts_run_as_a_whole() {
    let lab = lab_with_escapes().await;
    let whole = format!("create table whole (a int); {UNREAD}; insert into whole values (1)");
    let report = lab.runner(&[("V1__whole", &whole)]).run().await;
    assert_eq!(report.expect("fine").findings.len(), 1);
    assert_eq!(lab.value("select count(*) from whole").await, "1");
    let wrong = format!("create table never (a int); {UNREAD}; select 1/0");
    let files = [("V1__whole", whole.as_str()), ("V2__wrong", &wrong)];
    let error = lab.runner(&files).run().await.expect_err("by zero");
    let line = error.to_string();
    assert!(
        line.starts_with("V2__wrong failed (SQLSTATE 22012)"),
        "{line}"
    );
    assert_eq!(lab.value("select to_regclass('never') is null").await, "t");
}

#[tokio::test]
async fn hidden_commits_are_detected() {
    let lab = lab_with_escapes().await;
    let commits = format!("{UNREAD}; commit; create table loose (a int)");
    let files = [("V1__commits", commits.as_str())];
    let error = lab.runner(&files).run().await.expect_err("noticed");
    assert_eq!(error.kind(), ErrorKind::Files, "{error}");
    assert!(error.to_string().contains("`resolve` version 1"), "{error}");
    assert_eq!(lab.applied().await, "");
}

#[tokio::test]
async fn settings_end_with_the_migration() {
    let lab = lab().await;
    lab.server
        .execute("create role another")
        .await
        .expect("a role");
    lab.server
        .execute("create schema away; grant all on schema away to another")
        .await
        .expect("a schema");
    let sets = (
        "V1__sets",
        "set role another; set search_path = away; set lock_timeout = '9s'; create table moved (a int); \
         select set_config('search_path', '', false)",
    );
    let next = (
        "V2__next",
        "create table here as select current_user::text as who, \
         current_setting('lock_timeout') as lock, current_setting('statement_timeout') as statement",
    );
    let _ = lab.runner(&[sets, next]).run().await.expect("fine");
    assert_eq!(
        lab.value("select to_regclass('away.moved') is not null")
            .await,
        "t"
    );
    let here = "select concat_ws(' ', who, lock, statement) from public.here";
    assert_eq!(lab.value(here).await, "postgres 600ms 30s");
    assert_eq!(lab.applied().await, "1 sets, 2 next");
    lab.server
        .execute("drop schema away cascade; drop role another")
        .await
        .expect("cleaned up");
}

#[tokio::test]
async fn dry_run_and_status_change_nothing() {
    let lab = lab().await;
    let risky = (
        "V2__two",
        "alter table partners alter column name set not null",
    );
    let report = lab.runner(&[ONE, risky]).dry_run().await.expect("fine");
    assert_eq!(report.pending, ["V1__one", "V2__two"]);
    assert_eq!(report.findings.len(), 1);
    let status = lab.runner(&[ONE, risky]).status().await.expect("fine");
    assert!(
        status.iter().all(|one| one.state == State::Pending),
        "{status:?}"
    );
    let tables =
        "select count(*) from pg_class where relname in ('one', 'refinery_schema_history')";
    assert_eq!(lab.value(tables).await, "0");
    lab.assert_gone().await;
}

#[tokio::test]
async fn findings_can_be_refused() {
    let lab = lab().await;
    let risky = (
        "V1__risky",
        "alter table partners rename column name to title",
    );
    let error = lab
        .runner(&[risky])
        .refuse_findings()
        .run()
        .await
        .expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Findings);
    assert_eq!(
        lab.value("select to_regclass('refinery_schema_history') is null")
            .await,
        "t"
    );
    let allowed = format!("-- antifreeze: allow rename\n{}", risky.1);
    let runner = lab.runner(&[("V1__risky", &allowed)]).refuse_findings();
    assert_eq!(runner.run().await.expect("allowed").applied.len(), 1);
}

fn refused(error: &Error, words: &[&str]) {
    assert_eq!(error.kind(), ErrorKind::History, "{error}");
    let line = error.to_string();
    assert!(words.iter().all(|word| line.contains(word)), "{line}");
    assert!(!line.contains('\n'), "{line}");
}

#[tokio::test]
async fn contradicting_histories_are_rejected() {
    let lab = lab().await;
    let _ = lab.runner(&[ONE, THREE]).run().await.expect("fine");
    let changed = ("V1__one", "create table one (a bigint)");
    let error = lab
        .runner(&[changed, THREE])
        .run()
        .await
        .expect_err("changed");
    refused(&error, &["has been changed since", "resolve"]);
    let error = lab.runner(&[THREE]).run().await.expect_err("missing");
    refused(&error, &["V1__one was applied", "missing"]);
    let error = lab
        .runner(&[ONE, TWO, THREE])
        .run()
        .await
        .expect_err("out of order");
    refused(
        &error,
        &["V2__two was not applied", "later migrations were"],
    );
    let status = lab
        .runner(&[changed, TWO])
        .status()
        .await
        .expect("told anyway");
    let states: Vec<_> = status.iter().map(|one| one.state).collect();
    assert_eq!(states, [State::Changed, State::Skipped, State::Missing]);
    assert_eq!(lab.applied().await, "1 one, 3 three");

    // A U migration may be applied after later versions.
    let _ = lab
        .runner(&[ONE, ("U2__two", TWO.1), THREE])
        .run()
        .await
        .expect("unversioned");
    assert_eq!(lab.applied().await, "1 one, 2 two, 3 three");
}

#[tokio::test]
async fn baseline_requires_an_empty_history() {
    let lab = lab().await;
    lab.server
        .execute("create table one (a int); create table two (a int)")
        .await
        .expect("a past");
    let report = lab
        .runner(&[ONE, TWO, THREE])
        .baseline(2)
        .await
        .expect("fine");
    assert_eq!(report.recorded, ["V1__one", "V2__two"]);
    assert_eq!(
        lab.value("select count(*) from two").await,
        "0",
        "nothing was run"
    );
    let report = lab
        .runner(&[ONE, TWO, THREE])
        .run()
        .await
        .expect("the rest");
    assert_eq!(report.applied.len(), 1);
    let error = lab
        .runner(&[ONE, TWO, THREE])
        .baseline(2)
        .await
        .expect_err("a history");
    refused(&error, &["already has a history, up to V3__three"]);
    let error = lab.runner(&[ONE]).baseline(7).await.expect_err("no such");
    assert_eq!(error.kind(), ErrorKind::Files);
}

#[tokio::test]
async fn resolve_records_manual_migrations() {
    let lab = lab().await;
    lab.server
        .execute("create table one (a int)")
        .await
        .expect("applied");
    let error = lab
        .runner(&[ONE, TWO])
        .resolve(2)
        .await
        .expect_err("not yet");
    refused(&error, &["V1__one is also pending"]);
    let report = lab.runner(&[ONE, TWO]).resolve(1).await.expect("fine");
    assert_eq!(report.recorded, ["V1__one"]);
    let _ = lab.runner(&[ONE, TWO]).run().await.expect("the rest");
    let error = lab
        .runner(&[ONE, TWO])
        .resolve(1)
        .await
        .expect_err("already");
    refused(&error, &["V1__one is already recorded"]);
    let changed = ("V1__one", "create table one (a int) -- as it was meant");
    let _ = lab
        .runner(&[changed, TWO])
        .resolve(1)
        .await
        .expect("its text is taken");
    let _ = lab.runner(&[changed, TWO]).run().await.expect("in line");
    assert_eq!(lab.applied().await, "1 one, 2 two");
}

#[tokio::test]
async fn directories_are_read() {
    let lab = lab().await;
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("V1__one.sql"), ONE.1).expect("a file");
    let read = antifreeze_migrate::Migrations::from_dir(directory.path()).expect("read");
    let future = read.runner(&lab.database).run();
    // The future is Send.
    let report = tokio::spawn(future).await.expect("no panic").expect("fine");
    assert_eq!(report.applied.len(), 1);
    let json = serde_json::to_value(&report).expect("JSON");
    assert_eq!(json["applied"][0]["migration"], "V1__one");
    std::fs::write(directory.path().join("V01__again.sql"), ONE.1).expect("a file");
    let error = antifreeze_migrate::Migrations::from_dir(directory.path()).expect_err("twice");
    assert!(error.to_string().contains("the same version"), "{error}");
    let error = antifreeze_migrate::Migrations::from_dir("no/such").expect_err("not there");
    assert_eq!(error.kind(), ErrorKind::Files);
}

#[tokio::test]
async fn misnamed_files_are_errors() {
    let directory = tempfile::tempdir().expect("a directory");
    let none = antifreeze_migrate::Migrations::from_dir(directory.path());
    let error = none.expect_err("there is none");
    assert!(
        error.to_string().contains("contains no migrations"),
        "{error}"
    );
    for name in [
        "V3__add-c",
        "V7__g.up",
        "V5__e.SQL",
        "V1.5__a",
        "|1__a",
        "0001_a",
    ] {
        let error = antifreeze_migrate::Migrations::embedded([ONE, (name, "select 1")]);
        let error = error.expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Files, "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
    let none = antifreeze_migrate::Migrations::embedded([]);
    assert_eq!(none.expect_err("there is none").kind(), ErrorKind::Files);
}

/// Line endings differ between systems, and some editors add a byte order mark.
#[tokio::test]
async fn line_endings_are_not_changes() {
    let lab = lab().await;
    let [lf, crlf] = ["\n", "\r\n"].map(|end| format!("create table one (a int);{end}-- it{end}"));
    let marked = format!("\u{feff}{lf}");
    let _ = lab
        .runner(&[("V1__one", &marked)])
        .run()
        .await
        .expect("the mark is ignored");
    for text in [&lf, &crlf, &marked] {
        let (runner, log) = Log::of(lab.runner(&[("V1__one", text)]));
        let _ = runner.run().await.expect("the same");
        let reported = log.text().contains("other line endings");
        assert_eq!(reported, *text != marked, "{}", log.text());
        let state = lab.runner(&[("V1__one", text)]).status().await;
        assert_eq!(state.expect("a state")[0].state, State::Applied);
        let resolved = lab.runner(&[("V1__one", text)]).resolve(1).await;
        refused(&resolved.expect_err("nothing to do"), &["already recorded"]);
    }
    let other = lf.replace("it", "is");
    let changed = lab.runner(&[("V1__one", &other)]).run().await;
    refused(
        &changed.expect_err("another text"),
        &["has been changed since"],
    );
}

#[tokio::test]
async fn files_may_set_the_isolation_level() {
    let lab = lab().await;
    let sql = "-- as under refinery\nset transaction isolation level serializable;\n\
               create table kept as select current_setting('transaction_isolation') as level";
    let _ = lab.runner(&[("V1__kept", sql)]).run().await.expect("first");
    assert_eq!(lab.value("select level from kept").await, "serializable");
}

#[tokio::test]
async fn commits_are_rejected_with_a_remedy() {
    let lab = lab().await;
    let procedure = "create procedure p() language plpgsql as $$ begin commit; end $$";
    lab.server.execute(procedure).await.expect("a procedure");
    for sql in [
        "call p()",
        "do $$ begin commit; end $$",
        "do $$ begin rollback; end $$",
        "do $$ begin execute 'vacuum'; end $$",
        "select 1; set transaction isolation level serializable",
    ] {
        let error = lab.runner(&[("V1__p", sql)]).run().await.expect_err(sql);
        let message = error.to_string();
        assert!(
            message.contains("antifreeze: no-transaction"),
            "{sql}: {message}"
        );
    }
    let sql = "-- antifreeze: no-transaction\ncall p(); do $$ begin commit; end $$";
    let _ = lab.runner(&[("V1__p", sql)]).run().await.expect("alone");
}

#[tokio::test]
async fn each_schema_has_its_own_history() {
    let lab = lab().await;
    lab.server
        .execute("create schema \"My Shop\"")
        .await
        .expect("a schema");
    let database = over(&format!("{}?schema=My%20Shop", lab.server.url));
    let _ = migrations(&[ONE])
        .runner(&database)
        .run()
        .await
        .expect("fine");
    let count = "select count(*) from \"My Shop\".refinery_schema_history";
    assert_eq!(lab.value(count).await, "1");
    let missing = over(&format!("{}?schema=nowhere", lab.server.url));
    let error = migrations(&[ONE])
        .runner(&missing)
        .run()
        .await
        .expect_err("no place");
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
}
