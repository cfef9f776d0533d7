//! `keys`: API keys. A secret is shown once, by the command that made it.

use clap::Subcommand;
use mode_envoy_proto::admin::v1 as pb;
use mode_envoy_proto::admin::v1::keys_client::KeysClient;
use serde::Serialize;

use super::Ended;
use super::client::{Client, api};
use super::output::{Format, Table, answer, data, note};
use crate::control::document::parse_duration;

/// API keys.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum KeysVerb {
    /// Make a key for a consumer; its secret is shown this once
    Create {
        /// Owner
        #[arg(long)]
        tenant: String,
        /// Whom it authenticates as
        #[arg(long)]
        consumer: String,
        /// Its name; one is made up where absent
        #[arg(long)]
        name: Option<String>,
        /// When it expires, such as 30d; never where absent
        #[arg(long, value_name = "DURATION", value_parser = lifetime)]
        expires: Option<u64>,
    },
    /// List keys, without their secrets
    List {
        /// Only keys of this tenant
        #[arg(long)]
        tenant: Option<String>,
        /// Only keys of this consumer
        #[arg(long)]
        consumer: Option<String>,
        /// What the node itself has, without asking the cluster whether that is all
        #[arg(long)]
        local: bool,
    },
    /// Replace a key's secret; the new one is shown this once
    Rotate {
        /// Its name or id
        name: String,
        /// Its tenant, where several have a key of that name
        #[arg(long)]
        tenant: Option<String>,
        /// How long the old secret is still accepted
        #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = seconds)]
        grace: u64,
    },
    /// Remove a key for good
    Revoke {
        /// Its name or id
        name: String,
        /// Its tenant, where several have a key of that name
        #[arg(long)]
        tenant: Option<String>,
    },
}

#[derive(Serialize)]
struct Shown<'a> {
    id: &'a str,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<&'a str>,
    tenant: &'a str,
    consumer: &'a str,
    created: &'a str,
    expires: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
}

#[derive(Serialize)]
struct Listed<'a> {
    keys: Vec<Shown<'a>>,
    revision: u64,
}

#[derive(Serialize)]
struct Revoked {
    revision: u64,
}

pub(super) async fn run(client: Client, verb: KeysVerb, format: Format) -> anyhow::Result<Ended> {
    match verb {
        KeysVerb::Create {
            tenant,
            consumer,
            name,
            expires,
        } => {
            let message = pb::CreateKeyRequest {
                tenant,
                consumer,
                name: name.unwrap_or_default(),
                expires_in_seconds: expires.unwrap_or_default(),
            };
            show(&create(&client, message).await?, format);
        }
        KeysVerb::List {
            tenant,
            consumer,
            local,
        } => {
            let message = pb::ListKeysRequest {
                tenant: tenant.unwrap_or_default(),
                consumer: consumer.unwrap_or_default(),
                local,
            };
            show_list(&list(&client, message).await?, format);
        }
        KeysVerb::Rotate {
            name,
            tenant,
            grace,
        } => {
            let message = pb::RotateKeyRequest {
                tenant: tenant.unwrap_or_default(),
                name,
                grace_seconds: grace,
            };
            show(&rotate(&client, message).await?, format);
        }
        KeysVerb::Revoke { name, tenant } => {
            let message = pb::RevokeKeyRequest {
                tenant: tenant.unwrap_or_default(),
                name: name.clone(),
            };
            show_revoked(&name, revoke(&client, message).await?.revision, format);
        }
    }
    Ok(Ended::Done)
}

async fn create(
    client: &Client,
    message: pb::CreateKeyRequest,
) -> anyhow::Result<pb::CreateKeyResponse> {
    let send =
        |channel, request| async move { api!(KeysClient, channel).create_key(request).await };
    client.change(message, send).await
}

async fn list(
    client: &Client,
    message: pb::ListKeysRequest,
) -> anyhow::Result<pb::ListKeysResponse> {
    let send = |channel, request| async move { api!(KeysClient, channel).list_keys(request).await };
    client.call(message, send).await
}

async fn rotate(
    client: &Client,
    message: pb::RotateKeyRequest,
) -> anyhow::Result<pb::CreateKeyResponse> {
    let send =
        |channel, request| async move { api!(KeysClient, channel).rotate_key(request).await };
    client.change(message, send).await
}

async fn revoke(
    client: &Client,
    message: pb::RevokeKeyRequest,
) -> anyhow::Result<pb::RevokeKeyResponse> {
    let send =
        |channel, request| async move { api!(KeysClient, channel).revoke_key(request).await };
    client.change(message, send).await
}

fn show(made: &pb::CreateKeyResponse, format: Format) {
    let key = made.key.clone().unwrap_or_default();
    let shown = Shown {
        secret: Some(&made.secret),
        revision: Some(made.revision),
        ..shown(&key)
    };
    let row = [
        &key.id,
        &key.name,
        &key.tenant,
        &key.consumer,
        &key.expires,
        &made.secret,
    ];
    let head = ["id", "name", "tenant", "consumer", "expires", "secret"];
    answer(
        format,
        &Table::of_texts(head, vec![row.map(Clone::clone)]),
        &shown,
    );
    note("the secret is shown this once and kept nowhere; store it now");
}

fn show_list(listed: &pb::ListKeysResponse, format: Format) {
    let row = |key: &pb::Key| {
        [
            &key.tenant,
            &key.name,
            &key.consumer,
            &key.id,
            &key.created,
            &key.expires,
        ]
        .map(Clone::clone)
    };
    let head = ["tenant", "name", "consumer", "id", "created", "expires"];
    let table = Table::of_texts(head, listed.keys.iter().map(row).collect());
    let keys = listed.keys.iter().map(shown).collect();
    answer(
        format,
        &table,
        &Listed {
            keys,
            revision: listed.revision,
        },
    );
}

fn shown(key: &pb::Key) -> Shown<'_> {
    Shown {
        id: &key.id,
        name: &key.name,
        secret: None,
        tenant: &key.tenant,
        consumer: &key.consumer,
        created: &key.created,
        expires: Some(key.expires.as_str()).filter(|time| !time.is_empty()),
        revision: None,
    }
}

fn show_revoked(name: &str, revision: u64, format: Format) {
    if format == Format::Table {
        data(&format!("key {name} revoked\nrevision {revision}\n"));
    } else {
        let table = Table::of_texts(["revision"], vec![[revision.to_string()]]);
        answer(format, &table, &Revoked { revision });
    }
}

/// Zero would stand for "never" on the wire, which is not what was typed.
fn lifetime(text: &str) -> Result<u64, String> {
    match seconds(text)? {
        0 => Err(
            "a key lives for a second at least; leave --expires out for one that never expires"
                .to_owned(),
        ),
        seconds => Ok(seconds),
    }
}

/// A duration in whole seconds; less than one is rounded up.
fn seconds(text: &str) -> Result<u64, String> {
    parse_duration(text).map(|ms| ms.div_ceil(1_000))
}

#[cfg(test)]
mod tests {
    use super::super::output::render;
    use super::*;

    #[test]
    fn a_key_lives_for_a_second_at_least() {
        assert_eq!(lifetime("1ms"), Ok(1));
        assert_eq!(lifetime("30d"), Ok(30 * 86_400));
        assert!(lifetime("0s").is_err());
    }

    #[test]
    fn a_new_key_is_shown_with_the_fields_that_scripts_read() {
        let key = pb::Key {
            id: "key-1".to_owned(),
            name: "ci".to_owned(),
            tenant: "acme".to_owned(),
            consumer: "app".to_owned(),
            created: "2026-03-01T09:30:00Z".to_owned(),
            expires: String::new(),
        };
        let shown = Shown {
            secret: Some("me-x"),
            revision: Some(7),
            ..shown(&key)
        };
        let json = render(Format::Json, &Table::default(), &shown);
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "id": "key-1", "name": "ci", "secret": "me-x", "tenant": "acme", "consumer": "app",
                "created": "2026-03-01T09:30:00Z", "expires": null, "revision": 7
            })
        );
    }

    #[test]
    fn parts_of_a_second_are_rounded_up() {
        assert_eq!(seconds("30d"), Ok(2_592_000));
        assert_eq!(seconds("1ms"), Ok(1));
        assert!(seconds("soon").is_err());
    }
}
