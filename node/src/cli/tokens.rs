//! `tokens`: admin tokens. A token is shown once, by the command that made it.

use clap::Subcommand;
use mode_envoy_proto::admin::v1 as pb;
use mode_envoy_proto::admin::v1::tokens_client::TokensClient;
use serde::Serialize;

use super::Ended;
use super::client::{Client, api};
use super::output::{Format, Table, answer, data, note};

/// Admin tokens.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum TokensVerb {
    /// Make a token; it is shown this once
    Create {
        /// Its name
        #[arg(long)]
        name: String,
        /// What it may do: viewer reads, admin also changes configuration and keys, root also tokens
        #[arg(long, value_parser = ["root", "admin", "viewer"])]
        role: String,
        /// For this tenant alone: its consumers, keys, routes and usage; an admin or a viewer
        #[arg(long, value_name = "TENANT")]
        tenant: Option<String>,
    },
    /// List tokens, without their secrets
    List {
        /// What the node itself has, without asking the cluster whether that is all
        #[arg(long)]
        local: bool,
    },
    /// Remove a token for good
    Revoke {
        /// Its name
        name: String,
    },
}

#[derive(Serialize)]
struct Made<'a> {
    name: &'a str,
    role: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    tenant: &'a str,
    token: &'a str,
    revision: u64,
}

#[derive(Serialize)]
struct Listed<'a> {
    tokens: Vec<Shown<'a>>,
    revision: u64,
}

#[derive(Serialize)]
struct Shown<'a> {
    name: &'a str,
    role: &'a str,
    tenant: Option<&'a str>,
    created: &'a str,
}

#[derive(Serialize)]
struct Revoked {
    revision: u64,
}

pub(super) async fn run(client: Client, verb: TokensVerb, format: Format) -> anyhow::Result<Ended> {
    match verb {
        TokensVerb::Create { name, role, tenant } => {
            let tenant = tenant.unwrap_or_default();
            let message = pb::CreateTokenRequest { name, role, tenant };
            let made = client
                .change(message, |channel, request| async move {
                    api!(TokensClient, channel).create_token(request).await
                })
                .await?;
            show(&made, format);
        }
        TokensVerb::List { local } => {
            let listed = client
                .call(
                    pb::ListTokensRequest { local },
                    |channel, request| async move {
                        api!(TokensClient, channel).list_tokens(request).await
                    },
                )
                .await?;
            show_list(&listed, format);
        }
        TokensVerb::Revoke { name } => {
            let message = pb::RevokeTokenRequest { name: name.clone() };
            let revoked = client
                .change(message, |channel, request| async move {
                    api!(TokensClient, channel).revoke_token(request).await
                })
                .await?;
            show_revoked(&name, revoked.revision, format);
        }
    }
    Ok(Ended::Done)
}

fn show(made: &pb::CreateTokenResponse, format: Format) {
    let pb::CreateTokenResponse {
        name,
        role,
        token,
        revision,
        tenant,
    } = made;
    let row = [name, role, tenant, token].map(Clone::clone);
    let table = Table::of_texts(["name", "role", "tenant", "token"], vec![row]);
    answer(
        format,
        &table,
        &Made {
            name,
            role,
            tenant,
            token,
            revision: *revision,
        },
    );
    note("the token is shown this once and kept nowhere; store it now");
}

fn show_list(listed: &pb::ListTokensResponse, format: Format) {
    let row = |token: &pb::Token| {
        [&token.name, &token.role, &token.tenant, &token.created].map(Clone::clone)
    };
    let table = Table::of_texts(
        ["name", "role", "tenant", "created"],
        listed.tokens.iter().map(row).collect(),
    );
    let tokens = listed.tokens.iter().map(shown).collect();
    answer(
        format,
        &table,
        &Listed {
            tokens,
            revision: listed.revision,
        },
    );
}

fn shown(token: &pb::Token) -> Shown<'_> {
    Shown {
        name: &token.name,
        role: &token.role,
        tenant: Some(token.tenant.as_str()).filter(|tenant| !tenant.is_empty()),
        created: &token.created,
    }
}

fn show_revoked(name: &str, revision: u64, format: Format) {
    if format == Format::Table {
        data(&format!("token {name} revoked\nrevision {revision}\n"));
    } else {
        let table = Table::of_texts(["revision"], vec![[revision.to_string()]]);
        answer(format, &table, &Revoked { revision });
    }
}
