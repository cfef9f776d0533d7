//! `cluster restore`: a backup as the data directory of a new cluster of one, made offline.
//!
//! It needs the secret that the cluster had when the backup was made: with it the encryption key is wrapped anew for the new
//! cluster's id, and the root token that nodes derive from secret and id takes the old one's place.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use clap::Args;
use mode_envoy_model::adopt::NewCluster;
use mode_envoy_model::catalog::{Catalog, Founded};
use mode_envoy_model::provider::Resealed;
use mode_envoy_raft::ClusterSecret;
use mode_envoy_raft::backup::{Backup, RestoredBy};
use mode_envoy_raft::secret::default_secret_path;
use serde::Serialize;

use super::super::Ended;
use super::super::output::{Format, Table, answer, note};
use super::backup;
use crate::control::now_ms;
use crate::secrets::{Keyring, KeyringError, hash_admin_token, hex, new_cluster_id};

/// Make the data directory of a new cluster from a backup.
#[derive(Args, Clone, Debug)]
pub(in super::super) struct RestoreArgs {
    /// The backup; `-` is standard input
    file: PathBuf,
    /// The data directory to make: an empty folder, or one that is not there yet
    #[arg(long, env = "MODE_ENVOY_DATA_DIR", value_name = "DIR")]
    data_dir: PathBuf,
    /// The secret that the cluster had when the backup was made [default: the user's own]
    #[arg(long, env = "MODE_ENVOY_CLUSTER_SECRET_FILE", value_name = "FILE")]
    cluster_secret_file: Option<PathBuf>,
    /// Id of the new cluster's first node: one that the old cluster never used [default: the next one]
    #[arg(long, value_name = "ID")]
    node_id: Option<u64>,
}

#[derive(Serialize)]
struct Shown {
    cluster_id: String,
    node_id: u64,
    revision: u64,
    applied_index: u64,
    restored_from: String,
    data_dir: String,
}

pub(super) fn run(args: &RestoreArgs, format: Format) -> anyhow::Result<Ended> {
    let secret_file = secret_file(args)?;
    let secret = ClusterSecret::load(&secret_file)?;
    let (backup, _) = backup::read(&args.file)?;
    let node = args.node_id.unwrap_or_else(|| backup.next_node_id());
    let new = new_cluster(&backup, &secret, node).map_err(|error| match error {
        KeyringError::WrongClusterSecret => anyhow!(
            "the cluster secret in {} is not the one that cluster {} had when the backup {} was made; give that one by \
             --cluster-secret-file",
            secret_file.display(),
            hex(&backup.about().cluster_id),
            args.file.display()
        ),
        other => other.into(),
    })?;
    let about = *backup.about();
    let by = RestoredBy {
        name: &whoever_runs_this(),
        now_ms: now_ms(),
    };
    let restored = backup.restore(&args.data_dir, &new, by);
    let has_root = restored.with_context(|| format!("restoring {}", args.file.display()))?;
    let shown = Shown {
        cluster_id: hex(&new.founded.cluster_id),
        node_id: node,
        // The restore itself is a change, the first of the new cluster.
        revision: about.revision.saturating_add(1),
        applied_index: about.applied_index,
        restored_from: hex(&about.cluster_id),
        data_dir: args.data_dir.display().to_string(),
    };
    answer(format, &table(&shown), &shown);
    say_what_is_next(&args.data_dir, &secret_file, has_root);
    Ok(Ended::Done)
}

/// The secret is never made here: a new one could open nothing.
fn secret_file(args: &RestoreArgs) -> anyhow::Result<PathBuf> {
    if let Some(named) = &args.cluster_secret_file {
        return Ok(named.clone());
    }
    let own = default_secret_path().filter(|path| path.exists());
    own.context(
        "no cluster secret: name the file of the one that the cluster had when the backup was made, by --cluster-secret-file",
    )
}

fn new_cluster(
    backup: &Backup,
    secret: &ClusterSecret,
    node: u64,
) -> Result<NewCluster, KeyringError> {
    let old_id = backup.about().cluster_id;
    let cluster_id = new_cluster_id()?;
    let founded = backup.state().catalog.founded();
    let wrapped = founded.map(|founded| &*founded.wrapped_key);
    let wrapped = wrapped.unwrap_or_default();
    let wrapped = Keyring::rewrap((secret, &old_id), wrapped, (secret, &cluster_id))?;
    let derived = |id: &[u8; 16]| hash_admin_token(&secret.root_token(id));
    Ok(NewCluster {
        founded: Founded {
            cluster_id,
            wrapped_key: wrapped.into(),
            generation: backup.state().catalog.generation(),
        },
        node,
        former: backup.members(),
        old_root: derived(&old_id),
        new_root: derived(&cluster_id),
        resealed: resealed(&backup.state().catalog, secret, &old_id)?,
    })
}

/// What a backup that was made while the secret was being replaced has sealed under the encryption key before.
fn resealed(
    catalog: &Catalog,
    secret: &ClusterSecret,
    cluster_id: &[u8; 16],
) -> Result<Vec<Resealed>, KeyringError> {
    let rotation = catalog.rotation().filter(|rotation| rotation.switched);
    let (Some(rotation), Some(founded)) = (rotation, catalog.founded()) else {
        return Ok(Vec::new());
    };
    if !catalog.has_stale_secrets() {
        return Ok(Vec::new());
    }
    let generation = founded.generation;
    let open =
        |wrapped: &[u8], generation| Keyring::unwrap(secret, cluster_id, (wrapped, generation));
    let previous = open(&rotation.old_wrapped_key, generation.saturating_sub(1))?;
    let keyring = open(&founded.wrapped_key, generation)?.with_previous(previous);
    let stale = catalog.stale_providers();
    stale.map(|provider| keyring.reseal(provider)).collect()
}

/// Nothing proves it: the restore is made without the cluster, by whoever has the backup and the secret.
fn whoever_runs_this() -> String {
    let named = |name| std::env::var(name).ok().filter(|user| !user.is_empty());
    let user = named("LOGNAME").or_else(|| named("USER"));
    let user = user.unwrap_or_else(|| format!("uid-{}", rustix::process::getuid().as_raw()));
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match host.trim() {
        "" => format!("{user}@unknown"),
        host => format!("{user}@{host}"),
    }
}

fn say_what_is_next(data_dir: &Path, secret_file: &Path, has_root: bool) {
    note(&format!(
        "{} is the first node of a new cluster. Start it: mode-envoy serve --data-dir {} --cluster-secret-file {}, with the \
         addresses of its listeners and without --node-id; let others join it by `mode-envoy cluster add-node`",
        data_dir.display(),
        data_dir.display(),
        secret_file.display()
    ));
    if !has_root {
        note(
            "the root token that nodes derive from the secret had been revoked and stays so: use an admin token that the cluster \
             had, not DIR/admin.token",
        );
    }
}

fn table(shown: &Shown) -> Table {
    let head = [
        "cluster_id",
        "node_id",
        "revision",
        "applied_index",
        "restored_from",
        "data_dir",
    ];
    let row = [
        shown.cluster_id.clone(),
        shown.node_id.to_string(),
        shown.revision.to_string(),
        shown.applied_index.to_string(),
        shown.restored_from.clone(),
        shown.data_dir.clone(),
    ];
    Table::of_texts(head, vec![row])
}
