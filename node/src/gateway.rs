//! The data plane: everything that clients call.
//!
//! ```text
//! accept -> head -> route -> identify -> limit -> open -> send -> relay -> close   pipeline.rs, one file per phase
//!           \________ one Table from beginning to end ________/   any error -> error.rs
//! ```
//!
//! Connections have TLS where the listener does, and speak HTTP/1.1 or HTTP/2 (`connection.rs`).
//! One single-threaded runtime for each worker, with its own listener on the shared port, its own upstream
//! connections and its own usage spool. Workers share the table (swapped whole), the resolver and the counters.
//!
//! Invariants:
//! * nothing here waits for the cluster but a call whose limit has nothing left on this node: a request is decided from memory;
//! * no call reaches an upstream before it is recorded, and each is recorded as ended once;
//! * bytes are never held for a later frame, and what one read returned leaves in one write.

mod admission;
mod ai;
mod body;
mod call;
mod client_io;
mod connection;
mod connections;
mod error;
mod head;
mod hygiene;
mod identify;
mod ids;
mod limit;
mod listener;
mod meters;
mod pipeline;
mod proxy;
mod publish;
mod route;
mod serve;
mod settings;
mod table;
mod tries;
mod upload;
mod view;
mod worker;

#[cfg(test)]
mod harness;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::LocalSet;
use tokio::time::{Instant, timeout};

use self::worker::Worker;
use crate::freshness::Freshness;
use crate::limits::Limiter;
use crate::upstream::Network;
pub use crate::upstream::NetworkError as SharedError;
use crate::usage::recorder::Recorder;

#[doc(hidden)]
pub use self::admission::Admission;
pub use self::publish::{Published, publish};
pub use self::settings::{GatewayLimits, GatewaySettings};
pub use self::table::{CompileError, Table};

/// Threads of a worker that wait for the system's resolver.
const RESOLVER_THREADS: usize = 4;
/// How much longer than the deadline of a drain a worker may take to end.
const JOIN_GRACE: Duration = Duration::from_secs(2);

/// What the workers of a node share beside the table.
#[derive(Clone, Debug)]
pub struct Shared {
    network: Network,
    freshness: Freshness,
    tls: Option<Arc<rustls::ServerConfig>>,
    limiter: Limiter,
}

/// A gateway that serves.
#[derive(Debug)]
pub struct Gateway {
    addr: SocketAddr,
    stop: watch::Sender<Option<Instant>>,
    /// How many workers have ended.
    ended: watch::Receiver<usize>,
    threads: Vec<thread::JoinHandle<()>>,
}

/// Counts a worker as ended, however it ended.
struct EndOfWorker(watch::Sender<usize>);

// === impl Shared ===

impl Shared {
    /// Reads the roots that https upstreams are checked against; `freshness` says whether keys may be taken, `limiter` how
    /// much may be used.
    ///
    /// # Errors
    ///
    /// [`SharedError`] where the file that `SSL_CERT_FILE` names cannot be used.
    pub fn new(freshness: Freshness, limiter: Limiter) -> Result<Self, SharedError> {
        Ok(Self {
            network: Network::new()?,
            freshness,
            tls: None,
            limiter,
        })
    }

    /// Serves with TLS.
    #[must_use]
    pub fn with_tls(self, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        Self { tls, ..self }
    }
}

// === impl Gateway ===

impl Gateway {
    /// Where clients connect.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Resolves when a worker has ended that nobody stopped, with what is to be said about it: the process cannot
    /// serve as it should and had better end in order.
    pub async fn failed(&self) -> String {
        let mut ended = self.ended.clone();
        match ended.wait_for(|ended| *ended > 0).await {
            Ok(ended) => format!("{} of {} gateway workers ended", *ended, self.threads.len()),
            Err(_) => "the gateway's workers are gone".to_owned(),
        }
    }

    /// Stops accepting, lets calls in flight end within `deadline`, closes idle connections, and ends the workers.
    pub async fn drain(mut self, deadline: Duration) {
        let workers = self.threads.len();
        self.stop.send_replace(Some(Instant::now() + deadline));
        let all = self.ended.wait_for(|ended| *ended == workers);
        if timeout(deadline + JOIN_GRACE, all).await.is_err() {
            tracing::error!("a gateway worker did not end in time and is left behind");
            return;
        }
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a gateway worker panicked");
            }
        }
    }
}

impl Drop for EndOfWorker {
    fn drop(&mut self) {
        self.0.send_modify(|ended| *ended += 1);
    }
}

// === free functions ===

/// Binds the listeners and starts the workers, one for each recorder.
///
/// # Errors
///
/// The address is in use or not this machine's, or the system gives no thread, event queue or random bytes.
#[expect(
    clippy::needless_pass_by_value,
    reason = "a gateway takes over what it serves with"
)]
pub fn start(
    settings: GatewaySettings,
    table: Arc<ArcSwap<Table>>,
    recorders: Vec<Recorder>,
    shared: Shared,
) -> io::Result<Gateway> {
    if recorders.len() != settings.workers || recorders.is_empty() {
        let message = "the gateway needs a usage spool for each worker, and one worker at least";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let listeners = listener::bind(settings.addr, settings.workers)?;
    let addr = listeners
        .first()
        .ok_or(io::ErrorKind::InvalidInput)?
        .local_addr()?;
    let (stop, stopped) = watch::channel(None);
    let (ended, ends) = watch::channel(0);
    let mut threads = Vec::with_capacity(settings.workers);
    for (number, (listener, recorder)) in listeners.into_iter().zip(recorders).enumerate() {
        let (table, shared) = (Arc::clone(&table), shared.clone());
        let make = move || Worker::new(settings.limits, table, shared, recorder);
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(RESOLVER_THREADS)
            .build()?;
        let (stopped, ended) = (stopped.clone(), EndOfWorker(ended.clone()));
        let thread = thread::Builder::new()
            .name(format!("gateway-{number}"))
            .spawn(move || {
                let _ended = ended;
                if let Err(error) = work(&runtime, make, listener, stopped) {
                    tracing::error!(%error, worker = number, "a gateway worker could not start");
                }
            })?;
        threads.push(thread);
    }
    Ok(Gateway {
        addr,
        stop,
        ended: ends,
        threads,
    })
}

/// One worker's life.
fn work(
    runtime: &Runtime,
    make: impl FnOnce() -> Option<Worker>,
    listener: TcpListener,
    stop: serve::Stop,
) -> io::Result<()> {
    let worker = make().ok_or_else(|| io::Error::other("the system gives no random bytes"))?;
    let tasks = LocalSet::new();
    tasks.block_on(runtime, async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        serve::run(Rc::new(worker), listener, stop).await;
        Ok(())
    })
}

/// Unix time in milliseconds.
fn wall_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
