//! Sends an HTTP request without a client library.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ::http::{Request, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Sends it on a connection of its own.
pub async fn send(
    to: SocketAddr,
    mut request: Request<Bytes>,
) -> Result<Response<Bytes>, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(to).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let host = to.to_string().parse()?;
    request.headers_mut().insert("host", host);
    let response = sender.send_request(request.map(Full::new)).await?;
    let (parts, body) = response.into_parts();
    Ok(Response::from_parts(
        parts,
        body.collect().await?.to_bytes(),
    ))
}

pub async fn post(to: SocketAddr, path: &str, body: impl Into<Bytes>) -> Response<Bytes> {
    let request = Request::post(path).body(body.into()).expect("a request");
    send(to, request).await.expect("an answer")
}

pub async fn get(to: SocketAddr, path: &str) -> Response<Bytes> {
    let request = Request::get(path).body(Bytes::new()).expect("a request");
    send(to, request).await.expect("an answer")
}

/// A port that is free now.
pub fn free() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], lab::free_port().expect("a port")))
}

/// Waits until a server listens.
pub async fn listening(address: SocketAddr) {
    let limit = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(address).await.is_err() {
        assert!(Instant::now() < limit, "no server listens on {address}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
