//! TLS of the listeners, from what the settings say: files of the operator, or a certificate of the cluster's private CA.
//!
//! The CA's certificate is left in the data directory for whoever shall trust it; it is no secret.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tokio::sync::watch;

use mode_envoy_raft::ClusterSecret;
use mode_envoy_raft::identity::Minted;

use super::listeners::Bound;
use super::{App, AppError};
use crate::config::{Listener, Protection};
use crate::supervisor::{Chain, TaskKind};
use crate::tls::ListenerTls;

/// The CA of the admin listener's certificate, in the data directory.
const CA_FILE: &str = "admin-ca.pem";

/// The admin listener's certificate, where that is the cluster's own: it follows the cluster's secret.
#[derive(Clone)]
pub(super) struct AdminCertificate {
    tls: ListenerTls,
    names: Vec<String>,
    dir: PathBuf,
}

/// TLS of one listener, if it has any. Where its certificate would have to be made and the secret is not known yet, it is one
/// that nobody trusts, so that probes are answered: see [`joined`].
pub(super) fn of(
    listener: &Listener,
    bound: &Bound,
    secret: Option<&ClusterSecret>,
) -> Result<Option<ListenerTls>, AppError> {
    match (&listener.protection, secret) {
        (Protection::None, _) => Ok(None),
        (Protection::Files(files), _) => Ok(Some(ListenerTls::from_files(listener.kind, files)?)),
        (Protection::Minted, secret) => {
            let names = names(bound);
            let minted = match secret {
                Some(secret) => Minted::server(secret, &names),
                None => Minted::provisional(&names),
            };
            let minted = minted.map_err(AppError::Minting)?;
            Ok(Some(ListenerTls::minted(listener.kind, minted)?))
        }
    }
}

/// This node knows the secret now: what the admin listener shows follows from it.
pub(super) fn joined(app: &App, secret: &ClusterSecret) {
    if let Some(certificate) = AdminCertificate::of(app) {
        certificate.renew(secret);
    }
}

/// Has the files followed, and looked at when `hangups` says so.
pub(super) fn follow(app: &App, hangups: &watch::Receiver<u64>) {
    for tls in [app.admin_tls.as_ref(), app.gateway_tls.as_ref()]
        .into_iter()
        .flatten()
    {
        let (tls, hangups) = (tls.clone(), hangups.clone());
        let following = tls.follow(hangups, app.supervisor.stopping());
        app.supervisor
            .spawn("certificates", TaskKind::BestEffort, async move {
                following.await;
                Ok(())
            });
    }
}

// === impl AdminCertificate ===

impl AdminCertificate {
    /// Nothing where the operator's files, or nothing, protect the listener.
    pub(super) fn of(app: &App) -> Option<Self> {
        if app.settings.admin.protection != Protection::Minted {
            return None;
        }
        Some(Self {
            tls: app.admin_tls.clone()?,
            names: names(&app.bound),
            dir: app.settings.data_dir.clone(),
        })
    }

    /// Shows a certificate that follows from `secret`, and leaves its CA's in the data directory; where that is.
    pub(super) fn renew(&self, secret: &ClusterSecret) -> Option<PathBuf> {
        let minted = Minted::server(secret, &self.names).map_err(AppError::Minting);
        let renewed = minted.and_then(|mut minted| {
            let ca = std::mem::take(&mut minted.ca_pem);
            self.tls.renew(minted)?;
            Ok(ca)
        });
        match renewed {
            Ok(ca) => write_ca(&self.dir, &ca),
            Err(error) => {
                let error = Chain(&error).to_string();
                tracing::error!(
                    error,
                    "the admin listener keeps the certificate that it has"
                );
                None
            }
        }
    }
}

// === free functions ===

fn write_ca(dir: &Path, pem: &str) -> Option<PathBuf> {
    let path = dir.join(CA_FILE);
    match replace(&path, pem) {
        Ok(()) => Some(path.canonicalize().unwrap_or(path)),
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "the CA of the admin listener could not be written");
            None
        }
    }
}

fn replace(path: &Path, pem: &str) -> io::Result<()> {
    let beside = path.with_extension("pem.new");
    fs::write(&beside, pem)?;
    fs::rename(beside, path)
}

/// By what the admin listener is called: what others are told, where it is bound, and this machine's own names.
fn names(bound: &Bound) -> Vec<String> {
    let advertised = &bound.advertise.admin;
    let host = advertised
        .rsplit_once(':')
        .map_or(advertised.as_str(), |(host, _)| host);
    let mut names = vec![host.trim_matches(['[', ']']).to_owned()];
    if !bound.admin.ip().is_unspecified() {
        names.push(bound.admin.ip().to_string());
    }
    names.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
    names.sort();
    names.dedup();
    names
}
