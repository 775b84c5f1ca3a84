//! One request to a service of AWS.
//!
//! It is made once in the life of a process, as a rule: a connection of its own, and
//! nothing that is kept or that runs on.

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

/// A secret has 64 KiB at most (Secrets Manager's user guide, "Quotas"); in JSON it is
/// longer.
const LONGEST: usize = 1 << 20;

/// Sends `request`, whose URI is whole, and reads the whole response.
pub(super) async fn send(request: Request<Bytes>) -> Result<Response<Bytes>, BoxError> {
    let uri = request.uri().clone();
    let host = uri.host().ok_or("the address of the service has no host")?;
    let encrypted = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err("the address of the service begins with neither https nor http".into()),
    };
    let port = uri.port_u16().unwrap_or(if encrypted { 443 } else { 80 });
    // A URI has an IPv6 address in brackets, nobody else has.
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

/// The provider is named: the process's default may be missing or set twice.
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
    // Driven here and dropped with the answer: no task is left behind.
    match select(answered, connection).await {
        Either::Left((answered, _)) => answered,
        Either::Right((_, answered)) => answered.await,
    }
}

async fn answer(
    mut sender: SendRequest<Full<Bytes>>,
    request: Request<Bytes>,
) -> Result<Response<Bytes>, BoxError> {
    // The target of HTTP/1.1 is the path; the host is a header.
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
    async fn request_waits_for_the_tls_handshake() {
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
        // A handshake of TLS 1 (RFC 8446, section 5.1).
        assert_eq!(record, [22, 3, 1]);
        assert!(!rest.windows(4).any(|bytes| bytes == b"POST"));
        assert!(response.is_err());
    }

    #[tokio::test]
    async fn service_that_hangs_up_is_an_error() {
        let (listener, address) = listener().await;
        let server = async { drop(listener.accept().await) };
        let url = format!("http://{address}/");
        let ((), response) = tokio::join!(server, send(request(&url)));
        assert!(response.is_err());
    }

    #[tokio::test]
    async fn address_without_a_scheme_is_refused() {
        for url in ["ftp://127.0.0.1/", "/path"] {
            assert!(send(request(url)).await.is_err(), "{url}");
        }
    }
}
