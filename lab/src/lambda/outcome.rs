//! What goes into an invocation, and what comes out.

use std::{
    process::ExitStatus,
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde_json::Value;

use super::Environment;

/// An event, as the bytes that the function receives.
#[derive(Clone, Debug)]
pub struct Payload(pub(super) Bytes);

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl From<Value> for Payload {
    fn from(value: Value) -> Self {
        Self(value.to_string().into())
    }
}

impl From<&'static str> for Payload {
    fn from(text: &'static str) -> Self {
        Self(text.into())
    }
}

impl From<String> for Payload {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

/// How an invocation went.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Outcome {
    /// What the function gave back, or why it did not.
    pub answer: Answer,
    /// Where it ran.
    pub environment: Environment,
    /// The id that the function saw.
    pub request_id: String,
    /// When the event was handed to the function.
    pub started: Instant,
    /// From there until the whole answer had arrived, or the failure was noticed.
    pub responded: Duration,
    /// Whether the environment was started for this invocation.
    pub cold: bool,
}

/// What a function gave back.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Answer {
    /// A response in one piece.
    Response(Bytes),
    /// A response that came as a stream, collected.
    Streamed {
        /// What came before the body: status code, headers and cookies; `null` when
        /// the function streamed without it.
        prelude: Value,
        /// The body.
        body: Bytes,
    },
    /// An error that the function reported.
    Error {
        /// Its type.
        error_type: String,
        /// Its text.
        message: String,
    },
    /// No answer within the timeout: the environment was killed.
    TimedOut,
    /// The process ended without an answer.
    Crashed(ExitStatus),
}

impl Outcome {
    /// The body of a [`Response`](Answer::Response) or a
    /// [`Streamed`](Answer::Streamed) answer.
    pub fn body(&self) -> Option<&Bytes> {
        match &self.answer {
            Answer::Response(body) | Answer::Streamed { body, .. } => Some(body),
            _ => None,
        }
    }

    /// The [`body`](Outcome::body) as JSON.
    pub fn json(&self) -> Option<Value> {
        serde_json::from_slice(self.body()?).ok()
    }
}
