//! Parses the first packets of a driver (manual, "Message Formats": those without a tag).

use std::collections::BTreeMap;

use crate::error::{Error, ErrorKind};

/// The longest startup packet that PostgreSQL accepts, too.
const LONGEST: usize = 10_000;

/// Codes in the place of a protocol version.
const CANCEL: u32 = 80_877_102;
const SSL: u32 = 80_877_103;
const GSS: u32 = 80_877_104;

/// A packet that begins a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Packet {
    /// It asks for encryption, which a connection inside the process does not need.
    Encryption,
    Cancel {
        process: i32,
        secret: i32,
    },
    Startup(Startup),
}

/// What a driver says about the session that it wants.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Startup {
    /// The minor version of protocol 3 that was asked for.
    pub(super) minor: u16,
    pub(super) user: String,
    pub(super) database: Option<String>,
    pub(super) replication: bool,
    /// The settings of the session, by name in lower case.
    pub(super) parameters: Vec<(String, String)>,
    /// Protocol extensions (`_pq_.*`), none of which is known.
    pub(super) extensions: Vec<String>,
}

/// Parses the packet at the start of `bytes`, and returns it with its length. `None`: it is not
/// complete.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Packet, usize)>, Error> {
    let Some(length) = int(bytes, 0) else {
        return Ok(None);
    };
    let length = length as usize;
    if !(8..=LONGEST).contains(&length) {
        return Err(malformed());
    }
    let Some(packet) = bytes.get(..length) else {
        return Ok(None);
    };
    let code = int(packet, 4).ok_or_else(malformed)?;
    let packet = match code {
        SSL | GSS => Packet::Encryption,
        CANCEL => {
            let key = int(packet, 8).zip(int(packet, 12));
            let (process, secret) = key.filter(|_| length == 16).ok_or_else(malformed)?;
            Packet::Cancel {
                process: process as i32,
                secret: secret as i32,
            }
        }
        _ if code >> 16 == 3 => Packet::Startup(startup(code as u16, &packet[8..])?),
        _ => {
            return Err(Error::new(
                ErrorKind::Configuration,
                format!(
                    "the driver speaks protocol {}.{} of PostgreSQL",
                    code >> 16,
                    code & 0xffff
                ),
            )
            .with_remedy("use one that speaks protocol 3, as all have since 2003"));
        }
    };
    Ok(Some((packet, length)))
}

fn startup(minor: u16, mut body: &[u8]) -> Result<Startup, Error> {
    let mut startup = Startup {
        minor,
        ..Startup::default()
    };
    let mut next = || {
        let end = body.iter().position(|&byte| byte == 0)?;
        let (text, rest) = body.split_at(end);
        body = &rest[1..];
        std::str::from_utf8(text).ok()
    };
    let (mut options, mut settings) = (Vec::new(), Vec::new());
    loop {
        let name = next().ok_or_else(malformed)?;
        if name.is_empty() {
            break;
        }
        let value = next().ok_or_else(malformed)?;
        match name {
            "user" => startup.user = value.to_owned(),
            "database" => startup.database = Some(value.to_owned()),
            "replication" => startup.replication = !is_off(value),
            "options" => options = parsed_options(value)?,
            _ if name.starts_with("_pq_.") => startup.extensions.push(name.to_owned()),
            _ => settings.push((name.to_ascii_lowercase(), value.to_owned())),
        }
    }
    // The server applies the options first.
    let mut all = BTreeMap::from_iter(options.into_iter().chain(settings));
    all.retain(|name, value| !holds(name, value));
    startup.parameters = all.into_iter().collect();
    Ok(startup)
}

/// Returns whether a setting holds in each session of the pool: text is UTF-8, and since PostgreSQL
/// 12 every positive number of extra digits writes the shortest exact one, as the default does.
pub(super) fn holds(name: &str, value: &str) -> bool {
    let utf8 =
        |value: &str| value.eq_ignore_ascii_case("utf8") || value.eq_ignore_ascii_case("utf-8");
    match name {
        "client_encoding" => utf8(value.trim_matches('\'')),
        "extra_float_digits" => value.parse().is_ok_and(|digits: i32| digits > 0),
        _ => false,
    }
}

fn is_off(value: &str) -> bool {
    let off = ["", "0", "false", "off", "no"];
    off.iter().any(|word| value.eq_ignore_ascii_case(word))
}

/// Parses `-c name=value` and `--name=value`, separated by spaces, which a backslash escapes.
fn parsed_options(text: &str) -> Result<Vec<(String, String)>, Error> {
    let mut words: Vec<String> = Vec::new();
    let (mut inside, mut escaped) = (false, false);
    for letter in text.chars() {
        if letter.is_ascii_whitespace() && !escaped {
            inside = false;
            continue;
        }
        if letter == '\\' && !escaped {
            escaped = true;
            continue;
        }
        escaped = false;
        if !std::mem::replace(&mut inside, true) {
            words.push(String::new());
        }
        words.last_mut().expect("one was begun").push(letter);
    }
    let mut words = words.into_iter();
    let mut settings = Vec::new();
    while let Some(word) = words.next() {
        let setting = match (word.strip_prefix("--"), word.strip_prefix("-c")) {
            (Some(setting), _) => Some(setting.to_owned()),
            (_, Some("")) => words.next(),
            (_, Some(setting)) => Some(setting.to_owned()),
            _ => None,
        };
        let setting = setting
            .as_deref()
            .and_then(|setting| setting.split_once('='));
        let (name, value) = setting.ok_or_else(|| {
            Error::configuration(format!(
                "the option `{word}` of the driver cannot be passed on"
            ))
            .with_remedy("set parameters of the session as `-c name=value`")
        })?;
        let name = name.replace('-', "_").to_ascii_lowercase();
        settings.push((name, value.to_owned()));
    }
    Ok(settings)
}

fn malformed() -> Error {
    Error::configuration("the connection did not begin with a startup packet of PostgreSQL")
        .with_remedy("connect a PostgreSQL driver to this socket")
}

fn int(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(code: u32, body: &[u8]) -> Vec<u8> {
        let length = (8 + body.len()) as u32;
        [&length.to_be_bytes()[..], &code.to_be_bytes(), body].concat()
    }

    fn started(body: &[u8]) -> Startup {
        match parse(&packet(3 << 16, body)).expect("valid") {
            Some((Packet::Startup(startup), _)) => startup,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn settings_of_a_driver_are_read() {
        let startup = started(
            b"user\0antifreeze\0database\0shop\0TimeZone\0UTC\0client_encoding\0UTF8\0\
              extra_float_digits\x002\0options\0-c a.b=c\\ d --search-path=x\0\0",
        );
        let settings = [("a.b", "c d"), ("search_path", "x"), ("timezone", "UTC")];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(startup.user, "antifreeze");
        assert_eq!(startup.database.as_deref(), Some("shop"));
        assert_eq!(startup.parameters, settings);
        assert!(started(b"user\0a\0replication\0database\0\0").replication);
        assert!(!started(b"user\0a\0replication\0off\0\0").replication);
    }

    #[test]
    fn startup_wins_over_options() {
        let packet = b"TimeZone\0UTC\0options\0-c timezone=Asia/Tokyo -c A.b=1 -ca.B=0\0\0";
        let settings = [("a.b", "0"), ("timezone", "UTC")];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(started(packet).parameters, settings);
    }

    #[test]
    fn every_prefix_of_a_packet_is_incomplete() {
        let whole = packet(3 << 16, b"user\0a\0\0");
        for cut in 0..whole.len() {
            assert_eq!(parse(&whole[..cut]).expect("a prefix"), None);
        }
        assert_eq!(
            parse(&packet(SSL, b"")).expect("valid"),
            Some((Packet::Encryption, 8))
        );
        let cancel = Packet::Cancel {
            process: 1,
            secret: -1,
        };
        let packet = packet(CANCEL, b"\0\0\0\x01\xff\xff\xff\xff");
        assert_eq!(parse(&packet).expect("valid"), Some((cancel, 16)));
    }

    #[test]
    fn junk_is_refused() {
        for junk in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            &packet(2 << 16, b""),
            &packet(3 << 16, b"user\0a\0"),
            &packet(3 << 16, b"user\0\xff\0\0"),
            &packet(3 << 16, b"options\0-x\0\0"),
            &packet(CANCEL, b""),
            &[0, 0, 0, 7, 0, 0, 0],
        ] {
            assert!(parse(junk).is_err(), "{junk:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
            let _ = parse(&bytes);
            let _ = parse(&packet(3 << 16, &bytes));
        }
    }
}
