//! The lab's Lambda and AWS's emulator, with the same function and the same events: the
//! answers, the order of the function's calls, and what it sees in them.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::time::Duration;

use ::http::Request;
use bytes::Bytes;
use futures_util::FutureExt;
use lab::lambda::{Answer, FreezeAt, Function, http::event};
use serde_json::Value;

use crate::artefacts::{careless, deployed};
use crate::emulator::{Emulator, TIMEOUT, creating};
use crate::sessions::Sessions;
use crate::spy::{Call, Spy};

/// Of HTTP itself: how a body is framed, and when it was sent.
const FRAMING: [&str; 4] = ["connection", "content-length", "date", "transfer-encoding"];

/// What Lambda sends and its emulator, which has no X-Ray, does not.
/// <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html#runtimes-api-next>
const NOT_EMULATED: [&str; 1] = ["lambda-runtime-trace-id"];

struct Seen {
    answers: Vec<Value>,
    calls: Vec<Call>,
}

/// What the function says, without what differs from one invocation to the next.
fn plain(answer: &[u8]) -> Value {
    serde_json::from_slice(answer).unwrap_or_else(|_| String::from_utf8_lossy(answer).into())
}

async fn in_the_lab(function: &Path, requests: &[Request<Bytes>]) -> Seen {
    let (sessions, spy) = (Sessions::new().await, Spy::start().await);
    let function = Function::builder(spy.between(function))
        .name("http")
        .env("DATABASE_URL", sessions.url())
        .timeout(Duration::from_secs(TIMEOUT.into()))
        .freeze_at(FreezeAt::Next)
        .start()
        .await
        .expect("a function");
    let mut answers = Vec::new();
    for request in requests {
        let outcome = function.invoke(event(request)).await.expect("it runs");
        outcome.environment.frozen().await.expect("frozen");
        answers.push(match &outcome.answer {
            Answer::Response(body) => plain(body),
            Answer::Error {
                error_type,
                message,
            } => {
                serde_json::json!({ "errorType": error_type, "errorMessage": message })
            }
            other => panic!("{other:?}"),
        });
    }
    let calls = spy.calls();
    Seen { answers, calls }
}

async fn in_the_emulator(function: &Path, requests: &[Request<Bytes>]) -> Seen {
    let (sessions, spy) = (Sessions::new().await, Spy::start().await);
    let emulator = Emulator::start(&spy.between(function), sessions.url()).await;
    let mut answers = Vec::new();
    for request in requests {
        answers.push(plain(&emulator.invoke(&event(request)).await));
    }
    let calls = spy.calls();
    Seen { answers, calls }
}

/// The calls of one of the two APIs: they are made by two tasks, whose order is chance.
fn calls<'a>(seen: &'a Seen, api: &str) -> Vec<&'a Call> {
    let calls = seen.calls.iter();
    calls.filter(|call| call.what.contains(api)).collect()
}

/// Names, and of values what is the same each time: ids and moments have a form.
fn form(headers: &BTreeMap<String, String>) -> BTreeMap<&str, String> {
    let headers = headers.iter().map(|(name, value)| (name.as_str(), value));
    let headers =
        headers.filter(|(name, _)| !FRAMING.contains(name) && !NOT_EMULATED.contains(name));
    let form = |name: &str, value: &str| match name {
        "host" => "an address".to_owned(),
        "lambda-runtime-invoked-function-arn" => value.split(':').count().to_string(),
        "lambda-extension-identifier" => "an id".to_owned(),
        "lambda-runtime-aws-request-id" | "lambda-runtime-deadline-ms" => {
            let anonymous = |sign: char| if sign.is_ascii_hexdigit() { '0' } else { sign };
            value.chars().map(anonymous).collect()
        }
        _ => value.to_owned(),
    };
    headers
        .map(|(name, value)| (name, form(name, value)))
        .collect()
}

async fn compare(function: &Path, requests: &[Request<Bytes>]) -> Seen {
    let lab = in_the_lab(function, requests).await;
    let emulator = in_the_emulator(function, requests).await;
    for ((request, ours), theirs) in requests.iter().zip(&lab.answers).zip(&emulator.answers) {
        assert_eq!(ours, theirs, "{}", request.uri());
    }
    for api in ["/runtime/", "/extension/"] {
        let (ours, theirs) = (calls(&lab, api), calls(&emulator, api));
        let what = |calls: &[&Call]| {
            calls
                .iter()
                .map(|call| call.what.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(what(&ours), what(&theirs));
        for (ours, theirs) in ours.into_iter().zip(theirs) {
            assert_eq!(ours.status, theirs.status, "{}", ours.what);
            assert_eq!(form(&ours.sent), form(&theirs.sent), "{} sends", ours.what);
            assert_eq!(
                form(&ours.received),
                form(&theirs.received),
                "{} gets",
                ours.what
            );
        }
    }
    lab
}

fn get(path: &str) -> Request<Bytes> {
    Request::get(path).body(Bytes::new()).expect("a request")
}

#[tokio::test]
async fn deployed_functions_see_the_same_events() {
    let requests = [
        creating("acme"),
        get("/partners"),
        creating(""),
        get("/nothing"),
    ];
    let seen = compare(&deployed("ApiFunction"), &requests).await;
    assert_eq!(calls(&seen, "/runtime/").len(), 2 * requests.len());
    assert_eq!(
        calls(&seen, "/extension/").len(),
        1,
        "it registers, and waits for its end"
    );
}

#[tokio::test]
async fn failures_look_the_same_in_the_emulator() {
    let paths = [
        "/partners",
        "/early",
        "/begin",
        "/task",
        "/panic",
        "/partners",
        "/slow",
        "/partners",
    ];
    // A busy machine may lose the quarter of a second that the deadline leaves, but not each time.
    let (function, requests) = (careless(), paths.map(get));
    for _ in 0..2 {
        let compared = AssertUnwindSafe(compare(&function, &requests));
        if compared.catch_unwind().await.is_ok() {
            return;
        }
    }
    compare(&function, &requests).await;
}
