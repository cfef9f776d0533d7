//! SIGTERM and SIGINT: both mean to end in order. SIGHUP: look at the certificates now.
//!
//! Invariant: from the first moment on none of them kills the process, SIGHUP least of all: it is what a terminal sends that
//! is closed, and what many a script sends to have files read again.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::App;
use crate::supervisor::TaskKind;

/// The signals that end this process.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

/// SIGHUP.
pub(super) struct Hangup(Signal);

// === impl Signals ===

impl Signals {
    /// From now on the signals no longer kill the process.
    pub(super) fn listen() -> io::Result<(Self, Hangup)> {
        let signals = Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        };
        Ok((signals, Hangup(signal(SignalKind::hangup())?)))
    }

    /// The name of the next one.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Changes with each SIGHUP.
pub(super) fn follow_hangups(app: &App, mut hangup: Hangup) -> watch::Receiver<u64> {
    let (sender, receiver) = watch::channel(0);
    let stopping = app.supervisor.stopping();
    app.supervisor
        .spawn("hangups", TaskKind::BestEffort, async move {
            loop {
                tokio::select! {
                    () = stopping.cancelled() => return Ok(()),
                    _ = hangup.0.recv() => {}
                }
                tracing::info!(
                    "SIGHUP: the certificate files of the listeners are looked at now; nothing else is read again"
                );
                sender.send_modify(|times| *times += 1);
            }
        });
    receiver
}
