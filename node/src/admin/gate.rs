//! Who asks: every request passes here, once, before anything else looks at it.
//!
//! A call of the API goes on with a [`Call`] in its extensions, so that no service can forget to ask. Reflection, health
//! and metrics are open where the listener is on loopback, and take a viewer's token elsewhere.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Request, Response};
use hyper::body::Incoming;
use mode_envoy_raft::Phase;
use prost::Message;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tower::ServiceExt as _;

use super::status::to_status;
use super::streams::{StreamPlace, Streams};
use super::{AdminContext, http as pages};
use crate::control::{Control, ControlError, NamedRequest, Principal, authorize};
use crate::secrets::new_nonce;

/// Requests at a time, over all connections.
const MAX_REQUESTS: usize = 512;
/// For one request, its body included; longer than any deadline within.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// By it a client names a change, so that asking again is a retry and not another change.
const REQUEST_ID: &str = "x-request-id";
/// As many characters as 128 random bits take, at the least.
const REQUEST_ID_LENGTHS: RangeInclusive<usize> = 22..=128;
const API_PREFIX: &str = "/modeenvoy.admin.v1.";

/// Who asks, and what it may ask.
#[derive(Clone)]
pub(super) struct Call {
    pub(super) control: Arc<Control>,
    pub(super) who: Principal,
    /// Such as `Config/Apply`.
    method: Arc<str>,
    /// What the client calls its request, so that a retry is known; not looked at yet.
    request_id: Option<HeaderValue>,
    streams: Streams,
}

/// The door of the admin listener.
pub(super) struct Gate {
    context: AdminContext,
    routes: Routes,
    requests: Semaphore,
    streams: Streams,
}

// === impl Call ===

impl Call {
    /// A place for an answer that goes on.
    pub(super) fn stream(&self) -> Result<StreamPlace, Status> {
        self.streams
            .begin(&self.who)
            .map_err(|error| to_status(&error))
    }
}

// === impl Gate ===

impl Gate {
    pub(super) fn new(context: AdminContext, routes: Routes) -> Self {
        Self {
            context,
            routes,
            requests: Semaphore::new(MAX_REQUESTS),
            streams: Streams::default(),
        }
    }

    /// Answers one request.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let grpc = is_grpc(request.headers());
        let Ok(_permit) = self.requests.try_acquire() else {
            return if grpc {
                Status::resource_exhausted("this node has too many admin requests open; try again")
                    .into_http()
            } else {
                pages::overloaded()
            };
        };
        if !grpc {
            let allowed = self.allowed_to_look(request.headers());
            return pages::answer(
                &self.context,
                request.method(),
                request.uri().path(),
                allowed,
            );
        }
        match timeout(REQUEST_TIMEOUT, self.call(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(status)) => status.into_http(),
            Err(_) => Status::deadline_exceeded(
                "the request took too long; whether it was carried out is not known",
            )
            .into_http(),
        }
    }

    async fn call(&self, mut request: Request<Incoming>) -> Result<Response<Body>, Status> {
        let method = request.uri().path().strip_prefix(API_PREFIX);
        if let Some(method) = method.map(Arc::<str>::from) {
            let (control, who) = self.identify(request.headers())?;
            authorize::admit(&who, &method).map_err(|error| to_status(&error))?;
            let request_id = request.headers().get(REQUEST_ID).cloned();
            request.extensions_mut().insert(Call {
                control,
                who,
                method,
                request_id,
                streams: self.streams.clone(),
            });
        } else if !self.context.open {
            self.identify(request.headers())?;
        }
        match self.routes.clone().oneshot(request).await {
            Ok(response) => Ok(response),
            Err(never) => match never {},
        }
    }

    fn identify(&self, headers: &HeaderMap) -> Result<(Arc<Control>, Principal), Status> {
        let Some(control) = self.context.control.borrow().clone() else {
            let why = waiting_for(&self.context.phase.borrow());
            return Err(to_status(&ControlError::Unavailable(why)));
        };
        let token = bearer(headers).ok_or_else(|| to_status(&ControlError::Unauthenticated))?;
        let who = control
            .authenticate(token)
            .map_err(|error| to_status(&error))?;
        Ok((control, who))
    }

    /// The metrics tell of every tenant.
    fn allowed_to_look(&self, headers: &HeaderMap) -> Result<(), Status> {
        if self.context.open {
            return Ok(());
        }
        let (_, who) = self.identify(headers)?;
        authorize::admit_to_metrics(&who).map_err(|error| to_status(&error))
    }
}

// === free functions ===

/// The call that the gate let in.
pub(super) fn call_of<T>(request: &tonic::Request<T>) -> Result<Call, Status> {
    let call = request.extensions().get::<Call>().cloned();
    call.ok_or_else(|| to_status(&ControlError::Unauthenticated))
}

/// The call of a change that the gate let in. What it asks for is part of its name, so that an id that is used again for
/// something else is noticed.
pub(super) fn change_of<M: Message>(request: &tonic::Request<M>) -> Result<Call, Status> {
    let mut call = call_of(request)?;
    let Some(id) = call.request_id.take() else {
        return Ok(call);
    };
    let id = read_request_id(&id)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(call.method.as_bytes()).update(&[0]);
    hasher.update(&request.get_ref().encode_to_vec());
    let body = *hasher.finalize().as_bytes();
    let nonce = new_nonce().map_err(|error| to_status(&error.into()))?;
    call.who.request = Some(NamedRequest { id, body, nonce });
    Ok(call)
}

fn read_request_id(value: &HeaderValue) -> Result<String, Status> {
    let id = value.to_str().unwrap_or_default();
    let sound = id
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if sound && REQUEST_ID_LENGTHS.contains(&id.len()) {
        return Ok(id.to_owned());
    }
    let problem = format!(
        "it must have {} to {} letters, digits, `.`, `_` or `-`, and 128 random bits: 32 hexadecimal digits do",
        REQUEST_ID_LENGTHS.start(),
        REQUEST_ID_LENGTHS.end()
    );
    Err(to_status(&ControlError::invalid(REQUEST_ID, problem)))
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    kind.is_some_and(|kind| kind.starts_with(b"application/grpc"))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (value, None) = (values.next()?, values.next()) else {
        return None;
    };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn waiting_for(phase: &Phase) -> String {
    match phase {
        Phase::Forming { waiting_for } if !waiting_for.is_empty() => {
            let peers: Vec<_> = waiting_for
                .iter()
                .map(|peer| format!("node {} at {}: {}", peer.node_id, peer.address, peer.reason))
                .collect();
            format!(
                "the cluster is being formed; waiting for {}",
                peers.join("; ")
            )
        }
        Phase::Forming { .. } => "the cluster is being formed".to_owned(),
        Phase::Joining { address, reason } if reason.is_empty() => {
            format!("this node asks {address} to let it join")
        }
        Phase::Joining { reason, .. } => format!("this node is not let in yet: {reason}"),
        Phase::Replaying => "this node is replaying its log".to_owned(),
        Phase::Starting | Phase::Member => "this node is starting".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use mode_envoy_raft::Waiting;

    use super::*;

    fn headers(values: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn one_bearer_token_is_read_and_nothing_else() {
        assert_eq!(bearer(&headers(&["Bearer met-x"])), Some("met-x"));
        assert_eq!(bearer(&headers(&["bearer met-x"])), Some("met-x"));
        for values in [
            &[][..],
            &["met-x"],
            &["Basic eDp5"],
            &["Bearer a", "Bearer b"],
        ] {
            assert_eq!(bearer(&headers(values)), None, "{values:?}");
        }
    }

    #[test]
    fn a_request_id_is_long_enough_to_be_nobody_elses() {
        let of = |id: &str| read_request_id(&HeaderValue::from_str(id).unwrap());
        let id = "0123456789abcdef0123456789abcdef";
        assert_eq!(of(id).unwrap(), id);
        for id in ["", "short", "with a space in the middle", &"x".repeat(129)] {
            let status = of(id).unwrap_err();
            assert_eq!(status.code(), tonic::Code::InvalidArgument, "{id}");
            assert!(status.message().contains("128 random bits"), "{status}");
        }
    }

    #[test]
    fn while_the_cluster_is_formed_callers_are_told_what_is_waited_for() {
        let peers = vec![Waiting {
            node_id: 2,
            address: "127.0.0.2:7071".to_owned(),
            reason: "connection refused".to_owned(),
        }];
        assert_eq!(
            waiting_for(&Phase::Forming { waiting_for: peers }),
            "the cluster is being formed; waiting for node 2 at 127.0.0.2:7071: connection refused"
        );
        assert!(waiting_for(&Phase::Replaying).contains("replaying"));
    }
}
