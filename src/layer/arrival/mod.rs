//! The deadline and id that a request carries.

#[cfg(feature = "lambda")]
pub(crate) mod lambda;

use http::{Extensions, HeaderMap, HeaderName, Request};

use crate::deadline::Deadline;

/// The headers with the id of a request, by hosts and gateways.
static REQUEST_IDS: [HeaderName; 2] = [
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-vercel-id"),
];

/// Returns the deadline of the response and the host's id of the request.
pub(crate) fn of(extensions: &Extensions, headers: &HeaderMap) -> (Deadline, String) {
    #[cfg(feature = "lambda")]
    if let Some(arrival) = lambda::of(extensions) {
        return arrival;
    }
    let _ = extensions;
    let mut ids = REQUEST_IDS.iter().filter_map(|name| headers.get(name));
    let id = ids.find_map(|id| id.to_str().ok());
    (Deadline::none(), id.unwrap_or_default().to_owned())
}

/// Returns whether the process runs on Lambda ("Defined runtime environment variables"). Vercel,
/// which may use Lambda, has deadlines of its own.
pub(super) fn on_lambda() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    set("AWS_LAMBDA_FUNCTION_NAME") && !set("VERCEL")
}

/// Returns whether the request is for exactly this path. Behind a gateway with stages, lambda_http
/// prepends the stage.
pub(super) fn is_at<B>(request: &Request<B>, path: &str) -> bool {
    #[cfg(feature = "lambda")]
    if lambda::raw_path(request.extensions()) == path {
        return true;
    }
    request.uri().path() == path
}
