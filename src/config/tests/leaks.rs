//! No text, however broken, panics or shows its password. The fuzz target `urls` asks
//! the same of more texts.

use proptest::prelude::*;

use crate::config::names::known;
use crate::config::{Config, Environment};

/// Something that nothing but a password holds.
const SECRET: &str = "kX7wQ9";

/// What the crate shows of `text`, right or wrong.
fn shown(text: &str) -> String {
    let settled = Config::from_url(text).map(|config| {
        let shown = format!("{config:?}");
        (shown, config.settled(&Environment::of(&[])))
    });
    match settled {
        Ok((shown, Ok(settings))) => format!("{shown} {settings:?}"),
        Ok((shown, Err(error))) => format!("{shown} {error} {error:?}"),
        Err(error) => format!("{error} {error:?}"),
    }
}

/// What people forget to encode in a password, and a little of what they do not.
fn separators() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "@",
            "#",
            "/",
            "?",
            ":",
            "&",
            "=",
            "%",
            "[",
            "]",
            "'",
            "\"",
            "\\",
            "://",
            ",",
            "%40",
            " ",
            "\n",
            "ä",
            "@h/?sslmode=",
            "?host=",
            "#@",
            "%zz",
            "%ff",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,3}",
    ]
}

/// `word` with the letters at the bits of `at` in capitals.
fn with_capitals(word: &str, at: u16) -> String {
    let letters = word.chars().enumerate();
    letters
        .map(|(bit, c)| match at >> bit & 1 {
            1 => c.to_ascii_uppercase(),
            _ => c,
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn url_password_is_not_shown(
        between in prop::collection::vec(separators(), 0..4),
        rest in prop::sample::select(vec![
            "@db/x", "@db:1/x?sslmode=require", "@[::1]:5/x", "@a,b:2/x?usr=1", "@db/x?port=y",
            "@db:99999", "@%2Ftmp/x", "@db?user=a", "@db/x?work_mem=1&sslmode=x",
        ]),
    ) {
        let mut password = SECRET.to_owned();
        for separator in between {
            password += &separator;
            password += SECRET;
        }
        let text = format!("postgres://app:{password}{rest}");
        prop_assert!(!shown(&text).contains(SECRET), "{}", text);
    }

    #[test]
    fn keyword_password_is_not_shown(
        between in prop::collection::vec("[@#/?:&%\\[\\]\"\\\\ ,ä.]{0,3}", 0..4),
        rest in prop::sample::select(vec![
            "", " host=db", " host=db sslmode=x", " nonsense", " usr=1", " port=y", "'",
        ]),
    ) {
        let mut password = SECRET.to_owned();
        for separator in between {
            password += &separator;
            password += SECRET;
        }
        for open in ["", "'"] {
            let text = format!("user=app password={open}{password}{rest}");
            prop_assert!(!shown(&text).contains(SECRET), "{}", text);
        }
    }

    #[test]
    fn password_in_another_value_is_not_shown(
        name in prop::sample::select(known().collect::<Vec<_>>()),
        value in prop::sample::select(vec!["x", "1", "true", "require", "a.b", "/run/pg", "::1", ""]),
        separator in prop::sample::select(vec![
            ";", "&", ",", "|", ":", "?", "; ", " & ", ", ", "\t", "\n", ";;", "&amp;", "/", "#", "@",
        ]),
        word in prop::sample::select(vec![
            "password", "pwd", "passwd", "pass", "PGPASSWORD", "user",
        ]),
        capitals in any::<u16>(),
        equals in prop::sample::select(vec!["=", " = ", "%3D"]),
        prefix in prop::sample::select(vec!["", "app:", "app%3A"]),
    ) {
        let word = with_capitals(word, capitals);
        // What another parameter begins inside is not what can be shown: nor is it sent.
        let is_user = word.eq_ignore_ascii_case("user") && !prefix.is_empty();
        prop_assume!(is_user || word.to_ascii_lowercase().starts_with('p'));
        let pair = format!("{word}{equals}{prefix}{SECRET}");
        let encoded: String = pair.bytes().map(|byte| format!("%{byte:02X}")).collect();
        for text in [
            format!("host=db {name}={value}{separator}{pair}"),
            format!("{name}={value}{separator}{pair} host=db"),
            format!("{name}='{value}{separator}{pair}'"),
            format!("postgres://app@db/shop?{name}={value}{separator}{pair}"),
            format!("postgres://app@db/shop?{name}={value}{separator}{encoded}"),
            format!("postgres://app@db/shop{separator}{pair}?{name}={value}"),
            format!("postgres://app@db/shop{separator}{pair}"),
            format!("postgres://app@db{separator}{pair}"),
            format!("postgres://app@db:5432{separator}{pair}/shop"),
            format!("postgres://app{separator}{pair}@db/shop"),
        ] {
            prop_assert!(!shown(&text).contains(SECRET), "{}: {}", text, shown(&text));
        }
    }

    #[test]
    fn password_in_the_user_is_not_shown(
        user in "[a-zA-Z.@\\\\]{1,8}",
        separator in prop::sample::select(vec![":", ";", ",", "&", ": "]),
    ) {
        let together = format!("{user}{separator}{SECRET}");
        let encoded: String = together.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let quoted = together.replace('\\', "\\\\");
        for text in [
            format!("host=db user='{quoted}'"),
            format!("postgres://db/shop?user={encoded}"),
            format!("postgres://{encoded}@db/shop"),
            format!("postgres://{encoded}%40db/shop"),
            format!("{user}{separator}{SECRET}"),
            format!("{SECRET}=="),
        ] {
            prop_assert!(!shown(&text).contains(SECRET), "{}: {}", text, shown(&text));
        }
        let variables = Environment::of(&[("PGHOST", "db"), ("PGUSER", &together)]);
        let error = Config::from_environment(&variables).expect_err("no user").to_string();
        prop_assert!(error.starts_with("PGUSER: user") && !error.contains(SECRET), "{}", error);
    }

    #[test]
    fn key_is_not_shown(
        before in prop::sample::select(vec![
            "", "-----BEGIN PRIVATE KEY-----\n", "Bag Attributes\n", "LS0tLS1CRUdJTi", "MC4C/", "\r\n",
        ]),
        between in prop::collection::vec(separators(), 0..4),
    ) {
        let mut key = format!("{before}{SECRET}");
        for separator in between {
            key += &separator;
            key += SECRET;
        }
        let quoted = key.replace('\\', "\\\\").replace('\'', "\\'");
        let text = format!("host=db sslcert=client.crt sslkey='{quoted}'");
        prop_assert!(!shown(&text).contains(SECRET), "{}", text);
    }

    #[test]
    fn arbitrary_text_does_not_panic(text in "\\PC{0,80}", tail in "[a-z@:/?#%&=,\\[\\]' \\\\0-9]{0,60}") {
        shown(&text);
        shown(&tail);
        shown(&format!("postgres://{tail}"));
        shown(&format!("host={tail}"));
    }
}
