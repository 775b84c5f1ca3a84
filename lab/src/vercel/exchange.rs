//! One request to the process, over a TCP connection of its own.

use std::net::Ipv4Addr;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header::HOST};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::{Result, error::OrSay};

/// Sends the request and collects the whole response.
pub(super) async fn exchange(port: u16, request: Request<Bytes>) -> Result<Response<Bytes>> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .await
        .or_say(|| "could not reach the process")?;
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .or_say(|| "could not speak HTTP to the process")?;
    let connection = tokio::spawn(connection);
    let response = sender
        .send_request(request.map(Full::new))
        .await
        .or_say(|| "the process gave no response")?;
    let (parts, body) = response.into_parts();
    let body = body
        .collect()
        .await
        .or_say(|| "the response broke off")?
        .to_bytes();
    drop(sender);
    let _ = connection.await;
    Ok(Response::from_parts(parts, body))
}

/// The request as the host passes it on.
pub(super) fn prepare(
    mut request: Request<Bytes>,
    invocation_id: &str,
    request_id: u64,
) -> Result<Request<Bytes>> {
    let path = request
        .uri()
        .path_and_query()
        .map_or("/", |path| path.as_str());
    let path = path.parse::<Uri>().or_say(|| "the request has no path")?;
    let host = match request.uri().authority() {
        Some(authority) => authority.to_string(),
        None => "lab.vercel.app".to_owned(),
    };
    *request.uri_mut() = path;
    let headers = request.headers_mut();
    let value = |text: &str| HeaderValue::from_str(text).or_say(|| format!("{text:?} in a header"));
    if !headers.contains_key(HOST) {
        headers.insert(HOST, value(&host)?);
    }
    headers.insert("x-vercel-internal-invocation-id", value(invocation_id)?);
    headers.insert("x-vercel-internal-request-id", request_id.into());
    headers.insert("x-vercel-id", value(&format!("lab1::{invocation_id}"))?);
    Ok(request)
}
