//! `audit --verify`: the chain of hashes computed again on this side, from what a node streams.
//!
//! What each node says of its newest record is asked first and the records are read after it, so the records reach at
//! least as far; a node that is behind is compared at its own revision. A node whose history begins elsewhere (it loaded
//! the checkpoint of a version that kept none) has another chain, which is said and not held against it.

use std::collections::BTreeMap;

use anyhow::Context as _;
use mode_envoy_model::history::{NO_RECORD, RecordHash, chain};
use mode_envoy_proto::admin::v1 as pb;
use mode_envoy_proto::admin::v1::audit_client::AuditClient;
use serde::Serialize;

use super::super::Ended;
use super::super::client::{Client, api};
use super::super::output::{Format, Table, answer, data, note};
use crate::secrets::hex;

/// What one node has, beside the chain that was read.
#[derive(Debug, Serialize)]
struct Compared {
    node: u64,
    revision: u64,
    hash: String,
    result: Verdict,
}

/// Whether a node has the same chain.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// It has.
    Same,
    /// It has another record there.
    Different,
    /// Its history begins elsewhere.
    OtherBeginning,
    /// It did not answer.
    Unreachable,
}

#[derive(Serialize)]
struct Shown<'a> {
    verified: bool,
    records: u64,
    since_revision: u64,
    revision: u64,
    hash: String,
    /// The first record whose hash is not what the records say.
    broken_at_revision: Option<u64>,
    nodes: &'a [Compared],
}

/// A chain, as far as it holds.
#[derive(Debug, Default)]
struct Chain {
    since: u64,
    hashes: BTreeMap<u64, RecordHash>,
    broken_at: Option<u64>,
}

// === impl Verdict ===

impl Verdict {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Different => "different",
            Self::OtherBeginning => "begins elsewhere",
            Self::Unreachable => "not reached",
        }
    }
}

// === impl Chain ===

impl Chain {
    /// Adds the next record; `false` where it does not follow.
    fn add(&mut self, record: &pb::AuditRecord) -> bool {
        let (before, expected) = match self.hashes.last_key_value() {
            Some((revision, hash)) => (*hash, revision.checked_add(1)),
            None => (NO_RECORD, Some(record.revision)),
        };
        let hash = chain(&before, record.revision, record.wall_ms, &record.change_set);
        if expected != Some(record.revision) || hash[..] != record.hash[..] {
            self.broken_at = Some(record.revision);
            return false;
        }
        if self.hashes.is_empty() {
            self.since = record.revision;
        }
        self.hashes.insert(record.revision, hash);
        true
    }

    fn head(&self) -> (u64, RecordHash) {
        let last = self.hashes.last_key_value();
        last.map_or((0, NO_RECORD), |(revision, hash)| (*revision, *hash))
    }

    fn compare(&self, head: &pb::Head) -> Verdict {
        if !head.reachable {
            return Verdict::Unreachable;
        }
        if head.since_revision != self.since {
            return Verdict::OtherBeginning;
        }
        match self.hashes.get(&head.revision) {
            Some(hash) if hex(hash) == head.hash => Verdict::Same,
            _ => Verdict::Different,
        }
    }
}

// === free functions ===

pub(super) async fn run(client: Client, local: bool, format: Format) -> anyhow::Result<Ended> {
    let heads = client
        .call(pb::ListHeadsRequest {}, |channel, request| async move {
            api!(AuditClient, channel).list_heads(request).await
        })
        .await?
        .heads;
    let mut records = client
        .call(
            pb::ReadRecordsRequest { local },
            |channel, request| async move { api!(AuditClient, channel).read_records(request).await },
        )
        .await?;
    let mut chain = Chain::default();
    loop {
        let record = records.message().await;
        match record.context("reading the records broke off; nothing is verified")? {
            Some(record) if !chain.add(&record) => break,
            Some(_) => {}
            None => break,
        }
    }
    let compared = |head: &pb::Head| Compared {
        node: head.node,
        revision: head.revision,
        hash: head.hash.clone(),
        result: chain.compare(head),
    };
    let nodes: Vec<_> = heads.iter().map(compared).collect();
    Ok(show(&chain, &nodes, format))
}

fn show(chain: &Chain, nodes: &[Compared], format: Format) -> Ended {
    let differing = nodes.iter().filter(|n| n.result == Verdict::Different);
    let differing: Vec<_> = differing.map(|n| n.node.to_string()).collect();
    let verified = chain.broken_at.is_none() && differing.is_empty();
    let (revision, hash) = chain.head();
    if format == Format::Table {
        data(&text(chain, nodes));
    } else {
        let shown = Shown {
            verified,
            records: u64::try_from(chain.hashes.len()).unwrap_or(u64::MAX),
            since_revision: chain.since,
            revision,
            hash: hex(&hash),
            broken_at_revision: chain.broken_at,
            nodes,
        };
        answer(format, &table(nodes), &shown);
    }
    if let Some(broken) = chain.broken_at {
        note(&format!(
            "error: the record of revision {broken} is not what its hash says, or one before it is missing; the records \
             up to revision {revision} hold. Ask another node (--admin), and replace this one"
        ));
    } else if !differing.is_empty() {
        note(&format!(
            "error: node {} has another history than the one that was read; see `mode-envoy cluster status`",
            differing.join(", ")
        ));
    }
    if verified { Ended::Done } else { Ended::Failed }
}

fn text(chain: &Chain, nodes: &[Compared]) -> String {
    let (revision, hash) = chain.head();
    let mut text = match chain.hashes.len() {
        0 => "no record holds\n".to_owned(),
        1 => format!("1 record holds, revision {revision}, hash {}\n", hex(&hash)),
        count => format!(
            "{count} records hold, revision {} to {revision}, hash {}\n",
            chain.since,
            hex(&hash)
        ),
    };
    for node in nodes {
        let line = match node.result {
            Verdict::Unreachable => format!("node {}: not reached\n", node.node),
            result => format!(
                "node {}: {} at revision {}\n",
                node.node,
                result.as_str(),
                node.revision
            ),
        };
        text.push_str(&line);
    }
    text
}

fn table(nodes: &[Compared]) -> Table {
    let row = |node: &Compared| {
        [
            node.node.to_string(),
            node.revision.to_string(),
            node.hash.clone(),
            node.result.as_str().to_owned(),
        ]
    };
    Table::of_texts(
        ["node", "revision", "hash", "result"],
        nodes.iter().map(row).collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(count: u64) -> Vec<pb::AuditRecord> {
        let mut before = NO_RECORD;
        (1..=count)
            .map(|revision| {
                before = chain(&before, revision, revision * 10, b"set");
                pb::AuditRecord {
                    revision,
                    wall_ms: revision * 10,
                    change_set: b"set".to_vec(),
                    hash: before.to_vec(),
                }
            })
            .collect()
    }

    fn read(records: &[pb::AuditRecord]) -> Chain {
        let mut chain = Chain::default();
        let _ = records.iter().all(|record| chain.add(record));
        chain
    }

    #[test]
    fn the_first_record_that_was_changed_is_named() {
        let sound = records(4);
        assert_eq!(read(&sound).broken_at, None);
        let changes: [fn(&mut pb::AuditRecord); 4] = [
            |r| r.wall_ms += 1,
            |r| r.change_set.push(0),
            |r| r.hash[31] ^= 1,
            |r| r.hash.clear(),
        ];
        for change in changes {
            let mut changed = sound.clone();
            change(&mut changed[2]);
            assert_eq!(read(&changed).broken_at, Some(3));
        }
        let mut missing = sound;
        missing.remove(1);
        assert_eq!(read(&missing).broken_at, Some(3));
    }

    #[test]
    fn each_node_is_compared_at_its_own_revision() {
        let chain = read(&records(3));
        let head = |revision: u64, hash: &RecordHash| pb::Head {
            node: 1,
            reachable: true,
            revision,
            since_revision: 1,
            hash: hex(hash),
        };
        let second = chain.hashes[&2];
        assert_eq!(chain.compare(&head(2, &second)), Verdict::Same);
        assert_eq!(chain.compare(&head(3, &second)), Verdict::Different);
        assert_eq!(chain.compare(&head(9, &second)), Verdict::Different);
        let mut other = head(2, &second);
        other.since_revision = 2;
        assert_eq!(chain.compare(&other), Verdict::OtherBeginning);
        other.reachable = false;
        assert_eq!(chain.compare(&other), Verdict::Unreachable);
    }
}
