//! What one worker owns: a view of the table, idle upstream connections, a spool, ids. Nothing here is shared with
//! another thread but through the table's pointer and the network's caches.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};
use tokio_rustls::TlsAcceptor;

use super::Shared;
use super::connections::Connections;
use super::ids::Ids;
use super::meters::Meters;
use super::settings::GatewayLimits;
use super::table::{Endpoint, Table};
use super::view::View;
use crate::freshness::Freshness;
use crate::limits::Limiter;
use crate::upstream::{Conn, Pool, Timeouts, UpstreamError};
use crate::usage::recorder::Recorder;

/// One worker of the data plane.
pub(crate) struct Worker {
    pub(crate) limits: GatewayLimits,
    pub(crate) pool: Rc<Pool>,
    pub(crate) recorder: Recorder,
    pub(crate) ids: Ids,
    pub(crate) meters: Meters,
    pub(crate) connections: Rc<Connections>,
    pub(crate) freshness: Freshness,
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) limiter: Limiter,
    current: RefCell<Current>,
}

#[derive(Debug)]
struct Current {
    cache: Cache<Arc<ArcSwap<Table>>, Arc<Table>>,
    view: Rc<View>,
}

// === impl Worker ===

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").finish_non_exhaustive()
    }
}

impl Worker {
    /// `None` if the operating system gives no random bytes.
    pub(crate) fn new(
        limits: GatewayLimits,
        table: Arc<ArcSwap<Table>>,
        shared: Shared,
        recorder: Recorder,
    ) -> Option<Self> {
        let mut cache = Cache::new(table);
        let limiter = shared.limiter;
        let view = Rc::new(View::new(Arc::clone(cache.load()), limiter.clone()));
        Some(Self {
            limits,
            pool: Rc::new(Pool::new(shared.network)),
            recorder,
            ids: Ids::new()?,
            current: RefCell::new(Current { cache, view }),
            meters: Meters::new(),
            connections: Rc::default(),
            freshness: shared.freshness,
            tls: shared.tls.map(TlsAcceptor::from),
            limiter,
        })
    }

    /// The table in force, as this worker uses it. A request takes it once.
    pub(crate) fn view(&self) -> Rc<View> {
        let current = &mut *self.current.borrow_mut();
        let table = current.cache.load();
        if !Arc::ptr_eq(table, current.view.table()) {
            current.view = Rc::new(View::new(Arc::clone(table), self.limiter.clone()));
        }
        Rc::clone(&current.view)
    }

    /// What is done every few seconds: stale connections are closed, usage that was only added up is
    /// written, and a table that nobody uses is let go.
    pub(crate) fn tidy(&self) {
        self.pool.sweep();
        self.recorder.settle();
        drop(self.view());
    }
}

/// A new connection to `endpoint`; a failure counts as an attempt of its own.
pub(crate) async fn connect(
    worker: &Worker,
    endpoint: &Endpoint,
    timeouts: Timeouts,
) -> Result<Conn, UpstreamError> {
    let connected = worker
        .pool
        .connect(&endpoint.origin, timeouts.connect)
        .await;
    if connected.is_err() {
        worker.meters.attempt(&connected);
    }
    connected
}
