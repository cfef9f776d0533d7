//! `limits`: what is used of every limit, what is free, and which node has how much.

use clap::Args;
use mode_envoy_proto::admin::v1 as pb;
use mode_envoy_proto::admin::v1::limits_client::LimitsClient;

use self::shown::{ShownLimits, columns};
use super::Ended;
use super::client::{Client, api};
use super::output::{Format, answer, note};
use crate::control::POOLS_MAX;

mod shown;

/// What is used of the limits, what is free, and which node has how much.
#[derive(Args, Clone, Debug)]
pub(super) struct LimitsArgs {
    /// One limit; all of them where absent
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Only what is this tenant's: its own limits, and its part of the operator's
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// How many amounts at most; a limit with `each` has one for every value
    #[arg(long, value_name = "N", default_value = "1000", value_parser = clap::value_parser!(u32).range(1..=i64::from(POOLS_MAX)))]
    limit: u32,
}

pub(super) async fn run(client: Client, args: LimitsArgs, format: Format) -> anyhow::Result<Ended> {
    let message = pb::GetLimitsRequest {
        name: args.name.unwrap_or_default(),
        tenant: args.tenant.unwrap_or_default(),
        limit: args.limit,
    };
    let told = client
        .call(message, |channel, request| async move {
            api!(LimitsClient, channel).get_limits(request).await
        })
        .await?;
    answer(format, &columns(&told.limits, format), &ShownLimits(&told));
    if told.more {
        let shown = told.limits.len();
        note(&format!(
            "only the first {shown} are shown; there are more (--limit, --tenant, or the name of a limit)"
        ));
    }
    if format == Format::Table && told.limits.iter().any(|pool| pool.used.is_none()) {
        note(
            "of a limit of mode local every node counts its own share alone, so what is used of it is not told",
        );
    }
    for warning in &told.warnings {
        note(warning);
    }
    Ok(Ended::Done)
}
