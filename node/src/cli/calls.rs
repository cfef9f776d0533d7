//! `calls`: single calls of all nodes, of the last minutes or as they come.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use clap::Args;
use jiff::Timestamp;
use mode_envoy_proto::admin::v1 as pb;
use mode_envoy_proto::admin::v1::calls_client::CallsClient;

use self::shown::{ShownCall, ShownCalls, columns, line};
use super::client::{Client, api};
use super::output::{Format, answer, note, try_data};
use super::{Ended, Global};
use crate::control::document::parse_duration;
use crate::control::{LIMIT_MAX, status_range};

pub(super) mod shown;

/// Single calls, gathered from all nodes.
#[derive(Args, Clone, Debug)]
pub(super) struct CallsArgs {
    /// How far back, such as 10m, 1h or 7d
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = parse_duration, conflicts_with_all = ["from", "to"])]
    since: u64,
    /// First moment, RFC 3339; ten minutes before `--to` where absent
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// First moment beyond, RFC 3339; now where absent
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Only calls with this key, by name
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Only calls that ended with this status: a class such as 5xx, or a code such as 429
    #[arg(long, value_name = "STATUS", value_parser = status)]
    status: Option<String>,
    /// Only calls of this tenant
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// Only calls by this route
    #[arg(long, value_name = "ROUTE")]
    route: Option<String>,
    /// How many at most; the newest are told
    #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(u32).range(1..=i64::from(LIMIT_MAX)))]
    limit: u32,
    /// Cover every call that ended before now, on every node that can be reached
    #[arg(long)]
    linearizable: bool,
    /// Print calls of all nodes as they end, one a line, until interrupted
    #[arg(long, conflicts_with_all = ["since", "from", "to", "limit", "linearizable"])]
    follow: bool,
}

/// Runs the verb. Following has no end of its own, so an interrupted one is done.
pub(super) fn run(global: &Global, args: CallsArgs) -> ExitCode {
    let format = global.output;
    if args.follow {
        global.call(|client| follow(client, args, format))
    } else {
        global.call(|client| query(client, args, format))
    }
}

async fn query(client: Client, args: CallsArgs, format: Format) -> anyhow::Result<Ended> {
    let message = message(&args, SystemTime::now())?;
    let found = client
        .call(message, |channel, request| async move {
            api!(CallsClient, channel).query_calls(request).await
        })
        .await?;
    answer(format, &columns(&found.calls, format), &ShownCalls(&found));
    if found.more {
        let shown = found.calls.len();
        note(&format!(
            "only the newest {shown} are shown; there are older ones (--limit, --from, --to)"
        ));
    }
    tell(&found.warnings, &found.missing_nodes);
    Ok(Ended::Done)
}

async fn follow(client: Client, args: CallsArgs, format: Format) -> anyhow::Result<Ended> {
    let message = pb::FollowCallsRequest {
        filter: Some(filter(&args)),
    };
    let mut stream = client
        .call(message, |channel, request| async move {
            api!(CallsClient, channel).follow_calls(request).await
        })
        .await?;
    let mut missing = Vec::new();
    let mut first = true;
    loop {
        let next = stream.message().await.map_err(|status| {
            anyhow::anyhow!("following the calls: {}; start it again", status.message())
        })?;
        let Some(news) = next else {
            note("the node is ending; follow the calls of another one");
            return Ok(Ended::Failed);
        };
        for call in &news.calls {
            if !try_data(&line(&ShownCall(call), format, first)) {
                return Ok(Ended::Done);
            }
            first = false;
        }
        if news.missed > 0 {
            note(&format!("{} calls came too fast to be shown", news.missed));
        }
        if news.missing_nodes != missing {
            if news.missing_nodes.is_empty() {
                note("every node answers again");
            }
            tell(&[], &news.missing_nodes);
            missing = news.missing_nodes;
        }
    }
}

/// What is not data: warnings, and whose calls are missing.
pub(super) fn tell(warnings: &[String], missing_nodes: &[u64]) {
    for warning in warnings {
        note(warning);
    }
    if !missing_nodes.is_empty() {
        let nodes: Vec<_> = missing_nodes.iter().map(ToString::to_string).collect();
        note(&format!(
            "node {} did not answer; its calls are missing",
            nodes.join(", ")
        ));
    }
}

fn message(args: &CallsArgs, now: SystemTime) -> anyhow::Result<pb::QueryCallsRequest> {
    let mut from = args.from.clone().unwrap_or_default();
    let to = args.to.clone().unwrap_or_default();
    if from.is_empty() && to.is_empty() {
        from = before(now, Duration::from_millis(args.since))?;
    }
    Ok(pb::QueryCallsRequest {
        from,
        to,
        filter: Some(filter(args)),
        limit: args.limit,
        linearizable: args.linearizable,
    })
}

fn filter(args: &CallsArgs) -> pb::CallsFilter {
    let text = |given: &Option<String>| given.clone().unwrap_or_default();
    pb::CallsFilter {
        key: text(&args.key),
        status: text(&args.status),
        tenant: text(&args.tenant),
        route: text(&args.route),
    }
}

fn before(now: SystemTime, since: Duration) -> anyhow::Result<String> {
    let from = now
        .checked_sub(since)
        .context("--since reaches too far back")?;
    let from = Timestamp::try_from(from).context("--since reaches too far back")?;
    Ok(from.to_string())
}

fn status(text: &str) -> Result<String, String> {
    match status_range(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err("write a class such as 5xx or a code such as 429".to_owned()),
    }
}
