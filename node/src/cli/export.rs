//! `export`: the whole configuration as a document.

use clap::Args;
use mode_envoy_proto::admin::v1 as pb;
use mode_envoy_proto::admin::v1::config_client::ConfigClient;

use super::Ended;
use super::client::{Client, api};
use super::output::{Format, data, json};
use crate::control::document::tree;

/// Prints the whole configuration as a document that `apply` takes back.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct ExportArgs {
    /// What was declared at this revision; secrets are told as they were stored then
    #[arg(long, value_name = "REVISION", value_parser = clap::value_parser!(u64).range(1..))]
    revision: Option<u64>,
    /// What the node itself has, without asking the cluster whether that is all
    #[arg(long)]
    local: bool,
}

pub(super) async fn run(client: Client, args: ExportArgs, format: Format) -> anyhow::Result<Ended> {
    let message = pb::ExportRequest {
        local: args.local,
        revision: args.revision.unwrap_or_default(),
    };
    let exported = client
        .call(message, |channel, request| async move {
            api!(ConfigClient, channel).export(request).await
        })
        .await?;
    match format {
        Format::Json => data(&json(&tree(&exported.document)?)),
        // A document has no columns: YAML is its form.
        Format::Table | Format::Yaml | Format::Csv => data(&exported.document),
    }
    Ok(Ended::Done)
}
