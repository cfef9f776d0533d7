//! The service `Audit`, and how pages of the history are told.

use std::pin::Pin;

use mode_envoy_model::history::Record;
use mode_envoy_proto::admin::v1 as pb;
use mode_envoy_raft::MemberStatus;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::convert;
use super::gate::call_of;
use super::services::Api;
use super::status::to_status;
use crate::control::{AuditQuestion, ControlError, HistoryPage, Past, format_ms, parse_time};
use crate::secrets::hex;

/// Changes of one answer where the caller names no number.
const LIMIT: u32 = 100;

#[tonic::async_trait]
impl pb::audit_server::Audit for Api {
    async fn list_changes(
        &self,
        request: Request<pb::ListChangesRequest>,
    ) -> Result<Response<pb::ListChangesResponse>, Status> {
        let call = call_of(&request)?;
        let question = question(request.get_ref()).map_err(|error| to_status(&error))?;
        let page = call.control.list_changes(&call.who, question).await;
        let page = page.map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::ListChangesResponse {
            entries: page.revisions.iter().map(entry).collect(),
            revision: page.revision,
            since_revision: page.since_revision,
            next_before_revision: page.next_before_revision,
        }))
    }

    async fn list_heads(
        &self,
        request: Request<pb::ListHeadsRequest>,
    ) -> Result<Response<pb::ListHeadsResponse>, Status> {
        let call = call_of(&request)?;
        let members = call.control.list_heads(&call.who).await;
        let members = members.map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::ListHeadsResponse {
            heads: members.iter().map(head).collect(),
        }))
    }

    type ReadRecordsStream =
        Pin<Box<dyn Stream<Item = Result<pb::AuditRecord, Status>> + Send + 'static>>;

    async fn read_records(
        &self,
        request: Request<pb::ReadRecordsRequest>,
    ) -> Result<Response<Self::ReadRecordsStream>, Status> {
        let call = call_of(&request)?;
        let place = call.stream()?;
        let local = request.into_inner().local;
        let recorded = call.control.read_records(&call.who, local).await;
        let recorded = recorded.map_err(|error| to_status(&error))?;
        // One by one, so that a long history is never in memory twice.
        let records = recorded
            .0
            .into_records()
            .map(|record| Ok(self::record(&record)));
        Ok(Response::new(Box::pin(
            place.with(tokio_stream::iter(records)),
        )))
    }
}

// === free functions ===

/// A page of the history.
pub(super) fn history(page: &HistoryPage) -> pb::HistoryResponse {
    let revision = |past: &Past| pb::Revision {
        revision: past.revision,
        time: format_ms(past.wall_ms),
        actor: past.actor.clone(),
        origin: past.origin.clone(),
        changes: past.changes.iter().map(convert::change).collect(),
        omitted: past.omitted,
    };
    pb::HistoryResponse {
        revisions: page.revisions.iter().map(revision).collect(),
        revision: page.revision,
        since_revision: page.since_revision,
        next_before_revision: page.next_before_revision,
    }
}

fn question(asked: &pb::ListChangesRequest) -> Result<AuditQuestion, ControlError> {
    let time = |field: &str, text: &str| match text {
        "" => Ok(None),
        text => parse_time(field, text).map(Some),
    };
    Ok(AuditQuestion {
        from_ms: time("from", &asked.from)?.unwrap_or_default(),
        to_ms: time("to", &asked.to)?,
        limit: if asked.limit == 0 { LIMIT } else { asked.limit },
        before_revision: asked.before_revision,
        local: asked.local,
    })
}

fn entry(past: &Past) -> pb::AuditEntry {
    pb::AuditEntry {
        revision: past.revision,
        time: format_ms(past.wall_ms),
        actor: past.actor.clone(),
        origin: past.origin.clone(),
        changes: past.changes.iter().map(convert::change).collect(),
        hash: hex(&past.hash),
        omitted: past.omitted,
    }
}

fn record(record: &Record) -> pb::AuditRecord {
    pb::AuditRecord {
        revision: record.revision,
        wall_ms: record.wall_ms,
        change_set: record.change_set.to_vec(),
        hash: record.hash.to_vec(),
    }
}

fn head(member: &MemberStatus) -> pb::Head {
    pb::Head {
        node: member.id,
        reachable: member.reachable,
        revision: member.history.revision,
        since_revision: member.history.since_revision,
        hash: hex(&member.history.hash),
    }
}
