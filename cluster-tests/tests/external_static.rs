//! The binary of `deploy/build-static.sh` needs nothing: not at its start, and not while it serves.
//!
//! It runs in a root that holds nothing else, as a user of no name: what `FROM scratch` gives it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mode_envoy_cluster_tests::cluster::{Launch, Node};
use mode_envoy_cluster_tests::http;
use mode_envoy_cluster_tests::netns::sandbox;
use mode_envoy_cluster_tests::netns::scene::tell;
use mode_envoy_cluster_tests::origin::Origin;
use mode_envoy_cluster_tests::program::Output;
use mode_envoy_cluster_tests::shipped::empty_root::{DATA, EmptyRoot};
use mode_envoy_cluster_tests::shipped::static_binary;

/// Three nodes that start, are called and end.
const DEMO: Duration = Duration::from_mins(2);

/// Program headers of ELF: what is loaded, what links at run time, who does that.
const DYNAMIC: u32 = 2;
const INTERPRETER: u32 = 3;
/// An entry of the dynamic section: a library that must be there.
const NEEDED: u64 = 1;

#[test]
fn the_binary_asks_for_no_loader_and_no_library() -> Result<()> {
    let path = static_binary()?;
    let file = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let headers = program_headers(&file).context("reading the program headers")?;
    ensure!(!headers.is_empty(), "{} has no segments", path.display());
    for header in headers {
        ensure!(
            header.kind != INTERPRETER,
            "{} asks for a loader",
            path.display()
        );
        // A static binary that is loaded anywhere relocates itself: it has this section, with nobody else's name in it.
        if header.kind == DYNAMIC {
            let entries = file.get(header.offset..header.offset + header.size);
            let entries = entries.context("the dynamic section is cut")?;
            for entry in entries.chunks_exact(16) {
                let tag = number(entry, 0, 8).context("an entry")?;
                ensure!(tag != NEEDED, "{} asks for a library", path.display());
            }
        }
    }
    Ok(())
}

#[test]
fn the_demo_runs_in_a_root_with_the_binary_and_what_the_kernel_gives() -> Result<()> {
    let name = "the_demo_runs_in_a_root_with_the_binary_and_what_the_kernel_gives";
    sandbox::run_as_root(name, async || {
        let root = EmptyRoot::make(&static_binary()?)?;
        // Without them, the demo does not find the binary that its nodes are, nor what they read from.
        root.mount_system()?;
        ensure!(
            root.names()? == ["data", "dev", "mode-envoy", "proc"],
            "{:?}",
            root.names()
        );
        let mut command = root.program().command();
        command.args(["demo", "--exit", "--dir", DATA]);
        let shown = Output::of("demo --exit".to_owned(), command, "", DEMO).await?;
        let shown = shown.ok()?;
        for expected in [
            "every node is ready",
            "mobile-app",
            "all 3 tables are equal",
        ] {
            ensure!(
                shown.contains(expected),
                "the demo does not print {expected:?}: {shown}"
            );
        }
        tell(shown.lines().last().unwrap_or_default())
    })
}

#[test]
fn a_node_without_proc_serves_and_finds_names_in_its_hosts_file() -> Result<()> {
    let name = "a_node_without_proc_serves_and_finds_names_in_its_hosts_file";
    sandbox::run_as_root(name, async || {
        let root = EmptyRoot::make(&static_binary()?)?;
        root.file(
            "etc/hosts",
            "127.0.0.1 localhost\n127.0.0.1 shop.internal\n",
        )?;
        ensure!(
            root.names()? == ["data", "etc", "mode-envoy"],
            "{:?}",
            root.names()
        );
        let origin = Origin::start("shop").await?;
        let mut node = node(&root);
        node.start()?;
        node.wait_ready().await?;
        node.apply(&shop(&origin.url())?).await?;
        for path in ["/localhost", "/internal"] {
            let answer = http::get(node.gateway(), path, None).await?.expect(200)?;
            ensure!(answer.json()?["origin"] == "shop", "{}", answer.text());
        }
        // A name that nobody knows fails as a name, and the node goes on.
        http::get(node.gateway(), "/nowhere", None)
            .await?
            .expect(502)?;
        http::get(node.gateway(), "/internal", None)
            .await?
            .expect(200)?;
        let usage = node
            .usage(&["--group-by", "route", "--linearizable"])
            .await?;
        ensure!(usage.to_string().contains("internal"), "{usage}");
        let code = node.term().await?;
        ensure!(code == Some(0), "it ended with {code:?}: {}", node.log());
        Ok(())
    })
}

// === helpers ===

struct Header {
    kind: u32,
    offset: usize,
    size: usize,
}

/// Of a little-endian ELF file of 64 bits.
fn program_headers(file: &[u8]) -> Option<Vec<Header>> {
    if file.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (start, size, count) = (
        index(file, 32, 8)?,
        index(file, 54, 2)?,
        index(file, 56, 2)?,
    );
    (0..count)
        .map(|number_of| {
            let header = file.get(start + number_of * size..)?;
            Some(Header {
                kind: u32::try_from(number(header, 0, 4)?).ok()?,
                offset: index(header, 8, 8)?,
                size: index(header, 32, 8)?,
            })
        })
        .collect()
}

fn number(bytes: &[u8], at: usize, width: usize) -> Option<u64> {
    let field = bytes.get(at..at + width)?;
    Some(
        field
            .iter()
            .rev()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
    )
}

fn index(bytes: &[u8], at: usize, width: usize) -> Option<usize> {
    usize::try_from(number(bytes, at, width)?).ok()
}

fn node(root: &EmptyRoot) -> Node {
    Node::new(Launch {
        node_id: 1,
        told_id: true,
        data_dir: Path::new(DATA).join("node"),
        gateway: "127.0.0.1:8080".to_owned(),
        admin: "127.0.0.1:7070".to_owned(),
        peer: "127.0.0.1:7071".to_owned(),
        initial_cluster: None,
        join: None,
        secret_file: None,
        advertise_peer: None,
        workers: 2,
        more: Vec::new(),
        starter: Vec::new(),
        log: "/run/node.log".into(),
        program: root.program(),
    })
}

/// One service by three names, of which the last is nobody's.
fn shop(url: &str) -> Result<String> {
    let port = url.rsplit(':').next().context("a URL with a port")?;
    Ok(format!(
        r#"
tenants: [{{name: acme}}]
services:
  - {{name: localhost, endpoints: [{{url: "http://localhost:{port}"}}]}}
  - {{name: internal, endpoints: [{{url: "http://shop.internal:{port}"}}]}}
  - {{name: nowhere, endpoints: [{{url: "http://nobody.internal:{port}"}}]}}
routes:
  - {{name: localhost, tenant: acme, service: localhost, match: {{paths: [/localhost]}}, auth: [none]}}
  - {{name: internal, tenant: acme, service: internal, match: {{paths: [/internal]}}, auth: [none]}}
  - {{name: nowhere, tenant: acme, service: nowhere, match: {{paths: [/nowhere]}}, auth: [none]}}
"#
    ))
}
