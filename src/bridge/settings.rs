//! Answers the settings that drivers make when they connect, so that they cost no round trip and
//! hold in whichever session is lent: they become part of what the driver asked for at its
//! startup. What they set once they are in use is state of the session, and ends with the
//! invocation.

use super::answer::{SET, SET_AND_READY};
use super::startup::holds;
use crate::wire::Names;
use crate::wire::message::strings;

/// The parameters that are set so: servers report them, or their effect needs no session.
const NAMES: [&str; 6] = [
    "application_name",
    "client_encoding",
    "datestyle",
    "extra_float_digits",
    "intervalstyle",
    "timezone",
];

/// A setting: its name in lower case and its value.
pub(super) type Setting = (String, String);

/// The answer to a message that needs no session.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// The setting that is made before.
    pub(super) setting: Option<Setting>,
    pub(super) bytes: &'static [u8],
}

impl Answer {
    fn set(setting: Setting, bytes: &'static [u8]) -> Self {
        let setting = Some(setting);
        Answer { setting, bytes }
    }

    fn plain(bytes: &'static [u8]) -> Self {
        let setting = None;
        Answer { setting, bytes }
    }
}

/// The portals that the present request has bound to a setting.
#[derive(Debug, Default)]
pub(super) struct Portals(Vec<(Vec<u8>, Setting)>);

impl Portals {
    /// Forgets the portals at the end of a request.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Answers a message that is about a setting; if some are `in_force`, only about those.
    /// `None`: it needs a session.
    pub(super) fn answer(
        &mut self,
        message: &[u8],
        names: &mut Names,
        in_force: Option<&[Setting]>,
    ) -> Option<Answer> {
        let is_in = |all: &[Setting], set: &Setting| {
            all.contains(set) || holds(&set.0, &set.1) && !all.iter().any(|known| known.0 == set.0)
        };
        let is_ours = |set: &Setting| in_force.is_none_or(|all| is_in(all, set));
        let setting = |sql: &[u8]| setting(sql).filter(is_ours);
        let (tag, body) = (*message.first()?, message.get(5..)?);
        let mut strings = strings(body);
        match tag {
            b'Q' => Some(Answer::set(setting(strings.next()?)?, SET_AND_READY)),
            b'P' => {
                let name = strings.next()?;
                setting(strings.next()?)?;
                names
                    .add(name, &body[name.len() + 1..])
                    .then_some(Answer::plain(b"1\0\0\0\x04"))
            }
            b'B' => {
                let (portal, statement) = (strings.next()?, strings.next()?);
                let bound = setting(names.text(statement)?)?;
                self.0.retain(|(name, _)| name != portal);
                self.0.push((portal.to_vec(), bound));
                Some(Answer::plain(b"2\0\0\0\x04"))
            }
            b'D' | b'C' => {
                let (kind, name) = body.split_first()?;
                let name = name.strip_suffix(b"\0")?;
                match (tag, kind) {
                    (b'D', b'S') => {
                        setting(names.text(name)?)?;
                        Some(Answer::plain(b"t\0\0\0\x06\0\0n\0\0\0\x04"))
                    }
                    (b'C', b'S') => {
                        setting(names.text(name)?)?;
                        names.remove(name);
                        Some(Answer::plain(b"3\0\0\0\x04"))
                    }
                    (b'D', b'P') => {
                        self.bound(name)?;
                        Some(Answer::plain(b"n\0\0\0\x04"))
                    }
                    _ => None,
                }
            }
            b'E' => {
                let bound = self.bound(strings.next()?)?.clone();
                Some(Answer::set(bound, SET))
            }
            _ => None,
        }
    }

    fn bound(&self, portal: &[u8]) -> Option<&Setting> {
        let mut portals = self.0.iter();
        portals
            .find(|(name, _)| name == portal)
            .map(|(_, bound)| bound)
    }
}

/// Reads `SET name = value`, `SET name TO value` or `SET TIME ZONE value`, if that can be set here.
fn setting(sql: &[u8]) -> Option<Setting> {
    let sql = std::str::from_utf8(sql).ok()?;
    let sql = sql.trim().trim_end_matches(';').trim_end();
    let rest = word(sql, "set")?;
    let rest = word(rest, "session").unwrap_or(rest);
    let zone = word(rest, "time").and_then(|rest| word(rest, "zone"));
    let (name, value) = match zone {
        Some(value) => ("timezone", value),
        None => {
            let end = rest.find(|letter: char| letter != '_' && !letter.is_ascii_alphanumeric())?;
            let (name, rest) = rest.split_at(end);
            let rest = rest.trim_start();
            let value = rest.strip_prefix('=').or_else(|| word(rest, "to"))?;
            (name, value.trim_start())
        }
    };
    let name = name.to_ascii_lowercase();
    let value = literal(value).filter(|_| NAMES.contains(&name.as_str()))?;
    Some((name, value.to_owned()))
}

/// Returns what follows this word.
fn word<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let (first, rest) = text.split_at_checked(word.len())?;
    let ends = rest.starts_with(|letter: char| letter.is_ascii_whitespace());
    (ends && first.eq_ignore_ascii_case(word)).then(|| rest.trim_start())
}

/// Reads a value that stands for itself.
fn literal(text: &str) -> Option<&str> {
    let quoted = text
        .strip_prefix('\'')
        .and_then(|text| text.strip_suffix('\''));
    match quoted {
        Some(value) => (!value.contains(['\'', '\\'])).then_some(value),
        None => text.parse::<i32>().is_ok().then_some(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(sql: &str) -> Option<Setting> {
        setting(sql.as_bytes())
    }

    #[test]
    fn settings_of_drivers_are_recognised() {
        let set = |name: &str, value: &str| Some((name.to_owned(), value.to_owned()));
        assert_eq!(read("SET TIME ZONE 'UTC'"), set("timezone", "UTC"));
        assert_eq!(
            read("set session timezone to 'Asia/Tokyo';"),
            set("timezone", "Asia/Tokyo")
        );
        assert_eq!(
            read("SET application_name = 'x y'"),
            set("application_name", "x y")
        );
        assert_eq!(
            read("SET CLIENT_ENCODING TO 'UTF8'"),
            set("client_encoding", "UTF8")
        );
        assert_eq!(
            read("SET extra_float_digits = 3"),
            set("extra_float_digits", "3")
        );
        assert_eq!(
            read("SET extra_float_digits = 0"),
            set("extra_float_digits", "0")
        );
        for other in [
            "SET LOCAL TIME ZONE 'UTC'",
            "SET TIME ZONE DEFAULT",
            "SET TIME ZONE 'a'; select 1",
            "SET TIME ZONE 'a''b'",
            "SET search_path = 'x'",
            "SET timezone",
            "SETtimezone = 'UTC'",
            "select 1",
            "SET größe = 'x'",
            "",
        ] {
            assert_eq!(read(other), None, "{other}");
        }
    }

    #[test]
    fn prepared_setting_is_answered_message_by_message() {
        let message = |tag: u8, body: &[u8]| {
            let length = (4 + body.len()) as u32;
            [&[tag][..], &length.to_be_bytes(), body].concat()
        };
        let (mut portals, mut names) = (Portals::default(), Names::default());
        let mut answer = |tag, body: &[u8]| portals.answer(&message(tag, body), &mut names, None);
        let bytes = |bytes| Some(Answer::plain(bytes));
        assert_eq!(
            answer(b'P', b"s\0SET TIME ZONE 'UTC'\0\0\0"),
            bytes(b"1\0\0\0\x04")
        );
        assert_eq!(answer(b'D', b"Ss\0"), bytes(b"t\0\0\0\x06\0\0n\0\0\0\x04"));
        assert_eq!(answer(b'B', b"\0s\0\0\0\0\0\0\0"), bytes(b"2\0\0\0\x04"));
        assert_eq!(answer(b'D', b"P\0"), bytes(b"n\0\0\0\x04"));
        let utc = ("timezone".to_owned(), "UTC".to_owned());
        assert_eq!(
            answer(b'E', b"\0\0\0\0\0"),
            Some(Answer::set(utc.clone(), SET))
        );
        assert_eq!(answer(b'C', b"Ss\0"), bytes(b"3\0\0\0\x04"));
        assert_eq!(answer(b'B', b"\0s\0\0\0\0\0\0\0"), None);
        assert_eq!(answer(b'P', b"s\0select 1\0\0\0"), None);
        assert_eq!(answer(b'E', b"x\0\0\0\0\0"), None);
        let all = [utc];
        let mut later = |sql| portals.answer(&message(b'Q', sql), &mut names, Some(&all));
        assert!(
            later(b"SET TIME ZONE 'UTC'\0").is_some(),
            "it holds already"
        );
        assert_eq!(later(b"SET TIME ZONE 'Asia/Tokyo'\0"), None);
    }
}
