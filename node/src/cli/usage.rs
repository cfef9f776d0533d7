//! `usage`: calls, tokens, costs and latencies, grouped and filtered, from any node.

use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use clap::Args;
use jiff::Timestamp;
use mode_envoy_proto::admin::v1 as pb;
use mode_envoy_proto::admin::v1::usage_client::UsageClient;

use self::shown::{ShownUsage, narrow, wide};
use super::Ended;
use super::client::{Client, api};
use super::output::{Format, answer, note};
use crate::control::document::parse_duration;

mod shown;

/// Calls, tokens, costs and latencies.
#[derive(Args, Clone, Debug)]
pub(super) struct UsageArgs {
    /// How far back, such as 30m, 1h or 7d
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_duration, conflicts_with_all = ["from", "to"])]
    since: u64,
    /// First moment, RFC 3339; an hour before `--to` where absent
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// First moment beyond, RFC 3339; now where absent
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// How long the buckets are
    #[arg(long, value_name = "INTERVAL", default_value = "total", value_parser = ["minute", "hour", "day", "month", "total"])]
    interval: String,
    /// What a row is about: tenant, team, consumer, key, route, api, model, provider, upstream_model, node, status;
    /// node combines with tenant, route and status
    #[arg(long, value_name = "DIM", value_delimiter = ',')]
    group_by: Vec<String>,
    /// What is counted; values of one dimension are alternatives
    #[arg(long, value_name = "DIM=VALUE", value_delimiter = ',', value_parser = filter)]
    filter: Vec<(String, String)>,
    /// Count every call that ended before now, on every node that can be reached
    #[arg(long)]
    linearizable: bool,
}

pub(super) async fn run(client: Client, args: UsageArgs, format: Format) -> anyhow::Result<Ended> {
    let message = message(&args, SystemTime::now())?;
    let found = client
        .call(message, |channel, request| async move {
            api!(UsageClient, channel).query_usage(request).await
        })
        .await?;
    let group_by = &args.group_by;
    let table = if format == Format::Csv {
        wide(&found, group_by)
    } else {
        narrow(&found, group_by)
    };
    answer(
        format,
        &table,
        &ShownUsage {
            found: &found,
            group_by,
        },
    );
    if format == Format::Table {
        note(&format!(
            "{} to {} (UTC), by {}",
            found.from, found.to, found.interval
        ));
    }
    if found.rows.iter().any(|row| row.folded) {
        note(
            "rows marked folded hold series beyond the cluster's cap under __other__, or calls that a full spool only added up",
        );
    }
    if found.rows.iter().any(|row| row.unpriced_attempts > 0) {
        note("some tokens have no known price and are not part of the costs");
    }
    if !found.missing_nodes.is_empty() {
        let nodes: Vec<_> = found
            .missing_nodes
            .iter()
            .map(ToString::to_string)
            .collect();
        note(&format!(
            "node {} did not answer; calls that it has not reported yet are missing",
            nodes.join(", ")
        ));
    }
    Ok(Ended::Done)
}

fn message(args: &UsageArgs, now: SystemTime) -> anyhow::Result<pb::QueryUsageRequest> {
    let mut from = args.from.clone().unwrap_or_default();
    let to = args.to.clone().unwrap_or_default();
    if from.is_empty() && to.is_empty() {
        from = before(now, Duration::from_millis(args.since))?;
    }
    let filter = args.filter.iter().cloned();
    Ok(pb::QueryUsageRequest {
        from,
        to,
        interval: args.interval.clone(),
        group_by: args.group_by.clone(),
        filter: filter
            .map(|(dimension, value)| pb::Filter { dimension, value })
            .collect(),
        linearizable: args.linearizable,
    })
}

/// The moment that long ago; where minutes or hours are no longer kept, rounded out to what is.
fn before(now: SystemTime, since: Duration) -> anyhow::Result<String> {
    let from = now
        .checked_sub(since)
        .context("--since reaches too far back")?;
    let from = Timestamp::try_from(from).context("--since reaches too far back")?;
    // An edge of an hour and a day, since the cluster's clock is not this one.
    let grain = if since > Duration::from_hours(34 * 24) {
        Duration::from_hours(24)
    } else if since > Duration::from_hours(47) {
        Duration::from_hours(1)
    } else {
        return Ok(from.to_string());
    };
    let past =
        u64::try_from(from.as_second()).context("--since reaches too far back")? % grain.as_secs();
    let whole = from
        .checked_sub(Duration::from_secs(past))
        .context("--since reaches too far back")?;
    Ok(Timestamp::from_second(whole.as_second())?.to_string())
}

fn filter(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((dimension, value)) if !dimension.is_empty() => {
            Ok((dimension.to_owned(), value.to_owned()))
        }
        _ => Err(format!(
            "`{text}` is not a filter; write one such as model=fast"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_rounded_out_to_what_is_kept() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_mins(29_539_297);
        for (days, from) in [
            (1, "2026-02-28T09:37:00Z"),
            (2, "2026-02-27T09:00:00Z"),
            (7, "2026-02-22T09:00:00Z"),
            (90, "2025-12-01T00:00:00Z"),
        ] {
            let since = Duration::from_hours(days * 24);
            assert_eq!(before(now, since).unwrap(), from, "{days}");
        }
    }

    #[test]
    fn since_is_counted_back_from_now() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_mins(29_539_290);
        assert_eq!(
            before(now, Duration::from_hours(1)).unwrap(),
            "2026-03-01T08:30:00Z"
        );
        assert!(before(now, Duration::from_millis(u64::MAX)).is_err());
    }

    #[test]
    fn a_filter_is_a_dimension_and_a_value() {
        assert_eq!(
            filter("model=fast"),
            Ok(("model".to_owned(), "fast".to_owned()))
        );
        assert_eq!(filter("team="), Ok(("team".to_owned(), String::new())));
        assert!(filter("fast").is_err());
        assert!(filter("=fast").is_err());
    }
}
