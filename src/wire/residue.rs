//! Detects session state that statements leave behind.
//!
//! There are two sources, and neither costs a round trip: the command tag that the
//! server reports (`SET`, `LISTEN`, `DO`, ...) and, for what hides behind a
//! `SELECT`, the words of the statement (`set_config`, `pg_advisory_lock`, ...).
//! State that a server-side function sets out of sight is beyond both; that is
//! what [`Reset::Always`](crate::config::Reset::Always) is for.

use super::sql::{Token, tokens};

/// The statement by which `Transaction::local` sets a parameter: for the transaction only, so
/// no session state remains although it calls `set_config`.
pub(crate) const SET_LOCAL: &str = "select pg_catalog.set_config($1, $2, true)";

/// Builds the statement that sets the server's timeouts: for the session, so it is state, and
/// state that is to stay. A parameter that the server does not know is left out; in the
/// startup packet it would be refused, and with it the session.
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Residue {
    #[default]
    None,
    /// Parameters, locks, temporary tables, ...: a reset removes them.
    State,
    /// The client's view of the session is wrong: its prepared statements are gone, others
    /// are there that no reset removes, or one answer more comes than it expects. The
    /// connection has to be closed, or gets a new client.
    Client,
}

impl Residue {
    /// Returns what a command tag (manual, `CommandComplete`) says about the session.
    pub(super) fn of_tag(tag: &[u8], sets_are_local: bool) -> Self {
        match tag {
            b"SET" if sets_are_local => Residue::None,
            b"SET" | b"LISTEN" | b"DO" | b"CALL" | b"RESET" => Residue::State,
            b"DISCARD ALL" | b"DEALLOCATE ALL" | b"PREPARE" => Residue::Client,
            _ => Residue::None,
        }
    }

    /// Adds what another statement leaves.
    pub(super) fn add(&mut self, other: Residue) {
        *self = other.max(*self);
    }
}

/// Properties of a statement, read from its text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Traits {
    /// Session state remains of which the command tag says nothing.
    pub(super) leaves_state: bool,
    /// There is a `SET` in it that ends with the transaction (`SET LOCAL`, `SET TRANSACTION`).
    pub(super) sets_locally: bool,
    /// There is a `SET` in it that lasts.
    pub(super) sets_for_session: bool,
    /// There is a COPY in it.
    pub(super) copies: bool,
    /// It may begin a transaction (`BEGIN`, `COMMIT AND CHAIN`).
    pub(super) begins: bool,
    /// It may begin or end a transaction.
    pub(super) controls: bool,
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

/// With what statements begin that may begin or end a transaction.
const CONTROLLING: [&str; 7] = [
    "begin", "start", "commit", "end", "abort", "rollback", "prepare",
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
    /// Returns what remains of which the command tag says nothing.
    pub(super) fn residue(&self) -> Residue {
        if self.leaves_state {
            Residue::State
        } else {
            Residue::None
        }
    }

    /// Returns whether each `SET` ends with the transaction.
    pub(super) fn sets_are_local(&self) -> bool {
        self.sets_locally && !self.sets_for_session
    }

    /// Adds the traits of another statement, which the same ReadyForQuery answers.
    pub(super) fn merge(&mut self, other: Traits) {
        self.leaves_state |= other.leaves_state;
        self.sets_locally |= other.sets_locally;
        self.sets_for_session |= other.sets_for_session;
        self.copies |= other.copies;
        self.begins |= other.begins;
        self.controls |= other.controls;
        self.alters |= other.alters;
        self.reports |= other.reports;
        self.deallocates |= other.deallocates;
    }

    /// Reads the text of statements. `conforming` is what the server last reported as
    /// `standard_conforming_strings`.
    pub(super) fn of(text: &[u8], conforming: Option<bool>) -> Traits {
        if text == SET_LOCAL.as_bytes() || is_setting(text) {
            return Traits {
                alters: !is_setting(text),
                ..Traits::default()
            };
        }
        let mut traits = Traits::default();
        // The parameter of a SET comes next.
        let mut names_parameter = false;
        let (mut declares, mut may_control, mut updates) = (false, false, false);
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
                    traits.leaves_state = true;
                    traits.begins = true;
                    traits.controls = true;
                    traits.deallocates = true;
                    traits.sets_for_session = true;
                    before = b"-";
                    continue;
                }
            };
            // How literals are read from then on is reported, but what is sent before that
            // was read otherwise.
            traits.leaves_state |= is(word, &["standard_conforming_strings"])
                || (is(word, &["set_config"]) && !is_local(behind(text, word)))
                // To update the view is to set the parameter.
                || (updates && is(word, &["pg_settings"]))
                || contains(word, b"advisory_lock")
                || starts(word, b"pg_temp")
                || (is(word, &["temp", "temporary"])
                    && is(before, &["create", "replace", "into", "local", "global"]))
                || (declares && is(word, &["hold"]));
            if names_parameter && !is(word, &["session", "local"]) {
                names_parameter = false;
                let custom = behind(text, word).starts_with(b".");
                let reported = is(word, &REPORTED_PARAMETERS);
                traits.reports |= reported;
                traits.alters |= !custom && !reported && !is(word, &UNALTERING_PARAMETERS);
            }
            if before.is_empty() {
                names_parameter = is(word, &["set"]);
                traits.alters |= !names_parameter && !is(word, &UNALTERING);
            }
            traits.deallocates |=
                is(word, &["all"]) && is(before, &["deallocate", "prepare", "discard"]);
            // SELECT .. INTO creates a table.
            traits.alters |= is(word, &["into"]) && !is(before, &["insert", "merge"]);
            declares |= is(word, &["declare"]);
            updates |= is(word, &["update"]);
            traits.copies |= before.is_empty() && is(word, &["copy"]);
            traits.begins |=
                before.is_empty() && is(word, &["begin", "start"]) || is(word, &["chain"]);
            may_control |= before.is_empty() && is(word, &CONTROLLING);
            if is(before, &["set"]) {
                // Without a word behind it, or in quotes, it is the name of a parameter.
                let local = is(word, &["local", "transaction", "constraints"])
                    && behind(text, word)
                        .trim_ascii_start()
                        .first()
                        .is_some_and(|next| b"_\"".contains(next) || next.is_ascii_alphabetic())
                    && !behind(text, word).starts_with(b"\"");
                traits.sets_locally |= local;
                traits.sets_for_session |= !local;
            }
            // `UPDATE t SET local = ..` is no SET of its own.
            before = if before.is_empty() || !is(word, &["set"]) {
                word
            } else {
                b"-"
            };
        }
        traits.alters |= traits.leaves_state;
        // Read closely where it may be so: that is rare.
        traits.controls |= may_control && controls_transaction(text, conforming);
        traits
    }
}

/// Returns what follows a word of `text`.
fn behind<'a>(text: &'a [u8], word: &[u8]) -> &'a [u8] {
    &text[word.as_ptr() as usize - text.as_ptr() as usize + word.len()..]
}

/// Returns whether these are the arguments of a `set_config` that sets a custom parameter for the
/// transaction, such as `('app.tenant', $1, true)`. Others are not read.
fn is_local(arguments: &[u8]) -> bool {
    let literal = |text: &[u8]| {
        let inside = text
            .strip_prefix(b"'")
            .and_then(|text| text.strip_suffix(b"'"));
        inside.is_some_and(|inside| !inside.iter().any(|byte| b"'\\".contains(byte)))
    };
    let inside = arguments.trim_ascii_start().strip_prefix(b"(");
    let inside = inside.unwrap_or_default();
    // A bound, so that hostile text costs no quadratic time.
    let end = inside.iter().take(256).position(|byte| *byte == b')');
    let parts = inside[..end.unwrap_or(0)].split(|byte| *byte == b',');
    let [name, value, local] = parts.map(<[u8]>::trim_ascii).collect::<Vec<_>>()[..] else {
        return false;
    };
    let value = value.strip_suffix(b"::text").unwrap_or(value);
    let number = value.strip_prefix(b"$");
    let is_parameter = number.is_some_and(|number| number.iter().all(u8::is_ascii_digit));
    literal(name)
        && name.contains(&b'.')
        && (is_parameter || literal(value))
        && is(local, &["true"])
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
pub(crate) fn controls_transaction(text: &[u8], conforming: Option<bool>) -> bool {
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
    for token in tokens(text, conforming) {
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
mod tests;
