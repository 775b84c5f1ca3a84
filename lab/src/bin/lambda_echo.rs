//! A function for the lab's own tests: says who it is, and sleeps, fails, crashes
//! and streams on demand.
//!
//! | variable | effect |
//! | --- | --- |
//! | `ECHO_MODE` | `http` (default), `stream`, `concurrent`, `snapshot`, or `event` for plain events |
//! | `ECHO_GRACEFUL` | registers the runtime's shutdown hook, an extension |
//! | `ECHO_EXTENSION_MS` | an extension that works that long on every invocation |
//! | `ECHO_TICKS` | a file that a thread writes a rising number to |
//! | `ECHO_INIT` | `fail`, `hang`, or `restore` to fail after a restore |

#[path = "shared/ticks.rs"]
mod ticks;

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, SystemTime},
};

use lambda_extension::{Extension, NextEvent};
use lambda_http::{
    Body, BoxFuture, Error, Request, RequestExt, Response, SnapStartResource, http::StatusCode,
    run, run_concurrent, run_with_streaming_response, runtime, service_fn,
};
use lambda_runtime::{
    LambdaEvent,
    streaming::{Body as StreamBody, channel},
};
use serde_json::{Value, json};

#[tokio::main]
async fn main() -> Result<(), Error> {
    match variable("ECHO_INIT").as_str() {
        "fail" => return Err("the database is not there".into()),
        "hang" => std::future::pending().await,
        _ => {}
    }
    ticks::start();
    if !variable("ECHO_GRACEFUL").is_empty() {
        let hook = || async { println!("shutdown hook ran") };
        lambda_runtime::spawn_graceful_shutdown_handler(hook).await;
    }
    if let Ok(time) = variable("ECHO_EXTENSION_MS").parse() {
        slow_extension(Duration::from_millis(time)).await?;
    }
    println!("starting");
    match variable("ECHO_MODE").as_str() {
        "stream" => run_with_streaming_response(service_fn(stream)).await,
        "concurrent" => run_concurrent(service_fn(answer)).await,
        "snapshot" => {
            let runtime = runtime(service_fn(answer));
            runtime
                .register_snapstart_resource(Arc::new(Snapshot))
                .run()
                .await
        }
        "event" => lambda_runtime::run(service_fn(event)).await,
        _ => run(service_fn(answer)).await,
    }
}

/// Says what happens to it.
struct Snapshot;

impl SnapStartResource for Snapshot {
    fn before_snapshot(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async {
            println!("before the snapshot");
            Ok(())
        })
    }

    fn after_restore(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async {
            println!("after the restore");
            match variable("ECHO_INIT").as_str() {
                "restore" => Err("the database has moved".into()),
                _ => Ok(()),
            }
        })
    }
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

async fn slow_extension(time: Duration) -> Result<(), Error> {
    let extension = Extension::new()
        .with_events(&["INVOKE"])
        .with_extension_name("slow")
        .with_events_processor(service_fn(
            move |event: lambda_extension::LambdaEvent| async move {
                if let NextEvent::Invoke(invoke) = event.next {
                    tokio::time::sleep(time).await;
                    println!("extension saw {}", invoke.request_id);
                }
                Ok::<_, Error>(())
            },
        ))
        .register()
        .await?;
    tokio::spawn(async move {
        let _ = extension.run().await;
    });
    Ok(())
}

/// What to do is in the path, how long in the parameter `ms`.
async fn answer(request: Request) -> Result<Response<Body>, Error> {
    let context = request.lambda_context_ref().ok_or("there is no context")?;
    let left = context.deadline().duration_since(SystemTime::now())?;
    let parameters = request.query_string_parameters();
    let time = parameters
        .first("ms")
        .and_then(|time| time.parse().ok())
        .unwrap_or(0);
    act(request.uri().path(), time).await?;
    let body = json!({
        "pid": std::process::id(),
        "request_id": context.request_id,
        "left_ms": left.as_millis() as u64,
        "method": request.method().as_str(),
        "path": request.uri().path(),
        "name": parameters.first("name"),
        "cookie": request.headers().get("cookie").and_then(|value| value.to_str().ok()),
        "body": std::str::from_utf8(request.body().as_ref())?,
        "variables": std::env::vars().map(|(name, _)| name).collect::<Vec<_>>(),
    });
    let response = Response::builder()
        .status(StatusCode::CREATED)
        .header("content-type", "application/json")
        .header("x-echo", "1");
    Ok(response.body(body.to_string().into())?)
}

async fn act(what: &str, time: u64) -> Result<(), Error> {
    match what {
        "/sleep" => tokio::time::sleep(Duration::from_millis(time)).await,
        "/crash" => {
            println!("about to crash");
            std::process::exit(3)
        }
        "/error" => return Err("asked to fail".into()),
        "/panic" => panic!("asked to panic"),
        _ => {}
    }
    Ok(())
}

/// Three chunks, apart in time; `/cut` ends in the middle.
async fn stream(request: Request) -> Result<Response<StreamBody>, Infallible> {
    let (mut sender, body) = channel();
    let cut = request.uri().path() == "/cut";
    tokio::spawn(async move {
        for chunk in ["one ", "two ", "three"] {
            if sender.send_data(chunk.into()).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            if cut {
                std::process::exit(4);
            }
        }
    });
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::ACCEPTED;
    Ok(response)
}

/// The event itself, or an error.
async fn event(event: LambdaEvent<Value>) -> Result<Value, Error> {
    if event.payload["fail"] == true {
        return Err("asked to fail".into());
    }
    Ok(json!({ "event": event.payload, "request_id": event.context.request_id }))
}
