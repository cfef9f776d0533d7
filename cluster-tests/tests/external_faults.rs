//! Networks that break, with real processes in namespaces of their own: cut both ways, one way, in two, in three, in a ring,
//! and again and again.
//!
//! Through all of it clients call every gateway that they reach, and no call fails; changes and linearizable reads go through
//! every node, and none is acknowledged that is lost, none answered that is stale. After each the account must hold: see
//! [`Scene::account`]. These tests need `ip` and `unshare`, and root or unprivileged user namespaces.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mode_envoy_cluster_tests::netns::sandbox;
use mode_envoy_cluster_tests::netns::scene::{Scene, lasting, tell};
use mode_envoy_cluster_tests::wait;

const NODE: &str = env!("CARGO_BIN_EXE_mode-envoy-under-test");

/// An election among those that hear one another: 1.4 s of silence, a vote, and a busy machine.
const ELECTED: Duration = Duration::from_secs(10);
/// A connection whose answers do not come is given up after 8 s; then there is silence.
const GIVEN_UP: Duration = Duration::from_secs(20);
/// From the news of a leader to an answer, a process that starts and a busy machine included.
const ANSWERED: Duration = Duration::from_secs(2);
/// Long enough for several elections.
const A_WHILE: Duration = Duration::from_secs(5);

#[test]
fn a_leader_whose_plug_is_pulled_is_replaced_and_follows_when_it_is_back() -> Result<()> {
    let name = "a_leader_whose_plug_is_pulled_is_replaced_and_follows_when_it_is_back";
    sandbox::run(name, async || {
        let mut scene = Scene::start(NODE, 3).await?;
        let ids = scene.leader_first().await?;
        let (leader, others) = (ids[0], &ids[1..]);
        let work = scene.work(others);
        scene.net.pull(leader)?;
        scene.change_through(others[0], ELECTED).await?;
        scene.change_through(others[1], ELECTED).await?;
        lasting(A_WHILE).await;
        scene.net.plug(leader)?;
        scene.change_through(leader, ELECTED).await?;
        let now = scene.leader_first().await?[0];
        ensure!(
            now != leader,
            "node {leader} leads again as soon as it is back"
        );
        work.end().await?;
        scene.account().await?;
        scene.finish().await
    })
}

#[test]
fn a_leader_that_is_not_heard_is_replaced_and_one_that_does_not_hear_as_well() -> Result<()> {
    let name = "a_leader_that_is_not_heard_is_replaced_and_one_that_does_not_hear_as_well";
    sandbox::run(name, async || {
        let mut scene = Scene::start(NODE, 3).await?;
        let work = scene.work(&[1, 2, 3]);

        let ids = scene.leader_first().await?;
        for other in &ids[1..] {
            scene.net.cut(ids[0], *other)?;
        }
        scene.change_through(ids[1], ELECTED).await?;
        scene.change_through(ids[2], ELECTED).await?;
        scene.no_change_through(&ids[..1]).await?;
        scene.net.heal()?;
        scene.change_through(ids[0], ELECTED).await?;

        let ids = scene.leader_first().await?;
        for other in &ids[1..] {
            scene.net.cut(*other, ids[0])?;
        }
        scene.no_change_through(&ids[..1]).await?;
        scene.change_through(ids[1], GIVEN_UP).await?;
        scene.change_through(ids[2], ELECTED).await?;
        scene.net.heal()?;
        scene.change_through(ids[0], GIVEN_UP).await?;

        work.end().await?;
        scene.account().await?;
        scene.finish().await
    })
}

#[test]
fn a_minority_decides_nothing_and_serves_and_all_agree_when_it_is_back() -> Result<()> {
    let name = "a_minority_decides_nothing_and_serves_and_all_agree_when_it_is_back";
    sandbox::run(name, async || {
        let mut scene = Scene::start(NODE, 3).await?;
        let work = scene.work(&[1, 2, 3]);

        // Two and one, and the one is the leader.
        let ids = scene.leader_first().await?;
        scene.net.split(&[&ids[..1], &ids[1..]])?;
        scene.change_through(ids[1], ELECTED).await?;
        scene.change_through(ids[2], ELECTED).await?;
        scene.no_change_through(&ids[..1]).await?;
        ensure!(
            !scene.person(ids[0]).read().await?,
            "a node without a majority answered a linearizable read"
        );

        // One, one and one: nobody decides, everybody serves.
        scene.net.split(&[])?;
        lasting(A_WHILE).await;
        scene.no_change_through(&ids).await?;
        scene.net.heal()?;
        for id in &ids {
            scene.change_through(*id, GIVEN_UP).await?;
        }
        let calls = work.end().await?;
        ensure!(calls > 300, "only {calls} calls were made");
        scene.account().await?;
        scene.finish().await
    })
}

#[test]
fn two_of_five_are_cut_off_with_the_leader_and_three_go_on() -> Result<()> {
    let name = "two_of_five_are_cut_off_with_the_leader_and_three_go_on";
    sandbox::run(name, async || {
        let mut scene = Scene::start(NODE, 5).await?;
        let ids = scene.leader_first().await?;
        let work = scene.work(&ids);
        scene.net.split(&[&ids[..2], &ids[2..]])?;
        scene.change_through(ids[2], ELECTED).await?;
        scene.no_change_through(&ids[..2]).await?;
        // Another three, which share one node with the first: what those decided is what these go on from.
        scene
            .net
            .split(&[&[ids[0], ids[1], ids[2]], &[ids[3], ids[4]]])?;
        scene.change_through(ids[0], GIVEN_UP).await?;
        scene.no_change_through(&ids[3..]).await?;
        scene.net.heal()?;
        scene.change_through(ids[4], GIVEN_UP).await?;
        work.end().await?;
        scene.account().await?;
        scene.finish().await
    })
}

#[test]
fn two_nodes_that_hear_each_other_only_through_a_third_do_not_stop_the_cluster() -> Result<()> {
    let name = "two_nodes_that_hear_each_other_only_through_a_third_do_not_stop_the_cluster";
    sandbox::run(name, async || {
        let mut scene = Scene::start(NODE, 3).await?;
        let ids = scene.leader_first().await?;
        let work = scene.work(&ids);
        let (leader, middle, end) = (ids[0], ids[1], ids[2]);
        scene.net.cut_between(leader, end)?;
        // The one in the middle hears everybody, and so does whoever leads in the end.
        for _ in 0..5 {
            scene.change_through(middle, ELECTED).await?;
            lasting(Duration::from_secs(1)).await;
        }
        scene.net.heal()?;
        for id in &ids {
            scene.change_through(*id, GIVEN_UP).await?;
        }
        work.end().await?;
        scene.account().await?;
        scene.finish().await
    })
}

#[test]
fn a_link_that_comes_and_goes_loses_nothing() -> Result<()> {
    let name = "a_link_that_comes_and_goes_loses_nothing";
    sandbox::run(name, async || {
        let mut scene = Scene::start(NODE, 3).await?;
        let ids = scene.leader_first().await?;
        let work = scene.work(&ids);
        // Shorter than an election takes, about as long, and longer.
        for millis in [300, 700, 1200, 1800, 2500, 1200, 700, 300, 1500, 2000] {
            let leader = ids[0];
            scene.net.split(&[&[leader], &ids[1..]])?;
            lasting(Duration::from_millis(millis)).await;
            scene.net.heal()?;
            lasting(Duration::from_millis(500)).await;
        }
        scene.change_through(ids[0], GIVEN_UP).await?;
        work.end().await?;
        let acknowledged = scene.ledger().acknowledged().len();
        ensure!(
            acknowledged > 20,
            "only {acknowledged} changes were acknowledged"
        );
        scene.account().await?;
        scene.finish().await
    })
}

#[test]
fn a_change_on_its_way_to_a_leader_that_is_cut_off_is_answered_by_the_next_one() -> Result<()> {
    let name = "a_change_on_its_way_to_a_leader_that_is_cut_off_is_answered_by_the_next_one";
    sandbox::run(name, async || {
        let mut scene = Scene::start(NODE, 3).await?;
        for round in 0..3 {
            let ids = scene.leader_first().await?;
            let (asked, told) = (scene.person(ids[1]), scene.cluster.node(ids[1]));
            let before = told.log().len();
            scene.net.pull(ids[0])?;
            let elected = async {
                wait::until("the news of another leader", ELECTED, async || {
                    let log = told.log().split_off(before);
                    let next =
                        |id| log.contains(&format!(r#""the leader changed","leader":{id},"#));
                    ensure!(ids[1..].iter().any(next), "{log}");
                    Ok(Instant::now())
                })
                .await
            };
            let changed = async {
                ensure!(
                    asked.change(&format!("early{round}")).await?,
                    "it was refused"
                );
                Ok(Instant::now())
            };
            let (elected, changed) = tokio::join!(elected, changed);
            let after = changed?.saturating_duration_since(elected?);
            tell(&format!("answered {} ms after the news", after.as_millis()))?;
            ensure!(
                after < ANSWERED,
                "it was answered {after:?} after there was a leader"
            );
            scene.net.plug(ids[0])?;
            scene.change_through(ids[0], GIVEN_UP).await?;
        }
        let acknowledged = scene.ledger().acknowledged().len();
        let history = scene.cluster.node(1).ok("history tenant -o json").await?;
        let history: serde_json::Value = serde_json::from_str(&history)?;
        let made = history["revisions"].as_array().context("revisions")?.len();
        // Beside those that somebody asked for there is the tenant of the scene.
        ensure!(
            made == acknowledged + 1,
            "{made} for {acknowledged}: {history}"
        );
        scene.finish().await
    })
}

#[test]
fn a_change_through_a_leader_that_was_just_cut_off_has_a_true_answer_in_the_end() -> Result<()> {
    let name = "a_change_through_a_leader_that_was_just_cut_off_has_a_true_answer_in_the_end";
    sandbox::run(name, async || {
        let mut scene = Scene::start(NODE, 3).await?;
        let ids = scene.leader_first().await?;
        let id = "0123456789abcdef0123456789abcdef";
        let apply = ["apply", "-f", "-", "--request-id", id, "-o", "json"];
        let document = "tenants: [{name: once}]";
        scene.net.split(&[&ids[..1], &ids[1..]])?;
        let asks = scene.cluster.node(ids[0]).run(&apply, document);
        let heals = async {
            // Longer than a node takes to say that it does not know.
            lasting(A_WHILE + Duration::from_secs(2)).await;
            scene.net.heal()
        };
        let (asked, healed) = tokio::join!(asks, heals);
        healed?;
        let first = asked?;
        tell(&format!("{first}"))?;
        if first.code == Some(0) {
            for part in [
                "may or may not be in force",
                "asked for again",
                "once at most",
            ] {
                ensure!(first.stderr.contains(part), "{part:?} is not in {first}");
            }
        } else {
            // The command line was slow to start, and the leader had noticed. Then it must be true.
            let said = first.fails(1)?;
            ensure!(said.contains("nothing was changed"), "{said}");
            scene.change_through(ids[0], GIVEN_UP).await?;
            let export = scene.cluster.node(ids[0]).ok("export").await?;
            ensure!(!export.contains("name: once"), "{export}");
        }
        let mut revision = None;
        // Whoever asks again, wherever, is told the same.
        for other in &ids {
            let node = scene.cluster.node(*other);
            let again = node.run(&apply, document).await?.json()?;
            let told = again["revision"].as_u64().context("a revision")?;
            let first = *revision.get_or_insert(told);
            ensure!(told == first, "{told} and {first}: {again}");
        }
        let history = scene
            .cluster
            .node(ids[1])
            .ok("history tenant once -o json")
            .await?;
        let history: serde_json::Value = serde_json::from_str(&history)?;
        let made = history["revisions"].as_array().context("revisions")?;
        ensure!(made.len() == 1, "{history}");
        scene.finish().await
    })
}
