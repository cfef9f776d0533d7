//! Why the gateway answers a request itself, and the one mapping from that to what the client sees.
//!
//! Invariants:
//! * every such answer carries `x-mode-envoy-error` with a code of the contract;
//! * what went wrong behind the gateway is told in general words; names of upstreams and texts of the system go to
//!   the log only;
//! * "could not check" is never told as the client's fault, and neither is a provider that refuses our key.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use mode_envoy_ai::error::{ErrorBody, ErrorCode};
use mode_envoy_limits::{PoolsFull, Reason, Refusal};
use mode_envoy_model::limit::{Per, Unit};
use serde::Serialize;
use thiserror::Error;

use super::head::FIELDS_MAX;
use crate::limits::Ended;
use crate::upstream::UpstreamError;
use crate::usage::recorder::RecordError;

pub(crate) mod reason;

/// The header that names why the gateway answered itself.
pub(crate) const ERROR_HEADER: HeaderName = HeaderName::from_static("x-mode-envoy-error");

/// Why the gateway answers itself.
#[derive(Debug, Error)]
pub(crate) enum Error {
    /// The head cannot be taken.
    #[error("{0}")]
    Head(&'static str),
    /// The head is over a limit.
    #[error(
        "the request's head is longer than {limit} bytes or has more than {FIELDS_MAX} header fields; send a shorter URI, or fewer or shorter header fields"
    )]
    HeadTooLarge {
        /// The limit of its bytes.
        limit: usize,
    },
    /// The body is over the limit.
    #[error("the request's body is longer than {limit} bytes")]
    BodyTooLarge {
        /// The limit.
        limit: u64,
    },
    /// No such path.
    #[error("nothing is served at this host and path")]
    UnknownPath,
    /// The path does not take this method.
    #[error("this path does not take the method; see the Allow header")]
    Method {
        /// What it takes.
        allow: HeaderValue,
    },
    /// There is no credential.
    #[error("an API key is needed: send it as `Authorization: Bearer <key>` or `x-api-key: <key>`")]
    NoCredential,
    /// There are two that differ.
    #[error("the request carries two different credentials; send one")]
    TwoCredentials,
    /// The credential is not known.
    #[error("the API key is not valid; it may be mistyped, expired or revoked")]
    UnknownCredential,
    /// The node is cut off, and cannot tell any more which keys are valid.
    #[error(
        "this gateway has been cut off from its cluster for {seconds} s, so it cannot tell whether the API key is still valid; call another node, or try again later"
    )]
    ConfigStale {
        /// Since the last contact.
        seconds: u64,
    },
    /// The key belongs to another tenant.
    #[error("this API key may not call this route")]
    OtherTenant,
    /// An AI call is refused in its dialect.
    #[error("{}", .0.message)]
    Dialect(ErrorBody),
    /// The node has too many connections, or one client has.
    #[error("too many connections are open here; close idle ones or try again later")]
    TooManyConnections,
    /// The node cannot record usage.
    #[error("the gateway cannot record the call's usage right now; try again later")]
    Unrecordable(#[source] RecordError),
    /// A limit says no, or nobody could say.
    #[error("{}", told_of_limit(.0))]
    Limit(Box<Refusal>),
    /// The node holds as many pools of limits as it can.
    #[error("the gateway cannot check this call's limits: {0}")]
    Pools(PoolsFull),
    /// The node is ending.
    #[error("the gateway cannot check this call's limits: {0}")]
    Limiter(Ended),
    /// What the call takes of limits cannot be recorded.
    #[error(
        "the gateway cannot record what the call takes of its limits, since its usage spool is nearly full; try again later"
    )]
    LimitUnrecordable,
    /// A service without endpoints.
    #[error("no upstream is configured for this route")]
    NoEndpoint,
    /// The upstream failed.
    #[error("the upstream failed")]
    Upstream(#[source] UpstreamError),
    /// The provider refused our key.
    #[error(
        "the provider refused the gateway's own credentials (status {status}); the operator must correct the provider's key"
    )]
    ProviderKey {
        /// What the provider answered.
        status: u16,
    },
    /// The provider's key cannot be sent as it is stored.
    #[error(
        "the gateway's credential for this provider cannot be used; the operator must apply the provider's key again"
    )]
    ProviderUnusable,
    /// The provider failed without an answer that a client could read.
    #[error("the provider failed (status {status})")]
    ProviderStatus {
        /// What the provider answered.
        status: u16,
    },
    /// The provider answered 200 with an error in it.
    #[error("the provider answered with an error: {0}")]
    InBand(String),
}

/// How errors are written for a client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Dialect {
    /// `application/problem+json`, RFC 9457.
    Problem,
    /// OpenAI's error object.
    Openai,
}

/// What the client is answered.
#[derive(Debug)]
pub(crate) struct ErrorAnswer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

#[derive(Serialize)]
struct Problem<'a> {
    r#type: &'a str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
}

// === impl Error ===

impl Error {
    /// Why hyper refused a head that it answered with `status`; `limit` is that of a head's bytes.
    pub(crate) fn of_refused_head(status: u16, limit: usize) -> Self {
        match status {
            // The contract has one code for both: the request line and the fields share one limit.
            414 | 431 => Self::HeadTooLarge { limit },
            _ => Self::Head("the request's head is not valid HTTP/1.1"),
        }
    }

    /// The code of the contract.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::Head(_) | Self::Method { .. } => ErrorCode::RequestInvalid,
            Self::HeadTooLarge { .. } => ErrorCode::HeaderTooLarge,
            Self::BodyTooLarge { .. } => ErrorCode::RequestTooLarge,
            Self::UnknownPath => ErrorCode::NotFound,
            Self::NoCredential | Self::TwoCredentials | Self::UnknownCredential => {
                ErrorCode::Unauthenticated
            }
            Self::ConfigStale { .. } => ErrorCode::ConfigStale,
            Self::OtherTenant => ErrorCode::Forbidden,
            Self::Dialect(body) => body.gateway,
            Self::Unrecordable(_) | Self::TooManyConnections => ErrorCode::Overloaded,
            Self::Limit(refusal) if refusal.reason.is_limited() => ErrorCode::Limited,
            Self::Limit(_) | Self::Pools(_) | Self::Limiter(_) | Self::LimitUnrecordable => {
                ErrorCode::LimiterUnavailable
            }
            Self::NoEndpoint => ErrorCode::NoHealthyUpstream,
            Self::Upstream(error) => of_upstream(error),
            Self::ProviderKey { .. }
            | Self::ProviderUnusable
            | Self::ProviderStatus { .. }
            | Self::InBand(_) => ErrorCode::UpstreamFailed,
        }
    }

    /// What the client is answered, in its dialect.
    pub(crate) fn answer(&self, dialect: Dialect) -> ErrorAnswer {
        let code = self.code();
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(ERROR_HEADER, HeaderValue::from_static(code.as_str()));
        let mut status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::BAD_GATEWAY);
        if let Self::Method { allow } = self {
            status = StatusCode::METHOD_NOT_ALLOWED;
            headers.insert(ALLOW, allow.clone());
        }
        if let Some(seconds) = self.retry_after_s() {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        let (content_type, body) = match dialect {
            Dialect::Openai => ("application/json", self.in_openai().to_json()),
            Dialect::Problem => ("application/problem+json", self.problem(status)),
        };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        ErrorAnswer {
            status,
            headers,
            body,
        }
    }

    /// When it is worth another try, in seconds.
    fn retry_after_s(&self) -> Option<u64> {
        match self {
            Self::Limit(refusal) if refusal.reason.is_limited() => {
                refusal.retry_after_s(super::wall_ms())
            }
            _ => match self.code() {
                ErrorCode::Overloaded | ErrorCode::LimiterUnavailable => Some(1),
                _ => None,
            },
        }
    }

    /// The error as OpenAI's clients read it.
    pub(crate) fn in_openai(&self) -> ErrorBody {
        match self {
            Self::Dialect(body) => body.clone(),
            other => ErrorBody::new(other.code(), other.told()),
        }
    }

    fn problem(&self, status: StatusCode) -> Bytes {
        let told = self.told();
        let problem = Problem {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: &told,
            code: self.code().as_str(),
        };
        // Texts and numbers cannot fail to be written; an empty body would still carry the status.
        Bytes::from(serde_json::to_vec(&problem).unwrap_or_default())
    }

    /// What is told to the client.
    fn told(&self) -> String {
        match self {
            Self::Upstream(error) => told_of_upstream(error),
            other => other.to_string(),
        }
    }
}

/// What a client is told of a limit: its name and how it stands, and nothing of other clients.
fn told_of_limit(refusal: &Refusal) -> String {
    let limit = &refusal.limit;
    let amount = match (limit.unit, limit.per) {
        (Unit::Concurrent, _) => format!("{} calls at the same time", limit.amount),
        (Unit::Requests, Per::Total) => format!("{} requests in total", limit.amount),
        (Unit::Requests, per) => format!("{} requests a {}", limit.amount, per.word()),
    };
    let why = match refusal.reason {
        Reason::Exhausted | Reason::HeldElsewhere => "it is used up",
        Reason::NeverFits => "one call takes more than it ever gives",
        Reason::NoQuorum => {
            "it cannot be checked, since this gateway is cut off from its cluster; call another node or try again later"
        }
        Reason::Unanswered => "it could not be checked in time; try again",
        Reason::Crowded => "too many calls wait for it to be checked; try again later",
    };
    format!("the limit `{}` of {amount}: {why}", limit.name)
}

fn of_upstream(error: &UpstreamError) -> ErrorCode {
    match error {
        UpstreamError::Timeout { .. } => ErrorCode::UpstreamTimeout,
        UpstreamError::Connect { .. }
        | UpstreamError::Broken { .. }
        | UpstreamError::Malformed { .. } => ErrorCode::UpstreamFailed,
        UpstreamError::ClientBody(_) | UpstreamError::ClientStalled => ErrorCode::RequestInvalid,
        UpstreamError::BodyTooLarge { .. } => ErrorCode::RequestTooLarge,
    }
}

fn told_of_upstream(error: &UpstreamError) -> String {
    match error {
        UpstreamError::Timeout { waited, .. } => {
            format!("the upstream did not answer in time: {waited}")
        }
        UpstreamError::Connect { .. } => "no connection to the upstream could be made".to_owned(),
        UpstreamError::Broken { .. } => {
            "the upstream closed the connection before its answer was complete".to_owned()
        }
        UpstreamError::Malformed { .. } => "the upstream's answer is not valid HTTP/1.1".to_owned(),
        UpstreamError::ClientBody(_) => "the request's body did not arrive whole".to_owned(),
        UpstreamError::ClientStalled | UpstreamError::BodyTooLarge { .. } => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::Value;

    use super::*;
    use crate::upstream::Waited;

    fn every_error() -> Vec<(Error, u16, &'static str)> {
        let allow = HeaderValue::from_static("GET");
        vec![
            (Error::Head("bad"), 400, "request_invalid"),
            (Error::HeadTooLarge { limit: 1 }, 431, "header_too_large"),
            (Error::BodyTooLarge { limit: 1 }, 413, "request_too_large"),
            (Error::UnknownPath, 404, "not_found"),
            (Error::Method { allow }, 405, "request_invalid"),
            (Error::NoCredential, 401, "unauthenticated"),
            (Error::TwoCredentials, 401, "unauthenticated"),
            (Error::UnknownCredential, 401, "unauthenticated"),
            (Error::ConfigStale { seconds: 1 }, 503, "config_stale"),
            (Error::OtherTenant, 403, "forbidden"),
            (
                Error::Dialect(ErrorBody::model_not_found("m")),
                404,
                "not_found",
            ),
            (Error::Unrecordable(RecordError::Full), 503, "overloaded"),
            (Error::TooManyConnections, 503, "overloaded"),
            (Error::NoEndpoint, 503, "no_healthy_upstream"),
            (Error::ProviderKey { status: 401 }, 502, "upstream_failed"),
            (Error::ProviderUnusable, 502, "upstream_failed"),
            (
                Error::ProviderStatus { status: 500 },
                502,
                "upstream_failed",
            ),
            (Error::InBand("x".to_owned()), 502, "upstream_failed"),
        ]
    }

    fn every_upstream_error() -> Vec<(Error, u16, &'static str)> {
        let origin = || Arc::<str>::from("http://secret-host:1");
        let source = || std::io::Error::other("secret cause");
        let connect = UpstreamError::Connect {
            origin: origin(),
            source: source(),
        };
        let timeout = UpstreamError::Timeout {
            origin: origin(),
            waited: Waited::Total,
        };
        let broken = UpstreamError::Broken {
            origin: origin(),
            stale: false,
            source: source(),
        };
        let malformed = UpstreamError::Malformed {
            origin: origin(),
            problem: "x",
        };
        let too_large = UpstreamError::BodyTooLarge { limit: 1 };
        [
            (connect, 502, "upstream_failed"),
            (timeout, 504, "upstream_timeout"),
            (broken, 502, "upstream_failed"),
            (malformed, 502, "upstream_failed"),
            (UpstreamError::ClientStalled, 400, "request_invalid"),
            (too_large, 413, "request_too_large"),
        ]
        .map(|(error, status, code)| (Error::Upstream(error), status, code))
        .into()
    }

    #[test]
    fn every_error_has_its_status_and_code_in_both_dialects() {
        for (error, status, code) in every_error().into_iter().chain(every_upstream_error()) {
            for dialect in [Dialect::Problem, Dialect::Openai] {
                let answer = error.answer(dialect);
                assert_eq!(answer.headers[ERROR_HEADER], code, "{error:?}");
                assert_eq!(answer.status.as_u16(), status, "{error:?}");
                let body: Value = serde_json::from_slice(&answer.body).unwrap();
                match dialect {
                    Dialect::Problem => {
                        assert_eq!(body["status"], status);
                        assert_eq!(body["code"], code);
                    }
                    Dialect::Openai => assert!(body["error"]["message"].is_string()),
                }
            }
        }
    }

    #[test]
    fn what_is_behind_the_gateway_is_not_told() {
        for (error, ..) in every_error().into_iter().chain(every_upstream_error()) {
            let body = error.answer(Dialect::Problem).body;
            assert!(
                !String::from_utf8_lossy(&body).contains("secret"),
                "{error:?}"
            );
        }
    }

    #[test]
    fn a_method_that_is_not_taken_says_which_are() {
        let error = Error::Method {
            allow: HeaderValue::from_static("GET, POST"),
        };
        assert_eq!(error.answer(Dialect::Problem).headers[ALLOW], "GET, POST");
    }
}
