//! Checks the bearer token that gives access to the details of the health report.

use http::{HeaderMap, header};
use ring::hmac;

/// Returns whether `Authorization: Bearer ..` (RFC 6750, section 2.1) presents `token`.
pub(super) fn is_presented(token: &str, headers: &HeaderMap) -> bool {
    let value = headers.get(header::AUTHORIZATION);
    let value = value.map_or(&[][..], |value| value.as_bytes());
    let Some(space) = value.iter().position(|&byte| byte == b' ') else {
        return false;
    };
    let (scheme, presented) = value.split_at(space);
    // Tags are compared in constant time: how long it takes reveals nothing about the token.
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"antifreeze health token");
    let tag = hmac::sign(&key, token.as_bytes());
    scheme.eq_ignore_ascii_case(b"bearer")
        && hmac::verify(&key, presented.trim_ascii(), tag.as_ref()).is_ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const TOKEN: &str = "hunter2-hunter2-hunter2";

    #[test]
    fn only_the_exact_token_is_accepted() {
        let presented = |value: &str| {
            let value = HeaderValue::from_str(value).expect("a value");
            is_presented(
                TOKEN,
                &HeaderMap::from_iter([(header::AUTHORIZATION, value)]),
            )
        };
        assert!(!is_presented(TOKEN, &HeaderMap::new()));
        for (value, expected) in [
            ("Bearer hunter2-hunter2-hunter2", true),
            ("bearer  hunter2-hunter2-hunter2 ", true),
            ("Bearer hunter2-hunter2-hunter", false),
            ("Bearer hunter2-hunter2-hunter2x", false),
            ("Bearer Hunter2-hunter2-hunter2", false),
            ("Bearer", false),
            ("Bearer ", false),
            ("", false),
            ("hunter2-hunter2-hunter2", false),
            ("Basic hunter2-hunter2-hunter2", false),
        ] {
            assert_eq!(presented(value), expected, "{value}");
        }
    }
}
