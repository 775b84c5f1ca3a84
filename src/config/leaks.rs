//! No text, however broken, panics or shows its password. The fuzz target `urls` asks
//! the same of more texts.

use proptest::prelude::*;

use super::Config;
use super::parameters::Parameters;
use super::read::Read;

/// Something that nothing but a password holds.
const SECRET: &str = "kX7wQ9";

/// What the crate shows of `text`, right or wrong.
fn shown(text: &str) -> String {
    let shown = match Config::from_url(text) {
        Ok(config) => format!("{config:?}"),
        Err(error) => format!("{error} {error:?}"),
    };
    // The same without the environment: nothing of it may hide a panic.
    let _ = Parameters::parse(text).and_then(|parameters| Read::new(&parameters));
    shown
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_password_of_a_url_is_shown(
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
    fn no_password_among_keywords_is_shown(
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
    fn no_key_is_shown(
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
    fn nothing_panics(text in "\\PC{0,80}", tail in "[a-z@:/?#%&=,\\[\\]' \\\\0-9]{0,60}") {
        shown(&text);
        shown(&tail);
        shown(&format!("postgres://{tail}"));
        shown(&format!("host={tail}"));
    }
}
