//! The gateway's counters, looked up once: on the hot path they are an atomic addition each.

use metrics::{Counter, Gauge};
use mode_envoy_ai::error::ErrorCode;

use crate::metrics::{
    GATEWAY_CONNECTIONS, GATEWAY_ERRORS, GATEWAY_REQUESTS, LIMIT_DECISIONS, LIMIT_SHADOW,
    UPSTREAM_ATTEMPTS,
};
use crate::upstream::UpstreamError;

/// Counters of one worker; all workers' add up under the same names.
pub(crate) struct Meters {
    pub(crate) connections: Gauge,
    requests: [Counter; 5],
    errors: [Counter; ErrorCode::ALL.len()],
    attempts: [Counter; 4],
    decisions: [Counter; 3],
}

// === impl Meters ===

impl Meters {
    /// Handles of the process's recorder, as it is now.
    pub(crate) fn new() -> Self {
        Self {
            connections: metrics::gauge!(GATEWAY_CONNECTIONS),
            requests: ["1xx", "2xx", "3xx", "4xx", "5xx"]
                .map(|class| metrics::counter!(GATEWAY_REQUESTS, "class" => class)),
            errors: ErrorCode::ALL
                .map(|code| metrics::counter!(GATEWAY_ERRORS, "code" => code.as_str())),
            attempts: ["answered", "no_connection", "timeout", "failed"]
                .map(|outcome| metrics::counter!(UPSTREAM_ATTEMPTS, "outcome" => outcome)),
            decisions: ["admitted", "refused", "unavailable"]
                .map(|outcome| metrics::counter!(LIMIT_DECISIONS, "outcome" => outcome)),
        }
    }

    /// A request was answered.
    pub(crate) fn answered(&self, status: u16) {
        if let Some(counter) = self
            .requests
            .get(usize::from(status / 100).saturating_sub(1))
        {
            counter.increment(1);
        }
    }

    /// The gateway made an error of its own.
    pub(crate) fn error(&self, code: ErrorCode) {
        let at = ErrorCode::ALL.iter().position(|other| *other == code);
        if let Some(counter) = at.and_then(|at| self.errors.get(at)) {
            counter.increment(1);
        }
        let [_, refused, unavailable] = &self.decisions;
        match code {
            ErrorCode::Limited => refused.increment(1),
            ErrorCode::LimiterUnavailable => unavailable.increment(1),
            _ => {}
        }
    }

    /// A limit in shadow would have refused a call.
    #[expect(
        clippy::unused_self,
        reason = "as the others, though its label is not known before"
    )]
    pub(crate) fn shadow_refused(&self, limit: &str) {
        metrics::counter!(LIMIT_SHADOW, "limit" => limit.to_owned()).increment(1);
    }

    /// The limits of a call had room for it.
    pub(crate) fn admitted(&self) {
        let [admitted, ..] = &self.decisions;
        admitted.increment(1);
    }

    /// An attempt at an upstream came as far as an answer's head, or failed.
    pub(crate) fn attempt<T>(&self, outcome: &Result<T, UpstreamError>) {
        let [answered, no_connection, timeout, failed] = &self.attempts;
        let counter = match outcome {
            Ok(_) => answered,
            Err(error) if error.before_sending() => no_connection,
            Err(UpstreamError::Timeout { .. }) => timeout,
            Err(_) => failed,
        };
        counter.increment(1);
    }
}

impl std::fmt::Debug for Meters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meters")
    }
}
