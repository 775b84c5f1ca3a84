//! Extracts connections and transactions in axum handlers.

use axum_core::BoxError;
use axum_core::body::Body;
use axum_core::extract::FromRequestParts;
use axum_core::response::{IntoResponse, Response};
use bytes::Bytes;
use http::request::Parts;

use crate::error::Error;
use crate::invocation::{Connection, Invocation, StreamedBody, Transaction};
use crate::layer::{arrival, problem};

/// Extracts the request's [`Invocation`]. Mount [`DatabaseLayer`](crate::DatabaseLayer) around the
/// router.
impl<S: Sync> FromRequestParts<S> for Invocation {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        let invocation = parts.extensions.get::<Invocation>();
        invocation.cloned().ok_or_else(|| {
            let (_, id) = arrival::of(&parts.extensions, &parts.headers);
            Error::not_in_invocation().of_request(&id)
        })
    }
}

/// Leases a [`Connection`] for the request's invocation.
impl<S: Sync> FromRequestParts<S> for Connection {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let invocation = Invocation::from_request_parts(parts, state).await?;
        let leased = invocation.lease(&"the extractor `Connection`").await;
        leased.map_err(|error| error.of_request(invocation.request_id()))
    }
}

/// Extracts the [`Transaction`] of the request's invocation.
impl<S: Sync> FromRequestParts<S> for Transaction {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let invocation = Invocation::from_request_parts(parts, state).await?;
        let transaction = invocation.transaction();
        let started = transaction.start(&"the extractor `Transaction`").await;
        started.map_err(|error| error.of_request(invocation.request_id()))
    }
}

/// Lets a handler return what [`Invocation::stream`] returns.
impl<B> IntoResponse for StreamedBody<B>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn into_response(self) -> Response {
        Response::new(Body::new(self))
    }
}

/// Answers with a problem document (RFC 9457), which does not reveal how the database is reached;
/// the log does.
impl IntoResponse for Error {
    fn into_response(self) -> Response {
        problem::of(&self).map(Body::from)
    }
}
