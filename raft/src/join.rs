//! How a node joins a cluster that exists: it shows a token, gets an id and the secret, and starts as any member then.
//!
//! ```text
//! add-node: token = what pins the cluster's CA, cluster id, 32 random bytes; the log keeps a hash of these
//! joiner:   draw a number, store it -- TLS under the pinned CA --> any member: Join(token, number)
//! member:   propose Join to the leader -- committed: the token is used up, the id is taken --> id, secret, members
//! joiner:   store secret, then id and cluster --> start --> the leader adds it as a learner, a voter later (members.rs)
//! ```
//!
//! Invariants:
//! * The secret is sent only after the event that uses up the token is committed, and only to whoever showed that token.
//! * The token is shown only to a peer whose certificate comes from the CA that the token pins and names the token's cluster.
//! * The same number with the same token gets the same id, as long as the token is valid: an answer may be lost, an id is not.

mod client;
mod error;
mod service;
mod token;

pub use client::{JoinSettings, join};
pub use error::JoinError;
pub(crate) use service::JoinService;
pub(crate) use token::{CaKey, JoinTokenText, Pin, token_hash};

/// A question or its answer: a few hundred bytes, and an address for each member.
const JOIN_BYTES_MAX: usize = 64 << 10;
