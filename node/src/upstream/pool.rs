//! One worker's idle connections, by origin; the last one put back is taken first, so that the rest can age.
//!
//! Invariant: a connection in the pool has no request outstanding and no byte unread.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::{Instant, timeout};

use super::connect::Network;
use super::io::Io;
use super::origin::Origin;
use super::timer::LazyTimer;
use super::{UpstreamError, Waited};

/// Idle connections that one worker keeps for one origin.
const IDLE_PER_ORIGIN_MAX: usize = 256;
/// Idle connections that one worker keeps in all.
const IDLE_MAX: usize = 4_096;
/// How long a connection may be idle. Shorter than the 60 s after which common upstreams close theirs.
pub(super) const IDLE_TIME: Duration = Duration::from_secs(45);

/// A connection to an origin.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(super) io: Io,
    /// What was read and not yet understood.
    pub(super) read: BytesMut,
    pub(super) timer: LazyTimer,
    /// It has served a request before.
    pub(super) reused: bool,
}

/// The idle connections of one worker.
#[derive(Debug)]
pub(crate) struct Pool {
    network: Network,
    idle: RefCell<Idle>,
}

#[derive(Debug, Default)]
struct Idle {
    by_origin: HashMap<Arc<Origin>, Vec<(Conn, Instant)>>,
    count: usize,
}

// === impl Pool ===

impl Pool {
    pub(crate) fn new(network: Network) -> Self {
        Self {
            network,
            idle: RefCell::default(),
        }
    }

    /// An idle connection that is still good.
    pub(crate) fn take(&self, origin: &Origin) -> Option<Conn> {
        let mut idle = self.idle.borrow_mut();
        loop {
            let (mut conn, since) = idle.by_origin.get_mut(origin)?.pop()?;
            idle.count -= 1;
            if since.elapsed() < IDLE_TIME && !conn.io.is_stale() {
                conn.reused = true;
                return Some(conn);
            }
        }
    }

    /// A new connection.
    pub(crate) async fn connect(
        &self,
        origin: &Origin,
        within: Duration,
    ) -> Result<Conn, UpstreamError> {
        match timeout(within, self.network.connect(origin)).await {
            Ok(Ok(io)) => Ok(Conn {
                io,
                read: BytesMut::new(),
                timer: LazyTimer::default(),
                reused: false,
            }),
            Ok(Err(source)) => Err(UpstreamError::Connect {
                origin: Arc::clone(&origin.label),
                source,
            }),
            Err(_) => Err(UpstreamError::Timeout {
                origin: Arc::clone(&origin.label),
                waited: Waited::Connect,
            }),
        }
    }

    /// Keeps a connection for the next request, where there is room.
    pub(super) fn put(&self, origin: &Arc<Origin>, conn: Conn) {
        debug_assert!(
            conn.read.is_empty(),
            "a connection with unread bytes is not idle"
        );
        let mut idle = self.idle.borrow_mut();
        if idle.count >= IDLE_MAX {
            return;
        }
        let Idle { by_origin, count } = &mut *idle;
        let entry = match by_origin.get_mut(&**origin) {
            Some(entry) => entry,
            None => by_origin.entry(Arc::clone(origin)).or_default(),
        };
        if entry.len() < IDLE_PER_ORIGIN_MAX {
            entry.push((conn, Instant::now()));
            *count += 1;
        }
    }

    /// Closes what has been idle for too long or was closed by the other side. Called every few seconds.
    pub(crate) fn sweep(&self) {
        let Idle { by_origin, count } = &mut *self.idle.borrow_mut();
        by_origin.retain(|_, conns| {
            conns.retain_mut(|(conn, since)| since.elapsed() < IDLE_TIME && !conn.io.is_stale());
            !conns.is_empty()
        });
        *count = by_origin.values().map(Vec::len).sum();
    }

    /// How many connections are idle.
    #[cfg(test)]
    pub(crate) fn idle(&self) -> usize {
        self.idle.borrow().count
    }
}

#[cfg(test)]
mod tests {
    use mode_envoy_model::url::BaseUrl;
    use tokio::io::{DuplexStream, duplex};

    use super::super::memory;
    use super::*;

    fn origin() -> Arc<Origin> {
        Arc::new(Origin::of(&BaseUrl::parse("http://up.test:81").unwrap()).unwrap())
    }

    async fn pool_with_one(origin: &Arc<Origin>) -> (Pool, DuplexStream) {
        let (ours, theirs) = duplex(64);
        let ours = std::sync::Mutex::new(Some(ours));
        let pool = Pool::new(memory::network(move |_| {
            Ok(ours.lock().unwrap().take().unwrap())
        }));
        let conn = pool.connect(origin, Duration::from_secs(1)).await.unwrap();
        assert!(!conn.reused);
        pool.put(origin, conn);
        (pool, theirs)
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_was_put_back_is_used_again() {
        let origin = origin();
        let (pool, _theirs) = pool_with_one(&origin).await;
        assert!(pool.take(&origin).unwrap().reused);
        assert!(pool.take(&origin).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_the_other_side_closed_is_not() {
        let origin = origin();
        let (pool, theirs) = pool_with_one(&origin).await;
        drop(theirs);
        assert!(pool.take(&origin).is_none());
        assert_eq!(pool.idle(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_sweep_closes_what_has_aged() {
        let origin = origin();
        let (pool, _theirs) = pool_with_one(&origin).await;
        pool.sweep();
        assert_eq!(pool.idle(), 1);
        tokio::time::advance(IDLE_TIME).await;
        pool.sweep();
        assert_eq!(pool.idle(), 0);
    }
}
