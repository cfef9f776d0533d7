//! Mode Envoy nodes as real processes, and what the tests around them need: a way to wait, a paced load, an HTTP client,
//! and upstreams that check what reaches them.
//!
//! Nothing here knows the product's insides: nodes are started with `serve`, asked with the command line, and called over
//! HTTP, as a user would. Invariants: every test cluster has directories, addresses and a secret of its own, so that tests
//! may run side by side; timers live in [`wait`] and [`load`] only; a test ends with [`cluster::Cluster::finish`], and one
//! that does not shows the logs of its nodes.

pub mod calls;
pub mod cluster;
pub mod dashboard;
pub mod http;
pub mod load;
pub mod members;
pub mod netns;
pub mod one_byte;
pub mod origin;
pub mod program;
pub mod run_book;
pub mod server;
pub mod shipped;
#[cfg(feature = "sim")]
pub mod sim;
pub mod soak;
pub mod upstream;
pub mod usage;
pub mod wait;
