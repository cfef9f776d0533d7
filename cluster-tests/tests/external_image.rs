//! The container image as `deploy/build-image.sh` builds it, and the cluster of `deploy/docker/compose.yaml` made of it.
//!
//! Both are run by podman in a sandbox: the containers are real, and so are their networks, their volumes and the names of the nodes.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mode_envoy_cluster_tests::http::{self, CHAT};
use mode_envoy_cluster_tests::netns::sandbox;
use mode_envoy_cluster_tests::netns::scene::tell;
use mode_envoy_cluster_tests::shipped::engine::{Engine, container};
use mode_envoy_cluster_tests::shipped::static_binary;
use mode_envoy_cluster_tests::{usage, wait};
use serde_json::{Value, json};

/// Until the nodes have met. The name server of podman 4 (aardvark-dns 1.4) may answer nobody for a minute after a container was killed.
const FORMED: Duration = Duration::from_mins(2);
const SETTLED: Duration = Duration::from_secs(40);

/// Of each node, as this machine reaches it.
const GATEWAYS: [&str; 3] = ["127.0.0.1:8080", "127.0.0.1:8180", "127.0.0.1:8280"];
const NODES: [&str; 3] = ["node1", "node2", "node3"];

const DOCUMENT: &str = r#"
tenants: [{name: acme}]
consumers: [{name: mobile-app, tenant: acme, team: retail}]
providers: [{name: local, protocol: embedded}]
models:
  - {name: fast, targets: [{provider: local, model: echo}], price: {input: "0.15", output: "0.60"}}
"#;

#[test]
fn the_image_holds_the_binary_and_two_directories_of_its_user() -> Result<()> {
    let name = "the_image_holds_the_binary_and_two_directories_of_its_user";
    sandbox::run_as_root(name, async || {
        let engine = Engine::prepare()?;
        let binary = static_binary()?;
        engine.build(&binary).await?;
        let image = engine.inspect("mode-envoy").await?;
        let config = &image["Config"];
        for (field, expected) in [
            ("User", json!("65532:65532")),
            ("Entrypoint", json!(["/mode-envoy"])),
            ("Cmd", json!(["serve"])),
            ("Volumes", json!({"/data": {}, "/secret": {}})),
            ("StopSignal", json!("SIGTERM")),
        ] {
            ensure!(
                config[field] == expected,
                "{field} is not {expected}: {config}"
            );
        }
        let layers = image["RootFS"]["Layers"].as_array().map(Vec::len);
        ensure!(layers == Some(1), "{image}");

        let mounted = engine.podman("image mount mode-envoy").await?;
        let files = files(Path::new(mounted.trim()))?;
        let expected = BTreeMap::from([
            ("data", (0o040_700, 65_532)),
            ("mode-envoy", (0o100_755, 0)),
            ("secret", (0o040_700, 65_532)),
        ]);
        let expected = expected
            .into_iter()
            .map(|(name, what)| (name.to_owned(), what));
        ensure!(files == expected.collect(), "{files:?}");
        let same = std::fs::read(Path::new(mounted.trim()).join("mode-envoy"))?;
        ensure!(
            same == std::fs::read(binary)?,
            "the image holds another binary"
        );

        // A program that runs with nothing beside it.
        let version = engine.podman("run --rm --network none mode-envoy --version");
        ensure!(version.await?.starts_with("mode-envoy "), "no version");
        Ok(())
    })
}

#[test]
fn the_composed_cluster_counts_survives_a_kill_and_keeps_its_volumes() -> Result<()> {
    let name = "the_composed_cluster_counts_survives_a_kill_and_keeps_its_volumes";
    sandbox::run_as_root(name, async || {
        let engine = Engine::prepare()?;
        engine.build(&static_binary()?).await?;
        let lived = life(&engine).await;
        if lived.is_err() {
            for node in NODES {
                // Where there is no such container, the error below says enough.
                let log = engine.compose(&format!("logs {node}"), "").await?;
                tell(&log.to_string())?;
            }
        }
        lived
    })
}

// === phases ===

/// From the first start to the last end.
async fn life(engine: &Engine) -> Result<()> {
    engine.compose("up --detach", "").await?.ok()?;
    formed(engine).await?;
    // As the compose file says.
    let status = engine.compose("exec -T node1 /mode-envoy cluster status", "");
    let status = status.await?.ok()?;
    ensure!(status.contains("node3:7071"), "{status}");
    engine
        .exec("node1", "apply -f - --wait", DOCUMENT)
        .await?
        .ok()?;
    let key = key(engine).await?;
    call_each(&key, "first").await?;
    counted(engine, 3).await?;

    // A node is killed; the volume has what it counted.
    let killed = container("node2");
    engine
        .podman(&format!("kill --signal KILL {killed}"))
        .await?;
    engine.podman(&format!("wait {killed}")).await?;
    engine.podman(&format!("start {killed}")).await?;
    formed(engine).await?;
    call_each(&key, "second").await?;
    counted(engine, 6).await?;

    // All are ended in order, thrown away, and made again on their volumes.
    engine.compose("stop", "").await?.ok()?;
    for node in NODES {
        let state = engine.inspect(&container(node)).await?;
        ensure!(
            state["State"]["ExitCode"] == 0,
            "{node}: {}",
            state["State"]
        );
    }
    engine.compose("down", "").await?.ok()?;
    engine.compose("up --detach", "").await?.ok()?;
    formed(engine).await?;
    call_each(&key, "third").await?;
    counted(engine, 9).await?;
    confined(engine).await?;
    engine.compose("down --volumes", "").await?.ok()?;
    Ok(())
}

/// Every node has a leader and knows all three.
async fn formed(engine: &Engine) -> Result<()> {
    for node in NODES {
        wait::until(
            &format!("{node} to be in a cluster of three"),
            FORMED,
            async || {
                let status = engine
                    .exec(node, "cluster status -o json", "")
                    .await?
                    .json()?;
                let nodes = status["nodes"].as_array().context("nodes")?;
                let reached = nodes.iter().filter(|node| node["reachable"] == true);
                ensure!(reached.count() == 3, "{status}");
                Ok(())
            },
        )
        .await?;
    }
    Ok(())
}

async fn key(engine: &Engine) -> Result<String> {
    let line = "keys create --tenant acme --consumer mobile-app --name first -o json";
    let made = engine.exec("node2", line, "").await?.json()?;
    let secret = made["secret"].as_str();
    Ok(secret
        .with_context(|| format!("no secret in {made}"))?
        .to_owned())
}

/// Calls every gateway from outside.
async fn call_each(key: &str, text: &str) -> Result<()> {
    for gateway in GATEWAYS {
        wait::until("a gateway to know the key", SETTLED, async || {
            http::get(gateway, "/v1/models", Some(key))
                .await?
                .expect(200)
        })
        .await?;
        let answer = http::post(gateway, CHAT, key, &http::chat("fast", text)).await?;
        let answer = answer.expect(200)?.json()?;
        ensure!(answer.to_string().contains(text), "{answer}");
    }
    Ok(())
}

/// Every node tells the same number of calls.
async fn counted(engine: &Engine, calls: u64) -> Result<()> {
    for node in NODES {
        wait::until(
            &format!("{node} to count {calls} calls"),
            SETTLED,
            async || {
                let line = "usage --filter model=fast --linearizable -o json";
                let answer = engine.exec(node, line, "").await?.json()?;
                let row = usage::row(&answer)?;
                ensure!((row.calls, row.errors) == (calls, 0), "{row:?}");
                Ok(())
            },
        )
        .await?;
    }
    Ok(())
}

/// The containers are as the compose file says.
async fn confined(engine: &Engine) -> Result<()> {
    let node: Value = engine.inspect(&container("node1")).await?;
    let host = &node["HostConfig"];
    ensure!(host["ReadonlyRootfs"] == true, "{host}");
    let pid = &node["State"]["Pid"];
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("reading what process {pid} may do"))?;
    for expected in [
        "Uid:\t65532\t65532\t65532\t65532",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ] {
        ensure!(status.contains(expected), "not {expected:?}: {status}");
    }
    Ok(())
}

// === helpers ===

/// What is directly below a directory, with mode and owner.
fn files(dir: &Path) -> Result<BTreeMap<String, (u32, u32)>> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
    entries
        .map(|entry| {
            let (entry, name) = entry.map(|entry| {
                let name = entry.file_name().to_string_lossy().into_owned();
                (entry, name)
            })?;
            let about = entry.metadata()?;
            Ok((name, (about.mode(), about.uid())))
        })
        .collect()
}
