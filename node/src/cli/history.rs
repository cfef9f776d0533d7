//! `history`: revisions, the newest first, and what each changed.

use clap::Args;
use mode_envoy_proto::admin::v1 as pb;
use mode_envoy_proto::admin::v1::config_client::ConfigClient;
use serde::Serialize;

use super::Ended;
use super::apply::{ShownChange, object, shown_change};
use super::client::{Client, api};
use super::output::{Format, Table, answer, note};

/// Changes that a line of the table names.
const NAMED: usize = 4;

/// Lists revisions.
#[derive(Args, Clone, Debug)]
pub(super) struct HistoryArgs {
    /// tenant, consumer, provider, model, service, route, key or token; all where absent
    #[arg(value_name = "KIND")]
    kind: Option<String>,
    /// One object of the kind
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Only what belongs to this tenant
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// How many revisions, 500 at most
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: u32,
    /// Only revisions before this one
    #[arg(long, value_name = "REVISION")]
    before: Option<u64>,
    /// What the node itself has, without asking the cluster whether that is all
    #[arg(long)]
    local: bool,
}

#[derive(Serialize)]
struct Shown<'a> {
    revisions: Vec<ShownRevision<'a>>,
    revision: u64,
    since_revision: u64,
    next_before_revision: Option<u64>,
}

#[derive(Serialize)]
struct ShownRevision<'a> {
    revision: u64,
    time: &'a str,
    actor: &'a str,
    origin: &'a str,
    changes: Vec<ShownChange<'a>>,
    #[serde(skip_serializing_if = "is_zero")]
    omitted: u64,
}

pub(super) async fn run(
    client: Client,
    args: HistoryArgs,
    format: Format,
) -> anyhow::Result<Ended> {
    let message = pb::HistoryRequest {
        kind: args.kind.unwrap_or_default(),
        name: args.name.unwrap_or_default(),
        tenant: args.tenant.unwrap_or_default(),
        limit: args.limit,
        before_revision: args.before.unwrap_or_default(),
        local: args.local,
    };
    let found = client
        .call(message, |channel, request| async move {
            api!(ConfigClient, channel).history(request).await
        })
        .await?;
    let table = if format == Format::Csv {
        rows_of_changes(&found)
    } else {
        rows_of_revisions(&found)
    };
    answer(format, &table, &shown(&found));
    say_bounds(found.since_revision, found.next_before_revision, format);
    Ok(Ended::Done)
}

/// Tells where the listing ends and why.
pub(super) fn say_bounds(since: u64, next: u64, format: Format) {
    if next > 0 {
        note(&format!("older ones: --before {next}"));
    } else if since > 1 && format == Format::Table {
        note(&format!(
            "the history begins at revision {since}; what was before it is not recorded"
        ));
    }
}

/// What a revision changed, in one cell.
pub(super) fn summary(changes: &[pb::ObjectChange], omitted: u64) -> String {
    let named = changes.iter().take(NAMED);
    let named: Vec<_> = named
        .map(|change| format!("{} {}", object(change), change.change))
        .collect();
    let beyond = u64::try_from(changes.len() - named.len()).unwrap_or(u64::MAX);
    let text = named.join(", ");
    match beyond.saturating_add(omitted) {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

fn rows_of_revisions(found: &pb::HistoryResponse) -> Table {
    let row = |r: &pb::Revision| {
        [
            r.revision.to_string(),
            r.time.clone(),
            r.actor.clone(),
            r.origin.clone(),
            summary(&r.changes, r.omitted),
        ]
    };
    let head = ["revision", "time", "actor", "origin", "changes"];
    Table::of_texts(head, found.revisions.iter().map(row).collect())
}

fn rows_of_changes(found: &pb::HistoryResponse) -> Table {
    let mut rows = Vec::new();
    for r in &found.revisions {
        for c in &r.changes {
            rows.push([
                r.revision.to_string(),
                r.time.clone(),
                r.actor.clone(),
                r.origin.clone(),
                c.kind.clone(),
                c.tenant.clone(),
                c.name.clone(),
                c.change.clone(),
            ]);
        }
    }
    let head = [
        "revision", "time", "actor", "origin", "kind", "tenant", "name", "change",
    ];
    Table::of_texts(head, rows)
}

fn shown(found: &pb::HistoryResponse) -> Shown<'_> {
    Shown {
        revisions: found.revisions.iter().map(shown_revision).collect(),
        revision: found.revision,
        since_revision: found.since_revision,
        next_before_revision: Some(found.next_before_revision).filter(|next| *next > 0),
    }
}

fn shown_revision(past: &pb::Revision) -> ShownRevision<'_> {
    let pb::Revision {
        revision,
        time,
        actor,
        origin,
        changes,
        omitted,
    } = past;
    ShownRevision {
        revision: *revision,
        time,
        actor,
        origin,
        changes: changes.iter().map(shown_change).collect(),
        omitted: *omitted,
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(name: &str) -> pb::ObjectChange {
        pb::ObjectChange {
            kind: "route".to_owned(),
            tenant: "acme".to_owned(),
            name: name.to_owned(),
            change: "created".to_owned(),
        }
    }

    #[test]
    fn a_long_change_is_named_in_part() {
        let changes: Vec<_> = ["a", "b", "c", "d", "e"].map(change).to_vec();
        assert_eq!(
            summary(&changes[..2], 0),
            "route acme/a created, route acme/b created"
        );
        let long = summary(&changes, 7);
        assert!(long.ends_with("route acme/d created and 8 more"), "{long}");
    }
}
