//! TLS of the gateway and admin listeners: what they show, and how that is exchanged while they serve.
//!
//! A certificate comes from two PEM files of the operator, or, for the admin listener, from the cluster's private CA. The
//! files are read again every few seconds; whoever connects after a change sees the new certificate, connections that
//! are open keep theirs.
//!
//! Invariants:
//! * a listener always has a whole certificate with its key: files that do not fit together are told and left alone;
//! * ring alone does the cryptography, and HTTP/2 is offered before HTTP/1.1.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use metrics::{counter, gauge};
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::config::{ListenerKind, TlsFiles};
use crate::metrics as names;
use crate::supervisor::Chain;

use self::files::Loaded;
pub use self::files::TlsError;

mod files;

/// How soon a new certificate is seen.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// TLS of one listener. A cheap clone of the same.
#[derive(Clone, Debug)]
pub struct ListenerTls {
    kind: ListenerKind,
    config: Arc<ServerConfig>,
    shown: Arc<Shown>,
    files: Option<TlsFiles>,
}

/// The certificate that is shown now.
#[derive(Debug)]
struct Shown(ArcSwap<CertifiedKey>);

// === impl ListenerTls ===

impl ListenerTls {
    /// From PEM files.
    ///
    /// # Errors
    ///
    /// They cannot be read, or do not fit together.
    pub fn from_files(kind: ListenerKind, files: &TlsFiles) -> Result<Self, TlsError> {
        let loaded = files::load(files)?;
        let tls = Self::new(kind, Arc::new(loaded.key), Some(files.clone()))?;
        tell(kind, loaded.not_after);
        Ok(tls)
    }

    /// With a certificate of the cluster's private CA, which never expires.
    ///
    /// # Errors
    ///
    /// The TLS library does not take it.
    pub fn minted(
        kind: ListenerKind,
        minted: mode_envoy_raft::identity::Minted,
    ) -> Result<Self, TlsError> {
        Self::new(kind, certified(minted)?, None)
    }

    /// Whoever connects from now on sees this certificate of the cluster's private CA.
    ///
    /// # Errors
    ///
    /// The TLS library does not take it; the one before stays in use.
    pub fn renew(&self, minted: mode_envoy_raft::identity::Minted) -> Result<(), TlsError> {
        self.shown.0.store(certified(minted)?);
        Ok(())
    }

    fn new(
        kind: ListenerKind,
        key: Arc<CertifiedKey>,
        files: Option<TlsFiles>,
    ) -> Result<Self, TlsError> {
        let shown = Arc::new(Shown(ArcSwap::new(key)));
        let resolver: Arc<dyn ResolvesServerCert> = Arc::<Shown>::clone(&shown);
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Setup)?
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        Ok(Self {
            kind,
            config: Arc::new(config),
            shown,
            files,
        })
    }

    /// What connections are accepted with.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// Follows the files until cancelled. Files that cannot be used are told once, and tried again when they change, or when
    /// `asked` does: then they are looked at without delay.
    pub async fn follow(self, mut asked: watch::Receiver<u64>, cancel: CancellationToken) {
        let Some(files) = self.files.clone() else {
            return;
        };
        let mut ticks = interval(LOOK_AGAIN);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // What was read last, whether it could be used or not.
        let mut seen = None;
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = ticks.tick() => {}
                Ok(()) = asked.changed() => seen = None,
            }
            let (reading, before) = (files.clone(), seen);
            let looked = tokio::task::spawn_blocking(move || files::look(&reading, before)).await;
            let Ok((now, Some(loaded))) = looked else {
                continue;
            };
            self.exchange(loaded, seen.is_none());
            seen = Some(now);
        }
    }

    fn exchange(&self, loaded: Result<Loaded, TlsError>, first: bool) {
        let listener = self.kind.as_str();
        match loaded {
            Ok(loaded) => {
                let same = self.shown.0.load().cert == loaded.key.cert;
                self.shown.0.store(Arc::new(loaded.key));
                tell(self.kind, loaded.not_after);
                if !(first && same) {
                    tracing::info!(listener, "a new certificate is in use");
                }
            }
            Err(error) => {
                counter!(names::TLS_RELOAD_FAILURES, "listener" => listener).increment(1);
                tracing::error!(
                    listener,
                    error = Chain(&error).to_string(),
                    "the new certificate cannot be used; the one before stays in use"
                );
            }
        }
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

// === free functions ===

fn certified(minted: mode_envoy_raft::identity::Minted) -> Result<Arc<CertifiedKey>, TlsError> {
    CertifiedKey::from_der(minted.chain, minted.key, &provider())
        .map(Arc::new)
        .map_err(TlsError::Setup)
}

fn provider() -> rustls::crypto::CryptoProvider {
    rustls::crypto::ring::default_provider()
}

/// Tells when a certificate ends, and warns of one that has.
fn tell(kind: ListenerKind, not_after: u64) {
    let listener = kind.as_str();
    gauge!(names::TLS_NOT_AFTER, "listener" => listener).set(names::number(not_after));
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    if now.as_secs() >= not_after {
        tracing::error!(
            listener,
            "the certificate has expired: clients that check it will not connect"
        );
    }
}

#[cfg(test)]
#[path = "tls/tls_test.rs"]
mod tests;
