//! What other members ask of this node. Every call checks its envelope first.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use mode_envoy_model::limits;
use mode_envoy_model::requests::ClientRequest;
use mode_envoy_proto::log::v1 as log;
use mode_envoy_proto::peer::v1 as wire;
use tonic::{Request, Response, Status};

use crate::convert::{Proposal, Wire as _};
use crate::peer_server::Door;
use crate::proposal::{Caller, ProposeError};
use crate::proposer::{Answer, Proposer, Refusal, Reply};
use crate::reads::{ReadError, ReadIndex};
use crate::types::NodeId;

/// The longest that this node works for another one that waits.
const LONGEST: Duration = Duration::from_mins(1);

/// What a call to another future-returning closure comes to.
pub(crate) type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Flushes this node's usage and answers with the index that was applied then.
pub(crate) type FlushHook = Arc<dyn Fn() -> Boxed<Result<u64, String>> + Send + Sync>;
/// Says to a node what this one is.
pub(crate) type StatusHook = Arc<dyn Fn(NodeId) -> wire::NodeStatusResponse + Send + Sync>;

/// Serves `modeenvoy.peer.v1.Forward`.
pub(crate) struct ForwardService {
    pub(crate) door: Door,
    pub(crate) proposer: Proposer,
    pub(crate) reads: ReadIndex,
    pub(crate) flush: FlushHook,
    pub(crate) status: StatusHook,
}

#[tonic::async_trait]
impl wire::forward_server::Forward for ForwardService {
    async fn propose(
        &self,
        request: Request<wire::ProposeRequest>,
    ) -> Result<Response<wire::ProposeResponse>, Status> {
        let from = self
            .door
            .anyone(&request, request.get_ref().envelope.as_ref())?;
        let message = request.into_inner();
        let limit = Duration::from_millis(message.deadline_ms).min(LONGEST);
        let caller = read_caller(message.actor, &message.actor_token, message.request)?;
        let proposal = message
            .proposal
            .ok_or_else(|| Status::invalid_argument("no proposal"))?;
        let proposal =
            Proposal::from_wire(proposal).map_err(|e| Status::invalid_argument(e.to_string()))?;
        if !is_own_usage(from, &proposal) {
            self.door.belongs(from)?;
        }
        let deadline = tokio::time::Instant::now() + limit;
        let answer = self.proposer.propose(proposal, caller, deadline).await;
        Ok(Response::new(wire::ProposeResponse {
            result: Some(write_answer(answer)?),
        }))
    }

    async fn read_index(
        &self,
        request: Request<wire::ReadIndexRequest>,
    ) -> Result<Response<wire::ReadIndexResponse>, Status> {
        use wire::read_index_response::Result as Answer;
        self.door
            .member(&request, request.get_ref().envelope.as_ref())?;
        let result = match self.reads.get().await {
            Ok(index) => Answer::Index(index),
            Err(ReadError::NotLeader(leader)) => Answer::NotLeader(not_leader(leader)),
            Err(ReadError::Unconfirmed(reason)) => {
                Answer::Unavailable(wire::Unavailable { reason })
            }
            Err(ReadError::Ended) => Answer::Unavailable(ending()),
        };
        Ok(Response::new(wire::ReadIndexResponse {
            result: Some(result),
        }))
    }

    async fn flush_usage(
        &self,
        request: Request<wire::FlushUsageRequest>,
    ) -> Result<Response<wire::FlushUsageResponse>, Status> {
        self.door
            .member(&request, request.get_ref().envelope.as_ref())?;
        let index = (self.flush)().await.map_err(Status::unavailable)?;
        Ok(Response::new(wire::FlushUsageResponse { index }))
    }

    async fn node_status(
        &self,
        request: Request<wire::NodeStatusRequest>,
    ) -> Result<Response<wire::NodeStatusResponse>, Status> {
        let asker = self
            .door
            .anyone(&request, request.get_ref().envelope.as_ref())?;
        Ok(Response::new((self.status)(asker)))
    }
}

/// What a node has counted itself, which it may hand in also when the cluster has done without it: it does so as it goes.
fn is_own_usage(from: NodeId, proposal: &Proposal) -> bool {
    match proposal {
        Proposal::Usage(batch) => batch.node == from,
        Proposal::Final(done) => done.node == from,
        _ => false,
    }
}

fn read_caller(
    actor: String,
    token: &[u8],
    request: Option<log::ClientRequest>,
) -> Result<Caller, Status> {
    if actor.len() > limits::ACTOR {
        return Err(Status::invalid_argument("the actor's name is too long"));
    }
    let token_hash = if token.is_empty() {
        None
    } else {
        let hash = token.try_into();
        Some(hash.map_err(|_| Status::invalid_argument("actor_token is no hash"))?)
    };
    let request = request.map(ClientRequest::from_wire).transpose();
    Ok(Caller {
        actor,
        token_hash,
        request: request.map_err(|error| Status::invalid_argument(error.to_string()))?,
    })
}

fn write_answer(answer: Answer) -> Result<wire::propose_response::Result, Status> {
    use wire::propose_response::Result as Wire;
    Ok(match answer {
        Ok(Reply::Accepted(accepted)) => Wire::Accepted(accepted.to_wire()),
        Ok(Reply::Stream(outcome)) => Wire::Stream(outcome.to_wire()),
        Err(Refusal::NotLeader(leader)) => Wire::NotLeader(not_leader(leader)),
        Err(Refusal::Unsent(reason)) => Wire::Unavailable(wire::Unavailable { reason }),
        Err(Refusal::Final(error)) => match error {
            ProposeError::Rejected(rejected) => Wire::Rejected(rejected.to_wire()),
            ProposeError::NoLeader => Wire::NotLeader(not_leader(None)),
            ProposeError::Unavailable(reason) => Wire::Unavailable(wire::Unavailable { reason }),
            ProposeError::ShuttingDown => Wire::Unavailable(ending()),
            ProposeError::Timeout => {
                return Err(Status::deadline_exceeded("the outcome is unknown"));
            }
        },
    })
}

fn not_leader(leader: Option<u64>) -> wire::NotLeader {
    wire::NotLeader {
        leader: leader.unwrap_or_default(),
    }
}

fn ending() -> wire::Unavailable {
    wire::Unavailable {
        reason: "the leader is shutting down".to_owned(),
    }
}
