//! Any connection string, and any with a password or a key in it: nothing panics, and
//! neither an error nor the configuration shows it.
#![no_main]

use antifreeze::Config;
use libfuzzer_sys::fuzz_target;

/// Something that nothing but a password or a key holds.
const SECRET: &str = "kX7wQ9";

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let _ = shown(text);
    if text.contains(SECRET) {
        return;
    }
    // The first line is what stands between pieces of the password, the second what
    // comes after it.
    let (between, rest) = text.split_once('\n').unwrap_or((text, ""));
    let password = format!("{SECRET}{between}{SECRET}");
    // What is the URL's own holds no `@`, or nobody could say where the password ends.
    if !rest.contains('@') {
        let url = format!("postgres://app:{password}@{rest}");
        assert!(!shown(&url).contains(SECRET), "{url}");
    }
    let quoted = password.replace('\\', "\\\\").replace('\'', "\\'");
    let keywords = format!("password='{quoted}' {rest}");
    assert!(!shown(&keywords).contains(SECRET), "{keywords}");
    // Behind any value, separated in any way that is one.
    let (value, separator) = (rest.trim(), between.trim());
    if matches!(separator, ";" | "," | "&" | "|" | "?") {
        for word in ["password", "PassWord", "PGPASSWORD", "pwd"] {
            for text in [
                format!("host=db {value}{separator}{word}={SECRET}"),
                format!("postgres://app@db/shop?{value}{separator}{word}={SECRET}"),
                format!("postgres://app@db{separator}{word}={SECRET}/shop?{value}"),
            ] {
                assert!(!shown(&text).contains(SECRET), "{text}");
            }
        }
    }
    let keywords = format!("host=db sslcert=client.crt sslkey='{quoted}'");
    assert!(!shown(&keywords).contains(SECRET), "{keywords}");
});

fn shown(text: &str) -> String {
    match Config::from_url(text) {
        Ok(config) => format!("{config:?}"),
        Err(error) => format!("{error} {error:?}"),
    }
}
