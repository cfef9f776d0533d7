//! What lets the operator of this machine in: `DIR/admin.token`, and the entry of the user's context file.
//!
//! The token is derived from the secret, so it is the same on every node and is written again at each start, and when the secret is replaced. A
//! context that cannot be written costs convenience only; a token file that cannot be written is an error in the
//! log, since the cluster serves all the same.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use mode_envoy_raft::{Handle, HeldSecrets};

use super::App;
use super::own::Own;
use super::protection::AdminCertificate;
use crate::context;
use crate::supervisor::{Chain, TaskKind};

const TOKEN_FILE: &str = "admin.token";
const OWNER_ONLY: u32 = 0o600;

pub(super) fn write(app: &App, own: &Own, handle: &Handle) {
    let token_file = app.settings.data_dir.join(TOKEN_FILE);
    let (secrets, cluster_id) = (own.secrets.clone(), handle.cluster_id());
    let mut steps = secrets.watch();
    let written = write_token(&token_file, &secrets, &cluster_id);
    // Once more than at the start: the secret may have been replaced since.
    let (certificate, current) = (AdminCertificate::of(app), secrets.current());
    let ca = certificate
        .as_ref()
        .and_then(|certificate| certificate.renew(&current));
    let mut shown = current.check(&cluster_id);
    let (stopping, path) = (app.supervisor.stopping(), token_file.clone());
    app.supervisor
        .spawn("admin token", TaskKind::BestEffort, async move {
            loop {
                tokio::select! {
                    () = stopping.cancelled() => return Ok(()),
                    step = steps.changed() => step?,
                }
                write_token(&path, &secrets, &cluster_id);
                let current = secrets.current();
                let check = current.check(&cluster_id);
                if let Some(certificate) = certificate.as_ref().filter(|_| check != shown) {
                    certificate.renew(&current);
                }
                shown = check;
            }
        });
    if !written {
        return;
    }
    let token_file = token_file.canonicalize().unwrap_or(token_file);
    let url = app.bound.admin_url();
    let entry = context::Entry { token_file, ca };
    if let Err(error) = context::record(&url, &entry) {
        let error = Chain(&error).to_string();
        tracing::warn!(
            error,
            "the context file could not be written; give the CLI --token or MODE_ENVOY_TOKEN_FILE"
        );
    }
}

fn write_token(path: &Path, secrets: &HeldSecrets, cluster_id: &[u8; 16]) -> bool {
    let written = replace(path, &secrets.current().root_token(cluster_id));
    if let Err(error) = &written {
        tracing::error!(path = %path.display(), %error, "the admin token could not be written");
    }
    written.is_ok()
}

/// Written beside and renamed, so that a reader sees a whole token, and nobody else's eyes see it on the way.
fn replace(path: &Path, token: &str) -> io::Result<()> {
    let beside = path.with_extension("token.new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(OWNER_ONLY)
        .open(&beside)?;
    writeln!(file, "{token}")?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_token_file_is_replaced_and_only_its_owner_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(TOKEN_FILE);
        replace(&path, "met-1").unwrap();
        replace(&path, "met-2").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "met-2\n");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            OWNER_ONLY
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
