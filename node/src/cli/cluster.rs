//! `cluster`: the state of the cluster and of each node.

use clap::Subcommand;
use mode_envoy_proto::admin::v1 as pb;
use mode_envoy_proto::admin::v1::cluster_client::ClusterClient;
use serde::Serialize;

use super::Ended;
use super::client::{Client, api};
use super::output::{Format, Table, answer, note};

/// The cluster itself.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(super) enum ClusterVerb {
    /// Who leads, and how far each node is
    Status,
}

#[derive(Serialize)]
struct Shown<'a> {
    cluster_id: &'a str,
    leader: Option<u64>,
    revision: u64,
    nodes: Vec<ShownNode<'a>>,
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

pub(super) async fn run(
    client: Client,
    verb: ClusterVerb,
    format: Format,
) -> anyhow::Result<Ended> {
    let ClusterVerb::Status = verb;
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
    Ok(Ended::Done)
}

fn shown(status: &pb::StatusResponse) -> Shown<'_> {
    Shown {
        cluster_id: &status.cluster_id,
        leader: Some(status.leader).filter(|id| *id != 0),
        revision: status.revision,
        nodes: status.nodes.iter().map(shown_node).collect(),
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
        };
        assert_eq!(
            value(&status),
            serde_json::json!({"cluster_id": "ab", "leader": 1, "revision": 3, "nodes": [{
                "id": 1, "role": "leader", "reachable": true, "applied_index": 9, "revision": 3,
                "gateway": "127.0.0.1:8080", "admin": "127.0.0.1:7070", "peer": "127.0.0.1:7071", "version": "0.1.0",
                "alarms": ["the disk is nearly full"]
            }]})
        );
        status.leader = 0;
        assert_eq!(value(&status)["leader"], serde_json::Value::Null);
    }
}
