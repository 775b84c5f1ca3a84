//! An HTTP API on lambda_http, behind API Gateway, a function URL or a load balancer.
//!
//! ```sh
//! curl localhost:9000/lambda-url/http/partners -d '{"name": "acme"}'
//! curl localhost:9000/lambda-url/http/partners
//! ```

use antifreeze::{DatabaseLayer, Error};
use lambda_http::http::{HeaderValue, Method, StatusCode};
use lambda_http::{Body, Request, RequestPayloadExt, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use tower::ServiceBuilder;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_http::Error> {
    let database = functions::start().await?;
    let service = ServiceBuilder::new()
        .layer(DatabaseLayer::new(database))
        .service_fn(handle);
    lambda_http::run(service).await
}

async fn handle(request: Request) -> Result<Response<Body>, lambda_http::Error> {
    Ok(route(request)
        .await
        .unwrap_or_else(|error| functions::problem(&error)))
}

async fn route(request: Request) -> Result<Response<Body>, Error> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/partners") => list().await,
        (&Method::POST, "/partners") => create(&request).await,
        _ => Ok(reply(
            StatusCode::NOT_FOUND,
            &json!({ "error": "no such page" }),
        )),
    }
}

/// One statement: it needs no transaction.
async fn list() -> Result<Response<Body>, Error> {
    let connection = antifreeze::connection().await?;
    let query = "select name from partners order by since desc, name limit 100";
    let names: Vec<String> = connection
        .query(query, &[])
        .await?
        .iter()
        .map(|row| row.try_get(0))
        .collect::<Result<_, _>>()?;
    Ok(reply(StatusCode::OK, &json!({ "partners": names })))
}

#[derive(Deserialize)]
struct Partner {
    name: String,
}

/// The invocation's transaction: begun with the first statement, in its round trip;
/// committed because the response is a success, rolled back if it were none.
async fn create(request: &Request) -> Result<Response<Body>, Error> {
    let Ok(Some(partner)) = request.json::<Partner>() else {
        let message = json!({ "error": "send a JSON object with a `name`" });
        return Ok(reply(StatusCode::BAD_REQUEST, &message));
    };
    let transaction = antifreeze::transaction().await?;
    transaction
        .execute("insert into partners (name) values ($1)", &[&partner.name])
        .await?;
    Ok(reply(StatusCode::CREATED, &json!({ "name": partner.name })))
}

fn reply(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::Text(body.to_string()));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert("content-type", kind);
    response
}
