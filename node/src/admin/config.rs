//! The service `Config`.

use mode_envoy_proto::admin::v1 as pb;
use tonic::{Request, Response, Status};

use super::convert;
use super::gate::call_of;
use super::services::Api;
use super::status::to_status;

#[tonic::async_trait]
impl pb::config_server::Config for Api {
    async fn apply(
        &self,
        request: Request<pb::ApplyRequest>,
    ) -> Result<Response<pb::ApplyResponse>, Status> {
        let call = call_of(&request)?;
        let pb::ApplyRequest {
            document,
            dry_run,
            wait,
        } = request.into_inner();
        let applied = call.control.apply(&call.who, document, dry_run, wait).await;
        let applied = applied.map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::ApplyResponse {
            changes: applied.changes.iter().map(convert::change).collect(),
            revision: applied.revision,
            missing_nodes: applied.missing_nodes,
            late_nodes: applied.late_nodes,
        }))
    }

    async fn export(
        &self,
        request: Request<pb::ExportRequest>,
    ) -> Result<Response<pb::ExportResponse>, Status> {
        let call = call_of(&request)?;
        let exported = call
            .control
            .export(&call.who, request.into_inner().local)
            .await;
        let exported = exported.map_err(|error| to_status(&error))?;
        let (document, revision) = (exported.document, exported.revision);
        Ok(Response::new(pb::ExportResponse { document, revision }))
    }

    async fn get(
        &self,
        request: Request<pb::GetRequest>,
    ) -> Result<Response<pb::GetResponse>, Status> {
        let call = call_of(&request)?;
        let pb::GetRequest {
            kind,
            name,
            tenant,
            local,
        } = request.into_inner();
        let got = call
            .control
            .get(&call.who, &kind, &name, &tenant, local)
            .await;
        let got = got.map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::GetResponse {
            document: got.document,
            revision: got.revision,
        }))
    }

    async fn delete(
        &self,
        request: Request<pb::DeleteRequest>,
    ) -> Result<Response<pb::DeleteResponse>, Status> {
        let call = call_of(&request)?;
        let pb::DeleteRequest { kind, name, tenant } = request.into_inner();
        let deleted = call.control.delete(&call.who, &kind, &name, &tenant).await;
        let revision = deleted.map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::DeleteResponse { revision }))
    }
}
