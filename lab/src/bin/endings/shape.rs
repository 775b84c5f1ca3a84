//! The same handler under each runner.

use antifreeze::{Database, DatabaseLayer, shutdown};
use axum::response::IntoResponse;
use http::{Request, Response};
use http_body_util::BodyExt;
use lambda_runtime::LambdaEvent;
use serde_json::{Value, json};
use tower::ServiceBuilder;

use crate::BoxError;
use crate::ending::end;
use crate::sabotage::{Impatient, PanicsInCall};
use crate::stream::{Body, stream, whole};

/// The ending that a path asks for, and what it is told.
fn asked(uri: &http::Uri) -> (String, String) {
    let ending = uri.path().rsplit('/').next().unwrap_or_default();
    (ending.into(), uri.query().unwrap_or_default().into())
}

pub async fn lambda_http(layer: DatabaseLayer) -> Result<(), BoxError> {
    let service = ServiceBuilder::new()
        .layer_fn(Impatient)
        .layer(layer)
        .layer_fn(PanicsInCall)
        .service_fn(async |request: lambda_http::Request| {
            let (ending, told) = asked(request.uri());
            let answer = end(&ending, &told).await?;
            Ok::<_, BoxError>(Response::new(lambda_http::Body::from(answer.to_string())))
        });
    lambda_http::run(service).await
}

/// Several at once, as on Lambda Managed Instances.
pub async fn concurrent(layer: DatabaseLayer) -> Result<(), BoxError> {
    let service = ServiceBuilder::new()
        .layer(layer)
        .layer_fn(PanicsInCall)
        .service_fn(async |request: lambda_http::Request| {
            let (ending, told) = asked(request.uri());
            let answer = end(&ending, &told).await?;
            Ok::<_, BoxError>(Response::new(lambda_http::Body::from(answer.to_string())))
        });
    lambda_http::run_concurrent(service).await
}

/// With bodies that go on after the head; those of the other endings are whole. A body that
/// is `unread` is dropped by what is outside the layer.
pub async fn streaming(layer: DatabaseLayer) -> Result<(), BoxError> {
    let service = ServiceBuilder::new()
        .map_response(|response: Response<antifreeze::layer::Body<Body>>| {
            let unread = response.extensions().get::<Unread>().is_some();
            response.map(|body| {
                if unread {
                    whole("unread".into())
                } else {
                    body.boxed_unsync()
                }
            })
        })
        .layer(layer)
        .layer_fn(PanicsInCall)
        .service_fn(async |request: lambda_http::Request| {
            let (ending, told) = asked(request.uri());
            answer(&ending, &told).await
        });
    lambda_http::run_with_streaming_response(service).await
}

/// What a response carries whose body nobody will read.
#[derive(Clone)]
struct Unread;

pub async fn event(layer: DatabaseLayer) -> Result<(), BoxError> {
    let service = ServiceBuilder::new()
        .layer_fn(Impatient)
        .layer(layer)
        .layer_fn(PanicsInCall)
        .service_fn(async |event: LambdaEvent<Value>| {
            let text = |name| event.payload[name].as_str().unwrap_or_default().to_owned();
            end(&text("ending"), &text("told")).await
        });
    lambda_runtime::run(service).await
}

pub async fn axum(layer: DatabaseLayer) -> Result<(), BoxError> {
    let service = ServiceBuilder::new()
        .layer_fn(Impatient)
        .service(router(layer));
    lambda_http::run(service).await
}

/// No host at all.
pub async fn server(layer: DatabaseLayer, database: &Database) -> Result<(), BoxError> {
    let port: u16 = std::env::var("PORT")?.parse()?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening");
    axum::serve(listener, router(layer))
        .with_graceful_shutdown(shutdown::signal(database))
        .await?;
    Ok(())
}

fn router(layer: DatabaseLayer) -> axum::Router {
    let handler = async |request: axum::extract::Request| {
        let (ending, told) = asked(request.uri());
        match answer(&ending, &told).await {
            Ok(response) => response.map(axum::body::Body::new),
            Err(error) => {
                let status = http::StatusCode::INTERNAL_SERVER_ERROR;
                (status, error.to_string()).into_response()
            }
        }
    };
    axum::Router::new()
        .fallback(handler)
        .layer(tower::layer::layer_fn(PanicsInCall))
        .layer(layer)
        .layer(axum::middleware::map_response(
            async |response: axum::response::Response| {
                let unread = response.extensions().get::<Unread>().is_some();
                if unread {
                    "unread".into_response()
                } else {
                    response
                }
            },
        ))
}

/// A response with a body that goes on after the head if that is asked for, or a whole one.
async fn answer(ending: &str, told: &str) -> Result<Response<Body>, BoxError> {
    let body = match ending.split_once("stream_") {
        Some((_, ending)) => stream(ending).await?,
        None => whole(end(ending, told).await?.to_string()),
    };
    let mut response = Response::new(body);
    if ending.starts_with("unread") {
        response.extensions_mut().insert(Unread);
    }
    Ok(response)
}

pub async fn vercel(layer: DatabaseLayer) -> Result<(), BoxError> {
    let handler = vercel_runtime::service_fn(async |request: vercel_runtime::Request| {
        let (ending, told) = asked(request.uri());
        let answer = end(&ending, &told).await?;
        Ok::<_, BoxError>(json!({ "answer": answer }))
    });
    let service = ServiceBuilder::new()
        .layer_fn(Impatient)
        .layer(layer)
        .layer_fn(PanicsInCall)
        .service(handler);
    vercel_runtime::run(service).await
}

/// What a request of any shape asks for.
pub trait Asks {
    /// The ending.
    fn ending(&self) -> String;
}

impl<B> Asks for Request<B> {
    fn ending(&self) -> String {
        asked(self.uri()).0
    }
}

impl Asks for LambdaEvent<Value> {
    fn ending(&self) -> String {
        self.payload["ending"].as_str().unwrap_or_default().into()
    }
}

impl<S, B> Asks for (S, Request<B>) {
    fn ending(&self) -> String {
        self.1.ending()
    }
}
