//! One flipped byte in any file of a stopped node never leads to a wrong answer.
//!
//! A directory with every kind of file is copied, one byte of the copy is flipped, and a node is started from it. Either it
//! refuses, naming the file and what to do; or it answers as the undamaged one did. What can be lost by design (records of single
//! calls) may be missing, and that is told.
//!
//! `MODE_ENVOY_FLIPS` is how many bytes of each file are flipped at most, as many as it has for all of them; the choices are
//! those of `MODE_ENVOY_TEST_SEED`.

#[path = "one_byte/copies.rs"]
mod copies;
#[path = "one_byte/source.rs"]
mod source;
#[path = "one_byte/three.rs"]
mod three;

use std::cell::RefCell;

use anyhow::{Context, Result, bail, ensure};
use mode_envoy_cluster_tests::http;
use mode_envoy_cluster_tests::load::{self, Rng};
use mode_envoy_cluster_tests::one_byte::{Flip, Kind};

use copies::Copies;
use source::Source;

pub(crate) const NODE: &str = env!("CARGO_BIN_EXE_mode-envoy-under-test");

/// Flips of a file, and of all files of a kind, where the environment does not say.
const FEW: (usize, usize) = (5, 10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_a_flipped_byte_answers_as_before_or_refuses_by_name() -> Result<()> {
    let source = Source::make().await?;
    let mut copies = Copies::of(&source)?;
    let before = copies.run(&source.image, None).await?;
    let before = before.context("the undamaged copy does not start")?;
    // The spool holds calls that are not in the log yet: without it, they are not counted.
    let without = copies.run(&source.image.without(Kind::Spool), None).await?;
    let without = without.context("a node whose spool was removed does not start")?;
    ensure!(
        without.counted < before.counted && before.counted == source.calls,
        "{} counted without the spool, {} with it, of {}",
        without.counted,
        before.counted,
        source.calls
    );
    copies.finish().await?;

    let (seed, (of_each_file, of_each_kind)) = (load::seed()?, flips()?);
    let chosen = source
        .image
        .flips(of_each_file, of_each_kind, &mut Rng::new(seed));
    let left = RefCell::new(chosen);
    let work = async || {
        let mut copies = Copies::of(&source)?;
        let next = || left.borrow_mut().pop();
        while let Some(flip) = next() {
            let judged = copies.judge(&before, &flip).await;
            judged.with_context(|| format!("{flip}; the choices are those of seed {seed}"))?;
        }
        copies.finish().await
    };
    // Most of the time of each is waiting.
    tokio::try_join!(work(), work(), work(), work())?;
    source.cluster.finish().await
}

/// What the command line keeps beside the data directory: where the token is.
#[tokio::test]
async fn a_flipped_byte_in_the_context_file_costs_the_command_line_its_token_and_nothing_else()
-> Result<()> {
    let cluster = mode_envoy_cluster_tests::cluster::Cluster::start(NODE, 1).await?;
    cluster.node(1).apply("tenants: [{name: acme}]").await?;
    let before = cluster.node(1).ok("export").await?;
    let path = cluster
        .program()
        .config_home()
        .join("mode-envoy/context.json");
    let whole = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let seed = load::seed()?;
    let mut rng = Rng::new(seed);
    for _ in 0..40 {
        let (at, mask) = (rng.below(whole.len()), 1 << rng.below(8));
        let mut damaged = whole.clone();
        damaged[at] ^= mask;
        std::fs::write(&path, damaged)?;
        let output = cluster.node(1).cli(&["export"]).await?;
        let told = output.stderr.contains("token") || output.stderr.contains("context.json");
        ensure!(
            (output.code == Some(0) && output.stdout == before) || (output.code == Some(1) && told),
            "byte {at} ^ {mask:#x} (seed {seed}): {output}"
        );
    }
    // The next start writes what it needs.
    std::fs::write(&path, &whole[1..])?;
    let mut cluster = cluster;
    ensure!(cluster.node_mut(1).term().await? == Some(0), "an end");
    cluster.start_all()?;
    cluster.wait_ready().await?;
    ensure!(cluster.node(1).ok("export").await? == before, "the same");
    http::get(cluster.node(1).admin(), "/readyz", None)
        .await?
        .expect(200)?;
    cluster.finish().await
}

/// How many bytes of each file and of each kind are flipped.
fn flips() -> Result<(usize, usize)> {
    let Ok(text) = std::env::var("MODE_ENVOY_FLIPS") else {
        return Ok(FEW);
    };
    match text.parse() {
        Ok(flips) => Ok((flips, usize::MAX)),
        Err(_) => bail!("MODE_ENVOY_FLIPS is not a number: {text}"),
    }
}

/// Whether a refusal names the file and says what to do.
pub(crate) fn says_what_to_do(said: &str, flip: &Flip) -> Result<()> {
    let file = flip.path.file_name().context("a name")?.to_string_lossy();
    let last = said.lines().rfind(|line| line.contains("\"ERROR\""));
    let last = last.with_context(|| format!("it ended without a word: {said}"))?;
    ensure!(last.contains(&*file), "it does not name {file}: {last}");
    let advice = [
        "remove",
        "restore",
        "start the release",
        "start it with",
        "put ",
    ];
    ensure!(
        advice.iter().any(|advice| last.contains(advice)),
        "it does not say what to do: {last}"
    );
    Ok(())
}
