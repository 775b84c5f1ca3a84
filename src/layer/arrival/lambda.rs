//! The deadline and id of a request on Lambda.

use std::time::{Duration, SystemTime};

use http::Extensions;
use lambda_http::RequestExt as _;
use lambda_http::request::RequestContext;
use lambda_runtime::Context;

use crate::clock::process_started;
use crate::deadline::Deadline;

/// The longest that Lambda runs a function ("Lambda quotas": function timeout).
const MOST: Duration = Duration::from_secs(15 * 60);

/// How long API Gateway waits for an integration ("Amazon API Gateway quotas": REST
/// 29 s, HTTP 30 s).
const GATEWAY: Duration = Duration::from_secs(29);

/// Returns the deadline of an event.
pub(crate) fn deadline(context: &Context) -> Deadline {
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(context.deadline);
    // Lambda truncates to milliseconds.
    let started = process_started() - Duration::from_millis(1);
    Deadline::at(at, SystemTime::now(), started, MOST)
}

/// Returns deadline and id of an HTTP request from lambda_http.
pub(super) fn of(extensions: &Extensions) -> Option<(Deadline, String)> {
    let context = extensions.get::<Context>()?;
    let deadline = match extensions.get::<RequestContext>() {
        Some(request) if is_behind_gateway(request) => deadline(context).capped(GATEWAY),
        _ => deadline(context),
    };
    Some((deadline, context.request_id.clone()))
}

/// Returns the path without the gateway's stage; empty without a gateway.
pub(super) fn raw_path(extensions: &Extensions) -> &str {
    extensions.raw_http_path()
}

/// Returns whether API Gateway waits for the response. Function URLs use its format, but wait as
/// long as the function may run, as load balancers do.
fn is_behind_gateway(request: &RequestContext) -> bool {
    match request {
        RequestContext::ApiGatewayV1(_) | RequestContext::WebSocket(_) => true,
        RequestContext::ApiGatewayV2(context) => {
            let domain = context.domain_name.as_deref().unwrap_or_default();
            !domain.contains(".lambda-url.")
        }
        _ => false,
    }
}
