//! A member whose network, disk, clock and chance are given to it: for simulations only, never in a node.
//!
//! Everything between the admin call and the disk is the node's own code: [`crate::Handle`] with its search for the
//! leader, the proposer, the services between nodes over HTTP/2, log store, state machine, write-ahead log. What a
//! [`World`] puts in the place of the machine is what no simulation can have for real: sockets, TLS, clocks, threads.
//!
//! Invariant: with the feature `sim` nothing in this crate draws a random number, reads a clock or starts a thread
//! but through the world that the current thread has entered.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::types::NodeId;

pub(crate) mod machine;

pub use crate::cluster::simulated::{
    Found, Founding, LogLine, Member, Probe, SimDisk, found_on, start,
};

thread_local! {
    static WORLD: RefCell<Option<Arc<dyn World>>> = const { RefCell::new(None) };
}

/// What a simulated network's connection does.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// A connection between two members.
pub type Stream = Box<dyn Connection>;

/// A connection that is being made.
pub type Dialling = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

/// What members live in.
pub trait World: Send + Sync {
    /// Connects one node with another.
    fn dial(&self, from: NodeId, to: NodeId) -> Dialling;

    /// What a node's wall clock shows; Unix milliseconds.
    fn wall_ms(&self, node: NodeId) -> u64;

    /// Milliseconds since the world began: no node's clock, and never set.
    fn boot_ms(&self) -> u64;

    /// The next number of the world's generator.
    fn random(&self) -> u64;
}

/// The current thread is in a world until this is dropped.
#[derive(Debug)]
pub struct Entered(());

/// Has members on the current thread live in `world`.
pub fn enter(world: Arc<dyn World>) -> Entered {
    WORLD.with_borrow_mut(|current| *current = Some(world));
    Entered(())
}

// === impl Entered ===

impl Drop for Entered {
    fn drop(&mut self) {
        WORLD.with_borrow_mut(|current| *current = None);
    }
}

/// The world of the current thread.
///
/// # Panics
/// Outside of one: there is no machine to fall back to in a build with the feature `sim`.
#[expect(
    clippy::panic,
    reason = "a simulation that lost its world is no simulation"
)]
pub(crate) fn world() -> Arc<dyn World> {
    WORLD.with_borrow(|current| match current {
        Some(world) => Arc::clone(world),
        None => panic!("a build with the feature `sim` runs inside a simulation only"),
    })
}

/// What a node's wall clock shows in the world of the current thread; Unix milliseconds.
///
/// # Panics
/// Outside of a world.
pub fn wall_ms(node: NodeId) -> u64 {
    world().wall_ms(node)
}

/// The next number of the world of the current thread.
///
/// # Panics
/// Outside of a world.
pub fn random() -> u64 {
    world().random()
}

pub(crate) async fn dial(from: NodeId, to: NodeId) -> io::Result<Stream> {
    let dialling = world().dial(from, to);
    dialling.await
}
