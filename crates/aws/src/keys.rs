//! Access keys and region.

use std::fmt;

use antifreeze::Result;
use antifreeze::internal::error;
use antifreeze::internal::given;

/// AWS access keys, which sign requests.
///
/// `Debug` does not show them.
#[derive(Clone, PartialEq, Eq)]
pub struct AwsKeys {
    pub(super) id: String,
    pub(super) secret: String,
    pub(super) session: Option<String>,
}

impl AwsKeys {
    /// Creates keys from the ID and the secret of an access key.
    pub fn new(id: impl Into<String>, secret: impl Into<String>) -> Self {
        AwsKeys {
            id: id.into(),
            secret: secret.into(),
            session: None,
        }
    }

    /// Sets the session token of temporary keys.
    pub fn session_token(mut self, token: impl Into<String>) -> Self {
        self.session = Some(token.into());
        self
    }
}

impl fmt::Debug for AwsKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsKeys").finish_non_exhaustive()
    }
}

/// The configured keys and region.
#[derive(Debug, Clone, Default)]
pub(super) struct Identity {
    pub(super) keys: Option<AwsKeys>,
    pub(super) region: Option<String>,
}

impl Identity {
    /// Returns the configured keys, or reads those of Lambda's environment.
    pub(super) fn keys(&self) -> Result<AwsKeys> {
        match &self.keys {
            Some(keys) => Ok(keys.clone()),
            None => keys_in(&|name| std::env::var(name).ok()),
        }
    }

    /// Returns the configured region, that of the address, or that of the environment.
    pub(super) fn region(&self, of_address: Option<&str>) -> Result<String> {
        let given = self.region.as_deref().or(of_address);
        match given {
            Some(region) => Ok(region.to_owned()),
            None => region_in(&|name| std::env::var(name).ok()),
        }
    }
}

/// Reads an environment variable, or a test's value.
pub(super) type Variables<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Reads the keys that Lambda sets from the function's role (Lambda developer guide, "Defined
/// runtime environment variables").
fn keys_in(variables: &Variables<'_>) -> Result<AwsKeys> {
    let get = |name| variables(name).and_then(given);
    match (get("AWS_ACCESS_KEY_ID"), get("AWS_SECRET_ACCESS_KEY")) {
        (Some(id), Some(secret)) => Ok(AwsKeys {
            id,
            secret,
            session: get("AWS_SESSION_TOKEN"),
        }),
        // Set by Lambda with SnapStart, and by ECS.
        _ if get("AWS_CONTAINER_CREDENTIALS_FULL_URI").is_some() => Err(error::configuration(
            "the keys of AWS are at AWS_CONTAINER_CREDENTIALS_FULL_URI, where they are not looked \
             for: sign with the AWS SDK, in `credentials::from_fn`",
        )),
        _ => Err(error::configuration(
            "there are no keys of AWS to sign with: set AWS_ACCESS_KEY_ID and \
             AWS_SECRET_ACCESS_KEY, as Lambda does from the function's role",
        )),
    }
}

fn region_in(variables: &Variables<'_>) -> Result<String> {
    let get = |name| variables(name).and_then(given);
    get("AWS_REGION")
        .or_else(|| get("AWS_DEFAULT_REGION"))
        .ok_or_else(|| {
            error::configuration("the AWS region is unknown: set AWS_REGION, as Lambda does")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment<'a>(set: &'a [(&str, &str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |name| {
            let found = set.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        }
    }

    #[test]
    fn keys_are_read_from_the_environment() {
        let set = [
            ("AWS_ACCESS_KEY_ID", "id"),
            ("AWS_SECRET_ACCESS_KEY", "hunter2\n"),
            ("AWS_SESSION_TOKEN", "session"),
        ];
        let keys = keys_in(&environment(&set)).expect("keys");
        assert_eq!(keys, AwsKeys::new("id", "hunter2").session_token("session"));
        let keys = keys_in(&environment(&set[..2])).expect("keys");
        assert_eq!(keys, AwsKeys::new("id", "hunter2"));
        assert_eq!(format!("{keys:?}"), "AwsKeys { .. }");
    }

    #[test]
    fn missing_keys_are_named() {
        for (set, name) in [
            (&[][..], "AWS_ACCESS_KEY_ID"),
            (&[("AWS_ACCESS_KEY_ID", "id")], "AWS_SECRET_ACCESS_KEY"),
            (
                &[("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1")],
                "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            ),
        ] {
            let error = keys_in(&environment(set)).expect_err("no keys").to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn configured_region_takes_precedence() {
        let identity = |region: Option<&str>| Identity {
            region: region.map(str::to_owned),
            ..Identity::default()
        };
        for (given, of_address, expected) in [(Some("a"), Some("b"), "a"), (None, Some("b"), "b")] {
            let region = identity(given).region(of_address).expect("a region");
            assert_eq!(region, expected);
        }
        for (set, expected) in [
            (
                &[("AWS_REGION", "c"), ("AWS_DEFAULT_REGION", "d")][..],
                Some("c"),
            ),
            (
                &[("AWS_REGION", ""), ("AWS_DEFAULT_REGION", "d")],
                Some("d"),
            ),
            (&[], None),
        ] {
            let region = region_in(&environment(set)).ok();
            assert_eq!(region.as_deref(), expected);
        }
    }
}
