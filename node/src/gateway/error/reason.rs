//! Why a call ended as it did, in one word: what its record keeps, and `explain` turns into a sentence.
//!
//! The words are part of records on disk: they are added to, never given another meaning.

use mode_envoy_ai::error::ErrorCode;

use super::Error;
use crate::upstream::{UpstreamError, Waited};

/// The client left before its answer ended.
pub(crate) const CLIENT_LEFT: &str = "client_left";
/// The upstream's answer broke off.
pub(crate) const ANSWER_BROKE_OFF: &str = "answer_broke_off";
/// An upstream answered.
pub(crate) const ANSWERED: &str = "answered";

// === impl Error ===

impl Error {
    /// Why, in one word.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Head(_) => "head_invalid",
            Self::HeadTooLarge { .. } => "head_too_large",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::UnknownPath => "no_route",
            Self::Method { .. } => "method_not_taken",
            Self::NoCredential => "no_credential",
            Self::TwoCredentials => "two_credentials",
            Self::UnknownCredential => "unknown_credential",
            Self::ConfigStale { .. } => "config_stale",
            Self::OtherTenant => "other_tenant",
            Self::TooManyConnections => "too_many_connections",
            Self::Dialect(body) if body.gateway == ErrorCode::NotFound => "unknown_model",
            Self::Dialect(_) => "body_invalid",
            Self::Unrecordable(_) => "usage_unrecordable",
            Self::Limit(refusal) if refusal.reason.is_limited() => "limit_reached",
            Self::Limit(_) | Self::Pools(_) | Self::Limiter(_) => "limit_unchecked",
            Self::LimitUnrecordable => "usage_unrecordable",
            Self::NoEndpoint => "no_endpoint",
            Self::Upstream(error) => of_upstream(error),
            Self::ProviderKey { .. } => "provider_refused_key",
            Self::ProviderUnusable => "provider_key_unusable",
            Self::ProviderStatus { .. } => "provider_status",
            Self::InBand(_) => "provider_error",
        }
    }
}

/// Why an attempt at an upstream failed.
pub(crate) fn of_upstream(error: &UpstreamError) -> &'static str {
    match error {
        UpstreamError::Connect { .. } => "no_connection",
        UpstreamError::Timeout { waited, .. } => match waited {
            Waited::Connect => "connect_timeout",
            Waited::FirstByte => "first_byte_timeout",
            Waited::Idle => "idle_timeout",
            Waited::Total => "total_timeout",
        },
        UpstreamError::Broken { .. } => "connection_broke",
        UpstreamError::Malformed { .. } => "answer_malformed",
        UpstreamError::ClientBody(_) => "client_body_broke",
        UpstreamError::ClientStalled => "client_stalled",
        UpstreamError::BodyTooLarge { .. } => "body_too_large",
    }
}
