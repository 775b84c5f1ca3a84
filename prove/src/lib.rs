//! A function that ends in every way on request. `cargo run -p lab -- prove` asks it for each
//! ending, and looks at the server meanwhile.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `PROVE_TOKEN` | what a request must have as its bearer token, at least 16 characters; without it, every request is answered with a 404 |
//! | `DATABASE_URL` | the database |
//! | `WITHOUT_LAYER` | if set: the same handler on bare tokio-postgres clients |
//!
//! It holds locks and panics for everyone who knows the token: remove it after use.

mod bare;
mod ending;

use std::convert::Infallible;
use std::env;
use std::time::Duration;

use antifreeze::{Database, DatabaseLayer, shutdown};
use ending::{BoxError, Connection, ENDINGS};
use http::{Method, Request, Response, StatusCode, header};
use serde_json::{Value, json};
use tokio_postgres::SimpleQueryMessage;
use tower::{Layer, ServiceBuilder, service_fn};

/// `maxDuration` in vercel.json: the process is not told.
const MAX_DURATION: Duration = Duration::from_secs(10);

/// The shortest token.
const SHORTEST: usize = 16;

/// The server as this function sees it, as text.
const SERVER: &str = "select current_database(), current_user, \
    extract(epoch from pg_postmaster_start_time()), current_setting('application_name'), \
    current_setting('server_version')";

/// Serves on the host that started the process; elsewhere on port 3000, as vercel_runtime does.
///
/// # Errors
///
/// The environment names no database, or the runtime fails.
pub async fn serve() -> Result<(), BoxError> {
    lambda_http::tracing::init_default_subscriber();
    let on_lambda = host() == "lambda";
    if env::var_os("WITHOUT_LAYER").is_some() {
        return if on_lambda {
            lambda_http::run(service_fn(|request| answer(request, None))).await
        } else {
            vercel_runtime::run(vercel_runtime::service_fn(async |request| {
                for_vercel(answer(request, None).await)
            }))
            .await
        };
    }
    let layer = DatabaseLayer::from_env().await?;
    let database = layer.database().clone();
    if on_lambda {
        let service = ServiceBuilder::new().layer(layer);
        let service = service.service_fn(move |request| answer(request, Some(database.clone())));
        return lambda_http::run(service).await;
    }
    let for_close = database.clone();
    let service = vercel_runtime::service_fn(move |request| {
        let database = database.clone();
        async move { for_vercel(answer(request, Some(database)).await) }
    });
    let service = layer.max_duration(MAX_DURATION).layer(service);
    shutdown::around(&for_close, vercel_runtime::run(service)).await
}

fn for_vercel(
    response: Result<Response<String>, Infallible>,
) -> Result<Response<vercel_runtime::ResponseBody>, vercel_runtime::Error> {
    Ok(response?.map(Into::into))
}

/// GET says what the function is and which endings it has; POST `?ending=NAME&tag=HEX` ends so.
/// Without a database there is no layer.
async fn answer<B>(
    request: Request<B>,
    database: Option<Database>,
) -> Result<Response<String>, Infallible> {
    let token = env::var("PROVE_TOKEN").unwrap_or_default();
    if token.len() < SHORTEST {
        let reason = "not found: PROVE_TOKEN is not set, or shorter than 16 characters";
        return Ok(reply(StatusCode::NOT_FOUND, &json!({ "error": reason })));
    }
    let given = request.headers().get(header::AUTHORIZATION);
    let given = given.map_or(&b""[..], |given| given.as_bytes());
    if !is_same(given, format!("Bearer {token}").as_bytes()) {
        let reason = "the bearer token is not the function's PROVE_TOKEN";
        return Ok(reply(StatusCode::UNAUTHORIZED, &json!({ "error": reason })));
    }
    let done = match *request.method() {
        Method::GET => description(database).await,
        Method::POST => {
            let query = request.uri().query().unwrap_or_default();
            end(query, database.is_some()).await
        }
        _ => return Ok(reply(StatusCode::METHOD_NOT_ALLOWED, &json!({}))),
    };
    Ok(match done {
        Ok(body) => reply(StatusCode::OK, &body),
        Err(error) => {
            let cause = error
                .source()
                .map_or(String::new(), |cause| format!(": {cause}"));
            let error = json!({ "error": format!("{error}{cause}") });
            reply(StatusCode::INTERNAL_SERVER_ERROR, &error)
        }
    })
}

async fn end(query: &str, layer: bool) -> Result<Value, BoxError> {
    let parameter = |name: &str| {
        let mut parameters = query.split('&').filter_map(|pair| pair.split_once('='));
        let found = parameters.find(|(key, _)| *key == name);
        found.map_or("", |(_, value)| value)
    };
    let (ending, tag) = (parameter("ending"), parameter("tag"));
    let tag = u64::from_str_radix(tag, 16).map_err(|_| "the tag is not hexadecimal")?;
    if layer {
        ending::end(ending, tag, antifreeze::connection().await?).await?;
    } else {
        ending::end(ending, tag, bare::connection().await?).await?;
    }
    Ok(json!({ "reached": true }))
}

/// Without the names of hosts: a report with it may be shown to others.
async fn description(database: Option<Database>) -> Result<Value, BoxError> {
    let layer = database.is_some();
    let (row, pooler) = if let Some(database) = &database {
        let session = database.session().await?;
        let pooler = session.pooler();
        session.close(Duration::from_secs(1)).await;
        (server(antifreeze::connection().await?).await?, Some(pooler))
    } else {
        (server(bare::connection().await?).await?, None)
    };
    let [database, role, started, application_name, version] = row;
    let variable = |name| env::var(name).ok();
    Ok(json!({
        "function": "antifreeze prove",
        "version": env!("CARGO_PKG_VERSION"),
        "layer": layer,
        "pooler": pooler,
        "host": host(),
        "region": variable("AWS_REGION").or(variable("VERCEL_REGION")),
        "architecture": env::consts::ARCH,
        "endings": ENDINGS.map(|(name, does)| json!({ "name": name, "does": does })),
        "server": {
            "database": database,
            "role": role,
            "started": started,
            "application_name": application_name,
            "version": version,
        },
    }))
}

/// Vercel may use Lambda, and sets its own variable then.
fn host() -> &'static str {
    let set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    if set("VERCEL") {
        "vercel"
    } else if set("AWS_LAMBDA_RUNTIME_API") {
        "lambda"
    } else {
        "other"
    }
}

async fn server(connection: impl Connection) -> Result<[String; 5], BoxError> {
    for message in connection.simple_query(SERVER).await? {
        if let SimpleQueryMessage::Row(row) = message {
            let text = |column| row.get(column).unwrap_or_default().to_owned();
            return Ok([0, 1, 2, 3, 4].map(text));
        }
    }
    Err("the server did not describe itself".into())
}

/// Takes as long for every text of this length.
fn is_same(given: &[u8], expected: &[u8]) -> bool {
    let pairs = given.iter().zip(expected);
    let differences = pairs.fold(0, |differences, (a, b)| differences | (a ^ b));
    given.len() == expected.len() && differences == 0
}

fn reply(status: StatusCode, body: &Value) -> Response<String> {
    let mut response = Response::new(body.to_string());
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
