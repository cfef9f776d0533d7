//! `cluster`: the state of the cluster and of each node, who belongs to it, who leads; its backups, and clusters made of them.

use std::process::ExitCode;

use clap::Subcommand;
use mode_envoy_proto::admin::v1 as pb;
use mode_envoy_proto::admin::v1::cluster_client::ClusterClient;
use serde::Serialize;

use super::client::{Client, api};
use super::output::{Format, Table, answer, data, note};
use super::{Ended, Global, ended};
use crate::control::document::parse_duration;

mod backup;
mod restore;

/// The cluster itself.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum ClusterVerb {
    /// Who leads, and how far each node is
    Status,
    /// Make a token that lets one node join, once; it is shown this once
    AddNode {
        /// How long it is valid, one hour at most
        #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = validity)]
        expires: u64,
    },
    /// Remove a node for good; its id is never used again
    RemoveNode {
        /// Its id
        id: u64,
    },
    /// Let another node lead
    TransferLeader {
        /// Its id
        id: u64,
    },
    /// Replace the cluster secret by a new one, without a pause
    RotateSecret {
        /// Leave the old one in force, while not every member holds the new one
        #[arg(long)]
        abort: bool,
    },
    /// Write the replicated state to a file, or check one that was written
    Backup(backup::BackupArgs),
    /// Make the data directory of a new cluster from a backup, offline
    Restore(restore::RestoreArgs),
}

#[derive(Serialize)]
struct Shown<'a> {
    cluster_id: &'a str,
    leader: Option<u64>,
    revision: u64,
    nodes: Vec<ShownNode<'a>>,
    joining: Vec<ShownJoining<'a>>,
    leaving: &'a [u64],
    join_tokens: Vec<ShownToken<'a>>,
}

#[derive(Serialize)]
struct ShownJoining<'a> {
    id: u64,
    peer: &'a str,
}

#[derive(Serialize)]
struct ShownToken<'a> {
    expires: &'a str,
}

#[derive(Serialize)]
struct Made<'a> {
    join_token: &'a str,
    expires: &'a str,
    join: &'a str,
    revision: u64,
}

#[derive(Serialize)]
struct Removed {
    id: u64,
    revision: u64,
    done: bool,
}

#[derive(Serialize)]
struct Rotated<'a> {
    revision: u64,
    done: bool,
    waiting: &'a [u64],
}

#[derive(Serialize)]
struct Leads {
    leader: u64,
}

#[derive(Serialize)]
struct ShownNode<'a> {
    id: u64,
    role: &'a str,
    reachable: bool,
    applied_index: u64,
    revision: u64,
    gateway: &'a str,
    admin: &'a str,
    peer: &'a str,
    version: &'a str,
    alarms: &'a [String],
}

/// Runs a verb; some need no cluster, and none is looked for then.
pub(super) fn dispatch(global: &Global, verb: ClusterVerb, format: Format) -> ExitCode {
    match verb {
        ClusterVerb::Backup(args) if args.verify => ended(backup::verify(&args.file, format)),
        ClusterVerb::Restore(args) => ended(restore::run(&args, format)),
        verb => global.call(|client| run(client, verb, format)),
    }
}

async fn run(client: Client, verb: ClusterVerb, format: Format) -> anyhow::Result<Ended> {
    match verb {
        ClusterVerb::Status => show_status(&client, format).await,
        ClusterVerb::AddNode { expires } => add_node(&client, expires, format).await,
        ClusterVerb::RemoveNode { id } => remove_node(&client, id, format).await,
        ClusterVerb::TransferLeader { id } => transfer_leader(&client, id, format).await,
        ClusterVerb::RotateSecret { abort } => rotate_secret(&client, abort, format).await,
        ClusterVerb::Backup(args) => backup::run(&client, &args, format).await,
        ClusterVerb::Restore(args) => restore::run(&args, format),
    }
}

async fn show_status(client: &Client, format: Format) -> anyhow::Result<Ended> {
    let status = client
        .call(pb::StatusRequest {}, |channel, request| async move {
            api!(ClusterClient, channel).status(request).await
        })
        .await?;
    answer(format, &table(&status), &shown(&status));
    if status.leader == 0 {
        note("no node leads now: most of the nodes must be up and reach one another");
    }
    for node in &status.nodes {
        for alarm in &node.alarms {
            note(&format!("alarm on node {}: {alarm}", node.id));
        }
    }
    for node in &status.joining {
        note(&format!(
            "node {} at {} is about to join",
            node.id, node.peer
        ));
    }
    for id in &status.leaving {
        note(&format!("node {id} was removed and is about to leave"));
    }
    if status.rotating {
        note(
            "the cluster secret is being replaced: `cluster rotate-secret` says what it waits for",
        );
    }
    for token in &status.join_tokens {
        note(&format!("a join token is open until {}", token.expires));
    }
    Ok(Ended::Done)
}

async fn add_node(client: &Client, expires: u64, format: Format) -> anyhow::Result<Ended> {
    let message = pb::AddNodeRequest {
        valid_seconds: expires,
    };
    let made = client
        .change(message, |channel, request| async move {
            api!(ClusterClient, channel).add_node(request).await
        })
        .await?;
    let row = [&made.join_token, &made.expires, &made.peer].map(Clone::clone);
    let shown = Made {
        join_token: &made.join_token,
        expires: &made.expires,
        join: &made.peer,
        revision: made.revision,
    };
    let table = Table::of_texts(["join_token", "expires", "join"], vec![row]);
    answer(format, &table, &shown);
    note(&format!(
        "the token is shown this once and lets one node in: mode-envoy serve --data-dir DIR --join {} --join-token TOKEN, with \
         the addresses of the new node's listeners",
        made.peer
    ));
    Ok(Ended::Done)
}

async fn remove_node(client: &Client, id: u64, format: Format) -> anyhow::Result<Ended> {
    let removed =
        client
            .change(
                pb::RemoveNodeRequest { id },
                |channel, request| async move {
                    api!(ClusterClient, channel).remove_node(request).await
                },
            )
            .await?;
    let pb::RemoveNodeResponse { revision, done } = removed;
    if format == Format::Table {
        data(&format!("node {id} removed\nrevision {revision}\n"));
    } else {
        let row = [id.to_string(), revision.to_string(), done.to_string()];
        let table = Table::of_texts(["id", "revision", "done"], vec![row]);
        answer(format, &table, &Removed { id, revision, done });
    }
    if !done {
        note("the membership still has it; `cluster status` shows when it no longer does");
    }
    Ok(Ended::Done)
}

async fn transfer_leader(client: &Client, id: u64, format: Format) -> anyhow::Result<Ended> {
    let message = pb::TransferLeaderRequest { id };
    let moved = client
        .call(message, |channel, request| async move {
            api!(ClusterClient, channel).transfer_leader(request).await
        })
        .await?;
    let leader = moved.leader;
    if format == Format::Table {
        data(&format!("node {leader} leads\n"));
    } else {
        let table = Table::of_texts(["leader"], vec![[leader.to_string()]]);
        answer(format, &table, &Leads { leader });
    }
    Ok(Ended::Done)
}

async fn rotate_secret(client: &Client, abort: bool, format: Format) -> anyhow::Result<Ended> {
    let message = pb::RotateSecretRequest { abort };
    let rotated = client
        .change(message, |channel, request| async move {
            api!(ClusterClient, channel).rotate_secret(request).await
        })
        .await?;
    let shown = Rotated {
        revision: rotated.revision,
        done: rotated.done,
        waiting: &rotated.waiting,
    };
    let waiting: Vec<_> = rotated.waiting.iter().map(u64::to_string).collect();
    let waiting = waiting.join(",");
    let row = [
        rotated.revision.to_string(),
        rotated.done.to_string(),
        waiting.clone(),
    ];
    let table = Table::of_texts(["revision", "done", "waiting"], vec![row]);
    answer(format, &table, &shown);
    note(&match (rotated.done, abort) {
        (true, false) => "every member has the new secret, in DIR/cluster.secret, and the old one is nothing any more; DIR/admin.token \
                          is new. Keep a copy of the secret for the backups from now on"
            .to_owned(),
        (true, true) => "the old secret stays in force".to_owned(),
        (false, _) => format!(
            "not yet done: node {waiting} has not switched. It goes on by itself; the old secret is trusted until then. Start what \
             is down, or remove it; the same command again waits"
        ),
    });
    Ok(Ended::Done)
}

/// A duration in whole seconds, of which there is one at least.
fn validity(text: &str) -> Result<u64, String> {
    match parse_duration(text)? / 1_000 {
        0 => Err("a join token is valid for one second at least".to_owned()),
        seconds => Ok(seconds),
    }
}

fn shown(status: &pb::StatusResponse) -> Shown<'_> {
    Shown {
        cluster_id: &status.cluster_id,
        leader: Some(status.leader).filter(|id| *id != 0),
        revision: status.revision,
        nodes: status.nodes.iter().map(shown_node).collect(),
        joining: status.joining.iter().map(shown_joining).collect(),
        leaving: &status.leaving,
        join_tokens: status.join_tokens.iter().map(shown_token).collect(),
    }
}

fn shown_joining(node: &pb::JoiningNode) -> ShownJoining<'_> {
    ShownJoining {
        id: node.id,
        peer: &node.peer,
    }
}

fn shown_token(token: &pb::JoinToken) -> ShownToken<'_> {
    ShownToken {
        expires: &token.expires,
    }
}

fn shown_node(node: &pb::Node) -> ShownNode<'_> {
    ShownNode {
        id: node.id,
        role: &node.role,
        reachable: node.reachable,
        applied_index: node.applied_index,
        revision: node.revision,
        gateway: &node.gateway,
        admin: &node.admin,
        peer: &node.peer,
        version: &node.version,
        alarms: &node.alarms,
    }
}

fn table(status: &pb::StatusResponse) -> Table {
    let row = |node: &pb::Node| {
        [
            node.id.to_string(),
            node.role.clone(),
            if node.reachable { "yes" } else { "no" }.to_owned(),
            node.applied_index.to_string(),
            node.revision.to_string(),
            node.gateway.clone(),
            node.admin.clone(),
            node.peer.clone(),
            node.version.clone(),
        ]
    };
    let head = [
        "id",
        "role",
        "reachable",
        "applied_index",
        "revision",
        "gateway",
        "admin",
        "peer",
        "version",
    ];
    Table::of_texts(head, status.nodes.iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::super::output::render;
    use super::*;

    fn value(status: &pb::StatusResponse) -> serde_json::Value {
        serde_json::from_str(&render(Format::Json, &Table::default(), &shown(status))).unwrap()
    }

    #[test]
    fn the_status_has_the_fields_that_scripts_read() {
        let node = pb::Node {
            id: 1,
            role: "leader".to_owned(),
            reachable: true,
            applied_index: 9,
            revision: 3,
            gateway: "127.0.0.1:8080".to_owned(),
            admin: "127.0.0.1:7070".to_owned(),
            peer: "127.0.0.1:7071".to_owned(),
            version: "0.1.0".to_owned(),
            alarms: vec!["the disk is nearly full".to_owned()],
        };
        let mut status = pb::StatusResponse {
            cluster_id: "ab".to_owned(),
            leader: 1,
            revision: 3,
            nodes: vec![node],
            joining: vec![pb::JoiningNode {
                id: 4,
                peer: "127.0.0.4:7071".to_owned(),
            }],
            leaving: vec![3],
            join_tokens: vec![pb::JoinToken {
                expires: "2026-01-01T00:00:00Z".to_owned(),
            }],
            rotating: false,
        };
        assert_eq!(
            value(&status),
            serde_json::json!({"cluster_id": "ab", "leader": 1, "revision": 3, "nodes": [{
                "id": 1, "role": "leader", "reachable": true, "applied_index": 9, "revision": 3,
                "gateway": "127.0.0.1:8080", "admin": "127.0.0.1:7070", "peer": "127.0.0.1:7071", "version": "0.1.0",
                "alarms": ["the disk is nearly full"]
            }], "joining": [{"id": 4, "peer": "127.0.0.4:7071"}], "leaving": [3],
            "join_tokens": [{"expires": "2026-01-01T00:00:00Z"}]})
        );
        status.leader = 0;
        assert_eq!(value(&status)["leader"], serde_json::Value::Null);
    }
}
