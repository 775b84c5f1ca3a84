//! The lab's Lambda and AWS's emulator, with the same function and the same events: the
//! answers, the order of the function's calls, and what it sees in them.

use std::collections::BTreeSet;
use std::time::Duration;

use ::http::Request;
use bytes::Bytes;
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

async fn in_the_lab(function: &std::path::Path, requests: &[Request<Bytes>]) -> Seen {
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

async fn in_the_emulator(function: &std::path::Path, requests: &[Request<Bytes>]) -> Seen {
    let (sessions, spy) = (Sessions::new().await, Spy::start().await);
    let emulator = Emulator::start(&spy.between(function), sessions.url()).await;
    let mut answers = Vec::new();
    for request in requests {
        answers.push(plain(&emulator.invoke(&event(request)).await));
    }
    let calls = spy.calls();
    Seen { answers, calls }
}

fn runtime(seen: &Seen) -> Vec<&Call> {
    let calls = seen.calls.iter();
    calls
        .filter(|call| call.what.contains("/runtime/"))
        .collect()
}

/// Names alone: the values are ids and moments.
fn names(headers: &std::collections::BTreeMap<String, String>) -> BTreeSet<&str> {
    let names = headers.keys().map(String::as_str);
    names.filter(|name| !FRAMING.contains(name)).collect()
}

async fn compare(function: &std::path::Path, requests: &[Request<Bytes>]) {
    let lab = in_the_lab(function, requests).await;
    let emulator = in_the_emulator(function, requests).await;
    for ((request, ours), theirs) in requests.iter().zip(&lab.answers).zip(&emulator.answers) {
        assert_eq!(ours, theirs, "{}", request.uri());
    }
    let what = |seen| {
        runtime(seen)
            .iter()
            .map(|call| call.what.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(what(&lab), what(&emulator));
    for (ours, theirs) in runtime(&lab).into_iter().zip(runtime(&emulator)) {
        assert_eq!(ours.status, theirs.status, "{}", ours.what);
        assert_eq!(
            names(&ours.sent),
            names(&theirs.sent),
            "{} sends",
            ours.what
        );
        let mut emulated = names(&ours.received);
        emulated.retain(|name| !NOT_EMULATED.contains(name));
        assert_eq!(emulated, names(&theirs.received), "{} gets", ours.what);
    }
}

fn get(path: &str) -> Request<Bytes> {
    Request::get(path).body(Bytes::new()).expect("a request")
}

#[tokio::test]
async fn what_is_deployed_sees_the_same() {
    let requests = [
        creating("acme"),
        get("/partners"),
        creating(""),
        get("/nothing"),
    ];
    compare(&deployed("ApiFunction"), &requests).await;
}

#[tokio::test]
async fn what_goes_wrong_sees_the_same() {
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
    compare(&careless(), &paths.map(get)).await;
}
