//! The deployed function, over HTTP.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use lab::{Error, OrSay, Result};
use rustls::pki_types::{ServerName, TrustAnchor};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Longer than the function's own timeout should be.
const LIMIT: Duration = Duration::from_secs(60);

pub struct Function {
    address: Uri,
    token: String,
    tls: Arc<ClientConfig>,
    pub description: Description,
}

/// What the function says of itself.
pub struct Description {
    pub value: Value,
    pub database: String,
    pub role: String,
    pub started: String,
    pub application_name: String,
}

/// How a request for an ending was answered.
pub struct Answer {
    /// Nothing if there was no response.
    pub status: Option<StatusCode>,
    pub took: Duration,
    /// Why the ending was not reached, if the function says so.
    pub error: Option<String>,
}

impl Function {
    /// Finds out whether the function is there and what it is.
    pub async fn find(url: &str, token: &str) -> Result<Function> {
        let address = address(url)?;
        let host = address.host().unwrap_or_default().to_owned();
        let function = Function {
            address,
            token: token.to_owned(),
            tls: Arc::new(tls(webpki_roots::TLS_SERVER_ROOTS.iter().cloned())),
            description: Description::of(Value::Null),
        };
        let response = function.send(Method::GET, "").await?;
        let value = serde_json::from_slice(response.body()).unwrap_or(Value::Null);
        let said = value["error"].as_str().unwrap_or_default();
        let status = response.status();
        let refusal = match status.as_u16() {
            200 if value["function"] == "antifreeze prove" => {
                let description = Description::of(value);
                return Ok(Function {
                    description,
                    ..function
                });
            }
            401 => "PROVE_TOKEN is not the one that the function was deployed with; or Vercel's \
                 Deployment Protection refuses everyone: use the production domain"
                .to_owned(),
            403 => "the host refuses the request: a function URL needs the auth type NONE, and a \
                 permission for everyone to invoke it"
                .to_owned(),
            300..=399 => "it redirects: give the address that it redirects to".to_owned(),
            500 if !said.is_empty() => {
                format!("the function cannot use its database: {said}")
            }
            _ => "is this the function of prove/, deployed with a PROVE_TOKEN of at least 16 \
                 characters? See docs/prove.md"
                .to_owned(),
        };
        Err(Error::new(format!("{host} answered {status}: {refusal}")))
    }

    /// Asks for an ending. No response at all is one answer of several.
    pub async fn end(&self, ending: &str, tag: u64) -> Result<Answer> {
        let begin = Instant::now();
        let query = format!("ending={ending}&tag={tag:x}");
        let response = self.send(Method::POST, &query).await;
        let took = begin.elapsed();
        if took >= LIMIT {
            return Err(Error::new(format!(
                "no response within {} s: set the function's timeout below that",
                LIMIT.as_secs()
            )));
        }
        let Ok(response) = response else {
            let status = None;
            let error = None;
            return Ok(Answer {
                status,
                took,
                error,
            });
        };
        let status = response.status();
        let value: Value = serde_json::from_slice(response.body()).unwrap_or(Value::Null);
        let error = value["error"].as_str().map(str::to_owned);
        Ok(Answer {
            status: Some(status),
            took,
            error,
        })
    }

    async fn send(&self, method: Method, query: &str) -> Result<Response<Bytes>> {
        let sent = tokio::time::timeout(LIMIT, self.exchange(method, query)).await;
        sent.or_say(|| "no response in time")?
    }

    /// Each request has a connection of its own.
    async fn exchange(&self, method: Method, query: &str) -> Result<Response<Bytes>> {
        let host = self.address.host().unwrap_or_default();
        let is_encrypted = self.address.scheme_str() == Some("https");
        let port = self.address.port_u16();
        let port = port.unwrap_or(if is_encrypted { 443 } else { 80 });
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((bare, port)).await;
        let stream = stream.or_say(|| format!("cannot connect to {host}, port {port}"))?;
        let request = self.request(method, query)?;
        if !is_encrypted {
            return send(stream, request).await;
        }
        let name = ServerName::try_from(bare.to_owned());
        let name = name.or_say(|| format!("{host} is no name of a host"))?;
        let connecting = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream);
        let stream = connecting.await;
        send(stream.or_say(|| format!("no TLS with {host}"))?, request).await
    }

    fn request(&self, method: Method, query: &str) -> Result<Request<Empty<Bytes>>> {
        let path = self.address.path();
        let authority = self.address.authority();
        let request = Request::builder()
            .method(method)
            .uri(format!("{path}?{query}"))
            .header(
                header::HOST,
                authority.map_or("", |authority| authority.as_str()),
            )
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .header(header::CONTENT_LENGTH, 0)
            .header(header::CONNECTION, "close")
            .body(Empty::new());
        request.or_say(|| "PROVE_TOKEN has characters that no header may have")
    }
}

impl Description {
    fn of(value: Value) -> Description {
        let text = |name: &str| {
            value["server"][name]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        Description {
            database: text("database"),
            role: text("role"),
            started: text("started"),
            application_name: text("application_name"),
            value,
        }
    }

    /// The endings that this version of the function has, without those that cannot be proved.
    pub fn endings(&self) -> Vec<(String, String)> {
        let endings = self.value["endings"].as_array();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let endings = endings.into_iter().flatten();
        let endings = endings.map(|ending| (text(&ending["name"]), text(&ending["does"])));
        let skipped = self.skipped();
        endings
            .filter(|(name, _)| !skipped.contains(&name.as_str()))
            .collect()
    }

    /// The endings that leave session state: behind a transaction pooler it is the state of the
    /// pooler's session, which nothing in the function can find again.
    pub fn skipped(&self) -> &'static [&'static str] {
        if self.value["pooler"] == "transaction" {
            &["advisory", "state"]
        } else {
            &[]
        }
    }
}

/// The address, which may have a path; the token is sent in clear only to this machine.
fn address(url: &str) -> Result<Uri> {
    // The text itself may have a password in it.
    let address: Uri = url
        .parse()
        .or_say(|| "the address of the function is no URL")?;
    let authority = address
        .authority()
        .map_or("", |authority| authority.as_str());
    let is_local = matches!(address.host(), Some("localhost" | "127.0.0.1" | "[::1]"));
    match address.scheme_str() {
        _ if authority.contains('@') || address.query().is_some() => Err(Error::new(
            "the address of the function must be without a user, a password or a query",
        )),
        Some("https") => Ok(address),
        Some("http") if is_local => Ok(address),
        _ => Err(Error::new(
            "the address of the function must begin with https:// (http:// only for localhost)",
        )),
    }
}

fn tls(roots: impl Iterator<Item = TrustAnchor<'static>>) -> ClientConfig {
    ClientConfig::builder()
        .with_root_certificates(RootCertStore::from_iter(roots))
        .with_no_client_auth()
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Empty<Bytes>>,
) -> Result<Response<Bytes>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .or_say(|| "no HTTP with the host")?;
    tokio::spawn(connection);
    let response = sender.send_request(request).await;
    let (parts, body) = response.or_say(|| "no response")?.into_parts();
    let body = body.collect().await.or_say(|| "the response broke off")?;
    Ok(Response::from_parts(parts, body.to_bytes()))
}

#[cfg(test)]
mod tests {
    use lab::certificates::Authority;
    use rustls::ServerConfig;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    #[tokio::test]
    async fn host_is_verified() {
        let authority = Authority::new().expect("an authority");
        let identity = authority.server(&["localhost"]).expect("a certificate");
        let der =
            |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(identity.key().as_bytes()).expect("a key");
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![der(identity.certificate())], key);
        let acceptor = TlsAcceptor::from(Arc::new(config.expect("a configuration")));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    let _ = stream.read(&mut [0; 4096]).await;
                    let response = b"HTTP/1.1 204 No Content\r\n\r\n";
                    let _ = stream.write_all(response).await;
                    let _ = stream.shutdown().await;
                }
            }
        });
        let mut ours = RootCertStore::empty();
        ours.add(der(authority.pem())).expect("a root");
        let ask = async |host: &str, roots: &RootCertStore| {
            let function = Function {
                address: address(&format!("https://{host}:{port}/x")).expect("an address"),
                token: "token".to_owned(),
                tls: Arc::new(tls(roots.roots.iter().cloned())),
                description: Description::of(Value::Null),
            };
            function.send(Method::GET, "").await
        };
        let response = ask("localhost", &ours).await.expect("a response");
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        for (host, roots) in [("127.0.0.1", &ours), ("localhost", &RootCertStore::empty())] {
            let error = ask(host, roots).await.expect_err("another certificate");
            assert!(error.to_string().starts_with("no TLS with "), "{error:?}");
        }
    }

    #[test]
    fn address_is_encrypted_and_without_secrets() {
        for fine in [
            "https://a.example/api/prove",
            "http://localhost:9000",
            "http://[::1]:1/x",
        ] {
            assert!(address(fine).is_ok(), "{fine}");
        }
        for wrong in [
            "http://a.example",
            "a.example",
            "https://me:secret@a.example/",
            "https://a.example/?token=secret",
            "postgres://localhost",
            "",
        ] {
            let error = address(wrong).expect_err(wrong);
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        }
    }
}
