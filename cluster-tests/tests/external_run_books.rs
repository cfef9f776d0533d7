//! The run-book of a full disk, followed as it stands. It needs a small file system, so `mount`, and root or unprivileged user
//! namespaces.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mode_envoy_cluster_tests::cluster::Cluster;
use mode_envoy_cluster_tests::netns::sandbox;
use mode_envoy_cluster_tests::netns::small_disk::SmallDisk;
use mode_envoy_cluster_tests::run_book::RunBook;
use mode_envoy_cluster_tests::wait;

const NODE: &str = env!("CARGO_BIN_EXE_mode-envoy-under-test");

/// The disk is looked at every five seconds.
const LOOKED: Duration = Duration::from_secs(20);

#[test]
fn a_disk_that_fills_is_told_with_what_takes_its_room_until_there_is_room_again() -> Result<()> {
    let name = "a_disk_that_fills_is_told_with_what_takes_its_room_until_there_is_room_again";
    sandbox::run(name, async || {
        let mut cluster = Cluster::plan(NODE, 1)?;
        let launch = &mut cluster.node_mut(1).launch;
        let more = [
            "--disk-min-free-bytes",
            "16777216",
            "--usage-spool-bytes",
            "2097152",
        ];
        launch.more = more.map(str::to_owned).to_vec();
        let disk = SmallDisk::mount(&launch.data_dir, 64 << 20)?;
        cluster.start_all()?;
        cluster.wait_ready().await?;
        cluster.apply("tenants: [{name: acme}]").await?;

        let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operating.md");
        let mut book = RunBook::open(&document, NODE, &cluster)?;
        book.ask(cluster.node(1));
        book.sit_at(cluster.node(1))?;
        let calm = book.run("full-disk").await?;
        ensure!(!calm.contains("bytes free"), "{calm}");
        disk.fill()?;
        let dir = cluster.node(1).launch.data_dir.clone();
        let dir = dir.to_str().context("a path")?;
        let told = wait::until("the alarm", LOOKED, async || {
            let told = book.run("full-disk").await?;
            ensure!(told.contains("make room"), "{told}");
            Ok(told)
        });
        let told = told.await?;
        for part in ["100%", &format!("{dir}/wal")] {
            ensure!(told.contains(part), "{part} is not in {told}");
        }
        disk.free()?;
        wait::until("the end of the alarm", LOOKED, async || {
            let told = book.run("full-disk").await?;
            ensure!(!told.contains("make room"), "{told}");
            Ok(())
        })
        .await?;
        cluster.node(1).apply("tenants: [{name: later}]").await?;
        let ended = cluster.finish().await;
        drop(disk);
        ended
    })
}
