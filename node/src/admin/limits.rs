//! The service `Limits`.

use mode_envoy_model::ledger::report::PoolReport;
use mode_envoy_model::limit::{Dimension, Per, Unit, Window};
use mode_envoy_proto::admin::v1 as pb;
use tonic::{Request, Response, Status};

use super::gate::call_of;
use super::services::Api;
use super::status::to_status;
use crate::control::{LimitsQuestion, format_exact_ms, format_ms, is_counted};

#[tonic::async_trait]
impl pb::limits_server::Limits for Api {
    async fn get_limits(
        &self,
        request: Request<pb::GetLimitsRequest>,
    ) -> Result<Response<pb::GetLimitsResponse>, Status> {
        let call = call_of(&request)?;
        let asked = request.into_inner();
        let question = LimitsQuestion {
            name: asked.name,
            tenant: asked.tenant,
            limit: asked.limit,
        };
        let told = call.control.limits(&call.who, &question);
        let told = told.map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::GetLimitsResponse {
            limits: told.pools.iter().map(shown).collect(),
            more: told.more,
            applied_index: told.applied_index,
            time: format_exact_ms(told.wall_ms),
            warnings: told.warnings,
        }))
    }
}

/// A pool as the API tells it.
fn shown(pool: &PoolReport) -> pb::LimitPool {
    let limit = &*pool.limit;
    let counted = is_counted(limit);
    let text = |name: Option<&str>| name.unwrap_or_default().to_owned();
    let concurrent = limit.unit == Unit::Concurrent;
    let (window, burst) = match limit.window {
        Window::Bucket { burst } => ("bucket", Some(burst)),
        Window::Calendar if concurrent || limit.per == Per::Total => ("", None),
        Window::Calendar => ("calendar", None),
    };
    let begins = pool.ends_ms.map(|_| format_ms(pool.window));
    let leased = pool.leased.iter().filter(|(_, units)| **units > 0);
    let leased = leased.map(|(&node, &units)| pb::LeasedUnits { node, units });
    pb::LimitPool {
        tenant: text(limit.tenant.as_deref()),
        name: limit.name.to_string(),
        each: text(limit.each.map(Dimension::word)),
        value: pool.key.value.to_string(),
        unit: limit.unit.word().to_owned(),
        amount: limit.amount,
        per: if concurrent { "" } else { limit.per.word() }.to_owned(),
        window: window.to_owned(),
        burst,
        mode: limit.mode.word().to_owned(),
        shadow: limit.shadow,
        window_begins: begins.unwrap_or_default(),
        window_ends: pool.ends_ms.map(format_ms).unwrap_or_default(),
        cap: pool.cap,
        used: counted.then_some(pool.used),
        free: pool.free,
        leased: leased.collect(),
        burned: pool.burned,
        unsettled: pool.unsettled,
        central: pool.central,
        overshoot: pool.overshoot,
    }
}
