//! `apply`: creates and updates the objects of documents, all or none.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use mode_envoy_proto::admin::v1 as pb;
use mode_envoy_proto::admin::v1::config_client::ConfigClient;
use serde::Serialize;

use super::Ended;
use super::client::{Client, Refused, api};
use super::inputs::{Inputs, Located};
use super::output::{Format, Table, answer, data, note};
use crate::control::document::write;

/// Creates and updates objects from documents.
#[derive(Args, Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
pub(super) struct ApplyArgs {
    /// A document, a folder of documents, or `-` for standard input
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Say what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Delete what there is beside the objects, of the kinds and tenants that the documents name
    #[arg(long)]
    prune: bool,
    /// With --prune: even if that is more than 20 % of what there is
    #[arg(long, requires = "prune")]
    yes: bool,
    /// Answer when every node that can be reached has the change in force
    #[arg(long)]
    wait: bool,
}

#[derive(Serialize)]
struct Shown<'a> {
    changes: Vec<ShownChange<'a>>,
    revision: u64,
    dry_run: bool,
    missing_nodes: &'a [u64],
    late_nodes: &'a [u64],
}

/// One line of a report.
#[derive(Serialize)]
pub(super) struct ShownChange<'a> {
    kind: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    tenant: &'a str,
    name: &'a str,
    change: &'a str,
}

pub(super) async fn run(client: Client, args: ApplyArgs, format: Format) -> anyhow::Result<Ended> {
    let inputs = match Inputs::read(&args.files)? {
        Ok(inputs) => inputs,
        Err(faults) => return Ok(refused(&faults)),
    };
    let drafts = match inputs.resolved() {
        Ok(drafts) => drafts,
        Err(faults) => return Ok(refused(&faults)),
    };
    let Ok(document) = write(&drafts) else {
        bail!("the documents hold a text that YAML cannot express; nothing was sent");
    };
    let message = pb::ApplyRequest {
        document,
        dry_run: args.dry_run,
        wait: args.wait,
        prune: args.prune,
        yes: args.yes,
    };
    let applied = client
        .change(message, |channel, request| async move {
            api!(ConfigClient, channel).apply(request).await
        })
        .await;
    match applied {
        Ok(response) => Ok(show(&response, args.dry_run, format)),
        Err(error) => placed(&inputs, error),
    }
}

/// Prints the report of a change.
pub(super) fn show(response: &pb::ApplyResponse, dry_run: bool, format: Format) -> Ended {
    if format == Format::Table {
        for change in &response.changes {
            data(&format!("{} {}\n", object(change), change.change));
        }
        let suffix = if dry_run {
            " (dry run: nothing was changed)"
        } else {
            ""
        };
        data(&format!("revision {}{suffix}\n", response.revision));
    } else {
        let (table, shown) = (table(response), shown(response, dry_run));
        answer(format, &table, &shown);
    }
    if !response.missing_nodes.is_empty() {
        note(&format!(
            "not reached: node {}; it has the change as soon as it is back",
            listed(&response.missing_nodes)
        ));
    }
    if response.late_nodes.is_empty() {
        return Ended::Done;
    }
    note(&format!(
        "error: the change is made, but node {} does not have it in force yet; see `mode-envoy cluster status`",
        listed(&response.late_nodes)
    ));
    Ended::Failed
}

fn listed(nodes: &[u64]) -> String {
    let nodes: Vec<_> = nodes.iter().map(ToString::to_string).collect();
    nodes.join(", ")
}

/// An object as reports name it.
pub(super) fn object(change: &pb::ObjectChange) -> String {
    match change.tenant.as_str() {
        "" => format!("{} {}", change.kind, change.name),
        tenant => format!("{} {tenant}/{}", change.kind, change.name),
    }
}

fn table(response: &pb::ApplyResponse) -> Table {
    let row = |c: &pb::ObjectChange| {
        [
            c.kind.clone(),
            c.tenant.clone(),
            c.name.clone(),
            c.change.clone(),
        ]
    };
    Table::of_texts(
        ["kind", "tenant", "name", "change"],
        response.changes.iter().map(row).collect(),
    )
}

fn shown(response: &pb::ApplyResponse, dry_run: bool) -> Shown<'_> {
    Shown {
        changes: response.changes.iter().map(shown_change).collect(),
        revision: response.revision,
        dry_run,
        missing_nodes: &response.missing_nodes,
        late_nodes: &response.late_nodes,
    }
}

pub(super) fn shown_change(change: &pb::ObjectChange) -> ShownChange<'_> {
    let pb::ObjectChange {
        kind,
        tenant,
        name,
        change,
    } = change;
    ShownChange {
        kind,
        tenant,
        name,
        change,
    }
}

pub(super) fn refused(faults: &[Located]) -> Ended {
    for fault in faults {
        note(&fault.to_string());
    }
    note(&format!(
        "error: {} fault{}; nothing was changed",
        faults.len(),
        if faults.len() == 1 { "" } else { "s" }
    ));
    Ended::Failed
}

/// Where a node's refusal names fields, points at them in the user's files.
pub(super) fn placed(inputs: &Inputs, error: anyhow::Error) -> anyhow::Result<Ended> {
    let fields = error
        .downcast_ref::<Refused>()
        .map(Refused::fields)
        .unwrap_or_default();
    let located: Vec<_> = fields
        .iter()
        .map(|f| inputs.locate(&f.path, &f.problem))
        .collect();
    if located.iter().all(|fault| fault.line == 0) {
        return Err(error);
    }
    Ok(refused(&located))
}
