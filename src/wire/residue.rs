//! Detects session state that statements leave behind.
//!
//! There are two sources, and neither costs a round trip: the command tag that the
//! server reports (`SET`, `LISTEN`, `DO`, ...) and, for what hides behind a
//! `SELECT`, the words of the statement (`set_config`, `pg_advisory_lock`, ...).
//! State that a server-side function sets out of sight is beyond both; that is
//! what [`Reset::Always`](crate::config::Reset::Always) is for.

use super::sql::{Token, tokens};

/// The statement by which `Transaction::local` sets a parameter: for the transaction only, so
/// it leaves nothing although it says `set_config`.
pub(crate) const SET_LOCAL: &str = "select pg_catalog.set_config($1, $2, true)";

/// Builds the statement that sets the server's timeouts: for the session, so it is state, and
/// state that is to stay. A parameter that the server does not know is left out; in the
/// start-up packet it would be refused, and with it the session.
pub fn setting<'a>(parameters: impl IntoIterator<Item = (&'a str, i32)>) -> String {
    let row = |(name, value)| format!("('{name}','{value}')");
    let rows: Vec<_> = parameters.into_iter().map(row).collect();
    format!("{SETTING}{}{IF_KNOWN}", rows.join(","))
}

const SETTING: &str = "select pg_catalog.set_config(name, value, false) from (values ";
/// Where the server cannot check its client's connection it refuses that setting, and with it
/// the whole statement.
const IF_KNOWN: &str = ") as told (name, value) \
    where pg_catalog.current_setting(name, true) is not null \
    and (name <> 'client_connection_check_interval' or pg_catalog.version() like '%linux%')";

/// Returns whether `text` is such a statement: its values are so plain that nothing else can
/// hide in them.
pub(super) fn is_setting(text: &[u8]) -> bool {
    let rows = text.strip_prefix(SETTING.as_bytes());
    let rows = rows.and_then(|rows| rows.strip_suffix(IF_KNOWN.as_bytes()));
    let plain =
        |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_(),'".contains(byte);
    rows.is_some_and(|rows| rows.iter().all(plain))
}

/// Session state that remains when the holder is done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Residue {
    /// Parameters, locks, temporary tables, ...: a reset removes them.
    pub(crate) state: bool,
    /// The driver's view of the session is wrong: its prepared statements are gone, others
    /// are there that no reset removes, or one answer more comes than it expects. The
    /// connection has to be closed.
    pub(crate) driver: bool,
}

impl Residue {
    /// Notes what a command tag (manual, `CommandComplete`) says about the session.
    pub(super) fn note_tag(&mut self, tag: &[u8], sets_are_local: bool) {
        match tag {
            b"SET" => self.state |= !sets_are_local,
            b"LISTEN" | b"DO" | b"CALL" | b"RESET" => self.state = true,
            b"DISCARD ALL" | b"DEALLOCATE ALL" | b"PREPARE" => self.driver = true,
            _ => {}
        }
    }
}

/// Properties of a statement, read from its text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Traits {
    /// It leaves session state without a tag that would say so.
    pub(super) leaves_state: bool,
    /// Each `SET` in it ends with the transaction (`SET LOCAL`, `SET TRANSACTION`).
    pub(super) sets_are_local: bool,
    /// There is a COPY in it.
    pub(super) copies: bool,
    /// It may begin a transaction (`BEGIN`, `COMMIT AND CHAIN`).
    pub(super) begins: bool,
    /// It may change what the text of another statement means: the schema, the role, the search
    /// path.
    pub(super) alters: bool,
    /// The same by parameters whose changes the server reports.
    pub(super) reports: bool,
    /// It may deallocate all prepared statements.
    pub(super) deallocates: bool,
}

/// Statements that change nothing of what the texts of others mean.
const UNALTERING: [&str; 33] = [
    "select",
    "insert",
    "update",
    "delete",
    "merge",
    "with",
    "values",
    "table",
    "begin",
    "start",
    "commit",
    "end",
    "rollback",
    "abort",
    "savepoint",
    "release",
    "declare",
    "fetch",
    "move",
    "close",
    "show",
    "explain",
    "listen",
    "notify",
    "unlisten",
    "copy",
    "lock",
    "truncate",
    "vacuum",
    "analyze",
    "checkpoint",
    "prepare",
    "deallocate",
];

/// Parameters that change nothing of it, either.
const UNALTERING_PARAMETERS: [&str; 16] = [
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "transaction_timeout",
    "client_connection_check_interval",
    "application_name",
    "client_min_messages",
    "bytea_output",
    "extra_float_digits",
    "jit",
    "work_mem",
    "synchronous_commit",
    "transaction",
    "characteristics",
    "constraints",
];

/// Parameters whose changes the server reports (manual, `ParameterStatus`), as `SET` names them.
const REPORTED_PARAMETERS: [&str; 6] = [
    "timezone",
    "time",
    "datestyle",
    "intervalstyle",
    "client_encoding",
    "names",
];

impl Traits {
    /// `conforming` is what the server last reported as `standard_conforming_strings`.
    pub(super) fn of(text: &[u8], conforming: Option<bool>) -> Traits {
        if text == SET_LOCAL.as_bytes() || is_setting(text) {
            return Traits {
                alters: !is_setting(text),
                ..Traits::default()
            };
        }
        let (mut alters, mut reports, mut deallocates) = (false, false, false);
        // The parameter of a SET comes next.
        let mut names_parameter = false;
        let (mut leaves_state, mut copies, mut begins) = (false, false, false);
        let (mut local_sets, mut session_sets) = (0, 0);
        let mut declares = false;
        // The word before this one; empty at the start of a statement.
        let mut before: &[u8] = b"";
        for token in tokens(text, conforming) {
            let word = match token {
                Token::Word(word) => word,
                Token::Semicolon => {
                    before = b"";
                    continue;
                }
                // It may be any of these, a SET among them.
                Token::Unreadable => {
                    (leaves_state, begins, deallocates) = (true, true, true);
                    session_sets += 1;
                    before = b"-";
                    continue;
                }
            };
            // How literals are read from then on is reported, but what is sent before that
            // was read otherwise.
            leaves_state |= is(word, &["set_config", "standard_conforming_strings"])
                || contains(word, b"advisory_lock")
                || starts(word, b"pg_temp")
                || (is(word, &["temp", "temporary"])
                    && is(before, &["create", "replace", "into", "local", "global"]))
                || (declares && is(word, &["hold"]));
            if names_parameter && !is(word, &["session", "local"]) {
                names_parameter = false;
                let behind = word.as_ptr() as usize - text.as_ptr() as usize + word.len();
                let custom = text.get(behind) == Some(&b'.');
                reports |= is(word, &REPORTED_PARAMETERS);
                alters |=
                    !custom && !is(word, &REPORTED_PARAMETERS) && !is(word, &UNALTERING_PARAMETERS);
            }
            if before.is_empty() {
                names_parameter = is(word, &["set"]);
                alters |= !names_parameter && !is(word, &UNALTERING);
            }
            deallocates |= is(word, &["all"]) && is(before, &["deallocate", "prepare", "discard"]);
            // SELECT .. INTO creates a table.
            alters |= is(word, &["into"]) && !is(before, &["insert", "merge"]);
            declares |= is(word, &["declare"]);
            copies |= before.is_empty() && is(word, &["copy"]);
            begins |= before.is_empty() && is(word, &["begin", "start"]) || is(word, &["chain"]);
            if is(before, &["set"]) {
                if is(word, &["local", "transaction", "constraints"]) {
                    local_sets += 1;
                } else {
                    session_sets += 1;
                }
            }
            // `UPDATE t SET local = ..` is no SET of its own.
            before = if before.is_empty() || !is(word, &["set"]) {
                word
            } else {
                b"-"
            };
        }
        Traits {
            leaves_state,
            sets_are_local: local_sets > 0 && session_sets == 0,
            copies,
            begins,
            alters: alters || leaves_state,
            reports,
            deallocates,
        }
    }
}

/// Returns whether `text` is COMMIT or ROLLBACK and nothing else, as drivers send them.
pub(super) fn is_end(text: &[u8]) -> bool {
    is(text.trim_ascii(), &["commit", "rollback"])
}

/// Returns whether there is no statement in `text`, but comments at most.
pub(super) fn says_nothing(text: &[u8]) -> bool {
    tokens(text, Some(true)).all(|token| matches!(token, Token::Semicolon))
}

/// Returns whether a statement of `text` begins or ends a transaction.
pub(crate) fn controls_transaction(text: &[u8]) -> bool {
    // The statement so far: its first words.
    let mut words: Vec<&[u8]> = Vec::new();
    let controls = |words: &[&[u8]]| match words {
        [first, ..] if is(first, &["begin", "start", "commit", "end", "abort"]) => true,
        [first, rest @ ..] if is(first, &["rollback"]) => {
            !rest.iter().take(2).any(|word| is(word, &["to"]))
        }
        [first, second, ..] => is(first, &["prepare"]) && is(second, &["transaction"]),
        _ => false,
    };
    for token in tokens(text, Some(true)) {
        match token {
            Token::Word(word) if words.len() < 3 => words.push(word),
            Token::Semicolon if controls(&words) => return true,
            Token::Semicolon => words.clear(),
            // What it hides may be the end of the transaction.
            Token::Unreadable => return true,
            Token::Word(_) => {}
        }
    }
    controls(&words)
}

fn is(word: &[u8], any: &[&str]) -> bool {
    any.iter()
        .any(|candidate| word.eq_ignore_ascii_case(candidate.as_bytes()))
}

fn starts(word: &[u8], prefix: &[u8]) -> bool {
    word.len() >= prefix.len() && word[..prefix.len()].eq_ignore_ascii_case(prefix)
}

fn contains(word: &[u8], part: &[u8]) -> bool {
    word.windows(part.len())
        .any(|window| window.eq_ignore_ascii_case(part))
}

#[cfg(test)]
mod tests {
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
        assert!(!local.sets_are_local);
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
            "SELECT pg_catalog.SET_CONFIG('a.b', 'c', true)",
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
            ("set /* not */ search_path = x", false),
            ("select 1", false),
        ] {
            assert_eq!(traits(text).sets_are_local, local, "{text}");
        }
    }

    #[test]
    fn command_tags_tell_session_state() {
        let left = |tag: &str, local| {
            let mut residue = Residue::default();
            residue.note_tag(tag.as_bytes(), local);
            residue
        };
        let state = |tag, local| left(tag, local).state;
        assert!(state("SET", false));
        assert!(!state("SET", true));
        assert!(state("LISTEN", false) && state("DO", false) && state("CALL", false));
        assert!(!state("UPDATE 1", false) && !state("SELECT 1", false));
        assert!(left("DISCARD ALL", false).driver && left("PREPARE", false).driver);
    }
}
