//! GET counts the partners, POST stores the one that the body names.

use antifreeze::DatabaseLayer;
use lambda_http::{Body, Error, Request, Response};
use serde_json::{Value, json};

#[tokio::main]
async fn main() -> Result<(), Error> {
    // Writes the log, as JSON where the function is configured so (`LogFormat` in the template).
    lambda_http::tracing::init_default_subscriber();
    // DATABASE_URL. A connection is opened now, and closed when Lambda ends the process.
    let layer = DatabaseLayer::from_env().await?;
    let service = tower::ServiceBuilder::new().layer(layer).service_fn(answer);
    lambda_http::run(service).await
}

async fn answer(request: Request) -> Result<Response<Body>, Error> {
    let answered = match request.method().as_str() {
        "GET" => count().await,
        "POST" => create(std::str::from_utf8(request.body())?).await,
        _ => return Ok(Response::builder().status(405).body(Body::Empty)?),
    };
    Ok(match answered {
        Ok(said) => Response::builder()
            .header("content-type", "application/json")
            .body(said.to_string().into())?,
        // A problem document: a name that is there already is a 409. The log says the rest.
        Err(error) => Response::from(&error).map(|problem| Body::from(problem.to_vec())),
    })
}

/// A connection for a single statement.
async fn count() -> antifreeze::Result<Value> {
    let connection = antifreeze::connection().await?;
    let row = connection
        .query_one("select count(*) from partners", &[])
        .await?;
    let partners: i64 = row.get(0);
    Ok(json!({ "partners": partners }))
}

/// The request's transaction: committed because the answer is a success, rolled back if
/// it were none.
async fn create(name: &str) -> antifreeze::Result<Value> {
    let insert = "insert into partners (name) values ($1) returning id";
    let transaction = antifreeze::transaction().await?;
    let row = transaction.query_one(insert, &[&name]).await?;
    let id: i64 = row.get(0);
    Ok(json!({ "id": id }))
}
