//! A Vercel function for the lab's own tests: says who it is, and sleeps, fails,
//! logs and works on behind its answer on demand.
//!
//! `ECHO_TICKS` names a file that a thread writes a rising number to.

#[path = "shared/ticks.rs"]
mod ticks;

use std::time::Duration;

use http_body_util::BodyExt;
use serde_json::json;
use vercel_runtime::{AppState, Error, Request, Response, ResponseBody, run, service_fn};

#[tokio::main]
async fn main() -> Result<(), Error> {
    if std::env::var_os("ECHO_FAIL").is_some() {
        return Err("the database is not there".into());
    }
    ticks::start();
    println!("starting");
    run(service_fn(answer)).await
}

/// What to do is in the path, how long in the parameter `ms`.
async fn answer(request: Request, state: AppState) -> Result<Response<ResponseBody>, Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let query = parts.uri.query().unwrap_or_default();
    let time = query
        .strip_prefix("ms=")
        .and_then(|time| time.parse().ok())
        .unwrap_or(0);
    let time = Duration::from_millis(time);
    match parts.uri.path() {
        "/sleep" => tokio::time::sleep(time).await,
        "/panic" => panic!("asked to panic"),
        "/log" => state.log_context.info("said over the side channel"),
        "/after" => state.wait_until(async move {
            tokio::time::sleep(time).await;
            println!("worked on");
        }),
        _ => {}
    }
    let said = json!({
        "pid": std::process::id(),
        "method": parts.method.as_str(),
        "path": parts.uri.path(),
        "host": parts.headers.get("host").and_then(|value| value.to_str().ok()),
        "id": parts.headers.get("x-vercel-id").and_then(|value| value.to_str().ok()),
        "body": std::str::from_utf8(&body)?,
        "variables": std::env::vars().map(|(name, _)| name).collect::<Vec<_>>(),
    });
    Ok(Response::builder().status(201).body(said.into())?)
}
