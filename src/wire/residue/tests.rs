use super::*;

fn traits(text: &str) -> Traits {
    Traits::of(text.as_bytes(), Some(true))
}

#[test]
fn unreadable_sql_counts_as_session_state() {
    let hidden = r"select '\'', pg_advisory_lock(1) --'";
    for conforming in [None, Some(false)] {
        let traits = Traits::of(hidden.as_bytes(), conforming);
        assert!(traits.leaves_state, "{conforming:?}");
    }
    for text in [
        r#"select U&"pg_adv\0069sory_lock"(1)"#,
        r#"select u&"pg_adv!0069sory_lock" uescape '!' (1)"#,
        r"select E'a''b\'', pg_advisory_lock(1) --'",
        "select E'a'\n'b\\'', pg_advisory_lock(1) --'",
        "select 1 -- why\r, pg_advisory_lock(1)",
        "set local standard_conforming_strings = off",
    ] {
        assert!(traits(text).leaves_state, "{text}");
    }
    let local = Traits::of(br"set local a.b = '\''; set c.d = 'e' --'", None);
    assert!(!local.sets_are_local());
    // A backslash that the server takes for itself hides nothing.
    assert!(!traits(r"select '\', 'pg_advisory_lock'").leaves_state);
}

#[test]
fn texts_that_alter_others_are_told() {
    for (text, alters) in [
        ("select 1; insert into t values (1)", false),
        ("update t set a = 1", false),
        ("set local app.user = 'a'", false),
        ("set session statement_timeout = 1", false),
        ("set time zone 'UTC'", false),
        ("begin; rollback to savepoint s", false),
        ("select 1; alter table t add b int", true),
        ("select 1 into t", true),
        ("set search_path = a", true),
        ("set role a", true),
        ("set session authorization a", true),
        ("select set_config('search_path', 'a', true)", true),
        ("do $$ begin end $$", true),
        (SET_LOCAL, true),
    ] {
        assert_eq!(traits(text).alters, alters, "{text}");
    }
    assert!(traits("set local timezone = 'UTC'").reports);
    assert!(traits("discard all").deallocates && traits("deallocate prepare all").deallocates);
    assert!(!traits("deallocate s").deallocates && !traits("discard plans").deallocates);
}

#[test]
fn state_behind_a_select_is_seen() {
    for text in [
        "select set_config('a.b', 'c', false)",
        "select set_config('a.b', 'c', $1)",
        "select set_config('search_path', 'c', true)",
        "select set_config($1, 'c', true)",
        "select set_config('a.b', 'c''', false), ('', true)",
        r"select set_config('a.b', '\', false), (''', true)",
        "select set_config('a.b', (select true), false)",
        "select set_config('a.b', $1, true), set_config('c.d', $2, false)",
        "select pg_advisory_lock(1)",
        "select pg_try_advisory_lock_shared(1, 2)",
        "select \"pg_advisory_lock\"(1)",
        "create temp table t ()",
        "create temporary view v as select 1",
        "create or replace temp view v as select 1",
        "create local temp table t ()",
        "create /* why */ temp table t ()",
        "select 1 into temp t",
        "create table pg_temp.t ()",
        "create function pg_temp.f() returns int language sql as 'select 1'",
        "declare c cursor with hold for select 1",
        "select 1; select pg_advisory_lock(2)",
    ] {
        assert!(traits(text).leaves_state, "{text}");
    }
}

#[test]
fn our_own_settings_are_not_session_state() {
    let ours = setting([("statement_timeout", 30_000), ("transaction_timeout", 1)]);
    assert!(!traits(&ours).leaves_state, "{ours}");
    for text in [
        format!("{ours}; select set_config('a.b', 'c', false)"),
        format!("select set_config('a.b', 'c', false); {ours}"),
        ours.replace("'1'", "set_config ('a', 'b', false)"),
        ours.replace("30000", "30000; select pg_advisory_lock(1)"),
    ] {
        assert!(traits(&text).leaves_state, "{text}");
    }
}

#[test]
fn harmless_sql_leaves_no_state() {
    for text in [
        SET_LOCAL,
        "select set_config('app.tenant', $1, true)",
        "SELECT pg_catalog.SET_CONFIG ( 'a.b' , 'c d'::text , TRUE )",
        "select set_config('a.b', $1::text, true), set_config('c.d', $2, true)",
        "select 1",
        "select temp from readings",
        "insert into readings (temp) values ($1)",
        "select 'create temp table t ()'",
        "select 1 -- set_config",
        "select pg_advisory_xact_lock(1)",
        "select pg_advisory_unlock(1)",
        "declare c cursor for select 1",
        "update t set hold = true",
    ] {
        assert!(!traits(text).leaves_state, "{text}");
    }
}

#[test]
fn only_set_local_ends_with_the_transaction() {
    for (text, local) in [
        ("set local role app", true),
        ("SET LOCAL a.b = 'c'", true),
        ("set transaction read only", true),
        ("set constraints all deferred", true),
        ("begin; set local a.b = 'c'; select 1", true),
        ("/* why */ set local a.b = 'c'", true),
        ("set a.b = 'c'", false),
        ("set session a.b = 'c'", false),
        ("set local a.b = 'c'; set d.e = 'f'", false),
        ("update t set local = 1", false),
        // Parameters whose names begin with these words.
        ("set local.a = 'c'", false),
        ("set \"local\".a = 'c'", false),
        ("set local . a = 'c'", false),
        ("set local/**/.a = 'c'", false),
        ("set transaction.a = 'c'", false),
        ("set constraints.a to 'c'", false),
        ("set local \"local\".a = 'c'", true),
        ("set local\n_a.b = 'c'", true),
        ("set /* not */ search_path = x", false),
        ("select 1", false),
    ] {
        assert_eq!(traits(text).sets_are_local(), local, "{text}");
    }
    // Under one Sync.
    for (first, second, local) in [
        ("set a.b = 'c'", "set local d.e = 'f'", false),
        ("set local d.e = 'f'", "set a.b = 'c'", false),
        ("select 1", "set local d.e = 'f'", true),
    ] {
        let mut both = traits(first);
        both.merge(traits(second));
        assert_eq!(both.sets_are_local(), local, "{first}; {second}");
    }
}

#[test]
fn command_tags_tell_session_state() {
    let left = |tag: &str, local| Residue::of_tag(tag.as_bytes(), local);
    let state = |tag, local| left(tag, local) == Residue::State;
    assert!(state("SET", false));
    assert!(!state("SET", true));
    assert!(state("LISTEN", false) && state("DO", false) && state("CALL", false));
    assert!(!state("UPDATE 1", false) && !state("SELECT 1", false));
    for tag in ["DISCARD ALL", "PREPARE"] {
        assert_eq!(left(tag, false), Residue::Client);
    }
}
