//! Between a function and its Runtime API: passes everything on, and keeps a list.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use ::http::{HeaderMap, Request, Response, Uri};
use axum::body::Body;
use bytes::Bytes;
use http_body_util::BodyExt;

use crate::http::send;

/// A call of the function, and its answer.
#[derive(Debug, Clone)]
pub struct Call {
    /// With `{id}` where the request's id is.
    pub what: String,
    pub sent: BTreeMap<String, String>,
    pub status: u16,
    pub received: BTreeMap<String, String>,
    pub answer: Bytes,
}

pub struct Spy {
    calls: Arc<Mutex<Vec<Call>>>,
    folder: tempfile::TempDir,
    address: SocketAddr,
    server: tokio::task::JoinHandle<()>,
}

impl Spy {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        let calls = Arc::default();
        let (list, router) = (Arc::clone(&calls), axum::Router::new());
        let router = router.fallback(move |request| pass_on(Arc::clone(&list), request));
        let server = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        let folder = tempfile::tempdir().expect("a folder");
        Spy {
            calls,
            folder,
            address,
            server,
        }
    }

    /// An executable that is the function, and speaks to its API through us: the API that
    /// it would have spoken to is the first part of the path. The process is the same.
    pub fn between(&self, function: &Path) -> PathBuf {
        let path = self.folder.path().join("bootstrap");
        let script = format!(
            "#!/bin/sh\nexport AWS_LAMBDA_RUNTIME_API=http://{}/$AWS_LAMBDA_RUNTIME_API\nexec {:?}\n",
            self.address, function
        );
        std::fs::write(&path, script).expect("a script");
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, mode).expect("a mode");
        path
    }

    /// Those that were answered so far, in their order.
    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().expect("the list").clone()
    }
}

impl Drop for Spy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn pass_on(calls: Arc<Mutex<Vec<Call>>>, request: Request<Body>) -> Response<Body> {
    let (mut parts, body) = request.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    let path = parts.uri.path().trim_start_matches('/').to_owned();
    let (api, path) = path.split_once('/').expect("an API and a path");
    let api: SocketAddr = api.parse().expect("an address");
    parts.uri = format!("/{path}").parse::<Uri>().expect("a path");
    let mut call = Call {
        what: format!("{} {}", parts.method, without_id(path)),
        sent: listed(&parts.headers),

        status: 0,
        received: BTreeMap::new(),
        answer: Bytes::new(),
    };
    parts.headers.remove("transfer-encoding");
    let Ok(response) = send(api, Request::from_parts(parts, body)).await else {
        // The API has ended, and the function with it, or soon.
        return Response::builder()
            .status(502)
            .body(Body::empty())
            .expect("a response");
    };
    call.status = response.status().as_u16();
    call.received = listed(response.headers());
    call.answer = response.body().clone();
    calls.lock().expect("the list").push(call);
    let mut response = response.map(Body::from);
    response.headers_mut().remove("transfer-encoding");
    response
}

fn without_id(path: &str) -> String {
    let parts = path.split('/').map(|part| match part.len() {
        36 if part.contains('-') => "{id}",
        _ => part,
    });
    parts.collect::<Vec<_>>().join("/")
}

fn listed(headers: &HeaderMap) -> BTreeMap<String, String> {
    let text = |value: &::http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers
        .iter()
        .map(|(name, value)| (name.to_string(), text(value)))
        .collect()
}
