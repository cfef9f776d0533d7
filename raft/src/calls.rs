//! Records of single calls between members: the service that answers, and how a member asks.
//!
//! What the records are and where they lie is the business of the process around this crate, which hands in a
//! [`CallRecords`]. Here the envelope is checked, and an answer is waited for no longer than its caller does.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use mode_envoy_proto::peer::v1 as wire;
use tonic::{Request, Response, Status};

use crate::cluster::{BoxFuture, Handle};
use crate::peer_server::Door;
use crate::types::NodeId;

/// Answers questions about this node's own call records.
pub trait CallRecords: Send + Sync {
    /// A page of the newest that match.
    fn query(
        &self,
        request: wire::QueryCallsRequest,
    ) -> BoxFuture<Result<wire::QueryCallsResponse, String>>;

    /// What has come since the last question.
    fn tail(
        &self,
        request: wire::TailCallsRequest,
    ) -> BoxFuture<Result<wire::TailCallsResponse, String>>;
}

/// Keeps none.
impl CallRecords for () {
    fn query(
        &self,
        _: wire::QueryCallsRequest,
    ) -> BoxFuture<Result<wire::QueryCallsResponse, String>> {
        Box::pin(async { Ok(wire::QueryCallsResponse::default()) })
    }

    fn tail(
        &self,
        _: wire::TailCallsRequest,
    ) -> BoxFuture<Result<wire::TailCallsResponse, String>> {
        Box::pin(async { Ok(wire::TailCallsResponse::default()) })
    }
}

/// Serves `modeenvoy.peer.v1.Calls`.
pub(crate) struct CallsService {
    pub(crate) door: Door,
    pub(crate) records: Arc<dyn CallRecords>,
}

#[tonic::async_trait]
impl wire::calls_server::Calls for CallsService {
    async fn query_calls(
        &self,
        request: Request<wire::QueryCallsRequest>,
    ) -> Result<Response<wire::QueryCallsResponse>, Status> {
        self.door
            .member(&request, request.get_ref().envelope.as_ref())?;
        let answer = self.records.query(request.into_inner()).await;
        answer.map(Response::new).map_err(Status::unavailable)
    }

    async fn tail_calls(
        &self,
        request: Request<wire::TailCallsRequest>,
    ) -> Result<Response<wire::TailCallsResponse>, Status> {
        self.door
            .member(&request, request.get_ref().envelope.as_ref())?;
        let answer = self.records.tail(request.into_inner()).await;
        answer.map(Response::new).map_err(Status::unavailable)
    }
}

// === impl Handle ===

impl Handle {
    /// Asks another member for a page of its call records; the asking begins at once. `None` where it did not answer.
    pub fn query_calls(
        &self,
        node: NodeId,
        request: wire::QueryCallsRequest,
        timeout: Duration,
    ) -> BoxFuture<Option<wire::QueryCallsResponse>> {
        let forwarder = self.forwarder();
        self.ask(node, async move {
            forwarder.query_calls(node, request, timeout).await
        })
    }

    /// Asks another member for the call records that have come; the asking begins at once. `None` where it did not
    /// answer.
    pub fn tail_calls(
        &self,
        node: NodeId,
        request: wire::TailCallsRequest,
        timeout: Duration,
    ) -> BoxFuture<Option<wire::TailCallsResponse>> {
        let forwarder = self.forwarder();
        self.ask(node, async move {
            forwarder.tail_calls(node, request, timeout).await
        })
    }

    fn ask<T: Send + 'static>(
        &self,
        node: NodeId,
        question: impl Future<Output = Result<T, Status>> + Send + 'static,
    ) -> BoxFuture<Option<T>> {
        let answer = self.tasks().start("ask for calls", question);
        Box::pin(async move {
            match answer.await.ok()? {
                Ok(answer) => Some(answer),
                Err(status) => {
                    tracing::debug!(node, %status, "a member did not tell its calls");
                    None
                }
            }
        })
    }
}
