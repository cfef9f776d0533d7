//! `delete`: removes one object; refused while something refers to it.

use clap::Args;
use mode_envoy_proto::admin::v1 as pb;
use mode_envoy_proto::admin::v1::config_client::ConfigClient;
use serde::Serialize;

use super::Ended;
use super::client::{Client, api};
use super::output::{Format, Table, answer, data};

/// Deletes an object.
#[derive(Args, Clone, Debug)]
pub(super) struct DeleteArgs {
    /// tenant, consumer, provider, model, service, route or limit
    #[arg(value_name = "KIND")]
    kind: String,
    /// Its name
    #[arg(value_name = "NAME")]
    name: String,
    /// Its tenant, where it has one
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
}

#[derive(Serialize)]
struct Shown {
    revision: u64,
}

pub(super) async fn run(client: Client, args: DeleteArgs, format: Format) -> anyhow::Result<Ended> {
    let message = pb::DeleteRequest {
        kind: args.kind.clone(),
        name: args.name.clone(),
        tenant: args.tenant.unwrap_or_default(),
    };
    let deleted = client
        .change(message, |channel, request| async move {
            api!(ConfigClient, channel).delete(request).await
        })
        .await?;
    if format == Format::Table {
        data(&format!(
            "{} {} deleted\nrevision {}\n",
            args.kind, args.name, deleted.revision
        ));
    } else {
        let table = Table::of_texts(["revision"], vec![[deleted.revision.to_string()]]);
        answer(
            format,
            &table,
            &Shown {
                revision: deleted.revision,
            },
        );
    }
    Ok(Ended::Done)
}
