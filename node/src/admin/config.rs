//! The service `Config`.

use mode_envoy_model::command::{Change, ChangeKind};
use mode_envoy_model::object::{Name, ObjectRef};
use mode_envoy_proto::admin::v1 as pb;
use tonic::{Request, Response, Status};

use super::audit;
use super::convert;
use super::gate::{call_of, change_of};
use super::services::Api;
use super::status::to_status;
use crate::control::document::FieldDiff;
use crate::control::{Applied, AsOf, ComparedObject, Confirmed, HistoryQuestion};

/// Revisions of one answer where the caller names no number.
const REVISIONS: u32 = 20;

#[tonic::async_trait]
impl pb::config_server::Config for Api {
    async fn apply(
        &self,
        request: Request<pb::ApplyRequest>,
    ) -> Result<Response<pb::ApplyResponse>, Status> {
        let call = change_of(&request)?;
        let pb::ApplyRequest {
            document,
            dry_run,
            wait,
            prune,
            yes,
        } = request.into_inner();
        let (control, who) = (&call.control, &call.who);
        let applied = if prune {
            let confirmed = if yes { Confirmed::Yes } else { Confirmed::No };
            control.prune(who, document, confirmed, dry_run, wait).await
        } else {
            control.apply(who, document, dry_run, wait).await
        };
        applied.map(report).map_err(|error| to_status(&error))
    }

    async fn export(
        &self,
        request: Request<pb::ExportRequest>,
    ) -> Result<Response<pb::ExportResponse>, Status> {
        let call = call_of(&request)?;
        let pb::ExportRequest { local, revision } = request.into_inner();
        let exported = call
            .control
            .export(&call.who, AsOf { revision, local })
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
            revision,
        } = request.into_inner();
        let got = call
            .control
            .get(&call.who, &kind, &name, &tenant, AsOf { revision, local })
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
        let call = change_of(&request)?;
        let pb::DeleteRequest { kind, name, tenant } = request.into_inner();
        let deleted = call.control.delete(&call.who, &kind, &name, &tenant).await;
        let revision = deleted.map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::DeleteResponse { revision }))
    }

    async fn diff(
        &self,
        request: Request<pb::DiffRequest>,
    ) -> Result<Response<pb::DiffResponse>, Status> {
        let call = call_of(&request)?;
        let pb::DiffRequest { document, local } = request.into_inner();
        let compared = call.control.diff(&call.who, document, local).await;
        let compared = compared.map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::DiffResponse {
            objects: compared.objects.into_iter().map(difference).collect(),
            revision: compared.revision,
            beside: compared.beside.iter().map(deletion).collect(),
        }))
    }

    async fn history(
        &self,
        request: Request<pb::HistoryRequest>,
    ) -> Result<Response<pb::HistoryResponse>, Status> {
        let call = call_of(&request)?;
        let asked = request.into_inner();
        let question = HistoryQuestion {
            kind: asked.kind,
            name: asked.name,
            tenant: asked.tenant,
            limit: if asked.limit == 0 {
                REVISIONS
            } else {
                asked.limit
            },
            before_revision: asked.before_revision,
            local: asked.local,
        };
        let page = call.control.history(&call.who, question).await;
        let page = page.map_err(|error| to_status(&error))?;
        Ok(Response::new(audit::history(&page)))
    }

    async fn rollback(
        &self,
        request: Request<pb::RollbackRequest>,
    ) -> Result<Response<pb::ApplyResponse>, Status> {
        let call = change_of(&request)?;
        let pb::RollbackRequest {
            revision,
            dry_run,
            wait,
        } = request.into_inner();
        let done = call
            .control
            .rollback(&call.who, revision, dry_run, wait)
            .await;
        done.map(report).map_err(|error| to_status(&error))
    }
}

fn report(applied: Applied) -> Response<pb::ApplyResponse> {
    Response::new(pb::ApplyResponse {
        changes: applied.changes.iter().map(convert::change).collect(),
        revision: applied.revision,
        missing_nodes: applied.missing_nodes,
        late_nodes: applied.late_nodes,
    })
}

fn difference(object: ComparedObject) -> pb::ObjectDiff {
    let pb::ObjectChange {
        kind,
        tenant,
        name,
        change,
    } = convert::change(&object.change);
    let field = |field: FieldDiff| pb::FieldDiff {
        path: field.path,
        old: field.old,
        new: field.new,
        secret: field.secret,
    };
    pb::ObjectDiff {
        kind,
        tenant,
        name,
        change,
        fields: object.fields.into_iter().map(field).collect(),
    }
}

fn deletion(at: &ObjectRef) -> pb::ObjectChange {
    convert::change(&Change {
        kind: at.kind.singular(),
        tenant: at.tenant.clone(),
        name: Name::clone(&at.name),
        what: ChangeKind::Deleted,
    })
}
