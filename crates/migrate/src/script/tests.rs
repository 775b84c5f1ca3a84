use super::*;

fn read(text: &str) -> Script {
    Script::read("V1__x", text).expect(text)
}

fn texts(text: &str) -> Vec<String> {
    let statements = read(text).statements.into_iter();
    statements.map(|statement| statement.text).collect()
}

#[test]
fn byte_order_marks_are_ignored() {
    assert_eq!(texts("\u{feff}select 1"), ["select 1"]);
    assert_eq!(texts("\u{feff}select 'open"), ["select 'open"]);
}

#[test]
fn some_statements_forbid_a_transaction() {
    for (text, alone) in [
        ("create index concurrently i on t (a)", true),
        (
            "CREATE UNIQUE INDEX CONCURRENTLY i ON t (a); set statement_timeout = 0",
            true,
        ),
        ("create index i on t (a)", false),
        ("drop index concurrently i", true),
        ("drop index i", false),
        ("reindex (concurrently) table t", true),
        ("reindex table concurrently t", true),
        ("reindex table t", false),
        ("vacuum t", true),
        ("create database x", true),
        ("drop tablespace x", true),
        ("alter system set work_mem = 1", true),
        ("alter table t detach partition p concurrently", true),
        ("alter table t detach partition p", false),
        ("cluster", true),
        ("cluster t using i", false),
        ("select 'vacuum'; create table vacuum_full (a int)", false),
        ("refresh materialized view concurrently v", false),
        ("-- antifreeze: no-transaction\ncall p(); commit", true),
    ] {
        assert_eq!(!read(text).in_transaction, alone, "{text}");
    }
}

#[test]
fn online_statements_are_recognized() {
    let waits = |text| read(text).statements[0].is_online();
    assert!(waits("create index concurrently i on t (a)"));
    assert!(waits("vacuum t"));
    assert!(!waits("vacuum full t"));
    assert!(!waits("alter table t detach partition p concurrently"));
    assert!(!waits("create index i on t (a)"));
}

#[test]
fn unsupported_statements_are_rejected() {
    for (text, word) in [
        ("begin; select 1; commit;", "line 1): BEGIN"),
        ("select 1;\ncommit;", "line 2): COMMIT"),
        ("start transaction", "START TRANSACTION"),
        ("rollback", "ROLLBACK"),
        ("copy t from stdin;", "COPY FROM STDIN"),
        (
            "select 1;\ncopy t from stdin;\nit's\n\\.\n",
            "line 2): COPY FROM STDIN",
        ),
        (
            "select 1;\n\\i it's.sql",
            "line 2): `\\i` is a psql command",
        ),
        (
            "create table u ();\ncreate index concurrently i on t (a);",
            "line 2): CREATE INDEX CONCURRENTLY cannot",
        ),
        ("-- antifreeze: alow rename\nselect 1", "unknown directive"),
        ("-- antifreeze: allow renam\nselect 1", "unknown lint rule"),
    ] {
        let error = Script::read("V1__x", text).expect_err(text);
        assert_eq!(error.kind(), ErrorKind::Files);
        assert!(error.to_string().contains(word), "{error}");
    }
    assert!(Script::read("V1__x", "savepoint a; rollback to a").is_ok());
    assert!(Script::read("V1__x", "copy t from '/tmp/x'").is_ok());
    // COMMIT inside a function body is allowed.
    assert!(Script::read("V1__x", "do $$ begin commit; end $$").is_ok());
}

#[test]
fn directives_apply_to_one_statement() {
    let script = read(
        "-- antifreeze: allow rename, type-change\nalter table a rename to b;\n\
         select 1; -- antifreeze: allow set-not-null\nselect 2",
    );
    let allowed: Vec<_> = script
        .statements
        .iter()
        .map(|statement| statement.allowed.clone())
        .collect();
    assert_eq!(
        allowed,
        [
            vec![Rule::Rename, Rule::TypeChange],
            vec![Rule::SetNotNull],
            vec![]
        ]
    );
}

#[test]
fn unterminated_texts_are_sent_whole() {
    let script = read("select 'open; commit");
    assert!(script.is_whole && script.in_transaction);
    assert_eq!(script.statements[0].text, "select 'open; commit");
}

proptest::proptest! {
    #[test]
    fn any_text_is_read(text in "\\PC{0,80}") {
        let _ = Script::read("V1__x", &text);
    }
}
