//! `rollback`: makes the declared configuration what it was at a revision. Keys, tokens and secrets stay as they are.

use clap::Args;
use mode_envoy_proto::admin::v1 as pb;
use mode_envoy_proto::admin::v1::config_client::ConfigClient;

use super::Ended;
use super::apply::show;
use super::client::{Client, api};
use super::output::{Format, note};

/// Goes back to a revision.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct RollbackArgs {
    /// Which one; `mode-envoy history` lists them
    #[arg(value_name = "REVISION", value_parser = clap::value_parser!(u64).range(1..))]
    revision: u64,
    /// Say what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Answer when every node that can be reached has the change in force
    #[arg(long)]
    wait: bool,
}

pub(super) async fn run(
    client: Client,
    args: RollbackArgs,
    format: Format,
) -> anyhow::Result<Ended> {
    let message = pb::RollbackRequest {
        revision: args.revision,
        dry_run: args.dry_run,
        wait: args.wait,
    };
    let done = client
        .change(message, |channel, request| async move {
            api!(ConfigClient, channel).rollback(request).await
        })
        .await?;
    if done.changes.is_empty() && format == Format::Table {
        note(&format!(
            "everything that is declared is as it was at revision {} already",
            args.revision
        ));
    }
    if !done.changes.is_empty() {
        note("keys, tokens and stored secrets stay as they are now");
    }
    Ok(show(&done, args.dry_run, format))
}
