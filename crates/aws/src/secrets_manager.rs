//! A secret in AWS Secrets Manager.

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

/// Where the service is, for tests and private endpoints (AWS SDKs' reference guide,
/// "Service-specific endpoints"): the first that is set.
const ENDPOINTS: [&str; 2] = ["AWS_ENDPOINT_URL_SECRETS_MANAGER", "AWS_ENDPOINT_URL"];

/// A user and a password in AWS Secrets Manager, such as RDS makes and rotates.
///
/// The secret is JSON with `password`, and `username` if it is not to be the user of the
/// configuration; or nothing but the password. It is fetched with the first connection
/// and kept until the server refuses it, as it does once the secret was rotated; then it
/// is fetched anew. Connections that are made at the same time fetch it once.
///
/// The role needs `secretsmanager:GetSecretValue`. The keys are Lambda's
/// (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`), unless
/// [others](SecretsManager::keys) are given; the region is the one that the ARN names, or
/// else `AWS_REGION`. `AWS_ENDPOINT_URL_SECRETS_MANAGER` leads elsewhere.
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
    /// Held while the secret is fetched: who waits for it finds the answer. If the one
    /// who fetches gives up, the next goes on.
    kept: Arc<Mutex<Option<Login>>>,
    /// What is being fetched is to be forgotten as soon as it is there.
    forgotten: Arc<AtomicBool>,
}

impl SecretsManager {
    /// The secret of this name or ARN.
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

    /// Asks in this region.
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.identity.region = Some(region.into());
        self
    }

    /// Signs with these keys.
    pub fn keys(mut self, keys: AwsKeys) -> Self {
        self.identity.keys = Some(keys);
        self
    }

    /// Asks at this URL, whatever the environment says.
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

    /// GetSecretValue, signed (Secrets Manager's API reference).
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
                error::configuration("the keys of AWS hold what no header can: are they whole?")
            })
    }

    fn uri(&self, region: &str, variables: &Variables<'_>) -> Result<Uri> {
        let set = |name| variables(name).filter(|url| !url.is_empty());
        let given = self.endpoint.clone();
        let url = given
            .or_else(|| ENDPOINTS.into_iter().find_map(set))
            .unwrap_or_else(|| {
                // AWS's general reference, "Service endpoints".
                let china = if region.starts_with("cn-") { ".cn" } else { "" };
                format!("https://secretsmanager.{region}.amazonaws.com{china}")
            });
        let uri = url.parse::<Uri>().ok();
        uri.filter(|uri| uri.scheme().is_some() && uri.authority().is_some())
            .ok_or_else(|| {
                error::configuration(format!(
                    "the address of Secrets Manager is no URL such as https://host: look at {}",
                    ENDPOINTS.join(" and ")
                ))
            })
    }
}

/// `arn:aws:secretsmanager:REGION:account:secret:name`
fn region_of_arn(secret: &str) -> Option<&str> {
    let mut parts = secret.split(':');
    let is_arn = parts.next() == Some("arn");
    let region = parts.nth(2)?;
    (is_arn && !region.is_empty()).then_some(region)
}

/// What parsing complains of is not passed on: it may quote the secret.
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
            "the secret {secret} is {what}: it takes JSON with `username` and `password`"
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

/// The service says no: with a name of its own in `__type`, perhaps behind a `#`.
fn refusal(secret: &str, status: StatusCode, answer: Option<&Value>) -> Error {
    let name = answer.and_then(|answer| answer["__type"].as_str());
    let name = name.map(|name| name.rsplit('#').next().unwrap_or(name));
    let remedy = match name {
        Some("ResourceNotFoundException") => "is the name right, and the region?",
        Some("AccessDeniedException") => "give the role secretsmanager:GetSecretValue",
        Some("DecryptionFailure") => "give the role kms:Decrypt for the secret's key",
        _ if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => "try again",
        _ => "look at the function's role and clock",
    };
    // What can heal is told apart from what cannot.
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
        format!("Secrets Manager refused the secret {secret} ({status}{name}): {remedy}"),
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
    fn secrets_are_read_in_every_form() {
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
    fn refusals_say_what_to_do() {
        for (status, body, kind, said) in [
            (
                400,
                r#"{"__type":"ResourceNotFoundException","Message":"secret text"}"#,
                ErrorKind::Configuration,
                "ResourceNotFoundException): is the name right",
            ),
            (
                400,
                r#"{"__type":"com.amazon.coral.service#AccessDeniedException"}"#,
                ErrorKind::Configuration,
                "AccessDeniedException): give the role secretsmanager:GetSecretValue",
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
    fn arn_determines_the_region() {
        let arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:prod/shop-AbCdEf";
        assert_eq!(region_of_arn(arn), Some("eu-central-1"));
        for name in ["prod/shop", "a:b:c:d", "arn:aws:secretsmanager::1:secret:x"] {
            assert_eq!(region_of_arn(name), None);
        }
    }

    #[test]
    fn endpoint_follows_the_region_by_default() {
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
