//! Errors as a client of an AI dialect expects to read them.
//!
//! The gateway has one list of error codes (the `x-mode-envoy-error` header); this file is the one
//! table from them to OpenAI's status, `type` and `code`, and writes the body or, once a stream has
//! begun, the frame. All four keys of the error object are always present, as OpenAI's schema
//! requires. A message is cut at [`MESSAGE_BYTES_MAX`].

use std::borrow::Cow;

use bytes::Bytes;
use serde::Serialize;

/// Longest message put into an error body.
pub const MESSAGE_BYTES_MAX: usize = 4096;

/// Why the gateway itself refused or failed a call.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum ErrorCode {
    /// No credential, or one that is not known.
    Unauthenticated,
    /// A known principal that may not do this.
    Forbidden,
    /// No such path or model.
    NotFound,
    /// The request cannot be understood.
    RequestInvalid,
    /// The request's body is over the limit.
    RequestTooLarge,
    /// The request's headers are over the limit.
    HeaderTooLarge,
    /// A limit is exhausted.
    Limited,
    /// A limit could not be checked.
    LimiterUnavailable,
    /// The node has been cut off from the cluster for too long.
    ConfigStale,
    /// The credential could not be checked.
    AuthDependencyUnavailable,
    /// No upstream is fit to be tried.
    NoHealthyUpstream,
    /// The upstream did not answer in time.
    UpstreamTimeout,
    /// The upstream failed or broke off.
    UpstreamFailed,
    /// A guardrail refused the content.
    GuardrailBlocked,
    /// The gateway has too much to do.
    Overloaded,
}

/// An error in OpenAI's dialect.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ErrorBody {
    /// The gateway's own code, for the `x-mode-envoy-error` header and records.
    pub gateway: ErrorCode,
    /// The HTTP status.
    pub status: u16,
    /// OpenAI's `type`.
    pub kind: &'static str,
    /// OpenAI's `code`.
    pub code: Option<Cow<'static, str>>,
    /// What happened and what the caller can do.
    pub message: String,
    /// The request's field that is at fault.
    pub param: Option<String>,
}

#[derive(Serialize)]
struct Envelope<'a> {
    error: Fields<'a>,
}

#[derive(Serialize)]
struct Fields<'a> {
    message: &'a str,
    r#type: &'a str,
    param: Option<&'a str>,
    code: Option<&'a str>,
}

// === impl ErrorCode ===

impl ErrorCode {
    /// Every code, in the order of the contract.
    pub const ALL: [Self; 15] = [
        Self::Unauthenticated,
        Self::Forbidden,
        Self::NotFound,
        Self::RequestInvalid,
        Self::RequestTooLarge,
        Self::HeaderTooLarge,
        Self::Limited,
        Self::LimiterUnavailable,
        Self::ConfigStale,
        Self::AuthDependencyUnavailable,
        Self::NoHealthyUpstream,
        Self::UpstreamTimeout,
        Self::UpstreamFailed,
        Self::GuardrailBlocked,
        Self::Overloaded,
    ];

    /// The value of the `x-mode-envoy-error` header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::RequestInvalid => "request_invalid",
            Self::RequestTooLarge => "request_too_large",
            Self::HeaderTooLarge => "header_too_large",
            Self::Limited => "limited",
            Self::LimiterUnavailable => "limiter_unavailable",
            Self::ConfigStale => "config_stale",
            Self::AuthDependencyUnavailable => "auth_dependency_unavailable",
            Self::NoHealthyUpstream => "no_healthy_upstream",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::UpstreamFailed => "upstream_failed",
            Self::GuardrailBlocked => "guardrail_blocked",
            Self::Overloaded => "overloaded",
        }
    }

    /// The HTTP status.
    pub fn status(self) -> u16 {
        self.in_openai().0
    }

    /// OpenAI's status, `type` and `code`.
    fn in_openai(self) -> (u16, &'static str, Option<&'static str>) {
        match self {
            Self::Unauthenticated => (401, "authentication_error", Some("invalid_api_key")),
            Self::Forbidden => (403, "permission_error", None),
            Self::NotFound => (404, "invalid_request_error", Some("not_found")),
            Self::RequestInvalid => (400, "invalid_request_error", None),
            Self::RequestTooLarge => (413, "invalid_request_error", Some("request_too_large")),
            Self::HeaderTooLarge => (431, "invalid_request_error", Some("header_too_large")),
            Self::Limited => (429, "rate_limit_error", Some("rate_limit_exceeded")),
            Self::LimiterUnavailable => (503, "server_error", Some("limiter_unavailable")),
            Self::ConfigStale => (503, "server_error", Some("config_stale")),
            Self::AuthDependencyUnavailable => {
                (503, "server_error", Some("auth_dependency_unavailable"))
            }
            Self::NoHealthyUpstream => (503, "overloaded_error", Some("no_healthy_upstream")),
            Self::UpstreamTimeout => (504, "timeout_error", Some("upstream_timeout")),
            Self::UpstreamFailed => (502, "upstream_error", Some("upstream_failed")),
            Self::GuardrailBlocked => (
                400,
                "invalid_request_error",
                Some("content_policy_violation"),
            ),
            Self::Overloaded => (503, "overloaded_error", Some("overloaded")),
        }
    }
}

// === impl ErrorBody ===

impl ErrorBody {
    /// The error of `gateway`'s row of the table.
    pub fn new(gateway: ErrorCode, message: impl Into<String>) -> Self {
        let (status, kind, code) = gateway.in_openai();
        let mut message = message.into();
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        Self {
            gateway,
            status,
            kind,
            code: code.map(Cow::Borrowed),
            message,
            param: None,
        }
    }

    /// The answer to a call for a model that does not exist or that the caller may not use.
    pub fn model_not_found(model: &str) -> Self {
        Self::new(
            ErrorCode::NotFound,
            format!("the model `{model}` does not exist or you do not have access to it"),
        )
        .with_code("model_not_found")
        .with_param("model")
    }

    /// The same error with another `code`.
    #[must_use]
    pub fn with_code(mut self, code: &'static str) -> Self {
        self.code = Some(Cow::Borrowed(code));
        self
    }

    /// The same error, naming the field at fault.
    #[must_use]
    pub fn with_param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// The JSON body.
    pub fn to_json(&self) -> Bytes {
        Bytes::from(self.json())
    }

    /// The error as a frame of an event stream that has already begun. No `[DONE]` may follow it.
    pub fn to_stream_frame(&self) -> Bytes {
        let mut frame = b"data: ".to_vec();
        frame.extend_from_slice(&self.json());
        frame.extend_from_slice(b"\n\n");
        Bytes::from(frame)
    }

    fn json(&self) -> Vec<u8> {
        let envelope = Envelope {
            error: Fields {
                message: &self.message,
                r#type: self.kind,
                param: self.param.as_deref(),
                code: self.code.as_deref(),
            },
        };
        // Strings and options cannot fail to be written; an empty body would still carry the status.
        serde_json::to_vec(&envelope).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parsed(body: &[u8]) -> Value {
        serde_json::from_slice(body).unwrap()
    }

    #[test]
    fn a_body_has_all_four_keys() {
        let error = ErrorBody::new(ErrorCode::Unauthenticated, "no such key");
        assert_eq!(error.status, 401);
        assert_eq!(
            parsed(&error.to_json()),
            json!({"error": {
                "message": "no such key",
                "type": "authentication_error",
                "param": null,
                "code": "invalid_api_key",
            }})
        );
    }

    #[test]
    fn an_unknown_model_is_named_as_openai_names_it() {
        let error = ErrorBody::model_not_found("fa\"st");
        let body = parsed(&error.to_json());
        assert_eq!(error.status, 404);
        assert_eq!(error.gateway.as_str(), "not_found");
        assert_eq!(body["error"]["type"], "invalid_request_error");
        assert_eq!(body["error"]["code"], "model_not_found");
        assert_eq!(body["error"]["param"], "model");
    }

    #[test]
    fn every_code_has_a_name_and_a_status_of_its_contract() {
        let table: Vec<(&str, u16)> = ErrorCode::ALL
            .iter()
            .map(|code| (code.as_str(), code.status()))
            .collect();
        assert_eq!(
            table,
            [
                ("unauthenticated", 401),
                ("forbidden", 403),
                ("not_found", 404),
                ("request_invalid", 400),
                ("request_too_large", 413),
                ("header_too_large", 431),
                ("limited", 429),
                ("limiter_unavailable", 503),
                ("config_stale", 503),
                ("auth_dependency_unavailable", 503),
                ("no_healthy_upstream", 503),
                ("upstream_timeout", 504),
                ("upstream_failed", 502),
                ("guardrail_blocked", 400),
                ("overloaded", 503),
            ]
        );
    }

    #[test]
    fn a_frame_is_one_line_of_data_even_where_the_message_has_line_ends() {
        let frame = ErrorBody::new(ErrorCode::UpstreamFailed, "broke\noff\r").to_stream_frame();
        let text = std::str::from_utf8(&frame).unwrap();
        let payload = text
            .strip_prefix("data: ")
            .unwrap()
            .strip_suffix("\n\n")
            .unwrap();
        assert!(!payload.contains(['\n', '\r']));
        assert_eq!(
            parsed(payload.as_bytes())["error"]["message"],
            "broke\noff\r"
        );
    }

    #[test]
    fn an_endless_message_is_cut_between_characters() {
        let error = ErrorBody::new(ErrorCode::RequestInvalid, "é".repeat(MESSAGE_BYTES_MAX));
        assert_eq!(error.message.len(), MESSAGE_BYTES_MAX);
    }
}
