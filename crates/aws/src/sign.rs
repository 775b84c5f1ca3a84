//! Signs requests with Signature Version 4 (IAM user guide, "Create a signed AWS API request").

use std::fmt::Write as _;
use std::time::SystemTime;

use antifreeze::Result;
use antifreeze::internal::error;
use ring::{digest, hmac};
use x509_cert::der::DateTime;

use super::keys::AwsKeys;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// Signs requests to a service, at a moment.
pub(super) struct Signer<'a> {
    pub(super) keys: &'a AwsKeys,
    pub(super) region: &'a str,
    pub(super) service: &'a str,
    pub(super) at: Stamp,
}

/// A moment, in the formats of a signature.
pub(super) struct Stamp {
    /// `20150830`
    date: String,
    /// `20150830T123600Z`
    time: String,
}

impl Stamp {
    pub(super) fn of(time: SystemTime) -> Result<Self> {
        let time = DateTime::from_system_time(time).map_err(|_| {
            error::configuration("the system clock is set to a time before 1970: correct it")
        })?;
        let date = format!("{:04}{:02}{:02}", time.year(), time.month(), time.day());
        let (hour, minute, second) = (time.hour(), time.minutes(), time.seconds());
        Ok(Stamp {
            time: format!("{date}T{hour:02}{minute:02}{second:02}Z"),
            date,
        })
    }

    pub(super) fn time(&self) -> &str {
        &self.time
    }
}

impl Signer<'_> {
    /// Returns `host/?parameters` with a signature, for a GET within `seconds` from now
    /// ("Authenticating requests: using query parameters").
    pub(super) fn presigned(
        &self,
        host: &str,
        parameters: &[(&str, &str)],
        seconds: u32,
    ) -> String {
        let credential = format!("{}/{}", self.keys.id, self.scope());
        let seconds = seconds.to_string();
        let mut query = vec![
            ("X-Amz-Algorithm", ALGORITHM),
            ("X-Amz-Credential", &credential),
            ("X-Amz-Date", &self.at.time),
            ("X-Amz-Expires", &seconds),
            ("X-Amz-SignedHeaders", "host"),
        ];
        query.extend(parameters);
        if let Some(session) = &self.keys.session {
            query.push(("X-Amz-Security-Token", session));
        }
        let query = canonical_query(&query);
        let signature = self.signature("GET", &query, &[("host", host)], b"");
        format!("{host}/?{query}&X-Amz-Signature={signature}")
    }

    /// Returns the header `Authorization` of a POST to `/`. All `headers` are signed; their
    /// names are in lower case and sorted, and include `host` and `x-amz-date`.
    pub(super) fn authorization(&self, headers: &[(&str, &str)], body: &[u8]) -> String {
        let signature = self.signature("POST", "", headers, body);
        format!(
            "{ALGORITHM} Credential={}/{}, SignedHeaders={}, Signature={signature}",
            self.keys.id,
            self.scope(),
            names(headers)
        )
    }

    fn scope(&self) -> String {
        let Signer {
            region, service, ..
        } = self;
        format!("{}/{region}/{service}/aws4_request", self.at.date)
    }

    fn signature(
        &self,
        method: &str,
        query: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> String {
        let mut request = format!("{method}\n/\n{query}\n");
        for (name, value) in headers {
            let _ = writeln!(request, "{name}:{value}");
        }
        let _ = write!(request, "\n{}\n{}", names(headers), sha256(body));
        let text = format!(
            "{ALGORITHM}\n{}\n{}\n{}",
            self.at.time,
            self.scope(),
            sha256(request.as_bytes())
        );
        let mut key = hmac_sha256(
            format!("AWS4{}", self.keys.secret).as_bytes(),
            &self.at.date,
        );
        for part in [self.region, self.service, "aws4_request"] {
            key = hmac_sha256(key.as_ref(), part);
        }
        hex(hmac_sha256(key.as_ref(), &text).as_ref())
    }
}

fn names(headers: &[(&str, &str)]) -> String {
    let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
    names.join(";")
}

/// Encodes each part, then sorts.
fn canonical_query(parameters: &[(&str, &str)]) -> String {
    let mut encoded: Vec<_> = parameters
        .iter()
        .map(|(name, value)| (encode(name), encode(value)))
        .collect();
    encoded.sort();
    let pairs: Vec<_> = encoded
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    pairs.join("&")
}

/// Percent-encodes all characters except the unreserved ones (RFC 3986, section 2.3).
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(byte.into());
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hmac_sha256(key: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;

    pub(crate) fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn moments_are_formatted() {
        for (seconds, expected) in [
            (0, "19700101T000000Z"),
            (1_440_938_160, "20150830T123600Z"),
            (1_709_210_096, "20240229T123456Z"),
        ] {
            assert_eq!(Stamp::of(at(seconds)).expect("a time").time(), expected);
        }
        assert!(Stamp::of(SystemTime::UNIX_EPOCH - Duration::from_secs(1)).is_err());
    }

    #[test]
    fn parameters_are_encoded_and_sorted() {
        let query = canonical_query(&[("b", "a b+/=~"), ("a", "ü"), ("B", "")]);
        assert_eq!(query, "B=&a=%C3%BC&b=a%20b%2B%2F%3D~");
    }

    /// Requests of AWS's test suite for Signature Version 4 (`aws-sig-v4-test-suite`;
    /// `aws-signing-test-suite/v4` in AWS's SDKs), with its keys, time and service.
    #[test]
    fn signatures_match_the_aws_test_suite() {
        let session = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWs\
                       KWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeeh\
                       M4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6\
                       fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9\
                       Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==";
        let keys = AwsKeys::new("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
        let signer = Signer {
            keys: &keys,
            region: "us-east-1",
            service: "service",
            at: Stamp::of(at(1_440_938_160)).expect("a time"),
        };
        let host = ("host", "example.amazonaws.com");
        let date = ("x-amz-date", "20150830T123600Z");
        let form = ("content-type", "application/x-www-form-urlencoded");
        for (name, method, query, headers, body, expected) in [
            (
                "get-vanilla",
                "GET",
                vec![],
                vec![host, date],
                "",
                "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
            ),
            (
                "get-vanilla-query-order-key-case",
                "GET",
                vec![("Param2", "value2"), ("Param1", "value1")],
                vec![host, date],
                "",
                "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            ),
            (
                "post-vanilla",
                "POST",
                vec![],
                vec![host, date],
                "",
                "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
            ),
            (
                "post-x-www-form-urlencoded",
                "POST",
                vec![],
                vec![form, host, date],
                "Param1=value1",
                "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
            ),
            (
                "post-sts-header-before",
                "POST",
                vec![],
                vec![host, date, ("x-amz-security-token", session)],
                "",
                "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
            ),
        ] {
            let query = canonical_query(&query);
            let signature = signer.signature(method, &query, &headers, body.as_bytes());
            assert_eq!(signature, expected, "{name}");
        }
        assert_eq!(
            signer.authorization(&[form, host, date], b"Param1=value1"),
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date, \
             Signature=ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"
        );
    }
}
