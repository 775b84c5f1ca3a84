//! Credentials from AWS Secrets Manager.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use antifreeze::credentials::{Attempt, Credentials, Login, LoginFuture};
use antifreeze::internal::error;
use antifreeze::internal::{Clock, System};
use antifreeze::{Error, ErrorKind, Result};
use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::keys::{Identity, Variables};
use super::sign::{Signer, Stamp};
use super::{AwsKeys, https};

/// Variables with the URL of the service, for tests and private endpoints (AWS SDKs reference
/// guide, "Service-specific endpoints"). The first that is set applies.
const ENDPOINTS: [&str; 2] = ["AWS_ENDPOINT_URL_SECRETS_MANAGER", "AWS_ENDPOINT_URL"];

/// A user and password in AWS Secrets Manager, such as those that RDS creates and rotates.
///
/// The secret is either JSON with `password`, and `username` unless the configuration's user
/// applies, or the plain password. It is fetched for the first connection and kept until the
/// server rejects it, as it does after a rotation; then it is fetched again. Concurrent
/// connections fetch it once.
///
/// The role needs `secretsmanager:GetSecretValue`. The keys are Lambda's
/// (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`), unless
/// [others](SecretsManager::keys) are given; the region is that of the ARN, or else
/// `AWS_REGION`. `AWS_ENDPOINT_URL_SECRETS_MANAGER` overrides the URL of the service.
///
/// ```
/// use antifreeze_aws::SecretsManager;
///
/// let config = antifreeze::Config::from_url("postgres://db.example.com/shop")?
///     .credentials(SecretsManager::new("prod/shop"));
/// # Ok::<(), antifreeze::Error>(())
/// ```
#[derive(Clone)]
pub struct SecretsManager {
    secret: String,
    identity: Identity,
    endpoint: Option<String>,
    clock: Arc<dyn Clock>,
    /// Locked while the secret is fetched: waiting connections then find it. If the fetching
    /// one is cancelled, the next fetches it.
    kept: Arc<Mutex<Option<Login>>>,
    /// Whether to discard the secret that is being fetched, once it arrives.
    forgotten: Arc<AtomicBool>,
}

impl SecretsManager {
    /// Creates credentials from the secret of this name or ARN.
    pub fn new(secret: impl Into<String>) -> Self {
        SecretsManager {
            secret: secret.into(),
            identity: Identity::default(),
            endpoint: None,
            clock: Arc::new(System),
            kept: Arc::default(),
            forgotten: Arc::default(),
        }
    }

    /// Sets the region.
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.identity.region = Some(region.into());
        self
    }

    /// Sets the keys that sign the request.
    pub fn keys(mut self, keys: AwsKeys) -> Self {
        self.identity.keys = Some(keys);
        self
    }

    /// Sets the URL of the service, whatever the environment says.
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.endpoint = Some(url.into());
        self
    }

    async fn answer(&self, attempt: &Attempt) -> Result<Login> {
        let mut kept = self.kept.lock().await;
        match &*kept {
            Some(login) if !attempt.has_refused(login) => Ok(login.clone()),
            _ => {
                let login = self.fetch().await?;
                let keeps = !self.forgotten.swap(false, Ordering::AcqRel);
                *kept = keeps.then(|| login.clone());
                Ok(login)
            }
        }
    }

    async fn fetch(&self) -> Result<Login> {
        let request = self.request()?;
        let response = https::send(request).await.map_err(|error| {
            let what = "Secrets Manager does not answer: a function in a VPC reaches it through \
                        a NAT gateway or an interface endpoint";
            error::because(ErrorKind::Unreachable, what, error)
        })?;
        read(&self.secret, &response)
    }

    /// Creates a signed GetSecretValue request (Secrets Manager API reference).
    fn request(&self) -> Result<Request<Bytes>> {
        let region = self.identity.region(region_of_arn(&self.secret))?;
        let keys = self.identity.keys()?;
        let uri = self.uri(&region, &|name| std::env::var(name).ok())?;
        let host = uri.authority().map_or("", |authority| authority.as_str());
        let body = json!({ "SecretId": self.secret }).to_string();
        let signer = Signer {
            keys: &keys,
            region: &region,
            service: "secretsmanager",
            at: Stamp::of(self.clock.now())?,
        };
        let mut headers = vec![
            ("content-type", "application/x-amz-json-1.1"),
            ("host", host),
            ("x-amz-date", signer.at.time()),
        ];
        if let Some(session) = &keys.session {
            headers.push(("x-amz-security-token", session));
        }
        headers.push(("x-amz-target", "secretsmanager.GetSecretValue"));
        let authorization = signer.authorization(&headers, body.as_bytes());
        let mut request = Request::post(uri.clone());
        for (name, value) in headers {
            request = request.header(name, value);
        }
        request
            .header("authorization", authorization)
            .body(body.into())
            .map_err(|_| {
                error::configuration(
                    "the AWS keys contain invalid characters: check that they are complete",
                )
            })
    }

    fn uri(&self, region: &str, variables: &Variables<'_>) -> Result<Uri> {
        let set = |name| variables(name).filter(|url| !url.is_empty());
        let given = self.endpoint.clone();
        let url = given
            .or_else(|| ENDPOINTS.into_iter().find_map(set))
            .unwrap_or_else(|| {
                // AWS General Reference, "Service endpoints".
                let china = if region.starts_with("cn-") { ".cn" } else { "" };
                format!("https://secretsmanager.{region}.amazonaws.com{china}")
            });
        let uri = url.parse::<Uri>().ok();
        uri.filter(|uri| uri.scheme().is_some() && uri.authority().is_some())
            .ok_or_else(|| {
                error::configuration(format!(
                    "invalid URL of Secrets Manager: expected https://host in {}",
                    ENDPOINTS.join(" or ")
                ))
            })
    }
}

/// Returns the region of `arn:aws:secretsmanager:REGION:account:secret:name`.
fn region_of_arn(secret: &str) -> Option<&str> {
    let mut parts = secret.split(':');
    let is_arn = parts.next() == Some("arn");
    let region = parts.nth(2)?;
    (is_arn && !region.is_empty()).then_some(region)
}

/// Reads the response. Drops errors of the JSON parser, since they may quote the secret.
fn read(secret: &str, response: &Response<Bytes>) -> Result<Login> {
    let answer: Option<Value> = serde_json::from_slice(response.body()).ok();
    if response.status() != StatusCode::OK {
        return Err(refusal(secret, response.status(), answer.as_ref()));
    }
    let value = answer
        .as_ref()
        .and_then(|answer| answer["SecretString"].as_str());
    let unusable = |what: &str| {
        error::configuration(format!(
            "the secret {secret} is {what}: expected JSON with `username` and `password`"
        ))
    };
    let value = value.ok_or_else(|| unusable("no text"))?;
    if !value.trim_start().starts_with('{') {
        return match value {
            "" => Err(unusable("empty")),
            password => Ok(Login::password(password)),
        };
    }
    let value: Value = serde_json::from_str(value).map_err(|_| unusable("no JSON"))?;
    let login = match value["password"].as_str() {
        Some(password) if !password.is_empty() => Login::password(password),
        _ => return Err(unusable("JSON without `password`")),
    };
    Ok(match value["username"].as_str() {
        Some(user) => login.of_user(user),
        None => login,
    })
}

/// Converts an error response. `__type` has the name of the error, possibly after a `#`.
fn refusal(secret: &str, status: StatusCode, answer: Option<&Value>) -> Error {
    let name = answer.and_then(|answer| answer["__type"].as_str());
    let name = name.map(|name| name.rsplit('#').next().unwrap_or(name));
    let remedy = match name {
        Some("ResourceNotFoundException") => "check its name and the region",
        Some("AccessDeniedException") => "grant the role secretsmanager:GetSecretValue",
        Some("DecryptionFailure") => "grant the role kms:Decrypt for the secret's key",
        _ if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => "try again",
        _ => "check the function's role and clock",
    };
    // Transient errors are retried.
    let kind = match name {
        Some("ThrottlingException" | "InternalServiceError") => ErrorKind::Unreachable,
        _ if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
            ErrorKind::Unreachable
        }
        _ => ErrorKind::Configuration,
    };
    let name = name.map_or(String::new(), |name| format!(", {name}"));
    error::new(
        kind,
        format!(
            "Secrets Manager rejected the request for secret {secret} ({status}{name}): {remedy}"
        ),
    )
}

impl Credentials for SecretsManager {
    fn login<'a>(&'a self, attempt: &'a Attempt) -> LoginFuture<'a> {
        Box::pin(async move { Ok(self.answer(attempt).await?) })
    }

    fn forget(&self) {
        match self.kept.try_lock() {
            Ok(mut kept) => *kept = None,
            Err(_) => self.forgotten.store(true, Ordering::Release),
        }
    }
}

impl fmt::Debug for SecretsManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretsManager")
            .field("secret", &self.secret)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, body: &str) -> Response<Bytes> {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let response = Response::builder().status(status).body(body);
        response.expect("a response")
    }

    #[test]
    fn secrets_are_json_or_a_plain_password() {
        let read = |secret: &str| {
            let body = json!({ "Name": "s", "SecretString": secret }).to_string();
            read("s", &response(200, &body))
        };
        for (secret, expected) in [
            (
                r#"{"username":"app","password":"x"}"#,
                Login::password("x").of_user("app"),
            ),
            (
                r#" {"password":"x","engine":"postgres","port":5432}"#,
                Login::password("x"),
            ),
            ("only a password", Login::password("only a password")),
        ] {
            assert_eq!(read(secret).expect("a login"), expected);
        }
        for (secret, said) in [
            (r#"{"password":5}"#, "without `password`"),
            (r#"{"username":"hunter2"}"#, "without `password`"),
            (r#"{"password":"hunter2""#, "no JSON"),
            ("", "empty"),
        ] {
            let error = read(secret).expect_err("unusable");
            let shown = format!("{error} {error:?}");
            assert!(
                shown.contains(said) && !shown.contains("hunter2"),
                "{shown}"
            );
        }
        let binary = read_binary();
        assert!(binary.to_string().contains("no text"), "{binary}");
    }

    fn read_binary() -> Error {
        read("s", &response(200, r#"{"SecretBinary":"aHVudGVyMg=="}"#)).expect_err("no text")
    }

    #[test]
    fn error_responses_have_a_remedy() {
        for (status, body, kind, said) in [
            (
                400,
                r#"{"__type":"ResourceNotFoundException","Message":"secret text"}"#,
                ErrorKind::Configuration,
                "ResourceNotFoundException): check its name",
            ),
            (
                400,
                r#"{"__type":"com.amazon.coral.service#AccessDeniedException"}"#,
                ErrorKind::Configuration,
                "AccessDeniedException): grant the role secretsmanager:GetSecretValue",
            ),
            (
                400,
                r#"{"__type":"ThrottlingException"}"#,
                ErrorKind::Unreachable,
                "ThrottlingException",
            ),
            (500, "no JSON", ErrorKind::Unreachable, "500"),
            (403, "", ErrorKind::Configuration, "clock"),
        ] {
            let error = read("prod/shop", &response(status, body)).expect_err("refused");
            assert_eq!(error.kind(), kind, "{error}");
            let shown = error.to_string();
            assert!(
                shown.contains(said) && shown.contains("prod/shop"),
                "{shown}"
            );
            assert!(!shown.contains("secret text"), "{shown}");
        }
    }

    #[test]
    fn arns_contain_the_region() {
        let arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:prod/shop-AbCdEf";
        assert_eq!(region_of_arn(arn), Some("eu-central-1"));
        for name in ["prod/shop", "a:b:c:d", "arn:aws:secretsmanager::1:secret:x"] {
            assert_eq!(region_of_arn(name), None);
        }
    }

    #[test]
    fn endpoint_follows_from_region_or_setting() {
        let all = [
            ("AWS_ENDPOINT_URL", "http://all:1"),
            ("AWS_ENDPOINT_URL_SECRETS_MANAGER", "http://secrets:2"),
        ];
        for (given, set, region, expected) in [
            (
                None,
                &all[..0],
                "eu-central-1",
                "https://secretsmanager.eu-central-1.amazonaws.com/",
            ),
            (
                None,
                &all[..0],
                "cn-north-1",
                "https://secretsmanager.cn-north-1.amazonaws.com.cn/",
            ),
            (None, &all[..1], "eu-central-1", "http://all:1/"),
            (None, &all, "eu-central-1", "http://secrets:2/"),
            (
                Some("http://given:3"),
                &all,
                "eu-central-1",
                "http://given:3/",
            ),
        ] {
            let mut secret = SecretsManager::new("s");
            secret.endpoint = given.map(str::to_owned);
            let variables = |name: &str| {
                let found = set.iter().find(|(variable, _)| *variable == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            let uri = secret.uri(region, &variables).expect("a URI");
            assert_eq!(uri.to_string(), expected);
        }
        let secret = SecretsManager::new("s").endpoint("nonsense");
        let error = secret.uri("a", &|_| None).expect_err("no URL");
        assert!(error.to_string().contains("AWS_ENDPOINT_URL"), "{error}");
    }
}
