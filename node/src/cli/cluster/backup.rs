//! `cluster backup`: the replicated state as one file, and whether a file is one.
//!
//! What arrives is checked as it arrives. The file gets its name only when its end was read and it is on the disk: a stream that
//! breaks leaves none, and leaves one that was there before.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use mode_envoy_model::object::Kind;
use mode_envoy_model::state::State;
use mode_envoy_proto::admin::v1 as pb;
use mode_envoy_proto::admin::v1::cluster_client::ClusterClient;
use mode_envoy_raft::backup::Backup;
use mode_envoy_storage::backup::{BackupAbout, BackupReader};
use serde::Serialize;

use super::super::Ended;
use super::super::client::{Client, api};
use super::super::output::{Format, Table, answer, note};
use crate::control::format_ms;
use crate::secrets::hex;

/// Standard input or output, as a file's name.
const STANDARD: &str = "-";

/// Write the replicated state to a file, or check one that was written.
#[derive(Args, Clone, Debug)]
pub(in super::super) struct BackupArgs {
    /// The file; `-` is standard output, or with --verify standard input
    pub(super) file: PathBuf,
    /// What the node asked has on its disk, without asking the others: for a cluster that has lost its quorum
    #[arg(long)]
    local: bool,
    /// Check a backup offline: every checksum and every record, and say what is in it
    #[arg(long, conflicts_with = "local")]
    pub(super) verify: bool,
}

#[derive(Serialize)]
struct Shown {
    file: String,
    cluster_id: String,
    node: u64,
    revision: u64,
    applied_index: u64,
    time: String,
    made: String,
    local: bool,
    unconfirmed_entries: u64,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    holds: Option<Holds>,
}

/// How much of what is in a backup.
#[derive(Serialize)]
struct Holds {
    tenants: usize,
    consumers: usize,
    providers: usize,
    models: usize,
    services: usize,
    routes: usize,
    limits: usize,
    keys: usize,
    tokens: usize,
    changes: usize,
    usage_series: usize,
}

/// A file under a temporary name, which goes unless it gets its own.
struct Partial {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
    named: bool,
}

/// Counts what is read through it.
struct Counted<R> {
    inner: R,
    bytes: u64,
}

// === impl Holds ===

impl Holds {
    fn of(state: &State) -> Self {
        let catalog = &state.catalog;
        let count = |kind| catalog.objects(kind).len();
        Self {
            tenants: count(Kind::Tenant),
            consumers: count(Kind::Consumer),
            providers: count(Kind::Provider),
            models: count(Kind::Model),
            services: count(Kind::Service),
            routes: count(Kind::Route),
            limits: count(Kind::Limit),
            keys: catalog.keys().count(),
            tokens: catalog.tokens().count(),
            changes: state.history.records().count(),
            usage_series: state.usage.series.iter().count(),
        }
    }
}

// === impl Partial ===

impl Partial {
    fn create(path: &Path) -> anyhow::Result<Self> {
        let name = path.file_name();
        let name = name.with_context(|| format!("{} is not a file's name", path.display()))?;
        let hidden = format!(".{}.{}.part", name.to_string_lossy(), std::process::id());
        let temporary = path.with_file_name(hidden);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .with_context(|| format!("creating {}", temporary.display()))?;
        Ok(Self {
            file,
            temporary,
            path: path.to_owned(),
            named: false,
        })
    }

    /// Durable, and then under its own name.
    fn finish(mut self) -> anyhow::Result<()> {
        let doing = || format!("writing {}", self.path.display());
        self.file.sync_all().with_context(doing)?;
        std::fs::rename(&self.temporary, &self.path).with_context(doing)?;
        let parent = self.path.parent().filter(|p| !p.as_os_str().is_empty());
        let dir = File::open(parent.unwrap_or_else(|| Path::new("."))).with_context(doing)?;
        dir.sync_all().with_context(doing)?;
        self.named = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.named {
            // What cannot be removed is a hidden file that is no backup.
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

// === impl Counted ===

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buf)?;
        self.bytes += len as u64;
        Ok(len)
    }
}

// === free functions ===

pub(super) async fn run(
    client: &Client,
    args: &BackupArgs,
    format: Format,
) -> anyhow::Result<Ended> {
    if args.verify {
        return verify(&args.file, format);
    }
    let to_standard = args.file == Path::new(STANDARD);
    let downloading = async {
        if to_standard {
            let result = download(client, args.local, &mut io::stdout().lock()).await;
            return result.context("what was written so far is no backup");
        }
        let mut partial = Partial::create(&args.file)?;
        let downloaded = download(client, args.local, &mut partial.file).await?;
        partial.finish()?;
        Ok(downloaded)
    };
    let (about, bytes) = tokio::select! {
        done = downloading => done?,
        _ = tokio::signal::ctrl_c() => bail!("interrupted; no backup was written"),
    };
    let shown = shown(&args.file, &about, bytes, None);
    if to_standard {
        let (index, revision) = (about.applied_index, about.revision);
        note(&format!(
            "a backup of {bytes} bytes: revision {revision}, index {index}"
        ));
    } else {
        answer(format, &table(&shown), &shown);
    }
    say_what_is_special(&about);
    Ok(Ended::Done)
}

/// Checks a file offline.
pub(super) fn verify(path: &Path, format: Format) -> anyhow::Result<Ended> {
    let (backup, bytes) = read(path)?;
    let holds = Holds::of(backup.state());
    let shown = shown(path, backup.about(), bytes, Some(holds));
    let mut table = table(&shown);
    if let Some(holds) = &shown.holds {
        add_holds(&mut table, holds);
    }
    answer(format, &table, &shown);
    say_what_is_special(backup.about());
    note("every checksum and every record holds");
    Ok(Ended::Done)
}

/// Reads a backup, and how many bytes it has.
pub(super) fn read(path: &Path) -> anyhow::Result<(Backup, u64)> {
    let doing = || format!("reading the backup {}", path.display());
    let file: Box<dyn Read> = if path == Path::new(STANDARD) {
        Box::new(io::stdin().lock())
    } else {
        Box::new(File::open(path).with_context(doing)?)
    };
    let mut counted = Counted {
        inner: file,
        bytes: 0,
    };
    let backup = Backup::read(&mut counted).with_context(doing)?;
    Ok((backup, counted.bytes))
}

/// Writes what a node sends, checking it on the way.
async fn download(
    client: &Client,
    local: bool,
    out: &mut impl io::Write,
) -> anyhow::Result<(BackupAbout, u64)> {
    let request = pb::BackupRequest { local };
    let mut pieces = client
        .call(request, |channel, request| async move {
            api!(ClusterClient, channel).backup(request).await
        })
        .await?;
    let (mut reader, mut bytes) = (BackupReader::new(), 0);
    loop {
        let piece = pieces.message().await;
        let Some(piece) = piece.context("the backup broke off; no backup was written")? else {
            break;
        };
        if !piece.missing_nodes.is_empty() {
            let nodes = piece.missing_nodes.iter().map(u64::to_string);
            note(&format!(
                "not reached: node {}; calls that ended there and were not counted yet are not in the backup",
                nodes.collect::<Vec<_>>().join(", ")
            ));
        }
        let sound = reader.push(&piece.data, drop);
        sound.context("what arrived is no backup; try again")?;
        out.write_all(&piece.data).context("writing the backup")?;
        bytes += piece.data.len() as u64;
    }
    let about = reader.finish();
    let about = about.context("what arrived is no backup; try again")?;
    out.flush().context("writing the backup")?;
    Ok((about, bytes))
}

fn say_what_is_special(about: &BackupAbout) {
    if about.local {
        note(&format!(
            "made with --local: it has what node {} had on its disk at index {} ({}); what others may have acknowledged since is not \
             in it, and of its entries the last {} were not known to be acknowledged",
            about.node_id,
            about.applied_index,
            format_ms(about.wall_ms),
            about.unconfirmed
        ));
    }
}

fn shown(path: &Path, about: &BackupAbout, bytes: u64, holds: Option<Holds>) -> Shown {
    Shown {
        file: path.display().to_string(),
        cluster_id: hex(&about.cluster_id),
        node: about.node_id,
        revision: about.revision,
        applied_index: about.applied_index,
        time: format_ms(about.wall_ms),
        made: format_ms(about.made_ms),
        local: about.local,
        unconfirmed_entries: about.unconfirmed,
        bytes,
        holds,
    }
}

fn table(shown: &Shown) -> Table {
    let head = [
        "file",
        "cluster_id",
        "node",
        "revision",
        "applied_index",
        "time",
        "bytes",
    ];
    let row = [
        shown.file.clone(),
        shown.cluster_id.clone(),
        shown.node.to_string(),
        shown.revision.to_string(),
        shown.applied_index.to_string(),
        shown.time.clone(),
        shown.bytes.to_string(),
    ];
    Table::of_texts(head, vec![row])
}

fn add_holds(table: &mut Table, holds: &Holds) {
    let counts = [
        ("tenants", holds.tenants),
        ("providers", holds.providers),
        ("models", holds.models),
        ("services", holds.services),
        ("routes", holds.routes),
        ("keys", holds.keys),
        ("changes", holds.changes),
        ("usage_series", holds.usage_series),
    ];
    for (name, count) in counts {
        table.head.push(name.to_owned());
        for row in &mut table.rows {
            row.push(count.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_file_that_is_not_finished_leaves_nothing_and_what_was_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b.backup");
        std::fs::write(&path, "the one before").unwrap();
        let mut partial = Partial::create(&path).unwrap();
        partial.file.write_all(b"half").unwrap();
        drop(partial);
        assert_eq!(std::fs::read(&path).unwrap(), b"the one before");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);

        let mut partial = Partial::create(&path).unwrap();
        partial.file.write_all(b"whole").unwrap();
        partial.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_backup_is_named_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes.txt");
        std::fs::write(&path, "tenants: []").unwrap();
        let error = format!("{:#}", read(&path).err().unwrap());
        assert!(
            error.contains("notes.txt") && error.contains("not a backup"),
            "{error}"
        );
    }
}
