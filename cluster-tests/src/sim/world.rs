//! What the simulated members live in: one generator, links that break, clocks that are wrong, and the trace.
//!
//! Invariant: every choice of a run comes from the one generator here or from turmoil's, both seeded alike, and is
//! made on the one thread of the run; so a seed is a run.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::future::Future;
use std::hash::{DefaultHasher, Hasher as _};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use mode_envoy_raft::sim::{self, Dialling};
use mode_envoy_storage::testing::SplitMix64;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use turmoil::net::TcpStream;

/// Where members listen.
pub(crate) const PORT: u16 = 9_000;

/// When a simulation begins, by a clock that is right.
const EPOCH_MS: u64 = 1_800_000_000_000;

/// What all members of one run live in. Clones share it.
#[derive(Clone)]
pub(crate) struct World {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    rng: SplitMix64,
    now: Duration,
    skew_ms: BTreeMap<u64, i64>,
    /// Counts what broke the connections of a pair of nodes.
    broken: BTreeMap<(u64, u64), u64>,
    trace: DefaultHasher,
    /// Whether the trace is printed; at once, since a run may abort.
    aloud: bool,
    sequence: u64,
}

/// A connection that is reset once its link has lost anything: TCP itself would stall, since nothing is sent twice.
struct Link {
    stream: TcpStream,
    world: World,
    pair: (u64, u64),
    broken: u64,
}

// === impl World ===

impl World {
    pub(crate) fn new(seed: u64, aloud: bool) -> Self {
        let inner = Inner {
            rng: SplitMix64::new(seed ^ 0x5eed_0fa1),
            now: Duration::ZERO,
            skew_ms: BTreeMap::new(),
            broken: BTreeMap::new(),
            trace: DefaultHasher::new(),
            aloud,
            sequence: 0,
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number below `bound`.
    pub(crate) fn below(&self, bound: u64) -> u64 {
        self.lock().rng.next_u64() % bound.max(1)
    }

    /// Whether something of so many percent happens.
    pub(crate) fn chance(&self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of many.
    pub(crate) fn pick<T: Copy>(&self, among: &[T]) -> Option<T> {
        let at = usize::try_from(self.below(among.len() as u64)).unwrap_or(0);
        among.get(at).copied()
    }

    /// A time below `bound`.
    pub(crate) fn time_below(&self, bound: Duration) -> Duration {
        Duration::from_micros(self.below(u64::try_from(bound.as_micros()).unwrap_or(u64::MAX)))
    }

    /// The next number of one count of everything that clients saw.
    pub(crate) fn next_moment(&self) -> u64 {
        let mut inner = self.lock();
        inner.sequence += 1;
        inner.sequence
    }

    pub(crate) fn set_now(&self, now: Duration) {
        self.lock().now = now;
    }

    pub(crate) fn now(&self) -> Duration {
        self.lock().now
    }

    pub(crate) fn set_skew(&self, node: u64, ms: i64) {
        self.lock().skew_ms.insert(node, ms);
    }

    /// Resets the connections between two nodes.
    pub(crate) fn break_link(&self, a: u64, b: u64) {
        *self.lock().broken.entry(pair(a, b)).or_default() += 1;
    }

    fn broken(&self, pair: (u64, u64)) -> u64 {
        self.lock().broken.get(&pair).copied().unwrap_or(0)
    }

    /// Writes a line into the trace.
    #[expect(clippy::print_stdout, reason = "a trace is what one runs a seed for")]
    pub(crate) fn note(&self, what: &str) {
        let mut inner = self.lock();
        let mut line = String::new();
        // Writing into a string cannot fail.
        let _ = write!(line, "{:>7} ms  {what}", inner.now.as_millis());
        inner.trace.write(line.as_bytes());
        if inner.aloud {
            println!("{line}");
        }
    }

    /// A number for the whole trace so far.
    pub(crate) fn trace_hash(&self) -> u64 {
        self.lock().trace.finish()
    }
}

impl sim::World for World {
    fn dial(&self, from: u64, to: u64) -> Dialling {
        let (world, pair) = (self.clone(), pair(from, to));
        Box::pin(async move {
            let broken = world.broken(pair);
            let mut stream = TcpStream::connect((host_name(to), PORT)).await?;
            stream.write_u64(from).await?;
            let link = Link {
                stream,
                world,
                pair,
                broken,
            };
            Ok(Box::new(link) as sim::Stream)
        })
    }

    fn wall_ms(&self, node: u64) -> u64 {
        let inner = self.lock();
        let right = EPOCH_MS + u64::try_from(inner.now.as_millis()).unwrap_or(0);
        right.saturating_add_signed(inner.skew_ms.get(&node).copied().unwrap_or(0))
    }

    fn boot_ms(&self) -> u64 {
        u64::try_from(self.now().as_millis()).unwrap_or(u64::MAX)
    }

    fn random(&self) -> u64 {
        self.lock().rng.next_u64()
    }
}

// === impl Link ===

impl Link {
    fn check(&self) -> io::Result<()> {
        if self.world.broken(self.pair) == self.broken {
            return Ok(());
        }
        Err(io::ErrorKind::ConnectionReset.into())
    }
}

impl AsyncRead for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Link {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The name of a node's host.
pub(crate) fn host_name(node: u64) -> String {
    format!("n{node}")
}

/// Where a node says that it is reached.
pub(crate) fn address(node: u64) -> String {
    format!("{}:{PORT}", host_name(node))
}

/// Lets virtual time pass.
pub(crate) async fn pass(time: Duration) {
    // Nothing here waits for real: the runtime's clock is turmoil's.
    let _ = tokio::time::timeout(time, std::future::pending::<()>()).await;
}

/// Runs a task of the current host. It ends with the host.
#[expect(
    clippy::disallowed_methods,
    reason = "the simulated host owns every task on its runtime and drops them when it crashes"
)]
pub(crate) fn spawn(future: impl Future<Output = ()> + Send + 'static) {
    drop(tokio::spawn(future));
}

fn pair(a: u64, b: u64) -> (u64, u64) {
    (a.min(b), a.max(b))
}
