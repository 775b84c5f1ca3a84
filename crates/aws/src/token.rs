//! IAM tokens as passwords.
//!
//! A token is a presigned request that is never sent: the server takes it as a password and
//! has IAM verify the signature. Creating one needs no network access.

use std::collections::HashMap;
use std::fmt;
use std::future::ready;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use antifreeze::Result;
use antifreeze::credentials::{Attempt, Credentials, Login, LoginFuture};
use antifreeze::internal::error;
use antifreeze::internal::region;
use antifreeze::internal::{Clock, System};

use super::AwsKeys;
use super::keys::Identity;
use super::sign::{Signer, Stamp};

/// How long a token is valid, in seconds: the maximum for RDS (RDS user guide, "IAM database
/// authentication"), and the SDKs' value for DSQL.
const LIFE: u32 = 15 * 60;

/// How long a token is reused.
const REUSE: Duration = Duration::from_secs(10 * 60);

/// The number of tokens that are kept. A process connects to a few hosts.
const KEPT: usize = 16;

/// IAM tokens for RDS and Aurora, and for RDS Proxy.
///
/// The AWS role needs `rds-db:connect`, and the database role needs `rds_iam`. A token is
/// valid for 15 minutes and reused for 10. RDS accepts tokens only over TLS.
///
/// The keys are Lambda's (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
/// `AWS_SESSION_TOKEN`), unless [others](RdsToken::keys) are given; the region is that in the
/// host name, or else `AWS_REGION`.
///
/// ```
/// use antifreeze_aws::RdsToken;
///
/// let host = "shop.abc.eu-central-1.rds.amazonaws.com";
/// let config = antifreeze::Config::from_url(&format!("postgres://app@{host}/shop"))?
///     .credentials(RdsToken::new());
/// # Ok::<(), antifreeze::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct RdsToken {
    tokens: Tokens,
    endpoint: Option<(String, u16)>,
}

/// IAM tokens for Aurora DSQL.
///
/// The AWS role needs `dsql:DbConnect`, or `dsql:DbConnectAdmin` for the user `admin`. A token
/// is valid for 15 minutes and reused for 10. Keys and region are determined as for
/// [`RdsToken`].
///
/// ```
/// use antifreeze_aws::DsqlToken;
///
/// let host = "abc.dsql.eu-central-1.on.aws";
/// let config = antifreeze::Config::from_url(&format!("postgres://admin@{host}/postgres"))?
///     .credentials(DsqlToken::new());
/// # Ok::<(), antifreeze::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct DsqlToken {
    tokens: Tokens,
    endpoint: Option<String>,
}

impl RdsToken {
    /// Creates credentials with Lambda's keys, for the host of the connection.
    pub fn new() -> Self {
        RdsToken {
            tokens: Tokens::default(),
            endpoint: None,
        }
    }

    /// Sets the endpoint to sign for, if the connection leads through a CNAME or a tunnel. A
    /// token is valid only for the name and port that RDS assigned to the instance, cluster or
    /// proxy; the region is read from that name. The certificate is still verified against the
    /// host of the connection. Default: host and port of the connection.
    pub fn endpoint(mut self, host: impl Into<String>, port: u16) -> Self {
        self.endpoint = Some((host.into(), port));
        self
    }

    /// Sets the region.
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.tokens.identity.region = Some(region.into());
        self
    }

    /// Sets the keys that sign the token.
    pub fn keys(mut self, keys: AwsKeys) -> Self {
        self.tokens.identity.keys = Some(keys);
        self
    }

    fn token(&self, attempt: &Attempt) -> Result<Login> {
        let (host, port) = match &self.endpoint {
            Some((host, port)) => (host, *port),
            None => (&attempt.host, attempt.port),
        };
        let user = user(attempt)?;
        self.tokens.token(
            attempt,
            &Subject {
                service: "rds-db",
                host: format!("{host}:{port}"),
                region: region(host),
                parameters: &[("Action", "connect"), ("DBUser", user)],
            },
        )
    }
}

impl DsqlToken {
    /// Creates credentials with Lambda's keys, for the host of the connection.
    pub fn new() -> Self {
        DsqlToken {
            tokens: Tokens::default(),
            endpoint: None,
        }
    }

    /// Sets the host to sign for. Default: the host of the connection.
    pub fn endpoint(mut self, host: impl Into<String>) -> Self {
        self.endpoint = Some(host.into());
        self
    }

    /// Sets the region.
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.tokens.identity.region = Some(region.into());
        self
    }

    /// Sets the keys that sign the token.
    pub fn keys(mut self, keys: AwsKeys) -> Self {
        self.tokens.identity.keys = Some(keys);
        self
    }

    fn token(&self, attempt: &Attempt) -> Result<Login> {
        let host = self.endpoint.as_ref().unwrap_or(&attempt.host);
        let action = match user(attempt)? {
            "admin" => "DbConnectAdmin",
            _ => "DbConnect",
        };
        self.tokens.token(
            attempt,
            &Subject {
                service: "dsql",
                host: host.clone(),
                region: region(host),
                parameters: &[("Action", action)],
            },
        )
    }
}

fn user(attempt: &Attempt) -> Result<&str> {
    attempt.user.as_deref().ok_or_else(|| {
        error::configuration(
            "an IAM token requires a user, but none is configured: put it into the URL",
        )
    })
}

/// The endpoint and user that a token is valid for.
struct Subject<'a> {
    service: &'static str,
    host: String,
    region: Option<String>,
    parameters: &'a [(&'a str, &'a str)],
}

/// Signs tokens, and caches them.
#[derive(Clone)]
struct Tokens {
    identity: Identity,
    clock: Arc<dyn Clock>,
    kept: Arc<Mutex<HashMap<Key, Kept>>>,
}

/// The key of a cached token: everything it depends on except time and secret key.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    id: String,
    region: String,
    host: String,
    parameters: String,
}

struct Kept {
    login: Login,
    signed: SystemTime,
}

impl Tokens {
    fn forget(&self) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.clear();
    }

    /// Returns a cached token or signs one. Concurrent callers wait for the signature, which
    /// takes microseconds, and get the same token.
    fn token(&self, attempt: &Attempt, subject: &Subject<'_>) -> Result<Login> {
        let keys = self.identity.keys()?;
        let region = self.identity.region(subject.region.as_deref())?;
        let key = Key {
            id: keys.id.clone(),
            region: region.clone(),
            host: subject.host.clone(),
            parameters: format!("{:?}", subject.parameters),
        };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Kept { login, signed }) = kept.get(&key) {
            if self.clock.since(*signed) < REUSE && !attempt.has_refused(login) {
                return Ok(login.clone());
            }
        }
        let now = self.clock.now();
        let signer = Signer {
            keys: &keys,
            region: &region,
            service: subject.service,
            at: Stamp::of(now)?,
        };
        let login = Login::password(signer.presigned(&subject.host, subject.parameters, LIFE));
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(
            key,
            Kept {
                login: login.clone(),
                signed: now,
            },
        );
        Ok(login)
    }
}

impl Credentials for RdsToken {
    fn login<'a>(&'a self, attempt: &'a Attempt) -> LoginFuture<'a> {
        Box::pin(ready(self.token(attempt).map_err(Into::into)))
    }

    fn forget(&self) {
        self.tokens.forget();
    }
}

impl Credentials for DsqlToken {
    fn login<'a>(&'a self, attempt: &'a Attempt) -> LoginFuture<'a> {
        Box::pin(ready(self.token(attempt).map_err(Into::into)))
    }

    fn forget(&self) {
        self.tokens.forget();
    }
}

impl Default for RdsToken {
    fn default() -> Self {
        RdsToken::new()
    }
}

impl Default for DsqlToken {
    fn default() -> Self {
        DsqlToken::new()
    }
}

impl Default for Tokens {
    fn default() -> Self {
        Tokens {
            identity: Identity::default(),
            clock: Arc::new(System),
            kept: Arc::default(),
        }
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens")
            .field("region", &self.identity.region)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clock that the test advances.
    #[derive(Debug)]
    struct Manual(Mutex<SystemTime>);

    impl Manual {
        fn new() -> Arc<Self> {
            Arc::new(Manual(Mutex::new(SystemTime::UNIX_EPOCH)))
        }

        fn advance(&self, by: Duration) {
            *self.0.lock().expect("no panic") += by;
        }
    }

    impl Clock for Manual {
        fn now(&self) -> SystemTime {
            *self.0.lock().expect("no panic")
        }
    }

    fn attempt(host: &str, port: u16, user: &str) -> Attempt {
        Attempt::new(host, port, Some(user))
    }

    const RDS: &str = "prod-instance.us-east-1.rds.amazonaws.com";

    /// Creates tokens at this many seconds since 1970.
    fn tokens(seconds: u64) -> (Tokens, Arc<Manual>) {
        let clock = Manual::new();
        clock.advance(Duration::from_secs(seconds));
        let tokens = Tokens {
            clock: clock.clone(),
            ..Tokens::default()
        };
        (tokens, clock)
    }

    fn rds(seconds: u64, keys: AwsKeys) -> (RdsToken, Arc<Manual>) {
        let (tokens, clock) = tokens(seconds);
        let rds = RdsToken {
            tokens,
            endpoint: None,
        };
        (rds.keys(keys), clock)
    }

    fn dsql(seconds: u64, keys: AwsKeys) -> DsqlToken {
        let dsql = DsqlToken {
            tokens: tokens(seconds).0,
            endpoint: None,
        };
        dsql.keys(keys)
    }

    #[test]
    fn forgotten_tokens_are_signed_again() {
        let (token, _) = rds(1_724_709_600, AwsKeys::new("akid", "secret"));
        token.token(&attempt(RDS, 3306, "peccy")).expect("a token");
        let kept = || token.tokens.kept.lock().expect("no panic").len();
        assert_eq!(kept(), 1);
        token.forget();
        assert_eq!(kept(), 0);
    }

    /// `signing_works` in `aws-sdk-rds` (Rust, `src/auth_token.rs`), and
    /// `test_generate_db_auth_token` of botocore (`tests/unit/test_signers.py`).
    #[test]
    fn rds_tokens_match_those_of_the_sdks() {
        let (token, _) = rds(1_724_709_600, AwsKeys::new("akid", "secret"));
        let token = token.token(&attempt(RDS, 3306, "peccy")).expect("a token");
        let expected = "prod-instance.us-east-1.rds.amazonaws.com:3306/?Action=connect\
            &DBUser=peccy&X-Amz-Algorithm=AWS4-HMAC-SHA256\
            &X-Amz-Credential=akid%2F20240826%2Fus-east-1%2Frds-db%2Faws4_request\
            &X-Amz-Date=20240826T220000Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host\
            &X-Amz-Signature=dd0cba843009474347af724090233265628ace491ea17ce3eb3da098b983ad89";
        assert!(token == Login::password(expected));

        let (token, _) = rds(1_478_540_373, AwsKeys::new("akid", "skid"));
        let token = token.token(&attempt(RDS, 3306, "someusername"));
        let expected = "prod-instance.us-east-1.rds.amazonaws.com:3306/?Action=connect\
            &DBUser=someusername&X-Amz-Algorithm=AWS4-HMAC-SHA256\
            &X-Amz-Credential=akid%2F20161107%2Fus-east-1%2Frds-db%2Faws4_request\
            &X-Amz-Date=20161107T173933Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host\
            &X-Amz-Signature=d1138cdbc0ca63eec012ec0fc6c2267e03642168f5884a7795320d4c18374c61";
        assert!(token.expect("a token") == Login::password(expected));
    }

    /// `DefaultDsqlUtilitiesTest` of the AWS SDK for Java 2 (`services/dsql`). Compares the
    /// signatures only, since its parameters have another order.
    #[test]
    fn dsql_tokens_match_those_of_the_sdks() {
        let host = "test.dsql.us-east-1.on.aws";
        let token = dsql(1_731_001_173, AwsKeys::new("access_key", "secret_key"));
        for (user, action, signature) in [
            (
                "app",
                "DbConnect",
                "e319d85380261f643d78a558f76257f05aacea758a6ccd42a2510e2ae0854a47",
            ),
            (
                "admin",
                "DbConnectAdmin",
                "a08adc4c84a490014ce374b90c98ba9ed015b77b451c0d9f9fb3f8ca8c6f9c36",
            ),
        ] {
            let token = token.token(&attempt(host, 5432, user)).expect("a token");
            let expected = format!(
                "{host}/?Action={action}&X-Amz-Algorithm=AWS4-HMAC-SHA256\
                 &X-Amz-Credential=access_key%2F20241107%2Fus-east-1%2Fdsql%2Faws4_request\
                 &X-Amz-Date=20241107T173933Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host\
                 &X-Amz-Signature={signature}"
            );
            assert!(token == Login::password(expected), "{user}");
        }
    }

    /// `aws_dsql_auth_token_generate` with a session token, in the tests of `aws-c-auth`
    /// (`tests/aws_dsql_auth_test.c`), valid for 450 seconds.
    #[test]
    fn temporary_keys_sign_tokens() {
        let keys = AwsKeys::new("akid", "secret").session_token("token");
        let signer = Signer {
            keys: &keys,
            region: "us-east-1",
            service: "dsql",
            at: Stamp::of(super::super::sign::tests::at(1_724_716_800)).expect("a time"),
        };
        let parameters = [("Action", "DbConnectAdmin")];
        let token = signer.presigned("peccy.dsql.us-east-1.on.aws", &parameters, 450);
        let signature = token.rsplit_once('=').expect("a signature").1;
        assert_eq!(
            signature,
            "dd5373133b347f82a6e8a710e5fbd367f5e1d84824dc148b96d5f45089cb47f0"
        );
    }

    #[test]
    fn tokens_are_reused_for_ten_minutes() {
        let (token, clock) = rds(1_724_709_600, AwsKeys::new("akid", "secret"));
        let first = attempt(RDS, 5432, "app");
        let signed = token.token(&first).expect("a token");
        clock.advance(REUSE - Duration::from_secs(1));
        assert!(token.token(&first).expect("a token") == signed);
        let other = attempt(RDS, 5432, "other");
        assert!(token.token(&other).expect("a token") != signed);
        clock.advance(Duration::from_secs(1));
        assert!(token.token(&first).expect("a token") != signed);
    }

    #[test]
    fn rejected_tokens_are_not_reused() {
        let (token, clock) = rds(1_724_709_600, AwsKeys::new("akid", "secret"));
        let mut attempt = attempt(RDS, 5432, "app");
        let signed = token.token(&attempt).expect("a token");
        clock.advance(Duration::from_secs(1));
        attempt.refused = Some(signed.clone());
        let anew = token.token(&attempt).expect("a token");
        assert!(anew != signed);
        // A connection with the first token rejected also gets the second.
        clock.advance(Duration::from_secs(1));
        assert!(token.token(&attempt).expect("a token") == anew);
    }

    #[test]
    fn debug_shows_no_secrets() {
        let (token, _) = rds(1_724_709_600, AwsKeys::new("akid", "hunter2"));
        token.token(&attempt(RDS, 5432, "app")).expect("a token");
        let debug = format!("{token:?}");
        assert!(
            !debug.contains("hunter2") && !debug.contains("Signature"),
            "{debug}"
        );
    }

    #[test]
    fn tokens_require_a_user() {
        let (token, _) = rds(0, AwsKeys::new("akid", "secret"));
        let mut attempt = attempt(RDS, 5432, "app");
        attempt.user = None;
        let error = token.token(&attempt).expect_err("no user");
        assert!(error.to_string().contains("user"), "{error}");
    }
}
