//! Checkpoints between members: who gets one, what is kept of the log, and what is done about damage.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use mode_envoy_model::batch::Outcome;
use mode_envoy_proto::peer::v1 as wire;
use mode_envoy_raft::StartError;
use mode_envoy_raft::channels::{MAX_MESSAGE_BYTES, PeerChannels};
use mode_envoy_raft::identity::Identity;
use wire::install_snapshot_request::Kind as Sent;
use wire::install_snapshot_response::Kind as Answer;

use super::rig::{self, LONG, Node, TestCluster, batch, found, put, register, within};
use mode_envoy_raft::Caller;

const EVERY: u64 = 8;

fn cluster(size: u64) -> TestCluster {
    let mut cluster = TestCluster::new(size);
    cluster.checkpoint_every = EVERY;
    cluster.log_keep = 0;
    cluster
}

/// Writes until a node has let go of its log beyond an index, so that whoever stands there lacks an entry; the number of
/// tenants then.
async fn fill(node: &Node, index: u64, mut number: u64) -> u64 {
    let deadline = number + 400;
    while node.log_first_index() <= index + 1 {
        assert!(number < deadline, "the log is never purged");
        put(node, &format!("t{number}")).await.unwrap();
        number += 1;
    }
    number
}

fn manifests(dir: &Path) -> Vec<PathBuf> {
    let entries = dir.join("checkpoint").read_dir().unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "manifest"));
    paths.sort();
    paths
}

fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[40] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

fn same_state(one: &Node, other: &Node) -> bool {
    let (one, other) = (one.read(Clone::clone), other.read(Clone::clone));
    one == other
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_away_for_long_gets_a_snapshot_and_next_time_only_what_changed() {
    let mut cluster = cluster(3);
    let nodes = cluster.start_all().await;
    let id = nodes[0].cluster_id();
    let founding = found(id);
    nodes[0]
        .propose(founding, &Caller::node(), LONG)
        .await
        .unwrap();
    let incarnation = nodes[0].register(register(1), LONG).await.unwrap();
    let counted = nodes[0].count(batch(1, incarnation, 1), LONG).await;
    assert_eq!(counted.unwrap(), Outcome::Counted);
    let leader = rig::leader_of(&nodes[0]).await;
    let away = nodes.iter().map(Node::node_id).find(|id| *id != leader);
    let away = away.unwrap();
    drop(nodes);
    let leader = cluster.node(leader);

    let (mut number, mut chunks) = (0, Vec::new());
    for times in 1..=2 {
        let gone = cluster.node(away);
        let index = gone.applied_index();
        drop(gone);
        cluster.stop(away).await;
        number = fill(&leader, index, number).await;

        let returned = cluster.start(away).await;
        returned.read_barrier(LONG).await.unwrap();
        assert!(same_state(&leader, &returned));
        // The leader goes on with its log when it has heard that the snapshot is installed, and has counted it.
        let next = put(&leader, &format!("after{times}")).await.unwrap();
        returned.wait_applied(next.index, LONG).await.unwrap();
        let (sent, received) = (leader.checkpoint_stats(), returned.checkpoint_stats());
        assert_eq!((sent.sent, received.received), (times, 1), "{sent:?}");
        chunks.push(sent.chunks_sent);
        assert!(received.bytes_received > 0 && received.index > index);
        assert!(returned.log_first_index() > index);
    }
    let (first, second) = (chunks[0], chunks[1] - chunks[0]);
    assert!(second < first, "{first} chunks, then {second}");
    assert!(leader.checkpoint_stats().chunks_skipped > 0);
    put(&leader, "after").await.unwrap();
    let returned = cluster.node(away);
    returned.read_barrier(LONG).await.unwrap();
    assert!(returned.catalog().tenant("after").is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_received_checkpoint_is_what_the_node_starts_from_and_its_damage_is_told() {
    let mut cluster = cluster(3);
    let nodes = cluster.start_all().await;
    let leader = rig::leader_of(&nodes[0]).await;
    let away = nodes.iter().map(Node::node_id).find(|id| *id != leader);
    let away = away.unwrap();
    let index = cluster.node(away).applied_index();
    drop(nodes);
    let leader = cluster.node(leader);
    cluster.stop(away).await;
    fill(&leader, index, 0).await;
    let returned = cluster.start(away).await;
    returned.read_barrier(LONG).await.unwrap();
    // What comes by the log comes after the snapshot was answered, and so counted.
    let next = put(&leader, "next").await.unwrap();
    returned.wait_applied(next.index, LONG).await.unwrap();
    assert_eq!(returned.checkpoint_stats().received, 1);
    drop(returned);
    cluster.stop(away).await;
    let again = cluster.start(away).await;
    again.read_barrier(LONG).await.unwrap();
    assert!(same_state(&leader, &again));
    drop(again);
    cluster.stop(away).await;

    let dir = cluster.dir(away);
    for manifest in manifests(&dir) {
        damage(&manifest);
    }
    let refused = cluster.try_start(away).await;
    let told = refused.unwrap_err().to_string();
    assert!(told.contains("new node id"), "{told}");
    // With no file left at all, the gap is seen.
    for manifest in manifests(&dir) {
        std::fs::remove_file(manifest).unwrap();
    }
    let refused = cluster.try_start(away).await;
    let Err(StartError::CheckpointLost { checkpoint: 0, .. }) = refused else {
        panic!("{refused:?}")
    };
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_reaches_back_to_the_older_checkpoint_so_the_newest_may_be_damaged() {
    let mut cluster = cluster(1);
    let node = cluster.start(1).await;
    let number = fill(&node, 3 * EVERY, 0).await;
    let index = node.read_barrier(LONG).await.unwrap();
    let before = node.read(Clone::clone);
    drop(node);
    cluster.stop(1).await;

    let dir = cluster.dir(1);
    // Three where the end came between naming the newest and removing the oldest.
    let kept = manifests(&dir);
    assert!(kept.len() >= 2, "{kept:?}");
    damage(&kept[kept.len() - 1]);
    let node = cluster.start(1).await;
    node.wait_applied(index, LONG).await.unwrap();
    node.read_barrier(LONG).await.unwrap();
    assert!(node.read(|state| *state == before));
    // It goes on: two intact checkpoints, and the log is purged again.
    fill(&node, node.applied_index(), number).await;
    drop(node);
    cluster.stop(1).await;

    for manifest in manifests(&dir) {
        damage(&manifest);
    }
    let refused = cluster.try_start(1).await;
    let told = refused.unwrap_err().to_string();
    assert!(
        told.contains("damaged") && told.contains("new node id"),
        "{told}"
    );
}

/// What node 1 answers to messages from whoever the identity says.
async fn answers(
    cluster: &TestCluster,
    from: u64,
    kinds: Vec<Sent>,
) -> Result<Answer, tonic::Status> {
    let id = cluster.node(1).cluster_id();
    let identity = Identity::new(cluster.secret(), from, Some(id), None).unwrap();
    let channel = PeerChannels::new(identity).channel(1, cluster.address(1));
    let mut client =
        wire::raft_client::RaftClient::new(channel).max_encoding_message_size(MAX_MESSAGE_BYTES);
    let messages = kinds
        .into_iter()
        .map(|kind| wire::InstallSnapshotRequest { kind: Some(kind) });
    let stream = tokio_stream::iter(messages.collect::<Vec<_>>());
    let mut answers = within(client.install_snapshot(stream)).await?.into_inner();
    let answer = within(answers.message()).await?.unwrap();
    Ok(answer.kind.unwrap())
}

/// An offer of node 2 to node 1 that would be taken.
fn offer(cluster: &TestCluster, meta: &[u8]) -> wire::SnapshotOffer {
    wire::SnapshotOffer {
        envelope: Some(wire::Envelope {
            cluster_id: cluster.node(1).cluster_id().to_vec(),
            from: 2,
            to: 1,
        }),
        ballot: Some(wire::Ballot {
            term: 1_000,
            node: 2,
            committed: true,
        }),
        meta: meta.to_vec(),
        chunks: vec![wire::SnapshotChunk {
            name: "catalog-00000".to_owned(),
            bytes: 5,
            hash: vec![7; 32],
        }],
        format_version: 1,
    }
}

fn meta(index: u64, cluster_id: [u8; 16]) -> Vec<u8> {
    use prost::Message as _;
    let membership = r#"{"log_id":null,"membership":{"configs":[[1,2]],"nodes":{"1":{"peer":"a"},"2":{"peer":"b"}}}}"#;
    mode_envoy_proto::log::v1::CheckpointMeta {
        applied_term: 900,
        applied_node: 2,
        applied_index: index,
        has_applied: true,
        membership: membership.as_bytes().to_vec(),
        format_version: 1,
        founded: Some(mode_envoy_proto::log::v1::Founded {
            cluster_id: cluster_id.to_vec(),
            wrapped_key: vec![1; 40],
            generation: 0,
        }),
        ..Default::default()
    }
    .encode_to_vec()
}

fn piece() -> Sent {
    let data = b"01234";
    Sent::Piece(wire::SnapshotPiece {
        chunk: 0,
        offset: 0,
        data: data.to_vec().into(),
        crc32c: crc32c::crc32c(data),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offer_is_judged_by_who_makes_it_and_what_it_claims() {
    let mut cluster = TestCluster::new(1);
    let node = cluster.start(1).await;
    put(&node, "acme").await.unwrap();
    let id = node.cluster_id();
    let far = meta(5_000, id);
    let changed = |change: fn(&mut wire::SnapshotOffer)| {
        let mut offer = offer(&cluster, &far);
        change(&mut offer);
        vec![Sent::Offer(offer)]
    };
    let sound = Sent::Offer(offer(&cluster, &far));
    for (from, sent, told) in [
        (2, vec![piece()], "begins with its offer"),
        (3, vec![sound.clone()], "certificate is of node 3"),
        (2, changed(|o| o.envelope = None), "no envelope"),
        (2, changed(|o| o.ballot = None), "no ballot"),
        (
            2,
            changed(|o| o.ballot.as_mut().unwrap().node = 1),
            "without leading",
        ),
        (
            2,
            changed(|o| o.ballot.as_mut().unwrap().committed = false),
            "without leading",
        ),
        (2, changed(|o| o.format_version = 2), "format 2"),
        (2, changed(|o| o.meta = vec![0xff]), "not a valid message"),
        (2, changed(|o| o.chunks[0].bytes = u64::MAX), "are allowed"),
        (2, changed(|o| o.chunks[0].hash = vec![1]), "32 bytes"),
        (
            2,
            changed(|o| o.chunks.push(o.chunks[0].clone())),
            "occurs twice",
        ),
        (
            2,
            vec![Sent::Offer(offer(&cluster, &meta(5_000, [9; 16])))],
            "another cluster",
        ),
        // Further back than what is applied here, and of a later term: another history.
        (
            2,
            vec![Sent::Offer(offer(&cluster, &meta(1, id)))],
            "contradicts",
        ),
    ] {
        let refused = answers(&cluster, from, sent).await.unwrap_err();
        assert!(refused.message().contains(told), "{told}: {refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_snapshot_counts_before_all_of_it_is_there() {
    let mut cluster = TestCluster::new(1);
    let node = cluster.start(1).await;
    put(&node, "acme").await.unwrap();
    let far = meta(5_000, node.cluster_id());
    let sound = Sent::Offer(offer(&cluster, &far));
    let mut stranger = offer(&cluster, &far);
    stranger.envelope.as_mut().unwrap().from = 9;
    stranger.ballot.as_mut().unwrap().node = 9;
    let refused = answers(&cluster, 9, vec![Sent::Offer(stranger)]).await;
    let refused = refused.unwrap_err();
    assert!(refused.message().contains("no member"), "{refused}");

    // An earlier term is told the later one, and nothing of it is taken.
    let mut late = offer(&cluster, &far);
    late.ballot.as_mut().unwrap().term = 0;
    let Answer::Ballot(ballot) = answers(&cluster, 2, vec![Sent::Offer(late)]).await.unwrap()
    else {
        panic!("it was wanted")
    };
    assert_eq!((ballot.node, ballot.committed), (1, true));

    // A sound offer is answered with what is lacking. What follows it is not what was announced.
    let sent = vec![sound, piece()];
    let wanted = answers(&cluster, 2, sent).await.unwrap();
    let Answer::Wanted(wanted) = wanted else {
        panic!("{wanted:?}")
    };
    assert_eq!(wanted.chunks, [0]);
    let catalog = node.catalog();
    assert!(catalog.tenant("acme").is_some());
    assert_eq!(node.checkpoint_stats().received, 0);
    put(&node, "other").await.unwrap();
}
