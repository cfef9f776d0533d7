//! The story of a request; the only caller of the phases.
//!
//! ```text
//! head -> route -> identify -> (AI: read body, model) -> plan -> limit -> open -> send -> relay -> close
//!    any error -> one mapper (`error.rs`)
//! ```
//!
//! A phase takes values and returns a value or an [`Error`]. Whatever happens, the call is recorded once (`call.rs`).

use std::net::IpAddr;
use std::rc::Rc;

use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;

use super::body::{Body, Source};
use super::call::Call;
use super::error::{Dialect, Error, ErrorAnswer};
use super::hygiene::REQUEST_ID;
use super::route::{Destination, find};
use super::worker::Worker;
use super::{ai, head, ids, limit, proxy};

/// Seconds since this node had contact with its cluster, where that is too long ago.
pub(super) const STALE: HeaderName = HeaderName::from_static("x-mode-envoy-stale");
const CALL_ID: HeaderName = HeaderName::from_static("x-mode-envoy-call-id");

/// A head and where its body comes from.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) source: Source,
}

/// Answers one request.
pub(crate) async fn handle(
    worker: Rc<Worker>,
    client: IpAddr,
    request: Request<Incoming>,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let mut call = Call::begin(&worker, client, &parts);
    let answer = match run(&mut call, &parts, body).await {
        Ok(answer) => answer,
        Err(error) => refuse(&mut call, &error, &parts),
    };
    respond(call, answer, &parts)
}

async fn run(call: &mut Call, parts: &Parts, body: Incoming) -> Result<Answer, Error> {
    let view = Rc::clone(call.view());
    let subject = head::check(parts, call.worker().limits.head_bytes)?;
    match find(view.table(), &subject, &parts.method)? {
        Destination::Route(route) => proxy::run(call, route, parts, &subject, body).await,
        Destination::Chat => ai::chat(call, parts, &subject, body).await,
        Destination::Embeddings => ai::embeddings(call, parts, &subject, body).await,
        Destination::Models => ai::models(call, parts, &subject).await,
        Destination::Model(id) => ai::model(call, parts, &subject, id).await,
    }
}

/// Turns an error into an answer, and says in the log what the client is not told.
fn refuse(call: &mut Call, error: &Error, request: &Parts) -> Answer {
    call.worker().meters.error(error.code());
    call.refused(error);
    if error.code().status() >= 500 {
        call.log_failure(error);
    }
    let ErrorAnswer {
        status,
        mut headers,
        body,
    } = error.answer(dialect(request.uri.path()));
    if matches!(error, Error::Head(_)) && request.version < Version::HTTP_2 {
        // Others may see the end of this request elsewhere. A client that was sure of its tunnel has sent what is meant
        // for the other end (RFC 9110, 9.3.6), and that must not be taken for a request.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Answer {
        status,
        headers,
        source: Source::Whole(body),
    }
}

fn respond(mut call: Call, answer: Answer, request: &Parts) -> Response<Body> {
    let Answer {
        status,
        mut headers,
        mut source,
    } = answer;
    if request.method == Method::HEAD
        && let Source::Whole(body) = &mut source
    {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        body.clear();
    }
    headers.insert(REQUEST_ID, call.request_id().clone());
    headers.insert(CALL_ID, ids::header_value(call.id()));
    limit::put_headers(&call, &mut headers);
    if let Some(seconds) = call.standing().seconds() {
        headers.insert(STALE, HeaderValue::from(seconds));
    }
    if request.headers.contains_key(TRANSFER_ENCODING) {
        // A client may have sent a content-length beside it, which hyper drops. Whatever stands in front of the
        // gateway may have believed that one, so the connection must not carry another request (RFC 9112, 6.1).
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    call.worker().meters.answered(status.as_u16());
    call.answer_begins(status.as_u16());
    let mut response = Response::new(Body::new(source, call));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// Errors on AI paths are in the dialect of their clients.
fn dialect(path: &str) -> Dialect {
    if path.starts_with("/v1/") {
        Dialect::Openai
    } else {
        Dialect::Problem
    }
}
