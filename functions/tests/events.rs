//! The functions, on a Lambda that freezes, fed with the events that AWS documents: the
//! fixtures of the crate aws_lambda_events, read from its source.

mod common;

use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{TIMEOUT, fixture, function, outcome_of, schema, unrest};
use http::StatusCode;
use lab::lambda::{Answer, Function, Outcome, http::response};
use serde_json::{Value, json};

/// What the gateway makes of an outcome.
fn answered(outcome: &Outcome) -> (StatusCode, Bytes) {
    let response = response(&outcome.answer).expect("a response");
    (response.status(), response.into_body())
}

/// An event for each way in: API Gateway in both formats, a load balancer in both
/// formats, a function URL.
fn doors() -> Vec<(&'static str, Value)> {
    let mut url = fixture("apigw-v2-request-iam");
    url["requestContext"]["domainName"] = "abc123.lambda-url.eu-central-1.on.aws".into();
    vec![
        ("API Gateway v1", fixture("apigw-request")),
        ("API Gateway v2", fixture("apigw-v2-request-no-authorizer")),
        (
            "API Gateway v2, JWT",
            fixture("apigw-v2-request-jwt-authorizer"),
        ),
        (
            "load balancer",
            fixture("alb-lambda-target-request-headers-only"),
        ),
        (
            "load balancer, several values",
            fixture("alb-lambda-target-request-multivalue-headers"),
        ),
        ("function URL", url),
    ]
}

/// The same event, with another request in it.
fn asking(event: &Value, method: &str, path: &str, body: &Value) -> Value {
    let mut event = event.clone();
    let kind = "application/json";
    if event["version"] == "2.0" {
        event["rawPath"] = path.into();
        event["requestContext"]["http"]["method"] = method.into();
        event["requestContext"]["http"]["path"] = path.into();
    } else {
        event["path"] = path.into();
        event["httpMethod"] = method.into();
        if event["requestContext"]["path"].is_string() {
            event["requestContext"]["path"] = path.into();
        }
    }
    for (place, value) in [
        ("headers", json!(kind)),
        ("multiValueHeaders", json!([kind])),
    ] {
        if let Some(headers) = event[place].as_object_mut() {
            headers.retain(|name, _| !name.eq_ignore_ascii_case("content-type"));
            headers.insert("content-type".to_owned(), value);
        }
    }
    event["body"] = body.to_string().into();
    event["isBase64Encoded"] = false.into();
    event
}

async fn takes_what_every_door_brings(executable: &str) {
    let database = schema().await;
    let function = function(executable, &database).await;
    for (number, (door, event)) in doors().into_iter().enumerate() {
        // As AWS documents it: there is no such page.
        let outcome = outcome_of(&function, event.clone()).await;
        assert_eq!(answered(&outcome).0, 404, "{door}: {outcome:?}");

        let partner = json!({ "name": door });
        for status in [201, 409] {
            let event = asking(&event, "POST", "/partners", &partner);
            let outcome = outcome_of(&function, event).await;
            assert_eq!(answered(&outcome).0, status, "{door}: {outcome:?}");
            assert_eq!(unrest(&database).await, 0, "{door}");
        }
        let wrong = asking(&event, "POST", "/partners", &json!([]));
        let (status, _) = answered(&outcome_of(&function, wrong).await);
        assert!(status.is_client_error(), "{door}: {status}");

        let event = asking(&event, "GET", "/partners", &Value::Null);
        let (status, body) = answered(&outcome_of(&function, event).await);
        assert_eq!(status, 200, "{door}");
        let list: Value = serde_json::from_slice(&body).expect("JSON");
        let names = list["partners"].as_array().expect("a list");
        assert!(names.contains(&door.into()), "{door}: {list}");
        assert_eq!(names.len(), number + 1, "{door}: {list}");
    }
}

#[tokio::test]
async fn http_takes_events_of_every_gateway() {
    takes_what_every_door_brings(env!("CARGO_BIN_EXE_http")).await;
}

#[tokio::test]
async fn router_takes_events_of_every_gateway() {
    takes_what_every_door_brings(env!("CARGO_BIN_EXE_router")).await;
}

#[tokio::test]
async fn refusal_is_text_without_secrets() {
    let database = schema().await;
    for executable in [env!("CARGO_BIN_EXE_http"), env!("CARGO_BIN_EXE_router")] {
        let function = function(executable, &database).await;
        let event = fixture("apigw-v2-request-no-authorizer");
        let event = asking(&event, "POST", "/partners", &json!({ "name": "" }));
        let outcome = outcome_of(&function, event).await;
        let answer = outcome.json().expect("an answer");
        // A REST API gives its callers base64 as it is.
        assert_eq!(answer["isBase64Encoded"], false, "{answer}");
        let (status, body) = answered(&outcome);
        assert_eq!(status, 422, "{body:?}");
        let problem: Value = serde_json::from_slice(&body).expect("a problem document");
        assert_eq!(problem["constraint"], "partners_name_check", "{problem}");
        assert_eq!(unrest(&database).await, 0);
    }
}

#[tokio::test]
async fn instances_answers_one_and_several_at_once() {
    let database = schema().await;
    let insert = "insert into partners (name) values ('acme')";
    database.execute(insert).await.expect("a partner");
    let event = fixture("apigw-v2-request-no-authorizer");
    for concurrency in [1, 3] {
        let builder = Function::builder(env!("CARGO_BIN_EXE_instances"))
            .env("DATABASE_URL", &database.url)
            .timeout(TIMEOUT)
            .concurrency(concurrency);
        let function = builder.start().await.expect("a function");
        let environment = function.cold_start().await.expect("a start");
        for _ in 0..3 {
            environment.frozen().await.expect("frozen");
            let mut asked = Vec::new();
            for _ in 0..concurrency {
                let (function, event) = (function.clone(), event.clone());
                asked.push(tokio::spawn(async move { function.invoke(event).await }));
            }
            for outcome in asked {
                let outcome = outcome.await.expect("no panic").expect("it runs");
                assert_eq!(outcome.environment.pid(), environment.pid());
                let (status, body) = answered(&outcome);
                assert_eq!((status.as_u16(), body), (200, r#"{"partners":1}"#.into()));
            }
            environment.frozen().await.expect("frozen");
            assert_eq!(unrest(&database).await, 0);
        }
    }
}

#[tokio::test]
async fn queue_stores_and_names_the_failed() {
    let database = schema().await;
    let function = function(env!("CARGO_BIN_EXE_queue"), &database).await;
    let event = fixture("sqs-event");
    let record = |id: &str, body: &str| {
        let mut record = event["Records"][0].clone();
        record["messageId"] = id.into();
        record["body"] = body.into();
        record
    };

    // The body of AWS's own is no JSON.
    let outcome = outcome_of(&function, event.clone()).await;
    let failures = outcome.json().expect("an answer")["batchItemFailures"].clone();
    assert_eq!(failures, json!([{ "itemIdentifier": "MessageID_1" }]));

    let batch = json!({ "Records": [
        record("a", r#"{"name": "acme"}"#),
        record("b", r#"{"name": ""}"#),
        record("c", r#"{"name": "umbrella"}"#),
        record("d", "{"),
    ]});
    for _ in ["delivered", "and again"] {
        let outcome = outcome_of(&function, batch.clone()).await;
        let failures = outcome.json().expect("an answer")["batchItemFailures"].clone();
        let expected = json!([{ "itemIdentifier": "b" }, { "itemIdentifier": "d" }]);
        assert_eq!(failures, expected, "{}", outcome.environment.log());
        assert_eq!(unrest(&database).await, 0);
    }
    let rows = database
        .query("select name from partners order by name")
        .await;
    let names = rows.expect("partners").concat();
    assert_eq!(
        names,
        [Some("acme".to_owned()), Some("umbrella".to_owned())]
    );
}

/// One of its records waits for a lock for as long as it may.
#[tokio::test]
async fn queue_goes_on_behind_a_waiting_record() {
    let database = schema().await;
    let function = function(env!("CARGO_BIN_EXE_queue"), &database).await;
    let (holder, connection) = tokio_postgres::connect(&database.url, tokio_postgres::NoTls)
        .await
        .expect("a session");
    tokio::spawn(connection);
    let hold = "begin; insert into partners (name) values ('held')";
    holder.batch_execute(hold).await.expect("held");
    let record =
        |name: &str| json!({ "messageId": name, "body": json!({ "name": name }).to_string() });
    for (names, failed) in [
        (["held", "acme"], vec!["held"]),
        (["umbrella", "held"], vec!["held"]),
    ] {
        let batch = json!({ "Records": names.map(record) });
        let time = Duration::from_secs(8);
        let outcome = function.invoke_within(batch, time).await.expect("it runs");
        outcome.environment.frozen().await.expect("frozen");
        let failed: Vec<_> = failed
            .iter()
            .map(|id| json!({ "itemIdentifier": id }))
            .collect();
        let answer = outcome.json().expect("an answer");
        assert_eq!(answer["batchItemFailures"], json!(failed), "{names:?}");
        // The holder's own, and none of the function's.
        let waiting = "select pid from pg_stat_activity \
             where datname = current_database() and wait_event_type = 'Lock'";
        // One whose close the server could not confirm in time may still leave.
        let until = Instant::now() + Duration::from_secs(5);
        while !database.query(waiting).await.expect("sessions").is_empty() {
            assert!(Instant::now() < until, "{names:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    holder.batch_execute("rollback").await.expect("let go");
    let rows = database
        .query("select name from partners order by name")
        .await;
    let names = rows.expect("partners").concat();
    assert_eq!(
        names,
        ["acme", "umbrella"].map(|name| Some(name.to_owned()))
    );
    assert_eq!(unrest(&database).await, 0);
}

/// A batch that does not answer in time would come again as a whole.
#[tokio::test]
async fn queue_leaves_records_without_time() {
    let database = schema().await;
    let function = function(env!("CARGO_BIN_EXE_queue"), &database).await;
    let record = json!({ "messageId": "a", "body": r#"{"name": "acme"}"# });
    let batch = json!({ "Records": [record] });
    let brief = Duration::from_millis(1_900);
    let outcome = function.invoke_within(batch, brief).await.expect("it runs");
    let failures = outcome.json().expect("an answer")["batchItemFailures"].clone();
    assert_eq!(failures, json!([{ "itemIdentifier": "a" }]));
}

#[tokio::test]
async fn schedule_reports_the_day_of_the_event() {
    let database = schema().await;
    let insert = "insert into partners (name) values ('acme')";
    database.execute(insert).await.expect("a partner");
    let function = function(env!("CARGO_BIN_EXE_schedule"), &database).await;
    for _ in ["delivered", "and again"] {
        let outcome = outcome_of(&function, fixture("eventbridge-schedule")).await;
        let expected = json!({ "day": "2015-10-08", "partners": 1 });
        assert_eq!(outcome.json(), Some(expected), "{outcome:?}");
        assert_eq!(unrest(&database).await, 0);
    }
    let rows = database.query("select day, partners from reports").await;
    assert_eq!(rows.expect("reports").len(), 1);
}

/// What a deployment does: it asks what is missing, makes it once, and asks again.
#[tokio::test(flavor = "multi_thread")]
async fn migrate_makes_health_complete() {
    let database = common::empty().await;
    let health = function(env!("CARGO_BIN_EXE_health"), &database).await;
    let migrate = function(env!("CARGO_BIN_EXE_migrate"), &database).await;
    for names in [json!(["V1__schema"]), json!([])] {
        // A report is kept for 5 s: a new process has none.
        health.shutdown().await;
        let report = outcome_of(&health, json!({})).await.json();
        let report = report.expect("a report");
        assert_eq!(report["database"], "connected", "{report}");
        assert_eq!(report["server"]["migrations"]["names"], names, "{report}");
        let report = outcome_of(&migrate, json!({})).await.json();
        let applied = report.expect("a report")["applied"].take();
        assert_eq!(
            applied.as_array().map(Vec::len),
            names.as_array().map(Vec::len)
        );
        assert_eq!(unrest(&database).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_fails_without_a_database() {
    let executable = env!("CARGO_BIN_EXE_health");
    let nowhere = Function::builder(executable)
        .env(
            "DATABASE_URL",
            "postgres://app@127.0.0.1:1/none?sslmode=disable",
        )
        .start()
        .await
        .expect("a function");
    let outcome = outcome_of(&nowhere, json!({})).await;
    let Answer::Error { message, .. } = &outcome.answer else {
        panic!("{outcome:?}");
    };
    assert!(message.contains("was not reached: refused"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_reports_its_findings() {
    let database = schema().await;
    let doctor = function(env!("CARGO_BIN_EXE_doctor"), &database).await;
    let outcome = outcome_of(&doctor, json!({})).await;
    let report = outcome.json().expect("a report");
    let checks = report["checks"].as_array().expect("a list");
    assert!(checks.len() > 10, "{report}");
    assert_eq!(unrest(&database).await, 0);
}

/// What the template sets for all functions and for this one.
#[tokio::test(flavor = "multi_thread")]
async fn doctor_accepts_the_deployed_settings() {
    let database = schema().await;
    let template = include_str!("../../template.yaml");
    let (_, doctor) = template
        .split_once("  DoctorFunction:")
        .expect("it is there");
    let value = |name: &str| {
        let (_, behind) = doctor.split_once(&format!("{name}: "))?;
        behind.split_whitespace().next()
    };
    let timeout = value("ANTIFREEZE_FUNCTION_TIMEOUT").expect("it is set");
    assert_eq!(
        value("Timeout").map(|time| format!("{time}s")).as_deref(),
        Some(timeout)
    );
    let doctor = Function::builder(env!("CARGO_BIN_EXE_doctor"))
        .env("DATABASE_URL", &database.url)
        .env("DATABASE_SECRET_ARN", "")
        .env("ANTIFREEZE_MAX_CONNECTIONS", 1)
        .env("ANTIFREEZE_FUNCTION_TIMEOUT", timeout)
        .timeout(Duration::from_secs(60))
        .start()
        .await
        .expect("a function");
    let outcome = outcome_of(&doctor, json!({})).await;
    let report = outcome.json().expect("a report");
    let checks = report["checks"].as_array().expect("a list");
    for step in ["configuration", "start_up", "timeouts"] {
        let mut of_it = checks
            .iter()
            .filter(|check| check["step"] == step)
            .peekable();
        assert!(of_it.peek().is_some(), "{step}: {report}");
        assert!(of_it.all(|check| check["status"] != "finding"), "{report}");
    }
}
