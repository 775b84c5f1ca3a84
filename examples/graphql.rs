//! async-graphql, whose errors come inside a 200.
//!
//! All resolvers of a request share its transaction; if the answer carries errors,
//! nothing of it is stored.
//!
//! ```sh
//! DATABASE_URL=postgres://... cargo run --example graphql
//! curl localhost:3000 -d '{"query":"mutation { partner(name: \"acme\") }"}'
//! ```

use std::convert::Infallible;

use antifreeze::{Database, DatabaseLayer};
use async_graphql::{EmptySubscription, Object, Schema};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tower::ServiceBuilder;

struct Query;

#[Object]
impl Query {
    async fn partners(&self) -> async_graphql::Result<i64> {
        let transaction = antifreeze::transaction().await?;
        let row = transaction
            .query_one("select count(*) from partners", &[])
            .await?;
        Ok(row.try_get(0)?)
    }
}

struct Mutation;

#[Object]
impl Mutation {
    async fn partner(&self, name: String) -> async_graphql::Result<bool> {
        let transaction = antifreeze::transaction().await?;
        let insert = "insert into partners (name) values ($1)";
        Ok(transaction.execute(insert, &[&name]).await? == 1)
    }
}

type Partners = Schema<Query, Mutation, EmptySubscription>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let schema = Schema::new(Query, Mutation, EmptySubscription);
    let service = ServiceBuilder::new()
        .layer(DatabaseLayer::new(Database::from_env()?))
        .service_fn(move |request| answer(schema.clone(), request));

    let port = std::env::var("PORT").unwrap_or_else(|_| "3000".into());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        let service = TowerToHyperService::new(service.clone());
        tokio::spawn(async move {
            let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    schema: Partners,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let answer = match request.into_body().collect().await {
        Ok(body) => match serde_json::from_slice::<async_graphql::Request>(&body.to_bytes()) {
            Ok(query) => schema.execute(query).await,
            Err(_) => return Ok(reply(400, Bytes::from_static(b"no GraphQL request\n"))),
        },
        Err(_) => return Ok(reply(400, Bytes::from_static(b"no body\n"))),
    };
    if answer.is_err() {
        if let Ok(invocation) = antifreeze::invocation() {
            invocation.fail();
        }
    }
    let answer = serde_json::to_vec(&answer).unwrap_or_default();
    Ok(reply(200, answer.into()))
}

fn reply(status: u16, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
    response
}
