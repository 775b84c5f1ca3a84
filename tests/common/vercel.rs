//! Sends a request to a service as Vercel's runtime does, through hyper.

use std::error::Error;

use http::Response;
use hyper::body::Body;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::{Service, ServiceExt};
use vercel_runtime::{AppState, LogContext, Request};

/// Returns the response of `service` as it is sent.
pub async fn ask<S, B>(service: S, method: &str, path: &str) -> String
where
    S: Service<(AppState, Request), Response = Response<B>> + Clone,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let service = hyper::service::service_fn(move |request| {
        let state = AppState::new(LogContext::new(None, None, None));
        service.clone().oneshot((state, request))
    });
    let (mut client, server) = tokio::io::duplex(4096);
    let server = async move {
        let builder = http1::Builder::new();
        let _ = builder
            .serve_connection(TokioIo::new(server), service)
            .await;
    };
    let client = async move {
        let request =
            format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        client.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("an answer");
        answer
    };
    let (answer, ()) = futures_util::join!(client, server);
    answer
}
