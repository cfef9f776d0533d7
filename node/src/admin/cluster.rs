//! The service `Cluster`.

use std::pin::Pin;

use mode_envoy_proto::admin::v1 as pb;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::convert;
use super::gate::{call_of, change_of};
use super::services::Api;
use super::status::to_status;
use crate::control::format_ms;

#[tonic::async_trait]
impl pb::cluster_server::Cluster for Api {
    async fn status(
        &self,
        request: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        let call = call_of(&request)?;
        let status = call.control.cluster_status(&call.who).await;
        let status = status.map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::StatusResponse {
            cluster_id: status.cluster_id,
            leader: status.leader.unwrap_or_default(),
            revision: status.revision,
            nodes: status.members.into_iter().map(convert::node).collect(),
            joining: joining(status.pending.joining),
            leaving: status.pending.leaving,
            join_tokens: status.join_tokens.into_iter().map(join_token).collect(),
            rotating: status.rotating,
        }))
    }

    async fn add_node(
        &self,
        request: Request<pb::AddNodeRequest>,
    ) -> Result<Response<pb::AddNodeResponse>, Status> {
        let call = change_of(&request)?;
        let seconds = request.get_ref().valid_seconds;
        let made = call.control.add_node(&call.who, seconds).await;
        let made = made.map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::AddNodeResponse {
            join_token: made.token.text.to_string(),
            expires: format_ms(made.token.expires_ms),
            peer: made.peer,
            revision: made.revision,
        }))
    }

    async fn remove_node(
        &self,
        request: Request<pb::RemoveNodeRequest>,
    ) -> Result<Response<pb::RemoveNodeResponse>, Status> {
        let call = change_of(&request)?;
        let removed = call
            .control
            .remove_node(&call.who, request.get_ref().id)
            .await;
        let removed = removed.map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::RemoveNodeResponse {
            revision: removed.revision,
            done: removed.done,
        }))
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferLeaderRequest>,
    ) -> Result<Response<pb::TransferLeaderResponse>, Status> {
        let call = call_of(&request)?;
        let leader = request.get_ref().id;
        let moved = call.control.transfer_leader(&call.who, leader).await;
        moved.map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::TransferLeaderResponse { leader }))
    }

    async fn rotate_secret(
        &self,
        request: Request<pb::RotateSecretRequest>,
    ) -> Result<Response<pb::RotateSecretResponse>, Status> {
        let call = change_of(&request)?;
        let abort = request.get_ref().abort;
        let rotated = call.control.rotate_secret(&call.who, abort).await;
        let rotated = rotated.map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::RotateSecretResponse {
            revision: rotated.revision,
            done: rotated.done,
            waiting: rotated.waiting,
        }))
    }

    type BackupStream = Pin<Box<dyn Stream<Item = Result<pb::BackupPiece, Status>> + Send>>;

    async fn backup(
        &self,
        request: Request<pb::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        let call = call_of(&request)?;
        let place = call.stream()?;
        let made = call
            .control
            .backup(&call.who, request.get_ref().local)
            .await;
        let made = made.map_err(|error| to_status(&error))?;
        let mut missing_nodes = made.missing_nodes;
        let pieces = made.pieces.map(move |data| {
            Ok(pb::BackupPiece {
                data: data.into(),
                missing_nodes: std::mem::take(&mut missing_nodes),
            })
        });
        Ok(Response::new(Box::pin(
            place.with(tokio_stream::iter(pieces)),
        )))
    }
}

fn joining(nodes: Vec<(u64, String)>) -> Vec<pb::JoiningNode> {
    let node = |(id, peer)| pb::JoiningNode { id, peer };
    nodes.into_iter().map(node).collect()
}

fn join_token(expires_ms: u64) -> pb::JoinToken {
    pb::JoinToken {
        expires: format_ms(expires_ms),
    }
}
