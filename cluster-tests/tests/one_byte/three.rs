//! The same with three nodes, all of which were stopped: what one has lost, the others give it again, or it refuses.
//!
//! The directory is of a node that ended without a quorum, while the secret was being replaced: its usage is not in the log, and
//! it holds two secrets.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mode_envoy_cluster_tests::cluster::{Cluster, Node};
use mode_envoy_cluster_tests::http::{self, CHAT};
use mode_envoy_cluster_tests::load::{self, Rng};
use mode_envoy_cluster_tests::one_byte::{Flip, Image, Kind};
use mode_envoy_cluster_tests::upstream::Upstream;
use mode_envoy_cluster_tests::wait;

use crate::{NODE, says_what_to_do};

/// Until a rotation has ended.
const SOON: Duration = Duration::from_secs(30);
/// Calls of the node that has no quorum.
const CALLS: u64 = 20;
/// What is damaged, once each.
const KINDS: [Kind; 6] = [
    Kind::Identity,
    Kind::SecretAside,
    Kind::Log,
    Kind::Chunk,
    Kind::Spool,
    Kind::Calls,
];

/// What a user sees of a node.
#[derive(Debug, PartialEq)]
struct Printed {
    export: String,
    usage: String,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_with_a_flipped_byte_is_given_what_it_lacks_or_refuses_and_the_others_go_on()
-> Result<()> {
    let mut cluster = Cluster::plan(NODE, 3)?;
    for node in cluster.nodes_mut() {
        let often = ["--checkpoint-every", "5", "--usage-spool-bytes", "2097152"];
        node.launch.more = often.map(str::to_owned).to_vec();
    }
    cluster.start_all()?;
    cluster.wait_ready().await?;
    let upstream = Upstream::start().await?;
    cluster.apply(&upstream.document(&["remote"])).await?;
    let key = cluster.key("acme", "mobile-app", "first").await?;
    for number in 0..12 {
        let document = format!("tenants: [{{name: t{number}}}]");
        cluster.apply(&document).await?;
    }
    cluster.node_mut(3).term().await?;
    let rotated = cluster.node(1).cli(&["cluster", "rotate-secret"]).await?;
    ensure!(
        format!("{rotated}").contains('3'),
        "it waits for node 3: {rotated}"
    );
    cluster.node_mut(2).term().await?;
    for number in 0..CALLS {
        let body = http::chat("remote", &format!("call {number}"));
        let gateway = cluster.node(1).gateway();
        http::post(gateway, CHAT, &key, &body).await?.expect(200)?;
    }
    cluster.node(1).ask_to_end_at_once()?;
    cluster.node_mut(1).wait_end().await?;
    let images: Vec<_> = cluster
        .nodes()
        .iter()
        .map(|node| Image::read(&node.launch.data_dir))
        .collect::<Result<_>>()?;

    let whole = run(&mut cluster, (0, &images), None).await?;
    let before = whole.context("the undamaged ones do not start")?;
    ensure!(
        before.usage.contains(&format!("\"calls\": {CALLS},")),
        "{}",
        before.usage
    );
    let seed = load::seed()?;
    for (round, flip) in chosen(&images[0], seed)?.into_iter().enumerate() {
        let about = || format!("{flip}; the choices are those of seed {seed}");
        let found = run(&mut cluster, (1 + round, &images), Some(&flip)).await;
        match found.with_context(about)? {
            Some(after) => ensure!(after == before, "{}: {after:#?} {before:#?}", about()),
            None => says_what_to_do(&cluster.node(1).log(), &flip).with_context(about)?,
        }
    }
    upstream.check()?;
    cluster.finish().await
}

#[tokio::test]
async fn a_member_whose_kept_secret_is_another_serves_nothing_and_names_the_file() -> Result<()> {
    let mut cluster = Cluster::start(NODE, 3).await?;
    let upstream = Upstream::start().await?;
    cluster.apply(&upstream.document(&["remote"])).await?;
    let key = cluster.key("acme", "mobile-app", "first").await?;
    let rotated = cluster
        .node(1)
        .cli(&["cluster", "rotate-secret", "-o", "json"])
        .await?
        .json()?;
    ensure!(rotated["done"] == true, "{rotated}");
    ensure!(cluster.node_mut(1).term().await? == Some(0), "an end");
    let path = cluster.node(1).launch.data_dir.join("cluster.secret");
    let whole = std::fs::read(&path)?;
    let mut damaged = whole.clone();
    // Another digit, whichever it was.
    damaged[20] = if damaged[20] == b'0' { b'1' } else { b'0' };
    std::fs::write(&path, damaged)?;
    cluster.node_mut(1).start()?;
    let node = cluster.node(1);
    wait::until("it to say so", SOON, async || {
        let answer = http::get(node.admin(), "/readyz", None)
            .await?
            .expect(503)?;
        let told = answer.text();
        ensure!(
            told.contains("cluster.secret") && told.contains("put back"),
            "{told}"
        );
        Ok(())
    })
    .await?;
    let served = http::get(node.gateway(), "/v1/models", Some(&key)).await;
    ensure!(served.is_err(), "it serves");
    cluster.node(2).apply("tenants: [{name: later}]").await?;

    // What it says helps.
    cluster.node_mut(1).kill().await?;
    std::fs::copy(
        cluster.node(2).launch.data_dir.join("cluster.secret"),
        &path,
    )?;
    ensure!(std::fs::read(&path)? == whole, "all have the same");
    cluster.node_mut(1).start()?;
    cluster.wait_ready().await?;
    cluster.node(1).wait_key(&key, 200).await?;
    let export = cluster.node(1).ok("export").await?;
    ensure!(export.contains("later"), "{export}");
    cluster.finish().await
}

/// One flip of each kind.
fn chosen(image: &Image, seed: u64) -> Result<Vec<Flip>> {
    let mut rng = Rng::new(seed);
    let flips = image.flips(4, usize::MAX, &mut rng);
    KINDS
        .iter()
        .map(|kind| {
            let mut of_kind: Vec<_> = flips.iter().filter(|flip| flip.kind == *kind).collect();
            rng.shuffle(&mut of_kind);
            let flip = of_kind.pop().cloned();
            flip.with_context(|| format!("the node has no file of the kind {kind:?}"))
        })
        .collect()
}

/// Starts copies of all three, the first with a flip; what the first prints, `None` where it refuses. The others go on either way.
async fn run(
    cluster: &mut Cluster,
    (round, images): (usize, &[Image]),
    flip: Option<&Flip>,
) -> Result<Option<Printed>> {
    for (index, image) in images.iter().enumerate() {
        let place = cluster.dir().join(format!("copy-{round}-{index}"));
        std::fs::create_dir(&place)?;
        let dir = place.join("data");
        image.write(&dir, flip.filter(|_| index == 0))?;
        let launch = &mut cluster.node_mut(index + 1).launch;
        (launch.data_dir, launch.log) = (dir, place.join("log"));
    }
    cluster.start_all()?;
    for id in [2, 3] {
        cluster.node_mut(id).wait_ready().await?;
    }
    let node = cluster.node_mut(1);
    let ready = node.wait_ready().await;
    if let Err(error) = ready {
        ensure!(!node.is_started(), "{error:#}: {}", node.log());
    }
    let ran = cluster.node(1).is_started();
    // While the secret is replaced the token is another from one moment to the next.
    let found = if ran {
        let printed = wait::until("an answer", SOON, async || printed(cluster.node(1)).await);
        Some(printed.await?)
    } else {
        None
    };
    let document = "tenants: [{name: afterwards}]";
    wait::until("a change", SOON, async || {
        cluster.node(2).apply(document).await
    })
    .await?;
    for node in cluster
        .nodes_mut()
        .iter_mut()
        .filter(|node| node.is_started())
    {
        node.kill().await?;
    }
    Ok(found)
}

async fn printed(node: &Node) -> Result<Printed> {
    let question = ["--group-by", "key,model,status", "--linearizable"];
    let answer = node.usage(&question).await?;
    // Just after a start a node may not have been asked yet, and the answer says so.
    let missing = &answer["missing_nodes"];
    ensure!(missing.as_array().is_some_and(Vec::is_empty), "{missing}");
    let rows = answer["rows"].clone();
    let export = node.ok("export").await?;
    // Its chain holds; how far the rotation has come is another matter.
    node.ok("audit --verify").await?;
    Ok(Printed {
        export,
        usage: format!("{rows:#}"),
    })
}
