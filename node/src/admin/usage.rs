//! The service `Usage`.

use mode_envoy_proto::admin::v1 as pb;
use tonic::{Request, Response, Status};

use super::convert;
use super::gate::call_of;
use super::services::Api;
use super::status::to_status;
use crate::control::{UsageAnswer, UsageQuestion, format_minute};

#[tonic::async_trait]
impl pb::usage_server::Usage for Api {
    async fn query_usage(
        &self,
        request: Request<pb::QueryUsageRequest>,
    ) -> Result<Response<pb::QueryUsageResponse>, Status> {
        let call = call_of(&request)?;
        let asked = request.into_inner();
        let question = UsageQuestion {
            from: asked.from,
            to: asked.to,
            interval: asked.interval,
            group_by: asked.group_by,
            filter: asked
                .filter
                .into_iter()
                .map(|f| (f.dimension, f.value))
                .collect(),
            linearizable: asked.linearizable,
        };
        let answer = call.control.query_usage(&call.who, &question).await;
        answer.map(answered).map_err(|error| to_status(&error))
    }
}

fn answered(UsageAnswer { query, answer }: UsageAnswer) -> Response<pb::QueryUsageResponse> {
    let report = answer.report;
    let rows = report
        .rows
        .iter()
        .map(|row| convert::usage_row(row, &query.group_by));
    Response::new(pb::QueryUsageResponse {
        from: format_minute(report.from_minute),
        to: format_minute(report.to_minute),
        interval: query.interval.to_string(),
        applied_index: answer.applied_index,
        rows: rows.collect(),
        missing_nodes: answer.missing_nodes,
        percentiles_from: report
            .percentiles_from
            .map(format_minute)
            .unwrap_or_default(),
        percentiles_to: report.percentiles_to.map(format_minute).unwrap_or_default(),
    })
}
