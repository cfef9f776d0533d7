//! Processes that stand still, disks that are full and descriptors that are used up.
//!
//! The account of [`Scene::account`] must hold after each. These tests need `ip`, `unshare` and `mount`, and root or
//! unprivileged user namespaces.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mode_envoy_cluster_tests::http::{self, Answer, CHAT};
use mode_envoy_cluster_tests::netns::sandbox;
use mode_envoy_cluster_tests::netns::scene::{Scene, lasting, tell};
use mode_envoy_cluster_tests::netns::small_disk::SmallDisk;
use mode_envoy_cluster_tests::netns::work::Person;
use mode_envoy_cluster_tests::upstream::Fault;
use mode_envoy_cluster_tests::{usage, wait};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const NODE: &str = env!("CARGO_BIN_EXE_mode-envoy-under-test");

/// An election among those that run, on a busy machine.
const ELECTED: Duration = Duration::from_secs(10);
/// Longer than an election takes.
const STILL: Duration = Duration::from_secs(5);

/// Bytes of a spool that is some small segments long, and holds the beginnings of so many calls.
const SMALL_SPOOL: &str = "1064960";
/// Calls that are open at once when a node dies.
const OPEN: usize = 1_400;
/// Until they are, on a busy machine.
const OPENED: Duration = Duration::from_mins(1);
/// Open files that a node may have at most.
const DESCRIPTORS: usize = 400;
/// Calls at once, more than such a node takes.
const BURST: usize = 150;
/// Large changes, together more than a segment of the log.
const ROUNDS: usize = 40;
/// Objects of one large change.
const MODELS: usize = 300;

#[test]
fn a_node_that_stood_still_never_answers_a_read_with_what_it_knew() -> Result<()> {
    let name = "a_node_that_stood_still_never_answers_a_read_with_what_it_knew";
    sandbox::run(name, async || {
        let mut scene = Scene::start(NODE, 3).await?;
        // Whoever leads stands still, then somebody who follows.
        for leads in [true, false] {
            let ids = scene.leader_first().await?;
            let (still, moving) = if leads {
                (ids[0], ids[1])
            } else {
                (ids[2], ids[1])
            };
            let work = scene.work(&[moving]);
            scene.cluster.node(still).freeze()?;
            scene.change_through(moving, ELECTED).await?;
            // These reads wait in its sockets, from after the change on, and are the first thing that it sees.
            let person = scene.person(still);
            let asks = async {
                let (a, b, c) = tokio::join!(person.read(), person.read(), person.read());
                Ok::<_, anyhow::Error>([a?, b?, c?])
            };
            let thaws = async {
                lasting(STILL).await;
                scene.cluster.node(still).thaw()
            };
            let (answered, thawed) = tokio::join!(asks, thaws);
            thawed?;
            tell(&format!("reads of node {still} answered: {:?}", answered?))?;
            scene.change_through(still, ELECTED).await?;
            work.end().await?;
        }
        scene.account().await?;
        scene.finish().await
    })
}

#[test]
fn a_leader_whose_disk_is_full_says_so_and_ends_and_comes_back_when_there_is_room() -> Result<()> {
    let name = "a_leader_whose_disk_is_full_says_so_and_ends_and_comes_back_when_there_is_room";
    sandbox::run(name, async || {
        let mut disk = None;
        let full = 3;
        let mut scene = Scene::start_with(NODE, 3, |cluster| {
            let launch = &mut cluster.node_mut(full).launch;
            let spools = ["--usage-spool-bytes", "2097152"].map(str::to_owned);
            launch.more.extend(spools);
            disk = Some(SmallDisk::mount(&launch.data_dir, 64 << 20)?);
            Ok(())
        })
        .await?;
        let disk = disk.context("mounted above")?;
        let mut before = scene.leader_first().await?;
        if before[0] != full {
            scene
                .cluster
                .node(1)
                .ok("cluster transfer-leader 3")
                .await?;
            before = scene.leader_first().await?;
        }
        ensure!(before[0] == full, "node {full} does not lead: {before:?}");
        call(&scene, full, 20).await?;

        let work = scene.work(&[1, 2]);
        disk.fill()?;
        call(&scene, full, 20).await?;
        let person = scene.person(1);
        let code = until_it_ends(&mut scene, full, &person).await?;
        let said = scene.cluster.node(full).log();
        told_of_full_disk(&scene, full, code, &said)?;
        scene.change_through(1, ELECTED).await?;
        scene.change_through(2, ELECTED).await?;
        // Too early: it says so again.
        let node = scene.cluster.node_mut(full);
        node.start()?;
        let code = node.wait_end().await?;
        let again = node.log().split_off(said.len());
        told_of_full_disk(&scene, full, code, &again)?;

        disk.free()?;
        scene.cluster.node_mut(full).start()?;
        scene.cluster.node_mut(full).wait_ready().await?;
        scene.change_through(full, ELECTED).await?;
        call(&scene, full, 20).await?;
        work.end().await?;
        scene.account().await?;
        // The node keeps its own view of it to its end; the directory can then go with the others.
        drop(disk);
        scene.finish().await
    })
}

#[test]
fn a_node_that_starts_on_a_full_disk_serves_and_records_the_ends_of_calls_when_there_is_room()
-> Result<()> {
    let name =
        "a_node_that_starts_on_a_full_disk_serves_and_records_the_ends_of_calls_when_there_is_room";
    sandbox::run(name, async || {
        let (mut disk, full) = (None, 3);
        let mut scene = Scene::start_with(NODE, 3, |cluster| {
            let launch = &mut cluster.node_mut(full).launch;
            let spools = ["--usage-spool-bytes", SMALL_SPOOL].map(str::to_owned);
            launch.more.extend(spools);
            launch.workers = 1;
            disk = Some(SmallDisk::mount(&launch.data_dir, 64 << 20)?);
            Ok(())
        })
        .await?;
        let disk = disk.context("mounted above")?;
        let mut calls = held_open(&scene, full).await?;
        scene.cluster.node_mut(full).kill().await?;
        disk.fill()?;
        calls.shutdown().await;
        scene.upstream().release();

        let node = scene.cluster.node_mut(full);
        node.start()?;
        node.wait_ready().await?;
        let node = scene.cluster.node(full);
        let said = node.log();
        for told in ["cannot be recorded", "make room on the disk"] {
            ensure!(said.contains(told), "it does not say {told:?}: {said}");
        }
        wait::until("the alarm", ELECTED, async || {
            let status = node.status().await?;
            let told = status["nodes"].to_string();
            ensure!(
                told.contains("the disk of the usage spool of worker 0 is full"),
                "{told}"
            );
            Ok(())
        })
        .await?;
        call(&scene, full, 20).await?;
        scene.change_through(full, ELECTED).await?;

        disk.free()?;
        let (all, open) = (u64::try_from(OPEN + 20)?, u64::try_from(OPEN)?);
        let question = ["--filter", "model=remote", "--linearizable"];
        wait::until("every call to be counted", OPENED, async || {
            let row = usage::row(&scene.cluster.node(1).usage(&question).await?)?;
            ensure!((row.calls, row.presumed_calls) == (all, open), "{row:?}");
            Ok(())
        })
        .await?;
        scene.cluster.node_mut(full).kill().await?;
        scene.cluster.node_mut(full).start()?;
        scene.cluster.node_mut(full).wait_ready().await?;
        let row = usage::row(&scene.cluster.node(full).usage(&question).await?)?;
        ensure!((row.calls, row.presumed_calls) == (all, open), "{row:?}");
        drop(disk);
        scene.finish().await
    })
}

#[test]
fn clients_that_take_all_descriptors_are_turned_away_and_the_node_goes_on() -> Result<()> {
    let name = "clients_that_take_all_descriptors_are_turned_away_and_the_node_goes_on";
    sandbox::run(name, async || {
        let poor = 2;
        let mut scene = Scene::start_with(NODE, 3, |cluster| {
            let launch = &mut cluster.node_mut(poor).launch;
            let limit = format!("--nofile={DESCRIPTORS}:{DESCRIPTORS}");
            launch.starter.splice(0..0, ["prlimit".to_owned(), limit]);
            let often = ["--checkpoint-every", "10"].map(str::to_owned);
            launch.more.extend(often);
            Ok(())
        })
        .await?;
        call(&scene, poor, 20).await?;
        let work = scene.work(&[1, 3]);

        // Clients that say nothing, more of them than the node has descriptors.
        let gateway = scene.cluster.node(poor).gateway().to_owned();
        let mut idle = Vec::new();
        for _ in 0..2 * DESCRIPTORS {
            idle.push(TcpStream::connect(&gateway).await?);
        }
        let mut last = TcpStream::connect(&gateway).await?;
        let mut answer = String::new();
        last.read_to_string(&mut answer).await?;
        for told in ["HTTP/1.1 503 ", "x-mode-envoy-error: overloaded"] {
            ensure!(answer.contains(told), "{told:?} is not in {answer:?}");
        }

        // The log needs files of its own all the while: segments are begun, checkpoints are written, and it is read.
        let person = scene.person(1);
        for round in 0..ROUNDS {
            churn(&person, round).await?;
        }
        scene.change_through(poor, ELECTED).await?;
        ensure!(scene.person(poor).read().await?, "a read was refused");
        let said = scene.cluster.node(poor).log();
        for told in [
            "few open files are allowed",
            "clients are answered `overloaded`",
        ] {
            ensure!(said.contains(told), "it does not say {told:?}: {said}");
        }
        drop(idle);

        let (node, key) = (scene.cluster.node(poor), scene.key());
        wait::until("the gateway to serve again", ELECTED, async || {
            let body = http::chat("remote", "after");
            http::post(node.gateway(), CHAT, key, &body)
                .await?
                .expect(200)
        })
        .await?;
        work.end().await?;
        burst(&scene, poor).await?;
        scene.account().await?;
        scene.finish().await
    })
}

// === helpers ===

/// Calls a node's gateway, over a connection each.
async fn call(scene: &Scene, id: usize, calls: usize) -> Result<()> {
    for number in 0..calls {
        let body = http::chat("remote", &format!("call {number} on node {id}"));
        let gateway = scene.cluster.node(id).gateway();
        http::post(gateway, CHAT, scene.key(), &body)
            .await?
            .expect(200)?;
    }
    Ok(())
}

/// Calls that are open on a node: so many that their ends take more than the segments which its spool has.
async fn held_open(scene: &Scene, id: usize) -> Result<JoinSet<Result<Answer>>> {
    scene.upstream().fault("up-remote", Fault::Held);
    let mut calls = JoinSet::new();
    for number in 0..OPEN {
        let (gateway, key) = (
            scene.cluster.node(id).gateway().to_owned(),
            scene.key().to_owned(),
        );
        let body = http::chat("remote", &format!("open {number}"));
        calls.spawn(async move { http::post(&gateway, CHAT, &key, &body).await });
    }
    wait::until("the calls to be open", OPENED, async || {
        let seen = scene.upstream().seen().len();
        ensure!(seen == OPEN, "{seen} of {OPEN} are");
        Ok(())
    })
    .await?;
    Ok(calls)
}

/// Calls that all wait for the provider at once: those that are let in have a connection to it and are answered, the others are turned
/// away.
async fn burst(scene: &Scene, id: usize) -> Result<()> {
    scene.upstream().fault("up-remote", Fault::Held);
    let mut calls = JoinSet::new();
    for number in 0..BURST {
        let (gateway, key) = (
            scene.cluster.node(id).gateway().to_owned(),
            scene.key().to_owned(),
        );
        let body = http::chat("remote", &format!("burst {number}"));
        calls.spawn(async move { http::post(&gateway, CHAT, &key, &body).await });
    }
    lasting(STILL).await;
    scene.upstream().release();
    let (mut answered, mut turned_away) = (0, 0);
    while let Some(call) = calls.join_next().await {
        match call? {
            Ok(answer) if answer.status == 200 => answered += 1,
            Ok(answer) => {
                answer.expect(503)?;
                turned_away += 1;
            }
            // It was closed before the request was sent: a client that is turned away need not notice in time.
            Err(_) => turned_away += 1,
        }
    }
    tell(&format!(
        "of {BURST} calls at once {answered} were answered"
    ))?;
    ensure!(answered > 20, "only {answered} calls were answered");
    ensure!(
        turned_away > 20,
        "only {turned_away} calls were turned away: the limit is not low"
    );
    Ok(())
}

/// What an operator needs to know of a node that ended: the file, why, what to do, and what is at stake.
fn told_of_full_disk(scene: &Scene, id: usize, code: Option<i32>, said: &str) -> Result<()> {
    ensure!(code == Some(1), "the node ended with {code:?}");
    let dir = scene.cluster.node(id).launch.data_dir.to_string_lossy();
    let last = said.lines().last().unwrap_or_default();
    let stake = "nothing that was acknowledged is lost";
    for told in ["No space left", &*dir, "make room", stake] {
        ensure!(last.contains(told), "its last words lack {told:?}: {said}");
    }
    Ok(())
}

/// Asks for a change that takes some ten kilobytes of the log.
async fn churn(person: &Person, round: usize) -> Result<bool> {
    let mut document = "models:\n".to_owned();
    for model in 0..MODELS {
        let _ = writeln!(
            document,
            "  - {{name: m{model:03}, targets: [{{provider: up, model: u{model:03}-{round}}}]}}"
        );
    }
    person.apply(&document).await
}

/// Makes changes until a node has ended; its exit code.
async fn until_it_ends(scene: &mut Scene, id: usize, person: &Person) -> Result<Option<i32>> {
    let churning = async {
        for round in 0.. {
            churn(person, round).await?;
        }
        Ok(())
    };
    tokio::select! {
        code = scene.cluster.node_mut(id).wait_end() => code,
        stopped = churning => stopped.and_then(|()| bail!("no more changes")),
    }
}
