//! Asking a provider: over HTTP, or in this process.

use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use mode_envoy_ai::embedded::{self, Reply};

use super::super::call::Call;
use super::super::error::Error;
use super::super::hygiene::{Forwarding, To, clean_provider_answer, write_fields};
use super::super::table::Endpoint;
use super::super::worker::connect;
use super::stream::Incoming;
use super::{AiRequest, Asked};
use crate::upstream::{Exchange, Framing, HeadParts, Timeouts, Upload, UpstreamError, write_head};

/// A provider's answer, as far as its head.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Incoming,
    pub(super) length: Option<u64>,
}

/// Asks the model's provider.
pub(super) async fn send(call: &mut Call, asked: &Asked, parts: &Parts) -> Result<Received, Error> {
    call.tries(asked.model.provider.endpoint.as_ref());
    let sent = match &asked.model.provider.endpoint {
        None => return in_process(call, asked),
        Some(endpoint) => over_http(call, asked, endpoint, parts).await,
    };
    sent.map_err(|error| {
        call.tried(Err(&error));
        // A provider that was only too slow may have done the work, and will charge for it.
        if !matches!(error, UpstreamError::Timeout { .. }) || error.before_sending() {
            call.nothing_charged();
        }
        Error::Upstream(error)
    })
}

async fn over_http(
    call: &mut Call,
    asked: &Asked,
    endpoint: &Endpoint,
    parts: &Parts,
) -> Result<Received, UpstreamError> {
    let worker = Rc::clone(call.worker());
    let provider = &asked.model.provider;
    let timeouts = Timeouts {
        client_idle: worker.limits.client_idle,
        ..provider.timeouts
    };
    let body = asked.request.rewrite(&asked.model.upstream_model);
    let head = head(call, asked, endpoint, parts, body.len() as u64);
    let mut idle = worker.pool.take(&endpoint.origin);
    loop {
        let conn = match idle.take() {
            Some(conn) => conn,
            None => connect(&worker, endpoint, timeouts).await?,
        };
        let upload = Upload::whole(head.clone(), body.clone());
        let time = (timeouts, call.started());
        let (exchange, answer) = Exchange::send(
            &worker.pool,
            &endpoint.origin,
            conn,
            upload,
            &Method::POST,
            time,
        )
        .await;
        worker.meters.attempt(&answer);
        match answer {
            Ok(answer) => {
                call.tried(Ok(&answer));
                let mut headers = answer.headers;
                clean_provider_answer(&mut headers);
                let body = Incoming::Exchange(Box::new(exchange));
                return Ok(Received {
                    status: answer.status,
                    headers,
                    body,
                    length: answer.length,
                });
            }
            // A new connection is never `stale`, so this ends after one more try.
            Err(error) if exchange.may_repeat(&error, false) => {
                call.tried(Err(&error));
                call.tries(Some(endpoint));
            }
            Err(error) => return Err(error),
        }
    }
}

fn head(call: &Call, asked: &Asked, endpoint: &Endpoint, parts: &Parts, length: u64) -> BytesMut {
    let head = HeadParts {
        method: &Method::POST,
        prefix: &endpoint.prefix,
        path: asked.request.path(),
        query: None,
        host: &endpoint.origin.authority,
    };
    let mut out = BytesMut::with_capacity(1_024);
    write_head(&mut out, &head, Framing::Length(length));
    let forwarding = Forwarding {
        request_id: call.request_id(),
        authenticated: true,
        to: To::Provider {
            authorization: asked.model.provider.authorization.as_ref(),
        },
    };
    write_fields(&mut out, &parts.headers, &forwarding);
    out
}

fn in_process(call: &mut Call, asked: &Asked) -> Result<Received, Error> {
    let body = asked.request.rewrite(&asked.model.upstream_model);
    let now_unix = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let reply = match &asked.request {
        AiRequest::Chat(_) => embedded::chat(body, now_unix),
        AiRequest::Embeddings(_) => embedded::embeddings(&body).map(Reply::Json),
    };
    let reply = reply.map_err(|error| {
        call.nothing_charged();
        Error::Dialect(error)
    })?;
    call.tried_inside(StatusCode::OK.as_u16());
    let mut headers = HeaderMap::with_capacity(8);
    let (content_type, body) = match reply {
        Reply::Json(body) => ("application/json", Incoming::Whole(body)),
        Reply::Stream(frames) => {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            ("text/event-stream", Incoming::Frames(Box::new(frames)))
        }
    };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    Ok(Received {
        status: StatusCode::OK,
        headers,
        body,
        length: None,
    })
}
