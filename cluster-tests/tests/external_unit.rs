//! `deploy/systemd/` under a real systemd: the unit is installed as its first lines say, and is one node of a cluster of three.
//!
//! The other two are processes beside that machine, at the addresses that `node.toml` names.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mode_envoy_cluster_tests::cluster::{Launch, Node, write_secret};
use mode_envoy_cluster_tests::http::{self, CHAT};
use mode_envoy_cluster_tests::netns::sandbox::{self, tool};
use mode_envoy_cluster_tests::netns::scene::tell;
use mode_envoy_cluster_tests::program::Program;
use mode_envoy_cluster_tests::shipped::machine::Machine;
use mode_envoy_cluster_tests::shipped::{deploy, static_binary};
use mode_envoy_cluster_tests::upstream::Upstream;
use mode_envoy_cluster_tests::{members, usage, wait};

const SERVICE: &str = "mode-envoy";
const JOURNAL: &str = "journalctl --unit mode-envoy --output cat --no-pager";
/// The cluster's secret, in the sandbox's own `/run`.
const SECRET: &str = "/run/cluster.secret";

const SETTLED: Duration = Duration::from_secs(40);
/// How long a call takes that is in flight while the node drains.
const SLOW: Duration = Duration::from_secs(2);

/// What `systemd-analyze security` may give at most, of 100.
const EXPOSURE: u32 = 20;
/// CAP_NET_BIND_SERVICE, for ports below 1024.
const BIND: &str = "0000000000000400";

#[test]
fn the_service_starts_confined_drains_comes_back_and_keeps_what_it_counted() -> Result<()> {
    let name = "the_service_starts_confined_drains_comes_back_and_keeps_what_it_counted";
    sandbox::run_as_root(name, async || {
        for address in ["10.0.0.1/32", "10.0.0.2/32", "10.0.0.3/32"] {
            tool("ip", &["address", "add", address, "dev", "lo"])?;
        }
        let upstream = Upstream::start().await?;
        let machine = Machine::boot().await?;
        let mut others = [neighbour(2)?, neighbour(3)?];
        for node in &mut others {
            node.start()?;
        }
        let lived = life(&machine, &upstream).await;
        if lived.is_err() {
            tell(&machine.ok(JOURNAL).await?)?;
        }
        let switched_off = machine.switch_off().await;
        lived?;
        switched_off?;
        for node in &mut others {
            node.kill().await?;
        }
        upstream.check()
    })
}

// === phases ===

/// From its installation to its end.
async fn life(machine: &Machine, upstream: &Upstream) -> Result<()> {
    install(machine).await?;
    analyzed(machine).await?;
    let mut node = node(machine)?;
    node.wait_ready().await?;
    confined(machine).await?;

    let leader = members::settled(&node, &[1, 2, 3], &[]).await?;
    ensure!(leader > 0, "nobody leads");
    node.apply(&upstream.document(&["remote"])).await?;
    let key = node.create_key("acme", "mobile-app", "first").await?;
    node.wait_key(&key, 200).await?;
    drains(machine, &mut node, upstream, &key).await?;
    counted(&node, 1).await?;
    is_started_again(machine, &mut node).await?;
    node.wait_key(&key, 200).await?;
    call(&node, &key, "after the kill").await?;
    counted(&node, 2).await?;

    machine.ok("systemctl stop mode-envoy").await?;
    let result = machine.property(SERVICE, "Result").await?;
    ensure!(result == "success", "it ended with {result}");
    Ok(())
}

/// Does what the head of the unit says.
async fn install(machine: &Machine) -> Result<()> {
    let kit = "/root/kit";
    let dir = machine.path(kit);
    fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let unit = deploy("systemd/mode-envoy.service");
    for (from, name) in [
        (static_binary()?, "mode-envoy"),
        (unit.clone(), "mode-envoy.service"),
        (deploy("systemd/node.toml"), "node.toml"),
        (Path::new(SECRET).to_owned(), "cluster.secret"),
    ] {
        fs::copy(&from, dir.join(name)).with_context(|| format!("copying {}", from.display()))?;
    }
    let head = fs::read_to_string(&unit)?;
    let steps: Vec<_> = head
        .lines()
        .filter_map(|line| line.strip_prefix("#   "))
        .collect();
    ensure!(steps.len() == 5, "the unit's first lines are {steps:?}");
    machine
        .ok(&format!("cd {kit}; {}", steps.join("; ")))
        .await?;
    Ok(())
}

/// systemd finds no fault with it, and thinks it safe.
async fn analyzed(machine: &Machine) -> Result<()> {
    let verified = machine
        .run("systemd-analyze verify --man=no mode-envoy.service")
        .await?;
    ensure!(
        verified.code == Some(0) && verified.stderr.is_empty(),
        "{verified}"
    );
    let line =
        format!("systemd-analyze security --no-pager --threshold={EXPOSURE} mode-envoy.service");
    machine.ok(&line).await.map(drop)
}

/// The process is what the unit makes of it.
async fn confined(machine: &Machine) -> Result<()> {
    for (field, expected) in [
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        ("CapEff", BIND),
        ("CapBnd", BIND),
    ] {
        let is = machine.status(SERVICE, field).await?;
        ensure!(is == expected, "{field} is {is}, not {expected}");
    }
    let user = machine.status(SERVICE, "Uid").await?;
    ensure!(!user.starts_with("0\t"), "it runs as root: {user}");
    let state = "/var/lib/private/mode-envoy";
    let modes = format!("stat --format %a {state} {state}/admin.token {state}/node.json");
    let modes = machine.ok(&modes).await?;
    ensure!(modes.starts_with("700\n600\n"), "{modes}");
    // Homes are empty for it, and nothing but its own directory can be written.
    let pid = machine.property(SERVICE, "MainPID").await?;
    let inside = format!("nsenter --target {pid} --mount");
    let homes = machine.ok(&format!("{inside} ls -A /home /root")).await?;
    ensure!(homes == "/home:\n\n/root:\n", "{homes}");
    let write = format!("{inside} touch /usr/local/bin/another");
    let refused = machine.run(&write).await?.fails(1)?;
    ensure!(refused.contains("Read-only file system"), "{refused}");
    machine
        .ok(&format!("{inside} touch /var/lib/mode-envoy"))
        .await?;
    for line in machine.ok(JOURNAL).await?.lines() {
        ensure!(!line.contains("panicked"), "{line}");
    }
    Ok(())
}

/// A call that is in flight when the service is restarted ends well, and the service comes back with everything.
async fn drains(machine: &Machine, node: &mut Node, upstream: &Upstream, key: &str) -> Result<()> {
    let before = node.revision().await?;
    upstream.slow(SLOW);
    let body = http::chat("remote", "while it drains");
    let in_flight = http::post(node.gateway(), CHAT, key, &body);
    let restart = async {
        wait::until("the call to reach its provider", SETTLED, async || {
            upstream.find("while it drains").context("it has not come")
        })
        .await?;
        machine.ok("systemctl restart mode-envoy").await
    };
    let (answer, restarted) = tokio::join!(in_flight, restart);
    answer?.expect(200)?;
    restarted?;
    node.wait_ready().await?;
    let journal = machine.ok(JOURNAL).await?;
    ensure!(
        journal
            .lines()
            .any(|line| line.starts_with('{') && line.contains("\"level\"")),
        "no line of the journal is JSON: {journal}"
    );
    ensure!(
        machine.property(SERVICE, "NRestarts").await? == "0",
        "it did not end in order: {journal}"
    );
    ensure!(
        node.revision().await? >= before,
        "the configuration is gone"
    );
    node.wait_key(key, 200).await?;
    Ok(())
}

/// Killed, it is started by systemd.
async fn is_started_again(machine: &Machine, node: &mut Node) -> Result<()> {
    machine
        .ok("systemctl kill --signal KILL mode-envoy")
        .await?;
    wait::until("systemd to start it again", SETTLED, async || {
        let restarts = machine.property(SERVICE, "NRestarts").await?;
        ensure!(restarts == "1", "{restarts} restarts");
        Ok(())
    })
    .await?;
    node.wait_ready().await
}

async fn call(node: &Node, key: &str, text: &str) -> Result<()> {
    let body = http::chat("remote", text);
    http::post(node.gateway(), CHAT, key, &body)
        .await?
        .expect(200)
        .map(drop)
}

async fn counted(node: &Node, calls: u64) -> Result<()> {
    wait::until(
        &format!("{calls} calls to be counted"),
        SETTLED,
        async || {
            let row = usage::row(
                &node
                    .usage(&["--filter", "model=remote", "--linearizable"])
                    .await?,
            )?;
            ensure!((row.calls, row.errors) == (calls, 0), "{row:?}");
            Ok(())
        },
    )
    .await
}

// === helpers ===

/// The machine's node, to speak to: systemd runs it.
fn node(machine: &Machine) -> Result<Node> {
    let token = machine.path("/var/lib/private/mode-envoy/admin.token");
    Ok(Node::new(launch(1, "127.0.0.1", &token)?))
}

/// Another node of the cluster.
fn neighbour(id: u64) -> Result<Node> {
    let token = Path::new("/run").join(format!("node-{id}/admin.token"));
    Ok(Node::new(launch(id, &format!("127.0.0.{id}"), &token)?))
}

fn launch(id: u64, address: &str, token: &Path) -> Result<Launch> {
    let secret = Path::new(SECRET).to_owned();
    if !secret.exists() {
        write_secret(&secret)?;
    }
    let settings = fs::read_to_string(deploy("systemd/node.toml"))?;
    let Some(cluster) = settings
        .lines()
        .find_map(|line| line.strip_prefix("initial-cluster = \"")?.split('"').next())
    else {
        bail!("node.toml names no cluster: {settings}")
    };
    let binary = static_binary()?;
    let program = Program::new(&binary.to_string_lossy(), "/run/config".into());
    Ok(Launch {
        node_id: id,
        told_id: true,
        data_dir: Path::new("/run").join(format!("node-{id}")),
        gateway: format!("{address}:8080"),
        admin: format!("{address}:7070"),
        peer: format!("10.0.0.{id}:7071"),
        initial_cluster: Some(cluster.to_owned()),
        join: None,
        secret_file: Some(secret),
        advertise_peer: None,
        workers: 2,
        more: Vec::new(),
        starter: Vec::new(),
        log: Path::new("/run").join(format!("node-{id}.log")),
        program: program.with_token_file(token.to_owned()),
    })
}
