//! A call in sentences: who asked what, which way it took, what each attempt did, and why it ended as it did.
//!
//! The words that records keep as reasons are in `gateway/error/reason.rs`; a word of a later release is told as it is.

use mode_envoy_ai::price::format_usd;
use mode_envoy_proto::peer::v1::{CallAttempt, CallRecord};

use super::super::time::format_exact_ms;

mod refused;

/// The sentences of a call, in the order of what happened.
pub fn explain(call: &CallRecord) -> Vec<String> {
    let mut sentences = vec![arrival(call), identity(call)];
    sentences.extend(way(call));
    if call.attempts.is_empty() && !call.rejected && !call.presumed {
        sentences.push("It was answered by the gateway itself; no upstream was asked.".to_owned());
    }
    sentences.extend(call.attempts.iter().map(attempt));
    if let Some(by) = &call.refused {
        sentences.extend(refused::sentences(by, call.node));
    }
    sentences.push(end(call));
    sentences.extend(usage(call));
    sentences
}

fn arrival(call: &CallRecord) -> String {
    let what = if call.method.is_empty() {
        "A request".to_owned()
    } else {
        format!("{} {}", call.method, call.path)
    };
    let (node, time) = (call.node, format_exact_ms(call.start_ms));
    let revision = match call.revision {
        0 => String::new(),
        revision => format!(" and was decided by revision {revision} of the configuration"),
    };
    format!("{what} reached node {node} at {time}{revision}.")
}

fn identity(call: &CallRecord) -> String {
    if !call.key.is_empty() {
        let team = match call.team.as_str() {
            "" => String::new(),
            team => format!(", team `{team}`"),
        };
        return format!(
            "It carried the key `{}` of consumer `{}`{team}, tenant `{}`.",
            call.key, call.consumer, call.tenant
        );
    }
    if call.route.is_empty() {
        "Nobody was identified, so it counts for no tenant.".to_owned()
    } else {
        "No key was asked for.".to_owned()
    }
}

fn way(call: &CallRecord) -> Vec<String> {
    let mut sentences = Vec::new();
    if !call.route.is_empty() {
        sentences.push(format!("It went by the route `{}`.", call.route));
    }
    if !call.model.is_empty() {
        sentences.push(format!(
            "It asked for the model `{}`, which is `{}` of provider `{}`.",
            call.model, call.upstream_model, call.provider
        ));
    }
    sentences
}

fn attempt(attempt: &CallAttempt) -> String {
    let place = match (attempt.provider.as_str(), attempt.endpoint.as_str()) {
        ("", "") => "in the node itself".to_owned(),
        (provider, "") => format!("at provider `{provider}` (in the node itself)"),
        ("", endpoint) => format!("at {endpoint}"),
        (provider, endpoint) => format!("at provider `{provider}` ({endpoint})"),
    };
    let (number, after) = (attempt.number, milliseconds(attempt.latency_us));
    match attempt.outcome.as_str() {
        "answered" => {
            let status = attempt.status;
            format!("Attempt {number} {place} was answered with {status} after {after}.")
        }
        "unfinished" => format!("Attempt {number} {place} had no answer when the call ended."),
        outcome => {
            let why = sentence_of(outcome).unwrap_or_else(|| outcome.to_owned());
            format!("Attempt {number} {place} failed after {after}: {why}.")
        }
    }
}

fn end(call: &CallRecord) -> String {
    let after = milliseconds(call.latency_us);
    if call.presumed {
        return format!(
            "Node {} died before the call ended, so it is presumed to have failed.",
            call.node
        );
    }
    let why = match call.reason.as_str() {
        "" => None,
        reason => Some(sentence_of(reason).unwrap_or_else(|| format!("the reason is `{reason}`"))),
    };
    let (status, error) = (call.status, &call.error);
    match (call.error.is_empty(), why) {
        (false, Some(why)) if call.rejected => {
            format!("It was rejected with {status} `{error}` after {after}: {why}.")
        }
        (false, Some(why)) => format!("It failed with {status} `{error}` after {after}: {why}."),
        (true, Some(why)) => format!("It ended with {status} after {after}: {why}."),
        (_, None) if call.cut => format!("Its answer of {status} was cut after {after}."),
        (_, None) => format!("The client was answered with {status} after {after}."),
    }
}

fn usage(call: &CallRecord) -> Option<String> {
    if call.usage_source.is_empty() {
        return None;
    }
    let input = call.input_uncached_tokens + call.cache_read_tokens + call.cache_write_tokens;
    let source = match call.usage_source.as_str() {
        "reported" => "as the provider reported",
        _ => "estimated, since the provider reported nothing usable",
    };
    let cost = if call.priced {
        format!("which cost {} USD", format_usd(call.nano_usd))
    } else {
        "whose price is not known".to_owned()
    };
    Some(format!(
        "It took {input} input and {} output tokens ({source}), {cost}.",
        call.output_tokens
    ))
}

/// What a word of a record means.
fn sentence_of(reason: &str) -> Option<String> {
    let text = match reason {
        "head_invalid" => "the request's head is not one that can be passed on",
        "head_too_large" => "the request's head is over the limit",
        "body_too_large" => "the request's body is over the limit",
        "body_invalid" => "the request's body is not what this path takes",
        "no_route" => "no route serves this host and path",
        "method_not_taken" => "the path does not take this method",
        "no_credential" => "it carried no API key",
        "two_credentials" => "it carried two different credentials",
        "unknown_credential" => "its API key is not known here: mistyped, expired or revoked",
        "config_stale" => {
            "the node had been cut off from its cluster for so long that it could not tell whether the key was still valid"
        }
        "too_many_connections" => "too many connections were open",
        "other_tenant" => "its key belongs to another tenant than the route",
        "unknown_model" => "there is no such model, or the key may not use it",
        "limit_reached" => "a limit that it counts against is reached",
        "limit_unchecked" => "a limit that it counts against could not be checked",
        "usage_unrecordable" => "its usage could not be recorded, so it was not sent",
        "no_endpoint" => "the route's service has no endpoint",
        "no_connection" => "no connection could be made",
        "connect_timeout" => "no connection was made within the connect timeout",
        "first_byte_timeout" => "no answer began within the first_byte timeout",
        "idle_timeout" => "nothing moved for as long as the idle timeout",
        "total_timeout" => "it was not done within the total timeout",
        "connection_broke" => "the connection to the upstream broke",
        "answer_malformed" => "the upstream's answer is not valid HTTP/1.1",
        "answer_broke_off" => "the upstream's answer broke off before its end",
        "client_body_broke" => "the client's body did not arrive whole",
        "client_stalled" => "the client stopped sending its body",
        "client_left" => "the client left before the answer's end",
        "provider_refused_key" => {
            "the provider refused the gateway's own key; the operator must correct the provider's key"
        }
        "provider_key_unusable" => "the provider's key cannot be sent as it is stored",
        "provider_status" => "the provider failed without an answer that a client could read",
        "provider_error" => "the provider's answer held an error",
        "node_died" => "the node died",
        _ => return None,
    };
    Some(text.to_owned())
}

fn milliseconds(us: u64) -> String {
    let (whole, part) = (us / 1_000, us % 1_000);
    if whole == 0 {
        format!("0.{:02} ms", part / 10)
    } else {
        format!("{whole}.{} ms", part / 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> CallRecord {
        CallRecord {
            node: 2,
            start_ms: 1_772_357_400_250,
            method: "POST".to_owned(),
            path: "/v1/chat/completions".to_owned(),
            revision: 17,
            status: 200,
            latency_us: 12_340,
            ..CallRecord::default()
        }
    }

    fn identified() -> CallRecord {
        let text = str::to_owned;
        CallRecord {
            tenant: text("acme"),
            team: text("retail"),
            consumer: text("mobile-app"),
            key: text("first"),
            route: text("openai.chat_completions"),
            ..call()
        }
    }

    #[test]
    fn an_answered_call_tells_its_whole_way() {
        let text = str::to_owned;
        let attempt = |number, status, outcome: &str| CallAttempt {
            number,
            provider: text("up"),
            endpoint: text("http://127.0.0.1:1"),
            status,
            outcome: text(outcome),
            latency_us: 900,
        };
        let call = CallRecord {
            model: text("fast"),
            provider: text("up"),
            upstream_model: text("up-fast"),
            attempts: vec![attempt(1, 0, "no_connection"), attempt(2, 200, "answered")],
            input_uncached_tokens: 10,
            cache_read_tokens: 2,
            output_tokens: 30,
            usage_source: text("reported"),
            nano_usd: 264_000,
            priced: true,
            ..identified()
        };
        assert_eq!(
            explain(&call),
            [
                "POST /v1/chat/completions reached node 2 at 2026-03-01T09:30:00.250Z and was decided by revision 17 of \
                 the configuration.",
                "It carried the key `first` of consumer `mobile-app`, team `retail`, tenant `acme`.",
                "It went by the route `openai.chat_completions`.",
                "It asked for the model `fast`, which is `up-fast` of provider `up`.",
                "Attempt 1 at provider `up` (http://127.0.0.1:1) failed after 0.90 ms: no connection could be made.",
                "Attempt 2 at provider `up` (http://127.0.0.1:1) was answered with 200 after 0.90 ms.",
                "The client was answered with 200 after 12.3 ms.",
                "It took 12 input and 30 output tokens (as the provider reported), which cost 0.000264 USD.",
            ]
        );
    }

    #[test]
    fn a_rejected_call_says_why_and_a_word_of_a_later_release_is_told_as_it_is() {
        let mut call = CallRecord {
            status: 401,
            rejected: true,
            error: "unauthenticated".to_owned(),
            reason: "no_credential".to_owned(),
            ..call()
        };
        let told = explain(&call);
        assert_eq!(
            told[1],
            "Nobody was identified, so it counts for no tenant."
        );
        assert_eq!(
            told.last().unwrap(),
            "It was rejected with 401 `unauthenticated` after 12.3 ms: it carried no API key."
        );
        call.reason = "moon_phase".to_owned();
        assert!(
            explain(&call)
                .last()
                .unwrap()
                .ends_with("the reason is `moon_phase`.")
        );
    }

    #[test]
    fn a_presumed_call_says_that_its_node_died() {
        let call = CallRecord {
            presumed: true,
            reason: "node_died".to_owned(),
            ..identified()
        };
        let told = explain(&call);
        assert!(
            told.last()
                .unwrap()
                .contains("Node 2 died before the call ended"),
            "{told:?}"
        );
    }
}
