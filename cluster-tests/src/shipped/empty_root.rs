//! A root directory that holds the static binary and an empty data directory: what an image `FROM scratch` holds.
//!
//! Programs run in it as a user who owns the data directory and nothing else, with no `/proc`, `/dev`, `/etc` or `/tmp` unless the
//! test makes them.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::netns::sandbox::tool;
use crate::program::Program;

/// The sandbox has a `/run` of its own, which vanishes with it.
const PATH: &str = "/run/empty-root";
/// The user of the container image.
const USER: u32 = 65_532;

/// Where the binary is, as it sees itself.
pub const BINARY: &str = "/mode-envoy";
/// Its data directory.
pub const DATA: &str = "/data";

/// The root; there is one in a sandbox.
#[derive(Debug)]
pub struct EmptyRoot {
    path: PathBuf,
}

// === impl EmptyRoot ===

impl EmptyRoot {
    /// Makes it around a binary.
    ///
    /// # Errors
    ///
    /// A file cannot be made.
    pub fn make(binary: &Path) -> Result<Self> {
        let path = PathBuf::from(PATH);
        let data = path.join("data");
        fs::create_dir_all(&data).with_context(|| format!("making {}", data.display()))?;
        fs::copy(binary, path.join("mode-envoy"))
            .with_context(|| format!("copying {}", binary.display()))?;
        fs::set_permissions(&data, Permissions::from_mode(0o700))?;
        chown(&data, Some(USER), Some(USER))
            .with_context(|| format!("giving {} away", data.display()))?;
        Ok(Self { path })
    }

    /// Puts a text file into it.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn file(&self, path: &str, text: &str) -> Result<()> {
        let path = self.path.join(path);
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        }
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// Makes what every container has: `/proc` and `/dev/null`.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn mount_system(&self) -> Result<()> {
        for name in ["proc", "dev"] {
            let at = self.path.join(name);
            fs::create_dir_all(&at).with_context(|| format!("making {}", at.display()))?;
        }
        let (proc, null) = (self.path.join("proc"), self.path.join("dev/null"));
        tool("mount", &["-t", "proc", "proc", &proc.to_string_lossy()])?;
        tool(
            "mknod",
            &["-m", "666", &null.to_string_lossy(), "c", "1", "3"],
        )
        .map(drop)
    }

    /// The binary in it.
    pub fn program(&self) -> Program {
        let user = format!("--userspec={USER}:{USER}");
        let root = self.path.to_string_lossy();
        // The roots of CAs that this machine prefers are a file that is not there.
        let starter = ["env", "--unset=SSL_CERT_FILE", "chroot", &user, &root];
        let starter = starter.map(str::to_owned).into();
        Program::new(BINARY, Path::new(DATA).join("config")).with_starter(starter)
    }

    /// The names of what is directly in it.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn names(&self) -> Result<Vec<String>> {
        let entries = fs::read_dir(&self.path).context("reading an empty root")?;
        let mut names = entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    }
}
