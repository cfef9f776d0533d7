//! What is delivered, and the places where it is tried: a root with nothing in it, a container engine, a machine with systemd.
//!
//! Invariants: what runs there is the static release binary and the files of `deploy/` as they stand; everything is inside of a
//! [sandbox](crate::netns::sandbox), on file systems in memory, so that neither the images nor the services of the machine are touched.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::netns::sandbox::tool;

pub mod empty_root;
pub mod engine;
pub mod machine;

/// Where control groups are mounted.
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

/// The tree's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A file or folder of `deploy/`.
pub fn deploy(path: &str) -> PathBuf {
    root().join("deploy").join(path)
}

/// What `deploy/build-static.sh` has built.
///
/// # Errors
///
/// It has built nothing yet.
pub fn static_binary() -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR");
    let target = root().join(target.unwrap_or_else(|| "target".into()));
    let path = target.join("static/mode-envoy");
    ensure!(
        path.is_file(),
        "{} is not there: run deploy/build-static.sh first, as `just external` does",
        path.display()
    );
    path.canonicalize()
        .with_context(|| format!("resolving {}", path.display()))
}

/// One hierarchy of control groups, as every current system has it, also where the machine's own are of the older kind.
///
/// # Errors
///
/// It cannot be mounted.
fn unify_control_groups() -> Result<()> {
    let at = CONTROL_GROUPS;
    if !Path::new(at).join("cgroup.controllers").exists() {
        tool("umount", &["-R", at])?;
        tool("mount", &["-t", "cgroup2", "cgroup2", at])?;
    }
    Ok(())
}
