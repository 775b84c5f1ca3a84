//! Every shape of service, under every runner: that this compiles is the test.
#![cfg(all(feature = "lambda", feature = "vercel", feature = "axum"))]

use antifreeze::layer::Body;
use antifreeze::{Connection, Database, DatabaseLayer, Invocation, Transaction};
use lambda_http::{Request, Response};
use lambda_runtime::{Error, LambdaEvent};
use serde_json::Value;
use tower::ServiceBuilder;
use tower::{Layer, Service};

fn layer() -> DatabaseLayer {
    DatabaseLayer::new(Database::from_url("postgres://localhost/none").expect("a URL"))
}

async fn http(_: Request) -> Result<Response<lambda_http::Body>, Error> {
    Ok(Response::new(lambda_http::Body::Empty))
}

async fn event(_: LambdaEvent<Value>) -> Result<Value, Error> {
    Ok(Value::Null)
}

/// As `main` awaits it.
fn runs<F: Future>(_: F) {}
fn is_sync<T: Sync>() {}

/// What is asked of a connection is `Send`, with values of the handler's own.
async fn cached(_: Request) -> Result<Response<lambda_http::Body>, Error> {
    let name = String::from("acme");
    let connection = antifreeze::connection().await?;
    connection.query_cached("select $1::text", &[&name]).await?;
    connection
        .query_one_cached("select $1::text", &[&name])
        .await?;
    connection
        .query_opt_cached("select $1::text", &[&name])
        .await?;
    connection
        .execute_cached("select $1::text", &[&name])
        .await?;
    Ok(Response::new(lambda_http::Body::Empty))
}

/// So is a transaction that is run again, if its work owns what it uses.
async fn retried(_: Request) -> Result<Response<lambda_http::Body>, Error> {
    let name = String::from("acme");
    antifreeze::retry_transaction(async move |transaction| {
        transaction.execute("select $1::text", &[&name]).await?;
        Ok::<_, antifreeze::Error>(())
    })
    .await?;
    Ok(Response::new(lambda_http::Body::Empty))
}

/// Our own error is one that a host takes.
async fn fails(_: LambdaEvent<Value>) -> Result<Value, antifreeze::Error> {
    drop(antifreeze::connection().await?);
    Ok(Value::Null)
}

/// Never polled: there is no host here.
#[test]
fn layer_fits_every_runner() {
    let service = || ServiceBuilder::new().layer(layer()).service_fn(http);
    runs(lambda_http::run(service()));
    runs(lambda_http::run_concurrent(service()));
    runs(lambda_http::run_with_streaming_response(service()));
    runs(lambda_http::run_with_streaming_response_concurrent(
        service(),
    ));
    let _ = || lambda_http::runtime(service());

    let service = ServiceBuilder::new().layer(layer()).service_fn(cached);
    runs(lambda_http::run(service));
    let service = ServiceBuilder::new().layer(layer()).service_fn(retried);
    runs(lambda_http::run(service));
    let service = ServiceBuilder::new().layer(layer()).service_fn(fails);
    runs(lambda_runtime::run(service));
    let service = || ServiceBuilder::new().layer(layer()).service_fn(event);
    runs(lambda_runtime::run(service()));
    runs(lambda_runtime::run_concurrent(service()));

    let service = layer().layer(vercel_runtime::service_fn(
        async |_: vercel_runtime::Request| Ok::<_, vercel_runtime::Error>("fine"),
    ));
    runs(vercel_runtime::run(service));
}

#[test]
fn layer_goes_around_and_inside_a_router() {
    async fn handler(_: Invocation, _: Connection, _: Transaction) -> &'static str {
        "fine"
    }
    let router = || axum::Router::new().route("/", axum::routing::get(handler));
    let inside = router().layer(layer());
    runs(lambda_http::run(inside.clone()));
    runs(lambda_http::run(layer().layer(router())));
    runs(lambda_http::run_with_streaming_response(inside));
}

#[test]
fn handler_may_have_its_own_error() {
    #[derive(Debug)]
    struct Mine;
    impl From<Mine> for lambda_runtime::Diagnostic {
        fn from(_: Mine) -> Self {
            lambda_runtime::Diagnostic {
                error_type: "Mine".into(),
                error_message: "mine".into(),
            }
        }
    }
    let service = ServiceBuilder::new()
        .layer(layer())
        .service_fn(async |_: LambdaEvent<Value>| Err::<Value, _>(Mine));
    runs(lambda_runtime::run(service));
}

#[test]
fn handler_need_not_be_send() {
    fn is_service<S: Service<http::Request<()>>>(_: &S) {}
    let local = std::rc::Rc::new(());
    let service = ServiceBuilder::new()
        .layer(layer())
        .service_fn(move |_: http::Request<()>| {
            let local = local.clone();
            async move {
                drop(local);
                Ok::<_, Error>(Response::new(http_body_util::Empty::<bytes::Bytes>::new()))
            }
        });
    is_service(&service);
}

#[test]
fn public_types_are_send_and_sync() {
    fn anywhere<T: Send + Sync + 'static>() {}
    anywhere::<Database>();
    anywhere::<DatabaseLayer>();
    anywhere::<Invocation>();
    anywhere::<Connection>();
    anywhere::<Transaction>();
    anywhere::<antifreeze::invocation::CancelToken>();
    anywhere::<antifreeze::Error>();
    is_sync::<Body<lambda_http::Body>>();
}
