//! The service `Calls`.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use mode_envoy_ai::price::format_usd;
use mode_envoy_proto::admin::v1 as pb;
use mode_envoy_proto::peer::v1::{CallAttempt, CallRecord, RefusedBy};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::gate::call_of;
use super::services::Api;
use super::status::to_status;
use super::streams::Placed;
use crate::control::{
    CallsFilter, CallsQuestion, ControlError, Follow, Followed, Gathered, explain, format_exact_ms,
    format_ms,
};
use crate::secrets::hex;

type Next = (Follow, Result<Option<Followed>, ControlError>);

/// What comes to a follower, as long as it listens.
pub(super) struct Following {
    next: Option<Pin<Box<dyn Future<Output = Next> + Send>>>,
}

#[tonic::async_trait]
impl pb::calls_server::Calls for Api {
    async fn query_calls(
        &self,
        request: Request<pb::QueryCallsRequest>,
    ) -> Result<Response<pb::QueryCallsResponse>, Status> {
        let call = call_of(&request)?;
        let asked = request.into_inner();
        let question = CallsQuestion {
            from: asked.from,
            to: asked.to,
            filter: filter(asked.filter),
            limit: asked.limit,
            linearizable: asked.linearizable,
        };
        let answer = call.control.query_calls(&call.who, &question).await;
        let Gathered {
            calls,
            missing_nodes,
            more,
            warnings,
        } = answer.map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::QueryCallsResponse {
            calls: calls.into_iter().map(shown).collect(),
            missing_nodes,
            more,
            warnings,
        }))
    }

    type FollowCallsStream = Placed<Following>;

    async fn follow_calls(
        &self,
        request: Request<pb::FollowCallsRequest>,
    ) -> Result<Response<Self::FollowCallsStream>, Status> {
        let call = call_of(&request)?;
        let place = call.stream()?;
        let filter = filter(request.into_inner().filter);
        let follow = call.control.follow_calls(&call.who, &filter);
        let follow = follow.map_err(|error| to_status(&error))?;
        Ok(Response::new(place.with(Following::new(follow))))
    }

    async fn explain(
        &self,
        request: Request<pb::ExplainRequest>,
    ) -> Result<Response<pb::ExplainResponse>, Status> {
        let call = call_of(&request)?;
        let id = request.into_inner().id;
        let found = call.control.find_calls(&call.who, &id).await;
        let found = found.map_err(|error| to_status(&error))?;
        let explanation = |record: CallRecord| pb::Explanation {
            sentences: explain(&record),
            call: Some(shown(record)),
        };
        Ok(Response::new(pb::ExplainResponse {
            explanations: found.calls.into_iter().map(explanation).collect(),
            missing_nodes: found.missing_nodes,
            warnings: found.warnings,
        }))
    }
}

// === impl Following ===

impl Following {
    fn new(follow: Follow) -> Self {
        Self {
            next: Some(Box::pin(next(follow))),
        }
    }
}

impl Stream for Following {
    type Item = Result<pb::FollowCallsResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(waited_for) = &mut self.next else {
            return Poll::Ready(None);
        };
        let (follow, followed) = ready!(waited_for.as_mut().poll(cx));
        self.next = None;
        Poll::Ready(match followed {
            Ok(None) => None,
            Err(error) => Some(Err(to_status(&error))),
            Ok(Some(followed)) => {
                self.next = Some(Box::pin(next(follow)));
                Some(Ok(pb::FollowCallsResponse {
                    calls: followed.calls.into_iter().map(shown).collect(),
                    missing_nodes: followed.missing_nodes,
                    missed: followed.missed,
                }))
            }
        })
    }
}

// === free functions ===

async fn next(mut follow: Follow) -> Next {
    let followed = follow.next().await;
    (follow, followed)
}

fn filter(filter: Option<pb::CallsFilter>) -> CallsFilter {
    let filter = filter.unwrap_or_default();
    CallsFilter {
        key: filter.key,
        status: filter.status,
        tenant: filter.tenant,
        route: filter.route,
    }
}

/// A record as the API tells it. Where the client gave no label, the call's id is what its answer carried.
fn shown(record: CallRecord) -> pb::Call {
    let call_id = hex(&record.call_id);
    let input_tokens = record
        .input_uncached_tokens
        .saturating_add(record.cache_read_tokens)
        .saturating_add(record.cache_write_tokens);
    pb::Call {
        request_id: if record.request_id.is_empty() {
            call_id.clone()
        } else {
            record.request_id
        },
        call_id,
        node: record.node,
        time: format_exact_ms(record.start_ms),
        tenant: record.tenant,
        team: record.team,
        consumer: record.consumer,
        key: record.key,
        route: record.route,
        api: record.api,
        model: record.model,
        provider: record.provider,
        upstream_model: record.upstream_model,
        method: record.method,
        path: record.path,
        status: record.status,
        attempts: record.attempts.into_iter().map(attempt).collect(),
        latency_ms: milliseconds(record.latency_us),
        ttft_ms: record.ttft_us.map(milliseconds),
        input_tokens,
        cached_input_tokens: record.cache_read_tokens,
        cache_write_tokens: record.cache_write_tokens,
        output_tokens: record.output_tokens,
        reasoning_tokens: record.reasoning_tokens,
        total_tokens: input_tokens.saturating_add(record.output_tokens),
        usage_source: record.usage_source,
        cost_usd: format_usd(record.nano_usd),
        priced: record.priced,
        bytes_in: record.bytes_in,
        bytes_out: record.bytes_out,
        error: record.error,
        reason: record.reason,
        revision: record.revision,
        rejected: record.rejected,
        presumed: record.presumed,
        cut: record.cut,
        refused: record.refused.map(refused),
    }
}

fn refused(refused: RefusedBy) -> pb::RefusedBy {
    let moment = |ms: u64| match refused.window_ends_ms {
        0 => String::new(),
        _ => format_ms(ms),
    };
    pb::RefusedBy {
        window_begins: moment(refused.window_begins_ms),
        window_ends: moment(refused.window_ends_ms),
        limit: refused.limit,
        value: refused.value,
        why: refused.why,
        mode: refused.mode,
        need: refused.need,
        slice: refused.slice,
        free: refused.free,
        elsewhere: refused.elsewhere,
        applied_index: refused.applied_index,
    }
}

fn attempt(attempt: CallAttempt) -> pb::Attempt {
    pb::Attempt {
        number: attempt.number,
        provider: attempt.provider,
        endpoint: attempt.endpoint,
        status: attempt.status,
        outcome: attempt.outcome,
        latency_ms: milliseconds(attempt.latency_us),
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "no call lasts the 2^53 microseconds that are exact"
)]
fn milliseconds(us: u64) -> f64 {
    us as f64 / 1_000.0
}
