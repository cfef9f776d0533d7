//! `audit`: the record of administrative changes, and whether it is what the cluster agreed on.

use std::time::SystemTime;

use anyhow::Context as _;
use clap::Args;
use jiff::Timestamp;
use mode_envoy_proto::admin::v1 as pb;
use mode_envoy_proto::admin::v1::audit_client::AuditClient;
use serde::Serialize;

use super::Ended;
use super::apply::{ShownChange, shown_change};
use super::client::{Client, api};
use super::history::{say_bounds, summary};
use super::output::{Format, Table, answer};
use crate::control::document::parse_duration;

mod verify;

/// Characters of a hash that a table shows.
const SHORT: usize = 16;

/// Lists administrative changes, or verifies the whole record.
#[derive(Args, Clone, Debug)]
pub(super) struct AuditArgs {
    /// How far back, such as 12h or 30d; all of it where absent
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, conflicts_with_all = ["from", "to"])]
    since: Option<u64>,
    /// First moment, RFC 3339
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// First moment beyond, RFC 3339
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// How many changes, 500 at most
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: u32,
    /// Only revisions before this one
    #[arg(long, value_name = "REVISION")]
    before: Option<u64>,
    /// Read every record, compute its hash again, and compare the last with what each node has
    #[arg(long, conflicts_with_all = ["since", "from", "to", "limit", "before"])]
    verify: bool,
    /// What the node itself has, without asking the cluster whether that is all
    #[arg(long)]
    local: bool,
}

#[derive(Serialize)]
struct Shown<'a> {
    entries: Vec<ShownEntry<'a>>,
    revision: u64,
    since_revision: u64,
    next_before_revision: Option<u64>,
}

#[derive(Serialize)]
struct ShownEntry<'a> {
    revision: u64,
    time: &'a str,
    actor: &'a str,
    origin: &'a str,
    changes: Vec<ShownChange<'a>>,
    omitted: u64,
    hash: &'a str,
}

pub(super) async fn run(client: Client, args: AuditArgs, format: Format) -> anyhow::Result<Ended> {
    if args.verify {
        return verify::run(client, args.local, format).await;
    }
    let message = message(&args, SystemTime::now())?;
    let found = client
        .call(message, |channel, request| async move {
            api!(AuditClient, channel).list_changes(request).await
        })
        .await?;
    answer(format, &table(&found, format), &shown(&found));
    say_bounds(found.since_revision, found.next_before_revision, format);
    Ok(Ended::Done)
}

fn message(args: &AuditArgs, now: SystemTime) -> anyhow::Result<pb::ListChangesRequest> {
    let from = match args.since {
        Some(since) => {
            let from = now.checked_sub(std::time::Duration::from_millis(since));
            let from = from.and_then(|from| Timestamp::try_from(from).ok());
            from.context("--since reaches too far back")?.to_string()
        }
        None => args.from.clone().unwrap_or_default(),
    };
    Ok(pb::ListChangesRequest {
        from,
        to: args.to.clone().unwrap_or_default(),
        limit: args.limit,
        before_revision: args.before.unwrap_or_default(),
        local: args.local,
    })
}

fn table(found: &pb::ListChangesResponse, format: Format) -> Table {
    let hash = |entry: &pb::AuditEntry| match format {
        Format::Table => entry.hash.chars().take(SHORT).collect(),
        Format::Csv | Format::Json | Format::Yaml => entry.hash.clone(),
    };
    let row = |entry: &pb::AuditEntry| {
        [
            entry.revision.to_string(),
            entry.time.clone(),
            entry.actor.clone(),
            entry.origin.clone(),
            hash(entry),
            summary(&entry.changes, entry.omitted),
        ]
    };
    let head = ["revision", "time", "actor", "origin", "hash", "changes"];
    Table::of_texts(head, found.entries.iter().map(row).collect())
}

fn shown(found: &pb::ListChangesResponse) -> Shown<'_> {
    Shown {
        entries: found.entries.iter().map(shown_entry).collect(),
        revision: found.revision,
        since_revision: found.since_revision,
        next_before_revision: Some(found.next_before_revision).filter(|next| *next > 0),
    }
}

fn shown_entry(entry: &pb::AuditEntry) -> ShownEntry<'_> {
    let pb::AuditEntry {
        revision,
        time,
        actor,
        origin,
        changes,
        hash,
        omitted,
    } = entry;
    ShownEntry {
        revision: *revision,
        time,
        actor,
        origin,
        changes: changes.iter().map(shown_change).collect(),
        omitted: *omitted,
        hash,
    }
}
