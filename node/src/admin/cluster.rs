//! The service `Cluster`.

use mode_envoy_proto::admin::v1 as pb;
use tonic::{Request, Response, Status};

use super::convert;
use super::gate::call_of;
use super::services::Api;
use super::status::to_status;

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
        }))
    }
}
