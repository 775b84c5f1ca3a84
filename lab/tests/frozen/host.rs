//! The function on its host, called and frozen.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use lab::lambda::{Answer, FreezeAt, Function, Outcome};
use lab::vercel::Deployment;
use serde_json::{Value, json};

use crate::endings::Caller;
use crate::{OVERTIME, TIMEOUT};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    LambdaHttp,
    Event,
    Axum,
    Vercel,
    /// [`SEVERAL`] at once.
    Concurrent,
    /// With bodies that go on after the head.
    Streaming,
}

/// How many invocations a concurrent environment serves at once.
pub const SEVERAL: usize = 4;

impl Shape {
    pub fn name(self) -> &'static str {
        match self {
            Shape::LambdaHttp => "lambda_http",
            Shape::Event => "event",
            Shape::Axum => "axum",
            Shape::Vercel => "vercel",
            Shape::Concurrent => "concurrent",
            Shape::Streaming => "streaming",
        }
    }
}

/// A function on its host.
pub enum Host {
    Lambda(Function, Shape),
    Vercel(Deployment),
}

/// What a call came to.
pub struct Called {
    pub got: Caller,
    pub body: Bytes,
    pub took: Duration,
    /// The process that answered.
    pub pid: u32,
    /// Whether it was started for this call.
    pub cold: bool,
}

impl Host {
    pub async fn start(shape: Shape, freeze_at: FreezeAt, variables: &[(&str, String)]) -> Host {
        let executable = env!("CARGO_BIN_EXE_endings");
        if shape == Shape::Vercel {
            // The process is not told how long it may take. On Lambda every event says
            // so: there the layer has to know by itself.
            let longest = TIMEOUT.as_millis();
            let mut builder = Deployment::builder(executable)
                .env("MAX_DURATION_MS", longest)
                // Suspended at once, with its connections.
                .env("ANTIFREEZE_LINGER", "0");
            for (name, value) in variables {
                builder = builder.env(*name, value);
            }
            return Host::Vercel(builder.start().await.expect("a deployment"));
        }
        let mut builder = Function::builder(executable)
            .timeout(TIMEOUT)
            .overtime(OVERTIME)
            .freeze_at(freeze_at);
        if shape == Shape::Concurrent {
            builder = builder
                .concurrency(SEVERAL)
                .env("MAX_CONNECTIONS", SEVERAL + 1);
        }
        for (name, value) in variables {
            builder = builder.env(*name, value);
        }
        Host::Lambda(builder.start().await.expect("a function"), shape)
    }

    /// Calls the function and waits until it is frozen.
    pub async fn call(&self, ending: &str) -> Called {
        let method = if ending.starts_with("head_") {
            Method::HEAD
        } else {
            Method::GET
        };
        let request = Request::builder().method(method).uri(format!("/{ending}"));
        let request = request.body(Bytes::new());
        let request = request.expect("a request");
        match self {
            Host::Vercel(deployment) => {
                let outcome = deployment.request(request).await.expect("it is running");
                deployment.frozen().await.expect("frozen");
                let (got, body) = match outcome.response {
                    Ok(response) => (caller(response.status().as_u16()), response.into_body()),
                    Err(error) => (Caller::Nothing, format!("{error:?}").into()),
                };
                Called {
                    got,
                    body,
                    took: outcome.responded.max(outcome.ended.unwrap_or_default()),
                    pid: deployment.pid(),
                    cold: false,
                }
            }
            Host::Lambda(function, Shape::Event) => {
                let (ending, told) = ending.split_once('?').unwrap_or((ending, ""));
                let event = json!({ "ending": ending, "told": told });
                let outcome = function.invoke(event).await.expect("it is running");
                let (got, body) = match &outcome.answer {
                    Answer::Response(body) => (Caller::Success, body.clone()),
                    Answer::Error { message, .. } => {
                        let deadline = message.contains("deadline");
                        let got = if deadline {
                            Caller::Deadline
                        } else {
                            Caller::Failure
                        };
                        (got, message.clone().into())
                    }
                    _ => nothing(&outcome),
                };
                Called::on_lambda(got, body, outcome).await
            }
            Host::Lambda(function, _) => {
                let (response, outcome) = function.request(request).await.expect("it is running");
                let (got, body) = match &outcome.answer {
                    Answer::Response(_) | Answer::Streamed { .. } | Answer::Error { .. } => {
                        (caller(response.status().as_u16()), response.into_body())
                    }
                    _ => nothing(&outcome),
                };
                Called::on_lambda(got, body, outcome).await
            }
        }
    }
}

impl Called {
    async fn on_lambda(got: Caller, body: Bytes, outcome: Outcome) -> Called {
        if got != Caller::Nothing {
            outcome.environment.frozen().await.expect("frozen");
        }
        Called {
            got,
            body,
            took: outcome.responded,
            pid: outcome.environment.pid(),
            cold: outcome.cold,
        }
    }

    /// What it saw of the last one; `None` if nothing.
    pub fn saw(&self) -> Option<String> {
        let nothing = json!({ "seen": [] });
        let seen: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let well = self.got == Caller::Success && (seen == nothing || seen["answer"] == nothing);
        (!well).then(|| format!("{:?}: {:?}", self.got, self.body))
    }
}

fn caller(status: u16) -> Caller {
    match status {
        200 => Caller::Success,
        504 => Caller::Deadline,
        _ => Caller::Failure,
    }
}

fn nothing(outcome: &Outcome) -> (Caller, Bytes) {
    let log = outcome.environment.log();
    let what = format!("{:?}; its log: {}", outcome.answer, log.trim());
    (Caller::Nothing, what.into())
}
