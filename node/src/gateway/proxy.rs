//! A request to a service: its endpoints in turn, its body as it comes, its answer as it is.
//!
//! An endpoint that cannot be connected to is passed over for the next one. Once a byte may have been sent there is no
//! second try, but for one case: a connection that had been idle was closed by the other side before it answered, and
//! the request has no body and is one that may be repeated (RFC 9110, 9.2.2).

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use http::header::HOST;
use http::request::Parts;
use hyper::body::{Body as _, Incoming};
use mode_envoy_model::route::Auth;

use super::body::Source;
use super::call::Call;
use super::error::Error;
use super::head::{Subject, content_length};
use super::hygiene::{Forwarding, To, clean_answer, without_key, write_fields};
use super::identify::{Identity, identify};
use super::limit;
use super::pipeline::Answer;
use super::table::{Endpoint, RouteEntry};
use super::upload::{Begun, begin};
use super::wall_ms;
use super::worker::connect;
use crate::upstream::{
    Conn, Exchange, Framing, HeadParts, ResponseHead, Timeouts, Upload, write_head,
};

/// What is sent to one endpoint after another.
struct Outgoing<'a> {
    parts: &'a Parts,
    subject: &'a Subject<'a>,
    route: &'a RouteEntry,
    identity: Option<&'a Identity>,
    framing: Framing,
}

/// Relays a request to the service of `route`.
pub(crate) async fn run(
    call: &mut Call,
    route: &RouteEntry,
    parts: &Parts,
    subject: &Subject<'_>,
    body: Incoming,
) -> Result<Answer, Error> {
    let identity = authenticate(call, route, parts, subject)?;
    let limits = call.worker().limits;
    let framing = framing(parts, &body, limits.proxied_body_bytes)?;
    let timeouts = Timeouts {
        client_idle: limits.client_idle,
        ..route.service.timeouts
    };
    limit::take(call).await?;
    // No upstream is held while the client has not begun; head and first piece leave together.
    let body = begin(body, timeouts.client_idle).await?;
    call.open(body.first.len() as u64, None)?;
    let outgoing = Outgoing {
        parts,
        subject,
        route,
        identity: identity.as_ref(),
        framing,
    };
    let (head, exchange) = send(call, &outgoing, body, timeouts).await?;
    Ok(relay(call, head, exchange))
}

/// Checks the credential that the route asks for.
pub(super) fn authenticate(
    call: &mut Call,
    route: &RouteEntry,
    parts: &Parts,
    subject: &Subject<'_>,
) -> Result<Option<Identity>, Error> {
    let view = Rc::clone(call.view());
    match route.auth() {
        Auth::None => {
            call.about(view.of_route(None, route));
            Ok(None)
        }
        Auth::Key => {
            call.about(view.of_route(None, route));
            call.may_take_keys()?;
            let identity = identify(&parts.headers, subject.query, view.table(), wall_ms())?;
            // The route's tenant is told of the refusal, and not of whose key it was.
            if identity.key.key.tenant != *route.tenant() {
                return Err(Error::OtherTenant);
            }
            call.about(view.of_route(Some(&identity.key), route));
            Ok(Some(identity))
        }
    }
}

fn framing(parts: &Parts, body: &Incoming, limit: u64) -> Result<Framing, Error> {
    match content_length(&parts.headers) {
        Some(length) if length > limit => Err(Error::BodyTooLarge { limit }),
        Some(length) => Ok(Framing::Length(length)),
        None if body.is_end_stream() => Ok(Framing::None),
        None => Ok(Framing::Chunked),
    }
}

/// Sends to the endpoint whose turn it is, or to the next that can be connected to.
async fn send(
    call: &mut Call,
    outgoing: &Outgoing<'_>,
    body: Begun,
    timeouts: Timeouts,
) -> Result<(ResponseHead, Exchange), Error> {
    let worker = Rc::clone(call.worker());
    let mut last = Error::NoEndpoint;
    let mut body = Some(body);
    for endpoint in outgoing.route.service.in_turn() {
        call.tries(Some(endpoint));
        let conn = match worker.pool.take(&endpoint.origin) {
            Some(conn) => conn,
            None => match connect(&worker, endpoint, timeouts).await {
                Ok(conn) => conn,
                Err(error) => {
                    call.tried(Err(&error));
                    last = Error::Upstream(error);
                    if call.started().elapsed() < timeouts.total {
                        continue;
                    }
                    return Err(last);
                }
            },
        };
        let Some(body) = body.take() else { break };
        return exchange(call, outgoing, endpoint, conn, (body, timeouts)).await;
    }
    Err(last)
}

/// Sends over `conn`, and once more over a new connection if that one turns out to have been closed while idle.
async fn exchange(
    call: &mut Call,
    outgoing: &Outgoing<'_>,
    endpoint: &Endpoint,
    mut conn: Conn,
    (body, timeouts): (Begun, Timeouts),
) -> Result<(ResponseHead, Exchange), Error> {
    let worker = Rc::clone(call.worker());
    let (method, origin) = (&outgoing.parts.method, &endpoint.origin);
    let repeatable = method.is_idempotent() && body.rest.is_none() && body.first.is_empty();
    let (mut first, mut rest) = (body.first, body.rest);
    loop {
        let upload = Upload::streaming(
            outgoing.head(call, endpoint),
            outgoing.framing,
            std::mem::take(&mut first),
            rest.take(),
            worker.limits.proxied_body_bytes,
        );
        let time = (timeouts, call.started());
        let (exchange, head) =
            Exchange::send(&worker.pool, origin, conn, upload, method, time).await;
        worker.meters.attempt(&head);
        call.tried(head.as_ref());
        call.received(exchange.bytes_in());
        match head {
            Ok(head) => return Ok((head, exchange)),
            // A new connection is never `stale`, so this ends after one more try.
            Err(error) if repeatable && exchange.may_repeat(&error, true) => {
                call.tries(Some(endpoint));
                conn = match connect(&worker, endpoint, timeouts).await {
                    Ok(conn) => conn,
                    Err(error) => {
                        call.tried(Err(&error));
                        return Err(Error::Upstream(error));
                    }
                };
            }
            Err(error) => return Err(Error::Upstream(error)),
        }
    }
}

fn relay(call: &mut Call, head: ResponseHead, exchange: Exchange) -> Answer {
    call.received(exchange.bytes_in());
    let ResponseHead {
        status,
        mut headers,
        length,
    } = head;
    clean_answer(&mut headers);
    let source = Source::Upstream {
        first: Bytes::new(),
        exchange: Box::new(exchange),
        left: length,
    };
    Answer {
        status,
        headers,
        source,
    }
}

// === impl Outgoing ===

impl Outgoing<'_> {
    fn head(&self, call: &Call, endpoint: &Endpoint) -> BytesMut {
        let in_query = self.identity.is_some_and(|identity| identity.in_query);
        let query = match self.subject.query {
            Some(query) if in_query => without_key(query),
            query => query.map(Into::into),
        };
        let head = HeadParts {
            method: &self.parts.method,
            prefix: &endpoint.prefix,
            path: self.route.upstream_path(&self.subject.path),
            query: query.as_deref(),
            host: &endpoint.origin.authority,
        };
        let mut out = BytesMut::with_capacity(1_024);
        write_head(&mut out, &head, self.framing);
        // The host that the route was found by.
        let authority = self.parts.uri.authority();
        let authority =
            authority.and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
        let forwarding = Forwarding {
            request_id: call.request_id(),
            authenticated: self.identity.is_some(),
            to: To::Service {
                client: call.client(),
                host: authority.as_ref().or_else(|| self.parts.headers.get(HOST)),
                secure: call.worker().tls.is_some(),
            },
        };
        write_fields(&mut out, &self.parts.headers, &forwarding);
        out
    }
}
