//! HTTP in front of a function, as an API Gateway HTTP API or a function URL does
//! it: payload format 2.0.
//!
//! <https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html>

use std::time::SystemTime;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::{Answer, state::milliseconds};
use crate::{Error, Result, error::OrSay};

/// The event for a request.
pub fn event(request: &Request<Bytes>) -> Value {
    let uri = request.uri();
    let query = uri.query().unwrap_or_default();
    let host = request
        .headers()
        .get(header::HOST)
        .map_or("localhost".into(), |host| {
            String::from_utf8_lossy(host.as_bytes())
        });
    let agent = request
        .headers()
        .get(header::USER_AGENT)
        .map_or("lab".into(), |agent| {
            String::from_utf8_lossy(agent.as_bytes())
        });
    let (body, is_base64) = match std::str::from_utf8(request.body()) {
        Ok(text) => (text.to_owned(), false),
        Err(_) => (BASE64_STANDARD.encode(request.body()), true),
    };
    let mut event = json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": uri.path(),
        "rawQueryString": query,
        "headers": headers(request.headers()),
        "requestContext": {
            "accountId": "anonymous",
            "apiId": "lab",
            "domainName": host,
            "domainPrefix": "lab",
            "http": {
                "method": request.method().as_str(),
                "path": uri.path(),
                "protocol": "HTTP/1.1",
                "sourceIp": "127.0.0.1",
                "userAgent": agent,
            },
            "requestId": "lab",
            "routeKey": "$default",
            "stage": "$default",
            "timeEpoch": milliseconds(SystemTime::now()),
        },
        "isBase64Encoded": is_base64,
    });
    let cookies = cookies(request.headers());
    if !cookies.is_empty() {
        event["cookies"] = cookies.into();
    }
    if !query.is_empty() {
        event["queryStringParameters"] = parameters(query).into();
    }
    if !body.is_empty() {
        event["body"] = body.into();
    }
    event
}

/// Names in lower case, values of the same name joined; cookies go elsewhere.
fn headers(headers: &HeaderMap) -> Map<String, Value> {
    let names = headers.keys().filter(|name| **name != header::COOKIE);
    names
        .map(|name| {
            let values: Vec<_> = headers
                .get_all(name)
                .iter()
                .map(|value| String::from_utf8_lossy(value.as_bytes()))
                .collect();
            (name.as_str().to_owned(), values.join(",").into())
        })
        .collect()
}

fn cookies(headers: &HeaderMap) -> Vec<String> {
    let values = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split("; "))
        .map(str::to_owned)
        .collect()
}

/// Values of the same name joined.
fn parameters(query: &str) -> Map<String, Value> {
    let mut parameters = Map::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match parameters.get_mut(name.as_ref()) {
            Some(Value::String(joined)) => {
                joined.push(',');
                joined.push_str(&value);
            }
            _ => {
                parameters.insert(name.into_owned(), value.into_owned().into());
            }
        }
    }
    parameters
}

/// The response for an answer. A function's error or crash is a 502, a timeout a
/// 504; what happened is in the [`Answer`].
///
/// # Errors
/// When the function's answer is none that the gateway would understand.
pub fn response(answer: &Answer) -> Result<Response<Bytes>> {
    match answer {
        Answer::Response(bytes) => buffered(bytes),
        Answer::Streamed { prelude, body } => build(prelude, body.clone()),
        Answer::Error { .. } | Answer::Crashed(_) => Ok(failure(StatusCode::BAD_GATEWAY)),
        Answer::TimedOut => Ok(failure(StatusCode::GATEWAY_TIMEOUT)),
    }
}

fn failure(status: StatusCode) -> Response<Bytes> {
    let body = json!({ "message": status.canonical_reason() }).to_string();
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response
}

/// A JSON object with a status code; anything else is itself the body.
fn buffered(bytes: &Bytes) -> Result<Response<Bytes>> {
    let answer: Value =
        serde_json::from_slice(bytes).or_say(|| "the function's response is not JSON")?;
    if answer.get("statusCode").is_none() {
        let prelude = json!({ "headers": { "content-type": "application/json" } });
        return build(&prelude, bytes.clone());
    }
    let text = answer["body"].as_str().unwrap_or_default();
    let body = if answer["isBase64Encoded"] == true {
        BASE64_STANDARD
            .decode(text)
            .or_say(|| "the function's body says it is base64, and is not")?
            .into()
    } else {
        Bytes::copy_from_slice(text.as_bytes())
    };
    build(&answer, body)
}

fn build(answer: &Value, body: Bytes) -> Result<Response<Bytes>> {
    let mut response = Response::new(body);
    if let Some(status) = answer.get("statusCode").filter(|status| !status.is_null()) {
        *response.status_mut() = status
            .as_u64()
            .and_then(|status| StatusCode::from_u16(status.try_into().ok()?).ok())
            .ok_or_else(|| Error::new(format!("the function's status code is {status}")))?;
    }
    let mut add = |name: &str, value: &Value| -> Result<()> {
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        let name: HeaderName = name
            .parse()
            .or_say(|| format!("the function sent a header {name:?}"))?;
        let value = HeaderValue::from_str(&text)
            .or_say(|| format!("the function sent a header {name} with {text:?}"))?;
        response.headers_mut().append(name, value);
        Ok(())
    };
    // Values of several headers of the same name are in the second of these.
    let several = answer["multiValueHeaders"].as_object();
    for (name, value) in answer["headers"].as_object().into_iter().flatten() {
        if !several.is_some_and(|several| several.contains_key(name)) {
            // A streamed prelude puts the values of a repeated header in a list.
            for value in value
                .as_array()
                .map_or(std::slice::from_ref(value), Vec::as_slice)
            {
                add(name, value)?;
            }
        }
    }
    for (name, values) in several.into_iter().flatten() {
        for value in values.as_array().into_iter().flatten() {
            add(name, value)?;
        }
    }
    for cookie in answer["cookies"].as_array().into_iter().flatten() {
        add("set-cookie", cookie)?;
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_holds_the_whole_request() {
        let request = Request::post("/partners/7?name=a%20b&tag=1&tag=2")
            .header("X-Thing", "1")
            .header("X-Thing", "2")
            .header("cookie", "a=1; b=2")
            .body(Bytes::from_static(b"\xff"))
            .unwrap();
        let event = event(&request);
        assert_eq!(event["rawPath"], "/partners/7");
        assert_eq!(event["rawQueryString"], "name=a%20b&tag=1&tag=2");
        assert_eq!(
            event["queryStringParameters"],
            json!({"name": "a b", "tag": "1,2"})
        );
        assert_eq!(event["headers"], json!({"x-thing": "1,2"}));
        assert_eq!(event["cookies"], json!(["a=1", "b=2"]));
        assert_eq!(event["requestContext"]["http"]["method"], "POST");
        assert_eq!(
            (&event["body"], &event["isBase64Encoded"]),
            (&json!("/w=="), &json!(true))
        );
    }

    #[test]
    fn answer_becomes_a_response() {
        let answer = json!({
            "statusCode": 201,
            "headers": {"x-one": "1", "x-two": "lost"},
            "multiValueHeaders": {"x-two": ["a", "b"]},
            "cookies": ["c=1"],
            "body": "/w==",
            "isBase64Encoded": true,
        });
        let response = response(&Answer::Response(answer.to_string().into())).unwrap();
        assert_eq!(response.status(), 201);
        assert_eq!(response.headers()["x-one"], "1");
        assert_eq!(response.headers().get_all("x-two").iter().count(), 2);
        assert_eq!(response.headers()["set-cookie"], "c=1");
        assert_eq!(response.body().as_ref(), b"\xff");
    }

    #[test]
    fn other_answers_are_responses_or_errors() {
        let inferred = response(&Answer::Response("[1]".into())).unwrap();
        assert_eq!(
            (inferred.status().as_u16(), inferred.body().as_ref()),
            (200, &b"[1]"[..])
        );
        assert_eq!(response(&Answer::TimedOut).unwrap().status(), 504);
        assert!(response(&Answer::Response("<html>".into())).is_err());
        let strange = r#"{"statusCode": 99999}"#;
        assert!(response(&Answer::Response(strange.into())).is_err());
    }
}
