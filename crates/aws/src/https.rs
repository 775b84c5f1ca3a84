//! Sends a request to an AWS service.
//!
//! A process usually sends one request in its lifetime, so each has its own connection, which
//! is closed after the response.

use std::pin::pin;
use std::sync::Arc;

use antifreeze::credentials::BoxError;
use bytes::Bytes;
use futures_util::future::{Either, select};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The largest response. A secret has 64 KiB at most (Secrets Manager user guide, "Quotas"),
/// and more as JSON.
const LONGEST: usize = 1 << 20;

/// Sends `request`, whose URI is absolute, and reads the whole response.
pub(super) async fn send(request: Request<Bytes>) -> Result<Response<Bytes>, BoxError> {
    let uri = request.uri().clone();
    let host = uri.host().ok_or("the URL of the service has no host")?;
    let encrypted = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err("the URL of the service must begin with https:// or http://".into()),
    };
    let port = uri.port_u16().unwrap_or(if encrypted { 443 } else { 80 });
    // An IPv6 address has brackets only in a URI.
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    if encrypted {
        let name = ServerName::try_from(host.to_owned())?;
        let stream = TlsConnector::from(Arc::new(tls()?)).connect(name, stream);
        exchange(TokioIo::new(stream.await?), request).await
    } else {
        exchange(TokioIo::new(stream), request).await
    }
}

/// Configures TLS with an explicit provider: the process's default may be missing.
fn tls() -> Result<ClientConfig, BoxError> {
    let roots: RootCertStore = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

async fn exchange(
    io: impl Read + Write + Unpin,
    request: Request<Bytes>,
) -> Result<Response<Bytes>, BoxError> {
    let (sender, connection) = handshake(io).await?;
    let answered = pin!(answer(sender, request));
    // The connection is polled here and dropped with the response, without a task.
    match select(answered, connection).await {
        Either::Left((answered, _)) => answered,
        Either::Right((_, answered)) => answered.await,
    }
}

async fn answer(
    mut sender: SendRequest<Full<Bytes>>,
    request: Request<Bytes>,
) -> Result<Response<Bytes>, BoxError> {
    // In HTTP/1.1, the request target is the path, and the host is a header.
    let (mut parts, body) = request.into_parts();
    parts.uri = Uri::from_static("/");
    let response = sender
        .send_request(Request::from_parts(parts, Full::new(body)))
        .await?;
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, LONGEST).collect().await?.to_bytes();
    Ok(Response::from_parts(parts, body))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn listener() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        (listener, address.to_string())
    }

    fn request(url: &str) -> Request<Bytes> {
        let request = Request::post(url).header("host", "somewhere");
        request.body(Bytes::from("{}")).expect("a request")
    }

    #[tokio::test]
    async fn https_requires_a_tls_handshake() {
        let (listener, address) = listener().await;
        let server = async {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let mut record = [0; 3];
            stream.read_exact(&mut record).await.expect("a record");
            stream.write_all(b"no TLS here").await.expect("written");
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            (record, rest)
        };
        let url = format!("https://{address}/");
        let ((record, rest), response) = tokio::join!(server, send(request(&url)));
        // A TLS handshake record (RFC 8446, section 5.1).
        assert_eq!(record, [22, 3, 1]);
        assert!(!rest.windows(4).any(|bytes| bytes == b"POST"));
        assert!(response.is_err());
    }

    #[tokio::test]
    async fn closed_connections_are_errors() {
        let (listener, address) = listener().await;
        let server = async { drop(listener.accept().await) };
        let url = format!("http://{address}/");
        let ((), response) = tokio::join!(server, send(request(&url)));
        assert!(response.is_err());
    }

    #[tokio::test]
    async fn urls_without_http_scheme_are_rejected() {
        for url in ["ftp://127.0.0.1/", "/path"] {
            assert!(send(request(url)).await.is_err(), "{url}");
        }
    }
}
